"""Training on answers: the completions alone carry loss, the policy starts where it should, and every loss is counted."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from prefdistill import student as loading
from prefdistill.diagnostics.findings import Levels
from prefdistill.diagnostics.rules import find
from prefdistill.diagnostics.training import start_lines
from prefdistill.errors import TrainError
from prefdistill.protocols import Probe, RunContext, TrainingData, learns_from
from prefdistill.records import Answer, Policy, TrainResult
from prefdistill.trainers import building, sft, tuning
from prefdistill.trainers.answers import MASKED, to_columns, to_items, tokenize_answers
from prefdistill.trainers.sft import SFTTrainer
from tests.tiny_student import build_tiny_student, pairs, section

OPTIONS = {"learning_rate": 2e-3, "batch_size": 8, "lora": {"r": 4, "alpha": 8}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_student(tmp_path_factory.mktemp("student") / "tiny")


@pytest.fixture
def base(folder):
    return Policy(model=str(folder))


def answers(count, round=1, offset=0):
    """Answers of random words."""
    return tuple(
        Answer(id=f"{pair.prompt_id}/teacher/train-{round:02d}/0", prompt_id=pair.prompt_id, round=round,
               prompt=pair.prompt, completion=pair.chosen)
        for pair in pairs(count, round, offset)
    )  # fmt: skip


def given(count=16, probes=12, **other):
    return TrainingData(
        (),
        tuple(Probe(each.prompt, each.chosen) for each in pairs(probes, offset=500)),
        answers=answers(count),
        **other,
    )


def train(folder, run, start, name="round-01", data=None, seed=7, seen=None, **options):
    trainer = SFTTrainer(**{**OPTIONS, **options})
    progress = (lambda *call: seen.append(call)) if seen is not None else (lambda *call: None)
    trainer.open(RunContext(directory=run, seed=0, student=section(folder), progress=progress))
    return trainer.train(data or given(), start, Policy(model=str(folder)), run / name / "5-policy", seed)


def weights(run, policy):
    return (run / policy.adapter / "adapter_model.safetensors").read_bytes()


def log_of(run, policy):
    return [json.loads(line) for line in (run / policy.adapter / "metrics.jsonl").read_text().splitlines()]


def tokens(folder, records):
    student = section(folder)
    return tokenize_answers(records, loading.load_tokenizer(student), student, "auto", 256).rows


def cross_entropy(model, rows):
    """The mean over all completion tokens of a batch, written down by hand and with gradients."""
    total, count = torch.zeros(()), 0
    for row in rows:
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        logits = model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1].float()
        wanted = torch.tensor(row.completion_ids)
        total = total + torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
        count += len(wanted)
    return total / count


def test_a_round_writes_its_policy_and_what_happened(folder, base, tmp_path):
    seen = []
    result = train(folder, tmp_path, base, data=given(19), epochs=6, seen=seen)
    where = tmp_path / "round-01" / "5-policy"
    names = {path.name for path in where.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "train.json"} <= names
    assert not {"checkpoints", "README.md", "pair_ids.txt"} & names
    assert result == TrainResult.model_validate_json((where / "train.json").read_text())
    assert result.policy == Policy(model=base.model, adapter="round-01/5-policy", round=1)
    assert (result.pairs, result.pairs_dropped, result.steps) == (16, 3, 12)
    assert (result.reward_margin, result.reward_accuracy) == (None, None)
    assert (where / "answer_ids.txt").read_text().split() == sorted(each.id for each in answers(16))
    logged = [entry["loss"] for entry in log_of(tmp_path, result.policy)]
    assert sum(logged[-2:]) < 0.98 * sum(logged[:2]), "the loss falls"
    assert [call[:3] for call in seen] == [("train", step, 12) for step in range(1, 13)]
    assert result.adapter_moved > 0.99
    assert result.kl > 0
    assert result.diagnostics["answer_up_share"] > 0.9
    assert result.diagnostics["answer_log_ratio"] > 0
    assert {value.dtype for value in loading.adapter_state(where).values()} == {torch.float32}
    assert learns_from(SFTTrainer()) == "answers"


def test_three_rounds_start_where_they_should_and_the_first_loss_is_the_cross_entropy(folder, base, tmp_path):
    start = base
    for number in (1, 2, 3):
        data = TrainingData((), (), answers=answers(8, number, 100 * number))
        result = train(folder, tmp_path, start, f"round-{number:02d}", data, epochs=3)
        assert (result.start, result.policy.round) == (start, number)
        model = loading.load_policy(section(folder), start, tmp_path)
        with torch.no_grad():
            expected = float(cross_entropy(model, tokens(folder, data.answers)))
        assert result.first_loss == pytest.approx(expected, abs=1e-4)
        seen = result.diagnostics
        assert seen["independent_loss"] == pytest.approx(expected, abs=1e-4)
        assert seen["first_loss_gap"] < 1e-4
        assert seen["adapter_float32"] == seen["adapter_equal"] == 1.0
        assert seen["gradient_ratio"] == pytest.approx(1.0, abs=1e-4)
        assert seen["first_tokens_differing"] == 0.0
        assert result.adapter_moved > 0.99
        start = result.policy


def built(folder, run, base, columns, micro=8, **options):
    return building.build_trainer(
        loading.load_base(section(folder), for_training=True), columns, loading.load_tokenizer(section(folder)),
        loading.lora_config(4, 8, 0.0),
        {"output_dir": str(run), "per_device_train_batch_size": micro, "bf16": False, "use_cpu": True, "seed": 3,
         "report_to": "none", "gradient_checkpointing": False, "max_length": None, "packing": False, **options},
        (base, base), run, (run / "metrics.jsonl", 1e9, lambda *call: None), "sft",
    )  # fmt: skip


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def test_the_prompts_tokens_carry_no_loss(folder, base, tmp_path):
    """TRL's gradients are those of the completions' cross-entropy; with the prompts in the loss they are others."""
    rows = sorted(tokens(folder, answers(8)), key=lambda row: -row.length)
    columns = to_columns([rows])
    assert all(
        set(labels[: len(row.prompt_ids)]) == {MASKED} for row, labels in zip(rows, columns["labels"], strict=True)
    )
    trainer = built(folder, tmp_path, base, columns)
    batch = next(iter(trainer.get_train_dataloader()))
    found = gradients(trainer.model, trainer.compute_loss(trainer.model, dict(batch)))
    wanted = gradients(trainer.model, cross_entropy(trainer.model, rows))
    assert found.keys() == wanted.keys()
    assert max(float(value.abs().max()) for value in wanted.values()) > 1e-4
    assert all(torch.allclose(value, wanted[name], atol=1e-6) for name, value in found.items())
    unmasked = {**batch, "labels": torch.where(batch["attention_mask"] == 1, batch["input_ids"], MASKED)}
    other = gradients(trainer.model, trainer.compute_loss(trainer.model, unmasked))
    assert not all(torch.allclose(value, wanted[name], atol=1e-6) for name, value in other.items())


def test_a_prompt_that_got_into_the_loss_is_noticed(folder, base, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sft, "to_columns", lambda steps: (lambda made: {**made, "labels": made["input_ids"]})(to_columns(steps))
    )
    seen = train(folder, tmp_path, base).diagnostics
    assert seen["first_loss_gap"] > 1e-3
    assert seen["first_tokens_differing"] == 1.0
    found = {each.check for each in find([{**seen, "answers": 16.0}], Levels())}
    assert "first_step" in found


def test_trained_tokens_are_the_sampled_ones_and_end_the_turn(folder):
    student = section(folder)
    tokenizer, record = loading.load_tokenizer(student), answers(1)[0]
    (row,) = tokens(folder, (record,))
    assert row.prompt_ids == loading.render_prompt(tokenizer, record.prompt, student)
    assert tokenizer.decode(row.completion_ids) == record.completion + "<|end|>"
    assert to_items(to_columns([[row]])) == [((tuple(row.prompt_ids), tuple(row.completion_ids)),)]


def test_cut_answers_are_counted_and_one_without_room_is_left_out(folder, base, tmp_path):
    lengths = sorted(row.length for row in tokens(folder, answers(20)))
    result = train(folder, tmp_path, base, data=given(20), max_length=lengths[10] - 1, batch_size=2)
    assert 0 < result.truncated <= sum(length > lengths[10] - 1 for length in lengths)
    assert result.diagnostics["truncated_share"] == result.diagnostics["unended_share"] > 0
    whole = train(folder, tmp_path, base, "round-02", data=given(20), batch_size=2)
    assert (whole.truncated, whole.diagnostics["max_length"]) == (0, lengths[-1])
    student, record = section(folder), answers(1)[0]
    tokenizer = loading.load_tokenizer(student)
    prompt = len(loading.render_prompt(tokenizer, record.prompt, student))
    assert tokenize_answers((record,), tokenizer, student, prompt, 256).rows == ()


def test_fewer_answers_than_a_batch_is_a_clear_error(folder, base, tmp_path):
    with pytest.raises(TrainError, match=r"7 answers, batch_size 8: .*lower train\.batch_size.*for more answers"):
        train(folder, tmp_path, base, data=given(7))


@pytest.mark.parametrize(("steps", "pairs"), [(1, 8), (5, 16)])
def test_so_many_steps_as_are_asked_for(folder, base, tmp_path, steps, pairs):
    result = train(folder, tmp_path, base, data=given(16, steps=steps))
    assert (result.steps, result.pairs) == (steps, pairs)


def test_micro_batches_weigh_every_token_alike(folder, base, tmp_path):
    whole = train(folder, tmp_path, base, micro_batch=8)
    parts = train(folder, tmp_path, base, "round-02", micro_batch=2)
    assert whole.first_loss == pytest.approx(parts.first_loss, abs=1e-5)
    states = [loading.adapter_state(tmp_path / result.policy.adapter) for result in (whole, parts)]
    assert max(float((states[0][name] - states[1][name]).abs().max()) for name in states[0]) < 1e-4


class Killed(BaseException):
    pass


def test_a_killed_training_goes_on_and_ends_in_the_same_bytes(folder, base, tmp_path):
    expected = train(folder, tmp_path, base, epochs=3)

    def die(stage, step, *rest):
        if step == 4:
            raise Killed

    trainer = SFTTrainer(**OPTIONS, epochs=3, checkpoint_seconds=0)
    target = tmp_path / "round-02" / "5-policy"
    for progress in (die, lambda *call: None):
        trainer.open(RunContext(directory=tmp_path, seed=0, student=section(folder), progress=progress))
        try:
            result = trainer.train(given(), base, base, target, 7)
        except Killed:
            assert list((target / "checkpoints").glob("checkpoint-*"))
    assert weights(tmp_path, result.policy) == weights(tmp_path, expected.policy)
    assert weights(tmp_path, train(folder, tmp_path, base, "round-03", epochs=3, seed=8).policy) != weights(
        tmp_path, expected.policy
    )


@pytest.mark.slow
def test_two_processes_train_what_one_does(folder, base, tmp_path):
    many = train(folder, tmp_path, base, launch={"processes": 2})
    one = train(folder, tmp_path, base, "round-02")
    for first, second in zip(log_of(tmp_path, one.policy), log_of(tmp_path, many.policy), strict=True):
        assert second["loss"] == pytest.approx(first["loss"], abs=1e-5)
    states = [loading.adapter_state(tmp_path / result.policy.adapter) for result in (one, many)]
    assert max(float((states[0][name] - states[1][name]).abs().max()) for name in states[0]) < 1e-4


def test_the_lines_of_what_was_checked(folder, base, tmp_path):
    result = train(folder, tmp_path, base)
    made = {each.name: each for each in start_lines({**result.diagnostics, "answers": 16.0}, result.facts, ())}
    assert {name for name, each in made.items() if each.state == "off"} == {"sampler", "small_difference"}
    assert made["first_step"].text.startswith("loss ") and "reward" not in made["first_step"].text
    assert made["sampler"].text.startswith("off-policy: the teacher's answers")
    assert made["policies"].text == "start the base, reference none, the loss measures against no policy"
    assert "of answers cut" in made["truncated"].text


def test_dropout_switches_the_comparison_of_the_first_step_off(folder, base, tmp_path):
    result = train(folder, tmp_path, base, lora={"r": 4, "alpha": 8, "dropout": 0.5})
    assert "first_loss_gap" not in result.diagnostics
    assert result.facts["off/first_step"] == "dropout is on"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"extra": {"packing": True}}, r"extra\.packing: set by the trainer: every answer is a row of its own"),
        ({"extra": {"completion_only_loss": False}}, "only the answers' tokens carry loss"),
        ({"extra": {"seed": 1}}, r"extra\.seed: set by the recipe's seed"),
        ({"beta": 0.1}, "Extra inputs are not permitted"),
        ({"batch_size": 8, "micro_batch": 3}, "micro_batch 3 does not divide batch_size 8"),
    ],
)
def test_options_that_would_change_what_is_trained_on_are_refused(options, expected):
    with pytest.raises(ValidationError, match=expected):
        SFTTrainer.model_validate(options)


def test_an_option_that_trl_does_not_know_is_named(folder, tmp_path):
    trainer = SFTTrainer(extra={"neftune_noise_alfa": 5})
    with pytest.raises(TrainError, match=r"train\.extra\.neftune_noise_alfa: TRL's SFTConfig has no such option"):
        trainer.open(RunContext(directory=tmp_path, seed=0, student=section(folder)))


def test_only_the_learning_rate_can_be_remedied():
    trainer = SFTTrainer(learning_rate=1e-3)
    assert trainer.remedied("halve_learning_rate").learning_rate == 5e-4
    assert trainer.remedied("add_sft") is trainer.remedied("length_normalise") is None
    assert tuning.ids_file("pairs") == "pair_ids.txt"
