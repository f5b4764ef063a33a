"""Sampling and judging at the same time: against the longer of the two, and against their sum.

    python tests/benchmarks/overlap.py

256 prompts, 4 drafts each, a judge of 300 ms at 64 in flight behind a server in another process. Once with the CPU
sampler and the sandbox student (target: at most 0.85 times the sum on two cores), once with a served sampler of
1 s a draft at 128 in flight (target: at most 1.15 times the longer one). Each figure is measured in this same run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from prefdistill.assembly import opened
from prefdistill.drafting import drafts_and_verdicts
from prefdistill.loop import train_drafts
from prefdistill.recipe import load_recipe
from prefdistill.run import RunDirectory
from prefdistill.stages.load import round_slices

ROOT = Path(__file__).parents[2]
PROMPTS, JUDGE_SECONDS, DRAFT_SECONDS = 256, 0.3, 1.0
RUBRIC = "name: b\ncriteria:\n  - {name: a, question: Is it clear?, levels: [not, hardly, partly, mostly, fully]}\n"
WRITER = """
import sys, threading
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.loopback import Loopback
number, lock = [0], threading.Lock()
def write(body):
    with lock:
        number[0] += 1
    return "Hi, please send the report by Friday. " + "It is needed. " * (number[0] % 7) + f"No {{number[0]}}"
with Loopback(write, {latency}) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def serve(*command: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server process and return it with its URL."""
    process = subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def seconds(folder: Path, sample: dict[str, object], judge_url: str) -> dict[str, float]:
    """Return the seconds of sampling alone, judging alone, and both at once."""
    (folder / "r.yaml").write_text(RUBRIC)
    teacher = {"use": "openai", "model": "rule", "base_url": judge_url, "concurrency": 64}
    text = (ROOT / "recipes" / "quickstart.yaml").read_text().splitlines()
    kept = [line for line in text if not line.startswith(("rubric:", "judge:", "sample:", "teacher:", "prompts:"))]
    lines = {
        "rubric": "r.yaml",
        "judge": {"use": "rubric"},
        "teacher": teacher,
        "prompts": {"path": str(ROOT / "recipes/prompts/quickstart.jsonl")},
        "sample": {"drafts": 4, "max_new_tokens": 104, **sample},
        "cache": "off",
    }
    recipe_file = folder / "bench.yaml"
    recipe_file.write_text("\n".join([*kept, *(f"{key}: {json.dumps(value)}" for key, value in lines.items())]))
    recipe = load_recipe(recipe_file, ["loop.rounds=1"])
    found: dict[str, float] = {}
    for name, steps in (("warm", ("both",)), ("apart", ("sample", "judge")), ("together", ("both",))):
        with opened(recipe, RunDirectory(folder / name)) as shop:
            count = 16 if name == "warm" else PROMPTS
            prompts = round_slices(shop.prompts.of("train"), 1, count, recipe.seed)[0]
            for step in steps:
                started = time.perf_counter()
                judges = {} if step == "sample" else {"verdicts": shop.judge}
                judged = drafts_and_verdicts(shop, train_drafts(shop, 1, prompts, shop.base), judges)
                if name != "warm":
                    found[step] = time.perf_counter() - started
                assert len(judged.drafts) == 4 * count
    return found


def main() -> None:
    """Measure both cases and print the ratios."""
    judge, judge_url = serve(str(ROOT / "tests" / "loopback.py"), "--latency", str(JUDGE_SECONDS))
    writer, writer_url = serve("-c", WRITER.format(root=str(ROOT), latency=DRAFT_SECONDS))
    cases: dict[str, dict[str, object]] = {
        "cpu sampler": {"use": "transformers"},
        "served sampler": {"use": "openai", "model": "s", "base_url": writer_url, "concurrency": 128},
    }
    for name, sample in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            found = seconds(Path(folder), sample, judge_url)
        longer, both = max(found["sample"], found["judge"]), found["both"]
        print(
            f"{name:15} sample {found['sample']:.2f} s, judge {found['judge']:.2f} s, both {both:.2f} s: "
            f"{both / longer:.2f} of the longer, {both / (found['sample'] + found['judge']):.2f} of the sum"
        )
    print(
        f"targets: cpu sampler at most 0.85 of the sum, served at most 1.15 of the longer; load {os.getloadavg()[0]:.1f}"
    )
    for process in (judge, writer):
        process.communicate()


if __name__ == "__main__":
    main()
