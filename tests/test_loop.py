"""The whole loop on the sandbox student: real sampling, real DPO, two small rounds."""

import html
import json
import math
import shutil
import time
from pathlib import Path

import pytest

from prefdistill.errors import RunError
from prefdistill.loop import Silent, run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.records import Draft, Drop, PreferencePair, RoundResult, TrainResult
from prefdistill.run import RowFile
from prefdistill.status import read_status
from tests.commands import start_command
from tests.conftest import ROOT, TINY


def rows(path: Path, ignore: tuple[str, ...] = ()) -> list[dict]:
    found = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        found.append({key: value for key, value in row.items() if key not in ignore})
    return found


def pairs_of(run: Path) -> dict[str, list[dict]]:
    return {path.parent.name: rows(path) for path in sorted(run.glob("round-*/4-pairs.jsonl"))}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One uninterrupted online run of the tiny recipe, shared by the tests that only read it: (folder, recipe)."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = folder / "tiny.yaml"
    recipe.write_text(TINY.format(root=ROOT, cache=folder / "cache"))
    run_recipe(load_recipe(recipe), folder / "run")
    return folder / "run", recipe


def again(recipe, folder, *overrides, **options):
    """Run the recipe in this process, which has torch loaded already."""
    return run_recipe(load_recipe(recipe, overrides), folder, **options)


def test_a_run_leaves_the_folder_that_the_readme_describes(finished):
    run, _ = finished
    for name in ("recipe.yaml", "rubric.yaml", "manifest.json", "prompts.jsonl", "result.json", "report.html"):
        assert (run / name).stat().st_size > 0, name
    for number in (1, 2):
        folder = run / f"round-{number:02d}"
        for name in (
            "1-drafts.jsonl 2-verdicts.jsonl 3-rankings.jsonl 4-pairs.jsonl 4-drops.jsonl 6-drafts.jsonl 6-verdicts.jsonl "
            "6-held-out.jsonl 6-comparisons.jsonl fingerprints.json round.json 5-policy/train.json 5-policy/metrics.jsonl "
            "5-policy/pair_ids.txt 5-policy/adapter_model.safetensors 5-policy/tokenizer.json"
        ).split():
            assert (folder / name).exists(), f"{folder.name}/{name}"


def test_every_prompt_gives_a_pair_or_one_reason(finished):
    run, _ = finished
    for folder in sorted(run.glob("round-*")):
        drafts = RowFile(folder / "1-drafts.jsonl", Draft).read()
        pairs = RowFile(folder / "4-pairs.jsonl", PreferencePair).read()
        drops = RowFile(folder / "4-drops.jsonl", Drop).read()
        prompts = {draft.prompt_id for draft in drafts.values()}
        assert len(drafts) == 24
        assert {pair.prompt_id for pair in pairs.values()} | set(drops) == prompts
        assert not {pair.prompt_id for pair in pairs.values()} & set(drops)


def test_round_two_samples_the_updated_student(finished):
    run, _ = finished
    policies = {draft.policy for draft in RowFile(run / "round-02" / "1-drafts.jsonl", Draft).read().values()}
    assert {policy.adapter for policy in policies} == {"round-01/5-policy"}
    assert {draft.policy.adapter for draft in RowFile(run / "round-01" / "1-drafts.jsonl", Draft).read().values()} == {
        None
    }


def test_training_really_moved_the_student_from_the_named_start(finished):
    run, _ = finished
    first, second = (
        TrainResult.model_validate_json((run / f"round-0{n}" / "5-policy" / "train.json").read_text()) for n in (1, 2)
    )
    assert first.start.adapter is None
    assert first.reference.adapter is None
    assert first.first_loss == pytest.approx(math.log(2), abs=1e-4)
    assert second.start.adapter == "round-01/5-policy"
    assert second.reference.adapter is None
    assert min(first.adapter_moved, second.adapter_moved) > 0.5
    assert second.pairs > len(RowFile(run / "round-02" / "4-pairs.jsonl", PreferencePair).read()) - 4


def test_the_result_for_programs_has_every_key(finished):
    run, _ = finished
    result = json.loads((run / "result.json").read_text())
    assert {"mode", "seed", "rounds", "best_round", "policy", "test", "pgr"} <= set(result)
    assert [each["round"] for each in result["rounds"]] == [0, 1, 2]
    wanted = (
        "round warm_start learned_from drafts judged failed pairs drops win_rate win_rate_interval rubric_score "
        "held_out_score "
        "baseline_rubric_score teacher_rubric_score gate_pass_rate gold mean_tokens adapter_moved kl judge_calls "
        "judge_tokens judge_usd seconds warnings counts failures judge_cached usd_per_pair usd_per_kept_pair "
        "tokens_per_kept_pair checks diagnostics facts findings remedy"
    ).split()
    for each in result["rounds"]:
        assert set(wanted) == set(each)
    last = result["rounds"][-1]
    assert last["gold"] is not None
    assert last["held_out_score"] is not None
    assert last["drafts"] == 24
    assert 0 <= last["win_rate"] <= 1


def test_the_best_round_is_kept(finished):
    run, _ = finished
    result = json.loads((run / "result.json").read_text())
    scores = {each["round"]: each["held_out_score"] for each in result["rounds"]}
    assert result["best_round"] == max(scores, key=lambda number: (scores[number], -number))
    kept = json.loads((run / "policy" / "policy.json").read_text())
    assert kept["round"] == result["best_round"]
    if kept["adapter"]:
        assert (run / "policy" / "adapter_model.safetensors").read_bytes() == (
            run / kept["adapter"] / "adapter_model.safetensors"
        ).read_bytes()


def test_the_test_split_is_touched_by_the_kept_policy_alone(finished):
    run, _ = finished
    test_ids = {
        json.loads(line)["id"] for line in (run / "prompts.jsonl").read_text().splitlines() if '"split":"test"' in line
    }
    for path in run.glob("round-*/*.jsonl"):
        for row in rows(path):
            assert row["prompt_id"] not in test_ids, path


def test_running_again_changes_nothing_and_makes_nothing(finished, tmp_path):
    run, recipe = finished
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.safetensors")}
    again(recipe, copy)
    assert pairs_of(copy) == pairs_of(run)
    assert {path: path.stat().st_mtime_ns for path in (copy / "round-01").rglob("*.safetensors")} == {
        path: stamp for path, stamp in before.items() if "round-01" in str(path)
    }
    assert (
        json.loads((copy / "result.json").read_text())["rounds"]
        == json.loads((run / "result.json").read_text())["rounds"]
    )


@pytest.fixture(scope="module")
def offline_run(finished, tmp_path_factory):
    """The same recipe run offline, for the tests that only read it."""
    folder = tmp_path_factory.mktemp("offline") / "run"
    again(finished[1], folder, "loop.mode=offline")
    return folder


def test_the_first_online_round_equals_the_first_offline_round_bit_for_bit(finished, offline_run):
    online, offline = finished[0] / "round-01", offline_run / "round-01"
    assert rows(online / "1-drafts.jsonl") == rows(offline / "1-drafts.jsonl")
    assert rows(online / "4-pairs.jsonl") == rows(offline / "4-pairs.jsonl")
    adapter = Path("5-policy") / "adapter_model.safetensors"
    assert (online / adapter).read_bytes() == (offline / adapter).read_bytes()
    assert rows(online / "6-drafts.jsonl") == rows(offline / "6-drafts.jsonl")


def test_offline_samples_every_round_from_the_base(offline_run):
    for number in (1, 2):
        drafts = RowFile(offline_run / f"round-0{number}" / "1-drafts.jsonl", Draft).read()
        assert {draft.policy.adapter for draft in drafts.values()} == {None}
    trained = json.loads((offline_run / "round-02" / "5-policy" / "train.json").read_text())
    assert trained["start"]["adapter"] == "round-01/5-policy"


KILL_POINTS = {
    "sampling": ("round-01/1-drafts.jsonl", 7),
    "judging": ("round-01/2-verdicts.jsonl", 3),
    "training": ("round-01/5-policy/metrics.jsonl", 1),
    "between rounds": ("round-01/round.json", 1),
    "second round's sampling": ("round-02/1-drafts.jsonl", 5),
    "evaluation": ("round-02/6-drafts.jsonl", 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("where", KILL_POINTS)
def test_a_killed_run_goes_on_to_the_same_pairs(finished, tmp_path, where):
    """Named moments on the sandbox student; `tests/test_kills.py` kills at random ones with every run of the tests."""
    run, recipe = finished
    name, lines = KILL_POINTS[where]
    folder = tmp_path / "killed"
    process = start_command(["run", recipe, "--run", folder], tmp_path)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.is_alive():
        path = folder / name
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.005)
    process.kill()
    process.join()
    assert (folder / name).exists(), "the run ended before the moment at which it should be killed"
    again(recipe, folder)
    assert pairs_of(folder) == pairs_of(run)
    for number in (1, 2):
        adapter = Path(f"round-0{number}") / "5-policy" / "adapter_model.safetensors"
        assert (folder / adapter).read_bytes() == (run / adapter).read_bytes()


def copied(finished, tmp_path):
    run, recipe = finished
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    return copy, recipe


def test_a_changed_recipe_names_the_keys_and_what_is_stale(finished, tmp_path):
    copy, recipe = copied(finished, tmp_path)
    pairs = (copy / "round-01" / "4-pairs.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"pair.min_margin: 0.05 → 0.5"):
        again(recipe, copy, "pair.min_margin=0.5")
    assert (copy / "round-01" / "4-pairs.jsonl").read_bytes() == pairs, "a refused run changes nothing"
    with pytest.raises(RunError) as trained:
        again(recipe, copy, "train.beta=0.2")
    assert "round-01/policy was made with other settings: train.beta: 0.1 → 0.2" in str(trained.value)
    assert "--redo-from train" in str(trained.value)
    with pytest.raises(RunError) as sampled:
        again(recipe, copy, "sample.temperature=0.9")
    assert "round-01/drafts was made with other settings: sample.temperature: 1.0 → 0.9" in str(sampled.value)


@pytest.mark.slow
def test_redo_from_train_keeps_drafts_and_what_it_replaces(finished, tmp_path):
    copy, recipe = copied(finished, tmp_path)
    before = (copy / "round-01" / "1-drafts.jsonl").read_bytes()
    again(recipe, copy, "train.beta=0.2", "loop.rounds=1", redo_from="train")
    assert (copy / "round-01" / "1-drafts.jsonl").read_bytes() == before
    old = list((copy / "replaced").rglob("round-01/5-policy/adapter_model.safetensors"))
    assert len(old) == 1
    assert old[0].read_bytes() != (copy / "round-01" / "5-policy" / "adapter_model.safetensors").read_bytes()


class Stopping(Silent):
    """Ends the run at its second report of sampling."""

    reports = 0

    def progress(self, stage, done, total, note):
        self.reports += stage == "sample"
        if self.reports == 2:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_redo_that_was_killed_halfway_is_finished_by_the_next_run(finished, tmp_path):
    copy, recipe = copied(finished, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        again(recipe, copy, redo_from="sample", display=Stopping())
    drafts = RowFile(copy / "round-01" / "1-drafts.jsonl", Draft)
    assert 0 < len(drafts.read()) < 24
    again(recipe, copy)
    assert len(drafts.read()) == 24
    assert pairs_of(copy) == pairs_of(finished[0])


class Killed(Silent):
    """Ends the run when it samples."""

    def progress(self, stage, done, total, note):
        raise KeyboardInterrupt


def test_another_policy_on_the_test_split_is_a_warning(finished, tmp_path):
    copy, recipe = copied(finished, tmp_path)
    assert not again(recipe, copy).warnings
    before = copy / "test" / "round-07" / "drafts.jsonl"
    before.parent.mkdir(parents=True)
    before.write_text("")
    (warning,) = again(recipe, copy).warnings
    assert warning.startswith("the test split was already measured for round 7; round ")
    assert html.escape(warning[:60]) in (copy / "report.html").read_text()


def test_raising_the_number_of_rounds_goes_on(finished, tmp_path):
    copy, recipe = copied(finished, tmp_path)
    before = {name: (copy / name).read_bytes() for name in ("recipe.yaml", "manifest.json", "rubric.yaml")}
    with pytest.raises(RunError, match=r"train\.beta"):
        again(recipe, copy, "loop.rounds=3", "train.beta=0.2")
    assert {name: (copy / name).read_bytes() for name in before} == before
    with pytest.raises(KeyboardInterrupt):
        again(recipe, copy, "loop.rounds=3", display=Killed())
    assert [name for name in before if (copy / name).read_bytes() != before[name]] == ["recipe.yaml"]
    status = read_status(copy)
    assert (status.finished, status.kept, status.parts[3].state) == (False, False, "begun")
    assert status.command == f"prefdistill run {copy / 'recipe.yaml'} --run {copy}"
    again(copy / "recipe.yaml", copy)
    assert read_status(copy).finished
    assert (copy / "round-03" / "round.json").exists()
    assert RoundResult.model_validate_json((copy / "round-03" / "round.json").read_text()).pairs > 0


def test_an_edited_weight_scores_again_without_sampling_or_judging(finished, tmp_path):
    copy, recipe = copied(finished, tmp_path)
    text = (ROOT / "rubrics" / "sandbox-email.yaml").read_text()
    heavier = tmp_path / "heavier.yaml"
    heavier.write_text(text.replace("between: [20, 40], soft: 20, weight: 2", "between: [20, 40], soft: 20, weight: 9"))
    assert heavier.read_text() != text
    stamps = {name: (copy / "round-01" / name).read_bytes() for name in ("1-drafts.jsonl", "2-verdicts.jsonl")}
    again(recipe, copy, f"rubric={heavier}", "loop.rounds=1", redo_from="train")
    assert {name: (copy / "round-01" / name).read_bytes() for name in stamps} == stamps


@pytest.mark.slow
def test_the_runs_own_recipe_runs_again(finished, tmp_path):
    run, _ = finished
    again(run / "recipe.yaml", tmp_path / "again", "loop.rounds=1")
    assert rows(tmp_path / "again" / "round-01" / "4-pairs.jsonl") == rows(run / "round-01" / "4-pairs.jsonl")


def kept_test_drafts(run):
    """Return the test drafts of the kept policy; the base's own are among the baselines."""
    number = json.loads((run / "result.json").read_text())["best_round"]
    if number == 0:
        return run / "baselines" / "base-test-drafts.jsonl"
    return run / "test" / f"round-{number:02d}" / "drafts.jsonl"


def test_the_report_without_texts_holds_no_draft(finished, tmp_path):
    copy, recipe = copied(finished, tmp_path)
    again(recipe, copy, texts=False)
    page = (copy / "report.html").read_text()
    sentences = {line[:40] for row in rows(kept_test_drafts(copy)) for line in row["completion"].split("\n")}
    sentences = {sentence for sentence in sentences if len(sentence) == 40}
    assert len(sentences) > 5
    assert not {sentence for sentence in sentences if sentence in page}
    assert {sentence for sentence in sentences if html.escape(sentence) in (finished[0] / "report.html").read_text()}


def test_changed_prompts_are_noticed(finished, tmp_path):
    copy, recipe = copied(finished, tmp_path)
    rows_now = [json.loads(line) for line in (ROOT / "recipes/prompts/quickstart.jsonl").read_text().splitlines()]
    other_text, other_field = tmp_path / "text.jsonl", tmp_path / "field.jsonl"
    other_text.write_text("".join(json.dumps({**row, "prompt": row["prompt"] + " Now."}) + "\n" for row in rows_now))
    other_field.write_text("".join(json.dumps({**row, "day": "Sunday"}) + "\n" for row in rows_now))
    with pytest.raises(RunError, match=r"drafts was made with other settings: prompts.path"):
        again(recipe, copy, f"prompts.path={other_text}")
    with pytest.raises(RunError, match=r"verdicts was made with other settings: prompts.path"):
        again(recipe, copy, f"prompts.path={other_field}")


def test_redoing_the_evaluation_does_not_redo_what_comes_before_it(finished, tmp_path):
    copy, recipe = copied(finished, tmp_path)
    with pytest.raises(RunError, match=r"round-01/drafts was made with other settings.*--redo-from sample"):
        again(recipe, copy, "sample.temperature=0.9", "evaluate.temperature=0.5", redo_from="evaluate")
    assert (copy / "round-01" / "1-drafts.jsonl").exists()


def test_an_edited_rubric_is_named_by_criterion_and_its_checks_are_applied_again(finished, tmp_path):
    copy, recipe = copied(finished, tmp_path)
    text = (ROOT / "rubrics" / "sandbox-email.yaml").read_text()
    changed = tmp_path / "changed.yaml"
    changed.write_text(text.replace("{name: thanks, ", "{name: thanks, applies_if: {day: Friday}, "))
    assert changed.read_text() != text
    verdicts = (copy / "round-01" / "2-verdicts.jsonl").read_bytes()
    again(recipe, copy, f"rubric={changed}", "loop.rounds=1", redo_from="train")
    assert (copy / "round-01" / "2-verdicts.jsonl").read_bytes() != verdicts
    stricter = tmp_path / "stricter.yaml"
    stricter.write_text(text.replace("between: [20, 40]", "between: [1, 8]"))
    second = tmp_path / "second"
    shutil.copytree(finished[0], second)
    with pytest.raises(RunError, match=r"rubric.criteria.length.between: \[20, 40\] → \[1, 8\]"):
        again(recipe, second, f"rubric={stricter}")


FLAKY = """
from pathlib import Path

def judge(prompt, drafts, rubric):
    if prompt.id[0] in "0123" and not Path({healed!r}).exists():
        raise ConnectionError("try again later")
    return [float(-len(draft.completion)) for draft in drafts]
"""


@pytest.mark.slow
def test_a_finished_round_is_settled_even_if_its_failures_could_pass_now(tiny_recipe, tmp_path):
    (tmp_path / "flaky.py").write_text(FLAKY.format(healed=str(tmp_path / "healed")))
    text = (
        tiny_recipe.read_text().replace("judge: {use: checks}", 'judge: {use: "flaky.py:judge"}').replace("0.05", "1")
    )
    tiny_recipe.write_text(text)
    short = ("loop.rounds=1", "loop.prompts_per_round=24", "train.batch_size=8")
    first = again(tiny_recipe, tmp_path / "run", *short)
    assert first.rounds[1].failures == {"judge.provider": 3 * first.rounds[1].drops["judge_failed"]}
    (tmp_path / "healed").touch()
    second = again(tiny_recipe, tmp_path / "run", *short)
    assert second.rounds[1].pairs == first.rounds[1].pairs
    more = again(tiny_recipe, tmp_path / "run", "loop.rounds=2", *short[1:])
    assert more.rounds[1].pairs == first.rounds[1].pairs
    assert not more.rounds[2].failures
    resolved = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert resolved.judge.identity() == load_recipe(tiny_recipe).judge.identity(), "re-runnable with its own judge file"
