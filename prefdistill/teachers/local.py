"""Teacher `local`: any causal language model through transformers, on this machine, without a server.

A question with a menu (one criterion's level, the winner of a comparison, asked without a reason) is answered by the
probabilities of the menu's answers in one forward pass; everything else is written token by token. A reply depends on
the request and the weights alone, never on the batch it is answered in (in float32 to the last few bits). It costs
time, not money, so replies have no calls and no price, and none is kept in the request cache.
"""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field, PrivateAttr

from prefdistill.errors import PluginError, PrefdistillError
from prefdistill.protocols import Reply, RunContext, TeacherRequest, Token
from prefdistill.records import Failure, FailureKind, Usage, seed_of
from prefdistill.teachers.levels import Menu, Read, Slot, build_menu, read_next, slot_of
from prefdistill.teachers.writing import WritingTeacher
from prefdistill.weights import LocalWeights, Turns, reworded


@dataclass(frozen=True)
class _Asked:
    """A request as tokens."""

    request: TeacherRequest
    prompt: list[int]
    menu: Menu | None = None
    """None where the reply is written freely."""


class LocalTeacher(WritingTeacher, LocalWeights):
    """A causal language model on this machine: levels and winners by their probabilities, other replies written."""

    concurrency: ClassVar[int] = 1
    """Requests are answered together, in batches: judges have one prompt's questions answered at a time."""

    min_covered: float = Field(default=0.9, ge=0.0, le=1.0)
    """Smallest share of the probability that must fall on the menu's answers; a question with less fails."""

    _tokenizer: Any = PrivateAttr(default=None)
    _model: Any = PrivateAttr(default=None)
    _takes: frozenset[str] = PrivateAttr(default=frozenset())
    _ends: set[int] = PrivateAttr(default_factory=set)
    _seed: int = PrivateAttr(default=0)
    _turns: Any = PrivateAttr(default=None)
    _menus: dict[Slot, Menu] = PrivateAttr(default_factory=dict)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    def open(self, context: RunContext) -> None:
        """Load the tokenizer and try its chat template out; the weights are loaded at the first request.

        Raises:
            PluginError: there is no such model, or its template opens or inserts a thinking block.
        """
        from prefdistill.student import load_tokenizer

        with self.named():
            self._tokenizer = load_tokenizer(self.section)
        self._seed = context.seed
        self._turns = Turns(self._tokenizer, self.chat_template_kwargs)

    def close(self) -> None:
        """Free the model's memory."""
        from prefdistill.student import free

        self._model = None  # without the lock: a thread that still runs it after Ctrl-C lets go of it by itself
        free()

    def replies(self, requests: Sequence[TeacherRequest]) -> Iterator[Reply | Failure]:
        """Yield each reply, or why there is none: levels first, then what is written, longest prompts first.

        Raises:
            PluginError: it was not opened, the weights cannot be loaded, or one row does not fit into memory.
        """
        if self._tokenizer is None:
            raise PluginError(f"{self.place}: asked before it was opened; call open(context) first")
        menus: list[_Asked] = []
        written: list[_Asked] = []
        for request in requests:
            asked = self._asked(request)
            if isinstance(asked, Failure):
                yield asked
            else:
                (written if asked.menu is None else menus).append(asked)
        if menus:
            yield from self._choose(menus)
        if written:
            yield from self._write(written)

    def _asked(self, request: TeacherRequest) -> _Asked | Failure:
        """Return a request as tokens, or the failure of one that cannot be asked."""
        from prefdistill.student import context_length, render_prompt

        try:
            prompt = render_prompt(self._tokenizer, self._turns.of(request.messages), self.section)
        except PrefdistillError as problem:
            return _failure(request, "provider", reworded(problem))
        slot, menu = slot_of(request.schema), None
        if slot is not None:
            try:
                menu = self._menus.get(slot) or self._menus.setdefault(slot, build_menu(slot, self._tokenizer))
            except ValueError as problem:
                return _failure(request, "parse", str(problem))
        room = context_length(self.section)
        needed = len(prompt) + (1 if menu is None else max(menu.lengths))
        if needed > room:
            found = f"the prompt of {len(prompt)} tokens and its answer exceed the {room} that {self.model} can hold"
            return _failure(request, "truncated", f"{found}; expected a shorter prompt or a model with more context")
        return _Asked(request, prompt, menu)

    def _loaded(self) -> Any:
        """Return the model, loaded at first use; to be called under the lock."""
        from prefdistill.student import end_token_ids, load_base

        if self._model is None:
            with self.named():
                self._model = load_base(self.section)
                self._ends = end_token_ids(self._tokenizer, self._model, self.section)
            self._takes = frozenset(inspect.signature(self._model.forward).parameters)
        return self._model

    def _choose(self, asked: Sequence[_Asked]) -> Iterator[Reply | Failure]:
        """Answer questions with a menu: one row for each place where the menu branches, equal rows once."""
        rows: dict[tuple[int, ...], set[int]] = {}
        for each in asked:
            assert each.menu is not None
            for branch in each.menu.branches:
                rows.setdefault((*each.prompt, *branch.context), set()).update(branch.answers)
        read: dict[tuple[int, ...], Read] = {}
        for batch in self.batches(list(rows), len):
            with self._lock:
                found = self.in_memory(lambda some: self._read(some, rows), batch)
            read.update(zip(batch, found, strict=True))
        for each in asked:
            yield self._answer(each, read)

    def _read(self, batch: list[tuple[int, ...]], rows: dict[tuple[int, ...], set[int]]) -> list[Read]:
        model = self._loaded()
        wanted = [(ids, sorted(rows[ids])) for ids in batch]
        return read_next(model, wanted, int(self._tokenizer.pad_token_id or 0), self._takes)

    def _answer(self, asked: _Asked, read: dict[tuple[int, ...], Read]) -> Reply | Failure:
        """Return the likeliest answer as the reply, with the log-probability of every answer at its place."""
        menu = asked.menu
        assert menu is not None
        found = [read[(*asked.prompt, *branch.context)] for branch in menu.branches]
        log_probs = menu.log_probs([each.log_probs for each in found])
        slot, best = menu.slot, max(range(len(log_probs)), key=log_probs.__getitem__)
        usage = Usage(prompt_tokens=len(asked.prompt), completion_tokens=menu.lengths[best])
        if any(math.isnan(value) for value in log_probs) or log_probs[best] == -math.inf:
            message = f"{self.model} gives no probabilities (dtype {self.dtype}): try `dtype: float32` or bfloat16"
            return _failure(asked.request, "parse", message, usage)
        total = log_probs[best] + math.log(math.fsum(math.exp(value - log_probs[best]) for value in log_probs))
        if math.exp(total) < self.min_covered:
            return _failure(asked.request, "parse", self._off_menu(slot, math.exp(total), found[0]), usage)
        # The share off the menu was looked at here, so what is handed on is the distribution over the menu.
        given = tuple(
            (slot.closed(answer), value - total)
            for answer, value in zip(slot.menu, log_probs, strict=True)
            if value > -math.inf
        )
        answer = slot.closed(slot.menu[best])
        return Reply(
            key=asked.request.key,
            text=f"{slot.before}{answer}{slot.after}",
            finish_reason="stop",
            usage=usage,
            tokens=(Token(slot.before, 0.0), Token(answer, dict(given)[answer], given), Token(slot.after, 0.0)),
        )

    def _off_menu(self, slot: Slot, covered: float, read: Read) -> str:
        likely = ", ".join(
            f"{self._tokenizer.decode([token])!r} {math.exp(value):.2f}" for token, value in read.likeliest
        )
        return (
            f"only {covered:.2f} of the probability falls on {', '.join(slot.menu)} after {slot.before!r}, less than "
            f"min_covered ({self.min_covered:g}); the likeliest tokens there: {likely}; "
            "use a model that follows the prompt, or lower min_covered"
        )

    def _write(self, asked: Sequence[_Asked]) -> Iterator[Reply | Failure]:
        """Write replies: greedily, or sampled at the request's temperature from random numbers of its own."""
        from prefdistill.student import context_length

        room = context_length(self.section)

        def length(each: _Asked) -> int:
            return len(each.prompt) + min(each.request.max_tokens, room - len(each.prompt))

        for batch in self.batches(asked, length):
            with self._lock:
                replies = self.in_memory(lambda some: self._written(some, room), batch)
            yield from replies

    def _written(self, batch: list[_Asked], room: int) -> list[Reply | Failure]:
        from prefdistill.samplers.decoding import Row, decode

        model = self._loaded()
        rows = [
            Row(
                prompt=number,
                seed=seed_of(self._seed, each.prompt, each.request.repeat),
                temperature=each.request.temperature or 0.0,
                top_p=1.0,
                max_new_tokens=min(each.request.max_tokens, room - len(each.prompt)),
            )
            for number, each in enumerate(batch)
        ]
        replies: list[Any] = [None] * len(batch)
        prompts = [each.prompt for each in batch]
        for finished in decode(model, prompts, rows, self._ends, int(self._tokenizer.pad_token_id or 0)):
            for each in finished:
                replies[each.row] = self._reply(batch[each.row], each.ids, each.ended)
        return replies

    def _reply(self, asked: _Asked, ids: list[int], ended: bool) -> Reply | Failure:
        request = asked.request
        usage = Usage(prompt_tokens=len(asked.prompt), completion_tokens=len(ids))
        text: Any = self._tokenizer.decode(
            ids[:-1] if ended else ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        if request.schema is not None and not ended:
            message = (
                f"the reply was cut after {len(ids)} tokens; raise max_tokens, or ask for one level without a reason"
            )
            return _failure(request, "truncated", message, usage, text)
        if not text.strip():
            return _failure(request, "empty", "the reply has no text", usage)
        return Reply(key=request.key, text=text, finish_reason="stop" if ended else "length", usage=usage)


def _failure(
    request: TeacherRequest, kind: FailureKind, message: str, usage: Usage | None = None, reply: str | None = None
) -> Failure:
    return Failure(stage="teacher", key=request.key, kind=kind, message=message, usage=usage or Usage(), reply=reply)
