"""Training on a teacher's distribution: both terms as they are said, the teacher compared before, the rest as in `sft`."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from prefdistill import student as loading
from prefdistill.diagnostics.findings import Levels
from prefdistill.diagnostics.rules import find
from prefdistill.diagnostics.training import start_lines
from prefdistill.errors import RecipeError, TrainError
from prefdistill.plugins import build_plugin, dump_plugin
from prefdistill.protocols import RunContext, TrainingData, learns_from
from prefdistill.recipe import load_recipe
from prefdistill.records import Policy, TrainResult
from prefdistill.teachers.local import LocalTeacher
from prefdistill.trainers import building, logits, logits_own, tuning
from prefdistill.trainers.answers import MASKED, to_columns
from prefdistill.trainers.logits import LogitsTrainer
from prefdistill.trainers.logits_check import expected_terms
from prefdistill.trainers.logits_loss import Soft
from prefdistill.trainers.sft import SFTTrainer
from tests.tiny_student import TEMPLATE, build_tiny_student, section, with_template
from tests.trainers.test_sft import OPTIONS, Killed, answers, cross_entropy, given, gradients, log_of, tokens, weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_student(tmp_path_factory.mktemp("student") / "tiny")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deeper model with the same tokenizer."""
    return build_tiny_student(tmp_path_factory.mktemp("teacher") / "large", layers=4)


@pytest.fixture
def base(folder):
    return Policy(model=str(folder))


def opened(folder, run, seen=None, cls=LogitsTrainer, recipes_teacher=None, **options):
    trainer = cls(**{**OPTIONS, **options})
    progress = (lambda *call: seen.append(call)) if seen is not None else (lambda *call: None)
    context = RunContext(directory=run, seed=0, student=section(folder), teacher=recipes_teacher, progress=progress)
    trainer.open(context)
    return trainer


def train(folder, run, start, name="round-01", data=None, seed=7, **options):
    trainer = opened(folder, run, **options)
    return trainer.train(data or given(), start, Policy(model=str(folder)), run / name / "5-policy", seed)


def distance(run, first, second):
    """The largest difference of two policies' adapters."""
    one, other = (loading.adapter_state(run / result.policy.adapter) for result in (first, second))
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_a_round_writes_its_policy_and_both_terms(folder, teacher, base, tmp_path):
    seen = []
    data = given(19)
    result = train(folder, tmp_path, base, data=data, teacher=str(teacher), epochs=6, temperature=2.0, seen=seen)
    where = tmp_path / "round-01" / "5-policy"
    names = {path.name for path in where.iterdir()}
    assert {"adapter_model.safetensors", "train.json", "answer_ids.txt", "metrics.jsonl"} <= names
    assert "checkpoints" not in names
    assert result == TrainResult.model_validate_json((where / "train.json").read_text())
    assert (result.pairs, result.pairs_dropped, result.steps) == (16, 3, 12)
    logged = log_of(tmp_path, result.policy)
    for entry in logged:
        assert entry["loss"] == pytest.approx(0.5 * entry["hard_loss"] + 0.5 * entry["soft_loss"], abs=1e-4)
    assert logged[-1]["hard_loss"] < logged[0]["hard_loss"]
    assert logged[-1]["soft_loss"] < logged[0]["soft_loss"]
    assert result.diagnostics["soft_loss"] > 0
    assert result.adapter_moved > 0.99
    assert {value.dtype for value in loading.adapter_state(where).values()} == {torch.float32}
    assert learns_from(LogitsTrainer()) == "answers"
    assert seen[0][3].startswith("loading the teacher")
    assert "320 tokens compared" in result.facts["teacher"]
    assert result.diagnostics["teacher_loss"] < result.diagnostics["independent_hard"] and not result.warnings


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 3.0, "mix": 0.9}, {"divergence": "reverse"}, {"divergence": "js", "beta": 0.2, "mix": 1}],
)
def test_rounds_start_where_they_should_and_the_first_loss_is_computed_once_more(
    folder, teacher, base, tmp_path, options
):
    start = base
    made = LogitsTrainer(**options)
    for number in (1, 2):
        data = TrainingData((), (), answers=answers(8, number, 100 * number))
        result = train(folder, tmp_path, start, f"round-{number:02d}", data, epochs=3, teacher=str(teacher), **options)
        student, large = (
            loading.load_policy(section(folder), start, tmp_path),
            loading.load_base(section(teacher, quantization="none")),
        )
        # By hand: every token of every answer, both terms, in float64.
        hard = soft = count = 0.0
        for row in tokens(folder, data.answers):
            ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
            with torch.no_grad():
                s, t = (model(ids).logits[0, len(row.prompt_ids) - 1 : -1].double() for model in (student, large))
            hard += float(torch.nn.functional.cross_entropy(s, torch.tensor(row.completion_ids), reduction="sum"))
            p, q = ((each / made.temperature).softmax(-1) for each in (t, s))
            beta = made.interpolation
            if beta == 0.0:
                soft += float((p * (p / q).log()).sum())
            elif beta == 1.0:
                soft += float((q * (q / p).log()).sum())
            else:
                m = beta * p + (1 - beta) * q
                soft += float((beta * p * (p / m).log() + (1 - beta) * q * (q / m).log()).sum())
            count += len(row.completion_ids)
        expected = ((1 - made.soft_share) * hard + made.soft_share * made.temperature**2 * soft) / count
        assert result.first_loss == pytest.approx(expected, abs=1e-4)
        seen = result.diagnostics
        assert seen["independent_loss"] == pytest.approx(expected, abs=1e-5)
        assert seen["first_loss_gap"] < 1e-4
        assert seen["adapter_float32"] == seen["adapter_equal"] == 1.0
        assert seen["gradient_ratio"] == pytest.approx(1.0, abs=1e-4)
        assert seen["first_tokens_differing"] == 0.0
        start = result.policy


@pytest.mark.parametrize("micro", [8, 2])
def test_a_mix_of_0_is_sft_to_the_byte(folder, teacher, base, tmp_path, micro):
    plain = train(folder, tmp_path, base, cls=SFTTrainer, epochs=2, micro_batch=micro)
    mixed = train(folder, tmp_path, base, "round-02", teacher=str(teacher), mix=0, epochs=2, micro_batch=micro)
    assert weights(tmp_path, mixed.policy) == weights(tmp_path, plain.policy)
    assert mixed.loss == plain.loss


def test_a_nearly_hard_mix_is_nearly_sft(folder, teacher, base, tmp_path):
    """The path with both terms, not the one that leaves the teacher out."""
    plain = train(folder, tmp_path, base, cls=SFTTrainer, epochs=2)
    mixed = train(folder, tmp_path, base, "round-02", teacher=str(teacher), mix=1e-9, epochs=2)
    assert "soft_loss" in mixed.diagnostics
    assert distance(tmp_path, plain, mixed) < 1e-5
    assert distance(tmp_path, plain, train(folder, tmp_path, base, "round-03", teacher=str(teacher), epochs=2)) > 1e-3


def test_a_teacher_that_is_the_student_teaches_nothing(folder, base, tmp_path):
    """A student without 4-bit weights is its own teacher: the soft loss and its gradient are zero."""
    result = train(folder, tmp_path, base, teacher={"model": str(folder), "quantization": "nf4"}, mix=1)
    logged = log_of(tmp_path, result.policy)
    assert abs(logged[0]["soft_loss"]) < 1e-5
    assert logged[0]["grad_norm"] < 1e-3
    other = train(folder, tmp_path, base, "round-02", teacher=str(folder), mix=1)
    assert log_of(tmp_path, other.policy)[0]["grad_norm"] > 1e-2, "rounded to 4 bits it is another model"


def test_micro_batches_weigh_every_token_alike(folder, teacher, base, tmp_path):
    made = [
        train(folder, tmp_path, base, f"round-{number:02d}", teacher=str(teacher), micro_batch=size, temperature=2)
        for number, size in enumerate((8, 2, 1), start=1)
    ]
    lengths = {len(row.completion_ids) for row in tokens(folder, answers(16))}
    assert len(lengths) > 3, "the mean of the micro-batches' means would be another number"
    for result in made[1:]:
        assert result.first_loss == pytest.approx(made[0].first_loss, abs=1e-5)
        assert distance(tmp_path, made[0], result) < 1e-4
        for one, other in zip(log_of(tmp_path, made[0].policy), log_of(tmp_path, result.policy), strict=True):
            assert one["hard_loss"] == pytest.approx(other["hard_loss"], abs=1e-4)
            assert one["soft_loss"] == pytest.approx(other["soft_loss"], abs=1e-4)


def built(folder, teacher, run, base, columns, **soft):
    large = loading.load_base(section(teacher, quantization="none"))
    terms = Soft(large, soft.pop("common", 320), **{"mix": 0.5, "temperature": 2.0, "beta": 0.0, **soft})
    trainer = building.build_trainer(
        loading.load_base(section(folder), for_training=True), columns, loading.load_tokenizer(section(folder)),
        loading.lora_config(4, 8, 0.0),
        {"output_dir": str(run), "per_device_train_batch_size": 8, "bf16": False, "use_cpu": True, "seed": 3,
         "report_to": "none", "gradient_checkpointing": False, "max_length": None, "packing": False},
        (base, base), run, (run / "metrics.jsonl", 1e9, lambda *call: None), "logits", {"soft": terms},
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    return trainer, terms


def both_terms(model, terms, rows):
    """The loss of a batch, written down by hand and with gradients."""
    hard, soft, count = cross_entropy(model, rows), torch.zeros(()), 0
    for row in rows:
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        here = slice(len(row.prompt_ids) - 1, -1)
        s = model(input_ids=ids).logits[0, here] / terms.temperature
        with torch.no_grad():
            t = terms.teacher(input_ids=ids).logits[0, here] / terms.temperature
        soft = soft + torch.nn.functional.kl_div(s.log_softmax(-1), t.log_softmax(-1), log_target=True, reduction="sum")
        count += len(row.completion_ids)
    return (1 - terms.mix) * hard + terms.mix * terms.temperature**2 * soft / count


def test_the_4_bit_students_gradients_are_those_of_both_terms_on_the_completions_alone(folder, teacher, base, tmp_path):
    rows = sorted(tokens(folder, answers(8)), key=lambda row: -row.length)
    trainer, terms = built(folder, teacher, tmp_path, base, to_columns([rows]))
    with torch.no_grad():
        trainer.model.eval()
        trainer.model(input_ids=torch.tensor([[7, 8, 9]]))  # what packs a 4-bit layer that is not guarded
        trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    found = gradients(trainer.model, trainer.compute_loss(trainer.model, dict(batch)))
    wanted = gradients(trainer.model, both_terms(trainer.model, terms, rows))
    assert found.keys() == wanted.keys()
    assert max(float(value.abs().max()) for value in wanted.values()) > 1e-4
    assert all(torch.allclose(value, wanted[name], atol=1e-6) for name, value in found.items())
    unmasked = {**batch, "labels": torch.where(batch["attention_mask"] == 1, batch["input_ids"], MASKED)}
    other = gradients(trainer.model, trainer.compute_loss(trainer.model, unmasked))
    assert not all(torch.allclose(value, wanted[name], atol=1e-6) for name, value in other.items())
    assert all(value.grad is None for value in terms.teacher.parameters())


def test_padding_leaves_the_loss_alone(folder, teacher, base, tmp_path):
    rows = sorted(tokens(folder, answers(8)), key=lambda row: -row.length)
    trainer, _ = built(folder, teacher, tmp_path, base, to_columns([rows]))
    batch = dict(next(iter(trainer.get_train_dataloader())))
    plain = float(trainer.compute_loss(trainer.model, dict(batch)).detach())
    swapped = {**batch, "input_ids": torch.where(batch["attention_mask"] == 1, batch["input_ids"], 17)}
    assert float(trainer.compute_loss(trainer.model, swapped).detach()) == plain
    wider = {
        name: torch.nn.functional.pad(batch[name], (0, 9), value=value)
        for name, value in (("input_ids", 3), ("attention_mask", 0), ("labels", MASKED))
    }
    assert float(trainer.compute_loss(trainer.model, wider).detach()) == pytest.approx(plain, abs=1e-6)


def test_a_killed_training_goes_on_and_ends_in_the_same_bytes(folder, teacher, base, tmp_path):
    expected = train(folder, tmp_path, base, teacher=str(teacher), epochs=3)
    target = tmp_path / "round-03" / "5-policy"

    def die(stage, step, *rest):
        if step == 4:
            raise Killed

    trainer = LogitsTrainer(**OPTIONS, epochs=3, checkpoint_seconds=0, teacher=str(teacher))
    for progress in (die, lambda *call: None):
        trainer.open(RunContext(directory=tmp_path, seed=0, student=section(folder), progress=progress))
        try:
            result = trainer.train(given(), base, base, target, 7)
        except Killed:
            assert list((target / "checkpoints").glob("checkpoint-*"))
            assert trainer._soft is None, "the teacher is freed"
    assert weights(tmp_path, result.policy) == weights(tmp_path, expected.policy)
    assert result.diagnostics["first_loss_gap"] < 1e-4


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_teacher(folder, teacher, base, tmp_path, monkeypatch):
    loaded, optimise = [], logits.SFTTrainer._optimise

    def short(self, trainer, *rest):
        if trainer.args.per_device_train_batch_size > 2:
            raise torch.OutOfMemoryError("out of memory")
        return optimise(self, trainer, *rest)

    load = logits.load_base
    monkeypatch.setattr(logits, "load_base", lambda section: loaded.append(section.model) or load(section))
    monkeypatch.setattr(logits.SFTTrainer, "_optimise", short)
    result = train(folder, tmp_path, base, teacher=str(teacher))
    assert loaded == [str(teacher)]
    monkeypatch.undo()
    assert distance(tmp_path, result, train(folder, tmp_path, base, "round-02", teacher=str(teacher))) < 1e-4


def test_the_teachers_files_are_part_of_what_a_policy_depends_on(folder, teacher, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(teacher, copy)
    first, moved = (LogitsTrainer(teacher=str(each)) for each in (teacher, copy))
    assert first.identity() == moved.identity()
    assert first.identity() != LogitsTrainer(teacher=str(folder)).identity()
    assert first.identity() != LogitsTrainer(teacher={"model": str(teacher), "quantization": "nf4"}).identity()
    assert first.identity() != LogitsTrainer(teacher=str(teacher), temperature=2).identity()


def test_the_lines_of_what_was_checked_and_a_wrong_soft_term_is_noticed(folder, teacher, base, tmp_path, monkeypatch):
    result = train(folder, tmp_path, base, teacher=str(teacher))
    made = {each.name: each for each in start_lines({**result.diagnostics, "answers": 16.0}, result.facts, ())}
    assert made["first_step"].state == "ok" and made["first_step"].text.startswith("loss ")
    monkeypatch.setattr(
        logits, "expected_terms", lambda model, soft, items: expected_terms(model, soft, items[: len(items) // 2])
    )
    seen = train(folder, tmp_path, base, "round-02", teacher=str(teacher)).diagnostics
    assert "first_step" in {each.check for each in find([{**seen, "answers": 16.0}], Levels())}


def test_dropout_switches_the_comparison_of_the_first_step_off(folder, teacher, base, tmp_path):
    result = train(folder, tmp_path, base, teacher=str(teacher), lora={"r": 4, "alpha": 8, "dropout": 0.5})
    assert "first_loss_gap" not in result.diagnostics
    assert result.facts["off/first_step"] == "dropout is on"


def test_a_teacher_that_knows_the_texts_less_than_the_student_is_told(folder, base, tmp_path):
    trained = train(folder, tmp_path, base, cls=SFTTrainer, epochs=8, learning_rate=5e-3)
    start = trained.policy
    worse = train(folder, tmp_path, start, "round-02", teacher=str(folder))
    assert worse.diagnostics["teacher_loss"] > worse.diagnostics["independent_hard"] + 0.1
    assert "predicts the given texts worse than the student already does" in worse.warnings[0]


# The student's own texts.


def own(folder, teacher, run, base, name="round-01", **options):
    options = {"on": "own", "max_new_tokens": 12, "teacher": str(teacher), **options}
    return train(folder, run, base, name, **options)


@pytest.mark.parametrize(
    ("options", "beta"), [({}, 1.0), ({"divergence": "forward"}, 0.0), ({"divergence": "js", "beta": 0.3}, 0.3)]
)
def test_on_its_own_texts_the_first_loss_is_the_divergence_there(folder, teacher, base, tmp_path, options, beta):
    result = own(folder, teacher, tmp_path, base, epochs=2, **options)
    assert LogitsTrainer(on="own", **options).interpolation == beta
    assert result.diagnostics["first_loss_gap"] < 1e-5
    assert result.diagnostics["completions_mean_length"] <= 12
    assert "off/first_step" not in result.facts
    assert result.facts["off/sampler"].startswith("the student writes anew")
    assert result.adapter_moved > 0.99
    assert {value.dtype for value in loading.adapter_state(tmp_path / result.policy.adapter).values()} == {
        torch.float32
    }
    assert set(log_of(tmp_path, result.policy)[0]) >= {"loss", "grad_norm", "completions/mean_length"}
    second = own(folder, teacher, tmp_path, result.policy, "round-02", **options)
    assert second.diagnostics["first_loss_gap"] < 1e-5, "computed from the start policy's file"
    assert second.diagnostics["adapter_equal"] == 1.0


def test_own_texts_are_written_by_the_samplers_rules(folder, teacher, base, tmp_path, monkeypatch):
    kept = []
    keep = logits_own.keep_texts
    monkeypatch.setattr(
        logits_own, "keep_texts", lambda made, path: (keep(made, path), kept.append(logits_own.read_texts(path)))
    )
    own(folder, teacher, tmp_path, base)
    prompts = {tuple(row.prompt_ids) for row in tokens(folder, answers(16))}
    ends = {1, 2}
    (texts,) = kept
    assert len(texts) == 8
    assert {prompt for prompt, _ in texts} <= prompts
    for _, text in texts:
        assert 1 <= len(text) <= 12
        assert not set(text[:-1]) & ends
        assert len(text) == 12 or text[-1] in ends
    assert len({text for _, text in texts}) > 1


@pytest.mark.parametrize("dies", [3, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_training_on_own_texts_goes_on_and_ends_in_the_same_bytes(folder, teacher, base, tmp_path, dies):
    options = {"on": "own", "max_new_tokens": 12, "teacher": str(teacher), "epochs": 2}
    expected = train(folder, tmp_path, base, **options)
    target = tmp_path / "round-02" / "5-policy"

    def die(stage, step, *rest):
        if step == dies:
            raise Killed

    for progress in (die, lambda *call: None):
        trainer = LogitsTrainer(**OPTIONS, checkpoint_seconds=0, **options)
        trainer.open(RunContext(directory=tmp_path, seed=0, student=section(folder), progress=progress))
        with contextlib.suppress(Killed):
            result = trainer.train(given(), base, base, target, 7)
    assert weights(tmp_path, result.policy) == weights(tmp_path, expected.policy)
    assert result.diagnostics["first_loss_gap"] < 1e-5


def test_micro_batches_of_own_texts_weigh_every_token_alike(folder, teacher, base, tmp_path):
    made = [
        own(folder, teacher, tmp_path, base, f"round-{number:02d}", micro_batch=size)
        for number, size in enumerate((8, 2), start=1)
    ]
    assert made[0].first_loss == pytest.approx(made[1].first_loss, abs=1e-5)
    assert distance(tmp_path, *made) < 1e-3


def test_prompts_that_trl_tokenises_in_another_way_are_noticed(folder, teacher, base, tmp_path, monkeypatch):
    made = logits_own.keep_texts
    monkeypatch.setattr(
        logits_own,
        "keep_texts",
        lambda batch, path: made({**batch, "prompt_ids": (batch["prompt_ids"] + 1) % 320}, path),
    )
    seen = own(folder, teacher, tmp_path, base).diagnostics
    assert seen["first_tokens_differing"] == 1.0
    assert "first_step" in {each.check for each in find([{**seen, "answers": 16.0}], Levels())}


def test_a_prompt_that_fills_the_context_leaves_nothing_to_write(folder, teacher, base, tmp_path, monkeypatch):
    longest = max(len(row.prompt_ids) for row in tokens(folder, answers(16)))
    monkeypatch.setattr(logits, "context_length", lambda student: longest + 3)
    assert own(folder, teacher, tmp_path, base, max_new_tokens=4000).diagnostics["completions_mean_length"] <= 3
    monkeypatch.setattr(logits, "context_length", lambda student: 5)
    with pytest.raises(TrainError, match=r"a prompt of \d+ tokens fills the student's context of 5"):
        own(folder, teacher, tmp_path, base, "round-02")


# Which teacher, and whether it has the student's tokenizer.


def edited(teacher, folder, name, change):
    """A copy of a teacher with one of its JSON files changed."""
    shutil.copytree(teacher, folder)
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))
    return folder


def renamed(data):
    vocabulary = data["model"]["vocab"]
    a, b = [token for token in vocabulary if token.isalpha()][:2]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]


def ended_otherwise(data):
    data.update(eos_token="<|stop|>", extra_special_tokens=["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"])


@pytest.mark.parametrize("on", ["texts", "own"])
@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (
            "tokenizer.json",
            renamed,
            r"different tokenizers \(2 of 320 tokens differ: number \d+ is '\w' to the student and",
        ),
        ("tokenizer_config.json", ended_otherwise, "eos_token is '<|end|>' to the student"),
        (
            "tokenizer.json",
            lambda data: data["model"].update(merges=data["model"]["merges"][:20]),
            "they cut 'Could we",
        ),
        (
            "config.json",
            lambda data: data.update(vocab_size=300),
            "output layers have 300 and 320 rows for a tokenizer of",
        ),
    ],
)
def test_another_tokenizer_is_refused_before_anything_is_trained(folder, teacher, tmp_path, name, change, expected, on):
    other = edited(teacher, tmp_path / "other", name, change)
    with pytest.raises(TrainError, match=expected.replace("|", r"\|")) as problem:
        opened(folder, tmp_path, teacher=str(other), on=on)
    assert "`use: outputs`" in str(problem.value) and "`use: traces`" in str(problem.value)


def test_another_template_is_refused_and_another_padding_token_is_not(folder, teacher, tmp_path):
    other = with_template(teacher, tmp_path / "other", TEMPLATE.replace("<|end|>", "<|end|>\\n"))
    with pytest.raises(TrainError, match=r"render a conversation differently.*for user the student's template has"):
        opened(folder, tmp_path, teacher=str(other))
    other = with_template(
        teacher, tmp_path / "nosystem",
        "{%- if messages[0]['role'] == 'system' -%}{{- raise_exception('no system') -}}{%- endif -%}" + TEMPLATE,
    )  # fmt: skip
    with pytest.raises(TrainError, match="only the student's template takes system, user"):
        opened(folder, tmp_path, teacher=str(other))
    other = with_template(teacher, tmp_path / "none", None)
    with pytest.raises(TrainError, match=r"logits: teacher .*none: .* has no chat template"):
        opened(folder, tmp_path, teacher=str(other))
    pad = edited(teacher, tmp_path / "pad", "tokenizer_config.json", lambda data: data.update(pad_token="<|stop|>"))
    opened(folder, tmp_path, teacher=str(pad))


def test_the_students_template_options_are_the_teachers_unless_it_has_its_own(folder, teacher, tmp_path):
    optional = "{%- if shout -%}{{- '!' -}}{%- endif -%}" + TEMPLATE
    small, large = (with_template(each, tmp_path / each.name, optional) for each in (folder, teacher))
    student = section(small, chat_template_kwargs={"shout": True})
    context = RunContext(directory=tmp_path, seed=0, student=student)
    LogitsTrainer(teacher=str(large)).open(context)
    with pytest.raises(TrainError, match="for user the student's template has '!<"):
        LogitsTrainer(teacher={"model": str(large), "chat_template_kwargs": {"shout": False}}).open(context)


def padded(model, folder, rows):
    """A copy of a model whose embeddings and output layer have more rows than the tokenizer has tokens."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(model, folder)
    loaded = AutoModelForCausalLM.from_pretrained(model)
    torch.manual_seed(1)
    loaded.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        loaded.get_output_embeddings().weight[320:] = 3.0  # likely, where they are not left out
    loaded.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"on": "own", "max_new_tokens": 12}])
def test_padding_rows_of_the_output_layers_are_left_out_and_counted(folder, teacher, base, tmp_path, options):
    large = padded(teacher, tmp_path / "large", 352)
    plain = train(folder, tmp_path, base, teacher=str(teacher), **options)
    result = train(folder, tmp_path, base, "round-02", teacher=str(large), **options)
    assert result.diagnostics["teacher_rows_left_out"] == 32
    assert distance(tmp_path, plain, result) < 1e-6
    wide = padded(folder, tmp_path / "wide", 330)
    again = train(wide, tmp_path, Policy(model=str(wide)), "round-03", teacher=str(teacher), **options)
    assert again.diagnostics["student_rows_left_out"] == 10
    assert again.diagnostics["first_loss_gap"] < 1e-4


def test_the_recipes_local_teacher_is_the_default_and_lets_its_weights_go(folder, teacher, base, tmp_path):
    local = LocalTeacher(model=str(teacher))
    trainer = LogitsTrainer(**OPTIONS)
    assert trainer.take_teacher(local) is None
    trainer.open(RunContext(directory=tmp_path, seed=0, student=section(folder), teacher=local))
    local.open(RunContext(directory=tmp_path, seed=0))
    local._loaded()
    result = trainer.train(given(), base, base, tmp_path / "round-01" / "5-policy", 7)
    assert local._model is None
    named = train(folder, tmp_path, base, "round-02", teacher=str(teacher))
    assert weights(tmp_path, result.policy) == weights(tmp_path, named.policy)
    assert trainer.identity() == LogitsTrainer(**OPTIONS, teacher=str(teacher)).identity()
    assert trainer.remedied("halve_learning_rate").identity()["teacher"] == trainer.identity()["teacher"]
    with pytest.raises(TrainError, match="and there is none; name one"):
        opened(folder, tmp_path)


def test_a_recipe_without_a_local_teacher_is_refused_with_its_line(tiny_recipe, tmp_path):
    text = tiny_recipe.read_text()
    tiny_recipe.write_text(text.replace("train: {learning_rate", "train: {use: logits, learning_rate"))
    line = next(number for number, each in enumerate(text.splitlines(), start=1) if each.startswith("train"))
    with pytest.raises(RecipeError, match=rf"tiny\.yaml:{line}: train: .*the recipe's teacher is `sandbox`; name one"):
        load_recipe(tiny_recipe)
    recipe = load_recipe(tiny_recipe, ("train.teacher=prefdistill.sandbox:student", "train.temperature=2"))
    trainer = recipe.train.trainer
    assert (trainer.source.model, trainer.temperature) == ("prefdistill.sandbox:student", 2.0)
    assert Path(recipe.resolved()["train"]["teacher"]["model"]).is_dir(), "it can be run again from any folder"
    recipe = load_recipe(tiny_recipe, ("teacher={use: local, model: 'prefdistill.sandbox:student'}",))
    assert recipe.train.trainer.source.model == "prefdistill.sandbox:student"
    assert recipe.resolved()["train"]["teacher"] is None
    for wrong, expected in (
        ("train.teacher=./nowhere", r"train\.teacher: model: no folder"),
        (
            "train.teacher={model: prefdistill.sandbox:student, quantisation: nf4}",
            "unknown key; did you mean `quantization`",
        ),
        ("train.teacher=5", r"train\.teacher: found 5; expected a model folder or hub id"),
        ('train.teacher=""', r"train\.teacher\.model: found ''; it should have|train\.teacher: .*at least 1 character"),
        ("train.tempperature=2", "unknown key; did you mean `temperature`"),
    ):
        with pytest.raises(RecipeError, match=expected):
            load_recipe(tiny_recipe, ("train.teacher=prefdistill.sandbox:student", wrong))


def test_a_teacher_beside_the_recipe_is_found_and_dumped_by_its_absolute_path(teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "large")
    for given_teacher in ("large", {"model": "large", "quantization": "nf4"}, "./large"):
        trainer = build_plugin("logits", {"teacher": given_teacher}, "trainers", tmp_path)
        assert trainer.source.source == str(tmp_path / "large")
        assert dump_plugin(trainer)["teacher"]["model"] == str(tmp_path / "large")
    again = build_plugin("logits", {"teacher": dump_plugin(trainer)["teacher"]}, "trainers", Path("/"))
    assert again.identity() == trainer.identity()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mix": 1.5}, "less than or equal to 1"),
        ({"temperature": 0.5}, "greater than or equal to 1"),
        ({"beta": 0.5}, r"beta is the mixture of `divergence: js`"),
        ({"beta": 0.5, "divergence": "forward"}, r"beta is the mixture of `divergence: js`"),
        ({"on": "own", "mix": 0.5}, "mix is 0.5, and on: own has no given text"),
        ({"on": "own", "temperature": 2}, "temperature is 2, and on: own has no softening temperature"),
        ({"on": "own", "max_length": 100}, "max_length cuts given texts"),
        ({"max_new_tokens": 100}, "max_new_tokens goes with `on: own`"),
        ({"launch": {"processes": 2}}, "runs in one process"),
        ({"extra": {"loss_type": "dft"}}, r"extra\.loss_type: set by train\.mix"),
        ({"extra": {"teacher_model_name_or_path": "x"}}, r"set by train\.teacher"),
        ({"extra": {"packing": True}}, "every answer is a row of its own"),
    ],
)
def test_options_that_contradict_one_another_are_refused(options, expected):
    with pytest.raises(ValidationError, match=expected):
        LogitsTrainer.model_validate(options)


def test_extra_options_are_those_of_the_trainer_that_trains(folder, teacher, tmp_path):
    opened(folder, tmp_path, teacher=str(teacher), on="own", extra={"top_p": 0.9})
    with pytest.raises(TrainError, match=r"train\.extra\.top_p: TRL's SFTConfig has no such option"):
        opened(folder, tmp_path, teacher=str(teacher), extra={"top_p": 0.9})
    with pytest.raises(TrainError, match=r"TRL's DistillationConfig has no such option; did you mean `top_p`"):
        opened(folder, tmp_path, teacher=str(teacher), on="own", extra={"top_pp": 0.9})


def test_defaults_depend_on_whose_texts_they_are():
    texts, writes = LogitsTrainer(), LogitsTrainer(on="own")
    assert (texts.soft_share, texts.interpolation, texts.trl) == (0.5, 0.0, "logits")
    assert (writes.soft_share, writes.interpolation, writes.trl) == (1.0, 1.0, "distillation")
    assert LogitsTrainer(divergence="js").interpolation == 0.5
    assert tuning.ids_file(learns_from(texts)) == "answer_ids.txt"
