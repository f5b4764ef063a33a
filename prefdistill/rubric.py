"""What good means, as data: criteria that are asked or checked, gates, weights and the rubric's own tests.

A rubric is written in YAML and says nothing about how it is applied; `plugins.build_checks` builds its checks,
`judges/` apply it, and `stages/rank.py` turns scores into totals with `Rubric.total`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from prefdistill.documents import Document, load_document, raise_invalid
from prefdistill.errors import RubricError, did_you_mean
from prefdistill.records import CriterionScore, Prompt, digest

COMPLETE = "complete"
"""A built-in gate: the draft was not cut at the token limit."""
NO_STRAY_TAGS = "no_stray_tags"
"""A built-in gate: the answer of a student that reasons holds no tag of its reasoning (`Draft.stray_tag`)."""
BUILT_IN_GATES = (COMPLETE, NO_STRAY_TAGS)

_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def fields_in(value: Any) -> set[str]:
    """Return the `{field}` names used in a template, or anywhere inside a list or mapping of templates."""
    if isinstance(value, str):
        return set(_FIELD.findall(value))
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return {name for item in value for name in fields_in(item)}
    return set()


def fill(template: str, prompt: Prompt) -> str | None:
    """Fill `{field}` in `template` from the prompt's fields; None where one is missing or empty."""
    if "{" not in template:
        return template
    names = fields_in(template)
    if any(prompt.fields.get(name) in (None, "") for name in names):
        return None
    return _FIELD.sub(lambda match: str(prompt.fields[match.group(1)]), template)


class Criterion(BaseModel):
    """One line of a rubric: asked (`question` and `levels`) or checked (`check` and its options)."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Lower-case letters, digits and underscores; unique in the rubric."""
    question: str | None = None
    """What the teacher is asked about one draft; `{field}` is filled from the prompt."""
    levels: tuple[str, ...] | None = None
    """Two to six answers, worst to best, scored evenly from 0 to 1."""
    check: str | None = None
    """A check by name, `package.module:Name` or `file.py:Name`; its options are the criterion's other keys."""
    weight: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    """Share in the total, relative to the other criteria."""
    applies_if: str | dict[str, str | int | float | bool | list[str | int | float | bool]] | None = None
    """A field that must be there, or `{field: value}` or `{field: [values]}`; elsewhere the criterion does not apply."""

    @model_validator(mode="before")
    @classmethod
    def _asked_or_checked(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        asked, checked = "question" in data, "check" in data
        if asked == checked:
            raise ValueError("a criterion is either asked (`question` and `levels`) or checked (`check`); write one")
        if asked:
            known = [name for name in cls.model_fields if name != "check"]
            for key in data:
                if key not in known:
                    problem = PydanticCustomError("extra_forbidden", "unknown key", {"keys": known})
                    line = InitErrorDetails(type=problem, loc=(str(key),), input=data[key])
                    raise ValidationError.from_exception_data(cls.__name__, [line])
        elif "levels" in data or "pass_when" in data:
            raise ValueError("a checked criterion has no `levels` and no `pass_when`; remove them")
        return data

    @field_validator("levels")
    @classmethod
    def _two_to_six(cls, levels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if levels is None:
            return None
        if not 2 <= len(levels) <= 6:
            raise ValueError(f"found {len(levels)} levels; expected 2 to 6, worst to best")
        if len({level.strip().lower() for level in levels}) < len(levels) or not all(map(str.strip, levels)):
            raise ValueError("levels must be different, non-empty words")
        return levels

    @model_validator(mode="after")
    def _has_levels(self) -> Self:
        if self.question is not None and self.levels is None:
            raise ValueError("an asked criterion needs `levels`, worst to best")
        if self.question is not None and not self.question.strip():
            raise ValueError("the question has no text")
        return self

    @property
    def asked(self) -> bool:
        """Whether a teacher must be asked."""
        return self.question is not None

    @property
    def options(self) -> dict[str, Any]:
        """The check's own options."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def fields(self) -> set[str]:
        """Names of the prompt fields that this criterion needs."""
        return fields_in(self.question) | fields_in(list(self.options.values()))

    def score_of(self, level: str) -> float:
        """Return the score, 0 to 1, of one of the levels (compared without case)."""
        assert self.levels is not None
        index = [each.strip().lower() for each in self.levels].index(level.strip().lower())
        return index / (len(self.levels) - 1)

    def applies_to(self, prompt: Prompt) -> bool:
        """Whether `applies_if` holds and the fields of the question are there (a check decides for itself)."""
        condition = self.applies_if
        if isinstance(condition, str) and prompt.fields.get(condition) in (None, ""):
            return False
        if isinstance(condition, dict):
            for name, wanted in condition.items():
                values = wanted if isinstance(wanted, list) else [wanted]
                if str(prompt.fields.get(name)) not in {str(value) for value in values}:
                    return False
        return self.question is None or "{" not in self.question or fill(self.question, prompt) is not None


class Gate(Criterion):
    """A criterion that must pass: a draft that fails it ranks below all that pass and is never chosen."""

    pass_when: str | None = None
    """The level that passes; needed where the gate is asked (its levels are then "no" and "yes" unless given)."""
    at_least: float = Field(default=1.0, gt=0.0, le=1.0)
    """The check score that passes, for a checked gate."""

    @model_validator(mode="before")
    @classmethod
    def _default_levels(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "question" in data and "levels" not in data:
            return {**data, "levels": ["no", "yes"]}
        return data

    @model_validator(mode="after")
    def _passes_somewhere(self) -> Self:
        if self.question is not None:
            if self.pass_when is None:
                raise ValueError("an asked gate needs `pass_when`, the level that passes")
            if self.pass_when.strip().lower() not in {level.strip().lower() for level in self.levels or ()}:
                raise ValueError(f"pass_when is `{self.pass_when}`; expected one of {', '.join(self.levels or ())}")
        return self

    def score_of(self, level: str) -> float:
        """Return 1 for the level that passes, else 0."""
        return 1.0 if level.strip().lower() == (self.pass_when or "").strip().lower() else 0.0

    def passes(self, score: float) -> bool:
        """Whether a score passes: `at_least` for a check; more likely than not, or by most of a panel, where asked."""
        return score > 0.5 if self.asked else score >= self.at_least


class RubricTest(BaseModel):
    """A golden pair: the judge should prefer `better`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    prompt: str
    fields: dict[str, Any] = {}
    better: str
    worse: str
    because: str
    """The criterion or gate on which they differ."""


class Rubric(BaseModel):
    """What good means for one kind of prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    purpose: str = ""
    """One sentence that the teacher reads first."""
    gates: tuple[Gate, ...] = ()
    criteria: tuple[Criterion, ...] = Field(min_length=1)
    tests: tuple[RubricTest, ...] = ()

    _directory: Path = PrivateAttr(default_factory=Path.cwd)
    """Where `file.py:Name` checks are looked up; no part of the rubric's identity."""
    _document: Document | None = PrivateAttr(default=None)
    _hash: int | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names: list[str] = []
        problems: list[InitErrorDetails] = []

        def refuse(text: str, *loc: str | int) -> None:
            kind = PydanticCustomError("value_error", "{text}", {"text": text})
            problems.append(InitErrorDetails(type=kind, loc=loc, input=None))

        for section in ("gates", "criteria"):
            for number, each in enumerate(getattr(self, section)):
                if each.name in names or each.name in BUILT_IN_GATES:
                    reason = "is built in" if each.name in BUILT_IN_GATES else "is used twice"
                    advice = "give each gate and criterion a name of its own"
                    refuse(f"the name `{each.name}` {reason}; {advice}", section, number, "name")
                names.append(each.name)
        if sum(each.weight for each in self.criteria) <= 0:
            refuse("the weights of all criteria sum to zero; give at least one a positive weight", "criteria")
        for number, test in enumerate(self.tests):
            if test.because not in names:
                near = did_you_mean(test.because, names)
                refuse(f"found `{test.because}`{near}; expected one of {', '.join(names)}", "tests", number, "because")
        if problems:
            raise ValidationError.from_exception_data(type(self).__name__, problems)
        return self

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash((self.fingerprint(), str(self._directory)))
        return self._hash

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, which is hashed anew."""
        copy = super().model_copy(update=update, deep=deep)
        copy._hash = None
        return copy

    def where(self, name: str, key: str = "") -> str:
        """Return where a criterion or gate is written, as `file:line: criteria.name.key`, for an error message."""
        section = "gates" if name in {gate.name for gate in self.gates} else "criteria"
        index = [each.name for each in getattr(self, section)].index(name)
        shown = ".".join(part for part in (section, name, key) if part)
        if self._document is None:
            return f"rubric {self.name}: {shown}"
        return f"{self._document.where((section, index, key))}: {shown}"

    @property
    def all_criteria(self) -> tuple[Criterion, ...]:
        """Gates, then criteria."""
        return (*self.gates, *self.criteria)

    @property
    def asked(self) -> tuple[Criterion, ...]:
        """Gates and criteria that a teacher must answer."""
        return tuple(each for each in self.all_criteria if each.asked)

    @property
    def checked(self) -> tuple[Criterion, ...]:
        """Gates and criteria that a check answers without a call."""
        return tuple(each for each in self.all_criteria if not each.asked)

    def fingerprint(self) -> str:
        """Return the hash of the whole rubric."""
        return digest(self.model_dump(mode="json"))

    def asked_fingerprint(self) -> str:
        """Return the hash of what a judge's reply depends on: purpose and asked criteria, without weights."""
        asked = [each.model_dump(mode="json", exclude={"weight"}) for each in self.asked]
        return digest({"purpose": self.purpose, "asked": asked})

    def total(self, scores: Iterable[CriterionScore]) -> tuple[float, tuple[str, ...]]:
        """Return the weighted mean over criteria that apply (0..1), and the names of the gates that failed.

        Raises:
            RubricError: a criterion that is in the rubric has no score, or none with a weight applies.
        """
        by_name = {score.criterion: score for score in scores}
        missing = [each.name for each in self.all_criteria if each.name not in by_name]
        if missing:
            raise RubricError(f"rubric {self.name}: no score for {', '.join(missing)}")
        failed = tuple(
            gate.name
            for gate in self.gates
            if (score := by_name[gate.name].score) is not None and not gate.passes(score)
        )
        weighted = [(each.weight, score) for each in self.criteria if (score := by_name[each.name].score) is not None]
        weight = sum(part for part, _ in weighted)
        if weight <= 0:
            raise RubricError(f"rubric {self.name}: no criterion with a weight applies to this prompt")
        return sum(part * score for part, score in weighted) / weight, failed


class RubricSet(BaseModel):
    """The rubric of every prompt: one for all, or one per kind, chosen by a column of the prompts file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str | None = None
    rubrics: dict[str, Rubric]
    """By kind; the single key is "" where one rubric serves all."""

    def kind(self, prompt: Prompt) -> str:
        """Return the prompt's kind, "" where one rubric serves all."""
        return "" if self.column is None else str(prompt.fields.get(self.column, ""))

    def of(self, prompt: Prompt) -> Rubric:
        """Return the rubric of `prompt`.

        Raises:
            RubricError: the prompt's kind has no rubric.
        """
        kind = self.kind(prompt)
        if kind not in self.rubrics:
            known = ", ".join(self.rubrics)
            raise RubricError(
                f"prompt {prompt.id}: {self.column} is `{kind}`{did_you_mean(kind, self.rubrics)}; "
                f"expected one of {known}: add a rubric for it or mend the column"
            )
        return self.rubrics[kind]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds, empty where one rubric serves all."""
        return () if self.column is None else tuple(self.rubrics)

    def fingerprint(self) -> str:
        """Return the hash of all rubrics."""
        return digest({kind: rubric.fingerprint() for kind, rubric in self.rubrics.items()})

    def asked_fingerprint(self) -> str:
        """Return the hash of the asked halves."""
        return digest({kind: rubric.asked_fingerprint() for kind, rubric in self.rubrics.items()})


def load_rubric(path: Path) -> Rubric:
    """Read and validate a rubric file; its checks are built (and so validated) by `plugins.build_checks`.

    Raises:
        RubricError: with file, line, key, what was found and what was expected.
    """
    return parse_rubric(load_document(path, RubricError), path.resolve().parent)


def parse_rubric(document: Document, directory: Path) -> Rubric:
    """Validate a parsed rubric (see `load_rubric`)."""
    for location, word in document.plain_words:
        if "levels" in location or "pass_when" in location:
            raise RubricError(
                f'{document.where(location)}: unquoted {word}; write "{word}": other YAML readers take it for a boolean'
            )
    try:
        rubric = Rubric.model_validate(document.data)
    except ValidationError as problem:
        raise_invalid(problem, document, RubricError, Rubric)
    rubric._directory = directory
    rubric._document = document
    return rubric
