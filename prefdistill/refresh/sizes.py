"""How large a student is and how fast it wrote: what a switch costs or saves."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from prefdistill.errors import PrefdistillError
from prefdistill.finished import FinishedRun
from prefdistill.records import Prompt
from prefdistill.run import Fingerprints
from prefdistill.stored import WEIGHTS

PACKED = ("U8", "I8")
"""Stored types that hold several weights each, or a part of one."""


@dataclass(frozen=True)
class Size:
    """One student; None where it is not known."""

    parameters: int | None
    weight_bytes: int | None
    """Of the base's weight files."""
    adapter_bytes: int | None
    """Of the kept policy's adapter; 0 where the base was kept."""
    prompt_tokens: float | None
    """Mean tokens of the test prompts, chat template included."""
    draft_tokens: float | None
    """Mean tokens of the kept student's test drafts."""
    seconds_a_draft: float | None
    """Writing the test drafts in batches, loading the model included, over their number."""
    machine: str
    """Where it wrote them: seconds of two machines cannot be compared."""


def size_of(run: FinishedRun, prompts: Iterable[Prompt]) -> Size:
    """Return how large a run's kept student is and how fast it wrote."""
    files = weight_files(run)
    kept = run.directory.path / "policy" / WEIGHTS
    drafts = [draft for draft in run.test["policy"].drafts.values() if draft.tokens is not None]
    return Size(
        parameters=parameters_of(files),
        weight_bytes=sum(path.stat().st_size for path in files) or None,
        adapter_bytes=kept.stat().st_size if kept.is_file() else (0 if run.kept == 0 else None),
        prompt_tokens=_prompt_tokens(run, prompts) if files else None,
        draft_tokens=fmean(draft.tokens or 0 for draft in drafts) if drafts else None,
        seconds_a_draft=_seconds(run),
        machine=_machine(run),
    )


def weight_files(run: FinishedRun) -> list[Path]:
    """Return the files of the base's weights, from its folder or the hub's cache on this machine."""
    student = run.recipe.student
    folder = Path(student.source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(student.source, revision=student.revision, local_files_only=True))
        except Exception:  # not there, not in the cache, or no such name: the hub's own kinds of errors
            return []
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def parameters_of(files: Iterable[Path]) -> int | None:
    """Return how many weights safetensors files hold, from their heads alone; None where that cannot be told."""
    total = 0
    for path in files:
        if path.suffix != ".safetensors":
            return None
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                head: dict[str, Any] = json.loads(file.read(length))
        except (OSError, ValueError, struct.error, MemoryError, OverflowError):
            return None
        tensors = [each for name, each in head.items() if name != "__metadata__"]
        if any(each["dtype"] in PACKED for each in tensors):
            return None
        total += sum(math.prod(each["shape"]) for each in tensors)
    return total or None


def _prompt_tokens(run: FinishedRun, prompts: Iterable[Prompt]) -> float | None:
    from prefdistill.student import load_tokenizer, render_prompt

    try:
        tokenizer = load_tokenizer(run.recipe.student)
    except PrefdistillError:  # the base is no longer there
        return None
    lengths = [len(render_prompt(tokenizer, each.messages, run.recipe.student)) for each in prompts]
    return fmean(lengths) if lengths else None


def _seconds(run: FinishedRun) -> float | None:
    folder, name = (run.directory.test(run.kept), "drafts")
    if run.kept == 0 and run.recipe.evaluate.best_of == 1:
        folder, name = run.directory.baselines, "base-test-drafts"
    marks = Fingerprints(folder)
    rows, seconds = marks.entries.get(name, {}).get("rows"), marks.seconds(name)
    return seconds / rows if rows and seconds else None


def _machine(run: FinishedRun) -> str:
    made = run.manifest
    where = made.get("machine", {})
    parts = (
        where.get("system"),
        where.get("processor"),
        where.get("cores"),
        made.get("cuda"),
        made.get("torch_threads"),
    )
    return ", ".join(str(each) for each in parts)
