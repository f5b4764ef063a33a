"""The plan: what is there of a prompt, and what will be kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from prefdistill.assembly import messages_digest, task_prompt_id
from prefdistill.diagnostics.judging import flip_rate
from prefdistill.drafting import given_digest
from prefdistill.errors import PrefdistillError, RunError, did_you_mean
from prefdistill.folders import no_run
from prefdistill.forgetting.files import find_files, traces_of
from prefdistill.forgetting.plans import Plan, is_trained, recipe_of, rounds_of
from prefdistill.forgetting.replies import find_replies
from prefdistill.records import Answer, Draft, Forgotten, ForgottenPair, PreferencePair, Prompt, Verdict, digest
from prefdistill.round import TrainingRow, marks_of
from prefdistill.run import RunDirectory, read_json
from prefdistill.stages.load import load_drafts


def plan_forgetting(path: Path, prompt_id: str) -> Plan | None:
    """Find everything about a prompt, by our id or the user's own; None where it is forgotten already.

    Raises:
        RunError: there is no such run or no such prompt.
    """
    run = RunDirectory(path)
    if not run.prompts.exists():
        raise no_run(path, "it holds no run (no prompts.jsonl)")
    prompts = {
        key: row for path in run.all_prompts for key, row in run.rows(run.path, path.name, Prompt).read().items()
    }
    gone = run.rows(run.path, "forgotten.jsonl", Forgotten).read()
    named = _by_own_id(prompts, gone, prompt_id)
    prompt = prompts.get(prompt_id) or (named[min(named)] if named else None)
    if (prompt is None and named) or (prompt is not None and "forgotten" in prompt.tags):
        return None
    if prompt is None:
        own = [tag.removeprefix("id:") for p in prompts.values() for tag in p.tags if tag.startswith("id:")]
        raise RunError(
            f"{run.prompts}: no prompt `{prompt_id}`{did_you_mean(prompt_id, [*own, *prompts])}; expected one of its "
            f"{len(prompts)} ids, ours or the `id` column of the prompts file"
        )
    record = gone.get(prompt.id) or _record(run, prompt)  # there already where a forgetting was cut short
    plan = Plan(run, prompt, record, traces_of(run, prompt))
    plan.notes += [
        f"evaluate.also {other.task} has a prompt of the same id, which stays: forget it as {other.id}"
        for other in named.values()
        if other is not None and other is not prompt and "forgotten" not in other.tags
    ]
    find_files(plan)
    find_replies(plan)
    return plan


def _by_own_id(prompts: Mapping[str, Prompt], gone: Mapping[str, Forgotten], own_id: str) -> dict[str, Prompt | None]:
    """Return the prompts of a user's id by task, the recipe's own first; None for one that is forgotten."""
    ours = digest({"id": own_id}, 12)
    found: dict[str, Prompt | None] = {
        each.task: None for key, each in gone.items() if key == task_prompt_id(each.task, ours)
    }
    return found | {each.task: each for each in prompts.values() if f"id:{own_id}" in each.tags}


def _record(run: RunDirectory, prompt: Prompt) -> Forgotten:
    """Return what is kept of the prompt."""
    pairs, rates = [], {}
    for number, folder in rounds_of(run):
        if not is_trained(folder):
            continue
        rows: list[TrainingRow] = [*run.rows(folder, "4-pairs.jsonl", PreferencePair).read().values()]
        rows += run.rows(folder, "4-answers.jsonl", Answer).read().values()
        mine = [row for row in rows if row.prompt_id == prompt.id]
        pairs += [ForgottenPair(id=key, round=number, digest=mark) for key, mark in marks_of(mine).items()]
        verdicts = run.rows(folder, "2-verdicts.jsonl", Verdict).read()
        rate = flip_rate(list(verdicts.values())) if prompt.id in verdicts else None
        if rate is not None:
            rates[number] = rate
    return Forgotten(
        prompt_id=prompt.id,
        split=prompt.split,
        task=prompt.task,
        kind={} if prompt.task else _kind(run, prompt),
        messages=messages_digest(prompt),
        fields=digest(prompt.fields),
        pairs=tuple(pairs),
        flip_rates=rates,
        given=None if prompt.task else _given(run, prompt),
        at=datetime.now(UTC).isoformat(timespec="microseconds"),
    )


def _kind(run: RunDirectory, prompt: Prompt) -> dict[str, str]:
    """Return the column that chooses the prompt's rubric, and its value."""
    rubric = read_json(run.manifest)["recipe"].get("rubric") if run.manifest.exists() else None
    column = None
    if run.recipe.exists():
        from prefdistill.documents import load_document

        named = load_document(run.recipe, RunError).data.get("rubric")
        column = named.get("column") if isinstance(named, dict) else None
    return {column: str(prompt.fields.get(column, ""))} if column and rubric is not None else {}


def _given(run: RunDirectory, prompt: Prompt) -> str | None:
    """Return the hash of the drafts that the user's file gave for the prompt, as a round took them from it."""
    for _, folder in rounds_of(run):
        rows = run.rows(folder, "1-drafts.jsonl", Draft).read().values()
        mine = [row for row in rows if row.prompt_id == prompt.id and row.source.startswith("file:")]
        if mine:
            return given_digest(mine)
    recipe = recipe_of(run)
    if recipe is None or recipe.sample.drafts_from is None:
        return None
    try:
        return given_digest(load_drafts(recipe.sample.drafts_from, [prompt], 1))
    except PrefdistillError:  # the file has none for it
        return None
