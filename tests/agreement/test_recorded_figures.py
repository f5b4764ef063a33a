"""Every figure that was measured from real judges' recorded verdicts, again, through the product's own code."""

import json
import random
from itertools import combinations

import pytest

from prefdistill.agreement.asking import look_up_verdicts
from prefdistill.agreement.showing import measure_agreement
from prefdistill.labels import load_labels
from tests.agreement.recorded_data import (
    DATA,
    HUMAN,
    SYSTEMS,
    TRAPS,
    against_full_round_robin,
    llmbar_labels,
    llmbar_verdicts,
    measured_llmbar,
    rows,
    vicuna_verdicts,
    write_rows,
)

pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA.exists(), reason=f"no recorded verdicts in {DATA}")]

PLAIN = "Vanilla_NoRules"


def shown(measured, *names, digits=3):
    return tuple(round(measured.figures[name].value, digits) for name in names)


@pytest.mark.parametrize(
    ("judge", "pairs", "accuracy", "consistent", "accuracy_of_consistent"),
    [
        ("ChatGPT", 460, 0.698, 0.578, 0.842),
        ("GPT-4", 460, 0.785, 0.848, 0.836),
        ("PaLM2", 438, 0.708, 0.699, 0.797),
        ("LLaMA2", 461, 0.692, 0.653, 0.794),
    ],
)
def test_four_judges_on_human_labelled_pairs(tmp_path, judge, pairs, accuracy, consistent, accuracy_of_consistent):
    measured = measured_llmbar(tmp_path, f"{judge}/{PLAIN}", HUMAN)
    assert measured.figures["accuracy"].n == measured.orders.known == pairs
    assert shown(measured, "accuracy", "consistent", "both_orders") == (accuracy, consistent, accuracy_of_consistent)
    assert measured.figures["decided"].value == measured.figures["both_orders"].value
    assert 0.62 <= measured.figures["longest_wins"].value <= 0.75


@pytest.mark.parametrize(("judge", "first_pick"), [("ChatGPT", 0.97), ("GPT-4", 0.57)])
def test_which_draft_is_picked_where_the_orders_disagree(tmp_path, judge, first_pick):
    measured = measured_llmbar(tmp_path, f"{judge}/{PLAIN}", HUMAN)
    assert shown(measured, "first_pick", digits=2) == (first_pick,)


@pytest.mark.parametrize(
    ("judge", "accuracy", "consistent", "accuracy_of_consistent"),
    [("ChatGPT", 0.277, 0.589, 0.122), ("GPT-4", 0.712, 0.893, 0.737)],
)
def test_traps(tmp_path, judge, accuracy, consistent, accuracy_of_consistent):
    measured = measured_llmbar(tmp_path, f"{judge}/{PLAIN}", TRAPS)
    assert measured.figures["accuracy"].n == 319
    assert shown(measured, "accuracy", "consistent", "both_orders") == (accuracy, consistent, accuracy_of_consistent)


def test_a_long_chain_of_thought_is_no_gain_on_traps(tmp_path):
    plain, reasoned = (measured_llmbar(tmp_path, f"GPT-4/{strategy}", TRAPS) for strategy in ("Vanilla", "CoT"))
    assert shown(plain, "accuracy", digits=2) == (0.81,)
    assert shown(reasoned, "accuracy", digits=2) == (0.77,)


def test_dropping_pairs_whose_orders_disagree(tmp_path):
    """ChatGPT 0.70 to 0.84 with 58 % of pairs kept, GPT-4 0.785 to 0.84 with 85 %."""
    for judge, accuracy, kept, accuracy_of_kept in (("ChatGPT", 0.698, 0.58, 0.84), ("GPT-4", 0.785, 0.85, 0.84)):
        measured = measured_llmbar(tmp_path, f"{judge}/{PLAIN}", HUMAN)
        assert shown(measured, "accuracy") == (accuracy,)
        assert shown(measured, "consistent", "both_orders", digits=2) == (kept, accuracy_of_kept)
        assert measured.figures["trained"].value == pytest.approx(measured.figures["consistent"].value, abs=0.02)
        assert measured.figures["trained_accuracy"].value == pytest.approx(accuracy_of_kept, abs=0.005)


def test_the_meter_names_what_is_wrong_with_chatgpt_on_traps(tmp_path):
    labels = load_labels(llmbar_labels(tmp_path / "labels.jsonl", TRAPS))
    answered = look_up_verdicts(labels, llmbar_verdicts(tmp_path / "v.jsonl", f"ChatGPT/{PLAIN}", TRAPS))
    warnings = measure_agreement(answered, ["labels.jsonl"])["warnings"]
    assert [each.split(":")[0] for each in warnings] == [
        "position-biased",
        "prefers the longer draft more than people do",
        "wrong where it is sure",
    ]


@pytest.fixture(scope="module")
def vicuna(tmp_path_factory):
    return vicuna_verdicts(tmp_path_factory.mktemp("vicuna") / "verdicts.jsonl")


@pytest.fixture(scope="module")
def round_robin(vicuna):
    return against_full_round_robin(vicuna, [0])


def test_what_gpt_4_says_in_both_orders(round_robin):
    measured, calls = round_robin
    orders = measured.orders
    assert (calls, orders.asked) == (56, 2240)
    shares = {name: round(count / orders.asked, 3) for name, count in orders._asdict().items()}
    assert shares == {
        "same": 0.568,
        "tie": 0.042,
        "one_tie": 0.180,
        "to_first": 0.195,
        "to_second": 0.008,
        "unread": 0.006,
    }
    assert round(orders.to_second / orders.asked, 4) == 0.0085
    assert measured.failures == {"parse": 13}


def test_averaging_the_orders_cuts_cycles(round_robin):
    measured, _ = round_robin
    assert f"{measured.figures['cycles_one_order'].value:.1%}" == "2.4%"
    assert f"{measured.figures['cycles'].value:.2%}" == "0.24%"


def test_the_full_round_robin_is_its_own_truth(round_robin):
    measured, calls = round_robin
    assert (calls, shown(measured, "tau", "best")) == (56, (1.0, 1.0))


@pytest.mark.slow
def test_swiss_finds_the_best_with_24_calls(vicuna):
    measured, calls = against_full_round_robin(vicuna, range(0, 8, 2), scheme="swiss")
    assert calls == 24
    assert measured.figures["best"].value >= 0.88, "the figure to reach; a plain count of points gives 0.89 to 0.92"
    assert measured.figures["tau"].value >= 0.76, "the figure to reach; a plain count of points gives 0.76"
    assert shown(measured, "best", "tau", digits=2) == (0.94, 0.83)


@pytest.mark.slow
def test_an_anchor_is_cheap_and_poor(vicuna):
    """Each system is the anchor once. Tau with ties broken by chance is 0.59, as tau-b, which sets ties aside, 0.71."""
    measured, calls = against_full_round_robin(vicuna, range(8), scheme="anchor")
    assert calls == 14
    assert shown(measured, "best", "tau", digits=2) == (0.58, 0.71)


@pytest.mark.slow
def test_one_order_of_everything_is_worse_than_both(vicuna, tmp_path):
    """Each pair in one order, drawn by chance, and taken at its word in the other: five draws."""
    truth = {(row["prompt_id"], row["first"], row["second"]): row["winner"] for row in rows(vicuna)}
    turned = {"first": "second", "second": "first"}
    found = []
    for seed in range(5):
        rng, written = random.Random(seed), []
        for prompt_id in sorted({key[0] for key in truth}):
            for pair in combinations(SYSTEMS, 2):
                first, second = pair if rng.random() < 0.5 else pair[::-1]
                winner = truth[prompt_id, first, second]
                written += [
                    {"prompt_id": prompt_id, "first": first, "second": second, "winner": winner},
                    {"prompt_id": prompt_id, "first": second, "second": first, "winner": turned.get(winner, winner)},
                ]
        measured, _ = against_full_round_robin(write_rows(tmp_path / "one.jsonl", written), [0], truth=vicuna)
        found.append((measured.figures["tau"].value, measured.figures["best"].value))
    tau, best = (sum(column) / len(column) for column in zip(*found, strict=True))
    assert tau == pytest.approx(0.82, abs=0.01)
    assert best == pytest.approx(0.86, abs=0.01)


def test_the_command_prints_the_figures(tmp_path, prefdistill):
    labels = llmbar_labels(tmp_path / "labels.jsonl", HUMAN)
    verdicts = llmbar_verdicts(tmp_path / "v.jsonl", f"ChatGPT/{PLAIN}", HUMAN)
    done = prefdistill("agreement", labels, "--verdicts", verdicts, "--json", "out.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert [round(figures[name]["value"], 3) for name in ("accuracy", "consistent")] == [0.698, 0.578]
    assert "0.698" in done.stdout and "position-biased: in 189 of the 194 pairs" in done.stdout
