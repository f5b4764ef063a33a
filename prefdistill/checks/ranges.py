"""`[low, high]` options: their validation, their score with a soft edge, and how they read in a reason."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

Bound = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


def _ordered(bounds: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = bounds
    if low is None and high is None:
        raise ValueError("found [null, null]; expected [low, high] with at least one number")
    if low is not None and high is not None and low > high:
        raise ValueError(f"low is {low:g} and high is {high:g}; expected [low, high] with low at most high")
    return bounds


def _share(bounds: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    for bound in bounds:
        if bound is not None and bound > 1:
            raise ValueError(f"found {bound:g}; expected shares from 0 to 1, such as [0.05, 0.4]")
    return bounds


Range = Annotated[tuple[Bound | None, Bound | None], AfterValidator(_ordered)]
"""[low, high], both ends included; `null` leaves an end open."""
ShareRange = Annotated[Range, AfterValidator(_share)]
"""A range of shares from 0 to 1."""


def range_score(value: float, bounds: tuple[float | None, float | None], soft: float) -> float:
    """Return 1 inside `bounds`, falling linearly to 0 at a distance of `soft` outside them."""
    low, high = bounds
    distance = max(low - value if low is not None else 0.0, value - high if high is not None else 0.0, 0.0)
    if distance <= 0:
        return 1.0
    return max(0.0, 1.0 - distance / soft) if soft > 0 else 0.0


def render_range(bounds: tuple[float | None, float | None], percent: bool = False) -> str:
    """Write the range as a reader says it: `15 to 60`, `at least 15`, `at most 60`, `exactly 3`."""
    low, high = (
        None if bound is None else f"{bound:.3g} %" if percent else f"{bound:g}" for bound in _scaled(bounds, percent)
    )
    if low is None:
        return f"at most {high}"
    if high is None:
        return f"at least {low}"
    return f"exactly {low}" if low == high else f"{low} to {high}"


def _scaled(bounds: tuple[float | None, float | None], percent: bool) -> list[float | None]:
    return [bound if bound is None or not percent else 100 * bound for bound in bounds]
