"""A second embedded world: a complaint and what the shop offers, to be turned into a short reply.

Nothing in the toolkit was tuned on it. It has notes, a mediocre mixture of writers, a house style (the teacher), an
exact score (gold) and an imperfect second opinion (the held-out judge), all unlike those of `prefdistill.sandbox`;
`build.py` trains its tiny student. The recipe names the three plug-ins of this file.

    python -m tests.second_sandbox.world --count 700 --seed 5 --out tests/second_sandbox/prompts.jsonl
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import Field

from prefdistill.plugins import Plugin
from prefdistill.protocols import Reply, TeacherRequest
from prefdistill.records import Draft, Failure, Judgement, Prompt, Usage, Verdict
from prefdistill.rubric import Rubric

TITLES = ("Ms", "Mr", "Dr")
SURNAMES = (
    "Adler", "Bauer", "Brandt", "Castro", "Dahl", "Dubois", "Egan", "Falk", "Garcia", "Haas", "Ito", "Jensen", "Keller",
    "Kim", "Lopez", "Meyer", "Moreau", "Novak", "Okafor", "Petrov", "Quinn", "Rossi", "Silva", "Tanaka", "Ueda",
    "Vogel", "Weber", "Yilmaz", "Zhang", "Zimmer",
)  # fmt: skip
AGENTS = (
    "Abby", "Boris", "Cleo", "Dario", "Edda", "Finn", "Gwen", "Hank", "Ilse", "Jude", "Kira", "Luis", "Milo", "Nell",
    "Ole", "Pia", "Remy", "Suki", "Theo", "Uma", "Vito", "Wanda", "Xenia", "Zoe",
)  # fmt: skip
PRODUCTS = (
    "kettle", "lamp", "chair", "heater", "blender", "tent", "mirror", "toaster", "shelf", "radio", "camera", "printer",
    "bicycle", "jacket", "helmet", "clock", "fridge", "carpet", "sofa", "drill", "scale", "keyboard", "pump", "stroller",
)  # fmt: skip
PROBLEMS = (
    "leaks", "does not switch on", "arrived broken", "makes a loud noise", "has a scratch", "came in the wrong colour",
    "lost a screw", "smells of smoke", "stopped after a week", "has no manual", "is too small", "rattles", "gets too hot",
    "was delivered late", "has a crack", "is missing a part",
)  # fmt: skip
REMEDIES = (
    "a refund",
    "a new one",
    "a free repair",
    "a spare part",
    "a voucher",
    "a discount",
    "a pick-up",
    "a full check",
)
MONTHS = ("January", "March", "April", "June", "July", "October", "November", "December")
FACTS = ("customer", "agent", "product", "problem", "remedy", "date")

TEMPLATES = (
    "{customer} says that the {product} {problem}. We offer {remedy} by {date}. Answer as {agent}.",
    "Customer: {customer}\nItem: {product}\nTrouble: {problem}\nWe give: {remedy}\nDate: {date}\nAgent: {agent}",
    "Reply to {customer}, whose {product} {problem}. {agent} promises {remedy} until {date}.",
    "Complaint about a {product}: it {problem}. From {customer}. Solution: {remedy}, by {date}. {agent} signs.",
    "{agent} must answer {customer}: the {product} {problem}; offer {remedy}, not later than {date}.",
    "By {date} {customer} gets {remedy}, because the {product} {problem}. The reply is from {agent}.",
)

GREETINGS = ("Dear {customer},", "Hello {customer},")
BAD_GREETINGS = ("Dear customer,", "To whom it may concern,")
SORRY = ("I am sorry that your {product} {problem}.", "We apologise that your {product} {problem}.")
COLD = ("You wrote that your {product} {problem}.", "We have your complaint about the {product}.")
BLAME = ("You must have used the {product} in a wrong way.", "Other customers have no trouble with the {product}.")
OFFERS = (
    "You will get {remedy} by {date}.", "We will arrange {remedy} by {date}.", "Please expect {remedy} by {date}.",
)  # fmt: skip
VAGUE = (
    "We will see whether {remedy} is possible, perhaps by {date}.", "It might be {remedy}, maybe around {date}.",
    "In such cases there is usually {remedy}, hopefully by {date}.",
)  # fmt: skip
SLOGANS = (
    "Your satisfaction is our top priority.", "We are proud of our quality.", "Our shop has served people since 1962.",
)  # fmt: skip
JARGON = (
    "As per our terms, each case is treated on its merits.", "Kindly note that all claims are subject to review.",
    "This matter was forwarded to the relevant department.",
)  # fmt: skip
SELLING = ("Have a look at our new catalogue!", "Why not try our premium plan?", "Follow us for great offers!")
THANKS = ("Thank you for telling us.", "Thanks for your patience.")
CLOSINGS = ("Yours, {agent}", "Kind regards, {agent}", "Best wishes, {agent}")


@dataclasses.dataclass(frozen=True)
class Style:
    """The habits of one writer; the defaults are the house style."""

    named: bool = True
    opening: str = "sorry"
    """`sorry`, `cold` or `blame`."""
    offer: str = "clear"
    """`clear`, `vague` or `none`."""
    late: bool = False
    """The offer comes after everything else."""
    slogan: bool = False
    jargon: bool = False
    selling: bool = False
    thanks: bool = True
    signed: bool = True
    wrong: str = ""
    """A fact that is given wrongly."""


def is_reserved(facts: Mapping[str, str]) -> bool:
    """Tell whether a (surname, product) pair is kept for prompts and never shown to the student in its training."""
    return (SURNAMES.index(facts["customer"].split()[1]) + 2 * PRODUCTS.index(facts["product"])) % 4 == 0


def notes(count: int, seed: int, training: bool = False) -> Iterator[dict[str, str]]:
    """Yield notes as rows `{"id", "prompt", <facts>}`."""
    rng, seen = random.Random(f"second-{training}-{seed}"), set()
    while len(seen) < count:
        facts = {
            "customer": f"{rng.choice(TITLES)} {rng.choice(SURNAMES)}",
            "agent": rng.choice(AGENTS),
            "product": rng.choice(PRODUCTS),
            "problem": rng.choice(PROBLEMS),
            "remedy": rng.choice(REMEDIES),
            "date": f"{rng.randint(1, 28)} {rng.choice(MONTHS)}",
        }
        text, key = rng.choice(TEMPLATES).format(**facts), tuple(facts.values())
        if key not in seen and is_reserved(facts) != training:
            seen.add(key)
            yield {"id": f"{'training' if training else 'note'}-{seed}-{len(seen)}", "prompt": text, **facts}


def write(facts: Mapping[str, str], style: Style, rng: random.Random) -> str:
    """Write the reply in a style; `rng` picks the wording."""
    facts = dict(facts)
    if style.wrong:
        values = {"product": PRODUCTS, "agent": AGENTS, "remedy": REMEDIES}[style.wrong]
        facts[style.wrong] = rng.choice([value for value in values if value != facts[style.wrong]])
    opening = rng.choice({"sorry": SORRY, "cold": COLD, "blame": BLAME}[style.opening])
    offer = {"clear": [rng.choice(OFFERS)], "vague": [rng.choice(VAGUE)]}.get(style.offer, [])
    noise = [rng.choice(SLOGANS)] * style.slogan + [rng.choice(JARGON)] * style.jargon
    noise += [rng.choice(SELLING)] * style.selling
    rng.shuffle(noise)
    body = [opening, *noise, *offer] if style.late else [opening, *offer, *noise]
    body += [rng.choice(THANKS)] * style.thanks
    greeting = rng.choice(GREETINGS if style.named else BAD_GREETINGS)
    end = rng.choice(CLOSINGS) if style.signed else "The customer service team"
    return f"{greeting}\n{' '.join(body)}\n{end}".format(**facts)


def write_well(facts: Mapping[str, str]) -> str:
    """Write the reply in house style; the wording depends on the facts alone."""
    return write(facts, Style(), random.Random("-".join(facts[name] for name in FACTS)))


def write_mixture(facts: Mapping[str, str], rng: random.Random) -> str:
    """Write the reply as a random writer would: half of them rather careless, a quarter polite but wordy."""
    kind = rng.choices(("good", "careless", "wordy"), (0.2, 0.5, 0.3))[0]
    good = {"good": 0.88, "careless": 0.35, "wordy": 0.5}[kind]
    spare = {"good": 0.92, "careless": 0.7, "wordy": 0.35}[kind]
    return write(
        facts,
        Style(
            named=rng.random() < good,
            opening="sorry" if rng.random() < good else rng.choices(("cold", "blame"), (0.7, 0.3))[0],
            offer="clear" if rng.random() < good else rng.choices(("vague", "none"), (0.9, 0.1))[0],
            late=rng.random() > good,
            slogan=rng.random() > spare,
            jargon=rng.random() > spare,
            selling=rng.random() > spare,
            thanks=rng.random() < good,
            signed=rng.random() < good,
            wrong=rng.choice(("product", "agent", "remedy")) if rng.random() < 0.03 else "",
        ),
        rng,
    )


def _has(text: str, phrase: object) -> bool:
    return bool(phrase) and re.search(rf"(?<!\w){re.escape(str(phrase))}(?!\w)", text, re.IGNORECASE) is not None


_HEDGE = re.compile(r"\b(?:perhaps|might|maybe|usually|hopefully|see whether|possible)\b", re.IGNORECASE)
_SORRY = re.compile(r"\b(?:sorry|apologi[sz]e)\b", re.IGNORECASE)
_BLAME = re.compile(r"\b(?:wrong way|no trouble)\b", re.IGNORECASE)
_EMPTY = re.compile(r"priority|proud|1962|as per|kindly note|department|catalogue|premium|follow us", re.IGNORECASE)


def sentences_of(text: str) -> list[str]:
    """Return the sentences of the reply's middle lines: no greeting, no signature."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [each for line in lines[1:-1] for each in re.split(r"(?<=[.?!])\s+", line) if each]


def gold(text: str, facts: Mapping[str, object]) -> float:
    """Score a reply exactly, 0 to 1: half of the weight is on what stands where and belongs to what."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    body, words = sentences_of(text), len(text.split())
    sorry = any(_SORRY.search(each) and _has(each, facts["product"]) and _has(each, facts["problem"]) for each in body)
    offers = [
        at
        for at, each in enumerate(body)
        if _has(each, facts["remedy"]) and _has(each, facts["date"]) and not _HEDGE.search(each)
    ]
    empty = sum(1 for each in body if _EMPTY.search(each))
    return (
        0.18 * sorry
        + 0.24 * bool(offers)
        + 0.12 * bool(offers and offers[0] <= 1)
        + 0.08 * (bool(lines) and _has(lines[0], facts["customer"]))
        + 0.10 * (len(lines) > 2 and _has(lines[-1], facts["agent"]))
        + 0.06 * (not _BLAME.search(text))
        + 0.12 * {0: 1.0, 1: 0.4}.get(empty, 0.0)
        + 0.04 * any(re.match(r"thank", each, re.IGNORECASE) for each in body)
        + 0.06 * min(1.0, max(0.0, (60 - words) / 24))
    )


def second_opinion(text: str, facts: Mapping[str, object]) -> float:
    """Score a reply as a customer would who reads in a hurry: coarser than gold, and by other things than the rubric."""
    body = sentences_of(text)
    offer = next((each for each in body if _has(each, facts["remedy"])), "")
    kept = _has(offer, facts["date"]) and not _HEDGE.search(offer)
    return (
        0.4 * (1.0 if kept else 0.3 * bool(offer))
        + 0.25 * (0.7 * bool(_SORRY.search(text)) + 0.3 * ("hank" in text)) * (not _BLAME.search(text))
        + 0.2 * max(0.0, 1.0 - max(0, len(body) - 2) / 4)
        + 0.15 * (_has(text, facts["customer"]) + _has(text, facts["agent"])) / 2
    )


def _verdict(prompt: Prompt, drafts: Sequence[Draft], judge: str, values: Sequence[float]) -> Verdict:
    judgements = [
        Judgement(draft_id=draft.id, judge=judge, value=value, scale="custom")
        for draft, value in zip(drafts, values, strict=True)
    ]
    return Verdict(prompt_id=prompt.id, judgements=tuple(judgements))


class Gold(Plugin):
    """The exact score, for the report only."""

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        return _verdict(prompt, drafts, "second-gold", [gold(draft.completion, prompt.fields) for draft in drafts])


class HeldOut(Plugin):
    """The second opinion with noise that depends on prompt and text alone."""

    noise: float = Field(default=0.1, ge=0.0)

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        values = [
            second_opinion(draft.completion, prompt.fields)
            + random.Random(f"{prompt.id}|{draft.completion}").gauss(0.0, self.noise)
            for draft in drafts
        ]
        return _verdict(prompt, drafts, "second-held-out", values)


class HouseStyle(Plugin):
    """A teacher that writes in house style; it finds the facts by the note's text."""

    def replies(self, requests: Sequence[TeacherRequest]) -> Iterator[Reply | Failure]:
        for request in requests:
            facts = parse(next((each.content for each in reversed(request.messages) if each.role == "user"), ""))
            if facts is None:
                yield Failure(stage="teacher", key=request.key, kind="parse", message="house style: no such note")
            else:
                yield Reply(key=request.key, text=write_well(facts), finish_reason="stop", usage=Usage())


def _pattern(template: str) -> re.Pattern[str]:
    parts = {"customer": r"\w+ \w+", "agent": r"\w+", "product": r"\w+", "date": r"\d+ \w+"}
    parts |= {name: "|".join(map(re.escape, values)) for name, values in (("problem", PROBLEMS), ("remedy", REMEDIES))}
    pieces = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(f"(?P<{piece}>{parts[piece]})" if at % 2 else re.escape(piece) for at, piece in enumerate(pieces))
    )


_PATTERNS = tuple(map(_pattern, TEMPLATES))


def parse(note: str) -> dict[str, str] | None:
    """Return the facts of a note, None where it is none."""
    match = next((match for match in (pattern.fullmatch(note.strip()) for pattern in _PATTERNS) if match), None)
    return match.groupdict() if match else None


def main() -> None:
    """Write notes to a JSONL file."""
    parser = argparse.ArgumentParser(prog="python -m tests.second_sandbox.world", description=main.__doc__)
    parser.add_argument("--count", type=int, default=700)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.write_text("".join(json.dumps(row) + "\n" for row in notes(options.count, options.seed)))


if __name__ == "__main__":
    main()
