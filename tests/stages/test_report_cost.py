"""What a run cost, what failed how often, and the judge against people: in the page and in result.json."""

import json
import re
from dataclasses import replace

import pytest

from prefdistill.records import Usage
from prefdistill.stages.report import render_report, render_result
from prefdistill.stages.report.agreement import agreement_tables
from tests.stages.test_report import Page, make_report

COUNTS = {
    "prompts": 256,
    "path_logprob": 3012,
    "path_parsed": 44,
    "path_checked": 4096,
    "compared_parsed": 402,
    "flagged": 3,
    "flip_rate": 0.1875,
    "truncated_share": 0.012,
}
AGREEMENT = {
    "tables": [
        {
            "title": "Judge against people, pairs",
            "columns": ["figure", "judge", "95 % interval", "pairs", "what it means"],
            "rows": [
                [
                    "agreement, ties left out",
                    0.815,
                    "0.77 to 0.86",
                    380,
                    "share of pairs on which judge and people agree",
                ],
                ["Cohen's kappa", 0.63, "0.54 to 0.71", 380, "agreement beyond chance; 0.6 and more is substantial"],
                ["longest wins", 0.64, "0.59 to 0.69", 380, "what preferring the longer draft would reach"],
                ["human ceiling", None, None, 0, "one person labelled, so there is none"],
            ],
            "note": "The judge is self-consistent on 96 % of the pairs, shown in both orders.",
        },
        {
            "title": "By criterion",
            "columns": ["criterion", "kappa"],
            "rows": [["tone", -0.031], ["request_first", 0.7]],
        },
    ]
}


@pytest.fixture(scope="module")
def report():
    made = make_report()
    rounds = tuple(
        each.model_copy(update={"counts": COUNTS})
        if each.train
        else each.model_copy(update={"failed": 2, "failures": {"judge.parse": 2}})
        for each in made.rounds
    )
    return replace(made, rounds=rounds, agreement=AGREEMENT)


def text_of(html: str) -> str:
    return " ".join("".join(Page(html).words).split())


def test_cost_a_pair_and_a_kept_pair_by_round_and_in_total(report):
    result = json.loads(json.dumps(render_result(report)))
    zero, one = result["rounds"][:2]
    assert one["usd_per_pair"] == pytest.approx(2.41 / 256)
    assert one["usd_per_kept_pair"] == pytest.approx(2.41 / 175)
    assert one["tokens_per_kept_pair"] == pytest.approx(5_610_000 / 175)
    assert (zero["usd_per_pair"], zero["usd_per_kept_pair"], zero["tokens_per_kept_pair"]) == (None, None, None)
    kept = sum(each["pairs"] for each in result["rounds"])
    cost = result["cost"]
    assert cost["usd_per_pair"] == pytest.approx(5 * 2.41 / (5 * 256))
    assert cost["usd_per_kept_pair"] == pytest.approx(5 * 2.41 / kept)
    assert cost["calls"] == 5 * 6100 + 6 * 480 + 960
    assert cost["usd"] == pytest.approx(5 * 2.41 + 6 * 0.14 + 0.29)
    page = text_of(render_report(report))
    for words in ("What a pair cost", f"{2.41 / 175:.2g}", f"{5_610_000 / 175:,.0f}", f"{5 * 2.41 / kept:.2g}"):
        assert words in page, words


def test_without_a_price_dollars_are_unknown_and_never_nothing(report):
    unpriced = replace(report, unpriced=("teacher-large",))
    result = render_result(unpriced)
    assert result["cost"]["usd"] is None
    assert result["cost"]["unpriced"] == ["teacher-large"]
    assert result["rounds"][1]["judge_usd"] is None
    assert result["rounds"][1]["usd_per_kept_pair"] is None
    assert result["rounds"][1]["tokens_per_kept_pair"] is not None
    page = text_of(render_report(unpriced))
    assert "No price is known for teacher-large" in page
    assert "0.00" not in page[page.index("No price is known") : page.index("Time by stage")]


def test_a_round_from_the_cache_has_no_cost_of_its_own(report):
    cached = tuple(each.model_copy(update={"usage": Usage(cached=6100)}) for each in report.rounds)
    result = render_result(replace(report, rounds=cached))
    assert result["rounds"][1]["usd_per_kept_pair"] is None
    assert result["rounds"][1]["judge_cached"] == 6100
    assert "What a pair cost" not in render_report(replace(report, rounds=cached))


def test_the_page_says_what_failed_how_often_and_where_scores_came_from(report):
    page = text_of(render_report(report))
    for words in (
        "10 parse4 provider2 truncated",
        "2 parse",
        "scores by log-probabilities",
        "3,012",
        "drafts that address the judge",
        "share whose winner changed with the order",
        "0.188",
    ):
        assert words in page, words
    assert "path logprob" not in page


def test_the_judge_against_people(report):
    html = render_report(report)
    assert Page(html).open == []
    page = text_of(html)
    for words in (
        "The judge against people",
        "Cohen's kappa",
        "0.630",
        "−0.031",
        "what preferring the longer",
        "self-consistent",
    ):
        assert words in page, words
    assert 'href="#people"' in html
    assert "The judge against people" not in render_report(replace(report, agreement=None))


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"tables": "many"},
        {"tables": [1, None, "x"]},
        {"tables": [{"title": 3, "columns": None, "rows": [1, ["a"], ["b", 2, 3]]}]},
        {"tables": [{"columns": ["a"], "rows": {"a": 1}}]},
        {"tables": [{"title": "t", "columns": ["a", "b"], "rows": [], "note": None}]},
        {"tables": [{"columns": ["a", "b"], "rows": [[{"x": 1}, [1, 2]], [True, float("inf")]]}]},
        {"error": "agreement.json cannot be read (<b>)"},
        {"judge": ["<b>"], "people": "ana", "pairs": "many", "warnings": {"a": 1}},
    ],
)
def test_whatever_agreement_json_holds_the_page_is_whole(report, broken):
    page = Page(render_report(replace(report, agreement=broken)))
    assert page.open == []
    assert page.tags.count("b") == Page(render_report(replace(report, agreement=None))).tags.count("b")


def test_agreement_is_shown_as_text(report):
    hostile = "<script>alert(1)</script>\u202e{{ 7 * 7 }}<td>"
    table = {"title": hostile, "columns": [hostile, "n"], "rows": [[hostile, hostile]], "note": hostile}
    html = render_report(replace(report, agreement={"tables": [table]}))
    page = Page(html)
    assert "script" not in page.tags
    assert page.open == []
    assert "\u202e" not in html
    assert re.search(r"\{\{ 7 \* 7 \}\}", "".join(page.words))


def test_who_was_measured_and_what_was_found_stand_above_the_tables(report):
    found = {
        **AGREEMENT,
        "judge": "rubric (m)",
        "pairs": 380,
        "prompts": 95,
        "people": ["ana", "ben"],
        "warnings": ["<position> bias"],
    }
    page = text_of(render_report(replace(report, agreement=found)))
    assert "rubric (m), 380 pairs of 95 prompts, labelled by ana, ben" in page
    assert "<position> bias" in page


def test_calls_that_wrote_drafts_are_told_beside_the_judging(report):
    charged = Usage(calls=90_000, prompt_tokens=50_000_000, usd=20.5)
    result = render_result(replace(report, charged=charged))["cost"]
    assert (result["charged_calls"], result["charged_usd"]) == (90_000, 20.5)
    assert "90,000 calls, 50,000,000 tokens, 20.50 US dollars" in text_of(
        render_report(replace(report, charged=charged))
    )
    assert "replies that were paid for and lost" not in render_report(report)
    unpriced = replace(report, charged=charged, unpriced_writers=("served",))
    assert render_result(unpriced)["cost"]["charged_usd"] is None
    assert render_result(unpriced)["cost"]["usd"] is not None
    rounds = tuple(each.model_copy(update={"usage": Usage(), "evaluation_usage": Usage()}) for each in report.rounds)
    free = replace(report, rounds=rounds, test_usage=Usage())
    assert "No paid call was made." in text_of(render_report(free))
    page = text_of(render_report(replace(free, charged=charged)))
    assert "Judging made no call." in page
    assert "90,000 calls" in page


def test_long_tables_are_cut_and_said_to_be():
    (table,) = agreement_tables({"tables": [{"columns": ["a"], "rows": [[n] for n in range(1000)]}]})
    assert (len(table.rows), table.left_out) == (200, 800)
    (table,) = agreement_tables({"tables": [{"columns": ["a"], "rows": [["x" * 100_000]]}]})
    assert len(table.rows[0][0]) == 301
