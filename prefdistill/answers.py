"""Rounds that learn from the teacher's answers: its answers to the round's prompts, instead of drafts and pairs.

Place in the flow: instead of sampling, judging and pairing, for a trainer that `learns_from` answers. Checked gates cost
nothing and always count. The judge is asked only where the rubric has gates that must be asked, and only they count: a
criterion says which of two drafts is better, and here there is one.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from prefdistill.assembly import Workshop
from prefdistill.drafting import Judged, Wanted, drafts_and_verdicts
from prefdistill.errors import JudgeError
from prefdistill.judges.checks import checked_scores
from prefdistill.recipe import Recipe
from prefdistill.records import Answer, Draft, Drop, Prompt, Verdict
from prefdistill.round import Paired
from prefdistill.rubric import RubricSet
from prefdistill.selection import failed_gates, is_broken, outvoted, pool_scores, split_gates
from prefdistill.traces import Reasoning, empty_block

Reason = Literal[
    "not_written",
    "unreadable",
    "too_long",
    "incomplete",
    "broken_text",
    "failed_gates",
    "not_judged",
    "judge_failed",
    "gate_undecided",
]
"""Why a prompt gave no answer to train on.

not_written: the teacher failed on it, refused it, or said nothing. unreadable: it was asked to reason first, and where
its answer begins cannot be told, or nothing is there. too_long: with its reasoning it has more tokens than the student
may write. incomplete: cut at the token limit. broken_text: it has a character in pieces. failed_gates: it fails gates of
the rubric. not_judged, judge_failed, gate_undecided: gates must be asked, and there is no verdict, a failure, or a panel
that split evenly.
"""
REASONS: tuple[str, ...] = get_args(Reason)


def write_answers(shop: Workshop, number: int, prompts: tuple[Prompt, ...]) -> tuple[Judged, Paired]:
    """Have the teacher answer a round's prompts, and return its drafts and what of them is trained on."""
    judges = {"verdicts": shop.judge} if judges_gates(shop.rubrics, shop.judge) else {}
    judged = drafts_and_verdicts(shop, wanted_answers(shop, number, prompts), judges)
    if not judges:
        shop.run.set_aside([shop.run.round(number) / "2-verdicts.jsonl"])  # of a round that learned otherwise before
    judged.verdicts.setdefault("verdicts", {})
    found = [row for prompt in judged.prompts for row in _answers(shop, number, judged, prompt, bool(judges))]
    answers = tuple(sorted((row for row in found if isinstance(row, Answer)), key=lambda answer: answer.id))
    return judged, Paired((), (), tuple(row for row in found if isinstance(row, Drop)), answers=answers)


def judges_gates(rubrics: RubricSet, judge: Any) -> bool:
    """Whether the judge is asked about answers: a gate must be asked, and the judge can tell of one draft alone."""
    asked = any(gate.asked for rubric in rubrics.rubrics.values() for gate in rubric.gates)
    return asked and bool(getattr(judge, "scores_alone", True))


def reasoning_of(trainer: Any, recipe: Recipe) -> Reasoning | None:
    """Return how a trainer wants the teacher to reason before it answers; None where it wants answers alone."""
    found: Reasoning | None = trainer.reasoning(recipe.student.tags) if hasattr(trainer, "reasoning") else None
    return found


def wanted_answers(shop: Workshop, number: int, prompts: tuple[Prompt, ...]) -> Wanted:
    """Return what the teacher is to answer in a round."""
    recipe = shop.recipe
    return Wanted(
        folder=shop.run.round(number),
        prefix="",
        prompts=prompts,
        policy=None,
        source="teacher",
        round=number,
        purpose="train",
        drafts=shop.recipe.answers_of(number),
        reasoning=reasoning_of(shop.trainer_of(number), recipe),
        temperature=recipe.evaluate.temperature,
        top_p=recipe.evaluate.top_p,
        policy_fingerprint="",
        stage="sample",
    )


def _answers(shop: Workshop, number: int, judged: Judged, prompt: Prompt, asked: bool) -> list[Answer | Drop]:
    """Return a prompt's answers, equal ones once, or the one reason why it has none."""
    drafts = sorted((each for each in judged.drafts.values() if each.prompt_id == prompt.id), key=lambda each: each.id)
    verdict = judged.verdicts["verdicts"].get(prompt.id)
    answers: dict[str, Answer] = {}
    refused: list[tuple[Reason, str]] = []
    for draft in drafts:
        text = draft.completion.strip()
        reason, detail = _refused(shop, prompt, draft, verdict, asked) if text else ("not_written", "")
        if reason is not None:
            refused.append((reason, detail))
        elif text not in answers:
            answer = Answer(
                id=draft.id,
                prompt_id=prompt.id,
                round=number,
                prompt=prompt.messages,
                completion=text,
                **_begun(shop, number, draft),
            )
            if detail := _too_long(shop, answer):
                refused.append(("too_long", detail))
            else:
                answers[text] = answer
    if answers:
        return list(answers.values())
    failures = [failure for failure in judged.failures if failure.key.split("/")[0] == prompt.id]
    reason, detail = refused[0] if refused else ("not_written", "")
    if reason == "not_written" and failures:
        detail = failures[0].message
        if failures[0].kind in ("parse", "truncated") and hasattr(shop.trainer_of(number), "reasoning"):
            reason = "unreadable"
    return [Drop(prompt_id=prompt.id, round=number, reason=reason, detail=detail)]


def _begun(shop: Workshop, number: int, draft: Draft) -> dict[str, str]:
    """Return what stands before the completion of an answer: the reasoning to learn, or an empty trace that is given.

    An answer without reasoning for a student that reasons comes after an empty trace, in place of unlearning it.
    """
    student = shop.recipe.student
    trainer: Any = shop.trainer_of(number)
    trace = ""
    if draft.trace and getattr(trainer, "teaches_traces", False):
        trace = str(trainer.trace_to_learn(draft, student.tags, shop.recipe.seed))
    return {"trace": trace, "block": empty_block(student.tags) if student.trace is not None and not trace else ""}


def _too_long(shop: Workshop, answer: Answer) -> str:
    """Return why the student could never write an answer and its reasoning to their end; empty where it can."""
    from prefdistill.student import load_tokenizer

    if not answer.trace:
        return ""
    most = shop.recipe.sample.max_new_tokens
    tokens = len(load_tokenizer(shop.recipe.student).encode(answer.written, add_special_tokens=False)) + 1
    if tokens <= most:
        return ""
    return f"{tokens} tokens with its reasoning and the end token; sample.max_new_tokens is {most}"


def _refused(
    shop: Workshop, prompt: Prompt, draft: Draft, verdict: Verdict | None, asked: bool
) -> tuple[Reason | None, str]:
    """Return why a draft is not trained on, with a word on it; (None, "") where it is."""
    rubric = shop.rubrics.of(prompt)
    if draft.finish_reason == "length":
        return "incomplete", ""
    if is_broken(draft.completion):
        return "broken_text", ""
    try:
        free = checked_scores(prompt, draft, rubric, [gate for gate in rubric.gates if not gate.asked])
    except JudgeError as problem:
        return "judge_failed", str(problem)
    if failed := failed_gates(free, rubric):
        return "failed_gates", ", ".join(failed)
    if not asked:
        return None, ""
    if verdict is None:
        return "not_judged", ""
    mine = [judgement for judgement in verdict.judgements if judgement.draft_id == draft.id]
    if outvoted(verdict.failures, (draft.id,), {each.member for each in mine if each.member}):
        return "judge_failed", next((failure.message for failure in verdict.failures), "")
    scores = pool_scores(mine)
    if split := split_gates(scores, rubric):
        return "gate_undecided", ", ".join(split)
    failed = failed_gates(scores, rubric)
    return ("failed_gates", ", ".join(failed)) if failed else (None, "")
