"""Judging where teachers may answer in batches: pass after pass, until no group of drafts waits for a reply.

In a pass every group is judged as far as its replies are known; one that asks anything new is set aside. Then all that
was asked goes out as one batch, and the next pass judges the groups that were set aside again. So the first calls
about all drafts make one batch, the comparisons that follow from them the next, and the judges know nothing of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from prefdistill.assembly import Workshop
from prefdistill.batches import BatchDesk, SetAside
from prefdistill.errors import JudgeError
from prefdistill.records import Draft, Prompt, Verdict
from prefdistill.rubric import Rubric
from prefdistill.stages.judge import judge_group, judge_prompts

Group = tuple[Prompt, Sequence[Draft]]


class PassingJudge:
    """A judge whose groups may be set aside."""

    def __init__(self, judge: Any) -> None:
        self._judge = judge
        self.known = None
        """Nothing is judged outside a pass."""
        self._lock = threading.Lock()
        self.aside: dict[str, Group] = {}
        """By prompt id: what has to be judged again."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._judge, name)

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Any:
        """Return the judge's verdict, or set the group aside."""
        try:
            return self._judge.judge(prompt, drafts, rubric)
        except SetAside:
            with self._lock:
                self.aside[prompt.id] = (prompt, drafts)
            raise JudgeError("set aside until its batch is answered") from None


class ApartJudge:
    """A judge that is asked about each draft by itself: no score depends on the other drafts, and nothing is compared."""

    def __init__(self, judge: Any) -> None:
        self._judge = judge
        self.known = None if getattr(judge, "known", None) is None else partial(self._each, judge.known)
        """Where the judge can answer from replies that are there already, it can about each draft too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._judge, name)

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        """Return the verdicts on the single drafts as one; what fails for one fails for it alone."""
        return self._each(self._judge.judge, prompt, drafts, rubric)

    def _each(self, ask: Any, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        verdicts, waiting = [], None
        for draft in drafts:
            try:
                verdicts.append(judge_group(self._judge, prompt, [draft], rubric, ask))
            except SetAside as problem:  # the questions about the other drafts go into the same batch
                waiting = problem
        if waiting is not None:
            raise waiting
        return Verdict(
            prompt_id=prompt.id,
            judgements=tuple(each for verdict in verdicts for each in verdict.judgements),
            failures=tuple(each for verdict in verdicts for each in verdict.failures),
        )


def judge_in_passes(shop: Workshop, judge: Any, groups: Iterable[Group]) -> Iterator[Verdict]:
    """Yield one verdict a group, as `judge_prompts` does; teachers with `batch: true` are asked in batches.

    Raises:
        PrefdistillError: one that is no `JudgeError`.
    """
    desk: BatchDesk | None = shop.context.requests.memory.get("batches") if shop.context.requests is not None else None
    if desk is None or not shop.batches:
        yield from judge_prompts(judge, groups, shop.rubrics)
        return
    with desk.stage():
        while True:
            passing = PassingJudge(judge)
            for verdict in judge_prompts(passing, groups, shop.rubrics):
                if verdict.prompt_id not in passing.aside:
                    yield verdict
            if not passing.aside:
                return
            desk.exchange(shop.context.progress)
            groups = sorted(passing.aside.values(), key=lambda group: group[0].id)
