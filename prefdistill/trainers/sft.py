"""Supervised fine-tuning of the 4-bit student's adapter on the teacher's answers, with TRL: answers in, a policy out.

Place in the flow: the teacher's answers → **policy**. Only the completions carry loss: the prompts' labels are masked
here, from the same token ids that the sampler's template makes. What it has in common with other trainers is in
`tuning`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import Field

from prefdistill.protocols import LearnsFrom, TrainingData
from prefdistill.records import Remedy
from prefdistill.trainers.answers import TokenAnswer, to_columns, to_items, tokenize_answers
from prefdistill.trainers.building import Algorithm
from prefdistill.trainers.independent import FirstStep, Items
from prefdistill.trainers.outcome import Job
from prefdistill.trainers.pairs import Tokenized
from prefdistill.trainers.tuning import OWN_KEYS, AdapterTrainer


class SFTTrainer(AdapterTrainer):
    """Trains LoRA adapters on the teacher's answers with TRL's SFTTrainer: output distillation, without pairs."""

    algorithm: ClassVar[Algorithm] = "sft"
    learns_from: ClassVar[LearnsFrom] = "answers"
    own_keys: ClassVar[Mapping[str, str]] = {
        **OWN_KEYS,
        **dict.fromkeys(("packing", "padding_free"), "the trainer: every answer is a row of its own"),
        **dict.fromkeys(
            ("completion_only_loss", "assistant_only_loss", "dataset_kwargs"),
            "the trainer: only the answers' tokens carry loss",
        ),
        **dict.fromkeys(("chat_template_path", "eos_token"), "student: the sampler's template is the trainer's"),
    }

    learning_rate: float = Field(default=1e-4, gt=0.0)
    """About 1e-4 for a real student; a tiny one trained from scratch wants about 1e-3."""

    @property
    def method(self) -> str:
        """What a model card says of a policy that it trained."""
        return "distillation (supervised fine-tuning on a teacher's answers)"

    def tokenize(self, data: TrainingData, tokenizer: Any, student: Any, context: int) -> Tokenized[TokenAnswer]:
        """Return the answers as tokens."""
        return tokenize_answers(data.answers, tokenizer, student, self.max_length, context)

    def columns(self, steps: Sequence[Sequence[TokenAnswer]]) -> dict[str, list[list[int]]]:
        """Return sequences and labels, the prompts' labels masked."""
        return to_columns(steps)

    def items(self, columns: Mapping[str, Sequence[Sequence[int]]]) -> list[Items]:
        """Return each row's answer: the tokens that carry loss, after those that do not."""
        return to_items(columns)

    def remedied(self, remedy: Remedy) -> Self | None:
        """Return this trainer with half the learning rate; the other remedies are about pairs."""
        if remedy != "halve_learning_rate":
            return None
        return self.model_copy(update={"learning_rate": self.learning_rate / 2})

    def first_step(self) -> FirstStep:
        """Return how the first step is compared: its loss is the completions' cross-entropy."""
        off = {}
        if self.lora.dropout:
            off["first_step"] = "dropout is on"
        elif changed := [key for key in ("loss_type", "label_smoothing_factor") if self.extra.get(key)]:
            off["first_step"] = f"train.extra.{changed[0]} changes its loss"
        return FirstStep(None, off)

    def own_options(self, job: Job) -> dict[str, Any]:
        """Return the options of TRL's SFTConfig that would change what is trained on."""
        return {"packing": False, "padding_free": False, "loss_type": "nll"}

    def prepare(self, trainer: Any, job: Job) -> None:
        """Switch the base model's dropout off, as DPO does; the adapter's is `lora.dropout`."""
        import torch

        for name, module in trainer.model.named_modules():
            if isinstance(module, torch.nn.Dropout) and "lora_dropout" not in name:
                module.p = 0.0
