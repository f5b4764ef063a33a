"""Soft labels against hard labels at equal data: what the sandbox student learns from the larger teacher's answers.

    python tests/benchmarks/logits.py --out FOLDER [--sizes 100 300 1000] [--seeds 1 2 3] [--arms hard soft both own]
        [--temperatures 1 2 3 4 5] [--steps 120]

Every arm of a seed and a size trains on the same answers of `prefdistill.sandbox:teacher`, for the same number of
optimiser steps, from the same base: `hard` on the texts alone (cross-entropy), `soft` on the teacher's distribution
alone (T² · KL) at each temperature, `both` on half of each, `own` on the student's own texts. Gold, which takes no part
in training, is measured on the same test prompts. Each training is a run like any other, in a folder of its own; what
is there already is gone on with, and answers and base drafts are copied from the arms before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.run import RunDirectory, read_json
from prefdistill.sandbox.world import notes

ROOT = Path(__file__).parents[2]
HELD_OUT = {"validation": 16, "test": 200}
BATCH = 16
RECIPE = """
name: logits
rubric: {root}/rubrics/sandbox-email.yaml
student: {{model: "prefdistill.sandbox:student"}}
teacher: {{use: local, model: "{teacher}"}}
prompts: {{path: notes.jsonl, split_column: split}}
sample: {{max_new_tokens: 104}}
judge: {{use: checks}}
train: {{use: logits, learning_rate: {rate}, batch_size: {batch}, steps: {steps}}}
evaluate: {{gold: {{use: sandbox_gold}}, temperature: 0.7}}
loop: {{rounds: 1, keep: last, stop: never, warn: {{}}}}
"""


def write_inputs(options: argparse.Namespace) -> Path:
    """Write notes and recipe, and return the recipe's path."""
    options.out.mkdir(parents=True, exist_ok=True)
    splits = ["train"] * max(options.sizes) + [name for name, count in HELD_OUT.items() for _ in range(count)]
    rows = zip(notes(len(splits), 71), splits, strict=True)
    text = "".join(json.dumps({**note, "split": split}) + "\n" for note, split in rows)
    (options.out / "notes.jsonl").write_text(text, encoding="utf-8")
    path = options.out / "recipe.yaml"
    figures = {"teacher": options.teacher, "rate": options.learning_rate, "steps": options.steps, "batch": BATCH}
    path.write_text(RECIPE.format(root=ROOT, **figures), encoding="utf-8")
    return path


def arms_of(options: argparse.Namespace) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield every arm: its name, and what it changes in the recipe."""
    for arm in options.arms:
        if arm == "hard":
            yield "hard", ("train.mix=0",)
        elif arm == "own":
            yield "own", ("train.on=own",)
        else:
            share = "train.mix=1" if arm == "soft" else "train.mix=0.5"
            yield from (
                (f"{arm} T={value:g}", (share, f"train.temperature={value:g}")) for value in options.temperatures
            )


def measure(options: argparse.Namespace, recipe: Path) -> dict[tuple[str, int, int], Mapping[str, float]]:
    """Make the runs and return the figures of each, by arm, size and seed."""
    found: dict[tuple[str, int, int], Mapping[str, float]] = {}
    for seed in options.seeds:
        before: list[RunDirectory] = []
        for size in options.sizes:
            for arm, changes in arms_of(options):
                folder = options.out / f"seed-{seed}-{size}-{arm.replace(' ', '-')}"
                began = time.monotonic()
                common = (f"seed={seed}", f"loop.prompts_per_round={size}")
                run_recipe(load_recipe(recipe, (*common, *changes)), folder, siblings=before)
                before.append(RunDirectory(folder))
                seconds = time.monotonic() - began
                test, trained = (read_json(folder / name) for name in ("result.json", "round-01/5-policy/train.json"))
                found[arm, size, seed] = {
                    "gold": test["test"]["gold"],
                    "base": test["test"]["baseline_gold"],
                    "answers": trained["pairs"],
                    "teacher": trained["diagnostics"].get("teacher_loss", float("nan")),
                    "loss": trained["diagnostics"].get("independent_hard", float("nan")),
                }
                shown = found[arm, size, seed]
                print(
                    f"seed {seed}, {shown['answers']} answers, {arm}: gold {shown['base']:.3f} → {shown['gold']:.3f} "
                    f"({seconds:.0f} s)",
                    flush=True,
                )
    return found


def show(options: argparse.Namespace, found: Mapping[tuple[str, int, int], Mapping[str, float]]) -> None:
    """Print gold of every arm by size, and its difference to the first arm, seed by seed."""
    first, *_ = names = [arm for arm, _ in arms_of(options)]
    seeds: Sequence[int] = options.seeds
    base = statistics.fmean(found[first, size, seed]["base"] for size in options.sizes for seed in seeds)
    print(
        f"\nGold on {HELD_OUT['test']} test prompts, {options.steps} steps of {BATCH}, mean of {len(seeds)} seeds (lowest"
    )
    print(f"to highest); in brackets the difference to `{first}`, paired by seed. The base has {base:.3f}.\n")
    print(f"| arm | {' | '.join(f'{size} examples' for size in options.sizes)} |")
    print(f"|---|{'---:|' * len(options.sizes)}")
    for arm in names:
        cells = []
        for size in options.sizes:
            gold = [found[arm, size, seed]["gold"] for seed in seeds]
            gaps = [found[arm, size, seed]["gold"] - found[first, size, seed]["gold"] for seed in seeds]
            gap = (
                f" [{statistics.fmean(gaps):+.3f}: {', '.join(f'{each:+.3f}' for each in gaps)}]"
                if arm != first
                else ""
            )
            cells.append(f"{statistics.fmean(gold):.3f} ({min(gold):.3f} to {max(gold):.3f}){gap}")
        print(f"| {arm} | {' | '.join(cells)} |")


def main() -> None:
    """Make the runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--arms", nargs="+", choices=["hard", "soft", "both", "own"], default=["hard", "soft"])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--teacher", default="prefdistill.sandbox:teacher")
    options = parser.parse_args()
    if options.steps * BATCH < max(options.sizes):
        parser.error(
            f"--steps {options.steps}: batches of {BATCH} would leave some of {max(options.sizes)} examples over"
        )
    show(options, measure(options, write_inputs(options)))


if __name__ == "__main__":
    main()
