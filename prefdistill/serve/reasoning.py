"""A student that reasons before it answers: whoever asks it is given the answer alone.

Gates, length test, log and client see what comes after the reasoning. Tokens and mean log-probability stay those of
both together, as in the drafts that thresholds are calibrated on. An answer with a stray tag in it is not certain to be
one: `Screen` sends whole ones to the teacher, a stream ends where the tag stands.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from prefdistill.serve.routing import Written
from prefdistill.serve.upstream import StrayTagError, Upstream, Writing
from prefdistill.traces import AnswerStream, Tags, part


class AnswerOnly:
    """A student whose reasoning is taken out of what it writes."""

    def __init__(self, student: Upstream, tags: Tags) -> None:
        """Stand in front of a student.

        Args:
            student: it writes reasoning and answer as one text.
            tags: what opens and closes its reasoning.
        """
        self._student = student
        self._tags = tags

    @property
    def state(self) -> str:
        """The student's."""
        return self._student.state

    async def write(self, asked: Writing) -> Written:
        """Return a whole answer; reasoning that is never closed leaves an empty one that counts as cut."""
        return answer_of(await self._student.write(asked), self._tags)

    async def stream(self, asked: Writing) -> AsyncGenerator[str | Written]:
        """Yield the answer's pieces, the first when the reasoning is over; then the whole answer.

        Raises:
            StrayTagError: a tag stands in the answer; what was yielded is what stands before it.
        """
        heard = AnswerStream(self._tags)
        async with aclosing(self._student.stream(asked)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Written):
                    if rest := heard.end():
                        yield rest
                    yield answer_of(piece, self._tags)
                elif text := heard.add(piece):
                    yield text
                if heard.stray:
                    raise StrayTagError(f"a stray {heard.stray} stands in the answer")

    async def back(self, seconds: float) -> bool:
        """Wait for a student that is being started again; whether it is there."""
        return await self._student.back(seconds)

    async def close(self) -> None:
        """Close the student."""
        await self._student.close()


def answer_of(written: Written, tags: Tags) -> Written:
    """Return what was written without its reasoning."""
    parted = part(written.text, tags)
    return replace(written, text=parted.completion, finish=written.finish if parted.closed else "length")
