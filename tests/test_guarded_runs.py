"""Whole runs that the guard ends, that go on afterwards, or that are trained once more with a remedy."""

import json
import shutil

import pytest

from prefdistill.guard import StoppedError, best_round
from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.records import RoundResult
from prefdistill.run import read_json
from tests.conftest import ROOT, TINY

ALWAYS = ("loop.stop.update_too_large=-100", "loop.rounds=2")
"""Any update at all is then too large."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    path = folder / "tiny.yaml"
    path.write_text(TINY.format(root=ROOT, cache=folder / "cache"))
    return path


@pytest.fixture(scope="module")
def stopped(recipe):
    """A run that its first round ended."""
    run = recipe.parent / "stopped"
    run_recipe(load_recipe(recipe, ALWAYS), run)
    return run


def adapter(run, number):
    return (run / f"round-{number:02d}" / "5-policy" / "adapter_model.safetensors").read_bytes()


def test_a_stop_rule_ends_the_run_names_itself_and_the_best_round_is_kept_and_tested(stopped):
    result = read_json(stopped / "result.json")
    assert [each["round"] for each in result["rounds"]] == [0, 1]
    assert result["stopped"].startswith("stopped after round 1 by loop.stop.update_too_large")
    rounds = [stopped / "baselines" / "round.json", stopped / "round-01" / "round.json"]
    assert result["best_round"] == best_round([RoundResult.model_validate(read_json(path)) for path in rounds])
    assert result["test"]["score"] is not None
    assert "Ended early" in (stopped / "report.html").read_text()
    log = (stopped / "log.txt").read_text()
    assert "stop, update_too_large" in log and "round 1: check policies: ok" in log and "ended: round" in log
    findings = read_json(stopped / "round-01" / "round.json")["findings"]
    assert [(each["check"], each["level"]) for each in findings if each["level"] == "stop"] == [
        ("update_too_large", "stop")
    ]


@pytest.mark.slow
def test_a_stopped_run_goes_on_where_it_was_when_its_rules_are_changed(recipe, stopped, tmp_path):
    run = shutil.copytree(stopped, tmp_path / "run")
    before = adapter(run, 1)
    outcome = run_recipe(load_recipe(recipe, ("loop.stop=never", "loop.rounds=2")), run)
    assert [each.round for each in outcome.rounds] == [0, 1, 2]
    assert adapter(run, 1) == before and not (run / "replaced").exists()
    assert not outcome.stopped and "round 1: done before" in (run / "log.txt").read_text()


def test_on_stop_raise_is_an_error_that_says_what_is_left(recipe, stopped, tmp_path):
    run = shutil.copytree(stopped, tmp_path / "run")
    raising = load_recipe(recipe, (*ALWAYS, "loop.on_stop=raise"))
    with pytest.raises(
        StoppedError,
        match=r"stopped after round 1 by loop\.stop\.update_too_large.*loop\.on_stop.*policy/ are those of an earlier",
    ):
        run_recipe(raising, run)
    (run / "result.json").unlink()
    with pytest.raises(StoppedError, match=r"loop\.on_stop: keep_best .* to go on$"):
        run_recipe(raising, run)


@pytest.fixture(scope="module")
def remedied(recipe, stopped):
    """The stopped run, gone on with `remedy: auto`: its round is trained once more, then it stops for good."""
    run = shutil.copytree(stopped, recipe.parent / "remedied")
    run_recipe(load_recipe(recipe, (*ALWAYS, "loop.remedy=auto")), run)
    return run


def test_a_condemned_round_is_trained_once_more_with_the_remedy_and_what_was_there_is_kept(stopped, remedied):
    note = read_json(remedied / "round-01" / "remedy.json")
    assert (note["remedy"], note["finding"]["check"]) == ("halve_learning_rate", "update_too_large")
    assert adapter(remedied, 1) != adapter(stopped, 1)
    (kept,) = (remedied / "replaced").glob("*/round-01/5-policy/adapter_model.safetensors")
    assert kept.read_bytes() == adapter(stopped, 1)
    result = read_json(remedied / "result.json")
    assert result["rounds"][1]["remedy"] == "halve_learning_rate"
    assert result["stopped"].startswith("stopped after round 1")
    metrics = (remedied / "round-01" / "5-policy" / "metrics.jsonl").read_text().splitlines()
    rates = {json.loads(line)["learning_rate"] for line in metrics}
    assert rates == {0.0005}


def test_a_kill_between_the_remedys_note_and_the_moving_ends_in_the_same_policy(recipe, stopped, remedied, tmp_path):
    run = shutil.copytree(stopped, tmp_path / "run")
    shutil.copy(remedied / "round-01" / "remedy.json", run / "round-01")
    run_recipe(load_recipe(recipe, (*ALWAYS, "loop.remedy=auto")), run)
    assert adapter(run, 1) == adapter(remedied, 1)


def test_a_remedied_run_that_is_run_again_trains_nothing(recipe, remedied, tmp_path):
    run = shutil.copytree(remedied, tmp_path / "run")
    run_recipe(load_recipe(recipe, (*ALWAYS, "loop.remedy=auto")), run)
    assert len(list((run / "replaced").iterdir())) == 1
    assert adapter(run, 1) == adapter(remedied, 1)


@pytest.mark.slow
def test_a_run_that_went_on_is_remedied_later_and_goes_on_again(recipe, stopped, tmp_path):
    """Rounds that stood on the condemned training go with it, whether the run ends in between or not."""
    run = shutil.copytree(stopped, tmp_path / "run")
    run_recipe(load_recipe(recipe, ("loop.stop=never", "loop.rounds=2")), run)
    run_recipe(load_recipe(recipe, (*ALWAYS, "loop.remedy=auto")), run)
    outcome = run_recipe(load_recipe(recipe, ("loop.stop=never", "loop.rounds=2", "loop.remedy=auto")), run)
    assert [each.round for each in outcome.rounds] == [0, 1, 2]
    assert outcome.rounds[1].remedy == "halve_learning_rate"


def test_a_check_that_is_switched_off_stays_off_in_the_runs_own_recipe(recipe, stopped, tmp_path):
    run = shutil.copytree(stopped, tmp_path / "run")
    off = ("loop.warn.ties=null", "loop.stop.held_out_drop=null")
    run_recipe(load_recipe(recipe, (*ALWAYS, *off)), run)
    loop = load_recipe(run / "recipe.yaml").loop
    assert (loop.warn.ties, loop.stop.held_out_drop, loop.stop.update_too_large) == (None, None, -100)


def test_another_task_is_scored_each_round_by_its_own_rubric(recipe, stopped, tmp_path):
    """Added to a finished run, its base and its round are scored, and nothing else is made again."""
    rubric = tmp_path / "short.yaml"
    rubric.write_text("name: short\ncriteria: [{name: brief, check: length, unit: words, between: [1, 30]}]\n")
    prompts = tmp_path / "other (1).jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Tell Ada about topic {n}."}) + "\n" for n in range(6)))
    run = shutil.copytree(stopped, tmp_path / "run")
    also = f"evaluate.also=[{{prompts: '{prompts}', rubric: '{rubric}', limit: 5}}]"
    outcome = run_recipe(load_recipe(recipe, (*ALWAYS, also)), run)
    for number, result in enumerate(outcome.rounds):
        assert 0.0 <= result.diagnostics["also/other-1-"] <= 1.0
        folder = run / "baselines" if number == 0 else run / "round-01"
        name = "base-also-other-1--drafts.jsonl" if number == 0 else "6-also-other-1--drafts.jsonl"
        assert len((folder / name).read_text().splitlines()) == 5
    assert {"also/other-1-/gain", "also/other-1-/gain_se"} <= outcome.rounds[1].diagnostics.keys()
    assert adapter(run, 1) == adapter(stopped, 1)
