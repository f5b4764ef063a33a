"""What a run is expected to cost: every paid step counted, priced by its own model, and compared with the budget."""

import json
from pathlib import Path

import pytest

from prefdistill.assembly import load_recipe_prompts
from prefdistill.costs.estimate import Estimate, closing_lines, estimate_run, opening_lines
from prefdistill.costs.questions import Line, is_paid, reply_tokens
from prefdistill.protocols import TeacherRequest
from prefdistill.recipe import load_recipe
from prefdistill.records import Judgement, Message, Preference, Usage, Verdict
from prefdistill.requests.prices import Price
from prefdistill.requests.spending import Budget
from prefdistill.result import unpriced_judges
from prefdistill.run import RowFile, RunDirectory
from tests.conftest import ROOT

RUBRIC = """
name: asked
purpose: Short e-mails.
gates: [{name: keeps_the_day, check: mentions, all_of: ["{day}"]}]
criteria:
  - {name: brevity, question: Is the e-mail short?, levels: [long, medium, short]}
  - {name: tone, question: Is the tone friendly?, levels: ["no", partly, "yes"]}
"""
RECIPE = {
    "name": "priced",
    "seed": 3,
    "rubric": "rubric.yaml",
    "student": {"model": "prefdistill.sandbox:student"},
    "teacher": {"use": "openai", "model": "gpt-4.1", "base_url": "https://teacher.invalid/v1", "concurrency": 10},
    "prompts": {"path": "prompts.jsonl", "split_column": "split"},
    "sample": {"drafts": 4, "max_new_tokens": 100},
    "judge": {"use": "rubric"},
    "loop": {"rounds": 3, "prompts_per_round": 8},
    "cache": "cache",
}
TRAIN, VALIDATION, TEST = 20, 6, 5


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rubric.yaml").write_text(RUBRIC)
    splits = ["train"] * TRAIN + ["validation"] * VALIDATION + ["test"] * TEST
    rows = [{"prompt": f"Write number {n}.", "day": "Friday", "split": split} for n, split in enumerate(splits)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def estimated(folder: Path, run: Path | None = None, redo_from: str | None = None, **changes) -> Estimate:
    (folder / "recipe.yaml").write_text(json.dumps({**RECIPE, **changes}))
    recipe = load_recipe(folder / "recipe.yaml")
    prompts, _ = load_recipe_prompts(recipe)
    return estimate_run(recipe, prompts, RunDirectory(run or folder / "runs" / "priced"), redo_from)


def calls(estimate: Estimate) -> dict[str, int]:
    return {line.what: round(line.calls) for line in estimate.grouped()}


def test_every_call_of_the_default_flow_is_counted(folder):
    found = estimated(folder)
    assert calls(found) == {
        "validation drafts judged": VALIDATION * (1 + 3),  # the base once, then each round's policy
        "training drafts": 3 * 8 * (4 + 2),  # each draft, then best against worst in both orders
        "test drafts judged": TEST * 2,  # the base, the kept policy
    }
    assert found.usd == pytest.approx((found.prompt_tokens * 2 + found.completion_tokens * 8) / 1e6)
    assert found.most_usd is not None
    assert found.most_usd > found.usd
    longest = 2048 * found.calls
    assert found.most_usd == pytest.approx((found.prompt_tokens * 2 + longest * 8) / 1e6)


def test_a_judge_of_another_task_is_counted_and_named_where_it_has_no_price(folder):
    (folder / "other.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Say {n}.", "day": "Monday"}) + "\n" for n in "ab")
    )
    asked = {"use": "openai", "model": "served-judge", "base_url": "https://judge.invalid/v1"}
    judge = {"use": "rubric", "teacher": asked}
    found = estimated(folder, evaluate={"also": [{"prompts": "other.jsonl", "rubric": "rubric.yaml", "judge": judge}]})
    assert calls(found)["drafts of other judged"] == 2 * (1 + 3)
    assert found.unpriced == ("served-judge",)
    assert unpriced_judges(load_recipe(folder / "recipe.yaml")) == ("served-judge",)


def test_teacher_baseline_teacher_drafts_and_comparisons_are_counted(folder):
    found = estimated(
        folder,
        sample={"drafts": 4, "max_new_tokens": 100, "teacher_drafts": 2},
        evaluate={"baselines": ["base", "teacher"], "compare": "both_orders"},
    )
    assert calls(found) == {
        "validation drafts judged": VALIDATION * (2 + 3),
        "teacher's validation drafts": VALIDATION,
        "validation drafts compared with the teacher's": 2 * VALIDATION * (1 + 3),  # the base too
        "validation drafts compared with the base's": 2 * VALIDATION * 3,
        "teacher's training drafts": 8 * 2,  # round 1 only
        "training drafts": 8 * (6 + 2) + 2 * 8 * (4 + 2),
        "test drafts judged": TEST * 3,
        "teacher's test drafts": TEST,
        "test drafts compared with the base's": 2 * TEST,
        "test drafts compared with the teacher's": 2 * TEST,
    }
    assert {line.stage for line in found.lines} == {"sample", "judge", "evaluate"}


def test_the_best_of_several_drafts_is_chosen_by_as_many_calls_and_nothing_is_compared(folder):
    judge = {"use": "rubric", "teacher": {"use": "openai", "model": "gpt-4.1-mini", "base_url": "https://x.invalid/v1"}}
    found = estimated(folder, evaluate={"best_of": 4, "judge": judge})
    assert calls(found) == {
        "validation drafts judged": VALIDATION * (1 + 3 * 4),
        "validation drafts judged by evaluate.judge": VALIDATION * (1 + 3),  # it sees the chosen draft alone
        "training drafts": 3 * 8 * (4 + 2),
        "test drafts judged": TEST * (1 + 4),
        "test drafts judged by evaluate.judge": TEST * 2,
    }
    nothing = {"rounds": 0}
    assert calls(estimated(folder, evaluate={"best_of": 4}, loop=nothing)) == {
        "validation drafts judged": VALIDATION,
        "test drafts judged": TEST * (1 + 4),
    }
    assert calls(estimated(folder, loop=nothing)) == {
        "validation drafts judged": VALIDATION,
        "test drafts judged": TEST,  # the kept policy is the base, whose drafts these are
    }


def test_each_judge_and_sampler_is_priced_by_its_own_model(folder):
    mini = {"use": "openai", "model": "gpt-4.1-mini", "base_url": "https://a.invalid/v1"}
    luna = {"use": "openai", "model": "gpt-6-luna", "base_url": "https://b.invalid/v1"}
    server = {"use": "openai", "model": "served", "base_url": "http://localhost:1/v1", "adapter_sync": "vllm"}
    found = estimated(
        folder,
        judge={"use": "rubric", "panel": [mini, luna]},
        evaluate={"judge": {"use": "rubric", "confirm": "none"}},
        sample={**server, "drafts": 4, "max_new_tokens": 100},
    )
    by_model = {(line.what, line.model): round(line.calls) for line in found.grouped()}
    for model in ("gpt-4.1-mini", "gpt-6-luna"):
        assert by_model["training drafts", model] == 3 * 8 * 6
        assert by_model["validation drafts judged", model] == VALIDATION * 4
    assert by_model["validation drafts judged by evaluate.judge", "gpt-4.1"] == VALIDATION * 4
    assert by_model["student's training drafts", "served"] == 3 * 8 * 4
    assert by_model["student's validation drafts", "served"] == VALIDATION * 4
    assert by_model["student's test drafts", "served"] == TEST * 2
    usd = {line.model: line.usd for line in found.grouped()}
    assert usd["gpt-6-luna"] is not None
    assert usd["served"] is None
    assert found.usd is None, "one unknown price makes the sum unknown"
    assert found.unpriced == ("served",)
    (line,) = (each for each in closing_lines(found) if "no price" in each)
    assert "served: {input: …, output: …}" in line
    assert str(folder / "config" / "prefdistill" / "prices.yaml") in line


def test_the_recipes_own_price_wins_and_a_free_server_costs_nothing(folder):
    own = {**RECIPE["teacher"], "usd_per_million": {"input": 0, "output": 0}}
    assert estimated(folder, teacher=own).usd == 0
    own["usd_per_million"] = {"input": 1, "output": 0}
    found = estimated(folder, teacher=own)
    assert found.usd == pytest.approx(found.prompt_tokens / 1e6)


def test_a_batch_costs_what_a_batch_costs(folder):
    assert estimated(folder, teacher={**RECIPE["teacher"], "batch": True}).usd == pytest.approx(
        estimated(folder).usd * 0.5
    )


def test_judges_without_calls_cost_nothing_and_nothing_is_said(folder):
    (folder / "rubric.yaml").write_text("name: r\ncriteria: [{name: length, check: length, between: [1, 50]}]\n")
    for teacher in (RECIPE["teacher"], {"use": "sandbox"}):
        found = estimated(folder, judge={"use": "checks"}, teacher=teacher)
        assert found.lines == ()
        assert opening_lines(found, Budget(usd=1)) == []


def test_the_quickstart_expects_nothing():
    recipe = load_recipe(ROOT / "recipes" / "quickstart.yaml")
    prompts, _ = load_recipe_prompts(recipe)
    found = estimate_run(recipe, prompts)
    assert (found.lines, found.notes) == ((), ())


def test_reasons_criteria_and_longer_drafts_cost_more(folder):
    by_reason = {
        reason: estimated(folder, judge={"use": "rubric", "reason": reason}) for reason in ("none", "brief", "full")
    }
    tokens = [by_reason[reason].completion_tokens for reason in ("none", "brief", "full")]
    assert tokens == sorted(set(tokens))
    assert 20 < tokens[1] / by_reason["brief"].calls < 100
    each = estimated(folder, judge={"use": "rubric", "calls": "per_criterion"})
    assert calls(each)["training drafts"] == 3 * 8 * (4 * 2 + 2)
    longer = estimated(folder, sample={"drafts": 4, "max_new_tokens": 200})
    score, compare = 3 * 8 * 4, 3 * 8 * 2
    alone = VALIDATION * 4 + TEST * 2
    more = longer.prompt_tokens - by_reason["brief"].prompt_tokens
    assert more == pytest.approx(100 * (score + 2 * compare + alone), rel=0.01), "100 tokens more a draft shown"


def test_time_follows_requests_in_flight_and_limits_a_minute(folder):
    slow, fast = (estimated(folder, teacher={**RECIPE["teacher"], "concurrency": count}).seconds for count in (1, 10))
    assert slow == pytest.approx(10 * fast, rel=0.15)


def test_the_budget_is_compared_with_what_is_spent_and_expected(folder):
    found = estimated(folder)
    assert found.usd is not None
    (enough,) = opening_lines(found, Budget(usd=found.most_usd * 2))[2:]
    assert enough.endswith("is enough")
    (maybe,) = opening_lines(found, Budget(usd=found.usd * 1.01))[2:]
    assert "enough for what is expected, not for" in maybe
    (short,) = opening_lines(found, Budget(usd=found.usd / 2))[2:]
    assert "will not be enough" in short
    assert "50% of it (exit 3)" in short
    (spent,) = opening_lines(found, Budget(usd=found.usd * 1.01), Usage(usd=found.usd))[2:]
    assert "will not be enough" in spent
    assert "of it spent" in spent
    both = opening_lines(found, Budget(calls=10, tokens=10**9))[2:]
    assert ["calls" in both[0], "will not" in both[0], "is enough" in both[1]] == [True, True, True]
    unknown = estimated(folder, teacher={**RECIPE["teacher"], "model": "nobody-knows"})
    assert any("unknown without a price" in line for line in opening_lines(unknown, Budget(usd=5)))


def test_a_judge_whose_code_fails_is_said_and_stops_nothing(folder):
    (folder / "strict.py").write_text("def check(prompt, text):\n    raise ValueError('not such a text')\n")
    (folder / "rubric.yaml").write_text(RUBRIC + "  - {name: own, check: 'strict.py:check'}\n")
    found = estimated(folder)
    assert any("training drafts" in note and "not such a text" in note for note in found.notes)
    assert found.calls < 3 * 8 * 6


def verdict_of(prompt_id: str, calls: int = 1, cached: int = 0) -> Verdict:
    usage = Usage(calls=calls, cached=cached, prompt_tokens=500 * calls, completion_tokens=30 * calls)
    compared = Usage(calls=calls, cached=cached, prompt_tokens=900 * calls, completion_tokens=20 * calls)
    ids = [f"{prompt_id}/student/train-01/{index}" for index in range(4)]
    return Verdict(
        prompt_id=prompt_id,
        judgements=tuple(
            Judgement(draft_id=key, judge="rubric", value=0.5, scale="custom", usage=usage) for key in ids[:3]
        ),
        preferences=(
            Preference(first_id=ids[0], second_id=ids[1], probability=1.0, judge="rubric", usage=compared),
            Preference(first_id=ids[1], second_id=ids[0], probability=0.0, judge="rubric", usage=compared),
        ),
    )


def make_run(folder: Path, run: Path, prompts: int) -> None:
    """A run folder in which the first `prompts` prompts of round 1 are judged: three drafts and one pair each."""
    recipe = load_recipe(folder / "recipe.yaml")
    loaded, _ = load_recipe_prompts(recipe)
    from prefdistill.stages.load import round_slices

    (run / "round-01").mkdir(parents=True)
    (run / "manifest.json").write_text(json.dumps({"recipe": recipe.resolved()}))
    first = round_slices(loaded.of("train"), 3, 8, 3)[0]
    RowFile(run / "round-01" / "2-verdicts.jsonl", Verdict).rewrite(verdict_of(each.id) for each in first[:prompts])


def test_what_is_in_the_run_folder_is_not_counted_again_and_corrects_the_rest(folder):
    fresh = estimated(folder)
    run = folder / "runs" / "priced"
    make_run(folder, run, 4)
    found = estimated(folder)
    left = (3 * 8 - 4) * 5
    assert calls(found)["training drafts"] == left, "five replies a prompt were enough for four drafts"
    assert found.done_calls == pytest.approx(4 * 5)
    (line,) = (each for each in found.grouped() if each.what == "training drafts")
    assert line.prompt_tokens == pytest.approx(left * (4 * 500 + 2 * 900) / 6)
    assert line.completion_tokens == pytest.approx(left * (4 * 30 + 2 * 20) / 6)
    (line,) = (each for each in found.grouped() if each.what == "test drafts judged")
    assert line.prompt_tokens == pytest.approx(line.calls * 500)
    assert f"as 20 calls in {run} showed" in found.assumptions
    again = estimated(folder, redo_from="judge")
    assert calls(again)["training drafts"] == 3 * 8 * 5
    assert "sample.max_new_tokens" in fresh.assumptions


def test_an_earlier_run_beside_it_corrects_a_new_one_but_not_one_with_another_judge(folder):
    estimated(folder)
    earlier = folder / "runs" / "earlier"
    make_run(folder, earlier, 4)
    found = estimated(folder)
    assert str(earlier) in found.assumptions
    assert calls(found)["training drafts"] == 3 * 8 * 5, "nothing of another run is taken as done"
    other = estimated(folder, judge={"use": "rubric", "reason": "full"})
    assert "sample.max_new_tokens" in other.assumptions


def test_an_owed_verdict_and_a_torn_line_count_as_not_done(folder):
    estimated(folder)
    run = folder / "runs" / "priced"
    make_run(folder, run, 3)
    path = run / "round-01" / "2-verdicts.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["failures"] = [{"stage": "judge", "key": "x", "kind": "provider", "message": "m"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]) + json.dumps(rows[2])[:50])
    before = path.read_bytes()
    assert estimated(folder).done_calls == pytest.approx(5)
    assert path.read_bytes() == before, "a run folder is only read"


def test_the_first_replies_correct_all_in_their_proportion():
    price = Price(input=1, output=10)
    lines = (
        Line("evaluate", "a", "m", price, 10, 1000, 100, 5000, 5),
        Line("judge", "b", "m", price, 100, 20_000, 3_000, 90_000, 50),
    )
    found = Estimate(lines).corrected(20, 4_500, 200)  # expected of the first twenty: 3000 and 400
    assert found.calls == 110
    assert found.prompt_tokens == pytest.approx(21_000 * 1.5)
    assert found.completion_tokens == pytest.approx(3_100 / 2)
    assert found.usd == pytest.approx((31_500 + 15_500) / 1e6)


def test_replies_are_as_long_as_their_schema():
    level = {"type": "object", "properties": {"reason": {"type": "string"}, "level": {"enum": ["no", "yes"]}}}
    schema = {"type": "object", "properties": {"tone": level, "length": level}}
    request = TeacherRequest("k", (Message(role="user", content="x"),), 2048, 0.0, schema)
    assert 25 * 2 < reply_tokens(request, "brief") < 25 * 2 + 40
    assert reply_tokens(request, "none") < 40
    assert reply_tokens(TeacherRequest("k", request.messages, 16, 0.0, schema), "full") == 16


def test_only_models_behind_a_url_or_with_a_price_are_paid_for():
    class Named:
        model = "gpt-4.1"

    class Local:
        model = "some/folder"

    assert is_paid(Named())
    assert not is_paid(Local())
    assert not is_paid(None)
