"""How a rule says what it found: which level a value crossed, and the finding that names cause and remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prefdistill.diagnostics.thresholds import StopLevels, WarnLevels
from prefdistill.records import Finding, Remedy

Values = Mapping[str, float]
"""One round's diagnostics by name; a name that is not there was not measured."""


@dataclass(frozen=True)
class Levels:
    """The levels that hold for a run."""

    warn: WarnLevels = field(default_factory=WarnLevels)
    stop: StopLevels | None = field(default_factory=StopLevels)
    """None where nothing stops the run."""

    def crossed(self, check: str, value: float, at_least: bool = False) -> tuple[Literal["warn", "stop"], float] | None:
        """Return the level that `value` is beyond and its limit, None where it is within both.

        Args:
            check: a field of the levels.
            value: what was measured.
            at_least: whether values below the limit are beyond it, instead of values above.
        """
        for level, source in (("stop", self.stop), ("warn", self.warn)):
            limit = getattr(source, check, None)
            if limit is not None and (value < limit if at_least else value > limit):
                return ("stop" if level == "stop" else "warn"), float(limit)
        return None

    def finding(
        self, check: str, value: float, message: str, at_least: bool = False, remedy: Remedy | None = None
    ) -> Iterator[Finding]:
        """Yield the finding where `value` is beyond a level, else nothing."""
        crossed = self.crossed(check, value, at_least)
        if crossed is not None:
            level, limit = crossed
            yield Finding(check=check, level=level, value=value, limit=limit, message=message, remedy=remedy)


Rule = Callable[[Sequence[Values], Levels], Iterator[Finding]]
"""Looks at a run's rounds so far (round 0, the base, first; the last one is judged) and yields what is wrong."""
