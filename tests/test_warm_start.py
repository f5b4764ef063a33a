"""The warm start: a first round on the teacher's answers, or on another run's pairs, before the rounds of the loop."""

import io
import json
import shutil

import pytest
from rich.console import Console

from prefdistill.artefacts import set_aside_from
from prefdistill.assembly import load_recipe_prompts, opened, train_prompts
from prefdistill.costs.steps import steps_of
from prefdistill.errors import RecipeError, RunError
from prefdistill.export.data import trained_pairs
from prefdistill.export.source import read_source
from prefdistill.forgetting import cannot_remove, plan_forgetting
from prefdistill.loop import run_recipe
from prefdistill.protocols import no_progress
from prefdistill.recipe import load_recipe
from prefdistill.records import Answer, Draft, PreferencePair, RoundResult, TrainResult
from prefdistill.reporting import read_stored
from prefdistill.run import RowFile, RunDirectory, read_json
from prefdistill.soundness import findings
from prefdistill.stages.report.markdown import render_markdown
from prefdistill.status import read_status, show_status
from prefdistill.using.retraining import retrain
from tests.conftest import ROOT, TINY

WARM = ("warm_start.use=outputs", "warm_start.prompts=24", "warm_start.batch_size=4", "warm_start.learning_rate=2e-3")


def rows(path, kind):
    return RowFile(path, kind).read()


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    path = folder / "tiny.yaml"
    path.write_text(TINY.format(root=ROOT, cache=folder / "cache"))
    return path


@pytest.fixture(scope="module")
def finished(recipe_file):
    """A run with a warm start and one round, shared by the tests that only read it: (folder, recipe)."""
    recipe = load_recipe(recipe_file, [*WARM, "loop.rounds=1", "train.mix_past={rounds: all, share: 0.5}"])
    run_recipe(recipe, recipe_file.parent / "warm")
    return recipe_file.parent / "warm", recipe


def test_the_rounds_follow_the_warm_start_and_measure_against_it(finished):
    folder, _ = finished
    first, second = (json.loads((folder / f"round-0{n}" / "round.json").read_text()) for n in (1, 2))
    assert first["warm_start"] and not second["warm_start"]
    assert first["train"]["start"]["adapter"] is None
    for role in ("start", "reference"):
        assert second["train"][role]["adapter"] == "round-01/5-policy"
    assert second["train"]["first_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert [each["round"] for each in json.loads((folder / "result.json").read_text())["rounds"]] == [0, 1, 2]


def test_the_round_samples_from_the_warm_started_student(finished):
    folder, _ = finished
    drafts = rows(folder / "round-02" / "1-drafts.jsonl", Draft).values()
    assert {draft.policy.adapter for draft in drafts} == {"round-01/5-policy"}


def test_answers_are_the_teachers_and_are_not_mixed_into_the_pairs(finished):
    folder, _ = finished
    answers = rows(folder / "round-01" / "4-answers.jsonl", Answer)
    trained = (folder / "round-02" / "5-policy" / "pair_ids.txt").read_text().split()
    assert len(answers) == 24
    assert trained
    assert set(trained) <= set(rows(folder / "round-02" / "4-pairs.jsonl", PreferencePair))


def test_prompts_of_the_rounds_are_those_without_a_warm_start(recipe_file):
    plain, warm = load_recipe(recipe_file), load_recipe(recipe_file, WARM)
    prompts = load_recipe_prompts(plain)[0]
    first, *others = train_prompts(warm, prompts)
    assert [[each.id for each in part] for part in others] == [
        [each.id for each in part] for part in train_prompts(plain, prompts)
    ]
    assert len(first) == 24
    assert {each.id for each in others[0]} <= {each.id for each in first}


def test_it_goes_on_and_is_read_by_status(finished, tmp_path):
    folder, recipe = finished
    copy = tmp_path / "warm"
    shutil.copytree(folder, copy)
    before = (copy / "round-01" / "5-policy" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(copy / "round-02")
    for name in ("result.json", "report.html"):
        (copy / name).unlink()
    status = read_status(copy)
    assert [(part.shown, part.state) for part in status.parts] == [
        ("base", "done"),
        ("round 1 (warm start)", "done"),
        ("round 2", "owed"),
        ("test", "begun"),
    ]
    run_recipe(recipe, copy)
    assert (copy / "round-01" / "5-policy" / "adapter_model.safetensors").read_bytes() == before
    assert rows(copy / "round-02" / "4-pairs.jsonl", PreferencePair) == rows(
        folder / "round-02" / "4-pairs.jsonl", PreferencePair
    )
    assert read_status(copy).finished


def test_status_log_and_report_call_it_by_one_name_and_its_answers_answers(finished):
    folder, _ = finished
    console = Console(file=io.StringIO(), width=80)
    show_status(read_status(folder), console)
    head, table, *rows = console.file.getvalue().splitlines()
    assert "tiny, online, warm start + 1 round;" in head
    assert table.split() == ["drafts", "verdicts", "trained", "on", "training", "evaluation", "score"]
    assert rows[1].startswith("round 1 (warm start)  24  ") and " 24 answers " in rows[1]
    assert rows[2].startswith("round 2 ") and " pairs " in rows[2]
    log = (folder / "log.txt").read_text()
    assert "round 1 (warm start): 24 drafts, 24 answers, judge" in log and "round 2: 24 drafts, " in log
    markdown = render_markdown(read_stored(folder).report)
    assert "| 1 (warm start" in markdown and "online, warm start + 1 round, seed 3" in markdown
    assert "online, warm start + 1 round, seed 3" in (folder / "report.html").read_text()


def test_forgetting_says_which_rounds_learned_answers_and_which_pairs(finished):
    folder, _ = finished
    answered = {row.prompt_id for row in rows(folder / "round-01" / "4-answers.jsonl", Answer).values()}
    paired = {row.prompt_id for row in rows(folder / "round-02" / "4-pairs.jsonl", PreferencePair).values()}
    both, alone = min(answered & paired), min(answered - paired)
    said = " ".join(cannot_remove(plan_forgetting(folder, both)))
    assert "round-01 trained on the teacher's answers to it, round-02 trained on its pairs; the adapters of" in said
    assert "hashes of its texts and of the teacher's answers to it and of its pairs" in said
    said = " ".join(cannot_remove(plan_forgetting(folder, alone)))
    assert "round-01 trained on the teacher's answers to it; the adapters of round-01, round-02" in said
    assert "its pairs" not in said


def test_it_is_trained_again_to_the_same_policy(finished, tmp_path):
    folder, _ = finished
    copy = tmp_path / "warm"
    shutil.copytree(folder, copy)
    again = retrain(copy, 2, no_progress)
    assert again.missing == 0
    assert not again.reasons
    stored = TrainResult.model_validate(read_json(copy / "round-02" / "5-policy" / "train.json"))
    assert again.last.round == 2
    assert stored.start.adapter == "round-01/5-policy"


def test_export_tells_of_both_and_gives_the_pairs(finished):
    folder, _ = finished
    source = read_source(folder, 2)
    assert source.learned_from == {"answers", "pairs"}
    assert {pair.round for pair in trained_pairs(source)} == {2}
    with pytest.raises(RunError, match="trained on the teacher's answers, so there are no pairs"):
        trained_pairs(read_source(folder, 1))


def test_alone_it_is_the_whole_run(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, [*WARM, "warm_start.prompts=8", "warm_start.steps=2", "loop.rounds=0"])
    outcome = run_recipe(recipe, tmp_path / "alone")
    assert [each.name for each in outcome.rounds] == ["base", "round 1 (warm start)"]
    assert outcome.rounds[1].train.steps == 2
    assert read_status(tmp_path / "alone").finished


def test_another_runs_pairs_are_taken_without_a_judge(finished, recipe_file, tmp_path):
    folder, _ = finished
    silent = tmp_path / "silent.py"
    silent.write_text(
        "from prefdistill import Plugin\n\n\nclass Silent(Plugin):\n    '''Refuses to judge training drafts.'''\n\n"
        "    def judge(self, prompt, drafts, rubric):\n"
        "        assert all(draft.purpose != 'train' for draft in drafts)\n        return [1.0 for _ in drafts]\n"
    )
    overrides = ["warm_start.use=dpo", f"warm_start.pairs_from={folder}", "warm_start.batch_size=2", "loop.rounds=0"]
    recipe = load_recipe(recipe_file, [*overrides, f"judge.use={silent}:Silent"])
    outcome = run_recipe(recipe, tmp_path / "taken")
    taken = rows(tmp_path / "taken" / "round-01" / "4-pairs.jsonl", PreferencePair)
    assert {pair.chosen for pair in taken.values()} == {
        pair.chosen for pair in rows(folder / "round-02" / "4-pairs.jsonl", PreferencePair).values()
    }
    assert outcome.rounds[1].train.start.adapter is None


def test_several_answers_a_prompt_are_all_trained_on_and_equal_ones_once(recipe_file, tmp_path):
    overrides = [*WARM, "warm_start.prompts=4", "warm_start.answers=3", "loop.rounds=0"]
    recipe = load_recipe(recipe_file, overrides)
    run_recipe(recipe, tmp_path / "several")
    folder = tmp_path / "several" / "round-01"
    assert len(rows(folder / "1-drafts.jsonl", Draft)) == 12
    answers = rows(folder / "4-answers.jsonl", Answer).values()
    texts = [(each.prompt_id, each.completion) for each in answers]
    assert len(texts) == len(set(texts)) >= 4


def test_it_is_priced_with_its_own_prompts_and_answers(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, [*WARM, "warm_start.answers=2"])
    steps = list(steps_of(recipe, load_recipe_prompts(recipe)[0], RunDirectory(tmp_path / "none")))
    written = [step for step in steps if step.what == "teacher's answers"]
    assert [(step.round, len(step.prompts), step.drafts) for step in written] == [(1, 24, 2)]
    sampled = [step for step in steps if step.what == "student's training drafts"]
    assert [step.round for step in sampled] == [2, 3]


def test_redoing_it_sets_the_rounds_aside_too(finished, tmp_path):
    folder, recipe = finished
    copy = tmp_path / "warm"
    shutil.copytree(folder, copy)
    run = RunDirectory(copy)
    with run.locked(), opened(recipe, run, no_progress, None) as shop:
        set_aside_from(shop, 1, "train")
    assert not (copy / "round-02").exists()
    assert (copy / "round-01" / "1-drafts.jsonl").exists()
    assert not (copy / "round-01" / "5-policy").exists()


def test_what_would_stop_a_round_is_a_warning_of_a_warm_start(finished):
    class Shop:
        recipe = finished[1]

    def make_round(number, diagnostics):
        return RoundResult(round=number, drafts=0, judged=0, failed=0, pairs=0, diagnostics=diagnostics)

    before = make_round(0, {"policy_distinct_2": 0.8, "base_distinct_2": 0.8})
    fallen = {
        "policy_distinct_2": 0.2,
        "base_distinct_2": 0.8,
        "policy_distinct_2_se": 0.001,
        "base_distinct_2_se": 0.001,
    }
    warm = make_round(1, {**fallen, "answers": 24.0, "kl": 250.0, "kl_standard_error": 1.0, "steps": 9.0})
    of_warm = findings(Shop, (before, warm))
    of_round = findings(Shop, (before, warm, make_round(2, fallen)))
    assert {each.level for each in of_warm} == {"warn"}
    (away,) = (each.message for each in of_warm if each.check == "update_too_large")
    assert away.endswith(
        "away from the policy that it started from, and its texts may fall apart; lower "
        "warm_start.learning_rate or warm_start.epochs"
    )
    assert "stop" in {each.level for each in of_round}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.reference=warm_start"], r"train\.reference is warm_start, and there is none"),
        (["loop.start_from=warm_start"], r"loop\.start_from is warm_start, and there is none"),
        ([*WARM, "loop.start_from=base"], r"would begin without the warm start"),
        ([*WARM, "teacher="], r"warm_start `outputs` learns from the teacher's answers"),
        (["warm_start.use=dpo"], r"warm_start `dpo` learns from pairs, and there are none before round 1"),
        ([*WARM, "warm_start.pairs_from=."], r"warm_start\.pairs_from names pairs, and `outputs` learns from answers"),
        ([*WARM, "loop.pairs_from=."], r"loop\.pairs_from takes every round's pairs"),
        (
            ["warm_start.use=outputs", "warm_start.propmts=3"],
            r"warm_start\.propmts: unknown key; did you mean `prompts`",
        ),
        (["warm_start.use=output"], r"did you mean `outputs`"),
        ([*WARM, "warm_start.prompts=0"], r"warm_start\.prompts"),
    ],
)
def test_recipes_that_do_not_fit_together_are_refused(recipe_file, overrides, message):
    if "teacher=" in overrides:
        overrides = [*overrides, "evaluate.baselines=[base]"]
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe_file, overrides)


def test_a_run_without_pairs_is_no_source(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, ["warm_start.use=dpo", f"warm_start.pairs_from={tmp_path / 'nowhere'}"])
    with pytest.raises(RunError, match=r"nowhere: warm_start\.pairs_from: no run there; expected a run"):
        run_recipe(recipe, tmp_path / "run")


def test_the_reference_can_be_set_and_is_written_out(recipe_file):
    assert load_recipe(recipe_file).reference == "base"
    assert load_recipe(recipe_file, WARM).reference == "warm_start"
    given = load_recipe(recipe_file, [*WARM, "train.reference=base"])
    assert given.reference == "base"
    assert given.resolved()["train"]["reference"] == "base"
    assert load_recipe(recipe_file, WARM).resolved()["train"]["reference"] == "warm_start"


def copied(finished, tmp_path):
    folder, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    return copy


TAKEN = ("warm_start.use=dpo", "warm_start.batch_size=2", "loop.rounds=0")


def test_another_runs_pairs_do_not_take_the_place_of_answers_that_were_paid_for(finished, recipe_file, tmp_path):
    folder, recipe = finished
    copy = copied(finished, tmp_path)
    before = (copy / "round-01" / "1-drafts.jsonl").read_bytes()
    other = load_recipe(recipe_file, [*TAKEN, f"warm_start.pairs_from={folder}"])
    with pytest.raises(RunError, match=r"round-01/drafts was made with other settings: .*--redo-from sample"):
        run_recipe(other, copy)
    assert (copy / "round-01" / "1-drafts.jsonl").read_bytes() == before
    assert run_recipe(recipe, copy).rounds[-1].round == 2, "undoing the change goes on"


@pytest.mark.slow
def test_answers_after_another_runs_pairs_are_the_teachers(finished, recipe_file, tmp_path):
    folder, _ = finished
    run = tmp_path / "taken"
    run_recipe(load_recipe(recipe_file, [*TAKEN, f"warm_start.pairs_from={folder}"]), run)
    answers = load_recipe(recipe_file, [*WARM, "loop.rounds=0"])
    with pytest.raises(RunError, match=r"--redo-from sample"):
        run_recipe(answers, run, redo_from="train")
    run_recipe(answers, run, redo_from="sample")
    drafts = rows(run / "round-01" / "1-drafts.jsonl", Draft).values()
    assert {draft.source for draft in drafts} == {"teacher"}
    left = {path.name for path in (run / "round-01").iterdir()}
    assert not left & {"2-verdicts.jsonl", "3-rankings.jsonl", "4-pairs.jsonl"}
    assert len(list((run / "replaced").glob("*/round-01/1-drafts.jsonl"))) == 1


@pytest.mark.slow
def test_pairs_of_another_source_are_refused_and_leave_everything_as_it_was(finished, recipe_file, tmp_path):
    folder, _ = finished
    run = tmp_path / "taken"
    recipe = load_recipe(recipe_file, [*TAKEN, f"warm_start.pairs_from={folder}"])
    run_recipe(recipe, run)
    before = {path.name: path.read_bytes() for path in sorted((run / "round-01").glob("*.jsonl"))}
    another = tmp_path / "another"
    run_recipe(load_recipe(recipe_file, ["loop.rounds=1", "seed=5"]), another)
    with pytest.raises(RunError, match=r"round-01/drafts was made with other settings: warm_start\.pairs_from"):
        run_recipe(load_recipe(recipe_file, [*TAKEN, f"warm_start.pairs_from={another}"]), run)
    assert {path.name: path.read_bytes() for path in sorted((run / "round-01").glob("*.jsonl"))} == before
