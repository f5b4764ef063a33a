"""Schedules: who meets whom, in how many batches; and what an incomplete schedule says about the drafts."""

import random
from itertools import combinations

import pytest

from prefdistill.tournament import run_scheme, win_probabilities

STRENGTH = {f"d{number}": number for number in range(8)}


class Asked:
    """Compares by strength, and remembers what it was asked."""

    def __init__(self, unknown=()):
        self.batches, self.unknown = [], {frozenset(pair) for pair in unknown}

    def __call__(self, pairs):
        self.batches.append(list(pairs))
        return {
            pair: None if frozenset(pair) in self.unknown else float(STRENGTH[pair[0]] > STRENGTH[pair[1]])
            for pair in pairs
        }

    @property
    def pairs(self):
        return [pair for batch in self.batches for pair in batch]


@pytest.mark.parametrize(("scheme", "batches", "calls"), [("round_robin", 1, 28), ("anchor", 1, 7), ("swiss", 3, 12)])
def test_a_scheme_asks_each_pair_once_in_as_few_batches_as_it_can(scheme, batches, calls):
    asked = Asked()
    found = run_scheme(scheme, STRENGTH, asked)
    assert (len(asked.batches), len(asked.pairs)) == (batches, calls)
    assert len({frozenset(pair) for pair in asked.pairs}) == calls
    assert all(a < b for a, b in asked.pairs)
    assert found == dict.fromkeys(asked.pairs, 0.0)


@pytest.mark.parametrize("scheme", ["round_robin", "anchor", "swiss"])
def test_the_stored_order_changes_nothing(scheme):
    shuffled = list(STRENGTH)
    random.Random(3).shuffle(shuffled)
    one, other = Asked(), Asked()
    assert run_scheme(scheme, list(STRENGTH), one) == run_scheme(scheme, shuffled, other)
    assert one.batches == other.batches


@pytest.mark.parametrize("count", range(2, 13))
@pytest.mark.parametrize("rounds", [1, 3, 20])
def test_in_a_swiss_tournament_nobody_meets_twice_or_rests_twice(count, rounds):
    ids = [f"x{number:02d}" for number in range(count)]
    batches = []

    def compare(pairs):
        batches.append(pairs)
        return {(a, b): float(a < b) for a, b in pairs}

    run_scheme("swiss", ids, compare, rounds)
    met = [frozenset(pair) for batch in batches for pair in batch]
    assert len(met) == len(set(met))
    assert 1 <= len(batches) <= rounds
    resting = [set(ids) - {each for pair in batch for each in pair} for batch in batches]
    assert all(len(each) == count % 2 for each in resting)
    assert len(set().union(*resting)) == sum(map(len, resting))


def test_a_long_swiss_tournament_of_many_ends():
    ids = [f"x{number:02d}" for number in range(41)]
    assert run_scheme("swiss", ids, lambda pairs: {(a, b): float(a < b) for a, b in pairs}, rounds=99)


def test_equals_meet_in_the_second_round():
    asked = Asked()
    run_scheme("swiss", STRENGTH, asked, rounds=2)
    won = {max(pair, key=STRENGTH.get) for pair in asked.batches[0]}
    assert sum(a in won and b in won for a, b in asked.batches[1]) == 2


def test_what_comes_back_unknown_is_not_asked_again_and_is_no_tie():
    unknown = list(combinations(STRENGTH, 2))[:5]
    for scheme in ("round_robin", "swiss"):
        asked = Asked(unknown)
        found = run_scheme(scheme, STRENGTH, asked, rounds=5)
        assert len({frozenset(pair) for pair in asked.pairs}) == len(asked.pairs)
        assert not set(found) & set(unknown)


@pytest.mark.parametrize("scheme", ["round_robin", "anchor", "swiss"])
@pytest.mark.parametrize("ids", [[], ["a"], ["a", "a"]])
def test_fewer_than_two_drafts_have_nothing_to_compare(scheme, ids):
    assert run_scheme(scheme, ids, lambda pairs: pytest.fail("asked")) == {}


def test_a_full_round_robin_gives_exact_means():
    compared = {("a", "b"): 1.0, ("a", "c"): 0.75, ("b", "c"): 0.5}
    assert win_probabilities(compared, "abc") == {"a": 0.875, "b": 0.25, "c": 0.375}


def test_both_directions_of_a_pair_are_averaged():
    assert win_probabilities({("a", "b"): 1.0, ("b", "a"): 0.5}, "ab") == {"a": 0.75, "b": 0.25}


def test_a_draft_without_a_known_comparison_is_unknown():
    found = win_probabilities({("a", "b"): 1.0, ("a", "zzz"): 0.0}, ["a", "b", "c"])
    assert found == {"a": 1.0, "b": 0.0}
    assert win_probabilities({}, "abc") == {}


def test_missing_comparisons_are_filled_in_by_strength():
    """d7 beat everyone it met, d0 nobody; the one that beat a winner is above the one that beat a loser."""
    compared = {("a", "b"): 1.0, ("b", "c"): 1.0, ("c", "d"): 1.0}
    found = win_probabilities(compared, "abcd")
    assert found["a"] > found["b"] > found["c"] > found["d"]
    assert found["a"] + found["d"] == pytest.approx(1.0)
    assert sum(found.values()) == pytest.approx(2.0)
    assert 0.75 < found["a"] < 1.0, "the wins that nobody saw are not taken for certain"


def test_drafts_that_fared_alike_are_exactly_equal():
    compared = {("a", each): 1.0 for each in "bcdefgh"}
    found = win_probabilities(compared, "abcdefgh")
    assert found["a"] == 1.0
    assert max(found[each] for each in "bcdefgh") - min(found[each] for each in "bcdefgh") < 1e-12


@pytest.mark.parametrize("count", [5, 40])
def test_the_fit_is_its_own_mirror_image(count):
    rng = random.Random(count)
    ids = [f"x{number:02d}" for number in range(count)]
    compared = {pair: rng.choice([0.0, 0.25, 0.5, 0.75, 1.0]) for pair in combinations(ids, 2) if rng.random() < 0.3}
    found = win_probabilities(compared, ids)
    mirrored = win_probabilities({pair: 1 - share for pair, share in compared.items()}, ids)
    assert found == pytest.approx({each: 1 - share for each, share in mirrored.items()})


def test_swiss_finds_the_best_of_a_judge_without_noise():
    found = win_probabilities(run_scheme("swiss", STRENGTH, Asked()), STRENGTH)
    assert max(found, key=found.get) == "d7"
    assert min(found, key=found.get) == "d0"
