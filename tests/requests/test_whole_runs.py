"""`prefdistill run` under a budget, killed, and in two processes at once: what the server bills, and what is trained."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from prefdistill.requests.spending import Ledger
from prefdistill.run import RunDirectory
from tests.conftest import ROOT, TINY
from tests.loopback import Loopback, Served, judging_by

RUBRIC = """
name: short
purpose: Short e-mails.
criteria:
  - name: brevity
    question: Is the e-mail short?
    levels: [very long, long, medium, short, very short]
"""
PRICE = {"input": 2.0, "output": 10.0}


def brevity(text: str) -> float:
    return max(0.0, 1.0 - len(text) / 400)


@pytest.fixture
def recipe_at(tmp_path):
    """Write the tiny recipe, one round, with a rubric judge whose teacher is at `url`."""

    def write(url, **top):
        (tmp_path / "short.yaml").write_text(RUBRIC)
        text = TINY.format(root=ROOT, cache="cache")
        judge = {"use": "rubric", "concurrency": 8, "max_tokens": 300}
        teacher = {"use": "openai", "model": "m", "base_url": url, "usd_per_million": PRICE}
        text = text.replace("judge: {use: checks}", f"judge: {json.dumps(judge)}")
        text = text.replace("teacher: {use: sandbox}", f"teacher: {json.dumps(teacher)}")
        text = text.replace(f"{ROOT}/rubrics/sandbox-email.yaml", "short.yaml").replace("rounds: 2", "rounds: 1")
        text = text.replace("baselines: [base, teacher], ", "baselines: [base], ")
        text += "".join(f"{key}: {json.dumps(value)}\n" for key, value in top.items())
        path = tmp_path / "llm.yaml"
        path.write_text(text)
        return path

    return write


def billed_usd(server):
    return sum(each[1] * PRICE["input"] + each[2] * PRICE["output"] for each in server.worked) / 1e6


@pytest.mark.slow
def test_a_run_stops_before_its_budget_is_exceeded_and_goes_on_when_it_is_raised(recipe_at, tmp_path, prefdistill):
    rule = judging_by(brevity)
    with Loopback(lambda body: Served(rule(body), prompt_tokens=300, completion_tokens=60)) as server:
        recipe = recipe_at(server.url, budget={"usd": 0.03})
        stopped = prefdistill("run", recipe, "--run", tmp_path / "run")
        assert stopped.returncode == 3, stopped.stderr
        assert "budget.usd is $0.03" in stopped.stderr
        assert "run the same command again" in stopped.stderr
        assert "Traceback" not in stopped.stderr
        assert 0.01 < billed_usd(server) <= 0.03
        assert not list((tmp_path / "run").glob("round-*/5-policy/adapter*")), "nothing is trained on a partial round"
        before = len(server.worked)
        again = prefdistill("run", recipe, "--run", tmp_path / "run")
        assert again.returncode == 3
        assert billed_usd(server) <= 0.03
        on = prefdistill("run", recipe, "--run", tmp_path / "run", "budget.usd=1.5")
        assert on.returncode == 0, on.stderr
        asked = [json.dumps(body, sort_keys=True) for body in server.served]
        assert len(asked) == len(set(asked)) > before, "no reply is paid for twice"
        assert billed_usd(server) <= 1.5
    charged = Ledger(path=tmp_path / "run" / "spending.jsonl").charged
    assert charged.usd == pytest.approx(billed_usd(server))
    assert "budget" in (tmp_path / "run" / "recipe.yaml").read_text()


def test_dollars_without_a_price_stop_before_anything_is_sampled(recipe_at, tmp_path, prefdistill):
    recipe = recipe_at("http://127.0.0.1:9/v1", budget={"usd": 1})
    recipe.write_text(recipe.read_text().replace(f', "usd_per_million": {json.dumps(PRICE)}', ""))
    done = prefdistill("run", recipe, "--run", tmp_path / "run")
    assert done.returncode == 2
    assert "the model `m` has no price" in done.stderr
    assert not list((tmp_path / "run").rglob("*drafts.jsonl"))


@pytest.mark.parametrize(
    ("given", "message"), [("{}", "at least one of usd, calls"), ("{usd: -1}", "greater"), ("40", "")]
)
def test_a_budget_that_is_none(recipe_at, prefdistill, given, message):
    recipe = recipe_at("http://127.0.0.1:9/v1")
    done = prefdistill("validate", recipe, f"budget={given}")
    assert done.returncode == 2
    assert "budget" in done.stderr
    assert message in done.stderr


def start(recipe, run):
    command = [sys.executable, "-m", "prefdistill", "run", str(recipe), "--run", str(run)]
    return subprocess.Popen(command, cwd=recipe.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_runs_at_once_pay_once_and_when_one_is_killed_the_other_takes_over(recipe_at, tmp_path):
    with Loopback(judging_by(brevity), latency_seconds=0.15) as server:
        recipe = recipe_at(server.url, budget={"calls": 5000})
        runs = [start(recipe, tmp_path / name) for name in ("one", "two")]
        deadline = time.monotonic() + 150
        while len(server.requests) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(runs[0].pid, signal.SIGKILL)
        runs[0].wait()
        in_flight = server.in_flight
        _, errors = runs[1].communicate(timeout=200)
        assert runs[1].returncode == 0, errors
        done = start(recipe, tmp_path / "one")  # resumed, it finds every reply there
        _, errors = done.communicate(timeout=200)
        assert done.returncode == 0, errors
        asked = [json.dumps(body, sort_keys=True) for body in server.served]
    assert in_flight <= 16
    assert len(asked) - len(set(asked)) <= 8
    pairs = [(RunDirectory(tmp_path / name).round(1) / "4-pairs.jsonl").read_text() for name in ("one", "two")]
    assert pairs[0] == pairs[1]
