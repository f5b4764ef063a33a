"""What drafts look like, and the rules of diversity, repetition and identical texts."""

import math

import pytest

from prefdistill.diagnostics.drafts import (
    diversity,
    identical,
    measure_training_drafts,
    measure_validation_drafts,
    repetition,
)
from prefdistill.diagnostics.thresholds import StopLevels, WarnLevels
from tests.diagnostics.rounds import by_id, found, levels_found, prose, written
from tests.making import make_draft


def groups(*texts_of_prompts):
    return by_id(
        written(text, f"p{number}", index)
        for number, texts in enumerate(texts_of_prompts)
        for index, text in enumerate(texts)
    )


def test_identical_and_distinct_shares_are_counted_within_prompts():
    values = measure_training_drafts(groups(["a", "a ", "b"], ["a", "b", "c"], ["x"]))
    assert values["identical_share"] == pytest.approx(1 / 6)
    assert values["all_distinct_share"] == 0.5
    assert values["groups"] == 2


def test_length_is_in_student_tokens_and_words_stand_in_for_them():
    counted = measure_training_drafts(by_id([written("a b", tokens=7), written("a b c", index=1, tokens=9)]))
    assert counted["draft_tokens"] == 8
    uncounted = measure_training_drafts(by_id([make_draft("a b c d")]))
    assert uncounted["draft_tokens"] == 4


def test_a_teachers_words_are_turned_into_student_tokens():
    base = [written("a b", f"p{n}", tokens=6, purpose="validation") for n in range(4)]
    teacher = [make_draft("a b c", prompt_id=f"p{n}") for n in range(4)]
    values = measure_validation_drafts([], base, teacher)
    assert values["base_tokens"] == 6
    assert values["teacher_tokens"] == 9
    assert "policy_tokens" not in values


def test_only_what_a_policy_wrote_is_measured_where_a_teacher_wrote_some():
    mixed = by_id([written("a b"), *(make_draft("a b c d e f", index) for index in range(3))])
    assert measure_training_drafts(mixed)["draft_tokens"] == 2


def test_entropy_is_minus_the_log_probability_a_token():
    drafts = by_id([written("a", tokens=2, log_prob=-1.0), written("b", index=1, tokens=4, log_prob=-5.0)])
    assert measure_training_drafts(drafts)["draft_entropy"] == 1.0


@pytest.mark.parametrize("log_prob", [None, -math.inf])
def test_entropy_is_left_out_where_it_cannot_be_known(log_prob):
    drafts = by_id(written("a b", index=index, log_prob=log_prob) for index in range(3))
    assert not any("entropy" in name for name in measure_training_drafts(drafts))


def measured(policy, base, teacher=()):
    def drafts(texts):
        return [written(text, f"p{n}", purpose="validation") for n, text in enumerate(texts)]

    return measure_validation_drafts(drafts(policy), drafts(base), drafts(teacher))


def test_a_policy_that_writes_the_same_again_and_again_is_found():
    values = measured(prose(60, 60, vocabulary=6), prose(60, 60, seed=1))
    finding = found(diversity, {}, values)[0]
    assert (finding.check, finding.level, finding.remedy) == ("diversity", "stop", "halve_learning_rate")
    assert "validation drafts" in finding.message and "sample.temperature" in finding.message


def test_a_policy_as_diverse_as_the_base_is_sound():
    assert not found(diversity, {}, measured(prose(60, 60), prose(60, 60, seed=1)))


def test_coming_to_write_as_the_teacher_does_is_no_collapse():
    house_style = measured(prose(60, 60, vocabulary=14), prose(60, 60), prose(60, 60, vocabulary=14, seed=2))
    assert not found(diversity, {}, house_style)
    without_teacher = {name: value for name, value in house_style.items() if "teacher" not in name}
    assert levels_found(diversity, {}, without_teacher) == [("stop", "diversity")]


def test_training_drafts_are_held_against_those_of_round_1():
    first = {"distinct_2": 0.6, "distinct_2_se": 0.01, "draft_entropy": 0.3, "draft_entropy_se": 0.01}
    assert not found(diversity, {}, first), "in round 1 there is nothing to compare with"
    assert not found(diversity, {}, first, {**first, "distinct_2": 0.55, "draft_entropy": 0.27})
    assert not found(diversity, {}, first, {**first, "draft_entropy": 0.2}), "certain of one style, in different words"
    alike = {**first, "distinct_2": 0.55, "draft_entropy": 0.2}
    assert levels_found(diversity, {}, first, alike) == [("warn", "diversity")]
    assert not found(diversity, {}, first, {**alike, "teacher_distinct_2": 0.55}), "as much alike as the teacher's"
    assert levels_found(diversity, {}, first, first, {**first, "distinct_2": 0.3}) == [("stop", "diversity")]


def test_a_fall_within_two_standard_errors_says_nothing():
    first = {"distinct_2": 0.6, "distinct_2_se": 0.1}
    assert not found(diversity, {}, first, {"distinct_2": 0.4, "distinct_2_se": 0.1})
    shares = {"distinct_2": 0.6, "distinct_2_se": 0.01, "all_distinct_share": 1.0, "groups": 4.0}
    assert not found(diversity, {}, shares, {**shares, "all_distinct_share": 0.75})
    many = {**shares, "groups": 64.0}
    assert levels_found(diversity, {}, many, {**many, "all_distinct_share": 0.75}) == [("warn", "diversity")]


def test_a_growing_certainty_of_validation_drafts_alone_is_no_collapse():
    values = measured(prose(60, 60), prose(60, 60, seed=1)) | {"policy_entropy": 0.1, "base_entropy": 0.3}
    assert not found(diversity, {}, values)


def test_repetition_is_found_against_the_base():
    circle = " ".join(["and so on and on"] * 12)
    finding = found(repetition, {}, measured([circle] * 20, prose(20, 60)))[0]
    assert (finding.level, finding.remedy) == ("stop", "halve_learning_rate")
    assert "train.learning_rate" in finding.message
    assert not found(repetition, {}, measured(prose(20, 60), prose(20, 60, seed=1)))


def test_a_base_that_never_repeats_itself_is_no_divisor():
    barely = {"policy_repeated_4grams": 0.02, "policy_repeated_4grams_se": 0.001, "base_repeated_4grams": 0.0}
    assert not found(repetition, {}, barely)
    assert levels_found(repetition, {}, {**barely, "policy_repeated_4grams": 0.05}) == [("warn", "repetition")]
    assert not found(repetition, {}, {**barely, "policy_repeated_4grams": 0.05, "policy_repeated_4grams_se": 0.02})


def test_identical_drafts_are_found_from_sixteen_drafts_on():
    same = measure_training_drafts(groups(*[["x y", "x y", "x y", "x y"]] * 4))
    assert same["identical_share"] == 0.75
    finding = found(identical, {}, same)[0]
    assert finding.level == "warn" and "sample.temperature" in finding.message
    few = measure_training_drafts(groups(*[["x y", "x y", "x y", "x y"]] * 3))
    assert not found(identical, {}, few)
    sound = measure_training_drafts(groups(*[["w", "x", "y", "z"]] * 4))
    assert not found(identical, {}, sound)


def test_a_level_of_null_switches_a_check_off():
    same = measure_training_drafts(groups(*[["x", "x", "x", "x"]] * 8))
    assert not found(identical, {}, same, warn=WarnLevels(identical=None))
    collapsed = measured(prose(60, 60, vocabulary=6), prose(60, 60, seed=1))
    assert not found(diversity, {}, collapsed, warn=WarnLevels(diversity=None), stop=StopLevels(diversity=None))
    assert found(diversity, {}, collapsed, stop=None)[0].level == "warn"
