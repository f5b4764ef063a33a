"""Read an e-mail of the sandbox: greeting, sentences, the ask, sign-off, facts.

Place in the flow: shared by the gold score and the honest held-out judge, which look at different things in the same
reading. Any text can be read; what is not there is simply absent.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from prefdistill.sandbox.world import DAYS, NAMES

_GREETING = re.compile(r"(?:hi|hello|dear|good (?:morning|afternoon))\b[^.?!\n]{0,40}[,:!]?$", re.IGNORECASE)
_CLOSING = r"(?:(?:best|kind|warm|many)? ?(?:regards|wishes|thanks)|thank you|sincerely|yours \w+|cheers|best)\b"
_REQUEST = re.compile(
    r"\b(?:could you|can you|would you|will you|please|you might be able|you could|i need you to|you must"
    r"|you have to)\b",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:wondering|maybe|perhaps|possibly|might|sort of|kind of|if it is not too much|somehow"
    r"|would be (?:nice|good))\b",
    re.IGNORECASE,
)
_PLEASANTRY = re.compile(
    r"\b(?:finds you well|having a (?:great|good|nice) (?:week|day)|all is well|a quick note)\b", re.IGNORECASE
)
_FILLER = re.compile(
    r"\b(?:do not hesitate|any questions at all|hearing (?:back )?from you|as you know|goes without saying"
    r"|a lot of talk|busy with many things)\b",
    re.IGNORECASE,
)
_PUSHY = re.compile(
    r"\b(?:no excuses|ask(?:ing)? (?:you )?again|without delay|immediately|or else|you must|right now)\b", re.IGNORECASE
)
_THANKS = re.compile(r"\b(?:thank you|thanks|grateful|appreciate)\b", re.IGNORECASE)
_BECAUSE = re.compile(r"\b(?:because|since|as|the reason is that|due to the fact that)\s+$", re.IGNORECASE)
_TIME = re.compile(r"(?<![\d:])\d{1,2}:\d\d(?![\d:])")
_WORD = re.compile(r"[^\W_]+(?:[:'’-][^\W_]+)*")


@dataclasses.dataclass(frozen=True)
class Reading:
    """What an e-mail says, with the facts of its note as the measure."""

    greeting: str
    """The greeting line; empty if the first line is none."""
    names_recipient: bool
    """The first line names the recipient."""
    sentences: tuple[str, ...]
    """The body's sentences, in order, without greeting and sign-off."""
    pleasantries: int
    """How many sentences are empty phrases of the opening kind, wherever they stand."""
    fillers: int
    """How many sentences are other stock phrases or padding."""
    ask: int | None
    """Index of the first sentence that asks for what the note asks, else None."""
    hedged: bool
    """The ask is roundabout."""
    pushy: bool
    """Something in the text presses the reader."""
    thanks: bool
    """The body thanks the reader."""
    days: tuple[str, ...]
    """Days named, in order, anywhere."""
    times: tuple[str, ...]
    """Times of day named, in order, anywhere."""
    strangers: int
    """Sandbox names in the text that are neither recipient nor sender."""
    closing: bool
    """There is a closing line such as "Best regards,"."""
    signed: bool
    """The text ends on the sender's name, on a line of its own or after the closing."""
    words: int
    """Words in the whole text."""


def _mentions(text: str, phrase: str) -> bool:
    return bool(phrase) and re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


def read_email(text: str, facts: Mapping[str, object]) -> Reading:
    """Read any text as an e-mail that was to be written from a note with these facts; never raises on text."""
    fact = {name: str(value) for name, value in facts.items() if isinstance(value, (str, int, float))}
    recipient, sender = fact.get("recipient", ""), fact.get("sender", "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]

    first = lines[0] if lines else ""
    greeting = first if _GREETING.match(first) else ""
    opens = bool(greeting) or (
        len(first.split()) <= 4 and not re.search(r"[.?]$", first) and _mentions(first, recipient)
    )
    body = lines[1:] if opens else lines[:]
    below = "\n".join(body)
    name = rf"[ –—-]*(?P<name>{re.escape(sender)})[ .,!]*" if sender else "(?!)"
    end = re.search(rf"(?:\A|\n)(?:(?P<closing>{_CLOSING})[ .,!–—-]*\n?)?(?:{name})?\Z", below, re.IGNORECASE)
    body = below[: end.start()].split("\n") if end else body

    sentences = tuple(
        sentence.strip() for line in body for sentence in re.split(r"(?<=[.?!])\s+", line) if sentence.strip()
    )
    ask = next(
        (
            index
            for index, sentence in enumerate(sentences)
            if _REQUEST.search(sentence)
            and _mentions(sentence, fact.get("topic", ""))
            and _mentions(sentence, fact.get("ask", fact.get("topic", "")))
        ),
        None,
    )
    whole = " ".join(sentences)
    names = {word for word in re.findall(r"\b[A-Z][a-z]+\b", text) if word in NAMES}
    return Reading(
        greeting=greeting,
        names_recipient=opens and _mentions(first, recipient),
        sentences=sentences,
        pleasantries=sum(1 for sentence in sentences if _PLEASANTRY.search(sentence)),
        fillers=sum(1 for sentence in sentences if _FILLER.search(sentence)),
        ask=ask,
        hedged=ask is not None and _HEDGE.search(sentences[ask]) is not None,
        pushy=_PUSHY.search(whole) is not None,
        thanks=_THANKS.search(whole) is not None,
        days=tuple(re.findall(rf"\b(?:{'|'.join((*DAYS, 'Sunday'))})\b", text)),
        times=tuple(_TIME.findall(text)),
        strangers=len(names - {recipient, sender}),
        closing=bool(end and end["closing"]),
        signed=bool(end and sender and end["name"]),
        words=len(_WORD.findall(text)),
    )


def gives_when(reading: Reading, facts: Mapping[str, object]) -> bool:
    """Tell whether the ask itself carries the note's day and time."""
    if reading.ask is None:
        return False
    sentence = reading.sentences[reading.ask]
    return all(_mentions(sentence, str(facts.get(name) or "")) for name in ("day", "time"))


def ties_reason(reading: Reading, facts: Mapping[str, object]) -> bool:
    """Tell whether the reason is given as the ask's reason: joined by a connective, in or right after the ask."""
    reason = str(facts.get("reason") or "")
    if reading.ask is None or not reason:
        return False
    for sentence in reading.sentences[reading.ask : reading.ask + 2]:
        start = sentence.lower().find(reason.lower())
        if start >= 0 and (_BECAUSE.search(sentence[:start]) or re.match(r"(?:because|since|as) $", sentence[:start])):
            return True
    return False


def asks_first(reading: Reading) -> bool:
    """Tell whether nothing but pleasantries stands before the ask."""
    if reading.ask is None:
        return False
    return all(_PLEASANTRY.search(sentence) for sentence in reading.sentences[: reading.ask])


def mentions_fact(text: str, facts: Mapping[str, object], name: str) -> bool:
    """Tell whether the text contains the named fact, as whole words, whatever the case."""
    return _mentions(text, str(facts.get(name) or ""))
