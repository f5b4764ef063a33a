"""Sign test, permutation test and Holm's correction, against textbook examples."""

import numpy as np
import pytest

from prefdistill.metrics.significance import SignTest, holm, permutation_test, sign_test

DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
"""Crossed less self-fertilised maize, in eighths of an inch: Fisher 1935, `The Design of Experiments`, section 21."""


def test_sign_test_of_siegel() -> None:
    # Siegel 1956, `Nonparametric Statistics`, table D: 3 of 14 in the rarer direction has a one-sided p of 0.029.
    found = sign_test([1.0] * 11 + [-1.0] * 3 + [0.0] * 3)
    assert (found.up, found.down, found.same) == (11, 3, 3)
    assert found.p == pytest.approx(2 * 0.0287, abs=1e-4)


def test_sign_test_leaves_out_the_unknown_and_rounding_errors() -> None:
    assert sign_test([0.1 + 0.2 - 0.3, np.nan, 0.5]) == SignTest(1, 0, 1, 1.0)
    assert sign_test([]).p == sign_test([0.0, 0.0]).p == 1.0
    assert sign_test([[0.1] * 3, [0.2] * 3]).up == 6
    assert sign_test([0.3, 0.2, 0.4]).p == pytest.approx(0.25), "three seeds of three prove nothing"


def test_permutation_test_of_darwins_maize() -> None:
    # Fisher counts 863 of 32,768 sign patterns with as large a sum, in each direction.
    assert permutation_test(DARWIN, 0, resamples=40_000) == pytest.approx(2 * 863 / 32_768)
    assert permutation_test(DARWIN, 0) == pytest.approx(2 * 863 / 32_768, abs=0.006)


def test_permutation_test_is_seeded_and_leaves_out_the_unknown() -> None:
    values = np.random.default_rng(1).normal(0.1, 1, 200)
    assert permutation_test(values, 3) == permutation_test(values, 3)
    assert permutation_test([*DARWIN, np.nan], 5) == permutation_test(DARWIN, 5)
    assert permutation_test([0.0] * 9, 0) == 1.0
    with pytest.raises(ValueError, match="at least one that is known"):
        permutation_test([np.nan], 0)
    with pytest.raises(ValueError, match="one a prompt"):
        permutation_test(np.zeros((2, 3)), 0)


def test_permutation_test_keeps_its_level() -> None:
    samples = np.random.default_rng(8).choice([-0.5, 0.0, 0.5], size=(400, 60))
    below = np.mean([permutation_test(sample, seed, resamples=500) <= 0.05 for seed, sample in enumerate(samples)])
    assert 0.02 <= below <= 0.08


def test_holm() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm").
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    from statsmodels.stats.multitest import multipletests

    drawn = np.random.default_rng(1).random(20) ** 3
    assert holm(drawn.tolist()) == pytest.approx(multipletests(drawn, method="holm")[1].tolist())
    assert holm([0.4, 0.9]) == pytest.approx((0.8, 0.9))
    assert holm([]) == ()
    with pytest.raises(ValueError, match="is no p value"):
        holm([0.1, float("nan")])
