"""Thresholds for a wanted share."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from prefdistill.serve.calibrating import Calibration, Case, calibrate
from prefdistill.serve.routing import TESTS, TestName

ABOUT: dict[str, Any] = {"run": "r", "round": 1, "temperature": 0.7}


def cases(count: int, seed: int = 0, gates: float = 0.03, **fixed: Any) -> list[Case]:
    random_ = random.Random(seed)
    return [
        Case(
            prompt_id=str(number),
            gates=("facts",) if random_.random() < gates else (),
            **{
                "length": random_.gauss(5, 0.3),
                "log_prob": random_.gauss(-0.3, 0.1),
                "distance": random_.random(),
                **fixed,
            },
        )
        for number in range(count)
    ]


def made(some: list[Case], wanted: float, *on: TestName) -> Calibration:
    return calibrate(some, wanted, frozenset(on or TESTS), **ABOUT)


def calibration_share(found: Calibration, some: list[Case]) -> float:
    """The share of cases that the thresholds send to the teacher, applied as the tests apply them."""

    def goes(case: Case) -> bool:
        assert found.characters is not None and found.log_prob is not None and found.distance is not None
        characters = math.expm1(case.length)
        return (
            bool(case.gates)
            or not found.characters[0] <= characters <= found.characters[1]
            or (case.log_prob or 0.0) < found.log_prob
            or (case.distance or 0.0) > found.distance
        )

    return sum(map(goes, some)) / len(some)


@pytest.mark.parametrize("wanted", [0.05, 0.1, 0.3, 0.8])
def test_the_share_of_all_tests_together_is_the_wanted_one(wanted: float) -> None:
    found = made(cases(1000), wanted)
    assert abs(found.share - wanted) <= 0.002
    alone = [found.shares[name] for name in ("out_of_scope", "length", "log_prob")]
    assert max(alone) - min(alone) <= 0.002, "one common quantile"
    assert found.interval[0] < wanted < found.interval[1]


def test_the_thresholds_hold_for_fresh_cases() -> None:
    found = made(cases(4000), 0.1)
    assert abs(calibration_share(found, cases(4000, seed=1)) - 0.1) < 0.015
    assert calibration_share(found, cases(4000)) == pytest.approx(found.share)


def test_gates_above_the_wanted_share_are_said_and_the_rest_is_off() -> None:
    found = made(cases(500, gates=0.3), 0.1)
    assert found.share == found.shares["gate"] == found.gates["facts"] > 0.25
    assert (found.distance, found.log_prob, found.characters) == (None, None, None)
    assert "gates alone" in found.notes[0] and "facts" in found.notes[0]


def test_few_prompts_are_said_with_the_interval() -> None:
    found = made(cases(20), 0.1)
    assert any("only 20 validation prompts" in note for note in found.notes)
    assert found.interval[1] - found.interval[0] > 0.2
    assert not made(cases(400), 0.1).notes


def test_no_share_wanted_sends_only_what_fails_a_gate() -> None:
    assert made(cases(300, gates=0.0), 0.0).share == 0.0
    assert made(cases(300, gates=0.0), 0.0).log_prob is None


def test_equal_numbers_go_together_and_what_that_means_is_said() -> None:
    found = made(cases(300, gates=0.0, length=5.0, log_prob=-0.3, distance=0.1), 0.1)
    assert found.share == 0.0, "all or none: none is nearer"
    assert "nearest share" in found.notes[0]


def test_a_test_of_which_nothing_is_known_never_fires() -> None:
    found = made(cases(300, log_prob=None), 0.1)
    assert found.log_prob is None and abs(found.share - 0.1) < 0.005
    assert any("log_prob" in note for note in found.notes)
    assert made(cases(300, log_prob=None), 0.1, "log_prob").share == 0.0


def test_several_drafts_of_a_prompt_count_as_one_in_the_interval() -> None:
    once, again = cases(200), cases(200, seed=1)
    assert made(once, 0.1).interval == pytest.approx(made([*once, *again], 0.1).interval, abs=0.01)
