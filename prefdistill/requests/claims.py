"""Who is making a request right now: one owner a request cache and process, and how others see that it has gone.

An owner holds a lock on a file of its own for as long as its process lives, so that another process on the same
machine sees at once that it was killed; elsewhere its heartbeat in the cache tells, a little later.
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

BEAT_SECONDS = 10.0
EXPIRY_SECONDS = 60.0
"""A claim whose owner has not been heard of for so long may be taken over."""


class Owner:
    """This process as a maker of requests."""

    def __init__(self, directory: Path) -> None:
        """Take a name and hold its lock.

        Raises:
            OSError: the folder cannot be written.
        """
        from filelock import FileLock

        self.name = secrets.token_hex(8)
        self._path = _lock_file(directory, self.name)
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        self._lock = FileLock(self._path, timeout=0, mode=0o600, thread_local=False)
        self._lock.acquire()

    def close(self) -> None:
        """Let go."""
        self._lock.release()
        self._path.unlink(missing_ok=True)


def machine() -> str:
    """Return what tells this machine, since its last start, from others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()} {boot}".strip()


def has_gone(directory: Path, owner: str) -> bool:
    """Whether an owner on this machine has ended: nobody holds its lock."""
    from filelock import FileLock, Timeout

    path = _lock_file(directory, owner)
    if not path.exists():
        return True
    lock = FileLock(path, timeout=0, mode=0o600, thread_local=False)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return False
    path.unlink(missing_ok=True)
    lock.release()
    return True


def remove_strays(directory: Path) -> None:
    """Remove the lock files that killed processes left behind."""
    for path in (directory / "owners").glob("*.lock"):
        has_gone(directory, path.stem)


def _lock_file(directory: Path, owner: str) -> Path:
    return directory / "owners" / f"{os.path.basename(owner)}.lock"
