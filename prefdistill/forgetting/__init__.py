"""Forget one prompt: its texts leave a run folder and the request cache, and the run goes on without it.

What is left is a row of `forgotten.jsonl`: the prompt's id, its split and hashes of its texts, so that what was made
before stays valid and nothing is drafted for it again. What was learned from it stays in trained weights; that, and
everything else that cannot be removed, is said.
"""

from prefdistill.forgetting.planning import plan_forgetting
from prefdistill.forgetting.plans import Plan
from prefdistill.forgetting.removing import finish_earlier, forget
from prefdistill.forgetting.telling import cannot_remove, describe

__all__ = ["Plan", "cannot_remove", "describe", "finish_earlier", "forget", "plan_forgetting"]
