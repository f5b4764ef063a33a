"""The two writers of the sandbox: the oracle (house style) and the mediocre mixture the student is trained on.

Place in the flow: the oracle is the sandbox's teacher; the mixture is used once, when the student is built. An e-mail
is laid out by a `Style`, one switch per habit; the oracle has every switch on good, the mixture draws them at random.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Mapping

from prefdistill.sandbox.world import DAYS, FACTS, NAMES, TIMES

GREETINGS = ("Hi {recipient},", "Hello {recipient},", "Dear {recipient},")
BAD_GREETINGS = ("For {recipient}:", "Attention {recipient}!", "Message to {recipient} -")
LOST_GREETINGS = ("Hello,", "Hi all,")
PLEASANTRIES = (
    "I hope this email finds you well.", "I trust you are having a great week.", "I hope all is well with you.",
    "Just a quick note from my side.",
)  # fmt: skip
PADDING = (
    "As you know, the {topic} is very important to all of us.",
    "There has been a lot of talk about the {topic} lately.",
    "We have all been very busy with many things.", "It goes without saying that details matter.",
)  # fmt: skip
POLITE_ASKS = (
    "Could you {ask} the {topic}{when}", "Please {ask} the {topic}{when}", "Would you {ask} the {topic}{when}",
    "Can you {ask} the {topic}{when}",
)  # fmt: skip
HEDGED_ASKS = (
    "I was wondering if you could maybe {ask} the {topic}{when}",
    "Perhaps you might be able to {ask} the {topic}{when}",
    "If it is not too much trouble, could you possibly {ask} the {topic}{when}",
    "It would be sort of nice if you could {ask} the {topic}{when}",
)
STRAYS = (
    "I am out of the office on {day} at {time}.", "There is a team lunch on {day} at {time}.",
    "The phones were down on {day} at {time}.", "Someone called me on {day} at {time}.",
)  # fmt: skip
TIED_REASONS = ("This matters because {reason}.", "I ask because {reason}.", "The reason is that {reason}.")
LOOSE_REASONS = ("By the way, {reason}.", "On another note, {reason}.", "Also, I heard that {reason}.")
PUSHY = ("No excuses this time.", "Do not make me ask again.", "I expect this without delay.")
THANKS = ("Thank you for your help.", "Many thanks.", "Thanks a lot.")
CLOSERS = (
    "Please do not hesitate to contact me.", "Let me know if you have any questions at all.",
    "Looking forward to hearing back from you.",
)  # fmt: skip
SIGN_OFFS = ("Best regards,", "Kind regards,", "Thank you,", "Best wishes,")


@dataclasses.dataclass(frozen=True)
class Style:
    """The switches of one e-mail; the defaults are the house style."""

    greeting: str = "name"
    """`name` greets by name, `bare` only calls the name, `lost` leaves the name out."""
    pleasantry: bool = False
    """Opens with an empty phrase."""
    padding: bool = False
    """Carries a sentence that says nothing."""
    ask: str = "first"
    """`first` opens the body with the ask, `last` buries it, `none` never asks."""
    hedged: bool = False
    """Asks in a roundabout way."""
    when: str = "ask"
    """`ask` gives day and time with the ask, `stray` with something else, `none` leaves them out."""
    reason: str = "tied"
    """`tied` joins the reason to the ask, `loose` drops it in elsewhere, `none` leaves it out."""
    tone: str = "thanks"
    """`thanks`, `plain` or `pushy`."""
    closer: bool = False
    """Ends on a stock phrase."""
    sign_off: str = "full"
    """`full`, `name` (no closing line), `lost` (no name) or `none`."""
    wrong: str = ""
    """Name of a fact that is given wrongly; empty for none."""


def write_email(facts: Mapping[str, str], style: Style, rng: random.Random) -> str:
    """Write the e-mail of a note in the given style; `rng` picks the wording."""
    facts = dict(facts)
    values = {"day": DAYS, "time": TIMES, "recipient": NAMES, "sender": NAMES}.get(style.wrong)
    if values:
        facts[style.wrong] = rng.choice([value for value in values if value != facts[style.wrong]])

    reason = [rng.choice(TIED_REASONS if style.reason == "tied" else LOOSE_REASONS)] if style.reason != "none" else []
    when = " by {day} at {time}" if style.when == "ask" else ""
    wording = rng.choice(HEDGED_ASKS if style.hedged else POLITE_ASKS).replace("{when}", when)
    if style.reason == "tied" and rng.random() < 0.4:
        wording, reason = wording + " because {reason}", []
    ask = [wording + ("." if wording.startswith(("Please", "Perhaps", "I ", "It ")) else "?")] + (
        reason if style.reason == "tied" else []
    )
    if style.ask == "none":
        ask = [f"I am writing about the {{topic}}{' and ' + when.strip() if when else ''}.", *ask[1:]]
    rest = reason if style.reason == "loose" else []
    rest += [rng.choice(STRAYS)] if style.when == "stray" else []
    rest += [rng.choice(PADDING)] if style.padding else []
    rng.shuffle(rest)
    body = ([rng.choice(PLEASANTRIES)] if style.pleasantry else []) + (
        [*rest, *ask] if style.ask == "last" else [*ask, *rest]
    )
    body += {"thanks": [rng.choice(THANKS)], "pushy": [rng.choice(PUSHY)]}.get(style.tone, [])
    body += [rng.choice(CLOSERS)] if style.closer else []

    greeting = rng.choice({"name": GREETINGS, "bare": BAD_GREETINGS}.get(style.greeting, LOST_GREETINGS))
    closing = rng.choice(SIGN_OFFS)
    end = {"full": f"\n\n{closing} {{sender}}", "name": "\n\n- {sender}", "lost": f"\n\n{closing}"}
    return (greeting + "\n\n" + " ".join(body) + end.get(style.sign_off, "")).format(**facts)


def write_oracle(facts: Mapping[str, str]) -> str:
    """Write the e-mail in house style: greeting by name, the ask first, the facts, the reason, thanks, sign-off.

    Deterministic: the wording depends on the facts only.
    """
    return write_email(facts, Style(), random.Random("oracle-" + "-".join(facts[name] for name in FACTS)))


REASONED = re.compile(r"Begin your reply with (\S+), .* end it with (\S+)\.")
SUMMED = re.compile(r"write between (\S+) and (\S+) what of your reasoning")


def write_reasoning(facts: Mapping[str, str], asked: str) -> str:
    """Write what the oracle thinks before an e-mail, as a system prompt asks for it; nothing where none is asked for.

    It is true to the e-mail that follows: which facts it gives, what it asks for, and in which style.
    """
    tags, summary = REASONED.search(asked), SUMMED.search(asked)
    if tags is None:
        return ""
    said = (
        "To {recipient}, from {sender}. They should {ask} the {topic}, by {day} at {time}. The reason: {reason}.\n"
        "Greet by name, ask first, then the reason, thanks, sign off."
    ).format(**facts)
    text = f"{tags[1]}\n{said}\n{tags[2]}\n\n"
    if summary is None:
        return text
    brief = "To {recipient}: {ask} the {topic}, {day} {time}; {reason}. From {sender}.".format(**facts)
    return f"{text}{summary[1]}\n{brief}\n{summary[2]}\n\n"


CARE = ((0.18, 0.93), (0.46, 0.42), (0.36, 0.15))
"""Kinds of authors in the mixture: (share of authors, chance that each habit of theirs is good)."""


HOUSE_CARE = 0.92
"""Chance that each habit of a house author is good: about every second e-mail has one flaw or two."""


def draw_style(rng: random.Random, care: float | None = None) -> Style:
    """Draw a style: every habit independently, by the author's care; None draws an author of the mediocre mixture."""
    if care is None:
        care = rng.choices([good for _, good in CARE], [share for share, _ in CARE])[0]

    def pick(good: str, bad: dict[str, float]) -> str:
        return good if rng.random() < care else rng.choices(list(bad), list(bad.values()))[0]

    return Style(
        greeting=pick("name", {"bare": 0.92, "lost": 0.08}),
        pleasantry=rng.random() >= care,
        padding=rng.random() >= care,
        ask=pick("first", {"last": 0.88, "none": 0.12}),
        hedged=rng.random() >= care,
        when=pick("ask", {"stray": 0.95, "none": 0.05}),
        reason=pick("tied", {"loose": 0.85, "none": 0.15}),
        tone=pick("thanks", {"plain": 0.4, "pushy": 0.6}),
        closer=rng.random() >= care,
        sign_off=pick("full", {"name": 0.9, "lost": 0.06, "none": 0.04}),
        wrong=rng.choice(("day", "time", "recipient", "sender")) if rng.random() < 0.05 * (1 - care) else "",
    )


def write_mixture(facts: Mapping[str, str], rng: random.Random) -> str:
    """Write the e-mail as a random author of the mediocre mixture would."""
    return write_email(facts, draw_style(rng), rng)


def write_house(facts: Mapping[str, str], rng: random.Random) -> str:
    """Write the e-mail as a random author of the house would: house style in many wordings, now and then with a slip."""
    return write_email(facts, draw_style(rng, HOUSE_CARE), rng)
