"""The four ways of distilling, and a chain of two, on the sandbox at equal work of the teacher: the tables of WAYS.md.

    python tests/benchmarks/ways.py --out FOLDER [--seeds 3] [--jobs 2] [--arms offline …]

One `prefdistill compare` of `recipes/study.yaml`, which goes on where it was stopped and takes further arms later.
`outputs` and `traces` learn from the oracle; `logits` learns from its texts and from the token distribution of the larger
embedded teacher on them. Prints gold, cost and the share of the gap to the teacher for each arm.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.study import read, show  # noqa: E402

RATE = "learning_rate=5.0e-4"
"""The same for every stage, as in the study."""
ARMS = {
    "outputs": f"outputs,train.{RATE}",
    "traces": f"traces,train.{RATE},sample.max_new_tokens=208",
    "traces_strip": f"traces_strip=traces,train.{RATE},train.trace=strip",
    "offline": "offline",
    "online": "online",
    "logits": f"logits,train.{RATE},train.teacher=prefdistill.sandbox:teacher",
    "outputs+online": f"outputs+online,warm_start.{RATE}",
}


def main() -> None:
    """Run the comparison and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="3")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--jobs", type=int)
    options = parser.parse_args()
    folder = (options.out / "ways").resolve()
    command = [
        sys.executable,
        "-m",
        "prefdistill",
        "compare",
        str(ROOT / "recipes" / "study.yaml"),
        "--equal",
        "teacher",
    ]
    command += ["--arms", ",".join(ARMS[each] for each in options.arms), "--seeds", options.seeds, "--run", str(folder)]
    began = time.monotonic()
    subprocess.run(command + (["--jobs", str(options.jobs)] if options.jobs else []), check=True)
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes\n")
    main_table(folder / "tables")
    show(folder / "tables")


def main_table(tables: Path) -> None:
    """Print each arm's gold, what it cost and how much of the gap to the teacher it closed."""
    print("| arm | gold, test | held-out score | gap recovered (95 %) | judged and answered | seconds a seed |")
    print("|---|---:|---:|---|---:|---:|")
    for row in read(tables / "arms.csv"):
        gap = "–"
        if row.get("Gap recovered"):
            low, high = (float(row[f"Gap recovered, {end}"]) for end in ("low", "high"))
            gap = f"{100 * float(row['Gap recovered']):.0f} % ({100 * low:.0f} to {100 * high:.0f})"
        cells = [_number(row.get(name), form) for name, form in (("Gold", ".3f"), ("Score", ".3f"))]
        work = [_number(row.get(name), ",.0f") for name in ("Judged and answered", "Time")]
        print(f"| {row['Arm']} | {' | '.join([*cells, gap, *work])} |")
    print()


def _number(text: str | None, form: str) -> str:
    return format(float(text), form) if text else "–"


if __name__ == "__main__":
    main()
