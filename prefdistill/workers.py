"""Threads for waiting: what the request layer and the judge stage run their work on.

Daemon threads, unlike those of `ThreadPoolExecutor`, do not keep an interrupted process alive until the last
request has been answered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class Workers:
    """At most `count` daemon threads, started as they are needed, that run what is submitted in order."""

    def __init__(self, count: int, name: str) -> None:
        if count < 1:
            raise ValueError(f"{name}: found {count} threads; expected at least 1")
        self.count = count
        self.name = name
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._stopped = False

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Run `work` on a thread; its result or exception is in the future."""
        future: Future[Result] = Future()
        with self._lock:
            if self._stopped:
                future.cancel()
                return future
            self._tasks.put((future, work))
            if len(self._threads) < self.count and not self._idle.acquire(blocking=False):
                name = f"{self.name}-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
                self._threads[-1].start()
        return future

    def _run(self) -> None:
        while True:
            try:
                task = self._tasks.get_nowait()
            except Empty:
                self._idle.release()
                task = self._tasks.get()
            if task is None:
                return
            future, work = task
            if future.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as problem:
                    future.set_exception(problem)
                else:
                    future.set_result(result)
            del future, work, task  # a waiting thread must not keep a result alive

    def stop(self) -> None:
        """Cancel what has not begun; what is running ends by itself."""
        with self._lock:
            self._stopped = True
            while True:
                try:
                    task = self._tasks.get_nowait()
                except Empty:
                    break
                if task is not None:
                    task[0].cancel()
            for _ in self._threads:
                self._tasks.put(None)
