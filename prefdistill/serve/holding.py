"""One writer a log, and one server a calibration: locks that the operating system lets go of however a server ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefdistill.errors import RunError
from prefdistill.run import disk_errors


@contextmanager
def held_log(path: Path) -> Iterator[None]:
    """Hold a log: two writers would rename it under each other.

    Raises:
        RunError: another server holds it.
    """
    with held(path) as ours:
        if not ours:
            raise RunError(
                f"{path}: another server writes this log; expected one server a log: give this one its own with --log, "
                "or end the other"
            )
        yield


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a file for this process; whether nobody else does. A device or a pipe is anybody's."""
    from filelock import FileLock, Timeout

    path = path.resolve()  # the same file by another name is the same file
    if path.exists() and not path.is_file():
        yield True
        return
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            ours = False
        else:
            ours = True
    try:
        yield ours
    finally:
        lock.release()
