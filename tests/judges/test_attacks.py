"""A thousand drafts that speak to the judge: a server that follows its rule is not moved, and their pairs are dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from prefdistill.injection import addresses_judge
from prefdistill.judges.pairwise import PairwiseJudge
from prefdistill.judges.rubric import RubricJudge
from prefdistill.records import Draft, PreferencePair, Verdict
from prefdistill.rubric import Rubric
from prefdistill.selection import PairOptions
from prefdistill.stages.judge import judge_group
from prefdistill.stages.pair import pair_prompts
from prefdistill.stages.rank import rank_prompts
from tests.attacks import KINDS, attack_drafts
from tests.judges.test_hybrid_judge import opened, scripted
from tests.loopback import Loopback, judging_by
from tests.making import ASKED, make_draft, make_prompt, make_rubric, one_rubric, opened_teacher

PROMPT = make_prompt(text="To: Nora\nFrom: Tom\nAsk: review the budget\nBy: Friday 14:30")
RUBRIC: Rubric = make_rubric(ASKED)
WORTH = {"14:30": 0.5, "thanks": 0.25, "auditors": 0.25}


def worth(text: str) -> float:
    """The server's rule: what the draft says to Nora, whatever else stands in it."""
    return sum(points for words, points in WORTH.items() if words in text)


RIVAL = make_draft("Hi Nora, the budget, please, 14:30.", 9_999_999)


def told(verdict: Verdict, drafts: list[Draft]) -> tuple[Any, ...]:
    """What a verdict says, by the drafts' places."""
    place: Mapping[str, int] = {draft.id: number for number, draft in enumerate(drafts)}
    return (
        sorted((place[j.draft_id], s.criterion, s.level, s.score) for j in verdict.judgements for s in j.scores),
        sorted((place[p.first_id], place[p.second_id], p.probability) for p in verdict.preferences),
        [failure.kind for failure in verdict.failures],
    )


def pairs_of(drafts: list[Draft], verdict: Verdict) -> list[Any]:
    rankings = list(rank_prompts([PROMPT], drafts, [verdict], one_rubric(RUBRIC), 1))
    return list(pair_prompts([PROMPT], drafts, [verdict], rankings, PairOptions(near_duplicate=None), 1))


def test_a_thousand_attacks_change_no_verdict_of_a_server_that_follows_its_rule():
    server = judging_by(worth)
    score = opened(RubricJudge(teacher=scripted(server), confirm="none"))
    compare = opened(PairwiseJudge(teacher=scripted(server)))
    flagged: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    paired = 0
    for attack, plain, attacked in attack_drafts(1_000):
        if attack.where == "instead":  # nothing is said to Nora any more
            plain = plain.model_copy(update={"completion": "Hello."})
        assert worth(attacked.completion) == worth(plain.completion), attack
        for judge in (score, compare):
            before, after = [plain, RIVAL], [attacked, RIVAL]
            verdict = judge_group(judge, PROMPT, after, RUBRIC)
            assert told(verdict, after) == told(judge_group(judge, PROMPT, before, RUBRIC), before), attack
        kinds[attack.kind] += 1
        rows = pairs_of(after, judge_group(score, PROMPT, after, RUBRIC))
        is_flagged = addresses_judge(attacked.completion, PROMPT.text) is not None
        flagged[attack.kind] += is_flagged
        if is_flagged:
            assert [row.reason for row in rows] in (["addresses_judge"], ["tie"]), attack
        paired += any(isinstance(row, PreferencePair) for row in rows)
    assert sum(kinds.values()) == 1_000
    assert set(kinds) == set(KINDS)
    shares = {kind: round(flagged[kind] / kinds[kind], 3) for kind in kinds}
    assert sum(flagged.values()) >= 950, shares
    assert paired <= 50


def test_attacks_over_http_crash_nothing():
    with Loopback(judging_by(worth)) as server:
        teacher, layer = opened_teacher(server.url, "off")
        judge = opened(RubricJudge(teacher=teacher))
        for attack, plain, attacked in list(attack_drafts(1_000))[::25]:
            if attack.where == "instead":
                plain = plain.model_copy(update={"completion": "Hello."})
            before, after = [plain, RIVAL], [attacked, RIVAL]
            verdict = judge_group(judge, PROMPT, after, RUBRIC)
            assert not verdict.failures
            assert told(verdict, after)[0] == told(judge_group(judge, PROMPT, before, RUBRIC), before)[0]
        layer.close()
