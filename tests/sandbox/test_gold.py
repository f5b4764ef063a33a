"""Gold is exact on hand-written e-mails, one property at a time, and accepts any text."""

from __future__ import annotations

import random

import pytest

from prefdistill.sandbox.gold import PROPERTIES, UNSEEN_SHARE, gold, properties
from prefdistill.sandbox.held_out import CRITERIA, criteria, held_out_score
from prefdistill.sandbox.reading import read_email

FACTS = {
    "recipient": "Nora",
    "sender": "Tom",
    "ask": "review",
    "topic": "launch plan",
    "day": "Friday",
    "time": "14:30",
    "reason": "the auditors are waiting for it",
}
ASK = "Could you review the launch plan by Friday at 14:30?"
NO_WHEN = "Could you review the launch plan?"
WHY = "I ask because the auditors are waiting for it."
GOOD = f"Hi Nora,\n\n{ASK} {WHY} Thank you for your help.\n\nBest regards,\nTom"
WEIRD = [
    "", " \n\t\n", "\x00\x01", "Nora", "Hi Nora,", "Tom", "☃" * 500, "?!." * 200, "Hi\n" * 300, "{day} {recipient}",
    "Friday 14:30 Friday 14:30", "```json\n{}\n```", "a" * 20_000, "Could you " * 2_000,
    "\u202e\ud83d\ude00 по-русски, 请在",
]  # fmt: skip


def test_weights_sum_to_one_and_a_third_is_unseen() -> None:
    assert sum(part.weight for part in PROPERTIES) == pytest.approx(1.0)
    assert UNSEEN_SHARE >= 1 / 3
    assert sum(CRITERIA.values()) == pytest.approx(1.0)


def test_the_good_email_has_every_property() -> None:
    assert properties(GOOD, FACTS) == dict.fromkeys((part.name for part in PROPERTIES), 1.0)
    assert gold(GOOD, FACTS) == pytest.approx(1.0)
    assert held_out_score(GOOD, FACTS) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        (f"{ASK} {WHY}", f"The team is well. {ASK} {WHY}", {"asks_first": 0.0}),
        (f"{ASK} {WHY}", f"I hope this email finds you well. {ASK} {WHY}", {"no_filler": 1 / 3}),
        (WHY, f"{WHY} As you know, we are busy. Please do not hesitate to call.", {"no_filler": 0.0}),
        (f"{ASK} {WHY}", f"{NO_WHEN} {WHY} The lunch is on Friday at 14:30.", {"when_in_ask": 0.0}),
        (WHY, f"{WHY} The lunch is on Friday.", {"when_in_ask": 0.0}),
        (WHY, "By the way, the auditors are waiting for it.", {"reason_tied": 0.0}),
        (WHY, f"We are busy. {WHY}", {"reason_tied": 0.0}),
        ("Hi Nora,", "Nora!", {"greets": 0.0}),
        ("Hi Nora,", "Message to Nora -", {"greets": 0.0}),
        ("Hi Nora,", "Hello,", {"greets": 0.0, "true_facts": 0.0}),
        ("Best regards,\nTom", "Tom", {"signed": 0.25}),
        ("Best regards,\nTom", "- Tom", {"signed": 0.25}),
        ("Best regards,\nTom", "Best regards,", {"signed": 0.0, "true_facts": 0.0}),
        ("Best regards,\nTom", "Best regards, Tom", {}),
        ("\n\nBest regards,\nTom", "", {"signed": 0.0, "true_facts": 0.0}),
        ("Best regards,\nTom", "Best regards,\nBen", {"signed": 0.0, "true_facts": 0.0}),
        ("Could you", "Perhaps you might be able to", {"direct": 0.0}),
        ("Could you", "I was wondering if you could maybe", {"direct": 0.0}),
        ("Thank you for your help.", "No excuses this time.", {"courteous": 0.0}),
        (" Thank you for your help.", "", {"courteous": 1 / 3}),
        ("14:30", "15:30", {"when_in_ask": 0.0, "true_facts": 0.0}),
        ("Friday", "Monday", {"when_in_ask": 0.0, "true_facts": 0.0}),
        (" by Friday at 14:30", "", {"when_in_ask": 0.0, "true_facts": 0.0}),
    ],
)
def test_each_property_is_lost_alone(old: str, new: str, lost: dict[str, float]) -> None:
    assert old in GOOD
    found = properties(GOOD.replace(old, new), FACTS)
    assert found == {part.name: lost.get(part.name, 1.0) for part in PROPERTIES}


def test_the_reason_may_stand_in_the_ask_and_the_ask_may_be_polite_in_other_words() -> None:
    for ask in ("Please review the launch plan by Friday at 14:30 because", "Can you review the launch plan by "
                "Friday, 14:30, since"):  # fmt: skip
        text = f"Dear Nora,\n\n{ask} the auditors are waiting for it. Many thanks.\n\nKind regards,\n\nTom\n"
        assert gold(text, FACTS) == pytest.approx(1.0)


def test_length_costs_gradually() -> None:
    assert properties(GOOD, FACTS)["brief"] == 1.0
    padded = GOOD.replace(WHY, WHY + " word" * 25 + ".")
    assert 0.0 < properties(padded, FACTS)["brief"] < 1.0
    assert properties(GOOD.replace(WHY, WHY + " word" * 60 + "."), FACTS)["brief"] == 0.0


def test_without_the_ask_little_is_left() -> None:
    text = GOOD.replace(ASK, "I am writing about the launch plan.")
    found = properties(text, FACTS)
    assert {name for name, value in found.items() if value} == {"greets", "signed"}
    assert held_out_score(text, FACTS) == 0.0


@pytest.mark.parametrize("text", WEIRD)
@pytest.mark.parametrize(
    "facts", [FACTS, {}, {"recipient": None, "topic": 3, "day": ["x"]}, {"topic": "(", "ask": "["}]
)
def test_any_text_and_any_facts_are_accepted(text: str, facts: dict[str, object]) -> None:
    assert 0.0 <= gold(text, facts) <= 0.3
    assert all(0.0 <= value <= 1.0 for value in criteria(text, facts).values())
    read_email(text, facts)


def test_shuffled_words_are_accepted_and_worth_little() -> None:
    rng = random.Random(0)
    words = GOOD.split(" ")
    for _ in range(50):
        rng.shuffle(words)
        assert 0.0 <= gold(" ".join(words), FACTS) <= 1.0
