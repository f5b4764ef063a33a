"""The check's other process: load an export as its card says, score texts and write greedy ones.

Run as a script, with a JSON job on standard input; it knows nothing of prefdistill. `score` and `write_greedily` are
also what the exporting process measures the policy with, so that both sides measure the same way.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

BATCH = 8
"""Prompts that are written on at once."""


def score(model: Any, items: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
    """Return for each (prompt tokens, completion tokens) the completion tokens' log-probabilities, in nats."""
    import torch

    found = []
    with torch.inference_mode():
        for prompt, completion in items:
            ids = torch.tensor([[*prompt, *completion]], device=model.device)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(completion) + 1).logits
            kept = logits[0, -len(completion) - 1 : -1].float().log_softmax(-1)
            wanted = torch.tensor(list(completion), device=kept.device)[:, None]
            found.append(kept.gather(-1, wanted)[:, 0].tolist())
    return found


def write_greedily(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, pad_id: int) -> list[list[int]]:
    """Return the likeliest tokens after each prompt, end token included, by plain `generate`."""
    import torch

    found: list[list[int]] = []
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        longest = max(map(len, batch))
        ids = torch.tensor([[pad_id] * (longest - len(each)) + list(each) for each in batch], device=model.device)
        mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in batch], device=model.device)
        written = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad_id
        )
        for row in written[:, longest:].tolist():
            end = next((at for at, token in enumerate(row) if token in ends), len(row) - 1)
            found.append(row[: end + 1])
    return found


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Load the export by the job's code, score its texts, and write greedily after its conversations."""
    made: dict[str, Any] = {}
    exec(compile(job["code"], "the card's loading code", "exec"), made)
    tokenizer, model = made["tokenizer"], made["model"]
    prompts = [
        tokenizer.encode(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **job["chat_template_kwargs"]
            )
            + job.get("block", ""),
            add_special_tokens=False,
        )
        for messages in job["conversations"]
    ]
    return {
        "prompts": prompts,
        "log_probs": score(model, list(zip(prompts, job["completions"], strict=True))),
        "greedy": write_greedily(model, prompts, job["max_new_tokens"], job["pad_id"]),
        "modules": sorted({name.partition(".")[0] for name in sys.modules}),
    }


def main() -> None:
    """Do the job on standard input and print the answer as one line of JSON."""
    job = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        found = answer(job)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
