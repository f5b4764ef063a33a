"""Who can answer a request: what the router asks of student and teacher alike.

An upstream writes a whole answer, or streams it piece by piece. It never retries for long: the router has somebody else
to ask.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from prefdistill.records import Message
from prefdistill.serve.routing import Written


class DownError(Exception):
    """An upstream cannot answer now."""

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        """Say why.

        Args:
            message: what it said.
            lasting: whether the same request would fail again soon: it was refused, or nobody is there to ask.
        """
        super().__init__(message)
        self.lasting = lasting


class SpentError(DownError):
    """What an upstream may cost today is spent."""


class EmptyError(DownError):
    """An upstream wrote nothing, or reasoning alone."""


class StrayTagError(DownError):
    """A tag of reasoning stands in what should be the answer, so that where it begins is not certain."""


class TooLongError(Exception):
    """A prompt does not fit into the student's context, or cannot be rendered for it at all."""

    lasting = True


class UnrenderableError(TooLongError):
    """A conversation that the student's template or tokenizer cannot take, however short it is."""


@dataclass(frozen=True)
class Writing:
    """One answer to write."""

    id: str
    messages: tuple[Message, ...]
    """System prompt included."""
    max_tokens: int
    temperature: float
    top_p: float | None
    seed: int | None
    """None leaves it to the upstream."""


class Upstream(Protocol):
    """Somebody who can answer."""

    async def write(self, asked: Writing) -> Written:
        """Return a whole answer.

        Raises:
            DownError: it cannot be had now.
            TooLongError: the prompt does not fit.
        """
        ...

    def stream(self, asked: Writing) -> AsyncGenerator[str | Written]:
        """Yield pieces of text as they are written, then the whole; raises as `write` does, at any point."""
        ...

    async def back(self, seconds: float) -> bool:
        """Wait for an upstream that is being started again; whether it is there."""
        ...

    @property
    def state(self) -> str:
        """One word: ready, or what is wrong."""
        ...

    async def close(self) -> None:
        """Let go of connections and processes."""
        ...


class Nobody:
    """An upstream that is not there: a run without a teacher."""

    state = "none"

    async def write(self, asked: Writing) -> Written:
        """Raise DownError."""
        raise DownError("there is none", lasting=True)

    async def stream(self, asked: Writing) -> AsyncGenerator[str | Written]:
        """Raise DownError."""
        raise DownError("there is none", lasting=True)
        yield ""

    async def back(self, seconds: float) -> bool:
        """Return False."""
        return False

    async def close(self) -> None:
        """Do nothing."""


def with_system(messages: tuple[Message, ...], system: str | None, replace_own: bool) -> tuple[Message, ...]:
    """Return messages that begin with a system prompt; one of the client's own is kept unless it is to be replaced."""
    own = any(message.role == "system" for message in messages)
    if system is None or (own and not replace_own):
        return messages
    rest = tuple(message for message in messages if message.role != "system")
    return (Message(role="system", content=system), *rest)
