"""Rows of another run: its drafts, verdicts and pairs become those of a round of this run.

What stands in the round's folder is claimed before anything is written, so that a changed recipe overwrites nothing that
was paid for. Once the round is trained its own files are read, and the other run may change or go.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prefdistill.artefacts import claim
from prefdistill.assembly import Workshop
from prefdistill.diagnostics.judging import flip_rate
from prefdistill.drafting import Judged
from prefdistill.records import Draft, PreferencePair, Prompt, Ranking, Verdict, digest
from prefdistill.round import Paired
from prefdistill.run import Fingerprints, RunDirectory

TAKEN = {"drafts": ("sample", "1-drafts.jsonl"), "verdicts": ("judge", "2-verdicts.jsonl")}
"""What is taken over from the other run: its stage and its file."""


def take(
    shop: Workshop,
    number: int,
    source: RunDirectory,
    rounds: Sequence[int],
    chosen: Sequence[tuple[int, PreferencePair]],
) -> tuple[Judged, Paired]:
    """Make chosen pairs of another run, with the drafts and verdicts that they come from, those of a round.

    Args:
        shop: this run.
        number: the round.
        source: the other run.
        rounds: its rounds that were chosen from.
        chosen: the pairs, each with its round there; those of forgotten prompts are left out.

    Raises:
        RunError: the round's folder holds what was made otherwise, such as answers that were paid for.
    """
    made_from = _claim(shop, number, source, rounds)
    found = _of_round(shop, number, source, [item for item in chosen if item[1].prompt_id not in shop.forgotten])
    marks, judged = Fingerprints(shop.run.round(number)), found[0]
    marks.note("drafts", made_from, len(judged.drafts))
    marks.note("verdicts", made_from, len(judged.verdicts["verdicts"]))
    return found


def its_own(shop: Workshop, number: int) -> tuple[Judged, Paired]:
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
