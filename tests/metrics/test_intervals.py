"""Intervals against textbook values and simulated coverage."""

import numpy as np
import pytest

from prefdistill.metrics.intervals import bootstrap_interval, resampled_means, wilson_interval


@pytest.mark.parametrize(
    ("trials", "low", "high"), [(100, 0.404, 0.596), (200, 0.431, 0.569), (400, 0.451, 0.549), (805, 0.466, 0.534)]
)
def test_wilson_at_one_half(trials: int, low: float, high: float) -> None:
    found = wilson_interval(trials / 2, trials)
    assert found == (pytest.approx(low, abs=6e-4), pytest.approx(high, abs=6e-4))


def test_wilson_against_newcombe_1998() -> None:
    # Newcombe (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    expected = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (successes, trials), interval in expected.items():
        assert wilson_interval(successes, trials) == pytest.approx(interval, abs=1e-4)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 4)])
def test_wilson_refuses(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= successes <= trials"):
        wilson_interval(successes, trials)


def test_bootstrap_covers_the_truth_in_93_to_97_percent() -> None:
    generator = np.random.default_rng(11)
    # Half credit: win, tie and loss with probability 0.5, 0.2 and 0.3; the true win rate is 0.6.
    samples = generator.choice([1.0, 0.5, 0.0], p=[0.5, 0.2, 0.3], size=(1200, 120))
    intervals = [bootstrap_interval(sample.tolist(), seed, resamples=600) for seed, sample in enumerate(samples)]
    covered = np.mean([low <= 0.6 <= high for low, high in intervals])
    assert 0.93 <= covered <= 0.97


def test_bootstrap_of_a_mean_score_covers_the_truth_in_93_to_97_percent() -> None:
    generator = np.random.default_rng(12)
    # Paired differences of rubric scores: mostly none, a few large, more of them up than down.
    levels, chances = np.array([-0.5, -0.25, 0.0, 0.25, 0.5]), np.array([0.05, 0.1, 0.45, 0.25, 0.15])
    samples = generator.choice(levels, p=chances, size=(1200, 100))
    intervals = [bootstrap_interval(sample.tolist(), seed, resamples=600) for seed, sample in enumerate(samples)]
    truth = float(levels @ chances)
    assert 0.93 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.97


def test_wilson_is_the_librarys() -> None:
    from scipy.stats import binomtest

    for successes, trials in [(0, 1), (3, 7), (50, 100), (805, 805)]:
        expected = binomtest(successes, trials).proportion_ci(method="wilson")
        assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_bootstrap_is_seeded_and_blocks_do_not_change_its_size() -> None:
    values = np.random.default_rng(0).random(30).tolist()
    assert bootstrap_interval(values, 3) == bootstrap_interval(values, 3)
    assert bootstrap_interval(values, 3) != bootstrap_interval(values, 4)
    assert resampled_means([[0.5] * 5000, [0.1] * 5000], 0).shape == (2000, 2)


def test_arms_are_resampled_together() -> None:
    values = np.random.default_rng(0).random(30)
    means = resampled_means([values.tolist(), (values + 0.25).tolist()], 0)
    assert np.allclose(means[:, 1] - means[:, 0], 0.25)


@pytest.mark.parametrize("columns", [[], [[]], [[1.0], [1.0, 2.0]]])
def test_bootstrap_refuses(columns: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        resampled_means(columns, 0)
