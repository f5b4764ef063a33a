"""Count each prompt and each conversation once: one user who asks a hundred times is no evidence of a hundred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefdistill.drift.reading import Request
from prefdistill.records import digest


@dataclass(frozen=True)
class Distinct:
    """The requests that count."""

    requests: tuple[Request, ...]
    """In the log's order."""
    repeats: int
    """Requests left out because the same prompt was there before; capitals and spaces aside."""
    further_turns: int
    """Requests left out because they belong to a conversation that is counted already."""
    most: int
    """How often the most frequent prompt was asked."""


def distinct(requests: Sequence[Request]) -> Distinct:
    """Leave out repeats, and all but one turn of each conversation; redacted requests all stay.

    Of a conversation one turn stands for all, drawn by hash, so that first and later turns both occur.
    """
    sessions = _sessions(requests)
    chosen: dict[int, int] = {}
    for index, session in enumerate(sessions):
        before = chosen.setdefault(session, index)
        if digest(requests[index].id) < digest(requests[before].id):
            chosen[session] = index
    seen: dict[object, int] = {}
    kept = []
    for index in sorted(chosen.values()):
        request = requests[index]
        key = request.id if request.text is None else (_plain(request.system or ""), _plain(request.text))
        seen[key] = seen.get(key, 0) + 1
        if seen[key] == 1:
            kept.append(request)
    return Distinct(tuple(kept), len(chosen) - len(kept), len(requests) - len(chosen), max(seen.values(), default=0))


def _sessions(requests: Sequence[Request]) -> list[int]:
    """Return the conversation of each request: the one whose last request it goes on from, or one of its own.

    A request goes on from another when it begins with the other's turns, an answer and then one turn more; each is
    gone on from once, so a greeting that many begin with does not make one conversation of them.
    """
    waiting: dict[str, list[int]] = {}
    found: list[int] = []
    for index, request in enumerate(requests):
        session = index
        turns = request.turns
        if len(turns) >= 3 and turns[-2][0] == "assistant" and (open_ones := waiting.get(digest(turns[:-2]))):
            session = open_ones.pop()
        found.append(session)
        if turns:
            waiting.setdefault(digest(turns), []).append(session)
    return found


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
