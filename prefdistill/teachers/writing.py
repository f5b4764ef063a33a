"""What teachers that also write have in common: a system prompt of their own, in a file beside the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationInfo, field_validator

from prefdistill.plugins import Plugin
from prefdistill.records import digest


class WritingTeacher(Plugin):
    """A teacher with a system prompt for writing; judging has prompts of its own."""

    system: Path | None = None
    """A text file with the teacher's system prompt for writing; judging has prompts of its own."""

    @field_validator("system")
    @classmethod
    def _beside_the_recipe(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is None:
            return None
        full = ((info.context or {}).get("directory", Path.cwd()) / path.expanduser()).resolve()
        if not full.is_file():
            raise ValueError(f"no such file: {full}; expected the teacher's system prompt as a text file")
        return full

    def system_text(self) -> str | None:
        """Return the system prompt for writing."""
        return None if self.system is None else self.system.read_text(encoding="utf-8").strip()

    def identity(self) -> dict[str, Any]:
        """Return what replies depend on: the system prompt's text rather than its path."""
        identity = super().identity()
        if self.system is not None:
            identity["system"] = digest(self.system_text())
        return identity
