"""Line charts as inline SVG: no script, colours from the page's style sheet, the numbers on hover."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup

from prefdistill.stages.report.formats import UNIT
from prefdistill.stages.report.marks import line, marker, safe, text

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 42, 14, 12, 36
MOST_X_LABELS = 11
NARROWEST_COLUMN = 9.0
"""Columns closer together cannot be pointed at: each point then has its own numbers."""
_LETTER = 6.1
"""Width of a letter of the hover box in SVG units, generously."""
_LONGEST_LINE = 56
"""Letters of a line of the hover box."""
_LONGEST_NAME = 26


@dataclass(frozen=True)
class Point:
    """One measured value."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    """What the hover box adds, such as the seeds it is the mean of."""


@dataclass(frozen=True)
class Series:
    """One line."""

    name: str
    points: tuple[Point, ...]
    look: int
    """1 to 8: colour, marker and dashes, the same for one quantity, or one arm, in every chart of a page."""
    single: tuple[tuple[Point, ...], ...] = ()
    """The single runs it is the mean of, drawn thin behind it."""


@dataclass(frozen=True)
class Reference:
    """A level to compare with."""

    name: str
    y: float
    look: int = 0
    """The look of the series it belongs to; 0 is neutral."""


@dataclass(frozen=True)
class Upright:
    """An x to point out, such as where two lines cross."""

    name: str
    x: float
    look: int = 0
    """The look of the series it belongs to; 0 is neutral."""


@dataclass(frozen=True)
class Chart:
    """What a line chart shows."""

    title: str
    series: tuple[Series, ...]
    show: Callable[[float], str]
    """A value as text, on hover."""
    show_tick: Callable[[float], str]
    """A value as text, on the axis."""
    x_name: str = "round"
    references: tuple[Reference, ...] = ()
    kept: float | None = None
    """The x that is marked as kept."""
    limits: tuple[float, float] | None = None
    """Values never pass these, so the axis does not either."""
    include: tuple[float, ...] = ()
    """Values that the axis must reach."""
    show_x: Callable[[float], str] | None = None
    """A measured x as text; its axis has round ticks. None: every x has its own tick, as rounds do."""
    heads: Mapping[float, str] = field(default_factory=dict)
    """What the hover box says of an x before its name and value, such as the round."""
    uprights: tuple[Upright, ...] = ()
    """Each within the xs that have points."""


@dataclass(frozen=True)
class _Frame:
    """Where values lie in the picture."""

    low: float
    high: float
    ticks: tuple[float, ...]
    xs: tuple[float, ...]
    """Every x that has a point, in order."""
    first: float
    last: float

    def x(self, x: float) -> float:
        if self.last - self.first < 1e-12:
            return (LEFT + WIDTH - RIGHT) / 2
        return LEFT + 14 + (x - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT - 28)

    def y(self, y: float) -> float:
        return TOP + (self.high - y) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    @property
    def narrowest(self) -> float:
        """How close two neighbouring columns come."""
        places = [self.x(x) for x in self.xs]
        return min((right - left for left, right in pairwise(places)), default=math.inf)


def render_chart(chart: Chart) -> Markup:
    """Return the chart as one `<svg>` element."""
    frame = _frame(chart)
    columns = frame.narrowest >= NARROWEST_COLUMN
    shifts = _shifts(chart) if columns else {}
    parts = [_kept_band(frame, chart.kept) if chart.kept in frame.xs and chart.kept is not None else ""]
    for tick in frame.ticks:
        parts.append(line("grid", LEFT, frame.y(tick), WIDTH - RIGHT, frame.y(tick)))
        parts.append(text("tick end", LEFT - 7, frame.y(tick) + 3.5, chart.show_tick(tick)))
    for reference in chart.references:
        level = frame.y(reference.y)
        parts.append(line(f"reference look{reference.look}", LEFT, level, WIDTH - RIGHT, level))
    for upright in chart.uprights:
        place = frame.x(upright.x)
        parts.append(line(f"reference look{upright.look}", place, TOP, place, HEIGHT - BOTTOM))
    parts += [text("tick middle", frame.x(x), HEIGHT - BOTTOM + 16, words) for x, words in _x_ticks(chart, frame)]
    parts.append(text("tick middle name", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, chart.x_name))
    parts += [_singles(series, frame, shifts.get(series.name, 0.0)) for series in chart.series]
    parts += [_series(series, frame, shifts.get(series.name, 0.0)) for series in chart.series]
    parts += _column_hovers(chart, frame) if columns else _point_hovers(chart, frame)
    label = safe(chart.title)
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" class="chart">{"".join(parts)}</svg>'
    )


def _points(chart: Chart) -> Iterator[Point]:
    for series in chart.series:
        yield from series.points
        for run in series.single:
            yield from run


def _frame(chart: Chart) -> _Frame:
    """Return the picture's scales: round ticks on the y axis, columns where means have points."""
    values = [value for each in _points(chart) for value in (each.y, each.low, each.high) if value is not None]
    values += [reference.y for reference in chart.references] + list(chart.include)
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < 1e-9:
        padding = abs(high) * 0.1 or 0.1
        low, high = low - padding, high + padding
    if chart.limits is not None:
        low, high = max(low, chart.limits[0]), min(high, chart.limits[1])
    ticks = round_ticks(low, high)
    if chart.limits is not None:
        bottom, top = chart.limits
        ticks = [tick for tick in ticks if bottom - 1e-9 <= tick <= top + 1e-9]
    every_x = [each.x for each in _points(chart)]
    return _Frame(
        low=min(*ticks, low),
        high=max(*ticks, high),
        ticks=tuple(ticks),
        xs=tuple(sorted({point.x for series in chart.series for point in series.points})),
        first=min(every_x, default=0.0),
        last=max(every_x, default=0.0),
    )


def round_ticks(low: float, high: float) -> list[float]:
    """Return four to seven round numbers that begin at or under `low` and end at or over `high`, which is larger."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _x_ticks(chart: Chart, frame: _Frame) -> list[tuple[float, str]]:
    """Return where the x axis has which label."""
    if chart.show_x is None or frame.last - frame.first < 1e-12:
        show = chart.show_x or (lambda x: f"{x:g}")
        every = math.ceil(len(frame.xs) / MOST_X_LABELS) if frame.xs else 1
        return [(x, show(x)) for index, x in enumerate(frame.xs) if index % every == 0]
    ticks = round_ticks(frame.first, frame.last)
    edge = (frame.last - frame.first) * 0.02
    return [(tick, chart.show_x(tick)) for tick in ticks if frame.first - edge <= tick <= frame.last + edge]


def _shifts(chart: Chart) -> dict[str, float]:
    """Return how far lines with intervals are moved apart, so that whiskers of one x do not cover one another."""
    names = [each.name for each in chart.series if any(point.low is not None for point in each.points)]
    if len(names) < 2:
        return {}
    return {name: (index - (len(names) - 1) / 2) * min(4.0, 16 / len(names)) for index, name in enumerate(names)}


def _series(series: Series, frame: _Frame, shift: float) -> str:
    places = [(frame.x(point.x) + shift, frame.y(point.y)) for point in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline class="line look{series.look}" points="{path}"/>']
    for point, (x, y) in zip(series.points, places, strict=True):
        if point.low is not None and point.high is not None:
            parts.append(line(f"whisker look{series.look}", x, frame.y(point.low), x, frame.y(point.high)))
        parts.append(marker(series.look, x, y))
    return "".join(parts)


def _singles(series: Series, frame: _Frame, shift: float) -> str:
    parts = []
    for run in series.single:
        places = [(frame.x(point.x) + shift, frame.y(point.y)) for point in run]
        if len(places) == 1:
            parts.append(
                f'<circle class="seed look{series.look}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="2"/>'
            )
        else:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline class="seed look{series.look}" points="{path}"/>')
    return "".join(parts)


def _column_hovers(chart: Chart, frame: _Frame) -> list[str]:
    """Return a column for each x that shows its numbers while the pointer is on it, and the same as a plain title."""
    places = [frame.x(x) for x in frame.xs]
    half = [(right - left) / 2 for left, right in pairwise(places)] or [40.0]
    edges = [places[0] - half[0], *(left + step for left, step in zip(places, half, strict=False))] if places else []
    found = []
    for index, (x, place) in enumerate(zip(frame.xs, places, strict=True)):
        end = edges[index + 1] if index + 1 < len(places) else place + half[-1]
        area = _area(edges[index], end)
        found.append(_hover(chart, "column", area, place, _column_lines(chart, x)))
    return found


def _column_lines(chart: Chart, x: float) -> list[tuple[int | None, str]]:
    """Return the lines of a column's hover box: the look of the line that each is about, and its words."""
    lines: list[tuple[int | None, str]] = [(None, _head(chart, x))]
    several = len(chart.series) > 1
    for series in chart.series:
        for point in series.points:
            if point.x == x:
                words = f"{_named(series.name)} {chart.show(point.y)}{_interval(chart, point)}"
                lines.append((series.look if several else None, words))
                if point.note:
                    fits = len(words) + len(point.note) + 2 <= _LONGEST_LINE
                    lines[-1:] = [(lines[-1][0], f"{words}, {point.note}")] if fits else [lines[-1], (None, point.note)]
    return lines


def _point_hovers(chart: Chart, frame: _Frame) -> list[str]:
    """Return a disc on each point that shows its numbers while the pointer is on it, and the same as a plain title."""
    found = []
    for series in chart.series:
        for point in series.points:
            place, height = frame.x(point.x), frame.y(point.y)
            area = f'<circle class="area" cx="{place:.1f}" cy="{height:.1f}" r="9"/>'
            ring = f'<circle class="ring" cx="{place:.1f}" cy="{height:.1f}" r="7"/>'
            words = f"{_named(series.name)} {chart.show(point.y)}{_interval(chart, point)}"
            lines: list[tuple[int | None, str]] = [(series.look, words), (None, _head(chart, point.x))]
            lines += [(None, point.note)] if point.note else []
            found.append(_hover(chart, "point", area + ring, place, lines))
    return found


def _hover(chart: Chart, style: str, area: str, place: float, lines: Sequence[tuple[int | None, str]]) -> str:
    """Return an area with a guide and a box of words that are seen while the pointer is on it."""
    signs = any(look is not None for look, _ in lines)
    inset = 20 if signs else 7
    width = max(len(words) for _, words in lines) * _LETTER + inset + 7
    height = len(lines) * 15 + 9
    left = place + 11 if place + 11 + width <= WIDTH else place - 11 - width
    left = max(2.0, min(left, WIDTH - width - 2))
    box = f'<rect class="box" x="{left:.1f}" y="{TOP}" width="{width:.1f}" height="{height}" rx="4"/>'
    shown = []
    for index, (look, words) in enumerate(lines):
        level = TOP + 16 + index * 15
        shown.append("" if look is None else marker(look, left + 11, level - 4))
        bold = "head" if index == 0 else ""
        shown.append(text(bold, left + (7 if index == 0 and look is None else inset), level, words))
    guide = line("guide", place, TOP, place, HEIGHT - BOTTOM)
    title = safe(" · ".join(words for _, words in lines))
    return f'<g class="{style}">{area}<g class="tip">{guide}{box}{"".join(shown)}</g><title>{title}</title></g>'


def _head(chart: Chart, x: float) -> str:
    shown = f"{chart.x_name} {chart.show_x(x) if chart.show_x else f'{x:g}'}" + (" (kept)" if x == chart.kept else "")
    return f"{chart.heads[x]}, {shown}" if x in chart.heads else shown


def _named(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _interval(chart: Chart, point: Point) -> str:
    if point.low is None or point.high is None:
        return ""
    return f" ({show_ends(chart.show, point.low, point.high)})"


def show_ends(show: Callable[[float], str], low: float, high: float) -> str:
    """Return two values as `0.61 to 0.69`, the unit of shares once."""
    return f"{show(low).removesuffix(UNIT)} to {show(high)}"


def _area(start: float, end: float) -> str:
    return f'<rect class="area" x="{start:.1f}" y="{TOP}" width="{end - start:.1f}" height="{HEIGHT - TOP - BOTTOM}"/>'


def _kept_band(frame: _Frame, kept: float) -> str:
    room = frame.narrowest if frame.narrowest < math.inf else 32.0
    half = min(16.0, max(3.0, room / 2))
    return (
        f'<rect class="kept" x="{frame.x(kept) - half:.1f}" y="{TOP}" width="{2 * half:.1f}" '
        f'height="{HEIGHT - TOP - BOTTOM}" rx="4"/>'
    )
