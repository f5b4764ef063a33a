"""The win rate at equal length, against simulated judges whose taste for length is known."""

import numpy as np
import pytest
from scipy.special import expit

from prefdistill.metrics.length_control import is_extrapolated, length_controlled_interval, length_controlled_rate


def judged(quality, taste, count, longer=1.0, seed=1):
    """Outcomes and length differences of a judge that adds `taste` a standard deviation (17 words) to the logit."""
    generator = np.random.default_rng(seed)
    difference = generator.normal(longer, 1.0, count)
    return (generator.random(count) < expit(quality + taste * difference)).astype(float), 17 * difference


@pytest.mark.parametrize("longer", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("taste", [0.0, 0.8, -0.8, 2.0])
@pytest.mark.parametrize("quality", [0.0, 0.6, -1.5, 2.5])
def test_a_taste_for_length_is_taken_out_within_a_point(quality, taste, longer):
    outcomes, differences = judged(quality, taste, 200_000, longer)
    assert length_controlled_rate(outcomes, differences) == pytest.approx(expit(quality), abs=0.01)
    if taste and longer and abs(quality) < 1:
        assert abs(outcomes.mean() - expit(quality)) > 0.1


@pytest.mark.parametrize("together", [-0.5, 0.5, 0.8])
@pytest.mark.parametrize("longer", [0.0, 1.0])
def test_where_quality_and_length_go_together_it_is_the_rate_of_equally_long_drafts(together, longer):
    generator = np.random.default_rng(2)
    length, luck = generator.normal(size=(2, 200_000))
    quality = 0.6 + together * length + (1 - together**2) ** 0.5 * luck
    outcomes = generator.random(200_000) < expit(quality + 0.8 * (longer + length))
    # Of equally long drafts: length = -longer.
    truth = expit(0.6 - together * longer + (1 - together**2) ** 0.5 * luck).mean()
    assert length_controlled_rate(outcomes, longer + length) == pytest.approx(truth, abs=0.01)


def test_small_samples_are_not_drawn_to_one_half():
    rates = [length_controlled_rate(*judged(1.5, 0.8, 150, 0.5, seed)) for seed in range(300)]
    assert np.mean(rates) == pytest.approx(expit(1.5), abs=0.01)


def test_identical_arms_are_at_one_half():
    assert length_controlled_rate([0.5] * 30, [0.0] * 30) == 0.5
    assert length_controlled_interval([0.5] * 30, [0.0] * 30) == (0.5, 0.5)
    assert length_controlled_rate([0.5] * 30, list(range(-15, 15))) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(("quality", "taste", "count"), [(0.0, 0.8, 60), (1.5, 1.2, 200)])
def test_the_interval_covers_the_truth_in_93_to_97_percent(quality, taste, count):
    intervals = [length_controlled_interval(*judged(quality, taste, count, 0.7, seed)) for seed in range(1_000)]
    covered = [low <= expit(quality) <= high for low, high in filter(None, intervals)]
    assert len(covered) > 990
    assert 0.93 <= np.mean(covered) <= 0.97


def test_several_seeds_widen_the_interval_by_what_they_differ():
    generator = np.random.default_rng(5)
    differences = generator.normal(5, 10, (3, 200))
    drawn = generator.random((3, 200))
    wins = lambda shift: (drawn < expit(shift + 0.05 * differences)).astype(float)
    width = lambda outcomes, words: np.ptp(length_controlled_interval(outcomes, words))
    alike, apart = wins(np.zeros((3, 1))), wins(np.array([[-1.0], [0.0], [1.0]]))
    assert width(apart, differences) > 2 * width(alike, differences)
    assert width(apart, differences) > 4 * width(apart.ravel(), differences.ravel())


def test_what_is_not_known_in_every_seed_is_left_out():
    outcomes, differences = judged(0.5, 0.5, 90)
    outcomes, differences = outcomes.reshape(3, 30), differences.reshape(3, 30)
    gap = outcomes.copy()
    gap[1, 4] = np.nan
    kept = np.delete(np.arange(30), 4)
    assert length_controlled_rate(gap, differences) == length_controlled_rate(outcomes[:, kept], differences[:, kept])
    assert length_controlled_rate([np.nan] * 40, [1.0] * 40) is None
    with pytest.raises(ValueError, match="expected the same prompts"):
        length_controlled_rate([1.0] * 30, [1.0] * 29)


def test_separation_stays_finite_and_claims_no_interval():
    outcomes, differences = [1.0] * 20 + [0.0] * 20, [5.0] * 20 + [-5.0] * 20
    assert length_controlled_rate(outcomes, differences) == pytest.approx(0.5, abs=1e-3)
    assert length_controlled_interval(outcomes, differences) is None
    assert 0.98 < length_controlled_rate([1.0] * 100, list(range(100))) < 1.0
    assert length_controlled_interval([1.0] * 100, list(range(100))) is None


def test_too_few_comparisons_or_one_length_difference_say_nothing():
    assert length_controlled_rate([1.0] * 19, [1.0] * 19) is None
    assert length_controlled_interval([1.0] * 19, [1.0] * 19) is None
    assert length_controlled_rate([1.0, 0.0] * 20, [4.0] * 40) is None


def test_a_rate_where_nearly_all_drafts_are_longer_is_known_to_be_extrapolated():
    lengths = np.arange(100.0)
    assert is_extrapolated(lengths - 3)
    assert is_extrapolated(3 - lengths)
    assert not is_extrapolated(lengths - 5)
    assert not is_extrapolated(np.zeros(10))
    assert is_extrapolated([np.nan])
