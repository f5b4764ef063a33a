"""The local judge as a whole: a rubric, drafts and a tiny random model in, a verdict out, with nothing asked elsewhere."""

import json
import shutil
from pathlib import Path

import pytest

from prefdistill.errors import PrefdistillError
from prefdistill.judges.rubric import RubricJudge
from prefdistill.plugins import build_plugin
from prefdistill.protocols import RunContext
from prefdistill.recipe import load_recipe
from prefdistill.stages.judge import judge_group, judge_prompts, threads_for
from prefdistill.teachers.local import LocalTeacher
from tests.making import ASKED, CLEAN, LENGTH, make_drafts, make_prompt, make_rubric, one_rubric
from tests.tiny_student import build_tiny_student, text

PROMPT = make_prompt(text="Write to Anna.")
GATE = {"name": "honest", "question": "Does it lie?", "pass_when": "no"}
RUBRIC = make_rubric(ASKED, LENGTH, {**ASKED, "name": "kind"}, gates=[CLEAN], purpose="A test.")
TEXTS = ["a short one", text(7, 20), text(8, 12), "bad: BAD"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny student with room for a judge's prompt."""
    made = build_tiny_student(tmp_path_factory.mktemp("judge") / "tiny", layers=2)
    for name, key in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        settings = json.loads((made / name).read_text())
        (made / name).write_text(json.dumps({**settings, key: 4096}))
    return made


def opened(folder, use="local", **options):
    options = {"model": str(folder), "device": "cpu", "min_covered": 0.0, **options}
    judge = build_plugin(use, options, "judges", Path())
    judge.open(RunContext(directory=Path(), seed=0))
    return judge


def test_every_score_is_a_mean_of_level_probabilities_and_gates_cost_nothing(folder):
    drafts = make_drafts([*TEXTS, TEXTS[0]])
    judge = opened(folder)
    verdict = judge_group(judge, PROMPT, drafts, RUBRIC)
    assert not verdict.failures
    by_id = {each.draft_id: each for each in verdict.judgements}
    judgements = [by_id[draft.id] for draft in drafts]
    for judgement in judgements[:3]:
        found = {each.criterion: each for each in judgement.scores}
        assert (found["clean"].path, found["length"].path) == ("checked", "checked")
        for name in ("good", "kind"):
            assert found[name].path == "logprob"
            assert sum(found[name].distribution) == pytest.approx(1.0)
            assert found[name].score == pytest.approx(
                sum(share * place / 4 for place, share in enumerate(found[name].distribution))
            )
    assert not {each.criterion: each for each in judgements[3].scores}["good"].applies
    assert judgements[4].scores == judgements[0].scores
    assert verdict.usage.calls == 0
    assert verdict.usage.usd == 0
    assert verdict.usage.prompt_tokens > 0


def test_it_is_the_rubric_judge_with_a_local_teacher(folder):
    drafts = make_drafts(TEXTS[:3])
    options = {"calls": "per_criterion", "reason": "none", "scoring": "logprob", "confirm": "round_robin"}
    teacher = LocalTeacher(model=str(folder), device="cpu", min_covered=0.0)
    other = RubricJudge(teacher=teacher, **options)
    other.open(RunContext(directory=Path(), seed=0))
    expected = judge_group(other, PROMPT, drafts, RUBRIC)
    found = judge_group(opened(folder, confirm="round_robin"), PROMPT, drafts, RUBRIC)
    assert len(found.preferences) == len(expected.preferences) == 6
    for a, b in zip(found.preferences, expected.preferences, strict=True):
        assert (a.first_id, a.path, b.path) == (b.first_id, "logprob", "logprob")
        assert a.probability == pytest.approx(b.probability, abs=1e-5)
        assert 0 < a.probability < 1  # a probability, not a verdict
    for one, two in zip(found.judgements, expected.judgements, strict=True):
        assert [each.score for each in one.scores] == pytest.approx([each.score for each in two.scores], abs=1e-5)


def test_one_prompt_at_a_time_whatever_the_caller_wants(folder):
    judge = opened(folder)
    assert threads_for(judge) == threads_for(judge, 16) == 1
    groups = [(make_prompt(f"p{n}"), make_drafts(TEXTS[:2], f"p{n}")) for n in range(3)]
    verdicts = list(judge_prompts(judge, groups, one_rubric(RUBRIC)))
    assert [len(each.judgements) for each in verdicts] == [2, 2, 2]


def test_a_model_that_does_not_answer_the_question_gives_failures_and_no_scores(folder):
    verdict = judge_group(opened(folder, min_covered=0.9), PROMPT, make_drafts(TEXTS[:2]), RUBRIC)
    assert not verdict.judgements
    assert {each.kind for each in verdict.failures} == {"parse"}
    assert "less than min_covered (0.9)" in verdict.failures[0].message


def test_a_draft_that_is_too_long_fails_alone(folder):
    drafts = make_drafts([TEXTS[0], text(1, 3000)])
    verdict = judge_group(opened(folder), PROMPT, drafts, RUBRIC)
    assert [each.draft_id for each in verdict.judgements] == [drafts[0].id]
    assert {(each.key, each.kind) for each in verdict.failures} == {(drafts[1].id, "truncated")}


def test_an_asked_gate(folder):
    verdict = judge_group(opened(folder), PROMPT, make_drafts(TEXTS[:2]), make_rubric(ASKED, gates=[GATE]))
    honest = verdict.judgements[0].scores[0]
    assert (honest.criterion, honest.path, len(honest.distribution)) == ("honest", "logprob", 2)


def test_what_cannot_be_chosen_is_refused(folder):
    for options in (
        {"calls": "per_draft"},
        {"reason": "brief"},
        {"scoring": "parsed"},
        {"on_disagree": "repeat"},
        {"teacher": {"use": "openai", "model": "m"}},
        {"models": "x"},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            build_plugin("local", {"model": str(folder), **options}, "judges", Path())
    with pytest.raises(ValueError, match="model"):
        build_plugin("local", {}, "judges", Path())


def test_a_recipe_needs_no_teacher_and_knows_the_weights(folder, tiny_recipe, tmp_path):
    shutil.copytree(folder, tmp_path / "judge")
    words = tiny_recipe.read_text().replace("teacher: {use: sandbox}\n", "").replace("[base, teacher]", "[base]")
    tiny_recipe.write_text(words.replace("judge: {use: checks}", "judge: {use: local, model: judge}"))
    recipe = load_recipe(tiny_recipe)
    assert recipe.resolved()["judge"]["model"] == str(tmp_path / "judge")
    before = recipe.judge.identity()
    assert before["model"] == opened(folder).identity()["model"]
    assert str(tmp_path) not in str(before)
    shutil.copy(tmp_path / "judge" / "tokenizer.json", tmp_path / "judge" / "vocabulary.json")
    assert load_recipe(tiny_recipe).judge.identity() != before
    tiny_recipe.write_text(words.replace("judge: {use: checks}", "judge: {use: local, model: ./none}"))
    with pytest.raises(PrefdistillError, match=r"tiny.yaml:\d+: judge.*no folder .*none; expected a model folder"):
        load_recipe(tiny_recipe)
