"""Real drafts and GPT-4's recorded verdicts on them, in both orders, to pairs."""

import json
import random
from collections import Counter
from itertools import groupby

import pytest

from prefdistill.records import Drop, Failure, Preference, PreferencePair, Verdict
from prefdistill.selection import PairOptions
from prefdistill.stages.pair import pair_prompts
from prefdistill.stages.rank import rank_prompts
from tests.conftest import ROOT
from tests.making import ASKED, make_draft, make_prompt, make_rubric, one_rubric

DATA = ROOT.parent / "shared" / "data" / "vicuna80_gpt4_roundrobin"
pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA.exists(), reason=f"no recorded verdicts in {DATA}")]
PROBABILITY = {1: 1.0, 2: 0.0, 3: 0.5}
RUBRICS = one_rubric(make_rubric(ASKED))


def rows(name):
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def paired(shuffle, strategy="best_worst"):
    """The pairs and drops, with drafts stored (and so named) in an order of their own."""
    prompts = [make_prompt(f"q{row['question_id']}", row["text"]) for row in rows("questions.jsonl")]
    answers = rows("answers.jsonl")
    shuffle(answers)
    answers.sort(key=lambda row: row["question_id"])
    ids, drafts = {}, []
    for number, group in groupby(answers, key=lambda row: row["question_id"]):
        for index, row in enumerate(group):
            drafts.append(make_draft(row["text"], index, f"q{number}"))
            ids[number, row["model"]] = drafts[-1].id
    found = {prompt.id: ([], []) for prompt in prompts}
    for row in rows("gpt4_verdicts.jsonl"):
        first, second = (ids[row["question_id"], row[place]] for place in ("first", "second"))
        preferences, failures = found[f"q{row['question_id']}"]
        if row["score"] in PROBABILITY:
            probability = PROBABILITY[row["score"]]
            preferences.append(Preference(first_id=first, second_id=second, probability=probability, judge="gpt-4"))
        else:
            failures.append(Failure(stage="judge", key=f"{first}|{second}", kind="parse", message="unparsed"))
    verdicts = [Verdict(prompt_id=key, preferences=p, failures=f) for key, (p, f) in found.items()]
    rankings = list(rank_prompts(prompts, drafts, verdicts, RUBRICS, 1))
    return list(pair_prompts(prompts, drafts, verdicts, rankings, PairOptions(strategy=strategy), 1))


def unordered(found):
    return sorted(
        (row.prompt_id, row.chosen, row.rejected, round(row.margin, 9))
        if isinstance(row, PreferencePair)
        else (row.prompt_id, row.reason)
        for row in found
    )


@pytest.mark.parametrize("strategy", ["best_worst", "all_above_margin"])
def test_the_stored_order_changes_no_pair(strategy):
    as_stored = paired(lambda answers: None, strategy)
    assert unordered(as_stored) == unordered(paired(list.reverse, strategy))
    assert unordered(as_stored) == unordered(paired(random.Random(5).shuffle, strategy))


def test_every_prompt_gives_a_pair_or_one_reason():
    found = paired(lambda answers: None)
    assert len(found) == 80
    reasons = Counter(row.reason for row in found if isinstance(row, Drop))
    pairs = [row for row in found if isinstance(row, PreferencePair)]
    assert len(pairs) + sum(reasons.values()) == 80
    assert (len(pairs), dict(reasons)) == (77, {"orders_disagree": 3})
    assert all(0 < row.margin <= 1.0 and row.scale == "preference" for row in pairs)
