"""What the judges that ask a teacher share: whom they ask, how, and the comparison of two drafts in both orders."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import Field, PrivateAttr, model_validator

from prefdistill.errors import PluginError
from prefdistill.judges.distributions import distribution, mean, spans
from prefdistill.judges.prompts import fence, fence_conversation, load_prompt, prompt_hash, render_prompt
from prefdistill.judges.replies import Reason, Winner, parse_winner, verdict_range, winner_schema
from prefdistill.judges.texts import Asked, Checked, asked_of, check_texts
from prefdistill.judges.unanswered import readable, spent, without_log_probs
from prefdistill.plugins import Plugin, Use, name_of
from prefdistill.protocols import Reply, RunContext, Teacher, TeacherRequest
from prefdistill.records import Draft, Failure, Message, Preference, Prompt, ScorePath, Verdict
from prefdistill.requests.calls import SetAside
from prefdistill.rubric import Rubric
from prefdistill.selection import compare as compared_in_both_orders

PROBABILITY: dict[str, float] = {"first": 1.0, "second": 0.0, "tie": 0.5}
AGAIN = 1_000
"""Repeat numbers a judge may use up before `repeated` begins a new count."""

Scoring = Literal["auto", "logprob", "sampled", "parsed"]


@dataclass(frozen=True)
class Example:
    """A golden pair as it stands in a judge's prompt, its texts fenced."""

    request: str
    better: str
    worse: str
    because: str


@dataclass(frozen=True)
class Member:
    """One teacher that is asked."""

    name: str | None
    """None where it is the only one."""
    teacher: Any


class AskingJudge(Plugin):
    """Whom to ask and how: the options of every judge that asks a teacher."""

    operational: ClassVar[frozenset[str]] = frozenset({"concurrency", "stage_deadline_seconds"})
    prompt_files: ClassVar[tuple[str, ...]] = ("compare",)
    """The files under judges/prompts that it uses."""
    brings_teacher: ClassVar[bool] = False
    """Whether it has a teacher of its own, so that the recipe needs none."""

    teacher: Use[Teacher] | None = None
    """Who judges; the recipe's teacher by default."""
    panel: tuple[Use[Teacher], ...] = ()
    """Several teachers instead of one: their scores are averaged, their own judgements kept."""
    concurrency: int | None = Field(default=None, ge=1, le=1024)
    """Most requests in flight; by default what the teacher says."""
    stage_deadline_seconds: float | None = Field(default=None, gt=0.0)
    """Most time for judging once all drafts are there, waits for batches left out; then the run stops, to go on later."""
    reason: Reason = "brief"
    """Whether the teacher writes its reason before its verdict: none, brief (one sentence) or full."""
    scoring: Scoring = "auto"
    """What a score is: logprob, the mean of the level distribution (a reply without usable log-probabilities fails);
    sampled, the mean of `samples` replies; parsed, the level named; auto, logprob where the server gives them, else
    parsed. Which it was stands in every score."""
    samples: int = Field(default=5, ge=2, le=100)
    """Replies a score with `scoring: sampled`."""
    sample_temperature: float = Field(default=1.0, gt=0.0, le=2.0)
    """Temperature of those replies."""
    on_disagree: Literal["drop", "tie", "repeat"] = "drop"
    """When the two orders of a comparison name different winners: drop the pair; count it as a tie (no pair either);
    or repeat both orders, up to `repeats` times, and average all."""
    repeats: int = Field(default=2, ge=1, le=20)
    golden_examples: int = Field(default=0, ge=0)
    """How many of the rubric's tests are shown to the teacher as examples."""
    max_tokens: int = Field(default=2048, ge=16)
    """Room for one reply, reasoning included."""
    temperature: float | None = Field(default=0.0, ge=0.0, le=2.0)
    """None leaves it out, for models that refuse it."""
    tie_margin: float = Field(default=0.0, ge=0.0)
    """Scores no further apart than this are tied, so there is nothing to confirm; keep it equal to pair.tie_margin."""

    _members: tuple[Member, ...] = PrivateAttr(default=())
    _own: list[Any] = PrivateAttr(default_factory=list)
    _layer: Any = PrivateAttr(default=None)
    _again: int = PrivateAttr(default=0)

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if self.teacher is not None and self.panel:
            raise ValueError("give `teacher` (one) or `panel` (several), not both")
        if len(self.panel) == 1:
            raise ValueError("a panel of one is a teacher: use `teacher`, or name at least two")
        return self

    def open(self, context: RunContext) -> None:
        """Take the judge's own teachers, or the recipe's, with the judge's own limit where it has one.

        Raises:
            PluginError: there is no teacher.
        """
        opened = []
        for teacher, own in self.teachers_for(context):
            limited = self.concurrency is not None and "concurrency" in getattr(type(teacher), "model_fields", {})
            if limited:
                teacher = teacher.model_copy(update={"concurrency": self.concurrency})
            if own or limited:
                teacher.open(context)
                self._own.append(teacher)
            opened.append(teacher)
        self.ask_these(opened)
        self._layer = context.requests
        for name in self.prompt_files:
            load_prompt(name)

    def teachers_for(self, context: RunContext) -> list[tuple[Any, bool]]:
        """Return whom to ask, and whether they are the judge's own to open and to close.

        Raises:
            PluginError: there is no teacher.
        """
        if self.panel:
            return [(teacher, True) for teacher in self.panel]
        if self.teacher is not None:
            return [(self.teacher, True)]
        if context.teacher is None:
            raise PluginError(
                f"judge {self.name}: no teacher to ask; add a `teacher:` section to the recipe, "
                "or `judge.teacher`, or judge with `use: checks`"
            )
        return [(context.teacher, False)]

    def ask_these(self, teachers: Sequence[Any]) -> None:
        """Ask these teachers, which are open; several are named by their models."""
        names = [str(getattr(each, "model", None) or name_of(each)) for each in teachers]
        seen: Counter[str] = Counter()
        members = []
        for name, teacher in zip(names, teachers, strict=True):
            seen[name] += 1
            unique = name if seen[name] == 1 else f"{name}#{seen[name]}"
            members.append(Member(unique if len(teachers) > 1 else None, teacher))
        self._members = tuple(members)

    def close(self) -> None:
        """Close what `open` opened."""
        while self._own:
            self._own.pop().close()

    def repeated(self, number: int) -> Self:
        """Return this judge, opened as it is, asking the same questions as new requests; 0 is the judge itself."""
        judge = self.model_copy()
        judge._again = number
        judge._own = []
        return judge

    def known(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        """Return the verdict where the request cache holds every reply that it takes.

        Raises:
            SetAside: a reply is missing, or a teacher's replies are not kept.
        """
        if self._layer is None or not all(getattr(each.teacher, "keeps_replies", False) for each in self.members):
            raise SetAside
        with self._layer.known_only():
            return self.judge(prompt, drafts, rubric)

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        """Judge all drafts of one prompt."""
        raise NotImplementedError(f"{type(self).__name__} has no judge method")

    @property
    def name(self) -> str:
        """What the judge is called in its verdicts."""
        return name_of(self)

    @property
    def members(self) -> tuple[Member, ...]:
        """The teachers that are asked.

        Raises:
            PluginError: the judge was not opened.
        """
        if not self._members:
            raise PluginError(f"judge {self.name}: asked before it was opened")
        return self._members

    @property
    def threads(self) -> int:
        """How many prompts to judge at once: one a request in flight, since a group may wait for its last reply."""
        if self.concurrency:
            return self.concurrency * max(1, len(self._members))
        return sum(getattr(member.teacher, "concurrency", None) or 8 for member in self._members) or 8

    def identity(self) -> dict[str, Any]:
        """Return what verdicts depend on: the teachers (but not their system prompt for writing) and the prompt files."""
        identity = super().identity()
        for teacher in (identity.get("teacher"), *identity.get("panel", ())):
            if isinstance(teacher, dict):
                teacher.pop("system", None)
        return {**identity, "prompts": {name: prompt_hash(name) for name in self.prompt_files}}

    def ask(self, requests: Sequence[TeacherRequest], member: Member) -> dict[str, Reply | Failure]:
        """Return one teacher's replies by key; failures are of stage judge."""
        replies: dict[str, Reply | Failure] = {}
        try:
            for reply in member.teacher.replies(requests) if requests else ():
                if isinstance(reply, Failure):
                    reply = reply.model_copy(update={"stage": "judge", "member": member.name})
                replies[reply.key] = reply
        except SetAside:  # the rest of the panel is asked now, so that one batch each is enough
            for other in self.members[self.members.index(member) + 1 :]:
                with suppress(SetAside):
                    list(other.teacher.replies(requests))
            raise
        for request in requests:
            if request.key not in replies:
                replies[request.key] = Failure(
                    stage="judge",
                    key=request.key,
                    kind="provider",
                    message="the teacher gave no reply",
                    member=member.name,
                )
        return replies

    def request(
        self,
        key: str,
        messages: tuple[Message, ...],
        schema: dict[str, Any],
        menu: int = 0,
        repeat: int = 0,
        sampled: bool = False,
    ) -> TeacherRequest:
        """Return one request in this judge's manner; `menu` is the number of answers whose probabilities are wanted."""
        return TeacherRequest(
            key,
            messages,
            self.max_tokens,
            self.sample_temperature if sampled else self.temperature,
            schema,
            repeat=repeat + AGAIN * self._again,
            logprobs=min(20, menu + 3) if menu and self.scoring in ("auto", "logprob") else 0,
        )

    def compare(
        self, prompt: Prompt, pairs: Iterable[tuple[Checked, Checked]], rubric: Rubric
    ) -> tuple[list[Preference], list[Failure]]:
        """Ask which of two drafts is better, once in each order, for all pairs at the same time.

        With `on_disagree: repeat` pairs whose orders disagree are asked again, until their average is of one mind.
        """
        preferences: list[Preference] = []
        failures: list[Failure] = []
        wanted = list(pairs)
        for repeat in range(1 + (self.repeats if self.on_disagree == "repeat" else 0)):
            for member in self.members:
                found, lost = self._compare_once(prompt, wanted, rubric, member, repeat)
                preferences += found
                failures += lost
            wanted = [two for two in wanted if _is_split(preferences, *two)]
            if not wanted:
                break
        return preferences, failures

    def _compare_once(
        self, prompt: Prompt, pairs: Sequence[tuple[Checked, Checked]], rubric: Rubric, member: Member, repeat: int
    ) -> tuple[list[Preference], list[Failure]]:
        shown = {f"{a.draft.id}|{b.draft.id}": (a, b) for pair in pairs for a, b in (pair, pair[::-1])}
        requests = self._comparisons(prompt, shown, rubric, repeat)
        replies = self.ask([each for several in requests.values() for each in several], member)
        preferences: list[Preference] = []
        failures: list[Failure] = []
        for key, (a, b) in shown.items():
            several = [replies[each.key] for each in requests[key]]
            found = self._read_winner(key, several)
            if isinstance(found, Failure):
                failures.append(found.model_copy(update={"member": member.name}))
                continue
            probability, path, reason = found
            preferences.append(
                Preference(
                    first_id=a.draft.id,
                    second_id=b.draft.id,
                    probability=probability,
                    judge=self.name,
                    member=member.name,
                    repeat=repeat,
                    path=path,
                    reason=reason,
                    usage=spent(several),
                )
            )
        return preferences, failures

    def _comparisons(
        self, prompt: Prompt, shown: Mapping[str, tuple[Checked, Checked]], rubric: Rubric, repeat: int = 0
    ) -> dict[str, list[TeacherRequest]]:
        """Return the requests of each comparison by its key: one, or `samples` of them."""
        schema, count = winner_schema(self.reason), self.replies_wanted
        about, conversation = self.about(rubric, asked_of(rubric, prompt)), fence_conversation(prompt)
        rendered = {key: self.comparison(about, conversation, a, b, rubric) for key, (a, b) in shown.items()}
        return {
            key: [
                self.request(
                    f"{key}#{number}",
                    messages,
                    schema,
                    menu=len(PROBABILITY),
                    repeat=repeat * count + number,
                    sampled=self.scoring == "sampled",
                )
                for number in range(count)
            ]
            for key, messages in rendered.items()
        }

    @property
    def replies_wanted(self) -> int:
        """Replies to one question."""
        return self.samples if self.scoring == "sampled" else 1

    def _read_winner(self, key: str, replies: Sequence[Reply | Failure]) -> tuple[float, ScorePath, str] | Failure:
        """Return the probability that the first shown is better, how it was obtained, and the reason."""
        read = readable(key, replies, lambda reply: parse_winner(reply.text))
        if isinstance(read, Failure):
            return read
        winner, reason = read[0][1]
        if self.scoring == "sampled":
            return sum(PROBABILITY[each[0]] for _, each in read) / len(read), "sampled", reason
        menu = get_args(Winner)
        shares = self.shares_of(read[0][0], "winner", (), menu, winner)
        if shares is not None:
            return mean(shares, PROBABILITY, menu), "logprob", reason
        if self.scoring == "logprob":
            return without_log_probs(key, read[0][0], "winner")
        return PROBABILITY[winner], "parsed", reason

    def shares_of(
        self, reply: Reply, key: str, path: tuple[str, ...], menu: Sequence[str], answer: str
    ) -> tuple[float, ...] | None:
        """Return the distribution over the menu of `answer`, read under `key`; None where not wanted or not usable."""
        if not reply.tokens or self.scoring not in ("auto", "logprob"):
            return None
        verdict = verdict_range(reply.text, (*path, key)[0])
        if verdict is None:
            return None
        start, end = verdict
        places = [(start + a, start + b) for a, b in spans(reply.text[start:end], key, path)]
        if len(places) != 1 or reply.text[slice(*places[0])].strip().casefold() != answer.strip().casefold():
            return None
        return distribution(reply.text, reply.tokens, places[0], menu)

    def note_parsed(self, paths: Iterable[ScorePath]) -> None:
        """Tell the user, once a run, that some answers came without usable log-probabilities."""
        if self.scoring == "auto" and "parsed" in paths and self._layer is not None:
            self._layer.note(
                f"judge {self.name}: the teacher gave no usable log-probabilities for some answers; "
                "their levels are used as parsed (judge.scoring: auto)"
            )

    def comparison(
        self, about: Mapping[str, Any], conversation: str, first: Checked, second: Checked, rubric: Rubric
    ) -> tuple[Message, ...]:
        """Render the prompt that shows `first` before `second`, from what `about` says and the fenced conversation."""
        checked = [
            (each.name, a, b)
            for each in rubric.checked
            if (a := first.scores[each.name].score) is not None and (b := second.scores[each.name].score) is not None
        ]
        return render_prompt(
            "compare",
            about,
            conversation=conversation,
            checked=checked,
            first=fence("first", first.draft.completion),
            second=fence("second", second.draft.completion),
        )

    def about(self, rubric: Rubric, criteria: tuple[Asked, ...]) -> dict[str, Any]:
        """Return what a prompt says before the drafts: the same for many of them."""
        examples = tuple(
            Example(
                fence("request", each.prompt), fence("better", each.better), fence("worse", each.worse), each.because
            )
            for each in rubric.tests
            if each.because in {criterion.name for criterion in criteria}
        )[: self.golden_examples]
        return {"purpose": rubric.purpose, "criteria": criteria, "reason": self.reason, "examples": examples}

    def expected_requests(
        self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric
    ) -> list[tuple[Teacher, TeacherRequest]]:
        """Return every request that judging this group makes where nothing fails, ties or is in the cache."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it asks")

    def expected_comparisons(
        self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric, count: int
    ) -> list[tuple[Teacher, TeacherRequest]]:
        """Return the requests of `count` comparisons in both orders, drafts taken in turn."""
        texts = list(check_texts(prompt, drafts, rubric).values())
        if len(texts) < 2:
            return []
        shown: dict[str, tuple[Checked, Checked]] = {}
        for number in range(count):
            a, b = texts[number % len(texts)], texts[(number + 1 + number // len(texts)) % len(texts)]
            if a is b:
                b = texts[(number + 1) % len(texts)]
            shown |= {f"{number}|{order}": two for order, two in enumerate(((a, b), (b, a)))}
        requests = self._comparisons(prompt, shown, rubric)
        return [(member.teacher, each) for member in self.members for several in requests.values() for each in several]


def swiss_rounds(drafts: int) -> int:
    """Return how many rounds a Swiss tournament takes until at most one draft has won all: 3 for 8 drafts."""
    return max(1, math.ceil(math.log2(max(2, drafts))))


def _is_split(preferences: Sequence[Preference], a: Checked, b: Checked) -> bool:
    """Whether two drafts were compared in both orders and the averages name different winners."""
    found = compared_in_both_orders(preferences, a.draft.id, b.draft.id)
    return found is not None and not found.agree and not found.tied
