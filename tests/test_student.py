"""Loading the student: templates that would train one text and sample another, and weights that would train wrongly."""

from pathlib import Path

import pytest

from prefdistill import student as loading
from prefdistill.errors import PrefdistillError, RecipeError, TrainError
from prefdistill.records import Message, Policy
from prefdistill.scoring import kl_estimate, log_probs, mean_gap
from tests.tiny_student import TEMPLATE, build_tiny_student, section, text, with_template

ASK = (Message(role="user", content="we meet on monday"),)
OPENS_THINKING = TEMPLATE.replace("'<|assistant|>'", "'<|assistant|><think>'")
INSERTS_THINKING = TEMPLATE.replace(
    "'<|' + message['role'] + '|>' +",
    "'<|' + message['role'] + '|>' + ('<think></think>' if message['role'] == 'assistant' else '') +",
)
SWITCHED = TEMPLATE.replace(
    "'<|' + message['role'] + '|>' +",
    "'<|' + message['role'] + '|>' + ('<think></think>' if message['role'] == 'assistant' else '') +",
).replace("'<|assistant|>'", "'<|assistant|>' + ('' if enable_thinking | default(true) else '<think></think>')")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_student(tmp_path_factory.mktemp("student") / "tiny")


def items(student, count=12):
    tokenizer = loading.load_tokenizer(student)
    return [
        loading.prompt_completion_ids(tokenizer, (Message(role="user", content=text(i)),), text(i + 50), student)
        for i in range(count)
    ]


def test_the_prompt_is_a_prefix_and_the_end_token_is_learned(folder):
    student = section(folder)
    tokenizer = loading.load_tokenizer(student)
    prompt, completion = loading.prompt_completion_ids(tokenizer, ASK, "send the report", student)
    assert prompt == loading.render_prompt(tokenizer, ASK, student)
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": ASK[0].content}, {"role": "assistant", "content": "send the report"}],
        tokenize=False,
    )
    assert tokenizer.decode(prompt + completion) == whole
    assert completion[-1] == tokenizer.eos_token_id


def test_every_end_token_ends_a_completion(folder, tmp_path):
    student = section(with_template(folder, tmp_path / "own-end", TEMPLATE.replace("<|end|>", "<|system|>")))
    tokenizer = loading.load_tokenizer(student)
    model = loading.load_base(student)
    # eos, the generation config's second one, and the token with which this template ends a turn
    assert loading.end_token_ids(tokenizer, model, student) == {1, 2, tokenizer.convert_tokens_to_ids("<|system|>")}
    assert loading.prompt_completion_ids(tokenizer, ASK, "tea", student)[1][-1] not in (1, 2)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (None, "no chat template"),
        (TEMPLATE.replace(" + '<|end|>'", ""), "never learn to stop"),
        (TEMPLATE.replace(" + '<|end|>'", " + ' over'"), "never learn to stop"),
        (OPENS_THINKING, "enable_thinking"),
        (INSERTS_THINKING, "enable_thinking"),
        (SWITCHED, "enable_thinking"),
    ],
    ids=["none", "no-end", "word-at-end", "opens-thinking", "inserts-thinking", "thinking-on"],
)
def test_a_template_that_trains_another_text_than_is_sampled_is_refused(folder, tmp_path, template, told):
    student = section(with_template(folder, tmp_path / "other", template))
    with pytest.raises(TrainError, match=told):
        loading.load_tokenizer(student)


def test_a_space_before_the_answer_is_no_insertion(folder, tmp_path):
    spaced = "{%- for m in messages -%}{{- ('[INST]' + m['content'] + '[/INST]') if m['role'] == 'user' else " + (
        "(' ' + m['content'] + '<|end|>') -}}{%- endfor -%}"
    )
    student = section(with_template(folder, tmp_path / "spaced", spaced))
    tokenizer = loading.load_tokenizer(student)
    prompt, completion = loading.prompt_completion_ids(tokenizer, ASK, "tea", student)
    assert tokenizer.decode(prompt + completion) == "[INST]we meet on monday[/INST]tea<|end|>"


def test_template_arguments_switch_thinking_off(folder, tmp_path):
    path = with_template(folder, tmp_path / "switched", SWITCHED)
    student = section(path, chat_template_kwargs={"enable_thinking": False})
    tokenizer = loading.load_tokenizer(student)
    prompt, completion = loading.prompt_completion_ids(tokenizer, ASK, "tea", student)
    assert tokenizer.decode(prompt).endswith("<|assistant|><think></think>")
    assert tokenizer.decode(completion) == "tea<|end|>"


def test_a_template_that_refuses_a_role_is_a_clear_error(folder, tmp_path):
    refusing = "{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('no system') }}{%- endif -%}" + TEMPLATE
    student = section(with_template(folder, tmp_path / "refusing", refusing))
    tokenizer = loading.load_tokenizer(student)
    with pytest.raises(TrainError, match="cannot render a conversation of system, user: no system"):
        loading.render_prompt(tokenizer, (Message(role="system", content="be brief"), *ASK), student)


def test_a_model_that_does_not_exist_is_a_clear_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match=r"student.model: .*empty.*expected a folder with config.json"):
        loading.load_tokenizer(section(tmp_path / "empty"))


def test_all_linear_layers_but_the_head_are_4_bit_and_adapted(folder):
    from bitsandbytes.nn import Linear4bit
    from peft import get_peft_model

    model = loading.load_base(section(folder), for_training=True)
    assert model.training
    assert not isinstance(model.lm_head, Linear4bit)
    layers = [module for name, module in model.named_modules() if name.endswith("_proj")]
    assert len(layers) == 21
    assert all(isinstance(layer, Linear4bit) and not layer.support_avx512bf16_for_cpu for layer in layers)
    adapted = get_peft_model(model, loading.lora_config(4, 8, 0.0))
    trained = {name.split(".lora_")[0] for name, value in adapted.named_parameters() if value.requires_grad}
    assert len(trained) == 21
    assert not any("lm_head" in name for name in trained)


def test_a_quantised_head_is_refused(folder, monkeypatch):
    import transformers

    original = transformers.BitsAndBytesConfig

    def everything(**options):
        return original(**{**options, "llm_int8_skip_modules": ["nothing"]})

    monkeypatch.setattr(transformers, "BitsAndBytesConfig", everything)
    with pytest.raises(TrainError, match="output layer"):
        loading.load_base(section(folder))


def lora_gradients(model, prompt, completion):
    """The gradients of the completion's likelihood for every adapter weight."""
    import torch

    ids = torch.tensor([prompt + completion])
    labels = ids.clone()
    labels[:, : len(prompt)] = -100
    model.train()
    model(input_ids=ids, labels=labels).loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def gradient_cosines(student):
    """Cosines of the 4-bit student's gradients, after it has generated, to those of a dense copy of its weights."""
    import torch
    from peft import get_peft_model

    prompt, completion = items(student, 1)[0]
    found = []
    for dense in (False, True):
        base = loading.load_base(student, for_training=True)
        base = base.dequantize(dtype=torch.float32) if dense else base
        torch.manual_seed(1)
        model = get_peft_model(base, loading.lora_config(4, 8, 0.0))
        for name, value in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.05)
        model.eval()
        with torch.no_grad():
            model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=4, do_sample=False, pad_token_id=0)
        found.append(lora_gradients(model, prompt, completion))
    quantised, exact = found
    assert set(quantised) <= set(exact)
    zero = {name: torch.zeros_like(value) for name, value in exact.items()}
    return [
        float(torch.nn.functional.cosine_similarity(quantised.get(name, zero[name]).flatten(), value.flatten(), dim=0))
        for name, value in exact.items()
    ]


def test_gradients_are_true_after_generating(folder):
    assert min(gradient_cosines(section(folder))) > 0.9999


def test_without_the_guard_gradients_are_wrong(folder, monkeypatch):
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("the trap needs a CPU with AVX512-BF16")
    monkeypatch.setattr(loading, "guard_cpu_gradients", lambda model: None)
    assert min(gradient_cosines(section(folder))) < 0.9


@pytest.fixture
def adapter(folder, tmp_path):
    """A policy whose adapter changes the base a good deal, in a run folder."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(2)
    model = get_peft_model(loading.load_base(section(folder)), loading.lora_config(4, 8, 0.0))
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data = torch.randn_like(value, dtype=torch.float32) * 0.1
    loading.save_adapter(model, tmp_path / "round-01" / "5-policy")
    return Policy(model=str(folder), adapter="round-01/5-policy", round=1)


def test_the_merged_copy_is_the_trained_model(folder, tmp_path, adapter):
    import torch

    student = section(folder)
    scores = {}
    for merged in (None, torch.float32, torch.bfloat16):
        model = loading.load_policy(student, adapter, tmp_path, merged=merged)
        assert not model.training
        scores[merged] = log_probs(model, items(student))
    base = log_probs(loading.load_policy(student, Policy(model=str(folder)), tmp_path), items(student))
    assert mean_gap(scores[None], base) > 0.05
    assert mean_gap(scores[None], scores[torch.float32]) < 1e-5
    assert 1e-5 < mean_gap(scores[None], scores[torch.bfloat16]) < 0.1


def test_scoring_does_not_depend_on_the_batch(folder):
    student = section(folder)
    model = loading.load_base(student)
    together, alone = log_probs(model, items(student)), [log_probs(model, [item])[0] for item in items(student)]
    assert [count for _, count in together] == [count for _, count in alone]
    assert mean_gap(together, alone) < 1e-5


def test_kl_is_never_negative_and_zero_for_equal_policies():
    old = [(-10.0, 5), (-8.0, 4), (-12.0, 6)]
    assert kl_estimate(old, old) == (0.0, 0.0)
    value, error = kl_estimate([(-9.9, 5), (-8.1, 4), (-12.0, 6)], old)
    assert value == pytest.approx((0.00517 + 0.00484) / 3, rel=1e-2)
    assert error > 0


def test_an_adapter_that_is_not_there_is_a_clear_error(folder, tmp_path):
    policy = Policy(model=str(folder), adapter="round-07/5-policy", round=7)
    with pytest.raises(PrefdistillError, match="no adapter of round 7"):
        loading.load_policy(section(folder), policy, tmp_path)


def test_moved_share_counts_entries():
    import torch

    start = {"a": torch.zeros(4), "b": torch.ones(4)}
    assert loading.adapter_moved(start, {"a": torch.zeros(4), "b": torch.tensor([1.0, 1.0, 2.0, 3.0])}) == 0.25


def test_the_fingerprint_is_of_the_content(folder, tmp_path):
    first = loading.weights_fingerprint(section(folder))
    copy = with_template(folder, tmp_path / "same", TEMPLATE)
    (copy / "notes.md").write_text("no part of the model")
    other = with_template(folder, tmp_path / "other", TEMPLATE + " ")
    assert loading.weights_fingerprint(section(copy)) != loading.weights_fingerprint(section(other))
    assert first == loading.weights_fingerprint(section(folder))


def test_context_length_is_the_smaller_limit(folder):
    assert loading.context_length(section(folder)) == 256
