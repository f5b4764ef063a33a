"""What the new recipe changes beside the student: the warm start, and whatever would judge old drafts again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from prefdistill.finished import FinishedRun
from prefdistill.plugins import name_of
from prefdistill.protocols import learns_from
from prefdistill.recipe import Recipe
from prefdistill.records import Answer

Way = Literal["pairs", "answers"]
"""What warm-starts the new student: the old run's pairs, or the teacher's answers that it paid for."""

KEPT_OF_TRAIN = (
    "beta",
    "learning_rate",
    "epochs",
    "batch_size",
    "loss",
    "sft_weight",
    "label_smoothing",
    "lora",
    "micro_batch",
    "gradient_checkpointing",
    "max_length",
    "max_grad_norm",
    "warmup_steps",
    "lr_scheduler",
    "checkpoint_seconds",
    "launch",
    "report_to",
    "extra",
)
"""Options of the old run's trainer that a warm start by pairs takes over, where it has them."""
WITH_LIKELIHOOD = {"sigmoid": "sigmoid+sft"}
"""The old trainer's loss to the warm start's: none of the texts is the new student's own, so that the chosen ones' own
likelihood is worth learning too."""


def recipe_changes(old: FinishedRun, way: Way) -> tuple[list[str], list[str]]:
    """Return what the new recipe changes beside the student, as overrides, and a note on each that was not asked for."""
    recipe = old.recipe
    changes = [f"warm_start={json.dumps(_warm_start(old, way))}"]
    notes = []
    if learns_from(recipe.train.trainer) == "answers":
        changes.append(f"train={json.dumps(_dpo_section(recipe))}")
        notes.append("train: the old run learned from answers; the new rounds learn from pairs (dpo, its defaults)")
    elif recipe.train.reference != "previous":
        changes.append("train.reference=warm_start")
    if recipe.loop.mode != "online":
        changes.append("loop.mode=online")
        notes.append("loop.mode: the old run was offline; the rounds after the warm start are online")
    if recipe.loop.pairs_from is not None:
        changes.append("loop.pairs_from=")
        notes.append("loop.pairs_from: taken out; the rounds after the warm start make their own pairs")
    if recipe.loop.start_from != "previous":
        changes.append("loop.start_from=previous")
    if recipe.sample.drafts_from is not None:
        changes.append("sample.drafts_from=")
        notes.append("sample.drafts_from: taken out; the new student writes its own drafts")
    if recipe.sample.teacher_drafts:
        changes.append("sample.teacher_drafts=0")
        notes.append("sample.teacher_drafts: 0; the teacher's drafts are judged already, and in the warm start's pairs")
    return changes, notes


def _warm_start(old: FinishedRun, way: Way) -> dict[str, Any]:
    """Return the recipe's `warm_start`, for all prompts of the train split."""
    recipe = old.recipe
    prompts = max(1, sum(prompt.split == "train" for prompt in old.loaded.values()))
    if way == "answers":
        section = recipe.section_of(answer_rounds(old)[0])
        trainer: Any = section.trainer
        data = trainer.model_dump(mode="json", exclude_none=True)
        answers = recipe.answers_of(answer_rounds(old)[0])
        return {"use": name_of(trainer), "prompts": _prompts_answered(old), "answers": answers, **data}
    options = _options(recipe, KEPT_OF_TRAIN)
    loss = options.get("loss", "sigmoid")
    return {
        "use": "dpo",
        "prompts": prompts,
        "pairs_from": str(old.directory.path.resolve()),
        **options,
        "loss": WITH_LIKELIHOOD.get(loss, loss),
    }


def _prompts_answered(old: FinishedRun) -> int:
    """Return how many prompts of the shuffle the teacher answered, from its head."""
    warm, loop = old.recipe.warm_start, old.recipe.loop
    train = sum(prompt.split == "train" for prompt in old.loaded.values())
    if warm is not None and 1 in answer_rounds(old):
        return max(1, min(train, warm.prompts))
    return max(1, min(train, loop.prompts_per_round * len(answer_rounds(old))))


def _options(recipe: Recipe, names: Sequence[str]) -> dict[str, Any]:
    """Return options of the recipe's trainer that DPO knows too, as plain data."""
    from prefdistill.trainers.dpo import DPOTrainer

    trainer: Any = recipe.train.trainer
    own = trainer.model_dump(mode="json", exclude_none=True)
    answers = learns_from(trainer) == "answers"
    left_out = {"learning_rate", "epochs", "extra"} if answers or name_of(trainer) != "dpo" else set()
    return {
        name: own[name] for name in names if name in own and name in DPOTrainer.model_fields and name not in left_out
    }


def _dpo_section(recipe: Recipe) -> dict[str, Any]:
    """Return a `train` section by pairs for a run that learned from answers."""
    mixed = recipe.train.mix_past.model_dump(mode="json")
    return {"use": "dpo", "reference": "warm_start", "mix_past": mixed, **_options(recipe, KEPT_OF_TRAIN)}


def answer_rounds(old: FinishedRun) -> list[int]:
    """Return the rounds that learned from the teacher's answers."""
    run = old.directory
    return [
        number
        for number in range(1, old.trained + 1)
        if run.rows(run.round(number), "4-answers.jsonl", Answer).path.is_file()
    ]
