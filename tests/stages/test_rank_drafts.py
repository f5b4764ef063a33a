"""Ranking: pointwise scores, gates, preferences, and what leaves the ranking."""

import pytest

from prefdistill.records import CriterionScore, Judgement
from prefdistill.selection import choose_best_worst, rank_drafts
from prefdistill.stages.rank import rank_prompts
from tests.making import (
    ASKED,
    CLEAN,
    both_orders,
    failed,
    make_drafts,
    make_prompt,
    make_rubric,
    make_verdict,
    one_rubric,
    preferred,
    scored,
    valued,
)

PROMPT = make_prompt()
RUBRIC = make_rubric(ASKED)
GATED = make_rubric(ASKED, gates=[CLEAN])


def ranks(verdict, drafts, rubric=RUBRIC):
    return {
        e.draft_id[-1]: (e.rank, round(e.score, 6)) for e in rank_drafts(PROMPT, drafts, verdict, rubric, 1).entries
    }


def test_best_first_and_equal_scores_share_a_rank():
    drafts = make_drafts(["a", "b", "c", "d"])
    verdict = make_verdict(scored(d, s) for d, s in zip(drafts, [0.5, 1.0, 0.5, 0.0], strict=True))
    assert ranks(verdict, drafts) == {"1": (1, 1.0), "0": (2, 0.5), "2": (2, 0.5), "3": (4, 0.0)}


def test_a_gate_failure_ranks_below_every_draft_that_passes():
    drafts = make_drafts(["a", "b"])
    verdict = make_verdict([scored(drafts[0], 1.0, gate=0.0), scored(drafts[1], 0.25, gate=1.0)])
    assert ranks(verdict, drafts, GATED) == {"1": (1, 0.25), "0": (2, 1.0)}


def test_a_cut_draft_fails_the_built_in_gate():
    drafts = make_drafts(["a", "b"], cut=[0])
    ranking = rank_drafts(PROMPT, drafts, make_verdict([scored(drafts[0], 1.0), scored(drafts[1], 0.0)]), RUBRIC, 1)
    assert [(e.draft_id[-1], e.gates) for e in ranking.entries] == [("1", ()), ("0", ("complete",))]


def test_a_stray_tag_fails_a_built_in_gate_whatever_the_judge_and_is_the_rejected_one():
    good, stray = make_drafts(["fine", "better </think> fine"])
    drafts = [good, stray.model_copy(update={"stray_tag": "</think>"})]
    for verdict in (
        make_verdict([scored(drafts[0], 0.25), scored(drafts[1], 1.0)]),
        make_verdict([valued(drafts[0], 0.25), valued(drafts[1], 1.0)]),
        make_verdict([], preferences=both_orders(drafts[1], drafts[0])),
    ):
        ranking = rank_drafts(PROMPT, drafts, verdict, RUBRIC, 1)
        assert [(e.draft_id[-1], e.gates) for e in ranking.entries] == [("0", ()), ("1", ("no_stray_tags",))]
        selected = choose_best_worst(PROMPT, drafts, ranking)
        assert selected is not None and [each.draft_id[-1] for each in selected] == ["0", "1"], "unlike a cut one"


def test_failures_and_incomplete_judgements_leave_the_ranking():
    drafts = make_drafts(["a", "b", "c"])
    incomplete = Judgement(
        draft_id=drafts[1].id,
        judge="t",
        scores=(CriterionScore(criterion="other", score=1.0, path="parsed"),),
        scale="rubric",
    )
    verdict = make_verdict(
        [scored(drafts[0], 1.0), incomplete, scored(drafts[2], 0.5)], failures=[failed(drafts[0].id)]
    )
    assert ranks(verdict, drafts) == {"2": (1, 0.5)}


def test_a_draft_that_was_not_asked_about_and_passes_an_edited_gate_leaves_the_ranking():
    drafts = make_drafts(["a"])
    verdict = make_verdict([scored(drafts[0], None, gate=0.6)])
    assert ranks(verdict, drafts, GATED) == {"0": (1, 0.0)}
    assert ranks(verdict, drafts, make_rubric(ASKED, gates=[{**CLEAN, "at_least": 0.5}])) == {}


def test_members_of_a_panel_average():
    drafts = make_drafts(["a"])
    verdict = make_verdict([scored(drafts[0], 1.0, member="x"), scored(drafts[0], 0.5, member="y")])
    assert ranks(verdict, drafts) == {"0": (1, 0.75)}


def test_a_custom_judges_numbers():
    drafts = make_drafts(["a", "b"])
    ranking = rank_drafts(PROMPT, drafts, make_verdict([valued(drafts[0], -3.0), valued(drafts[1], 7.5)]), RUBRIC, 1)
    assert [(e.score, e.scale) for e in ranking.entries] == [(7.5, "custom"), (-3.0, "custom")]


def test_preferences_average_both_orders_and_a_missing_order_is_unknown():
    a, b, c = drafts = make_drafts(["a", "b", "c"])
    verdict = make_verdict(preferences=[*both_orders(a, b), preferred(b, c, 1.0)])
    assert ranks(verdict, drafts) == {"0": (1, 1.0), "1": (2, 0.0)}  # b's win over c was seen in one order only
    biased = make_verdict(preferences=[preferred(a, b, 1.0), preferred(b, a, 1.0)])  # always the first shown
    assert ranks(biased, drafts[:2]) == {"0": (1, 0.5), "1": (1, 0.5)}


def test_an_edited_weight_changes_the_ranking_without_a_call():
    drafts = make_drafts(["a", "b"])
    two = [{**ASKED, "weight": 3}, {**ASKED, "name": "short"}]

    def judgement(draft, good, short):
        pair = (("good", good), ("short", short))
        scores = tuple(CriterionScore(criterion=n, score=s, path="parsed") for n, s in pair)
        return Judgement(draft_id=draft.id, judge="t", scores=scores, scale="rubric")

    verdict = make_verdict([judgement(drafts[0], 1.0, 0.0), judgement(drafts[1], 0.0, 1.0)])
    assert ranks(verdict, drafts, make_rubric(*two))["0"] == (1, 0.75)
    assert ranks(verdict, drafts, make_rubric(two[0] | {"weight": 1}, two[1] | {"weight": 3}))["1"] == (1, 0.75)


def test_nothing_ranks_where_no_criterion_applies():
    drafts = make_drafts(["a"])
    rubric = make_rubric({**ASKED, "applies_if": "topic"})
    assert ranks(make_verdict([scored(drafts[0], None)]), drafts, rubric) == {}


def test_the_stage_ranks_every_prompt_with_drafts():
    drafts = make_drafts(["a", "b"])
    verdict = make_verdict(scored(d, 1.0) for d in drafts)
    found = list(rank_prompts([PROMPT, make_prompt("q")], drafts, [verdict], one_rubric(RUBRIC), 3))
    assert [(r.prompt_id, r.round, len(r.entries)) for r in found] == [("p", 3, 2)]
    assert next(iter(rank_prompts([PROMPT], drafts, [], one_rubric(RUBRIC), 3))).entries == ()


@pytest.mark.parametrize("reverse", [False, True])
def test_tie_breaks_prefer_the_shortest_top_and_the_bottom_closest_in_length(reverse):
    texts = ["short", "a longer one", "x", "abcdef", "abcdefghijklmnop"]
    drafts = make_drafts(texts)
    verdict = make_verdict(scored(d, s) for d, s in zip(drafts, [1.0, 1.0, 0.0, 0.0, 0.0], strict=True))
    drafts = drafts[::-1] if reverse else drafts
    selected = choose_best_worst(PROMPT, drafts, rank_drafts(PROMPT, drafts, verdict, RUBRIC, 1))
    assert selected is not None
    assert [each.text for each in selected] == ["short", "abcdef"]


def test_above_five_drafts_the_rejected_is_the_worst_of_a_random_five():
    drafts = make_drafts([f"text {n:02d}" for n in range(40)])
    verdict = make_verdict(scored(d, 1 - n / 40) for n, d in enumerate(drafts))
    rejected = set()
    for number in range(20):
        prompt = make_prompt(f"p{number}")
        picks = [
            choose_best_worst(prompt, order, rank_drafts(prompt, order, verdict, RUBRIC, 1))
            for order in (drafts, drafts[::-1])
        ]
        assert picks[0] == picks[1]
        assert picks[0] is not None
        assert picks[0][0].text == "text 00"
        rejected.add(picks[0][1].text)
    assert len(rejected) > 5  # neither always the worst of all nor always the same


def test_a_comparison_whose_orders_name_different_winners_says_nothing_of_strength():
    """Whoever is shown first wins, by more or less: no draft is stronger than another."""
    drafts = make_drafts(["a", "b", "c"])
    a, b, c = drafts
    verdict = make_verdict(
        preferences=[preferred(a, b, 0.98), preferred(b, a, 0.65), preferred(a, c, 0.6), preferred(c, a, 0.95)]
    )
    ranking = rank_drafts(make_prompt(), drafts, verdict, make_rubric(ASKED), 1)
    assert {entry.score for entry in ranking.entries} == {0.5}
