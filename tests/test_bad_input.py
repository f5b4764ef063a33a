"""What a user gets for bad input: one clear message, and everything paid for still on disk."""

import json
import os
import shutil
import signal
import time

import pytest

from prefdistill.errors import PrefdistillError
from prefdistill.loop import Silent, run_recipe
from prefdistill.recipe import load_recipe
from tests.commands import printed, run_command, start_command
from tests.conftest import ROOT

STUDENT = ROOT / "prefdistill" / "sandbox" / "student"


def refusal(recipe, tmp_path, *overrides):
    """Return the message with which a run is refused."""
    with pytest.raises(PrefdistillError) as caught:
        run_recipe(load_recipe(recipe, overrides), tmp_path / "run")
    return str(caught.value)


def test_prompts_file_missing_empty_or_without_text(tiny_recipe, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "blank.jsonl").write_text('{"prompt": "one"}\n{"prompt": ""}\n')
    assert "no such file" in refusal(tiny_recipe, tmp_path, "prompts.path=gone.jsonl")
    assert "the file is empty" in refusal(tiny_recipe, tmp_path, f"prompts.path={tmp_path}/empty.jsonl")
    assert "blank.jsonl:2: the prompt has no text" in refusal(
        tiny_recipe, tmp_path, f"prompts.path={tmp_path}/blank.jsonl"
    )


def test_a_field_that_no_prompt_has(tiny_recipe, tmp_path):
    rubric = tmp_path / "r.yaml"
    rubric.write_text('name: r\ncriteria:\n  - {name: a, check: mentions, all_of: ["{hour}"]}\n')
    assert "r.yaml:3: criteria.a: no prompt has the field `hour`" in refusal(tiny_recipe, tmp_path, f"rubric={rubric}")


def test_a_student_without_a_chat_template(tiny_recipe, tmp_path):
    shutil.copytree(STUDENT, tmp_path / "student")
    (tmp_path / "student" / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "student" / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (tmp_path / "student" / "tokenizer_config.json").write_text(json.dumps(config))
    assert "has no chat template" in refusal(tiny_recipe, tmp_path, f"student.model={tmp_path}/student")


def test_a_student_that_does_not_exist(tiny_recipe, tmp_path):
    assert "no folder" in refusal(tiny_recipe, tmp_path, "student.model=./gone")
    (tmp_path / "hollow").mkdir()
    assert "cannot be loaded" in refusal(tiny_recipe, tmp_path, f"student.model={tmp_path}/hollow")


def test_fewer_pairs_than_a_batch(tiny_recipe, tmp_path):
    found = refusal(tiny_recipe, tmp_path, "train.batch_size=64")
    assert "fewer than one batch (train.batch_size is 64)" in found
    assert "raise loop.prompts_per_round" in found


def test_all_drafts_identical(tiny_recipe, tmp_path):
    rows = [json.loads(line) for line in (ROOT / "recipes/prompts/quickstart.jsonl").read_text().splitlines()]
    drafts = tmp_path / "same.jsonl"
    with drafts.open("w") as file:
        for row in rows:
            file.writelines(json.dumps({"prompt_id": row["id"], "completion": "Dear all"}) + "\n" for _ in range(3))
    found = refusal(tiny_recipe, tmp_path, f"sample.drafts_from={drafts}", "loop.rounds=1")
    assert "8 identical" in found


class UntilItSamples(Silent):
    """Keeps what the run says before it samples, and ends it there."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def progress(self, stage, done, total, note):
        if stage == "sample":
            raise KeyboardInterrupt


def test_prompts_longer_than_the_context_are_counted_and_named(tiny_recipe, tmp_path):
    rows = [json.loads(line) for line in (ROOT / "recipes/prompts/quickstart.jsonl").read_text().splitlines()]
    rows[0]["prompt"] = "please send it " * 4000
    long = tmp_path / "long.jsonl"
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    display = UntilItSamples()
    with pytest.raises(KeyboardInterrupt):
        run_recipe(load_recipe(tiny_recipe, [f"prompts.path={long}", "loop.rounds=1"]), tmp_path / "run", display)
    assert any(f"1 of {len(rows)} are longer" in note and rows[0]["id"] in note for note in display.notes)


def test_a_folder_that_is_no_run_is_not_touched(tiny_recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    assert "holds no run" in refusal(tiny_recipe, tmp_path)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "years of work"


def test_a_full_disk_ends_with_a_message_and_the_run_goes_on_later(tiny_recipe, tmp_path):
    """A file-size limit stands in for a full disk: writing beyond it fails as on a disk without space."""
    # the prompts file alone is larger, so that the first large write fails
    arguments = ["run", tiny_recipe, "--run", tmp_path / "run", "cache=off"]
    done = run_command(arguments, tmp_path, largest_file=9000)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert run_recipe(load_recipe(tiny_recipe, ["loop.rounds=1"]), tmp_path / "run").rounds


def test_ctrl_c_ends_with_130_and_keeps_what_is_done(tiny_recipe, tmp_path):
    output = tmp_path / "printed"
    process = start_command(["run", tiny_recipe, "--run", tmp_path / "run"], tmp_path, output=output)
    drafts = tmp_path / "run" / "round-01" / "1-drafts.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.is_alive() and not (drafts.exists() and drafts.stat().st_size > 1000):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    _, errors = printed(output)
    assert process.exitcode == 130, errors
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert drafts.stat().st_size > 1000


def test_one_rubric_per_kind_gives_counts_and_scores_per_kind(tiny_recipe, tmp_path):
    rows = [json.loads(line) for line in (ROOT / "recipes/prompts/quickstart.jsonl").read_text().splitlines()]
    kinds = tmp_path / "kinds.jsonl"
    kinds.write_text(
        "".join(json.dumps({**row, "task": ("email", "note")[n % 2]}) + "\n" for n, row in enumerate(rows))
    )
    (tmp_path / "note.yaml").write_text(
        "name: note\ncriteria:\n  - {name: short, check: length, between: [1, 40], soft: 40}\n"
    )
    text = tiny_recipe.read_text().replace(f"{ROOT}/recipes/prompts/quickstart.jsonl", str(kinds))
    text = text.replace(
        f"rubric: {ROOT}/rubrics/sandbox-email.yaml",
        f"rubric: {{column: task, email: {ROOT}/rubrics/sandbox-email.yaml, note: note.yaml}}",
    )
    tiny_recipe.write_text(text)
    outcome = run_recipe(load_recipe(tiny_recipe, ["loop.rounds=1", "loop.prompts_per_round=16"]), tmp_path / "run")
    table = outcome.rounds[1].kinds
    assert set(table) == {"email", "note"}
    assert sum(row["pairs"] for row in table.values()) == outcome.rounds[1].pairs
    assert sum(row["drafts"] for row in table.values()) == outcome.rounds[1].drafts
    assert {each.kind for each in outcome.rounds[1].evaluation} == {None, "email", "note"}
    assert set(json.loads((tmp_path / "run" / "result.json").read_text())["kinds"]) == {"email", "note"}


def test_what_can_be_known_beforehand_is_refused_beforehand(tiny_recipe, tmp_path):
    assert "has no such option" in refusal(tiny_recipe, tmp_path, "train.extra.foo=3")
    assert "evaluate.metrics: `nope` cannot be loaded" in refusal(tiny_recipe, tmp_path, "evaluate.metrics=[nope]")
    no_teacher = ("judge.use=rubric", "teacher=null", "evaluate.baselines=[base]")
    assert "asks a teacher, and there is none" in refusal(tiny_recipe, tmp_path, *no_teacher)
    other = f"{{prompts: {ROOT}/recipes/prompts/quickstart.jsonl, rubric: {ROOT}/rubrics/sandbox-email.yaml"
    no_teacher = ("teacher=null", "evaluate.baselines=[base]", f"evaluate.also=[{other}, judge: {{use: rubric}}}}]")
    said = refusal(tiny_recipe, tmp_path, *no_teacher)
    assert "evaluate.also.0.judge `rubric` asks a teacher, and there is none" in said
    assert "is no judge" in refusal(tiny_recipe, tmp_path, "judge.use=os:getcwd")
    rubric = tmp_path / "r.yaml"
    rubric.write_text("name: r\ncriteria:\n  - {name: a, check: length, between: [1, 9]}\n")
    assert "this is a rubric; expected a recipe" in refusal(rubric, tmp_path)
    assert not (tmp_path / "run" / "round-01").exists()


@pytest.mark.parametrize("place", ["afile", "afile/sub", "/proc/nope/x"])
def test_a_run_folder_that_cannot_be_made(tiny_recipe, tmp_path, place):
    (tmp_path / "afile").write_text("x")
    with pytest.raises(PrefdistillError, match="cannot be written"):
        run_recipe(load_recipe(tiny_recipe), tmp_path / place)


def test_a_secret_in_the_recipe_is_refused(tiny_recipe, tmp_path):
    url = "teacher={use: openai, model: m, base_url: 'http://localhost/v1?api-key=sk-1'}"
    assert "put a key in the environment" in refusal(tiny_recipe, tmp_path, url)
    body = "teacher={use: openai, model: m, base_url: 'http://localhost/v1', extra_body: {api_key: sk-1}}"
    assert "looks like a secret" in refusal(tiny_recipe, tmp_path, body)
