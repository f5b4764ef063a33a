"""Judge `rubric`: a teacher answers the rubric's asked criteria, checks answer the others.

Gates and checks first, without a call; then one call a draft with all asked criteria; then the best against the
worst in both orders, because only they become a pair. Identical texts are judged once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from prefdistill.judges.asking import (
    AskingJudge,
    Checked,
    asked_criteria,
    asked_of,
    check_texts,
    for_each_draft,
    text_key,
    unreadable,
)
from prefdistill.judges.pairwise import PairwiseJudge
from prefdistill.judges.prompts import fence, fence_conversation, render_prompt
from prefdistill.judges.replies import UnreadableReplyError, level_schema, parse_levels
from prefdistill.records import NOT_ASKED, CriterionScore, Draft, Failure, Judgement, Message, Prompt, Usage, Verdict
from prefdistill.rubric import Rubric
from prefdistill.selection import GateFailures, choose_best_worst, rank_drafts


class RubricJudge(AskingJudge):
    """Scores each draft on the rubric by asking a teacher, then has the best compared with the worst."""

    prompt_files: ClassVar[tuple[str, ...]] = ("score", "compare")

    confirm: Literal["none", "best_worst"] = "best_worst"
    """Whether the two drafts that would make a pair are compared in both orders."""
    gate_failures: GateFailures = "reject"
    """Which drafts may be the worst; keep it equal to pair.gate_failures, so that the right two are confirmed."""

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        """Return each draft's scores, and the comparison of the best with the worst."""
        texts = check_texts(prompt, drafts, rubric)
        same: dict[tuple[str, bool], list[Draft]] = defaultdict(list)
        for draft in drafts:
            same[text_key(draft)].append(draft)
        scored = self._score(prompt, list(texts.values()), rubric)
        judgements: list[Judgement] = []
        failures: list[Failure] = []
        for key, checked in texts.items():
            result = scored[checked.draft.id]
            if isinstance(result, Failure):
                failures += for_each_draft(result, same[key])
                continue
            for number, draft in enumerate(same[key]):
                update = {"draft_id": draft.id, **({"usage": Usage()} if number else {})}
                judgements.append(result.model_copy(update=update))
        verdict = Verdict(prompt_id=prompt.id, judgements=tuple(judgements), failures=tuple(failures))
        return self._confirmed(prompt, drafts, rubric, verdict, texts)

    def comparer(self) -> PairwiseJudge:
        """Return the judge that asks the same teacher to compare drafts directly."""
        options = {name: getattr(self, name) for name in AskingJudge.model_fields}
        judge = PairwiseJudge.model_validate(options)
        judge._use, judge._teacher = "pairwise", self._teacher
        return judge

    def preview(self, prompt: Prompt, draft: Draft, rubric: Rubric) -> str:
        """Return the prompt that is sent for one draft, as text."""
        return "\n\n".join(f"[{each.role}]\n{each.content}" for each in self._question(prompt, draft, rubric))

    def raw_reply(self, prompt: Prompt, draft: Draft, rubric: Rubric) -> str:
        """Return the teacher's reply to what `preview` shows; a reply that was paid for comes from the cache."""
        schema = level_schema(asked_criteria(rubric, prompt), self.reason)
        request = self.request(draft.id, self._question(prompt, draft, rubric), schema)
        reply = self.ask([request])[draft.id]
        return f"{reply.kind}: {reply.message}" if isinstance(reply, Failure) else reply.text

    def _question(self, prompt: Prompt, draft: Draft, rubric: Rubric) -> tuple[Message, ...]:
        return render_prompt(
            "score",
            {"purpose": rubric.purpose, "criteria": asked_of(rubric, prompt), "reason": self.reason},
            conversation=fence_conversation(prompt),
            draft=fence("draft", draft.completion),
        )

    def _score(self, prompt: Prompt, texts: Sequence[Checked], rubric: Rubric) -> dict[str, Judgement | Failure]:
        """Return each distinct text's judgement by draft id, asking only about those that pass the checked gates."""
        asked = asked_criteria(rubric, prompt)
        schema = level_schema(asked, self.reason)
        replies = self.ask(
            [
                self.request(each.draft.id, self._question(prompt, each.draft, rubric), schema)
                for each in texts
                if asked and not each.failed
            ]
        )
        results: dict[str, Judgement | Failure] = {}
        for checked in texts:
            draft, reply = checked.draft, replies.get(checked.draft.id)
            answers: dict[str, CriterionScore] = {}
            if isinstance(reply, Failure):
                results[draft.id] = reply
                continue
            if reply is not None:
                try:
                    levels = parse_levels(reply.text, asked)
                except UnreadableReplyError as problem:
                    results[draft.id] = unreadable(draft.id, problem, reply)
                    continue
                for each in asked:
                    level, reason = levels[each.name]
                    answers[each.name] = CriterionScore(
                        criterion=each.name, level=level, score=each.score_of(level), reason=reason, path="parsed"
                    )
            results[draft.id] = Judgement(
                draft_id=draft.id,
                judge=self._use or type(self).__name__,
                scores=_in_order(rubric, checked, answers),
                scale="rubric",
                usage=reply.usage if reply is not None else Usage(),
            )
        return results

    def _confirmed(
        self,
        prompt: Prompt,
        drafts: Sequence[Draft],
        rubric: Rubric,
        verdict: Verdict,
        texts: Mapping[tuple[str, bool], Checked],
    ) -> Verdict:
        """Add the comparison of the two drafts that best against worst selects.

        A rejected draft that fails a gate needs none, and a rubric without asked criteria leaves nothing to ask.
        """
        if self.confirm == "none" or not asked_criteria(rubric, prompt):
            return verdict
        ranking = rank_drafts(prompt, drafts, verdict, rubric, round=0)
        selected = choose_best_worst(prompt, drafts, ranking, self.tie_margin, self.gate_failures)
        if selected is None or not selected[1].passes:
            return verdict
        by_id = {draft.id: draft for draft in drafts}
        two = [by_id[each.draft_id] for each in selected]
        a, b = (Checked(draft, texts[text_key(draft)].scores, ()) for draft in two)
        preferences, failures = self.compare(prompt, [(a, b)], rubric)
        update = {"preferences": tuple(preferences), "failures": (*verdict.failures, *failures)}
        return verdict.model_copy(update=update)


def _in_order(rubric: Rubric, checked: Checked, answers: Mapping[str, CriterionScore]) -> tuple[CriterionScore, ...]:
    """Return all scores in the rubric's order; a criterion without an answer does not apply, or was not asked."""
    reason = f"{NOT_ASKED}: fails the gate {', '.join(checked.failed)}" if checked.failed else ""
    return tuple(
        checked.scores.get(each.name)
        or answers.get(each.name)
        or CriterionScore(criterion=each.name, applies=False, reason=reason, path="checked")
        for each in rubric.all_criteria
    )
