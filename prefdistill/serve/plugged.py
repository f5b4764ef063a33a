"""Teachers that are plug-ins without a server of their own, as upstreams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from prefdistill.protocols import Teacher, TeacherRequest
from prefdistill.records import SETTLED_KINDS, Failure
from prefdistill.serve.health import Health
from prefdistill.serve.routing import Written
from prefdistill.serve.upstream import DownError, Writing
from prefdistill.workers import Workers


class PluginTeacher:
    """A teacher that is a plug-in without a server of its own, asked on threads."""

    def __init__(self, teacher: Teacher, threads: int, timeout_seconds: float) -> None:
        self._teacher = teacher
        self._timeout = timeout_seconds
        self._workers = Workers(max(1, threads), "served-teacher")
        self._health = Health()

    @property
    def state(self) -> str:
        """One word: ready, or what is wrong."""
        return "down" if self._health.resting else "ready"

    async def write(self, asked: Writing) -> Written:
        """Return the teacher's answer; whatever goes wrong in the plug-in, it is down."""
        self._health.check()
        request = TeacherRequest(asked.id, asked.messages, asked.max_tokens, asked.temperature)
        waiting = asyncio.wrap_future(self._workers.submit(lambda: next(iter(self._teacher.replies([request])))))
        try:
            reply = await asyncio.wait_for(waiting, self._timeout)
        except TimeoutError:
            self._health.failed()
            raise DownError(f"no answer within {self._timeout:g} s") from None
        except Exception as problem:  # somebody else's code
            self._health.failed()
            raise DownError(f"{type(problem).__name__}: {problem}") from None
        if isinstance(reply, Failure):
            raise DownError(reply.message, lasting=reply.kind in SETTLED_KINDS)
        self._health.answered()
        if not reply.text.strip():
            raise DownError("the answer is empty", lasting=True)
        usage = reply.usage
        return Written(
            text=reply.text,
            finish="length" if reply.finish_reason == "length" else "stop",
            prompt_tokens=usage.prompt_tokens or None,
            completion_tokens=usage.completion_tokens or None,
            usd=usage.usd,
        )

    async def stream(self, asked: Writing) -> AsyncGenerator[str | Written]:
        """Yield the whole answer as one piece."""
        whole = await self.write(asked)
        yield whole.text
        yield whole

    async def back(self, seconds: float) -> bool:
        """Return False: it is never being started."""
        return False

    async def close(self) -> None:
        """Start nothing any more."""
        self._workers.stop()
