"""The student: tokenizer and template, 4-bit base and adapters, loaded with the guards that keep them right.

Place in the flow: sampler, trainer and evaluation all come here, so that one prompt has one list of tokens and one
policy has one set of weights. The guards: 4-bit layers on a CPU keep true gradients (`guard_cpu_gradients`),
`lm_head` is never quantised, adapters are float32, and a chat template must end a turn and leave the prompt alone.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefdistill.errors import PrefdistillError, RecipeError, TrainError
from prefdistill.records import Policy
from prefdistill.template import end_token_ids as end_token_ids
from prefdistill.template import prompt_completion_ids as prompt_completion_ids
from prefdistill.template import render_prompt as render_prompt
from prefdistill.template import turn_end_id
from prefdistill.traces import check_tags

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prefdistill.sections import StudentSection

STUDENT_FILES = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt")
"""Files of a model folder on which its drafts depend."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
"""Of which a tokenizer has at least one."""


@lru_cache(maxsize=1)
def quiet_libraries() -> None:
    """Keep the libraries' progress bars, notices and usage pings away from the user's screen; once a process."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # bitsandbytes looks for an optional inference kernel when it is imported, and complains when it is not there.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    # Renamed options warn between the libraries themselves, where no user can do anything about it.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|accelerate)\b")
    settle_imports()


def settle_imports() -> None:
    """Take what was imported so far out of garbage collection, which otherwise walks through it after every model."""
    gc.collect()
    gc.freeze()


def device_of(student: StudentSection) -> torch.device:
    """Return the device that the student runs on."""
    import torch

    available = torch.cuda.is_available()
    if student.device == "cuda" and not available:
        raise RecipeError("student.device: found cuda, but PyTorch sees no CUDA device; use cpu or auto")
    return torch.device("cuda" if available and student.device != "cpu" else "cpu")


def dtype_of(student: StudentSection) -> torch.dtype:
    """Return the compute type: what the recipe says, else float32 on a CPU and bfloat16 (or float16) on CUDA."""
    import torch

    if student.dtype != "auto":
        dtype: torch.dtype = getattr(torch, student.dtype)
        return dtype
    if device_of(student).type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _loading(student: StudentSection, problem: Exception) -> PrefdistillError:
    """Return the one clear error for a model that cannot be loaded."""
    folder = Path(student.source)
    if folder.is_dir():
        expected = "a folder with config.json, weights and tokenizer"
    else:
        expected = "a folder, or the id of a model on the hub that this machine can reach or has in its cache"
    reason = str(problem).strip().splitlines()
    revision = f" (revision {student.revision})" if student.revision else ""
    return RecipeError(
        f"student.model: {student.model}{revision} cannot be loaded"
        f"{': ' + reason[0] if folder.is_dir() and reason else ''}; expected {expected}"
    )


def _config(student: StudentSection) -> Any:
    from transformers import AutoConfig

    quiet_libraries()
    try:
        return AutoConfig.from_pretrained(student.source, revision=student.revision)
    except (OSError, ValueError) as problem:
        raise _loading(student, problem) from None


@lru_cache(maxsize=4)
def _tokenizer(source: str, revision: str | None) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, revision=revision)


def load_tokenizer(student: StudentSection) -> PreTrainedTokenizerBase:
    """Load the tokenizer, with a pad token and a chat template that was tried out.

    Raises:
        RecipeError: the model does not exist or has no tokenizer.
        TrainError: there is no chat template, its assistant turn does not end in an end token, or it renders a prompt
            in another way when the answer is there (it opens or inserts a thinking block, say).
    """
    _config(student)
    try:
        tokenizer = _tokenizer(student.source, student.revision)
    except (OSError, ValueError) as problem:
        raise _loading(student, problem) from None
    if not tokenizer.chat_template:
        raise TrainError(
            f"student.model: {student.model} has no chat template; use an instruct model, or put a chat_template.jinja "
            "whose assistant turn ends in the end token into its folder"
        )
    if tokenizer.eos_token_id is None:
        raise TrainError(f"student.model: {student.model} has no end token; set eos_token in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    turn_end_id(tokenizer, student)
    return tokenizer


def on_this_machine(student: StudentSection) -> StudentSection | None:
    """Return the student read from a folder: its own, or the hub's cache; None where files would have to be fetched.

    Only configuration and tokenizer count: the weights need not be there.
    """
    if Path(student.source).is_dir():
        return student
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(student.source, "config.json", revision=student.revision)
    except HFValidationError:
        return None
    folder = Path(config).parent if isinstance(config, str) else None
    if folder is None or not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    found = student.model_copy()
    found._source = str(folder)
    return found


def check_trace_tags(student: StudentSection) -> str:
    """Check that the student's tokenizer takes the tags around its reasoning; return what a user should know of them.

    Raises:
        RecipeError: it does not; with tags that it does take.
    """
    try:
        return check_tags(load_tokenizer(student), student.tags, student.model)
    except ValueError as problem:
        raise RecipeError(str(problem)) from None


def context_length(student: StudentSection) -> int:
    """Return the largest number of tokens, prompt and completion together, that the student can hold."""
    limits = [getattr(_config(student).get_text_config(), "max_position_embeddings", None) or 1 << 30]
    tokenizer_limit = getattr(load_tokenizer(student), "model_max_length", 1 << 30)
    return int(min(*limits, tokenizer_limit))


@lru_cache(maxsize=8)
def _hash_folder(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    hashed = hashlib.sha256()
    for name, _, _ in stamps:
        with (folder / name).open("rb") as file:
            hashed.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return hashed.hexdigest()[:16]


def weights_fingerprint(student: StudentSection) -> str:
    """Return what identifies the student's files: a hash of a folder's content, or the hub revision."""
    folder = Path(student.source)
    if folder.is_dir():
        files = sorted({file for pattern in STUDENT_FILES for file in folder.glob(pattern)})
        stamps = tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        return _hash_folder(folder.resolve(), stamps)
    commit = getattr(_config(student), "_commit_hash", None)
    return str(commit or student.revision or student.source)


def guard_cpu_gradients(model: torch.nn.Module) -> None:
    """Keep 4-bit layers from repacking their weights for inference on CPUs with AVX512-BF16.

    A layer that was once called in eval mode without gradients would be repacked in place, and a later training step
    would go through a kernel that has no autograd: the loss is right and the gradients are silently wrong.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def load_base(student: StudentSection, for_training: bool = False) -> PreTrainedModel:
    """Load the base, quantised as the recipe says; in training mode only `for_training`.

    Raises:
        RecipeError: the model does not exist or cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quiet_libraries()
    config, dtype, device = _config(student), dtype_of(student), device_of(student)
    # By number: in one of several processes `cuda` alone would not be recognised as its own device.
    place = torch.cuda.current_device() if device.type == "cuda" else device
    options: dict[str, Any] = {"revision": student.revision, "dtype": dtype, "device_map": {"": place}}
    if student.attn_implementation:
        options["attn_implementation"] = student.attn_implementation
    if student.quantization == "nf4" and getattr(config, "quantization_config", None) is None:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            # DPO needs log-probabilities, which go through the head's own weight: it stays as it is.
            llm_int8_skip_modules=["lm_head", "embed_out"],
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(student.source, **options)
    except (OSError, ValueError) as problem:
        raise _loading(student, problem) from None
    head = model.get_output_embeddings()
    if head is not None and type(head).__name__ == "Linear4bit":
        raise TrainError(f"student.model: the output layer of {student.model} is quantised; use an unquantised model")
    if student.quantization == "nf4":
        guard_cpu_gradients(model)
    model.requires_grad_(False)
    model.train(for_training)
    if not for_training:
        model.config.use_cache = True
    return model


def adapter_path(policy: Policy, directory: Path) -> Path | None:
    """Return the policy's adapter folder, or None for the base.

    Raises:
        TrainError: the folder holds no adapter.
    """
    if policy.adapter is None:
        return None
    path = directory / policy.adapter
    if not (path / "adapter_model.safetensors").is_file():
        raise TrainError(f"{path}: no adapter of round {policy.round} (adapter_model.safetensors); train it again")
    return path


def load_policy(student: StudentSection, policy: Policy, directory: Path, merged: torch.dtype | None = None) -> Any:
    """Load a policy in eval mode: base with adapter, or one dense copy of type `merged` with the adapter in it.

    The dense copy holds the *dequantised* 4-bit weights plus the adapter's change, so in float32 it is the model that
    is trained, at several times its speed and eight times its memory.
    """
    import torch

    model: Any = load_base(student)
    path = adapter_path(policy, directory)
    if merged is not None and getattr(model, "is_loaded_in_4bit", False):
        model = model.dequantize(dtype=torch.float32)
    if merged is not None:
        model = model.float()
    if path is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(path), is_trainable=False)
        if merged is not None:
            model = model.merge_and_unload()
    if merged is not None:
        model = model.to(merged)
    model.requires_grad_(False)
    model.config.use_cache = True
    model.eval()
    return model


def lora_config(r: int, alpha: int, dropout: float) -> LoraConfig:
    """Return LoRA on every linear layer but the output layer."""
    from peft import LoraConfig

    return LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")


def adapter_state(path: Path) -> dict[str, torch.Tensor]:
    """Read an adapter folder's weights by name, as they are stored."""
    from safetensors.torch import load_file

    return load_file(path / "adapter_model.safetensors")


def save_adapter(model: Any, path: Path) -> None:
    """Write the adapter `default`, and it alone, into the folder `path`."""
    model.save_pretrained(path, selected_adapters=["default"], safe_serialization=True)
    (path / "README.md").unlink(missing_ok=True)  # the library's model card knows nothing about this run


def adapter_moved(start: Path | Mapping[str, torch.Tensor], end: Path | Mapping[str, torch.Tensor]) -> float:
    """Return the share of adapter entries, 0 to 1, that differ between two adapters (folders or states)."""
    before = adapter_state(start) if isinstance(start, Path) else start
    after = adapter_state(end) if isinstance(end, Path) else end
    total = sum(tensor.numel() for tensor in after.values())
    moved = sum(
        tensor.numel() if name not in before else int((before[name].float() != tensor.float()).sum())
        for name, tensor in after.items()
    )
    return moved / total if total else 0.0


def is_out_of_memory(problem: BaseException) -> bool:
    """Return whether an error is a device's or the CPU allocator's lack of memory."""
    text = str(problem).lower()
    return "out of memory" in text or "can't allocate memory" in text or "cannot allocate memory" in text


def free() -> None:
    """Give back the memory of models that are no longer used."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
