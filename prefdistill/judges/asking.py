"""What the judges that ask a teacher share: whom they ask, how, and the comparison of two drafts in both orders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from prefdistill.errors import PluginError
from prefdistill.judges.checks import checked_scores
from prefdistill.judges.prompts import fence, fence_conversation, load_prompt, prompt_hash, render_prompt
from prefdistill.judges.replies import Reason, UnreadableReplyError, parse_winner, winner_schema
from prefdistill.plugins import Plugin, Use
from prefdistill.protocols import Reply, RunContext, Teacher, TeacherRequest
from prefdistill.records import CriterionScore, Draft, Failure, Message, Preference, Prompt, Usage
from prefdistill.rubric import COMPLETE, Criterion, Rubric, fill
from prefdistill.selection import failed_gates

PROBABILITY = {"first": 1.0, "second": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class Asked:
    """An asked criterion as it stands in a judge's prompt: its fields filled in, its weight left out."""

    name: str
    question: str
    levels: tuple[str, ...]
    pass_when: str | None


@dataclass(frozen=True)
class Checked:
    """One distinct text with what was found without a call."""

    draft: Draft
    """The first draft that has this text."""
    scores: Mapping[str, CriterionScore]
    failed: tuple[str, ...]
    """Gates that it fails already: `complete` and checked ones."""


class AskingJudge(Plugin):
    """Whom to ask and how: the options of every judge that asks a teacher."""

    operational: ClassVar[frozenset[str]] = frozenset({"concurrency"})
    prompt_files: ClassVar[tuple[str, ...]] = ("compare",)
    """The files under judges/prompts that it uses."""

    teacher: Use[Teacher] | None = None
    """Who judges; the recipe's teacher by default."""
    concurrency: int | None = Field(default=None, ge=1, le=1024)
    """Most requests in flight; by default what the teacher says."""
    reason: Reason = "brief"
    """Whether the teacher writes its reason before its verdict: none, brief (one sentence) or full."""
    max_tokens: int = Field(default=2048, ge=16)
    """Room for one reply, reasoning included."""
    temperature: float | None = Field(default=0.0, ge=0.0, le=2.0)
    """None leaves it out, for models that refuse it."""
    tie_margin: float = Field(default=0.0, ge=0.0)
    """Scores no further apart than this are tied, so there is nothing to confirm; keep it equal to pair.tie_margin."""

    _teacher: Any = PrivateAttr(default=None)
    _own: Any = PrivateAttr(default=None)

    def open(self, context: RunContext) -> None:
        """Take the judge's own teacher, or the recipe's, with the judge's own limit where it has one.

        Raises:
            PluginError: there is no teacher.
        """
        teacher: Any = self.teacher if self.teacher is not None else context.teacher
        if teacher is None:
            raise PluginError(
                f"judge {self._use or type(self).__name__}: no teacher to ask; add a `teacher:` section to the recipe, "
                "or `judge.teacher`, or judge with `use: checks`"
            )
        limited = self.concurrency is not None and "concurrency" in getattr(type(teacher), "model_fields", {})
        if limited:
            teacher = teacher.model_copy(update={"concurrency": self.concurrency})
        if self.teacher is not None or limited:
            teacher.open(context)
            self._own = teacher
        self._teacher = teacher
        for name in self.prompt_files:
            load_prompt(name)

    def close(self) -> None:
        """Close what `open` opened."""
        if self._own is not None:
            self._own.close()

    @property
    def threads(self) -> int:
        """How many prompts to judge at once: one a request in flight, since a group may wait for its last reply."""
        return self.concurrency or getattr(self._teacher, "concurrency", None) or 8

    def identity(self) -> dict[str, Any]:
        """Return what verdicts depend on: the teacher (but not its system prompt for writing) and the prompt files."""
        identity = super().identity()
        if isinstance(identity.get("teacher"), dict):
            identity["teacher"].pop("system", None)
        return {**identity, "prompts": {name: prompt_hash(name) for name in self.prompt_files}}

    def ask(self, requests: Sequence[TeacherRequest]) -> dict[str, Reply | Failure]:
        """Return the teacher's replies by key; failures are of stage judge.

        Raises:
            PluginError: the judge was not opened.
        """
        if self._teacher is None:
            raise PluginError(f"judge {self._use or type(self).__name__}: asked before it was opened")
        replies: dict[str, Reply | Failure] = {}
        for reply in self._teacher.replies(requests) if requests else ():
            replies[reply.key] = reply.model_copy(update={"stage": "judge"}) if isinstance(reply, Failure) else reply
        for request in requests:
            lost = Failure(stage="judge", key=request.key, kind="provider", message="the teacher gave no reply")
            replies.setdefault(request.key, lost)
        return replies

    def request(self, key: str, messages: tuple[Message, ...], schema: dict[str, Any]) -> TeacherRequest:
        """Return one request in this judge's manner."""
        return TeacherRequest(key, messages, self.max_tokens, self.temperature, schema)

    def compare(
        self, prompt: Prompt, pairs: Iterable[tuple[Checked, Checked]], rubric: Rubric
    ) -> tuple[list[Preference], list[Failure]]:
        """Ask which of two drafts is better, once in each order, for all pairs at the same time."""
        shown = {f"{a.draft.id}|{b.draft.id}": (a, b) for pair in pairs for a, b in (pair, pair[::-1])}
        schema = winner_schema(self.reason)
        replies = self.ask(
            [self.request(key, self.comparison(prompt, a, b, rubric), schema) for key, (a, b) in shown.items()]
        )
        preferences, failures = [], []
        for key, (a, b) in shown.items():
            reply = replies[key]
            if isinstance(reply, Failure):
                failures.append(reply)
                continue
            try:
                winner, reason = parse_winner(reply.text)
            except UnreadableReplyError as problem:
                failures.append(unreadable(key, problem, reply))
                continue
            preferences.append(
                Preference(
                    first_id=a.draft.id,
                    second_id=b.draft.id,
                    probability=PROBABILITY[winner],
                    judge=self._use or type(self).__name__,
                    reason=reason,
                    usage=reply.usage,
                )
            )
        return preferences, failures

    def comparison(self, prompt: Prompt, first: Checked, second: Checked, rubric: Rubric) -> tuple[Message, ...]:
        """Render the prompt that shows `first` before `second`."""
        checked = [
            (each.name, a, b)
            for each in rubric.checked
            if (a := first.scores[each.name].score) is not None and (b := second.scores[each.name].score) is not None
        ]
        return render_prompt(
            "compare",
            {"purpose": rubric.purpose, "criteria": asked_of(rubric, prompt), "reason": self.reason},
            conversation=fence_conversation(prompt),
            checked=checked,
            first=fence("first", first.draft.completion),
            second=fence("second", second.draft.completion),
        )


def asked_criteria(rubric: Rubric, prompt: Prompt) -> list[Criterion]:
    """Return the criteria that a teacher must answer for this prompt."""
    return [each for each in rubric.asked if each.applies_to(prompt)]


def asked_of(rubric: Rubric, prompt: Prompt) -> tuple[Asked, ...]:
    """Return the same as they stand in a prompt."""
    return tuple(
        Asked(each.name, fill(each.question or "", prompt) or "", each.levels or (), getattr(each, "pass_when", None))
        for each in asked_criteria(rubric, prompt)
    )


def check_texts(prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> dict[tuple[str, bool], Checked]:
    """Apply checks to every distinct text (see `text_key`), once each.

    Raises:
        JudgeError: a check raises.
    """
    found: dict[tuple[str, bool], Checked] = {}
    for draft in drafts:
        if text_key(draft) not in found:
            scores = checked_scores(prompt, draft, rubric)
            cut = (COMPLETE,) if draft.finish_reason == "length" else ()
            failed = (*cut, *failed_gates(scores, rubric))
            found[text_key(draft)] = Checked(draft, {score.criterion: score for score in scores}, failed)
    return found


def text_key(draft: Draft) -> tuple[str, bool]:
    """Return what makes two drafts the same to a judge: the text, and whether it was cut at the token limit."""
    return draft.completion.strip(), draft.finish_reason == "length"


def unreadable(key: str, problem: UnreadableReplyError, reply: Reply) -> Failure:
    """Return the failure of a reply without a verdict; its cost is kept."""
    return Failure(stage="judge", key=key, kind="parse", message=str(problem), reply=reply.text, usage=reply.usage)


def for_each_draft(failure: Failure, drafts: Iterable[Draft]) -> list[Failure]:
    """Return one text's failure for every draft that has this text; the cost is counted once."""
    return [
        failure.model_copy(update={"key": draft.id, "usage": Usage() if number else failure.usage})
        for number, draft in enumerate(drafts)
    ]
