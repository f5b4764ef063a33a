"""What a round came to, as one record: counts, shares, scores, cost, seconds and warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from prefdistill.assembly import Workshop
from prefdistill.diagnostics.judging import flip_rate
from prefdistill.diagnostics.rules import start_checks
from prefdistill.drafting import Judged
from prefdistill.evaluation import Measured, evaluate, mean_score
from prefdistill.injection import addresses_judge
from prefdistill.records import (
    Answer,
    Drop,
    EvaluationResult,
    Failure,
    PreferencePair,
    RoundResult,
    TrainResult,
    Usage,
    Verdict,
)
from prefdistill.remedies import remedy_of
from prefdistill.rubric import COMPLETE, NO_STRAY_TAGS
from prefdistill.run import Fingerprints, write_json
from prefdistill.soundness import Watched, findings, sound_round, sound_zero, win_values


def round_zero(
    shop: Workshop, baselines: Mapping[str, Measured], also: Mapping[str, Measured] | None = None
) -> RoundResult:
    """Return the base's own result."""
    base, others = baselines["base"], {name: each for name, each in baselines.items() if name != "base"}
    evaluation: tuple[EvaluationResult, ...] = ()
    if others:
        evaluation, _ = evaluate(shop, shop.base, "validation", base, others, shop.run.baselines, "base-validation-")
    marks = Fingerprints(shop.run.baselines)
    failures = [
        *base.judged.failures,
        *(f for each in base.judged.verdicts.values() for verdict in each.values() for f in verdict.failures),
    ]
    sound = sound_zero(shop, base, also or {})
    result = RoundResult(
        round=0,
        drafts=0,
        judged=0,
        failed=len(failures),
        failures=dict(Counter(f"{failure.stage}.{failure.kind}" for failure in failures)),
        pairs=0,
        evaluation=evaluation,
        **_measured_scores(base, baselines),
        evaluation_usage=sum((each.usage for each in baselines.values()), Usage()),
        seconds={"evaluate": sum(marks.seconds(name) for name in marks.entries if "-validation-" in name)},
        warnings=_failure_warnings(base.judged, base.judged.verdicts),
        diagnostics=sound.diagnostics,
        kind_diagnostics=sound.kinds,
        facts=sound.facts,
    )
    result = with_findings(shop, (result,))
    write_json(shop.run.baselines / "round.json", result.model_dump(mode="json"))
    return result


def round_result(
    shop: Workshop,
    number: int,
    judged: Judged,
    rows: Sequence[PreferencePair | Answer],
    drops: Sequence[Drop],
    trained: TrainResult,
    ours: Measured,
    baselines: Mapping[str, Measured],
    watched: Watched,
) -> RoundResult:
    """Evaluate the round's policy, put everything about the round into one record, and write it last."""
    folder, marks = shop.run.round(number), Fingerprints(shop.run.round(number))
    evaluation, compared = evaluate(shop, trained.policy, "validation", ours, baselines, folder, "6-")
    verdicts = judged.verdicts["verdicts"]
    failures = [*judged.failures, *(failure for verdict in verdicts.values() for failure in verdict.failures)]
    sound = sound_round(shop, number, judged, rows, drops, trained, ours, baselines, watched)
    result = RoundResult(
        round=number,
        warm_start=number < shop.recipe.first_round,
        drafts=len(judged.drafts),
        judged=len(_judged_ids(verdicts)),
        failed=len(failures),
        failures=dict(Counter(f"{failure.stage}.{failure.kind}" for failure in failures)),
        pairs=len(rows),
        drops=dict(Counter(drop.reason for drop in drops)),
        counts={**_counts(judged, sound.diagnostics), **_judging_counts(judged)},
        kinds=_kinds(shop, judged, verdicts, rows, drops, ours),
        train=trained,
        evaluation=evaluation,
        **_measured_scores(ours, baselines),
        usage=sum((verdict.usage for verdict in verdicts.values()), Usage()),
        evaluation_usage=ours.usage,
        seconds={
            "sample": marks.seconds("drafts"),
            "judge": marks.seconds("verdicts"),
            "train": marks.seconds("policy"),
            "evaluate": sum(marks.seconds(name) for name in marks.entries if name.startswith("6-")),
        },
        warnings=(
            *_failure_warnings(judged, {"verdicts": verdicts}),
            *_failure_warnings(ours.judged, ours.judged.verdicts),
            *trained.warnings,
        ),
        diagnostics={**sound.diagnostics, **win_values(compared["base"], ours, baselines["base"])},
        kind_diagnostics=sound.kinds,
        facts=sound.facts,
        remedy=remedy_of(shop, number),
    )
    result = with_findings(shop, (*watched.rounds, result))
    write_json(folder / "round.json", result.model_dump(mode="json"))
    return result


def with_findings(shop: Workshop, rounds: Sequence[RoundResult]) -> RoundResult:
    """Return the last of `rounds` with what is wrong with it, each finding among its warnings too."""
    last = rounds[-1].model_copy(update={"findings": findings(shop, rounds)})
    said = tuple(f"{finding.level}, {finding.check}: {finding.message}" for finding in last.findings)
    start = start_checks(last.diagnostics, last.facts, last.findings) if last.train is not None else ()
    return last.model_copy(update={"checks": start, "warnings": (*last.warnings, *said)})


def _measured_scores(ours: Measured, baselines: Mapping[str, Measured]) -> dict[str, float | None]:
    tokens = [count for draft in ours.drafts if (count := draft.answer_tokens) is not None]
    teacher = baselines.get("teacher")
    return {
        "rubric_score": mean_score(ours.rubric),
        "held_out_score": mean_score(ours.held_out),
        "gold": mean_score(ours.gold),
        "baseline_rubric_score": mean_score(baselines["base"].rubric),
        "teacher_rubric_score": mean_score(teacher.rubric) if teacher else None,
        "mean_tokens": fmean(tokens) if tokens else None,
    }


def _judged_ids(verdicts: Mapping[str, Verdict]) -> set[str]:
    """Return the drafts that have a judgement or stand in a comparison."""
    found = {judgement.draft_id for verdict in verdicts.values() for judgement in verdict.judgements}
    preferences = [preference for verdict in verdicts.values() for preference in verdict.preferences]
    return found | {key for preference in preferences for key in (preference.first_id, preference.second_id)}


GLANCE = ("identical_share", "mean_margin", "chosen_longer_share")
"""Diagnostics that tell at a glance whether a round's data is sound."""


def _counts(judged: Judged, diagnostics: Mapping[str, float]) -> dict[str, float]:
    """Return shares that tell at a glance whether a round's data is sound."""
    drafts = list(judged.drafts.values())
    tokens = [count for draft in drafts if (count := draft.answer_tokens) is not None]
    counts: dict[str, float] = {
        "prompts": len(judged.prompts),
        "truncated_share": fmean(draft.finish_reason == "length" for draft in drafts) if drafts else 0.0,
    }
    if tokens:
        counts["mean_tokens"] = fmean(tokens)
    return counts | {name: diagnostics[name] for name in GLANCE if name in diagnostics}


def _judging_counts(judged: Judged) -> dict[str, float]:
    """Return how scores and comparisons were obtained, how often the order decided, and drafts that address the judge."""
    verdicts, prompts = judged.verdicts["verdicts"].values(), {prompt.id: prompt for prompt in judged.prompts}
    scores = [score for verdict in verdicts for each in verdict.judgements for score in each.scores if score.applies]
    compared = [each for verdict in verdicts for each in verdict.preferences if each.path != "checked"]
    asked = {key: "\n".join(message.content for message in prompt.messages) for key, prompt in prompts.items()}
    counts: dict[str, float] = {f"path_{path}": count for path, count in Counter(each.path for each in scores).items()}
    counts |= {f"compared_{path}": count for path, count in Counter(each.path for each in compared).items()}
    counts["flagged"] = sum(
        addresses_judge(draft.completion, asked[draft.prompt_id]) is not None for draft in judged.drafts.values()
    )
    rate = flip_rate(verdicts)
    return counts if rate is None else {**counts, "flip_rate": rate}


def _kinds(
    shop: Workshop,
    judged: Judged,
    verdicts: Mapping[str, Verdict],
    rows: Sequence[PreferencePair | Answer],
    drops: Sequence[Drop],
    ours: Measured,
) -> dict[str, dict[str, float]]:
    """Return every count and score per kind of prompt, where the recipe has several rubrics."""
    table: dict[str, dict[str, float]] = {}
    for kind in shop.rubrics.kinds:
        ids = {prompt.id for prompt in judged.prompts if shop.rubrics.kind(prompt) == kind}
        measured = {prompt.id for prompt in ours.judged.prompts if shop.rubrics.kind(prompt) == kind}
        mine = {prompt_id: verdict for prompt_id, verdict in verdicts.items() if prompt_id in ids}
        row: dict[str, float] = {
            "prompts": len(ids),
            "drafts": sum(draft.prompt_id in ids for draft in judged.drafts.values()),
            "judged": len(_judged_ids(mine)),
            "failed": sum(len(verdict.failures) for verdict in mine.values()),
            "pairs": sum(row.prompt_id in ids for row in rows),
        }
        row |= {f"drop_{r}": n for r, n in Counter(d.reason for d in drops if d.prompt_id in ids).items()}
        for name, scores in (("rubric_score", ours.rubric), ("held_out_score", ours.held_out), ("gold", ours.gold)):
            of_kind = {key: score for key, score in (scores or {}).items() if key.split("/")[0] in measured}
            mean = mean_score(of_kind)
            if mean is not None:
                row[name] = mean
        table[kind] = row
    return table


def _failure_warnings(judged: Judged, verdicts: Mapping[str, Mapping[str, Verdict]]) -> tuple[str, ...]:
    """Return a line for each kind of failure, one for drafts cut at the token limit, one for stray tags in answers."""
    lines = []
    failures: list[Failure] = [
        *judged.failures,
        *(failure for each in verdicts.values() for verdict in each.values() for failure in verdict.failures),
    ]
    for (stage, kind), count in sorted(Counter((failure.stage, failure.kind) for failure in failures).items()):
        first = next(failure.message for failure in failures if (failure.stage, failure.kind) == (stage, kind))
        lines.append(f"{count} {stage} failures ({kind}), left out of every label and score; the first: {first[:200]}")
    cut = sum(draft.finish_reason == "length" for draft in judged.drafts.values())
    if judged.drafts and cut > 0.01 * len(judged.drafts):
        lines.append(
            f"{cut} of {len(judged.drafts)} drafts were cut at sample.max_new_tokens (gate `{COMPLETE}`): neither chosen "
            f"nor rejected, and 0 in every mean; raise it{_of_traces(judged)}"
        )
    if found := Counter(draft.stray_tag for draft in judged.drafts.values() if draft.stray_tag):
        tags = " or ".join(sorted(found))
        lines.append(
            f"{found.total()} of {len(judged.drafts)} drafts have a stray {tags} in the answer (gate `{NO_STRAY_TAGS}`): "
            "never chosen, and 0 in every mean; more prompts or steps of `use: traces` make them rarer, and so do rounds "
            "that reject them"
        )
    return tuple(lines)


def _of_traces(judged: Judged) -> str:
    """Return what to know of the token limit where drafts begin with reasoning."""
    cut = [draft for draft in judged.drafts.values() if draft.finish_reason == "length" and draft.trace]
    if not cut:
        return ""
    open_ended = sum(not draft.completion for draft in cut)
    return f": it holds reasoning and answer together, and {open_ended} of them never closed their reasoning"
