"""What a run folder shows that a plan needs: tokens, money, scores, shares and waiting times, each with where it is from.

Place in the flow: below `plan --from`. It reads records that the run wrote and computes nothing that would need a model,
a key or the network. What the run did not record is left out, or counted from characters and called so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from prefdistill.costs.questions import CHARACTERS_A_TOKEN, is_paid
from prefdistill.finished import FinishedRun
from prefdistill.recipe import Recipe
from prefdistill.records import Draft, Prompt, Usage, Verdict
from prefdistill.run import RunDirectory
from prefdistill.served import read_served

FEWEST = 2
"""Values below which a spread is not told."""


@dataclass(frozen=True)
class Seen:
    """One number with where it is from."""

    value: float
    where: str


class Observed:
    """A run folder's records, read as far as they are asked for."""

    def __init__(self, run: RunDirectory, recipe: Recipe, finished: FinishedRun | None) -> None:
        self.run = run
        self.recipe = recipe
        self.finished = finished
        self.name = run.path.resolve().name
        self.said = f"run {self.name}"

    @property
    def trained(self) -> bool:
        """Whether the kept policy is another than the base, so that comparing the two says something."""
        return self.finished is not None and self.finished.kept > 0

    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        """The run's prompts; forgotten ones are left out."""
        rows = self.run.rows(self.run.path, "prompts.jsonl", Prompt).read()
        return {key: each for key, each in rows.items() if "forgotten" not in each.tags}

    @cached_property
    def drafts(self) -> tuple[Draft, ...]:
        """All drafts that the run wrote, by whomever."""
        return tuple(draft for path in self._files("*drafts.jsonl") for draft in self._read(path, Draft))

    @cached_property
    def verdicts(self) -> dict[Path, tuple[Verdict, ...]]:
        """Every file of verdicts."""
        names = ("*verdicts.jsonl", "*held-out.jsonl", "*gold.jsonl", "*preferences-*.jsonl")
        return {path: tuple(self._read(path, Verdict)) for name in names for path in self._files(name)}

    def tokens_in(self) -> Seen | None:
        """Return the prompt tokens of a request to the teacher: as it was billed, else counted from characters."""
        billed = self._billed_writing()
        if billed is not None:
            return Seen(
                billed.prompt_tokens / billed.calls, f"{self.said}: mean of {billed.calls:,} answers it was paid for"
            )
        system = getattr(self.recipe.teacher, "system_text", lambda: None)() or ""
        lengths = [
            sum(len(each.content) for each in prompt.messages if each.role != "system" or not system) + len(system)
            for prompt in self.prompts.values()
        ]
        if not lengths:
            return None
        ratio, said = self._characters_a_token
        return Seen(fmean(lengths) / ratio, f"{self.said}: {len(lengths):,} prompts, {said}")

    def tokens_out(self) -> Seen | None:
        """Return the completion tokens of a teacher's answer, as it counted them, else counted from characters."""
        written = [draft for draft in self.drafts if draft.source == "teacher"]
        counted = [draft.tokens for draft in written if draft.tokens]
        if counted:
            return Seen(fmean(counted), f"{self.said}: mean of {len(counted):,} answers of the teacher")
        if not written:
            return None
        ratio, said = self._characters_a_token
        mean = fmean(len(draft.completion) for draft in written) / ratio
        return Seen(mean, f"{self.said}: {len(written):,} answers of the teacher, {said}")

    def draft_tokens(self) -> Seen | None:
        """Return the tokens of a draft of the student."""
        tokens = [draft.tokens for draft in self.drafts if draft.source == "student" and draft.tokens]
        return Seen(fmean(tokens), f"{self.said}: mean of {len(tokens):,} drafts") if tokens else None

    def judging(self) -> tuple[Usage, int] | None:
        """Return what the drafts of the evaluation judge cost, as if none had come from the request cache, and how many.

        The usage is of all drafts together; None where that judge was not paid, or nothing was asked anew.
        """
        role = "held-out" if self.recipe.held_out_judge is not None else "verdicts"
        rows = [each for path, found in self.verdicts.items() if path.name.endswith(f"{role}.jsonl") for each in found]
        usages = [each.usage for row in rows for each in row.judgements]
        drafts = len({each.draft_id for row in rows for each in row.judgements})
        replies = sum(each.calls + each.cached for each in usages)
        paid = sum(usages, Usage())
        if not paid.calls or not drafts:
            return None
        more = replies / paid.calls
        scaled = paid.model_copy(
            update={
                "calls": replies,
                "prompt_tokens": round(paid.prompt_tokens * more),
                "completion_tokens": round(paid.completion_tokens * more),
                "usd": paid.usd * more,
            }
        )
        return scaled, drafts

    def spent_usd(self) -> float | None:
        """Return what all paid calls of the run cost; None where a model has no price, or the run is not finished."""
        if self.finished is None:
            return None
        found = self.finished.result.get("cost", {}).get("charged_usd")
        return float(found) if isinstance(found, (int, float)) else None

    def score_deviation(self) -> Seen | None:
        """Return the standard deviation over test prompts of the kept policy's score less the base's."""
        rows = self.finished.comparisons.get("base", {}).values() if self.finished and self.trained else ()
        gains = [
            each.score - each.baseline_score
            for each in rows
            if each.score is not None and each.baseline_score is not None
        ]
        if len(gains) < FEWEST:
            return None
        return Seen(stdev(gains), f"{self.said}: {len(gains):,} test prompts, kept policy against base")

    def ties(self) -> Seen | None:
        """Return the share of test comparisons with the base that ended in a tie."""
        if self.finished is None or not self.trained:
            return None
        test = self.finished.result["test"]
        counts = [test.get(name) or 0 for name in ("wins", "losses", "ties")]
        return Seen(counts[2] / sum(counts), f"{self.said}: {sum(counts):,} test comparisons") if sum(counts) else None

    def judge_accuracy(self) -> Seen | None:
        """Return how often the judge decides as people do, where `agreement` measured it."""
        path, _ = self.run.agreement
        found = _json(path).get("figures")
        figure = found.get("accuracy") if isinstance(found, Mapping) else None
        if not isinstance(figure, Mapping):
            return None
        value, count = figure.get("value"), figure.get("n")
        if not isinstance(value, (int, float)) or not 0.5 < value <= 1 or not isinstance(count, int):
            return None
        return Seen(float(value), f"{self.said}: {path.name}, {count:,} pairs")

    def fallback(self) -> dict[str, Any]:
        """Return what `serve` calibrated; empty where it has not."""
        return _json(self.run.path / "calibration.json")

    def live(self) -> dict[str, float]:
        """Return how many requests were served, by whom, and within which time 95 of 100 had a first token and an end.

        Those that the teacher answered because the student was down are left out.
        """
        path = self.run.path / "served.jsonl"
        answered, first, whole = 0, [], []
        for row in read_served([path]) if path.is_file() else ():
            if row.route != "none" and row.reason != "student_down":  # an outage says nothing of what falls back
                answered += row.route == "teacher"
                whole.append(row.seconds)
                first += [] if row.first_token_seconds is None else [row.first_token_seconds]
        if not whole:
            return {}
        found: dict[str, float] = {"served": len(whole), "fallback_share": answered / len(whole)}
        for name, values in (("first_token_seconds", first), ("reply_seconds", whole)):
            if values and max(values) > 0:
                found[name] = sorted(values)[math.ceil(0.95 * len(values)) - 1]
        return found

    def _billed_writing(self) -> Usage | None:
        """Return what the teacher's answers were billed: the ledger less all judging, where that fits the drafts.

        Drafts do not hold their prompt tokens. The ledger holds every call's, and verdicts hold those of judging; what is
        left is the writing, if its completion tokens are those of the drafts.
        """
        written = [draft.tokens for draft in self.drafts if draft.source == "teacher" and draft.tokens]
        if not written or is_paid(self.recipe.sample.sampler):
            return None
        ledger = sum(self._ledger(), Usage())
        judged = sum((row.usage for rows in self.verdicts.values() for row in rows), Usage())
        calls, prompt, completion = (
            getattr(ledger, name) - getattr(judged, name) for name in ("calls", "prompt_tokens", "completion_tokens")
        )
        if calls != len(written) or completion != sum(written) or prompt <= 0:
            return None
        return Usage(calls=calls, prompt_tokens=prompt, completion_tokens=completion)

    def _ledger(self) -> Iterator[Usage]:
        last = {str(row.get("id")): row for row in _lines(self.run.path / "spending.jsonl")}
        for row in last.values():
            if row.get("state") == "settled":
                yield Usage.model_validate(row.get("usage") or {})

    @cached_property
    def _characters_a_token(self) -> tuple[float, str]:
        """Return how many characters a token has in the student's drafts, and how that is said."""
        drafts = [draft for draft in self.drafts if draft.policy is not None and draft.tokens and draft.completion]
        if not drafts:
            return CHARACTERS_A_TOKEN, f"characters / {CHARACTERS_A_TOKEN:g}"
        ratio = sum(len(draft.written) for draft in drafts) / sum(draft.tokens or 0 for draft in drafts)
        return ratio, f"counted in the student's tokens: characters / {ratio:.1f}, as in its drafts"

    def _files(self, pattern: str) -> Iterable[Path]:
        found = sorted(self.run.path.rglob(pattern))
        return [path for path in found if "replaced" not in path.relative_to(self.run.path).parts]

    def _read(self, path: Path, kind: Any) -> Sequence[Any]:
        return tuple(self.run.rows(path.parent, path.name, kind).read().values())


def _json(path: Path) -> dict[str, Any]:
    """Return an object from a file; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # a torn last line
                continue
            if isinstance(row, dict):
                yield row
