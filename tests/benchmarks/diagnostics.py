"""What all diagnostics cost: whole rounds of 256 pairs with them and without, in one process, arms taking turns.

    python tests/benchmarks/diagnostics.py [--repeats 2]

The work is that of `round.py`: two drafts of at most 64 new tokens a prompt, the shorter one chosen, 16 DPO steps of 16
pairs on a 4-bit student, then 64 validation drafts. Two rounds are run: from the second on more policies are compared.
prefdistill has no option to leave diagnostics out, so the arm without them puts nothing in the place of every function
that measures: what the trainer scores before and after, the checks of its start, and what is read from the records.
A round's seconds run from the round before being shown to itself being shown; loading and writing are in them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1"}

import torch

from prefdistill import accounts, soundness
from prefdistill.log import Silent
from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.records import RoundResult
from prefdistill.sandbox.world import notes
from prefdistill.soundness import Soundness
from prefdistill.student import quiet_libraries
from prefdistill.trainers import dpo, independent, outcome, tuning
from prefdistill.trainers.building import trainer_class
from prefdistill.trainers.independent import Before, Texts

PAIRS, VALIDATION, ROUNDS, TARGET = 256, 64, 2, 1.10
RECIPE = """
name: overhead
rubric: short.yaml
student: {{model: "prefdistill.sandbox:student", device: cpu}}
prompts: {{path: prompts.jsonl, split_column: part}}
sample: {{drafts: 2, temperature: 1.0, max_new_tokens: 64}}
judge: {{use: "shorter.py:judge"}}
pair: {{min_margin: 0.5, gate_failures: reject}}
train: {{learning_rate: 5.0e-4, batch_size: 16, checkpoint_seconds: 3600}}
evaluate: {{baselines: [base], judge: {{use: sandbox_held_out}}}}
loop: {{rounds: {rounds}, prompts_per_round: {prompts}, stop: never}}
cache: "off"
"""
RUBRIC = "name: short\ncriteria:\n  - {name: words, check: length, between: [1, 30], soft: 30}\n"
JUDGE = "def judge(prompt, drafts, rubric):\n    return [-float(len(draft.completion)) for draft in drafts]\n"

NOTHING: dict[tuple[Any, str], Callable[..., Any]] = {
    (tuning, "measure_before"): lambda *_: Before(Texts(**{each.name: () for each in fields(Texts)}), {}),
    (dpo.DPOTrainer, "_check_start"): lambda *_: None,
    (tuning, "score"): lambda *_: {},
    (outcome, "_of_rows"): lambda *_: {},
    (outcome, "_of_pairs"): lambda *_: {},
    (outcome, "_of_first_step"): lambda *_: {},
    (outcome, "_of_change"): lambda *_: {},
    (outcome, "adapter_moved"): lambda *_: 1.0,
    (accounts, "sound_zero"): lambda *_: Soundness({}, {}, {}),
    (accounts, "sound_round"): lambda *_: Soundness({}, {}, {}),
    (accounts, "findings"): lambda *_: (),
    (accounts, "checks"): lambda *_: (),
}
"""Every function that measures, with what stands in its place in the arm without diagnostics."""
INSIDE: tuple[tuple[Any, str], ...] = (
    (tuning, "compare_with_file"),
    (tuning, "require_gradients"),
    (independent, "to_texts"),
    (independent, "score"),
    (soundness, "measure_round"),
    (soundness, "describe_round"),
    (soundness, "_kl_to_base"),
)
"""Parts of those that are timed by themselves."""


@dataclass
class Clock(Silent):
    """Keeps wall and CPU seconds of each round."""

    marks: list[tuple[float, float]] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)

    def round_done(self, result: RoundResult) -> None:
        """Note the moment; round 0 is the base."""
        self.marks.append((time.perf_counter(), time.process_time()))
        self.pairs.append(result.train.pairs if result.train else 0)

    def rounds(self) -> list[tuple[float, float]]:
        """Return (wall, CPU) seconds of every round after the base."""
        return [(b[0] - a[0], b[1] - a[1]) for a, b in zip(self.marks, self.marks[1:], strict=False)]


class Meter:
    """CPU seconds of functions, each without the timed ones that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[float] = []

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with a clock around it."""

        def run(*arguments: Any, **options: Any) -> Any:
            began = time.process_time()
            self._open.append(0.0)
            try:
                return function(*arguments, **options)
            finally:
                spent = time.process_time() - began
                self.seconds[name] += spent - self._open.pop()
                if self._open:
                    self._open[-1] += spent

        return run


@contextmanager
def without_diagnostics() -> Iterator[None]:
    """Measure nothing inside the block."""
    with ExitStack() as stack:
        for (module, name), nothing in NOTHING.items():
            stack.enter_context(patch.object(module, name, nothing))
        yield


@contextmanager
def metered(meter: Meter) -> Iterator[None]:
    """Time every diagnostic inside the block."""
    with ExitStack() as stack:
        for module, name in (*NOTHING, *INSIDE):
            shown = f"{module.__name__.removeprefix('prefdistill.')}.{name}"
            stack.enter_context(patch.object(module, name, meter.timed(shown, getattr(module, name))))
        yield


def run_once(folder: Path, prompts: int) -> Clock:
    """Run the recipe in an empty folder."""
    rows = [{**row, "part": "train"} for row in notes(ROUNDS * prompts, 0, part="training")]
    for number, row in enumerate(notes(VALIDATION + 4, 1, part="prompts")):
        rows.append({**row, "part": "validation" if number < VALIDATION else "test"})
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "short.yaml").write_text(RUBRIC)
    (folder / "shorter.py").write_text(JUDGE)
    (folder / "overhead.yaml").write_text(RECIPE.format(rounds=ROUNDS, prompts=prompts))
    clock = Clock()
    run_recipe(load_recipe(folder / "overhead.yaml"), folder / "run", clock)
    return clock


def main() -> None:
    """Run both arms in turn and print seconds of rounds and of each diagnostic, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=380, help="a round; about a third of them give no pair")
    options = parser.parse_args()
    quiet_libraries()
    trainer_class()
    meter = Meter()
    found: dict[str, list[list[tuple[float, float]]]] = {"without": [], "with": []}
    for repeat in range(options.repeats):
        for arm in ("without", "with") if repeat % 2 == 0 else ("with", "without"):
            arm_of = metered(meter) if arm == "with" else without_diagnostics()
            with tempfile.TemporaryDirectory() as folder, arm_of:
                clock = run_once(Path(folder), options.prompts)
            found[arm].append(clock.rounds())
            said = ", ".join(f"{cpu:.1f} s CPU ({wall:.1f} wall)" for wall, cpu in clock.rounds())
            print(f"  {arm:8} rounds of {clock.pairs[1:]} pairs: {said}", flush=True)
    print(f"{options.prompts} prompts a round, 2 drafts, 64 new tokens, {torch.get_num_threads()} threads")
    for name, seconds in sorted(meter.seconds.items(), key=lambda item: -item[1]):
        print(f"  {name:38} {seconds / options.repeats / ROUNDS:6.2f} s CPU a round")
    for unit, at in (("CPU", 1), ("wall", 0)):
        median = {
            arm: [statistics.median(run[number][at] for run in runs) for number in range(ROUNDS)]
            for arm, runs in found.items()
        }
        ratios = [a / b for a, b in zip(median["with"], median["without"], strict=True)]
        each = ", ".join(f"round {number} {ratio:.3f}" for number, ratio in enumerate(ratios, start=1))
        print(
            f"with / without, {unit}: {sum(median['with']) / sum(median['without']):.3f} ({each}); target {TARGET:.2f}"
        )


if __name__ == "__main__":
    main()
