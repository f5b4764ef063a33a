"""Tokens that judging one prompt's four drafts takes: score and confirm, against comparing all pairs in both orders.

    python tests/benchmarks/tokens.py

The same 24 prompts of 300 tokens with four drafts of 300, a rubric of 400 tokens and verdicts of about 60, through the
judge stage, the judges and the request layer, against a server on this machine that reports as `usage` a token for four
characters. The default flow scores each draft and confirms the best against the worst in both orders; the other
compares every two drafts in both orders (`pairwise`, round robin). Pairs are made by the product's own rules, so that
tokens a kept pair stand beside tokens a prompt. Target: the default takes at most half of the other's tokens.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from prefdistill.judges.pairwise import PairwiseJudge
from prefdistill.judges.rubric import RubricJudge
from prefdistill.protocols import RunContext
from prefdistill.records import Draft, Message, PreferencePair, Prompt, Usage
from prefdistill.requests.layer import RequestLayer
from prefdistill.rubric import Criterion, Rubric, RubricSet
from prefdistill.selection import PairOptions
from prefdistill.stages.judge import judge_prompts
from prefdistill.stages.pair import pair_prompts
from prefdistill.stages.rank import rank_prompts
from prefdistill.teachers.openai import OpenAITeacher
from tests.loopback import Loopback, Served, fenced, menus

PROMPTS, DRAFTS, TOKENS, RUBRIC_TOKENS, VERDICT_TOKENS, TARGET = 24, 4, 300, 400, 60, 0.5
CHARACTERS_A_TOKEN = 4
LEVELS = ("no", "hardly", "partly", "mostly", "yes")
WORDS = (
    "the site visit moves to Friday at noon please bring drawings because the crane inspection overran today".split()
)


def text_of(chance: random.Random, tokens: int) -> str:
    """Words that fill so many tokens of four characters."""
    text = ""
    while len(text) < tokens * CHARACTERS_A_TOKEN:
        text += chance.choice(WORDS) + " "
    return text[: tokens * CHARACTERS_A_TOKEN]


def groups() -> list[tuple[Prompt, list[Draft]]]:
    """Prompts with drafts of equal length and different quality: the share of the word `Friday` in them."""
    chance = random.Random(11)
    found = []
    for number in range(PROMPTS):
        message = Message(role="user", content=text_of(chance, TOKENS))
        prompt = Prompt(id=f"p{number:03d}", messages=(message,), split="train")
        drafts = []
        for index in range(DRAFTS):
            text = " ".join(["Friday"] * chance.randrange(1, 40)) + " " + text_of(chance, TOKENS)
            drafts.append(
                Draft(
                    id=Draft.make_id(prompt.id, "file:x", 1, "train", index),
                    prompt_id=prompt.id,
                    source="file:x",
                    policy=None,
                    round=1,
                    purpose="train",
                    index=index,
                    completion=text[: TOKENS * CHARACTERS_A_TOKEN],
                    finish_reason="stop",
                )
            )
        found.append((prompt, drafts))
    return found


def make_rubric() -> Rubric:
    """A rubric of 400 tokens with two asked criteria, so that a verdict with brief reasons is about 60 tokens."""
    length = RUBRIC_TOKENS * CHARACTERS_A_TOKEN // 2
    chance = random.Random(5)
    criteria = tuple(
        Criterion(name=name, question=text_of(chance, length // CHARACTERS_A_TOKEN - 25).strip() + "?", levels=LEVELS)
        for name in ("request", "tone")
    )
    return Rubric(name="bench", criteria=criteria)


def quality(text: str) -> float:
    """The rule that the server judges by."""
    return min(1.0, text.count("Friday") / 40)


def answer(body: dict[str, Any]) -> Served:
    """Judge by the rule, in a verdict of about 60 tokens, and count four characters as a token."""
    reason = "x" * CHARACTERS_A_TOKEN * VERDICT_TOKENS
    if (draft := fenced(body, "draft")) is not None:
        names = menus(body)
        room = (VERDICT_TOKENS * CHARACTERS_A_TOKEN - 50 * len(names)) // len(names)
        verdict: dict[str, Any] = {
            name: {"reason": reason[:room], "level": menu[round(quality(draft) * (len(menu) - 1))]}
            for name, menu in names.items()
        }
    else:
        first, second = (quality(fenced(body, kind) or "") for kind in ("first", "second"))
        winner = "tie" if first == second else "first" if first > second else "second"
        verdict = {"reason": reason[: VERDICT_TOKENS * CHARACTERS_A_TOKEN - 40], "winner": winner}
    text = json.dumps(verdict)
    asked = sum(len(message["content"]) for message in body["messages"])
    return Served(
        text, prompt_tokens=-(-asked // CHARACTERS_A_TOKEN), completion_tokens=-(-len(text) // CHARACTERS_A_TOKEN)
    )


def measure_judge(judge: Any, folder: Path) -> tuple[Usage, int]:
    """Return what judging all prompts took, and how many pairs came of it."""
    layer = RequestLayer(cache=folder)
    judge.open(RunContext(directory=folder, seed=0, requests=layer))
    rubrics, found = RubricSet(rubrics={"": make_rubric()}), groups()
    verdicts = list(judge_prompts(judge, iter(found), rubrics))
    judge.close()
    layer.close()
    assert not any(verdict.failures for verdict in verdicts), verdicts[0].failures
    prompts, drafts = [prompt for prompt, _ in found], [draft for _, several in found for draft in several]
    rankings = list(rank_prompts(prompts, drafts, verdicts, rubrics, 1))
    rows = pair_prompts(prompts, drafts, verdicts, rankings, PairOptions(), 1)
    return sum((verdict.usage for verdict in verdicts), Usage()), sum(isinstance(row, PreferencePair) for row in rows)


def measure() -> dict[str, float]:
    """Return calls and tokens a prompt and a kept pair for both ways, and their ratio."""
    figures: dict[str, float] = {}
    with Loopback(answer) as server, tempfile.TemporaryDirectory() as folder:
        for name, kind in (("score and confirm", RubricJudge), ("all pairs", PairwiseJudge)):
            teacher = OpenAITeacher(model="rule", base_url=server.url, concurrency=8)
            usage, pairs = measure_judge(kind(teacher=teacher), Path(folder) / kind.__name__)
            tokens = usage.prompt_tokens + usage.completion_tokens
            figures |= {
                f"{name}: calls a prompt": usage.calls / PROMPTS,
                f"{name}: tokens a prompt": tokens / PROMPTS,
                f"{name}: pairs kept": pairs,
                f"{name}: tokens a kept pair": tokens / max(1, pairs),
                f"{name}: completion tokens a call": usage.completion_tokens / usage.calls,
            }
        prompt = server.served[0]["messages"]
        figures["tokens of the first prompt sent"] = sum(len(each["content"]) for each in prompt) / CHARACTERS_A_TOKEN
    figures["ratio of tokens a prompt"] = (
        figures["score and confirm: tokens a prompt"] / figures["all pairs: tokens a prompt"]
    )
    return figures


if __name__ == "__main__":
    for key, value in measure().items():
        print(f"{key:40} {value:9.3f}")
    print(f"target: ratio at most {TARGET}")
