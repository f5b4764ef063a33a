"""The head of a plan: its break-even in a sentence, its figures, and what stands between it and its sign-off."""

from __future__ import annotations

from collections.abc import Iterator

from prefdistill.plan.chapters import WrittenPlan
from prefdistill.plan.figures import requests, rounded
from prefdistill.plan.worth import STUDENT_WAY
from prefdistill.plan.worth_chapter import headline
from prefdistill.stages.report.formats import UNKNOWN
from prefdistill.stages.report.verdict import Figure


def title(written: WrittenPlan) -> str:
    """Return the plan's headline: the break-even, and what is cheapest at the planned traffic."""
    worth, traffic = written.worth, written.plan.traffic.requests_a_month
    said, best = headline(worth), worth.cheapest
    if best is None or traffic is None or worth.gain is None:
        return said
    if best.name == STUDENT_WAY:
        return f"{said} At the planned {requests(traffic.central)} it saves {rounded(worth.gain.central)} a month."
    return f"{said} At the planned {requests(traffic.central)} it costs least to {best.name}."


def standing(written: WrittenPlan) -> str:
    """Return what stands between the plan and its sign-off, counted."""
    parts = []
    if written.review.blockers:
        parts.append(
            _counted(len(written.review.blockers), "reviewed term that forbids it", "reviewed terms that forbid it")
        )
    if written.open:
        parts.append(_counted(len(written.open), "open point", "open points"))
    if written.unsigned:
        parts.append(_counted(len(written.unsigned), "missing signature", "missing signatures"))
    if not parts:
        return "Decided and signed."
    said = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    verb = "stands" if len(parts) == 1 and parts[0].startswith("1 ") else "stand"
    return f"{said} {verb} between this plan and its sign-off."


def key_figures(written: WrittenPlan) -> tuple[Figure, ...]:
    """Return the numbers that a reader looks for first; one that is not known is a dash."""
    return tuple(_figures(written))


def _figures(written: WrittenPlan) -> Iterator[Figure]:
    worth = written.worth
    found = worth.teacher
    against = found and f"requests a month, against {found.model.name}"
    yield Figure(
        "Break-even", UNKNOWN if found is None else requests(found.instead.central), against or "not known yet"
    )
    if found is not None and worth.costing.knows_one_off and found.as_teacher_running.central is not None:
        alone = requests(found.as_teacher_running.central)
        yield Figure("Without the one-off cost", alone, "requests a month")
    if worth.gain is not None:
        word = "Saved a month" if worth.gain.central >= 0 else "Lost a month"
        yield Figure(word, rounded(abs(worth.gain.central)), "against calling the teacher")
    best = worth.cheapest
    if best is not None:
        yield Figure("Cheapest a month", rounded(best.usd_a_month.central), best.name)
    yield Figure("Open", str(len(written.open)), "points to decide")


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
