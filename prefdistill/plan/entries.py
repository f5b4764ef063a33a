"""The keys of a plan's sections as entries: what each is called, how its values are written, and what is open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prefdistill.plan.blocks import Entries, Entry, OpenPoint
from prefdistill.plan.document import Plan
from prefdistill.plan.figures import exact, money, requests, share, spread
from prefdistill.plan.quantities import Range
from prefdistill.plan.sections import Section

Show = Callable[[float], str]

LABELS = {
    "task.what": "prompt family",
    "task.owner": "owner",
    "traffic.tokens_in": "prompt tokens a request",
    "traffic.tokens_out": "completion tokens a request",
    "traffic.peak_requests_a_second": "requests a second at the peak",
    "teacher.local": "its weights run here",
    "teacher.same_tokenizer": "it has the student’s tokenizer",
    "teacher.reasons": "it reasons before it answers",
    "limits.first_token_seconds": "first token within",
    "limits.reply_seconds": "whole reply within",
    "limits.memory_gib": "memory at most",
    "rubric.judge": "judge in training",
    "rubric.held_out": "held-out judge",
    "rubric.agreement": "agreement with people",
    "goal.metric": "measured as",
    "goal.student_score": "student before training",
    "goal.teacher_score": "teacher",
    "goal.target_score": "must reach",
    "data.train": "prompts to train on",
    "data.validation": "prompts that choose the round",
    "data.test": "prompts for the final figure",
    "data.split_by": "one split holds",
    "shown.kept_round": "round kept",
    "shown.judge": "scored by",
    "shown.self_judged": "by the training judge",
    "shown.prompts": "test prompts",
    "shown.win_rate": "win rate over the base",
    "shown.win_rate_interval": "win rate, 95 % interval",
    "shown.score": "student’s score",
    "shown.base_score": "base’s score",
    "shown.teacher_score": "teacher’s score",
    "shown.score_gain_interval": "gain, 95 % interval",
    "shown.gap_recovered": "gap to the teacher closed",
    "shown.gap_refused": "gap to the teacher not told",
    "shown.spent_usd": "paid in all",
    "shown.draft_tokens": "tokens of a draft",
    "shown.judged_prompt_tokens": "prompt tokens to judge a draft",
    "shown.judged_completion_tokens": "completion tokens to judge a draft",
    "shown.served": "served requests",
    "shown.fallback_share": "answered by the teacher",
    "shown.first_token_seconds": "first token within",
    "shown.reply_seconds": "whole reply within",
    "stop.budget_usd": "at most",
    "fallback.share": "share of requests",
    "drift.check": "checked",
    "drift.psi": "stability index that warns",
    "drift.act": "then",
    "redistill.who": "decided by",
}
"""What a key is called where its own name does not say it."""


def _for_most(value: float) -> str:
    return f"{value:g} s, for 95 of 100 requests"


SHOWS: dict[str, Show] = {
    "traffic.requests_a_month": requests,
    "traffic.tokens_in": exact,
    "traffic.tokens_out": exact,
    "limits.first_token_seconds": _for_most,
    "limits.reply_seconds": _for_most,
    "limits.memory_gib": lambda value: f"{value:g} GiB",
    "data.train": requests,
    "data.validation": requests,
    "data.test": requests,
    "shown.prompts": requests,
    "shown.served": requests,
    "shown.win_rate": share,
    "shown.win_rate_interval": share,
    "shown.gap_recovered": share,
    "shown.fallback_share": share,
    "shown.spent_usd": money,
    "shown.first_token_seconds": _for_most,
    "shown.reply_seconds": _for_most,
    "stop.budget_usd": money,
    "fallback.share": share,
}
"""How a key's numbers are written; others as they are."""
INTERVALS = ("shown.win_rate_interval", "shown.score_gain_interval")


def entries_of(plan: Plan, section: str, *keys: str, prefix: str = "") -> Entries:
    """Return a section's keys as entries; one that is neither needed nor given is left out."""
    values: Section = getattr(plan, section)
    asked = dict(values.open_keys())
    found = []
    for key in keys:
        dotted = f"{section}.{key}"
        text = _text(dotted, getattr(values, key))
        if text is not None or key in asked:
            label = LABELS.get(dotted, key.replace("_", " "))
            found.append(Entry(f"{prefix}{label}", text, plan.where_known(dotted)))
    return Entries(tuple(found))


def open_in(plan: Plan, *sections: str) -> tuple[OpenPoint, ...]:
    """Return what is not decided in these sections."""
    return tuple(_points(plan, sections))


def _points(plan: Plan, sections: tuple[str, ...]) -> Iterator[OpenPoint]:
    for name in sections:
        values: Section = getattr(plan, name)
        yield from (OpenPoint(f"{name}.{key}", what) for key, what in values.open_keys())


def _text(dotted: str, value: Any) -> str | None:
    """Return a value as text; None where there is none."""
    show = SHOWS.get(dotted, lambda number: f"{number:.4g}")
    if value is None or value == ():
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Range):
        return spread(value, show)
    if isinstance(value, tuple):
        return " to ".join(map(show, value)) if dotted in INTERVALS else "; ".join(map(str, value))
    return show(value) if isinstance(value, (int, float)) else str(value)
