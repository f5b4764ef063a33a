"""Drafts from the student itself, with transformers: the sampler of every run that needs no server.

Place in the flow: prompt → **drafts**. 4-bit weights save memory, not time, so where memory allows it samples from a
dequantised copy with the adapter merged into it, which in float32 is the very model that is trained.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from prefdistill.errors import SampleError
from prefdistill.plugins import Plugin
from prefdistill.protocols import Completion, RunContext, SampleRequest
from prefdistill.records import Failure, Policy
from prefdistill.scoring import log_probs, mean_gap
from prefdistill.student import (
    context_length,
    device_of,
    dtype_of,
    end_token_ids,
    free,
    is_out_of_memory,
    load_policy,
    load_tokenizer,
    render_prompt,
)
from prefdistill.traces import Parted, part

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

BATCHES = 8
"""A round is cut into at least so many batches, so that judging can start early …"""
FEWEST_ROWS = 64
"""… but a batch holds at least so many drafts, where there are so many."""
BATCH_TOKENS = {"cpu": 16_384, "cuda": 65_536}
GAP_PROBES = 32
"""Drafts on which 16-bit weights are compared with the training weights."""


class TransformersSampler(Plugin):
    """Samples from the student on this machine's CPU or CUDA device."""

    operational: ClassVar[frozenset[str]] = frozenset({"batch_tokens"})

    weights: Literal["auto", "merged", "adapter"] = "auto"
    """merged: a dequantised copy with the adapter in it; adapter: the 4-bit base with the adapter. auto on a CPU is
    merged float32; on CUDA merged where memory allows, in 16 bit only once its log-probabilities are known to differ
    by less than a quarter of the last update's size. Chosen once a run."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Padded tokens (prompt and completion) in a batch; None is 16,384 on a CPU and 65,536 on CUDA."""

    _context: RunContext | None = PrivateAttr(default=None)
    _plan: dict[str, tuple[int, int]] = PrivateAttr(default_factory=dict)

    def open(self, context: RunContext) -> None:
        """Keep the run's student, folder and choices; nothing is loaded before the first draft is asked for."""
        self._context = context

    def owed(self, requests: Sequence[SampleRequest], present: set[str]) -> list[SampleRequest]:
        """Return which of all requests must be sampled when the drafts `present` (by key) are on disk.

        In float32 a draft does not depend on its batch, so these are the missing ones. In 16 bit it does: the batch
        plan of the whole list is kept, and every batch with a missing draft is sampled again as a whole.
        """
        missing = [request for request in requests if request.key not in present]
        if not missing or not self._sixteen_bit():
            return missing
        plan = {
            request.key: (number, place)
            for number, batch in enumerate(self._batches(requests))
            for place, request in enumerate(batch)
        }
        self._plan.update(plan)
        torn = {plan[request.key][0] for request in missing}
        return [request for request in requests if plan[request.key][0] in torn]

    def sample(self, policy: Policy, requests: Sequence[SampleRequest]) -> Iterator[Completion | Failure]:
        """Write drafts, each yielded as it finishes; the model is loaded here and freed when the iteration ends.

        Raises:
            SampleError: one draft alone does not fit into memory.
        """
        if not requests:
            return
        assert self._run.student is not None
        student, started = self._run.student.of(policy), time.perf_counter()
        tokenizer = load_tokenizer(student)
        rendered: dict[Any, list[int]] = {}
        for request in requests:
            if request.messages not in rendered:
                rendered[request.messages] = render_prompt(tokenizer, request.messages, student)
        room = context_length(student)
        fitting = []
        for request in requests:
            tokens = len(rendered[request.messages])
            if tokens + request.max_new_tokens <= room:
                fitting.append(request)
                continue
            found = f"prompt of {tokens} tokens and {request.max_new_tokens} new ones exceed the student's {room}"
            yield Failure(stage="sample", key=request.key, kind="truncated", message=found)
        lengths = {key: len(ids) for key, ids in rendered.items()}
        model = self._load(policy, fitting, rendered)
        ends = end_token_ids(tokenizer, model, student)
        done = tokens = 0
        try:
            for written in self._write(model, fitting, rendered, lengths, ends, tokenizer.pad_token_id):
                for request, ids, log_prob, ended in written:
                    text: Any = tokenizer.decode(
                        ids[:-1] if ended else ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                    )
                    done, tokens = done + 1, tokens + len(ids)
                    parted = Parted("", text) if student.trace is None else part(text, student.tags)
                    yield Completion(
                        key=request.key,
                        completion=parted.completion,
                        finish_reason="stop" if ended and parted.closed else "length",
                        tokens=len(ids),
                        log_prob=log_prob,
                        token_ids=tuple(ids),
                        trace=parted.trace,
                    )
                seconds = time.perf_counter() - started
                note = f"{done / seconds:,.0f} drafts/s {tokens / seconds:,.0f} tokens/s"
                self._run.progress("sample", done, len(requests), note)
        finally:
            del model
            free()

    @property
    def _run(self) -> RunContext:
        if self._context is None or self._context.student is None:
            raise SampleError("sampler transformers: not opened with a student; call open(context) first")
        return self._context

    def _write(
        self,
        model: Any,
        requests: Sequence[SampleRequest],
        rendered: Mapping[Any, list[int]],
        lengths: Mapping[Any, int],
        ends: set[int],
        pad_id: int,
    ) -> Iterator[list[tuple[SampleRequest, list[int], float, bool]]]:
        """Yield finished rows; a batch that does not fit into memory is cut in two, and so are all later ones."""
        from prefdistill.samplers.decoding import Row, decode

        queue = self._batches(requests, lengths)
        while queue:
            batch = queue.pop(0)
            prompts = list(dict.fromkeys(request.messages for request in batch))
            rows = [
                Row(prompts.index(each.messages), each.seed, each.temperature, each.top_p, each.max_new_tokens)
                for each in batch
            ]
            finished: set[int] = set()
            try:
                for written in decode(model, [rendered[prompt] for prompt in prompts], rows, ends, pad_id):
                    finished.update(each.row for each in written)
                    yield [(batch[each.row], each.ids, each.log_prob, each.ended) for each in written]
            except RuntimeError as problem:
                if not is_out_of_memory(problem):
                    raise
                left = [request for row, request in enumerate(batch) if row not in finished]
                if len(batch) == 1:
                    raise SampleError(
                        f"sampler: one draft of {batch[0].max_new_tokens} tokens does not fit into memory; lower "
                        "sample.max_new_tokens, set sample.weights: adapter, or use a smaller student"
                    ) from None
                queue = self._halved(batch, left, queue, lengths)
                free()

    def _halved(
        self,
        batch: Sequence[SampleRequest],
        left: list[SampleRequest],
        queue: list[list[SampleRequest]],
        lengths: Mapping[Any, int],
    ) -> list[list[SampleRequest]]:
        budget = max(1, _cost(batch, lengths) // 2)
        self._run.choices["sampler_batch_tokens"] = budget
        log.warning("sampling ran out of memory; going on with batches of %d tokens", budget)
        rest = [*left, *(request for later in queue for request in later)]
        self._plan.clear()
        return self._batches(rest, lengths)

    def _batches(
        self, requests: Sequence[SampleRequest], lengths: Mapping[Any, int] | None = None
    ) -> list[list[SampleRequest]]:
        """Cut requests into batches: prompts of like length together, longest first, a prompt's drafts in one batch."""
        if lengths is None:
            student = self._run.student
            assert student is not None
            tokenizer = load_tokenizer(student)
            lengths = {each.messages: 0 for each in requests}
            lengths = {messages: len(render_prompt(tokenizer, messages, student)) for messages in lengths}
        if requests and all(request.key in self._plan for request in requests):
            planned: dict[int, list[SampleRequest]] = {}
            for request in sorted(requests, key=lambda each: self._plan[each.key]):
                planned.setdefault(self._plan[request.key][0], []).append(request)
            return list(planned.values())
        groups: dict[Any, list[SampleRequest]] = {}
        for request in requests:
            groups.setdefault(request.messages, []).append(request)
        ordered = sorted(groups.values(), key=lambda group: (-lengths[group[0].messages], group[0].key))
        most_rows = max(FEWEST_ROWS, -(-len(requests) // BATCHES))
        budget = self._budget()
        batches: list[list[SampleRequest]] = []
        for group in ordered:
            # A prompt with more drafts than fit into a batch is the one case in which its drafts are parted.
            size = max(1, budget // _cost(group[:1], lengths))
            for start in range(0, len(group), size):
                part = group[start : start + size]
                joined = [*batches[-1], *part] if batches else []
                if joined and len(joined) <= most_rows and _cost(joined, lengths) <= budget:
                    batches[-1] = joined
                else:
                    batches.append(list(part))
        return batches

    def _budget(self) -> int:
        student, kept = self._run.student, self._run.choices.get("sampler_batch_tokens")
        assert student is not None
        most = self.batch_tokens or BATCH_TOKENS[device_of(student).type]
        return min(most, int(kept)) if kept else most

    def _sixteen_bit(self) -> bool:
        student = self._run.student
        assert student is not None
        kept = str(self._run.choices.get("sampler_weights", ""))
        return "16" in (kept if kept.startswith("merged") else str(dtype_of(student)))

    def _load(self, policy: Policy, requests: Sequence[SampleRequest], rendered: Mapping[Any, list[int]]) -> Any:
        """Load the policy with the weights chosen for this run, choosing them where that was not done yet."""
        import torch

        run = self._run
        assert run.student is not None
        kept = (self.weights == "auto" and run.choices.get("sampler_weights")) or self._choose(
            policy, requests, rendered
        )
        merged = None if kept == "adapter" else getattr(torch, kept.split()[1])
        return load_policy(run.student, policy, run.directory, merged=merged)

    def _choose(self, policy: Policy, requests: Sequence[SampleRequest], rendered: Mapping[Any, list[int]]) -> str:
        """Return the weights to sample from; kept in the run's choices as soon as nothing better can be known."""
        run = self._run
        assert run.student is not None
        device, dtype = device_of(run.student), str(dtype_of(run.student)).removeprefix("torch.")
        update = run.choices.get("last_update")
        settled = True
        if self.weights == "adapter":
            chosen = "adapter"
        elif device.type == "cpu" or self.weights == "merged":
            chosen = f"merged {dtype if self.weights == 'merged' else 'float32'}"
        elif update is not None and self._fits(policy, 2):
            gap = sixteen_bit_gap(run, policy, requests[:GAP_PROBES], rendered, dtype_of(run.student))
            run.choices["sampler_gap"] = gap
            chosen = f"merged {dtype}" if gap < update / 4 else self._exact(policy)
        else:
            chosen, settled = self._exact(policy), False
        if settled:
            run.choices["sampler_weights"] = chosen
        return chosen

    def _exact(self, policy: Policy) -> str:
        return "merged float32" if self._fits(policy, 4) else "adapter"

    def _fits(self, policy: Policy, size: int) -> bool:
        """Return whether a dense copy of `size` bytes a weight takes less than half of the free device memory."""
        import torch

        run = self._run
        assert run.student is not None
        model = load_policy(run.student, Policy(model=policy.model), run.directory)
        available, _ = torch.cuda.mem_get_info()
        fits = bool(model.num_parameters() * size < available / 2)
        del model
        free()
        return fits


def sixteen_bit_gap(
    run: RunContext,
    policy: Policy,
    requests: Sequence[SampleRequest],
    rendered: Mapping[Any, list[int]],
    dtype: torch.dtype,
) -> float:
    """Return the mean log-prob gap, nats a token, of a merged 16-bit copy to the training weights, on fresh drafts."""
    from prefdistill.samplers.decoding import Row, decode

    assert run.student is not None
    tokenizer = load_tokenizer(run.student)
    trained = load_policy(run.student, policy, run.directory)
    prompts = [rendered[request.messages] for request in requests]
    rows = [Row(index, each.seed, 1.0, 1.0, each.max_new_tokens) for index, each in enumerate(requests)]
    ends = end_token_ids(tokenizer, trained, run.student)
    items = [
        (prompts[each.row], each.ids)
        for written in decode(trained, prompts, rows, ends, int(tokenizer.pad_token_id or 0))
        for each in written
    ]
    exact = log_probs(trained, items)
    del trained
    free()
    return mean_gap(exact, log_probs(load_policy(run.student, policy, run.directory, merged=dtype), items))


def _cost(batch: Sequence[SampleRequest], lengths: Mapping[Any, int]) -> int:
    """Return the padded tokens of a batch."""
    return len(batch) * (max(lengths[each.messages] for each in batch) + max(each.max_new_tokens for each in batch))
