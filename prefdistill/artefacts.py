"""Which artefacts of a run may be gone on with: each is claimed by fingerprint before work on it begins."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from prefdistill.assembly import Workshop
from prefdistill.errors import RunError
from prefdistill.recipe import STAGES
from prefdistill.run import Fingerprints, RunDirectory, disk_errors, read_json


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
            here = (round_of(folder), STAGES.index(stage))
            allowed = shop.redo_from is not None and here[1] >= STAGES.index(shop.redo_from)
            follows = shop.redone is not None and here > shop.redone
            if not (forced or allowed or follows):
                raise RunError(stale(shop, folder, name, stage))
            shop.run.set_aside(paths)
            marks.forget([name])
            if stage == "sample":
                shop.context.choices.clear()
                marks.reopen("policy")  # else a kill halfway would leave a round that looks settled
            if stage != "evaluate":
                shop.redone = min(shop.redone or here, here)
    shop.forced.add(str(folder / name))
    if not marks.done(name, fingerprint):
        marks.note(name, fingerprint, None)
    return marks


def adopt(
    shop: Workshop,
    folder: Path,
    name: str,
    fingerprint: str,
    paths: Iterable[Path],
    alike: Callable[[RunDirectory], Iterable[str]] = lambda sibling: (),
) -> bool:
    """Copy what a sibling run finished as `name` from the same inputs; False where this run has its own, or none has it.

    The time it took is copied too, so that an arm's time is what the arm would take alone.

    Args:
        folder: this run's folder of the artefact; the sibling's has the same place.
        paths: the artefact's files and folders, in this run.
        alike: further fingerprints under which a sibling's is the same.
    """
    marks, place = Fingerprints(folder), folder.relative_to(shop.run.path)
    if marks.of(name) is not None:
        return False
    for sibling in shop.siblings:
        theirs = Fingerprints(sibling.path / place)
        if not any(theirs.done(name, each) for each in (fingerprint, *alike(sibling))):
            continue
        for path in paths:
            _copy(sibling.path / path.relative_to(shop.run.path), path)
        theirs_made = read_json(sibling.manifest)
        if theirs_made["recipe"]["student"] == shop.recipe.resolved()["student"]:  # else they fit another model
            for key, value in theirs_made["choices"].items():
                shop.context.choices.setdefault(key, value)
        marks.note(name, fingerprint, theirs.entries[name]["rows"], theirs.seconds(name))
        return True
    return False


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a folder, whole or not at all."""
    temporary = target.with_name(f".{target.name}.tmp")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        if source.is_dir():
            shutil.copytree(source, temporary)
            shutil.rmtree(target, ignore_errors=True)
        else:
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)


FIRST_FILE = {"sample": 1, "judge": 2, "train": 3, "evaluate": 6}
"""Stage to the number with which the files of a round that it makes begin; files of later stages have higher ones."""
KEPT = {
    "sample": (),
    "judge": ("drafts",),
    "train": ("drafts", "verdicts", "verdicts-checks"),
    "evaluate": ("drafts", "verdicts", "verdicts-checks", "policy"),
}
"""Stage to the artefacts of a round that are there before it."""
REMEDY = "remedy.json"
"""Why a round was trained once more; it goes with the training that it is about."""


def set_aside_from(shop: Workshop, number: int, stage: str) -> str:
    """Set aside what was made from `stage` of round `number` on, later rounds included, and say so.

    Nothing is moved where the run would not go on: the recipe must be the run's own, and the round must be there.

    Raises:
        RunError: one of them is not so.
    """
    run, folder = shop.run, shop.run.round(number)
    there = sorted(path for path in run.path.glob("round-[0-9]*") if path.is_dir())
    if shop.changed:
        raise RunError(
            f"{run.path}: --round {number} redoes with the run's own settings, and the recipe has others: "
            f"{'; '.join(shop.changed)}; undo the change, leave --round out (every round is then made again from "
            f"{stage} on), or start a new run with --run NAME"
        )
    if folder not in there or number > shop.recipe.last_round:
        found = f"rounds 1 to {len(there)} are" if there else "no round is"
        raise RunError(
            f"{folder}: there is nothing to redo ({found} there, loop.rounds is {shop.recipe.loop.rounds}); expected a "
            "round that was begun: without --round the run goes on by itself"
        )
    if stage == "sample" and number == 1:
        shop.context.choices.clear()
    moved = run.set_aside([*made_after(run, number), folder / "round.json"])
    marks = Fingerprints(folder)
    if stage != "evaluate":
        marks.reopen("policy")  # a kill from here on leaves a round that is not settled, whatever is moved already
    own = [path for path in sorted(folder.iterdir(), reverse=True) if _number(path) >= FIRST_FILE[stage]]
    moved = run.set_aside([*own, *([folder / REMEDY] if stage != "evaluate" else [])]) or moved
    kept = KEPT[stage]
    marks.forget([name for name in marks.entries if name not in kept])
    return f"round {number} is made again from {stage} on; what was there is in {moved or run.path / 'replaced'}"


def made_after(run: RunDirectory, number: int) -> list[Path]:
    """Return what stands on a round's policy: the run's ending, later rounds (the last first), tests of those policies."""
    later = [path for path in run.path.glob("round-[0-9]*") if path.is_dir() and round_of(path) > number]
    tests = [path for path in (run.path / "test").glob("round-[0-9]*") if int(path.name[6:]) >= number]
    return [run.result, run.report, run.report_data, *sorted(later, reverse=True), *tests]


def _number(path: Path) -> int:
    """Return the number with which a round's file begins, 0 where it begins with none."""
    head = path.name.partition("-")[0]
    return int(head) if head.isdigit() else 0


def round_of(folder: Path) -> int:
    """Return the round whose folder this is; 0 for baselines and test."""
    name, _, number = folder.name.partition("-")
    return int(number) if name == "round" and folder.parent.name != "test" else 0


EARLIEST = {
    "sample": ("seed", "student", "prompts", "sample", "loop"),
    "judge": ("rubric", "judge", "teacher"),
    "train": ("pair", "train", "warm_start", "loop.start_from"),
}
"""Stage to the recipe keys whose change makes its artefacts stale."""


def stage_to_redo(shop: Workshop, stage: str) -> str:
    """Return the earliest stage that the changed keys make stale, at the latest `stage`."""
    keys = [line.split(":", 1)[0] for line in shop.changed]
    for candidate, prefixes in EARLIEST.items():
        own = [key for key in keys if key != "loop.start_from" or candidate == "train"]
        if any(key == prefix or key.startswith(f"{prefix}.") for key in own for prefix in prefixes):
            return min(candidate, stage, key=STAGES.index)
    return stage


def stale(shop: Workshop, folder: Path, name: str, stage: str) -> str:
    """Return the message that names a stale artefact, the keys that differ, and what to do."""
    place, stage = folder.relative_to(shop.run.path), stage_to_redo(shop, stage)
    keys = "; ".join(shop.changed) or "files it is made from changed (student, prompts, rubric or a plug-in's code)"
    return (
        f"{shop.run.path}: {place}/{name} was made with other settings: {keys}. It and everything made from it is "
        f"stale; undo the change, start a new run with --run NAME, or pass --redo-from {stage} (what is replaced is "
        "kept under replaced/)"
    )
