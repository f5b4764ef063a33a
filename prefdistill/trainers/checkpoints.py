"""Checkpoints in the middle of a training: which one counts, and the mark of what it belongs to.

TRL writes checkpoints in place. One without `trainer_state.json` (written last) makes resuming die; one without
optimiser, scheduler or random states resumes quietly to another adapter. Neither counts here.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

NEEDED = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt")
"""Files without which a checkpoint would not continue the same training; random states beside them."""
MARK = "fingerprint.txt"


def claim_checkpoints(folder: Path, fingerprint: str) -> None:
    """Make `folder` hold checkpoints of the training `fingerprint` alone: others are removed."""
    mark = folder / MARK
    if folder.exists() and (not mark.is_file() or mark.read_text(encoding="utf-8") != fingerprint):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(fingerprint, encoding="utf-8")


def last_checkpoint(folder: Path, processes: int = 1) -> Path | None:
    """Return the newest complete checkpoint in `folder`, of a training in `processes` processes; others are removed."""
    numbered = [(int(path.name.rpartition("-")[2]), path) for path in folder.glob("checkpoint-[0-9]*")]
    for _, path in sorted(numbered, reverse=True):
        if is_complete(path, processes):
            return path
        shutil.rmtree(path)
    return None


def is_complete(checkpoint: Path, processes: int = 1) -> bool:
    """Return whether training can continue from a checkpoint exactly where it was."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if processes == 1:
        random_states = (checkpoint / "rng_state.pth").is_file()
    else:
        # Each process writes its own, some of them after `trainer_state.json`: one may be cut short. They are zip
        # archives, whose table of contents comes last.
        random_states = all(zipfile.is_zipfile(checkpoint / f"rng_state_{rank}.pth") for rank in range(processes))
    return "global_step" in state and random_states and all((checkpoint / name).is_file() for name in NEEDED)
