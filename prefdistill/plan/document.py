"""`plan.yaml` as people write it: the typed plan of one distillation, with every unit under its field.

A key may be left out where nothing is decided yet: the plan then shows it as open, and counts it as what stands
between the plan and its sign-off. `load_plan` says file, line, key, what was found and what was expected.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, field_validator, model_validator

from prefdistill.documents import Document, dotted, load_document, raise_invalid
from prefdistill.errors import PrefdistillError, did_you_mean
from prefdistill.plan.editing import flow
from prefdistill.plan.live_sections import (
    Alternative,
    Costs,
    DriftPlan,
    FallbackPlan,
    LicencePlan,
    RedistillPlan,
    Shown,
    Signature,
)
from prefdistill.plan.sections import (
    DataPlan,
    Goal,
    Limits,
    MethodPlan,
    RubricPlan,
    Section,
    Sizes,
    StopPlan,
    StudentPlan,
    Task,
    TeacherPlan,
    Text,
    Traffic,
)

MEASURED = " = "
"""What stands in a source before the value that was filled in."""


class PlanError(PrefdistillError):
    """A plan cannot be used as written."""


class Plan(Section):
    """Everything to decide before one prompt family is distilled."""

    needed: ClassVar[dict[str, str]] = {"sign_off": "who has to sign"}

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What the plan is called."""
    task: Task = Task()
    traffic: Traffic = Traffic()
    teacher: TeacherPlan = TeacherPlan()
    student: StudentPlan = StudentPlan()
    limits: Limits = Limits()
    rubric: RubricPlan = RubricPlan()
    goal: Goal = Goal()
    data: DataPlan = DataPlan()
    method: MethodPlan = MethodPlan()
    sizes: Sizes = Sizes()
    stop: StopPlan = StopPlan()
    costs: Costs = Costs()
    alternatives: tuple[Alternative, ...] = ()
    """Cheaper models that could simply be called."""
    licences: LicencePlan = LicencePlan()
    fallback: FallbackPlan = FallbackPlan()
    drift: DriftPlan = DriftPlan()
    redistill: RedistillPlan = RedistillPlan()
    sign_off: tuple[Signature, ...] = ()
    """Who has to sign, and who has."""
    shown: Shown = Shown()
    sources: dict[str, Text] = {}
    """Where a value was measured, by its dotted key: `{traffic.tokens_in: "runs/email-tone, 2,048 replies"}`."""

    _directory: Path = PrivateAttr(default_factory=Path.cwd)
    _written: dict[str, Any] = PrivateAttr(default_factory=dict)
    """The plan as it was written, defaults left out."""

    @property
    def directory(self) -> Path:
        """The plan file's folder, to which paths in it are relative."""
        return self._directory

    @field_validator("alternatives")
    @classmethod
    def _own_names(cls, alternatives: tuple[Alternative, ...]) -> tuple[Alternative, ...]:
        names = [each.name for each in alternatives]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"two alternatives are called `{double}`; give each a name of its own")
        return alternatives

    @model_validator(mode="after")
    def _sources_exist(self) -> Self:
        known = list(keys_of(type(self)))
        for key in self.sources:
            if key not in known:
                raise ValueError(f"sources: `{key}` is no key of a plan{did_you_mean(key, known)}")
        return self

    def where_known(self, key: str) -> str:
        """Return where a value is from, and whether it was edited since; empty where the plan does not say."""
        where, equals, value = self.sources.get(key, "").rpartition(MEASURED)
        if not equals:
            return value
        section, _, inner = key.partition(".")
        now = self._written.get(section)
        now = now.get(inner) if inner and isinstance(now, dict) else now
        return where if key == "costs.one_off" or flow(now) == value else f"edited; it was {value}, {where}"


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a plan, sections' own keys included."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys_of(field.annotation, f"{prefix}{name}.")


def load_plan(path: Path) -> Plan:
    """Read and validate a plan.

    Raises:
        PlanError: with file, line, key, what was found and what was expected.
    """
    return parse_plan(load_document(path, PlanError), path.resolve().parent)


def parse_plan(document: Document, directory: Path) -> Plan:
    """Validate a parsed plan whose file is in `directory` (see `load_plan`)."""
    if "judge" in document.data and "prompts" in document.data:
        raise PlanError(
            f"{document.path}: this is a recipe; expected a plan: make one of it with "
            f"`prefdistill plan plan.yaml --from {document.path}`"
        )
    if "criteria" in document.data:
        raise PlanError(f"{document.path}: this is a rubric; expected a plan: name the rubric under its `rubric.files`")
    try:
        plan = Plan.model_validate(document.data)
    except ValidationError as problem:
        raise_invalid(problem, document, PlanError, Plan)
    for number, file in enumerate(plan.rubric.files):
        _refuse_missing(document, directory, ("rubric", "files", number), file)
    if plan.licences.terms is not None:
        _refuse_missing(document, directory, ("licences", "terms"), plan.licences.terms)
    plan._directory = directory
    plan._written = document.data
    return plan


def _refuse_missing(document: Document, directory: Path, at: tuple[str | int, ...], file: Path) -> None:
    full = (directory / file.expanduser()).resolve()
    if not full.is_file():
        raise PlanError(
            f"{document.where(at)}: {dotted(at)}: no such file: {full} (paths are relative to the plan); mend it or "
            "take it out: what is left out is shown as open"
        )


def plan_schema() -> dict[str, Any]:
    """Return the plan's JSON Schema, for completion in editors."""
    return Plan.model_json_schema()
