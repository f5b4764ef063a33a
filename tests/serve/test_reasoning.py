"""A student that reasons: clients, tests and log get its answer alone."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import openai
import pytest

from prefdistill.errors import RecipeError, RunError
from prefdistill.records import Draft, Message, Policy
from prefdistill.run import RunDirectory
from prefdistill.serve.command import Wanted, serve_run
from prefdistill.serve.reasoning import AnswerOnly, answer_of
from prefdistill.serve.router import Answer, Router
from prefdistill.serve.routing import Thresholds, Written
from prefdistill.serve.servers import Server
from prefdistill.serve.upstream import DownError, Writing
from prefdistill.serve.wire import Asked
from prefdistill.serve.worker import Student
from prefdistill.stored import stored_policy, stored_run, stored_run_traced
from prefdistill.traces import TAGS, empty_block
from tests.loopback import Loopback, Served
from tests.serve.fakes import GOOD, Fake, down, make_router, make_tests, running
from tests.serve.test_command import make_run

TRACE = "<think>\nNot on Monday, the premise is hidden: Friday.\n</think>\n\n"
BAD = "See you on Monday."
UNCLOSED = "<think>\nFriday, or on Friday, or even on"
ASKED = Writing("id", (Message(role="user", content="Write it."),), 50, 0.7, None, None)


@dataclass
class Thinker(Fake):
    """A student that writes its text in the pieces that it is given."""

    pieces: Sequence[str] = field(default=())
    closed: int = 0

    async def stream(self, asked: Writing) -> AsyncGenerator[str | Written]:
        whole = await self.write(asked)
        try:
            for number, piece in enumerate(self.pieces or (self.text,)):
                if number == self.breaks_after:
                    raise DownError("broke")
                yield piece
            yield whole
        finally:
            self.closed += 1


def cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


async def heard(student: AnswerOnly | Server) -> tuple[list[str], Written]:
    """Return what a stream says, and its whole."""
    *pieces, whole = [piece async for piece in student.stream(ASKED)]
    assert isinstance(whole, Written)
    return [piece for piece in pieces if isinstance(piece, str)], whole


TEXTS = [
    (TRACE + GOOD, GOOD, "stop"),
    (f"\n{TRACE}{TRACE}{GOOD}", GOOD, "stop"),
    (GOOD, GOOD, "stop"),
    ("<think></think>", "", "stop"),
    ("<thi", "<thi", "stop"),
    ("< a", "< a", "stop"),
    (UNCLOSED, "", "length"),
    (f"{TRACE}<think>again", "", "length"),
]


@pytest.mark.parametrize(("text", "answer", "finish"), TEXTS)
def test_the_answer_alone_is_heard_wherever_a_stream_is_cut(text: str, answer: str, finish: str) -> None:
    async def work() -> None:
        expected = Written(answer, finish, 10, 5, -0.2)  # type: ignore[arg-type]  # one of the two
        assert await AnswerOnly(Thinker(text), TAGS).write(ASKED) == expected
        cuts = [cut(text, size) for size in range(1, 12)] + [[text[:at], text[at:]] for at in range(len(text))]
        for pieces in cuts:
            said, whole = await heard(AnswerOnly(Thinker(text, pieces=pieces), TAGS))
            assert ("".join(said), whole) == (answer, expected), pieces
            assert all(said), "an empty piece is no text"

    asyncio.run(work())


def test_an_answer_streams_as_it_is_written_and_no_piece_twice() -> None:
    student = Thinker(TRACE + GOOD, pieces=[*cut(TRACE, 3), *cut(GOOD, 4)])
    said, _ = asyncio.run(heard(AnswerOnly(student, TAGS)))
    assert said == cut(GOOD, 4)


def test_a_cut_answer_is_still_cut_and_other_tags_are_other_tags() -> None:
    assert answer_of(Written(TRACE + GOOD, "length"), TAGS) == Written(GOOD, "length")
    assert answer_of(Written(TRACE + GOOD), ("[THINK]", "[/THINK]")).text == TRACE + GOOD


def test_what_befalls_the_student_is_passed_on() -> None:
    async def work() -> None:
        with pytest.raises(DownError):
            await AnswerOnly(down(), TAGS).write(ASKED)
        breaking = Thinker(TRACE + GOOD, pieces=[TRACE, GOOD], breaks_after=1)
        with pytest.raises(DownError):
            await heard(AnswerOnly(breaking, TAGS))
        left = Thinker(TRACE + GOOD, pieces=[TRACE, GOOD, GOOD])
        pieces = AnswerOnly(left, TAGS).stream(ASKED)
        assert await anext(pieces) == GOOD
        await pieces.aclose()
        assert (breaking.closed, left.closed) == (1, 1), "a client that goes away ends the student's work too"
        gone = Fake(problem=DownError("down"), comes_back=True)
        student = AnswerOnly(gone, TAGS)
        assert student.state == "down"
        assert await student.back(0.0) and student.state == "ready"
        await student.close()

    asyncio.run(work())


def ask(student: Fake, teacher: Fake, *on: Any, thresholds: Thresholds | None = None, **changes: Any) -> Answer:
    router = make_router(student, teacher, make_tests(*on, thresholds=thresholds, tags=TAGS))
    return asyncio.run(_ask(replace(router, student=AnswerOnly(student, TAGS)), changes))


async def _ask(router: Router, changes: dict[str, Any]) -> Answer:
    message = Message(role="user", content="Write it.")
    answer = await router.answer(Asked(messages=(message,), fields={"day": "Friday"}, **changes))
    text = "".join([piece async for piece in router.rest(answer)])
    assert answer.written is not None and answer.written.text == text
    return answer


STRAY = {
    f"{TRACE}{GOOD}</think>": GOOD,
    f"{TRACE}See you </think> on Friday": "on Friday",
    f"{GOOD} <think>why": GOOD,
    f"why</think>\n{GOOD}": GOOD,
    f"why</think>\n{GOOD}\n<think>or not</think>": GOOD,
}
"""Texts, and what of each is most likely the answer."""


@pytest.mark.parametrize("on", [(), ("out_of_scope",), ("length",)])
@pytest.mark.parametrize("text", STRAY)
def test_an_answer_with_a_stray_tag_goes_to_the_teacher_whatever_tests_are_on(text: str, on: tuple[Any, ...]) -> None:
    row = ask(Thinker(text), Fake("T"), *on).row("run")
    assert (row.route, row.reason, row.completion) == ("teacher", "gate", "T")
    assert row.gates[:1] == ("no_stray_tags",) and row.fired == ("gate",)
    assert row.draft == STRAY[text], "the log has no reasoning either"
    row = ask(Thinker(text), down(), *on).row("run")
    assert (row.route, row.reason, row.gates[:1]) == ("student", "teacher_down", ("no_stray_tags",)), "marked"
    assert row.completion == STRAY[text]
    row = ask(Thinker(text, pieces=[text]), Fake("T"), *on, stream=True).row("run")
    assert (row.route, row.reason, row.completion) == ("teacher", "gate", "T"), "nothing was said yet"
    assert row.gates[:1] == ("no_stray_tags",)


def test_without_reasoning_a_tag_is_a_word_like_any_other() -> None:
    router = make_router(Fake(f"{GOOD} </think>"), Fake("T"))
    assert asyncio.run(_ask(router, {})).row("run").route == "student"


def test_a_stream_that_is_not_held_back_ends_where_a_stray_tag_stands(tmp_path: Path) -> None:
    text = f"{TRACE}See you </think> on Friday"
    router = make_router(Thinker(text, pieces=cut(text, 3)), Fake("T"), make_tests("out_of_scope", tags=TAGS))
    with running(tmp_path, replace(router, student=AnswerOnly(router.student, TAGS))) as server:
        said: list[str] = []
        events = server.ask(stream=True).parse()
        with pytest.raises(openai.APIError, match="broke off"):
            said.extend(event.choices[0].delta.content or "" for event in events)
        assert "".join(said) == "See you "
    assert b'prefdistill_gate_failures_total{gate="no_stray_tags"} 1.0' in server.service.gauges.text()
    [row] = server.rows()
    assert (row.reason, row.gates, row.completion) == ("failed", ("no_stray_tags",), "See you ")


def test_calibration_counts_stray_tags_of_drafts_written_before_they_were_marked(tmp_path: Path) -> None:
    run = thinking(tmp_path)
    rows = RunDirectory(run).rows(RunDirectory(run).baselines, "base-validation-drafts.jsonl", Draft)
    drafts = sorted(rows.read().values(), key=lambda draft: draft.id)
    tagged = [draft.model_copy(update={"completion": f"{draft.completion}</think>"}) for draft in drafts[:6]]
    rows.rewrite([*tagged, *drafts[6:]])
    said, found = calibrated(run, fallback=0.3)
    assert found["gates"]["no_stray_tags"] == 0.1
    assert any("no_stray_tags 10.0%" in line for line in said)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "limits", "route", "reason", "gates"),
    [
        (TRACE + GOOD, {}, "student", "kept", ()),
        (TRACE + BAD, {}, "teacher", "gate", ("facts",)),
        (TRACE + GOOD, {"characters": (1.0, len(GOOD))}, "student", "kept", ()),
        (TRACE + GOOD, {"characters": (len(GOOD) + 1.0, 500.0)}, "teacher", "length", ()),
        (TRACE + GOOD, {"log_prob": -0.1}, "teacher", "log_prob", ()),
        (UNCLOSED, {}, "teacher", "gate", ("complete", "facts")),
    ],
)
def test_the_tests_read_the_answer(
    text: str, limits: dict[str, Any], route: str, reason: str, gates: tuple[str, ...], stream: bool
) -> None:
    answer = ask(Thinker(text), Fake("T"), thresholds=Thresholds(**limits), stream=stream)
    row = answer.row("run")
    assert (row.route, row.reason, row.gates) == (route, reason, gates)
    assert row.completion == (GOOD if route == "student" else "T")
    assert row.draft == (None if route == "student" else "" if text is UNCLOSED else text.removeprefix(TRACE))
    assert row.log_prob == -0.2, "the mean over all that was written, as of the drafts"


def test_reasoning_without_an_answer_goes_to_the_teacher_whatever_the_client_allows() -> None:
    row = ask(Thinker(UNCLOSED, finish="length"), Fake("T"), max_tokens=9).row("run")
    assert (row.route, row.reason, row.gates) == ("teacher", "gate", ("complete", "facts"))
    row = ask(Thinker(TRACE + GOOD[:9], finish="length"), Fake("T"), "length", "log_prob", max_tokens=9).row("run")
    assert (row.route, row.completion) == ("student", GOOD[:9]), "an answer that is cut is the client's wish"
    row = ask(Thinker(UNCLOSED), down()).row("run")
    assert (row.route, row.reason, row.completion, row.first_token_seconds) == ("student", "teacher_down", "", None)


def test_a_stream_without_tests_of_drafts_says_the_answer_alone() -> None:
    student = Thinker(TRACE + BAD, pieces=cut(TRACE + BAD, 5))
    answer = ask(student, Fake("T"), "out_of_scope", stream=True)
    assert (answer.route, answer.buffered) == ("student", "none")
    assert answer.row("run").completion == BAD
    dying = Thinker(TRACE + BAD, pieces=[*cut(TRACE, 9), BAD], breaks_after=3)
    assert ask(dying, Fake("T"), "out_of_scope", stream=True).row("run").completion == "T", "nothing was said yet"
    row = ask(Thinker(UNCLOSED, pieces=cut(UNCLOSED, 5)), Fake("T"), "out_of_scope", stream=True).row("run")
    assert (row.route, row.reason, row.completion, row.gates) == ("teacher", "gate", "T", ("complete",))


def test_a_student_that_says_nothing_is_not_kept_whatever_tests_are_on() -> None:
    row = asyncio.run(_ask(make_router(Fake(" "), Fake("T"), make_tests("out_of_scope")), {})).row("run")
    assert (row.route, row.reason, row.gates) == ("teacher", "gate", ("complete",))


def test_neither_client_nor_log_gets_any_of_it(tmp_path: Path) -> None:
    student = Thinker(TRACE + GOOD, pieces=cut(TRACE + GOOD, 4))
    friday: dict[str, Any] = {"extra_body": {"fields": {"day": "Friday"}}}
    for folder, on in (("all", ()), ("prompt-only", ("out_of_scope",))):
        (tmp_path / folder).mkdir()
        router = make_router(student, Fake("T"), make_tests(*on))
        with running(tmp_path / folder, replace(router, student=AnswerOnly(student, TAGS))) as server:
            whole = server.ask(**friday)
            assert whole.parse().choices[0].message.content == GOOD
            assert set(json.loads(whole.text)["choices"][0]["message"]) == {"role", "content", "refusal"}
            events = [each.choices[0] for each in server.ask(stream=True, **friday).parse()]
            assert "".join(each.delta.content or "" for each in events) == GOOD
            assert events[-1].finish_reason == "stop"
        assert [row.completion for row in server.rows()] == [GOOD, GOOD]
        assert not any(word in server.log.read_text() for word in ("think>", "premise"))


def behind(served: Served, work: Callable[[AnswerOnly], Awaitable[Any]], reasons: bool = True) -> Any:
    """Return what `work` gives with a student behind a server."""

    async def run(url: str) -> Any:
        student = AnswerOnly(Server(url, "m", "k", 5.0, free=True, reasons=reasons, note=lambda line: None), TAGS)
        try:
            return await work(student)
        finally:
            await student.close()

    with Loopback(lambda body: served) as loopback:
        return asyncio.run(run(loopback.url))


@pytest.mark.parametrize(
    ("served", "answer", "finish"),
    [
        (Served(TRACE + GOOD, pieces=cut(TRACE + GOOD, 3)), GOOD, "stop"),
        (Served(TRACE + GOOD, pieces=cut(TRACE + GOOD, 500)), GOOD, "stop"),
        (Served(f"\n\n{GOOD}", reasoning="Not on Monday.", pieces=["\n", f"\n{GOOD[:5]}", GOOD[5:]]), GOOD, "stop"),
        (Served(TRACE + GOOD, reasoning="Not on Monday."), GOOD, "stop"),
        (Served(UNCLOSED, pieces=cut(UNCLOSED, 3)), "", "length"),
        (Served("", reasoning="Friday, or", finish_reason="length"), "", "length"),
        (Served("", reasoning="Friday, or"), "", "length"),
        (Served(GOOD), GOOD, "stop"),
    ],
)
def test_a_student_behind_a_server_is_parted_the_same_way(served: Served, answer: str, finish: str) -> None:
    expected = Written(answer, finish, 100, 20)  # type: ignore[arg-type]  # one of the two
    assert behind(served, lambda student: student.write(ASKED)) == expected
    said, whole = behind(served, heard)
    assert ("".join(said), whole) == (answer, expected)


def test_no_answer_at_all_and_a_student_that_does_not_reason_are_as_before() -> None:
    for served, reasons in ((Served(""), True), (Served("", reasoning="Friday, or"), False)):
        for work in (lambda student: student.write(ASKED), heard):
            with pytest.raises(DownError, match="empty"):
                behind(served, work, reasons)


def thinking(tmp_path: Path, trace: str = "on") -> Path:
    """Write what `serve` needs of a run whose student reasons; its drafts have a trace where `trace` is on."""
    run = make_run(tmp_path)
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("sandbox:student'}", f"sandbox:student', trace: '{trace}'}}"))
    if trace == "on":
        file = RunDirectory(run).rows(run / "baselines", "base-validation-drafts.jsonl", Draft)
        file.rewrite([each.model_copy(update={"trace": "<think>so</think>"}) for each in file.read().values()])
    return run


def calibrated(run: Path, *overrides: str, **changes: Any) -> tuple[list[str], dict[str, Any]]:
    said: list[str] = []
    serve_run(Wanted(run, overrides=overrides, calibrate_only=True, **changes), said.append)
    return said, json.loads((run / "calibration.json").read_text())


def test_thresholds_are_of_answers_and_of_all_that_was_written(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    _, plain = calibrated(make_run(tmp_path / "plain"), fallback=0.3)
    _, found = calibrated(thinking(tmp_path), fallback=0.3)
    assert found["characters"] == plain["characters"] and found["gates"] == plain["gates"]
    assert math.isclose(found["log_prob"], plain["log_prob"])


@pytest.mark.parametrize(
    ("trace", "overrides", "no_trace", "words"),
    [
        ("on", (), False, ""),
        ("on", (), True, "were written with reasoning, and the student is served without it"),
        ("on", ("student.trace=off",), False, "were written with reasoning, and the student is served without it"),
        ("off", (), False, ""),
        ("off", (), True, ""),
        ("off", ("student.trace=on",), False, "were written without reasoning, and the student is served with it"),
    ],
)
def test_thresholds_of_drafts_written_otherwise_are_said(
    tmp_path: Path, trace: str, overrides: tuple[str, ...], no_trace: bool, words: str
) -> None:
    said, found = calibrated(thinking(tmp_path, trace), *overrides, no_trace=no_trace)
    for lines in (said, found["notes"]):
        assert sum("reasoning" in line for line in lines) == bool(words)
        assert any(words in line for line in lines)


def test_no_trace_is_refused_where_there_is_nothing_to_switch_or_no_way_to(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(RunError, match="was not trained to reason"):
        calibrated(make_run(tmp_path / "plain"), no_trace=True)
    run = thinking(tmp_path)
    with pytest.raises(RecipeError, match=r"--no-trace: the server at --student-url .* student\.trace=off instead"):
        calibrated(run, no_trace=True, student_url="http://127.0.0.1:9/v1")
    said, _ = calibrated(run, "student.trace=off", student_url="http://127.0.0.1:9/v1")
    assert any("expected a server whose template begins the turn with an empty trace" in line for line in said)


def test_the_students_process_is_told(tmp_path: Path) -> None:
    run = thinking(tmp_path)
    for no_trace, overrides in ((False, ("seed=3",)), (True, ("seed=3", "student.trace=off"))):
        wanted = Wanted(run, overrides=("seed=3",), no_trace=no_trace)
        _, recipe = stored_run_traced(run, no_trace, wanted.overrides)
        assert recipe.seed == 3
        student = wanted.student(recipe)
        assert (student.overrides, student.tags) == (overrides, TAGS)
        assert stored_run(run, student.overrides)[1].student.block == (empty_block(TAGS) if no_trace else "")
    (tmp_path / "plain").mkdir()
    plain = Wanted(make_run(tmp_path / "plain"))
    assert plain.student(stored_run(plain.folder)[1]).tags is None


@pytest.mark.slow
def test_without_reasoning_the_students_turn_begins_with_an_empty_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefdistill.serve import worker
    from prefdistill.student import load_tokenizer

    class Model:
        generation_config = None

    monkeypatch.setattr(worker, "load_weights", lambda *_: ("merged float32", Model()))
    run = thinking(tmp_path)
    asked = {"id": 1, "messages": [{"role": "user", "content": "Write."}], "seed": 1, "temperature": 1.0, "top_p": 1.0,
             "max_new_tokens": 9, "stream": False}  # fmt: skip
    prompts = []
    off, teaching = "student.trace=off", ("teacher.use=sandbox", "warm_start.use=traces", "warm_start.prompts=8")
    for overrides in ((), (off,), (off, *teaching)):
        found = Student(run, overrides, None, open(tmp_path / "out", "w"))._understood(asked)  # noqa: SIM115
        assert found is not None
        prompts.append(found.prompt)
    _, recipe = stored_run(run)
    text = [load_tokenizer(recipe.student).decode(each) for each in prompts]
    assert text[1] == text[0] + empty_block(TAGS)
    assert text[2] == text[0], "a base that a trainer is yet to teach knows no empty trace"
    assert stored_policy(RunDirectory(run), recipe) == Policy(model="prefdistill.sandbox:student")
