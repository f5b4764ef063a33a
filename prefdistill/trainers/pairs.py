"""Preference pairs as tokens: what the student is sampled with is what it is trained on.

TRL would render and tokenise conversations itself; here the sampler's own functions do it, so that the prompt's
tokens are the sampled ones by construction and every completion ends in the end token the sampler stops at.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from prefdistill.errors import TrainError
from prefdistill.records import PreferencePair
from prefdistill.template import render_completion, render_prompt, turn_end_id


class TokenRow(Protocol):
    """What a row of any training has."""

    @property
    def id(self) -> str:
        """Of the record that it was made from."""

    @property
    def completions(self) -> tuple[list[int], ...]:
        """What carries loss."""

    @property
    def length(self) -> int:
        """Tokens of prompt and longest completion."""


Rows = TypeVar("Rows", bound=TokenRow)


@dataclass(frozen=True)
class Tokenized(Generic[Rows]):
    """Pairs, or answers, ready to train on, and what had to be left out or cut."""

    rows: tuple[Rows, ...]
    cut: frozenset[str]
    """Ids of those with a completion cut at the maximum length, which therefore does not end in the end token."""
    max_length: int


@dataclass(frozen=True)
class TokenPair:
    """One pair as TRL's three columns, token ids each."""

    pair: PreferencePair
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def id(self) -> str:
        """The pair's."""
        return self.pair.id

    @property
    def completions(self) -> tuple[list[int], ...]:
        """Chosen, then rejected."""
        return self.chosen_ids, self.rejected_ids

    @property
    def length(self) -> int:
        """Tokens of the longer of its two sequences."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


def limit_of(rows: Sequence[TokenRow], max_length: int | str, context: int) -> int:
    """Return the most tokens of a row; `max_length` "auto" is the longest one, up to `context`."""
    longest = max((row.length for row in rows), default=1)
    return min(longest, context) if max_length == "auto" else min(int(max_length), context)


def tokenize_pairs(
    pairs: Sequence[PreferencePair], tokenizer: Any, student: Any, max_length: int | str, context: int
) -> Tokenized[TokenPair]:
    """Tokenise pairs with the sampler's template; `max_length` "auto" is the longest pair, up to `context`."""
    end_id = turn_end_id(tokenizer, student)
    prompts: dict[Any, list[int]] = {}
    rows = []
    for pair in pairs:
        if pair.prompt not in prompts:
            prompts[pair.prompt] = render_prompt(tokenizer, pair.prompt, student)
        chosen, rejected = (render_completion(tokenizer, text, end_id) for text in pair.written)
        rows.append(TokenPair(pair, prompts[pair.prompt], chosen, rejected))
    limit = limit_of(rows, max_length, context)
    kept, cut = [], set()
    for row in rows:
        room = limit - len(row.prompt_ids)
        if row.length > limit:
            row = TokenPair(row.pair, row.prompt_ids, row.chosen_ids[: max(0, room)], row.rejected_ids[: max(0, room)])
            cut.add(row.pair.id)
        # Where nothing is left of the difference there is nothing to learn; such pairs count as dropped.
        if row.chosen_ids != row.rejected_ids:
            kept.append(row)
    return Tokenized(tuple(kept), frozenset(cut), limit)


def full_batches(
    rows: Sequence[Rows], batch_size: int, epochs: int, seed: int, count: int | None = None, what: str = "pairs"
) -> list[list[Rows]]:
    """Return every step's rows: full batches only, shuffled anew each epoch, like lengths side by side in a batch.

    With `count`, so many steps are made instead of whole epochs: rows are repeated, or left over, as that needs.

    A last batch that is not full would be filled up with duplicates when several processes train, or weigh its rows
    more: the remainder of the list is left out. `what` are pairs or answers, for the message.

    Raises:
        TrainError: there are fewer rows than one batch.
    """
    used = len(rows) // batch_size * batch_size
    if not used:
        raise TrainError(
            f"train: {len(rows)} {what}, batch_size {batch_size}: not one full batch; lower train.batch_size, or raise "
            f"loop.prompts_per_round{' or sample.drafts' * (what == 'pairs')} for more {what}"
        )
    wanted = epochs * (used // batch_size) if count is None else count
    steps: list[list[Rows]] = []
    for epoch in itertools.count():
        order = list(range(used))
        random.Random(f"{seed}-{epoch}").shuffle(order)
        for start in range(0, used, batch_size):
            if len(steps) == wanted:
                return steps
            batch = [rows[index] for index in order[start : start + batch_size]]
            # Micro-batches are padded to their longest pair; sorting inside a batch saves padding and changes nothing.
            steps.append(sorted(batch, key=lambda row: (-row.length, row.id)))
    return steps


def to_columns(steps: Sequence[Sequence[TokenPair]]) -> dict[str, list[list[int]]]:
    """Return the steps' pairs, one after the other, as TRL's columns of token ids."""
    rows = [row for step in steps for row in step]
    return {
        "prompt_ids": [row.prompt_ids for row in rows],
        "chosen_ids": [row.chosen_ids for row in rows],
        "rejected_ids": [row.rejected_ids for row in rows],
    }
