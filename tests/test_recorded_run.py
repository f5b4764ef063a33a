"""Eighty real prompts, eight systems' real answers, GPT-4's recorded verdicts: through a recipe, to a trained policy."""

import json
from collections import Counter

import pytest

from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.records import Drop, PreferencePair, TrainResult
from prefdistill.run import RowFile
from tests.agreement.recorded_data import vicuna_verdicts
from tests.conftest import ROOT

DATA = ROOT.parent / "shared" / "data" / "vicuna80_gpt4_roundrobin"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.exists(), reason="no recorded verdicts beside the checkout"),
]

RECIPE = """
name: recorded
rubric: r.yaml
student: {{model: "prefdistill.sandbox:student"}}
prompts: {{path: prompts.jsonl, split_column: part}}
sample: {{drafts_from: drafts.jsonl, max_new_tokens: 16}}
judge: {{use: recorded, path: verdicts.jsonl}}
train: {{batch_size: 8, max_length: 384, learning_rate: 1.0e-4}}
evaluate: {{judge: {{use: checks}}}}
loop: {{rounds: 1, prompts_per_round: 80, mode: offline}}
"""


def rows(name):
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def run_recorded(folder, order):
    folder.mkdir()
    prompts = [
        {"id": f"q{row['question_id']}", "prompt": row["text"], "part": "train"} for row in rows("questions.jsonl")
    ]
    prompts += [{"id": part, "prompt": f"Say hello, {part}.", "part": part} for part in ("validation", "test")]
    drafts = [
        {"prompt_id": f"q{row['question_id']}", "completion": row["text"], "model": row["model"]}
        for row in order(rows("answers.jsonl"))
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (folder / "drafts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in drafts))
    vicuna_verdicts(folder / "verdicts.jsonl")
    (folder / "r.yaml").write_text("name: r\ncriteria:\n  - {name: words, check: length, between: [1, 500]}\n")
    (folder / "recorded.yaml").write_text(RECIPE.format())
    outcome = run_recipe(load_recipe(folder / "recorded.yaml"), folder / "run")
    pairs = RowFile(folder / "run" / "round-01" / "4-pairs.jsonl", PreferencePair).read()
    drops = RowFile(folder / "run" / "round-01" / "4-drops.jsonl", Drop).read()
    return outcome, pairs, drops


@pytest.mark.slow
def test_recorded_verdicts_make_pairs_and_train_a_round(tmp_path):
    outcome, pairs, drops = run_recorded(tmp_path / "stored", list)
    assert len(pairs) + len(drops) == 80
    assert (len(pairs), Counter(drop.reason for drop in drops.values())) == (77, {"orders_disagree": 3})
    trained = TrainResult.model_validate_json((tmp_path / "stored/run/round-01/5-policy/train.json").read_text())
    assert trained.adapter_moved > 0.5
    assert trained.truncated > 0, "384 tokens hold few of these answers, and the run says so"
    assert any("cut at" in warning or "truncated" in warning for warning in outcome.rounds[1].warnings)
    _, swapped, _ = run_recorded(tmp_path / "swapped", lambda answers: answers[::-1])
    texts = [{(pair.prompt_id, pair.chosen, pair.rejected) for pair in found.values()} for found in (pairs, swapped)]
    assert texts[0] == texts[1]
