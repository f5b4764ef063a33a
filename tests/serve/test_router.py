"""Who answers: every route and reason, whole and streamed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from prefdistill.records import Message
from prefdistill.serve.router import Answer, BothDownError, Router
from prefdistill.serve.routing import Thresholds
from prefdistill.serve.upstream import DownError, Nobody, UnrenderableError
from prefdistill.serve.wire import Asked
from tests.serve.fakes import GOOD, Fake, down, make_router, make_tests, too_long

BAD = "See you on Monday."
"""Fails the gate."""


def ask(router: Router, *, stream: bool = False, day: str | None = "Friday", **changes: Any) -> tuple[Answer, str]:
    """Return the answer and its text."""
    messages = changes.pop("messages", (Message(role="user", content="Write it."),))
    asked = Asked(messages=messages, fields={"day": day} if day else {}, stream=stream, **changes)

    async def work() -> tuple[Answer, str]:
        answer = await router.answer(asked)
        text = "".join([piece async for piece in router.rest(answer)])
        assert answer.written is not None and answer.written.text == text
        return answer, text

    return asyncio.run(work())


class Far:
    """A scope to which everything is foreign."""

    def distance(self, text: str) -> float:
        return 0.9


FAR: dict[str, Any] = {"scope": Far(), "thresholds": Thresholds(distance=0.5)}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("student", "teacher", "tests", "route", "reason"),
    [
        (Fake(), Fake("T"), {}, "student", "kept"),
        (Fake(BAD), Fake("T"), {}, "teacher", "gate"),
        (Fake(BAD), down(), {}, "student", "teacher_down"),
        (Fake(finish="length"), Fake("T"), {}, "teacher", "gate"),
        (Fake(), Fake("T"), {"thresholds": Thresholds(characters=(1, 5))}, "teacher", "length"),
        (Fake(), Fake("T"), {"thresholds": Thresholds(log_prob=-0.1)}, "teacher", "log_prob"),
        (Fake(), Fake("T"), FAR, "teacher", "out_of_scope"),
        (Fake(), down(), FAR, "student", "teacher_down"),
        (down(), Fake("T"), {}, "teacher", "student_down"),
        (too_long(), Fake("T"), {}, "teacher", "length"),
    ],
)
def test_routes(student: Fake, teacher: Fake, tests: dict[str, Any], route: str, reason: str, stream: bool) -> None:
    answer, text = ask(make_router(student, teacher, make_tests(**tests)), stream=stream)
    assert (answer.route, answer.reason) == (route, reason)
    assert text == (teacher.text if route == "teacher" else student.text)
    row = answer.row("run")
    assert row.draft == (student.text if answer.draft is not None and route == "teacher" else None)


def test_a_prompt_out_of_scope_costs_no_draft_and_one_that_is_kept_no_teacher() -> None:
    student, teacher = Fake(), Fake("T")
    ask(make_router(student, teacher, make_tests(**FAR)))
    assert (len(student.asked), len(teacher.asked)) == (0, 1)
    ask(make_router(student, teacher))
    assert (len(student.asked), len(teacher.asked)) == (1, 1)


@pytest.mark.parametrize("student", [down(), too_long()])
def test_both_down(student: Fake) -> None:
    with pytest.raises(BothDownError):
        ask(make_router(student, down()))


NO = DownError("HTTP 400: no", lasting=True)


@pytest.mark.parametrize(
    ("student", "teacher", "tests", "expected"),
    [
        (too_long(), Fake(problem=NO), {}, True),
        (too_long(), too_long(), {}, True),
        (too_long(), Nobody(), {}, True),
        (too_long(), Fake(problem=NO), FAR, True),
        (too_long(), down(), {}, False),
        (too_long(), down(), FAR, False),
        (down(), Fake(problem=NO), {}, False),
        (Fake(problem=UnrenderableError("roles must alternate")), Nobody(), {}, False),
    ],
)
def test_a_shorter_prompt_helps_where_nothing_passes_by_itself(
    student: Fake, teacher: Any, tests: dict[str, Any], expected: bool
) -> None:
    with pytest.raises(BothDownError) as caught:
        ask(make_router(student, teacher, make_tests(**tests)))
    assert caught.value.too_long is expected


def test_with_the_teacher_down_too_a_student_that_comes_back_is_waited_for() -> None:
    student = down()
    student.comes_back = True
    answer, text = ask(make_router(student, down()))
    assert (answer.route, answer.reason, text) == ("student", "kept", GOOD)
    student = down()
    student.comes_back, student.text = True, BAD
    assert ask(make_router(student, down()))[0].reason == "teacher_down", "its draft is tested all the same"


def test_all_tests_that_fire_are_noted_and_the_first_is_the_reason() -> None:
    limits = Thresholds(log_prob=-0.1, characters=(1, 5))
    answer, _ = ask(make_router(Fake(BAD), Fake("T"), make_tests(thresholds=limits)))
    assert answer.reason == "gate"
    row = answer.row("run")
    assert (row.fired, row.gates, row.log_prob) == (("gate", "length", "log_prob"), ("facts",), -0.2)
    answer, _ = ask(make_router(Fake(BAD), down(), make_tests(thresholds=limits, **{"scope": Far()})))
    assert answer.row("run").distance == 0.9


def test_without_tests_of_drafts_the_students_words_stream() -> None:
    student = Fake(BAD)
    answer, text = ask(make_router(student, Fake("T"), make_tests("out_of_scope")), stream=True)
    assert (answer.route, answer.reason, answer.buffered, text) == ("student", "kept", "none", BAD)
    assert answer.row("run").log_prob == -0.2, "known once it has ended"
    assert ask(make_router(student, Fake("T")), stream=True)[0].buffered == "draft"


def test_a_stream_that_cannot_begin_is_stood_in_for_and_one_that_breaks_off_is_not() -> None:
    answer, _ = ask(make_router(Fake(breaks_after=0), Fake("T"), make_tests("out_of_scope")), stream=True)
    assert (answer.route, answer.reason) == ("teacher", "student_down")
    with pytest.raises(DownError):
        ask(make_router(Fake(breaks_after=2), Fake("T"), make_tests("out_of_scope")), stream=True)
    answer, _ = ask(make_router(Fake(BAD), Fake("T", breaks_after=0)), stream=True)
    assert (answer.route, answer.reason) == ("student", "teacher_down")


def test_each_is_asked_with_its_own_system_prompt_and_limits() -> None:
    student, teacher = Fake(BAD), Fake("T")
    router = make_router(student, teacher, student_system="Short.", teacher_system="The long production prompt.")
    ask(router, max_tokens=500)
    assert [each.messages[0].content for each in (student.asked[0], teacher.asked[0])] == [
        "Short.",
        "The long production prompt.",
    ]
    assert (student.asked[0].max_tokens, teacher.asked[0].max_tokens) == (100, 500), "the student's training limit"
    assert student.asked[0].temperature == 0.7
    own = (Message(role="system", content="Mine."), Message(role="user", content="Write."))
    ask(router, messages=own, temperature=0.0)
    assert student.asked[1].messages == own, "as in the run: a row that has its own keeps it"
    assert teacher.asked[1].messages[0].content == "The long production prompt."
    assert student.asked[1].temperature == 0.0


def test_a_client_that_wants_a_short_answer_is_not_sent_to_the_teacher_for_it() -> None:
    answer, _ = ask(make_router(Fake(finish="length"), Fake("T")), max_tokens=3)
    assert (answer.route, answer.reason) == ("student", "kept")


def test_large_prompts_are_checked_on_a_thread() -> None:
    big = (Message(role="user", content="x " * 50_000),)
    assert ask(make_router(Fake(BAD), Fake("T")), messages=big)[0].reason == "gate"
