"""Rounds that learn from the teacher's answers: which answers are trained on, what is written, and that all goes on."""

import json
import shutil

import pytest

from prefdistill.answers import REASONS, judges_gates
from prefdistill.assembly import load_recipe_prompts
from prefdistill.costs.estimate import estimate_run
from prefdistill.diagnostics.findings import Levels
from prefdistill.diagnostics.measuring import NAMES, RoundData, measure_round
from prefdistill.diagnostics.rules import find
from prefdistill.errors import RecipeError, RunError
from prefdistill.export.data import trained_pairs
from prefdistill.export.source import read_source
from prefdistill.forgetting import forget, plan_forgetting
from prefdistill.loop import run_recipe
from prefdistill.preview import show_preview
from prefdistill.protocols import no_progress
from prefdistill.recipe import load_recipe
from prefdistill.records import Answer, Draft, Drop, RoundResult
from prefdistill.round import StarvedError
from prefdistill.run import RowFile, RunDirectory
from prefdistill.status import read_status
from prefdistill.using.retraining import retrain
from tests.conftest import ROOT, TINY
from tests.making import ASKED, make_prompt, make_rubric, one_rubric

SFT = ("train.use=sft", "train.batch_size=4", "train.learning_rate=2e-3")
ODD = """
from prefdistill import Plugin
from prefdistill.protocols import Reply
from prefdistill.records import Failure
from prefdistill.sandbox.plugins import SandboxTeacher


class Odd(Plugin):
    '''Answers one prompt in four with each of: a refusal, a cut text, one without the facts, and a good one.'''

    def replies(self, requests):
        good = {each.key: each for each in SandboxTeacher().replies(requests)}
        for number, request in enumerate(sorted(requests, key=lambda each: each.key)):
            reply = good[request.key]
            if "/train-" not in request.key or number % 4 == 0:
                yield reply
            elif number % 4 == 1:
                yield Failure(stage="teacher", key=request.key, kind="refusal", message="the teacher refused")
            elif number % 4 == 2:
                yield Reply(request.key, reply.text[:20], "length", reply.usage)
            else:
                yield Reply(request.key, "Hello, please do it soon. Thanks.", "stop", reply.usage)
"""
JUDGE = """
from prefdistill import Plugin, Verdict
from prefdistill.records import CriterionScore, Failure, Judgement


class Strict(Plugin):
    '''Says of every second text that it fails the asked gate, and fails on the third one.'''

    def judge(self, prompt, drafts, rubric):
        found, failures = [], []
        for draft in drafts:
            bad = draft.purpose == "train" and int(draft.prompt_id, 16) % 3
            if bad == 2:
                failures.append(Failure(stage="judge", key=draft.id, kind="parse", message="unreadable"))
                continue
            score = 0.0 if bad else 1.0
            scores = [CriterionScore(criterion=each.name, score=score, path="parsed") for each in rubric.all_criteria]
            found.append(Judgement(draft_id=draft.id, judge="strict", scores=tuple(scores), scale="rubric"))
        return Verdict(prompt_id=prompt.id, judgements=tuple(found), failures=tuple(failures))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One uninterrupted run on answers, shared by the tests that only read it: (folder, recipe)."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = folder / "tiny.yaml"
    recipe.write_text(TINY.format(root=ROOT, cache=folder / "cache"))
    run_recipe(load_recipe(recipe, SFT), folder / "run")
    return folder / "run", recipe


def rows(path, kind):
    return RowFile(path, kind).read()


def bytes_of(run):
    """Every file that must be the same when a run is made again or goes on."""
    wanted = [*run.glob("round-*/[1-6]-*.jsonl"), *run.glob("round-*/5-policy/*"), *run.glob("policy/*")]
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in sorted(wanted)
        if path.is_file() and path.name not in ("train.json", "metrics.jsonl")
    }


def test_every_round_trains_on_one_answer_a_prompt(finished):
    run, _ = finished
    for number in (1, 2):
        folder = run / f"round-{number:02d}"
        drafts, answers = rows(folder / "1-drafts.jsonl", Draft), rows(folder / "4-answers.jsonl", Answer)
        assert {(each.source, each.policy, each.round) for each in drafts.values()} == {("teacher", None, number)}
        assert len(drafts) == len({each.prompt_id for each in drafts.values()}) == 8
        assert {key: each.completion for key, each in answers.items()} == {
            key: each.completion.strip() for key, each in drafts.items()
        }
        assert not (folder / "2-verdicts.jsonl").exists(), "no gate must be asked, so no judge is"
        assert not {"3-rankings.jsonl", "4-pairs.jsonl"} & {path.name for path in folder.iterdir()}
        trained = set((folder / "5-policy" / "answer_ids.txt").read_text().split())
        assert trained <= set(answers) | set(rows(run / "round-01" / "4-answers.jsonl", Answer))
        result = RoundResult.model_validate_json((folder / "round.json").read_text())
        assert (result.pairs, result.drafts, result.judged) == (8, 8, 0)
        assert result.train.start.round == number - 1
        assert result.train.reward_margin is None
        assert result.diagnostics["first_loss_gap"] < 1e-4
        assert result.diagnostics["kl"] > 0, "measured on the previous policy's validation drafts"
        states = {each.name: each.state for each in result.checks}
        assert states.pop("sampler") == states.pop("small_difference") == "off"
        assert set(states.values()) == {"ok"}
        assert not {"pair_yield", "distinct_2", "identical_share", "fresh_accuracy"} & result.diagnostics.keys()
        checks = {each.check for each in result.findings}
        assert not checks & {"pair_yield", "label_signal", "sampler_gap", "identical", "diversity"}
    drafts = rows(run / "round-02" / "6-drafts.jsonl", Draft)
    assert {each.policy.adapter for each in drafts.values()} == {"round-02/5-policy"}, "the student writes"


def test_past_answers_are_trained_on_again(finished):
    run, _ = finished
    trained = (run / "round-02" / "5-policy" / "answer_ids.txt").read_text().split()
    result = RoundResult.model_validate_json((run / "round-02" / "round.json").read_text())
    assert result.train.pairs + result.train.pairs_dropped == 8 + 3
    assert len(trained) == result.train.pairs == 8


def test_running_again_makes_nothing(finished, tmp_path):
    run, recipe = finished
    shutil.copytree(run, tmp_path / "run")
    made = [*tmp_path.glob("run/round-*/5-policy/*")]
    before = {path: path.stat().st_mtime_ns for path in made}
    run_recipe(load_recipe(recipe, SFT), tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert bytes_of(tmp_path / "run") == bytes_of(run)


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("drafting", marks=pytest.mark.slow),
        "training",
        pytest.param("evaluating", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(finished, tmp_path, where):
    run, recipe = finished
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for path in (copy / "result.json", copy / "report.html", copy / "test", copy / "policy"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    folder = copy / "round-02"
    (folder / "round.json").unlink()
    marks = json.loads((folder / "fingerprints.json").read_text())
    for path in folder.glob("6-*"):
        path.unlink()
    marks = {name: entry for name, entry in marks.items() if not name.startswith("6-")}
    if where != "evaluating":
        shutil.rmtree(folder / "5-policy")
        marks["policy"]["rows"] = None
    if where == "drafting":
        lines = (folder / "1-drafts.jsonl").read_bytes().splitlines(keepends=True)
        (folder / "1-drafts.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:40])
        del marks["policy"]
        marks["drafts"]["rows"] = None
        for name in ("4-answers.jsonl", "4-drops.jsonl"):
            (folder / name).unlink()
    (folder / "fingerprints.json").write_text(json.dumps(marks))
    status = read_status(copy).part(2)
    assert status.state == "begun"
    run_recipe(load_recipe(recipe, SFT), copy)
    assert bytes_of(copy) == bytes_of(run)


def test_status_counts_answers(finished):
    steps = {step.name: step for step in read_status(finished[0]).part(1).steps[:4]}
    assert (steps["drafts"].done, steps["drafts"].of) == (8, 8)
    assert (steps["answers"].state, steps["answers"].done) == ("done", 8)
    assert (steps["verdicts"].state, steps["verdicts"].done) == ("done", 0)


def test_trained_again_the_adapters_are_equal(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    found = retrain(tmp_path / "run", 2, no_progress)
    assert [(each.round, each.equal_bytes) for each in found.differences] == [(2, True)]
    assert found.missing == 0


def test_there_are_no_pairs_to_export(finished):
    source = read_source(finished[0], 2)
    with pytest.raises(RunError, match=r"trained on the teacher's answers, so there are no pairs.*4-answers\.jsonl"):
        trained_pairs(source)


def test_a_forgotten_prompt_leaves_no_answer_and_makes_nothing_stale(finished, tmp_path):
    run, recipe = finished
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    gone = next(iter(rows(copy / "round-01" / "4-answers.jsonl", Answer).values()))
    plan = plan_forgetting(copy, gone.prompt_id)
    assert [each.id for each in plan.record.pairs] == [gone.id]
    assert forget(plan) == []
    assert gone.id not in rows(copy / "round-01" / "4-answers.jsonl", Answer)
    policy = (copy / "round-02" / "5-policy" / "adapter_model.safetensors").stat().st_mtime_ns
    run_recipe(load_recipe(recipe, SFT), copy)
    assert (copy / "round-02" / "5-policy" / "adapter_model.safetensors").stat().st_mtime_ns == policy
    assert not any(gone.completion in path.read_text(errors="replace") for path in copy.glob("round-*/*.jsonl"))


def recipe_of(tmp_path, *overrides, **files):
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.format(root=ROOT, cache=tmp_path / "cache"))
    return load_recipe(path, (*SFT, "loop.rounds=1", "loop.prompts_per_round=24", *overrides))


def test_answers_that_cannot_be_trained_on_are_dropped_with_one_reason(tmp_path):
    outcome = run_recipe(recipe_of(tmp_path, f"teacher.use={tmp_path}/odd.py:Odd", odd=ODD), tmp_path / "run")
    folder = tmp_path / "run" / "round-01"
    drops = rows(folder / "4-drops.jsonl", Drop)
    result = outcome.rounds[1]
    assert result.drops == {"not_written": 6, "incomplete": 6, "failed_gates": 6}
    assert set(result.drops) <= set(REASONS)
    assert result.pairs == len(rows(folder / "4-answers.jsonl", Answer)) == 6
    assert {each.detail for each in drops.values() if each.reason == "failed_gates"} == {"keeps_the_facts"}
    assert {each.detail for each in drops.values() if each.reason == "not_written"} == {"the teacher refused"}
    assert result.diagnostics["answer_yield"] == 0.25
    assert [each.level for each in result.findings if each.check == "pair_yield"] == ["warn"]


def test_too_few_answers_end_the_run_with_their_reasons(tmp_path):
    recipe = recipe_of(tmp_path, f"teacher.use={tmp_path}/odd.py:Odd", "train.batch_size=8", odd=ODD)
    with pytest.raises(
        StarvedError, match=r"6 answers, fewer than one batch .*without an answer: 6 .*or lower train\.batch"
    ):
        run_recipe(recipe, tmp_path / "run")


def test_asked_gates_are_asked_of_the_judge_and_nothing_else_counts(tmp_path):
    (tmp_path / "gates.yaml").write_text(
        "name: asked\ngates: [{name: invents_nothing, question: Does it invent anything?, pass_when: 'no'}]\n"
        "criteria: [{name: short, check: length, between: [1, 30]}]\n"
    )
    recipe = recipe_of(
        tmp_path, f"rubric={tmp_path}/gates.yaml", f"judge.use={tmp_path}/strict.py:Strict", strict=JUDGE
    )
    outcome = run_recipe(recipe, tmp_path / "run")
    folder = tmp_path / "run" / "round-01"
    assert len((folder / "2-verdicts.jsonl").read_text().splitlines()) == 24
    kinds = [int(each.prompt_id, 16) % 3 for each in rows(folder / "1-drafts.jsonl", Draft).values()]
    assert outcome.rounds[1].drops == {"failed_gates": kinds.count(1), "judge_failed": kinds.count(2)}
    assert outcome.rounds[1].pairs == kinds.count(0)
    assert outcome.rounds[1].judged == kinds.count(0) + kinds.count(1)


def test_the_judge_is_asked_where_a_gate_must_be_and_it_can_tell_of_one_draft():
    gate = {"name": "true", "question": "Is it true?", "pass_when": "yes"}
    asked, checked = one_rubric(make_rubric(ASKED, gates=[gate])), one_rubric(make_rubric(ASKED))

    class Compares:
        scores_alone = False

    assert judges_gates(asked, object())
    assert not judges_gates(checked, object())
    assert not judges_gates(asked, Compares())


def test_drafts_of_the_student_have_no_part_in_it(tmp_path):
    """An arm of a recipe whose first round mixes in teacher's drafts is still one answer a prompt."""
    recipe = recipe_of(tmp_path, "sample.teacher_drafts=2", "loop.prompts_per_round=8")
    run_recipe(recipe, tmp_path / "run")
    assert len((tmp_path / "run" / "round-01" / "1-drafts.jsonl").read_text().splitlines()) == 8


def test_a_recipe_without_a_teacher_or_with_another_runs_pairs_is_refused(tmp_path):
    path = tmp_path / "tiny.yaml"
    text = TINY.format(root=ROOT, cache=tmp_path / "cache")
    path.write_text(text.replace("teacher: {use: sandbox}\n", "").replace("baselines: [base, teacher], ", ""))
    with pytest.raises(RecipeError, match=r"train\.use `sft` learns from the teacher's answers, and there is none"):
        load_recipe(path, SFT)
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"loop\.pairs_from names pairs, and train\.use `sft` learns from"):
        load_recipe(path, (*SFT, f"loop.pairs_from={tmp_path}"))


@pytest.mark.parametrize("gate", [False, True])
def test_answers_are_priced_and_the_judge_only_where_it_is_asked(tmp_path, monkeypatch, gate):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    asked = "gates: [{name: invents_nothing, question: Does it invent anything?, pass_when: 'no'}]\n" if gate else ""
    (tmp_path / "r.yaml").write_text(
        f"name: asked\n{asked}criteria: [{{name: short, question: Short?, levels: [a, b]}}]\n"
    )
    teacher = ("teacher.use=openai", "teacher.model=gpt-4.1", "teacher.base_url=https://teacher.invalid/v1")
    recipe = recipe_of(tmp_path, *teacher, "judge.use=rubric", f"rubric={tmp_path}/r.yaml", "loop.prompts_per_round=8")
    found = estimate_run(recipe, load_recipe_prompts(recipe)[0], RunDirectory(tmp_path / "none"))
    calls = {line.what: round(line.calls) for line in found.grouped()}
    assert calls["teacher's answers"] == 8
    assert calls.get("teacher's answers, for their gates", 0) == (8 if gate else 0)
    assert not {"training drafts", "student's training drafts"} & calls.keys()


def test_a_preview_shows_answers(tmp_path, capsys):
    from rich.console import Console

    show_preview(recipe_of(tmp_path), 2, Console(width=120))
    shown = capsys.readouterr().out
    assert shown.count("answer: trained on as it is") == 2
    assert "2 prompts, 2 drafts, 2 answers" in shown


def test_few_answers_are_warned_of_with_the_first_reason():
    prompts = [make_prompt(f"p{number}") for number in range(16)]
    drops = [Drop(prompt_id=prompt.id, round=1, reason="incomplete") for prompt in prompts[2:]]
    answers = [
        Answer(id=f"{each.id}/t", prompt_id=each.id, round=1, prompt=each.messages, completion="Yes.")
        for each in prompts[:2]
    ]
    values = measure_round(RoundData(prompts=prompts, answers=answers, drops=drops))
    assert values["answer_yield"] == 0.125
    assert {name.partition("/")[0] for name in values} <= NAMES.keys()
    (found,) = find([values], Levels())
    assert (found.check, found.level) == ("pair_yield", "stop")
    assert "incomplete 88%" in found.message and "sample.max_new_tokens" in found.message
    assert find([measure_round(RoundData(prompts=prompts, answers=answers * 8, drops=()))], Levels())
    whole = [
        each.model_copy(update={"prompt_id": prompt.id}) for each, prompt in zip(answers * 8, prompts, strict=True)
    ]
    assert find([measure_round(RoundData(prompts=prompts, answers=whole, drops=()))], Levels()) == ()


def test_an_answer_has_text():
    with pytest.raises(ValueError, match="an answer without text teaches nothing"):
        Answer(id="a", prompt_id="p", round=1, prompt=make_prompt().messages, completion="  ")
