"""One person's labels: which question is next, each answer on disk before the next is shown, undo, skip and resume.

The file holds exactly the labels that stand: an answer is one line, appended and synced; undo takes the last line away
again. Skipping writes nothing, so a skipped question comes back, last, when the file is opened again.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from prefdistill.errors import RunError
from prefdistill.labelling.tasks import Identity, PairTask, Task, identity_of, task_id
from prefdistill.run import disk_errors

LONGEST_SECONDS = 86_400.0
EXCHANGED = {"first": "second", "second": "first", "tie": "tie"}


class StaleAnswerError(Exception):
    """The page's question is not the one that is open: answered in another tab, or undone there."""


class LabelFile:
    """A JSONL file of labels, appended row by row; each row is on the disk when `append` returns.

    Raises:
        RunError: a line cannot be read, or another process has the file open for labelling.
    """

    def __init__(self, path: Path) -> None:
        from filelock import FileLock, Timeout

        self.path = path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(path.with_name(f".{path.name}.lock"))
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise RunError(
                    f"{path}: another prefdistill process is labelling into this file; use its page, end it, or give "
                    "another name with --by or another file with --out"
                ) from None
        try:
            with disk_errors(path):
                self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
                self.rows = self._read()
        except BaseException:
            self._lock.release()
            raise

    def _read(self) -> list[tuple[int, dict[str, Any]]]:
        """Return every row with the offset of its line; a line that a kill left torn is cut off."""
        rows: list[tuple[int, dict[str, Any]]] = []
        offset = 0
        content = self.path.read_bytes()
        lines = content.splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError("not an object")
                    rows.append((offset, row))
                except ValueError as problem:
                    if number == len(lines) and not line.endswith(b"\n"):
                        os.ftruncate(self._descriptor, offset)
                        break
                    raise RunError(
                        f"{self.path}:{number}: not a label row ({problem}); expected one JSON object a line; restore "
                        "or remove the line, or write to another file with --out"
                    ) from None
            offset += len(line)
        else:
            if content and not content.endswith(b"\n"):
                self._write(offset, b"\n")
                offset += 1
        self._end = offset
        return rows

    def _write(self, offset: int, data: bytes) -> None:
        with disk_errors(self.path):
            try:
                os.lseek(self._descriptor, offset, os.SEEK_SET)
                while data:
                    data = data[os.write(self._descriptor, data) :]
                os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, offset)  # a full disk leaves no half line
                raise

    def append(self, row: dict[str, Any]) -> None:
        """Add one row and wait until it is on the disk."""
        self._unchanged()
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        self._write(self._end, line)
        self.rows.append((self._end, row))
        self._end += len(line)

    def take_back(self) -> None:
        """Remove the last row."""
        self._unchanged()
        offset, _ = self.rows[-1]
        with disk_errors(self.path):
            os.ftruncate(self._descriptor, offset)
            os.fsync(self._descriptor)
        self.rows.pop()
        self._end = offset

    def _unchanged(self) -> None:
        """Refuse to write to a closed file, or over what another program did to it."""
        if self._descriptor < 0:
            raise RunError(f"{self.path}: labelling has ended; nothing was written: start `prefdistill label` again")
        try:
            same = os.path.samestat(os.stat(self.path), os.fstat(self._descriptor))
        except FileNotFoundError:
            same = False
        if not same or os.fstat(self._descriptor).st_size != self._end:
            raise RunError(
                f"{self.path}: changed by another program while it was open for labelling; nothing was written: end "
                "`prefdistill label` with Ctrl-C and start it again"
            )

    def close(self) -> None:
        """Close the file and let others have it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._lock.release()


class Session:
    """The questions for one person, and their answers.

    Args:
        tasks: from `pick_pairs` or `pick_criteria`.
        path: the label file; rows of other people and of other questions in it are left alone.
        by: the person's name.
    """

    def __init__(self, tasks: Sequence[Task], path: Path, by: str) -> None:
        self.by, self.path = by, path
        self._file = LabelFile(path)
        self._lock = threading.Lock()
        rows = [row for _, row in self._file.rows if row.get("by") == by]
        stored = {identity: row for row in rows if (identity := identity_of(row))}
        self.tasks = [_as_stored(task, stored) for task in tasks]
        self._by_identity: dict[Identity, Task] = {task.identity: task for task in self.tasks}
        self._answers: dict[Identity, dict[str, Any]] = {
            identity: row for identity, row in stored.items() if identity in self._by_identity
        }
        open_tasks = [task for task in self.tasks if task.identity not in self._answers]
        reached = max((n for n, task in enumerate(self.tasks) if task.identity in self._answers), default=-1)
        passed = {task.identity for task in self.tasks[: reached + 1]}  # skipped, or new with a larger count
        self._queue = sorted(open_tasks, key=lambda task: task.identity in passed)
        self._skipped: list[Task] = []
        self._history: list[tuple[str, Identity]] = []
        """(label or skip, question), the last one last."""
        for _, row in reversed(self._file.rows):
            identity = identity_of(row)
            if identity is None or self._answers.get(identity) is not row:
                break  # what lies before another's row cannot be taken back
            self._history.insert(0, ("label", identity))
        self.resumed = len(self._answers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()

    @property
    def done(self) -> int:
        """How many of the questions are answered."""
        return len(self._answers)

    @property
    def skipped(self) -> int:
        """How many were skipped since the file was opened."""
        return len(self._skipped)

    def state(self) -> dict[str, Any]:
        """Return what the page shows: the open question, the counts, and what undo would take back."""
        with self._lock:
            return self._state()

    def answer(self, question: str, answer: str, seconds: float) -> dict[str, Any]:
        """Store an answer to the open question and return the next state.

        The same answer to the question that was answered last is taken as the same key press, sent again.

        Raises:
            StaleAnswerError: another question is open.
            RunError: the file cannot be written.
        """
        with self._lock:
            if not self._queue or task_id(self._queue[0]) != question:
                if self._history and self._history[-1][0] == "label":
                    last = self._by_identity[self._history[-1][1]]
                    if task_id(last) == question and _given(self._answers[last.identity]) == answer:
                        return self._state()
                raise StaleAnswerError("this one was answered or moved on in another tab; here is what is open now")
            task = self._queue[0]
            if answer not in task.answers:
                raise ValueError(f"`{answer}` is no answer here; expected one of {', '.join(task.answers)}")
            taken = round(min(max(seconds, 0.0), LONGEST_SECONDS), 2)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            row = task.label(answer, by=self.by, seconds=taken, at=now).model_dump(mode="json", exclude_none=True)
            self._file.append(row)
            self._queue.pop(0)
            self._answers[task.identity] = row
            self._history.append(("label", task.identity))
            return self._state()

    def skip(self, question: str) -> dict[str, Any]:
        """Put the open question aside without a label and return the next state.

        Raises:
            StaleAnswerError: another question is open.
        """
        with self._lock:
            if not self._queue or task_id(self._queue[0]) != question:
                raise StaleAnswerError("this one was answered or moved on in another tab; here is what is open now")
            task = self._queue.pop(0)
            self._skipped.append(task)
            self._history.append(("skip", task.identity))
            return self._state()

    def undo(self, question: str) -> dict[str, Any]:
        """Take back the last answer or skip, whose question is then open again, and return that state.

        Raises:
            StaleAnswerError: `question` is not what was answered or skipped last.
            RunError: the file cannot be written.
        """
        with self._lock:
            if not self._history or task_id(self._by_identity[self._history[-1][1]]) != question:
                raise StaleAnswerError("that was taken back in another tab already; here is what is open now")
            what, identity = self._history[-1]
            if what == "label":
                self._file.take_back()
                del self._answers[identity]
            else:
                self._skipped.remove(self._by_identity[identity])
            self._history.pop()
            self._queue.insert(0, self._by_identity[identity])
            return self._state()

    def take_up_skipped(self) -> dict[str, Any]:
        """Open the skipped questions again, after all others, and return the state."""
        with self._lock:
            self._history = [each for each in self._history if each[0] == "label"]
            self._queue += self._skipped
            self._skipped = []
            return self._state()

    def consistency(self) -> tuple[int, int]:
        """Return how many repeated pairs got the same answer with their sides exchanged, and how many were repeated."""
        same = asked = 0
        for task in self.tasks:
            if isinstance(task, PairTask) and task.again:
                before, now = self._answers.get(task.exchanged().identity), self._answers.get(task.identity)
                if before and now:
                    asked += 1
                    same += before["winner"] == EXCHANGED[now["winner"]]
        return same, asked

    def _state(self) -> dict[str, Any]:
        last = self._history[-1] if self._history else None
        same, asked = self.consistency()
        return {
            "by": self.by,
            "total": len(self.tasks),
            "done": self.done,
            "skipped": self.skipped,
            "task": self._queue[0].shown() if self._queue else None,
            "undo": last and task_id(self._by_identity[last[1]]),
            "last": last and (_given(self._answers[last[1]]) if last[0] == "label" else "skip"),
            "file": str(self.path),
            "seconds": self._pace(),
            "answers": dict(Counter(_given(row) for row in self._answers.values())) if not self._queue else None,
            "repeated": {"same": same, "asked": asked} if not self._queue else None,
        }

    def _pace(self) -> float | None:
        """Return the median seconds of the last answers, None until there are five."""
        times = sorted(float(row.get("seconds") or 0) for row in list(self._answers.values())[-20:])
        return times[len(times) // 2] if len(times) >= 5 else None


def _given(row: dict[str, Any]) -> str:
    """Return the answer that a row holds."""
    return str(row.get("winner", row.get("level")))


def _as_stored(task: Task, stored: dict[Identity, dict[str, Any]]) -> Task:
    """Return the task with the sides under which its pair was labelled before, perhaps with another seed."""
    if not isinstance(task, PairTask):
        return task
    asked_first = task.exchanged() if task.again else task
    turned = asked_first.identity not in stored and asked_first.exchanged().identity in stored
    return task.exchanged(again=task.again) if turned else task
