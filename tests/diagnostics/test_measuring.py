"""Measuring a whole round: every name explained, kinds apart, and no records that break it."""

import json
import math
import random

import pytest

from prefdistill.diagnostics import drafts, judging, labels, leakage, trajectory
from prefdistill.diagnostics.findings import Levels
from prefdistill.diagnostics.measuring import NAMES, RoundData, describe_round, measure_round
from prefdistill.records import Verdict
from tests.diagnostics.rounds import by_id, drop, pair_of, prose, written
from tests.making import both_orders, failed, make_draft, make_prompt, scored, valued

RULES = (*drafts.RULES, *labels.RULES, *judging.RULES, *trajectory.RULES, *leakage.RULES)
ODD = [
    "",
    " ",
    "\n",
    "ok",
    "日本語です",
    "🙂🙂",
    "a\u0000b",
    "\ud7ff x",
    "<script>alert(1)</script>",
    "İstanbul ß ﬁ",
    "word " * 10_000,
]


STOCK = "Thanks a lot for this."


def whole_round(count=24, seed=0):
    """A round with everything in it: scores, comparisons, repeats, failures, two drafts a prompt."""
    texts = prose(2 * count, 60, seed=seed)
    groups = [
        (
            written(f"{a}. {STOCK}", f"p{n}", n % 2, log_prob=-20.0),
            written(b + n % 2 * " and so on, as it ever was", f"p{n}", 1 - n % 2, log_prob=-25.0),
        )
        for n, (a, b) in enumerate(zip(texts[::2], texts[1::2], strict=True))
    ]
    verdicts = {}
    for number, (a, b) in enumerate(groups):
        asked = both_orders(a, b)
        repeats = [each.model_copy(update={"repeat": 1}) for each in asked]
        verdicts[f"p{number}"] = Verdict(
            prompt_id=f"p{number}",
            judgements=(valued(a, 0.9), valued(b, 0.1)),
            preferences=(*asked, *repeats),
            failures=(failed("x"),) if number == 0 else (),
        )
    single = both_orders(*groups[0])[:1]
    verdicts["p0"] = verdicts["p0"].model_copy(update={"preferences": tuple(single)})
    held = [
        written(text, f"v{n}", purpose="validation", log_prob=-9.0) for n, text in enumerate(prose(count, 60, seed=5))
    ]
    stock = [each.model_copy(update={"completion": f"{each.completion}. {STOCK}"}) for each in held]
    return RoundData(
        prompts=[make_prompt(f"p{n}") for n in range(count)],
        drafts=by_id(each for group in groups for each in group),
        verdicts=verdicts,
        pairs=[pair_of(better, worse) for better, worse in groups],
        drops=[drop("p-none")],
        policy_drafts=stock,
        base_drafts=held,
        teacher_drafts=[make_draft(text, prompt_id=f"v{n}") for n, text in enumerate(prose(count, 60, seed=6))],
    )


def test_every_number_is_explained_and_finite():
    values = measure_round(whole_round())
    named = {name.partition("/")[0].removesuffix("_se") for name in values}
    assert named <= set(NAMES), sorted(named - set(NAMES))
    assert all(isinstance(value, float) and math.isfinite(value) for value in values.values())
    missing = set(NAMES) - named
    assert missing <= {"teacher_entropy", "answers", "answer_yield"}, sorted(missing)
    json.dumps(values, allow_nan=False)


def test_the_phrase_is_a_fact_beside_its_shares():
    data = whole_round()
    assert describe_round(data)["phrase"] == "thanks a lot for this"
    assert measure_round(data)["phrase_share"] == 1.0
    assert describe_round(RoundData()) == {}


def test_a_round_of_nothing_measures_nothing_that_is_not_there():
    assert measure_round(RoundData()) == {"prompts": 0.0, "pairs": 0.0}


@pytest.mark.parametrize(
    "left_out", ["prompts", "drafts", "verdicts", "pairs", "policy_drafts", "base_drafts", "teacher_drafts"]
)
def test_any_part_may_be_missing(left_out):
    data = whole_round()
    parts = {**data.__dict__, left_out: type(getattr(data, left_out))()}
    values = measure_round(RoundData(**parts))
    assert values["pairs"] == (0 if left_out == "pairs" else 24)
    check_rules([{}, values])


def check_rules(rounds):
    """No rule may fail on any numbers, whatever the levels are."""
    for levels in (Levels(), Levels(stop=None)):
        for number in range(1, len(rounds) + 1):
            for rule in RULES:
                for each in rule(rounds[:number], levels):
                    assert each.message and each.value is not None and math.isfinite(each.value)


@pytest.mark.parametrize("seed", range(12))
def test_odd_texts_and_missing_numbers_break_nothing(seed):
    rng = random.Random(seed)

    def odd(prompt_id, index, purpose="train"):
        tokens = rng.choice([0, 3, 500])
        draft = written(rng.choice(ODD), prompt_id, index, tokens, rng.choice([None, 0.0, -3.5]), purpose)
        if rng.random() < 0.3:
            draft = draft.model_copy(
                update={"tokens": None, "source": "teacher", "policy": None, "finish_reason": None}
            )
        return draft

    groups = [[odd(f"p{n}", index) for index in range(rng.choice([0, 1, 2, 4]))] for n in range(rng.choice([1, 3, 20]))]
    pairs = [
        pair_of(a, b, rng.choice(["rubric", "custom", "preference"]))
        for a, b, *_ in (group for group in groups if len(group) > 1)
        if a.completion.strip() != b.completion.strip()
    ]
    verdicts = {
        group[0].prompt_id: Verdict(
            prompt_id=group[0].prompt_id,
            judgements=tuple(rng.choice([valued, scored])(each, rng.random()) for each in group if rng.random() < 0.7),
            preferences=tuple(both_orders(group[0], group[1])[: rng.choice([0, 1, 2])]) if len(group) > 1 else (),
            failures=(failed(group[0].id),) if rng.random() < 0.3 else (),
        )
        for group in groups
        if group
    }
    data = RoundData(
        prompts=[make_prompt(f"p{n}") for n in range(len(groups))],
        drafts=by_id(each for group in groups for each in group),
        verdicts=verdicts,
        pairs=pairs,
        drops=[drop("p0")],
        policy_drafts=[odd(f"v{n}", 0, "validation") for n in range(rng.choice([0, 1, 30]))],
        base_drafts=[odd(f"v{n}", 0, "validation") for n in range(rng.choice([0, 1, 30]))],
        teacher_drafts=[make_draft(rng.choice(ODD), prompt_id=f"v{n}") for n in range(rng.choice([0, 1, 30]))],
    )
    values = measure_round(data)
    assert all(math.isfinite(value) for value in values.values())
    describe_round(data)
    check_rules([{}, values, measure_round(whole_round(seed=seed)), values])


def test_kinds_are_measured_apart():
    data = whole_round()
    part = data.only({"p0", "p1"}, {"v3"})
    values = measure_round(part)
    assert (values["prompts"], values["pairs"], values["drafts"]) == (2, 2, 4)
    assert len(part.policy_drafts) == len(part.base_drafts) == len(part.teacher_drafts) == 1
    assert set(part.verdicts) == {"p0", "p1"}
    assert measure_round(data.only(set(), set())) == {"prompts": 0.0, "pairs": 0.0}


def test_the_order_of_records_changes_nothing():
    data = whole_round()
    turned = RoundData(
        prompts=data.prompts[::-1],
        drafts=dict(reversed(data.drafts.items())),
        verdicts=dict(reversed(data.verdicts.items())),
        pairs=data.pairs[::-1],
        drops=data.drops,
        policy_drafts=data.policy_drafts[::-1],
        base_drafts=data.base_drafts[::-1],
        teacher_drafts=data.teacher_drafts[::-1],
    )
    assert measure_round(turned) == pytest.approx(measure_round(data), abs=1e-12)
    assert describe_round(turned) == describe_round(data)


def test_no_rule_says_anything_of_a_sound_round():
    sound = measure_round(whole_round(count=64))
    assert [each.check for rule in RULES for each in rule([{}, sound], Levels())] == []
