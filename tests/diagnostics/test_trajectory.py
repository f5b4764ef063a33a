"""The curves of scores and lengths: hacking, drops, labels without a signal, growth, other tasks."""

import random

import pytest

from prefdistill.diagnostics.thresholds import StopLevels, WarnLevels
from prefdistill.diagnostics.trajectory import (
    held_out_drop,
    judge_hacking,
    label_signal,
    length_growth,
    other_tasks,
    self_judged,
)
from tests.diagnostics.rounds import curve, found, levels_found

QUICKSTART = curve([0.677, 0.730, 0.846, 0.918, 0.967, 0.896], [0.518, 0.577, 0.681, 0.817, 0.933, 0.872], error=0.035)
"""The scores of a healthy run, one wobbling round included."""
FLAWED = curve(
    [0.920, 1.142, 1.427, 1.549, 1.627, 1.766, 1.966, 2.320, 2.882],
    [0.518, 0.742, 0.612, 0.896, 0.961, 0.827, 0.887, 0.894, 0.883],
    error=0.04,
    base_score_sd=0.262,
)
"""The scores of a run whose judge favours length and a stock phrase."""


def history(rule, rounds):
    """The level of what the rule finds after each round."""
    return [next((each.level for each in found(rule, *rounds[: number + 1])), None) for number in range(len(rounds))]


@pytest.mark.parametrize("rule", [judge_hacking, held_out_drop, label_signal, length_growth, other_tasks])
def test_a_healthy_run_is_left_alone(rule):
    kl = [{}, {"kl": 0.2}, {"kl": 0.8}, {"kl": 4.6}, {"kl": 2.0}, {"kl": 4.0}]
    rounds = [{**scores, **update} for scores, update in zip(QUICKSTART, kl, strict=True)]
    assert history(rule, rounds) == [None] * 6


def test_a_judge_that_is_pleased_by_a_flaw_is_found_and_stops_the_run():
    assert history(judge_hacking, FLAWED) == [None, None, "warn", None, None, "warn", "stop", "stop", "stop"]
    finding = found(judge_hacking, *FLAWED[:7])[0]
    assert (finding.value, finding.limit) == (2, 2)
    assert "rubric" in finding.message and "judge.panel" in finding.message


def test_levels_of_hacking_count_rounds():
    rounds = curve([0.5, 0.6, 0.7, 0.8, 0.9], [0.5, 0.5, 0.49, 0.48, 0.46], error=0.01)
    assert history(judge_hacking, rounds) == [None, "warn", "stop", "stop", "stop"]
    third = found(judge_hacking, *rounds[:4], warn=WarnLevels(judge_hacking=3), stop=StopLevels(judge_hacking=4))
    assert [(each.level, each.value) for each in third] == [("warn", 3)]
    assert not found(judge_hacking, *rounds[:3], warn=WarnLevels(judge_hacking=None), stop=StopLevels(judge_hacking=5))
    assert not found(judge_hacking, *rounds, warn=WarnLevels(judge_hacking=None), stop=None)
    assert found(judge_hacking, *rounds, stop=None)[0].level == "warn"


def test_a_slow_rise_adds_up_over_three_rounds():
    slow = curve([0.50, 0.52, 0.54, 0.56], [0.50, 0.50, 0.49, 0.48], error=0.01)
    assert history(judge_hacking, slow) == [None, None, None, "warn"]
    assert "over 3 rounds" in found(judge_hacking, *slow)[0].message


def test_an_honest_rise_and_a_rise_within_chance_are_no_hacking():
    assert history(judge_hacking, curve([0.5, 0.6, 0.7], [0.5, 0.54, 0.58])) == [None] * 3
    assert history(judge_hacking, curve([0.5, 0.58, 0.57], [0.5, 0.48, 0.46], error=0.05)) == [None] * 3


def test_nothing_is_known_of_hacking_without_another_judge_or_standard_errors():
    alone = [{name: value for name, value in each.items() if "held" not in name} for each in FLAWED]
    assert history(judge_hacking, alone) == [None] * 9
    bare = [{name: value for name, value in each.items() if not name.endswith("_se")} for each in FLAWED]
    assert history(judge_hacking, bare) == [None] * 9
    assert history(held_out_drop, bare) == [None] * 9


def test_a_scale_of_its_own_is_measured_in_spreads_of_the_base():
    held_out = [0.5, 0.46, 0.42]
    wide = curve([10, 12, 14], held_out, error=0.5, base_score_sd=4.0, held_out_gain_se=0.02)
    assert history(judge_hacking, wide) == [None, "warn", "stop"]
    tiny = curve([10, 10.5, 11], held_out, error=0.1, base_score_sd=4.0, held_out_gain_se=0.02)
    assert history(judge_hacking, tiny) == [None, None, "warn"], "half a point in four is little; a whole one is not"
    unknown = curve([10, 12, 14], held_out, error=0.5, held_out_gain_se=0.02)
    assert history(judge_hacking, unknown) == [None] * 3


def test_chance_is_seldom_taken_for_hacking_or_a_drop():
    rng, fired, stopped = random.Random(4), 0, 0
    for _ in range(200):
        judge = [min(0.97, 0.6 + 0.08 * number) + rng.gauss(0, 0.02) for number in range(9)]
        held_out = [min(0.9, 0.5 + 0.07 * number) + rng.gauss(0, 0.03) for number in range(9)]
        rounds = curve(judge, held_out, error=0.03, held_out_gain_se=0.045)
        said = history(judge_hacking, rounds) + history(held_out_drop, rounds)
        fired += any(said)
        stopped += "stop" in said
    assert stopped <= 2 and fired <= 3, f"{stopped} and {fired} of 200 runs of eight rounds"


def test_a_held_out_score_that_stays_low_is_found_and_one_wobble_is_not():
    rounds = curve([0.5, 0.7, 0.72, 0.73, 0.74], [0.5, 0.7, 0.62, 0.63, 0.71])
    assert history(held_out_drop, rounds) == [None, None, None, "stop", None]
    finding = found(held_out_drop, *rounds[:4])[0]
    assert finding.value == pytest.approx(0.07) and "round 1" in finding.message and finding.remedy is None
    assert history(held_out_drop, curve([0.5] * 4, [0.5, 0.7, 0.66, 0.66], error=0.015)) == [None, None, None, "warn"]
    assert history(held_out_drop, curve([0.5] * 4, [0.5, 0.7, 0.66, 0.66], error=0.03)) == [None] * 4


def test_a_great_fall_counts_at_once_and_against_the_base_too():
    rounds = curve([0.6, 0.2], [0.5, 0.1])
    finding = found(held_out_drop, *rounds)[0]
    assert (finding.level, finding.remedy) == ("stop", "halve_learning_rate")
    assert "round 0" in finding.message and "train.learning_rate" in finding.message
    assert history(held_out_drop, curve([0.6, 0.2], [0.5, 0.1], error=0.2)) == [None, None]


def test_labels_turned_round_are_found():
    rounds = curve([0.6, 0.5], [0.5, 0.45])
    rounds[1]["kl"] = 1.0
    finding = found(label_signal, *rounds)[0]
    assert finding.level == "warn" and "turned round" in finding.message
    rounds[1]["kl"] = 0.1
    assert not found(label_signal, *rounds), "the update is too small to tell"
    assert not found(label_signal, *rounds, warn=WarnLevels(label_signal=None))


def test_a_later_fall_is_damage_and_not_the_labels():
    rounds = [{**each, "kl_base": 5.0} for each in curve([0.6, 0.8, 0.4], [0.5, 0.6, 0.4])]
    assert history(label_signal, rounds) == [None] * 3


def test_labels_by_chance_are_found_by_fresh_pairs():
    flat = [
        {**each, "kl": 0.1, "pairs": 64.0, "sampled_pairs": 48.0} for each in curve([0.60, 0.61, 0.60, 0.62], [0.5] * 4)
    ]
    for each, share in zip(flat[2:], (0.6, 0.5), strict=True):
        each["fresh_accuracy"] = share
    assert history(label_signal, flat) == [None, None, None, "warn"]
    assert "96 pairs" in found(label_signal, *flat)[0].message
    few = [{**each, "sampled_pairs": 8.0} for each in flat]
    assert history(label_signal, few) == [None] * 4
    learned = [{**each, "fresh_accuracy": 0.7} for each in flat]
    assert history(label_signal, learned) == [None] * 4, "a slow start that shows on new prompts"
    frozen = [{**each, "kl": 0.001} for each in flat]
    assert history(label_signal, frozen) == [None] * 4, "an update that never landed is another fault"


def test_labels_by_chance_are_found_by_a_score_that_does_not_rise():
    def rounds(gain, error, kl):
        return [{**each, "kl_base": kl} for each in curve([0.60, 0.60 + gain], [0.5] * 2, error=error)]

    assert levels_found(label_signal, *rounds(0.0, 0.02, 5.0)) == [("warn", "label_signal")]
    assert not found(label_signal, *rounds(0.0, 0.02, 1.0)), "a slow start"
    assert not found(label_signal, *rounds(0.0, 0.1, 5.0)), "too few prompts to see a rise"
    assert not found(label_signal, *rounds(0.06, 0.02, 5.0)), "it rose"
    tailed = [{**each, "kl_base_standard_error": 4.0} for each in rounds(0.0, 0.02, 5.0)]
    assert not found(label_signal, *tailed), "one answer can make the estimate large"


def test_growing_drafts_are_found_against_the_round_before():
    def lengths(*tokens, **other):
        return [{"policy_tokens": value, "policy_tokens_se": 1.0, **other} for value in tokens]

    finding = found(length_growth, *lengths(40, 42, 60))[0]
    assert finding.value == pytest.approx(60 / 42) and finding.remedy == "length_normalise"
    assert "sigmoid_norm" in finding.message
    assert not found(length_growth, *lengths(40, 42, 47))
    assert not found(length_growth, *lengths(40))
    assert not found(length_growth, *lengths(40, 60, teacher_tokens=70.0)), "growing towards the teacher"
    assert not found(length_growth, *[{**each, "policy_tokens_se": 10.0} for each in lengths(40, 60)])
    assert found(length_growth, {}, {"policy_tokens": 60.0, "base_tokens": 40.0})
    assert not found(length_growth, {}, {"policy_tokens": 60.0})


def test_drafts_that_turn_in_circles_are_not_put_down_to_the_judge():
    circles = {"policy_tokens": 86.0, "policy_repeated_4grams": 0.58, "base_repeated_4grams": 0.0}
    finding = found(length_growth, {"policy_tokens": 43.0}, circles)[0]
    assert finding.remedy == "halve_learning_rate" and "circles" in finding.message


def test_self_judging_is_said_once_on_the_base():
    assert levels_found(self_judged, {"self_judged": 1.0}) == [("warn", "self_judged")]
    assert "evaluate.judge" in found(self_judged, {"self_judged": 1.0})[0].message
    assert not found(self_judged, {"self_judged": 0.0})
    assert not found(self_judged, {"self_judged": 1.0}, {"self_judged": 1.0})
    assert not found(self_judged, {})


def test_other_tasks_that_are_forgotten_are_found():
    fell = {
        "also/maths": 0.5,
        "also/maths/gain": -0.1,
        "also/maths/gain_se": 0.02,
        "also/mail": 0.9,
        "also/mail/gain": 0.0,
    }
    findings = found(other_tasks, {}, fell)
    assert [each.value for each in findings] == [pytest.approx(0.1)]
    assert "maths" in findings[0].message and "train.learning_rate" in findings[0].message
    assert not found(other_tasks, {}, {**fell, "also/maths/gain_se": 0.06})
    assert not found(other_tasks, {}, {**fell, "also/maths/gain": -0.01, "also/maths/gain_se": 0.001})
    assert not found(other_tasks, {}, {"also/maths": 0.5, "also/maths/gain": -0.1}), "no standard error, no finding"
    assert "a larger `train.beta`" in found(other_tasks, {}, fell)[0].message
    assert "beta" not in found(other_tasks, {}, {**fell, "answers": 9.0})[0].message, "answers are trained without one"


@pytest.mark.parametrize(
    ("prompts", "levels"), [(5, []), (12, ["warn"]), (29, ["warn"]), (30, ["stop"]), (100, ["stop"])]
)
@pytest.mark.parametrize("rule", [judge_hacking, held_out_drop])
def test_few_validation_prompts_end_no_run(rule, prompts, levels):
    rounds = curve([0.5, 0.6, 0.7, 0.8], [0.6, 0.5, 0.4, 0.3], error=0.01, validation_prompts=prompts)
    assert [each.level for each in found(rule, *rounds)] == levels


@pytest.mark.parametrize(("scale", "spread"), [(100.0, 20.0), (0.01, 0.002)])
def test_a_held_out_judge_may_have_a_scale_of_its_own(scale, spread):
    """What counts is the change in spreads of the base drafts' scores: the same curve tells the same on any scale."""

    def on(held_out):
        rounds = curve([0.5, 0.6, 0.7, 0.8], [scale * each for each in held_out], error=0.01, base_held_out_sd=spread)
        return [{**each, "held_out_gain_se": scale * 0.01} for each in rounds]

    flat, honest = on([0.3, 0.302, 0.304, 0.306]), on([0.3, 0.4, 0.5, 0.6])
    assert history(judge_hacking, flat) == [None, "warn", "stop", "stop"]
    assert history(judge_hacking, honest) == [None] * 4
    falling = on([0.6, 0.5, 0.4, 0.3])
    assert [each.level for each in found(held_out_drop, *falling)] == ["stop"]
