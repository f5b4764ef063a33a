"""The KL of best-of-n, against the drafts of a writer whose every text is known."""

import math

import pytest

from prefdistill.metrics.best_of import best_of_kl


def test_the_known_formula():
    assert best_of_kl(1) == 0.0
    assert best_of_kl(2) == pytest.approx(math.log(2) - 1 / 2)
    assert best_of_kl(4) == pytest.approx(0.6363, abs=1e-4)
    with pytest.raises(ValueError, match="at least 1"):
        best_of_kl(0)


@pytest.mark.parametrize("drafts", [2, 4, 16])
def test_it_is_what_choosing_among_many_equally_likely_texts_without_ties_does(drafts):
    """Of m equally likely texts in order of score, text k is the best of n with probability (k/m)^n - ((k-1)/m)^n."""
    texts = 5000
    chosen = [(k / texts) ** drafts - ((k - 1) / texts) ** drafts for k in range(1, texts + 1)]
    exact = sum(p * math.log(p * texts) for p in chosen if p > 0)
    assert exact == pytest.approx(best_of_kl(drafts), abs=2e-3)
    assert exact < best_of_kl(drafts), "it is an upper bound where texts are not without number"
