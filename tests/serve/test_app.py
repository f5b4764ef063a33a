"""The HTTP face, as the openai client and less polite ones see it."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import openai
import pytest

from prefdistill.serve.clients import Limits
from prefdistill.serve.command import LOOPBACK
from prefdistill.serve.upstream import DownError
from tests.serve.fakes import GOOD, Fake, Running, down, make_router, make_tests, running, too_long

FRIDAY: dict[str, Any] = {"extra_body": {"fields": {"day": "Friday"}}}
BAD = "See you on Monday."


def url(server: Running, path: str) -> str:
    return server.url.removesuffix("/v1") + path


def metrics(server: Running) -> dict[str, float]:
    text = urllib.request.urlopen(url(server, "/metrics")).read().decode()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"}


def raw(server: Running, request: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(server.url.split(":")[2].split("/")[0])))
    connection.sendall(request)
    return connection


def whole(connection: socket.socket) -> tuple[int, bytes]:
    """Return status and body of a reply."""
    connection.settimeout(5)
    file = connection.makefile("rb")
    status = int(file.readline().split()[1])
    length = 0
    while (line := file.readline().strip()) != b"":
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return status, file.read(length)


def request(body: bytes, *headers: str, path: str = "/v1/chat/completions") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", *headers]
    return "\r\n".join([*lines, f"content-length: {len(body)}"]).encode() + b"\r\n\r\n" + body


ASK = json.dumps({"model": "run", "messages": [{"role": "user", "content": "Write it."}]}).encode()


def until(true: Any) -> None:
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_answer_says_who_gave_it_and_why(tmp_path: Path) -> None:
    with running(tmp_path, make_router(Fake(), Fake("T", usd=0.25))) as server:
        reply = server.ask(**FRIDAY)
        answer = reply.parse()
        assert answer.choices[0].message.content == GOOD
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 5)
        assert reply.headers["x-prefdistill-route"] == "student"
        assert reply.headers["x-prefdistill-reason"] == "kept"
        assert reply.headers["x-prefdistill-buffered"] == "draft"
        assert reply.headers["x-request-id"] == answer.id
        reply = server.ask(extra_body={"fields": {"day": "Tuesday"}})
        assert (reply.headers["x-prefdistill-route"], reply.headers["x-prefdistill-reason"]) == ("teacher", "gate")
        with server.client() as client:
            assert [model.id for model in client.models.list()] == ["run"]
        found = metrics(server)
        assert found['prefdistill_requests_total{reason="gate",route="teacher"}'] == 1
        assert found["prefdistill_teacher_usd_total"] == 0.25
        assert found['prefdistill_gate_failures_total{gate="facts"}'] == 1
        assert found["prefdistill_requests_in_flight"] == 0
    first, second = server.rows()
    assert (first.id, first.completion, first.usd, first.draft) == (answer.id, GOOD, 0.0, None)
    assert (second.route, second.completion, second.draft, second.usd) == ("teacher", "T", GOOD, 0.25)
    assert second.fields == {"day": "Tuesday"} and second.gates == ("facts",)
    assert second.first_token_seconds is not None and 0 < second.first_token_seconds <= second.seconds


@pytest.mark.parametrize("on", ["gate", "out_of_scope"])
def test_a_stream(tmp_path: Path, on: Any) -> None:
    with running(tmp_path, make_router(Fake(), Fake("T"), make_tests(on))) as server:
        stream = server.ask(stream=True, stream_options={"include_usage": True}, **FRIDAY)
        assert stream.headers["x-prefdistill-buffered"] == ("draft" if on == "gate" else "none")
        events = list(stream.parse())
        assert "".join(event.choices[0].delta.content or "" for event in events if event.choices) == GOOD
        assert [event.choices[0].finish_reason for event in events if event.choices][-1] == "stop"
        assert events[-1].usage.completion_tokens == 5
        assert len({event.id for event in events}) == 1
    (row,) = server.rows()
    assert (row.streamed, row.completion, row.completion_tokens) == (True, GOOD, 5)


def test_the_students_first_word_does_not_wait_for_its_last(tmp_path: Path) -> None:
    with running(tmp_path, make_router(Fake(delay=0.1), Fake("T"), make_tests("out_of_scope"))) as server:
        started = time.perf_counter()
        events = iter(server.ask(stream=True).parse())
        next(events), next(events)
        first = time.perf_counter() - started
        list(events)
        assert first < 0.4 < time.perf_counter() - started


@pytest.mark.parametrize("stream", [False, True])
def test_a_stream_that_breaks_off_is_an_error_and_in_the_log(tmp_path: Path, stream: bool) -> None:
    student = Fake(breaks_after=2)
    with running(tmp_path, make_router(student, down(), make_tests("out_of_scope"))) as server:
        if not stream:
            assert server.ask().parse().choices[0].message.content == GOOD
            return
        with pytest.raises(openai.APIError, match="broke off"):
            list(server.ask(stream=True).parse())
        assert metrics(server)["prefdistill_requests_in_flight"] == 0
    (row,) = server.rows()
    assert (row.reason, row.completion) == ("failed", "See you")


def test_both_down_is_said_in_openais_shape(tmp_path: Path) -> None:
    with running(tmp_path, make_router(down(), down())) as server:
        with pytest.raises(openai.InternalServerError) as caught:
            server.ask()
        assert caught.value.status_code == 503
        assert caught.value.code == "upstream_unavailable"
        assert "retry-after" in caught.value.response.headers
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(url(server, "/healthz"))
    (row,) = server.rows()
    assert (row.route, row.reason, row.completion) == ("none", "failed", None)


@pytest.mark.parametrize(("lasting", "status"), [(True, 400), (False, 503)])
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_fits_nobody_is_the_clients_to_shorten(
    tmp_path: Path, stream: bool, lasting: bool, status: int
) -> None:
    teacher = Fake(problem=DownError("HTTP 400: no", lasting=lasting))
    with running(tmp_path, make_router(too_long(), teacher)) as server:
        with pytest.raises(openai.APIStatusError) as caught:
            server.ask(stream=stream)
        assert caught.value.status_code == status
        assert caught.value.code == ("context_length_exceeded" if lasting else "upstream_unavailable")
        assert ("retry-after" in caught.value.response.headers) is not lasting
    assert [row.reason for row in server.rows()] == ["failed"]


def test_an_error_of_the_server_costs_one_request_and_not_the_connection(tmp_path: Path) -> None:
    student = Fake(problem=KeyError("a mistake of ours"))
    with running(tmp_path, make_router(student, Fake("T"), make_tests("out_of_scope"))) as server:
        connection = raw(server, request(ASK))
        assert whole(connection)[0] == 500
        student.problem = None
        connection.sendall(request(ASK))
        assert whole(connection)[0] == 200
        connection.close()
    assert [row.reason for row in server.rows()] == ["failed", "kept"]


def test_one_of_the_two_is_healthy_enough(tmp_path: Path) -> None:
    with running(tmp_path, make_router(down(), Fake("T"))) as server:
        found = json.loads(urllib.request.urlopen(url(server, "/healthz")).read())
    assert found == {"status": "ok", "student": "down", "teacher": "ready"}


def test_a_body_that_is_too_large_is_refused_whatever_it_says_of_itself(tmp_path: Path) -> None:
    with running(tmp_path, make_router(Fake(), Fake()), limits=Limits(body_bytes=10_000)) as server:
        with pytest.raises(openai.APIStatusError) as caught:
            server.ask("x" * 1_000_000)
        assert caught.value.status_code == 413
        chunked = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        chunked += b"transfer-encoding: chunked\r\n\r\n" + b"8000\r\n" + b" " * 0x8000 + b"\r\n0\r\n\r\n"
        assert whole(raw(server, chunked))[0] == 413
        assert server.ask("still here").parse()
    assert len(server.rows()) == 1, "what is refused is counted, not logged"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(b"{"), 400),
        (request(b"\xff\xfe"), 400),
        (request(ASK, "content-type: text/plain").replace(b"content-type: application/json\r\n", b"", 1), 415),
        (request(ASK, path="/v1/completions"), 404),
        (request(ASK).replace(b"POST", b"PUT", 1), 405),
    ],
)
def test_odd_requests_get_an_error_in_openais_shape(tmp_path: Path, sent: bytes, status: int) -> None:
    with running(tmp_path, make_router(Fake(), Fake())) as server:
        found, body = whole(raw(server, sent))
        assert found == status
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def test_a_key_and_the_servers_own_name(tmp_path: Path) -> None:
    router = make_router(Fake(), Fake())
    with running(tmp_path, router, key="s3cret", hosts=LOOPBACK) as server:
        with pytest.raises(openai.AuthenticationError):
            server.ask(key="wrong")
        assert server.ask(key="s3cret").parse()
        named = request(ASK, "authorization: Bearer s3cret")
        assert whole(raw(server, named))[0] == 200
        for host in (b"evil.example", b"localhost.evil.example:80", b"[::", b""):
            assert whole(raw(server, named.replace(b"host: localhost", b"host: " + host)))[0] == 421
        for host in (b"LOCALHOST:8000", b"[::1]", b"[::1]:8000", b"127.0.0.1"):
            assert whole(raw(server, named.replace(b"host: localhost", b"host: " + host)))[0] == 200


def test_more_in_flight_than_allowed_is_told_to_come_again(tmp_path: Path) -> None:
    with running(tmp_path, make_router(Fake(delay=0.5), Fake()), limits=Limits(in_flight=1)) as server:
        thread = threading.Thread(target=lambda: server.ask(**FRIDAY))
        thread.start()
        until(lambda: server.service.flying == 1)
        with pytest.raises(openai.RateLimitError) as caught:
            server.ask()
        assert caught.value.response.headers["retry-after"] == "1"
        thread.join()
        assert server.ask(**FRIDAY).parse()


def test_a_request_that_takes_too_long_ends(tmp_path: Path) -> None:
    student = Fake(delay=5.0)
    with running(tmp_path, make_router(student, Fake()), limits=Limits(seconds=0.2)) as server:
        with pytest.raises(openai.APIStatusError) as caught:
            server.ask()
        assert caught.value.status_code == 504
        until(lambda: student.cancelled == 1)
        with pytest.raises(openai.APIError, match=r"broke off|504"):
            list(server.ask(stream=True).parse())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_takes_its_work_along(tmp_path: Path, stream: bool) -> None:
    student = Fake(delay=0.3)
    with running(tmp_path, make_router(student, Fake("T"), make_tests("out_of_scope"))) as server:
        body = json.dumps({**json.loads(ASK), "stream": stream}).encode()
        connection = raw(server, request(body))
        until(lambda: len(student.asked) == 1)
        if stream:
            connection.recv(500)
        connection.close()
        until(lambda: student.cancelled == 1)
        until(lambda: server.service.flying == 0)
    (row,) = server.rows()
    assert row.reason == "failed"


def test_a_client_that_hangs_up_while_it_sends_is_no_error_of_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path, make_router(Fake(), Fake())) as server:
        connection = raw(server, request(ASK)[:-10])
        until(lambda: server.service.flying == 1)
        connection.close()
        until(lambda: server.service.flying == 0)
        found = metrics(server)
        assert found['prefdistill_refused_requests_total{status="499"}'] == 1
        assert 'prefdistill_refused_requests_total{status="500"}' not in found
    assert not [record for record in caplog.records if record.exc_info]


def test_a_body_that_comes_too_slowly_gives_its_place_back(tmp_path: Path) -> None:
    with running(tmp_path, make_router(Fake(), Fake()), limits=Limits(in_flight=1, seconds=0.3)) as server:
        slow = raw(server, request(ASK)[:-10])
        until(lambda: server.service.flying == 1)
        status, body = whole(slow)
        assert (status, json.loads(body)["error"]["code"]) == (408, "timeout")
        assert slow.recv(1) == b"", "the rest of the body is not waited for"
        assert server.service.flying == 0 and server.ask(**FRIDAY).parse()


def test_body_and_answer_share_one_time(tmp_path: Path) -> None:
    with running(tmp_path, make_router(Fake(delay=0.4), Fake()), limits=Limits(seconds=0.6)) as server:
        slow = raw(server, request(ASK)[:-10])
        time.sleep(0.4)
        slow.sendall(ASK[-10:])
        assert whole(slow)[0] == 504


def test_a_redacted_log_has_no_text(tmp_path: Path) -> None:
    with running(tmp_path, make_router(Fake(BAD), Fake("Secret T")), redact=True) as server:
        server.ask("My secret", **FRIDAY)
    (row,) = server.rows()
    assert row.redacted and row.gates == ("facts",) and row.prompt_characters == 9
    text = server.log.read_text()
    assert not any(word in text for word in ("ecret", "Friday", "Monday", "Write"))


def test_a_bug_is_an_error_in_openais_shape_and_in_the_log(tmp_path: Path) -> None:
    with running(tmp_path, make_router(Fake(problem=ZeroDivisionError("oh")), Fake())) as server:
        with pytest.raises(openai.InternalServerError) as caught:
            server.ask()
        assert caught.value.status_code == 500 and "oh" not in str(caught.value)
        assert metrics(server)["prefdistill_requests_in_flight"] == 0
    assert [row.reason for row in server.rows()] == ["failed"]
