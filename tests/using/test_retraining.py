"""`prefdistill retrain`: the same pairs, the same bytes; what is not as it was is named."""

import json
import shutil

import pytest

from prefdistill.errors import RunError
from prefdistill.protocols import no_progress
from prefdistill.run import read_json, write_json
from prefdistill.using.retraining import is_within, lines_of, retrain


@pytest.fixture
def copy(used, tmp_path):
    """A copy of the run in which round 2 was kept."""
    folder = tmp_path / "run"
    shutil.copytree(used[0], folder)
    policy = read_json(folder / "policy" / "policy.json")
    write_json(folder / "policy" / "policy.json", {**policy, "round": 2, "adapter": "round-02/5-policy"})
    return folder


def test_trained_again_from_round_one_on_the_adapters_are_equal(copy):
    before = {path: path.read_bytes() for path in copy.glob("round-*/**/*") if path.is_file()}
    found = retrain(copy, None, no_progress)
    assert [(each.round, each.equal_bytes) for each in found.differences] == [(1, True), (2, True)]
    assert list(lines_of(found, 0.01))[-1] == "equal: the same policy"
    assert is_within(found, 0.0)
    assert (copy / found.last.folder / "adapter_model.safetensors").is_file()
    assert found.last.folder.startswith("retrained/20") and found.last.folder.endswith("/round-02")
    assert json.loads(next(copy.glob("retrained/*/retrained.json")).read_text())["differences"][1]["equal_bytes"]
    assert {path: path.read_bytes() for path in before} == before


def test_another_policy_is_told_with_how_far_and_why(copy):
    recipe = (copy / "recipe.yaml").read_text()
    (copy / "recipe.yaml").write_text(recipe.replace("learning_rate: 0.03", "learning_rate: 0.003"))
    assert (copy / "recipe.yaml").read_text() != recipe
    manifest = read_json(copy / "manifest.json")
    versions = {**manifest["versions"], "trl": "0.1"}
    write_json(copy / "manifest.json", {**manifest, "torch_threads": 64, "versions": versions})
    found = retrain(copy, 2, no_progress)
    assert [each.round for each in found.differences] == [2]
    last = found.last
    assert not last.equal_bytes
    assert last.relative_norm > 0.01
    assert last.of_change > 0.5, "a tenth of the learning rate leads somewhere else"
    assert last.gap > 0.01
    assert last.kl > 0
    said = "\n".join(lines_of(found, 0.01))
    assert "not as it was: torch threads (OMP_NUM_THREADS): 64 then" in said
    assert "not as it was: trl: 0.1 then" in said
    assert said.endswith("beyond 0.01 nats a token: another policy")
    assert not is_within(found, 0.01)
    assert is_within(found, 1000.0)


def test_the_base_and_lost_pairs_cannot_be_retrained(copy):
    policy = read_json(copy / "policy" / "policy.json")
    write_json(copy / "policy" / "policy.json", {**policy, "round": 0, "adapter": None})
    with pytest.raises(RunError, match="the base is kept, and nothing trained it; name a round with --round"):
        retrain(copy, None, no_progress)
    pairs = copy / "round-01" / "4-pairs.jsonl"
    pairs.write_text("".join(pairs.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(RunError, match=r"1 pairs that were trained on.*are in no 4-pairs.jsonl"):
        retrain(copy, 1, no_progress)
