"""One round's steps after judging: rankings and pairs, past pairs mixed in, and a policy trained on them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prefdistill.artefacts import claim
from prefdistill.assembly import Workshop
from prefdistill.diagnostics.judging import flip_rate
from prefdistill.drafting import Judged
from prefdistill.errors import RunError, TrainError
from prefdistill.protocols import Probe, TrainingData
from prefdistill.records import Drop, Policy, PreferencePair, Ranking, TrainResult, digest, seed_of
from prefdistill.remedies import trainer_for
from prefdistill.run import Fingerprints, read_json
from prefdistill.stages.pair import pair_prompts
from prefdistill.stages.rank import rank_prompts


class StarvedError(TrainError):
    """A round has fewer pairs than one batch."""


PROBES = 48
"""Texts on which the change of a policy is measured."""


class Paired(NamedTuple):
    """What a round's verdicts came to."""

    rankings: tuple[Ranking, ...]
    pairs: tuple[PreferencePair, ...]
    drops: tuple[Drop, ...]
    flip_rate: float | None = None
    """Share of the comparisons whose winner changed with the order shown; None where nothing was compared."""


def rank_and_pair(shop: Workshop, number: int, judged: Judged) -> Paired:
    """Rank the round's drafts and make its pairs; pure, so always computed anew."""
    drafts = sorted(judged.drafts.values(), key=lambda draft: draft.id)
    verdicts = list(judged.verdicts["verdicts"].values())
    rankings = tuple(rank_prompts(judged.prompts, drafts, verdicts, shop.rubrics, number))
    rows = tuple(pair_prompts(judged.prompts, drafts, verdicts, rankings, shop.recipe.pairing, number))
    pairs = tuple(sorted((row for row in rows if isinstance(row, PreferencePair)), key=lambda pair: pair.id))
    drops = tuple(row for row in rows if isinstance(row, Drop))
    return Paired(rankings, pairs, drops, flip_rate(verdicts))


def write_pairs(shop: Workshop, number: int, paired: Paired) -> None:
    """Write rankings, pairs and drops for the reader."""
    folder = shop.run.round(number)
    shop.run.rows(folder, "3-rankings.jsonl", Ranking).rewrite(paired.rankings)
    shop.run.rows(folder, "4-pairs.jsonl", PreferencePair).rewrite(paired.pairs)
    shop.run.rows(folder, "4-drops.jsonl", Drop).rewrite(paired.drops)


class Mixed(NamedTuple):
    """Pairs of earlier rounds that are trained on again."""

    pairs: tuple[PreferencePair, ...]
    forgotten: dict[str, str] = {}
    """Those that were drawn and are forgotten by now: id to hash."""


def mixed_past(
    shop: Workshop, number: int, pairs: Sequence[PreferencePair], past: Mapping[int, Sequence[PreferencePair]]
) -> Mixed:
    """Return the pairs of earlier rounds that are trained on again, drawn by hash."""
    mix = shop.recipe.train.mix_past
    rounds = [r for r in past if r < number and (mix.rounds == "all" or r >= number - int(mix.rounds))]
    pool = {pair.id: pair for r in sorted(rounds) for pair in past[r]}
    gone = {key: mark for r in sorted(rounds) for key, mark in shop.forgotten_pairs(r).items()}
    count = round(mix.share / (1.0 - mix.share) * (len(pairs) + len(shop.forgotten_pairs(number))))
    order = sorted([*pool, *gone], key=lambda key: seed_of(shop.recipe.seed, "mix", number, key))
    drawn = sorted(order[:count])
    return Mixed(tuple(pool[key] for key in drawn if key in pool), {key: gone[key] for key in drawn if key in gone})


def marks_of(pairs: Sequence[PreferencePair]) -> dict[str, str]:
    """Return each pair's hash by its id: what a training's fingerprint keeps of it."""
    return {pair.id: digest(pair.model_dump(mode="json")) for pair in pairs}


def policy_fingerprint(shop: Workshop, policy: Policy) -> str:
    """Return what identifies a policy: the fingerprint under which it was trained, or the base's."""
    if policy.adapter is None:
        return "base"
    stored = Fingerprints(shop.run.round(policy.round)).of("policy")
    if stored is None:
        raise RunError(f"{shop.run.round(policy.round)}: no fingerprint of its policy; run it again")
    return stored


def train_policy(
    shop: Workshop,
    number: int,
    paired: Paired,
    past: Mixed,
    previous: Policy,
    probes: Judged,
    before: Policy | None = None,
) -> TrainResult:
    """Write the round's pairs and train its policy on them and on past ones, or return the one that is there already.

    Args:
        previous: the policy of the round before.
        probes: drafts of that policy, on which its change is measured.
        before: the policy of the round before that one; None where there is none.

    Raises:
        TrainError: the trainer cannot train on these pairs.
    """
    recipe, folder, pairs = shop.recipe, shop.run.round(number), (*paired.pairs, *past.pairs)
    start = previous if recipe.loop.start_from == "previous" else shop.base
    reference = shop.base if recipe.train.reference == "base" else previous
    trainer = trainer_for(shop, number)
    uses_flip_rate = getattr(trainer, "uses_flip_rate", False)
    fingerprint = digest(
        [
            shop.student_fingerprint,
            sorted({**marks_of(pairs), **shop.forgotten_pairs(number), **past.forgotten}.items()),
            trainer.identity(),
            recipe.train.reference,
            recipe.seed,
            number,
            policy_fingerprint(shop, start),
            policy_fingerprint(shop, reference),
            *([shop.trained_flip_rate(number, paired.flip_rate)] if uses_flip_rate else []),
        ]
    )
    target = folder / "5-policy"
    marks = claim(shop, folder, "policy", "train", fingerprint, [target])
    write_pairs(shop, number, paired)
    if marks.done("policy", fingerprint):
        return TrainResult.model_validate(read_json(target / "train.json"))
    batch = getattr(trainer, "batch_size", 1)
    if len(pairs) < batch:
        drops = Counter(drop.reason for drop in paired.drops)
        shown = ", ".join(f"{count} {reason}" for reason, count in drops.most_common()) or "none dropped"
        raise StarvedError(
            f"{folder}: {len(pairs)} pairs, fewer than one batch (train.batch_size is {batch}); prompts without a pair: "
            f"{shown}; raise loop.prompts_per_round, sample.drafts or sample.temperature, or lower pair.min_margin or "
            "train.batch_size"
        )
    started = time.monotonic()
    try:
        data = TrainingData(tuple(pairs), _probes(probes), paired.flip_rate, before)
        result = trainer.train(data, start, reference, target, seed_of(recipe.seed, "train", number) % 2**31)
    finally:
        marks.note("policy", fingerprint, None, time.monotonic() - started)
    marks.note("policy", fingerprint, result.pairs)
    shop.save_choices()
    return result


def _probes(judged: Judged) -> tuple[Probe, ...]:
    """Return drafts on which a policy's change is measured, one a prompt where there are enough."""
    prompts = {prompt.id: prompt for prompt in judged.prompts}
    whole = [draft for draft in judged.drafts.values() if draft.finish_reason == "stop" and draft.policy is not None]
    chosen = sorted(whole, key=lambda draft: (draft.index, draft.id))[:PROBES]
    return tuple(
        Probe(prompts[each.prompt_id].messages, each.completion, each.log_prob, each.tokens, each.policy)
        for each in chosen
    )
