"""What happens behind an answer: the log's thread and the judge in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prefdistill.errors import BudgetError, RecipeError
from prefdistill.plugins import Plugin
from prefdistill.recipe import load_recipe
from prefdistill.records import Draft, Message, Prompt
from prefdistill.rubric import Rubric
from prefdistill.run import RunDirectory
from prefdistill.serve.gauges import Gauges
from prefdistill.serve.journal import Journal
from prefdistill.serve.routing import to_prompt
from prefdistill.serve.shadow import Shadow
from prefdistill.served import Served, ServedLog, read_served
from tests.conftest import ROOT
from tests.loopback import Loopback, judging_by
from tests.loopback import Served as Wire
from tests.serve.fakes import Fake, make_router, running
from tests.test_served import row


class Broken(ServedLog):
    """A log on a disk that is full for the first rows."""

    fails = 2

    def append(self, row: Served) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError(28, "No space left on device")
        super().append(row)


def test_a_full_disk_is_said_once_and_counted_and_the_log_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    lost: list[int] = []
    journal = Journal(Broken(tmp_path / "log"), False, said.append, lambda: lost.append(1))
    for number in range(5):
        journal.add(row(str(number)))
    journal.close()
    assert [each.id for each in read_served([tmp_path / "log"])] == ["2", "3", "4"]
    assert len(said) == 1 and "No space left" in said[0]
    assert len(lost) == 2


class SlowLog(ServedLog):
    """A log that takes its time."""

    def append(self, row: Served) -> None:
        time.sleep(0.3)
        super().append(row)


def test_a_slow_disk_holds_no_answer_back(tmp_path: Path) -> None:
    journal = Journal(SlowLog(tmp_path / "log"), False, print)
    started = time.perf_counter()
    for number in range(3):
        journal.add(row(str(number)))
    assert time.perf_counter() - started < 0.1
    journal.close()
    assert len(list(read_served([tmp_path / "log"]))) == 3, "but all of it is written in the end"


class Counting(Plugin):
    """A judge that scores by length, and waits or raises where it is told to."""

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> list[float]:
        told = drafts[0].completion
        if told == "over":
            raise BudgetError("budget.usd is 5")
        if told == "raise":
            raise ZeroDivisionError
        if told == "slow":
            Counting_waits.wait(5)
        return [len(told) / 100]


Counting_waits = threading.Event()


def shadow(
    tmp_path: Path, tiny_recipe: Path, share: float = 1.0, judge: Any = None
) -> tuple[Shadow, list[Served], Gauges]:
    recipe = load_recipe(tiny_recipe)
    object.__setattr__(recipe, "judge", judge or Counting())
    gauges, written = Gauges(0.1, 0.1), []
    made = Shadow(RunDirectory(tmp_path), recipe, share, None, gauges, written.append, print)
    return made, written, gauges


PROMPT = to_prompt((Message(role="user", content="Write."),), {})


def look(shadow: Shadow, *texts: str) -> None:
    for number, text in enumerate(texts):
        shadow.look_at(row(f"id-{number}", completion=text), PROMPT, cut=False)


def done(shadow: Shadow) -> None:
    """Wait until everything that was sampled is judged."""
    until = time.monotonic() + 5
    while shadow.waiting:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_is_judged_is_written_with_its_score(tmp_path: Path, tiny_recipe: Path) -> None:
    made, written, gauges = shadow(tmp_path, tiny_recipe)
    look(made, "x" * 50)
    done(made)
    made.close()
    assert [(each.score, each.score_judge) for each in written] == [(0.5, "Counting")]
    assert b'shadow_judged_total{route="student"} 1.0' in gauges.text()


def test_a_students_answer_with_a_stray_tag_is_not_judged_good(tmp_path: Path, tiny_recipe: Path) -> None:
    made, _, _ = shadow(tmp_path, tiny_recipe)
    student = made._recipe.student.with_trace("on")
    object.__setattr__(made._recipe, "student", student)
    assert made._stray(row(completion="a </think> b")) == "</think>"
    assert made._stray(row(completion="a b")) == made._stray(row(completion="</think>", route="teacher")) == ""
    made.close()


def test_only_a_share_is_judged(tmp_path: Path, tiny_recipe: Path) -> None:
    made, written, _ = shadow(tmp_path, tiny_recipe, share=0.2)
    for number in range(500):
        made.look_at(row(f"id-{number}", completion="x"), PROMPT, cut=False)
    done(made)
    made.close()
    assert 60 < len(written) < 140


def test_a_judge_that_fails_or_is_out_of_money_fails_nothing_else(tmp_path: Path, tiny_recipe: Path) -> None:
    made, written, gauges = shadow(tmp_path, tiny_recipe)
    look(made, "raise", "fine")
    done(made)
    look(made, "over")
    done(made)
    look(made, "too late")
    made.close()
    assert [each.completion for each in written] == ["fine"]
    text = gauges.text().decode()
    assert 'not_judged_total{why="provider"} 1.0' in text
    assert 'not_judged_total{why="budget"} 2.0' in text


def test_a_slow_judge_delays_no_answer(tmp_path: Path, tiny_recipe: Path) -> None:
    recipe = load_recipe(tiny_recipe)
    object.__setattr__(recipe, "judge", Counting())
    Counting_waits.clear()

    def looking(gauges: Gauges, journal: Journal) -> Shadow:
        return Shadow(RunDirectory(tmp_path), recipe, 1.0, None, gauges, journal.add, print)

    with running(tmp_path, make_router(Fake("slow"), Fake()), shadow=looking) as server:
        started = time.perf_counter()
        for _ in range(5):
            assert server.ask().parse()
        assert time.perf_counter() - started < 3
        Counting_waits.set()
    assert len(server.rows()) == 5


def test_a_judge_that_costs_money_needs_a_budget_and_one_that_only_compares_is_refused(
    tmp_path: Path, tiny_recipe: Path
) -> None:
    from prefdistill.judges.pairwise import PairwiseJudge
    from prefdistill.judges.rubric import RubricJudge

    with pytest.raises(RecipeError, match="--shadow-usd"):
        shadow(tmp_path, tiny_recipe, judge=RubricJudge())
    with pytest.raises(RecipeError, match="only compares"):
        shadow(tmp_path, tiny_recipe, judge=PairwiseJudge())


def test_a_budget_ends_the_judging_and_holds_over_restarts(tmp_path: Path, tiny_recipe: Path) -> None:
    asked = ROOT / "rubrics" / "sandbox-asked.yaml"
    judging = judging_by(lambda text: 1.0)
    with Loopback(lambda body: Wire(judging(body), prompt_tokens=2000, completion_tokens=300)) as teacher:
        tiny_recipe.write_text(
            tiny_recipe.read_text()
            .replace(str(ROOT / "rubrics/sandbox-email.yaml"), str(asked))
            .replace("judge: {use: checks}", "judge: {use: rubric}")
            .replace(
                "teacher: {use: sandbox}",
                f"teacher: {{use: openai, model: m, base_url: '{teacher.url}', usd_per_million: {{input: 3, output: 15}}}}",
            )
        )
        recipe, gauges = load_recipe(tiny_recipe), Gauges(0.1, 0.1)
        for turn in range(2):
            said: list[str] = []
            written: list[Served] = []
            made = Shadow(RunDirectory(tmp_path), recipe, 1.0, 0.06, gauges, written.append, said.append)
            for number in range(30):
                made.look_at(row(f"{turn}-{number}", completion=f"Text {number}."), PROMPT, cut=False)
            done(made)
            made.close()
            assert "shadow judging stops: budget.usd" in said[0]
            assert bool(written) == (turn == 0), "the second server finds the money spent"
    assert sum(prompt * 3 + completion * 15 for _, prompt, completion in teacher.worked) / 1e6 <= 0.06
