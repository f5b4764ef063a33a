"""The run's log, `log.txt`: a dated line for everything that was checked, found and decided, in the order it happened.

Place in the flow: around what shows a run to a person; the log keeps what scrolls away. It holds no text of prompts
or drafts but the phrase that a finding names.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from prefdistill.diagnostics.rules import phrase_line
from prefdistill.records import RoundResult
from prefdistill.run import disk_errors


class Display(Protocol):
    """What a run tells the person who watches it."""

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """Move the progress of a stage."""

    def note(self, text: str) -> None:
        """Show a line about the run."""

    def round_done(self, result: RoundResult) -> None:
        """Show a finished round; round 0 is the base."""


class Silent:
    """A display that shows nothing."""

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def round_done(self, result: RoundResult) -> None:
        """Show nothing."""


class Logged:
    """A display that writes what another one is told into the run's log."""

    def __init__(self, display: Display, path: Path, done_before: set[int]) -> None:
        self._display = display
        self._path = path
        self._done_before = set(done_before)
        """Rounds that an earlier process finished and logged."""

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """Move the progress of a stage; the log leaves it out."""
        self._display.progress(stage, done, total, note)

    def note(self, text: str) -> None:
        """Show and log a line about the run."""
        self.write(text)
        self._display.note(text)

    def round_done(self, result: RoundResult) -> None:
        """Show a finished round, and log its checks, scores, failures and warnings."""
        if result.round in self._done_before:
            self._done_before.remove(result.round)
            self.write(f"{result.name if result.round else 'round 0'}: done before")
        else:
            for line in round_lines(result):
                self.write(line)
        self._display.round_done(result)

    def write(self, text: str) -> None:
        """Append a line to the log alone."""
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        line = " ".join(text.split())
        with disk_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(f"{now} {line}\n")


def round_lines(result: RoundResult) -> list[str]:
    """Return a round's lines of the log: what was checked before it trained, what it came to, what is wrong."""
    name = result.name if result.round else "round 0"
    scores = (
        ("judge", result.rubric_score),
        ("held-out", result.held_out_score),
        ("KL to the policy before", result.train.kl if result.train else None),
        ("KL to the base", result.diagnostics.get("kl_base")),
    )
    phrase = phrase_line(result.findings, result.diagnostics, result.facts)
    said = ", ".join(f"{what} {value:.4f}" for what, value in scores if value is not None)
    return [
        *(f"{name}: check {each.name}: {each.state}: {each.text}" for each in result.checks),
        *(f"{name}: failed: {count} {what}" for what, count in sorted(result.failures.items())),
        f"{name}: {result.drafts} drafts, {result.pairs} {result.learned_from}, {said or 'no scores'}",
        *(f"{name}: {warning}" for warning in result.warnings),
        *([f"{name}: {phrase}"] if phrase is not None else []),
    ]
