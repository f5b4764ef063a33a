"""`result.json`: the report's numbers for programs."""

from __future__ import annotations

import math
from typing import Any

from prefdistill.metrics.best_of import best_of_kl
from prefdistill.records import SCHEMA, EvaluationResult, RoundResult, Usage
from prefdistill.stages.report.data import (
    Cost,
    ReportData,
    charged_usd,
    find_result,
    gate_pass_rate,
    judging,
    round_cost,
    round_warnings,
    training_cost,
)


def render_result(report: ReportData) -> dict[str, Any]:
    """Return the run's numbers as JSON values; what was not measured, or is not a finite number, is None."""
    return finite(
        {
            "schema": SCHEMA,
            "version": report.version,
            "name": report.name,
            "mode": report.mode,
            "seed": report.seed,
            "rounds": [_round(report, each) for each in report.rounds],
            "best_round": report.best_round,
            "stopped": report.stopped or None,
            "policy": report.policy.model_dump(mode="json"),
            "test": _test(report),
            "pgr": report.pgr.value if report.pgr else None,
            "pgr_refused": report.pgr.refused if report.pgr else None,
            "cost": _total_cost(report),
            "kinds": {kind: _kind(report, kind) for kind in report.kinds},
        }
    )


def _total_cost(report: ReportData) -> dict[str, Any]:
    """Return what all judging cost, and what the training drafts' cost comes to for each pair."""
    spent: Usage = sum((judging(each) for each in report.rounds), report.test_usage)
    return {
        **{name: getattr(spent, name) for name in ("calls", "cached", "prompt_tokens", "completion_tokens")},
        "usd": None if report.unpriced else spent.usd,
        "unpriced": list(dict.fromkeys((*report.unpriced, *report.unpriced_writers))),
        **_pair_cost(training_cost(report)),
        "charged_calls": report.charged.calls,
        "charged_tokens": report.charged.prompt_tokens + report.charged.completion_tokens,
        "charged_usd": charged_usd(report),
    }


def _pair_cost(cost: Cost) -> dict[str, Any]:
    names = ("usd_per_pair", "usd_per_kept_pair", "tokens_per_kept_pair")
    return {name: getattr(cost, name) for name in names}


def _round(report: ReportData, result: RoundResult) -> dict[str, Any]:
    against_base = find_result(result.evaluation)
    usage = judging(result)
    return {
        "round": result.round,
        "warm_start": result.warm_start,
        "learned_from": result.learned_from if result.round else None,
        "drafts": result.drafts,
        "judged": result.judged,
        "failed": result.failed,
        "failures": dict(result.failures),
        "pairs": result.pairs,
        "drops": dict(result.drops),
        "counts": dict(result.counts),
        "win_rate": against_base.win_rate if against_base else None,
        "win_rate_interval": against_base.interval if against_base else None,
        "rubric_score": result.rubric_score,
        "held_out_score": result.held_out_score,
        "baseline_rubric_score": result.baseline_rubric_score,
        "teacher_rubric_score": result.teacher_rubric_score,
        "gate_pass_rate": gate_pass_rate(result.evaluation),
        "gold": result.gold,
        "mean_tokens": result.mean_tokens,
        "adapter_moved": result.train.adapter_moved if result.train else None,
        "kl": result.train.kl if result.train else None,
        "judge_calls": usage.calls,
        "judge_cached": usage.cached,
        "judge_tokens": usage.prompt_tokens + usage.completion_tokens,
        "judge_usd": None if report.unpriced and usage.calls else usage.usd,
        **_pair_cost(round_cost(report, result)),
        "seconds": dict(result.seconds),
        "checks": [each.model_dump(mode="json") for each in result.checks],
        "diagnostics": dict(result.diagnostics),
        "facts": dict(result.facts),
        "findings": [each.model_dump(mode="json") for each in result.findings],
        "remedy": result.remedy,
        "warnings": list(round_warnings(result)),
    }


def _test(report: ReportData) -> dict[str, Any]:
    against_base = find_result(report.test)
    against_teacher = find_result(report.test, "teacher")
    return {
        "prompts": report.prompts.get("test"),
        "judge": report.evaluation_judge,
        "self_judged": report.self_judged,
        "best_of": report.best_of,
        "best_of_kl": best_of_kl(report.best_of),
        **_against_base(against_base),
        "win_rate_over_teacher": against_teacher.win_rate if against_teacher else None,
        "win_rate_over_teacher_interval": against_teacher.interval if against_teacher else None,
        "teacher_score": against_teacher.baseline_score if against_teacher else None,
        "criteria": dict(against_base.criteria) if against_base else {},
        "baseline_criteria": dict(against_base.baseline_criteria) if against_base else {},
        "gold": report.test_gold.get("policy"),
        "baseline_gold": report.test_gold.get("base"),
        "teacher_gold": report.test_gold.get("teacher"),
        "metrics": dict(report.test_metrics),
    }


def _against_base(result: EvaluationResult | None) -> dict[str, Any]:
    fields = {
        "wins": "wins",
        "losses": "losses",
        "ties": "ties",
        "unknown": "unknown",
        "win_rate": "win_rate",
        "win_rate_interval": "interval",
        "score": "score",
        "baseline_score": "baseline_score",
        "score_gain": "score_gain",
        "score_gain_interval": "score_gain_interval",
        "gate_pass_rate": "gate_pass_rate",
        "length_ratio": "length_ratio",
    }
    return {key: getattr(result, name) if result else None for key, name in fields.items()}


def _kind(report: ReportData, kind: str) -> dict[str, Any]:
    return {
        "rounds": [
            {
                "round": each.round,
                **_against_base(find_result(each.evaluation, kind=kind)),
                "gate_pass_rate": gate_pass_rate(each.evaluation, kind),
                "counts": dict(each.kinds.get(kind, {})),
            }
            for each in report.rounds
        ],
        "test": _against_base(find_result(report.test, kind=kind)),
    }


def finite(value: Any) -> Any:
    """Return JSON values with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
