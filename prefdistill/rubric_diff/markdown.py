"""Texts of people and models inside Markdown, of which they can change nothing."""

from __future__ import annotations

import re

SHOWN = 240
"""Characters of a text in the review."""


def fenced(text: str) -> list[str]:
    """Return text in a fence that it cannot close, shortened, without control characters."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]", "", text)
    short = text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
    longest = max((len(run) for run in re.findall(r"`+", short)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", short, fence]


def cell(text: str) -> str:
    """Return text that stays text in a Markdown table or line."""
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", " ", text).split())
    line = line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"
    return re.sub(r"([\\`*_\[\]<>|#~!])", r"\\\1", line)


def code(text: str) -> str:
    """Return text as code that it cannot end."""
    return f"`{' '.join(text.replace('`', '').replace('|', ' ').split())}`"
