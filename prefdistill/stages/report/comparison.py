"""What the page of a comparison shows: runs side by side, in numbers and words that were worked out before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from prefdistill.stages.report.browsing import BrowserData
from prefdistill.stages.report.tables import Table

Level = Literal["refused", "warning", "info"]
"""refused: a number is not given, or the arms cannot be compared. warning: a number is weaker than it looks.
info: worth knowing."""


@dataclass(frozen=True)
class Note:
    """A sentence that limits what the numbers say."""

    level: Level
    text: str


@dataclass(frozen=True)
class ArmInfo:
    """One arm, as the page introduces it."""

    label: str
    what: str
    """A sentence: how its rounds are made."""
    overrides: tuple[str, ...] = ()
    """What it sets in the recipe, as `key=value`."""
    look: int = 1
    """1 to 8: its colour and marker in every chart and table; 0 is neutral, the base's."""


@dataclass(frozen=True)
class CurvePoint:
    """One round of one run."""

    round: int
    values: Mapping[str, float]
    """By name; what is not known is absent. After the round: judge, held_out, gold (mean scores of validation drafts),
    sqrt_kl to the base, win_rate over the base with win_low and win_high, tokens a draft, distinct_2. Up to and with
    the round: judged_drafts, usd, judge_tokens (paid tokens of judging), seconds. In the round: pairs, steps."""


@dataclass(frozen=True)
class Curve:
    """One run, by round."""

    arm: str
    """Label of its arm."""
    seed: int
    points: tuple[CurvePoint, ...]
    """Round 0, the base, first."""
    report: str = ""
    """Where its report.html lies, relative to the comparison's, such as `online/seed-7/report.html`; empty: no link."""


@dataclass(frozen=True)
class ComparisonReport:
    """Everything the page of a comparison is made from."""

    name: str
    version: str
    headline: str
    verdict: tuple[str, ...]
    """Sentences, the most important first."""
    notes: tuple[Note, ...]
    arms: tuple[ArmInfo, ...]
    seeds: tuple[int, ...]
    tables: tuple[Table, ...]
    """The first is the main table, an arm a row. The page has a place for those named pairs (arm against arm), drafts,
    seeds, budgets (it says of each column whether it is equal), cost, criteria (with columns Criterion, Arm, base,
    After and perhaps teacher it becomes a chart too), rounds and findings; others come after."""
    curves: tuple[Curve, ...]
    recipe: str
    """YAML."""
    facts: Mapping[str, str] = field(default_factory=dict)
    browser: BrowserData | None = None
    """The browser of drafts; None where there is none."""
