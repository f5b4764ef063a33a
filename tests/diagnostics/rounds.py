"""A round's records in a line or two, and rounds' numbers for the rules."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from prefdistill.diagnostics.findings import Levels, Rule
from prefdistill.diagnostics.thresholds import StopLevels, WarnLevels
from prefdistill.records import Draft, Drop, Finding, Message, Policy, PreferencePair

BASE = Policy(model="m")
VOCABULARY = [
    f"{a}{b}" for a in "ba be bi bo bu da de di do du".split() for b in "ka ke ki ko ku la le li lo lu".split()
]


def written(
    text: str,
    prompt_id: str = "p0",
    index: int = 0,
    tokens: int | None = None,
    log_prob: float | None = None,
    purpose: str = "train",
    source: str = "student",
    cut: bool = False,
) -> Draft:
    """A student's draft; its tokens are its words unless they are given."""
    return Draft.model_validate(
        {
            "id": Draft.make_id(prompt_id, source, 1, purpose, index),
            "prompt_id": prompt_id,
            "source": source,
            "policy": BASE.model_dump() if source in ("student", "base") else None,
            "round": 1,
            "purpose": purpose,
            "index": index,
            "completion": text,
            "finish_reason": "length" if cut else "stop",
            "tokens": len(text.split()) if tokens is None else tokens,
            "seed": 0,
            "log_prob": log_prob,
        }
    )


def by_id(drafts: Iterable[Draft]) -> dict[str, Draft]:
    return {draft.id: draft for draft in drafts}


def prose(count: int, words: int, vocabulary: int = 100, seed: int = 0) -> list[str]:
    """Texts of random words; the smaller the vocabulary, the more they are alike."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(VOCABULARY[:vocabulary], k=words)) for _ in range(count)]


def pair_of(chosen: Draft, rejected: Draft, scale: str = "custom") -> PreferencePair:
    return PreferencePair.model_validate(
        {
            "id": f"{chosen.id}>{rejected.id}",
            "prompt_id": chosen.prompt_id,
            "round": 1,
            "prompt": (Message(role="user", content="Write."),),
            "chosen": chosen.completion,
            "rejected": rejected.completion,
            "chosen_id": chosen.id,
            "rejected_id": rejected.id,
            "chosen_score": 1.0,
            "rejected_score": 0.0,
            "margin": 1.0,
            "scale": scale,
        }
    )


def drop(prompt_id: str, reason: str = "tie") -> Drop:
    return Drop(prompt_id=prompt_id, round=1, reason=reason)


def found(
    rule: Rule,
    *rounds: Mapping[str, float],
    warn: WarnLevels | None = None,
    stop: StopLevels | None = StopLevels(),  # noqa: B008
) -> list[Finding]:
    """What a rule says of the last of the rounds, the base's numbers first."""
    return list(rule(list(rounds), Levels(warn or WarnLevels(), stop)))


def levels_found(rule: Rule, *rounds: Mapping[str, float]) -> list[tuple[str, str]]:
    """The level and check of each finding."""
    return [(each.level, each.check) for each in found(rule, *rounds)]


def curve(
    scores: Sequence[float], held_out: Sequence[float], error: float = 0.02, **other: float
) -> list[dict[str, float]]:
    """Rounds with these scores by the training judge and the held-out judge, the base first."""
    return [
        {"rubric_score": a, "held_out_score": b, "score_gain_se": error, "held_out_gain_se": error} | other
        for a, b in zip(scores, held_out, strict=True)
    ]
