"""Stage 4, rank: verdicts and the rubric's weights become one ranking a prompt. Pure: no file, no call, no chance.

Verdicts hold levels and check scores; totals and gate outcomes are computed here, so an edited weight re-scores
without a call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from prefdistill.records import Draft, Prompt, Ranking, Verdict
from prefdistill.rubric import RubricSet
from prefdistill.selection import rank_drafts


def rank_prompts(
    prompts: Iterable[Prompt], drafts: Iterable[Draft], verdicts: Iterable[Verdict], rubrics: RubricSet, round: int
) -> Iterator[Ranking]:
    """Yield the ranking of every prompt that has drafts, in the order of `prompts`; unjudged ones rank nothing."""
    drafts_of: dict[str, list[Draft]] = defaultdict(list)
    for draft in drafts:
        drafts_of[draft.prompt_id].append(draft)
    verdict_of = {verdict.prompt_id: verdict for verdict in verdicts}
    for prompt in prompts:
        if prompt.id in drafts_of:
            verdict = verdict_of.get(prompt.id) or Verdict(prompt_id=prompt.id)
            yield rank_drafts(prompt, drafts_of[prompt.id], verdict, rubrics.of(prompt), round)
