"""What was paid for is taken over: the teacher's drafts and answers, and every verdict on them.

Place in the flow: before the new run's first draft. Rows are taken where this run would make them from the same inputs,
whichever prompts it has beside them: the fingerprint that it would have with the old run's prompts must be the old
run's. The pairs need nothing here, they come by `warm_start.pairs_from`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefdistill.answers import judges_gates, wanted_answers
from prefdistill.assembly import Workshop, limited_prompts, train_prompts
from prefdistill.drafting import Wanted, drafts_fingerprint, verdicts_fingerprint
from prefdistill.evaluation import scoring_judges, wanted_drafts
from prefdistill.finished import FinishedRun
from prefdistill.records import Draft, Prompt, Split, Verdict
from prefdistill.refresh.planning import RefreshPlan
from prefdistill.run import Fingerprints
from prefdistill.stages.load import Loaded


def take_over(shop: Workshop, plan: RefreshPlan) -> None:
    """Copy what the teacher wrote in the old run, and the verdicts on it, where this run would ask for the same."""
    old = plan.old
    splits: tuple[Split, ...] = ("validation", "test")
    for split in splits:
        if "teacher" in {*shop.recipe.evaluate.baselines} & {*old.recipe.evaluate.baselines}:
            wanted = wanted_drafts(shop, "teacher", split, shop.run.baselines, f"teacher-{split}-")
            theirs = limited_prompts(old.recipe, _loaded(old), split)
            _take(shop, wanted, scoring_judges(shop), [_Source(old.directory.baselines, 0, theirs, wanted)])
    if plan.way == "answers":
        wanted = wanted_answers(shop, 1, train_prompts(shop.recipe, shop.prompts)[0])
        judges = {"verdicts": shop.judge} if judges_gates(shop.rubrics, shop.judge) else {}
        _take(shop, wanted, judges, list(_answered(old, wanted)))


def _loaded(old: FinishedRun) -> Loaded:
    return Loaded(tuple(old.loaded.values()), 0, ())


@dataclass(frozen=True)
class _Source:
    """One artefact of the old run."""

    folder: Path
    round: int
    prompts: tuple[Prompt, ...]
    wanted: Wanted
    """As this run would want it with the old run's prompts and round."""

    @property
    def as_theirs(self) -> Wanted:
        """What this run would want, had it the old run's prompts, drafts a prompt and round."""
        return replace(self.wanted, folder=self.folder, prompts=self.prompts, round=self.round)


def _answered(old: FinishedRun, wanted: Wanted) -> Iterator[_Source]:
    """Yield the rounds of the old run in which the teacher answered."""
    for number, prompts in enumerate(train_prompts(old.recipe, _loaded(old)), start=1):
        folder = old.directory.round(number)
        if (folder / "4-answers.jsonl").is_file():
            yield _Source(folder, number, prompts, replace(wanted, drafts=old.recipe.answers_of(number)))


def _take(shop: Workshop, wanted: Wanted, judges: Mapping[str, Any], sources: list[_Source]) -> None:
    """Copy an artefact's drafts, and the verdicts of each judge on them, unless work on it has begun."""
    marks, ids = Fingerprints(wanted.folder), {prompt.id for prompt in wanted.prompts}
    mark = drafts_fingerprint(shop, wanted)
    name = f"{wanted.prefix}drafts"
    if marks.of(name) is not None:
        return
    same = [each for each in sources if _is_same(each, name, drafts_fingerprint(shop, each.as_theirs))]
    drafts: dict[str, Draft] = {}
    names: dict[Path, dict[str, str]] = {}
    for source in same:
        rows = shop.run.rows(source.folder, wanted.file("drafts"), Draft).read().values()
        there = {draft.prompt_id for draft in drafts.values()}
        names[source.folder] = {}
        for row in rows:
            if row.prompt_id in ids - there - shop.forgotten.keys():
                taken = _as_wanted(row, wanted)
                drafts[taken.id], names[source.folder][row.id] = taken, taken.id
    if not drafts:
        return
    for kind, judge in judges.items():
        ours = verdicts_fingerprint(shop, mark, wanted.prompts, judge)
        label, checks = f"{wanted.prefix}{kind}", shop.checks_fingerprint()
        found: dict[str, Verdict] = {}
        for source in same:
            theirs = drafts_fingerprint(shop, source.as_theirs)
            fingerprint = verdicts_fingerprint(shop, theirs, source.prompts, judge)
            if _is_same(source, label, fingerprint) and _is_same(source, f"{label}-checks", checks):
                rows_of = shop.run.rows(source.folder, wanted.file(kind), Verdict).read()
                found = {**_of_drafts(rows_of, names[source.folder]), **found}
        if found:
            shop.run.rows(wanted.folder, wanted.file(kind), Verdict).rewrite(found.values())
            marks.note(label, ours, None)
            marks.note(f"{label}-checks", checks, None)
    shop.run.rows(wanted.folder, wanted.file("drafts"), Draft).rewrite(drafts.values())
    marks.note(name, mark, None)  # last: while it is not there, all of this is done again


def _is_same(source: _Source, name: str, fingerprint: str) -> bool:
    return Fingerprints(source.folder).of(name) == fingerprint


def _as_wanted(draft: Draft, wanted: Wanted) -> Draft:
    """Return a draft with the round, and the id, that this run would give it."""
    if draft.round == wanted.round:
        return draft
    key = Draft.make_id(draft.prompt_id, draft.source, wanted.round, draft.purpose, draft.index)
    return draft.model_copy(update={"id": key, "round": wanted.round})


def _of_drafts(verdicts: Mapping[str, Verdict], names: Mapping[str, str]) -> dict[str, Verdict]:
    """Return the verdicts on drafts that were taken, by their ids here."""
    found = {}
    for key, verdict in verdicts.items():
        judged = {each.draft_id for each in verdict.judgements} | {each.key for each in verdict.failures}
        if judged and judged <= names.keys():
            judgements = [each.model_copy(update={"draft_id": names[each.draft_id]}) for each in verdict.judgements]
            failures = [each.model_copy(update={"key": names[each.key]}) for each in verdict.failures]
            changes = {"judgements": tuple(judgements), "failures": tuple(failures)}
            found[key] = verdict.model_copy(update=changes)
    return found
