"""The check `structure`."""

import time

import pytest
from pydantic import ValidationError

from prefdistill.checks.structure import Structure, find_placeholder

EMAIL = "Hi Anna,\n\nPlease send the report by Friday.\n\nIt is for the board.\n\nBest regards,\nTom"


def score(prompt, text, **options):
    return Structure(**options).check(prompt, text).score


def test_an_email_with_all_its_parts(make_prompt):
    result = Structure(greeting=True, sign_off=True, subject=False, placeholders=False, preamble=False, markdown=False,
                       paragraphs=(1, 3)).check(make_prompt(), EMAIL)  # fmt: skip
    assert (result.score, result.reason) == (1.0, "")


def test_share_of_aspects_and_reasons(make_prompt):
    result = Structure(greeting=True, sign_off=True, placeholders=False, preamble=False).check(
        make_prompt(), "Here is your e-mail:\n\nHi Anna,\n\nPlease send it by [date].\n"
    )
    assert result.score == 0.25 * 1
    assert result.reason == "no sign-off; placeholders: [date]; preamble: Here is your e-mail:"


@pytest.mark.parametrize(
    ("aspect", "text"),
    [
        ("greeting", EMAIL),
        ("sign_off", EMAIL),
        ("subject", f"Subject: Report\n\n{EMAIL}"),
        ("placeholders", "Hi [Name],"),
        ("preamble", f"Sure! Here is the email:\n\n{EMAIL}"),
        ("markdown", "This is **important**."),
    ],
)
def test_true_wants_it_and_false_forbids_it(make_prompt, aspect, text):
    bare = "please send the report by friday."
    assert score(make_prompt(), text, **{aspect: True}) == 1
    assert score(make_prompt(), text, **{aspect: False}) == 0
    assert score(make_prompt(), bare, **{aspect: True}) == 0
    assert score(make_prompt(), bare, **{aspect: False}) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Dear [Name],", "Dear [Recipient's Name],", "on [insert date here]", "Hi {name},", "Hi {{ first_name }},",
        "Hi ${name}", "Dear <name>,", "at <insert time>", "on XX March", "at XX:XX", "for XXX euros", "on xx/xx/xxxx",
        "the date is TBD.", "Lorem ipsum dolor", "Signed ______ today", "Best,\nYour Name", "Insert your name here",
        "by TODO",
    ],
)  # fmt: skip
def test_placeholders_are_found(text):
    assert find_placeholder(text)


@pytest.mark.parametrize(
    "text",
    [
        "See [the page](https://example.com).", "as shown [1] and [2]", "he said [sic] so", "[ ] done [x] done",
        "[...]",        "a < b > c", "<b>bold</b> and <br/>", "mail <anna@example.com> now",
        "<https://example.com>", "{1, 2}",
        "a {} b",        "size XXL", "X-ray", "Exxon", "100% of it, 50% of that", "we will be there, to be confirmed",
        "---\n___\n---", "",
    ],
)  # fmt: skip
def test_no_placeholders(text):
    assert find_placeholder(text) == ""


def test_a_placeholder_of_the_prompt_is_no_fault(make_prompt):
    prompt = make_prompt("Keep the ticket mark [Ticket A] in the subject.")
    assert score(prompt, "[ticket A] It is done.", placeholders=False) == 1
    assert score(prompt, "[Ticket A] It is done by [date].", placeholders=False) == 0


@pytest.mark.parametrize(
    "text",
    ["# Title", "**bold**", "an *italic* word", "`code`", "```\nx\n```", "[a](http://b.c)", "| a | b |", "> quoted",
     "* item", "__strong__"],
)  # fmt: skip
def test_markdown(make_prompt, text):
    assert score(make_prompt(), text, markdown=False) == 0
    assert score(make_prompt(), text, markdown=True) == 1


@pytest.mark.parametrize("text", ["2 * 3 * 4", "snake_case_name", "a_b", "#1 priority", "f** off", "x > y", "5*", "~~"])
def test_no_markdown(make_prompt, text):
    assert score(make_prompt(), text, markdown=False) == 1


def test_lists_are_plain_text_and_markdown_enough(make_prompt):
    text = "Agenda:\n- budget\n- hiring\n1. vote"
    assert score(make_prompt(), text, markdown=False) == 1
    assert score(make_prompt(), text, markdown=True) == 1
    assert score(make_prompt(), "No list here.", markdown=True) == 0


def test_paragraphs_are_those_of_the_body(make_prompt):
    assert score(make_prompt(), EMAIL, paragraphs=(2, 2)) == 1
    result = Structure(paragraphs=(3, None)).check(make_prompt(), EMAIL)
    assert (result.score, result.reason) == (0.0, "2 paragraphs, wanted at least 3")


def test_regex(make_prompt):
    assert score(make_prompt(), "Ref: AB-12", regex=r"\b[A-Z]{2}-\d+\b") == 1
    assert score(make_prompt(), "Ref: none", regex=r"\b[A-Z]{2}-\d+\b", not_regex="(?i)REF") == 0
    assert score(make_prompt(), "Line\nRef", regex=r"(?m)^Ref$", not_regex=r"\d") == 1


def test_regex_with_a_field(make_prompt):
    check = Structure(regex=r"^Hi {who}\b")
    assert check.check(make_prompt(who="A.B"), "Hi A.B, go").score == 1
    assert check.check(make_prompt(who="A.B"), "Hi AxB, go").score == 0
    assert check.check(make_prompt(), "Hi A.B") is None


def test_a_runaway_regex_is_given_up(make_prompt):
    start = time.monotonic()
    result = Structure(greeting=False, regex=r"^(a|aa)+$").check(make_prompt(), "a" * 5000 + "!")
    assert time.monotonic() - start < 10
    assert (result.score, result.reason) == (0.5, "regex took more than 1 s and was given up")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing is asked for; give at least one of greeting, "),
        ({"regex": "(a"}, "is no regular expression"),
        ({"not_regex": "*a"}, "is no regular expression"),
        ({"regex": ""}, "empty"),
        ({"paragraphs": [3, 1]}, "low at most high"),
        ({"greting": True}, "greting"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValidationError, match=message):
        Structure.model_validate(options)
