"""Tables as CSV and as Markdown: raw values, nothing that runs in a spreadsheet, nothing that GitHub turns into more."""

import csv
import io
import re
from dataclasses import replace

import pytest

from prefdistill.stages.report.markdown import escape_markdown, markdown_table, render_markdown
from prefdistill.stages.report.run_tables import run_tables, without_empty
from prefdistill.stages.report.tables import Column, Table, cell_text, fields, table_csv
from tests.stages.made_comparison import make_comparison
from tests.stages.test_report import make_report

TABLE = Table(
    "t",
    "T",
    (
        Column("Arm"),
        Column("Score", "score"),
        Column("95 % interval", "interval"),
        Column("Win rate", "percent"),
        Column("95 % interval", "interval"),
        Column("Gain", "signed"),
        Column("95 % interval", "signed_interval"),
        Column("Calls", "count"),
        Column("Time", "seconds"),
        Column("Cost", "usd"),
        Column("Length", "ratio"),
    ),
    (
        ("online", 0.65, (0.61, 0.69), 0.7, (0.6, 0.8), -0.06, (-0.09, -0.03), 12000, 7300.0, 0.0042, 1.1),
        ("base", None, None, None, None, None, None, None, None, None, None),
    ),
)


def read(table):
    return list(csv.reader(io.StringIO(table_csv(table))))


def test_csv_has_raw_values_and_an_interval_as_two_columns():
    head, online, base = read(TABLE)
    assert head == [
        "Arm",
        "Score",
        "Score, low",
        "Score, high",
        "Win rate",
        "Win rate, low",
        "Win rate, high",
        "Gain",
        "Gain, low",
        "Gain, high",
        "Calls",
        "Time",
        "Cost",
        "Length",
    ]
    assert online[1:] == [
        "0.65",
        "0.61",
        "0.69",
        "0.7",
        "0.6",
        "0.8",
        "-0.06",
        "-0.09",
        "-0.03",
        "12000",
        "7300",
        "0.0042",
        "1.1",
    ]
    assert base == ["base"] + [""] * 13


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_text_that_a_spreadsheet_would_run_is_quoted_and_numbers_are_not(start):
    words = f'{start}HYPERLINK("http://x","y")'
    rows = read(Table("t", "", (Column(words), Column("n", "signed")), ((words, -0.5),)))
    assert rows == [[f"'{words}", "n"], [f"'{words}", "-0.5"]]


def test_csv_bears_commas_lines_quotes_nothing_and_equal_heads():
    table = Table(
        "t",
        "",
        (Column("a"), Column("a"), Column("a", "interval")),
        (('x,"y"\nz', "\x00", None), ("b", "c", [1.0, None])),
    )
    assert read(table) == [["a", "a (2)", "a, low", "a, high"], ['x,"y"\nz', "␀", "", ""], ["b", "c", "1", ""]]


def test_not_a_number_is_unknown():
    assert cell_text(float("nan"), "score") == "–"
    assert read(Table("t", "", (Column("a", "score"),), ((float("inf"),), (0.1 + 0.2,))))[1:] == [[""], ["0.3"]]


def test_an_interval_belongs_to_the_number_before_it_and_else_stands_alone():
    names = [(each.title, each.texts(TABLE.rows[0])) for each in fields(TABLE)]
    assert names[:4] == [
        ("Arm", ("online", "")),
        ("Score", ("0.650", "0.610 to 0.690")),
        ("Win rate", ("70.0\u00a0%", "60.0 to 80.0\u00a0%")),
        ("Gain", ("−0.060", "−0.090 to −0.030")),
    ]
    assert [text for _, (text, _) in names[4:]] == ["12,000", "2.0 h", "0.0042", "× 1.10"]
    alone = Table("t", "", (Column("Arm"), Column("Range", "signed_interval")), (("a", (-0.1, 0.2)), ("b", None)))
    assert [fields(alone)[1].texts(row) for row in alone.rows] == [("", "−0.100 to +0.200"), ("", "–")]


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("a|b", "a\\|b"),
        ("[x](http://evil)", "\\[x\\](http\u200b://evil)"),
        ("<img src=x onerror=alert(1)>", "\\<img src=x onerror=alert(1)\\>"),
        ("@octocat and me@there", "@\u200boctocat and me@\u200bthere"),
        ("#12, gh-7 and GH-8", "\\#\u200b12, gh\u200b-7 and GH\u200b-8"),
        ("www.evil.com", "www\u200b.evil.com"),
        ("`code` *bold* _it_ ~no~ $x$", "\\`code\\` \\*bold\\* \\_it\\_ \\~no\\~ \\$x\\$"),
        ("line\n\n| a | b |\n| - | - |", "line \\| a \\| b \\| \\| - \\| - \\|"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("\u202egpj.exe\x00", "[U+202E]gpj.exe␀".replace("[", "\\[").replace("]", "\\]")),
    ],
)
def test_markdown_text_stays_text(hostile, shown):
    assert escape_markdown(hostile) == shown


def test_a_markdown_table_has_one_row_a_line_and_says_what_is_left_out():
    wide = replace(
        TABLE,
        columns=TABLE.columns + tuple(Column(f"c{n}") for n in range(9)),
        rows=(TABLE.rows[0] + ("x",) * 9,),
        note="- odd",
    )
    lines = markdown_table(wide)
    assert lines[0].startswith("| Arm | Score | Win rate | Gain | Calls |")
    assert lines[1].startswith("| --- | --- | --- | --- | ---: |")
    assert lines[2].startswith(
        "| online | 0.650 (0.610 to 0.690) | 70.0 % (60.0 to 80.0 %) | −0.060 (−0.090 to −0.030) |"
    )
    assert {line.count("|") for line in lines[:3]} == {13}
    assert lines[4] == "\\- odd 5 more columns in tables/t.csv."
    many = replace(TABLE, rows=(TABLE.rows[0],) * 100)
    assert "40 more rows in tables/t.csv." in markdown_table(many)[-2]
    assert markdown_table(replace(TABLE, rows=())) == []


def test_markdown_of_a_comparison_has_verdict_limits_tables_and_arms():
    text = render_markdown(make_comparison())
    assert text.startswith("### online beat offline by 0.06 (0.03 to 0.09) in rubric score at equal cost")
    for words in (
        "- online’s drafts are 12 % longer",
        "- **refused**: Gap recovered is not given",
        "#### On 200 test prompts",
        "| offline | 0.661 (0.640 to 0.683) | +0.200 (+0.170 to +0.231) |",
        "#### Budgets",
        "|  | equal | equal | **not equal** |  |",
        "Left out here, and in report.html and tables/: Every round of every run.",
        "- **online\\_prev**: As online, with the round before as the reference. (train.reference=previous)",
        "seeds 7, 8, 9, 10, 11",
    ):
        assert words in text, words
    assert text.index("**refused**") < text.index("**warning**") < text.index("####")
    assert "#### Every round of every run" not in text
    assert not re.search(r"<(?!\\)[a-z/]", text)
    assert len(text) < 20_000


def test_markdown_of_a_run_has_headline_figures_and_tables_and_no_draft():
    text = render_markdown(make_report())
    for words in (
        "### Round 4 is kept",
        "Win rate, test prompts: **",
        "#### Rounds",
        "#### By criterion",
        "#### Findings",
    ):
        assert words in text, words
    assert "chosen is longer in 62 %" in text
    assert "crane inspection" not in text


def test_every_table_of_a_run_is_a_csv_whose_rows_fit_its_head():
    tables = {table.name: table for table in run_tables(make_report())}
    assert {"rounds", "kinds", "test", "criteria", "drops", "failures", "counts", "findings", "cost", "seconds"} <= set(
        tables
    )
    for table in tables.values():
        rows = read(table)
        assert len(rows) == len(table.rows) + 1 > 1
        assert {len(row) for row in rows} == {len(rows[0])}
        assert len(set(rows[0])) == len(rows[0])
    rounds = read(tables["rounds"])
    column = {name: index for index, name in enumerate(rounds[0])}
    assert [row[column["Kept"]] for row in rounds[1:]] == ["", "", "", "", "kept", ""]
    assert float(rounds[5][column["Win rate over base, low"]]) < float(rounds[5][column["Win rate over base"]])
    assert read(tables["cost"])[-1][:2] == ["total", str(5 * 6100 + 6 * 480 + 960)]
    assert read(tables["findings"])[1:] == [
        ["5", "warn", "chosen is longer in 62 % of pairs (warn above 60 %): use length-matched pairs"]
    ]


def test_a_column_without_values_is_left_out_but_never_the_first():
    bare = without_empty(Table("t", "", (Column("a"), Column("b"), Column("c")), ((None, None, 1), (None, None, None))))
    assert [column.title for column in bare.columns] == ["a", "c"]
    assert bare.rows == ((None, 1), (None, None))
