"""What can never be trained is refused before anything is written, and by `validate` and `--dry-run` too."""

import shutil
import socket
from pathlib import Path

import pytest
from rich.console import Console

from prefdistill.assembly import load_recipe_prompts
from prefdistill.console import show_estimate
from prefdistill.errors import PrefdistillError, RecipeError, RunError, TrainError
from prefdistill.loop import run_recipe
from prefdistill.readiness import require_trainable
from prefdistill.recipe import load_recipe
from prefdistill.run import Fingerprints, RunDirectory
from tests.conftest import ROOT

SANDBOX = ROOT / "prefdistill" / "sandbox"
TRAIN = 721
"""Train prompts of the tiny recipe."""


def logits(teacher: str | Path) -> str:
    return f"warm_start={{use: logits, prompts: 24, batch_size: 4, teacher: '{teacher}'}}"


def readiness(recipe, *overrides, run=None):
    loaded = load_recipe(recipe, overrides)
    return require_trainable(loaded, load_recipe_prompts(loaded)[0], run, fetch=False)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["warm_start={use: outputs, prompts: 2, batch_size: 16}"],
            "warm_start.prompts: 2 train prompts give at most 2 answers, fewer than one batch (warm_start.batch_size is "
            "16), so there would be nothing to train on once they are made; raise warm_start.prompts or "
            "warm_start.answers, or lower warm_start.batch_size",
        ),
        (
            ["warm_start={use: traces, prompts: 1, answers: 3, batch_size: 4}"],
            "warm_start.prompts: 1 train prompt with 3 answers each gives at most 3 answers, fewer than one batch",
        ),
        (
            ["warm_start={use: outputs, prompts: 2000, batch_size: 1000}"],
            f"{TRAIN} answers, fewer than one batch (warm_start.batch_size is 1000), so there would be nothing to train "
            f"on once they are made; add train prompts (there are {TRAIN}), raise warm_start.answers, or lower",
        ),
        (["train.batch_size=9"], "loop.prompts_per_round: 8 train prompts give at most 8 pairs, fewer than one batch"),
        (["train={use: outputs, batch_size: 9}"], "8 train prompts give at most 8 answers, fewer than one batch"),
        (
            ["warm_start={use: outputs, prompts: 4, batch_size: 4}", "train.batch_size=9"],
            "8 pairs, fewer than one batch (train.batch_size is 9)",
        ),
        (["pair.strategy=all_above_margin", "train.batch_size=25"], "at most 24 pairs, fewer than one batch"),
    ],
)
def test_a_round_that_cannot_fill_a_batch_is_refused(tiny_recipe, overrides, expected):
    with pytest.raises(RecipeError) as problem:
        readiness(tiny_recipe, *overrides)
    assert expected in str(problem.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.batch_size=8"],
        ["train.batch_size=9", "loop.rounds=0"],
        ["warm_start={use: outputs, prompts: 2, answers: 8, batch_size: 16}"],
        ["warm_start={use: outputs, prompts: 8, batch_size: 8}", "train.batch_size=9", "loop.rounds=0"],
        ["warm_start={use: dpo, prompts: 2, pairs_from: gone}"],
        ["pair.strategy=all_above_margin", "train.batch_size=24"],
    ],
)
def test_one_that_may_fill_it_is_not(tiny_recipe, overrides):
    assert readiness(tiny_recipe, *overrides) == ()


def test_rounds_that_are_done_want_nothing(tiny_recipe, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.round(1).mkdir(parents=True)
    (run.round(1) / "round.json").write_text("{}")
    assert readiness(tiny_recipe, "train.batch_size=9", run=run) == ()
    with pytest.raises(RecipeError, match="fewer than one batch"):  # its other first round is not done
        readiness(tiny_recipe, "warm_start={use: outputs, prompts: 2, batch_size: 4}", "train.batch_size=9", run=run)


def test_a_logits_teacher_is_compared_without_weights_and_without_a_network(tiny_recipe, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("weights were loaded, or a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("prefdistill.trainers.logits.load_base", refuse)
    assert readiness(tiny_recipe, logits("prefdistill.sandbox:teacher")) == ()
    with pytest.raises(TrainError, match=r"student_b and the student .* have different tokenizers"):
        readiness(tiny_recipe, logits("prefdistill.sandbox:student_b"))
    with pytest.raises(TrainError, match="have different tokenizers"):
        readiness(
            tiny_recipe,
            "teacher={use: local, model: 'prefdistill.sandbox:student_b'}",
            "warm_start={use: logits, prompts: 24, batch_size: 4}",
        )
    (tmp_path / "hollow").mkdir()
    with pytest.raises(TrainError, match=r"logits: teacher hollow: model: hollow cannot be loaded"):
        readiness(tiny_recipe, logits("hollow"))


def test_a_smaller_output_layer_is_found(tiny_recipe, tmp_path):
    other = shutil.copytree(SANDBOX / "teacher", tmp_path / "other")
    config = other / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 1344', '"vocab_size": 1300'))
    with pytest.raises(TrainError, match="output layers have 1,300 and 1,344 rows"):
        readiness(tiny_recipe, logits(other))


def test_a_model_on_the_hub_is_not_fetched_and_that_is_said(tiny_recipe, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    (line,) = readiness(tiny_recipe, logits("org/large"))
    assert line.startswith(
        "warm_start: not checked: whether the teacher has the student's tokenizer, because the teacher"
    )
    assert "the teacher org/large would have to be fetched" in line
    (line,) = readiness(tiny_recipe, logits("org/large"), "student.model=org/small")
    assert "because the student org/small and the teacher org/large would have to be fetched" in line
    (line,) = readiness(tiny_recipe, logits("not an id!"))
    assert "the teacher not an id! would have" in line


def test_a_model_in_the_hubs_cache_is_compared_from_there(tiny_recipe, tmp_path, monkeypatch):
    cached = {"org/large": SANDBOX / "teacher", "org/other": SANDBOX / "student_b", "org/half": tmp_path}
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda repo, name, revision=None: str(cached[repo] / name)
    )
    assert readiness(tiny_recipe, logits("org/large")) == ()
    with pytest.raises(TrainError, match=r"the teacher org/other and the student .* have different tokenizers"):
        readiness(tiny_recipe, logits("org/other"))
    (line,) = readiness(tiny_recipe, logits("org/half"))  # its configuration alone was fetched once
    assert "not checked" in line


def test_the_commands_say_so_and_a_run_leaves_no_folder(prefdistill, tiny_recipe, tmp_path):
    wrong, small = logits("prefdistill.sandbox:student_b"), "warm_start={use: outputs, prompts: 2, batch_size: 16}"
    for change, expected in ((wrong, "different tokenizers"), (small, "fewer than one batch")):
        for command in (["validate", tiny_recipe], ["run", tiny_recipe, "--dry-run"], ["run", tiny_recipe]):
            done = prefdistill(*command, change)
            assert done.returncode == 2
            assert done.stderr.startswith("error: ") and expected in done.stderr
            assert len(done.stderr.splitlines()) == 1
            assert ": valid" not in done.stdout and not list(tmp_path.glob("runs/*"))
    done = prefdistill("validate", tiny_recipe, logits("org/large"))
    assert done.returncode == 0
    assert "not checked: whether the teacher" in done.stdout and done.stdout.endswith(": valid\n")
    assert (
        "not checked: whether the teacher" in prefdistill("run", tiny_recipe, "--dry-run", logits("org/large")).stdout
    )


def test_what_a_run_folder_held_stays(tiny_recipe, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(PrefdistillError, match="fewer than one batch"):
        run_recipe(load_recipe(tiny_recipe, ["train.batch_size=9"]), tmp_path / "run")
    assert [each.name for each in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_preview_trains_nothing_and_wants_no_batch(prefdistill, tiny_recipe):
    done = prefdistill("run", tiny_recipe, "--preview", "1", "train.batch_size=64")
    assert done.returncode == 0, done.stderr
    assert "1 prompts, 3 drafts" in done.stdout


def test_a_dry_run_misses_the_run_whose_pairs_are_trained_on(tiny_recipe, tmp_path):
    console, run = Console(record=True, width=140), RunDirectory(tmp_path / "run")
    warm = load_recipe(tiny_recipe, ["warm_start={use: dpo, pairs_from: gone, batch_size: 4}"])
    with pytest.raises(RunError, match=r"gone: warm_start.pairs_from: no run there"):
        show_estimate(warm, run.path, console)
    with pytest.raises(RunError, match=r"gone: loop.pairs_from: no run there, and loop.rounds is 2"):
        show_estimate(load_recipe(tiny_recipe, ["loop.pairs_from=gone"]), run.path, console)
    assert not run.path.exists()
    Fingerprints(run.round(1)).note("policy", "f", rows=8)  # a warm start that is trained needs them no more
    show_estimate(warm, run.path, console)
    assert "no paid calls" in console.export_text()
