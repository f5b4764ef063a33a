"""Differences by criterion, and that looking at many is paid for."""

import numpy as np
import pytest

from prefdistill.metrics.criteria import criterion_differences
from prefdistill.metrics.crossed import crossed_mean
from prefdistill.metrics.significance import holm


def test_rows_have_both_means_the_paired_difference_and_corrected_p() -> None:
    generator = np.random.default_rng(1)
    theirs = {name: generator.choice([0.0, 0.5, 1.0], (3, 80)) for name in ("tone", "length", "ask")}
    ours = {
        "tone": np.clip(theirs["tone"] + 0.5, 0, 1),
        "length": generator.choice([0.0, 0.5, 1.0], (3, 80)),
        "ask": theirs["ask"],
        "new": theirs["ask"],
    }
    tone, length, ask = criterion_differences(ours, theirs)
    assert [tone.criterion, length.criterion, ask.criterion] == ["tone", "length", "ask"], "`new` is on one side only"
    expected = crossed_mean(ours["tone"] - theirs["tone"])
    assert (tone.difference, tone.interval, tone.p) == (expected.value, expected.interval, expected.p)
    assert tone.ours - tone.theirs == pytest.approx(tone.difference)
    assert (tone.p_holm, length.p_holm, ask.p_holm) == holm([tone.p, length.p, ask.p])
    assert tone.p_holm < 0.01 and ask.p_holm == 1.0 and tone.prompts == 80


def test_only_prompts_that_both_sides_have_count() -> None:
    ours = {"tone": [1.0, 0.5, np.nan, 1.0], "rare": [np.nan] * 4, "once": [1.0, np.nan, np.nan, np.nan]}
    theirs = {"tone": [0.5, np.nan, 0.0, 0.0], "rare": [1.0] * 4, "once": [0.0] * 4}
    tone, once = criterion_differences(ours, theirs)
    assert (tone.ours, tone.theirs, tone.prompts) == (1.0, 0.25, 2)
    assert (once.difference, once.interval, once.p, once.p_holm) == (1.0, None, None, None)


def test_one_row_of_base_scores_stands_for_every_seed() -> None:
    ours = np.random.default_rng(2).random((3, 20))
    base = np.full(20, 0.5)
    (found,) = criterion_differences({"tone": ours}, {"tone": base})
    assert found.theirs == 0.5 and found.difference == pytest.approx(ours.mean() - 0.5)
    with pytest.raises(ValueError, match="tone: scores of shape"):
        criterion_differences({"tone": ours}, {"tone": base[:-1]})


def test_no_difference_is_called_one_in_five_percent_of_all_looks() -> None:
    generator = np.random.default_rng(7)
    wrong = 0
    for _ in range(400):
        drawn = {side: {str(k): generator.choice([0.0, 0.5, 1.0], 60) for k in range(8)} for side in "ab"}
        wrong += any(row.p_holm < 0.05 for row in criterion_differences(drawn["a"], drawn["b"]))
    assert 0.02 <= wrong / 400 <= 0.08
