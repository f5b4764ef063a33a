"""A run that is not where a command looks for it: every command says which one may be meant, and how to name it."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prefdistill.cli.app import app
from prefdistill.errors import RunError
from prefdistill.folders import as_argument, no_run, run_folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a run of its own beside ./runs, which has another one, and a comparison."""
    for place in ("warm", "runs/quick", "runs/two/online/seed-7"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "manifest.json").write_text("{}")
    (tmp_path / "runs" / "two" / "comparison.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("warm", "runs/warm: no such folder; expected a run folder: a path, or a name under ./runs; did you mean `./warm`?"),
        ("./quick", "quick: no such folder; expected a run folder: a path, or a name under ./runs; did you mean `quick`?"),
        ("elsewhere/quick", "elsewhere/quick: no such folder; *; did you mean `quick`?"),
        ("qick", "runs/qick: no such folder; *; did you mean `quick`?"),
        ("runs/qick", "runs/qick: no such folder; *; did you mean `quick`?"),
        ("./wram", "wram: no such folder; *; did you mean `./warm`?"),
        ("notes", "runs/notes: no such folder; * under ./runs"),
        ("./notes", "notes: it holds no run (no manifest.json); expected a run folder: a path, or a name under ./runs"),
        ("two", "runs/two: is a comparison; expected a run folder: name a run of it, such as runs/two/online/seed-7"),
    ],
)  # fmt: skip
def test_the_run_that_may_be_meant_is_named_as_a_command_takes_it(here, given, said):
    assert fnmatchcase(str(no_run(run_folder(given))), said)


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "warm"),
        ("report", "warm"),
        ("compare", "warm", "quick"),
        ("refresh", "warm", "--student", "prefdistill.sandbox:student", "--dry-run"),
        ("retrain", "warm"),
        ("drift", "warm", "--log", "log.jsonl"),
        ("forget", "x", "--run", "warm"),
        ("label", "warm", "--no-browser"),
        ("export", "warm", "--to", "out"),
        ("chat", "warm"),
        ("draft", "warm", "--prompt", "a note"),
        ("serve", "warm"),
        ("rubric", "diff", "old.yaml", "old.yaml", "--run", "warm"),
    ],
)
def test_every_command_that_takes_a_run_says_so(here, tmp_path, arguments):
    (tmp_path / "log.jsonl").write_text("")
    (tmp_path / "old.yaml").write_text(
        "name: r\ncriteria:\n  - {name: length, check: length, unit: words, between: [1, 9]}\n"
    )
    problem = CliRunner().invoke(app, list(arguments)).exception
    assert isinstance(problem, RunError), problem
    assert str(problem).endswith("a path, or a name under ./runs; did you mean `./warm`?")


def test_commands_that_are_named_in_messages_find_a_run_beside_runs(here, tmp_path):
    assert [as_argument(Path(each)) for each in ("warm", "runs/quick", "../x", "a b", "/abs")] == [
        "./warm", "runs/quick", "../x", "'./a b'", "/abs",
    ]  # fmt: skip
    (tmp_path / "warm" / "recipe.yaml").write_text("name: warm\n")
    problem = CliRunner().invoke(app, ["report", "./warm"]).exception
    assert "`prefdistill status ./warm` says what is left" in str(problem)
