"""The tests of prompts and drafts."""

from __future__ import annotations

import pytest

from prefdistill.errors import RecipeError
from prefdistill.records import Message
from prefdistill.rubric import RubricSet
from prefdistill.scope import Scope
from prefdistill.serve.routing import TESTS, Screen, Thresholds, Written, parse_routes, to_prompt
from tests.making import LENGTH, make_rubric
from tests.serve.fakes import GOOD, make_tests

ASK = (Message(role="user", content="Write it."),)
FRIDAY = to_prompt(ASK, {"day": "Friday"})


def test_routes_are_named() -> None:
    assert parse_routes("all") == set(TESTS)
    assert parse_routes("prompt-only") == {"out_of_scope"}
    assert parse_routes("gate, log-prob") == {"gate", "log_prob"}
    with pytest.raises(RecipeError, match="did you mean `length`"):
        parse_routes("lenght")
    with pytest.raises(RecipeError, match="empty"):
        parse_routes(",")


def test_a_draft_that_fails_a_gate_is_named_by_it() -> None:
    tests = make_tests("gate")
    assert tests.of_draft(FRIDAY, Written(GOOD)).fired == ()
    found = tests.of_draft(FRIDAY, Written("See you on Monday."))
    assert (found.fired, found.gates) == (("gate",), ("facts",))


def test_a_gate_without_its_field_does_not_apply_and_is_told() -> None:
    found = make_tests("gate").of_draft(to_prompt(ASK, {}), Written("See you on Monday."))
    assert (found.fired, found.gates, found.not_applied) == ((), (), ("facts",))


def test_a_cut_draft_fails_unless_the_client_wanted_it_short() -> None:
    tests = make_tests("gate", "length", thresholds=Thresholds(characters=(20, 100)))
    cut = Written("See you on Fri", finish="length")
    assert tests.of_draft(to_prompt(ASK, {}), cut).gates == ("complete",)
    assert tests.of_draft(to_prompt(ASK, {}), cut).fired == ("gate", "length")
    assert tests.of_draft(to_prompt(ASK, {}), cut, own_limit=True).fired == ()


def test_an_asked_gate_is_no_test_and_a_broken_check_no_failure() -> None:
    asked = {"name": "honest", "question": "Is it?", "pass_when": "yes"}
    broken = {"name": "broken", "check": "serve/fakes.py:broken_check"}
    tests = Screen(frozenset({"gate"}), RubricSet(rubrics={"": make_rubric(LENGTH, gates=[asked, broken])}))
    found = tests.of_draft(FRIDAY, Written("anything"))
    assert (found.fired, found.not_applied) == ((), ("broken",))


def test_a_request_of_no_known_kind_keeps_to_no_rubric() -> None:
    rubric = make_rubric(LENGTH, gates=[{"name": "facts", "check": "mentions", "all_of": ["{day}"]}])
    tests = Screen(frozenset({"gate"}), RubricSet(column="task", rubrics={"mail": rubric}))
    assert tests.of_draft(FRIDAY, Written("Monday")).not_applied == ("(no rubric)",)
    mail = to_prompt(ASK, {"task": "mail", "day": "Friday"})
    assert tests.of_draft(mail, Written("Monday")).gates == ("facts",)


def test_thresholds_fire_beyond_them_and_never_on_what_is_unknown() -> None:
    tests = make_tests("length", "log_prob", thresholds=Thresholds(log_prob=-0.5, characters=(5, 50)))
    assert tests.of_draft(FRIDAY, Written("x" * 5, log_prob=-0.5)).fired == ()
    assert tests.of_draft(FRIDAY, Written("x" * 4, log_prob=-0.51)).fired == ("length", "log_prob")
    assert tests.of_draft(FRIDAY, Written("x" * 51, log_prob=None)).fired == ("length",)
    assert make_tests("length", "log_prob").of_draft(FRIDAY, Written("x", log_prob=-99.0)).fired == ()


def test_a_prompt_unlike_the_training_prompts_is_out_of_scope() -> None:
    scope = Scope.fit([f"Write to {name} about the report" for name in ("Ann", "Bob", "Eve", "Tim")])
    tests = make_tests(scope=scope, thresholds=Thresholds(distance=0.5))
    near = (
        Message(role="system", content="zzz qqq xxx"),
        Message(role="user", content="Write to Ann about the report"),
    )
    assert tests.of_prompt(near).fired == (), "a system prompt does not count"
    far = tests.of_prompt((Message(role="user", content="Qu'est-ce que c'est? Großartig!"),))
    assert far.fired == ("out_of_scope",)
    assert far.distance is not None and far.distance > 0.5
