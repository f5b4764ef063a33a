"""What the new recipe changes beside the student, and what is refused before anything is read of the new base."""

import json
from pathlib import Path
from typing import Any

import pytest

from prefdistill.errors import RecipeError, RunError
from prefdistill.finished import FinishedRun, read_finished
from prefdistill.refresh.changes import recipe_changes
from prefdistill.refresh.planning import default_way, plan_refresh
from prefdistill.refresh.sizes import parameters_of
from tests.compare.runs import Fake

PAIR = {
    "schema": 1,
    "id": "pair",
    "prompt_id": "train-0",
    "round": 1,
    "prompt": [{"role": "user", "content": "Train on this."}],
    "chosen": "good",
    "rejected": "bad",
    "chosen_id": "a",
    "rejected_id": "b",
    "chosen_score": 1.0,
    "rejected_score": 0.0,
    "margin": 1.0,
    "scale": "rubric",
}
ANSWER = {**{key: PAIR[key] for key in ("schema", "id", "prompt_id", "round", "prompt")}, "completion": "good"}


def finished(folder: Path, pairs: bool = True, answers: bool = False, **recipe: Any) -> FinishedRun:
    scores = [0.5, 0.6, 0.7]
    path = Fake(scores, scores, recipe=recipe).write(folder / "old")
    for name, row, wanted in (("4-pairs", PAIR, pairs), ("4-answers", ANSWER, answers)):
        if wanted:
            (path / "round-01" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    return read_finished(path)


def changes(old: FinishedRun, way: Any = "pairs") -> tuple[dict[str, Any], str]:
    found, notes = recipe_changes(old, way)
    split = (each.partition("=") for each in found)
    return {key: json.loads(value) if value.startswith("{") else value for key, _, value in split}, "\n".join(notes)


def test_the_trainers_options_go_on_in_the_warm_start(tmp_path):
    train = {"learning_rate": 3e-4, "epochs": 2, "beta": 0.2, "steps": [5, 6], "lora": {"r": 8}}
    found, notes = changes(finished(tmp_path, train=train))
    warm = found["warm_start"]
    assert (warm["use"], warm["learning_rate"], warm["epochs"], warm["beta"]) == ("dpo", 3e-4, 2, 0.2)
    assert warm["loss"] == "sigmoid+sft" and warm["lora"]["r"] == 8 and "steps" not in warm
    assert warm["prompts"] == 3 and warm["pairs_from"] == str((tmp_path / "old").resolve())
    assert found["train.reference"] == "warm_start" and notes == ""


def test_another_loss_stays(tmp_path):
    found, _ = changes(finished(tmp_path, train={"loss": "robust", "label_smoothing": 0.1}))
    assert (found["warm_start"]["loss"], found["warm_start"]["label_smoothing"]) == ("robust", 0.1)


def test_what_would_judge_old_drafts_again_is_taken_out_and_said(tmp_path):
    drafts = tmp_path / "drafts.jsonl"
    drafts.write_text("")
    old = finished(
        tmp_path,
        teacher={"use": "sandbox"},
        sample={"drafts_from": str(drafts), "teacher_drafts": 2},
        loop={"mode": "offline", "pairs_from": str(tmp_path), "start_from": "base"},
        train={"reference": "previous"},
    )
    found, notes = changes(old)
    assert found["sample.drafts_from"] == "" and found["sample.teacher_drafts"] == "0"
    assert found["loop.mode"] == "online" and found["loop.pairs_from"] == "" and found["loop.start_from"] == "previous"
    assert "train.reference" not in found, "a reference to the round before stays"
    assert all(key in notes for key in ("loop.mode", "loop.pairs_from", "sample.drafts_from", "sample.teacher_drafts"))


def test_answers_start_where_the_old_run_began_with_them(tmp_path):
    warm = {"use": "outputs", "prompts": 2, "answers": 3, "learning_rate": 1e-3}
    old = finished(tmp_path, answers=True, teacher={"use": "sandbox"}, warm_start=warm)
    assert default_way(old) == "answers"
    found = changes(old, "answers")[0]["warm_start"]
    assert (found["use"], found["prompts"], found["answers"], found["learning_rate"]) == ("outputs", 2, 3, 1e-3)
    assert "pairs_from" not in found


def test_a_run_of_answers_alone_goes_on_with_pairs(tmp_path):
    old = finished(
        tmp_path, pairs=False, answers=True, teacher={"use": "sandbox"}, train={"use": "sft", "batch_size": 8}
    )
    assert default_way(old) == "answers"
    found, notes = changes(old, "answers")
    assert found["warm_start"]["use"] == "sft" and found["train"]["use"] == "dpo"
    assert found["train"]["batch_size"] == 8 and "learning_rate" not in found["train"]
    assert "the old run learned from answers" in notes


@pytest.mark.parametrize(
    ("recipe", "way", "message"),
    [
        ({"pairs": False}, None, "no round of it has pairs; expected a run with at least one trained round"),
        ({"pairs": False, "answers": True}, "pairs", "it has answers of the teacher: add `--warm-start answers`"),
        ({}, "answers", "the teacher wrote no answers in it"),
        ({"pair": {"labels": "random"}}, None, "its labels were drawn by lot"),
    ],
)
def test_a_run_with_nothing_to_start_from_is_refused(tmp_path, recipe, way, message):
    old = finished(tmp_path, **recipe)
    with pytest.raises(RunError, match=message):
        plan_refresh(old.directory.path, "org/other", tmp_path / "new", (), way)
    assert not (tmp_path / "new").exists()


def test_a_server_that_goes_on_serving_the_old_student_is_refused(tmp_path):
    served = {"use": "openai", "model": "old-student", "base_url": "http://localhost:1/v1", "adapter_sync": "vllm"}
    old = finished(tmp_path, sample=served)
    (old.directory.path / "prompts.jsonl").touch()
    with pytest.raises(
        RecipeError, match=r"asks a server for the old student \(old-student\); serve the new one and add"
    ):
        plan_refresh(old.directory.path, "org/other", tmp_path / "new", ())


def test_parameters_that_cannot_be_told_are_not_made_up(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 16)
    assert parameters_of([tmp_path / "broken.safetensors"]) is None
    (tmp_path / "model.bin").write_bytes(b"")
    assert parameters_of([tmp_path / "model.bin"]) is None
    assert parameters_of([]) is None
    packed = json.dumps({"w": {"dtype": "U8", "shape": [8, 1], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "packed.safetensors").write_bytes(len(packed).to_bytes(8, "little") + packed)
    assert parameters_of([tmp_path / "packed.safetensors"]) is None
