"""Logs of the sandbox world: as the training prompts are, and with a share of another topic, language or length."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefdistill.drift.reading import Request, to_request
from prefdistill.drift.training import Trained
from prefdistill.sandbox import world

Row = dict[str, Any]

CLINIC = {
    "topic": ("blood sample", "vaccination record", "ward rota", "oxygen order", "patient chart", "surgery list",
              "allergy sheet", "pharmacy order"),
    "reason": ("the nurse found a rash", "the clinic closes at noon", "the patient has a fever",
               "the surgeon needs new gloves", "the lab lost the swabs", "the doctor is on call tonight"),
}  # fmt: skip
GERMAN = (
    "Schreibe an {recipient}: bitte bis {day} um {time} Uhr {topic} prüfen, weil {reason}. Die Nachricht kommt von "
    "{sender}.",
    "Bitte erinnere {recipient} daran, dass {topic} bis {day} um {time} Uhr fertig sein muss. Grund: {reason}. Viele "
    "Grüße von {sender}.",
    "Eine kurze E-Mail von {sender} an {recipient}: {topic} wird bis {day}, {time} Uhr, gebraucht, denn {reason}.",
)
GERMAN_FACTS = {
    "topic": ("der Vertrag", "die Rechnung", "der Haushalt", "das Angebot", "der Zeitplan", "das Protokoll"),
    "reason": ("die Kundin wartet auf eine Antwort", "der Vorstand tagt nächste Woche", "zwei Kollegen sind im Urlaub",
               "die Zahlen kamen zu spät", "das alte Formular gilt nicht mehr"),
    "day": ("Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag"),
}  # fmt: skip


def same(row: Row, rng: random.Random) -> Row:
    """The same distribution."""
    return row


def topic(row: Row, rng: random.Random) -> Row:
    """The same notes about a clinic's affairs."""
    facts = {name: str(row[name]) for name in world.FACTS} | {name: rng.choice(CLINIC[name]) for name in CLINIC}
    return {**row, **facts, "prompt": world.render_note(facts, rng.choice(world.TEMPLATES))}


def language(row: Row, rng: random.Random) -> Row:
    """Notes in German."""
    facts = {name: str(row[name]) for name in world.FACTS}
    facts |= {name: rng.choice(values) for name, values in GERMAN_FACTS.items()}
    return {**row, **facts, "prompt": rng.choice(GERMAN).format(**facts)}


def longer(row: Row, rng: random.Random) -> Row:
    """The same note with background in the words of the world: three more reasons."""
    more = " ".join(f"Also, {reason}." for reason in rng.sample(world.REASONS, 3))
    return {**row, "prompt": f"{row['prompt']} {more}"}


SHIFTS: Mapping[str, Callable[[Row, random.Random], Row]] = {
    "same": same, "topic": topic, "language": language, "longer": longer,
}  # fmt: skip
NAMED = {
    "topic": {"unlike anything trained on", "topics (n-gram clusters)", "new values of `topic`"},
    "language": {"new language", "language"},
    "longer": {"longer prompts", "length in characters", "length in words"},
}
"""What must be among the findings for a shift to be named rightly."""


def log_rows(count: int, seed: int, shift: str = "same", share: float = 1.0, fields: bool = True) -> list[Row]:
    """Return the rows of a log, `share` of them shifted; without `fields` the text alone, as other servers log it."""
    rng = random.Random(f"{shift}-{seed}")
    rows = [dict(row) for row in world.notes(count, seed)]
    shifted = set(rng.sample(range(count), round(share * count)))
    rows = [SHIFTS[shift](row, rng) if index in shifted else row for index, row in enumerate(rows)]
    return rows if fields else [{"id": row["id"], "prompt": row["prompt"]} for row in rows]


def requests_of(rows: Sequence[Row]) -> list[Request]:
    """Return rows as requests."""
    numbered = (to_request(row, str(number)) for number, row in enumerate(rows))
    return [request for request in numbered if request is not None]


def trained_on(count: int, seed: int, **known: Any) -> Trained:
    """Return a run trained on prompts of the sandbox."""
    empty: dict[str, Any] = {"forgotten": 0, "fallback": None, "fallback_of": None, "scores": {}}
    prompts = tuple(requests_of(log_rows(count, seed)))
    return Trained(name="run", names=frozenset({"run"}), prompts=prompts, **{**empty, **known})
