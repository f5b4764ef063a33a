"""Best of n: how far choosing the best of n drafts moves what is written, without any training."""

from __future__ import annotations

import math


def best_of_kl(drafts: int) -> float:
    """Return the KL divergence of the best of `drafts` drafts from a single one, in nats a completion.

    ln n − (n − 1)/n, exact where no two drafts ever score the same, and an upper bound otherwise.

    Raises:
        ValueError: fewer than one draft.
    """
    if drafts < 1:
        raise ValueError(f"best of {drafts} drafts; expected at least 1")
    return math.log(drafts) - (drafts - 1) / drafts
