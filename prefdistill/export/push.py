"""Uploading an export: into a private repository, the chosen form and its card alone; texts only when asked for.

The token comes from the environment or from `hf auth login` and is never written. `HF_ENDPOINT` names another hub.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefdistill.errors import RunError

SHOWN_ROWS = 3
SHOWN_CHARACTERS = 400


def check_push(repository: str) -> None:
    """Find out before any work whether an upload can start.

    Raises:
        RunError: the name is no ORG/NAME, or there is no token.
    """
    from huggingface_hub import constants, get_token

    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repository) or len(repository) > 90:
        raise RunError(
            f"--push {repository}: expected ORG/NAME in letters, digits and `-_.`, such as acme/email-student"
        )
    if constants.HF_HUB_OFFLINE:
        raise RunError("--push: HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it, or leave --push out")
    if not get_token():
        raise RunError(
            "--push: no token for the hub; set HF_TOKEN to one that may write, or log in with `hf auth login`"
        )


def push(repository: str, kind: str, folder: Path, files: Sequence[str]) -> str:
    """Upload `files` of `folder` into the private repository, made now if it is not there; return its address.

    Args:
        repository: ORG/NAME.
        kind: "model" or "dataset".
        folder: the export.
        files: relative paths; nothing else is uploaded.

    Raises:
        RunError: the hub refuses, cannot be reached, or the repository is public.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(library_name="prefdistill")
    where = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    try:
        _make_private(api, repository, kind, where)
        api.upload_folder(
            repo_id=repository,
            repo_type=kind,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message="prefdistill export",
        )
    except HfHubHTTPError as problem:
        status = getattr(problem.response, "status_code", None)
        remedy = "use a token that may write there" if status in (401, 403) else "try again later"
        raise RunError(
            f"{where}: the hub refused the upload ({_first_line(problem)}); {remedy}; the export stays in {folder}"
        ) from None
    except OSError as problem:
        raise RunError(
            f"{where}: cannot be reached ({_first_line(problem)}); check the network and HF_ENDPOINT, then run the same "
            f"command again; the export stays in {folder}"
        ) from None
    except Exception as problem:
        # The hub's HTTP library has a family of errors of its own for servers that cannot be reached.
        if not type(problem).__module__.startswith(("httpx", "httpcore")):
            raise
        raise RunError(
            f"{where}: cannot be reached ({_first_line(problem)}); check the network and HF_ENDPOINT, then run the same "
            f"command again; the export stays in {folder}"
        ) from None
    return where


def _make_private(api: Any, repository: str, kind: str, where: str) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.repo_info(repository, repo_type=kind)
    except RepositoryNotFoundError:
        api.create_repo(repository, repo_type=kind, private=True)
        info = api.repo_info(repository, repo_type=kind)
    if not info.private:
        raise RunError(
            f"{where}: the repository is public; prefdistill uploads into private ones only: make it private in its "
            "settings, or choose another name"
        )


def _first_line(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0] if lines else type(problem).__name__


def preview_rows(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return lines that show the first rows of the pairs, safe for a terminal."""
    lines = [f"{len(rows)} pairs with their texts; the first {min(SHOWN_ROWS, len(rows))}:"]
    for row in rows[:SHOWN_ROWS]:
        lines += ["", f"  prompt    {_safe(row['prompt'][-1]['content'])}"]
        lines += [f"  {name:9} {_safe(row[name][-1]['content'])}" for name in ("chosen", "rejected")]
    return [*lines, ""]


def _safe(text: str) -> str:
    """Return a text on one line, cut, without characters that move a terminal's cursor or hide themselves."""
    line = " ".join(text.split())
    cut = line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}…"
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in cut)
