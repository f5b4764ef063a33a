"""Which artefacts of a run may be gone on with: each is claimed by fingerprint before work on it begins."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prefdistill.assembly import Workshop
from prefdistill.errors import RunError
from prefdistill.recipe import STAGES
from prefdistill.run import Fingerprints


def claim(shop: Workshop, folder: Path, name: str, stage: str, fingerprint: str, paths: Iterable[Path]) -> Fingerprints:
    """Make sure that what is stored as `name` was made from the same inputs, and note that work on it begins.

    Raises:
        RunError: it was made from others, and the user did not ask for it to be made again.
    """
    marks = Fingerprints(folder)
    stored = marks.of(name)
    if stored is not None:
        forced = shop.redo_from == stage and str(folder / name) not in shop.forced
        if forced or stored != fingerprint:
            allowed = shop.redo_from is not None and STAGES.index(stage) >= STAGES.index(shop.redo_from)
            if not (forced or allowed or shop.redone):
                raise RunError(stale(shop, folder, name, stage))
            shop.run.set_aside(paths)
            marks.forget([name])
            shop.redone = True
    shop.forced.add(str(folder / name))
    if not marks.done(name, fingerprint):
        marks.note(name, fingerprint, None)
    return marks


def stale(shop: Workshop, folder: Path, name: str, stage: str) -> str:
    """Return the message that names a stale artefact, the keys that differ, and what to do."""
    place = folder.relative_to(shop.run.path)
    keys = "; ".join(shop.changed) or "files it is made from changed (student, prompts, rubric or a plug-in's code)"
    return (
        f"{shop.run.path}: {place}/{name} was made with other settings: {keys}. It and everything made from it is "
        f"stale; undo the change, start a new run with --run NAME, or pass --redo-from {stage} (what is replaced is "
        "kept under replaced/)"
    )
