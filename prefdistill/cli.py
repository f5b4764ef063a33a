"""The command line: one thin command each. Heavy libraries are imported inside the commands, never here."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from prefdistill.errors import PrefdistillError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Preference distillation for writing assistants: a rubric and a recipe in, a better 4-bit student out.

Start with `prefdistill new DIR`, look with `prefdistill validate RECIPE` and `prefdistill run RECIPE --preview 3`,
then `prefdistill run RECIPE`.""",
)

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Changes to the recipe, such as `loop.rounds=1 pair.min_margin=0.2`; values are YAML.",
        show_default=False,
    ),
]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe's YAML file.", show_default=False)]


class SchemaOf(StrEnum):
    """What has a JSON Schema."""

    recipe = "recipe"
    rubric = "rubric"


class RedoFrom(StrEnum):
    """Stages that leave files in the run folder."""

    sample = "sample"
    judge = "judge"
    train = "train"
    evaluate = "evaluate"


def _version(value: bool) -> None:
    if value:
        from prefdistill import __version__

        print(f"prefdistill {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run", help="Run folder: a path, or a name under ./runs. Default: the recipe's name.", metavar="NAME"
        ),
    ] = None,
    preview: Annotated[
        int | None,
        typer.Option(
            min=1, help="Sample and judge so many prompts, show everything, train nothing.", show_default=False
        ),
    ] = None,
    redo_from: Annotated[
        RedoFrom | None,
        typer.Option(help="Make artefacts again from this stage on; what they replace is kept under replaced/."),
    ] = None,
    no_text: Annotated[
        bool, typer.Option("--no-text", help="Leave all prompts and drafts out of report.html.")
    ] = False,
) -> None:
    """Run a recipe: sample, judge, rank, pair, train and evaluate, round after round.

    On an existing run folder it goes on where it stopped: drafts, paid verdicts and trained policies are kept.
    """
    from rich.console import Console

    from prefdistill.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    console = Console(highlight=False)
    if preview is not None:
        from prefdistill.preview import show_preview

        show_preview(loaded, preview, console)
        return
    from prefdistill.console import TerminalDisplay, summary
    from prefdistill.loop import run_recipe

    folder = run_folder(run or loaded.name)
    console.print(f"{loaded.name}: {loaded.loop.mode}, {loaded.loop.rounds} rounds, in {folder}", markup=False)
    with TerminalDisplay(console) as display:
        outcome = run_recipe(loaded, folder, display, redo_from.value if redo_from else None, texts=not no_text)
    for line in summary(outcome.result, folder):
        console.print(line, markup=False, soft_wrap=True)


def run_folder(name: str) -> Path:
    """Return the folder of a run given as a path, or as a name under ./runs."""
    return Path(name) if "/" in name or name.startswith(".") else Path("runs") / name


@app.command()
def validate(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Check a recipe, its rubrics, plug-ins and prompts, without loading a model or calling anyone."""
    from prefdistill.assembly import load_recipe_prompts
    from prefdistill.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    prompts, notes = load_recipe_prompts(loaded)
    for note in notes:
        print(note)
    counts = ", ".join(f"{len(prompts.of(split))} {split}" for split in ("train", "validation", "test"))
    for kind, rubric in loaded.rubrics.rubrics.items():
        of_kind = f" for {kind}" if kind else ""
        print(
            f"rubric {rubric.name}{of_kind}: {len(rubric.gates)} gates, {len(rubric.criteria)} criteria, "
            f"{len(rubric.asked)} asked, {len(rubric.checked)} checked"
        )
        require: Any = getattr(loaded.judge, "require", None)
        if require is not None:
            require(rubric)
    print(f"prompts: {counts}")
    print(f"{recipe}: valid")


@app.command()
def schema(of: Annotated[SchemaOf, typer.Argument(help="What to describe.")]) -> None:
    """Print the JSON Schema of recipes or rubrics, for completion and checks in an editor."""
    import json

    if of is SchemaOf.recipe:
        from prefdistill.recipe import recipe_schema

        found = recipe_schema()
    else:
        from prefdistill.rubric import Rubric

        found = Rubric.model_json_schema()
    print(json.dumps(found, indent=2))


@app.command()
def plugins() -> None:
    """List the samplers, teachers, judges, trainers and checks that a recipe or rubric can name, with their options."""
    from rich.console import Console

    from prefdistill.plugins import describe_plugins

    console = Console(highlight=False)
    for folder, found in describe_plugins().items():
        console.print(folder, style="bold")
        for name, (summary, options) in found.items():
            console.print(f"  {name}  {summary}", markup=False, soft_wrap=True)
            if options:
                console.print(f"      {options}", markup=False, style="dim", soft_wrap=True)


@app.command()
def new(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder to make; it must not exist or be empty.")],
) -> None:
    """Copy a starting recipe, rubric and prompts into a new folder, ready to run and to change."""
    from prefdistill.starting import copy_start

    for line in copy_start(directory):
        print(line)


def main() -> NoReturn:
    """Run the command line; a user's mistake is one message and an exit code, a bug is a traceback."""
    try:
        code = app(standalone_mode=False)  # Ctrl-C comes back as 130
    except PrefdistillError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as problem:
        if not hasattr(problem, "exit_code") or not hasattr(problem, "show"):
            raise
        problem.show()
        sys.exit(problem.exit_code)
    if code == INTERRUPTED:
        print("interrupted: everything finished is on disk; run the same command again to go on", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)
