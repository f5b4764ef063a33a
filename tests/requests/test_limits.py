"""Requests and tokens a minute, and back-off: shared by all workers, endpoints and models of one host."""

import threading
import time
from concurrent.futures import CancelledError
from types import SimpleNamespace

import pytest

from prefdistill.protocols import Reply, RunContext, TeacherRequest
from prefdistill.records import Failure, Message
from prefdistill.requests import layer as requests_module
from prefdistill.requests import limits as limits_module
from prefdistill.requests.layer import RequestLayer
from prefdistill.requests.limits import Limits, Pace
from prefdistill.teachers.openai import OpenAITeacher
from tests.loopback import Loopback, Served, refused


@pytest.fixture
def short_minute(monkeypatch):
    monkeypatch.setattr(limits_module, "MINUTE_SECONDS", 1.0)


def requests(count, prefix=""):
    return [TeacherRequest(f"{prefix}{n}", (Message(role="user", content=f"{prefix}{n}"),), 20) for n in range(count)]


def most_within(times, seconds):
    return max(sum(start <= at < start + seconds for at in times) for start in times)


def ask(layer, tmp_path, url, count, prefix="", **options):
    teacher = OpenAITeacher(model="m" + prefix, base_url=url, **options)
    teacher.open(RunContext(directory=tmp_path, seed=0, requests=layer))
    found = list(teacher.replies(requests(count, prefix)))
    teacher.close()
    assert all(isinstance(each, Reply) for each in found)


def test_requests_per_minute_hold_for_all_endpoints_of_a_host(tmp_path, short_minute):
    layer = RequestLayer(cache="off")
    with Loopback(lambda body: "x") as server:
        limited = {"requests_per_minute": 60, "concurrency": 16}
        other = threading.Thread(target=ask, args=(layer, tmp_path, server.url, 45, "b"))
        ask(layer, tmp_path, server.url, 1, "c", **limited)  # the strictest limit on the host holds for all
        other.start()
        ask(layer, tmp_path, server.url, 45, "a", requests_per_minute=600)
        other.join()
        layer.close()
        assert most_within(server.times, 0.98) <= 60
        assert 1.3 < server.times[-1] - server.times[0] < 3


def test_tokens_per_minute_count_what_was_used_not_what_was_possible(tmp_path, short_minute):
    layer = RequestLayer(cache="off")
    with Loopback(lambda body: Served("x", prompt_tokens=40, completion_tokens=10)) as server:
        began = time.monotonic()
        ask(layer, tmp_path, server.url, 100, tokens_per_minute=3000, concurrency=16)
        seconds = time.monotonic() - began
        layer.close()
    used = [50 * most_within(server.times[20:], window) for window in (1.0,)]  # what replies use is known by then
    assert used[0] <= 3000 * 1.25
    assert seconds < 3.5, "5,000 tokens at 3,000 a minute of one second; their bounds would have taken 10"


def test_a_second_starts_with_a_little_at_once_then_keeps_its_pace(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(limits_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    pace, taken = Pace(600), []
    while clock[0] < 100 + 180:
        if (wait := pace.seconds_until(1)) > 0:
            clock[0] += max(wait, 1e-6)
        else:
            pace.take(1)
            taken.append(clock[0])
    assert taken[:10] == [100.0] * 10
    assert most_within(taken, 60) <= 600
    assert len(taken) >= 0.98 * 1800


def test_one_request_larger_than_the_limit_still_goes(short_minute):
    limits = Limits(threading.Event())
    limits.tighten(None, 100)
    began = time.monotonic()
    for _ in range(2):
        limits.settle(limits.take(150), 150, 150)
    assert 0.9 < time.monotonic() - began < 2.5


def test_closing_wakes_whoever_waits():
    closing = threading.Event()
    limits = Limits(closing)
    limits.tighten(1, None)
    limits.take(1)
    ended = []

    def wait():
        try:
            limits.take(1)
        except CancelledError:
            ended.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    closing.set()
    limits.wake()
    thread.join(2)
    assert ended


@pytest.mark.parametrize("status", [429, 503, 529])
def test_back_off_is_shared_by_all_workers(tmp_path, status, monkeypatch):
    monkeypatch.setattr(requests_module, "BACK_OFF_SECONDS", 0.4)
    refused_at = []

    def answer(body):
        if len(server.requests) == 30:
            refused_at.append(time.monotonic())
            return refused(status, "busy")
        return "x"

    layer = RequestLayer(cache="off")
    with Loopback(answer, latency_seconds=0.01) as server:
        ask(layer, tmp_path, server.url, 60, concurrency=8)
        layer.close()
    after = [at - refused_at[0] for at in server.times if at > refused_at[0]]
    assert not [seconds for seconds in after if 0.08 < seconds < 0.28]


def test_no_time_between_refusals_is_no_reason_to_hammer(tmp_path):
    layer = RequestLayer(cache="off")
    with Loopback(lambda body: refused(429, "slow down", retry_after="0")) as server:
        teacher = OpenAITeacher(model="m", base_url=server.url, concurrency=4, deadline_seconds=1.2)
        teacher.open(RunContext(directory=tmp_path, seed=0, requests=layer))
        found = list(teacher.replies(requests(4)))
        layer.close()
        assert len(server.requests) <= 16
    assert all(isinstance(each, Failure) for each in found)


def test_cached_only_sends_nothing(tmp_path):
    with Loopback(lambda body: "x") as server:
        layer = RequestLayer(tmp_path)
        ask(layer, tmp_path, server.url, 2)
        layer.close()
        layer = RequestLayer(tmp_path, cached_only=True)
        teacher = OpenAITeacher(model="m", base_url=server.url)
        teacher.open(RunContext(directory=tmp_path, seed=0, requests=layer))
        found = list(teacher.replies(requests(4)))
        layer.close()
        assert len(server.requests) == 2
    assert [type(each) for each in found] == [Reply, Reply, Failure, Failure]
    assert {each.kind for each in found[2:]} == {"provider"}
    assert "not in the request cache, and nothing is sent" in found[3].message
