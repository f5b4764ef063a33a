"""The recipe: one YAML file that says which student, teacher, prompts and judge, and what the rounds do.

Defaults exist only here and in the plug-ins' own fields. `load_recipe` validates everything that can be known
without loading a model: keys, plug-ins and their options, rubrics and their checks, files that must exist.
"""

from __future__ import annotations

import importlib.util
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
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
from prefdistill.documents import Document, Location, dotted, load_document, raise_invalid
from prefdistill.errors import RecipeError
from prefdistill.plugins import Plugin, Use, asks_teacher, build_checks, name_of, resolve
from prefdistill.protocols import Judge, Sampler, Teacher, Trainer, learns_from
from prefdistill.records import Policy
from prefdistill.requests.spending import Budget
from prefdistill.rubric import Rubric, RubricSet, load_rubric
from prefdistill.selection import PairOptions
from prefdistill.traces import TAGS, Tags, empty_block

STAGES = ("load", "sample", "judge", "rank", "pair", "train", "evaluate", "report")


class Section(BaseModel):
    """A part of the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True)

    operational: ClassVar[frozenset[str]] = frozenset()
    """Keys that do not change results; a run goes on with other values."""


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

    @model_validator(mode="before")
    @classmethod
    def _split_options(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, Mapping) or cls.slot in data:
            return data
        own = {key: value for key, value in data.items() if key in cls.model_fields and key != cls.slot}
        options = {key: value for key, value in data.items() if key not in own}
        options.setdefault("use", cls.default_use())
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

    @classmethod
    def default_use(cls) -> str:
        """Return the plug-in used where the section names none."""
        raise NotImplementedError

    @model_serializer(mode="wrap")
    def _flat(self, handler: Any) -> dict[str, Any]:
        data = handler(self)
        plugin = data.pop(self.slot)
        return {"use": plugin["use"], **data, **{key: value for key, value in plugin.items() if key != "use"}}


class SampleSection(PluginSection):
    """How drafts are written."""

    slot: ClassVar[str] = "sampler"
    folder: ClassVar[str] = "samplers"

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

    @classmethod
    def default_use(cls) -> str:
        """Return the plug-in used where the section names none."""
        return "transformers"

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

    @classmethod
    def default_use(cls) -> str:
        """Return the plug-in used where the section names none."""
        return "dpo"


class WarmStartSection(PluginSection):
    """A first round that brings the student near the teacher before its own drafts are compared."""

    slot: ClassVar[str] = "trainer"
    folder: ClassVar[str] = "trainers"

    trainer: Use[Trainer]
    prompts: int = Field(default=1000, ge=1)
    """At most so many train prompts, from the head of the shuffle that the rounds take theirs from."""
    answers: int = Field(default=1, ge=1)
    """Answers a prompt that the teacher writes."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps instead of epochs: answers are repeated, or left over, as that needs."""
    pairs_from: Path | None = None
    """A run whose pairs are trained on, for a trainer that learns from pairs; relative to the recipe. They were made of
    that run's drafts, with its paid judgements, and nothing is asked again."""

    @classmethod
    def default_use(cls) -> str:
        """Return the plug-in used where the section names none."""
        return "outputs"

    @field_validator("pairs_from")
    @classmethod
    def _run_folder(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return None if path is None else (_directory(info) / path.expanduser()).resolve()


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
        self._rubric = _load_checked(self.rubric)
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
    pairs_from: Path | None = None
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

    @field_validator("pairs_from")
    @classmethod
    def _run_folder(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return None if path is None else (_directory(info) / path.expanduser()).resolve()

    @property
    def levels(self) -> Levels:
        """The levels as the diagnostics want them."""
        return Levels(self.warn, None if self.stop == "never" else self.stop)


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


def _directory(info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("directory", Path.cwd()))


def _existing(path: Path, info: ValidationInfo, what: str) -> Path:
    full = (_directory(info) / path.expanduser()).resolve()
    if not full.exists():
        raise ValueError(f"no such file: {full}; expected {what} (paths are relative to the recipe)")
    return full


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
        return RubricSet(rubrics={"": _load_checked(directory / spec)})
    where = document.where(("rubric",))
    if "column" not in spec or len(spec) < 2:
        raise RecipeError(f"{where}: rubric: expected `{{column: NAME, KIND: FILE, …}}` with at least one kind")
    kinds = {kind: _load_checked(directory / file) for kind, file in spec.items() if kind != "column"}
    return RubricSet(column=spec["column"], rubrics=kinds)


def _load_checked(path: Path) -> Rubric:
    rubric = load_rubric(path)
    build_checks(rubric)
    return rubric


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
