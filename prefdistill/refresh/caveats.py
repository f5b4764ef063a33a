"""What limits a verdict: how the test prompts were used before, who judged, what was not equal."""

from __future__ import annotations

from collections.abc import Iterator

from prefdistill.compare.checks import about_rounds, leaks
from prefdistill.finished import FinishedRun
from prefdistill.refresh.changes import Way
from prefdistill.refresh.counting import Account
from prefdistill.refresh.figures import RefreshFigures, layout_of
from prefdistill.stages.report.comparison import Note


def caveats(old: FinishedRun, new: FinishedRun, figures: RefreshFigures, account: Account) -> tuple[Note, ...]:
    """Return what a reader must know before acting on the verdict."""
    layout = layout_of(old, new)
    warnings = [*_of_the_test(figures), *_of_the_judge(figures), *leaks(layout), *_of_the_training(old, new, figures)]
    notes = [Note("warning", text) for text in warnings]
    notes += [note for note in about_rounds(layout) if note.level != "info"]
    notes += [Note("info", text) for text in _of_the_way(new, account)]
    return tuple(dict.fromkeys(notes))


def way_of(run: FinishedRun) -> Way:
    """Return what warm-started a run."""
    warm = run.recipe.warm_start
    return "pairs" if warm is not None and warm.pairs_from is not None else "answers"


def _of_the_test(figures: RefreshFigures) -> Iterator[str]:
    yield (
        "these test prompts were measured once before, for the old student: whatever was decided by that figure (to keep "
        "it, to change its recipe) makes it look a little better than it is on new prompts"
    )
    yield (
        "one run of each student: the intervals are over prompts only, and another seed may come out otherwise by more "
        "than they say"
    )
    if figures.left_out:
        yield (
            f"{figures.left_out} test prompts do not fit one of the two students, and count for neither; which ones is in "
            "the notes of the runs' reports"
        )
    unknown = figures.prompts - figures.known
    if unknown:
        yield f"{unknown} of {figures.prompts} test prompts have no score of one of the students, and count for neither"


def _of_the_judge(figures: RefreshFigures) -> Iterator[str]:
    if figures.self_judged:
        yield (
            f"self-judged: {figures.judge}, which scores these drafts, also chose the training pairs, so that a student "
            "which pleases a flaw of it looks better; a second judge in `evaluate.judge` would be stronger evidence"
        )
    if figures.scale == "custom":
        yield "the judge scores on a scale of its own, and the margin is in that unit: choose it with --margin"


def _of_the_training(old: FinishedRun, new: FinishedRun, figures: RefreshFigures) -> Iterator[str]:
    theirs, ours = figures.old, figures.new
    made = sum(each.judged for each in new.rounds[1:] if not each.warm_start)
    if made and way_of(new) == "pairs":
        yield (
            f"not equal: the old student learned from {theirs.judged:,} judged drafts, the new one from those and "
            f"{made:,} more: part of a difference may be more training and not the other base; to tell, give the old run "
            "as many more rounds (`loop.rounds`)"
        )
    if ours.kept == 0:
        yield "the new run kept its base: no round was better on the validation prompts"
    if theirs.kept == 0:
        yield "the old run had kept its base: no round was better on the validation prompts"
    changed = [
        f"{key} {before:g} → {now:g}"
        for key, before, now in (
            ("sample.max_new_tokens", old.recipe.sample.max_new_tokens, new.recipe.sample.max_new_tokens),
            ("evaluate.tie_margin", old.recipe.evaluate.tie_margin, new.recipe.evaluate.tie_margin),
        )
        if before != now
    ]
    if changed:
        yield f"not equal: {', '.join(changed)}"


def _of_the_way(new: FinishedRun, account: Account) -> Iterator[str]:
    reference = new.recipe.reference.replace("_", " ")
    if way_of(new) == "pairs":
        yield (
            "the warm start's pairs are of drafts that the old student wrote (off-policy): they say what is better, not "
            "what the new student does wrong; only the rounds after it answer that, with drafts of its own"
        )
    else:
        yield "the warm start learned from the teacher's answers that the old run paid for"
    if new.recipe.loop.rounds:
        yield f"the rounds after the warm start measure themselves against the {reference} (train.reference)"
    yield "in the browser of drafts, Base is the old student's base"
    if account.repeated:
        yield (
            f"{account.repeated} of the new student's training drafts repeat, word for word, a draft of the same prompt "
            "that was judged before; they were written and judged as its own (a reply in the request cache costs nothing)"
        )
