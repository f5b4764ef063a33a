"""Rounds made of another run's pairs: they are needed until the rounds are trained, and then no more."""

import shutil

import pytest
from rich.console import Console

from prefdistill.cli.running import validate
from prefdistill.console import show_estimate
from prefdistill.errors import RunError
from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.run import Fingerprints, RunDirectory, write_json
from prefdistill.sources import require_source
from tests.conftest import ROOT, TINY


@pytest.fixture(scope="module")
def replayed(tmp_path_factory):
    """A run of two rounds on another's pairs, and the other: (recipe file, run, source)."""
    folder = tmp_path_factory.mktemp("replayed")
    path, run, source = folder / "tiny.yaml", folder / "run", folder / "source"
    path.write_text(TINY.format(root=ROOT, cache=folder / "cache"))
    run_recipe(load_recipe(path), source)
    run_recipe(load_recipe(path, [f"loop.pairs_from={source}"]), run)
    return path, run, source


@pytest.fixture
def moved(replayed, tmp_path):
    """A copy of the run whose source is gone: (recipe, run, where its source was)."""
    path, run, source = replayed
    gone = tmp_path / "gone"
    shutil.copytree(source, gone)
    copy = shutil.copytree(run, tmp_path / "run")
    recipe = load_recipe(path, [f"loop.pairs_from={gone}"])
    run_recipe(recipe, copy)  # the other run may move
    shutil.rmtree(gone)
    return recipe, copy, gone


def files(run):
    return {path.name: path.read_bytes() for n in (1, 2) for path in sorted(run.glob(f"round-0{n}/[1-4]-*.jsonl"))}


def adapters(run):
    return [path.read_bytes() for path in sorted(run.glob("round-*/5-policy/adapter_model.safetensors"))]


@pytest.mark.slow
def test_a_finished_run_goes_on_without_its_source_and_is_redone_only_with_it(moved, replayed):
    recipe, run, gone = moved
    before, policies = files(run), adapters(run)
    (run / "result.json").unlink()
    assert run_recipe(recipe, run).rounds[-1].round == 2
    assert (files(run), adapters(run)) == (before, policies)
    for redo in ({"redo_from": "sample"}, {"redo_from": "judge"}, {"redo_from": "train", "redo_round": 2}):
        with pytest.raises(RunError, match=r"gone: loop\.pairs_from: no run there, and loop\.rounds is 2"):
            run_recipe(recipe, run, **redo)
    assert (files(run), adapters(run)) == (before, policies), "what could not be made again stays"
    run_recipe(recipe, run, redo_from="train")
    assert (files(run), adapters(run)) == (before, policies)
    with pytest.raises(RunError, match=r"gone: loop\.pairs_from: no run there, and loop\.rounds is 3"):
        run_recipe(load_recipe(replayed[0], [f"loop.pairs_from={gone}", "loop.rounds=3"]), run)


@pytest.mark.slow
def test_pairs_of_a_changed_source_are_refused_where_the_recipe_changed(replayed, tmp_path):
    path, run, source = replayed
    copy, other = shutil.copytree(run, tmp_path / "run"), shutil.copytree(source, tmp_path / "other")
    marks = Fingerprints(other / "round-01")
    marks.note("policy", "another", rows=8)
    with pytest.raises(RunError, match=r"round-01/drafts was made with other settings: loop\.pairs_from"):
        run_recipe(load_recipe(path, [f"loop.pairs_from={other}"]), copy)
    with pytest.raises(RunError, match="round-01/drafts was made"):  # half of what was shared by two
        run_recipe(load_recipe(path, [f"loop.pairs_from={source}", "loop.rounds=1"]), copy)
    assert files(copy) == files(run)


@pytest.mark.parametrize(
    ("trained", "redo", "needed"),
    [
        ((), {}, True),
        ((1,), {}, True),
        ((1, 2), {}, False),
        ((1, 2), {"redo_from": "sample"}, True),
        ((1, 2), {"redo_from": "judge"}, True),
        ((1, 2), {"redo_from": "train"}, False),
        ((1, 2), {"redo_from": "evaluate"}, False),
        ((1, 2), {"redo_from": "train", "redo_round": 2}, True),
        ((1, 2), {"redo_from": "evaluate", "redo_round": 2}, False),
        ((1, 2), {"redo_from": "evaluate", "redo_round": 1}, True),
    ],
)
def test_a_source_is_needed_while_a_round_is_not_trained(tiny_recipe, tmp_path, trained, redo, needed):
    run, recipe = RunDirectory(tmp_path / "run"), load_recipe(tiny_recipe, ["loop.pairs_from=gone"])
    for number in trained:
        Fingerprints(run.round(number)).note("policy", "f", rows=8)
    if not needed:
        return require_source(recipe, run, **redo)
    with pytest.raises(RunError, match=r"gone: loop\.pairs_from: no run there"):
        require_source(recipe, run, **redo)


def test_rounds_that_made_their_own_pairs_do_not_stand_for_a_source(tiny_recipe, tmp_path):
    run, recipe = RunDirectory(tmp_path / "run"), load_recipe(tiny_recipe, ["loop.pairs_from=gone"])
    for number in (1, 2):
        Fingerprints(run.round(number)).note("policy", "f", rows=8)
    write_json(run.manifest, {"recipe": {"loop": {"pairs_from": None}}})
    with pytest.raises(RunError, match="no run there"):
        require_source(recipe, run)
    write_json(run.manifest, {"recipe": {"loop": {"pairs_from": "elsewhere"}}})
    require_source(recipe, run)


def test_without_its_source_nothing_is_valid_or_written(tiny_recipe, tmp_path, capsys):
    for change, said in (
        ("loop.pairs_from=runs/nope", "runs/nope: loop.pairs_from: no run there, and loop.rounds is 2"),
        ("warm_start={use: dpo, pairs_from: runs/nope, batch_size: 4}", "runs/nope: warm_start.pairs_from: no run"),
    ):
        with pytest.raises(RunError) as dry:
            show_estimate(load_recipe(tiny_recipe, [change]), tmp_path / "deep" / "run", Console())
        with pytest.raises(RunError) as problem:
            validate(tiny_recipe, [change])
        assert ": valid" not in capsys.readouterr().out
        with pytest.raises(RunError) as run:
            run_recipe(load_recipe(tiny_recipe, [change]), tmp_path / "deep" / "run")
        assert str(problem.value) == str(run.value) == str(dry.value)
        assert said in str(run.value)
    assert not (tmp_path / "deep").exists()
