"""Every rule about training fires on what it is about, and keeps quiet otherwise; the start lines say what was seen."""

import pytest

from prefdistill.diagnostics.findings import Levels
from prefdistill.diagnostics.thresholds import StopLevels, WarnLevels
from prefdistill.diagnostics.training import RULES, start_lines

HEALTHY = {
    "first_loss": 0.6826, "independent_loss": 0.6826, "first_loss_gap": 1e-7, "first_margin": 0.0222,
    "independent_margin": 0.0222, "first_margin_gap": 1e-7, "first_chosen_gap": 1e-7, "first_rejected_gap": 1e-7,
    "first_tokens_differing": 0.0, "compute_bits": 32.0, "adapter_float32": 1.0, "adapter_equal": 1.0,
    "gradient_ratio": 1.0, "sampler_gap": 1e-7, "sampler_drafts": 64.0, "previous_gap": 0.0025, "unended_share": 0.0,
    "double_bos_share": 0.0, "small_difference_share": 0.01, "truncated_share": 0.0, "dropped_share": 0.03,
    "max_length": 100.0, "adapter_moved": 1.0, "change_norm": 0.1, "kl": 0.03, "kl_standard_error": 0.01,
    "chosen_log_ratio": 0.01, "rejected_log_ratio": -0.02, "chosen_below_start": 0.2, "pair_margin_up_share": 0.95,
    "pair_margin_change": 1.5, "sampled_pairs": 32.0, "steps": 16.0,
}  # fmt: skip
FACTS = {"start": "round 1 (round-01/5-policy)", "reference": "the base", "adapter_dtype": "float32"}


def found(levels=None, **change):
    values = {name: value for name, value in {**HEALTHY, **change}.items() if value is not None}
    return [each for rule in RULES for each in rule([{}, values], levels or Levels())]


def test_a_healthy_round_has_no_findings():
    assert found() == []


def test_what_was_not_measured_is_no_finding():
    assert [each for rule in RULES for each in rule([{}], Levels())] == []
    assert found(kl=None, previous_gap=None, sampler_gap=None, first_margin_gap=None, pair_margin_up_share=None) == []


@pytest.mark.parametrize(
    ("change", "check", "level", "told"),
    [
        ({"adapter_moved": 0.49}, "adapter_moved", "warn", "train.learning_rate"),
        ({"adapter_float32": 0.5}, "adapter_moved", "warn", "50% of the adapter's weights are not float32"),
        ({"adapter_equal": 0.9}, "first_step", "warn", "10% of the adapter's weights differ from the start policy"),
        ({"kl": 0.004, "kl_standard_error": 0.002}, "update_too_small", "warn", "raise train.learning_rate"),
        ({"kl": 20.1}, "update_too_large", "warn", "lower train.learning_rate"),
        ({"kl": 201.0}, "update_too_large", "stop", "lower train.learning_rate"),
        ({"first_margin_gap": 0.0011}, "first_step", "warn", "reward margin is 0.0011 away"),
        ({"first_loss_gap": 0.002}, "first_step", "warn", "train.reference"),
        ({"first_chosen_gap": 0.002}, "first_step", "warn", "chosen reward"),
        ({"first_rejected_gap": 0.002}, "first_step", "warn", "rejected reward"),
        ({"first_margin_gap": 0.021, "compute_bits": 16.0}, "first_step", "warn", "reward margin"),
        ({"first_tokens_differing": 1.0}, "first_step", "warn", "labels were inverted"),
        ({"sampler_gap": 0.0101, "previous_gap": None}, "sampler_gap", "warn", "stale weights"),
        ({"sampler_gap": 0.0025}, "sampler_staleness", "warn", "the policy before this one by 0.0025"),
        ({"truncated_share": 0.02}, "truncated", "warn", "cut at 100 tokens"),
        ({"unended_share": 0.06}, "no_end_token", "warn", "chat template"),
        ({"double_bos_share": 0.01}, "double_bos", "warn", "two begin-of-text tokens"),
        ({"small_difference_share": 0.11}, "small_difference", "warn", "pair.near_duplicate"),
        ({"chosen_log_ratio": -0.11}, "displacement", "warn", "sigmoid+sft"),
        ({"chosen_log_ratio": -0.51}, "displacement", "stop", "sigmoid+sft"),
        ({"pair_margin_up_share": 0.3}, "margin_direction", "warn", "swapped"),
    ],
)
def test_each_failure_is_named_with_its_remedy(change, check, level, told):
    (finding,) = found(**change)
    assert (finding.check, finding.level) == (check, level)
    assert told in finding.message


@pytest.mark.parametrize(
    "change",
    [
        {"adapter_moved": 0.5},
        {"kl": 0.005, "kl_standard_error": 0.003},
        {"kl": 0.001, "kl_standard_error": 0.001, "steps": 7.0},
        {"kl": 19.9},
        {"first_margin_gap": 0.0009},
        {"first_margin_gap": 0.019, "compute_bits": 16.0},
        {"sampler_gap": 0.0099, "previous_gap": None},
        {"sampler_gap": 0.0012},
        {"sampler_gap": 0.0004, "previous_gap": 0.0005},
        {"sampler_gap": 0.0023, "previous_gap": 0.003, "compute_bits": 16.0},
        {"truncated_share": 0.01},
        {"unended_share": 0.05},
        {"small_difference_share": 0.1},
        {"chosen_log_ratio": -0.09},
        {"chosen_log_ratio": -0.6, "pair_margin_change": -0.1},
        {"pair_margin_up_share": 0.4},
    ],
)
def test_what_is_within_the_levels_is_quiet(change):
    assert found(**change) == []


@pytest.mark.parametrize("values", [{"kl": 20.1}, {"kl": 0.004, "kl_standard_error": 0.002}])
def test_a_training_on_answers_is_told_of_nothing_that_it_has_not(values):
    (finding,) = found(**values, answers=24.0)
    assert "train.learning_rate or train.epochs" in finding.message
    assert not [word for word in ("beta", "wrote", "pairs") if word in finding.message]
    (of_pairs,) = found(**values)
    assert "pairs" in of_pairs.message or "wrote the drafts, and its texts may fall apart" in of_pairs.message


def test_a_level_of_null_switches_a_check_off():
    levels = Levels(WarnLevels(first_step=None, displacement=None, adapter_moved=None), StopLevels(displacement=None))
    broken = {"first_margin_gap": 1.0, "first_tokens_differing": 1.0, "adapter_equal": 0.0, "adapter_float32": 0.0}
    assert found(levels, **broken, adapter_moved=0.0, chosen_log_ratio=-9.0) == []


def test_remedies_that_a_run_may_try_by_itself():
    assert [each.remedy for each in found(kl=300.0)] == ["halve_learning_rate"]
    assert [each.remedy for each in found(chosen_log_ratio=-1.0)] == ["add_sft"]


def lines(values, facts=FACTS, findings=()):
    return {each.name: each for each in start_lines(values, facts, findings)}


def test_the_start_lines_of_a_healthy_round():
    made = lines(HEALTHY)
    assert {each.state for each in made.values()} == {"ok"}
    assert list(made) == [
        "policies", "first_step", "adapter", "gradients", "sampler", "end_token", "truncated", "small_difference",
        "double_bos",
    ]  # fmt: skip
    assert made["policies"].text == "start round 1 (round-01/5-policy), reference the base"
    assert "margin 0.02220 (off by 1.0e-07)" in made["first_step"].text
    assert "the previous policy 0.00250" in made["sampler"].text
    assert made["truncated"].text == "0.0% of pairs cut, 3.0% not trained on"


def test_a_line_takes_its_state_from_the_findings():
    change = {"sampler_gap": 0.02, "unended_share": 0.5}
    made = lines({**HEALTHY, **change}, findings=found(**change))
    assert {name for name, each in made.items() if each.state == "warn"} == {"sampler", "end_token"}
    assert lines({**HEALTHY, "adapter_equal": 0.9})["adapter"].state == "warn"
    # What was found after training says nothing about how the adapter was loaded.
    assert lines(HEALTHY, findings=found(adapter_moved=0.1))["adapter"].state == "ok"


def test_a_check_that_is_off_says_why():
    values = {name: value for name, value in HEALTHY.items() if name not in ("sampler_gap", "gradient_ratio")}
    made = lines(values, {**FACTS, "off/sampler": "off-policy: the drafts come from a file"})
    assert (made["sampler"].state, made["sampler"].text) == ("off", "off-policy: the drafts come from a file")
    assert made["gradients"].state == "off"
    assert {each.state for each in lines({}, {}).values()} == {"off"}, "a trainer that measures nothing"
