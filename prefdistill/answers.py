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
from prefdistill.records import Answer, Draft, Drop, Prompt, Verdict
from prefdistill.round import Paired
from prefdistill.rubric import RubricSet
from prefdistill.selection import failed_gates, is_broken, outvoted, pool_scores, split_gates

Reason = Literal[
    "not_written", "incomplete", "broken_text", "failed_gates", "not_judged", "judge_failed", "gate_undecided"
]
"""Why a prompt gave no answer to train on.

not_written: the teacher failed on it, refused it, or said nothing. incomplete: cut at the token limit. broken_text: it
has a character in pieces. failed_gates: it fails gates of the rubric. not_judged, judge_failed, gate_undecided: gates
must be asked, and there is no verdict, a failure, or a panel that split evenly.
"""
REASONS: tuple[str, ...] = get_args(Reason)


def write_answers(shop: Workshop, number: int, prompts: tuple[Prompt, ...]) -> tuple[Judged, Paired]:
    """Have the teacher answer a round's prompts, and return its drafts and what of them is trained on."""
    judges = {"verdicts": shop.judge} if judges_gates(shop.rubrics, shop.judge) else {}
    judged = drafts_and_verdicts(shop, _wanted(shop, number, prompts), judges)
    judged.verdicts.setdefault("verdicts", {})
    found = [row for prompt in judged.prompts for row in _answers(shop, number, judged, prompt, bool(judges))]
    answers = tuple(sorted((row for row in found if isinstance(row, Answer)), key=lambda answer: answer.id))
    return judged, Paired((), (), tuple(row for row in found if isinstance(row, Drop)), answers=answers)


def judges_gates(rubrics: RubricSet, judge: Any) -> bool:
    """Whether the judge is asked about answers: a gate must be asked, and the judge can tell of one draft alone."""
    asked = any(gate.asked for rubric in rubrics.rubrics.values() for gate in rubric.gates)
    return asked and bool(getattr(judge, "scores_alone", True))


def _wanted(shop: Workshop, number: int, prompts: tuple[Prompt, ...]) -> Wanted:
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
            answers[text] = Answer(
                id=draft.id, prompt_id=prompt.id, round=number, prompt=prompt.messages, completion=text
            )
    if answers:
        return list(answers.values())
    failures = [failure.message for failure in judged.failures if failure.key.split("/")[0] == prompt.id]
    reason, detail = refused[0] if refused else ("not_written", "")
    if reason == "not_written" and failures:
        detail = failures[0]
    return [Drop(prompt_id=prompt.id, round=number, reason=reason, detail=detail)]


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
