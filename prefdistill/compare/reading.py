"""Finished runs that are given by hand: which folders they are, and which of them are seeds of one arm."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefdistill.compare.data import BASE, TEACHER, ArmRun
from prefdistill.errors import RunError
from prefdistill.finished import FinishedRun, read_finished
from prefdistill.folders import COMPARISON, as_argument, run_folder
from prefdistill.plugins import name_of
from prefdistill.protocols import learns_from
from prefdistill.recipe import Recipe, operational_keys

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
SEED_FOLDER = "seed-*"
"""How a comparison calls the runs of an arm."""
NOT_SHOWN = ("name", "seed", "cache", "rubric", "student.model", "prompts.path", "evaluate.metrics")
"""Keys that do not say what an arm is, or are checked by what they lead to."""


def read_runs(arguments: Sequence[str]) -> list[ArmRun]:
    """Read finished runs as arms: each argument is a run, the folder of an arm, or `LABEL=RUN,RUN,…`.

    A run is a path or a name under ./runs. Runs without a label that have the same recipe but for the seed are seeds of
    one arm; the others are arms of their own, called after their folders.

    Raises:
        RunError: no such run, an unfinished one, a label that cannot be one, or fewer than two runs.
    """
    labelled: list[tuple[str, FinishedRun]] = []
    loose: list[FinishedRun] = []
    for argument in arguments:
        label, folders = _parts(argument)
        runs = [read_finished(folder) for folder in folders]
        if label:
            labelled += [(label, run) for run in runs]
        else:
            loose += runs
    order = [run for _, run in labelled] + loose
    _refuse_doubles(order)
    if len(order) < 2:
        raise RunError(
            f"compare: {len(order)} run; expected two or more: a recipe with --arms, or finished runs, such as "
            "`prefdistill compare online=run-7,run-8 offline=run-9,run-10`"
        )
    found = _in_given_order(arguments, labelled, _grouped(loose, {label for label, _ in labelled}))
    seen = _differing(found)
    return [
        ArmRun(
            label,
            _kind(run),
            run.recipe.seed,
            {key: value for key in seen if (value := seen[key][number]) is not None},
            run,
        )
        for number, (label, run) in enumerate(found)
    ]


def _parts(argument: str) -> tuple[str, list[Path]]:
    """Return the label, empty where there is none, and the folders that an argument names."""
    if not argument.strip():
        raise RunError("compare: an empty argument; expected a run folder, a name under ./runs, or LABEL=RUN,RUN")
    if run_folder(argument).is_dir():
        folders = _runs_in(run_folder(argument))
        return ("", folders) if folders == [run_folder(argument)] else (run_folder(argument).resolve().name, folders)
    label, equals, rest = argument.partition("=")
    if not equals:
        return "", [run_folder(argument)]  # `read_finished` says that it is not there
    if not LABEL.fullmatch(label) or label in (BASE, TEACHER):
        raise RunError(
            f"compare: `{label}` in `{argument}` is no label: expected letters, digits, dot, dash and underscore, and "
            f"neither `{BASE}` nor `{TEACHER}`, which are in every table"
        )
    names = [each.strip() for each in rest.split(",") if each.strip()]
    if not names:
        raise RunError(f"compare: `{argument}` names no run; expected {label}=RUN,RUN,…")
    return label, [folder for name in names for folder in _runs_in(run_folder(name))]


def _runs_in(folder: Path) -> list[Path]:
    """Return the folder itself, or the runs of each seed where it is an arm's folder in a comparison.

    Raises:
        RunError: it is the folder of a whole comparison.
    """
    if (folder / "manifest.json").is_file():
        return [folder]
    seeds = [each for each in folder.glob(SEED_FOLDER) if (each / "manifest.json").is_file()]
    if seeds:
        return sorted(seeds, key=lambda each: (len(each.name), each.name))
    if (folder / COMPARISON).is_file():
        arms = sorted({each.parent.parent.name for each in folder.glob(f"*/{SEED_FOLDER}/manifest.json")})
        shown = " ".join(as_argument(folder / arm) for arm in arms[:4])
        raise RunError(
            f"{folder}: this is a whole comparison; expected runs: name its arms, such as `prefdistill compare {shown}`"
        )
    return [folder]


def _refuse_doubles(runs: Sequence[FinishedRun]) -> None:
    seen: set[Path] = set()
    for run in runs:
        path = run.directory.path.resolve()
        if path in seen:
            raise RunError(f"{run.directory.path}: named twice; a run counts once: name another, or leave one out")
        seen.add(path)


def _grouped(runs: Sequence[FinishedRun], taken: set[str]) -> list[tuple[str, FinishedRun]]:
    """Return runs without a label with one: runs of one recipe with different seeds share it."""
    groups: list[list[FinishedRun]] = []
    for run in runs:
        mine = _identity(run.recipe)
        for group in groups:
            if _identity(group[0].recipe) == mine and all(each.recipe.seed != run.recipe.seed for each in group):
                group.append(run)
                break
        else:
            groups.append([run])
    found: list[tuple[str, FinishedRun]] = []
    for group in groups:
        label = _unused(_common_name([run.directory.path.resolve() for run in group]), taken)
        taken = taken | {label}
        found += [(label, run) for run in group]
    return found


def _identity(recipe: Recipe) -> dict[str, Any]:
    leave = set(NOT_SHOWN) - {"student.model"} | operational_keys(recipe)
    return {key: value for key, value in _flat(recipe.resolved()).items() if key not in leave}


def _common_name(paths: Sequence[Path]) -> str:
    """Return what the folders' names have in common, without the seed at the end."""
    names = [path.name for path in paths]
    if len(names) == 1:
        name = paths[0].parent.name if re.fullmatch(r"seed-\d+", names[0]) else names[0]
        return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "run"
    common = names[0]
    while not all(name.startswith(common) for name in names):
        common = common[:-1]
    common = re.sub(r"([-_.]?(seed)?[-_.]?\d*)$", "", common).strip("-._") or paths[0].parent.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", common).strip("-._") or "run"


def _unused(label: str, taken: set[str]) -> str:
    label = f"{label}-run" if label in (BASE, TEACHER) else label
    number, found = 2, label
    while found in taken:
        found, number = f"{label}-{number}", number + 1
    return found


def _in_given_order(
    arguments: Sequence[str], labelled: Sequence[tuple[str, FinishedRun]], grouped: Sequence[tuple[str, FinishedRun]]
) -> list[tuple[str, FinishedRun]]:
    """Return runs in the order in which their arms were first named."""
    by_path = {run.directory.path: label for label, run in (*labelled, *grouped)}
    order = dict.fromkeys(by_path[folder] for argument in arguments for folder in _parts(argument)[1])
    place = {label: number for number, label in enumerate(order)}
    return sorted((*labelled, *grouped), key=lambda each: place[each[0]])


def _kind(run: FinishedRun) -> str:
    """Return what kind of arm a run is, as far as its recipe says."""
    recipe, warm = run.recipe, run.recipe.warm_start
    if warm is not None and learns_from(warm.trainer) == "answers":
        first = "outputs" if (name := name_of(warm.trainer)) == "sft" else name
        return f"{first}+{recipe.loop.mode}" if recipe.loop.rounds else first
    if recipe.loop.rounds == 0:
        return "best_of_n"
    if getattr(recipe.pair, "labels", "judged") == "random":
        return "random_labels"
    if recipe.loop.pairs_from is not None:
        return "shuffled_online"
    if learns_from(recipe.train.trainer) == "answers":
        return "outputs" if (name := name_of(recipe.train.trainer)) == "sft" else name
    return "off_policy" if recipe.sample.drafts_from is not None else recipe.loop.mode


def _differing(found: Sequence[tuple[str, FinishedRun]]) -> dict[str, list[Any]]:
    """Return the recipe keys that are not the same in all runs, with each run's value."""
    flat = [_flat(run.recipe.resolved()) for _, run in found]
    keys = sorted({key for each in flat for key in each})
    hidden = {f"loop.{name}" for name in ("warn", "stop", "on_stop", "remedy")}
    shown = [
        key
        for key in keys
        if key not in NOT_SHOWN and not any(key == each or key.startswith(f"{each}.") for each in hidden)
    ]
    values = {key: [each.get(key) for each in flat] for key in shown}
    operational = operational_keys(found[0][1].recipe) - {"loop.rounds", "loop.keep"}
    differ = {
        key: each
        for key, each in values.items()
        if key not in operational and any(value != each[0] for value in each[1:])
    }
    swapped = [key.removesuffix("use") for key in differ if key.endswith(".use")]  # its options say nothing beside it
    return {
        key: each
        for key, each in differ.items()
        if None not in each or not any(key.startswith(section) for section in swapped)
    }


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    return dict(_leaves(data, prefix))


def _leaves(data: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _portable(value) if key == "use" else value


def _portable(use: Any) -> Any:
    """Return a plug-in's `use` without the folder of its file: a copy elsewhere is the same plug-in."""
    file, colon, name = str(use).rpartition(":")
    return f"{Path(file).name}:{name}" if colon and file.endswith(".py") else use
