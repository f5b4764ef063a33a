"""What a refresh took over and what was judged for it alone, counted from the rows of both run folders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefdistill.assembly import Workshop, train_prompts
from prefdistill.costs.estimate import Estimate, done_ids, estimate_run
from prefdistill.costs.measured import spent_before
from prefdistill.costs.steps import steps_of
from prefdistill.finished import FinishedRun
from prefdistill.records import Answer, Draft, Usage, Verdict
from prefdistill.refresh.changes import Way
from prefdistill.refresh.planning import RefreshPlan
from prefdistill.run import RunDirectory

ANSWERS = "teacher's answers, for the warm start"
FREE = "gold"
"""The role of a judge that is no judge to pay for: the sandbox's exact score."""


@dataclass
class Part:
    """Drafts of one sort, and what was said of them."""

    what: str
    ids: set[str] = field(default_factory=set)
    """Of drafts that were judged; of the teacher's answers, all."""
    judgements: int = 0
    """Scores of single drafts, by any judge but gold."""
    comparisons: int = 0
    """Of two drafts, an order each."""
    usage: Usage = field(default_factory=Usage)

    def add(self, verdict: Verdict) -> None:
        """Count a prompt's verdict."""
        self.ids |= {each.draft_id for each in verdict.judgements}
        self.ids |= {key for each in verdict.preferences for key in (each.first_id, each.second_id)}
        self.judgements += len(verdict.judgements)
        self.comparisons += len(verdict.preferences)
        self.usage += verdict.usage

    @property
    def drafts(self) -> int:
        """How many drafts."""
        return len(self.ids)

    @property
    def calls(self) -> int:
        """Replies that it took, from a server or from the request cache."""
        return self.usage.calls + self.usage.cached


@dataclass(frozen=True)
class Account:
    """What the new run took over, and what was judged for it alone."""

    reused: tuple[Part, ...]
    new: tuple[Part, ...]
    charged: Usage
    """Of the new run, all paid calls; tokens are given as prompt tokens."""
    charged_before: Usage
    """Of the old run."""
    repeated: int = 0
    """Drafts of the new student, for training, with the very text of a draft of the same prompt that was judged before."""


def account(old: FinishedRun, run: RunDirectory, way: Way) -> Account:
    """Return what stands in the new run's folder, taken over or made for it."""
    reused: dict[str, Part] = {}
    new: dict[str, Part] = {}
    for what, path, verdicts in _judged(run):
        all_taken = path == run.round(1) / "2-verdicts.jsonl" and way == "pairs"
        texts = {} if all_taken else _texts(run, path)
        before = set() if all_taken else _signatures(old, run, path, way)
        for verdict in verdicts:
            said = (_signature(verdict), texts.get(verdict.prompt_id))
            parts = reused if all_taken or said in before else new
            parts.setdefault(what, Part(what)).add(verdict)
    if way == "answers":
        taken, made = _answers(old, run)
        for parts, ids in ((reused, taken), (new, made)):
            if ids:
                parts[ANSWERS] = Part(ANSWERS, ids)
    return Account(
        reused=tuple(reused.values()),
        new=tuple(new.values()),
        charged=spent_before(run.path / "spending.jsonl"),
        charged_before=spent_before(old.directory.path / "spending.jsonl"),
        repeated=_repeated(old, run),
    )


def _judged(run: RunDirectory) -> Iterator[tuple[str, Path, Iterable[Verdict]]]:
    """Yield every file of verdicts in a run, with what it is about."""
    for path in sorted(run.path.rglob("*.jsonl")):
        place, name = path.relative_to(run.path), path.stem
        kind = name.rpartition("-")[2]
        compared = "preferences-" in name
        if place.parts[0] == "replaced" or not (kind in ("verdicts", "out") or compared):
            continue
        yield _what(place, name), path, run.rows(path.parent, path.name, Verdict).read().values()


def _what(place: Path, name: str) -> str:
    folder = place.parts[0]
    if name == "2-verdicts":
        return "training drafts of the warm start" if folder == "round-01" else "training drafts of the rounds"
    if "also-" in name:
        return "drafts of other tasks"
    if folder == "test":
        return "kept student's test drafts"
    if folder == "baselines":
        return "teacher's validation and test drafts" if name.startswith("teacher-") else "base's drafts"
    return "validation drafts of the rounds"


def _signature(verdict: Verdict) -> tuple[Any, ...]:
    """Return what two rows of the same judging have in common, whatever the drafts are called."""
    said = tuple((each.judge, each.member, each.value, each.scores, each.usage) for each in verdict.judgements)
    return verdict.prompt_id, said, tuple((each.probability, each.usage) for each in verdict.preferences)


def _signatures(old: FinishedRun, run: RunDirectory, path: Path, way: Way) -> set[Any]:
    """Return the old run's verdicts that may have been taken over into a file."""
    place = path.relative_to(run.path)
    theirs = [old.directory.path / place] if place.parts[0] == "baselines" else []
    if way == "answers" and path.parent == run.round(1):
        theirs = sorted(old.directory.path.glob("round-[0-9]*/2-verdicts.jsonl"))
    found: set[Any] = set()
    for each in theirs:
        texts = _texts(run, each)
        rows = run.rows(each.parent, each.name, Verdict).read()
        found |= {(_signature(row), texts.get(key)) for key, row in rows.items()}
    return found


def _texts(run: RunDirectory, verdicts: Path) -> dict[str, tuple[str, ...]]:
    """Return the drafts that a file of verdicts is about, by prompt id."""
    prefix = verdicts.stem.partition("preferences-")[0].removesuffix("verdicts").removesuffix("held-out")
    name = "1-drafts.jsonl" if verdicts.stem == "2-verdicts" else f"{prefix}drafts.jsonl"
    found: dict[str, list[str]] = defaultdict(list)
    for _, draft in sorted(run.rows(verdicts.parent, name, Draft).read().items()):
        found[draft.prompt_id].append(draft.completion)
    return {key: tuple(each) for key, each in found.items()}


def _answers(old: FinishedRun, run: RunDirectory) -> tuple[set[str], set[str]]:
    """Return which of the warm start's answers are the old run's, and which are not."""
    theirs = _teacher_texts(old.directory)
    ours = run.rows(run.round(1), "1-drafts.jsonl", Draft).read().values()
    taken = {draft.id for draft in ours if (draft.prompt_id, draft.completion) in theirs}
    return taken, {draft.id for draft in ours} - taken


def _teacher_texts(run: RunDirectory) -> set[tuple[str, str]]:
    return {
        (draft.prompt_id, draft.completion)
        for folder in run.path.glob("round-[0-9]*")
        for draft in run.rows(folder, "1-drafts.jsonl", Draft).read().values()
        if draft.source == "teacher"
    }


def _repeated(old: FinishedRun, run: RunDirectory) -> int:
    known = {
        (draft.prompt_id, draft.completion.strip())
        for number in range(1, old.trained + 1)
        for draft in old.train_drafts(number).values()
    }
    found = (
        draft
        for folder in sorted(run.path.glob("round-[0-9]*"))
        for draft in run.rows(folder, "1-drafts.jsonl", Draft).read().values()
        if draft.source == "student"
    )
    return sum((draft.prompt_id, draft.completion.strip()) in known for draft in found)


@dataclass(frozen=True)
class Ahead:
    """What a refresh takes over and what it has to ask for, before it starts."""

    reused: tuple[Part, ...]
    pairs: int
    """Of the old run, that the warm start trains on."""
    answers: int
    rounds: int
    """Rounds of the old run that they are of."""
    owed: Mapping[str, int]
    """Drafts still to be judged, by what they are, each counted once a judge."""
    estimate: Estimate


def ahead_of(shop: Workshop, plan: RefreshPlan) -> Ahead:
    """Return what is taken over and what is still to be judged; nothing is sent."""
    old, gone = plan.old, shop.forgotten.keys()
    wanted = {prompt.id for prompt in train_prompts(shop.recipe, shop.prompts)[0]} - gone
    parts = {part.what: part for part in account(old, shop.run, plan.way).reused}
    warm = Part("training drafts of the warm start")
    pairs, rounds = 0, 0
    for number in range(1, old.trained + 1) if plan.way == "pairs" else ():
        mine = [pair for pair in old.pairs(number) if pair.prompt_id in wanted]
        pairs, rounds = pairs + len(mine), rounds + bool(mine)
        of = {pair.prompt_id for pair in mine}
        for verdict in old.train_verdicts(number).values():
            if verdict.prompt_id in of:
                warm.add(verdict)
    if pairs:
        parts[warm.what] = warm
    answers = 0
    if plan.way == "answers":
        folders = sorted(old.directory.path.glob("round-[0-9]*/4-answers.jsonl"))
        found = [row for each in folders for row in old.directory.rows(each.parent, each.name, Answer).read().values()]
        answers, rounds = sum(row.prompt_id in wanted for row in found), len(folders)
    owed: dict[str, int] = defaultdict(int)
    for step in steps_of(shop.recipe, shop.prompts, shop.run):
        if step.judge is not None and step.role != FREE:
            owed[step.what] += (len(step.prompts) - len(done_ids(step))) * step.drafts
    estimate = estimate_run(shop.recipe, shop.prompts, shop.run)
    return Ahead(
        tuple(parts.values()), pairs, answers, rounds, {what: count for what, count in owed.items() if count}, estimate
    )
