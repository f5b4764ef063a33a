"""The world of the sandbox: notes that ask for a short business e-mail, from a seeded generator.

Place in the flow: before everything else. A note becomes a prompt of the run, its named facts become `Prompt.fields`.
The facts are divided once and for all into two parts by the pair (recipient, topic): the student is trained on pairs
of one part only (`part="training"`), prompts for runs come from the other (`part="prompts"`), so no run ever asks for
a combination that the student has seen.

    python -m prefdistill.sandbox.world --count 900 --seed 0 --out recipes/prompts/quickstart.jsonl
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

Part = Literal["prompts", "training"]

NAMES = (
    "Ada", "Adam", "Alice", "Amir", "Anna", "Aron", "Bella", "Ben", "Bruno", "Carla", "Chen", "Clara", "Daniel",
    "Diego", "Elena", "Emil", "Emma", "Erik", "Fatima", "Felix", "Fiona", "Greta", "Hana", "Hugo", "Ida", "Igor",
    "Ines", "Ivan", "Jana", "Jonas", "Julia", "Kai", "Karim", "Laila", "Lars", "Laura", "Leo", "Lena", "Marco",
    "Maria", "Mina", "Nadia", "Nina", "Noah", "Nora", "Olga", "Oscar", "Otto", "Paula", "Pedro", "Petra", "Priya",
    "Ravi", "Rosa", "Samir", "Sofia", "Tara", "Tom", "Vera", "Yuki",
)  # fmt: skip
TOPICS = (
    "budget", "contract", "invoice", "agenda", "roadmap", "proposal", "brochure", "forecast", "timetable", "newsletter",
    "launch plan", "press release", "price list", "sales report", "travel plan", "training guide", "safety checklist",
    "hiring plan", "office lease", "project plan", "test report", "annual report", "visitor list", "shift plan",
    "stock list", "audit file", "floor plan", "job advert", "client brief", "cost estimate", "data sheet",
    "release notes", "tax form", "risk register", "seating chart", "meeting minutes",
)  # fmt: skip
ASKS = ("review", "approve", "send", "sign", "update", "check", "finish", "share", "correct", "print")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
TIMES = tuple(f"{hour}:{minute}" for hour in range(8, 18) for minute in ("00", "30"))
REASONS = (
    "the supplier raised its prices", "the client wants an answer", "the board meets next week",
    "two people are on leave", "the old version is out of date", "the auditors are waiting for it",
    "the printer closes early", "the new office opens soon", "our deadline was moved forward",
    "the figures arrived late", "the customer found a mistake", "the manager asked for it",
    "the server will be down", "the team starts work on it", "the legal team needs a copy",
    "the bank asked for details", "the visitors arrive early", "the rules have changed",
    "the warehouse is almost full", "the offer ends soon", "the trainer is leaving us",
    "the first draft had gaps", "the partners changed their minds", "the venue needs our numbers",
    "the insurance runs out", "the intern starts work soon", "the budget round closes",
    "the website goes live soon", "the shipment left early", "the press is asking questions",
)  # fmt: skip

FACTS = ("recipient", "sender", "ask", "topic", "day", "time", "reason")
"""Names of the facts of a note, each a key of a row and a field of the prompt."""

TEMPLATES = (
    "Write to {recipient}: please {ask} the {topic} by {day} {time}, because {reason}. It comes from {sender}.",
    "To: {recipient}\nFrom: {sender}\nAsk: {ask} the {topic}\nBy: {day} {time}\nWhy: {reason}",
    "A mail from {sender}: {recipient} needs to {ask} the {topic} by {day} at {time}, since {reason}.",
    "E-mail from {sender} to {recipient}. Task: {ask} the {topic}. Due: {day} at {time}. Reason: {reason}.",
    "Note for an e-mail: {topic}, {recipient} should {ask} it by {day} at {time}; {reason}. From {sender}.",
    "Ask {recipient} to {ask} the {topic}. It is due on {day} at {time}. Reason: {reason}. Greetings from {sender}.",
    "Draft a short mail. For {recipient}, from {sender}. {recipient} has to {ask} the {topic} "
    "until {day}, {time}. Background: {reason}.",
    "By {day} at {time} we want {recipient} to {ask} the {topic} as {reason}. Mail comes from {sender}.",
    "Reason first: {reason}. So {recipient} must {ask} the {topic} before {day} at {time}. This is from {sender}.",
    "- to {recipient}\n- from {sender}\n- {topic}: {ask} it\n- due {day} {time}\n- as {reason}",
    "Remind {recipient} about the {topic}: {ask} it by {time} on {day}, because {reason}. Mail it from {sender}.",
    "Because {reason}, tell {recipient} to {ask} the {topic} by {time} on {day}. The mail is from {sender}.",
)
_PATTERNS = {
    "recipient": r"[A-Z][\w'-]*", "sender": r"[A-Z][\w'-]*", "ask": "|".join(ASKS), "topic": r"\w[\w -]{0,60}?",
    "day": "|".join(DAYS), "time": r"\d{1,2}:\d\d", "reason": r"\w[^.;,:\n]{0,120}",
}  # fmt: skip


def is_reserved(recipient: str, topic: str) -> bool:
    """Tell whether a (recipient, topic) pair is kept for prompts and never shown to the student in its training.

    About one pair in five; every name and every topic occurs in both parts.
    """
    return (NAMES.index(recipient) + 3 * TOPICS.index(topic)) % 5 == 0


def notes(n: int, seed: int, part: Part = "prompts") -> Iterator[dict[str, str]]:
    """Yield `n` notes as rows `{"id", "prompt", <facts>}`, all with different facts.

    Row i depends on the seed and the rows before it only, so a longer list starts with the shorter one.
    """
    rng = random.Random(f"notes-{part}-{seed}")
    seen: set[tuple[str, ...]] = set()
    while len(seen) < n:
        recipient, sender = rng.sample(NAMES, 2)
        facts = {"recipient": recipient, "sender": sender}
        for name, values in (("ask", ASKS), ("topic", TOPICS), ("day", DAYS), ("time", TIMES), ("reason", REASONS)):
            facts[name] = rng.choice(values)
        template = rng.choice(TEMPLATES)
        key = tuple(facts[name] for name in FACTS if name != "reason")
        if key in seen or is_reserved(recipient, facts["topic"]) != (part == "prompts"):
            continue
        seen.add(key)
        yield {"id": f"{part}-{seed}-{len(seen):05d}", "prompt": render_note(facts, template), **facts}


def render_note(facts: Mapping[str, str], template: str) -> str:
    """Render the note's text from its facts by one of `TEMPLATES`."""
    return template.format(**facts)


def _to_regex(template: str) -> re.Pattern[str]:
    """Turn a template into a pattern whose groups are the facts; a fact that is repeated must repeat."""
    seen: set[str] = set()
    pattern = ""
    for piece in re.split(r"(\{\w+\})", template):
        name = piece[1:-1]
        if not piece.startswith("{"):
            pattern += re.escape(piece)
        elif name in seen:
            pattern += f"(?P={name})"
        else:
            seen.add(name)
            pattern += f"(?P<{name}>{_PATTERNS[name]})"
    return re.compile(rf"(?<![\w-]){pattern}(?!\w)")


_REGEXES = tuple(_to_regex(template) for template in TEMPLATES)


def parse_note(text: str) -> dict[str, str] | None:
    """Parse the facts of the first note found in `text`; None where there is no note."""
    for regex in _REGEXES:
        match = regex.search(text)
        if match:
            return {name: match[name].strip() for name in FACTS}
    return None


def main(argv: list[str] | None = None) -> None:
    """Write notes to a JSONL file."""
    parser = argparse.ArgumentParser(prog="python -m prefdistill.sandbox.world", description=main.__doc__)
    parser.add_argument("--count", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    rows = [json.dumps(row, ensure_ascii=False) for row in notes(options.count, options.seed)]
    options.out.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} notes written to {options.out}")


if __name__ == "__main__":
    main()
