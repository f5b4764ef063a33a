"""Win rate, gain and gap recovered, with what they refuse."""

import subprocess
import sys

import numpy as np
import pytest

from prefdistill.metrics.intervals import wilson_interval
from prefdistill.metrics.rates import (
    gap_recovered,
    gap_recovered_over_seeds,
    gate_pass_rate,
    outcome_of,
    paired_gain,
    win_rate,
)
from prefdistill.metrics.texts import distinct, length_ratio


def test_win_rate_without_ties_has_wilson_interval() -> None:
    found = win_rate(["win"] * 60 + ["loss"] * 40 + ["unknown"] * 3)
    assert (found.value, found.wins, found.losses, found.ties, found.unknown) == (0.6, 60, 40, 0, 3)
    assert found.interval == wilson_interval(60, 100)


def test_a_tie_counts_half_and_the_interval_is_bootstrapped() -> None:
    found = win_rate(["win"] * 50 + ["tie"] * 20 + ["loss"] * 30, seed=1)
    assert found.value == 0.6
    low, high = found.interval
    # The normal approximation: sd of credit 0.436 over sqrt(100).
    assert (low, high) == (pytest.approx(0.6 - 1.96 * 0.0436, abs=0.012), pytest.approx(0.6 + 1.96 * 0.0436, abs=0.012))


@pytest.mark.parametrize("outcomes", [[], ["unknown", "unknown"]])
def test_nothing_judged_is_an_error_not_zero(outcomes: list[str]) -> None:
    with pytest.raises(ValueError, match=f"0 of {len(outcomes)} comparisons"):
        win_rate(outcomes)


def test_outcomes() -> None:
    assert [outcome_of(0.6, 0.5), outcome_of(0.4, 0.5), outcome_of(0.5, 0.5)] == ["win", "loss", "tie"]
    assert outcome_of(0.55, 0.5, tie_margin=0.05) == "tie"
    assert outcome_of(0.1 + 0.2, 0.3) == "tie"


def test_paired_gain_uses_the_pairing() -> None:
    baseline = np.random.default_rng(2).random(80)
    found = paired_gain((baseline + 0.1).tolist(), baseline.tolist())
    assert found.value == pytest.approx(0.1)
    assert found.interval == (pytest.approx(0.1), pytest.approx(0.1))
    with pytest.raises(ValueError, match="expected pairs"):
        paired_gain([], [])


def test_gap_recovered() -> None:
    generator = np.random.default_rng(5)
    before = generator.normal(0.4, 0.1, 200)
    found = gap_recovered(before.tolist(), (before + 0.2).tolist(), (before + 0.4).tolist())
    assert found.value == pytest.approx(0.5)
    assert found.refused is None
    assert found.interval == (pytest.approx(0.5), pytest.approx(0.5))


def test_gap_recovered_refuses_a_small_gap_and_one_that_touches_zero() -> None:
    before = [0.4] * 50
    small = gap_recovered(before, before, [0.49] * 50)
    assert small.value is None
    assert "+0.090, under 0.10" in (small.refused or "")
    wild = gap_recovered([0.0, 1.0, 0.0, 1.0], [0.5] * 4, [1.0, 0.0, 1.0, 0.8])
    assert wild.value is None
    assert "touches zero" in (wild.refused or "")
    assert gap_recovered([], [], []).refused is not None


def test_gap_recovered_over_seeds() -> None:
    generator = np.random.default_rng(3)
    before = generator.normal(0.4, 0.1, (3, 60))
    exact = gap_recovered_over_seeds(before, before + 0.2, before + 0.4)
    assert exact.value == pytest.approx(0.5) and exact.interval == (pytest.approx(0.5), pytest.approx(0.5))
    covered = []
    for _ in range(300):
        prompt = generator.normal(0, 0.15, (1, 60))
        noise = generator.normal(0, 0.1, (2, 3, 60))
        after = 0.55 + 0.7 * prompt + generator.normal(0, 0.03, (3, 1)) + noise[1]
        found = gap_recovered_over_seeds(0.4 + prompt + noise[0], after, 0.7 + 0.3 * prompt)
        covered.append(found.interval is not None and found.interval[0] <= 0.5 <= found.interval[1])
    assert 0.92 <= np.mean(covered) <= 0.98


def test_gap_recovered_over_one_seed_is_near_the_bootstrap() -> None:
    generator = np.random.default_rng(8)
    before = generator.normal(0.4, 0.1, 150)
    after, teacher = before + generator.normal(0.2, 0.1, 150), before + generator.normal(0.4, 0.1, 150)
    resampled = gap_recovered(before.tolist(), after.tolist(), teacher.tolist())
    found = gap_recovered_over_seeds(before, after, teacher)
    assert found.value == pytest.approx(resampled.value)
    assert found.interval == pytest.approx(resampled.interval, abs=0.01)


def test_gap_recovered_over_seeds_refuses_as_over_one() -> None:
    before = np.full((3, 40), 0.4)
    assert "+0.090, under 0.10" in (gap_recovered_over_seeds(before, before, before + 0.09).refused or "")
    lucky = before + np.array([[-0.4], [0.3], [0.6]])
    assert "touches zero" in (gap_recovered_over_seeds(before, before, lucky).refused or "")
    unknown = before.copy()
    unknown[0] = np.nan
    assert "in every seed" in (gap_recovered_over_seeds(unknown, before, before).refused or "")
    one = gap_recovered_over_seeds(before[:, :1], before[:, :1], before[:, :1] + 0.5)
    assert "one prompt was judged" in (one.refused or "")


def test_gate_pass_rate() -> None:
    assert gate_pass_rate([(), ("complete",), (), ()]) == 0.75
    assert gate_pass_rate([]) is None


def test_length_ratio() -> None:
    assert length_ratio(["a b c", "d"], ["a b"]) == 1.0
    assert length_ratio(["a"], [" "]) is None
    assert length_ratio([], ["a"]) is None


def test_distinct() -> None:
    found = distinct([["the cat sat", "The  cat sat"], ["a dog ran"]])
    assert found.distinct_drafts == pytest.approx(2 / 3)
    assert found.distinct_2 == pytest.approx(4 / 6)
    assert distinct([["one"]]).distinct_2 is None
    with pytest.raises(ValueError, match="no draft"):
        distinct([[]])


def test_pure_functions_import_no_evaluate() -> None:
    code = (
        "import sys; from prefdistill.metrics import rates, texts, further; from prefdistill.stages import evaluate; "
        "sys.exit(bool({'evaluate', 'datasets', 'torch', 'scipy', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_on_a_scale_of_its_own_a_gap_is_measured_by_what_the_scores_span():
    generator = np.random.default_rng(3)
    before = 5 + generator.normal(0, 0.1, (3, 50))
    found = gap_recovered_over_seeds(before, before + 0.2, before + 0.5)
    assert found.value == pytest.approx(0.4)
    refused = gap_recovered_over_seeds(before, before + 0.2, before + 0.5, span=10)
    assert refused.value is None
    assert "+0.500, under 1.00" in refused.refused
