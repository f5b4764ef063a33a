"""What each run was given and what it cost, from the records of its rounds."""

from __future__ import annotations

from collections.abc import Sequence

from prefdistill.compare.data import Budget, Cost
from prefdistill.compare.layout import Layout
from prefdistill.finished import FinishedRun
from prefdistill.protocols import learns_from
from prefdistill.records import RoundResult, Usage
from prefdistill.stages.report.comparison import Curve, CurvePoint
from prefdistill.stages.report.data import find_result


def budget(run: FinishedRun) -> Budget:
    """Return what a run's rounds were given, all together."""
    rounds = run.rounds[1:]
    trained = [each.train for each in rounds if each.train is not None]
    answered = [each for each in rounds if learns_from(run.recipe.section_of(each.round).trainer) == "answers"]
    made = [each for each in rounds if each not in answered]
    return Budget(
        prompts=sum(int(each.counts.get("prompts", each.pairs + sum(each.drops.values()))) for each in rounds),
        judged=sum(each.judged for each in rounds),
        answers=sum(each.drafts for each in answered),
        pairs=sum(each.pairs for each in made),
        trained=sum(each.pairs for each in trained),
        steps=sum(each.steps for each in trained),
        rounds=len(rounds),
    )


def cost(run: FinishedRun) -> Cost:
    """Return what a run cost; calls are counted whether a server or the request cache answered them."""
    found = run.result["cost"]
    return Cost(
        calls=int(found["calls"]) + int(found["cached"]),
        tokens=int(found["prompt_tokens"]) + int(found["completion_tokens"]),
        usd=found["usd"],
        charged_usd=found["charged_usd"],
        seconds=sum(sum(each.seconds.values()) for each in run.rounds),
    )


def curves(layout: Layout) -> tuple[Curve, ...]:
    """Return every run round by round, as the charts want it."""
    found = []
    for label, runs in layout.arms.items():
        for seed, run in zip(layout.seeds, runs, strict=True):
            found.append(Curve(label, seed, _points(run.rounds)))
    return tuple(found)


def _points(rounds: Sequence[RoundResult]) -> tuple[CurvePoint, ...]:
    points, judged, spent, seconds = [], 0, Usage(), 0.0
    varied = next((value for each in rounds if (value := each.diagnostics.get("base_distinct_2")) is not None), None)
    for each in rounds:
        judged, spent, seconds = judged + each.judged, spent + each.usage, seconds + sum(each.seconds.values())
        totals = {"judged_drafts": float(judged), "usd": spent.usd, "seconds": seconds}
        tokens = float(spent.prompt_tokens + spent.completion_tokens)
        if each.round == 0 and varied is not None:
            totals["distinct_2"] = varied  # measured with the rounds that followed
        points.append(CurvePoint(each.round, {**totals, "judge_tokens": tokens, **round_figures(each)}))
    return tuple(points)


def round_figures(result: RoundResult) -> dict[str, float]:
    """Return one round's own figures; what is not known is absent."""
    of = result.diagnostics
    against = find_result(result.evaluation)
    kl = 0.0 if result.round == 0 else of.get("kl_base")
    values = {
        "sqrt_kl": None if kl is None else max(0.0, kl) ** 0.5,
        "judge": result.rubric_score,
        "held_out": result.held_out_score,
        "gold": result.gold,
        "win_rate": against.win_rate if against else None,
        "win_low": against.interval[0] if against else None,
        "win_high": against.interval[1] if against else None,
        "tokens": result.mean_tokens,
        "distinct_2": of.get("policy_distinct_2"),
        "pairs": float(result.pairs) if result.round else None,
        "steps": float(result.train.steps) if result.train else None,
    }
    return {name: float(value) for name, value in values.items() if value is not None}
