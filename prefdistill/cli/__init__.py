"""The command line: one thin command each. Heavy libraries are imported inside the commands, never here.

A module a group of `--help`; the order of the imports is the order of the groups.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from prefdistill.cli import running, judging, shipping, planning, tidying  # isort: skip
from prefdistill.cli.app import app
from prefdistill.errors import PrefdistillError

__all__ = ["app", "judging", "main", "planning", "running", "shipping", "tidying"]

INTERRUPTED = 130
"""The exit code after Ctrl-C."""


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
