"""What the report is made from, and how its numbers are looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefdistill.metrics.rates import GapRecovered
from prefdistill.records import CriterionScore, EvaluationResult, Outcome, Policy, Prompt, RoundResult, Usage


@dataclass(frozen=True)
class ExampleDraft:
    """One draft as an example shows it."""

    completion: str
    score: float | None
    """By the evaluation judge, gates applied; None where it could not be judged."""
    rubric_score: float | None
    """By the training judge, gates applied; None where that is the evaluation judge or has not judged it."""
    gates: tuple[str, ...]
    """Names of the gates it failed."""
    criteria: tuple[CriterionScore, ...]

    def find(self, criterion: str) -> CriterionScore | None:
        """Return the score of one criterion, None where it was not judged."""
        return next((each for each in self.criteria if each.criterion == criterion), None)


@dataclass(frozen=True)
class Example:
    """One test prompt before and after."""

    why: str
    """The rule by which it was picked."""
    prompt: Prompt
    kind: str
    outcome: Outcome
    base: ExampleDraft
    policy: ExampleDraft
    teacher: ExampleDraft | None

    @property
    def drafts(self) -> tuple[ExampleDraft, ...]:
        """Base, kept policy and, where it wrote one, teacher."""
        return (self.base, self.policy, *([self.teacher] if self.teacher else []))

    @property
    def criteria(self) -> tuple[str, ...]:
        """Names of all criteria scored for any of the drafts."""
        return tuple(dict.fromkeys(score.criterion for draft in self.drafts for score in draft.criteria))


@dataclass(frozen=True)
class ReportData:
    """Everything that a run's report and its `result.json` say."""

    name: str
    """The recipe's name."""
    version: str
    """prefdistill's version."""
    mode: str
    seed: int
    student: str
    """Model and quantisation, as a person would say it."""
    teacher: str | None
    judge: str
    """The training judge."""
    evaluation_judge: str
    self_judged: bool
    """Whether the evaluation judge is the training judge."""
    prompts: Mapping[str, int]
    """Prompts by split."""
    rounds: tuple[RoundResult, ...]
    """Round 0, the base, first; its `train` is None."""
    best_round: int
    policy: Policy
    """The kept policy."""
    recipe: str
    """The resolved recipe as YAML."""
    rubrics: Mapping[str, str]
    """Rubric YAML by name."""
    kinds: tuple[str, ...] = ()
    """Kinds of prompt, where there are several rubrics."""
    test: tuple[EvaluationResult, ...] = ()
    """The kept policy on test prompts, against each baseline, for all prompts and per kind; empty if it is the base."""
    test_gold: Mapping[str, float] = field(default_factory=dict)
    """Mean exact score on test prompts by policy, base and teacher; sandbox only."""
    test_metrics: Mapping[str, float] = field(default_factory=dict)
    """Further metrics of the kept policy's test drafts."""
    test_usage: Usage = field(default_factory=Usage)
    """Judging of the test drafts and of both baselines."""
    charged: Usage = field(default_factory=Usage)
    """Every paid call of the run, of earlier processes too: judging, writing, lost replies at their bound."""
    unpriced: tuple[str, ...] = ()
    """Models that judge and have no price, so that amounts in US dollars are unknown."""
    unpriced_writers: tuple[str, ...] = ()
    """Models that write drafts and have no price."""
    agreement: Mapping[str, Any] | None = None
    """What `agreement.json` of the run folder holds: tables of how the judge agrees with people."""
    pgr: GapRecovered | None = None
    best_of: int = 1
    """Drafts a prompt from which the training judge chose the measured one; the baselines wrote one."""
    manifest: Mapping[str, str] = field(default_factory=dict)
    """Facts about machine and software worth a line each."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time outside the rounds, by stage."""
    warnings: tuple[str, ...] = ()
    """Warnings about the run as a whole; rounds have their own."""
    stopped: str = ""
    """Why it ended before its last round; empty if it did not."""
    examples: tuple[Example, ...] = ()


def find_result(
    results: tuple[EvaluationResult, ...], baseline: str = "base", kind: str | None = None
) -> EvaluationResult | None:
    """Return the result against `baseline` for `kind` (None: all prompts), if there is one."""
    return next((each for each in results if each.baseline == baseline and each.kind == kind), None)


def gate_pass_rate(results: tuple[EvaluationResult, ...], kind: str | None = None) -> float | None:
    """Return the policy's gate pass rate, the same against every baseline."""
    return next((each.gate_pass_rate for each in results if each.kind == kind), None)


def learned_from(report: ReportData) -> tuple[str, ...]:
    """Return what the run's rounds trained on, `answers` before `pairs`; pairs where no round has trained."""
    found = {each.learned_from for each in report.rounds if each.train}
    return tuple(each for each in ("answers", "pairs") if each in (found or ("pairs",)))


def drops_title(report: ReportData) -> str:
    """Return what the table of prompts that gave nothing to train on is called."""
    each = {"answers": "an answer", "pairs": "a pair"}
    return f"Prompts without {' or '.join(each[name] for name in learned_from(report))}, by reason"


def judging(result: RoundResult) -> Usage:
    """Return what the round's judging cost, training and validation drafts together."""
    return result.usage + result.evaluation_usage


@dataclass(frozen=True)
class Cost:
    """What judging training drafts cost: in all, a pair that was considered (a prompt), and a pair that was kept."""

    usage: Usage
    considered: int
    kept: int
    priced: bool
    """Whether the price of every token is known."""

    @property
    def usd(self) -> float | None:
        """US dollars; None where a price is unknown."""
        return self.usage.usd if self.priced else None

    @property
    def usd_per_pair(self) -> float | None:
        """US dollars a prompt, from whose drafts a pair could be made."""
        return self.usage.usd / self.considered if self.priced and self.asked and self.considered else None

    @property
    def usd_per_kept_pair(self) -> float | None:
        """US dollars a pair that trains."""
        return self.usage.usd / self.kept if self.priced and self.asked and self.kept else None

    @property
    def tokens_per_kept_pair(self) -> float | None:
        """Prompt and completion tokens a pair that trains."""
        tokens = self.usage.prompt_tokens + self.usage.completion_tokens
        return tokens / self.kept if self.asked and self.kept else None

    @property
    def asked(self) -> bool:
        """Whether any reply was paid for; one from the request cache was paid for by another run."""
        return self.usage.calls > 0


def round_cost(report: ReportData, result: RoundResult) -> Cost:
    """Return what judging a round's training drafts cost; a round on the teacher's answers has no pairs to pay for."""
    if result.learned_from == "answers":
        return Cost(result.usage, 0, 0, not report.unpriced)
    considered = int(result.counts.get("prompts", result.pairs + sum(result.drops.values())))
    return Cost(result.usage, considered, result.pairs, not report.unpriced)


def charged_usd(report: ReportData) -> float | None:
    """Return what every paid call of the run cost; None where a model has no price."""
    return None if report.unpriced or report.unpriced_writers else report.charged.usd


def training_cost(report: ReportData) -> Cost:
    """Return the same of all rounds that made pairs together."""
    costs = [round_cost(report, each) for each in report.rounds if each.learned_from == "pairs"]
    return Cost(
        sum((each.usage for each in costs), Usage()),
        sum(each.considered for each in costs),
        sum(each.kept for each in costs),
        not report.unpriced,
    )


def round_warnings(result: RoundResult) -> tuple[str, ...]:
    """Return the round's warnings with its trainer's, each once."""
    trained = result.train.warnings if result.train else ()
    return tuple(dict.fromkeys((*result.warnings, *trained)))
