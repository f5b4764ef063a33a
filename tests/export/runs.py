"""A finished run to export, made once for all tests of a worker: one round, and validation drafts that are greedy."""

from __future__ import annotations

from pathlib import Path

from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from tests.conftest import ROOT, TINY

CHANGES = (
    "loop.rounds=1",
    "evaluate.temperature=0",
    "evaluate.baselines=[base]",
    "evaluate.judge=null",
    "prompts.validation_limit=12",
    "prompts.test_limit=4",
    "sample.max_new_tokens=90",
    "loop.prompts_per_round=32",
    "train.learning_rate=1.0e-3",
)


def make_run(folder: Path) -> Path:
    recipe = folder / "tiny.yaml"
    recipe.write_text(TINY.format(root=ROOT, cache=folder / "cache"))
    run_recipe(load_recipe(recipe, CHANGES), folder / "run")
    return folder / "run"
