"""The request cache: every settled reply in one SQLite file, safe against kills and shared between processes.

A process that is about to make a request claims it first; another one that wants the same reply waits for it, and
takes the claim over where its owner has gone (see `claims`).
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from prefdistill.errors import RunError
from prefdistill.requests.claims import BEAT_SECONDS, EXPIRY_SECONDS, Owner, has_gone, machine, remove_strays

FILE = "replies.sqlite3"
AT_ONCE = 500
"""Keys looked up by one statement."""
OPENINGS = 50
"""Attempts to set up a file that another process may be setting up."""
BUSY_SECONDS = 60
"""How long to wait for another process that writes."""
COMPACT_SECONDS = 5.0
"""How long to wait for others that read, before the files are written anew."""
TABLES = """
    CREATE TABLE IF NOT EXISTS replies (
        key TEXT PRIMARY KEY, reply TEXT NOT NULL, made REAL NOT NULL, model TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS claims (
        key TEXT PRIMARY KEY, owner TEXT NOT NULL, machine TEXT NOT NULL, beat REAL NOT NULL) WITHOUT ROWID;
"""


class CacheStats(NamedTuple):
    """What a request cache holds."""

    path: Path
    replies: int
    bytes: int
    """Size of the files on disk."""
    oldest: float | None
    """When its oldest reply was stored, in seconds since 1970; None where there is none."""
    newest: float | None
    models: tuple[tuple[str, int], ...]
    """Replies by model, most first; replies of version 0.1 have no model's name."""
    claims: int
    """Requests that a process is making right now."""
    stale_claims: int
    """Requests whose process has gone; the next one that wants the reply makes them."""

    def lines(self) -> Iterator[str]:
        """Yield what `prefdistill cache stats` prints."""
        yield f"where    {self.path}"
        yield f"replies  {self.replies:,}"
        yield f"size     {self.bytes / 1e6:,.1f} MB"
        if self.oldest is not None and self.newest is not None:
            oldest, newest = (f"{datetime.fromtimestamp(at):%Y-%m-%d %H:%M}" for at in (self.oldest, self.newest))
            yield f"oldest   {oldest}"
            yield f"newest   {newest}"
        for model, count in self.models:
            yield f"model    {model or '(not recorded)'}: {count:,}"
        yield f"claims   {self.claims} being made, {self.stale_claims} left by processes that have gone"


class ReplyCache:
    """Replies by the hash of their request, in a folder that only its owner can read."""

    def __init__(self, directory: Path) -> None:
        """Open the cache in a folder, made if need be.

        Raises:
            RunError: the folder or the file cannot be used.
        """
        self.directory = directory
        self.path = directory / FILE
        self._lock = threading.Lock()
        self._owner: Owner | None = None
        self._machine = machine()
        self._closed = threading.Event()
        try:
            if not directory.is_dir():
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif directory == default_cache_directory():
                directory.chmod(0o700)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            self.path.chmod(0o600)
            self._database = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=32
            )
            self._set_up()
        except (OSError, sqlite3.Error) as problem:
            raise RunError(
                f"{self.path}: the request cache cannot be opened ({problem}); expected a folder that can be written; "
                "set `cache:` to another path, or to `off`"
            ) from None

    def _set_up(self) -> None:
        """Make the tables; a file that another process sets up right now is tried again, for SQLite does not wait."""
        for attempt in range(OPENINGS):
            try:
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=NORMAL")  # outlives the process; a power cut can lose rows
                self._database.execute("PRAGMA secure_delete=ON")  # what is cleared is overwritten
                self._database.executescript(TABLES)
                columns = [row[1] for row in self._database.execute("PRAGMA table_info(replies)")]
                if "model" not in columns:
                    self._database.execute("ALTER TABLE replies ADD COLUMN model TEXT NOT NULL DEFAULT ''")
                return
            except sqlite3.OperationalError:
                if attempt == OPENINGS - 1:
                    raise
                time.sleep(0.02)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return a stored reply."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the stored replies among `keys`.

        Raises:
            RunError: the file cannot be read.
        """
        found: dict[str, dict[str, Any]] = {}
        with self._reading():
            for start in range(0, len(keys), AT_ONCE):
                some = keys[start : start + AT_ONCE]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, reply FROM replies WHERE key IN ({marks})"
                with self._lock:
                    rows = self._database.execute(query, some).fetchall()
                found.update((key, json.loads(reply)) for key, reply in rows)
        return found

    def put(self, key: str, reply: dict[str, Any], model: str = "") -> None:
        """Store a reply and let go of its claim; when this returns the reply survives the process.

        Raises:
            RunError: it cannot be stored.
        """
        text = json.dumps(reply, ensure_ascii=False)
        try:
            with self._lock, self._transaction():
                row = (key, text, time.time(), model)
                self._database.execute(
                    "INSERT OR REPLACE INTO replies (key, reply, made, model) VALUES (?, ?, ?, ?)", row
                )
                if self._owner is not None:
                    self._database.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, self._owner.name))
        except (OSError, sqlite3.Error) as problem:
            raise RunError(
                f"{self.path}: a reply that was paid for cannot be stored ({problem}); make room or mend the folder, "
                "then run again: every earlier reply is kept"
            ) from None

    def claim(self, key: str) -> bool:
        """Claim a request before making it; False where its reply is there by now, or somebody else is making it.

        Raises:
            RunError: the file cannot be written.
        """
        try:
            owner = self._own_name()
            with self._lock:
                made = self._database.execute(
                    "INSERT INTO claims SELECT ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM replies WHERE key = ?) "
                    "ON CONFLICT (key) DO NOTHING",
                    (key, owner, self._machine, time.time(), key),
                ).rowcount
                if made == 1:
                    return True
                row = self._database.execute("SELECT owner, machine, beat FROM claims WHERE key = ?", (key,)).fetchone()
            if row is None or not self._gone(*row):
                return False
            with self._lock:
                self._database.execute("DELETE FROM claims WHERE owner = ? AND beat <= ?", (row[0], row[2]))
        except (OSError, sqlite3.Error) as problem:
            raise RunError(
                f"{self.path}: a request cannot be claimed ({problem}); make room or mend the folder, then run again: "
                "every earlier reply is kept"
            ) from None
        return self.claim(key)

    def release(self, key: str) -> None:
        """Let go of a claim; whoever waits for it makes the request."""
        if self._owner is not None:
            with suppress(sqlite3.Error), self._lock:  # it expires by itself
                self._database.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, self._owner.name))

    def delete(self, keys: Iterable[str]) -> int:
        """Remove replies; return how many there were. Their text may stand in the files until `compact`.

        Raises:
            RunError: the file cannot be written.
        """
        return self._delete("key = ?", [(key,) for key in keys])

    def compact(self) -> bool:
        """Write the files anew without the replies that were removed; False while another process is in the way.

        What was removed is found by nobody who asks the cache, but until then its text may stand in the files: in free
        pages, and in pages that are in use, where rows were moved.

        Raises:
            RunError: the file cannot be written.
        """
        try:
            with self._lock, self._waiting(COMPACT_SECONDS):
                self._database.execute("VACUUM")
                busy: int = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.OperationalError as problem:
            if problem.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise RunError(
                    f"{self.path}: cannot be written anew ({problem}); make room for a second copy of it, then try again"
                ) from None
            busy = 1
        return not busy

    def clear(self, before: float | None = None, model: str | None = None) -> int:
        """Remove the replies stored `before` a time (seconds since 1970) and of one model, as `delete` does.

        Return how many there were.

        Raises:
            RunError: the file cannot be written.
        """
        removed = self._delete(
            "(?1 IS NULL OR made < ?1) AND (?2 IS NULL OR model = ?2)",
            [(before, model)],
        )
        remove_strays(self.directory)
        return removed

    def count(self, before: float | None = None, model: str | None = None) -> int:
        """Return how many replies `clear` would remove."""
        with self._reading(), self._lock:
            query = "SELECT COUNT(*) FROM replies WHERE (?1 IS NULL OR made < ?1) AND (?2 IS NULL OR model = ?2)"
            return int(self._database.execute(query, (before, model)).fetchone()[0])

    def stats(self) -> CacheStats:
        """Return what the cache holds."""
        with self._reading(), self._lock:
            replies, oldest, newest = self._database.execute(
                "SELECT COUNT(*), MIN(made), MAX(made) FROM replies"
            ).fetchone()
            models = self._database.execute(
                "SELECT model, COUNT(*) FROM replies GROUP BY model ORDER BY 2 DESC, 1"
            ).fetchall()
            claims = self._database.execute("SELECT owner, machine, beat FROM claims").fetchall()
        size = sum(file.stat().st_size for file in self.directory.glob(f"{FILE}*"))
        stale = sum(self._gone(*row) for row in claims)
        return CacheStats(self.path, replies, size, oldest, newest, tuple(models), len(claims) - stale, stale)

    def close(self) -> None:
        """Close the file and let go of what was claimed."""
        self._closed.set()
        with self._lock:
            if self._owner is not None:
                with suppress(sqlite3.Error):
                    self._database.execute("DELETE FROM claims WHERE owner = ?", (self._owner.name,))
                self._owner.close()
                self._owner = None
            self._database.close()

    def _own_name(self) -> str:
        """Return this process's name as an owner; its heart begins to beat with its first claim."""
        with self._lock:
            if self._owner is None:
                self._owner = Owner(self.directory)
                threading.Thread(target=self._beat, args=(self._owner.name,), name="claims", daemon=True).start()
            return self._owner.name

    def _beat(self, owner: str) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            with suppress(sqlite3.Error), self._lock:  # a beat that is missed is made up for by the next
                self._database.execute("UPDATE claims SET beat = ? WHERE owner = ?", (time.time(), owner))

    def _gone(self, owner: str, on: str, beat: float) -> bool:
        if self._owner is not None and owner == self._owner.name:
            return False
        return time.time() - beat > EXPIRY_SECONDS or (on == self._machine and has_gone(self.directory, owner))

    def _delete(self, where: str, rows: Sequence[tuple[Any, ...]]) -> int:
        try:
            with self._lock, self._transaction():
                found = self._database.executemany(f"DELETE FROM replies WHERE {where}", rows).rowcount
        except sqlite3.Error as problem:
            raise RunError(
                f"{self.path}: replies cannot be removed ({problem}); mend the folder, then try again"
            ) from None
        return max(0, found)

    @contextmanager
    def _waiting(self, seconds: float) -> Iterator[None]:
        """Wait so long, instead of a minute, for others to let go of the file."""
        self._database.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
        try:
            yield
        finally:
            self._database.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, sqlite3.Error) as problem:
            raise RunError(f"{self.path}: the request cache cannot be read ({problem}); move the file away") from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite has rolled back by itself
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def default_cache_directory() -> Path:
    """Return the user's own cache folder for replies."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(home).expanduser() / "prefdistill"
    except RuntimeError:
        raise RunError("no home folder to keep the request cache in; set `cache:` to a path or to `off`") from None
