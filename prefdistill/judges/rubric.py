"""Judge `rubric`: a teacher answers the rubric's asked criteria, checks answer the others.

Gates and checks first, without a call; then one call a draft with all asked criteria (or one a criterion); then drafts
are compared in both orders where that decides what becomes a pair. Identical texts are judged once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from prefdistill.judges.asking import AskingJudge, Member, swiss_rounds
from prefdistill.judges.distributions import mean
from prefdistill.judges.pairwise import PairwiseJudge
from prefdistill.judges.prompts import fence, fence_conversation, render_prompt
from prefdistill.judges.replies import level_schema, parse_levels
from prefdistill.judges.texts import Checked, asked_criteria, asked_of, check_texts, same_texts, text_key
from prefdistill.judges.unanswered import for_each_draft, readable, spent, without_log_probs
from prefdistill.protocols import Reply, Teacher, TeacherRequest
from prefdistill.records import (
    NOT_ASKED,
    CriterionScore,
    Draft,
    Failure,
    Judgement,
    Preference,
    Prompt,
    ScorePath,
    Usage,
    Verdict,
)
from prefdistill.rubric import Criterion, Rubric
from prefdistill.selection import (
    Contender,
    GateFailures,
    choose_best_worst,
    compare_texts,
    contenders,
    rank_drafts,
)
from prefdistill.tournament import run_scheme


@dataclass(frozen=True)
class Topic:
    """What one question about a draft asks, the same for all drafts of a prompt."""

    criteria: tuple[Criterion, ...]
    values: Mapping[str, Mapping[str, float]]
    """Per criterion, what each of its levels is worth."""
    about: Mapping[str, Any]
    schema: dict[str, Any]
    menu: int
    """Levels of the criterion that has most."""
    conversation: str
    """What the assistant was asked, fenced."""


Parts = list[tuple[Topic, list[TeacherRequest]]]
"""The requests about one draft: on each topic one, or `samples` of them."""


class RubricJudge(AskingJudge):
    """Scores each draft on the rubric by asking a teacher, then has drafts compared where it decides a pair."""

    prompt_files: ClassVar[tuple[str, ...]] = ("score", "compare")

    calls: Literal["per_draft", "per_criterion"] = "per_draft"
    """One call a draft with all asked criteria, or one call a draft and criterion: about four times the cost."""
    confirm: Literal["none", "best_worst", "round_robin", "swiss"] = "best_worst"
    """What is compared in both orders after scoring: nothing; the two drafts that would make a pair; every two that
    pass the gates; or a Swiss tournament among them, then the two that would make a pair. Scores select, comparisons
    break their ties, and a pair stands only if both orders agree with it."""
    gate_failures: GateFailures = "reject"
    """Which drafts may be the worst; keep it equal to pair.gate_failures, so that the right two are confirmed."""

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        """Return each draft's scores, and the comparisons that confirm what would become a pair."""
        texts = check_texts(prompt, drafts, rubric)
        same = same_texts(drafts)
        judgements: list[Judgement] = []
        failures: list[Failure] = []
        for member in self.members:
            scored = self._score(prompt, list(texts.values()), rubric, member)
            for key, checked in texts.items():
                result = scored[checked.draft.id]
                if isinstance(result, Failure):
                    failures += for_each_draft(result, same[key])
                    continue
                for number, draft in enumerate(same[key]):
                    update = {"draft_id": draft.id, **({"usage": Usage()} if number else {})}
                    judgements.append(result.model_copy(update=update))
        self.note_parsed({score.path for each in judgements for score in each.scores})
        verdict = Verdict(prompt_id=prompt.id, judgements=tuple(judgements), failures=tuple(failures))
        return self._confirmed(prompt, drafts, rubric, verdict, texts)

    def comparer(self) -> PairwiseJudge:
        """Return the judge that asks the same teachers to compare drafts directly."""
        options = {name: getattr(self, name) for name in AskingJudge.model_fields}
        judge = PairwiseJudge.model_validate(options)
        judge._use, judge._members, judge._layer, judge._again = "pairwise", self._members, self._layer, self._again
        return judge

    def preview(self, prompt: Prompt, draft: Draft, rubric: Rubric) -> str:
        """Return the prompt that is sent for one draft (the first of them), as text."""
        parts = self._parts(draft, self._topics(prompt, rubric))
        messages = parts[0][1][0].messages if parts else ()
        return "\n\n".join(f"[{each.role}]\n{each.content}" for each in messages)

    def raw_reply(self, prompt: Prompt, draft: Draft, rubric: Rubric) -> str:
        """Return the teacher's reply to what `preview` shows; a reply that was paid for comes from the cache."""
        parts = self._parts(draft, self._topics(prompt, rubric))
        if not parts:
            return ""
        request = parts[0][1][0]
        reply = self.ask([request], self.members[0])[request.key]
        return f"{reply.kind}: {reply.message}" if isinstance(reply, Failure) else reply.text

    def expected_requests(
        self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric
    ) -> list[tuple[Teacher, TeacherRequest]]:
        """Return every request that judging this group makes where nothing fails, ties or is in the cache."""
        topics = self._topics(prompt, rubric)
        requests = [each for draft in drafts for _, part in self._parts(draft, topics) for each in part]
        found: list[tuple[Teacher, TeacherRequest]] = [
            (member.teacher, each) for member in self.members for each in requests
        ]
        if asked_criteria(rubric, prompt) and len(drafts) > 1:
            found += self.expected_comparisons(prompt, drafts, rubric, self._comparisons_expected(len(drafts)))
        return found

    def _comparisons_expected(self, drafts: int) -> int:
        if self.confirm == "swiss":
            return swiss_rounds(drafts) * (drafts // 2) + 1
        return {"none": 0, "best_worst": 1, "round_robin": drafts * (drafts - 1) // 2}[self.confirm]

    def _topics(self, prompt: Prompt, rubric: Rubric) -> list[Topic]:
        """Return what is asked about each draft: all criteria at once, or one after the other."""
        asked = asked_criteria(rubric, prompt)
        groups = [(each,) for each in asked] if self.calls == "per_criterion" else [tuple(asked)] if asked else []
        conversation = fence_conversation(prompt)
        return [
            Topic(
                criteria,
                {each.name: {level: each.score_of(level) for level in each.levels or ()} for each in criteria},
                self.about(rubric, asked_of(rubric, prompt, criteria)),
                level_schema(criteria, self.reason),
                max(len(each.levels or ()) for each in criteria),
                conversation,
            )
            for criteria in groups
        ]

    def _parts(self, draft: Draft, topics: Sequence[Topic]) -> Parts:
        """Return the requests about one draft."""
        parts: Parts = []
        fenced = fence("draft", draft.completion)
        for number, topic in enumerate(topics):
            messages = render_prompt("score", topic.about, conversation=topic.conversation, draft=fenced)
            requests = [
                self.request(
                    f"{draft.id}#{number}#{repeat}",
                    messages,
                    topic.schema,
                    topic.menu,
                    repeat,
                    self.scoring == "sampled",
                )
                for repeat in range(self.replies_wanted)
            ]
            parts.append((topic, requests))
        return parts

    def _score(
        self, prompt: Prompt, texts: Sequence[Checked], rubric: Rubric, member: Member
    ) -> dict[str, Judgement | Failure]:
        """Return each distinct text's judgement by draft id, asking only about those that pass the checked gates."""
        topics = self._topics(prompt, rubric)
        parts = {each.draft.id: [] if each.failed else self._parts(each.draft, topics) for each in texts}
        replies = self.ask([each for several in parts.values() for _, part in several for each in part], member)
        results: dict[str, Judgement | Failure] = {}
        name = self.name
        for checked in texts:
            answers: dict[str, CriterionScore] = {}
            used = [replies[each.key] for _, part in parts[checked.draft.id] for each in part]
            lost: Failure | None = None
            for topic, part in parts[checked.draft.id]:
                found = self._read_levels(checked.draft.id, topic, [replies[each.key] for each in part])
                if isinstance(found, Failure):
                    lost = lost if lost is not None and lost.kind == "provider" else found
                else:
                    answers |= found
            if lost is not None:
                update = {"usage": spent(used), "member": member.name}
                results[checked.draft.id] = lost.model_copy(update=update)
                continue
            results[checked.draft.id] = Judgement(
                draft_id=checked.draft.id,
                judge=name,
                member=member.name,
                scores=_in_order(rubric, checked, answers),
                scale="rubric",
                usage=spent(used),
            )
        return results

    def _read_levels(
        self, draft_id: str, topic: Topic, replies: Sequence[Reply | Failure]
    ) -> dict[str, CriterionScore] | Failure:
        """Return the score of each criterion that was asked in these replies."""
        read = readable(draft_id, replies, lambda reply: parse_levels(reply.text, topic.criteria))
        if isinstance(read, Failure):
            return read
        reply, first = read[0]
        answers: dict[str, CriterionScore] = {}
        for name, values in topic.values.items():
            level, reason = first[name]
            score, menu = values[level], tuple(values)
            path: ScorePath = "parsed"
            if self.scoring == "sampled":
                named = [levels[name][0] for _, levels in read]
                shares: tuple[float, ...] | None = tuple(named.count(each) / len(named) for each in menu)
                path = "sampled"
            else:
                shares = self.shares_of(reply, "level", (name,), menu, level)
                path = "parsed" if shares is None else "logprob"
            if shares is None and self.scoring == "logprob":
                return without_log_probs(draft_id, reply, name)
            if shares is not None:
                score = mean(shares, values, menu)
            answers[name] = CriterionScore(
                criterion=name, level=level, score=score, reason=reason, path=path, distribution=shares
            )
        return answers

    def _confirmed(
        self,
        prompt: Prompt,
        drafts: Sequence[Draft],
        rubric: Rubric,
        verdict: Verdict,
        texts: Mapping[tuple[str, bool], Checked],
    ) -> Verdict:
        """Add the comparisons that `confirm` asks for.

        A rejected draft that fails a gate needs none, one that speaks to the judge makes no pair, and a rubric without
        asked criteria leaves nothing to ask.
        """
        if self.confirm == "none" or not asked_criteria(rubric, prompt):
            return verdict
        by_id = {draft.id: draft for draft in drafts}

        def compare(two: Sequence[tuple[str, str]]) -> dict[tuple[str, str], float | None]:
            nonlocal verdict
            pairs = [(self._as_checked(by_id[a], texts), self._as_checked(by_id[b], texts)) for a, b in two]
            preferences, failures = self.compare(prompt, pairs, rubric)
            verdict = _with(verdict, preferences, failures)
            found = {(a, b): compare_texts(preferences, (a,), (b,)) for a, b in two}
            return {ids: None if each is None else each.probability for ids, each in found.items()}

        if self.confirm != "best_worst":
            ranking = rank_drafts(prompt, drafts, verdict, rubric, round=0)
            rivals = [each for each in contenders(ranking, drafts, prompt=prompt) if each.passes and not each.flag]
            ids = [each.draft_id for each in rivals]
            run_scheme(self.confirm, ids, compare, rounds=swiss_rounds(len(ids)))
        while (two := self._unconfirmed(prompt, drafts, rubric, verdict)) is not None:
            compare([two])
            if self.confirm == "best_worst":
                break  # one comparison cannot select other drafts; a tournament's ties can
        return verdict

    def _unconfirmed(
        self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric, verdict: Verdict
    ) -> tuple[str, str] | None:
        """Return the two drafts that best against worst selects, where they should be compared and were not."""
        ranking = rank_drafts(prompt, drafts, verdict, rubric, round=0)
        selected = choose_best_worst(prompt, drafts, ranking, self.tie_margin, self.gate_failures)
        if selected is None or not selected[1].passes or any(each.flag for each in selected):
            return None
        asked = {frozenset((each.first_id, each.second_id)) for each in verdict.preferences}
        asked |= {frozenset(failure.key.split("|")) for failure in verdict.failures if "|" in failure.key}
        return None if _met(selected, asked) else (selected[0].draft_id, selected[1].draft_id)

    def _as_checked(self, draft: Draft, texts: Mapping[tuple[str, bool], Checked]) -> Checked:
        return Checked(draft, texts[text_key(draft)].scores, ())


def _met(two: tuple[Contender, Contender], asked: set[frozenset[str]]) -> bool:
    return any(frozenset((a, b)) in asked for a in two[0].equal_ids for b in two[1].equal_ids)


def _with(verdict: Verdict, preferences: Sequence[Preference], failures: Sequence[Failure]) -> Verdict:
    update = {
        "preferences": (*verdict.preferences, *preferences),
        "failures": (*verdict.failures, *failures),
    }
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
