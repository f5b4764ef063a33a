"""Criterion by criterion: which levels the judge gives, whether they vary, and how far people give the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from prefdistill.agreement.cases import JudgedCase
from prefdistill.agreement.figures import Figure, kappa, share
from prefdistill.agreement.labelled import Labelled
from prefdistill.errors import did_you_mean
from prefdistill.labels import LabelError
from prefdistill.metrics.agreement import CHANCE, krippendorff_alpha
from prefdistill.records import CriterionScore
from prefdistill.rubric import Criterion, Rubric
from prefdistill.selection import pool_scores

FEW = 5
"""Fewer drafts than this cannot show that a criterion never varies."""


@dataclass(frozen=True)
class CriterionFigures:
    """One asked criterion of one rubric."""

    rubric: str
    name: str
    levels: tuple[str, ...]
    counts: dict[str, int]
    """Drafts by the judge's level, worst level first."""
    people_counts: dict[str, int]
    """Labels by level."""
    agreement: Figure
    """The judge's level is the label's."""
    kappa: Figure
    """Cohen's, of the judge's level with the label's."""
    bias: float | None
    """Mean score by the judge minus mean score by people, 0..1; below 0 the judge is stricter."""
    people_alpha: float | None
    """Krippendorff's alpha of people's levels, ordinal; None where no draft has two labels."""
    people_drafts: int = 0
    """Drafts with labels by two people or more."""

    @property
    def people_agree(self) -> bool | None:
        """Whether people agree better than by chance; None where too few drafts have two labels."""
        if self.people_alpha is None or self.people_drafts < FEW:
            return None
        return self.people_alpha >= CHANCE

    @property
    def drafts(self) -> int:
        """Drafts that the judge gave a level."""
        return sum(self.counts.values())

    @property
    def constant(self) -> str | None:
        """The level that all drafts got, where they are enough to tell."""
        given = [level for level, count in self.counts.items() if count]
        return given[0] if len(given) == 1 and self.drafts >= FEW else None


def criteria_figures(labelled: Labelled, judged: Sequence[JudgedCase]) -> list[CriterionFigures]:
    """Return the figures of every criterion that was asked of a teacher, or that people labelled.

    Raises:
        LabelError: a label names no asked criterion of its prompt's rubric, or a level that it does not have.
    """
    rubrics = {each.case.prompt.id: each.rubric for each in judged}
    for vote in labelled.levels:
        _check(vote.criterion, vote.level, vote.prompt_id, rubrics[vote.prompt_id])
    given = _given(judged)
    by_name = {(rubric.name, each.name): each for rubric in rubrics.values() for each in rubric.asked}
    return [
        _figures(rubric, criterion, labelled, rubrics, given.get((rubric, name), {}))
        for (rubric, name), criterion in by_name.items()
        if given.get((rubric, name)) or any(vote.criterion == name for vote in labelled.levels)
    ]


def _check(name: str, level: str, prompt_id: str, rubric: Rubric) -> None:
    asked = {each.name: each for each in rubric.asked}
    if name not in asked:
        checked = name in {each.name for each in rubric.checked}
        found = "is checked, not asked" if checked else f"is no criterion{did_you_mean(name, asked)}"
        raise LabelError(
            f"labels on prompt {prompt_id}: `{name}` {found}; expected an asked criterion of rubric {rubric.name} "
            f"({', '.join(asked) or 'it has none'}); give the right rubric with --judge or --rubric"
        )
    levels = asked[name].levels or ()
    if level.strip().casefold() not in {each.strip().casefold() for each in levels}:
        raise LabelError(
            f"labels on prompt {prompt_id}: {name} has no level `{level[:80]}`; expected one of {', '.join(levels)}"
        )


def _given(judged: Sequence[JudgedCase]) -> dict[tuple[str, str], dict[str, CriterionScore]]:
    """Return by rubric and criterion what the judge gave each draft, members pooled."""
    found: dict[tuple[str, str], dict[str, CriterionScore]] = defaultdict(dict)
    for each in judged:
        for draft in each.case.drafts:
            mine = [one for one in each.verdict.judgements if one.draft_id == draft.id and one.scores]
            for score in pool_scores(mine) if mine else ():
                if score.applies and score.path != "checked":
                    found[each.rubric.name, score.criterion][draft.id] = score
    return found


def _figures(
    rubric: str,
    criterion: Criterion,
    labelled: Labelled,
    rubrics: Mapping[str, Rubric],
    given: Mapping[str, CriterionScore],
) -> CriterionFigures:
    levels = criterion.levels or ()
    menu = {each.strip().casefold(): each for each in levels}
    votes = [
        (vote.prompt_id, vote.draft_id, menu[vote.level.strip().casefold()])
        for vote in labelled.levels
        if vote.criterion == criterion.name and rubrics[vote.prompt_id].name == rubric
    ]
    said = {draft_id: _level(score, criterion) for draft_id, score in given.items()}
    both = [(prompt_id, said[draft_id], level) for prompt_id, draft_id, level in votes if draft_id in said]
    ratings: dict[str, list[str]] = defaultdict(list)
    for _, draft_id, level in votes:
        ratings[draft_id].append(level)
    counts, people = Counter(said.values()), Counter(level for _, _, level in votes)
    gaps = [
        (given[draft_id].score or 0.0) - criterion.score_of(level) for _, draft_id, level in votes if draft_id in given
    ]
    return CriterionFigures(
        rubric=rubric,
        name=criterion.name,
        levels=levels,
        counts={level: counts[level] for level in levels},
        people_counts={level: people[level] for level in levels},
        agreement=share((prompt_id, float(judge == person)) for prompt_id, judge, person in both),
        kappa=kappa(both, levels),
        bias=fmean(gaps) if gaps else None,
        people_alpha=krippendorff_alpha(ratings.values(), levels, "ordinal"),
        people_drafts=sum(len(each) > 1 for each in ratings.values()),
    )


def _level(score: CriterionScore, criterion: Criterion) -> str:
    """Return the level that a score stands for: the one named, else the nearest (a panel's mean names none)."""
    levels = criterion.levels or ()
    if score.level in levels:
        return str(score.level)
    return min(levels, key=lambda level: abs(criterion.score_of(level) - (score.score or 0.0)))
