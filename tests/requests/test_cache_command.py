"""`prefdistill cache stats` and `cache clear`."""

import sqlite3
import time

import pytest

from prefdistill.requests.reply_cache import FILE, ReplyCache


@pytest.fixture
def filled(tmp_path):
    cache = ReplyCache(tmp_path / "c")
    for number in range(5):
        cache.put(f"k{number}", {"text": f"confidential-{number}"}, "big" if number < 3 else "small")
    cache._database.execute("UPDATE replies SET made = ? WHERE key = 'k0'", (time.time() - 10 * 86400,))
    cache.close()
    return tmp_path / "c"


def test_stats(filled, prefdistill):
    done = prefdistill("cache", "stats", "--cache", filled)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith(str(filled / FILE))
    assert "replies  5" in lines
    assert "model    big: 3" in lines
    assert "model    small: 2" in lines
    assert lines[-1] == "claims   0 being made, 0 left by processes that have gone"


def test_clear_some_then_all_and_the_text_is_gone(filled, prefdistill):
    assert "1 replies removed" in prefdistill("cache", "clear", "--cache", filled, "--older-than", "5", "--yes").stdout
    assert "2 replies removed" in prefdistill("cache", "clear", "--cache", filled, "--model", "big", "-y").stdout
    assert "no such reply" in prefdistill("cache", "clear", "--cache", filled, "--model", "big", "-y").stdout
    assert "2 replies removed" in prefdistill("cache", "clear", "--cache", filled, "-y").stdout
    assert not any(b"confidential" in file.read_bytes() for file in filled.glob("*") if file.is_file())


def test_it_asks_first(filled, prefdistill):
    done = prefdistill("cache", "clear", "--cache", filled)  # no one answers
    assert done.returncode != 0
    assert "Remove 5 replies" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert ReplyCache(filled).count() == 5


def test_no_cache_is_one_message_and_none_is_made(tmp_path, prefdistill):
    done = prefdistill("cache", "stats", XDG_CACHE_HOME=str(tmp_path / "x"))
    assert done.returncode == 2
    assert "no request cache there" in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_cache_of_version_01_is_read_and_extended(tmp_path):
    database = sqlite3.connect(tmp_path / FILE)
    database.execute(
        "CREATE TABLE replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL, made REAL NOT NULL) WITHOUT ROWID"
    )
    database.execute("""INSERT INTO replies VALUES ('old', '{"text": "x", "logprobs": null}', 1.0)""")
    database.commit()
    database.close()
    cache = ReplyCache(tmp_path)
    assert cache.get("old") == {"text": "x", "logprobs": None}
    cache.put("new", {"text": "y"}, "m")
    assert cache.stats().models == (("", 1), ("m", 1))
    cache.close()
