"""`prefdistill agreement`: from files and options to tables on the terminal, JSON and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from prefdistill.agreement.asking import ask_judge, look_up_verdicts
from prefdistill.agreement.showing import JSON, PAGE, measure_agreement, show, write_result
from prefdistill.errors import RecipeError
from prefdistill.labels import load_labels
from prefdistill.recipe import load_recipe


def measure_and_show(
    label_files: Sequence[Path],
    judge: Path | None,
    verdicts: Path | None,
    rubric: Path | None,
    only_judge: str | None,
    repeat: int,
    cached_only: bool,
    json: Path | None,
    html: Path | None,
    console: Console,
) -> None:
    """Measure a judge, or verdicts that are there, against labels; print it and write what was asked for.

    Raises:
        PrefdistillError: options that do not fit, files that cannot be read, a judge that cannot be asked.
    """
    _check_options(judge, verdicts, rubric, only_judge, repeat, cached_only)
    labels = load_labels(*label_files)
    if judge is not None:
        answered = ask_judge(labels, load_recipe(judge), repeat, cached_only)
    else:
        assert verdicts is not None
        answered = look_up_verdicts(labels, verdicts, rubric, only_judge)
    result = measure_agreement(answered, [str(each) for each in label_files], repeat)
    result["notes"] += _about_labels(labels.replaced, labels.confirmed)
    show(result, console)
    written = write_result(result, json, html)
    if verdicts is not None and verdicts.is_dir():
        written += write_result(result, verdicts / JSON, verdicts / PAGE)
    for path in written:
        console.print(f"written  {path}", markup=False, soft_wrap=True)


def _check_options(
    judge: Path | None,
    verdicts: Path | None,
    rubric: Path | None,
    only_judge: str | None,
    repeat: int,
    cached_only: bool,
) -> None:
    if (judge is None) == (verdicts is None):
        raise RecipeError(
            "agreement: expected one of `--judge RECIPE` (a judge is asked now) and `--verdicts FILE_OR_RUN` (verdicts "
            "that are there already)"
        )
    if verdicts is not None and (repeat > 1 or cached_only):
        raise RecipeError(
            "agreement: --repeat and --cached-only ask a judge; they go with --judge, not with --verdicts"
        )
    if judge is not None and (rubric is not None or only_judge is not None):
        raise RecipeError(
            "agreement: --rubric and --only-judge go with --verdicts; a recipe has its own rubric and judge"
        )


def _about_labels(replaced: int, confirmed: int) -> list[str]:
    """Return what a reader should know about labels that were given twice."""
    if not replaced:
        return []
    return [
        f"{replaced} labels were given again by the same person, {confirmed} of them the same answer; the later one counts"
    ]
