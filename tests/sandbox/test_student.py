"""The shipped student: its size, its tokenizer and template, and that it writes e-mails from unseen notes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prefdistill.sandbox import STUDENT_DIRECTORY
from prefdistill.sandbox.build_student import CHAT_TEMPLATE, batches, build_tokenizer, encode, examples
from prefdistill.sandbox.gold import gold
from prefdistill.sandbox.measure_student import COPIED, copies, load, write_drafts
from prefdistill.sandbox.world import is_reserved, notes, parse_note
from prefdistill.sandbox.writer import write_oracle

TURNS = [
    {"role": "system", "content": "Write well."},
    {"role": "user", "content": "To: Nora"},
    {"role": "assistant", "content": "Hi Nora,"},
    {"role": "user", "content": "Shorter."},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(STUDENT_DIRECTORY)


@pytest.fixture(scope="module")
def model() -> Any:
    return load(STUDENT_DIRECTORY, "none")[0]


def test_the_folder_is_small_and_holds_half_precision_weights() -> None:
    files = [file for file in STUDENT_DIRECTORY.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 8_000_000
    config = json.loads((STUDENT_DIRECTORY / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "float16"
    assert config["max_position_embeddings"] >= 2048
    assert not config["tie_word_embeddings"]
    assert config["hidden_size"] % 64 == 0
    assert config["intermediate_size"] % 64 == 0


def test_a_turn_ends_in_the_end_token_and_the_prompt_is_its_prefix(tokenizer: Any) -> None:
    assert tokenizer.chat_template == CHAT_TEMPLATE
    prompt = tokenizer.apply_chat_template(TURNS, add_generation_prompt=True, tokenize=True, return_dict=False)
    answer = [*TURNS, {"role": "assistant", "content": "Nora, call me."}]
    whole = tokenizer.apply_chat_template(answer, tokenize=True, return_dict=False)
    assert whole[: len(prompt)] == prompt
    assert whole[-1] == tokenizer.eos_token_id
    assert whole.count(tokenizer.eos_token_id) == len(answer)
    assert tokenizer.decode(whole[len(prompt) : -1]) == "Nora, call me."


def test_the_end_token_is_the_same_everywhere(tokenizer: Any, model: Any) -> None:
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) == model.config.vocab_size


def test_any_text_survives_the_tokenizer(tokenizer: Any) -> None:
    for text in (
        "",
        " a\n\n\n b ",
        "naïve ☃ 汉字 \t\r\n",
        "at 9:00, not 12:345",
        "It's Tom’s — 1,000.50 €",
        "\x00\x7f",
    ):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_facts_are_single_tokens_and_texts_short(tokenizer: Any) -> None:
    for row in notes(100, 21):
        for name in ("recipient", "sender", "day", "time", "ask"):
            assert len(tokenizer.encode(" " + row[name])) == 1
        assert len(tokenizer.encode(row["prompt"])) <= 60
        assert len(tokenizer.encode(write_oracle(row))) <= 60


def test_training_examples_never_hold_a_reserved_pair() -> None:
    pairs = list(examples(500, 0))
    assert pairs == list(examples(500, 0))
    for note, _ in pairs:
        facts = parse_note(note)
        assert facts is not None
        assert not is_reserved(facts["recipient"], facts["topic"])


def test_the_tokenizer_and_batches_are_rebuilt_from_the_seed(tokenizer: Any) -> None:
    rebuilt = build_tokenizer(list(examples(20_000, 0)))
    assert rebuilt.get_vocab() == tokenizer.get_vocab()
    pairs = list(examples(80, 0))
    encoded = encode(rebuilt, pairs)
    assert encoded == encode(tokenizer, pairs)
    for ids, mask, labels in batches(encoded, rebuilt.pad_token_id, 2, 0):
        assert ids.shape == mask.shape == labels.shape
        assert ((labels == rebuilt.eos_token_id).sum(1) == 1).all()
        assert (labels[mask == 0] == -100).all()
        assert (labels[:, 0] == -100).all()


def test_it_writes_mediocre_emails_with_the_right_facts(tokenizer: Any, model: Any) -> None:
    rows = list(notes(40, 22))
    texts = write_drafts(model, tokenizer, [row["prompt"] for row in rows], 0.7, 0)
    assert 0.3 <= sum(map(gold, texts, rows)) / len(rows) <= 0.65
    found = [copies(text, row) for text, row in zip(texts, rows, strict=True)]
    for name in COPIED:
        assert sum(each[name][1] for each in found) / len(found) >= 0.75


def test_the_same_seed_writes_the_same_drafts(tokenizer: Any, model: Any) -> None:
    prompts = [row["prompt"] for row in notes(4, 24)]
    assert write_drafts(model, tokenizer, prompts, 1.0, 3) == write_drafts(model, tokenizer, prompts, 1.0, 3)
    assert write_drafts(model, tokenizer, prompts, 1.0, 3) != write_drafts(model, tokenizer, prompts, 1.0, 4)


def test_it_loads_in_four_bits_with_a_whole_head_and_still_writes(tokenizer: Any) -> None:
    pytest.importorskip("bitsandbytes")
    model, _ = load(STUDENT_DIRECTORY, "nf4")
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    assert kinds["lm_head"] == "Linear"
    assert kinds["model.layers.0.self_attn.q_proj"] == "Linear4bit"
    row = next(notes(1, 23))
    text = write_drafts(model, tokenizer, [row["prompt"]], 0.7, 0)[0]
    assert row["recipient"] in text or row["topic"] in text


def test_long_texts_go_through(tokenizer: Any, model: Any) -> None:
    import torch

    ids = torch.tensor([tokenizer.encode("A long text about many things. " * 300)[:2048]])
    assert ids.shape[1] == 2048
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=ids).logits).all()
