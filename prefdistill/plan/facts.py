"""`prefdistill plan --from RECIPE [--run RUN]`: fill a plan in with everything that a recipe and a run already know.

Place in the flow: before the plan is shown. Nothing is asked, loaded or downloaded. What nobody can know from the two
stays open. In a plan that is there already only what is open, or was filled in and not edited since, is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefdistill.documents import Document, load_document, parse_document
from prefdistill.errors import PrefdistillError
from prefdistill.finished import FinishedRun
from prefdistill.plan.document import MEASURED, PlanError, load_plan, parse_plan
from prefdistill.plan.editing import EditedText, flow
from prefdistill.plan.observed import Observed
from prefdistill.plan.recipe_facts import Fact, differences, prompt_counts, recipe_facts
from prefdistill.plan.run_facts import calls_item, run_facts, shown
from prefdistill.recipe import Recipe, load_recipe
from prefdistill.run import disk_errors, read_json, write_text
from prefdistill.stored import stored_run

BLANK = Path(__file__).with_name("blank.yaml")
SOURCES = "Where each value is from, and what it was. It is kept up to date until you edit the value."
SHOWN = "What a run has shown; written anew each time, so do not edit it."
OPEN: tuple[Any, ...] = (None, [], {}, "")


@dataclass
class Filled:
    """What filling a plan in did."""

    path: Path
    is_new: bool
    filled: list[str] = field(default_factory=list)
    """Keys that were open."""
    updated: list[str] = field(default_factory=list)
    """`key: old → new` of values that nobody edited."""
    kept: list[str] = field(default_factory=list)
    """What the plan says otherwise than recipe or run, and was left as it is."""
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return what to tell the user."""
        values = f"{len(self.filled)} value{'' if len(self.filled) == 1 else 's'} filled in"
        said = [f"{'wrote' if self.is_new else 'updated'} {self.path}: {values}"]
        said += [f"  updated {each}" for each in self.updated]
        said += [f"  kept as it is: {each}" for each in self.kept]
        said += ["  (to take another value over, empty yours and run this again)"] if self.kept else []
        return [*said, *(f"  note: {each}" for each in self.notes)]


def plan_from(recipe: Path, run: Path | None, out: Path, force: bool = False, look_for_run: bool = True) -> Filled:
    """Write the plan of a recipe to `out`, or bring the plan that is there up to date.

    Args:
        recipe: its YAML file.
        run: a run folder of the recipe; None takes `runs/<recipe name>` where there is one and `look_for_run` is set.
        out: the plan's file.
        force: write it anew, whatever plan is there.

    Raises:
        PlanError: `out` holds something that is no plan.
        RecipeError: the recipe is broken.
        RunError: `run` is no run folder.
    """
    known, directory = load_recipe(recipe), out.resolve().parent
    filled = Filled(out, force or not out.exists())
    if out.exists() and (not force or out.resolve() == recipe.resolve()):
        load_plan(out)
    seen = _observed(known, run, filled.notes) if run is not None or look_for_run else None
    facts = [
        *recipe_facts(known, recipe, directory),
        *_counted(known, recipe, seen),
        *(run_facts(seen) if seen else ()),
    ]
    if known.sample.drafts_from is not None:
        filled.notes.append("sample.drafts_from: its drafts are trained on; review the terms of whoever wrote them too")
    text = EditedText((BLANK if filled.is_new else out).read_text(encoding="utf-8"))
    document = load_document(BLANK if filled.is_new else out, PlanError)
    sources = dict(document.data.get("sources") or {})
    for fact in facts if filled.is_new else (each for each in facts if each.key != "name"):
        _put(text, document, fact, sources, filled)
    if seen is not None:
        _put_calls(text, document, seen, sources, filled)
        text.set_block("shown", shown(seen), SHOWN)
    text.set_block("sources", sources, SOURCES)
    parse_plan(parse_document(text.text, out, PlanError), directory)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text.text)
    return filled


def _observed(recipe: Recipe, run: Path | None, notes: list[str]) -> Observed | None:
    """Return the run to read: the one that is named, else the recipe's own under ./runs where its models are the same."""
    folder = Path("runs") / recipe.name if run is None else run
    if run is None and not (folder / "manifest.json").is_file():
        return None
    try:
        directory, own = stored_run(folder)
    except PrefdistillError as problem:
        if run is not None:
            raise
        notes.append(f"{folder} was not read: {problem}")
        return None
    other = differences(recipe, own)
    if other and run is None:
        notes.append(f"{folder} was not read: it has {', '.join(other)}; name it with --run to read it all the same")
        return None
    if other:
        notes.append(f"{folder} is a run with {', '.join(other)}: what it shows holds for those")
    done = directory.result.is_file()
    if not done:
        notes.append(f"{folder} is not finished: its scores and costs are left out")
    finished = FinishedRun(directory, own, read_json(directory.result), read_json(directory.manifest)) if done else None
    return Observed(directory, own, finished)


def _counted(recipe: Recipe, path: Path, seen: Observed | None) -> Iterable[Fact]:
    """Return how many prompts each split has, where no run tells."""
    counts = {} if seen is not None else prompt_counts(recipe)
    return [Fact(f"data.{split}", count, path.name) for split, count in counts.items()]


def _put(text: EditedText, document: Document, fact: Fact, sources: dict[str, str], filled: Filled) -> None:
    """Write one value, unless the plan has one that a person decided."""
    old, stands = _at(document.data, fact.key), sources.get(fact.key, "")
    if not filled.is_new and old == fact.value:
        if not stands:  # the person's own, and it happens to be the same
            return
    elif filled.is_new or old in OPEN:
        filled.filled.append(fact.key)
    elif stands.endswith(f"{MEASURED}{flow(old)}"):
        filled.updated.append(f"{fact.key}: {flow(old)} → {flow(fact.value)} ({fact.where})")
    else:
        filled.kept.append(f"{fact.key}: {flow(old)}, not {flow(fact.value)} ({fact.where})")
        return
    if old != fact.value:
        text.set(fact.key, fact.value, fact.where)
    sources[fact.key] = f"{fact.where}{MEASURED}{flow(fact.value)}"


def _put_calls(text: EditedText, document: Document, seen: Observed, sources: dict[str, str], filled: Filled) -> None:
    """Write what the run's own calls cost among what is paid once; other items are the person's."""
    item, key = calls_item(seen), "costs.one_off"
    if item is None:
        return
    items = _at(document.data, key) or []
    same = [number for number, each in enumerate(items) if each.get("what") == item["what"]]
    if not same:
        text.add_item(
            key, item, f"{seen.said}: all its paid calls; add people's time, training and whatever else is paid once"
        )
        filled.filled.append(key)
    elif items[same[0]].get("usd") != item["usd"]:
        if not sources.get(key, "").endswith(f"{MEASURED}{flow(items[same[0]].get('usd'))}"):
            filled.kept.append(f"{key}: {flow(items[same[0]])}, not {flow(item['usd'])} ({seen.said})")
            return
        filled.updated.append(f"{key}: {item['what']}: {flow(items[same[0]].get('usd'))} → {flow(item['usd'])}")
        text.set_in_item(key, same[0], "usd", item["usd"])
    sources[key] = f"{seen.said}: all its paid calls{MEASURED}{flow(item['usd'])}"


def _at(data: Mapping[str, Any], key: str) -> Any:
    section, _, inner = key.partition(".")
    found = data.get(section)
    return found if not inner else found.get(inner) if isinstance(found, dict) else None
