"""JSONL files that people write: every row checked, and every bad row named with its file and line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from prefdistill.errors import PrefdistillError, did_you_mean

Parsed = TypeVar("Parsed")
SHOWN = 20
"""Bad rows named in one message."""


def read_jsonl(
    path: Path, parse: Callable[[dict[str, Any]], Parsed], error: type[PrefdistillError], what: str
) -> Iterator[Parsed]:
    """Yield every row of a file as `parse` reads it, blank lines aside.

    Args:
        parse: raises ValueError with what was found and what was expected.
        what: what the file should hold, for the message where it has no row.

    Raises:
        error: the file is missing, unreadable or empty, or rows are bad; after the good ones, all bad rows at once.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise error(f"{path}: no such file; expected {what}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path}: cannot be read ({problem}); expected {what}, in UTF-8") from None
    problems: list[str] = []
    rows = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        rows += 1
        try:
            yield parse(_object(line))
        except ValueError as problem:
            problems.append(f"{path}:{number}: {problem}")
    if problems:
        more = f"\n… and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise error("\n".join(problems[:SHOWN]) + more)
    if not rows:
        raise error(f"{path}: the file has no rows; expected {what}")


def _object(line: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"not valid JSON ({problem}); expected one JSON object a line") from None
    if not isinstance(data, dict):
        raise ValueError(f"found a {type(data).__name__}; expected a JSON object")
    return data


def explained(problem: ValidationError, kind: type[BaseModel]) -> str:
    """Return a row's validation errors in one line: key, what was found, what was expected."""
    return "; ".join(dict.fromkeys(_explained(item, kind) for item in problem.errors()))


def _explained(item: Mapping[str, Any], kind: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in item["loc"] if "[" not in str(part))
    if item["type"] == "extra_forbidden":
        keys = sorted(each.alias or name for name, each in kind.model_fields.items())
        return f"{key}: unknown key{did_you_mean(key, keys)} (keys: {', '.join(keys)})"
    if item["type"] == "missing":
        return f"{key}: missing; add this key"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{key}: {message}" if key else message
    found = item.get("input")
    shown = repr(found)[:80] if not isinstance(found, (dict, list)) else f"a {type(found).__name__}"
    return f"{key}: found {shown}; {message[:1].lower() + message[1:]}"
