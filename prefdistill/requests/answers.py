"""A server's chat completion read as an `Answer`: text, refusal, usage and token log-probabilities.

What is odd but readable is read; a shape that is no chat completion raises ValueError, LookupError, TypeError or
AttributeError. Log-probabilities that cannot be read are none at all: the reply itself was paid for and is kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from prefdistill.protocols import Token
from prefdistill.requests.calls import Answer

FORCED = -9999.0
"""The log-probability that servers give where a token had none."""


def read_answer(data: Any) -> Answer:
    """Read a chat completion."""
    if not data.get("choices"):
        raise ValueError(f"no choices; error: {data.get('error')}" if data.get("error") else "no choices")
    choice = data["choices"][0]
    message = choice["message"]
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part.get("text") or "" for part in content)
    finish = str(choice.get("finish_reason") or "stop")
    refusal = message.get("refusal") or None
    if finish == "content_filter":
        refusal = refusal or content or "stopped by the server's content filter"
    prompt_tokens, completion_tokens = _usage(data.get("usage"))
    return Answer(
        text=_encodable(content),
        finish_reason=finish,
        refusal=_encodable(str(refusal)) if refusal else None,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        tokens=_tokens(choice.get("logprobs")),
        reasoning=_reasoning(message),
    )


def _reasoning(message: Mapping[str, Any]) -> str | None:
    """Return what servers give as reasoning beside the text, under either of its names."""
    for name in ("reasoning_content", "reasoning"):
        found = message.get(name)
        if isinstance(found, str) and found.strip():
            return _encodable(found)
    return None


def _usage(found: Any) -> tuple[int, int]:
    """Return prompt and completion tokens; some servers count hidden reasoning in the total alone."""
    if not isinstance(found, Mapping):
        return 0, 0
    prompt, completion, total = (_count(found.get(f"{name}_tokens")) for name in ("prompt", "completion", "total"))
    return prompt, max(completion, total - prompt)


def _count(found: Any) -> int:
    usable = isinstance(found, (int, float)) and math.isfinite(found) and found > 0
    return int(found) if usable else 0


def _tokens(found: Any) -> tuple[Token, ...] | None:
    """Return the sampled tokens with their alternatives, None where the server gave none that can be read."""
    try:
        content = (found or {}).get("content")
        if not content:
            return None
        return tuple(
            Token(
                _encodable(each["token"]),
                _log_prob(each.get("logprob")),
                tuple(
                    (_encodable(top["token"]), _log_prob(top.get("logprob"))) for top in each.get("top_logprobs") or ()
                ),
            )
            for each in content
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _log_prob(found: Any) -> float:
    """Return a log-probability; one that is missing or no number is what servers write for a forced token."""
    value = FORCED if found is None else float(found)
    return value if math.isfinite(value) else FORCED


def _encodable(text: str) -> str:
    """Replace lone surrogates, which JSON can carry and no file can."""
    return text.encode("utf-8", "replace").decode("utf-8")


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return how long the server wants to be left alone, from `Retry-After` in seconds or as a date."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        value = headers.get("retry-after")
        if not value:
            return None
        seconds = value.strip()
        if seconds.replace(".", "", 1).isdigit():
            return float(seconds)
        return max(0.0, parsedate_to_datetime(seconds).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
