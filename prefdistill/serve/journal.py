"""The log of what was served, written on a thread of its own: a slow or full disk never holds an answer back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from prefdistill.served import Served, ServedLog

MOST_WAITING = 10_000
"""Rows that may wait for the disk; further ones are dropped, and counted."""
EVERY_SECONDS = 0.05
"""How often what waits is written: a thread that woke for every row would take the interpreter from the answers."""
END_SECONDS = 10.0


class Journal:
    """Rows on their way to a log."""

    def __init__(
        self, log: ServedLog, redact: bool, say: Callable[[str], None], dropped: Callable[[], None] = lambda: None
    ) -> None:
        """Start writing.

        Args:
            log: where rows go; closed by `close`.
            redact: whether texts are left out.
            say: called with what a person should know, once for each new problem.
            dropped: called for each row that could not be written.
        """
        self._log = log
        self._redact = redact
        self._say = say
        self._dropped = dropped
        self._problem = ""
        self._rows: deque[Served] = deque()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="served-log", daemon=True)
        self._thread.start()

    def add(self, row: Served) -> None:
        """Have a row written, soon."""
        if len(self._rows) >= MOST_WAITING:
            self._lost(f"{self._log.path}: the disk is too slow for the log; rows are dropped")
            return
        self._rows.append(redacted(row) if self._redact else row)

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._ending.set()
        self._thread.join(END_SECONDS)
        self._log.close()

    def _run(self) -> None:
        over = False
        while not over:
            over = self._ending.wait(EVERY_SECONDS)
            while self._rows:
                self._write(self._rows.popleft())

    def _write(self, row: Served) -> None:
        try:
            self._log.append(row)
            self._problem = ""
        except (OSError, ValueError) as problem:  # ValueError: a file that could not be opened again is closed
            self._lost(f"{self._log.path}: the log cannot be written ({problem}); rows are lost until it can")

    def _lost(self, problem: str) -> None:
        self._dropped()
        if problem != self._problem:
            self._problem = problem
            self._say(problem)


def redacted(row: Served) -> Served:
    """Return a row without any text of client, student or teacher."""
    return row.model_copy(update={"messages": (), "fields": {}, "completion": None, "draft": None, "redacted": True})
