"""Arms are run fairly: shared where they are equal, in equal steps, and gone on with after a kill."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import time

import pytest
from rich.console import Console

from prefdistill.compare.command import compare_recipe, compare_runs
from prefdistill.compare.plan import claim_folder, make_plan
from prefdistill.compare.running import Event, _within_budget, mark_of, run_plan
from prefdistill.errors import RunError, TrainError
from prefdistill.recipe import load_recipe
from prefdistill.records import Draft, PreferencePair
from prefdistill.run import Fingerprints, RunDirectory, read_json
from tests.browser_data import inflated
from tests.commands import start_command

SMALL = ("loop.prompts_per_round=8", "prompts.validation_limit=4", "prompts.test_limit=4", "train.batch_size=4")


def plan_of(recipe, arms, folder, seeds="1", overrides=()):
    plan = make_plan(recipe, [*SMALL, *overrides], [arms], seeds, folder)
    claim_folder(plan, 1)
    return plan


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Four arms of one seed, two rounds each, and what was told while they ran."""
    from tests.conftest import ROOT, TINY

    folder = tmp_path_factory.mktemp("compared")
    recipe = folder / "tiny.yaml"
    recipe.write_text(TINY.format(root=ROOT, cache=folder / "cache"))
    arms, printed = "online,shuffled_online,offline,loop.keep=last", io.StringIO()
    compare_recipe(recipe, SMALL, [arms], "1", folder / "c", 1, True, Console(file=printed, width=120))
    plan = plan_of(recipe, arms, folder / "c")
    runs = run_plan(plan, 1, 1, lambda event: None)  # all are there by now
    return plan, {each.label: each for each in runs}, printed.getvalue()


def policy(plan, label, number):
    return (
        plan.folder / label / "seed-3" / f"round-{number:02d}" / "5-policy" / "adapter_model.safetensors"
    ).read_bytes()


def pairs(plan, label, number):
    run = RunDirectory(plan.folder / label / "seed-3")
    return run.rows(run.round(number), "4-pairs.jsonl", PreferencePair).read()


def test_all_runs_are_finished(compared):
    plan, runs, printed = compared
    assert all(not each.failed and each.run is not None for each in runs.values())
    assert re.findall(r"(\w+), seed 3: done", printed) == ["online", "offline", "shuffled_online"]
    for name in ("report.html", "report.md", "tables/arms.csv", "tables/pairs.csv"):
        assert (plan.folder / name).stat().st_size > 100, name


def test_the_first_round_is_the_same_for_arms_that_begin_alike(compared):
    plan, _, _ = compared
    assert pairs(plan, "online", 1) == pairs(plan, "offline", 1)
    assert policy(plan, "online", 1) == policy(plan, "offline", 1)
    assert policy(plan, "online", 2) != policy(plan, "offline", 2)


def test_the_base_is_drafted_and_judged_once(compared):
    plan, runs, _ = compared
    files = ["base-test-drafts.jsonl", "base-validation-held-out.jsonl", "teacher-test-gold.jsonl"]
    for name in files:
        assert len({(plan.folder / label / "seed-3" / "baselines" / name).read_bytes() for label in runs}) == 1


def test_every_arm_has_as_many_steps_in_each_round(compared):
    _, runs, _ = compared
    steps = {tuple(each.train.steps for each in run.run.rounds[1:]) for run in runs.values()}
    assert len(steps) == 1


def test_the_shuffled_arm_trains_on_the_same_pairs_in_other_rounds(compared):
    plan, _, _ = compared
    first = {key for number in (1, 2) for key in pairs(plan, "online", number)}
    shuffled = [set(pairs(plan, "shuffled_online", number)) for number in (1, 2)]
    assert shuffled[0] | shuffled[1] == first
    assert not shuffled[0] & shuffled[1]
    assert abs(len(shuffled[0]) - len(shuffled[1])) <= 1
    assert shuffled[0] != set(pairs(plan, "online", 1))
    rounds = {each.round for number in (1, 2) for each in pairs(plan, "shuffled_online", number).values()}
    assert rounds == {1, 2}


def test_shuffled_drafts_name_the_policy_of_the_run_that_wrote_them(compared):
    plan, _, _ = compared
    run = RunDirectory(plan.folder / "shuffled_online" / "seed-3")
    drafts = [
        each for number in (1, 2) for each in run.rows(run.round(number), "1-drafts.jsonl", Draft).read().values()
    ]
    adapters = {each.policy.adapter for each in drafts}
    assert None in adapters and len(adapters) == 2
    (other,) = adapters - {None}
    assert (run.path / other / "adapter_model.safetensors").is_file()
    assert "online" in other


def test_the_last_round_is_kept_where_that_is_asked_for(compared):
    _, runs, _ = compared
    assert runs["offline"].run.kept == 2


def test_what_is_finished_is_not_opened_again(compared):
    plan, runs, _ = compared
    before = {label: each.run.directory.result.stat().st_mtime_ns for label, each in runs.items()}
    told: list[Event] = []
    run_plan(plan, 1, 1, told.append)
    assert {event.kind for event in told} == {"kept"}
    assert before == {label: each.run.directory.result.stat().st_mtime_ns for label, each in runs.items()}


def test_a_changed_prompts_file_is_not_taken_for_the_same(tmp_path, tiny_recipe):
    prompts = tmp_path / "p.jsonl"
    rows = [json.dumps({"prompt": f"Note {number}"}) for number in range(40)]
    prompts.write_text("\n".join(rows))
    overrides = [f"prompts={{path: {prompts}}}"]
    before = mark_of(load_recipe(tiny_recipe, overrides))
    prompts.write_text("\n".join([*rows, json.dumps({"prompt": "One more"})]))
    assert mark_of(load_recipe(tiny_recipe, overrides)) != before


def test_a_changed_drafts_file_is_not_taken_for_the_same(tmp_path, tiny_recipe):
    drafts = tmp_path / "d.jsonl"
    drafts.write_text('{"prompt": "a", "completion": "b"}\n')
    overrides = ["loop.mode=offline", f"sample.drafts_from={drafts}"]
    before = mark_of(load_recipe(tiny_recipe, overrides))
    assert mark_of(load_recipe(tiny_recipe, overrides)) == before
    drafts.write_text('{"prompt": "a", "completion": "c"}\n')
    assert mark_of(load_recipe(tiny_recipe, overrides)) != before


def test_a_changed_judges_code_is_not_taken_for_the_same(tmp_path, tiny_recipe):
    code = tmp_path / "mine.py"
    code.write_text("def judge(prompt, drafts, rubric):\n    return [1.0 for _ in drafts]\n")
    overrides = ["judge={use: 'mine.py:judge'}", "pair.min_margin=0"]
    before = mark_of(load_recipe(tiny_recipe, overrides))
    code.write_text("def judge(prompt, drafts, rubric):\n    return [2.0 for _ in drafts]\n")
    assert mark_of(load_recipe(tiny_recipe, overrides)) != before


@pytest.mark.slow
def test_what_was_forgotten_does_not_come_back_with_a_new_arm(compared, prefdistill, tmp_path):
    plan, runs, _ = compared
    folder = tmp_path / "c"
    shutil.copytree(plan.folder, folder)
    prompt = next(key for key, each in runs["online"].run.prompts.items() if each.split == "train")
    assert prefdistill("forget", prompt, "--run", folder, "--yes").returncode == 0
    again = plan_of(plan.recipe, "online,shuffled_online,offline,loop.keep=last,best_of_n", folder)
    found = {each.label: each for each in run_plan(again, 1, 1, lambda event: None)}
    assert found["best_of_n"].run is not None, found["best_of_n"].failed
    assert prompt not in found["best_of_n"].run.prompts
    text = json.dumps(runs["online"].run.prompts[prompt].text, ensure_ascii=False)[1:-1].encode()
    assert not [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


def test_a_comparison_of_given_runs_does_not_overwrite_one_of_a_recipe(compared):
    plan, runs, _ = compared
    places = [str(runs[label].run.directory.path) for label in ("online", "offline")]
    with pytest.raises(RunError, match="holds the comparison of a recipe"):
        compare_runs([f"a={places[0]}", f"b={places[1]}"], plan.folder, True, Console(file=io.StringIO()))


def test_a_failed_arm_is_said_and_the_others_go_on(tiny_recipe, tmp_path, monkeypatch):
    import prefdistill.compare.running as running

    real = running.run_recipe

    def fails(recipe, folder, *rest, **more):
        if "offline" in str(folder):
            raise TrainError("no memory left")
        return real(recipe, folder, *rest, **more)

    monkeypatch.setattr(running, "run_recipe", fails)
    plan = plan_of(tiny_recipe, "best_of_n,offline", tmp_path / "c")
    found = {each.label: each for each in run_plan(plan, 1, 1, lambda event: None)}
    assert found["offline"].failed == "no memory left"
    assert found["offline"].run is None
    assert found["best_of_n"].run is not None


def test_an_arm_whose_source_failed_is_not_run(tiny_recipe, tmp_path, monkeypatch):
    import prefdistill.compare.running as running

    def fails(*rest, **more):
        raise TrainError("no memory left")

    monkeypatch.setattr(running, "run_recipe", fails)
    plan = plan_of(tiny_recipe, "online,shuffled_online", tmp_path / "c")
    found = {each.label: each.failed for each in run_plan(plan, 1, 1, lambda event: None)}
    assert found["online"] == "no memory left"
    assert found["shuffled_online"] == "not run, because it needs online of this seed, which failed"


def test_the_budget_is_that_of_all_runs_together(tiny_recipe, tmp_path):
    plan = plan_of(tiny_recipe, "online,offline", tmp_path / "c", overrides=["budget={calls: 10}"])
    first, second = plan.of_seed(3)
    first.folder.mkdir(parents=True)
    (first.folder / "spending.jsonl").write_text(
        json.dumps({"id": "a", "state": "settled", "usage": {"calls": 4, "prompt_tokens": 9}}) + "\n"
    )
    assert _within_budget(plan, second, plan.recipe_of(second)).budget.calls == 6
    assert _within_budget(plan, first, plan.recipe_of(first)).budget.calls == 10


@pytest.mark.slow
def test_a_killed_comparison_ends_with_the_same_table(tiny_recipe, tmp_path):
    command = ["compare", tiny_recipe, *SMALL, "--arms", "offline,online", "--seeds", "2"]
    whole = start_command([*command, "--run", tmp_path / "whole"], tmp_path, output=tmp_path / "whole-said")
    whole.join(300)
    assert whole.exitcode == 0, (tmp_path / "whole-said.err").read_text()
    for number, seconds in enumerate((4, 7, 10, 13, 16)):
        process = start_command([*command, "--run", tmp_path / "killed"], tmp_path, output=tmp_path / f"{number}-said")
        time.sleep(seconds)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        time.sleep(1)  # its children see that it is gone
    last = start_command([*command, "--run", tmp_path / "killed"], tmp_path, output=tmp_path / "last-said")
    last.join(300)
    assert last.exitcode == 0, (tmp_path / "last-said.err").read_text()
    for name in ("arms", "pairs", "rounds"):
        whole_table, killed_table = (
            (tmp_path / each / "tables" / f"{name}.csv").read_text() for each in ("whole", "killed")
        )
        assert _without_seconds(whole_table) == _without_seconds(killed_table)


def _without_seconds(text):
    import csv

    rows = list(csv.reader(text.splitlines()))
    kept = [place for place, name in enumerate(rows[0]) if "time" not in name.lower() and "second" not in name.lower()]
    return [[row[place] for place in kept] for row in rows]


def test_the_status_of_a_comparison(compared, prefdistill):
    plan, _, _ = compared
    done = prefdistill("status", plan.folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"shuffled_online +done", done.stdout)
    assert "go on with" not in done.stdout
    found = json.loads(prefdistill("status", plan.folder, "--json").stdout)
    assert found["finished"] and found["runs"]["offline"] == {"3": "done"}
    assert shlex.split(found["command"])[:2] == ["prefdistill", "compare"]


def test_a_prompt_is_forgotten_in_every_run_and_in_the_comparisons_report(compared, prefdistill, tmp_path):
    plan, runs, _ = compared
    folder = tmp_path / "c"
    shutil.copytree(plan.folder, folder)
    prompt = next(iter(runs["online"].run.test["base"].drafts))
    text = json.dumps(runs["online"].run.prompts[prompt].text, ensure_ascii=False)[1:-1].encode()
    holders = [path for path in folder.rglob("prompts.jsonl") if text in path.read_bytes()]
    assert len(holders) == 3
    assert text in inflated((folder / "report.html").read_bytes())
    done = prefdistill("forget", prompt, "--run", folder, "--yes")
    assert done.returncode == 0, done.stderr
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            assert text not in path.read_bytes(), path
    reports = list(folder.rglob("report.html"))
    assert len(reports) == 4
    for path in reports:
        assert text not in inflated(path.read_bytes()), path


@pytest.mark.slow
def test_forgetting_in_one_run_says_that_the_others_hold_it_too(compared, prefdistill, tmp_path):
    plan, runs, _ = compared
    folder = tmp_path / "c"
    shutil.copytree(plan.folder, folder)
    prompt = next(iter(runs["online"].run.test["base"].drafts))
    done = prefdistill("forget", prompt, "--run", folder / "online" / "seed-3", "--yes")
    assert done.returncode == 0, done.stderr
    assert "the comparison's 2 other runs hold the prompt too" in done.stdout


def test_marks_are_written_by_the_parent_alone(compared):
    plan, _, _ = compared
    entries = Fingerprints(plan.folder).entries
    assert set(entries) == {f"{arm.label}/seed-3" for arm in plan.arms}
    assert read_json(plan.folder / "comparison.json")["threads"] == 1
