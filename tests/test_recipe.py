import json
import os
from pathlib import Path

import pytest

from prefdistill.errors import PrefdistillError
from prefdistill.recipe import Recipe, differing_keys, load_recipe, operational_keys, recipe_schema

ROOT = Path(__file__).parent.parent
RUBRIC = """
name: r
criteria:
  - {name: length, check: length, unit: words, between: [5, 60]}
"""
RECIPE = """
name: tiny
rubric: rubric.yaml
student: {model: student}
prompts: {path: prompts.jsonl}
judge: {use: checks}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rubric.yaml").write_text(RUBRIC)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "hello"}\n')
    (tmp_path / "student").mkdir()
    return tmp_path


def problem(folder, text, *overrides, rubric=None):
    """Return the message with which a recipe is refused."""
    (folder / "recipe.yaml").write_text(text)
    if rubric is not None:
        (folder / "rubric.yaml").write_text(rubric)
    with pytest.raises(PrefdistillError) as caught:
        load_recipe(folder / "recipe.yaml", overrides)
    return str(caught.value).replace(str(folder) + "/", "")


def test_defaults_are_those_of_the_method(folder):
    recipe = load_recipe(folder / "recipe.yaml")
    assert (recipe.sample.drafts, recipe.sample.temperature, recipe.evaluate.temperature) == (4, 1.0, 0.7)
    assert (recipe.loop.mode, recipe.loop.rounds, recipe.loop.start_from) == ("online", 5, "previous")
    assert (recipe.train.reference, recipe.train.mix_past.share, recipe.train.mix_past.rounds) == ("base", 0.25, "all")
    assert recipe.student.quantization == "nf4"
    assert recipe.held_out_judge is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECIPE + "loop: {rouns: 3}\n", "recipe.yaml:7: loop.rouns: unknown key; did you mean `rounds`?"),
        (RECIPE + "lop: {}\n", "recipe.yaml:7: lop: unknown key; did you mean `loop`?"),
        (RECIPE + "seed: many\n", "recipe.yaml:7: seed: found 'many'"),
        (RECIPE + "name: again\n", "recipe.yaml:7: name: duplicate key"),
        (RECIPE + "sample: {drafts: 1}\n", "recipe.yaml:7: sample.drafts: found 1"),
        (RECIPE + "sample: {draft: 4}\n", "recipe.yaml:7: sample.draft: unknown key; did you mean `drafts`?"),
        (RECIPE + "train: {lerning_rate: 1.0}\n", "train.lerning_rate: unknown key; did you mean `learning_rate`?"),
        (RECIPE + "train: {use: ppo}\n", "recipe.yaml:7: train.use: unknown name `ppo`"),
        (RECIPE.replace("checks}", "cheks}"), "recipe.yaml:6: judge.use: unknown name `cheks`; did you mean `checks`?"),
        (RECIPE.replace("checks}", "checks, x: 1}"), "recipe.yaml:6: judge.x: unknown key"),
        (RECIPE.replace("prompts.jsonl", "gone.jsonl"), "no such file: gone.jsonl; expected a prompts file"),
        (RECIPE.replace("model: student", "model: ./gone"), "recipe.yaml:4: student: student.model: no folder"),
        (RECIPE.replace("rubric.yaml", "gone.yaml"), "gone.yaml: no such file"),
        (RECIPE + "evaluate: {baselines: [teacher]}\n", "evaluate.baselines names the teacher"),
        (RECIPE + "x: !!python/object:os.system {}\n", "recipe.yaml:7: YAML tag"),
        ("- a\n", "recipe.yaml:1: found a"),
        ("", "recipe.yaml: the file is empty"),
        ("a: [1\n", "recipe.yaml:2: not valid YAML"),
        (RECIPE.replace("name: tiny\n", ""), "name: missing"),
    ],
)
def test_a_mistake_is_named_with_file_line_key_and_remedy(folder, text, message):
    assert message in problem(folder, text)


@pytest.mark.parametrize(
    ("section", "found", "write"),
    [
        ("warm_start: outputs", "'outputs'", "warm_start: {use: outputs}"),
        ("warm_start: [outputs]", "a list", "warm_start: {use: outputs}"),
        ("train: dpo", "'dpo'", "train: {use: dpo}"),
        ("train:", "nothing", "train: {use: dpo}"),
        ("train: {lora: 8}", "8", "lora: {r: 8}"),
        ("train: {mix_past: 0.5}", "0.5", "mix_past: {share: 0.5}"),
        ("sample: 3", "3", "sample: {drafts: 3}"),
        ("loop: online", "'online'", "loop: {mode: online}"),
        ("budget: 5", "5", "budget: {usd: 5}"),
        ("evaluate: {also: [x.jsonl]}", "'x.jsonl'", "{prompts: x.jsonl}"),
        ("pair: true", "True", "pair: {strategy: …}"),
    ],
)
def test_a_section_that_is_no_mapping_is_shown_as_it_should_be_written(folder, section, found, write):
    said = problem(folder, RECIPE + section + "\n")
    assert said.startswith("recipe.yaml:7: ")
    assert f": found {found}; expected a mapping of keys to values: write `{write}` (keys: " in said
    assert "dictionary" not in said and "Section" not in said


def test_such_a_section_is_shown_on_the_command_line_as_an_override(folder):
    for override, write in (
        ("warm_start=outputs", "warm_start.use=outputs"),
        ("student=./x", "student.model=./x"),
        ("prompts=[x.jsonl]", "prompts.path=x.jsonl"),
        ("train.lora=8", "train.lora.r=8"),
    ):
        said = problem(folder, RECIPE, override)
        assert said.startswith(f"command line: {override.split('=')[0]}: found ")
        assert f"write `{write}` (keys: " in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {use: 3}", "train.use: found 3; expected a name, one of: dpo, "),
        ("teacher: 3", "teacher: found 3; expected `use: NAME`"),
        ("evaluate: {also: x}", "evaluate.also: found 'x'; expected a list"),
        ("student: {chat_template_kwargs: x}", "chat_template_kwargs: found 'x'; expected a mapping of keys to values"),
    ],
)
def test_other_values_in_the_wrong_form_are_worded_without_names_of_classes(folder, text, message):
    recipe = "".join(line for line in RECIPE.splitlines(keepends=True) if not line.startswith(text.split(":")[0]))
    assert message in problem(folder, f"{recipe}{text}\n")


def test_a_rubric_mistake_is_found_before_anything_runs(folder):
    found = problem(folder, RECIPE, rubric=RUBRIC.replace("unit", "unti"))
    assert "rubric.yaml:4: criteria.length.unti: unknown key; did you mean `unit`?" in found


def test_overrides_are_yaml_merged_before_validation(folder, monkeypatch):
    recipe = load_recipe(folder / "recipe.yaml", ["loop.rounds=2", "pair.min_margin=0.2", "train.beta=0.3", "seed=3"])
    assert (recipe.loop.rounds, recipe.pair.min_margin, recipe.train.trainer.beta, recipe.seed) == (2, 0.2, 0.3, 3)
    assert load_recipe(folder / "recipe.yaml", ["train.learning_rate=1e-4"]).train.trainer.learning_rate == 1e-4
    assert "command line: loop.rouns: unknown key; did you mean `rounds`?" in problem(folder, RECIPE, "loop.rouns=2")
    assert "expected key=value" in problem(folder, RECIPE, "loop.rounds")
    assert "name is no section" in problem(folder, RECIPE, "name.x.y=2")


def test_a_path_on_the_command_line_is_relative_to_the_working_directory(folder, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "mine.jsonl").write_text('{"prompt": "x"}\n')
    monkeypatch.chdir(elsewhere)
    recipe = load_recipe(folder / "recipe.yaml", ["prompts.path=mine.jsonl"])
    assert recipe.prompts.path == elsewhere / "mine.jsonl"


def test_the_resolved_recipe_runs_again_from_anywhere_and_holds_no_secret(folder, tmp_path_factory, monkeypatch):
    from prefdistill.documents import render_yaml

    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    text = RECIPE + "teacher: {use: openai, model: m, base_url: 'http://localhost:1/v1', api_key_env: MY_KEY}\n"
    (folder / "recipe.yaml").write_text(text)
    recipe = load_recipe(folder / "recipe.yaml")
    dumped = render_yaml({**recipe.resolved(), "rubric": str(folder / "rubric.yaml")})
    assert "sk-very-secret" not in dumped
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "again.yaml"
    elsewhere.write_text(dumped)
    again = load_recipe(elsewhere)
    old, new = recipe.resolved(), again.resolved()
    old.pop("rubric"), new.pop("rubric")
    assert differing_keys(old, new) == []


def test_differing_and_operational_keys(folder):
    before = load_recipe(folder / "recipe.yaml")
    after = load_recipe(folder / "recipe.yaml", ["pair.min_margin=0.3", "loop.rounds=9"])
    lines = differing_keys(before.resolved(), after.resolved())
    assert any(line.startswith("pair.min_margin: None → 0.3") for line in lines)
    assert any(line.startswith("loop.rounds: 5 → 9") for line in lines)
    assert "loop.rounds" in operational_keys(before)
    assert "train.micro_batch" in operational_keys(before)
    assert "pair.min_margin" not in operational_keys(before)


def test_a_custom_judge_next_to_the_recipe_and_a_typo_in_its_options(folder):
    (folder / "house_style.py").write_text(
        "from prefdistill import Plugin\n"
        "class HouseStyle(Plugin):\n"
        "    max_words: int = 120\n"
        "    def judge(self, prompt, drafts, rubric):\n"
        "        return [float(len(d.completion.split()) <= self.max_words) for d in drafts]\n"
    )
    good = RECIPE.replace("{use: checks}", '{use: "house_style.py:HouseStyle", max_words: 90}')
    (folder / "recipe.yaml").write_text(good)
    assert load_recipe(folder / "recipe.yaml").judge.max_words == 90
    found = problem(folder, good.replace("max_words", "max_word"))
    assert "recipe.yaml:6: judge.max_word: unknown key; did you mean `max_words`? (keys: max_words)" in found


def test_a_server_that_keeps_the_old_student_is_refused_online(folder):
    text = RECIPE + "sample: {use: openai, model: s, base_url: 'http://localhost:1/v1'}\n"
    assert "from round 2 the server would go on serving the old student" in problem(folder, text)
    (folder / "recipe.yaml").write_text(text)
    assert load_recipe(folder / "recipe.yaml", ["loop.mode=offline"]).loop.mode == "offline"
    assert load_recipe(folder / "recipe.yaml", ["sample.adapter_sync=vllm"]).loop.rounds == 5


def test_one_rubric_per_kind(folder):
    (folder / "edit.yaml").write_text(RUBRIC.replace("name: r", "name: edit"))
    text = RECIPE.replace("rubric: rubric.yaml", "rubric: {column: task, email: rubric.yaml, edit: edit.yaml}")
    (folder / "recipe.yaml").write_text(text)
    assert load_recipe(folder / "recipe.yaml").rubrics.kinds == ("email", "edit")
    assert "expected `{column: NAME" in problem(folder, RECIPE.replace("rubric: rubric.yaml", "rubric: {column: task}"))


def test_the_schema_names_every_key_and_the_options_of_built_in_plugins():
    schema = recipe_schema()
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert {"use", "drafts", "drafts_from", "weights"} <= set(schema["$defs"]["SampleSection"]["properties"])
    assert {"use", "beta", "reference", "mix_past"} <= set(schema["$defs"]["TrainSection"]["properties"])
    json.dumps(schema)


SHIPPED = [path for path in sorted((ROOT / "recipes").glob("*.yaml")) if path.name != "plan.yaml"]
"""The example plan beside them is no recipe; tests/plan reads it."""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_recipe_is_valid(path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "not-used")
    recipe = load_recipe(path)
    assert recipe.name == path.stem


def test_there_are_shipped_recipes():
    assert {path.stem for path in (ROOT / "recipes").glob("*.yaml")} >= {
        "quickstart",
        "email-online",
        "email-offline",
        "edit-online",
    }


def test_email_recipes_differ_only_in_where_drafts_come_from(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", os.environ.get("OPENAI_API_KEY", "x"))
    online, offline = (
        load_recipe(ROOT / "recipes" / f"email-{mode}.yaml").resolved() for mode in ("online", "offline")
    )
    assert [line.split(":")[0] for line in differing_keys(online, offline)] == ["loop.mode", "name"]


@pytest.mark.parametrize("confirm", ["best_worst", "swiss"])
def test_pairs_that_would_not_be_compared_are_refused(confirm):
    path = ROOT / "recipes" / "email-online.yaml"
    overrides = [f"judge.confirm={confirm}", "pair.strategy=all_above_margin"]
    with pytest.raises(PrefdistillError, match="round_robin"):
        load_recipe(path, overrides)
    for fine in ("round_robin", "none"):
        load_recipe(path, [f"judge.confirm={fine}", "pair.strategy=all_above_margin"])
