"""Processes that are killed while they judge, and processes that judge the same prompts at the same time."""

import json
import os
import random
import signal
import sqlite3
import time
from collections import Counter

import pytest

from prefdistill.requests.reply_cache import FILE, ReplyCache
from prefdistill.requests.spending import Ledger
from tests.commands import forking
from tests.loopback import Loopback, judging_by
from tests.requests.judging_stage import judge_all, pairs_of, quality

GROUPS = 84
CALLS = GROUPS * 6
"""Four drafts and two orders a group."""
IN_FLIGHT = 8


@pytest.fixture(scope="module")
def fork():
    """Children are forked from a process that has imported everything, so that a life begins at once."""
    return forking()


def stored(cache):
    """How many replies the request cache holds, as another process sees it."""
    with sqlite3.connect(cache / FILE) as database:
        return database.execute("SELECT COUNT(*) FROM replies").fetchone()[0]


def quiet(server):
    """Wait until the server has sent, into closed connections too, all that it was asked for."""
    while server.in_flight:
        time.sleep(0.005)
    time.sleep(0.02)


def times_served(server):
    return Counter(json.dumps(body, sort_keys=True) for body in server.served)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill_again_and_again(fork, tmp_path, kills, seed):
    """Judge with `kills` kills on the way; return the server's count and what was in flight at each kill."""
    draw, cache, run = random.Random(seed), tmp_path / "cache", tmp_path / "run"
    in_flight = []
    with Loopback(judging_by(quality), latency_seconds=0.02) as server:
        share = CALLS / (kills + 1)
        while not (run / "done").exists():
            child = fork.Process(target=judge_all, args=(server.url, cache, run, GROUPS, IN_FLIGHT))
            child.start()
            if len(in_flight) < kills:
                moment = max(len(server.requests) + 1, share * (len(in_flight) + draw.random()))
                wait_for(lambda moment=moment: len(server.requests) >= moment)
                time.sleep(draw.uniform(0, 0.03))
                os.kill(child.pid, signal.SIGKILL)
                child.join()
                quiet(server)
                in_flight.append(len(server.served) - stored(cache) - sum(in_flight))
            else:
                child.join(60)
                assert child.exitcode == 0
        assert len(in_flight) == kills, "it was still at work at every kill"
        assert stored(cache) == CALLS
        charged = Ledger(path=run / "spending.jsonl").charged
        billed = [sum(each[part] for each in server.worked) for part in (1, 2)]
        assert charged.calls >= len(server.worked)
        assert charged.usd >= (billed[0] * 1 + billed[1] * 4) / 1e6
        return times_served(server), in_flight


def check_kills(fork, tmp_path, kills, seed):
    served, in_flight = kill_again_and_again(fork, tmp_path, kills, seed)
    assert len(served) == CALLS
    assert all(0 <= each <= IN_FLIGHT for each in in_flight), in_flight
    assert sum(served.values()) - CALLS == sum(in_flight), "nothing else was answered twice"
    with Loopback(judging_by(quality)) as server:
        judge_all(server.url, tmp_path / "other-cache", tmp_path / "whole", GROUPS, IN_FLIGHT)
        assert len(server.served) == CALLS
    pairs = pairs_of(tmp_path / "run", GROUPS)
    assert len(pairs) == GROUPS
    assert pairs == pairs_of(tmp_path / "whole", GROUPS)
    return in_flight


def test_a_judging_stage_that_is_killed_asks_only_what_was_in_flight_again(fork, tmp_path):
    check_kills(fork, tmp_path, kills=8, seed=1)


@pytest.mark.slow
def test_fifty_kills(fork, tmp_path):
    in_flight = check_kills(fork, tmp_path, kills=50, seed=2)
    print(f"50 kills of {CALLS} calls: {sum(in_flight)} answers lost in flight, at most {max(in_flight)} at once")


def test_two_processes_with_one_cache_pay_once(fork, tmp_path):
    with Loopback(judging_by(quality), latency_seconds=0.02) as server:
        children = [
            fork.Process(target=judge_all, args=(server.url, tmp_path / "cache", tmp_path / name, GROUPS, IN_FLIGHT))
            for name in ("one", "two")
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
            assert child.exitcode == 0
        assert len(server.requests) == len(server.served) == CALLS
        assert set(times_served(server).values()) == {1}
    assert pairs_of(tmp_path / "one", GROUPS) == pairs_of(tmp_path / "two", GROUPS)
    spent = [Ledger(path=tmp_path / name / "spending.jsonl").charged.calls for name in ("one", "two")]
    assert sum(spent) == CALLS
    assert min(spent) > 0
    assert ReplyCache(tmp_path / "cache").stats().claims == 0
    assert not list((tmp_path / "cache" / "owners").iterdir())


def test_when_one_of_two_is_killed_the_other_takes_over_at_once(fork, tmp_path):
    with Loopback(judging_by(quality), latency_seconds=0.1) as server:
        one, two = (
            fork.Process(target=judge_all, args=(server.url, tmp_path / "cache", tmp_path / name, 16, IN_FLIGHT))
            for name in ("one", "two")
        )
        one.start()
        wait_for(lambda: len(server.requests) >= IN_FLIGHT)
        two.start()
        wait_for(lambda: len(server.requests) >= 5 * IN_FLIGHT)
        os.kill(one.pid, signal.SIGKILL)
        killed = time.monotonic()
        one.join()
        two.join(60)
        assert two.exitcode == 0
        assert time.monotonic() - killed < 10, "no lease had to run out"
        served = times_served(server)
    assert len(served) == 16 * 6
    assert sum(served.values()) - len(served) <= IN_FLIGHT
    assert len(pairs_of(tmp_path / "two", 16)) == 16
    assert ReplyCache(tmp_path / "cache").stats().stale_claims == 0
