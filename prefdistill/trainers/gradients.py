"""Whether 4-bit layers on a CPU still have true gradients, asked of the very model that is about to train.

Place in the flow: after everything that prepares the trainer, before the first step. On CPUs with
AVX512-BF16 bitsandbytes packs a layer's weight for inference when it is called in eval mode without gradients; a
training step then goes through a kernel without autograd. The loss stays right and the LoRA gradients do not. The
derivative of the loss along its own (wrong) gradient does not show it: what is missing is missing in both, and the
ratio stayed within 0.9 to 1.2 on the models tried. So each layer is asked by itself, where it is exact.
"""

from __future__ import annotations

import warnings
from typing import Any

from prefdistill.errors import TrainError

ROWS = 4
"""Tokens sent through a layer; one alone would take another kernel than training does."""
TOLERANCE = 0.1
"""How far the ratio may be from 1: it is exact in float32, and within 0.01 in bfloat16."""


def gradient_ratio(model: Any) -> tuple[float, str]:
    """Return the worst ratio of a layer's gradient to what its output does, and that layer's name.

    A layer is linear, so its output for an input d is its change along d; sent back, the output must give a gradient
    whose component along d is the output's squared length. Each layer is used without gradients first, since that is
    what packs it. Uses no random state and leaves no gradient behind.

    Args:
        model: with 4-bit layers, on a CPU; put into training mode.
    """
    import torch
    from bitsandbytes.nn import Linear4bit

    model.train()
    generator = torch.Generator().manual_seed(0)
    worst, name = 1.0, ""
    for each, layer in model.named_modules():
        if not isinstance(layer, Linear4bit):
            continue
        along = torch.randn(1, ROWS, layer.in_features, generator=generator).requires_grad_()
        layer.eval()
        with torch.no_grad():
            layer(along.detach())
        layer.train()
        with torch.enable_grad():
            output = layer(along)
        if layer.bias is not None:
            output = output - layer.bias
        change = output.detach()
        gradient = None
        if output.requires_grad:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the kernel without autograd, which the ratio tells
                (gradient,) = torch.autograd.grad(output, along, grad_outputs=change, allow_unused=True)
        found = 0.0 if gradient is None else float((gradient * along.detach()).sum())
        ratio = found / float((change.float() ** 2).sum())
        if abs(ratio - 1.0) > abs(worst - 1.0):
            worst, name = ratio, each
    return worst, name


def require_gradients(model: Any) -> float:
    """Return the ratio of `gradient_ratio`.

    Raises:
        TrainError: it is not 1.
    """
    ratio, name = gradient_ratio(model)
    if abs(ratio - 1.0) > TOLERANCE:
        raise TrainError(
            f"train: the gradients of the 4-bit layers are wrong on this CPU ({name}: {ratio:.3f} of what its output "
            "does, expected 1): bitsandbytes packed the weights for inference, so the loss would look right while the "
            "policy is trained on noise; load the student through prefdistill (its CPU gradient guard was off), or set "
            "student.quantization: none"
        )
    return ratio
