"""The commands around a run: whether it is worth it, and when it is time again."""

from __future__ import annotations

from typing import Annotated

import typer

from prefdistill.cli.app import PLAN, RunName, app
from prefdistill.folders import run_folder


@app.command(rich_help_panel=PLAN)
def retrain(
    run: RunName,
    round: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train this round alone, from the policy that it started from. Default: from round 1 to the kept one, "
            "each from the one before.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        float, typer.Option(metavar="NATS", min=0.0, help="Log-probability gap a token that still counts as the same.")
    ] = 0.01,
) -> None:
    """Train again from a run's own pairs, into RUN/retrained/, and say how far the policies differ.

    Equal bytes are expected on the same machine, versions and OMP_NUM_THREADS; where they differ, what is not as it was
    is named. No draft is written and no judge is asked. Exit 0: equal, or within the limit; 1: beyond it.
    """
    from rich.console import Console

    from prefdistill.console import TerminalDisplay
    from prefdistill.using.retraining import is_within, lines_of
    from prefdistill.using.retraining import retrain as train_again

    with TerminalDisplay(Console(highlight=False)) as display:
        found = train_again(run_folder(run), round, display.progress)
    for line in lines_of(found, limit):
        print(line)
    if not is_within(found, limit):
        raise typer.Exit(1)
