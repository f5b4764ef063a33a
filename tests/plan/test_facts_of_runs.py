"""What a plan takes from whole runs: the figures that the server billed, as the run wrote them down."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from prefdistill.loop import run_recipe
from prefdistill.plan.chapters import write_plan
from prefdistill.plan.document import load_plan
from prefdistill.plan.facts import plan_from
from prefdistill.plan.quantities import Range
from prefdistill.recipe import load_recipe
from tests.conftest import ROOT, TINY
from tests.loopback import Loopback, Served, judging_by

RUBRIC = """
name: short
purpose: Short e-mails.
criteria:
  - {name: brevity, question: Is the e-mail short?, levels: [very long, long, medium, short, very short]}
"""


MARKS = re.compile(r"<(draft|first)-[0-9a-f]{12}>")
"""How a judge's prompt shows what it asks about."""


def answer(body: dict[str, Any]) -> Served:
    """Judge by length, and write an e-mail where nothing is to be judged; bill each request by its own length."""
    asked = body["messages"][-1]["content"]
    judging = any(mark in asked for mark in ("<draft-", "<first-"))
    text = (
        judging_by(lambda draft: max(0.0, 1.0 - len(draft) / 400))(body)
        if judging
        else f"Dear all,\n\n{asked}\n\nBest, A"
    )
    sent = sum(len(each["content"]) for each in body["messages"])
    return Served(text=text, prompt_tokens=sent // 3, completion_tokens=len(text) // 3)


@pytest.mark.slow
def test_tokens_and_money_are_what_the_server_billed(tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text(RUBRIC)
    with Loopback(answer) as server:
        teacher = {"use": "openai", "model": "m", "base_url": server.url, "usd_per_million": {"input": 3, "output": 15}}
        text = TINY.format(root=ROOT, cache="cache").replace("rounds: 2", "rounds: 1")
        text = text.replace("teacher: {use: sandbox}", f"teacher: {json.dumps(teacher)}")
        text = text.replace("judge: {use: checks}", "judge: {use: rubric, concurrency: 4}")
        text = text.replace(f"{ROOT}/rubrics/sandbox-email.yaml", "short.yaml").replace(
            "judge: {use: sandbox_held_out}, gold: {use: sandbox_gold}", "temperature: 0.7"
        )
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(text)
        run_recipe(load_recipe(recipe), tmp_path / "run")
        billed = [each for each in server.worked if not MARKS.search(each[0])]
    plan_from(recipe, tmp_path / "run", tmp_path / "plan.yaml")
    plan = load_plan(tmp_path / "plan.yaml")
    assert plan.traffic.tokens_in == Range.of(round(fmean(each[1] for each in billed), 1))
    assert plan.traffic.tokens_out == Range.of(round(fmean(each[2] for each in billed), 1))
    assert f"mean of {len(billed)} answers it was paid for" in plan.where_known("traffic.tokens_in")
    usd = sum(3 * each[1] + 15 * each[2] for each in server.worked) / 1e6
    assert plan.costs.one_off is not None and plan.costs.one_off[0].usd.central == pytest.approx(usd, rel=1e-3)
    assert plan.costs.judged_usd_a_request is not None and plan.costs.judged_usd_a_request.central > 0
    assert plan.licences.trained_on == ("labels",)
    write_plan(plan)
