"""Measure the sandbox's three writing models side by side: size, gold, and how well each expects the house style.

Place in the flow: none at run time; run it after `build_student`. Prints one table and exits 1 if a target is missed.
What logits can teach is in two of its lines: the teacher expects house-style texts better than the student does, for
whom they are one kind of author's among three (cross-entropy), and it is not certain of the next token where the house
has several ways to say a thing (entropy).

    python -m prefdistill.sandbox.measure_writers
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefdistill.sandbox import STUDENT_B_DIRECTORY, STUDENT_DIRECTORY, TEACHER_DIRECTORY
from prefdistill.sandbox.build_student import encode
from prefdistill.sandbox.gold import gold
from prefdistill.sandbox.measure_student import load, write_drafts
from prefdistill.sandbox.world import notes
from prefdistill.sandbox.writer import write_house, write_oracle

BATCH = 100
TARGETS = {
    "student": {"gold float": (0.35, 0.55), "gold nf4": (0.35, 0.55), "weights, MB": (0.0, 6.0)},
    "teacher": {
        "gold float": (0.85, 1.0),
        "gold nf4": (0.85, 1.0),
        "weights, MB": (0.0, 12.0),
        "entropy, nats a token": (0.05, 0.5),
    },
    "student_b": {"gold float": (0.38, 0.50), "gold nf4": (0.36, 0.52), "weights, MB": (0.0, 3.0)},
}
"""Where each figure must lie; gold is at temperature 0.7."""
LEAD = 1.0
"""By how many nats an e-mail the teacher must expect house-style texts better than the student does."""


def house_texts(count: int, seed: int) -> list[tuple[str, str]]:
    """Return notes of a run, each with an e-mail by an author of the house: (note, e-mail)."""
    rng = random.Random(f"house-{seed}")
    return [(row["prompt"], write_house(row, rng)) for row in notes(count, seed + 1000)]


def expectations(model: Any, tokenizer: Any, texts: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Return what a model expects of e-mails: mean cross-entropy and entropy, in nats a token and nats an e-mail.

    Only the e-mail's tokens count, the end token among them. Nats a token compare models of one tokenizer only.
    """
    import torch

    surprise, uncertainty, tokens = 0.0, 0.0, 0
    for ids, counted in _padded(encode(tokenizer, list(texts)), tokenizer.pad_token_id):
        with torch.inference_mode():
            log_probs = model(input_ids=ids).logits[:, :-1].float().log_softmax(-1)[counted]
        surprise -= float(log_probs.gather(-1, ids[:, 1:][counted][:, None]).sum())
        uncertainty -= float((log_probs.exp() * log_probs).sum())
        tokens += int(counted.sum())
    return {
        "cross-entropy, nats a token": surprise / tokens,
        "cross-entropy, nats an e-mail": surprise / len(texts),
        "entropy, nats a token": uncertainty / tokens,
    }


def _padded(encoded: Sequence[tuple[list[int], int]], pad: int) -> Iterator[tuple[Any, Any]]:
    """Yield ids, padded on the right, and which of the next tokens belong to the e-mail."""
    import torch

    for start in range(0, len(encoded), BATCH):
        rows = encoded[start : start + BATCH]
        longest = max(len(ids) for ids, _ in rows)
        place = torch.arange(1, longest)
        ends = torch.tensor([len(ids) for ids, _ in rows])[:, None]
        heads = torch.tensor([head for _, head in rows])[:, None]
        yield torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]), (place >= heads) & (place < ends)


def gold_at(model: Any, tokenizer: Any, count: int, seed: int, temperature: float = 0.7) -> float:
    """Return the mean gold of one draft on each of `count` notes of a run."""
    rows = list(notes(count, seed + 1000))
    texts = write_drafts(model, tokenizer, [row["prompt"] for row in rows], temperature, seed)
    return statistics.mean(map(gold, texts, rows))


def measure(directory: Path, seed: int, count: int, quantized: bool = True) -> dict[str, float]:
    """Measure one model on `count` notes of a run; sizes are in millions of bytes and of weights."""
    model, tokenizer = load(directory, "none")
    result = {
        "weights, MB": (directory / "model.safetensors").stat().st_size / 1e6,
        "folder, MB": sum(file.stat().st_size for file in directory.iterdir() if file.is_file()) / 1e6,
        "million weights": sum(weight.numel() for weight in model.parameters()) / 1e6,
        "gold float": gold_at(model, tokenizer, count, seed),
        "gold at T=1, float": gold_at(model, tokenizer, count, seed, 1.0),
        **expectations(model, tokenizer, house_texts(count, seed)),
    }
    if quantized:
        result["gold nf4"] = gold_at(*load(directory, "nf4"), count, seed)
    return result


def missed(results: dict[str, dict[str, float]]) -> list[str]:
    """Name the targets that the measurements miss."""
    problems = [
        f"{model}: {name}"
        for model, result in results.items()
        for name, (low, high) in TARGETS[model].items()
        if name in result and not low <= result[name] <= high
    ]
    ours, theirs = (results[model]["cross-entropy, nats an e-mail"] for model in ("teacher", "student"))
    return problems if theirs - ours >= LEAD else [*problems, f"teacher: cross-entropy not {LEAD:g} nats lower"]


def main(argv: list[str] | None = None) -> None:
    """Measure the sandbox's writing models and print a table."""
    parser = argparse.ArgumentParser(prog="python -m prefdistill.sandbox.measure_writers", description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--notes", type=int, default=150)
    parser.add_argument("--student", type=Path, default=STUDENT_DIRECTORY)
    parser.add_argument("--teacher", type=Path, default=TEACHER_DIRECTORY)
    parser.add_argument("--student-b", type=Path, default=STUDENT_B_DIRECTORY)
    options = parser.parse_args(argv)
    folders = {"student": options.student, "teacher": options.teacher, "student_b": options.student_b}
    results = {name: measure(folder, options.seed, options.notes) for name, folder in folders.items()}
    print(f"{'':32}" + "".join(f"{name:>12}" for name in results))
    for name in results["student"]:
        print(f"{name:32}" + "".join(f"{result[name]:12.3f}" for result in results.values()))
    rows = list(notes(options.notes, options.seed + 1000))
    print(f"{'gold of the oracle writer':32}{statistics.mean(gold(write_oracle(row), row) for row in rows):12.3f}")
    problems = missed(results)
    print("all targets met" if not problems else "missed: " + "; ".join(problems))
    if problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
