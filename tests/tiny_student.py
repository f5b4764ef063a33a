"""A student small enough for unit tests: random weights, a few thousand parameters, a tokenizer of its own."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from prefdistill.protocols import SampleRequest
from prefdistill.records import Message, PreferencePair, seed_of
from prefdistill.sections import StudentSection

TEMPLATE = (
    "{%- for message in messages -%}{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
WORDS = "we meet on monday at noon please send the report to anna before friday thanks and bring tea for all".split()


def build_tiny_student(folder: Path, layers: int = 3, ascii_only: bool = False) -> Path:
    """Write a Llama of width 64 with random weights and a BPE tokenizer of 320 tokens.

    With random weights it writes half characters, which are in no pair; an `ascii_only` one has no tokens for them.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|stop|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=[
            each for each in pre_tokenizers.ByteLevel.alphabet() if not ascii_only or each.isascii() or each in "ĠĊ"
        ],
        show_progress=False,
    )
    tokenizer.train_from_iterator([text(seed) for seed in range(300)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=special[2:],
        model_max_length=256,
    )
    fast.chat_template = TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.15,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    )
    model.generation_config = GenerationConfig(eos_token_id=[1, 2], pad_token_id=0)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def with_template(student: Path, folder: Path, template: str | None) -> Path:
    """Copy a student and give it another chat template, or none."""
    shutil.copytree(student, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def section(folder: Path, **options: Any) -> StudentSection:
    """The recipe's `student:` for a folder."""
    return StudentSection.model_validate({"model": str(folder), "device": "cpu", **options})


def text(seed: int, words: int | None = None) -> str:
    """A few random words."""
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words or rng.randint(3, 12)))


def requests(prompts: int, drafts: int = 2, **options: Any) -> list[SampleRequest]:
    """Requests for `drafts` drafts of each of `prompts` prompts."""
    asked = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 16, **options}
    return [
        SampleRequest(f"p{i}/{j}", (Message(role="user", content=text(i)),), seed_of("test", i, j), **asked)
        for i in range(prompts)
        for j in range(drafts)
    ]


def pairs(count: int, round: int = 1, offset: int = 0) -> tuple[PreferencePair, ...]:
    """Pairs of random texts."""
    return tuple(
        PreferencePair(
            id=f"r{round}-{i}",
            prompt_id=f"p{i}",
            round=round,
            prompt=(Message(role="user", content=text(i + offset)),),
            chosen=text(1000 + i + offset),
            rejected=text(2000 + i + offset),
            chosen_id=f"c{i}",
            rejected_id=f"d{i}",
            chosen_score=1.0,
            rejected_score=0.0,
            margin=1.0,
            scale="custom",
        )
        for i in range(count)
    )
