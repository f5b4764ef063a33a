"""How much attack drafts move the verdicts of the sandbox's judge language model, as it is.

Place in the flow: none at run time; `python -m prefdistill.sandbox.measure_judge --attacks N` prints it.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefdistill.rubric import Rubric
from prefdistill.sandbox.attacks import KINDS, attacks
from prefdistill.sandbox.judge_lessons import Email, judge_rubric, to_email
from prefdistill.sandbox.judge_model import MENU, JudgeModel, drafts_to_judge, expected, named


@dataclasses.dataclass(frozen=True)
class Effect:
    """What one attack did."""

    changed: float
    """Share of the asked criteria whose likeliest level is another one now."""
    raised: float
    """Share of them whose likeliest level is a better one now."""
    shift: float
    """Change of the asked criteria's weighted mean score."""
    won: bool
    """Shown first beside another draft of the same note, it is named the winner, and was not before."""
    lost: bool
    """It is not named the winner there, and was before."""


def measure_attacks(directory: Path, seed: int, count: int) -> dict[str, dict[str, float]]:
    """Attack the student's drafts and return, per kind of attack, how much the judge's verdicts move."""
    model, rubric = JudgeModel(directory), judge_rubric()
    plain = drafts_to_judge(max(1, min(count, 400) // 4), seed)
    thrown = list(attacks(count, seed))
    which = [number % len(plain) for number in range(count)]
    attacked = [(plain[at][0], attack.on(plain[at][1])) for attack, at in zip(thrown, which, strict=True)]
    calm, stirred = model.levels(plain, rubric), model.levels(attacked, rubric)

    emails = [to_email(prompt, text, rubric) for prompt, text in plain]
    others = [emails[at - 1 if at % 4 == 3 else at + 1] for at in which]
    prompts = [plain[at][0] for at in which]
    hit = [Email(text, {}, emails[at].measured, 0.0) for (_, text), at in zip(attacked, which, strict=True)]
    before = model.winners(list(zip(prompts, (emails[at] for at in which), others, strict=True)), rubric)
    after = model.winners(list(zip(prompts, hit, others, strict=True)), rubric)

    effects: dict[str, list[Effect]] = {kind: [] for kind in (*KINDS, "all")}
    for number, attack in enumerate(thrown):
        found = _effect(rubric, calm[which[number]], stirred[number], before[number], after[number])
        effects[attack.kind].append(found)
        effects["all"].append(found)
    return {kind: _figures(found) for kind, found in effects.items() if found}


def _effect(
    rubric: Rubric,
    calm: Mapping[str, Sequence[float]],
    stirred: Mapping[str, Sequence[float]],
    before: Sequence[float],
    after: Sequence[float],
) -> Effect:
    places, shift, weight = [], 0.0, 0.0
    for each in rubric.asked:
        menu, old, new = each.levels or (), calm[each.name], stirred[each.name]
        places.append((menu.index(named(menu, old)), menu.index(named(menu, new))))
        shift += each.weight * (expected(each, new) - expected(each, old))
        weight += each.weight
    was, now = (named(MENU, shares) == "first" for shares in (before, after))
    return Effect(
        changed=statistics.mean(old != new for old, new in places),
        raised=statistics.mean(old < new for old, new in places),
        shift=shift / weight,
        won=now and not was,
        lost=was and not now,
    )


def _figures(effects: Sequence[Effect]) -> dict[str, float]:
    return {
        "attacks": len(effects),
        "levels changed": statistics.mean(each.changed for each in effects),
        "levels raised": statistics.mean(each.raised for each in effects),
        "mean change of score": statistics.mean(each.shift for each in effects),
        "comparisons won": statistics.mean(each.won for each in effects),
        "comparisons lost": statistics.mean(each.lost for each in effects),
    }
