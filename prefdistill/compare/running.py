"""Runs the arms of a comparison: seeds side by side in processes of their own, the arms of a seed one after the other.

The arms of a seed copy from one another what was made from the same inputs (`artefacts.adopt`), and the first arm that
trains sets the optimiser steps of the others. A run that fails is said and left out; everything finished is kept, and
the same command goes on.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from prefdistill.compare.arms import source_of
from prefdistill.compare.data import ArmRun
from prefdistill.compare.equal import Equal
from prefdistill.compare.plan import Plan, Planned, make_plan, steps_of
from prefdistill.costs.measured import spent_before
from prefdistill.errors import BudgetError, PrefdistillError
from prefdistill.finished import read_finished
from prefdistill.loop import run_recipe
from prefdistill.plugins import check_identity
from prefdistill.recipe import Recipe
from prefdistill.records import Forgotten, RoundResult, Usage, digest
from prefdistill.requests.spending import Budget
from prefdistill.run import Fingerprints, RowFile
from prefdistill.student import weights_fingerprint


@dataclass(frozen=True)
class Event:
    """Something that happened to one run."""

    label: str
    seed: int
    kind: Literal["begun", "progress", "round", "note", "done", "kept", "failed", "over", "crash"]
    """kept: it was finished before. over: the budget is spent. crash: an error of ours."""
    text: str = ""
    done: int = 0
    total: int = 0
    result: RoundResult | None = None


Tell = Callable[[Event], None]


class _Told:
    """A display that tells the comparison's display what happens in one run."""

    def __init__(self, planned: Planned, tell: Tell) -> None:
        self._names = (planned.arm.label, planned.seed)
        self._tell = tell

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """Tell how far a stage is."""
        self._tell(Event(*self._names, "progress", stage, done, total))

    def note(self, text: str) -> None:
        """Tell a line about the run."""
        self._tell(Event(*self._names, "note", text))

    def round_done(self, result: RoundResult) -> None:
        """Tell that a round is finished."""
        self._tell(Event(*self._names, "round", done=result.round, result=result))


def run_plan(plan: Plan, jobs: int, threads: int, tell: Tell, texts: bool = True) -> list[ArmRun]:
    """Run everything that is not finished yet, and read all runs back.

    Args:
        jobs: seeds that run at once, each in a process of its own; 1 stays in this process.
        threads: of torch, in each process. Another number gives other bytes, so a comparison keeps the one it began with.
        tell: called in this process with everything that happens.
        texts: whether the runs' own reports show prompts and drafts.

    Raises:
        BudgetError: the budget is spent; what is finished is kept.
    """
    failures: dict[tuple[str, int], str] = {}
    marks = Fingerprints(plan.folder)

    def heard(event: Event) -> None:
        if event.kind == "failed":
            failures[event.label, event.seed] = event.text
        if event.kind == "done":
            marks.note(f"{event.label}/seed-{event.seed}", event.text, 1)
        tell(event)

    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if jobs == 1 or len(plan.seeds) == 1:
        _use_threads(threads)
        for seed in plan.seeds:
            run_seed(plan, seed, heard, texts)
    else:
        _run_in_processes(plan, jobs, threads, heard, texts)
    return [_read(plan, planned, failures.get((planned.arm.label, planned.seed), "")) for planned in plan.runs]


def run_seed(plan: Plan, seed: int, tell: Tell, texts: bool = True) -> None:
    """Run the arms of one seed, one after the other.

    Raises:
        BudgetError: the budget is spent.
    """
    done = Fingerprints(plan.folder)
    finished: list[Planned] = []
    failed: dict[str, str] = {}
    steps = plan.steps_before(seed)
    for planned in plan.of_seed(seed):
        names = (planned.arm.label, seed)
        source = source_of(planned.arm, plan.arms)
        waits = [each.label for each in (source, plan.pacesetter) if each is not None and each is not planned.arm]
        missing = next((label for label in waits if label in failed and not planned.arm.rests), None)
        if missing is not None:
            failed[planned.arm.label] = f"not run, because it needs {missing} of this seed, which failed"
            tell(Event(*names, "failed", failed[planned.arm.label]))
            continue
        try:
            recipe = plan.recipe_of(planned, steps)
            mark = mark_of(recipe)
            if done.of(f"{planned.arm.label}/seed-{seed}") == mark and planned.run.result.exists():
                tell(Event(*names, "kept"))
            else:
                tell(Event(*names, "begun", total=recipe.last_round))
                siblings = [each.run for each in finished]
                within = _within_budget(plan, planned, recipe)
                _remember_forgotten(plan, planned)
                run_recipe(within, planned.folder, _Told(planned, tell), texts=texts, siblings=siblings)
                tell(Event(*names, "done", mark))
        except BudgetError:
            raise
        except PrefdistillError as problem:
            failed[planned.arm.label] = str(problem)
            tell(Event(*names, "failed", str(problem)))
            continue
        finished.append(planned)
        if planned.arm is plan.pacesetter:
            steps = steps_of(planned.run, recipe)


def _remember_forgotten(plan: Plan, planned: Planned) -> None:
    """Note in a new run what was forgotten in the comparison's other runs, so that it does not come back with this one."""
    if planned.run.manifest.exists():
        return
    rows: dict[str, Forgotten] = {}
    for path in sorted(plan.folder.glob("*/seed-*/forgotten.jsonl")):
        rows |= RowFile(path, Forgotten).read()
    if rows:
        bare = [each.model_copy(update={"pairs": (), "flip_rates": {}, "unwanted": ()}) for each in rows.values()]
        RowFile(planned.folder / "forgotten.jsonl", Forgotten).rewrite(bare)


def _within_budget(plan: Plan, planned: Planned, recipe: Recipe) -> Recipe:
    """Return the recipe with what the other runs have left of the budget, which is the whole comparison's."""
    if recipe.budget is None:
        return recipe
    others = [each.folder / "spending.jsonl" for each in plan.runs if each != planned]
    spent = sum((spent_before(path) for path in others if path.exists()), Usage())
    used = {"usd": spent.usd, "calls": spent.calls, "tokens": spent.prompt_tokens + spent.completion_tokens}
    limits = recipe.budget.model_dump(exclude_none=True)
    left = {key: max(0, limit - used[key]) for key, limit in limits.items()}
    return recipe.model_copy(update={"budget": Budget(**left)})


def mark_of(recipe: Recipe) -> str:
    """Return what a finished run was made from: recipe, rubrics, plug-ins, weights and the content of files.

    While it is the same, the run is not opened again.
    """
    rubrics = [
        *recipe.rubrics.rubrics.values(),
        *(each for task in recipe.evaluate.also for each in task.rubrics.rubrics.values()),
    ]
    files = [recipe.prompts.path, recipe.sample.drafts_from, *(task.prompts for task in recipe.evaluate.also)]
    for source in (recipe.pairs_from(1), recipe.loop.pairs_from):
        if source is not None:
            files += sorted(source.glob("round-[0-9]*/4-pairs.jsonl"))
    return digest(
        [
            recipe.resolved(),
            recipe.student.system_text(),
            [[each.model_dump(mode="json"), check_identity(each)] for each in rubrics],
            [each.identity() for each in recipe.plugins],
            weights_fingerprint(recipe.student),
            [_content(path) for path in files if path is not None],
        ]
    )


def _content(path: Path) -> list[str]:
    """Return the hash of a file, or of every file of a folder."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    return [hashlib.sha256(each.read_bytes()).hexdigest() for each in files]


def _read(plan: Plan, planned: Planned, failed: str) -> ArmRun:
    """Return one arm's run of one seed, or why there is none."""
    arm = planned.arm
    overrides = dict(each.partition("=")[::2] for each in arm.to_overrides(plan.base_recipe, plan.sizes))
    if not failed:
        try:
            return ArmRun(arm.label, arm.kind, planned.seed, overrides, read_finished(planned.folder))
        except PrefdistillError as problem:
            failed = str(problem)
    return ArmRun(arm.label, arm.kind, planned.seed, overrides, failed=failed)


def _use_threads(threads: int) -> None:
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)


def default_jobs(plan: Plan, cores: int) -> int:
    """Return how many seeds run at once by themselves: one on a GPU or within a budget, else a core each."""
    recipe = plan.base_recipe
    if recipe.budget is not None or recipe.student.device == "cuda":
        return 1
    if recipe.student.device == "auto":
        import torch

        if torch.cuda.is_available():
            return 1
    return max(1, min(len(plan.seeds), cores))


# Processes


def _run_in_processes(plan: Plan, jobs: int, threads: int, tell: Tell, texts: bool) -> None:
    """Run every seed in a process of its own, `jobs` at a time; none outlives this process."""
    context = multiprocessing.get_context("spawn")
    asked = (plan.recipe, plan.overrides, [arm.written for arm in plan.arms], plan.folder, plan.equal)
    waiting = list(plan.seeds)
    running: dict[Connection, tuple[Any, Connection, int]] = {}
    settled: set[tuple[str, int]] = set()
    over: BudgetError | None = None
    try:
        while waiting or running:
            while waiting and len(running) < jobs and over is None:
                seed = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                leash, held = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(asked, seed, threads, texts, theirs, leash), daemon=False)
                process.start()
                theirs.close()
                leash.close()
                running[ours] = (process, held, seed)
            if over is not None and not running:
                break
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                process, held, seed = running[connection]
                try:
                    event = connection.recv()
                except EOFError:
                    process.join()
                    connection.close()
                    held.close()
                    del running[connection]
                    if process.exitcode:
                        _died(plan, seed, process.exitcode, tell, settled)
                    continue
                if event.kind == "crash":
                    raise RuntimeError(f"seed {seed}: an error of ours:\n{event.text}")
                if event.kind == "over":
                    over = BudgetError(event.text)
                    waiting.clear()
                    continue
                if event.kind in ("done", "kept", "failed"):
                    settled.add((event.label, event.seed))
                tell(event)
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.join()
    if over is not None:
        raise over


def _died(plan: Plan, seed: int, code: int, tell: Tell, settled: set[tuple[str, int]]) -> None:
    """Say of every run of a seed that was not settled that its process died."""
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    memory = " (the system was out of memory, perhaps: try --jobs 1)" if code == -signal.SIGKILL else ""
    for planned in plan.of_seed(seed):
        if (planned.arm.label, seed) not in settled:
            text = f"its process {how}{memory}; what was finished is kept: run the same command again"
            tell(Event(planned.arm.label, seed, "failed", text))


def _work(
    asked: tuple[Path, Iterable[str], list[str], Path, Equal],
    seed: int,
    threads: int,
    texts: bool,
    events: Connection,
    leash: Connection,
) -> None:
    """Run one seed in a process of its own; end when the parent does, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    threading.Thread(target=_end_with_parent, args=(leash,), daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    code = 0
    recipe, overrides, arms, folder, equal = asked
    try:
        plan = make_plan(recipe, tuple(overrides), arms, f"{seed},", folder, equal)
        run_seed(plan, seed, events.send, texts)
    except BudgetError as problem:
        events.send(Event("", seed, "over", str(problem)))
    except Exception:
        events.send(Event("", seed, "crash", traceback.format_exc()))
        code = 1
    events.close()
    sys.exit(code)


def _end_with_parent(leash: Connection) -> None:
    with suppress(EOFError, OSError):
        leash.recv()  # nothing is ever sent: it ends when the parent's end is closed
    os._exit(1)


def default_threads(jobs: int) -> int:
    """Return torch's threads in each of `jobs` processes: what OMP_NUM_THREADS says, else the cores shared out."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else max(1, cores() // jobs)


def cores() -> int:
    """Return how many cores this process may use."""
    affinity: Any = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
