"""Stage 3, judge: groups of drafts become verdicts, several groups at once, while later drafts are still sampled.

Nothing that a judge does wrong becomes a label: a judge that raises, or a verdict that breaks the contract, is a
`Failure` for every draft of that prompt, and only of that prompt.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from prefdistill.errors import JudgeError, PrefdistillError
from prefdistill.plugins import name_of, verdict_of
from prefdistill.protocols import Judge
from prefdistill.records import Draft, Failure, FailureKind, Judgement, Prompt, Verdict
from prefdistill.requests.calls import SetAside
from prefdistill.rubric import Rubric, RubricSet
from prefdistill.workers import Workers

DEFAULT_THREADS = 8


def judge_prompts(
    judge: Judge,
    groups: Iterable[tuple[Prompt, Sequence[Draft]]],
    rubrics: RubricSet,
    threads: int | None = None,
) -> Iterator[Verdict]:
    """Yield one verdict a group, as each finishes; every draft is judged, compared or failed in it.

    `groups` is advanced in the caller's thread and never waits for a verdict, so a sampler behind it goes on.
    `threads` groups are judged at once: by default what the judge asks for (`threads`), never more than its
    `max_concurrency`.

    Raises:
        PrefdistillError: one that is no `JudgeError`, such as an unreachable teacher: no later group can do better.
        JudgeError: the judge's `stage_deadline_seconds` are over, counted from when all groups are there.
    """
    workers = Workers(threads_for(judge, threads), "judge")
    done: SimpleQueue[Verdict | BaseException] = SimpleQueue()
    owed = finished = 0

    known = getattr(judge, "known", None)

    def work(prompt: Prompt, drafts: Sequence[Draft]) -> None:
        try:
            done.put(judge_group(judge, prompt, drafts, rubrics.of(prompt)))
        except BaseException as problem:
            done.put(problem)

    try:
        for prompt, drafts in groups:
            if known is not None:
                try:
                    found = judge_group(judge, prompt, drafts, rubrics.of(prompt), known)
                except SetAside:  # from here on replies must be waited for: threads can, this one has drafts to fetch
                    known = None
                else:
                    finished += 1
                    yield found
                    continue
            workers.submit(lambda prompt=prompt, drafts=tuple(drafts): work(prompt, drafts))  # type: ignore[misc]
            owed += 1
            while (verdict := _next(done, wait=False)) is not None:
                owed, finished = owed - 1, finished + 1
                yield verdict
        limit = getattr(judge, "stage_deadline_seconds", None)
        until = None if limit is None else time.monotonic() + limit
        while owed:
            verdict = _next(done, wait=True, until=until)
            if verdict is None:
                raise JudgeError(
                    f"judge {name_of(judge)}: stopped after stage_deadline_seconds "
                    f"({limit:g}): {finished} of {finished + owed} prompts are done; every verdict and every reply that "
                    "arrived is kept: run the same command again to go on, or raise stage_deadline_seconds"
                )
            owed, finished = owed - 1, finished + 1
            yield verdict
    finally:
        workers.stop()


def _next(done: SimpleQueue[Verdict | BaseException], wait: bool, until: float | None = None) -> Verdict | None:
    """Return the next finished verdict, None where there is none yet or `until` is over; raise what a worker raised."""
    try:
        result = done.get(wait, None if until is None else max(0.0, until - time.monotonic()))
    except Empty:
        return None
    if isinstance(result, BaseException):
        raise result
    return result


def threads_for(judge: Judge, threads: int | None = None) -> int:
    """Return how many groups to judge at once."""
    wanted = threads or getattr(judge, "threads", None) or DEFAULT_THREADS
    limit = getattr(judge, "max_concurrency", None)
    return max(1, min(wanted, limit) if limit else wanted)


def judge_group(judge: Judge, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric, ask: Any = None) -> Verdict:
    """Return one prompt's verdict; what a judge does wrong is a `Failure` for each of the drafts.

    Args:
        ask: the judge's `known` instead of its `judge`, which raises `SetAside` where it would have to wait.

    Raises:
        PrefdistillError: one that is no `JudgeError`.
    """
    name = name_of(judge)
    # What was thought before an answer is no part of it: no judge is shown it, whatever plug-in it is.
    drafts = [draft.model_copy(update={"trace": ""}) if draft.trace else draft for draft in drafts]
    try:
        result = (ask or judge.judge)(prompt, drafts, rubric)
    except JudgeError as problem:
        return _failed(prompt, drafts, "provider", str(problem))
    except PrefdistillError:
        raise
    except Exception as problem:
        return _failed(prompt, drafts, "provider", f"judge {name}: {type(problem).__name__}: {problem}")
    try:
        verdict = verdict_of(result, prompt, drafts, name)
        check_verdict(verdict, prompt, drafts, rubric, name)
    except JudgeError as problem:
        return _failed(prompt, drafts, "parse", str(problem))
    return verdict


def _failed(prompt: Prompt, drafts: Sequence[Draft], kind: FailureKind, message: str) -> Verdict:
    """Return the verdict of a group that could not be judged.

    A judge that raised (provider) is asked again when the run resumes; a verdict that breaks the contract (parse)
    settles its prompt.
    """
    failures = tuple(Failure(stage="judge", key=draft.id, kind=kind, message=message) for draft in drafts)
    return Verdict(prompt_id=prompt.id, failures=failures)


def check_verdict(verdict: Verdict, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric, judge: str) -> None:
    """Check that a verdict speaks of these drafts, of each of them, and answers the whole rubric.

    Raises:
        JudgeError: it does not.
    """
    if verdict.prompt_id != prompt.id:
        raise JudgeError(f"judge {judge}: its verdict is for prompt {verdict.prompt_id}; expected {prompt.id}")
    known = {draft.id for draft in drafts}
    named = {each.draft_id for each in verdict.judgements}
    named |= {draft_id for each in verdict.preferences for draft_id in (each.first_id, each.second_id)}
    if named - known:
        raise JudgeError(f"judge {judge}: judged {sorted(named - known)[0]}, which is no draft of prompt {prompt.id}")
    covered = named | {part for failure in verdict.failures for part in (failure.key, *failure.key.split("|"))}
    if known - covered:
        raise JudgeError(
            f"judge {judge}: draft {sorted(known - covered)[0]} has no judgement, no preference and no failure; "
            "abstain with a Failure"
        )
    if len({each.scale for each in verdict.judgements}) > 1:
        raise JudgeError(f"judge {judge}: judgements of one prompt are on different scales; expected one")
    for judgement in verdict.judgements:
        if judgement.scale == "rubric" and judgement.value is None:
            _check_complete(judgement, rubric, judge)


def _check_complete(judgement: Judgement, rubric: Rubric, judge: str) -> None:
    """Check that a judgement holds each of the rubric's criteria once, at one of its levels."""
    where = f"judge {judge}: draft {judgement.draft_id}"
    wanted = {each.name: each for each in rubric.all_criteria}
    names = [score.criterion for score in judgement.scores]
    if missing := [name for name in wanted if name not in names]:
        raise JudgeError(
            f"{where}: no score for {', '.join(missing)}; every criterion of rubric {rubric.name} needs one"
        )
    if extra := [name for name in names if name not in wanted or names.count(name) > 1]:
        raise JudgeError(f"{where}: unexpected score for {extra[0]}; expected each of {', '.join(wanted)} once")
    for score in judgement.scores:
        levels = wanted[score.criterion].levels
        if score.level is not None and levels is not None and score.level not in levels:
            raise JudgeError(
                f"{where}: {score.criterion} has level `{score.level}`; expected one of {', '.join(levels)}"
            )
