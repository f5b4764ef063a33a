"""What the first step of a training on distributions should show, computed in another way than it is trained.

Place in the flow: on the start policy as its file has it. Here the models' own output layers give their logits, whole
and in float64, one text at a time and with textbook formulas; the trainer projects hidden states piece by piece.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from prefdistill.trainers.independent import Item
    from prefdistill.trainers.logits_loss import Soft

POSITIONS = 64
"""Tokens of a text that are looked at together; bounds the memory of float64."""


def expected_terms(student: Any, soft: Soft, items: Sequence[Item]) -> Mapping[str, float]:
    """Return the loss of a step on `items`, its terms, and how well the teacher predicts them.

    Holds one text's logits of both models.

    Args:
        student: the start policy.
        soft: the teacher, and how it is followed.
        items: the step's texts.

    Returns:
        `independent_loss`, `independent_hard` and `independent_soft` (means over the tokens, in nats) and
        `teacher_loss`, the teacher's own cross-entropy of the texts.
    """
    import torch

    hard = divergence = teacher_hard = 0.0
    tokens = sum(len(completion) for _, completion in items)
    training = student.training
    student.eval()
    with torch.inference_mode():
        for prompt, completion in items:
            wanted = torch.tensor(completion)
            ours, theirs = (_logits(model, prompt, completion) for model in (student, soft.teacher))
            for start in range(0, len(completion), POSITIONS):
                here = slice(start, start + POSITIONS)
                s, t = ours[here].double().cpu(), theirs[here].double().cpu()
                hard += float(torch.nn.functional.cross_entropy(s, wanted[here], reduction="sum"))
                teacher_hard += float(torch.nn.functional.cross_entropy(t, wanted[here], reduction="sum"))
                s, t = (logits[:, : soft.common] / soft.temperature for logits in (s, t))
                divergence += float(divergences(s, t, soft.beta).sum())
    student.train(training)
    hard, divergence = hard / tokens, soft.temperature**2 * divergence / tokens
    return {
        "independent_loss": (1.0 - soft.mix) * hard + soft.mix * divergence,
        "independent_hard": hard,
        "independent_soft": divergence,
        "teacher_loss": teacher_hard / tokens,
    }


def _logits(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
    """Return the logits that predict a completion's tokens, (tokens, vocabulary)."""
    import torch

    ids = torch.tensor([[*prompt, *completion]], device=model.device)
    logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=len(completion) + 1).logits
    return logits[0, -len(completion) - 1 : -1]


def divergences(student: torch.Tensor, teacher: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the divergence of two rows of logits each, in nats.

    `beta` 0 is KL(teacher ‖ student), 1 is KL(student ‖ teacher); between them
    beta · KL(teacher ‖ m) + (1 - beta) · KL(student ‖ m) with the mixture m = beta · teacher + (1 - beta) · student
    (Agarwal et al. 2024, arXiv 2306.13649).
    """
    import torch

    log_s, log_t = student.log_softmax(-1), teacher.log_softmax(-1)

    def kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    if beta in (0.0, 1.0):
        return kl(log_s, log_t) if beta else kl(log_t, log_s)
    log_m = torch.logaddexp(log_t + math.log(beta), log_s + math.log(1.0 - beta))
    return beta * kl(log_t, log_m) + (1.0 - beta) * kl(log_s, log_m)
