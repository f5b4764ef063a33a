"""Measure the sandbox's student against its targets, as float and as quantised to 4-bit NF4.

Place in the flow: none at run time; run it after `build_student`. Prints one table and exits 1 if a target is missed.
With a rubric of checks it also prints how that rubric and the held-out judge agree with gold on the student's drafts.

    python -m prefdistill.sandbox.measure_student --rubric rubrics/sandbox-email.yaml
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefdistill.plugins import build_checks
from prefdistill.records import CriterionScore, Draft, Message, Prompt
from prefdistill.rubric import load_rubric
from prefdistill.sandbox import STUDENT_DIRECTORY
from prefdistill.sandbox.gold import gold
from prefdistill.sandbox.plugins import SandboxHeldOut
from prefdistill.sandbox.reading import mentions_fact, read_email
from prefdistill.sandbox.world import FACTS, notes
from prefdistill.sandbox.writer import write_oracle

COPIED = ("recipient", "sender", "topic", "day", "time")
MAX_NEW_TOKENS, BATCH = 112, 200


def load(directory: Path, quantization: str) -> tuple[Any, Any]:
    """Load the student in float32, or quantised to NF4 with its head left alone; return (model, tokenizer)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    options: dict[str, Any] = {"dtype": torch.float32}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.float32,
            llm_int8_skip_modules=["lm_head"],
        )
    model = AutoModelForCausalLM.from_pretrained(directory, **options).eval()
    return model, AutoTokenizer.from_pretrained(directory)


def write_drafts(model: Any, tokenizer: Any, prompts: Sequence[str], temperature: float, seed: int) -> list[str]:
    """Sample one e-mail per prompt; the same seed and batch size give the same texts."""
    import torch

    torch.manual_seed(seed)
    texts: list[str] = []
    for start in range(0, len(prompts), BATCH):
        turns = [[{"role": "user", "content": prompt}] for prompt in prompts[start : start + BATCH]]
        rendered = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(list(rendered), return_tensors="pt", padding=True, padding_side="left")
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            written = model.generate(
                **inputs, do_sample=True, temperature=temperature, top_k=0, top_p=1.0, max_new_tokens=MAX_NEW_TOKENS
            )
        texts += tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def copies(text: str, facts: dict[str, str]) -> dict[str, tuple[bool, bool]]:
    """Tell for every fact whether the e-mail gives one of that kind, and whether it is the right one and no other."""
    reading = read_email(text, facts)
    lines = text.strip().splitlines()
    last = re.split(r"[,-] ", lines[-1])[-1].strip() if lines else ""
    found = {
        "day": (bool(reading.days), bool(reading.days) and set(reading.days) == {facts["day"]}),
        "time": (bool(reading.times), bool(reading.times) and set(reading.times) == {facts["time"]}),
        "recipient": (reading.names_recipient or reading.strangers > 0, mentions_fact(text, facts, "recipient")),
        "sender": (len(last.split()) == 1 and last.isalpha(), mentions_fact(last, facts, "sender")),
    }
    return {**found, "topic": (True, mentions_fact(text, facts, "topic"))}


def measure(directory: Path, quantization: str, seed: int, many: int, rubric: Path | None = None) -> dict[str, float]:
    """Measure one form of the student; shares and scores are 0 to 1."""
    model, tokenizer = load(directory, quantization)
    rows = list(notes(400, seed + 1000))
    texts = write_drafts(model, tokenizer, [row["prompt"] for row in rows], 0.7, seed)
    found = [copies(text, row) for text, row in zip(texts, rows, strict=True)]
    result = {f"copies {name}": statistics.mean(each[name][1] for each in found) for name in COPIED}
    for name in COPIED:
        given = [each[name][1] for each in found if each[name][0]]
        result[f"copies {name} where given"] = statistics.mean(given) if given else 0.0

    best = [gold(write_oracle(row), row) for row in rows]
    result["gold at T=0.7 / oracle"] = statistics.mean(map(gold, texts, rows)) / statistics.mean(best)

    fours = [row for row in rows[:100] for _ in range(4)]
    texts = write_drafts(model, tokenizer, [row["prompt"] for row in fours], 1.0, seed + 1)
    result["gold at T=1.0 / oracle"] = statistics.mean(map(gold, texts, fours)) / statistics.mean(best[:100])
    groups = [texts[start : start + 4] for start in range(0, len(texts), 4)]
    result["distinct drafts"] = sum(len(set(group)) for group in groups) / len(texts)
    result["tokens a draft"] = statistics.mean(len(tokenizer.encode(text)) + 1 for text in texts)
    result["longest draft"] = max(len(tokenizer.encode(text)) + 1 for text in texts)

    if rubric is not None:
        result |= agreement(rubric, fours, texts, list(map(gold, texts, fours)))

    hits = 0
    for row, score in zip(rows[:many], best, strict=False):
        texts = write_drafts(model, tokenizer, [row["prompt"]] * 64, 1.0, seed + 2)
        hits += max(gold(text, row) for text in texts) >= 0.95 * score
    result["prompts with an oracle-kind draft in 64"] = hits / many
    return result


def agreement(
    path: Path, rows: Sequence[dict[str, str]], texts: Sequence[str], scores: Sequence[float]
) -> dict[str, float]:
    """Return Spearman's correlation with gold of a checked rubric's total and of the held-out judge, on drafts."""
    from scipy.stats import spearmanr

    totals, opinions = [], []
    rubric = load_rubric(path)
    checks = build_checks(rubric)
    judge = SandboxHeldOut()
    for row, text in zip(rows, texts, strict=True):
        prompt = Prompt(
            id=row["id"],
            messages=(Message(role="user", content=row["prompt"]),),
            split="test",
            fields={name: row[name] for name in FACTS},
        )
        marks = []
        for name, check in checks.items():
            found = check.check(prompt, text)
            score = None if found is None else found.score
            marks.append(CriterionScore(criterion=name, applies=score is not None, score=score, path="checked"))
        total, failed = rubric.total(marks)
        totals.append(0.0 if failed else total)
        draft = Draft(
            id="x", prompt_id=prompt.id, source="file:x", policy=None, round=0, purpose="test", index=0, completion=text
        )
        opinions.append(judge.judge(prompt, [draft], rubric).judgements[0].value)
    return {
        "Spearman of rubric and gold": float(spearmanr(totals, scores).statistic),
        "Spearman of held-out judge and gold": float(spearmanr(opinions, scores).statistic),
        "mean rubric score": statistics.mean(totals),
    }


def missed(result: dict[str, float]) -> list[str]:
    """Name the targets that a measurement misses."""
    ranges = {f"copies {name}": (0.85, 1.0) for name in COPIED} | {
        "gold at T=0.7 / oracle": (0.35, 0.60),
        "gold at T=1.0 / oracle": (0.35, 0.60),
        "distinct drafts": (0.95, 1.0),
        "prompts with an oracle-kind draft in 64": (0.6, 1.0),
    }
    if "Spearman of rubric and gold" in result:
        ranges["Spearman of rubric and gold"] = (0.4, 0.8)
    return [name for name, (low, high) in ranges.items() if not low <= result[name] <= high]


def main(argv: list[str] | None = None) -> None:
    """Measure the student and print a table."""
    parser = argparse.ArgumentParser(prog="python -m prefdistill.sandbox.measure_student", description=main.__doc__)
    parser.add_argument("--student", type=Path, default=STUDENT_DIRECTORY)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rubric", type=Path, help="a rubric of checks, to compare with gold")
    parser.add_argument("--many", type=int, default=30, help="prompts with 64 drafts each")
    options = parser.parse_args(argv)
    results = {
        form: measure(options.student, form, options.seed, options.many, options.rubric) for form in ("none", "nf4")
    }
    print(f"{'':42}{'float':>8}{'nf4':>8}")
    for name in results["none"]:
        print(f"{name:42}{results['none'][name]:8.3f}{results['nf4'][name]:8.3f}")
    problems = [f"{form}: {name}" for form, result in results.items() for name in missed(result)]
    print("all targets met" if not problems else "missed: " + "; ".join(problems))
    if problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
