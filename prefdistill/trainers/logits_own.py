"""The teacher's distribution on the student's own texts: TRL's DistillationTrainer, fed and stopped as our sampler is.

Place in the flow: `logits` with `on: own`. The student writes a completion to each prompt of a step, and its
distribution at each of their tokens is drawn to the teacher's. TRL would tokenise the prompts itself and stop at the
end tokens that it finds; both are the sampler's here. The first step's texts are kept beside the checkpoints, so that
its loss can be computed once more from the start policy's file, after a training that was killed too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from prefdistill.student import adapter_path

if TYPE_CHECKING:
    from prefdistill.records import Policy
    from prefdistill.trainers.independent import Item
    from prefdistill.trainers.logits_loss import Soft

FIRST = "first_texts.json"
"""The texts of the first step, beside the checkpoints."""


def with_own_texts(plain: Any) -> Any:
    """Return TRL's DistillationTrainer, as `building` makes it, that takes prompts as token ids."""

    class OwnTextTrainer(plain):
        """Learns from the teacher on what the student itself writes."""

        def __init__(self, *args: Any, soft: Soft, **kwargs: Any) -> None:
            self.soft = soft
            # TRL compares these two numbers; rows that pad an output layer are left out of the loss here.
            soft.teacher.config.get_text_config().vocab_size = kwargs["model"].config.get_text_config().vocab_size
            super().__init__(*args, teacher_model=soft.teacher, **kwargs)

        def write_like_the_sampler(self, end_ids: set[int]) -> None:
            """End texts at these tokens and no others, and keep out padding rows, which the teacher may not have."""
            self.eos_token_ids = sorted(end_ids)
            self.generation_kwargs["eos_token_id"] = self.eos_token_ids
            rows = self.model.get_output_embeddings().weight.shape[0]
            if rows > self.soft.common:
                self.generation_kwargs["suppress_tokens"] = list(range(self.soft.common, rows))
            self.generation_config.update(**self.generation_kwargs)

        def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return prompts, None, {}

        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            made: dict[str, Any] = super()._generate_and_score_completions(inputs)
            if self.state.global_step == 0 and self.accelerator.is_main_process:
                keep_texts(made, Path(self.args.output_dir) / FIRST)
            return made

        def _compute_loss(self, unwrapped_student: Any, inputs: Any, num_items_in_batch: Any) -> Any:
            teacher = self.accelerator.unwrap_model(self.teacher_model)
            with (
                common_rows(unwrapped_student, self.soft.common),
                common_rows(teacher, self.soft.common),
                completions_alone(),
            ):
                return super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)

    return OwnTextTrainer


@contextmanager
def common_rows(model: Any, common: int) -> Iterator[None]:
    """Have `model.get_output_embeddings()` return its layer's first `common` rows while the block lasts."""
    layer = model.get_output_embeddings()
    bias = getattr(layer, "bias", None)
    cut = SimpleNamespace(weight=layer.weight[:common], bias=None if bias is None else bias[:common])
    with mock.patch.object(model, "get_output_embeddings", return_value=cut):
        yield


@contextmanager
def completions_alone() -> Iterator[None]:
    """Have TRL compare the completions' tokens only; off CUDA it does so with their padding, and throws that away."""
    from trl.trainer import distillation_trainer

    if hasattr(distillation_trainer, "_use_triton"):
        with mock.patch.object(distillation_trainer, "_use_triton", return_value=True):
            yield
    else:
        yield


def keep_texts(made: dict[str, Any], path: Path) -> None:
    """Write the texts of a generated batch, without its padding."""
    rows = zip(made["prompt_ids"], made["prompt_mask"], made["completion_ids"], made["completion_mask"], strict=True)
    items = [
        [prompt[prompt_mask == 1].tolist(), completion[mask == 1].tolist()]
        for prompt, prompt_mask, completion, mask in rows
    ]
    path.write_text(json.dumps(items), encoding="utf-8")


def read_texts(path: Path) -> list[Item]:
    """Return the texts that `keep_texts` wrote."""
    return [(tuple(prompt), tuple(completion)) for prompt, completion in json.loads(path.read_text(encoding="utf-8"))]


@contextmanager
def as_saved(model: Any, policy: Policy, directory: Path) -> Iterator[Any]:
    """Have a trained model be a policy as its file has it while the block lasts."""
    path = adapter_path(policy, directory)
    if path is None:
        with model.disable_adapter():
            yield model
        return
    model.load_adapter(str(path), adapter_name="saved", is_trainable=False)
    model.set_adapter("saved")
    try:
        yield model
    finally:
        model.set_adapter("default")
        model.delete_adapter("saved")
