"""The licence review: may the student be trained on this teacher, under which licence, and who has looked.

Place in the flow: what the plan's chapter on licences shows. It puts side by side what the base model's card says, what
the table of terms says and who reviewed it; it draws no legal conclusion of its own. What nobody reviewed is called
unreviewed, and a reviewed row that forbids what is planned blocks the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from prefdistill.plan.cards import Card, read_card, read_chain
from prefdistill.plan.document import Plan
from prefdistill.plan.sections import Way
from prefdistill.plan.terms import Answer, Row, State, Terms, Use, load_terms, state_of

Role = Literal["base", "base of the base", "teacher", "writer", "judge"]
USES: dict[Way, Use] = {"outputs": "outputs", "traces": "outputs", "logits": "outputs", "preferences": "labels"}
"""What of the teacher's each way trains on."""
WORDS: dict[Use, str] = {
    "use": "a tuned copy in a product",
    "outputs": "train on what it writes",
    "labels": "train on how it judges",
}


@dataclass(frozen=True)
class Permission:
    """Whether one use of one model is allowed, and who says so."""

    model: str
    role: Role
    use: Use
    answer: Answer
    state: State
    title: str
    """The terms or licence; what is missing where no row is known."""
    clause: str = ""
    where: str = ""
    asks: str = ""
    """What is asked for in return."""
    reviewer: str | None = None
    reviewed: date | None = None
    sure: bool = True
    """Whether this use is planned; False where the plan does not say yet."""
    key: str = ""
    """Where its row is in a table of terms, such as `teachers.openai`, or would be."""
    row: Row | None = None

    @property
    def blocks(self) -> bool:
        """Whether somebody has reviewed it, and it forbids what is planned."""
        return self.sure and self.answer == "no" and self.state != "unreviewed"

    @property
    def is_of_the_future(self) -> bool:
        """Whether there is a review that does not count, because its date is still to come."""
        return self.state == "unreviewed" and self.reviewed is not None

    @property
    def looked(self) -> str:
        """Who reviewed it, in capitals where nobody did or it is long ago; why a review does not count."""
        if self.is_of_the_future:
            return f"UNREVIEWED: the review is dated {self.reviewed}, which lies in the future"
        if self.state == "unreviewed":
            return "UNREVIEWED"
        said = f"{self.reviewer}, {self.reviewed}"
        return f"STALE: {said}" if self.state == "stale" else said


@dataclass(frozen=True)
class Review:
    """Everything that the licence review found."""

    cards: tuple[Card, ...]
    """The base model's card, then those of what it was made from; empty without a student."""
    permissions: tuple[Permission, ...]
    trained_on: tuple[Use, ...] | None
    """What of the teacher's trains the student; None where the plan does not say yet."""
    notes: tuple[str, ...] = ()
    """What does not fit together."""

    @property
    def blockers(self) -> tuple[str, ...]:
        """What a reviewed row forbids of what is planned."""
        return tuple(
            f"{each.title} forbids it: {WORDS[each.use]} ({each.role} {each.model}); reviewed by {each.reviewer} on "
            f"{each.reviewed}: {each.clause} ({each.where})"
            for each in self.permissions
            if each.blocks
        )

    @property
    def unreviewed(self) -> tuple[Permission, ...]:
        """What nobody has reviewed."""
        return tuple(each for each in self.permissions if each.state == "unreviewed")

    @property
    def stale(self) -> tuple[Permission, ...]:
        """What was reviewed too long ago."""
        return tuple(each for each in self.permissions if each.state == "stale")

    @property
    def summary(self) -> str:
        """One line for the plan's summary."""
        parts = [f"BLOCKED: {'; '.join(self.blockers)}"] if self.blockers else []
        parts += [f"UNREVIEWED: {_listed(self.unreviewed)}{_of_the_future(self.unreviewed)}"] if self.unreviewed else []
        parts += [f"STALE: {_listed(self.stale)}"] if self.stale else []
        parts += [f"unknown: {_listed(unknown)}"] if (unknown := self._unknown) else []
        return "; ".join(parts) or (
            "reviewed, and nothing forbids the plan" if self.permissions else "nothing to review"
        )

    @property
    def _unknown(self) -> tuple[Permission, ...]:
        return tuple(each for each in self.permissions if each.answer == "unknown" and each.state == "reviewed")


def review_licences(plan: Plan, today: date | None = None) -> Review:
    """Review what the plan says of student, teacher and judges against cards and the table of terms.

    Raises:
        PlanError: the user's table of terms is broken, or has no row `licences.provider`.
    """
    now, terms = today or date.today(), _terms(plan)
    planned = _trained_on(plan)
    uses: tuple[Use, ...] = ("outputs", "labels") if planned is None else planned
    cards = read_chain(plan.student.model, plan.directory, plan.student.revision) if plan.student.model else ()
    found = list(_of_base(plan, cards, terms, now))
    if plan.teacher.model:
        found += _of_model(plan, terms, now, plan.teacher.model, "teacher", uses, planned is not None)
    for writer in plan.licences.writers:
        found += _of_model(plan, terms, now, writer, "writer", ("outputs",), True)
    for judge in plan.licences.judges:
        found += _of_model(plan, terms, now, judge, "judge", ("labels",), True)
    return Review(cards, tuple(found), planned, tuple(_notes(plan, cards)))


def _terms(plan: Plan) -> Terms:
    own = plan.licences.terms
    return load_terms(None if own is None else plan.directory / own.expanduser())


def _trained_on(plan: Plan) -> tuple[Use, ...] | None:
    """Return what of the teacher's is planned to train the student; None where the plan does not say yet."""
    if plan.licences.trained_on is not None:
        return tuple(dict.fromkeys(plan.licences.trained_on))
    return tuple(dict.fromkeys(USES[way] for way in plan.method.ways)) or None


def _of_base(plan: Plan, cards: Sequence[Card], terms: Terms, today: date) -> Iterator[Permission]:
    """Yield whether the student's base, and what it was made from, may be tuned and used."""
    said = plan.licences
    for number, card in enumerate(cards):
        licence = (said.base_model if number == 0 else None) or card.licence
        role: Role = "base" if number == 0 else "base of the base"
        row = terms.of_licence(licence) if licence else None
        if row is not None:
            found = _permission(card.model, role, "use", f"licences.{row[0]}", row[1], today, said.stale_after_days)
        else:
            title = f"{licence}: not in the table of terms" if licence else "licence not found"
            key = f"licences.{licence.lower()}" if licence else ""
            found = Permission(card.model, role, "use", "unknown", "unreviewed", title, where=card.link or "", key=key)
        by, on = said.base_model_reviewed_by, said.base_model_reviewed_on
        if number == 0 and by and on and found.state != "reviewed":
            state = state_of(on, today, said.stale_after_days)
            found = replace(found, answer="yes", state=state, reviewer=by, reviewed=on)
        yield found
        if found.reviewer == by and by is not None:  # whoever vouches for the base has looked at what it was made from
            return


def _of_model(
    plan: Plan, terms: Terms, today: date, model: str, role: Role, uses: Iterable[Use], sure: bool
) -> Iterator[Permission]:
    """Yield whether the student may be trained on a model's texts or judgements: by its provider's terms or licence."""
    rows: Mapping[str, Row] = {}
    missing = "no row of the table of terms is about it"
    if role == "teacher" and plan.licences.provider:
        named = plan.licences.provider
        rows = {f"teachers.{each}": terms.of_provider(each) for each in ((named,) if isinstance(named, str) else named)}
    else:
        hosted = role != "teacher" or not plan.teacher.local  # weights of one's own have a licence, and no provider
        rows = {f"teachers.{key}": row for key, row in terms.about(model).items() if hosted or key in terms.own}
    if not rows:
        card = read_card(model, plan.directory, None)
        model = card.model
        known = terms.of_licence(card.licence) if card.licence else None
        if known is not None:
            rows = {f"licences.{known[0]}": known[1]}
        elif card.licence or plan.teacher.local:
            missing = f"{card.licence}: not in the table of terms" if card.licence else f"licence {card.source}"
    for use in uses:
        for key, row in rows.items():
            yield _permission(model, role, use, key, row, today, plan.licences.stale_after_days, sure)
        if not rows:
            yield Permission(model, role, use, "unknown", "unreviewed", missing, sure=sure, key=f"teachers.{model}")


def _permission(
    model: str, role: Role, use: Use, key: str, row: Row, today: date, days: int, sure: bool = True
) -> Permission:
    return Permission(
        model,
        role,
        use,
        row.answer(use),
        row.state(today, days),
        row.title,
        row.clause,
        row.where,
        row.duties,
        row.reviewer,
        row.reviewed,
        sure,
        key,
        row,
    )


def _notes(plan: Plan, cards: Sequence[Card]) -> Iterator[str]:
    """Yield what does not fit together."""
    said = plan.licences
    card = cards[0].licence if cards else None
    if said.base_model and card and said.base_model.lower() != card.lower():
        yield (
            f"the plan says that the base model's licence is {said.base_model} (licences.base_model), and its card says "
            f"{card}; mend the plan, or say in licences.base_model_source where another licence was granted"
        )
    if (said.base_model_reviewed_by is None) != (said.base_model_reviewed_on is None):
        yield "a review has a person and a date: licences.base_model_reviewed_by and base_model_reviewed_on go together"
    if plan.teacher.model is None and plan.method.ways:
        yield "the teacher has no name yet (teacher.model), so its terms could not be looked up"


def _of_the_future(permissions: Iterable[Permission]) -> str:
    """Return which of these have a review that does not count yet; nothing where none has."""
    found = [f"{each.title}, dated {each.reviewed}" for each in permissions if each.is_of_the_future]
    named = "; ".join(dict.fromkeys(found))
    return f"; a review whose date lies in the future counts as none ({named})" if found else ""


def _listed(permissions: Iterable[Permission]) -> str:
    """Return models with what each is for: `teacher gpt-4.1 (train on what it writes; train on how it judges)`."""
    uses: dict[str, list[str]] = {}
    for each in permissions:
        known = uses.setdefault(f"{each.role} {each.model}", [])
        if WORDS[each.use] not in known:
            known.append(WORDS[each.use])
    return ", ".join(f"{who} ({'; '.join(what)})" for who, what in uses.items())
