"""Whole runs with reasoning: it is trained on, measured exactly, parted from drafts, and no judge ever sees it."""

import json
import shutil

import pytest
from rich.console import Console

from prefdistill.assembly import load_recipe_prompts
from prefdistill.costs.estimate import estimate_run
from prefdistill.errors import RunError
from prefdistill.export import command
from prefdistill.loop import run_recipe
from prefdistill.preview import show_preview
from prefdistill.protocols import no_progress
from prefdistill.recipe import load_recipe
from prefdistill.records import Answer, Draft, Drop, PreferencePair
from prefdistill.run import RowFile
from prefdistill.stored import stored_run_traced
from prefdistill.traces import TAGS, empty_block
from prefdistill.using.chat import chat
from prefdistill.using.drafts import draft
from prefdistill.using.retraining import retrain
from tests.conftest import ROOT, TINY

pytestmark = pytest.mark.slow

WARM = (
    *("warm_start.use=traces", "warm_start.prompts=24", "warm_start.batch_size=4", "warm_start.learning_rate=2e-3"),
    *("loop.rounds=1", "sample.max_new_tokens=160"),
)
PLUGINS = '''
from prefdistill import Plugin
from prefdistill.samplers.transformers import TransformersSampler


class Thinking(TransformersSampler):
    """The student's own drafts, with reasoning put in front: what a student that has learned it writes."""

    def sample(self, policy, requests):
        for each in super().sample(policy, requests):
            yield each.__class__(**{**vars(each), "trace": "<think>\\nthe hidden premise\\n</think>\\n\\n"})


class Nosy(Plugin):
    """A judge that fails as soon as anything of the reasoning is in what it is given."""

    def judge(self, prompt, drafts, rubric):
        given = "".join(draft.model_dump_json() for draft in drafts)
        assert "think>" not in given and "hidden premise" not in given and "They should" not in given, given
        return [float(len(set(draft.completion))) for draft in drafts]
'''


def rows(path, kind):
    return list(RowFile(path, kind).read().values())


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    path = folder / "tiny.yaml"
    path.write_text(TINY.format(root=ROOT, cache=folder / "cache"))
    (folder / "own.py").write_text(PLUGINS)
    return path


@pytest.fixture(scope="module")
def finished(recipe_file):
    """A run by mode of the student's reasoning: on, off."""
    found = {}
    for mode in ("on", "off"):
        recipe = load_recipe(recipe_file, [*WARM, f"student.trace={mode}"])
        run_recipe(recipe, recipe_file.parent / mode)
        found[mode] = recipe_file.parent / mode
    return found


def test_both_modes_begin_with_the_same_warm_start(finished):
    first, second = (folder / "round-01" / "5-policy" / "adapter_model.safetensors" for folder in finished.values())
    assert first.read_bytes() == second.read_bytes()
    answers = rows(finished["on"] / "round-01" / "4-answers.jsonl", Answer)
    assert 0 < sum(bool(each.trace) for each in answers) < len(answers) == 24
    assert {each.block for each in answers if not each.trace} == {empty_block(TAGS)}
    assert not any("think>" in each.completion for each in answers)


@pytest.mark.parametrize("mode", ["on", "off"])
def test_a_round_after_it_measures_exactly_what_was_sampled(finished, mode):
    trained = json.loads((finished[mode] / "round-02" / "5-policy" / "train.json").read_text())
    assert trained["diagnostics"]["sampler_gap"] < 1e-5
    assert trained["diagnostics"]["first_tokens_differing"] == 0.0
    assert trained["first_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert (finished[mode] / "round-02" / "6-kl.json").exists()


@pytest.mark.parametrize("mode", ["on", "off"])
def test_it_is_trained_again_to_the_same_policy(finished, mode, tmp_path):
    shutil.copytree(finished[mode], tmp_path / "run")
    again = retrain(tmp_path / "run", 2, no_progress)
    assert again.last.equal_bytes or again.last.gap < 1e-4


@pytest.mark.parametrize("mode", ["on", "off"])
def test_the_export_is_verified_and_its_card_says_how_it_reasons(finished, mode, tmp_path):
    lines: list[str] = []
    wanted = command.Wanted(folder=tmp_path / "out", probes=2, round=2)
    command.export_run(finished[mode], wanted, lines.append, lambda text: False)
    assert any(line.startswith("loss: 0.0000") for line in lines), lines
    card = (tmp_path / "out" / "README.md").read_text()
    assert "a teacher's reasoning and answers" in card
    assert '"<think>\\n\\n</think>\\n\\n"' in card
    assert ("an empty trace: it answers without reasoning" in card) == (mode == "off")


def test_drafts_and_chats_switch_it_off(finished, capsys, monkeypatch):
    assert draft(finished["on"], "Write to Ada.", None, 1, 1, None, None, True, no_trace=True) == 0
    assert "think>" not in json.loads(capsys.readouterr().out)["completion"]
    lines = iter(["Write to Ada.", "/no-trace", "Write to Ada.", "/quit"])
    monkeypatch.setattr("builtins.input", lambda *_: next(lines))
    chat(finished["on"], 1, 0.0, False, no_trace=True)
    said = capsys.readouterr().out
    assert "reasoning off" in said.splitlines()[0]
    assert "reasoning on" in said


def test_a_run_without_reasoning_has_nothing_to_switch_off(recipe_file, tmp_path):
    run_recipe(load_recipe(recipe_file, ["loop.rounds=0"]), tmp_path / "plain")
    with pytest.raises(RunError, match="was not trained to reason"):
        stored_run_traced(tmp_path / "plain", no_trace=True)
    assert "trace" not in (tmp_path / "plain" / "recipe.yaml").read_text()


@pytest.mark.parametrize("trace", ["keep", "strip", "summary"])
def test_no_judge_of_a_run_sees_any_of_it(recipe_file, tmp_path, trace):
    own = recipe_file.parent / "own.py"
    overrides = [*WARM, f"warm_start.trace={trace}", "warm_start.prompts=8", "warm_start.steps=1"]
    judges = [f"{key}.use={own}:Nosy" for key in ("judge", "evaluate.judge", "evaluate.gold")]
    gates = tmp_path / "rubric.yaml"
    gates.write_text(
        "name: asked\npurpose: A test.\ngates:\n  - {name: fine, question: Is it fine?, pass_when: 'yes'}\n"
        "criteria:\n  - {name: good, question: Is it good?, levels: ['no', 'yes']}\n"
    )
    sampler = [f"sample.use={own}:Thinking"] if trace != "strip" else []
    recipe = load_recipe(
        recipe_file, [*overrides, *judges, *sampler, f"rubric={gates}", "pair.min_margin=0.5", "train.batch_size=2"]
    )
    show_preview(recipe, 2, Console(record=True, width=200, file=(tmp_path / "shown").open("w")))
    run_recipe(recipe, tmp_path / "run")
    written = rows(tmp_path / "run" / "round-01" / "1-drafts.jsonl", Draft)
    assert all("They should" in each.trace for each in written)
    assert not rows(tmp_path / "run" / "round-01" / "4-drops.jsonl", Drop)
    pairs = rows(tmp_path / "run" / "round-02" / "4-pairs.jsonl", PreferencePair)
    assert pairs
    assert all(("hidden premise" in each.chosen_trace) == (trace != "strip") for each in pairs)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "hidden premise" not in page
    assert "They should" not in page


def test_replies_that_cannot_be_read_are_counted_drops(recipe_file, tmp_path):
    (recipe_file.parent / "odd.py").write_text(
        "from prefdistill import Plugin\nfrom prefdistill.protocols import Reply\n"
        "from prefdistill.sandbox.plugins import SandboxTeacher\n\n\n"
        "class Odd(Plugin):\n    '''Leaves its reasoning open on every second prompt.'''\n\n"
        "    def replies(self, requests):\n"
        "        for number, each in enumerate(SandboxTeacher().replies(requests)):\n"
        "            text = each.text.replace('</think>', '') if number % 2 else each.text\n"
        "            yield Reply(each.key, text, each.finish_reason, each.usage)\n"
    )
    odd = f"teacher.use={recipe_file.parent / 'odd.py'}:Odd"
    recipe = load_recipe(recipe_file, [*WARM, odd, "loop.rounds=0"])
    outcome = run_recipe(recipe, tmp_path / "odd")
    assert outcome.rounds[1].pairs == 12
    assert outcome.rounds[1].drops == {"unreadable": 12}
    drops = rows(tmp_path / "odd" / "round-01" / "4-drops.jsonl", Drop)
    assert all("never closed: no </think>" in each.detail for each in drops)


def test_the_longer_replies_are_priced(recipe_file):
    paid = [
        "teacher={use: openai, model: m, base_url: 'http://localhost:1/v1', usd_per_million: {input: 1, output: 10}}"
    ]
    figures = {}
    for use in ("outputs", "traces"):
        recipe = load_recipe(recipe_file, [*WARM, *paid, f"warm_start.use={use}", "warm_start.prompts=24"])
        estimate = estimate_run(recipe, load_recipe_prompts(recipe)[0])
        (figures[use],) = [line for line in estimate.lines if line.stage == "sample" and "answers" in line.what]
    plain, reasoned = figures["outputs"], figures["traces"]
    assert reasoned.what == "teacher's reasoning and answers"
    assert reasoned.completion_tokens == plain.completion_tokens + 24 * 1.5 * 80
    assert reasoned.most_completion_tokens == plain.most_completion_tokens + 24 * 1024
    assert reasoned.prompt_tokens > plain.prompt_tokens + 24 * 50


def test_answers_that_the_student_could_never_write_to_their_end_are_dropped(recipe_file, tmp_path):
    overrides = [*WARM, "sample.max_new_tokens=90", "warm_start.answers=2", "loop.rounds=0", "warm_start.steps=1"]
    run_recipe(load_recipe(recipe_file, overrides), tmp_path / "short")
    drops = rows(tmp_path / "short" / "round-01" / "4-drops.jsonl", Drop)
    assert {each.reason for each in drops} == {"too_long"}
    assert "sample.max_new_tokens is 90" in drops[0].detail
    answers = rows(tmp_path / "short" / "round-01" / "4-answers.jsonl", Answer)
    assert answers
    assert not {each.prompt_id for each in answers} & {each.prompt_id for each in drops}


def test_a_student_that_learned_to_reason_does_and_is_measured_exactly(recipe_file, tmp_path):
    learn = [
        "warm_start.prompts=96",
        "warm_start.batch_size=8",
        "warm_start.epochs=12",
        "warm_start.learning_rate=1e-3",
    ]
    round_two = [
        "sample.max_new_tokens=200",
        "sample.temperature=0.7",
        "loop.prompts_per_round=24",
        "train.batch_size=2",
    ]
    recipe = load_recipe(recipe_file, [*WARM, *learn, *round_two])
    outcome = run_recipe(recipe, tmp_path / "run")
    drafts = rows(tmp_path / "run" / "round-02" / "1-drafts.jsonl", Draft)
    reasoned = [each for each in drafts if each.trace and each.completion]
    assert len(reasoned) > len(drafts) / 2
    assert all(each.trace.startswith("<think>") and each.trace.rstrip().endswith("</think>") for each in reasoned)
    assert not any("<think>" in each.completion for each in reasoned)
    assert all(each.finish_reason == "length" for each in drafts if each.trace and not each.completion)
    assert outcome.rounds[1].gold > outcome.rounds[0].gold
    assert outcome.rounds[2].train.diagnostics["sampler_gap"] < 1e-3
