"""The model card: what the policy is, how it was made and measured, and what it was not tested for."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from prefdistill import __version__
from prefdistill.export.forms import Base
from prefdistill.export.loading import Loadable, loading_code, serving_command, writing_code
from prefdistill.export.methods import distributions_of, method_tags, methods_of, model_name, trained_on
from prefdistill.export.source import Source
from prefdistill.export.verifying import Check
from prefdistill.plan.cards import read_card
from prefdistill.plugins import name_of
from prefdistill.records import PreferencePair
from prefdistill.rubric import Criterion, Gate, Rubric
from prefdistill.traces import empty_block
from prefdistill.weights import LocalWeights

UNKNOWN = "unknown: look it up"
LONGEST_OPTION = 160
"""Characters of a check's option that a card shows."""
MARKUP = re.compile(r"([\\`*_{}\[\]#|~$])")
LIST_MARK = re.compile(r"^([-+=])|^(\d+)([.)])")


@dataclass(frozen=True)
class BaseModel:
    """The base as a reader knows it."""

    name: str
    """Hub id, or the folder's own name."""
    hub_id: str | None
    revision: str | None
    license: str | None
    fingerprint: str
    """Hash of its files, or its commit on the hub."""


@dataclass(frozen=True)
class Export:
    """Everything that a card says beside what the run knows."""

    source: Source
    loadable: Loadable
    base_model: BaseModel
    merged_into: Base | None
    weights_type: str
    """Type in which weights are stored."""
    check: Check
    folder: str
    """Where a reader finds it: "." or the id on the hub."""


def markdown(value: Any) -> str:
    """Return any text as one line of Markdown in which nothing of it is markup, HTML or a link."""
    text = " ".join(str(value).split())
    text = LIST_MARK.sub(r"\2\\\1\3", MARKUP.sub(r"\\\1", text))
    return html.escape(text, quote=False).replace("://", ":&#47;&#47;")


def plain_name(plugin: Any) -> str:
    """Return what a plug-in is called, without the folder of the file that it is in."""
    file, colon, name = name_of(plugin).rpartition(":")
    return f"{Path(file).name}:{name}" if colon and file.endswith(".py") else name_of(plugin)


def read_base(source: Source, base_name: str | None) -> BaseModel:
    """Return what is known of the base: its name, licence and fingerprint, from its own files."""
    from prefdistill.student import weights_fingerprint

    student = source.recipe.student
    local = Path(student.source).is_dir()
    hub_id = base_name or (None if local else student.model)
    fingerprint = weights_fingerprint(student)
    commit = fingerprint if re.fullmatch(r"[0-9a-f]{40}", fingerprint) else None
    return BaseModel(
        name=hub_id or Path(student.source).name,
        hub_id=hub_id,
        revision=None if local or base_name else student.revision or commit,
        license=_license(source),
        fingerprint=fingerprint,
    )


def _license(source: Source) -> str | None:
    """Return the licence that the base's own card or configuration names; nothing is downloaded for it."""
    student = source.recipe.student
    found = read_card(student.source, source.recipe.directory, student.revision).licence
    return found if found is not None and re.fullmatch(r"[\w.+ -]{1,60}", found) else None


def render_card(export: Export) -> str:
    """Return README.md of an export."""
    source, warm = export.source, export.source.recipe.warm_start
    return (
        _environment()
        .get_template("card.md.jinja")
        .render(
            front=_front_matter(export),
            export=export,
            source=source,
            check=export.check,
            base=export.base_model,
            stand_in=export.loadable.format == "adapter" and export.loadable.base != source.recipe.student.source,
            unknown=UNKNOWN,
            loading=loading_code(export.loadable, export.folder),
            write=writing_code(export.loadable),
            serving=serving_command(export.loadable, export.folder),
            rubrics=[_rubric(kind, rubric) for kind, rubric in source.recipe.rubrics.rubrics.items()],
            results=_results(source),
            criteria=_criteria(source),
            judge=plain_name(source.recipe.judge),
            evaluation_judge=plain_name(source.recipe.held_out_judge or source.recipe.judge),
            self_judged=source.recipe.held_out_judge is None,
            teacher=teacher_name(source),
            prompts_from=_prompts_from(source),
            rounds=source.policy.round,
            trained_on=trained_on(source),
            warm_start=None if warm is None else plain_name(warm.trainer),
            methods=methods_of(source),
            distributions=[each for each in distributions_of(source) if each != teacher_name(source)],
            reasons=source.recipe.student.trace is not None,
            student=source.recipe.student,
            empty=json.dumps(empty_block(source.recipe.student.tags)) if _answers_at_once(source) else None,
            problems=_problems(source),
            untested=_untested(export),
            forgotten=sum(1 for _ in source.run.forgotten.open(encoding="utf-8"))
            if source.run.forgotten.is_file()
            else 0,
            version=__version__,
        )
    )


def render_data_card(source: Source, pairs: list[PreferencePair], texts_from: str) -> str:
    """Return README.md of the pairs."""
    front = {
        "language": None,
        "task_categories": ["text-generation"],
        "tags": ["prefdistill", "preference", "dpo", "trl"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "train.jsonl"}]}],
    }
    return (
        _environment()
        .get_template("data_card.md.jinja")
        .render(
            front=_yaml({key: value for key, value in front.items() if value is not None}),
            source=source,
            pairs=pairs,
            by_round=sorted({pair.round: sum(each.round == pair.round for each in pairs) for pair in pairs}.items()),
            prompts=len({pair.prompt_id for pair in pairs}),
            judge=plain_name(source.recipe.judge),
            teacher=teacher_name(source),
            prompts_from=_prompts_from(source),
            base=texts_from,
            scales=sorted({pair.scale for pair in pairs}),
            version=__version__,
        )
    )


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("prefdistill.export", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["md"] = markdown
    found.filters["number"] = lambda value, digits=3: "–" if value is None else f"{value:.{digits}f}"
    return found


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).strip()


def _front_matter(export: Export) -> str:
    base, form = export.base_model, export.loadable.format
    quantized = form == "nf4"
    front: dict[str, Any] = {"license": base.license} if base.license else {}
    if base.hub_id:
        front["base_model"] = base.hub_id
        front["base_model_relation"] = {"adapter": "adapter", "merged": "finetune", "nf4": "quantized"}[form]
    front["library_name"] = "peft" if form == "adapter" else "transformers"
    front["pipeline_tag"] = "text-generation"
    front["tags"] = ["prefdistill", *method_tags(export.source), *(["lora"] if form == "adapter" else [])]
    front["tags"] += ["bitsandbytes", "4-bit"] if quantized else []
    return _yaml(front)


def _rubric(kind: str, rubric: Rubric) -> dict[str, Any]:
    total = sum(each.weight for each in rubric.criteria)
    return {
        "kind": kind,
        "name": rubric.name,
        "purpose": rubric.purpose,
        "gates": [(each.name, _question(each)) for each in rubric.gates],
        "criteria": [(each.name, _question(each), each.weight / total) for each in rubric.criteria],
    }


def _question(criterion: Criterion) -> str:
    if criterion.question is not None:
        levels = f" ({', '.join(criterion.levels or ())})"
        passes = f"; passes on {criterion.pass_when}" if isinstance(criterion, Gate) else ""
        return f"{criterion.question}{levels}{passes}"
    check = str(criterion.check)
    options = ", ".join(f"{name}: {_shown(value)}" for name, value in (criterion.model_extra or {}).items())
    return f"check {Path(check).name if '.py:' in check else check}{f' ({options})' if options else ''}"


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= LONGEST_OPTION else f"{text[:LONGEST_OPTION]}…"


def _results(source: Source) -> list[tuple[str, ...]]:
    """Return the rows of the results table: what, base, this policy, teacher."""
    found = source.result["test"] if source.kept and source.result else None

    def row(name: str, *values: Any) -> tuple[str, ...]:
        cells = tuple("–" if value is None else value if isinstance(value, str) else f"{value:.3f}" for value in values)
        return (name, *cells)

    if found is None:
        each, base = source.round, next((one for one in source.round.evaluation if one.baseline == "base"), None)
        rows = [
            row("score by the training judge", each.baseline_rubric_score, each.rubric_score, each.teacher_rubric_score)
        ]
        if each.held_out_score is not None:
            rows.append(
                row("score by the held-out judge", base.baseline_score if base else None, each.held_out_score, None)
            )
        if base is not None:
            rows.append(row("win rate over the base", "0.5", _interval(base.win_rate, base.interval), None))
        return rows
    rows = [
        row("score", found["baseline_score"], found["score"], found["teacher_score"]),
        row("gain over the base", None, _interval(found["score_gain"], found["score_gain_interval"]), None),
        row(
            "win rate over the base",
            "0.5",
            _interval(found["win_rate"], found["win_rate_interval"]),
            None,
        ),
        row(
            "win rate over the teacher",
            None,
            _interval(found["win_rate_over_teacher"], found["win_rate_over_teacher_interval"]),
            "0.5",
        ),
        row("share that passes all gates", None, found["gate_pass_rate"], None),
        row("length, relative to the base", "1", found["length_ratio"], None),
        row("exact score (sandbox only)", found["baseline_gold"], found["gold"], found["teacher_gold"]),
    ]
    return [each for each in rows if each[2] != "–"]


def _interval(value: float | None, interval: Any) -> str | None:
    if value is None:
        return None
    return f"{value:.3f}" if not interval else f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _answers_at_once(source: Source) -> bool:
    """Whether the model has learned to answer without reasoning; a base that reasons by itself counts as able to."""
    teaching = source.recipe.trace_trainers
    return not teaching or any(each.off_share for each in teaching)


def _criteria(source: Source) -> list[tuple[str, str, str]]:
    if not (source.kept and source.result):
        return []
    test = source.result["test"]
    base = test.get("baseline_criteria") or {}
    return [
        (name, "–" if base.get(name) is None else f"{base[name]:.3f}", f"{value:.3f}")
        for name, value in (test.get("criteria") or {}).items()
        if value is not None
    ]


def teacher_name(source: Source) -> str | None:
    """Return what the recipe's teacher is called, a local one by its folder's name; None where there is none."""
    teacher: Any = source.recipe.teacher
    if isinstance(teacher, LocalWeights):
        return model_name(teacher.section)
    return None if teacher is None else str(getattr(teacher, "model", None) or plain_name(teacher))


def _prompts_from(source: Source) -> str:
    section = source.recipe.prompts
    if section.dataset is not None:
        parts = [section.dataset, section.name, f"revision {section.revision}" if section.revision else None]
        return ", ".join(str(part) for part in parts if part)
    recorded = (source.manifest.get("recipe") or {}).get("prompts") or {}
    return Path(str(recorded.get("path") or section.path)).name


def _problems(source: Source) -> list[str]:
    """Return what the run found about this round, what failed how often, and what it noted about the prompts.

    Messages of failures are left out: they may quote a draft.
    """
    result = source.round
    failed = [f"{count} {name.replace('.', ' ')} failures" for name, count in sorted(result.failures.items())]
    rows = [*(finding.message for finding in result.findings), *failed]
    return list(dict.fromkeys([*rows, *source.manifest.get("notes", ())]))


def _untested(export: Export) -> list[str]:
    """Return what nobody looked at."""
    source = export.source
    recipe, prompts = source.recipe, source.prompts.values()
    found = [
        "other kinds of prompts than those it was trained on, and other languages",
        "safety, bias, privacy and factual correctness, beyond what the rubric asks for",
        "whether it lost abilities that the rubric says nothing about",
        f"decoding other than temperature {recipe.evaluate.temperature:g}, and other inference software: vLLM was not run",
        "other seeds: this is one run, and the intervals are over prompts only",
    ]
    if not any(message.role == "assistant" for prompt in prompts for message in prompt.messages):
        found.append("conversations of several turns: every prompt had one")
    if not (source.run.path / "agreement.json").is_file():
        found.append("whether people agree with the judge: no human labels were compared")
    if recipe.held_out_judge is None:
        found.append("another judge's opinion: the judge that trained it is the judge that measured it")
    if not (source.kept and source.result):
        found.append("test prompts: this is not the policy that the run kept, so the figures are those of validation")
    if export.loadable.format == "nf4" or export.merged_into == "original":
        found.append(
            "these very weights on test prompts: the results are the policy's before it was converted (see above)"
        )
    return found
