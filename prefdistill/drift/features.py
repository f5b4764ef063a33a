"""What is compared: both sides' prompts as counts by cell, and as counts of a kind that training hardly had.

`Shares` are cells that hold all prompts, such as the tenths of a length; their shares shift or do not. A `Kind` is one
sort of prompt that is rare in training: longer than nearly all, of a new value, in a new language. Where training
prompts are asked whether they are rare themselves, each is compared with the others only, as a prompt of the log is.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefdistill.drift.languages import language_of
from prefdistill.drift.reading import Request, clean, finite
from prefdistill.scope import Scope

BINS = 10
RARE = 0.01
"""A kind is rare when about 1 of 100 training prompts is of it."""
LONG_TEXT = 80
"""A field whose values are longer on average is text: left to the n-grams."""
OWN_VALUES = 0.5
"""A field in which more of the training prompts than this have a value of their own is text, too."""
MISSING = "(missing)"
MOST_CELLS = 30
UNLIKE = "unlike anything trained on"


@dataclass(frozen=True)
class Shares:
    """Cells that hold all prompts of both sides."""

    name: str
    cells: tuple[str, ...]
    training: tuple[int, ...]
    log: tuple[int, ...]
    rising: bool = False
    """Whether only a move towards the last cells is drift: requests that are nearer to training are none."""

    @property
    def risen(self) -> bool:
        """Whether more of the log than of training is in the later half of the cells."""
        half = len(self.cells) // 2
        before, now = (sum(side[half:]) / max(1, sum(side)) for side in (self.training, self.log))
        return now > before


@dataclass(frozen=True)
class Kind:
    """Prompts of one sort that is rare in training."""

    name: str
    what: str
    """What these prompts are, after "N % of prompts are …"."""
    training: int
    of_training: int
    log: int
    of_log: int
    values: tuple[tuple[str, int], ...] = ()
    """The new values and how many prompts of the log have each, most first."""


Feature = Shares | Kind


def length_features(training: Sequence[Request], log: Sequence[Request]) -> Iterator[Feature]:
    """Yield how long prompts are: in characters, also where redacted, and in words."""
    known = [each.characters for each in training if each.characters is not None]
    found = [each.characters for each in log if each.characters is not None]
    if not found:
        return
    yield _bins("length in characters", known, found)
    words = [len(each.text.split()) for each in training if each.text is not None]
    asked = [len(each.text.split()) for each in log if each.text is not None]
    if asked:
        yield _bins("length in words", words, asked)
    longest, shortest = _end(known), -_end([-each for each in known])
    yield Kind("longer prompts", f"at least {longest:,.0f} characters long", *_beyond(known, found, longest))
    yield Kind(
        "shorter prompts",
        f"at most {shortest:,.0f} characters long",
        *_beyond([-each for each in known], [-each for each in found], -shortest),
    )


def distance_features(
    scope: Scope, training: Sequence[str], log: Sequence[str], logged: Sequence[float], seed: int = 0
) -> Iterator[Feature]:
    """Yield how far prompts are from the training prompts: by tenths of those, and how many are unlike all of them.

    One half of the training prompts is measured against the other, half of the log with it, and the other way round:
    whoever is measured is as new to what it is measured against.

    Args:
        scope: of all training prompts, for `logged`.
        training: texts.
        log: texts.
        logged: distances that a server measured, used where there are no texts: the log is redacted.
        seed: of the halves.
    """
    if not log and not logged:
        return
    rng = np.random.default_rng(seed)
    sides = [(scope.held_out.tolist(), logged)] if not log else list(_by_halves(training, log, rng))
    edges = [np.unique(np.quantile(known, np.arange(1, BINS) / BINS)) for known, _ in sides]
    tenths = min(len(each) for each in edges) + 1
    cells = np.zeros((2, tenths), dtype=np.int64)
    for ends, side in zip(edges, sides, strict=True):
        for row, values in zip(cells, side, strict=True):
            row += np.bincount(np.searchsorted(ends[: tenths - 1], values, side="left"), minlength=tenths)
    named = ("nearest tenth", *(f"{number}. tenth" for number in range(2, tenths)), "farthest tenth")
    yield Shares("distance from the training prompts", named, tuple(map(int, cells[0])), tuple(map(int, cells[1])))
    beyond = [_beyond(known, found, _end(known)) for known, found in sides]
    training_far, of_training, log_far, of_log = (sum(each) for each in zip(*beyond, strict=True))
    yield Kind(UNLIKE, UNLIKE, training_far, of_training, log_far, of_log)


def _by_halves(
    training: Sequence[str], log: Sequence[str], rng: np.random.Generator
) -> Iterator[tuple[list[float], list[float]]]:
    """Yield the distances of half the training prompts, and of half the log, to the other half; twice."""
    first, second = (np.array_split(rng.permutation(len(texts)), 2) for texts in (training, log))
    for learned, measured, asked in ((first[0], first[1], second[0]), (first[1], first[0], second[1])):
        half = Scope.fit([training[index] for index in learned])
        yield (
            [half.distance(training[index]) for index in measured],
            [half.distance(log[index]) for index in asked],
        )


def language_features(training: Sequence[Request], log: Sequence[Request]) -> Iterator[Feature]:
    """Yield the languages, and the share of prompts in one that training hardly had."""
    known = [language_of(each.text) for each in training if each.text is not None]
    found = [language_of(each.text) for each in log if each.text is not None]
    if not found:
        return
    yield _categories("language", known, found)
    rare = math.floor(RARE * len(known))
    yield _new("new language", "in a language that training hardly had", known, found, rare)


def system_features(training: Sequence[Request], log: Sequence[Request]) -> Iterator[Feature]:
    """Yield which system messages come with requests that have one; without one, the run's own is taken to apply."""
    found = [each.system for each in log if each.system is not None]
    known = [each.system or "(none)" for each in training]
    if found and not _is_text(known):
        yield _new("system prompt", "with a system prompt that training did not have", known, found)


def field_features(training: Sequence[Request], log: Sequence[Request]) -> Iterator[Feature]:
    """Yield every field that training prompts have: by value, or by tenths where it is a number; long texts aside."""
    rows = [each.fields for each in log if each.fields]
    if not rows:
        return
    names = Counter(name for each in training for name in each.fields)
    for name in sorted(each for each, count in names.items() if count >= 0.5 * len(training)):
        if any(name in row for row in rows):
            yield from _field(name, [each.fields for each in training], rows)


def _field(name: str, training: Sequence[Mapping[str, Any]], log: Sequence[Mapping[str, Any]]) -> Iterator[Feature]:
    numbers = [number for row in training if (number := _number_in(row.get(name))) is not None]
    if len(numbers) >= 0.95 * len(training) and len(set(numbers)) > 2 * BINS:
        asked = [number for row in log if (number := _number_in(row.get(name))) is not None]
        yield _bins(f"field `{name}`", numbers, asked)
        low, high = -_end([-each for each in numbers]), _end(numbers)
        under = _beyond([-each for each in numbers], [-each for each in asked], -low)
        over = _beyond(numbers, asked, high)
        yield Kind(
            f"field `{name}` out of range",
            f"with `{name}` at most {low:g} or at least {high:g}",
            under[0] + over[0],
            len(numbers),
            under[2] + over[2],
            len(asked),
        )
        return
    known, found = ([_value(row, name) for row in side] for side in (training, log))
    if _is_text(known):
        return
    yield _categories(f"field `{name}`", known, found)
    yield _new(f"new values of `{name}`", f"with a value of `{name}` that training did not have", known, found)


def _is_text(values: Sequence[str]) -> bool:
    own = sum(count == 1 for count in Counter(values).values())
    long = sum(map(len, values)) > LONG_TEXT * len(values) and len(set(values)) > BINS
    return long or own > OWN_VALUES * len(values)


def _value(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None or value == "":
        return MISSING
    return clean(
        value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    )


def _number_in(value: Any) -> float | None:
    """Return a field's number, also one that is written as text; None where it has none."""
    try:
        return finite(float(value) if isinstance(value, str) else value)
    except ValueError:
        return None


def _bins(name: str, training: Sequence[float], log: Sequence[float]) -> Shares:
    """Count both sides by the tenths of the training values; fewer cells where many values are equal."""
    edges = np.unique(np.quantile(np.array(training, dtype=float), np.arange(1, BINS) / BINS))

    def counted(values: Sequence[float]) -> tuple[int, ...]:
        return tuple(np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1).tolist())

    shown = [f"{edge:,.6g}" for edge in edges]
    cells = [f"to {shown[0]}", *(f"to {each}" for each in shown[1:]), f"over {shown[-1]}"]
    return Shares(name, tuple(cells), counted(training), counted(log))


def _end(training: Sequence[float]) -> float:
    """Return the value that about 1 of 100 training prompts reaches."""
    return sorted(training)[-max(1, math.ceil(RARE * len(training)))]


def _beyond(training: Sequence[float], log: Sequence[float], end: float) -> tuple[int, int, int, int]:
    return sum(each >= end for each in training), len(training), sum(each >= end for each in log), len(log)


def _categories(name: str, training: Sequence[str], log: Sequence[str]) -> Shares:
    """Count both sides by value, the most frequent ones of both together first; rarer ones make one cell.

    What makes a cell does not depend on whose prompt is whose: else chance would look like drift.
    """
    known, found = Counter(training), Counter(log)
    ranked = [value for value, _ in _most(known + found)]
    kept, rest = ranked[:MOST_CELLS], ranked[MOST_CELLS:]

    def counted(side: Counter[str]) -> tuple[int, ...]:
        return (*(side[each] for each in kept), *([sum(side[each] for each in rest)] if rest else []))

    return Shares(name, (*kept, *(["(others)"] if rest else [])), counted(known), counted(found))


def _new(name: str, what: str, training: Sequence[str], log: Sequence[str], rare: int = 0) -> Kind:
    """Count prompts whose value at most `rare` other training prompts have."""
    known = Counter(training)
    own = sum(count for count in known.values() if count - 1 <= rare)
    new = Counter(each for each in log if known[each] <= rare)
    return Kind(name, what, own, len(training), sum(new.values()), len(log), tuple(_most(new)))


def _most(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
