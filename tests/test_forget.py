"""A prompt that is forgotten is nowhere any more, and the run goes on as it was."""

import json
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys

import pytest

from prefdistill.assembly import load_recipe_prompts, opened
from prefdistill.costs.estimate import estimate_run
from prefdistill.costs.steps import steps_of
from prefdistill.errors import RunError
from prefdistill.forgetting import cannot_remove, describe, forget, plan_forgetting
from prefdistill.forgetting.files import holds
from prefdistill.forgetting.traces import Traces
from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.records import Draft, Forgotten, PreferencePair, Prompt
from prefdistill.run import RowFile, RunDirectory
from prefdistill.serve.holding import held_log
from prefdistill.served import Served, ServedLog, read_served
from prefdistill.stages.load import Loaded
from tests.browser_data import inflated
from tests.conftest import ROOT, TINY
from tests.loopback import Loopback, fenced, menus

RUBRIC = """
name: short
purpose: Short e-mails.
criteria:
  - name: brevity
    question: Is the e-mail short?
    levels: [very long, long, medium, short, very short]
"""


def quoting(body):
    """A judge that prefers short texts, and whose reasons quote what it was shown."""
    draft = fenced(body, "draft")
    if draft is not None:
        score = max(0.0, 1.0 - len(draft) / 400)
        levels = {
            name: {"reason": f"It says: {draft}", "level": menu[round(score * (len(menu) - 1))]}
            for name, menu in menus(body).items()
        }
        return json.dumps(levels)
    first, second = fenced(body, "first") or "", fenced(body, "second") or ""
    winner = "tie" if len(first) == len(second) else "first" if len(first) < len(second) else "second"
    return json.dumps({"reason": f"{first} against {second}", "winner": winner})


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """A finished run of two rounds with an LLM judge, and the server that judged."""
    tmp_path = tmp_path_factory.mktemp("made")
    lines = (ROOT / "recipes" / "prompts" / "quickstart.jsonl").read_text().splitlines()
    rows = [{**json.loads(line), "id": f"mail-{number}"} for number, line in enumerate(lines[:120])]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "short.yaml").write_text(RUBRIC)
    with Loopback(quoting) as server:
        text = TINY.format(root=ROOT, cache=tmp_path / "cache")
        text = text.replace("judge: {use: checks}", "judge: {use: rubric, concurrency: 4}")
        text = text.replace(f"{ROOT}/rubrics/sandbox-email.yaml", "short.yaml")
        text = text.replace(f"{ROOT}/recipes/prompts/quickstart.jsonl", "prompts.jsonl")
        teacher = {"use": "openai", "model": "m", "base_url": server.url, "deadline_seconds": 5}
        text = text.replace("teacher: {use: sandbox}", f"teacher: {json.dumps(teacher)}")
        text = text.replace("baselines: [base, teacher], judge: {use: sandbox_held_out}", "baselines: [base]")
        (tmp_path / "r.yaml").write_text(text)
        run_recipe(load_recipe(tmp_path / "r.yaml"), tmp_path / "run")
        yield tmp_path, server


@pytest.fixture
def finished(made_once, tmp_path):
    """A copy of that run with its cache, its recipe, and the server."""
    made, server = made_once
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for path in [tmp_path / "r.yaml", *(tmp_path / "run").glob("*.yaml"), tmp_path / "run" / "manifest.json"]:
        path.write_text(path.read_text().replace(str(made), str(tmp_path)))
    return RunDirectory(tmp_path / "run"), tmp_path / "r.yaml", server


def everything(folder):
    """Every readable byte of a folder, weights left out; of a report also what its browser holds, inflated."""
    found = {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".safetensors", ".pt", ".pth")
    }
    return {path: content + inflated(content) for path, content in found.items()}


def texts_of(run, prompt_id):
    """The prompt's own text and all its drafts, line by line."""
    prompt = next(p for path in run.all_prompts for p in RowFile(path, Prompt).read().values() if p.id == prompt_id)
    drafts = [
        draft
        for path in run.path.rglob("*drafts.jsonl")
        for draft in run.rows(path.parent, path.name, Draft).read().values()
        if draft.prompt_id == prompt_id
    ]
    assert drafts
    return {prompt.text, *(draft.completion for draft in drafts)}, drafts


def own_lines(run, prompt_id):
    """Lines that no other prompt of the run has."""
    texts, drafts = texts_of(run, prompt_id)
    rows = [row for path in run.path.rglob("*.jsonl") for row in path.read_text().splitlines()]
    others = [row for row in rows if prompt_id not in row]
    rest = "\n".join(others)
    lines = {line for text in texts for line in text.splitlines() if len(line) >= 24}
    return {line for line in lines if json.dumps(line, ensure_ascii=False)[1:-1] not in rest}, drafts


def found_in(files, lines):
    forms = {form for line in lines for form in (line, json.dumps(line)[1:-1], json.dumps(json.dumps(line))[2:-2])}
    return [(path.name, form) for path, content in files.items() for form in forms if form.encode() in content]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_no_line_of_a_forgotten_prompt_is_left_in_run_or_cache(finished, tmp_path, split):
    run, recipe, server = finished
    trained = [pair.prompt_id for pair in run.rows(run.round(1), "4-pairs.jsonl", PreferencePair).read().values()]
    if split == "train":
        prompt_id = trained[0]
    else:
        path = run.baselines / f"base-{split}-drafts.jsonl"
        prompt_id = next(iter(run.rows(path.parent, path.name, Draft).read().values())).prompt_id
    (run.path / "replaced" / "x" / "round-01").mkdir(parents=True)
    (run.path / "replaced" / "x" / "round-01" / "1-drafts.jsonl").write_bytes(
        (run.round(1) / "1-drafts.jsonl").read_bytes()
    )
    lines, _ = own_lines(run, prompt_id)
    assert lines
    before = {**everything(run.path), **everything(tmp_path / "cache")}
    assert found_in(before, lines), "the test can find what it looks for"
    own = next(
        tag[3:] for tag in run.rows(run.path, "prompts.jsonl", Prompt).read()[prompt_id].tags if tag.startswith("id:")
    )
    asked, best = len(server.requests), json.loads(run.result.read_text())["best_round"]
    fingerprints = {path: path.read_bytes() for path in run.path.rglob("fingerprints.json")}

    plan = plan_forgetting(run.path, own)
    assert plan.prompt.id == prompt_id
    assert plan.cached
    assert len(plan.by_key) >= plan.replies > 0, "every reply is found by the request that it answered"
    assert not plan.by_text, "and no other reply is taken for one of its own"
    assert forget(plan) == []

    after = {**everything(run.path), **everything(tmp_path / "cache")}
    assert found_in(after, lines) == []
    assert not any(own.encode() in content for path, content in after.items() if path == run.prompts)
    assert plan_forgetting(run.path, own) is None
    assert plan_forgetting(run.path, prompt_id) is None
    assert "forgotten on" in run.report.read_text()
    assert len(server.requests) == asked, "nothing was sent"

    outcome = run_recipe(load_recipe(recipe), run.path)
    again = {**everything(run.path), **everything(tmp_path / "cache")}
    assert found_in(again, lines) == [], "the user's file still has it, the run does not take it back"
    assert len(server.requests) == asked
    assert outcome.best_round == best
    assert not [path for path, old in fingerprints.items() if json.loads(old) and not path.exists()]
    drafts = [row for path in run.path.rglob("round-*/*drafts.jsonl") for row in path.read_text().splitlines()]
    assert not any(prompt_id in row for row in drafts if "replaced" not in row)


@pytest.mark.slow
def test_a_run_goes_on_with_more_rounds_and_without_the_row_in_the_users_file(finished, tmp_path):
    run, recipe, _ = finished
    pairs = run.rows(run.round(1), "4-pairs.jsonl", PreferencePair).read()
    prompt = run.rows(run.path, "prompts.jsonl", Prompt).read()[next(iter(pairs.values())).prompt_id]
    plan = plan_forgetting(run.path, prompt.id)
    assert forget(plan) == []
    source = tmp_path / "prompts.jsonl"
    source.write_text(
        "".join(f"{line}\n" for line in source.read_text().splitlines() if json.loads(line)["prompt"] != prompt.text)
    )
    policies = {path: path.read_bytes() for path in run.path.glob("round-0[12]/5-policy/adapter_model.safetensors")}
    assert len(policies) == 2
    outcome = run_recipe(load_recipe(recipe, ["loop.rounds=3"]), run.path)
    assert len(outcome.rounds) == 4
    assert {path: path.read_bytes() for path in policies} == policies, "finished rounds are not stale"
    assert prompt.id not in (run.round(3) / "1-drafts.jsonl").read_text()


def test_forgetting_that_was_cut_short_is_finished_by_the_next(finished, tmp_path, monkeypatch):
    run, _, _ = finished
    prompt_id = next(iter(run.rows(run.round(1), "1-drafts.jsonl", Draft).read().values())).prompt_id
    lines, _ = own_lines(run, prompt_id)
    plan = plan_forgetting(run.path, prompt_id)
    monkeypatch.setattr(
        "prefdistill.forgetting.removing._remove_replies", lambda plan: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        forget(plan)
    monkeypatch.undo()
    assert run.rows(run.path, "forgotten.jsonl", Forgotten).read()
    again = plan_forgetting(run.path, prompt_id)
    assert again is not None
    assert again.record == plan.record
    assert forget(again) == []
    assert found_in({**everything(run.path), **everything(tmp_path / "cache")}, lines) == []


def test_the_command_lists_first_and_asks(finished, prefdistill):
    run, _, _ = finished
    prompt_id = next(iter(run.rows(run.round(1), "1-drafts.jsonl", Draft).read().values())).prompt_id
    before = everything(run.path)
    asked = prefdistill("forget", prompt_id, "--run", run.path)
    assert asked.returncode in (1, 130)
    assert "to be removed" in asked.stdout
    assert "trained weights" in asked.stdout
    assert "prompts.jsonl still has it" in asked.stdout
    assert everything(run.path).keys() - {run.path / ".lock"} == before.keys() - {run.path / ".lock"}
    done = prefdistill("forget", prompt_id, "--run", run.path, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "already" in prefdistill("forget", prompt_id, "--run", run.path, "--yes").stdout
    unknown = prefdistill("forget", "nobody", "--run", run.path, "--yes")
    assert unknown.returncode == 2
    assert "no prompt `nobody`" in unknown.stderr


def test_run_and_cache_folders_are_the_owners_alone(finished, tmp_path):
    run, _, _ = finished
    assert stat.S_IMODE(os.stat(run.path).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(tmp_path / "cache").st_mode) == 0o700


def test_a_folder_that_is_no_run_is_said_to_be_none(tmp_path):
    with pytest.raises(RunError, match="expected a run folder"):
        plan_forgetting(tmp_path, "x")


def labels_about(run, prompt_id):
    """Labels of one prompt's drafts, as `prefdistill label` writes them and as people do."""
    prompt = run.rows(run.path, "prompts.jsonl", Prompt).read()[prompt_id]
    drafts = [d for d in run.rows(run.round(1), "1-drafts.jsonl", Draft).read().values() if d.prompt_id == prompt_id]
    first, second = [draft for draft in drafts if draft.completion.strip()][:2]
    pair = {"first": first.completion, "second": second.completion, "winner": "tie", "by": "ann"}
    ranking = {"drafts": [first.completion, second.completion], "ranking": [[0, 1]], "by": "bob"}
    messages = [message.model_dump() for message in prompt.messages]
    return [
        {**pair, "prompt": prompt.text, "prompt_id": prompt.id, "first_id": first.id, "second_id": second.id},
        {**pair, "prompt": f" {prompt.text}", "by": "eve"},
        {**ranking, "prompt": messages},
        {"prompt": messages, "draft": first.completion, "criterion": "brevity", "level": "long", "by": "bob"},
    ]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def test_labels_and_what_was_measured_with_them_go_too(finished, tmp_path, prefdistill):
    run, _, _ = finished
    judged = list(dict.fromkeys(d.prompt_id for d in run.rows(run.round(1), "1-drafts.jsonl", Draft).read().values()))
    prompt_id, other = judged[:2]
    labels, elsewhere = run.path / "labels-ann.jsonl", tmp_path / "mine" / "labels.jsonl"
    write_rows(labels, labels_about(run, prompt_id) + labels_about(run, other))
    elsewhere.parent.mkdir()
    write_rows(elsewhere, labels_about(run, prompt_id)[:1])
    run.label_files.write_text(json.dumps([str(elsewhere), str(tmp_path / "gone.jsonl")]))
    measured = prefdistill("agreement", labels, "--verdicts", run.path)
    assert measured.returncode == 0, measured.stderr
    assert all(path.exists() for path in run.agreement)
    (run.path / "notes.html").write_text(f"<p>{labels_about(run, prompt_id)[0]['first']}</p>")
    lines, _ = own_lines(run, prompt_id)

    plan = plan_forgetting(run.path, prompt_id)
    assert plan.rows[labels] == 4
    said = "\n".join([*describe(plan), *cannot_remove(plan)])
    assert "agreement.json and agreement.html: its labels count in the figures" in said
    assert f"{elsewhere}, a label file outside the run folder, still has it" in said
    assert "gone.jsonl" not in said
    assert forget(plan) == [f"STILL FOUND in {run.path / 'notes.html'}: look at it yourself"]
    (run.path / "notes.html").unlink()
    assert found_in(everything(run.path), lines) == []
    assert not any(path.exists() for path in run.agreement)
    assert [json.loads(line) for line in labels.read_text().splitlines()] == labels_about(run, other)

    write_rows(labels, labels_about(run, other))
    assert prefdistill("agreement", labels, "--verdicts", run.path).returncode == 0
    third = next(each for each in judged if each not in (prompt_id, other))
    run.label_files.unlink()
    assert forget(plan_forgetting(run.path, third)) == []
    assert all(path.exists() for path in run.agreement), "figures in which it does not count stay"


def test_an_open_label_page_keeps_its_file(finished):
    from filelock import FileLock

    run, _, _ = finished
    prompt_id = next(iter(run.rows(run.round(1), "1-drafts.jsonl", Draft).read().values())).prompt_id
    labels = run.path / "labels-ann.jsonl"
    write_rows(labels, labels_about(run, prompt_id))
    before = everything(run.path)
    plan = plan_forgetting(run.path, prompt_id)
    with FileLock(run.path / ".labels-ann.jsonl.lock"), pytest.raises(RunError, match="is labelling into this file"):
        forget(plan)
    after = everything(run.path)
    assert {path: after[path] for path in before} == before, "nothing was removed"


def test_prompts_of_a_task_that_is_added_can_be_forgotten_before_the_run_has_gone_on(finished, tmp_path):
    run, recipe, _ = finished
    rows = [{"id": f"own-{n}", "prompt": f"Tell Ada about topic {n}."} for n in range(4)]
    write_rows(tmp_path / "other.jsonl", rows)

    def opened_with(limit):
        also = f"evaluate.also=[{{prompts: {tmp_path}/other.jsonl, rubric: {tmp_path}/short.yaml, limit: {limit}}}]"
        with opened(load_recipe(recipe, [also]), run) as shop:
            return shop.also["other"].prompts.prompts

    assert len(opened_with(4)) == 4
    plan = plan_forgetting(run.path, "own-2")
    assert plan.rows == {run.prompts_also("other"): 1}
    assert forget(plan) == []
    (stand_in,) = (prompt for prompt in opened_with(4) if "forgotten" in prompt.tags)
    assert stand_in.id == plan.prompt.id
    assert len(opened_with(1)) == 1
    assert len(run.prompts_also("other").read_text().splitlines()) == 4, "those that were scored once can be found"
    assert b"topic 2" not in run.prompts_also("other").read_bytes()


def served(number, *said, system=None, model="run", **changes):
    """A row of a served log: a conversation whose turns were `said`, the user's first."""
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]
    messages = ([{"role": "system", "content": system}] if system else []) + turns
    row = {"id": f"c-{number}", "time": "2026-01-01T00:00:00Z", "model": model, "route": "student", "reason": "kept",
           "messages": messages, "completion": f"Served answer number {number}, in words of its own",
           "prompt_characters": 9, "seconds": 0.1, **changes}  # fmt: skip
    return Served.model_validate(row)


def write_served(path, *rows):
    log = ServedLog(path)
    for each in rows:
        log.append(each)
    log.close()


@pytest.fixture
def was_served(finished):
    """A run with a log in two files and drift reports that quote it: the prompt, an example of another."""
    run, _, _ = finished
    prompts = run.rows(run.path, "prompts.jsonl", Prompt).read()
    chosen = next(iter(run.rows(run.round(1), "1-drafts.jsonl", Draft).read().values())).prompt_id
    text = prompts[chosen].text
    other = next(each.text for each in prompts.values() if each.id != chosen)
    write_served(run.path / "served.jsonl.1", served(1, other), served(2, f"{text} ", system="Be short."))
    asked_on = served(4, text, "An answer of that day", "Now in a friendlier tone than that one, please")
    judged = {"score": 0.5, "score_judge": "j"}
    write_served(run.path / "served.jsonl", served(3, text), served(3, text, **judged), asked_on, served(5, other))
    for path in run.drift_reports:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"farthest: {text}")
    return run, chosen, text


def test_what_a_server_was_asked_goes_with_the_older_files_of_its_log_and_drift_reports(was_served):
    run, prompt_id, text = was_served
    lines, _ = own_lines(run, prompt_id)
    plan = plan_forgetting(run.path, prompt_id)
    told = "\n".join(describe(plan))
    assert "served.jsonl.1: 1 row\n" in told and "served.jsonl: 3 rows\n" in told
    assert "drift/drift.html, drift/drift.md, drift/drift.json: removed" in told
    assert "a server writes it" not in "\n".join(cannot_remove(plan))
    assert forget(plan) == []
    left = [row.id for row in read_served([run.path / "served.jsonl"])]
    assert left == ["c-1", "c-5"], "requests with other prompts stay, in both files"
    assert not any(path.exists() for path in run.drift_reports)
    after = everything(run.path)
    assert found_in(after, {text, *lines, "Served answer number 2", "in a friendlier tone than that one"}) == []
    assert {stat.S_IMODE(path.stat().st_mode) for path in run.path.glob("served.jsonl*")} == {0o600}


def test_a_log_that_a_server_writes_is_named_and_nothing_is_removed_before_it_ends(was_served, prefdistill):
    run, prompt_id, text = was_served
    log, before = run.path / "served.jsonl", everything(run.path)
    with held_log(log):
        done = prefdistill("forget", prompt_id, "--run", run.path, "--yes")
        after = everything(run.path)
    assert done.returncode == 2
    assert "served.jsonl while a server writes it: stop that server first" in done.stdout
    assert "a server writes this log" in done.stderr and "nothing was removed" in done.stderr
    assert {path: after[path] for path in before} == before
    done = prefdistill("forget", prompt_id, "--run", run.path, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not found_in(everything(run.path), {text})


def test_a_server_that_was_never_asked_the_prompt_goes_on(was_served):
    run, prompt_id, _ = was_served
    for path in run.path.glob("served.jsonl*"):
        path.unlink()
    write_served(run.path / "served.jsonl", served(1, "Something else altogether"))
    before = (run.path / "served.jsonl").stat().st_ino
    plan = plan_forgetting(run.path, prompt_id)
    with held_log(run.path / "served.jsonl"):
        assert forget(plan) == []
    assert (run.path / "served.jsonl").stat().st_ino == before, "the file that the server has open"


def test_requests_are_a_prompts_where_they_begin_with_its_turns_and_redacted_ones_are_nobodys():
    prompt = Prompt(id="p", split="train", messages=[{"role": "user", "content": "Tell Ada."}])

    def asks(row):
        return holds(row.model_dump(mode="json"), prompt)

    assert asks(served(1, "Tell Ada."))
    assert asks(served(1, "Tell Ada.", "Done.", "Thanks."))
    assert not asks(served(1, "Tell Ben.", "Done.", "Tell Ada."))
    assert not asks(served(1, redacted=True))
    assert not holds({"id": "q", "messages": [{"role": "user", "content": "Tell Ada."}]}, prompt), (
        "another prompt's row"
    )


def test_tokens_of_a_launched_training_that_failed_go(finished):
    run, _, _ = finished
    tokens = run.path / "retrained" / "x" / "round-01" / "launch" / "columns.json"
    tokens.parent.mkdir(parents=True)
    tokens.write_text(json.dumps({"prompt_ids": [[1, 2]]}))
    prompt_id = next(iter(run.rows(run.round(1), "1-drafts.jsonl", Draft).read().values())).prompt_id
    assert forget(plan_forgetting(run.path, prompt_id)) == []
    assert not tokens.exists()


def test_labels_of_another_tasks_prompt_go_by_its_text_alone():
    prompt = Prompt(id="p", split="validation", messages=[{"role": "user", "content": "Tell Ada."}], tags=["id:m-1"])
    of_task = prompt.model_copy(update={"tags": (*prompt.tags, "task:other")})
    assert holds({"prompt_id": "m-1"}, prompt)
    assert not holds({"prompt_id": "m-1"}, of_task), "labels name the recipe's own prompts"
    assert holds({"prompt": "Tell Ada."}, of_task)


def test_labels_of_other_conversations_with_the_same_last_turn_are_not_taken_for_its_own():
    def prompt(*texts):
        turns = ("user", "assistant") * 2
        return Prompt(
            id="p", split="train", messages=[{"role": r, "content": t} for r, t in zip(turns, texts, strict=False)]
        )

    short = prompt("Shorten it.")
    long = prompt("Write to Ann.", "Dear Ann, …", "Shorten it.")
    assert holds({"prompt": "Shorten it. "}, short)
    assert not holds({"prompt": "Shorten it."}, long)
    assert holds({"prompt": [each.model_dump() for each in long.messages]}, long)
    assert not holds({"prompt": [each.model_dump() for each in long.messages]}, short)
    assert not holds({"prompt": ["x"]}, short)


def test_what_is_expected_of_a_run_leaves_forgotten_prompts_out(finished, tmp_path):
    _, path, _ = finished
    recipe = load_recipe(path, ["loop.rounds=3", "loop.prompts_per_round=100"])
    fresh = RunDirectory(tmp_path / "runs" / "fresh")
    fresh.path.mkdir(parents=True)
    prompts = load_recipe_prompts(recipe)[0]
    before = estimate_run(recipe, prompts, fresh).calls
    chosen = prompts.of("train")[0]
    record = Forgotten(prompt_id=chosen.id, split="train", messages="", fields="", at="2026-01-01")
    fresh.rows(fresh.path, "forgotten.jsonl", Forgotten).rewrite([record])
    after = estimate_run(recipe, prompts, fresh).calls
    train = len(prompts.of("train"))
    assert train <= 100, "every round has every prompt"
    of_training = [
        step for step in steps_of(recipe, prompts, fresh) if step.split == "train" and step.judge is not None
    ]
    assert all(len(step.prompts) == train - 1 and chosen not in step.prompts for step in of_training)
    assert before > after > before * (train - 3) / train
    without = Loaded(tuple(prompt for prompt in prompts.prompts if prompt.id != chosen.id), 0, ())
    assert estimate_run(recipe, without, fresh).calls == pytest.approx(after), "also where the file has it no more"


@pytest.mark.slow
def test_a_cache_in_use_is_said_to_hold_what_was_removed_until_it_is_written_anew(finished, tmp_path, prefdistill):
    run, _, _ = finished
    prompt_id = next(iter(run.rows(run.round(1), "1-drafts.jsonl", Draft).read().values())).prompt_id
    lines, _ = own_lines(run, prompt_id)
    cache = tmp_path / "cache"
    reading = (
        "import sqlite3, sys; r = sqlite3.connect(sys.argv[1], isolation_level=None); r.execute('BEGIN');"
        "r.execute('SELECT COUNT(*) FROM replies').fetchone(); print('reading', flush=True); sys.stdin.readline();"
        "r.execute('COMMIT'); print('idle', flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", reading, str(cache / "replies.sqlite3")]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert reader.stdout.readline() == "reading\n"
    done = prefdistill("forget", prompt_id, "--run", run.path, "--yes")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "another process reads the request cache" in done.stdout
    assert found_in(everything(cache), lines), "the files still have it, as it says"
    again = prefdistill("forget", prompt_id, "--run", run.path, "--yes")
    assert again.returncode == 1
    assert "another process reads the request cache" in again.stdout
    reader.stdin.write("\n")
    reader.stdin.flush()
    assert reader.stdout.readline() == "idle\n"
    last = prefdistill("forget", prompt_id, "--run", run.path, "--yes")
    assert last.returncode == 0, last.stdout + last.stderr
    assert "forgotten already" in last.stdout
    assert found_in(everything(cache), lines) == [], "while the other process still has it open"
    reader.communicate("\n", timeout=10)


def test_the_cache_file_itself_holds_no_deleted_text(tmp_path):
    from prefdistill.requests.reply_cache import ReplyCache

    cache = ReplyCache(tmp_path)
    for number in range(200):
        cache.put(f"k{number}", {"text": f"secret line number {number} " * 20})
    assert cache.delete([f"k{number}" for number in range(0, 200, 2)]) == 100
    assert cache.compact()
    cache.close()
    content = b"".join(path.read_bytes() for path in tmp_path.glob("replies*"))
    assert b"secret line number 42 " not in content
    assert b"secret line number 43 " in content
    assert sqlite3.connect(tmp_path / "replies.sqlite3").execute("SELECT COUNT(*) FROM replies").fetchone() == (100,)


def test_a_deleted_text_is_not_left_in_a_page_whose_rows_were_moved_either(tmp_path):
    from prefdistill.requests.reply_cache import ReplyCache

    chance = random.Random(4)  # rows of such lengths leave a copy behind in a page that stays in use
    texts = {f"{number * 7919 % 1009:04d}": f"secret line number {number:03d} of it " for number in range(60)}
    cache = ReplyCache(tmp_path)
    for key, text in texts.items():
        cache.put(key, {"text": text + "x" * chance.randint(10, 400)})
    gone = chance.sample(sorted(texts), 6)
    assert cache.delete(gone) == 6
    assert cache.compact()
    cache.close()
    content = b"".join(path.read_bytes() for path in tmp_path.glob("replies*"))
    assert {key for key, text in texts.items() if text.encode() not in content} == set(gone)


def test_traces_are_found_cut_and_escaped_but_shared_lines_stay():
    traces = Traces(
        "p",
        {"the daughter of Anna Novak is “ill” & at home with a fever today", "Best regards, your team"},
        {"Best regards, your team"},
    )
    assert traces.found_in('the first: "the daughter of Anna Novak is \\u201cill\\u201d &amp; at home today"') is False
    assert traces.found_in("x the daughter of Anna Novak is “ill” &amp; at home with a fever today y")
    assert traces.found_in(json.dumps("the daughter of Anna Novak is “ill” & at home with a fever today"))
    assert not traces.found_in("Best regards, your team")
    near = Traces(
        "p",
        {"Could you send the drainage drawings before noon, Priya?"},
        {"Hi, Could you send the drainage drawings before noon, Tom?"},
    )
    assert not near.found_in("Hi, Could you send the drainage drawings before noon, Tom?")
    cut = "3 failures; the first: the daughter of Anna Novak is “ill” & at home with a fev"
    assert traces.without({"warnings": [cut], "rows": [{"prompt_id": "p"}, {"prompt_id": "q"}]}) == {
        "warnings": ["3 failures; the first: (forgotten)"],
        "rows": [{"prompt_id": "q"}],
    }
