"""1,000 judge calls of 300 ms at 64 in flight: how close to ideal the whole judging path comes.

    python tests/benchmarks/judge_calls.py

Groups of 4 drafts, 4 pointwise and 2 confirming calls each, through the judge stage, the rubric judge, the request
layer with its cache on, and the openai SDK, against a server in another process. Prints the ratio to the ideal time
(calls x latency / in flight); the target is at most 1.10. Then the same again from the cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prefdistill.judges.rubric import RubricJudge
from prefdistill.protocols import RunContext
from prefdistill.records import Draft, Message, Prompt
from prefdistill.requests import RequestLayer
from prefdistill.rubric import Criterion, Rubric, RubricSet
from prefdistill.stages.judge import judge_prompts
from prefdistill.teachers.openai import OpenAITeacher

GROUPS, DRAFTS, IN_FLIGHT, LATENCY_SECONDS, TARGET = 167, 4, 64, 0.3, 1.10
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


def measure() -> dict[str, float]:
    """Return seconds, calls and ratios."""
    groups = [group(number) for number in range(GROUPS)]
    questions = tuple(Criterion(name=f"c{n}", question=f"Is it good in way {n}?", levels=LEVELS) for n in range(3))
    rubrics = RubricSet(rubrics={"": Rubric(name="bench", purpose="Business e-mail.", criteria=questions)})
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).parents[1] / "loopback.py"), "--latency", str(LATENCY_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first", "cached"):
            layer = RequestLayer(cache=folder)
            teacher = OpenAITeacher(model="rule", base_url=url, concurrency=IN_FLIGHT)
            judge = RubricJudge(teacher=teacher)
            judge.open(RunContext(directory=Path(folder), seed=0, requests=layer))
            import openai  # noqa: F401  (half a second that every run pays once)

            started = time.perf_counter()
            verdicts = list(judge_prompts(judge, iter(groups), rubrics))
            figures[f"{name}_seconds"] = time.perf_counter() - started
            figures[f"{name}_calls"] = layer.usage.calls
            assert sum(len(verdict.preferences) for verdict in verdicts) == 2 * GROUPS
            assert not any(verdict.failures for verdict in verdicts)
            judge.close()
            layer.close()
    told = json.loads(server.communicate()[0])
    figures["most_in_flight"] = told["most_in_flight"]
    figures["ideal_seconds"] = figures["first_calls"] * LATENCY_SECONDS / IN_FLIGHT
    figures["ratio"] = figures["first_seconds"] / figures["ideal_seconds"]
    figures["load_average"] = os.getloadavg()[0]
    figures["cached_judgements_per_second"] = GROUPS * DRAFTS / figures["cached_seconds"]
    return figures


if __name__ == "__main__":
    for key, value in measure().items():
        print(f"{key:32} {value:9.3f}")
    print(f"target: ratio at most {TARGET}")
