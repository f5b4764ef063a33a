"""The pairwise judge: both orders of every pair, gates without a call."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from prefdistill.judges.pairwise import PairwiseJudge
from prefdistill.judges.rubric import RubricJudge
from prefdistill.protocols import RunContext
from prefdistill.records import PreferencePair
from prefdistill.requests.layer import RequestLayer
from prefdistill.selection import PairOptions
from prefdistill.stages.judge import judge_group
from prefdistill.stages.pair import pair_prompts
from prefdistill.stages.rank import rank_prompts
from prefdistill.teachers.openai import OpenAITeacher
from tests.loopback import Loopback, fenced, judging_by
from tests.making import ASKED, CLEAN, LENGTH, make_drafts, make_prompt, make_rubric, one_rubric

PROMPT = make_prompt()
RUBRIC = make_rubric(ASKED)
by_length = judging_by(len)
TEXTS = ["bb", "dddd", "a", "ccc"]


@contextmanager
def opened(judge_class, url, **options):
    layer = RequestLayer(cache="off")
    judge = judge_class(teacher=OpenAITeacher(model="m", base_url=url), **options)
    judge.open(RunContext(directory=Path(), seed=0, requests=layer))
    yield judge
    judge.close()
    layer.close()


def judge_with(answer, drafts, rubric=RUBRIC, **options):
    with Loopback(answer) as server, opened(PairwiseJudge, server.url, **options) as judge:
        return judge_group(judge, PROMPT, drafts, rubric), server


def ranking(verdict, drafts, rubric=RUBRIC):
    (found,) = rank_prompts([PROMPT], drafts, [verdict], one_rubric(rubric), 1)
    return found


def pair(verdict, drafts, rubric=RUBRIC):
    (row,) = pair_prompts([PROMPT], drafts, [verdict], [ranking(verdict, drafts, rubric)], PairOptions(), 1)
    return (row.chosen, row.rejected, row.margin) if isinstance(row, PreferencePair) else row.reason


def test_every_pair_in_both_orders():
    drafts = make_drafts(TEXTS)
    verdict, server = judge_with(by_length, drafts)
    assert len(server.requests) == len(verdict.preferences) == verdict.usage.calls == 12
    assert len({(each.first_id, each.second_id) for each in verdict.preferences}) == 12
    scores = {entry.draft_id[-1]: round(entry.score, 3) for entry in ranking(verdict, drafts).entries}
    assert scores == {"1": 1.0, "3": 0.667, "0": 0.333, "2": 0.0}
    assert pair(verdict, drafts) == ("dddd", "a", 1.0)


def test_an_anchor_needs_two_calls_for_each_other_draft():
    verdict, server = judge_with(by_length, make_drafts(TEXTS), scheme="anchor")
    assert len(server.requests) == 6
    assert all({each.first_id[-1], each.second_id[-1]} & {"0"} for each in verdict.preferences)
    assert pair(verdict, make_drafts(TEXTS))[:2] == ("ccc", "a")  # both longer ones beat the anchor: the shorter


@pytest.mark.parametrize("winner", ["first", "second"])
def test_a_judge_that_always_picks_one_place_yields_no_pair(winner):
    drafts = make_drafts(TEXTS)
    verdict, _ = judge_with(lambda body: f'{{"reason": "", "winner": "{winner}"}}', drafts)
    assert {entry.score for entry in ranking(verdict, drafts).entries} == {0.5}
    assert pair(verdict, drafts) == "tie"


def test_a_draft_that_fails_a_gate_loses_without_a_call():
    rubric = make_rubric(ASKED, LENGTH, gates=[CLEAN])
    drafts = make_drafts(["BAD but very long", "dddd", "a"])
    verdict, server = judge_with(by_length, drafts, rubric)
    assert len(server.requests) == 2
    assert [entry.draft_id[-1] for entry in ranking(verdict, drafts, rubric).entries] == ["1", "2", "0"]
    assert pair(verdict, drafts, rubric)[:2] == ("dddd", "BAD but very long")
    content = server.requests[0]["messages"][-1]["content"]
    assert "- length: first draft" in content  # what a program has measured is told


@pytest.mark.parametrize(
    ("texts", "cut", "reason"),
    [(["a", "b"], [0], "incomplete"), (["a", "b"], [0, 1], "incomplete"), (["a", "a"], [], "identical")],
)
def test_nothing_to_compare(texts, cut, reason):
    drafts = make_drafts(texts, cut=cut)
    verdict, server = judge_with(by_length, drafts)
    assert server.requests == []
    assert verdict.failures == ()
    assert pair(verdict, drafts) == reason


def test_identical_drafts_are_compared_once():
    drafts = make_drafts(["bb", "dddd", "bb"])
    verdict, server = judge_with(by_length, drafts)
    assert len(server.requests) == verdict.usage.calls == 2
    assert len(verdict.preferences) == 4
    assert pair(verdict, drafts)[:2] == ("dddd", "bb")


def test_what_cannot_be_read_is_unknown():
    def answer(body):
        return "The first." if fenced(body, "first") == "a" else by_length(body)

    drafts = make_drafts(["a", "dddd", "ccc"])
    verdict, _ = judge_with(answer, drafts)
    assert {failure.kind for failure in verdict.failures} == {"parse"}
    assert len(verdict.preferences) == 4
    assert {entry.draft_id[-1] for entry in ranking(verdict, drafts).entries} == {"1", "2"}
    assert pair(verdict, drafts)[:2] == ("dddd", "ccc")


def test_the_rubric_judges_comparer_asks_the_same_teacher():
    drafts = make_drafts(TEXTS[:2])
    with Loopback(by_length) as server, opened(RubricJudge, server.url, reason="none") as judge:
        comparer = judge.comparer()
        verdict = judge_group(comparer, PROMPT, drafts, RUBRIC)
    assert len(server.requests) == len(verdict.preferences) == 2
    assert comparer.reason == "none"
    assert comparer.identity()["use"] == "pairwise"
    assert not comparer.scores_alone


def test_the_preview_shows_both_places():
    with Loopback(by_length) as server, opened(PairwiseJudge, server.url) as judge:
        shown = judge.preview(PROMPT, make_drafts(TEXTS)[0], RUBRIC)
    assert "<first-" in shown
    assert "<second-" in shown
