"""Numbers as a person reads them, the same on every page, in Markdown and in charts."""

from __future__ import annotations

UNIT = "\u00a0%"
"""With the space that does not break."""
MINUS = "\u2212"
UNKNOWN = "–"


def percent(share: float | None) -> str:
    """Return a share as a percentage."""
    return UNKNOWN if share is None else f"{100 * share:.1f}{UNIT}"


def whole_percent(share: float) -> str:
    """Return a share as a percentage without decimals."""
    return f"{100 * share:.0f}{UNIT}"


def percent_interval(interval: tuple[float, float]) -> str:
    """Return an interval of shares as percentages."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}{UNIT}"


def number(value: float | None, digits: int = 3) -> str:
    """Return a score, with a real minus sign."""
    return UNKNOWN if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """Return a difference with its sign."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def tenths(value: float) -> str:
    """Return a number with one decimal."""
    return number(value, 1)


def plain(value: float) -> str:
    """Return a number with as many digits as it needs, up to six."""
    return f"{value:,.6g}".replace("-", MINUS)


def measured(value: float | None) -> str:
    """Return a diagnostic to four significant digits: they range from 1e-9 to thousands."""
    return UNKNOWN if value is None else f"{value:.4g}".replace("-", MINUS)


def count(value: float | None) -> str:
    """Return a count, or what should be one."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3f}"


def plain_count(value: float) -> str:
    """Return a count, or the mean of several."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def whole(value: float | None) -> str:
    """Return a number without decimals."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def usd(value: float | None) -> str:
    """Return US dollars, small amounts to two significant digits."""
    if value is None:
        return UNKNOWN
    return f"{value:,.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def seconds(value: float | None) -> str:
    """Return a time in the unit that a person would take."""
    if value is None:
        return UNKNOWN
    if value >= 3600:
        return f"{value / 3600:.1f} h"
    return f"{value / 60:.1f} min" if value >= 120 else f"{value:.1f} s"


def time_unit(longest: float) -> tuple[str, float]:
    """Return the unit in which a chart shows times up to `longest` seconds: its name and its seconds."""
    if longest >= 7200:
        return "hours", 3600.0
    return ("minutes", 60.0) if longest >= 240 else ("seconds", 1.0)
