"""The request layer: cache, limits, retries, usage; and what a server can do wrong."""

import os
import signal
import stat
import threading
import time
from itertools import count
from pathlib import Path

import pytest

from prefdistill.errors import RunError
from prefdistill.protocols import Reply, TeacherRequest
from prefdistill.records import Failure, Message, digest
from prefdistill.requests import layer as requests_module
from prefdistill.requests.layer import Answer, Call, EndpointError, RequestLayer
from prefdistill.requests.reply_cache import FILE, ReplyCache
from tests.commands import forking
from tests.loopback import Loopback, Served, refused
from tests.making import opened_teacher
from tests.requests.judging_stage import ask_two_hundred


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(requests_module, "BACK_OFF_SECONDS", 0.01)


def request(text, repeat=0, **options):
    options = {"max_tokens": 50, **options}
    return TeacherRequest(f"{text}#{repeat}", (Message(role="user", content=text),), repeat=repeat, **options)


def asked(body):
    return body["messages"][-1]["content"]


def ask(server, texts, cache="off", repeat=0, **options):
    teacher, layer = opened_teacher(server.url, cache, **options)
    try:
        replies = {reply.key: reply for reply in teacher.replies([request(text, repeat) for text in texts])}
        return replies, layer
    finally:
        teacher.close()
        layer.close()


def test_a_second_run_makes_no_call(tmp_path):
    with Loopback(lambda body: asked(body).upper()) as server:
        first, layer = ask(server, ["a", "b"], tmp_path)
        assert layer.usage.model_dump() == {
            "calls": 2, "cached": 0, "prompt_tokens": 200, "completion_tokens": 40, "usd": 0.0,
        }  # fmt: skip
        second, layer = ask(server, ["a", "b", "c"], tmp_path)
        assert (layer.usage.calls, layer.usage.cached) == (1, 2)
        assert len(server.requests) == 3
    assert {key: reply.text for key, reply in second.items()} == {"a#0": "A", "b#0": "B", "c#0": "C"}
    assert first["a#0"].usage.calls == second["a#0"].usage.cached == 1


def test_the_key_is_the_request_not_the_endpoint(tmp_path):
    with Loopback(lambda body: "1") as one, Loopback(lambda body: "2") as two:
        ask(one, ["a"], tmp_path)
        assert ask(two, ["a"], tmp_path)[0]["a#0"].text == "1"
        assert ask(two, ["a"], tmp_path, repeat=1)[0]["a#1"].text == "2"
        assert ask(two, ["a"], tmp_path, extra_body={"seed": 1})[0]["a#0"].text == "2"
        assert ask(two, ["a"], tmp_path, temperature=0.5)[0]["a#0"].text == "2"


def test_the_cache_can_be_off():
    with Loopback(lambda body: "x") as server:
        ask(server, ["a"])
        ask(server, ["a"])
        assert len(server.requests) == 2


def test_only_settled_replies_are_cached(tmp_path):
    numbers = count()

    def answer(body):
        if asked(body) == "broken":
            return refused(400, "no") if next(numbers) == 0 else "fine"
        return Served("", finish_reason="length") if asked(body) == "cut" else Served("", refusal="never")

    with Loopback(answer) as server:
        first, _ = ask(server, ["broken", "cut", "refused"], tmp_path)
        assert [first[f"{t}#0"].kind for t in ("broken", "cut", "refused")] == ["provider", "truncated", "refusal"]
        second, layer = ask(server, ["broken", "cut", "refused"], tmp_path)
    assert second["broken#0"].text == "fine"
    assert [second[f"{t}#0"].kind for t in ("cut", "refused")] == ["truncated", "refusal"]
    assert (layer.usage.calls, layer.usage.cached) == (1, 2)


def test_the_cache_belongs_to_its_owner_alone(tmp_path):
    cache = ReplyCache(tmp_path / "new" / "cache")
    cache.put("k", {"text": "ü\u2028"})
    assert cache.get("k") == {"text": "ü\u2028"}
    assert cache.get("other") is None
    assert stat.S_IMODE((tmp_path / "new" / "cache").stat().st_mode) == 0o700
    for file in (tmp_path / "new" / "cache").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
    with ThreadsOf(8, lambda n: [cache.put(f"{n}-{i}", {"n": n, "i": i}) for i in range(50)]):
        pass
    assert cache.get("7-49") == {"n": 7, "i": 49}


class ThreadsOf:
    def __init__(self, number, work):
        self.threads = [threading.Thread(target=work, args=(n,)) for n in range(number)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()

    def __exit__(self, *_):
        for thread in self.threads:
            thread.join()


def test_two_processes_share_one_cache(tmp_path):
    one, two = ReplyCache(tmp_path), ReplyCache(tmp_path)
    one.put("k", {"text": "x"})
    two.put("k", {"text": "y"})
    assert one.get("k") == {"text": "y"}


@pytest.mark.parametrize("spoil", ["file", "garbage"])
def test_a_cache_that_cannot_be_opened_is_one_message(tmp_path, spoil):
    if spoil == "file":
        (tmp_path / "c").write_text("not a folder")
    else:
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(RunError, match="request cache cannot be opened"):
        RequestLayer(cache=tmp_path / "c")


def test_a_full_disk_stops_with_one_message_and_keeps_earlier_replies(tmp_path):
    with Loopback(lambda body: "x" * 100_000) as server:
        teacher, layer = opened_teacher(server.url, tmp_path, concurrency=1)
        assert isinstance(next(teacher.replies([request("first")])), Reply)
        layer.cache._database.execute("PRAGMA max_page_count = 60")  # SQLite's own "database or disk is full"
        with pytest.raises(RunError, match="cannot be stored"):
            list(teacher.replies([request(f"t{n}") for n in range(10)]))
        layer.close()
        _, layer = ask(server, ["first"], tmp_path)
    assert layer.usage.cached == 1


def test_concurrency_is_the_number_of_requests_in_flight():
    with Loopback(lambda body: "x", latency_seconds=0.05) as server:
        ask(server, [str(n) for n in range(40)], concurrency=7)
        assert server.most_in_flight == 7


def test_serial_callers_share_one_limit():
    with Loopback(lambda body: "x", latency_seconds=0.02) as server:
        teacher, layer = opened_teacher(server.url, "off", concurrency=5)
        with ThreadsOf(12, lambda n: [list(teacher.replies([request(f"{n}-{i}")])) for i in range(4)]):
            pass
        layer.close()
        assert server.most_in_flight == 5
        assert len(server.requests) == layer.usage.calls == 48


def test_equal_requests_in_flight_share_one_call(tmp_path):
    with Loopback(lambda body: "x", latency_seconds=0.1) as server:
        teacher, layer = opened_teacher(server.url, tmp_path)
        replies = list(teacher.replies([TeacherRequest(f"k{n}", request("same").messages, 50) for n in range(10)]))
        layer.close()
    assert len(server.requests) == 1
    assert sorted(reply.key for reply in replies) == sorted(f"k{n}" for n in range(10))
    assert sum(reply.usage.calls for reply in replies) == layer.usage.calls == 1
    assert layer.usage.cached == 9


def flaky(times, wrong):
    """Answer wrongly the first `times` times that a text is asked."""
    seen: dict[str, int] = {}

    def answer(body):
        seen[asked(body)] = seen.get(asked(body), 0) + 1
        if asked(body) != "warm" and seen[asked(body)] <= times:
            return wrong
        return asked(body)

    return answer


WRONG = {
    "429": refused(429, "slow down"),
    "500": refused(500, "oops"),
    "503": refused(503, "busy"),
    "408": refused(408, "timeout"),
    "409": refused(409, "conflict"),
    "reset": Served(broken="reset"),
    "cut": Served("x" * 500, broken="cut"),
    "html": Served(body="<html>gateway</html>"),
    "cut json": Served(body='{"choices": [{"mess'),
    "no choices": Served(body={"error": {"message": "overloaded"}}),
    "null": Served(body="null"),
    "list": Served(body=[]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_may_pass_is_tried_again(name):
    with Loopback(flaky(2, WRONG[name])) as server:
        replies, layer = ask(server, ["a"])
    assert replies["a#0"].text == "a"
    assert replies["a#0"].usage.calls == layer.usage.calls == len(server.requests) == 3
    assert layer.usage.prompt_tokens == 100


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_what_will_not_pass_is_not_tried_again(status):
    with Loopback(flaky(99, refused(status, "never"))) as server:
        teacher, layer = opened_teacher(server.url, "off")
        list(teacher.replies([request("warm")]))  # the endpoint works: this is the request's own problem
        (failure,) = teacher.replies([request("a")])
        layer.close()
    assert isinstance(failure, Failure)
    assert failure.kind == "provider"
    assert f"HTTP {status}" in failure.message
    assert len(server.requests) == 2


def test_a_call_is_given_up_after_some_attempts():
    with Loopback(flaky(99, WRONG["500"])) as server:
        teacher, layer = opened_teacher(server.url, "off")
        list(teacher.replies([request("warm")]))
        (failure,) = teacher.replies([request("a")])
        layer.close()
    assert "given up after 6 attempts" in failure.message
    assert failure.usage.calls == 6
    assert layer.usage.calls == 7


@pytest.mark.parametrize("wrong", [Served("late", delay_seconds=5), Served("late" * 99, broken="drip")])
def test_a_hang_or_a_drip_is_cut_off(wrong):
    with Loopback(flaky(1, wrong)) as server:
        replies, _ = ask(server, ["a"], timeout_seconds=0.2)
    assert replies["a#0"].text == "a"


def test_a_deadline_ends_the_retries():
    with Loopback(flaky(99, Served("late", delay_seconds=5))) as server:
        teacher, layer = opened_teacher(server.url, "off", timeout_seconds=0.1, deadline_seconds=0.25)
        list(teacher.replies([request("warm")]))
        started = time.monotonic()
        (failure,) = teacher.replies([request("a")])
        layer.close()
    assert failure.kind == "provider"
    assert time.monotonic() - started < 1.0


@pytest.mark.parametrize("header", [{"retry_after": "1"}, {"retry_after_ms": "1000"}])
def test_retry_after_holds_every_worker(header):
    limited_at: list[float] = []

    def answer(body):
        if len(server.requests) == 21:
            limited_at.append(time.monotonic())
            return refused(429, "slow down", **header)
        return "x"

    with Loopback(answer, latency_seconds=0.02) as server:
        replies, _ = ask(server, [str(n) for n in range(100)], concurrency=8)
    assert len(replies) == 100
    assert len(server.requests) == 101
    quiet = [at - limited_at[0] for at in server.times if 0.1 < at - limited_at[0] < 0.95]
    assert quiet == []
    assert max(server.times) - limited_at[0] < 1.0 + 2.0


def test_a_wait_longer_than_the_deadline_stops_the_run_loudly():
    with Loopback(lambda body: refused(429, "come back tomorrow", retry_after="86400")) as server:
        teacher, layer = opened_teacher(server.url, "off")
        with pytest.raises(EndpointError, match=r"86400 s.*run again later"):
            list(teacher.replies([request(str(n)) for n in range(100)]))
        layer.close()
    assert len(server.requests) <= 32


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (refused(401, "bad key"), "api_key_env"),
        (refused(403, "not yours"), "api_key_env"),
        (refused(404, "no model m"), "check model and base_url"),
        (refused(400, "broken"), "broken"),
        (refused(500, "broken"), "broken"),
        (Served(body="<html>hello</html>"), "no chat completion"),
    ],
)
def test_an_endpoint_that_never_works_stops_the_run_early(wrong, message):
    with Loopback(lambda body: wrong) as server:
        teacher, layer = opened_teacher(server.url, "off", concurrency=4)
        with pytest.raises(EndpointError, match=message):
            list(teacher.replies([request(str(n)) for n in range(1000)]))
        layer.close()
    assert len(server.requests) < 60


def test_an_unreachable_host_stops_the_run_early():
    with Loopback(lambda body: "x") as server:
        url = server.url
    teacher, layer = opened_teacher(url, "off")
    with pytest.raises(EndpointError, match=r"cannot be reached.*base_url"):
        list(teacher.replies([request(str(n)) for n in range(1000)]))
    with pytest.raises(EndpointError):  # and stays stopped
        list(teacher.replies([request("later")]))
    layer.close()


def test_an_empty_account_is_not_asked_again():
    body = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    with Loopback(lambda _: Served(status=429, body=body)) as server:
        teacher, layer = opened_teacher(server.url, "off", concurrency=1)
        with pytest.raises(EndpointError, match="no credit left"):
            list(teacher.replies([request("a")]))
        layer.close()
    assert len(server.requests) == 1


def test_a_third_of_all_calls_failing_loses_and_repeats_nothing(tmp_path):
    seen: dict[str, int] = {}
    wrong = list(WRONG.values())

    def answer(body):
        seen[asked(body)] = seen.get(asked(body), 0) + 1
        number = int(asked(body))
        return wrong[number % len(wrong)] if number % 3 == 0 and seen[asked(body)] == 1 else f"<{number}>"

    with Loopback(answer) as server:
        replies, layer = ask(server, [str(n) for n in range(300)], tmp_path, concurrency=16)
    assert all(isinstance(replies[f"{n}#0"], Reply) and replies[f"{n}#0"].text == f"<{n}>" for n in range(300))
    good = [asked(body) for body in server.served if body["messages"]]
    assert all(good.count(str(n)) == 1 for n in range(300) if n % 3)
    assert layer.usage.calls == len(server.requests) == 400


def test_prices_are_counted():
    with Loopback(lambda body: "x") as server:
        _, layer = ask(server, ["a", "b"], usd_per_million={"input": 2.0, "output": 10.0})
    assert layer.usage.usd == pytest.approx(2 * (100 * 2 + 20 * 10) / 1e6)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_after_a_kill_only_requests_in_flight_are_asked_again(tmp_path, ending):
    with Loopback(lambda body: "x", latency_seconds=0.02) as server:
        process = forking().Process(target=ask_two_hundred, args=(server.url, tmp_path))
        process.start()
        while len(server.served) < 60:
            assert process.exitcode is None
            time.sleep(0.005)
        os.kill(process.pid, ending)
        started = time.monotonic()
        process.join(10)
        assert time.monotonic() - started < 5  # Ctrl-C does not wait for the pool
        assert process.exitcode in (-signal.SIGKILL, -signal.SIGINT, 130, 1)
        assert not (tmp_path / "done").exists()
        before = [asked(body) for body in server.served]
        again = forking().Process(target=ask_two_hundred, args=(server.url, tmp_path))
        again.start()
        again.join(60)
        assert again.exitcode == 0
        assert (tmp_path / "done").exists()
        served = [asked(body) for body in server.served]
    assert set(served) == {str(n) for n in range(200)}
    assert len(served) - 200 <= 4  # what was in flight at the end
    assert len(before) < 200


def test_closing_cancels_what_has_not_begun():
    with Loopback(lambda body: "x", latency_seconds=0.2) as server:
        teacher, layer = opened_teacher(server.url, "off", concurrency=2)
        replies = teacher.replies([request(str(n)) for n in range(50)])
        next(replies)
        layer.close()
        time.sleep(0.5)
        assert len(server.requests) <= 6


def test_the_default_cache_is_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    RequestLayer().close()
    assert (tmp_path / "x" / "prefdistill" / FILE).exists()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "h"))
    layer = RequestLayer(cache="user")
    assert layer.cache is not None
    assert Path(layer.cache.path).is_relative_to(tmp_path / "h" / ".cache")
    layer.close()


def test_the_cache_key_is_the_digest_of_the_identity():
    schema = {"type": "object", "properties": {"ü": {"enum": ["b", "a"]}}}
    identity = {"schema": schema, "model": "m", "messages": [["user", 'ä\u2028"\n']], "temperature": 0.0, "n": None}
    for _ in range(2):
        assert Call("k", identity, lambda: Answer("", "")).cache_key == digest(identity, 40)
    other = {**identity, "schema": {**schema, "type": "array"}}
    assert Call("k", other, lambda: Answer("", "")).cache_key == digest(other, 40) != digest(identity, 40)


def test_a_call_that_was_given_up_can_be_made_again(tmp_path):
    """At once, by the same process, and by another that shares the cache; the claim on it ends with the failure."""
    replies = iter([refused(400, "no"), "second", refused(400, "no"), "fourth"])
    with Loopback(lambda body: "warm" if asked(body) == "warm" else next(replies)) as server:
        teacher, layer = opened_teacher(server.url, tmp_path, deadline_seconds=5)
        list(teacher.replies([request("warm")]))  # the server is known to work
        (failed,) = teacher.replies([request("a")])
        assert isinstance(failed, Failure)
        (found,) = teacher.replies([request("a")])
        assert isinstance(found, Reply)
        (failed,) = teacher.replies([request("b")])
        assert isinstance(failed, Failure)
        other, other_layer = opened_teacher(server.url, tmp_path, deadline_seconds=5)
        (found,) = other.replies([request("b")])
        assert found.text == "fourth"
        assert layer.cache.stats().claims == 0
        for each in (teacher, other, layer, other_layer):
            each.close()


def test_a_call_that_another_process_is_making_is_waited_for_no_longer_than_a_call_may_take(tmp_path):
    with Loopback(lambda body: "x") as server:
        teacher, layer = opened_teacher(server.url, tmp_path, deadline_seconds=0.3)
        busy = ReplyCache(tmp_path)
        (call,) = [teacher._chat.call(request("a"))]
        assert busy.claim(call.cache_key)
        (found,) = teacher.replies([request("a")])
        assert isinstance(found, Failure)
        assert "another process is making this very request" in found.message
        assert found.kind == "provider"
        assert not server.requests
        busy.close()
        (found,) = teacher.replies([request("a")])
        assert isinstance(found, Reply)
        teacher.close()
        layer.close()
