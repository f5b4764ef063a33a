"""The commands around a run: whether it is worth it, and when it is time again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from prefdistill.cli.app import PLAN, RunName, app
from prefdistill.folders import run_folder


@app.command(rich_help_panel=PLAN)
def plan(
    file: Annotated[Path, typer.Argument(metavar="PLAN", help="The plan's YAML file.")] = Path("plan.yaml"),
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RECIPE",
            help="First fill PLAN in with what this recipe, and a run of it, know; a new PLAN is made where there is none.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="With --from: the run folder, or its name under ./runs. Default: the recipe's own, where there is one.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="With --from: write PLAN anew; what you decided in it is lost.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of both files. Default: the plan's own.", show_default=False),
    ] = None,
) -> None:
    """Write PLAN.md and PLAN.html: is distilling worth it, which way, how many prompts, when to stop, who has to sign.

    The break-even is worked out step by step, with its bounds, beside simply calling a cheaper model; where there is
    none, it says why. What the plan leaves out is shown as open and counted, never made up. No model is asked or loaded.
    With --from, only what is open, or was filled in before and not edited since, is changed.
    `prefdistill schema plan` describes every key; recipes/plan.yaml is an example.
    """
    from rich.console import Console

    from prefdistill.errors import RunError
    from prefdistill.plan.command import show_plan, write_plan_files

    if recipe is not None:
        from prefdistill.plan.facts import plan_from

        for line in plan_from(recipe, None if run is None else run_folder(run), file, force).lines():
            print(line)
    elif run is not None or force:
        said = "--force: writes a plan anew" if run is None else "--run: says which run fills the plan in"
        raise RunError(f"{said}; expected --from RECIPE beside it")
    show_plan(*write_plan_files(file, out), Console(highlight=False))


@app.command(rich_help_panel=PLAN)
def refresh(
    old: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A finished run: a path, or a name under ./runs. It is only read.", show_default=False
        ),
    ],
    student: Annotated[
        str,
        typer.Option(
            "--student",
            metavar="NEW_BASE",
            help="The new base: a hub id, a folder, or `package:folder`. Its tokenizer, template and size may be others.",
            show_default=False,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Changes to the new run's recipe, such as `loop.rounds=1 warm_start.epochs=2`; values are YAML.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="NEW_RUN",
            help="The new run's folder: a path, or a name under ./runs. Default: RUN-refreshed.",
        ),
    ] = None,
    margin: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="How much lower the new student's score may be and still count as no worse, in the unit of the score.",
        ),
    ] = 0.02,
    warm_start: Annotated[
        Literal["pairs", "answers"] | None,
        typer.Option(
            "--warm-start",
            help="What it starts from: the old run's judged pairs, or the teacher's answers in it. Default: answers where "
            "the old run began with them, else pairs.",
            show_default=False,
        ),
    ] = None,
    no_text: Annotated[bool, typer.Option("--no-text", help="Leave all prompts and drafts out of the pages.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what is taken over, what is new and what it would cost; then stop. Nothing is written.",
        ),
    ] = False,
) -> None:
    """Start another base model from what a finished run paid for, and say whether to switch to it.

    Prompts, rubric, judge and teacher are the old run's. Its judged pairs train the new base first, then come online
    rounds with drafts of its own, as `loop` says; the teacher's drafts and every verdict on them are taken over too.
    At the end old and new student, before and after, and the teacher stand in one table, from records of the same test
    prompts, with the difference by gate and criterion, size, speed and what was paid: refresh.html, refresh.md and
    refresh.json in the new run. It goes on where it was stopped; the old run is never changed.

    `switch`: not worse by more than the margin, no gate failed more often, and better, smaller or faster. `stay`: worse,
    or nothing gained. `not clear`: these prompts cannot tell, or it is yours to weigh.
    """
    from rich.console import Console

    from prefdistill.refresh.command import price_refresh, refresh_run

    console, folder = Console(highlight=False), None if run is None else run_folder(run)
    if dry_run:
        price_refresh(run_folder(old), student, folder, overrides or (), warm_start, console)
        return
    refresh_run(run_folder(old), student, folder, overrides or (), margin, warm_start, not no_text, console)


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


@app.command(rich_help_panel=PLAN)
def drift(
    run: RunName,
    log: Annotated[
        list[Path],
        typer.Option(
            "--log",
            metavar="FILE",
            help="The log of `prefdistill serve`, its numbered older files with it, or any JSONL whose rows have "
            "`messages` or `prompt`; again for several.",
        ),
    ],
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DATE", help="Only requests from this date or moment (ISO 8601, UTC) on.", show_default=False
        ),
    ] = None,
    last: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the newest N requests.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of the reports. Default: RUN/drift.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The model's name in the log, where the run was served as another.", show_default=False
        ),
    ] = None,
    no_text: Annotated[
        bool, typer.Option("--no-text", help="Leave prompts, words and field values of the log out of all reports.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say whether what a served student is asked is still what it was trained on, and name what is new.

    Compares a log with the run's training prompts: length, language, topics, distance, field values, system prompt; the
    fallback share and the judged sample on control charts. Each prompt counts once. A warning needs a PSI over 0.2 (or
    2 points of a share that was rare) and more than chance explains: of 100 logs without drift at most one raises it.
    Where a log is too small to tell, it says so.

    Exit 0: nothing found; 4: drift found; 2: the run or the log cannot be used. Writes drift.html, .md and .json.
    """
    import json as to_json

    from rich.console import Console

    from prefdistill.drift.command import FOLDER, FOUND, check_drift, write_report
    from prefdistill.drift.report import as_json as report_json
    from prefdistill.drift.showing import show

    folder = run_folder(run)
    report = check_drift(folder, log, since, last, model, texts=not no_text)
    written = write_report(report, out or folder / FOLDER)
    if as_json:
        print(to_json.dumps(report_json(report), ensure_ascii=False, indent=2))
    else:
        show(report, Console(highlight=False), written)
    if report.drifted:
        raise typer.Exit(FOUND)
