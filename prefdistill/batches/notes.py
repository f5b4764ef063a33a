"""What a run knows of its batches: each step in `batches.jsonl`, written before the next one is taken.

A process that was killed, even between having a batch made and hearing of it, finds it again by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prefdistill.records import Row
from prefdistill.run import RowFile


class BatchNote(Row):
    """One step of one batch."""

    name: str
    """Ours; the batch carries it as metadata and its file as its name."""
    state: Literal["sending", "uploaded", "created", "settled", "lost"]
    """lost: it was never made."""
    base_url: str
    model: str
    file_hash: str = ""
    """SHA-256 of what is uploaded."""
    file_id: str | None = None
    batch_id: str | None = None
    custom_ids: tuple[str, ...] = ()
    """Of its requests: the keys of their replies in the request cache."""
    detail: str = ""
    """How it ended."""

    def key(self) -> str:
        """Return the batch and the step."""
        return f"{self.name}/{self.state}"


@dataclass
class Batch:
    """A batch that was made and is not settled yet."""

    name: str
    keys: tuple[str, ...]
    """The custom ids of its lines, in their order."""
    file_id: str | None
    id: str
    bodies: Mapping[str, Any] = field(default_factory=dict)
    """What was sent, by key; empty where another process sent it."""
    done: int = 0
    """Requests that the server is done with."""


class BatchNotes:
    """The file of one run."""

    def __init__(self, path: Path) -> None:
        self._file = RowFile(path, BatchNote)

    def add(self, note: BatchNote) -> None:
        """Keep a step; it is with the operating system when this returns."""
        self._file.append(note)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def outstanding(self, base_url: str, model: str) -> list[BatchNote]:
        """Return the last step of each batch of this model that was begun and not settled, its ids filled in."""
        return [note for note in self.unsettled() if (note.base_url, note.model) == (base_url, model)]

    def unsettled(self) -> list[BatchNote]:
        """Return the same of all models."""
        found: dict[str, BatchNote] = {}
        for note in self._file.read().values():
            known = found.get(note.name)
            found[note.name] = note if known is None else known.model_copy(update=_said(note))
        return [note for note in found.values() if note.state not in ("settled", "lost")]


def _said(note: BatchNote) -> dict[str, Any]:
    """Return what a step says; what it leaves out stays as the step before said it."""
    return {name: value for name, value in dict(note).items() if value not in ("", None, ())}
