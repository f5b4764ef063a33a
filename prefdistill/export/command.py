"""`prefdistill export`: write, check in a fresh process, describe, hand out; and upload where asked."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from prefdistill import __version__
from prefdistill.errors import PrefdistillError, RunError
from prefdistill.export import forms, verifying
from prefdistill.export.card import BaseModel, Export, read_base, render_card
from prefdistill.export.data import ROWS, write_pairs
from prefdistill.export.forms import Base
from prefdistill.export.loading import Format, Loadable, loading_code, server_name, serving_command
from prefdistill.export.push import check_push, preview_rows, push
from prefdistill.export.source import Source, read_source
from prefdistill.run import disk_errors, read_json, write_json, write_text
from prefdistill.student import free, quiet_libraries

CARD, FACTS, PAIRS = "README.md", "export.json", "pairs"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What is to be exported, and how."""

    folder: Path
    format: Format = "adapter"
    round: int | None = None
    base: Base | None = None
    dtype: str = "auto"
    max_loss: float | None = None
    probes: int = 32
    judge: bool = False
    with_pairs: bool = False
    base_name: str | None = None
    push: str | None = None
    with_data: bool = False


def export_run(run: Path, wanted: Wanted, say: Say, confirm: Callable[[str], bool]) -> None:
    """Export a run's policy into `wanted.folder`, and upload it where that was asked for.

    Args:
        run: the run folder.
        wanted: what to export.
        say: prints a line.
        confirm: asks before texts are uploaded.

    Raises:
        PrefdistillError: there is nothing to export, the export is too far from the policy, or it cannot be written or
            uploaded.
    """
    _check_options(wanted)
    quiet_libraries()
    source = read_source(run, wanted.round)
    ready = wanted.push is not None and _exported_already(source, wanted)
    if not ready and wanted.folder.exists() and (not wanted.folder.is_dir() or any(wanted.folder.iterdir())):
        raise RunError(
            f"{wanted.folder}: there is something already; expected an empty folder or none: choose another --to"
        )
    if wanted.push is not None:
        check_push(wanted.push)
        if wanted.format == "adapter" and read_base(source, wanted.base_name).hub_id is None:
            raise RunError(
                f"--push: the base is a folder on this machine ({source.recipe.student.source}), which no reader of the hub "
                "can load; name the same model on the hub with --base-name ORG/NAME, or export --format merged"
            )
    if ready:
        say(f"{wanted.folder}: exported already; uploading what is there")
    else:
        _write(source, wanted, say)
    if wanted.push is not None:
        _push(source, wanted, say, confirm)


def _check_options(wanted: Wanted) -> None:
    if wanted.format == "adapter" and (wanted.base is not None or wanted.dtype != "auto"):
        raise PrefdistillError(
            "--base and --dtype: an adapter is merged into nothing; they go with --format merged or nf4"
        )
    if wanted.with_data and wanted.push is None:
        raise PrefdistillError("--with-data uploads the pairs; it goes with --push. --with-pairs writes them into DIR")
    if wanted.max_loss is not None and wanted.max_loss < 0:
        raise PrefdistillError(f"--max-loss {wanted.max_loss:g}: expected nats a token, 0 or more")


def _write(source: Source, wanted: Wanted, say: Say) -> None:
    """Make the export next to its place and move it there when all of it is right."""
    student = source.recipe.student
    base = None if wanted.format == "adapter" else forms.choose_base(student, wanted.format, wanted.base)
    target = wanted.folder.resolve()
    part, dense = (target.parent / f".{target.name}.{end}" for end in ("exporting", "dense"))
    try:
        with disk_errors(target):
            for each in (part, dense):
                shutil.rmtree(each, ignore_errors=True)
            part.mkdir(parents=True)
        export = _make(source, wanted, base, part, dense, say)
        _describe(export, wanted, part)
        with disk_errors(target):
            part.replace(target)
    finally:
        for each in (part, dense):
            shutil.rmtree(each, ignore_errors=True)
    for line in _closing(export, wanted):
        say(line)


def _make(source: Source, wanted: Wanted, base: Base | None, part: Path, dense: Path, say: Say) -> Export:
    """Write the weights and check them; `part` is the folder being made, `dense` one for what is quantised from."""
    student = source.recipe.student
    computed = forms.type_name(student)
    stored = computed if wanted.format == "adapter" else forms.type_name(student, wanted.dtype)
    say(f"scoring {wanted.probes} drafts of round {source.policy.round}'s policy, as it was trained")
    probes = verifying.probe(source, wanted.probes)
    base_model = read_base(source, wanted.base_name)
    loadable = _loadable(source, wanted.format, base_model, computed)
    say(f"writing {wanted.format}{f', merged into the {base} base' if base else ''}, {stored}")
    if wanted.format == "adapter":
        forms.write_adapter(source, part, loadable.base, loadable.revision)
        stored = "float32"
    else:
        merged = forms.merge(source, base or "dequantized", stored, say)
        forms.write_merged(merged, part if wanted.format == "merged" else dense)
        del merged
        free()
        if wanted.format == "nf4":
            forms.write_nf4(source, dense, part, stored)
            shutil.rmtree(dense)
            stored = f"NF4, the rest in {stored}"
    forms.write_tokenizer(source, part, probes.end_ids)
    say("loading it in a fresh process, with plain transformers" + (" and peft" if wanted.format == "adapter" else ""))
    here = replace(
        loadable, base=student.source, revision=student.revision
    )  # a name on the hub need not be reachable from here
    after = verifying.reload(source, part, loading_code(here, "."), probes)
    quantized = student.quantization == "nf4"
    limit = verifying.limit_for(wanted.format, base, quantized, probes.update, wanted.max_loss)
    check = verifying.compare(source, probes, after, limit, wanted.judge)
    verifying.refuse_above_limit(check, wanted.format, base, wanted.max_loss is not None)
    return Export(source, loadable, base_model, base, stored, check, wanted.push or ".")


def _loadable(source: Source, format: Format, base: BaseModel, dtype: str) -> Loadable:
    student = source.recipe.student
    config = read_json(source.adapter / "adapter_config.json")
    return Loadable(
        format=format,
        name=server_name(source.name),
        base=base.hub_id or student.source,
        revision=base.revision,
        quantized_base=student.quantization == "nf4" and forms.stored_quantization(student) is None,
        dtype=dtype,
        rank=max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())]),
        chat_template_kwargs=dict(student.chat_template_kwargs),
        max_new_tokens=source.recipe.sample.max_new_tokens,
        block=student.block,
    )


def _describe(export: Export, wanted: Wanted, part: Path) -> None:
    """Write the card, the pairs where wanted, and last what is in the folder."""
    source, base = export.source, export.base_model
    write_text(part / CARD, render_card(export))
    files = sorted(path.name for path in part.iterdir() if path.is_file())
    for name in files:  # weights are written for their owner alone, and what is shipped is for others too
        (part / name).chmod((part / CARD).stat().st_mode)
    if wanted.with_pairs or wanted.with_data:
        (part / PAIRS).mkdir(mode=0o700)
        write_pairs(source, part / PAIRS, wanted.base_name)
    facts = {
        "schema": 1,
        "prefdistill": __version__,
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": source.manifest["name"],
        "format": export.loadable.format,
        "merged_into": export.merged_into,
        "weights": export.weights_type,
        "round": source.policy.round,
        "kept": source.kept,
        "adapter": _hash(source.adapter / "adapter_model.safetensors"),
        "base": {"name": base.name, "revision": base.revision, "license": base.license, "files": base.fingerprint},
        "check": export.check.as_json(),
        "card_folder": export.folder,
        "files": {name: _hash(part / name) for name in files},
    }
    write_json(part / FACTS, facts)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _exported_already(source: Source, wanted: Wanted) -> bool:
    """Whether the folder holds this very export, whole, from an earlier command whose upload did not end."""
    path = wanted.folder / FACTS
    if not path.is_file():
        return False
    facts = read_json(path)
    same = (
        facts.get("format") == wanted.format
        and facts.get("card_folder") == wanted.push
        and facts.get("adapter") == _hash(source.adapter / "adapter_model.safetensors")
        and (not wanted.with_data or (wanted.folder / PAIRS / ROWS).is_file())
    )
    files = {name: wanted.folder / name for name in facts.get("files", {})}
    return same and all(each.is_file() and _hash(each) == facts["files"][name] for name, each in files.items())


def _closing(export: Export, wanted: Wanted) -> list[str]:
    """Return what to tell about a finished export."""
    check = export.check
    lines = [
        f"loss: {check.loss:.5f} nats a token on {check.drafts} drafts of {check.tokens} tokens "
        f"(limit {check.max_loss:.4f}; training changed {check.update:.5f})",
        f"greedy drafts: {check.greedy_same} of {check.drafts} the same, token by token",
    ]
    if check.scores:
        lines.append(
            f"score of greedy drafts by {check.scores.judge}: {check.scores.before:.3f} before, {check.scores.after:.3f} "
            f"after ({check.scores.prompts} prompts)"
        )
    else:
        lines.append(f"greedy drafts not judged: {check.not_scored}")
    if export.loadable.format == "adapter" and export.base_model.hub_id is None:
        lines.append(
            f"base: {export.loadable.base}, a folder of this machine; readers elsewhere put in their own, or name it with "
            "--base-name ORG/NAME"
        )
    if export.base_model.license is None:
        lines.append("licence of the base: unknown: look it up before you share this")
    return [
        *lines,
        f"card    {wanted.folder / CARD}",
        f"facts   {wanted.folder / FACTS}",
        *([f"pairs   {wanted.folder / PAIRS}"] if wanted.with_pairs or wanted.with_data else []),
        "serve it with vLLM (not run here):",
        f"  {serving_command(export.loadable, str(wanted.folder))}",
    ]


def _push(source: Source, wanted: Wanted, say: Say, confirm: Callable[[str], bool]) -> None:
    """Upload the export, and the pairs where that was asked for and confirmed."""
    assert wanted.push is not None
    facts = read_json(wanted.folder / FACTS)
    if wanted.with_data:
        pairs = wanted.folder / PAIRS
        rows = [json.loads(line) for line in (pairs / ROWS).read_text(encoding="utf-8").splitlines()]
        for line in preview_rows(rows):
            say(line)
        if not confirm(f"Upload these {len(rows)} pairs with all their texts to {wanted.push}-pairs (private)?"):
            raise PrefdistillError("nothing was uploaded; without --with-data, the model and its card alone go")
    where = push(wanted.push, "model", wanted.folder, [*facts["files"], FACTS])
    say(f"uploaded, private: {where}")
    if wanted.with_data:
        where = push(f"{wanted.push}-pairs", "dataset", wanted.folder / PAIRS, [ROWS, CARD])
        say(f"uploaded, private: {where}")
