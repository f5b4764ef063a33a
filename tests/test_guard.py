"""The guard: which round is kept, and whether the run goes on."""

import pytest

from prefdistill.guard import best_round, decide, stop_text
from prefdistill.records import Finding, RoundResult

ALL = ("halve_learning_rate", "add_sft", "length_normalise")


def round_of(number, held_out=None, rubric=None, findings=(), remedy=None, **diagnostics):
    return RoundResult(
        round=number, drafts=0, judged=0, failed=0, pairs=0, held_out_score=held_out, rubric_score=rubric,
        findings=tuple(findings), remedy=remedy, diagnostics=diagnostics,
    )  # fmt: skip


def stop(check="judge_hacking", remedy=None, kind=None):
    return Finding(check=check, level="stop", value=1.0, limit=0.5, message="seen", remedy=remedy, kind=kind)


def warn(check="identical"):
    return Finding(check=check, level="warn", value=1.0, limit=0.5, message="seen", remedy="add_sft")


def test_the_best_round_is_the_held_out_judge_s_not_the_training_judge_s_and_not_the_last():
    rounds = [round_of(0, 0.4, 0.4), round_of(1, 0.6, 0.7), round_of(2, 0.5, 0.9)]
    assert best_round(rounds) == 1


def test_the_base_is_kept_where_every_round_is_worse_and_the_earliest_of_equal_ones():
    assert best_round([round_of(0, 0.5), round_of(1, 0.4), round_of(2, 0.45)]) == 0
    assert best_round([round_of(0, 0.4), round_of(1, 0.5), round_of(2, 0.5)]) == 1


def test_once_a_stop_rule_has_spoken_a_gain_within_its_standard_error_does_not_replace_the_base():
    first = round_of(1, 0.52, held_out_gain_se=0.03)
    assert best_round([round_of(0, 0.5), first]) == 1
    condemned = round_of(2, 0.4, findings=[stop()], held_out_gain_se=0.03)
    assert best_round([round_of(0, 0.5), first, condemned]) == 0
    assert best_round([round_of(0, 0.5), round_of(1, 0.54, held_out_gain_se=0.03), condemned]) == 1


def test_a_condemned_round_wins_by_a_held_out_score_but_not_by_the_judge_in_doubt():
    assert best_round([round_of(0, 0.4), round_of(1, 0.6, findings=[stop()])]) == 1
    assert best_round([round_of(0, rubric=0.4), round_of(1, rubric=0.9, findings=[stop()])]) == 0
    assert best_round([round_of(0, rubric=0.4), round_of(1, rubric=0.9, findings=[warn()])]) == 1


def test_warnings_let_a_run_go_on_and_a_stop_ends_it():
    assert decide(round_of(1, findings=[warn()]), "auto", ALL).action == "go_on"
    decision = decide(round_of(1, findings=[warn(), stop()]), "none", ALL)
    assert (decision.action, decision.finding.check) == ("stop", "judge_hacking")


@pytest.mark.parametrize(
    ("remedy", "applicable", "had", "action"),
    [
        ("add_sft", ALL, None, "retry"),
        ("add_sft", ("halve_learning_rate",), None, "stop"),  # the loss does not admit it
        ("add_sft", ALL, "halve_learning_rate", "stop"),  # once only
        (None, ALL, None, "stop"),  # nothing cures a judge that is hacked
    ],
)
def test_a_condemned_round_is_trained_once_more_only_with_a_remedy_that_it_can_take(remedy, applicable, had, action):
    decision = decide(round_of(2, findings=[stop(remedy=remedy)], remedy=had), "auto", applicable)
    assert decision.action == action


def test_the_second_finding_may_have_the_remedy():
    found = [stop("judge_hacking"), stop("chosen_longer", "length_normalise")]
    decision = decide(round_of(2, findings=found), "auto", ALL)
    assert (decision.action, decision.finding.check) == ("retry", "chosen_longer")


def test_the_line_that_says_why_a_run_ended_names_round_rule_and_kind():
    text = stop_text(round_of(3), stop("diversity", kind="edit"))
    assert text == "stopped after round 3 by loop.stop.diversity (edit): seen"
