"""The judge without a model."""

import pytest

from prefdistill.errors import JudgeError, RubricError
from prefdistill.judges.checks import ChecksJudge
from prefdistill.rubric import RubricSet
from prefdistill.stages.judge import judge_prompts
from tests.making import ASKED, CLEAN, LENGTH, make_drafts, make_prompt, make_rubric, one_rubric


def counting_check(prompt, text):
    prompt.fields["seen"].append(text)
    return 0.5


def silent_check(prompt, text):
    return None


def raising_check(prompt, text):
    raise ZeroDivisionError("oops")


def eleven_check(prompt, text):
    return 11


HERE = "judges/test_checks_judge.py"


def judged(rubric, texts):
    return ChecksJudge().judge(make_prompt(), make_drafts(texts), rubric)


def test_every_criterion_and_gate_gets_its_score():
    verdict = judged(make_rubric(LENGTH, gates=[CLEAN]), ["x" * 50, "BAD"])
    assert [[(s.criterion, s.score, s.path) for s in j.scores] for j in verdict.judgements] == [
        [("clean", 1.0, "checked"), ("length", 0.5, "checked")],
        [("clean", 0.0, "checked"), ("length", 0.03, "checked")],
    ]
    assert verdict.usage.calls == 0


def test_a_rubric_that_must_be_asked_is_refused_and_stops_the_run():
    rubric = make_rubric(ASKED, LENGTH)
    with pytest.raises(RubricError, match=r"judge\.use: rubric"):
        judged(rubric, ["a"])
    with pytest.raises(RubricError, match="good"):
        list(judge_prompts(ChecksJudge(), [(make_prompt(), make_drafts(["a"]))], one_rubric(rubric)))


def test_identical_texts_are_scored_once():
    prompt, rubric = make_prompt(seen=[]), make_rubric({"name": "c", "check": f"{HERE}:counting_check"})
    verdict = ChecksJudge().judge(prompt, make_drafts(["a", "a", "b"]), rubric)
    assert prompt.fields["seen"] == ["a", "b"]
    assert len(verdict.judgements) == 3


def test_a_criterion_that_does_not_apply_has_no_score():
    rubric = make_rubric(
        LENGTH, {"name": "s", "check": f"{HERE}:silent_check"}, {**LENGTH, "name": "t", "applies_if": "topic"}
    )
    scores = judged(rubric, ["a"]).judgements[0].scores
    assert [(s.criterion, s.applies) for s in scores] == [("length", True), ("s", False), ("t", False)]


@pytest.mark.parametrize(("name", "text"), [("raising_check", "ZeroDivisionError: oops"), ("eleven_check", "11")])
def test_a_check_that_breaks_fails_the_group_with_its_name(name, text):
    rubric = make_rubric({"name": "c", "check": f"{HERE}:{name}"})
    with pytest.raises(JudgeError, match="check c"):
        judged(rubric, ["a"])
    groups = [(make_prompt(), make_drafts(["a", "b"]))]
    (verdict,) = judge_prompts(ChecksJudge(), groups, RubricSet(rubrics={"": rubric}))
    assert [failure.key[-1] for failure in verdict.failures] == ["0", "1"]
    assert text in verdict.failures[0].message
