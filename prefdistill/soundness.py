"""A round's soundness: everything measured about it as flat numbers, and what the recipe's levels make of them.

Place in the flow: at the end of a round, between its measurements and its record. The measuring itself is in
`diagnostics` (records) and in the trainer (weights); here their numbers come together, for all prompts and per kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, NamedTuple

from prefdistill.artefacts import adopt, claim
from prefdistill.assembly import Workshop
from prefdistill.diagnostics.findings import Levels
from prefdistill.diagnostics.leakage import leaked
from prefdistill.diagnostics.measuring import RoundData, describe_round, measure_round
from prefdistill.diagnostics.rules import find
from prefdistill.drafting import Judged
from prefdistill.evaluation import Measured, mean_score
from prefdistill.metrics.length_control import length_controlled_rate
from prefdistill.metrics.scores import DraftScore
from prefdistill.probing import kl_to, policy_log_probs
from prefdistill.protocols import learns_from
from prefdistill.records import (
    Answer,
    Comparison,
    Draft,
    Drop,
    Finding,
    PreferencePair,
    RoundResult,
    TrainResult,
    digest,
)
from prefdistill.run import Fingerprints, read_json, write_json

KL_PROBES = 32
"""Validation drafts on which the policy's KL to the base is estimated."""


@dataclass(frozen=True)
class Watched:
    """What a round is held against."""

    rounds: Sequence[RoundResult] = ()
    """The rounds before it, round 0 first."""
    start: Measured | None = None
    """The validation drafts of the policy that the rounds begin with: the base's, or the warm start's after that."""
    also: Mapping[str, Measured] = field(default_factory=dict)
    """The policy's drafts of other tasks, by name."""
    base_also: Mapping[str, Measured] = field(default_factory=dict)


class Soundness(NamedTuple):
    """What `RoundResult` says about a round's soundness."""

    diagnostics: dict[str, float]
    facts: dict[str, str]
    kinds: dict[str, dict[str, float]]
    """Diagnostics per kind of prompt."""


def sound_zero(shop: Workshop, base: Measured, also: Mapping[str, Measured]) -> Soundness:
    """Return what is known before the first round: the base's own numbers, leaks, and who judges."""
    values = _base_values(base)
    values["self_judged"] = float(shop.recipe.held_out_judge is None)
    values |= {f"also/{name}": mean for name, each in also.items() if (mean := mean_score(each.rubric)) is not None}
    held = [*shop.limited("validation"), *shop.limited("test")]
    found = leaked(shop.prompts.of("train"), [prompt for prompt in held if prompt.id not in shop.forgotten])
    values["leaked_share"] = found.share
    facts = {"leaked": ", ".join(f"{a} in {b}" for a, b in found.examples[:3])} if found.examples else {}
    kinds = {
        kind: _base_values(_of_kind(base, {p.id for p in base.judged.prompts if shop.rubrics.kind(p) == kind}))
        for kind in shop.rubrics.kinds
    }
    return Soundness(values, facts, kinds)


def sound_round(
    shop: Workshop,
    number: int,
    judged: Judged,
    rows: Sequence[PreferencePair | Answer],
    drops: Sequence[Drop],
    trained: TrainResult,
    ours: Measured,
    baselines: Mapping[str, Measured],
    watched: Watched,
) -> Soundness:
    """Return everything that was measured about a round."""
    teacher, start = baselines.get("teacher"), watched.start or baselines["base"]
    data = RoundData(
        prompts=judged.prompts,
        drafts=judged.drafts,
        verdicts=judged.verdicts["verdicts"],
        **_learned(shop, number, rows),
        drops=drops,
        policy_drafts=ours.drafts,
        base_drafts=start.drafts,
        teacher_drafts=teacher.drafts if teacher else (),
    )
    values = {**_training_values(trained), **measure_round(data), **_score_values(ours, start)}
    values |= _kl_to_base(shop, number, ours, trained)
    values["self_judged"] = float(shop.recipe.held_out_judge is None)
    for name, each in watched.also.items():
        values |= _also_values(name, each, watched.base_also[name])
    kinds = {}
    for kind in shop.rubrics.kinds:
        train = {prompt.id for prompt in judged.prompts if shop.rubrics.kind(prompt) == kind}
        held = {prompt.id for prompt in ours.judged.prompts if shop.rubrics.kind(prompt) == kind}
        of_kind = measure_round(data.only(train, held)) if train or held else {}
        kinds[kind] = of_kind | _score_values(_of_kind(ours, held), _of_kind(start, held))
    return Soundness(values, {**trained.facts, **describe_round(data)}, kinds)


def findings(shop: Workshop, rounds: Sequence[RoundResult]) -> tuple[Finding, ...]:
    """Return what is wrong with the last of `rounds` by the recipe's levels, for all prompts and then per kind."""
    levels, last, first = shop.recipe.loop.levels, rounds[-1], shop.recipe.first_round
    if first > 1 and last.round > 0:
        if last.round < first:  # a warm start is meant to change a lot: what would stop a round is a warning here
            levels = Levels(levels.warn, None)
        else:
            rounds = [_since_warm_start(each) for each in rounds[first - 1 :]]
    found = list(find([each.diagnostics for each in rounds], levels))
    for kind in last.kind_diagnostics:
        of_kind = find([each.kind_diagnostics.get(kind, {}) for each in rounds], levels, data_only=True)
        found += [each.model_copy(update={"kind": kind, "message": f"{kind}: {each.message}"}) for each in of_kind]
    return tuple(found) if last.round == 0 or last.round >= first else tuple(map(_of_warm_start, found))


def _of_warm_start(finding: Finding) -> Finding:
    """Return a warm start's finding with the keys that trained it: `warm_start` has those of `train` that are replaced."""
    named = re.sub(r"\btrain\.(?=(learning_rate|epochs|max_length|beta|loss)\b)", "warm_start.", finding.message)
    return finding.model_copy(update={"message": named})


def _since_warm_start(result: RoundResult) -> RoundResult:
    """Return a result without its distance from the base, of which most is the warm start's."""
    kept = {name: value for name, value in result.diagnostics.items() if not name.startswith("kl_base")}
    return result.model_copy(update={"diagnostics": kept})


def _learned(shop: Workshop, number: int, rows: Sequence[PreferencePair | Answer]) -> dict[str, Any]:
    """Return a round's pairs, or its answers, under their name in `RoundData`."""
    if learns_from(shop.trainer_of(number)) == "answers":
        return {"answers": [row for row in rows if isinstance(row, Answer)]}
    return {"pairs": [row for row in rows if isinstance(row, PreferencePair)]}


def data_findings(
    shop: Workshop, number: int, judged: Judged, rows: Sequence[PreferencePair | Answer], drops: Sequence[Drop]
) -> list[str]:
    """Return what is wrong with drafts and labels of a round that has too few pairs, or answers, to train on."""
    learned = _learned(shop, number, rows)
    data = RoundData(judged.prompts, judged.drafts, judged.verdicts["verdicts"], drops=drops, **learned)
    return [each.message for each in find([measure_round(data)], shop.recipe.loop.levels, data_only=True)]


def _training_values(trained: TrainResult) -> dict[str, float]:
    fields = {
        "loss": trained.loss,
        "first_loss": trained.first_loss,
        "reward_margin": trained.reward_margin,
        "reward_accuracy": trained.reward_accuracy,
        "adapter_moved": trained.adapter_moved,
        "kl": trained.kl,
        "kl_standard_error": trained.kl_standard_error,
        "steps": trained.steps,
        "trained_pairs": trained.pairs,
    }
    return {**{name: float(value) for name, value in fields.items() if value is not None}, **trained.diagnostics}


def _base_values(base: Measured) -> dict[str, float]:
    values = {}
    for name, scores in (("rubric_score", base.rubric), ("held_out_score", base.held_out)):
        mean = mean_score(scores)
        if mean is not None:
            values[name] = mean
    single = [score.gated_score for score in base.rubric.values()]
    if len(single) > 1:
        values["base_score_sd"] = stdev(single)
    other = [score.gated_score for score in (base.held_out or {}).values()]
    if len(other) > 1:
        values["base_held_out_sd"] = stdev(other)
    return {**values, **_length(base)}


def _length(measured: Measured) -> dict[str, float]:
    tokens = [count for draft in measured.drafts if (count := draft.answer_tokens) is not None]
    return {"policy_tokens": fmean(tokens)} if tokens else {}


def _score_values(ours: Measured, base: Measured) -> dict[str, float]:
    """Return both judges' mean scores, and the gain over the base with its standard error, paired by prompt."""
    values = {name: value for name, value in _base_values(base).items() if name.endswith("_sd")}
    values["validation_prompts"] = float(len(ours.judged.prompts))
    for name, gain, mine, theirs in (
        ("rubric_score", "score", ours.rubric, base.rubric),
        ("held_out_score", "held_out", ours.held_out or {}, base.held_out or {}),
    ):
        mean = mean_score(mine)
        if mean is None:
            continue
        values |= {name: mean, **_paired(f"{gain}_gain", mine, theirs)}
    return values


def win_values(rows: Sequence[Comparison], ours: Measured, base: Measured) -> dict[str, float]:
    """Return the win rate over the base, raw and at equal length."""
    points = {"win": 1.0, "tie": 0.5, "loss": 0.0}
    words = {draft.id: len(draft.completion.split()) for draft in (*ours.drafts, *base.drafts)}
    judged = [row for row in rows if row.outcome in points]
    if not judged:
        return {}
    outcomes = [points[row.outcome] for row in judged]
    controlled = length_controlled_rate(
        outcomes, [words[row.draft_id] - words[row.baseline_draft_id] for row in judged]
    )
    found = {"win_rate": fmean(outcomes)}
    return found if controlled is None else {**found, "length_controlled_win_rate": controlled}


def _paired(name: str, mine: Mapping[str, DraftScore], theirs: Mapping[str, DraftScore]) -> dict[str, float]:
    """Return the mean gain over the base as `name` and its standard error; nothing with under two prompts in common."""
    before = {key.split("/")[0]: score.gated_score for key, score in theirs.items()}
    after = {key.split("/")[0]: score.gated_score for key, score in mine.items()}
    gains = [after[key] - before[key] for key in sorted(after.keys() & before.keys())]
    if len(gains) < 2:
        return {}
    return {name: fmean(gains), f"{name}_se": stdev(gains) / math.sqrt(len(gains))}


def _also_values(name: str, ours: Measured, base: Measured) -> dict[str, float]:
    mean = mean_score(ours.rubric)
    if mean is None:
        return {}
    return {f"also/{name}": mean, **_paired(f"also/{name}/gain", ours.rubric, base.rubric)}


def _of_kind(measured: Measured, prompt_ids: set[str]) -> Measured:
    """Return the part of what was measured that belongs to some prompts."""

    def part(scores: Mapping[str, DraftScore] | None) -> Any:
        if scores is None:
            return None
        return {key: score for key, score in scores.items() if key.split("/")[0] in prompt_ids}

    judged = Judged(
        tuple(prompt for prompt in measured.judged.prompts if prompt.id in prompt_ids),
        {draft.id: draft for draft in measured.drafts if draft.prompt_id in prompt_ids},
    )
    return Measured(judged, part(measured.rubric) or {}, part(measured.held_out), part(measured.gold))


def _kl_to_base(shop: Workshop, number: int, ours: Measured, trained: TrainResult) -> dict[str, float]:
    """Return the policy's KL to the base on its own validation drafts, scored once and kept in `6-kl.json`.

    They are drawn at `evaluate.temperature`, so the estimate is of that part of the policy.
    """
    folder = shop.run.round(number)
    path = folder / "6-kl.json"
    fingerprint = digest([ours.judged.fingerprint, shop.student_fingerprint, KL_PROBES, 1])
    adopt(shop, folder, "6-kl", fingerprint, [path])
    marks = claim(shop, folder, "6-kl", "evaluate", fingerprint, [path])
    if not (marks.done("6-kl", fingerprint) and path.exists()):
        prompts = {prompt.id: prompt for prompt in ours.judged.prompts}
        whole: list[Draft] = [draft for draft in ours.unchosen if draft.finish_reason == "stop"][:KL_PROBES]
        texts = [(prompts[draft.prompt_id].messages, draft.written) for draft in whole]
        kl: tuple[float, float] | None = None
        if texts:
            student, run = shop.recipe.student, shop.run.path.resolve()
            base = policy_log_probs(student, shop.base, run, texts)
            known = [(draft.log_prob, draft.tokens) for draft in whole]
            same = all(tokens == count for (_, tokens), (_, count) in zip(known, base, strict=True))
            if same and all(value is not None for value, _ in known):
                new = [(float(value or 0.0), int(tokens or 0)) for value, tokens in known]
            else:  # another sampler, or texts that are tokenised otherwise than they were written
                new = policy_log_probs(student, trained.policy, run, texts)
            kl = kl_to(new, base)
        write_json(path, {"schema": 1, "kl_base": kl and kl[0], "kl_base_standard_error": kl and kl[1]})
        marks = Fingerprints(folder)
        marks.note("6-kl", fingerprint, len(texts))
    stored = read_json(path)
    return {name: stored[name] for name in ("kl_base", "kl_base_standard_error") if stored[name] is not None}
