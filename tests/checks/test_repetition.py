"""The check `repetition`."""

import pytest
from pydantic import ValidationError

from prefdistill.checks.repetition import Repetition, repeated_share

EMAIL = (
    "Hi Anna, could you please send me the budget report by Friday? We need it for the board. Please tell me if "
    "Friday is too early. Thank you. Thank you!"
)


def test_an_ordinary_email_scores_one(make_prompt):
    result = Repetition().check(make_prompt(), EMAIL)
    assert (result.score, result.reason) == (1.0, "")


def test_going_in_circles_scores_zero(make_prompt):
    result = Repetition().check(make_prompt(), "Please send me the report soon. " * 10)
    assert result.score == 0
    assert "please send me" in result.reason or "send me the report" in result.reason


def test_soft_fall(make_prompt):
    text = "a b c d a b c d"  # runs of one: 4 of 8 repeated
    scores = [
        Repetition(n=1, max_share=limit, soft=0.4).check(make_prompt(), text).score for limit in (0.5, 0.3, 0.1, 0.0)
    ]
    assert scores == pytest.approx([1, 0.5, 0, 0])
    assert Repetition(n=1, max_share=0.49, soft=0).check(make_prompt(), text).score == 0


def test_repeated_sentences_count_by_themselves(make_prompt):
    text = "It is late. We go now! It is  LATE. Ask her then."
    assert Repetition(n=9, max_share=0.1, soft=0.3).check(make_prompt(), text).score == pytest.approx(0.5)


def test_chinese_without_spaces(make_prompt):
    assert Repetition().check(make_prompt(), "请尽快发给我报告" * 10).score == 0


@pytest.mark.parametrize("text", ["", "one", "one two three", "🙂🙂🙂"])
def test_too_short_to_repeat(make_prompt, text):
    assert Repetition().check(make_prompt(), text).score == 1


def test_repeated_share():
    assert repeated_share([]) == 0
    assert repeated_share([("a",), ("b",), ("a",), ("a",)]) == 0.5


@pytest.mark.parametrize("options", [{"n": 0}, {"max_share": 1.5}, {"soft": -0.1}, {"m": 1}])
def test_wrong_options(options):
    with pytest.raises(ValidationError):
        Repetition.model_validate(options)
