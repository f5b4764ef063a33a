"""How much of each step is there: drafts, verdicts, pairs, training steps, evaluation."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prefdistill.records import SETTLED_KINDS
from prefdistill.stages.load import round_slices
from prefdistill.status.files import Files, at, dicts_at

State = Literal["done", "begun", "owed", "not run"]


ANSWERS = ("sft", "outputs", "traces", "logits")
"""Our trainers that learn from the teacher's answers, by the names that recipes use."""
WARM_PROMPTS = 1000
"""Prompts of a warm start whose recipe names no number."""


@dataclass(frozen=True)
class Step:
    """One step of a round."""

    name: str
    """drafts, verdicts, pairs or answers, training; of an evaluation the file's name, such as held-out."""
    state: State
    done: int = 0
    of: int | None = None
    """None where the whole is not known."""
    note: str = ""


@dataclass(frozen=True)
class Part:
    """The base, a round, or the test."""

    name: str
    state: State
    steps: tuple[Step, ...] = ()
    score: float | None = None
    """On validation prompts, by which the best round is chosen."""
    scored_by: str = ""
    """held-out judge, training judge, or win rate."""
    findings: tuple[dict[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    warm_start: bool = False

    @property
    def shown(self) -> str:
        """Its name for a reader, the warm start by its own."""
        return f"{self.name} (warm start)" if self.warm_start else self.name

    @property
    def round(self) -> int | None:
        """The round's number; None for the base and the test."""
        return int(self.name.removeprefix("round ")) if self.name.startswith("round ") else None


@dataclass
class World:
    """What the run was asked for, as far as its files say."""

    files: Files
    recipe: dict[str, Any]
    splits: dict[str, list[str]] = field(default_factory=dict)
    """Prompt ids by split."""
    forgotten: Collection[str] = ()

    @property
    def first_round(self) -> int:
        """The number of the first round after the warm start, where there is one."""
        return 2 if at(self.recipe, "warm_start") else 1

    def learns_from_answers(self, folder: Path, number: int) -> bool:
        """Whether a round learns from the teacher's answers; of a plug-in it is known once they are there."""
        section = "warm_start" if number < self.first_round else "train"
        return at(self.recipe, f"{section}.use") in ANSWERS or (folder / "4-answers.jsonl").exists()

    def train_ids(self, number: int) -> set[str] | None:
        """Return the prompts of a round that are drafted for; None where that is not known."""
        size, ids = at(self.recipe, "loop.prompts_per_round"), self.splits.get("train")
        seed = at(self.recipe, "seed", 0)
        if not isinstance(size, int) or not ids or not isinstance(seed, int):
            return None
        warm = at(self.recipe, "warm_start.prompts", WARM_PROMPTS) if self.first_round > 1 else None
        found = round_slices([_Id(each) for each in ids], number, size, seed, warm if isinstance(warm, int) else None)
        return {each.id for each in found[number - 1]} - set(self.forgotten)

    def evaluated_ids(self, split: str) -> set[str] | None:
        """Return the validation or test prompts that are evaluated; None where that is not known."""
        from prefdistill.records import digest

        ids = self.splits.get(split)
        if not ids:
            return None
        limit = at(self.recipe, f"prompts.{split}_limit")
        chosen = sorted(ids, key=digest)[:limit] if isinstance(limit, int) else ids
        return set(chosen) - set(self.forgotten)


@dataclass(frozen=True)
class _Id:
    id: str


def drafts_step(world: World, folder: Path, number: int, settled: bool) -> Step:
    """Count a round's training drafts."""
    rows = world.files.rows(folder / "1-drafts.jsonl", "id")
    wanted, each = world.train_ids(number), at(world.recipe, "sample.drafts")
    warm = number < world.first_round
    if world.learns_from_answers(folder, number):
        several = at(world.recipe, "warm_start.answers", 1) if warm else 1
        of = len(wanted) * several if wanted is not None and isinstance(several, int) else None
        return _step("drafts", len(rows), of, settled)
    if at(world.recipe, "warm_start.pairs_from" if warm else "loop.pairs_from"):
        return _step("drafts", len(rows), None, settled)
    if at(world.recipe, "sample.drafts_from") or wanted is None or not isinstance(each, int):
        return _step("drafts", len(rows), None, settled)
    added = at(world.recipe, "sample.teacher_drafts", 0) if number == world.first_round else 0
    return _step("drafts", len(rows), len(wanted) * (each + (added if isinstance(added, int) else 0)), settled)


def verdicts_step(world: World, folder: Path, number: int, settled: bool) -> Step:
    """Count a round's prompts that are judged."""
    taken = number < world.first_round and at(world.recipe, "warm_start.pairs_from")
    wanted = None if taken else world.train_ids(number)  # taken over: as many as the other run has pairs of
    return _judged(world, "verdicts", folder / "2-verdicts.jsonl", wanted, settled)


def pairs_step(world: World, folder: Path, number: int, judged: bool) -> Step:
    """Count a round's pairs, or the answers that are trained on; they are made in one go when all verdicts are there."""
    what = "answers" if world.learns_from_answers(folder, number) else "pairs"
    path = folder / f"4-{what}.jsonl"
    pairs, drops = world.files.rows(path, "id"), world.files.rows(folder / "4-drops.jsonl", "prompt_id")
    done = path.exists() and judged
    note = f"{len(drops)} prompts without one" if drops else ""
    return Step(what, "done" if done else "owed", len(pairs) if done else 0, None, note if done else "")


def training_step(world: World, folder: Path, settled: bool) -> Step:
    """Say how far a round's training is: finished, at which step, and from which checkpoint it would go on."""
    policy = folder / "5-policy"
    result = world.files.json(policy / "train.json") if settled else {}
    if settled:
        steps = at(result, "steps")
        known = int(steps) if isinstance(steps, int) else 0
        return Step("training", "done", known, known or None)
    logged = world.files.rows(policy / "metrics.jsonl", "step")
    step = max((int(each) for each in logged if each.isdigit()), default=0)
    processes = at(world.recipe, "train.launch.processes", 1)
    saved, of = _checkpoint(policy / "checkpoints", processes if isinstance(processes, int) else 1)
    if not (step or saved or policy.exists()):
        return Step("training", "owed")
    note = f"a resumed training goes on after step {saved}" if saved else "a resumed training begins anew"
    return Step("training", "begun", max(step, saved), of, note)


def _checkpoint(folder: Path, processes: int) -> tuple[int, int | None]:
    """Return the step of the last whole checkpoint, and of how many; (0, None) where there is none."""
    from prefdistill.trainers.checkpoints import is_complete

    quiet = Files(folder)  # a checkpoint that is torn is no damage: the one before counts
    for path in sorted(
        folder.glob("checkpoint-*"), key=lambda each: len(each.name) * 10**9 + _number(each), reverse=True
    ):
        if is_complete(path, processes):
            state = quiet.json(path / "trainer_state.json")
            most = state.get("max_steps")
            return _number(path), most if isinstance(most, int) else None
    return 0, None


def _number(path: Path) -> int:
    tail = path.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0


def evaluation_steps(world: World, folder: Path, prefix: str, split: str, done: bool) -> list[Step]:
    """Count what is there of an evaluation, file by file, in the order in which it is made."""
    ids, steps = world.evaluated_ids(split), []
    owner = f"{prefix.split('-')[0]}-"  # other tasks have no split in their files' names
    for kind in _kinds(world.recipe, prefix, split):
        path = folder / f"{owner if kind.startswith('also-') else prefix}{kind}.jsonl"
        if kind == "drafts" or kind.endswith("-drafts"):
            of_task = kind != "drafts"
            rows = world.files.rows(path, "id")
            best_of = at(world.recipe, "evaluate.best_of", 1) if owner in ("-", "6-") else 1
            each = best_of if isinstance(best_of, int) else 1
            steps.append(_step(kind, len(rows), None if of_task or ids is None else len(ids) * each, done))
        else:
            wanted = None if kind.startswith("also-") else ids
            steps.append(_judged(world, kind, path, wanted, done))
    last = max((index for index, each in enumerate(steps) if each.state != "owed"), default=-1)
    # A judge that only compares leaves no verdicts on single drafts: what later files overtook is not owed.
    return [each for index, each in enumerate(steps) if each.state != "owed" or (index > last and not done)]


def _kinds(recipe: dict[str, Any], prefix: str, split: str) -> Iterable[str]:
    """Yield the names of the files that an evaluation makes."""
    yield from ("drafts", "verdicts")
    if at(recipe, "evaluate.judge") not in (None, at(recipe, "judge")):
        yield "held-out"
    if at(recipe, "evaluate.gold"):
        yield "gold"
    for task in dicts_at(recipe, "evaluate.also") if split == "validation" and not prefix.startswith("teacher") else ():
        yield from (f"also-{task.get('name')}-{kind}" for kind in ("drafts", "verdicts"))
    if at(recipe, "evaluate.compare") == "both_orders":
        own = prefix.split("-")[0]
        baselines = at(recipe, "evaluate.baselines", ["base"])
        yield from (f"preferences-{name}" for name in baselines if name != own and own != "teacher")


def _judged(world: World, name: str, path: Path, wanted: set[str] | None, settled: bool) -> Step:
    rows = world.files.rows(path, "prompt_id")
    open_ = [key for key, row in rows.items() if _asked_again(row)]
    note = f"{len(open_)} failed and are asked again" if open_ and not settled else ""
    return _step(
        name, len(rows) - (0 if settled else len(open_)), None if wanted is None else len(wanted), settled, note
    )


def _asked_again(verdict: dict[str, Any]) -> bool:
    return any(failure.get("kind") not in SETTLED_KINDS for failure in dicts_at(verdict, "failures"))


def _step(name: str, count: int, of: int | None, settled: bool, note: str = "") -> Step:
    done = settled or (of is not None and count >= of)
    return Step(name, "done" if done else "begun" if count or note else "owed", count, of, note)
