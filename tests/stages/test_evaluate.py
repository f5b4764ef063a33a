"""Comparisons and evaluation results from known scores and preferences."""

import pytest

from prefdistill.errors import JudgeError
from prefdistill.metrics.scores import DraftScore
from prefdistill.records import (
    CriterionScore,
    Draft,
    Failure,
    Judgement,
    Message,
    Policy,
    Preference,
    Prompt,
    Verdict,
)
from prefdistill.rubric import Criterion, Gate, Rubric, RubricSet
from prefdistill.stages.evaluate import (
    compare_preferences,
    compare_scores,
    draft_scores,
    evaluate_policy,
    performance_gap,
)

BASE = Policy(model="tiny")
KEPT = Policy(model="tiny", adapter="round-02/5-policy", round=2)
RUBRIC = Rubric(
    name="email",
    gates=(Gate(name="facts", check="mentions"),),
    criteria=(
        Criterion(name="clear", question="Clear?", levels=("no", "partly", "yes"), weight=2),
        Criterion(name="length", check="length"),
    ),
)
ONE_RUBRIC = RubricSet(rubrics={"": RUBRIC})
TWO_RUBRICS = RubricSet(column="task", rubrics={"email": RUBRIC, "edit": RUBRIC})


def prompt(name: str, **fields: str) -> Prompt:
    return Prompt(id=name, messages=(Message(role="user", content="note"),), split="test", fields=fields)


def draft(name: str, source: str = "student", index: int = 0, cut: bool = False, text: str = "two words") -> Draft:
    return Draft(
        id=Draft.make_id(name, source, 2, "test", index),
        prompt_id=name,
        source=source,
        policy=None if source == "teacher" else (KEPT if source == "student" else BASE),
        round=2,
        purpose="test",
        index=index,
        completion=text,
        finish_reason="length" if cut else "stop",
        tokens=3,
        seed=1,
    )


def scored(value: float, gates: tuple[str, ...] = ()) -> DraftScore:
    return DraftScore(value, 0.0 if gates else value, gates, (), "rubric")


def judged(one: Draft, clear: float, length: float, facts: float = 1.0) -> Judgement:
    found = {"clear": clear, "length": length, "facts": facts}
    rows = tuple(CriterionScore(criterion=name, score=score, path="checked") for name, score in found.items())
    return Judgement(draft_id=one.id, judge="rubric", scores=rows, scale="rubric")


def test_draft_scores_apply_weights_gates_and_the_token_limit() -> None:
    good, gated, cut, failed, partial = (draft("p", index=index, cut=index == 2) for index in range(5))
    verdict = Verdict(
        prompt_id="p",
        judgements=(
            judged(good, 1.0, 0.4),
            judged(gated, 1.0, 1.0, facts=0.5),
            judged(cut, 1.0, 1.0),
            Judgement(draft_id=partial.id, judge="rubric", scores=judged(good, 1, 1).scores[:1], scale="rubric"),
        ),
        failures=(Failure(stage="judge", key=failed.id, kind="parse", message="no verdict"),),
    )
    found = draft_scores([verdict], [good, gated, cut, failed, partial], [prompt("p")], ONE_RUBRIC)
    assert set(found) == {good.id, gated.id, cut.id}
    assert found[good.id].gated_score == found[good.id].score == pytest.approx(0.8)
    assert (found[gated.id].gates, found[gated.id].score, found[gated.id].gated_score) == (("facts",), 1.0, 0.0)
    assert (found[cut.id].gates, found[cut.id].gated_score) == (("complete",), 0.0)


def test_a_custom_judges_value_stays_on_its_own_scale() -> None:
    one = draft("p", cut=True)
    verdict = Verdict(prompt_id="p", judgements=(Judgement(draft_id=one.id, judge="x", value=-3.0, scale="custom"),))
    found = draft_scores([verdict], [one], [prompt("p")], ONE_RUBRIC)[one.id]
    assert (found.score, found.gated_score, found.criteria) == (-3.0, -3.0, ())


def test_compare_scores() -> None:
    names = ["win", "loss", "tie", "gate", "unknown", "mean", "alone"]
    ours = [draft(name) for name in names] + [draft("mean", index=1)]
    theirs = [draft(name, "base") for name in names[:-1]]
    scores = {
        draft("win").id: scored(0.8),
        draft("loss").id: scored(0.3),
        draft("tie").id: scored(0.52),
        draft("gate").id: scored(1.0, ("facts",)),
        draft("mean").id: scored(1.0),
        draft("mean", index=1).id: scored(0.4),
    }
    base_scores = {each.id: scored(0.5) for each in theirs}
    rows = compare_scores([prompt(name) for name in names], ours, theirs, scores, base_scores, "base", 0.05)
    assert {row.prompt_id: row.outcome for row in rows} == {
        "win": "win",
        "loss": "loss",
        "tie": "tie",
        "gate": "loss",
        "unknown": "unknown",
        "mean": "win",
    }
    by_id = {row.prompt_id: row for row in rows}
    assert by_id["mean"].score == pytest.approx(0.7)
    assert by_id["gate"].score == 0.0
    assert by_id["unknown"].score is None


def test_compare_preferences_needs_both_orders_and_averages_them() -> None:
    names = ["win", "flip", "half", "missing"]
    ours, theirs = [draft(name) for name in names], [draft(name, "base", text="other words") for name in names]
    pairs = {one.prompt_id: (one.id, other.id) for one, other in zip(ours, theirs, strict=True)}

    def both(name: str, first: float, second: float | None) -> list[Preference]:
        a, b = pairs[name]
        rows = [Preference(first_id=a, second_id=b, probability=first, judge="x")]
        return rows if second is None else [*rows, Preference(first_id=b, second_id=a, probability=second, judge="x")]

    shown = [*both("win", 1, 0), *both("flip", 1, 1), *both("half", 1, 0.5), *both("missing", 1, None)]
    prompts = [prompt(name) for name in names]
    rows = compare_preferences(prompts, ours, theirs, shown, "base")
    assert [row.outcome for row in rows] == ["win", "tie", "win", "unknown"]
    assert (rows[2].score, rows[2].baseline_score) == (0.75, 0.25)
    gated = {one.id: scored(0.9, ("facts",) if one.prompt_id == "win" else ()) for one in ours}
    base = {one.id: scored(0.5) for one in theirs}
    rows = compare_preferences(prompts, ours, theirs, shown, "base", 0.0, gated, base)
    assert [row.outcome for row in rows] == ["loss", "tie", "win", "unknown"]
    assert rows[0].score == 0.0
    same = [draft(name, "base") for name in names]
    assert {row.outcome for row in compare_preferences(prompts, ours, same, [], "base")} == {"tie"}


def _evaluate(rubrics: RubricSet, prompts: list[Prompt], ours: list[Draft], theirs: list[Draft], found: dict):
    rows = compare_scores(prompts, ours, theirs, found, found, "base")
    return evaluate_policy(
        policy=KEPT,
        baseline="base",
        split="test",
        judge_name="rubric",
        self_judged=True,
        prompts=prompts,
        drafts=ours,
        baseline_drafts=theirs,
        scores=found,
        baseline_scores=found,
        comparisons=rows,
        rubrics=rubrics,
        seed=7,
    )


def test_evaluate_policy_overall_and_by_kind() -> None:
    prompts = [prompt(f"p{index}", task="email" if index < 6 else "edit") for index in range(10)]
    ours = [draft(each.id, text="three words here") for each in prompts]
    theirs = [draft(each.id, "base", text="one two") for each in prompts]
    verdicts = [
        Verdict(
            prompt_id=one.prompt_id,
            judgements=(judged(one, 1.0, 1.0, facts=float(index != 9)), judged(other, 0.5, 1.0)),
        )
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True))
    ]
    found = draft_scores(verdicts, ours + theirs, prompts, TWO_RUBRICS)
    results = _evaluate(TWO_RUBRICS, prompts, ours, theirs, found)
    assert [result.kind for result in results] == [None, "email", "edit"]
    overall, email, edit = results
    assert (overall.wins, overall.losses, email.wins, edit.losses) == (9, 1, 6, 1)
    assert overall.win_rate == 0.9
    assert overall.interval == (pytest.approx(0.596, abs=1e-3), pytest.approx(0.982, abs=1e-3))
    assert overall.score == pytest.approx(0.9)
    assert overall.score_gain == pytest.approx(0.9 - 2 / 3)
    assert overall.gate_pass_rate == 0.9
    assert overall.length_ratio == 1.5
    assert overall.criteria == {"clear": 1.0, "length": 1.0, "facts": 0.9}
    assert overall.baseline_criteria["clear"] == 0.5
    assert results == _evaluate(TWO_RUBRICS, prompts[::-1], ours[::-1], theirs[::-1], found)


def test_gates_and_criteria_may_come_from_the_training_judge() -> None:
    one, other = draft("p"), draft("p", "base")
    held_out = {each.id: DraftScore(value, value, (), (), "custom") for each, value in [(one, 3.0), (other, 2.0)]}
    row = CriterionScore(criterion="clear", score=0.5, path="parsed")
    training = {each.id: DraftScore(0.5, 0.5, ("facts",), (row,), "rubric") for each in (one, other)}
    (result,) = evaluate_policy(
        policy=KEPT,
        baseline="base",
        split="test",
        judge_name="held-out",
        self_judged=False,
        prompts=[prompt("p")],
        drafts=[one],
        baseline_drafts=[other],
        scores=held_out,
        baseline_scores=held_out,
        comparisons=compare_scores([prompt("p")], [one], [other], held_out, held_out, "base"),
        rubrics=ONE_RUBRIC,
        seed=0,
        rubric_scores=training,
        baseline_rubric_scores=training,
    )
    assert (result.score, result.gate_pass_rate, result.criteria) == (3.0, 0.0, {"clear": 0.5})


def test_nothing_judged_is_an_error() -> None:
    with pytest.raises(JudgeError, match="0 of 1 test comparisons with base were judged by rubric"):
        _evaluate(ONE_RUBRIC, [prompt("p")], [draft("p")], [draft("p", "base")], {})


def test_performance_gap_is_taken_on_prompts_scored_for_all_three() -> None:
    prompts = [prompt(f"p{index}") for index in range(12)]
    ours = [draft(each.id) for each in prompts]
    base = [draft(each.id, "base") for each in prompts]
    teacher = [draft(each.id, "teacher") for each in prompts[:-1]]
    values = [(ours, 0.6), (base, 0.4), (teacher, 0.8)]
    found = {each.id: scored(value) for rows, value in values for each in rows}
    found[ours[-1].id] = scored(0.0)
    against_base = compare_scores(prompts, ours, base, found, found, "base")
    against_teacher = compare_scores(prompts, ours, teacher, found, found, "teacher")
    assert performance_gap(against_base, against_teacher, seed=1).value == pytest.approx(0.5)
    assert performance_gap(against_base, [], seed=1).refused is not None


def test_a_cut_draft_counts_as_the_bases_lowest_score_on_a_judges_own_scale() -> None:
    whole, cut = draft("p"), draft("p", index=1, cut=True)
    rows = [
        Judgement(draft_id=each.id, judge="x", value=score, scale="custom")
        for each, score in ((whole, 5.0), (cut, 9.0))
    ]
    verdict = Verdict(prompt_id="p", judgements=tuple(rows))
    found = draft_scores([verdict], [whole, cut], [prompt("p")], ONE_RUBRIC, lowest=-2.0)
    tagged = cut.model_copy(update={"finish_reason": "stop", "stray_tag": "</think>"})
    assert (
        found[cut.id].gated_score
        == draft_scores([verdict], [whole, tagged], [prompt("p")], ONE_RUBRIC, lowest=-2.0)[cut.id].gated_score
    )
    assert [found[each.id].gated_score for each in (whole, cut)] == [5.0, -2.0]
    unknown = draft_scores([verdict], [whole, cut], [prompt("p")], ONE_RUBRIC)
    assert unknown[cut.id].gated_score == 9.0
