"""Judge `recorded`: verdicts that were given before, from a file or a run, played back without a call.

They go the way of any other judge's: levels, values and comparisons become one Verdict a prompt; the rubric's checks
are applied anew. What could not be read, or is not there, is a Failure and never a tie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PrivateAttr, ValidationInfo, field_validator

from prefdistill.errors import PluginError
from prefdistill.judges.checks import checked_scores
from prefdistill.judges.recordings import (
    ComparisonRow,
    Recordings,
    ScoreRow,
    Told,
    load_recordings,
    names_of,
)
from prefdistill.plugins import Plugin
from prefdistill.protocols import RunContext
from prefdistill.records import CriterionScore, Draft, Failure, Judgement, Preference, Prompt, Usage, Verdict, digest
from prefdistill.rubric import Rubric
from prefdistill.selection import compare as compared_in_both_orders
from prefdistill.tournament import Pair, Scheme, run_scheme


class RecordedJudge(Plugin):
    """Plays back verdicts from a JSONL file, or those of another run."""

    scores_alone: ClassVar[bool] = False
    """New drafts are on no record: validation and test drafts need `evaluate.judge`."""

    path: Path
    """A JSONL file of comparisons, scores or Verdict rows, or a run folder; relative to the recipe."""
    scheme: Scheme = "round_robin"
    """Which comparisons are looked up where a file holds comparisons alone: round_robin, anchor or swiss."""
    rounds: int = 3
    """Rounds of a Swiss tournament."""
    scale: Literal["custom", "rubric"] = "custom"
    """The scale of recorded values: custom needs pair.min_margin; rubric says that they are 0 to 1."""
    only_judge: str | None = None
    """Take only the rows whose `judge` is this."""

    _recordings: Recordings | None = PrivateAttr(default=None)

    @field_validator("path")
    @classmethod
    def _beside_the_recipe(cls, path: Path, info: ValidationInfo) -> Path:
        full = (Path((info.context or {}).get("directory", Path.cwd())) / path.expanduser()).resolve()
        if not full.exists():
            raise ValueError(f"{full} does not exist; expected a JSONL file of recorded verdicts, or a run folder")
        return full

    def open(self, context: RunContext) -> None:
        """Read the recorded verdicts.

        Raises:
            JudgeError: they cannot be read.
        """
        self._recordings = load_recordings(self.path, self.only_judge)

    def identity(self) -> dict[str, Any]:
        """Return what verdicts depend on: the recorded ones."""
        files = sorted(self.path.rglob("*.jsonl")) if self.path.is_dir() else [self.path]
        return {**super().identity(), "path": digest([each.read_text(encoding="utf-8") for each in files])}

    @property
    def recordings(self) -> Recordings:
        """What was read.

        Raises:
            PluginError: the judge was not opened.
        """
        if self._recordings is None:
            raise PluginError(f"judge {self.name}: asked before it was opened")
        return self._recordings

    @property
    def name(self) -> str:
        """What the judge is called in its verdicts."""
        return self._use or "recorded"

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        """Return what is recorded on these drafts; a draft on which nothing is recorded is a failure."""
        told = self.recordings.of(prompt)
        names = {draft.id: names_of(draft, told) for draft in drafts}
        given = {draft.id: _first_told(told.scores, names[draft.id]) for draft in drafts}
        scored = [each for draft in drafts for each in self._scored(prompt, draft, rubric, given[draft.id])]
        judgements = tuple(each for each in scored if isinstance(each, Judgement))
        compared = self._compared(drafts, told, names, confirms=told.from_run or bool(judgements))
        preferences = tuple(each for each in compared if isinstance(each, Preference))
        verdict = Verdict(
            prompt_id=prompt.id,
            judgements=judgements,
            preferences=preferences,
            failures=tuple(each for each in (*scored, *compared) if isinstance(each, Failure)),
        )
        alone = _with_gates if preferences and not judgements else _unscored
        return alone(self.name, prompt, drafts, rubric, verdict)

    def _scored(
        self,
        prompt: Prompt,
        draft: Draft,
        rubric: Rubric,
        given: Sequence[ScoreRow | Judgement | Failure],
    ) -> list[Judgement | Failure]:
        """Return one draft's recorded judgements, whole or as failures."""
        played: list[Judgement | Failure] = []
        for each in given:
            if isinstance(each, Judgement):
                played.append(each.model_copy(update={"draft_id": draft.id, "usage": Usage()}))
            elif isinstance(each, Failure):
                played.append(each.model_copy(update={"key": draft.id, "usage": Usage()}))
        rows = [each for each in given if isinstance(each, ScoreRow)]
        values = [each for each in rows if each.criterion is None]
        for row in values:
            played.append(self._value(draft, row))
        if levels := [each for each in rows if each.criterion is not None]:
            played.append(self._levels(prompt, draft, rubric, levels))
        return played

    def _value(self, draft: Draft, row: ScoreRow) -> Judgement | Failure:
        if row.value is None:
            return _failure(draft.id, "parse", "the recorded value could not be read")
        if self.scale == "rubric" and not 0 <= row.value <= 1:
            return _failure(draft.id, "parse", f"the recorded value is {row.value:g}; expected 0 to 1 (scale: rubric)")
        return Judgement(draft_id=draft.id, judge=row.judge or self.name, value=row.value, scale=self.scale)

    def _levels(self, prompt: Prompt, draft: Draft, rubric: Rubric, rows: Sequence[ScoreRow]) -> Judgement | Failure:
        """Return a judgement of all criteria: recorded levels where asked, checks anew; rows that differ say nothing."""
        scores = {each.criterion: each for each in checked_scores(prompt, draft, rubric)}
        told: dict[str | None, ScoreRow] = {}
        for one in rows:
            before = told.setdefault(one.criterion, one)
            if (before.level or "").casefold() != (one.level or "").casefold():
                message = (
                    f"two levels of {one.criterion} are recorded, `{before.level}` and `{one.level}`; expected one"
                )
                return _failure(draft.id, "parse", message)
        for each in rubric.asked:
            row = told.get(each.name)
            if not each.applies_to(prompt):
                scores[each.name] = CriterionScore(criterion=each.name, applies=False, path="checked")
                continue
            if row is None:
                return _failure(draft.id, "empty", f"no level of {each.name} is recorded")
            menu = {level.strip().casefold(): level for level in each.levels or ()}
            level = menu.get((row.level or "").strip().casefold())
            if level is None:
                found = "could not be read" if row.level is None else f"is `{row.level[:80]}`"
                return _failure(
                    draft.id,
                    "parse",
                    f"the recorded level of {each.name} {found}; expected one of {', '.join(menu.values())}",
                )
            scores[each.name] = CriterionScore(
                criterion=each.name, level=level, score=each.score_of(level), reason=row.reason, path="parsed"
            )
        return Judgement(
            draft_id=draft.id,
            judge=rows[-1].judge or self.name,
            scores=tuple(scores[each.name] for each in rubric.all_criteria),
            scale="rubric",
        )

    def _compared(
        self, drafts: Sequence[Draft], told: Told, names: Mapping[str, Sequence[str]], confirms: bool
    ) -> list[Preference | Failure]:
        """Return the recorded comparisons in both orders: those of the scheme, or all that are there beside scores."""
        texts = {draft.id: draft.completion.strip() for draft in drafts}
        played: list[Preference | Failure] = []

        def look_up(pairs: Sequence[Pair]) -> dict[Pair, float | None]:
            found: dict[Pair, float | None] = {}
            for a, b in pairs:
                both = [
                    *self._played(told, a, b, names, confirms or texts[a] == texts[b]),
                    *self._played(told, b, a, names, confirms or texts[a] == texts[b]),
                ]
                played.extend(both)
                known = compared_in_both_orders([each for each in both if isinstance(each, Preference)], a, b)
                found[a, b] = None if known is None else known.probability
            return found

        if told.comparisons:
            run_scheme("round_robin" if confirms else self.scheme, list(texts), look_up, self.rounds)
        return played

    def _played(
        self, told: Told, first: str, second: str, names: Mapping[str, Sequence[str]], may_be_missing: bool
    ) -> list[Preference | Failure]:
        """Return what is recorded on two drafts in one order, repeats numbered."""
        rows: Sequence[ComparisonRow | Preference | Failure] = next(
            (found for a in names[first] for b in names[second] if (found := told.comparisons.get((a, b)))), ()
        )
        key = f"{first}|{second}"
        if not rows:
            return [] if may_be_missing else [_failure(key, "empty", "no comparison in this order is recorded")]
        played: list[Preference | Failure] = []
        for repeat, row in enumerate(rows):
            if isinstance(row, Preference):
                played.append(row.model_copy(update={"first_id": first, "second_id": second, "usage": Usage()}))
            elif isinstance(row, Failure):
                played.append(row.model_copy(update={"key": key, "usage": Usage()}))
            elif row.says is None:
                played.append(_failure(key, "parse", "the recorded verdict could not be read"))
            else:
                played.append(
                    Preference(
                        first_id=first,
                        second_id=second,
                        probability=row.says,
                        judge=row.judge or self.name,
                        repeat=repeat,
                        reason=row.reason,
                    )
                )
        return played


def _first_told(
    scores: Mapping[str, Sequence[ScoreRow | Judgement | Failure]], names: Sequence[str]
) -> Sequence[ScoreRow | Judgement | Failure]:
    return next((found for name in names if (found := scores.get(name))), ())


def _failure(key: str, kind: Literal["parse", "empty"], message: str) -> Failure:
    return Failure(stage="judge", key=key, kind=kind, message=message)


def _with_gates(name: str, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric, verdict: Verdict) -> Verdict:
    """Add the checked gates of drafts that were only compared."""
    gates = [gate for gate in rubric.gates if not gate.asked]
    judgements = [
        Judgement(
            draft_id=draft.id, judge=name, scores=checked_scores(prompt, draft, rubric, gates), scale="preference"
        )
        for draft in drafts
        if gates
    ]
    return _unscored(name, prompt, drafts, rubric, verdict.model_copy(update={"judgements": tuple(judgements)}))


def _unscored(name: str, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric, verdict: Verdict) -> Verdict:
    """Add a failure for each draft on which nothing is recorded."""
    told = {each.draft_id for each in verdict.judgements if each.scale != "preference" or each.value is not None}
    told |= {draft_id for each in verdict.preferences for draft_id in (each.first_id, each.second_id)}
    told |= {draft_id for each in verdict.failures for draft_id in each.key.split("|")}
    lost = [
        _failure(draft.id, "empty", "no verdict on this draft is recorded") for draft in drafts if draft.id not in told
    ]
    return verdict.model_copy(update={"failures": (*verdict.failures, *lost)})
