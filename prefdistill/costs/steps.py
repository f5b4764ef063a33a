"""The steps of a run that may be paid for, in the order in which `loop` takes them.

Each step is a set of prompts about which one judge is asked, or for which one model writes, and the file that holds
what was made so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefdistill.answers import judges_gates, reasoning_of
from prefdistill.assembly import limited_prompts, load_tasks, train_prompts, without_forgotten
from prefdistill.costs.measured import Role
from prefdistill.protocols import learns_from
from prefdistill.recipe import Recipe
from prefdistill.records import Forgotten, Prompt, Split
from prefdistill.rubric import RubricSet
from prefdistill.run import RunDirectory, read_json
from prefdistill.stages.load import Loaded
from prefdistill.traces import Reasoning


@dataclass(frozen=True)
class Step:
    """One model asked about, or to write for, a set of prompts."""

    stage: str
    what: str
    """The same for equal steps of all rounds."""
    file: Path
    """Verdicts or drafts that are there already."""
    prompts: tuple[Prompt, ...]
    split: Split
    drafts: int
    """A prompt: to be judged together, or to be written."""
    judge: Any = None
    """Who judges; None where drafts are written."""
    role: Role = "verdicts"
    apart: bool = False
    """Whether it is asked about each draft by itself."""
    compares: bool = False
    """Whether the judge compares drafts in both orders instead of scoring them."""
    writer: Any = None
    """The teacher or sampler that writes; None where drafts are judged."""
    source: str = "student"
    round: int = 0
    rubrics: RubricSet | None = None
    """The rubric of another task; None for the recipe's own."""
    reasoning: Reasoning | None = None
    """How the teacher that writes is asked to reason first; None where it just answers."""


def steps_of(recipe: Recipe, prompts: Loaded, run: RunDirectory) -> Iterator[Step]:
    """Yield every step of a run, first things first; steps that cost nothing are among them.

    Prompts that were forgotten keep their places among the rounds, but nothing is asked about them.
    """
    gone = run.rows(run.path, "forgotten.jsonl", Forgotten).read()
    for step in _steps(recipe, without_forgotten(prompts, gone)[0], run, gone):
        yield replace(step, prompts=tuple(prompt for prompt in step.prompts if prompt.id not in gone))


def _steps(recipe: Recipe, prompts: Loaded, run: RunDirectory, gone: Mapping[str, Forgotten]) -> Iterator[Step]:
    evaluation = _Evaluation(recipe, prompts, run, gone)
    for name in recipe.evaluate.baselines:
        yield from evaluation.measure("validation", name, run.baselines, f"{name}-validation-")
    yield from evaluation.also(run.baselines, "base-")
    yield from evaluation.compare("validation", run.baselines, "base-validation-", skip="base")
    for number, of_round in enumerate(train_prompts(recipe, prompts), start=1):
        if recipe.pairs_from(number) is None:
            yield from _train(recipe, run, number, of_round)
        yield from evaluation.measure("validation", "student", run.round(number), "6-", number, best=True)
        yield from evaluation.also(run.round(number), "6-", number)
        yield from evaluation.compare("validation", run.round(number), "6-", number)
    for name in recipe.evaluate.baselines:
        yield from evaluation.measure("test", name, run.baselines, f"{name}-test-")
    kept = _best_round(run, recipe.last_round)
    if kept > 0 or recipe.evaluate.best_of > 1:
        yield from evaluation.measure("test", "student" if kept else "base", run.test(kept), "", best=True)
    base_again = kept == 0 and recipe.evaluate.best_of == 1
    yield from evaluation.compare("test", run.test(kept), "", skip="base" if base_again else "")


def _best_round(run: RunDirectory, rounds: int) -> int:
    """Return the round whose policy is measured on test prompts: the kept one where all rounds are done."""
    if run.result.exists() and all((run.round(number) / "round.json").exists() for number in range(1, rounds + 1)):
        return int(read_json(run.result).get("best_round", rounds))
    return rounds


def _train(recipe: Recipe, run: RunDirectory, number: int, prompts: tuple[Prompt, ...]) -> Iterator[Step]:
    """Yield the writing and the judging of a round's training drafts."""
    folder, sample = run.round(number), recipe.sample
    if learns_from(recipe.section_of(number).trainer) == "answers":
        yield from _answers(recipe, run, number, prompts)
        return
    added = sample.teacher_drafts if number == recipe.first_round and sample.drafts_from is None else 0
    file = folder / "1-drafts.jsonl"
    if added:
        yield Step(
            "sample", "teacher's training drafts", file, prompts, "train", added,
            writer=recipe.teacher, source="teacher", round=number,
        )  # fmt: skip
    if sample.drafts_from is None:
        yield Step(
            "sample", "student's training drafts", file, prompts, "train", sample.drafts,
            writer=sample.sampler, round=number,
        )  # fmt: skip
    yield Step(
        "judge", "training drafts", folder / "2-verdicts.jsonl", prompts, "train", sample.drafts + added,
        judge=recipe.judge, round=number,
    )  # fmt: skip


def _answers(recipe: Recipe, run: RunDirectory, number: int, prompts: tuple[Prompt, ...]) -> Iterator[Step]:
    """Yield the writing of the teacher's answers, and their judging where gates must be asked."""
    folder, each = run.round(number), recipe.answers_of(number)
    reasoning = reasoning_of(recipe.section_of(number).trainer, recipe)
    what = "teacher's answers" if reasoning is None else "teacher's reasoning and answers"
    yield Step(
        "sample", what, folder / "1-drafts.jsonl", prompts, "train", each,
        writer=recipe.teacher, source="teacher", round=number, reasoning=reasoning,
    )  # fmt: skip
    if judges_gates(recipe.rubrics, recipe.judge):
        yield Step(
            "judge", "teacher's answers, for their gates", folder / "2-verdicts.jsonl", prompts, "train", each,
            judge=recipe.judge, round=number,
        )  # fmt: skip


class _Evaluation:
    """Writes, judges and compares validation and test drafts, as `evaluation` does."""

    def __init__(self, recipe: Recipe, prompts: Loaded, run: RunDirectory, gone: Mapping[str, Forgotten]) -> None:
        self.recipe = recipe
        self.run = run
        self.prompts: dict[Split, tuple[Prompt, ...]] = {
            "validation": limited_prompts(recipe, prompts, "validation"),
            "test": limited_prompts(recipe, prompts, "test"),
        }
        loaded = load_tasks(recipe, gone)[0] if recipe.evaluate.also else {}
        self.tasks: dict[str, tuple[tuple[Prompt, ...], Any, RubricSet]] = {
            task.name: (loaded[task.name].prompts, task.judge or recipe.judge, task.rubrics)
            for task in recipe.evaluate.also
        }

    def measure(
        self, split: Split, who: str, folder: Path, prefix: str, number: int = 0, best: bool = False
    ) -> Iterator[Step]:
        """Yield the writing of one draft a prompt, and its judging by each judge that can score it alone.

        Args:
            best: whether it is the policy, which writes `evaluate.best_of` drafts for the training judge to choose from.
        """
        recipe, prompts = self.recipe, self.prompts[split]
        written = recipe.evaluate.best_of if best else 1
        writer: Any = recipe.teacher if who == "teacher" else recipe.sample.sampler
        whose = "teacher's" if who == "teacher" else "student's"
        yield Step(
            "evaluate", f"{whose} {split} drafts", folder / f"{prefix}drafts.jsonl", prompts, split, written,
            writer=writer, source=who, round=number,
        )  # fmt: skip
        judges: tuple[tuple[Role, Any, str], ...] = (
            ("verdicts", recipe.judge, "judged"),
            ("held-out", recipe.held_out_judge, "judged by evaluate.judge"),
            ("gold", recipe.evaluate.gold, "judged by evaluate.gold"),
        )
        for role, judge, words in judges:
            if judge is not None and (role == "gold" or getattr(judge, "scores_alone", True)):
                several = written if role == "verdicts" else 1
                yield Step(
                    "evaluate", f"{split} drafts {words}", folder / f"{prefix}{role}.jsonl", prompts, split, several,
                    judge=judge, role=role, round=number, apart=several > 1,
                )  # fmt: skip

    def also(self, folder: Path, prefix: str, number: int = 0) -> Iterator[Step]:
        """Yield the writing and judging of a policy's drafts of every task of `evaluate.also`."""
        for name, (prompts, judge, rubrics) in self.tasks.items():
            of_task = f"{prefix}also-{name}-"
            yield Step(
                "evaluate", f"student's drafts of {name}", folder / f"{of_task}drafts.jsonl", prompts, "validation", 1,
                writer=self.recipe.sample.sampler, round=number,
            )  # fmt: skip
            yield Step(
                "evaluate", f"drafts of {name} judged", folder / f"{of_task}verdicts.jsonl", prompts, "validation", 1,
                judge=judge, round=number, rubrics=rubrics,
            )  # fmt: skip

    def compare(self, split: Split, folder: Path, prefix: str, number: int = 0, skip: str = "") -> Iterator[Step]:
        """Yield the comparisons with each baseline in both orders, where the recipe asks for them."""
        if self.recipe.evaluate.compare == "scores":
            return
        held_out = self.recipe.held_out_judge
        judge: Any = held_out or self.recipe.judge
        for name in self.recipe.evaluate.baselines:
            if name != skip:
                file = folder / f"{prefix}preferences-{name}.jsonl"
                yield Step(
                    "evaluate", f"{split} drafts compared with the {name}'s", file, self.prompts[split], split, 2,
                    judge=judge, role="held-out" if held_out else "verdicts", compares=True, round=number,
                )  # fmt: skip
