"""Prompts needed for the effects that must show, against the figures of the method."""

from prefdistill.plan.document import Plan
from prefdistill.plan.sizes import needed_for_gain, needed_for_rate, shown_rate, sizes_chapter


def make(test: int | None = None, **sizes) -> Plan:
    return Plan.model_validate({"name": "p", "sizes": sizes, "data": {"test": test}})


def said(plan: Plan) -> str:
    return " ".join(block.text for block in sizes_chapter(plan).blocks if getattr(block, "warns", False))


def test_the_textbook_figures():
    assert needed_for_rate(make(win_rate=0.55)) == 783
    assert [needed_for_gain(make(score_gain=0.05, score_sd=sd)) for sd in (0.2, 0.3, 0.4)] == [126, 283, 503]
    assert needed_for_gain(make()) is None


def test_a_judge_that_errs_shrinks_the_effect_and_needs_more_prompts():
    plan = make(win_rate=0.55, judge_accuracy=0.8)
    assert abs(shown_rate(plan) - 0.53) < 1e-12
    assert needed_for_rate(plan) > 2.7 * 783


def test_a_win_rate_that_ties_leave_no_room_for_is_not_computed():
    assert needed_for_rate(make(win_rate=0.9, ties=0.5)) is None
    table = next(block for block in sizes_chapter(make(win_rate=0.9, ties=0.5)).blocks if hasattr(block, "rows"))
    assert table.rows[0][1] == "ties leave no room"


def test_a_test_split_that_cannot_see_the_effect_warns():
    assert "has 200 prompts, and the win rate that must show needs 783" in said(make(200))
    assert "gain of the score that must show needs 283" in said(make(200, score_sd=0.3))
    assert not said(make(1000, score_sd=0.3))


def test_one_seed_warns():
    assert "With 1 training a difference may be one seed’s luck" in said(make(1000, seeds=1))


def test_the_deviation_is_open_until_it_is_known():
    assert [point.key for point in sizes_chapter(make()).open] == ["sizes.score_sd"]
