"""The request cache: every settled reply in one SQLite file, safe against kills and shared between processes."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from prefdistill.errors import RunError

FILE = "replies.sqlite3"


class ReplyCache:
    """Replies by the hash of their request, in a folder that only its owner can read."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        self._lock = threading.Lock()
        try:
            if not directory.is_dir():
                directory.mkdir(mode=0o700, parents=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            self._database = sqlite3.connect(
                self.path, timeout=60, isolation_level=None, check_same_thread=False, cached_statements=16
            )
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")  # outlives the process; only a power cut can lose rows
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL, made REAL NOT NULL) "
                "WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as problem:
            raise RunError(
                f"{self.path}: the request cache cannot be opened ({problem}); expected a folder that can be written; "
                "set `cache:` to another path, or to `off`"
            ) from None

    def get(self, key: str) -> dict[str, Any] | None:
        """Return a stored reply."""
        try:
            with self._lock:
                row = self._database.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as problem:
            raise RunError(f"{self.path}: the request cache cannot be read ({problem}); move the file away") from None
        return None if row is None else json.loads(row[0])

    def put(self, key: str, reply: dict[str, Any]) -> None:
        """Store a reply; when this returns it survives the process."""
        text = json.dumps(reply, ensure_ascii=False)
        try:
            with self._lock:
                self._database.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", (key, text, time.time()))
        except (OSError, sqlite3.Error) as problem:
            raise RunError(
                f"{self.path}: a reply that was paid for cannot be stored ({problem}); make room or mend the folder, "
                "then run again: every earlier reply is kept"
            ) from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()


def default_cache_directory() -> Path:
    """Return the user's own cache folder for replies."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(home).expanduser() / "prefdistill"
    except RuntimeError:
        raise RunError("no home folder to keep the request cache in; set `cache:` to a path or to `off`") from None
