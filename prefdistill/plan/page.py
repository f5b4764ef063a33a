"""A plan as one HTML file: it loads nothing, runs no script, and escapes every word of the plan."""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import ChoiceLoader, PackageLoader
from markupsafe import Markup

from prefdistill import __version__
from prefdistill.plan.blocks import OPEN, Block, Bullets, Entries, Heading, Paragraph, Picture, Steps
from prefdistill.plan.chapters import WrittenPlan
from prefdistill.plan.head import key_figures, standing, title
from prefdistill.plan.markdown import WRITTEN_BY
from prefdistill.stages.report.charts import Chart, render_chart
from prefdistill.stages.report.embedding import content_policy
from prefdistill.stages.report.environment import page_environment
from prefdistill.stages.report.table_view import TableView, views
from prefdistill.stages.report.tables import Table


@dataclass(frozen=True)
class _Shown:
    """A block as the template takes it."""

    kind: str
    block: Block
    tables: tuple[TableView, ...] = ()
    chart: Chart | None = None
    picture: Markup | None = None


def render_plan_page(written: WrittenPlan) -> str:
    """Return the plan as one HTML document."""
    environment = page_environment()
    assert environment.loader is not None
    environment.loader = ChoiceLoader([PackageLoader("prefdistill.plan", ""), environment.loader])
    page = environment.get_template("plan.html.jinja").render(
        plan=written.plan,
        title=title(written),
        standing=standing(written),
        figures=key_figures(written),
        warnings=written.warnings,
        open=written.open,
        chapters=[(chapter, [_shown(block) for block in chapter.blocks]) for chapter in written.chapters],
        undecided=OPEN,
        policy=content_policy(),
        written_by=f"{WRITTEN_BY} {__version__}",
    )
    return page.encode("utf-8", "replace").decode()


def _shown(block: Block) -> _Shown:
    match block:
        case Table():
            return _Shown("table", block, tables=tuple(views(block, {})))
        case Picture():
            return _Shown("chart", block, chart=block.chart, picture=render_chart(block.chart))
        case Paragraph() | Heading() | Entries() | Bullets() | Steps():
            return _Shown(type(block).__name__.lower(), block)
