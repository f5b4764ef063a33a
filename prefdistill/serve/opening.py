"""The run's student and teacher as upstreams: from its recipe, or from what the command line names instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefdistill.errors import RecipeError
from prefdistill.plugins import Plugin, name_of
from prefdistill.protocols import RunContext
from prefdistill.recipe import Recipe
from prefdistill.requests.chat import api_key
from prefdistill.requests.dialect import Dialect
from prefdistill.requests.layer import RequestLayer
from prefdistill.requests.prices import own_table
from prefdistill.requests.till import price_for
from prefdistill.run import RunDirectory
from prefdistill.serve.allowance import Allowance
from prefdistill.serve.plugged import PluginTeacher
from prefdistill.serve.reasoning import AnswerOnly
from prefdistill.serve.servers import Server
from prefdistill.serve.student import StudentProcess
from prefdistill.serve.upstream import DownError, Nobody, Upstream
from prefdistill.teachers.openai import OpenAITeacher
from prefdistill.traces import Tags

TEACHER_THREADS = 8
"""Threads for a teacher that is a plug-in."""


@dataclass(frozen=True)
class StudentWanted:
    """Which student, and how long it may take for an answer."""

    folder: Path
    overrides: tuple[str, ...] = ()
    round: int | None = None
    url: str | None = None
    """A server instead of a process of our own."""
    model: str | None = None
    key_env: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    log_probs: bool = True
    """Whether a server is asked for log-probabilities."""
    tags: Tags | None = None
    """What opens and closes its reasoning; None where it has none."""


def require_price(recipe: Recipe, usd: float) -> None:
    """Refuse `--teacher-usd` where nobody can say when so much is spent.

    Raises:
        RecipeError: the recipe has no teacher, or one without a known price.
    """
    teacher: Any = recipe.teacher
    where = f"--teacher-usd {usd:g}"
    if not math.isfinite(usd):
        raise RecipeError(f"{where}: expected a number of dollars; for no limit leave --teacher-usd out")
    if teacher is None:
        raise RecipeError(f"{where}: the recipe has no teacher that could cost anything; leave --teacher-usd out")
    if not isinstance(teacher, OpenAITeacher):
        raise RecipeError(
            f"{where}: the teacher `{name_of(teacher)}` is a plug-in that says what an answer cost when it is there, and "
            "not before; expected `teacher.use: openai` with a model of known price, or leave --teacher-usd out"
        )
    price = price_for(teacher.model, teacher.usd_per_million, None)
    if len(price) < 2:
        found = f"has a price for {', '.join(price)} alone" if price else "has no price"
        raise RecipeError(
            f"{where}: the model `{teacher.model}` {found}, so nobody can say when {usd:g} dollars are spent; add "
            f"`{teacher.model}: {{input: …, output: …}}` (US dollars per million tokens) to {own_table()}, or give both "
            "with teacher.usd_per_million='{input: …, output: …}' behind the run's name"
        )


def open_teacher(
    recipe: Recipe,
    run: RunDirectory,
    timeout: float,
    say: Callable[[str], None],
    allow: Callable[[Mapping[str, float], Mapping[str, Any]], Allowance] | None = None,
) -> Upstream:
    """Return the recipe's teacher: its server asked directly, or a plug-in on threads.

    Args:
        recipe: with the teacher.
        run: whose folder a plug-in may use.
        timeout: seconds for an answer.
        say: called with what a person should know.
        allow: makes what the answers may cost a day, of the price and of what each request says besides; see
            `require_price`.

    Raises:
        PluginError: its key is not in the environment.
        RunError: what was spent today cannot be read.
    """
    teacher: Any = recipe.teacher
    if teacher is None:
        say("the recipe has no teacher: the student answers everything, and the log marks what it should not have")
        return Nobody()
    if isinstance(teacher, OpenAITeacher):
        price = price_for(teacher.model, teacher.usd_per_million, None)
        if len(price) < 2:
            say(f"the price of {teacher.model} is not known, so what the teacher costs is not counted")
        return Server(
            base_url=teacher.base_url.rstrip("/"),
            model=teacher.model,
            key=api_key(teacher.base_url, teacher.api_key_env),
            timeout_seconds=timeout,
            concurrency=teacher.concurrency,
            extra_body=teacher.extra_body,
            price=price,
            allowance=None if allow is None else allow(price, teacher.extra_body),
            dialect=Dialect("none", teacher.max_tokens_parameter),
            note=say,
        )
    if isinstance(teacher, Plugin):
        teacher.open(
            RunContext(
                directory=run.path.resolve(),
                seed=recipe.seed,
                student=recipe.student,
                requests=RequestLayer(cache="off"),
            )
        )
    most = min(getattr(teacher, "concurrency", None) or TEACHER_THREADS, TEACHER_THREADS)
    return PluginTeacher(teacher, most, timeout)


def teacher_system(recipe: Recipe) -> str | None:
    """Return the system prompt with which the teacher writes, None where it has none of its own."""
    found: Callable[[], str | None] = getattr(recipe.teacher, "system_text", lambda: None)
    return found()


async def open_student(wanted: StudentWanted, say: Callable[[str], None], restarted: Callable[[], None]) -> Upstream:
    """Return the student, of which only answers are heard: a process of our own, or the server that was named.

    Raises:
        PrefdistillError: it cannot be loaded, or the server cannot be used.
    """
    student = await _opened(wanted, say, restarted)
    if wanted.tags is None:
        return student
    opening, closing = wanted.tags
    say(f"what the student writes between {opening} and {closing} is kept from clients, tests and log")
    return AnswerOnly(student, wanted.tags)


async def _opened(wanted: StudentWanted, say: Callable[[str], None], restarted: Callable[[], None]) -> Upstream:
    if wanted.url is None:
        student = StudentProcess(wanted.folder, wanted.overrides, wanted.round, say, restarted)
        say("loading the student …")
        await student.start()
        say(f"the student is loaded ({student.weights}); one batch at a time: for much traffic serve its export by vLLM "
            "and name it with --student-url")  # fmt: skip
        return student
    parts = urlsplit(wanted.url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise RecipeError(
            f"--student-url {parts.scheme}://{parts.hostname or ''}…: expected a URL such as http://localhost:8001/v1, "
            "without a password or a query in it"
        )
    server = Server(
        base_url=wanted.url.rstrip("/"),
        model=wanted.model or "",
        key=api_key(wanted.url, wanted.key_env),
        timeout_seconds=wanted.timeout,
        free=True,
        wants_log_probs=wanted.log_probs,
        reasons=wanted.tags is not None,
        dialect=Dialect("none", "max_tokens"),
        note=say,
    )
    try:
        listed = [str(each.get("id")) for each in await server.models()]
    except DownError as problem:
        listed = []
        say(f"--student-url: {wanted.url} does not list its models ({problem}); going on")
    if not server.model and len(listed) != 1:
        await server.close()
        found = f"it lists {', '.join(listed)}" if listed else "it lists none"
        raise RecipeError(f"--student-url {wanted.url}: {found}; name the student with --student-model")
    server.model = server.model or listed[0]
    if listed and server.model not in listed:
        await server.close()
        raise RecipeError(f"--student-model {server.model}: the server lists {', '.join(listed)}; expected one of them")
    say(f"the student is {server.model} at {server.base_url}")
    return server
