"""A TRL trainer built so that it trains what it says: float32 adapters, the right start and the right reference."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

from prefdistill.errors import TrainError
from prefdistill.records import Policy
from prefdistill.scoring import log_probs
from prefdistill.student import adapter_path, adapter_state, settle_imports

if TYPE_CHECKING:
    import torch

Report = Callable[[int, int, Mapping[str, float]], None]
"""Called as report(step, steps, logged numbers)."""


Algorithm = Literal["dpo", "sft", "logits", "distillation"]
"""What is trained: pairs, texts, texts with a teacher's distribution on them, or that on the student's own texts."""
TRL: Mapping[Algorithm, str] = {"dpo": "DPO", "sft": "SFT", "logits": "SFT", "distillation": "Distillation"}
"""Which of TRL's trainers does it: the beginning of their names, and of their configs'."""


@lru_cache(maxsize=4)
def trainer_class(algorithm: Algorithm = "dpo") -> Any:
    """Return one of TRL's trainers, taking token ids as they are; imported late, since that takes seconds."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL sends a usage ping for every trainer otherwise
    import datasets
    import trl

    datasets.disable_progress_bars()
    settle_imports()

    plain: Any = getattr(trl, f"{TRL[algorithm]}Trainer")

    class TokenTrainer(plain):
        """Trains on what was tokenised by the sampler's own functions."""

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            with completions_only():
                return super().compute_loss(*args, **kwargs)

    if algorithm == "logits":
        from prefdistill.trainers.logits_loss import with_soft_labels

        return with_soft_labels(TokenTrainer)
    if algorithm == "distillation":
        from prefdistill.trainers.logits_own import with_own_texts

        return with_own_texts(TokenTrainer)
    return TokenTrainer


@contextmanager
def completions_only() -> Iterator[None]:
    """Have TRL's output layer compute completion tokens only.

    Off CUDA it computes those of prompt and padding too, and throws them away: the same loss for up to twice the work
    in the output layer. The switch is the function by which it asks for a CUDA device; where a version of TRL has
    none, nothing is changed.
    """
    from trl.trainer import utils

    if hasattr(utils, "_use_triton"):
        with mock.patch.object(utils, "_use_triton", return_value=True):
            yield
    else:
        yield


@lru_cache(maxsize=1)
def _callback_class() -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Reports every step, writes it to metrics.jsonl at once, and asks for a checkpoint now and then."""

        def __init__(self, metrics: Path, checkpoint_seconds: float, report: Report) -> None:
            self.metrics, self.report = metrics, report
            self.seconds, self.saved = checkpoint_seconds, time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                require_finite(state.global_step, logs, args)
                with self.metrics.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
                self.report(state.global_step, state.max_steps, logs)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            due = time.monotonic() - self.saved >= self.seconds
            # Not after the last step, where the Trainer would save one that is removed at once.
            control.should_save = due and state.global_step < state.max_steps

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.saved = time.monotonic()

    return Watch


def require_finite(step: int, logs: Mapping[str, float], args: Any) -> None:
    """Stop a training that has run away, before a checkpoint of it is written.

    Raises:
        TrainError: loss or gradient are infinite or no number.
    """
    # float16 looks for its loss scale by gradients that overflow: there the loss alone tells.
    names = ("loss",) if args.fp16 else ("loss", "grad_norm")
    for name in names:
        value = float(logs.get(name, 0.0))
        if not math.isfinite(value):
            raise TrainError(
                f"train: {name} is {value} at step {step}, expected a finite number: the training ran away; lower "
                f"train.learning_rate ({args.learning_rate:g}), or raise train.beta"
            )


def build_trainer(
    model: Any,
    columns: Mapping[str, Sequence[Sequence[int]]],
    tokenizer: Any,
    config: Any,
    options: Mapping[str, Any],
    policies: tuple[Policy, Policy],
    directory: Path,
    watch: tuple[Path, float, Report],
    algorithm: Algorithm = "dpo",
    further: Mapping[str, Any] | None = None,
) -> Any:
    """Build the trainer around a fresh base `model`, with `policies` (start, reference) loaded as float32 adapters.

    Args:
        model: the base, 4-bit or dense, without adapters.
        columns: token ids, see `pairs.to_columns` and `answers.to_columns`; taken in their order.
        tokenizer: the student's.
        config: a LoraConfig.
        options: those of TRL's config.
        policies: the start policy, then the reference.
        directory: the run folder.
        watch: metrics file, seconds between checkpoints, and what is called after each step.
        algorithm: all but `dpo` measure against no reference.
        further: what else the trainer takes.

    Raises:
        TrainError: an adapter does not fit, or is not in the model as its file says.
    """
    import datasets
    import trl
    from peft import get_peft_model
    from transformers import PrinterCallback, ProgressCallback, set_seed

    start, reference = policies
    cls, config_name = trainer_class(algorithm), f"{TRL[algorithm]}Config"
    try:
        args = getattr(trl, config_name)(**options)
    except (TypeError, ValueError) as problem:
        raise TrainError(f"train.extra: {problem}; see trl.{config_name} for the options it takes") from None
    dataset = datasets.Dataset.from_dict(dict(columns))
    common = {"args": args, "train_dataset": dataset, "processing_class": tokenizer}
    common |= further or {}
    if algorithm != "dpo":
        reference = Policy(model=start.model)  # nothing is loaded for it
    if reference.adapter is None:
        # The reference is the model with its adapter switched off: the base.
        trainer = cls(model=model, peft_config=config, **common)
    else:
        # Given a PeftModel, TRL measures against an adapter named `ref`, which gets the reference's weights below.
        set_seed(args.seed)
        trainer = cls(model=get_peft_model(model, config), **common)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(_callback_class()(*watch))
    name = next(iter(columns))
    if list(trainer.train_dataset[name][:1]) != [list(columns[name][0])]:
        raise TrainError("train: TRL changed the tokens; install the trl version of constraints.txt")
    load_adapters(trainer.model, start, reference, directory)
    return trainer


def load_adapters(model: Any, start: Policy, reference: Policy, directory: Path) -> None:
    """Make the model's adapters float32 and put the start policy into `default` and the reference into `ref`.

    Casting comes first: weights loaded into bfloat16 adapters would be rounded, all of them.
    """
    cast_adapters(model)
    load_into(model, "default", start, directory)
    if reference.adapter is not None:
        load_into(model, "ref", reference, directory)
    _train_default_only(model)


def _train_default_only(model: Any) -> None:
    model.set_adapter("default")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name and ".default." in name)


def fix_reference(trainer: Any, reference: Policy) -> None:
    """Score every pair once under the reference and hand the sums to the trainer, instead of in every step.

    Where TRL has no such switch, the sums stand in its data set all the same, and it scores the reference itself.
    """
    import datasets

    model, columns = trainer.model, trainer.train_dataset.to_dict()
    items = {
        (tuple(prompt), tuple(completion))
        for name in ("chosen_ids", "rejected_ids")
        for prompt, completion in zip(columns["prompt_ids"], columns[name], strict=True)
    }
    ordered = sorted(items)
    model.eval()
    if reference.adapter is None:
        with model.disable_adapter():
            sums = log_probs(model, ordered)
    else:
        model.set_adapter("ref")
        sums = log_probs(model, ordered)
    model.train()
    _train_default_only(model)
    known = {item: value for item, (value, _) in zip(ordered, sums, strict=True)}
    for name in ("chosen", "rejected"):
        columns[f"ref_{name}_logps"] = [
            known[tuple(prompt), tuple(completion)]
            for prompt, completion in zip(columns["prompt_ids"], columns[f"{name}_ids"], strict=True)
        ]
    trainer.train_dataset = datasets.Dataset.from_dict(columns)
    if hasattr(trainer, "precompute_ref_logps"):
        trainer.precompute_ref_logps = True


def cast_adapters(model: Any) -> None:
    """Make every adapter weight float32; TRL left those of a quantised model in bfloat16."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()


def load_into(model: Any, adapter: str, policy: Policy, directory: Path) -> None:
    """Load a policy's adapter into the one named `adapter`, and compare every weight with the file.

    The base has no file: there the fresh adapter must do nothing (its B matrices are zero).

    Raises:
        TrainError: names, shapes, types or values differ.
    """
    import torch
    from peft import set_peft_model_state_dict

    path = adapter_path(policy, directory)
    if path is None:
        types = {str(value.dtype).removeprefix("torch.") for value in state_of(model, adapter).values()}
        if types != {"float32"}:
            raise TrainError(
                f"train: the fresh adapter is {', '.join(sorted(types))}, expected float32: steps of a usual "
                "train.learning_rate round away in it, so the policy would stop learning while the loss is still "
                "printed. Adapters must be cast to float32 before the start policy is loaded into them"
            )
        lora_b = [value for name, value in state_of(model, adapter).items() if "lora_B" in name]
        if any(bool(value.any()) for value in lora_b):
            raise TrainError("train: the fresh adapter changes the base; expected its B matrices to be zero")
        return
    stored = adapter_state(path)
    before = state_of(model, adapter)
    if {name: value.shape for name, value in before.items()} != {name: value.shape for name, value in stored.items()}:
        raise TrainError(
            f"{path}: the adapter has another shape than train.lora asks for; keep train.lora as it was in the round "
            "before, or set loop.start_from: base"
        )
    set_peft_model_state_dict(model, dict(stored), adapter_name=adapter)
    differing = [
        name
        for name, value in state_of(model, adapter).items()
        if value.dtype != torch.float32 or not torch.equal(value.cpu(), stored[name].float())
    ]
    if differing:
        raise TrainError(
            f"{path}: {len(differing)} of {len(stored)} adapter weights were rounded while loading ({differing[0]}); "
            "the policy would not be the saved one. Adapters must be float32 before they are loaded"
        )


def compare_with_file(model: Any, policy: Policy, directory: Path) -> tuple[float, float, str]:
    """Return what the trained adapter is made of, just before it is trained.

    Returns:
        The share of its weights that are float32, the share that equal the policy's file (for the base, of the B
        matrices that are zero), and its types by name.
    """
    import torch

    state, path = state_of(model), adapter_path(policy, directory)
    if path is None:
        held = [(value, torch.zeros_like(value)) for name, value in state.items() if "lora_B" in name]
    else:
        stored = adapter_state(path)
        held = [(value, stored[name]) for name, value in state.items()]
    equal = sum(int((value.float().cpu() == other.float().cpu()).sum()) for value, other in held)
    exact = sum(value.numel() for value in state.values() if value.dtype == torch.float32)
    types = sorted({str(value.dtype).removeprefix("torch.") for value in state.values()})
    whole = sum(value.numel() for value in state.values())
    return exact / whole, equal / sum(value.numel() for value, _ in held), ", ".join(types)


def state_of(model: Any, adapter: str = "default") -> dict[str, torch.Tensor]:
    """Return an adapter's weights by the names that its file uses."""
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(model, adapter_name=adapter))
