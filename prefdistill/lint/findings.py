"""One finding of the lint, and how findings are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from prefdistill.rubric import Criterion, Rubric

Severity = Literal["warning", "hint"]


@dataclass(frozen=True)
class Finding:
    """Something in a rubric that smells, and how it could be put."""

    smell: str
    """The smell's name, such as `double-barrelled`."""
    severity: Severity
    """warning: it very likely hurts; hint: look at it once."""
    file: str
    line: int | None
    place: str
    """Dotted key, such as `criteria.tone.question`; empty for the rubric as a whole."""
    found: str
    """What smells."""
    why: str
    """What it does to verdicts."""
    better: str
    """A wording or an entry that does not smell; may have several lines."""

    @property
    def where(self) -> str:
        """Where it stands, as `file:line`."""
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Smell:
    """What a rule says about one criterion, before it is given a place."""

    smell: str
    severity: Severity
    key: str
    found: str
    why: str
    better: str


def place(rubric: Rubric, smell: Smell, criterion: Criterion | None = None) -> Finding:
    """Return a smell as a finding at its line of the rubric's file."""
    if criterion is None:
        file, line = _where(rubric, (smell.key,) if smell.key else ())
        return Finding(smell.smell, smell.severity, file, line, smell.key, smell.found, smell.why, smell.better)
    section = "gates" if criterion.name in {gate.name for gate in rubric.gates} else "criteria"
    index = [each.name for each in getattr(rubric, section)].index(criterion.name)
    file, line = _where(rubric, (section, index, smell.key))
    name = ".".join(part for part in (section, criterion.name, smell.key) if part)
    return Finding(smell.smell, smell.severity, file, line, name, smell.found, smell.why, smell.better)


def _where(rubric: Rubric, location: tuple[str | int, ...]) -> tuple[str, int | None]:
    document = rubric._document
    if document is None:
        return f"rubric {rubric.name}", None
    lines = [document.lines[location[:end]] for end in range(len(location), 0, -1) if location[:end] in document.lines]
    return str(document.path), lines[0] if lines else 1


def render_findings(findings: Sequence[Finding]) -> str:
    """Return findings as text for a terminal: place and smell, what was found, why it hurts, what to write."""
    parts = []
    for each in findings:
        head = f"{each.where}: {each.severity}: {each.smell}"
        lines = [f"{head}: {each.place}" if each.place else head, f"  {each.found}", f"  why: {each.why}"]
        first, *rest = each.better.splitlines() or [""]
        lines += [f"  better: {first}", *(f"          {line}" for line in rest)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def count_findings(findings: Iterable[Finding]) -> str:
    """Return how many of each severity there are, in words."""
    kinds = [each.severity for each in findings]
    shown = [f"{kinds.count(kind)} {kind}{'s' if kinds.count(kind) != 1 else ''}" for kind in ("warning", "hint")]
    return ", ".join(text for text in shown if not text.startswith("0 ")) or "no findings"
