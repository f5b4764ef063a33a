"""The check `phrases`."""

import pytest
from pydantic import ValidationError

from prefdistill.checks.phrases import Phrases

FILLER = ("hope this email finds you", "don't hesitate", "circling back")


def test_any_hit_scores_zero(make_prompt):
    check = Phrases(none_of=FILLER)
    result = check.check(make_prompt(), "I hope  this\nEmail finds you well. Please DON’T hesitate.")
    assert result.score == 0
    assert result.reason == "found: hope this email finds you, don't hesitate"
    assert check.check(make_prompt(), "Please send it.").score == 1


def test_graded_takes_off_a_share(make_prompt):
    result = Phrases(none_of=FILLER, graded=True).check(make_prompt(), "Just circling back.")
    assert result.score == pytest.approx(2 / 3)


def test_whole_phrases_only(make_prompt):
    assert Phrases(none_of=("sure", "act")).check(make_prompt(), "Measure the fact.").score == 1


def test_any_of(make_prompt):
    check = Phrases(any_of=("could you", "please"))
    assert check.check(make_prompt(), "Could you send it?").score == 1
    result = check.check(make_prompt(), "Send it.")
    assert result.score == 0
    assert "found none of: could you, please" in result.reason


def test_both_lists_must_hold(make_prompt):
    check = Phrases(none_of=("asap",), any_of=("please",))
    scores = [check.check(make_prompt(), text).score for text in ("Please.", "Please, asap.", "Go.", "Go asap.")]
    assert scores == [1, 0, 0, 0]


def test_fields(make_prompt):
    check = Phrases(none_of=("Dear {name}",))
    assert check.check(make_prompt(name="Anna"), "Dear ANNA, go.").score == 0
    assert check.check(make_prompt(name="Ben"), "Dear Anna, go.").score == 1
    assert check.check(make_prompt(), "Dear Anna") is None
    assert check.check(make_prompt(name=""), "Dear Anna") is None
    assert check.check(make_prompt(name="  "), "Dear Anna") is None
    assert check.check(make_prompt(name=None), "Dear Anna") is None


def test_a_list_field_stands_for_its_entries(make_prompt):
    check = Phrases(none_of=("{banned}",))
    assert check.check(make_prompt(banned=["synergy", "leverage"]), "We leverage it.").score == 0
    assert check.check(make_prompt(banned=[]), "We leverage it.") is None


@pytest.mark.parametrize("options", [{}, {"none_of": []}, {"none_of": ["ok", "  "]}, {"any_of": [""]}])
def test_something_must_be_asked(options):
    with pytest.raises(ValidationError, match=r"list the phrases|empty phrase"):
        Phrases.model_validate(options)
