"""Where the calls of one run wait for a batch, and the wait itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefdistill.batches.notes import Batch, BatchNotes
from prefdistill.protocols import Progress
from prefdistill.records import Usage
from prefdistill.requests.calls import Outcome
from prefdistill.requests.layer import RequestLayer

if TYPE_CHECKING:
    from prefdistill.batches.door import BatchDoor

log = logging.getLogger(__name__)

FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 1.0, 60.0


class BatchDesk:
    """Where the calls of one run wait for a batch; its doors are the teachers that may use it."""

    def __init__(self, path: Path) -> None:
        self.doors: list[BatchDoor] = []
        self.notes = BatchNotes(path)
        self._stage_thread: int | None = None
        self._live: dict[tuple[str, str], Usage] = {}
        """What live calls of this stage cost, by cache key and caller's name."""

    @staticmethod
    def of(layer: RequestLayer, directory: Path) -> BatchDesk:
        """Return the run's desk, made when the first teacher asks for it."""
        desk: BatchDesk = layer.memory.setdefault("batches", BatchDesk(directory / "batches.jsonl"))
        return desk

    @contextmanager
    def stage(self) -> Iterator[None]:
        """Collect calls while the block runs; those of the thread that drives it, such as a sampler's, go out live."""
        for door in self.doors:
            door.start_over()
        self._live.clear()
        self._stage_thread = threading.get_ident()
        try:
            yield
        finally:
            self._stage_thread = None
            self.notes.close()

    @property
    def collecting(self) -> bool:
        """Whether a call that is made now, in this thread, should wait for a batch."""
        return self._stage_thread is not None and threading.get_ident() != self._stage_thread

    def counted(self, outcome: Outcome) -> Outcome:
        """Return a live outcome with what it cost in this stage, also where a later pass finds it in the cache."""
        key = (outcome.call.cache_key, outcome.call.key)
        if outcome.usage.calls:
            self._live[key] = outcome.usage
        return replace(outcome, usage=self._live.get(key, outcome.usage))

    @property
    def running(self) -> list[Batch]:
        """Every batch that was made and is not settled."""
        return [batch for door in self.doors for batch in door.running]

    def exchange(self, progress: Progress) -> None:
        """Send every collected call, wait for the replies and put them into the request cache.

        What fails in a way that may pass is collected again by the next pass.

        Raises:
            EndpointError: the server cannot be used, refuses a batch, or somebody cancelled one.
            BudgetError: not even one more request is sure to fit.
        """
        doors = [door for door in self.doors if door.waiting]
        for door in doors:
            door.begin()
        wait = FIRST_POLL_SECONDS
        try:
            while any(door.busy for door in doors):
                changed = [door.advance() for door in doors]
                self._show(progress)
                if any(door.busy for door in doors):
                    wait = FIRST_POLL_SECONDS if any(changed) else min(LONGEST_POLL_SECONDS, 1.5 * wait)
                    time.sleep(wait)
        except KeyboardInterrupt:
            if ids := ", ".join(batch.id for batch in self.running):
                log.warning("batch %s goes on at the server; run the same command again to pick it up", ids)
            raise

    def _show(self, progress: Progress) -> None:
        if not (running := self.running):
            progress("batch", 1, 1, "")
            return
        done, total = sum(batch.done for batch in running), sum(len(batch.keys) for batch in running)
        more = f" and {len(running) - 1} more" if len(running) > 1 else ""
        progress("batch", min(done, total - 1), total, f"batch {running[0].id}{more}: {done} of {total} done")
