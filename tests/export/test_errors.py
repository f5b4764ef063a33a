"""What a user can get wrong: each an error that says what to do, and no half-written folder."""

import json
import re
import resource
import shutil

import pytest

from prefdistill.errors import PrefdistillError
from prefdistill.export.source import read_source
from prefdistill.export.verifying import why_not_judged

pytestmark = pytest.mark.xdist_group("export")


@pytest.fixture
def run(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def refuse(match, run, number=None):
    with pytest.raises(PrefdistillError, match=match):
        read_source(run, number)


def test_no_run_there(tmp_path):
    refuse("no such folder", tmp_path / "none")
    refuse("holds no run", tmp_path)


def test_a_run_that_is_not_finished(run):
    (run / "result.json").unlink()
    refuse("not finished.*--round", run)
    assert read_source(run, 1).kept is False


def test_rounds_that_are_not_there(run):
    refuse("no finished round 7; finished rounds: 1", run, 7)
    refuse("round 0 is the base", run, 0)


def test_the_base_is_the_kept_policy(run):
    policy = json.loads((run / "policy" / "policy.json").read_text())
    (run / "policy" / "policy.json").write_text(json.dumps({**policy, "adapter": None, "round": 0}))
    refuse("kept policy is the base.*--round", run)
    assert read_source(run, 1).policy.round == 1


def test_a_missing_adapter(run):
    (run / "policy" / "adapter_model.safetensors").unlink()
    refuse("no adapter there", run)


def test_a_base_that_moved(run):
    text = re.sub(r"model: .*student", "model: /nowhere/student", (run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(text)
    refuse("no folder /nowhere/student.*correct the place in", run)


def test_a_prompts_file_that_moved_does_not_matter(run):
    text = re.sub(r"path: .*quickstart.jsonl", "path: /nowhere/prompts.jsonl", (run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(text)
    assert read_source(run).prompts


def test_a_folder_that_holds_something_is_left_alone(run, export, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(PrefdistillError, match="there is something already"):
        export(run)
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_options_that_do_not_fit(run, export, tmp_path):
    for options, match in (
        ({"base": "original"}, "merged into nothing"),
        ({"dtype": "float16"}, "merged into nothing"),
        ({"with_data": True}, "goes with --push"),
        ({"max_loss": -1.0}, "0 or more"),
    ):
        with pytest.raises(PrefdistillError, match=match):
            export(run, **options)
    assert not (tmp_path / "out").exists()


def test_a_paid_judge_is_not_asked(run):
    text = (run / "recipe.yaml").read_text()
    paid = 'teacher: {use: openai, model: m, base_url: "http://127.0.0.1:9/v1", api_key_env: NO_KEY}\n'
    text = re.sub(r"teacher:\n(  .*\n)+", paid, text)
    assert why_not_judged(read_source(run), ask_paid=False) == ""
    (run / "recipe.yaml").write_text(re.sub(r"judge:\n  use: checks\n", "judge: {use: rubric}\n", text, count=1))
    assert "--judge asks it" in why_not_judged(read_source(run), ask_paid=False)
    assert why_not_judged(read_source(run), ask_paid=True) == ""


@pytest.mark.parametrize("options", [{"format": "adapter"}, {"format": "merged"}])
def test_a_full_disk_leaves_nothing(run, export, tmp_path, options):
    """A limit on file sizes stands in for a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(PrefdistillError, match="free space"):
            export(run, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [each.name for each in tmp_path.iterdir()] == ["run"]
