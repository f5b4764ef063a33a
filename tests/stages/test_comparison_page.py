"""The page of a comparison: what it shows, what it refuses to run, and its charts."""

import re
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from prefdistill.records import Message
from prefdistill.stages.report import comparison_page
from prefdistill.stages.report.browsing import BrowserColumn, BrowserData, BrowserDraft, BrowserRow
from prefdistill.stages.report.charts import NARROWEST_COLUMN, Chart, Point, Series, render_chart
from prefdistill.stages.report.comparison import ArmInfo, CurvePoint, Note
from prefdistill.stages.report.comparison_charts import comparison_charts
from prefdistill.stages.report.comparison_page import render_comparison
from prefdistill.stages.report.marks import LOOKS, Mark, marker, render_range, render_spread
from prefdistill.stages.report.tables import Column, Table
from tests.stages.made_comparison import ARMS, make_comparison
from tests.stages.test_report import Page

HOSTILE = '<script>alert(1)</script></textarea>{{ 7 * 7 }}<!--\x00\u202egnp.exe\ud800 "onload="x'


@pytest.fixture(scope="module")
def report():
    return make_comparison()


@pytest.fixture(scope="module")
def html(report):
    return render_comparison(report)


def words_of(html):
    return " ".join("".join(Page(html).words).split())


def rows_of(html, name):
    """Return the rows of the first table of a region, as lists of texts."""
    region = html.split(f'aria-label="{name}"')[1].split("</table>")[0]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in region.split("<tr>")[1:]]
    return [[" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in row] for row in cells]


def test_the_page_is_whole_loads_nothing_and_is_the_same_each_time(report, html):
    page = Page(html)
    assert page.open == []
    assert page.outside == []
    assert "script" not in page.tags and "browser-data" not in html
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in html
    assert len(html) < 500_000
    assert render_comparison(report) == html


def test_verdict_limits_and_tables_are_on_the_page(report, html):
    text = words_of(html)
    for words in (
        report.headline,
        *report.verdict,
        "refused Gap recovered is not given",
        "What limits this",
        "On 200 test prompts",
        "Arm against arm",
        "train.reference=previous",
        "rubric: ../rubrics/email.yaml",
        "held-out (gpt-5-mini), which took no part in training",
        "Five seeds; the intervals cover prompts and seeds.",
        "What this many prompts can show",
        "use length-matched pairs",
    ):
        assert words in text, words
    assert text.index("refused Gap") < text.index("warning 6.2 %") < text.index("On 200 test prompts")


def test_a_value_stands_with_its_interval_and_a_bar(html):
    head, base, offline = rows_of(html, "On 200 test prompts")[:3]
    assert head[:3] == ["Arm", "Held-out score", "Gain over the base"]
    assert base[:3] == ["base", "0.461 0.440 to 0.482", "–"]
    assert offline[1:3] == ["0.661 0.640 to 0.683", "+0.200 +0.170 to +0.231"]
    assert "76.0 % 69.0 to 83.0 %" in offline
    arms = html.split('aria-label="Arm against arm"')[1].split("</table>")[0]
    assert (arms.count('class="range clear"'), arms.count('class="range unclear"')) == (5, 1)


def test_budgets_say_which_columns_are_equal(report):
    rows = rows_of(render_comparison(report), "Budgets")
    assert rows[0] == ["Arm", "Train prompts", "Drafts judged", "Pairs", "Kept rounds"]
    assert rows[-1] == ["", "equal", "equal", "not equal", ""]


def test_each_run_is_linked_relative_to_the_page(html, report):
    links = re.findall(r'<a href="([^"#]+)">seed (\d+)</a>', html)
    assert len(links) == 20
    assert ("online_prev/seed-11/report.html", "11") in links
    curve = replace(report.curves[0], report="javascript:alert(1)")
    odd = replace(report.curves[1], report='../x y/"><b>/report.html')
    changed = render_comparison(replace(report, curves=(curve, odd, *report.curves[2:])))
    assert 'href="javascript%3Aalert%281%29"' in changed
    assert 'href="../x%20y/%22%3E%3Cb%3E/report.html"' in changed
    away = replace(report.curves[0], report="//other.host/report.html")
    assert "other.host" not in render_comparison(replace(report, curves=(away,)))
    gone = render_comparison(replace(report, curves=(replace(report.curves[0], report=""),)))
    assert 'class="runs">seed 7<' in gone


def test_hostile_texts_are_shown_as_text(report):
    arm = ArmInfo(HOSTILE, HOSTILE, (HOSTILE,), 1)
    table = Table(
        HOSTILE, HOSTILE, (Column(HOSTILE), Column(HOSTILE, "score")), ((HOSTILE, 0.5), (HOSTILE, HOSTILE)), HOSTILE
    )
    curves = tuple(replace(curve, arm=HOSTILE, report=HOSTILE) for curve in report.curves if curve.arm == "online")
    attacked = replace(
        report,
        name=HOSTILE,
        headline=HOSTILE,
        verdict=(HOSTILE,),
        notes=(Note("warning", HOSTILE), Note("info", HOSTILE)),
        arms=(arm,),
        tables=(table, table, replace(table, name="criteria")),
        curves=curves,
        recipe=HOSTILE,
        facts={HOSTILE: HOSTILE},
    )
    html = render_comparison(attacked)
    page = Page(html)
    assert page.open == []
    assert "script" not in page.tags and "textarea" not in page.tags and "b" in page.tags
    assert not any(bad in html for bad in ("\x00", "\u202e", "\ud800"))
    assert "<script>alert(1)</script></textarea>{{ 7 * 7 }}<!--␀[U+202E]gnp.exe[U+D800]" in "".join(page.words)
    html.encode("utf-8")


def test_texts_are_left_out_on_request(report):
    draft = BrowserDraft("SECRET-DRAFT", evaluation=0.5)
    row = BrowserRow("p1", (Message(role="user", content="SECRET-PROMPT"),), {"base": draft}, {}, "", "")
    data = BrowserData((BrowserColumn("base", "base"),), (row,))
    full, bare = (render_comparison(replace(report, browser=data), texts) for texts in (True, False))
    assert "script-src 'sha256-" in full and "script-src 'sha256-" in bare
    assert len(full) > len(bare)
    unpacked = [b"".join(unpack(html)) for html in (full, bare)]
    assert b"SECRET-DRAFT" in unpacked[0] and b"SECRET-PROMPT" in unpacked[0]
    assert b"SECRET" not in unpacked[1]


def unpack(html):
    import base64
    import gzip

    for block in re.findall(r'class="browser-data">([^<]*)<', html):
        yield gzip.decompress(base64.b64decode(block))


def test_a_bare_comparison_renders(report):
    bare = replace(
        report,
        tables=(),
        curves=(),
        notes=(),
        verdict=(),
        arms=(),
        seeds=(),
        facts={},
        recipe="",
        headline="no verdict",
    )
    page = Page(render_comparison(bare))
    assert page.open == []
    assert "svg" not in page.tags


def test_long_tables_are_folded_and_wide_ones_split_with_their_names(report):
    wide = Table(
        "pairs",
        "Wide",
        (Column("Arm"), Column("Against"), *(Column(f"Measured{index}", "score") for index in range(17))),
        (("online", "offline", *[0.5] * 17),),
        "the note",
    )
    html = render_comparison(replace(report, tables=(report.tables[0], wide, report.tables[4])))
    assert "<summary>Every round of every run: 160 rows</summary>" in html
    assert len(re.findall(r'<th class="left">Against</th>', html)) == 2
    assert html.count("the note") == 1
    assert all(f">Measured{index}<" in html for index in range(17))


def test_criteria_become_a_chart_with_base_arms_and_teacher(html):
    rows = rows_of(html, "Criteria, before and after")
    assert rows[0] == ["Criterion", "0 to 1", "base", *(arm.label for arm in ARMS), "teacher"]
    assert [row[0] for row in rows[1:]][:2] == ["request first", "keeps the facts"]
    assert rows[1][2] == "0.500" and rows[1][7] == "0.930"
    region = html.split('aria-label="Criteria, before and after"')[1].split("</table>")[0]
    assert region.count('class="best"') == 5
    assert "<title>random_labels 0." in region


def test_with_many_arms_the_pictures_of_criteria_stand_alone():
    arms = tuple(ArmInfo(f"arm{number}", "…", (), number) for number in range(1, LOOKS + 1))
    html = render_comparison(make_comparison(arms=arms, rounds=1))
    assert rows_of(html, "Criteria, before and after")[0] == ["Criterion", "0 to 1"]
    assert "<title>arm8 0." in html
    assert Page(html).open == []


def test_charts_have_a_line_an_arm_thin_seeds_and_the_base(report):
    charts = {chart.title: chart for chart in comparison_charts(report)}
    assert list(charts)[:3] == [
        "Training judge’s score against √KL to the base",
        "Held-out judge’s score against √KL to the base",
        "Gold, exact score against √KL to the base",
    ]
    assert {
        "Win rate over the base, validation",
        "Judging of training drafts so far, US dollars",
        "Time so far, minutes",
    } <= set(charts)
    assert "Judging of training drafts so far, tokens" not in charts
    for chart in charts.values():
        assert [(line.name, line.look) for line in chart.series] == [(arm.label, arm.look) for arm in ARMS]
        assert all(len(line.single) == 5 for line in chart.series)
    held_out = charts["Held-out judge’s score against judged drafts"]
    assert held_out.references[0].name == "base"
    first = [curve.points[0].values["held_out"] for curve in report.curves if curve.arm == "online"]
    assert held_out.references[0].y == pytest.approx(np.mean(first))
    last = [curve.points[-1].values["held_out"] for curve in report.curves if curve.arm == "online"]
    point = next(line for line in held_out.series if line.name == "online").points[-1]
    assert (point.x, point.y) == (8192, pytest.approx(np.mean(last)))
    assert point.note == f"5 seeds {min(last):.3f} to {max(last):.3f}"
    assert held_out.heads[8192] == "round 8"
    shared = {(min(chart.include), max(chart.include)) for title, chart in charts.items() if "against √KL" in title}
    assert len(shared) == 1


def test_a_win_rate_has_the_mean_of_its_seeds_intervals(report):
    chart = next(each for each in comparison_charts(report) if each.title.startswith("Win rate"))
    online = next(line for line in chart.series if line.name == "online")
    values = [curve.points[3].values for curve in report.curves if curve.arm == "online"]
    point = next(each for each in online.points if each.x == 3)
    assert point.low == pytest.approx(np.mean([each["win_low"] for each in values]))
    assert point.high == pytest.approx(np.mean([each["win_high"] for each in values]))
    assert [each.x for each in online.points] == list(range(1, 9))


def test_charts_bear_what_is_missing():
    one = make_comparison(seeds=(7,), rounds=1, usd=False, gold=False)
    charts = [chart.title for chart in comparison_charts(one)]
    assert "Judging of training drafts so far, tokens" in charts
    assert not any("Gold" in title for title in charts)
    points = tuple(CurvePoint(number, {"judge": 0.5}) for number in range(3))
    plain = replace(one, curves=(replace(one.curves[0], points=points),))
    assert comparison_charts(plain) == []  # no √KL, no judged drafts
    base_only = replace(one, curves=tuple(replace(curve, points=curve.points[:1]) for curve in one.curves))
    assert comparison_charts(base_only) == []
    assert Page(render_comparison(base_only)).open == []


def test_columns_that_are_too_close_give_way_to_points():
    near = Series("a", (Point(0.0, 0.1), Point(1.0, 0.2), Point(1.01, 0.3)), 1)
    far = Series("a", (Point(0.0, 0.1), Point(1.0, 0.2), Point(2.0, 0.3)), 1)
    close, apart = (render_chart(Chart("t", (line,), str, str, show_x=str)) for line in (near, far))
    assert (close.count('class="point"'), close.count('class="column"')) == (3, 0)
    assert (apart.count('class="point"'), apart.count('class="column"')) == (0, 3)
    assert NARROWEST_COLUMN > 5


def test_columns_cover_the_chart_without_gaps():
    svg = render_chart(Chart("t", (Series("a", tuple(Point(x, x) for x in (0.0, 1.0, 5.0)), 1),), str, str, show_x=str))
    areas = [tuple(map(float, each)) for each in re.findall(r'class="area" x="([\d.]+)" y="12" width="([\d.]+)"', svg)]
    for (start, width), (following, _) in pairwise(areas):
        assert start + width == pytest.approx(following, abs=0.11)


def test_a_measured_axis_has_round_ticks_and_hover_says_everything():
    points = (Point(0.0, 0.4), Point(0.61, 0.55, 0.5, 0.6, "3 seeds"))
    svg = render_chart(
        Chart(
            "t",
            (Series("online", points, 2),),
            lambda y: f"{y:.2f}",
            str,
            "√KL",
            show_x=lambda x: f"{x:g}",
            heads={0.61: "round 1"},
        )
    )
    ticks = re.findall(r'class="tick middle" x="[\d.]+" y="200.0">([^<]+)<', svg)
    assert ticks == ["0", "0.2", "0.4", "0.6"]
    assert "<title>round 1, √KL 0.61 · online 0.55 (0.50 to 0.60), 3 seeds</title>" in svg


def test_whiskers_of_one_round_are_moved_apart():
    lines = tuple(Series(name, (Point(1.0, 0.5, 0.4, 0.6), Point(2.0, 0.5, 0.4, 0.6)), 1) for name in "abc")
    svg = render_chart(Chart("t", lines, str, str))
    places = re.findall(r'class="whisker look1" x1="([\d.]+)"', svg)
    assert len(set(places)) == 6


def test_range_bars_share_a_scale_and_mark_zero():
    bar = str(render_range(0.1, 0.05, 0.15, (-0.1, 0.3)))
    assert 'class="range clear"' in bar and 'class="zero"' in bar
    assert 'class="range unclear"' in str(render_range(0.0, -0.05, 0.15, (-0.1, 0.3)))
    assert 'class="zero"' not in str(render_range(0.2, 0.1, 0.3, (0.1, 0.3)))
    ends = [float(x) for x in re.findall(r'class="bar" x1="([\d.]+)" y1="8.0" x2="([\d.]+)"', bar)[0]]
    assert ends == [pytest.approx(6 + 108 * 0.375), pytest.approx(6 + 108 * 0.625)]


def test_every_look_has_a_marker_of_its_own():
    shapes = {re.sub(r"look\d", "", marker(look, 0.0, 0.0)) for look in range(1, LOOKS + 1)}
    assert len(shapes) == LOOKS
    spread = str(render_spread([Mark("<b>", 0.2, 0), Mark("online", 1.4, 2)], 0.9))
    assert "&lt;b&gt; 0.20" in spread and 'class="best"' in spread
    assert all(8 <= float(x) <= 152 for x in re.findall(r'cx="([\d.]+)"', spread))


CSS = (Path(comparison_page.__file__).parent / "page.css").read_text()
SEEN = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
"""Linear RGB as people with fewer colours see it (Machado, Oliveira and Fernandes 2009, severity 1)."""
TO_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
TO_OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def linear(colour):
    share = np.array([int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)])
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def oklab(light):
    return np.array(TO_OKLAB) @ np.cbrt(np.array(TO_CONES) @ light)


def contrast(one, other):
    low, high = sorted(float(linear(each) @ [0.2126, 0.7152, 0.0722]) for each in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_looks_are_told_apart_in_light_and_dark_and_by_the_colour_blind(scheme):
    block = CSS.split(":root {")[1 + scheme].split("}")[0]
    colours = [re.search(rf"--look{look}: (#\w+)", block)[1] for look in range(1, LOOKS + 1)]
    paper = re.search(r"--paper: (#\w+)", block)[1]
    assert all(contrast(each, paper) >= 3.0 for each in colours)
    for people, matrix in SEEN.items():
        seen = [oklab(np.clip(np.array(matrix) @ linear(each), 0, 1)) for each in colours]
        for one, other in combinations(seen, 2):
            assert np.linalg.norm(one - other) > 0.045, people
