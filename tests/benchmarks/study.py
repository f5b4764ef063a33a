"""The sandbox study of STUDY.md: six arms, five seeds, an honest and a flawed judge; the truth is known.

    python tests/benchmarks/study.py --out FOLDER [--seeds 5] [--halves honest flawed] [--jobs 2]

Each half is one `prefdistill compare` in a folder of its own, which goes on where it was stopped. The tables of
STUDY.md are printed at the end, from the comparisons' own CSVs.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
ARMS = (
    "offline,online,online_prev=online,train.reference=previous,shuffled_online,random_labels,"
    "outputs,train.learning_rate=5.0e-4"
)
HALVES = {
    "honest": (),
    "flawed": (
        "judge={use: sandbox_flawed, length_bias: 4.0, loophole_phrase: hesitate, loophole_reward: 1.0}",
        "pair.min_margin=0.1",
    ),
}
"""What each half changes: the flawed judge rewards length and one stock phrase, beside what an honest one does."""


def main() -> None:
    """Run the halves and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="5")
    parser.add_argument("--halves", nargs="+", choices=list(HALVES), default=list(HALVES))
    parser.add_argument("--jobs", type=int)
    options = parser.parse_args()
    for half in options.halves:
        folder = (options.out / f"study-{half}").resolve()
        command = [sys.executable, "-m", "prefdistill", "compare", str(ROOT / "recipes" / "study.yaml"), *HALVES[half]]
        command += ["--arms", ARMS, "--seeds", options.seeds, "--run", str(folder)]
        began = time.monotonic()
        subprocess.run(command + (["--jobs", str(options.jobs)] if options.jobs else []), check=True)
        print(f"\n{half}: {(time.monotonic() - began) / 60:.1f} minutes\n")
    for half in options.halves:
        print(f"\n## {half}\n")
        show(options.out / f"study-{half}" / "tables")


def show(tables: Path) -> None:
    """Print gold, judge's score and √KL by round for each arm, and every arm's gold against offline's."""
    rows = read(tables / "rounds.csv")
    kl = next(name for name in rows[0] if "KL" in name)
    for title, name in (("Gold", "Gold"), ("Training judge's score", "Training judge"), ("√KL to the base", kl)):
        rounds = sorted({int(row["Round"]) for row in rows})
        print(f"{title}, mean of the seeds' validation drafts:\n")
        print(f"| arm | {' | '.join(map(str, rounds))} |\n|---|{'---:|' * len(rounds)}")
        for arm in dict.fromkeys(row["Arm"] for row in rows):
            values = {int(row["Round"]): row[name] for row in rows if row["Arm"] == arm}
            cells = [f"{float(values[each]):.3f}" if values.get(each) else "–" for each in rounds]
            print(f"| {arm} | {' | '.join(cells)} |")
        print()
    for row in read(tables / "pairs.csv"):
        if "offline" in (row["Arm"], row["Against"]):
            low_high = f"{float(row['Gold, low']):+.3f} to {float(row['Gold, high']):+.3f}"
            print(f"{row['Arm']} − {row['Against']}: gold {float(row['Gold']):+.3f} ({low_high})")


def read(path: Path) -> list[dict[str, str]]:
    """Read a CSV of a comparison."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
