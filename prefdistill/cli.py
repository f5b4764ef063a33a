"""The command line: one thin command each. Heavy libraries are imported inside the commands, never here."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from prefdistill.errors import PrefdistillError, RunError
from prefdistill.folders import run_folder

RUN, JUDGE, SHIP, TIDY = "Run", "Judge", "Ship", "Look up and tidy up"
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

cache_app = typer.Typer(no_args_is_help=True, help="Look at the request cache, or clear it: every reply paid for.")
app.add_typer(cache_app, name="cache", rich_help_panel=TIDY)

rubric_app = typer.Typer(no_args_is_help=True, help="Check, test and compare rubrics before a run is paid for.")
app.add_typer(rubric_app, name="rubric", rich_help_panel=JUDGE)

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


class LabelKind(StrEnum):
    """What a person is asked on the labelling page."""

    pair = "pair"
    criterion = "criterion"


class LabelSplit(StrEnum):
    """Splits on which base and policy wrote drafts."""

    validation = "validation"
    test = "test"


class ExportFormat(StrEnum):
    """What an export holds."""

    adapter = "adapter"
    merged = "merged"
    nf4 = "nf4"


class MergeBase(StrEnum):
    """What an adapter is merged into."""

    dequantized = "dequantized"
    original = "original"


class WeightsType(StrEnum):
    """In which type merged weights are stored."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class ReportFormat(StrEnum):
    """What a report is rendered as."""

    html = "html"
    md = "md"
    csv = "csv"


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

    folder = run_folder(run or loaded.name)
    console.print(f"{loaded.name}: {loaded.loop.mode}, {loaded.loop.rounds} rounds, in {folder}", markup=False)
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
        price_comparison(path, what[1:], arms or ["offline,online"], seeds, folder, console)
    else:
        compare_recipe(path, what[1:], arms or ["offline,online"], seeds, folder, jobs, not no_text, console)


@app.command(rich_help_panel=RUN)
def status(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder: a path, or a name under ./runs.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what of a run or a comparison is done and what is owed, what was found and paid, and how to go on.

    It only reads the run's files: while another process works in the folder, after a kill, or where files are damaged.
    """
    import json

    from rich.console import Console

    from prefdistill.status import read_status, show_status
    from prefdistill.status.comparing import comparison_status, is_comparison, show_comparison_status
    from prefdistill.status.showing import to_json

    if is_comparison(run_folder(run)):
        arms = comparison_status(run_folder(run))
        if as_json:
            print(json.dumps(arms, indent=2, ensure_ascii=False))
        else:
            show_comparison_status(arms, Console(highlight=False))
        return
    found = read_status(run_folder(run))
    if as_json:
        print(json.dumps(to_json(found), indent=2, ensure_ascii=False, default=str))
    else:
        show_status(found, Console(highlight=False))


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


@app.command(rich_help_panel=RUN)
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


@app.command(rich_help_panel=JUDGE)
def prices() -> None:
    """List what hosted models cost, when that was checked, and where to correct it or to add a model.

    Prices change. Your own table wins over the shipped one, and a teacher's `usd_per_million` over both.
    """
    from prefdistill.requests.prices import describe_prices

    for line in describe_prices():
        print(line)


@app.command(rich_help_panel=RUN)
def new(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder to make; it must not exist or be empty.")],
) -> None:
    """Copy a starting recipe, rubric and prompts into a new folder, ready to run and to change."""
    from prefdistill.starting import copy_start

    for line in copy_start(directory):
        print(line)


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


@app.command(rich_help_panel=SHIP)
def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder: a path, or a name under ./runs.", show_default=False)
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A folder to make; it must not exist or be empty.")],
    format: Annotated[
        ExportFormat,
        typer.Option(
            help="adapter: the LoRA adapter alone, exactly the policy. merged: the whole model. nf4: the whole model in "
            "4-bit.",
        ),
    ] = ExportFormat.adapter,
    round: Annotated[
        int | None,
        typer.Option(min=0, help="Another round's policy. Default: the one that was kept.", show_default=False),
    ] = None,
    base: Annotated[
        MergeBase | None,
        typer.Option(
            help="Merge into the dequantised 4-bit base that was trained on (exact; default of merged), or into the "
            "original weights (default of nf4: on the 4-bit grid a small change would round away).",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        WeightsType, typer.Option(help="Type of merged weights; auto is the type that the student computes in.")
    ] = WeightsType.auto,
    max_loss: Annotated[
        float | None,
        typer.Option(
            metavar="NATS",
            help="Refuse an export that scores the policy's own drafts more than so many nats a token otherwise. "
            "Default: 0.01 for adapter and merged, 0.1 for nf4 and the original base; but where the base stays the one "
            "trained on, never more than half of what training changed.",
            show_default=False,
        ),
    ] = None,
    probes: Annotated[int, typer.Option(min=1, help="Validation drafts that the export is checked on.")] = 32,
    judge: Annotated[
        bool,
        typer.Option("--judge", help="Have the run's judge score the check's greedy drafts even if it costs money."),
    ] = False,
    with_pairs: Annotated[
        bool, typer.Option("--with-pairs", help="Also write the pairs trained on to DIR/pairs, in TRL's format.")
    ] = False,
    base_name: Annotated[
        str | None,
        typer.Option(
            metavar="ORG/NAME", help="What the base is called on the hub, where the student is a local folder."
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="ORG/NAME", help="Upload model and card, without texts, into a private repository."),
    ] = None,
    with_data: Annotated[
        bool,
        typer.Option("--with-data", help="With --push: also the pairs, into ORG/NAME-pairs, after showing three rows."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before texts are uploaded.")] = False,
) -> None:
    """Write a run's policy as a folder that plain transformers and peft load, with a model card, and check it.

    The export is loaded in a fresh process by the code that its card gives to a reader. It scores drafts of the run and
    writes greedily; the loss is printed, stands in the card and in export.json, and above a limit nothing is exported.
    `--push` takes the token from the environment (HF_TOKEN) or from `hf auth login`.
    """
    from prefdistill.export.command import Wanted, export_run

    wanted = Wanted(
        folder=to,
        format=format.value,
        round=round,
        base=None if base is None else base.value,
        dtype=dtype.value,
        max_loss=max_loss,
        probes=probes,
        judge=judge,
        with_pairs=with_pairs,
        base_name=base_name,
        push=push,
        with_data=with_data,
    )
    export_run(run_folder(run), wanted, lambda line: print(line, flush=True), lambda text: yes or typer.confirm(text))


RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run folder: a path, or a name under ./runs.", show_default=False)
]
RoundOfPolicy = Annotated[
    int | None,
    typer.Option(
        "--round", min=0, help="This round's policy; 0 is the base. Default: the kept one.", show_default=False
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(min=0.0, help="0 is greedy. Default: the recipe's evaluate.temperature.", show_default=False),
]


@app.command(rich_help_panel=SHIP)
def chat(
    run: RunName,
    round: RoundOfPolicy = None,
    temperature: Temperature = None,
    base: Annotated[bool, typer.Option("--base", help="Show the base's answer beside, as /base does.")] = False,
) -> None:
    """Talk to a run's policy: its words as it writes them, with the student's own template and system prompt.

    /reset forgets the conversation, /base shows the base's answer beside, /temperature T changes it; /quit, Ctrl-D or
    Ctrl-C leaves. Nothing is stored. A student that was trained on single prompts may be weak at a second turn.
    """
    from prefdistill.using.chat import chat as talk

    talk(run_folder(run), round, temperature, base)


@app.command(rich_help_panel=SHIP)
def draft(
    run: RunName,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What to write; `-` reads it from standard input.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            metavar="ROWS",
            help="Prompts as rows, like a recipe's prompts file; `-` reads JSON lines from standard input.",
        ),
    ] = None,
    drafts: Annotated[int, typer.Option(min=1, help="Drafts a prompt.")] = 4,
    round: RoundOfPolicy = None,
    temperature: Temperature = None,
    seed: Annotated[int | None, typer.Option(help="Default: the recipe's seed.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line, one a draft.")] = False,
) -> None:
    """Have a run's policy write drafts, with the run's sampler, and score them by the rubric's checks, which are free.

    The same command gives the same drafts: for a prompt of the test split, first the one that the policy was measured
    by. No judge is asked, and the run folder is not changed. Exit 1: a draft could not be written.
    """
    from prefdistill.using.drafts import draft as write

    if write(run_folder(run), prompt, file, drafts, round, temperature, seed, as_json):
        raise typer.Exit(1)


@app.command(rich_help_panel=RUN)
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


CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="A recipe's own `cache:` folder. Default: the user's, which runs share.",
        show_default=False,
    ),
]


@cache_app.command("stats")
def cache_stats(cache: CacheFolder = None) -> None:
    """Show where the request cache is, how many replies it holds, of which models and from when.

    Claims are requests that a process is making right now; others that want the same reply wait for it.
    """
    for line in _existing_cache(cache).stats().lines():
        print(line)


@cache_app.command("clear")
def cache_clear(
    cache: CacheFolder = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Only replies stored so many days ago or before.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Only replies of this model.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove replies from the request cache and overwrite their text. What is asked again is paid again.

    Verdicts and drafts in run folders stay; a run that is finished needs no cache.
    """
    import time

    found = _existing_cache(cache)
    before = None if older_than is None else time.time() - older_than * 86400
    count = found.count(before, model)
    if not count:
        print(f"{found.path}: no such reply")
        return
    if not yes:
        typer.confirm(f"Remove {count:,} replies from {found.path}? What is asked again is paid again", abort=True)
    print(f"{found.path}: {found.clear(before, model):,} replies removed")
    if not found.compact():
        print(
            f"another process reads {found.path}: its files may hold removed replies until they are written anew; run "
            "`prefdistill forget` or `prefdistill cache clear` again when nothing else uses the cache"
        )


def _existing_cache(folder: Path | None) -> Any:
    """Open a request cache that is there, without making one."""
    from prefdistill.requests.reply_cache import FILE, ReplyCache, default_cache_directory

    directory = folder or default_cache_directory()
    if not (directory / FILE).is_file():
        raise RunError(
            f"{directory}: no request cache there ({FILE}); nothing was paid for yet, or name it with --cache"
        )
    return ReplyCache(directory)


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


@app.command(rich_help_panel=TIDY)
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


@app.command(rich_help_panel=TIDY)
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


@app.command(rich_help_panel=TIDY)
def forget(
    prompt_id: Annotated[
        str,
        typer.Argument(metavar="PROMPT_ID", help="The prompt's id: ours, or your own `id` column.", show_default=False),
    ],
    run: Annotated[str, typer.Option("--run", help="Run folder, or a name under ./runs.", metavar="NAME")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove one prompt's texts from a run and from the request cache, and say what cannot be removed.

    Its drafts, verdicts, pairs and comparisons go, in replaced/ too; the report is rendered again without it. The run
    stays valid: what was trained is not stale, and nothing is drafted for the prompt again. With a comparison's folder
    it goes from all runs of it.
    """
    from prefdistill.forgetting import cannot_remove, describe, finish_earlier, forget, plan_forgetting
    from prefdistill.forgetting.comparisons import finish_comparison, runs_of

    folder = run_folder(run)
    plans, left = [], []
    for each in runs_of(folder):
        plan = plan_forgetting(each, prompt_id)
        if plan is None:
            print(f"{each}: prompt {prompt_id} is forgotten already")
            left += finish_earlier(each)
            continue
        plans.append(plan)
        print("\n".join(describe(plan)))
        print("\n".join(cannot_remove(plan)))
    if plans and not yes and not typer.confirm("Remove this for good?"):
        print("nothing was removed")
        raise typer.Exit(1)
    for plan in plans:
        left += forget(plan)
        print(f"forgotten: {plan.prompt.id}")
    for line in finish_comparison(folder, prompt_id) if plans else ():
        print(line)
    for line in left:
        print(line)
    if left:
        raise typer.Exit(1)


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
