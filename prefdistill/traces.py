"""Reasoning before an answer: how a teacher is asked for it, how a text is parted into reasoning and answer.

A trace is everything in front of the answer as it was written: tags, reasoning and the space after them, so that trace
and completion together are the text. The completion alone is the answer: judges, checks, pairs and reports see that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from prefdistill.protocols import Reply
from prefdistill.records import Failure, FailureKind, Message

Tags = tuple[str, str]
"""What opens a trace, and what closes it."""
TAGS: Tags = ("<think>", "</think>")
"""What most models that reason were trained with."""
SUMMARY: Tags = ("<summary>", "</summary>")
"""Around the teacher's own summary of its reasoning; the student never sees these."""
KNOWN_TAGS: tuple[Tags, ...] = (
    TAGS,
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
"""Tags that are tried out where a tokenizer does not know those of the recipe."""

ASK = (
    "Work the task out before you answer it. Begin your reply with {open}, write your reasoning in at most {words} words "
    "(what is asked for, which facts count, what must not go wrong), and end it with {close}."
)
ASK_SUMMARY = (
    "Right after {close}, write between {start} and {end} what of your reasoning decided the answer, in at most {words} "
    "words."
)
ASK_ANSWER = (
    "After {last} write the answer and nothing else: no heading, no remark on your reasoning. Whoever gets the answer "
    "sees neither these instructions nor what you wrote before it, so it must stand alone."
)


class Parted(NamedTuple):
    """A text in two."""

    trace: str
    """Everything in front of the answer; empty where the text begins with no tag."""
    completion: str
    closed: bool = True
    """Whether each trace that begins also ends; where one does not, there is no answer."""


def part(text: str, tags: Tags) -> Parted:
    """Part a text into the traces that it begins with and the answer after them."""
    opening, closing = tags
    at = 0
    while text[at:].lstrip().startswith(opening):
        begun = text.index(opening, at)
        end = text.find(closing, begun + len(opening))
        if end < 0:
            return Parted(text, "", closed=False)
        at = end + len(closing)
    if not at:
        return Parted("", text)
    at = len(text) - len(text[at:].lstrip())
    return Parted(text[:at], text[at:])


def stray_tag(answer: str, tags: Tags) -> str:
    """Return the first tag in an answer, whose reasoning is parted from it already; empty where there is none.

    A second opening tag, or a closing one alone: what of the text is reasoning and what the answer cannot be told.
    """
    return min((tag for tag in tags if tag in answer), key=answer.index, default="")


def likely_answer(text: str, tags: Tags) -> str:
    """Return what of a text with stray tags is most likely the answer: what follows reasoning, and comes before more of it.

    Where nothing follows the last closing tag, it is what stands before it.
    """
    opening, closing = tags
    before, _, after = text.rpartition(closing)
    kept = (after if after.strip() else before).partition(opening)[0]
    return kept.rpartition(closing)[2].strip() or kept.replace(closing, "").strip()


class AnswerStream:
    """Text as it comes, without the reasoning that it begins with: what a person who waits for the answer is shown.

    What may still turn out to be the beginning of a tag is held back. From a stray tag on nothing is shown any more.
    """

    def __init__(self, tags: Tags) -> None:
        self.tags = tags
        self.stray = ""
        """The first tag in the answer."""
        self._held = ""
        self._begun = False
        """Whether the answer has begun: until then all text so far is held."""

    def add(self, piece: str) -> str:
        """Take the next piece of text; return what of the answer can be shown now."""
        held = self._held + piece
        if not self._begun:
            answer = part(held, self.tags).completion
            if self.tags[0].startswith(answer.lstrip()):
                self._held = held
                return ""
            self._begun, held = True, answer
        self.stray = self.stray or stray_tag(held, self.tags)
        if self.stray:
            self._held = ""
            return ""
        shown = len(held) - _tag_begun(held, self.tags)
        self._held = held[shown:]
        return held[:shown]

    def end(self) -> str:
        """Return what was held back, now that no more text comes."""
        rest, self._held = (self._held if self._begun else part(self._held, self.tags).completion), ""
        return rest


def _tag_begun(text: str, tags: Tags) -> int:
    """Return how many characters at the end of a text may be the beginning of a tag."""
    return max((size for tag in tags for size in range(1, len(tag)) if text.endswith(tag[:size])), default=0)


def render_trace(reasoning: str, tags: Tags) -> str:
    """Return a trace as a student is taught it: the reasoning on lines of its own, an empty line before the answer."""
    return f"{tags[0]}\n{reasoning.strip()}\n{tags[1]}\n\n"


def empty_block(tags: Tags) -> str:
    """Return the trace without reasoning that the student's turn is begun with where it should answer at once."""
    return f"{tags[0]}\n\n{tags[1]}\n\n"


class Thought(NamedTuple):
    """A teacher's reply, read."""

    trace: str
    """As it was written, the space before the answer included."""
    completion: str


class UnreadableError(Exception):
    """A reply in which reasoning and answer cannot be told apart."""


@dataclass(frozen=True)
class Reasoning:
    """How a teacher is asked to reason before it answers, and how its replies are read."""

    tags: Tags
    words: int
    """Most words of reasoning that are asked for."""
    summary_words: int | None
    """Most words of a summary of it; None where none is asked for."""
    room: int
    """Tokens that a reply may have beside the answer's."""

    @property
    def instruction(self) -> str:
        """What is added to the system prompt."""
        (opening, closing), (start, end) = self.tags, SUMMARY
        lines = [ASK.format(open=opening, close=closing, words=self.words)]
        if self.summary_words is not None:
            lines.append(ASK_SUMMARY.format(close=closing, start=start, end=end, words=self.summary_words))
        last = closing if self.summary_words is None else end
        return "\n".join([*lines, ASK_ANSWER.format(last=last)])

    def identity(self) -> list[Any]:
        """Return what the replies depend on, beside the teacher and the prompts."""
        return [self.instruction, self.room]

    def ask(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return the messages with the instruction at the end of the system prompt."""
        system = "\n\n".join(each.content for each in messages if each.role == "system")
        first = Message(role="system", content=f"{system}\n\n{self.instruction}" if system else self.instruction)
        return (first, *(each for each in messages if each.role != "system"))

    def read(self, reply: Reply) -> Thought | Failure:
        """Return a reply's reasoning and answer, or why they cannot be told apart; the raw text is kept then."""
        try:
            if reply.finish_reason == "length":
                raise UnreadableError(
                    f"the reply was cut at the token limit after {reply.usage.completion_tokens} tokens; raise "
                    "max_trace_tokens, or sample.max_new_tokens for a longer answer"
                )
            return self._read(reply.text, reply.reasoning)
        except UnreadableError as problem:
            kind: FailureKind = "truncated" if reply.finish_reason == "length" else "parse"
            message = str(problem)
        return Failure(
            stage="sample", key=reply.key, kind=kind, message=message, reply=reply.text or None, usage=reply.usage
        )

    def _read(self, text: str, beside: str) -> Thought:
        """Read a text, and what the provider gave as reasoning `beside` it."""
        opening, closing = self.tags
        if closing in text and opening not in text.partition(closing)[0]:
            text = f"{opening}\n{text.lstrip()}"  # some templates open the block in the prompt
        found = part(text, self.tags)
        if not found.closed:
            raise UnreadableError(f"the reasoning is never closed: no {closing} after {opening}")
        if not found.trace and not beside.strip():
            raise UnreadableError(f"no reasoning: expected it between {opening} and {closing}, before the answer")
        trace = found.trace or render_trace(beside, self.tags)
        answer = found.completion
        if self.summary_words is not None:
            start, end = SUMMARY
            summed = part(answer, SUMMARY)
            if not summed.trace or not summed.closed:
                raise UnreadableError(f"no summary of the reasoning: expected it between {start} and {end}")
            trace, answer = trace + summed.trace, summed.completion
        if not answer.strip():
            raise UnreadableError("no answer after the reasoning")
        if stray := stray_tag(answer, self.tags) or stray_tag(answer, SUMMARY):
            raise UnreadableError(f"the answer has {stray} in it, so where it begins is not certain")
        taught = self.taught(trace)
        if not taught:
            raise UnreadableError("the reasoning, or its summary, is empty")
        if opening in taught or closing in taught:
            raise UnreadableError(f"the reasoning itself has {opening} or {closing} in it")
        return Thought(trace, answer)

    def taught(self, trace: str) -> str:
        """Return the part of a teacher's trace that a student learns to write: the summary where there is one."""
        start, end = self.tags if self.summary_words is None else SUMMARY
        return trace.rpartition(end)[0].partition(start)[2].strip()


def check_tags(tokenizer: Any, tags: Tags, model: str) -> str:
    """Check that a tokenizer reads tags as they are, wherever they stand; return what a user should know, or nothing.

    Raises:
        ValueError: a tag does not come back from its tokens, or flows together with the text beside it; with the tags
            that this tokenizer does know.
    """
    fault = _fault(tokenizer, tags)
    if fault:
        known = [pair for pair in KNOWN_TAGS if pair != tags and not _fault(tokenizer, pair)]
        known.sort(key=lambda pair: _pieces(tokenizer, pair))
        listed = ", ".join(f"[{json_like(one)}, {json_like(other)}]" for one, other in known)
        remedy = (
            f"it knows {listed}: set student.trace_tags to one of them"
            if known
            else "set student.trace_tags to a pair that it has tokens for (see added_tokens in its tokenizer.json)"
        )
        raise ValueError(
            f"student.trace_tags: {fault} for the tokenizer of {model}; expected tags that keep their own tokens; {remedy}, "
            "or train without reasoning (`trace: strip`)"
        )
    pieces = _pieces(tokenizer, tags)
    if pieces == 2:
        return ""
    return (
        f"student.trace_tags: {tags[0]} and {tags[1]} are plain text for the tokenizer of {model}, {pieces} tokens "
        "together; a prompt or an answer that quotes them reads like reasoning"
    )


def json_like(tag: str) -> str:
    """Return a tag as it stands in YAML."""
    return f'"{tag}"'


def _pieces(tokenizer: Any, tags: Tags) -> int:
    return sum(len(tokenizer.encode(tag, add_special_tokens=False)) for tag in tags)


def _fault(tokenizer: Any, tags: Tags) -> str:
    """Return what is wrong with tags for a tokenizer; empty where nothing is."""
    text = f"{tags[0]}\nwhy\n{tags[1]}\n\nHello"
    whole = tokenizer.encode(text, add_special_tokens=False)
    for tag in tags:
        ids = tokenizer.encode(tag, add_special_tokens=False)
        back = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if str(back).strip() != tag:
            return f"{tag} comes back as {back!r}"
        if not any(whole[at : at + len(ids)] == ids for at in range(len(whole))):
            return f"{tag} flows together with the text beside it"
    again = tokenizer.decode(whole, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if str(again).strip() != text:
        return f"a trace between {tags[0]} and {tags[1]} comes back as {str(again)[:60]!r}"
    return ""
