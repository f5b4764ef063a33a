"""The comparison as Markdown."""

from __future__ import annotations

from typing import Any

from prefdistill.documents import render_yaml
from prefdistill.records import PreferencePair, Prompt, Usage
from prefdistill.rubric import Criterion, Gate
from prefdistill.rubric_diff.comparing import Diff
from prefdistill.rubric_diff.markdown import cell, code, fenced

_Row = tuple[tuple[int, str], PreferencePair, PreferencePair | None]


def render_diff(diff: Diff, limit: int = 10) -> str:
    """Return the comparison as Markdown; at most `limit` pairs of each sort are shown."""
    prompts = len(diff.groups)
    lines = [
        f"# Rubric {cell(diff.old.name)}: what the edit changes",
        "",
        f"On {prompts} judged prompts of {code(str(diff.run))}"
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
        rows.append(("purpose", f"{cell(diff.old.purpose)} → {cell(diff.new.purpose)}", "must be asked again"))
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
    return ["| | change | new scores |", "|---|---|---|", *(f"| {cell(a)} | {b} | {c} |" for a, b, c in rows)]


def _kind(criterion: Criterion) -> str:
    what = f"asks {cell(criterion.question or '')}" if criterion.asked else f"check {code(criterion.check or '')}"
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
    return cell(value if isinstance(value, str) else render_yaml(value).strip().replace("\n...", "").replace("\n", " "))


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
        named = ", ".join(code(name) for name in diff.unknown)
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
    if owed.calls == 0 and owed.groups:
        return [*lines, "None: what has to be asked is in the request cache. Read it from there with `--judge`."]
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
    more = (
        f" What it answers may lead to up to {owed.further} further calls, to compare drafts." if owed.further else ""
    )
    return [
        *lines,
        f"{owed.calls} calls would tell the rest ({', '.join(part for part in what if part)}): about "
        f"{owed.prompt_tokens:,.0f} prompt and {owed.completion_tokens:,.0f} completion tokens, {cost}.{more} Replies "
        "that are in the request cache are not counted. Ask with `--judge`.",
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
    lines = [f"**{cell(own)}**, round {round}, margin {pair.margin:.3f}", ""]
    texts = [("prompt", prompt.text), ("chosen", pair.chosen), ("rejected", pair.rejected)]
    if before is not None:
        texts += [("chosen before", before.chosen), ("rejected before", before.rejected)]
    for name, text in texts:
        lines += [f"{name}:", *fenced(text), ""]
    return lines[:-1]
