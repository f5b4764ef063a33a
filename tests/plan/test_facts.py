"""`plan --from`: what recipe and run know goes into the plan with where it is from, and a person's edits stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from prefdistill.documents import render_yaml
from prefdistill.errors import RecipeError, RunError
from prefdistill.plan.chapters import write_plan
from prefdistill.plan.document import Plan, PlanError, load_plan
from prefdistill.plan.facts import BLANK, Filled, plan_from
from prefdistill.plan.licences import review_licences
from prefdistill.plan.quantities import Range
from prefdistill.plan.recipe_facts import how_of, is_own_host, trained_on, ways_of
from prefdistill.recipe import load_recipe
from prefdistill.records import (
    Comparison,
    CriterionScore,
    Draft,
    Judgement,
    Message,
    Policy,
    Prompt,
    Row,
    Usage,
    Verdict,
)
from prefdistill.served import Served

RECIPE = """
name: tone
rubric: rubric.yaml
student: {{model: "prefdistill.sandbox:student"}}
teacher: {{use: openai, model: gpt-4.1, usd_per_million: {{input: 2, output: 8}}}}
prompts: {{path: prompts.jsonl, validation_limit: 5}}
judge: {{use: rubric}}
evaluate: {{baselines: [base, teacher]}}
loop: {{rounds: 2, prompts_per_round: 8}}
{more}
"""
RUBRIC = """
name: email
purpose: |
  An e-mail that can be sent.
  As it stands.
criteria:
  - {name: good, question: Is it good?, levels: ["no", "yes"]}
"""
POLICY = Policy(model="student", adapter="round-01/5-policy", round=1)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rubric.yaml").write_text(RUBRIC)
    rows = [{"prompt": f"note number {number}, to be written as an e-mail"} for number in range(60)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return written(tmp_path)


def written(folder: Path, more: str = "") -> Path:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(more=more))
    return path


def rows(path: Path, items: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{item.model_dump_json()}\n" for item in items))


def draft(prompt: str, source: str, purpose: Any, tokens: int | None, text: str = "x" * 80) -> Draft:
    return Draft(
        id=Draft.make_id(prompt, source, 1, purpose, 0),
        prompt_id=prompt,
        source=source,
        policy=POLICY if source == "student" else None,
        round=1,
        purpose=purpose,
        index=0,
        completion=text,
        finish_reason="stop",
        tokens=tokens,
        seed=1,
    )


def judged(prompt: str, source: str, purpose: str, usage: Usage) -> Verdict:
    score = CriterionScore(criterion="good", level="yes", score=1.0, path="parsed")
    key = Draft.make_id(prompt, source, 1, purpose, 0)
    return Verdict(
        prompt_id=prompt,
        judgements=(Judgement(draft_id=key, judge="rubric", scores=(score,), scale="rubric", usage=usage),),
    )


def make_run(recipe: Path, name: str = "tone", finished: bool = True, kept: int = 1) -> Path:
    """A run folder: 10 prompts, 3 answers of the teacher at 100 and 20 tokens, 4 judged drafts at 500 and 50."""
    folder, ids = recipe.parent / "runs" / name, [f"p{number}" for number in range(10)]
    known = load_recipe(recipe)
    folder.mkdir(parents=True)
    shutil.copyfile(recipe.parent / "rubric.yaml", folder / "rubric.yaml")
    (folder / "recipe.yaml").write_text(render_yaml({**known.resolved(), "rubric": "rubric.yaml"}))
    (folder / "manifest.json").write_text(json.dumps({"prompts": {"train": 40, "validation": 12, "test": 8}}))
    message = (Message(role="user", content="y" * 120),)
    rows(folder / "prompts.jsonl", [Prompt(id=key, messages=message, split="train") for key in ids])
    rows(folder / "baselines" / "teacher-test-drafts.jsonl", [draft(key, "teacher", "test", 20) for key in ids[:3]])
    rows(folder / "round-01" / "1-drafts.jsonl", [draft(key, "student", "train", 40) for key in ids[:4]])
    paid, cached = Usage(calls=1, prompt_tokens=500, completion_tokens=50, usd=0.0014), Usage(cached=1)
    usages = [paid, paid, paid, cached]
    rows(
        folder / "round-01" / "2-verdicts.jsonl",
        [judged(key, "student", "train", usage) for key, usage in zip(ids, usages, strict=False)],
    )
    entries = [(100, 20)] * 3 + [(500, 50)] * 3
    ledger = [
        {"id": f"a-{number}", "state": state, "usage": {"calls": 1, "prompt_tokens": asked, "completion_tokens": told}}
        for number, (asked, told) in enumerate(entries)
        for state in ("reserved", "settled")
    ]
    (folder / "spending.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ledger))
    if finished:
        finish(folder, ids, kept)
    return folder


def finish(folder: Path, ids: Sequence[str], kept: int) -> None:
    gains = [0.1, 0.3, 0.0, 0.0]
    rows(
        folder / "test" / f"round-{kept:02d}" / "comparisons.jsonl",
        [
            Comparison(
                prompt_id=key,
                draft_id="d",
                baseline="base",
                baseline_draft_id="b",
                score=0.5 + gain,
                baseline_score=0.5,
                outcome="win" if gain else "tie",
            )
            for key, gain in zip(ids, gains, strict=False)
        ],
    )
    result = {
        "best_round": kept,
        "rounds": [{"round": 0, "rubric_score": 0.4, "teacher_rubric_score": 0.8}, {"round": 1}],
        "test": {
            "judge": "rubric",
            "self_judged": True,
            "wins": 2,
            "losses": 0,
            "ties": 2,
            "win_rate": 0.75,
            "win_rate_interval": [0.5, 0.9],
            "score": 0.6,
            "baseline_score": 0.5,
            "score_gain_interval": [0.0, 0.2],
            "teacher_score": 0.9,
        },
        "pgr": 0.25,
        "pgr_refused": None,
        "cost": {"charged_usd": 12.5},
    }
    (folder / "result.json").write_text(json.dumps(result))


def fill(recipe: Path, run: Path | None = None, **options: Any) -> tuple[Filled, Plan, str]:
    out = recipe.parent / "plan.yaml"
    filled = plan_from(recipe, run, out, **options)
    return filled, load_plan(out), out.read_text()


def test_the_blank_plan_is_a_plan_with_every_needed_key_open() -> None:
    plan = load_plan(BLANK)
    assert plan.name == "my-plan"
    for name in (
        "task",
        "traffic",
        "teacher",
        "student",
        "limits",
        "rubric",
        "goal",
        "data",
        "method",
        "stop",
        "costs",
    ):
        section = getattr(plan, name)
        assert {key for key, _ in section.open_keys()} >= set(section.needed) - {"judged_usd_a_request"}, name


def test_a_recipe_alone_fills_in_what_it_knows_and_leaves_the_rest_open(recipe: Path) -> None:
    filled, plan, text = fill(recipe)
    assert filled.is_new and not filled.updated and not filled.kept
    assert plan.name == "tone"
    assert plan.task.what == "An e-mail that can be sent. As it stands."
    assert (plan.teacher.model, plan.teacher.local) == ("gpt-4.1", False)
    assert plan.teacher.usd_per_million is not None and plan.teacher.usd_per_million.input == Range.of(2)
    assert (plan.student.model, plan.student.quantization) == ("prefdistill.sandbox:student", "nf4")
    assert plan.rubric.files == (Path("rubric.yaml"),)
    assert plan.rubric.judge == "rubric, answered by gpt-4.1" and plan.rubric.held_out is None
    assert plan.method.ways == ("preferences",)
    assert plan.licences.trained_on == ("labels",) and plan.licences.base_model == "Apache-2.0"
    assert plan.data.train is not None and plan.data.validation is not None and plan.data.validation <= 5
    assert plan.traffic.tokens_in is None and plan.fallback.share is None and plan.costs.one_off is None
    assert plan.shown.run is None
    assert "requests_a_month:  # open" in text and "model: gpt-4.1  # recipe.yaml" in text
    assert plan.where_known("student.model") == "recipe.yaml"
    write_plan(plan)  # it can be shown at once


def test_a_run_fills_in_what_it_measured(recipe: Path) -> None:
    _, plan, text = fill(recipe, make_run(recipe))
    assert plan.traffic.tokens_in == Range.of(100)  # as billed: the ledger less all judging
    assert plan.traffic.tokens_out == Range.of(20)
    assert (plan.data.train, plan.data.validation, plan.data.test) == (40, 5, 8)
    assert (plan.goal.student_score, plan.goal.teacher_score) == (0.5, 0.9)
    assert plan.sizes.ties == 0.5
    assert plan.sizes.score_sd == pytest.approx(0.1414, abs=1e-4)
    assert plan.costs.judged_usd_a_request == Range.of(0.0014)  # the reply from the cache counted as one that was paid
    assert plan.costs.one_off is not None
    assert [(each.what, each.usd.central) for each in plan.costs.one_off] == [
        ("calls of teacher and judges in run tone", 12.5)
    ]
    shown = plan.shown
    assert (shown.run, shown.kept_round, shown.win_rate, shown.gap_recovered) == ("tone", 1, 0.75, 0.25)
    assert (shown.spent_usd, shown.draft_tokens, shown.judged_prompt_tokens) == (12.5, 40, 500)
    assert shown.win_rate_interval == (0.5, 0.9)
    assert "tokens_in: 100  # run tone: mean of 3 answers it was paid for" in text
    assert plan.where_known("traffic.tokens_in") == "run tone: mean of 3 answers it was paid for"
    write_plan(plan)


def test_what_the_ledger_cannot_tell_is_counted_from_characters_and_said_so(recipe: Path) -> None:
    run = make_run(recipe)
    with (run / "spending.jsonl").open("a") as file:  # a call of nobody knows what
        file.write(
            '{"id":"b","state":"settled","usage":{"calls":1,"prompt_tokens":9000,"completion_tokens":1}}\n{"torn'
        )
    _, plan, _ = fill(recipe, run)
    assert plan.traffic.tokens_in == Range.of(60)  # 120 characters at 80 / 40 a token
    assert "characters / 2.0" in plan.where_known("traffic.tokens_in")


def test_a_teacher_that_counts_nothing_is_counted_from_characters(recipe: Path) -> None:
    run = make_run(recipe)
    rows(run / "baselines" / "teacher-test-drafts.jsonl", [draft("p1", "teacher", "test", None, "z" * 50)])
    _, plan, _ = fill(recipe, run)
    assert plan.traffic.tokens_out == Range.of(25)
    assert "characters" in plan.where_known("traffic.tokens_out")


def test_a_run_that_kept_the_base_compares_nothing(recipe: Path) -> None:
    _, plan, _ = fill(recipe, make_run(recipe, kept=0))
    assert plan.sizes.score_sd is None and plan.sizes.ties == 0
    assert plan.shown.win_rate is None and plan.shown.kept_round == 0


def test_the_fallback_share_is_the_calibrated_one(recipe: Path) -> None:
    run = make_run(recipe)
    found = {"share": 0.1, "interval": [0.06, 0.16], "prompts": 129, "tests": ["gate", "log_prob"]}
    (run / "calibration.json").write_text(json.dumps(found))
    _, plan, _ = fill(recipe, run)
    assert plan.fallback.share == Range(low=0.06, central=0.1, high=0.16)
    assert plan.fallback.when == ("the draft fails a gate of the rubric", "the draft's mean log-probability is low")
    assert plan.where_known("fallback.share") == "run tone: calibration.json, 129 validation prompts"


@pytest.mark.parametrize("content", ["", "[]", '{"share": "much"}', '{"share": 7}', "{"])
def test_a_broken_calibration_leaves_the_share_open(recipe: Path, content: str) -> None:
    run = make_run(recipe)
    (run / "calibration.json").write_text(content)
    assert fill(recipe, run)[1].fallback.share is None


def test_waiting_times_come_from_the_served_log(recipe: Path) -> None:
    run = make_run(recipe)
    served = [
        Served(
            id=str(number),
            time="2026-11-22T00:00:00+00:00",
            model="tone",
            route="teacher" if number <= 7 else "student",
            reason="gate" if number <= 7 else "kept",
            completion="x",
            prompt_characters=3,
            seconds=number / 10,
            first_token_seconds=number / 100,
        )
        for number in range(1, 101)
    ]
    rows(run / "served.jsonl", served)
    shown = fill(recipe, run)[1].shown
    assert (shown.served, shown.reply_seconds, shown.first_token_seconds) == (100, 9.5, 0.95)
    assert shown.fallback_share == 0.07


def test_an_outage_of_the_student_says_nothing_of_what_falls_back(recipe: Path) -> None:
    """Such rows have no draft: the teacher answered because nobody else could."""
    run = make_run(recipe)
    kinds = {"kept": ("student", 6), "gate": ("teacher", 2), "student_down": ("teacher", 30), "failed": ("none", 5)}
    served = [
        Served(
            id=f"{reason}-{number}",
            time="2026-11-22T00:00:00+00:00",
            model="tone",
            route=route,
            reason=reason,
            completion=None if route == "none" else "x",
            prompt_characters=3,
            seconds=1.0 if reason in ("kept", "gate") else 60.0,
        )
        for reason, (route, count) in kinds.items()
        for number in range(count)
    ]
    rows(run / "served.jsonl", served)
    shown = fill(recipe, run)[1].shown
    assert (shown.served, shown.fallback_share, shown.reply_seconds) == (8, 0.25, 1.0)
    rows(run / "served.jsonl", [each for each in served if each.reason == "student_down"])
    shown = fill(recipe, run)[1].shown
    assert (shown.served, shown.fallback_share, shown.reply_seconds) == (None, None, None)


def test_the_judges_agreement_with_people_is_taken_over(recipe: Path) -> None:
    run = make_run(recipe)
    (run / "agreement.json").write_text(json.dumps({"figures": {"accuracy": {"value": 0.84, "n": 120}}}))
    _, plan, _ = fill(recipe, run)
    assert plan.sizes.judge_accuracy == 0.84
    (run / "agreement.json").write_text(json.dumps({"figures": {"accuracy": {"value": 0.4, "n": 120}}}))
    assert fill(recipe, run, force=True)[1].sizes.judge_accuracy is None  # worse than a coin: no plan is made of that


def test_scores_outside_0_to_1_give_way_to_the_training_judges(recipe: Path) -> None:
    run = make_run(recipe)
    result = json.loads((run / "result.json").read_text())
    result["test"]["teacher_score"] = 1.01
    (run / "result.json").write_text(json.dumps(result))
    _, plan, _ = fill(recipe, run)
    assert (plan.goal.student_score, plan.goal.teacher_score) == (0.4, 0.8)
    assert plan.goal.metric is not None and "the training judge, on validation prompts" in plan.goal.metric
    assert plan.shown.teacher_score == 1.01


def test_again_changes_nothing(recipe: Path) -> None:
    run = make_run(recipe)
    _, _, before = fill(recipe, run)
    filled, _, after = fill(recipe, run)
    assert after == before
    assert not (filled.is_new or filled.filled or filled.updated or filled.kept)


def edit(recipe: Path, *changes: tuple[str, str]) -> None:
    path = recipe.parent / "plan.yaml"
    text = path.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)


def test_a_persons_edits_stay_and_measured_values_follow_the_run(recipe: Path) -> None:
    run = make_run(recipe)
    fill(recipe, run)
    edit(
        recipe,
        ("  owner:  # open", '  owner: "Jane"   # she said so'),
        ("tokens_out: 20 ", "tokens_out: {low: 15, central: 30, high: 60} "),
        ("model: gpt-4.1  # recipe.yaml", "model: large-9"),
        ("  months:  # open", "  months: 6\n  # a note of mine"),
    )
    rows(run / "round-01" / "1-drafts.jsonl", [draft("p1", "student", "train", 50)])
    shutil.copyfile(
        run / "baselines" / "teacher-test-drafts.jsonl", run / "baselines" / "teacher-validation-drafts.jsonl"
    )
    with (run / "spending.jsonl").open("a") as file:
        for number in range(3):
            row = {
                "id": f"c{number}",
                "state": "settled",
                "usage": {"calls": 1, "prompt_tokens": 130, "completion_tokens": 20},
            }
            file.write(json.dumps(row) + "\n")
    before = (recipe.parent / "plan.yaml").read_text().splitlines()
    filled, plan, text = fill(recipe, run)
    assert filled.updated == ["traffic.tokens_in: 100 → 115 (run tone: mean of 6 answers it was paid for)"]
    assert [each.split(":")[0] for each in filled.kept] == ["teacher.model", "traffic.tokens_out"]
    assert plan.traffic.tokens_in == Range.of(115)
    assert plan.traffic.tokens_out == Range(low=15, central=30, high=60)
    assert plan.where_known("traffic.tokens_out").startswith("edited; it was 20, run tone")
    assert plan.teacher.model == "large-9" and plan.task.owner == "Jane"
    assert plan.shown.draft_tokens == 50
    changed = [line for line in text.splitlines() if line not in before]
    assert [line.split(":")[0].strip() for line in changed] == ["tokens_in", "draft_tokens", "traffic.tokens_in"]
    assert any("tokens_out" in line and "large-9" not in line for line in filled.lines())


def test_what_the_recipe_says_follows_the_recipe_until_it_is_edited(recipe: Path) -> None:
    fill(recipe)
    edit(recipe, ("quantization: nf4  # recipe.yaml", "quantization: none  # ours"))
    recipe.write_text(recipe.read_text().replace("rounds: 2", "rounds: 9").replace("gpt-4.1", "gpt-9"))
    filled, plan, text = fill(recipe)
    assert plan.method.how is not None and "9 rounds" in plan.method.how and plan.teacher.model == "gpt-9"
    assert {each.split(":")[0] for each in filled.updated} == {"method.how", "teacher.model", "rubric.judge"}
    assert filled.kept == ["student.quantization: none, not nf4 (recipe.yaml)"] and "quantization: none  # ours" in text
    for key in ("teacher.usd_per_million", "rubric.files", "method.how", "licences.base_model"):
        assert "edited" not in plan.where_known(key), key
    assert plan.where_known("student.quantization") == "edited; it was nf4, recipe.yaml"


def test_a_value_that_was_emptied_is_filled_in_again(recipe: Path) -> None:
    run = make_run(recipe)
    fill(recipe, run)
    edit(recipe, ("  tokens_out: 20 ", "  tokens_out: "))
    filled, plan, _ = fill(recipe, run)
    assert filled.filled == ["traffic.tokens_out"] and plan.traffic.tokens_out == Range.of(20)


def test_the_runs_calls_are_one_item_among_the_persons(recipe: Path) -> None:
    run = make_run(recipe)
    fill(recipe, run)
    edit(recipe, ("in run tone, usd: 12.5}]", "in run tone, usd: 12.5}, {what: people, usd: 2000}]"))
    result = json.loads((run / "result.json").read_text())
    result["cost"]["charged_usd"] = 14.25
    (run / "result.json").write_text(json.dumps(result))
    filled, plan, _ = fill(recipe, run)
    assert plan.costs.one_off is not None and [each.usd.central for each in plan.costs.one_off] == [14.25, 2000]
    assert any("12.5 → 14.25" in each for each in filled.updated)
    edit(recipe, ("usd: 14.25}, ", "usd: 99}, "))
    filled, plan, _ = fill(recipe, run)
    assert plan.costs.one_off is not None and plan.costs.one_off[0].usd.central == 99
    assert any(each.startswith("costs.one_off") for each in filled.kept)


def test_a_plan_that_a_person_wrote_gets_what_it_lacks(recipe: Path) -> None:
    mine = "# mine\nname: my-own\ntraffic: {requests_a_month: 1000}\ncosts:\n  months: 6 # half a year\n"
    (recipe.parent / "plan.yaml").write_text(mine)
    filled, plan, text = fill(recipe, make_run(recipe))
    assert plan.name == "my-own" and plan.traffic.tokens_in == Range.of(100)
    assert plan.costs.months == Range.of(6) and plan.costs.one_off is not None
    assert "# mine" in text and "months: 6 # half a year" in text
    assert not filled.kept


def test_a_plan_begun_before_the_run_takes_everything_over_from_it(recipe: Path) -> None:
    fill(recipe)
    filled, plan, _ = fill(recipe, make_run(recipe))
    assert not filled.kept and "sizes.ties" in filled.filled
    assert plan.sizes.ties == 0.5
    _, anew, _ = fill(recipe, recipe.parent / "runs" / "tone", force=True)
    assert {**anew.model_dump(), "sources": 0} == {**plan.model_dump(), "sources": 0}


def test_without_a_run_the_recipes_own_is_read_where_its_models_are_the_same(recipe: Path) -> None:
    make_run(recipe)
    assert fill(recipe)[1].shown.run == "tone"
    assert fill(recipe, look_for_run=False, force=True)[1].shown.run is None
    recipe.write_text(recipe.read_text().replace("gpt-4.1", "gpt-9"))
    filled, plan, _ = fill(recipe, force=True)
    assert plan.shown.run is None and plan.teacher.model == "gpt-9"
    assert any("was not read" in note and "gpt-4.1" in note for note in filled.notes)
    filled, plan, _ = fill(recipe, recipe.parent / "runs" / "tone", force=True)
    assert plan.shown.run == "tone" and any("gpt-4.1" in note for note in filled.notes)


def test_an_unfinished_run_tells_its_tokens_and_no_scores(recipe: Path) -> None:
    filled, plan, _ = fill(recipe, make_run(recipe, finished=False))
    assert plan.traffic.tokens_in == Range.of(100)
    assert plan.goal.student_score is None and plan.costs.one_off is None and plan.shown.win_rate is None
    assert any("not finished" in note for note in filled.notes)


def test_what_cannot_be_read_is_an_error_and_nothing_is_written(recipe: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        fill(recipe, recipe.parent / "nothing")
    with pytest.raises(RecipeError, match="no such file"):
        plan_from(recipe.parent / "gone.yaml", None, recipe.parent / "plan.yaml")
    assert not (recipe.parent / "plan.yaml").exists()
    before = recipe.read_text()
    for force in (False, True):
        with pytest.raises(PlanError, match="this is a recipe"):
            plan_from(recipe, None, recipe, force)
    assert recipe.read_text() == before
    (recipe.parent / "plan.yaml").write_text("name: x\ntrafic: {}\n")
    with pytest.raises(PlanError, match="did you mean `traffic`"):
        fill(recipe)
    assert (recipe.parent / "plan.yaml").read_text() == "name: x\ntrafic: {}\n"
    assert fill(recipe, force=True)[1].name == "tone"


def test_no_key_and_no_address_is_written(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    recipe.write_text(
        recipe.read_text().replace(
            "use: openai,", 'use: openai, base_url: "https://host.example/v1", extra_body: {user: me},'
        )
    )
    make_run(recipe)
    _, _, text = fill(recipe)
    for secret in ("sk-very-secret", "host.example", "OPENAI_API_KEY", "extra_body"):
        assert secret not in text


@pytest.mark.parametrize(
    ("more", "ways", "outputs", "labels"),
    [
        ("", ["preferences"], False, True),
        ("train: {use: sft}", ["outputs"], True, False),
        ("warm_start: {use: outputs, prompts: 10}", ["outputs", "preferences"], True, True),
        ("sample: {teacher_drafts: 1}", ["preferences"], True, True),
        ("warm_start: {use: traces}", ["traces", "preferences"], True, True),
    ],
)
def test_what_of_the_teacher_is_trained_on(
    recipe: Path, more: str, ways: list[str], outputs: bool, labels: bool
) -> None:
    known = load_recipe(written(recipe.parent, more))
    assert ways_of(known) == ways
    assert trained_on(known, recipe.parent) == (outputs, labels, [])
    assert how_of(known)


def test_judges_that_are_other_models_are_named_and_checks_are_none(recipe: Path) -> None:
    text = recipe.read_text()
    recipe.write_text(
        text.replace("judge: {use: rubric}", "judge: {use: rubric, teacher: {use: openai, model: other-1}}")
    )
    assert trained_on(load_recipe(recipe), recipe.parent) == (False, False, ["other-1"])
    assert fill(recipe)[1].licences.judges == ("other-1",)
    (recipe.parent / "rubric.yaml").write_text("name: r\ncriteria:\n  - {name: l, check: length, between: [1, 9]}\n")
    recipe.write_text(text.replace("judge: {use: rubric}", "judge: {use: checks}"))
    _, plan, _ = fill(recipe, make_run(recipe), force=True)
    assert plan.licences.trained_on == () and plan.rubric.judge == "checks"


def test_a_trainers_own_teacher_is_reviewed_too(recipe: Path) -> None:
    text = recipe.read_text()
    recipe.write_text(text + 'warm_start: {use: logits, teacher: "prefdistill.sandbox:student"}\n')
    _, plan, _ = fill(recipe)
    assert plan.method.ways == ("logits", "preferences")
    assert plan.licences.writers == ("prefdistill.sandbox:student",)
    assert plan.licences.trained_on == ("outputs", "labels")
    roles = [each.role for each in review_licences(plan).permissions]
    assert roles == ["base", "teacher", "teacher", "writer"]
    local = 'teacher: {use: local, model: "prefdistill.sandbox:student"}'
    recipe.write_text(text.replace(next(line for line in text.splitlines() if line.startswith("teacher:")), local))
    recipe.write_text(recipe.read_text() + "warm_start: {use: logits}\n")
    _, plan, _ = fill(recipe, force=True)
    assert (plan.teacher.local, plan.teacher.same_tokenizer, plan.licences.writers) == (True, True, ())


def test_a_warm_start_alone_trains_no_preferences(recipe: Path) -> None:
    text = recipe.read_text().replace("rounds: 2", "rounds: 0")
    recipe.write_text(text + "warm_start: {use: outputs, prompts: 10}\n")
    known = load_recipe(recipe)
    assert ways_of(known) == ["outputs"] and trained_on(known, recipe.parent)[1] is False
    recipe.write_text(text)
    assert ways_of(load_recipe(recipe)) == []


def test_stop_rules_and_budget_are_taken_over(recipe: Path) -> None:
    path = written(recipe.parent, "budget: {usd: 40}")
    path.write_text(path.read_text().replace("rounds: 2,", "rounds: 2, stop: {flip_rate: 0.4, displacement: null},"))
    _, plan, _ = fill(path)
    assert plan.stop.budget_usd == 40
    assert (plan.stop.levels.flip_rate, plan.stop.levels.displacement) == (0.4, None)
    path.write_text(path.read_text().replace("stop: {flip_rate: 0.4, displacement: null}", "stop: never"))
    _, plan, _ = fill(path, force=True)
    assert set(plan.stop.levels.model_dump().values()) == {None}


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1:1/v1", True),
        ("http://10.1.2.3/v1", True),
        ("http://gpu-box:8000/v1", True),
        ("http://gpu.internal/v1", True),
        ("https://api.openai.com/v1", False),
        ("https://8.8.8.8/v1", False),
    ],
)
def test_a_server_of_ones_own_is_known_by_its_address(url: str, own: bool) -> None:
    assert is_own_host(url) is own


def test_a_server_of_ones_own_leaves_open_whose_weights_it_serves(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("use: openai,", 'use: openai, base_url: "http://localhost:9/v1",'))
    assert fill(recipe)[1].teacher.local is None


def test_the_providers_rows_are_named_where_the_model_does_not_say_them(recipe: Path) -> None:
    text = recipe.read_text()
    bedrock = 'use: openai, base_url: "https://bedrock-runtime.eu-west-1.amazonaws.com/v1",'
    recipe.write_text(text.replace("use: openai,", bedrock).replace("gpt-4.1", "anthropic.claude-x"))
    assert fill(recipe)[1].licences.provider == ("aws-bedrock", "anthropic")
    recipe.write_text(text)
    assert fill(recipe, force=True)[1].licences.provider is None


def test_dates_of_prices_are_kept(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace(", usd_per_million: {input: 2, output: 8}", ""))
    _, plan, text = fill(recipe)
    assert plan.teacher.usd_per_million is not None and isinstance(plan.teacher.usd_per_million.as_of, date)
    assert "# prefdistill prices" in text


def test_the_command_fills_a_plan_in_and_shows_it(prefdistill: Any, recipe: Path) -> None:
    make_run(recipe)
    made = prefdistill("plan", "--from", "recipe.yaml")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("wrote plan.yaml: ") and "UNREVIEWED" in made.stdout
    assert "run tone" in (recipe.parent / "plan.md").read_text()
    edit(recipe, ("  owner:  # open", "  owner: Jane"))
    again = prefdistill("plan", "--from", "recipe.yaml", "--run", "tone")
    assert (
        again.stdout.startswith("updated plan.yaml: 0 values")
        and "owner: Jane" in (recipe.parent / "plan.yaml").read_text()
    )
    anew = prefdistill("plan", "--from", "recipe.yaml", "--force")
    assert anew.stdout.startswith("wrote plan.yaml") and "owner: Jane" not in (recipe.parent / "plan.yaml").read_text()
    for arguments in (("--run", "tone"), ("--force",), ("recipe.yaml", "--from", "recipe.yaml", "--force")):
        refused = prefdistill("plan", *arguments)
        assert refused.returncode == 2 and "Traceback" not in refused.stderr
