"""Server-sent events of a chat completion, read into the text as it comes and the same reply in one piece."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from prefdistill.serve.upstream import DownError

MOST_TEXT = 1_000_000
"""Characters of an answer that are read; a server that writes more is broken."""


@dataclass
class Read:
    """What has been read of a stream."""

    reasons: bool
    """Whether reasoning counts."""
    said: list[str] = field(default_factory=list)
    thought: list[str] = field(default_factory=list)
    characters: int = 0
    finish: str = ""
    usage: dict[str, Any] = field(default_factory=dict)

    def add(self, events: Iterable[Mapping[str, Any]]) -> str:
        """Take events in; return the text in them, in one piece.

        Raises:
            DownError: one of them is an error, or the answer does not end.
        """
        before = len(self.said)
        for event in events:
            if event.get("error"):
                raise DownError(f"the stream broke off: {str(event['error'])[:200]}")
            self.usage = event.get("usage") or self.usage
            for choice in event.get("choices") or ():
                self._add(choice)
        if self.characters > MOST_TEXT:
            raise DownError("the answer does not end")
        return "".join(self.said[before:])

    def _add(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta") or {}
        if self.reasons and (reasoning := delta.get("reasoning_content") or delta.get("reasoning")):
            self.thought.append(str(reasoning))
            self.characters += len(self.thought[-1])
        self.finish = choice.get("finish_reason") or self.finish
        text = delta.get("content") or delta.get("refusal")
        if text and self.thought and not self.said:
            text = text.lstrip()  # the space between reasoning and answer, as in a reply in one piece
        if text:
            self.said.append(text)
            self.characters += len(text)

    def body(self) -> bytes:
        """Return the same as a reply in one piece.

        Raises:
            DownError: the stream is not whole.
        """
        if not self.finish:
            raise DownError("the stream ended before the answer did")
        message = {"content": "".join(self.said), "reasoning_content": "".join(self.thought)}
        return json.dumps(
            {"choices": [{"message": message, "finish_reason": self.finish}], "usage": self.usage}
        ).encode()


async def events_of(content: Any) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield server-sent events up to the mark of the end; what arrived together comes together.

    One at a time would cost a stream that arrives in bursts more than the rest of its way.

    Args:
        content: aiohttp's reader of a reply.

    Raises:
        DownError: a line does not end.
    """
    rest, whole = b"", False
    while not whole:
        part = await content.readany()
        whole = not part
        *lines, rest = (rest + part + b"\n" * whole).split(b"\n")
        if len(rest) > MOST_TEXT:
            raise DownError("a line of the stream does not end")
        found = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        if b"[DONE]" in found:
            found, whole = found[: found.index(b"[DONE]")], True
        yield [from_json(line) for line in found]
