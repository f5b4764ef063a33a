"""The numbers of a plan: each one value, or low, central and high, with a unit that says what it may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema, model_serializer

ENDS = ("low", "central", "high")


class Range(BaseModel):
    """A number that is known well (all three the same), or between `low` and `high` with `central` as the best guess."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    low: float
    """The smallest value that is still likely."""
    central: float
    """The best guess."""
    high: float
    """The largest value that is still likely."""

    @classmethod
    def of(cls, value: float) -> Self:
        """Return a range that is one value."""
        return cls(low=value, central=value, high=value)

    @property
    def is_sure(self) -> bool:
        """Whether it is one value."""
        return self.low == self.high

    @property
    def ends(self) -> tuple[float, ...]:
        """The values at which a bound can lie: the two ends, or the one value."""
        return (self.low,) if self.is_sure else (self.low, self.high)

    def __add__(self, other: Range) -> Range:
        return Range(low=self.low + other.low, central=self.central + other.central, high=self.high + other.high)

    @model_serializer(mode="plain")
    def _as_written(self) -> Any:
        written = {name: _whole(getattr(self, name)) for name in ENDS}
        return written["central"] if self.is_sure else written


@dataclass(frozen=True)
class Unit:
    """What a number counts, and between which values it can be."""

    what: str
    """As an error message says what was expected."""
    low: float = 0.0
    high: float = math.inf
    open_low: bool = False
    """The lower limit itself is not allowed."""
    open_high: bool = False
    """The upper limit itself is not allowed."""
    advice: str = ""

    def read(self, value: Any) -> float:
        """Return a number of this unit.

        Raises:
            ValueError: it is no number, or lies outside the unit's limits.
        """
        expected = f"expected {self.what}{self.advice and f'; {self.advice}'}"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            shown = f"a {type(value).__name__}" if isinstance(value, (dict, list)) else repr(value)[:60]
            raise ValueError(f"found {shown}; {expected}")
        under = value <= self.low if self.open_low else value < self.low
        over = value >= self.high if self.open_high else value > self.high
        if over and self.high > 1:
            expected = f"expected {self.what}, and at most {self.high:,.0f}; is the unit right?"
        if under or over or not math.isfinite(value):
            raise ValueError(f"found {value:,.10g}; {expected}")
        return float(value)

    def read_range(self, value: Any) -> Any:
        """Return a number, or `{low, central, high}`, as a `Range`.

        Raises:
            ValueError: a part is missing, unknown, outside the unit's limits, or the three are not in order.
        """
        if value is None or isinstance(value, Range):
            return value
        if not isinstance(value, Mapping):
            return Range.of(self.read(value))
        unknown, missing = [key for key in value if key not in ENDS], [name for name in ENDS if name not in value]
        if unknown or missing:
            said = f"unknown {', '.join(map(str, unknown))}" if unknown else f"no {', '.join(missing)}"
            raise ValueError(f"{said}; expected one number, or `{{low: …, central: …, high: …}}`: {self.what}")
        low, central, high = (self._part(name, value[name]) for name in ENDS)
        if not low <= central <= high:
            raise ValueError(f"found low {low:g}, central {central:g}, high {high:g}; expected them in rising order")
        return Range(low=low, central=central, high=high)

    def _part(self, name: str, value: Any) -> float:
        try:
            return self.read(value)
        except ValueError as problem:
            raise ValueError(f"{name}: {problem}") from None


def _schema(unit: Unit, with_range: bool) -> WithJsonSchema:
    number: dict[str, Any] = {"type": "number", "exclusiveMinimum" if unit.open_low else "minimum": unit.low}
    if math.isfinite(unit.high):
        number["exclusiveMaximum" if unit.open_high else "maximum"] = unit.high
    parts = {
        "type": "object",
        "properties": dict.fromkeys(ENDS, number),
        "required": list(ENDS),
        "additionalProperties": False,
    }
    return WithJsonSchema({"anyOf": [number, parts]} if with_range else number)


def _reader(unit: Unit) -> Callable[[Any], Any]:
    return lambda value: None if value is None else unit.read(value)


def _whole(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


SHARE = Unit("a share from 0 to 1", high=1.0, advice="10 % is written 0.1")
LESS_THAN_ALL = Unit("a share from 0 up to, not including, 1", high=1.0, open_high=True, advice="10 % is written 0.1")
USD = Unit("US dollars, 0 or more", high=1e12, advice="write the number alone, such as 600")
USD_PER_MILLION = Unit(
    "US dollars per million tokens, 0 or more",
    high=1e6,
    advice="write the number alone, such as 3; a price per thousand times 1000",
)
TOKENS = Unit("tokens a request, more than 0", 0.0, 1e9, open_low=True, advice="write the number alone, such as 800")
REQUESTS = Unit("requests a month, 1 or more", 1.0, 1e12, advice="write the number alone, such as 100_000")
MONTHS = Unit("months, more than 0", 0.0, 1200.0, open_low=True, advice="write the number alone, such as 6")
SECONDS = Unit("seconds, more than 0", 0.0, 1e6, open_low=True, advice="write the number alone, such as 1.5")
GIBIBYTES = Unit("GiB, more than 0", 0.0, 1e6, open_low=True, advice="write the number alone, such as 24")
A_SECOND = Unit("requests a second, more than 0", 0.0, 1e9, open_low=True, advice="write the number alone, such as 5")
RATE = Unit("a win rate over 0.5, up to 1", low=0.5, high=1.0, open_low=True, advice="55 % is written 0.55")
GAIN = Unit("a difference of scores over 0, up to 1", high=1.0, open_low=True, advice="5 points are written 0.05")
ACCURACY = Unit("a share over 0.5 (a coin), up to 1", low=0.5, high=1.0, open_low=True, advice="80 % is written 0.8")
POWER = Unit("a share over 0 and under 1", high=1.0, open_low=True, open_high=True, advice="80 % is written 0.8")

Share = Annotated[float, BeforeValidator(_reader(SHARE)), _schema(SHARE, False)]
Ties = Annotated[float, BeforeValidator(_reader(LESS_THAN_ALL)), _schema(LESS_THAN_ALL, False)]
Usd = Annotated[float, BeforeValidator(_reader(USD)), _schema(USD, False)]
Seconds = Annotated[float, BeforeValidator(_reader(SECONDS)), _schema(SECONDS, False)]
Gibibytes = Annotated[float, BeforeValidator(_reader(GIBIBYTES)), _schema(GIBIBYTES, False)]
ASecond = Annotated[float, BeforeValidator(_reader(A_SECOND)), _schema(A_SECOND, False)]
Rate = Annotated[float, BeforeValidator(_reader(RATE)), _schema(RATE, False)]
Gain = Annotated[float, BeforeValidator(_reader(GAIN)), _schema(GAIN, False)]
Accuracy = Annotated[float, BeforeValidator(_reader(ACCURACY)), _schema(ACCURACY, False)]
Power = Annotated[float, BeforeValidator(_reader(POWER)), _schema(POWER, False)]

ShareRange = Annotated[Range, BeforeValidator(SHARE.read_range), _schema(SHARE, True)]
UsdRange = Annotated[Range, BeforeValidator(USD.read_range), _schema(USD, True)]
UsdPerMillion = Annotated[Range, BeforeValidator(USD_PER_MILLION.read_range), _schema(USD_PER_MILLION, True)]
TokensRange = Annotated[Range, BeforeValidator(TOKENS.read_range), _schema(TOKENS, True)]
RequestsRange = Annotated[Range, BeforeValidator(REQUESTS.read_range), _schema(REQUESTS, True)]
MonthsRange = Annotated[Range, BeforeValidator(MONTHS.read_range), _schema(MONTHS, True)]
