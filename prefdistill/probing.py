"""Log-probabilities of given texts under a policy, and how far two policies are apart on texts of one of them.

Place in the flow: after a round's evaluation, on drafts that are there already. One policy is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prefdistill.records import Message, Policy
from prefdistill.scoring import kl_estimate, log_probs
from prefdistill.student import free, load_policy, load_tokenizer
from prefdistill.template import render_completion, render_prompt, turn_end_id

if TYPE_CHECKING:
    from prefdistill.sections import StudentSection


def policy_log_probs(
    student: StudentSection, policy: Policy, directory: Path, texts: Sequence[tuple[tuple[Message, ...], str]]
) -> list[tuple[float, int]]:
    """Load a policy, score completions under it and free it.

    Args:
        student: the recipe's student.
        policy: whose probabilities are wanted.
        directory: the run folder, to which the policy's adapter is relative.
        texts: (prompt messages, all that was written); each is scored with the end token after it.

    Returns:
        For each text (sum of log-probabilities in nats, number of tokens).
    """
    if not texts:
        return []
    tokenizer = load_tokenizer(student)
    end_id = turn_end_id(tokenizer, student)
    block = student.of(policy).block
    prompts = {messages: render_prompt(tokenizer, messages, student, block) for messages in {each for each, _ in texts}}
    items = [(prompts[messages], render_completion(tokenizer, text, end_id)) for messages, text in texts]
    model = load_policy(student, policy, directory)
    try:
        return log_probs(model, items)
    finally:
        del model
        free()


def kl_to(new: Sequence[tuple[float, int]], base: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Return (KL of new to base, its standard error) in nats a completion, from texts that the new policy wrote.

    Each text adds r - 1 - ln r with r = base(y|x) / new(y|x): never negative, and KL(new || base) in expectation.

    Args:
        new: the texts scored under the policy that wrote them.
        base: the same texts scored under the other policy.
    """
    return kl_estimate(base, new)
