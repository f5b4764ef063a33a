"""Drafts from a server: each round's adapter is published and sampled by its own name."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from prefdistill.errors import SampleError
from prefdistill.protocols import Completion, RunContext
from prefdistill.records import Failure, Policy, Usage
from prefdistill.requests.calls import Answer, Call, Outcome
from prefdistill.requests.layer import RequestLayer
from prefdistill.samplers.openai import OpenAISampler, to_completion
from prefdistill.traces import TAGS
from tests.tiny_student import requests


class Server:
    """Answers chat completions and, like vLLM, loads and unloads adapters; it keeps every request."""

    def __init__(self, answers_loading: int = 200) -> None:
        self.requests: list[tuple[str, dict]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two writes: without this every reply takes 40 ms

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.requests.append((self.path.removeprefix("/v1/"), body))
                status, data = 200, b"Success"
                if self.path.endswith("load_lora_adapter"):
                    status = answers_loading
                    data = b"Success" if status == 200 else b'{"message": "LoRA rank 16 is greater than max_lora_rank"}'
                else:
                    text = body["messages"][-1]["content"]
                    message = {"role": "assistant", "content": f"{body['model']}: {text}"}
                    if "refuse" in text:
                        message = {"role": "assistant", "content": None, "refusal": "I will not."}
                    reason = "length" if body.get("max_tokens") == 3 else "stop"
                    choice = {"index": 0, "message": message, "finish_reason": reason}
                    usage = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
                    data = json.dumps(
                        {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}
                    ).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def of(self, path: str) -> list[dict]:
        return [body for sent, body in self.requests if sent == path]


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()


def opened(server, run, cache="off", **options):
    sampler = OpenAISampler(model="student", base_url=server.url, **options)
    sampler.open(RunContext(directory=run, seed=0, requests=RequestLayer(cache=cache)))
    return sampler


def policy(run: Path, number: int) -> Policy:
    """A policy whose adapter is in the run folder."""
    path = run / f"round-{number:02d}" / "5-policy"
    path.mkdir(parents=True, exist_ok=True)
    save_file({"weight": torch.full((2,), float(number))}, path / "adapter_model.safetensors")
    return Policy(model="student", adapter=path.relative_to(run).as_posix(), round=number)


def test_drafts_carry_seed_temperature_and_finish_reason(server, tmp_path):
    asked = [*requests(2, temperature=0.7, top_p=0.9), *requests(3, max_new_tokens=3)[4:]]
    found = {each.key: each for each in opened(server, tmp_path).sample(Policy(model="student"), asked)}
    assert {key: each.finish_reason for key, each in found.items()} == {
        "p0/0": "stop", "p0/1": "stop", "p1/0": "stop", "p1/1": "stop", "p2/0": "length", "p2/1": "length",
    }  # fmt: skip
    assert all(isinstance(each, Completion) and each.tokens == 9 for each in found.values())
    sent = server.of("chat/completions")
    assert sorted(body["seed"] for body in sent) == sorted(each.seed % 2**31 for each in asked)
    assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in sent} == {
        (0.7, 0.9, 16),
        (1.0, 1.0, 3),
    }


def test_each_round_is_sampled_by_its_own_adapters_name(server, tmp_path):
    sampler = opened(server, tmp_path / "email", adapter_sync="vllm")
    run = tmp_path / "email"
    list(sampler.sample(Policy(model="student"), requests(2)))
    first, second = policy(run, 1), policy(run, 2)
    list(sampler.sample(first, requests(2)))
    list(sampler.sample(first, requests(2)))
    list(sampler.sample(second, requests(2)))
    loaded = server.of("load_lora_adapter")
    assert [body["lora_path"] for body in loaded] == [str(run / each.adapter) for each in (first, second)]
    names = [body["lora_name"] for body in loaded]
    assert names[0].startswith("email-round-01-")
    assert names[1].startswith("email-round-02-")
    asked = [body["model"] for body in server.of("chat/completions")]
    assert asked == ["student"] * 4 + [names[0]] * 8 + [names[1]] * 4
    assert server.of("unload_lora_adapter") == [{"lora_name": names[0]}]


def test_the_server_may_see_the_run_folder_elsewhere(server, tmp_path):
    root = {"local": str(tmp_path), "server": "/mnt/runs/"}
    sampler = opened(server, tmp_path / "email", adapter_sync="vllm", adapter_root=root)
    list(sampler.sample(policy(tmp_path / "email", 1), requests(1)))
    assert server.of("load_lora_adapter")[0]["lora_path"] == "/mnt/runs/email/round-01/5-policy"


def test_a_trained_policy_is_not_sampled_from_a_server_that_has_only_the_base(server, tmp_path):
    with pytest.raises(SampleError, match=r"adapter_sync: vllm, or loop.mode: offline"):
        list(opened(server, tmp_path).sample(policy(tmp_path, 1), requests(1)))
    assert not server.requests


def test_an_adapter_that_the_server_cannot_load_is_a_clear_error(tmp_path):
    server = Server(answers_loading=400)
    sampler = opened(server, tmp_path, adapter_sync="vllm")
    with pytest.raises(SampleError, match=r"HTTP 400: .*max_lora_rank.*--enable-lora"):
        list(sampler.sample(policy(tmp_path, 1), requests(1)))
    server.http.shutdown()


def test_a_refusal_is_a_failure(server, tmp_path):
    asked = requests(1, drafts=1)
    refused = type(asked[0])(
        **{**asked[0].__dict__, "messages": (asked[0].messages[0].model_copy(update={"content": "refuse this"}),)}
    )
    found = list(opened(server, tmp_path).sample(Policy(model="student"), [refused]))
    assert isinstance(found[0], Failure)
    assert (found[0].kind, found[0].stage, found[0].reply) == ("refusal", "sample", "I will not.")


def test_a_draft_is_paid_for_once_and_never_taken_from_another_adapter(server, tmp_path):
    for _ in range(2):
        list(opened(server, tmp_path, cache=str(tmp_path / "cache")).sample(Policy(model="student"), requests(2)))
    assert len(server.of("chat/completions")) == 4
    for number in (1, 2):
        sampler = opened(server, tmp_path, cache=str(tmp_path / "cache"), adapter_sync="vllm")
        list(sampler.sample(policy(tmp_path, number), requests(2)))
    assert len(server.of("chat/completions")) == 12


def test_options_that_do_not_go_together_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="adapter_root is of no use"):
        OpenAISampler(model="m", adapter_root={"local": str(tmp_path), "server": "/x"})
    with pytest.raises(ValidationError, match="expected a URL"):
        OpenAISampler(model="m", base_url="localhost:8000")


def test_reasoning_is_parted_from_the_draft():
    call = Call("k", {}, lambda: None)

    def read(text, reasoning=None, finish="stop", tags=TAGS):
        answer = Answer(text, finish, completion_tokens=9, reasoning=reasoning)
        return to_completion(Outcome(call, answer, Usage()), tags)

    written = read("<think>\nwhy\n</think>\n\nHello")
    assert (written.trace, written.completion, written.finish_reason) == ("<think>\nwhy\n</think>\n\n", "Hello", "stop")
    beside = read("Hello", "why")
    assert (beside.trace, beside.completion) == (written.trace, "Hello")
    for cut in (read("<think>why"), read("", "why")):
        assert (cut.completion, cut.finish_reason) == ("", "length")
    assert read("<think>why</think>Hello", "why", tags=None).completion == "<think>why</think>Hello"
