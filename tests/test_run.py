import errno
import os
import subprocess
import sys

import pytest

from prefdistill.errors import RunError
from prefdistill.records import Drop
from prefdistill.run import Fingerprints, RowFile, RunDirectory, disk_errors, write_json


def drop(number):
    return Drop(prompt_id=f"p{number}", round=1, reason="tie")


def test_rows_come_back_by_key(tmp_path):
    file = RowFile(tmp_path / "a" / "rows.jsonl", Drop)
    for number in (3, 1, 2):
        file.append(drop(number))
    assert set(RowFile(file.path, Drop).read()) == {"p1", "p2", "p3"}, "each row is on disk as soon as it is appended"
    assert list(file.finish()) == ["p1", "p2", "p3"]
    assert [line.split('"prompt_id":"')[1][:2] for line in file.path.read_text().splitlines()] == ["p1", "p2", "p3"]


def test_a_torn_last_line_is_owed_again_and_cut_before_the_next_append(tmp_path):
    file = RowFile(tmp_path / "rows.jsonl", Drop)
    file.append(drop(1))
    file.close()
    with open(file.path, "a") as raw:
        raw.write(drop(2).model_dump_json()[:25])
    assert set(file.read()) == {"p1"}
    file.append(drop(3))
    file.close()
    assert set(file.read()) == {"p1", "p3"}


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    file = RowFile(tmp_path / "rows.jsonl", Drop)
    file.path.write_text(f"{drop(1).model_dump_json()}\nbroken\n{drop(3).model_dump_json()}\n")
    with pytest.raises(RunError, match=r"rows.jsonl:2: not a Drop row"):
        file.read()


def test_fingerprints_know_what_is_done(tmp_path):
    marks = Fingerprints(tmp_path)
    assert marks.of("drafts") is None
    marks.note("drafts", "aa", None, seconds=1.5)
    assert not Fingerprints(tmp_path).done("drafts", "aa"), "begun is not done"
    marks.note("drafts", "aa", 12, seconds=1.0)
    again = Fingerprints(tmp_path)
    assert again.done("drafts", "aa")
    assert not again.done("drafts", "bb")
    assert again.seconds("drafts") == 2.5
    again.forget(["drafts"])
    assert Fingerprints(tmp_path).of("drafts") is None


def test_a_full_disk_is_a_message_not_a_traceback(tmp_path):
    with pytest.raises(RunError, match="free space"), disk_errors(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_unwritten_json_leaves_the_old_one(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises((TypeError, ValueError)):
        write_json(path, {("a",): 1})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [child.name for child in tmp_path.iterdir()] == ["x.json"]


def test_two_processes_cannot_hold_one_run_and_a_killed_one_lets_go(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from prefdistill.run import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).locked():\n    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(RunError, match="another prefdistill process"), RunDirectory(tmp_path).locked():
        pass
    process.kill()
    process.wait()
    with RunDirectory(tmp_path).locked():
        pass


def test_what_is_redone_on_purpose_is_kept(tmp_path):
    run = RunDirectory(tmp_path)
    file = run.rows(run.round(1), "2-verdicts.jsonl", Drop)
    file.append(drop(1))
    file.close()
    target = run.set_aside([file.path, tmp_path / "round-01" / "not-there"])
    assert target is not None
    assert not file.path.exists()
    assert len((target / "round-01" / "2-verdicts.jsonl").read_text().splitlines()) == 1
    assert run.set_aside([tmp_path / "nothing"]) is None


def test_a_folder_made_for_nothing_goes_away_and_no_other_does(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "new")
    with run.locked():
        assert run.path.is_dir()
    assert not run.path.exists()
    with run.locked():
        write_json(run.manifest, {})
    assert run.manifest.exists()
    there = RunDirectory(tmp_path / "there")
    there.path.mkdir()
    with there.locked():
        pass
    assert there.path.is_dir()
