"""Everything that is ever written to disk, as frozen records whose invariants are validators.

A bad record cannot exist, in memory or when read back: a pair without a positive margin, a score
outside 0..1 or a prompt that does not end with a user message is an error where it is made.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

SCHEMA: Literal[1] = 1

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "validation", "test"]
Source = str
"""student, base, teacher or file:NAME."""
Scale = Literal["rubric", "preference", "custom"]
ScorePath = Literal["checked", "parsed", "sampled", "logprob"]
FailureKind = Literal["provider", "parse", "refusal", "empty", "truncated", "budget"]
SETTLED_KINDS: frozenset[str] = frozenset({"refusal", "empty", "truncated", "parse"})
"""Failures that settle their key; the other kinds are owed again when a run resumes."""
NOT_ASKED = "not asked"
"""How the reason begins where a criterion was not asked, because the draft fails a gate that costs no call."""
FORGOTTEN = "(forgotten)"
"""What stands where a text was removed."""
Unit = Annotated[float, Field(ge=0.0, le=1.0)]


def digest(value: Any, length: int = 16) -> str:
    """Return the first `length` hex digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def seed_of(*parts: Any) -> int:
    """Return a 63-bit seed that depends on `parts` alone, never on process, batch or order."""
    return int(digest(list(parts), 16), 16) >> 1


class Record(BaseModel):
    """A frozen row; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Row(Record):
    """A record that is a line of its own in a file of the run folder."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    """Version of the row's shape."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True, serialize_by_alias=True
    )

    def key(self) -> str:
        """Return the deterministic id under which the row is counted, sorted and resumed."""
        raise NotImplementedError(f"{type(self).__name__} has no key")


class TracedRow(Row):
    """A row that may hold reasoning; where it holds none it is written as it was before there was any."""

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, handler: Any) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        return {key: value for key, value in data.items() if value or not key.endswith(("trace", "block", "stray_tag"))}


class Message(Record):
    """One turn of a conversation."""

    role: Role
    content: str


class Prompt(Row):
    """What the student is asked, with the named facts that rubrics refer to."""

    id: str
    """Hash of the user's `id` column, else of the messages without the recipe's system prompt."""
    messages: tuple[Message, ...]
    """The conversation so far; ends with a user message."""
    split: Split
    fields: dict[str, Any] = {}
    """Every other column of the prompts file; `{name}` in a rubric refers to these."""
    tags: tuple[str, ...] = ()
    """Marks set while loading: the user's own id (`id:…`), merged copies (`copies:3`), another task (`task:…`)."""

    @model_validator(mode="after")
    def _ends_with_user(self) -> Self:
        if not self.messages or self.messages[-1].role != "user":
            raise ValueError("messages must end with a user message")
        if not self.messages[-1].content.strip():
            raise ValueError("the last user message has no text")
        return self

    def key(self) -> str:
        return self.id

    @property
    def text(self) -> str:
        """The last user message."""
        return self.messages[-1].content

    @property
    def task(self) -> str:
        """The task of `evaluate.also` that it belongs to; empty for the recipe's own prompts."""
        return next((tag.removeprefix("task:") for tag in self.tags if tag.startswith("task:")), "")


class Policy(Record):
    """A definite set of student weights."""

    model: str
    """Hub id or path of the base model."""
    revision: str | None = None
    adapter: str | None = None
    """None for the base, else the adapter's folder relative to the run folder."""
    round: int = Field(default=0, ge=0)
    """The round that made it; 0 is the base."""


class Draft(TracedRow):
    """A completion with its provenance."""

    id: str
    prompt_id: str
    source: Source
    """student, base, teacher or file:NAME; part of the id."""
    policy: Policy | None
    """The weights that wrote it; None only for teacher and file drafts."""
    round: int = Field(ge=0)
    purpose: Split
    """The split the draft was written for: train drafts are judged for pairs, the others only evaluated."""
    index: int = Field(ge=0)
    completion: str
    finish_reason: Literal["stop", "length"] | None = None
    tokens: int | None = Field(default=None, ge=0)
    """Completion tokens, the end token included."""
    seed: int | None = None
    log_prob: float | None = None
    """Sum of the sampler's log-probabilities of the completion's tokens at temperature 1, in nats."""
    trace: str = ""
    """The reasoning in front of the completion, as it was written: tags, and the space before the completion, included.
    Tokens and `log_prob` are of both together. No judge, check or report is shown it."""
    stray_tag: str = ""
    """The first tag of reasoning that stands in the completion, so that where the answer begins is not certain: the
    draft then fails the built-in gate `no_stray_tags`. Empty where there is none, or the student does not reason."""

    @property
    def written(self) -> str:
        """All that was written: the trace, then the completion."""
        return self.trace + self.completion

    @property
    def answer_tokens(self) -> int | None:
        """The completion's own tokens; beside a trace a share of all tokens, by characters."""
        if not self.trace or self.tokens is None:
            return self.tokens
        return round(self.tokens * len(self.completion) / len(self.written))

    @model_validator(mode="after")
    def _provenance(self) -> Self:
        if self.source in ("student", "base"):
            missing = [name for name in ("policy", "finish_reason", "tokens", "seed") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"a {self.source} draft needs {', '.join(missing)}")
        return self

    def key(self) -> str:
        return self.id

    @staticmethod
    def make_id(prompt_id: str, source: str, round: int, purpose: str, index: int) -> str:
        """Return the id: readable, deterministic, one per (prompt, source, round, purpose, index)."""
        return f"{prompt_id}/{source}/{purpose}-{round:02d}/{index}"


class Usage(Record):
    """What replies cost."""

    calls: int = Field(default=0, ge=0)
    """Requests that were sent (a reply from the request cache is not one)."""
    cached: int = Field(default=0, ge=0)
    """Replies that came from the request cache."""
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    usd: float = Field(default=0.0, ge=0.0)

    def __add__(self, other: Usage) -> Usage:
        return Usage.model_construct(
            calls=self.calls + other.calls,
            cached=self.cached + other.cached,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            usd=self.usd + other.usd,
        )


class CheckScore(Record):
    """What a check found in one draft."""

    score: Unit
    reason: str = ""
    """What was found, for the person who reads the report."""


class CriterionScore(Record):
    """One criterion's answer for one draft."""

    criterion: str
    applies: bool = True
    """False where the criterion does not apply to this prompt; then there is no level and no score."""
    level: str | None = None
    score: Unit | None = None
    reason: str = ""
    path: ScorePath
    """How the score was obtained."""
    distribution: tuple[float, ...] | None = None
    """Probability of each level, worst to best, where the server gave them."""

    @model_validator(mode="after")
    def _score_iff_applies(self) -> Self:
        if self.applies != (self.score is not None):
            raise ValueError("a criterion has a score exactly where it applies")
        return self


class Judgement(Record):
    """One draft's scores by one judge."""

    draft_id: str
    judge: str
    member: str | None = None
    """Which teacher of a panel; None where there is one."""
    scores: tuple[CriterionScore, ...] = ()
    value: float | None = None
    """A custom judge's single number; None for a rubric judge, whose total is computed when ranking."""
    scale: Scale
    usage: Usage = Usage()

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if not self.scores and self.value is None:
            raise ValueError("a judgement needs criterion scores or a value")
        if self.value is not None and self.value != self.value:
            raise ValueError("a judgement's value cannot be NaN; abstain with a Failure instead")
        return self


class Preference(Record):
    """One comparison of two drafts, in the order in which they were shown."""

    first_id: str
    second_id: str
    probability: Unit
    """Probability that the first shown is better; 0.5 is a tie."""
    judge: str
    member: str | None = None
    """Which teacher of a panel; None where there is one."""
    repeat: int = Field(default=0, ge=0)
    """0 is the first time that it was asked in this order."""
    path: ScorePath = "parsed"
    """How the probability was obtained."""
    reason: str = ""
    usage: Usage = Usage()

    @model_validator(mode="after")
    def _two_drafts(self) -> Self:
        if self.first_id == self.second_id:
            raise ValueError("a preference compares two different drafts")
        return self


class Failure(Record):
    """Something that could not be obtained or read. It never becomes a score, a tie or a label."""

    stage: str
    key: str
    """The draft id, or `first|second` for a comparison."""
    kind: FailureKind
    message: str
    member: str | None = None
    """Which teacher of a panel failed; the others may have answered."""
    reply: str | None = None
    """The raw text, where there was one."""
    usage: Usage = Usage()


class Verdict(Row):
    """Everything that one prompt's judging produced; the unit of resume."""

    prompt_id: str
    judgements: tuple[Judgement, ...] = ()
    preferences: tuple[Preference, ...] = ()
    failures: tuple[Failure, ...] = ()

    def key(self) -> str:
        return self.prompt_id

    @property
    def usage(self) -> Usage:
        """Everything spent on this prompt's judging, failures included."""
        rows: tuple[Judgement | Preference | Failure, ...] = (*self.judgements, *self.preferences, *self.failures)
        return sum((row.usage for row in rows), Usage())

    @property
    def owed(self) -> bool:
        """Whether a failure here must be asked again on resume (provider and budget failures)."""
        return any(failure.kind not in SETTLED_KINDS for failure in self.failures)


class RankedDraft(Record):
    """One draft's place in a ranking."""

    draft_id: str
    rank: int = Field(ge=1)
    score: float
    """Score before gates, in the unit of `scale`."""
    scale: Scale
    strength: Unit | None = None
    """Mean probability of winning the comparisons that it stood in beside its score; None where there were none."""
    gates: tuple[str, ...] = ()
    """Names of the gates it failed; empty when it passed all."""


class Ranking(Row):
    """One prompt's drafts, best first; equal ones share a rank."""

    prompt_id: str
    round: int = Field(ge=0)
    entries: tuple[RankedDraft, ...] = ()
    undecided: tuple[str, ...] = ()
    """Drafts left out because a panel, or samples, are split evenly on a gate."""

    @model_validator(mode="after")
    def _best_first(self) -> Self:
        ranks = [entry.rank for entry in self.entries]
        if ranks != sorted(ranks):
            raise ValueError("ranking entries go best first")
        return self

    def key(self) -> str:
        return self.prompt_id


class PreferencePair(TracedRow):
    """A chosen and a rejected completion whose difference is known to be positive."""

    id: str
    prompt_id: str
    round: int = Field(ge=0)
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    chosen_id: str
    rejected_id: str
    chosen_score: float
    rejected_score: float
    margin: float = Field(gt=0.0)
    """The judge's score gap, in the unit of `scale`; always positive."""
    scale: Scale
    chosen_trace: str = ""
    """The reasoning in front of the chosen text, which no judge has seen; it is trained on together with it."""
    rejected_trace: str = ""

    @property
    def written(self) -> tuple[str, str]:
        """All that was written, traces first: chosen, then rejected."""
        return self.chosen_trace + self.chosen, self.rejected_trace + self.rejected

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.chosen_id == self.rejected_id or self.chosen.strip() == self.rejected.strip():
            raise ValueError("chosen and rejected must be different texts")
        return self

    def key(self) -> str:
        return self.id


class Answer(TracedRow):
    """The teacher's answer to a prompt, as a student is trained on it."""

    id: str
    """Its draft's."""
    prompt_id: str
    round: int = Field(ge=0)
    prompt: tuple[Message, ...]
    """The prompt's messages, with the student's system prompt."""
    completion: str
    trace: str = ""
    """The reasoning that the student learns to write in front of the completion, tags included."""
    block: str = ""
    """What the student's turn is begun with, an empty trace; it carries no loss. Where there is neither a trace nor this,
    it is what `student.trace` says."""

    @property
    def written(self) -> str:
        """All that the student learns to write: the trace, then the completion."""
        return self.trace + self.completion

    @property
    def begun(self) -> str | None:
        """What the student's turn is begun with; None where that is what `student.trace` says."""
        return "" if self.trace else self.block or None

    @model_validator(mode="after")
    def _has_text(self) -> Self:
        if not self.completion.strip():
            raise ValueError("an answer without text teaches nothing")
        return self

    def key(self) -> str:
        return self.id


class Drop(Row):
    """Why a prompt gave no pair, or no answer."""

    prompt_id: str
    round: int = Field(ge=0)
    reason: str
    """One of the counted reasons of `stages/pair.py`, for an answer of `answers.py`."""
    detail: str = ""

    def key(self) -> str:
        return self.prompt_id


class ForgottenPair(Record):
    """What is kept of a pair, or an answer, that a finished training used: enough to know that nothing else has changed."""

    id: str
    round: int = Field(ge=0)
    """The round whose drafts it was made from."""
    digest: str
    """Hash of the whole row."""


class Forgotten(Row):
    """A prompt whose texts were removed on request: its place in the run, and hashes instead of texts."""

    prompt_id: str
    split: Split
    task: str = ""
    """The task of `evaluate.also` that it belongs to; empty for the recipe's own prompts."""
    kind: dict[str, str] = {}
    """The column that chooses its rubric, and its value; empty where one rubric serves all."""
    messages: str
    """Hash of its messages, so that what was made from all prompts is known to be made from this one too."""
    fields: str
    """Hash of its fields."""
    pairs: tuple[ForgottenPair, ...] = ()
    """Its pairs and answers that a finished training used."""
    flip_rates: dict[int, float] = {}
    """By round with a finished training: the share of comparisons that flipped, this prompt's among them."""
    given: str | None = None
    """Hash of its drafts in the file that `sample.drafts_from` names; None where it had none there."""
    unwanted: tuple[str, ...] = ()
    """Keys of its requests that were waiting in a batch: the replies are not kept when they come."""
    at: str
    """When it was forgotten, ISO 8601."""

    def key(self) -> str:
        return self.prompt_id

    def stand_in(self) -> Prompt:
        """Return what stands in its place among the prompts."""
        message = Message(role="user", content=FORGOTTEN)
        return Prompt(
            id=self.prompt_id, messages=(message,), split=self.split, fields=dict(self.kind), tags=("forgotten",)
        )


class TrainResult(Record):
    """What one training did."""

    start: Policy
    """The policy training began from."""
    reference: Policy
    """The policy that DPO measured against; it has no part in a training on answers."""
    policy: Policy
    """The policy it made."""
    pairs: int = Field(ge=1)
    """Distinct pairs (or answers, where the trainer learns from those) trained on, past ones included."""
    pairs_dropped: int = Field(default=0, ge=0)
    """Those not trained on because they exceeded the length limit or did not fill a batch."""
    steps: int = Field(ge=0)
    loss: float
    """Mean loss of the last logged steps."""
    first_loss: float
    """Loss of the first step, before any update; ln 2 for sigmoid DPO where the reference is the start policy."""
    reward_margin: float | None
    """DPO's implicit reward of chosen minus rejected, at the end; None where there are no pairs."""
    reward_accuracy: Unit | None
    """Share of pairs whose chosen text has the larger reward, at the end; None where there are no pairs."""
    adapter_moved: Unit
    """Share of adapter entries that differ from the start policy's file."""
    kl: float | None = None
    """KL of new to old policy on fixed drafts, nats a completion (r - 1 - ln r estimator)."""
    kl_standard_error: float | None = None
    truncated: int = Field(default=0, ge=0)
    """Those with a completion cut at `max_length`."""
    diagnostics: dict[str, float] = {}
    facts: dict[str, str] = {}
    """What was checked and is no number: types, why a check is off."""
    warnings: tuple[str, ...] = ()
    seconds: float = Field(ge=0.0)


Remedy = Literal["halve_learning_rate", "add_sft", "length_normalise"]
"""What `loop.remedy: auto` can do about a finding before a round is trained once more."""


class Finding(Record):
    """Something that is wrong with a round, named."""

    check: str
    """The check's name: a field of `loop.warn` or `loop.stop`."""
    level: Literal["warn", "stop"]
    value: float | None = None
    """What was measured."""
    limit: float | None = None
    """The level that it is beyond."""
    kind: str | None = None
    """The kind of prompt that it holds for; None for all prompts."""
    message: str
    """What was seen, its likely cause and the remedy in recipe terms."""
    remedy: Remedy | None = None
    """What `loop.remedy: auto` would do."""


class StartCheck(Record):
    """One line of what was checked before a round trained."""

    name: str
    state: Literal["ok", "warn", "stop", "off"]
    """off: the check does not apply to this round, and the text says why."""
    text: str


Outcome = Literal["win", "loss", "tie", "unknown"]


class Comparison(Row):
    """One prompt's draft against a baseline's draft."""

    prompt_id: str
    draft_id: str
    baseline: str
    """base or teacher."""
    baseline_draft_id: str
    score: float | None = None
    """The draft's score by the evaluation judge, gates applied; None where unknown."""
    baseline_score: float | None = None
    outcome: Outcome

    def key(self) -> str:
        return f"{self.prompt_id}/{self.baseline}"


class EvaluationResult(Record):
    """A policy's drafts against a baseline's on one split; needs at least one judged comparison."""

    policy: Policy
    baseline: str
    split: Split
    judge: str
    self_judged: bool
    """Whether the evaluation judge is also the training judge."""
    kind: str | None = None
    """The kind of prompt, for one row of a per-kind table; None for all prompts."""
    wins: int = Field(ge=0)
    losses: int = Field(ge=0)
    ties: int = Field(ge=0)
    unknown: int = Field(ge=0)
    win_rate: Unit
    """(wins + ties / 2) / judged comparisons."""
    interval: tuple[float, float]
    """95 % interval of the win rate."""
    score: float
    """Mean score by the evaluation judge, a gate failure counting 0."""
    baseline_score: float
    score_gain: float
    """Mean paired difference."""
    score_gain_interval: tuple[float, float]
    """95 % percentile bootstrap over prompts."""
    gate_pass_rate: Unit | None
    length_ratio: float | None
    """Mean words of the policy's drafts over the baseline's."""
    criteria: dict[str, float] = {}
    """Mean score per criterion of the policy's drafts."""
    baseline_criteria: dict[str, float] = {}

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.wins + self.losses + self.ties < 1:
            raise ValueError("an evaluation needs at least one judged comparison")
        return self


def rounds_text(rounds: int, warm_start: bool) -> str:
    """Return how many rounds a run has as a reader says it; its warm start comes before them."""
    counted = f"{rounds} round{'' if rounds == 1 else 's'}"
    return (f"warm start + {counted}" if rounds else "warm start alone") if warm_start else counted


class RoundResult(Row):
    """A finished round; its file is written last and says that the round is done."""

    round: int = Field(ge=0)
    warm_start: bool = False
    """Whether it is the warm start, the run's first round."""
    drafts: int = Field(ge=0)
    judged: int = Field(ge=0)
    """Drafts with a complete judgement or a place in a comparison."""
    failed: int = Field(ge=0)
    """Drafts and judgements that failed."""
    failures: dict[str, int] = {}
    """Failures by stage and kind, such as `judge.parse`."""
    pairs: int = Field(ge=0)
    """Pairs made of its drafts; of a trainer that learns from them, the teacher's answers."""
    drops: dict[str, int] = {}
    """Prompts without a pair, or an answer, by reason."""
    counts: dict[str, float] = {}
    """Further counts and shares of the round's drafts: identical, truncated, gate failures, longer-chosen share."""
    kinds: dict[str, dict[str, float]] = {}
    """The same per kind of prompt, where the recipe has several rubrics."""
    train: TrainResult | None = None
    evaluation: tuple[EvaluationResult, ...] = ()
    """Against each baseline, on validation prompts, for all prompts and per kind."""
    rubric_score: float | None = None
    """Mean score by the training judge on validation drafts."""
    held_out_score: float | None = None
    """Mean score by `evaluate.judge` on validation drafts where it is another judge; None when self-judged."""
    baseline_rubric_score: float | None = None
    teacher_rubric_score: float | None = None
    gold: float | None = None
    """Mean exact score, sandbox only; reported, never used to train or select."""
    mean_tokens: float | None = None
    """Mean tokens of the validation drafts."""
    usage: Usage = Usage()
    """Judging of the round's training drafts."""
    evaluation_usage: Usage = Usage()
    seconds: dict[str, float] = {}
    checks: tuple[StartCheck, ...] = ()
    """What was checked before the round trained, a line each."""
    diagnostics: dict[str, float] = {}
    """Everything that was measured of drafts, labels, judging and training, by name; see prefdistill.diagnostics."""
    kind_diagnostics: dict[str, dict[str, float]] = {}
    """Those that can be told per kind of prompt, where the recipe has several rubrics."""
    facts: dict[str, str] = {}
    """What was measured and is no number, such as the phrase that spreads."""
    findings: tuple[Finding, ...] = ()
    """What is wrong, by the levels of `loop.warn` and `loop.stop`."""
    remedy: Remedy | None = None
    """What was changed before this round was trained once more, because a stop rule condemned its first attempt."""
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What a reader calls it: base, round 1 (warm start), round 2."""
        return "base" if self.round == 0 else f"round {self.round}{' (warm start)' if self.warm_start else ''}"

    @property
    def learned_from(self) -> Literal["pairs", "answers"]:
        """What it trained on: pairs of drafts, or the teacher's answers."""
        return "answers" if "answers" in self.diagnostics else "pairs"

    def key(self) -> str:
        return f"round-{self.round:02d}"
