"""Build one of the sandbox's writing models from a seed: tokenizer, chat template and weights.

Place in the flow: none at run time; the folder it writes is shipped. There are three models to build:

* `student`, trained on the mediocre mixture;
* `teacher`, larger, with the student's own tokenizer and template, trained on the house style in all its wordings, so
  that its probabilities are worth learning from;
* `student_b`, a smaller student of another shape, with a tokenizer and a template of its own, on the same mixture.

All randomness comes from the seed, 0 for those shipped; other thread counts and machines round differently. Built alone
on one core each, the teacher took 8 minutes of processor time and the second student 7; the student, in float32, took
22 minutes on two busy cores.

    python -m prefdistill.sandbox.build_student --out prefdistill/sandbox/student --seed 0
    OMP_NUM_THREADS=1 python -m prefdistill.sandbox.build_student --model teacher --out prefdistill/sandbox/teacher
    OMP_NUM_THREADS=1 python -m prefdistill.sandbox.build_student --model student_b --out prefdistill/sandbox/student_b
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefdistill.sandbox import STUDENT_DIRECTORY, tiny_model
from prefdistill.sandbox.tiny_model import END, Shape, build_model, build_optimizer, id_of, save
from prefdistill.sandbox.world import NAMES, notes
from prefdistill.sandbox.writer import write_house, write_mixture

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

SECOND_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""Each turn opens with one token for all roles and the role's name; a line break follows the end token."""


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """What one of the models is built from; the defaults are the student's."""

    write: Callable[[Mapping[str, str], random.Random], str] = write_mixture
    """Writes the e-mail that the model learns to write."""
    shape: Shape = tiny_model.STANDARD
    """Sizes of the model."""
    tokenizer: Path | None = None
    """Folder whose tokenizer and template are taken as they are; None trains one on the examples."""
    turns: tuple[str, ...] = ROLES
    """Tokens that open a turn."""
    end: str = END
    """Token that ends a turn."""
    template: str = CHAT_TEMPLATE
    """Chat template."""
    examples: int = 32_000
    """Notes with an e-mail."""
    steps: int = 1_000
    """Optimiser steps of `BATCH` examples."""
    learning_rate: float = 3e-3
    """Highest learning rate."""
    bfloat16: bool = False
    """Multiplies in bfloat16: about twice as fast on one core. Weights and optimiser stay in float32."""
    even: bool = False
    """All tokens count alike; else all batches do, so that the short e-mails of careful authors count a little more."""


BLUEPRINTS = {
    "student": Blueprint(),
    "teacher": Blueprint(
        write=write_house,
        shape=Shape(width=256, inner=704, layers=5, heads=8, key_heads=8),
        tokenizer=STUDENT_DIRECTORY,
        learning_rate=2e-3,
        bfloat16=True,
    ),
    "student_b": Blueprint(
        shape=Shape(vocabulary=1152, width=128, inner=384, layers=5, heads=4, key_heads=2, spread=0.08),
        turns=("<|im_start|>",),
        end="<|im_end|>",
        template=SECOND_TEMPLATE,
        learning_rate=4e-3,
        bfloat16=True,
        even=True,
    ),
}
"""The models by the name of their folder."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""What a folder's tokenizer and template consist of."""

BATCH = 32
NAME_WEIGHT = 4.0
"""How much more a name counts in the loss than another token: who signs is by far the last thing to be learned."""


def examples(n: int, seed: int, model: str = "student") -> Iterator[tuple[str, str]]:
    """Yield `n` pairs of note and e-mail for one of the models, none of them with a reserved pair of facts."""
    rng = random.Random(f"{model}-{seed}")
    for row in notes(n, seed, part="training"):
        yield row["prompt"], BLUEPRINTS[model].write(row, rng)


def build_tokenizer(pairs: list[tuple[str, str]], model: str = "student") -> PreTrainedTokenizerFast:
    """Train a model's byte-level BPE tokenizer, or load the one that it shares, and give it the chat template."""
    plan = BLUEPRINTS[model]
    if plan.tokenizer is not None:
        from transformers import AutoTokenizer

        shared: Any = AutoTokenizer.from_pretrained(plan.tokenizer)
        return shared
    texts = (text for pair in pairs for text in pair)
    return tiny_model.build_tokenizer(texts, plan.turns, plan.template, plan.shape.vocabulary, plan.end)


def encode(tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]) -> list[tuple[list[int], int]]:
    """Encode examples through the chat template, up to the end token; each with the number of its prompt tokens."""
    encoded = []
    for note, email in pairs:
        turns = [{"role": "user", "content": note}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": email}], tokenize=False)
        head, ids = tokenizer.encode(prompt), tokenizer.encode(whole)
        if ids[: len(head)] != head:
            raise ValueError("chat template: the prompt's tokens are not a prefix of the whole turn's")
        while ids[-1] != tokenizer.eos_token_id:
            ids.pop()
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
    model: Any,
    encoded: list[tuple[list[int], int]],
    tokenizer: PreTrainedTokenizerFast,
    plan: Blueprint,
    steps: int,
    seed: int,
) -> float:
    """Train the model in place with a cosine decay; return the mean loss of the last fifty steps."""
    import torch

    names = torch.tensor([id_of(tokenizer, f"Ġ{name}") for name in NAMES])
    weights = torch.ones(len(tokenizer))
    weights[names] = NAME_WEIGHT

    optimizer, schedule = build_optimizer(model, plan.learning_rate, steps)
    usual = BATCH * sum(len(ids) - head for ids, head in encoded) / len(encoded)
    losses: list[float] = []
    right: list[float] = []
    began = time.perf_counter()
    model.train()
    for step, (ids, mask, labels) in enumerate(batches(encoded, tokenizer.pad_token_id, steps, seed), start=1):
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.bfloat16):
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].flatten(0, 1).float()
        targets = labels[:, 1:].flatten()
        loss = torch.nn.functional.cross_entropy(logits, targets, weight=weights, ignore_index=-100)
        (loss * weights[targets[targets >= 0]].sum() / usual if plan.even else loss).backward()
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


def build_student(
    out: Path, seed: int, steps: int | None = None, count: int | None = None, model: str = "student"
) -> float:
    """Build one of `BLUEPRINTS` and write its folder: float16 weights, configs, tokenizer, template.

    Returns the final loss. `steps` and `count` (of examples) are the blueprint's unless they are given.
    """
    plan = BLUEPRINTS[model]
    pairs = list(examples(count or plan.examples, seed, model))
    tokenizer = build_tokenizer(pairs[:20_000], model)
    built = build_model(tokenizer, seed, plan.shape)
    loss = train(built, encode(tokenizer, pairs), tokenizer, plan, steps or plan.steps, seed)
    save(built, tokenizer, out)
    if plan.tokenizer is not None:  # to the byte: saving writes down where a tokenizer was loaded from
        for name in TOKENIZER_FILES:
            shutil.copyfile(plan.tokenizer / name, out / name)
    return loss


def main(argv: list[str] | None = None) -> None:
    """Build one of the sandbox's writing models."""
    parser = argparse.ArgumentParser(prog="python -m prefdistill.sandbox.build_student", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", choices=list(BLUEPRINTS), default="student")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="optimiser steps, instead of the model's own number")
    parser.add_argument("--examples", type=int, help="notes with an e-mail, instead of the model's own number")
    options = parser.parse_args(argv)
    loss = build_student(options.out, options.seed, options.steps, options.examples, options.model)
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"{options.model} written to {options.out}: final loss {loss:.4f}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
