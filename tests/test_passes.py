"""Judging drafts apart: each by itself, one failure for one draft, and all questions in one batch."""

import pytest

from prefdistill.errors import JudgeError
from prefdistill.passes import ApartJudge
from prefdistill.requests.calls import SetAside
from prefdistill.stages.judge import judge_group
from tests.making import ASKED, make_drafts, make_prompt, make_rubric

RUBRIC, PROMPT = make_rubric(ASKED), make_prompt()
DRAFTS = make_drafts(["one", "two two", "three three three"])


class Words:
    """A judge that counts words, and whose scores would depend on the others it is shown."""

    threads = 3

    def __init__(self, refused=()):
        self.seen, self.refused = [], refused

    def judge(self, prompt, drafts, rubric):
        self.seen.append([draft.index for draft in drafts])
        if drafts[0].index in self.refused:
            raise JudgeError("the judge is ill")
        return [float(len(draft.completion.split()) + 100 * (len(drafts) - 1)) for draft in drafts]


def test_each_draft_is_judged_by_itself():
    judge = Words()
    verdict = judge_group(ApartJudge(judge), PROMPT, DRAFTS, RUBRIC)
    assert judge.seen == [[0], [1], [2]]
    assert [(each.draft_id, each.value) for each in verdict.judgements] == [
        (draft.id, value) for draft, value in zip(DRAFTS, (1.0, 2.0, 3.0), strict=True)
    ]
    assert ApartJudge(judge).threads == 3, "what else the judge says of itself holds"


def test_what_fails_for_one_draft_fails_for_it_alone():
    verdict = judge_group(ApartJudge(Words(refused=(1,))), PROMPT, DRAFTS, RUBRIC)
    assert [each.draft_id for each in verdict.judgements] == [DRAFTS[0].id, DRAFTS[2].id]
    assert [(each.key, each.kind, each.message) for each in verdict.failures] == [
        (DRAFTS[1].id, "provider", "the judge is ill")
    ]


class Waiting(Words):
    """A judge whose replies to some drafts are not there yet."""

    def judge(self, prompt, drafts, rubric):
        answer = super().judge(prompt, drafts, rubric)
        if drafts[0].index != 1:
            raise SetAside
        return answer

    known = judge


def test_the_questions_about_all_drafts_are_asked_before_the_group_is_set_aside():
    judge = Waiting()
    with pytest.raises(SetAside):
        judge_group(ApartJudge(judge), PROMPT, DRAFTS, RUBRIC)
    assert judge.seen == [[0], [1], [2]]


def test_known_replies_are_used_where_the_judge_can():
    assert ApartJudge(Words()).known is None
    waiting = ApartJudge(Waiting())
    verdict = judge_group(waiting, PROMPT, DRAFTS[1:2], RUBRIC, waiting.known)
    assert [each.value for each in verdict.judgements] == [2.0]
