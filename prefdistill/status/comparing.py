"""A comparison's status: how far each arm is with each seed, and the command that goes on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from prefdistill.errors import RunError
from prefdistill.folders import COMPARISON
from prefdistill.run import read_json
from prefdistill.status.reading import Status, is_worked_on, read_status


def is_comparison(folder: Path) -> bool:
    """Return whether a folder is a comparison's."""
    return (folder / COMPARISON).is_file()


def comparison_status(folder: Path) -> dict[str, Any]:
    """Return how far a comparison is: its runs by label and seed, and the command that goes on; it only reads files."""
    asked = read_json(folder / COMPARISON)
    labels, seeds = asked.get("labels", []), asked.get("seeds", [])
    runs = {label: {seed: _state(folder / label / f"seed-{seed}") for seed in seeds} for label in labels}
    done = all(each == "done" for states in runs.values() for each in states.values())
    return {
        "folder": str(folder),
        "name": asked.get("name"),
        "working": is_worked_on(folder),
        "runs": runs,
        "finished": done and "report" in asked,
        "headline": asked.get("result", {}).get("headline") if done else None,
        "command": _command(folder, asked),
    }


def show_comparison_status(found: dict[str, Any], console: Console) -> None:
    """Print a comparison's status."""
    work = ", another process is working in it" if found["working"] else ""
    console.print(f"{found['folder']}: {found['name']}, a comparison{work}", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("arm")
    for seed in next(iter(found["runs"].values()), {}):
        table.add_column(f"seed {seed}")
    for label, states in found["runs"].items():
        table.add_row(label, *states.values())
    if found["runs"]:
        console.print(table)
    if found["headline"]:
        console.print(found["headline"], markup=False, soft_wrap=True)
    if not found["finished"]:
        console.print(f"go on with: {found['command']}", markup=False, soft_wrap=True)


def _state(folder: Path) -> str:
    """Return how far one run is, in a word or two."""
    if not (folder / "manifest.json").is_file():
        return "not begun"
    try:
        status: Status = read_status(folder)
    except RunError as problem:
        return f"damaged: {problem}"
    if status.finished:
        return "done"
    done = sum(part.state == "done" for part in status.parts if part.name.startswith("round"))
    return f"{done} of {status.rounds} rounds"


def _command(folder: Path, asked: dict[str, Any]) -> str:
    """Return the command that a comparison was asked for with."""
    if "recipe" not in asked:
        return ""
    arms = [part for arm in asked.get("arms", []) for part in ("--arms", arm)]
    seeds = ",".join(map(str, asked.get("seeds", [])))
    words = ["prefdistill", "compare", asked["recipe"], *asked.get("overrides", []), *arms]
    return shlex.join([*words, "--seeds", seeds if "," in seeds else f"{seeds},", "--run", str(folder.resolve())])
