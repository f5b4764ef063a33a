"""Build the second world's student from a seed: tokenizer, chat template and weights. About four minutes on one core.

    OMP_NUM_THREADS=1 python -m tests.second_sandbox.build --out tests/second_sandbox/student --seed 11

It is unlike the shipped student wherever that is cheap: a Qwen3 of width 128 with three layers, grouped keys and tied
embeddings, 0.7 million weights, another tokenizer, and a chat template in which something follows the end token.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

from prefdistill.sandbox.build_student import batches
from prefdistill.sandbox.tiny_model import COMMON_ENGLISH, build_optimizer
from tests.second_sandbox.world import AGENTS, MONTHS, PRODUCTS, SURNAMES, notes, write_mixture

END, PAD, START = "<|im_end|>", "<|endoftext|>", "<|im_start|>"
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
WORDS = r" ?\p{L}+| ?\p{N}{1,3}|\n| ?[^\s\p{L}\p{N}]|\s"
VOCABULARY, WIDTH, INNER, LAYERS, HEADS, KEY_HEADS = 896, 128, 384, 3, 4, 2
EXAMPLES, STEPS, LEARNING_RATE, FACT_WEIGHT = 20_000, 600, 4e-3, 4.0


def examples(count: int, seed: int) -> list[tuple[str, str]]:
    """Return pairs of note and reply."""
    rng = random.Random(f"second-student-{seed}")
    return [(row["prompt"], write_mixture(row, rng)) for row in notes(count, seed, training=True)]


def build_tokenizer(pairs: list[tuple[str, str]]) -> Any:
    """Train the byte-level BPE tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, START, END]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*(text for pair in pairs for text in pair), COMMON_ENGLISH], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=special[1:2],
        model_max_length=2048,
        padding_side="left",
    )
    fast.chat_template = TEMPLATE
    return fast


def build_model(tokenizer: Any, seed: int) -> Any:
    """Build the untrained model."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KEY_HEADS,
            head_dim=WIDTH // HEADS,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            initializer_range=0.06,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def encode(tokenizer: Any, pairs: list[tuple[str, str]]) -> list[tuple[list[int], int]]:
    """Encode examples, each with the number of its prompt tokens; what follows the end token is not learned."""
    encoded = []
    for note, reply in pairs:
        turns = [{"role": "user", "content": note}]
        head = tokenizer.encode(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
        encoded.append(([*head, *tokenizer.encode(reply), tokenizer.eos_token_id], len(head)))
    return encoded


def train(model: Any, tokenizer: Any, encoded: list[tuple[list[int], int]], steps: int, seed: int) -> None:
    """Train in place; facts to be copied weigh more, since copying is the last thing to be learned."""
    import torch

    vocabulary = tokenizer.get_vocab()
    words = [f"Ġ{word}" for word in (*SURNAMES, *AGENTS, *MONTHS, *PRODUCTS, *map(str, range(1, 29)))]
    facts = torch.tensor([vocabulary[word] for word in words if word in vocabulary])
    weights = torch.ones(len(tokenizer))
    weights[facts] = FACT_WEIGHT
    optimizer, schedule = build_optimizer(model, LEARNING_RATE, steps)
    losses, right, began = [], [], time.perf_counter()
    model.train()
    for step, (ids, mask, labels) in enumerate(batches(encoded, tokenizer.pad_token_id, steps, seed), start=1):
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].flatten(0, 1)
        targets = labels[:, 1:].flatten()
        loss = torch.nn.functional.cross_entropy(logits, targets, weight=weights, ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        is_fact = torch.isin(targets, facts)
        losses.append(loss.item())
        right.append((logits[is_fact].argmax(-1) == targets[is_fact]).float().mean().item())
        if step % 50 == 0:
            shown = [sum(values[-50:]) / 50 for values in (losses, right)]
            print(
                f"step {step}  loss {shown[0]:.3f}  facts {shown[1]:.3f}  {time.perf_counter() - began:.0f} s",
                flush=True,
            )


def main() -> None:
    """Build the second world's student."""
    parser = argparse.ArgumentParser(prog="python -m tests.second_sandbox.build", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    import torch
    from transformers import GenerationConfig

    pairs = examples(EXAMPLES, options.seed)
    tokenizer = build_tokenizer(pairs[:20_000])
    model = build_model(tokenizer, options.seed)
    print(f"{model.num_parameters():,} weights, {len(tokenizer)} tokens")
    train(model, tokenizer, encode(tokenizer, pairs), options.steps, options.seed)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    options.out.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
