"""What replies that were paid for have shown: tokens a call, calls a prompt and the length of drafts.

Read from the rows of a run folder, this one or another with the same judge and teacher, so that an estimate need not
guess what is known already.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from prefdistill.recipe import Recipe
from prefdistill.records import SETTLED_KINDS, Usage
from prefdistill.run import RunDirectory

Role = Literal["verdicts", "held-out", "gold"]
"""Which judge: the names of the files that hold its verdicts."""
Kind = Literal["score", "compare"]

FEWEST_CALLS = 10
"""Calls below which a mean is no better than an assumption."""
MOST_ROWS = 2000
"""Rows read of one file."""


@dataclass(frozen=True)
class Tokens:
    """Mean tokens of one call."""

    calls: int
    prompt: float
    completion: float


@dataclass(frozen=True)
class Measured:
    """What a run folder's paid replies have shown; empty where nothing is known."""

    source: Path | None = None
    tokens: Mapping[tuple[Role, Kind], Tokens] = field(default_factory=dict)
    calls_a_prompt: float | None = None
    """Replies (from the request cache too) that judging a prompt's training drafts took."""
    draft_tokens: float | None = None
    """Mean tokens of the student's training drafts."""
    teacher_tokens: float | None = None
    """Mean tokens of the teacher's drafts."""
    reasoned_tokens: float | None = None
    """The same of those with reasoning in front of the answer, which counts too."""

    @property
    def calls(self) -> int:
        """Calls that the means are over."""
        return sum(each.calls for each in self.tokens.values())


def measured_before(recipe: Recipe, run: RunDirectory | None) -> Measured:
    """Return what the run's own folder shows, else the newest other run beside it with the same judge and teacher."""
    beside = Path("runs") if run is None else run.path.parent
    others = [path for path in beside.glob("*/manifest.json") if run is None or path.parent != run.path]
    newest = sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in [*([run.path] if run is not None else []), *(path.parent for path in newest[:20])]:
        if _is_alike(folder, recipe):
            found = measure_folder(folder)
            if found.calls >= FEWEST_CALLS:
                return found
    return Measured()


def measure_folder(folder: Path) -> Measured:
    """Return what the verdicts and drafts in a run folder show."""
    sums: dict[tuple[Role, Kind], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    roles: tuple[Role, ...] = ("verdicts", "held-out", "gold")
    for role in roles:
        for row in _rows(folder, f"*{role}.jsonl"):
            _add(sums, role, row)
    judge: Role = "held-out" if ("held-out", "score") in sums else "verdicts"
    for row in _rows(folder, "*preferences-*.jsonl"):
        _add(sums, judge, row)
    asked = [_replies(row) for row in _rows(folder, "2-verdicts.jsonl")]
    drafts = list(_rows(folder, "1-drafts.jsonl"))
    plain = [row for row in drafts if not row.get("trace")]
    return Measured(
        source=folder,
        tokens={key: Tokens(int(n), prompt / n, completion / n) for key, (n, prompt, completion) in sums.items() if n},
        calls_a_prompt=sum(asked) / len(asked) if asked and sum(asked) else None,
        draft_tokens=_mean_tokens(drafts, "student"),
        teacher_tokens=_mean_tokens([*plain, *_rows(folder, "teacher-*-drafts.jsonl")], "teacher"),
        reasoned_tokens=_mean_tokens([row for row in drafts if row.get("trace")], "teacher"),
    )


def done_prompts(path: Path) -> set[str]:
    """Return the prompts whose verdict stands in a file and is not owed again."""
    return {
        row["prompt_id"]
        for row in _lines(path)
        if "prompt_id" in row and all(failure.get("kind") in SETTLED_KINDS for failure in row.get("failures", ()))
    }


def drafts_present(path: Path, source: str) -> Mapping[str, int]:
    """Return how many drafts of a source each prompt has in a file."""
    counts: dict[str, int] = defaultdict(int)
    for row in _lines(path):
        if row.get("source") == source and "prompt_id" in row:
            counts[row["prompt_id"]] += 1
    return counts


def spent_before(ledger: Path) -> Usage:
    """Return what a run's ledger charges so far, read only; its tokens are all given as prompt tokens."""
    last = {str(row.get("id")): row.get("usage") or {} for row in _lines(ledger)}
    names = ("calls", "prompt_tokens", "completion_tokens", "usd")
    calls, prompt, completion, usd = (sum(usage.get(name, 0) for usage in last.values()) for name in names)
    return Usage(calls=calls, prompt_tokens=prompt + completion, usd=usd)


def _is_alike(folder: Path, recipe: Recipe) -> bool:
    """Whether a run's judge, teacher and number of drafts are the recipe's."""
    try:
        old = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["recipe"]
        new = recipe.resolved()
        same = all(_essence(old.get(key)) == _essence(new.get(key)) for key in ("judge", "teacher"))
        return bool(same and old["sample"]["drafts"] == new["sample"]["drafts"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no run, or another version's
        return False


def _essence(plugin: Any) -> Any:
    """Return a plug-in's options without those that only say where and how fast."""
    if not isinstance(plugin, Mapping):
        return plugin
    kept = ("use", "model", "teacher", "panel", "reason", "calls", "confirm", "scoring", "samples", "scheme")
    return {key: _essence(value) for key, value in plugin.items() if key in kept}


def _rows(folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob(pattern)):
        if "replaced" not in path.relative_to(folder).parts:
            yield from islice(_lines(path), MOST_ROWS)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a file's rows; a line that cannot be read, such as a torn last one, counts as absent."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


def _add(sums: dict[tuple[Role, Kind], list[float]], role: Role, row: Mapping[str, Any]) -> None:
    parts: tuple[tuple[Kind, str], ...] = (("score", "judgements"), ("compare", "preferences"))
    for kind, name in parts:
        for each in row.get(name, ()):
            usage = each.get("usage") or {}
            if usage.get("calls") and usage.get("prompt_tokens"):
                for index, key in enumerate(("calls", "prompt_tokens", "completion_tokens")):
                    sums[role, kind][index] += usage.get(key, 0)


def _replies(row: Mapping[str, Any]) -> int:
    rows = [*row.get("judgements", ()), *row.get("preferences", ()), *row.get("failures", ())]
    usages = [each.get("usage") or {} for each in rows]
    return sum(usage.get("calls", 0) + usage.get("cached", 0) for usage in usages)


def _mean_tokens(drafts: list[dict[str, Any]], source: str) -> float | None:
    tokens = [row["tokens"] for row in drafts if row.get("source") == source and row.get("tokens")]
    return sum(tokens) / len(tokens) if tokens else None
