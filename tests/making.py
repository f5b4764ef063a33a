"""Records for tests, made in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefdistill.protocols import RunContext
from prefdistill.records import (
    CriterionScore,
    Draft,
    Failure,
    Judgement,
    Message,
    Preference,
    Prompt,
    Verdict,
)
from prefdistill.requests.layer import RequestLayer
from prefdistill.rubric import Rubric, RubricSet
from prefdistill.teachers.openai import OpenAITeacher


def make_prompt(id: str = "p", text: str = "Write it.", **fields: Any) -> Prompt:
    return Prompt(id=id, messages=(Message(role="user", content=text),), split="train", fields=fields)


def make_draft(text: str, index: int = 0, prompt_id: str = "p", cut: bool = False, round: int = 1) -> Draft:
    return Draft(
        id=Draft.make_id(prompt_id, "file:x", round, "train", index),
        prompt_id=prompt_id,
        source="file:x",
        policy=None,
        round=round,
        purpose="train",
        index=index,
        completion=text,
        finish_reason="length" if cut else "stop",
    )


def make_drafts(texts: Iterable[str], prompt_id: str = "p", cut: Sequence[int] = ()) -> list[Draft]:
    return [make_draft(text, index, prompt_id, index in cut) for index, text in enumerate(texts)]


def make_rubric(*criteria: Mapping[str, Any], gates: Sequence[Mapping[str, Any]] = (), **other: Any) -> Rubric:
    rubric = Rubric.model_validate({"name": "test", "criteria": list(criteria), "gates": list(gates), **other})
    rubric._directory = Path(__file__).parent
    return rubric


ASKED = {"name": "good", "question": "Is it good?", "levels": ["no", "hardly", "partly", "mostly", "yes"]}
LENGTH = {"name": "length", "check": "making.py:length_check"}
CLEAN = {"name": "clean", "check": "making.py:clean_check"}


def length_check(prompt: Prompt, text: str) -> float:
    """A check: the longer, the better, up to 100 characters."""
    return min(1.0, len(text) / 100)


def clean_check(prompt: Prompt, text: str) -> float:
    """A gate's check: fails on the word BAD."""
    return 0.0 if "BAD" in text else 1.0


def one_rubric(rubric: Rubric) -> RubricSet:
    return RubricSet(rubrics={"": rubric})


def scored(draft: Draft, score: float | None, gate: float | None = None, member: str | None = None) -> Judgement:
    """A rubric judgement of the criterion `good`, and of the gate `clean` where one is given."""
    scores = [CriterionScore(criterion="good", applies=score is not None, score=score, path="parsed")]
    if gate is not None:
        scores.append(CriterionScore(criterion="clean", score=gate, path="checked"))
    return Judgement(draft_id=draft.id, judge="t", scores=tuple(scores), scale="rubric", member=member)


def valued(draft: Draft, value: float) -> Judgement:
    return Judgement(draft_id=draft.id, judge="t", value=value, scale="custom")


def preferred(first: Draft, second: Draft, probability: float) -> Preference:
    return Preference(first_id=first.id, second_id=second.id, probability=probability, judge="t")


def both_orders(winner: Draft, loser: Draft) -> list[Preference]:
    return [preferred(winner, loser, 1.0), preferred(loser, winner, 0.0)]


def failed(key: str, kind: str = "parse") -> Failure:
    return Failure.model_validate({"stage": "judge", "key": key, "kind": kind, "message": "no verdict"})


def make_verdict(
    judgements: Iterable[Judgement] = (), preferences: Iterable[Preference] = (), failures: Iterable[Failure] = ()
) -> Verdict:
    return Verdict(
        prompt_id="p", judgements=tuple(judgements), preferences=tuple(preferences), failures=tuple(failures)
    )


def opened_teacher(url: str, cache: Path | str, **options: Any) -> tuple[OpenAITeacher, RequestLayer]:
    """A teacher at `url` behind a request layer of its own."""
    layer = RequestLayer(cache=cache)
    teacher = OpenAITeacher(model="m", base_url=url, **options)
    teacher.open(RunContext(directory=Path(), seed=0, requests=layer))
    return teacher, layer
