"""What a person is asked: two drafts to compare, or one draft and one criterion; what is shown, what is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from prefdistill.labels import CriterionLabel, PairLabel, Winner
from prefdistill.records import Draft, Prompt, digest

Group = Literal["confirmed", "near_tie", "orders_disagree", "base_or_policy", "other"]
"""Why a pair was picked; never shown.

confirmed: a pair that trained. near_tie: a prompt's two closest scores. orders_disagree: the judge changed its mind with
the order. base_or_policy: drafts of base and kept policy on validation or test prompts. other: any two of a prompt.
"""
Identity = tuple[str, ...]
"""What makes two labels answers to the same question."""

WINNERS: tuple[Winner, ...] = get_args(Winner)


@dataclass(frozen=True)
class PairTask:
    """Two drafts of one prompt, in the order in which they are shown."""

    prompt: Prompt
    first: Draft
    second: Draft
    group: Group = "other"
    again: bool = False
    """Whether the pair was asked before with the sides exchanged, to measure how consistent the person is."""

    @property
    def identity(self) -> Identity:
        """The prompt and both drafts, in the order shown."""
        return ("pair", self.prompt.id, self.first.id, self.second.id)

    @property
    def answers(self) -> tuple[str, ...]:
        """What may be answered."""
        return WINNERS

    def exchanged(self, again: bool = False) -> PairTask:
        """Return the same pair with its sides exchanged."""
        return replace(self, first=self.second, second=self.first, again=again)

    def shown(self) -> dict[str, Any]:
        """Return what the page may know: texts, and nothing about where they come from."""
        return {
            "id": task_id(self),
            "messages": _messages(self.prompt),
            "first": self.first.completion,
            "second": self.second.completion,
        }

    def label(self, answer: str, **given: Any) -> PairLabel:
        """Return the answer as a label; `given` is who, how long and when."""
        return PairLabel(
            **_told(self.prompt),
            first=self.first.completion,
            second=self.second.completion,
            winner=answer,
            first_id=self.first.id,
            second_id=self.second.id,
            **given,
        )


@dataclass(frozen=True)
class CriterionTask:
    """One draft and one of the rubric's asked criteria."""

    prompt: Prompt
    draft: Draft
    criterion: str
    question: str
    """With the prompt's fields filled in."""
    levels: tuple[str, ...]
    """Worst to best."""
    of: tuple[tuple[str, str], ...] = ()
    """(criterion, question) of all that are asked about this draft, for the page to show where one is."""

    @property
    def identity(self) -> Identity:
        """The prompt, the draft and the criterion."""
        return ("criterion", self.prompt.id, self.draft.id, self.criterion)

    @property
    def answers(self) -> tuple[str, ...]:
        """What may be answered."""
        return self.levels

    def shown(self) -> dict[str, Any]:
        """Return what the page may know."""
        return {
            "id": task_id(self),
            "messages": _messages(self.prompt),
            "draft": self.draft.completion,
            "criterion": self.criterion,
            "question": self.question,
            "levels": self.levels,
            "step": [name for name, _ in self.of].index(self.criterion) + 1 if self.of else 1,
            "steps": len(self.of) or 1,
        }

    def label(self, answer: str, **given: Any) -> CriterionLabel:
        """Return the answer as a label; `given` is who, how long and when."""
        return CriterionLabel(
            **_told(self.prompt),
            draft=self.draft.completion,
            criterion=self.criterion,
            level=answer,
            draft_id=self.draft.id,
            **given,
        )


Task = PairTask | CriterionTask


def task_id(task: Task) -> str:
    """Return a name for the page that says nothing: draft ids hold the source."""
    return digest(task.identity)


def identity_of(row: Mapping[str, Any]) -> Identity | None:
    """Return which question a stored label row answers; None for one that names no drafts of a run."""
    if "winner" in row:
        parts = ("pair", row.get("prompt_id"), row.get("first_id"), row.get("second_id"))
    elif "level" in row:
        parts = ("criterion", row.get("prompt_id"), row.get("draft_id"), row.get("criterion"))
    else:
        return None
    return parts if all(isinstance(part, str) for part in parts) else None  # type: ignore[return-value]


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in prompt.messages]


def _told(prompt: Prompt) -> dict[str, Any]:
    """Return the prompt as label rows hold it: a text where it is one message of the user, else all messages."""
    text = prompt.text if len(prompt.messages) == 1 else prompt.messages
    return {"prompt": text, "prompt_id": prompt.id, "fields": prompt.fields}
