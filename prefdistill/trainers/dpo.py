"""Direct preference optimisation of the 4-bit student's adapter, with TRL: pairs in, a policy out.

Place in the flow: preference pairs → **policy**. Every round builds a fresh model. The order matters and is asserted:
TRL casts a quantised model's adapters to bfloat16 when it is built, so they are cast back to float32 *before* the
start policy is loaded into them, and what is loaded is compared with its file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from prefdistill.errors import TrainError, did_you_mean
from prefdistill.plugins import Plugin
from prefdistill.protocols import RunContext, TrainingData
from prefdistill.records import Policy, Remedy, TrainResult, digest
from prefdistill.student import (
    adapter_path,
    context_length,
    device_of,
    dtype_of,
    free,
    is_out_of_memory,
    load_base,
    load_tokenizer,
    lora_config,
    quiet_libraries,
    save_adapter,
    weights_fingerprint,
)
from prefdistill.trainers.building import build_trainer, compare_with_file, fix_reference, state_of
from prefdistill.trainers.checkpoints import claim_checkpoints, last_checkpoint
from prefdistill.trainers.gradients import require_gradients
from prefdistill.trainers.independent import (
    Before,
    FirstStep,
    fresh_accuracy,
    measure_before,
    reference_sums,
    score,
    tokens_differing,
)
from prefdistill.trainers.launching import Launch, Launched, check_launch, train_in_processes
from prefdistill.trainers.outcome import Job, Measured, to_result
from prefdistill.trainers.pairs import full_batches, to_columns, tokenize_pairs

log = logging.getLogger(__name__)

MICRO_BATCH = {"cpu": 8, "cuda": 8}
SMOOTHED = ("robust", "exo_pair", "aot")
"""Losses that read `label_smoothing`; TRL ignores it silently for the others."""
MOST_SMOOTHING = 0.4
"""Most that a measured flip rate smooths: robust divides by 1 - 2 x, so a step is then five times as long."""
OWN_KEYS = {
    "output_dir": "the run folder",
    "seed": "the recipe's seed",
    "data_seed": "the recipe's seed",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.epochs",
    "per_device_train_batch_size": "train.micro_batch",
    "gradient_accumulation_steps": "train.batch_size",
    "loss_type": "train.loss",
    "loss_weights": "train.sft_weight",
    "lr_scheduler_type": "train.lr_scheduler",
    "precompute_ref_log_probs": "the reference, which is computed beside the policy",
}
"""Keys that `extra` may not set, and what sets them; so are all named fields."""


class Lora(BaseModel):
    """The adapter's shape."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    r: int = Field(default=16, ge=1)
    """Rank."""
    alpha: int = Field(default=32, ge=1)
    """The adapter's change is scaled by alpha / r."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Off in DPO unless `extra: {disable_dropout: false}`."""


class DPOTrainer(Plugin):
    """Trains LoRA adapters with TRL's DPOTrainer."""

    operational: ClassVar[frozenset[str]] = frozenset({"micro_batch", "checkpoint_seconds", "report_to", "launch"})

    beta: float = Field(default=0.1, gt=0.0)
    """How strongly the policy is held to the reference."""
    learning_rate: float = Field(default=1e-5, gt=0.0)
    """About 1e-5 for a real student; a tiny one trained from scratch wants 3e-4 to 5e-4."""
    epochs: int = Field(default=1, ge=1)
    """Passes over a round's pairs."""
    batch_size: int = Field(default=32, ge=1)
    """Pairs an update."""
    micro_batch: int | Literal["auto"] = "auto"
    """Pairs a forward pass; halved when memory runs out, with the same `batch_size`."""
    loss: Literal[
        "sigmoid", "sigmoid_norm", "sigmoid+sft", "ipo", "robust", "hinge", "exo_pair", "nca_pair", "bco_pair",
        "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop",
    ] = "sigmoid"  # fmt: skip
    """sigmoid is DPO; sigmoid_norm length-normalised; sigmoid+sft adds the chosen text's likelihood; rest: see TRL."""
    sft_weight: float = Field(default=1.0, gt=0.0)
    """Weight of the likelihood term of sigmoid+sft."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] | Literal["flip_rate"] = 0.0
    """Assumed share of flipped labels, for robust, exo_pair and aot; flip_rate (robust only): as the round measured."""
    lora: Lora = Lora()
    max_length: int | Literal["auto"] = "auto"
    """Tokens of prompt and completion; auto is the longest pair. What is cut is counted and reported."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Less memory, more time; auto is on for CUDA only."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    warmup_steps: int = Field(default=0, ge=0)
    lr_scheduler: str = "constant"
    """As in transformers; a decaying one starts anew each round."""
    report_to: tuple[str, ...] = ()
    """Trackers, as in transformers (wandb, tensorboard, …); they may send data elsewhere."""
    checkpoint_seconds: float = Field(default=30.0, ge=0.0)
    """Time between checkpoints; a training that is killed goes on from the last one."""
    launch: Launch | None = None
    """Train in several processes, such as `{processes: 2}`; `batch_size` stays what it is, all processes together."""
    extra: dict[str, Any] = {}
    """Further DPOConfig options, handed over as they are (not the seed or the output folder)."""

    _context: RunContext | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise ValueError(f"label_smoothing is ignored by the loss {self.loss}; use {' or '.join(SMOOTHED)}, or 0")
        if self.label_smoothing == "flip_rate" and self.loss != "robust":
            raise ValueError(f"label_smoothing: flip_rate goes with the loss robust; give {self.loss} a number")
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise ValueError("the loss exo_pair needs label_smoothing above 0, such as 0.001")
        for key in self.extra:
            if key in OWN_KEYS or key in type(self).model_fields:
                raise ValueError(f"extra.{key}: set by {OWN_KEYS.get(key, f'train.{key}')}; take it out of `extra`")
        if self.batch_size % self.processes:
            raise ValueError(
                f"launch.processes {self.processes} does not divide batch_size {self.batch_size}: a batch is shared by "
                "the processes equally"
            )
        if isinstance(self.micro_batch, int) and (self.micro_batch < 1 or self.share % self.micro_batch):
            whose = f"batch_size {self.batch_size}" + (f" / {self.processes} processes" if self.processes > 1 else "")
            raise ValueError(f"micro_batch {self.micro_batch} does not divide {whose}")
        return self

    @property
    def processes(self) -> int:
        """How many processes train."""
        return self.launch.processes if self.launch else 1

    @property
    def share(self) -> int:
        """Pairs of a batch that one process trains."""
        return self.batch_size // self.processes

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

    def open(self, context: RunContext) -> None:
        """Keep the run's student, folder and choices, and check `extra` before anything is sampled.

        Raises:
            TrainError: TRL knows no such option, or `launch` cannot start its processes.
        """
        self._context = context
        if self.launch and self.launch.starts_processes and context.student:
            check_launch(self.launch, context.student)
        if self.extra:
            quiet_libraries()
            from trl import DPOConfig

            known = [each.name for each in fields(DPOConfig)]
            for key in self.extra:
                if key not in known:
                    raise TrainError(f"train.extra.{key}: TRL's DPOConfig has no such option{did_you_mean(key, known)}")

    def train(self, data: TrainingData, start: Policy, reference: Policy, directory: Path, seed: int) -> TrainResult:
        """Train the adapter of a new policy in `directory`, from `start` and measured against `reference`.

        Writes the adapter, the tokenizer, train.json, metrics.jsonl and pair_ids.txt. A training that was killed goes
        on from its last complete checkpoint and ends in the same bytes.

        Raises:
            TrainError: fewer pairs than one batch, a start policy of another shape, or a guard that failed.
        """
        run, began = self._run, time.perf_counter()
        assert run.student is not None
        tokenizer = load_tokenizer(run.student)
        rows = tokenize_pairs(data.pairs, tokenizer, run.student, self.max_length, context_length(run.student))
        steps = full_batches(rows.rows, self.batch_size, self.epochs, seed)
        job = Job(data, rows, steps, start, reference, directory, seed, tokenizer, began)
        directory.mkdir(parents=True, exist_ok=True)
        micro = self._micro_batch()
        while True:
            try:
                return self._train(job, micro)
            except RuntimeError as problem:
                if not is_out_of_memory(problem):
                    raise
                if micro == 1:
                    raise TrainError(
                        f"train: one pair of {rows.max_length} tokens does not fit into memory; lower "
                        "sample.max_new_tokens or train.max_length, or use a smaller student"
                    ) from None
            micro = divisor(self.share, micro // 2)
            log.warning("training ran out of memory; starting again with micro-batches of %d pairs", micro)
            run.choices["micro_batch"] = micro
            free()

    @property
    def _run(self) -> RunContext:
        if self._context is None or self._context.student is None:
            raise TrainError("trainer dpo: not opened with a student; call open(context) first")
        return self._context

    def _micro_batch(self) -> int:
        run = self._run
        assert run.student is not None
        kept = run.choices.get("micro_batch")
        wanted = MICRO_BATCH[device_of(run.student).type] if self.micro_batch == "auto" else self.micro_batch
        return divisor(self.share, min(int(kept), wanted) if kept else wanted)

    def _train(self, job: Job, micro: int) -> TrainResult:
        """Build, train, measure and write, with micro-batches of `micro` pairs."""

        import torch

        run, checkpoints = self._run, job.directory / "checkpoints"
        assert run.student is not None
        claim_checkpoints(checkpoints, self._fingerprint(job, micro))
        resume = last_checkpoint(checkpoints, self.processes)
        metrics = job.directory / "metrics.jsonl"
        metrics.unlink(missing_ok=True)
        base = load_base(run.student, for_training=True)
        # The reference is fixed, so float32 scores it once; in 16 bit only the same batch has the same rounding, and
        # `ld_alpha` weighs single tokens: there TRL scores it in every step.
        fixed = dtype_of(run.student) == torch.float32 and "ld_alpha" not in self.extra
        how = FirstStep(self.beta, self._not_compared())
        base_known = fixed and job.reference.adapter is None  # `fix_reference` scores every pair under it
        start = measure_before(base, job, run.student, run.directory, how, base_known)
        trainer = build_trainer(
            base,
            to_columns(job.steps),
            job.tokenizer,
            lora_config(self.lora.r, self.lora.alpha, self.lora.dropout),
            self._options(job, micro, checkpoints),
            (job.start, job.reference),
            run.directory,
            (metrics, self.checkpoint_seconds, self._report),
        )
        model = trainer.model
        if fixed:
            fix_reference(trainer, job.reference)
        before = {name: value.detach().clone() for name, value in state_of(model).items()}
        self._check_start(trainer, job, start)
        self._optimise(trainer, job, resume)
        new = score(model, start.texts.tracked)
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        after = {name: value.detach() for name, value in state_of(model).items()}
        save_adapter(model, job.directory)
        job.tokenizer.save_pretrained(job.directory)
        policy = Policy(
            model=job.start.model,
            revision=job.start.revision,
            adapter=job.directory.resolve().relative_to(run.directory.resolve()).as_posix(),
            round=max(pair.round for pair in job.data.pairs),
        )
        smoothing = self.smoothing(job.data)
        result = to_result(job, Measured(history, before, after, start, new), policy, self.loss, smoothing)
        run.choices["last_update"] = result.diagnostics.get("update_per_token")
        metrics.write_text("".join(json.dumps(entry) + "\n" for entry in history), encoding="utf-8")
        (job.directory / "pair_ids.txt").write_text(
            "".join(f"{each}\n" for each in sorted(job.trained)), encoding="utf-8"
        )
        shutil.rmtree(checkpoints)
        (job.directory / "train.json").write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        del trainer, model, base
        free()
        return result

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

    def _check_start(self, trainer: Any, job: Job, start: Before) -> None:
        """Measure what is about to be trained, and refuse what would train silently wrong."""
        import torch

        run, model = self._run, trainer.model
        assert run.student is not None
        exact, equal, types = compare_with_file(model, job.start, run.directory)
        dtype, device = dtype_of(run.student), device_of(run.student)
        rounded = dtype != torch.float32 or self.extra.get("bf16") or self.extra.get("fp16")
        start.facts["adapter_dtype"] = types
        if self.launch and self.launch.starts_processes:
            start.facts["processes"] = f"{self.processes}, started by accelerate launch, their number compared"
        start.diagnostics.update(
            adapter_float32=exact,
            adapter_equal=equal,
            compute_bits=16.0 if rounded else 32.0,
            first_tokens_differing=tokens_differing(start.texts, trainer.train_dataset[: len(job.steps[0])]),
        )
        rows, over_base = trainer.train_dataset, job.start.adapter is not None and job.reference.adapter is None
        if over_base and "ref_chosen_logps" in rows.column_names:
            start.diagnostics["fresh_accuracy"] = fresh_accuracy(start, reference_sums(job, start, rows))
        if run.student.quantization == "nf4" and device.type == "cpu":
            start.diagnostics["gradient_ratio"] = require_gradients(model)
        else:
            start.facts["off/gradients"] = "only 4-bit layers on a CPU can lose theirs"

    def _optimise(self, trainer: Any, job: Job, resume: Path | None) -> None:
        """Train, here or in the processes of `launch`; the trainer is left the same."""
        shutil.rmtree(job.directory / "launch", ignore_errors=True)  # of an attempt that failed
        if self.launch is None or not self.launch.starts_processes:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
            return
        run, args = self._run, trainer.args
        assert run.student is not None
        self._run.progress("train", 0, len(job.steps), f"starting {self.launch.processes} processes")
        launched = Launched(
            launch=self.launch,
            student=run.student,
            policies=(job.start, job.reference),
            directory=run.directory,
            folder=job.directory,
            lora=(self.lora.r, self.lora.alpha, self.lora.dropout),
            options=self._options(job, args.per_device_train_batch_size, Path(args.output_dir).resolve()),
            watch=(job.directory / "metrics.jsonl", self.checkpoint_seconds, self._report),
        )
        train_in_processes(trainer, launched, resume)

    def _report(self, step: int, steps: int, logged: Mapping[str, float]) -> None:
        accuracy = logged.get("rewards/accuracies", math.nan)
        self._run.progress("train", step, steps, f"loss {logged['loss']:.4f} accuracy {accuracy:.2f}")

    def _fingerprint(self, job: Job, micro: int) -> str:
        """Return what a checkpoint must have been made from to be continued."""
        import torch

        run = self._run
        assert run.student is not None
        adapters = []
        for policy in (job.start, job.reference):
            path = adapter_path(policy, run.directory)
            file = path / "adapter_model.safetensors" if path else None
            adapters.append(hashlib.sha256(file.read_bytes()).hexdigest() if file else None)
        pairs = [[row.pair.id, row.prompt_ids, row.chosen_ids, row.rejected_ids] for step in job.steps for row in step]
        student = weights_fingerprint(run.student)
        parts = [student, self.identity(), adapters, pairs, job.seed, micro, torch.get_num_threads()]
        if self.launch and self.launch.starts_processes:
            parts.append(self.launch.mark)
        return digest([*parts, self.smoothing(job.data)] if self.uses_flip_rate else parts)

    def _options(self, job: Job, micro: int, checkpoints: Path) -> dict[str, Any]:
        """Return DPOConfig's options: every default of TRL that is unsafe in a loop is set."""
        run = self._run
        assert run.student is not None
        device, dtype = device_of(run.student), str(dtype_of(run.student))
        names = self.loss.split("+")
        checkpointing = self.gradient_checkpointing
        return {
            "beta": self.beta,
            "learning_rate": self.learning_rate,
            "loss_type": names,
            "loss_weights": [1.0, self.sft_weight][: len(names)],
            "label_smoothing": self.smoothing(job.data),
            "max_grad_norm": self.max_grad_norm,
            "warmup_steps": self.warmup_steps,
            # transformers' `constant` ignores warmup_steps without a word.
            "lr_scheduler_type": "constant_with_warmup"
            if self.lr_scheduler == "constant" and self.warmup_steps
            else self.lr_scheduler,
            "report_to": list(self.report_to) or "none",
            "gradient_checkpointing": device.type == "cuda" if checkpointing == "auto" else checkpointing,
            "max_length": None,  # pairs are cut, and counted, before
            "disable_dropout": True,
            "bf16": False,  # autocast moves log-probabilities by 0.002 a token; the base computes in its own type
            "fp16": dtype.endswith("float16") and "bfloat16" not in dtype and device.type == "cuda",
            "use_cpu": device.type == "cpu",
            "remove_unused_columns": True,
            "dataloader_pin_memory": device.type == "cuda",
            "logging_steps": 1,
            "logging_first_step": True,
            "logging_nan_inf_filter": False,  # it would print the loss before instead of the one that is no number
            "disable_tqdm": True,
            "log_level": "error",
            **self.extra,
            # All epochs are in the columns already, in order: one pass, every batch full.
            "train_sampling_strategy": "sequential",
            "num_train_epochs": 1,
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": self.share // micro,
            "save_strategy": "steps",
            "save_steps": len(job.steps) + 1,  # checkpoints are asked for by the clock instead
            "save_total_limit": 2,
            "output_dir": str(checkpoints),
            "seed": job.seed,
            "data_seed": job.seed,
        }


def divisor(whole: int, wanted: int) -> int:
    """Return the largest divisor of `whole` that is at most `wanted`, at least 1."""
    return max(each for each in range(1, whole + 1) if whole % each == 0 and each <= max(1, wanted))
