"""Log-probabilities of given completions under a model: what the KL probe, gap tests and later checks stand on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

LOGITS_BYTES = 256 << 20
"""Memory that one batch's logits may take."""


def log_probs(
    model: Any, items: Sequence[tuple[Sequence[int], Sequence[int]]], batch_tokens: int = 4096
) -> list[tuple[float, int]]:
    """Score completions, without gradients.

    Args:
        model: a causal language model in eval mode (a PeftModel too).
        items: (prompt ids, completion ids with the end token); neither may be empty.
        batch_tokens: padded tokens in a batch, fewer where the vocabulary is large.

    Returns:
        For each item (sum of its completion's log-probabilities in nats, number of completion tokens).
    """
    import torch

    vocabulary = model.get_output_embeddings().weight.shape[0]
    budget = min(batch_tokens, max(1, LOGITS_BYTES // (4 * vocabulary)))
    order = sorted(range(len(items)), key=lambda index: len(items[index][0]) + len(items[index][1]))
    results: list[tuple[float, int]] = [(0.0, 0)] * len(items)
    with torch.inference_mode():
        while order:
            longest = len(items[order[-1]][0]) + len(items[order[-1]][1])
            batch = [order.pop() for _ in range(min(len(order), max(1, budget // longest)))]
            for index, value in zip(batch, _batch([items[index] for index in batch], model, longest), strict=True):
                results[index] = (value, len(items[index][1]))
    return results


def _batch(items: Sequence[tuple[Sequence[int], Sequence[int]]], model: Any, longest: int) -> list[float]:
    import torch

    ids = torch.zeros((len(items), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    wanted = torch.zeros_like(ids, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(items):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor([*prompt, *completion])
        mask[row, :end] = 1
        wanted[row, len(prompt) : end] = True
    ids, mask, wanted = (tensor.to(model.device) for tensor in (ids, mask, wanted))
    first = min(len(prompt) for prompt, _ in items)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=longest - first + 1).logits
    logits = logits[:, -(longest - first + 1) : -1].float()
    picked = logits.gather(-1, ids[:, first:, None])[..., 0] - logits.logsumexp(-1)
    return [float(value) for value in (picked * wanted[:, first:]).double().sum(-1)]


def mean_gap(first: Sequence[tuple[float, int]], second: Sequence[tuple[float, int]]) -> float:
    """Return the mean absolute difference of two scorings of the same items, nats a token."""
    tokens = sum(count for _, count in first)
    return sum(abs(a - b) for (a, _), (b, _) in zip(first, second, strict=True)) / max(1, tokens)


def kl_estimate(new: Sequence[tuple[float, int]], old: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Return (KL of new to old policy, its standard error) in nats a completion.

    Each item adds r - 1 - ln r with r = new(y|x) / old(y|x), which is never negative. Its expectation is
    KL(old || new) where the completions were sampled from the old policy, as a round's drafts are; for small updates
    both directions agree. The ratio is capped at e^10, so that one outlier cannot hide all others.
    """
    terms = []
    for (after, _), (before, _) in zip(new, old, strict=True):
        log_ratio = min(10.0, after - before)
        terms.append(math.expm1(log_ratio) - log_ratio)
    if not terms:
        return 0.0, 0.0
    mean = sum(terms) / len(terms)
    variance = sum((term - mean) ** 2 for term in terms) / max(1, len(terms) - 1)
    return mean, math.sqrt(variance / len(terms))
