"""Training the 4-bit student's adapter with one of TRL's trainers: what all of them have in common here.

Place in the flow: inside `Trainer.train`. Every round builds a fresh model. The order matters and is asserted: TRL
casts a quantised model's adapters to bfloat16 when it is built, so they are cast back to float32 *before* the start
policy is loaded into them, and what is loaded is compared with its file. `dpo` and `sft` say what is trained on, and
what its first step should look like.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from prefdistill.errors import TrainError, did_you_mean
from prefdistill.plugins import Plugin
from prefdistill.protocols import LearnsFrom, RunContext, TrainingData
from prefdistill.records import Policy, TrainResult, digest
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
from prefdistill.trainers.building import TRL, Algorithm, build_trainer, compare_with_file, state_of
from prefdistill.trainers.checkpoints import claim_checkpoints, last_checkpoint
from prefdistill.trainers.gradients import require_gradients
from prefdistill.trainers.independent import Before, FirstStep, Items, measure_before, score, tokens_differing
from prefdistill.trainers.launching import Launch, Launched, check_launch, train_in_processes
from prefdistill.trainers.outcome import Job, Measured, to_result
from prefdistill.trainers.pairs import Tokenized, full_batches

log = logging.getLogger(__name__)

MICRO_BATCH = {"cpu": 8, "cuda": 8}
OWN_KEYS = {
    "output_dir": "the run folder",
    "seed": "the recipe's seed",
    "data_seed": "the recipe's seed",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.epochs",
    "per_device_train_batch_size": "train.micro_batch",
    "gradient_accumulation_steps": "train.batch_size",
    "lr_scheduler_type": "train.lr_scheduler",
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


class AdapterTrainer(Plugin):
    """Trains LoRA adapters with one of TRL's trainers."""

    operational: ClassVar[frozenset[str]] = frozenset({"micro_batch", "checkpoint_seconds", "report_to", "launch"})
    algorithm: ClassVar[Algorithm]
    learns_from: ClassVar[LearnsFrom] = "pairs"
    own_keys: ClassVar[Mapping[str, str]] = OWN_KEYS

    learning_rate: float = Field(default=1e-5, gt=0.0)
    """Size of a step."""
    epochs: int = Field(default=1, ge=1)
    """Passes over what a round trains on."""
    batch_size: int = Field(default=32, ge=1)
    """Pairs, or answers, an update."""
    micro_batch: int | Literal["auto"] = "auto"
    """Pairs, or answers, a forward pass; halved when memory runs out, with the same `batch_size`."""
    lora: Lora = Lora()
    max_length: int | Literal["auto"] = "auto"
    """Tokens of prompt and completion; auto is the longest that there is. What is cut is counted and reported."""
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
    """Further options of TRL's config, handed over as they are (not the seed or the output folder)."""

    _context: RunContext | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        for key in self.extra:
            if key in self.own_keys or key in type(self).model_fields:
                raise ValueError(
                    f"extra.{key}: set by {self.own_keys.get(key, f'train.{key}')}; take it out of `extra`"
                )
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
    def trl(self) -> Algorithm:
        """Which of TRL's trainers."""
        return self.algorithm

    @property
    def processes(self) -> int:
        """How many processes train."""
        return self.launch.processes if self.launch else 1

    @property
    def share(self) -> int:
        """Pairs, or answers, of a batch that one process trains."""
        return self.batch_size // self.processes

    def tokenize(self, data: TrainingData, tokenizer: Any, student: Any, context: int) -> Tokenized[Any]:
        """Return what is trained on as tokens, at most `context` of them together."""
        raise NotImplementedError

    def columns(self, steps: Sequence[Sequence[Any]]) -> dict[str, list[list[int]]]:
        """Return the steps' rows, one after the other, as TRL's columns of token ids."""
        raise NotImplementedError

    def items(self, columns: Mapping[str, Sequence[Sequence[int]]]) -> list[Items]:
        """Return the texts of each row of the columns, as TRL will train on them."""
        raise NotImplementedError

    def first_step(self) -> FirstStep:
        """Return how the first step is compared with an independent pass."""
        raise NotImplementedError

    def own_options(self, job: Job) -> dict[str, Any]:
        """Return the options of TRL's config that this algorithm alone has."""
        raise NotImplementedError

    def further(self) -> dict[str, Any]:
        """Return what TRL's trainer is built with beside the usual."""
        return {}

    def prepare(self, trainer: Any, job: Job) -> None:
        """Change the trainer before it trains; does nothing unless overridden."""

    def start_values(self, trainer: Any, job: Job, start: Before) -> dict[str, float]:
        """Return further diagnostics of the trainer that is about to train."""
        return {}

    def cautions(self, start: Before) -> tuple[str, ...]:
        """Return what a reader should know of what was measured before the first step."""
        return ()

    def assumed(self, data: TrainingData) -> tuple[str, float]:
        """Return the name of the loss, and the share of flipped labels that it assumes."""
        return self.algorithm, 0.0

    def mark(self, job: Job) -> list[Any]:
        """Return what a checkpoint depends on beside options, rows and policies."""
        return []

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
            import trl

            name = f"{TRL[self.trl]}Config"
            known = [each.name for each in fields(getattr(trl, name))]
            for key in self.extra:
                if key not in known:
                    raise TrainError(f"train.extra.{key}: TRL's {name} has no such option{did_you_mean(key, known)}")

    def train(self, data: TrainingData, start: Policy, reference: Policy, directory: Path, seed: int) -> TrainResult:
        """Train the adapter of a new policy in `directory`, from `start` and measured against `reference`.

        Writes the adapter, the tokenizer, train.json, metrics.jsonl and the ids of what was trained on. A training that
        was killed goes on from its last complete checkpoint and ends in the same bytes.

        Raises:
            TrainError: less than one batch, a start policy of another shape, or a guard that failed.
        """
        run, began = self._run, time.perf_counter()
        assert run.student is not None
        tokenizer = load_tokenizer(run.student)
        rows = self.tokenize(data, tokenizer, run.student, context_length(run.student))
        steps = full_batches(rows.rows, self.batch_size, self.epochs, seed, data.steps, self.learns_from)
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
                        f"train: one {self.learns_from[:-1]} of {rows.max_length} tokens does not fit into memory; lower "
                        "sample.max_new_tokens or train.max_length, or use a smaller student"
                    ) from None
            micro = divisor(self.share, micro // 2)
            log.warning(
                "training ran out of memory; starting again with micro-batches of %d %s", micro, self.learns_from
            )
            run.choices["micro_batch"] = micro
            free()

    @property
    def _run(self) -> RunContext:
        if self._context is None or self._context.student is None:
            raise TrainError(f"trainer {self.algorithm}: not opened with a student; call open(context) first")
        return self._context

    def _micro_batch(self) -> int:
        run = self._run
        assert run.student is not None
        kept = run.choices.get("micro_batch")
        wanted = MICRO_BATCH[device_of(run.student).type] if self.micro_batch == "auto" else self.micro_batch
        return divisor(self.share, min(int(kept), wanted) if kept else wanted)

    def _train(self, job: Job, micro: int) -> TrainResult:
        """Build, train, measure and write, with micro-batches of `micro` rows."""
        run, checkpoints = self._run, job.directory / "checkpoints"
        assert run.student is not None
        claim_checkpoints(checkpoints, self._fingerprint(job, micro))
        resume = last_checkpoint(checkpoints, self.processes)
        metrics = job.directory / "metrics.jsonl"
        metrics.unlink(missing_ok=True)
        base = load_base(run.student, for_training=True)
        start = measure_before(base, job, run.student, run.directory, self.first_step(), self.knows_base(job))
        trainer = build_trainer(
            base,
            self.columns(job.steps),
            job.tokenizer,
            lora_config(self.lora.r, self.lora.alpha, self.lora.dropout),
            self._options(job, micro, checkpoints),
            (job.start, job.reference),
            run.directory,
            (metrics, self.checkpoint_seconds, self._report),
            self.trl,
            self.further(),
        )
        model = trainer.model
        self.prepare(trainer, job)
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
            round=max(each.round for each in job.records),
        )
        result = to_result(job, Measured(history, before, after, start, new), policy, *self.assumed(job.data))
        result = result.model_copy(update={"warnings": (*result.warnings, *self.cautions(start))})
        run.choices["last_update"] = result.diagnostics.get("update_per_token")
        metrics.write_text("".join(json.dumps(entry) + "\n" for entry in history), encoding="utf-8")
        (job.directory / ids_file(self.learns_from)).write_text(
            "".join(f"{each}\n" for each in sorted(job.trained)), encoding="utf-8"
        )
        shutil.rmtree(checkpoints)
        (job.directory / "train.json").write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        del trainer, model, base
        free()
        return result

    def knows_base(self, job: Job) -> bool:
        """Whether the trainer will have scored its texts under the base before it trains."""
        return False

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
            first_tokens_differing=tokens_differing(
                start.texts, self.items(trainer.train_dataset[: len(job.steps[0])])
            ),
        )
        start.diagnostics.update(self.start_values(trainer, job, start))
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
            algorithm=self.algorithm,
        )
        train_in_processes(trainer, launched, resume)

    def _report(self, step: int, steps: int, logged: Mapping[str, float]) -> None:
        accuracy = logged.get("rewards/accuracies", logged.get("mean_token_accuracy", math.nan))
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
        rows = [[row.id, row.prompt_ids, *row.completions] for step in job.steps for row in step]
        student = weights_fingerprint(run.student)
        parts = [student, self.identity(), adapters, rows, job.seed, micro, torch.get_num_threads()]
        if self.launch and self.launch.starts_processes:
            parts.append(self.launch.mark)
        return digest([*parts, *self.mark(job)])

    def _options(self, job: Job, micro: int, checkpoints: Path) -> dict[str, Any]:
        """Return the options of TRL's config: every default of TRL that is unsafe in a loop is set."""
        run = self._run
        assert run.student is not None
        device, dtype = device_of(run.student), str(dtype_of(run.student))
        checkpointing = self.gradient_checkpointing
        return {
            **self.own_options(job),
            "learning_rate": self.learning_rate,
            "max_grad_norm": self.max_grad_norm,
            "warmup_steps": self.warmup_steps,
            # transformers' `constant` ignores warmup_steps without a word.
            "lr_scheduler_type": "constant_with_warmup"
            if self.lr_scheduler == "constant" and self.warmup_steps
            else self.lr_scheduler,
            "report_to": list(self.report_to) or "none",
            "gradient_checkpointing": device.type == "cuda" if checkpointing == "auto" else checkpointing,
            "max_length": None,  # what is too long is cut, and counted, before
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


def ids_file(learns_from: LearnsFrom) -> str:
    """Return the name of the file in a policy's folder that lists what was trained on."""
    return f"{learns_from[:-1]}_ids.txt"


def divisor(whole: int, wanted: int) -> int:
    """Return the largest divisor of `whole` that is at most `wanted`, at least 1."""
    return max(each for each in range(1, whole + 1) if whole % each == 0 and each <= max(1, wanted))
