"""What forgetting one prompt removes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prefdistill.errors import PrefdistillError
from prefdistill.forgetting.traces import Traces
from prefdistill.recipe import Recipe, load_recipe
from prefdistill.records import Forgotten, Prompt
from prefdistill.requests.reply_cache import default_cache_directory
from prefdistill.run import Fingerprints, RunDirectory


@dataclass
class Plan:
    """What forgetting one prompt removes."""

    run: RunDirectory
    prompt: Prompt
    record: Forgotten
    traces: Traces
    rows: dict[Path, int] = field(default_factory=dict)
    """JSONL files with rows about the prompt, and how many."""
    mentions: list[Path] = field(default_factory=list)
    """Other files in which one of its lines stands."""
    outdated: list[Path] = field(default_factory=list)
    """Files of figures in which labels of the prompt count; they are removed, to be measured again without it."""
    labels_elsewhere: list[Path] = field(default_factory=list)
    """Label files outside the run folder that still have it."""
    restarted: list[Path] = field(default_factory=list)
    """Trainings on its pairs or answers that are not finished, with their checkpoints: they begin again without it."""
    logs: dict[Path, list[Path]] = field(default_factory=dict)
    """Logs of what was served, and the files of each."""
    written: list[Path] = field(default_factory=list)
    """Those of them that a server has open."""
    cache: Path | None = None
    by_key: set[str] = field(default_factory=set)
    """Cached replies found by making the judge's, teacher's and sampler's requests anew."""
    by_text: set[str] = field(default_factory=set)
    """Cached replies found by their text alone."""
    batches: dict[str, int] = field(default_factory=dict)
    """Batches at the provider that are not settled, and how many of its requests are in each."""
    replies: int = 0
    """Calls that the run's records say were made about it, repeated attempts included."""
    notes: list[str] = field(default_factory=list)
    """What could not be looked for, and why."""

    @property
    def cached(self) -> set[str]:
        """Every cached reply that is removed."""
        return self.by_key | self.by_text

    def changes(self, log: Path) -> bool:
        """Whether a file of a log has the prompt."""
        return any(path in self.rows or path in self.mentions for path in self.logs[log])

    def within(self, path: Path) -> Path:
        """Return a path of the run folder as a person reads it."""
        return path.relative_to(self.run.path)


def rounds_of(run: RunDirectory) -> Iterator[tuple[int, Path]]:
    """Yield the number and the folder of each round."""
    for folder in sorted(run.path.glob("round-[0-9]*")):
        number = folder.name.removeprefix("round-")
        if number.isdigit():
            yield int(number), folder


def is_trained(folder: Path) -> bool:
    """Whether a round's training is finished."""
    return Fingerprints(folder).entries.get("policy", {}).get("rows") is not None


def recipe_of(run: RunDirectory) -> Recipe | None:
    """Return the run's recipe, None where it cannot be read any more."""
    try:
        return load_recipe(run.recipe)
    except PrefdistillError:
        return None


def cache_of(recipe: Recipe | None) -> Path | None:
    """Return the folder of a recipe's request cache, the user's own where the recipe is unknown; None where it is off."""
    place = "user" if recipe is None else recipe.cache
    if place == "off":
        return None
    return default_cache_directory() if recipe is None or place == "user" else recipe.directory / place
