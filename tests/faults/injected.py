"""The injected faults: each breaks one thing in the real loop and says which warning, stop or error must name it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from prefdistill.errors import PrefdistillError
from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.records import Finding, PreferencePair, RoundResult
from prefdistill.sandbox import STUDENT_DIRECTORY
from tests.conftest import ROOT

QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
SMALL = (
    "loop.prompts_per_round=48", "prompts.validation_limit=50", "prompts.test_limit=10", "train.learning_rate=5.0e-4",
)  # fmt: skip
"""The quickstart with fewer prompts, and quick enough for its faults to show within the rounds given."""

Patch = Callable[[pytest.MonkeyPatch], None]
Prepare = Callable[[Path], tuple[str, ...]]


def nothing(patch: pytest.MonkeyPatch) -> None:
    """Break nothing."""


def no_more(folder: Path) -> tuple[str, ...]:
    """Need no further override."""
    return ()


@dataclass(frozen=True)
class Fault:
    """One thing that is broken."""

    kind: int
    """Its number in the list of sixteen."""
    name: str
    expected: tuple[str, ...]
    """Checks of which one must be found, or words of which one must be in the error's text."""
    overrides: tuple[str, ...] = ()
    """Recipe keys on top of the small quickstart."""
    rounds: int = 1
    """As few as it takes to show."""
    patch: Patch = nothing
    prepare: Prepare = no_more
    """Writes files into the run's parent folder and returns the overrides that name them."""
    quick: bool = False
    """Whether it runs in the normal suite too, with one seed."""
    needs: str = ""
    """A CPU feature without which there is no such fault."""


@dataclass
class Outcome:
    """What a run with a fault came to."""

    rounds: list[RoundResult] = field(default_factory=list)
    error: str = ""

    @property
    def findings(self) -> list[Finding]:
        """Everything found in any round."""
        return [finding for each in self.rounds for finding in each.findings]

    @property
    def checks(self) -> set[str]:
        """The names of what was found."""
        return {finding.check for finding in self.findings}

    def names(self, expected: tuple[str, ...]) -> bool:
        """Whether one of the expected checks was found, or the error says one of the expected words."""
        return bool(self.checks & set(expected)) or any(word in self.error for word in expected)

    def __str__(self) -> str:
        shown = [
            f"round {each.round}: {found.level} {found.check} {found.value} beyond {found.limit}"
            for each in self.rounds
            for found in each.findings
        ]
        return "\n".join([*shown, *([self.error] if self.error else [])]) or "nothing found"


def run_broken(fault: Fault, seed: int, folder: Path, patch: pytest.MonkeyPatch, *overrides: str) -> Outcome:
    """Run the quickstart with a fault; what it finds is read from the run folder, as a user would read it."""
    from prefdistill.student import _tokenizer

    _tokenizer.cache_clear()
    folder.mkdir(parents=True, exist_ok=True)
    own = fault.prepare(folder)
    fault.patch(patch)
    run, error = folder / "run", ""
    every = (*SMALL, f"seed={seed}", f"loop.rounds={fault.rounds}", *fault.overrides, *own, *overrides)
    try:
        run_recipe(load_recipe(QUICKSTART, every), run)
    except PrefdistillError as problem:
        error = str(problem)
    finally:
        patch.undo()
        _tokenizer.cache_clear()
    return Outcome(rounds_of(run), error)


def rounds_of(run: Path) -> list[RoundResult]:
    """Read the rounds of a run, the base first."""
    files = [*run.glob("baselines/round.json"), *sorted(run.glob("round-*/round.json"))]
    return [RoundResult.model_validate_json(file.read_text(encoding="utf-8")) for file in files]


# What breaks, and how.


def bf16_adapter(patch: pytest.MonkeyPatch) -> None:
    """Leave the adapters in the bfloat16 that TRL casts them to."""
    patch.setattr("prefdistill.trainers.building.cast_adapters", lambda model: None)


def no_gradient_guard(patch: pytest.MonkeyPatch) -> None:
    """Let 4-bit layers repack themselves when they are called in eval mode."""
    patch.setattr("prefdistill.student.guard_cpu_gradients", lambda model: None)


def stale_sampler(patch: pytest.MonkeyPatch) -> None:
    """Sample every policy from the weights of the one before."""
    from prefdistill.samplers import transformers as room

    load = room.load_policy

    def load_stale(student: Any, policy: Any, directory: Path, merged: Any = None) -> Any:
        if policy.adapter is not None:
            before = policy.round - 1
            adapter = f"round-{before:02d}/5-policy" if before else None
            policy = policy.model_copy(update={"round": before, "adapter": adapter})
        return load(student, policy, directory, merged=merged)

    patch.setattr(room, "load_policy", load_stale)


def base_as_reference(patch: pytest.MonkeyPatch) -> None:
    """Put the base into the adapter that should hold the previous policy."""
    from prefdistill.trainers import building

    load = building.load_into

    def load_base_instead(model: Any, adapter: str, policy: Any, directory: Path) -> None:
        load(model, adapter, policy.model_copy(update={"adapter": None}) if adapter == "ref" else policy, directory)

    patch.setattr(building, "load_into", load_base_instead)


def start_as_reference(patch: pytest.MonkeyPatch) -> None:
    """Score the reference with the start policy's adapter on, instead of with none."""
    from prefdistill.trainers import dpo

    fix = dpo.fix_reference

    def fix_with_adapter(trainer: Any, reference: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(type(trainer.model), "disable_adapter", lambda model: contextlib.nullcontext())
            fix(trainer, reference)

    patch.setattr(dpo, "fix_reference", fix_with_adapter)


def template_without_end(folder: Path) -> tuple[str, ...]:
    """Copy the student, with a chat template whose turns do not end in the end token."""
    student = folder / "no-end"
    shutil.copytree(STUDENT_DIRECTORY, student)
    template = student / "chat_template.jinja"
    template.write_text(template.read_text().replace("+ '<|end|>'", ""))
    return (f"student.model={student}",)


def completions_without_end(patch: pytest.MonkeyPatch) -> None:
    """Lose the end token where completions become tokens to train on."""
    from prefdistill.trainers import pairs

    render = pairs.render_completion
    patch.setattr(pairs, "render_completion", lambda *args: render(*args)[:-1])


BOS = "<|system|>"
"""A token that no prompt of the sandbox uses otherwise."""


def template_with_bos(folder: Path) -> tuple[str, ...]:
    """Copy the student, with a template that begins with BOS and a tokenizer that puts one before every text."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    student = folder / "bos"
    shutil.copytree(STUDENT_DIRECTORY, student)
    tokenizer: Any = AutoTokenizer.from_pretrained(student)
    tokenizer.bos_token = BOS
    number = tokenizer.convert_tokens_to_ids(BOS)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, number)])
    tokenizer.chat_template = "{{- bos_token -}}" + tokenizer.chat_template
    tokenizer.save_pretrained(student)
    return (f"student.model={student}",)


def special_tokens_added(patch: pytest.MonkeyPatch) -> None:
    """Tokenise a rendered prompt as if it were plain text, so that its BOS gets company."""
    from prefdistill import student

    load = student._tokenizer

    @lru_cache
    def loaded(source: str, revision: str | None) -> Any:
        tokenizer = load(source, revision)
        encode = tokenizer.encode
        tokenizer.encode = lambda text, **options: encode(
            text, **{**options, "add_special_tokens": text.startswith(BOS)}
        )
        return tokenizer

    patch.setattr(student, "_tokenizer", loaded)


def swapped_columns(patch: pytest.MonkeyPatch) -> None:
    """Hand TRL the rejected texts as chosen and the chosen as rejected."""
    from prefdistill.trainers import dpo

    columns = dpo.to_columns

    def swapped(steps: Any) -> dict[str, Any]:
        found = columns(steps)
        return {**found, "chosen_ids": found["rejected_ids"], "rejected_ids": found["chosen_ids"]}

    patch.setattr(dpo, "to_columns", swapped)


def random_labels(patch: pytest.MonkeyPatch) -> None:
    """Toss a coin for each pair: which of its texts is the chosen one."""
    from prefdistill import loop

    rank_and_pair = loop.rank_and_pair

    def tossed(pair: PreferencePair) -> PreferencePair:
        if random.Random(pair.id).random() < 0.5:
            return pair
        texts = {"chosen": pair.rejected, "rejected": pair.chosen}
        ids = {"chosen_id": pair.rejected_id, "rejected_id": pair.chosen_id}
        return pair.model_copy(update={**texts, **ids})

    def paired(*args: Any) -> Any:
        found = rank_and_pair(*args)
        return found._replace(pairs=tuple(map(tossed, found.pairs)))

    patch.setattr(loop, "rank_and_pair", paired)


def greedy_sampler(patch: pytest.MonkeyPatch) -> None:
    """Take the likeliest token, whatever temperature the recipe asks for."""
    from prefdistill.samplers import decoding

    decode = decoding.decode

    def greedy(model: Any, prompts: Any, rows: Any, *rest: Any) -> Any:
        return decode(model, prompts, [dataclasses.replace(row, temperature=0.0) for row in rows], *rest)

    patch.setattr(decoding, "decode", greedy)


def leaked_prompts(folder: Path) -> tuple[str, ...]:
    """Write a prompts file in which a third of the evaluation prompts are train prompts with a word of thanks."""
    rows = [json.loads(line) for line in (ROOT / "recipes/prompts/quickstart.jsonl").read_text().splitlines()]
    split = [{**row, "split": "train"} for row in rows[:500]]
    for number, row in enumerate(rows[500:700]):
        place = "validation" if number % 2 else "test"
        if number % 3 == 0:
            row = {**rows[number], "id": f"leak-{number}", "prompt": f"{rows[number]['prompt']} Many thanks!"}
        split.append({**row, "split": place})
    path = folder / "leaked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in split))
    return (f"prompts.path={path}", "prompts.split_column=split")


FAULTS = (
    Fault(
        1,
        "bf16 adapter at learning rate 5e-6",
        ("adapter is bfloat16", "adapter_moved"),
        ("train.learning_rate=5.0e-6",),
        patch=bf16_adapter,
    ),
    Fault(2, "CPU gradient guard off", ("gradients",), patch=no_gradient_guard, needs="avx512_bf16"),
    Fault(
        3, "sampler left on the previous adapter", ("sampler_gap", "sampler_staleness"), rounds=2, patch=stale_sampler
    ),
    Fault(
        4,
        "reference swapped: base instead of previous",
        ("first_step",),
        ("train.reference=previous",),
        rounds=2,
        patch=base_as_reference,
    ),
    Fault(4, "reference swapped: start instead of base", ("first_step",), rounds=2, patch=start_as_reference),
    Fault(5, "chat template without end token", ("never learn to stop",), prepare=template_without_end, quick=True),
    Fault(5, "completions that lose the end token", ("no_end_token",), patch=completions_without_end),
    Fault(6, "double BOS", ("double_bos",), prepare=template_with_bos, patch=special_tokens_added),
    Fault(7, "max_length cut", ("truncated",), ("train.max_length=80",), quick=True),
    Fault(8, "labels inverted", ("margin_direction", "label_signal"), patch=swapped_columns),
    Fault(9, "random labels in the pairs", ("label_signal", "margin_direction"), patch=random_labels),
    Fault(
        9,
        "random labels from the judge",
        (
            "label_signal",
            "judge_hacking",
        ),  # noise is a fixed number a text, so its mean may rise, and nothing else does
        ("judge={use: sandbox_flawed, noise: 20.0}",),
        rounds=4,
    ),
    Fault(10, "judge with a length bias", ("chosen_longer",), ("judge={use: sandbox_flawed, length_bias: 4.0}",)),
    Fault(
        11,
        "judge with a loophole phrase",
        ("phrase", "judge_hacking"),
        ("judge={use: sandbox_flawed, loophole_phrase: do not hesitate, loophole_reward: 0.6}",),
        rounds=4,
    ),
    Fault(
        12,
        "position-biased judge without confirmation",
        ("position_bias",),
        ("judge={use: sandbox_flawed, position_bias: 0.4}",),
    ),
    Fault(13, "temperature 0 in the recipe", ("temperature",), ("sample.temperature=0",), quick=True),
    Fault(13, "temperature 0 in the sampler", ("identical",), patch=greedy_sampler, quick=True),
    Fault(14, "learning rate 100 times too high", ("update_too_large",), ("train.learning_rate=5.0e-2",)),
    Fault(15, "eval prompts leaked into training", ("leakage",), prepare=leaked_prompts),
    Fault(16, "held-out judge equal to the training judge", ("self_judged",), ("evaluate.judge={use: checks}",)),
)
"""Sixteen kinds of faults; four of them in two variants."""
