"""The run's student and teacher as upstreams: from its recipe, or from what the command line names instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefdistill.errors import RecipeError
from prefdistill.plugins import Plugin
from prefdistill.protocols import RunContext
from prefdistill.recipe import Recipe
from prefdistill.requests.chat import api_key
from prefdistill.requests.dialect import Dialect
from prefdistill.requests.layer import RequestLayer
from prefdistill.requests.till import price_for
from prefdistill.run import RunDirectory
from prefdistill.serve.reasoning import AnswerOnly
from prefdistill.serve.servers import Server
from prefdistill.serve.student import StudentProcess
from prefdistill.serve.upstream import DownError, Nobody, PluginTeacher, Upstream
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


def open_teacher(recipe: Recipe, run: RunDirectory, timeout: float, say: Callable[[str], None]) -> Upstream:
    """Return the recipe's teacher: its server asked directly, or a plug-in on threads.

    Raises:
        PluginError: its key is not in the environment.
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
