"""How large a report of thousands of prompts is, and how soon a browser shows it.

    python tests/benchmarks/report.py                     # 5,000 prompts: base, four arms, teacher
    python tests/benchmarks/report.py --prompts 150 --keep report.html

Makes a synthetic report of e-mails of 60 to 120 words with criterion scores and reasons, opens it in headless Chromium
(where one is installed) and prints size, first paint, and when the drafts can be browsed.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from prefdistill import __version__
from prefdistill.metrics.rates import outcome_of
from prefdistill.records import CriterionScore, Message, Policy, RoundResult
from prefdistill.stages.report import ReportData, render_report
from prefdistill.stages.report.browsing import (
    BrowserColumn,
    BrowserData,
    BrowserDraft,
    BrowserPair,
    BrowserRow,
    PairRow,
)
from tests.chromium import CHROMIUM, Chromium

CRITERIA = ("request_first", "keeps_the_facts", "right_tone", "no_filler", "complete_sentences")
ARMS = ("offline", "online", "shuffled_online", "best_of_n")
SYLLABLES = (
    "ba be con der est fa gi ho in jor ka lum mi nor op per qua ri sta tem un ver wil xen yor zed al ter ment".split()
)

SEARCH = """(async () => {
  const field = document.querySelector("#browse-drafts input[type=search]");
  const status = document.querySelector("#browse-drafts .status");
  const before = status.textContent;
  field.value = "konper";
  const started = performance.now();
  field.dispatchEvent(new Event("input"));
  while (status.textContent === before) await new Promise(requestAnimationFrame);
  return performance.now() - started;
})()"""
"""Milliseconds from a key to its matches, the wait for the next key included."""


class Writer:
    """Writes text whose words follow Zipf's law over a vocabulary of 6,000: it shrinks about as real mail does."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        words: set[str] = set()
        while len(words) < 6000:
            words.add("".join(self._chance.choices(SYLLABLES, k=self._chance.choice((1, 2, 2, 3, 3, 4)))))
        self._words = sorted(words, key=lambda word: (len(word), word))
        self._weights = [1 / (rank + 3) for rank in range(len(self._words))]

    def text(self, least: int, most: int) -> str:
        words = self._chance.choices(self._words, self._weights, k=self._chance.randint(least, most))
        marks = [f"{word}{self._chance.choice(('.', ',', '', '', '', '', '', ''))}" for word in words]
        return " ".join(marks).capitalize() + "."

    def draft(self) -> BrowserDraft:
        scores = []
        for name in CRITERIA:
            score = self._chance.choice((0.0, 0.5, 1.0))
            reason = self.text(8, 20) if name != "no_filler" else ""
            scores.append(CriterionScore(criterion=name, score=score, level="yes", reason=reason, path="parsed"))
        score = sum(each.score or 0.0 for each in scores) / len(scores)
        return BrowserDraft(
            completion=self.text(60, 120),
            evaluation=min(1.0, max(0.0, score + self._chance.gauss(0, 0.15))),
            judge=score,
            gates=("invents_nothing",) if self._chance.random() < 0.06 else (),
            criteria=tuple(scores),
            cut=self._chance.random() < 0.02,
        )

    def messages(self) -> tuple[Message, ...]:
        return (Message(role="user", content=self.text(30, 60)),)


def synthetic(prompts: int, arms: int, pairs: int = 0, seed: int = 7) -> BrowserData:
    """Return rows of base, arms and teacher, and of training prompts."""
    writer, chance = Writer(seed), random.Random(seed)
    names = [*ARMS, *(f"arm {index}" for index in range(len(ARMS), arms))][:arms]
    columns = (
        BrowserColumn("Base", "base", said="the base"),
        *(BrowserColumn(name, "arm", "round 5") for name in names),
        BrowserColumn("Teacher", "teacher", said="the teacher"),
    )
    rows = []
    for _ in range(prompts):
        drafts = {each.title: writer.draft() for each in columns}
        rows.append(
            BrowserRow(
                id=f"{chance.getrandbits(48):012x}",
                messages=writer.messages(),
                drafts=drafts,
                outcomes={
                    each.title: outcome_of(drafts[each.title].evaluation or 0.0, drafts["Base"].evaluation or 0.0, 0.0)
                    for each in columns[1:]
                },
                kind=chance.choice(("email", "edit", "summary")),
            )
        )
    pair = BrowserPair(0, 1, 0.9, 0.4, 0.5, "rubric", ("the best against the worst of 4 drafts",))
    paired = tuple(
        PairRow(
            id=f"{chance.getrandbits(48):012x}",
            round=1 + index % 5,
            messages=writer.messages(),
            drafts=tuple(writer.draft() for _ in range(4)),
            pairs=(pair,) if index % 4 else (),
            reason="" if index % 4 else "below_margin",
        )
        for index in range(pairs)
    )
    return BrowserData(columns, tuple(rows), paired, judge="rubric", evaluation_judge="rubric (another model)")


def page(data: BrowserData) -> str:
    """Return the report of a run that has only these rows."""
    report = ReportData(
        name="synthetic",
        version=__version__,
        mode="online",
        seed=7,
        student="none",
        teacher=None,
        judge="rubric",
        evaluation_judge="rubric",
        self_judged=False,
        prompts={"test": len(data.rows)},
        rounds=(RoundResult(round=0, drafts=0, judged=0, failed=0, pairs=0),),
        best_round=0,
        policy=Policy(model="none"),
        recipe="",
        rubrics={},
    )
    return render_report(report, browser=data)


def measure(path: Path, times: int = 5) -> dict[str, float]:
    """Return milliseconds from the start of the navigation, the median of several loads."""
    names = {"first paint": "first-paint", "first rows": "browser-rows", "all rows": "browser-ready"}
    found: dict[str, list[float]] = {name: [] for name in (*names, "a search")}
    with Chromium() as browser:
        for _ in range(times):
            browser.open(path)
            for name, entry in names.items():
                found[name].append(browser.run(f"performance.getEntriesByName('{entry}')[0].startTime"))
            found["a search"].append(browser.run(SEARCH))
            assert not browser.trouble, browser.trouble
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Make the report, and print what it weighs and how soon it can be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=5000)
    parser.add_argument("--arms", type=int, default=4, help="beside base and teacher")
    parser.add_argument("--pairs", type=int, default=0, help="training prompts with four drafts each")
    parser.add_argument("--keep", type=Path, help="where to leave the page")
    given = parser.parse_args()
    data = synthetic(given.prompts, given.arms, given.pairs)
    started = time.perf_counter()
    html = page(data)
    seconds = time.perf_counter() - started
    path = given.keep or Path(tempfile.mkdtemp()) / "report.html"
    path.write_text(html, encoding="utf-8")
    drafts = len(data.rows) * len(data.columns) + sum(len(row.drafts) for row in data.pair_rows)
    print(f"{given.prompts:,} prompts, {given.arms} arms beside base and teacher: {drafts:,} drafts")
    print(f"size           {path.stat().st_size / 1e6:8.1f} MB")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"rendered in    {seconds:8.1f} s, {memory:,.0f} MiB at most")
    if CHROMIUM is None:
        print("no Chromium is installed: first paint not measured")
        return
    for name, value in measure(path).items():
        print(f"{name:14} {value:8.0f} ms")


if __name__ == "__main__":
    main()
