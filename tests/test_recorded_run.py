"""Eighty real prompts, eight systems' real answers, GPT-4's recorded verdicts: through a recipe, to a trained policy."""

import json
from collections import Counter

import pytest

from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.records import Drop, PreferencePair, TrainResult
from prefdistill.run import RowFile
from tests.conftest import ROOT

DATA = ROOT.parent / "shared" / "data" / "vicuna80_gpt4_roundrobin"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.exists(), reason="no recorded verdicts beside the checkout"),
]

JUDGE = '''
"""Plays back GPT-4's recorded verdicts, in the orders in which it gave them."""

import json
from pathlib import Path
from typing import ClassVar

from prefdistill import Failure, Plugin, Preference, Verdict

PROBABILITY = {1: 1.0, 2: 0.0, 3: 0.5}


class Recorded(Plugin):
    """Looks each comparison up; one that GPT-4 left unparsed is a failure."""

    verdicts: str
    scores_alone: ClassVar[bool] = False
    _rows: dict = {}

    def open(self, context):
        for line in Path(self.verdicts).read_text().splitlines():
            row = json.loads(line)
            self._rows[row["question_id"], row["first"], row["second"]] = row["score"]

    def judge(self, prompt, drafts, rubric):
        system = {draft.id: draft.source.removeprefix("file:") for draft in drafts}
        preferences, failures = [], []
        for first in drafts:
            for second in drafts:
                score = self._rows.get((prompt.fields["question"], system[first.id], system[second.id]))
                if first is second or score is None:
                    continue
                if score in PROBABILITY:
                    preferences.append(
                        Preference(first_id=first.id, second_id=second.id, probability=PROBABILITY[score], judge="gpt-4")
                    )
                else:
                    key = f"{first.id}|{second.id}"
                    failures.append(Failure(stage="judge", key=key, kind="parse", message="unparsed by GPT-4"))
        return Verdict(prompt_id=prompt.id, preferences=tuple(preferences), failures=tuple(failures))
'''
RECIPE = """
name: recorded
rubric: r.yaml
student: {{model: "prefdistill.sandbox:student"}}
prompts: {{path: prompts.jsonl, split_column: part}}
sample: {{drafts_from: drafts.jsonl, max_new_tokens: 16}}
judge: {{use: "recorded.py:Recorded", verdicts: {verdicts}}}
train: {{batch_size: 8, max_length: 384, learning_rate: 1.0e-4}}
evaluate: {{judge: {{use: checks}}}}
loop: {{rounds: 1, prompts_per_round: 80, mode: offline}}
"""


def rows(name):
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def run_recorded(folder, order):
    folder.mkdir()
    prompts = [
        {"id": f"q{row['question_id']}", "question": row["question_id"], "prompt": row["text"], "part": "train"}
        for row in rows("questions.jsonl")
    ]
    prompts += [
        {"id": part, "question": 0, "prompt": f"Say hello, {part}.", "part": part} for part in ("validation", "test")
    ]
    drafts = [
        {"prompt_id": f"q{row['question_id']}", "completion": row["text"], "model": row["model"]}
        for row in order(rows("answers.jsonl"))
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (folder / "drafts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in drafts))
    (folder / "recorded.py").write_text(JUDGE)
    (folder / "r.yaml").write_text("name: r\ncriteria:\n  - {name: words, check: length, between: [1, 500]}\n")
    (folder / "recorded.yaml").write_text(RECIPE.format(verdicts=DATA / "gpt4_verdicts.jsonl"))
    outcome = run_recipe(load_recipe(folder / "recorded.yaml"), folder / "run")
    pairs = RowFile(folder / "run" / "round-01" / "4-pairs.jsonl", PreferencePair).read()
    drops = RowFile(folder / "run" / "round-01" / "4-drops.jsonl", Drop).read()
    return outcome, pairs, drops


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
