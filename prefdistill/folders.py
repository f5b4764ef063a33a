"""How the folders of runs and comparisons are named, and how one is known for what it is."""

from __future__ import annotations

import shlex
from pathlib import Path

from prefdistill.errors import RunError, did_you_mean

COMPARISON = "comparison.json"
"""The file that makes a folder a comparison's."""
RUNS = Path("runs")
"""Where a run is that is given by its name."""


def run_folder(name: str) -> Path:
    """Return the folder of a run or a comparison given as a path, or as a name under ./runs.

    Raises:
        RunError: it is the name of a file here.
    """
    if Path(name).is_file():
        raise RunError(f"{name}: is a file; expected a run folder: a path, or a name under ./runs")
    return Path(name) if "/" in name or name.startswith(".") else RUNS / name


def as_argument(folder: Path) -> str:
    """Return a run folder as a command takes it: a bare name would be looked for under ./runs."""
    path = str(folder)
    return shlex.quote(path if "/" in path or path.startswith(".") else f"./{path}")


def no_run(folder: Path, found: str = "it holds no run (no manifest.json)", expected: str = "a run folder") -> RunError:
    """Return the error of a folder that is none of a run, with the run that may be meant as a command would name it.

    Args:
        folder: as `run_folder` made it of what was given.
        found: what is wrong with it where it is there.
        expected: what a command wanted.
    """
    found = found if folder.is_dir() else "no such folder"
    runs = sorted(folder.glob("*/seed-*/manifest.json"))
    if (folder / COMPARISON).is_file() and runs:
        return RunError(f"{folder}: is a comparison; expected {expected}: name a run of it, such as {runs[0].parent}")
    other = Path(folder.name) if folder.parent == RUNS else RUNS / folder.name
    if _is_run(other) and not (folder.exists() and other.samefile(folder)):
        near = f"; did you mean `{_named(other)}`?"
    else:
        beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
        near = did_you_mean(_named(folder), [_named(each) for each in beside if each != folder and _is_run(each)])
    return RunError(f"{folder}: {found}; expected {expected}: a path, or a name under ./runs{near}")


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("manifest.json", COMPARISON))


def _named(folder: Path) -> str:
    """Return a folder as a person would name it to a command."""
    return shlex.quote(folder.name) if folder.parent == RUNS else as_argument(folder)
