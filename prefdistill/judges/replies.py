"""Teachers' replies to levels and winners: read from fixed fields of one JSON object, or not at all.

The rule: the verdict is the one outermost JSON object in the reply that has at least one of the expected keys; it may
stand in a code fence, before or after other text. Two such objects that differ say two things (one may be quoted from
a draft), and one inside braces that are no JSON may be a quotation: neither is a verdict. It must hold every expected
key and no other, and each answer must be on the menu. Nothing else counts: no first letter, no word in the prose.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

from prefdistill.rubric import Criterion

Reason = Literal["none", "brief", "full"]
Winner = Literal["first", "second", "tie"]


class UnreadableReplyError(ValueError):
    """A reply without a verdict that can be trusted."""


def level_schema(criteria: Sequence[Criterion], reason: Reason) -> dict[str, Any]:
    """Return the JSON Schema of a pointwise verdict: per criterion its reason, then its level."""
    return _level_schema(tuple((each.name, each.levels or ()) for each in criteria), reason)


@lru_cache(maxsize=256)
def _level_schema(menus: tuple[tuple[str, tuple[str, ...]], ...], reason: Reason) -> dict[str, Any]:
    return _strict_object({name: _strict_object(_answer(levels, "level", reason)) for name, levels in menus})


@lru_cache
def winner_schema(reason: Reason) -> dict[str, Any]:
    """Return the JSON Schema of a comparison."""
    return _strict_object(_answer(get_args(Winner), "winner", reason))


def parse_levels(text: str, criteria: Sequence[Criterion]) -> dict[str, tuple[str, str]]:
    """Return each criterion's level, as the rubric spells it, and its reason.

    Raises:
        UnreadableReplyError: there is no verdict, a criterion is missing or unknown, or a level is not on the menu.
    """
    menus = {each.name: each.levels or () for each in criteria}
    found = _only_object(text, menus)
    _check_keys(found, menus, menus)
    answers: dict[str, tuple[str, str]] = {}
    for name, levels in menus.items():
        answer = found[name]
        if not isinstance(answer, dict):
            raise UnreadableReplyError(f"{name}: found {_shown(answer)}; expected an object with a level")
        _check_keys(answer, {"level"}, {"reason", "level"}, f"{name}: ")
        answers[name] = (_on_menu(answer["level"], levels, name), _reason(answer, name))
    return answers


def parse_winner(text: str) -> tuple[Winner, str]:
    """Return which of two drafts is better, and the reason.

    Raises:
        UnreadableReplyError: there is no verdict, or the winner is none of first, second and tie.
    """
    found = _only_object(text, {"winner"})
    _check_keys(found, {"winner"}, {"reason", "winner"})
    winner: Any = _on_menu(found["winner"], get_args(Winner), "winner")
    return winner, _reason(found, "winner")


def _strict_object(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the strict subset's object: every property required, no other allowed."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _answer(menu: Sequence[str], key: str, reason: Reason) -> dict[str, Any]:
    """Return the properties of one answer, the reason first where one is wanted."""
    first = {} if reason == "none" else {"reason": {"type": "string"}}
    return {**first, key: {"type": "string", "enum": list(menu)}}


def _only_object(text: str, keys: Collection[str]) -> dict[str, Any]:
    """Return the outermost JSON object that has one of `keys`; several are fine only if they are equal."""
    found = [candidate for candidate, _ in _objects(text) if any(key in candidate for key in keys)]
    if not found:
        raise UnreadableReplyError(f"no JSON object with the key {' or '.join(sorted(keys))}; expected one")
    if any(candidate != found[0] for candidate in found):
        raise UnreadableReplyError(f"{len(found)} verdicts that differ; expected one")
    return found[0]


def verdict_range(text: str, key: str) -> tuple[int, int] | None:
    """Return where the verdict with this key stands in a reply: the object that is read, and no quotation beside it."""
    ranges = [place for candidate, place in _objects(text) if key in candidate]
    return ranges[-1] if ranges else None


def _objects(text: str) -> Iterator[tuple[dict[str, Any], tuple[int, int]]]:
    """Yield the outermost JSON objects of a text and where they stand; what is inside braces that are no JSON is not."""
    decoder = json.JSONDecoder(object_pairs_hook=_without_repeats)
    position = text.find("{")
    while position >= 0:
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = _closing(text, position)
        else:
            if isinstance(value, dict):
                yield value, (position, end)
        position = text.find("{", end)


def _closing(text: str, position: int) -> int:
    """Return where the braces opened at `position` close again, else the next character (a lone brace in prose)."""
    depth = 0
    for place in range(position, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return place + 1
    return position + 1


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; one that names a key twice says two things, so its value counts as no answer."""
    built = dict(pairs)
    if len(built) < len(pairs):
        names = [name for name, _ in pairs]
        for name in built:
            if names.count(name) > 1:
                built[name] = None
    return built


def _check_keys(found: Mapping[str, Any], needed: Collection[str], allowed: Collection[str], where: str = "") -> None:
    """Check that an object has every needed key and no unknown one."""
    if missing := [key for key in needed if key not in found]:
        raise UnreadableReplyError(f"{where}no {', '.join(missing)}; expected {', '.join(needed)}")
    if unknown := [key for key in found if key not in allowed]:
        raise UnreadableReplyError(f"{where}unexpected {', '.join(unknown)[:100]}; expected {', '.join(allowed)}")


def _on_menu(answer: Any, menu: Sequence[str], name: str) -> str:
    """Return the answer as the menu spells it (case and outer space aside)."""
    text = str(answer) if isinstance(answer, (str, int)) and not isinstance(answer, bool) else None
    for level in menu:
        if text is not None and text.strip().casefold() == level.strip().casefold():
            return level
    raise UnreadableReplyError(f"{name}: found {_shown(answer)}; expected one of {', '.join(menu)}")


def _reason(answer: Mapping[str, Any], name: str) -> str:
    reason = answer.get("reason", "")
    if not isinstance(reason, str):
        raise UnreadableReplyError(f"{name}: the reason is {_shown(reason)}; expected text")
    return reason.strip()


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:80]
