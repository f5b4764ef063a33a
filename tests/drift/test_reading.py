import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from prefdistill.drift.distinct import distinct
from prefdistill.drift.reading import Request, parse_time, read_log, to_request
from prefdistill.errors import RunError
from prefdistill.records import Message
from prefdistill.served import Served


def served(id: str = "a", text: str | None = "Hello", **other: Any) -> Served:
    about: dict[str, Any] = {
        "time": "2026-11-01T10:00:00Z", "model": "run", "route": "student", "reason": "kept", "seconds": 0.5,
        "prompt_characters": 5, "messages": () if text is None else (Message(role="user", content=text),),
        "redacted": text is None,
    }  # fmt: skip
    return Served(id=id, **{**about, **other})


def write(path: Path, *rows: Served | dict[str, Any] | str) -> Path:
    lines = [
        row.model_dump_json() if isinstance(row, Served) else row if isinstance(row, str) else json.dumps(row)
        for row in rows
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


RUN = frozenset({"run"})


def test_a_served_row_brings_what_it_knows(tmp_path: Path) -> None:
    row = served(score=0.5, score_judge="checks", distance=0.1, fired=("gate",), fields={"day": "Monday"})
    [request] = read_log([write(tmp_path / "log", row)], RUN).requests
    assert (request.text, request.fallback, request.score, request.judge) == ("Hello", True, 0.5, "checks")
    assert request.time == datetime(2026, 11, 1, 10, tzinfo=UTC)
    assert request.fields == {"day": "Monday"}


@pytest.mark.parametrize(
    ("reason", "fired", "route", "fallback"),
    [
        ("kept", (), "student", False),
        ("gate", ("gate",), "teacher", True),
        ("out_of_scope", (), "teacher", True),
        ("teacher_down", ("length",), "student", True),
        ("student_down", (), "teacher", None),
        ("failed", (), "none", None),
    ],
)
def test_who_was_down_is_no_fallback(reason: str, fired: tuple[str, ...], route: str, fallback: bool | None) -> None:
    row = served(reason=reason, fired=fired, route=route).model_dump(mode="json")
    request = to_request(row, "x")
    assert request is not None and request.fallback is fallback


def test_a_request_that_was_judged_later_counts_once_with_its_score(tmp_path: Path) -> None:
    log = write(tmp_path / "log", served(), served("b"), served(score=0.25, score_judge="checks"))
    read = read_log([log], RUN)
    assert [(each.id, each.score) for each in read.requests] == [("a", 0.25), ("b", None)]


def test_the_teachers_answers_say_nothing_about_the_student() -> None:
    request = to_request(served(route="teacher", reason="gate", score=0.9, score_judge="c").model_dump(), "x")
    assert request is not None and request.score is None


def test_torn_lines_and_rows_without_a_prompt_are_counted(tmp_path: Path) -> None:
    log = write(tmp_path / "log", served(), '{"id": "torn", "mess', "[1, 2]", '{"no": "prompt"}', "", served("b"))
    read = read_log([log], RUN)
    assert len(read.requests) == 2
    assert read.unreadable == 3


def test_a_line_that_is_being_written_is_not_counted(tmp_path: Path) -> None:
    log = write(tmp_path / "log", served())
    log.write_bytes(log.read_bytes() + b'{"id": "b", "mess')
    read = read_log([log], RUN)
    assert (len(read.requests), read.unreadable) == (1, 0)


@pytest.mark.parametrize(
    "row",
    [
        {"route": None, "reason": None, "model": ["run"]},
        {"messages": [{"role": "user"}, {"role": 5, "content": {}}, 7, None]},
        {"messages": {"a": 1}},
        {"prompt": 17},
        {"prompt": "  "},
        None,
        [[]],
    ],
    ids=str,
)
def test_rows_of_the_wrong_shape_are_counted(row: Any, tmp_path: Path) -> None:
    read = read_log([write(tmp_path / "log", served(), json.dumps(row))], RUN)
    assert (len(read.requests), read.unreadable) == (1, 1)


def test_values_of_the_wrong_type_are_unknown_and_half_characters_are_replaced(tmp_path: Path) -> None:
    bad = {"route": "student", "reason": "kept", "model": "run", "score": "high", "time": "never", "seconds": 1e400,
           "prompt_characters": 1e400, "fields": [1], "messages": [{"role": "user", "content": "\ud800 half"}]}  # fmt: skip
    [request] = read_log([write(tmp_path / "log", bad)], RUN).requests
    assert (request.score, request.time, request.seconds, dict(request.fields)) == (None, None, None, {})
    assert request.text == "? half"


@pytest.mark.parametrize("huge", [10**400, -(10**400)])
def test_numbers_that_no_float_holds_are_unknown(huge: int, tmp_path: Path) -> None:
    names = ("seconds", "score", "distance", "prompt_characters", "time")
    bad = {"route": "student", "reason": "kept", "model": "run", "messages": [], **dict.fromkeys(names, huge)}
    [request] = read_log([write(tmp_path / "log", bad)], RUN).requests
    assert [request.seconds, request.score, request.distance, request.characters, request.time] == [None] * 5


@pytest.mark.parametrize("name", ["\x1b[31mEVIL\x1b[0m", "\u202eEVIL", "\x9b31mEVIL"])
def test_names_of_other_models_do_not_steer_the_terminal(name: str, tmp_path: Path) -> None:
    row = {"route": "student", "reason": "kept", "model": name, "messages": [{"role": "user", "content": "Hello"}]}
    with pytest.raises(RunError, match="EVIL") as told:
        read_log([write(tmp_path / "log", row)], RUN)
    assert str(told.value).isprintable()


def test_older_files_of_a_log_come_first(tmp_path: Path) -> None:
    write(tmp_path / "log.1", served("old"))
    write(tmp_path / "log.2", served("oldest"))
    read = read_log([write(tmp_path / "log", served("new"))], RUN)
    assert [each.id for each in read.requests] == ["oldest", "old", "new"]


def test_other_servers_logs_are_read(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url"}, {"type": "text", "text": "what is it?"}]
    log = write(
        tmp_path / "log",
        {"prompt": "Write to Ada", "day": "Monday", "time": "9:30", "created": 1_793_528_000},
        {"messages": [{"role": "developer", "content": "Be brief"}, {"role": "user", "content": parts}]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}], "model": "gpt"},
    )
    first, second, third = read_log([log], RUN).requests
    assert (first.text, dict(first.fields)) == ("Write to Ada", {"day": "Monday", "time": "9:30"})
    assert first.time is not None and first.time.year == 2026
    assert (second.text, second.system) == ("Look:\nwhat is it?", "Be brief")
    assert third.turns == (("user", "x"),)


def test_ids_of_other_servers_may_be_those_of_users(tmp_path: Path) -> None:
    rows = [{"id": "user-1", "prompt": f"Write to {name}"} for name in ("Ada", "Ben")]
    assert len(read_log([write(tmp_path / "log", *rows)], RUN).requests) == 2


def test_redacted_rows_keep_their_numbers(tmp_path: Path) -> None:
    [request] = read_log([write(tmp_path / "log", served(text=None, distance=0.2, prompt_characters=77))], RUN).requests
    assert (request.text, request.redacted, request.characters, request.distance) == (None, True, 77, 0.2)


def test_another_runs_requests_are_left_out_and_a_log_of_them_alone_is_refused(tmp_path: Path) -> None:
    log = write(tmp_path / "log", served(), served("b", model="other"))
    assert read_log([log], RUN).other_models == {"other": 1}
    with pytest.raises(RunError, match=r"no request to this run \(`mine`\): the log's are to `.*--model"):
        read_log([log], frozenset({"mine"}))


@pytest.mark.parametrize(("content", "said"), [("", "empty"), ("\n\n", "empty"), ("{}\n", "none of 1 lines")])
def test_a_log_without_requests_is_refused_in_clear_words(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(content)
    with pytest.raises(RunError, match=said):
        read_log([tmp_path / "log"], RUN)


def test_a_missing_log_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        read_log([tmp_path / "log"], RUN)
    with pytest.raises(RunError, match="cannot be read"):
        read_log([tmp_path], RUN)


@pytest.mark.parametrize("value", ["yesterday", "9:30", None, True, 1e30, [], float("nan")])
def test_what_is_no_time_is_none(value: Any) -> None:
    assert parse_time(value) is None


def test_times_are_told_in_utc() -> None:
    assert parse_time("2026-11-01T12:00:00+02:00") == parse_time("2026-11-01T10:00:00") == parse_time(1793527200)
    assert parse_time(1793527200000) == parse_time(1793527200)


def asked(id: str, *turns: str) -> Request:
    return Request(id, tuple(("user" if index % 2 == 0 else "assistant", text) for index, text in enumerate(turns)))


def test_a_prompt_counts_once_whoever_repeats_it() -> None:
    found = distinct(
        [asked(str(n), "Status  please") for n in range(100)] + [asked("x", "STATUS please"), asked("y", "Hi")]
    )
    assert len(found.requests) == 2
    assert (found.repeats, found.most) == (100, 101)


def test_a_conversation_counts_once() -> None:
    turns = ["Hi", "Hello", "Write to Ada", "Done", "Shorter", "Done", "Now to Ben"]
    found = distinct([asked(str(n), *turns[: n + 1]) for n in range(0, 7, 2)])
    assert len(found.requests) == 1
    assert found.further_turns == 3


def test_a_greeting_that_many_begin_with_does_not_make_one_conversation_of_them() -> None:
    opened = [asked(f"o{n}", "Hi") for n in range(50)]
    gone_on = [asked(f"g{n}", "Hi", "Hello", f"Question {'x' * n}") for n in range(50)]
    found = distinct([*opened, *gone_on])
    assert found.further_turns == 50
    assert 15 <= len(found.requests) <= 36  # of each pair one stands for both, drawn by hash


def test_redacted_requests_all_stay() -> None:
    assert len(distinct([Request(str(n), redacted=True) for n in range(5)]).requests) == 5
