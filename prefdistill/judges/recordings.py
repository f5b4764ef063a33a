"""Verdicts that were given before, looked up by prompt and draft: rows of a JSONL file, or a run's own verdicts.

A row is one of these; a file may mix them:

    {"prompt_id": "p1", "first": "gpt4", "second": "bard", "winner": "first"}
    {"prompt": "…", "first": "…", "second": "…", "probability": 0.8}
    {"prompt_id": "p1", "draft": "gpt4", "value": 7.5}
    {"prompt_id": "p1", "draft": "gpt4", "criterion": "tone", "level": "fitting"}

and a run's Verdict rows. A prompt is named by its id, by the user's own `id` or by its text; a draft by its id, by the
model that wrote it (its source is `file:NAME`) or by its text. `first` is what the judge was shown first. `winner` is
first, second or tie; null, -1 or "-" is a verdict that could not be read. Equal rows are repeats of the same question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from prefdistill.errors import JudgeError
from prefdistill.jsonl import explained, read_jsonl
from prefdistill.records import (
    Draft,
    Failure,
    Judgement,
    Preference,
    Prompt,
    Record,
    Unit,
    Usage,
    Verdict,
)
from prefdistill.run import RowFile

UNREAD = (-1, "-", "-1", "")
"""What stands for a verdict that could not be read, beside null."""
PROBABILITY = {"first": 1.0, "second": 0.0, "tie": 0.5}
WHAT = 'recorded verdicts in JSONL, such as {"prompt_id": "…", "first": "…", "second": "…", "winner": "first"}'


class RecordedRow(Record):
    """What each row of a file has."""

    prompt_id: str | None = None
    """The prompt's id, or the user's own."""
    prompt: str | None = None
    """The prompt's text, instead of its id."""
    judge: str | None = None
    """Who judged."""
    reason: str = ""

    @model_validator(mode="after")
    def _names_its_prompt(self) -> Self:
        if not self.prompt_id and not self.prompt:
            raise ValueError("no prompt_id and no prompt; add one")
        return self

    @property
    def key(self) -> str:
        """What the row calls its prompt."""
        return self.prompt_id or (self.prompt or "").strip()


class ComparisonRow(RecordedRow):
    """One comparison, in the order shown."""

    first: str
    second: str
    winner: Literal["first", "second", "tie"] | None = None
    """None is a verdict that could not be read."""
    probability: Unit | None = None
    """Probability that the first shown is better, instead of a winner."""

    @model_validator(mode="before")
    @classmethod
    def _winner_or_probability(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        if ("winner" in data) == ("probability" in data):
            raise ValueError("expected one of winner (first, second, tie, null) and probability (0 to 1)")
        return {**data, "winner": None} if data.get("winner") in UNREAD and "winner" in data else data

    @property
    def says(self) -> float | None:
        """The probability that the first shown is better; None where it could not be read."""
        return PROBABILITY[self.winner] if self.winner is not None else self.probability


class ScoreRow(RecordedRow):
    """One draft's score: a number of the judge's own, or the level of one criterion."""

    draft: str
    value: float | None = Field(default=None, allow_inf_nan=False)
    criterion: str | None = None
    level: str | None = None
    """None, with a criterion, is an answer that could not be read."""

    @model_validator(mode="before")
    @classmethod
    def _value_or_level(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        if ("value" in data) == ("criterion" in data):
            raise ValueError("expected one of value (a number or null) and criterion (with its level or null)")
        return {**data, "level": None} if data.get("level") in UNREAD and "level" in data else data


@dataclass
class Told:
    """What is recorded on one prompt, under the names that the file uses."""

    comparisons: dict[tuple[str, str], list[ComparisonRow | Preference | Failure]] = field(
        default_factory=lambda: defaultdict(list)
    )
    scores: dict[str, list[ScoreRow | Judgement | Failure]] = field(default_factory=lambda: defaultdict(list))
    ids_by_text: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Ids of the run's drafts that have a text."""
    from_run: bool = False
    """Whether these are a run's own verdicts, in which nothing is missing that was not asked."""


@dataclass(frozen=True)
class Recordings:
    """All that a file or a run recorded."""

    path: Path
    prompts: Mapping[str, Told]
    """By every name of the prompt."""
    usage: Usage = field(default_factory=Usage)
    """What it cost when it was asked; known for a run only."""

    def of(self, prompt: Prompt) -> Told:
        """Return what is recorded on a prompt; empty where nothing is."""
        own = (tag.removeprefix("id:") for tag in prompt.tags if tag.startswith("id:"))
        for name in (prompt.id, *own, prompt.text.strip()):
            if name in self.prompts:
                return self.prompts[name]
        return Told()


def names_of(draft: Draft, told: Told) -> list[str]:
    """Return what a draft may be called, the surest name first."""
    source = draft.source.removeprefix("file:")
    text = draft.completion.strip()
    return list(dict.fromkeys((draft.id, source, text, *told.ids_by_text.get(text, ()))))


def load_recordings(path: Path, judge: str | None = None) -> Recordings:
    """Read a file of recorded verdicts, or the training judge's verdicts of a run folder.

    Args:
        judge: take only what this judge said; None takes everything.

    Raises:
        JudgeError: the file cannot be read, a row is bad, or nothing is recorded (by that judge).
    """
    prompts: dict[str, Told] = defaultdict(Told)
    spent = Usage()
    if path.is_dir():
        for verdict in _run_verdicts(path):
            _add_verdict(prompts[verdict.prompt_id], verdict, judge)
            spent = spent + verdict.usage
        _name_run_texts(path, prompts)
    else:
        for row in read_jsonl(path, parse_row, JudgeError, WHAT):
            if isinstance(row, Verdict):
                _add_verdict(prompts[row.prompt_id], row, judge)
                spent = spent + row.usage
            elif judge is None or row.judge == judge:
                told = prompts[row.key]
                if isinstance(row, ComparisonRow):
                    told.comparisons[row.first.strip(), row.second.strip()].append(row)
                elif isinstance(row, ScoreRow):
                    told.scores[row.draft.strip()].append(row)
    if not any(told.comparisons or told.scores for told in prompts.values()):
        of_judge = f" by the judge `{judge}`" if judge else ""
        raise JudgeError(
            f"{path}: no verdict{of_judge} is recorded here; expected {WHAT}, or a run folder with verdicts"
        )
    return Recordings(path, dict(prompts), spent)


def parse_row(data: dict[str, Any]) -> RecordedRow | Verdict:
    """Read one row.

    Raises:
        ValueError: it is none that is known; the message says what was found and expected.
    """
    kind: type[ComparisonRow | ScoreRow | Verdict]
    if {"judgements", "preferences", "failures"} & set(data):
        kind = Verdict
    elif {"first", "second"} & set(data):
        kind = ComparisonRow
    elif "draft" in data:
        kind = ScoreRow
    else:
        raise ValueError(
            f"found the keys {', '.join(data) or 'none'}; expected a comparison (with `first` and `second`), a score "
            "(with `draft`) or a run's Verdict row"
        )
    try:
        return kind.model_validate(data)
    except ValidationError as problem:
        raise ValueError(explained(problem, kind)) from None


def _add_verdict(told: Told, verdict: Verdict, judge: str | None) -> None:
    """File a run's own verdict under the drafts' ids; what it cost has been paid."""
    told.from_run = True
    for preference in verdict.preferences:
        if judge is None or preference.judge == judge:
            told.comparisons[preference.first_id, preference.second_id].append(preference)
    for judgement in verdict.judgements:
        if judge is None or judgement.judge == judge:
            told.scores[judgement.draft_id].append(judgement)
    for failure in verdict.failures:
        first, bar, second = failure.key.partition("|")
        if bar:
            told.comparisons[first, second].append(failure)
        else:
            told.scores[first].append(failure)


def _run_verdicts(run: Path) -> Iterator[Verdict]:
    """Yield the training judge's verdicts of a run, those that were set aside left out."""
    for pattern in ("*verdicts.jsonl", "*preferences-*.jsonl"):
        for path in _run_files(run, pattern):
            yield from RowFile(path, Verdict).read().values()


def _name_run_texts(run: Path, prompts: dict[str, Told]) -> None:
    """Let prompts and drafts of a run be found by their texts too."""
    for draft in load_run_drafts(run).values():
        prompts[draft.prompt_id].ids_by_text[draft.completion.strip()].append(draft.id)
    for prompt in RowFile(run / "prompts.jsonl", Prompt).read().values():
        if prompt.id in prompts:
            prompts.setdefault(prompt.text.strip(), prompts[prompt.id])


def load_run_drafts(run: Path) -> dict[str, Draft]:
    """Return every draft of a run by its id."""
    drafts: dict[str, Draft] = {}
    for path in _run_files(run, "*drafts.jsonl"):
        drafts |= RowFile(path, Draft).read()
    return drafts


def _run_files(run: Path, pattern: str) -> Sequence[Path]:
    return sorted(path for path in run.rglob(pattern) if "replaced" not in path.relative_to(run).parts)
