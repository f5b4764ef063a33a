"""What `prefdistill plan` does: read the plan, write both files, and say the short of it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from prefdistill.plan.chapters import WrittenPlan, write_plan
from prefdistill.plan.document import PlanError, load_plan
from prefdistill.plan.head import key_figures, standing, title
from prefdistill.plan.markdown import WRITTEN_BY, render_plan_markdown
from prefdistill.plan.page import render_plan_page
from prefdistill.run import disk_errors, write_text
from prefdistill.stages.report.examples import visible

MOST_OPEN = 8
"""Open points that the terminal names; the files name all."""


def plan_files(path: Path, out: Path | None) -> tuple[Path, Path]:
    """Return where a plan's Markdown and its page go: beside it, or into the folder `out`, under the plan's own name.

    Raises:
        PlanError: a file of another origin is in the way.
    """
    folder = path.parent if out is None else out
    if folder.exists() and not folder.is_dir():
        raise PlanError(f"{folder}: is a file; expected a folder for {path.stem}.md and {path.stem}.html")
    files = folder / f"{path.stem}.md", folder / f"{path.stem}.html"
    for file in files:
        if file.exists() and (
            not file.is_file() or WRITTEN_BY not in file.read_text(encoding="utf-8", errors="replace")
        ):
            raise PlanError(
                f"{file}: exists and was not written by `prefdistill plan`; expected to replace an earlier plan: move it "
                "away or give another folder with --out"
            )
    return files


def write_plan_files(path: Path, out: Path | None = None) -> tuple[WrittenPlan, tuple[Path, Path]]:
    """Write the Markdown and the page of the plan in `path`, and return what they say and where they are.

    Raises:
        PlanError: the plan is broken, or a file of another origin is in the way; nothing is written then.
        RubricError: a rubric that it names is broken.
        PriceError: a price table is.
    """
    if not path.exists():
        raise PlanError(f"{path}: no such file; expected a plan: `prefdistill plan {path} --from RECIPE` makes one")
    files = plan_files(path, out)
    written = write_plan(load_plan(path))
    texts = render_plan_markdown(written), render_plan_page(written)
    for file, text in zip(files, texts, strict=True):
        with disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, text)
    return written, files


def show_plan(written: WrittenPlan, files: tuple[Path, Path], console: Console) -> None:
    """Print the break-even, what a reader must not miss, what is open, and where the files are."""
    none = written.worth.teacher is None or written.worth.teacher.instead.central is None
    console.print(Text(visible(title(written)), style="bold yellow" if none else "bold"), soft_wrap=True)
    grid = Grid.grid(padding=(0, 2))
    for figure in key_figures(written):
        grid.add_row(figure.name, Text(figure.value, justify="right"), Text(visible(figure.note), style="dim"))
    console.print(grid)
    for chapter, words in written.warnings:
        console.print(Text.assemble(("! ", "yellow"), (f"{chapter.title}: ", "dim"), visible(words)), soft_wrap=True)
    if not any(chapter.name == "licences" for chapter, _ in written.warnings):
        console.print(Text(f"Licences: {visible(written.review.summary)}"), soft_wrap=True)
    console.print(Text(standing(written), style="bold"), soft_wrap=True)
    for _, point in written.open[:MOST_OPEN]:
        console.print(Text.assemble("  ", visible(point.what), (f"  {visible(point.key)}", "dim")), soft_wrap=True)
    if len(written.open) > MOST_OPEN:
        console.print(Text(f"  … and {len(written.open) - MOST_OPEN} more, in the files"), style="dim")
    for file in files:
        console.print(Text(f"wrote {file}"), soft_wrap=True)
