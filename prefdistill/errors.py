"""Every error a user can cause, in one shape: where, what was found, what was expected, what to do.

The command line prints a `PrefdistillError` without a traceback and exits with its `exit_code`;
any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PrefdistillError(Exception):
    """A mistake that the person at the keyboard can mend."""

    exit_code = 2


class RecipeError(PrefdistillError):
    """The recipe, an override or the prompts file cannot be used as written."""


class RubricError(PrefdistillError):
    """A rubric cannot be used as written."""


class PluginError(PrefdistillError):
    """A `use:` name cannot be resolved, or the plug-in breaks its contract."""


class RunError(PrefdistillError):
    """A run folder cannot be continued as it stands."""


class SampleError(PrefdistillError):
    """The student or a server cannot write drafts."""


class JudgeError(PrefdistillError):
    """A judge cannot judge; raised inside a judge it fails that prompt's group, and only that group."""


class TrainError(PrefdistillError):
    """Training cannot start, or would be silently wrong."""


class BudgetError(PrefdistillError):
    """The paid budget is reached; what was paid for is on disk and the run can go on later."""

    exit_code = 3


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Say which known name is nearest, as `; did you mean `x`?`, or nothing when none is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""
