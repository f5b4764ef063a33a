"""Forgetting a prompt of runs with rubrics by kind, panels, mixed pairs, batches, given drafts and a served student."""

import hashlib
import json
import sqlite3
from contextlib import contextmanager

import pytest

from prefdistill.batches import desk
from prefdistill.batches.notes import BatchNote
from prefdistill.errors import RunError
from prefdistill.forgetting import cannot_remove, describe, forget, plan_forgetting
from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.records import Draft, Forgotten, PreferencePair, Prompt
from prefdistill.run import RowFile, RunDirectory
from tests.batch_server import BatchServer, Turn
from tests.conftest import ROOT, TINY
from tests.loopback import Loopback
from tests.test_forget import RUBRIC, everything, found_in, own_lines, quoting


def written_for(tmp_path, url, *changes, **teacher):
    """Write the tiny recipe, its prompts (of two kinds) and its rubric for a judge at `url`; return its path."""
    lines = (ROOT / "recipes" / "prompts" / "quickstart.jsonl").read_text().splitlines()[:120]
    rows = [
        {**json.loads(line), "id": f"mail-{number}", "task": ("note", "mail")[number % 2]}
        for number, line in enumerate(lines)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "short.yaml").write_text(RUBRIC)
    text = TINY.format(root=ROOT, cache=tmp_path / "cache")
    options = {"use": "openai", "model": "m", "base_url": url, "deadline_seconds": 5, **teacher}
    for old, new in (
        ("judge: {use: checks}", "judge: {use: rubric, concurrency: 4}"),
        (f"rubric: {ROOT}/rubrics/sandbox-email.yaml", "rubric: short.yaml"),
        (f"{ROOT}/recipes/prompts/quickstart.jsonl", "prompts.jsonl"),
        ("teacher: {use: sandbox}", f"teacher: {json.dumps(options)}"),
        ("baselines: [base, teacher], judge: {use: sandbox_held_out}, gold: {use: sandbox_gold}", "baselines: [base]"),
        *changes,
    ):
        assert old in text, old
        text = text.replace(old, new)
    (tmp_path / "r.yaml").write_text(text)
    return tmp_path / "r.yaml"


def a_pair_of(run, number=1):
    return next(iter(run.rows(run.round(number), "4-pairs.jsonl", PreferencePair).read().values()))


def replies_in(cache):
    with sqlite3.connect(cache / "replies.sqlite3") as database:
        return dict(database.execute("SELECT key, reply FROM replies"))


@contextmanager
def forgotten_and_gone_on(run, recipe, cache, prompt_id, asked, overrides=()):
    """Forget a prompt and check that no text is left; then run again and check that nothing is asked or stale."""
    lines, _ = own_lines(run, prompt_id)
    assert found_in({**everything(run.path), **everything(cache)}, lines), "the test can find what it looks for"
    before = asked()
    plan = plan_forgetting(run.path, prompt_id)
    assert not plan.notes
    assert len(plan.by_key) >= plan.replies > 0, "every reply is found by the request that it answered"
    assert not plan.by_text, "and no other reply is taken for one of its own"
    assert forget(plan) == []
    assert found_in({**everything(run.path), **everything(cache)}, lines) == []
    policies = {path: path.read_bytes() for path in run.path.glob("round-*/5-policy/adapter_model.safetensors")}
    yield plan
    run_recipe(load_recipe(recipe, overrides), run.path)
    assert asked() == before, "nothing was sent"
    assert {path: path.read_bytes() for path in policies} == policies, "no round was stale"
    assert found_in({**everything(run.path), **everything(cache)}, lines) == []


@pytest.mark.slow
def test_rubrics_by_kind_a_panel_and_past_pairs_mixed_in(tmp_path):
    with Loopback(quoting) as server:
        member = {"use": "openai", "base_url": server.url, "deadline_seconds": 5}
        panel = [{**member, "model": "m1"}, {**member, "model": "m2"}]
        recipe = written_for(
            tmp_path,
            server.url,
            ("rubric: short.yaml", "rubric: {column: task, note: short.yaml, mail: brief.yaml}"),
            ("{use: rubric, concurrency: 4}", json.dumps({"use": "rubric", "concurrency": 4, "panel": panel})),
            ("train: {", "train: {mix_past: {rounds: all, share: 0.4}, "),
        )
        (tmp_path / "brief.yaml").write_text(RUBRIC.replace("name: short", "name: brief").replace("short?", "brief?"))
        run = RunDirectory(tmp_path / "run")
        run_recipe(load_recipe(recipe), run.path)
        mixed = json.loads((run.round(2) / "5-policy" / "train.json").read_text())["pairs"]
        assert mixed > len((run.round(2) / "4-pairs.jsonl").read_text().splitlines()), "past pairs are mixed in"
        gone = {pair.prompt_id for pair in run.rows(run.round(1), "4-pairs.jsonl", PreferencePair).read().values()}
        kinds = {run.rows(run.path, "prompts.jsonl", Prompt).read()[each].fields["task"]: each for each in gone}
        assert len(kinds) == 2
        for kind, prompt_id in kinds.items():
            with forgotten_and_gone_on(
                run, recipe, tmp_path / "cache", prompt_id, lambda: len(server.requests)
            ) as plan:
                assert plan.record.kind == {"task": kind}
        more = run_recipe(load_recipe(recipe, ["loop.rounds=3"]), run.path)
        assert len(more.rounds) == 4


def with_other_tasks(tmp_path, url):
    """Write a recipe that scores two other tasks, some of whose ids are those of the recipe's own prompts; return its path.

    The second has the first one's prompts, and a judge of its own.
    """
    rows = [{"id": each, "prompt": f"Tell Ada all about topic {each} of the list."} for each in OTHER_IDS]
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "told.yaml").write_text(RUBRIC.replace("name: short", "name: told").replace("short?", "brief?"))
    (tmp_path / "another.jsonl").write_text("".join(json.dumps(row).replace("Ada", "Ben") + "\n" for row in rows))
    asked = {"use": "openai", "model": "m2", "base_url": url, "deadline_seconds": 5}
    judge = json.dumps({"use": "rubric", "concurrency": 4, "teacher": asked})
    also = (
        "baselines: [base], also: [{prompts: other.jsonl, rubric: told.yaml}, "
        f"{{name: b, prompts: another.jsonl, rubric: told.yaml, judge: {judge}}}]"
    )
    return written_for(tmp_path, url, ("baselines: [base]", also))


def prompt_of(path, own_id):
    return next(prompt for prompt in RowFile(path, Prompt).read().values() if f"id:{own_id}" in prompt.tags)


OTHER_IDS = ("mail-0", "mail-1", "own-1", "own-2", "own-3")
OFFLINE = ["loop.mode=offline", "loop.rounds=1"]


@pytest.mark.slow
def test_prompts_of_other_tasks_and_own_prompts_of_the_same_id_are_forgotten_one_by_one(tmp_path):
    with Loopback(quoting) as server:
        recipe = with_other_tasks(tmp_path, server.url)
        run = RunDirectory(tmp_path / "run")
        first = run_recipe(load_recipe(recipe, OFFLINE), run.path)
        (run.path / "replaced" / "x" / "round-01").mkdir(parents=True)
        old = run.path / "replaced" / "x" / "round-01" / "6-also-other-drafts.jsonl"
        old.write_bytes((run.round(1) / "6-also-other-drafts.jsonl").read_bytes())
        trained = {pair.prompt_id for pair in run.rows(run.round(1), "4-pairs.jsonl", PreferencePair).read().values()}
        also, another = run.prompts_also("other"), run.prompts_also("b")
        assert trained.isdisjoint(RowFile(also, Prompt).read())

        mine, theirs, third = (prompt_of(path, "mail-1") for path in (run.prompts, also, another))
        plan = plan_forgetting(run.path, "mail-1")
        assert plan.prompt == mine
        assert sorted(plan.notes) == [
            f"evaluate.also {task} has a prompt of the same id, which stays: forget it as {prompt.id}"
            for task, prompt in (("b", third), ("other", theirs))
        ]
        assert forget(plan) == []
        assert plan_forgetting(run.path, "mail-1") is None
        asked = len(server.requests)
        again = run_recipe(load_recipe(recipe, OFFLINE), run.path)
        assert again.rounds[1].diagnostics["also/other"] == first.rounds[1].diagnostics["also/other"]
        assert len(server.requests) == asked

        own = prompt_of(also, "own-1")
        assert plan_forgetting(run.path, "own-1").prompt == prompt_of(another, "own-1")
        for gone in (own, theirs, third):
            with forgotten_and_gone_on(
                run, recipe, tmp_path / "cache", gone.id, lambda: len(server.requests), OFFLINE
            ) as plan:
                assert plan.record.task == gone.task
                assert f"prompts-also-{gone.task}.jsonl: 1 row" in "\n".join(describe(plan))
                assert "other.jsonl still has it" in "\n".join(cannot_remove(plan))
        assert plan_forgetting(run.path, own.id) is None
        assert plan_forgetting(run.path, "mail-1") is None
        with pytest.raises(RunError, match="no prompt `own-9`"):
            plan_forgetting(run.path, "own-9")

        rows = [
            line for line in (tmp_path / "other.jsonl").read_text().splitlines() if json.loads(line)["id"] != "own-1"
        ]
        (tmp_path / "other.jsonl").write_text("".join(f"{row}\n" for row in rows))
        asked = len(server.requests)
        last = run_recipe(load_recipe(recipe, OFFLINE), run.path)
        assert len(server.requests) == asked, "the row may leave the user's file"
        values = last.rounds[1].diagnostics
        assert 0.0 <= values["also/other"] <= 1.0
        drafts = (run.round(1) / "6-also-other-drafts.jsonl").read_text().splitlines()
        assert len(drafts) == len(OTHER_IDS) - 2, "two of them are forgotten, and no other takes their place"


@pytest.mark.slow
def test_drafts_from_a_file_judged_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(desk, "FIRST_POLL_SECONDS", 0.01)
    with BatchServer(quoting) as server:
        recipe = written_for(
            tmp_path, server.url, ("sample: {drafts: 3, ", "sample: {drafts_from: drafts.jsonl, "), batch=True
        )
        given = [
            {
                "prompt_id": f"mail-{n}",
                "completion": f"Dear {n}, this is draft {i} of mail {n}{' and more' * i}.",
                "model": "w",
            }
            for n in range(120)
            for i in range(3)
        ]
        (tmp_path / "drafts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
        run, offline = RunDirectory(tmp_path / "run"), ["loop.mode=offline", "loop.rounds=1"]
        run_recipe(load_recipe(recipe, offline), run.path)
        prompt = run.rows(run.path, "prompts.jsonl", Prompt).read()[a_pair_of(run).prompt_id]
        own = next(tag.removeprefix("id:") for tag in prompt.tags if tag.startswith("id:"))

        def asked():
            return len(server.live) + len(server.served)

        with forgotten_and_gone_on(run, recipe, tmp_path / "cache", prompt.id, asked, offline) as plan:
            said = "\n".join(cannot_remove(plan))
            assert "drafts.jsonl still has it" in said
            assert "prompts.jsonl still has it" in said
        for name in ("drafts.jsonl", "prompts.jsonl"):
            rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
            kept = [row for row in rows if own not in (row.get("prompt_id"), row.get("id"))]
            assert len(kept) < len(rows)
            (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in kept))
        before = asked()
        run_recipe(load_recipe(recipe, offline), run.path)
        assert asked() == before, "the user has removed the prompt from the files, as the command says"
        changed = (tmp_path / "drafts.jsonl").read_text().replace("this is draft 1 of", "that is draft 1 of")
        (tmp_path / "drafts.jsonl").write_text(changed)
        with pytest.raises(RunError, match="drafts"):
            run_recipe(load_recipe(recipe, offline), run.path)


@pytest.mark.slow
def test_a_reply_that_comes_in_a_batch_after_its_prompt_was_forgotten_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(desk, "FIRST_POLL_SECONDS", 0.01)
    with BatchServer(quoting, lambda number: Turn(polls=10_000 if number == 1 else 1)) as server:
        recipe = written_for(tmp_path, server.url, batch=True)
        run, offline = RunDirectory(tmp_path / "run"), ["loop.mode=offline", "loop.rounds=1"]
        monkeypatch.setattr(desk.time, "sleep", lambda seconds: interrupt_at(server))
        with pytest.raises(KeyboardInterrupt):
            run_recipe(load_recipe(recipe, offline), run.path)
        monkeypatch.undo()
        monkeypatch.setattr(desk, "FIRST_POLL_SECONDS", 0.01)
        drafts = run.rows(run.round(1), "1-drafts.jsonl", Draft).read().values()
        prompt_id = next(draft.prompt_id for draft in drafts if draft.finish_reason == "stop")
        lines, _ = own_lines(run, prompt_id)
        plan = plan_forgetting(run.path, prompt_id)
        assert plan.batches == {"batch_1": len(plan.record.unwanted)}
        assert "batch batch_1 at the provider holds" in "\n".join(cannot_remove(plan))
        assert forget(plan) == []
        server.turn = lambda number: Turn()
        run_recipe(load_recipe(recipe, offline), run.path)
        assert found_in({**everything(run.path), **everything(tmp_path / "cache")}, lines) == []
        assert not set(plan.record.unwanted) & set(replies_in(tmp_path / "cache"))
        states = [note.state for note in RowFile(run.path / "batches.jsonl", BatchNote).read().values()]
        assert states.count("settled") == states.count("created")


def interrupt_at(server):
    if server.polls.get("batch_1", 0) >= 1:
        raise KeyboardInterrupt


def test_drafts_that_a_served_student_wrote_leave_the_cache_short_ones_too(tmp_path):
    def answer(body):
        if body["model"] != "student":
            return quoting(body)
        mark = hashlib.sha256(json.dumps([body["messages"], body.get("seed")]).encode()).hexdigest()
        return (
            f"No {mark[:5]}."
            if int(mark[0], 16) < 8
            else f"A longer answer to the note, marked with {mark} at its end."
        )

    with Loopback(answer) as server:
        sampler = f"sample: {{use: openai, model: student, base_url: '{server.url}', "
        recipe = written_for(tmp_path, server.url, ("sample: {", sampler))
        run, offline = (
            RunDirectory(tmp_path / "run"),
            ["loop.mode=offline", "loop.rounds=1", "evaluate.baselines=[base]"],
        )
        with pytest.raises(Exception, match="serves student alone"):
            run_recipe(load_recipe(recipe, offline), run.path)  # its trained policy cannot be sampled
        pair = a_pair_of(run)
        lines, drafts = own_lines(run, pair.prompt_id)
        short = {draft.completion for draft in drafts if len(draft.completion) < 16}
        assert short
        plan = plan_forgetting(run.path, pair.prompt_id)
        assert len(plan.by_key) == plan.replies + len(drafts), "its drafts and the replies about them"
        assert not plan.by_text
        assert forget(plan) == []
        files = {**everything(run.path), **everything(tmp_path / "cache")}
        assert found_in(files, lines | short) == []
        assert run.rows(run.path, "forgotten.jsonl", Forgotten).read()
