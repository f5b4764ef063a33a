"""How the folders of runs and comparisons are named, and how one is known for what it is."""

from __future__ import annotations

from pathlib import Path

from prefdistill.errors import RunError

COMPARISON = "comparison.json"
"""The file that makes a folder a comparison's."""


def run_folder(name: str) -> Path:
    """Return the folder of a run or a comparison given as a path, or as a name under ./runs.

    Raises:
        RunError: it is the name of a file here.
    """
    if Path(name).is_file():
        raise RunError(f"{name}: is a file; expected a run folder: a path, or a name under ./runs")
    return Path(name) if "/" in name or name.startswith(".") else Path("runs") / name
