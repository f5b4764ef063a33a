"""Which drafts the report shows, picked by rule and not by hand, and how their texts are made safe to show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from prefdistill.metrics.scores import DraftScore
from prefdistill.records import Comparison, Draft, Prompt, digest
from prefdistill.rubric import RubricSet
from prefdistill.stages.report.data import Example, ExampleDraft

LONGEST_SHOWN = 12_000
"""Characters of one text; the rest is counted, not shown."""
MOST_WORDS_COMPARED = 800

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_UNSEEN = re.compile("[\x80-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def pick_examples(
    prompts: Iterable[Prompt],
    comparisons: Iterable[Comparison],
    drafts: Iterable[Draft],
    scores: Mapping[str, DraftScore],
    rubrics: RubricSet,
    rubric_scores: Mapping[str, DraftScore] | None = None,
    count: int = 6,
) -> tuple[Example, ...]:
    """Return up to `count` prompts, each for a stated reason: gains, losses, the middle, ties, failed gates, chance.

    Args:
        prompts: the compared prompts.
        comparisons: the kept policy against the base.
        drafts: those of policy, base and teacher together.
        scores: by the evaluation judge.
        rubrics: for the kind of each prompt.
        rubric_scores: by the training judge, for criteria and gates; `scores` where it is None.
        count: how many.

    The choice depends on the records alone, never on their order.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    texts = {draft.id: draft for draft in drafts}
    teacher = {
        draft.prompt_id: draft
        for draft in sorted(texts.values(), key=lambda each: -each.index)
        if draft.source == "teacher"
    }
    rows = [
        row for row in comparisons if {row.draft_id, row.baseline_draft_id} <= texts.keys() and row.prompt_id in by_id
    ]

    def shown(draft: Draft) -> ExampleDraft:
        score = scores.get(draft.id)
        detail = score if rubric_scores is None else rubric_scores.get(draft.id)
        return ExampleDraft(
            completion=draft.completion,
            score=score.gated_score if score else None,
            rubric_score=detail.gated_score if detail and rubric_scores is not None else None,
            gates=detail.gates if detail else (),
            criteria=detail.criteria if detail else (),
        )

    examples = []
    for row, why in _pick(rows, scores if rubric_scores is None else rubric_scores, count):
        prompt, best = by_id[row.prompt_id], teacher.get(row.prompt_id)
        examples.append(
            Example(
                why=why,
                prompt=prompt,
                kind=rubrics.kind(prompt),
                outcome=row.outcome,
                base=shown(texts[row.baseline_draft_id]),
                policy=shown(texts[row.draft_id]),
                teacher=shown(best) if best else None,
            )
        )
    return tuple(examples)


def _pick(rows: Sequence[Comparison], scores: Mapping[str, DraftScore], count: int) -> Iterable[tuple[Comparison, str]]:
    """Yield different rows with the reason for each; one that no rule wants is drawn by its prompt's hash."""
    known = sorted((row for row in rows if _gain(row) is not None), key=lambda row: (_gain(row) or 0.0, row.prompt_id))
    by_chance = sorted(rows, key=lambda row: digest(row.prompt_id))
    gated = [row for row in by_chance if row.draft_id in scores and scores[row.draft_id].gates]
    middle = sorted(range(len(known)), key=lambda index: abs(index - (len(known) - 1) / 2))
    rules: list[tuple[str, Sequence[Comparison]]] = [
        ("Largest gain", known[::-1]),
        ("Median change", [known[index] for index in middle]),
        ("Largest loss" if known and (_gain(known[0]) or 0.0) < 0 else "Smallest gain", known),
        ("A tie, drawn by hash", [row for row in by_chance if row.outcome == "tie"]),
        ("Failed a gate, drawn by hash", gated),
        ("Not judged, drawn by hash", [row for row in by_chance if row.outcome == "unknown"]),
        *[("Drawn by hash", by_chance)] * count,
    ]
    taken: set[str] = set()
    for why, candidates in rules:
        row = next((row for row in candidates if row.prompt_id not in taken), None)
        if row is not None and len(taken) < count:
            taken.add(row.prompt_id)
            yield row, why


def _gain(row: Comparison) -> float | None:
    if row.outcome == "unknown" or row.score is None or row.baseline_score is None:
        return None
    return row.score - row.baseline_score


@dataclass(frozen=True)
class Piece:
    """A stretch of text."""

    text: str
    changed: bool


def visible(text: str, limit: int | None = None) -> str:
    """Return `text` with what a browser would hide or obey (control, direction and invalid characters) spelled out."""
    cut = "" if limit is None or len(text) <= limit else f"… ({len(text) - limit:,} more characters)"
    shown = text[:limit].replace("\r\n", "\n")
    shown = _CONTROL.sub(lambda match: chr(0x2421 if match[0] == "\x7f" else 0x2400 + ord(match[0])), shown)
    return _UNSEEN.sub(lambda match: f"[U+{ord(match[0]):04X}]", shown) + cut


def mark_differences(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Return both texts in pieces, those whose words the other lacks marked; unmarked where one is very long."""
    old, new = re.findall(r"\s+|\w+|[^\w\s]", before), re.findall(r"\s+|\w+|[^\w\s]", after)
    if max(len(old), len(new)) > 2 * MOST_WORDS_COMPARED:
        return [Piece(before, False)], [Piece(after, False)]
    old_marks, new_marks = [True] * len(old), [True] * len(new)
    for block in SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks():
        words = sum(token[0].isalnum() for token in old[block.a : block.a + block.size])
        at_start = block.a == block.b == 0
        at_end = block.a + block.size == len(old) and block.b + block.size == len(new)
        if words >= 2 or at_start or at_end:
            old_marks[block.a : block.a + block.size] = [False] * block.size
            new_marks[block.b : block.b + block.size] = [False] * block.size
    return _pieces(old, old_marks), _pieces(new, new_marks)


def _pieces(tokens: Sequence[str], marks: Sequence[bool]) -> list[Piece]:
    """Join neighbours with one mark; white space at the end of a marked stretch is not marked."""
    pieces: list[Piece] = []
    for position, (token, mark) in enumerate(zip(tokens, marks, strict=True)):
        inside = 0 < position < len(tokens) - 1 and marks[position - 1] and marks[position + 1]
        changed = mark and (inside or not token.isspace())
        if pieces and pieces[-1].changed == changed:
            pieces[-1] = Piece(pieces[-1].text + token, changed)
        else:
            pieces.append(Piece(token, changed))
    return pieces
