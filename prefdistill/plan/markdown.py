"""A plan as GitHub's Markdown: every word of it escaped, the arithmetic in blocks of code, charts left to the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from prefdistill import __version__
from prefdistill.plan.blocks import OPEN, Block, Bullets, Entries, Heading, Paragraph, Picture, Steps
from prefdistill.plan.chapters import WrittenPlan
from prefdistill.plan.head import standing, title
from prefdistill.stages.report.examples import visible
from prefdistill.stages.report.markdown import escape_markdown, escape_paragraph, markdown_table

WRITTEN_BY = "Written by prefdistill"
"""What both files of a plan hold, so that no file of another origin is replaced."""


def render_plan_markdown(written: WrittenPlan) -> str:
    """Return the plan as Markdown."""
    return "\n".join(_lines(written)).rstrip().encode("utf-8", "replace").decode() + "\n"


def _lines(written: WrittenPlan) -> Iterator[str]:
    yield from (f"# Plan: {escape_markdown(written.plan.name)}", "")
    yield from (f"**{escape_markdown(title(written))}**", "")
    yield from (escape_paragraph(standing(written)), "")
    if written.warnings:
        yield from ("## Before anything else", "")
        yield from (f"- {escape_paragraph(words)}" for _, words in written.warnings)
        yield ""
    if written.open:
        yield from ("## Open", "")
        for chapter, point in written.open:
            yield f"- [ ] {escape_paragraph(point.what)} ({_code(point.key)}, {escape_markdown(chapter.title)})"
        yield ""
    for chapter in written.chapters:
        yield from (f"## {escape_markdown(chapter.title)}", "")
        yield from chain.from_iterable(_block(block) for block in chapter.blocks)
    yield f"{WRITTEN_BY} {__version__}; change the YAML, not this file."


def _block(block: Block) -> Iterator[str]:
    match block:
        case Paragraph():
            mark = "**" if block.warns else ""
            yield from (f"{mark}{escape_paragraph(block.text)}{mark}", "")
        case Heading():
            yield from (f"### {escape_markdown(block.text)}", "")
        case Entries():
            for entry in block.entries:
                value = f"*{OPEN}*" if entry.value is None else escape_markdown(entry.value)
                note = f" ({escape_markdown(entry.note)})" if entry.note else ""
                yield f"- **{escape_markdown(entry.label)}**: {value}{note}"
            if block.entries:
                yield ""
        case Bullets():
            yield from (f"- {escape_paragraph(item)}" for item in block.items)
            yield ""
        case Steps():
            yield from _code_block(block.lines)
        case Picture():
            yield from (f"*The chart “{escape_markdown(block.chart.title)}” is in the HTML page.*", "")
        case _:
            lines = markdown_table(block)
            yield from ([f"### {escape_markdown(block.title)}", ""] if lines and block.title else [])
            yield from lines


def _code_block(lines: tuple[str, ...]) -> Iterator[str]:
    """Yield a fenced block that no line of it can end."""
    if not lines:
        return
    shown = [visible(line).replace("\n", " ").replace("\r", " ") for line in lines]
    fence = "```"
    while any(fence in line for line in shown):
        fence += "`"
    yield from (f"{fence}text", *shown, fence, "")


def _code(key: str) -> str:
    """Return a key as code where it is one, else as escaped text."""
    return f"`{key}`" if re.fullmatch(r"[\w.]+", key) else escape_markdown(key)
