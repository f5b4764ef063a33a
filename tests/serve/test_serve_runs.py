"""The whole of `prefdistill serve` with the sandbox's student in its own process."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest

from prefdistill.protocols import RunContext, SampleRequest
from prefdistill.records import Message, Policy
from prefdistill.samplers.transformers import TransformersSampler
from prefdistill.served import read_served
from prefdistill.stored import stored_run
from tests.conftest import ROOT
from tests.serve.test_command import make_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The benchmark script, whose parts these tests use."""
    spec = importlib.util.spec_from_file_location("serve_benchmark", ROOT / "tests/benchmarks/serve.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_students_words_are_those_of_the_sampler_and_it_comes_back(tmp_path: Path, benchmark: ModuleType) -> None:
    run = make_run(tmp_path, extra="teacher: {use: sandbox}\n")
    prompt = "To: Nora\nFrom: Tom\nAsk: review the budget\nBy: Friday 14:30\nWhy: the auditors are waiting for it"
    asked: dict[str, Any] = {"model": "served-run", "messages": [{"role": "user", "content": prompt}], "max_tokens": 60}
    with benchmark.served(run, "--routes", "out_of_scope", "--fallback", "0") as (url, process):
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        greedy = client.chat.completions.create(**asked, temperature=0)
        drawn = client.chat.completions.create(**asked, temperature=0.9, seed=5).choices[0].message.content
        pieces = [
            event.choices[0].delta.content or ""
            for event in client.chat.completions.create(**asked, temperature=0.9, seed=5, stream=True)
            if event.choices
        ]
        assert len(pieces) > 8
        assert "".join(pieces) == drawn, "a seed gives the same words, streamed or not"
        os.kill(benchmark.worker_of(process.pid), signal.SIGKILL)
        reply = client.chat.completions.with_raw_response.create(**asked)
        assert reply.headers["x-prefdistill-reason"] == "student_down"
        benchmark.wait_for_student(url)
        again = client.chat.completions.create(**asked, temperature=0)
        metrics = urllib.request.urlopen(url.removesuffix("/v1") + "/metrics").read().decode()
        assert "prefdistill_student_restarts_total 1.0" in metrics
    assert process.returncode == 0
    _, recipe = stored_run(run)
    sampler = TransformersSampler()
    sampler.open(RunContext(directory=run, seed=0, student=recipe.student))
    request = SampleRequest("k", (Message(role="user", content=prompt),), 1, 0.0, 1.0, 60)
    (expected,) = sampler.sample(Policy(model=recipe.student.model), [request])
    assert greedy.choices[0].message.content == again.choices[0].message.content == expected.completion
    assert greedy.usage is not None and greedy.usage.completion_tokens == expected.tokens
    rows = list(read_served([run / "served.jsonl"]))
    assert [row.reason for row in rows] == ["kept", "kept", "kept", "student_down", "kept"]
    assert rows[0].log_prob == pytest.approx(expected.log_prob / expected.tokens, abs=1e-5)


def test_a_server_that_is_told_to_end_answers_what_is_in_flight(tmp_path: Path, benchmark: ModuleType) -> None:
    from concurrent.futures import ThreadPoolExecutor

    run = make_run(tmp_path, extra="teacher: {use: sandbox}\n")
    with benchmark.served(run) as (url, process):
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        message = [{"role": "user", "content": "To: Nora\nFrom: Tom\nAsk: review the budget"}]
        with ThreadPoolExecutor(8) as pool:
            waiting = [
                pool.submit(client.chat.completions.create, model="served-run", messages=message) for _ in range(8)
            ]  # type: ignore[arg-type, list-item]
            time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            assert all(each.result().choices[0].message.content for each in waiting)
    assert process.wait(30) == 0
    assert len(list(read_served([run / "served.jsonl"]))) == 8


def test_thousands_of_requests_while_teacher_and_student_die(tmp_path: Path, benchmark: ModuleType) -> None:
    run = benchmark.train(tmp_path)
    assert benchmark.measure_thousands(run, 2)
    assert json.loads((run / "calibration.json").read_text())["prompts"] == benchmark.VALIDATION
