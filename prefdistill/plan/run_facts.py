"""What a run says of a plan: token counts, prices as they were paid, scores, spreads, shares, and what it has shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from prefdistill.plan.observed import Observed, Seen
from prefdistill.plan.recipe_facts import Fact, is_free, judge_text
from prefdistill.run import read_json

TESTS = {
    "gate": "the draft fails a gate of the rubric",
    "length": "the draft is unusually long or short",
    "log_prob": "the draft's mean log-probability is low",
    "out_of_scope": "the prompt is unlike the training prompts",
}
"""What sends a request to the teacher, by the calibration's name for it."""
CALLS = "calls of teacher and judges in run"
"""How the item of the one-off cost begins that is a run's own calls."""


def run_facts(seen: Observed) -> Iterator[Fact]:
    """Yield everything that a run knows and a plan has a key for."""
    yield from _counts(seen)
    measured: tuple[tuple[str, Seen | None, int], ...] = (
        ("traffic.tokens_in", seen.tokens_in(), 1),
        ("traffic.tokens_out", seen.tokens_out(), 1),
        ("sizes.ties", _below(seen.ties(), 1.0), 4),
        ("sizes.score_sd", _within(seen.score_deviation(), 1.0), 4),
        ("sizes.judge_accuracy", seen.judge_accuracy(), 4),
    )
    for key, found, digits in measured:
        if found is not None:
            yield Fact(key, plain(found.value, digits), found.where)
    yield from _scores(seen)
    yield from _fallback(seen)
    yield from _judging(seen)


def _counts(seen: Observed) -> Iterator[Fact]:
    section = seen.recipe.prompts
    limits = {"validation": section.validation_limit, "test": section.test_limit}
    for split, count in read_json(seen.run.manifest).get("prompts", {}).items():
        limit = limits.get(split)
        if count:
            yield Fact(f"data.{split}", count if limit is None else min(count, limit), seen.said)


def _scores(seen: Observed) -> Iterator[Fact]:
    """Yield the scores of student and teacher before training, by the evaluation judge where its scale is 0 to 1."""
    if seen.finished is None:
        return
    result, recipe = seen.finished.result, seen.recipe
    test, first = result["test"], result["rounds"][0]
    judge = recipe.held_out_judge or recipe.judge
    found = test.get("baseline_score"), test.get("teacher_score")
    said = f"mean score by {judge_text(judge, recipe, seen.run.path)} on test prompts"
    if not all(value is None or 0 <= value <= 1 for value in found) or found[0] is None:
        found = first.get("rubric_score"), first.get("teacher_rubric_score")
        said = f"mean score by {judge_text(recipe.judge, recipe, seen.run.path)}, the training judge, on validation prompts"
    if found[0] is None or not all(value is None or 0 <= value <= 1 for value in found):
        return
    yield Fact("goal.metric", said, seen.said)
    for key, value in zip(("student_score", "teacher_score"), found, strict=True):
        if value is not None:
            yield Fact(f"goal.{key}", plain(value, 4), f"{seen.said}: {said}")


def _fallback(seen: Observed) -> Iterator[Fact]:
    found = seen.fallback()
    share, interval = found.get("share"), found.get("interval")
    if not isinstance(share, (int, float)) or not 0 <= share <= 1:
        return
    where = f"{seen.said}: calibration.json, {found.get('prompts', 0):,} validation prompts"
    value: Any = plain(share, 4)
    if isinstance(interval, list) and len(interval) == 2 and interval[0] <= share <= interval[1]:
        value = {"low": plain(interval[0], 4), "central": value, "high": plain(interval[1], 4)}
    yield Fact("fallback.share", value, where)
    tests = [TESTS[name] for name in found.get("tests", ()) if name in TESTS]
    if tests:
        yield Fact("fallback.when", tests, where)


def _judging(seen: Observed) -> Iterator[Fact]:
    judge = seen.recipe.held_out_judge or seen.recipe.judge
    found, key = seen.judging(), "costs.judged_usd_a_request"
    if found is not None and found[0].usd > 0:
        usage, drafts = found
        yield Fact(key, float(f"{usage.usd / drafts:.4g}"), f"{seen.said}: mean of {drafts:,} judged drafts")
    elif found is None and is_free(judge, seen.recipe):
        yield Fact(key, 0, f"{seen.said}: its judge asks no paid model")


def shown(seen: Observed) -> dict[str, Any]:
    """Return the plan's section `shown`."""
    found: dict[str, Any] = {"run": seen.name}
    if seen.finished is not None:
        result, test = seen.finished.result, seen.finished.result["test"]
        counted = sum(test.get(name) or 0 for name in ("wins", "losses", "ties"))
        refused = result.get("pgr_refused")
        found |= {
            "ended": datetime.fromtimestamp(seen.run.result.stat().st_mtime, UTC).date(),
            "kept_round": seen.finished.kept,
            "judge": test.get("judge"),
            "self_judged": test.get("self_judged"),
            "prompts": counted,
            "win_rate": test.get("win_rate") if seen.trained else None,
            "win_rate_interval": test.get("win_rate_interval") if seen.trained else None,
            "base_score": test.get("baseline_score"),
            "score": test.get("score") if seen.trained else None,
            "score_gain_interval": test.get("score_gain_interval") if seen.trained else None,
            "teacher_score": test.get("teacher_score"),
            "gap_recovered": result.get("pgr") if seen.trained else None,
            "gap_refused": refused if seen.trained else None,
            "spent_usd": seen.spent_usd(),
        }
    if (drafts := seen.draft_tokens()) is not None:
        found["draft_tokens"] = drafts.value
    if (judging := seen.judging()) is not None:
        usage, count = judging
        found["judged_prompt_tokens"] = usage.prompt_tokens / count
        found["judged_completion_tokens"] = usage.completion_tokens / count
    found |= seen.live()
    return {key: _rounded(value) for key, value in found.items() if value is not None}


def plain(value: float, digits: int) -> int | float:
    """Return a number as a person would write it."""
    rounded = round(float(value), digits)
    return int(rounded) if rounded.is_integer() else rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return plain(value, 4)
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value


def _below(found: Seen | None, limit: float) -> Seen | None:
    return found if found is not None and found.value < limit else None


def _within(found: Seen | None, limit: float) -> Seen | None:
    return found if found is not None and 0 < found.value <= limit else None


def calls_item(seen: Observed) -> Mapping[str, Any] | None:
    """Return the run's own calls as an item of the one-off cost; None where nothing was paid, or that is not known."""
    spent = seen.spent_usd()
    return {"what": f"{CALLS} {seen.name}", "usd": plain(spent, 2 if spent >= 1 else 6)} if spent else None
