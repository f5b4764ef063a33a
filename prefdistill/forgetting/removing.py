"""The removal: rows and lines out of the run's files, replies out of the cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prefdistill.errors import RunError
from prefdistill.forgetting.files import is_about, jsonl_files, label_files, mentions, pages, searchable
from prefdistill.forgetting.logs import log_of, nobody_writes
from prefdistill.forgetting.plans import Plan, cache_of, recipe_of
from prefdistill.forgetting.traces import Traces, read_lines
from prefdistill.records import Forgotten
from prefdistill.requests.reply_cache import FILE, ReplyCache
from prefdistill.result import render_again
from prefdistill.run import Fingerprints, RunDirectory, disk_errors, write_json, write_text


def forget(plan: Plan) -> list[str]:
    """Remove everything in the plan; return what is left all the same, each with what to do about it.

    Raises:
        RunError: the run, one of its label files or a log with the prompt is in use, or a file cannot be written.
    """
    run, traces, left = plan.run, plan.traces, []
    logs = {log: plan.changes(log) for log in plan.logs}
    with run.locked(), _labelling_has_ended(run), nobody_writes(logs) as written:
        file = run.rows(run.path, "forgotten.jsonl", Forgotten)
        file.rewrite([*file.read().values(), plan.record])  # first: from here on nothing is drafted for it again
        for path in plan.restarted:
            _begin_again(path)
        for path in plan.outdated:
            with disk_errors(path):
                path.unlink(missing_ok=True)
        for path in [*run.path.rglob("*.json"), *run.path.rglob("*.arrow")]:
            _clean_file(path, traces)
        if plan.cache is not None:
            left += _remove_replies(plan)
        note = (
            f"a prompt was forgotten on {plan.record.at[:10]}: its texts are removed, figures are as they were measured"
        )
        if run.report.exists() and not render_again(run, note):
            run.report.unlink()
        for path in pages(run):
            with disk_errors(path):
                path.unlink()
        prompts = run.all_prompts
        for path in sorted(jsonl_files(run), key=lambda path: path in prompts):  # these last: they say what to look for
            if log_of(path) not in written:
                _rewrite_rows(plan, path)
    found = [path for path in sorted(run.path.rglob("*")) if path != run.forgotten]
    return left + [f"STILL FOUND in {path}: look at it yourself" for path in found if _still_has(plan, path)]


def finish_earlier(path: Path) -> list[str]:
    """Free the room of replies that an earlier forgetting removed, where another process was in its way.

    Return what is left, with what to do about it.

    Raises:
        RunError: the cache cannot be opened.
    """
    directory = cache_of(recipe_of(RunDirectory(path)))
    if directory is None or not (directory / FILE).exists():
        return []
    cache = ReplyCache(directory)
    try:
        return [] if cache.compact() else [_in_use(directory)]
    finally:
        cache.close()


def _in_use(directory: Path) -> str:
    return (
        f"STILL THERE: {directory / FILE}: another process reads the request cache, so its files may hold the removed "
        "replies until they are written anew; run the same command again when nothing else uses the cache"
    )


@contextmanager
def _labelling_has_ended(run: RunDirectory) -> Iterator[None]:
    """Hold the run's label files, which an open `prefdistill label` would go on writing to.

    Raises:
        RunError: one is open.
    """
    from filelock import FileLock, Timeout

    with ExitStack() as stack:
        for path in label_files(run):
            try:
                stack.enter_context(FileLock(path.with_name(f".{path.name}.lock")).acquire(timeout=0))
            except Timeout:
                raise RunError(
                    f"{path}: another prefdistill process is labelling into this file; end it with Ctrl-C, then run the "
                    "same command again; nothing was removed"
                ) from None
        yield


def _still_has(plan: Plan, path: Path) -> bool:
    return searchable(path) and mentions(plan, path)


def _clean_file(path: Path, traces: Traces) -> None:
    """Take the prompt's rows and lines out of a JSON file; a data set made for training is removed, as nothing needs it.

    Where launched processes failed, `launch/columns.json` still has the tokens of the pairs.
    """
    if path.suffix == ".arrow" or path.parts[-2:] == ("launch", "columns.json"):
        path.unlink()
        return
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if searchable(path) else None
    except ValueError:
        return  # torn by a kill: it is searched with the others at the end
    cleaned = traces.without(value)
    if cleaned != value:
        write_json(path, cleaned)


def _rewrite_rows(plan: Plan, path: Path) -> None:
    """Take the prompt's rows out of a JSONL file, and its lines out of the others."""
    kept, changed, prompts = [], False, plan.run.all_prompts
    for line, row in read_lines(path):
        if path in prompts and isinstance(row, dict) and row.get("id") == plan.prompt.id:
            kept.append(plan.record.stand_in().model_dump_json())
            changed = True
        elif is_about(plan, line, row):
            changed = True
        elif row is not None and (cleaned := plan.traces.without(row)) != row:
            kept.append(json.dumps(cleaned, ensure_ascii=False, separators=(",", ":")))
            changed = True
        else:
            kept.append(line.decode("utf-8", errors="replace"))
    if changed:
        mode = path.stat().st_mode
        write_text(path, "".join(f"{line}\n" for line in kept))
        with disk_errors(path):
            path.chmod(mode)


def _begin_again(policy: Path) -> None:
    """Remove an unfinished training and its checkpoints."""
    import shutil

    with disk_errors(policy):
        shutil.rmtree(policy)
    Fingerprints(policy.parent).forget(["policy"])


def _remove_replies(plan: Plan) -> list[str]:
    """Remove the replies; return what is left of them in the cache's files."""
    assert plan.cache is not None
    cache = ReplyCache(plan.cache.parent)
    try:
        cache.delete(sorted(plan.cached))
        return [] if cache.compact() else [_in_use(plan.cache.parent)]
    finally:
        cache.close()
