"""Drafts from a server: the student behind any OpenAI-compatible endpoint.

Place in the flow: prompt → **drafts**. A server goes on serving the student it was started with, so an online run
needs `adapter_sync: vllm`: each round's adapter is published under a name of its own, and sampled by that name.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from prefdistill.errors import SampleError
from prefdistill.plugins import Plugin
from prefdistill.protocols import Completion, RunContext, SampleRequest, TeacherRequest
from prefdistill.records import Failure, Policy
from prefdistill.requests.chat import ChatModel, TokensParameter, api_key, without_secrets
from prefdistill.requests.layer import Call, Endpoint, Outcome
from prefdistill.student import adapter_path
from prefdistill.traces import Parted, Tags, part, render_trace


class AdapterRoot(BaseModel):
    """Where the server sees a folder of this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    local: Path
    """A folder that holds the run folder."""
    server: str
    """The same folder's path on the server."""


class OpenAISampler(Plugin):
    """Samples the student through chat completions (vLLM, `transformers serve`, a hosted endpoint, …)."""

    operational: ClassVar[frozenset[str]] = frozenset(
        {
            "base_url",
            "api_key_env",
            "concurrency",
            "timeout_seconds",
            "deadline_seconds",
            "requests_per_minute",
            "tokens_per_minute",
            "usd_per_million",
            "adapter_root",
        }
    )

    model: str = Field(min_length=1)
    """The student's name, as the server knows it."""
    base_url: str = "http://localhost:8000/v1"
    """Where the server is; usually ends in /v1."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; a server on this machine may go without."""
    adapter_sync: Literal["none", "vllm"] = "none"
    """vllm: each round's adapter is loaded into the server (started with --enable-lora, a --max-lora-rank of at least
    train.lora.r, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True); none: the server serves one student for good."""
    adapter_root: AdapterRoot | None = None
    """`{local: …, server: …}` where the server sees the run folder under another path."""
    send_seed: bool = True
    """Send each draft's seed; servers differ in what they make of it."""
    max_tokens_parameter: TokensParameter = "max_tokens"
    """What the server calls its token limit; the other name is tried once where this one is refused."""
    extra_body: dict[str, Any] = {}
    """Further parameters, sent as they are, such as `{chat_template_kwargs: {enable_thinking: false}}`."""
    concurrency: int = Field(default=64, ge=1, le=1024)
    """Most requests in flight."""
    timeout_seconds: float = Field(default=300.0, gt=0.0)
    """For one attempt."""
    deadline_seconds: float = Field(default=900.0, gt=0.0)
    """For one draft with all its retries."""
    requests_per_minute: float | None = Field(default=None, gt=0.0)
    """Most requests in any minute, together with all others to the same host; None for no limit."""
    tokens_per_minute: float | None = Field(default=None, gt=0.0)
    """Most prompt and completion tokens in any minute, likewise."""
    usd_per_million: dict[Literal["input", "output"], Annotated[float, Field(ge=0.0)]] | None = None
    """US dollars per million tokens, `{input: …, output: …}`; by default as the price table says, else free."""

    begins_turns: ClassVar[bool] = False
    """The server's template begins the student's turn: `student.trace: off` cannot be kept to."""

    _context: RunContext | None = PrivateAttr(default=None)
    _endpoint: Endpoint | None = PrivateAttr(default=None)
    _chats: dict[str, ChatModel] = PrivateAttr(default_factory=dict)
    _published: str | None = PrivateAttr(default=None)

    @field_validator("extra_body")
    @classmethod
    def _no_secrets(cls, extra_body: dict[str, Any]) -> dict[str, Any]:
        return without_secrets(extra_body)

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.password:
            raise ValueError("expected a URL without a password, such as http://localhost:8000/v1")
        if parts.query:
            raise ValueError(
                "a URL with a query is written to the run folder; put a key in the environment (api_key_env)"
            )
        return url

    @model_validator(mode="after")
    def _root_needs_sync(self) -> Self:
        if self.adapter_root is not None and self.adapter_sync == "none":
            raise ValueError("adapter_root is of no use with adapter_sync: none; set adapter_sync: vllm")
        return self

    def open(self, context: RunContext) -> None:
        """Find the key and take a place in the request layer; nothing is sent yet."""
        if context.requests is None:
            raise SampleError(
                "sampler openai: opened without a request layer; pass RunContext(requests=RequestLayer())"
            )
        api_key(self.base_url, self.api_key_env)
        self._context = context
        self._endpoint = context.requests.endpoint(
            self.base_url.rstrip("/"),
            self.concurrency,
            self.deadline_seconds,
            self.usd_per_million,
            model=self.model,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
        )

    def close(self) -> None:
        """Close the connections."""
        for chat in self._chats.values():
            chat.close()
        self._chats.clear()

    def sample(self, policy: Policy, requests: Sequence[SampleRequest]) -> Iterator[Completion | Failure]:
        """Yield drafts as they arrive, from the policy's own adapter.

        Raises:
            SampleError: the policy has an adapter that the server does not have, or cannot load.
            EndpointError: the server is unreachable, refuses the key or does not know the model.
        """
        if not requests:
            return
        context, endpoint = self._context, self._endpoint
        if context is None or endpoint is None:
            raise SampleError("sampler openai: asked before it was opened; call open(context) first")
        calls = self.calls(policy, requests, publish=True)
        student = context.student
        tags = student.tags if student is not None and student.trace is not None else None
        began, tokens = time.perf_counter(), 0
        for done, outcome in enumerate(endpoint.outcomes(calls), start=1):
            answer = to_completion(outcome, tags)
            tokens += answer.tokens if isinstance(answer, Completion) else 0
            seconds = time.perf_counter() - began
            note = f"{done / seconds:,.0f} drafts/s {tokens / seconds:,.0f} tokens/s"
            context.progress("sample", done, len(requests), note)
            yield answer

    def calls(self, policy: Policy, requests: Sequence[SampleRequest], publish: bool = False) -> list[Call]:
        """Return the calls that drafts are asked for by; the policy's adapter is sent to the server to `publish` it.

        Raises:
            SampleError: the policy has an adapter that the server does not have, or cannot load.
        """
        context = self._context
        if context is None:
            raise SampleError("sampler openai: asked before it was opened; call open(context) first")
        path = adapter_path(policy, context.directory)
        weights, name = "", self.model
        if path is not None:
            weights = hashlib.sha256((path / "adapter_model.safetensors").read_bytes()).hexdigest()[:16]
            name = self._served_name(context, policy, weights)
            if publish and name != self._published:
                self._publish(name, self._server_path(path))
        chat = self._chat(name)
        return [self._call(chat, request, weights) for request in requests]

    def _chat(self, name: str) -> ChatModel:
        if name not in self._chats:
            assert self._context is not None
            assert self._context.requests is not None
            self._chats[name] = ChatModel(
                self._context.requests,
                model=name,
                base_url=self.base_url,
                key=api_key(self.base_url, self.api_key_env),
                timeout_seconds=self.timeout_seconds,
                tokens_parameter=self.max_tokens_parameter,
                extra_body=self.extra_body,
            )
        return self._chats[name]

    def _call(self, chat: ChatModel, request: SampleRequest, weights: str) -> Call:
        """Describe one draft; the adapter's content is part of what its answer is known by."""
        own = copy.copy(chat)
        own.extra_body = {**chat.extra_body, "top_p": request.top_p}
        if self.send_seed:
            own.extra_body["seed"] = request.seed % 2**31
        asked = TeacherRequest(request.key, request.messages, request.max_new_tokens, request.temperature)
        call = own.call(asked)
        return dataclasses.replace(call, identity={**call.identity, "draft": request.key, "weights": weights})

    def _served_name(self, context: RunContext, policy: Policy, weights: str) -> str:
        """Return the name under which the server has a policy with an adapter."""
        if self.adapter_sync == "none":
            raise SampleError(
                f"sampler openai: asked for the policy of round {policy.round}, but {self.base_url} serves "
                f"{self.model} alone; set sample.adapter_sync: vllm, or loop.mode: offline"
            )
        run = re.sub(r"[^A-Za-z0-9._-]", "-", context.directory.name)
        return f"{run}-round-{policy.round:02d}-{weights[:8]}"

    def _server_path(self, path: Path) -> str:
        if self.adapter_root is None:
            return str(path.resolve())
        root = self.adapter_root.local.expanduser().resolve()
        if not path.resolve().is_relative_to(root):
            raise SampleError(f"sample.adapter_root.local: {root} does not hold the adapter {path.resolve()}")
        return f"{self.adapter_root.server.rstrip('/')}/{path.resolve().relative_to(root).as_posix()}"

    def _publish(self, name: str, server_path: str) -> None:
        """Load an adapter into the server under `name`, and unload the one before."""
        status, text = self._post("/load_lora_adapter", {"lora_name": name, "lora_path": server_path})
        if status >= 400 and "already" not in text.lower():
            raise SampleError(
                f"{self.base_url}/load_lora_adapter: HTTP {status}: {text[:300]}; the server should be vLLM with "
                "--enable-lora, --max-lora-rank of at least train.lora.r and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, "
                f"and see the adapter at {server_path} (else set sample.adapter_root)"
            )
        if self._published is not None:
            self._post("/unload_lora_adapter", {"lora_name": self._published})
        self._published = name

    def _post(self, path: str, body: dict[str, str]) -> tuple[int, str]:
        """Send one request to the server's own interface; return status and text."""
        import httpx2
        import openai

        key = api_key(self.base_url, self.api_key_env)
        with openai.OpenAI(api_key=key, base_url=self.base_url, max_retries=0, timeout=self.timeout_seconds) as client:
            try:
                response = client.post(path, cast_to=httpx2.Response, body=body)
            except openai.APIStatusError as problem:
                return problem.status_code, problem.response.text
            except openai.APIConnectionError as problem:
                raise SampleError(
                    f"{self.base_url}{path}: the server cannot be reached ({problem}); start it, or check "
                    "sample.base_url"
                ) from None
        return response.status_code, response.text


def to_completion(outcome: Outcome, tags: Tags | None = None) -> Completion | Failure:
    """Return a draft's text, or the failure that says why there is none.

    Args:
        outcome: how the call ended.
        tags: those around a student's reasoning, which a server may also give beside the text; None where it has none.
    """
    key, answer = outcome.call.key, outcome.answer
    if answer is None:
        assert outcome.failure is not None
        return outcome.failure.model_copy(update={"stage": "sample", "key": key})
    if answer.refusal:
        text = "the server refused the prompt"
        return Failure(stage="sample", key=key, kind="refusal", message=text, reply=answer.refusal, usage=outcome.usage)
    parted = Parted("", answer.text) if tags is None else part(answer.text, tags)
    if tags is not None and answer.reasoning and not parted.trace:
        closed = bool(answer.text.strip())  # a server that takes the tags out says no answer where they were not closed
        parted = Parted(render_trace(answer.reasoning, tags), answer.text.lstrip(), closed)
    return Completion(
        key=key,
        completion=parted.completion,
        finish_reason="length" if answer.finish_reason == "length" or not parted.closed else "stop",
        tokens=answer.completion_tokens,
        trace=parted.trace,
    )
