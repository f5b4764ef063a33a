"""The result of a check in words and numbers, from which terminal, page, Markdown and JSON are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefdistill.drift import figures
from prefdistill.drift.distinct import Distinct
from prefdistill.drift.features import UNLIKE, Shares
from prefdistill.drift.measuring import Charted, Excess, Measurement, Shift
from prefdistill.drift.novelty import Example, Word, farthest, grown_words
from prefdistill.drift.reading import LogRead, Request
from prefdistill.drift.training import Trained
from prefdistill.stages.report.examples import visible
from prefdistill.stages.report.formats import number, percent

CORE = ("language", "distance from the training prompts", "topics (n-gram clusters)", "length in characters")
"""What a log must be large enough for before silence means anything."""
MOST_VALUES = 4
MOST_NAMED = 4
MOST_LISTED = 50


@dataclass(frozen=True)
class Finding:
    """One thing that drifted."""

    name: str
    text: str


@dataclass(frozen=True)
class DriftReport:
    """Everything that is told about one log."""

    run: str
    logs: tuple[str, ...]
    headline: str
    findings: tuple[Finding, ...]
    next_steps: tuple[str, ...]
    notes: tuple[str, ...]
    """What limits the check."""
    asked: int
    """Requests of the log that were looked at, repeats among them."""
    distinct: int
    training: int
    enough: bool
    """Whether the log is large enough to show a PSI of 0.2 in what matters most."""
    measured: Measurement
    examples: tuple[Example, ...]
    words: tuple[Word, ...]
    texts: bool
    """Whether prompts, words and values of the log may be shown."""

    @property
    def drifted(self) -> bool:
        """Whether there is drift."""
        return self.measured.drifted


def build_report(
    trained: Trained,
    logs: Sequence[str],
    read: LogRead,
    chosen: Sequence[Request],
    counted: Distinct,
    measured: Measurement,
    texts: bool,
) -> DriftReport:
    """Put into words what was measured; without `texts` no prompt, word or value of the log is in it."""
    findings = _told(_findings(measured, texts))
    enough = _enough(measured)
    return DriftReport(
        run=trained.name,
        logs=tuple(logs),
        headline=_headline(findings, measured, counted, trained, enough),
        findings=findings,
        next_steps=tuple(_next_steps({each.name for each in findings}, trained.name, enough)),
        notes=tuple(_notes(trained, read, chosen, counted, measured)),
        asked=len(chosen),
        distinct=len(counted.requests),
        training=len(trained.prompts),
        enough=enough,
        measured=measured,
        examples=farthest(counted.requests, measured) if texts else (),
        words=grown_words(trained.prompts, counted.requests) if texts else (),
        texts=texts,
    )


def _headline(
    findings: Sequence[Finding], measured: Measurement, counted: Distinct, trained: Trained, enough: bool
) -> str:
    size = counts(len(counted.requests), "distinct request")
    if findings:
        names = [each.name for each in findings]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        return f"Drift: {', '.join(names[:MOST_NAMED])}{more}, in {size}"
    if enough:
        return f"No drift: {size} look like the {len(trained.prompts):,} training prompts"
    needed = max((each.needed or 0 for each in _core(measured)), default=0)
    if any(each.needed is None for each in _core(measured)) or not needed:
        return (
            f"No drift found, but {size} against {len(trained.prompts):,} training prompts are too few to show a PSI of "
            f"{figures.WARN_PSI:g}"
        )
    return (
        f"No drift found, but the log is too small to rule it out: {size}; a PSI of {figures.WARN_PSI:g} shows from "
        f"about {needed:,} on"
    )


def _core(measured: Measurement) -> list[Shift]:
    return [each for each in measured.shifts if each.shares.name in CORE]


def _enough(measured: Measurement) -> bool:
    return bool(_core(measured)) and all(each.seen for each in _core(measured))


def _findings(measured: Measurement, texts: bool) -> list[Finding]:
    """Return what drifted: kinds that are new first, for they say best what it is, then shifts, then the charts."""
    kinds = sorted((each for each in measured.excesses if each.drifted), key=lambda each: each.kind.name == UNLIKE)
    found = [Finding(each.kind.name, _excess_words(each, texts)) for each in kinds]
    found += [Finding(each.shares.name, _shift_words(each, texts)) for each in measured.shifts if each.drifted]
    return found + [Finding(each.control.name, _chart_words(each)) for each in measured.charts if each.drifted]


SAME = {
    "language": ("new language",),
    "length in characters": ("longer prompts", "shorter prompts"),
    "length in words": ("longer prompts", "shorter prompts", "length in characters"),
    "distance from the training prompts": (UNLIKE,),
}
"""Findings that say the same as others in another way, and are told only where those are not there."""


def _told(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the findings without those that say the same as another; the tables have all."""
    names = {each.name for each in findings}
    return tuple(
        each
        for each in findings
        if not names.intersection(SAME.get(each.name, (f"new values of {each.name.removeprefix('field ')}",)))
    )


def _excess_words(each: Excess, texts: bool) -> str:
    values = ""
    if each.kind.values and texts:
        shown = [
            f"“{visible(' '.join(value.split()), 60)}” ({count:,})" for value, count in each.kind.values[:MOST_VALUES]
        ]
        more = len(each.kind.values) - len(shown)
        values = f": {', '.join(shown)}{f' and {more:,} more' if more else ''}"
    return (
        f"{percent(each.now)} of the requests are {each.kind.what}{values}; of the training prompts "
        f"{percent(each.before)}"
    ).replace("are with", "come with")


def _shift_words(each: Shift, texts: bool) -> str:
    shares, n, m = each.shares, sum(each.shares.training), sum(each.shares.log)
    gains = [
        (log / m - training / n, cell, training / n, log / m)
        for cell, training, log in zip(shares.cells, shares.training, shares.log, strict=True)
    ]
    _, cell, before, now = max(gains, key=lambda gain: gain[0])
    grown = f"“{visible(cell, 60)}” " if texts or not holds_texts(shares) else ""
    return (
        f"{shares.name} shifted: PSI {each.measured.psi:.2f} (chance: about {each.measured.expected:.2f}); most gained "
        f"{grown}{percent(before)} → {percent(now)}"
    )


def _chart_words(each: Charted) -> str:
    control = each.control
    show = percent if control.name == "fallback share" else number
    outside = [dot.batch for dot in control.dots if dot.outside]
    where = f"; beyond the limits: {', '.join(outside[:3])}{' …' if len(outside) > 3 else ''}" if outside else ""
    return (
        f"{control.name} {show(control.overall)} over {counts(control.size, 'request')} against {show(control.center)}, "
        f"{control.before}{where}"
    )


def _next_steps(names: set[str], run: str, enough: bool) -> list[str]:
    """Return what to do about what was found."""
    if not names:
        return [] if enough else ["Collect more requests, or take more logs together: --log A --log B."]
    steps = []
    if names - {"fallback share", "judged sample", "system prompt"}:
        steps = [
            "Read the examples. Are these requests wanted? Then widen the scope: add such prompts to the recipe’s prompts "
            "file and run the recipe again as a new run.",
            "Are they not? `prefdistill serve` sends what is far from the training prompts to the teacher; nothing needs "
            "training.",
        ]
    if "system prompt" in names:
        steps.append("Send the system prompt that the run was trained with, or train with the new one.")
    if "fallback share" in names:
        steps.append(
            "Calibrate serving again once prompts and training agree: its thresholds no longer give the share."
        )
    if "judged sample" in names:
        steps.append(
            f"Read judged answers of the last batches; if the student fell behind, `prefdistill refresh {run} "
            "--student NEW_BASE` trains a new base on what is paid for already."
        )
    return steps


def _notes(
    trained: Trained, read: LogRead, chosen: Sequence[Request], counted: Distinct, measured: Measurement
) -> list[str]:
    notes = []
    if counted.repeats or counted.further_turns:
        parts = [f"{counts(counted.repeats, 'repeat')} (one prompt {counted.most:,} times)"] if counted.repeats else []
        parts += [f"{counts(counted.further_turns, 'further turn')} of conversations"] if counted.further_turns else []
        left = f"{' and '.join(parts)} left out of {len(chosen):,} requests"
        notes.append(f"Each prompt and conversation counts once: {left}.")
    redacted = sum(each.redacted for each in counted.requests)
    if redacted:
        every = redacted == len(counted.requests)
        which = "All requests are" if every else f"{counts(redacted, 'request')} {'is' if redacted == 1 else 'are'}"
        notes.append(
            f"{which} redacted: length (of all messages), {'distance, ' if every else ''}fallback and score are all that is "
            "compared of those, and repeats among them cannot be seen."
        )
    if read.unreadable:
        notes.append(f"{counts(read.unreadable, 'line')} could not be read as a request: torn, or without a prompt.")
    if read.other_models:
        told = ", ".join(f"{visible(name, 40)} ({count:,})" for name, count in list(read.other_models.items())[:3])
        notes.append(f"{counts(sum(read.other_models.values()), 'request')} to other models left out: {told}.")
    if trained.forgotten:
        notes.append(f"{counts(trained.forgotten, 'training prompt')} left out: forgotten on request.")
    if not any(each.fields for each in counted.requests) and any(each.fields for each in trained.prompts):
        notes.append("No request has fields, so field values are not compared.")
    blind = [each for each in measured.shifts if not each.seen]
    if blind:
        told = "; ".join(f"{each.shares.name} {_from(each.needed)}" for each in blind[:4])
        more = f"; and {len(blind) - 4} more" if len(blind) > 4 else ""
        notes.append(f"Too few requests to show a PSI of {figures.WARN_PSI:g} in some features: {told}{more}.")
    small = [each for each in measured.shifts if each.certain and each.measured.psi <= figures.WARN_PSI]
    if small:
        told = ", ".join(f"{each.shares.name} (PSI {each.measured.psi:.2f})" for each in small)
        notes.append(f"Changed beyond chance, but under a PSI of {figures.WARN_PSI:g}: {told}.")
    if any(each.certain and each.shares.rising and not each.shares.risen for each in measured.shifts):
        notes.append("The requests are nearer to the training prompts than those are to one another: no drift.")
    notes.append(
        f"{counts(measured.tests, 'test')} in all: a false alarm in at most {figures.LEVEL:.0%} of logs (Holm); a warning "
        f"also needs a PSI over {figures.WARN_PSI:g}, or {100 * figures.MATERIAL:.0f} points of a share."
    )
    return notes


def _from(needed: int | None) -> str:
    return "(the training prompts are too few)" if needed is None else f"from about {needed:,} on"


def counts(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def as_json(report: DriftReport) -> dict[str, Any]:
    """Return the report as plain data for machines."""
    return {
        "schema": 1,
        "run": report.run,
        "logs": list(report.logs),
        "drift": report.drifted,
        "enough": report.enough,
        "headline": report.headline,
        "findings": [asdict(each) for each in report.findings],
        "next_steps": list(report.next_steps),
        "notes": list(report.notes),
        "requests": report.asked,
        "distinct": report.distinct,
        "training_prompts": report.training,
        "level": figures.LEVEL,
        "tests": report.measured.tests,
        "shifts": [_shift_json(each, report.texts) for each in report.measured.shifts],
        "kinds": [_kind_json(each, report.texts) for each in report.measured.excesses],
        "charts": [
            {**asdict(each.control), "adjusted_p": each.adjusted, "drift": each.drifted}
            for each in report.measured.charts
        ],
        "examples": [asdict(each) for each in report.examples],
        "words": [asdict(each) for each in report.words],
    }


def holds_texts(shares: Shares) -> bool:
    """Whether the names of the cells are taken from prompts."""
    return shares.name.startswith(("field", "topics"))


def _shift_json(each: Shift, texts: bool) -> dict[str, Any]:
    return {
        **asdict(each.shares),
        "cells": each.shares.cells if texts or not holds_texts(each.shares) else None,
        **asdict(each.measured),
        "adjusted_p": each.adjusted,
        "drift": each.drifted,
        "shows_psi_0.2": each.seen,
        "requests_needed": each.needed,
    }


def _kind_json(each: Excess, texts: bool) -> dict[str, Any]:
    values = {"values": each.kind.values[:MOST_LISTED] if texts else None}
    return {**asdict(each.kind), **values, "p": each.p, "adjusted_p": each.adjusted, "drift": each.drifted}
