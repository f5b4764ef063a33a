"""A check's tables and charts, in the shapes that all reports of prefdistill are laid out from."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from prefdistill.drift.batches import Batch, Control
from prefdistill.drift.features import UNLIKE
from prefdistill.drift.figures import LEVEL, share_limits
from prefdistill.drift.measuring import Measurement, Shift
from prefdistill.drift.report import DriftReport, holds_texts
from prefdistill.stages.report.charts import Chart, Point, Reference, Series
from prefdistill.stages.report.examples import visible
from prefdistill.stages.report.formats import number, percent, plain, whole_percent
from prefdistill.stages.report.tables import Table, columns_of, without_empty

MOST_CHARTS = 4
CHANGED, SMALL, CHANCE, BLIND = "drift", "small change", "within chance", "too few to tell"


def drift_tables(report: DriftReport) -> list[Table]:
    """Return all tables that have rows."""
    measured = report.measured
    found = [kinds_table(measured), shifts_table(measured), charts_table(measured), batches_table(measured)]
    found += [
        cells_table(each) for each in measured.shifts if each.certain and (report.texts or not holds_texts(each.shares))
    ]
    found += [words_table(report), examples_table(report)]
    return [each for each in found if each.rows]


def kinds_table(measured: Measurement) -> Table:
    """Return the kinds of requests that training hardly had."""
    rows = tuple(
        (each.kind.name, each.before, each.now, each.kind.log, each.adjusted, CHANGED if each.drifted else CHANCE
         if each.adjusted >= LEVEL else SMALL)
        for each in measured.excesses
    )  # fmt: skip
    note = (
        "p: how likely chance gives as many, after Holm’s correction for all tests. Drift is p < 0.01 and at least 2 points "
        "more than among the training prompts."
    )
    titles = columns_of(
        ("Requests that are …", "text"), ("Training", "percent"), ("Log", "percent"), ("Requests", "count"),
        ("p", "score"), ("Verdict", "text"),
    )  # fmt: skip
    return Table("new", "What training hardly had", titles, rows, note)


def shifts_table(measured: Measurement) -> Table:
    """Return the tested distributions, the largest PSI first."""
    rows = tuple(
        (each.shares.name, each.measured.psi, each.measured.expected, each.adjusted, each.needed, _verdict(each))
        for each in sorted(measured.shifts, key=lambda each: -each.measured.psi)
    )
    note = (
        "PSI: population stability index; drift is over 0.2 and p < 0.01 (permutation, Holm over all tests). By chance: "
        "what two samples of these sizes differ by on average. Requests needed: so many distinct ones show a PSI of 0.2 "
        "four times in five; a dash: no log does, the training prompts are too few."
    )
    titles = columns_of(
        ("Distribution", "text"), ("PSI", "score"), ("By chance", "score"), ("p", "score"), ("Requests needed", "count"),
        ("Verdict", "text"),
    )  # fmt: skip
    return Table("shifts", "Distributions", titles, rows, note)


def _verdict(each: Shift) -> str:
    if each.drifted:
        return CHANGED
    if each.certain:
        return SMALL
    return CHANCE if each.seen else BLIND


def charts_table(measured: Measurement) -> Table:
    """Return the control charts as one figure each."""
    rows = []
    for each in measured.charts:
        show = percent if each.control.name == "fallback share" else number
        verdict = CHANGED if each.drifted else SMALL if each.adjusted < LEVEL else CHANCE
        figures = (show(each.control.center), show(each.control.overall), each.control.size)
        rows.append((each.control.name, each.control.before, *figures, each.adjusted, verdict))
    titles = columns_of(
        ("Control chart", "text"), ("Expected is", "text"), ("Expected", "text"), ("Log", "text"), ("Requests", "count"),
        ("p", "score"), ("Verdict", "text"),
    )  # fmt: skip
    note = (
        "Tested are the whole log, its worst batch, and what came after each batch against what came before; scores count "
        "where they are lower, a fallback share either way."
    )
    return Table("charts", "Control charts", titles, tuple(rows), note)


def cells_table(shift: Shift) -> Table:
    """Return one distribution cell by cell."""
    n, m = sum(shift.shares.training), sum(shift.shares.log)
    rows = tuple(
        (visible(" ".join(cell.split()), 80), training / n, log / m, log / m - training / n)
        for cell, training, log in zip(shift.shares.cells, shift.shares.training, shift.shares.log, strict=True)
    )
    titles = columns_of(("Cell", "text"), ("Training", "percent"), ("Log", "percent"), ("Change", "signed"))
    return Table("cells", shift.shares.name.capitalize(), titles, rows)


def batches_table(measured: Measurement) -> Table:
    """Return a row a batch."""
    rows: list[tuple[Any, ...]] = []
    controls = {each.control.name: {dot.batch: dot for dot in each.control.dots} for each in measured.charts}
    for batch in measured.batches:
        fallback = controls.get("fallback share", {}).get(batch.name)
        score = controls.get("judged sample", {}).get(batch.name)
        seconds = [each.seconds for each in batch.requests if each.seconds is not None]
        characters = [each.characters for each in batch.requests if each.characters is not None]
        rows.append(
            (
                batch.name,
                len(batch.requests),
                median(characters) if characters else None,
                _unlike(batch, measured),
                fallback and fallback.value,
                fallback and (fallback.low, fallback.high),
                score and score.value,
                score and (score.low, score.high),
                float(np.quantile(seconds, 0.95)) if seconds else None,
            )
        )
    titles = columns_of(
        ("Batch", "text"), ("Requests", "count"), ("Median characters", "count"), ("Unlike training", "percent"),
        ("Fallback", "percent"), ("Limits", "interval"), ("Score", "score"), ("Limits", "interval"),
        ("Slowest 5 % from", "seconds"),
    )  # fmt: skip
    note = "In brackets: the 3-sigma limits; a batch beyond them by itself is no alarm where there are many batches."
    return without_empty(Table("batches", "Over time", titles, tuple(rows), note))


def _unlike(batch: Batch, measured: Measurement) -> float | None:
    known = [measured.distances[each.id] for each in batch.requests if each.id in measured.distances]
    return sum(each >= measured.far for each in known) / len(known) if known else None


def words_table(report: DriftReport) -> Table:
    """Return the words that became more frequent."""
    rows = tuple((each.word, each.training, each.log) for each in report.words)
    titles = columns_of(("Word", "text"), ("Training", "percent"), ("Log", "percent"))
    return Table("words", "Words that became more frequent", titles, rows, "Share of requests that have the word.")


def examples_table(report: DriftReport) -> Table:
    """Return the requests that are farthest from training."""
    rows = tuple((each.text, each.distance, each.batch) for each in report.examples)
    titles = columns_of(("Request", "text"), ("Distance", "score"), ("Batch", "text"))
    note = "Distance: 0 where all its character n-grams are common in training, 1 where none was ever seen."
    return Table("examples", "Farthest from the training prompts", titles, rows, note)


def drift_charts(report: DriftReport) -> list[Chart]:
    """Return the control charts, and the distributions by tenths that drifted."""
    measured = report.measured
    found = [_control_chart(each.control) for each in measured.charts if len(each.control.dots) > 1]
    unlike = _unlike_chart(measured)
    if unlike is not None:
        found.append(unlike)
    tenths = [each for each in measured.shifts if each.drifted and each.shares.name.startswith(("length", "distance"))]
    return found + [_tenths_chart(each) for each in tenths[:MOST_CHARTS]]


def _control_chart(control: Control) -> Chart:
    share = control.name == "fallback share"
    show = percent if share else number
    points = tuple(
        Point(x, dot.value, note=f"{dot.size:,} requests{', beyond the limits' if dot.outside else ''}")
        for x, dot in enumerate(control.dots, start=1)
    )
    limits = [tuple(Point(x, end) for x, end in enumerate(ends, start=1)) for ends in
              ([dot.low for dot in control.dots], [dot.high for dot in control.dots])]  # fmt: skip
    return Chart(
        title="Fallback share, by batch" if share else "Judged sample, mean score by batch",
        series=(
            Series(control.name, points, 1),
            Series("lower limit", limits[0], 8),
            Series("upper limit", limits[1], 8),
        ),
        show=show,
        show_tick=whole_percent if share else plain,
        x_name="batch",
        references=(Reference("expected", control.center),),
        limits=(0.0, 1.0),
        heads={float(x): dot.batch for x, dot in enumerate(control.dots, start=1)},
    )


def _unlike_chart(measured: Measurement) -> Chart | None:
    kind = next((each for each in measured.excesses if each.kind.name == UNLIKE), None)
    batches = [(batch, share) for batch in measured.batches if (share := _unlike(batch, measured)) is not None]
    if kind is None or len(batches) < 2:
        return None
    limits = [share_limits(kind.before, len(batch.requests)) for batch, _ in batches]
    return Chart(
        title="Requests unlike anything trained on, by batch",
        series=(
            Series("unlike training", tuple(Point(x, share) for x, (_, share) in enumerate(batches, start=1)), 1),
            Series("upper limit", tuple(Point(x, high) for x, (_, high) in enumerate(limits, start=1)), 8),
        ),
        show=percent,
        show_tick=whole_percent,
        x_name="batch",
        references=(Reference("training prompts", kind.before),),
        limits=(0.0, 1.0),
        heads={float(x): batch.name for x, (batch, _) in enumerate(batches, start=1)},
    )


def _tenths_chart(shift: Shift) -> Chart:
    def line(name: str, counts: Sequence[int], look: int) -> Series:
        total = sum(counts)
        return Series(name, tuple(Point(x, each / total) for x, each in enumerate(counts, start=1)), look)

    shares = shift.shares
    return Chart(
        title=f"{shares.name.capitalize()}, by tenth of the training prompts",
        series=(line("training", shares.training, 2), line("log", shares.log, 1)),
        show=percent,
        show_tick=whole_percent,
        x_name="tenth",
        limits=(0.0, 1.0),
        include=(0.0,),
        heads={float(x): cell for x, cell in enumerate(shares.cells, start=1)},
    )
