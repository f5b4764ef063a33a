"""All rules together: what is wrong with a run's last round, and the lines of what was checked before it trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefdistill.diagnostics import drafts, judging, labels, leakage, phrases, training, trajectory
from prefdistill.diagnostics.findings import Levels, Rule, Values
from prefdistill.diagnostics.training import start_lines
from prefdistill.records import Finding, StartCheck

DATA_RULES: tuple[Rule, ...] = (*drafts.RULES, *labels.RULES, *judging.RULES, *phrases.RULES, *trajectory.RULES)
"""Rules that hold for the prompts of one kind as for all."""
RULES: tuple[Rule, ...] = (*training.RULES, *DATA_RULES, *leakage.RULES)

ABOUT_REWARD = ("phrase", "judge_hacking", "held_out_drop", "chosen_longer", "length_growth")
"""Checks about what the judge rewards."""


def find(seen: Sequence[Values], levels: Levels, data_only: bool = False) -> tuple[Finding, ...]:
    """Return what is wrong with a run's last round, stops first.

    Args:
        seen: the flat diagnostics of every round so far, the base's first.
        levels: beyond which value a check warns and stops.
        data_only: leave out the rules about training and leaks, which have no kinds of prompt.
    """
    found = [each for rule in (DATA_RULES if data_only else RULES) for each in rule(seen, levels)]
    return tuple(sorted(found, key=lambda each: each.level != "stop"))


def phrase_line(findings: Sequence[Finding], values: Values, facts: Mapping[str, str]) -> str | None:
    """Return which phrase spreads, where a finding is about what the judge rewards; it is the model's own text.

    Findings go into cards and reports without texts, so the phrase stands apart from them.
    """
    phrase = facts.get("phrase")
    if phrase is None or not any(each.check in ABOUT_REWARD for each in findings):
        return None
    now, before = values.get("phrase_share", 0.0), values.get("base_phrase_share", 0.0)
    return f"the phrase that spreads most is {phrase!r}: in {now:.0%} of the drafts, {before:.0%} of the base's"


def start_checks(values: Values, facts: Mapping[str, str], findings: Sequence[Finding]) -> tuple[StartCheck, ...]:
    """Return what was checked before a round trained, a line each."""
    alone = values.get("self_judged") == 1.0
    text = "the training judge scores the rounds too: self-judged" if alone else "another one scores the rounds"
    judges = StartCheck(name="judges", state="warn" if alone else "ok", text=text)
    return (*start_lines(values, facts, findings), judges)
