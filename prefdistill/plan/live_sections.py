"""The sections of a plan about the student in use: costs, alternatives, licences, fallback, drift, what a run has shown."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from prefdistill.plan.quantities import (
    MonthsRange,
    RequestsRange,
    Seconds,
    Share,
    ShareRange,
    TokensRange,
    Usd,
    UsdRange,
)
from prefdistill.plan.sections import Prices, Section, Text


class CostItem(Section):
    """One thing that is paid once."""

    what: Text
    usd: UsdRange


class Costs(Section):
    """What the student costs; every amount one number, or `{low, central, high}`."""

    needed: ClassVar[dict[str, str]] = {
        "hosting_usd_a_month": "what hosting the student costs a month",
        "one_off": "what is paid once: teacher's calls, people, training",
        "months": "over how many months the one-off cost is spread",
    }

    hosting_usd_a_month: UsdRange | None = None
    """H: hosting the student, US dollars a month, whatever the traffic."""
    hosting_requests_a_month: RequestsRange | None = None
    """How many requests that hosting can answer; beyond it the break-even does not hold."""
    one_off: tuple[CostItem, ...] | None = None
    """F: what is paid once; an empty list where nothing is."""
    months: MonthsRange | None = None
    """T: months over which the one-off cost is spread, such as the time until the next distillation."""
    student_usd_a_request: UsdRange | None = None
    """c_S: what one more request to the student costs; 0 where hosting is all there is."""
    judged_share: ShareRange | None = None
    """m: share of live requests that are judged in the background; 0 where left out."""
    judged_usd_a_request: UsdRange | None = None
    """c_J: what judging one of them costs, US dollars."""

    @field_validator("one_off", mode="before")
    @classmethod
    def _a_list(cls, items: Any) -> Any:
        if items is not None and not isinstance(items, (list, tuple)):
            raise ValueError(f"found {str(items)[:40]!r}; expected a list of what is paid: `[{{what: …, usd: 3000}}]`")
        return items

    def open_keys(self) -> Iterator[tuple[str, str]]:
        """Yield each key that is needed and not decided yet; an empty `one_off` is decided."""
        yield from (item for item in super().open_keys() if item[0] != "one_off" or self.one_off is None)
        if self.judged_usd_a_request is None and self.judged_share is not None and self.judged_share.high > 0:
            yield "judged_usd_a_request", "what judging one live request costs"


class Alternative(Section):
    """Another model that could simply be called instead of distilling."""

    name: Text
    """What the plan calls it."""
    model: Text | None = None
    """Its name in the price table; `name` where left out."""
    usd_per_million: Prices | None = None
    """Its prices; without them, those of `prefdistill prices`."""
    tokens_in: TokensRange | None = None
    """Its prompt tokens a request, where they are not the teacher's."""
    tokens_out: TokensRange | None = None
    """Its completion tokens a request, where they are not the teacher's."""
    score: Share | None = None
    """Its mean rubric score, where it was measured as the goal's scores were."""
    quality: Text | None = None
    """How good it is, and where that is known from."""


class LicencePlan(Section):
    """What the licence review needs that no table knows; the review itself is shown by `prefdistill.plan.licences`."""

    base_model: Text | None = None
    """The base model's licence as its card names it, such as apache-2.0."""
    base_model_source: Text | None = None
    """Where that was read."""
    base_model_reviewed_by: Text | None = None
    """Who read the licence, and says that it allows this use."""
    base_model_reviewed_on: date | None = None
    terms: Path | None = None
    """A dated table of teachers' terms of your own, relative to the plan; its rows win over the shipped ones."""
    provider: Text | tuple[Text, ...] | None = None
    """The teacher's row in the table of terms, where its model's name does not say it; several where several apply."""
    trained_on: tuple[Literal["outputs", "labels"], ...] | None = None
    """What of the teacher's trains the student: its outputs (answers, traces, distributions, drafts), its labels (which
    draft is better), or both; as `method.ways` says where left out."""
    writers: tuple[Text, ...] = ()
    """Other models whose texts or token distributions train the student; their terms are reviewed too."""
    judges: tuple[Text, ...] = ()
    """Other models whose judgements train the student; their terms are reviewed too."""
    stale_after_days: int = Field(default=180, ge=1)
    """Days after which a review counts as stale."""


class FallbackPlan(Section):
    """When the teacher answers instead of the student."""

    needed: ClassVar[dict[str, str]] = {
        "share": "which share of requests the teacher answers",
        "when": "what sends a request to the teacher",
        "teacher_down": "what happens while the teacher is down",
        "student_down": "what happens while the student is down",
    }

    share: ShareRange | None = None
    """f: share of requests that the teacher answers."""
    when: tuple[Text, ...] = ()
    """What sends a request to the teacher: gates, length, log-probability, scope."""
    teacher_down: Text | None = None
    """What happens while the teacher is down."""
    student_down: Text | None = None
    """What happens while the student is down."""


class DriftPlan(Section):
    """How it is noticed that live prompts are no longer those that were trained on."""

    needed: ClassVar[dict[str, str]] = {
        "check": "how often the log is checked, and by whom",
        "act": "what is done when it warns",
    }

    check: Text | None = None
    """How often, and by whom."""
    psi: float = Field(default=0.2, gt=0.0)
    """Population stability index of a prompt property that warns."""
    act: Text | None = None
    """What is done when it warns."""


class RedistillPlan(Section):
    """When it is done again."""

    needed: ClassVar[dict[str, str]] = {
        "when": "what makes it time to distil again",
        "who": "who decides that",
    }

    when: tuple[Text, ...] = ()
    """What makes it time: a drift, a new rubric, a new base, a new teacher."""
    who: Text | None = None
    """Who decides."""


class Shown(Section):
    """What a run has shown; written by `prefdistill plan --from`, and not to be edited."""

    run: Text | None = None
    """The run folder's name."""
    ended: date | None = None
    """When its result was written."""
    kept_round: Annotated[int, Field(ge=0)] | None = None
    """The round that is kept; 0 is the base."""
    judge: Text | None = None
    """Who scored the test split."""
    self_judged: bool | None = None
    """Whether that is also the training judge."""
    prompts: Annotated[int, Field(ge=0)] | None = None
    """Test prompts with a comparison."""
    win_rate: Share | None = None
    """Over the base, ties half."""
    win_rate_interval: tuple[Share, Share] | None = None
    """95 % interval."""
    base_score: float | None = None
    """The base's mean score by that judge, on the judge's own scale."""
    score: float | None = None
    """The kept student's."""
    score_gain_interval: tuple[float, float] | None = None
    """95 % interval of the mean paired difference."""
    teacher_score: float | None = None
    """The teacher's."""
    gap_recovered: float | None = None
    """Share of the gap to the teacher that is closed."""
    gap_refused: Text | None = None
    """Why that is not told."""
    spent_usd: Usd | None = None
    """US dollars for all paid calls of the run."""
    draft_tokens: float | None = None
    """Completion tokens of one draft of the student, mean."""
    judged_prompt_tokens: float | None = None
    """Prompt tokens that judging one draft takes, mean."""
    judged_completion_tokens: float | None = None
    """Completion tokens, likewise."""
    first_token_seconds: Seconds | None = None
    """Within which 95 of 100 served requests had their first token."""
    reply_seconds: Seconds | None = None
    """Within which 95 of 100 served requests were answered."""
    served: Annotated[int, Field(ge=0)] | None = None
    """Served requests that this was seen on."""
    fallback_share: Share | None = None
    """Share of them that the teacher answered."""


class Signature(Section):
    """One person's consent."""

    role: Text
    name: Text | None = None
    on: date | None = None
    """When it was signed; a role without a date has not signed."""

    @property
    def is_signed(self) -> bool:
        """Whether there is a name and a date."""
        return self.name is not None and self.on is not None
