"""What the teacher may cost a day: kept to, said once, there after a restart, new with the day."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefdistill.errors import RecipeError
from prefdistill.records import Message
from prefdistill.serve.allowance import Allowance
from prefdistill.serve.command import Wanted, serve_run
from prefdistill.serve.gauges import Gauges
from prefdistill.serve.opening import open_teacher, require_price
from prefdistill.serve.router import BothDownError
from prefdistill.serve.servers import Server
from prefdistill.serve.upstream import DownError, SpentError, Writing
from prefdistill.stored import stored_run
from tests.loopback import Answer, Loopback, Served, refused
from tests.serve.fakes import Fake, down, make_router, running
from tests.serve.test_command import make_run
from tests.serve.test_router import BAD, ask

ASKED = Writing("id", (Message(role="user", content="Write it."),), 20, 0.7, None, None)
PRICE = {"input": 0.0, "output": 10_000.0}
"""A cent a token: an answer of the loopback's 20 tokens costs 20 cents, which is also the most that ASKED can cost."""


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 22, 23, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


def make(tmp_path: Path, usd: float, said: list[str] | None = None, clock: Clock | None = None) -> Allowance:
    say: Callable[[str], None] = (lambda line: None) if said is None else said.append
    return Allowance(usd, tmp_path / "served.jsonl", PRICE, {}, say, clock or Clock())


def asked_of(allowance: Allowance, answer: Answer, times: int, stream: bool = False) -> tuple[list[Any], int]:
    """Return the answers of a server behind an allowance, exceptions among them, and how often it was asked."""

    async def once(server: Server) -> Any:
        try:
            if stream:
                return [piece async for piece in server.stream(ASKED)][-1]
            return await server.write(ASKED)
        except DownError as problem:
            return problem

    async def work(url: str) -> list[Any]:
        server = Server(url, "m", "k", 0.5, price=PRICE, allowance=allowance, note=lambda line: None)
        found = [await once(server) for _ in range(times)]
        await server.close()
        return found

    with Loopback(answer) as loopback:
        return asyncio.run(work(loopback.url)), len(loopback.requests)


@pytest.mark.parametrize("stream", [False, True])
def test_it_is_never_exceeded_said_once_and_holds_over_restarts(tmp_path: Path, stream: bool) -> None:
    said: list[str] = []
    found, sent = asked_of(make(tmp_path, 0.7, said), lambda body: Served("T"), 5, stream)
    assert sent == 3, "the fourth could cost more than what is left"
    assert [isinstance(each, SpentError) for each in found] == [False] * 3 + [True] * 2
    assert len(said) == 1 and "--teacher-usd 0.7: $0.6000 of 2026-11-22 (UTC) are spent" in said[0]
    again = make(tmp_path, 0.7)
    assert again.left == pytest.approx(0.1)
    assert asked_of(again, lambda body: Served("T"), 1)[1] == 0
    assert asked_of(make(tmp_path, 0.9), lambda body: Served("T"), 1)[1] == 1, "a larger one goes on"


def test_what_was_answered_costs_what_it_did_and_not_the_most_that_it_could(tmp_path: Path) -> None:
    allowance = make(tmp_path, 100.0)
    asked_of(allowance, lambda body: Served("T", completion_tokens=3), 2)
    assert allowance.left == pytest.approx(99.94)


def test_a_server_that_writes_more_than_it_may_exceeds_it_once_at_most(tmp_path: Path) -> None:
    allowance = make(tmp_path, 1.1)
    asked_of(allowance, lambda body: Served("T", completion_tokens=40), 3)
    assert allowance.left == pytest.approx(0.3), "the third is known to cost 40 cents"
    assert asked_of(make(tmp_path, 0.9), lambda body: Served("T", completion_tokens=40), 1)[1] == 0


def test_answers_that_fly_together_and_cost_too_much_are_not_multiplied(tmp_path: Path) -> None:
    allowance = make(tmp_path, 100.0)
    with ExitStack() as flying:
        for payment in [flying.enter_context(allowance.paying(ASKED)) for _ in range(16)]:
            payment.settle(0.3)
    with allowance.paying(ASKED):
        assert allowance.left == pytest.approx(100.0 - 17 * 0.3)


def test_a_request_too_dear_by_itself_spends_nothing_of_the_day(tmp_path: Path) -> None:
    said: list[str] = []
    allowance = make(tmp_path, 1.0, said)
    with allowance.paying(ASKED) as payment:
        payment.settle(0.2)
    with pytest.raises(SpentError, match=r"may cost \$10\.0000, and \$0\.8000 of"):
        allowance.paying(replace(ASKED, max_tokens=1000)).__enter__()
    assert not allowance.spent and said == []
    assert asked_of(allowance, lambda body: Served("T"), 5)[1] == 4
    assert allowance.spent and len(said) == 1


def test_a_reply_that_is_lost_on_a_new_connection_is_not_asked_for_twice(tmp_path: Path) -> None:
    assert asked_of(make(tmp_path, 0.7), lambda body: Served(broken="reset"), 1)[1] == 1


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (refused(500, "no"), 0.7),
        (refused(400, "no"), 0.7),
        (refused(429, "slow down"), 0.7),
        (Served("T", delay_seconds=2.0), 0.5),
        (Served(broken="reset"), 0.5),
    ],
    ids=["500", "400", "429", "late", "reset"],
)
def test_a_refusal_is_free_and_a_reply_that_was_lost_stays_charged(tmp_path: Path, answer: Any, left: float) -> None:
    allowance = make(tmp_path, 0.7)
    asked_of(allowance, lambda body: answer, 1)
    assert allowance.left == pytest.approx(left)
    assert make(tmp_path, 0.7).left == pytest.approx(left)


def test_a_server_that_is_not_there_costs_nothing(tmp_path: Path) -> None:
    allowance = make(tmp_path, 0.7)

    async def work() -> None:
        server = Server("http://127.0.0.1:9/v1", "m", "k", 1.0, price=PRICE, allowance=allowance)
        with pytest.raises(DownError):
            await server.write(ASKED)
        await server.close()

    asyncio.run(work())
    assert allowance.left == 0.7


def test_a_client_that_leaves_a_stream_leaves_it_charged(tmp_path: Path) -> None:
    allowance = make(tmp_path, 0.7)

    async def work(url: str) -> None:
        server = Server(url, "m", "k", 5.0, price=PRICE, allowance=allowance, note=lambda line: None)
        pieces: AsyncGenerator[Any] = server.stream(ASKED)
        await anext(pieces)
        await pieces.aclose()
        await server.close()

    with Loopback(lambda body: Served("one two three four five")) as loopback:
        asyncio.run(work(loopback.url))
    assert allowance.left == pytest.approx(0.5)


def test_many_at_once_do_not_exceed_it_together(tmp_path: Path) -> None:
    allowance = make(tmp_path, 0.7)

    async def work(url: str) -> list[Any]:
        server = Server(url, "m", "k", 5.0, price=PRICE, allowance=allowance, note=lambda line: None)
        found = await asyncio.gather(*(server.write(ASKED) for _ in range(16)), return_exceptions=True)
        await server.close()
        return found

    with Loopback(lambda body: Served("T", delay_seconds=0.1)) as loopback:
        found = asyncio.run(work(loopback.url))
    assert sum(isinstance(each, SpentError) for each in found) == 13
    assert len(loopback.requests) == 3


def test_a_new_day_begins_anew_and_removes_the_old_ledger(tmp_path: Path) -> None:
    said: list[str] = []
    clock = Clock()
    allowance = make(tmp_path, 0.2, said, clock)
    asked_of(allowance, lambda body: Served("T"), 2)
    assert allowance.spent and allowance.left == pytest.approx(0.0)
    with pytest.raises(SpentError), allowance.paying(ASKED):
        pass
    clock.time += timedelta(hours=2)
    assert not allowance.spent and allowance.left == 0.2
    with allowance.paying(ASKED) as late:
        clock.time += timedelta(days=1)
        assert allowance.left == 0.2, "what is in flight at midnight is the old day's"
        late.settle(0.1)
    assert allowance.left == 0.2
    asked_of(allowance, lambda body: Served("T"), 2)
    assert len(said) == 2, "once a day"
    assert [path.name for path in tmp_path.iterdir()] == ["served.jsonl.spent-2026-11-24"]


def test_a_ledger_that_cannot_be_written_asks_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    allowance = Allowance(1.0, tmp_path / "file" / "log", PRICE, {}, lambda line: None, Clock())
    found, sent = asked_of(allowance, lambda body: Served("T"), 1)
    assert sent == 0
    assert isinstance(found[0], DownError) and not isinstance(found[0], SpentError)


SPENT = SpentError("spent", lasting=True)


@pytest.mark.parametrize("stream", [False, True])
def test_the_student_answers_in_its_place_and_it_is_marked(tmp_path: Path, stream: bool) -> None:
    teacher = Fake(problem=SPENT)
    assert ask(make_router(Fake(BAD), teacher), stream=stream)[0].reason == "teacher_spent"
    with running(tmp_path, make_router(Fake(BAD), teacher)) as server:
        fields = {"extra_body": {"fields": {"day": "Friday"}}}
        raw = server.ask(stream=stream, **fields)
        assert (raw.headers["x-prefdistill-route"], raw.headers["x-prefdistill-reason"]) == ("student", "teacher_spent")
        assert list(raw.parse()) if stream else raw.parse()
    [row] = server.rows()
    assert row.fired == ("gate",)
    with pytest.raises(BothDownError):
        ask(make_router(down(), teacher))


def test_what_is_left_is_a_metric_and_its_end_is_told_at_healthz(tmp_path: Path) -> None:
    gauges, allowance = Gauges(0.1, 0.1), make(tmp_path, 0.5)
    gauges.allow(allowance.usd, lambda: allowance.left)
    server = Server("http://127.0.0.1:9/v1", "m", "k", 1.0, price=PRICE, allowance=allowance)
    assert server.state == "ready"
    for _ in range(2):
        with allowance.paying(ASKED) as payment:
            payment.settle(0.2)
    with pytest.raises(SpentError), allowance.paying(ASKED):
        pass
    assert server.state == "spent"
    text = gauges.text().decode()
    assert "prefdistill_teacher_usd_allowed 0.5" in text
    assert re.search(r"prefdistill_teacher_usd_left 0\.0?9*1?", text)


OPENAI = "teacher: {use: openai, model: %s, base_url: 'http://localhost:1/v1'%s}\n"


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ("", "the recipe has no teacher"),
        ("teacher: {use: sandbox}\n", "`sandbox` is a plug-in"),
        (OPENAI % ("no-such-model", ""), "the model `no-such-model` has no price"),
        (OPENAI % ("no-such-model", ", usd_per_million: {input: 1}"), "has a price for input alone"),
    ],
)
def test_without_a_known_price_it_is_refused_before_anything_is_loaded(
    tmp_path: Path, teacher: str, words: str
) -> None:
    said: list[str] = []
    with pytest.raises(RecipeError, match=re.escape(words)) as caught:
        serve_run(Wanted(make_run(tmp_path, extra=teacher), port=0, teacher_usd=5.0), said.append)
    assert str(caught.value).startswith("--teacher-usd 5: ") and not said
    with pytest.raises(RecipeError, match="expected a number of dollars"):
        require_price(stored_run(tmp_path / "served-run")[1].model_copy(update={"teacher": object()}), float("nan"))


def test_the_recipes_price_counts(tmp_path: Path) -> None:
    run, recipe = stored_run(
        make_run(tmp_path, extra=OPENAI % ("m", ", usd_per_million: {input: 1, output: 2}, extra_body: {n: 2}"))
    )
    require_price(recipe, 5.0)
    seen: list[Any] = []

    def allow(price: Any, extra_body: Any) -> Allowance:
        seen.append((dict(price), dict(extra_body)))
        return make(tmp_path, 5.0)

    server = open_teacher(recipe, run, 3.0, lambda line: None, allow)
    assert isinstance(server, Server) and server.allowance is not None
    assert seen == [({"input": 1.0, "output": 2.0}, {"n": 2})]
    assert replace(server, allowance=None).state == "ready"
