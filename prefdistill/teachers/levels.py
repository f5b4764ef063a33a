"""Questions with a menu: the probability of every answer, read off a causal model in one forward pass.

Where a request's schema leaves nothing open but one level, the answer's JSON is written for the model up to the
level's opening quotation mark, and the model is asked what follows. The menu's answers form a tree of tokens; the
model is read at each place where it branches, which is one place where no two answers begin with the same token.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Slot:
    """The one open place of a schema."""

    keys: tuple[str, ...]
    """The objects' keys from the outside in, such as `("tone", "level")`."""
    menu: tuple[str, ...]
    """The answers that may stand there; at least two."""

    @property
    def before(self) -> str:
        """The reply's JSON up to and with the answer's opening quotation mark."""
        return "".join(f"{{{_json(key)}: " for key in self.keys) + '"'

    @property
    def after(self) -> str:
        """What follows the answer's closing quotation mark."""
        return "}" * len(self.keys)

    def closed(self, answer: str) -> str:
        """Return an answer as JSON writes it, with its closing quotation mark: no answer begins with another."""
        return _json(answer)[1:]


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def slot_of(schema: Mapping[str, Any] | None) -> Slot | None:
    """Return the slot of a schema that is a chain of objects with one key down to a string with a menu, else None."""
    keys: list[str] = []
    node: Any = schema
    while isinstance(node, Mapping) and node.get("type") == "object":
        properties = node.get("properties")
        if not isinstance(properties, Mapping) or len(properties) != 1:
            return None
        ((key, node),) = properties.items()
        keys.append(str(key))
    menu = node.get("enum") if keys and isinstance(node, Mapping) and node.get("type") == "string" else None
    if not isinstance(menu, (list, tuple)) or len(set(menu)) < 2 or not all(isinstance(each, str) for each in menu):
        return None
    return Slot(tuple(keys), tuple(dict.fromkeys(menu)))


@dataclass(frozen=True)
class Branch:
    """A place in the tree of answers where more than one token leads on."""

    context: tuple[int, ...]
    """Tokens of the reply up to here."""
    answers: Mapping[int, tuple[int, ...]]
    """Which answers of the menu each next token leads to."""


@dataclass(frozen=True)
class Menu:
    """A slot as tokens of one tokenizer."""

    slot: Slot
    branches: tuple[Branch, ...]
    lengths: tuple[int, ...]
    """Tokens of the whole reply for each answer."""

    def log_probs(self, read: Sequence[Mapping[int, float]]) -> list[float]:
        """Return each answer's log-probability from those of the next tokens at each branch.

        Where only one token leads on nothing is decided, so nothing is read: the sum over the menu is at most 1.
        """
        totals = [0.0] * len(self.slot.menu)
        for branch, log_probs in zip(self.branches, read, strict=True):
            for token, answers in branch.answers.items():
                for answer in answers:
                    totals[answer] += log_probs[token]
        return totals


def build_menu(slot: Slot, tokenizer: Any) -> Menu:
    """Tokenise a reply for each answer as a whole, as the model would write it, and find where they part.

    Raises:
        ValueError: two answers are the same tokens.
    """
    replies = [
        tuple(tokenizer.encode(slot.before + slot.closed(each) + slot.after, add_special_tokens=False))
        for each in slot.menu
    ]
    return Menu(slot, tuple(_branches(slot, replies, range(len(replies)), 0)), tuple(map(len, replies)))


def _branches(slot: Slot, replies: Sequence[tuple[int, ...]], answers: Sequence[int], depth: int) -> list[Branch]:
    ending = min(answers, key=lambda answer: len(replies[answer]))
    while depth < len(replies[ending]) and len({replies[answer][depth] for answer in answers}) == 1:
        depth += 1
    if depth == len(replies[ending]):
        names = " and ".join(repr(slot.menu[answer]) for answer in answers)
        raise ValueError(f"{names} are the same tokens; expected answers that the model can tell apart")
    leads: dict[int, list[int]] = defaultdict(list)
    for answer in answers:
        leads[replies[answer][depth]].append(answer)
    found = [Branch(replies[ending][:depth], {token: tuple(each) for token, each in leads.items()})]
    for several in leads.values():
        if len(several) > 1:
            found += _branches(slot, replies, several, depth + 1)
    return found


@dataclass(frozen=True)
class Read:
    """What a model expects after a row of tokens."""

    log_probs: Mapping[int, float]
    """Natural logarithms for the tokens asked about."""
    likeliest: tuple[tuple[int, float], ...]
    """The three likeliest tokens of all."""


def read_next(
    model: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int, takes: frozenset[str]
) -> list[Read]:
    """Return what follows each row (its tokens, the next tokens asked about), in one forward pass padded on the left.

    `takes` names what the model's forward method takes besides tokens and mask: position_ids, logits_to_keep.
    """
    import torch

    longest = max(len(ids) for ids, _ in rows)
    padded = torch.tensor([[pad_id] * (longest - len(ids)) + list(ids) for ids, _ in rows], device=model.device)
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in rows], device=model.device)
    options: dict[str, Any] = {
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        "logits_to_keep": 1,
    }
    with torch.inference_mode():
        logits = model(
            input_ids=padded,
            attention_mask=mask,
            use_cache=False,
            **{name: value for name, value in options.items() if name in takes},
        ).logits
        log_probs = logits[:, -1].float().log_softmax(-1)
        top = log_probs.topk(min(3, log_probs.shape[-1]), dim=-1)
        likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        asked = [log_probs[number, list(tokens)].tolist() for number, (_, tokens) in enumerate(rows)]
    return [
        Read(dict(zip(tokens, values, strict=True)), tuple(zip(*best, strict=True)))
        for (_, tokens), values, best in zip(rows, asked, likeliest, strict=True)
    ]
