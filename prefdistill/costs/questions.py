"""What judges and writers would ask of paid models: on a sample of the prompts, about drafts that do not exist yet.

Nothing is opened or sent. A judge is asked what it would ask (`expected_requests`), and what that costs is reckoned from
characters, or from what replies that were paid for have shown.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefdistill.costs.measured import Kind, Measured
from prefdistill.costs.steps import Step
from prefdistill.plugins import name_of
from prefdistill.protocols import RunContext, TeacherRequest
from prefdistill.recipe import Recipe
from prefdistill.records import Draft, Message, Prompt, digest
from prefdistill.requests.prices import Price, price_of
from prefdistill.stages.load import Loaded, load_drafts
from prefdistill.traces import Reasoning

CHARACTERS_A_TOKEN = 4
SAMPLED_PROMPTS = 64
"""Prompts whose requests are rendered; the rest are taken to be like them."""
REASON_TOKENS = {"none": 0, "brief": 25, "full": 150}
"""Expected tokens of one reason."""
TOKENS_A_WORD = 1.5
"""Of reasoning that is asked for in words."""
SECONDS_A_REPLY = 0.7
"""Until its first token."""
TOKENS_A_SECOND = 60.0
"""How fast one reply is written."""
KINDS: tuple[Kind, Kind] = ("score", "compare")


@dataclass(frozen=True)
class Line:
    """What one step is expected to ask of one model."""

    stage: str
    what: str
    model: str
    price: Price | None
    calls: float = 0.0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    most_completion_tokens: float = 0.0
    """Where every reply is as long as its token limit allows."""
    seconds: float = 0.0

    @property
    def usd(self) -> float | None:
        """Expected US dollars; None where the model has no price."""
        return None if self.price is None else self.price.usd(self.prompt_tokens, self.completion_tokens)

    @property
    def most_usd(self) -> float | None:
        """US dollars if every reply filled its token limit."""
        return None if self.price is None else self.price.usd(self.prompt_tokens, self.most_completion_tokens)

    def scaled(self, calls: float = 1.0, prompt: float = 1.0, completion: float = 1.0, seconds: float = 1.0) -> Line:
        """Return the line with its figures multiplied."""
        return replace(
            self,
            calls=self.calls * calls,
            prompt_tokens=self.prompt_tokens * calls * prompt,
            completion_tokens=self.completion_tokens * calls * completion,
            most_completion_tokens=self.most_completion_tokens * calls,
            seconds=self.seconds * calls * seconds,
        )

    def __add__(self, other: Line) -> Line:
        names = ("calls", "prompt_tokens", "completion_tokens", "most_completion_tokens", "seconds")
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True)
class _Mean:
    """What one prompt of a kind is expected to take of one asked model."""

    plugin: Any
    calls: float
    prompt_tokens: float
    completion_tokens: float
    most_completion_tokens: float
    scores: float
    """How many of the calls score a draft; the others compare two."""


class Asker:
    """Has judges and writers say what they would ask, on a sample of the prompts, each distinct question once."""

    def __init__(self, recipe: Recipe, prompts: Loaded, measured: Measured) -> None:
        self.recipe = recipe
        self.prompts = prompts
        self.measured = measured
        self.draft_tokens = measured.draft_tokens or float(recipe.sample.max_new_tokens)
        self.notes: list[str] = []
        self._means: dict[tuple[Any, ...], list[_Mean]] = {}
        self._given: Mapping[str, Sequence[Draft]] | None = None

    def lines(self, step: Step) -> list[Line]:
        """Return what a step asks of each model."""
        means = self._of_writer(step) if step.judge is None else self._of_judge(step)
        count = len(step.prompts)
        found = []
        for mean in means:
            model = str(mean.plugin.model)
            line = Line(
                step.stage,
                step.what,
                model,
                price_for(mean.plugin),
                mean.calls * count,
                mean.prompt_tokens * count,
                mean.completion_tokens * count,
                mean.most_completion_tokens * count,
            )
            if step.judge is not None:
                line = self._as_measured(line, step, mean)
            found.append(replace(line, seconds=_seconds(line, mean.plugin, step.judge)))
        return found

    def _of_writer(self, step: Step) -> list[_Mean]:
        """Return what writing a prompt's drafts asks of a paid teacher or sampler; nothing of one that is free."""
        if not is_paid(step.writer):
            return []
        longest = float(self.recipe.sample.max_new_tokens)
        expected = self.measured.teacher_tokens if step.source == "teacher" else self.measured.draft_tokens
        if step.reasoning is not None:
            expected = self.measured.reasoned_tokens or (expected or longest) + _thinking(step.reasoning)
            longest += step.reasoning.room
        system = getattr(step.writer, "system_text", lambda: None)() if step.source == "teacher" else None
        sampled = self._sample(step)
        characters = [
            sum(len(each.content) for each in _as_written(prompt.messages, system, step.source)) for prompt in sampled
        ]
        tokens = sum(characters) / CHARACTERS_A_TOKEN / max(1, len(sampled))
        if step.reasoning is not None:
            tokens += len(step.reasoning.instruction) / CHARACTERS_A_TOKEN
        n = step.drafts
        return [_Mean(step.writer, n, n * tokens, n * min(longest, expected or longest), n * longest, 0.0)]

    def _of_judge(self, step: Step) -> list[_Mean]:
        """Return what judging a prompt's drafts asks of each teacher; nothing of a judge that makes no calls."""
        of_task = step.what if step.rubrics is not None else ""
        brought = self.recipe.sample.drafts_from is not None
        key = (step.role, step.compares, step.apart, step.split, step.drafts, brought, of_task)
        if key not in self._means:
            judge = _bound(step.judge, self.recipe)
            if step.compares:
                judge = judge.comparer() if hasattr(judge, "comparer") else judge
            try:
                self._means[key] = self._ask(judge, step)
            except (
                Exception
            ) as problem:  # another's code, before anything is paid: the run itself will say what is wrong
                name = name_of(judge)
                self.notes.append(f"not estimated: {step.what} (judge {name}: {problem})")
                self._means[key] = []
        return self._means[key]

    def _ask(self, judge: Any, step: Step) -> list[_Mean]:
        if not hasattr(judge, "expected_requests"):
            if is_paid(getattr(judge, "teacher", None)):
                self.notes.append(f"not estimated: {step.what} (judge {judge._use} does not say what it asks)")
            return []
        sums: dict[int, list[float]] = defaultdict(lambda: [0.0] * 5)
        plugins: dict[int, Any] = {}
        sampled = self._sample(step)
        for prompt in sampled:
            drafts = self._drafts(prompt, step)
            rubric = (step.rubrics or self.recipe.rubrics).of(prompt)
            groups = [[draft] for draft in drafts] if step.apart else [drafts]
            asked = [each for group in groups for each in judge.expected_requests(prompt, group, rubric)]
            for plugin, request in asked:
                if not is_paid(plugin):
                    continue
                plugins[id(plugin)] = plugin
                added = (
                    1.0,
                    sum(len(each.content) for each in request.messages) / CHARACTERS_A_TOKEN,
                    reply_tokens(request, getattr(judge, "reason", "brief")),
                    float(request.max_tokens),
                    float(not _compares(request)),
                )
                sums[id(plugin)] = [a + b for a, b in zip(sums[id(plugin)], added, strict=True)]
        return [_Mean(plugin, *(value / len(sampled) for value in sums[key])) for key, plugin in plugins.items()]

    def _as_measured(self, line: Line, step: Step, mean: _Mean) -> Line:
        """Return the line with tokens a call, and calls a prompt of training drafts, as replies have shown them."""
        score, compare = (self.measured.tokens.get((step.role, kind)) for kind in KINDS)
        share = mean.scores / mean.calls if mean.calls else 0.0
        if (score or not share) and (compare or share == 1.0):
            known = [(each, part) for each, part in ((score, share), (compare, 1 - share)) if each is not None]
            line = replace(
                line,
                prompt_tokens=line.calls * sum(each.prompt * part for each, part in known),
                completion_tokens=line.calls * sum(each.completion * part for each, part in known),
            )
        expected = sum(each.calls for each in self._of_judge(step))
        if step.split == "train" and self.measured.calls_a_prompt and expected:
            line = line.scaled(min(2.0, self.measured.calls_a_prompt / expected))
        return line

    def _sample(self, step: Step) -> Sequence[Prompt]:
        pool = self.prompts.of("train") if step.split == "train" else step.prompts
        asked = [prompt for prompt in pool if "forgotten" not in prompt.tags]
        return sorted(asked, key=lambda prompt: digest(prompt.id))[:SAMPLED_PROMPTS]

    def _drafts(self, prompt: Prompt, step: Step) -> list[Draft]:
        """Return placeholders of the expected length, or the drafts that the recipe brings."""
        path = self.recipe.sample.drafts_from
        if path is not None and step.split == "train":
            if self._given is None:
                given: dict[str, list[Draft]] = defaultdict(list)
                for draft in load_drafts(path, self.prompts.of("train"), 1):
                    given[draft.prompt_id].append(draft)
                self._given = given
            return list(self._given.get(prompt.id, ()))
        length = max(16, round(self.draft_tokens * CHARACTERS_A_TOKEN))
        return [_placeholder(prompt, step.split, index, length) for index in range(step.drafts)]


def is_paid(plugin: Any) -> bool:
    """Whether a teacher or sampler sends its requests to a model that may cost money."""
    if plugin is None or not getattr(plugin, "model", None):
        return False
    return bool(getattr(plugin, "base_url", None)) or price_for(plugin) is not None


def reply_tokens(request: TeacherRequest, reason: str) -> float:
    """Return the expected length of a reply that keeps to the request's schema, its reasons included."""
    if request.schema is None:
        return float(request.max_tokens)
    shape, reasons = _longest(request.schema)
    text = len(json.dumps(shape, ensure_ascii=False))
    return min(request.max_tokens, math.ceil(text / CHARACTERS_A_TOKEN) + reasons * REASON_TOKENS.get(reason, 0))


def _thinking(reasoning: Reasoning) -> float:
    """Return the expected tokens of a teacher's reasoning and its summary, as long as they are asked to be at most."""
    return TOKENS_A_WORD * (reasoning.words + (reasoning.summary_words or 0))


def _longest(schema: Mapping[str, Any]) -> tuple[Any, int]:
    """Return the longest value that a schema allows, its free texts left empty, and how many of these there are."""
    if "properties" in schema:
        parts = {name: _longest(each) for name, each in schema["properties"].items()}
        return {name: value for name, (value, _) in parts.items()}, sum(count for _, count in parts.values())
    if "enum" in schema:
        return max((str(each) for each in schema["enum"]), key=len), 0
    return "", 1


def _compares(request: TeacherRequest) -> bool:
    return "winner" in (request.schema or {}).get("properties", {})


def _as_written(messages: Iterable[Message], system: str | None, source: str) -> list[Message]:
    """Return the messages that a writer is sent: the teacher's own system prompt replaces the student's."""
    if source != "teacher" or system is None:
        return list(messages)
    return [Message(role="system", content=system), *(each for each in messages if each.role != "system")]


def _placeholder(prompt: Prompt, split: str, index: int, length: int) -> Draft:
    text = f"draft {index}: " + "word " * (length // 5 + 1)
    return Draft.model_validate(
        {
            "id": Draft.make_id(prompt.id, "file:expected", 1, split, index),
            "prompt_id": prompt.id,
            "source": "file:expected",
            "policy": None,
            "round": 1,
            "purpose": split,
            "index": index,
            "completion": text[:length],
            "finish_reason": "stop",
        }
    )


def asked_by(judge: Any, recipe: Recipe) -> list[Any]:
    """Return the teachers with a model to pay for that a judge asks."""
    if not hasattr(judge, "teachers_for"):
        return []
    context = RunContext(directory=recipe.directory, seed=recipe.seed, teacher=recipe.teacher)
    return [teacher for teacher, _ in judge.teachers_for(context) if is_paid(teacher)]


def _bound(judge: Any, recipe: Recipe) -> Any:
    """Return a copy of a judge that knows whom it would ask, without opening anything."""
    if not hasattr(judge, "ask_these"):
        return judge
    context = RunContext(directory=recipe.directory, seed=recipe.seed, teacher=recipe.teacher)
    copy = judge.model_copy()
    copy.ask_these([teacher for teacher, _ in judge.teachers_for(context)])
    return copy


def price_for(plugin: Any) -> Price | None:
    """Return what a model costs: by the recipe's own `usd_per_million`, else by the tables; a batch at its discount."""
    own = getattr(plugin, "usd_per_million", None)
    price = price_of(str(plugin.model))
    if own is not None:
        price = Price(
            input=own.get("input", 0.0), output=own.get("output", 0.0), source="usd_per_million in the recipe"
        )
    if price is not None and getattr(plugin, "batch", False):
        share = getattr(plugin, "batch_discount", 0.5)
        return price.model_copy(update={"input": price.input * share, "output": price.output * share})
    return price


def _seconds(line: Line, plugin: Any, judge: Any) -> float:
    """Return how long the replies take with the recipe's limits on requests in flight and a minute."""
    if not line.calls:
        return 0.0
    flying = getattr(judge, "concurrency", None) or getattr(plugin, "concurrency", None) or 8
    a_reply = SECONDS_A_REPLY + line.completion_tokens / line.calls / TOKENS_A_SECOND
    seconds = line.calls * a_reply / min(flying, max(1.0, line.calls))
    requests, tokens = (getattr(plugin, f"{name}_per_minute", None) for name in ("requests", "tokens"))
    used = line.prompt_tokens + line.completion_tokens
    return max(seconds, 60 * line.calls / requests if requests else 0.0, 60 * used / tokens if tokens else 0.0)
