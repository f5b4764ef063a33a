"""The break-even against figures worked out by hand, its bounds against a brute-force search, and where there is none."""

from itertools import product

import numpy as np
import pytest

from prefdistill.plan import break_even as be
from prefdistill.plan.break_even import Case, Tariff, break_even, gain_a_month, months_to_pay_back, swings
from prefdistill.plan.quantities import Range

TEACHER, OTHER = Tariff("p_in", "p_out"), Tariff("q_in", "q_out")
HAND = {
    be.TOKENS_IN: 800,
    be.TOKENS_OUT: 400,
    "p_in": 3,
    "p_out": 15,
    be.HOSTING: 600,
    be.ONE_OFF: 0,
    be.MONTHS: 6,
    be.FALLBACK: 0.1,
    be.STUDENT: 0,
    be.JUDGED: 0,
    be.JUDGE: 0,
}


def make_case(compared: Tariff = TEACHER, **changes: float | tuple[float, float, float]) -> Case:
    values = {}
    for name, value in {**HAND, **changes}.items():
        low, central, high = value if isinstance(value, tuple) else (value, value, value)
        values[name] = Range(low=low, central=central, high=high)
    return Case(values, compared, TEACHER)


@pytest.mark.parametrize(
    ("price", "one_off", "volume"),
    [((3, 15), 0, 79_365), ((1.25, 10), 0, 133_333), ((0.25, 2), 0, 666_667), ((3, 15), 3000, 145_503)],
)
def test_the_break_even_is_the_one_worked_out_by_hand(price, one_off, volume):
    found = break_even(make_case(p_in=price[0], p_out=price[1], one_off=one_off))
    assert round(found.central) == volume
    assert found.is_sure and found.low == found.central == found.high


def test_every_term_of_the_formula_counts():
    # (600 + 3000/6) / (0.0084 × 0.9 − 0.0002 − 0.05 × 0.002) = 1100 / 0.00726
    found = break_even(make_case(one_off=3000, student=0.0002, judged=0.05, judge=0.002))
    assert found.central == pytest.approx(1100 / 0.00726)
    assert found.saving.central == pytest.approx(0.00726)
    assert found.fixed.central == 1100


def test_against_another_model_the_teacher_still_takes_the_fallbacks():
    # 1.25/10 costs 0.005 a request; the student 0.1 × 0.0084: 600 / 0.00416
    assert break_even(make_case(OTHER, q_in=1.25, q_out=10)).central == pytest.approx(600 / 0.00416)


@pytest.mark.parametrize(
    "changes", [{"fallback": 1.0}, {"student": 0.00756}, {"student": 0.02}, {"judged": 1, "judge": 1}]
)
def test_where_a_request_saves_nothing_there_is_none_and_never_a_negative_one(changes):
    found = break_even(make_case(**changes))
    assert found.central is None and found.low is None and found.high is None
    assert found.saving.central <= 0


def test_a_saving_that_is_rounding_alone_is_none():
    # 0.0064 × 0.7 − 0.00448 is not 0 in binary fractions, and is 0 in dollars
    case = make_case(p_out=10, fallback=0.3, student=0.00448)
    assert case.compared.usd(case.centre) - case.student_usd(case.centre) > 0
    assert break_even(case).central is None


def test_nothing_fixed_pays_from_the_first_request():
    assert break_even(make_case(hosting=0)).central == 0


def test_the_bounds_are_the_extremes_over_everything_in_the_ranges():
    case = make_case(
        hosting=(500, 600, 900),
        one_off=(1000, 3000, 5000),
        months=(3, 6, 12),
        fallback=(0.05, 0.1, 0.3),
        tokens_out=(300, 400, 700),
        p_out=(10, 15, 16),
        student=(0, 0.0001, 0.0004),
    )
    found = break_even(case)
    generator = np.random.default_rng(0)
    draws = [
        case.volume({name: generator.uniform(value.low, value.high) for name, value in case.values.items()})
        for _ in range(3000)
    ]
    corners = [
        case.volume(dict(zip(case.values, ends, strict=True)))
        for ends in product(*(v.ends for v in case.values.values()))
    ]
    assert found.low == pytest.approx(min(corners)) and found.high == pytest.approx(max(corners))
    assert found.low <= min(draws) and max(draws) <= found.high
    assert found.low < found.central < found.high


def test_more_tokens_help_against_the_teacher_and_can_hurt_against_another_model():
    """An input whose direction depends on the others: its bounds are found, not assumed."""
    dear_fallback = {"fallback": 0.5, "q_in": 0.1, "q_out": 12.0, "tokens_in": (100, 800, 3000)}
    found = break_even(make_case(OTHER, **dear_fallback))
    ends = [break_even(make_case(OTHER, **{**dear_fallback, "tokens_in": end})).central for end in (100, 3000)]
    assert ends[0] == pytest.approx(found.low) and ends[1] is None and found.high is None


def test_where_only_the_worst_case_has_none_the_high_bound_is_open():
    found = break_even(make_case(fallback=(0.05, 0.1, 1.0)))
    assert found.high is None and found.low < found.central
    assert swings(make_case(fallback=(0.05, 0.1, 1.0)))[0].width == float("inf")


def test_swings_name_the_input_that_moves_it_most_first():
    found = swings(make_case(one_off=(2200, 3000, 5700), fallback=(0.05, 0.1, 0.2), tokens_in=(799, 800, 801)))
    assert [swing.name for swing in found] == [be.ONE_OFF, be.FALLBACK, be.TOKENS_IN]
    assert round(found[0].at_low) == 127_866 and round(found[0].at_high) == 205_026
    assert found[2].at_low > found[2].at_high


def test_what_a_month_gains_and_when_it_is_paid_back():
    case = make_case(one_off=3000)
    # 150,000 × 0.00756 − 1100 = 34; 3000 / (1134 − 600) = 5.6 months
    assert gain_a_month(case, Range.of(150_000)).central == pytest.approx(34)
    assert months_to_pay_back(case, 150_000) == pytest.approx(5.618, abs=0.001)
    assert months_to_pay_back(case, 50_000) is None
    gain = gain_a_month(make_case(one_off=(0, 3000, 6000)), Range(low=100_000, central=150_000, high=200_000))
    assert (gain.low, gain.high) == (pytest.approx(756 - 1600), pytest.approx(1512 - 600))


def test_a_gain_with_a_negative_saving_is_worst_at_most_traffic():
    gain = gain_a_month(make_case(student=0.01), Range(low=10, central=1000, high=100_000))
    assert gain.low == pytest.approx(100_000 * -0.00244 - 600)
    assert gain.high == pytest.approx(10 * -0.00244 - 600)
