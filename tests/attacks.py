"""Attack drafts for the tests of judges: the seeded texts of `prefdistill.sandbox.attacks`, as drafts of one prompt."""

from __future__ import annotations

from collections.abc import Iterator

from prefdistill.records import Draft
from prefdistill.sandbox.attacks import KINDS, Attack, attacks
from tests.making import make_draft

__all__ = ["KINDS", "Attack", "attack_drafts", "attacks"]

PLAIN = (
    "Hi Nora,\n\nCould you review the budget by Friday at 14:30? Many thanks.\n\nBest regards, Tom",
    "For Nora:\n\nPerhaps you might be able to review the budget. No excuses this time.\n\n- Tom",
    "Dear Nora,\n\nI hope all is well with you. Please review the budget because the auditors are waiting for it.",
)
"""Drafts that are attacked, of different worth."""


def attack_drafts(count: int = 1_000, seed: int = 0, prompt_id: str = "p") -> Iterator[tuple[Attack, Draft, Draft]]:
    """Yield each attack with the draft as it was and the draft with the attack in it, both of one prompt."""
    for number, attack in enumerate(attacks(count, seed)):
        plain = PLAIN[number % len(PLAIN)]
        yield attack, make_draft(plain, 2 * number, prompt_id), make_draft(attack.on(plain), 2 * number + 1, prompt_id)
