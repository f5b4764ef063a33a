"""1,000 judge calls of 300 ms at 64 in flight: how close to ideal the whole judging path comes; then from the cache.

    python tests/benchmarks/judge_calls.py

Groups of 4 drafts, 4 pointwise and 2 confirming calls each, through the judge stage, the rubric judge, the request
layer with its cache, limits and budget on and its ledger written, and the openai SDK, against a server in another
process. Prints the ratio to the ideal time (calls x latency / in flight); the target is at most 1.08. Then 10,000
judgements (15,000 replies) from a filled cache; the target is at least 5,000 a second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefdistill.judges.rubric import RubricJudge
from prefdistill.protocols import RunContext
from prefdistill.records import Draft, Message, Prompt, Usage
from prefdistill.requests.layer import RequestLayer
from prefdistill.requests.spending import Budget
from prefdistill.rubric import Criterion, Rubric, RubricSet
from prefdistill.stages.judge import judge_prompts
from prefdistill.teachers.openai import OpenAITeacher

GROUPS, CACHED_GROUPS, DRAFTS, IN_FLIGHT, LATENCY_SECONDS = 167, 2500, 4, 64, 0.3
MOST_RATIO, LEAST_CACHED = 1.08, 5000
LIMITS = {"requests_per_minute": 60_000, "tokens_per_minute": 100_000_000}
LEVELS = ("no", "hardly", "partly", "mostly", "yes")


def group(number: int) -> tuple[Prompt, list[Draft]]:
    """One prompt with drafts of different length."""
    message = Message(role="user", content=f"Write an e-mail about meeting {number}.")
    prompt = Prompt(id=f"p{number:04d}", messages=(message,), split="train")
    drafts = [
        Draft(
            id=f"{prompt.id}/file:x/train-01/{index}",
            prompt_id=prompt.id,
            source="file:x",
            policy=None,
            round=1,
            purpose="train",
            index=index,
            completion=f"Meeting {number}: " + "word " * (index + 1) * 4,
        )
        for index in range(DRAFTS)
    ]
    return prompt, drafts


QUESTIONS = tuple(Criterion(name=f"c{n}", question=f"Is it good in way {n}?", levels=LEVELS) for n in range(3))
RUBRICS = RubricSet(rubrics={"": Rubric(name="bench", purpose="Business e-mail.", criteria=QUESTIONS)})


@contextmanager
def serving(latency_seconds: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a server's URL, and what it tells when it ends."""
    command = [sys.executable, str(Path(__file__).parents[1] / "loopback.py"), "--latency", str(latency_seconds)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    told: dict[str, Any] = {}
    yield server.stdout.readline().strip(), told
    told.update(json.loads(server.communicate()[0]))


def judge_once(url: str, folder: Path, count: int) -> tuple[float, Usage]:
    """Judge `count` groups; return the seconds it took, and what was spent."""
    groups = [group(number) for number in range(count)]
    layer = RequestLayer(cache=folder, budget=Budget(usd=1000, calls=10**6), ledger=folder / "spending.jsonl")
    teacher = OpenAITeacher(
        model="rule",
        base_url=url,
        concurrency=IN_FLIGHT,
        usd_per_million={"input": 1.0, "output": 4.0},
        **LIMITS,
    )
    judge = RubricJudge(teacher=teacher)
    judge.open(RunContext(directory=folder, seed=0, requests=layer))
    started = time.perf_counter()
    verdicts = list(judge_prompts(judge, iter(groups), RUBRICS))
    seconds = time.perf_counter() - started
    assert sum(len(verdict.preferences) for verdict in verdicts) == 2 * count
    assert not any(verdict.failures for verdict in verdicts)
    judge.close()
    layer.close()
    return seconds, layer.usage


def measure() -> dict[str, float]:
    """Return seconds, calls, ratio and rate."""
    import openai  # noqa: F401  (half a second that every run pays once)

    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, serving(LATENCY_SECONDS) as (url, told):
        seconds, usage = judge_once(url, Path(folder), GROUPS)
    figures |= {"calls": usage.calls, "seconds": seconds, "most_in_flight": told["most_in_flight"]}
    figures["ideal_seconds"] = usage.calls * LATENCY_SECONDS / IN_FLIGHT
    figures["ratio"] = seconds / figures["ideal_seconds"]
    with tempfile.TemporaryDirectory() as folder:
        with serving(0.0) as (url, _):
            judge_once(url, Path(folder), CACHED_GROUPS)
        runs = [judge_once(url, Path(folder), CACHED_GROUPS) for _ in range(3)]
    assert all(usage.calls == 0 for _, usage in runs)
    figures["cached_seconds"] = min(seconds for seconds, _ in runs)
    figures["cached_judgements_per_second"] = CACHED_GROUPS * DRAFTS / figures["cached_seconds"]
    figures["load_average"] = os.getloadavg()[0]
    return figures


if __name__ == "__main__":
    for key, value in measure().items():
        print(f"{key:32} {value:9.3f}")
    print(f"targets: ratio at most {MOST_RATIO}, cached judgements a second at least {LEAST_CACHED:,}")
