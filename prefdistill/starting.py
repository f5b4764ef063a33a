"""`prefdistill new`: copy a starting recipe, rubric and prompts, and a plan of them; from the checkout or from the wheel."""

from __future__ import annotations

import shutil
from pathlib import Path

from prefdistill.errors import RecipeError
from prefdistill.run import disk_errors

FILES = {
    "recipes/quickstart.yaml": "recipes/quickstart.yaml",
    "recipes/email-online.yaml": "recipes/email-online.yaml",
    "recipes/prompts/quickstart.jsonl": "recipes/prompts/quickstart.jsonl",
    "recipes/prompts/emails.jsonl": "recipes/prompts/emails.jsonl",
    "rubrics/sandbox-email.yaml": "rubrics/sandbox-email.yaml",
    "rubrics/email.yaml": "rubrics/email.yaml",
}
PLANNED, PLAN = "recipes/email-online.yaml", "plan.yaml"
"""The recipe that the starting plan is made of, and its file."""


def shipped(name: str) -> Path:
    """Return where a shipped recipe, rubric or prompts file is: in the wheel, else in the checkout."""
    package = Path(__file__).parent
    for root in (package / "shipped", package.parent):
        if (root / name).is_file():
            return root / name
    raise RecipeError(f"{name} is not part of this installation; install prefdistill again")


def copy_start(directory: Path) -> list[str]:
    """Copy the starting files into `directory`, write the plan of one of them, and return what to tell the user.

    Raises:
        RecipeError: the folder exists and is not empty.
    """
    from prefdistill.plan.facts import plan_from

    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RecipeError(f"{directory}: exists and is not an empty folder; expected a new one, nothing was written")
    for source, target in FILES.items():
        place = directory / target
        with disk_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(shipped(source), place)
    plan_from(directory / PLANNED, None, directory / PLAN, look_for_run=False)
    return [
        *(f"wrote {directory / target}" for target in (*FILES.values(), PLAN)),
        "",
        "Try it, without a key or a network:",
        f"  prefdistill run {directory}/recipes/quickstart.yaml",
        "Then make it yours: edit the rubric, point the recipe at your student, teacher and prompts, and look first:",
        f"  prefdistill validate {directory}/recipes/email-online.yaml",
        f"  prefdistill run {directory}/recipes/email-online.yaml --preview 3",
        "Is it worth it, and are you allowed to? The plan says what to decide; what the recipe knows is filled in:",
        f"  prefdistill plan {directory}/{PLAN}",
    ]
