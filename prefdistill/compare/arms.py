"""The arms that a comparison knows, and how they are written on the command line.

An arm is the recipe with some keys changed: `offline`, or `label=arm,key=value,…` for one of one's own, or two stages
that share the rounds: `outputs+online`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prefdistill.errors import RecipeError, did_you_mean
from prefdistill.plugins import name_of, resolve
from prefdistill.recipe import Recipe
from prefdistill.weights import LocalWeights

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
"""What an arm that learns from answers takes over from the recipe's own trainer, where its trainer has it too."""


@dataclass(frozen=True)
class Sizes:
    """How large the stages of an arm are made so that arms are given the same."""

    answers: Mapping[str, float] = field(default_factory=dict)
    """Prompts whose answers cost what one prompt's judged drafts do, by kind of arm; without an entry, one."""
    train_prompts: int | None = None
    """How many there are; None where no arm needs to know."""

    def prompts_for(self, kind: str, prompts: int) -> int:
        """Return how many prompts an arm on answers has instead of `prompts` whose drafts are judged."""
        return max(1, round(prompts * self.answers.get(kind, 1.0)))


ONE_TO_ONE = Sizes()
"""A prompt for a prompt."""


def _best_of(recipe: Recipe) -> list[str]:
    return ["loop.rounds=0", f"evaluate.best_of={recipe.sample.drafts}"]


def _on_answers(kind: str) -> Callable[[Recipe], list[str]]:
    """Return what makes every round learn from the teacher's answers."""

    def overrides(recipe: Recipe) -> list[str]:
        mixed = recipe.train.mix_past.model_dump(mode="json")
        options = _trainer_options(recipe, kind)
        return [f"train.use={options.pop('use')}", f"train.mix_past={_yaml(mixed)}", *_keys("train", options)]

    return overrides


def _trainer_options(recipe: Recipe, kind: str) -> dict[str, Any]:
    """Return the trainer that an arm on answers uses, with the options that it shares with the recipe's own."""
    if recipe.teacher is None:
        raise RecipeError(f"compare: the arm {kind} trains on the teacher's answers, and the recipe has no `teacher`")
    use = "sft" if kind == "outputs" else kind
    fields = getattr(resolve(use, "trainers", recipe.directory)[0], "model_fields", {})
    trainer: Any = recipe.train.trainer
    own = trainer.model_dump(mode="json", exclude_none=True)
    return {"use": use, **{name: own[name] for name in KEPT_OF_TRAIN if name in own and name in fields}}


def _keys(section: str, options: Mapping[str, Any]) -> list[str]:
    return [f"{section}.{name}={_yaml(value)}" for name, value in options.items()]


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
    "outputs": Kind("fine-tuning on the teacher's own answers, no judge", _on_answers("outputs")),
    "traces": Kind("fine-tuning on the teacher's reasoning and answers, no judge", _on_answers("traces")),
    "logits": Kind(
        "fine-tuning on the teacher's answers and on its token distribution there, no judge", _on_answers("logits")
    ),
}
FIRST = ("outputs", "traces", "logits")
"""Arms that can be the first stage of a chain: a warm start."""
SECOND = ("offline", "online", "off_policy", "random_labels")
"""Arms that can follow it."""


def stages_of(kind: str) -> tuple[str, str]:
    """Return a chain's warm start and what follows it: ("outputs", "online"); ("", kind) where it is no chain."""
    first, plus, second = kind.partition("+")
    return (first, second) if plus else ("", kind)


def kind_of(name: str) -> Kind:
    """Return a sort of arm by its name, chains included."""
    first, second = stages_of(name)
    kind = KINDS[second]
    if not first:
        return kind
    return replace(kind, what=f"first {KINDS[first].what}; then {kind.what}")


def is_kind(name: str) -> bool:
    """Whether a name is an arm's, chains included."""
    first, second = stages_of(name)
    return second in KINDS and (not first or (first in FIRST and second in SECOND))


def rounds_of_warm_start(rounds: int) -> int:
    """Return how many of a comparison's rounds a chain's warm start stands for: half, rounded down."""
    return rounds // 2


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
        return not kind_of(self.kind).trains

    @property
    def warm_start(self) -> str:
        """The kind of its warm start; empty where it has none."""
        return stages_of(self.kind)[0]

    @property
    def on_answers(self) -> bool:
        """Whether its rounds learn from the teacher's answers, and not from pairs."""
        return self.kind in FIRST

    @property
    def written(self) -> str:
        """The arm as it is written on the command line."""
        return ",".join([self.kind if self.label == self.kind else f"{self.label}={self.kind}", *self.overrides])

    def require_teacher(self, recipe: Recipe) -> None:
        """Check that an arm on logits has a teacher whose probabilities can be seen.

        Raises:
            RecipeError: the recipe's cannot, and the arm names none.
        """
        section = "warm_start" if self.warm_start else "train"
        keys = [each.split("=")[0] for each in self.overrides]
        named = any(key == section or key.startswith((f"{section}.teacher", "teacher")) for key in keys)
        sections = [each for each in (recipe.train, recipe.warm_start) if each is not None]
        named = named or any(getattr(each.trainer, "teacher", None) is not None for each in sections)
        if "logits" not in (self.kind, self.warm_start) or named or isinstance(recipe.teacher, LocalWeights | None):
            return
        raise RecipeError(
            f"compare: arm {self.label}: logits compares probabilities with those of a model on this machine, and the "
            f"recipe's teacher is `{name_of(recipe.teacher)}`; write {self.written},{section}.teacher=MODEL (a model "
            "folder or hub id with the student's tokenizer), set the recipe's `teacher: {use: local, model: …}`, or leave "
            "the arm out"
        )

    def to_overrides(self, recipe: Recipe, sizes: Sizes = ONE_TO_ONE) -> list[str]:
        """Return the recipe keys that the arm changes, the user's last."""
        keys = kind_of(self.kind).overrides(recipe)
        a_round = recipe.loop.prompts_per_round
        if self.on_answers and sizes.answers:
            keys.append(f"loop.prompts_per_round={sizes.prompts_for(self.kind, a_round)}")
        if self.warm_start:
            keys += self._chained(recipe, sizes)
        return [*keys, *self.overrides]

    def _chained(self, recipe: Recipe, sizes: Sizes) -> list[str]:
        """Return the keys of a warm start that takes the place of the first rounds."""
        rounds, first = recipe.loop.rounds, rounds_of_warm_start(recipe.loop.rounds)
        if not first:
            raise RecipeError(
                f"compare: arm {self.label}: loop.rounds is {rounds}, and its stages share the rounds; expected 2 or more"
            )
        prompts = sizes.prompts_for(self.warm_start, first * recipe.loop.prompts_per_round)
        answers = math.ceil(prompts / sizes.train_prompts) if sizes.train_prompts else 1
        options = {
            **_trainer_options(recipe, self.warm_start),
            "prompts": math.ceil(prompts / answers),
            "answers": answers,
        }
        if isinstance(recipe.train.steps, int):
            options["steps"] = first * recipe.train.steps
        return [*_keys("warm_start", options), f"loop.rounds={rounds - first}"]


def parse_arms(texts: Sequence[str]) -> tuple[Arm, ...]:
    """Read arms: `offline,online`, or `label=arm,key=value,…`, in one text or several.

    Raises:
        RecipeError: an unknown arm, a label that is used twice, or a key without an arm.
    """
    arms: list[Arm] = []
    for part in (part for text in texts for part in _split(text)):
        name, equals, value = (each.strip() for each in part.partition("="))
        if equals and "." not in name and (is_kind(value) or value == BASE):
            arms.append(Arm(name, value))
        elif equals:
            if not arms:
                raise RecipeError(f"--arms: `{part}` stands before any arm; expected label=arm,key=value,…")
            arms[-1] = Arm(arms[-1].label, arms[-1].kind, (*arms[-1].overrides, f"{name}={value}"))
        else:
            arms.append(Arm(name, name))
    return _checked([arm for arm in arms if arm.kind != BASE or arm.overrides])


def _checked(arms: list[Arm]) -> tuple[Arm, ...]:
    known = ", ".join([BASE, *KINDS, "and chains such as outputs+online"])
    for arm in arms:
        if arm.kind == BASE:
            raise RecipeError("--arms: base takes no keys: it is the student before training; give the keys to an arm")
        if "+" in arm.kind and not is_kind(arm.kind):
            raise RecipeError(
                f"--arms: `{arm.kind}` is no chain: expected a warm start ({', '.join(FIRST)}), a plus, and what follows it "
                f"({', '.join(SECOND)})"
            )
        if not is_kind(arm.kind):
            raise RecipeError(f"--arms: unknown arm `{arm.kind}`{did_you_mean(arm.kind, KINDS)} (arms: {known})")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", arm.label) or arm.label == BASE:
            raise RecipeError(
                f"--arms: `{arm.label}` is no label: expected letters, digits, dot, dash, plus and underscore, and not "
                f"`{BASE}`"
            )
        own = next((each.split("=")[0] for each in arm.overrides if each.split("=")[0] in OF_THE_COMPARISON), None)
        if own is not None:
            raise RecipeError(
                f"--arms: {arm.label}: {own} is set by the comparison; take it out ({OF_THE_COMPARISON[own]})"
            )
        need = kind_of(arm.kind).needs
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
        need = kind_of(arm.kind).after
        if need and not any(each.kind == need for each in wanted):
            wanted.append(Arm(need, need))
    return tuple(sorted(wanted, key=lambda arm: (bool(kind_of(arm.kind).after), arm.rests)))


def source_of(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """Return the arm on whose run this one works, None where it stands alone: the one that is most like it."""
    need = kind_of(arm.kind).after
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
