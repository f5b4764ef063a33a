"""Judge `pairwise`: a teacher compares drafts two at a time, every pair in both orders, and gives no scores.

A draft that fails a checked gate, or was cut at the token limit, loses to any that passes, without a call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import ClassVar, Literal

from prefdistill.judges.asking import AskingJudge, Checked, check_texts, text_key
from prefdistill.records import Draft, Failure, Judgement, Preference, Prompt, Usage, Verdict
from prefdistill.rubric import Rubric


class PairwiseJudge(AskingJudge):
    """Has a teacher compare drafts directly; a draft's score is its mean probability of winning."""

    scores_alone: ClassVar[bool] = False
    """A single draft cannot be scored."""

    scheme: Literal["round_robin", "anchor"] = "round_robin"
    """round_robin: every draft against every other; anchor: every draft against the first."""

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        """Return the preferences between all distinct texts, both orders each."""
        texts = check_texts(prompt, drafts, rubric)
        passing = [each for each in texts.values() if not each.failed]
        preferences, failures = self.compare(prompt, self._pairs(passing), rubric)
        for winner in passing:
            for loser in texts.values():
                if loser.failed:
                    preferences += self._settled(winner, loser)
        same: dict[str, list[Draft]] = defaultdict(list)
        for draft in drafts:
            same[texts[text_key(draft)].draft.id].append(draft)
        verdict = Verdict(
            prompt_id=prompt.id,
            preferences=tuple(copy for each in preferences for copy in _for_equal_texts(each, same)),
            failures=tuple(copy for each in failures for copy in _failed_for_equal_texts(each, same)),
        )
        return verdict.model_copy(update={"judgements": self._judgements(drafts, rubric, verdict, texts)})

    def preview(self, prompt: Prompt, draft: Draft, rubric: Rubric) -> str:
        """Return the prompt that compares one draft with another, here with itself, as text."""
        checked = check_texts(prompt, [draft], rubric)[text_key(draft)]
        messages = self.comparison(prompt, checked, checked, rubric)
        return "\n\n".join(f"[{each.role}]\n{each.content}" for each in messages)

    def _pairs(self, texts: Sequence[Checked]) -> list[tuple[Checked, Checked]]:
        """Return which texts to compare, whatever order they are stored in."""
        ordered = sorted(texts, key=lambda each: each.draft.id)
        if self.scheme == "anchor":
            return [(ordered[0], each) for each in ordered[1:]]
        return list(combinations(ordered, 2))

    def _settled(self, winner: Checked, loser: Checked) -> list[Preference]:
        """Return both orders of a comparison that a gate decides."""
        reason = f"the other draft fails the gate {', '.join(loser.failed)}"
        ids = (winner.draft.id, loser.draft.id)
        return [
            Preference(
                first_id=first,
                second_id=second,
                probability=1.0 if first == winner.draft.id else 0.0,
                judge=self._use or type(self).__name__,
                reason=reason,
            )
            for first, second in (ids, ids[::-1])
        ]

    def _judgements(
        self, drafts: Sequence[Draft], rubric: Rubric, verdict: Verdict, texts: Mapping[tuple[str, bool], Checked]
    ) -> tuple[Judgement, ...]:
        """Return each draft's checked gates, and half a point (none if it fails one) where nothing was compared."""
        compared = {draft_id for each in verdict.preferences for draft_id in (each.first_id, each.second_id)}
        compared |= {draft_id for failure in verdict.failures for draft_id in failure.key.split("|")}
        judgements = []
        for draft in drafts:
            checked = texts[text_key(draft)]
            gates = tuple(checked.scores[gate.name] for gate in rubric.gates if not gate.asked)
            alone = None if draft.id in compared else 0.0 if checked.failed else 0.5
            if gates or alone is not None:
                judge = self._use or type(self).__name__
                judgements.append(
                    Judgement(draft_id=draft.id, judge=judge, scores=gates, value=alone, scale="preference")
                )
        return tuple(judgements)


def _for_equal_texts(preference: Preference, same: Mapping[str, Sequence[Draft]]) -> list[Preference]:
    """Return a comparison of two texts for every two drafts that have them; the cost is counted once."""
    ids = [(a.id, b.id) for a in same[preference.first_id] for b in same[preference.second_id]]
    free = preference.model_copy(update={"usage": Usage()})
    return [
        (free if number else preference).model_copy(update={"first_id": first, "second_id": second})
        for number, (first, second) in enumerate(ids)
    ]


def _failed_for_equal_texts(failure: Failure, same: Mapping[str, Sequence[Draft]]) -> list[Failure]:
    """Return the failure of a comparison for every two drafts that have the texts; the cost is counted once."""
    first, second = failure.key.split("|")
    keys = [f"{a.id}|{b.id}" for a in same[first] for b in same[second]]
    free = failure.model_copy(update={"usage": Usage()})
    return [(free if number else failure).model_copy(update={"key": key}) for number, key in enumerate(keys)]
