"""Build the sandbox's judge language model from a seed: tokenizer, chat template and weights, trained on lessons.

Place in the flow: none at run time; the folder it writes is shipped as `judge/`. It answers the asked criteria of
rubrics/sandbox-asked.yaml, one at a time or all at once, and comparisons, each as the JSON that a judge without reasons
is to give. All randomness comes from the seed; other thread counts and machines round differently.
The shipped one took 42 minutes on one thread of two very busy cores; 20 would do on idle ones.

    python -m prefdistill.sandbox.build_judge
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefdistill.rubric import Criterion, Rubric
from prefdistill.sandbox import JUDGE_DIRECTORY, STUDENT_DIRECTORY
from prefdistill.sandbox.judge_lessons import Lesson, judge_rubric, lessons, render_comparison, render_question
from prefdistill.sandbox.tiny_model import END, PAD, build_model, build_optimizer, build_tokenizer, id_of, save
from prefdistill.sandbox.world import notes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

TURNS = (
    "<|system|>", "<|user|>", "<|assistant|>", "<|request|>", "<|draft|>", "<|question|>", "<|compare|>",
)  # fmt: skip
CHAT_TEMPLATE = Path(__file__).with_name("judge_chat.jinja")
"""How the model reads a judge's prompt: the request, the drafts, then what is asked, nothing else."""

NOTES, DRAFTS_A_NOTE = 3_000, 2
"""Notes that the lessons are about, and how many e-mails the student writes on each."""
LESSONS, BATCH, STEPS = 17_600, 16, 1_100
LEARNING_RATE = 2.5e-3
QUESTIONS = 3
"""Criteria asked about a lesson's first e-mail, each alone; rare levels are asked about more often."""
ALL_AT_ONCE = 0.2
"""Share of lessons in which all criteria are asked in one question as well."""
ANSWER, BRACKETS, TEXT = 1.0, 0.1, 0.05
"""Weights in the loss: a level or winner, the JSON around it, the e-mail itself."""


@dataclasses.dataclass(frozen=True)
class Segment:
    """Consecutive tokens of a packed lesson that see themselves and earlier segments of their own conversation."""

    ids: list[int]
    weights: list[float]
    """How much the prediction of each token counts."""
    start: int
    """Position of the first token in the conversation."""
    sees: tuple[int, ...] = ()
    """Numbers of the earlier segments of the same conversation."""


def sample_drafts(rows: Sequence[dict[str, str]], seed: int) -> list[list[str]]:
    """Have the shipped student write e-mails on each note at temperature 1."""
    from prefdistill.sandbox.measure_student import load, write_drafts

    model, tokenizer = load(STUDENT_DIRECTORY, "none")
    prompts = [row["prompt"] for row in rows]
    written = [write_drafts(model, tokenizer, prompts, 1.0, seed + number) for number in range(DRAFTS_A_NOTE)]
    return [list(texts) for texts in zip(*written, strict=True)]


def answer_of(criteria: Sequence[Criterion], lesson: Lesson) -> list[tuple[str, float]]:
    """Return the JSON that gives the lesson's levels, in pieces with their weights in the loss."""
    pieces = []
    for number, each in enumerate(criteria):
        opening = "{" if number == 0 else ", "
        pieces += [(f'{opening}{json.dumps(each.name)}: {{"level": "', BRACKETS), (lesson.levels[each.name], ANSWER)]
        pieces += [('"}}' if number == len(criteria) - 1 else '"}', BRACKETS)]
    return pieces


def encode_answer(
    tokenizer: PreTrainedTokenizerFast, pieces: Sequence[tuple[str, float]]
) -> tuple[list[int], list[float]]:
    """Encode an answer and its end token; a token has the weight of the piece in which it ends."""
    text = "".join(piece for piece, _ in pieces)
    encoded = tokenizer(text, return_offsets_mapping=True)
    weights: list[float] = []
    ends: list[tuple[int, float]] = []
    for piece, weight in pieces:
        ends.append(((ends[-1][0] if ends else 0) + len(piece), weight))
    for _, end in encoded["offset_mapping"]:
        weights.append(next(weight for until, weight in ends if end <= until))
    return [*encoded["input_ids"], id_of(tokenizer, END)], [*weights, BRACKETS]


def to_segments(
    tokenizer: PreTrainedTokenizerFast, lesson: Lesson, questions: Sequence[Sequence[Criterion]], rubric: Rubric
) -> list[Segment]:
    """Pack a lesson: the note and the first e-mail once, then every question about it, the second e-mail, the comparison.

    What a segment sees, at the positions it sees it, is the very text that a judge's prompt renders to.
    """

    def prompt_ids(turns: list[dict[str, str]]) -> list[int]:
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return list(tokenizer.encode(text))

    asked = [prompt_ids(render_question(lesson.prompt, lesson.first.text, rubric, each)) for each in questions]
    compared = prompt_ids(render_comparison(lesson.prompt, lesson.first, lesson.second, rubric, lesson.measured))
    shared = _place(compared, id_of(tokenizer, "<|draft|>"), 2)
    both = _place(compared, id_of(tokenizer, "<|compare|>"), 1)
    if any(ids[:shared] != compared[:shared] for ids in asked):
        raise ValueError("chat template: a question and a comparison do not begin with the same tokens")

    first = Segment(compared[:shared], [TEXT] * shared, 0)
    packed = [first]
    for ids, criteria in zip(asked, questions, strict=True):
        answer, weights = encode_answer(tokenizer, answer_of(criteria, lesson))
        question = ids[shared:]
        packed.append(Segment(question + answer, [0.0] * len(question) + weights, shared, (0,)))
    packed.append(Segment(compared[shared:both], [0.0] * (both - shared), shared, (0,)))
    answer, weights = encode_answer(tokenizer, [('{"winner": "', BRACKETS), (lesson.winner, ANSWER), ('"}', BRACKETS)])
    question = compared[both:]
    packed.append(Segment(question + answer, [0.0] * len(question) + weights, both, (0, len(packed) - 1)))
    return packed


def _place(ids: Sequence[int], token: int, occurrence: int) -> int:
    """Return where a token stands for the n-th time."""
    return [place for place, each in enumerate(ids) if each == token][occurrence - 1]


def questions_for(
    taught: Sequence[Lesson], rubric: Rubric, seed: int
) -> Iterator[tuple[Lesson, list[tuple[Criterion, ...]]]]:
    """Yield each lesson with what is asked about its first e-mail; levels are asked for about equally often."""
    rng = random.Random(f"questions-{seed}")
    counts = Counter((name, level) for lesson in taught for name, level in lesson.levels.items())
    for lesson in taught:
        left, questions = list(rubric.asked), []
        for _ in range(QUESTIONS):
            chosen = rng.choices(left, [1 / counts[each.name, lesson.levels[each.name]] for each in left])[0]
            left.remove(chosen)
            questions.append((chosen,))
        yield lesson, [*questions, *([rubric.asked] if rng.random() < ALL_AT_ONCE else [])]


def to_batch(packed: Sequence[Sequence[Segment]], pad: int) -> dict[str, torch.Tensor]:
    """Return ids, positions, the additive mask and the weight of each prediction, right-padded to the longest lesson."""
    import torch

    longest = max(sum(len(segment.ids) for segment in lesson) for lesson in packed)
    ids = torch.full((len(packed), longest), pad)
    positions = torch.zeros_like(ids)
    weights = torch.zeros(ids.shape)
    sees = torch.eye(longest, dtype=torch.bool).repeat(len(packed), 1, 1)
    for row, lesson in enumerate(packed):
        ends = [0]
        for segment in lesson:
            ends.append(ends[-1] + len(segment.ids))
        spans = [slice(*span) for span in pairwise(ends)]
        for segment, span in zip(lesson, spans, strict=True):
            length = len(segment.ids)
            ids[row, span] = torch.tensor(segment.ids)
            positions[row, span] = torch.arange(segment.start, segment.start + length)
            weights[row, span] = torch.tensor([0.0, *segment.weights[1:]])  # its first token follows another segment
            sees[row, span, span] = torch.ones(length, length, dtype=torch.bool).tril()
            for other in segment.sees:
                sees[row, span, spans[other]] = True
    mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo(torch.float32).min)[:, None]
    return {"ids": ids, "positions": positions, "mask": mask, "weights": weights}


def batches(packed: Sequence[Sequence[Segment]], pad: int, steps: int, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of `BATCH` lessons of similar length."""
    rng = random.Random(f"batches-{seed}")
    queue: list[list[int]] = []
    sizes = [sum(len(segment.ids) for segment in lesson) for lesson in packed]
    for _ in range(steps):
        if not queue:
            order = list(range(len(packed)))
            rng.shuffle(order)
            for start in range(0, len(order), BATCH * 16):
                chunk = sorted(order[start : start + BATCH * 16], key=sizes.__getitem__)
                queue += [chunk[i : i + BATCH] for i in range(0, len(chunk), BATCH)]
            rng.shuffle(queue)
        yield to_batch([packed[index] for index in queue.pop()], pad)


def train(
    model: Any, packed: Sequence[Sequence[Segment]], tokenizer: PreTrainedTokenizerFast, steps: int, seed: int
) -> float:
    """Train the judge in place; return the mean loss of a level or winner over the last fifty steps."""
    import torch

    optimizer, schedule = build_optimizer(model, LEARNING_RATE, steps)
    losses: list[float] = []
    right: list[float] = []
    began = time.perf_counter()
    model.train()
    for step, batch in enumerate(batches(packed, id_of(tokenizer, PAD), steps, seed), start=1):
        hidden = model.model(
            input_ids=batch["ids"], attention_mask=batch["mask"], position_ids=batch["positions"], use_cache=False
        ).last_hidden_state
        row, place = torch.nonzero(batch["weights"], as_tuple=True)
        weights, targets = batch["weights"][row, place], batch["ids"][row, place]
        logits = model.lm_head(hidden[row, place - 1])
        each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        (each * weights).sum().div(weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        answers = weights == ANSWER
        losses.append(each[answers].mean().item())
        right.append((logits[answers].argmax(-1) == targets[answers]).float().mean().item())
        if step % 50 == 0:
            loss_now, right_now = (sum(values[-50:]) / 50 for values in (losses, right))
            seconds = time.perf_counter() - began
            print(
                f"step {step}/{steps}  loss {loss_now:.4f}  answers right {right_now:.3f}  {seconds:.0f} s", flush=True
            )
    last = losses[-50:]
    return sum(last) / len(last)


def tokenizer_texts(taught: Sequence[Lesson], rubric: Rubric) -> Iterator[str]:
    """Yield what the tokenizer is trained on: notes, e-mails, questions and answers."""
    for lesson in taught:
        yield from (lesson.prompt.text, lesson.first.text, lesson.second.text)
        for each in rubric.asked:
            yield f'"{each.name}": {each.question} ' + ", ".join(f'"{level}"' for level in each.levels or ())
        yield '{"level": "", "winner": "first"} {"winner": "second"}, {"winner": "tie"}'
        yield "\n".join(f"{each.name} 1.00 0.00 0.50" for each in rubric.checked)


def build_judge(out: Path, seed: int, steps: int = STEPS, count: int = LESSONS) -> float:
    """Build the judge and write its folder: float16 weights, configs, tokenizer, template; return the final loss."""
    rubric = judge_rubric()
    rows = list(notes(NOTES, seed, part="training"))
    taught = list(lessons(rows, sample_drafts(rows, seed), rubric, count, seed))
    tokenizer = build_tokenizer(
        tokenizer_texts(taught[:6_000], rubric), TURNS, CHAT_TEMPLATE.read_text(encoding="utf-8")
    )
    model = build_model(tokenizer, seed)
    packed = [
        to_segments(tokenizer, lesson, questions, rubric) for lesson, questions in questions_for(taught, rubric, seed)
    ]
    loss = train(model, packed, tokenizer, steps, seed)
    save(model, tokenizer, out)
    return loss


def main(argv: list[str] | None = None) -> None:
    """Build the sandbox's judge language model."""
    parser = argparse.ArgumentParser(prog="python -m prefdistill.sandbox.build_judge", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=JUDGE_DIRECTORY)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--lessons", type=int, default=LESSONS)
    options = parser.parse_args(argv)
    loss = build_judge(options.out, options.seed, options.steps, options.lessons)
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"judge written to {options.out}: final loss {loss:.4f}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
