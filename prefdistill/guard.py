"""The guard: whether a run goes on after a round, and which round's policy is kept.

Place in the flow: after each round's evaluation, over the rounds' records alone. Rounds are compared by the held-out
judge on validation prompts; the base is round 0 and can win. What a stop rule found ends the run (or has the round
trained once more with a remedy); the best round is kept, not the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from prefdistill.errors import TrainError
from prefdistill.records import Finding, RoundResult


class StoppedError(TrainError):
    """A stop rule ended the run, and the recipe asks for an error."""


class Decision(NamedTuple):
    """What happens after a round."""

    action: Literal["go_on", "retry", "stop"]
    finding: Finding | None = None
    """The stop rule's finding behind a retry or a stop."""


def decide(result: RoundResult, remedy: Literal["none", "auto"], applicable: Sequence[str]) -> Decision:
    """Say whether the run goes on after a round, trains it once more, or stops.

    Args:
        result: the round, with its findings.
        remedy: `loop.remedy`.
        applicable: remedies that the trainer can take and that this round has not had.
    """
    stops = [finding for finding in result.findings if finding.level == "stop"]
    if not stops:
        return Decision("go_on")
    if remedy == "auto" and result.remedy is None:
        cure = next((finding for finding in stops if finding.remedy in applicable), None)
        if cure is not None:
            return Decision("retry", cure)
    return Decision("stop", stops[0])


def selection_score(result: RoundResult) -> float:
    """Return what the best round is chosen by: the evaluation judge's mean score on validation, else the win rate."""
    if result.held_out_score is not None:
        return result.held_out_score
    if result.rubric_score is not None:
        return result.rubric_score
    return next((each.win_rate for each in result.evaluation if each.baseline == "base" and each.kind is None), 0.5)


def best_round(rounds: Sequence[RoundResult]) -> int:
    """Return the best round by validation, the base among them, the earliest of equal ones.

    Once a stop rule has spoken the labels are in doubt. Then a round must be better than the base by more than the
    standard error of its gain, since less is as likely chance and the base needs no adapter; and where the training
    judge is the only one, a condemned round is not kept at all: the score that it is best by is the one in doubt.
    """
    if not any(is_condemned(each) for each in rounds):
        return _best(rounds)
    base = rounds[0]
    better = [each for each in rounds[1:] if selection_score(each) > selection_score(base) + _error(each)]
    return _best((base, *(each for each in better if each.held_out_score is not None or not is_condemned(each))))


def _best(rounds: Sequence[RoundResult]) -> int:
    return max(rounds, key=lambda result: (selection_score(result), -result.round)).round


def _error(result: RoundResult) -> float:
    """Return the standard error of a round's gain over the base by the score that selects; 0 where it is not known."""
    name = "held_out_gain_se" if result.held_out_score is not None else "score_gain_se"
    return result.diagnostics.get(name, 0.0)


def is_condemned(result: RoundResult) -> bool:
    """Whether a stop rule found something in a round."""
    return any(finding.level == "stop" for finding in result.findings)


def stop_text(result: RoundResult, finding: Finding) -> str:
    """Return the line that says why a run ended early."""
    return (
        f"stopped after round {result.round} by loop.stop.{finding.check}"
        f"{f' ({finding.kind})' if finding.kind else ''}: {finding.message}"
    )
