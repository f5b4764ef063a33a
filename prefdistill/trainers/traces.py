"""Training on the teacher's reasoning and its answer: reasoning-trace distillation.

Place in the flow: the teacher reasons, then answers → **policy**. The reasoning stands between tags in front of the
answer (`prefdistill.traces`), and both carry loss; no judge sees it. A share of the answers is trained on after an empty
trace instead, which carries none: so the student also learns to answer at once, and its reasoning can be switched off.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from prefdistill.protocols import RunContext
from prefdistill.records import Draft, seed_of
from prefdistill.student import check_trace_tags
from prefdistill.traces import Reasoning, Tags, render_trace
from prefdistill.trainers.independent import Before
from prefdistill.trainers.outcome import Job
from prefdistill.trainers.sft import SFTTrainer

SUMMARY_WORDS = 25
"""Most words of a summary where the recipe names no number."""


class TracesTrainer(SFTTrainer):
    """Trains LoRA adapters on the teacher's reasoning and answers with TRL's SFTTrainer: reasoning-trace distillation."""

    trace: Literal["keep", "strip", "summary"] = "keep"
    """keep: the student learns the reasoning and the answer. strip: the answer alone, which the teacher wrote after
    reasoning; the student never reasons. summary: the teacher also sums its reasoning up, and that is what is learned."""
    trace_words: int = Field(default=80, ge=1)
    """Most words of reasoning that the teacher is asked for; a small student follows short reasoning better."""
    summary_words: int | None = Field(default=None, ge=1)
    """Most words of the summary that is asked for, with `trace: summary`; 25 by default."""
    max_trace_tokens: int = Field(default=1024, ge=1)
    """Tokens that a teacher's reply may have beside sample.max_new_tokens; a reply that is cut is dropped, and counted."""
    off_share: float = Field(default=0.25, ge=0.0, lt=1.0)
    """Share of the answers that are trained on after an empty trace, without reasoning; with 0 `student.trace: off` was
    never practised."""

    @model_validator(mode="after")
    def _summary_is_asked_for(self) -> Self:
        if self.summary_words is not None and self.trace != "summary":
            raise ValueError(f"summary_words goes with `trace: summary`, and trace is {self.trace}; take it out")
        return self

    @property
    def teaches_traces(self) -> bool:
        """Whether the student learns to write reasoning."""
        return self.trace != "strip"

    @property
    def method(self) -> str:
        """What a model card says of a policy that it trained."""
        learned = {
            "keep": "a teacher's reasoning and answers",
            "summary": "summaries of a teacher's reasoning, and its answers",
            "strip": "a teacher's answers, written after reasoning that is not learned",
        }
        return f"reasoning-trace distillation (supervised fine-tuning on {learned[self.trace]})"

    def reasoning(self, tags: Tags) -> Reasoning:
        """Return how the teacher is asked to reason, and how its replies are read."""
        words = (self.summary_words or SUMMARY_WORDS) if self.trace == "summary" else None
        return Reasoning(tags, self.trace_words, words, self.max_trace_tokens)

    def trace_to_learn(self, draft: Draft, tags: Tags, seed: int) -> str:
        """Return what the student learns to write in front of a teacher's draft; empty for those it answers at once."""
        if seed_of(seed, "without trace", draft.id) < self.off_share * 2**63:
            return ""
        return render_trace(self.reasoning(tags).taught(draft.trace), tags)

    def open(self, context: RunContext) -> None:
        """Keep the run's student and check, before anything is asked, that its tokenizer takes the tags.

        Raises:
            RecipeError: it does not; with the tags that it does take.
            TrainError: TRL knows no such option in `extra`, or `launch` cannot start its processes.
        """
        super().open(context)
        if context.student is not None and self.teaches_traces:
            check_trace_tags(context.student)

    def start_values(self, trainer: Any, job: Job, start: Before) -> dict[str, float]:
        """Return how many tokens the learned reasoning has, and the share of answers that are learned without any."""
        answers = [row.answer for row in job.trained.values()]
        tokens = [len(job.tokenizer.encode(each.trace, add_special_tokens=False)) for each in answers if each.trace]
        found = {"without_trace_share": fmean(not each.trace for each in answers)}
        return {**super().start_values(trainer, job, start), **found, "trace_tokens": fmean(tokens) if tokens else 0.0}
