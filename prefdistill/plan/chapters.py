"""Every chapter of a plan in order, what is open in each, and who has signed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prefdistill.diagnostics.thresholds import StopLevels
from prefdistill.plan.advice import gap, method_chapter
from prefdistill.plan.blocks import Block, Bullets, Chapter, OpenPoint, Paragraph
from prefdistill.plan.document import Plan
from prefdistill.plan.entries import entries_of, open_in
from prefdistill.plan.figures import share
from prefdistill.plan.licence_chapter import licence_chapter
from prefdistill.plan.licences import Review, review_licences
from prefdistill.plan.live_sections import Shown
from prefdistill.plan.sizes import sizes_chapter
from prefdistill.plan.worth import Worth, weigh
from prefdistill.plan.worth_chapter import worth_chapter
from prefdistill.plugins import build_checks
from prefdistill.rubric import Criterion, load_rubric
from prefdistill.stages.report.tables import Table, columns_of, without_empty


@dataclass(frozen=True)
class WrittenPlan:
    """A plan as it is shown."""

    plan: Plan
    worth: Worth
    review: Review
    chapters: tuple[Chapter, ...]

    @property
    def open(self) -> tuple[tuple[Chapter, OpenPoint], ...]:
        """Everything that is not decided, with its chapter; each thing once."""
        found: dict[OpenPoint | str, tuple[Chapter, OpenPoint]] = {}
        for chapter in self.chapters:
            for point in chapter.open:
                found.setdefault(point if chapter.name == "licences" else point.key, (chapter, point))
        return tuple(found.values())

    @property
    def unsigned(self) -> tuple[str, ...]:
        """Roles that have not signed."""
        return tuple(each.role for each in self.plan.sign_off if not each.is_signed)

    @property
    def warnings(self) -> tuple[tuple[Chapter, str], ...]:
        """What a reader must not miss, with its chapter."""
        return tuple(
            (chapter, block.text)
            for chapter in self.chapters
            for block in chapter.blocks
            if isinstance(block, Paragraph) and block.warns
        )


def write_plan(plan: Plan) -> WrittenPlan:
    """Return what a plan says, chapter by chapter.

    Raises:
        PriceError: a price table is broken.
        RubricError: a rubric that the plan names is.
        PlanError: a table of terms is.
    """
    worth, review = weigh(plan), review_licences(plan)
    return WrittenPlan(
        plan,
        worth,
        review,
        (
            _scope(plan),
            _models(plan),
            _good(plan),
            _data(plan),
            method_chapter(plan),
            sizes_chapter(plan),
            *_shown(plan),
            _stop(plan),
            worth_chapter(plan, worth),
            licence_chapter(plan, review),
            _live(plan),
            _signatures(plan),
        ),
    )


def _scope(plan: Plan) -> Chapter:
    blocks = (
        entries_of(plan, "task", "what", "owner", "languages"),
        entries_of(plan, "task", "in_scope", "out_of_scope"),
        entries_of(plan, "traffic", "requests_a_month", "tokens_in", "tokens_out", "peak_requests_a_second"),
    )
    return Chapter("scope", "Scope and traffic", blocks, open_in(plan, "task", "traffic"))


def _models(plan: Plan) -> Chapter:
    blocks = (
        entries_of(plan, "teacher", "model", "local", "same_tokenizer", "reasons", prefix="teacher: "),
        entries_of(plan, "student", "model", "revision", "quantization", prefix="student: "),
        entries_of(plan, "limits", "first_token_seconds", "reply_seconds", "memory_gib", "hardware"),
    )
    return Chapter("models", "Teacher, student and limits", blocks, open_in(plan, "teacher", "student", "limits"))


def _good(plan: Plan) -> Chapter:
    goal = plan.goal
    blocks: list[Block] = [
        entries_of(plan, "rubric", "judge", "held_out", "agreement"),
        *(_rubric_table(plan.directory / file.expanduser()) for file in plan.rubric.files),
        entries_of(plan, "goal", "metric", "student_score", "teacher_score", "target_score"),
    ]
    ahead, target = gap(plan), goal.target_score
    if ahead is not None and ahead > 0 and target is not None and goal.student_score is not None:
        closed = share((target - goal.student_score) / ahead)
        blocks.append(Paragraph(f"The target closes {closed} of the gap to the teacher."))
    return Chapter("good", "What good means", tuple(blocks), open_in(plan, "rubric", "goal"))


def _rubric_table(path: Path) -> Table:
    rubric = load_rubric(path)
    build_checks(rubric)
    whole = sum(each.weight for each in rubric.criteria)
    rows = [_criterion("gate", each, None) for each in rubric.gates]
    rows += [_criterion("criterion", each, each.weight / whole) for each in rubric.criteria]
    columns = columns_of(("Name", "text"), ("Kind", "text"), ("By", "text"), ("What", "text"), ("Weight", "percent"))
    return Table("rubric", f"Rubric {rubric.name}", columns, tuple(rows), rubric.purpose)


def _criterion(kind: str, each: Criterion, weight: float | None) -> tuple[str, str, str, str | None, float | None]:
    return each.name, kind, "asked" if each.asked else "checked", each.question or each.check, weight


def _data(plan: Plan) -> Chapter:
    keys = ("source", "train", "validation", "test", "split_by")
    return Chapter("data", "Data and splits", (entries_of(plan, "data", *keys),), open_in(plan, "data"))


def _shown(plan: Plan) -> Iterator[Chapter]:
    """Yield what a run has shown, where one has."""
    shown, limits = plan.shown, plan.limits
    if shown == Shown():
        return
    blocks: list[Block] = [entries_of(plan, "shown", *Shown.model_fields)]
    for what, seen, most in (
        ("The first token", shown.first_token_seconds, limits.first_token_seconds),
        ("A whole reply", shown.reply_seconds, limits.reply_seconds),
    ):
        if seen is not None and most is not None and seen > most:
            blocks.append(
                Paragraph(f"{what} took {seen:.3g} s, more than the {most:g} s that it may take.", warns=True)
            )
    yield Chapter("shown", "What a run has shown", tuple(blocks))


def _stop(plan: Plan) -> Chapter:
    usual = StopLevels()
    rows = []
    for name, field in StopLevels.model_fields.items():
        level, default = getattr(plan.stop.levels, name), getattr(usual, name)
        changed = None if level == default else f"usually {_level(default)}"
        rows.append((name, _level(level), (field.description or "").replace("`", ""), changed))
    columns = columns_of(("Check", "text"), ("Stops at", "text"), ("What it measures", "text"), ("Changed", "text"))
    table = without_empty(Table("stop", "A round is the last one when", columns, tuple(rows)))
    also: tuple[Block, ...] = (Bullets(plan.stop.also),) if plan.stop.also else ()
    blocks = (entries_of(plan, "stop", "budget_usd", "until"), *also, table)
    return Chapter("stop", "When to stop", blocks, open_in(plan, "stop"))


def _level(value: float | None) -> str:
    return "off" if value is None else f"{value:g}"


def _live(plan: Plan) -> Chapter:
    fallback = ("share", "when", "teacher_down", "student_down")
    blocks = (
        entries_of(plan, "fallback", *fallback, prefix="fallback: "),
        entries_of(plan, "drift", "check", "psi", "act", prefix="drift: "),
        entries_of(plan, "redistill", "when", "who", prefix="distil again: "),
    )
    left_open = open_in(plan, "fallback", "drift", "redistill")
    return Chapter("live", "Live: fallback, drift, distilling again", blocks, left_open)


def _signatures(plan: Plan) -> Chapter:
    left_open = tuple(OpenPoint(key, what) for key, what in plan.open_keys())
    if not plan.sign_off:
        return Chapter("sign_off", "Sign-off", (Paragraph("Nobody is named yet who has to sign."),), left_open)
    rows = []
    for each in plan.sign_off:
        rows.append((each.role, each.name, str(each.on) if each.on else None, "yes" if each.is_signed else "not yet"))
    columns = columns_of(("Role", "text"), ("Name", "text"), ("Date", "text"), ("Signed", "text"))
    return Chapter("sign_off", "Sign-off", (Table("sign_off", "", columns, tuple(rows)),), left_open)
