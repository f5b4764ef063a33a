"""Cases that a judge has judged, and the labelled pairs in them: what people say, what the judge says, what trains."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from prefdistill.agreement.labelled import Case, Labelled, Pair, Vote
from prefdistill.metrics.agreement import majority
from prefdistill.metrics.orders import compared_pairs
from prefdistill.records import Draft, PreferencePair, Ranking, Verdict
from prefdistill.rubric import Rubric
from prefdistill.selection import PairOptions, rank_drafts
from prefdistill.stages.pair import pair_prompt


@dataclass(frozen=True)
class JudgedCase:
    """A case with what a judge said about it."""

    case: Case
    rubric: Rubric
    passes: tuple[Verdict, ...]
    """The verdict, and those of asking everything again."""
    ranking: Ranking

    @property
    def verdict(self) -> Verdict:
        """What counts: the first verdict."""
        return self.passes[0]

    @cached_property
    def ranks(self) -> dict[str, int]:
        """Draft id to rank, from 1; drafts that could not be judged are absent."""
        return {entry.draft_id: entry.rank for entry in self.ranking.entries}

    def says(self, pair: Pair) -> int | None:
        """Return which of two drafts ranks above the other (1, 0, -1); None where one of them is not ranked."""
        if not set(pair) <= set(self.ranks):
            return None
        a, b = (self.ranks[each] for each in pair)
        return (a < b) - (a > b)


def judged_case(case: Case, rubric: Rubric, passes: Sequence[Verdict]) -> JudgedCase:
    """Rank a case's drafts by the rules that rank a round's."""
    return JudgedCase(case, rubric, tuple(passes), rank_drafts(case.prompt, case.drafts, passes[0], rubric, round=0))


@dataclass(frozen=True)
class LabelledPair:
    """Two drafts that people compared, with what they and the judge said."""

    prompt_id: str
    pair: Pair
    votes: tuple[Vote, ...]
    judged: JudgedCase
    lengths: tuple[int, int]
    """Characters."""
    trains: PreferencePair | str
    """The pair that it would train, or why none."""

    @cached_property
    def people(self) -> int:
        """What most people say; an even vote is a tie."""
        found = majority(vote.says for vote in self.votes)
        assert found is not None
        return found

    @cached_property
    def judge(self) -> int | None:
        """What the judge says; None where it does not know."""
        return self.judged.says(self.pair)

    @cached_property
    def longer(self) -> int:
        """Which is the longer one; 0 where neither is."""
        return (self.lengths[0] > self.lengths[1]) - (self.lengths[0] < self.lengths[1])

    @cached_property
    def agreed(self) -> int | None:
        """The winner of both orders, where they name the same; None otherwise."""
        compared = compared_pairs(self.judged.verdict).get(self.pair)
        if compared is None or not compared.agree:
            return None
        return 1 if compared.probability > 0.5 else -1

    @property
    def trained(self) -> int | None:
        """The draft that would be chosen; None where no pair would train."""
        if not isinstance(self.trains, PreferencePair):
            return None
        return 1 if self.trains.chosen_id == self.pair[0] else -1


def labelled_pairs(labelled: Labelled, judged: Sequence[JudgedCase], options: PairOptions) -> list[LabelledPair]:
    """Return every pair that people compared, with what the judge makes of it."""
    by_prompt: dict[str, list[JudgedCase]] = defaultdict(list)
    for each in judged:
        by_prompt[each.case.prompt.id].append(each)
    votes: dict[tuple[str, Pair], list[Vote]] = defaultdict(list)
    for vote in labelled.votes:
        votes[vote.prompt_id, vote.pair].append(vote)
    found = []
    for (prompt_id, pair), cast in votes.items():
        holder = next(each for each in by_prompt[prompt_id] if set(pair) <= each.case.ids)
        two = [draft for draft in holder.case.drafts if draft.id in pair]
        lengths = tuple(len(labelled.drafts[each].completion.strip()) for each in pair)
        found.append(
            LabelledPair(prompt_id, pair, tuple(cast), holder, (lengths[0], lengths[1]), _trains(holder, two, options))
        )
    return found


def _trains(judged: JudgedCase, two: Sequence[Draft], options: PairOptions) -> PreferencePair | str:
    """Return what the pair stage makes of two drafts: a pair, or the reason why there is none."""
    ids = {draft.id for draft in two}
    verdict = judged.verdict.model_copy(
        update={
            "judgements": tuple(each for each in judged.verdict.judgements if each.draft_id in ids),
            "preferences": tuple(each for each in judged.verdict.preferences if {each.first_id, each.second_id} <= ids),
            "failures": tuple(each for each in judged.verdict.failures if set(each.key.split("|")) <= ids),
        }
    )
    prompt = judged.case.prompt
    ranking = rank_drafts(prompt, two, verdict, judged.rubric, round=0)
    (row,) = pair_prompt(prompt, two, verdict, ranking, options, round=0)
    return row if isinstance(row, PreferencePair) else row.reason
