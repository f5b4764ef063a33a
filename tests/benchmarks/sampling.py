"""512 drafts of the sandbox student: prefdistill's sampler and transformers' `generate`, drafts and tokens a second.

    python tests/benchmarks/sampling.py [--repeats 3]

256 prompts, 2 drafts, at most 80 new tokens at temperature 1. Loading is included.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import torch

from prefdistill.protocols import RunContext, SampleRequest
from prefdistill.records import Message, Policy, seed_of
from prefdistill.samplers.transformers import TransformersSampler
from prefdistill.sandbox.world import notes
from prefdistill.sections import StudentSection
from prefdistill.student import load_policy, load_tokenizer, quiet_libraries, render_prompt

PROMPTS, DRAFTS, NEW_TOKENS = 256, 2, 80
STUDENT = StudentSection(model="prefdistill.sandbox:student", device="cpu")
BASE = Policy(model=STUDENT.model)
MESSAGES = [(Message(role="user", content=row["prompt"]),) for row in notes(PROMPTS, 0, part="training")]


def ours(weights: Literal["merged", "adapter"]) -> tuple[float, int]:
    """Return (seconds, completion tokens) of our sampler."""
    sampler = TransformersSampler(weights=weights)
    with tempfile.TemporaryDirectory() as folder:
        sampler.open(RunContext(directory=Path(folder), seed=0, student=STUDENT))
        asked = [
            SampleRequest(f"{i}/{j}", messages, seed_of(i, j), 1.0, 1.0, NEW_TOKENS)
            for i, messages in enumerate(MESSAGES)
            for j in range(DRAFTS)
        ]
        began = time.perf_counter()
        drafts = list(sampler.sample(BASE, asked))
    return time.perf_counter() - began, sum(getattr(draft, "tokens", 0) for draft in drafts)


def generate(batch: int, merged: torch.dtype | None) -> tuple[float, int]:
    """Return (seconds, completion tokens) of `generate` with prompts sorted by length, `batch` drafts at a time."""
    tokenizer = load_tokenizer(STUDENT)
    began = time.perf_counter()
    model: Any = load_policy(STUDENT, BASE, Path(), merged=merged)
    prompts = sorted((render_prompt(tokenizer, messages, STUDENT) for messages in MESSAGES), key=len)
    tokens = 0
    for start in range(0, PROMPTS, batch // DRAFTS):
        part = prompts[start : start + batch // DRAFTS]
        longest, pad = max(map(len, part)), int(tokenizer.pad_token_id or 0)
        ids = torch.tensor([[pad] * (longest - len(each)) + each for each in part])
        mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in part])
        with torch.no_grad():
            out = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=NEW_TOKENS,
                num_return_sequences=DRAFTS,
            )  # fmt: skip
        tokens += int((out[:, longest:] != pad).sum())
    return time.perf_counter() - began, tokens


ARMS = {
    "prefdistill, merged float32": lambda: ours("merged"),
    "prefdistill, 4-bit with adapter": lambda: ours("adapter"),
    "generate, 4-bit, 16 at a time": lambda: generate(16, None),
    "generate, 4-bit, 64 at a time": lambda: generate(64, None),
    "generate, merged float32, 64 at a time": lambda: generate(64, torch.float32),
}


def main() -> None:
    """Run all arms in turn and print seconds, rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    quiet_libraries()
    ours("merged")
    rows = {name: [arm() for _ in range(options.repeats)] for name, arm in ARMS.items()}
    fastest = statistics.median(seconds for seconds, _ in rows["prefdistill, merged float32"])
    print(f"{PROMPTS * DRAFTS} drafts of at most {NEW_TOKENS} tokens, {torch.get_num_threads()} threads")
    for name, found in rows.items():
        seconds, tokens = statistics.median(each for each, _ in found), found[0][1]
        rate = f"{PROMPTS * DRAFTS / seconds:6.0f} drafts/s {tokens / seconds:7.0f} tokens/s"
        print(f"{name:40} {seconds:6.1f} s {rate}   {seconds / fastest:.2f}x")


if __name__ == "__main__":
    main()
