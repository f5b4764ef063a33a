"""The sandbox's judge language model asked directly, without the toolkit's judges between: what measuring it needs.

Place in the flow: none at run time; a run uses it through the judge `local`, or through a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from prefdistill.judges.replies import Winner
from prefdistill.records import Prompt
from prefdistill.rubric import Criterion, Rubric
from prefdistill.sandbox import JUDGE_DIRECTORY, STUDENT_DIRECTORY
from prefdistill.sandbox.judge_lessons import Email, render_comparison, render_question, to_prompt
from prefdistill.sandbox.measure_student import load, write_drafts
from prefdistill.sandbox.world import notes

BATCH, BATCH_TOKENS = 64, 8_192
"""Rows written at once, and padded tokens read at once."""
MENU = get_args(Winner)
Turns = list[dict[str, str]]


class JudgeModel:
    """The model and its tokenizer, asked without the toolkit's judges between."""

    def __init__(self, directory: Path = JUDGE_DIRECTORY) -> None:
        self.model, self.tokenizer = load(directory, "none")

    def probabilities(self, asked: Sequence[tuple[Turns, str, Sequence[str]]]) -> list[list[float]]:
        """Return the probability of each answer on its menu, given (conversation, beginning of the reply, menu)."""
        import torch

        first = [[self.tokenizer.encode(answer)[0] for answer in menu] for _, _, menu in asked]
        texts = [
            self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False) + opening
            for turns, opening, _ in asked
        ]
        ids = [self.tokenizer.encode(text) for text in texts]
        found: list[list[float]] = [[] for _ in asked]
        left = sorted(range(len(asked)), key=lambda index: len(ids[index]))
        while left:
            rows = [left.pop() for _ in range(min(len(left), max(1, BATCH_TOKENS // len(ids[left[-1]]))))]
            inputs = self.tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
            with torch.no_grad():
                last = self.model(**inputs, logits_to_keep=1).logits[:, -1]
            for row, logits in zip(rows, last, strict=True):
                found[row] = logits[first[row]].softmax(-1).tolist()
        return found

    def levels(self, asked: Sequence[tuple[Prompt, str]], rubric: Rubric) -> list[dict[str, list[float]]]:
        """Return the probabilities of the levels of every asked criterion for (prompt, e-mail)."""
        found = self.probabilities(
            [
                (render_question(prompt, text, rubric, (each,)), f'{{"{each.name}": {{"level": "', each.levels or ())
                for prompt, text in asked
                for each in rubric.asked
            ]
        )
        names = [each.name for each in rubric.asked]
        rows = [found[start : start + len(names)] for start in range(0, len(found), len(names))]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def winners(
        self, asked: Sequence[tuple[Prompt, Email, Email]], rubric: Rubric, measured: bool = True
    ) -> list[list[float]]:
        """Return the probabilities of first, second and tie for (prompt, first e-mail, second e-mail)."""
        return self.probabilities(
            [(render_comparison(*each, rubric, measured), '{"winner": "', MENU) for each in asked]
        )

    def replies(self, asked: Sequence[Turns]) -> list[str]:
        """Write the likeliest reply to each conversation."""
        import torch

        texts = []
        for start in range(0, len(asked), BATCH):
            rendered = self.tokenizer.apply_chat_template(
                list(asked[start : start + BATCH]), add_generation_prompt=True, tokenize=False
            )
            inputs = self.tokenizer(list(rendered), return_tensors="pt", padding=True)
            inputs.pop("token_type_ids", None)
            with torch.no_grad():
                written = self.model.generate(**inputs, do_sample=False, max_new_tokens=128)
            texts += self.tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return texts


def expected(criterion: Criterion, shares: Sequence[float]) -> float:
    """Return the mean score of a level distribution."""
    return sum(share * criterion.score_of(level) for level, share in zip(criterion.levels or (), shares, strict=True))


def named(menu: Sequence[str], shares: Sequence[float]) -> str:
    """Return the likeliest answer."""
    return menu[max(range(len(menu)), key=lambda index: shares[index])]


def drafts_to_judge(count: int, seed: int) -> list[tuple[Prompt, str]]:
    """Return four drafts of the shipped student on each of `count` notes that no model was trained on."""
    student, tokenizer = load(STUDENT_DIRECTORY, "none")
    rows = [row for row in notes(count, seed + 2000) for _ in range(4)]
    texts = write_drafts(student, tokenizer, [row["prompt"] for row in rows], 1.0, seed + 3)
    return [(to_prompt(row), text) for row, text in zip(rows, texts, strict=True)]
