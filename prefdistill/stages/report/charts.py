"""Line charts as inline SVG: no script, colours from the page's style sheet, the numbers of a column on hover."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 42, 14, 12, 36
MOST_X_LABELS = 11
_LETTER = 6.1
"""Width of a letter of the hover box in SVG units, generously."""


@dataclass(frozen=True)
class Point:
    """One measured value."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """One line."""

    name: str
    points: tuple[Point, ...]
    look: int
    """1 to 4: colour, marker and dashes, the same for one quantity in every chart."""


@dataclass(frozen=True)
class Reference:
    """A level to compare with."""

    name: str
    y: float
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


def render_chart(chart: Chart) -> Markup:
    """Return the chart as one `<svg>` element."""
    low, high, ticks = _axis(chart)
    xs = sorted({point.x for series in chart.series for point in series.points})

    def at_x(x: float) -> float:
        if len(xs) < 2:
            return (LEFT + WIDTH - RIGHT) / 2
        return LEFT + 14 + (x - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - LEFT - RIGHT - 28)

    def at_y(y: float) -> float:
        return TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [_kept_band(at_x(chart.kept), len(xs)) if chart.kept in xs and chart.kept is not None else ""]
    for tick in ticks:
        parts.append(_line("grid", LEFT, at_y(tick), WIDTH - RIGHT, at_y(tick)))
        parts.append(_text("tick end", LEFT - 7, at_y(tick) + 3.5, chart.show_tick(tick)))
    for reference in chart.references:
        parts.append(
            _line(f"reference look{reference.look}", LEFT, at_y(reference.y), WIDTH - RIGHT, at_y(reference.y))
        )
    every = math.ceil(len(xs) / MOST_X_LABELS) if xs else 1
    for index, x in enumerate(xs):
        if index % every == 0:
            parts.append(_text("tick middle", at_x(x), HEIGHT - BOTTOM + 16, f"{x:g}"))
    parts.append(_text("tick middle name", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, chart.x_name))
    parts += [_series(series, at_x, at_y) for series in chart.series]
    parts += [_hover(chart, x, xs, at_x) for x in xs]
    label = escape(chart.title)
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" class="chart">{"".join(parts)}</svg>'
    )


def render_swatch(look: int, line_only: bool = False) -> Markup:
    """Return the legend's sign of a look: a stroke with its marker."""
    marker = "" if line_only else _marker(look, 13, 6)
    kind = "reference" if line_only else "line"
    stroke = _line(f"{kind} look{look}", 1, 6, 25, 6)
    return Markup(f'<svg viewBox="0 0 26 12" class="swatch" aria-hidden="true">{stroke}{marker}</svg>')


def render_span(before: float, after: float, best: float | None = None) -> Markup:
    """Return a 0 to 1 track with a hollow dot before, a filled one after and a tick for the best known."""

    def at(share: float) -> float:
        return 8 + 144 * min(1.0, max(0.0, share))

    known = "" if best is None else _line("best", at(best), 3, at(best), 13)
    return Markup(
        f'<svg viewBox="0 0 160 16" class="span" aria-hidden="true">{_line("grid", 8, 8, 152, 8)}'
        f"{_line('move', at(before), 8, at(after), 8)}{known}"
        f'<circle class="before" cx="{at(before):.1f}" cy="8" r="4"/>'
        f'<circle class="after" cx="{at(after):.1f}" cy="8" r="4.5"/></svg>'
    )


def _axis(chart: Chart) -> tuple[float, float, list[float]]:
    """Return the ends of the y axis and three to six round ticks."""
    values = [
        value
        for series in chart.series
        for point in series.points
        for value in (point.y, point.low, point.high)
        if value is not None
    ]
    values += [reference.y for reference in chart.references] + list(chart.include)
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < 1e-9:
        padding = abs(high) * 0.1 or 0.1
        low, high = low - padding, high + padding
    if chart.limits is not None:
        low, high = max(low, chart.limits[0]), min(high, chart.limits[1])
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(index * step, 10) for index in range(first, last + 1)]
    if chart.limits is not None:
        bottom, top = chart.limits
        ticks = [tick for tick in ticks if bottom - 1e-9 <= tick <= top + 1e-9]
    return min(*ticks, low), max(*ticks, high), ticks


def _series(series: Series, at_x: Callable[[float], float], at_y: Callable[[float], float]) -> str:
    path = " ".join(f"{at_x(point.x):.1f},{at_y(point.y):.1f}" for point in series.points)
    parts = [f'<polyline class="line look{series.look}" points="{path}"/>']
    for point in series.points:
        x = at_x(point.x)
        if point.low is not None and point.high is not None:
            parts.append(_line(f"whisker look{series.look}", x, at_y(point.low), x, at_y(point.high)))
        parts.append(_marker(series.look, x, at_y(point.y)))
    return "".join(parts)


def _marker(look: int, x: float, y: float) -> str:
    """Return a circle, square, diamond or triangle, so that colour is never the only sign."""
    if look == 2:
        return f'<rect class="marker look2" x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2"/>'
    if look == 3:
        corners = f"{x:.1f},{y - 5:.1f} {x + 5:.1f},{y:.1f} {x:.1f},{y + 5:.1f} {x - 5:.1f},{y:.1f}"
        return f'<polygon class="marker look3" points="{corners}"/>'
    if look == 4:
        corners = f"{x:.1f},{y - 4.6:.1f} {x + 4.8:.1f},{y + 3.8:.1f} {x - 4.8:.1f},{y + 3.8:.1f}"
        return f'<polygon class="marker look4" points="{corners}"/>'
    return f'<circle class="marker look1" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'


def _hover(chart: Chart, x: float, xs: Sequence[float], at_x: Callable[[float], float]) -> str:
    """Return a column that shows its numbers while the pointer is on it, and the same as a plain title."""
    half = (at_x(xs[1]) - at_x(xs[0])) / 2 if len(xs) > 1 else 40.0
    lines = [f"{chart.x_name} {x:g}" + (" (kept)" if x == chart.kept else "")]
    for series in chart.series:
        for point in series.points:
            if point.x == x:
                interval = "" if point.low is None or point.high is None else _interval(chart, point.low, point.high)
                lines.append(f"{series.name} {chart.show(point.y)}{interval}")
    width = max(map(len, lines)) * _LETTER + 14
    height = len(lines) * 15 + 9
    left = at_x(x) + 9 if at_x(x) + 9 + width <= WIDTH else at_x(x) - 9 - width
    left = max(2.0, min(left, WIDTH - width - 2))
    box = f'<rect class="box" x="{left:.1f}" y="{TOP}" width="{width:.1f}" height="{height}" rx="4"/>'
    words = "".join(
        _text("head" if index == 0 else "", left + 7, TOP + 16 + index * 15, line) for index, line in enumerate(lines)
    )
    guide = _line("guide", at_x(x), TOP, at_x(x), HEIGHT - BOTTOM)
    area = (
        f'<rect class="area" x="{at_x(x) - half:.1f}" y="{TOP}" width="{2 * half:.1f}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/>'
    )
    return (
        f'<g class="column">{area}<g class="tip">{guide}{box}{words}</g><title>{escape(" · ".join(lines))}</title></g>'
    )


def _interval(chart: Chart, low: float, high: float) -> str:
    return f" ({chart.show(low)} to {chart.show(high)})"


def _kept_band(x: float, columns: int) -> str:
    half = min(16.0, (WIDTH - LEFT - RIGHT) / max(columns, 1) / 2)
    return (
        f'<rect class="kept" x="{x - half:.1f}" y="{TOP}" width="{2 * half:.1f}" '
        f'height="{HEIGHT - TOP - BOTTOM}" rx="4"/>'
    )


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(style: str, x: float, y: float, words: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
