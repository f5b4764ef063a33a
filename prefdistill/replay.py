"""Rounds made of another run's pairs: a control that tells fresh drafts from good pairs, and a warm start.

Place in the flow: instead of sampling and judging. The pairs of an online run are shuffled over the rounds and trained
on: what online still has over this arm, it owes to drafts of the updated student at the right time, and not to what the
pairs say. A warm start takes all of a run's pairs at once, to bring another student near what was paid for already; once
it is trained, its own files are read, and the other run may change or go.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prefdistill.artefacts import claim
from prefdistill.assembly import Workshop, train_prompts
from prefdistill.diagnostics.judging import flip_rate
from prefdistill.drafting import Judged
from prefdistill.errors import RunError
from prefdistill.records import Draft, PreferencePair, Prompt, Ranking, Verdict, digest, seed_of
from prefdistill.round import Paired
from prefdistill.run import Fingerprints, RunDirectory


def replay(shop: Workshop, number: int) -> tuple[Judged, Paired]:
    """Return a round's share of the pairs of `loop.pairs_from`, with the drafts and verdicts that they come from.

    Raises:
        RunError: that run is not there, or has not finished as many rounds.
    """
    path, warm = shop.recipe.pairs_from(number), shop.recipe.warm_start is not None
    assert path is not None
    source, rounds = RunDirectory(path), shop.recipe.loop.rounds
    others = any(line.startswith(("warm_start.pairs_from:", "warm_start.prompts:")) for line in shop.changed)
    again = shop.redo_from in ("sample", "judge") or (others and source.manifest.is_file())
    if warm and _is_trained(shop.run.round(number)) and not again:
        return _again(shop, number)
    taken = sorted(source.finished_rounds() - {0}) if warm else range(1, rounds + 1)
    union = [(each, pair) for each in taken for pair in _pairs(source, each)]
    order = sorted(union, key=lambda item: seed_of(shop.recipe.seed, "replay", item[0], item[1].id))
    if warm:
        wanted = {prompt.id for prompt in train_prompts(shop.recipe, shop.prompts)[0]}
        chosen = [item for item in order if item[1].prompt_id in wanted]
    else:
        start, end = ((number + step) * len(order) // rounds for step in (-1, 0))
        chosen = order[start:end]
    made_from = _claim(shop, number, source, [*taken])
    found = _of_round(shop, number, source, [item for item in chosen if item[1].prompt_id not in shop.forgotten])
    marks, judged = Fingerprints(shop.run.round(number)), found[0]
    marks.note("drafts", made_from, len(judged.drafts))
    marks.note("verdicts", made_from, len(judged.verdicts["verdicts"]))
    return found


def require_source(shop: Workshop) -> None:
    """Check that the run whose pairs are trained on is there, where the recipe names one.

    Raises:
        RunError: it is not there, or has not finished as many rounds.
    """
    warm = shop.recipe.warm_start
    if warm is not None and warm.pairs_from is not None and not _is_trained(shop.run.round(1)):
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


def _is_trained(folder: Path) -> bool:
    return Fingerprints(folder).entries.get("policy", {}).get("rows") is not None


TAKEN = {"drafts": ("sample", "1-drafts.jsonl"), "verdicts": ("judge", "2-verdicts.jsonl")}
"""What is taken over from the other run: its stage and its file."""


def _claim(shop: Workshop, number: int, source: RunDirectory, rounds: Sequence[int]) -> str:
    """Make sure that what stands in the round's folder was taken from the same trainings of the other run; name them.

    Their fingerprints stay what they are when a prompt is forgotten there.

    Raises:
        RunError: the folder holds what was made otherwise, such as answers that were paid for.
    """
    folder, recipe = shop.run.round(number), shop.recipe
    trained = [Fingerprints(source.round(each)).of("policy") for each in rounds]
    prompts = None if recipe.warm_start is None else recipe.warm_start.prompts
    fingerprint = digest(["replay", trained, number, recipe.loop.rounds if prompts is None else prompts, recipe.seed])
    for name, (stage, file) in TAKEN.items():
        claim(shop, folder, name, stage, fingerprint, [folder / file])
    return fingerprint


def _again(shop: Workshop, number: int) -> tuple[Judged, Paired]:
    """Return what a round that is trained was made from, from its own files."""
    run, folder = shop.run, shop.run.round(number)
    pairs = run.rows(folder, "4-pairs.jsonl", PreferencePair).read()
    verdicts = run.rows(folder, "2-verdicts.jsonl", Verdict).read()
    rankings = run.rows(folder, "3-rankings.jsonl", Ranking).read()
    ids = {pair.prompt_id for pair in pairs.values()}
    judged = Judged(tuple(prompt for prompt in shop.prompts.prompts if prompt.id in ids))
    judged.drafts = run.rows(folder, "1-drafts.jsonl", Draft).read()
    judged.verdicts = {"verdicts": verdicts}
    judged.fingerprint = digest(["replay", sorted(pairs)])
    return judged, Paired(tuple(rankings.values()), tuple(pairs.values()), (), flip_rate(verdicts.values()))


def _pairs(source: RunDirectory, number: int) -> Iterable[PreferencePair]:
    return source.rows(source.round(number), "4-pairs.jsonl", PreferencePair).read().values()


def _of_round(
    shop: Workshop, number: int, source: RunDirectory, chosen: Sequence[tuple[int, PreferencePair]]
) -> tuple[Judged, Paired]:
    prompts: dict[str, Prompt] = {prompt.id: prompt for prompt in shop.prompts.prompts}
    wanted = {(each, pair.prompt_id) for each, pair in chosen}
    judged = Judged(tuple(prompts[key] for key in sorted({pair.prompt_id for _, pair in chosen}) if key in prompts))
    verdicts: dict[str, Verdict] = {}
    rankings: dict[str, Ranking] = {}
    names: dict[str, str] = {}
    warm = number < shop.recipe.first_round
    for each in sorted({number for number, _ in wanted}):
        folder = source.round(each)
        for draft in source.rows(folder, "1-drafts.jsonl", Draft).read().values():
            if (each, draft.prompt_id) in wanted:
                taken = _elsewhere(draft, source, shop.run.path, as_file=warm)
                judged.drafts[taken.id] = taken
                if taken.id != draft.id:
                    names[draft.id] = taken.id
        for verdict in source.rows(folder, "2-verdicts.jsonl", Verdict).read().values():
            if (each, verdict.prompt_id) in wanted:
                verdicts[verdict.prompt_id] = _joined(verdicts.get(verdict.prompt_id), _renamed(verdict, names))
        rankings |= {
            ranking.prompt_id: _renamed(ranking.model_copy(update={"round": number}), names)
            for ranking in source.rows(folder, "3-rankings.jsonl", Ranking).read().values()
            if (each, ranking.prompt_id) in wanted
        }
    judged.drafts = dict(sorted(judged.drafts.items()))
    judged.verdicts = {"verdicts": dict(sorted(verdicts.items()))}
    judged.fingerprint = digest(["replay", sorted(pair.id for _, pair in chosen)])
    folder = shop.run.round(number)
    shop.run.rows(folder, "1-drafts.jsonl", Draft).rewrite(judged.drafts.values())
    shop.run.rows(folder, "2-verdicts.jsonl", Verdict).rewrite(verdicts.values())
    # Another student's reasoning is for one that reasons too.
    untraced = {} if shop.recipe.student.trace == "on" else {"chosen_trace": "", "rejected_trace": ""}
    pairs = [
        _renamed(pair.model_copy(update={"round": number, **untraced}), names)
        for _, pair in chosen
        if pair.prompt_id in prompts
    ]
    pairs.sort(key=lambda pair: pair.id)
    return judged, Paired(tuple(rankings.values()), tuple(pairs), (), flip_rate(verdicts.values()))


def _elsewhere(draft: Draft, source: RunDirectory, run: Path, as_file: bool) -> Draft:
    """Return a draft whose policy names the other run's adapter, relative to this run's folder.

    Args:
        draft: the other run's.
        source: the other run.
        run: this run's folder.
        as_file: whether it becomes a draft of `file:RUN`, with an id of its own: this run's rounds will give theirs the
            same numbers.
    """
    changes: dict[str, Any] = {}
    if draft.policy is not None and draft.policy.adapter is not None:
        adapter = Path(os.path.relpath((source.path / draft.policy.adapter).resolve(), run.resolve())).as_posix()
        changes["policy"] = draft.policy.model_copy(update={"adapter": adapter})
    if as_file and draft.source == "student":
        name = f"file:{re.sub(r'[^A-Za-z0-9._-]+', '-', source.path.resolve().name)}"
        changes |= {
            "source": name,
            "id": Draft.make_id(draft.prompt_id, name, draft.round, draft.purpose, draft.index),
        }
    return draft.model_copy(update=changes)


OfDrafts = TypeVar("OfDrafts", Verdict, Ranking, PreferencePair)


def _renamed(row: OfDrafts, names: Mapping[str, str]) -> OfDrafts:
    """Return a row that calls drafts by their new ids."""
    return type(row).model_validate(_with_names(row.model_dump(), names)) if names else row


NAMED = ("draft_id", "first_id", "second_id", "chosen_id", "rejected_id")
"""Fields that name a draft; a failure's `key` names one or two, a ranking's `undecided` several."""


def _with_names(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _name(key, each, names) for key, each in value.items()}
    return [_with_names(each, names) for each in value] if isinstance(value, (list, tuple)) else value


def _name(key: str, value: Any, names: Mapping[str, str]) -> Any:
    if key in NAMED:
        return names.get(value, value)
    if key == "key" and isinstance(value, str):
        return "|".join(names.get(each, each) for each in value.split("|"))
    if key == "undecided":
        return [names.get(each, each) for each in value]
    return _with_names(value, names)


def _joined(one: Verdict | None, other: Verdict) -> Verdict:
    """Return both verdicts on a prompt's drafts of two rounds as one."""
    if one is None:
        return other
    return one.model_copy(
        update={name: getattr(one, name) + getattr(other, name) for name in ("judgements", "preferences", "failures")}
    )
