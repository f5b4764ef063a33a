"""The commands of a finished policy: export it, talk to it, serve it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from prefdistill.cli.app import SHIP, Overrides, RoundOfPolicy, RunName, app
from prefdistill.folders import run_folder


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


Temperature = Annotated[
    float | None,
    typer.Option(min=0.0, help="0 is greedy. Default: the recipe's evaluate.temperature.", show_default=False),
]


NoTrace = Annotated[
    bool,
    typer.Option("--no-trace", help="Have a student that was trained to reason (`use: traces`) answer at once."),
]


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


@app.command(rich_help_panel=SHIP)
def chat(
    run: RunName,
    round: RoundOfPolicy = None,
    temperature: Temperature = None,
    base: Annotated[bool, typer.Option("--base", help="Show the base's answer beside, as /base does.")] = False,
    no_trace: NoTrace = False,
) -> None:
    """Talk to a run's policy: its words as it writes them, with the student's own template and system prompt.

    /reset forgets the conversation, /base shows the base's answer beside, /temperature T changes it, /no-trace switches
    the reasoning of a student that learned it; /quit, Ctrl-D or Ctrl-C leaves. Nothing is stored. A student that was
    trained on single prompts may be weak at a second turn.
    """
    from prefdistill.using.chat import chat as talk

    talk(run_folder(run), round, temperature, base, no_trace)


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
    no_trace: NoTrace = False,
) -> None:
    """Have a run's policy write drafts, with the run's sampler, and score them by the rubric's checks, which are free.

    The same command gives the same drafts: for a prompt of the test split, first the one that the policy was measured
    by. No judge is asked, and the run folder is not changed. Exit 1: a draft could not be written.
    """
    from prefdistill.using.drafts import draft as write

    if write(run_folder(run), prompt, file, drafts, round, temperature, seed, as_json, no_trace):
        raise typer.Exit(1)


@app.command(rich_help_panel=SHIP)
def serve(
    run: RunName,
    overrides: Overrides = None,
    fallback: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="The share of requests that should go to the teacher.")
    ] = 0.1,
    routes: Annotated[
        str,
        typer.Option(
            metavar="all|prompt-only|TEST,…",
            help="What may send a request to the teacher: out_of_scope (the prompt is unlike the training prompts), gate "
            "(a checked gate of the rubric fails), length (of the draft), log_prob (the student was unsure). The last "
            "three read the whole draft, so that streams are held back; with prompt-only they are off, and the "
            "student's words stream as it writes them.",
        ),
    ] = "all",
    host: Annotated[str, typer.Option(help="Where to listen; other than this machine only with --api-key-env.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one.")] = 8000,
    round: RoundOfPolicy = None,
    no_trace: NoTrace = False,
    student_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The student behind vLLM or another OpenAI-compatible server, instead of a process of our own.",
        ),
    ] = None,
    student_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="What that server calls it. Default: the only one it lists.")
    ] = None,
    student_key_env: Annotated[
        str, typer.Option(metavar="NAME", help="The environment variable with the key for --student-url.")
    ] = "OPENAI_API_KEY",
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where requests are logged. Default: RUN/served.jsonl. One server a file: a second server needs its own.",
        ),
    ] = None,
    log_megabytes: Annotated[
        float, typer.Option(min=0.001, help="Its size before a new one is begun; five older ones are kept.")
    ] = 100.0,
    redact: Annotated[
        bool, typer.Option("--redact", help="Keep no text in the log: no prompt, field, answer or draft.")
    ] = False,
    shadow: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="The share of answers that the recipe's judge scores in the background."),
    ] = 0.0,
    shadow_usd: Annotated[
        float | None,
        typer.Option(min=0.0, help="The most that this may cost, in US dollars, over all restarts together."),
    ] = None,
    teacher_usd: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="The most that the teacher's answers may cost a day (UTC), in US dollars, restarts included. Is it spent, "
            "the student answers, marked teacher_spent, until midnight. --shadow judges by a budget of its own.",
            show_default="no limit",
        ),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The environment variable with the key that clients must send. /healthz and /metrics need none: whoever "
            "reaches the port reads how much is asked, sent on and spent, but no text.",
        ),
    ] = None,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Further requests get 429 and Retry-After.")] = 64,
    max_body_kb: Annotated[int, typer.Option(min=1, help="Larger requests get 413.")] = 256,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for one request, its body and its stream included.")
    ] = 120.0,
    teacher_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for the teacher, before the student's answer is given instead.")
    ] = 60.0,
    calibrate_only: Annotated[
        bool,
        typer.Option(
            "--calibrate-only",
            help="Write RUN/calibration.json (not while a server uses it), say what would be sent on, and end.",
        ),
    ] = False,
) -> None:
    """Serve a run's policy as an OpenAI-compatible endpoint, with the teacher behind it for what the student gets wrong.

    Thresholds come from the drafts that the run wrote on its validation split, so that the wanted share of such prompts
    goes to the teacher; they are in RUN/calibration.json. Facts for the rubric's gates come with a request as
    `extra_body={"fields": {"day": "Friday"}}` or as `metadata`. Headers say who answered (`x-prefdistill-route`), why
    (`x-prefdistill-reason`) and whether the draft was read first (`x-prefdistill-buffered`). Is the teacher down, the
    student answers, marked; is the student down, the teacher does. Of a student that reasons, clients, tests and log
    get the answer alone. Needs `pip install 'prefdistill[serve]'`.
    """
    from prefdistill.serve.command import Wanted, serve_run

    wanted = Wanted(
        folder=run_folder(run),
        overrides=tuple(overrides or ()),
        round=round,
        no_trace=no_trace,
        host=host,
        port=port,
        fallback=fallback,
        routes=routes,
        student_url=student_url,
        student_model=student_model,
        student_key_env=student_key_env,
        log=log,
        log_megabytes=log_megabytes,
        redact=redact,
        shadow=shadow,
        shadow_usd=shadow_usd,
        teacher_usd=teacher_usd,
        api_key_env=api_key_env,
        max_in_flight=max_in_flight,
        max_body_kb=max_body_kb,
        timeout=timeout,
        teacher_timeout=teacher_timeout,
        calibrate_only=calibrate_only,
    )
    serve_run(wanted, lambda line: print(line, flush=True))
