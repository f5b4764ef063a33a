"""The chapter on licences and terms: what the review found, what it leaves open, and the rights to the prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prefdistill.plan.blocks import Block, Bullets, Chapter, Entries, Entry, Heading, OpenPoint, Paragraph, Steps
from prefdistill.plan.cards import Card
from prefdistill.plan.document import Plan
from prefdistill.plan.editing import flow
from prefdistill.plan.licences import WORDS, Permission, Review
from prefdistill.plan.terms import Answer
from prefdistill.stages.report.tables import Column, Table

ANSWERS: dict[Answer, str] = {"yes": "yes", "no": "NO", "conditions": "with conditions", "unknown": "unknown"}
TO_REVIEW = (
    "This is no legal advice. To review a row, put it into a table of your own, read the terms, say in it what they say to "
    "you, who read them and when, and name the file in licences.terms."
)
TO_SIGN = (
    "The base model’s own licence is signed in the plan: licences.base_model_reviewed_by and base_model_reviewed_on."
)


def licence_chapter(plan: Plan, review: Review) -> Chapter:
    """Return the chapter that shows a review, and what it leaves open."""
    blocks: list[Block] = [_verdict(review), *(Paragraph(note, warns=True) for note in review.notes)]
    blocks += [Heading("The base model’s licence"), Entries(tuple(_card_entries(plan, review)))]
    if review.permissions:
        blocks += [_table(review), Bullets(tuple(_clauses(review)))]
    blocks += [Heading("What of the teacher’s trains the student"), Paragraph(_trained_text(review))]
    data = (
        ("whose texts the prompts are", plan.data.rights),
        ("personal data", plan.data.privacy),
        ("how long they are kept", plan.data.retention),
    )
    blocks += [Heading("Rights to the prompts"), Entries(tuple(Entry(label, value) for label, value in data))]
    blocks += _to_review(review)
    return Chapter("licences", "Licences and terms", tuple(blocks), tuple(_open_points(review)))


def _verdict(review: Review) -> Paragraph:
    warns = bool(review.blockers or review.unreviewed or review.stale)
    return Paragraph(review.summary[:1].upper() + review.summary[1:] + ".", warns)


def _to_review(review: Review) -> Iterator[Block]:
    """Yield what to do about rows that nobody has reviewed, or not lately, and these rows to copy."""
    found: dict[str, Permission] = {}
    for each in review.permissions:
        if each.state != "reviewed" and each.role != "base" and each.key:
            found.setdefault(each.key, each)
    yield Paragraph(f"{TO_REVIEW} {TO_SIGN}")
    if found:
        yield Steps(tuple(_own_rows(found)))


def _own_rows(found: Mapping[str, Permission]) -> Iterator[str]:
    """Yield a table of terms with these rows as they are known, their reviews left empty."""
    for part in ("teachers", "licences"):
        mine = {key.partition(".")[2]: each for key, each in found.items() if key.startswith(f"{part}.")}
        yield from [f"{part}:"] if mine else []
        for key, each in mine.items():
            yield f"  {flow(key)}:"
            unknown = {"title": each.model, **({"models": [each.model]} if part == "teachers" else {"use": "unknown"})}
            unknown |= {"clause": "what the terms say", "where": each.where or "where", "outputs": "unknown"}
            row = {**unknown, "labels": "unknown"} if each.row is None else each.row.model_dump(mode="json")
            left_out = ("looked_at", "reviewer", "reviewed")
            yield from (f"    {name}: {flow(value)}" for name, value in row.items() if name not in left_out)
            yield from ("    reviewer:", "    reviewed:")


def _card_entries(plan: Plan, review: Review) -> Iterator[Entry]:
    if not review.cards:
        yield Entry("student", None)
        return
    card, said = review.cards[0], plan.licences
    if said.base_model:
        yield Entry(card.model, said.base_model, said.base_model_source or "the plan says so")
    elif card.licence:
        yield Entry(card.model, _with_link(card), f"from {card.source}")
    else:
        yield Entry(card.model, None, f"{card.source}; {card.advice}" if card.advice else card.source)
    for other in review.cards[1:]:
        note = f"from {other.source}" if other.licence else f"{other.source}; {other.advice}"
        yield Entry(f"made from {other.model}", _with_link(other) if other.licence else None, note)


def _with_link(card: Card) -> str:
    return f"{card.licence} ({card.link})" if card.link else str(card.licence)


def _table(review: Review) -> Table:
    titles = ("model", "what for", "allowed", "by", "reviewed")
    rows = (
        (
            f"{each.role} {each.model}",
            WORDS[each.use] + ("" if each.sure else " (not decided yet)"),
            ANSWERS[each.answer],
            each.title,
            each.looked,
        )
        for each in review.permissions
    )
    return Table("licences", "What the terms say", tuple(Column(title) for title in titles), tuple(rows))


def _clauses(review: Review) -> Iterator[str]:
    known = {each.title: each for each in review.permissions if each.clause}
    for each in known.values():
        asked = f". Asked in return: {each.asks}" if each.asks else ""
        yield f"{each.title}: {each.clause}{asked} ({each.where})"


def _trained_text(review: Review) -> str:
    if review.trained_on is None:
        return (
            "Not decided yet (method.ways, or licences.trained_on): both what it writes and how it judges are reviewed "
            "above, and neither blocks the plan."
        )
    if not review.trained_on:
        return "Nothing: it is only compared with."
    parts = {
        "outputs": "its outputs (answers, traces, token distributions or drafts)",
        "labels": "its labels (which of the student’s own drafts is better)",
    }
    return " and ".join(parts[use] for use in review.trained_on).capitalize() + "."


def _open_points(review: Review) -> Iterator[OpenPoint]:
    for number, blocker in enumerate(review.blockers, start=1):
        yield OpenPoint(f"licences, blocker {number}", blocker)
    for each in review.permissions:
        key = "licences.base_model_reviewed_by" if each.role == "base" else "licences.terms"
        what = f"{each.role} {each.model}, {WORDS[each.use]} ({each.title})"
        place = key if each.role == "base" else f"{key}: {each.model}, {each.use}, {each.title}"
        if each.is_of_the_future:
            said = f"the review is dated {each.reviewed}, which lies in the future, so that it counts as none"
            yield OpenPoint(place, f"{said}: {what}")
        elif each.state == "unreviewed":
            yield OpenPoint(place, f"nobody has reviewed: {what}")
        elif each.state == "stale":
            yield OpenPoint(place, f"reviewed on {each.reviewed}, which is long ago: {what}")
        elif each.answer == "unknown":
            yield OpenPoint(place, f"the review leaves it open: {what}")
