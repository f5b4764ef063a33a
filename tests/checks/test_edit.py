"""The check `edit`."""

import pytest
from pydantic import ValidationError

from prefdistill.checks.edit import Edit, changed_share

SOURCE = (
    'The results was good: sales grew by 12 % to $1,200 in March 2026. As Keller said, "we are not done yet." '
    "The team have now ten members and meets at 3 pm."
)
EDITED = (
    "The results were good: sales grew by 12% to $1,200 in March 2026. As Keller said, “we are not done yet”. "
    "The team now has ten members and meets at 3 p.m."
)


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        ("a b c d", "a b c d", 0.0),
        ("a b c d", "a b x d", 0.25),
        ("a b c d", "a b d", 0.25),
        ("a b c", "a b c d", 0.25),
        ("a b", "x y", 1.0),
        ("a b", "", 1.0),
        ("", "a", 1.0),
        ("", "", 0.0),
        ("it’s  here", "it's\nhere", 0.0),
        ("so it is", "so, it is", 1 / 3),
        ("so it is", "So it is", 1 / 3),
        ("…", "!!", 1.0),
    ],
)
def test_changed_share(before, after, share):
    assert changed_share(before, after) == pytest.approx(share)


def test_range_with_soft_edge(make_prompt):
    prompt = make_prompt("a b c d e f g h i j")
    check = Edit(changed=(0.1, 0.3), soft=0.4)
    texts = ("a b c d e f g h i x", "a b c d e f g x y z", "a b c d e u v x y z", "q r s t v u w x y z")
    assert [check.check(prompt, text).score for text in texts] == pytest.approx([1, 1, 0.5, 0])
    assert check.check(prompt, texts[2]).reason == "50 % of the words changed, wanted 10 % to 30 %"


def test_an_unchanged_text_is_no_edit(make_prompt):
    prompt = make_prompt("a b c d")
    assert Edit(changed=(0.05, 0.4), soft=1.0).check(prompt, "a  b c d\n").score == 0
    assert Edit(changed=(0.0, 0.4)).check(prompt, "a b c d").score == 1
    assert Edit(changed=(0.0, 1.0)).check(prompt, "  ").score == 0


def test_source_field(make_prompt):
    check = Edit(changed=(0.1, 0.5), source="{source}")
    prompt = make_prompt("Please edit: a b c d", source="a b c d")
    assert check.check(prompt, "a b c x").score == 1
    assert check.check(make_prompt(), "a b c x") is None
    assert check.check(make_prompt(source=""), "a b c x") is None


def test_everything_kept(make_prompt):
    check = Edit(changed=(0.05, 0.4), keep=("Keller", "{term}"), keep_numbers=True, keep_quotes=True)
    result = check.check(make_prompt(SOURCE, term="team"), EDITED)
    assert result.score == 1, result.reason


def test_lost_spans_take_off_their_share(make_prompt):
    prompt = make_prompt(SOURCE)
    result = Edit(keep=("Keller", "ten members")).check(prompt, EDITED.replace("Keller", "he"))
    assert result.score == 0.5
    assert result.reason == "not kept: Keller"
    changed = EDITED.replace("1,200", "1,300").replace("3 p.m.", "4 p.m.")
    result = Edit(keep_numbers=True).check(prompt, changed)
    assert result.reason == "not kept: $1,200, 3 pm"
    assert result.score == pytest.approx(3 / 5)
    result = Edit(keep_quotes=True).check(prompt, EDITED.replace("not done yet", "not finished"))
    assert result.score == 0
    assert result.reason == 'not kept: "we are not done yet."'


def test_range_and_spans_multiply(make_prompt):
    prompt = make_prompt("alpha beta gamma delta")
    result = Edit(changed=(0.1, 0.4), keep=("alpha", "delta"), soft=0.2).check(prompt, "alpha x y z")
    assert result.score == 0
    result = Edit(changed=(0.1, 0.4), keep=("alpha", "delta"), soft=0.2).check(prompt, "alpha beta x z")
    assert result.score == pytest.approx(0.25)


def test_only_spans_of_the_source_are_asked_for(make_prompt):
    assert Edit(keep=("Zebra",)).check(make_prompt("a b"), "a c").score == 1
    assert Edit(keep=("{term}",)).check(make_prompt("a b"), "a c") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing is asked for"),
        ({"soft": 0.1}, "nothing is asked for"),
        ({"changed": [0.4, 0.1]}, "low at most high"),
        ({"changed": [5, 40]}, "shares from 0 to 1"),
        ({"keep": [""]}, "empty phrase"),
        ({"changed": [0, 1], "soft": 2}, "less than or equal to 1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValidationError, match=message):
        Edit.model_validate(options)
