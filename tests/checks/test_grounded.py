"""The check `grounded`."""

import pytest
from pydantic import ValidationError

from prefdistill.checks.facts import known, number_values, spelled_values
from prefdistill.checks.grounded import Grounded

GOOD = (
    "Hi Anna,\n\nCould you please send me the Q3 budget report by Friday at 3 p.m.? We need it because two people are "
    "on leave. Thank you! Please call if I can help. However, there is no rush.\n\nBest regards,\nTom"
)


def loose(prompt, text, **options):
    result = Grounded(**options).check(prompt, text)
    return result.score, result.reason.removeprefix("not in the prompt: ")


def test_a_faithful_email_is_grounded(make_prompt):
    assert loose(make_prompt(), GOOD) == (1.0, "")


def test_inventions_are_named_and_counted(make_prompt):
    text = GOOD.replace("Friday", "Monday").replace("3 p.m.", "4 pm").replace("Hi Anna", "Hi Peter")
    score, reason = loose(make_prompt(), text)
    assert reason == "Peter, Monday, 4 pm"
    assert score == pytest.approx(1 - 3 / 6)


def test_text_without_facts(make_prompt):
    assert Grounded().check(make_prompt(), "please do it soon.").score == 1
    assert Grounded().check(make_prompt(), "").score == 1


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("by 3pm", "By 3 p.m. at the latest."),
        ("at 15:00", "We meet at 3 pm."),
        ("from 3 to 4 pm", "It runs from 3 pm to 4 pm."),
        ("from 3-4 pm", "We start at 15:00."),
        ("at 3", "We meet at 3 pm."),
        ("3 pm", "We meet at 3."),
        ("1,000 boxes", "We need 1000 boxes."),
        ("1000 boxes", "We need 1,000 boxes."),
        ("one thousand boxes", "We need 1,000 boxes."),
        ("1.5 million", "It is 1,500,000 in all."),
        ("5k people", "About 5,000 people."),
        ("two people", "2 people."),
        ("3 people", "All three people."),
        ("$500", "It costs 500 dollars."),
        ("USD 500", "It costs $500.00."),
        ("1.000,50 €", "It costs €1,000.50."),
        ("20 percent", "It is 20 %."),
        ("5 March", "On March 5th, it starts."),
        ("on the fifth of March", "On 5 March it starts."),
        ("march 5", "On 5 March it starts."),
        ("2026-03-05", "On Thursday, 5 March 2026, it starts."),
        ("3/5/2026", "On 5 March 2026."),
        ("on friday", "On Friday it starts."),
        ("Friday", "This Fri it starts."),
        ("in march", "We start in March."),
        ("write to anna keller", "Dear Anna Keller, I saw Keller's plan."),
        ("the Kellers", "We asked Keller about it."),
        ("Smith-Jones", "We asked Jones about it."),
        ("see https://www.Example.com/a/", "It is at example.com/a."),
        ("see https://example.com/a/b", "It is at https://example.com/a."),
        ("mail anna@example.com", "It goes to Anna at Anna@example.com."),
        ("invoice INV 204", "It is invoice INV-204."),
        ("room 4b", "It is in room 4B."),
        ("call 030 123 4567", "Our number is 0301234567."),
        ("We use PowerPoint", "We use powerpoint, and PowerPoint it is."),
        ("agenda: A, B", "1. First do A.\n2. Then do B."),
        ("ask the team", "Dear Team,\n\nPlease help. Kind regards"),
        ("x", "Dear Sir or Madam,\n\nI'm glad. I'll ask. It's OK, FYI.\n\nYours faithfully"),
        ("x", "Unfortunately, we cannot. May I ask why? Budgets are tight."),
        ("x", "\"Please wait,\" we say. Note: Chairs are out."),
        ("x", "One of us may come, and someone else may march."),
        ("Anna", "Remind Anna of it. Invite Anna too."),
        ("x", "Dear [Customer Name],\n\nit is late.\n\nSincerely,\n[Your Name]"),
        ("x", "Next Steps\n\nwe will see."),
    ],
)  # fmt: skip
def test_grounded(make_prompt, given, text):
    assert loose(make_prompt(given), text) == (1.0, "") or loose(make_prompt(given), text) == (1.0, "states no facts")


@pytest.mark.parametrize(
    ("given", "text", "reason"),
    [
        ("by 3pm", "We meet at 5 pm.", "5 pm"),
        ("by 3pm", "We meet at 3 am.", "3 am"),
        ("9:00", "We meet at 9 pm.", "9 pm"),
        ("100 boxes", "We need 10 boxes.", "10"),
        ("2 boxes", "We need five boxes.", "five"),
        ("10 May", "A discount of 10%.", "10%"),
        ("€500", "It costs $500.", "$500"),
        ("5 March", "On 6 March.", "6 March"),
        ("5 March", "On 5 March 2026.", "5 March 2026"),
        ("5 March 2026", "On Friday, 5 March 2026.", "Friday"),
        ("on Friday", "See you tomorrow.", "tomorrow"),
        ("in March", "In April we start.", "April"),
        ("a note", "Please ask Peter Miller.", "Peter Miller"),
        ("Tom Keller", "Anna Keller will come.", "Anna Keller"),
        ("a note", "Peter said so.", "Peter"),
        ("a note", "It goes to NASA.", "NASA"),
        ("a note", "Hi Peter,\n\nplease help.", "Peter"),
        ("a note", "Please help.\n\nBest regards,\nMaria Lopez", "Maria Lopez"),
        ("see example.com", "See example.org now.", "example.org"),
        ("anna@example.com", "Write to ben@example.com.", "ben@example.com"),
        ("Q3 report", "The Q4 report.", "Q4"),
        ("call 030 123 4567", "Call 030 123 4568.", "030 123 4568"),
    ],
)
def test_not_grounded(make_prompt, given, text, reason):
    assert loose(make_prompt(given), text)[1] == reason


def test_fields_and_earlier_messages_are_ground(make_prompt):
    prompt = make_prompt(
        "Write it.", ("user", "Anna asked."), ("assistant", "About 12 chairs?"), who=["Ben", {"x": "Cleo"}]
    )
    assert loose(prompt, "We told Anna, Ben and Cleo about 12 chairs.") == (1.0, "")


def test_each_fact_counts_once(make_prompt):
    assert loose(make_prompt("by 3pm"), "We meet at 3 pm. At 3pm, not at 4 pm; 4 pm is late.")[0] == 0.5


def test_ignore(make_prompt):
    text = "We at Acme Corp use Zalando on Friday."
    prompt = make_prompt("x", shop="Zalando")
    assert loose(make_prompt("x"), text, ignore=("acme corp", "Zalando"))[1] == "Friday"
    assert loose(prompt, text, ignore=("Acme Corp", "Friday")) == (1.0, "")
    assert Grounded(ignore=("{missing}",)).check(prompt, text) is None


def test_kinds(make_prompt):
    text = "Ask Peter on Monday at 9 am about 7 chairs."
    assert loose(make_prompt("x"), text, kinds=("times", "numbers"))[1] == "9 am, 7"
    assert loose(make_prompt("x"), text, kinds=("names",))[1] == "Peter"
    assert loose(make_prompt("x"), text, kinds=("urls",)) == (1.0, "states no facts")


def test_long_lists_are_cut_in_the_reason(make_prompt):
    result = Grounded().check(make_prompt("x"), " ".join(f"{number} km," for number in range(100, 120)))
    assert result.score == 0
    assert result.reason.endswith("and 12 more")


@pytest.mark.parametrize("options", [{"kinds": []}, {"kinds": ["people"]}, {"ignored": ["x"]}])
def test_wrong_options(options):
    with pytest.raises(ValidationError, match=r"kinds|ignored"):
        Grounded.model_validate(options)


@pytest.mark.parametrize(
    ("figure", "values"),
    [
        ("007", {"7"}),
        ("1,000", {"1000"}),
        ("1.000", {"1", "1000"}),
        ("12.50", {"12.5"}),
        ("1,5", {"1.5"}),
        ("1.234.567", {"1234567"}),
        ("1,234.50", {"1234.5"}),
        ("1.234,50", {"1234.5"}),
        ("1'000", {"1000"}),
        ("10 000", {"10000"}),
        ("٣", {"3"}),
        ("1.2.3", {"v1.2.3"}),
    ],
)
def test_figures(figure, values):
    assert number_values(figure) == values


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("two", [2]),
        ("twenty five", [25]),
        ("two hundred five", [205]),
        ("one thousand two hundred", [1200]),
        ("two three", [2, 3]),
        ("twenty thirty", [20, 30]),
        ("hundred", [100]),
        ("two million", [2_000_000]),
        ("", []),
    ],
)
def test_number_words(words, values):
    assert spelled_values(words.split()) == values


def test_what_a_full_date_implies():
    assert known("on 5 March 2026").weekdays == {"thursday"}
    assert known("on 31 February 2026").weekdays == set()
