"""Rubric files, with a recipe's prompts where one is given, to findings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefdistill.lint.findings import Finding
from prefdistill.lint.rubrics import lint_rubric
from prefdistill.plugins import build_checks
from prefdistill.records import Prompt
from prefdistill.rubric import load_rubric


def lint_files(files: Sequence[Path], recipe: Path | None = None) -> list[Finding]:
    """Return what smells in rubric files; with a recipe, also `{field}`s that none of its prompts has.

    Raises:
        RubricError: a file is no valid rubric.
        RecipeError: the recipe, or its prompts, cannot be used.
    """
    findings: list[Finding] = []
    for file in files:
        rubric = load_rubric(file)
        build_checks(rubric)
        findings += lint_rubric(rubric, () if recipe is None else _prompts(recipe, file))
    return findings


def _prompts(recipe: Path, file: Path) -> Sequence[Prompt]:
    """Return the prompts that a rubric file is for: those of its kind where the recipe has one rubric per kind."""
    from prefdistill.assembly import read_recipe_prompts
    from prefdistill.recipe import load_recipe

    loaded = load_recipe(recipe)
    prompts = read_recipe_prompts(loaded).prompts
    named = loaded.rubric if isinstance(loaded.rubric, dict) else {}
    kinds = [
        kind
        for kind, path in named.items()
        if kind != "column" and (loaded.directory / path).resolve() == file.resolve()
    ]
    return [prompt for prompt in prompts if loaded.rubrics.kind(prompt) in kinds] if kinds else prompts
