"""Training: the policy starts where it should, is measured against what it should be, and every loss is counted."""

import json
import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from prefdistill import student as loading
from prefdistill.errors import TrainError
from prefdistill.protocols import Probe, RunContext, TrainingData
from prefdistill.records import Policy, TrainResult
from prefdistill.scoring import log_probs
from prefdistill.trainers import building, dpo, tuning
from prefdistill.trainers.checkpoints import is_complete, last_checkpoint
from prefdistill.trainers.dpo import DPOTrainer
from prefdistill.trainers.outcome import FIRST_STEP
from prefdistill.trainers.pairs import full_batches, tokenize_pairs
from tests.tiny_student import build_tiny_student, pairs, section

OPTIONS = {"learning_rate": 2e-3, "batch_size": 8, "lora": {"r": 4, "alpha": 8}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_student(tmp_path_factory.mktemp("student") / "tiny")


@pytest.fixture
def base(folder):
    return Policy(model=str(folder))


def opened(folder, run, **options):
    trainer = DPOTrainer(**{**OPTIONS, **options})
    seen = []
    context = RunContext(directory=run, seed=0, student=section(folder), progress=lambda *call: seen.append(call))
    trainer.open(context)
    return trainer, context, seen


def train(folder, run, start, reference, name="round-01", data=None, seed=7, **options):
    trainer, _, _ = opened(folder, run, **options)
    data = data or TrainingData(pairs(16), probes(12))
    return trainer.train(data, start, reference, run / name / "5-policy", seed)


def probes(count):
    return tuple(Probe(pair.prompt, pair.chosen) for pair in pairs(count, offset=500))


def weights(run, policy):
    return (run / policy.adapter / "adapter_model.safetensors").read_bytes()


def test_a_round_writes_its_policy_and_what_happened(folder, base, tmp_path):
    trainer, context, seen = opened(folder, tmp_path)
    result = trainer.train(TrainingData(pairs(19), probes(12)), base, base, tmp_path / "round-01" / "5-policy", 7)
    where = tmp_path / "round-01" / "5-policy"
    names = {path.name for path in where.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "train.json"} <= names
    assert not {"checkpoints", "README.md", "ref"} & names
    assert result == TrainResult.model_validate_json((where / "train.json").read_text())
    assert result.policy == Policy(model=base.model, adapter="round-01/5-policy", round=1)
    assert (result.pairs, result.pairs_dropped, result.steps) == (16, 3, 2)
    assert (where / "pair_ids.txt").read_text().split() == sorted(pair.id for pair in pairs(16))
    logged = [json.loads(line) for line in (where / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in logged] == [1, 2]
    assert {"loss", "grad_norm", "rewards/margins", "rewards/accuracies"} <= set(logged[0])
    assert [call[:3] for call in seen] == [("train", 1, 2), ("train", 2, 2)]
    assert seen[0][3].startswith("loss 0.69")
    assert result.adapter_moved > 0.99
    assert result.kl > 0
    assert context.choices["last_update"] == result.diagnostics["update_per_token"] > 0
    assert {value.dtype for value in loading.adapter_state(where).values()} == {torch.float32}


@pytest.mark.parametrize("reference", ["base", "previous"])
def test_four_rounds_start_and_measure_where_they_should(folder, base, tmp_path, reference):
    student, start, past = section(folder), base, ()
    tokenizer = loading.load_tokenizer(student)
    for number in (1, 2, 3, 4):
        against = base if reference == "base" else start
        data = TrainingData((*pairs(8, round=number, offset=100 * number), *past[:4]), ())
        batch = len(data.pairs)
        result = train(folder, tmp_path, start, against, f"round-{number:02d}", data, epochs=3, batch_size=batch)
        assert (result.start, result.reference, result.policy.round) == (start, against, number)
        # The first step's margin, from a pass of the test's own over the same pairs through the saved policies.
        rows = tokenize_pairs(data.pairs, tokenizer, student, "auto", 256).rows
        margins = {}
        for policy in {start, against, base}:
            model = loading.load_policy(student, policy, tmp_path)
            chosen = log_probs(model, [(row.prompt_ids, row.chosen_ids) for row in rows])
            rejected = log_probs(model, [(row.prompt_ids, row.rejected_ids) for row in rows])
            margins[policy] = [a - b for (a, _), (b, _) in zip(chosen, rejected, strict=True)]
        expected = (sum(margins[start]) - sum(margins[against])) / len(rows)
        first = json.loads((tmp_path / result.policy.adapter / "metrics.jsonl").read_text().splitlines()[0])
        assert first["rewards/margins"] == pytest.approx(0.1 * expected, abs=1e-5)
        # And what the trainer says about itself.
        seen = result.diagnostics
        for name, key in FIRST_STEP.items():
            assert seen[f"first_{name}"] == first[key]
            assert abs(seen[f"independent_{name}"] - first[key]) == seen[f"first_{name}_gap"] < 1e-4
        if start == against:
            assert result.first_loss == pytest.approx(math.log(2), abs=1e-6)
        else:
            assert first["rewards/margins"] != pytest.approx(0.0, abs=1e-4)
        assert seen["adapter_float32"] == seen["adapter_equal"] == 1.0
        assert seen["gradient_ratio"] == pytest.approx(1.0, abs=1e-4)
        assert result.facts["start"] == ("the base" if number == 1 else f"round {number - 1} ({start.adapter})")
        assert ("fresh_accuracy" in seen) == (number > 1) == ("off/fresh_accuracy" not in result.facts)
        if number > 1:
            fresh = [a > b for a, b, _ in zip(margins[start], margins[base], range(8), strict=False)]
            assert seen["fresh_accuracy"] == sum(fresh) / 8
        assert result.adapter_moved > 0.99
        start, past = result.policy, data.pairs


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["base", "previous"])
def test_scoring_the_reference_once_equals_scoring_it_in_every_step(folder, base, tmp_path, monkeypatch, reference):
    first = train(folder, tmp_path, base, base).policy
    against = base if reference == "base" else first
    data = TrainingData(pairs(16, round=2, offset=200), ())
    once = train(folder, tmp_path, first, against, "round-02", data, epochs=2)
    monkeypatch.setattr(dpo, "fix_reference", lambda trainer, reference: None)
    each = train(folder, tmp_path, first, against, "round-03", data, epochs=2)
    states = [loading.adapter_state(tmp_path / result.policy.adapter) for result in (once, each)]
    assert max(float((states[0][name] - states[1][name]).abs().max()) for name in states[0]) < 1e-5
    assert once.reward_margin == pytest.approx(each.reward_margin, abs=1e-4)


def test_one_seed_gives_the_same_bytes_and_another_others(folder, base, tmp_path):
    made = [
        weights(tmp_path, train(folder, tmp_path, base, base, name, seed=seed).policy)
        for name, seed in (("round-01", 7), ("round-02", 7), ("round-03", 8))
    ]
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_adapters_that_are_not_float32_when_the_start_is_loaded_are_noticed(folder, base, tmp_path, monkeypatch):
    start = train(folder, tmp_path, base, base).policy
    monkeypatch.setattr(building, "cast_adapters", lambda model: None)
    with pytest.raises(TrainError, match="rounded while loading"):
        train(folder, tmp_path, start, start, "round-02")


def test_casting_after_loading_would_start_from_another_policy(folder, base, tmp_path, monkeypatch):
    """The first loss tells: it is ln 2 in the right order, and is not in the wrong one."""
    start = train(folder, tmp_path, base, base, epochs=4).policy
    right = train(folder, tmp_path, start, start, "round-02")
    original = building.load_adapters

    def wrong(model, start, reference, directory):
        original(model, start, reference, directory)
        for name, value in model.named_parameters():
            if ".default." in name:
                value.data = value.data.bfloat16().float()

    monkeypatch.setattr(building, "load_adapters", wrong)
    broken = train(folder, tmp_path, start, start, "round-03")
    assert abs(right.first_loss - math.log(2)) < 1e-6
    assert abs(broken.first_loss - math.log(2)) > 1e-5


def first_gradients(folder, run, base, columns):
    """The adapter's gradients of the first batch, with the adapter a little away from the base."""
    trainer = building.build_trainer(
        loading.load_base(section(folder), for_training=True),
        columns,
        loading.load_tokenizer(section(folder)),
        loading.lora_config(4, 8, 0.0),
        {
            "output_dir": str(run), "per_device_train_batch_size": 8, "bf16": False, "use_cpu": True, "report_to": "none",
            "gradient_checkpointing": False, "max_length": None, "seed": 3,
        },
        (base, base),
        run,
        (run / "metrics.jsonl", 1e9, lambda *call: None),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return float(loss.detach()), {
        name: value.grad for name, value in trainer.model.named_parameters() if value.grad is not None
    }


def test_swapping_chosen_and_rejected_flips_the_gradient(folder, base, tmp_path):
    rows = tokenize_pairs(pairs(8), loading.load_tokenizer(section(folder)), section(folder), "auto", 256).rows
    columns = {
        "prompt_ids": [row.prompt_ids for row in rows],
        "chosen_ids": [row.chosen_ids for row in rows],
        "rejected_ids": [row.rejected_ids for row in rows],
    }
    swapped = {**columns, "chosen_ids": columns["rejected_ids"], "rejected_ids": columns["chosen_ids"]}
    loss, gradients = first_gradients(folder, tmp_path, base, columns)
    other_loss, flipped = first_gradients(folder, tmp_path, base, swapped)
    assert loss == pytest.approx(math.log(2), abs=1e-6)
    assert other_loss == pytest.approx(math.log(2), abs=1e-6)
    assert max(float(value.abs().max()) for value in gradients.values()) > 1e-3
    for name, value in gradients.items():
        assert torch.allclose(value, -flipped[name], atol=1e-6)
    same = {**columns, "rejected_ids": columns["chosen_ids"]}
    _, none = first_gradients(folder, tmp_path, base, same)
    assert max(float(value.abs().max()) for value in none.values()) < 1e-7


def test_trained_tokens_are_the_sampled_ones(folder):
    student = section(folder)
    tokenizer = loading.load_tokenizer(student)
    pair = pairs(1)[0]
    row = tokenize_pairs((pair,), tokenizer, student, "auto", 256).rows[0]
    assert row.prompt_ids == loading.render_prompt(tokenizer, pair.prompt, student)
    assert tokenizer.decode(row.chosen_ids) == pair.chosen + "<|end|>"


def test_truncated_pairs_are_counted_and_warned_of(folder, base, tmp_path):
    data = TrainingData(pairs(20), ())
    student = section(folder)
    lengths = sorted(
        row.length for row in tokenize_pairs(data.pairs, loading.load_tokenizer(student), student, "auto", 256).rows
    )
    result = train(folder, tmp_path, base, base, data=data, max_length=lengths[10] - 1, batch_size=2)
    cut = sum(length > lengths[10] - 1 for length in lengths)
    assert 0 < result.truncated <= cut
    assert result.diagnostics["truncated_share"] == result.truncated / result.pairs
    assert 0 < result.diagnostics["unended_share"] <= result.diagnostics["truncated_share"]
    whole = train(folder, tmp_path, base, base, "round-02", data=data, batch_size=2)
    assert whole.truncated == 0
    assert whole.diagnostics["max_length"] == lengths[-1]
    assert whole.diagnostics["truncated_share"] == whole.diagnostics["unended_share"] == 0.0


def test_pairs_that_are_cut_down_to_the_same_text_are_dropped(folder):
    student = section(folder)
    tokenizer = loading.load_tokenizer(student)
    prompt = len(loading.render_prompt(tokenizer, pairs(1)[0].prompt, student))
    rows = tokenize_pairs(pairs(1), tokenizer, student, prompt, 256)
    assert rows.rows == ()


def test_fewer_pairs_than_a_batch_is_a_clear_error(folder, base, tmp_path):
    with pytest.raises(TrainError, match=r"7 pairs, batch_size 8: .*lower train\.batch_size"):
        train(folder, tmp_path, base, base, data=TrainingData(pairs(7), ()))


def test_full_batches_drop_the_remainder_and_shuffle_each_epoch(folder):
    student = section(folder)
    rows = tokenize_pairs(pairs(21), loading.load_tokenizer(student), student, "auto", 256).rows
    steps = full_batches(rows, 8, 2, seed=1)
    ids = [[row.pair.id for row in step] for step in steps]
    assert [len(step) for step in ids] == [8] * 4
    assert sorted(ids[0] + ids[1]) == sorted(ids[2] + ids[3]) == sorted(row.pair.id for row in rows[:16])
    assert sorted(ids[0]) != sorted(ids[2])
    assert ids == [[row.pair.id for row in step] for step in full_batches(rows, 8, 2, seed=1)]


def test_micro_batches_keep_the_effective_batch(folder, base, tmp_path):
    whole = train(folder, tmp_path, base, base, micro_batch=8)
    parts = train(folder, tmp_path, base, base, "round-02", micro_batch=2)
    assert whole.steps == parts.steps == 2
    assert whole.loss == pytest.approx(parts.loss, abs=1e-5)
    states = [loading.adapter_state(tmp_path / result.policy.adapter) for result in (whole, parts)]
    assert max(float((states[0][name] - states[1][name]).abs().max()) for name in states[0]) < 1e-4


def test_out_of_memory_halves_the_micro_batch_and_starts_again(folder, base, tmp_path, monkeypatch):
    original, sizes = tuning.build_trainer, []

    def scarce(model, columns, tokenizer, config, options, *rest):
        sizes.append(options["per_device_train_batch_size"] * options["gradient_accumulation_steps"])
        trainer = original(model, columns, tokenizer, config, options, *rest)
        if options["per_device_train_batch_size"] > 2:

            def fail(**_):
                raise torch.OutOfMemoryError("CUDA out of memory.")

            trainer.train = fail
        return trainer

    expected = train(folder, tmp_path, base, base, micro_batch=2)
    monkeypatch.setattr(tuning, "build_trainer", scarce)
    trainer, context, _ = opened(folder, tmp_path)
    data = TrainingData(pairs(16), probes(12))
    result = trainer.train(data, base, base, tmp_path / "round-02" / "5-policy", 7)
    assert sizes == [8, 8, 8]
    assert context.choices["micro_batch"] == 2
    assert weights(tmp_path, result.policy) == weights(tmp_path, expected.policy)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("reference", ["base", "previous"])
def test_a_killed_training_goes_on_and_ends_in_the_same_bytes(folder, base, tmp_path, reference):
    start = train(folder, tmp_path, base, base).policy
    against = base if reference == "base" else start
    data = TrainingData(pairs(16, round=2, offset=50), probes(8))
    options = {"epochs": 3, "checkpoint_seconds": 0.0}
    whole = train(folder, tmp_path, start, against, "round-02", data, **options)

    trainer, context, seen = opened(folder, tmp_path, **options)
    directory = tmp_path / "round-03" / "5-policy"

    def kill(stage, step, steps, note):
        seen.append(step)
        if step == 5:
            raise Killed

    object.__setattr__(context, "progress", kill)
    with pytest.raises(Killed):
        trainer.train(data, start, against, directory, 7)
    checkpoints = directory / "checkpoints"
    kept = {path.name for path in checkpoints.glob("checkpoint-*")}
    assert kept == {"checkpoint-3", "checkpoint-4"}
    (checkpoints / "checkpoint-4" / "optimizer.pt").unlink()  # killed while it was written: it does not count
    seen.clear()
    object.__setattr__(context, "progress", lambda stage, step, steps, note: seen.append(step))
    resumed = trainer.train(data, start, against, directory, 7)
    assert seen == [4, 5, 6]
    assert weights(tmp_path, resumed.policy) == weights(tmp_path, whole.policy)
    logs = [(tmp_path / each.policy.adapter / "metrics.jsonl").read_text() for each in (whole, resumed)]
    losses = [[json.loads(line)["loss"] for line in log.splitlines()] for log in logs]
    assert losses[0] == losses[1]
    left_out = {"seconds", "policy"}
    assert resumed.model_dump(exclude=left_out) == whole.model_dump(exclude=left_out)


def test_checkpoints_of_another_training_are_not_continued(folder, base, tmp_path):
    trainer, context, seen = opened(folder, tmp_path, epochs=2, checkpoint_seconds=0.0)
    directory = tmp_path / "round-01" / "5-policy"

    def kill(stage, step, steps, note):
        seen.append(step)
        if step == 3:
            raise Killed

    object.__setattr__(context, "progress", kill)
    with pytest.raises(Killed):
        trainer.train(TrainingData(pairs(16), ()), base, base, directory, 7)
    seen.clear()
    object.__setattr__(context, "progress", lambda stage, step, steps, note: seen.append(step))
    trainer.train(TrainingData(pairs(16), ()), base, base, directory, 8)
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("broken", ["trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "torn"])
def test_an_incomplete_checkpoint_does_not_count(tmp_path, broken):
    for number in (9, 10):
        path = tmp_path / f"checkpoint-{number}"
        path.mkdir()
        for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
            (path / name).write_bytes(b"x")
        (path / "trainer_state.json").write_text('{"global_step": 3}')
    assert last_checkpoint(tmp_path).name == "checkpoint-10"
    if broken == "torn":
        (tmp_path / "checkpoint-10" / "trainer_state.json").write_text('{"global_st')
    else:
        (tmp_path / "checkpoint-10" / broken).unlink()
    assert not is_complete(tmp_path / "checkpoint-10")
    assert last_checkpoint(tmp_path).name == "checkpoint-9"
    assert not (tmp_path / "checkpoint-10").exists()


def test_an_adapter_of_another_shape_is_a_clear_error(folder, base, tmp_path):
    start = train(folder, tmp_path, base, base).policy
    with pytest.raises(TrainError, match=r"another shape than train\.lora"):
        train(folder, tmp_path, start, base, "round-02", lora={"r": 2, "alpha": 4})


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "sigmoid_norm"},
        {"loss": "ipo"},
        {"loss": "robust", "label_smoothing": 0.1},
        {"loss": "sigmoid+sft", "sft_weight": 0.2},
        {"loss": "sigmoid", "extra": {"ld_alpha": 0.5, "weight_decay": 0.1}},
    ],
    ids=["norm", "ipo", "robust", "sft", "ld"],
)
def test_losses_by_name(folder, base, tmp_path, options):
    result = train(folder, tmp_path, base, base, data=TrainingData(pairs(8), ()), **options)
    assert result.steps == 1
    assert result.adapter_moved > 0.4
    assert max(result.diagnostics.get(f"first_{name}_gap", 0.0) for name in ("margin", "chosen", "rejected")) < 1e-5
    if options["loss"] in ("sigmoid_norm", "robust") or "extra" in options:
        assert result.first_loss == pytest.approx(math.log(2), abs=1e-5)
    if options["loss"] == "sigmoid+sft":
        assert result.first_loss > math.log(2) + 0.1


def test_an_unquantised_student_is_trained_likewise(folder, base, tmp_path):
    trainer = DPOTrainer(**OPTIONS)
    trainer.open(RunContext(directory=tmp_path, seed=0, student=section(folder, quantization="none")))
    result = trainer.train(TrainingData(pairs(8), ()), base, base, tmp_path / "round-01" / "5-policy", 7)
    assert result.first_loss == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"label_smoothing": 0.1}, "ignored by the loss sigmoid"),
        ({"loss": "exo_pair"}, "needs label_smoothing"),
        ({"extra": {"seed": 3}}, "the recipe's seed"),
        ({"extra": {"output_dir": "x"}}, "the run folder"),
        ({"extra": {"learning_rate": 1.0}}, "train.learning_rate"),
        ({"micro_batch": 3}, "does not divide"),
        ({"loss": "sigmod"}, "Input should be"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options, told):
    with pytest.raises(ValidationError, match=told):
        DPOTrainer(**{**OPTIONS, **options})


def test_an_unknown_extra_option_is_a_clear_error(folder, base, tmp_path):
    with pytest.raises(TrainError, match=r"train.extra.rpo_alpha: TRL's DPOConfig has no such option"):
        train(folder, tmp_path, base, base, extra={"rpo_alpha": 1.0})
