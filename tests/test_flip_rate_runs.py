"""A whole run whose judge looks at the order: the flip rate of its verdicts is trained with, kept and warned of."""

import hashlib
import json
import threading

import pytest

from prefdistill.diagnostics.judging import count_flips
from prefdistill.errors import RunError
from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.records import Verdict
from prefdistill.run import RowFile
from tests.conftest import ROOT, TINY
from tests.loopback import Loopback, fenced, judging_by
from tests.test_llm_judge_runs import RUBRIC, brevity

ROBUST = ["train.loss=robust", "train.label_smoothing=flip_rate"]


def sometimes_first(body):
    """Follow the rule, but answer "first" to every third comparison, whatever order it is shown in."""
    first, second = fenced(body, "first"), fenced(body, "second")
    if first is not None and second is not None:
        both = "|".join(sorted((first, second)))
        if int(hashlib.sha256(both.encode()).hexdigest(), 16) % 3 == 0:
            return json.dumps({"reason": "it came first", "winner": "first"})
    return judging_by(brevity)(body)


@pytest.fixture
def recipe_for(tmp_path):
    def write(url):
        (tmp_path / "short.yaml").write_text(RUBRIC)
        text = TINY.format(root=ROOT, cache="cache").replace("judge: {use: checks}", "judge: {use: rubric}")
        text = text.replace(f"{ROOT}/rubrics/sandbox-email.yaml", "short.yaml")
        teacher = {"use": "openai", "model": "m", "base_url": url, "concurrency": 8}
        text = text.replace("teacher: {use: sandbox}", f"teacher: {json.dumps(teacher)}")
        text = text.replace("baselines: [base, teacher], ", "baselines: [base], ").replace("rounds: 2", "rounds: 1")
        path = tmp_path / "flips.yaml"
        path.write_text(text.replace("prompts_per_round: 8", "prompts_per_round: 16"))
        return path

    return write


@pytest.mark.slow
def test_the_rounds_own_flip_rate_is_trained_with_and_covered_by_the_fingerprint(recipe_for, tmp_path):
    asked = []
    lock = threading.Lock()

    def answer(body):
        with lock:
            asked.append(body)
        return sometimes_first(body)

    with Loopback(answer) as server:
        recipe = recipe_for(server.url)
        outcome = run_recipe(load_recipe(recipe, ROBUST), tmp_path / "run")
        before = len(asked)
        again = run_recipe(load_recipe(recipe, ROBUST), tmp_path / "run")
        assert len(asked) == before
        plain = run_recipe(load_recipe(recipe), tmp_path / "plain")
        with pytest.raises(RunError, match=r"train\.label_smoothing"):
            run_recipe(load_recipe(recipe, ["train.loss=robust", "train.label_smoothing=0.2"]), tmp_path / "run")
    flips = count_flips(RowFile(tmp_path / "run/round-01/2-verdicts.jsonl", Verdict).read().values())
    assert 0 < flips.flipped < flips.compared
    trained = outcome.rounds[1].train
    assert trained.diagnostics["flip_rate"] == pytest.approx(flips.rate)
    assert trained.diagnostics["label_smoothing"] == pytest.approx(min(flips.rate, 0.4))
    assert again.rounds[1].train == trained
    weights = [
        (tmp_path / run / "round-01/5-policy/adapter_model.safetensors").read_bytes() for run in ("run", "plain")
    ]
    assert weights[0] != weights[1]
    warned = [warning for warning in plain.rounds[1].warnings if "label_smoothing: flip_rate" in warning]
    assert bool(warned) == (flips.rate > 0.15)
    assert "flip_rate" in json.loads((tmp_path / "plain/round-01/round.json").read_text())["train"]["diagnostics"]
