"""`run --round N --redo-from STAGE`: made again from there on, and what was there is kept."""

import json
import shutil

import pytest

from prefdistill.costs.estimate import _is_redone
from prefdistill.costs.steps import steps_of
from prefdistill.errors import RunError
from prefdistill.loop import Silent, run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.run import RunDirectory
from prefdistill.stages.load import Loaded
from tests.using.conftest import used as used

NAMES = ("1-drafts.jsonl", "2-verdicts.jsonl", "4-pairs.jsonl", "5-policy/adapter_model.safetensors", "6-drafts.jsonl")


@pytest.fixture
def copy(used, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(used[0], folder)
    return folder


def files(folder):
    return {f"{number}/{name}": folder / f"round-0{number}" / name for number in (1, 2) for name in NAMES}


def content(folder):
    return {name: path.read_bytes() for name, path in files(folder).items()}


@pytest.mark.parametrize(("stage", "first"), [("sample", 0), ("train", 2), ("evaluate", 4)])
def test_everything_from_there_on_is_made_again_and_nothing_before(used, copy, stage, first):
    before, stamps = content(copy), {name: path.stat().st_mtime_ns for name, path in files(copy).items()}
    run_recipe(load_recipe(used[1]), copy, redo_from=stage, redo_round=2)
    assert content(copy) == before, "the same machine makes the same"
    now = {name: path.stat().st_mtime_ns for name, path in files(copy).items()}
    # Pairs are pure: always written anew, like every file that is sorted at the end of its stage.
    policies = [f"{number}/{NAMES[3]}" for number in (1, 2)]
    assert [now[name] == stamps[name] for name in policies] == [True, stage == "evaluate"]
    (kept,) = (copy / "replaced").iterdir()
    assert {path.relative_to(kept).as_posix() for path in kept.glob("round-*/*")} >= {
        f"round-02/{name.split('/')[0]}" for name in NAMES[first:]
    }
    assert not list(kept.glob("round-01"))
    for name in NAMES[:first]:
        assert not (kept / "round-02" / name.split("/")[0]).exists()
    assert (kept / "result.json").exists()
    assert (copy / "result.json").exists()


def test_later_rounds_are_made_again_too(used, copy):
    run_recipe(load_recipe(used[1]), copy, redo_from="evaluate", redo_round=1)
    (kept,) = (copy / "replaced").iterdir()
    assert (kept / "round-02" / "1-drafts.jsonl").exists()
    assert not (kept / "round-01" / "5-policy").exists()
    assert content(copy) == content(used[0])


class Stopping(Silent):
    """Ends the run when it samples."""

    def progress(self, stage, done, total, note):
        raise KeyboardInterrupt


def test_a_redo_that_was_killed_is_finished_by_running_again(used, copy):
    with pytest.raises(KeyboardInterrupt):
        run_recipe(load_recipe(used[1]), copy, Stopping(), redo_from="judge", redo_round=1)
    assert not (copy / "result.json").exists()
    run_recipe(load_recipe(used[1]), copy)
    assert content(copy) == content(used[0])


def test_what_cannot_be_redone_is_refused_and_nothing_is_moved(used, copy):
    before = sorted(copy.rglob("*"))
    with pytest.raises(RunError, match=r"nothing to redo \(rounds 1 to 2 are there, loop.rounds is 2\)"):
        run_recipe(load_recipe(used[1]), copy, redo_from="train", redo_round=3)
    with pytest.raises(RunError, match=r"redoes with the run's own settings.*train.beta: 0.1 → 0.2.*leave --round out"):
        run_recipe(load_recipe(used[1], ["train.beta=0.2"]), copy, redo_from="train", redo_round=2)
    assert sorted(copy.rglob("*")) == before


def test_the_estimate_counts_what_was_made_before_as_done(used):
    recipe, run = load_recipe(used[1]), RunDirectory(used[0])
    from prefdistill.assembly import read_recipe_prompts

    prompts: Loaded = read_recipe_prompts(recipe)
    again = {
        (step.round, step.what): _is_redone(step, "judge", 2) for step in steps_of(recipe, prompts, run) if step.prompts
    }
    assert again[1, "training drafts"] is False
    assert again[2, "student's training drafts"] is False
    assert again[2, "training drafts"] is True
    assert again[2, "student's validation drafts"] is True
    assert again[0, "student's validation drafts"] is False


def test_round_without_a_stage_says_what_to_add(used, prefdistill):
    done = prefdistill("run", used[1], "--round", "2")
    assert done.returncode == 2
    assert "--redo-from" in done.stderr
    assert json.dumps("Traceback") not in done.stderr
