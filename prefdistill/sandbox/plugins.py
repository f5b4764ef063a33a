"""The sandbox's plug-ins: a teacher, and judges that are exact, imperfect or flawed on purpose.

Place in the flow: named in a recipe like any other teacher or judge (`teacher: {use: sandbox}`); nothing in the
toolkit knows them. They run without a model, a key or a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from prefdistill.plugins import Plugin
from prefdistill.protocols import Reply, TeacherRequest
from prefdistill.records import Draft, Failure, Judgement, Prompt, Usage, Verdict
from prefdistill.rubric import Rubric
from prefdistill.sandbox.gold import gold
from prefdistill.sandbox.held_out import CriterionName, held_out_score, noise
from prefdistill.sandbox.world import FACTS, parse_note
from prefdistill.sandbox.writer import write_oracle, write_reasoning


def facts_of(prompt: Prompt) -> Mapping[str, object] | None:
    """Return the facts of a sandbox prompt, from its fields or else from the note itself; None if it is no note."""
    if all(prompt.fields.get(name) for name in FACTS):
        return prompt.fields
    return parse_note(prompt.text)


def to_verdict(prompt: Prompt, drafts: Sequence[Draft], judge: str, values: Sequence[float]) -> Verdict:
    """Make the verdict of a judge that gives one number per draft."""
    return Verdict(
        prompt_id=prompt.id,
        judgements=tuple(
            Judgement(draft_id=draft.id, judge=judge, value=value, scale="custom")
            for draft, value in zip(drafts, values, strict=True)
        ),
    )


def to_failures(prompt: Prompt, drafts: Sequence[Draft], judge: str) -> Verdict:
    """Make the verdict on a prompt that is no note of the sandbox: one failure per draft, no score."""
    message = f"{judge}: the prompt is no sandbox note: expected the fields {', '.join(FACTS)}, or a note to read"
    return Verdict(
        prompt_id=prompt.id,
        failures=tuple(Failure(stage="judge", key=draft.id, kind="parse", message=message) for draft in drafts),
    )


class SandboxTeacher(Plugin):
    """Writes the e-mail of a sandbox note in house style, after reasoning where it is asked to; free, and no judge."""

    def replies(self, requests: Sequence[TeacherRequest]) -> Iterator[Reply | Failure]:
        """Yield one reply per request, or a failure where there is no note to write from."""
        for request in requests:
            note = next((message.content for message in reversed(request.messages) if message.role == "user"), "")
            facts = parse_note(note)
            asked = next((message.content for message in request.messages if message.role == "system"), "")
            if request.schema is not None:
                problem = "asked for structured output, but it only writes e-mails; judge with `use: checks`"
                yield Failure(stage="teacher", key=request.key, kind="refusal", message=f"sandbox teacher: {problem}")
            elif facts is None:
                problem = "found no sandbox note in the last user message"
                yield Failure(stage="teacher", key=request.key, kind="parse", message=f"sandbox teacher: {problem}")
            else:
                text = write_reasoning(facts, asked) + write_oracle(facts)
                yield Reply(key=request.key, text=text, finish_reason="stop", usage=Usage())


class SandboxGold(Plugin):
    """Gives the hidden exact score, 0 to 1. For the report only: it is neither trained on nor selected by."""

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        """Score every draft exactly."""
        facts = facts_of(prompt)
        if facts is None:
            return to_failures(prompt, drafts, "sandbox-gold")
        return to_verdict(prompt, drafts, "sandbox-gold", [gold(draft.completion, facts) for draft in drafts])


class SandboxHeldOut(Plugin):
    """An honest, imperfect second judge for validation: other criteria than the rubric, and noise, but no loophole."""

    noise: float = Field(default=0.12, ge=0.0)
    """Standard deviation of the noise on each score, which depends on seed, prompt and text alone."""
    seed: int = 0
    """Seed of the noise."""

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        """Score every draft, about 0 to 1."""
        facts = facts_of(prompt)
        if facts is None:
            return to_failures(prompt, drafts, "sandbox-held-out")
        values = [
            held_out_score(draft.completion, facts)
            + noise(self.noise, "held-out", self.seed, prompt.id, draft.completion)
            for draft in drafts
        ]
        return to_verdict(prompt, drafts, "sandbox-held-out", values)


class SandboxFlawed(Plugin):
    """The honest score with flaws switched on, to see what a bad judge does to a student."""

    noise: float = Field(default=0.0, ge=0.0)
    """Standard deviation of the noise on each score, which depends on seed, prompt and text alone."""
    length_bias: float = 0.0
    """Added per hundred words of the draft; negative favours short drafts."""
    loophole_phrase: str = ""
    """Phrase that is rewarded for no good reason each time it is used, whatever the case; empty for none."""
    loophole_reward: float = 0.3
    """Added per use of the loophole phrase."""
    position_bias: float = 0.0
    """Added to the draft shown first, falling evenly to nothing at the last."""
    dropped_criterion: CriterionName | None = None
    """Criterion of the honest score that the judge is blind to."""
    seed: int = 0
    """Seed of the noise."""

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        """Score every draft: the honest score and its flaws; not bounded."""
        facts = facts_of(prompt)
        if facts is None:
            return to_failures(prompt, drafts, "sandbox-flawed")
        values = []
        for place, draft in enumerate(drafts):
            text = draft.completion
            value = held_out_score(text, facts, self.dropped_criterion)
            value += noise(self.noise, "flawed", self.seed, prompt.id, text)
            value += self.length_bias * len(text.split()) / 100
            if self.loophole_phrase:
                value += self.loophole_reward * text.lower().count(self.loophole_phrase.lower())
            value += self.position_bias * (len(drafts) - 1 - place) / max(1, len(drafts) - 1)
            values.append(value)
        return to_verdict(prompt, drafts, "sandbox-flawed", values)
