"""What came of a batch: answers and problems by request, read from the files and the errors of an ended batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prefdistill.requests.calls import Answer, CallError, EndpointError
from prefdistill.requests.chat import ChatModel

Sent = Callable[[str], Mapping[str, Any]]
"""Gives the body that was sent under a custom id."""


def read_results(
    lines: Iterable[str], wanted: Iterable[str], chat: ChatModel, sent: Sent
) -> tuple[dict[str, Answer], dict[str, CallError]]:
    """Return answers and problems by custom id, in whatever order they come; a broken line is as good as none."""
    answers: dict[str, Answer] = {}
    problems: dict[str, CallError] = {}
    known = set(wanted)
    for line in lines:
        try:
            row = json.loads(line)
            key, response, error = str(row["custom_id"]), row.get("response"), row.get("error")
            status = int(response["status_code"]) if response else 0
        except (ValueError, LookupError, TypeError, AttributeError):
            continue
        if key not in known:
            continue
        if not response:
            problems[key] = CallError(_said(error), "later", 408)
            continue
        try:
            answers[key] = chat.answer_of(status, response.get("body"), sent(key))
        except CallError as problem:
            problems[key] = problem
    return answers, problems


def problems_of_lines(
    errors: Sequence[Any], keys: Sequence[str], chat: ChatModel, sent: Sent, batch_id: str
) -> dict[str, CallError]:
    """Return what a batch that failed as a whole says of its lines; those that it does not name may be sent again.

    Raises:
        EndpointError: it names none.
    """
    problems: dict[str, CallError] = {}
    for error in errors:
        if error.line is not None and 1 <= error.line <= len(keys):
            key = keys[error.line - 1]
            text = f"{error.param or ''} {error.message or error.code}".strip()
            problems[key] = chat.refusal(400, text, sent(key))
    if not problems:
        said = "; ".join(f"{error.code}: {error.message}" for error in errors[:3]) or "it gives no reason"
        raise EndpointError(
            f"{chat.base_url}: batch {batch_id} failed as a whole ({said}); nothing was paid for it; mend that and run "
            "again, or set teacher.batch: false to send the requests one by one"
        )
    for key in keys:
        problems.setdefault(key, CallError("another line of its batch was refused", "now"))
    return problems


def without_result(status: str) -> CallError:
    """Return the problem of a request that its ended batch says nothing about."""
    said = "expired before it was answered" if status == "expired" else f"ended as {status} without its result"
    return CallError(f"its batch {said}", "later", 408)


def _said(error: Any) -> str:
    """Return what a result line without a response says."""
    if not isinstance(error, Mapping):
        return "its batch gave no response"
    return " ".join(f"{error.get('code')}: {error.get('message')}".split())[:500]
