"""Switch, stay or not clear: from two finished runs with scores that each test chooses."""

import math
import random
import re
from pathlib import Path
from typing import Any

import pytest

from prefdistill.compare.data import Estimate
from prefdistill.errors import RunError
from prefdistill.finished import read_finished
from prefdistill.refresh.figures import RefreshFigures, measure_refresh
from prefdistill.refresh.sizes import Size
from prefdistill.refresh.verdict import Answer, Burden, _decide, burden_of, give_verdict
from tests.compare.runs import Fake

PROMPTS = 120


def noise(seed: int, spread: float = 0.05, count: int = PROMPTS) -> list[float]:
    generator = random.Random(seed)
    return [0.5 + generator.uniform(-spread, spread) for _ in range(count)]


def lifted(by: float, seed: int = 1, spread: float = 0.05) -> list[float]:
    return [value + by for value in noise(seed, spread)]


def measured(folder: Path, old: Fake, new: Fake) -> RefreshFigures:
    return measure_refresh(read_finished(old.write(folder / "old")), read_finished(new.write(folder / "new")))


def given(folder: Path, old: Any, new: Any, margin: float = 0.02, **changes: Any) -> Answer:
    base = noise(0)
    return give_verdict(measured(folder, Fake(old, base), Fake(new, base, **changes)), margin)


def test_a_better_student_is_switched_to(tmp_path):
    answer = given(tmp_path, lifted(0.1, 1), lifted(0.2, 2))
    assert (answer.word, answer.headline) == ("switch", "Switch: the new student is better.")
    assert "by the held-out judge judges.py:HeldOut: 0.6" in answer.reasons[0]
    assert re.search(r"\+0\.\d+ \(\+0\.\d+ to \+0\.\d+\)", answer.reasons[0])


def test_a_worse_student_is_not(tmp_path):
    answer = given(tmp_path, lifted(0.2, 1), lifted(0.1, 2))
    assert answer.headline == "Stay: the new student is worse by more than the margin of 0.02."


def test_a_difference_that_the_prompts_cannot_tell_is_not_clear_and_says_how_many_would(tmp_path):
    answer = given(tmp_path, lifted(0.1, 1, 0.3), lifted(0.1, 2, 0.3))
    assert answer.word == "not clear"
    assert "may be worse by more than the margin" in answer.headline
    assert any(re.search(r"About [\d,]+ test prompts would settle", each) for each in answer.reasons)


def test_the_margin_decides(tmp_path):
    """The same runs: clearly lower by about 0.03."""
    figures = measured(tmp_path, Fake(lifted(0.13, 1), noise(0)), Fake(lifted(0.10, 2), noise(0)))
    assert give_verdict(figures, 0.02).word in ("stay", "not clear")
    assert give_verdict(figures, 0.005).headline.startswith("Stay: the new student is worse by more than")
    assert give_verdict(figures, 0.1).headline == "Stay: the new student is worse, and saves nothing."


def test_a_gate_that_is_failed_more_often_stands_in_the_way(tmp_path):
    """The held-out judge likes the new student better, the rubric's gate does not."""
    answer = given(tmp_path, lifted(0.1, 1), lifted(0.2, 2), failed_gates=range(20))
    assert answer.word == "not clear"
    assert "fails a gate more often (facts)" in answer.headline
    assert "Gate facts: 100\u00a0% of the old student's drafts pass it, 83\u00a0% of the new one's." in answer.reasons


def test_a_criterion_that_fell_is_named_though_the_mean_rose(tmp_path):
    old, new = Fake(lifted(0.1, 1), noise(0)), Fake(lifted(0.2, 2), noise(0))
    folder = new.write(tmp_path / "new")
    path = folder / "test" / "round-01" / "held-out.jsonl"
    sunk = re.sub(
        r'("criterion": "kind"[^}]*?"score": )([\d.]+)',
        lambda found: f"{found[1]}{float(found[2]) - 0.4}",
        path.read_text(),
    )
    raised = re.sub(
        r'("criterion": "clear"[^}]*?"score": )([\d.]+)',
        lambda found: f"{found[1]}{min(1.0, float(found[2]) + 0.3)}",
        sunk,
    )
    path.write_text(raised)
    figures = measure_refresh(read_finished(old.write(tmp_path / "old")), read_finished(folder))
    answer = give_verdict(figures, 0.02)
    assert answer.word == "switch"
    assert any(each.startswith("Criterion kind got clearly worse: 0.60") for each in answer.reasons)
    assert any(each.startswith("Clearly better: clear +0.") for each in answer.reasons)


def test_few_prompts_and_missing_verdicts_say_nothing(tmp_path):
    few = measured(tmp_path / "few", Fake([0.9] * 12, [0.5] * 12), Fake([0.1] * 12, [0.5] * 12))
    assert give_verdict(few, 0.02).headline == (
        "Not clear: 12 test prompts have a score of both students, which is too few; expected 30 or more, better hundreds."
    )
    unknown = measured(tmp_path / "some", Fake(lifted(0.1), noise(0)), Fake([None] * 20 + lifted(0.3)[20:], noise(0)))
    assert give_verdict(unknown, 0.02).headline.startswith("Not clear: 20 of 120 test prompts have no score of one")
    none = measured(tmp_path / "none", Fake(lifted(0.1), noise(0)), Fake([None] * PROMPTS, noise(0)))
    assert give_verdict(none, 0.02).word == "not clear"


def test_a_judge_that_only_compares_gives_no_common_measure(tmp_path):
    evaluate = {"evaluate": {"judge": {"use": "judges.py:Comparing"}, "compare": "both_orders"}}
    fakes = [Fake(lifted(by), noise(0), recipe=evaluate, held_out=None) for by in (0.1, 0.3)]
    answer = give_verdict(measured(tmp_path, *fakes), 0.02)
    assert answer.word == "not clear"
    assert "no common measure" in answer.headline


def test_gold_that_disagrees_is_said(tmp_path):
    old = Fake(lifted(0.1, 1), noise(0), gold=lifted(0.3, 3), base_gold=noise(5))
    new = Fake(lifted(0.2, 2), noise(0), gold=lifted(0.1, 4), base_gold=noise(5))
    reasons = give_verdict(measured(tmp_path, old, new), 0.02).reasons
    assert any(
        each.startswith("By gold, the sandbox's truth: −0.2") and "judge is wrong here" in each for each in reasons
    )


def test_only_prompts_of_both_count(tmp_path):
    """The new student cannot take two of them, and one was forgotten in the old run."""
    names = [f"test-{number:05d}" for number in range(PROMPTS)]
    old = Fake(lifted(0.1, 1), noise(0), forgotten=[5])
    new = Fake(lifted(0.2, 2)[2:], noise(0)[2:], ids=names[2:])
    figures = measured(tmp_path, old, new)
    assert (figures.prompts, figures.left_out, figures.forgotten) == (PROMPTS - 3, 2, 1)


def test_no_prompt_in_common(tmp_path):
    new = Fake([0.5] * 3, [0.5] * 3, ids=["a", "b", "c"])
    with pytest.raises(RunError, match=r"no test prompt is left that .*old has too; expected at least one"):
        measured(tmp_path, Fake([0.5] * 3, [0.5] * 3), new)


def test_both_bases_stand_in_the_figures(tmp_path):
    """Each student is measured against its own base."""
    figures = measured(tmp_path, Fake(lifted(0.1, 1), noise(0)), Fake(lifted(0.1, 2), lifted(-0.2, 3)))
    assert figures.base_difference is not None and figures.base_difference.value == pytest.approx(-0.2, abs=0.02)
    assert figures.new.gain is not None and figures.new.gain.value == pytest.approx(0.3, abs=0.02)
    assert any("new base is worse" in each for each in give_verdict(figures, 0.02).reasons)


def size(parameters: int | None = 100, seconds: float | None = 1.0, machine: str = "m") -> Size:
    return Size(parameters, None, None, None, None, seconds, machine)


@pytest.mark.parametrize(
    ("old", "new", "saves", "costs", "unknown"),
    [
        (size(), size(), 0, 0, ()),
        (size(100), size(50), 1, 0, ()),
        (size(100), size(250), 0, 1, ()),
        (size(seconds=1.0), size(seconds=0.5), 1, 0, ()),
        (size(seconds=1.0), size(seconds=0.95), 0, 0, ()),
        (size(100, 1.0), size(50, 2.0), 1, 1, ()),
        (size(None), size(), 0, 0, ("parameters",)),
        (size(), size(machine="n", seconds=9.0), 0, 0, ("seconds a draft",)),
    ],
)
def test_what_a_switch_costs_and_saves(old, new, saves, costs, unknown):
    burden = burden_of(old, new)
    assert (len(burden.saves), len(burden.costs), burden.unknown) == (saves, costs, unknown)


SMALLER, LARGER, BOTH = Burden(("is smaller",), (), ()), Burden((), ("is larger",), ()), Burden(("x",), ("y",), ())
EQUAL, UNKNOWN = Burden((), (), ()), Burden((), (), ("parameters",))


@pytest.mark.parametrize(
    ("interval", "burden", "word"),
    [
        ((0.01, 0.05), LARGER, "switch"),
        ((-0.01, 0.05), SMALLER, "switch"),
        ((-0.01, 0.05), LARGER, "stay"),
        ((-0.01, 0.05), EQUAL, "stay"),
        ((-0.01, 0.05), BOTH, "not clear"),
        ((-0.01, 0.05), UNKNOWN, "not clear"),
        ((-0.03, 0.05), SMALLER, "not clear"),
        ((-0.015, -0.005), SMALLER, "switch"),
        ((-0.015, -0.005), EQUAL, "stay"),
        ((-0.03, -0.005), SMALLER, "not clear"),
        ((-0.03, -0.005), EQUAL, "stay"),
        ((-0.09, -0.03), SMALLER, "stay"),
    ],
)
def test_every_place_of_the_interval_has_its_word(interval, burden, word):
    found = Estimate(sum(interval) / 2, interval, (), 100)
    assert _decide(found, interval, 0.02, (), burden)[0] == word


def test_numbers_are_finite_or_none(tmp_path):
    figures = measured(tmp_path, Fake(lifted(0.1, 1), noise(0), teacher=lifted(0.4)), Fake(lifted(0.2, 2), noise(0)))
    assert figures.teacher is not None and figures.teacher.score is not None
    assert all(math.isfinite(value) for value in figures.teacher_criteria.values())
