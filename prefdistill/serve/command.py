"""`prefdistill serve`: calibrate, start the student, and serve until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefdistill.errors import PluginError, RecipeError
from prefdistill.recipe import Recipe
from prefdistill.records import Policy
from prefdistill.run import RunDirectory, write_json
from prefdistill.serve.allowance import Allowance
from prefdistill.serve.calibrating import FILE, Calibration, calibrate, fit_scope, read_cases, trace_notes
from prefdistill.serve.holding import held, held_log
from prefdistill.serve.journal import Journal
from prefdistill.serve.listening import BACKLOG, DRAIN_SECONDS, LOOPBACK, bound, own_key, serve_until_told
from prefdistill.serve.opening import StudentWanted, open_student, open_teacher, require_price, teacher_system
from prefdistill.serve.router import Decoding, Router
from prefdistill.serve.routing import Screen, parse_routes
from prefdistill.serve.upstream import Upstream
from prefdistill.served import ServedLog
from prefdistill.stored import NO_TRACE, TRACE_KEY, stored_policy, stored_run, stored_run_traced
from prefdistill.traces import Tags

if TYPE_CHECKING:
    from prefdistill.serve.gauges import Gauges

NEEDED = ("fastapi", "uvicorn", "httptools", "aiohttp", "prometheus_client")
"""What the extra `serve` brings."""


@dataclass(frozen=True)
class Wanted:
    """The command's options."""

    folder: Path
    overrides: tuple[str, ...] = ()
    round: int | None = None
    no_trace: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    fallback: float = 0.1
    routes: str = "all"
    student_url: str | None = None
    student_model: str | None = None
    student_key_env: str = "OPENAI_API_KEY"
    log: Path | None = None
    log_megabytes: float = 100.0
    redact: bool = False
    shadow: float = 0.0
    shadow_usd: float | None = None
    teacher_usd: float | None = None
    api_key_env: str | None = None
    max_in_flight: int = 64
    max_body_kb: int = 256
    timeout: float = 120.0
    teacher_timeout: float = 60.0
    calibrate_only: bool = False

    def log_of(self, run: RunDirectory) -> Path:
        """Return where requests are logged."""
        return self.log or run.path / "served.jsonl"

    def student(self, recipe: Recipe) -> StudentWanted:
        """Return which student is wanted; of a recipe whose reasoning is already switched."""
        return StudentWanted(
            folder=self.folder,
            overrides=(*self.overrides, NO_TRACE) if self.no_trace else self.overrides,
            round=self.round,
            url=self.student_url,
            model=self.student_model,
            key_env=self.student_key_env,
            timeout=self.timeout,
            log_probs="log_prob" in parse_routes(self.routes),
            tags=_tags(recipe),
        )


def _tags(recipe: Recipe) -> Tags | None:
    """Return what opens and closes the student's reasoning; None where it has none."""
    return None if recipe.student.trace is None else recipe.student.tags


def serve_run(wanted: Wanted, say: Callable[[str], None]) -> None:
    """Serve a run's policy until it is told to end.

    Raises:
        PrefdistillError: the run, the options or the machine do not allow it; said before anything listens.
    """
    on = parse_routes(wanted.routes)
    if not wanted.calibrate_only:
        require_extra()
    key = own_key(wanted.host, wanted.api_key_env)
    if wanted.no_trace and wanted.student_url is not None:
        raise RecipeError(
            f"--no-trace: the server at --student-url begins the student's turn by its own template; expected a student "
            f"in a process of our own, or, where that template begins the turn with an empty trace, {NO_TRACE} instead"
        )
    run, recipe = stored_run_traced(wanted.folder, wanted.no_trace, wanted.overrides)
    if wanted.teacher_usd is not None:
        require_price(recipe, wanted.teacher_usd)
    policy = stored_policy(run, recipe, wanted.round)
    with ExitStack() as holding:
        if not wanted.calibrate_only:
            holding.enter_context(held_log(wanted.log_of(run)))
        scope, tags = fit_scope(run) if "out_of_scope" in on else None, _tags(recipe)
        made = _calibrated(wanted, run, recipe, policy, Screen(on, recipe.rubrics, scope=scope, tags=tags))
        for line in calibration_lines(made):
            say(line)
        if holding.enter_context(held(run.path / FILE)):
            write_json(run.path / FILE, made.model_dump(mode="json"))
        else:
            say(_not_replaced(wanted, run))
        if wanted.calibrate_only:
            return
        listener = holding.enter_context(bound(wanted.host, wanted.port))
        import uvicorn

        tests = Screen(on, recipe.rubrics, made.thresholds, scope, tags)
        with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as loop:  # uvloop where there is one
            loop.run(_serve(wanted, run, recipe, tests, made, key, listener, say))


def _calibrated(wanted: Wanted, run: RunDirectory, recipe: Recipe, policy: Policy, tests: Screen) -> Calibration:
    made = calibrate(
        read_cases(run, recipe, policy, tests),
        wanted.fallback,
        tests.on,
        run=run.path.resolve().name,
        round=policy.round,
        temperature=recipe.evaluate.temperature,
    )
    return made.model_copy(update={"notes": (*made.notes, *_trace_notes(wanted, recipe, policy))})


def _not_replaced(wanted: Wanted, run: RunDirectory) -> str:
    """Return what to say where another server's calibration stays."""
    then = (
        "end it first to replace them" if wanted.calibrate_only else "this server's own are those above, kept in memory"
    )
    return f"  note: {run.path / FILE} was not replaced: a server that is running serves by its thresholds; {then}"


def _trace_notes(wanted: Wanted, recipe: Recipe, policy: Policy) -> Iterator[str]:
    """Yield what to know of a student that reasons: whether its drafts did, and what a server must do."""
    served = recipe.student.of(policy)
    if served.trace is None:
        return
    as_drafted = [each for each in wanted.overrides if each.partition("=")[0].strip() != TRACE_KEY]
    _, drafting = stored_run(wanted.folder, as_drafted)
    yield from trace_notes(drafting.student.of(policy), served)
    if served.block and wanted.student_url is not None:
        yield "student.trace is off: expected a server whose template begins the turn with an empty trace"


def require_extra() -> None:
    """Refuse to go on without the extra.

    Raises:
        PluginError: a package is missing.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise PluginError(
            f"prefdistill serve: {', '.join(missing)} not installed; expected the extra `serve`: "
            "pip install 'prefdistill[serve]'"
        )


def calibration_lines(made: Calibration) -> Iterator[str]:
    """Yield what a person should know of a calibration."""
    low, high = made.interval
    whose = "the base" if made.round == 0 else f"round {made.round}"
    yield (
        f"fallback: {made.share:.1%} of {made.prompts} validation prompts go to the teacher (wanted {made.wanted:.1%}; "
        f"95 % interval {low:.1%} to {high:.1%}), by the drafts of {whose} at temperature {made.temperature:g}"
    )
    told = {
        "out_of_scope": None if made.distance is None else f"distance over {made.distance:.3f}",
        "length": None if made.characters is None
        else f"under {made.characters[0]:.0f} or over {made.characters[1]:.0f} characters",
        "log_prob": None if made.log_prob is None else f"mean log-probability under {made.log_prob:.3f} nats a token",
        "gate": ", ".join(f"{name} {share:.1%}" for name, share in made.gates.items()) or None,
    }  # fmt: skip
    for name in made.tests:
        yield f"  {name:12} {made.shares.get(name, 0.0):6.1%}  {told[name] or 'never fires on them'}"
    for note in made.notes:
        yield f"  note: {note}"


async def _serve(
    wanted: Wanted,
    run: RunDirectory,
    recipe: Recipe,
    tests: Screen,
    made: Calibration,
    key: str | None,
    listener: socket.socket,
    say: Callable[[str], None],
) -> None:
    import uvicorn

    from prefdistill.serve.app import Service, build_app
    from prefdistill.serve.clients import Limits
    from prefdistill.serve.gauges import Gauges
    from prefdistill.serve.shadow import Shadow

    gauges = Gauges(made.wanted, made.share)
    log = ServedLog(wanted.log_of(run), int(wanted.log_megabytes * 1e6))
    journal = Journal(log, wanted.redact, say, gauges.log_lost.inc)
    closing: list[Upstream] = []
    shadow: Shadow | None = None
    try:
        if wanted.shadow:
            shadow = Shadow(run, recipe, wanted.shadow, wanted.shadow_usd, gauges, journal.add, say)
        teacher: Upstream = open_teacher(recipe, run, wanted.teacher_timeout, say, _allow(wanted, run, gauges, say))
        closing.append(teacher)
        student = await open_student(wanted.student(recipe), say, gauges.restarts.inc)
        closing.append(student)
        router = Router(
            tests=tests,
            student=student,
            teacher=teacher,
            decoding=Decoding(recipe.evaluate.temperature, recipe.evaluate.top_p, recipe.sample.max_new_tokens),
            student_system=recipe.student.system_text(),
            teacher_system=teacher_system(recipe),
            say=say,
        )
        service = Service(
            name=made.run,
            created=int(time.time()),
            router=router,
            gauges=gauges,
            journal=journal,
            shadow=shadow,
            limits=Limits(wanted.max_body_kb * 1024, wanted.max_in_flight, wanted.timeout),
            key=key,
            hosts=LOOPBACK if wanted.host in LOOPBACK else frozenset(),
        )
        config = uvicorn.Config(
            build_app(service),
            host=wanted.host,
            port=wanted.port,
            http="httptools",
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        say(f"requests are logged to {log.path}{', without texts' if wanted.redact else ''}")
        listener.listen(BACKLOG)  # who reads the next line and connects at once is not refused
        host = f"[{wanted.host}]" if ":" in wanted.host else wanted.host
        place = f"http://{host}:{listener.getsockname()[1]}/v1"
        say(f"serving the model {made.run} at {place} (metrics at /metrics); Ctrl-C ends")
        await serve_until_told(uvicorn.Server(config), listener)
        say("ended: every request that was answered is in the log")
    finally:
        for each in reversed(closing):
            await each.close()
        if shadow is not None:
            shadow.close()
        journal.close()


def _allow(
    wanted: Wanted, run: RunDirectory, gauges: Gauges, say: Callable[[str], None]
) -> Callable[[Mapping[str, float], Mapping[str, Any]], Allowance] | None:
    """Return what makes the teacher's allowance, where there is one."""
    if wanted.teacher_usd is None:
        return None
    usd, log = wanted.teacher_usd, wanted.log_of(run).resolve()  # the same file by another name has one ledger
    beside = run.path / log.name if log.exists() and not log.is_file() else log  # a device has no folder of its own

    def made(price: Mapping[str, float], extra_body: Mapping[str, Any]) -> Allowance:
        allowance = Allowance(usd, beside, price, extra_body, say)
        gauges.allow(usd, lambda: allowance.left)
        say(f"the teacher may cost {usd:g} dollars a day (UTC); ${allowance.left:.4f} of today's are left")
        return allowance

    return made
