"""The win rate at equal length, against simulated judges whose taste for length is known."""

import random

import pytest

from prefdistill.metrics.length_control import length_controlled_rate


def judged(quality, taste, count=4000, longer=10.0, seed=1):
    """Outcomes and length differences of a judge that adds `taste` a standard deviation of length to the logit."""
    rng = random.Random(seed)
    outcomes, differences = [], []
    for _ in range(count):
        difference = rng.gauss(longer, 10.0)
        chance = 1 / (1 + 2.718281828 ** -(quality + taste * difference / 10.0))
        outcomes.append(float(rng.random() < chance))
        differences.append(difference)
    return outcomes, differences


@pytest.mark.parametrize("taste", [0.0, 0.8, -0.8])
@pytest.mark.parametrize(("quality", "truth"), [(0.0, 0.5), (0.6, 0.6457)])
def test_a_taste_for_length_is_taken_out(quality, truth, taste):
    outcomes, differences = judged(quality, taste)
    assert length_controlled_rate(outcomes, differences) == pytest.approx(truth, abs=0.03)
    if taste:
        assert abs(sum(outcomes) / len(outcomes) - truth) > 0.1


def test_ties_count_half_equal_drafts_are_even_and_separation_stays_finite():
    assert length_controlled_rate([0.5] * 30, [0.0] * 30) == pytest.approx(0.5)
    assert length_controlled_rate([0.5] * 30, list(range(-15, 15))) == pytest.approx(0.5, abs=1e-3)
    found = length_controlled_rate([1.0] * 20 + [0.0] * 20, [5.0] * 20 + [-5.0] * 20)
    assert found == pytest.approx(0.5, abs=1e-3)


def test_too_few_comparisons_say_nothing():
    assert length_controlled_rate([1.0] * 19, [1.0] * 19) is None
