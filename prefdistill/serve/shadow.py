"""A share of the traffic judged in the background by the recipe's judge, within a budget of its own.

It only ever looks at answers that were given already: it delays none and fails none, and what cannot be judged is
counted and left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Full, Queue
from typing import Any

from prefdistill.errors import BudgetError, PrefdistillError, RecipeError
from prefdistill.metrics.scores import draft_scores
from prefdistill.plugins import Plugin, asks_teacher, name_of
from prefdistill.protocols import RunContext
from prefdistill.recipe import Recipe
from prefdistill.records import Draft, Prompt, seed_of
from prefdistill.requests.layer import RequestLayer
from prefdistill.requests.spending import Budget
from prefdistill.run import RunDirectory
from prefdistill.serve.gauges import Gauges
from prefdistill.served import Served
from prefdistill.stages.judge import judge_group
from prefdistill.traces import stray_tag

LEDGER = "shadow-spending.jsonl"
MOST_WAITING = 1_000
END_SECONDS = 5.0


@dataclass(frozen=True)
class _Sampled:
    row: Served
    prompt: Prompt
    cut: bool


class Shadow:
    """The judge in the background."""

    def __init__(
        self,
        run: RunDirectory,
        recipe: Recipe,
        share: float,
        usd: float | None,
        gauges: Gauges,
        write: Callable[[Served], None],
        say: Callable[[str], None],
    ) -> None:
        """Open the recipe's judge.

        Args:
            run: what was spent so far is in its folder, so the budget holds over restarts.
            recipe: whose training judge, teacher and rubrics are used.
            share: of answered requests that are judged, 0 to 1.
            usd: the most that all shadow judging may cost.
            gauges: where it is counted.
            write: called with each judged row.
            say: called with what a person should know.

        Raises:
            RecipeError: the judge cannot score an answer alone, or costs money and there is no budget.
        """
        judge: Any = recipe.judge
        if not getattr(judge, "scores_alone", True):
            raise RecipeError(
                f"--shadow: the recipe's judge `{name_of(judge)}` only compares drafts and cannot score one answer; "
                "leave --shadow out, or serve a run with a judge that scores, such as `rubric`"
            )
        if asks_teacher(judge) and usd is None:
            raise RecipeError(
                f"--shadow {share:g}: the recipe's judge `{name_of(judge)}` asks a teacher, which may cost money; say "
                "how much at most with --shadow-usd, such as --shadow-usd 5"
            )
        self._recipe, self._share, self._gauges, self._write, self._say = recipe, share, gauges, write, say
        budget = Budget(usd=usd) if usd is not None and asks_teacher(judge) else None
        self._layer = RequestLayer(cache="off", budget=budget, ledger=None if budget is None else run.path / LEDGER)
        found: tuple[Any, ...] = (recipe.teacher, judge)
        self._plugins = [each for each in found if isinstance(each, Plugin)]
        context = RunContext(
            directory=run.path.resolve(),
            seed=recipe.seed,
            student=recipe.student,
            teacher=recipe.teacher,
            requests=self._layer,
        )
        for plugin in self._plugins:
            plugin.open(context)
        self._over = ""
        self._rows: Queue[_Sampled | None] = Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="served-shadow", daemon=True)
        self._thread.start()

    def look_at(self, row: Served, prompt: Prompt, cut: bool) -> None:
        """Have an answer judged, where the lot falls on it."""
        if row.completion is None or seed_of("shadow", row.id) / 2**63 >= self._share:
            return
        if self._over:
            self._gauges.not_judged.labels(self._over).inc()
            return
        try:
            self._rows.put_nowait(_Sampled(row, prompt, cut))
        except Full:
            self._gauges.not_judged.labels("too_slow").inc()

    @property
    def waiting(self) -> int:
        """How many answers are sampled and not judged yet."""
        return self._rows.unfinished_tasks

    def close(self) -> None:
        """Stop after the answer that is being judged."""
        self._over = "closing"
        with self._rows.mutex:
            self._rows.queue.clear()
        self._rows.put(None)
        self._thread.join(END_SECONDS)
        for plugin in reversed(self._plugins):
            plugin.close()
        self._layer.close()

    def _stray(self, row: Served) -> str:
        student = self._recipe.student
        return "" if student.trace is None or row.route != "student" else stray_tag(row.completion or "", student.tags)

    def _run(self) -> None:
        while (sampled := self._rows.get()) is not None:
            try:
                self._judge(sampled)
            except BudgetError as problem:
                self._over = "budget"
                self._gauges.not_judged.labels("budget").inc()
                self._say(f"shadow judging stops: {problem}")
            except Exception as problem:  # nothing that a judge does may end the judging, or the server
                self._gauges.not_judged.labels("failed").inc()
                if not isinstance(problem, PrefdistillError):
                    self._say(f"shadow judging: {type(problem).__name__}: {problem}")
            finally:
                self._rows.task_done()

    def _judge(self, sampled: _Sampled) -> None:
        row, prompt, judge = sampled.row, sampled.prompt, self._recipe.judge
        draft = Draft(
            id=row.id,
            prompt_id=prompt.id,
            source="file:served",
            policy=None,
            round=0,
            purpose="test",
            index=0,
            completion=row.completion or "",
            finish_reason="length" if sampled.cut else "stop",
            stray_tag=self._stray(row),
        )
        verdict = judge_group(judge, prompt, [draft], self._recipe.rubrics.of(prompt))
        score = draft_scores([verdict], [draft], [prompt], self._recipe.rubrics).get(row.id)
        if score is None:
            why = verdict.failures[0].kind if verdict.failures else "failed"
            self._gauges.not_judged.labels(why).inc()
            return
        self._gauges.judged.labels(row.route).inc()
        self._gauges.score.labels(row.route).inc(max(0.0, score.gated_score))
        self._write(row.model_copy(update={"score": score.gated_score, "score_judge": name_of(judge)}))
