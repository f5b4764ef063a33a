"""Writing many completions at once: one prefill a prompt, then token by token, rows leaving as they finish.

Every row draws from random numbers of its own, one a token, so in float32 a draft is the same in whatever batch it
is written. Only transformers' public calls are used: `model(..., past_key_values, use_cache=True)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

RETIRE_SHARE = 0.125
"""Finished rows leave the batch when they are this share of it: each leaving copies the cache."""
ROOM = 64
"""Positions by which a cache grows."""


@dataclass(frozen=True)
class Row:
    """One completion to write."""

    prompt: int
    """Which of the batch's prompts it continues."""
    seed: int
    temperature: float
    """0 takes the likeliest token."""
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Written:
    """One completion's tokens."""

    row: int
    """Its place in the list of rows."""
    ids: list[int]
    """The end token included, where it ended in one."""
    log_prob: float
    """Sum over tokens at temperature 1, nats."""
    ended: bool
    """Whether it ended in an end token rather than at its limit."""


class GrowingLayer(DynamicLayer):
    """A cache layer with room ahead, so that a new token does not copy all earlier ones."""

    def __init__(self) -> None:
        super().__init__()
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the new states, [rows, heads, tokens, width]; return all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        old, new = self.get_seq_length(), key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < old + new:
            self._room = (self._grown(self.keys, key_states, old), self._grown(self.values, value_states, old))
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, old : old + new] = states
        self.keys, self.values = (room[:, :, : old + new] for room in self._room)
        return self.keys, self.values

    @staticmethod
    def _grown(states: torch.Tensor, new: torch.Tensor, old: int) -> torch.Tensor:
        rows, heads, tokens, width = new.shape
        room = new.new_empty((rows, heads, old + tokens + ROOM, width))
        if old:
            room[:, :, :old] = states
        return room

    def reorder_cache(self, beam_idx: Any) -> None:
        """Keep the rows `beam_idx`, in that order; one may occur several times."""
        super().reorder_cache(beam_idx)
        self._room = None


def new_cache(model: Any) -> DynamicCache:
    """Return an empty cache of the kinds of layers that the model has."""
    cache = DynamicCache(config=model.config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def row_keys(rows: Sequence[Row]) -> torch.Tensor:
    """Return each row's own random 32-bit keys, one a token, int32 [rows, longest limit]."""
    longest = max(row.max_new_tokens for row in rows)
    drawn = [
        numpy.random.Generator(numpy.random.Philox(key=row.seed)).integers(-(2**31), 2**31, longest, dtype=numpy.int32)
        for row in rows
    ]
    return torch.from_numpy(numpy.stack(drawn))


def gumbel(keys: torch.Tensor, vocabulary: torch.Tensor) -> torch.Tensor:
    """Return Gumbel noise, float32 [rows, vocabulary], that depends on a row's key and the token alone.

    A hash (MurmurHash3's finaliser) instead of a generator: it runs for all rows at once, on any device, with the
    same bits. `vocabulary` are the token ids times an odd constant, int32.
    """
    hashed = vocabulary ^ keys[:, None]
    hashed.bitwise_xor_((hashed >> 16).bitwise_and_(0xFFFF)).mul_(-2048144789)
    hashed.bitwise_xor_((hashed >> 13).bitwise_and_(0x7FFFF)).mul_(-1028477387)
    hashed.bitwise_xor_((hashed >> 16).bitwise_and_(0xFFFF))
    uniform = (hashed >> 8).bitwise_and_(0xFFFFFF).float().add_(0.5).mul_(2.0**-24)
    return uniform.log_().neg_().log_().neg_()


@dataclass
class _Choice:
    """What choosing tokens needs of the rows that are still written; tensors have one entry a row."""

    temperature: torch.Tensor
    top_p: torch.Tensor
    greedy: torch.Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> _Choice:
        temperature = torch.tensor([row.temperature for row in rows], device=device)
        return cls(
            temperature=temperature.clamp(min=1e-6)[:, None],
            top_p=torch.tensor([row.top_p for row in rows], device=device)[:, None],
            greedy=temperature <= 0,
        )

    def keep(self, rows: torch.Tensor) -> None:
        self.temperature, self.top_p, self.greedy = self.temperature[rows], self.top_p[rows], self.greedy[rows]
        self.plain, self.nucleus, self.some_greedy = self._shortcuts()

    def __post_init__(self) -> None:
        self.plain, self.nucleus, self.some_greedy = self._shortcuts()

    def _shortcuts(self) -> tuple[bool, bool, bool]:
        return bool((self.temperature == 1).all()), bool((self.top_p < 1).any()), bool(self.greedy.any())

    def tokens(self, logits: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (tokens, their log-probabilities at temperature 1) for logits [rows, vocabulary], float32.

        The largest sum of log-probability and Gumbel noise is a draw from the distribution. Unlike a draw through the
        cumulated distribution it changes only where the two largest sums are within rounding of each other.
        """
        log_probs = logits.log_softmax(-1)
        scores = log_probs if self.plain else (log_probs / self.temperature).log_softmax(-1)
        if self.nucleus:
            scores = self._nucleus(scores)
        tokens = (scores + noise).argmax(-1, keepdim=True)
        if self.some_greedy:
            tokens = torch.where(self.greedy[:, None], logits.argmax(-1, keepdim=True), tokens)
        return tokens[:, 0], log_probs.gather(-1, tokens)[:, 0]

    def _nucleus(self, scores: torch.Tensor) -> torch.Tensor:
        """Keep the fewest likeliest tokens whose probabilities reach top_p."""
        ordered, order = scores.sort(dim=-1, descending=True, stable=True)
        weights = ordered.exp()
        outside = (weights.cumsum(-1) - weights) >= self.top_p
        return scores.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), -torch.inf)


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[list[int]],
    rows: Sequence[Row],
    end_ids: set[int],
    pad_id: int,
    hear: Callable[[list[int], list[int]], None] | None = None,
) -> Iterator[list[Written]]:
    """Write all rows of one batch; yield those that finished whenever some leave the batch.

    Args:
        model: a causal language model in eval mode.
        prompts: token ids of the batch's prompts, padded on the left here.
        rows: the completions, each naming its prompt.
        end_ids: every token that ends a completion.
        pad_id: any token; padding is masked.
        hear: called after each step with the rows that were still being written and their new tokens.
    """
    device = model.device
    longest, limit = max(map(len, prompts)), max(row.max_new_tokens for row in rows)
    padded = [[pad_id] * (longest - len(ids)) + ids for ids in prompts]
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    cache = new_cache(model)
    logits = (
        model(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        .logits[:, -1]
        .float()
    )
    origin = torch.tensor([row.prompt for row in rows], device=device)
    _select(cache, origin)
    logits = logits[origin]
    positions = mask.sum(-1)[origin]
    # The mask is as wide as it will ever be and cut to what is there; rows that leave take their line along.
    full_mask = torch.cat([mask[origin], mask.new_ones((len(rows), limit))], dim=1)
    keys = row_keys(rows).to(device)
    vocabulary = torch.arange(logits.shape[-1], dtype=torch.int32, device=device) * -1640531527
    choice = _Choice.of(rows, device)
    limits = torch.tensor([row.max_new_tokens for row in rows], device=device)
    ends = torch.tensor(sorted(end_ids), device=device)
    written = torch.zeros((len(rows), limit), dtype=torch.long, device=device)
    log_prob = torch.zeros(len(rows), dtype=torch.float64, device=device)
    length = torch.zeros(len(rows), dtype=torch.long, device=device)
    ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
    done = ended.clone()
    place = torch.arange(len(rows), device=device)
    """Which of `rows` each line of the batch is."""
    for step in range(limit):
        tokens, drawn = choice.tokens(logits, gumbel(keys[:, step], vocabulary))
        going = ~done
        if hear is not None:
            hear(place[going].tolist(), tokens[going].tolist())
        written[place, step] = tokens
        log_prob[place] += drawn.double() * going
        length[place] += going.long()
        at_end = torch.isin(tokens, ends) & going
        ended[place] |= at_end
        done = done | at_end | (limits <= step + 1)
        finished = int(done.sum())
        if finished == len(place) or finished >= max(1, RETIRE_SHARE * len(place)):
            leaving = place[done].tolist()
            yield [
                Written(
                    row=row,
                    ids=written[row, : int(length[row])].tolist(),
                    log_prob=float(log_prob[row]),
                    ended=bool(ended[row]),
                )
                for row in leaving
            ]
            if finished == len(place):
                return
            stay = (~done).nonzero()[:, 0]
            _select(cache, stay)
            place, tokens, positions, limits = place[stay], tokens[stay], positions[stay], limits[stay]
            full_mask, keys, done = full_mask[stay], keys[stay], done[stay]
            choice.keep(stay)
        logits = (
            model(
                input_ids=tokens[:, None],
                attention_mask=full_mask[:, : longest + step + 1],
                position_ids=(positions + step)[:, None],
                past_key_values=cache,
                use_cache=True,
            )
            .logits[:, -1]
            .float()
        )


def _select(cache: DynamicCache, rows: Any) -> None:
    for layer in cache.layers:
        layer.reorder_cache(rows)
