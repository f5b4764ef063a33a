"""How a model card says that a policy was made: by each round's trainer, with whose answers or distribution."""

import pytest

from prefdistill.export.card import teacher_name
from prefdistill.export.methods import distributions_of, method_tags, methods_of, trained_on
from prefdistill.export.source import Source
from prefdistill.recipe import load_recipe
from prefdistill.records import Policy, RoundResult
from prefdistill.run import RunDirectory

SFT = "distillation (supervised fine-tuning on a teacher's answers)"
DPO = "preference distillation (DPO on pairs that a judge ranked against a rubric)"
LOGITS = ("warm_start.use=logits", "warm_start.teacher=prefdistill.sandbox:teacher")


def source_of(recipe, tmp_path, *overrides, number=1):
    """Return the policy of a round of a run that was never made."""
    result = RoundResult(round=number, drafts=24, judged=24, failed=0, pairs=9)
    policy = Policy(model="student", adapter=f"round-0{number}/5-policy", round=number)
    return Source(RunDirectory(tmp_path), load_recipe(recipe, overrides), policy, False, {}, result, None)


@pytest.mark.parametrize(
    ("overrides", "said", "tags"),
    [
        ((), DPO, "dpo preference-distillation"),
        (("warm_start.use=outputs",), SFT, "sft distillation"),
        (
            ("warm_start.use=traces",),
            "reasoning-trace distillation (supervised fine-tuning on a teacher's reasoning and answers)",
            "sft distillation",
        ),
        (
            ("warm_start.use=traces", "warm_start.trace=strip"),
            "reasoning-trace distillation (supervised fine-tuning on a teacher's answers, written after reasoning that is "
            "not learned)",
            "sft distillation",
        ),
        (
            LOGITS,
            "knowledge distillation (of a teacher's token distribution on given answers, and of these answers themselves)",
            "sft distillation knowledge-distillation",
        ),
        (
            (*LOGITS, "warm_start.mix=1"),
            "knowledge distillation (of a teacher's token distribution on given answers)",
            "distillation knowledge-distillation",
        ),
        (
            (*LOGITS, "warm_start.on=own"),
            "knowledge distillation (of a teacher's token distribution, on texts that the student wrote itself)",
            "distillation knowledge-distillation",
        ),
        ((*LOGITS, "warm_start.mix=0"), SFT, "sft distillation"),
    ],
)
def test_a_policy_of_one_round_is_said_to_be_made_by_its_trainer(tiny_recipe, tmp_path, overrides, said, tags):
    source = source_of(tiny_recipe, tmp_path, *overrides)
    assert methods_of(source) == [said]
    assert method_tags(source) == tags.split()


def test_rounds_after_a_warm_start_are_told_once_and_after_it(tiny_recipe, tmp_path):
    source = source_of(tiny_recipe, tmp_path, *LOGITS, number=3)
    assert methods_of(source)[1:] == [DPO] and methods_of(source)[0].startswith("knowledge distillation")
    assert method_tags(source) == ["sft", "distillation", "knowledge-distillation", "dpo", "preference-distillation"]
    assert trained_on(source) == "24 drafts were judged"


def test_what_the_last_round_trained_on_is_said(tiny_recipe, tmp_path):
    assert trained_on(source_of(tiny_recipe, tmp_path, *LOGITS)) == "9 answers of the teacher were trained on"
    own = trained_on(source_of(tiny_recipe, tmp_path, *LOGITS, "warm_start.on=own"))
    assert own.endswith("and its own texts were trained on")


def test_the_model_whose_distribution_was_learned_is_named_without_its_place(tiny_recipe, tmp_path):
    assert distributions_of(source_of(tiny_recipe, tmp_path, *LOGITS)) == ["teacher"]
    assert distributions_of(source_of(tiny_recipe, tmp_path, *LOGITS, "warm_start.mix=0")) == []
    assert distributions_of(source_of(tiny_recipe, tmp_path)) == []
    local = "teacher={use: local, model: 'prefdistill.sandbox:teacher'}"
    assert teacher_name(source_of(tiny_recipe, tmp_path, local)) == "teacher"
