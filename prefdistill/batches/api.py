"""Files and batches on an OpenAI-compatible server: each request made with patience, each batch made once."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from prefdistill.requests.calls import EndpointError
from prefdistill.requests.chat import ADVICE, ChatModel
from prefdistill.requests.layer import Endpoint

Result = TypeVar("Result")

PATH = "/v1/chat/completions"
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
FIRST_WAIT_SECONDS = 0.5
"""After the first attempt at a request; it doubles from there."""
FIRST_ATTEMPTS = 4
"""Of one request, while the server has never answered any: an unreachable host should be reported soon."""
LOOKED_AT = 1_000
"""Batches of the account among which one that may have been made is looked for, newest first."""


class BatchApi:
    """What the server's Batch API is asked for; what may pass is asked again for as long as a call may take.

    Every method but `delete` raises EndpointError where the server refuses, or cannot be reached.
    """

    def __init__(self, chat: ChatModel, endpoint: Endpoint) -> None:
        self.base_url = chat.base_url
        self._client = chat.batch_client()
        self._endpoint = endpoint
        self._answered = False

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def upload(self, name: str, content: bytes) -> str:
        """Send a file of requests and return its id."""
        file = (f"{name}.jsonl", content)
        return str(self._patiently(lambda: self._client.files.create(file=file, purpose="batch")).id)

    def create(self, name: str, file_id: str) -> str:
        """Have the server make a batch of a file, once: where the reply is lost, look whether it was made."""
        asked = False

        def make() -> str:
            nonlocal asked
            if asked and (made := self._look(name, file_id)) is not None:
                return made
            asked = True
            batch = self._client.batches.create(
                input_file_id=file_id,
                endpoint=PATH,
                completion_window="24h",
                metadata={"prefdistill": name},
            )
            return str(batch.id)

        return self._patiently(make)

    def find(self, name: str, file_id: str | None) -> str | None:
        """Return the id of the batch that carries this name, or was made of this file."""
        return self._patiently(lambda: self._look(name, file_id))

    def _look(self, name: str, file_id: str | None) -> str | None:
        for batch in itertools.islice(self._client.batches.list(limit=100), LOOKED_AT):
            named = (batch.metadata or {}).get("prefdistill") == name
            if named or (file_id is not None and batch.input_file_id == file_id):
                return str(batch.id)
        return None

    def batch(self, batch_id: str) -> Any:
        """Return how a batch is getting on, as the SDK's `Batch`; None where the server knows none of that id."""
        return self._patiently(_or_none(lambda: self._client.batches.retrieve(batch_id)))

    def lines(self, file_id: str) -> list[str]:
        """Return the lines of a file of results; none where the server has removed it."""
        data: bytes = self._patiently(_or_none(lambda: self._client.files.content(file_id).content)) or b""
        return data.decode("utf-8", "replace").split("\n")  # JSON may hold other line separators

    def delete(self, file_id: str | None) -> None:
        """Remove a file whose content is kept here; where that fails the server keeps it, and the user is told."""
        import openai

        if file_id is None:
            return
        try:
            self._client.files.delete(file_id)
        except openai.OpenAIError as problem:
            text = f"{self.base_url}: could not delete {file_id} after its batch ({type(problem).__name__})"
            self._endpoint.layer.note(text)

    def _patiently(self, make: Callable[[], Result]) -> Result:
        import openai

        deadline, seconds, attempts = time.monotonic() + self._endpoint.deadline_seconds, FIRST_WAIT_SECONDS, 0
        while True:
            try:
                found = make()
                self._answered = True
                return found
            except (openai.APIStatusError, openai.APIConnectionError) as problem:
                status = getattr(problem, "status_code", None)
                passing = status is None or status in (408, 409, 429) or status >= 500
                attempts += 1
                hopeless = not self._answered and attempts >= FIRST_ATTEMPTS
                if not passing or hopeless or time.monotonic() + seconds > deadline:
                    raise self._unusable(problem, status) from None
            self._endpoint.host.sleep(seconds * random.uniform(0.75, 1.25))
            seconds = min(30.0, 2 * seconds)

    def _unusable(self, problem: Any, status: int | None) -> EndpointError:
        advice = ADVICE.get(status, "mend that and run again")
        if status in (404, 405, 501):
            advice = "this server seems to have no Batch API: set teacher.batch: false"
        said = " ".join(str(problem).split())[:500]
        return EndpointError(
            f"{self.base_url}: the Batch API cannot be used: {said}; {advice}; what was sent before is kept and picked "
            "up by the next run"
        )


def _or_none(make: Callable[[], Result]) -> Callable[[], Result | None]:
    """Return a request that gives None where the server does not know what it asks for."""
    import openai

    def ask() -> Result | None:
        try:
            return make()
        except openai.NotFoundError:
            return None

    return ask
