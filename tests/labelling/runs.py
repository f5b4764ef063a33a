"""A run folder for tests: prompts, judged drafts, pairs, and base against policy, without a model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prefdistill.records import (
    Comparison,
    Draft,
    Judgement,
    Message,
    Policy,
    Preference,
    PreferencePair,
    Prompt,
    RankedDraft,
    Ranking,
    Row,
    Split,
    Verdict,
)

SECRETS = (
    "student",
    "base",
    "teacher",
    "file:",
    "0.73",
    "margin",
    "chosen",
    "rejected",
    "score",
    "confirmed",
    "near_tie",
)
"""Words that would tell where a text comes from, or what the judge thought of it; none is in a text below."""
RUBRIC = """
name: tone
criteria:
  - {name: clear, question: "Does {day} come first?", levels: ["no", partly, "yes"]}
  - {name: kind, question: "Is it kind?", levels: ["no", "yes"]}
  - {name: length, check: length, unit: words, between: [1, 90]}
"""


def write(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")


def draft(prompt: Prompt, text: str, index: int, source: str, purpose: Split) -> Draft:
    number = 1 if source == "student" else 0
    return Draft(
        id=Draft.make_id(prompt.id, source, number, purpose, index),
        prompt_id=prompt.id,
        source=source,
        policy=Policy(model="m", adapter="round-01/5-policy" if number else None, round=number),
        round=number,
        purpose=purpose,
        index=index,
        completion=text,
        finish_reason="stop",
        tokens=3,
        seed=1,
    )


def make_run(folder: Path, prompts: int = 24, texts: tuple[str, str] | None = None, ask: str | None = None) -> Path:
    """Write a run of one round: of every prompt four drafts, scored 0.9, 0.73, 0.7 and 0.2, the outer two a pair.

    Every third prompt's judge changed its mind with the order. `texts` are those of the outer two, `ask` the prompt.
    """
    rows = [
        Prompt(
            id=f"p{number:02d}",
            messages=(Message(role="user", content=ask or f"Write note {number} for <b>Ada</b> & Ben."),),
            split="train" if number % 3 else "test",
            fields={"day": "Friday"} if number % 2 else {},
        )
        for number in range(prompts)
    ]
    write(folder / "prompts.jsonl", rows)
    (folder / "recipe.yaml").write_text("rubric: rubric.yaml\n")
    (folder / "rubric.yaml").write_text(RUBRIC)
    _write_round(folder / "round-01", [row for row in rows if row.split == "train"], texts)
    tested = [row for row in rows if row.split == "test"]
    ours = [draft(row, f"Ours {row.id}", 0, "student", "test") for row in tested]
    base = [draft(row, f"Theirs {row.id}", 0, "base", "test") for row in tested]
    write(folder / "test/round-01/drafts.jsonl", ours)
    write(folder / "baselines/base-test-drafts.jsonl", base)
    write(
        folder / "test/round-01/comparisons.jsonl",
        [
            Comparison(prompt_id=a.prompt_id, draft_id=a.id, baseline="base", baseline_draft_id=b.id, outcome="win")
            for a, b in zip(ours, base, strict=True)
        ],
    )
    return folder


def _write_round(folder: Path, prompts: list[Prompt], texts: tuple[str, str] | None) -> None:
    drafts, verdicts, rankings, pairs = [], [], [], []
    for number, prompt in enumerate(prompts):
        best, worst = texts or (f"Dear Ada, <i>one</i> {prompt.id}", f"Hey, one {prompt.id}")
        four = [
            draft(prompt, text, index, "student", "train")
            for index, text in enumerate((best, f"two {prompt.id}", f"three {prompt.id}", worst))
        ]
        scores = (0.9, 0.73, 0.7, 0.2)
        split_mind = number % 3 == 0
        verdicts.append(
            Verdict(
                prompt_id=prompt.id,
                judgements=tuple(
                    Judgement(draft_id=each.id, judge="t", value=score, scale="custom")
                    for each, score in zip(four, scores, strict=True)
                ),
                preferences=tuple(
                    Preference(first_id=a.id, second_id=b.id, probability=p, judge="t")
                    for a, b, p in ((four[0], four[3], 1.0), (four[3], four[0], 1.0 if split_mind else 0.0))
                ),
            )
        )
        entries = tuple(
            RankedDraft(draft_id=each.id, rank=rank, score=score, scale="custom")
            for rank, (each, score) in enumerate(zip(four, scores, strict=True), start=1)
        )
        rankings.append(Ranking(prompt_id=prompt.id, round=1, entries=entries))
        drafts += four
        if not split_mind:
            pairs.append(
                PreferencePair(
                    id=f"{prompt.id}/round-01/x",
                    prompt_id=prompt.id,
                    round=1,
                    prompt=prompt.messages,
                    chosen=best,
                    rejected=worst,
                    chosen_id=four[0].id,
                    rejected_id=four[3].id,
                    chosen_score=0.9,
                    rejected_score=0.2,
                    margin=0.7,
                    scale="custom",
                )
            )
    write(folder / "1-drafts.jsonl", drafts)
    write(folder / "2-verdicts.jsonl", verdicts)
    write(folder / "3-rankings.jsonl", rankings)
    write(folder / "4-pairs.jsonl", pairs)
