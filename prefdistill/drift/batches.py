"""Control charts over time: the fallback share and the judged sample, a figure a batch, with 3-sigma limits.

Batches are days where the log has times, weeks where there are many days, else equal counts. Limits of shares are the
exact binomial ones at the tail of 3 sigma; those of mean scores are the mean and 3 standard errors. Points beyond a
limit are marked. Whether a chart raises an alarm is a test of the whole log against what was expected,, of the
worst batch against the others, and of what came after a batch against what came before: the last two do not depend on
how well the expected was known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from statistics import fmean, stdev
from typing import Literal

import numpy as np

from prefdistill.drift import figures
from prefdistill.drift.reading import Request
from prefdistill.drift.training import Trained

MOST_BATCHES = 31
EQUAL = 10
"""Batches where there are no times."""
SMALLEST = 25
"""Requests of the smallest of equal batches."""
FIRST_PART = 3
"""Where nothing is calibrated, the log's first third is what its later part is compared with."""
FEWEST_FIRST = 30
FEWEST_SCORES = 10
"""Scores that a batch needs for a limit of its own."""


@dataclass(frozen=True)
class Batch:
    """Requests of one stretch of time."""

    name: str
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Dot:
    """One batch on a control chart."""

    batch: str
    size: int
    value: float
    low: float
    high: float

    @property
    def outside(self) -> bool:
        """Whether it lies beyond a limit."""
        return not self.low - 1e-12 <= self.value <= self.high + 1e-12


@dataclass(frozen=True)
class Apart:
    """A part of the log against the rest of it, or all of it against what was expected."""

    p: float
    by: float
    """How far the part's value is from the other; of scores only how far below."""


@dataclass(frozen=True)
class Control:
    """A control chart."""

    name: Literal["fallback share", "judged sample"]
    center: float
    before: str
    """What the center is."""
    overall: float
    size: int
    """Requests that are compared with it."""
    dots: tuple[Dot, ...]
    p: float
    changed: float
    """How far the least likely of them is: the log from what was expected, a batch or a later part from the rest."""


def in_batches(requests: Sequence[Request]) -> tuple[Batch, ...]:
    """Divide requests by time, or into equal counts in the log's order where there is no time or only one day."""
    timed = sorted(((each.time, each) for each in requests if each.time is not None), key=lambda each: each[0])
    if timed and len(timed) == len(requests):
        ordered, days = [each for _, each in timed], [time.date() for time, _ in timed]
        if 2 <= len(set(days)) <= MOST_BATCHES:
            return _grouped(ordered, [day.isoformat() for day in days])
        weeks = [day - timedelta(days=day.weekday()) for day in days]
        if 2 <= len(set(weeks)) <= MOST_BATCHES:
            return _grouped(ordered, [f"week of {week.isoformat()}" for week in weeks])
        requests = ordered
    parts = max(1, min(EQUAL, len(requests) // SMALLEST))
    ends = np.linspace(0, len(requests), parts + 1).astype(int)
    return tuple(
        Batch(f"{first + 1:,} to {last:,}", tuple(requests[first:last]))
        for first, last in pairwise(ends)
        if last > first
    )


def _grouped(requests: Sequence[Request], names: Sequence[str]) -> tuple[Batch, ...]:
    found: dict[str, list[Request]] = {}
    for request, name in zip(requests, names, strict=True):
        found.setdefault(name, []).append(request)
    return tuple(Batch(name, tuple(each)) for name, each in found.items())


def fallback_chart(batches: Sequence[Batch], trained: Trained) -> Control | None:
    """Return the p-chart of requests that a test sent to the teacher; None where the log does not tell."""
    known = [Batch(each.name, tuple(r for r in each.requests if r.fallback is not None)) for each in batches]
    known = [each for each in known if each.requests]
    if trained.fallback is not None:
        center, of, before = trained.fallback, trained.fallback_of, "the calibrated share"
    else:
        known, first = _without_first(known)
        if len(first) < FEWEST_FIRST:
            return None
        center, of = sum(bool(each.fallback) for each in first) / len(first), len(first)
        before = f"the log’s own first part, {len(first):,} requests: the run has no calibration.json"
    if not known:
        return None
    hits = [sum(bool(each.fallback) for each in batch.requests) for batch in known]
    sizes = [len(batch.requests) for batch in known]
    every, size = sum(hits), sum(sizes)

    def against_rest(own: int, of: int) -> Apart:
        return Apart(figures.shares_p(own, of, every - own, size - of), own / of - (every - own) / (size - of))

    several = len(known) > 1
    batches_apart = [against_rest(own, of) for own, of in zip(hits, sizes, strict=True)] if several else []
    splits = [against_rest(sum(hits[at:]), sum(sizes[at:])) for at in range(1, len(known))]
    dots = [
        Dot(batch.name, of, own / of, *figures.share_limits(center, of))
        for batch, own, of in zip(known, hits, sizes, strict=True)
    ]
    overall = Apart(figures.share_p(every, size, center, of), every / size - center)
    return _control("fallback share", center, before, every / size, dots, overall, batches_apart, splits)


def score_chart(batches: Sequence[Batch], trained: Trained) -> Control | None:
    """Return the chart of mean scores of the student's answers; None where too few were judged."""
    judged = [Batch(each.name, tuple(r for r in each.requests if r.score is not None)) for each in batches]
    judged = [each for each in judged if each.requests]
    if not judged:
        return None
    judges = sorted({str(request.judge) for batch in judged for request in batch.requests})
    known = trained.scores.get(judges[0], ()) if len(judges) == 1 else ()
    if len(known) >= FEWEST_SCORES:
        scores, before = list(known), f"the run’s own {len(known):,} test prompts, by the same judge"
    else:
        judged, first = _without_first(judged)
        scores = [each.score for each in first if each.score is not None]
        if len(scores) < FEWEST_FIRST:
            return None
        why = "several judges scored it" if len(judges) > 1 else f"`{judges[0]}` did not judge the run’s test prompts"
        before = f"the log’s own first part, {len(scores):,} scores: {why}"
    if not judged:
        return None
    center, spread = fmean(scores), stdev(scores)
    values = [[each.score for each in batch.requests if each.score is not None] for batch in judged]
    every = [score for own in values for score in own]

    def against_rest(start: int, end: int) -> Apart:
        own = [score for batch in values[start:end] for score in batch]
        rest = [score for batch in (*values[:start], *values[end:]) for score in batch]
        p = figures.lower_rank_p(own, rest) if min(len(own), len(rest)) >= FEWEST_SCORES else 1.0
        return Apart(p, min(0.0, fmean(own) - fmean(rest)))

    several = len(values) > 1
    batches_apart = [against_rest(at, at + 1) for at in range(len(values))] if several else []
    splits = [against_rest(at, len(values)) for at in range(1, len(values))]
    dots = []
    for batch, own in zip(judged, values, strict=True):
        reach = 3 * spread / math.sqrt(len(own))
        dots.append(Dot(batch.name, len(own), fmean(own), max(0.0, center - reach), min(1.0, center + reach)))
    p = figures.lower_mean_p(every, scores) if len(every) >= FEWEST_SCORES else 1.0
    overall = Apart(p, min(0.0, fmean(every) - center))
    return _control("judged sample", center, before, fmean(every), dots, overall, batches_apart, splits)


def _control(
    name: Literal["fallback share", "judged sample"],
    center: float,
    before: str,
    value: float,
    dots: Sequence[Dot],
    overall: Apart,
    batches: Sequence[Apart],
    splits: Sequence[Apart],
) -> Control:
    p = figures.worst_of(overall.p, [each.p for each in batches], [each.p for each in splits])
    worst = min((overall, *batches, *splits), key=lambda each: each.p)
    return Control(name, center, before, value, sum(dot.size for dot in dots), tuple(dots), p, worst.by)


def _without_first(batches: Sequence[Batch]) -> tuple[list[Batch], list[Request]]:
    """Return the batches after the log's first third, and the requests of that third."""
    total = sum(len(each.requests) for each in batches)
    first: list[Request] = []
    rest = list(batches)
    while rest and len(first) < total / FIRST_PART:
        first += rest.pop(0).requests
    return rest, first
