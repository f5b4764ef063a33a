"""Training on reasoning and answers: what carries loss, what begins the turn, and pairs whose drafts were reasoned for."""

import json

import pytest
import torch

from prefdistill import student as loading
from prefdistill.errors import RecipeError
from prefdistill.protocols import Probe, RunContext, TrainingData
from prefdistill.records import Answer, Policy
from prefdistill.traces import TAGS, empty_block, render_trace
from prefdistill.trainers.answers import to_columns, to_items, tokenize_answers
from prefdistill.trainers.pairs import tokenize_pairs
from prefdistill.trainers.traces import TracesTrainer
from tests.tiny_student import build_tiny_student, pairs, section
from tests.trainers.test_sft import cross_entropy

BLOCK = empty_block(TAGS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_student(tmp_path_factory.mktemp("student") / "tiny")


def answers(count):
    """Answers of random words, every fourth one without reasoning."""
    begins = [{"block": BLOCK} if number % 4 == 0 else {"trace": render_trace("noon", TAGS)} for number in range(count)]
    return tuple(
        Answer(id=f"{each.prompt_id}/0", prompt_id=each.prompt_id, round=1, prompt=each.prompt, completion=each.chosen,
               **begin)
        for each, begin in zip(pairs(count), begins, strict=True)
    )  # fmt: skip


def rows(folder, records, trace="on"):
    student = section(folder, trace=trace)
    tokenizer = loading.load_tokenizer(student)
    return tokenizer, tokenize_answers(records, tokenizer, student, "auto", 256).rows


@pytest.mark.parametrize("trace", ["on", "off"])
def test_reasoning_carries_loss_and_an_empty_trace_does_not(folder, trace):
    tokenizer, tokens = rows(folder, answers(4), trace)
    plain = loading.render_prompt(tokenizer, tokens[1].answer.prompt, section(folder))
    assert tokenizer.decode(tokens[0].prompt_ids).endswith(BLOCK)
    assert tokenizer.decode(tokens[0].completion_ids) == f"{tokens[0].answer.completion}<|end|>"
    assert tokens[1].prompt_ids == plain
    assert (
        tokenizer.decode(tokens[1].completion_ids) == f"<think>\nnoon\n</think>\n\n{tokens[1].answer.completion}<|end|>"
    )
    ((prompt, completion),) = to_items(to_columns([[tokens[0]]]))[0]
    assert (list(prompt), list(completion)) == (tokens[0].prompt_ids, tokens[0].completion_ids)


@pytest.mark.slow
def test_the_first_loss_is_the_cross_entropy_of_reasoning_and_answer(folder, tmp_path):
    trainer = TracesTrainer(learning_rate=2e-3, batch_size=8, lora={"r": 4, "alpha": 8})
    student, base = section(folder, trace="on"), Policy(model=str(folder))
    trainer.open(RunContext(directory=tmp_path, seed=0, student=student))
    probes = tuple(Probe(each.prompt, each.chosen, policy=base) for each in pairs(6, offset=500))
    data = TrainingData((), probes, answers=answers(8))
    result = trainer.train(data, base, base, tmp_path / "round-01" / "5-policy", 7)
    with torch.no_grad():
        expected = float(cross_entropy(loading.load_policy(student, base, tmp_path), rows(folder, data.answers)[1]))
    assert result.first_loss == pytest.approx(expected, abs=1e-4)
    seen = result.diagnostics
    assert seen["independent_loss"] == pytest.approx(expected, abs=1e-4)
    assert seen["first_tokens_differing"] == 0.0
    assert seen["without_trace_share"] == 0.25
    tokenizer = loading.load_tokenizer(student)
    assert seen["trace_tokens"] == len(tokenizer.encode(data.answers[1].trace, add_special_tokens=False))
    assert json.loads((tmp_path / "round-01" / "5-policy" / "train.json").read_text())["policy"]["round"] == 1


def test_pairs_are_trained_on_with_their_reasoning_after_the_prompt_that_was_sampled(folder):
    student = section(folder, trace="off")
    tokenizer = loading.load_tokenizer(student)
    given = [each.model_copy(update={"chosen_trace": render_trace("noon", TAGS)}) for each in pairs(2)]
    for trace in ("on", "off"):
        found = tokenize_pairs(given, tokenizer, student.with_trace(trace), "auto", 256).rows[0]
        assert tokenizer.decode(found.chosen_ids) == f"<think>\nnoon\n</think>\n\n{given[0].chosen}<|end|>"
        assert tokenizer.decode(found.rejected_ids) == f"{given[0].rejected}<|end|>"
        assert tokenizer.decode(found.prompt_ids).endswith(BLOCK) == (trace == "off")


def test_tags_are_checked_before_anything_is_asked(folder, tmp_path):
    student = section(build_tiny_student(tmp_path / "ascii", layers=1, ascii_only=True), trace_tags=["«", "»"])
    with pytest.raises(RecipeError, match=r"student\.trace_tags: « comes back as"):
        TracesTrainer().open(RunContext(directory=tmp_path, seed=0, student=student))
    TracesTrainer(trace="strip").open(RunContext(directory=tmp_path, seed=0, student=student))
