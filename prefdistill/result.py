"""What a run came to, gathered into `result.json` for programs and `report.html` for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from prefdistill import __version__
from prefdistill.assembly import Workshop
from prefdistill.browsing import rows_of_run
from prefdistill.costs.questions import asked_by, is_paid, price_for
from prefdistill.errors import PrefdistillError, RunError
from prefdistill.evaluation import Measured, mean_score
from prefdistill.finished import read_finished
from prefdistill.metrics.further import measure, reference_rows
from prefdistill.metrics.rates import GapRecovered
from prefdistill.recipe import Recipe
from prefdistill.records import Comparison, EvaluationResult, Policy, RoundResult, Usage
from prefdistill.run import Fingerprints, RunDirectory, as_json, disk_errors, read_json, write_json, write_text
from prefdistill.stages.evaluate import performance_gap
from prefdistill.stages.report import ReportData, pick_examples, render_report, render_result
from prefdistill.stages.report.tables import Table, table_csv


@dataclass
class Outcome:
    """What a run came to: everything the report is made from."""

    shop: Workshop
    rounds: list[RoundResult] = field(default_factory=list)
    """Round 0, the base, first."""
    policies: dict[int, Policy] = field(default_factory=dict)
    """By round."""
    best_round: int = 0
    test: tuple[EvaluationResult, ...] = ()
    test_comparisons: dict[str, list[Comparison]] = field(default_factory=dict)
    """By baseline."""
    test_measured: dict[str, Measured] = field(default_factory=dict)
    """By policy, base and teacher."""
    warnings: list[str] = field(default_factory=list)
    stopped: str = ""
    """Why it ended before its last round; empty if it did not."""
    result: dict[str, Any] = field(default_factory=dict)
    """What result.json holds, once it is written."""

    @property
    def policy(self) -> Policy:
        """The kept policy."""
        return self.policies[self.best_round]


def write_result(outcome: Outcome, texts: bool) -> list[str]:
    """Write result.json and report.html into the run folder; return what was removed, as it told of another result."""
    run, report = outcome.shop.run, report_data(outcome)
    outcome.result = render_result(report)
    removed = _remove_outdated(run, as_json(outcome.result))
    write_json(run.result, outcome.result)
    data = TypeAdapter(ReportData).dump_python(report, mode="json", by_alias=True)
    write_json(run.report_data, {"texts": texts, "report": data})
    write_text(run.report, render_run(run, report, texts))
    return removed


def _remove_outdated(run: RunDirectory, result: str) -> list[str]:
    """Remove what a refresh said of the run's result where that is another now; return a note on it."""
    there = [path for path in run.refresh_files if path.exists()]
    if not there or (run.result.exists() and run.result.read_bytes() == result.encode()):
        return []
    for path in there:
        with disk_errors(path):
            path.unlink()
    names = ", ".join(path.name for path in there)
    return [f"{names}: removed, of an earlier result of this run; `prefdistill refresh` writes them of this one"]


def render_again(run: RunDirectory, note: str | None = None) -> bool:
    """Render report.html again from what it was made from, with a further note; False where there is none yet.

    The tables of `agreement.json` are taken as they are now.
    """
    if not run.report_data.exists():
        return False
    report, texts = stored_report(run)
    report = replace(report, warnings=tuple(dict.fromkeys((*report.warnings, *([note] if note else [])))))
    write_text(run.report, render_run(run, report, texts))
    return True


def stored_report(run: RunDirectory) -> tuple[ReportData, bool]:
    """Return what report.html was made from, with the agreement as it is now, and whether it shows texts.

    Raises:
        RunError: report.json cannot be read as it stands.
    """
    stored = read_json(run.report_data)
    try:
        report = TypeAdapter(ReportData).validate_python(stored["report"])
        texts = bool(stored["texts"])
    except (ValidationError, KeyError, TypeError) as problem:
        raise RunError(
            f"{run.report_data}: not what this prefdistill wrote ({str(problem).splitlines()[0]}); run the recipe again: "
            "it goes on from what is there and writes the report anew"
        ) from None
    return replace(report, agreement=load_agreement(run.path)), texts


def write_tables(tables: Iterable[Table], folder: Path) -> list[Path]:
    """Write each table as NAME.csv into a folder of tables, and remove tables of an earlier writing."""
    paths = []
    for table in tables:
        paths.append(folder / f"{table.name}.csv")
        write_text(paths[-1], table_csv(table))
    for path in set(folder.glob("*.csv")) - set(paths):
        with disk_errors(path):
            path.unlink()
    return paths


def render_run(run: RunDirectory, report: ReportData, texts: bool) -> str:
    """Render the page with its browser, whose rows are read from the run folder now and stored nowhere else."""
    try:
        rows = rows_of_run(read_finished(run.path))
    except PrefdistillError as problem:
        note = f"the drafts cannot be browsed in this report: {problem}"
        return render_report(replace(report, warnings=(*report.warnings, note)), texts=texts)
    return render_report(report, texts=texts, browser=rows)


def report_data(outcome: Outcome) -> ReportData:
    """Gather the records of a finished run."""
    shop, recipe = outcome.shop, outcome.shop.recipe
    manifest = read_json(shop.run.manifest)
    measured = outcome.test_measured
    judge: Any = recipe.judge
    evaluation_judge: Any = recipe.held_out_judge or recipe.judge
    rubrics = recipe.rubrics
    names = {"": "rubric.yaml"} if rubrics.column is None else {kind: f"rubric-{kind}.yaml" for kind in rubrics.rubrics}
    return ReportData(
        name=recipe.name,
        version=__version__,
        mode=recipe.loop.mode,
        seed=recipe.seed,
        student=f"{recipe.student.model} ({recipe.student.quantization})",
        teacher=_teacher_name(recipe.teacher),
        judge=judge._use,
        evaluation_judge=evaluation_judge._use,
        self_judged=recipe.held_out_judge is None,
        prompts=manifest["prompts"],
        rounds=tuple(outcome.rounds),
        best_round=outcome.best_round,
        policy=outcome.policy,
        recipe=shop.run.recipe.read_text(encoding="utf-8"),
        rubrics={name: (shop.run.path / name).read_text(encoding="utf-8") for name in names.values()},
        kinds=rubrics.kinds,
        test=outcome.test,
        test_gold={name: mean for name, each in measured.items() if (mean := mean_score(each.gold)) is not None},
        test_metrics=further_metrics(outcome),
        test_usage=sum((each.usage for each in {id(each): each for each in measured.values()}.values()), Usage()),
        charged=Usage() if shop.context.requests is None else shop.context.requests.ledger.charged,
        unpriced=unpriced_judges(recipe),
        unpriced_writers=unpriced_writers(recipe),
        agreement=load_agreement(shop.run.path),
        pgr=gap(outcome),
        best_of=recipe.evaluate.best_of,
        manifest=manifest_facts(manifest),
        seconds=_seconds(outcome),
        warnings=(*shop.notes, *outcome.warnings, *_request_notes(shop)),
        stopped=outcome.stopped,
        examples=examples(outcome),
    )


def unpriced_judges(recipe: Recipe) -> tuple[str, ...]:
    """Return the models that the recipe's judges ask and that have no price."""
    of_tasks = (task.judge for task in recipe.evaluate.also)
    judges = (recipe.judge, recipe.held_out_judge, recipe.evaluate.gold, *of_tasks)
    return _unpriced(teacher for judge in judges for teacher in asked_by(judge, recipe))


def unpriced_writers(recipe: Recipe) -> tuple[str, ...]:
    """Return the models that write drafts and have no price."""
    writes = "teacher" in recipe.evaluate.baselines or recipe.sample.teacher_drafts
    writers = (recipe.teacher if writes else None, recipe.sample.sampler)
    return _unpriced(writer for writer in writers if is_paid(writer))


def _unpriced(plugins: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(each.model) for each in plugins if price_for(each) is None))


def load_agreement(folder: Path) -> dict[str, Any] | None:
    """Return what `agreement.json` holds, None where there is none; why it cannot be read under `error`."""
    path = folder / "agreement.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        return {"error": f"agreement.json cannot be read ({problem}); make it again with `prefdistill agreement`"}
    return found if isinstance(found, dict) else {"error": "agreement.json holds no object; make it again"}


def _teacher_name(teacher: Any) -> str | None:
    return None if teacher is None else str(getattr(teacher, "model", None) or teacher._use)


def manifest_facts(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return facts about machine and software worth a line each."""
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items() if version)
    machine = manifest["machine"]
    return {
        "started": str(manifest["started"]),
        "machine": f"{machine['system']}, {machine['cores']} cores, {manifest['torch_threads']} torch threads",
        "accelerator": str(manifest["cuda"] or "none"),
        "versions": versions,
        "recipe's git commit": str(manifest["git_commit"] or "none"),
        **{f"chosen: {name}": str(value) for name, value in manifest["choices"].items()},
    }


def _seconds(outcome: Outcome) -> dict[str, float]:
    shop = outcome.shop
    baselines, test = Fingerprints(shop.run.baselines), Fingerprints(shop.run.test(outcome.best_round))
    entries: Iterable[tuple[Fingerprints, str]] = [
        *((baselines, name) for name in baselines.entries if "-test-" in name),
        *((test, name) for name in test.entries),
    ]
    return {"test": sum(marks.seconds(name) for marks, name in entries)}


def _request_notes(shop: Workshop) -> list[str]:
    layer = shop.context.requests
    return [] if layer is None else list(Counter(layer.notes))


def gap(outcome: Outcome) -> GapRecovered | None:
    """Return the performance gap recovered on the test split, None without a teacher."""
    if "teacher" not in outcome.test_comparisons:
        return None
    compared = outcome.test_comparisons
    return performance_gap(compared["base"], compared["teacher"], outcome.shop.recipe.seed)


def examples(outcome: Outcome) -> tuple[Any, ...]:
    """Pick the report's before and after examples from the test split."""
    measured = outcome.test_measured
    drafts = {draft.id: draft for each in measured.values() for draft in each.drafts}
    scores = {key: score for each in measured.values() for key, score in each.scores.items()}
    rubric_scores = {key: score for each in measured.values() for key, score in each.rubric.items()}
    return pick_examples(
        measured["policy"].judged.prompts,
        outcome.test_comparisons["base"],
        drafts.values(),
        scores,
        outcome.shop.rubrics,
        None if outcome.shop.recipe.held_out_judge is None else rubric_scores,
    )


def further_metrics(outcome: Outcome) -> dict[str, float]:
    """Return the metrics that the recipe names, on the kept policy's test drafts."""
    names = outcome.shop.recipe.evaluate.metrics
    if not names:
        return {}
    measured = outcome.test_measured
    teacher = measured["teacher"].drafts if "teacher" in measured else []
    rows = reference_rows(measured["policy"].judged.prompts, measured["policy"].drafts, teacher)
    return measure(names, rows, outcome.shop.recipe.directory)
