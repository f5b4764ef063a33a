"""What a recipe says of a plan: models, rubric, judges, data, method, stop rules, and what is trained on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefdistill.answers import judges_gates
from prefdistill.assembly import read_recipe_prompts
from prefdistill.costs.questions import is_paid, price_for
from prefdistill.diagnostics.thresholds import StopLevels
from prefdistill.plan.cards import read_card
from prefdistill.plan.sections import Way
from prefdistill.plan.terms import load_terms
from prefdistill.plugins import asks_teacher, name_of
from prefdistill.protocols import RunContext, learns_from
from prefdistill.recipe import Recipe
from prefdistill.requests.prices import Price
from prefdistill.sections import StudentSection


@dataclass(frozen=True)
class Fact:
    """One value of a plan with where it is from."""

    key: str
    """Dotted key of the plan."""
    value: Any
    """Plain data."""
    where: str


def recipe_facts(recipe: Recipe, path: Path, directory: Path) -> Iterator[Fact]:
    """Yield what a recipe says; paths are made relative to the plan's `directory`, and nothing is downloaded."""
    where = path.name
    for key, value in _values(recipe, directory):
        if value is not None:
            own = key != "teacher.usd_per_million" or getattr(recipe.teacher, "usd_per_million", None) is not None
            yield Fact(key, whole(value), where if own else "prefdistill prices")
    card = read_card(recipe.student.model, recipe.directory, recipe.student.revision)
    if card.licence is not None:
        said = f"{card.source}{f'; {card.link}' if card.link else ''}"
        yield Fact("licences.base_model", card.licence, said)
        yield Fact("licences.base_model_source", said, where)


def prompt_counts(recipe: Recipe) -> dict[str, int]:
    """Return how many prompts each split has, as a run would use them; empty where that needs the network."""
    if recipe.prompts.path is None:
        return {}
    loaded, section = read_recipe_prompts(recipe), recipe.prompts
    found = {
        "train": len(loaded.of("train")),
        "validation": _at_most(len(loaded.of("validation")), section.validation_limit),
        "test": _at_most(len(loaded.of("test")), section.test_limit),
    }
    return {split: count for split, count in found.items() if count}


def asked_models(judge: Any, recipe: Recipe) -> list[Any]:
    """Return the plug-ins with a model of their own that a judge asks; empty where it asks none."""
    if asks_teacher(judge) and hasattr(judge, "teachers_for"):
        context = RunContext(directory=recipe.directory, seed=recipe.seed, teacher=recipe.teacher)
        return [teacher for teacher, _ in judge.teachers_for(context)]
    return [judge] if getattr(judge, "model", None) else []


def named(plugin: Any, directory: Path) -> str:
    """Return the name of a plug-in's model, a folder relative to `directory`; without a model, the plug-in's own."""
    model = getattr(plugin, "model", None)
    if model is None:
        file, colon, name = name_of(plugin).rpartition(":")
        return f"{Path(file).name}:{name}" if colon and file.endswith(".py") else name_of(plugin)
    section: StudentSection | None = getattr(plugin, "section", None)
    return str(model) if section is None else named_weights(section, directory)


def named_weights(section: StudentSection, directory: Path) -> str:
    """Return a model's name: a hub id, a folder relative to `directory`, or one inside a package."""
    local = Path(section.source).is_dir() and ":" not in section.model
    return os.path.relpath(section.source, directory) if local else section.model


def judge_text(judge: Any, recipe: Recipe, directory: Path) -> str:
    """Return who judges: the plug-in, and the models that answer for it."""
    asked = [named(each, directory) for each in asked_models(judge, recipe)]
    file, colon, name = name_of(judge).rpartition(":")
    own = f"{Path(file).name}:{name}" if colon and file.endswith(".py") else name_of(judge)
    return f"{own}, answered by {', '.join(dict.fromkeys(asked))}" if asked else own


def _values(recipe: Recipe, directory: Path) -> Iterator[tuple[str, Any]]:
    """Yield keys and values; None where the recipe does not say."""
    student, held_out = recipe.student, recipe.held_out_judge
    yield "name", recipe.name
    purposes = [" ".join(each.purpose.split()) for each in recipe.rubrics.rubrics.values()]
    yield "task.what", "; ".join(dict.fromkeys(filter(None, purposes))) or None
    if recipe.teacher is not None:
        yield from _teacher(recipe, directory)
    yield "student.model", named_weights(student, directory)
    yield "student.revision", student.revision
    yield "student.quantization", student.quantization
    spec = recipe.rubric
    files = [spec] if isinstance(spec, Path) else [Path(file) for kind, file in spec.items() if kind != "column"]
    yield "rubric.files", [os.path.relpath(recipe.directory / file, directory) for file in files]
    yield "rubric.judge", judge_text(recipe.judge, recipe, directory)
    yield "rubric.held_out", None if held_out is None else judge_text(held_out, recipe, directory)
    yield from _data(recipe, directory)
    yield "method.ways", ways_of(recipe) or None
    yield "method.how", how_of(recipe)
    yield "stop.budget_usd", None if recipe.budget is None else recipe.budget.usd
    yield "stop.levels", _changed_levels(recipe) or None
    yield "licences.writers", _own_teachers(recipe, directory) or None
    outputs, labels, judges = trained_on(recipe, directory)
    yield "licences.trained_on", [name for name, used in (("outputs", outputs), ("labels", labels)) if used]
    yield "licences.judges", judges or None


def _teacher(recipe: Recipe, directory: Path) -> Iterator[tuple[str, Any]]:
    teacher: Any = recipe.teacher
    model, url = named(teacher, directory), getattr(teacher, "base_url", None)
    yield "teacher.model", model
    local = getattr(teacher, "section", None) is not None
    yield "teacher.local", True if local else False if url and not is_own_host(url) else None
    if local:
        mine, its = (Path(each.source) / "tokenizer.json" for each in (recipe.student, teacher.section))
        if mine.is_file() and its.is_file():
            yield "teacher.same_tokenizer", mine.read_bytes() == its.read_bytes()
    price = (
        price_for(teacher.model_copy(update={"batch": False}) if hasattr(teacher, "batch") else teacher)
        if (getattr(teacher, "model", None))
        else None
    )
    yield "teacher.usd_per_million", None if price is None else _price(price)
    if url:
        terms = load_terms()
        by_host, by_name = terms.about("", url), terms.about(model)
        if by_host and set(by_host) - set(by_name):
            yield "licences.provider", [*by_host, *(key for key in by_name if key not in by_host)]


def _price(price: Price) -> dict[str, Any]:
    found: dict[str, Any] = {"input": price.input, "output": price.output}
    if price.as_of is not None:
        found["as_of"] = price.as_of
    return {**found, "source": price.source} if price.source else found


def is_own_host(url: str) -> bool:
    """Whether a server is on this machine or in a private network, by its address."""
    host = (urlsplit(url).hostname or "").lower()
    try:
        return ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".lan"))


def _data(recipe: Recipe, directory: Path) -> Iterator[tuple[str, Any]]:
    section = recipe.prompts
    source = section.dataset or (os.path.relpath(section.path, directory) if section.path else None)
    yield "data.source", source
    column = section.split_by or section.split_column
    yield "data.split_by", f"the column {column}" if column else "a hash of each prompt"


def ways_of(recipe: Recipe) -> list[Way]:
    """Return the ways of a recipe, in the order in which they are trained."""
    return list(dict.fromkeys(_way(each) for each in _trainers(recipe)))


def _trainers(recipe: Recipe) -> list[Any]:
    """Return what trains, in the order in which it does."""
    warm: list[Any] = [] if recipe.warm_start is None else [recipe.warm_start.trainer]
    return [*warm, recipe.train.trainer] if recipe.loop.rounds else warm


def _way(trainer: Any) -> Way:
    name = name_of(trainer).rpartition(":")[2].lower()
    for way in ("traces", "logits"):
        if way in name:
            return way
    return "outputs" if learns_from(trainer) == "answers" else "preferences"


def how_of(recipe: Recipe) -> str:
    """Return a recipe's method in a line."""
    loop, parts = recipe.loop, []
    if (warm := recipe.warm_start) is not None:
        source = "another run's pairs" if warm.pairs_from else f"at most {warm.prompts:,} prompts"
        parts.append(f"warm start by {name_of(warm.trainer)} on {source}")
    if loop.rounds:
        rounds = f"{loop.rounds} round{'' if loop.rounds == 1 else 's'} of {loop.prompts_per_round:,} prompts"
        if learns_from(recipe.train.trainer) == "pairs":
            drafts = f"{recipe.sample.drafts} drafts a prompt, pairs by {recipe.pair.strategy}"
            rounds = f"{loop.mode}, {rounds}, {drafts}"
        parts.append(f"{rounds}, trained by {name_of(recipe.train.trainer)}")
    return "; then ".join(parts) or "nothing is trained: base and teacher are measured"


def trained_on(recipe: Recipe, directory: Path) -> tuple[bool, bool, list[str]]:
    """Return whether the teacher's outputs and its labels train the student, and which other models' labels do."""
    ways = ways_of(recipe)
    outputs = any(way != "preferences" for way in ways) or (bool(ways) and recipe.sample.teacher_drafts > 0)
    trains_pairs = "preferences" in ways
    judged = trains_pairs or (outputs and judges_gates(recipe.rubrics, recipe.judge))
    asked = asked_models(recipe.judge, recipe) if judged else []
    teacher = None if recipe.teacher is None else named(recipe.teacher, directory)
    names = list(dict.fromkeys(named(each, directory) for each in asked))
    return outputs, teacher in names, [name for name in names if name != teacher]


def _own_teachers(recipe: Recipe, directory: Path) -> list[str]:
    """Return the models that trainers bring along to learn from, other than the recipe's teacher."""
    sources = (getattr(each, "source", None) for each in _trainers(recipe))
    names = dict.fromkeys(named_weights(each, directory) for each in sources if isinstance(each, StudentSection))
    teacher = None if recipe.teacher is None else named(recipe.teacher, directory)
    return [name for name in names if name != teacher]


def _changed_levels(recipe: Recipe) -> dict[str, Any]:
    levels, usual = recipe.loop.stop, StopLevels()
    if levels == "never":
        return dict.fromkeys(StopLevels.model_fields)
    return {
        name: getattr(levels, name) for name in StopLevels.model_fields if getattr(levels, name) != getattr(usual, name)
    }


def whole(value: Any) -> Any:
    """Return plain data in which a number without decimals is written without them."""
    if isinstance(value, dict):
        return {key: whole(each) for key, each in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _at_most(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)


def differences(recipe: Recipe, other: Recipe) -> Sequence[str]:
    """Return in which models two recipes differ, as far as their figures would not hold for each other."""
    directory = Path.cwd()
    found = []
    if Path(recipe.student.source).name != Path(other.student.source).name:
        found.append(f"student {Path(other.student.source).name}, not {Path(recipe.student.source).name}")
    teachers = [None if each.teacher is None else named(each.teacher, directory) for each in (recipe, other)]
    if teachers[0] != teachers[1]:
        found.append(f"teacher {teachers[1]}, not {teachers[0]}")
    judges = [judge_text(each.judge, each, directory) for each in (recipe, other)]
    if judges[0] != judges[1]:
        found.append(f"judge {judges[1]}, not {judges[0]}")
    return found


def is_free(judge: Any, recipe: Recipe) -> bool:
    """Whether a judge is known to ask no model that may cost money."""
    return name_of(judge) == "checks" or (
        bool(asked_models(judge, recipe)) and not any(is_paid(each) for each in asked_models(judge, recipe))
    )
