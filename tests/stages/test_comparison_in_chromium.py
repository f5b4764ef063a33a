"""The page of a comparison as a reader's browser shows it: desktop and phone, light and dark, and on paper."""

from dataclasses import replace

import pytest

from prefdistill.stages.report.comparison import Note
from prefdistill.stages.report.comparison_page import render_comparison
from tests.chromium import Chromium, needs_chromium
from tests.stages.made_comparison import make_comparison

pytestmark = needs_chromium
HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)></textarea>\u202e" + "long" * 2000


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A browser, and pages of a comparison as it should be, and with hostile texts in every place."""
    folder = tmp_path_factory.mktemp("pages")
    report = make_comparison()
    (folder / "plain.html").write_text(render_comparison(report))
    arms = (replace(report.arms[0], label=HOSTILE, what=HOSTILE, overrides=(HOSTILE,)), *report.arms[1:])
    curves = tuple(replace(each, arm=HOSTILE) if each.arm == "offline" else each for each in report.curves)
    rows = tuple((HOSTILE, *row[1:]) for row in report.tables[0].rows)
    tables = (replace(report.tables[0], rows=rows, note=HOSTILE), *report.tables[1:])
    hostile = replace(
        report, headline=HOSTILE, verdict=(HOSTILE,), notes=(Note("warning", HOSTILE),), arms=arms, curves=curves,
        tables=tables, name=HOSTILE, recipe=HOSTILE, facts={HOSTILE[:80]: HOSTILE},
    )  # fmt: skip
    (folder / "hostile.html").write_text(render_comparison(hostile))
    with Chromium() as browser:
        yield browser, folder


@pytest.mark.parametrize("page", ["plain", "hostile"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_it_shows_without_trouble_and_never_scrolls_sideways(shown, page, width, dark):
    browser, folder = shown
    browser.open(folder / f"{page}.html", width, dark=dark)
    assert browser.trouble == []
    assert all(url.startswith(("file:", "data:", "about:")) for url in browser.requested)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.title") != "taken"
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is not dark


def test_hovering_shows_the_numbers_of_a_point_and_of_a_column(shown):
    browser, folder = shown
    browser.open(folder / "plain.html")
    for kind, words in (("point", "seeds"), ("column", "online")):
        place = browser.run(
            f"(() => {{ const area = document.querySelector('.chart .{kind}:last-child .area');"
            "area.scrollIntoView({block: 'center', behavior: 'instant'}); const r = area.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for aside in (3, 0):
            browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0] - aside, y=place[1])
        tips = "[...document.querySelectorAll('.tip')].filter((tip) => getComputedStyle(tip).visibility === 'visible')"
        browser.until(f"{tips}.some((tip) => tip.closest('.{kind}'))")
        found = browser.run(f"{tips}.map((tip) => tip.textContent)")
        assert len(found) == 1 and words in found[0], (kind, found)


def test_nothing_is_cut_on_paper(shown):
    browser, folder = shown
    browser.open(folder / "plain.html", 688)
    browser.call("Emulation.setEmulatedMedia", media="print")
    wide = browser.run(
        "[...document.querySelectorAll('.scroll')].filter((each) => each.querySelector('table').offsetWidth"
        " > each.offsetWidth + 1).map((each) => each.getAttribute('aria-label'))"
    )
    browser.call("Emulation.setEmulatedMedia", media="")
    assert wide == []
