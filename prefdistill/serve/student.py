"""The student as an upstream: a process of our own that is started again when it dies.

Requests that were with a process that died fail at once, so that the teacher can answer them; while a new one loads
its weights the student is down.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from prefdistill.errors import SampleError
from prefdistill.serve.routing import Written
from prefdistill.serve.upstream import DownError, TooLongError, UnrenderableError, Writing

COMMAND = (sys.executable, "-m", "prefdistill.serve.worker")
MOST_LINE = 1 << 24
"""Bytes of a line between the processes."""
QUICK_DEATH_SECONDS = 30.0
"""A process that lived for less than this is started again more and more slowly."""
LONGEST_PAUSE_SECONDS = 30.0
CHARACTERS_PER_TOKEN = 20
"""A prompt with more characters than this times the context cannot fit, and is not even tokenized."""
END_SECONDS = 5.0


class StudentProcess:
    """The worker process, its requests, and its restarts; used from one event loop."""

    def __init__(
        self,
        folder: Path,
        overrides: Sequence[str],
        number: int | None,
        say: Callable[[str], None],
        restarted: Callable[[], None] = lambda: None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Describe the process; `start` starts it.

        Args:
            folder: the run.
            overrides: of its recipe, `key=value`.
            number: the round whose policy answers; None for the kept one.
            say: called with what a person should know.
            restarted: called whenever it is started again.
            command: what is run.
        """
        self._setup = {"folder": str(folder.resolve()), "overrides": list(overrides), "round": number}
        self._say = say
        self._restarted = restarted
        self._command = tuple(command)
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Queue[dict[str, Any] | None]] = {}
        self._ready = asyncio.Event()
        self._process: Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._last_words: deque[str] = deque(maxlen=20)
        self._closing = False
        self.context: int | None = None
        """Tokens that the student can hold."""
        self.weights = ""
        """What it writes with."""

    @property
    def state(self) -> str:
        """One word: ready or starting."""
        return "ready" if self._ready.is_set() else "starting"

    @property
    def pid(self) -> int | None:
        """The process, None where there is none."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process and wait until its weights are loaded.

        Raises:
            SampleError: it ended before that, with what it said.
        """
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep())

    async def write(self, asked: Writing) -> Written:
        """Return a whole answer."""
        async with aclosing(self._asked(asked, stream=False)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Written):
                    return piece
        raise DownError("the student said nothing")

    def stream(self, asked: Writing) -> AsyncGenerator[str | Written]:
        """Yield pieces of text as they are written, then the whole."""
        return self._asked(asked, stream=True)

    async def back(self, seconds: float) -> bool:
        """Wait for a process that is being started; whether it is there."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ready.wait(), seconds)
        return self._ready.is_set()

    async def close(self) -> None:
        """End the process: it goes by itself when its input closes."""
        self._closing = True
        if self._keeper is not None:
            self._keeper.cancel()
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), END_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _asked(self, asked: Writing, stream: bool) -> AsyncGenerator[str | Written]:
        if self.context and sum(len(each.content) for each in asked.messages) > CHARACTERS_PER_TOKEN * self.context:
            raise TooLongError(f"more than {CHARACTERS_PER_TOKEN} characters for each token of the student's context")
        process = self._process
        if not self._ready.is_set() or process is None or process.stdin is None:
            raise DownError("the student's process is being started")
        key = next(self._numbers)
        replies = self._waiting[key] = asyncio.Queue()
        line = {
            "id": key,
            "messages": [message.model_dump() for message in asked.messages],
            "seed": secrets.randbits(62) if asked.seed is None else asked.seed,
            "temperature": asked.temperature,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "max_new_tokens": asked.max_tokens,
            "stream": stream,
        }
        finished = False
        try:
            process.stdin.write(json.dumps(line).encode() + b"\n")
            while not finished:
                reply = await replies.get()
                if reply is None:
                    finished = True
                    raise DownError("the student's process died")
                if "text" in reply:
                    yield reply["text"]
                    continue
                finished = True
                yield _written(reply)
        except (ConnectionError, RuntimeError) as problem:
            raise DownError(f"the student's process died ({problem})") from None
        finally:
            del self._waiting[key]
            if not finished and self._process is process and not process.stdin.is_closing():
                process.stdin.write(json.dumps({"drop": key}).encode() + b"\n")

    async def _spawn(self) -> None:
        """Start a process and wait for its first line."""
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=MOST_LINE, start_new_session=True
        )
        self._process = process
        self._listener = asyncio.create_task(self._listen(process))
        assert process.stdin is not None and process.stdout is not None
        with suppress(ConnectionError):
            process.stdin.write(json.dumps(self._setup).encode() + b"\n")
        first = await process.stdout.readline()
        if not first:
            await process.wait()
            await self._listener
            said = "\n".join(self._last_words) or f"exit code {process.returncode}"
            raise SampleError(f"the student's process ended before its weights were loaded:\n{said}")
        hello = json.loads(first)
        if "refused" in hello:
            await process.wait()
            raise SampleError(str(hello["refused"]))
        self.context, self.weights = hello["context"], hello["weights"]
        self._ready.set()

    async def _listen(self, process: Process) -> None:
        """Keep the last lines of what the process complains of."""
        assert process.stderr is not None
        with suppress(ValueError):  # a line beyond the limit
            async for line in process.stderr:
                self._last_words.append(line.decode("utf-8", "replace").rstrip())

    async def _keep(self) -> None:
        """Hand replies out, and start a new process whenever one ends."""
        pause = 0.0
        while True:
            born = time.monotonic()
            await self._hand_out()
            if self._closing:
                return
            pause = (
                0.0 if time.monotonic() - born > QUICK_DEATH_SECONDS else min(LONGEST_PAUSE_SECONDS, pause * 2 + 0.5)
            )
            last = f": {self._last_words[-1]}" if self._last_words else ""
            self._say(f"the student's process ended{last}; starting it again")
            self._restarted()
            while not self._ready.is_set():
                try:
                    await asyncio.sleep(pause if pause > 0.5 else 0.0)
                    await self._spawn()
                    self._say("the student is back")
                except SampleError as problem:
                    pause = min(LONGEST_PAUSE_SECONDS, pause * 2 + 0.5)
                    self._say(f"{problem}; trying again in {pause:g} s")

    async def _hand_out(self) -> None:
        """Give every reply to its request until the process ends; fail what is left then."""
        process = self._process
        assert process is not None and process.stdout is not None
        with suppress(ValueError, ConnectionError):
            async for line in process.stdout:
                reply = json.loads(line)
                if (replies := self._waiting.get(reply.pop("id"))) is not None:
                    replies.put_nowait(reply)
        self._ready.clear()
        for replies in list(self._waiting.values()):
            replies.put_nowait(None)
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _written(reply: dict[str, Any]) -> Written:
    if "unrenderable" in reply:
        raise UnrenderableError(reply["unrenderable"])
    if "too_long" in reply:
        raise TooLongError(reply["too_long"])
    if "error" in reply:
        raise DownError(reply["error"])
    return Written(
        text=reply["done"],
        finish=reply["finish"],
        prompt_tokens=reply["prompt_tokens"],
        completion_tokens=reply["tokens"],
        log_prob=reply["log_prob"],
    )
