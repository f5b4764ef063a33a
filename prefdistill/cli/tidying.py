"""The commands that look up and tidy up: status, cache, schema, plug-ins, forgetting."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from prefdistill.cli.app import TIDY, app
from prefdistill.errors import RunError
from prefdistill.folders import run_folder

cache_app = typer.Typer(no_args_is_help=True, help="Look at the request cache, or clear it: every reply paid for.")
app.add_typer(cache_app, name="cache", rich_help_panel=TIDY)


class SchemaOf(StrEnum):
    """What has a JSON Schema."""

    recipe = "recipe"
    rubric = "rubric"
    plan = "plan"


CacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="A recipe's own `cache:` folder. Default: the user's, which runs share.",
        show_default=False,
    ),
]


@app.command(rich_help_panel=TIDY)
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


@app.command(rich_help_panel=TIDY)
def schema(of: Annotated[SchemaOf, typer.Argument(help="What to describe.")]) -> None:
    """Print the JSON Schema of recipes, rubrics or plans, for completion and checks in an editor."""
    import json

    if of is SchemaOf.recipe:
        from prefdistill.recipe import recipe_schema

        found = recipe_schema()
    elif of is SchemaOf.plan:
        from prefdistill.plan.document import plan_schema

        found = plan_schema()
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

    Its drafts, verdicts, pairs and comparisons go, in replaced/ too, and its requests from the folder's served logs; the
    report is rendered again without it. The run stays valid: what was trained is not stale, and nothing is drafted for
    the prompt again. With a comparison's folder it goes from all runs of it.
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
