"""A run folder as one `Status`: parts with their steps, findings, what was paid, the best round, how to go on."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefdistill.costs.measured import spent_before
from prefdistill.folders import as_argument, no_run
from prefdistill.guard import best_round
from prefdistill.records import Usage
from prefdistill.run import RunDirectory
from prefdistill.status.counting import (
    Part,
    State,
    Step,
    World,
    drafts_step,
    evaluation_steps,
    pairs_step,
    training_step,
    verdicts_step,
)
from prefdistill.status.files import Files, at, dicts_at, number_at


@dataclass
class Status:
    """What of a run is done and what is owed."""

    run: str
    name: str
    mode: str
    rounds: int
    """The warm start among them."""
    warm_start: bool
    """Whether round 1 is a warm start."""
    version: str
    """Of prefdistill, when the run was started."""
    working: bool | None
    """Whether another process works in the folder now; None where that cannot be known."""
    idle_seconds: float | None
    """Since a file of the run was last changed."""
    parts: list[Part] = field(default_factory=list)
    finished: bool = False
    """Whether result.json is of all that the recipe asks for; an earlier ending's is not."""
    stopped: str = ""
    """Why the run ended before its last round; empty if it did not."""
    best_round: int | None = None
    """0 is the base."""
    kept: bool = False
    """Whether the choice of the best round is final."""
    spent: Usage = field(default_factory=Usage)
    budget: dict[str, Any] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)
    command: str = ""
    """What goes on."""

    def part(self, number: int) -> Part | None:
        """Return a round; 0 is the base."""
        name = "base" if number == 0 else f"round {number}"
        return next((part for part in self.parts if part.name == name), None)


def read_status(path: Path) -> Status:
    """Read a run folder; nothing is loaded, changed or created.

    Raises:
        RunError: it is no run folder.
    """
    run, files = RunDirectory(path), Files(path)
    if not path.is_dir() or not (run.manifest.exists() or run.recipe.exists() or any(path.glob("round-[0-9]*"))):
        raise no_run(path)
    manifest, recipe = files.json(run.manifest), files.recipe(run.recipe)
    recipe = recipe or at(manifest, "recipe", {})
    result = files.json(run.result)
    there = [int(each.name[6:]) for each in path.glob("round-[0-9]*") if each.name[6:].isdigit()]
    rounds = max([asked_rounds(recipe) or 0, *there])
    status = Status(
        run=str(path),
        name=str(at(manifest, "name", path.name)),
        mode=str(at(recipe, "loop.mode", "")),
        rounds=rounds,
        warm_start=bool(at(recipe, "warm_start")),
        version=str(at(manifest, "versions.prefdistill", "unknown")),
        working=is_worked_on(path),
        idle_seconds=_idle(path),
        spent=spent_before(path / "spending.jsonl"),
        budget=at(recipe, "budget", {}) or {},
    )
    world = World(files, recipe, _splits(run, files), set(files.rows(run.forgotten, "prompt_id")))
    _add_parts(status, world, run, result)
    status.damage = list(dict.fromkeys(files.damage))
    status.command = _command(run, status, recipe)
    return status


def asked_rounds(recipe: dict[str, Any]) -> int | None:
    """Return how many rounds a recipe asks for, its warm start among them; None where that is not known."""
    rounds = at(recipe, "loop.rounds")
    return rounds + bool(at(recipe, "warm_start")) if isinstance(rounds, int) else None


def is_worked_on(path: Path) -> bool | None:
    """Return whether another process holds the run, by trying its lock for a moment; None where that cannot be told."""
    from filelock import FileLock, Timeout

    if not (path / ".lock").exists():
        return False
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return None
    lock.release()
    return False


def _idle(path: Path) -> float | None:
    stamps = []
    for each in path.rglob("*"):
        if each.name == ".lock" or each.relative_to(path).parts[0] == "replaced":
            continue
        try:
            stamps.append(each.stat().st_mtime)
        except OSError:  # gone meanwhile: another process works here
            continue
    return max(0.0, time.time() - max(stamps)) if stamps else None


def _splits(run: RunDirectory, files: Files) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for key, row in files.rows(run.prompts, "id").items():
        splits.setdefault(str(row.get("split")), []).append(key)
    return splits


def _add_parts(status: Status, world: World, run: RunDirectory, result: dict[str, Any]) -> None:
    """Add the base, the rounds and the test, and say what ended the run and which round is best so far."""
    status.parts = [_base(world, run), *(_round(world, run, number) for number in range(1, status.rounds + 1))]
    last, status.stopped = _ending(status.parts[1:], world.recipe, result)
    owed = any(part.state != "done" for part in status.parts[: last + 1])
    status.finished = run.report.exists() and _covered(result) == last and not (owed or _raises(status, world.recipe))
    status.parts = [
        replace(part, state="not run", steps=()) if part.state == "owed" and (part.round or 0) > last else part
        for part in status.parts
    ]
    final = at(result, "best_round")
    status.kept = status.finished and isinstance(final, int)
    status.best_round = int(final) if status.kept else _best(status.parts[: last + 1], world, run)
    status.parts.append(_test(world, run, status))


def _base(world: World, run: RunDirectory) -> Part:
    result = world.files.json(run.baselines / "round.json")
    steps: list[Step] = []
    for name in at(world.recipe, "evaluate.baselines", ["base"]):
        for step in evaluation_steps(world, run.baselines, f"{name}-validation-", "validation", bool(result)):
            steps.append(Step(f"{name} {step.name}", step.state, step.done, step.of, step.note))
    return _part("base", result, steps)


def _round(world: World, run: RunDirectory, number: int) -> Part:
    folder = run.round(number)
    result, marks = world.files.json(folder / "round.json"), world.files.json(folder / "fingerprints.json")
    trained = at(marks, "policy.rows") is not None
    done = bool(result) and trained
    drafts = drafts_step(world, folder, number, trained)
    answers = world.learns_from_answers(folder, number)
    unasked = answers and not (folder / "2-verdicts.jsonl").exists()
    verdicts = verdicts_step(world, folder, number, trained)
    if unasked:  # answers are judged only where gates must be asked
        verdicts = Step("verdicts", "owed" if drafts.state == "owed" else "done")
    judged = trained or unasked or at(marks, "verdicts.rows") is not None
    steps = [drafts, verdicts, pairs_step(world, folder, number, judged), training_step(world, folder, trained)]
    steps += evaluation_steps(world, folder, "6-", "validation", done) if trained else [Step("evaluation", "owed")]
    part = _part(f"round {number}", result if done else {}, steps)
    return replace(part, warm_start=number < world.first_round)


def _part(name: str, result: dict[str, Any], steps: list[Step]) -> Part:
    score, by = _score(result)
    begun = any(step.state != "owed" for step in steps)
    warnings = at(result, "warnings", [])
    return Part(
        name=name,
        state="done" if result else "begun" if begun else "owed",
        steps=tuple(steps),
        score=score,
        scored_by=by,
        findings=tuple(dicts_at(result, "findings")),
        warnings=tuple(map(str, warnings if isinstance(warnings, list) else ())),
    )


def _test(world: World, run: RunDirectory, status: Status) -> Part:
    """Return how far the measuring on test prompts is, of the round that is or would be kept."""
    steps: list[Step] = []
    for name in at(world.recipe, "evaluate.baselines", ["base"]):
        of_baseline = evaluation_steps(world, run.baselines, f"{name}-test-", "test", status.finished)
        steps += [Step(f"{name} {step.name}", step.state, step.done, step.of, step.note) for step in of_baseline]
    chooses = at(world.recipe, "evaluate.best_of", 1) not in (None, 1)
    if status.best_round or (chooses and status.best_round is not None):
        steps += evaluation_steps(world, run.test(status.best_round), "", "test", status.finished)
    begun = any(step.state != "owed" for step in steps)
    state: State = "done" if status.finished else "begun" if begun else "owed"
    return Part("test", state, tuple(steps))


def _score(result: dict[str, Any]) -> tuple[float | None, str]:
    """Return what a round is chosen by, as the guard does, and what that is."""
    for key, name in (("held_out_score", "held-out judge"), ("rubric_score", "training judge")):
        value = number_at(result, key)
        if value is not None:
            return value, name
    for each in dicts_at(result, "evaluation"):
        if each.get("baseline") == "base" and each.get("kind") is None:
            return number_at(each, "win_rate"), "win rate"
    return None, ""


def _best(parts: Sequence[Part], world: World, run: RunDirectory) -> int | None:
    """Return the round that the guard would keep of the finished ones; None before the base is measured."""
    done = [part.round or 0 for part in parts if part.state == "done"]
    results = [found for number in done if (found := world.files.result(run.round(number) / "round.json")) is not None]
    if not results or results[0].round != 0:
        return None
    if at(world.recipe, "loop.stop") == "never":
        results = [each.model_copy(update={"findings": ()}) for each in results]
    return best_round(results)


def _ending(rounds: Sequence[Part], recipe: dict[str, Any], result: dict[str, Any]) -> tuple[int, str]:
    """Return the run's last round, and why it is the last; no reason where the recipe asks for no more."""
    found = asked_rounds(recipe)
    asked = len(rounds) if found is None else found
    for number, part in enumerate(rounds[:asked], start=1):
        if part.state == "done" and _stop_rule(part, recipe):
            return number, _stop_rule(part, recipe)
        if part.state != "done":
            starved = str(at(result, "stopped") or "").startswith(f"stopped before round {number}:")
            untrained = any(step.name == "training" and step.state == "owed" for step in part.steps)
            return (number - 1, str(at(result, "stopped"))) if starved and untrained else (asked, "")
    return asked, ""


def _covered(result: dict[str, Any]) -> int | None:
    """Return the last round that result.json is of; None where there is none."""
    return max(
        (each["round"] for each in dicts_at(result, "rounds") if isinstance(each.get("round"), int)), default=None
    )


def _stop_rule(part: Part, recipe: dict[str, Any]) -> str:
    """Return why the guard ends the run after a round; empty where it goes on."""
    stops = [finding for finding in part.findings if finding.get("level") == "stop"]
    if not stops or at(recipe, "loop.stop") == "never":
        return ""
    kind = f" ({stops[0]['kind']})" if stops[0].get("kind") else ""
    return f"after {part.shown} by loop.stop.{stops[0].get('check')}{kind}: {stops[0].get('message')}"


def _raises(status: Status, recipe: dict[str, Any]) -> bool:
    """Whether the run ends with an error instead of a result."""
    return bool(status.stopped) and at(recipe, "loop.on_stop") == "raise"


def _command(run: RunDirectory, status: Status, recipe: dict[str, Any]) -> str:
    """Return the command that goes on; empty where nothing is owed."""
    if status.finished:
        return ""
    own = shlex.quote(str(run.recipe)) if recipe and run.recipe.exists() else "RECIPE"
    ending = " loop.on_stop=keep_best" if _raises(status, recipe) else ""  # else it ends with the same error
    return f"prefdistill run {own} --run {as_argument(run.path)}{ending}"
