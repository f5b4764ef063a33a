"""What a sample can see: the design's table, exact binomial power, and a judge that errs."""

import numpy as np
import pytest
from scipy.stats import binom, norm

from prefdistill.metrics.power import (
    judged_effect,
    prompts_for_win_rate,
    prompts_needed,
    smallest_effect,
    smallest_win_rate,
)


@pytest.mark.parametrize(("sd", "prompts"), [(0.2, 126), (0.3, 283), (0.4, 503)])
def test_prompts_for_a_gain_of_five_hundredths(sd: float, prompts: int) -> None:
    assert prompts_needed(0.05, sd) == prompts_needed(-0.05, sd) == prompts
    assert smallest_effect(prompts, sd) <= 0.05 < smallest_effect(prompts - 1, sd)


def test_prompts_of_a_textbook_table() -> None:
    # Cohen 1988, table 2.4.1, two-sided 0.05, power 0.80, d = 0.20: 393 in each of two groups, as normal deviates.
    assert prompts_needed(0.2, 2**0.5) == 393


def test_prompts_for_five_points_of_win_rate() -> None:
    assert prompts_for_win_rate(0.55) == prompts_for_win_rate(0.45) == 783
    assert smallest_win_rate(783) == pytest.approx(0.55, abs=1e-4)


def test_the_power_is_what_it_says() -> None:
    wins = np.arange(784)
    seen = np.abs(wins / 783 - 0.5) > norm.ppf(0.975) * (0.25 / 783) ** 0.5
    assert binom.pmf(wins, 783, 0.55)[seen].sum() == pytest.approx(0.80, abs=0.01)
    generator = np.random.default_rng(6)
    credit = generator.choice([1.0, 0.5, 0.0], p=[0.4, 0.3, 0.3], size=(4_000, prompts_for_win_rate(0.55, ties=0.3)))
    seen = np.abs(credit.mean(axis=1) - 0.5) > norm.ppf(0.975) * (0.7 / 4 / credit.shape[1]) ** 0.5
    assert seen.mean() == pytest.approx(0.80, abs=0.02)


def test_ties_vary_less() -> None:
    assert prompts_for_win_rate(0.55, ties=0.3) < prompts_for_win_rate(0.55)
    assert smallest_win_rate(prompts_for_win_rate(0.6, ties=0.4), ties=0.4) == pytest.approx(0.6, abs=1e-3)


def test_too_few_prompts_show_no_win_rate() -> None:
    assert smallest_win_rate(3) is None
    assert smallest_win_rate(0) is None
    assert smallest_win_rate(4) == pytest.approx(1.0, abs=1e-2)


def test_a_judge_that_errs_shrinks_the_effect() -> None:
    assert judged_effect(0.05, 0.8) == pytest.approx(0.03)
    assert judged_effect(0.05, 1.0) == pytest.approx(0.05)
    assert judged_effect(0.05, 0.5) == 0.0
    generator = np.random.default_rng(1)
    better = generator.random(400_000) < 0.6
    said = np.where(generator.random(400_000) < 0.75, better, ~better)
    assert said.mean() - 0.5 == pytest.approx(judged_effect(0.1, 0.75), abs=0.003)
    assert prompts_for_win_rate(0.5 + judged_effect(0.05, 0.8)) == 2178


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: prompts_needed(0.0, 0.2),
        lambda: prompts_needed(0.1, 0.0),
        lambda: smallest_effect(0, 0.2),
        lambda: prompts_for_win_rate(0.5),
        lambda: prompts_for_win_rate(0.9, ties=0.5),
        lambda: smallest_win_rate(10, ties=1.0),
        lambda: judged_effect(0.1, 0.4),
    ],
)
def test_what_has_no_answer_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="expected"):
        wrong()
