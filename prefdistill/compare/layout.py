"""Which runs stand beside each other: every arm with the same seeds, in one order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefdistill.compare.data import ArmRun
from prefdistill.errors import RunError
from prefdistill.finished import FinishedRun
from prefdistill.stages.report.comparison import Note


@dataclass(frozen=True)
class Layout:
    """Runs in a grid of arms and seeds, without holes."""

    seeds: tuple[int, ...]
    arms: dict[str, tuple[FinishedRun, ...]]
    """By label, one run a seed."""
    kinds: dict[str, str]
    """What kind of arm each label is."""
    overrides: dict[str, tuple[str, ...]]
    """What each arm sets in the recipe, as `key=value`."""
    asked: int
    """Seeds that were asked for."""
    notes: tuple[Note, ...] = ()

    @property
    def runs(self) -> tuple[tuple[str, FinishedRun], ...]:
        """Every run with its arm's label."""
        return tuple((label, run) for label, runs in self.arms.items() for run in runs)


def lay_out(arm_runs: Sequence[ArmRun]) -> Layout:
    """Return the runs by arm and seed; a seed that one arm lacks is left out for all, so that arms stay paired.

    An arm without any finished run is left out. Where no two arms share a seed, runs are paired in the order given.

    Raises:
        RunError: an arm has a seed twice, nothing is finished, or no seed is finished for every arm.
    """
    by_arm: dict[str, dict[int, ArmRun]] = {}
    for each in arm_runs:
        seeds = by_arm.setdefault(each.label, {})
        if each.seed in seeds:
            raise RunError(
                f"{each.label}: two runs with seed {each.seed}; a run counts once: name runs with different seeds, or "
                "give one of them a label of its own"
            )
        seeds[each.seed] = each
    asked = list(dict.fromkeys(each.seed for each in arm_runs))
    there = {
        label: {seed: each for seed, each in seeds.items() if each.run is not None} for label, seeds in by_arm.items()
    }
    notes = [
        Note("warning", f"{each.label} failed with seed {each.seed}: {each.failed or 'it is not finished'}")
        for each in arm_runs
        if each.run is None
    ]
    gone = [label for label, seeds in there.items() if not seeds]
    notes += [Note("refused", f"{label} is left out: none of its runs is finished") for label in gone]
    there = {label: seeds for label, seeds in there.items() if seeds}
    if not there:
        raise RunError(f"nothing to compare: {_failures(arm_runs)}")
    rows, found = _paired(there, asked)
    if not rows:
        raise RunError(
            f"nothing to compare: no seed is finished for every arm ({_failures(arm_runs)}); finish one, or leave an arm out"
        )
    return Layout(
        seeds=tuple(seeds[0] for seeds in rows),
        arms={
            label: tuple(each.run for seeds in rows if (each := runs[seeds[number]]).run is not None)
            for number, (label, runs) in enumerate(there.items())
        },
        kinds={label: next(iter(runs.values())).arm for label, runs in there.items()},
        overrides={
            label: tuple(f"{key}={value}" for key, value in next(iter(runs.values())).overrides.items())
            for label, runs in there.items()
        },
        asked=max(len(rows), *map(len, by_arm.values())),
        notes=(*notes, *found),
    )


def _paired(there: dict[str, dict[int, ArmRun]], asked: Sequence[int]) -> tuple[list[tuple[int, ...]], list[Note]]:
    """Return, for each row of the grid, the seed of every arm; and what is to be said about it."""
    common = [seed for seed in asked if all(seed in runs for runs in there.values())]
    if common:
        left = [seed for seed in asked if seed not in common]
        if not left:
            return [(seed,) * len(there) for seed in common], []
        lacking = {seed: [label for label, runs in there.items() if seed not in runs] for seed in left}
        named = "; ".join(f"seed {seed} (no finished run of {', '.join(arms)})" for seed, arms in lacking.items())
        text = f"left out for all arms, so that they stay paired: {named}"
        return [(seed,) * len(there) for seed in common], [Note("warning", text)]
    if any(each.failed for runs in there.values() for each in runs.values()) or len(there) == 1:
        return [], []
    return _in_order(there)


def _in_order(there: dict[str, dict[int, ArmRun]]) -> tuple[list[tuple[int, ...]], list[Note]]:
    rows = list(zip(*(list(runs) for runs in there.values()), strict=False))
    pairs = "; ".join(" with ".join(map(str, row)) for row in rows)
    text = (
        f"the arms have no seed in common, so their runs are paired in the order given (seeds {pairs}): each difference "
        "holds the luck of two seeds, and the base's drafts are not the same"
    )
    return rows, [Note("warning", text)]


def _failures(arm_runs: Sequence[ArmRun]) -> str:
    lines = [f"{each.label}, seed {each.seed}: {each.failed or 'not finished'}" for each in arm_runs if not each.run]
    return "; ".join(lines) or "no run was given"
