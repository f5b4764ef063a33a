"""Judges with a known fault: one that answers by place yields no pair in any mode; both faults are named by the meter."""

import json
from pathlib import Path
from typing import get_args

import pytest

from prefdistill.agreement.asking import ask_judge
from prefdistill.agreement.showing import measure_agreement
from prefdistill.judges.pairwise import PairwiseJudge
from prefdistill.judges.recorded import RecordedJudge
from prefdistill.judges.rubric import RubricJudge
from prefdistill.labels import load_labels
from prefdistill.protocols import RunContext
from prefdistill.recipe import load_recipe
from prefdistill.records import PreferencePair
from prefdistill.selection import PairOptions, Strategy, rank_drafts
from prefdistill.stages.judge import judge_group
from prefdistill.stages.pair import pair_prompt
from tests.agreement.recorded_data import DATA, TRAPS, llmbar_labels
from tests.conftest import ROOT
from tests.loopback import Loopback, fenced, judging_by
from tests.making import ASKED, make_drafts, make_prompt, make_rubric, opened_teacher

PROMPT = make_prompt()
RUBRIC = make_rubric(ASKED)
TEXTS = ["a", "b" * 20, "c" * 40, "d" * 60, "e" * 80, "f" * 90, "g" * 100]
BY_LENGTH = judging_by(lambda text: min(1.0, len(text) / 100))


def answering(place):
    """Levels by length, and every comparison by the place in which a draft is shown."""

    def answer(body):
        return BY_LENGTH(body) if fenced(body, "draft") is not None else json.dumps({"reason": "", "winner": place})

    return answer


MODES = [
    *((PairwiseJudge, {"scheme": scheme}) for scheme in ("round_robin", "anchor", "swiss")),
    *((RubricJudge, {"confirm": confirm}) for confirm in ("best_worst", "round_robin", "swiss")),
]


def made_by(kind, options, answer, strategies):
    """What the pair stage makes of a judge behind a server, by every strategy."""
    drafts = make_drafts(TEXTS)
    with Loopback(answer) as server:
        teacher, layer = opened_teacher(server.url, "off")
        judge = kind(**options)
        judge.open(RunContext(directory=Path(), seed=0, teacher=teacher, requests=layer))
        verdict = judge_group(judge, PROMPT, drafts, RUBRIC)
        teacher.close()
        layer.close()
    ranking = rank_drafts(PROMPT, drafts, verdict, RUBRIC, 1)
    return {
        strategy: pair_prompt(PROMPT, drafts, verdict, ranking, PairOptions(strategy=strategy), 1)
        for strategy in strategies
    }


def pairs_of(made):
    return [row for found in made.values() for row in found if isinstance(row, PreferencePair)]


@pytest.mark.parametrize(("kind", "options"), MODES)
def test_a_judge_that_knows_one_word_yields_no_pair(kind, options):
    made = made_by(kind, options, lambda body: '{"reason": "", "winner": "first"}', get_args(Strategy))
    assert not pairs_of(made)


@pytest.mark.parametrize("place", ["first", "second"])
@pytest.mark.parametrize("on_disagree", ["drop", "tie", "repeat"])
@pytest.mark.parametrize(("kind", "options"), MODES)
def test_a_judge_that_compares_by_place_yields_no_pair(kind, options, on_disagree, place):
    """Its levels are sound; a pair that was not compared while others were does not train either."""
    strategies = get_args(Strategy)
    made = made_by(kind, {**options, "on_disagree": on_disagree}, answering(place), strategies)
    assert not pairs_of(made)
    partly = options.get("confirm") in ("best_worst", "swiss")
    least = 1 if partly else len(strategies)
    assert len(pairs_of(made_by(kind, options, BY_LENGTH, strategies))) >= least, "a sound judge yields some"


@pytest.mark.parametrize("scheme", ["round_robin", "anchor", "swiss"])
@pytest.mark.parametrize("place", ["first", "second"])
def test_recorded_verdicts_by_place_yield_no_pair(tmp_path, scheme, place):
    drafts = make_drafts(TEXTS)
    path = tmp_path / "v.jsonl"
    rows = [{"prompt_id": "p", "first": a, "second": b, "winner": place} for a in TEXTS for b in TEXTS if a != b]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = RecordedJudge(path=path, scheme=scheme)
    judge.open(RunContext(directory=tmp_path, seed=0))
    verdict = judge_group(judge, PROMPT, drafts, RUBRIC)
    ranking = rank_drafts(PROMPT, drafts, verdict, RUBRIC, 1)
    for strategy in get_args(Strategy):
        (row,) = pair_prompt(PROMPT, drafts, verdict, ranking, PairOptions(strategy=strategy), 1)
        assert not isinstance(row, PreferencePair)


RECIPE = """
name: biased
rubric: r.yaml
student: {{model: "prefdistill.sandbox:student"}}
prompts: {{path: {root}/recipes/prompts/quickstart.jsonl}}
judge: {judge}
train: {{batch_size: 8}}
cache: "off"
"""
LONGEST = '''
from prefdistill import Plugin, Preference, Verdict


def better(one, other):
    return 0.5 if len(one) == len(other) else float(len(one) > len(other))


class Longest(Plugin):
    """Prefers the longer draft, whatever order drafts are shown in."""

    def judge(self, prompt, drafts, rubric):
        shown = [(a, b) for a in drafts for b in drafts if a.id != b.id]
        return Verdict(
            prompt_id=prompt.id,
            preferences=tuple(
                Preference(first_id=a.id, second_id=b.id, judge="longest", probability=better(a.completion, b.completion))
                for a, b in shown
            ),
        )
'''


def meter(folder, labels, judge):
    (folder / "longest.py").write_text(LONGEST)
    (folder / "r.yaml").write_text("name: r\ncriteria:\n  - {name: words, check: length, between: [1, 5000]}\n")
    (folder / "biased.yaml").write_text(RECIPE.format(root=ROOT, judge=judge))
    return measure_agreement(ask_judge(load_labels(labels), load_recipe(folder / "biased.yaml")), [labels.name])


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason=f"no trap pairs in {DATA}")
def test_a_judge_that_picks_the_longer_one_is_flagged_on_the_traps(tmp_path):
    result = meter(tmp_path, llmbar_labels(tmp_path / "labels.jsonl", TRAPS), '{use: "longest.py:Longest"}')
    figures = {name: each["value"] for name, each in result["figures"].items()}
    assert figures["longer"] == 1.0 and figures["consistent"] > 0.99, "two texts are equally long"
    assert figures["people_longer"] < 0.2
    assert figures["accuracy"] == figures["longest_wins"] < 0.2
    assert [each.split(":")[0] for each in result["warnings"]] == [
        "prefers the longer draft more than people do",
        "no better than picking the longer draft",
        "wrong where it is sure",
    ]


def test_a_judge_that_picks_the_longer_one_is_flagged(tmp_path):
    labels = tmp_path / "labels.jsonl"
    rows = [
        {
            "prompt": f"p{number}",
            "first": "brief",
            "second": "rather long",
            "winner": "first" if number % 4 else "second",
        }
        for number in range(40)
    ]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = meter(tmp_path, labels, '{use: "longest.py:Longest"}')
    assert any(
        "prefers the longer draft more than people do: it picks the longer one in 100% of 40 pairs, people in 25%"
        in each
        for each in result["warnings"]
    )
