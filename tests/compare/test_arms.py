"""How arms are written, and what they change."""

import pytest

from prefdistill.compare.arms import KINDS, Arm, Sizes, in_order, kind_of, parse_arms, source_of
from prefdistill.errors import RecipeError
from prefdistill.recipe import load_recipe


def written(*texts):
    return [arm.written for arm in parse_arms(texts)]


def test_arms_are_separated_by_commas_or_given_one_by_one():
    assert written("offline,online") == written("offline", "online") == ["offline", "online"]


def test_keys_belong_to_the_arm_before_them():
    first, second, third = parse_arms(["offline,prev=online,train.reference=previous,loop.rounds=2,best_of_n"])
    assert first == Arm("offline", "offline")
    assert second == Arm("prev", "online", ("train.reference=previous", "loop.rounds=2"))
    assert third == Arm("best_of_n", "best_of_n")


def test_commas_inside_brackets_and_quotes_do_not_separate():
    (arm,) = parse_arms(["a=online,judge={use: checks, x: [1, 2]},student.revision='a,b'"])
    assert arm.overrides == ("judge={use: checks, x: [1, 2]}", "student.revision='a,b'")


def test_what_was_read_is_written_the_same():
    for text in ("online", "a=online,train.beta=0.2", "off_policy,sample.drafts_from=x.jsonl"):
        assert written(text) == [text]


def test_the_base_is_always_there_and_no_arm():
    assert written("base,online") == ["online"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("onlin", "unknown arm `onlin`; did you mean `online`"),
        ("online,online", "two arms are called `online`"),
        ("train.beta=1", "stands before any arm"),
        ("base", "no arm to compare"),
        ("", "no arm to compare"),
        ("base,train.beta=1", "base takes no keys"),
        ("a b=online", "no label"),
        ("base=online", "no label"),
        ("../up=online", "stands before any arm"),
        ("a/b=online", "no label"),
        ("off_policy", "needs sample.drafts_from"),
    ],
)
def test_what_is_no_arm_is_said(text, said):
    with pytest.raises(RecipeError, match=said):
        parse_arms([text])


def test_an_arm_that_works_on_another_comes_after_it():
    arms = in_order(parse_arms(["shuffled_online,offline,online"]))
    assert [arm.label for arm in arms] == ["offline", "online", "shuffled_online"]
    assert source_of(arms[2], arms) == arms[1]
    assert source_of(arms[0], arms) is None


def test_an_arm_that_another_needs_is_added():
    assert [arm.label for arm in in_order(parse_arms(["offline,shuffled_online"]))] == [
        "offline",
        "online",
        "shuffled_online",
    ]


def test_the_shuffled_arm_works_on_the_online_arm_that_is_most_like_it():
    arms = parse_arms(["prev=online,train.reference=previous,online,shuffled_online"])
    assert source_of(arms[2], arms).label == "online"
    arms = parse_arms(["online,prev=online,train.beta=1,shuffled=shuffled_online,train.beta=1"])
    assert source_of(arms[2], arms).label == "prev"


@pytest.mark.parametrize("key", ["seed=9", "name=x", "loop.pairs_from=y"])
def test_what_the_comparison_sets_is_no_arms_to_set(key):
    with pytest.raises(RecipeError, match="is set by the comparison"):
        parse_arms([f"offline,{key}"])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("off_policy", "shuffled_online", "logits")])
def test_every_kind_is_a_valid_recipe(kind, tiny_recipe):
    base = load_recipe(tiny_recipe)
    recipe = load_recipe(tiny_recipe, Arm(kind, kind).to_overrides(base))
    assert recipe.loop.mode == ("offline" if kind == "offline" else "online")
    assert recipe.pair.labels == ("random" if kind == "random_labels" else "judged")
    assert (recipe.loop.rounds, recipe.evaluate.best_of) == ((0, 3) if kind == "best_of_n" else (2, 1))
    assert recipe.train.trainer._use == {"outputs": "sft", "traces": "traces"}.get(kind, "dpo")


def test_the_trainer_of_answers_takes_over_the_batch_and_the_adapter(tiny_recipe):
    own = ["train.batch_size=8", "train.lora={r: 4, alpha: 8}", "train.epochs=3", "train.mix_past.share=0.1"]
    base = load_recipe(tiny_recipe, own)
    train = load_recipe(tiny_recipe, Arm("outputs", "outputs").to_overrides(base)).train
    assert (train.trainer.batch_size, train.trainer.lora.r, train.trainer.epochs) == (8, 4, 3)
    assert train.mix_past == base.train.mix_past


def test_answers_need_a_teacher(tiny_recipe):
    base = load_recipe(tiny_recipe, ["teacher=null", "evaluate.baselines=[base]"])
    with pytest.raises(RecipeError, match="has no `teacher`"):
        Arm("outputs", "outputs").to_overrides(base)


def test_the_help_explains_every_arm():
    from prefdistill.cli.running import compare

    for name, kind in KINDS.items():
        assert f"- `{name}`: {kind.what}" in compare.__doc__


def chained(recipe, text, sizes=None, overrides=()):
    base = load_recipe(recipe, ["loop.rounds=5", *overrides])
    arm = parse_arms([text])[0]
    return load_recipe(recipe, ["loop.rounds=5", *overrides, *arm.to_overrides(base, sizes or Sizes())])


def test_a_chains_warm_start_takes_the_place_of_the_first_half_of_the_rounds(tiny_recipe):
    recipe = chained(tiny_recipe, "outputs+online")
    assert (recipe.loop.rounds, recipe.loop.mode, recipe.reference) == (3, "online", "warm_start")
    assert recipe.warm_start.trainer._use == "sft"
    assert (recipe.warm_start.prompts, recipe.warm_start.answers) == (16, 1)
    assert recipe.warm_start.trainer.batch_size == 4


def test_what_a_chains_first_stage_may_cost_is_answered_more_than_once_where_prompts_are_few(tiny_recipe):
    recipe = chained(tiny_recipe, "outputs+online", Sizes({"outputs": 3.0}, train_prompts=20))
    assert (recipe.warm_start.prompts, recipe.warm_start.answers) == (16, 3)


def test_steps_of_the_recipe_are_added_up_for_a_chains_first_stage(tiny_recipe):
    recipe = chained(tiny_recipe, "own=outputs+offline,warm_start.learning_rate=1e-3", overrides=["train.steps=4"])
    assert (recipe.warm_start.steps, recipe.train.steps, recipe.loop.mode) == (8, 4, "offline")
    assert recipe.warm_start.trainer.learning_rate == 1e-3


def test_an_arm_on_answers_has_as_many_prompts_as_the_teachers_work_pays_for(tiny_recipe):
    base = load_recipe(tiny_recipe)
    arm = Arm("outputs", "outputs")
    assert load_recipe(tiny_recipe, arm.to_overrides(base, Sizes({"outputs": 2.5}))).loop.prompts_per_round == 20
    assert load_recipe(tiny_recipe, arm.to_overrides(base)).loop.prompts_per_round == 8


def test_what_a_chain_is_in_words():
    assert kind_of("outputs+online").what.startswith(
        "first fine-tuning on the teacher's own answers, no judge; then each"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("online+outputs", r"`online\+outputs` is no chain: expected a warm start \(outputs, traces, logits\), a plus"),
        ("outputs+", r"is no chain"),
        ("outputs+online+online", r"is no chain"),
        ("outputs+shuffled_online", r"what follows it \(offline, online, off_policy, random_labels\)"),
        ("outputs+off_policy", r"needs sample\.drafts_from"),
    ],
)
def test_what_is_no_chain(text, message):
    with pytest.raises(RecipeError, match=message):
        parse_arms([text])


def test_one_round_is_too_few_for_a_chain(tiny_recipe):
    base = load_recipe(tiny_recipe, ["loop.rounds=1"])
    with pytest.raises(RecipeError, match=r"arm outputs\+online: loop\.rounds is 1, and its stages share the rounds"):
        Arm("outputs+online", "outputs+online").to_overrides(base)


def test_logits_name_their_teacher(tiny_recipe):
    base = load_recipe(tiny_recipe)
    arm = parse_arms(["logits,train.teacher=prefdistill.sandbox:student"])[0]
    assert load_recipe(tiny_recipe, arm.to_overrides(base)).train.trainer._use == "logits"
