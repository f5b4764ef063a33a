"""What a run's folder tells a later log to be compared with: training prompts, calibrated fallback, test scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prefdistill.documents import load_document
from prefdistill.drift.reading import Request
from prefdistill.errors import PrefdistillError, RecipeError, RunError
from prefdistill.finished import read_finished
from prefdistill.plugins import name_of
from prefdistill.records import Forgotten, Prompt
from prefdistill.run import RunDirectory, read_json
from prefdistill.stored import run_there

CALIBRATION = "calibration.json"
"""Written by `prefdistill serve`: the thresholds, and the share of validation prompts that they send to the teacher."""
FEWEST = 20
"""With fewer training prompts there is nothing to compare with."""


@dataclass(frozen=True)
class Trained:
    """What a log is compared with."""

    name: str
    """The run's name."""
    names: frozenset[str]
    """What its requests may call it."""
    prompts: tuple[Request, ...]
    forgotten: int
    """Training prompts left out because their texts were removed."""
    fallback: float | None
    """The calibrated share of requests that go to the teacher; None where the run was never calibrated."""
    fallback_of: int | None
    """Validation prompts on which that share was counted."""
    scores: Mapping[str, tuple[float, ...]]
    """Of the kept policy on the test prompts, by the name of the judge."""


def read_training(folder: Path) -> Trained:
    """Read what a log of this run is compared with.

    Raises:
        RunError: there is no run, it has no prompts, or too few.
    """
    run = run_there(folder)
    if not run.prompts.is_file():
        raise RunError(
            f"{run.prompts}: no such file; expected the run's prompts, which a log is compared with; they are written "
            "when the run begins: restore the file, or name a run that has it"
        )
    gone = run.rows(run.path, "forgotten.jsonl", Forgotten).read()
    every = [each for each in run.rows(run.path, "prompts.jsonl", Prompt).read().values() if each.split == "train"]
    prompts = tuple(_to_request(each) for each in every if each.id not in gone)
    if len(prompts) < FEWEST:
        left = f", {len(every) - len(prompts)} more were forgotten" if len(every) > len(prompts) else ""
        raise RunError(
            f"{run.prompts}: {len(prompts)} training prompts{left}; expected at least {FEWEST} to compare a log with"
        )
    share, of = _calibration(run)
    recipe_name = str(load_document(run.recipe, RecipeError).data.get("name") or "")
    name = run.path.resolve().name
    return Trained(
        name, frozenset({name, recipe_name} - {""}), prompts, len(every) - len(prompts), share, of, _test_scores(folder)
    )


def _to_request(prompt: Prompt) -> Request:
    turns = tuple((each.role, each.content) for each in prompt.messages if each.role != "system")
    system = "\n".join(each.content for each in prompt.messages if each.role == "system") or None
    characters = sum(len(text) for _, text in turns)
    return Request(id=prompt.id, turns=turns, system=system, fields=prompt.fields, characters=characters)


def _calibration(run: RunDirectory) -> tuple[float | None, int | None]:
    path = run.path / CALIBRATION
    if not path.is_file():
        return None, None
    found = read_json(path)
    share = found.get("share") if isinstance(found, dict) else None
    if not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise RunError(f"{path}: `share` is {share!r}; expected 0 to 1; calibrate again (`prefdistill serve --help`)")
    of = found.get("prompts")
    return float(share), of if isinstance(of, int) and of > 0 else None


def _test_scores(folder: Path) -> dict[str, tuple[float, ...]]:
    """Return the kept policy's scores on the test prompts by training and evaluation judge; none where there are none."""
    try:
        run = read_finished(folder)
        written = run.test["policy"]
        by_kind = {
            name_of(run.recipe.judge): written.by("judge", run.self_judged),
            str(run.result["test"]["judge"]): written.by("evaluation", run.self_judged),
        }
    except (PrefdistillError, KeyError, TypeError):
        return {}
    return {name: tuple(each.gated_score for each in scores.values()) for name, scores in by_kind.items() if scores}
