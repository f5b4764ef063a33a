"""Whole refreshes on the sandbox: nothing is paid twice, the verdict is written, forgotten prompts stay forgotten."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from prefdistill.compare.checks import test_prompts as prompts_of_the_test
from prefdistill.errors import RecipeError, RunError
from prefdistill.export.data import trained_pairs
from prefdistill.export.source import read_source
from prefdistill.finished import read_finished
from prefdistill.forgetting import forget, plan_forgetting
from prefdistill.loop import run_recipe
from prefdistill.protocols import no_progress
from prefdistill.recipe import load_recipe
from prefdistill.records import Draft, PreferencePair, Verdict
from prefdistill.refresh.command import price_refresh, refresh_run
from prefdistill.refresh.planning import plan_refresh
from prefdistill.run import RowFile, read_json
from prefdistill.status import read_status
from prefdistill.student import load_tokenizer, render_prompt
from prefdistill.using.retraining import retrain
from tests.conftest import ROOT, TINY
from tests.loopback import Loopback, fenced, judging_by
from tests.tiny_student import build_tiny_student
from tests.tiny_student import section as student_section

STUDENT_B = "prefdistill.sandbox:student_b"
RUBRIC = """
name: short
purpose: Short e-mails.
criteria:
  - name: brevity
    question: Is the e-mail short?
    levels: [very long, long, medium, short, very short]
"""
judge = judging_by(lambda text: max(0.0, 1.0 - len(text) / 400))


def teaching(body: dict[str, Any]) -> str:
    """Judge where a judge is asked, else write the e-mail that is asked for."""
    if fenced(body, "draft") is not None or fenced(body, "first") is not None:
        return judge(body)
    return f"Dear all, please note: {body['messages'][-1]['content'][:60]} Thanks."


def recipe_at(folder: Path, url: str) -> Path:
    """The tiny recipe with teacher, training judge and held-out judge behind a server, and no request cache."""
    teacher = {"use": "openai", "model": "m", "base_url": url}
    held = {"use": "rubric", "concurrency": 4, "teacher": {**teacher, "model": "held"}}
    (folder / "short.yaml").write_text(RUBRIC)
    text = TINY.format(root=ROOT, cache="off").replace(f"{ROOT}/rubrics/sandbox-email.yaml", "short.yaml")
    for before, after in (
        ("teacher: {use: sandbox}", f"teacher: {json.dumps(teacher)}"),
        ("judge: {use: checks}", f"judge: {json.dumps({'use': 'rubric', 'concurrency': 4})}"),
        ("judge: {use: sandbox_held_out}, gold: {use: sandbox_gold}", f"judge: {json.dumps(held)}"),
    ):
        assert before in text
        text = text.replace(before, after)
    path = folder / "paid.yaml"
    path.write_text(text)
    return path


def refresh(old: Path, student: str | Path, folder: Path, *overrides: str, **options: Any) -> tuple[Any, str]:
    """Refresh as the command does; return the report and what was printed."""
    console = Console(width=160, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    report = refresh_run(old, str(student), folder, overrides, options.pop("margin", 0.02), None, True, console)
    return report, console.export_text()


def forget_prompt(folder: Path, key: str) -> None:
    plan = plan_forgetting(folder, key)
    assert plan is not None
    forget(plan)


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file of a run, its lock apart."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two rounds whose judges cost nothing; only read."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "tiny.yaml").write_text(TINY.format(root=ROOT, cache=folder / "cache"))
    run_recipe(load_recipe(folder / "tiny.yaml"), folder / "old")
    return folder / "old"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of another shape, with another tokenizer and random weights."""
    return build_tiny_student(tmp_path_factory.mktemp("student") / "other", ascii_only=True)


@pytest.fixture(scope="module")
def alone(plain: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A refresh by the warm start alone."""
    folder = tmp_path_factory.mktemp("alone") / "new"
    refresh(plain, tiny, folder, "loop.rounds=0", "warm_start.steps=3")
    return folder


@pytest.mark.slow
def test_no_judged_draft_is_paid_again(tmp_path: Path) -> None:
    """With the request cache off, the server sees drafts that the new student wrote, and nothing else."""
    with Loopback(teaching) as server:
        old = tmp_path / "old"
        run_recipe(load_recipe(recipe_at(tmp_path, server.url)), old)
        before, files = list(server.served), contents(old)
        report, printed = refresh(old, STUDENT_B, tmp_path / "new", "loop.rounds=1")
        asked = server.served[len(before) :]
        refresh(old, STUDENT_B, tmp_path / "new", "loop.rounds=1")
        assert len(server.served) == len(before) + len(asked), "a finished refresh asks nothing"
    assert contents(old) == files, "the old run is only read"

    new = read_finished(tmp_path / "new")
    shown = [
        text for body in asked for kind in ("draft", "first", "second") if (text := fenced(body, kind)) is not None
    ]
    assert len(asked) > 50
    assert all(fenced(body, "draft") or fenced(body, "first") for body in asked), "the teacher wrote nothing again"
    own = {
        draft.completion.strip()
        for path in new.directory.path.rglob("*drafts.jsonl")
        for draft in RowFile(path, Draft).read().values()
        if draft.source in ("student", "base")
    }
    assert {text.strip() for text in shown} <= own, "only drafts of the new student were judged"
    twice = [body for body in asked if body in before]
    assert all((fenced(body, "draft") or fenced(body, "first") or "").strip() in own for body in twice)

    account = read_json(tmp_path / "new" / "refresh.json")["account"]
    assert account["charged"]["calls"] == len(asked)
    assert sum(part["usage"]["calls"] for part in account["new"]) == len(asked)
    taken = {part["what"]: part["judgements"] for part in account["reused"]}
    assert taken["teacher's validation and test drafts"] == 2 * 16
    assert taken["training drafts of the warm start"] > 0
    assert "taken over: teacher's validation and test drafts: 16 drafts, 32 scores" in printed
    assert [row[0] for row in report.tables[0].rows] == [
        "old base",
        f"old, kept ({new_name(old)})",
        "new base",
        f"new, kept ({new_name(tmp_path / 'new')})",
        "teacher",
    ]


def new_name(folder: Path) -> str:
    run = read_finished(folder)
    return run.rounds[run.kept].name if run.kept else "its base"


@pytest.mark.slow
def test_the_verdict_is_written_from_records(plain: Path, tmp_path: Path) -> None:
    report, printed = refresh(plain, STUDENT_B, tmp_path / "new", "loop.rounds=1", "warm_start.learning_rate=1e-3")
    found = read_json(tmp_path / "new" / "refresh.json")
    assert found["verdict"] == report.word == "not clear", "eight test prompts say nothing"
    assert found["figures"]["prompts"] == 8
    old, new = found["figures"]["old"], found["figures"]["new"]
    assert (old["size"]["parameters"], new["size"]["parameters"]) == (2_287_296, new["size"]["parameters"])
    assert new["size"]["parameters"] < old["size"]["parameters"]
    assert new["size"]["prompt_tokens"] != old["size"]["prompt_tokens"]
    for name in ("refresh.md", "refresh.html"):
        text = (tmp_path / "new" / name).read_text()
        assert "Not clear: 8 test prompts" in text
        assert "measured once before, for the old student" in text
    assert "off-policy" in (tmp_path / "new" / "refresh.html").read_text()
    assert "Both students on the same test prompts" in printed
    assert (tmp_path / "new" / "recipe.yaml").is_file()
    again = load_recipe(tmp_path / "new" / "recipe.yaml")
    assert run_recipe(again, tmp_path / "new").best_round == read_finished(tmp_path / "new").kept


def test_the_warm_start_has_all_judged_pairs_under_names_of_their_own(plain: Path, alone: Path) -> None:
    theirs = {
        (pair.prompt_id, pair.chosen, pair.rejected)
        for number in (1, 2)
        for pair in RowFile(plain / f"round-0{number}" / "4-pairs.jsonl", PreferencePair).read().values()
    }
    pairs = RowFile(alone / "round-01" / "4-pairs.jsonl", PreferencePair).read().values()
    assert {(pair.prompt_id, pair.chosen, pair.rejected) for pair in pairs} == theirs
    drafts = RowFile(alone / "round-01" / "1-drafts.jsonl", Draft).read()
    assert {draft.source for draft in drafts.values()} == {"file:old"}
    assert {key for pair in pairs for key in (pair.chosen_id, pair.rejected_id)} <= drafts.keys()
    verdicts = RowFile(alone / "round-01" / "2-verdicts.jsonl", Verdict).read().values()
    assert {each.draft_id for verdict in verdicts for each in verdict.judgements} <= drafts.keys()
    assert {draft.policy.adapter for draft in drafts.values() if draft.round == 2} == {
        f"../../{plain.parent.name}/old/round-01/5-policy"
    }


def test_other_commands_read_it(alone: Path, tmp_path: Path) -> None:
    assert read_status(alone).finished
    assert len(trained_pairs(read_source(alone, 1))) >= 4
    copy = tmp_path / "copy"
    shutil.copytree(alone, copy)
    found = retrain(copy, 1, no_progress)
    assert found.missing == 0 and not found.reasons


def test_it_goes_on_without_the_old_run_once_it_has_begun_its_rounds(alone: Path, tmp_path: Path) -> None:
    """The warm start is trained, so its own files are enough: the old run may have gone, or forgotten a prompt."""
    copy = tmp_path / "copy"
    shutil.copytree(alone, copy)
    before = (copy / "round-01" / "5-policy" / "adapter_model.safetensors").read_bytes()
    (copy / "result.json").unlink()
    gone = load_recipe(copy / "recipe.yaml", [f"warm_start.pairs_from={tmp_path / 'gone'}"])
    run_recipe(gone, copy, redo_from=None)
    assert (copy / "round-01" / "5-policy" / "adapter_model.safetensors").read_bytes() == before
    assert (copy / "result.json").is_file()


@pytest.mark.slow
def test_a_forgotten_prompt_stays_forgotten(plain: Path, tiny: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(plain, old)
    pair = next(iter(RowFile(old / "round-01" / "4-pairs.jsonl", PreferencePair).read().values()))
    test_prompt = next(iter(prompts_of_the_test(read_finished(old)).values()))
    for key in (pair.prompt_id, test_prompt.id):
        forget_prompt(old, key)
    refresh(old, tiny, tmp_path / "new", "loop.rounds=0", "warm_start.steps=2")
    note = pair.prompt[-1].content
    for path in (tmp_path / "new").rglob("*"):
        if path.is_file() and path.suffix in (".jsonl", ".json", ".html", ".md", ".yaml", ".txt"):
            assert note not in path.read_text(errors="replace"), path
    found = read_json(tmp_path / "new" / "refresh.json")
    assert found["figures"]["forgotten"] == 1 and found["figures"]["prompts"] == 7
    later = next(prompt for prompt in read_finished(old).prompts.values() if prompt.split == "train")
    forget_prompt(old, later.id)
    _, printed = refresh(old, tiny, tmp_path / "new", "loop.rounds=0", "warm_start.steps=2")
    assert f"prefdistill forget {later.id} --run {tmp_path / 'new'}" in printed


def test_prompts_that_do_not_fit_the_new_student_are_left_out_for_both(plain: Path, tiny: Path, tmp_path: Path) -> None:
    """And what the teacher wrote for the others is still taken over."""
    short = tmp_path / "short"
    shutil.copytree(tiny, short)
    run, section = read_finished(plain), student_section(short)
    tokenizer = load_tokenizer(section)
    lengths = sorted(
        len(render_prompt(tokenizer, each.messages, section)) for each in prompts_of_the_test(run).values()
    )
    config = read_json(short / "config.json")
    tokens = run.recipe.sample.max_new_tokens + lengths[len(lengths) // 2]
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": tokens}))
    report, printed = refresh(plain, short, tmp_path / "new", "loop.rounds=0", "warm_start.steps=2")
    found = read_json(tmp_path / "new" / "refresh.json")
    assert found["figures"]["left_out"] > 0
    assert 0 < found["figures"]["prompts"] < 8
    assert "taken over: teacher's validation and test drafts" in printed
    assert any("do not fit one of the two students" in note.text for note in report.notes)


def test_a_dry_run_writes_nothing(plain: Path, tiny: Path, tmp_path: Path) -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    before = contents(plain)
    price_refresh(plain, str(tiny), tmp_path / "new", (), None, console)
    printed = console.export_text()
    assert "pairs of 2 rounds of the old run; nobody is asked for them" in printed
    assert "new, drafts to be judged" in printed and "no paid calls" in printed
    assert not (tmp_path / "new").exists() and contents(plain) == before


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file and folder was last written, and what it holds, the lock too."""
    paths = sorted(folder.rglob("*"))
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in paths}


@pytest.mark.slow
def test_a_dry_run_of_more_rounds_writes_nothing_into_the_refresh(plain, tiny, tmp_path):
    """Not even its recipe; what it has already is counted, and what was forgotten in the old run since is said."""
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(plain, old)
    refresh(old, tiny, new, "loop.rounds=0", "warm_start.steps=2")
    key = next(prompt.id for prompt in read_finished(old).prompts.values() if prompt.split == "train")
    forget_prompt(old, key)
    before = everything(tmp_path)
    printed = {}
    for rounds in (0, 1):
        console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        price_refresh(old, str(tiny), new, (f"loop.rounds={rounds}", "warm_start.steps=2"), None, console)
        printed[rounds] = console.export_text()
        assert everything(tmp_path).keys() == before.keys()
        assert {name: found for name, found in everything(tmp_path).items() if found != before[name]} == {}
    assert "new: nothing is left to be judged" in printed[0], "the records of the refresh are in the copy"
    assert "new, drafts to be judged: " in printed[1]
    assert f"prefdistill forget {key} --run {new}" in printed[0]
    (new / "baselines" / "base-validation-drafts.jsonl").write_text("torn\n\n")
    with pytest.raises(RunError, match=re.escape(str(new / "baselines" / "base-validation-drafts.jsonl")) + ":1"):
        price_refresh(old, str(tiny), new, ("warm_start.steps=2",), None, console)


def test_going_on_alone_removes_what_a_refresh_said_of_the_earlier_result(alone: Path, tmp_path: Path) -> None:
    copy, names = tmp_path / "copy", ("refresh.html", "refresh.md", "refresh.json")
    shutil.copytree(alone, copy)
    run_recipe(load_recipe(copy / "recipe.yaml"), copy)
    assert all((copy / name).is_file() for name in names), "the result is as it was"
    run_recipe(load_recipe(copy / "recipe.yaml", ["loop.rounds=1", "loop.prompts_per_round=4"]), copy)
    assert not any((copy / name).exists() for name in names)
    assert "refresh.html, refresh.md, refresh.json: removed" in (copy / "log.txt").read_text()


def test_the_same_base_again_is_said(plain: Path, tiny: Path, tmp_path: Path) -> None:
    own = str(ROOT / "prefdistill" / "sandbox" / "student")
    assert "is the old run's base too: no change of the base" in plan_refresh(plain, own, tmp_path / "new", ()).notes[0]
    assert not any("base too" in note for note in plan_refresh(plain, str(tiny), tmp_path / "new", ()).notes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["student.model=x"], r"refresh: student\.model cannot be set: --student names it"),
        (["warm_start.pairs_from=x"], r"warm_start\.pairs_from cannot be set: it is the run that is refreshed"),
        (
            ["evaluate.temperature=0.9"],
            r"evaluate\.temperature: 0\.7 → 0\.9; the old student's test drafts were written",
        ),
        (["evaluate.judge.use=checks"], r"the evaluation judge: another one"),
        (["warm_start.epoch=2"], r"warm_start\.epoch: unknown key"),
        (["loop.mode=offline", "train.reference=bas"], r"train\.reference"),
    ],
)
def test_what_could_not_be_compared_is_refused_before_anything_runs(plain, tiny, tmp_path, overrides, message):
    with pytest.raises(RecipeError, match=message):
        refresh(plain, tiny, tmp_path / "new", *overrides)
    assert not (tmp_path / "new").exists()


def test_mistakes_are_named(plain: Path, alone: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="this is the old run, which is never changed"):
        refresh(plain, tiny, plain)
    with pytest.raises(RunError, match="no such folder; expected a run folder"):
        refresh(tmp_path / "none", tiny, tmp_path / "new")
    with pytest.raises(RecipeError, match=r"--student \./nowhere: no such folder; expected a model folder"):
        refresh(plain, "./nowhere", tmp_path / "new")
    with pytest.raises(
        RunError, match=r"new: holds another run \(student .*other.*\); give this refresh a folder of its own"
    ):
        refresh(plain, STUDENT_B, alone)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(plain, unfinished)
    (unfinished / "result.json").unlink()
    with pytest.raises(RunError, match=r"the run is not finished \(no result\.json\)"):
        refresh(unfinished, tiny, tmp_path / "new")


def test_changed_prompts_are_refused(plain: Path, tiny: Path, tmp_path: Path) -> None:
    rows = (ROOT / "recipes" / "prompts" / "quickstart.jsonl").read_text().splitlines()
    (tmp_path / "fewer.jsonl").write_text("\n".join(rows[:-40]) + "\n")
    with pytest.raises(RecipeError, match=r"refresh: \d+ of the old run's \d+ prompts are no longer in .*fewer\.jsonl"):
        refresh(plain, tiny, tmp_path / "new", f"prompts.path={tmp_path / 'fewer.jsonl'}")


@pytest.mark.slow
def test_onto_a_copy_of_the_same_student_the_bases_drafts_are_taken_over_too(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "prefdistill" / "sandbox" / "student", tmp_path / "copy")
    refresh(plain, tmp_path / "copy", tmp_path / "new", "loop.rounds=0", "warm_start.steps=1")
    account = read_json(tmp_path / "new" / "refresh.json")["account"]
    assert {part["what"]: part["drafts"] for part in account["reused"]}["base's drafts"] == 16
    assert "base's drafts" not in {part["what"] for part in account["new"]}


def test_another_source_of_pairs_makes_the_warm_start_stale(plain: Path, alone: Path, tmp_path: Path) -> None:
    copy, other = tmp_path / "copy", tmp_path / "other"
    shutil.copytree(alone, copy)
    shutil.copytree(plain, other)
    (other / "round-02" / "4-pairs.jsonl").write_text("")
    changed = load_recipe(copy / "recipe.yaml", [f"warm_start.pairs_from={other}"])
    with pytest.raises(RunError, match=r"round-01/policy was made with other settings: warm_start\.pairs_from"):
        run_recipe(changed, copy)
