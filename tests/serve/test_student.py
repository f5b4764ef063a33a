"""The student's process: it dies, it hangs, it refuses; and how it talks."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from prefdistill.errors import SampleError
from prefdistill.records import Message
from prefdistill.serve.routing import Written
from prefdistill.serve.student import StudentProcess
from prefdistill.serve.upstream import DownError, TooLongError, UnrenderableError, Writing
from prefdistill.serve.worker import Speech

WORKER = """
import json, os, sys, time
setup = json.loads(sys.stdin.readline())
{start}
print(json.dumps({{"ready": True, "context": 100, "weights": "merged float32", "seconds": 0}}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "drop" in asked:
        print("dropped", file=open(setup["folder"] + "/dropped", "w"))
        continue
    text = asked["messages"][-1]["content"]
    say = lambda **line: print(json.dumps(line), flush=True)
    if text == "die":
        print("out of luck", file=sys.stderr, flush=True)
        os._exit(3)
    if text == "hang":
        continue
    if text == "long":
        say(id=asked["id"], too_long="too long")
    elif text == "odd":
        say(id=asked["id"], unrenderable="roles must alternate")
    elif text == "memory":
        say(id=asked["id"], error="out of memory")
    else:
        if asked["stream"]:
            say(id=asked["id"], text="Hel")
            say(id=asked["id"], text="lo")
        say(id=asked["id"], done="Hello", finish="stop", tokens=2, prompt_tokens=3, log_prob=-0.5)
"""


def asked(text: str) -> Writing:
    return Writing("id", (Message(role="user", content=text),), 10, 0.7, None, 1)


def with_worker(
    tmp_path: Path, work: Callable[[StudentProcess], Awaitable[None]], start: str = "", started: bool = True
) -> list[str]:
    """Do `work` with a process that speaks as the real one does; return what was said to the person."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(start=start))
    said: list[str] = []

    async def run() -> None:
        student = StudentProcess(tmp_path, (), None, said.append, command=(sys.executable, str(script)))
        try:
            if started:
                await student.start()
            await work(student)
        finally:
            await student.close()
        assert student.pid is None

    asyncio.run(asyncio.wait_for(run(), 30))
    return said


def test_it_answers_whole_and_in_pieces(tmp_path: Path) -> None:
    async def work(student: StudentProcess) -> None:
        assert (student.state, student.context, student.weights) == ("ready", 100, "merged float32")
        whole = Written("Hello", "stop", 3, 2, -0.5)
        assert await student.write(asked("hi")) == whole
        assert [piece async for piece in student.stream(asked("hi"))] == ["Hel", "lo", whole]
        assert await asyncio.gather(*(student.write(asked("hi")) for _ in range(50))) == [whole] * 50

    with_worker(tmp_path, work)


def test_what_it_cannot_take_is_said_and_it_goes_on(tmp_path: Path) -> None:
    async def work(student: StudentProcess) -> None:
        with pytest.raises(TooLongError):
            await student.write(asked("long"))
        with pytest.raises(UnrenderableError, match="alternate"):
            await student.write(asked("odd"))
        with pytest.raises(TooLongError, match="20 characters"):
            await student.write(asked("x" * 100_000))
        with pytest.raises(DownError, match="memory"):
            await student.write(asked("memory"))
        assert await student.write(asked("hi"))

    with_worker(tmp_path, work)


def test_requests_with_a_process_that_dies_fail_at_once_and_a_new_one_answers(tmp_path: Path) -> None:
    async def work(student: StudentProcess) -> None:
        first = student.pid
        waiting = [asyncio.create_task(student.write(asked("hang"))) for _ in range(5)]
        await asyncio.sleep(0.1)
        os.kill(int(first or 0), signal.SIGKILL)
        for each in waiting:
            with pytest.raises(DownError):
                await each
        with pytest.raises(DownError):
            await student.write(asked("hi"))
        assert student.state == "starting"
        assert await student.back(10)
        assert (await student.write(asked("hi"))).text == "Hello"
        assert student.pid != first

    said = with_worker(tmp_path, work)
    assert "starting it again" in said[0] and said[-1] == "the student is back"


def test_what_it_said_last_is_told_and_the_next_start_may_wait(tmp_path: Path) -> None:
    async def work(student: StudentProcess) -> None:
        for _ in range(2):
            with pytest.raises(DownError):
                await student.write(asked("die"))
            started = time.monotonic()
            assert await student.back(10)
        assert time.monotonic() - started > 1.0, "the second time it is not started at once"

    assert "out of luck" in with_worker(tmp_path, work)[0]


def test_one_that_cannot_load_says_why(tmp_path: Path) -> None:
    async def work(student: StudentProcess) -> None:
        with pytest.raises(SampleError, match="no such weights"):
            await student.start()

    with_worker(tmp_path, work, "sys.exit('no such weights')", started=False)
    refusing = "print(json.dumps({'refused': 'no such weights'})); sys.exit(2)"
    with_worker(tmp_path, work, refusing, started=False)


def test_a_request_that_nobody_waits_for_is_dropped(tmp_path: Path) -> None:
    async def work(student: StudentProcess) -> None:
        waiting = asyncio.create_task(student.write(asked("hang")))
        await asyncio.sleep(0.05)
        waiting.cancel()
        for _ in range(200):
            if (tmp_path / "dropped").exists():
                break
            await asyncio.sleep(0.01)
        assert (tmp_path / "dropped").exists()

    with_worker(tmp_path, work)


class Bytes:
    """A tokenizer with a token a byte."""

    def decode(self, ids: Any, **options: Any) -> str:
        return bytes(ids).decode("utf-8", "replace")


def test_a_stream_says_whole_characters_only() -> None:
    text = "Grüße, 你好!"
    speech = Speech(Bytes())
    pieces = [speech.piece(byte) for byte in text.encode()]
    assert "".join(pieces) == text
    assert "�" not in "".join(pieces)
    assert speech.rest(text) == ""
    assert Speech(Bytes()).rest(text) == text
