"""Flips: a winner that changes with the order shown, and nothing else."""

import pytest

from prefdistill.diagnostics.judging import count_flips, flip_rate
from tests.making import both_orders, make_drafts, make_verdict, preferred

A, B, C = make_drafts(["a", "b", "c"])


def both(a, b, shown_first, shown_second):
    """The probability that `a` is better, where it is shown first and where it is shown second."""
    return [preferred(a, b, shown_first), preferred(b, a, 1.0 - shown_second)]


@pytest.mark.parametrize(
    ("preferences", "counted"),
    [
        (both_orders(A, B), (1, 0)),
        (both(A, B, 1.0, 0.0), (1, 1)),
        (both(A, B, 0.0, 1.0), (1, 1)),
        (both(A, B, 0.55, 0.45), (1, 1)),
        (both(A, B, 1.0, 0.5), (1, 0)),
        (both(A, B, 0.5, 0.5), (1, 0)),
        ([preferred(A, B, 1.0)], (0, 0)),
        ([*both(A, B, 1.0, 0.0), *both_orders(A, C), preferred(B, C, 1.0)], (2, 1)),
        ([], (0, 0)),
    ],
    ids=["agree", "first", "second", "slightly", "a tie", "ties", "one order", "several", "nothing"],
)
def test_what_counts_as_a_flip(preferences, counted):
    assert count_flips([make_verdict(preferences=preferences)]) == counted


def test_members_and_repeats_are_compared_with_themselves_alone():
    flipped, agreed = both(A, B, 1.0, 0.0), both_orders(A, B)
    of_panel = [each.model_copy(update={"member": "m"}) for each in agreed]
    again = [each.model_copy(update={"repeat": 1}) for each in agreed]
    crossed = [flipped[0], flipped[1].model_copy(update={"member": "m"})]
    assert count_flips([make_verdict(preferences=[*flipped, *of_panel, *again])]) == (3, 1)
    assert count_flips([make_verdict(preferences=crossed)]) == (0, 0)


def test_what_a_gate_decided_without_asking_is_left_out():
    settled = [each.model_copy(update={"path": "checked"}) for each in both_orders(A, B)]
    assert count_flips([make_verdict(preferences=[*settled, *both(A, C, 1.0, 0.0)])]) == (1, 1)


def test_the_rate_is_a_share_or_nothing():
    verdicts = [make_verdict(preferences=both(A, B, 1.0, 0.0)), *[make_verdict(preferences=both_orders(A, B))] * 3]
    assert flip_rate(verdicts) == 0.25
    assert flip_rate([]) is None


def test_an_always_first_judge_flips_on_everything():
    verdicts = [make_verdict(preferences=[preferred(a, b, 1.0) for a in (A, B, C) for b in (A, B, C) if a != b])]
    assert flip_rate(verdicts) == 1.0
