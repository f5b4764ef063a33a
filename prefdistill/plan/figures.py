"""How a plan writes its numbers: money, counts and shares as a person checks them by hand."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from prefdistill.plan.quantities import Range
from prefdistill.stages.report.formats import MINUS, percent

NO_BREAK_EVEN = "no break-even"
EXACT_DIGITS = 10
"""Significant digits of a number that goes into a sum: more would show binary fractions, not the plan."""


def exact(value: float) -> str:
    """Return a number with every digit that it has, to ten significant ones, and never as a power of ten."""
    shown = format(Decimal(f"{value:.{EXACT_DIGITS}g}").normalize(), ",f")
    return shown.replace("-", MINUS)


def money(value: float) -> str:
    """Return an amount as `$600`, `$1,099.50` or, under ten cents, as `$0.0084`."""
    size = abs(value)
    if size and size < 0.1:
        shown = format(Decimal(f"{size:.4g}").normalize(), "f")
    else:
        shown = f"{size:,.2f}".removesuffix(".00")
    return f"{MINUS if value < 0 and shown != '0' else ''}${shown}"


def rounded(value: float) -> str:
    """Return a computed amount without the cents that nobody plans with: `$1,226`, `$34.20`."""
    return money(round(value)) if abs(value) >= 100 else money(value)


def requests(value: float | None) -> str:
    """Return a number of requests; None is that there is no break-even."""
    return NO_BREAK_EVEN if value is None else f"{value:,.0f}"


def share(value: float) -> str:
    """Return a share as a percentage without needless decimals."""
    return percent(value).replace(".0\u00a0", "\u00a0")


def spread(value: Range, show: Callable[[float], str]) -> str:
    """Return a value, and its ends where it is a range: `$600 ($500 to $800)`."""
    if value.is_sure:
        return show(value.central)
    return f"{show(value.central)} ({show(value.low)} to {show(value.high)})"


def of_unit(unit: str) -> Callable[[float], str]:
    """Return how values of an input's unit are written."""
    if unit == "share":
        return share
    return money if unit.startswith("$") else exact
