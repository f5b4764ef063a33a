"""What models cost: a dated table that ships with the package, and the user's own, which wins row by row.

Place in the flow: beside it. The request layer prices replies with it, `estimate` prices a run before it starts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import date
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefdistill.documents import load_document, raise_invalid
from prefdistill.errors import PrefdistillError

SHIPPED = Path(__file__).with_name("prices.yaml")
SNAPSHOT = re.compile(r"[-@](?:20\d\d-\d\d-\d\d|20\d{6})$")
"""How a model's name ends where it names a dated snapshot."""


class PriceError(PrefdistillError):
    """A price table cannot be used as written."""


class Price(BaseModel):
    """What one model's tokens cost, in US dollars per million."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    input: float = Field(ge=0.0, allow_inf_nan=False)
    """Prompt tokens."""
    output: float = Field(ge=0.0, allow_inf_nan=False)
    """Completion tokens, hidden reasoning included."""
    as_of: date | None = None
    """When it was last checked."""
    source: str = ""
    """Where it is published."""

    def usd(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return what so many tokens cost, in US dollars."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


def price_of(model: str) -> Price | None:
    """Return a model's price by its exact name, else by its name without a dated-snapshot suffix; None if unknown.

    Raises:
        PriceError: a table is broken, with file and line.
    """
    for name in (model, SNAPSHOT.sub("", model)):
        for path in (own_table(), SHIPPED):
            price = _table(path).get(name)
            if price is not None:
                return price
    return None


def own_table() -> Path:
    """Return where the user's own table is, whether it exists or not."""
    home = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(home) if home else Path.home() / ".config") / "prefdistill" / "prices.yaml"


def all_prices() -> Iterator[tuple[str, Price, Path]]:
    """Yield every model that has a price with the table that it comes from, the user's own rows first.

    Raises:
        PriceError: a table is broken, with file and line.
    """
    mine = _table(own_table())
    yield from ((model, price, own_table()) for model, price in mine.items())
    yield from ((model, price, SHIPPED) for model, price in _table(SHIPPED).items() if model not in mine)


def describe_prices() -> Iterator[str]:
    """Yield the lines that `prefdistill prices` prints."""
    rows = list(all_prices())
    width = max(len(model) for model, _, _ in rows)
    yield f"{'model':{width}}  {'input':>8}  {'output':>8}  checked     source (US dollars per million tokens)"
    for model, price, path in rows:
        source = price.source or "–"
        place = "" if path == SHIPPED else " (your table)"
        yield f"{model:{width}}  {price.input:8.2f}  {price.output:8.2f}  {price.as_of or '–         '}  {source}{place}"
    own = own_table()
    example = 'my-model: {input: 0.5, output: 1.5, as_of: 2026-01-31, source: "https://…"}'
    yield ""
    yield "Prices change: compare them with the source before you rely on them. A dated snapshot of a model has its price."
    yield f"To correct one or to add a model, {'edit' if own.exists() else 'make'} {own}, a row a model:"
    yield f"  {example}"
    yield "A recipe's `usd_per_million: {input: …, output: …}` on a teacher wins over both tables."


def _table(path: Path) -> dict[str, Price]:
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return {}
    return _load(path, changed)


@lru_cache(maxsize=8)
def _load(path: Path, changed: int) -> dict[str, Price]:
    """Read a table; `changed` keeps the cache to one version of the file."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines()):
        return {}
    document = load_document(path, PriceError)
    table = {}
    for model, row in document.data.items():
        if not isinstance(row, dict):
            raise PriceError(
                f"{document.where((model,))}: {model}: found {str(row)[:40]!r}; expected "
                "`{input: …, output: …}` in US dollars per million tokens"
            )
        try:
            table[model] = Price.model_validate(row)
        except ValidationError as problem:
            raise_invalid(problem, document, PriceError, Price, (model,))
    return table
