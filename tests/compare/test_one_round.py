"""With one round online is offline: two runs that share nothing come to the same bytes and the same figures."""

import json

import pytest

from prefdistill.finished import read_finished
from prefdistill.loop import run_recipe
from prefdistill.metrics.scores import DraftScore
from prefdistill.recipe import load_recipe
from tests.conftest import ROOT, TINY

COSTS = ("usage", "seconds", "evaluation_usage")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The tiny recipe for one round, online and offline, each in a folder with a request cache of its own."""
    folders = {}
    for mode in ("online", "offline"):
        folder = tmp_path_factory.mktemp(mode)
        (folder / "tiny.yaml").write_text(TINY.format(root=ROOT, cache=folder / "cache"))
        overrides = (f"loop.mode={mode}", "loop.rounds=1", "loop.keep=last", "loop.stop=never")
        run_recipe(load_recipe(folder / "tiny.yaml", overrides), folder / "run")
        folders[mode] = folder / "run"
    return folders["online"], folders["offline"]


def rows(path):
    return [{k: v for k, v in json.loads(line).items() if k not in COSTS} for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_every_row_that_was_written_is_the_same(runs):
    online, offline = runs
    names = {path.relative_to(online) for path in online.rglob("*.jsonl") if path.name != "spending.jsonl"}
    assert names == {path.relative_to(offline) for path in offline.rglob("*.jsonl") if path.name != "spending.jsonl"}
    for wanted in ("1-drafts", "2-verdicts", "4-pairs", "6-drafts", "6-held-out", "6-gold", "comparisons"):
        assert any(wanted in str(name) for name in names), wanted
    for name in sorted(names - {path for path in names if path.name == "metrics.jsonl"}):
        assert rows(online / name) == rows(offline / name), name


@pytest.mark.slow
def test_the_policies_are_the_same_bytes(runs):
    online, offline = runs
    for place in ("round-01/5-policy", "policy"):
        one, other = ((run / place / "adapter_model.safetensors").read_bytes() for run in (online, offline))
        assert one == other, place
        assert len(one) > 1000


@pytest.mark.slow
def test_the_test_scores_and_all_figures_of_the_round_are_the_same(runs):
    one, other = (read_finished(run) for run in runs)
    assert (one.kept, other.kept) == (1, 1), "the trained policy is what was measured"
    assert one.result["test"] == other.result["test"]
    assert one.result["test"]["score_gain"] != 0, "the policy is not the base"
    assert one.result["pgr"] == other.result["pgr"]
    for name in (
        "diagnostics",
        "drops",
        "counts",
        "findings",
        "win_rate",
        "rubric_score",
        "held_out_score",
        "gold",
        "kl",
    ):
        assert one.result["rounds"][1][name] == other.result["rounds"][1][name], name
    for writer in ("policy", "base", "teacher"):
        mine, theirs = one.test[writer], other.test[writer]
        assert mine.scores == theirs.scores
        assert {key: draft.completion for key, draft in mine.drafts.items()} == {
            key: draft.completion for key, draft in theirs.drafts.items()
        }
        assert all(isinstance(each, DraftScore) for each in mine.scores["gold"].values())


@pytest.mark.slow
def test_they_are_two_runs_of_two_modes(runs):
    modes = [read_finished(run).result["mode"] for run in runs]
    assert modes == ["online", "offline"]
