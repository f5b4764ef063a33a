"""Logs of `prefdistill serve` in a run folder: their files, a prompt's rows in them, and who writes them now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from prefdistill.drift.reading import clean, to_request
from prefdistill.errors import RunError
from prefdistill.records import Prompt
from prefdistill.serve.holding import held
from prefdistill.served import is_served, parse_row


def log_of(path: Path) -> Path:
    """Return the log that a file is one of: of `NAME.jsonl.3` it is `NAME.jsonl`."""
    return path.with_suffix("") if path.suffix[1:].isdigit() else path


def is_log(path: Path) -> bool:
    """Whether the first row of a file is a served request."""
    with path.open("rb") as file:
        row = parse_row(file.readline())
    return row is not None and is_served(row)


def was_asked(row: Mapping[str, Any], prompt: Prompt) -> bool:
    """Whether a row is a served request with the prompt, or with a conversation that begins with it."""
    request = to_request(row, "") if is_served(row) else None
    said = [(each.role, clean(each.content).strip()) for each in prompt.messages if each.role != "system"]
    if request is None or not said:
        return False
    return [(role, text.strip()) for role, text in request.turns[: len(said)]] == said


def is_written(log: Path) -> bool:
    """Whether a server has the log open."""
    with held(log) as ours:
        return not ours


@contextmanager
def nobody_writes(logs: Mapping[Path, bool]) -> Iterator[list[Path]]:
    """Hold logs, which a server would go on writing to; yield those that a server has.

    Args:
        logs: each with whether the prompt is in it.

    Raises:
        RunError: a server writes one that the prompt is in.
    """
    with ExitStack() as stack:
        written = [log for log in logs if not stack.enter_context(held(log))]
        for log in written:
            if logs[log]:
                raise RunError(
                    f"{log}: a server writes this log, and the prompt is in it; stop that server, then run the same "
                    "command again; nothing was removed"
                )
        yield written
