"""The contracts: the page a plug-in author reads.

A plug-in is a frozen pydantic class (`prefdistill.plugins.Plugin`) whose fields are the recipe's keys and which
has the one method of its contract. Everything here is synchronous; the request layer keeps requests in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from prefdistill.records import (
    Answer,
    CheckScore,
    Draft,
    Failure,
    Message,
    Policy,
    PreferencePair,
    Prompt,
    TrainResult,
    Usage,
    Verdict,
)
from prefdistill.rubric import Rubric

if TYPE_CHECKING:
    from prefdistill.requests.layer import RequestLayer
    from prefdistill.sections import StudentSection


@dataclass(frozen=True)
class SampleRequest:
    """One draft to write."""

    key: str
    """The draft's id."""
    messages: tuple[Message, ...]
    """System prompt included."""
    seed: int
    """Depends on run seed, round, source, prompt and index, never on the batch."""
    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Completion:
    """What the sampler wrote for one request."""

    key: str
    completion: str
    finish_reason: str
    """stop or length."""
    tokens: int
    """Completion tokens, the end token included."""
    log_prob: float | None = None
    """Sum of log-probabilities at temperature 1, nats."""
    token_ids: tuple[int, ...] | None = None
    trace: str = ""
    """Reasoning in front of the completion, as it was written; tokens and log_prob are of both together."""


@dataclass(frozen=True)
class TeacherRequest:
    """One call to a teacher."""

    key: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float | None = None
    """None leaves the parameter out of the request."""
    schema: dict[str, Any] | None = None
    """JSON Schema that the reply's text should keep to; the caller validates the reply all the same."""
    repeat: int = 0
    """Part of the cache key, so that a repeat is a new request."""
    logprobs: int = 0
    """Alternatives asked for per token; 0 asks for none."""


@dataclass(frozen=True)
class Token:
    """One token of a reply, as the server sampled it."""

    text: str
    log_prob: float
    """Natural logarithm; servers give -9999 for a token that a schema forced."""
    alternatives: tuple[tuple[str, float], ...] = ()
    """The likeliest tokens at this place with their natural log-probabilities, the sampled one usually among them."""


@dataclass(frozen=True)
class Reply:
    """A teacher's answer, as it came."""

    key: str
    text: str
    finish_reason: str
    usage: Usage
    tokens: tuple[Token, ...] | None = None
    """The reply token by token; None where the server gave no log-probabilities."""
    reasoning: str = ""
    """What the provider gave as the model's reasoning, beside the text."""


@dataclass(frozen=True)
class Probe:
    """A text on which the change of a policy is measured."""

    messages: tuple[Message, ...]
    """The prompt, system prompt included."""
    completion: str
    """All that was written, reasoning in front of the answer included."""
    log_prob: float | None = None
    """Sum of log-probabilities that the sampler saw, at temperature 1, nats; None where it said none."""
    tokens: int | None = None
    """Completion tokens, the end token included."""
    policy: Policy | None = None
    """Who wrote it; None where that is not known."""


LearnsFrom = Literal["pairs", "answers"]
"""What a trainer learns from: preference pairs of the student's drafts, or the teacher's answers, one a prompt."""


def learns_from(trainer: Any) -> LearnsFrom:
    """Return what a trainer learns from: its class says `learns_from`, pairs by default."""
    found: LearnsFrom = getattr(trainer, "learns_from", "pairs")
    return found


@dataclass(frozen=True)
class TrainingData:
    """What a trainer learns from."""

    pairs: tuple[PreferencePair, ...]
    """Pairs of the current round, then past pairs mixed in; empty for a trainer that learns from answers."""
    probes: tuple[Probe, ...] = ()
    """Fixed texts on which the KL of new to old policy is measured: the round's own drafts where the start policy wrote
    them, else its validation drafts."""
    flip_rate: float | None = None
    """Share of the round's comparisons whose winner changed with the order shown; None where nothing was compared.

    A trainer that uses it sets `uses_flip_rate = True`, so that the policy's fingerprint covers it."""
    previous: Policy | None = None
    """The policy before the one that wrote the probes: what a sampler with stale weights would sample from."""
    steps: int | None = None
    """Optimiser steps of this training, pairs repeated or left over as that needs; None for the trainer's own epochs."""
    answers: tuple[Answer, ...] = ()
    """The teacher's answers to the current round's prompts, then past ones mixed in, where the trainer learns from those."""


Progress = Callable[[str, int, int, str], None]
"""Called as progress(stage, done, total, note)."""


def no_progress(stage: str, done: int, total: int, note: str) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class RunContext:
    """What the run hands to each plug-in's `open`, once, before any thread starts."""

    directory: Path
    """The run folder; policies' adapter paths are relative to it."""
    seed: int
    student: StudentSection | None = None
    teacher: Teacher | None = None
    """The recipe's teacher, opened already."""
    requests: RequestLayer | None = None
    """What every paid call goes through."""
    choices: dict[str, Any] = field(default_factory=dict)
    """Choices made once and kept in manifest.json (sampler weights, batch plan); a plug-in reads and adds its own."""
    progress: Progress = no_progress


@runtime_checkable
class Check(Protocol):
    """Scores one text without a model; None where it does not apply (a `{field}` is missing)."""

    def check(self, prompt: Prompt, completion: str) -> CheckScore | None: ...


@runtime_checkable
class Sampler(Protocol):
    """Writes drafts from a policy, yielding each as it finishes; the model lives while the iteration does."""

    def sample(self, policy: Policy, requests: Sequence[SampleRequest]) -> Iterator[Completion | Failure]: ...


@runtime_checkable
class Teacher(Protocol):
    """Answers requests, in any order, through the request layer's own pool."""

    def replies(self, requests: Sequence[TeacherRequest]) -> Iterator[Reply | Failure]: ...


@runtime_checkable
class Judge(Protocol):
    """Judges all drafts of one prompt. What it cannot read is a Failure in the Verdict, never a score.

    A plug-in judge may also return a list of numbers, one a draft (None abstains): the scale is then its own.
    """

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict: ...


@runtime_checkable
class Trainer(Protocol):
    """Trains a policy in `directory`, starting from `start` and measuring against `reference`.

    `learns_from: ClassVar = "answers"` has every round write the teacher's answers instead of drafts and pairs.
    `method: str` is what a model card says of a policy that it trained, as what stands after "trained by".
    A method `take_teacher(teacher) -> str | None` is handed the recipe's teacher when the recipe is read, and returns
    what is wrong with it. A method `check_student(student, fetch) -> str | None` raises where the trainer cannot train
    that student, before anything is written or sampled; without `fetch` it downloads nothing, and returns what it
    therefore left unchecked.
    """

    def train(
        self, data: TrainingData, start: Policy, reference: Policy, directory: Path, seed: int
    ) -> TrainResult: ...
