"""The table of terms: what providers' terms and models' licences say about training another model, row by row.

Place in the flow: read by the licence review. A dated table ships with the package, with nobody's review; a table of
the user's own, in the same format, replaces it row by row. Nothing here is a legal conclusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prefdistill.documents import Document, load_document, raise_invalid
from prefdistill.errors import did_you_mean
from prefdistill.plan.document import PlanError

SHIPPED = Path(__file__).with_name("terms.yaml")
Answer = Literal["yes", "no", "conditions", "unknown"]
"""Whether something is allowed; conditions: within limits that the clause names."""
Use = Literal["use", "outputs", "labels"]
"""use: a tuned copy in a product. outputs, labels: what a teacher writes, or how it judges, trains the student."""
State = Literal["unreviewed", "reviewed", "stale"]
Asked = Literal["notice", "naming", "acceptable_use", "pass_on", "non_commercial", "size_limit"]
ASKS: Mapping[Asked, str] = {
    "notice": "keep the licence and copyright texts with copies",
    "naming": "a name, or a line such as “Built with …”, on what is given away",
    "acceptable_use": "keep to its acceptable-use policy",
    "pass_on": "the same terms for whoever gets the tuned model",
    "non_commercial": "no commercial use",
    "size_limit": "another licence for very large companies",
}
"""What a licence asks for in return, in words."""
INHERITED = ("title", "models", "base_urls")
"""Keys that only say whom a row is about: an own row takes the shipped ones over where it leaves them out."""


class Row(BaseModel):
    """What is known of one provider's terms, or of one licence."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    title: str = Field(min_length=1)
    """What the service or the licence is called."""
    clause: str = Field(min_length=1)
    """What it says about training another model, in short words of one's own."""
    where: str = Field(min_length=1)
    """Where that is found."""
    outputs: Answer
    """May the model's texts (answers, traces, token distributions, drafts) train another model?"""
    labels: Answer
    """May its judgements of the student's own drafts train another model?"""
    looked_at: date | None = None
    """When the row was written down; not a review."""
    reviewer: str | None = Field(default=None, min_length=1)
    """Who read the terms and vouches for the row."""
    reviewed: date | None = None
    """When."""

    @model_validator(mode="after")
    def _whole_review(self) -> Self:
        if (self.reviewer is None) != (self.reviewed is None):
            missing = "reviewed" if self.reviewed is None else "reviewer"
            raise ValueError(f"`{missing}` is missing: a review has a person and a date; give both or neither")
        return self

    def answer(self, use: Use) -> Answer:
        """Return whether a use is allowed."""
        return self.labels if use == "labels" else self.outputs

    @property
    def duties(self) -> str:
        """What is asked for in return, in words."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it asks for")

    def state(self, today: date, stale_after_days: int) -> State:
        """Return whether somebody reviewed it, and lately; a review from the future is none."""
        return state_of(self.reviewed, today, stale_after_days)


class TeacherTerms(Row):
    """A provider's terms."""

    models: tuple[str, ...] = ()
    """Names of models whose terms these are; `*` stands for anything."""
    base_urls: tuple[str, ...] = ()
    """Hosts of its servers; likewise."""
    attribution: str = ""
    """Whom to name, and where."""

    @property
    def duties(self) -> str:
        """What is asked for in return, in words."""
        return self.attribution


class LicenceTerms(Row):
    """A model's licence."""

    permissive: bool = False
    """Whether it asks for little more than a notice."""
    asks: tuple[Asked, ...] = ()
    """What it asks for in return."""
    use: Answer
    """May a tuned copy be used in a product?"""

    def answer(self, use: Use) -> Answer:
        """Return whether a use is allowed."""
        return self.use if use == "use" else super().answer(use)

    @property
    def duties(self) -> str:
        """What is asked for in return, in words."""
        return "; ".join(ASKS[each] for each in self.asks)


class TermsTable(BaseModel):
    """The file: teachers by provider, licences by id."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    teachers: dict[str, TeacherTerms] = {}
    licences: dict[str, LicenceTerms] = {}


@dataclass(frozen=True)
class Terms:
    """The shipped table under the user's own."""

    table: TermsTable
    own: frozenset[str] = frozenset()
    """Keys of rows that come from the user's table."""

    def of_provider(self, key: str) -> TeacherTerms:
        """Return a provider's row.

        Raises:
            PlanError: there is none.
        """
        row = self.table.teachers.get(key)
        if row is None:
            known = self.table.teachers
            raise PlanError(
                f"licences.provider: `{key}` is no row of the table of terms{did_you_mean(key, known)} (rows: "
                f"{', '.join(known)}); write one into a table of your own and name that in licences.terms"
            )
        return row

    def about(self, model: str, base_url: str | None = None) -> dict[str, TeacherTerms]:
        """Return the rows that apply to a model: the server's and, where that is another, the model maker's."""
        host = (urlsplit(base_url).hostname or "").lower() if base_url else ""
        names = {model.lower(), model.lower().rpartition("/")[2]}
        return {
            key: row
            for key, row in self.table.teachers.items()
            if any(fnmatchcase(host, each.lower()) for each in row.base_urls)
            or any(fnmatchcase(name, each.lower()) for name in names for each in row.models)
        }

    def of_licence(self, licence: str) -> tuple[str, LicenceTerms] | None:
        """Return the row of a licence by its id, else by the longest pattern that matches it."""
        name = licence.strip().lower()
        if name in self.table.licences:
            return name, self.table.licences[name]
        fits = [key for key in self.table.licences if "*" in key and fnmatchcase(name, key.lower())]
        best = max(fits, key=len, default=None)
        return None if best is None else (best, self.table.licences[best])


def state_of(reviewed: date | None, today: date, stale_after_days: int) -> State:
    """Return what a review of that date is worth today; one from the future is none."""
    if reviewed is None or reviewed > today:
        return "unreviewed"
    return "stale" if today - reviewed > timedelta(days=stale_after_days) else "reviewed"


def load_terms(own: Path | None = None) -> Terms:
    """Read the shipped table and the user's own, whose rows replace shipped ones of the same key.

    Raises:
        PlanError: a table is broken, with file, line and key.
    """
    shipped = _shipped()
    if own is None:
        return Terms(shipped)
    document = load_document(own, PlanError)
    for part in ("teachers", "licences"):
        rows: Mapping[str, Row] = getattr(shipped, part)
        for key, row in _rows(document, part).items():
            if key in rows and isinstance(row, dict):
                given = rows[key].model_dump(include=set(INHERITED))
                document.data[part][key] = {**given, **row}
    table = _validated(document)
    return Terms(
        TermsTable(
            teachers={**shipped.teachers, **table.teachers},
            licences={**shipped.licences, **{key.lower(): row for key, row in table.licences.items()}},
        ),
        frozenset((*table.teachers, *(key.lower() for key in table.licences))),
    )


@lru_cache(maxsize=1)
def _shipped() -> TermsTable:
    return _validated(load_document(SHIPPED, PlanError))


def _rows(document: Document, part: str) -> dict[str, Any]:
    found = document.data.get(part)
    return found if isinstance(found, dict) else {}


def _validated(document: Document) -> TermsTable:
    try:
        return TermsTable.model_validate(document.data)
    except ValidationError as problem:
        raise_invalid(problem, document, PlanError, TermsTable)
