"""The report's page: records arranged for the template, which only lays them out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup

from prefdistill.diagnostics.measuring import NAMES, SCORE_NAMES
from prefdistill.diagnostics.rules import phrase_line
from prefdistill.records import EvaluationResult, RoundResult, StartCheck, Usage, rounds_text
from prefdistill.stages.report.agreement import read_agreement
from prefdistill.stages.report.browsing import BrowserData
from prefdistill.stages.report.charts import render_chart
from prefdistill.stages.report.data import (
    ReportData,
    charged_usd,
    drops_title,
    find_result,
    gate_pass_rate,
    judging,
    learned_from,
    round_cost,
    round_warnings,
    training_cost,
)
from prefdistill.stages.report.embedding import browser_parts
from prefdistill.stages.report.environment import page_environment
from prefdistill.stages.report.examples import LONGEST_SHOWN, mark_differences, visible
from prefdistill.stages.report.marks import render_span
from prefdistill.stages.report.run_charts import run_charts
from prefdistill.stages.report.verdict import figures, headline, trust

FLOW = ("load", "sample", "judge", "rank", "pair", "train", "evaluate", "report")


def render_report(report: ReportData, texts: bool = True, browser: BrowserData | None = None) -> str:
    """Return the run's report as one HTML document; `texts=False` leaves out prompts, drafts and reasons."""
    environment = page_environment()
    environment.filters |= {"failures": _failures}
    page = environment.get_template("page.html.jinja").render(
        report=report,
        texts=texts,
        browser=browser_parts(browser, texts),
        headline=headline(report),
        trust=trust(report),
        figures=figures(report),
        warnings=_warnings(report, texts),
        facts=_facts(report),
        charts=[(chart, render_chart(chart)) for chart in run_charts(report)],
        rounds=[_Row(each, find_result(each.evaluation), gate_pass_rate(each.evaluation)) for each in report.rounds],
        any_held_out=any(each.held_out_score is not None for each in report.rounds),
        learned_from=learned_from(report),
        any_gold=any(each.gold is not None for each in report.rounds),
        kinds={kind: _kind_rows(report, kind) for kind in report.kinds},
        kind_counts=list(dict.fromkeys(name for r in report.rounds for each in r.kinds.values() for name in each)),
        matrices=_matrices(report),
        checks=_checks(report),
        diagnostics=_diagnostics(report),
        meanings=NAMES | SCORE_NAMES,
        criteria=_criteria(report),
        agreement=read_agreement(report.agreement),
        spending=[(each.round, judging(each)) for each in report.rounds],
        pair_costs=[
            (each.round, round_cost(report, each))
            for each in report.rounds
            if each.train and each.learned_from == "pairs"
        ],
        pairs_total=training_cost(report),
        unpriced=report.unpriced,
        charged_usd=charged_usd(report),
        spent=sum((judging(each) for each in report.rounds), report.test_usage),
        free=_free(report),
        stages=_stages(report),
        mark=partial(_mark, texts),
        visible=visible,
        longest=LONGEST_SHOWN,
        rubrics=report.rubrics if texts else {name: _without_tests(text) for name, text in report.rubrics.items()},
    )
    return page.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class _Row:
    """One line of the table of rounds."""

    result: RoundResult
    against_base: EvaluationResult | None
    gates: float | None


@dataclass(frozen=True)
class _Matrix:
    """Counts by name and round."""

    title: str
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


def _facts(report: ReportData) -> list[tuple[str, str]]:
    """Return what was run, a line each."""
    trained = [each for each in report.rounds if each.train is not None]
    warm = any(each.warm_start for each in trained)
    paired, answered = ([each for each in trained if each.learned_from == what] for what in ("pairs", "answers"))
    judge = report.evaluation_judge + (", the training judge itself" if report.self_judged else ", held out")
    return [
        ("Recipe", report.name),
        ("Mode", f"{report.mode}, {rounds_text(len(trained) - warm, warm)}, seed {report.seed}"),
        ("Student", report.student),
        ("Teacher", report.teacher or "none"),
        ("Training judge", report.judge),
        ("Evaluation judge", judge),
        ("Prompts", ", ".join(f"{count:,} {split}" for split, count in report.prompts.items())),
        *_learned_from(paired, answered),
        ("Kept policy", report.policy.adapter or "the base, no adapter"),
        ("prefdistill", report.version),
        *report.manifest.items(),
    ]


def _learned_from(paired: Sequence[RoundResult], answered: Sequence[RoundResult]) -> list[tuple[str, str]]:
    """Return what the rounds trained on: pairs of judged drafts, the teacher's answers, or both."""
    found = []
    if answered:
        written = sum(each.drafts for each in answered)
        kept = sum(each.pairs for each in answered)
        found.append(("Teacher’s answers", f"{written:,} written, {kept:,} trained on"))
    if paired or not answered:
        asked, judged = sum(each.drafts for each in paired), sum(each.judged for each in paired)
        found.append(("Training drafts", f"{asked:,} sampled, {judged:,} judged"))
        found.append(("Pairs", f"{sum(each.pairs for each in paired):,}"))
    return found


def _warnings(report: ReportData, texts: bool) -> list[tuple[str, str]]:
    """Return what is wrong, with its place; the phrase that spreads is the model's text, and left out with the others."""
    found = [("run", each) for each in report.warnings]
    for result in report.rounds:
        phrase = phrase_line(result.findings, result.diagnostics, result.facts) if texts else None
        lines = (*round_warnings(result), *([phrase] if phrase is not None else []))
        found += [(result.name, each) for each in lines]
    return found


def _kind_rows(report: ReportData, kind: str) -> list[_Row]:
    return [
        _Row(each, find_result(each.evaluation, kind=kind), gate_pass_rate(each.evaluation, kind))
        for each in report.rounds
    ]


def _matrices(report: ReportData) -> list[_Matrix]:
    def matrix(title: str, read: Callable[[RoundResult], Mapping[str, float]]) -> _Matrix:
        names = dict.fromkeys(name for each in report.rounds for name in read(each))
        return _Matrix(title, tuple((name, tuple(read(each).get(name) for each in report.rounds)) for name in names))

    found = [
        matrix(drops_title(report), lambda each: each.drops),
        matrix("Failures, by stage and kind", lambda each: each.failures),
        matrix("How scores and comparisons were obtained", _judging_counts),
        matrix("Further counts and shares of the drafts", _draft_counts),
    ]
    return [each for each in found if each.rows]


def _checks(report: ReportData) -> list[tuple[str, list[StartCheck | None]]]:
    """Return what was checked before training, a row a check and a cell a round."""
    trained = [each for each in report.rounds if each.checks]
    names = dict.fromkeys(check.name for each in trained for check in each.checks)
    return [
        (name, [next((check for check in each.checks if check.name == name), None) for each in trained])
        for name in names
    ]


def _diagnostics(report: ReportData) -> _Matrix | None:
    """Return everything that was measured, a row a number and a column a round."""
    names = sorted({name for each in report.rounds for name in each.diagnostics})
    rows = tuple((name, tuple(each.diagnostics.get(name) for each in report.rounds)) for name in names)
    return _Matrix("Everything that was measured", rows) if rows else None


JUDGING = {
    "path_checked": "scores by a check",
    "path_logprob": "scores by log-probabilities",
    "path_sampled": "scores by samples",
    "path_parsed": "scores by the level named",
    "compared_logprob": "comparisons by log-probabilities",
    "compared_sampled": "comparisons by samples",
    "compared_parsed": "comparisons by the winner named",
    "flip_rate": "share whose winner changed with the order",
    "flagged": "drafts that address the judge",
}
"""Counts of a round that say how its drafts were judged, and what they are called."""


def _judging_counts(result: RoundResult) -> dict[str, float]:
    return {words: result.counts[name] for name, words in JUDGING.items() if name in result.counts}


def _draft_counts(result: RoundResult) -> dict[str, float]:
    return {name: value for name, value in result.counts.items() if name not in JUDGING}


def _criteria(report: ReportData) -> list[tuple[str, float, float, float | None, Markup]]:
    """Return name, base, kept policy, teacher and picture of each criterion on test prompts."""
    result = find_result(report.test)
    against_teacher = find_result(report.test, "teacher")
    if result is None:
        return []
    best = against_teacher.baseline_criteria if against_teacher else {}
    return [
        (name, result.baseline_criteria[name], after, best.get(name), _span(result, name, best))
        for name, after in result.criteria.items()
        if name in result.baseline_criteria
    ]


def _span(result: EvaluationResult, name: str, best: Mapping[str, float]) -> Markup:
    return render_span(result.baseline_criteria[name], result.criteria[name], best.get(name))


def _free(report: ReportData) -> bool:
    total: Usage = sum((judging(each) for each in report.rounds), report.test_usage)
    return total.calls == 0 and total.cached == 0


def _stages(report: ReportData) -> list[tuple[str, list[float | None], float, float]]:
    """Return each stage's seconds by round, outside rounds, and in total."""
    names = dict.fromkeys([*(n for each in report.rounds for n in each.seconds), *report.seconds])
    found = []
    for name in sorted(names, key=lambda name: FLOW.index(name) if name in FLOW else len(FLOW)):
        by_round = [each.seconds.get(name) for each in report.rounds]
        outside = report.seconds.get(name, 0.0)
        found.append((name, by_round, outside, sum(each or 0.0 for each in by_round) + outside))
    return found


def _mark(texts: bool, before: str, after: str) -> tuple[Any, Any]:
    """Return both texts in pieces, differences marked; nothing where texts are left out."""
    if not texts:
        return (), ()
    return mark_differences(visible(before, LONGEST_SHOWN), visible(after, LONGEST_SHOWN))


def _without_tests(rubric: str) -> str:
    """Leave out a rubric's golden `tests`, which hold prompts and drafts."""
    return re.sub(r"(?ms)^tests:.*?(?=^[^\s#-]|\Z)", "tests: …  # left out\n", rubric)


def _failures(failures: Mapping[str, int]) -> list[str]:
    """Return what failed how often, the most frequent first; a judge's failures by their kind alone."""
    ordered = sorted(failures.items(), key=lambda each: -each[1])
    return [f"{count:,} {name.removeprefix('judge.').replace('.', ' ')}" for name, count in ordered]
