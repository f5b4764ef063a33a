"""Measure a log against the training prompts: every feature tested, all tests counted together, what is drift named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefdistill.drift import figures
from prefdistill.drift.batches import Batch, Control, fallback_chart, in_batches, score_chart
from prefdistill.drift.features import (
    Feature,
    Kind,
    Shares,
    distance_features,
    field_features,
    language_features,
    length_features,
    system_features,
)
from prefdistill.drift.reading import Request
from prefdistill.drift.topics import topic_features
from prefdistill.drift.training import Trained
from prefdistill.metrics.significance import holm
from prefdistill.scope import Scope

FAR = 0.01
"""A prompt is unlike anything trained on when it is farther than all but this share of the training prompts."""


@dataclass(frozen=True)
class Shift:
    """A tested distribution."""

    shares: Shares
    measured: figures.Measured
    adjusted: float
    """The p-value after Holm's correction for all tests of this log."""
    needed: int | None
    """Distinct prompts of a log that would show a PSI of 0.2; None where the training prompts are too few for that."""
    seen: bool
    """Whether this log is large enough to show it."""

    @property
    def certain(self) -> bool:
        """Whether chance does not explain it."""
        return self.adjusted < figures.LEVEL

    @property
    def drifted(self) -> bool:
        """Whether it has changed more than chance explains, and enough to matter."""
        matters = self.shares.risen or not self.shares.rising
        return self.certain and self.measured.psi > figures.WARN_PSI and matters


@dataclass(frozen=True)
class Excess:
    """A tested kind of prompts that training hardly had."""

    kind: Kind
    p: float
    adjusted: float

    @property
    def before(self) -> float:
        """Share of the training prompts."""
        return self.kind.training / self.kind.of_training

    @property
    def now(self) -> float:
        """Share of the log's distinct prompts."""
        return self.kind.log / self.kind.of_log

    @property
    def drifted(self) -> bool:
        """Whether there are more than chance explains, and enough to matter."""
        return self.adjusted < figures.LEVEL and self.now - self.before >= figures.MATERIAL


@dataclass(frozen=True)
class Charted:
    """A tested control chart."""

    control: Control
    adjusted: float

    @property
    def drifted(self) -> bool:
        """Whether it has changed more than chance explains, and enough to matter."""
        return self.adjusted < figures.LEVEL and abs(self.control.changed) >= figures.MATERIAL


@dataclass(frozen=True)
class Measurement:
    """Everything that was tested."""

    shifts: tuple[Shift, ...]
    excesses: tuple[Excess, ...]
    charts: tuple[Charted, ...]
    batches: tuple[Batch, ...]
    far: float
    """The distance beyond which a prompt counts as unlike anything trained on."""
    distances: dict[str, float]
    """Of the log's distinct prompts, by request id."""

    @property
    def drifted(self) -> bool:
        """Whether anything has drifted."""
        tested: tuple[Shift | Excess | Charted, ...] = (*self.shifts, *self.excesses, *self.charts)
        return any(each.drifted for each in tested)

    @property
    def tests(self) -> int:
        """How many tests there were."""
        return len(self.shifts) + len(self.excesses) + len(self.charts)


def measure(trained: Trained, requests: Sequence[Request]) -> Measurement:
    """Test the distinct requests of a log against the training prompts.

    The same input gives the same result; of 100 logs of the training distribution about one raises an alarm at most.
    """
    known = [each.text or "" for each in trained.prompts]
    scope = Scope.fit(known)
    far = scope.threshold(FAR)
    distances = {
        each.id: distance
        for each in requests
        if (distance := each.distance if each.text is None else scope.distance(each.text)) is not None
    }
    asked = [each.text for each in requests if each.text is not None]
    features: list[Feature] = [
        *language_features(trained.prompts, requests),
        *system_features(trained.prompts, requests),
        *distance_features(scope, known, asked, list(distances.values())),
        *(topic_features(known, asked) if asked else ()),
        *field_features(trained.prompts, requests),
        *length_features(trained.prompts, requests),
    ]
    batches = in_batches(requests)
    controls = [each for each in (fallback_chart(batches, trained), score_chart(batches, trained)) if each is not None]
    shifts, excesses = _tested(features)
    adjusted = holm([*(p.p for _, p in shifts), *(p for _, p in excesses), *(each.p for each in controls)])
    tests = len(adjusted)
    return Measurement(
        tuple(_shift(*each, p, tests) for each, p in zip(shifts, adjusted, strict=False)),
        tuple(Excess(*each, p) for each, p in zip(excesses, adjusted[len(shifts) :], strict=False)),
        tuple(Charted(each, p) for each, p in zip(controls, adjusted[len(shifts) + len(excesses) :], strict=True)),
        batches,
        far,
        distances,
    )


def _tested(
    features: Sequence[Feature],
) -> tuple[list[tuple[Shares, figures.Measured]], list[tuple[Kind, float]]]:
    shifts, excesses = [], []
    for each in features:
        if isinstance(each, Shares):
            measured = figures.measure_shift(each.training, each.log, each.name)
            if measured is not None:
                shifts.append((each, measured))
        elif each.of_log:
            excesses.append((each, figures.excess_p(each.training, each.of_training, each.log, each.of_log)))
    return shifts, excesses


def _shift(shares: Shares, measured: figures.Measured, adjusted: float, tests: int) -> Shift:
    n, m = sum(shares.training), sum(shares.log)
    cells = round(measured.expected / (1 / n + 1 / m)) + 1
    needed = figures.prompts_needed(n, cells, tests)
    return Shift(shares, measured, adjusted, needed, figures.sees_psi(n, m, cells, tests))
