"""Checkpoints in the middle of a training: which one counts, and the mark of what it belongs to.

TRL writes checkpoints in place. One without `trainer_state.json` (written last) makes resuming die; one without
optimiser, scheduler or random states resumes quietly to another adapter. Neither counts here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

NEEDED = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
"""Files without which a checkpoint would not continue the same training."""
MARK = "fingerprint.txt"


def claim_checkpoints(folder: Path, fingerprint: str) -> None:
    """Make `folder` hold checkpoints of the training `fingerprint` alone: others are removed."""
    mark = folder / MARK
    if folder.exists() and (not mark.is_file() or mark.read_text(encoding="utf-8") != fingerprint):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(fingerprint, encoding="utf-8")


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in `folder`; incomplete ones are removed."""
    numbered = [(int(path.name.rpartition("-")[2]), path) for path in folder.glob("checkpoint-[0-9]*")]
    for _, path in sorted(numbered, reverse=True):
        if is_complete(path):
            return path
        shutil.rmtree(path)
    return None


def is_complete(checkpoint: Path) -> bool:
    """Return whether training can continue from a checkpoint exactly where it was."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return "global_step" in state and all((checkpoint / name).is_file() for name in NEEDED)
