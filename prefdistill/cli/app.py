"""The application: the groups of `--help`, and the arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RUN, JUDGE, SHIP, PLAN, TIDY = "Run", "Judge", "Ship", "Plan", "Look up and tidy up"
"""How `--help` groups the commands."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Preference distillation for writing assistants: a rubric and a recipe in, a better 4-bit student out.

Start with `prefdistill new DIR`, look with `prefdistill validate RECIPE` and `prefdistill run RECIPE --preview 3`,
then `prefdistill run RECIPE`.""",
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Changes to the recipe, such as `loop.rounds=1 pair.min_margin=0.2`; values are YAML.",
        show_default=False,
    ),
]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe's YAML file.", show_default=False)]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run folder: a path, or a name under ./runs.", show_default=False)
]
RoundOfPolicy = Annotated[
    int | None,
    typer.Option(
        "--round", min=0, help="This round's policy; 0 is the base. Default: the kept one.", show_default=False
    ),
]


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
