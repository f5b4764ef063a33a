"""What a served student was asked and what it answered, one line a request: `serve` writes the log, `drift` reads it.

A log is JSONL like every file of a run. It grows while it is read. Whoever reads one reads `ServedRows`: it counts what
it cannot read, and a reader that needs every line (`read_served`) raises on the count. When a log reaches its size it is
renamed to `NAME.1`, the one before to `NAME.2` … A request that is judged in the background is written twice: when it is
answered, and again with its score.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from prefdistill.errors import RunError
from prefdistill.records import Message, Row

Route = Literal["student", "teacher", "none"]
"""Whose answer the client got; none where it got an error."""
Reason = Literal[
    "kept", "gate", "length", "log_prob", "out_of_scope", "student_down", "teacher_down", "teacher_spent", "failed"
]
"""Why: kept (the student's answer passed every test); the first test that sent it to the teacher; who was down, or that the
teacher's dollars of the day were spent."""


class Served(Row):
    """One served request."""

    id: str
    """As in the response's `id`."""
    time: str
    """When it arrived, ISO 8601, UTC."""
    model: str
    """The run's name."""
    route: Route
    reason: Reason
    messages: tuple[Message, ...] = ()
    """As the client sent them; empty where redacted."""
    fields: dict[str, Any] = {}
    """The prompt's named facts, as the client sent them; empty where redacted."""
    completion: str | None = None
    """What the client got; None where redacted or where there is none."""
    draft: str | None = None
    """The student's text where the teacher answered in its place; None where redacted or where there is none."""
    fired: tuple[str, ...] = ()
    """Every test that spoke against the student's answer, in the order of their reasons; empty where none did."""
    gates: tuple[str, ...] = ()
    """Names of the rubric's gates that the student's draft failed."""
    log_prob: float | None = None
    """Mean log-probability of the student's draft, nats a token at temperature 1; None where unknown."""
    distance: float | None = None
    """How far the prompt is from the training prompts; None where unknown."""
    prompt_characters: int = Field(ge=0)
    """Of all messages."""
    prompt_tokens: int | None = Field(default=None, ge=0)
    """As whoever answered counts them; None where unknown."""
    completion_tokens: int | None = Field(default=None, ge=0)
    streamed: bool = False
    """Whether the client asked for a stream."""
    redacted: bool = False
    """Whether texts were left out on purpose."""
    seconds: float = Field(ge=0.0)
    """From the request's arrival to the end of the answer."""
    first_token_seconds: float | None = Field(default=None, ge=0.0)
    """To the first text that the client was sent; None where there was none."""
    score: float | None = None
    """Of the answer that the client got, given in the background, 0 to 1 by a rubric, a failed gate counting 0; None
    where it was not sampled or could not be judged."""
    score_judge: str | None = None
    """Who judged it; given exactly where there is a score."""
    usd: float | None = Field(default=None, ge=0.0)
    """What the teacher's answer cost; 0 where it was not asked, None where unknown."""

    @model_validator(mode="after")
    def _judged_by_someone(self) -> Self:
        if (self.score is None) != (self.score_judge is None):
            raise ValueError("`score` and `score_judge` go together")
        return self

    def key(self) -> str:
        """Return the request's id."""
        return self.id


class ServedLog:
    """A log that is appended to, and renamed by number when it reaches its size; for one writer."""

    def __init__(self, path: Path, most_bytes: int = 100_000_000, keep: int = 5) -> None:
        """Open it for appending, a torn last line cut off first.

        Args:
            path: the file.
            most_bytes: its size before a new one is begun.
            keep: how many older ones are kept.

        Raises:
            RunError: it cannot be written.
        """
        self.path = path
        self.most_bytes = most_bytes
        self.keep = keep
        self._file: IO[bytes] = self._opened()

    def append(self, row: Served) -> None:
        """Add one row; it is handed to the operating system before this returns.

        Raises:
            OSError: the disk is full, say.
        """
        line = row.model_dump_json().encode() + b"\n"
        if self._file.tell() and self._file.tell() + len(line) > self.most_bytes:
            self._rotate()
        self._file.write(line)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _opened(self) -> IO[bytes]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
            with self.path.open("rb+") as file:
                _cut_torn_line(file)
            return self.path.open("ab")
        except OSError as problem:
            raise RunError(
                f"{self.path}: the log cannot be written ({problem.strerror or problem}); expected a writable file: "
                "name another with --log"
            ) from None

    def _rotate(self) -> None:
        self._file.close()
        for number in range(self.keep, 0, -1):
            older = _numbered(self.path, number)
            newer = self.path if number == 1 else _numbered(self.path, number - 1)
            if newer.exists():
                os.replace(newer, older)
        if self.keep == 0:
            self.path.unlink()
        self._file = self._opened()


class LogRow(NamedTuple):
    """One line of a log."""

    row: dict[str, Any]
    """As it stands there: of `prefdistill serve`, or of another server."""
    where: str
    """File and line, as an error names them."""
    place: str
    """The same by the number of the file among those that are read: an id that does not depend on where a log lies."""


class ServedRows:
    """The rows of logs, each request once; what is no row is counted, and raises nothing.

    Of each log the numbered older files come first. A request that was judged has its score, in the place where it was
    answered. A last line that is still being written, or that a kill left torn, is none.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.files = [each for path in paths for each in (*older_logs(path), path)]
        self.lines = 0
        """Lines that were read; blank ones are none."""
        self.unreadable = 0
        """Lines that are no row, and rows that the reader refused."""
        self.first = ""
        """Where the first of them is, and what is wrong with it."""

    def __iter__(self) -> Iterator[LogRow]:
        """Yield the rows, counting anew.

        Raises:
            RunError: a file is missing or cannot be read.
        """
        judged = {
            id: found.row
            for found in self._rows(_JUDGED.search)
            if (id := _request_id(found.row)) is not None and found.row.get("score_judge")
        }
        self.lines, self.unreadable, self.first = 0, 0, ""
        given: set[str] = set()
        for found in self._rows():
            id = _request_id(found.row)
            if id is None:
                yield found
            elif id not in given:
                given.add(id)
                yield found._replace(row=judged.get(id, found.row))

    def refuse(self, where: str, why: str) -> None:
        """Count a line that is nothing for the reader."""
        self.unreadable += 1
        self.first = self.first or f"{where}: {why}"

    def _rows(self, wanted: Callable[[bytes], object] = bytes.strip) -> Iterator[LogRow]:
        for file, path in enumerate(self.files, start=1):
            for number, line in _lines(path):
                if not wanted(line):
                    continue
                row, where = parse_row(line), f"{path}:{number}"
                if row is None and not line.endswith(b"\n"):
                    continue
                self.lines += 1
                if row is None:
                    self.refuse(where, "no object of JSON")
                else:
                    yield LogRow(row, where, f"{file}:{number}")


_JUDGED = re.compile(rb'"score_judge"\s*:\s*"')
EXPECTED = "expected the log of `prefdistill serve`"


def read_served(paths: Iterable[Path]) -> Iterator[Served]:
    """Yield every request once, with its score where it has one, of logs that hold nothing else.

    Raises:
        RunError: a file is missing or cannot be read; after the last request, if a line was no served request.
    """
    rows = ServedRows(paths)
    for found in rows:
        try:
            yield Served.model_validate(found.row)
        except ValidationError as problem:
            error = problem.errors()[0]
            name = ".".join(str(part) for part in error["loc"])
            rows.refuse(found.where, f"{name}: {error['msg']}" if name else error["msg"])
    if rows.unreadable:
        where, _, why = rows.first.partition(": ")
        counted = f"{rows.unreadable} of {rows.lines} lines like it" if rows.unreadable > 1 else "the only such line"
        raise RunError(f"{where}: no served request ({why}; {counted}); {EXPECTED}")


def is_served(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of `prefdistill serve`."""
    return all(isinstance(row.get(name), str) for name in ("model", "route", "reason"))


def parse_row(line: bytes) -> dict[str, Any] | None:
    """Parse a line of a log; None where it is no object of JSON."""
    try:
        row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def older_logs(path: Path) -> Iterator[Path]:
    """Yield a log's older files, the oldest first."""
    number = 1
    while _numbered(path, number).is_file():
        number += 1
    yield from (_numbered(path, each) for each in range(number - 1, 0, -1))


def _request_id(row: Mapping[str, Any]) -> str | None:
    """Return the id of a served request; those of other servers may be of users or conversations."""
    id = row.get("id")
    return id if isinstance(id, str) and id and is_served(row) else None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            yield from enumerate(file, start=1)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; {EXPECTED}") from None
    except OSError as problem:
        raise RunError(f"{path}: cannot be read ({problem.strerror or problem}); {EXPECTED}") from None


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _cut_torn_line(file: IO[bytes]) -> None:
    """Remove a last line without its newline, reading the file's end alone: a log may be large."""
    end = file.seek(0, os.SEEK_END)
    start = end
    while start > 0:
        size = min(65_536, start)
        start = file.seek(start - size)
        found = file.read(size).rfind(b"\n")
        if found >= 0:
            start += found + 1
            break
    if start < end:
        file.truncate(start)
