"""How sure a judge was: the probabilities of the levels it might have named, read off its reply's own tokens.

The mean of the level distribution says more than its mode. The place of the level in the reply is searched for (tokens
need not begin where the word does), what the server gives at that place is added up by level, and a distribution
counts only where at least `LEAST_COVERED` of the probability falls on the menu: a strict schema can force a token
(-9999), and some servers give no alternatives.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from prefdistill.protocols import Token

LEAST_COVERED = 0.9
"""Smallest share of probability that must fall on the menu's answers."""
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')


def spans(text: str, key: str, path: tuple[str, ...] = ()) -> list[tuple[int, int]]:
    """Return where, in a text with JSON objects, the string values of `key` stand, without their quotation marks.

    Args:
        path: the keys of the objects around it, such as `("tone",)` for `{"tone": {"level": "fitting"}}`.
    """
    found: list[tuple[int, int]] = []
    keys: list[str] = []
    last: str | None = None
    is_value = False
    for match in _JSON_TOKEN.finditer(text):
        token = match.group()
        if token == "{":
            keys.append(last if is_value and last is not None else "")
            is_value = False
        elif token == "}":
            keys = keys[:-1]
            is_value = False
        elif token == ":":
            is_value = True
        elif token == ",":
            is_value = False
        elif token.startswith('"'):
            if not is_value:
                last = token[1:-1]
            elif last == key and tuple(keys[1:]) == path:
                found.append((match.start() + 1, match.end() - 1))
    return found


def distribution(
    text: str, tokens: Sequence[Token] | None, span: tuple[int, int], menu: Sequence[str]
) -> tuple[float, ...] | None:
    """Return the probability of each answer on the menu at a place of a reply, summing to 1.

    None where the server's tokens do not spell the reply, give no usable alternatives, or leave more than a tenth of
    the probability off the menu.
    """
    if not tokens:
        return None
    spelled = "".join(token.text for token in tokens)
    offset = spelled.find(text)
    if offset < 0:
        return None
    start, place = offset + span[0], 0
    for number, token in enumerate(tokens):
        if place + len(token.text) > start:
            mass = dict.fromkeys(menu, 0.0)
            _walk(tokens[number:], token.text[: start - place], "", 1.0, mass)
            covered = sum(mass.values())
            if not LEAST_COVERED <= covered <= 1.01:
                return None
            return tuple(mass[answer] / covered for answer in menu)
        place += len(token.text)
    return None


def _walk(tokens: Sequence[Token], head: str, done: str, share: float, mass: dict[str, float]) -> None:
    """Add the probability of what the first token might have been to the answers that it spells.

    `head` is what this token holds before the answer begins, `done` how much of the answer stands already, `share` the
    probability of having come here. An alternative that two answers begin with is followed only where it was sampled.
    """
    if not tokens:
        return
    token = tokens[0]
    alternatives = dict(token.alternatives) or {token.text: token.log_prob}
    for text, log_prob in alternatives.items():
        if not text.startswith(head) or log_prob < -1000:
            continue
        spelled = done + text[len(head) :]
        spelled = spelled if done else spelled.lstrip(" ")
        probability = share * math.exp(min(0.0, log_prob))
        possible = [answer for answer in mass if _begins(answer, spelled)]
        if len(possible) == 1 and spelled:
            mass[possible[0]] += probability
        elif possible and text == token.text:
            _walk(tokens[1:], "", spelled, probability, mass)


def _begins(answer: str, spelled: str) -> bool:
    """Whether an answer, closed by its quotation mark, begins with what is spelled, or the other way round."""
    closed, spelled = f'{answer.strip()}"'.casefold(), spelled.casefold()
    return closed.startswith(spelled) or spelled.startswith(closed)


def mean(distribution: Sequence[float], values: Mapping[str, float], menu: Sequence[str]) -> float:
    """Return the mean of the answers' values under their distribution."""
    return min(1.0, max(0.0, sum(share * values[answer] for share, answer in zip(distribution, menu, strict=True))))
