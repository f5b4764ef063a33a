"""What a run says about money: before it, when the first replies are in, and in its round lines, report and result."""

import json
import shutil
import socket
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from prefdistill.cli import app
from prefdistill.console import TerminalDisplay, cost_lines, failures_text, show_estimate, summary
from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.records import RoundResult
from prefdistill.requests.prices import PriceError
from tests.benchmarks.tokens import TARGET, measure
from tests.conftest import ROOT, TINY
from tests.loopback import Loopback, Served, judging_by

RUBRIC = """
name: short
purpose: Short e-mails.
criteria:
  - {name: brevity, question: Is the e-mail short?, levels: [very long, long, medium, short, very short]}
"""


@pytest.fixture(autouse=True)
def no_prices_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def write_recipe(folder: Path, url: str, model: str = "gpt-4.1", name: str = "llm.yaml") -> Path:
    """Write the tiny recipe with a rubric judge whose teacher is at `url`."""
    (folder / "short.yaml").write_text(RUBRIC)
    text = TINY.format(root=ROOT, cache="cache").replace("rounds: 2", "rounds: 1")
    text = text.replace("judge: {use: checks}", "judge: {use: rubric, concurrency: 4}")
    text = text.replace(f"{ROOT}/rubrics/sandbox-email.yaml", "short.yaml")
    teacher = {"use": "openai", "model": model, "base_url": url, "deadline_seconds": 5}
    text = text.replace("teacher: {use: sandbox}", f"teacher: {json.dumps(teacher)}")
    path = folder / name
    path.write_text(text.replace("baselines: [base, teacher], ", "baselines: [base], "))
    return path


@pytest.fixture
def recipe_for(tmp_path):
    """Write the recipe into the test's folder."""
    return partial(write_recipe, tmp_path)


@pytest.fixture(scope="module")
def paid(tmp_path_factory):
    """One run judged by a server that counts: the estimate before it, what it said, and what the server was asked."""
    folder, rule = tmp_path_factory.mktemp("paid"), judging_by(brevity)
    estimate, display = Console(record=True, width=140), Lines()
    with (
        pytest.MonkeyPatch.context() as patch,
        Loopback(lambda body: Served(rule(body), prompt_tokens=731, completion_tokens=17)) as server,
    ):
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        recipe = load_recipe(write_recipe(folder, server.url))
        show_estimate(recipe, folder / "run", estimate)
        asked_by_the_estimate = len(server.requests)
        outcome = run_recipe(recipe, folder / "run", display)
        return SimpleNamespace(
            run=folder / "run",
            recipe=recipe,
            later=load_recipe(write_recipe(folder, "http://127.0.0.1:9/v1", name="later.yaml")),
            estimate=estimate.export_text(),
            asked_by_the_estimate=asked_by_the_estimate,
            lines=display.lines,
            outcome=outcome,
            asked=len(server.requests),
            served=len(server.served),
        )


def brevity(text: str) -> float:
    return max(0.0, 1.0 - len(text) / 400)


class Lines:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def progress(self, stage: str, done: int, total: int, note: str) -> None: ...

    def note(self, text: str) -> None:
        self.lines.append(text)

    def round_done(self, result: RoundResult) -> None: ...


def test_a_run_says_what_it_expects_corrects_it_once_and_counts_what_the_server_served(paid, tmp_path):
    outcome, served, lines = paid.outcome, paid.served, paid.lines
    expected = [line for line in lines if line.startswith("expected: ")]
    assert len(expected) == 1
    assert "calls to gpt-4.1" in expected[0]
    assert " USD (at most " in expected[0]
    assert lines[lines.index(expected[0]) + 1].startswith("assumed: drafts of 80 tokens")
    (corrected,) = (line for line in lines if line.startswith("corrected from the first "))
    assert "(731 and 17 tokens a call)" in corrected
    cost = outcome.result["cost"]
    assert cost["calls"] == served
    assert (cost["prompt_tokens"], cost["completion_tokens"]) == (731 * served, 17 * served)
    assert cost["usd"] == pytest.approx(served * (731 * 2 + 17 * 8) / 1e6)
    assert (cost["charged_calls"], cost["charged_usd"]) == (served, pytest.approx(cost["usd"]))
    one = outcome.result["rounds"][1]
    usage, pairs = outcome.rounds[1].usage, outcome.rounds[1].pairs
    assert one["usd_per_pair"] == pytest.approx(usage.usd / 8)
    assert one["usd_per_kept_pair"] == pytest.approx(usage.usd / pairs)
    assert one["tokens_per_kept_pair"] == pytest.approx(748 * usage.calls / pairs)
    assert one["counts"]["path_parsed"] > 0
    assert one["counts"]["compared_parsed"] >= 2 * pairs
    assert one["counts"]["flip_rate"] == 0.0
    assert one["counts"]["flagged"] == 0
    words = "\n".join(summary(outcome.result, paid.run))
    assert f"judging: {served:,} calls" in words
    assert "a kept pair" in words

    copy, again = shutil.copytree(paid.run, tmp_path / "run"), Lines()
    run_recipe(paid.later, copy, again)
    assert not [line for line in again.lines if "expected" in line], "a finished run has nothing left to ask"


def test_the_estimate_is_what_a_run_without_failures_asks(paid):
    """Upper by the drafts that are equal, cut or tied; never lower."""
    assert paid.asked_by_the_estimate == 0, "a dry run sends nothing"
    expected = int(next(line for line in paid.estimate.splitlines() if line.startswith("expected")).split()[1])
    assert 0.5 * expected <= paid.asked <= expected
    after = Console(record=True, width=140)
    show_estimate(paid.recipe, paid.run, after)
    text = after.export_text()
    assert "nothing is left to ask" in text
    assert "already: replies to" in text


def test_a_dry_run_opens_nothing_and_writes_nothing(recipe_for, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    recipe = recipe_for("https://teacher.invalid/v1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("prefdistill.assembly.opened", refuse)
    monkeypatch.setattr("prefdistill.student.load_tokenizer", refuse)
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    done = CliRunner().invoke(app, ["run", str(recipe), "--dry-run", "--run", "elsewhere", "budget.usd=0.001"])
    assert done.exit_code == 0, done.output
    assert "training drafts" in done.output
    assert "budget.usd: 0.001 USD will not be enough" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_dry_run_from_the_command_line(prefdistill, recipe_for, tmp_path):
    recipe = recipe_for("https://teacher.invalid/v1", model="my-own-model")
    done = prefdistill("run", recipe, "--dry-run", XDG_CONFIG_HOME=str(tmp_path / "config"))
    assert done.returncode == 0, done.stderr
    assert "US dollars unknown" in done.stdout
    assert "no price for `my-own-model`" in done.stdout
    assert not (tmp_path / "runs").exists()
    done = CliRunner().invoke(app, ["run", str(recipe), "--dry-run", "--preview", "2"])
    assert done.exit_code == 2
    assert "not both" in done.output
    done = CliRunner().invoke(app, ["run", str(ROOT / "recipes" / "quickstart.yaml"), "--dry-run"])
    assert (
        done.output.split()
        == "no paid calls: no judge, teacher or sampler of this recipe asks a model that costs money".split()
    )


def test_a_broken_price_table_stops_before_anything_is_sampled(recipe_for, tmp_path, monkeypatch):
    own = tmp_path / "config" / "prefdistill" / "prices.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("gpt-4.1: {input: free}\n")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(PriceError) as caught:
        run_recipe(load_recipe(recipe_for("https://teacher.invalid/v1")), tmp_path / "run")
    assert str(caught.value).startswith(f"{own}:1: gpt-4.1.input: found 'free'")
    assert not list((tmp_path / "run").rglob("*drafts.jsonl"))


def test_what_failed_how_often_stands_in_the_rounds_lines():
    result = RoundResult(
        round=1, drafts=8, judged=5, failed=3, failures={"judge.provider": 1, "judge.parse": 2}, pairs=2
    )
    assert failures_text(result.failures) == "3 failed: 2 judge parse, 1 judge provider"
    console = Console(record=True, width=140)
    with TerminalDisplay(console) as display:
        display.round_done(result)
        display.round_done(result.model_copy(update={"round": 2, "failures": {}, "failed": 0}))
    text = console.export_text()
    assert "round 1: 3 failed: 2 judge parse, 1 judge provider" in text
    assert "round 2: 0 failed" not in text


def test_a_run_without_calls_has_no_cost_lines():
    nothing = dict.fromkeys(("calls", "cached", "prompt_tokens", "completion_tokens"), 0)
    pairs = dict.fromkeys(("usd_per_pair", "usd_per_kept_pair", "tokens_per_kept_pair"))
    nothing |= {"charged_calls": 0, "charged_tokens": 0, "charged_usd": 0.0, **pairs}
    assert cost_lines({**nothing, "usd": 0.0}) == []
    (line,) = cost_lines({**nothing, "usd": 0.0, "charged_calls": 7, "charged_tokens": 900, "charged_usd": 0.002})
    assert line == "all paid calls: 7, 900 tokens, 0.002 USD"
    (line,) = cost_lines({**nothing, "cached": 40, "usd": None})
    assert "40 replies from the request cache" in line
    assert "US dollars unknown" in line


def test_agreement_of_the_run_folder_stands_in_its_report(paid, tmp_path):
    run = shutil.copytree(paid.run, tmp_path / "run")
    assert "The judge against people" not in (run / "report.html").read_text()
    table = {"title": "Pairs", "columns": ["figure", "value"], "rows": [["agreement", 0.81]], "note": "<i>"}
    (run / "agreement.json").write_text(json.dumps({"tables": [table]}))
    run_recipe(paid.later, run)
    page = (run / "report.html").read_text()
    assert "The judge against people" in page
    assert "0.810" in page
    assert "&lt;i&gt;" in page
    (run / "agreement.json").write_text("{broken")
    run_recipe(paid.later, run)
    assert "agreement.json cannot be read" in (run / "report.html").read_text()


def test_score_and_confirm_takes_at_most_half_the_tokens_of_all_pairs():
    found = measure()
    assert found["score and confirm: calls a prompt"] <= 6
    assert found["ratio of tokens a prompt"] <= TARGET
    assert found["score and confirm: pairs kept"] >= 20
