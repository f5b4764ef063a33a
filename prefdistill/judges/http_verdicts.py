"""The response of an `http` judge as a verdict: what it says that can be trusted, and a failure for all else.

The JSON is described in `prefdistill.judges.http`. Nothing is guessed: a draft without a readable answer has a
failure, and a response that speaks of drafts it was not sent says nothing about those it was sent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prefdistill.judges.checks import checked_scores
from prefdistill.judges.texts import asked_criteria
from prefdistill.records import (
    CriterionScore,
    Draft,
    Failure,
    FailureKind,
    Judgement,
    Preference,
    Prompt,
    Scale,
    Usage,
    Verdict,
)
from prefdistill.rubric import Criterion, Rubric

KEYS = ("scores", "criteria", "preferences", "abstentions")
KEPT_CHARACTERS = 2_000
"""Of a response that cannot be read, for the person who looks for the mistake."""


@dataclass(frozen=True)
class Sent:
    """What a judge was asked."""

    prompt: Prompt
    rubric: Rubric
    drafts: Mapping[str, list[Draft]]
    """The drafts of each distinct text, by the id it was sent under."""


class _UnreadableError(ValueError):
    """Something in a response that says nothing that can be trusted."""


def to_verdict(text: str, sent: Sent, judge: str, usage: Usage) -> Verdict:
    """Read a response.

    Args:
        text: the response's body, a JSON object.
        judge: what the judge is called in the verdict.
        usage: what the call cost; counted once.
    """
    reading = _Reading(sent, judge, text)
    try:
        data = _loaded(text)
        reading.check_shape(data)
    except _UnreadableError as problem:
        for name in sent.drafts:
            reading.fail(name, "parse", str(problem))
    else:
        reading.read(data)
    return reading.verdict(usage)


class _Reading:
    """One response while it is read."""

    def __init__(self, sent: Sent, judge: str, text: str) -> None:
        self.sent, self.judge, self.text = sent, judge, text[:KEPT_CHARACTERS]
        self.judgements: list[Judgement] = []
        self.preferences: list[Preference] = []
        self.failures: list[Failure] = []

    def check_shape(self, data: dict[str, Any]) -> None:
        """Check what concerns the response as a whole: its keys and the drafts that it names."""
        if unknown := [key for key in data if key not in KEYS]:
            raise _UnreadableError(f"unknown key {_shown(unknown[0])}; expected {', '.join(KEYS)}")
        if "scores" in data and "criteria" in data:
            raise _UnreadableError("both scores and criteria; expected one of them")
        if not any(key in data for key in KEYS):
            raise _UnreadableError(f"no verdict; expected at least one of {', '.join(KEYS)}")
        named: list[Any] = []
        for key in ("scores", "criteria", "abstentions"):
            if not isinstance(data.get(key, {}), dict):
                raise _UnreadableError(f"{key}: found {_shown(data[key])}; expected an object with draft ids as keys")
            named += data.get(key, {})
        preferences = data.get("preferences", [])
        if not isinstance(preferences, list) or not all(isinstance(each, dict) for each in preferences):
            raise _UnreadableError(f"preferences: found {_shown(preferences)}; expected a list of objects")
        named += [each.get(place) for each in preferences for place in ("first", "second")]
        if strange := [name for name in named if not isinstance(name, str) or name not in self.sent.drafts]:
            raise _UnreadableError(
                f"found draft {_shown(strange[0])}, which was not sent; expected {', '.join(self.sent.drafts)}"
            )

    def read(self, data: dict[str, Any]) -> None:
        """Read the answers of a response of the right shape."""
        self._compare(data.get("preferences", []))
        pointwise = "scores" if "scores" in data else "criteria" if "criteria" in data else None
        answers = data.get(pointwise, {}) if pointwise else {}
        compared = {name for each in data.get("preferences", []) for name in (each["first"], each["second"])}
        abstained = data.get("abstentions", {})
        for name in self.sent.drafts:
            try:
                if name in abstained:
                    if name in answers and answers[name] is not None:
                        raise _UnreadableError(f"{name}: an answer and an abstention; expected one of them")
                    self.fail(name, "empty", f"{self.judge} abstained: {str(abstained[name])[:300]}")
                elif pointwise is None and name in compared:
                    self._judge(name, "preference", gates_only=True)
                elif answers.get(name) is None:
                    said = "abstained" if name in answers else "says nothing about this draft"
                    self.fail(name, "empty", f"{self.judge} {said} ({name})")
                elif pointwise == "scores":
                    self._judge(name, "custom", value=_number(answers[name], f"scores.{name}"), gates_only=True)
                else:
                    self._judge(name, "rubric", self._levels(answers[name], f"criteria.{name}"))
            except _UnreadableError as problem:
                self.fail(name, "parse", str(problem))

    def _judge(
        self,
        name: str,
        scale: Scale,
        answers: Mapping[str, CriterionScore] | None = None,
        value: float | None = None,
        gates_only: bool = False,
    ) -> None:
        """Keep a judgement, with what the rubric's checks say beside it."""
        rubric = self.sent.rubric
        for draft in self.sent.drafts[name]:
            wanted = [gate for gate in rubric.gates if not gate.asked] if gates_only else None
            found = {each.criterion: each for each in checked_scores(self.sent.prompt, draft, rubric, wanted)}
            found |= answers or {}
            scores = tuple(found[each.name] for each in rubric.all_criteria if each.name in found)
            if scores or value is not None:
                self.judgements.append(
                    Judgement(draft_id=draft.id, judge=self.judge, scores=scores, value=value, scale=scale)
                )

    def _levels(self, answers: Any, where: str) -> dict[str, CriterionScore]:
        """Return each asked criterion's score; one that does not apply to the prompt has none."""
        if not isinstance(answers, dict):
            raise _UnreadableError(f"{where}: found {_shown(answers)}; expected an object with criteria as keys")
        asked = {each.name: each for each in asked_criteria(self.sent.rubric, self.sent.prompt)}
        if unknown := [key for key in answers if key not in asked]:
            raise _UnreadableError(f"{where}: unexpected {_shown(unknown[0])}; expected {', '.join(asked)}")
        if missing := [key for key in asked if key not in answers]:
            raise _UnreadableError(f"{where}: no {', '.join(missing)}; expected {', '.join(asked)}")
        scores = {
            each.name: CriterionScore(criterion=each.name, applies=False, path="checked")
            for each in self.sent.rubric.asked
            if each.name not in asked
        }
        return scores | {key: _score(answers[key], each, f"{where}.{key}") for key, each in asked.items()}

    def _compare(self, preferences: Iterable[dict[str, Any]]) -> None:
        """Keep each comparison that can be read, for all drafts that have these texts."""
        told: dict[tuple[str, str], float] = {}
        for number, each in enumerate(preferences):
            first, second = each["first"], each["second"]
            try:
                if unknown := set(each) - {"first", "second", "probability", "reason"}:
                    raise _UnreadableError(f"preferences.{number}: unknown key {_shown(min(unknown))}")
                if first == second:
                    raise _UnreadableError(f"preferences.{number}: {first} compared with itself")
                probability = _unit(each.get("probability"), f"preferences.{number}.probability")
                if told.setdefault((first, second), probability) != probability:
                    raise _UnreadableError(
                        f"preferences.{number}: {first} and {second} in this order said otherwise before"
                    )
                reason = _text(each.get("reason", ""), f"preferences.{number}.reason")
            except _UnreadableError as problem:
                self.failures += [
                    self._failure(f"{a.id}|{b.id}" if first != second else a.id, "parse", str(problem))
                    for a, b in self._both(first, second)
                ]
                continue
            self.preferences += [
                Preference(first_id=a.id, second_id=b.id, probability=probability, judge=self.judge, reason=reason)
                for a, b in self._both(first, second)
            ]

    def _both(self, first: str, second: str) -> list[tuple[Draft, Draft]]:
        return [(a, b) for a in self.sent.drafts[first] for b in self.sent.drafts[second]]

    def fail(self, name: str, kind: FailureKind, message: str) -> None:
        """Keep a failure for every draft that has this text."""
        self.failures += [self._failure(draft.id, kind, message) for draft in self.sent.drafts[name]]

    def _failure(self, key: str, kind: FailureKind, message: str) -> Failure:
        return Failure(stage="judge", key=key, kind=kind, message=message, reply=self.text)

    def verdict(self, usage: Usage) -> Verdict:
        """Return everything that was read; the first row of all carries the cost."""
        rows: list[list[Any]] = [self.judgements, self.preferences, self.failures]
        first = next((row for row in rows if row), None)
        if first is not None:
            first[0] = first[0].model_copy(update={"usage": usage})
        judgements, preferences, failures = (tuple(row) for row in rows)
        return Verdict(prompt_id=self.sent.prompt.id, judgements=judgements, preferences=preferences, failures=failures)


def _score(answer: Any, criterion: Criterion, where: str) -> CriterionScore:
    """Read one criterion's answer: a level, a number, or an object with one of them."""
    reason = ""
    if isinstance(answer, dict):
        if len(answer.keys() & {"level", "score"}) != 1 or answer.keys() - {"level", "score", "reason"}:
            raise _UnreadableError(f"{where}: found {_shown(answer)}; expected `level` or `score`, perhaps a `reason`")
        reason = _text(answer.get("reason", ""), f"{where}.reason")
        answer = answer["level"] if "level" in answer else _unit(answer["score"], f"{where}.score")
    if isinstance(answer, str):
        levels = criterion.levels or ()
        level = next((each for each in levels if each.strip().casefold() == answer.strip().casefold()), None)
        if level is None:
            raise _UnreadableError(f"{where}: found {_shown(answer)}; expected one of {', '.join(levels)}")
        score = criterion.score_of(level)
        return CriterionScore(criterion=criterion.name, level=level, score=score, reason=reason, path="parsed")
    return CriterionScore(criterion=criterion.name, score=_unit(answer, where), reason=reason, path="parsed")


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e300 or not math.isfinite(value):
        raise _UnreadableError(f"{where}: found {_shown(value)}; expected a finite number, or null to abstain")
    return float(value)


def _unit(value: Any, where: str) -> float:
    number = _number(value, where)
    if not 0 <= number <= 1:
        raise _UnreadableError(f"{where}: found {_shown(value)}; expected a number from 0 to 1")
    return number


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _UnreadableError(f"{where}: found {_shown(value)}; expected text")
    return value.encode("utf-8", "replace").decode("utf-8")[:KEPT_CHARACTERS]


def _loaded(text: str) -> dict[str, Any]:
    """Return the object; a key that stands twice says two things."""
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as problem:
        raise _UnreadableError(f"the response cannot be read ({problem})") from None
    if not isinstance(data, dict):
        raise _UnreadableError(f"found {_shown(data)}; expected a JSON object")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) < len(pairs):
        raise ValueError(f"a key stands twice among {', '.join(name for name, _ in pairs)[:100]}")
    return built


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, default=str)[:80]
