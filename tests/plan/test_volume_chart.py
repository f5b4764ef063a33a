"""The chart over volume: where lines cross, what is marked, and that every point can be pointed at."""

import pytest

from prefdistill.plan.document import Plan
from prefdistill.plan.volume_chart import volume_chart
from prefdistill.plan.worth import weigh
from prefdistill.stages.report.charts import render_chart

RANGE = {"low": 400, "central": 600, "high": 900}


def make(traffic: float | None = 100_000, hosting: object = 600, **sections):
    plan = Plan.model_validate(
        {
            "name": "p",
            "traffic": {"requests_a_month": traffic, "tokens_in": 800, "tokens_out": 400},
            "teacher": {"model": "t", "usd_per_million": {"input": 3, "output": 15}},
            "costs": {"hosting_usd_a_month": hosting, "one_off": []},
            "fallback": {"share": 0.1},
            **sections,
        }
    )
    return volume_chart(weigh(plan), plan.traffic.requests_a_month)


def test_the_lines_cross_at_the_break_even():
    chart = make()
    student, teacher = chart.series
    assert [mark.name for mark in chart.uprights] == ["planned traffic", "break-even against the teacher"]
    crossing = chart.uprights[1].x
    heights = [next(point.y for point in line.points if point.x == crossing) for line in (student, teacher)]
    assert heights[0] == pytest.approx(heights[1])
    assert student.points[0].y == 600 and teacher.points[0].y == 0
    assert chart.heads[crossing] == "break-even"
    assert render_chart(chart).count('class="reference look1"') == 1


def test_ranges_have_whiskers_and_single_values_have_none():
    assert all(point.low is None for line in make().series for point in line.points)
    student, teacher = make(hosting=RANGE).series
    assert (student.points[0].low, student.points[0].high) == (400, 900)
    assert all(point.low is None for point in teacher.points)


@pytest.mark.parametrize("traffic", [79_000, 79_400, 10_000, 500_000, None])
def test_every_column_is_wide_enough_to_point_at(traffic):
    chart = make(traffic)
    assert "column" in render_chart(chart) and 'class="point"' not in render_chart(chart)
    assert chart.series[0].points[0].x == 0


def test_a_break_even_far_beyond_the_traffic_is_not_in_the_chart():
    chart = make(traffic=5_000)
    assert [mark.name for mark in chart.uprights] == ["planned traffic"]
    assert chart.series[0].points[-1].x == pytest.approx(8_000)


def test_more_alternatives_than_looks_leave_the_chart_legible():
    price = {"input": 1, "output": 2}
    chart = make(alternatives=[{"name": f"m{number}", "usd_per_million": price} for number in range(12)])
    assert [line.look for line in chart.series] == [1, 2, 3, 4, 5, 6, 7, 8]
