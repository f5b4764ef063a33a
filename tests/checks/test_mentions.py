"""The check `mentions`."""

import pytest
from pydantic import ValidationError

from prefdistill.checks.mentions import Mentions, is_mentioned


def test_share_mentioned(make_prompt):
    check = Mentions(all_of=("{day}", "{time}", "budget"))
    prompt = make_prompt(day="Friday", time="3 pm")
    assert check.check(prompt, "The budget is due on friday at 15:00.").score == 1
    result = check.check(prompt, "The budget is due on Monday at 3pm.")
    assert result.score == pytest.approx(2 / 3)
    assert result.reason == "does not mention: Friday"
    assert check.check(prompt, "").score == 0


def test_does_not_apply_without_its_fields(make_prompt):
    check = Mentions(all_of=("{day}", "budget"))
    assert check.check(make_prompt(), "budget") is None
    assert check.check(make_prompt(day=""), "budget") is None


def test_list_and_number_fields(make_prompt):
    check = Mentions(all_of=("{names}", "{count}"))
    prompt = make_prompt(names=["Anna", "Ben"], count=12)
    assert check.check(prompt, "Anna and Ben bring twelve chairs.").score == 1
    assert check.check(prompt, "Anna brings 12 chairs.").score == pytest.approx(2 / 3)
    assert check.check(make_prompt(names=["Anna"], count=0), "Anna brings 0.").score == 1


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("3 pm", "at 3pm"),
        ("3 pm", "at 3 P.M."),
        ("3 pm", "at 3:00 PM,"),
        ("3 pm", "at 15:00."),
        ("15:00", "at 3 p.m. sharp"),
        ("15:00", "at 3:00"),
        ("9:00", "at 09:00"),
        ("9:00", "9 a.m."),
        ("8:30", "8.30 am"),
        ("noon", "12:00"),
        ("12:30", "12.30 pm"),
        ("half past nine", "at 9:30"),
        ("14:30", "2:30 pm"),
        ("Friday", "FRIDAY"),
        ("Friday", "by Fri, please"),
        ("Friday", "Friday’s meeting"),
        ("Friday 3 pm", "3 p.m. on Friday"),
        ("Friday, 5 March at 15:00", "on March 5 (Friday) at 3pm"),
        ("5 March", "March 5th, 2026"),
        ("2026-03-05", "5 March 2026"),
        ("1,000", "1000 units"),
        ("1,000 units", "1000 units"),
        ("$500", "500 dollars"),
        ("10 %", "10 percent"),
        ("2", "two of us"),
        ("1", "one of us"),
        ("two weeks", "within 2 weeks"),
        ("Anna’s “plan”", 'anna\'s "plan"'),
        ("Anna  Keller", "anna\nkeller"),
        ("the supplier raised its prices", "since the supplier raised\nits prices,"),
        ("anna@example.com", "write to Anna@Example.com."),
        ("https://example.com/a", "see example.com/a."),
    ],
)
def test_said_in_another_way(item, text):
    assert is_mentioned(item, text)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("10", "100 of them"),
        ("10", "1,100"),
        ("10", "at 10:30"),
        ("3 pm", "at 3 am"),
        ("3 pm", "at 4 pm"),
        ("9:00", "at 9 pm"),
        ("20:00", "at 8:00"),
        ("0:30", "at 12:30"),
        ("Friday 3 pm", "on Friday at 4 pm"),
        ("Friday 3 pm in room 4", "on Friday at 3 pm in room 5"),
        ("5 March 2026", "5 March 2027"),
        ("5 March", "5 April"),
        ("10 units", "10 boxes and 100 units"),
        ("10 %", "$10"),
        ("Ann", "Anna"),
        ("Anna Keller", "Anna"),
        ("Friday", ""),
    ],
)
def test_not_said(item, text):
    assert not is_mentioned(item, text)


@pytest.mark.parametrize("options", [{}, {"all_of": []}, {"all_of": [" "]}, {"all_of": "Friday"}])
def test_wrong_options(options):
    with pytest.raises(ValidationError, match="all_of"):
        Mentions.model_validate(options)
