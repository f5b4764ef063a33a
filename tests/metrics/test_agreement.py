"""Agreement beyond chance, against textbook values."""

import numpy as np
import pytest

from prefdistill.metrics.agreement import (
    clustered_interval,
    cohen_kappa,
    cohen_kappas,
    confusion,
    krippendorff_alpha,
    majority,
)

KRIPPENDORFF = """
1 2 3 3 2 1 4 1 2 * * *
1 2 3 3 2 2 4 1 2 5 * 3
* 3 3 3 2 3 4 2 2 5 1 *
1 2 3 3 2 4 4 1 2 5 1 *
"""
"""Four observers, twelve units: Krippendorff 2011, `Computing Krippendorff's Alpha-Reliability`, section C."""


def units():
    rows = [line.split() for line in KRIPPENDORFF.strip().splitlines()]
    return [[each for each in column if each != "*"] for column in zip(*rows, strict=True)]


def test_cohen_kappa_of_the_textbook_example():
    assert cohen_kappa([[20, 5], [10, 15]]) == pytest.approx(0.4)
    assert cohen_kappa([[45, 15], [25, 15]]) == pytest.approx(0.1304, abs=1e-4)
    assert cohen_kappa([[25, 35], [5, 35]]) == pytest.approx(0.2593, abs=1e-4)


def test_cohen_kappa_of_fleiss_and_of_statsmodels():
    from statsmodels.stats.inter_rater import cohens_kappa

    diagnoses = [[75, 1, 4], [5, 4, 1], [0, 0, 10]]
    assert cohen_kappa(diagnoses) == pytest.approx(0.676, abs=5e-4), "Fleiss 1981, table 13.1"
    tables = np.random.default_rng(3).integers(0, 30, (20, 3, 3))
    assert cohen_kappas(tables) == pytest.approx([cohens_kappa(each, return_results=False) for each in tables])


def test_kappa_is_one_for_the_same_answers_zero_for_chance_and_none_for_one_class():
    answers = [1, 0, -1, 1]
    assert cohen_kappa(confusion(answers, answers, (1, 0, -1))) == pytest.approx(1.0)
    assert cohen_kappa([[25, 25], [25, 25]]) == pytest.approx(0.0)
    assert cohen_kappa([[9, 0], [0, 0]]) is None


def test_confusion_refuses_what_it_does_not_know():
    assert confusion(["a", "a"], ["a", "b"], "ab").tolist() == [[1, 1], [0, 0]]
    with pytest.raises(ValueError, match="none of a, b"):
        confusion(["a"], ["c"], "ab")
    with pytest.raises(ValueError, match="1 and 2 ratings"):
        confusion(["a"], ["a", "b"], "ab")


def test_krippendorff_alpha_of_the_textbook_example():
    assert krippendorff_alpha(units(), "12345") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(units(), "12345", "ordinal") == pytest.approx(0.815, abs=5e-4)


@pytest.mark.parametrize(
    ("one", "other", "alpha"),
    [("0100000010", "1110010000", 0.095), ("aabbdcccedda", "babbbccceddd", 0.692)],
)
def test_krippendorff_alpha_of_two_observers(one, other, alpha):
    """Krippendorff 2011, sections A (two values) and B (any number of nominal values)."""
    assert krippendorff_alpha(list(zip(one, other, strict=True)), sorted({*one, *other})) == pytest.approx(
        alpha, abs=5e-4
    )


def test_krippendorff_alpha_at_its_ends():
    assert krippendorff_alpha([["a", "a"], ["b", "b", "b"]], "ab") == pytest.approx(1.0)
    assert krippendorff_alpha([["a", "b"], ["b", "a"]], "ab") < 0
    assert krippendorff_alpha([["a", "a"], ["a", "a"]], "ab") is None
    assert krippendorff_alpha([["a"], ["b"]], "ab") is None
    with pytest.raises(ValueError, match="none of"):
        krippendorff_alpha([["a", "z"]], "ab")


@pytest.mark.parametrize(
    ("votes", "most"),
    [([], None), ([1], 1), ([1, -1], 0), ([1, 1, -1], 1), ([0, 0, 1], 0), ([1, 0], 0), ([-1, -1], -1)],
)
def test_majority(votes, most):
    assert majority(votes) == most


def test_clusters_are_resampled_whole():
    one_each = {number: [float(number % 2), 1.0] for number in range(40)}
    in_fours = {number: [4.0 * (number % 2), 4.0] for number in range(10)}
    ratio = lambda means: means[:, 0] / means[:, 1]
    narrow, wide = clustered_interval(one_each, ratio), clustered_interval(in_fours, ratio)
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])
    assert clustered_interval({1: [1.0, 1.0]}, ratio) is None
    assert clustered_interval({1: [0.0, 0.0], 2: [0.0, 0.0]}, lambda means: means[:, 0] / np.zeros(len(means))) is None
