"""Whether `prefdistill drift` keeps silent on logs like the training prompts, and what it finds on others.

    python tests/benchmarks/drift.py [--seeds 100] [--training 600]

Silence: logs of the training distribution, by size; an alarm may come in 5 of 100. Power: a share of the log about
another topic, in another language, or longer, by size; counted are alarms that name it rightly, with the logs' fields
and without. Every seed has training prompts and a log of its own.

Measured with 600 training prompts: silent in 100 of 100 logs of 50, 100, 200, 500 and 2,000 rows. A tenth of the log is
named rightly by all logs from 100 rows on, and of 50 rows but for longer prompts with fields (2 of 6); a twentieth of
100 rows by all logs with topic values or another language, by 3 of 6 on a new topic without fields, by 2 of 6 on length.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from prefdistill.drift.measuring import Measurement, measure
from tests.drift.drifted_logs import NAMED, log_rows, requests_of, trained_on

SIZES = (50, 100, 200, 500, 2_000, 5_000)
SHARES = (0.05, 0.1, 0.2, 0.5)


def findings(measured: Measurement) -> set[str]:
    """Return the names of what drifted."""
    found = {each.shares.name for each in measured.shifts if each.drifted}
    return found | {each.kind.name for each in measured.excesses if each.drifted}


def measured_once(seed: int, training: int, size: int, shift: str, share: float, fields: bool) -> set[str]:
    """Return what is found in one log."""
    log = requests_of(log_rows(size, 50_000 + seed, shift, share, fields))
    return findings(measure(trained_on(training, seed), log))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--power-seeds", type=int, default=20)
    parser.add_argument("--training", type=int, default=600)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with ProcessPoolExecutor(options.workers) as pool:
        for size in options.sizes:
            once = partial(measured_once, training=options.training, size=size, shift="same", share=0.0, fields=True)
            began = time.perf_counter()
            found = list(pool.map(once, range(options.seeds)))
            names = Counter(name for each in found for name in each)
            seconds = (time.perf_counter() - began) * options.workers / options.seeds
            silent = sum(not each for each in found)
            print(
                f"same, {size:5} rows: silent {silent} of {options.seeds} ({seconds:.1f} s a log) {dict(names)}",
                flush=True,
            )
        for shift, right in NAMED.items():
            for fields in (True, False):
                for size in (each for each in options.sizes if each <= 2_000):
                    told = []
                    for share in SHARES:
                        once = partial(
                            measured_once, training=options.training, size=size, shift=shift, share=share, fields=fields
                        )
                        named = [bool(each & right) for each in pool.map(once, range(options.power_seeds))]
                        told.append(f"{share:.0%} {sum(named)}/{len(named)}")
                    with_fields = "with fields   " if fields else "without fields"
                    print(f"{shift:8} {with_fields} {size:5} rows: {', '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
