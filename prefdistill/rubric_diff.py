"""What an edit of a rubric does to a run's stored drafts, as Markdown for a review. Nothing in the run is changed.

Verdicts hold levels, so changed weights and checks are computed without a call. Where a question, its levels or the
rubric's purpose changed, the judge has to be asked: with `--judge` it is, else the calls are counted and priced, and
the rest is shown as far as it can be known.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefdistill.assembly import opened_judge
from prefdistill.documents import render_yaml
from prefdistill.errors import RunError
from prefdistill.judges.checks import checked_scores
from prefdistill.prices import Price, price_of
from prefdistill.recipe import Recipe, load_recipe
from prefdistill.records import (
    NOT_ASKED,
    CriterionScore,
    Draft,
    Drop,
    Judgement,
    PreferencePair,
    Prompt,
    Usage,
    Verdict,
)
from prefdistill.rubric import Criterion, Gate, Rubric, RubricSet
from prefdistill.run import RunDirectory
from prefdistill.selection import choose_best_worst, rank_drafts
from prefdistill.stages.judge import judge_prompts
from prefdistill.stages.pair import pair_prompt

SHOWN = 240
"""Characters of a text in the review."""
CHARACTERS_A_TOKEN = 4
REPLY_TOKENS = 40
"""Expected completion tokens of one answer with its brief reason."""


_Row = tuple[tuple[int, str], PreferencePair, PreferencePair | None]


@dataclass(frozen=True)
class Group:
    """One prompt's stored drafts of one round, and the verdict on them."""

    round: int
    prompt: Prompt
    drafts: tuple[Draft, ...]
    verdict: Verdict


@dataclass
class Side:
    """What one of the two rubrics makes of the stored drafts."""

    pairs: dict[tuple[int, str], tuple[PreferencePair, ...]] = field(default_factory=dict)
    """By round and prompt id."""
    drops: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """Pairs in all."""
        return sum(map(len, self.pairs.values()))


@dataclass
class Owed:
    """What would have to be asked to know all about the new rubric."""

    drafts: int = 0
    """Texts that would be scored."""
    confirmations: int = 0
    """Pairs that would be compared in both orders and have not been."""
    calls: int = 0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    usd: float | None = 0.0
    unpriced: set[str] = field(default_factory=set)


@dataclass
class Diff:
    """The whole comparison."""

    old: Rubric
    new: Rubric
    run: Path
    groups: list[Group]
    before: Side
    after: Side
    unknown: tuple[str, ...]
    """Asked criteria of the new rubric that stored verdicts do not answer; `after` is without them."""
    owed: Owed
    judged: Usage | None = None
    """What asking the judge cost; None where it was not asked."""
    failures: int = 0
    notes: list[str] = field(default_factory=list)


def diff_rubrics(
    old: Rubric,
    new: Rubric,
    run: Path,
    ask: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Diff:
    """Compare what two rubrics make of a run's stored training drafts.

    Raises:
        RunError: the folder is no run, or holds no judged drafts for this kind of prompt.
    """
    directory = RunDirectory(run)
    if not directory.recipe.exists() or not directory.prompts.exists():
        raise RunError(f"{run}: no recipe.yaml and prompts.jsonl; expected a run folder: name it with --run")
    recipe = load_recipe(directory.recipe)
    groups = _stored(directory, _of_kind(recipe, old))
    if not groups:
        raise RunError(
            f"{run}: no judged drafts for rubric {old.name}; expected at least one round with 2-verdicts.jsonl"
        )
    notes = _same_as_run(recipe, old)
    known = [each.name for each in new.asked if _is_stored(each, old, new)]
    unknown = tuple(each.name for each in new.asked if each.name not in known)
    before = _side(recipe, old, [(each, _rescored(each, old, old)) for each in groups])
    diff = Diff(old, new, run, groups, before, Side(), unknown, Owed(), notes=notes)
    if ask:
        verdicts, diff.judged = _ask(recipe, new, groups, progress)
        diff.failures = sum(len(verdict.failures) for verdict in verdicts.values())
        diff.unknown = ()
        diff.after = _side(recipe, new, [(each, verdicts[each.round, each.prompt.id]) for each in groups])
        return diff
    partial = _without(new, unknown)
    if partial is None:
        notes.append("every criterion of the new rubric has to be asked: nothing can be known without calls")
    else:
        rescored = [(each, _rescored(each, old, partial)) for each in groups]
        diff.after = _side(recipe, partial, rescored)
        diff.owed = _owed(recipe, new, partial, rescored, bool(unknown), _shows_other_checks(old, new))
    if partial is None:
        diff.owed = _owed(recipe, new, None, [(each, each.verdict) for each in groups], True, True)
    return diff


def _of_kind(recipe: Recipe, old: Rubric) -> Callable[[Prompt], bool]:
    """Return which prompts the rubric is for, where the recipe has one per kind."""
    rubrics = recipe.rubrics
    if rubrics.column is None:
        return lambda prompt: True
    same = [
        k for k, r in rubrics.rubrics.items() if r.asked_fingerprint() == old.asked_fingerprint() or r.name == old.name
    ]
    if not same:
        raise RunError(
            f"the run has a rubric for each of {', '.join(rubrics.kinds)}, and none is called {old.name}; expected "
            "OLD to "
            "be one of them"
        )
    return lambda prompt: rubrics.kind(prompt) in same


def _same_as_run(recipe: Recipe, old: Rubric) -> list[str]:
    stored = {rubric.asked_fingerprint() for rubric in recipe.rubrics.rubrics.values()}
    if old.asked_fingerprint() in stored:
        return []
    return ["OLD asks other things than the rubric that the run was judged by; its verdicts are read by criterion name"]


def _stored(run: RunDirectory, wanted: Callable[[Prompt], bool]) -> list[Group]:
    prompts = run.rows(run.path, "prompts.jsonl", Prompt).read()
    groups = []
    for folder in sorted(run.path.glob("round-[0-9]*")):
        drafts: dict[str, list[Draft]] = {}
        for draft in run.rows(folder, "1-drafts.jsonl", Draft).read().values():
            drafts.setdefault(draft.prompt_id, []).append(draft)
        for verdict in run.rows(folder, "2-verdicts.jsonl", Verdict).read().values():
            prompt = prompts.get(verdict.prompt_id)
            if prompt is not None and wanted(prompt) and drafts.get(prompt.id):
                rows = tuple(sorted(drafts[prompt.id], key=lambda draft: draft.id))
                groups.append(Group(int(folder.name.removeprefix("round-")), prompt, rows, verdict))
    return groups


def _asked_half(criterion: Criterion) -> dict[str, Any]:
    return criterion.model_dump(mode="json", exclude={"weight"})


def _is_stored(criterion: Criterion, old: Rubric, new: Rubric) -> bool:
    """Whether the stored answers to a criterion of the new rubric are answers to the same question."""
    before = next((each for each in old.asked if each.name == criterion.name), None)
    same = before is not None and _asked_half(before) == _asked_half(criterion)
    return same and isinstance(before, Gate) == isinstance(criterion, Gate) and old.purpose == new.purpose


def _without(rubric: Rubric, names: Sequence[str]) -> Rubric | None:
    """Return the rubric without some of its criteria; None where nothing with a weight is left."""
    criteria = tuple(each for each in rubric.criteria if each.name not in names)
    if not any(each.weight > 0 for each in criteria):
        return None
    gates = tuple(each for each in rubric.gates if each.name not in names)
    return rubric.model_copy(update={"criteria": criteria, "gates": gates, "tests": ()})


def _rescored(group: Group, old: Rubric, new: Rubric) -> Verdict:
    """Return the stored verdict as the new rubric reads it: levels as they were, checks applied anew."""
    drafts = {draft.id: draft for draft in group.drafts}
    judgements = []
    for judgement in group.verdict.judgements:
        draft = drafts.get(judgement.draft_id)
        if draft is None or judgement.value is not None or judgement.scale != "rubric":
            judgements.append(judgement)
            continue
        stored = {score.criterion: score for score in judgement.scores}
        checked = {score.criterion: score for score in checked_scores(group.prompt, draft, new)}
        scores = []
        for criterion in new.all_criteria:
            score = checked.get(criterion.name) or stored.get(criterion.name)
            if score is None:
                score = CriterionScore(
                    criterion=criterion.name, applies=False, reason=f"{NOT_ASKED}: new", path="checked"
                )
            scores.append(score)
        judgements.append(judgement.model_copy(update={"scores": tuple(scores)}))
    return group.verdict.model_copy(update={"judgements": tuple(judgements)})


def _side(recipe: Recipe, rubric: Rubric, rows: Sequence[tuple[Group, Verdict]]) -> Side:
    """Rank and pair with one rubric."""
    side = Side()
    for group, verdict in rows:
        ranking = rank_drafts(group.prompt, group.drafts, verdict, rubric, group.round)
        found = pair_prompt(group.prompt, group.drafts, verdict, ranking, recipe.pairing, group.round)
        pairs = tuple(row for row in found if isinstance(row, PreferencePair))
        if pairs:
            side.pairs[group.round, group.prompt.id] = pairs
        side.drops.update(row.reason for row in found if isinstance(row, Drop))
    return side


def _ask(
    recipe: Recipe, rubric: Rubric, groups: Sequence[Group], progress: Callable[[int, int], None]
) -> tuple[dict[tuple[int, str], Verdict], Usage]:
    """Have the run's judge judge every group by the new rubric; replies that were paid for come from the cache."""
    found: dict[tuple[int, str], Verdict] = {}
    with opened_judge(recipe) as (judge, layer):
        require = getattr(judge, "require", None)
        if require is not None:
            require(rubric)
        for number in sorted({group.round for group in groups}):
            mine = [(group.prompt, group.drafts) for group in groups if group.round == number]
            for verdict in judge_prompts(judge, mine, _everywhere(rubric)):
                found[number, verdict.prompt_id] = verdict
                progress(len(found), len(groups))
        return found, layer.usage


def _everywhere(rubric: Rubric) -> RubricSet:
    return RubricSet(rubrics={"": rubric})


def _owed(
    recipe: Recipe,
    new: Rubric,
    partial: Rubric | None,
    rows: Sequence[tuple[Group, Verdict]],
    all_again: bool,
    other_checks: bool,
) -> Owed:
    """Count and price the calls that would tell the rest.

    A comparison shows the scores of the checks: where these changed it is asked again.
    """
    owed, judge = Owed(), _bound(recipe)
    if judge is None or not new.asked:
        return owed
    for group, verdict in rows:
        drafts = group.drafts if all_again else _never_asked(group, verdict, new)
        requests = judge.expected_requests(group.prompt, drafts, new) if drafts else []
        owed.drafts += len({draft.completion.strip() for draft in drafts})
        if not all_again and partial is not None and getattr(judge, "confirm", "none") == "best_worst":
            two = _unconfirmed(recipe, group, verdict, partial, other_checks)
            if two and not drafts:
                owed.confirmations += 1
                requests = judge.expected_comparisons(group.prompt, two, new, 1)
        _add(owed, requests)
    return owed


def _bound(recipe: Recipe) -> Any:
    """Return the recipe's judge where it asks models, bound to its teachers without opening anything."""
    judge: Any = recipe.judge
    if not hasattr(judge, "expected_requests"):
        return None
    from prefdistill.protocols import RunContext

    judge = judge.model_copy()
    context = RunContext(directory=recipe.directory, seed=recipe.seed, teacher=recipe.teacher)
    judge.ask_these([teacher for teacher, _ in judge.teachers_for(context)])
    return judge


def _never_asked(group: Group, verdict: Verdict, new: Rubric) -> tuple[Draft, ...]:
    """Return drafts that failed a checked gate when they were judged, and pass now."""
    from prefdistill.selection import failed_gates

    by_id: dict[str, Judgement] = {each.draft_id: each for each in verdict.judgements}
    found = []
    for draft in group.drafts:
        judgement = by_id.get(draft.id)
        if judgement is None or draft.finish_reason == "length" or failed_gates(judgement.scores, new):
            continue
        scores = {score.criterion: score for score in judgement.scores}
        asked = [each for each in new.asked if each.applies_to(group.prompt)]
        if any(not scores[each.name].applies for each in asked if each.name in scores):
            found.append(draft)
    return tuple(found)


def _shows_other_checks(old: Rubric, new: Rubric) -> bool:
    before, after = ([(each.name, each.check, each.options, each.applies_if) for each in r.checked] for r in (old, new))
    return before != after


def _unconfirmed(recipe: Recipe, group: Group, verdict: Verdict, rubric: Rubric, anew: bool) -> list[Draft]:
    """Return the two drafts that would become a pair and were not compared so; empty where they were, or need not be."""
    options = recipe.pairing
    ranking = rank_drafts(group.prompt, group.drafts, verdict, rubric, group.round)
    selected = choose_best_worst(group.prompt, group.drafts, ranking, options.tie_margin, options.gate_failures)
    if selected is None or not selected[1].passes:
        return []
    chosen, rejected = ({*each.equal_ids} for each in selected)
    for each in () if anew else verdict.preferences:
        if (each.first_id in chosen and each.second_id in rejected) or (
            each.first_id in rejected and each.second_id in chosen
        ):
            return []
    by_id = {draft.id: draft for draft in group.drafts}
    return [by_id[each.draft_id] for each in selected]


def _add(owed: Owed, requests: Sequence[tuple[Any, Any]]) -> None:
    for teacher, request in requests:
        prompt_tokens = sum(len(each.content) for each in request.messages) / CHARACTERS_A_TOKEN
        answers = max(
            1, len((request.schema or {}).get("properties", {})) if "winner" not in str(request.schema) else 1
        )
        completion_tokens = min(request.max_tokens, REPLY_TOKENS * answers)
        owed.calls += 1
        owed.prompt_tokens += prompt_tokens
        owed.completion_tokens += completion_tokens
        price = _price(teacher)
        if price is None:
            owed.usd = None
            owed.unpriced.add(str(getattr(teacher, "model", None) or type(teacher).__name__))
        elif owed.usd is not None:
            owed.usd += price.usd(prompt_tokens, completion_tokens)


def _price(teacher: Any) -> Price | None:
    given = getattr(teacher, "usd_per_million", None)
    if given and {"input", "output"} <= set(given):
        return Price(input=given["input"], output=given["output"])
    return price_of(str(getattr(teacher, "model", "")))


def render_diff(diff: Diff, limit: int = 10) -> str:
    """Return the comparison as Markdown; at most `limit` pairs of each sort are shown."""
    prompts = len(diff.groups)
    lines = [
        f"# Rubric {_cell(diff.old.name)}: what the edit changes",
        "",
        f"On {prompts} judged prompts of {_code(str(diff.run))}"
        + (
            f", the judge asked anew ({diff.judged.calls} calls, {diff.judged.cached} from the cache, "
            f"{_usd(diff.judged)})."
            if diff.judged
            else "."
        ),
        *(f"\n> {note}" for note in diff.notes),
        "",
        "## The rubric",
        "",
        *_criteria_table(diff),
        "",
        "## Yield",
        "",
        *_yield_table(diff),
        "",
        *_calls(diff),
        "",
        *_pairs(diff, limit),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _usd(usage: Usage) -> str:
    return f"${usage.usd:.4f}" if usage.usd or not usage.calls else "US dollars unknown"


def _criteria_table(diff: Diff) -> list[str]:
    rows = []
    if diff.old.purpose != diff.new.purpose:
        rows.append(("purpose", f"{_cell(diff.old.purpose)} → {_cell(diff.new.purpose)}", "must be asked again"))
    old = {each.name: each for each in diff.old.all_criteria}
    new = {each.name: each for each in diff.new.all_criteria}
    for name in [*new, *(name for name in old if name not in new)]:
        if name not in old:
            rows.append((name, f"added, {_kind(new[name])}", "must be asked" if new[name].asked else "computed"))
        elif name not in new:
            rows.append((name, f"removed, was {_kind(old[name])}", "computed"))
        elif changes := _changes(old[name], new[name]):
            asked = new[name].asked and name in diff.unknown
            rows.append((name, changes, "must be asked" if asked else "computed"))
    if not rows:
        return ["Nothing that changes a verdict: the same criteria, gates, weights and purpose."]
    return ["| | change | new scores |", "|---|---|---|", *(f"| {_cell(a)} | {b} | {c} |" for a, b, c in rows)]


def _kind(criterion: Criterion) -> str:
    what = f"asks {_cell(criterion.question or '')}" if criterion.asked else f"check {_code(criterion.check or '')}"
    return f"gate: {what}" if isinstance(criterion, Gate) else f"weight {criterion.weight:g}: {what}"


def _changes(old: Criterion, new: Criterion) -> str:
    before, after = ({k: v for k, v in each.model_dump(mode="json").items() if v is not None} for each in (old, new))
    parts = (
        ["a gate now" if isinstance(new, Gate) else "no gate any more"]
        if isinstance(old, Gate) != isinstance(new, Gate)
        else []
    )
    for key in [*before, *(key for key in after if key not in before)]:
        if before.get(key) != after.get(key):
            parts.append(f"{key}: {_value(before.get(key))} → {_value(after.get(key))}")
    return "; ".join(parts)


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return _cell(
        value if isinstance(value, str) else render_yaml(value).strip().replace("\n...", "").replace("\n", " ")
    )


def _yield_table(diff: Diff) -> list[str]:
    count = len(diff.groups)
    rows = [("pairs", diff.before.count, diff.after.count)]
    rows += [
        (f"dropped: {r}", diff.before.drops[r], diff.after.drops[r])
        for r in sorted({*diff.before.drops, *diff.after.drops})
    ]
    lines = ["| | before | after |", "|---|---:|---:|", f"| prompts | {count} | {count} |"]
    lines.append(f"| pairs a prompt | {diff.before.count / count:.2f} | {diff.after.count / count:.2f} |")
    lines += [f"| {name} | {a} | {b} |" for name, a, b in rows]
    if diff.judged is not None and diff.failures:
        lines += ["", f"{diff.failures} drafts or comparisons could not be judged; they are in no pair."]
    if diff.unknown:
        named = ", ".join(_code(name) for name in diff.unknown)
        lines += [
            "",
            f"**After is without {named}**: stored verdicts do not answer "
            f"{'it' if len(diff.unknown) == 1 else 'them'}.",
        ]
    return lines


def _calls(diff: Diff) -> list[str]:
    lines = ["## Calls", ""]
    owed = diff.owed
    if diff.judged is not None:
        return [
            *lines,
            f"The judge was asked: {diff.judged.calls} calls, {diff.judged.cached} replies from the cache, "
            f"{_usd(diff.judged)}.",
        ]
    if owed.calls == 0:
        return [*lines, "None: everything is computed from stored verdicts."]
    cost = (
        f"about ${owed.usd:.4f}"
        if owed.usd is not None
        else f"no price for {', '.join(sorted(owed.unpriced))}: add it to your price table (`prefdistill prices`)"
    )
    what = [
        f"{owed.drafts} texts to score" if owed.drafts else "",
        f"{owed.confirmations} pairs to confirm in both orders" if owed.confirmations else "",
    ]
    return [
        *lines,
        f"{owed.calls} calls would tell the rest ({', '.join(part for part in what if part)}): about "
        f"{owed.prompt_tokens:,.0f} prompt and {owed.completion_tokens:,.0f} completion tokens, {cost}. Replies "
        "that are in the "
        "request cache cost nothing. Ask with `--judge`.",
    ]


def _pairs(diff: Diff, limit: int) -> list[str]:
    """List pairs that turned round, changed, appeared and vanished."""
    prompts = {(each.round, each.prompt.id): each.prompt for each in diff.groups}
    flipped: list[_Row] = []
    changed: list[_Row] = []
    appeared: list[_Row] = []
    vanished: list[_Row] = []
    same = 0
    for key in prompts:
        before = {(pair.chosen, pair.rejected): pair for pair in diff.before.pairs.get(key, ())}
        after = {(pair.chosen, pair.rejected): pair for pair in diff.after.pairs.get(key, ())}
        same += len(before.keys() & after.keys())
        gone = [pair for texts, pair in before.items() if texts not in after]
        come = [pair for texts, pair in after.items() if texts not in before]
        turned = [pair for pair in come if (pair.rejected, pair.chosen) in before]
        flipped += [(key, pair, None) for pair in turned]
        come = [pair for pair in come if pair not in turned]
        gone = [pair for pair in gone if (pair.rejected, pair.chosen) not in after]
        both = min(len(come), len(gone))
        changed += [(key, pair, other) for pair, other in zip(come, gone, strict=False)]
        appeared += [(key, pair, None) for pair in come[both:]]
        vanished += [(key, pair, None) for pair in gone[both:]]
    lines = ["## Pairs", "", f"{same} stay as they are."]
    sorts = (
        ("Turned round", "chosen and rejected changed places", flipped),
        ("Other drafts", "the prompt's pair is made from other drafts now", changed),
        ("New", "the prompt had no such pair", appeared),
        ("Gone", "the prompt has no such pair any more", vanished),
    )
    for title, what, rows in sorts:
        lines += ["", f"### {title}: {len(rows)}", "", f"{what[0].upper()}{what[1:]}." if rows else "None."]
        for key, pair, other in rows[:limit]:
            lines += ["", *_pair(prompts[key], key[0], pair, other)]
        if len(rows) > limit:
            lines += ["", f"… and {len(rows) - limit} more."]
    return lines


def _pair(prompt: Prompt, round: int, pair: PreferencePair, before: PreferencePair | None) -> list[str]:
    own = next((tag.removeprefix("id:") for tag in prompt.tags if tag.startswith("id:")), prompt.id)
    lines = [f"**{_cell(own)}**, round {round}, margin {pair.margin:.3f}", ""]
    texts = [("prompt", prompt.text), ("chosen", pair.chosen), ("rejected", pair.rejected)]
    if before is not None:
        texts += [("chosen before", before.chosen), ("rejected before", before.rejected)]
    for name, text in texts:
        lines += [f"{name}:", *_fenced(text), ""]
    return lines[:-1]


def _fenced(text: str) -> list[str]:
    """Return text in a fence that it cannot close, shortened, without control characters."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]", "", text)
    short = text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
    longest = max((len(run) for run in re.findall(r"`+", short)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", short, fence]


def _cell(text: str) -> str:
    """Return text that stays text in a Markdown table or line."""
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", " ", text).split())
    line = line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"
    return re.sub(r"([\\`*_\[\]<>|#~!])", r"\\\1", line)


def _code(text: str) -> str:
    return f"`{' '.join(text.replace('`', '').replace('|', ' ').split())}`"
