"""The loss with two terms: the text's cross-entropy, and the distance to the teacher's distribution at each token.

    loss = (1 - mix) · cross-entropy + mix · T² · divergence(teacher at temperature T, student at temperature T)

Place in the flow: TRL's SFTTrainer trains; its own loss is the first term, weighed over the tokens of the whole batch,
and the second one is added to it from the same forward pass. The student's last hidden states are taken on their way
to the output layer, and both output layers are applied piece by piece by the kernel of TRL's DistillationTrainer, so
neither model's logits ever exist in full. T² keeps the second term's gradient at the size of the first one's
(Hinton et al. 2015, arXiv 1503.02531).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefdistill.errors import TrainError

if TYPE_CHECKING:
    import torch

PIECE = 256
"""Tokens whose logits exist at once; the kernel cuts the vocabulary at 32,768 too. Measured on a CPU: 1,024 tokens of a
vocabulary of 150,000 take 0.4 GB beside the models, of which the logits of both in full would be 1.2 GB alone."""


@dataclass(frozen=True)
class Soft:
    """A teacher, and how it is followed."""

    teacher: Any
    """The model, in eval mode, on the student's device."""
    common: int
    """Rows of both output layers that are compared; the rest are padding."""
    mix: float
    """Weight of the teacher's term, 0 to 1; the text's own has the rest."""
    temperature: float
    """Divides both models' logits in the teacher's term."""
    beta: float
    """Which divergence, see `logits_check.divergences`."""


@dataclass(frozen=True)
class Head:
    """A model's output layer, as the kernel wants it."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: float
    """Multiplies the logits."""
    softcap: float | None
    """Logits are squeezed between minus and plus this."""

    @classmethod
    def of(cls, model: Any, common: int) -> Head:
        """Return the first `common` rows of a model's output layer."""
        layer, config = model.get_output_embeddings(), model.config.get_text_config()
        bias = getattr(layer, "bias", None)
        return cls(
            layer.weight[:common],
            None if bias is None else bias[:common],
            logit_scale(config),
            getattr(config, "final_logit_softcapping", None),
        )


def logit_scale(config: Any) -> float:
    """Return what a model's forward pass multiplies its logits by, under the names that transformers has for it."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        value = getattr(config, name, None)
        if value is not None:
            return float(value)
    divisor = getattr(config, "logits_scaling", None)
    if divisor is None:
        return 1.0
    return float(divisor) if config.model_type == "hyperclovax" else 1.0 / float(divisor)


def soft_loss(
    student_hidden: torch.Tensor,
    teacher_hidden: torch.Tensor,
    student: Head,
    teacher: Head,
    soft: Soft,
    piece: int = PIECE,
) -> torch.Tensor:
    """Return T² times the sum of the tokens' divergences, in nats, with a gradient to the student's hidden states.

    Args:
        student_hidden: last hidden states of the tokens that count, (tokens, width).
        teacher_hidden: the teacher's for the same tokens, (tokens, its width).
        student: the student's output layer.
        teacher: the teacher's.
        soft: temperature and divergence.
        piece: tokens whose logits exist at once.

    Raises:
        TrainError: this version of TRL has no such kernel.
    """
    try:
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
    except ImportError as problem:
        raise TrainError(f"logits: {problem}; install the trl version of constraints.txt") from None

    total = student_hidden.new_zeros(()).float()
    for ours, theirs in zip(student_hidden.split(piece), teacher_hidden.split(piece), strict=True):
        found, _ = ChunkedDivergenceFunction.apply(
            ours, student.weight, student.bias,
            theirs, teacher.weight, teacher.bias,
            soft.beta, soft.temperature,
            student.scale, student.softcap, teacher.scale, teacher.softcap,
        )  # fmt: skip
        total = total + found.sum()
    return soft.temperature**2 * total


@contextmanager
def last_hidden(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collect what a causal language model hands to its output layer while the block lasts."""
    seen: list[torch.Tensor] = []
    handle = model.base_model.register_forward_hook(lambda layer, given, found: seen.append(found.last_hidden_state))
    try:
        yield seen
    finally:
        handle.remove()


def with_soft_labels(plain: Any) -> Any:
    """Return TRL's SFTTrainer, as `building` makes it, with the teacher's term in its loss."""
    import torch

    class SoftLabelTrainer(plain):
        """Adds the teacher's term to the loss of the texts."""

        def __init__(self, *args: Any, soft: Soft | None, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.soft = soft
            """None trains on the texts alone."""

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if self.soft is None:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            ids, mask, labels = inputs["input_ids"], inputs["attention_mask"], inputs["labels"]
            student = self.accelerator.unwrap_model(model).get_base_model()
            with last_hidden(student) as seen:
                hard = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            with torch.no_grad():
                theirs = self.soft.teacher.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
            counted = labels[:, 1:] != -100
            total = soft_loss(
                seen[0][:, :-1][counted],
                theirs.last_hidden_state[:, :-1][counted],
                Head.of(student, self.soft.common),
                Head.of(self.soft.teacher, self.soft.common),
                self.soft,
            )
            tokens = counted.sum() if num_items_in_batch is None else num_items_in_batch
            soft = total / torch.as_tensor(tokens, device=total.device).clamp(min=1)
            if self.args.average_tokens_across_devices and num_items_in_batch is not None:
                soft = soft * self.accelerator.num_processes  # as TRL does: the gradients are averaged afterwards
            self._note(hard=hard, soft=soft)
            if self.soft.mix == 1.0:
                return soft
            return (1.0 - self.soft.mix) * hard + self.soft.mix * soft

        def _note(self, **terms: torch.Tensor) -> None:
            """Log a micro-batch's share of each term; TRL averages over the micro-batches, of which the loss is a sum."""
            for name, value in terms.items():
                share = float(value.detach()) * self.current_gradient_accumulation_steps
                self._metrics["train"][f"{name}_loss"].append(share)

    return SoftLabelTrainer
