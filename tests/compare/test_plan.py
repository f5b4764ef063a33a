"""What a comparison will run, and what its folder remembers."""

import json

import pytest

from prefdistill.compare.plan import check_arms, claim_folder, make_plan, parse_seeds
from prefdistill.errors import RecipeError, RunError, TrainError
from prefdistill.run import write_json
from tests.conftest import ROOT

ASKED = ROOT / "rubrics" / "sandbox-asked.yaml"


def plan_of(recipe, arms="offline,online", seeds="2", folder=None, overrides=()):
    return make_plan(recipe, overrides, [arms], seeds, folder)


@pytest.mark.parametrize(("text", "seeds"), [("3", (7, 8, 9)), ("1", (7,)), ("1,2,5", (1, 2, 5)), ("4,", (4,))])
def test_seeds(text, seeds):
    assert parse_seeds(text, 7) == seeds


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1,1", "1,-2", "2.5"])
def test_what_is_no_seeds(text):
    with pytest.raises(RecipeError, match="--seeds"):
        parse_seeds(text, 7)


def test_every_arm_has_a_run_a_seed_in_a_folder_of_its_own(tiny_recipe, tmp_path):
    plan = plan_of(tiny_recipe, folder=tmp_path / "c")
    assert [str(each.folder.relative_to(tmp_path / "c")) for each in plan.runs] == [
        "offline/seed-3",
        "online/seed-3",
        "offline/seed-4",
        "online/seed-4",
    ]
    recipes = [plan.recipe_of(each) for each in plan.runs]
    assert [each.loop.mode for each in recipes] == ["offline", "online"] * 2
    assert [each.seed for each in recipes] == [3, 3, 4, 4]
    assert {each.loop.stop for each in recipes} == {"never"}
    assert {each.train.steps for each in recipes} == {None}


def test_other_arms_take_the_steps_of_the_first_that_trains(tiny_recipe):
    plan = plan_of(tiny_recipe, "best_of_n,offline,online,own=online,train.steps=3,outputs")
    assert plan.pacesetter is not None and plan.pacesetter.label == "offline"
    steps = {each.arm.label: plan.recipe_of(each, [4, 5]).train.steps for each in plan.of_seed(3)}
    assert steps == {"offline": (4, 5), "online": (4, 5), "own": 3, "outputs": (4, 5), "best_of_n": None}


def test_steps_of_the_recipe_hold_for_every_arm(tiny_recipe):
    plan = plan_of(tiny_recipe, "online,outputs", overrides=["train.steps=6"])
    assert plan.pacesetter is None
    assert [plan.recipe_of(each).train.steps for each in plan.of_seed(3)] == [6, 6]


def test_shuffled_online_trains_on_the_online_run_of_its_seed(tiny_recipe, tmp_path):
    plan = plan_of(tiny_recipe, "online,shuffled_online", folder=tmp_path / "c")
    shuffled = plan.recipe_of(plan.of_seed(4)[1])
    assert shuffled.loop.pairs_from == tmp_path / "c" / "online" / "seed-4"


def test_a_mistake_in_an_arm_names_the_arm(tiny_recipe):
    plan = plan_of(tiny_recipe, "offline,odd=online,train.betta=1")
    with pytest.raises(RecipeError, match=r"arm odd: .*betta.*did you mean `beta`"):
        plan.recipe_of(plan.of_seed(3)[1])


@pytest.mark.parametrize("equal", ["prompts", "teacher"])
@pytest.mark.parametrize(
    ("arm", "label", "written"),
    [
        ("logits", "logits", "logits,train.teacher=MODEL"),
        ("soft=logits,train.epochs=2", "soft", "soft=logits,train.epochs=2,train.teacher=MODEL"),
        ("logits+online", r"logits\+online", r"logits\+online,warm_start.teacher=MODEL"),
    ],
)
def test_an_arm_on_logits_without_a_model_says_what_to_write(tiny_recipe, equal, arm, label, written):
    with pytest.raises(RecipeError, match=rf"^compare: arm {label}: .* teacher is `sandbox`; write {written} \("):
        make_plan(tiny_recipe, (), [f"outputs,online,{arm}"], "1", None, equal)


def test_a_mistake_in_an_arm_whose_work_is_counted_names_the_arm(tiny_recipe):
    with pytest.raises(RecipeError, match=r"^compare: arm odd: .*betta"):
        make_plan(tiny_recipe, (), ["online,odd=outputs,train.betta=1"], "1", None, "teacher")


def test_the_folder_goes_on_and_takes_further_arms_and_seeds(tiny_recipe, tmp_path):
    first = claim_folder(plan_of(tiny_recipe, folder=tmp_path / "c"), threads=1)
    again = claim_folder(plan_of(tiny_recipe, "offline,online,random_labels", "3", tmp_path / "c"), threads=2)
    assert (first["threads"], again["threads"]) == (1, 1)
    assert again["arms"] == ["offline", "online", "random_labels"]
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["seeds"] == [3, 4, 5]


def test_a_folder_with_another_comparison_is_refused(tiny_recipe, tmp_path):
    claim_folder(plan_of(tiny_recipe, folder=tmp_path / "c"), threads=1)
    with pytest.raises(RunError, match=r"holds another comparison \(overrides: .*loop.rounds=1"):
        claim_folder(plan_of(tiny_recipe, folder=tmp_path / "c", overrides=["loop.rounds=1"]), threads=1)


def test_a_folder_with_something_else_is_refused(tiny_recipe, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "letter.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty and holds no comparison"):
        claim_folder(plan_of(tiny_recipe, folder=tmp_path / "c"), threads=1)


def test_the_arms_of_the_study_are_valid():
    from tests.benchmarks.study import ARMS, HALVES, ROOT

    for overrides in HALVES.values():
        plan = plan_of(ROOT / "recipes" / "study.yaml", ARMS, "5", overrides=overrides)
        check_arms(plan)
        assert len(plan.runs) == 30
        assert ARMS in (ROOT / "recipes" / "study.yaml").read_text()


def test_an_arm_that_could_not_be_trained_is_refused_before_the_first_one_runs(tiny_recipe, tmp_path):
    plan = plan_of(tiny_recipe, "offline,small=online,train.batch_size=9", folder=tmp_path / "c")
    with pytest.raises(
        RecipeError, match=r"^compare: arm small: loop.prompts_per_round: 8 train prompts give at most 8"
    ):
        check_arms(plan)
    run = next(each.run for each in plan.runs if each.arm.label == "small")
    write_json(run.result, {})
    assert check_arms(plan) == ()
    logits = "logits=outputs,train.use=logits,train.teacher={},train.batch_size=4"
    wrong = plan_of(tiny_recipe, f"offline,{logits.format('prefdistill.sandbox:student_b')}", folder=tmp_path / "d")
    with pytest.raises(TrainError, match=r"^compare: arm logits: .*have different tokenizers"):
        check_arms(wrong)
    (line,) = check_arms(
        plan_of(tiny_recipe, f"offline,{logits.format('org/large')}", folder=tmp_path / "e"), fetch=False
    )
    assert line.startswith("arm logits: train: not checked")


def test_the_arm_that_set_the_steps_stays_the_one(tiny_recipe, tmp_path):
    claim_folder(plan_of(tiny_recipe, "offline,online", folder=tmp_path / "c"), threads=1)
    turned = plan_of(tiny_recipe, "online,offline", folder=tmp_path / "c")
    assert turned.pacesetter.label == "offline"
    assert [each.arm.label for each in turned.of_seed(3)] == ["offline", "online"]
    claim_folder(turned, threads=1)
    without = plan_of(tiny_recipe, "online,random_labels", folder=tmp_path / "c")
    assert without.pacesetter is None
    assert without.steps_before(3) == [], "it has not run yet"


def test_a_chain_has_the_steps_of_the_rounds_that_it_replaces(tiny_recipe):
    plan = plan_of(tiny_recipe, "outputs,outputs+online,online", overrides=["loop.rounds=4"])
    assert plan.pacesetter.label == "online"
    recipes = {each.arm.label: plan.recipe_of(each, [3, 4, 5, 6]) for each in plan.of_seed(3)}
    assert recipes["outputs+online"].warm_start.steps == 7
    assert recipes["outputs+online"].train.steps == (5, 6)
    assert recipes["outputs"].train.steps == (3, 4, 5, 6)


def test_chains_alone_set_nobodys_steps(tiny_recipe):
    assert plan_of(tiny_recipe, "outputs+online,outputs+offline").pacesetter is None


def test_equal_work_of_the_teacher_is_counted_in_replies_where_nobody_is_paid(tiny_recipe, tmp_path):
    plan = make_plan(tiny_recipe, (), ["online,outputs,outputs+online"], "1", tmp_path / "c", "teacher")
    assert (plan.unit, dict(plan.sizes.answers)) == ("replies", {"outputs": 3.0})
    recipes = {each.arm.label: plan.recipe_of(each) for each in plan.of_seed(3)}
    assert recipes["outputs"].loop.prompts_per_round == 24
    assert recipes["outputs+online"].warm_start.prompts == 24


PAID = "{use: openai, model: big, base_url: 'http://localhost:1/v1', usd_per_million: {input: 3, output: 15}}"


def test_equal_work_is_counted_in_dollars_and_stays_what_it_was(tiny_recipe, tmp_path):
    judged = [f"teacher={PAID}", "judge={use: rubric}", f"rubric={ASKED}"]
    folder = tmp_path / "c"
    plan = make_plan(tiny_recipe, judged, ["online,outputs"], "1", folder, "teacher")
    assert plan.unit == "USD"
    assert plan.sizes.answers["outputs"] > 1
    claim_folder(plan, 1)
    noted = json.loads((folder / "comparison.json").read_text())
    noted["exchange"]["outputs"] = 2.0
    (folder / "comparison.json").write_text(json.dumps(noted))
    again = make_plan(tiny_recipe, judged, ["online,outputs"], "1", folder, "teacher")
    assert again.sizes.answers == {"outputs": 2.0}
    with pytest.raises(RunError, match="equal: 'teacher' → 'prompts'"):
        claim_folder(make_plan(tiny_recipe, judged, ["online,outputs"], "1", folder), 1)


def test_a_free_judge_cannot_be_made_to_cost_what_answers_do(tiny_recipe):
    with pytest.raises(RecipeError, match=r"--equal teacher: outputs ask a paid model .*, and online do not"):
        make_plan(tiny_recipe, [f"teacher={PAID}"], ["online,outputs"], "1", None, "teacher")


@pytest.mark.parametrize(
    "arms",
    [
        "online,logits,train.teacher=prefdistill.sandbox:teacher",
        "logits+online,warm_start.teacher=prefdistill.sandbox:teacher",
    ],
)
def test_an_arms_own_keys_are_part_of_what_is_counted(tiny_recipe, tmp_path, arms):
    """Without them the arm is no valid recipe: logits name their teacher."""
    plan = make_plan(tiny_recipe, (), [arms], "1", tmp_path / "c", "teacher")
    assert dict(plan.sizes.answers) == {"logits": 3.0}
    assert all(plan.recipe_of(each) for each in plan.runs)


def test_without_rounds_there_is_no_work_to_make_equal(tiny_recipe):
    with pytest.raises(RecipeError, match=r"--equal teacher: loop\.rounds is 0"):
        make_plan(tiny_recipe, ["loop.rounds=0"], ["online,outputs"], "1", None, "teacher")


def test_a_price_that_is_gone_is_said(tiny_recipe, tmp_path):
    folder = tmp_path / "c"
    judged = ["judge={use: rubric}", f"rubric={ASKED}"]
    claim_folder(make_plan(tiny_recipe, [f"teacher={PAID}", *judged], ["online,outputs"], "1", folder, "teacher"), 1)
    free = PAID.replace("usd_per_million: {input: 3, output: 15}", "max_tokens_parameter: max_tokens")
    with pytest.raises(RecipeError, match=r"counts the teacher's work in USD, and that of online is not known"):
        make_plan(tiny_recipe, [f"teacher={free}", *judged], ["online,outputs,traces"], "1", folder, "teacher")
