"""What a comparison compares, and what it finds: runs of arms, and the figures that tables and words are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prefdistill.finished import FinishedRun
from prefdistill.metrics.criteria import CriterionDifference
from prefdistill.metrics.intervals import Interval
from prefdistill.metrics.rates import GapRecovered

BASE = "base"
"""What the student is called before any training."""
TEACHER = "teacher"
CONTROLS = frozenset({"random_labels", "shuffled_online"})
"""Arms that are not candidates: they say why another arm is ahead."""
FEWEST_PROMPTS = 30
"""Test prompts under which nothing is claimed."""
MOST_UNKNOWN = 0.05
"""Share of comparisons without an outcome, above which nothing is claimed."""


@dataclass(frozen=True)
class ArmRun:
    """One arm with one seed: a finished run, or why there is none."""

    label: str
    """The column that it is in, such as `online` or `online_prev`."""
    arm: str
    """What kind of arm it is: `online`, `offline`, `random_labels`, …; of a run given by hand, its loop.mode."""
    seed: int
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Recipe keys that the arm sets, by dotted name."""
    run: FinishedRun | None = None
    failed: str = ""
    """Why there is no finished run; empty where there is one."""


@dataclass(frozen=True)
class Estimate:
    """A mean over test prompts and seeds."""

    value: float
    interval: Interval | None
    """95 %, over prompts and, where there are several, seeds; None with one prompt."""
    by_seed: tuple[float | None, ...]
    """The mean of each seed, in the order of the comparison's seeds; None where nothing is known."""
    prompts: int
    """Prompts that have a value."""
    p: float | None = None
    """Two-sided, of a mean of 0, by the same test as the interval; None where there is no interval."""
    df: float | None = None
    """Degrees of freedom of both: few where the seeds differ by more than chance among prompts."""
    seed_variance: float = 0.0
    """What the seeds add to the mean's variance, and more prompts would not take away."""

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and (self.interval[0] > 0.0 or self.interval[1] < 0.0)


@dataclass(frozen=True)
class Versus:
    """An arm against another, or against the base, paired by prompt and seed."""

    arm: str
    other: str
    difference: Estimate | None
    """Of the evaluation judge's scores; None where no prompt is known for both."""
    identical: bool = False
    """Whether they have the same score on every prompt of every seed."""
    seeds_above: int = 0
    seeds_below: int = 0
    sign_up: int = 0
    """Prompts on which the arm is above, seeds averaged."""
    sign_down: int = 0
    sign_p: float | None = None
    permutation_p: float | None = None
    """Of the prompts' mean differences, signs flipped."""
    holm: float | None = None
    """The difference's p value, corrected for the number of pairs of arms, or of arms compared with the base."""
    win_rate: Estimate | None = None
    length_controlled: float | None = None
    """The win rate at equal length."""
    length_controlled_interval: Interval | None = None
    length_ratio: float | None = None
    """Mean words over the other's."""
    judge: Estimate | None = None
    """Difference of the training judge's scores."""
    gold: Estimate | None = None
    excess: Estimate | None = None
    """The training judge's difference less the evaluation judge's; see `Figures.excess_unit`."""
    excess_share: float | None = None
    """That as a share of the training judge's difference."""
    criteria: tuple[CriterionDifference, ...] = ()
    smallest: float | None = None
    """The smallest difference that so many prompts show four times in five."""
    needed: float | None = None
    """Prompts that would show a difference as large as this one four times in five; inf where no number would,
    because the seeds differ too much."""

    @property
    def clear(self) -> bool:
        """Whether the difference is beyond chance: the interval leaves out 0, and so does Holm's correction."""
        return self.difference is not None and self.difference.clear and (self.holm is None or self.holm <= 0.05)


@dataclass(frozen=True)
class Budget:
    """What one run was given, all rounds together."""

    prompts: int
    """Train prompts that were drafted, counted in each round anew."""
    judged: int
    """Drafts that the training judge judged."""
    answers: int
    """Answers that the teacher wrote to be trained on."""
    pairs: int
    """Pairs that the rounds' own drafts gave."""
    trained: int
    """Pairs trained on, past ones that were mixed in included."""
    steps: int
    """Optimiser steps."""
    rounds: int

    @property
    def replies(self) -> int:
        """What the teacher, or who judges in its place, did: drafts judged and answers written."""
        return self.judged + self.answers


@dataclass(frozen=True)
class Cost:
    """What one run cost."""

    calls: int
    """Requests that its judging needed, answered by a server or by the request cache."""
    tokens: int
    """Tokens of those that were sent."""
    usd: float | None
    """What they cost; None where a model has no price."""
    charged_usd: float | None
    """What all that it paid for cost: judging, writing, lost replies."""
    seconds: float
    """Sampling, judging, training and evaluating."""


@dataclass(frozen=True)
class Means:
    """What one writer's test drafts are like."""

    score: Estimate | None
    """By the evaluation judge."""
    judge: Estimate | None
    """By the training judge."""
    gold: Estimate | None
    passed: float | None
    """Share that passes all gates."""
    words: float | None
    distinct_2: float | None


@dataclass(frozen=True)
class ArmFigures:
    """One arm."""

    label: str
    arm: str
    means: Means
    base: Versus
    """Against the base."""
    teacher_rate: Estimate | None
    """Win rate over the teacher."""
    pgr: GapRecovered | None
    """Seeds averaged; None without a teacher."""
    unknown: int
    """Comparisons with the base that have no outcome."""
    comparisons: int
    kept: tuple[int, ...]
    """The kept round of each seed; 0 is the base."""
    budgets: tuple[Budget, ...]
    """Of each seed."""
    costs: tuple[Cost, ...]
    source: str = ""
    """The arm on whose pairs it trains; empty where they are its own."""

    @property
    def trained(self) -> bool:
        """Whether there is a policy of its own: of `best_of_n` there is none."""
        return any(each.rounds for each in self.budgets)


@dataclass(frozen=True)
class Figures:
    """Every number of a comparison."""

    seeds: tuple[int, ...]
    prompts: int
    """Test prompts."""
    judge: str
    """The evaluation judge."""
    training_judges: Mapping[str, str]
    """By arm."""
    self_judged: tuple[str, ...]
    """Arms whose training judge is the evaluation judge."""
    scored: bool
    """Whether the evaluation judge scores drafts; else arms are compared by their outcomes against the base."""
    measure: str
    """What `score` is called in a sentence."""
    excess_unit: str
    """In what the training judge's gain and the evaluation judge's are compared; empty: in score."""
    criteria_of: str
    """Which judge's criteria are shown."""
    base: Means
    teacher: Means | None
    arms: tuple[ArmFigures, ...]
    pairs: tuple[Versus, ...]
    """Each arm against each later one, the one that is ahead first."""
    teacher_criteria: Mapping[str, float] = field(default_factory=dict)
    """The teacher's mean by criterion; empty where it was not judged."""
    equal: Literal["prompts", "teacher"] = "prompts"
    """What the arms were meant to be given the same of."""

    @property
    def known(self) -> int:
        """Test prompts that every comparison rests on: a prompt that is unknown in one seed counts in none."""
        found = [each.difference.prompts for each in (*self.pairs, *(arm.base for arm in self.arms)) if each.difference]
        return min(found, default=0)

    def find(self, label: str) -> ArmFigures:
        """Return an arm by its label."""
        return next(each for each in self.arms if each.label == label)
