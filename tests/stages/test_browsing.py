"""The browser's rows as a page holds them: packed, cut, made safe, and without texts where texts are left out."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from typing import get_args

import pytest

from prefdistill import answers
from prefdistill.records import CriterionScore, Message
from prefdistill.stages.pair import Reason
from prefdistill.stages.report.browsing import (
    NO_ANSWER,
    NO_PAIR,
    BrowserColumn,
    BrowserData,
    BrowserDraft,
    BrowserPair,
    BrowserRow,
    PairRow,
)
from prefdistill.stages.report.embedding import browser_parts, browser_script, content_policy
from prefdistill.stages.report.packing import pack_browser
from prefdistill.stages.report.page import render_report
from tests.browser_data import inflated, rows_in
from tests.stages.test_report import make_report

TAGS = "<script>alert(1)</script></textarea><img src=x onerror=alert(2)>{{ 7 * 7 }}"
HOSTILE = TAGS + "<!--\x00\x1b[31m\u202egnp\u2066\ud800\ufffe"
SHOWN = TAGS + "<!--␀␛[31m[U+202E]gnp[U+2066][U+D800][U+FFFE]"
COLUMNS = (
    BrowserColumn("Base", "base", said="the base"),
    BrowserColumn("online", "arm", "round 2"),
    BrowserColumn("Teacher", "teacher", said="the teacher"),
)


def score(name: str = "tone", value: float | None = 0.5, reason: str = "") -> CriterionScore:
    level = None if value is None else "partly"
    return CriterionScore(
        criterion=name, applies=value is not None, score=value, level=level, reason=reason, path="parsed"
    )


def row(id: str = "a", base: str = "old", arm: str = "new", **changes: object) -> BrowserRow:
    drafts = {
        "Base": BrowserDraft(base, evaluation=0.4, judge=0.5, criteria=(score(),)),
        "online": BrowserDraft(arm, evaluation=0.7, judge=0.6, gold=0.61, criteria=(score(value=1.0),)),
    }
    found = BrowserRow(id, (Message(role="user", content=f"Ask {id}"),), drafts, {"online": "win"})
    return replace(found, **changes)


def data(*rows: BrowserRow, pairs: tuple[PairRow, ...] = ()) -> BrowserData:
    return BrowserData(COLUMNS, rows, pairs, judge="checks", evaluation_judge="other")


def pair_row(id: str = "t", round: int = 1, reason: str = "", texts: tuple[str, ...] = ("good", "bad")) -> PairRow:
    pairs = () if reason else (BrowserPair(0, 1, 0.9, 0.4, 0.5, "rubric", ("why it was kept",)),)
    drafts = tuple(BrowserDraft(each, judge=0.9, criteria=(score(reason="because"),)) for each in texts)
    return PairRow(id, round, (Message(role="user", content="Train on this"),), drafts, pairs, reason, "0.05 < 0.1")


def block(packed: str) -> bytes:
    return f'<script type="application/gzip" class="browser-data">{packed}</script>'.encode()


def read(browser: BrowserData, texts: bool = True) -> tuple:
    return rows_in(str(browser_parts(browser, texts).tail))


def test_what_is_packed_is_what_was_given():
    head, rows, pairs = read(data(row(), row("b"), pairs=(pair_row(), pair_row("u", 2, "below_margin"))))
    assert [each["title"] for each in head["columns"]] == ["Base", "online", "Teacher"]
    assert (head["rows"], head["pairs"], head["rounds"]) == (2, 2, [1, 2])
    assert head["reasons"] == [{"name": "below_margin", "words": NO_PAIR["below_margin"], "count": 1}]
    assert [each["id"] for each in rows] == ["a", "b"]
    base, arm, teacher = rows[0]["drafts"]
    assert (base["text"], base["evaluation"], arm["gold"], teacher) == ("old", 0.4, 0.61, None)
    assert rows[0]["outcomes"] == [None, "win", None]
    assert arm["scores"] == [[0, 1.0, "partly"]], "criterion by its number, score, level; an empty reason takes no room"
    assert pairs[0]["pairs"][0] == {
        "chosen": 0,
        "rejected": 1,
        "scores": [0.9, 0.4],
        "margin": 0.5,
        "why": ["why it was kept"],
    }
    assert (pairs[1]["pairs"], pairs[1]["reason"], pairs[1]["detail"]) == ([], "below_margin", "0.05 < 0.1")


def test_every_reason_for_no_pair_has_words():
    assert set(NO_PAIR) == set(get_args(Reason))
    assert set(NO_ANSWER) == set(answers.REASONS)


def test_both_judges_criteria_are_told_apart():
    draft = BrowserDraft(
        "x", criteria=(score("tone"),), evaluation_criteria=(score("tone", 1.0), score("length", None))
    )
    head, rows, _ = read(data(row(drafts={"Base": draft})))
    names = [(each["judge"], each["name"]) for each in head["criteria"]]
    assert names == [("judge", "tone"), ("evaluation", "tone"), ("evaluation", "length")]
    assert rows[0]["drafts"][0]["scores"] == [[0, 0.5, "partly"], [1, 1.0, "partly"], [2, None]]


def test_hostile_words_are_spelled_out_wherever_they_stand():
    draft = BrowserDraft(
        HOSTILE,
        gates=(HOSTILE,),
        criteria=(score(HOSTILE, reason=HOSTILE),),
        failure=HOSTILE,
        failure_detail=HOSTILE,
        addresses=HOSTILE,
        writer=HOSTILE,
    )
    messages = (Message(role="user", content=HOSTILE),)
    pair = PairRow(HOSTILE, 1, messages, (draft, draft), (), HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    browser = BrowserData(
        (BrowserColumn("Base", "base", HOSTILE), BrowserColumn(HOSTILE, "arm", HOSTILE)),
        (BrowserRow(HOSTILE, messages, {"Base": draft, HOSTILE: draft}, {}, HOSTILE, HOSTILE),),
        (pair,),
        HOSTILE,
        HOSTILE,
    )
    parts = browser_parts(browser)
    packed = inflated(str(parts.tail).encode()).decode()
    assert not [bad for bad in "\x00\x1b\u202e\u2066\ufffe" if bad in packed]
    assert json.dumps(SHOWN, ensure_ascii=False)[1:-1] in packed
    _, rows, pairs = rows_in(str(parts.tail))
    assert rows[0]["messages"] == [["user", SHOWN]]
    assert rows[0]["drafts"][1]["text"] == rows[0]["drafts"][1]["said"] == pairs[0]["detail"] == SHOWN
    assert "<script" not in parts.sections
    assert "&lt;script&gt;alert(1)" in parts.sections, "in the sentence of who wrote"
    outside = re.sub(r"[A-Za-z0-9+/=]{100,}", "", str(parts.tail))
    assert "alert(" not in outside, "the data is base64 and nothing else"
    str(parts.tail).encode("utf-8")


def test_a_huge_draft_is_cut_in_the_data():
    tail = str(browser_parts(data(row(arm="word " * 200_000))).tail)
    _, rows, _ = rows_in(tail)
    text = rows[0]["drafts"][1]["text"]
    assert text.endswith("… (988,000 more characters)")
    assert len(text) < 12_100
    assert rows[0]["drafts"][1]["words"] == 200_000, "the whole draft is counted"
    assert len(tail) < len(browser_script()) + 3_000


def test_without_texts_only_scores_names_and_ids_are_there():
    secret = "SECRET"
    draft = BrowserDraft(
        secret,
        evaluation=0.1,
        criteria=(score(reason=secret),),
        evaluation_criteria=(score("length", reason=secret),),
        gates=("invents_nothing",),
        failure="evaluation judge: parse",
        failure_detail=secret,
        addresses=f"instruction to the judge: {secret}",
    )
    messages = (Message(role="system", content=secret), Message(role="user", content=secret))
    pairs = (
        PairRow("t1", 1, messages, (draft, draft), (BrowserPair(0, 1, 1.0, 0.0, 1.0, "rubric", ("why",)),)),
        PairRow("t2", 1, messages, (draft,), (), "addresses_judge", f"instruction: {secret}"),
    )
    browser = data(BrowserRow("p1", messages, {"Base": draft, "online": draft}, {"online": "tie"}), pairs=pairs)
    with_texts, without = (browser_parts(browser, texts) for texts in (True, False))
    assert inflated(str(with_texts.tail).encode()).count(b"SECRET") > 20, "the test can find what it looks for"
    for part in (without.tail, without.sections, without.links, without.style):
        assert b"SECRET" not in str(part).encode() + inflated(str(part).encode())
    head, rows, paired = rows_in(str(without.tail))
    assert head["texts"] is False
    assert rows[0]["drafts"][0]["evaluation"] == 0.1
    assert rows[0]["drafts"][0]["failure"] == "evaluation judge: parse"
    assert rows[0]["drafts"][0]["addresses"] == "instruction to the judge"
    assert [each["id"] for each in paired] == ["t1", "t2"]
    assert "Texts are left out" in without.sections


def test_too_many_characters_shorten_texts_and_then_leave_rows_out():
    rows = tuple(row(f"p{index:03d}", "x" * 5000, "y" * 5000) for index in range(40))
    pairs = tuple(pair_row(f"t{index:03d}") for index in range(10))
    whole = pack_browser(data(*rows, pairs=pairs), True)
    assert (whole.limit, whole.left_out) == (12_000, (0, 0))
    shorter = pack_browser(data(*rows, pairs=pairs), True, most=300_000)
    assert (shorter.limit, shorter.left_out) == (3000, (0, 0))
    fewer = pack_browser(data(*rows, pairs=pairs), True, most=40_000)
    assert fewer.limit == 800
    head = json.loads(inflated(block(fewer.blocks[0])))
    assert fewer.left_out == (40 - head["rows"], 10 - head["pairs"])
    assert head["rows"] == 40_000 // (1600 + 5 + 300), "test prompts have what room there is"
    assert head["pairs"] < 10
    again = pack_browser(data(*rows[::-1], pairs=pairs), True, most=40_000)
    assert len(again.blocks) == len(fewer.blocks)
    assert pack_browser(data(*rows, pairs=pairs), False, most=40_000).left_out == (0, 0), (
        "scores alone need little room"
    )


def test_training_prompts_are_left_out_before_test_prompts_are_cut_short():
    pairs = tuple(pair_row(f"t{index:03d}", texts=("z" * 700, "w" * 700)) for index in range(200))
    packed = pack_browser(data(row(arm="x" * 5000), pairs=pairs), True, most=50_000)
    assert packed.limit == 12_000, "not 800: that would cut test prompts for the sake of a few more pairs"
    assert packed.left_out[0] == 0
    assert 0 < packed.left_out[1] < 200


def test_the_page_says_what_was_cut_or_left_out(monkeypatch: pytest.MonkeyPatch):
    rows = tuple(row(f"p{index}", "x" * 5000) for index in range(4))
    assert "The run folder has everything" not in browser_parts(data(*rows)).sections
    monkeypatch.setattr("prefdistill.stages.report.packing.MOST_CHARACTERS", 3000)
    sections = browser_parts(data(*rows)).sections
    assert "test prompts, drawn by the hash of their ids, are left out" in sections
    assert "Texts are cut after 800 characters" in sections


def test_the_policy_lets_this_script_run_and_no_other():
    parts = browser_parts(data(row()))
    script = re.findall(r"<script>(.*?)</script>", str(parts.tail), re.DOTALL)
    assert script == [browser_script()]
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert parts.policy == f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    assert "unsafe" not in parts.policy.replace("style-src 'unsafe-inline'", "")


def test_the_script_puts_text_into_the_page_as_text_only():
    script = browser_script()
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"):
        assert way not in script
    for way in ("fetch(", "XMLHttpRequest", "import(", "sendBeacon", "WebSocket", "localStorage", "cookie"):
        assert way not in script, "it loads nothing, sends nothing and keeps nothing"
    assert "</script" not in script.lower()


def test_a_run_report_takes_the_browser_in():
    report = make_report()
    without, html = render_report(report), render_report(report, browser=data(row(), pairs=(pair_row(),)))
    assert "<script" not in without
    assert "script-src" not in without
    assert f'content="{content_policy(browser_script())}"' in html
    assert html.count("<script>") == 1
    assert (
        html.index('id="examples"') < html.index('id="held-out"') < html.index('id="pairs"') < html.index('id="cost"')
    )
    assert '<a href="#held-out">Held-out drafts</a><a href="#pairs">Pairs</a>' in html
    assert html.index("</footer>") < html.index('class="browser-data"') < html.index("</body>")
    assert b"Ask a" not in inflated(render_report(report, texts=False, browser=data(row())).encode())


def test_nothing_to_browse_needs_no_script():
    for nothing in (None, BrowserData(COLUMNS, ())):
        parts = browser_parts(nothing)
        assert parts.policy == content_policy() == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        assert not (parts.sections or parts.tail or parts.links or parts.style)


def test_a_comparison_links_to_the_reports_that_show_pairs():
    browser = replace(data(row()), links=(("online", "online/seed-7/report.html"), ('"><b>', "x")))
    sections = str(browser_parts(browser).sections)
    assert '<a href="online/seed-7/report.html#pairs">online</a>' in sections
    assert "&#34;&gt;&lt;b&gt;" in sections
    assert 'id="browse-pairs"' not in sections


def test_equal_rows_give_equal_bytes():
    assert browser_parts(data(row(), pairs=(pair_row(),))) == browser_parts(data(row(), pairs=(pair_row(),)))


def test_a_score_that_is_no_number_is_not_known():
    draft = BrowserDraft("x", evaluation=float("nan"), judge=float("inf"))
    _, rows, _ = read(data(row(drafts={"Base": draft})))
    assert rows[0]["drafts"][0].keys() == {"words", "writer", "text"}
