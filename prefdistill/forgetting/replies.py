"""A prompt's replies in the request cache: found by the requests that it led to, then by their text."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefdistill.answers import reasoning_of
from prefdistill.batches.notes import BatchNotes
from prefdistill.errors import PrefdistillError, RunError
from prefdistill.forgetting.plans import Plan, cache_of
from prefdistill.forgetting.traces import read_lines, strings_in
from prefdistill.plugins import Plugin
from prefdistill.protocols import RunContext, SampleRequest
from prefdistill.recipe import Recipe, load_recipe
from prefdistill.records import Draft, Policy, Verdict
from prefdistill.requests.layer import RequestLayer
from prefdistill.requests.reply_cache import FILE, ReplyCache
from prefdistill.rubric import RubricSet
from prefdistill.stages.judge import judge_group
from prefdistill.stages.sample import sample_drafts, teacher_drafts

REPEATS = 3
"""How many times a question may have been asked again (`judge.repeated`) for its reply to be looked for by its key."""


class _Listener:
    """A request cache that notes what it is asked for."""

    def __init__(self, cache: ReplyCache) -> None:
        self._cache = cache
        self.heard: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def get(self, key: str) -> dict[str, Any] | None:
        self.heard.add(key)
        return self._cache.get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        self.heard.update(keys)
        return self._cache.get_many(keys)


class _Asked:
    """A sampler that samples nothing, and keeps what it is asked for."""

    def __init__(self) -> None:
        self.requests: tuple[SampleRequest, ...] = ()

    def sample(self, policy: Policy, requests: Sequence[SampleRequest]) -> Iterator[Any]:
        self.requests = tuple(requests)
        return iter(())


def find_replies(plan: Plan) -> None:
    """Look for the prompt's replies in the request cache, and for its requests in batches that are still running."""
    recipe: Recipe | None = None
    try:
        recipe = load_recipe(plan.run.recipe)
    except PrefdistillError as problem:
        plan.notes.append(
            f"the run's recipe cannot be read any more, so replies were looked for by their text alone ({problem})"
        )
    directory = cache_of(recipe)
    if directory is None or not (directory / FILE).exists():
        return
    plan.cache = directory / FILE
    plan.replies = _calls_made(plan)
    if recipe is not None:
        asked = _requests_of(plan, recipe)
        plan.by_key = _present(plan, asked)
        _find_batches(plan, asked)
    plan.by_text = _keys_by_text(plan) - plan.by_key


def _calls_made(plan: Plan) -> int:
    total = 0
    for path in plan.rows:
        if path.name.endswith("drafts.jsonl"):
            continue
        for _, row in read_lines(path):
            if isinstance(row, dict) and row.get("prompt_id") == plan.prompt.id and "judgements" in row:
                total += Verdict.model_validate(row).usage.calls
    return total


def _judging(plan: Plan, recipe: Recipe) -> tuple[list[Any], RubricSet]:
    """Return who judges the prompt, and by what; nobody where its task is not in the recipe any more."""
    name = plan.prompt.task
    if not name:
        return [recipe.judge, recipe.held_out_judge], recipe.rubrics
    task = next((each for each in recipe.evaluate.also if each.name == name), None)
    if task is None:
        plan.notes.append(f"evaluate.also has no {name} any more, so its judge's replies were looked for by their text")
        return [], recipe.rubrics
    return [task.judge or recipe.judge], task.rubrics


@contextmanager
def _opened(recipe: Recipe, plan: Plan, layer: RequestLayer, judging: Sequence[Any]) -> Iterator[list[Any]]:
    """Open the plug-ins that ask servers, nothing else, and hand them out."""
    context = RunContext(
        directory=plan.run.path.resolve(),
        seed=recipe.seed,
        student=recipe.student,
        teacher=recipe.teacher,
        requests=layer,
    )
    judges = [each for each in judging if isinstance(each, Plugin) and _asks_servers(each, context)]
    writers: tuple[Any, ...] = (recipe.teacher, recipe.sample.sampler)
    done: list[Any] = []
    try:
        for plugin in [*(each for each in writers if hasattr(each, "base_url")), *judges]:
            with _noted(plan, plugin):
                plugin.open(context)
                done.append(plugin)
        yield done
    finally:
        for plugin in reversed(done):
            plugin.close()


@contextmanager
def _noted(plan: Plan, plugin: Any) -> Iterator[None]:
    """Note that a plug-in cannot be asked, such as without its key, and go on without it."""
    try:
        yield
    except (PrefdistillError, OSError) as problem:
        plan.notes.append(f"replies to {type(plugin).__name__} were looked for by their text alone ({problem})")


def _asks_servers(judge: Any, context: RunContext) -> bool:
    """Whether a judge's replies come through the request layer, so that asking again sends and computes nothing."""
    if getattr(judge, "url", None):
        return True
    if not hasattr(judge, "teachers_for") or getattr(judge, "brings_teacher", False):
        return False
    return all(getattr(teacher, "base_url", None) for teacher, _ in judge.teachers_for(context))


def _requests_of(plan: Plan, recipe: Recipe) -> set[str]:
    """Judge and write the stored drafts again with nothing sent; return the keys of all replies that are looked up."""
    assert plan.cache is not None
    layer = RequestLayer(cache=plan.cache.parent, cached_only=True)
    assert layer.cache is not None
    listener: Any = _Listener(layer.cache)
    layer.cache = listener
    groups = _groups(plan)
    judging, rubrics = _judging(plan, recipe)
    try:
        with _opened(recipe, plan, layer, judging) as opened:
            for plugin in opened:
                with _noted(plan, plugin):
                    if hasattr(plugin, "judge"):
                        _ask_judge(plan, plugin, groups, rubrics)
                    elif hasattr(plugin, "calls"):
                        listener.heard |= _calls_of_sampler(plan, plugin, recipe)
                    else:
                        _ask_teacher(plan, plugin, recipe)
        return set(listener.heard)
    finally:
        layer.close()


def _ask_judge(plan: Plan, judge: Any, groups: Sequence[list[Draft]], rubrics: RubricSet) -> None:
    """Look up the replies about the prompt's drafts, scored and compared."""
    again = getattr(judge, "repeated", None)
    several = [judge, *(again(number) for number in range(1, REPEATS + 1) if again is not None)]
    for each in several:
        for kind in (each, each.comparer()) if hasattr(each, "comparer") else (each,):
            for drafts in groups:
                judge_group(kind, plan.prompt, drafts, rubrics.of(plan.prompt))


def _present(plan: Plan, keys: set[str]) -> set[str]:
    assert plan.cache is not None
    cache = ReplyCache(plan.cache.parent)
    try:
        return set(cache.get_many(sorted(keys)))
    finally:
        cache.close()


def _ask_teacher(plan: Plan, teacher: Any, recipe: Recipe) -> None:
    """Look up the teacher's own drafts of the prompt, those with reasoning too."""
    trainers = [section.trainer for section in (recipe.warm_start, recipe.train) if section is not None]
    ways = dict.fromkeys([None, *(reasoning_of(trainer, recipe) for trainer in trainers)])
    answers = recipe.warm_start.answers if recipe.warm_start is not None else 1
    for temperature, way in itertools.product({recipe.sample.temperature, recipe.evaluate.temperature}, ways):
        for _ in teacher_drafts(
            teacher,
            [plan.prompt],
            {},
            system=getattr(teacher, "system_text", lambda: None)(),
            drafts=max(answers, recipe.sample.teacher_drafts),
            max_tokens=recipe.sample.max_new_tokens,
            temperature=temperature,
            round=1,
            purpose=plan.prompt.split,
            reasoning=way,
        ):
            continue


def _calls_of_sampler(plan: Plan, sampler: Any, recipe: Recipe) -> set[str]:
    """Return the keys of the student's drafts that a server wrote, without loading an adapter into it."""
    written = {
        (draft.policy, draft.source, draft.round, draft.purpose): draft.policy
        for drafts in _files_of_drafts(plan)
        for draft in drafts
        if draft.policy is not None
    }
    keys: set[str] = set()
    for (_, source, number, purpose), policy in written.items():
        assert policy is not None
        section, asked = (recipe.sample if purpose == "train" else recipe.evaluate), _Asked()
        for _ in sample_drafts(
            asked,
            policy,
            [plan.prompt],
            {},
            source=source,
            round=number,
            purpose=purpose,
            drafts=recipe.sample.drafts if purpose == "train" else recipe.evaluate.best_of,
            temperature=section.temperature,
            top_p=section.top_p,
            max_new_tokens=recipe.sample.max_new_tokens,
            seed=recipe.seed,
        ):
            continue
        keys |= {call.cache_key for call in sampler.calls(policy, asked.requests)}
    return keys


def _files_of_drafts(plan: Plan) -> list[list[Draft]]:
    """Return the prompt's drafts, file by file."""
    files = []
    for path in plan.rows:
        if path.name.endswith("drafts.jsonl"):
            rows = plan.run.rows(path.parent, path.name, Draft).read().values()
            files.append(sorted((row for row in rows if row.prompt_id == plan.prompt.id), key=lambda row: row.id))
    return files


def _groups(plan: Plan) -> list[list[Draft]]:
    """Return the prompt's drafts as they were judged: file by file, and policy against baseline."""
    files = _files_of_drafts(plan)
    measured = [draft for group in files for draft in group if len(group) == 1 or draft.purpose != "train"]
    both = [[a, b] for a in measured for b in measured if a.id != b.id and a.purpose == b.purpose]
    return files + both


def _find_batches(plan: Plan, asked: set[str]) -> None:
    """Note the batches at the provider that still hold some of these requests; their replies will not be kept."""
    path = plan.run.path / "batches.jsonl"
    waiting: set[str] = set()
    for note in BatchNotes(path).unsettled() if path.exists() else ():
        mine = asked.intersection(note.custom_ids)
        if mine:
            plan.batches[note.batch_id or note.name] = len(mine)
            waiting |= mine
    if waiting:
        unwanted = tuple(sorted({*waiting, *plan.record.unwanted}))
        plan.record = plan.record.model_copy(update={"unwanted": unwanted})


def _keys_by_text(plan: Plan) -> set[str]:
    assert plan.cache is not None
    stored = [draft for drafts in _files_of_drafts(plan) for draft in drafts]
    texts = {text.strip() for draft in stored for text in (draft.completion, draft.written)} - {""}
    texts -= _texts_of_others(plan) if texts else set()
    found = set()
    database = sqlite3.connect(f"file:{plan.cache}?mode=ro", uri=True, timeout=60)
    try:
        for key, stored in database.execute("SELECT key, reply FROM replies"):
            reply = json.loads(stored)
            whole = isinstance(reply, dict) and str(reply.get("text", "")).strip() in texts
            if whole or any(plan.traces.found_in(text) for text in strings_in(reply)):
                found.add(key)
    except sqlite3.Error as problem:
        raise RunError(f"{plan.cache}: the request cache cannot be read ({problem}); move the file away") from None
    finally:
        database.close()
    return found


def _texts_of_others(plan: Plan) -> set[str]:
    """Return the drafts of other prompts in the same files: a reply that is one of those gives nothing away."""
    return {
        str(row.get("completion", "")).strip()
        for path in plan.rows
        if path.name.endswith("drafts.jsonl")
        for _, row in read_lines(path)
        if isinstance(row, dict) and row.get("prompt_id") != plan.prompt.id
    }
