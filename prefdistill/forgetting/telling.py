"""What is said before anything is removed: what would be, and what cannot be."""

from __future__ import annotations

from pathlib import Path

from prefdistill.forgetting.files import mentions, searchable
from prefdistill.forgetting.plans import Plan, is_trained, recipe_of, rounds_of


def describe(plan: Plan) -> list[str]:
    """Return what would be removed, for the person who decides."""
    own = next((tag.removeprefix("id:") for tag in plan.prompt.tags if tag.startswith("id:")), None)
    name = f"{plan.prompt.id}{f' (yours: {own})' if own else ''}"
    place = f"evaluate.also {plan.prompt.task}" if plan.prompt.task else f"{plan.prompt.split} split"
    lines = [f"prompt {name}, {place}, in {plan.run.path}", "to be removed:"]
    for path, count in plan.rows.items():
        lines.append(f"  {plan.within(path)}: {count} row{'s' if count > 1 else ''}")
    lines += [f"  {plan.within(path)}: its texts" for path in plan.mentions]
    if plan.outdated:
        names = " and ".join(path.name for path in plan.outdated)
        lines.append(f"  {names}: its labels count in the figures; measure again with `prefdistill agreement`")
    if plan.run.report.exists():
        again = "rendered again without it" if plan.run.report_data.exists() else "removed; the next run renders it"
        lines.append(f"  report.html: {again}")
    if plan.run.refresh_page.exists():
        lines.append(
            "  refresh.html: removed; the same `prefdistill refresh` command writes it again without the prompt"
        )
    drift = [path for path in plan.run.drift_reports if path.exists()]
    if drift:
        names = ", ".join(str(plan.within(path)) for path in drift)
        lines.append(
            f"  {names}: removed; the same `prefdistill drift` command writes the reports again without the prompt"
        )
    lines += [
        f"  {plan.within(path)}: an unfinished training; it begins again without the prompt" for path in plan.restarted
    ]
    return [*lines, *_replies(plan), *(f"  note: {note}" for note in plan.notes)]


def _replies(plan: Plan) -> list[str]:
    if plan.cache is None:
        return []
    lines = [
        f"  {plan.cache}: {len(plan.cached)} replies, {len(plan.by_key)} found by their requests and "
        f"{len(plan.by_text)} more by their text"
    ]
    if len(plan.cached) < plan.replies:
        lines.append(
            f"  not found in the cache: up to {plan.replies - len(plan.cached)} replies to the {plan.replies} calls "
            "that the run made about it (attempts that failed, replies cleared before, questions of an older recipe "
            "whose replies hold none of its lines)"
        )
    return lines


def cannot_remove(plan: Plan) -> list[str]:
    """Return what stays where it is, for the person who has to take care of it."""
    lines = ["what this cannot remove:", *_trained(plan)]
    for source in _sources(plan):
        lines.append(f"  {source} still has it: remove it there yourself; this run does not need it any more")
    for path in plan.labels_elsewhere:
        lines.append(f"  {path}, a label file outside the run folder, still has it: remove its rows there yourself")
    for log in plan.written:
        if plan.changes(log):
            lines.append(
                f"  {plan.within(log)} while a server writes it: stop that server first; until then this command removes "
                "nothing"
            )
    for name, count in plan.batches.items():
        lines.append(
            f"  batch {name} at the provider holds {count} of its requests: cancel it there, or let the run go on; the "
            "replies to those are not kept when they come"
        )
    return [
        *lines,
        "  copies elsewhere: exports, back-ups, pushed adapters, label files, agreement pages, served logs and drift "
        "reports written to other places, other runs (`prefdistill forget` each), file-system snapshots and disk blocks "
        "that were freed",
        "  the logs of the provider whose model judged or wrote it: ask them",
        f"  kept in {plan.run.forgotten.name}: its id, its split, hashes of its texts and of {_what(plan)}",
    ]


def _what(plan: Plan) -> str:
    """Return what the prompt gave to train on: its pairs, the teacher's answers to it, or both."""
    answers, pairs = (_learned(plan, on_answers) for on_answers in (True, False))
    words = [*(["the teacher's answers to it"] if answers else []), *(["its pairs"] if pairs or not answers else [])]
    return " and of ".join(words)


def _learned(plan: Plan, on_answers: bool) -> list[str]:
    """Return the rounds that trained on what the prompt gave, those on the teacher's answers or those on pairs."""
    rounds = sorted({pair.round for pair in plan.record.pairs})
    folders = [plan.run.round(number) for number in rounds]
    return [folder.name for folder in folders if (folder / "4-answers.jsonl").exists() == on_answers]


def _trained(plan: Plan) -> list[str]:
    on_answers, on_pairs = (_learned(plan, each) for each in (True, False))
    learned = sorted([*on_answers, *on_pairs])
    if not learned:
        return []
    trained = sorted({folder.name for _, folder in rounds_of(plan.run) if is_trained(folder)})
    later = [name for name in trained if name >= learned[0]]
    said = [f"{', '.join(on_answers)} trained on the teacher's answers to it"] if on_answers else []
    said += [f"{', '.join(on_pairs)} trained on its pairs"] if on_pairs else []
    return [
        f"  trained weights: {', '.join(said)}; the adapters of {', '.join(later)}, and "
        "policy/ if it is one of them, may hold what was learned: start a new run without the prompt to be rid of it"
    ]


def _sources(plan: Plan) -> list[Path]:
    """Return the user's own files that still have the prompt."""
    recipe = recipe_of(plan.run)
    if recipe is None:
        return []
    of_tasks = (task.prompts for task in recipe.evaluate.also)
    named = (recipe.prompts.path, recipe.sample.drafts_from, *of_tasks)
    files = [path for path in dict.fromkeys(named) if path is not None and path.is_file()]
    return [path for path in files if searchable(path) and mentions(plan, path)]
