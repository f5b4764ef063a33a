"""Rounds made of another run's pairs: a control that tells fresh drafts from good pairs, and a warm start.

Place in the flow: instead of sampling and judging. The pairs of an online run are shuffled over the rounds and trained
on: what online still has over this arm, it owes to drafts of the updated student at the right time, and not to what the
pairs say. A warm start takes all of a run's pairs at once, to bring another student near what was paid for already.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from prefdistill.assembly import Workshop, train_prompts
from prefdistill.diagnostics.judging import flip_rate
from prefdistill.drafting import Judged
from prefdistill.errors import RunError
from prefdistill.records import Draft, PreferencePair, Prompt, Ranking, Verdict, digest, seed_of
from prefdistill.round import Paired
from prefdistill.run import RunDirectory


def replay(shop: Workshop, number: int) -> tuple[Judged, Paired]:
    """Return a round's share of the pairs of `loop.pairs_from`, with the drafts and verdicts that they come from.

    Raises:
        RunError: that run is not there, or has not finished as many rounds.
    """
    path, warm = shop.recipe.pairs_from(number), shop.recipe.warm_start is not None
    assert path is not None
    source, rounds = RunDirectory(path), shop.recipe.loop.rounds
    taken = sorted(source.finished_rounds() - {0}) if warm else range(1, rounds + 1)
    union = [(each, pair) for each in taken for pair in _pairs(source, each)]
    order = sorted(union, key=lambda item: seed_of(shop.recipe.seed, "replay", item[0], item[1].id))
    if warm:
        wanted = {prompt.id for prompt in train_prompts(shop.recipe, shop.prompts)[0]}
        chosen = [item for item in order if item[1].prompt_id in wanted]
    else:
        start, end = ((number + step) * len(order) // rounds for step in (-1, 0))
        chosen = order[start:end]
    return _of_round(shop, number, source, [item for item in chosen if item[1].prompt_id not in shop.forgotten])


def require_source(shop: Workshop) -> None:
    """Check that the run whose pairs are trained on is there, where the recipe names one.

    Raises:
        RunError: it is not there, or has not finished as many rounds.
    """
    warm = shop.recipe.warm_start
    if warm is not None and warm.pairs_from is not None:
        source = RunDirectory(warm.pairs_from)
        if not any(_pairs(source, each) for each in source.finished_rounds() - {0}):
            found = "no pairs in any finished round" if source.manifest.is_file() else "no run there"
            raise RunError(
                f"{source.path}: warm_start.pairs_from: {found}; expected a run with at least one finished round"
            )
    path, rounds = shop.recipe.loop.pairs_from, shop.recipe.loop.rounds
    if path is None:
        return
    source = RunDirectory(path)
    done = source.finished_rounds() - {0}
    if not done >= set(range(1, rounds + 1)):
        found = f"{len(done)} finished rounds" if source.manifest.is_file() else "no run there"
        raise RunError(
            f"{path}: loop.pairs_from: {found}, and loop.rounds is {rounds}; expected a run with as many finished rounds: "
            "finish it, or lower loop.rounds"
        )


def _pairs(source: RunDirectory, number: int) -> Iterable[PreferencePair]:
    return source.rows(source.round(number), "4-pairs.jsonl", PreferencePair).read().values()


def _of_round(
    shop: Workshop, number: int, source: RunDirectory, chosen: Sequence[tuple[int, PreferencePair]]
) -> tuple[Judged, Paired]:
    prompts: dict[str, Prompt] = {prompt.id: prompt for prompt in shop.prompts.prompts}
    wanted = {(each, pair.prompt_id) for each, pair in chosen}
    judged = Judged(tuple(prompts[key] for key in sorted({pair.prompt_id for _, pair in chosen}) if key in prompts))
    verdicts: dict[str, Verdict] = {}
    rankings: list[Ranking] = []
    for each in sorted({number for number, _ in wanted}):
        folder = source.round(each)
        for draft in source.rows(folder, "1-drafts.jsonl", Draft).read().values():
            if (each, draft.prompt_id) in wanted:
                judged.drafts[draft.id] = _elsewhere(draft, source, shop.run.path)
        for verdict in source.rows(folder, "2-verdicts.jsonl", Verdict).read().values():
            if (each, verdict.prompt_id) in wanted:
                verdicts[verdict.prompt_id] = _joined(verdicts.get(verdict.prompt_id), verdict)
        rankings += [
            ranking.model_copy(update={"round": number})
            for ranking in source.rows(folder, "3-rankings.jsonl", Ranking).read().values()
            if (each, ranking.prompt_id) in wanted
        ]
    judged.drafts = dict(sorted(judged.drafts.items()))
    judged.verdicts = {"verdicts": dict(sorted(verdicts.items()))}
    judged.fingerprint = digest(["replay", sorted(pair.id for _, pair in chosen)])
    folder = shop.run.round(number)
    shop.run.rows(folder, "1-drafts.jsonl", Draft).rewrite(judged.drafts.values())
    shop.run.rows(folder, "2-verdicts.jsonl", Verdict).rewrite(verdicts.values())
    pairs = [pair.model_copy(update={"round": number}) for _, pair in chosen if pair.prompt_id in prompts]
    pairs.sort(key=lambda pair: pair.id)
    return judged, Paired(tuple(rankings), tuple(pairs), (), flip_rate(verdicts.values()))


def _elsewhere(draft: Draft, source: RunDirectory, run: Path) -> Draft:
    """Return a draft whose policy names the other run's adapter, relative to this run's folder."""
    if draft.policy is None or draft.policy.adapter is None:
        return draft
    adapter = Path(os.path.relpath((source.path / draft.policy.adapter).resolve(), run.resolve())).as_posix()
    return draft.model_copy(update={"policy": draft.policy.model_copy(update={"adapter": adapter})})


def _joined(one: Verdict | None, other: Verdict) -> Verdict:
    """Return both verdicts on a prompt's drafts of two rounds as one."""
    if one is None:
        return other
    return one.model_copy(
        update={name: getattr(one, name) + getattr(other, name) for name in ("judgements", "preferences", "failures")}
    )
