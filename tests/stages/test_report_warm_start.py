"""The report of a run that begins with a warm start on the teacher's answers: one name for it, and no pairs in it."""

from dataclasses import replace

import pytest

from prefdistill.stages.report import render_report, render_result
from prefdistill.stages.report.data import training_cost
from prefdistill.stages.report.markdown import render_markdown
from prefdistill.stages.report.run_charts import run_charts
from prefdistill.stages.report.run_tables import run_tables
from tests.stages.test_report import make_report
from tests.stages.test_report_cost import text_of


@pytest.fixture(scope="module")
def report():
    """Five rounds, of which the first is a warm start that learned from 175 answers."""
    made = make_report(kinds=False)
    warm = {"warm_start": True, "diagnostics": {"answers": 175.0, "kl_base": 0.25}}
    rounds = [each.model_copy(update=warm) if each.round == 1 else each for each in made.rounds]
    return replace(made, rounds=tuple(rounds))


@pytest.fixture(scope="module")
def alone(report):
    return replace(report, rounds=report.rounds[:2], best_round=1)


def cells(text, table):
    """Return a Markdown table's rows of cells, its head first."""
    lines = text.split(f"#### {table}\n\n")[1].split("\n\n")[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return [head, *rows]


def test_markdown_names_it_and_the_kept_round_beside_their_numbers(report):
    text = render_markdown(report)
    head, *rows = cells(text, "Rounds")
    assert [row[0] for row in rows] == ["0 (base)", "1 (warm start)", "2", "3", "4 (kept)", "5"]
    assert "Kept" not in head and len(head) == 12
    answers, pairs = head.index("Answers"), head.index("Pairs")
    assert [(row[answers], row[pairs]) for row in rows[:3]] == [("–", "–"), ("175", "–"), ("–", "166")]
    assert "round 0 is the base, round 1 the warm start." in text
    assert [row[0] for row in cells(text, "Cost of judging")[2:]][:1] == ["1 (warm start)"]
    assert "online, warm start + 4 rounds, seed 7" in text
    plain = render_markdown(make_report())
    assert "warm start" not in plain and "online, 5 rounds, seed 7" in plain and "Answers" not in plain


def test_markdown_and_page_name_it_where_it_is_kept(alone):
    for text in (render_markdown(alone), render_report(alone)):
        assert "Round 1 (warm start) is kept: its drafts beat the base’s" in text
        assert "online, warm start alone, seed 7" in text
    assert "| 1 (warm start, kept) |" in render_markdown(alone)


def test_tables_of_values_keep_numbers_and_tell_answers_from_pairs(report):
    tables = {table.name: table for table in run_tables(report)}
    titles = [column.title for column in tables["rounds"].columns]
    rows = [dict(zip(titles, row, strict=True)) for row in tables["rounds"].rows]
    assert [(row["Round"], row["Answers"], row["Pairs"]) for row in rows[:3]] == [
        (0, None, None), (1, 175, None), (2, None, 166),
    ]  # fmt: skip
    assert tables["drops"].title == "Prompts without an answer or a pair, by reason"


def test_the_page_tells_answers_from_pairs(report, alone):
    page = text_of(render_report(report))
    for words in (
        "Round 0 is the base, round 1 the warm start.",
        "online, warm start + 4 rounds, seed 7",
        "Teacher’s answers1,024 written, 175 trained on",
        "Training drafts4,096 sampled, 4,002 judged",
        f"Pairs{166 + 157 + 148 + 139:,}",
        "FailedAnswersPairsNo answer or pair",
    ):
        assert words in page, words
    page = text_of(render_report(alone))
    assert "FailedAnswersNo answer" in page and "Training drafts" not in page and "What a pair cost" not in page


def test_answers_are_no_pairs_that_were_paid_for(report, alone):
    cost, pairs = render_result(report)["cost"], 166 + 157 + 148 + 139
    assert cost["usd_per_kept_pair"] == pytest.approx(4 * 2.41 / pairs)
    assert render_result(report)["rounds"][1]["usd_per_kept_pair"] is None
    assert training_cost(alone).usd_per_kept_pair is None


def test_programs_are_told_what_a_round_was(report):
    rounds = render_result(report)["rounds"]
    assert [(each["warm_start"], each["learned_from"]) for each in rounds[:3]] == [
        (False, None), (True, "answers"), (False, "pairs"),
    ]  # fmt: skip


def test_charts_name_it_where_the_pointer_is(report):
    charts = {chart.title: chart for chart in run_charts(report)}
    assert charts["Score on validation drafts"].heads == {1.0: "warm start"}
    assert charts["Score against √KL to the base"].heads == {0.0: "round 0", 0.5: "round 1 (warm start)"}


def test_nothing_is_said_of_pairs_where_none_were_made(alone):
    assert "no judge chose between drafts to train on, the teacher’s answers were." in render_markdown(alone)
    kept = replace(alone, best_round=0, test=())
    assert "The base is kept: the warm start did not score higher" in render_markdown(kept)
    more = replace(alone, rounds=make_report().rounds[:1] + alone.rounds[1:] * 2, best_round=0, test=())
    assert "The base is kept: neither the warm start nor a round after it scored higher" in render_markdown(more)
