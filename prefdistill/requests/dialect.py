"""What one model on one server refuses: parameters that are left out or replaced, once, and remembered for the run.

A request is worded in the dialect that the server is known to accept; when it refuses a request and names a parameter,
the dialect changes and the request is sent again. Every change is noted for the user.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prefdistill.protocols import TeacherRequest

Structured = Literal["auto", "json_schema", "json_object", "none"]
TokensParameter = Literal["max_completion_tokens", "max_tokens"]
LADDER: tuple[Structured, ...] = ("json_schema", "json_object", "none")
REFUSING = frozenset({400, 403, 422})
"""Statuses of a refusal that may be about a parameter."""
MOST_ALTERNATIVES = 20
"""Alternatives a token that the API allows; some servers allow only the second number."""
FEWER_ALTERNATIVES = 5


@dataclass
class Dialect:
    """How a model on a server wants to be asked, shared by every plug-in that asks it."""

    structured: Structured
    tokens_parameter: TokensParameter
    fixed_structure: bool = False
    """Whether the user chose how a schema is asked for: it is not replaced then."""
    alternatives: int = MOST_ALTERNATIVES
    swapped: bool = False
    dropped: set[str] = field(default_factory=set)
    gave_logprobs: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def word(self, model: str, request: TeacherRequest, extra_body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON body of a request."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": each.role, "content": each.content} for each in request.messages],
            self.tokens_parameter: request.max_tokens,
        }
        if request.temperature is not None and "temperature" not in self.dropped:
            body["temperature"] = request.temperature
        if request.logprobs and "logprobs" not in self.dropped:
            body |= {"logprobs": True, "top_logprobs": min(request.logprobs, self.alternatives)}
        if request.schema is not None and self.structured == "json_schema":
            schema = {"name": "verdict", "strict": True, "schema": request.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif request.schema is not None and self.structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        return {**body, **extra_body}

    def adapt(
        self, body: Mapping[str, Any], status: int, complaint: str, own: Mapping[str, Any], note: Callable[[str], None]
    ) -> bool:
        """Leave out or replace what the server complains of; True where the request is now worded another way.

        Args:
            body: what was sent.
            status: of the refusal.
            complaint: its text, in lower case.
            own: what the user added to every request: it is never changed.
            note: called with what changed.
        """
        if status not in REFUSING:
            return False
        with self.lock:
            if status == 403:
                return self._adapt_logprobs(body, complaint, own, note, named="logprobs" in complaint)
            return (
                self._adapt_structure(body, complaint, own, note)
                or self._adapt_limit(body, complaint, own, note)
                or self._adapt_logprobs(body, complaint, own, note, named="logprobs" in complaint, may_guess=False)
                or self._adapt_temperature(body, complaint, own, note)
            )

    def _adapt_structure(self, body: Mapping[str, Any], complaint: str, own: Mapping[str, Any], note: Any) -> bool:
        """Climb one rung down the ladder json_schema, json_object, none."""
        used = (body.get("response_format") or {}).get("type")
        words = ("response_format", "json_schema", "json_object", "structured")
        if not used or "response_format" in own or not any(word in complaint for word in words):
            return False
        if self.structured == used:
            if self.fixed_structure or used not in LADDER[:-1]:
                return False
            self.structured = LADDER[LADDER.index(used) + 1]
            note(f"refused response_format {used}; asking for {self.structured}")
        return True

    def _adapt_limit(self, body: Mapping[str, Any], complaint: str, own: Mapping[str, Any], note: Any) -> bool:
        """Try the token limit's other name, once."""
        used = "max_tokens" if "max_tokens" in body else "max_completion_tokens"
        if used not in complaint or used not in body or used in own:
            return False
        if self.tokens_parameter == used:
            if self.swapped:
                return False
            self.swapped = True
            self.tokens_parameter = "max_tokens" if used == "max_completion_tokens" else "max_completion_tokens"
            note(f"refused {used}; sending {self.tokens_parameter}")
        return True

    def _adapt_logprobs(
        self,
        body: Mapping[str, Any],
        complaint: str,
        own: Mapping[str, Any],
        note: Any,
        named: bool,
        may_guess: bool = True,
    ) -> bool:
        """Ask for fewer alternatives, else for no log-probabilities at all.

        A server that forbids (403) without a word about what is asked without them too, unless it gave some before.
        """
        if "logprobs" not in body or "logprobs" in own or not (named or (may_guess and not self.gave_logprobs)):
            return False
        if "top_logprobs" in complaint and body.get("top_logprobs", 0) > FEWER_ALTERNATIVES:
            if self.alternatives > FEWER_ALTERNATIVES:
                self.alternatives = FEWER_ALTERNATIVES
                note(f"refused top_logprobs {body['top_logprobs']}; asking for {FEWER_ALTERNATIVES}")
            return True
        if "logprobs" not in self.dropped:
            self.dropped.add("logprobs")
            note("refused logprobs; leaving it out, so scores cannot come from token probabilities")
        return True

    def _adapt_temperature(self, body: Mapping[str, Any], complaint: str, own: Mapping[str, Any], note: Any) -> bool:
        """Leave the temperature to the server."""
        if "temperature" not in complaint or "temperature" not in body or "temperature" in own:
            return False
        if "temperature" not in self.dropped:
            self.dropped.add("temperature")
            note("refused temperature; leaving it out")
        return True
