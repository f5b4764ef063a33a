"""The commands of judging: rubrics, people as judges, prices."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from prefdistill.cli.app import JUDGE, app
from prefdistill.errors import RunError
from prefdistill.folders import run_folder

rubric_app = typer.Typer(no_args_is_help=True, help="Check, test and compare rubrics before a run is paid for.")
app.add_typer(rubric_app, name="rubric", rich_help_panel=JUDGE)


class LabelKind(StrEnum):
    """What a person is asked on the labelling page."""

    pair = "pair"
    criterion = "criterion"


class LabelSplit(StrEnum):
    """Splits on which base and policy wrote drafts."""

    validation = "validation"
    test = "test"


@app.command(rich_help_panel=JUDGE)
def label(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder: a path, or a name under ./runs.", show_default=False)
    ],
    round: Annotated[
        int | None, typer.Option(min=1, help="Only training drafts of this round.", show_default=False)
    ] = None,
    split: Annotated[
        LabelSplit | None, typer.Option(help="Only drafts of base and policy on this split.", show_default=False)
    ] = None,
    kind: Annotated[
        LabelKind, typer.Option(help="pair: which of two is better. criterion: the rubric's questions about one draft.")
    ] = LabelKind.pair,
    count: Annotated[int, typer.Option(min=1, help="How many pairs, or drafts where criteria are asked.")] = 50,
    repeat: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the pairs that come twice, sides exchanged.")
    ] = 0.1,
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who labels. Default: the login name.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where labels go. Default: RUN/labels-NAME.jsonl.", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 is any free one.")] = 0,
    seed: Annotated[int, typer.Option(help="Draws pairs, order and sides.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the page's address.")] = False,
) -> None:
    """Label pairs of a run's drafts on a local page, blind and by keyboard; `prefdistill agreement` reads the labels.

    The page shows pairs that trained, close scores, pairs on which the judge changed its mind with the order, and base
    against policy on test prompts, without a score, a source or a hint. It listens on this machine only. Every answer
    is on the disk before the next pair appears; Ctrl-C ends, and the same command goes on where it stopped. Several
    people label at once under different names. From another machine: `ssh -L 8123:127.0.0.1:8123 HOST`, with
    `--port 8123 --no-browser` there.
    """
    from prefdistill.labelling import Choice
    from prefdistill.labelling.serving import label_run

    if round is not None and split is not None:
        raise RunError("--round and --split: one is training drafts, the other evaluation drafts; give one of them")
    choice = Choice(run_folder(run), round, split.value if split else None, count, repeat, seed)
    label_run(choice, kind.value, by, out, port, not no_browser, lambda line: print(line, flush=True))


@app.command(rich_help_panel=JUDGE)
def agreement(
    labels: Annotated[
        list[Path],
        typer.Argument(
            metavar="LABELS...", help="Label files in JSONL, such as `prefdistill label` writes.", show_default=False
        ),
    ],
    judge: Annotated[
        Path | None,
        typer.Option(
            metavar="RECIPE",
            help="Have this recipe's judge judge the labelled drafts now: through its request cache and its budget, "
            "in both orders where it compares.",
            show_default=False,
        ),
    ] = None,
    verdicts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE_OR_RUN",
            help="Compare with verdicts that are there already: a run folder, or a JSONL file of recorded verdicts.",
            show_default=False,
        ),
    ] = None,
    rubric: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The rubric of a verdicts file that holds levels; a run has its own.",
            show_default=False,
        ),
    ] = None,
    only_judge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Take only the verdicts of this judge (the rows' `judge`).", show_default=False
        ),
    ] = None,
    repeat: Annotated[
        int, typer.Option(min=1, max=20, help="Ask everything so many times, to see how often answers change.")
    ] = 1,
    cached_only: Annotated[
        bool, typer.Option("--cached-only", help="Send nothing: what is not in the request cache counts as failed.")
    ] = False,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all figures and tables as JSON.", show_default=False),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write them as a page.", show_default=False)
    ] = None,
) -> None:
    """Measure a judge against people: agreement, kappa, the human ceiling, position and length bias, noise and cost.

    LABELS are rows such as `{"prompt": …, "first": …, "second": …, "winner": "first", "by": "ann"}`, rankings of
    several drafts, or levels of the rubric's criteria, by one person or many. Where people do not agree with one
    another, it says so instead of grading the judge. With `--verdicts RUN` the figures are also written into the run
    folder (agreement.json, agreement.html), and the run's report shows them.
    """
    from rich.console import Console

    from prefdistill.agreement.command import measure_and_show

    console = Console(highlight=False)
    found = None if verdicts is None else Path(verdicts) if Path(verdicts).exists() else run_folder(verdicts)
    measure_and_show(labels, judge, found, rubric, only_judge, repeat, cached_only, json, html, console)


@app.command(rich_help_panel=JUDGE)
def prices() -> None:
    """List what hosted models cost, when that was checked, and where to correct it or to add a model.

    Prices change. Your own table wins over the shipped one, and a teacher's `usd_per_million` over both.
    """
    from prefdistill.requests.prices import describe_prices

    for line in describe_prices():
        print(line)


@rubric_app.command("check")
def rubric_check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Rubric files.", show_default=False)],
    recipe: Annotated[
        Path | None,
        typer.Option(help="A recipe whose prompts are looked at for the rubric's {fields}.", metavar="RECIPE"),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if there is a warning, not for hints.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as a JSON list.")] = False,
) -> None:
    """Find wordings that make judges disagree or reward the wrong thing, each with a better one.

    Double-barrelled and vague questions, questions that reward length or ask to count, criteria that overlap, levels
    in the wrong order, missing gates and tests, and more. Nothing is sent anywhere. A file that is no valid rubric is
    an error (exit 2); findings alone exit with 0 unless `--strict` is given.
    """
    import json
    from dataclasses import asdict

    from prefdistill.lint import lint_files
    from prefdistill.lint.findings import count_findings, render_findings

    found = lint_files(files, recipe)
    if as_json:
        print(json.dumps([{**asdict(each), "where": each.where} for each in found], indent=2, ensure_ascii=False))
    else:
        if found:
            print(render_findings(found), end="\n\n")
        print(f"{', '.join(map(str, files))}: {count_findings(found)}")
    if strict and any(each.severity == "warning" for each in found):
        raise typer.Exit(1)


@rubric_app.command("test")
def rubric_test(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The rubric with its `tests:`.", show_default=False)],
    recipe: Annotated[
        Path, typer.Option(help="The recipe whose judge is tested.", metavar="RECIPE", show_default=False)
    ],
    repeat: Annotated[int, typer.Option(min=1, help="Judge every test so often, each time as new requests.")] = 1,
    junit: Annotated[Path | None, typer.Option(help="Write the results as JUnit XML.", metavar="FILE")] = None,
    cached_only: Annotated[
        bool,
        typer.Option("--cached-only", help="Send nothing; a test whose replies are not in the request cache fails."),
    ] = False,
) -> None:
    """Run the rubric's golden pairs through a recipe's judge, red or green like unit tests.

    Green: `better` ranks above `worse`, scores higher on the criterion named in `because`, and where the judge
    compares drafts both orders agree. FILE is used whatever rubric the recipe names. Exit 0: all green; 1: not all.
    """
    import time

    from rich.console import Console

    from prefdistill.assembly import opened_judge
    from prefdistill.console import show_tests
    from prefdistill.golden import render_junit, run_tests
    from prefdistill.plugins import build_checks
    from prefdistill.recipe import load_recipe
    from prefdistill.rubric import load_rubric
    from prefdistill.run import write_text

    rubric = load_rubric(file)
    build_checks(rubric)
    console = Console(highlight=False)
    started = time.monotonic()
    with opened_judge(load_recipe(recipe), cached_only) as (judge, layer), console.status("judging") as status:
        tested = run_tests(judge, rubric, repeat, lambda done, total: status.update(f"judging {done} of {total}"))
        usage = layer.usage
    if junit is not None:
        write_text(junit, render_junit(tested, rubric, time.monotonic() - started))
    show_tests(console, tested, usage)
    if not all(each.green for each in tested):
        raise typer.Exit(1)


@rubric_app.command("diff")
def rubric_diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The rubric as it was.", show_default=False)],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The rubric as it would be.", show_default=False)],
    run: Annotated[str, typer.Option("--run", help="Run folder, or a name under ./runs.", metavar="NAME")],
    judge: Annotated[
        bool, typer.Option("--judge", help="Ask the run's judge by the new rubric; paid replies come from the cache.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="Show at most so many pairs of each sort.")] = 10,
) -> None:
    """Show what an edited rubric changes on a run's stored drafts, as Markdown for a review.

    Which pairs turn round, come and go, the yield before and after, and what asking the judge would cost. Changed
    weights and checks are computed without a call. The run is not changed.
    """
    from rich.console import Console

    from prefdistill.plugins import build_checks
    from prefdistill.rubric import load_rubric
    from prefdistill.rubric_diff import diff_rubrics, render_diff

    rubrics = [load_rubric(path) for path in (old, new)]
    for rubric in rubrics:
        build_checks(rubric)
    with Console(stderr=True, highlight=False).status("judging" if judge else "reading") as status:
        found = diff_rubrics(
            rubrics[0],
            rubrics[1],
            run_folder(run),
            judge,
            lambda done, total: status.update(f"judged {done} of {total}"),
        )
    print(render_diff(found, limit), end="")
