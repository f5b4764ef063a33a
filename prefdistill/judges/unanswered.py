"""Replies that say nothing: which failure they become, and what they cost. A failure is never a score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prefdistill.judges.replies import UnreadableReplyError
from prefdistill.protocols import Reply
from prefdistill.records import Draft, Failure, Usage


def readable(
    key: str, replies: Sequence[Reply | Failure], parse: Callable[[Reply], Any]
) -> list[tuple[Reply, Any]] | Failure:
    """Return the replies that can be read, with what was read; a failure unless most of them can."""
    read: list[tuple[Reply, Any]] = []
    lost: list[Failure] = []
    for reply in replies:
        if isinstance(reply, Failure):
            lost.append(reply)
            continue
        try:
            read.append((reply, parse(reply)))
        except UnreadableReplyError as problem:
            lost.append(unreadable(key, problem, reply))
    if len(read) * 2 > len(replies):
        return read
    worst = next((each for each in lost if each.kind in ("provider", "budget")), lost[0])
    return worst.model_copy(update={"key": key, "usage": spent(replies)})


def spent(replies: Iterable[Reply | Failure]) -> Usage:
    """Return what replies cost together."""
    each = [reply.usage for reply in replies]
    return each[0] if len(each) == 1 else sum(each, Usage())


def unreadable(key: str, problem: UnreadableReplyError, reply: Reply) -> Failure:
    """Return the failure of a reply without a verdict; its cost is kept."""
    return Failure(stage="judge", key=key, kind="parse", message=str(problem), reply=reply.text, usage=reply.usage)


def without_log_probs(key: str, reply: Reply, what: str) -> Failure:
    """Return the failure of a reply whose verdict cannot be scored by log-probabilities."""
    found = "gave no log-probabilities" if reply.tokens is None else "put too little probability on the menu's answers"
    message = (
        f"{what}: the teacher {found}, and judge.scoring is logprob; expected the probability of every answer: "
        "use `scoring: auto`, `sampled` or `parsed`, or a server that gives log-probabilities"
    )
    return Failure(stage="judge", key=key, kind="parse", message=message, reply=reply.text, usage=reply.usage)


def for_each_draft(failure: Failure, drafts: Iterable[Draft]) -> list[Failure]:
    """Return one text's failure for every draft that has this text; the cost is counted once."""
    return [
        failure.model_copy(update={"key": draft.id, "usage": Usage() if number else failure.usage})
        for number, draft in enumerate(drafts)
    ]
