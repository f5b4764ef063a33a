"""What a judge works on: the criteria to ask about, and each distinct text with what its checks found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prefdistill.judges.checks import checked_scores
from prefdistill.records import CriterionScore, Draft, Prompt
from prefdistill.rubric import Criterion, Rubric, fill
from prefdistill.selection import failed_built_in, failed_gates


@dataclass(frozen=True)
class Asked:
    """An asked criterion as it stands in a judge's prompt: its fields filled in, its weight left out."""

    name: str
    question: str
    levels: tuple[str, ...]
    pass_when: str | None


@dataclass(frozen=True)
class Checked:
    """One distinct text with what was found without a call."""

    draft: Draft
    """The first draft that has this text."""
    scores: Mapping[str, CriterionScore]
    failed: tuple[str, ...]
    """Gates that it fails already: `complete` and checked ones."""


def asked_criteria(rubric: Rubric, prompt: Prompt) -> list[Criterion]:
    """Return the criteria that a teacher must answer for this prompt."""
    return [each for each in rubric.asked if each.applies_to(prompt)]


def asked_of(rubric: Rubric, prompt: Prompt, only: Iterable[Criterion] | None = None) -> tuple[Asked, ...]:
    """Return the same as they stand in a prompt, all or those in `only`."""
    return tuple(
        Asked(each.name, fill(each.question or "", prompt) or "", each.levels or (), getattr(each, "pass_when", None))
        for each in (asked_criteria(rubric, prompt) if only is None else only)
    )


def check_texts(prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> dict[tuple[str, bool], Checked]:
    """Apply checks to every distinct text (see `text_key`), once each.

    Raises:
        JudgeError: a check raises.
    """
    found: dict[tuple[str, bool], Checked] = {}
    for draft in drafts:
        if text_key(draft) not in found:
            scores = checked_scores(prompt, draft, rubric)
            failed = (*failed_built_in(draft), *failed_gates(scores, rubric))
            found[text_key(draft)] = Checked(draft, {score.criterion: score for score in scores}, failed)
    return found


def text_key(draft: Draft) -> tuple[str, bool]:
    """Return what makes two drafts the same to a judge: the text, and whether it was cut at the token limit."""
    return draft.completion.strip(), draft.finish_reason == "length"


def same_texts(drafts: Iterable[Draft]) -> dict[tuple[str, bool], list[Draft]]:
    """Return the drafts of each distinct text."""
    same: dict[tuple[str, bool], list[Draft]] = defaultdict(list)
    for draft in drafts:
        same[text_key(draft)].append(draft)
    return same
