"""The OpenAI chat completions format: requests read and refused in its words, answers and streams written in it.

What the router cannot honour is refused by name rather than ignored: a 200 means that the request was understood.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from prefdistill.records import Message, Role

IGNORED = frozenset(
    {
        "user", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "extra_body"
    }
)  # fmt: skip
"""Parameters without a meaning here that change no answer."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "stop": ([], ""),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
}
"""Parameters that are not supported, with the values (besides null) at which they ask for nothing."""
ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MOST_FIELDS_BYTES = 65_536
"""Largest `metadata` and `fields` of a request together, as JSON."""


class WireError(Exception):
    """A request that gets an error in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _number(value: Any) -> Any:
    """Refuse true and false where a number is expected, which Python takes for 1 and 0, and numbers in quotes."""
    if isinstance(value, (bool, str)):
        found = "a text" if isinstance(value, str) else "true or false"
        raise PydanticCustomError("number", "expected a number, found {found}", {"found": found})
    return value


def _switch(value: Any) -> Any:
    """Refuse numbers and texts where true or false is expected."""
    if value is not None and not isinstance(value, bool):
        raise PydanticCustomError("switch", "expected true or false")
    return value


_Number = BeforeValidator(_number)
_Tokens = Annotated[int, _Number, Field(ge=1, le=1_000_000)]
_Switch = BeforeValidator(_switch)


class _Turn(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[dict[str, Any]] | None = None


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    include_usage: Annotated[bool | None, _Switch] = None


class _Request(BaseModel):
    """The parameters that are honoured; all others land in `__pydantic_extra__`."""

    model_config = ConfigDict(extra="allow")

    model: str = ""
    messages: list[_Turn] = Field(min_length=1)
    stream: Annotated[bool | None, _Switch] = None
    stream_options: _StreamOptions | None = None
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    temperature: Annotated[float, _Number, Field(ge=0.0, le=2.0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, _Number, Field(gt=0.0, le=1.0)] | None = None
    seed: Annotated[int, _Number] | None = None
    metadata: dict[str, Any] | None = None
    fields: dict[str, Any] | None = None


@dataclass(frozen=True)
class Asked:
    """A request that was understood."""

    messages: tuple[Message, ...]
    """As the client sent them; the last one is the user's."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Named facts for the rubric's gates, from `fields` and `metadata`."""
    stream: bool = False
    stream_usage: bool = False
    """Whether the stream ends with the tokens used."""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    started: float = field(default_factory=perf_counter)

    @property
    def characters(self) -> int:
        """Characters of all messages."""
        return sum(len(each.content) for each in self.messages)


def parse_request(body: bytes, model: str) -> Asked:
    """Read a request's body.

    Args:
        body: JSON, not larger than the server takes.
        model: the only model that is served.

    Raises:
        WireError: it is no JSON object, or asks for something that is not supported.
    """
    try:
        found = _Request.model_validate_json(body)
    except ValidationError as problem:
        raise _invalid(problem) from None
    if found.model and found.model != model:
        text = f"The model `{found.model[:100]}` does not exist here; expected `{model}`."
        raise WireError(404, text, param="model", code="model_not_found")
    _refuse_unsupported(found.__pydantic_extra__ or {})
    messages = tuple(_message(turn, number) for number, turn in enumerate(found.messages))
    if messages[-1].role != "user" or not messages[-1].content.strip():
        raise WireError(400, "The last message must be the user's, with text in it.", param="messages")
    return Asked(
        messages=messages,
        fields=_fields(found),
        stream=bool(found.stream),
        stream_usage=bool(found.stream_options and found.stream_options.include_usage),
        max_tokens=found.max_completion_tokens or found.max_tokens,
        temperature=found.temperature,
        top_p=found.top_p,
        seed=found.seed,
    )


def _invalid(problem: ValidationError) -> WireError:
    error = problem.errors()[0]
    if error["type"] == "json_invalid":
        return WireError(400, f"The body is not valid JSON: {error['msg'].removeprefix('Invalid JSON: ')}.")
    places = (str(part) for part in error["loc"])
    param = ".".join(part for part in places if part != "str" and not part.startswith("list["))  # types of `content`
    if not param:
        return WireError(400, "The body is no JSON object.")
    return WireError(400, f"{param}: {error['msg'][:1].lower()}{error['msg'][1:]}.", param=param.split(".")[0])


def _refuse_unsupported(extra: Mapping[str, Any]) -> None:
    for name, value in extra.items():
        if value is None or name in IGNORED or any(_same(value, each) for each in NEUTRAL.get(name, ())):
            continue
        known = "is not supported by this server but at the value that asks for nothing; leave it out."
        if name not in NEUTRAL:
            known = "is not known to this server; leave it out. Facts for the rubric go into `fields` or `metadata`."
        text = f"`{name[:100]}` {known}"
        raise WireError(400, text, param=name[:100], code="unsupported_parameter")


def _same(value: Any, neutral: Any) -> bool:
    """Whether two JSON values are the same: true is not 1, although Python says so, and 1.0 is."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _message(turn: _Turn, number: int) -> Message:
    place = f"messages.{number}"
    role = ROLES.get(turn.role)
    if role is None or (turn.__pydantic_extra__ or {}).get("tool_calls"):
        tools = turn.role in ("tool", "function") or role is not None
        found = "tools are not supported" if tools else f"the role `{turn.role[:100]}` is unknown"
        raise WireError(400, f"{place}: {found}; expected a system, user or assistant message.", param="messages")
    content = turn.content
    if isinstance(content, list):
        if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in content):
            raise WireError(400, f"{place}.content: expected text; other parts are not supported.", param="messages")
        content = "".join(part["text"] for part in content)
    if content is None:
        raise WireError(400, f"{place}.content: missing; expected text.", param="messages")
    return Message(role=role, content=content)


def _fields(found: _Request) -> dict[str, Any]:
    fields = {**(found.metadata or {}), **(found.fields or {})}
    if fields and len(json.dumps(fields)) > MOST_FIELDS_BYTES:
        raise WireError(400, f"`fields` and `metadata` are larger than {MOST_FIELDS_BYTES} bytes.", param="fields")
    return fields


@dataclass(frozen=True)
class Tokens:
    """Tokens of an answer; None where nobody said."""

    prompt: int | None = None
    completion: int | None = None

    def body(self) -> dict[str, int] | None:
        """Return the format's `usage`."""
        if self.completion is None:
            return None
        prompt = self.prompt or 0
        return {"prompt_tokens": prompt, "completion_tokens": self.completion, "total_tokens": prompt + self.completion}


Finish = Literal["stop", "length"]


def completion_body(asked: Asked, model: str, text: str, finish: str, tokens: Tokens) -> bytes:
    """Return a whole answer."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    body = {**_head(asked, model, "chat.completion"), "choices": [choice], "usage": tokens.body()}
    return json.dumps(body, ensure_ascii=False).encode()


def first_chunk(asked: Asked, model: str) -> bytes:
    """Return the chunk that opens a stream."""
    return _chunk(asked, model, {"role": "assistant", "content": ""})


def text_chunk(asked: Asked, model: str, text: str) -> bytes:
    """Return the chunk of a piece of text."""
    return _chunk(asked, model, {"content": text})


def last_chunks(asked: Asked, model: str, finish: str, tokens: Tokens) -> bytes:
    """Return what ends a stream: the reason, the tokens where they were asked for, and the mark of the end."""
    usage = b""
    if asked.stream_usage:
        usage = _event({**_head(asked, model, "chat.completion.chunk"), "choices": [], "usage": tokens.body()})
    return _chunk(asked, model, {}, finish) + usage + b"data: [DONE]\n\n"


def error_chunk(problem: WireError) -> bytes:
    """Return the event that breaks a stream off."""
    return _event(problem.body)


def _chunk(asked: Asked, model: str, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _event({**_head(asked, model, "chat.completion.chunk"), "choices": [choice]})


def _head(asked: Asked, model: str, kind: str) -> dict[str, Any]:
    created = int(datetime.fromisoformat(asked.time).timestamp())
    return {"id": asked.id, "object": kind, "created": created, "model": model}


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"
