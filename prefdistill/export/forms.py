"""Writing a policy: the adapter alone, merged into its base, or the merged weights in 4-bit again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from prefdistill.errors import RecipeError, RunError
from prefdistill.export.loading import SKIPPED, Format
from prefdistill.export.source import Source
from prefdistill.run import disk_errors, read_json, write_json
from prefdistill.sections import StudentSection
from prefdistill.student import (
    context_length,
    dtype_of,
    free,
    guard_cpu_gradients,
    is_out_of_memory,
    load_policy,
    load_tokenizer,
)

Base = Literal["dequantized", "original"]
QUANTIZED_KEY = "quantization_config"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a disk that is full or read-only into an error that names the folder, the weight writer's own too."""
    from safetensors import SafetensorError

    try:
        with disk_errors(path):
            yield
    except SafetensorError as problem:
        raise RunError(f"{path}: the weights cannot be written: {problem}; expected a folder with free space") from None


def stored_quantization(student: StudentSection) -> dict[str, Any] | None:
    """Return how the base's own files are quantised, None where they are not."""
    from transformers import AutoConfig

    found = getattr(AutoConfig.from_pretrained(student.source, revision=student.revision), QUANTIZED_KEY, None)
    return found if found is None or isinstance(found, dict) else dict(found.to_dict())


def choose_base(student: StudentSection, format: Format, wanted: Base | None) -> Base:
    """Return which base a policy is merged into.

    Merged weights keep the policy exactly in the dequantised base that it was trained on. In 4-bit again it is the
    other way round: those weights lie on the 4-bit grid already, so that a small change rounds away and what is left
    is the base; on the original weights it survives.

    Raises:
        RecipeError: the base has no such weights.
    """
    stored = stored_quantization(student)
    four_bit = student.quantization == "nf4" or stored is not None
    if stored is not None and not stored.get("load_in_4bit"):
        raise RecipeError(
            f"student.model: {student.model} is stored quantised ({stored.get('quant_method')}), which cannot be merged "
            "into; export with --format adapter"
        )
    if wanted == "original" and stored is not None:
        raise RecipeError(
            f"--base original: {student.model} is stored in 4-bit and has no other weights; export with --base dequantized"
        )
    if wanted == "dequantized" and not four_bit:
        raise RecipeError(
            "--base dequantized: the student was trained with `quantization: none`, so its base is the original one; "
            "leave --base out"
        )
    if wanted is not None:
        return wanted
    return "original" if not four_bit or (format == "nf4" and stored is None) else "dequantized"


def type_name(student: StudentSection, dtype: str | None = None) -> str:
    """Return the name of a type of weights; by default the type that the student computes in."""
    return str(dtype_of(student)).removeprefix("torch.") if dtype in (None, "auto") else str(dtype)


def write_adapter(source: Source, folder: Path, base: str, revision: str | None) -> None:
    """Copy the adapter, and name its base by what a reader can load."""
    with writing(folder):
        shutil.copyfile(source.adapter / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    config = read_json(source.adapter / "adapter_config.json")
    write_json(
        folder / "adapter_config.json",
        {**config, "base_model_name_or_path": base, "revision": revision},
    )


def merge(source: Source, base: Base, dtype: str, say: Callable[[str], None]) -> Any:
    """Return the policy as one dense model of type `dtype`, on the device that it was trained on if that has room."""
    import torch

    student = source.recipe.student
    if base == "original":
        # Everything is added up in float32 and rounded once.
        student = student.model_copy(update={"quantization": "none", "dtype": "float32"})
    try:
        return load_policy(student, source.policy, source.run.path, merged=getattr(torch, dtype))
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem) or student.device == "cpu" or not torch.cuda.is_available():
            raise
    say("the merged weights do not fit into the GPU's memory: merging on the CPU")
    free()
    on_cpu = student.model_copy(update={"device": "cpu", "dtype": type_name(student)})
    return load_policy(on_cpu, source.policy, source.run.path, merged=getattr(torch, dtype))


def write_merged(model: Any, folder: Path) -> None:
    """Write a dense model without a trace of quantisation."""
    for name in (QUANTIZED_KEY, "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)
    with writing(folder):
        model.save_pretrained(folder, safe_serialization=True)


def write_nf4(source: Source, dense: Path, folder: Path, dtype: str) -> None:
    """Quantise the dense model in `dense` to NF4, as the student is, and write it to `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    compute: torch.dtype = getattr(torch, dtype)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=list(SKIPPED),
    )
    device = "cuda" if torch.cuda.is_available() and source.recipe.student.device != "cpu" else "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        dense, dtype=compute, quantization_config=quantization, device_map={"": device}
    )
    guard_cpu_gradients(model)  # packed weights could not be saved
    with writing(folder):
        model.save_pretrained(folder, safe_serialization=True)
    del model
    free()


def write_tokenizer(source: Source, folder: Path, end_ids: Collection[int]) -> None:
    """Write the tokenizer with its chat template, and how the policy was decoded when it was evaluated."""
    from transformers import GenerationConfig

    tokenizer, evaluated = load_tokenizer(source.recipe.student), source.recipe.evaluate
    sampling: dict[str, Any] = {"do_sample": False}
    if evaluated.temperature > 0:
        sampling = {"do_sample": True, "temperature": evaluated.temperature, "top_p": evaluated.top_p, "top_k": 0}
    with writing(folder):
        tokenizer.save_pretrained(folder)
        GenerationConfig(
            eos_token_id=sorted(end_ids),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            **sampling,
        ).save_pretrained(folder)
    _cut_length(folder / "tokenizer_config.json", context_length(source.recipe.student))


def _cut_length(path: Path, limit: int) -> None:
    """Write a length limit that a reader's tokenizer understands, where the base's says "none" by a huge number."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_max_length", 0) > limit:
        write_json(path, {**config, "model_max_length": limit})
