"""One paid request and what becomes of it: the call, each attempt's answer or problem, and the outcome."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Literal

from prefdistill.errors import PrefdistillError
from prefdistill.protocols import Token
from prefdistill.records import Failure, Usage, digest


class EndpointError(PrefdistillError):
    """An endpoint cannot be used at all: unreachable, unauthorised, or without the model asked for."""


class SetAside(BaseException):
    """A group of drafts asks for replies that are not there, where nobody waits for them: they come in a batch, or the
    group is judged again on a thread. No `Exception`, so that no judge takes it for one."""


class CallError(Exception):
    """One attempt that gave no answer."""

    def __init__(
        self,
        message: str,
        retry: Literal["no", "now", "later"],
        status: int | None = None,
        retry_after_seconds: float | None = None,
        advice: str = "",
        lost: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry = retry
        """now: the request itself was mended (a refused parameter left out); later: after a back-off."""
        self.status = status
        """HTTP status; None where there was no reply."""
        self.retry_after_seconds = retry_after_seconds
        self.advice = advice
        """What to do where nothing from this endpoint ever works."""
        self.lost = lost
        """Whether the server may have done the work all the same: the attempt then stays charged at its bound."""


@dataclass(frozen=True)
class Answer:
    """What a server replied: paid for, settled, and what the cache keeps."""

    text: str
    finish_reason: str
    refusal: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens: tuple[Token, ...] | None = None
    """The reply token by token; None where the server gave no log-probabilities."""
    reasoning: str | None = None
    """What the server gave as the model's reasoning, beside the text."""

    def to_row(self) -> dict[str, Any]:
        """Return the answer as JSON can hold it; tokens as `[text, log_prob, alternatives]`."""
        row = {name: value for name, value in vars(self).items() if value is not None}
        if self.tokens is not None:
            row["tokens"] = [[each.text, each.log_prob, each.alternatives] for each in self.tokens]
        return row

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Answer:
        """Return the answer that `to_row` wrote."""
        row.pop("logprobs", None)  # how version 0.1 kept them
        if row.get("tokens") is not None:
            row["tokens"] = tuple(
                Token(text, log_prob, tuple((each, value) for each, value in alternatives))
                for text, log_prob, alternatives in row["tokens"]
            )
        return cls(**row)


@dataclass(frozen=True)
class Call:
    """One request to make."""

    key: str
    """The caller's name for it."""
    identity: Any
    """Everything that the answer depends on, without endpoint and key: the cache key is its hash."""
    send: Callable[[], Answer]
    """Make one attempt; raises CallError."""
    body: Callable[[], dict[str, Any]] | None = None
    """Return the JSON body that would be sent now, in the dialect that the server is known to accept."""
    most: tuple[int, int] | Callable[[], tuple[int, int]] = (0, 0)
    """The most prompt and completion tokens that one attempt can cost; a function where that takes time to say."""

    @cached_property
    def bound(self) -> tuple[int, int]:
        """The most prompt and completion tokens that one attempt can cost."""
        return self.most() if callable(self.most) else self.most

    @cached_property
    def cache_key(self) -> str:
        """The key of its reply in the request cache: `digest(identity, 40)`."""
        if not isinstance(self.identity, dict):
            return digest(self.identity, 40)
        parts, identity = [], self.identity
        for shared, names in groupby(sorted(identity), lambda name: isinstance(identity[name], dict)):
            if shared:
                parts += [f"{_encode(name)}:{_encode_once(identity[name])}" for name in names]
            else:
                parts.append(_encode({name: identity[name] for name in names})[1:-1])
        return hashlib.sha256(f"{{{','.join(parts)}}}".encode()).hexdigest()[:40]


_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str).encode
_encoded: dict[int, tuple[dict[str, Any], str]] = {}
"""JSON of parts that many calls share, such as a schema, by their id; the parts are kept so that no id is given twice."""
MOST_ENCODED = 256


def _encode_once(part: dict[str, Any]) -> str:
    """Return a part of an identity as canonical JSON."""
    known = _encoded.get(id(part))
    if known is None:
        if len(_encoded) >= MOST_ENCODED:
            _encoded.clear()
        known = _encoded[id(part)] = (part, _encode(part))
    return known[1]


@dataclass(frozen=True)
class Outcome:
    """How one call ended: with an answer, or with a failure of kind provider."""

    call: Call
    answer: Answer | None
    usage: Usage
    failure: Failure | None = None
