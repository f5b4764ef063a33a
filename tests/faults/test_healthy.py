"""Nothing is found where nothing is wrong: the quickstart, and a second world that no threshold was chosen on."""

from __future__ import annotations

import pytest

from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from tests.conftest import ROOT
from tests.faults.injected import QUICKSTART, Outcome, rounds_of

pytestmark = pytest.mark.slow
SECOND = ROOT / "tests" / "second_sandbox" / "recipe.yaml"
SEEDS = (1, 2, 3, 4, 5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("recipe", [QUICKSTART, SECOND], ids=["quickstart", "second sandbox"])
def test_a_healthy_run_is_silent_and_gets_better(recipe, seed, tmp_path):
    run_recipe(load_recipe(recipe, [f"seed={seed}"]), tmp_path / "run")
    found = Outcome(rounds_of(tmp_path / "run"))
    assert not found.findings, str(found)
    assert max(each.gold or 0.0 for each in found.rounds) > (found.rounds[0].gold or 0.0) + 0.1
