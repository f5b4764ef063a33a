"""The rubric's own tests, run through a recipe's judge like unit tests: green, red, or flaky.

A test is a golden pair. It is green where `better` ranks above `worse`, and where `better` scores higher on the
criterion that `because` names; where the judge compares drafts, both orders must agree. A test is never shown to the
judge that it tests, whatever `golden_examples` says.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Literal

from prefdistill.errors import RubricError
from prefdistill.records import Draft, Message, Prompt, RankedDraft, Ranking, Usage, Verdict
from prefdistill.rubric import Rubric, RubricTest
from prefdistill.selection import compare, pool_scores, rank_drafts
from prefdistill.stages.judge import judge_group, threads_for

Colour = Literal["green", "red", "error"]
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Trial:
    """One judging of one test."""

    colour: Colour
    """red: judged otherwise than the test says; error: not judged."""
    note: str
    better: float | None
    """Score of the better draft, before gates; None where it was not ranked."""
    worse: float | None
    usage: Usage


@dataclass(frozen=True)
class Tested:
    """One test with all its trials."""

    number: int
    """From 1, as the tests stand in the file."""
    test: RubricTest
    where: str
    trials: tuple[Trial, ...]

    @property
    def green(self) -> bool:
        """Whether every trial is green."""
        return all(trial.colour == "green" for trial in self.trials)

    @property
    def flaky(self) -> bool:
        """Whether it was green only sometimes."""
        return not self.green and any(trial.colour == "green" for trial in self.trials)

    @property
    def result(self) -> str:
        """Return green, red, error or flaky with how often it was green."""
        if self.flaky:
            greens = sum(trial.colour == "green" for trial in self.trials)
            return f"flaky, {greens} of {len(self.trials)} green"
        return "green" if self.green else self.first_bad.colour

    @property
    def first_bad(self) -> Trial:
        """The first trial that is not green, else the first."""
        return next((trial for trial in self.trials if trial.colour != "green"), self.trials[0])

    @property
    def usage(self) -> Usage:
        """What its trials cost."""
        return sum((trial.usage for trial in self.trials), Usage())


def run_tests(
    judge: Any, rubric: Rubric, repeat: int = 1, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Tested]:
    """Judge every test of a rubric `repeat` times, each time as new requests.

    A judge that makes no requests (checks alone) would say the same each time, so it is asked once.

    Raises:
        RubricError: the rubric has no tests, or the judge cannot apply it.
        PrefdistillError: one that no other test can do without, such as an unreachable teacher.
    """
    if not rubric.tests:
        name = (rubric.asked or rubric.all_criteria)[0].name
        where = rubric._document.path if rubric._document is not None else f"rubric {rubric.name}"
        raise RubricError(
            f"{where}: no tests; expected a `tests:` list with golden pairs, such as\n"
            f"tests:\n  - prompt: …\n    better: …\n    worse: the same, but worse on {name} alone\n    because: {name}"
        )
    require = getattr(judge, "require", None)
    if require is not None:
        require(rubric)
    again = getattr(judge, "repeated", None)
    times = repeat if again is not None and rubric.asked else 1
    judges = [judge if number == 0 or again is None else again(number) for number in range(times)]
    trials: dict[tuple[int, int], Trial] = {}
    with ThreadPoolExecutor(max_workers=min(threads_for(judge), len(rubric.tests) * times)) as pool:
        futures = {
            pool.submit(_trial, each, rubric, index): (index, number)
            for index in range(len(rubric.tests))
            for number, each in enumerate(judges)
        }
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                trials[futures[future]] = future.result()
                progress(done, len(futures))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [
        Tested(index + 1, test, _where(rubric, index), tuple(trials[index, number] for number in range(times)))
        for index, test in enumerate(rubric.tests)
    ]


def _where(rubric: Rubric, index: int) -> str:
    return f"tests.{index}" if rubric._document is None else rubric._document.where(("tests", index))


def without_test(rubric: Rubric, test: RubricTest) -> Rubric:
    """Return the rubric without a test, and without others that show one of its texts."""
    texts = {test.better.strip(), test.worse.strip()}
    kept = tuple(each for each in rubric.tests if not {each.better.strip(), each.worse.strip()} & texts)
    return rubric.model_copy(update={"tests": kept})


def _trial(judge: Any, rubric: Rubric, index: int) -> Trial:
    test = rubric.tests[index]
    prompt = Prompt(
        id=f"test-{index + 1}",
        messages=(Message(role="user", content=test.prompt),),
        split="train",
        fields=test.fields,
    )
    better, worse = (_draft(prompt, text, number) for number, text in enumerate((test.better, test.worse)))
    hidden = without_test(rubric, test)
    verdict = judge_group(judge, prompt, (better, worse), hidden)
    ranking = rank_drafts(prompt, (better, worse), verdict, hidden, round=0)
    colour, note = _read(test, hidden, verdict, ranking, better, worse)
    scores = {entry.draft_id: entry.score for entry in ranking.entries}
    return Trial(colour, note, scores.get(better.id), scores.get(worse.id), verdict.usage)


def _draft(prompt: Prompt, text: str, index: int) -> Draft:
    return Draft(
        id=Draft.make_id(prompt.id, "file:test", 0, "train", index),
        prompt_id=prompt.id,
        source="file:test",
        policy=None,
        round=0,
        purpose="train",
        index=index,
        completion=text,
        finish_reason="stop",
    )


def _read(
    test: RubricTest, rubric: Rubric, verdict: Verdict, ranking: Ranking, better: Draft, worse: Draft
) -> tuple[Colour, str]:
    """Return what a verdict says about a test."""
    if verdict.failures:
        failure = verdict.failures[0]
        return "error", f"not judged ({failure.kind}): {failure.message}"
    places = {entry.draft_id: entry for entry in ranking.entries}
    if better.id not in places or worse.id not in places:
        return "error", "not ranked: no criterion with a weight applies to this prompt; check its `fields`"
    compared = compare(verdict.preferences, better.id, worse.id)
    if compared is not None and not compared.agree:
        orders = f"{compared.shown_first:.2f} shown first, {compared.shown_second:.2f} shown second"
        says = "a tie" if compared.tied else "the winner changes with the order shown"
        return "red", f"compared in both orders: {says} (better wins with {orders})"
    if compared is not None and compared.probability < 0.5:
        return "red", f"`worse` wins the comparison in both orders{_reason(verdict)}"
    named = _criterion(test, rubric, verdict, better, worse)
    if named is not None:
        return "red", named
    return _ranked(places[better.id], places[worse.id])


def _ranked(better: RankedDraft, worse: RankedDraft) -> tuple[Colour, str]:
    if better.gates and not worse.gates:
        return "red", f"`better` fails the gate {', '.join(better.gates)}"
    if better.rank < worse.rank:
        return "green", f"`worse` fails the gate {', '.join(worse.gates)}" if worse.gates else ""
    if better.rank == worse.rank:
        return "red", f"tied at {better.score:.3f}"
    return "red", f"`worse` scores {worse.score:.3f}, `better` {better.score:.3f}: other criteria outweigh this one"


def _criterion(test: RubricTest, rubric: Rubric, verdict: Verdict, better: Draft, worse: Draft) -> str | None:
    """Return what is wrong on the criterion that the test is about; None where it is as it should be, or not scored."""
    found = []
    for draft in (better, worse):
        mine = [each for each in verdict.judgements if each.draft_id == draft.id]
        found.append(
            next((score for score in pool_scores(mine) if score.criterion == test.because), None) if mine else None
        )
    one, other = found
    if one is None or other is None:
        return None  # a judge that only compares
    if one.score is None or other.score is None:
        which = "better" if one.score is None else "worse"
        score = one if one.score is None else other
        why = score.reason or "it does not apply to this prompt; check the test's `fields`"
        return f"{test.because} has no score for `{which}` ({why})"
    if one.score > other.score:
        return None
    levels = f": `{one.level}` and `{other.level}`" if one.level and other.level else ""
    relation = "the same" if one.score == other.score else "higher"
    reasons = f"; it says of `worse`: {other.reason}" if other.reason else ""
    return f"on {test.because} `worse` scores {relation} ({other.score:.2f}, `better` {one.score:.2f}{levels}){reasons}"


def _reason(verdict: Verdict) -> str:
    reason = next((each.reason for each in verdict.preferences if each.reason), "")
    return f": {reason}" if reason else ""


def shown(text: str, length: int = 400) -> str:
    """Return text that a model wrote as one printable line."""
    line = " ".join(_CONTROL.sub("", text).split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def render_junit(tested: Sequence[Tested], rubric: Rubric, seconds: float) -> str:
    """Return the results as JUnit XML, which continuous integration servers read."""
    reds = [each for each in tested if not each.green and each.first_bad.colour == "red"]
    errors = [each for each in tested if not each.green and each.first_bad.colour == "error"]
    counts = {"tests": len(tested), "failures": len(reds), "errors": len(errors)}
    attributes = {"name": f"rubric {rubric.name}", **{name: str(count) for name, count in counts.items()}}
    suite = ElementTree.Element("testsuite", {**attributes, "time": f"{seconds:.3f}"})
    for each in tested:
        file, _, line = each.where.rpartition(":")
        case = ElementTree.SubElement(
            suite,
            "testcase",
            {
                "classname": rubric.name,
                "name": f"{each.number} {each.test.because}: {shown(each.test.prompt, 60)}",
                "file": file or each.where,
                "line": line if line.isdigit() else "0",
            },
        )
        if not each.green:
            tag = "error" if each.first_bad.colour == "error" else "failure"
            ElementTree.SubElement(case, tag, {"message": shown(each.first_bad.note), "type": each.result})
    suites = ElementTree.Element("testsuites", {name: str(count) for name, count in counts.items()})
    suites.append(suite)
    ElementTree.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(suites, encoding="unicode")}\n'


def summary(tested: Iterable[Tested], usage: Usage) -> list[str]:
    """Return the last lines: how many are green, which are flaky, what it cost."""
    rows = list(tested)
    green = sum(each.green for each in rows)
    lines = [f"{green} of {len(rows)} tests green"]
    flaky = [each for each in rows if each.flaky]
    if flaky:
        named = ", ".join(f"{each.number} ({each.test.because})" for each in flaky)
        lines.append(f"flaky: {named}: the same pair is judged differently when it is asked again")
    if usage.calls + usage.cached == 0:
        read = usage.prompt_tokens
        lines.append(
            f"no paid call: {read:,} tokens read on this machine" if read else "no call was made: checks alone"
        )
    else:
        cost = f", ${usage.usd:.4f}" if usage.usd else ", US dollars unknown" if usage.calls else ""
        tokens = f"{usage.prompt_tokens:,} prompt and {usage.completion_tokens:,} completion tokens"
        lines.append(f"{usage.calls} calls, {usage.cached} replies from the request cache, {tokens}{cost}")
    return lines
