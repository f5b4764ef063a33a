"""The commands of a run: start one, look before it is paid for, compare ways, report."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from prefdistill.cli.app import RUN, Overrides, RecipePath, app
from prefdistill.folders import run_folder


class ReportFormat(StrEnum):
    """What a report is rendered as."""

    html = "html"
    md = "md"
    csv = "csv"


class EqualBudget(StrEnum):
    """What the arms of a comparison are given the same of."""

    prompts = "prompts"
    teacher = "teacher"


class RedoFrom(StrEnum):
    """Stages that leave files in the run folder."""

    sample = "sample"
    judge = "judge"
    train = "train"
    evaluate = "evaluate"


@app.command(rich_help_panel=RUN)
def new(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder to make; it must not exist or be empty.")],
) -> None:
    """Copy a starting recipe, rubric and prompts into a new folder, ready to run and to change."""
    from prefdistill.starting import copy_start

    for line in copy_start(directory):
        print(line)


@app.command(rich_help_panel=RUN)
def validate(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Check a recipe, its rubrics, plug-ins and prompts, without loading a model or calling anyone.

    A logits teacher's tokenizer is compared with the student's where both are on this machine; no model is downloaded.
    """
    from prefdistill.assembly import load_recipe_prompts
    from prefdistill.readiness import require_trainable
    from prefdistill.recipe import load_recipe
    from prefdistill.sources import require_source

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
    require_source(loaded)
    for line in require_trainable(loaded, prompts, fetch=False):
        print(line)
    print(f"{recipe}: valid")


@app.command(rich_help_panel=RUN)
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
    round: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --redo-from: begin at this round; it and all later rounds are made again from there, with the "
            "run's own settings.",
            show_default=False,
        ),
    ] = None,
    no_text: Annotated[
        bool, typer.Option("--no-text", help="Leave all prompts and drafts out of report.html.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what is left to ask of paid models: calls, tokens, price and time; then stop."
        ),
    ] = False,
) -> None:
    """Run a recipe: sample, judge, rank, pair, train and evaluate, round after round.

    On an existing run folder it goes on where it stopped: drafts, paid verdicts and trained policies are kept.
    """
    from rich.console import Console

    from prefdistill.recipe import load_recipe

    if round is not None and redo_from is None:
        raise typer.BadParameter(
            f"--round {round} redoes a round, so say from which stage: add --redo-from sample, judge, train or evaluate"
        )
    stage = redo_from.value if redo_from else None
    loaded = load_recipe(recipe, overrides or ())
    console = Console(highlight=False)
    if dry_run:
        from prefdistill.console import show_estimate

        if preview is not None:
            raise typer.BadParameter("give --dry-run or --preview, not both: a preview asks and pays")
        show_estimate(loaded, run_folder(run or loaded.name), console, stage, round)
        return
    if preview is not None:
        from prefdistill.preview import show_preview

        show_preview(loaded, preview, console)
        return
    from prefdistill.console import TerminalDisplay, summary
    from prefdistill.loop import run_recipe
    from prefdistill.records import rounds_text

    folder, rounds = run_folder(run or loaded.name), rounds_text(loaded.loop.rounds, loaded.warm_start is not None)
    console.print(f"{loaded.name}: {loaded.loop.mode}, {rounds}, in {folder}", markup=False)
    with TerminalDisplay(console) as display:
        outcome = run_recipe(loaded, folder, display, stage, texts=not no_text, redo_round=round)
    for line in summary(outcome.result, folder):
        console.print(line, markup=False, soft_wrap=True)


@app.command(rich_help_panel=RUN)
def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE [KEY=VALUE]... | RUN...",
            help="A recipe and changes to it for every arm; or finished runs: folders, names under ./runs, or "
            "LABEL=RUN,RUN for several seeds of one arm.",
            show_default=False,
        ),
    ],
    arms: Annotated[
        list[str] | None,
        typer.Option(
            "--arms",
            metavar="ARM,ARM",
            help="What to compare: names of arms, or arms of your own, label=arm,key=value,… such as "
            "online_prev=online,train.reference=previous. May be given several times. Default: offline,online.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="N", help="How many seeds, counted up from the recipe's; or which: 1,2,5.")
    ] = "3",
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="NAME",
            help="The comparison's folder: a path, or a name under ./runs. Default: the recipe's name and -compare.",
        ),
    ] = None,
    equal: Annotated[
        EqualBudget,
        typer.Option(
            help="prompts: every arm has the same prompts. teacher: an arm on the teacher's answers has as many as cost "
            "what the judged drafts of the others do, in USD, tokens or replies."
        ),
    ] = EqualBudget.prompts,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Seeds that run at once. Default: a core each on a CPU, one on a GPU or within a budget."
        ),
    ] = None,
    no_text: Annotated[
        bool, typer.Option("--no-text", help="Leave all prompts and drafts out of the reports.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Price all of it, and say the smallest effect that its sample can see; then stop."
        ),
    ] = False,
) -> None:
    """Compare ways of training on the same prompts and budget: does online pay, or is offline enough?

    Every arm is an ordinary run of the recipe with some keys changed, once a seed, in a folder of its own. Prompts,
    judged drafts, optimiser steps, decoding and test prompts are equal; what could not be made equal is listed. Arms share
    what they can: base drafts, the request cache, equal rounds. At the end: a verdict in words with its interval over
    prompts and seeds, a table, and a report. It goes on where it was stopped; arms and seeds can be added.

    The arms, beside `base`, which is in every table:

    - `offline`: all drafts come from the base
    - `online`: each round's drafts come from the student as it is by then
    - `off_policy`: the drafts of a file, by whoever wrote them; give it `sample.drafts_from=FILE`
    - `shuffled_online`: the online arm's pairs, shuffled over the rounds: what they say without their freshness
    - `random_labels`: online, with chosen and rejected drawn by lot: what training does without a judge
    - `best_of_n`: no training: of n drafts of the base, the one that the training judge likes best
    - `outputs`: fine-tuning on the teacher's own answers, no judge
    - `traces`: fine-tuning on the teacher's reasoning and answers, no judge
    - `logits`: fine-tuning on the teacher's answers and on its token distribution there, no judge
    - `outputs+online`: a warm start by the first in place of the first half of the rounds, then the second
    """
    from rich.console import Console

    from prefdistill.compare.command import compare_recipe, compare_runs
    from prefdistill.compare.pricing import price_comparison

    console = Console(highlight=False)
    folder = None if run is None else run_folder(run)
    path = Path(what[0])
    if path.suffix not in (".yaml", ".yml"):
        if arms or dry_run:
            raise typer.BadParameter(f"--arms and --dry-run go with a recipe, and {what[0]} is no .yaml file")
        compare_runs(what, folder, not no_text, console)
    elif dry_run:
        price_comparison(path, what[1:], arms or ["offline,online"], seeds, folder, console, equal.value)
    else:
        compare_recipe(
            path, what[1:], arms or ["offline,online"], seeds, folder, jobs, not no_text, console, equal.value
        )


@app.command(rich_help_panel=RUN)
def report(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_COMPARISON",
            help="A finished run's or comparison's folder: a path, or a name under ./runs.",
            show_default=False,
        ),
    ],
    form: Annotated[
        ReportFormat,
        typer.Option(
            "--format",
            help="html: the page. md: Markdown for a pull request, printed. csv: every table as a file of raw values.",
        ),
    ] = ReportFormat.html,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Write there instead: a file, for csv a folder; it must not be there yet. Default: report.html or tables/ "
            "in the folder itself, written over; Markdown goes to standard output.",
            show_default=False,
        ),
    ] = None,
    texts: Annotated[
        bool | None,
        typer.Option(
            "--text/--no-text",
            help="Whether the page shows prompts, drafts and reasons. Default: as before. Markdown and CSV hold none.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Render the report of a finished run or comparison again, as a page, as Markdown or as CSV tables.

    Nothing is run, judged or measured again: it shows what was stored when the run finished, with what has been added
    since (labels' agreement) and without what has been forgotten.

    `prefdistill report quickstart --format md | gh pr comment 12 --body-file -` puts a summary under a pull request;
    `prefdistill report quickstart --no-text --out share.html` makes a page that can be passed on.
    """
    from prefdistill.reporting import write_report

    print(write_report(run_folder(run), form.value, out, texts).removesuffix("\n"))
