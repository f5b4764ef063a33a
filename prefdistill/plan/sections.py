"""The sections of a plan that are decided before training: the task, the models, what good means, data, method, sizes.

A key may be left out where nothing is decided yet; `needed` says which keys a plan cannot be signed without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prefdistill.diagnostics.thresholds import StopLevels
from prefdistill.plan.quantities import (
    Accuracy,
    ASecond,
    Gain,
    Gibibytes,
    Power,
    Rate,
    RequestsRange,
    Seconds,
    Share,
    Ties,
    TokensRange,
    Usd,
    UsdPerMillion,
)

Way = Literal["outputs", "traces", "preferences", "logits"]
"""What the student learns from: the teacher's answers, its reasoning and answers, preferences, or token distributions."""
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A part of the plan."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    needed: ClassVar[dict[str, str]] = {}
    """Keys that must be decided before the plan can be signed, and what each of them decides."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, data: Any) -> Any:
        """Take a key with nothing behind it as left out."""
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, Mapping) else data

    def open_keys(self) -> Iterator[tuple[str, str]]:
        """Yield each key that is needed and not decided yet, and what it decides."""
        for key, what in self.needed.items():
            if getattr(self, key) in (None, (), ""):
                yield key, what


class Task(Section):
    """The one family of prompts that is distilled."""

    needed: ClassVar[dict[str, str]] = {
        "what": "what the prompts ask for",
        "owner": "who answers for the plan",
        "in_scope": "what belongs to the prompt family",
        "out_of_scope": "what does not, and goes to the teacher",
    }

    what: Text | None = None
    """What the prompts ask for, in a sentence or two."""
    owner: Text | None = None
    """The person or team that answers for it."""
    in_scope: tuple[Text, ...] = ()
    """What belongs to the prompt family."""
    out_of_scope: tuple[Text, ...] = ()
    """What does not, and stays with the teacher."""
    languages: tuple[Text, ...] = ()
    """Languages of the prompts."""


class Traffic(Section):
    """How many requests there are, and how long they are."""

    needed: ClassVar[dict[str, str]] = {
        "requests_a_month": "how many requests there are in a month",
        "tokens_in": "how many prompt tokens a request has",
        "tokens_out": "how many tokens a reply has",
    }

    requests_a_month: RequestsRange | None = None
    """Requests of this prompt family in a month."""
    tokens_in: TokensRange | None = None
    """Prompt tokens of a request to the teacher, its system prompt included."""
    tokens_out: TokensRange | None = None
    """Completion tokens of a reply, hidden reasoning included."""
    peak_requests_a_second: ASecond | None = None
    """At the busiest time."""


class Prices(Section):
    """What a model's tokens cost."""

    input: UsdPerMillion
    """Prompt tokens, US dollars per million."""
    output: UsdPerMillion
    """Completion tokens, US dollars per million."""
    as_of: date | None = None
    """When it was last checked."""
    source: str = ""
    """Where it is published."""

    @model_validator(mode="before")
    @classmethod
    def _both(cls, data: Any) -> Any:
        if not isinstance(data, (Mapping, Prices)):
            raise ValueError(
                f"found {str(data)[:40]!r}; expected `{{input: …, output: …}}` in US dollars per million tokens"
            )
        return data


class TeacherPlan(Section):
    """The large model that is replaced, and answers what the student does not."""

    needed: ClassVar[dict[str, str]] = {
        "model": "which model is the teacher",
        "local": "whether the teacher's weights run here",
        "reasons": "whether it reasons before it answers",
    }

    model: Text | None = None
    """Its name, as the price table and the table of terms know it."""
    usd_per_million: Prices | None = None
    """Its prices; without them, those of `prefdistill prices`."""
    local: bool | None = None
    """Whether its weights run on machines of your own, so that its token distribution can be read."""
    same_tokenizer: bool | None = None
    """Whether it has the student's tokenizer; asked where its weights run here."""
    reasons: bool | None = None
    """Whether it reasons before it answers, and shows its reasoning."""

    def open_keys(self) -> Iterator[tuple[str, str]]:
        """Yield each key that is needed and not decided yet; the tokenizer where a distribution could be matched."""
        yield from super().open_keys()
        if self.local and self.same_tokenizer is None:
            yield "same_tokenizer", "whether the teacher has the student's tokenizer"


class StudentPlan(Section):
    """The small open model that learns."""

    needed: ClassVar[dict[str, str]] = {"model": "which model is the student"}

    model: Text | None = None
    """Hub id or folder of its base."""
    revision: Text | None = None
    """Commit or tag on the hub."""
    quantization: Literal["nf4", "none"] | None = None
    """4-bit NormalFloat weights (QLoRA), or none."""


class Limits(Section):
    """What the student may take, in time and memory."""

    needed: ClassVar[dict[str, str]] = {
        "first_token_seconds": "how long a user waits for the first token",
        "reply_seconds": "how long a whole reply may take",
        "memory_gib": "how much memory the student may take",
    }

    first_token_seconds: Seconds | None = None
    """Until the first token, for 95 of 100 requests."""
    reply_seconds: Seconds | None = None
    """Until the reply is whole, for 95 of 100 requests."""
    memory_gib: Gibibytes | None = None
    """Memory of the serving process, on the GPU or off it."""
    hardware: Text | None = None
    """What it runs on."""


class RubricPlan(Section):
    """What good means, and who says so."""

    needed: ClassVar[dict[str, str]] = {
        "files": "which rubric says what good means",
        "judge": "who judges in training",
        "held_out": "who judges what the training judge does not",
    }

    files: tuple[Path, ...] = ()
    """Rubric files, relative to the plan; their gates and criteria are shown."""
    judge: Text | None = None
    """Who judges the drafts that are trained on."""
    held_out: Text | None = None
    """Who chooses the best round: another judge, or people."""
    agreement: Text | None = None
    """How well the judge agrees with people, and where that was measured."""


class Goal(Section):
    """Where the student is, where the teacher is, and what is good enough."""

    needed: ClassVar[dict[str, str]] = {
        "student_score": "how good the student is before training",
        "teacher_score": "how good the teacher is",
        "target_score": "how good is good enough to switch",
    }

    metric: Text | None = None
    """What the scores are: which judge, on which prompts."""
    student_score: Share | None = None
    """The untrained student's mean rubric score, 0 to 1."""
    teacher_score: Share | None = None
    """The teacher's."""
    target_score: Share | None = None
    """What the trained student must reach."""


class DataPlan(Section):
    """Where prompts come from, and how they are split."""

    needed: ClassVar[dict[str, str]] = {
        "source": "where the prompts come from",
        "train": "how many prompts are trained on",
        "validation": "how many prompts choose the best round",
        "test": "how many prompts the final figure is measured on, once",
        "split_by": "what keeps like prompts in one split",
        "rights": "whose texts the prompts are, and what allows training on them",
        "privacy": "what personal data is in the prompts and what is done about it",
        "retention": "how long prompts, drafts and logs are kept",
    }

    source: Text | None = None
    """Where the prompts come from, and from when."""
    train: Annotated[int, Field(ge=1)] | None = None
    """Prompts to train on."""
    validation: Annotated[int, Field(ge=1)] | None = None
    """Prompts that choose the best round."""
    test: Annotated[int, Field(ge=1)] | None = None
    """Prompts that the final figure is measured on, once."""
    split_by: Text | None = None
    """What stays in one split (a thread, a customer, a hash of the prompt)."""
    privacy: Text | None = None
    """Personal data in the prompts, and what is done about it."""
    rights: Text | None = None
    """Whose texts the prompts are, and what allows training on them: a contract, consent, a licence."""
    retention: Text | None = None
    """How long prompts, drafts, judgements and served logs are kept, and who deletes them."""


class MethodPlan(Section):
    """Which distillation, and why; without `ways` the plan only advises."""

    needed: ClassVar[dict[str, str]] = {"ways": "which distillation it is", "because": "why that one"}

    ways: tuple[Way, ...] = ()
    """What the student learns from, in this order."""
    because: Text | None = None
    """Why; where it is not what the plan advises, what overrules the advice."""
    how: Text | None = None
    """Rounds, drafts, judge and trainer in a line, as the recipe has them."""
    taste: bool | None = None
    """Whether there are many good answers to a prompt, and which is better is a matter of taste."""

    @field_validator("ways")
    @classmethod
    def _each_once(cls, ways: tuple[Way, ...]) -> tuple[Way, ...]:
        double = next((way for way in ways if ways.count(way) > 1), None)
        if double is not None:
            raise ValueError(f"`{double}` is named twice; name each way once, in the order in which they are trained")
        return ways


class Sizes(Section):
    """Which effects must show; how many prompts that takes is computed."""

    needed: ClassVar[dict[str, str]] = {"score_sd": "how much score differences vary from prompt to prompt"}

    win_rate: Rate = 0.55
    """The smallest win rate over the base that must show, over 0.5."""
    ties: Ties = 0.0
    """Share of comparisons that end in a tie."""
    score_gain: Gain = 0.05
    """The smallest gain of the mean score that must show."""
    score_sd: Gain | None = None
    """Standard deviation, over prompts, of the difference between two policies' scores."""
    judge_accuracy: Accuracy | None = None
    """Share of comparisons that the judge decides as people do; an effect on the win rate shrinks by twice that less 1."""
    power: Power = 0.8
    """How likely a true effect of that size shows."""
    alpha: Power = 0.05
    """How likely an effect shows where there is none, two-sided."""
    seeds: int = Field(default=3, ge=1)
    """Trainings with different seeds."""


class StopPlan(Section):
    """When a run, or the whole project, ends early."""

    needed: ClassVar[dict[str, str]] = {
        "budget_usd": "how much may be spent before it is given up",
        "until": "by when it must have shown something",
    }

    levels: StopLevels = StopLevels()
    """Beyond which value a check ends a run: as `loop.stop` in the recipe."""
    budget_usd: Usd | None = None
    """US dollars for teacher and judge until the first version is live."""
    until: date | None = None
    """When the project ends without a student that reaches the target."""
    also: tuple[Text, ...] = ()
    """Further reasons to stop."""
