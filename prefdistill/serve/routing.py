"""Which answers are the student's to give: tests of the prompt alone, and tests that read the student's whole draft.

Every test compares one number with a threshold that `calibrating` found on the validation split; the rubric's checked
gates pass or fail by themselves. Nothing here waits or draws random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from prefdistill.errors import JudgeError, RecipeError, RubricError, did_you_mean
from prefdistill.judges.checks import checked_scores
from prefdistill.records import Draft, Message, Prompt, digest
from prefdistill.rubric import COMPLETE, NO_STRAY_TAGS, RubricSet
from prefdistill.scope import Scope, scope_text
from prefdistill.traces import Tags, likely_answer, stray_tag

TestName = Literal["out_of_scope", "gate", "length", "log_prob"]
TESTS: tuple[TestName, ...] = ("out_of_scope", "gate", "length", "log_prob")
"""In the order in which the first that fires is the reason."""
DRAFT_TESTS: frozenset[TestName] = frozenset({"gate", "length", "log_prob"})
"""Tests that need the student's whole draft, so that a stream is held back until it is there."""
_SETS: dict[str, tuple[TestName, ...]] = {"all": TESTS, "prompt-only": ("out_of_scope",)}
_NO_DRAFT = Draft(id="served", prompt_id="served", source="file:served", policy=None, round=0, purpose="test", index=0,
                  completion="")  # fmt: skip


def parse_routes(text: str) -> frozenset[TestName]:
    """Return the tests that are on: `all`, `prompt-only`, or names with commas between them.

    Raises:
        RecipeError: a name is unknown.
    """
    if text in _SETS:
        return frozenset(_SETS[text])
    names = [name.strip().replace("-", "_") for name in text.split(",") if name.strip()]
    for name in names:
        if name not in TESTS:
            known = (*_SETS, *TESTS)
            raise RecipeError(
                f"--routes: `{name}`{did_you_mean(name, known)}; expected all, prompt-only, or some of {', '.join(TESTS)}"
            )
    if not names:
        raise RecipeError(f"--routes: empty; expected all, prompt-only, or some of {', '.join(TESTS)}")
    return frozenset(test for test in TESTS if test in names)


@dataclass(frozen=True)
class Thresholds:
    """Where the tests fire; None never does."""

    distance: float | None = None
    """Largest distance of a prompt from the training prompts."""
    log_prob: float | None = None
    """Smallest mean log-probability of a draft, nats a token."""
    characters: tuple[float, float] | None = None
    """Shortest and longest draft."""


@dataclass(frozen=True)
class Written:
    """What student or teacher wrote."""

    text: str
    finish: Literal["stop", "length"] = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    log_prob: float | None = None
    """Mean, nats a token at temperature 1; None where nobody said."""
    usd: float | None = 0.0
    """What it cost; None where nobody knows."""


@dataclass(frozen=True)
class Findings:
    """What the tests say about a request."""

    fired: tuple[TestName, ...] = ()
    """In the order of `TESTS`."""
    gates: tuple[str, ...] = ()
    """Gates that the draft failed."""
    not_applied: tuple[str, ...] = ()
    """Gates that do not apply, because the request has none of their fields, say."""
    distance: float | None = None


@dataclass(frozen=True)
class Screen:
    """The tests that are on, with all that they need."""

    on: frozenset[TestName]
    rubrics: RubricSet
    thresholds: Thresholds = field(default_factory=Thresholds)
    scope: Scope | None = None
    """What training prompts are made of; None where the distance is not asked for."""
    tags: Tags | None = None
    """Those around a student's reasoning, none of which may stand in an answer; None where it has none."""

    @property
    def read_drafts(self) -> bool:
        """Whether the student's whole draft must be there before anything is answered."""
        return bool(self.on & DRAFT_TESTS)

    def of_prompt(self, messages: Sequence[Message]) -> Findings:
        """Test a prompt."""
        if self.scope is None or "out_of_scope" not in self.on:
            return Findings()
        distance = self.scope.distance(scope_text(messages))
        limit = self.thresholds.distance
        return Findings(fired=("out_of_scope",) if limit is not None and distance > limit else (), distance=distance)

    def shown(self, written: Written) -> Written:
        """Return a draft as a client may see it: of one with stray tags what is most likely the answer."""
        if not self._stray(written) or self.tags is None:
            return written
        return replace(written, text=likely_answer(written.text, self.tags))

    def of_draft(self, prompt: Prompt, written: Written, own_limit: bool = False) -> Findings:
        """Test a draft; that there is one, with no tag of reasoning in it, is tested whichever tests are on.

        Args:
            prompt: what the student was asked, with the request's fields.
            written: its draft.
            own_limit: whether the client asked for fewer tokens than the run allows, so that a cut draft is its wish.
        """
        fired: list[TestName] = []
        not_applied: tuple[str, ...] = ()
        failed = self._built_in(written, own_limit=True)
        if "gate" in self.on:
            failed, not_applied = self.failed_gates(prompt, written, own_limit)
        if failed:
            fired.append("gate")
        bounds = self.thresholds.characters
        cut_on_purpose = own_limit and written.finish == "length"
        if "length" in self.on and bounds and not cut_on_purpose and not bounds[0] <= len(written.text) <= bounds[1]:
            fired.append("length")
        least = self.thresholds.log_prob
        if "log_prob" in self.on and least is not None and written.log_prob is not None and written.log_prob < least:
            fired.append("log_prob")
        return Findings(tuple(fired), failed, not_applied)

    def failed_gates(
        self, prompt: Prompt, written: Written, own_limit: bool = False
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of the gates that a draft fails, and of those that do not apply to the request."""
        failed = [*self._built_in(written, own_limit)]
        try:
            rubric = self.rubrics.of(prompt)
        except RubricError:  # the request does not say of which kind it is
            return tuple(failed), ("(no rubric)",)
        gates = [gate for gate in rubric.gates if not gate.asked]
        draft = _NO_DRAFT.model_copy(update={"prompt_id": prompt.id, "completion": written.text})
        not_applied = []
        for gate in gates:
            try:
                score = checked_scores(prompt, draft, rubric, [gate])[0].score
            except JudgeError:  # a check that cannot read this request says nothing about the student
                score = None
            if score is None:
                not_applied.append(gate.name)
            elif not gate.passes(score):
                failed.append(gate.name)
        return tuple(failed), tuple(not_applied)

    def _built_in(self, written: Written, own_limit: bool) -> tuple[str, ...]:
        """Return the built-in gates that a draft fails; an empty one is never complete."""
        cut = (written.finish == "length" and not own_limit) or not written.text.strip()
        return (*((COMPLETE,) if cut else ()), *self._stray(written))

    def _stray(self, written: Written) -> tuple[str, ...]:
        return (NO_STRAY_TAGS,) if self.tags is not None and stray_tag(written.text, self.tags) else ()


def log_length(text: str) -> float:
    """Return the logarithm of a text's length in characters, plus one."""
    return math.log1p(len(text))


def to_prompt(messages: tuple[Message, ...], fields: Mapping[str, Any]) -> Prompt:
    """Return a served request as the prompt that checks and judges read."""
    own = [message.model_dump() for message in messages if message.role != "system"]
    return Prompt(id=digest(own, 12), messages=messages, split="test", fields=dict(fields))
