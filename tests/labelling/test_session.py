"""Labels are on the disk as they are given, and undo, skip, resume and several people do not disturb one another."""

import json
import os
from pathlib import Path

import pytest

from prefdistill.errors import RunError
from prefdistill.labelling import Choice, Session, pick_criteria, pick_pairs
from prefdistill.labelling.session import StaleAnswerError
from prefdistill.labelling.tasks import task_id
from prefdistill.labels import load_labels
from tests.labelling.runs import make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels-ada.jsonl"


def opened(run: Path, path: Path, by: str = "ada", **choice: object) -> Session:
    return Session(pick_pairs(Choice(run, **{"count": 10, **choice})), path, by)  # type: ignore[arg-type]


def answer(session: Session, winner: str) -> None:
    session.answer(session.state()["task"]["id"], winner, 1.5)


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_answer_is_a_line_that_load_labels_reads(run: Path, path: Path) -> None:
    with opened(run, path, repeat=0) as session:
        for number in range(10):
            answer(session, ("first", "second", "tie")[number % 3])
            assert len(rows(path)) == number + 1
        assert session.state()["task"] is None
    labels = load_labels(path)
    assert len(labels.pairs) == 10 and labels.people == ("ada",) and labels.replaced == 0
    label = labels.pairs[0]
    assert label.winner == "first" and label.seconds == 1.5 and label.at and label.prompt_id and label.first_id
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_conversation_is_kept_whole(run: Path, path: Path) -> None:
    whole = (run / "prompts.jsonl").read_text()
    (run / "prompts.jsonl").write_text(
        whole.replace('"messages":[', '"messages":[{"role":"system","content":"Be kind."},')
    )
    with opened(run, path) as session:
        assert [each["role"] for each in session.state()["task"]["messages"]] == ["system", "user"]
        answer(session, "tie")
    assert [each.role for each in load_labels(path).pairs[0].messages] == ["system", "user"]


def test_reopening_goes_on_where_it_stopped(run: Path, path: Path) -> None:
    with opened(run, path) as session:
        for _ in range(4):
            answer(session, "first")
        open_now = session.state()["task"]["id"]
    with opened(run, path) as session:
        assert session.resumed == session.done == 4
        assert session.state()["task"]["id"] == open_now


def test_another_seed_or_a_larger_count_asks_nothing_twice(run: Path, path: Path) -> None:
    with opened(run, path, repeat=0) as session:
        for _ in range(10):
            answer(session, "second")
    with opened(run, path, repeat=0, count=16) as session:
        assert session.done == 10
        while session.state()["task"]:
            answer(session, "first")
    with opened(run, path, repeat=0, count=1000, seed=5) as session:
        assert session.done == 16
    pairs = [frozenset((row["first_id"], row["second_id"])) for row in rows(path)]
    assert len(set(pairs)) == len(pairs) == 16


def test_a_torn_last_line_is_asked_again(run: Path, path: Path) -> None:
    with opened(run, path) as session:
        for _ in range(3):
            answer(session, "first")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with opened(run, path) as session:
        assert session.done == 2
        answer(session, "first")
    assert len(rows(path)) == 3
    path.write_bytes(whole.rstrip(b"\n"))  # an editor that drops the last newline loses nothing
    with opened(run, path) as session:
        assert session.done == 3
        answer(session, "tie")
    assert [row["winner"] for row in rows(path)] == ["first", "first", "first", "tie"]


def test_a_broken_line_in_the_middle_is_named(run: Path, path: Path) -> None:
    path.write_text('{"a": 1}\noops\n{"b": 2}\n')
    with pytest.raises(RunError, match=r"labels-ada\.jsonl:2: not a label row"):
        opened(run, path)
    path.write_text("")
    opened(run, path).close()  # and the lock was let go


def test_undo_takes_the_line_away_as_often_as_one_likes(run: Path, path: Path) -> None:
    with opened(run, path) as session:
        first = session.state()["task"]["id"]
        answer(session, "first")
        session.skip(session.state()["task"]["id"])
        answer(session, "tie")
        for done in (1, 1, 0):
            assert session.undo(session.state()["undo"])["done"] == done == len(rows(path))
        state = session.state()
        assert state["task"]["id"] == first and state["undo"] is None and state["skipped"] == 0
        answer(session, "second")
    assert [row["winner"] for row in rows(path)] == ["second"]


def test_undo_reaches_answers_of_an_earlier_sitting(run: Path, path: Path) -> None:
    with opened(run, path) as session:
        answer(session, "first")
        answer(session, "second")
    with opened(run, path) as session:
        state = session.undo(session.state()["undo"])
        assert state["done"] == 1 and state["last"] == "first"
    assert len(rows(path)) == 1


def test_skipped_ones_write_nothing_and_come_back_last(run: Path, path: Path) -> None:
    with opened(run, path) as session:
        skipped = session.state()["task"]["id"]
        session.skip(skipped)
        answer(session, "first")
    with opened(run, path) as session:
        seen = []
        while task := session.state()["task"]:
            seen.append(task["id"])
            answer(session, "tie")
        assert seen[-1] == skipped
    with opened(run, path, by="bob") as session:
        while session.state()["task"]:
            session.skip(session.state()["task"]["id"])
        assert session.skipped == 11 and session.take_up_skipped()["task"]["id"] == skipped


def test_an_answer_to_another_question_is_refused_and_a_double_press_is_one_label(run: Path, path: Path) -> None:
    with opened(run, path) as session:
        first = session.state()["task"]["id"]
        session.answer(first, "first", 1)
        session.answer(first, "first", 1)  # the same key press, sent again
        with pytest.raises(StaleAnswerError):
            session.answer(first, "second", 1)
        with pytest.raises(StaleAnswerError):
            session.skip(first)
        with pytest.raises(StaleAnswerError):
            session.undo(session.state()["task"]["id"])
        with pytest.raises(ValueError, match="`better` is no answer here; expected one of first, second, tie"):
            session.answer(session.state()["task"]["id"], "better", 1)
    assert len(rows(path)) == 1


def test_two_processes_cannot_write_one_file_but_two_people_can_label(run: Path, path: Path) -> None:
    with opened(run, path) as ada:
        with pytest.raises(RunError, match="another prefdistill process is labelling into this file"):
            opened(run, path)
        with opened(run, path.with_name("labels-bob.jsonl"), by="bob") as bob:
            answer(ada, "first")
            answer(bob, "second")
            assert ada.state()["task"]["id"] == bob.state()["task"]["id"]


def test_several_people_in_one_file_do_not_count_for_one_another(run: Path, path: Path) -> None:
    with opened(run, path) as session:
        answer(session, "first")
    with opened(run, path, by="bob") as session:
        assert session.done == 0 and session.state()["undo"] is None
        answer(session, "second")
    with opened(run, path) as session:
        assert session.done == 1
        assert session.state()["undo"] is None  # bob's row lies after it
    assert load_labels(path).people == ("ada", "bob")


def test_a_file_that_others_change_is_not_written_over(run: Path, path: Path) -> None:
    with opened(run, path) as session:
        answer(session, "first")
        with path.open("a") as file:
            file.write('{"by": "editor"}\n')
        before = path.read_bytes()
        with pytest.raises(RunError, match="changed by another program"):
            answer(session, "first")
        with pytest.raises(RunError, match="changed by another program"):
            session.undo(session.state()["undo"])
        assert path.read_bytes() == before and session.done == 1
        path.unlink()
        with pytest.raises(RunError, match="changed by another program"):
            answer(session, "first")


def test_a_full_disk_saves_nothing_and_says_so(run: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(run, path) as session:
        answer(session, "first")
        whole = path.read_bytes()
        real = os.write

        def full(descriptor: int, data: bytes) -> int:
            real(descriptor, data[:10])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(RunError, match="No space left"):
            answer(session, "first")
        assert path.read_bytes() == whole and session.done == 1
        monkeypatch.undo()
        answer(session, "first")
    assert len(rows(path)) == 2


def test_repeated_pairs_measure_how_steady_a_person_is(run: Path, path: Path) -> None:
    with opened(run, path, count=20, repeat=0.5) as session:
        while session.state()["task"]:
            answer(session, "first")  # the side, whatever stands there
        assert session.consistency() == (0, 10)
    with opened(run, path.with_name("b"), count=20, repeat=0.5) as session:
        while task := session.state()["task"]:
            answer(session, "first" if task["first"] < task["second"] else "second")
        assert session.consistency() == (10, 10)
        assert session.state()["repeated"] == {"same": 10, "asked": 10}


def test_criteria_are_answered_by_level(run: Path, path: Path) -> None:
    tasks = pick_criteria(Choice(run, count=4))
    with Session(tasks, path, "ada") as session:
        while task := session.state()["task"]:
            assert task["id"] == task_id(tasks[session.done])
            session.answer(task["id"], task["levels"][-1], 2)
    labels = load_labels(path)
    assert len(labels.criteria) == len(tasks) and {each.level for each in labels.criteria} == {"yes"}
