"""What comparisons say about the judge: both orders, cycles, answers that change."""

import pytest

from prefdistill.metrics.orders import (
    Orders,
    asked_pairs,
    count_cycles,
    count_orders,
    count_repeats,
    one_order,
    repeats_within,
)
from prefdistill.records import CriterionScore, Judgement, Preference
from tests.making import failed, make_drafts, make_verdict, preferred, scored

A, B, C = make_drafts(["a", "b", "c"])


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (1.0, 0.0, "same"),
        (0.0, 1.0, "same"),
        (0.9, 0.4, "same"),
        (0.5, 0.5, "tie"),
        (1.0, 0.5, "one_tie"),
        (0.5, 0.0, "one_tie"),
        (1.0, 1.0, "to_first"),
        (0.0, 0.0, "to_second"),
    ],
)
def test_the_two_orders_of_a_pair(first, second, kind):
    verdict = make_verdict(preferences=[preferred(A, B, first), preferred(B, A, second)])
    assert count_orders(verdict) == Orders(**{kind: 1})


def test_a_missing_order_is_unread_and_no_tie():
    verdict = make_verdict(preferences=[preferred(A, B, 1.0)], failures=[failed(f"{B.id}|{A.id}"), failed(C.id)])
    assert count_orders(verdict) == Orders(unread=1)
    assert asked_pairs(verdict) == [(A.id, B.id)]


def test_what_a_gate_decided_is_not_the_judges():
    settled = preferred(A, B, 1.0).model_copy(update={"path": "checked"})
    turned = preferred(B, A, 0.0).model_copy(update={"path": "checked"})
    assert count_orders(make_verdict(preferences=[settled, turned])).asked == 0
    assert one_order(make_verdict(preferences=[settled, turned])) == {}


def test_counts_add_up_and_may_be_limited_to_some_pairs():
    verdict = make_verdict(
        preferences=[preferred(A, B, 1.0), preferred(B, A, 1.0), preferred(A, C, 1.0), preferred(C, A, 0.0)]
    )
    found = count_orders(verdict)
    assert (found.asked, found.known, found.flipped, found.same) == (2, 2, 1, 1)
    assert count_orders(verdict, {(A.id, C.id)}) == Orders(same=1)
    assert (found + found).asked == 4


def test_cycles_of_three():
    circle = {("a", "b"): 1.0, ("b", "c"): 1.0, ("a", "c"): 0.0}
    line = {("a", "b"): 1.0, ("b", "c"): 1.0, ("a", "c"): 1.0}
    assert count_cycles(circle).rate == 1.0
    assert count_cycles(line).rate == 0.0
    assert count_cycles({**line, ("a", "c"): 0.5}).decided == 0, "a tie decides nothing"
    assert count_cycles({("a", "b"): 1.0, ("b", "c"): 1.0}).rate is None
    assert count_cycles({**circle, ("a", "d"): 1.0, ("b", "d"): 1.0, ("c", "d"): 1.0}) == (1, 4)


def test_one_order_is_the_one_that_shows_the_smaller_id_first():
    verdict = make_verdict(preferences=[preferred(A, B, 1.0), preferred(B, A, 1.0), preferred(C, A, 1.0)])
    assert one_order(verdict) == {(A.id, B.id): 1.0}


def test_repeats_between_passes_and_within_one():
    level = lambda text: Judgement(
        draft_id=C.id,
        judge="t",
        scale="rubric",
        scores=(CriterionScore(criterion="good", level=text, score=0.5, path="parsed"),),
    )
    one = make_verdict([level("yes"), scored(A, 0.5)], [preferred(A, B, 1.0), preferred(B, A, 0.9)])
    two = make_verdict([level("no"), scored(A, 0.5)], [preferred(A, B, 0.0), preferred(B, A, 0.8)])
    assert count_repeats([one, two]) == (4, 2)
    assert count_repeats([one]).rate is None
    again = Preference(first_id=A.id, second_id=B.id, probability=0.0, judge="t", repeat=1)
    assert repeats_within(make_verdict(preferences=[preferred(A, B, 1.0), again, preferred(B, A, 1.0)])) == (1, 1)
