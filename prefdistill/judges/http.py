"""Judge `http`: any program behind a URL that takes and returns this JSON, through the request layer.

Place in the flow: drafts → **verdict**. One POST a prompt, with all of its drafts:

    {"prefdistill": 1,
     "prompt": {"id": "p1", "messages": [{"role": "user", "content": "…"}], "fields": {"day": "Friday"}},
     "drafts": [{"id": "d1", "text": "…", "finish_reason": "stop"}, {"id": "d2", "text": "…", "finish_reason": "length"}],
     "rubric": {"name": "email", "purpose": "…",
                "criteria": [{"name": "tone", "question": "…", "levels": ["rude", "kind"], "weight": 2.0}],
                "gates": [{"name": "honest", "question": "…", "levels": ["no", "yes"], "pass_when": "no"}]}}

`drafts` are the distinct texts, in an order that says nothing about who wrote them; `finish_reason` may be null.
`criteria` and `gates` are the rubric's asked ones, as they apply to this prompt, their fields filled in. The response
is one JSON object with one or two of these keys, `scores` and `criteria` never together:

    {"scores": {"d1": 0.7, "d2": null}}               one finite number a draft on the judge's own scale (the recipe
                                                      then sets pair.min_margin); null abstains
    {"criteria": {"d1": {"tone": "kind", "honest": {"level": "no", "reason": "…"}},
                  "d2": {"tone": 0.25, "honest": "no"}}}
                                                      for each asked criterion and gate its level, a number from 0 to 1,
                                                      or an object with `level` or `score` and perhaps a `reason`
    {"preferences": [{"first": "d1", "second": "d2", "probability": 0.9, "reason": "…"},
                     {"first": "d2", "second": "d1", "probability": 0.2}]}
                                                      the probability that the first is better, once in each order: a
                                                      comparison in one order alone is not known; beside scores or
                                                      criteria they confirm a pair, alone they rank the drafts
    {"abstentions": {"d2": "why"}}                    beside any of these: no verdict on this draft

Each draft needs an answer or an abstention. What is missing, off the menu, out of range or no number fails that draft;
a response that names an unknown draft, an unknown key or is no such object fails all of them. A failure is never a
score. The rubric's checked gates and criteria are applied here, whatever the server says. tests/judges/test_http.py
holds a server in twenty lines.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, field_validator

from prefdistill.errors import PluginError
from prefdistill.judges.http_verdicts import Sent, to_verdict
from prefdistill.judges.texts import asked_of, same_texts
from prefdistill.plugins import Plugin
from prefdistill.protocols import RunContext, TeacherRequest
from prefdistill.records import Draft, Failure, Message, Prompt, Usage, Verdict
from prefdistill.requests.answers import retry_after_seconds
from prefdistill.requests.chat import GATEWAY, UNSENT
from prefdistill.requests.layer import Answer, Call, CallError, Endpoint
from prefdistill.rubric import Rubric

MOST_BYTES = 4 << 20
"""A response that is longer is broken off."""
ADVICE = {
    None: "the server cannot be reached: start it, or check judge.url",
    401: "the key is refused: check judge.api_key_env",
    403: "the key is refused: check judge.api_key_env",
    404: "there is no such path: check judge.url",
    405: "the path takes no POST: check judge.url",
}
AGAIN = frozenset({408, 425, 429})


@dataclass(frozen=True)
class Bill:
    """A judge as what reckons a run's price in advance knows a model: one call is one token."""

    model: str
    base_url: str
    concurrency: int
    usd_per_million: dict[str, float] | None
    """None where nobody said what a call costs."""


class HttpJudge(Plugin):
    """Asks a program of one's own behind a URL; the JSON it takes and returns stands in this module's first lines."""

    operational: ClassVar[frozenset[str]] = frozenset(
        {"url", "api_key_env", "concurrency", "timeout_seconds", "deadline_seconds", "usd_per_call"}
    )

    url: str
    """Where drafts are sent, with POST. Redirects are not followed."""
    name: str | None = None
    """What the judge is called in verdicts and in the request cache; by default its URL. With a name the URL may
    change and replies are still known."""
    revision: str = ""
    """Raise it when the judge behind the URL changes: replies of another revision are asked for again."""
    api_key_env: str | None = None
    """The environment variable that holds the key, sent as `Authorization: Bearer …`; None sends none."""
    concurrency: int = Field(default=8, ge=1, le=1024)
    """Most requests in flight."""
    timeout_seconds: float = Field(default=120.0, gt=0.0)
    """For one attempt, the whole response included."""
    deadline_seconds: float = Field(default=600.0, gt=0.0)
    """For one call with all its retries."""
    usd_per_call: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    """What one call costs, for the run's bill; a recipe with `budget.usd` needs it (0 for a program of one's own)."""

    _endpoint: Endpoint | None = PrivateAttr(default=None)
    _client: Any = PrivateAttr(default=None)
    _key: str = PrivateAttr(default="")
    _bill: Bill | None = PrivateAttr(default=None)

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"found `{url}`; expected a URL such as http://localhost:9000/judge")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "a URL with a password or a query is written to the run folder; put the key in the environment and "
                "name it in api_key_env"
            )
        return url

    @property
    def threads(self) -> int:
        """How many prompts to judge at once: one a request in flight."""
        return self.concurrency

    def identity(self) -> dict[str, Any]:
        """Return what verdicts depend on: the judge's name, by default its URL, and its revision."""
        return {**super().identity(), "name": self.name or self.url}

    def open(self, context: RunContext) -> None:
        """Find the key and take a place in the request layer; nothing is sent yet.

        Raises:
            PluginError: the key is not set, or a budget in dollars does not know what a call costs.
        """
        import httpx2

        layer = context.requests
        if layer is None:
            raise PluginError("judge http: opened without a request layer; pass RunContext(requests=RequestLayer())")
        if self.api_key_env is not None:
            self._key = os.environ.get(self.api_key_env, "")
            if not self._key:
                raise PluginError(
                    f"judge http: judge.api_key_env: the environment variable {self.api_key_env} is not set; "
                    "set it to the key for judge.url"
                )
        budget = layer.ledger.budget
        if budget is not None and budget.usd is not None and self.usd_per_call is None:
            raise PluginError(
                f"budget.usd: nobody can say what a call to {self.url} costs; set judge.usd_per_call (0 if it is free), "
                "or set budget.calls instead"
            )
        # The layer prices tokens; a call to a judge is one of them.
        price = {"input": (self.usd_per_call or 0.0) * 1e6, "output": 0.0}
        self._endpoint = layer.endpoint(self.url, self.concurrency, self.deadline_seconds, price)  # type: ignore[arg-type]
        self._client = httpx2.Client(
            follow_redirects=False, timeout=self.timeout_seconds, limits=httpx2.Limits(max_connections=None)
        )

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        """Return what the server says about these drafts; what it does not say is a failure.

        Raises:
            EndpointError: the server is unreachable, refuses the key or has no such path.
            PluginError: the judge was not opened.
        """
        if self._endpoint is None:
            raise PluginError("judge http: asked before it was opened; call open(context) first")
        sent = Sent(
            prompt, rubric, {f"d{number}": same for number, same in enumerate(same_texts(drafts).values(), start=1)}
        )
        body = self._body(sent)
        identity = {"model": f"http {self.name or self.url}", "revision": self.revision, "body": body}
        call = Call(prompt.id, identity, lambda: self._send(body), lambda: body, (1, 0))
        (outcome,) = self._endpoint.outcomes([call])
        usage = outcome.usage.model_copy(update={"prompt_tokens": 0})
        name = self.name or self._use or "http"
        if outcome.answer is None:
            assert outcome.failure is not None
            return _nothing(sent, outcome.failure.model_copy(update={"usage": usage}))
        return to_verdict(outcome.answer.text, sent, name, usage)

    def expected_requests(
        self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric
    ) -> list[tuple[Any, TeacherRequest]]:
        """Return the one call that judging this group makes, as a request of one token to a model of its price."""
        if self._bill is None:
            unknown = self.usd_per_call is None
            price = None if self.usd_per_call is None else {"input": self.usd_per_call * 1e6, "output": 0.0}
            name = f"{self.name or self.url}{' (set judge.usd_per_call)' if unknown else ''}"
            self._bill = Bill(name, self.url, self.concurrency, price)
        return [(self._bill, TeacherRequest(prompt.id, (Message(role="user", content="call"),), 0))]

    def _body(self, sent: Sent) -> dict[str, Any]:
        """Return the request's JSON."""
        asked = asked_of(sent.rubric, sent.prompt)
        weights = {each.name: each.weight for each in sent.rubric.criteria}
        gates = {gate.name for gate in sent.rubric.gates}
        return {
            "prefdistill": 1,
            "prompt": {
                "id": sent.prompt.id,
                "messages": [each.model_dump() for each in sent.prompt.messages],
                "fields": sent.prompt.model_dump(mode="json")["fields"],
            },
            "drafts": [
                {"id": name, "text": same[0].completion, "finish_reason": same[0].finish_reason}
                for name, same in sent.drafts.items()
            ],
            "rubric": {
                "name": sent.rubric.name,
                "purpose": sent.rubric.purpose,
                "criteria": [
                    {"name": a.name, "question": a.question, "levels": list(a.levels), "weight": weights[a.name]}
                    for a in asked
                    if a.name not in gates
                ],
                "gates": [
                    {"name": a.name, "question": a.question, "levels": list(a.levels), "pass_when": a.pass_when}
                    for a in asked
                    if a.name in gates
                ],
            },
        }

    def _send(self, body: dict[str, Any]) -> Answer:
        """Make one attempt; a response that is no JSON object is tried again, like an error of the server."""
        import httpx2

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        until = time.monotonic() + self.timeout_seconds
        try:
            with self._client.stream("POST", self.url, json=body, headers=headers) as response:
                text = self._text(response.iter_bytes(), until)
        except httpx2.TimeoutException as problem:
            text = f"no reply within {self.timeout_seconds:g} s (timeout_seconds)"
            raise CallError(text, "later", 408, lost=type(problem).__name__ not in UNSENT) from None
        except httpx2.TransportError as problem:
            lost = type(problem).__name__ not in UNSENT
            raise CallError(self._clean(str(problem)), "later", None, advice=ADVICE[None], lost=lost) from None
        except httpx2.HTTPError as problem:
            raise CallError(self._clean(str(problem)), "later", 502, lost=True) from None
        status = response.status_code
        if status != 200:
            found = f"HTTP {status}: {self._clean(text)}"
            if 300 <= status < 400:
                found = f"HTTP {status}: a redirect to {self._clean(response.headers.get('location', '?'))}"
                raise CallError(found, "no", 404, advice="redirects are not followed: put the final URL into judge.url")
            retry = status in AGAIN or status >= 500
            after = retry_after_seconds(response.headers)
            lost = status in GATEWAY
            raise CallError(found, "later" if retry else "no", status, after, ADVICE.get(status, ""), lost)
        if not _is_object(text):
            advice = "check that judge.url is a judge: its JSON stands in prefdistill.judges.http"
            found = f"the response is no JSON object: {self._clean(text)}"
            raise CallError(found, "later", 502, advice=advice, lost=True)
        return Answer(text=text, finish_reason="stop", prompt_tokens=1)

    def _text(self, chunks: Iterator[bytes], until: float) -> str:
        """Return a response's text, read within its time and size."""
        import httpx2

        parts, size = [], 0
        for chunk in chunks:
            size += len(chunk)
            if size > MOST_BYTES:
                raise CallError(f"the response is longer than {MOST_BYTES >> 20} MiB", "no", 502, lost=True)
            if time.monotonic() > until:
                raise httpx2.ReadTimeout("the response did not end in time")
            parts.append(chunk)
        return b"".join(parts).decode("utf-8", "replace")

    def _clean(self, text: str) -> str:
        """Keep an error message short, on one line and free of the key."""
        if len(self._key) > 4:
            text = text.replace(self._key, "…")
        return " ".join(text.split())[:300]


def _nothing(sent: Sent, failure: Failure) -> Verdict:
    """Return the verdict of a call that gave no answer; the cost is counted once."""
    failures = [
        failure.model_copy(update={"stage": "judge", "key": draft.id, "usage": Usage() if number else failure.usage})
        for number, draft in enumerate(draft for same in sent.drafts.values() for draft in same)
    ]
    return Verdict(prompt_id=sent.prompt.id, failures=tuple(failures))


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
