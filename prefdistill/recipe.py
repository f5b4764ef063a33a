"""The recipe: one YAML file that says which student, teacher, prompts and judge, and what the rounds do.

Its sections, with their keys and defaults, are in `prefdistill.sections`. `load_recipe` validates everything that can
be known without loading a model: keys, plug-ins and their options, rubrics and their checks, files that must exist.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from prefdistill.documents import Document, Location, dotted, load_document, raise_invalid
from prefdistill.errors import RecipeError
from prefdistill.plugins import Plugin, Use, asks_teacher, name_of
from prefdistill.protocols import Judge, Teacher, learns_from
from prefdistill.requests.spending import Budget
from prefdistill.rubric import RubricSet
from prefdistill.sections import (
    EvaluateSection,
    LoopSection,
    PluginSection,
    PromptsSection,
    SampleSection,
    Section,
    StudentSection,
    TrainSection,
    WarmStartSection,
    load_checked,
)
from prefdistill.selection import PairOptions

STAGES = ("load", "sample", "judge", "rank", "pair", "train", "evaluate", "report")


class Recipe(Section):
    """Everything a run needs to know; see the sections."""

    operational: ClassVar[frozenset[str]] = frozenset({"name", "cache", "budget"})

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    """Also the run folder's name, under ./runs."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    rubric: Path | dict[str, str]
    """A rubric file, or `{column: task, email: …, edit: …}`: one per kind of prompt."""
    student: StudentSection
    teacher: Use[Teacher] | None = None
    """The large model: writes model answers, and judges unless the judge names its own."""
    prompts: PromptsSection
    sample: SampleSection = Field(default_factory=lambda: SampleSection.model_validate({}))
    judge: Use[Judge]
    warm_start: WarmStartSection | None = None
    """Training on the teacher's answers, or on another run's pairs, before the rounds; it is the run's first round."""
    pair: PairOptions = PairOptions()
    train: TrainSection = Field(default_factory=lambda: TrainSection.model_validate({}))
    evaluate: EvaluateSection = EvaluateSection()
    loop: LoopSection = LoopSection()
    budget: Budget | None = None
    """The most that all paid calls of the run may cost: any of usd, calls and tokens. It stops before it is exceeded."""
    cache: str = "user"
    """The request cache: `user` (one per user, shared between runs), `off`, or a folder relative to the recipe."""

    _rubrics: RubricSet = PrivateAttr()
    _directory: Path = PrivateAttr()

    @property
    def rubrics(self) -> RubricSet:
        """The rubric of each kind of prompt."""
        return self._rubrics

    @property
    def directory(self) -> Path:
        """The recipe file's folder."""
        return self._directory

    @property
    def held_out_judge(self) -> Any:
        """The evaluation judge where it is another than the training judge, else None."""
        judge: Any = self.evaluate.judge
        training: Any = self.judge
        return None if judge is None or judge.identity() == training.identity() else judge

    @property
    def caveats(self) -> tuple[str, ...]:
        """What a reader of the run's figures must know of its settings."""
        said, best_of = [], self.evaluate.best_of
        if self.pair.labels == "random":
            said.append(
                "pair.labels is random: which of a pair's two drafts was chosen was drawn by lot, against the judge as "
                "often as not; this run is a control, and a gain in it is no merit of the judge"
            )
        if best_of > 1 and self.loop.rounds:
            said.append(
                f"evaluate.best_of is {best_of}: every round is measured by the best of {best_of} drafts a prompt, the "
                "base by one; part of each gain over the base is the choice, not the training"
            )
        on_pairs = self.loop.rounds > 0 and learns_from(self.train.trainer) == "pairs"
        if self.student._learns_trace and self.warm_start is not None and on_pairs and self.reference == "base":
            said.append(
                "train.reference is base, and the base never learned to reason: what it expects of reasoning, or after an "
                "empty trace, says little, and pairs are measured against it; `train.reference: warm_start` is the default"
            )
        return tuple(said)

    @property
    def pairing(self) -> PairOptions:
        """How pairs are made, the judge's own `on_disagree` included."""
        tie = getattr(self.judge, "on_disagree", "drop") == "tie"
        return self.pair.model_copy(update={"on_disagree": "tie"}) if tie else self.pair

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """Every plug-in that the recipe names, in the order in which they are opened."""
        found: tuple[Any, ...] = (
            self.teacher,
            self.sample.sampler,
            self.judge,
            self.held_out_judge,
            self.evaluate.gold,
            *(task.judge for task in self.evaluate.also),
            self.train.trainer,
            None if self.warm_start is None else self.warm_start.trainer,
        )
        return tuple(each for each in found if isinstance(each, Plugin))

    @property
    def first_round(self) -> int:
        """The number of the first round of `loop`: a warm start is round 1, and the rounds follow it."""
        return 1 if self.warm_start is None else 2

    @property
    def last_round(self) -> int:
        """The number of the last round, the warm start included."""
        return self.first_round - 1 + self.loop.rounds

    def begins_with(self, number: int) -> int:
        """Return the number of the policy that the rounds up to `number` began with: 0 for the base, or a warm start's."""
        return min(number, self.first_round) - 1

    def section_of(self, number: int) -> TrainSection | WarmStartSection:
        """Return the section that says how round `number` is trained."""
        return self.train if self.warm_start is None or number >= self.first_round else self.warm_start

    def steps_of(self, number: int) -> int | None:
        """Return the optimiser steps of round `number`; None where the trainer's epochs decide."""
        if self.warm_start is not None and number < self.first_round:
            return self.warm_start.steps
        return self.train.steps_of(number - self.first_round + 1)

    def answers_of(self, number: int) -> int:
        """Return how many answers a prompt the teacher writes in round `number`, where it learns from answers."""
        return 1 if self.warm_start is None or number >= self.first_round else self.warm_start.answers

    def pairs_from(self, number: int) -> Path | None:
        """Return the run whose pairs round `number` trains on; None where it makes its own."""
        if self.warm_start is not None and number < self.first_round:
            return self.warm_start.pairs_from
        return self.loop.pairs_from

    @property
    def reference(self) -> Literal["base", "warm_start", "previous"]:
        """The policy that DPO measures against."""
        given = self.warm_start is None or "reference" in self.train.model_fields_set
        return self.train.reference if given else "warm_start"

    def asked_identity(self, judge: Any) -> dict[str, Any] | None:
        """Return what the replies of the recipe's teacher depend on where a judge asks it, else None.

        Its system prompt is for writing, and has no part in judging.
        """
        teacher: Any = self.teacher
        if teacher is None or not asks_teacher(judge) or judge.teacher is not None or bool(getattr(judge, "panel", ())):
            return None
        return {key: each for key, each in teacher.identity().items() if key != "system"}

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if "teacher" in self.evaluate.baselines and self.teacher is None:
            raise ValueError("evaluate.baselines names the teacher, but the recipe has no `teacher`; add one")
        judges: list[tuple[str, Any]] = [("judge", self.judge), ("evaluate.judge", self.evaluate.judge)]
        judges += [(f"evaluate.also.{number}.judge", task.judge) for number, task in enumerate(self.evaluate.also)]
        for place, judge in judges:
            if asks_teacher(judge) and not (self.teacher or judge.teacher or getattr(judge, "panel", ())):
                raise ValueError(
                    f"{place} `{judge._use}` asks a teacher, and there is none; add `teacher` to the recipe"
                )
        if learns_from(self.train.trainer) == "answers" and self.teacher is None:
            raise ValueError(
                f"train.use `{name_of(self.train.trainer)}` learns from the teacher's answers, and there is none; add "
                "`teacher` to the recipe"
            )
        if learns_from(self.train.trainer) == "answers" and self.loop.pairs_from is not None:
            raise ValueError(
                f"loop.pairs_from names pairs, and train.use `{name_of(self.train.trainer)}` learns from the teacher's "
                "answers; take one of the two out"
            )
        self._warm_start_agrees()
        self._traces_agree()
        self._hand_teacher_over()
        if self.sample.teacher_drafts and self.teacher is None:
            raise ValueError("sample.teacher_drafts needs a `teacher`; add one or set it to 0")
        for key in ("tie_margin", "gate_failures"):
            own, pairs = getattr(self.judge, key, None), getattr(self.pair, key)
            if own is not None and own != pairs:
                raise ValueError(
                    f"judge.{key} is {own} and pair.{key} is {pairs}: the judge would confirm other drafts than are "
                    "paired; give both the same value"
                )
        confirm = getattr(self.judge, "confirm", None)
        if confirm in ("best_worst", "swiss") and self.pair.strategy != "best_worst":
            raise ValueError(
                f"judge.confirm is {confirm} and pair.strategy is {self.pair.strategy}: pairs would be trained that were "
                "not compared in both orders; set `judge.confirm: round_robin` (every pair is compared) or `none`"
            )
        if self.evaluate.best_of > 1 and not getattr(self.judge, "scores_alone", True):
            raise ValueError(
                f"evaluate.best_of is {self.evaluate.best_of} and the judge cannot score a draft alone, so it cannot say "
                "which is best; set `evaluate.best_of: 1` or name a judge that scores, such as `rubric`"
            )
        if self.evaluate.best_of > 1 and self.evaluate.temperature == 0:
            raise ValueError(
                f"evaluate.best_of is {self.evaluate.best_of} and evaluate.temperature is 0: all drafts of a prompt would "
                "be the same; raise the temperature, or set `evaluate.best_of: 1`"
            )
        sync = getattr(self.sample.sampler, "adapter_sync", None)
        if sync == "none" and self.loop.mode == "online" and self.loop.rounds > 1 and not self.sample.drafts_from:
            raise ValueError(
                "sample.adapter_sync is none and loop.rounds is "
                f"{self.loop.rounds}: from round 2 the server would go on serving the old student; "
                "set `sample.adapter_sync: vllm`, `loop.mode: offline` or `loop.rounds: 1`"
            )
        if self.sample.drafts_from and self.loop.mode == "online" and self.loop.rounds > 1:
            raise ValueError(
                "sample.drafts_from are fixed drafts, so there is nothing to sample online; "
                "set `loop.mode: offline` or `loop.rounds: 1`"
            )
        return self

    def _warm_start_agrees(self) -> None:
        """Refuse a warm start that lacks what it learns from, or that the rounds would throw away."""
        warm = self.warm_start
        for key, value in (("train.reference", self.train.reference), ("loop.start_from", self.loop.start_from)):
            if warm is None and value == "warm_start":
                raise ValueError(f"{key} is warm_start, and there is none; add `warm_start`, or set `{key}: base`")
        if warm is None:
            return
        name, answers = name_of(warm.trainer), learns_from(warm.trainer) == "answers"
        if self.loop.start_from == "base":
            raise ValueError(
                "loop.start_from is base: every round would begin without the warm start; set `loop.start_from: "
                "warm_start` or `previous`, or take `warm_start` out"
            )
        if self.loop.pairs_from is not None:
            raise ValueError(
                "loop.pairs_from takes every round's pairs from a run, and cannot follow a warm start; take one out"
            )
        if answers and self.teacher is None:
            raise ValueError(f"warm_start `{name}` learns from the teacher's answers, and there is none; add `teacher`")
        if answers and warm.pairs_from is not None:
            raise ValueError(
                f"warm_start.pairs_from names pairs, and `{name}` learns from answers; take one of the two out"
            )
        if not answers and warm.pairs_from is None:
            raise ValueError(
                f"warm_start `{name}` learns from pairs, and there are none before round 1; name a run's with "
                "`warm_start.pairs_from`, or take `use: outputs`"
            )

    @property
    def trace_trainers(self) -> tuple[Any, ...]:
        """The trainers that teach the student to reason."""
        sections: tuple[Any, ...] = (self.warm_start, self.train)
        found = (section.trainer for section in sections if section is not None)
        return tuple(each for each in found if getattr(each, "teaches_traces", False))

    def _traces_agree(self) -> None:
        """Switch the student's reasoning on where a trainer teaches it, and refuse what cannot be done about it."""
        student, teaching = self.student, self.trace_trainers
        if teaching:
            student._learns_trace = True
            if student.trace is None:
                object.__setattr__(student, "trace", "on")
            if student.trace == "off" and not any(each.off_share for each in teaching):
                raise ValueError(
                    "student.trace is off, and off_share is 0: the student never learns to answer after an empty trace; "
                    "raise off_share, or set `student.trace: on`"
                )
        given = {"sample.teacher_drafts": self.sample.teacher_drafts, "sample.drafts_from": self.sample.drafts_from}
        if student.trace == "on" and (key := next((name for name, value in given.items() if value), None)):
            raise ValueError(
                f"{key}: such drafts have no reasoning, and the student reasons (student.trace is on): pairs with them "
                "would teach it to leave its reasoning out; take them out, or set `student.trace: off`"
            )
        if student.trace == "off" and not getattr(self.sample.sampler, "begins_turns", True):
            raise ValueError(
                f"student.trace is off, and sample.use `{name_of(self.sample.sampler)}` cannot begin the student's turn "
                "with an empty trace: the server's own template opens it; set `student.trace: on`, or `sample: {use: "
                "transformers}`"
            )

    def _hand_teacher_over(self) -> None:
        """Give the recipe's teacher to each trainer that asks for it, before anything depends on the trainer's identity."""
        for key, section in (("train", self.train), ("warm_start", self.warm_start)):
            take = getattr(section.trainer, "take_teacher", None) if section else None
            fault = take(self.teacher) if take else None
            if fault:
                kind = PydanticCustomError("value_error", "{text}", {"text": fault})
                line = InitErrorDetails(type=kind, loc=(key, "teacher"), input=None)
                raise ValidationError.from_exception_data("teacher", [line])

    def resolved(self) -> dict[str, Any]:
        """Return the recipe as plain data that can be run again from any folder; it holds no secrets."""
        data = self.model_dump(mode="json", exclude_none=True)
        data["student"]["model"] = self.student.source
        data["train"]["reference"] = self.reference
        for name, levels in (("warn", self.loop.warn), ("stop", self.loop.stop)):
            if levels != "never":  # a check that is switched off is null, and must stay so
                data["loop"][name] = levels.model_dump(mode="json")
        if self.cache not in ("user", "off"):
            data["cache"] = str((self.directory / self.cache).resolve())
        if self.evaluate.metrics:
            data["evaluate"]["metrics"] = [
                str(path.resolve()) if (path := self.directory / name).is_file() else name
                for name in self.evaluate.metrics
            ]
        return data


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe, its rubrics and their checks.

    Args:
        path: the YAML file.
        overrides: `dotted.key=value` items; values are YAML and are merged before validation.

    Raises:
        RecipeError: with file, line, key, what was found and what was expected.
        RubricError: likewise, for a rubric.
    """
    document = load_document(path, RecipeError)
    for override in overrides:
        _apply_override(document, override)
    directory = path.resolve().parent
    if "criteria" in document.data and "judge" not in document.data:
        raise RecipeError(f"{path}: this is a rubric; expected a recipe: name the rubric in a recipe's `rubric` key")
    if {"traffic", "costs", "sign_off"} & document.data.keys() and "judge" not in document.data:
        raise RecipeError(f"{path}: this is a plan; expected a recipe: `prefdistill plan {path}` reads plans")
    try:
        recipe = Recipe.model_validate(document.data, context={"directory": directory})
    except ValidationError as problem:
        raise_invalid(problem, document, RecipeError, Recipe)
    recipe._directory = directory
    recipe._rubrics = _load_rubrics(recipe, document, directory)
    return recipe


def _load_rubrics(recipe: Recipe, document: Document, directory: Path) -> RubricSet:
    spec = recipe.rubric
    if isinstance(spec, Path):
        return RubricSet(rubrics={"": load_checked(directory / spec)})
    where = document.where(("rubric",))
    if "column" not in spec or len(spec) < 2:
        raise RecipeError(f"{where}: rubric: expected `{{column: NAME, KIND: FILE, …}}` with at least one kind")
    kinds = {kind: load_checked(directory / file) for kind, file in spec.items() if kind != "column"}
    return RubricSet(column=spec["column"], rubrics=kinds)


PATH_KEYS = {
    ("rubric",),
    ("prompts", "path"),
    ("student", "system"),
    ("sample", "drafts_from"),
    ("student", "model"),
    ("loop", "pairs_from"),
    ("warm_start", "pairs_from"),
    ("train", "teacher"),
    ("warm_start", "teacher"),
}


def _apply_override(document: Document, override: str) -> None:
    """Merge one `dotted.key=value` into the document; a relative path is then relative to the working directory."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"command line: `{override}`: expected key=value, such as loop.rounds=3")
    try:
        value = YAML(typ="safe").load(text) if text.strip() else None
    except YAMLError as problem:
        raise RecipeError(f"command line: {key}: `{text}` is not valid YAML ({problem}); quote it") from None
    location: Location = tuple(key.strip().split("."))
    if location in PATH_KEYS and isinstance(value, str) and value and Path(value).expanduser().exists():
        value = str(Path(value).expanduser().resolve())
    file, colon, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if location[-1] in ("use", "judge", "teacher") and colon and file.endswith(".py") and Path(file).exists():
        value = f"{Path(file).resolve()}:{name}"
    node: Any = document.data
    for depth, part in enumerate(location[:-1]):
        child = node.setdefault(part, {}) if isinstance(node, dict) else None
        if isinstance(child, str) and depth == len(location) - 2:
            child = node[part] = {"use": child}
        if not isinstance(child, dict):
            raise RecipeError(f"command line: {key}: {dotted(location[: depth + 1])} is no section with keys")
        node = child
    if location[-1] == "use" and isinstance(node.get("use"), str) and node["use"] != value:
        node.clear()
    node[location[-1]] = value
    document.overrides.add(location)


def operational_keys(recipe: Recipe) -> set[str]:
    """Return the dotted keys that do not change results."""
    return set(_operational(recipe, ""))


def _operational(node: Any, prefix: str) -> typing.Iterator[str]:
    if isinstance(node, (Section, Plugin)):
        yield from (f"{prefix}{name}" for name in node.operational)
        for name in type(node).model_fields:
            inner = prefix if isinstance(node, PluginSection) and name == node.slot else f"{prefix}{name}."
            yield from _operational(getattr(node, name), inner)


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return `key: old → new` for every dotted key whose value differs between two resolved recipes."""
    lines: list[str] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differing_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before!r} → {after!r}")
    return lines


def recipe_schema() -> dict[str, Any]:
    """Return the recipe's JSON Schema, for completion in editors."""
    schema = Recipe.model_json_schema()
    for section in (SampleSection, TrainSection, WarmStartSection):
        part = schema["$defs"][section.__name__]
        slot = part["properties"].pop(section.slot)
        part["required"] = [name for name in part.get("required", []) if name != section.slot]
        options = slot["anyOf"][-1]["properties"]
        part["properties"] = {**part["properties"], **options}
        part["additionalProperties"] = True
    return schema
