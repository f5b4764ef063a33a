"""Finished arms to a report: what is compared, what is refused, the numbers and their words.

Place in the flow: the end of a comparison. It only reads run folders: nothing is sampled, judged or asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from prefdistill import __version__
from prefdistill.compare.arms import is_kind, kind_of
from prefdistill.compare.checks import about_rounds, comparable_prompts, leaks, numbers_notes, too_many_unknown
from prefdistill.compare.costs import curves
from prefdistill.compare.data import FEWEST_PROMPTS, ArmRun, Figures
from prefdistill.compare.equal import Equal
from prefdistill.compare.grid import read_grid
from prefdistill.compare.layout import Layout, lay_out
from prefdistill.compare.measuring import measure, to_json
from prefdistill.compare.tables import tables
from prefdistill.compare.verdict import verdict
from prefdistill.records import SCHEMA
from prefdistill.stages.report.comparison import ArmInfo, ComparisonReport, Note

LOOKS = 8
"""Colours that arms can have."""


def analyse(
    arm_runs: Sequence[ArmRun],
    name: str,
    recipe_text: str,
    facts: Mapping[str, str] | None = None,
    browser: Any = None,
    notes: Sequence[Note] = (),
    equal: Equal = "prompts",
) -> tuple[ComparisonReport, dict[str, Any]]:
    """Compare finished runs; return the report's data, and every number as JSON values.

    Args:
        arm_runs: one an arm and seed, those that failed among them.
        name: of the comparison.
        recipe_text: the recipe that the arms share, as YAML.
        facts: lines about machine and software.
        browser: the rows of the browser of drafts.
        notes: what is to be said beside what is found here, such as why a seed was not run.
        equal: what the arms were meant to be given the same of.

    Raises:
        RunError: the runs cannot be compared at all: other test prompts, another rubric or evaluation judge, or no
            seed that is finished for every arm.
    """
    layout = lay_out(arm_runs)
    prompts = comparable_prompts(layout)
    grid = read_grid(layout, prompts)
    figures = replace(measure(layout, grid), equal=equal)
    refused, leaked = refusals(figures, layout), leaks(layout)
    words = verdict(figures, refused, leaked)
    said = [
        *(Note("refused", each) for each in refused),
        *notes,
        *layout.notes,
        *(Note("warning", each) for each in leaked),
        *about_rounds(layout),
        *numbers_notes(figures, layout, grid),
    ]
    report = ComparisonReport(
        name=name,
        version=__version__,
        headline=words.headline,
        verdict=words.sentences,
        notes=tuple(dict.fromkeys(said)),
        arms=_arm_infos(layout),
        seeds=layout.seeds,
        tables=tables(figures, layout),
        curves=curves(layout),
        recipe=recipe_text,
        facts=dict(facts or {}),
        browser=browser,
    )
    return report, _result(report, figures)


def refusals(figures: Figures, layout: Layout) -> list[str]:
    """Return why no verdict may be given, a sentence each; empty where one may."""
    found = too_many_unknown(figures)
    if len(layout.seeds) * 2 < layout.asked:
        found.append(
            f"{len(layout.seeds)} of {layout.asked} seeds are finished for every arm, fewer than half; those that are left "
            "may be the lucky ones: run the same command again to finish the others"
        )
    return found


def _arm_infos(layout: Layout) -> tuple[ArmInfo, ...]:
    return tuple(
        ArmInfo(
            label=label,
            what=kind_of(kind).what if is_kind(kind := layout.kinds[label]) else "",
            overrides=layout.overrides[label],
            look=1 + number % LOOKS,
        )
        for number, label in enumerate(layout.arms)
    )


def _result(report: ComparisonReport, figures: Figures) -> dict[str, Any]:
    """Return what programs read: the figures, and what was said of them."""
    return {
        "schema": SCHEMA,
        "version": report.version,
        "name": report.name,
        "headline": report.headline,
        "verdict": list(report.verdict),
        "notes": [{"level": note.level, "text": note.text} for note in report.notes],
        "claims": _claims(report, figures),
        **to_json(figures),
    }


def _claims(report: ComparisonReport, figures: Figures) -> list[dict[str, Any]]:
    """Return which differences are clear: empty where nothing may be claimed."""
    if report.headline.startswith("No verdict") or figures.known < FEWEST_PROMPTS:
        return []
    rows = [*figures.pairs, *(arm.base for arm in figures.arms)]
    return [
        {
            "better": row.arm if row.difference.value > 0 else row.other,
            "worse": row.other if row.difference.value > 0 else row.arm,
            "by": abs(row.difference.value),
        }
        for row in rows
        if row.clear and row.difference is not None
    ]
