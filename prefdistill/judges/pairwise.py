"""Judge `pairwise`: a teacher compares drafts two at a time, each pair in both orders, and gives no scores.

A draft that fails a checked gate, or was cut at the token limit, loses to any that passes, without a call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import ClassVar

from prefdistill.judges.asking import AskingJudge, swiss_rounds
from prefdistill.judges.prompts import fence_conversation
from prefdistill.judges.texts import Checked, asked_of, check_texts, text_key
from prefdistill.protocols import Teacher, TeacherRequest
from prefdistill.records import Draft, Failure, Judgement, Preference, Prompt, Usage, Verdict
from prefdistill.rubric import Rubric
from prefdistill.selection import compare as compared_in_both_orders
from prefdistill.tournament import Scheme, run_scheme


class PairwiseJudge(AskingJudge):
    """Has a teacher compare drafts directly; a draft's score is its mean probability of winning."""

    scores_alone: ClassVar[bool] = False
    """A single draft cannot be scored."""

    scheme: Scheme = "round_robin"
    """round_robin: every draft against every other; anchor: every draft against the first; swiss: a few rounds in which
    equals meet, about log2(n) comparisons a draft, the rest estimated."""

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        """Return the preferences between distinct texts that the scheme asks for, both orders each."""
        texts = check_texts(prompt, drafts, rubric)
        passing = {each.draft.id: each for each in texts.values() if not each.failed}
        preferences: list[Preference] = []
        failures: list[Failure] = []

        def compare(two: Sequence[tuple[str, str]]) -> dict[tuple[str, str], float | None]:
            found, lost = self.compare(prompt, [(passing[a], passing[b]) for a, b in two], rubric)
            preferences.extend(found)
            failures.extend(lost)
            known = {(a, b): compared_in_both_orders(found, a, b) for a, b in two}
            return {ids: None if each is None else each.probability for ids, each in known.items()}

        run_scheme(self.scheme, sorted(passing), compare, rounds=swiss_rounds(len(passing)))
        self.note_parsed({each.path for each in preferences})
        for winner in passing.values():
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
        about = self.about(rubric, asked_of(rubric, prompt))
        messages = self.comparison(about, fence_conversation(prompt), checked, checked, rubric)
        return "\n\n".join(f"[{each.role}]\n{each.content}" for each in messages)

    def expected_requests(
        self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric
    ) -> list[tuple[Teacher, TeacherRequest]]:
        """Return every request that judging this group makes where nothing fails, ties or is in the cache."""
        count = len(drafts)
        comparisons = {
            "round_robin": count * (count - 1) // 2,
            "anchor": count - 1,
            "swiss": swiss_rounds(count) * (count // 2),
        }[self.scheme]
        return self.expected_comparisons(prompt, drafts, rubric, comparisons)

    def _settled(self, winner: Checked, loser: Checked) -> list[Preference]:
        """Return both orders of a comparison that a gate decides."""
        reason = f"the other draft fails the gate {', '.join(loser.failed)}"
        ids = (winner.draft.id, loser.draft.id)
        return [
            Preference(
                first_id=first,
                second_id=second,
                probability=1.0 if first == winner.draft.id else 0.0,
                judge=self.name,
                path="checked",
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
                judgements.append(
                    Judgement(draft_id=draft.id, judge=self.name, scores=gates, value=alone, scale="preference")
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
