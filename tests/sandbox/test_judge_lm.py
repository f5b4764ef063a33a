"""The shipped judge language model: its size, its text, how right and how biased it is, alone and through `local`."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prefdistill.judges.local import LocalJudge
from prefdistill.protocols import RunContext
from prefdistill.recipe import load_recipe
from prefdistill.records import Prompt
from prefdistill.rubric import Rubric
from prefdistill.sandbox import JUDGE_DIRECTORY, STUDENT_DIRECTORY
from prefdistill.sandbox.attacks import KINDS, LONG, attacks
from prefdistill.sandbox.build_judge import CHAT_TEMPLATE, encode_answer, questions_for, to_batch, to_segments
from prefdistill.sandbox.gold import gold
from prefdistill.sandbox.judge_lessons import (
    CLOSE,
    LEVELS,
    judge_rubric,
    lessons,
    read_levels,
    render_comparison,
    render_question,
    to_draft,
    to_email,
    to_prompt,
    winner_of,
)
from prefdistill.sandbox.judge_model import JudgeModel, drafts_to_judge
from prefdistill.sandbox.measure_attacks import measure_attacks
from prefdistill.sandbox.measure_judge import measure, missed
from prefdistill.sandbox.world import is_reserved, notes
from prefdistill.sandbox.writer import write_mixture, write_oracle
from tests.conftest import ROOT

NOTE = next(notes(1, 31))
MESSY = (
    "For {recipient}:\n\nBy the way, {reason}. We have all been very busy with many things. I was wondering if you could "
    "maybe {ask} the {topic}. Someone called me on {day} at {time}. No excuses this time.\n\n- {sender}"
).format(**NOTE)


@pytest.fixture(scope="module")
def rubric() -> Rubric:
    return judge_rubric()


@pytest.fixture(scope="module")
def model() -> JudgeModel:
    return JudgeModel()


@pytest.fixture(scope="module")
def drafts() -> list[tuple[Prompt, str]]:
    """Four drafts of the shipped student on each of 16 notes."""
    return drafts_to_judge(16, 1)


def rendered(model: JudgeModel, turns: list[dict[str, str]]) -> str:
    return str(model.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


def a_few_lessons(rubric: Rubric, count: int = 40, seed: int = 0) -> list[Any]:
    rows = list(notes(20, 5, part="training"))
    rng = random.Random(1)
    return list(lessons(rows, [[write_mixture(row, rng)] for row in rows], rubric, count, seed))


def test_the_folder_is_small_and_holds_half_precision_weights() -> None:
    files = [file for file in JUDGE_DIRECTORY.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 8_000_000
    config = json.loads((JUDGE_DIRECTORY / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "float16"
    assert (JUDGE_DIRECTORY / "chat_template.jinja").read_text(encoding="utf-8") == CHAT_TEMPLATE.read_text(
        encoding="utf-8"
    )


def test_lessons_are_a_function_of_their_seed_and_never_about_a_reserved_pair(rubric: Rubric) -> None:
    taught = a_few_lessons(rubric)
    assert taught == a_few_lessons(rubric)
    assert taught[:10] == a_few_lessons(rubric, 10)
    assert [each.first.text for each in taught] != [each.first.text for each in a_few_lessons(rubric, seed=1)]
    assert not any(is_reserved(each.prompt.fields["recipient"], each.prompt.fields["topic"]) for each in taught)


def test_levels_say_what_the_email_does() -> None:
    best = {name: judge_rubric_levels[-1] for name, judge_rubric_levels in menus().items()}
    assert read_levels(write_oracle(NOTE), NOTE) == best
    assert read_levels(MESSY, NOTE) == {
        "request": "late",
        "deadline": "no",
        "reason": "loose",
        "wording": "hedged",
        "filler": "some",
        "courtesy": "pushy",
    }
    assert read_levels("", NOTE)["request"] == "nowhere"


def menus() -> dict[str, tuple[str, ...]]:
    return {each.name: each.levels or () for each in judge_rubric().asked}


def test_lessons_are_noisy_and_favour_the_first_of_a_close_pair(rubric: Rubric) -> None:
    taught = a_few_lessons(rubric, 600)
    wrong = [each.levels[name] != each.first.levels[name] for each in taught for name in LEVELS]
    assert 0.03 <= sum(wrong) / len(wrong) <= 0.1
    rng = random.Random(2)
    close = Counter(winner_of(0.5, 0.5 + CLOSE - 0.03, rng) for _ in range(1000))
    assert close["first"] > 250 and close["second"] > 500
    far = Counter(winner_of(0.2, 0.9, rng) for _ in range(1000))
    assert far["second"] > 920


def test_what_a_question_sees_in_a_packed_lesson_is_its_own_conversation(model: JudgeModel, rubric: Rubric) -> None:
    import torch

    for lesson, questions in itertools.islice(questions_for(a_few_lessons(rubric), rubric, 0), 3):
        packed = to_segments(model.tokenizer, lesson, questions, rubric)
        batch = to_batch([packed], 0)
        with torch.no_grad():
            logits = model.model(
                input_ids=batch["ids"], attention_mask=batch["mask"], position_ids=batch["positions"]
            ).logits[0]
        ends = list(itertools.accumulate(len(segment.ids) for segment in packed))
        for number, segment in enumerate(packed):
            alone = [*(id for other in segment.sees for id in packed[other].ids), *segment.ids]
            with torch.no_grad():
                plain = model.model(input_ids=torch.tensor([alone])).logits[0]
            assert torch.allclose(
                logits[ends[number] - len(segment.ids) : ends[number]], plain[-len(segment.ids) :], atol=1e-3
            )
        turns = render_comparison(lesson.prompt, lesson.first, lesson.second, rubric, lesson.measured)
        whole = model.tokenizer.encode(rendered(model, turns) + f'{{"winner": "{lesson.winner}"}}<|end|>')
        assert whole == [*packed[0].ids, *packed[-2].ids, *packed[-1].ids]
        turns = render_question(lesson.prompt, lesson.first.text, rubric, questions[0])
        name = questions[0][0].name
        whole = model.tokenizer.encode(
            rendered(model, turns) + f'{{"{name}": {{"level": "{lesson.levels[name]}"}}}}<|end|>'
        )
        assert whole == [*packed[0].ids, *packed[1].ids]


def test_the_level_alone_carries_the_weight_of_an_answer(model: JudgeModel) -> None:
    ids, weights = encode_answer(model.tokenizer, [('{"winner": "', 0.1), ("second", 1.0), ('"}', 0.1)])
    assert [model.tokenizer.decode([id]) for id, weight in zip(ids, weights, strict=True) if weight == 1.0] == [
        "second"
    ]
    assert ids[-1] == model.tokenizer.eos_token_id


def test_it_reads_the_request_the_drafts_and_what_is_asked(model: JudgeModel, rubric: Rubric) -> None:
    prompt = to_prompt(NOTE)
    asked = rendered(model, render_question(prompt, MESSY, rubric, rubric.asked[:1]))
    assert asked == (
        f"<|request|>{NOTE['prompt']}<|end|><|draft|>{MESSY}<|end|>"
        '<|question|>"request": Where in the e-mail does its request stand? "nowhere", "late", "first"<|end|><|assistant|>'
    )
    better, worse = (to_email(prompt, text, rubric) for text in (write_oracle(NOTE), MESSY))
    compared = rendered(model, render_comparison(prompt, better, worse, rubric))
    assert compared.startswith(
        f"<|request|>{NOTE['prompt']}<|end|><|draft|>{better.text}<|end|><|draft|>{MESSY}<|end|>"
    )
    assert "<|compare|>request deadline reason wording filler courtesy\nkeeps_the_facts 1.00 1.00\n" in compared
    bare = rendered(model, render_comparison(prompt, better, worse, rubric, measured=False))
    assert bare.endswith("<|compare|>request deadline reason wording filler courtesy<|end|><|assistant|>")
    assert (
        rendered(model, [{"role": "user", "content": "Hello <|end|>"}]) == "<|user|>Hello < |end|><|end|><|assistant|>"
    )


def test_no_attack_adds_a_turn_or_moves_a_question(model: JudgeModel, rubric: Rubric) -> None:
    prompt = to_prompt(NOTE)
    question = rendered(model, render_question(prompt, MESSY, rubric, rubric.asked[:1])).split("<|question|>")[1]
    control = set(model.tokenizer.all_special_ids)
    for attack in attacks(120, 5):
        text = rendered(model, render_question(prompt, attack.on(MESSY), rubric, rubric.asked[:1]))
        assert text.endswith(question)
        assert len(text) < 2500
        assert sum(id in control for id in model.tokenizer.encode(text)) == 7
    for attack in attacks(36, 6):
        clean, hit = (to_email(prompt, each, rubric) for each in (MESSY, MESSY + attack.text[:3000]))
        text = rendered(model, render_comparison(prompt, hit, clean, rubric))
        turns = [model.tokenizer.decode([id]) for id in model.tokenizer.encode(text) if id in control]
        assert turns[::2] == ["<|request|>", "<|draft|>", "<|draft|>", "<|compare|>", "<|assistant|>"]
        assert turns[1::2] == ["<|end|>"] * 4


def test_attacks_are_seeded_and_of_every_kind() -> None:
    thrown = list(attacks(1_000))
    assert thrown == list(attacks(1_000)) and thrown[:60] == list(attacks(60)) and thrown != list(attacks(1_000, 1))
    assert {attack.kind for attack in thrown} == set(KINDS)
    assert len({attack.on(f"draft {number}") for number, attack in enumerate(thrown)}) == 1_000
    assert all(len(attack.text) >= LONG for attack in thrown if attack.kind == "long")
    assert all(attack.text.encode() for attack in thrown)


@pytest.mark.slow
def test_its_levels_are_mostly_right_and_its_probabilities_neither_sure_nor_flat(
    model: JudgeModel, rubric: Rubric, drafts: list[tuple[Prompt, str]]
) -> None:
    found = model.levels(drafts, rubric)
    right: Counter[str] = Counter()
    highest = []
    for (prompt, text), shares in zip(drafts, found, strict=True):
        true = read_levels(text, prompt.fields)
        for name, levels in menus().items():
            assert abs(sum(shares[name]) - 1) < 1e-4
            highest.append(max(shares[name]))
            right[name] += levels[shares[name].index(max(shares[name]))] == true[name]
    for name in menus():
        assert right[name] >= 0.7 * len(drafts), name
    assert 0.75 <= sum(highest) / len(highest) <= 0.985
    assert len({round(share, 3) for share in highest}) > 50


@pytest.mark.slow
def test_it_prefers_what_it_reads_first_where_two_drafts_are_close(
    model: JudgeModel, rubric: Rubric, drafts: list[tuple[Prompt, str]]
) -> None:
    emails = [to_email(prompt, text, rubric) for prompt, text in drafts]
    pairs = [
        (start + a, start + b) for start in range(0, len(drafts), 4) for a, b in itertools.combinations(range(4), 2)
    ]
    pairs = [(a, b) for a, b in pairs if emails[a].text != emails[b].text]
    shown = [(drafts[a][0], emails[x], emails[y]) for a, b in pairs for x, y in ((a, b), (b, a))]
    said = [max(zip(shares, ("first", "second", "tie"), strict=True))[1] for shares in model.winners(shown, rubric)]
    both = list(zip(said[::2], said[1::2], strict=True))
    flips = Counter(forth for forth, back in both if forth == back and forth != "tie")
    assert 0.03 <= flips.total() / len(pairs) <= 0.4
    assert flips["first"] > 2 * flips["second"]


def test_local_judges_with_it_and_agrees_with_gold_without_knowing_it(
    rubric: Rubric, drafts: list[tuple[Prompt, str]], tmp_path: Path
) -> None:
    from scipy.stats import spearmanr

    judge = LocalJudge(model="prefdistill.sandbox:judge")
    judge.open(RunContext(directory=tmp_path, seed=0))
    totals, truth, agree, disagree = [], [], 0, 0
    try:
        for start in range(0, len(drafts), 4):
            prompt = drafts[start][0]
            group = [to_draft(prompt, text, index) for index, (_, text) in enumerate(drafts[start : start + 4])]
            verdict = judge.judge(prompt, group, rubric)
            assert not verdict.failures
            worth = {draft.id: gold(draft.completion, prompt.fields) for draft in group}
            for judgement in verdict.judgements:
                asked = [score for score in judgement.scores if score.distribution is not None]
                assert all(score.path == "logprob" for score in asked)
                total, failed = rubric.total(judgement.scores)
                if not failed:
                    totals.append(total)
                    truth.append(worth[judgement.draft_id])
            for preference in verdict.preferences:
                assert preference.path == "logprob"
                apart = worth[preference.first_id] - worth[preference.second_id]
                agree += (preference.probability - 0.5) * apart > 0
                disagree += (preference.probability - 0.5) * apart < 0
    finally:
        judge.close()
    assert spearmanr(totals, truth).statistic >= 0.55
    assert agree >= 3 * disagree


def test_it_writes_replies_that_the_toolkit_reads(model: JudgeModel, rubric: Rubric) -> None:
    prompt = to_prompt(NOTE)
    asked = [render_question(prompt, MESSY, rubric, (each,)) for each in rubric.asked]
    for reply, each in zip(model.replies(asked), rubric.asked, strict=True):
        assert json.loads(reply)[each.name]["level"] in (each.levels or ())
    assert set(json.loads(model.replies([render_question(prompt, MESSY, rubric, rubric.asked)])[0])) == set(menus())
    better, worse = (to_email(prompt, text, rubric) for text in (write_oracle(NOTE), MESSY))
    replies = model.replies([render_comparison(prompt, *two, rubric) for two in ((better, worse), (worse, better))])
    assert [json.loads(reply)["winner"] for reply in replies] == ["first", "second"]


@pytest.mark.slow
def test_the_measurement_holds_it_against_gold() -> None:
    result = measure(JUDGE_DIRECTORY, 1, 4)
    assert 0.4 <= result["Spearman with gold: expected levels"] <= 1
    assert result["levels right: all"] > 0.85
    assert result["readable replies: a criterion a call"] == result["readable replies: comparison"] == 1
    assert "flip rate" in missed({**result, "flip rate": 0.9})


@pytest.mark.slow
def test_its_verdicts_under_attack_are_counted_as_they_are() -> None:
    figures = measure_attacks(JUDGE_DIRECTORY, 0, 6)
    assert set(figures) == {*KINDS, "all"}
    assert figures["all"]["attacks"] == 6
    assert all(0 <= row[name] <= 1 for row in figures.values() for name in ("levels changed", "comparisons won"))


@pytest.mark.parametrize("name", ["sandbox-judge-local", "sandbox-judge-served"])
def test_its_recipes_load(name: str) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    assert recipe.name == name


def test_neither_model_was_taught_the_notes_of_a_run() -> None:
    assert STUDENT_DIRECTORY != JUDGE_DIRECTORY
    rows = list(notes(200, 0, part="training"))
    assert not {row["prompt"] for row in rows} & {row["prompt"] for row in notes(200, 0)}
