"""What a plan says: the shipped example's golden figures, what is open, no break-even, and hostile text in both files."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from prefdistill.plan.chapters import WrittenPlan, write_plan
from prefdistill.plan.document import Plan, load_plan
from prefdistill.plan.head import key_figures, standing, title
from prefdistill.plan.markdown import render_plan_markdown
from prefdistill.plan.page import render_plan_page
from prefdistill.stages.report.tables import Table
from tests.chromium import Chromium, needs_chromium
from tests.conftest import ROOT

COSTS = {
    "traffic": {"requests_a_month": 150_000, "tokens_in": 800, "tokens_out": 400},
    "teacher": {"model": "large", "usd_per_million": {"input": 3, "output": 15}},
    "costs": {"hosting_usd_a_month": 600, "one_off": [{"what": "all", "usd": 3000}], "months": 6},
    "fallback": {"share": 0.1},
}
HOSTILE = (
    "<script>alert(1)</script>| [x](http://evil.test) ![i](http://evil.test/i) @team #1 `` ``` **b**\n\n# h \u202eabc"
)


def make(**changes) -> WrittenPlan:
    sections = {
        name: {**COSTS.get(name, {}), **value} if isinstance(value, dict) else value for name, value in changes.items()
    }
    return write_plan(Plan.model_validate({"name": "p", **COSTS, **sections}))


def table(written: WrittenPlan, name: str) -> Table:
    return next(b for chapter in written.chapters for b in chapter.blocks if isinstance(b, Table) and b.name == name)


def column(found: Table, title: str) -> list:
    index = [each.title for each in found.columns].index(title)
    return [row[index] for row in found.rows]


@pytest.fixture(scope="module")
def example() -> WrittenPlan:
    return write_plan(load_plan(ROOT / "recipes" / "plan.yaml"))


def test_the_shipped_example_has_the_figures_worked_out_by_hand(example):
    prices = table(example, "break_even")
    assert column(prices, "A request") == ["$0.0084", "$0.005", "$0.001", "$0.00024"]
    assert column(prices, "V*, hosting alone") == ["79,365", "133,333", "666,667", "2,777,778"]
    assert column(prices, "V*, with what is paid once")[0] == "145,503"
    assert "Breaks even at 145,503 requests a month against large-model" in title(example)
    assert "costs least to call tiny-model" in title(example)
    ways = table(example, "ways")
    assert column(ways, "A month") == ["$1,260", "$750", "$150", "$36", "$1,226"]
    assert column(ways, "The student pays from") == ["145,503", "264,423", "6,875,000", "no break-even", None]


def test_the_arithmetic_is_printed_so_that_a_person_can_check_it(example):
    text = render_plan_markdown(example)
    for line in (
        "c_T = 800 × $3 / 1,000,000 + 400 × $15 / 1,000,000 = $0.0024 + $0.006 = $0.0084 a request",
        "saved a request = 0.0084 × (1 − 0.1) − 0 − 0 × 0 = $0.00756",
        "without the one-off cost: V* = $600 / $0.00756 = 79,365 requests a month",
        "fixed a month = $600 + $3,000 / 6 = $1,100",
        "V* = $1,100 / $0.00756 = 145,503 requests a month",
        "V* = $600 / $0.0045 = 133,333 requests a month",
        "V* = $600 / $0.0009 = 666,667 requests a month",
        "if the teacher takes them: saved a request = 0.00024 − 0.1 × 0.0084 = −$0.0006",
    ):
        assert line in text


def test_every_line_of_the_arithmetic_is_right(example):
    """What stands between `=` signs has one value, to the digits that are shown."""
    text = render_plan_markdown(example)
    checked = 0
    for line in re.search(r"```text\nc_T.*?```", text, re.S)[0].splitlines():
        parts = [
            re.sub(r"[$,]|requests a month|a request|[^=]*:(?= )", "", part).strip() for part in line.split(" = ")[1:]
        ]
        values = [eval(re.sub("×", "*", re.sub("−", "-", part))) for part in parts]
        for value in values:
            assert value == pytest.approx(values[-1], abs=0.5 if values[-1] > 1000 else 1e-12)
        checked += len(values) > 1
    assert checked >= 12


def test_bounds_and_what_moves_it_most_are_told(example):
    assert column(table(example, "sensitivity"), "Input") == ["paid once", "share that the teacher answers"]
    text = render_plan_markdown(example)
    assert "121,136, 145,503 and 230,655 requests a month" in text and "What moves it most: paid once." in text
    assert not [b for c in make().chapters for b in c.blocks if isinstance(b, Table) and b.name == "sensitivity"]


def test_no_break_even_is_said_plainly_with_its_reason():
    written = make(costs={"student_usd_a_request": 0.009})
    assert title(written).startswith("No break-even against large: each request costs more than it saves.")
    text = render_plan_markdown(written)
    assert (
        "With the student a request costs \\$0.00984 (\\$0.00084 the 10 % that falls back, \\$0.009 the student), more"
        in text
    )
    assert "nothing is saved" in text
    assert key_figures(written)[0].value == "no break-even"
    assert not re.search(r"−[\d,]+ requests", text)
    assert "break-even against the teacher (upright)" not in render_plan_page(written)


def test_a_student_that_costs_nothing_fixed_pays_from_the_first_request():
    written = make(costs={"hosting_usd_a_month": 0, "one_off": []})
    assert title(written).startswith("Pays from the first request against large: nothing is fixed.")
    render_plan_page(written)


def test_a_student_that_must_cost_as_much_as_it_saves_is_told_so():
    assert "each request costs as much as it saves" in title(make(costs={"student_usd_a_request": 0.00756}))


@pytest.mark.parametrize(
    ("changes", "why", "more"),
    [
        (
            {"teacher": {"usd_per_million": {"input": 0, "output": 0}}},
            "calling it costs nothing, so there is nothing to save.",
            "The student earns nothing back of what it costs a month: more traffic does not help.",
        ),
        (
            {
                "teacher": {"usd_per_million": {"input": 0, "output": 0}},
                "costs": {"student_usd_a_request": 0.009, "hosting_usd_a_month": 0, "one_off": []},
            },
            "calling it costs nothing, so there is nothing to save.",
            "The student adds \\$0.009 a request, and earns nothing back",
        ),
        (
            {"fallback": {"share": 1.0}},
            "every request falls back on it (fallback.share is 1), so none is saved.",
            "The student earns nothing back of what it costs a month: more traffic does not help.",
        ),
    ],
)
def test_where_no_student_could_save_anything_that_is_the_reason(changes, why, more):
    written = make(**changes)
    assert title(written).startswith(f"No break-even against large: {why}")
    text = render_plan_markdown(written)
    assert more in text
    assert "()" not in text
    assert "there is no break-even" in text
    render_plan_page(written)


def test_what_is_earned_back_at_once_is_no_0():
    written = make(teacher={"usd_per_million": {"input": 1e6, "output": 1e6}}, traffic={"requests_a_month": 10_000})
    text = render_plan_markdown(written)
    assert "What is paid once is earned after less than 0.1 months." in text


def test_what_is_missing_is_named_and_not_made_up():
    written = make(fallback={"share": None}, costs={"hosting_usd_a_month": None})
    assert title(written) == "The break-even is not known yet."
    keys = {point.key for _, point in written.open}
    assert {"fallback.share", "costs.hosting_usd_a_month"} <= keys
    assert "V\\*" not in render_plan_markdown(written)


def test_a_one_off_cost_that_is_not_decided_is_left_out_and_said():
    written = make(costs={"one_off": None})
    assert "79,365" in title(written)
    assert any("counts as nothing here" in words for _, words in written.warnings)
    assert "costs.one_off" in {point.key for _, point in written.open}
    assert "with what is paid once" not in render_plan_markdown(written)


def test_a_model_that_is_priced_nowhere_is_open_and_the_price_table_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "prefdistill").mkdir()
    (tmp_path / "prefdistill" / "prices.yaml").write_text("mine: {input: 3, output: 15, as_of: 2026-01-02}\n")
    assert "teacher.usd_per_million" in {
        p.key for _, p in make(teacher={"model": "gone", "usd_per_million": None}).open
    }
    written = make(
        teacher={"model": "mine", "usd_per_million": None},
        alternatives=[{"name": "unheard-of"}, {"name": "b", "model": "mine", "tokens_in": 1600}],
    )
    assert "145,503" in title(written)
    assert {"prefdistill prices, as of 2026-01-02"} == set(column(table(written, "break_even"), "Price from"))
    assert column(table(written, "break_even"), "Own tokens in / out") == [None, "1,600 / 400"]
    assert column(table(written, "break_even"), "A request") == ["$0.0084", "$0.0108"]
    assert "what unheard-of’s tokens cost" in {point.what for _, point in written.open}


def test_a_plan_without_an_alternative_is_told_what_it_does_not_show():
    assert any("No cheaper model is named" in words for _, words in make().warnings)


def test_the_cheapest_that_reaches_the_target_is_told_apart_from_the_cheapest():
    prices = {"input": 0.1, "output": 0.4}
    poor = {"name": "poor", "usd_per_million": prices, "score": 0.3}
    good = {"name": "good", "usd_per_million": {"input": 1, "output": 1}, "score": 0.9}
    text = render_plan_markdown(make(alternatives=[poor, good], goal={"target_score": 0.8}))
    assert "the cheapest way is to call poor" in text
    assert "known to reach the target score of 0.8 the cheapest is to call good: \\$180" in text


def test_what_may_be_cheaper_within_the_bounds_is_named():
    near = {"name": "near", "usd_per_million": {"input": 3, "output": {"low": 10, "central": 14, "high": 15.5}}}
    assert make(alternatives=[near]).worth.rivals == ("call large (the teacher)", "the distilled student")
    assert "may be cheaper to call large (the teacher) or to run the" in render_plan_markdown(make(alternatives=[near]))


def test_traffic_and_tokens_that_every_way_shares_make_no_rival():
    """Their ranges of cost overlap; the order of the ways is the same at every end."""
    half = {"name": "half", "usd_per_million": {"input": 1.5, "output": 7.5}}
    wide = {"low": 10_000, "central": 15_000, "high": 40_000}
    tokens = {"low": 100, "central": 400, "high": 900}
    written = make(alternatives=[half], traffic={"requests_a_month": wide, "tokens_out": tokens})
    first, second = written.worth.ways[:2]
    assert first.usd_a_month.low < second.usd_a_month.high and written.worth.cheapest is second
    assert written.worth.rivals == ()


def test_hosting_that_cannot_answer_so_many_is_said():
    written = make(costs={"hosting_requests_a_month": 100_000})
    said = [words for _, words in written.warnings if "more than the 100,000" in words]
    assert len(said) == 2


def test_a_plan_with_nothing_but_a_name_counts_what_is_open():
    written = write_plan(Plan(name="p"))
    assert len(written.open) > 40
    assert standing(written) == f"{len(written.open)} open points stand between this plan and its sign-off."
    assert "not decided yet" in render_plan_markdown(written)
    assert "not decided yet" in render_plan_page(written)


def test_signatures_are_counted():
    signed = {"role": "owner", "name": "Ada", "on": "2026-11-22"}
    written = make(sign_off=[signed, {"role": "legal", "name": "Bo"}])
    assert standing(written).endswith("and 1 missing signature stand between this plan and its sign-off.")
    assert written.unsigned == ("legal",)


def test_a_changed_stop_rule_is_shown_beside_the_usual_one():
    found = table(make(stop={"levels": {"flip_rate": 0.4, "diversity": None}}), "stop")
    rows = {row[0]: row for row in found.rows}
    assert rows["flip_rate"][1] == "0.4" and rows["flip_rate"][3] == "usually 0.25"
    assert rows["diversity"][1] == "off"
    assert len(table(make(), "stop").columns) == 3


def test_where_a_value_was_measured_stands_beside_it():
    written = make(sources={"traffic.tokens_in": "runs/x, 2,048 replies"})
    assert "**prompt tokens a request**: 800 (runs/x, 2,048 replies)" in render_plan_markdown(written)
    assert "runs/x, 2,048 replies" in column(table(written, "inputs"), "Known from")


def test_a_run_that_took_longer_than_it_may_warns():
    written = make(shown={"run": "r", "reply_seconds": 7.25, "win_rate": 0.6}, limits={"reply_seconds": 6})
    assert any("took 7.25 s, more than the 6 s" in words for _, words in written.warnings)
    assert "**win rate over the base**: 60 %" in render_plan_markdown(written)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links |= {value or "" for name, value in attrs if name in ("href", "src")}


def hostile() -> WrittenPlan:
    price = {"input": 1, "output": 1, "source": HOSTILE}
    return make(
        task={"what": HOSTILE, "owner": HOSTILE, "in_scope": [HOSTILE]},
        teacher={"model": HOSTILE},
        rubric={"judge": HOSTILE},
        method={"because": HOSTILE},
        stop={"also": [HOSTILE]},
        alternatives=[{"name": HOSTILE, "usd_per_million": price, "quality": HOSTILE}],
        costs={"one_off": [{"what": HOSTILE, "usd": 1}]},
        sign_off=[{"role": HOSTILE, "name": HOSTILE}],
        sources={"traffic.tokens_in": HOSTILE},
        fallback={"teacher_down": HOSTILE},
    )


def test_hostile_text_stays_text_in_the_page():
    page = render_plan_page(hostile())
    found = _Tags()
    found.feed(page)
    assert not {"script", "img", "iframe"} & found.tags
    assert all(link.startswith(("#", "data:")) for link in found.links)
    assert "\u202e" not in page and "&lt;script&gt;" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_hostile_text_stays_text_in_the_markdown():
    text = render_plan_markdown(hostile())
    outside = "".join(re.split(r"^(`{3,})text\n.*?^\1\n", text, flags=re.S | re.M)[::2])
    bare = re.sub(r"\\.", "", outside)
    assert "<script" not in bare and "](" not in bare and not re.search("https?:|@team|#1", bare)
    assert "\u202e" not in text
    for fence in re.findall(r"^(`{3,})text\n(.*?)^\1$", text, re.S | re.M):
        assert fence[0] not in fence[1]
    tables = [line for line in outside.splitlines() if line.startswith("| ")]
    assert tables and "\n# h" not in text


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_the_page_fits_the_screen_and_loads_nothing(tmp_path: Path, width, dark):
    for name, written in (("example", write_plan(load_plan(ROOT / "recipes" / "plan.yaml"))), ("hostile", hostile())):
        path = tmp_path / f"{name}.html"
        path.write_text(render_plan_page(written), encoding="utf-8")
        with Chromium() as browser:
            browser.open(path, width=width, dark=dark)
            assert browser.run("document.documentElement.scrollWidth") <= width
            assert browser.requested == [path.resolve().as_uri()] and browser.trouble == []
            browser.photograph(tmp_path / f"{name}.png")
