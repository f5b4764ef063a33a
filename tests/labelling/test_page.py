"""The page in a real headless browser: labelled by keyboard, killed and reopened, nothing lost and nothing given away."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefdistill.labelling import Choice, LabelServer, Session, pick_criteria, pick_pairs
from prefdistill.labelling.server import LabelHandler
from prefdistill.labels import load_labels
from tests.labelling.browser import CHROMIUM, Browser
from tests.labelling.runs import SECRETS, make_run

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests that do not kill it."""
    with Browser(tmp_path_factory.mktemp("browser") / "profile") as opened:
        yield opened


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """A page and a profile of the test's own."""
    chromium.renew()
    yield chromium
    assert chromium.problems == []


@contextmanager
def labelling(run: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`prefdistill label RUN --no-browser …` as a process of its own, and the address that it printed."""
    command = [sys.executable, "-m", "prefdistill", "label", str(run), "--no-browser", "--by", "ada", *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a test runner may ignore it
    )
    try:
        said = ""
        assert process.stdout is not None
        while not (found := re.search(r"open (http://127\.0\.0\.1:\d+/\S+/)\n", said)):
            line = process.stdout.readline()
            assert line, said
            said += line
        yield process, found.group(1)
    finally:
        process.kill()
        process.wait(60)


@contextmanager
def served(session: Session, kind: str = "pair") -> Iterator[LabelServer]:
    """The server in this process."""
    with LabelServer(session, kind) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def label(browser: Browser, key: str) -> str:
    """Answer the open question and wait for the next one; return the id of the one that was answered."""
    task = browser.ready()
    browser.press(key)
    browser.wait(f"document.body.dataset.ready && document.body.dataset.ready !== {task!r}")
    return task


def count(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_twenty_pairs_by_keyboard_with_page_and_server_killed_on_the_way(run: Path, tmp_path: Path) -> None:
    path, keys = run / "labels-ada.jsonl", ("1", "2", "t", "ArrowLeft", "ArrowRight", "0", "ArrowDown")
    given: list[str] = []
    arguments = ("--count", "20", "--repeat", "0.1")
    with labelling(run, *arguments) as (process, url):
        with Browser(tmp_path / "a") as browser:
            browser.open(url)
            for number in range(7):
                given.append(label(browser, keys[number]))
                assert count(path) == len(given)  # on the disk before the next pair is shown
            browser.kill()  # the page dies; the server lives
        with Browser(tmp_path / "b") as browser:
            browser.open(url)
            for number in range(5):
                given.append(label(browser, keys[number]))
            browser.ready()
            process.send_signal(signal.SIGKILL)  # the server dies with the page open
            process.wait(60)
            browser.press("1")
            browser.wait("!document.getElementById('trouble').hidden")
            said = browser.run("document.getElementById('problem').textContent")
            assert "is not answering" in said and "Your answer (First is better) is kept" in said
    assert count(path) == 12
    with labelling(run, *arguments) as (process, url), Browser(tmp_path / "c") as browser:
        browser.open(url)
        browser.ready()
        assert browser.run("document.getElementById('count').textContent") == "12 of 22 labelled"
        while len(given) < 22:
            given.append(label(browser, "2"))
        assert browser.ready() == "finished"
        text = browser.run("document.body.innerText")
        assert "All 22 labelled" in text and "2 pairs came twice" in text and str(path) in text
        assert all(address.startswith((url, "data:")) for address in browser.requests)  # nothing from elsewhere
        assert browser.problems == []
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert f"22 labels by ada are in {path}\n" in said and f"prefdistill agreement {path}" in said
    labels = load_labels(path)
    assert count(path) == len(set(given)) == 22
    assert len(labels.pairs) == 20 and labels.replaced == 2  # the two that came twice
    assert {row.winner for row in labels.pairs} == {"first", "second", "tie"}
    assert all(row.seconds and row.seconds > 0 for row in labels.pairs)


def test_the_keys_mean_what_the_page_says(run: Path, tmp_path: Path, browser: Browser) -> None:
    path = tmp_path / "labels.jsonl"
    keys = {"1": "first", "ArrowLeft": "first", "2": "second", "ArrowRight": "second", "t": "tie", "0": "tie"}
    with Session(pick_pairs(Choice(run)), path, "ada") as session, served(session) as server:
        browser.open(server.url)
        shown = []
        for key in (*keys, "ArrowDown"):
            browser.ready()
            shown.append(
                browser.run("[...document.querySelectorAll('.sides:not([hidden]) .text')].map(e => e.textContent)")
            )
            label(browser, key)
        rows = load_labels(path).pairs
        assert [row.winner for row in rows] == [*keys.values(), "tie"]
        assert [[row.first, row.second] for row in rows] == shown  # what was on the left is `first`
        label(browser, "s")
        assert (session.skipped, session.done) == (1, 7)
        label(browser, "u")
        label(browser, "Backspace")
        assert (session.skipped, session.done) == (0, 6)


def test_a_bounced_or_held_key_is_one_label(run: Path, tmp_path: Path, browser: Browser) -> None:
    path = tmp_path / "labels.jsonl"
    with Session(pick_pairs(Choice(run)), path, "ada") as session, served(session) as server:
        browser.open(server.url)
        task = browser.ready()
        for _ in range(5):
            browser.press("1")
            browser.press("1", repeat=True)
        browser.wait(f"document.body.dataset.ready && document.body.dataset.ready !== {task!r}")
        assert count(path) == 1
        browser.press("1", repeat=True)  # still held when the next pair can be answered
        assert browser.run("busy") is False
        browser.send("Input.dispatchKeyEvent", type="keyDown", key="1", windowsVirtualKeyCode=49, modifiers=2)
        browser.press("x")
        browser.press("?")
        browser.press("2")  # the help is open
        browser.press("Escape")
        assert browser.ready() and count(path) == 1


def test_buttons_can_be_clicked_and_say_what_happened(run: Path, tmp_path: Path, browser: Browser) -> None:
    path = tmp_path / "labels.jsonl"
    with Session(pick_pairs(Choice(run)), path, "ada") as session, served(session) as server:
        browser.open(server.url)
        task = browser.ready()
        assert browser.run("document.getElementById('undo').disabled")
        browser.run("document.querySelector('[data-answer=second]').click()")
        browser.wait(f"document.body.dataset.ready && document.body.dataset.ready !== {task!r}")
        assert load_labels(path).pairs[0].winner == "second"
        assert browser.run("document.getElementById('live').textContent").startswith("Second is better, saved. 2 of 55")
        browser.run("document.getElementById('undo').click()")
        browser.wait(f"document.body.dataset.ready === {task!r}")
        assert count(path) == 0


def test_two_tabs_do_not_clash(run: Path, tmp_path: Path, browser: Browser) -> None:
    path = tmp_path / "labels.jsonl"
    with (
        Session(pick_pairs(Choice(run)), path, "ada") as session,
        served(session) as server,
        Browser(tmp_path / "other") as other,
    ):
        for each in (browser, other):
            each.open(server.url)
        assert browser.ready() == other.ready()
        other.run("for (let beat = 0; beat < 99; beat += 1) clearInterval(beat)")  # it has not looked yet
        label(browser, "1")
        label(other, "2")
        assert "another tab" in other.run("document.getElementById('saved').textContent")
        assert browser.ready() == other.ready()
        assert [row.winner for row in load_labels(path).pairs] == ["first"]


def test_an_answer_given_while_the_server_was_away_is_sent_when_it_is_back(
    run: Path, tmp_path: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "labels.jsonl"
    monkeypatch.setattr(LabelHandler, "protocol_version", "HTTP/1.0")  # no connection outlives its server
    with Session(pick_pairs(Choice(run)), path, "ada") as session:
        with served(session) as server:
            browser.open(server.url)
            task = browser.ready()
        browser.press("2")
        browser.wait("!document.getElementById('trouble').hidden")
        assert count(path) == 0
        with LabelServer(session, "pair", server.port) as back:
            back.token = server.token
            threading.Thread(target=back.serve_forever, args=(0.01,), daemon=True).start()
            browser.wait(f"document.body.dataset.ready && document.body.dataset.ready !== {task!r}")
            assert browser.run("document.getElementById('trouble').hidden")
            back.shutdown()
    assert [row.winner for row in load_labels(path).pairs] == ["second"]


def test_model_text_is_text(tmp_path: Path, browser: Browser) -> None:
    bad = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\u202e{{7*7}}"
    run = make_run(tmp_path / "run", texts=(bad, bad + " too\r\n\r\n\tmore"), ask="</section><script>1</script>")
    with Session(pick_pairs(Choice(run, round=1)), tmp_path / "l.jsonl", "ada") as session, served(session) as server:
        browser.open(server.url)
        for _ in range(10):
            browser.ready()
            for _ in range(2):
                assert browser.run("document.querySelectorAll('main img, main script, main b, main i').length") == 0
                assert "owned" not in browser.run("document.title")
                browser.press("d")
            label(browser, "t")
    assert all(address.startswith((server.url, "data:")) for address in browser.requests)
    stored = load_labels(tmp_path / "l.jsonl").pairs
    assert any(row.first == bad for row in stored) and any("\r\n\r\n\t" in row.first + row.second for row in stored)


def test_differences_are_marked_and_texts_stay_the_same(tmp_path: Path, browser: Browser) -> None:
    texts = (
        "Could you send the slides by noon?\n\n" + "same " * 300,
        "Please send the slides by 6 pm?\n\n" + "same " * 300,
    )
    run = make_run(tmp_path / "run", texts=texts)
    with (
        Session(pick_pairs(Choice(run, round=1, count=8)), tmp_path / "l", "ada") as session,
        served(session) as server,
    ):
        browser.open(server.url)
        while session.state()["task"] and "slides" not in session.state()["task"]["first"]:
            label(browser, "t")
        browser.ready()
        assert browser.run("document.querySelectorAll('mark').length") == 0
        browser.press("d")
        marked = set(browser.run("[...document.querySelectorAll('mark')].map(e => e.textContent)"))
        assert marked == {"Could you", "noon", "Please", "6 pm"}
        assert {
            browser.run(f"document.getElementById('text-{side}').textContent") for side in ("first", "second")
        } == set(texts)
        assert browser.run("document.getElementById('diff').getAttribute('aria-pressed')") == "true"


def test_down_scrolls_a_long_pair_and_100_kb_can_be_labelled(tmp_path: Path, browser: Browser) -> None:
    long = "A long line of words.\n" * 4500
    run = make_run(tmp_path / "run", texts=(long, long.replace("words", "letters")))
    path = tmp_path / "l.jsonl"
    with Session(pick_pairs(Choice(run, round=1, count=8)), path, "ada") as session, served(session) as server:
        browser.open(server.url)
        while len(session.state()["task"]["first"]) < 90_000:
            label(browser, "t")
        before = count(path)
        browser.ready()
        browser.press("ArrowDown")
        browser.press("d")
        assert browser.run("document.querySelectorAll('mark').length") > 0
        assert count(path) == before
        label(browser, "t")
        assert count(path) == before + 1


def test_nothing_in_the_page_hints_at_source_or_score(run: Path, tmp_path: Path, browser: Browser) -> None:
    with Session(pick_pairs(Choice(run, count=8)), tmp_path / "l", "ada") as session, served(session) as server:
        browser.open(server.url)
        for _ in range(8):
            browser.ready()
            source = browser.run("document.documentElement.outerHTML + JSON.stringify(state.task)")
            assert not [word for word in SECRETS if word in source]
            label(browser, "1")


def test_criteria_by_number_keys(run: Path, tmp_path: Path, browser: Browser) -> None:
    path = tmp_path / "l.jsonl"
    tasks = pick_criteria(Choice(run, count=3))
    with Session(tasks, path, "ada") as session, served(session, "criterion") as server:
        browser.open(server.url)
        for task in tasks:
            browser.ready()
            assert task.question in browser.run("document.getElementById('question').textContent")
            browser.press("9")  # no such level
            label(browser, str(len(task.levels)))
    assert {row.level for row in load_labels(path).criteria} == {"yes"} and count(path) == len(tasks)


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_width_needs_sideways_scrolling(tmp_path: Path, browser: Browser, width: int) -> None:
    run = make_run(tmp_path / "run", texts=("x" * 400, "def f():\n    return " + "y" * 400), ask="z" * 400)
    with Session(pick_pairs(Choice(run, round=1)), tmp_path / "l", "ada") as session, served(session) as server:
        browser.send("Emulation.setDeviceMetricsOverride", width=width, height=700, deviceScaleFactor=1, mobile=True)
        browser.open(server.url)
        for _ in range(6):
            browser.ready()
            assert browser.run("document.documentElement.scrollWidth") <= width
            label(browser, "2")


def test_every_control_has_a_name_and_can_be_reached(run: Path, tmp_path: Path, browser: Browser) -> None:
    with Session(pick_pairs(Choice(run)), tmp_path / "l", "ada") as session, served(session) as server:
        browser.open(server.url)
        label(browser, "1")
        tree = browser.send("Accessibility.getFullAXTree")["nodes"]
        named = {node["role"]["value"]: [] for node in tree if "role" in node}  # type: ignore[var-annotated]
        for node in tree:
            if "role" in node and not node.get("ignored"):
                named[node["role"]["value"]].append(node.get("name", {}).get("value", ""))
        assert all(named["button"]) and any(name.startswith("First is better") for name in named["button"])
        assert {"Prompt", "First", "Second"} <= set(named["region"])
        assert named["progressbar"] == ["Labels given"] and named["group"] == ["Your answer"]
        assert os.path.getsize(tmp_path / "l")
