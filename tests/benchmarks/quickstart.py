"""The quickstart and `--help`, as ratios to what they may take.

    python tests/benchmarks/quickstart.py

Runs the README's quickstart in an empty folder: at most 90 seconds and 2 GB on two idle cores; `--help` at most 0.5 s.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_SECONDS, MOST_MEGABYTES, MOST_HELP_SECONDS = 90.0, 2048.0, 0.5


def seconds(folder: str, *arguments: str) -> float:
    """Return the seconds that one prefdistill command takes."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "prefdistill", *arguments]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        helped = min(seconds(folder, "--help") for _ in range(3))
        took = seconds(folder, "run", str(ROOT / "recipes" / "quickstart.yaml"))
        test = json.loads((Path(folder) / "runs" / "quickstart" / "result.json").read_text())["test"]
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"quickstart {took:.1f} s, {took / MOST_SECONDS:.2f} of what it may take")
    print(f"memory     {megabytes:.0f} MB, {megabytes / MOST_MEGABYTES:.2f} of what it may take")
    print(f"--help     {helped:.2f} s, {helped / MOST_HELP_SECONDS:.2f} of what it may take")
    print(
        f"test win rate {test['win_rate']:.3f} {test['win_rate_interval']}, gold +{test['gold'] - test['baseline_gold']:.3f}"
    )


if __name__ == "__main__":
    main()
