"""Which drafts of a run are worth a person's time: a mixture of clear, close and contested pairs, drawn by seed.

The draw depends on the run, the seed and nothing else; a larger count keeps what a smaller one picked. Within every
group the draft that the judge (or the run) puts ahead is shown first exactly as often as second.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Literal

from prefdistill.documents import load_document
from prefdistill.errors import RecipeError, RunError
from prefdistill.folders import no_run
from prefdistill.labelling.tasks import CriterionTask, Group, PairTask
from prefdistill.records import Comparison, Draft, PreferencePair, Prompt, Ranking, Verdict, seed_of
from prefdistill.rubric import Rubric, RubricSet, fill, load_rubric
from prefdistill.run import RowType, RunDirectory
from prefdistill.selection import compare

SHARES: dict[Group, int] = {"confirmed": 4, "near_tie": 2, "orders_disagree": 2, "base_or_policy": 2}
"""Parts of the mixture; where a group runs out the others take its place."""
APART = 8
"""A pair is not asked again before at least so many others, where there are so many."""
MOST_OF_A_PROMPT = 6
"""Drafts of one prompt among which other pairs are looked for."""


@dataclass(frozen=True)
class Choice:
    """Where pairs are taken from, and how many."""

    run: Path
    round: int | None = None
    """Only the training drafts of this round."""
    split: Literal["validation", "test"] | None = None
    """Only base and policy drafts of this split; with neither, all rounds' training drafts and the test split."""
    count: int = 50
    """Pairs, or drafts where criteria are asked."""
    repeat: float = 0.1
    """Share of the pairs that are asked a second time with the sides exchanged."""
    seed: int = 0


@dataclass
class _Found:
    """A run's drafts by prompt, and pairs by group: the draft that is ahead first."""

    prompts: dict[str, Prompt]
    drafts: dict[str, Draft] = field(default_factory=dict)
    pairs: dict[Group, list[tuple[Draft, Draft]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, group: Group, ahead: str, behind: str) -> None:
        """Add a pair by draft ids; equal texts are no question."""
        one, other = self.drafts.get(ahead), self.drafts.get(behind)
        if one is None or other is None or one.prompt_id not in self.prompts:
            return
        if one.completion.strip() != other.completion.strip():
            self.pairs[group].append((one, other))


def pick_pairs(choice: Choice) -> list[PairTask]:
    """Return the pairs to label in the order in which they are shown, repeated ones included.

    Raises:
        RunError: the folder is no run, or holds no two different drafts of one prompt.
    """
    found = _search(choice)
    picked = [_sided(found, choice.seed, *each) for each in _mixed(found, choice)]
    if not picked:
        raise RunError(
            f"{choice.run}: no two different drafts of one prompt in {_where(choice)}; expected a run that has sampled "
            "and judged drafts: run it first, or choose another --round or --split"
        )
    order = sorted(picked, key=lambda task: seed_of(choice.seed, "order", _key(task)))
    return _with_repeats(order, choice)


def pick_criteria(choice: Choice) -> list[CriterionTask]:
    """Return `choice.count` drafts, each with every asked criterion of its rubric that applies to its prompt.

    Raises:
        RunError: the folder is no run, or has no drafts that a criterion could be asked about.
    """
    found, rubrics = _search(choice), run_rubrics(choice.run)
    drafts = sorted(found.drafts.values(), key=lambda draft: seed_of(choice.seed, "draft", draft.id))
    tasks: list[CriterionTask] = []
    seen: set[tuple[str, str]] = set()
    picked = 0
    for draft in _spread(drafts):
        text = (draft.prompt_id, draft.completion.strip())
        prompt = found.prompts.get(draft.prompt_id)
        if prompt is None or text in seen or not text[1]:
            continue
        asked = _asked(rubrics.of(prompt), prompt)
        if asked and picked < choice.count:
            seen.add(text)
            picked += 1
            of = tuple((name, question) for name, question, _ in asked)
            tasks += [CriterionTask(prompt, draft, name, question, levels, of) for name, question, levels in asked]
    if not tasks:
        raise RunError(
            f"{choice.run}: no asked criterion applies to any draft in {_where(choice)}; expected a rubric with "
            "`question` and `levels`: add one, or label pairs with --kind pair"
        )
    return tasks


def run_rubrics(run: Path) -> RubricSet:
    """Read the rubrics that a run keeps beside its recipe.

    Raises:
        RunError: the folder is no run.
        RubricError: a rubric cannot be read.
    """
    spec = load_document(RunDirectory(run).recipe, RunError).data.get("rubric")
    if isinstance(spec, str):
        return RubricSet(rubrics={"": load_rubric(run / spec)})
    if not isinstance(spec, dict) or "column" not in spec:
        raise RecipeError(f"{run / 'recipe.yaml'}: rubric: expected a file name or `{{column: NAME, KIND: FILE, …}}`")
    kinds = {kind: load_rubric(run / str(file)) for kind, file in spec.items() if kind != "column"}
    return RubricSet(column=str(spec["column"]), rubrics=kinds)


def _asked(rubric: Rubric, prompt: Prompt) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return (name, filled question, levels) of each criterion that is asked about this prompt's drafts."""
    return [
        (each.name, fill(each.question or "", prompt) or "", each.levels or ())
        for each in rubric.asked
        if each.applies_to(prompt)
    ]


def _spread(drafts: Sequence[Draft]) -> Iterator[Draft]:
    """Yield one draft of every prompt, then a second of each, and so on."""
    turn: Counter[str] = Counter()
    turns = []
    for position, draft in enumerate(drafts):
        turns.append((turn[draft.prompt_id], position, draft))
        turn[draft.prompt_id] += 1
    yield from (draft for _, _, draft in sorted(turns, key=lambda each: each[:2]))


def _where(choice: Choice) -> str:
    if choice.round is not None:
        return f"round {choice.round}"
    return f"the {choice.split} split" if choice.split else "any round or the test split"


def _search(choice: Choice) -> _Found:
    """Read the run's drafts and sort their pairs into groups."""
    run = RunDirectory(choice.run)
    if not run.prompts.is_file():
        raise no_run(choice.run, "it holds no run (no prompts.jsonl)")
    found = _Found(_read(run.prompts, Prompt))
    if choice.split is None:
        folders = sorted(run.path.glob("round-*")) if choice.round is None else [run.round(choice.round)]
        if choice.round is not None and not (folders[0] / "1-drafts.jsonl").is_file():
            known = ", ".join(str(int(each.name[6:])) for each in sorted(run.path.glob("round-*"))) or "none yet"
            raise RunError(f"{run.path}: no drafts of round {choice.round}; expected one of its rounds ({known})")
        for folder in folders:
            _add_round(found, folder)
    if choice.round is None:
        _add_evaluated(found, run, choice.split or "test")
    _add_others(found)
    return found


def _read(path: Path, kind: type[RowType]) -> dict[str, RowType]:
    return RunDirectory(path.parent).rows(path.parent, path.name, kind).read()


def _add_round(found: _Found, folder: Path) -> None:
    """Add a training round: its pairs, each prompt's closest two scores, and comparisons whose orders disagree."""
    drafts = _read(folder / "1-drafts.jsonl", Draft)
    found.drafts |= drafts
    for pair in _read(folder / "4-pairs.jsonl", PreferencePair).values():
        found.add("confirmed", pair.chosen_id, pair.rejected_id)
    gaps = [each for row in _read(folder / "3-rankings.jsonl", Ranking).values() if (each := _closest(row, drafts))]
    middle = median(gap for gap, _, _ in gaps) if gaps else 0.0
    for gap, ahead, behind in gaps:
        if gap <= middle:
            found.add("near_tie", ahead, behind)
    for verdict in _read(folder / "2-verdicts.jsonl", Verdict).values():
        for one, other in sorted({_two(each.first_id, each.second_id) for each in verdict.preferences}):
            compared = compare(verdict.preferences, one, other)
            if compared is not None and not compared.agree and not compared.tied:
                found.add("orders_disagree", *((one, other) if compared.probability >= 0.5 else (other, one)))


def _two(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


def _closest(ranking: Ranking, drafts: dict[str, Draft]) -> tuple[float, str, str] | None:
    """Return the smallest score gap between two different texts that pass every gate: (gap, ahead, behind)."""
    passing = [entry for entry in ranking.entries if not entry.gates and entry.draft_id in drafts]
    return min(
        (
            (abs(one.score - other.score), one.draft_id, other.draft_id)
            for one, other in combinations(passing, 2)
            if drafts[one.draft_id].completion.strip() != drafts[other.draft_id].completion.strip()
        ),
        default=None,
    )


def _add_evaluated(found: _Found, run: RunDirectory, split: str) -> None:
    """Add the kept policy's drafts against the base's, prompt by prompt; on validation, every round's policy."""
    folders = sorted((run.path / "test").glob("round-*")) if split == "test" else sorted(run.path.glob("round-*"))
    prefix = "" if split == "test" else "6-"
    drafts = _read(run.baselines / f"base-{split}-drafts.jsonl", Draft)
    for folder in folders:
        drafts |= _read(folder / f"{prefix}drafts.jsonl", Draft)
    found.drafts |= drafts
    for folder in folders:
        for row in _read(folder / f"{prefix}comparisons.jsonl", Comparison).values():
            if row.baseline == "base":
                found.add("base_or_policy", row.draft_id, row.baseline_draft_id)


def _add_others(found: _Found) -> None:
    """Add every two of a few drafts of a prompt that were written for the same purpose, to fill up with."""
    groups: dict[tuple[str, int, str], list[Draft]] = defaultdict(list)
    for draft in found.drafts.values():
        groups[draft.prompt_id, draft.round if draft.purpose == "train" else 0, draft.purpose].append(draft)
    for drafts in groups.values():
        few = sorted(drafts, key=lambda draft: seed_of("few", draft.id))[:MOST_OF_A_PROMPT]
        for one, other in combinations(few, 2):
            found.add("other", one.id, other.id)


def _mixed(found: _Found, choice: Choice) -> Iterator[tuple[Group, int, Draft, Draft]]:
    """Yield up to `count` pairs as (group, number within it, ahead, behind): the shares first, then what is left."""
    queues = {
        group: sorted(pairs, key=lambda two: seed_of(choice.seed, group, *_two(two[0].id, two[1].id)))
        for group, pairs in found.pairs.items()
    }
    numbers: Counter[Group] = Counter()
    used: set[tuple[str, ...]] = set()
    prompts: set[str] = set()
    picked = 0
    rest: dict[Group, int] = {"other": 1}
    for fresh, groups in ((True, SHARES), (False, SHARES), (True, rest), (False, rest)):
        waiting = {group: iter(queues[group]) for group in groups if queues.get(group)}
        while waiting and picked < choice.count:
            # the group that is furthest behind its share; a plain round robin by weight
            group = min(waiting, key=lambda each: ((numbers[each] + 1) / groups[each], list(groups).index(each)))
            for ahead, behind in waiting[group]:
                texts = (ahead.prompt_id, *sorted((ahead.completion.strip(), behind.completion.strip())))
                if texts not in used and not (fresh and ahead.prompt_id in prompts):
                    used.add(texts)
                    prompts.add(ahead.prompt_id)
                    yield group, numbers[group], ahead, behind
                    numbers[group] += 1
                    picked += 1
                    break
            else:
                del waiting[group]


def _sided(found: _Found, seed: int, group: Group, number: int, ahead: Draft, behind: Draft) -> PairTask:
    """Give a pair its sides: of every two in a group, one shows the draft that is ahead first."""
    turned = (seed_of(seed, "sides", group, number // 2) + number) % 2 == 1
    task = PairTask(found.prompts[ahead.prompt_id], ahead, behind, group)
    return task.exchanged() if turned else task


def _key(task: PairTask) -> list[str]:
    return [task.prompt.id, *_two(task.first.id, task.second.id)]


def _with_repeats(tasks: Sequence[PairTask], choice: Choice) -> list[PairTask]:
    """Return the tasks with a share of them asked again later, sides exchanged."""
    early = tasks[: max(1, 2 * len(tasks) // 3)]
    again = sorted(early, key=lambda task: seed_of(choice.seed, "again", _key(task)))
    again = again[: round(choice.repeat * len(tasks))]
    placed: list[tuple[float, PairTask]] = [(float(place), task) for place, task in enumerate(tasks)]
    for task in again:
        later = APART + seed_of(choice.seed, "later", _key(task)) % (2 * APART)
        placed.append((tasks.index(task) + later + 0.5, task.exchanged(again=True)))
    return [task for _, task in sorted(placed, key=lambda each: each[0])]


def mixture(tasks: Iterable[PairTask]) -> str:
    """Say how many pairs of each group there are, as one line for the terminal."""
    counts = Counter(task.group for task in tasks if not task.again)
    names: dict[Group, str] = {
        "confirmed": "that trained",
        "near_tie": "with close scores",
        "orders_disagree": "on which the judge's orders disagree",
        "base_or_policy": "of base and policy",
        "other": "other",
    }
    return ", ".join(f"{counts[group]} {name}" for group, name in names.items() if counts[group])
