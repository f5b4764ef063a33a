"""Read a served log, or any JSONL whose rows have `messages` or `prompt`, as requests.

Rows of `prefdistill serve` bring route, score, time and the rest with them; rows of other servers only texts, and what
fields they have. A row that cannot be read is counted, never guessed at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefdistill.errors import RunError
from prefdistill.served import ServedRows, is_served
from prefdistill.stages.report.examples import visible

TESTS = frozenset({"gate", "length", "log_prob", "out_of_scope"})
"""Reasons by which a request goes to the teacher although student and teacher are up."""
_NO_FIELDS = frozenset(
    {"messages", "prompt", "id", "completion", "model", "response", "usage", "split", "tags", "schema"}
)
_TIMES = ("time", "timestamp", "created_at", "created")
EXPECTED = "expected the log of `prefdistill serve`, or JSONL whose rows have `messages` or `prompt`"


@dataclass(frozen=True)
class Request:
    """One request of a log, or one training prompt."""

    id: str
    turns: tuple[tuple[str, str], ...] = ()
    """(role, text) of all but system messages; empty where redacted."""
    system: str | None = None
    """The system message, where there is one."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    characters: int | None = None
    """Of the prompt; where redacted of all messages, as logged."""
    time: datetime | None = None
    distance: float | None = None
    """As logged; used where there is no text to measure."""
    fallback: bool | None = None
    """Whether a test spoke against the student's answer; None where that is not known, or someone was down."""
    score: float | None = None
    """Judged in the background, of an answer of the student."""
    judge: str | None = None
    seconds: float | None = None
    redacted: bool = False

    @property
    def text(self) -> str | None:
        """What is compared: all turns, a line each; None where redacted."""
        return "\n".join(text for _, text in self.turns) if self.turns else None


@dataclass(frozen=True)
class LogRead:
    """A log as it was read."""

    requests: tuple[Request, ...]
    """In the log's order."""
    unreadable: int
    """Lines that are no request: broken ones, and rows without a prompt."""
    other_models: Mapping[str, int]
    """Requests to other models, left out: by name."""


def read_log(paths: Sequence[Path], models: frozenset[str]) -> LogRead:
    """Read logs as requests, each once; see `ServedRows`.

    Args:
        paths: files.
        models: names of the run; rows of `prefdistill serve` that name another model are left out. Empty: none is.

    Raises:
        RunError: a file is missing or unreadable, or no row of all files is a request to this run.
    """
    found: list[Request] = []
    others: Counter[str] = Counter()
    rows = ServedRows(paths)
    for row, where, place in rows:
        if models and is_served(row) and row["model"] not in models:
            others[clean(row["model"])] += 1
        elif (request := to_request(row, place)) is not None:
            found.append(request)
        else:
            rows.refuse(where, "no prompt")
    names = ", ".join(map(str, paths))
    if not rows.lines:
        raise RunError(f"{names}: the log is empty; {EXPECTED}; nothing was served yet, or it is written elsewhere")
    if not found and others:
        told = ", ".join(f"`{visible(name, 60)}` ({count:,})" for name, count in others.most_common(5))
        most = visible(others.most_common(1)[0][0], 60)
        raise RunError(
            f"{names}: no request to this run ({' or '.join(f'`{name}`' for name in sorted(models))}): the log's are to "
            f"{told}; name the run that was served, or pass --model {most} if it was this one"
        )
    if not found:
        raise RunError(f"{names}: none of {rows.lines:,} lines is a request; {EXPECTED}")
    return LogRead(tuple(found), rows.unreadable, dict(others))


def to_request(row: Mapping[str, Any], where: str) -> Request | None:
    """Turn a row of a log into a request; None where it has no prompt and none was left out on purpose.

    `where` is the id of a row of another server, whose own ids may be those of users or conversations.
    """
    served = is_served(row)
    turns, system = _turns(row)
    redacted = served and not turns
    if not turns and not served:
        return None
    clock = next((name for name in _TIMES if parse_time(row.get(name)) is not None), None)
    fields = row.get("fields") if isinstance(row.get("fields"), dict) else None
    if fields is None:
        others = {key: value for key, value in row.items() if key not in _NO_FIELDS and key != clock}
        fields = {} if served else others
    request = Request(
        id=str(row.get("id") or where) if served else where,
        turns=turns,
        system=system,
        fields={str(key): value for key, value in fields.items()},
        characters=_whole(row.get("prompt_characters")) if redacted else _characters(turns),
        time=None if clock is None else parse_time(row[clock]),
        redacted=redacted,
    )
    return _with_outcome(request, row) if served else request


def _with_outcome(request: Request, row: Mapping[str, Any]) -> Request:
    reason, route = row.get("reason"), row.get("route")
    known = reason == "kept" or reason in TESTS or bool(row.get("fired"))
    score = finite(row.get("score")) if route == "student" else None
    return replace(
        request,
        distance=finite(row.get("distance")),
        fallback=(reason in TESTS or bool(row.get("fired"))) if known else None,
        score=score,
        judge=clean(str(row["score_judge"])) if score is not None and row.get("score_judge") else None,
        seconds=finite(row.get("seconds")),
    )


def _turns(row: Mapping[str, Any]) -> tuple[tuple[tuple[str, str], ...], str | None]:
    """Return a row's turns and its system message; messages of tools are passed over."""
    messages = row.get("messages")
    if not isinstance(messages, list):
        prompt = row.get("prompt")
        return ((("user", clean(prompt)),), None) if isinstance(prompt, str) and prompt.strip() else ((), None)
    turns: list[tuple[str, str]] = []
    system: list[str] = []
    for message in messages:
        if not isinstance(message, dict):
            continue
        role, text = message.get("role"), clean(_content(message.get("content")))
        if role in ("system", "developer"):
            system.append(text)
        elif role in ("user", "assistant"):
            turns.append((role, text))
    return (tuple(turns) if any(text.strip() for _, text in turns) else ()), "\n".join(system) or None


def _content(content: Any) -> str:
    """Return a message's text; of a list of parts the texts, a line each."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(part for part in parts if isinstance(part, str))
    return ""


def clean(text: str) -> str:
    """Return text that can be encoded: halves of characters, which JSON can hold, become question marks."""
    return text.encode("utf-8", "replace").decode()


def _characters(turns: Sequence[tuple[str, str]]) -> int:
    return sum(len(text) for _, text in turns)


def parse_time(value: Any) -> datetime | None:
    """Parse a moment: ISO 8601, or seconds since 1970; without a zone it is UTC. None where it is neither."""
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value.strip())
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found = datetime.fromtimestamp(value / 1000 if value > 1e11 else value, UTC)
        else:
            return None
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def finite(value: Any) -> float | None:
    """Return a number of JSON; None for anything else, and where no float can hold it."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _whole(value: Any) -> int | None:
    number = finite(value)
    return None if number is None else int(number)
