"""The check `length`."""

import pytest
from pydantic import ValidationError

from prefdistill.checks.length import Length

EMAIL = "Hi Anna,\n\nPlease send the report by Friday at 3 p.m. sharp. It is 3.5 pages.\n\nBest regards,\nTom"


@pytest.mark.parametrize(
    ("count", "score"), [(0, 0.0), (5, 0.5), (9, 0.9), (10, 1.0), (15, 1.0), (20, 1.0), (25, 0.5), (30, 0.0), (99, 0.0)]
)
def test_soft_edge_falls_linearly(make_prompt, count, score):
    check = Length(unit="words", between=(10, 20), soft=10)
    assert check.check(make_prompt(), "word " * count).score == pytest.approx(score)


def test_hard_range(make_prompt):
    check = Length(between=(2, 3))
    assert [check.check(make_prompt(), "w " * count).score for count in (1, 2, 3, 4)] == [0, 1, 1, 0]


def test_open_ends(make_prompt):
    assert Length(between=(None, 3)).check(make_prompt(), "a b c").score == 1
    result = Length(between=(3, None)).check(make_prompt(), "a")
    assert result.score == 0
    assert result.reason == "1 word, wanted at least 3"


def test_sentences_are_those_of_the_body(make_prompt):
    result = Length(unit="sentences", between=(2, 2)).check(make_prompt(), EMAIL)
    assert result.score == 1
    assert result.reason == "2 sentences, wanted exactly 2"


def test_characters_do_not_count_space_around(make_prompt):
    assert Length(unit="characters", between=(4, 4)).check(make_prompt(), "  a bé\n").score == 1
    assert Length(unit="characters", between=(4, 4)).check(make_prompt(), "  a be\u0301\n").score == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"between": [60, 15]}, "low at most high"),
        ({"between": [None, None]}, "at least one number"),
        ({"between": [-1, 5]}, "greater than or equal to 0"),
        ({"between": [1]}, "between"),
        ({"between": [1, float("inf")]}, "finite"),
        ({"between": [1, 2], "soft": -1}, "greater than or equal to 0"),
        ({"between": [1, 2], "unit": "tokens"}, "words"),
        ({}, "between"),
        ({"between": [1, 2], "sofft": 1}, "sofft"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValidationError, match=message):
        Length.model_validate(options)
