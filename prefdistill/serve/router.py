"""Who answers: the prompt is tested, then the student's draft; whoever is down is stood in for by the other.

    prompt tests ──far──▶ teacher ──down──▶ student, marked
         │
    student's draft ──down, does not fit──▶ teacher
         │
    draft tests ──fired──▶ teacher ──down──▶ that draft, marked
         │
      the draft

A request is answered with one `Answer`: whole, or as pieces that arrive. Without tests that read drafts the student's
own words stream as well, up to a stray tag of its reasoning, if there is one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal

from prefdistill.records import Message, Prompt
from prefdistill.rubric import COMPLETE, NO_STRAY_TAGS
from prefdistill.serve.routing import Findings, Screen, Written, to_prompt
from prefdistill.serve.upstream import (
    DownError,
    EmptyError,
    SpentError,
    StrayTagError,
    TooLongError,
    UnrenderableError,
    Upstream,
    Writing,
    with_system,
)
from prefdistill.serve.wire import Asked
from prefdistill.served import Reason, Route, Served

LARGE = 20_000
"""Characters of prompt and draft together from which checks run on a thread, so that other requests go on."""


class BothDownError(Exception):
    """Neither student nor teacher can answer."""

    def __init__(self, message: str, *, too_long: bool = False) -> None:
        """Say why.

        Args:
            message: what both said.
            too_long: whether a shorter prompt would help and waiting would not.
        """
        super().__init__(message)
        self.too_long = too_long


@dataclass(frozen=True)
class Decoding:
    """How answers are written where the client does not say."""

    temperature: float
    top_p: float
    max_tokens: int
    """Also the most that the student is asked for: what it was trained to keep to."""


@dataclass
class Answer:
    """What a request gets, and everything that is noted about it."""

    asked: Asked
    prompt: Prompt
    route: Route = "none"
    reason: Reason = "failed"
    findings: Findings = field(default_factory=Findings)
    draft: Written | None = None
    """The student's, where there is one."""
    buffered: Literal["draft", "none"] = "none"
    """draft: the student's whole draft was read before anything was sent."""
    written: Written | None = None
    """The whole answer; of one that streams, once it is there."""
    pieces: AsyncGenerator[str | Written] | None = None
    """What is left of an answer that streams."""
    first: str | Written | None = None
    """The piece of it that has arrived."""
    first_text_at: float | None = None
    """When the first text was handed out, on the clock of `Asked.started`."""

    def row(self, model: str, said: str | None = None) -> Served:
        """Return the line of the log.

        Args:
            model: the run's name.
            said: what was sent of an answer that broke off.
        """
        asked, findings, written = self.asked, self.findings, self.written
        completion = said if written is None else written.text
        first = self.first_text_at if completion else None
        return Served.model_construct(
            schema_=1,
            id=asked.id,
            time=asked.time,
            model=model,
            route=self.route,
            reason=self.reason,
            messages=asked.messages,
            fields=asked.fields,
            completion=completion,
            draft=None if self.draft is None or self.route == "student" else self.draft.text,
            fired=findings.fired,
            gates=findings.gates,
            log_prob=None if self.draft is None else self.draft.log_prob,
            distance=findings.distance,
            prompt_characters=asked.characters,
            prompt_tokens=None if written is None else written.prompt_tokens,
            completion_tokens=None if written is None else written.completion_tokens,
            streamed=asked.stream,
            redacted=False,
            seconds=time.perf_counter() - asked.started,
            first_token_seconds=None if first is None else first - asked.started,
            score=None,
            score_judge=None,
            usd=0.0 if written is None else written.usd,
        )


@dataclass(frozen=True)
class Router:
    """Decides who answers each request."""

    tests: Screen
    student: Upstream
    teacher: Upstream
    decoding: Decoding
    student_system: str | None = None
    teacher_system: str | None = None
    retry_seconds: float = 15.0
    """How long a request waits for a student that is being started, where the teacher is down too."""
    say: Callable[[str], None] = print

    async def answer(self, asked: Asked) -> Answer:
        """Return the answer; of one that streams, once its first piece is there.

        Raises:
            BothDownError: nobody can answer.
        """
        messages = with_system(asked.messages, self.student_system, replace_own=False)
        answer = Answer(asked, to_prompt(messages, asked.fields))
        answer.findings = self.tests.of_prompt(asked.messages)
        if answer.findings.fired:
            return await self._by_teacher(answer, "out_of_scope")
        try:
            if asked.stream and not self.tests.read_drafts:
                await self._stream_from(self.student, answer, self._for_student(answer))
                answer.route, answer.reason = "student", "kept"
                return answer
            draft = await self.student.write(self._for_student(answer))
        except StrayTagError:
            return await self._by_teacher(_failing(answer, NO_STRAY_TAGS), "gate")
        except EmptyError:
            return await self._by_teacher(_failing(answer, COMPLETE), "gate")
        except DownError:
            return await self._by_teacher(answer, "student_down")
        except TooLongError as problem:
            return await self._by_teacher(answer, "length", too_long=problem)
        return await self._tested(answer, draft)

    async def _tested(self, answer: Answer, draft: Written) -> Answer:
        """Answer with the student's draft, or with the teacher where a test speaks against it."""
        shown = await self._test(answer, draft)
        if answer.findings.fired:
            return await self._by_teacher(answer, answer.findings.fired[0])
        return self._with(answer, shown, "student", "kept")

    async def _test(self, answer: Answer, draft: Written) -> Written:
        """Note a draft, and what the tests say of it beside what they said before; return what may be shown of it."""
        before = answer.findings
        answer.draft = self.tests.shown(draft)
        found = await self._findings(answer, draft)
        fired = tuple(dict.fromkeys((*before.fired, *found.fired)))
        answer.findings = replace(found, fired=fired, distance=before.distance)
        if self.tests.read_drafts:
            answer.buffered = "draft"
        return answer.draft

    async def _findings(self, answer: Answer, draft: Written) -> Findings:
        most = self.decoding.max_tokens
        # A client's own limit excuses an answer that is cut, not reasoning after which there is none.
        own_limit = bool(draft.text) and (answer.asked.max_tokens or most) < most
        if answer.asked.characters + len(draft.text) > LARGE:
            return await asyncio.to_thread(self.tests.of_draft, answer.prompt, draft, own_limit)
        return self.tests.of_draft(answer.prompt, draft, own_limit)

    async def _by_teacher(self, answer: Answer, reason: Reason, too_long: TooLongError | None = None) -> Answer:
        """Answer by the teacher; where it is down, or its money spent, by the student, if that can answer at all."""
        try:
            writing = self._for_teacher(answer)
            if answer.asked.stream:
                await self._stream_from(self.teacher, answer, writing)
                answer.route, answer.reason = "teacher", reason
                return answer
            return self._with(answer, await self.teacher.write(writing), "teacher", reason)
        except (DownError, TooLongError) as problem:
            spent = isinstance(problem, SpentError)
            why, lasting = f"teacher: {problem}", problem.lasting and not spent
        if too_long is not None:
            raise _neither(too_long, why, lasting)
        draft = answer.draft
        if draft is None:
            draft = await self._test(answer, await self._draft_at_last(answer, why, lasting))
        if reason == "student_down" and not answer.findings.fired:
            return self._with(answer, draft, "student", "kept")
        return self._with(answer, draft, "student", "teacher_spent" if spent else "teacher_down")

    async def _draft_at_last(self, answer: Answer, why: str, lasting: bool) -> Written:
        """Return the student's draft, waiting once for a student that is being started."""
        for waited in (False, True):
            try:
                return await self.student.write(self._for_student(answer))
            except TooLongError as problem:
                raise _neither(problem, why, lasting) from None
            except DownError as problem:
                if waited or not await self.student.back(self.retry_seconds):
                    raise BothDownError(f"student: {problem}; {why}") from None
        raise BothDownError(why)

    def _with(self, answer: Answer, written: Written, route: Route, reason: Reason) -> Answer:
        answer.written, answer.route, answer.reason = written, route, reason
        answer.first_text_at = time.perf_counter()
        return answer

    async def _stream_from(self, upstream: Upstream, answer: Answer, writing: Writing) -> None:
        """Begin a stream: wait for its first piece, so that whoever cannot answer is known before anything is sent."""
        pieces = upstream.stream(writing)
        try:
            answer.first = await anext(pieces)
        except StopAsyncIteration:
            raise DownError("the stream was empty") from None
        except BaseException:
            await pieces.aclose()
            raise
        if isinstance(answer.first, Written) and not answer.first.text.strip():
            await pieces.aclose()
            raise EmptyError("it wrote no answer")
        answer.pieces = pieces
        answer.first_text_at = time.perf_counter()

    async def rest(self, answer: Answer) -> AsyncGenerator[str]:
        """Yield the text of an answer piece by piece, and note the whole in it.

        Raises:
            DownError: whoever was writing broke off.
        """
        if answer.pieces is None:
            assert answer.written is not None
            for start in range(0, len(answer.written.text), 64):
                yield answer.written.text[start : start + 64]
            return
        async with aclosing(answer.pieces) as pieces:
            piece: str | Written | None = answer.first
            while piece is not None:
                if isinstance(piece, Written):
                    answer.written = piece
                    if answer.route == "student":
                        answer.draft = piece
                    return
                yield piece
                try:
                    piece = await anext(pieces, None)
                except StrayTagError:
                    _failing(answer, NO_STRAY_TAGS)
                    raise
        raise DownError("the stream ended before the answer did")

    def _for_student(self, answer: Answer) -> Writing:
        asked, most = answer.asked, self.decoding.max_tokens
        return self._writing(asked, answer.prompt.messages, min(asked.max_tokens or most, most), self.decoding.top_p)

    def _for_teacher(self, answer: Answer) -> Writing:
        asked = answer.asked
        messages = with_system(answer.prompt.messages, self.teacher_system, replace_own=True)
        return self._writing(asked, messages, asked.max_tokens or self.decoding.max_tokens, None)

    def _writing(self, asked: Asked, messages: tuple[Message, ...], most: int, top_p: float | None) -> Writing:
        return Writing(
            id=asked.id,
            messages=messages,
            max_tokens=most,
            temperature=self.decoding.temperature if asked.temperature is None else asked.temperature,
            top_p=top_p if asked.top_p is None else asked.top_p,
            seed=asked.seed,
        )


def _failing(answer: Answer, gate: str) -> Answer:
    """Note that the student's answer, of which nothing is shown, fails a gate."""
    answer.findings = replace(answer.findings, fired=("gate",), gates=(gate,))
    return answer


def _neither(student: TooLongError, why: str, lasting: bool) -> BothDownError:
    """Return the error of a prompt that does not fit the student, and that the teacher did not answer either."""
    too_long = lasting and not isinstance(student, UnrenderableError)
    return BothDownError(f"student: {student}; {why}", too_long=too_long)
