"""`prefdistill label` as a user calls it, with what cannot work."""

import contextlib
import http.client
import json
import re
import subprocess
import sys
import threading
import time
import webbrowser
from pathlib import Path
from types import SimpleNamespace

import pytest

from prefdistill.errors import RunError
from prefdistill.labelling import Choice, LabelServer, serving
from prefdistill.labelling.serving import label_run, person
from prefdistill.labels import load_labels
from tests.labelling.runs import make_run


def test_mistakes_are_one_message_and_exit_code_2(prefdistill, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make_run(tmp_path / "runs/one")
    for arguments, said in (
        (("nowhere",), "error: runs/nowhere: no such folder; expected a run folder"),
        (("one", "--round", "1", "--split", "test"), "give one of them"),
        (("one", "--by", "../ada"), "error: --by: `../ada`: expected up to 64 letters"),
    ):
        done = prefdistill("label", *arguments, "--no-browser")
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["ada", "ada.l-2", "Zoë", "李"])
def test_names_that_make_a_file_name(name: str) -> None:
    assert person(f" {name} ") == name


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "a\n", "..", "x" * 65, "-n"])
def test_names_that_do_not(name: str) -> None:
    if name.strip() != name:
        name = f"x{name}x"
    with pytest.raises(RunError, match="--by"):
        person(name)


def test_it_says_what_is_asked_where_and_what_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    opened: list[str] = []
    said: list[str] = []

    def serve(server: LabelServer, poll_interval: float) -> None:
        server.session.answer(server.session.state()["task"]["id"], "first", 2.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(webbrowser, "get", lambda: SimpleNamespace(open=opened.append))
    monkeypatch.setattr(LabelServer, "serve_forever", serve)
    for _ in range(2):
        label_run(Choice(run, count=20), "pair", "ada", say=said.append)
    text = "\n".join(said)
    assert "20 pairs (8 that trained, 4 with close scores, 4 on which the judge's orders disagree, 4 of base" in text
    assert "and 2 of them again with the sides exchanged; 1 answered before" in text
    assert f"2 labels by ada are in {run}/labels-ada.jsonl; 20 still open: the same command goes on there" in text
    assert f"next: prefdistill agreement {run}/labels-ada.jsonl --verdicts {run}" in text
    assert len(opened) == 2 and opened[0] not in text  # what others can read in the process list works once


def test_no_browser_takes_over_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Lynx(webbrowser.GenericBrowser):
        open = opened.append  # type: ignore[assignment]

    monkeypatch.setattr(webbrowser, "GenericBrowser", Lynx)
    monkeypatch.setattr(webbrowser, "get", lambda: Lynx("lynx"))
    monkeypatch.delenv("BROWSER", raising=False)
    serving._open_page("http://127.0.0.1:1/x/")
    assert opened == []

    def nothing() -> None:
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "get", nothing)
    serving._open_page("http://127.0.0.1:1/x/")


@pytest.mark.parametrize("after", [0.02, 0.07, 0.15])
def test_what_was_acknowledged_before_a_kill_is_there_after_it(tmp_path: Path, after: float) -> None:
    run = make_run(tmp_path / "run", prompts=120)
    arguments = ["label", str(run), "--no-browser", "--by", "ada", "--count", "500", "--repeat", "0"]
    process = subprocess.Popen([sys.executable, "-m", "prefdistill", *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = next(match for line in process.stdout if (match := re.search(r"open http://(127.0.0.1:\d+)(/\S+/)", line)))
    acknowledged: list[str] = []

    def label() -> None:
        connection = http.client.HTTPConnection(found.group(1), timeout=10)

        def send(method: str, name: str, body: str | None = None) -> dict[str, object]:
            connection.request(method, found.group(2) + name, body, {"Content-Type": "application/json"})
            reply: dict[str, object] = json.loads(connection.getresponse().read())
            return reply

        state: dict[str, object] = send("GET", "state")
        while task := state["task"]:
            state = send("POST", "answer", json.dumps({"task": task["id"], "answer": "tie", "seconds": 1}))  # type: ignore[index]
            acknowledged.append(task["first"] + task["second"])  # type: ignore[index]

    def until_it_ends() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            label()

    thread = threading.Thread(target=until_it_ends)
    thread.start()
    while not acknowledged:
        time.sleep(0.001)
    time.sleep(after)
    process.kill()
    process.wait(10)
    thread.join(10)
    stored = [row.first + row.second for row in load_labels(run / "labels-ada.jsonl").pairs]
    assert 1 <= len(acknowledged) <= len(stored) <= len(acknowledged) + 1 < 500
    assert stored[: len(acknowledged)] == acknowledged


def test_a_label_file_elsewhere_is_named_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")

    def serve(server: LabelServer, poll_interval: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LabelServer, "serve_forever", serve)
    for out in (None, run / "mine.jsonl", tmp_path / "mine.jsonl", tmp_path / "mine.jsonl", tmp_path / "x" / "b.jsonl"):
        label_run(Choice(run, count=4), "pair", "ada", out, browser=False, say=lambda line: None)
    named = json.loads((run / "label-files.json").read_text())
    assert named == [str((tmp_path / "mine.jsonl").resolve()), str((tmp_path / "x" / "b.jsonl").resolve())]
    (run / "label-files.json").write_text("{torn")
    label_run(Choice(run, count=4), "pair", "ada", tmp_path / "mine.jsonl", browser=False, say=lambda line: None)
