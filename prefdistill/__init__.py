"""prefdistill: preference distillation for writing assistants.

Public names are resolved on first use (PEP 562), so that `import prefdistill` loads no heavy library.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from prefdistill.errors import JudgeError, PrefdistillError
    from prefdistill.plugins import Plugin
    from prefdistill.records import (
        CheckScore,
        CriterionScore,
        Draft,
        Failure,
        Judgement,
        Message,
        Preference,
        PreferencePair,
        Prompt,
        Verdict,
    )
    from prefdistill.rewards import reward_function
    from prefdistill.rubric import Rubric, load_rubric

_HOMES = {
    "CheckScore": "records",
    "CriterionScore": "records",
    "Draft": "records",
    "Failure": "records",
    "Judgement": "records",
    "Message": "records",
    "Preference": "records",
    "PreferencePair": "records",
    "Prompt": "records",
    "Verdict": "records",
    "JudgeError": "errors",
    "PrefdistillError": "errors",
    "Plugin": "plugins",
    "Rubric": "rubric",
    "load_rubric": "rubric",
    "load_recipe": "recipe",
    "run_recipe": "loop",
    "reward_function": "rewards",
}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prefdistill' has no attribute '{name}'")
    return getattr(importlib.import_module(f"prefdistill.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
