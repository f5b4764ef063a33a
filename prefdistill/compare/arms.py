"""The arms that a comparison knows, and how they are written on the command line.

An arm is the recipe with some keys changed: `offline`, or `label=arm,key=value,…` for one of one's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prefdistill.errors import RecipeError, did_you_mean
from prefdistill.recipe import Recipe

KEPT_OF_TRAIN = (
    "batch_size",
    "epochs",
    "lora",
    "micro_batch",
    "gradient_checkpointing",
    "max_length",
    "max_grad_norm",
    "warmup_steps",
    "lr_scheduler",
    "checkpoint_seconds",
    "launch",
)
"""What the arm `outputs` takes over from the recipe's own trainer, where its trainer has it too."""


def _best_of(recipe: Recipe) -> list[str]:
    return ["loop.rounds=0", f"evaluate.best_of={recipe.sample.drafts}"]


def _outputs(recipe: Recipe) -> list[str]:
    from prefdistill.trainers.sft import SFTTrainer

    if recipe.teacher is None:
        raise RecipeError("compare: the arm outputs trains on the teacher's answers, and the recipe has no `teacher`")
    trainer: Any = recipe.train.trainer
    own = trainer.model_dump(mode="json", exclude_none=True)
    kept = [name for name in KEPT_OF_TRAIN if name in own and name in SFTTrainer.model_fields]
    mixed = recipe.train.mix_past.model_dump(mode="json")
    return [
        "train.use=sft",
        f"train.mix_past={_yaml(mixed)}",
        *(f"train.{name}={_yaml(own[name])}" for name in kept),
    ]


OF_THE_COMPARISON = {
    "seed": "--seeds gives every arm the same",
    "name": "the label is the name",
    "loop.pairs_from": "shuffled_online takes them from the online arm",
}
"""Keys that no arm may set, and why."""


@dataclass(frozen=True)
class Kind:
    """A sort of arm."""

    what: str
    """What it does, in a sentence."""
    overrides: Callable[[Recipe], list[str]]
    """The recipe keys that it changes."""
    needs: str = ""
    """A key that must be given with it."""
    after: str = ""
    """The kind of arm whose run it works on."""
    trains: bool = True


KINDS = {
    "offline": Kind("all drafts come from the base", lambda recipe: ["loop.mode=offline"]),
    "online": Kind("each round's drafts come from the student as it is by then", lambda recipe: ["loop.mode=online"]),
    "off_policy": Kind(
        "the drafts of a file, by whoever wrote them", lambda recipe: ["loop.mode=offline"], needs="sample.drafts_from"
    ),
    "shuffled_online": Kind(
        "the online arm's pairs, shuffled over the rounds: what they say without their freshness",
        lambda recipe: ["loop.mode=offline"],
        after="online",
    ),
    "random_labels": Kind(
        "online, with chosen and rejected drawn by lot: what training does without a judge",
        lambda recipe: ["loop.mode=online", "pair.labels=random"],
    ),
    "best_of_n": Kind(
        "no training: of n drafts of the base, the one that the training judge likes best", _best_of, trains=False
    ),
    "outputs": Kind("fine-tuning on the teacher's own answers, no judge", _outputs),
}
BASE = "base"
"""Always in the table, and no run of its own: every run has the base's drafts."""


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison."""

    label: str
    kind: str
    overrides: tuple[str, ...] = ()
    """`key=value`, as given by the user."""

    @property
    def rests(self) -> bool:
        """Whether it trains nothing."""
        return not KINDS[self.kind].trains

    @property
    def written(self) -> str:
        """The arm as it is written on the command line."""
        return ",".join([self.kind if self.label == self.kind else f"{self.label}={self.kind}", *self.overrides])

    def to_overrides(self, recipe: Recipe) -> list[str]:
        """Return the recipe keys that the arm changes, the user's last."""
        return [*KINDS[self.kind].overrides(recipe), *self.overrides]


def parse_arms(texts: Sequence[str]) -> tuple[Arm, ...]:
    """Read arms: `offline,online`, or `label=arm,key=value,…`, in one text or several.

    Raises:
        RecipeError: an unknown arm, a label that is used twice, or a key without an arm.
    """
    arms: list[Arm] = []
    for part in (part for text in texts for part in _split(text)):
        name, equals, value = (each.strip() for each in part.partition("="))
        if equals and "." not in name and value in (*KINDS, BASE):
            arms.append(Arm(name, value))
        elif equals:
            if not arms:
                raise RecipeError(f"--arms: `{part}` stands before any arm; expected label=arm,key=value,…")
            arms[-1] = Arm(arms[-1].label, arms[-1].kind, (*arms[-1].overrides, f"{name}={value}"))
        else:
            arms.append(Arm(name, name))
    return _checked([arm for arm in arms if arm.kind != BASE or arm.overrides])


def _checked(arms: list[Arm]) -> tuple[Arm, ...]:
    known = ", ".join([BASE, *KINDS])
    for arm in arms:
        if arm.kind == BASE:
            raise RecipeError("--arms: base takes no keys: it is the student before training; give the keys to an arm")
        if arm.kind not in KINDS:
            raise RecipeError(f"--arms: unknown arm `{arm.kind}`{did_you_mean(arm.kind, KINDS)} (arms: {known})")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", arm.label) or arm.label == BASE:
            raise RecipeError(
                f"--arms: `{arm.label}` is no label: expected letters, digits, dot, dash and underscore, and not `{BASE}`"
            )
        own = next((each.split("=")[0] for each in arm.overrides if each.split("=")[0] in OF_THE_COMPARISON), None)
        if own is not None:
            raise RecipeError(
                f"--arms: {arm.label}: {own} is set by the comparison; take it out ({OF_THE_COMPARISON[own]})"
            )
        need = KINDS[arm.kind].needs
        if need and not any(each.startswith(f"{need}=") for each in arm.overrides):
            raise RecipeError(f"--arms: {arm.kind} needs {need}; write {arm.kind},{need}=FILE")
    labels = [arm.label for arm in arms]
    double = next((label for label in labels if labels.count(label) > 1), None)
    if double is not None:
        raise RecipeError(
            f"--arms: two arms are called `{double}`; give one a label of its own: label={double},key=value"
        )
    if not arms:
        raise RecipeError(f"--arms: no arm to compare with the base; expected one or more of {known}")
    return tuple(arms)


def in_order(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Return the arms in the order in which they run: one that works on another's run comes after it.

    An online arm that is needed and not asked for is added.
    """
    wanted = list(arms)
    for arm in arms:
        need = KINDS[arm.kind].after
        if need and not any(each.kind == need for each in wanted):
            wanted.append(Arm(need, need))
    return tuple(sorted(wanted, key=lambda arm: (bool(KINDS[arm.kind].after), not KINDS[arm.kind].trains)))


def source_of(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """Return the arm on whose run this one works, None where it stands alone: the one that is most like it."""
    need = KINDS[arm.kind].after
    there = [each for each in arms if need and each.kind == need]
    alike = [each for each in there if set(each.overrides) == set(arm.overrides)]
    plain = [each for each in there if not each.overrides]
    return next(iter([*alike, *plain, *there]), None)


def _split(text: str) -> Iterator[str]:
    """Yield what commas separate, those inside brackets and quotes left alone."""
    part, depth, quote = "", 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in ")}]":
            depth -= 1
        if letter == "," and depth <= 0 and not quote:
            if part.strip():
                yield part.strip()
            part = ""
        else:
            part += letter
    if part.strip():
        yield part.strip()


def _yaml(value: Any) -> str:
    """Return a value as YAML on one line; JSON is YAML."""
    return json.dumps(value)
