"""What a comparison will cost before it runs: each arm as it is alone, and what several runs ask alike counted once."""

import json
import re
import shutil
import socket
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from prefdistill.cli import app
from prefdistill.compare.plan import make_plan
from prefdistill.compare.pricing import price_comparison, price_plan, to_json
from prefdistill.compare.running import run_plan
from prefdistill.compare.sight import spread_before
from prefdistill.errors import RecipeError
from tests.conftest import ROOT
from tests.costs.test_cost_of_a_run import brevity, write_recipe
from tests.loopback import Loopback, Served, judging_by

RUBRIC = """
name: asked
purpose: Short e-mails.
criteria:
  - {name: brevity, question: Is the e-mail short?, levels: [long, medium, short]}
"""
RECIPE = {
    "name": "priced",
    "seed": 3,
    "rubric": "rubric.yaml",
    "student": {"model": "prefdistill.sandbox:student"},
    "teacher": {"use": "openai", "model": "gpt-4.1", "base_url": "https://teacher.invalid/v1", "concurrency": 10},
    "prompts": {"path": "prompts.jsonl", "split_column": "split"},
    "sample": {"drafts": 4, "max_new_tokens": 100},
    "judge": {"use": "rubric", "confirm": "none"},
    "train": {"batch_size": 4},
    "loop": {"rounds": 3, "prompts_per_round": 8},
    "cache": "cache",
}
TRAIN, VALIDATION, TEST, ROUND = 20, 6, 5, 8 * 4
BASE = VALIDATION + TEST


@pytest.fixture(autouse=True)
def no_prices_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rubric.yaml").write_text(RUBRIC)
    splits = ["train"] * TRAIN + ["validation"] * VALIDATION + ["test"] * TEST
    rows = [{"prompt": f"Write number {n}.", "split": split} for n, split in enumerate(splits)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    return tmp_path


def priced(folder, arms="offline,online", seeds="1", *overrides):
    return price_plan(make_plan(folder / "recipe.yaml", overrides, [arms], seeds))


def calls(found):
    """By arm: alone, by other runs, to pay."""
    return {
        arm.label: tuple(round(each) for each in (arm.whole.calls, arm.shared_calls, arm.owed.calls))
        for arm in found.arms
    }


def test_offline_and_online_share_the_base_and_the_first_round(folder):
    found = priced(folder)
    alone = BASE + 3 * (ROUND + VALIDATION) + TEST
    shared = BASE + ROUND + VALIDATION  # and the policy of round 1, whose validation drafts are the same too
    assert calls(found) == {"offline": (alone, 0, alone), "online": (alone, shared, alone - shared)}
    assert found.total.calls == pytest.approx(2 * alone - shared)
    assert found.shared_calls == pytest.approx(shared)
    assert found.total.usd == pytest.approx(sum(arm.owed.usd or 0 for arm in found.arms))
    assert to_json(found)["total"]["calls"] == pytest.approx(2 * alone - shared)


def test_with_one_round_the_second_arm_costs_nothing(folder):
    assert calls(priced(folder, "offline,online", "1", "loop.rounds=1"))["online"][2] == 0


def test_another_seed_writes_other_drafts_and_shares_nothing_of_the_students(folder):
    one, three = priced(folder, seeds="1"), priced(folder, seeds="3")
    assert three.total.calls == pytest.approx(3 * one.total.calls)


def test_the_teachers_drafts_are_the_same_for_every_seed(folder):
    teacher = ("evaluate={baselines: [base, teacher]}",)
    one, three = priced(folder, "online", "1", *teacher), priced(folder, "online", "3", *teacher)
    written_and_judged = 2 * BASE
    assert calls(one)["online"][1] == 0
    assert calls(three)["online"][1] == 2 * written_and_judged
    without = priced(folder, "online", "3", *teacher, "cache='off'")
    assert calls(without)["online"][1] == 0, "without a request cache every run asks for itself"
    shared = calls(priced(folder, "offline,online", "1", *teacher, "cache='off'"))["online"][1]
    assert shared == BASE + ROUND + VALIDATION + written_and_judged, "but arms of a seed copy from one another"


def test_every_arm_asks_for_what_it_needs(folder):
    found = calls(priced(folder, "online,random_labels,best_of_n,shuffled_online,outputs,mine=online,train.beta=0.3"))
    rounds = 3 * VALIDATION + TEST
    assert found["online"] == (BASE + 3 * ROUND + rounds, 0, BASE + 3 * ROUND + rounds)
    again = BASE + ROUND  # base drafts and the first round's; the policies are others
    for label in ("random_labels", "mine"):
        assert found[label] == (BASE + 3 * ROUND + rounds, again, 2 * ROUND + rounds), label
    assert found["best_of_n"] == (BASE + 3 * TEST, BASE, 3 * TEST), "the first of four drafts is judged already"
    assert found["shuffled_online"] == (BASE + rounds, BASE, rounds), "its pairs are judged"
    answers, repeated = TRAIN, 3 * 8 - TRAIN  # an answer a prompt: four stand in two rounds
    assert found["outputs"] == (BASE + answers + repeated + rounds, BASE + repeated, answers + rounds)


def test_another_judge_or_number_of_drafts_shares_no_verdicts(folder):
    found = calls(priced(folder, "online,full=online,judge.reason=full,six=online,sample.drafts=6"))
    assert found["full"][1] == 0
    assert found["six"][1] == BASE, "evaluation drafts do not depend on how many are written to train on"


def test_the_budget_is_the_whole_comparisons(folder):
    console = Console(record=True, width=160)
    price_comparison(folder / "recipe.yaml", ["budget.calls=100"], ["offline,online"], "3", None, console)
    text = console.export_text()
    assert "budget.calls: 100 calls will not be enough: " in text
    assert "shared: 147 calls that several runs need are made once" in text
    assert "priced: offline, online; 3 seeds, 6 runs, in runs/priced-compare" in text
    assert not (folder / "runs").exists(), "nothing is written"


def test_what_the_folder_of_the_comparison_holds_is_not_paid_again(folder):
    before = priced(folder)
    path = folder / "runs" / "priced-compare" / "offline" / "seed-3" / "baselines" / "base-test-verdicts.jsonl"
    prompts = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    assert prompts
    plan = make_plan(folder / "recipe.yaml", (), ["offline,online"], "1")
    from prefdistill.assembly import read_recipe_prompts

    test = read_recipe_prompts(plan.base_recipe).of("test")
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps({"prompt_id": prompt.id, "failures": []}) + "\n" for prompt in test[:3]))
    found = priced(folder)
    assert found.done_calls == pytest.approx(3)
    assert found.total.calls == pytest.approx(before.total.calls - 3)
    assert calls(found)["online"] == calls(before)["online"]


def test_a_mistake_in_an_arm_is_said_before_anything_is_reckoned(folder):
    with pytest.raises(RecipeError, match=r"arm mine: .*train\.bta"):
        priced(folder, "offline,mine=online,train.bta=1")


def test_the_email_recipe_is_priced_by_arm_and_what_it_can_see_is_said(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("prefdistill.assembly.opened", refuse)
    monkeypatch.chdir(tmp_path)
    price = "teacher.usd_per_million={input: 2, output: 8}"
    arguments = ["compare", str(ROOT / "recipes" / "email-online.yaml"), "--dry-run", price, "budget.usd=1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: line.split() for line in done.output.splitlines() if line.split()}
    offline, online, total = rows["offline"], rows["online"], rows["total"]
    assert offline[1] == online[1], "alone they cost the same"
    assert int(offline[3].replace(",", "")) > int(online[3].replace(",", "")) > 0
    usd = {
        name: float(row[-4 if row[-1] in ("min", "s", "h") else -3]) for name, row in rows.items() if name == "total"
    }
    assert usd["total"] > 10
    assert "expected: " in done.output
    assert "calls to teacher-large" in done.output
    assert re.search(r"budget\.usd: 1\.00 USD will not be enough: \d+\.\d\d USD more is expected", done.output)
    assert "47 test prompts can show (two-sided 5 %, power 80 %): a win rate of 70 % or more" in done.output
    assert "you would need 783 for a win rate of 55 %, and 126 / 283 / 503 for 0.05 in score" in done.output
    assert total[0] == "total"
    assert list(tmp_path.iterdir()) == []


def test_the_quickstart_pays_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arms = "offline,online,best_of_n,random_labels,shuffled_online,outputs"
    done = CliRunner().invoke(app, ["compare", str(ROOT / "recipes" / "quickstart.yaml"), "--arms", arms, "--dry-run"])
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert "no paid calls: no judge, teacher or sampler of these arms asks a model that costs money" in words
    assert "150 test prompts can show (two-sided 5 %, power 80 %): a win rate of 62 % or more" in words
    assert "total" not in words


@pytest.fixture(scope="module")
def paid(tmp_path_factory):
    """A comparison judged by a server that counts: its price before and after, and what the server was asked."""
    folder, rule = tmp_path_factory.mktemp("paid"), judging_by(brevity)
    with (
        pytest.MonkeyPatch.context() as patch,
        Loopback(lambda body: Served(rule(body), prompt_tokens=731, completion_tokens=17)) as server,
    ):
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.chdir(folder)
        recipe = write_recipe(folder, server.url)
        overrides = ("loop.rounds=2", "loop.keep=last", "prompts.test_limit=24", "judge.confirm=none")
        overrides += ("train.learning_rate=3.0e-3", "train.epochs=6")
        plan = make_plan(recipe, overrides, ["offline,online,best_of_n"], "1", folder / "compare")
        before = price_plan(plan)
        runs = run_plan(plan, 1, 1, lambda event: None)
        assert not [each.failed for each in runs if each.failed]
        return SimpleNamespace(before=before, after=price_plan(plan), served=len(server.served), plan=plan)


@pytest.mark.slow
def test_a_run_of_the_recipe_tells_too_where_it_measured_alike(paid, tmp_path, monkeypatch):
    """It stands under ./runs by the recipe's name; one that was measured otherwise says nothing."""
    run = paid.plan.of_seed(3)[1]
    shutil.copytree(run.folder, tmp_path / "runs" / "tiny")
    monkeypatch.chdir(tmp_path)
    mine = ("prompts.test_limit=24", "judge.confirm=none")
    spread = spread_before(make_plan(paid.plan.recipe, mine, ["offline"], "1"))
    assert spread is not None
    assert spread.source == "runs/tiny against the base, 24 prompts"
    other = (*mine, "evaluate.temperature=0.9")
    assert spread_before(make_plan(paid.plan.recipe, other, ["offline"], "1")) is None


@pytest.mark.slow
def test_the_price_is_what_a_comparison_asks(paid):
    """Upper by the drafts that are equal; far under what the arms would ask one by one."""
    expected, alone = paid.before.total.calls, sum(arm.whole.calls for arm in paid.before.arms)
    assert 0.75 * expected <= paid.served <= expected
    assert alone > 1.3 * expected


@pytest.mark.slow
def test_a_finished_comparison_owes_nothing_and_tells_how_differences_vary(paid):
    assert paid.after.total.calls == 0
    assert paid.after.done_calls > 0
    spread = paid.after.sight.spread
    assert spread is not None
    assert spread.source == "offline against online, 24 prompts"
    assert list(paid.after.sight.gains) == [spread.sd]
    console = Console(record=True, width=160)
    plan = paid.plan
    price_comparison(plan.recipe, plan.overrides, ["offline,online,best_of_n"], "1", plan.folder, console)
    text = console.export_text()
    assert "nothing is left to ask of a paid model" in text
    assert "(measured: offline against online, 24 prompts)" in text


def test_replies_with_reasoning_are_not_those_without(folder):
    """The teacher is asked otherwise, so the arms on traces and on outputs share none of its answers."""
    priced = price_plan(make_plan(folder / "recipe.yaml", (), ["outputs,traces"], "1"))
    _, traces = priced.arms
    assert traces.whole.calls >= 3 * 8
    assert traces.shared_calls == 3 * 8 - TRAIN, "its own prompts that come round again, and none of the other arm's"
