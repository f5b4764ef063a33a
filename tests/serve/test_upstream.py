"""Servers as upstreams: what is down, what is refused, what is streamed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from prefdistill.errors import PluginError
from prefdistill.protocols import Reply
from prefdistill.records import Failure, Message, Usage
from prefdistill.serve.health import FAILURES, Health
from prefdistill.serve.plugged import PluginTeacher
from prefdistill.serve.routing import Written
from prefdistill.serve.servers import Server
from prefdistill.serve.streams import MOST_TEXT
from prefdistill.serve.upstream import DownError, Nobody, TooLongError, Writing, with_system
from tests.loopback import Answer, Loopback, Served, refused

ASKED = Writing("id", (Message(role="user", content="Write it."),), 50, 0.7, None, None)
LOGPROBS = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]}


def against(answer: Answer, work: Callable[[Server], Any], **changes: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Return what `work` gives with a server that answers so, and the bodies that it got."""

    with Loopback(answer) as loopback:
        return asyncio.run(connected(loopback.url, work, **changes)), loopback.requests


async def connected(url: str, work: Callable[[Server], Any], **changes: Any) -> Any:
    """Return what `work` gives with a server as upstream."""
    common = {"base_url": url, "model": "m", "key": "secret-key", "timeout_seconds": 5.0, "note": lambda text: None}
    server = Server(**{**common, **changes})
    try:
        return await work(server)
    finally:
        await server.close()


async def streamed(server: Server) -> tuple[list[str], Written]:
    pieces = [piece async for piece in server.stream(ASKED)]
    assert isinstance(pieces[-1], Written)
    return [piece for piece in pieces[:-1] if isinstance(piece, str)], pieces[-1]


def test_an_answer_with_its_tokens_price_and_log_probabilities() -> None:
    served = Served("Hello.", logprobs=LOGPROBS)
    price = {"input": 3.0, "output": 15.0}
    found, bodies = against(lambda body: served, lambda server: server.write(ASKED), price=price, wants_log_probs=True)
    assert (found.text, found.finish, found.prompt_tokens, found.completion_tokens) == ("Hello.", "stop", 100, 20)
    assert found.log_prob == -1.0
    assert found.usd == pytest.approx((100 * 3 + 20 * 15) / 1e6)
    assert bodies[0]["logprobs"] is True and bodies[0]["max_completion_tokens"] == 50
    found, bodies = against(lambda body: "Hi.", lambda server: server.write(ASKED))
    assert found.usd is None, "no price is not free"
    assert "logprobs" not in bodies[0]


def test_a_stream_comes_in_the_pieces_that_the_server_sends_and_then_whole() -> None:
    (pieces, whole), bodies = against(lambda body: Served("See you on Friday.", pace_seconds=0.02), streamed)
    assert pieces == ["See ", "you ", "on ", "Friday."]
    assert (whole.text, whole.completion_tokens) == ("See you on Friday.", 20)
    assert bodies[0]["stream"] is True


def test_what_arrives_together_is_one_piece() -> None:
    (pieces, whole), _ = against(lambda body: Served("See you on Friday."), streamed)
    assert (pieces, whole.text) == (["See you on Friday."], "See you on Friday.")


@pytest.mark.parametrize("ending", ["data: [DONE]", ""])
def test_the_last_line_of_a_stream_need_not_end(ending: str) -> None:
    event = json.dumps({"choices": [{"index": 0, "delta": {"content": "Fine."}, "finish_reason": "stop"}]})
    served = Served(body=f": a comment\r\ndata:{event}\r\n\r\n{ending}", headers={"content-type": "text/event-stream"})
    (pieces, whole), _ = against(lambda body: served, streamed)
    assert (pieces, whole.text) == (["Fine."], "Fine.")


def test_a_line_of_a_stream_without_an_end_is_no_answer() -> None:
    served = Served(body="data: " + "a" * (MOST_TEXT + 100_000), headers={"content-type": "text/event-stream"})
    with pytest.raises(DownError, match="does not end"):
        against(lambda body: served, streamed)


def test_a_connection_serves_one_stream_after_another() -> None:
    """Also where the last bytes come after the mark of the end."""

    async def three(server: Server) -> list[str]:
        found = []
        for _ in range(3):
            found.append((await streamed(server))[1].text)
            await asyncio.sleep(0.1)
        return found

    with Loopback(lambda body: Served("See you.", pace_seconds=0.02)) as loopback:
        assert asyncio.run(connected(loopback.url, three)) == ["See you."] * 3
        assert loopback.connections == 1


def test_who_leaves_a_stream_ends_it_at_the_server() -> None:
    async def leave(server: Server) -> None:
        pieces = server.stream(ASKED)
        assert await anext(pieces) == "one "
        await pieces.aclose()
        await asyncio.sleep(0.2)

    with Loopback(lambda body: Served("one two " * 50, pace_seconds=0.02)) as loopback:
        asyncio.run(connected(loopback.url, leave))
        assert loopback.served == [], "the server wrote on for nobody"


def test_a_server_that_knows_no_stream_options_is_asked_without_them() -> None:
    def answer(body: dict[str, Any]) -> Served:
        return refused(400, "unknown field stream_options") if "stream_options" in body else Served("Fine.")

    (pieces, whole), bodies = against(answer, streamed)
    assert (pieces, whole.completion_tokens, len(bodies)) == (["Fine."], None, 2)


def test_a_server_that_ignores_stream_is_read_all_the_same() -> None:
    body = {"choices": [{"message": {"content": "Whole."}, "finish_reason": "stop"}]}
    (pieces, whole), _ = against(lambda _: Served(body=body), streamed)
    assert (pieces, whole.text) == (["Whole."], "Whole.")


def test_refused_parameters_are_left_out_from_then_on() -> None:
    def answer(body: dict[str, Any]) -> Served:
        for name in ("max_completion_tokens", "logprobs", "temperature"):
            if name in body:
                return refused(400, f"unsupported parameter: {name}")
        return Served("Fine.")

    async def twice(server: Server) -> Written:
        await server.write(ASKED)
        return await server.write(ASKED)

    said: list[str] = []
    found, bodies = against(answer, twice, wants_log_probs=True, note=said.append)
    assert found.log_prob is None
    assert sum("log_prob never fires" in line for line in said) == 1
    assert len(bodies) == 5 and set(bodies[-1]) == {"model", "messages", "max_tokens"}


@pytest.mark.parametrize(
    "served",
    [
        refused(500, "oh"),
        refused(401, "bad key secret-key"),
        refused(429, "slow down"),
        Served(""),
        Served(body="<html>"),
        Served(body={"choices": []}),
        Served(broken="reset"),
        Served("x", broken="cut"),
        Served("x", delay_seconds=2.0),
        Served("x", broken="drip"),
    ],
)
def test_what_is_no_answer_is_down(served: Served) -> None:
    async def work(server: Server) -> str:
        with pytest.raises(DownError) as caught:
            await server.write(ASKED)
        assert server.health.failures <= 1
        return str(caught.value)

    found, _ = against(lambda body: served, work, timeout_seconds=0.4)
    assert "secret-key" not in found


@pytest.mark.parametrize(
    ("status", "lasting"),
    [(400, True), (401, True), (404, True), (422, True), (408, False), (429, False), (503, False)],
)
def test_what_is_refused_lasts_and_what_fails_passes(status: int, lasting: bool) -> None:
    async def work(server: Server) -> list[bool]:
        found = []
        for _ in range(FAILURES + 1):  # the last one may be left alone, which lasts as long as what led to it
            with pytest.raises(DownError) as caught:
                await server.write(ASKED)
            found.append(caught.value.lasting)
        return found

    assert against(lambda body: refused(status, "no"), work)[0] == [lasting] * (FAILURES + 1)


def test_a_stream_that_ends_early_is_down() -> None:
    async def work(server: Server) -> None:
        with pytest.raises(DownError):
            await streamed(server)

    against(lambda body: Served("x " * 50, broken="cut"), work)


def test_a_prompt_that_does_not_fit_is_no_failure_of_the_server() -> None:
    async def work(server: Server) -> int:
        with pytest.raises(TooLongError):
            await server.write(ASKED)
        return server.health.failures

    assert against(lambda body: refused(400, "This model's maximum context length is 4096 tokens"), work)[0] == 0


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again() -> None:
    turns = iter([Served("one"), Served(broken="reset"), Served("two")])

    async def work(server: Server) -> list[str]:
        return [(await server.write(ASKED)).text for _ in range(2)]

    assert against(lambda body: next(turns), work)[0] == ["one", "two"]


def test_a_server_that_is_down_is_left_alone_and_then_tried_once() -> None:
    now = [0.0]
    health = Health(now=lambda: now[0])
    for _ in range(FAILURES):
        health.check()
        health.failed()
    assert health.resting
    with pytest.raises(DownError):
        health.check()
    now[0] = 6.0
    health.check()
    with pytest.raises(DownError, match="left alone"):
        health.check()  # one request tries it, the others do not wait
    health.answered()
    health.check()
    assert not health.resting


def test_nothing_listens() -> None:
    async def work() -> None:
        server = Server("http://127.0.0.1:9/v1", "m", "k", 5.0)
        for _ in range(FAILURES):
            with pytest.raises(DownError):
                await server.write(ASKED)
        assert server.state == "down"
        with pytest.raises(DownError):
            await server.models()
        await server.close()

    asyncio.run(work())


def test_at_most_so_many_are_in_flight() -> None:
    async def work(server: Server) -> None:
        await asyncio.gather(*(server.write(ASKED) for _ in range(6)))

    with Loopback(lambda body: Served("x", delay_seconds=0.05)) as loopback:

        async def run() -> None:
            server = Server(loopback.url, "m", "k", 5.0, concurrency=2)
            await work(server)
            await server.close()

        asyncio.run(run())
    assert loopback.most_in_flight == 2


class Teacher:
    """A plug-in that answers, fails or raises."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def replies(self, requests: Any) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        yield self.given


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Reply("id", "Yes.", "stop", Usage(calls=1, usd=0.5)), "Yes."),
        (Failure(stage="teacher", key="id", kind="refusal", message="no"), None),
        (PluginError("broken"), None),
        (ConnectionError("gone"), None),
        (KeyError("key"), None),
        (Reply("id", " ", "stop", Usage(calls=1)), None),
    ],
)
def test_a_plug_in_teacher_answers_on_a_thread(given: Any, text: str | None) -> None:
    async def work() -> None:
        teacher = PluginTeacher(Teacher(given), 1, 5.0)
        if text is None:
            with pytest.raises(DownError) as caught:
                await teacher.write(ASKED)
            assert caught.value.lasting is isinstance(given, (Failure, Reply))
        else:
            assert await anext(teacher.stream(ASKED)) == text
            assert (await teacher.write(ASKED)).usd == 0.5
        assert not await teacher.back(0.0)
        await teacher.close()

    asyncio.run(work())


def test_a_plug_in_teacher_that_fails_several_times_is_left_alone_for_a_moment() -> None:
    async def work() -> None:
        teacher = PluginTeacher(Teacher(ConnectionError("gone")), 1, 5.0)
        assert teacher.state == "ready"
        for _ in range(FAILURES):
            with pytest.raises(DownError, match="gone"):
                await teacher.write(ASKED)
        assert teacher.state == "down"
        with pytest.raises(DownError, match="left alone"):
            await teacher.write(ASKED)
        await teacher.close()

    asyncio.run(work())


def test_nobody_is_always_down() -> None:
    async def work() -> None:
        with pytest.raises(DownError):
            await Nobody().write(ASKED)
        with pytest.raises(DownError):
            await anext(Nobody().stream(ASKED))

    asyncio.run(work())


def test_a_system_prompt_is_put_before_or_replaced() -> None:
    user, own = Message(role="user", content="u"), Message(role="system", content="own")
    new = Message(role="system", content="new")
    assert with_system((user,), "new", replace_own=False) == (new, user)
    assert with_system((own, user), "new", replace_own=False) == (own, user)
    assert with_system((own, user), "new", replace_own=True) == (new, user)
    assert with_system((own, user), None, replace_own=True) == (own, user)
