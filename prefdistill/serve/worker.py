"""The student's own process: it reads requests from standard input and writes what the policy answers to standard output.

Run by `student`, as `python -m prefdistill.serve.worker`; a line of JSON each way. First comes what to load, then
requests. Those that wait are written together in one batch; a row is told as soon as it is finished, and token by token
where it is streamed. When standard input closes the process ends: it never outlives the server.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from prefdistill.errors import PrefdistillError
from prefdistill.records import Message, seed_of

MOST_ROWS = 32
"""Rows of a batch."""


class AbandonedError(Exception):
    """Nobody waits any longer for any row of a batch."""


@dataclass
class Waiting:
    """A request that was read."""

    id: int
    prompt: list[int]
    seed: int
    temperature: float
    top_p: float
    max_new_tokens: int
    stream: bool


@dataclass
class Speech:
    """One streamed row: its tokens so far, said as text as soon as whole characters are there."""

    tokenizer: Any
    ids: list[int] = field(default_factory=list)
    said: str = ""
    _from: int = 0
    _read: int = 0

    def piece(self, token: int) -> str:
        """Add a token; return the text that it completes, empty where a character is still incomplete."""
        self.ids.append(token)
        before = self._decode(self.ids[self._from : self._read])
        now = self._decode(self.ids[self._from :])
        if len(now) <= len(before) or now.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._from, self._read = self._read, len(self.ids)
        text = now[len(before) :]
        self.said += text
        return text

    def rest(self, whole: str) -> str:
        """Return what of the whole text was not said yet."""
        return whole[len(self.said) :] if whole.startswith(self.said) else ""

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class Student:
    """The policy, loaded once, and the requests that wait for it."""

    def __init__(self, folder: Path, overrides: Sequence[str], number: int | None, out: IO[str]) -> None:
        from prefdistill.samplers.transformers import BATCH_TOKENS
        from prefdistill.stored import stored_policy, stored_run
        from prefdistill.student import context_length, device_of, end_token_ids, load_tokenizer

        run, recipe = stored_run(folder, overrides)
        policy = stored_policy(run, recipe, number)
        self.student = recipe.student.of(policy)
        self.out = out
        self.tokenizer: Any = load_tokenizer(recipe.student)
        self.context = context_length(recipe.student)
        self.weights, self.model = load_weights(run, recipe, policy)
        self.ends = end_token_ids(self.tokenizer, self.model, recipe.student)
        self.budget = BATCH_TOKENS[device_of(recipe.student).type]
        self.queue: deque[Waiting] = deque()
        self.dropped: set[int] = set()
        self.changed = threading.Condition()
        self._writing = threading.Lock()

    def say(self, **line: Any) -> None:
        """Write a line; the server may have gone, and then nothing is left to do."""
        try:
            with self._writing:
                self.out.write(json.dumps(line) + "\n")
                self.out.flush()
        except OSError:
            os._exit(0)

    def listen(self, lines: IO[str]) -> None:
        """Read requests until the input ends, and end the process then."""
        for line in lines:
            asked = json.loads(line)
            if "drop" in asked:
                with self.changed:
                    self.dropped.add(asked["drop"])
                continue
            if (found := self._understood(asked)) is not None:
                with self.changed:
                    self.queue.append(found)
                    self.changed.notify()
        os._exit(0)

    def _understood(self, asked: dict[str, Any]) -> Waiting | None:
        from prefdistill.student import render_prompt

        try:
            messages = [Message.model_validate(each) for each in asked["messages"]]
            prompt = render_prompt(self.tokenizer, messages, self.student)
        except Exception as problem:  # a conversation that template or tokenizer cannot take must not end the process
            self.say(id=asked["id"], unrenderable=f"{type(problem).__name__}: {problem}"[:500])
            return None
        if len(prompt) + asked["max_new_tokens"] > self.context:
            found = f"a prompt of {len(prompt)} tokens and {asked['max_new_tokens']} new ones exceed {self.context}"
            self.say(id=asked["id"], too_long=found)
            return None
        names = ("id", "temperature", "top_p", "max_new_tokens", "stream")
        return Waiting(prompt=prompt, seed=seed_of("served", asked["seed"]), **{name: asked[name] for name in names})

    def serve(self) -> None:
        """Write batch after batch, for ever."""
        while True:
            with self.changed:
                while not self.queue:
                    self.dropped.clear()  # what is dropped is neither waiting nor being written now
                    self.changed.wait()
                batch = self._batch()
            if batch:
                self._write(batch)

    def _batch(self) -> list[Waiting]:
        """Take the requests that have waited longest, as many as fit into one batch."""
        batch: list[Waiting] = []
        while self.queue and len(batch) < MOST_ROWS:
            following = self.queue[0]
            rows = [*batch, following]
            if batch and _cost(rows) > self.budget:
                break
            self.queue.popleft()
            if following.id not in self.dropped:
                batch.append(following)
        return batch

    def _write(self, batch: list[Waiting]) -> None:
        """Write a batch; one that does not fit into memory is cut in two."""
        from prefdistill.student import free, is_out_of_memory

        left = {each.id: each for each in batch}
        try:
            self._decode(batch, left)
        except AbandonedError:
            return
        except RuntimeError as problem:
            if not is_out_of_memory(problem):
                raise
            free()
            self.budget = max(1, _cost(batch) // 2)
            again = [each for each in left.values() if not each.stream]
            for each in left.values():
                if each.stream or len(batch) == 1:
                    self.say(id=each.id, error="the student ran out of memory")
            half = -(-len(again) // 2)
            if len(batch) > 1:
                for part in (again[:half], again[half:]):
                    if part:
                        self._write(part)

    def _decode(self, batch: list[Waiting], left: dict[int, Waiting]) -> None:
        from prefdistill.samplers.decoding import Row, decode

        rows = [
            Row(index, each.seed, each.temperature, each.top_p, each.max_new_tokens) for index, each in enumerate(batch)
        ]
        speeches = {index: Speech(self.tokenizer) for index, each in enumerate(batch) if each.stream}

        def hear(places: Sequence[int], tokens: Sequence[int]) -> None:
            if all(key in self.dropped for key in left):
                raise AbandonedError
            for place, token in zip(places, tokens, strict=True):
                if place in speeches and token not in self.ends and (text := speeches[place].piece(token)):
                    self.say(id=batch[place].id, text=text)

        prompts = [each.prompt for each in batch]
        for written in decode(self.model, prompts, rows, self.ends, int(self.tokenizer.pad_token_id or 0), hear):
            for each in written:
                asked = batch[each.row]
                ids = each.ids[:-1] if each.ended else each.ids
                text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                if asked.stream and (rest := speeches[each.row].rest(text)):
                    self.say(id=asked.id, text=rest)
                left.pop(asked.id)
                self.say(
                    id=asked.id,
                    done=text,
                    finish="stop" if each.ended else "length",
                    tokens=len(each.ids),
                    prompt_tokens=len(asked.prompt),
                    log_prob=each.log_prob / max(1, len(each.ids)),
                )


def _cost(rows: Sequence[Waiting]) -> int:
    """Return the padded tokens of a batch."""
    return len(rows) * (max(len(each.prompt) for each in rows) + max(each.max_new_tokens for each in rows))


def load_weights(run: Any, recipe: Any, policy: Any) -> tuple[str, Any]:
    """Load the policy with the weights that the run sampled with: merged where it did, else 4-bit base and adapter."""
    import torch

    from prefdistill.stored import choices_of
    from prefdistill.student import device_of, load_policy

    kept = str(choices_of(run).get("sampler_weights") or "")
    if not kept:
        kept = "merged float32" if device_of(recipe.student).type == "cpu" else "adapter"
    merged = getattr(torch, kept.split()[1]) if kept.startswith("merged ") else None
    return kept, load_policy(recipe.student, policy, run.path.resolve(), merged=merged)


def main() -> None:
    """Load what the first line names, say that it is ready, and serve."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not get between the lines
    lines = os.fdopen(os.dup(0), "r", encoding="utf-8")
    started = time.perf_counter()
    asked = json.loads(lines.readline())
    try:
        student = Student(Path(asked["folder"]), asked["overrides"], asked["round"], out)
    except PrefdistillError as problem:
        print(json.dumps({"refused": str(problem)}), file=out, flush=True)
        sys.exit(2)
    seconds = time.perf_counter() - started
    student.say(ready=True, context=student.context, weights=student.weights, seconds=round(seconds, 1))
    threading.Thread(target=student.listen, args=(lines,), daemon=True).start()
    try:
        student.serve()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # the listening thread would keep the process; the server starts a new one


if __name__ == "__main__":
    main()
