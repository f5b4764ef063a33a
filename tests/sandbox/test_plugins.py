"""The sandbox's teacher and judges as the loop meets them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from prefdistill.protocols import Judge, Reply, Teacher, TeacherRequest
from prefdistill.records import Draft, Failure, Message, Prompt, Verdict
from prefdistill.rubric import Criterion, Rubric
from prefdistill.sandbox.plugins import SandboxFlawed, SandboxGold, SandboxHeldOut, SandboxTeacher
from prefdistill.sandbox.world import FACTS, notes
from prefdistill.sandbox.writer import write_mixture, write_oracle

RUBRIC = Rubric(name="any", criteria=(Criterion.model_validate({"name": "short", "check": "length"}),))


def prompt_of(row: dict[str, str], with_fields: bool = True) -> Prompt:
    fields = {name: row[name] for name in FACTS} if with_fields else {}
    return Prompt(id=row["id"], messages=(Message(role="user", content=row["prompt"]),), split="train", fields=fields)


def drafts_of(prompt: Prompt, texts: list[str]) -> list[Draft]:
    return [
        Draft(
            id=Draft.make_id(prompt.id, "file:x", 1, "train", index), prompt_id=prompt.id, source="file:x", policy=None,
            round=1, purpose="train", index=index, completion=text,
        )
        for index, text in enumerate(texts)
    ]  # fmt: skip


def values(verdict: Verdict) -> list[float]:
    assert not verdict.failures
    assert all(each.scale == "custom" for each in verdict.judgements)
    return [each.value for each in verdict.judgements if each.value is not None]


@pytest.fixture
def case() -> tuple[Prompt, list[Draft]]:
    import random

    row = next(notes(1, 11))
    rng = random.Random(2)
    prompt = prompt_of(row)
    return prompt, drafts_of(prompt, [write_oracle(row), *(write_mixture(row, rng) for _ in range(5))])


def test_they_keep_the_contracts() -> None:
    assert isinstance(SandboxTeacher(), Teacher)
    for judge in (SandboxGold(), SandboxHeldOut(), SandboxFlawed()):
        assert isinstance(judge, Judge)


def test_teacher_writes_the_oracles_email_whatever_surrounds_the_note() -> None:
    rows = list(notes(20, 12))
    requests = [
        TeacherRequest(
            key=row["id"],
            messages=(Message(role="system", content="Write well."), Message(role="user", content=row["prompt"])),
            max_tokens=128,
        )
        for row in rows
    ]
    replies = list(SandboxTeacher().replies(requests))
    assert replies == list(SandboxTeacher().replies(requests))
    for row, reply in zip(rows, replies, strict=True):
        assert isinstance(reply, Reply)
        assert reply.key == row["id"]
        assert reply.finish_reason == "stop"
        assert reply.text == write_oracle({name: row[name] for name in FACTS})


def test_teacher_fails_where_there_is_no_note_and_refuses_to_judge() -> None:
    row = next(notes(1, 13))
    requests = [
        TeacherRequest(key="a", messages=(Message(role="user", content="Tell me a story."),), max_tokens=10),
        TeacherRequest(
            key="b", messages=(Message(role="user", content=row["prompt"]),), max_tokens=10, schema={"type": "object"}
        ),
    ]
    answers = list(SandboxTeacher().replies(requests))
    assert all(isinstance(answer, Failure) for answer in answers)
    assert [(answer.key, answer.kind) for answer in answers if isinstance(answer, Failure)] == [
        ("a", "parse"),
        ("b", "refusal"),
    ]


def test_gold_judge_reads_the_fields_or_else_the_note(case: tuple[Prompt, list[Draft]]) -> None:
    prompt, drafts = case
    scores = values(SandboxGold().judge(prompt, drafts, RUBRIC))
    assert scores[0] == pytest.approx(1.0)
    assert min(scores) < 0.7
    bare = prompt.model_copy(update={"fields": {}})
    assert values(SandboxGold().judge(bare, drafts, RUBRIC)) == scores


@pytest.mark.parametrize("judge", [SandboxGold(), SandboxHeldOut(), SandboxFlawed()])
def test_another_prompt_is_a_failure_per_draft_and_no_score(
    judge: SandboxGold | SandboxHeldOut | SandboxFlawed,
) -> None:
    prompt = Prompt(id="p", messages=(Message(role="user", content="Tell me a story."),), split="train")
    verdict = judge.judge(prompt, drafts_of(prompt, ["once", "upon"]), RUBRIC)
    assert not verdict.judgements
    assert [failure.key for failure in verdict.failures] == ["p/file:x/train-01/0", "p/file:x/train-01/1"]


def test_held_out_noise_is_repeatable_seeded_and_can_be_switched_off(case: tuple[Prompt, list[Draft]]) -> None:
    prompt, drafts = case
    first = values(SandboxHeldOut().judge(prompt, drafts, RUBRIC))
    assert first == values(SandboxHeldOut().judge(prompt, drafts, RUBRIC))
    assert first[::-1] == values(SandboxHeldOut().judge(prompt, drafts[::-1], RUBRIC))
    assert first != values(SandboxHeldOut(seed=1).judge(prompt, drafts, RUBRIC))
    exact = values(SandboxHeldOut(noise=0.0).judge(prompt, drafts, RUBRIC))
    assert exact[0] == pytest.approx(1.0)
    assert all(0.0 <= value <= 1.0 for value in exact)


def test_each_flaw_is_a_switch_of_its_own(case: tuple[Prompt, list[Draft]]) -> None:
    prompt, drafts = case
    honest = values(SandboxHeldOut(noise=0.0).judge(prompt, drafts, RUBRIC))

    def added(judge: SandboxFlawed) -> list[float]:
        scores = values(judge.judge(prompt, drafts, RUBRIC))
        return [score - base for score, base in zip(scores, honest, strict=True)]

    assert added(SandboxFlawed()) == pytest.approx([0.0] * 6)
    assert added(SandboxFlawed(length_bias=2.0)) == pytest.approx(
        [2.0 * len(draft.completion.split()) / 100 for draft in drafts]
    )
    assert added(SandboxFlawed(position_bias=0.5)) == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    loophole = added(SandboxFlawed(loophole_phrase="THANK", loophole_reward=0.2))
    assert loophole == pytest.approx([0.2 * draft.completion.lower().count("thank") for draft in drafts])
    assert max(map(abs, added(SandboxFlawed(noise=0.3)))) > 0.01
    assert any(abs(value) > 0.01 for value in added(SandboxFlawed(dropped_criterion="ask_early")))


def test_a_typo_in_the_options_is_refused() -> None:
    with pytest.raises(ValidationError):
        SandboxFlawed.model_validate({"lenght_bias": 1.0})
    with pytest.raises(ValidationError):
        SandboxFlawed.model_validate({"dropped_criterion": "brevity"})


def test_judging_nothing_gives_an_empty_verdict() -> None:
    prompt = prompt_of(next(notes(1, 14)))
    for judge in (SandboxGold(), SandboxHeldOut(), SandboxFlawed(position_bias=1.0)):
        assert judge.judge(prompt, [], RUBRIC) == Verdict(prompt_id=prompt.id)
