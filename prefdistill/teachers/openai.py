"""Teacher `openai`: any OpenAI-compatible endpoint, hosted or served on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, field_validator

from prefdistill.batches import BatchDesk, BatchDoor
from prefdistill.errors import PluginError
from prefdistill.protocols import Reply, RunContext, TeacherRequest
from prefdistill.records import Failure, FailureKind
from prefdistill.requests.chat import ChatModel, Structured, TokensParameter, api_key, without_secrets
from prefdistill.requests.layer import Endpoint, Outcome
from prefdistill.teachers.writing import WritingTeacher


class OpenAITeacher(WritingTeacher):
    """A model behind a chat completions endpoint (OpenAI, vLLM, llama.cpp, `transformers serve`, …)."""

    operational: ClassVar[frozenset[str]] = frozenset(
        {
            "base_url",
            "api_key_env",
            "concurrency",
            "timeout_seconds",
            "deadline_seconds",
            "max_tokens_parameter",
            "usd_per_million",
            "requests_per_minute",
            "tokens_per_minute",
            "batch",
            "batch_discount",
        }
    )

    keeps_replies: ClassVar[bool] = True
    """Its replies are in the request cache, so what was asked before is known without waiting."""

    model: str = Field(min_length=1)
    """The model's name, as the server knows it."""
    base_url: str = "https://api.openai.com/v1"
    """Where the server is; usually ends in /v1."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; the key itself is never written anywhere."""
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    """Sent where a request names none; None leaves it out."""
    max_tokens_parameter: TokensParameter = "max_completion_tokens"
    """What the server calls its token limit; the other name is tried once where this one is refused."""
    structured: Structured = "auto"
    """How a schema is asked for; auto goes from json_schema over json_object to none as the server refuses them."""
    extra_body: dict[str, Any] = {}
    """Further parameters, sent as they are."""
    concurrency: int = Field(default=32, ge=1, le=1024)
    """Most requests in flight."""
    timeout_seconds: float = Field(default=120.0, gt=0.0)
    """For one attempt."""
    deadline_seconds: float = Field(default=600.0, gt=0.0)
    """For one call with all its retries."""
    requests_per_minute: float | None = Field(default=None, gt=0.0)
    """Most requests in any minute, together with all others to the same host; None for no limit."""
    tokens_per_minute: float | None = Field(default=None, gt=0.0)
    """Most prompt and completion tokens in any minute, likewise."""
    usd_per_million: dict[Literal["input", "output"], Annotated[float, Field(ge=0.0)]] | None = None
    """US dollars per million tokens, `{input: …, output: …}`; by default as the price table says."""

    batch: bool = False
    """Judge through the server's Batch API: half the price at OpenAI, replies within 24 hours. Drafts are written live."""
    batch_discount: float = Field(default=0.5, ge=0.0, le=1.0)
    """What a request in a batch costs, as a share of the model's price."""

    _chat: ChatModel | None = PrivateAttr(default=None)
    _endpoint: Endpoint | None = PrivateAttr(default=None)
    _door: BatchDoor | None = PrivateAttr(default=None)

    @field_validator("extra_body")
    @classmethod
    def _no_secrets(cls, extra_body: dict[str, Any]) -> dict[str, Any]:
        return without_secrets(extra_body)

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"found `{url}`; expected a URL such as http://localhost:8000/v1")
        if parts.username or parts.password:
            raise ValueError(
                "a URL must not hold a password; put the key in the environment and name it in api_key_env"
            )
        if parts.query:
            raise ValueError(
                "a URL with a query is written to the run folder; put a key in the environment (api_key_env)"
            )
        return url

    def open(self, context: RunContext) -> None:
        """Find the key and take a place in the request layer; nothing is sent yet."""
        if context.requests is None:
            raise PluginError(
                "teacher openai: opened without a request layer; pass RunContext(requests=RequestLayer())"
            )
        self._chat = ChatModel(
            context.requests,
            model=self.model,
            base_url=self.base_url,
            key=api_key(self.base_url, self.api_key_env),
            timeout_seconds=self.timeout_seconds,
            tokens_parameter=self.max_tokens_parameter,
            structured=self.structured,
            extra_body=self.extra_body,
        )
        self._endpoint = context.requests.endpoint(
            self._chat.base_url,
            self.concurrency,
            self.deadline_seconds,
            self.usd_per_million,
            model=self.model,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
        )
        if self.batch and not context.requests.cached_only:
            if context.requests.cache is None:
                raise PluginError(
                    "teacher.batch: replies of a batch are kept in the request cache, which is off; set `cache:` to "
                    "user or to a path, or teacher.batch to false"
                )
            desk = BatchDesk.of(context.requests, context.directory)
            self._door = BatchDoor(desk, self._chat, self._endpoint, context.requests.cache, self.batch_discount)

    def close(self) -> None:
        """Close the connections."""
        if self._door is not None:
            self._door.close()
        if self._chat is not None:
            self._chat.close()

    def replies(self, requests: Sequence[TeacherRequest]) -> Iterator[Reply | Failure]:
        """Yield each reply, or why there is none, as it arrives.

        Raises:
            EndpointError: the server is unreachable, refuses the key or does not know the model.
        """
        if self._chat is None or self._endpoint is None:
            raise PluginError("teacher openai: asked before it was opened; call open(context) first")
        chat, temperature, calls = self._chat, self.temperature, []
        for request in requests:
            if request.temperature is None and temperature is not None:
                request = replace(request, temperature=temperature)
            calls.append(chat.call(request))
        desk: BatchDesk | None = self._endpoint.layer.memory.get("batches")
        if desk is None or not desk.collecting:
            yield from map(to_reply, self._endpoint.outcomes(calls))
        elif self._door is None:  # live, beside teachers that are asked in batches
            yield from map(to_reply, map(desk.counted, self._endpoint.outcomes(calls)))
        else:
            yield from map(to_reply, self._door.outcomes(calls))


def to_reply(outcome: Outcome) -> Reply | Failure:
    """Return a reply that can be read, or the failure that says why it cannot."""
    key, answer = outcome.call.key, outcome.answer
    if answer is None:
        assert outcome.failure is not None
        return outcome.failure.model_copy(update={"stage": "teacher"})
    kind: FailureKind | None = None
    message, text = "", answer.text or None
    if answer.refusal:
        kind, message, text = "refusal", "the model refused", answer.refusal
    elif answer.finish_reason == "length":
        kind = "truncated"
        message = f"the reply was cut at the token limit after {answer.completion_tokens} tokens; raise max_tokens"
    elif not answer.text.strip():
        kind, message = "empty", "the reply has no text"
    if kind is not None:
        return Failure(stage="teacher", key=key, kind=kind, message=message, reply=text, usage=outcome.usage)
    return Reply(
        key=key,
        text=answer.text,
        finish_reason=answer.finish_reason,
        usage=outcome.usage,
        tokens=answer.tokens,
        reasoning=answer.reasoning or "",
    )
