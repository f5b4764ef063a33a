"""The served log: appended line by line, read while it grows, renamed by size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefdistill.errors import RunError
from prefdistill.served import Served, ServedLog, ServedRows, read_served


def row(id: str = "a", **changes: Any) -> Served:
    values = {"time": "2026-01-01T00:00:00Z", "model": "m", "route": "student", "reason": "kept", "seconds": 0.5}
    return Served.model_validate({"id": id, "prompt_characters": 3, **values, **changes})


def test_a_row_comes_back_as_it_was_written(tmp_path: Path) -> None:
    log = ServedLog(tmp_path / "deep" / "served.jsonl")
    written = row(gates=("facts",), fired=("gate",), fields={"day": "Friday"}, completion="naïve", log_prob=-0.5)
    log.append(written)
    assert list(read_served([log.path])) == [written], "before the file is closed"
    log.close()
    assert oct(log.path.stat().st_mode)[-3:] == "600", "it holds what clients wrote"


def test_a_torn_last_line_is_passed_over_and_cut_off_by_the_next_writer(tmp_path: Path) -> None:
    log = ServedLog(tmp_path / "log")
    log.append(row("a"))
    log.close()
    with log.path.open("ab") as file:
        file.write(b'{"schema":1,"id":"to')
    assert [each.id for each in read_served([log.path])] == ["a"]
    again = ServedLog(log.path)
    again.append(row("b"))
    again.close()
    assert [each.id for each in read_served([log.path])] == ["a", "b"]


def test_a_log_of_one_torn_line_longer_than_a_block_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 200_000)
    ServedLog(path).close()
    assert path.read_bytes() == b""


def test_a_bad_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"id": 3}\n' + row("b").model_dump_json() + "\n")
    with pytest.raises(RunError, match=r"log:1: no served request .*expected the log of `prefdistill serve`"):
        list(read_served([path]))
    with pytest.raises(RunError, match="no such file"):
        list(read_served([tmp_path / "none"]))


def test_what_cannot_be_read_is_counted_and_nothing_is_lost_for_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    good = row("a").model_dump_json()
    path.write_text(
        f'{good}\n\n[1]\n{{"id": 3}}\n\ufeff{row("b").model_dump_json()}\n{{"torn": \n{row("c").model_dump_json()[:40]}'
    )
    rows = ServedRows([path])
    for _ in range(2):
        assert [found.row["id"] for found in rows] == ["a", 3, "b"]
        assert (rows.lines, rows.unreadable, rows.first) == (5, 2, f"{path}:3: no object of JSON")
    found = []
    with pytest.raises(RunError, match=r"log:3: no served request \(no object of JSON; 3 of 5 lines like it\)"):
        found += [each.id for each in read_served([path])]
    assert not found, "a list of them all is not had"
    served = read_served([path])
    assert [next(served).id, next(served).id] == ["a", "b"], "but what can be read is given first"


def test_a_line_without_its_end_is_read_where_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(row("a").model_dump_json())
    assert [each.id for each in read_served([path])] == ["a"]


def test_a_request_is_read_once_in_its_place_and_other_servers_ids_may_repeat(tmp_path: Path) -> None:
    path = tmp_path / "log"
    judged = row("a", score=0.25, score_judge="checks").model_dump_json().replace('"score_judge":', '"score_judge" : ')
    other = '{"id": "user", "prompt": "Write it.", "score_judge": "me"}'
    path.write_text("\n".join([row("a").model_dump_json(), row("b").model_dump_json(), other, judged, other]) + "\n")
    found = [(each.row["id"], each.row.get("score"), each.place) for each in ServedRows([path, path])]
    assert found == [
        ("a", 0.25, "1:1"), ("b", None, "1:2"), ("user", None, "1:3"), ("user", None, "1:5"),
        ("user", None, "2:3"), ("user", None, "2:5"),
    ]  # fmt: skip


def test_a_judged_request_is_read_once_with_its_score(tmp_path: Path) -> None:
    log = ServedLog(tmp_path / "log", most_bytes=900)
    for number in range(6):
        log.append(row(str(number), fields={"score": None, "score_judge": "x"}))
    log.append(row("2", score=0.25, score_judge="checks"))
    log.close()
    found = list(read_served([log.path]))
    assert sorted(each.id for each in found) == ["0", "1", "2", "3", "4", "5"]
    assert [each.score for each in found if each.id == "2"] == [0.25], "although its first line is in an older file"
    with pytest.raises(ValueError, match="go together"):
        row(score=0.5)


def test_it_is_renamed_by_size_and_the_oldest_goes(tmp_path: Path) -> None:
    size = len(row("00").model_dump_json()) + 1
    log = ServedLog(tmp_path / "log", most_bytes=2 * size, keep=2)
    for number in range(9):
        log.append(row(f"{number:02}"))
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert [each.id for each in read_served([log.path])] == ["04", "05", "06", "07", "08"]


def test_a_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written.*name another with --log"):
        ServedLog(tmp_path / "file" / "log")
