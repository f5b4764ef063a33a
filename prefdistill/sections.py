"""The recipe's sections, with every key and its default.

Each validates what can be known from itself; what sections must agree on is the recipe's to say.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from prefdistill.diagnostics.findings import Levels
from prefdistill.diagnostics.thresholds import StopLevels, WarnLevels
from prefdistill.plugins import Use, build_checks, resolve
from prefdistill.protocols import Judge, Sampler, Trainer
from prefdistill.records import Policy
from prefdistill.rubric import Rubric, RubricSet, load_rubric
from prefdistill.traces import TAGS, Tags, empty_block


class Section(BaseModel):
    """A part of the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True)

    operational: ClassVar[frozenset[str]] = frozenset()
    """Keys that do not change results; a run goes on with other values."""


def _directory(info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("directory", Path.cwd()))


def _existing(path: Path, info: ValidationInfo, what: str) -> Path:
    full = _below_recipe(path, info)
    if not full.exists():
        raise ValueError(f"no such file: {full}; expected {what} (paths are relative to the recipe)")
    return full


def _below_recipe(path: Path, info: ValidationInfo) -> Path:
    return (_directory(info) / path.expanduser()).resolve()


RunFolder = Annotated[Path, AfterValidator(_below_recipe)]
"""A run's folder, relative to the recipe; it need not be there yet."""


class StudentSection(Section):
    """The small open model that learns."""

    operational: ClassVar[frozenset[str]] = frozenset({"device"})

    model: str
    """Hub id, a folder relative to the recipe, or `package:folder` for one inside an installed package."""
    revision: str | None = None
    """Commit or tag on the hub."""
    quantization: Literal["nf4", "none"] = "nf4"
    """4-bit NormalFloat weights (QLoRA), or none."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of computation; auto is float32 on CPU and bfloat16 on CUDA."""
    attn_implementation: str | None = None
    """As in transformers: sdpa, eager, flash_attention_2, …; None lets transformers choose."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    chat_template_kwargs: dict[str, Any] = {}
    """Handed to the chat template wherever it is used, such as `{enable_thinking: false}`."""
    system: Path | None = None
    """A text file with the student's system prompt; a row that has its own keeps it."""
    trace: Literal["on", "off"] | None = None
    """Whether the student reasons before it answers, in sampling and in training. `off` begins its turn with an empty
    trace. `on` by default where a trainer of the recipe teaches it (`use: traces`)."""
    trace_tags: Tags | None = None
    """What opens and closes its reasoning, `["<think>", "</think>"]` by default."""

    _source: str = PrivateAttr(default="")
    _learns_trace: bool = PrivateAttr(default=False)
    """Whether a trainer of the recipe teaches it to reason, so that the base cannot."""

    @field_validator("trace_tags")
    @classmethod
    def _two_tags(cls, tags: Tags | None) -> Tags | None:
        if tags is not None and (any(tag != tag.strip() or not tag for tag in tags) or tags[0] == tags[1]):
            raise ValueError('expected two different tags without space around them, such as ["<think>", "</think>"]')
        return tags

    @field_validator("model")
    @classmethod
    def _package_folder(cls, model: str) -> str:
        if not model.strip():
            raise ValueError("the model has no name; expected a hub id or a folder")
        return model

    @field_validator("system")
    @classmethod
    def _system_file(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return None if path is None else _existing(path, info, "a text file with the system prompt")

    @model_validator(mode="after")
    def _locate(self, info: ValidationInfo) -> Self:
        self._source = self.model
        package, colon, folder = self.model.partition(":")
        local = _directory(info) / self.model
        if colon and package.replace(".", "").replace("_", "").isalnum():
            spec = importlib.util.find_spec(package.split(".")[0]) and importlib.util.find_spec(package)
            if spec is None or not spec.submodule_search_locations:
                raise ValueError(f"student.model `{self.model}`: no installed package {package}")
            local = Path(next(iter(spec.submodule_search_locations))) / folder
            if not local.is_dir():
                raise ValueError(f"student.model `{self.model}`: the package has no folder {folder}")
        if local.is_dir():
            self._source = str(local.resolve())
        elif self.model.startswith((".", "/", "~")) or self.model.count("/") > 1:
            raise ValueError(f"student.model: no folder {local}; expected a model folder or a hub id such as org/name")
        return self

    @property
    def source(self) -> str:
        """Where the weights are: an absolute folder, else the hub id."""
        return self._source or self.model

    def system_text(self) -> str | None:
        """Return the system prompt, None where there is none."""
        return None if self.system is None else self.system.read_text(encoding="utf-8").strip()

    @property
    def tags(self) -> Tags:
        """What opens and closes reasoning."""
        return self.trace_tags or TAGS

    @property
    def block(self) -> str:
        """What the student's turn is begun with: an empty trace where it should not reason, else nothing."""
        return empty_block(self.tags) if self.trace == "off" else ""

    def of(self, policy: Policy | None) -> StudentSection:
        """Return the section as it holds for a policy: a base that knows no traces yet is begun with none."""
        untaught = self._learns_trace and policy is not None and policy.adapter is None
        return self.with_trace("on") if untaught and self.trace == "off" else self

    def with_trace(self, trace: Literal["on", "off"]) -> StudentSection:
        """Return the section with the student's reasoning switched on or off."""
        return self.model_copy(update={"trace": trace})


class PromptsSection(Section):
    """Where prompts come from, and how they are split."""

    path: Path | None = None
    """A .jsonl, .json or .csv file, or a folder written by `datasets.save_to_disk`; relative to the recipe."""
    dataset: str | None = None
    """A `datasets` id on the hub, instead of a path."""
    name: str | None = None
    """The data set's configuration."""
    revision: str | None = None
    dataset_split: str = "train"
    """Which split of the data set is read; it is split again into train, validation and test."""
    columns: dict[str, str] = {}
    """`{prompt: note}` reads the column `note` as `prompt`; likewise messages and id."""
    split_by: str | None = None
    """A column (a thread, a document) whose rows stay in one split; without it rows are split by hash of their id."""
    split_column: str | None = None
    """A column that holds train, validation or test, where the file is split already."""
    validation_fraction: float = Field(default=0.1, gt=0.0, lt=1.0)
    test_fraction: float = Field(default=0.1, gt=0.0, lt=1.0)
    validation_limit: int | None = Field(default=None, ge=1)
    """At most so many validation prompts are evaluated each round."""
    test_limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_source(self, info: ValidationInfo) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("prompts: give either `path` (a file) or `dataset` (a hub id)")
        if self.validation_fraction + self.test_fraction >= 1.0:
            raise ValueError("prompts: validation_fraction and test_fraction leave nothing to train on")
        if self.split_by and self.split_column:
            raise ValueError("prompts: give `split_by` or `split_column`, not both")
        unknown = set(self.columns) - {"prompt", "messages", "id"}
        if unknown:
            raise ValueError(f"prompts.columns: unknown {', '.join(sorted(unknown))}; expected prompt, messages or id")
        return self

    @field_validator("path")
    @classmethod
    def _file(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return (
            None if path is None else _existing(path, info, "a prompts file (.jsonl, .json, .csv) or a saved data set")
        )


class PluginSection(Section):
    """A section with keys of its own beside `use` and the plug-in's options."""

    slot: ClassVar[str]
    """The field that holds the plug-in."""
    folder: ClassVar[str]
    default_use: ClassVar[str]
    """The plug-in used where the section names none."""

    @model_validator(mode="before")
    @classmethod
    def _split_options(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, Mapping) or cls.slot in data:
            return data
        own = {key: value for key, value in data.items() if key in cls.model_fields and key != cls.slot}
        options = {key: value for key, value in data.items() if key not in own}
        options.setdefault("use", cls.default_use)
        if isinstance(options["use"], str):
            cls._refuse_unknown(options, info)
        return {**own, cls.slot: options}

    @classmethod
    def _refuse_unknown(cls, options: Mapping[str, Any], info: ValidationInfo) -> None:
        try:
            target, _ = resolve(options["use"], cls.folder, _directory(info))
        except Exception:  # `Use` resolves it again and words the error with its place
            return
        fields = set(getattr(target, "model_fields", {}))
        known = sorted(fields | set(cls.model_fields) - {cls.slot} | {"use"})
        lines = [
            InitErrorDetails(
                type=PydanticCustomError("extra_forbidden", "unknown key", {"keys": known}), loc=(key,), input=value
            )
            for key, value in options.items()
            if key not in fields and key != "use"
        ]
        if lines:
            raise ValidationError.from_exception_data(cls.__name__, lines)

    @model_serializer(mode="wrap")
    def _flat(self, handler: Any) -> dict[str, Any]:
        data = handler(self)
        plugin = data.pop(self.slot)
        return {"use": plugin["use"], **data, **{key: value for key, value in plugin.items() if key != "use"}}


class SampleSection(PluginSection):
    """How drafts are written."""

    slot: ClassVar[str] = "sampler"
    folder: ClassVar[str] = "samplers"
    default_use: ClassVar[str] = "transformers"

    sampler: Use[Sampler]
    drafts: int = Field(default=4, ge=2)
    """Drafts a prompt and round."""
    temperature: float = Field(default=1.0, gt=0.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_new_tokens: int = Field(default=256, ge=1)
    """A draft that reaches it counts as cut, and fails the built-in gate `complete`. Of a student that reasons it is the
    limit of reasoning and answer together."""
    drafts_from: Path | None = None
    """A JSONL file of existing drafts, rows `{prompt_id | prompt, completion, model}`, judged instead of sampling."""
    teacher_drafts: int = Field(default=0, ge=0)
    """Drafts a prompt that the teacher adds to round 1's pool."""

    @field_validator("drafts_from")
    @classmethod
    def _file(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return None if path is None else _existing(path, info, "a JSONL file of drafts")


class MixPast(Section):
    """Pairs, or answers, of earlier rounds that are trained on again."""

    rounds: Literal["all"] | int = "all"
    """How many rounds back; all by default."""
    share: float = Field(default=0.25, ge=0.0, lt=1.0)
    """Share of past ones in what is trained on, from round 2."""


class TrainSection(PluginSection):
    """How a round's pairs, or the teacher's answers, train the student."""

    slot: ClassVar[str] = "trainer"
    folder: ClassVar[str] = "trainers"
    default_use: ClassVar[str] = "dpo"

    trainer: Use[Trainer]
    reference: Literal["base", "warm_start", "previous"] = "base"
    """The policy that DPO measures against; where the recipe has a warm start, `warm_start` by default. A training on
    answers measures against none."""
    mix_past: MixPast = MixPast()
    steps: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Optimiser steps a round instead of epochs: pairs are repeated, or left over, as that needs. One number for all
    rounds, or a list by round whose last one holds for later rounds too."""

    @field_validator("steps")
    @classmethod
    def _some_steps(cls, steps: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
        if steps == ():
            raise ValueError("an empty list; expected a number, a number a round, or nothing for epochs")
        return steps

    def steps_of(self, number: int) -> int | None:
        """Return the optimiser steps of round `number`; None where the trainer's epochs decide."""
        if isinstance(self.steps, tuple):
            return self.steps[min(number, len(self.steps)) - 1]
        return self.steps


class WarmStartSection(PluginSection):
    """A first round that brings the student near the teacher before its own drafts are compared."""

    slot: ClassVar[str] = "trainer"
    folder: ClassVar[str] = "trainers"
    default_use: ClassVar[str] = "outputs"

    trainer: Use[Trainer]
    prompts: int = Field(default=1000, ge=1)
    """At most so many train prompts, from the head of the shuffle that the rounds take theirs from."""
    answers: int = Field(default=1, ge=1)
    """Answers a prompt that the teacher writes."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps instead of epochs: answers are repeated, or left over, as that needs."""
    pairs_from: RunFolder | None = None
    """A run whose pairs are trained on, for a trainer that learns from pairs; relative to the recipe. They were made of
    that run's drafts, with its paid judgements, and nothing is asked again."""


class AlsoTask(Section):
    """Prompts of another task, which the run does not train, scored each round: does the student still do them?"""

    name: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$")
    """What reports and files call it; the prompts file's name by default."""
    prompts: Path
    """A .jsonl, .json or .csv file, or a folder written by `datasets.save_to_disk`; relative to the recipe."""
    rubric: Path
    """What good means there."""
    judge: Use[Judge] | None = None
    """Who scores it; the recipe's training judge by default, which then reads this rubric."""
    columns: dict[str, str] = {}
    """As in `prompts.columns`."""
    limit: int = Field(default=100, ge=1)
    """At most so many of its prompts are scored each round."""

    _rubric: Rubric = PrivateAttr()

    @field_validator("prompts", "rubric")
    @classmethod
    def _files(cls, path: Path, info: ValidationInfo) -> Path:
        return _existing(path, info, "a prompts file" if info.field_name == "prompts" else "a rubric")

    @model_validator(mode="after")
    def _read_rubric(self) -> Self:
        self._rubric = load_checked(self.rubric)
        if not self.name:
            object.__setattr__(self, "name", re.sub(r"[^A-Za-z0-9._-]+", "-", self.prompts.stem))
        return self

    @property
    def rubrics(self) -> RubricSet:
        """The one rubric, as the stages want it."""
        return RubricSet(rubrics={"": self._rubric})


class EvaluateSection(Section):
    """How each round's policy is measured on validation prompts, and the kept one on test prompts."""

    baselines: tuple[Literal["base", "teacher"], ...] = ("base",)
    """Whose drafts the policy's are compared with; written and judged once."""
    judge: Use[Judge] | None = None
    """The held-out judge that selects the best round; the training judge by default, then labelled self-judged."""
    compare: Literal["scores", "both_orders"] = "scores"
    """Win or loss by scores, or by asking the evaluation judge for a comparison in both orders."""
    tie_margin: float = Field(default=0.0, ge=0.0)
    """Score differences up to this are ties."""
    temperature: float = Field(default=0.7, ge=0.0)
    """The same for every policy and baseline."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    best_of: int = Field(default=1, ge=1)
    """Drafts a prompt that the policy writes, of which the training judge's best is measured; base and teacher write
    one, and so does the policy for tasks of `also`. With `loop.rounds: 0` it is what choosing among the base's drafts
    gives, without any training."""
    gold: Use[Judge] | None = None
    """An exact score, where one exists (the sandbox): reported, never used to train or to select."""
    metrics: tuple[str, ...] = ()
    """Further metrics by `evaluate` id or path, on test drafts against `reference` or the teacher's draft."""
    also: tuple[AlsoTask, ...] = ()
    """Other tasks, `{prompts, rubric}` each, whose score is watched each round; a fall warns, nothing is trained on."""

    @field_validator("baselines")
    @classmethod
    def _base_first(cls, baselines: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(("base", *baselines)))

    @field_validator("also")
    @classmethod
    def _own_names(cls, tasks: tuple[AlsoTask, ...]) -> tuple[AlsoTask, ...]:
        names = [task.name for task in tasks]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"two tasks are called `{double}`; give each a `name` of its own")
        return tasks


class LoopSection(Section):
    """The rounds."""

    operational: ClassVar[frozenset[str]] = frozenset({"rounds", "warn", "stop", "on_stop", "remedy", "keep"})

    mode: Literal["online", "offline"] = "online"
    """Online samples each round from the updated student, offline every round's prompts from the base."""
    rounds: int = Field(default=5, ge=0)
    """May be raised later: the run goes on. 0 trains nothing: base and teacher are measured."""
    prompts_per_round: int = Field(default=256, ge=1)
    """Consecutive slices of one seeded shuffle of the train prompts; wraps around."""
    start_from: Literal["previous", "warm_start", "base"] = "previous"
    """The policy that a round's training starts from."""
    keep: Literal["best", "last"] = "best"
    """Which round's policy is kept and measured on the test split: the best on validation, or the last."""
    pairs_from: RunFolder | None = None
    """A run whose pairs are trained on, shuffled over the rounds, instead of sampling: what is left of online's lead
    without fresh drafts. Relative to the recipe."""
    warn: WarnLevels = WarnLevels()
    """Beyond which value each check warns; `null` switches a check off."""
    stop: Annotated[
        Annotated[StopLevels, Tag("levels")] | Annotated[Literal["never"], Tag("never")],
        Discriminator(lambda value: "never" if isinstance(value, str) else "levels"),
    ] = StopLevels()
    """Beyond which value a check ends the run early; `never` lets every round run, whatever the checks find."""
    on_stop: Literal["keep_best", "raise"] = "keep_best"
    """When a rule stops the run: keep the best round so far and measure it on the test split, or end with an error."""
    remedy: Literal["none", "auto"] = "none"
    """auto: a round that a stop rule condemns is trained once more with the remedy that the finding names."""

    @property
    def levels(self) -> Levels:
        """The levels as the diagnostics want them."""
        return Levels(self.warn, None if self.stop == "never" else self.stop)


def load_checked(path: Path) -> Rubric:
    """Read a rubric and build its checks.

    Raises:
        RubricError: with file, line, key, what was found and what was expected.
    """
    rubric = load_rubric(path)
    build_checks(rubric)
    return rubric
