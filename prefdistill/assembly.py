"""A recipe turned into objects: prompts loaded, plug-ins opened, the manifest's choices at hand.

Only this module and the command line know both the recipe and what its names stand for; `round` and `loop` work with
the opened `Workshop`.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefdistill.batches import UNWANTED
from prefdistill.errors import RecipeError, RunError
from prefdistill.metrics.further import load_text_metric
from prefdistill.plugins import Plugin, check_identity
from prefdistill.protocols import Judge, Progress, RunContext, Sampler, Teacher, Trainer, no_progress
from prefdistill.readiness import require_trainable
from prefdistill.recipe import Recipe, differing_keys, operational_keys
from prefdistill.records import Forgotten, Policy, Prompt, Split, digest
from prefdistill.rubric import Rubric, RubricSet
from prefdistill.run import RunDirectory, read_json, write_json, write_text
from prefdistill.stages.load import (
    SPLITS,
    Loaded,
    check_fields,
    load_prompts,
    load_unsplit,
    read_dataset,
    read_rows,
    round_slices,
)

if TYPE_CHECKING:
    from prefdistill.requests.layer import RequestLayer

PACKAGES = ("prefdistill", "torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "openai", "accelerate")


BEFORE = (".lock", "forgotten.jsonl")
"""What a run folder may hold before its first run: a comparison notes there what was forgotten in its other runs."""


@dataclass
class Workshop:
    """Everything a round works with."""

    recipe: Recipe
    run: RunDirectory
    context: RunContext
    prompts: Loaded
    student_fingerprint: str
    notes: list[str] = field(default_factory=list)
    """What a user should know about the prompts: merged, near duplicates, missing fields, too long."""
    redo_from: str | None = None
    """The stage from which stale artefacts may be made again."""
    forced: set[str] = field(default_factory=set)
    """Artefacts claimed in this process."""
    redone: tuple[int, int] | None = None
    """Round and stage of the earliest artefact set aside in this process; what comes after it may be too."""
    changed: list[str] = field(default_factory=list)
    """Recipe keys that differ from the run's own recipe."""
    forgotten: dict[str, Forgotten] = field(default_factory=dict)
    """By prompt id: prompts whose texts were removed on request; nothing is drafted or asked for them."""
    also: dict[str, Workshop] = field(default_factory=dict)
    """By name: the tasks of `evaluate.also`, each this workshop with its own prompts and rubric."""
    own_rubrics: RubricSet | None = None
    """The rubric of such a task; None for the recipe's own."""
    own_judge: Judge | None = None
    """The judge of such a task, opened; None for the recipe's training judge."""
    siblings: tuple[RunDirectory, ...] = ()
    """Runs whose finished artefacts may be copied where they were made from the same inputs."""
    batches: bool = True
    """Whether teachers with `batch: true` are asked in batches; a preview does not wait for them."""

    @property
    def sampler(self) -> Sampler:
        """The sampler, opened."""
        return self.recipe.sample.sampler

    @property
    def judge(self) -> Judge:
        """The training judge, opened."""
        return self.recipe.judge

    @property
    def teacher(self) -> Teacher | None:
        """The teacher, opened."""
        return self.recipe.teacher

    @property
    def trainer(self) -> Trainer:
        """The trainer of the rounds, opened."""
        return self.recipe.train.trainer

    def trainer_of(self, number: int) -> Trainer:
        """Return the trainer of round `number`, opened: the warm start has its own."""
        return self.recipe.section_of(number).trainer

    @property
    def rubrics(self) -> RubricSet:
        """The rubric of each kind of prompt."""
        return self.own_rubrics or self.recipe.rubrics

    @property
    def base(self) -> Policy:
        """The base policy."""
        return Policy(model=self.recipe.student.model, revision=self.recipe.student.revision)

    def limited(self, split: str) -> tuple[Prompt, ...]:
        """Return the validation or test prompts that are evaluated."""
        if self.own_rubrics is not None:
            return self.prompts.prompts
        return limited_prompts(self.recipe, self.prompts, "validation" if split == "validation" else "test")

    def messages_digest(self, prompt: Prompt) -> str:
        """Return the hash of a prompt's messages, of those it had where it was forgotten."""
        gone = self.forgotten.get(prompt.id)
        return messages_digest(prompt) if gone is None else gone.messages

    def fields_digest(self, prompt: Prompt) -> str:
        """Return the hash of a prompt's fields, of those it had where it was forgotten."""
        gone = self.forgotten.get(prompt.id)
        return digest(prompt.fields) if gone is None else gone.fields

    def forgotten_pairs(self, number: int) -> dict[str, str]:
        """Return the forgotten pairs of a round that a finished training used: id to hash."""
        pairs = [pair for gone in self.forgotten.values() for pair in gone.pairs]
        return {pair.id: pair.digest for pair in pairs if pair.round == number}

    def trained_flip_rate(self, number: int, now: float | None) -> float | None:
        """Return the flip rate that a round's finished training was given; `now` where nothing was forgotten since."""
        rates = [gone.flip_rates[number] for gone in self.forgotten.values() if number in gone.flip_rates]
        return rates[0] if rates else now

    def judge_fingerprint(self, judge: Any) -> str:
        """Return the hash of what a judge's paid replies depend on, beside the drafts."""
        asked = self.recipe.asked_identity(judge)
        shown = getattr(judge, "golden_examples", 0) and [
            test.model_dump(mode="json") for rubric in self.rubrics.rubrics.values() for test in rubric.tests
        ]
        return digest([judge.identity(), asked, shown, self.rubrics.column, self.rubrics.asked_fingerprint()])

    def checks_fingerprint(self) -> str:
        """Return the hash of the rubrics' checked half, which costs nothing to apply again."""
        return digest(
            {
                kind: [
                    check_identity(rubric),
                    [(each.name, each.applies_if) for each in rubric.checked],
                    [(gate.name, gate.at_least) for gate in rubric.gates],
                ]
                for kind, rubric in self.rubrics.rubrics.items()
            }
        )

    def save_choices(self) -> None:
        """Write choices that were made once into the manifest."""
        manifest = read_json(self.run.manifest)
        if manifest["choices"] != self.context.choices:
            write_json(self.run.manifest, {**manifest, "choices": self.context.choices})


def train_prompts(recipe: Recipe, prompts: Loaded) -> list[tuple[Prompt, ...]]:
    """Return each round's train prompts, those of the warm start first."""
    loop, warm = recipe.loop, None if recipe.warm_start is None else recipe.warm_start.prompts
    return round_slices(prompts.of("train"), loop.rounds, loop.prompts_per_round, recipe.seed, warm)


def limited_prompts(recipe: Recipe, prompts: Loaded, split: Split) -> tuple[Prompt, ...]:
    """Return the validation or test prompts that are evaluated."""
    found, limit = prompts.of(split), getattr(recipe.prompts, f"{split}_limit")
    return found if limit is None else tuple(sorted(found, key=lambda prompt: digest(prompt.id)))[:limit]


def messages_digest(prompt: Prompt) -> str:
    """Return the hash of a prompt's messages."""
    return digest([message.model_dump() for message in prompt.messages])


def without_forgotten(loaded: Loaded, forgotten: Mapping[str, Forgotten], task: str = "") -> tuple[Loaded, list[str]]:
    """Put stand-ins in the places of a task's forgotten prompts, whether its prompts file still has them or not."""
    forgotten = {prompt_id: gone for prompt_id, gone in forgotten.items() if gone.task == task}
    if not forgotten:
        return loaded, []
    kept = {prompt.id: prompt for prompt in loaded.prompts}
    kept |= {prompt_id: gone.stand_in() for prompt_id, gone in forgotten.items()}
    near = tuple(two for two in loaded.near_duplicates if not set(two) & set(forgotten))
    note = f"prompts: {len(forgotten)} forgotten on request; nothing is drafted or asked for them"
    prompts = tuple(sorted(kept.values(), key=lambda prompt: prompt.id))
    return Loaded(prompts, loaded.merged, near), [note]


def read_recipe_prompts(recipe: Recipe) -> Loaded:
    """Load the recipe's prompts, whatever its rubrics say about them."""
    section = recipe.prompts
    if section.path is not None and not section.path.is_dir():
        rows = read_rows(section.path)
    else:
        source = section.dataset if section.path is None else str(section.path)
        assert source is not None
        rows = read_dataset(source, section.name, section.revision, section.dataset_split)
    return load_prompts(
        rows,
        columns=section.columns,
        split_by=section.split_by,
        split_column=section.split_column,
        validation_fraction=section.validation_fraction,
        test_fraction=section.test_fraction,
        system=recipe.student.system_text(),
    )


def load_recipe_prompts(recipe: Recipe) -> tuple[Loaded, list[str]]:
    """Load the recipe's prompts and check the rubric's fields against them; return them and what a user should know."""
    loaded = read_recipe_prompts(recipe)
    notes = []
    if loaded.merged:
        notes.append(f"prompts: {loaded.merged} equal rows merged")
    if loaded.near_duplicates:
        shown = ", ".join(f"{a}~{b}" for a, b in loaded.near_duplicates[:3])
        notes.append(
            f"prompts: {len(loaded.near_duplicates)} near duplicates across splits ({shown}); scores on validation and "
            "test may be too high: split them together with prompts.split_by"
        )
    for name, count in check_fields(loaded.prompts, recipe.rubrics).items():
        notes.append(
            f"prompts: {count} of {len(loaded.prompts)} have no field `{name}`; its criteria do not apply there"
        )
    return loaded, notes


def without_too_long(recipe: Recipe, loaded: Loaded) -> tuple[Loaded, list[str]]:
    """Leave out, count and name the prompts that do not fit the student's context together with a draft.

    Raises:
        RecipeError: none fits.
    """
    from prefdistill.student import context_length, load_tokenizer, render_prompt

    tokenizer = load_tokenizer(recipe.student)
    room = context_length(recipe.student) - recipe.sample.max_new_tokens
    lengths = {p.id: len(render_prompt(tokenizer, p.messages, recipe.student)) for p in loaded.prompts}
    too_long = [prompt for prompt in loaded.prompts if lengths[prompt.id] > room]
    if not too_long:
        return loaded, []
    named = ", ".join(f"{_own_id(prompt)} ({lengths[prompt.id]} tokens)" for prompt in too_long[:5])
    text = (
        f"prompts: {len(too_long)} of {len(loaded.prompts)} are longer than the student's context leaves room for "
        f"({room} tokens beside sample.max_new_tokens): {named}{', …' if len(too_long) > 5 else ''}"
    )
    kept = tuple(prompt for prompt in loaded.prompts if lengths[prompt.id] <= room)
    if not kept:
        raise RecipeError(f"{text}; expected at least some to fit: lower sample.max_new_tokens or shorten the prompts")
    return Loaded(kept, loaded.merged, loaded.near_duplicates), [f"{text}; they are left out"]


def load_tasks(recipe: Recipe, forgotten: Mapping[str, Forgotten]) -> tuple[dict[str, Loaded], list[str]]:
    """Load the prompts of every task of `evaluate.also` by its name; return them and what a user should know.

    Their ids are a task's own: the same row among the recipe's prompts, or in another task, is another prompt.
    """
    found, notes = {}, []
    for task in recipe.evaluate.also:
        rows = read_rows(task.prompts) if not task.prompts.is_dir() else read_dataset(str(task.prompts))
        loaded = load_unsplit(rows, task.columns, recipe.student.system_text())
        for name, count in check_fields(loaded.prompts, task.rubrics).items():
            notes.append(f"evaluate.also {task.name}: {count} of {len(loaded.prompts)} prompts have no field `{name}`")
        named = Loaded(tuple(_of_task(task.name, prompt) for prompt in loaded.prompts), loaded.merged, ())
        named, gone = without_forgotten(named, forgotten, task.name)
        notes += [f"evaluate.also {task.name}: {each}" for each in gone]
        chosen = sorted(named.prompts, key=lambda prompt: digest(prompt.id))[: task.limit]
        found[task.name] = Loaded(tuple(sorted(chosen, key=lambda prompt: prompt.id)), loaded.merged, ())
    return found, notes


def task_prompt_id(task: str, prompt_id: str) -> str:
    """Return a prompt's id in a task of `evaluate.also`; as it is among the recipe's own prompts (no task)."""
    return digest({"task": task, "id": prompt_id}, 12) if task else prompt_id


def _of_task(task: str, prompt: Prompt) -> Prompt:
    tags = (*prompt.tags, f"task:{task}")
    return prompt.model_copy(update={"id": task_prompt_id(task, prompt.id), "split": "validation", "tags": tags})


def _own_id(prompt: Prompt) -> str:
    return next((tag.removeprefix("id:") for tag in prompt.tags if tag.startswith("id:")), prompt.id)


@contextmanager
def opened(
    recipe: Recipe,
    run: RunDirectory,
    progress: Progress = no_progress,
    redo_from: str | None = None,
    trains: bool = True,
) -> Iterator[Workshop]:
    """Load prompts, open the plug-ins and hand out the workshop; close them at the end.

    A recipe whose rounds could not be trained is refused where it `trains`, before anything is written.

    Raises:
        PrefdistillError: of any kind, before anything was paid for.
    """
    from prefdistill.requests.layer import RequestLayer
    from prefdistill.student import check_trace_tags, weights_fingerprint

    loaded, notes = load_recipe_prompts(recipe)
    forgotten = dict(sorted(run.rows(run.path, "forgotten.jsonl", Forgotten).read().items(), key=lambda row: row[1].at))
    loaded, gone = without_forgotten(loaded, forgotten)
    loaded, too_long = without_too_long(recipe, loaded)
    tasks, of_tasks = load_tasks(recipe, forgotten)
    notes += [*gone, *too_long, *of_tasks, *recipe.caveats]
    if recipe.student.trace is not None and (of_tags := check_trace_tags(recipe.student)):
        notes.append(of_tags)
    changed = _compare_with_run(recipe, run)
    if trains:
        require_trainable(recipe, loaded, run)
    manifest = _manifest(recipe, run, loaded, notes)
    layer = RequestLayer(cache=_cache(recipe), budget=recipe.budget, ledger=run.path / "spending.jsonl")
    layer.memory[UNWANTED] = frozenset(key for each in forgotten.values() for key in each.unwanted)
    plugins = recipe.plugins
    context = RunContext(
        directory=run.path.resolve(),
        seed=recipe.seed,
        student=recipe.student,
        teacher=recipe.teacher,
        requests=layer,
        choices=manifest["choices"],
        progress=progress,
    )
    try:
        for plugin in plugins:
            plugin.open(context)
        for name in recipe.evaluate.metrics:
            load_text_metric(name, recipe.directory)
        fingerprint = digest([weights_fingerprint(recipe.student), _student_identity(recipe)])
        shop = Workshop(
            recipe, run, context, loaded, fingerprint, notes, redo_from, changed=changed, forgotten=forgotten
        )
        for task in recipe.evaluate.also:
            fitting, cut = without_too_long(recipe, tasks[task.name])
            shop.notes += [f"evaluate.also {task.name}: {each}" for each in cut]
            shop.also[task.name] = replace(shop, prompts=fitting, own_rubrics=task.rubrics, own_judge=task.judge)
            _write_task_prompts(shop, task.name)  # before the first draft, so that each can be forgotten
        if not run.recipe.exists():
            _write_inputs(shop)
        elif not shop.changed:  # operational keys may differ, such as loop.rounds: a killed run goes on with them
            _write_recipe(shop)
        yield shop
    finally:
        for plugin in reversed(plugins):
            plugin.close()
        layer.close()


@contextmanager
def opened_judge(recipe: Recipe, cached_only: bool = False) -> Iterator[tuple[Judge, RequestLayer]]:
    """Open a recipe's teacher and training judge alone, without student, prompts or run folder; close them at the end.

    With `cached_only` nothing is sent: a request whose reply is not in the request cache fails.

    Raises:
        PrefdistillError: of any kind, before anything was paid for.
    """
    from prefdistill.requests.layer import RequestLayer

    layer = RequestLayer(cache=_cache(recipe), cached_only=cached_only, budget=recipe.budget)
    used: tuple[Any, ...] = (recipe.teacher, recipe.judge)
    plugins = [each for each in used if isinstance(each, Plugin)]
    context = RunContext(
        directory=recipe.directory, seed=recipe.seed, student=recipe.student, teacher=recipe.teacher, requests=layer
    )
    try:
        for plugin in plugins:
            plugin.open(context)
        yield recipe.judge, layer
    finally:
        for plugin in reversed(plugins):
            plugin.close()
        layer.close()


def _student_identity(recipe: Recipe) -> dict[str, Any]:
    # What is written with reasoning on or off says so itself: the drafts, and what is trained on.
    apart = {"model", "device", "revision", "system", "trace", "trace_tags"}
    return recipe.student.model_dump(mode="json", exclude=apart)


def _cache(recipe: Recipe) -> str | Path:
    return recipe.cache if recipe.cache in ("user", "off") else recipe.directory / recipe.cache


def _compare_with_run(recipe: Recipe, run: RunDirectory) -> list[str]:
    """Return how the recipe differs from the run's own, operational keys left out."""
    if not run.manifest.exists():
        if run.path.exists() and any(child.name not in BEFORE for child in run.path.iterdir()):
            raise RunError(
                f"{run.path}: the folder is not empty and holds no run (no manifest.json); choose another with --run"
            )
        return []
    old = read_json(run.manifest)["recipe"]
    skipped = operational_keys(recipe)
    lines = differing_keys(old, _resolved_for_comparison(recipe))
    return [line for line in lines if not _within(line.split(":", 1)[0], skipped)]


def _within(key: str, keys: Collection[str]) -> bool:
    """Whether a dotted key, or a section that holds it, is among `keys`."""
    parts = key.split(".")
    return any(".".join(parts[: number + 1]) in keys for number in range(len(parts)))


def _resolved_for_comparison(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe with its rubrics written out by name, so that a difference can be named key by key."""
    rubrics = {kind: _by_name(rubric) for kind, rubric in recipe.rubrics.rubrics.items()}
    return {**recipe.resolved(), "rubric": rubrics[""] if recipe.rubrics.column is None else rubrics}


def _by_name(rubric: Rubric) -> dict[str, Any]:
    data = rubric.model_dump(mode="json", exclude_none=True, exclude={"tests"})
    return {
        **data,
        **{part: {each.pop("name"): each for each in data[part]} for part in ("gates", "criteria")},
    }


def _write_inputs(shop: Workshop) -> None:
    """Write recipe.yaml, the rubrics and prompts.jsonl: what this run was made from, re-runnable as it stands."""
    from prefdistill.documents import render_yaml

    recipe, run = shop.recipe, shop.run
    for kind, name in _rubric_files(recipe).items():
        rubric = recipe.rubrics.rubrics[kind]
        data = rubric.model_dump(mode="json", exclude_defaults=True)
        for criterion in (*data.get("gates", ()), *data["criteria"]):
            file, colon, _ = str(criterion.get("check", "")).partition(":")
            if colon and file.endswith(".py"):
                criterion["check"] = f"{rubric._directory / criterion['check']}"
        write_text(run.path / name, render_yaml(data))
    run.rows(run.path, "prompts.jsonl", Prompt).rewrite(shop.prompts.prompts)
    _write_recipe(shop)  # last: where it is, the others are


def _write_recipe(shop: Workshop) -> None:
    """Write recipe.yaml."""
    from prefdistill.documents import render_yaml

    column, names = shop.recipe.rubrics.column, _rubric_files(shop.recipe)
    rubric = names[""] if column is None else {"column": column, **names}
    write_text(shop.run.recipe, render_yaml({**shop.recipe.resolved(), "rubric": rubric}))


def _rubric_files(recipe: Recipe) -> dict[str, str]:
    """Return the name of each rubric's file by kind of prompt."""
    if recipe.rubrics.column is None:
        return {"": "rubric.yaml"}
    return {kind: f"rubric-{kind}.yaml" for kind in recipe.rubrics.rubrics}


def _write_task_prompts(shop: Workshop, task: str) -> None:
    """Add a task's prompts to those that were written before: drafts of these may be in replaced/."""
    path = shop.run.prompts_also(task)
    file = shop.run.rows(path.parent, path.name, Prompt)
    before = file.read()
    now = before | {prompt.id: prompt for prompt in shop.also[task].prompts.prompts}
    if now != before:
        file.rewrite(now.values())


def _manifest(recipe: Recipe, run: RunDirectory, loaded: Loaded, notes: list[str]) -> dict[str, Any]:
    """Return the run's manifest, written now if the run is new."""
    if run.manifest.exists():
        manifest: dict[str, Any] = read_json(run.manifest)
        return manifest
    import torch

    manifest = {
        "schema": 1,
        "name": recipe.name,
        "seed": recipe.seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "git_commit": _commit(recipe.directory),
        "machine": {"system": platform.platform(terse=True), "processor": platform.machine(), "cores": os.cpu_count()},
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "prompts": _counts(loaded),
        "notes": notes,
        "choices": {},
        "recipe": _resolved_for_comparison(recipe),
    }
    write_json(run.manifest, manifest)
    return manifest


def _counts(loaded: Loaded) -> dict[str, int]:
    return {split: len(loaded.of(split)) for split in SPLITS}


def adopt_recipe(shop: Workshop) -> None:
    """Store the recipe that the run now follows, now that all of it was made by it."""
    manifest = read_json(shop.run.manifest)
    now = _resolved_for_comparison(shop.recipe)
    counts = _counts(shop.prompts)
    if (manifest["recipe"], manifest["prompts"], manifest["notes"]) != (now, counts, shop.notes):
        write_json(shop.run.manifest, {**manifest, "recipe": now, "prompts": counts, "notes": shop.notes})
    _write_inputs(shop)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(directory: Path) -> str | None:
    """Return the git commit of the recipe's folder, None where there is none."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=directory, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
