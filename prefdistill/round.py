"""One round's steps after judging: rankings and pairs, past pairs mixed in, and a policy trained on them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from prefdistill.artefacts import adopt, claim
from prefdistill.assembly import Workshop
from prefdistill.diagnostics.judging import flip_rate
from prefdistill.drafting import Judged
from prefdistill.errors import RunError, TrainError
from prefdistill.protocols import Probe, TrainingData, learns_from
from prefdistill.records import Answer, Drop, Policy, PreferencePair, Ranking, TrainResult, digest, seed_of
from prefdistill.remedies import trainer_for
from prefdistill.run import Fingerprints, RunDirectory, read_json
from prefdistill.stages.pair import pair_prompts, with_drawn_labels
from prefdistill.stages.rank import rank_prompts


class StarvedError(TrainError):
    """A round has fewer pairs, or answers, than one batch."""


PROBES = 48
"""Texts on which the change of a policy is measured."""


TrainingRow = PreferencePair | Answer


class Paired(NamedTuple):
    """What a round's verdicts came to."""

    rankings: tuple[Ranking, ...]
    pairs: tuple[PreferencePair, ...]
    drops: tuple[Drop, ...]
    flip_rate: float | None = None
    """Share of the comparisons whose winner changed with the order shown; None where nothing was compared."""
    answers: tuple[Answer, ...] = ()
    """The teacher's answers, where the trainer learns from those; then there are no rankings and no pairs."""

    @property
    def rows(self) -> tuple[TrainingRow, ...]:
        """What is trained on."""
        return (*self.pairs, *self.answers)


def rank_and_pair(shop: Workshop, number: int, judged: Judged) -> Paired:
    """Rank the round's drafts and make its pairs; pure, so always computed anew."""
    drafts = sorted(judged.drafts.values(), key=lambda draft: draft.id)
    verdicts = list(judged.verdicts["verdicts"].values())
    rankings = tuple(rank_prompts(judged.prompts, drafts, verdicts, shop.rubrics, number))
    rows = tuple(pair_prompts(judged.prompts, drafts, verdicts, rankings, shop.recipe.pairing, number))
    found = [row for row in rows if isinstance(row, PreferencePair)]
    if shop.recipe.pair.labels == "random":
        found = [with_drawn_labels(pair, shop.recipe.seed) for pair in found]
    pairs = tuple(sorted(found, key=lambda pair: pair.id))
    drops = tuple(row for row in rows if isinstance(row, Drop))
    return Paired(rankings, pairs, drops, flip_rate(verdicts))


def write_pairs(shop: Workshop, number: int, paired: Paired) -> None:
    """Write rankings and pairs, or answers, and drops for the reader."""
    folder = shop.run.round(number)
    on_answers = learns_from(shop.trainer_of(number)) == "answers"
    others = ("3-rankings.jsonl", "4-pairs.jsonl") if on_answers else ("4-answers.jsonl",)
    shop.run.set_aside([folder / name for name in others])  # of a round that learned otherwise before
    if on_answers:
        shop.run.rows(folder, "4-answers.jsonl", Answer).rewrite(paired.answers)
    else:
        shop.run.rows(folder, "3-rankings.jsonl", Ranking).rewrite(paired.rankings)
        shop.run.rows(folder, "4-pairs.jsonl", PreferencePair).rewrite(paired.pairs)
    shop.run.rows(folder, "4-drops.jsonl", Drop).rewrite(paired.drops)


class Mixed(NamedTuple):
    """Pairs, or answers, of earlier rounds that are trained on again."""

    pairs: tuple[TrainingRow, ...]
    forgotten: dict[str, str] = {}
    """Those that were drawn and are forgotten by now: id to hash."""


def mixed_past(
    shop: Workshop, number: int, pairs: Sequence[TrainingRow], past: Mapping[int, Sequence[TrainingRow]]
) -> Mixed:
    """Return the pairs, or answers, of earlier rounds that are trained on again, drawn by hash; not the warm start's."""
    mix, first = shop.recipe.train.mix_past, shop.recipe.first_round
    rounds = [r for r in past if first <= r < number and (mix.rounds == "all" or r >= number - int(mix.rounds))]
    pool = {pair.id: pair for r in sorted(rounds) for pair in past[r]}
    gone = {key: mark for r in sorted(rounds) for key, mark in shop.forgotten_pairs(r).items()}
    count = round(mix.share / (1.0 - mix.share) * (len(pairs) + len(shop.forgotten_pairs(number))))
    order = sorted([*pool, *gone], key=lambda key: seed_of(shop.recipe.seed, "mix", number, key))
    drawn = sorted(order[:count])
    return Mixed(tuple(pool[key] for key in drawn if key in pool), {key: gone[key] for key in drawn if key in gone})


def marks_of(pairs: Sequence[TrainingRow]) -> dict[str, str]:
    """Return each pair's, or answer's, hash by its id: what a training's fingerprint keeps of it."""
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
    begin: Policy,
    before: Policy | None = None,
) -> TrainResult:
    """Write the round's pairs and train its policy on them and on past ones, or return the one that is there already.

    Args:
        previous: the policy of the round before.
        probes: drafts of that policy, on which its change is measured.
        begin: the policy that the rounds begin with: the warm start's, or the base.
        before: the policy of the round before that one; None where there is none.

    Raises:
        TrainError: the trainer cannot train on these pairs.
    """
    recipe, folder, pairs = shop.recipe, shop.run.round(number), (*paired.rows, *past.pairs)
    start = previous if recipe.loop.start_from == "previous" else begin
    reference = {"base": shop.base, "warm_start": begin, "previous": previous}[recipe.reference]
    if number < recipe.first_round:
        start = reference = shop.base
    trainer = trainer_for(shop, number)
    uses_flip_rate = getattr(trainer, "uses_flip_rate", False)
    steps = recipe.steps_of(number)
    made_from = [
        shop.student_fingerprint,
        sorted({**marks_of(pairs), **shop.forgotten_pairs(number), **past.forgotten}.items()),
        trainer.identity(),
        recipe.reference,
        recipe.seed,
        number,
        policy_fingerprint(shop, start),
        policy_fingerprint(shop, reference),
        *([shop.trained_flip_rate(number, paired.flip_rate)] if uses_flip_rate else []),
    ]
    if recipe.student.trace is not None and paired.pairs:  # answers say themselves what they begin with
        made_from.append([recipe.student.tags, recipe.student.block])
    fingerprint = digest(made_from if steps is None else [*made_from, steps])
    target = folder / "5-policy"

    def in_as_many_steps(sibling: RunDirectory) -> list[str]:
        trained = sibling.path / target.relative_to(shop.run.path) / "train.json"
        return [digest(made_from)] if trained.is_file() and read_json(trained)["steps"] == steps else []

    adopt(shop, folder, "policy", fingerprint, [target], in_as_many_steps)
    marks = claim(shop, folder, "policy", "train", fingerprint, [target])
    write_pairs(shop, number, paired)
    if marks.done("policy", fingerprint):
        return TrainResult.model_validate(read_json(target / "train.json"))
    batch = getattr(trainer, "batch_size", 1)
    if len(pairs) < batch:
        drops = Counter(drop.reason for drop in paired.drops)
        shown = ", ".join(f"{count} {reason}" for reason, count in drops.most_common()) or "none dropped"
        what = learns_from(trainer)
        warm = number < recipe.first_round
        section, more = ("warm_start", "warm_start.prompts") if warm else ("train", "loop.prompts_per_round")
        mend = f"or lower {section}.batch_size"
        if what == "pairs" and not warm:
            mend = "sample.drafts or sample.temperature, or lower pair.min_margin or train.batch_size"
        raise StarvedError(
            f"{folder}: {len(pairs)} {what}, fewer than one batch ({section}.batch_size is {batch}); prompts without "
            f"{'a pair' if what == 'pairs' else 'an answer'}: {shown}; raise {more}, {mend}"
        )
    started = time.monotonic()
    try:
        data = TrainingData(
            tuple(row for row in pairs if isinstance(row, PreferencePair)),
            _probes(probes),
            paired.flip_rate,
            steps=steps,
            answers=tuple(row for row in pairs if isinstance(row, Answer)),
            previous=before,
        )
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
        Probe(prompts[each.prompt_id].messages, each.written, each.log_prob, each.tokens, each.policy)
        for each in chosen
    )
