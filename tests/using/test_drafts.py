"""`prefdistill draft`: the run's own sampler, weights and seeds; checks beside each draft."""

import io
import json

import pytest

from prefdistill.errors import RecipeError, RunError
from prefdistill.records import Draft, Prompt
from prefdistill.run import RowFile
from prefdistill.stored import stored_policy, stored_run
from prefdistill.using.drafts import draft, read_prompts, write_drafts


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_prompt_of_the_test_split_gets_the_draft_by_which_the_base_was_measured(used, capsys):
    folder, _ = used
    before = snapshot(folder)
    measured = list(RowFile(folder / "baselines" / "base-test-drafts.jsonl", Draft).read().values())
    prompts = RowFile(folder / "prompts.jsonl", Prompt).read()
    assert len(measured) == 3
    for each in measured:
        text = prompts[each.prompt_id].messages[-1].content
        assert draft(folder, text, None, 1, 0, None, None, as_json=True) == 0
        assert json.loads(capsys.readouterr().out)["completion"] == each.completion
    assert snapshot(folder) == before


def test_a_round_writes_with_its_own_weights(used):
    run, recipe = stored_run(used[0])
    prompts = read_prompts(recipe, "When do we meet?", None)
    assert prompts[0].messages[0].content == "Be brief."
    said = {}
    for number in (0, 1, 2):
        policy = stored_policy(run, recipe, number)
        said[number] = [each.draft.completion for each in write_drafts(run, recipe, policy, prompts, 6, 1.0, None)]
        assert policy.round == number
    assert said[0] != said[1] != said[2]


def test_what_is_printed(used, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO('{"prompt": "one"}\n\n{"prompt": "two", "id": "mine"}\n'))
    assert draft(used[0], None, "-", 2, 1, 0.5, 7, as_json=True) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == 4
    assert {row["index"] for row in found} == {0, 1}
    assert set(found[0]) == {"prompt_id", "index", "completion", "finish_reason", "tokens", "seed", "model", "scores"}
    assert set(found[0]["scores"]) <= {"complete", "length", "no_bring"}
    assert found[0]["model"] == "round 1"
    monkeypatch.setattr("sys.stdin", io.StringIO("Write a note."))
    assert draft(used[0], "-", None, 1, 1, None, None, as_json=False) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("--- draft 1 by round 1")
    assert "no_bring" in shown


def test_too_long_a_prompt_is_a_failure_beside_the_others(used, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "meet " * 400}) + "\n" + json.dumps({"prompt": "short"}) + "\n")
    assert draft(used[0], None, str(rows), 1, 1, None, None, as_json=True) == 1
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1
    assert "no draft (truncated)" in printed.err


@pytest.mark.parametrize(
    ("text", "file", "said", "message"),
    [
        (None, None, "", "give the prompt with --prompt TEXT"),
        ("a", "b", "", "give the prompt with --prompt TEXT"),
        (" ", None, "", "the text is empty"),
        (None, "-", "{", "standard input:1: not valid JSON"),
        (None, "-", "[1]", "standard input:1: expected an object"),
        (None, "gone.jsonl", "", "gone.jsonl: cannot be read"),
    ],
)
def test_bad_input_is_named(used, monkeypatch, text, file, said, message):
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    with pytest.raises(RecipeError, match=message):
        read_prompts(stored_run(used[0])[1], text, file)


def test_a_round_that_is_not_there_names_those_that_are(used, tmp_path):
    run, recipe = stored_run(used[0])
    with pytest.raises(RunError, match="no policy of round 7; trained are rounds 1, 2, and 0 is the base"):
        stored_policy(run, recipe, 7)
    with pytest.raises(RunError, match="no such folder"):
        stored_run(tmp_path / "gone")
