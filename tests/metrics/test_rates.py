"""Win rate, gain and gap recovered, with what they refuse."""

import subprocess
import sys

import numpy as np
import pytest

from prefdistill.metrics.intervals import wilson_interval
from prefdistill.metrics.rates import gap_recovered, gate_pass_rate, outcome_of, paired_gain, win_rate
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
