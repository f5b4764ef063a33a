"""What a model's own card says of its licence: read from its folder, its package or the hub's cache, never the network."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST_CARD = 1_000_000
"""Characters of a card that are read."""
LONGEST_NAME = 100
"""Characters of a licence's name, a link or a model's name that are kept."""
DEEPEST = 6
"""Models of a chain that are followed."""


@dataclass(frozen=True)
class Card:
    """What is known of one model's licence."""

    model: str
    """Hub id, or the folder's own name."""
    licence: str | None
    """As the card names it, such as apache-2.0; None where it is not found."""
    link: str | None = None
    source: str = ""
    """Where it was read; where it was not found, why."""
    advice: str = ""
    """What to do where it was not found."""
    base_models: tuple[str, ...] = ()
    """What the card says that the model was made from."""


def read_chain(model: str, directory: Path, revision: str | None = None) -> tuple[Card, ...]:
    """Return a model's card, then those of the models that it was made from, as far as they are on this machine.

    Args:
        model: a hub id, a folder relative to `directory`, or `package:folder`.
        directory: of the plan or recipe that names it.
        revision: commit or tag on the hub.
    """
    cards = [read_card(model, directory, revision)]
    wanted = list(cards[0].base_models)
    seen = {model, cards[0].model}
    while wanted and len(cards) < DEEPEST:
        name = wanted.pop(0)
        if name not in seen:
            seen.add(name)
            cards.append(read_card(name, directory, None))
            wanted += cards[-1].base_models
    return tuple(cards)


def read_card(model: str, directory: Path, revision: str | None) -> Card:
    """Return what a model's card says of its licence, or why it is not known and what to do."""
    package, colon, inner = model.partition(":")
    if colon and package.replace(".", "").replace("_", "").isalnum():
        return _of_package(model, package, inner)
    folder = (directory / Path(model).expanduser()).resolve()
    if folder.is_dir():
        return _of_folder(folder)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        return Card(model, None, source="there is no such folder", advice="name the student's folder, or a hub id")
    return _of_hub(model, revision)


def _of_folder(folder: Path) -> Card:
    found = _read(folder / "README.md", folder / "config.json", folder.name)
    if found is not None:
        return found
    advice = (
        "look up what the model was made from and under which licence, and write that as `license: …` between two lines "
        "`---` at the top of a README.md in its folder"
    )
    said = "its README.md names no licence" if (folder / "README.md").is_file() else "its folder has no model card"
    return Card(folder.name, None, source=f"not found: {said} (README.md)", advice=advice)


def _of_package(model: str, package: str, inner: str) -> Card:
    """A folder inside an installed package: its own card, else what the package says of itself."""
    spec = importlib.util.find_spec(package.split(".")[0]) and importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        found = _read(Path(root) / inner / "README.md", Path(root) / inner / "config.json", model)
        if found is not None:
            return found
    name = package.split(".")[0]
    try:
        about = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return Card(model, None, source=f"not found: there is no package {name}", advice="install it, or name a folder")
    licence = next((_name(about[key]) for key in ("License-Expression", "License") if about.get_all(key)), "")
    if not licence:
        return Card(
            model, None, source=f"not found: package {name} names no licence", advice="ask who made the package"
        )
    return Card(model, licence, source=f"metadata of the installed package {name}, which the model is part of")


def _of_hub(model: str, revision: str | None) -> Card:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        card, config = (try_to_load_from_cache(model, name, revision=revision) for name in ("README.md", "config.json"))
    except HFValidationError:
        return Card(
            model, None, source="not found: no hub id, and no folder of that name", advice="name one of the two"
        )
    paths = [Path(each) if isinstance(each, str) else None for each in (card, config)]
    found = _read(paths[0], paths[1], model)
    if found is not None:
        return found
    said = "its card names no licence" if paths[0] else "its card is not in the hub's cache on this machine"
    at = f" --revision {revision}" if revision else ""
    advice = f"put the card there with: hf download {model} README.md{at}; then plan again"
    return Card(model, None, source=f"not found: {said}", advice=advice if not paths[0] else "ask who published it")


def _read(card: Path | None, config: Path | None, model: str) -> Card | None:
    """Return what a card's front matter says, else the licence in the model's configuration; None without a licence."""
    front = _front_matter(card) if card is not None and card.is_file() else {}
    bases = tuple(dict.fromkeys(_names(front.get("base_model"))))
    licence = next(_names(front.get("license")), None)
    if licence is not None:
        if licence.lower() in ("other", "unknown"):
            licence = next(_names(front.get("license_name")), licence)
        link = next(_names(front.get("license_link")), None)
        return Card(model, licence, link, "its model card (README.md)", base_models=bases)
    if config is not None and config.is_file():
        try:
            data: Any = json.loads(config.read_text(encoding="utf-8", errors="replace"))
        except ValueError:
            data = None
        licence = next(_names(data.get("license")), None) if isinstance(data, dict) else None
        if licence is not None:
            return Card(model, licence, source="its config.json", base_models=bases)
    return None


def _front_matter(card: Path) -> dict[str, Any]:
    """Return the YAML between the first two lines `---` of a card; empty where there is none that can be read."""
    import yaml
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    with card.open(encoding="utf-8-sig", errors="replace") as file:
        found = REGEX_YAML_BLOCK.search(file.read(LONGEST_CARD))
    try:
        data = yaml.safe_load(found.group(2)) if found else None
    except (yaml.YAMLError, ValueError, RecursionError):
        data = None
    return data if isinstance(data, dict) else {}


def _names(value: Any) -> Iterator[str]:
    """Yield the names that a card gives, one or several."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, str) and _name(each):
            yield _name(each)


def _name(text: str) -> str:
    """Return a text from a card as a short line of printable characters."""
    line = " ".join("".join(each for each in text if each.isprintable() or each.isspace()).split())
    return line if len(line) <= LONGEST_NAME else f"{line[: LONGEST_NAME - 1]}…"
