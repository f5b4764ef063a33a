"""The signs of charts and tables as inline SVG: markers, swatches, spans and range bars.

A look is a number from 1 to 8: one colour, one marker and one dash, told apart in light and dark and by people who see
fewer colours; 0 is neutral. Colours are in the page's style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from prefdistill.stages.report.examples import visible

LOOKS = 8
SPAN, TRACK = 160, 144
"""Width of a span, and of the track in it that stands for 0 to 1."""


@dataclass(frozen=True)
class Mark:
    """One value of a spread."""

    name: str
    value: float
    look: int
    """0: the base, hollow."""


def line(style: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a line."""
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(style: str, x: float, y: float, words: str) -> str:
    """Return words, made safe to show."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{safe(words)}</text>'


def safe(words: str) -> Markup:
    """Return words escaped, with what a browser would hide or obey spelled out."""
    return escape(visible(words))


_CROSS = [(-1.5, -4.6), (1.5, -4.6), (1.5, -1.5), (4.6, -1.5), (4.6, 1.5), (1.5, 1.5), (1.5, 4.6), (-1.5, 4.6)]
_CROSS += [(-1.5, 1.5), (-4.6, 1.5), (-4.6, -1.5), (-1.5, -1.5)]
_STAR = [
    (radius * math.sin(turn * math.pi / 5), -radius * math.cos(turn * math.pi / 5))
    for turn, radius in enumerate([5.6, 2.5] * 5)
]
_CORNERS = {
    3: [(0.0, -5.0), (5.0, 0.0), (0.0, 5.0), (-5.0, 0.0)],
    4: [(0.0, -4.6), (4.8, 3.8), (-4.8, 3.8)],
    5: [(0.0, 4.6), (4.8, -3.8), (-4.8, -3.8)],
    6: _CROSS,
    7: _STAR,
}


def marker(look: int, x: float, y: float) -> str:
    """Return circle, square, diamond, triangles, cross, star or ring, so that colour is never the only sign."""
    if look == 2:
        return f'<rect class="marker look2" x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2"/>'
    if look in _CORNERS:
        corners = " ".join(f"{x + right:.1f},{y + down:.1f}" for right, down in _CORNERS[look])
        return f'<polygon class="marker look{look}" points="{corners}"/>'
    return f'<circle class="marker look{look}" cx="{x:.1f}" cy="{y:.1f}" r="{3.6 if look in (0, LOOKS) else 4}"/>'


def render_swatch(look: int, line_only: bool = False) -> Markup:
    """Return the legend's sign of a look: a stroke with its marker."""
    sign = "" if line_only else marker(look, 13, 6)
    kind = "reference" if line_only else "line"
    stroke = line(f"{kind} look{look}", 1, 6, 25, 6)
    return Markup(f'<svg viewBox="0 0 26 12" class="swatch" aria-hidden="true">{stroke}{sign}</svg>')


def render_marker(look: int) -> Markup:
    """Return a marker alone, to stand before a name."""
    return Markup(f'<svg viewBox="0 0 12 12" class="sign" aria-hidden="true">{marker(look, 6, 6)}</svg>')


def render_span(before: float, after: float, best: float | None = None) -> Markup:
    """Return a 0 to 1 track with a hollow dot before, a filled one after and a tick for the best known."""
    known = "" if best is None else line("best", _on_track(best), 3, _on_track(best), 13)
    return Markup(
        f'<svg viewBox="0 0 160 16" class="span" aria-hidden="true">{line("grid", 8, 8, 152, 8)}'
        f"{line('move', _on_track(before), 8, _on_track(after), 8)}{known}"
        f'<circle class="before" cx="{_on_track(before):.1f}" cy="8" r="4"/>'
        f'<circle class="after" cx="{_on_track(after):.1f}" cy="8" r="4.5"/></svg>'
    )


def render_spread(marks: Sequence[Mark], best: float | None = None) -> Markup:
    """Return a 0 to 1 track with a marker for each value and a tick for the best known; each says its value."""
    known = "" if best is None else line("best", _on_track(best), 2, _on_track(best), 16)
    ends = [_on_track(each.value) for each in marks]
    reach = line("reach", min(ends), 9, max(ends), 9) if ends else ""
    signs = "".join(
        f"<g>{marker(each.look, _on_track(each.value), 9)}<title>{safe(each.name)} {each.value:.2f}</title></g>"
        for each in marks
    )
    return Markup(
        f'<svg viewBox="0 0 {SPAN} 18" class="span" aria-hidden="true">{line("grid", 8, 9, 152, 9)}{reach}{known}{signs}'
        "</svg>"
    )


def render_range(value: float | None, low: float, high: float, scale: tuple[float, float]) -> Markup:
    """Return an interval as a bar on a scale, with a dot at the value and a line at zero where the scale has it."""
    first, last = scale
    width = (last - first) or 1.0

    def at(amount: float) -> float:
        return 6 + 108 * min(1.0, max(0.0, (amount - first) / width))

    clear = "clear" if low > 0 or high < 0 else "unclear"
    zero = line("zero", at(0.0), 1, at(0.0), 15) if first <= 0 <= last else ""
    dot = "" if value is None else f'<circle class="dot" cx="{at(value):.1f}" cy="8" r="3.4"/>'
    return Markup(
        f'<svg viewBox="0 0 120 16" class="range {clear}" aria-hidden="true">{line("grid", 6, 8, 114, 8)}{zero}'
        f"{line('bar', at(low), 8, at(high), 8)}{dot}</svg>"
    )


def _on_track(share: float) -> float:
    return 8 + TRACK * min(1.0, max(0.0, share))
