"""The budget and the ledger: what paid calls may cost, and what they did.

Place in the flow: beside it; the request layer reserves the most that a call can cost before it is sent, and settles
what it did cost. The ledger is a file of the run folder, written before each request, so that a run that was killed
still knows what it spent: what was in flight then stays charged at its bound.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import IO, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prefdistill.errors import BudgetError, RunError
from prefdistill.records import Record, Usage

PICO = 10**12
"""Money is added up in whole millionths of a millionth of a dollar, so that no sum is rounded."""


class Budget(BaseModel):
    """The most that all paid calls of a run may cost together: those of teacher, judges and a served student."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    usd: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    """US dollars; every model then needs a price."""
    calls: int | None = Field(default=None, ge=0)
    """Requests that a server answered, or may have answered; refused ones are free."""
    tokens: int | None = Field(default=None, ge=0)
    """Prompt and completion tokens together."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.usd is None and self.calls is None and self.tokens is None:
            raise ValueError("a budget needs at least one of usd, calls and tokens; leave it out for no limit")
        return self


class Entry(Record):
    """One line of spending.jsonl."""

    id: str
    """Which attempt; its last line counts."""
    state: Literal["reserved", "settled"]
    """reserved: charged at the most that it can cost, because it is in flight or its reply was lost."""
    usage: Usage


class Amount(NamedTuple):
    """What an attempt costs, in whole units."""

    calls: int = 0
    tokens: int = 0
    pico: int = 0

    @classmethod
    def of(cls, usage: Usage) -> Amount:
        """Return a usage in whole units."""
        return cls(usage.calls, usage.prompt_tokens + usage.completion_tokens, round(usage.usd * PICO))

    def plus(self, other: Amount, sign: int = 1) -> Amount:
        """Return the sum, or the difference where `sign` is -1."""
        return Amount(*(a + sign * b for a, b in zip(self, other, strict=True)))


class Ledger:
    """What was spent and what is reserved, kept within a budget; shared by all workers of a run."""

    def __init__(self, budget: Budget | None = None, path: Path | None = None) -> None:
        """Read what an earlier process spent.

        Raises:
            RunError: the file cannot be read.
        """
        self.budget = budget
        self.path = path
        self._open: dict[str, Amount] = {}
        self._live: set[str] = set()
        self._charged = Amount()
        self._reached: BudgetError | None = None
        self._closed = False
        self._turn = threading.Condition()
        self._file: IO[str] | None = None
        self._prefix = secrets.token_hex(6)
        self._number = 0
        for entry in () if path is None else _read(path):
            self._charged = self._charged.plus(self._open.pop(entry.id, Amount()), -1).plus(Amount.of(entry.usage))
            if entry.state == "reserved":
                self._open[entry.id] = Amount.of(entry.usage)

    @property
    def charged(self) -> Usage:
        """Everything that counts against the budget; all tokens are given as prompt tokens."""
        with self._turn:
            return _to_usage(self._charged)

    @property
    def held(self) -> Usage:
        """The part of it that is not settled: in flight, or with a reply that was lost."""
        with self._turn:
            return _to_usage(self._held())

    def reserve(self, most: Usage, name: str | None = None) -> str:
        """Charge the most that an attempt can cost, and return the name to settle it by.

        Where it does not fit, wait for attempts in flight to be settled. With a `name` of one's own that is charged
        already (a batch of an earlier process), nothing is charged again.

        Raises:
            BudgetError: it does not fit, and nothing is in flight that may leave room.
            RunError: the ledger cannot be written; nothing should be sent then.
            CancelledError: the layer is closing.
        """
        amount = Amount.of(most)
        with self._turn:
            while name is None or name not in self._open:
                if self._closed:
                    raise CancelledError
                if self._reached is not None:
                    raise self._reached
                over = self._over(amount)
                if not over:
                    break
                if not self._live:
                    self._reached = self._error(over, amount)
                    self._turn.notify_all()
                    raise self._reached
                self._turn.wait()
            if name is None:
                self._number += 1
                name = f"{self._prefix}-{self._number}"
            if name not in self._open:
                self._write(Entry(id=name, state="reserved", usage=most))
                self._open[name] = amount
                self._charged = self._charged.plus(amount)
            self._live.add(name)
            return name

    def fits(self, most: Usage) -> bool:
        """Whether so much could be reserved now."""
        with self._turn:
            return not self._over(Amount.of(most))

    def settle(self, name: str, usage: Usage) -> None:
        """Replace a reservation by what the attempt did cost; `Usage()` where the server refused it.

        Raises:
            RunError: the ledger cannot be written.
        """
        with self._turn:
            if name not in self._open:
                return
            self._charged = self._charged.plus(self._open.pop(name), -1).plus(Amount.of(usage))
            self._live.discard(name)
            self._turn.notify_all()
            self._write(Entry(id=name, state="settled", usage=usage))

    def leave(self, name: str) -> None:
        """Wait no longer for an attempt: it stays charged at its bound, because its reply was lost or comes later."""
        with self._turn:
            self._live.discard(name)
            self._turn.notify_all()

    def close(self) -> None:
        """Let nobody wait any longer; what is still in flight may be settled."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
            if self._file is not None and not self._live:
                self._file.close()
                self._file = None

    def _held(self) -> Amount:
        held = Amount()
        for amount in self._open.values():
            held = held.plus(amount)
        return held

    def _limits(self) -> dict[str, int]:
        budget = self.budget or Budget.model_construct()
        pico = None if budget.usd is None else round(budget.usd * PICO)
        found = {"calls": budget.calls, "tokens": budget.tokens, "pico": pico}
        return {key: limit for key, limit in found.items() if limit is not None}

    def _over(self, amount: Amount) -> list[str]:
        """Return the units of which the budget has too little left."""
        if self.budget is None:
            return []
        total = self._charged.plus(amount)
        return [key for key, limit in self._limits().items() if getattr(total, key) > limit]

    def _error(self, over: list[str], amount: Amount) -> BudgetError:
        held = self._held()
        settled = self._charged.plus(held, -1)
        parts = []
        for key in over:
            name = "usd" if key == "pico" else key
            spent, kept, next_, limit = (
                _shown(key, getattr(each, key)) for each in (settled, held, amount, Amount(**self._limits_of(key)))
            )
            lost = f", {kept} reserved for replies that were lost or are still to come" if getattr(held, key) else ""
            parts.append(f"budget.{name} is {limit}: {spent} spent{lost}, and the next call may cost up to {next_}")
        keys = " and ".join(f"budget.{'usd' if key == 'pico' else key}" for key in over)
        return BudgetError(
            f"{'; '.join(parts)}; stopped before it is exceeded, with every reply kept: raise {keys} and run the same "
            "command again, it goes on from here"
        )

    def _limits_of(self, key: str) -> dict[str, int]:
        return {key: self._limits()[key]}

    def _write(self, entry: Entry) -> None:
        if self.path is None:
            return
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.touch(mode=0o600)
                self._file = self.path.open("a", encoding="utf-8")
            self._file.write(entry.model_dump_json(exclude_defaults=True) + "\n")
            self._file.flush()
        except OSError as problem:
            raise RunError(
                f"{self.path}: what a call costs cannot be written down ({problem.strerror or problem}), so it is not "
                "made; make room or mend the folder, then run again"
            ) from None


def _shown(key: str, value: int) -> str:
    return f"${value / PICO:,.6g}" if key == "pico" else f"{value:,} {key}"


def _to_usage(amount: Amount) -> Usage:
    return Usage(calls=amount.calls, prompt_tokens=amount.tokens, usd=amount.pico / PICO)


def _read(path: Path) -> Iterator[Entry]:
    """Yield a ledger's entries, and cut off a last line that a kill left torn."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    for number, line in enumerate(content[:end].splitlines(), start=1):
        try:
            yield Entry.model_validate_json(line)
        except ValidationError as problem:
            raise RunError(
                f"{path}:{number}: not a line of the ledger ({problem.errors()[0]['msg']}); restore it, or remove the "
                "line: the run then no longer knows of that spending"
            ) from None
    if end < len(content):
        os.truncate(path, end)
