"""Thresholds for a wanted fallback share, from the drafts that the run wrote on its validation split.

Gates fire at a rate of their own. What is left of the wanted share is spread over the other tests by one common
quantile: each test fires on the same share of the validation drafts, as large as brings all together to the share.
Everything is read from the run folder, so it costs no call and no generation.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any

from prefdistill.errors import RunError
from prefdistill.folders import as_argument
from prefdistill.metrics.intervals import wilson_interval
from prefdistill.recipe import Recipe
from prefdistill.records import Draft, Forgotten, Policy, Prompt, Row
from prefdistill.run import RunDirectory
from prefdistill.scope import Scope, scope_text
from prefdistill.sections import StudentSection
from prefdistill.serve.routing import TESTS, Screen, TestName, Thresholds, Written, log_length

FILE = "calibration.json"
FEW = 100
"""Validation prompts below which the notes warn: at a share of 0.1 the interval is then wider than 6 points each way."""
SOFT: tuple[TestName, ...] = ("out_of_scope", "length", "log_prob")
"""Tests with a threshold."""


class Calibration(Row):
    """`calibration.json` of a run: what its served student keeps, and what goes to the teacher."""

    run: str
    round: int
    """Whose drafts it was made from; 0 is the base."""
    date: str
    """When, ISO 8601, UTC."""
    wanted: float
    """The fallback share that was asked for."""
    share: float
    """The share of validation prompts that go to the teacher at these thresholds."""
    interval: tuple[float, float]
    """95 % interval of the share of all such prompts."""
    prompts: int
    """Validation prompts with a draft."""
    drafts: int
    temperature: float
    """At which the drafts were written; answers at another one have other log-probabilities."""
    tests: tuple[TestName, ...]
    """Those that are on."""
    distance: float | None = None
    """Largest distance of a prompt from the training prompts; None where the test never fires."""
    log_prob: float | None = None
    """Smallest mean log-probability of a draft, nats a token."""
    characters: tuple[float, float] | None = None
    """Shortest and longest draft."""
    quantile: float = 0.0
    """The share on which each test with a threshold fires by itself."""
    shares: dict[str, float] = {}
    """By test: the share of validation drafts on which it fires, alone or with others."""
    gates: dict[str, float] = {}
    """By gate: the share of validation drafts that fail it."""
    notes: tuple[str, ...] = ()
    """What a reader must know."""

    def key(self) -> str:
        """Return the run's name."""
        return self.run

    @property
    def thresholds(self) -> Thresholds:
        """Where the tests fire."""
        return Thresholds(distance=self.distance, log_prob=self.log_prob, characters=self.characters)


@dataclass(frozen=True)
class Case:
    """One validation draft with what the tests measure of it."""

    prompt_id: str
    gates: tuple[str, ...]
    """Gates that it fails."""
    length: float
    """Logarithm of its length; see `log_length`."""
    log_prob: float | None
    distance: float | None


def fit_scope(run: RunDirectory) -> Scope:
    """Learn what the run's training prompts are made of."""
    prompts = _prompts(run).values()
    return Scope.fit([scope_text(prompt.messages) for prompt in prompts if prompt.split == "train"])


def read_cases(run: RunDirectory, recipe: Recipe, policy: Policy, tests: Screen) -> list[Case]:
    """Measure the validation drafts of the policy that is served.

    Raises:
        RunError: there are none.
    """
    name = "base-validation-drafts.jsonl" if policy.round == 0 else "6-drafts.jsonl"
    path = run.round(policy.round) / name
    drafts = run.rows(path.parent, path.name, Draft).read()
    prompts = _prompts(run)
    cases = [
        _case(prompts[draft.prompt_id], draft, tests)
        for _, draft in sorted(drafts.items())
        if draft.prompt_id in prompts
    ]
    if not cases:
        raise RunError(
            f"{path}: no drafts on validation prompts; expected those of the policy that is served: finish the run "
            f"(`prefdistill status {as_argument(run.path)}` says how), or serve another round with --round"
        )
    return cases


def _prompts(run: RunDirectory) -> dict[str, Prompt]:
    gone = run.rows(run.path, "forgotten.jsonl", Forgotten).read()
    found = run.rows(run.path, "prompts.jsonl", Prompt).read()
    return {key: prompt for key, prompt in found.items() if key not in gone}


def _case(prompt: Prompt, draft: Draft, tests: Screen) -> Case:
    written = Written(draft.completion, draft.finish_reason or "stop")
    mean = None if draft.log_prob is None or not draft.tokens else draft.log_prob / draft.tokens
    distance = None if tests.scope is None else tests.scope.distance(scope_text(prompt.messages))
    gates = tests.failed_gates(prompt, written)[0] if "gate" in tests.on else ()
    return Case(prompt.id, gates, log_length(draft.completion), mean, distance)


def calibrate(cases: Sequence[Case], wanted: float, on: frozenset[TestName], **about: Any) -> Calibration:
    """Return thresholds at which the wanted share of the cases goes to the teacher, as nearly as they can be met.

    Args:
        cases: validation drafts; at least one.
        wanted: 0 to 1.
        on: the tests.
        about: `run`, `round` and `temperature` of the drafts.
    """
    middle = median(case.length for case in cases)
    scores = _scores(cases, on, middle)
    gated = [bool(case.gates) for case in cases]
    suspicion = _suspicion(cases, scores)
    quantile = _quantile([least for least, gate in zip(suspicion, gated, strict=True) if not gate],
                         wanted * len(cases) - sum(gated))  # fmt: skip
    limits = {name: _limit(values, quantile) for name, values in scores.items()}
    fired = {name: [_fires(value, limits[name]) for value in values] for name, values in scores.items()}
    if "gate" in on:
        fired["gate"] = gated
    together = [any(each) for each in zip(*fired.values(), strict=True)] if fired else [False] * len(cases)
    prompts = len({case.prompt_id for case in cases})
    share = sum(together) / len(cases)
    low_log_prob, far, apart = (limits.get(name) for name in ("log_prob", "out_of_scope", "length"))
    calibration = Calibration(
        **about,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        wanted=wanted,
        share=share,
        interval=wilson_interval(share * prompts, prompts),
        prompts=prompts,
        drafts=len(cases),
        tests=tuple(name for name in TESTS if name in on),
        distance=far,
        log_prob=None if low_log_prob is None else -low_log_prob,
        characters=None if apart is None else (math.expm1(max(0.0, middle - apart)), math.expm1(middle + apart)),
        quantile=quantile,
        shares={name: sum(fired[name]) / len(cases) for name in TESTS if name in fired},
        gates={name: sum(name in case.gates for case in cases) / len(cases) for name in _gate_names(cases)},
    )
    return calibration.model_copy(update={"notes": tuple(_notes(calibration, cases, on))})


def trace_notes(written: StudentSection, served: StudentSection) -> tuple[str, ...]:
    """Return what to know where the validation drafts were written with reasoning, and are served without, or reversed.

    Args:
        written: the student as it wrote the drafts.
        served: as it is served.
    """
    if written.block == served.block:
        return ()
    then, now = ("without", "with") if written.block else ("with", "without")
    return (
        f"the validation drafts were written {then} reasoning, and the student is served {now} it: the thresholds are "
        f"those of drafts {then} it (log_prob is a mean over all that is written), so another share may go to the teacher; "
        f"/metrics says which; for thresholds of its own serve a run with student.trace {served.trace}",
    )


def _gate_names(cases: Sequence[Case]) -> list[str]:
    return sorted({name for case in cases for name in case.gates})


def _scores(cases: Sequence[Case], on: frozenset[TestName], middle: float) -> dict[TestName, list[float | None]]:
    """Return each test's numbers, the larger the more suspicious; tests of which nothing is known are left out."""
    found: dict[TestName, list[float | None]] = {
        "out_of_scope": [case.distance for case in cases],
        "length": [abs(case.length - middle) for case in cases],
        "log_prob": [None if case.log_prob is None else -case.log_prob for case in cases],
    }
    known = {name: values for name, values in found.items() if name in on}
    return {name: values for name, values in known.items() if any(value is not None for value in values)}


def _suspicion(cases: Sequence[Case], scores: dict[TestName, list[float | None]]) -> list[float]:
    """Return for each case the smallest common quantile at which one of the tests fires on it; 2 where none can."""
    least = [2.0] * len(cases)
    for values in scores.values():
        ordered = sorted(value for value in values if value is not None)
        for index, value in enumerate(values):
            if value is not None:
                above = len(ordered) - bisect_left(ordered, value)
                least[index] = min(least[index], above / len(ordered))
    return least


def _quantile(suspicion: Sequence[float], owed: float) -> float:
    """Return the common quantile at which the number of cases that fire is nearest to `owed`; 0 where none should."""
    ordered = sorted(value for value in suspicion if value <= 1.0)
    best, missed = 0.0, abs(owed)
    for value in dict.fromkeys(ordered):
        off = abs(bisect_right(ordered, value) - owed)
        if off < missed:
            best, missed = value, off
    return best


def _limit(values: Sequence[float | None], quantile: float) -> float | None:
    """Return the number above which a test fires on at most `quantile` of the cases: midway between two of them."""
    ordered = sorted(value for value in values if value is not None)
    for index, value in enumerate(ordered):
        if (len(ordered) - index) / len(ordered) <= quantile and (index == 0 or ordered[index - 1] < value):
            return (ordered[index - 1] + value) / 2 if index else value - abs(value) - 1.0
    return None


def _fires(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value > limit


def _notes(made: Calibration, cases: Sequence[Case], on: frozenset[TestName]) -> list[str]:
    notes = []
    gates = made.shares.get("gate", 0.0)
    low, high = made.interval
    if gates > made.wanted:
        worst = max(made.gates, key=lambda name: made.gates[name])
        notes.append(
            f"the gates alone send {gates:.1%} to the teacher, more than the wanted {made.wanted:.1%} ({worst} fails "
            f"most, {made.gates[worst]:.1%}); the other tests are off: train longer, mend that gate, or want a larger share"
        )
    elif abs(made.share - made.wanted) > 0.005 and made.wanted:
        notes.append(f"the nearest share to the wanted {made.wanted:.1%} that these drafts allow is {made.share:.1%}")
    if made.prompts < FEW or 0 < made.wanted * made.prompts < 5:
        notes.append(
            f"only {made.prompts} validation prompts: the share of real traffic like them may be anything from "
            f"{low:.1%} to {high:.1%}; more validation prompts (prompts.validation_fraction) narrow that"
        )
    for name, unknown in (
        ("log_prob", all(case.log_prob is None for case in cases)),
        ("out_of_scope", all(case.distance is None for case in cases)),
    ):
        if name in on and unknown:
            notes.append(f"the validation drafts have no numbers for the test {name}, so it never fires")
    return notes
