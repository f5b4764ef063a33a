"""What the sandbox's judge language model is taught: pairs of e-mails on one note, with levels and winners that are
partly wrong.

Place in the flow: none at run time; `build_judge` turns lessons into training text, `measure_judge` makes fresh ones to
measure with. A level comes from reading the e-mail (`reading`), never from gold. A winner comes from the rubric's own
total of those levels and of its checks. Both are noisy, and a close pair is often given to the e-mail shown first,
so that the trained judge errs as judges do: now and then, and more where two drafts are alike.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from prefdistill.errors import RubricError
from prefdistill.judges.checks import checked_scores
from prefdistill.judges.prompts import fence, fence_conversation, render_prompt
from prefdistill.records import CriterionScore, Draft, Message, Prompt
from prefdistill.rubric import Criterion, Rubric, load_rubric
from prefdistill.sandbox.reading import Reading, asks_first, gives_when, mentions_fact, read_email, ties_reason
from prefdistill.sandbox.world import FACTS
from prefdistill.sandbox.writer import Style, draw_style, write_email, write_oracle

WRONG_LEVELS = 0.06
"""Share of levels that are replaced by another one."""
WRONG_WINNERS = 0.04
"""Share of winners that are replaced by another one."""
CLOSE = 0.12
"""Two totals no further apart than this are a close pair."""
FIRST_OF_CLOSE = 0.35
"""Share of close pairs that are given to the first shown, whichever is better: the position bias."""
TIED = 0.02
"""Two totals no further apart than this are tied, unless the position bias decides."""
UNMEASURED = 0.2
"""Share of comparisons that do not show what the checks found."""
SOURCES = {"student": 0.45, "mixture": 0.25, "careful": 0.2, "oracle": 0.1}
"""Who wrote the e-mails, with shares; careful authors do nearly everything right, as a trained student would."""

Facts = Mapping[str, str]


def _request(reading: Reading, text: str, facts: Facts) -> str:
    return "nowhere" if reading.ask is None else "first" if asks_first(reading) else "late"


def _reason(reading: Reading, text: str, facts: Facts) -> str:
    return "tied" if ties_reason(reading, facts) else "loose" if mentions_fact(text, facts, "reason") else "missing"


def _filler(reading: Reading, text: str, facts: Facts) -> str:
    return {0: "none", 1: "some"}.get(reading.pleasantries + reading.fillers, "much")


LEVELS: dict[str, Callable[[Reading, str, Facts], str]] = {
    "request": _request,
    "deadline": lambda reading, text, facts: "yes" if gives_when(reading, facts) else "no",
    "reason": _reason,
    "wording": lambda reading, text, facts: "hedged" if reading.hedged or reading.ask is None else "plain",
    "filler": _filler,
    "courtesy": lambda reading, text, facts: "pushy" if reading.pushy else "thankful" if reading.thanks else "neutral",
}
"""How each asked criterion of the rubric is truly answered."""


class Asked(NamedTuple):
    """An asked criterion as it stands in a judge's prompt."""

    name: str
    question: str
    levels: tuple[str, ...]
    pass_when: str | None = None


@dataclasses.dataclass(frozen=True)
class Email:
    """An e-mail with its true levels and what the rubric's checks find."""

    text: str
    levels: Mapping[str, str]
    measured: Mapping[str, float]
    total: float
    """The rubric's total of both, 0 to 1."""


@dataclasses.dataclass(frozen=True)
class Lesson:
    """Two e-mails on one note and what the judge is told about them."""

    prompt: Prompt
    first: Email
    second: Email
    levels: Mapping[str, str]
    """Levels of the first, some of them wrong."""
    winner: str
    """first, second or tie."""
    measured: bool
    """The comparison shows what the checks found."""


def judge_rubric() -> Rubric:
    """Load the rubric that the judge is taught, from the wheel or from the checkout.

    Raises:
        RubricError: the file is missing or does not ask what the lessons answer.
    """
    package = Path(__file__).parent.parent
    places = [root / "rubrics" / "sandbox-asked.yaml" for root in (package / "shipped", package.parent)]
    rubric = load_rubric(next((path for path in places if path.is_file()), places[-1]))
    if {each.name for each in rubric.asked} != set(LEVELS):
        raise RubricError(f"{places[-1]}: expected the asked criteria {', '.join(LEVELS)}, which the judge is taught")
    return rubric


def to_prompt(row: Mapping[str, str]) -> Prompt:
    """Return a note as a prompt of a run."""
    message = Message(role="user", content=row["prompt"])
    return Prompt(id=row["id"], messages=(message,), split="train", fields={name: row[name] for name in FACTS})


def to_draft(prompt: Prompt, text: str, index: int = 0) -> Draft:
    """Return an e-mail as a draft."""
    return Draft(
        id=Draft.make_id(prompt.id, "file:lessons", 0, "train", index), prompt_id=prompt.id, source="file:lessons",
        policy=None, round=0, purpose="train", index=index, completion=text,
    )  # fmt: skip


def read_levels(text: str, facts: Facts) -> dict[str, str]:
    """Return the true level of every asked criterion; any text is accepted."""
    reading = read_email(text, facts)
    return {name: level(reading, text, facts) for name, level in LEVELS.items()}


def to_email(prompt: Prompt, text: str, rubric: Rubric) -> Email:
    """Read an e-mail and measure it."""
    levels = read_levels(text, prompt.fields)
    checks = checked_scores(prompt, to_draft(prompt, text), rubric)
    asked = [
        CriterionScore(
            criterion=each.name, level=levels[each.name], score=each.score_of(levels[each.name]), path="parsed"
        )
        for each in rubric.asked
    ]
    measured = {each.criterion: each.score for each in checks if each.score is not None}
    return Email(text, levels, measured, rubric.total([*checks, *asked])[0])


def write_text(row: Facts, students: Sequence[str], rng: random.Random) -> str:
    """Write one e-mail on a note by an author drawn from `SOURCES`; `students` are the student's drafts on it."""
    source = rng.choices(list(SOURCES), list(SOURCES.values()))[0]
    if source == "student" and students:
        return rng.choice(students)
    if source == "oracle":
        return write_oracle(row)
    if source == "careful":
        faulty, house = draw_style(rng), Style()
        kept = {
            field.name: getattr(faulty if rng.random() < 0.25 else house, field.name)
            for field in dataclasses.fields(Style)
        }
        return write_email(row, Style(**kept), rng)
    return write_email(row, draw_style(rng), rng)


def winner_of(first: float, second: float, rng: random.Random) -> str:
    """Return the winner that the judge is told, given the two totals."""
    gap = first - second
    if rng.random() < WRONG_WINNERS:
        return rng.choice(("first", "second", "tie"))
    if abs(gap) <= CLOSE and rng.random() < FIRST_OF_CLOSE:
        return "first"
    if abs(gap) <= TIED:
        return "tie"
    return "first" if gap > 0 else "second"


def lessons(
    rows: Sequence[Facts], students: Sequence[Sequence[str]], rubric: Rubric, count: int, seed: int
) -> Iterator[Lesson]:
    """Yield `count` lessons, going through the notes again and again; a function of its arguments alone."""
    rng = random.Random(f"lessons-{seed}")
    menus = {each.name: each.levels or () for each in rubric.asked}
    for number in range(count):
        row, written = rows[number % len(rows)], students[number % len(rows)]
        prompt = to_prompt(row)
        first, second = (to_email(prompt, write_text(row, written, rng), rubric) for _ in range(2))
        told = {
            name: rng.choice([each for each in menus[name] if each != level]) if rng.random() < WRONG_LEVELS else level
            for name, level in first.levels.items()
        }
        winner = winner_of(first.total, second.total, rng)
        yield Lesson(prompt, first, second, told, winner, rng.random() >= UNMEASURED)


def render_question(prompt: Prompt, text: str, rubric: Rubric, criteria: Sequence[Criterion]) -> list[dict[str, str]]:
    """Return the conversation in which a judge is asked for levels, as every judge of the toolkit asks it."""
    asked = tuple(Asked(each.name, each.question or "", each.levels or ()) for each in criteria)
    return _turns(
        render_prompt(
            "score",
            {"purpose": rubric.purpose, "criteria": asked, "reason": "none"},
            conversation=fence_conversation(prompt),
            draft=fence("draft", text),
        )
    )


def render_comparison(
    prompt: Prompt, first: Email, second: Email, rubric: Rubric, measured: bool = True
) -> list[dict[str, str]]:
    """Return the conversation in which a judge is asked for the better of two e-mails."""
    asked = tuple(Asked(each.name, each.question or "", each.levels or ()) for each in rubric.asked)
    names = [each.name for each in rubric.checked if each.name in first.measured and each.name in second.measured]
    return _turns(
        render_prompt(
            "compare",
            {"purpose": rubric.purpose, "criteria": asked, "reason": "none"},
            conversation=fence_conversation(prompt),
            checked=[(name, first.measured[name], second.measured[name]) for name in names if measured],
            first=fence("first", first.text),
            second=fence("second", second.text),
        )
    )


def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": each.role, "content": each.content} for each in messages]
