"""Silent where nothing changed, loud and rightly named where something did; tests/benchmarks/drift.py measures more."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from prefdistill.drift.measuring import Measurement, measure
from prefdistill.drift.reading import Request
from tests.drift.drifted_logs import NAMED, log_rows, requests_of, trained_on

SEEDS = 20


def found_in(measured: Measurement) -> set[str]:
    found = {each.shares.name for each in measured.shifts if each.drifted}
    found |= {each.kind.name for each in measured.excesses if each.drifted}
    return found | {each.control.name for each in measured.charts if each.drifted}


@pytest.mark.parametrize("rows", [50, pytest.param(120, marks=pytest.mark.slow)])
def test_logs_of_the_training_distribution_are_silent(rows: int) -> None:
    alarms = [
        found_in(measure(trained_on(200, seed), requests_of(log_rows(rows, 1_000 + seed)))) for seed in range(SEEDS)
    ]
    assert sum(map(bool, alarms)) <= 1, alarms


@pytest.mark.parametrize("fields", [True, False], ids=["with fields", "without"])
@pytest.mark.parametrize("shift", NAMED)
def test_a_tenth_of_the_log_is_enough_for_an_alarm_that_names_it(shift: str, fields: bool) -> None:
    measured = measure(trained_on(500, 1), requests_of(log_rows(300, 7, shift, 0.1, fields)))
    assert found_in(measured) & NAMED[shift]


@pytest.mark.parametrize("shift", NAMED)
def test_an_alarm_about_one_thing_is_not_about_another(shift: str) -> None:
    measured = measure(trained_on(500, 1), requests_of(log_rows(300, 7, shift, 0.3, fields=False)))
    others = {
        name for other, names in NAMED.items() if other in ("language", "longer") and other != shift for name in names
    }
    allowed = {"length in characters", "length in words", "longer prompts"} if shift == "language" else set()
    assert not found_in(measured) & (others - allowed)


def test_one_user_who_asks_a_hundred_times_is_no_drift() -> None:
    from prefdistill.drift.distinct import distinct

    rows = log_rows(200, 5) + [{"id": f"u{n}", "prompt": "Wo bleibt mein Paket, bitte?"} for n in range(100)]
    counted = distinct(requests_of(rows))
    assert counted.repeats == 99
    assert not measure(trained_on(300, 1), counted.requests).drifted


def test_a_new_value_is_named_and_a_new_system_prompt_too() -> None:
    rows = log_rows(200, 5)
    rows = [{**row, "day": "Sunday"} if index % 8 == 0 else row for index, row in enumerate(rows)]
    requests = [
        Request(each.id, each.turns, "You are a pirate." if index % 5 == 0 else None, each.fields, each.characters)
        for index, each in enumerate(requests_of(rows))
    ]
    measured = measure(trained_on(300, 1), requests)
    assert {"new values of `day`", "system prompt"} <= found_in(measured)
    days = next(each.kind for each in measured.excesses if each.kind.name == "new values of `day`")
    assert days.values == (("Sunday", 25),)


def test_a_number_out_of_range_is_found() -> None:
    def numbered(requests: Sequence[Request], more: float) -> list[Request]:
        return [
            Request(
                each.id,
                each.turns,
                None,
                {"amount": (index * 37 % 101) + (more if index % 5 == 0 else 0)},
                each.characters,
            )
            for index, each in enumerate(requests)
        ]

    trained = trained_on(300, 1)
    trained = type(trained)(**{**trained.__dict__, "prompts": tuple(numbered(trained.prompts, 0))})
    log = requests_of(log_rows(200, 5))
    assert found_in(measure(trained, numbered(log, 500))) == {"field `amount` out of range"}
    assert found_in(measure(trained, numbered(log, 0))) == set()


def test_a_log_that_is_too_small_says_how_many_it_needs() -> None:
    measured = measure(trained_on(300, 1), requests_of(log_rows(30, 5)))
    length = next(each for each in measured.shifts if each.shares.name == "length in characters")
    assert not length.seen and length.needed is not None and 30 < length.needed < 2_000


def test_the_same_log_gives_the_same_figures() -> None:
    trained, log = trained_on(150, 1), requests_of(log_rows(120, 5, "topic", 0.2))
    assert measure(trained, log) == measure(trained, log)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_requests_is_measured_without_alarm(count: int) -> None:
    assert not measure(trained_on(100, 1), requests_of(log_rows(count, 5))).drifted
