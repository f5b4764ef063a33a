"""What tests share: the repository's root, a tiny real recipe, and the command line as a user runs it."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import run_command

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, those of whole runs, so that no worker waits for one at the end."""
    items.sort(key=lambda item: ("test_kills.py" not in item.nodeid, item.path.parent != ROOT / "tests"))


TINY = """
name: tiny
seed: 3
rubric: {root}/rubrics/sandbox-email.yaml
student: {{model: "prefdistill.sandbox:student"}}
teacher: {{use: sandbox}}
prompts:
  path: {root}/recipes/prompts/quickstart.jsonl
  validation_limit: 8
  test_limit: 8
sample: {{drafts: 3, max_new_tokens: 80}}
judge: {{use: checks}}
pair: {{min_margin: 0.05}}
train: {{learning_rate: 1.0e-3, batch_size: 4}}
evaluate: {{baselines: [base, teacher], judge: {{use: sandbox_held_out}}, gold: {{use: sandbox_gold}}}}
loop: {{rounds: 2, prompts_per_round: 8}}
cache: {cache}
"""
"""A real recipe that runs in seconds: the sandbox student, two rounds of eight prompts."""


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    """The tiny recipe as a file of its own."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.format(root=ROOT, cache=tmp_path / "cache"))
    return path


@pytest.fixture
def prefdistill(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `prefdistill ARGUMENTS…` in an empty folder, as a process of its own, and return how it finished."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_command(arguments, tmp_path, environment)

    return run
