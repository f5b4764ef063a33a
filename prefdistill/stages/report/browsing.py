"""What the report's browser of drafts shows: held-out drafts side by side, and the pairs of each round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from prefdistill.records import CriterionScore, Message, Outcome, Scale

NO_PAIR = {
    "fewer_than_two_drafts": "fewer than two drafts were written",
    "not_judged": "there is no verdict on its drafts",
    "judge_failed": "failures of the judge left fewer than two drafts with a verdict",
    "gate_undecided": "the panel is split evenly on gates, which left fewer than two drafts",
    "no_criterion_applies": "no criterion with a weight applies to the prompt",
    "identical": "all drafts have the same text",
    "incomplete": "drafts that are cut at the token limit left fewer than two whole ones",
    "broken_text": "drafts with a character in pieces left fewer than two whole ones",
    "all_failed_gates": "every draft fails a gate, so none may be chosen",
    "gate_failures_dropped": "drafts that fail a gate are dropped, which left fewer than two",
    "tie": "no draft is better than another",
    "below_margin": "the margin is smaller than the least that trains",
    "confirmation_failed": "the comparison that should confirm it has no readable verdict in one of its orders",
    "not_compared": "the judge compared other drafts of the prompt, and not these two",
    "orders_disagree": "which draft the judge prefers changes with the order in which they are shown",
    "comparison_contradicts": "both orders prefer the draft that scored lower",
    "addresses_judge": "one of the two drafts speaks to the judge",
    "near_duplicate": "the two texts are nearly the same",
    "length_ratio": "one text is too much longer than the other",
}
"""The counted reasons why a prompt gave no pair, as a sentence says them."""
NO_ANSWER = {
    "not_written": "the teacher failed on it, refused it or said nothing",
    "unreadable": "its reasoning and its answer could not be told apart",
    "too_long": "with its reasoning it is longer than the student may write",
    "incomplete": "the answer is cut at the token limit",
    "broken_text": "the answer has a character in pieces",
    "failed_gates": "the answer fails gates",
    "not_judged": "a gate must be asked, and there is no verdict",
    "judge_failed": "a gate must be asked, and the judge failed on it",
    "gate_undecided": "the panel is split evenly on a gate",
}
"""The same where the trainer learns from the teacher's answers."""


@dataclass(frozen=True)
class BrowserDraft:
    """A draft with everything that was found about it."""

    completion: str
    writer: str = ""
    """Who wrote it, where that is not what the column says."""
    evaluation: float | None = None
    """Score by the evaluation judge, gates applied; None where it has none."""
    judge: float | None = None
    """Score by the training judge, gates applied; None where that is the evaluation judge too, or has not judged it."""
    gold: float | None = None
    """Exact score; sandbox only."""
    gates: tuple[str, ...] = ()
    """Names of the gates it failed."""
    criteria: tuple[CriterionScore, ...] = ()
    """By the training judge."""
    evaluation_criteria: tuple[CriterionScore, ...] = ()
    """By the evaluation judge, where that is another and scores criteria."""
    cut: bool = False
    """Whether it ends at the token limit."""
    failure: str = ""
    """Which judge could not give a verdict and what kind of failure it was, without model text; empty where none."""
    failure_detail: str = ""
    """The failure's message, which may quote a reply."""
    addresses: str = ""
    """How it speaks to the judge, with the words that do; empty where it does not."""


@dataclass(frozen=True)
class BrowserColumn:
    """Who wrote the drafts of a column."""

    title: str
    role: Literal["base", "arm", "teacher"]
    note: str = ""
    """A few words on what it is."""
    said: str = ""
    """The title as a sentence says it; the title itself where it is empty."""


@dataclass(frozen=True)
class BrowserRow:
    """One test prompt and what everyone wrote on it."""

    id: str
    messages: tuple[Message, ...]
    drafts: Mapping[str, BrowserDraft]
    """By column title; a column without a draft is absent."""
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    """By column title: against the base."""
    kind: str = ""
    """The kind of prompt, where the recipe has several rubrics."""
    label: str = ""
    """The prompt's id in the user's own file, where there is one."""


@dataclass(frozen=True)
class BrowserPair:
    """A chosen and a rejected draft of a prompt."""

    chosen: int
    """Index among the prompt's drafts."""
    rejected: int
    chosen_score: float
    rejected_score: float
    margin: float
    scale: Scale
    why: tuple[str, ...] = ()
    """Why it was kept, a clause each."""


@dataclass(frozen=True)
class PairRow:
    """One training prompt of a round: its pairs, or its answer, or why it has none."""

    id: str
    round: int
    messages: tuple[Message, ...]
    drafts: tuple[BrowserDraft, ...]
    pairs: tuple[BrowserPair, ...] = ()
    reason: str = ""
    """Why there is no pair, or answer: one of the counted reasons; empty where there is one."""
    detail: str = ""
    kind: str = ""
    label: str = ""


@dataclass(frozen=True)
class BrowserData:
    """Everything that the browser shows."""

    columns: tuple[BrowserColumn, ...]
    rows: tuple[BrowserRow, ...]
    pair_rows: tuple[PairRow, ...] = ()
    judge: str = "training judge"
    """Name of the training judge."""
    evaluation_judge: str = "evaluation judge"
    self_judged: bool = False
    trains_on: Literal["pairs", "answers"] = "pairs"
    """What the rows of training prompts are about."""
    links: tuple[tuple[str, str], ...] = ()
    """Label and address of the reports that show the pairs, where this one does not."""
