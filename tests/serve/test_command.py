"""`prefdistill serve` from the command line: what it says before anything listens."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from prefdistill.cli import app
from prefdistill.errors import PluginError, PrefdistillError, RecipeError, RunError
from prefdistill.records import Draft, Message, Policy, Prompt
from prefdistill.run import RunDirectory
from prefdistill.serve import command
from prefdistill.serve.command import Wanted, serve_run
from prefdistill.serve.holding import held, held_log
from prefdistill.serve.listening import bound
from prefdistill.serve.opening import open_teacher
from prefdistill.serve.plugged import PluginTeacher
from prefdistill.serve.servers import Server
from prefdistill.serve.upstream import Nobody
from prefdistill.stored import stored_run
from tests.conftest import ROOT


def make_run(folder: Path, drafts: int = 60, extra: str = "") -> Path:
    """Write what `serve` needs of a finished run whose base was kept: no model is loaded."""
    run = RunDirectory(folder / "served-run")
    rows = [
        json.loads(line) for line in (ROOT / "recipes/prompts/quickstart.jsonl").read_text().splitlines()[: drafts + 40]
    ]
    prompts = [
        Prompt(
            id=row["id"],
            messages=(Message(role="user", content=row["prompt"]),),
            split="validation" if number < drafts else "train",
            fields={key: value for key, value in row.items() if key not in ("id", "prompt")},
        )
        for number, row in enumerate(rows)
    ]
    run.path.mkdir(parents=True)
    run.rows(run.path, "prompts.jsonl", Prompt).rewrite(prompts)
    written = [
        Draft(
            id=f"{prompt.id}/base",
            prompt_id=prompt.id,
            source="base",
            policy=Policy(model="m"),
            round=0,
            purpose="validation",
            index=0,
            completion="{topic} {day} {time}".format(**prompt.fields) + " please" * (number % 17),
            finish_reason="stop",
            tokens=10,
            seed=1,
            log_prob=-2.0 - number / drafts,
        )
        for number, prompt in enumerate(prompts[:drafts])
    ]
    run.rows(run.baselines, "base-validation-drafts.jsonl", Draft).rewrite(written)
    run.recipe.write_text(
        f"name: x\nrubric: {ROOT}/rubrics/sandbox-email.yaml\nstudent: {{model: 'prefdistill.sandbox:student'}}\n"
        f"prompts: {{path: {run.prompts}}}\njudge: checks\nloop: {{rounds: 1, prompts_per_round: 8}}\n{extra}"
    )
    run.manifest.write_text("{}")
    run.result.write_text("{}")
    run.policy.mkdir()
    (run.policy / "policy.json").write_text('{"round": 0}')
    return run.path


def serve(*arguments: Any) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, ["serve", *map(str, arguments)])


def test_it_calibrates_from_the_runs_records_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    done = serve(run, "--calibrate-only", "--fallback", "0.2")
    assert done.exit_code == 0, done.exception
    assert "of 60 validation prompts go to the teacher (wanted 20.0%" in done.stdout
    assert "only 60 validation prompts" in done.stdout
    found = json.loads((run / "calibration.json").read_text())
    assert abs(found["share"] - 0.2) < 0.04
    assert (found["run"], found["prompts"]) == ("served-run", 60)
    assert found["log_prob"] < 0 and found["characters"][0] < found["characters"][1]


def test_mistakes_are_one_message(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for options, words in (
        (["--routes", "gates"], "did you mean `gate`"),
        (["--host", "0.0.0.0"], "--api-key-env"),
        (["--api-key-env", "NO_SUCH_KEY"], "not set"),
        (["--round", "3"], "no policy of round 3"),
        (["teecher.model=x"], "unknown key"),
    ):
        done = serve(run, *options)
        assert isinstance(done.exception, PrefdistillError), options
        assert done.stdout == "" and words in str(done.exception)
    assert "no such folder" in str(serve(tmp_path / "none").exception)
    assert serve(run, "--fallback", "1.5").exit_code == 2


def test_a_taken_port_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RunError, match="expected a free port"):
        serve_run(Wanted(make_run(tmp_path), port=taken.getsockname()[1]), lambda line: None)


def test_a_second_server_needs_a_log_of_its_own_and_leaves_the_calibration_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert serve(run, "--calibrate-only").exit_code == 0
    before = (run / "calibration.json").read_text()
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    with taken, held_log(run / "served.jsonl"), held(run / "calibration.json"):
        for same in (run / "served.jsonl", run / "policy" / ".." / "served.jsonl"):
            done = serve(run, "--fallback", "0.3", "--log", same)
            assert isinstance(done.exception, RunError) and done.exception.exit_code == 2
            assert "another server writes this log" in str(done.exception) and "--log" in str(done.exception)
            assert done.stdout == "", "said before anything is calibrated"
        said: list[str] = []
        with pytest.raises(RunError, match="expected a free port"):  # so that it gets no further
            serve_run(Wanted(run, port=port, fallback=0.3, log=tmp_path / "own.jsonl"), said.append)
        assert "was not replaced" in said[-1] and "those above" in said[-1]
        done = serve(run, "--calibrate-only", "--fallback", "0.3")
        assert done.exit_code == 0 and "was not replaced" in done.stdout and "end it first" in done.stdout
        assert (run / "calibration.json").read_text() == before
    done = serve(run, "--calibrate-only", "--fallback", "0.3")
    assert "not replaced" not in done.stdout and (run / "calibration.json").read_text() != before


def test_a_server_holds_its_log_and_calibration_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    seen: list[bool] = []

    async def serving(*_: Any) -> None:
        for name in ("served.jsonl", "calibration.json"):
            with held(run / name) as ours:
                seen.append(ours)

    monkeypatch.setattr(command, "_serve", serving)
    for _ in range(2):
        serve_run(Wanted(run, port=0), lambda line: None)
    assert seen == [False] * 4
    serve_run(Wanted(run, port=0, log=Path("/dev/null")), lambda line: None)
    assert not Path("/dev/.null.lock").exists(), "a device has no single writer"


def test_a_missing_extra_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "NEEDED", ("json", "no_such_package"))
    with pytest.raises(PluginError, match=r"no_such_package.*pip install 'prefdistill\[serve\]'"):
        command.require_extra()


def test_a_run_without_validation_drafts_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "baselines/base-validation-drafts.jsonl").unlink()
    with pytest.raises(RunError, match="no drafts on validation prompts"):
        serve_run(Wanted(run, calibrate_only=True), lambda line: None)


@pytest.mark.parametrize(
    ("teacher", "kind"),
    [
        ("", Nobody),
        ("teacher: {use: sandbox}\n", PluginTeacher),
        ("teacher: {use: openai, model: gpt-5, base_url: 'http://localhost:1/v1', concurrency: 7}\n", Server),
    ],
)
def test_the_teacher_is_the_recipes(tmp_path: Path, teacher: str, kind: Any) -> None:
    said: list[str] = []
    run, recipe = stored_run(make_run(tmp_path, extra=teacher))
    found = open_teacher(recipe, run, 3.0, said.append)
    assert isinstance(found, kind)
    if isinstance(found, Server):
        assert (found.base_url, found.model, found.concurrency, found.timeout_seconds) == (
            "http://localhost:1/v1",
            "gpt-5",
            7,
            3.0,
        )
    if isinstance(found, Nobody):
        assert "no teacher" in said[0]


def test_a_teacher_without_its_key_is_said_before_anything_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run = make_run(tmp_path, extra="teacher: {use: openai, model: gpt-5}\n")
    with pytest.raises(PluginError, match="OPENAI_API_KEY is not set"):
        serve_run(Wanted(run, port=0), lambda line: None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"student_url": "ftp://x"}, "expected a URL"),
        ({"student_url": "http://u:p@host/v1"}, "without a password"),
        ({"student_url": "http://127.0.0.1:9/v1"}, "name the student with --student-model"),
    ],
)
def test_a_students_server_that_cannot_be_used_is_said(tmp_path: Path, options: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        serve_run(Wanted(make_run(tmp_path), port=0, **options), lambda line: None)


def test_help_needs_none_of_the_extra(tmp_path: Path) -> None:
    code = "import sys; from prefdistill.cli import app; app(['serve', '--help'], standalone_mode=False); "
    code += "print(sorted({'fastapi', 'uvicorn', 'torch', 'numpy', 'aiohttp', 'prometheus_client'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "--calibrate-only" in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_help_says_what_needs_no_key() -> None:
    shown = " ".join(CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "400"}).stdout.split())
    assert "/healthz and /metrics need none" in shown


def test_connections_are_not_held_back_by_nagle() -> None:
    with bound("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP, "asyncio sets TCP_NODELAY on such sockets only"
