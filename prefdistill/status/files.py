"""Files of a run folder read as they are: torn, damaged, or of another version, and while another process writes them.

Nothing here raises for what a file holds: what cannot be read is noted as damage and counts as absent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prefdistill.records import RoundResult

Rows = dict[str, dict[str, Any]]


@dataclass
class Files:
    """The files of one run folder, and what is wrong with them."""

    folder: Path
    damage: list[str] = field(default_factory=list)

    def json(self, path: Path) -> dict[str, Any]:
        """Return the object that a JSON file holds; empty where there is none."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as problem:
            self._note(path, f"cannot be read ({problem}); restore it, or remove it: it is then made again")
            return {}
        if isinstance(found, dict):
            return found
        self._note(path, "holds no object; restore it, or remove it: it is then made again")
        return {}

    def rows(self, path: Path, *keys: str) -> Rows:
        """Return a JSONL file's rows by the first of `keys` that they have, the last of equal ones winning.

        A torn last line is left out without a word: the next append cuts it off, and its row is made again.
        """
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        except OSError as problem:
            self._note(path, f"cannot be read ({problem.strerror or problem})")
            return {}
        rows: Rows = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                rows[next(str(row[key]) for key in keys if key in row)] = row
            except (ValueError, TypeError, StopIteration):
                if number < len(lines):
                    self._note(path, f"line {number} is no row; restore it, or remove it: it is then made again")
        return rows

    def recipe(self, path: Path) -> dict[str, Any]:
        """Return the run's recipe as plain data; empty where there is none."""
        from prefdistill.documents import load_document
        from prefdistill.errors import RecipeError

        if not path.exists():
            return {}
        try:
            return load_document(path, RecipeError).data
        except RecipeError as problem:
            self.damage.append(str(problem))
            return {}

    def result(self, path: Path) -> RoundResult | None:
        """Return a round's result; None where there is none that this version can read."""
        found = self.json(path)
        if not found:
            return None
        try:
            return RoundResult.model_validate(found)
        except ValidationError as problem:
            wrong = problem.errors()[0]["msg"]
            self._note(path, f"no result that this version reads ({wrong}); the best so far is told without it")
            return None

    def _note(self, path: Path, text: str) -> None:
        self.damage.append(f"{path.relative_to(self.folder)}: {text}")


def at(data: Any, dotted: str, default: Any = None) -> Any:
    """Return the value under a dotted key, `default` where it, or a section on the way, is not there."""
    for part in dotted.split("."):
        if not isinstance(data, dict) or part not in data:
            return default
        data = data[part]
    return data


def number_at(data: Any, dotted: str) -> float | None:
    """Return the number under a dotted key; None where there is none."""
    found = at(data, dotted)
    return found if isinstance(found, (int, float)) and not isinstance(found, bool) else None


def dicts_at(data: Any, dotted: str) -> list[dict[str, Any]]:
    """Return the objects in a list under a dotted key."""
    found = at(data, dotted)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
