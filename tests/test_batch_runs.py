"""Whole runs whose teacher judges through the Batch API: the same pairs as live, also after a kill, within the budget."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefdistill.batches import desk
from prefdistill.batches.notes import BatchNote
from prefdistill.errors import BudgetError
from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.records import Verdict
from prefdistill.run import RowFile
from tests.batch_server import BatchServer, Turn
from tests.conftest import ROOT, TINY
from tests.loopback import judging_by
from tests.test_llm_judge_runs import RUBRIC, brevity

OFFLINE = ["loop.mode=offline", "loop.rounds=1"]


@pytest.fixture
def recipe_for(tmp_path):
    """Write the tiny recipe with a rubric judge whose teacher is at `url`."""

    def write(url: str, name: str, **teacher) -> Path:
        (tmp_path / "short.yaml").write_text(RUBRIC)
        text = TINY.format(root=ROOT, cache=f"cache-{name}")
        text = text.replace("judge: {use: checks}", "judge: {use: rubric, concurrency: 4}")
        text = text.replace(f"{ROOT}/rubrics/sandbox-email.yaml", "short.yaml")
        options = {
            "use": "openai",
            "model": "m",
            "base_url": url,
            "usd_per_million": {"input": 1, "output": 2},
            **teacher,
        }
        text = text.replace("teacher: {use: sandbox}", f"teacher: {json.dumps(options)}")
        text = text.replace("baselines: [base, teacher], ", "baselines: [base], ")
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return path

    return write


def pairs_of(run: Path) -> list[str]:
    return [path.read_text() for path in sorted(run.glob("round-*/4-pairs.jsonl"))]


@pytest.mark.slow
def test_a_run_with_batches_makes_the_pairs_of_a_live_one(recipe_for, tmp_path, monkeypatch):
    monkeypatch.setattr(desk, "FIRST_POLL_SECONDS", 0.01)
    with BatchServer(judging_by(brevity)) as server:
        live = run_recipe(load_recipe(recipe_for(server.url, "live"), OFFLINE), tmp_path / "live")
        asked = len(server.live)
        batched = run_recipe(load_recipe(recipe_for(server.url, "batch", batch=True), OFFLINE), tmp_path / "batch")
        assert len(server.live) == asked, "everything was judged in batches"
        assert len(server.served) == asked
        bodies = [json.dumps(body, sort_keys=True) for body in server.live]
        assert sorted(bodies) == sorted(json.dumps(body, sort_keys=True) for body in server.served)
        assert server.files == {}
    assert pairs_of(tmp_path / "live") == pairs_of(tmp_path / "batch")
    assert len(pairs_of(tmp_path / "batch")[0].splitlines()) >= 4
    one, other = live.rounds[1].usage, batched.rounds[1].usage
    assert one.model_copy(update={"usd": 0.0}) == other.model_copy(update={"usd": 0.0})
    assert other.usd == pytest.approx(one.usd / 2)
    states = [note.state for note in RowFile(tmp_path / "batch" / "batches.jsonl", BatchNote).read().values()]
    assert states.count("settled") == states.count("created") == len(server.batches)


@pytest.mark.slow
def test_an_online_run_waits_for_its_batches_every_round(recipe_for, tmp_path, monkeypatch):
    monkeypatch.setattr(desk, "FIRST_POLL_SECONDS", 0.01)
    with BatchServer(judging_by(brevity)) as server:
        outcome = run_recipe(load_recipe(recipe_for(server.url, "online", batch=True)), tmp_path / "run")
        assert not server.live
    assert [len(rows.splitlines()) >= 4 for rows in pairs_of(tmp_path / "run")] == [True, True]
    assert [result.round for result in outcome.rounds] == [0, 1, 2]


@pytest.mark.slow
def test_a_run_killed_while_its_batch_runs_picks_it_up(recipe_for, tmp_path, monkeypatch):
    with BatchServer(judging_by(brevity), lambda number: Turn(polls=10_000 if number == 2 else 1)) as server:
        recipe = recipe_for(server.url, "killed", batch=True)
        command = [sys.executable, "-m", "prefdistill", "run", str(recipe), *OFFLINE, "--run", str(tmp_path / "run")]
        with open(tmp_path / "log", "w") as log:
            process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, env={**os.environ})
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None and server.polls.get("batch_2", 0) < 2:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert len(server.batches) == 3, (tmp_path / "log").read_text()
        server.turn = lambda number: Turn()
        monkeypatch.setattr(desk, "FIRST_POLL_SECONDS", 0.01)
        run_recipe(load_recipe(recipe, OFFLINE), tmp_path / "run")
        bodies = [json.dumps(body, sort_keys=True) for body in server.served]
        assert len(bodies) == len(set(bodies)), "no request was answered twice"
        live = run_recipe(load_recipe(recipe_for(server.url, "live"), OFFLINE), tmp_path / "live")
    assert pairs_of(tmp_path / "run") == pairs_of(tmp_path / "live")
    assert live.rounds[1].pairs


@pytest.mark.slow
def test_interrupting_a_wait_says_how_to_go_on(recipe_for, tmp_path):
    with BatchServer(judging_by(brevity), lambda number: Turn(polls=10_000)) as server:
        recipe = recipe_for(server.url, "stopped", batch=True)
        command = [sys.executable, "-m", "prefdistill", "run", str(recipe), *OFFLINE, "--run", str(tmp_path / "run")]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None and not server.polls:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "batch batch_0:" in said
    assert "batch batch_0 goes on at the server; run the same command again to pick it up" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_budget_holds_for_batches_too(recipe_for, tmp_path, monkeypatch):
    monkeypatch.setattr(desk, "FIRST_POLL_SECONDS", 0.01)
    with BatchServer(judging_by(brevity)) as server:
        recipe = recipe_for(server.url, "poor", batch=True)
        with pytest.raises(BudgetError, match="budget"):
            run_recipe(load_recipe(recipe, [*OFFLINE, "budget.calls=30"]), tmp_path / "run")
        assert 0 < len(server.served) <= 30
        assert not list((tmp_path / "run").glob("round-01/5-policy"))
        outcome = run_recipe(load_recipe(recipe, [*OFFLINE, "budget.calls=3000"]), tmp_path / "run")
        bodies = [json.dumps(body, sort_keys=True) for body in server.served]
        assert len(bodies) == len(set(bodies))
    verdicts = RowFile(tmp_path / "run" / "round-01" / "2-verdicts.jsonl", Verdict).read()
    assert all(
        not verdict.failures or all("limit" in f.message for f in verdict.failures) for verdict in verdicts.values()
    )
    assert outcome.rounds[1].pairs >= 4
