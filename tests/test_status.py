"""`prefdistill status`: what is done and owed, read from files that are whole, torn, damaged or of another version."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from prefdistill.errors import RunError
from prefdistill.protocols import learns_from
from prefdistill.run import RunDirectory
from prefdistill.sections import WarmStartSection
from prefdistill.status import read_status
from prefdistill.status.counting import ANSWERS, WARM_PROMPTS
from prefdistill.status.showing import to_json

RECIPE = """
name: mail
seed: 3
sample: {use: transformers, drafts: 2}
judge: {use: checks}
evaluate: {baselines: [base], judge: {use: sandbox_held_out}}
loop: {mode: online, rounds: 3, prompts_per_round: 2, stop: {flip_rate: 0.25}}
prompts: {path: prompts.jsonl}
budget: {usd: 5}
"""


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def result(number, **values):
    return {"round": number, "drafts": 0, "judged": 0, "failed": 0, "pairs": 0, **values}


def mark(folder, **rows):
    put(folder / "fingerprints.json", {name: {"fingerprint": "f", "rows": count} for name, count in rows.items()})


@pytest.fixture
def run(tmp_path):
    """A run of three rounds: one is finished, the second is at its verdicts."""
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.recipe.write_text(RECIPE)
    put(run.manifest, {"name": "mail", "versions": {"prefdistill": "0.1.0"}, "recipe": {}})
    prompts = [{"id": f"t{i}", "split": "train"} for i in range(4)]
    prompts += [{"id": f"v{i}", "split": "validation"} for i in range(3)] + [{"id": "x0", "split": "test"}]
    lines(run.prompts, prompts)
    for kind in ("drafts", "verdicts", "held-out"):
        lines(
            run.baselines / f"base-validation-{kind}.jsonl", [{"id": f"v{i}", "prompt_id": f"v{i}"} for i in range(3)]
        )
    put(run.baselines / "round.json", result(0, held_out_score=0.4))
    first, second = run.round(1), run.round(2)
    ids = {number: sorted(_train(run, number)) for number in (1, 2)}
    lines(first / "1-drafts.jsonl", [{"id": f"{p}/{i}", "prompt_id": p} for p in ids[1] for i in range(2)])
    lines(first / "2-verdicts.jsonl", [{"prompt_id": p, "failures": []} for p in ids[1]])
    lines(first / "4-pairs.jsonl", [{"id": f"{p}-pair", "prompt_id": p} for p in ids[1]])
    put(first / "5-policy" / "train.json", {"steps": 5})
    mark(first, drafts=4, verdicts=2, policy=2)
    finding = {"check": "flip_rate", "level": "warn", "message": "the order decided 20 %"}
    put(first / "round.json", result(1, held_out_score=0.6, findings=[finding], warnings=["3 drafts were cut"]))
    lines(second / "1-drafts.jsonl", [{"id": f"{p}/{i}", "prompt_id": p} for p in ids[2] for i in range(2)])
    failed = {"prompt_id": ids[2][0], "failures": [{"kind": "provider"}]}
    lines(second / "2-verdicts.jsonl", [failed])
    mark(second, drafts=4, verdicts=None)
    return run


def _train(run, number):
    from prefdistill.status.counting import World
    from prefdistill.status.files import Files

    files = Files(run.path)
    return World(files, files.recipe(run.recipe), {"train": [f"t{i}" for i in range(4)]}).train_ids(number)


def steps(status, name):
    return {step.name: step for step in next(part for part in status.parts if part.name == name).steps}


def test_what_is_done_and_what_is_owed(run):
    status = read_status(run.path)
    assert [(part.name, part.state) for part in status.parts] == [
        ("base", "done"),
        ("round 1", "done"),
        ("round 2", "begun"),
        ("round 3", "owed"),
        ("test", "owed"),
    ]
    second = steps(status, "round 2")
    assert (second["drafts"].state, second["drafts"].done, second["drafts"].of) == ("done", 4, 4)
    assert (second["verdicts"].state, second["verdicts"].done, second["verdicts"].of) == ("begun", 0, 2)
    assert second["verdicts"].note == "1 failed and are asked again"
    assert second["pairs"].state == second["training"].state == "owed"
    assert steps(status, "round 1")["training"].done == 5
    assert (status.best_round, status.kept, status.finished, status.damage) == (1, False, False, [])
    assert status.part(1).score == 0.6
    assert status.command == f"prefdistill run {run.recipe} --run {run.path}"


def test_training_says_its_step_and_from_which_whole_checkpoint_it_would_go_on(run):
    folder = run.round(2) / "5-policy"
    lines(folder / "metrics.jsonl", [{"step": step, "loss": 0.6} for step in (1, 2, 3)])
    for step in (1, 2):
        saved = folder / "checkpoints" / f"checkpoint-{step}"
        put(saved / "trainer_state.json", {"global_step": step, "max_steps": 8})
        for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
            _archive(saved / name)
    (saved / "optimizer.pt").unlink()
    training = steps(read_status(run.path), "round 2")["training"]
    assert (training.state, training.done, training.of) == ("begun", 3, 8)
    assert training.note == "a resumed training goes on after step 1"


def test_a_checkpoint_of_several_processes_has_random_states_of_each(run):
    run.recipe.write_text(RECIPE + "train: {use: dpo, launch: {processes: 2}}\n")
    saved = run.round(2) / "5-policy" / "checkpoints" / "checkpoint-2"
    put(saved / "trainer_state.json", {"global_step": 2, "max_steps": 8})
    for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
        _archive(saved / name)
    assert steps(read_status(run.path), "round 2")["training"].done == 0
    _archive(saved / "rng_state_1.pth")
    assert steps(read_status(run.path), "round 2")["training"].note == "a resumed training goes on after step 2"


def _archive(path):
    import zipfile

    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", "x")


def test_torn_damaged_and_foreign_files_are_named_and_nothing_is_changed(run):
    drafts = run.round(2) / "1-drafts.jsonl"
    drafts.write_text(drafts.read_text() + '{"id": "torn')
    verdicts = run.round(1) / "2-verdicts.jsonl"
    verdicts.write_text("not a row\n" + verdicts.read_text())
    (run.baselines / "round.json").write_text("{")
    put(run.manifest, {"name": "mail", "versions": {"prefdistill": "9.0"}, "future": [1], "recipe": None})
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    status = read_status(run.path)
    assert steps(status, "round 2")["drafts"].done == 4
    assert status.version == "9.0"
    assert [each.split(":")[0] for each in status.damage] == ["baselines/round.json", "round-01/2-verdicts.jsonl"]
    assert "line 1" in status.damage[1]
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_stop_rule_ends_the_run_and_the_rounds_after_it_are_not_owed(run):
    stop = {"check": "flip_rate", "level": "stop", "message": "the order decided 40 %"}
    put(run.round(1) / "round.json", result(1, rubric_score=0.9, findings=[stop]))
    put(run.baselines / "round.json", result(0, rubric_score=0.4))
    for path in run.round(2).iterdir():
        path.unlink()
    run.round(2).rmdir()
    status = read_status(run.path)
    assert status.stopped == "after round 1 by loop.stop.flip_rate: the order decided 40 %"
    assert [part.state for part in status.parts] == ["done", "done", "not run", "not run", "owed"]
    assert status.best_round == 0, "without a held-out judge a condemned round is not chosen"
    run.recipe.write_text(RECIPE.replace("stop: {flip_rate: 0.25}", "stop: never"))
    status = read_status(run.path)
    assert (status.stopped, status.best_round) == ("", 1)


def test_the_best_round_so_far_is_the_guard_s(run):
    """Once a stop rule has spoken, a gain within its standard error does not replace the base."""
    stop = {"check": "flip_rate", "level": "stop", "message": "the order decided 40 %"}
    kept = result(1, held_out_score=0.42, diagnostics={"held_out_gain_se": 0.03})
    put(run.round(1) / "round.json", kept)
    assert read_status(run.path).best_round == 1
    put(run.round(1) / "round.json", {**kept, "findings": [stop]})
    assert read_status(run.path).best_round == 0
    put(run.round(1) / "round.json", {"round": 1, "held_out_score": 0.9, "of_another_version": 1})
    status = read_status(run.path)
    assert (status.best_round, status.part(1).state) == (0, "done")
    assert status.damage[0].startswith("round-01/round.json: no result that this version reads")


def finish(run, *numbers):
    """Add what a run that ended after the last of these rounds leaves."""
    for number in numbers:
        mark(run.round(number), drafts=4, verdicts=2, policy=2)
        put(run.round(number) / "round.json", result(number, held_out_score=0.5))
    put(run.result, {"best_round": 1, "rounds": [{"round": each} for each in range(max(numbers) + 1)], "stopped": None})
    run.report.write_text("<p>")


def test_a_finished_run_owes_nothing(run):
    finish(run, 2, 3)
    status = read_status(run.path)
    assert status.finished and status.kept and status.best_round == 1
    assert {part.state for part in status.parts} == {"done"}
    assert status.command == ""


def test_a_result_of_fewer_rounds_than_the_recipe_asks_for_is_old(run):
    finish(run, 2)
    lines(run.test(1) / "drafts.jsonl", [{"id": "x0/0", "prompt_id": "x0"}])
    for rounds_there in (2, 3):
        status = read_status(run.path)
        assert (status.finished, status.kept, status.best_round) == (False, False, 1)
        assert [part.state for part in status.parts[3:]] == ["owed" if rounds_there == 2 else "done", "begun"]
        assert status.command == f"prefdistill run {run.recipe} --run {run.path}"
        mark(run.round(3), drafts=4, verdicts=2, policy=2)
        put(run.round(3) / "round.json", result(3, held_out_score=0.5))
    run.recipe.write_text(RECIPE.replace("rounds: 3", "rounds: 2"))
    status = read_status(run.path)
    assert (status.finished, status.kept, status.command) == (True, True, "")


def test_a_run_without_pairs_for_its_next_round_is_finished(run):
    put(run.result, {"best_round": 1, "rounds": [{"round": 0}, {"round": 1}], "stopped": "stopped before round 2: few"})
    run.report.write_text("<p>")
    status = read_status(run.path)
    assert (status.finished, status.stopped) == (True, "stopped before round 2: few")
    assert [part.state for part in status.parts] == ["done", "done", "begun", "not run", "done"]
    (run.round(2) / "5-policy").mkdir()
    assert not read_status(run.path).finished, "it found pairs after all and trains"


def test_a_run_that_ends_with_an_error_has_no_result_and_is_told_how_to_get_one(run):
    stop = {"check": "flip_rate", "level": "stop", "message": "the order decided 40 %"}
    finish(run, 1)
    put(run.round(1) / "round.json", result(1, held_out_score=0.6, findings=[stop]))
    assert read_status(run.path).finished
    run.recipe.write_text(RECIPE.replace("rounds: 3", "on_stop: raise, rounds: 3"))
    status = read_status(run.path)
    assert (status.finished, status.kept) == (False, False)
    assert status.command.endswith(f"--run {run.path} loop.on_stop=keep_best")


def test_other_tasks_are_found_by_the_names_of_their_files(run):
    run.recipe.write_text(RECIPE.replace("evaluate: {", "evaluate: {also: [{name: other}], "))
    put(run.baselines / "round.json", {})
    lines(run.baselines / "base-also-other-drafts.jsonl", [{"id": "o/0", "prompt_id": "o"}])
    found = steps(read_status(run.path), "base")
    assert (found["base also-other-drafts"].state, found["base also-other-drafts"].done) == ("begun", 1)
    assert found["base also-other-verdicts"].state == "owed"
    lines(run.round(1) / "6-also-other-drafts.jsonl", [{"id": "o/0", "prompt_id": "o"}])
    assert steps(read_status(run.path), "round 1")["also-other-drafts"].done == 1


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(RunError, match=r"it holds no run \(no manifest.json\)"):
        read_status(tmp_path)
    with pytest.raises(RunError, match="no such folder"):
        read_status(tmp_path / "gone")


HOLD = """
import sys, time
from pathlib import Path
from prefdistill.run import RunDirectory
with RunDirectory(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_it_says_whether_another_process_works_there_and_a_killed_one_does_not(run):
    assert read_status(run.path).working is False
    assert not (run.path / ".lock").exists(), "looking creates nothing"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    assert read_status(run.path).working is True
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert read_status(run.path).working is False


def test_the_command_prints_it_and_loads_no_model_library(run, prefdistill):
    shown = prefdistill("status", run.path)
    assert shown.returncode == 0, shown.stderr
    assert "round 2  4       0 of 2" in shown.stdout
    assert "round 1: warn: flip_rate: the order decided 20 %" in shown.stdout
    assert "best so far: round 1, 0.600 by the held-out judge (base 0.400)" in shown.stdout
    assert f"to go on: prefdistill run {run.recipe} --run {run.path}" in shown.stdout
    found = json.loads(prefdistill("status", run.path, "--json").stdout)
    assert found == json.loads(json.dumps(to_json(read_status(run.path)))) | {"idle_seconds": found["idle_seconds"]}
    code = (
        "import sys; from pathlib import Path; from prefdistill.status import read_status\n"
        f"read_status(Path({str(run.path)!r}))\n"
        "print(sorted({'torch', 'transformers', 'trl', 'openai', 'numpy'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_its_words_of_a_recipe_are_those_of_the_trainers_and_the_sections():
    """`status` reads a run without loading a plug-in, and so says again what they are."""
    trainers = entry_points(group="prefdistill.trainers")
    assert set(ANSWERS) == {each.name for each in trainers if learns_from(each.load()) == "answers"}
    assert WarmStartSection.model_fields["prompts"].default == WARM_PROMPTS
