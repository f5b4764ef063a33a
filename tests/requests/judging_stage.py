"""A judging stage in a process of its own, as the kill tests run it: resumed by prompt, its replies in a shared cache."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import openai  # noqa: F401  (slow to import: once, in the process that children are forked from)

from prefdistill.judges.rubric import RubricJudge
from prefdistill.protocols import RunContext, TeacherRequest
from prefdistill.records import Draft, Message, PreferencePair, Prompt, Verdict
from prefdistill.requests.layer import RequestLayer
from prefdistill.requests.spending import Budget
from prefdistill.run import RowFile
from prefdistill.selection import PairOptions
from prefdistill.stages.judge import judge_prompts
from prefdistill.stages.pair import pair_prompts
from prefdistill.stages.rank import rank_prompts
from prefdistill.teachers.openai import OpenAITeacher
from tests.making import ASKED, make_draft, make_prompt, make_rubric, one_rubric, opened_teacher

DRAFTS = 4
RUBRICS = one_rubric(make_rubric(ASKED))


def groups(count: int) -> list[tuple[Prompt, list[Draft]]]:
    """Prompts with drafts of different quality under `quality`."""
    found = []
    for number in range(count):
        prompt = make_prompt(f"p{number:03d}", f"Write about meeting {number}.")
        texts = [f"Meeting {number}: " + "word " * (3 + 4 * ((number + index) % DRAFTS)) for index in range(DRAFTS)]
        found.append((prompt, [make_draft(text, index, prompt.id) for index, text in enumerate(texts)]))
    return found


def quality(text: str) -> float:
    """The rule that the server judges by."""
    return min(1.0, len(text) / 100)


def judge_all(url: str, cache: Path, run: Path, count: int, concurrency: int) -> None:
    """Judge what is still owed in `run`, and leave."""
    run.mkdir(exist_ok=True)
    file = RowFile(run / "verdicts.jsonl", Verdict)
    layer = RequestLayer(cache=cache, budget=Budget(usd=5), ledger=run / "spending.jsonl")
    teacher = OpenAITeacher(
        model="m", base_url=url, concurrency=concurrency, usd_per_million={"input": 1.0, "output": 4.0}
    )
    judge = RubricJudge(teacher=teacher)
    judge.open(RunContext(directory=run, seed=0, requests=layer))
    known = file.read()
    owed = [(prompt, drafts) for prompt, drafts in groups(count) if prompt.id not in known or known[prompt.id].owed]
    for verdict in judge_prompts(judge, owed, RUBRICS):
        file.append(verdict)
    (run / "done").write_text(str(os.getpid()))
    judge.close()
    layer.close()


def ask_two_hundred(url: str, folder: Path) -> None:
    """Ask for two hundred replies, four at a time; `done` is written when all are there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test runner may ignore it
    teacher, _ = opened_teacher(url, folder, concurrency=4)
    for _ in teacher.replies([TeacherRequest(str(n), (Message(role="user", content=str(n)),), 50) for n in range(200)]):
        pass
    (folder / "done").touch()


def pairs_of(run: Path, count: int) -> Sequence[str]:
    """The pairs that a run's verdicts come to, as rows without their ids' order."""
    verdicts = list(RowFile(run / "verdicts.jsonl", Verdict).read().values())
    prompts = [prompt for prompt, _ in groups(count)]
    drafts = [draft for _, group in groups(count) for draft in group]
    rankings = list(rank_prompts(prompts, drafts, verdicts, RUBRICS, 1))
    rows = pair_prompts(prompts, drafts, verdicts, rankings, PairOptions(), 1)
    return sorted(row.model_dump_json() for row in rows if isinstance(row, PreferencePair))
