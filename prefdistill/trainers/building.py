"""A TRL trainer built so that it trains what it says: float32 adapters, the right start and the right reference."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from prefdistill.errors import TrainError
from prefdistill.records import Policy
from prefdistill.scoring import log_probs
from prefdistill.student import adapter_path, adapter_state, settle_imports

if TYPE_CHECKING:
    import torch

Report = Callable[[int, int, Mapping[str, float]], None]
"""Called as report(step, steps, logged numbers)."""


@lru_cache(maxsize=1)
def trainer_class() -> Any:
    """Return TRL's DPOTrainer, taking token ids as they are; imported late, since that takes seconds."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL sends a usage ping for every trainer otherwise
    import datasets
    import trl

    datasets.disable_progress_bars()
    settle_imports()

    class TokenTrainer(trl.DPOTrainer):
        """Trains on pairs that were tokenised by the sampler's own functions."""

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            with completions_only():
                return super().compute_loss(*args, **kwargs)

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


def build_trainer(
    model: Any,
    columns: Mapping[str, Sequence[Sequence[int]]],
    tokenizer: Any,
    config: Any,
    options: Mapping[str, Any],
    policies: tuple[Policy, Policy],
    directory: Path,
    watch: tuple[Path, float, Report],
) -> Any:
    """Build the trainer around a fresh base `model`, with `policies` (start, reference) loaded as float32 adapters.

    Args:
        model: the base, 4-bit or dense, without adapters.
        columns: token ids, see `pairs.to_columns`; taken in their order.
        tokenizer: the student's.
        config: a LoraConfig.
        options: DPOConfig's options.
        policies: the start policy, then the reference.
        directory: the run folder.
        watch: metrics file, seconds between checkpoints, and what is called after each step.

    Raises:
        TrainError: an adapter does not fit, or is not in the model as its file says.
    """
    import datasets
    import trl
    from peft import get_peft_model
    from transformers import PrinterCallback, ProgressCallback, set_seed

    start, reference = policies
    cls = trainer_class()
    try:
        args = trl.DPOConfig(**options)
    except (TypeError, ValueError) as problem:
        raise TrainError(f"train.extra: {problem}; see trl.DPOConfig for the options it takes") from None
    dataset = datasets.Dataset.from_dict(dict(columns))
    common = {"args": args, "train_dataset": dataset, "processing_class": tokenizer}
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
    if list(trainer.train_dataset["prompt_ids"][:1]) != [list(columns["prompt_ids"][0])]:
        raise TrainError("train: TRL changed the prompts' tokens; install the trl version of constraints.txt")
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

    Where TRL has no such switch, nothing is done, and it scores the reference itself.
    """
    import datasets

    if not hasattr(trainer, "precompute_ref_logps"):
        return
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
        TrainError: names, shapes or values differ.
    """
    import torch
    from peft import set_peft_model_state_dict

    path = adapter_path(policy, directory)
    if path is None:
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


def state_of(model: Any, adapter: str = "default") -> dict[str, torch.Tensor]:
    """Return an adapter's weights by the names that its file uses."""
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(model, adapter_name=adapter))
