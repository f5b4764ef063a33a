"""The corrected win rate, against the examples that its interval was published with, and by simulated coverage."""

import numpy as np
import pytest

from prefdistill.metrics.rogan_gladen import corrected_rate, slice_counts


@pytest.mark.parametrize(
    ("rate", "n", "sensitivity", "specificity", "low", "high"),
    [
        (4060 / 11284, 11284, (178, 179), (358, 359), 0.349, 0.372),
        (51 / 2971, 2971, (32, 33), (20, 20), 0.0, 0.053),
        (0.06, 11862, (8, 10), (12, 12), 0.0, 0.147),
        (259 / 509, 509, (84, 127), (96, 109), 0.58, 0.87),
        (51 / 509, 509, (23, 41), (187, 195), 0.037, 0.195),
    ],
)
def test_the_examples_of_lang_and_reiczigel(rate, n, sensitivity, specificity, low, high) -> None:
    # Lang and Reiczigel 2014, examples 1 to 4, as the R package asht repeats them.
    found = corrected_rate(rate, n, sensitivity, specificity)
    assert found.interval == (pytest.approx(low, abs=5.5e-3), pytest.approx(high, abs=5.5e-3))
    assert found.refused is None and not found.clipped


def test_the_correction_turns_the_judges_errors_back() -> None:
    for truth in (0.2, 0.5, 0.8):
        said = truth * 0.9 + (1 - truth) * (1 - 0.7)
        assert corrected_rate(said, 400, (90, 100), (70, 100)).value == pytest.approx(truth)
    perfect = corrected_rate(0.6, 100, (50, 50), (50, 50))
    assert perfect.value == pytest.approx(0.6)


@pytest.mark.parametrize(("truth", "sens", "spec"), [(0.55, 0.85, 0.75), (0.7, 0.9, 0.7), (0.4, 0.8, 0.8)])
def test_the_interval_covers_the_truth(truth: float, sens: float, spec: float) -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(1_500):
        said = generator.binomial(300, truth * sens + (1 - truth) * (1 - spec)) / 300
        right = (int(generator.binomial(60, sens)), 60), (int(generator.binomial(50, spec)), 50)
        found = corrected_rate(said, 300, *right)
        assert found.interval is not None
        covered += found.interval[0] <= truth <= found.interval[1]
    assert 0.93 <= covered / 1_500 <= 0.985


def test_a_small_slice_widens_the_interval() -> None:
    small, large = (corrected_rate(0.6, 400, (right, seen), (right, seen)) for right, seen in ((16, 20), (800, 1000)))
    width = lambda found: found.interval[1] - found.interval[0]
    assert small.value == pytest.approx(large.value)
    assert width(small) > 2 * width(large)


def test_refused_where_the_judge_hardly_knows_wins_from_losses() -> None:
    found = corrected_rate(0.6, 400, (60, 100), (59, 100))
    assert (found.value, found.interval) == (None, None)
    assert "is 0.19, under 0.2" in (found.refused or "")
    assert corrected_rate(0.6, 400, (60, 100), (61, 100)).refused is None
    assert "labelled no win" in (corrected_rate(0.6, 400, (0, 0), (9, 10)).refused or "")
    assert "labelled no loss" in (corrected_rate(0.6, 400, (9, 10), (0, 0)).refused or "")


def test_a_correction_that_leaves_the_range_is_cut_and_says_so() -> None:
    found = corrected_rate(0.85, 200, (80, 100), (90, 100))
    assert (found.value, found.clipped) == (1.0, True)
    assert found.interval is not None and found.interval[0] < 1.0 == found.interval[1]


def test_a_rate_that_such_a_judge_cannot_give_is_refused() -> None:
    for rate, right in ((0.97, ((80, 100), (90, 100))), (0.02, ((90, 100), (80, 100)))):
        found = corrected_rate(rate, 200, *right)
        assert (found.value, found.interval) == (None, None)
        assert "cannot give a rate" in (found.refused or "")


def test_counts_of_a_labelled_slice() -> None:
    judge = ["win", "loss", "tie", "win", "loss", "unknown", "tie", "win"]
    people = ["win", "win", "win", "loss", "loss", "win", "tie", "unknown"]
    assert slice_counts(judge, people) == ((1.5, 3), (1.0, 2))
    with pytest.raises(ValueError):
        slice_counts(["win"], [])


@pytest.mark.parametrize(
    "inputs",
    [(1.2, 10, (1, 2), (1, 2)), (0.5, 0, (1, 2), (1, 2)), (0.5, 10, (3, 2), (1, 2)), (0.5, 9, (1, 2), (-1, 2))],
)
def test_impossible_counts_are_refused(inputs) -> None:
    with pytest.raises(ValueError, match="expected"):
        corrected_rate(*inputs)
