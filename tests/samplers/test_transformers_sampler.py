"""Drafts from the student itself: each is what its own seed says, in whatever batch it is written."""

import gc
from pathlib import Path

import numpy
import pytest
import torch

from prefdistill import student as loading
from prefdistill.errors import SampleError
from prefdistill.protocols import Completion, RunContext
from prefdistill.records import Failure, Policy
from prefdistill.samplers import decoding
from prefdistill.samplers import transformers as sampling
from prefdistill.samplers.transformers import TransformersSampler
from tests.tiny_student import build_tiny_student, requests, section


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_student(tmp_path_factory.mktemp("student") / "tiny")


@pytest.fixture
def base(folder):
    return Policy(model=str(folder))


def opened(folder, run, choices=None, **options):
    sampler = TransformersSampler(**options)
    seen = []
    context = RunContext(
        directory=run,
        seed=0,
        student=section(folder),
        choices={} if choices is None else choices,
        progress=lambda *call: seen.append(call),
    )
    sampler.open(context)
    return sampler, context, seen


def drafts(sampler, policy, asked):
    return {each.key: each for each in sampler.sample(policy, asked)}


def test_a_draft_does_not_depend_on_its_batch(folder, base, tmp_path):
    asked = requests(40)
    together = drafts(opened(folder, tmp_path)[0], base, asked)
    small = drafts(opened(folder, tmp_path, batch_tokens=150)[0], base, asked)
    some = asked[::7]
    alone = {key: value for each in some for key, value in drafts(opened(folder, tmp_path)[0], base, [each]).items()}
    assert len({each.completion for each in together.values()}) > 70
    assert [together[each.key].token_ids for each in asked] == [small[each.key].token_ids for each in asked]
    assert [together[each.key].token_ids for each in some] == [alone[each.key].token_ids for each in some]


def test_the_merged_copy_and_the_4_bit_model_write_the_same(folder, base, tmp_path):
    asked = requests(12)
    merged = drafts(opened(folder, tmp_path, weights="merged")[0], base, asked)
    adapter = drafts(opened(folder, tmp_path, weights="adapter")[0], base, asked)
    assert [merged[each.key].token_ids for each in asked] == [adapter[each.key].token_ids for each in asked]


def test_log_probs_are_the_models_own(folder, base, tmp_path):
    from prefdistill.scoring import log_probs

    student = section(folder)
    asked = requests(10, temperature=0.6, top_p=0.9)
    written = drafts(opened(folder, tmp_path)[0], base, asked)
    tokenizer, model = loading.load_tokenizer(student), loading.load_base(student)
    prompts = [loading.render_prompt(tokenizer, each.messages, student) for each in asked]
    scored = log_probs(
        model, [(prompt, written[each.key].token_ids) for prompt, each in zip(prompts, asked, strict=True)]
    )
    for each, (value, count) in zip(asked, scored, strict=True):
        assert written[each.key].log_prob == pytest.approx(value, abs=1e-4)  # at temperature 1, whatever was sampled at
        assert written[each.key].tokens == count


def test_temperature_0_takes_the_likeliest_whatever_the_seed(folder, base, tmp_path):
    written = drafts(opened(folder, tmp_path)[0], base, requests(6, drafts=3, temperature=0.0))
    by_prompt = {}
    for each in written.values():
        by_prompt.setdefault(each.key.split("/")[0], set()).add(each.token_ids)
    assert [len(texts) for texts in by_prompt.values()] == [1] * 6
    student = section(folder)
    model, tokenizer = loading.load_base(student), loading.load_tokenizer(student)
    asked = requests(1, drafts=1)[0]
    ids = torch.tensor([loading.render_prompt(tokenizer, asked.messages, student)])
    expected = model.generate(input_ids=ids, max_new_tokens=16, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    assert by_prompt["p0"] == {tuple(expected.tolist())}


def test_finish_reasons_and_every_end_token(folder, base, tmp_path):
    asked = requests(60, max_new_tokens=48)
    written = drafts(opened(folder, tmp_path)[0], base, asked)
    ended = [each for each in written.values() if each.finish_reason == "stop"]
    cut = [each for each in written.values() if each.finish_reason == "length"]
    assert ended
    assert cut
    # Both <|end|> (1) and the generation config's second end token (2) end a draft, and neither is in its text.
    assert {each.token_ids[-1] for each in ended} == {1, 2}
    assert all(each.tokens == 48 and not set(each.token_ids) & {1, 2} for each in cut)
    assert all(not set(each.token_ids[:-1]) & {1, 2} and each.tokens == len(each.token_ids) for each in ended)
    assert not any("<|" in each.completion for each in written.values())


def test_drafts_come_in_at_least_eight_batches_as_they_finish(folder, base, tmp_path, monkeypatch):
    batches = []
    original = decoding.decode

    def counted(model, prompts, rows, ends, pad):
        batches.append((len(prompts), len(rows)))
        yield from original(model, prompts, rows, ends, pad)

    monkeypatch.setattr(decoding, "decode", counted)
    sampler, context, seen = opened(folder, tmp_path)
    stream = sampler.sample(base, requests(256, drafts=2, max_new_tokens=6))
    assert not batches  # nothing is loaded before the first draft is asked for
    next(stream)
    assert len(batches) == 1
    rest = list(stream)
    assert len(rest) == 511
    assert len(batches) == 8
    assert all(rows == 2 * prompts for prompts, rows in batches)  # a prompt's drafts share a batch and its prefill
    assert [call[1] for call in seen] == sorted({call[1] for call in seen})
    assert seen[-1][:3] == ("sample", 512, 512)
    assert "drafts/s" in seen[-1][3]
    assert "tokens/s" in seen[-1][3]
    assert context.choices == {"sampler_weights": "merged float32"}


def test_the_model_is_freed_when_the_iteration_ends(folder, base, tmp_path):
    from transformers import LlamaForCausalLM

    sampler, _, _ = opened(folder, tmp_path)
    stream = sampler.sample(base, requests(20))
    next(stream)
    stream.close()
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, LlamaForCausalLM)]


def test_out_of_memory_halves_the_batch_and_loses_nothing(folder, base, tmp_path, monkeypatch):
    asked = requests(40)
    expected = drafts(opened(folder, tmp_path)[0], base, asked)
    sizes = []
    original = decoding.decode

    def scarce(model, prompts, rows, ends, pad):
        sizes.append(len(rows))
        stream = original(model, prompts, rows, ends, pad)
        if len(rows) > 12:
            yield next(stream)[:3]  # some rows are done when memory runs out
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")
        yield from stream

    monkeypatch.setattr(decoding, "decode", scarce)
    sampler, context, _ = opened(folder, tmp_path)
    found = [each.key for each in sampler.sample(base, asked)]
    assert sorted(found) == sorted(expected)
    assert max(sizes) > 12
    assert sizes[-1] <= 12
    assert context.choices["sampler_batch_tokens"] < 16_384
    again = drafts(sampler, base, asked)
    assert [again[each.key].token_ids for each in asked] == [expected[each.key].token_ids for each in asked]


def test_one_draft_that_does_not_fit_is_a_clear_error(folder, base, tmp_path, monkeypatch):
    def never(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        yield

    monkeypatch.setattr(decoding, "decode", never)
    with pytest.raises(SampleError, match="one draft of 16 tokens does not fit"):
        list(opened(folder, tmp_path)[0].sample(base, requests(4)))


def test_a_prompt_that_exceeds_the_context_is_a_failure(folder, base, tmp_path):
    found = list(opened(folder, tmp_path)[0].sample(base, [*requests(1, max_new_tokens=250), *requests(3)[2:]]))
    failed = [each for each in found if isinstance(each, Failure)]
    assert {each.kind for each in failed} == {"truncated"}
    assert "exceed the student's 256" in failed[0].message
    assert len([each for each in found if isinstance(each, Completion)]) == 4


def test_only_missing_drafts_are_owed_in_float32_and_whole_batches_in_16_bit(folder, base, tmp_path):
    asked = requests(40)
    present = {each.key for each in asked} - {asked[0].key, asked[-1].key}
    sampler, _, _ = opened(folder, tmp_path)
    assert [each.key for each in sampler.owed(asked, present)] == [asked[0].key, asked[-1].key]
    sampler, _, _ = opened(folder, tmp_path, choices={"sampler_weights": "merged bfloat16"}, batch_tokens=600)
    plan = [[each.key for each in batch] for batch in sampler._batches(asked)]
    assert len(plan) > 2
    owed = sampler.owed(asked, present)
    torn = [batch for batch in plan if {asked[0].key, asked[-1].key} & set(batch)]
    assert 2 <= len(owed) < len(asked)
    assert {each.key for each in owed} == {key for batch in torn for key in batch}
    assert [[each.key for each in batch] for batch in sampler._batches(owed)] == torn


def test_16_bit_is_chosen_only_below_a_quarter_of_the_last_update(folder, base, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "device_of", lambda student: torch.device("cuda"))
    monkeypatch.setattr(sampling, "dtype_of", lambda student: torch.bfloat16)
    monkeypatch.setattr(TransformersSampler, "_fits", lambda self, policy, size: size == 2)
    student, asked = section(folder), requests(8)
    tokenizer = loading.load_tokenizer(student)
    rendered = {each.messages: loading.render_prompt(tokenizer, each.messages, student) for each in asked}
    for update, chosen, kept in [(None, "adapter", False), (1e-9, "adapter", True), (1.0, "merged bfloat16", True)]:
        choices = {} if update is None else {"last_update": update}
        sampler, context, _ = opened(folder, tmp_path, choices=choices)
        assert sampler._choose(base, asked, rendered) == chosen
        assert ("sampler_weights" in context.choices) is kept
        if update:
            assert 1e-5 < context.choices["sampler_gap"] < 0.1


def test_noise_draws_from_the_distribution():
    torch.manual_seed(0)
    log_probs = (torch.randn(1, 60) * 2).log_softmax(-1)
    rows = [decoding.Row(0, seed, 1.0, 1.0, 64) for seed in range(1500)]
    vocabulary = torch.arange(60, dtype=torch.int32) * -1640531527
    drawn = (log_probs + decoding.gumbel(decoding.row_keys(rows).flatten(), vocabulary)).argmax(-1)
    counts, expected = numpy.bincount(drawn, minlength=60), log_probs[0].exp().double().numpy() * len(drawn)
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert 59 - 4 * 118**0.5 < statistic < 59 + 4 * 118**0.5  # chi-square with 59 degrees of freedom


def test_keys_of_a_row_are_a_prefix_of_those_for_more_tokens():
    short, long = (decoding.row_keys([decoding.Row(0, 5, 1.0, 1.0, count)]) for count in (7, 50))
    assert torch.equal(short, long[:, :7])


def test_top_p_keeps_the_nucleus():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(4000, 1)
    rows = [decoding.Row(0, seed, 1.0, top_p, 1) for seed, top_p in zip(range(4000), [0.7, 1.0] * 2000, strict=True)]
    choice = decoding._Choice.of(rows, torch.device("cpu"))
    noise = decoding.gumbel(decoding.row_keys(rows)[:, 0], torch.arange(4, dtype=torch.int32) * -1640531527)
    tokens, _ = choice.tokens(logits, noise)
    assert set(tokens[::2].tolist()) == {0, 1}
    assert set(tokens[1::2].tolist()) == {0, 1, 2, 3}
    assert float((tokens[::2] == 0).float().mean()) == pytest.approx(0.625, abs=0.05)


def test_reasoning_is_parted_from_the_draft_and_an_unclosed_trace_counts_as_cut(folder, base, tmp_path, monkeypatch):
    tokenizer = loading.load_tokenizer(section(folder))
    texts = ["<think>\nwhy\n</think>\n\nHello", "<think>why and why", "Hello <think>", "<think></think>"]

    def written(model, prompts, rows, ends, pad_id, *rest):
        for place, text in enumerate(texts):
            ids = [*tokenizer.encode(text, add_special_tokens=False), min(ends)]
            yield [decoding.Written(row=place, ids=ids, log_prob=-1.0, ended=True)]

    monkeypatch.setattr(decoding, "decode", written)
    asked = requests(4, drafts=1)
    found = {}
    for trace in ("on", None):
        sampler = TransformersSampler()
        sampler.open(RunContext(directory=tmp_path, seed=0, student=section(folder, trace=trace)))
        found[trace] = sorted(sampler.sample(base, asked), key=lambda each: texts.index(each.trace + each.completion))
    assert [(each.trace, each.completion, each.finish_reason) for each in found["on"]] == [
        ("<think>\nwhy\n</think>\n\n", "Hello", "stop"),
        ("<think>why and why", "", "length"),
        ("", "Hello <think>", "stop"),
        ("<think></think>", "", "stop"),
    ]
    assert [each.completion for each in found[None]] == texts
    assert all(each.tokens == len(each.token_ids) for each in found["on"])
