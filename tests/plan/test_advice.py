"""Which distillation is advised, why, and that an owner may overrule it with a reason."""

import pytest

from prefdistill.plan.advice import advise, advised, method_chapter
from prefdistill.plan.document import Plan

FAR = {"student_score": 0.4, "teacher_score": 0.9}
NEAR = {"student_score": 0.75, "teacher_score": 0.9}
HOSTED = {"local": False, "reasons": False}


def fits(**sections):
    return {each.way: each.fit for each in advise(Plan.model_validate({"name": "p", **sections}))}


def test_a_student_far_from_the_teacher_sees_its_answers_first_and_taste_comes_then():
    plan = Plan.model_validate({"name": "p", "goal": FAR, "teacher": HOSTED, "method": {"taste": True}})
    assert advised(plan) == ("outputs", "preferences")
    because = {each.way: each.because for each in advise(plan)}
    assert "50 points ahead" in because["outputs"] and "matter of taste" in because["preferences"]


def test_a_student_near_the_teacher_learns_from_preferences():
    assert fits(goal=NEAR, teacher=HOSTED)["preferences"] == "first"
    assert fits(goal=NEAR, teacher=HOSTED)["outputs"] == "possible"


def test_a_teacher_that_reasons_gives_traces():
    assert fits(goal=FAR, teacher={"reasons": True})["traces"] == "first"
    assert fits(goal=FAR, teacher={"reasons": True})["outputs"] == "possible"
    assert fits(goal=FAR, teacher=HOSTED)["traces"] == "not possible"


@pytest.mark.parametrize(
    ("teacher", "fit"),
    [
        ({"local": False}, "not possible"),
        ({"local": True, "same_tokenizer": False}, "not possible"),
        ({"local": True}, "not known"),
        ({}, "not known"),
        ({"local": True, "same_tokenizer": True}, "possible"),
    ],
)
def test_logits_need_a_local_teacher_with_the_same_tokenizer(teacher, fit):
    assert fits(teacher=teacher)["logits"] == fit


def test_nothing_is_advised_where_nothing_is_known():
    assert advised(Plan(name="p")) == ()
    assert set(fits().values()) == {"not known"}


def test_a_teacher_that_is_not_ahead_has_nothing_to_give():
    assert fits(goal={"student_score": 0.9, "teacher_score": 0.9})["outputs"] == "not needed"


def warnings(**method):
    plan = Plan.model_validate({"name": "p", "goal": NEAR, "teacher": HOSTED, "method": method})
    return [block.text for block in method_chapter(plan).blocks if getattr(block, "warns", False)]


def test_overruling_needs_a_reason_and_what_cannot_be_done_is_said():
    assert any("Overruling it needs a reason" in words for words in warnings(ways=["outputs"]))
    assert not warnings(ways=["outputs"], because="we have answers already")
    assert any("cannot be done" in words for words in warnings(ways=["logits"], because="we like it"))
    assert not warnings(ways=["preferences"])
