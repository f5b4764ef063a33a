"""Every number of every test draft as arrays (seeds, prompts): what the statistics of a comparison are computed from.

What is unknown is nan, and never 0: a draft that was not written, a verdict that could not be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

import numpy as np

from prefdistill.compare.layout import Layout
from prefdistill.finished import FinishedRun, Written
from prefdistill.metrics.scores import DraftScore
from prefdistill.metrics.texts import count_words, distinct
from prefdistill.plugins import asks_teacher, name_of

Array = np.ndarray[Any, np.dtype[np.float64]]
CREDIT = {"win": 1.0, "tie": 0.5, "loss": 0.0}
Writer = Literal["policy", "base", "teacher"]
WRITERS: tuple[Writer, ...] = ("policy", "base", "teacher")


@dataclass(frozen=True)
class Columns:
    """One arm's numbers."""

    numbers: Mapping[str, Array]
    """By `writer/name`, each (seeds, prompts). Names: score, judge, gold, passed, words, `criterion/…`; beside them
    `credit` (1 where the policy beats the base, 0.5 ties) and `teacher/credit`."""
    distinct: Mapping[Writer, tuple[float | None, ...]]
    """Distinct-2 of each seed's test drafts."""

    def of(self, name: str) -> Array | None:
        """Return an array, None where nobody measured it."""
        return self.numbers.get(name)

    def gain(self, name: str) -> Array | None:
        """Return the policy's numbers less the base's, None where either is missing."""
        own, base = self.of(f"policy/{name}"), self.of(f"base/{name}")
        return None if own is None or base is None else own - base

    @property
    def criteria(self) -> tuple[str, ...]:
        """The criteria that both the policy's and the base's drafts were scored on."""
        names = [
            each.removeprefix("policy/criterion/") for each in self.numbers if each.startswith("policy/criterion/")
        ]
        return tuple(name for name in names if f"base/criterion/{name}" in self.numbers)


@dataclass(frozen=True)
class Grid:
    """All arms' numbers on the same prompts."""

    prompts: tuple[str, ...]
    """Ids of the test prompts; forgotten ones are left out for every arm."""
    arms: Mapping[str, Columns]
    tie_margin: float
    """The largest of the runs': a difference of scores up to it is a tie."""
    scored: bool
    """Whether the evaluation judge scores drafts. Where it only compares, `score` is the outcome against the base
    (1, 0.5 or 0), and the base's is 0.5."""
    scales: tuple[str, str]
    """Of the training judge's scores and of the evaluation judge's: rubric or custom; empty where there are none."""
    criteria_of: str
    """The judge whose criteria these are."""


def evaluation_judge(run: FinishedRun) -> Any:
    """Return the judge whose scores select and compare."""
    return run.recipe.held_out_judge or run.recipe.judge


def judge_name(run: FinishedRun, judge: Any) -> str:
    """Return what a judge is called, with the model that it asks; of a file only its name."""
    file, colon, name = name_of(judge).rpartition(":")
    use = f"{PurePath(file).name}:{name}" if colon and file.endswith(".py") else name_of(judge)
    who = judge.teacher or run.recipe.teacher if asks_teacher(judge) else judge
    model = getattr(who, "model", None)
    return f"{use} ({model})" if isinstance(model, str) and model else use


def is_scored(run: FinishedRun) -> bool:
    """Whether the run's evaluation judge gives scores to single drafts."""
    return bool(getattr(evaluation_judge(run), "scores_alone", True))


def read_grid(layout: Layout, prompts: Iterable[str]) -> Grid:
    """Read the numbers of every run on these test prompts, which all runs have."""
    ordered = tuple(sorted(prompts))
    place = {prompt_id: number for number, prompt_id in enumerate(ordered)}
    rows: dict[str, list[dict[str, Array]]] = {label: [] for label in layout.arms}
    texts: dict[str, list[dict[Writer, float | None]]] = {label: [] for label in layout.arms}
    first = [runs[0] for runs in layout.arms.values()]
    with _without_collector():
        _share_baselines(first)
        scored, judged_by = all(map(is_scored, first)), _criteria_kind(first)
        scales = _scale(first, "judge"), _scale(first, "evaluation") if scored else ""
        for number in range(len(layout.seeds)):
            runs = {label: runs[number] for label, runs in layout.arms.items()}
            _share_baselines(list(runs.values()))
            for label, run in runs.items():
                rows[label].append(_row(run, place, scored, judged_by))
                texts[label].append({writer: _distinct_2(each, place) for writer, each in _writers(run)})
            if number:  # the browser of drafts shows the first seed's
                for run in runs.values():
                    run.release()
    judge = first[0].recipe.judge if judged_by == "judge" else evaluation_judge(first[0])
    return Grid(
        ordered,
        {label: _columns(rows[label], texts[label], len(place)) for label in layout.arms},
        max(run.recipe.evaluate.tie_margin for _, run in layout.runs),
        scored,
        scales,
        judge_name(first[0], judge),
    )


@contextmanager
def _without_collector() -> Iterator[None]:
    """Switch the garbage collector off: it would look through a million kept records again and again (half the time)."""
    import gc

    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # they live on in the runs, and are not to be looked through later either
        if was_on:
            gc.enable()


def _share_baselines(runs: Sequence[FinishedRun]) -> None:
    """Let runs with copies of the same baselines read them once: most of what there is to read."""
    first: dict[str, FinishedRun] = {}
    for run in runs:
        run.share_baselines(first.setdefault(run.baselines_mark, run))


def _criteria_kind(runs: Sequence[FinishedRun]) -> Literal["judge", "evaluation"]:
    """Return whose criteria are compared: the evaluation judge's where it has any."""
    found = (each for run in runs for each in run.test["base"].by("evaluation", run.self_judged).values())
    return "evaluation" if any(each.criteria for each in found) else "judge"


def _scale(runs: Sequence[FinishedRun], judge: Literal["judge", "evaluation"]) -> str:
    """Return the scale of a judge's scores; custom where any run's is, empty where there are none."""
    scales = {score.scale for run in runs for score in run.test["base"].by(judge, run.self_judged).values()}
    return "custom" if "custom" in scales else next(iter(scales), "")


def _writers(run: FinishedRun) -> Iterator[tuple[Writer, Written]]:
    """Yield who wrote on the run's test prompts, and what."""
    for writer in WRITERS:
        if writer in run.test:
            yield writer, run.test[writer]


def _columns(
    rows: Sequence[Mapping[str, Array]], texts: Sequence[Mapping[Writer, float | None]], prompts: int
) -> Columns:
    """Put the seeds' numbers of one arm together, one row a seed."""
    names, empty = dict.fromkeys(name for row in rows for name in row), np.full(prompts, np.nan)
    numbers = {name: np.stack([row.get(name, empty) for row in rows]) for name in names}
    return Columns(
        {name: each for name, each in numbers.items() if not np.isnan(each).all()},
        {writer: tuple(each.get(writer) for each in texts) for writer in WRITERS},
    )


def _row(
    run: FinishedRun, place: Mapping[str, int], scored: bool, judged_by: Literal["judge", "evaluation"]
) -> dict[str, Array]:
    """Return one run's numbers, one a prompt, by name."""
    found: dict[str, Array] = {}

    def put(name: str, values: Mapping[str, float | None]) -> None:
        column = found.setdefault(name, np.full(len(place), np.nan))
        for prompt_id, value in values.items():
            if prompt_id in place and value is not None and np.isfinite(value):
                column[place[prompt_id]] = value

    against = run.comparisons.get("base", {})
    credit = {prompt_id: CREDIT.get(row.outcome) for prompt_id, row in against.items()}
    put("credit", credit)
    over = run.comparisons.get("teacher", {})
    put("teacher/credit", {prompt_id: CREDIT.get(row.outcome) for prompt_id, row in over.items()})
    if scored:
        put("policy/score", {prompt_id: row.score for prompt_id, row in against.items()})
        put("base/score", {prompt_id: row.baseline_score for prompt_id, row in against.items()})
        put("teacher/score", {prompt_id: row.baseline_score for prompt_id, row in over.items()})
    else:
        put("policy/score", credit)
        put("base/score", {prompt_id: None if each is None else 0.5 for prompt_id, each in credit.items()})
    for writer, written in _writers(run):
        _put_written(put, run, writer, written, judged_by)
    return found


def _put_written(
    put: Any, run: FinishedRun, writer: Writer, written: Written, judged_by: Literal["judge", "evaluation"]
) -> None:
    judge, gold = (written.by(name, run.self_judged) for name in ("judge", "gold"))
    put(f"{writer}/judge", {prompt_id: each.gated_score for prompt_id, each in judge.items()})
    put(f"{writer}/gold", {prompt_id: each.gated_score for prompt_id, each in gold.items()})
    by_gates = judge or written.by("evaluation", run.self_judged)
    put(f"{writer}/passed", {prompt_id: float(not each.gates) for prompt_id, each in by_gates.items()})
    put(
        f"{writer}/words",
        {prompt_id: float(count_words(each.completion)) for prompt_id, each in written.drafts.items()},
    )
    for name, values in _by_criterion(written.by(judged_by, run.self_judged)).items():
        put(f"{writer}/criterion/{name}", values)


def _by_criterion(scores: Mapping[str, DraftScore]) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for prompt_id, score in scores.items():
        for each in score.criteria:
            found.setdefault(each.criterion, {})[prompt_id] = each.score
    return found


def _distinct_2(written: Written, place: Mapping[str, int]) -> float | None:
    texts = [[draft.completion] for prompt_id, draft in sorted(written.drafts.items()) if prompt_id in place]
    return distinct(texts).distinct_2 if texts else None
