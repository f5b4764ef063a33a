"""One finished run of a student so small that it takes a second, shared by the tests that put its policy to use."""

import json

import pytest

from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from tests.tiny_student import build_tiny_student, text

RECIPE = """
name: used
seed: 5
rubric: rubric.yaml
student: {model: student, device: cpu, system: system.txt}
prompts: {path: prompts.jsonl, split_column: split}
sample: {drafts: 3, max_new_tokens: 16}
judge: {use: checks}
pair: {min_margin: 0.001}
train: {learning_rate: 3.0e-2, epochs: 4, batch_size: 2, lora: {r: 4, alpha: 8}}
loop: {rounds: 2, prompts_per_round: 4}
cache: cache
"""
RUBRIC = """
name: brevity
purpose: Short notes.
criteria:
  - {name: length, check: length, unit: characters, between: [0, 4], soft: 60}
  - {name: no_bring, check: phrases, none_of: [bring]}
"""


@pytest.fixture(scope="session")
def used(tmp_path_factory):
    """(run folder, recipe file)."""
    folder = tmp_path_factory.mktemp("used")
    student = build_tiny_student(folder / "student", layers=1, ascii_only=True)
    generation = student / "generation_config.json"
    ends = {"eos_token_id": [1, 2, *range(60, 120)], "top_k": 2, "repetition_penalty": 3.0}
    generation.write_text(json.dumps({**json.loads(generation.read_text()), **ends}))
    (folder / "rubric.yaml").write_text(RUBRIC)
    (folder / "system.txt").write_text("Be brief.")
    splits = ["train"] * 8 + ["validation"] * 3 + ["test"] * 3
    rows = [{"prompt": f"{number}: {text(number)}", "split": split} for number, split in enumerate(splits)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "used.yaml").write_text(RECIPE)
    run_recipe(load_recipe(folder / "used.yaml"), folder / "run")
    return folder / "run", folder / "used.yaml"
