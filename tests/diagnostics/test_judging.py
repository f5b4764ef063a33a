"""How a judge behaved, and the rules about it."""

import random

import pytest

from prefdistill.diagnostics.judging import (
    flips,
    measure_judging,
    parse_failures,
    position_bias,
    repeat_agreement,
    ties,
)
from prefdistill.records import Verdict
from tests.diagnostics.rounds import found, levels_found
from tests.making import both_orders, failed, make_draft, make_drafts, preferred, valued

A, B = make_drafts(["a", "b"])


def judged(*preferences, failures=(), judgements=(), count=1):
    """The same verdict for several prompts."""
    return {
        f"p{number}": Verdict(
            prompt_id=f"p{number}", preferences=preferences, failures=tuple(failures), judgements=tuple(judgements)
        )
        for number in range(count)
    }


FLIPPED = [preferred(A, B, 1.0), preferred(B, A, 1.0)]


def again(preferences, repeat=1):
    return [each.model_copy(update={"repeat": repeat}) for each in preferences]


def test_a_judge_that_looks_at_the_order_is_found():
    biased = measure_judging(judged(*FLIPPED, count=30))
    assert (biased["flip_rate"], biased["first_shown_wins_both"], biased["compared"]) == (1, 1, 30)
    finding = found(flips, {}, biased)[0]
    assert finding.level == "stop" and "judge.panel" in finding.message and "100%" in finding.message
    assert not found(flips, {}, measure_judging(judged(*both_orders(A, B), count=30)))
    assert not found(flips, {}, measure_judging(judged(*FLIPPED, count=19)))


def test_what_a_check_decided_is_no_answer():
    settled = [each.model_copy(update={"path": "checked"}) for each in FLIPPED]
    assert "flip_rate" not in measure_judging(judged(*settled))


def test_answers_that_change_when_asked_again_are_found():
    changed = measure_judging(judged(*both_orders(A, B), *again(both_orders(B, A)), count=10))
    assert (changed["repeat_agreement"], changed["repeated"]) == (0, 20)
    finding = found(repeat_agreement, {}, changed)[0]
    assert finding.level == "warn" and "judge.temperature" in finding.message
    same = measure_judging(judged(*both_orders(A, B), *again(both_orders(A, B)), count=10))
    assert not found(repeat_agreement, {}, same)


def test_a_judge_that_asks_again_only_in_doubt_is_not_measured_by_its_doubtful_cases():
    doubtful = judged(*FLIPPED, *again(both_orders(A, B)), count=10)
    sure = {f"q{key}": each for key, each in judged(*both_orders(A, B), count=30).items()}
    assert "repeat_agreement" not in measure_judging({**doubtful, **sure})


@pytest.mark.parametrize(
    "judge_answers", [measure_judging(judged(preferred(A, B, 0.5), preferred(B, A, 0.5), count=15))]
)
def test_ties_of_comparisons_are_found(judge_answers):
    assert judge_answers["compared_tie_share"] == 1
    finding = found(ties, {}, judge_answers)[0]
    assert finding.level == "warn" and "levels" in finding.message
    assert not found(ties, {}, measure_judging(judged(*both_orders(A, B), count=15)))
    assert not found(ties, {}, {"compared_tie_share": 1.0, "preferences": 19.0})


def test_ties_of_prompts_are_found_from_sixteen_on():
    assert levels_found(ties, {}, {"tie_share": 0.6, "prompts": 64.0}) == [("warn", "ties")]
    assert not found(ties, {}, {"tie_share": 0.4, "prompts": 64.0})
    assert not found(ties, {}, {"tie_share": 1.0, "prompts": 8.0})


def test_unreadable_verdicts_are_found_from_three_on():
    values = measure_judging(
        judged(failures=[failed(A.id), failed(B.id, "provider")], judgements=[valued(A, 1)], count=3)
    )
    assert (values["verdicts"], values["parse_failures"]) == (9, 3)
    assert values["failure_share"] == pytest.approx(6 / 9)
    finding = found(parse_failures, {}, values)[0]
    assert finding.value == pytest.approx(3 / 9) and "judge.max_tokens" in finding.message
    assert not found(parse_failures, {}, measure_judging(judged(failures=[failed(A.id)], count=2)))
    assert not found(parse_failures, {}, {"parse_failure_share": 0.005, "parse_failures": 5.0})


def test_comparisons_in_one_order_tell_whether_the_first_shown_wins():
    values = measure_judging(judged(preferred(A, B, 1.0), count=40))
    assert (values["first_shown_wins"], values["one_order_compared"]) == (1, 40)
    finding = found(position_bias, {}, values)[0]
    assert finding.value == 0.5 and "both orders" in finding.message
    lost = measure_judging(judged(preferred(A, B, 1.0), failures=[failed(f"{B.id}|{A.id}")], count=40))
    assert "first_shown_wins" not in lost, "the other order was asked, and failed"


def test_both_orders_cancel_a_place_and_their_flip_rate_tells():
    assert not found(position_bias, {}, measure_judging(judged(*FLIPPED, count=40)))


def test_a_scoring_judge_that_prefers_a_place_is_found_over_all_rounds():
    leaning = {"first_place_share": 0.69, "first_place_pairs": 36.0}
    assert not found(position_bias, {}, leaning), "36 pairs alone are within three standard errors"
    finding = found(position_bias, {}, leaning, leaning)[0]
    assert finding.value == pytest.approx(0.19) and "72 cases" in finding.message
    last = {"first_place_share": 0.31, "first_place_pairs": 100.0}
    assert "31%" in found(position_bias, {}, last)[0].message, "the last place counts as well"


def test_chance_is_no_bias():
    rng = random.Random(1)
    fired = 0
    for _ in range(300):
        rounds = [
            {"first_place_share": sum(rng.random() < 0.5 for _ in range(64)) / 64, "first_place_pairs": 64.0}
            for _ in range(5)
        ]
        fired += any(found(position_bias, {}, *rounds[:number]) for number in range(1, 6))
    assert fired <= 3, "1 % of sound runs at most"


def test_nothing_is_said_of_a_round_in_which_nothing_was_measured():
    leaning = {"first_place_share": 0.9, "first_place_pairs": 100.0}
    assert not found(position_bias, {}, leaning, {})
    assert measure_judging({}) == {}
    assert measure_judging({"p": Verdict(prompt_id="p")}) == {}
    assert make_draft("x").id not in measure_judging(judged(judgements=[valued(A, 1.0)]))
