"""Direct preference optimisation of the 4-bit student's adapter, with TRL: pairs in, a policy out.

Place in the flow: preference pairs → **policy**. What it has in common with other trainers is in `tuning`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from prefdistill.protocols import TrainingData
from prefdistill.records import Remedy
from prefdistill.student import dtype_of
from prefdistill.trainers.building import Algorithm, fix_reference
from prefdistill.trainers.independent import Before, FirstStep, Items, fresh_accuracy, reference_sums
from prefdistill.trainers.outcome import Job
from prefdistill.trainers.pairs import Tokenized, TokenPair, to_columns, tokenize_pairs
from prefdistill.trainers.tuning import OWN_KEYS, AdapterTrainer

SMOOTHED = ("robust", "exo_pair", "aot")
"""Losses that read `label_smoothing`; TRL ignores it silently for the others."""
MOST_SMOOTHING = 0.4
"""Most that a measured flip rate smooths: robust divides by 1 - 2 x, so a step is then five times as long."""


class DPOTrainer(AdapterTrainer):
    """Trains LoRA adapters with TRL's DPOTrainer."""

    algorithm: ClassVar[Algorithm] = "dpo"
    method: ClassVar[str] = "preference distillation (DPO on pairs that a judge ranked against a rubric)"
    own_keys: ClassVar[Mapping[str, str]] = {
        **OWN_KEYS,
        "loss_type": "train.loss",
        "loss_weights": "train.sft_weight",
        "precompute_ref_log_probs": "the reference, which is computed beside the policy",
    }

    beta: float = Field(default=0.1, gt=0.0)
    """How strongly the policy is held to the reference."""
    learning_rate: float = Field(default=1e-5, gt=0.0)
    """About 1e-5 for a real student; a tiny one trained from scratch wants 3e-4 to 5e-4."""
    loss: Literal[
        "sigmoid", "sigmoid_norm", "sigmoid+sft", "ipo", "robust", "hinge", "exo_pair", "nca_pair", "bco_pair",
        "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop",
    ] = "sigmoid"  # fmt: skip
    """sigmoid is DPO; sigmoid_norm length-normalised; sigmoid+sft adds the chosen text's likelihood; rest: see TRL."""
    sft_weight: float = Field(default=1.0, gt=0.0)
    """Weight of the likelihood term of sigmoid+sft."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] | Literal["flip_rate"] = 0.0
    """Assumed share of flipped labels, for robust, exo_pair and aot; flip_rate (robust only): as the round measured."""

    @model_validator(mode="after")
    def _loss_and_smoothing_agree(self) -> Self:
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise ValueError(f"label_smoothing is ignored by the loss {self.loss}; use {' or '.join(SMOOTHED)}, or 0")
        if self.label_smoothing == "flip_rate" and self.loss != "robust":
            raise ValueError(f"label_smoothing: flip_rate goes with the loss robust; give {self.loss} a number")
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise ValueError("the loss exo_pair needs label_smoothing above 0, such as 0.001")
        return self

    @property
    def uses_flip_rate(self) -> bool:
        """Whether the policy depends on `TrainingData.flip_rate`."""
        return self.label_smoothing == "flip_rate"

    def smoothing(self, data: TrainingData) -> float:
        """Return the share of flipped labels that is assumed for these pairs."""
        if self.label_smoothing != "flip_rate":
            return self.label_smoothing
        return min(data.flip_rate or 0.0, MOST_SMOOTHING)

    def remedied(self, remedy: Remedy) -> Self | None:
        """Return this trainer with a remedy of `loop.remedy: auto`, None where its options do not admit it."""
        changes: dict[str, Any] = {"learning_rate": self.learning_rate / 2}
        if remedy != "halve_learning_rate":
            if self.loss != "sigmoid":
                return None
            changes = {"loss": "sigmoid+sft" if remedy == "add_sft" else "sigmoid_norm"}
        return self.model_copy(update=changes)

    def tokenize(self, data: TrainingData, tokenizer: Any, student: Any, context: int) -> Tokenized[TokenPair]:
        """Return the pairs as tokens."""
        return tokenize_pairs(data.pairs, tokenizer, student, self.max_length, context)

    def columns(self, steps: Sequence[Sequence[TokenPair]]) -> dict[str, list[list[int]]]:
        """Return prompts, chosen and rejected completions."""
        return to_columns(steps)

    def items(self, columns: Mapping[str, Sequence[Sequence[int]]]) -> list[Items]:
        """Return each row's chosen and rejected text."""
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        rows = zip(*(columns[name] for name in names), strict=True)
        return [((tuple(p), tuple(chosen)), (tuple(p), tuple(rejected))) for p, chosen, rejected in rows]

    def assumed(self, data: TrainingData) -> tuple[str, float]:
        """Return the name of the loss, and the share of flipped labels that it assumes."""
        return self.loss, self.smoothing(data)

    def first_step(self) -> FirstStep:
        """Return how the first step is compared: rewards and margin always, the loss where it is DPO's own."""
        return FirstStep(self.beta, self._not_compared())

    def knows_base(self, job: Job) -> bool:
        """Whether `prepare` scores every pair under the base."""
        return self._fixes_reference() and job.reference.adapter is None

    def prepare(self, trainer: Any, job: Job) -> None:
        """Score the reference once, where that gives the same loss as scoring it in every step."""
        if self._fixes_reference():
            fix_reference(trainer, job.reference)

    def _fixes_reference(self) -> bool:
        import torch

        # The reference is fixed, so float32 scores it once; in 16 bit only the same batch has the same rounding, and
        # `ld_alpha` weighs single tokens: there TRL scores it in every step.
        student = self._run.student
        assert student is not None
        return dtype_of(student) == torch.float32 and "ld_alpha" not in self.extra

    def start_values(self, trainer: Any, job: Job, start: Before) -> dict[str, float]:
        """Return how often the start policy predicts the new labels, where the base was scored for the reference."""
        rows, over_base = trainer.train_dataset, job.start.adapter is not None and job.reference.adapter is None
        if over_base and "ref_chosen_logps" in rows.column_names:
            return {"fresh_accuracy": fresh_accuracy(start, reference_sums(job, start, rows))}
        return {}

    def _not_compared(self) -> dict[str, str]:
        """Return why the first step cannot be compared with an independent pass, or its loss cannot, by name."""
        if self.extra.get("ld_alpha") is not None:
            return {"first_step": "train.extra.ld_alpha weighs single tokens"}
        if self.lora.dropout and self.extra.get("disable_dropout") is False:
            return {"first_step": "dropout is on"}
        if self.loss != "sigmoid":
            return {"first_loss": f"the loss is {self.loss}; rewards and margin are compared"}
        other = [key for key in ("use_weighting", "f_divergence_type") if self.extra.get(key)]
        return {"first_loss": f"train.extra.{other[0]} changes it"} if other else {}

    def mark(self, job: Job) -> list[Any]:
        """Return the flip rate that was measured, where the loss models it."""
        return [self.smoothing(job.data)] if self.uses_flip_rate else []

    def own_options(self, job: Job) -> dict[str, Any]:
        """Return DPO's own options."""
        names = self.loss.split("+")
        return {
            "beta": self.beta,
            "loss_type": names,
            "loss_weights": [1.0, self.sft_weight][: len(names)],
            "label_smoothing": self.smoothing(job.data),
            "disable_dropout": True,
        }
