"""The report's browser of drafts in a real browser: filters, search, keys, links, hostile drafts, phones, paper."""

from dataclasses import replace
from pathlib import Path

import pytest

from prefdistill.records import CriterionScore, Message
from prefdistill.stages.report.browsing import (
    BrowserColumn,
    BrowserData,
    BrowserDraft,
    BrowserPair,
    BrowserRow,
    PairRow,
)
from prefdistill.stages.report.embedding import browser_parts
from prefdistill.stages.report.examples import mark_differences
from tests.benchmarks import report as benchmark
from tests.chromium import Chromium, needs_chromium

pytestmark = needs_chromium

COLUMNS = (
    BrowserColumn("Base", "base", said="the base"),
    BrowserColumn("offline", "arm"),
    BrowserColumn("online", "arm"),
    BrowserColumn("Teacher", "teacher", said="the teacher"),
)
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "</textarea><img src=x onerror=alert(3)>",
    "\u202egnp.exe\u2066\u2067 left to right",
    "NUL \x00 escape \x1b[31m lone \ud83d half \udc4d",
    "a" * 1_000_000,
    "word " * 200_000,
    "‏عربي <b>עברית</b>",
    "]]> --> <!-- ' \" ` ${alert(4)} {{ 7 * 7 }} \\u003cscript\\u003e",
    "   \n\n ",
)


def draft(text: str, score: float | None, tone: float = 0.5, **changes: object) -> BrowserDraft:
    criteria = (
        CriterionScore(criterion="tone", score=tone, level="partly", reason=f"reason for {text[:20]}", path="parsed"),
        CriterionScore(criterion="facts", score=1.0, path="checked"),
    )
    return replace(BrowserDraft(text, evaluation=score, judge=0.5, criteria=criteria), **changes)


def row(id: str, base: BrowserDraft, offline: BrowserDraft, online: BrowserDraft, **changes: object) -> BrowserRow:
    def outcome(arm: BrowserDraft) -> str:
        if arm.evaluation is None or base.evaluation is None:
            return "unknown"
        return "tie" if arm.evaluation == base.evaluation else "win" if arm.evaluation > base.evaluation else "loss"

    drafts = {"Base": base, "offline": offline, "online": online, "Teacher": draft(f"The teacher on {id}", 0.9, 1.0)}
    outcomes = {"offline": outcome(offline), "online": outcome(online)}
    found = BrowserRow(id, (Message(role="user", content=f"Please write {id}"),), drafts, outcomes, "email")
    return replace(found, **changes)


ROWS = (
    row("one", draft("old words here", 0.5), draft("new words here", 0.8, 1.0), draft("newer words here", 0.4, 0.0)),
    row("two", draft("the same", 0.5), draft("the same", 0.5), draft("needle", 0.9, gates=("keeps_the_facts",))),
    row(
        "three",
        draft("x", 0.5),
        draft("y", None, failure="evaluation judge: parse", failure_detail="odd reply"),
        draft("z", 0.1, cut=True),
        kind="edit",
    ),
    row(
        "four",
        draft("short", 0.5),
        draft("much longer " * 20, 0.7),
        draft("s", 0.6, addresses="role tag: system:"),
        label="mail 4's <own>",
    ),
)
PAIRS = (
    PairRow(
        "t1", 1, (Message(role="user", content="Train one"),),
        (draft("chosen text", None), draft("rejected text", None), draft("a third", None)),
        (BrowserPair(0, 1, 0.9, 0.4, 0.5, "rubric", ("the best against the worst of 3 drafts",)),),
    ),
    PairRow(
        "t2", 1, (Message(role="user", content="Train two"),), (draft("p", None), draft("q", None)),
        (), "below_margin", "0.02 is below 0.1",
    ),
    PairRow(
        "t3", 2, (Message(role="user", content="Train three"),), (draft("good", None), draft("bad", None)),
        (BrowserPair(0, 1, 0.9, 0.7, 0.2, "rubric", ("the best against the worst of 2 drafts",)),),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def chromium():
    with Chromium() as browser:
        yield browser


def page(folder: Path, rows=ROWS, pairs=PAIRS, texts: bool = True, columns=COLUMNS, trains_on="pairs") -> Path:
    """Write a page that has the browser and the report's own style."""
    parts = browser_parts(
        BrowserData(columns, tuple(rows), tuple(pairs), "checks", "another", trains_on=trains_on), texts
    )
    style = (Path(__file__).parents[2] / "prefdistill/stages/report/page.css").read_text()
    path = folder / "page.html"
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{parts.policy}"><link rel="icon" href="data:,">'
        f"<style>{style}{parts.style}</style><nav>{parts.links}</nav><main>{parts.sections}</main>{parts.tail}</html>",
        encoding="utf-8",
    )
    return path


@pytest.fixture
def opened(chromium, tmp_path):
    chromium.open(page(tmp_path))
    yield chromium
    assert chromium.trouble == []
    assert len(chromium.requested) <= 2, "nothing is loaded but the page itself"


def listed(browser: Chromium, section: str = "drafts") -> list[str]:
    """The excerpts in the list, from the top."""
    browser.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return browser.run(f"[...document.querySelectorAll('#browse-{section} .excerpt')].map((each) => each.textContent)")


def choose(browser: Chromium, label: str, said: str, section: str = "drafts") -> None:
    """Choose from a labelled list by what it says."""
    browser.run(
        f"""(() => {{
          const fields = [...document.querySelectorAll('#browse-{section} .field')];
          const field = fields.find((each) => each.textContent.startsWith({label!r}));
          const select = field.querySelector('select');
          select.value = [...select.options].find((each) => each.text === {said!r}).value;
          select.dispatchEvent(new Event('change'));
        }})()"""
    )


def seek(browser: Chromium, words: str, section: str = "drafts") -> None:
    browser.run(
        f"""(async () => {{
          const field = document.querySelector('#browse-{section} input[type=search]');
          field.value = {words!r};
          field.dispatchEvent(new Event('input'));
          await new Promise((done) => setTimeout(done, 200));
        }})()"""
    )


def shown(browser: Chromium, section: str = "drafts") -> str:
    return browser.run(f"document.querySelector('#browse-{section} .detail').innerText")


def status(browser: Chromium, section: str = "drafts") -> str:
    return browser.run(f"document.querySelector('#browse-{section} .status').textContent")


def test_prompts_are_listed_by_gain_and_counted(opened):
    assert listed(opened) == ["Please write one", "Please write four", "Please write two", "Please write three"]
    assert status(opened) == "4 prompts: 2 better, 1 tie, 1 not judged."
    assert "Please write one" in shown(opened), "the first is open"


def test_texts_stand_side_by_side_with_their_differences(opened):
    assert opened.run("[...document.querySelectorAll('#browse-drafts del')].map((each) => each.textContent)") == ["old"]
    assert opened.run("[...document.querySelectorAll('#browse-drafts ins')].map((each) => each.textContent)") == [
        "new",
        "newer",
    ]
    words = shown(opened)
    for expected in ("held-out 0.80", "judge 0.50", "+0.30", "−0.10", "reason for new words here", "partly", "3 words"):
        assert expected in words


def test_outcomes_are_the_chosen_columns(opened):
    choose(opened, "Outcome", "better")
    assert listed(opened) == ["Please write one", "Please write four"]
    choose(opened, "Compare with the base", "online")
    assert listed(opened) == ["Please write two", "Please write four"]
    choose(opened, "Outcome", "worse")
    assert status(opened) == "2 of 4 prompts: 2 worse."
    choose(opened, "Outcome", "not judged")
    assert listed(opened) == []
    assert opened.run("document.querySelector('#browse-drafts .nothing').hidden") is False


def test_a_criterion_that_got_worse_or_is_below_half(opened):
    choose(opened, "Criterion", "tone")
    assert listed(opened) == [], "worse than the base is what it means until it is said otherwise"
    choose(opened, "is", "better than the base")
    assert listed(opened) == ["Please write one"]
    choose(opened, "Compare with the base", "online")
    choose(opened, "is", "below half")
    assert listed(opened) == ["Please write one"]
    choose(opened, "Criterion", "facts")
    assert listed(opened) == []


def test_warnings_can_be_asked_for(opened):
    choose(opened, "Warning", "not judged")
    assert listed(opened) == ["Please write three"]
    assert "Not judged (evaluation judge: parse): odd reply" in shown(opened)
    choose(opened, "Warning", "much longer than the base (× 1.5)")
    assert listed(opened) == ["Please write four"]
    choose(opened, "Compare with the base", "online")
    for said, expected in (
        ("failed a gate", "Failed keeps the facts"),
        ("cut at the token limit", "Cut at the token limit"),
        ("addresses the judge", "Addresses the judge: role tag: system:"),
    ):
        choose(opened, "Warning", said)
        assert len(listed(opened)) == 1
        assert expected in shown(opened)
    choose(opened, "Warning", "any warning")
    assert len(listed(opened)) == 3


def test_search_looks_into_prompts_and_all_drafts(opened):
    seek(opened, "NEEDLE")
    assert listed(opened) == ["Please write two"]
    assert opened.run("[...CSS.highlights.get('sought')].map((each) => each.toString())") == ["needle"] * 2, (
        "text and reason"
    )
    seek(opened, "write three")
    assert listed(opened) == ["Please write three"]
    seek(opened, "nowhere")
    assert status(opened) == "0 of 4 prompts."
    opened.run(
        "[...document.querySelectorAll('#browse-drafts button')]"
        ".find((each) => each.textContent === 'Clear filters').click()"
    )
    assert len(listed(opened)) == 4


def test_kinds_and_orders(opened):
    choose(opened, "Kind", "edit")
    assert listed(opened) == ["Please write three"]
    choose(opened, "Kind", "all")
    choose(opened, "Sort by", "growth in words")
    assert listed(opened)[0] == "Please write four"
    choose(opened, "Sort by", "loss, largest first")
    assert listed(opened) == ["Please write two", "Please write four", "Please write one", "Please write three"], (
        "unknown last"
    )


def test_columns_can_be_hidden(opened):
    titles = "[...document.querySelectorAll('#browse-drafts .who')].map((each) => each.textContent)"
    assert opened.run(titles) == ["Base", "offline", "online", "Teacher"]
    opened.run("document.querySelectorAll('#browse-drafts .columns input')[1].click()")
    assert opened.run(titles) == ["Base", "offline", "Teacher"]


def test_arrow_keys_go_up_and_down(opened):
    opened.run("document.querySelector('#browse-drafts .rows').focus()")
    opened.press("ArrowDown")
    opened.press("ArrowDown")
    assert "Please write two" in shown(opened)
    opened.press("ArrowUp")
    assert "Please write four" in shown(opened)
    opened.press("End")
    opened.press("ArrowDown")
    assert "Please write three" in shown(opened)
    active = (
        "document.getElementById(document.querySelector('#browse-drafts .rows').getAttribute('aria-activedescendant'))"
    )
    assert opened.run(f"{active}.getAttribute('aria-selected')") == "true"
    assert "Please write three" in opened.run(f"{active}.textContent")
    assert opened.run("document.querySelectorAll('#browse-drafts [aria-selected=true]').length") == 1


def test_every_control_has_a_name(opened):
    controls = "input, select, button, [role=listbox], [tabindex]"
    nameless = f"""[...document.querySelectorAll('.browser :is({controls})')].filter((each) =>
      !(each.labels && each.labels.length) && !each.textContent.trim() && !each.getAttribute('aria-label')).length"""
    assert opened.run(nameless) == 0
    assert opened.run("document.querySelectorAll('.detail table thead th').length") > 0


@pytest.mark.parametrize(
    ("at", "section", "words"), [("#prompt-three", "drafts", "write three"), ("#pair-2-t3", "pairs", "Train three")]
)
def test_a_link_opens_its_prompt(chromium, tmp_path, at, section, words):
    chromium.open(page(tmp_path), at=at)
    assert words in shown(chromium, section)
    chromium.run("location.hash = '#prompt-two'")
    chromium.until("document.querySelector('#browse-drafts .detail').innerText.includes('Please write two')")
    chromium.run("location.hash = '#prompt-unknown'")
    chromium.run("location.hash = '#prompt-' + encodeURIComponent(\"mail 4's <own>\")")
    chromium.until("document.querySelector('#browse-drafts .detail').innerText.includes('Please write four')")
    assert chromium.trouble == []


def test_pairs_are_shown_with_why(opened):
    assert status(opened, "pairs") == "3 prompts: 2 pairs, 1 without one."
    words = shown(opened, "pairs")
    for expected in (
        "Kept: the best against the worst of 3 drafts.",
        "Chosen 0.90",
        "Rejected 0.40",
        "margin 0.50",
        "1 other draft",
    ):
        assert expected in words
    assert opened.run("[...document.querySelectorAll('#browse-pairs ins')].map((each) => each.textContent)") == [
        "chosen"
    ]
    choose(opened, "Pair", "no pair: below margin (1)", "pairs")
    assert listed(opened, "pairs") == ["Train two"]
    assert "No pair: the margin is smaller than the least that trains (0.02 is below 0.1)." in shown(opened, "pairs")
    choose(opened, "Pair", "kept (2)", "pairs")
    choose(opened, "Round", "2", "pairs")
    assert listed(opened, "pairs") == ["Train three"]
    choose(opened, "Round", "all", "pairs")
    choose(opened, "Sort by", "margin, narrowest first", "pairs")
    assert listed(opened, "pairs") == ["Train three", "Train one"]
    seek(opened, "a third", "pairs")
    assert listed(opened, "pairs") == ["Train one"]


def test_answers_are_told_from_pairs(chromium, tmp_path):
    answers = (
        PairRow("a1", 1, (Message(role="user", content="Answer one"),), (draft("the answer", None, writer="teacher"),)),
        PairRow("a2", 1, (Message(role="user", content="Answer two"),), (draft("cut", None),), (), "incomplete"),
    )
    chromium.open(page(tmp_path, ROWS, answers, trains_on="answers"))
    assert chromium.trouble == []
    assert status(chromium, "pairs") == "2 prompts: 1 answer, 1 without one."
    assert "Answer, trained on" in shown(chromium, "pairs")
    choose(chromium, "Answer", "no answer: incomplete (1)", "pairs")
    assert "No answer: the answer is cut at the token limit." in shown(chromium, "pairs")
    assert chromium.run("document.getElementById('pairs').textContent") == "Answers of each round"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_hostile_drafts_are_text(chromium, tmp_path, width, dark):
    rows = [
        row(
            f"h{index} <i>",
            draft(text, 0.5, gates=(text[:200],)),
            draft(text[::-1], 0.6),
            draft("fine", 0.5),
            messages=(Message(role="user", content=text or " "),),
            label=text[:300],
        )
        for index, text in enumerate(HOSTILE)
    ]
    path = page(tmp_path, rows, (PairRow("<b>", 1, (), (draft(HOSTILE[0], None),), (), "<u>reason</u>", HOSTILE[1]),))
    assert path.stat().st_size < 300_000, "a draft of a megabyte does not bloat the file"
    chromium.open(path, width, 844, dark)
    chromium.run("document.querySelector('#browse-drafts .rows').focus()")
    texts = set()
    for _ in HOSTILE:
        texts.add(chromium.run("document.querySelector('#browse-drafts .draft .text').textContent"))
        assert chromium.run("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
        chromium.press("ArrowDown")
    assert chromium.trouble == [], "no error, no dialog"
    assert len(chromium.requested) <= 2
    assert "<script>alert(1)</script>" in texts
    assert "[U+202E]gnp.exe[U+2066][U+2067] left to right" in texts
    assert "NUL ␀ escape ␛[31m lone [U+D83D] half [U+DC4D]" in texts
    assert any(text.endswith("… (988,000 more characters)") for text in texts)
    assert chromium.run("document.querySelectorAll('main img, main b i, main textarea, main script').length") == 0
    assert chromium.run("document.querySelectorAll('script:not([type])').length") == 1


def test_injected_script_would_not_run(chromium, tmp_path):
    path = page(tmp_path)
    path.write_text(
        path.read_text().replace("<main>", "<main><script>document.title = 'ran'</script><b onclick='1'></b>")
    )
    chromium.open(path)
    assert chromium.run("document.title") != "ran"
    assert any("Content Security Policy" in each for each in chromium.trouble), "and the browser says why"


def test_without_script_the_page_says_so(chromium, tmp_path):
    chromium.open(page(tmp_path), script=False)
    chromium.call("Emulation.setScriptExecutionDisabled", value=False)
    assert "Browsing the drafts needs JavaScript, which is off" in chromium.run("document.body.innerText")
    assert chromium.run("document.querySelectorAll('.browser:not([hidden])').length") == 0, (
        "no control that does nothing"
    )


def test_a_browser_that_is_too_old_is_told(chromium, tmp_path):
    added = chromium.call("Page.addScriptToEvaluateOnNewDocument", source="delete globalThis.DecompressionStream")
    chromium.call("Page.navigate", url=page(tmp_path).as_uri())
    chromium.until("document.querySelectorAll('.stopped[role=alert]').length === 2")
    chromium.call("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])
    assert "too old to open the drafts" in chromium.run("document.body.innerText")


def test_damaged_data_is_told(chromium, tmp_path):
    path = page(tmp_path)
    text = path.read_text()
    at = text.rindex('class="browser-data">') + len('class="browser-data">')
    path.write_text(text[:at] + "AAAA" + text[at + 4 :])
    chromium.call("Page.navigate", url=path.as_uri())
    chromium.until("document.querySelector('.stopped[role=alert]')")
    assert "The drafts could not be opened" in chromium.run("document.body.innerText")


def test_only_what_is_visible_is_in_the_page(chromium, tmp_path):
    rows = [replace(ROWS[0], id=f"r{index}") for index in range(3000)]
    chromium.open(page(tmp_path, rows, ()))
    assert status(chromium).startswith("3,000 prompts")
    assert chromium.run("document.querySelectorAll('.option').length") < 40
    chromium.run("(() => { const box = document.querySelector('.rows'); box.scrollTop = box.scrollHeight; })()")
    chromium.until(
        "[...document.querySelectorAll('.option')].some((each) => each.getAttribute('aria-posinset') === '3000')"
    )
    assert chromium.run("document.querySelectorAll('.option').length") < 40


def test_without_texts_scores_can_still_be_browsed(chromium, tmp_path):
    chromium.open(page(tmp_path, texts=False))
    assert chromium.trouble == []
    words = shown(chromium)
    assert "held-out 0.80" in words
    assert "new words" not in words
    choose(chromium, "Outcome", "better")
    assert listed(chromium) == ["one", "mail 4's <own>"], "ids and the user's own names for them"
    choose(chromium, "Pair", "kept (2)", "pairs")
    assert "Chosen 0.90" in shown(chromium, "pairs")


def test_a_base_alone_can_be_browsed(chromium, tmp_path):
    rows = [replace(each, drafts={"Base": each.drafts["Base"]}, outcomes={}) for each in ROWS]
    chromium.open(page(tmp_path, rows, (), columns=COLUMNS[:1]))
    assert chromium.trouble == []
    assert status(chromium) == "4 prompts."
    choose(chromium, "Warning", "not judged")
    assert listed(chromium) == []


def test_an_arm_without_a_draft_is_said(chromium, tmp_path):
    drafts = {name: each for name, each in ROWS[0].drafts.items() if name != "offline"}
    chromium.open(page(tmp_path, [replace(ROWS[0], drafts=drafts, outcomes={"online": "loss"}), ROWS[1]]))
    assert chromium.trouble == []
    chromium.run("location.hash = '#prompt-one'")
    chromium.until(
        "document.querySelector('#browse-drafts .detail').innerText.includes('No draft on this prompt: offline.')"
    )


def test_on_paper_the_open_prompt_is_left(chromium, tmp_path):
    chromium.open(page(tmp_path))
    chromium.call("Emulation.setEmulatedMedia", media="print")
    displayed = "getComputedStyle(document.querySelector('#browse-drafts %s')).display"
    assert chromium.run(displayed % ".filters") == chromium.run(displayed % ".list") == "none"
    assert "Please write one" in shown(chromium)
    chromium.call("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("old words here", "new words here"),
        ("", "anything"),
        ("the same", "the same"),
        (
            "Hi Priya,\n\nI hope all is well. Send the plan by Friday.",
            "Hi Priya,\n\nPlease send the plan by Friday at noon.",
        ),
        ("a b c d e f", "c d e f a b"),
        ("naïve café – 10:30", "naïve Café – 10:45"),
    ],
)
def test_differences_are_those_of_the_reports_examples(chromium, tmp_path, before, after):
    chromium.open(page(tmp_path, [row("d", draft(before, 0.5), draft(after, 0.6), draft("x", 0.5))], ()))
    found = chromium.run(
        "[...document.querySelectorAll('#browse-drafts .draft')].slice(0, 2).map((each) =>"
        "[...each.querySelectorAll('del, ins')].map((mark) => mark.textContent))"
    )
    assert found == [[piece.text for piece in pieces if piece.changed] for pieces in mark_differences(before, after)]


def test_long_texts_are_not_compared(chromium, tmp_path):
    long = "word " * 900
    chromium.open(page(tmp_path, [row("d", draft(long, 0.5), draft(f"other {long}", 0.6), draft(long, 0.5))], ()))
    assert chromium.run("document.querySelectorAll('#browse-drafts del, #browse-drafts .detail ins').length") == 0


@pytest.mark.slow
def test_five_thousand_prompts_are_there_at_once(tmp_path):
    path = tmp_path / "report.html"
    path.write_text(benchmark.page(benchmark.synthetic(prompts=5000, arms=4)), encoding="utf-8")
    assert path.stat().st_size < 25e6
    assert benchmark.measure(path, times=1)["first paint"] < 2000
