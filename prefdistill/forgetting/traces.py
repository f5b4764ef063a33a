"""Traces of one prompt's texts: where they stand in files, and how they are taken out.

A trace is a line that belongs to this prompt alone: one that another prompt's rows have too gives nothing away and is
left where it is.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prefdistill.records import FORGOTTEN

SHORTEST = 16
"""Characters of the shortest line that is looked for by itself; shorter ones stand in too many texts."""
PROBES = (48, 64, 96, 128, 192, 256, 512)
"""Characters by which a line is found, as few as tell it from every other line: it may have been cut after them."""


def strings_in(value: Any) -> Iterator[str]:
    """Yield every text inside plain data; texts that hold JSON also as what they hold."""
    if isinstance(value, str):
        yield value
        if value.lstrip()[:1] in ("{", "["):
            try:
                held = json.loads(value)
            except (ValueError, RecursionError):
                return
            if not isinstance(held, str):
                yield from strings_in(held)
    elif isinstance(value, dict):
        for each in value.values():
            yield from strings_in(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from strings_in(each)


def lines_of(texts: Iterable[str]) -> set[str]:
    """Return the lines of texts that are long enough to be looked for."""
    return {line for text in texts for each in text.splitlines() if len(line := each.strip()) >= SHORTEST}


class Traces:
    """The lines that one prompt has for itself."""

    def __init__(self, prompt_id: str, own: Iterable[str], others: Iterable[str]) -> None:
        self.prompt_id = prompt_id
        ids = {line for line in own if line == prompt_id or line.startswith(f"{prompt_id}/")}
        rest = set(others)
        lines = {line for line in set(own) - rest - ids if FORGOTTEN not in line}
        text = "\n".join(sorted(rest))
        self.probes = {probe: line for line in sorted(lines, key=len) if (probe := _probe(line, text)) is not None}

    def belongs(self, row: Any) -> bool:
        """Whether a row of a file is about this prompt: by its id, its drafts' ids, or the prompt that it holds."""
        if not isinstance(row, dict):
            return False
        keys = ("prompt_id", "id", "draft_id", "first_id", "second_id", "key", "baseline_draft_id")
        named = [row.get(name) for name in keys]
        if any(
            isinstance(each, str) and (each == self.prompt_id or each.startswith(f"{self.prompt_id}/"))
            for each in named
        ):
            return True
        prompt = row.get("prompt")
        return isinstance(prompt, dict) and prompt.get("id") == self.prompt_id

    def found_in(self, text: str) -> bool:
        """Whether a text has one of the lines, as it is or escaped for JSON or HTML."""
        return any(form in text for probe in self.probes for form in _forms(probe))

    def without(self, value: Any) -> Any:
        """Return plain data without the prompt's rows, and with its lines replaced in what is left."""
        if isinstance(value, str):
            return self._cleaned(value)
        if isinstance(value, dict):
            return {key: self.without(each) for key, each in value.items() if not self.belongs(each)}
        if isinstance(value, list):
            return [self.without(each) for each in value if not self.belongs(each)]
        return value

    def _cleaned(self, text: str) -> str:
        """Return a text with each of the lines in it, cut or whole, replaced."""
        for probe, line in self.probes.items():
            for start, whole in ((probe, line), (json.dumps(probe)[1:-1], json.dumps(line)[1:-1])):
                while (at := text.find(start)) >= 0:
                    length = len(start)
                    while length < len(whole) and text[at : at + length + 1] == whole[: length + 1]:
                        length += 1
                    text = f"{text[:at]}{FORGOTTEN}{text[at + length :]}"
        return text


def _probe(line: str, others: str) -> str | None:
    """Return the shortest beginning of a line that stands in no other text; None where all of it does."""
    return next((line[:length] for length in (*PROBES, len(line)) if line[:length] not in others), None)


def _forms(probe: str) -> set[str]:
    """Return how a text may be written in a file."""
    plain = {probe, json.dumps(probe)[1:-1], json.dumps(probe, ensure_ascii=False)[1:-1]}
    return plain | {
        html.escape(probe),
        html.escape(probe, quote=False),
        html.escape(probe).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
    }


def read_lines(path: Path) -> Iterator[tuple[bytes, Any]]:
    """Yield each line of a JSONL file with what it holds; None where it is torn."""
    for line in path.read_bytes().split(b"\n"):
        if line.strip():
            try:
                yield line, json.loads(line)
            except ValueError:
                yield line, None
