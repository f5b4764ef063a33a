"""The charts of a run: what rounds brought against rounds, √KL and judged drafts, and what they cost."""

from dataclasses import replace

import pytest

from prefdistill.records import Usage
from prefdistill.stages.report import render_report
from prefdistill.stages.report.charts import render_chart, round_ticks
from prefdistill.stages.report.run_charts import run_charts
from tests.stages.test_report import make_report


@pytest.fixture(scope="module")
def report():
    """A run whose rounds were measured as they are today."""
    made = make_report()
    rounds = [made.rounds[0]]
    for each in made.rounds[1:]:
        found = {"kl_base": 0.04 * each.round**2, "policy_distinct_2": 0.7 - 0.02 * each.round, "base_distinct_2": 0.7}
        rounds.append(each.model_copy(update={"diagnostics": {**found, "teacher_distinct_2": 0.65}}))
    return replace(made, rounds=tuple(rounds))


def by_title(report):
    return {chart.title: chart for chart in run_charts(report)}


def test_scores_stand_against_the_root_of_kl_and_against_judged_drafts(report):
    charts = by_title(report)
    kl = charts["Score against √KL to the base"]
    assert [line.name for line in kl.series] == ["judge", "held-out judge", "gold"]
    assert [point.x for point in kl.series[0].points] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert [point.y for point in kl.series[0].points] == [each.rubric_score for each in report.rounds]
    assert kl.kept == pytest.approx(0.8)
    drafts = charts["Score against judged drafts"]
    judged = [each.judged for each in report.rounds]
    assert [point.x for point in drafts.series[0].points] == [sum(judged[: number + 1]) for number in range(6)]
    shown = str(render_chart(kl))
    assert "<title>round 4, √KL to the base 0.8 (kept) · judge 0.735 · held-out judge" in shown


def test_a_round_without_kl_is_left_out_and_none_at_all_gives_no_chart(report):
    without = tuple(each.model_copy(update={"diagnostics": {}}) if each.round == 2 else each for each in report.rounds)
    kl = by_title(replace(report, rounds=without))["Score against √KL to the base"]
    assert len(kl.series[0].points) == 5
    assert "Score against √KL to the base" not in by_title(make_report())
    assert "Score against √KL to the base" in render_report(report)


def test_diversity_begins_at_the_base(report):
    chart = by_title(report)["Diversity of validation drafts (distinct-2)"]
    assert [point.y for point in chart.series[0].points] == pytest.approx([0.7, 0.68, 0.66, 0.64, 0.62, 0.60])
    assert [(each.name, each.y) for each in chart.references] == [("base", 0.7), ("teacher", 0.65)]


def test_cost_is_summed_up_in_dollars_and_without_prices_in_tokens(report):
    charts = by_title(report)
    dollars = charts["Judging so far, US dollars"].series[0].points
    assert dollars[-1].y == pytest.approx(5 * 2.41 + 6 * 0.14)
    assert "Time so far, minutes" in charts
    tokens = by_title(replace(report, unpriced=("m",)))
    assert "Judging so far, US dollars" not in tokens
    assert tokens["Judging so far, tokens"].series[0].points[0].y == 330_000
    free = tuple(each.model_copy(update={"usage": Usage(), "evaluation_usage": Usage()}) for each in report.rounds)
    assert not any(title.startswith("Judging") for title in by_title(replace(report, rounds=free)))


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.45, 0.72), (-3.0, 8192.0), (1e-7, 3e-7), (0.69, 0.71), (12, 13)]
)
def test_ticks_are_few_round_and_reach_both_ends(low, high):
    ticks = round_ticks(low, high)
    assert 4 <= len(ticks) <= 7
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12
