import math

import numpy as np
import pytest
from scipy import stats

from prefdistill.drift import figures


def test_psi_is_the_sum_by_hand() -> None:
    p, q = (0.5 + 40) / (100 + 1), (0.5 + 60) / (100 + 1)
    expected = 2 * (p - q) * math.log(p / q)
    assert float(figures.psi(np.array([60, 40]), np.array([40, 60]))) == pytest.approx(expected)
    assert float(figures.psi(np.array([10, 30]), np.array([10, 30]))) == 0


def test_psi_of_equal_distributions_is_what_chance_gives_on_average() -> None:
    rng = np.random.default_rng(0)
    shares = np.full(10, 0.1)
    found = [
        figures.measure_shift(rng.multinomial(300, shares).tolist(), rng.multinomial(100, shares).tolist(), "x")
        for _ in range(200)
    ]
    assert np.mean([each.psi for each in found if each]) == pytest.approx(9 * (1 / 300 + 1 / 100), rel=0.15)
    assert {round(each.expected, 6) for each in found if each} == {round(9 * (1 / 300 + 1 / 100), 6)}


def test_p_values_of_equal_distributions_are_as_rare_as_they_say() -> None:
    rng = np.random.default_rng(1)
    shares = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02])
    found = [
        figures.measure_shift(rng.multinomial(200, shares).tolist(), rng.multinomial(40, shares).tolist(), "x")
        for _ in range(300)
    ]
    rare = np.mean([each.p < 0.05 for each in found if each])
    assert 0.01 <= rare <= 0.08


def test_a_shift_is_found_and_one_cell_is_none() -> None:
    assert figures.measure_shift([100, 100, 100], [10, 10, 80], "x").p < 0.0001  # type: ignore[union-attr]
    assert figures.measure_shift([100], [50], "x") is None
    assert figures.measure_shift([100, 2], [50, 1], "x") is not None
    assert figures.measure_shift([100, 100], [0, 0], "x") is None


def test_rare_cells_are_counted_as_one_and_nobody_is_lost() -> None:
    merged = figures.merge_rare(np.array([[50, 2, 1, 0, 1], [20, 1, 0, 0, 3]]))
    assert merged.tolist() == [[50, 4], [20, 4]]


def test_an_excess_is_fishers_exact_test() -> None:
    exact = stats.fisher_exact([[8, 92], [6, 594]], alternative="greater").pvalue
    assert figures.excess_p(6, 600, 8, 100) == pytest.approx(exact)
    assert figures.excess_p(6, 600, 0, 100) == figures.excess_p(0, 600, 0, 0) == 1.0


def test_limits_of_a_share_leave_the_tail_of_three_sigma_on_each_side() -> None:
    low, high = figures.share_limits(0.1, 250)
    assert stats.binom.cdf(round(low * 250) - 1, 250, 0.1) <= figures.TAIL
    assert stats.binom.sf(round(high * 250), 250, 0.1) <= figures.TAIL
    assert stats.binom.sf(round(high * 250) - 1, 250, 0.1) > figures.TAIL
    assert round(figures.TAIL, 5) == 0.00135


def test_a_share_counted_on_few_cases_is_less_certain_than_a_known_one() -> None:
    assert (
        figures.share_p(40, 250, 0.1, None) < figures.share_p(40, 250, 0.1, 1_000) < figures.share_p(40, 250, 0.1, 50)
    )


def test_mean_scores_are_tested_below_only() -> None:
    rng = np.random.default_rng(2)
    before, same, low = rng.beta(8, 2, 150), rng.beta(8, 2, 80), rng.beta(5, 4, 80)
    assert figures.lower_mean_p(low.tolist(), before.tolist()) < 0.001
    assert figures.lower_mean_p(same.tolist(), before.tolist()) > 0.01
    assert figures.lower_mean_p((before + 1).tolist(), before.tolist()) > 0.99
    many = figures.lower_mean_p(rng.beta(5, 4, 3_000).tolist(), before.tolist())
    assert many < 1e-6


def test_how_many_requests_are_needed_is_where_they_show_it() -> None:
    needed = figures.prompts_needed(600, 10, 20)
    assert needed is not None
    assert figures.sees_psi(600, needed, 10, 20)
    assert not figures.sees_psi(600, needed // 2, 10, 20)
    assert figures.prompts_needed(40, 10, 20) is None
