"""SIGKILL over whole three-round runs: what is resumed ends with the pairs and the adapter bytes of a run left alone."""

import json
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from prefdistill.errors import RunError
from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.run import RunDirectory
from prefdistill.status import read_status
from prefdistill.trainers.checkpoints import is_complete
from tests.killed_runs import STAGES, Helper
from tests.loopback import Loopback, judging_by
from tests.tiny_student import build_tiny_student, text

RECIPE = """
name: killed
seed: 5
rubric: rubric.yaml
student: {{model: student, device: cpu}}
teacher: {{use: openai, model: m, base_url: "{url}"}}
prompts: {{path: prompts.jsonl, split_column: split}}
sample: {{drafts: 4, max_new_tokens: 24}}
judge: {{use: rubric, concurrency: 4, max_tokens: 64}}
train: {{learning_rate: 2.0e-3, batch_size: 2, epochs: 2, checkpoint_seconds: 0, lora: {{r: 4, alpha: 8}}}}
evaluate: {{compare: both_orders}}
loop: {{rounds: 3, prompts_per_round: 6}}
cache: cache
"""
RUBRIC = """
name: brevity
purpose: Short notes.
criteria:
  - {name: short, question: Is it short?, levels: ["no", hardly, partly, mostly, "yes"]}
"""
IN_FLIGHT = 4
WORK = STAGES[1:]
"""Every stage that kills must fall into."""


def brevity(draft: str) -> float:
    return max(0.0, 1.0 - len(draft) / 60)


def write_recipe(folder: Path, student: Path, url: str) -> Path:
    """A recipe in a folder, and so with a request cache, of its own."""
    folder.mkdir()
    (folder / "student").symlink_to(student, target_is_directory=True)
    (folder / "rubric.yaml").write_text(RUBRIC)
    splits = ["train"] * 18 + ["validation"] * 3 + ["test"] * 3
    rows = [{"prompt": f"{number}: {text(number)}", "split": split} for number, split in enumerate(splits)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "killed.yaml").write_text(RECIPE.format(url=url))
    return folder / "killed.yaml"


def made(run: Path) -> dict[str, bytes]:
    """What must be equal: pairs, adapters, and what every training and the choice of the best round came to."""
    names = ("round-*/4-pairs.jsonl", "round-*/5-policy/adapter_model.safetensors", "policy/adapter_model.safetensors")
    found = {str(path.relative_to(run)): path.read_bytes() for name in names for path in sorted(run.glob(name))}
    result = json.loads((run / "result.json").read_text())
    scores = [(each["win_rate"], each["rubric_score"]) for each in result["rounds"]]
    return {**found, "result": json.dumps([result["best_round"], scores, result["test"]]).encode()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A student that ends a draft with one of many tokens, as one with random weights hardly would otherwise."""
    student = build_tiny_student(tmp_path_factory.mktemp("student") / "tiny", layers=1, ascii_only=True)
    generation = student / "generation_config.json"
    ends = {"eos_token_id": [1, 2, *range(60, 90)], "pad_token_id": 0}
    generation.write_text(json.dumps({**json.loads(generation.read_text()), **ends}))
    return student


@pytest.fixture(scope="module")
def helper(tmp_path_factory):
    helper = Helper(tmp_path_factory.mktemp("helper"))
    yield helper
    helper.close()


@pytest.fixture(scope="module")
def server():
    with Loopback(judging_by(brevity), latency_seconds=0.004) as server:
        yield server


class Lives:
    """The lives of runs: how long an uninterrupted one is at each stage, and how often it writes a file."""

    def __init__(self, helper: Helper) -> None:
        self.helper = helper
        self.seconds: Counter[str] = Counter()
        self.writes = 0

    def whole(self, recipe: Path, run: Path) -> None:
        """Run to the end, and note how long each stage takes."""
        self.seconds, self.writes = self._live(recipe, run, lambda spent, writes: False)[1:]

    def ahead(self, stage: str) -> bool:
        """Whether something of a stage is left."""
        return self.writes > 1 if stage == "writing" else self.seconds[stage] > 0.01

    def killed(self, recipe: Path, run: Path, stage: str, draw: random.Random, left: "Lives") -> str | None:
        """Run, and kill at a random moment of what is left of `stage`; None where the run ended before."""
        seconds, writes = draw.uniform(0, 0.9 * left.seconds[stage]), draw.uniform(0, 0.9 * left.writes)

        def due(spent: Counter[str], written: int) -> bool:
            if stage == "writing":
                return written >= writes
            return self.helper.state.stage == stage and spent[stage] >= seconds  # a short stage is soon over

        where, spent, written = self._live(recipe, run, due)
        if where is None and left.seconds == self.seconds:
            self.seconds, self.writes = spent, written  # the machine is faster now than it was
        left.seconds = left.seconds - spent
        left.writes -= written
        return where

    def _live(self, recipe, run, due):
        process, state = self.helper.start(recipe, run), self.helper.state
        spent: Counter[str] = Counter()
        before = time.perf_counter()
        while not self.helper.ended():
            time.sleep(0.0005)
            now, stage = time.perf_counter(), state.stage
            spent[stage] += now - before
            before = now
            if due(spent, state.writes):
                where, code = self.helper.kill(process)
                assert code in (-9, 0)
                return (where if code else None), spent, state.writes
        assert self.helper.result() == 0, "see helper.log"
        return None, spent, state.writes


@pytest.fixture(scope="module")
def alone(helper, server, tiny, tmp_path_factory):
    """A run that nobody killed: (its lives, what it made, how many requests it asked)."""
    lives, recipe = Lives(helper), write_recipe(tmp_path_factory.mktemp("alone") / "whole", tiny, server.url)
    before = len(server.served)
    lives.whole(recipe, recipe.parent / "run")
    wanted = made(recipe.parent / "run")
    assert sum(name.endswith("4-pairs.jsonl") for name in wanted) == 3
    assert sum(name.endswith("adapter_model.safetensors") for name in wanted) >= 3
    return lives, wanted, len(server.served) - before


def kill_and_resume(alone, helper, server, tiny, tmp_path, kills, a_run, seed):
    """Kill runs, each up to `a_run` times, until `kills` kills fell; compare them with one that was left alone."""
    lives, wanted, asked = alone
    draw, fell, number = random.Random(seed), Counter(), 0
    while sum(fell.values()) < kills:
        number += 1
        recipe = write_recipe(tmp_path / f"run-{number}", tiny, server.url)
        served, died = len(server.served), 0
        left = Lives(helper)
        left.seconds, left.writes = lives.seconds.copy(), lives.writes
        while died < min(a_run, kills - sum(fell.values()) + died):
            ahead = [each for each in WORK if left.ahead(each)]
            if not ahead:
                break
            stage = min(ahead, key=lambda each: (fell[each], draw.random()))
            where = lives.killed(recipe, recipe.parent / "run", stage, draw, left)
            if where is None:
                break
            fell[where] += 1
            died += 1
        if not (recipe.parent / "run" / "report.html").exists():
            Lives(helper).whole(recipe, recipe.parent / "run")
        assert made(recipe.parent / "run") == wanted, f"run {number} after {died} kills"
        while server.in_flight:
            time.sleep(0.005)
        assert len(server.served) - served <= asked + died * IN_FLIGHT, "only what was in flight is asked again"
        print(f"run {number}: {died} kills, {sum(fell.values())} in all", flush=True)
        shutil.rmtree(recipe.parent)
    return fell


def check_table(fell, kills):
    print(f"{kills} kills: " + ", ".join(f"{fell[each]} {each}" for each in STAGES if fell[each]))
    assert set(WORK) <= set(fell)


def test_ten_kills_over_whole_runs(alone, helper, server, tiny, tmp_path):
    check_table(kill_and_resume(alone, helper, server, tiny, tmp_path, 10, a_run=5, seed=1), 10)


@pytest.mark.slow
def test_a_hundred_kills_over_whole_runs(alone, helper, server, tiny, tmp_path):
    check_table(kill_and_resume(alone, helper, server, tiny, tmp_path, 100, a_run=10, seed=2), 100)


def wait_for_checkpoint(helper, run, round):
    """Wait until a round's training has left its second checkpoint, and return it."""
    saved = run / f"round-0{round}" / "5-policy" / "checkpoints" / "checkpoint-2"
    while not is_complete(saved):
        assert not helper.ended(), "the run ended before its second checkpoint"
        time.sleep(0.0005)
    return saved


def test_a_checkpoint_without_optimiser_scheduler_or_random_states_is_not_used(alone, helper, server, tiny, tmp_path):
    """In each of the three rounds another file is taken from the last checkpoint."""
    recipe = write_recipe(tmp_path / "damaged", tiny, server.url)
    run, resumed = recipe.parent / "run", []
    process = helper.start(recipe, run)
    for round, name in ((1, "optimizer.pt"), (2, "scheduler.pt"), (3, "rng_state.pth")):
        saved = wait_for_checkpoint(helper, run, round)
        assert helper.kill(process)[1] == -9
        (saved / name).unlink()
        assert (saved.parent / "checkpoint-1").is_dir()
        process = helper.start(recipe, run)
        while not helper.checkpoints.exists() or "\n" not in helper.checkpoints.read_text():
            assert not helper.ended()
            time.sleep(0.0005)
        resumed.append(helper.checkpoints.read_text().split("\n")[0])
    assert helper.result() == 0
    assert resumed == ["checkpoint-1"] * 3
    assert made(run) == alone[1]


def test_two_processes_cannot_run_the_same_folder_and_a_killed_one_holds_nothing(helper, server, tiny, tmp_path):
    recipe = write_recipe(tmp_path / "held", tiny, server.url)
    run = recipe.parent / "run"
    process = helper.start(recipe, run)
    while helper.state.stage != "sampling":
        assert not helper.ended()
        time.sleep(0.001)
    with pytest.raises(RunError, match="another prefdistill process is working in this run"):
        run_recipe(load_recipe(recipe), run)
    assert read_status(run).working is True
    assert helper.kill(process)[1] == -9
    status = read_status(run)
    assert status.working is False
    with RunDirectory(run).locked():
        assert status.command == f"prefdistill run {run}/recipe.yaml --run {run}"
