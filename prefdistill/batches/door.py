"""One teacher's way to the Batch API: what it collects, sends, waits for and puts into the request cache."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any
from uuid import uuid4

from prefdistill.batches.api import ENDED, PATH, BatchApi
from prefdistill.batches.desk import BatchDesk
from prefdistill.batches.notes import Batch, BatchNote
from prefdistill.batches.results import problems_of_lines, read_results, without_result
from prefdistill.records import Failure, Usage
from prefdistill.requests.calls import Answer, Call, CallError, EndpointError, Outcome, SetAside
from prefdistill.requests.chat import ChatModel
from prefdistill.requests.layer import Endpoint
from prefdistill.requests.reply_cache import ReplyCache

log = logging.getLogger(__name__)

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000
"""What one file may hold."""
ATTEMPTS = 3
"""How often a request is sent that fails or expires inside its batch."""
UNWANTED = "unwanted replies"
"""Where the request layer's memory has the keys of replies that are not to be kept."""
TOO_MANY_TOKENS = "token_limit_exceeded"
"""The error code of a batch that does not fit beside what the account has waiting already."""


class BatchDoor:
    """One teacher's way to the Batch API."""

    def __init__(
        self, desk: BatchDesk, chat: ChatModel, endpoint: Endpoint, cache: ReplyCache, discount: float
    ) -> None:
        """`discount` is what a request in a batch costs, as a share of the usual price."""
        self.desk, self.chat, self.endpoint, self.cache, self.discount = desk, chat, endpoint, cache, discount
        self.api = BatchApi(chat, endpoint)
        self.waiting: dict[str, Call] = {}
        """By cache key: collected, and neither answered nor given up."""
        self.running: list[Batch] = []
        self._queue: deque[str] = deque()
        self._elsewhere: list[str] = []
        """Calls that another process is making."""
        self._most = MOST_REQUESTS
        self._held = False
        """Whether what runs has to end before more can be sent."""
        self._lock = threading.Lock()
        self.start_over()
        desk.doors.append(self)

    def close(self) -> None:
        """Close the connections."""
        self.api.close()

    def start_over(self) -> None:
        """Forget what earlier stages collected, gave up and paid for."""
        self.waiting.clear()
        self._failed: dict[str, Failure] = {}
        self._attempts: Counter[str] = Counter()
        self._paid: dict[str, Usage] = {}
        self._takers: dict[str, str] = {}

    @property
    def busy(self) -> bool:
        """Whether something is still to be sent or waited for."""
        return bool(self._queue or self.running or self._elsewhere)

    def outcomes(self, calls: Sequence[Call]) -> Iterator[Outcome]:
        """Yield the outcome of every call, or collect those that have none.

        Raises:
            SetAside: at least one was collected.
        """
        cached = self.endpoint.layer.all_cached(calls)
        new = [call for call in calls if call.cache_key not in cached and call.cache_key not in self._failed]
        if new:
            with self._lock:
                for call in new:
                    self.waiting.setdefault(call.cache_key, call)
            raise SetAside
        for call in calls:
            if (answer := cached.get(call.cache_key)) is not None:
                yield Outcome(call, answer, self._usage(call))
            else:
                failure = self._failed[call.cache_key].model_copy(update={"key": call.key})
                yield Outcome(call, None, failure.usage, failure)

    def _usage(self, call: Call) -> Usage:
        """Return what a reply cost: in every pass of a stage the same, its price for whoever asked first."""
        key, cached = call.cache_key, Usage(cached=1)
        with self._lock:
            if (paid := self._paid.get(key)) is not None and self._takers.setdefault(key, call.key) == call.key:
                return paid
            known = self._takers.setdefault(f"{key} {call.key}", call.key)
        if known is not call.key:
            return cached
        self.endpoint.layer.spend(cached)
        return cached

    def begin(self) -> None:
        """Pick up the batches of an earlier process, and queue the calls that are in none."""
        for note in self.desk.notes.outstanding(self.chat.base_url, self.chat.model):
            if note.name in {batch.name for batch in self.running}:
                continue
            batch_id = note.batch_id or self.api.find(note.name, note.file_id)
            if batch_id is None:  # it was never made
                self.api.delete(note.file_id)
                self.endpoint.layer.ledger.settle(note.name, Usage())
                self._note("lost", note.name)
                continue
            if note.batch_id is None:
                self._note("created", note.name, batch_id=batch_id)
            batch = Batch(note.name, note.custom_ids, note.file_id, batch_id)
            self.running.append(batch)
            if self.waiting.keys() & set(batch.keys):
                log.warning("batch %s: picked up again, sent before with %d requests", batch_id, len(batch.keys))
            elif not self._look_at(batch):  # nobody asks for its replies now: a later run may
                self.running.remove(batch)
        held = set(chain.from_iterable(batch.keys for batch in self.running))
        self._elsewhere = [key for key in self.waiting if key not in held]
        self._take_over()

    def _take_over(self) -> None:
        """Queue the calls that no other process is making, and take the replies that one has got."""
        for key in self.cache.get_many(self._elsewhere):
            self.waiting.pop(key, None)
        left = [key for key in self._elsewhere if key in self.waiting]
        mine = {key for key in left if self.cache.claim(key)}
        self._queue.extend(key for key in left if key in mine)
        self._elsewhere = [key for key in left if key not in mine]

    def advance(self) -> bool:
        """Look at every batch once, and send what may be sent; True where something changed."""
        ended = [self._look_at(batch) for batch in list(self.running)]
        if self._elsewhere:
            self._take_over()
        queued = len(self._queue)
        self._held = self._held and bool(self.desk.running) and not any(ended)
        while self._queue and not self._held:
            self._send()
        return any(ended) or len(self._queue) != queued

    def _look_at(self, batch: Batch) -> bool:
        """Ask how a batch is getting on, and settle it where it has ended or is gone; True where it has."""
        found = self.api.batch(batch.id)
        if found is None:
            log.warning(
                "batch %s: %s knows of no such batch; its requests are sent again", batch.id, self.chat.base_url
            )
            self._note("lost", batch.name)
            self.running.remove(batch)
            self._elsewhere += [key for key in batch.keys if key in self.waiting]
            return True
        counts = found.request_counts
        batch.done = counts.completed + counts.failed if counts is not None else 0
        if str(found.status).lower() not in ENDED:
            return False
        self._settle(batch, found)
        return True

    def _send(self) -> None:
        """Make one batch of what is queued: as much as one file may hold and as the budget is sure to pay for."""
        ledger = self.endpoint.layer.ledger
        bodies: dict[str, Mapping[str, Any]] = {}
        lines: list[bytes] = []
        size, most = 0, Usage()
        while self._queue and len(lines) < self._most:
            key = self._queue[0]
            call = self.waiting[key]
            bound = most + self.endpoint.most(call, self.discount)
            if not ledger.fits(bound) and (lines or self.desk.running):
                self._held = not lines
                break
            body = call.body() if call.body is not None else {}
            line = {"custom_id": key, "method": "POST", "url": PATH, "body": body}
            data = (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "replace")
            if lines and size + len(data) > MOST_BYTES:
                break
            self._queue.popleft()
            bodies[key], most, size = body, bound, size + len(data)
            lines.append(data)
        if not lines:
            return
        name, content, keys = f"prefdistill-{uuid4().hex}", b"".join(lines), tuple(bodies)
        self._note("sending", name, custom_ids=keys, file_hash=hashlib.sha256(content).hexdigest())
        ledger.leave(ledger.reserve(most, name))
        file_id = self.api.upload(name, content)
        self._note("uploaded", name, file_id=file_id)
        batch_id = self.api.create(name, file_id)
        self._note("created", name, batch_id=batch_id)
        self.running.append(Batch(name, keys, file_id, batch_id, bodies))
        log.warning(
            "batch %s: %s sent to %s, to be answered within 24 hours; interrupting is safe, running again picks it up",
            batch_id,
            "1 request" if len(keys) == 1 else f"{len(keys)} requests",
            self.chat.base_url,
        )

    def _settle(self, batch: Batch, found: Any) -> None:
        """Put a batch's replies into the request cache, count what they cost, and note what failed in it."""
        status, errors = str(found.status).lower(), (found.errors.data if found.errors is not None else None) or []
        files = [each for each in (found.output_file_id, found.error_file_id) if each is not None]
        lines = chain.from_iterable(self.api.lines(file_id) for file_id in files)
        answers, problems = read_results(lines, batch.keys, self.chat, lambda key: self._sent(batch, key))
        spent = sum((self._keep(key, answer) for key, answer in answers.items()), Usage())
        self.endpoint.layer.ledger.settle(batch.name, spent)
        self._note("settled", batch.name, detail=f"{status}: {len(answers)} of {len(batch.keys)} answered")
        self.running.remove(batch)
        for file_id in (batch.file_id, *files):
            self.api.delete(file_id)
        missing = [key for key in batch.keys if key in self.waiting]
        if not missing:
            return
        if status == "cancelled":
            raise EndpointError(
                f"{self.chat.base_url}: batch {batch.id} was cancelled at the server; its {len(answers)} replies are kept; "
                "run again to send the other requests, or set teacher.batch: false to send them one by one"
            )
        if status == "failed" and not files:
            if any(error.code == TOO_MANY_TOKENS for error in errors) and (self.running or len(batch.keys) > 1):
                self._most = self._most if self.running else max(1, len(batch.keys) // 2)
                self._held = bool(self.running)
                self._queue.extendleft(reversed(missing))
                return
            problems = problems_of_lines(errors, batch.keys, self.chat, lambda key: self._sent(batch, key), batch.id)
        for key in missing:
            self._fail(key, problems.get(key) or without_result(status))

    def _sent(self, batch: Batch, key: str) -> Mapping[str, Any]:
        """Return what was sent for a call, or would be sent now where another process sent it."""
        call = self.waiting.get(key)
        now = call.body() if call is not None and call.body is not None else {}
        return batch.bodies.get(key, now)

    def _keep(self, key: str, answer: Answer) -> Usage:
        """Put an answer into the request cache and return what it cost; at most, where the server does not say."""
        call = self.waiting.pop(key, None)
        if key not in self.endpoint.layer.memory.get(UNWANTED, ()):  # its prompt was forgotten meanwhile
            self.cache.put(key, answer.to_row(), self.chat.model)
        usage = self.endpoint.usage_of(answer, self.discount)
        self._paid[key] = usage
        self.endpoint.host.succeed()
        self.endpoint.layer.spend(usage)
        told = answer.prompt_tokens + answer.completion_tokens > 0
        if call is not None and told:
            self.endpoint.check_bound(answer, call.bound)
        return usage if told or call is None else self.endpoint.most(call, self.discount)

    def _fail(self, key: str, problem: CallError) -> None:
        """Note that a request got no answer: it is given up, or left to be collected again by the next pass.

        Raises:
            EndpointError: nothing that was sent to this server ever worked.
        """
        call = self.waiting.pop(key)
        self.cache.release(key)
        self._attempts[key] += problem.retry != "now"
        if problem.retry == "now" or (problem.retry == "later" and self._attempts[key] < ATTEMPTS):
            return
        usage = Usage(calls=self._attempts[key])
        message = f"{problem} (in a batch, given up after {self._attempts[key]} attempts)"
        self._failed[key] = Failure(stage="request", key=call.key, kind="provider", message=message, usage=usage)
        self.endpoint.layer.spend(usage)
        self.endpoint.host.give_up(problem)

    def _note(self, state: str, name: str, **said: Any) -> None:
        about = {"base_url": self.chat.base_url, "model": self.chat.model}
        self.desk.notes.add(BatchNote.model_validate({"name": name, "state": state, **about, **said}))
