"""Comparisons: each of their runs holds a prompt's texts, and their own report shows them."""

from __future__ import annotations

from pathlib import Path

from prefdistill.compare.writing import is_finished, render_again
from prefdistill.folders import COMPARISON, as_argument


def runs_of(folder: Path) -> list[Path]:
    """Return the run folders of a comparison, or the one folder that was named."""
    if not (folder / COMPARISON).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob("*/seed-*/prompts.jsonl"))


def comparison_of(folder: Path) -> Path | None:
    """Return the comparison that a run folder belongs to, or the folder itself where it is one."""
    return next((each for each in (folder, folder.parent.parent) if (each / COMPARISON).is_file()), None)


def finish_comparison(folder: Path, prompt_id: str) -> list[str]:
    """Render the report of the comparison that a run belongs to again; return what is left to do there."""
    comparison = comparison_of(folder)
    if comparison is None:
        return []
    if is_finished(comparison):
        render_again(comparison)
    others = [each for each in runs_of(comparison) if each.resolve() != folder.resolve()]
    if comparison == folder or not others:
        return []
    return [
        f"the comparison's {len(others)} other runs hold the prompt too: "
        f"`prefdistill forget {prompt_id} --run {as_argument(comparison)}` removes it from all of them"
    ]
