"""The teacher's answers as tokens: the sampler's template makes them, and the prompt's tokens carry no loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from prefdistill.records import Answer, Message
from prefdistill.template import render_completion, render_prompt, turn_end_id
from prefdistill.trainers.independent import Items
from prefdistill.trainers.pairs import Tokenized, limit_of

MASKED = -100
"""The label of a token that carries no loss, as torch's cross-entropy has it."""


@dataclass(frozen=True)
class TokenAnswer:
    """One answer as token ids."""

    answer: Answer
    prompt_ids: list[int]
    completion_ids: list[int]

    @property
    def id(self) -> str:
        """The answer's."""
        return self.answer.id

    @property
    def completions(self) -> tuple[list[int], ...]:
        """The one completion that is trained on."""
        return (self.completion_ids,)

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt_ids) + len(self.completion_ids)


def tokenize_answers(
    answers: Sequence[Answer], tokenizer: Any, student: Any, max_length: int | str, context: int
) -> Tokenized[TokenAnswer]:
    """Tokenise answers with the sampler's template; `max_length` "auto" is the longest answer, up to `context`."""
    end_id = turn_end_id(tokenizer, student)

    @cache
    def prompt_ids(messages: tuple[Message, ...], block: str | None) -> list[int]:
        return render_prompt(tokenizer, messages, student, block)

    rows = [
        TokenAnswer(each, prompt_ids(each.prompt, each.begun), render_completion(tokenizer, each.written, end_id))
        for each in answers
    ]
    limit = limit_of(rows, max_length, context)
    kept, cut = [], set()
    for row in rows:
        if row.length > limit:
            cut.add(row.id)
            row = TokenAnswer(row.answer, row.prompt_ids, row.completion_ids[: max(0, limit - len(row.prompt_ids))])
        if row.completion_ids:  # a prompt that fills the limit leaves nothing to learn
            kept.append(row)
    return Tokenized(tuple(kept), frozenset(cut), limit)


def to_columns(steps: Sequence[Sequence[TokenAnswer]]) -> dict[str, list[list[int]]]:
    """Return the steps' answers, one after the other, as TRL's columns: sequences, and labels with masked prompts."""
    rows = [row for step in steps for row in step]
    return {
        "input_ids": [[*row.prompt_ids, *row.completion_ids] for row in rows],
        "labels": [[*[MASKED] * len(row.prompt_ids), *row.completion_ids] for row in rows],
    }


def to_items(columns: Mapping[str, Sequence[Sequence[int]]]) -> list[Items]:
    """Return the text of each row as its labels say: what carries no loss, then what does."""
    found: list[Items] = []
    for ids, labels in zip(columns["input_ids"], columns["labels"], strict=True):
        start = next((place for place, label in enumerate(labels) if label != MASKED), len(labels))
        found.append(((tuple(ids[:start]), tuple(labels[start:])),))
    return found
