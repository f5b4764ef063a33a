"""Build the sandbox's student from a seed: tokenizer, chat template and weights, trained on the mediocre mixture.

Place in the flow: none at run time; the folder it writes is shipped as `student/`. All randomness comes
from the seed; other thread counts and machines round differently. The shipped one took 22 minutes on two busy cores,
at about 32,000 examples.

    python -m prefdistill.sandbox.build_student --out prefdistill/sandbox/student --seed 0
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefdistill.sandbox import tiny_model
from prefdistill.sandbox.tiny_model import PAD, VOCABULARY, build_model, build_optimizer, id_of, save
from prefdistill.sandbox.world import NAMES, notes
from prefdistill.sandbox.writer import write_mixture

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""Each turn is its role's token, the content and the end token; nothing follows the end token."""

EXAMPLES, BATCH, STEPS = 32_000, 32, 1_000
LEARNING_RATE = 3e-3
NAME_WEIGHT = 4.0
"""How much more a name counts in the loss than another token: who signs is by far the last thing to be learned."""


def examples(n: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield `n` pairs of note and e-mail, none of them with a reserved pair of facts."""
    rng = random.Random(f"student-{seed}")
    for row in notes(n, seed, part="training"):
        yield row["prompt"], write_mixture(row, rng)


def build_tokenizer(pairs: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE tokenizer and give it the chat template; any text can be encoded and decoded back."""
    return tiny_model.build_tokenizer((text for pair in pairs for text in pair), ROLES, CHAT_TEMPLATE)


def encode(tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> list[tuple[list[int], int]]:
    """Encode examples through the chat template; each comes with the number of its prompt tokens."""
    encoded = []
    for note, email in pairs:
        turns = [{"role": "user", "content": note}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": email}], tokenize=False)
        head, ids = tokenizer.encode(prompt), tokenizer.encode(whole)
        if ids[: len(head)] != head:
            raise ValueError("chat template: the prompt's tokens are not a prefix of the whole turn's")
        encoded.append((ids, len(head)))
    return encoded


def batches(
    encoded: list[tuple[list[int], int]], pad: int, steps: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield (ids, mask, labels) of `BATCH` examples of similar length; only the e-mail's tokens are learned."""
    import torch

    rng = random.Random(f"batches-{seed}")
    queue: list[list[int]] = []
    for _ in range(steps):
        if not queue:
            order = list(range(len(encoded)))
            rng.shuffle(order)
            for start in range(0, len(order), BATCH * 16):
                chunk = sorted(order[start : start + BATCH * 16], key=lambda index: len(encoded[index][0]))
                queue += [chunk[i : i + BATCH] for i in range(0, len(chunk), BATCH)]
            rng.shuffle(queue)
        rows = [encoded[index] for index in queue.pop()]
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows])
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows])
        place = torch.arange(longest)
        heads = torch.tensor([head for _, head in rows])[:, None]
        yield ids, mask, torch.where((place >= heads) & (mask > 0), ids, -100)


def train(
    model: Any, encoded: list[tuple[list[int], int]], tokenizer: PreTrainedTokenizerFast, steps: int, seed: int
) -> float:
    """Train the student in place with a cosine decay; return the mean loss of the last fifty steps."""
    import torch

    names = torch.tensor([id_of(tokenizer, f"Ġ{name}") for name in NAMES])
    weights = torch.ones(VOCABULARY)
    weights[names] = NAME_WEIGHT

    optimizer, schedule = build_optimizer(model, LEARNING_RATE, steps)
    losses: list[float] = []
    right: list[float] = []
    began = time.perf_counter()
    model.train()
    for step, (ids, mask, labels) in enumerate(batches(encoded, id_of(tokenizer, PAD), steps, seed), start=1):
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].flatten(0, 1)
        targets = labels[:, 1:].flatten()
        loss = torch.nn.functional.cross_entropy(logits, targets, weight=weights, ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        is_name = torch.isin(targets, names)
        right.append((logits[is_name].argmax(-1) == targets[is_name]).float().mean().item())
        if step % 50 == 0:
            loss_now, right_now = (sum(values[-50:]) / 50 for values in (losses, right))
            seconds = time.perf_counter() - began
            print(f"step {step}/{steps}  loss {loss_now:.4f}  names right {right_now:.3f}  {seconds:.0f} s", flush=True)
    last = losses[-50:]
    return sum(last) / len(last)


def build_student(out: Path, seed: int, steps: int = STEPS, count: int = EXAMPLES) -> float:
    """Build the student and write its folder: float16 weights, configs, tokenizer, template; return the final loss."""
    pairs = list(examples(count, seed))
    tokenizer = build_tokenizer(pairs[:20_000])
    model = build_model(tokenizer, seed)
    loss = train(model, encode(tokenizer, pairs), tokenizer, steps, seed)
    save(model, tokenizer, out)
    return loss


def main(argv: list[str] | None = None) -> None:
    """Build the sandbox's student."""
    parser = argparse.ArgumentParser(prog="python -m prefdistill.sandbox.build_student", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    options = parser.parse_args(argv)
    loss = build_student(options.out, options.seed, options.steps, options.examples)
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"student written to {options.out}: final loss {loss:.4f}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
