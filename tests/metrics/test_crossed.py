"""The mean over prompts and seeds: against a textbook's t and an analysis of variance, and by simulated coverage."""

import numpy as np
import pytest

from prefdistill.metrics.crossed import crossed_mean

STUDENT = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
"""Extra sleep by the first drug, ten patients: Student 1908, `The probable error of a mean`."""
VARYING = {
    "prompts": (0.0, 0.3, 0.02),
    "seeds": (0.05, 0.0, 0.02),
    "both": (0.02, 0.25, 0.05),
    "both and their interaction": (0.02, 0.2, 0.2),
    "interaction": (0.0, 0.0, 0.3),
}
"""Standard deviations of seeds, prompts and rest."""


def test_one_seed_is_the_t_interval_over_prompts() -> None:
    found = crossed_mean(STUDENT)
    # R, t.test: mean 0.75, t = 1.3257, df = 9, p = 0.2176, 95 % interval -0.5297804 to 2.0297804.
    assert found.value == pytest.approx(0.75)
    assert found.interval == (pytest.approx(-0.5297804, abs=1e-6), pytest.approx(2.0297804, abs=1e-6))
    assert found.p == pytest.approx(0.2176, abs=1e-4)
    assert (found.df, found.prompts, found.seeds, found.seed_sd) == (9.0, 10, 1, None)
    assert (found.se, found.seed_variance) == (pytest.approx(0.75 / 1.3257, abs=1e-4), 0.0)


def test_several_seeds_are_a_two_way_analysis_of_variance() -> None:
    import pandas
    from scipy.stats import t
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    generator = np.random.default_rng(4)
    table = generator.normal(0.1, 0.2, (4, 1)) + generator.normal(0, 0.3, (1, 12)) + generator.normal(0, 0.1, (4, 12))
    rows = [{"seed": s, "prompt": p, "value": table[s, p]} for s in range(4) for p in range(12)]
    squares = anova_lm(ols("value ~ C(seed) + C(prompt)", pandas.DataFrame(rows)).fit())
    seed, prompt, rest = (squares["sum_sq"] / squares["df"])[["C(seed)", "C(prompt)", "Residual"]]
    assert seed > rest, "else the formula below is not the one that is tested"
    total = seed + prompt - rest
    df = total**2 / (seed**2 / 3 + prompt**2 / 11 + rest**2 / 33)
    found = crossed_mean(table)
    half = t.ppf(0.975, df) * (total / 48) ** 0.5
    assert found.df == pytest.approx(df)
    assert found.interval == (pytest.approx(table.mean() - half), pytest.approx(table.mean() + half))
    assert found.p == pytest.approx(2 * t.sf(abs(table.mean()) / (total / 48) ** 0.5, df))
    assert (found.se, found.seed_variance) == (pytest.approx((total / 48) ** 0.5), pytest.approx((seed - rest) / 48))
    assert found.by_seed == pytest.approx(table.mean(axis=1).tolist())
    assert found.seed_sd == pytest.approx(table.mean(axis=1).std(ddof=1))


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("varying", VARYING)
def test_the_interval_covers_the_truth_in_93_to_97_percent(varying: str, seeds: int) -> None:
    of_seed, of_prompt, of_rest = VARYING[varying]
    generator = np.random.default_rng(9)
    shape, times = (seeds, 80), 2_500
    tables = 0.1 + generator.normal(0, of_rest, (times, *shape))
    tables += generator.normal(0, of_seed, (times, seeds, 1)) + generator.normal(0, of_prompt, (times, 1, 80))
    intervals = np.array([crossed_mean(table).interval for table in tables])
    covered = np.mean((intervals[:, 0] <= 0.1) & (intervals[:, 1] >= 0.1))
    assert 0.93 <= covered <= 0.97, covered


def test_prompts_alone_would_claim_too_much_where_seeds_differ() -> None:
    generator = np.random.default_rng(2)
    tables = generator.normal(0, 0.05, (600, 3, 1)) + generator.normal(0, 0.2, (600, 3, 100))
    naive = np.array([crossed_mean(table.mean(axis=0)).interval for table in tables])
    covered = np.mean((naive[:, 0] <= 0) & (naive[:, 1] >= 0))
    assert covered < 0.7


def test_win_rates_with_half_credit_over_seeds() -> None:
    generator = np.random.default_rng(3)
    levels = np.array([0.0, 0.5, 1.0])
    lucky = generator.normal(0, 0.03, (1_500, 3, 1))
    easy = generator.normal(0, 0.15, (1_500, 1, 120))
    chance = np.clip(0.45 + lucky + easy, 0, 0.8)
    drawn = generator.random((1_500, 3, 120))
    credit = levels[(drawn < chance + 0.2).astype(int) + (drawn < chance)]
    intervals = np.array([crossed_mean(table).interval for table in credit])
    truth = credit.mean()
    assert 0.93 <= np.mean((intervals[:, 0] <= truth) & (intervals[:, 1] >= truth)) <= 0.97


def test_a_prompt_that_one_seed_does_not_know_counts_in_none() -> None:
    table = np.array([[0.1, 0.2, 0.3, np.nan], [0.3, np.nan, 0.5, np.nan]])
    found = crossed_mean(table)
    assert (found.prompts, found.left_out) == (2, 1)
    assert found.by_seed == pytest.approx((0.2, 0.4))
    assert found.value == pytest.approx(0.3)


def test_what_does_not_vary_has_an_interval_of_no_width() -> None:
    found = crossed_mean(np.full((3, 40), 0.25))
    assert (found.value, found.interval, found.p) == (0.25, (0.25, 0.25), 0.0)
    assert crossed_mean(np.zeros((3, 40))).p == 1.0


def test_one_prompt_has_no_interval() -> None:
    found = crossed_mean([[0.2], [0.4]])
    assert (found.value, found.interval, found.p, found.df) == (pytest.approx(0.3), None, None, None)


@pytest.mark.parametrize("values", [[], [[np.nan, 1.0], [1.0, np.nan]], [[0.1], [np.nan]], np.zeros((2, 2, 2))])
def test_nothing_known_in_every_seed_is_an_error(values: list[float]) -> None:
    with pytest.raises(ValueError, match="leave out a seed that failed"):
        crossed_mean(values)
