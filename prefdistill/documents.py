"""Read YAML with line numbers, and turn a validation error into `file:line: key: what to do`.

YAML 1.2 is read by ruamel.yaml in its safe, data-only round-trip mode: no tag can build an object, duplicate keys
are refused, and every key remembers its line.
"""

from __future__ import annotations

import io
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError

from prefdistill.errors import PrefdistillError, did_you_mean

AMBIGUOUS_WORDS = frozenset({"yes", "no", "on", "off", "y", "n"})
Location = tuple[str | int, ...]
LONGEST_SHOWN = 120
"""Characters of a value that an error shows."""


@dataclass
class Document:
    """A parsed YAML file as plain data, with the line of every key and list item."""

    path: Path
    data: dict[str, Any]
    lines: dict[Location, int] = field(default_factory=dict)
    """Location, such as ("judge", "use") or ("criteria", 0), to its line (from 1)."""
    plain_words: list[tuple[Location, str]] = field(default_factory=list)
    """Unquoted yes, no, on, off, y, n: strings here, booleans to a YAML 1.1 reader."""
    overrides: set[Location] = field(default_factory=set)
    """Locations set on the command line."""

    def where(self, location: Location) -> str:
        """Return `file:line` of the nearest enclosing location that has a line."""
        for end in range(len(location), 0, -1):
            if location[:end] in self.overrides:
                return "command line"
            if location[:end] in self.lines:
                return f"{self.path}:{self.lines[location[:end]]}"
        return str(self.path)


def load_document(path: Path, error: type[PrefdistillError]) -> Document:
    """Read the YAML mapping in `path`.

    Raises:
        error: the file is missing, is not YAML, repeats a key or does not hold a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(f"{path}: no such file; expected a YAML file") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path}: cannot be read ({problem}); expected a UTF-8 YAML file") from None
    return parse_document(text, path, error)


def parse_document(text: str, path: Path, error: type[PrefdistillError]) -> Document:
    """Parse `text` as the YAML mapping of `path` (see `load_document`)."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    reader = YAML(typ="rt")
    reader.preserve_quotes = True
    try:
        tree = reader.load(io.StringIO(text))
    except DuplicateKeyError as problem:
        line = problem.problem_mark.line + 1 if problem.problem_mark else 1
        name = (problem.problem or "").split('"')[1] if '"' in (problem.problem or "") else "a key"
        raise error(f"{path}:{line}: {name}: duplicate key; write each key once") from None
    except MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line = mark.line + 1 if mark else 1
        raise error(f"{path}:{line}: not valid YAML: {problem.problem or problem.context}") from None
    except YAMLError as problem:
        raise error(f"{path}: not valid YAML: {problem}") from None
    if tree is None:
        raise error(f"{path}: the file is empty; expected a YAML mapping")
    if not isinstance(tree, Mapping):
        found = "list" if isinstance(tree, list) else "single value"
        raise error(f"{path}:1: found a {found}; expected a YAML mapping of keys to values")
    document = Document(path=path, data={})
    document.data = _plain(tree, (), document, error)
    return document


def _plain(node: Any, at: Location, document: Document, error: type[PrefdistillError]) -> Any:
    """Return `node` as plain Python data, noting lines and unquoted words on the way."""
    from ruamel.yaml.comments import TaggedScalar
    from ruamel.yaml.scalarbool import ScalarBoolean
    from ruamel.yaml.scalarfloat import ScalarFloat
    from ruamel.yaml.scalarint import ScalarInt
    from ruamel.yaml.scalarstring import ScalarString

    tag = getattr(node, "tag", None)
    if isinstance(node, TaggedScalar) or (tag is not None and getattr(tag, "value", None)):
        value = getattr(tag, "value", tag)
        raise error(f"{document.where(at)}: YAML tag `{value}` is not allowed; write plain data")
    if isinstance(node, Mapping):
        result: dict[str, Any] = {}
        for key in node:
            if not isinstance(key, str):
                raise error(f"{document.where(at)}: key {key!r} is not text; put it in quotes")
            here = (*at, str(key))
            position = node.lc.data.get(key) if hasattr(node, "lc") and node.lc.data else None
            if position:
                document.lines[here] = position[0] + 1
            result[str(key)] = _plain(node[key], here, document, error)
        return result
    if isinstance(node, Sequence) and not isinstance(node, str):
        items = []
        for index, item in enumerate(node):
            here = (*at, index)
            position = node.lc.data.get(index) if hasattr(node, "lc") and node.lc.data else None
            if position:
                document.lines[here] = position[0] + 1
            items.append(_plain(item, here, document, error))
        return items
    if isinstance(node, ScalarBoolean):
        return bool(node)
    if isinstance(node, ScalarInt):
        return int(node)
    if isinstance(node, ScalarFloat):
        return float(node)
    if isinstance(node, ScalarString):
        return str(node)
    if isinstance(node, str) and node.lower() in AMBIGUOUS_WORDS:
        document.plain_words.append((at, node))
    return node


def render_yaml(data: Any) -> str:
    """Write plain data as YAML that every reader understands the same way (yes and no are quoted)."""
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)


def dotted(location: Location) -> str:
    """Return a location as a reader types it: `judge.teacher.model`, `criteria.0.levels`."""
    return ".".join(str(part) for part in location)


def raise_invalid(
    problem: ValidationError,
    document: Document,
    error: type[PrefdistillError],
    model: type[BaseModel],
    at: Location = (),
) -> NoReturn:
    """Raise `error` with one line per problem: file, line, dotted key, what was found, what was expected."""
    items = problem.errors()
    deepest = [
        item
        for item in items
        if not any(
            len(other["loc"]) > len(item["loc"]) and other["loc"][: len(item["loc"])] == item["loc"] for other in items
        )
    ]
    raise error("\n".join(dict.fromkeys(_line(item, document, model, at) for item in deepest))) from None


def _line(item: Mapping[str, Any], document: Document, model: type[BaseModel], at: Location) -> str:
    raw: Location = tuple(item["loc"])
    location = (*at, *_in_document(raw, document, at))
    if item["type"] in ("value_error", "assertion_error"):  # said of a whole section: its own fields are no keys
        while len(location) > 1 and not _holds(document.data, location):
            location = location[:-1]
    where = f"{document.where(location)}: {dotted(location) or document.path.name}"
    kind = item["type"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        keys = (item.get("ctx") or {}).get("keys") or sorted(_keys_at(model, raw[:-1]))
        known = f" (keys: {', '.join(keys)})" if keys else ""
        return f"{where}: unknown key{did_you_mean(str(location[-1]), keys)}{known}"
    if kind == "missing":
        return f"{where}: missing; add this key"
    found = item.get("input")
    message = str(item["msg"])
    for prefix in ("Value error, ", "Assertion failed, "):
        message = message.removeprefix(prefix)
    message = message[:1].lower() + message[1:]
    if kind in ("value_error", "assertion_error"):
        return f"{where}: {message}"
    message = _expected(item, location, where, model, raw) or message.replace("input should", "it should")
    return f"{where}: found {_shown(found)}; {message}"


def _shown(found: Any) -> str:
    if found is None:
        return "nothing"
    if isinstance(found, (list, tuple)):
        return "a list"
    return "a mapping" if isinstance(found, (Mapping, BaseModel)) else repr(found)[:LONGEST_SHOWN]


def _expected(
    item: Mapping[str, Any], location: Location, where: str, model: type[BaseModel], raw: Location
) -> str | None:
    """Say what a place for several values wants, in the words of YAML; None where the error says it well itself."""
    kind, found = str(item["type"]), item.get("input")
    if kind == "path_type":
        return "expected a path"
    if kind in ("list_type", "tuple_type", "set_type"):
        return "expected a list"
    if kind not in ("model_type", "dict_type"):
        return None
    section = (item.get("ctx") or {}).get("model") or _model_at(model, raw)
    if section is None:
        return "expected a mapping of keys to values"
    slot = getattr(section, "slot", None)  # the field that the recipe writes as `use` and its options
    keys = ["use" if name == slot else name for name in section.model_fields]
    key, value = _example(section, slot, found)
    if where.startswith("command line") and all(isinstance(part, str) for part in location):
        written = f"{dotted(location)}.{key}={value}"
    else:
        written = f"{{{key}: {value}}}" if isinstance(location[-1], int) else f"{location[-1]}: {{{key}: {value}}}"
    more = ", and the plug-in's own" if slot is not None else ""
    return f"expected a mapping of keys to values: write `{written}` (keys: {', '.join(keys)}{more})"


def _example(section: type[BaseModel], slot: str | None, found: Any) -> tuple[str, Any]:
    """Return a key of a section that would take what was found in the section's own place, else one it is known by."""
    given = found[0] if isinstance(found, (list, tuple)) and len(found) == 1 else found
    given = "…" if isinstance(given, str) and len(given) > LONGEST_SHOWN else given
    if slot is not None and isinstance(given, str):
        return "use", given
    required = [name for name, about in section.model_fields.items() if about.is_required() and name != slot]
    for name in dict.fromkeys((*required, *section.model_fields)):
        if name == slot or isinstance(given, bool) or not isinstance(given, (str, int, float)):
            continue
        try:
            kind = section.model_fields[name].rebuild_annotation()
            TypeAdapter(kind, config={"arbitrary_types_allowed": True}).validate_python(given)
        except (ValidationError, PydanticUserError, PrefdistillError):
            continue
        return name, given
    if slot is not None:
        return "use", getattr(section, "default_use", "…")
    return (required or list(section.model_fields))[0], "…"


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """Return the model of what stands at a location, None where that is not known."""
    models = [model]
    for part in (each for each in location if not isinstance(each, int)):
        fields = [each.model_fields[part] for each in models if part in each.model_fields]
        if fields:  # else it names a branch of a union
            models = [found for field in fields for found in _models(field.annotation)]
    return models[0] if len(models) == 1 else None


def _holds(node: Any, location: Location) -> bool:
    """Whether there is something at a location of the document."""
    for part in location:
        known_key = isinstance(node, Mapping) and part in node
        known_item = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if not (known_key or known_item):
            return False
        node = node[part]
    return True


def _in_document(location: Location, document: Document, at: Location) -> Location:
    """Drop the parts that pydantic adds for unions and validators, which are no keys of the document."""
    node: Any = document.data
    for part in at:
        node = node[part]
    kept: list[str | int] = []
    for number, part in enumerate(location):
        known_key = isinstance(node, Mapping) and part in node
        known_item = isinstance(node, list) and isinstance(part, int) and part < len(node)
        if known_key or known_item:
            node = node[part]
            kept.append(part)
        elif number == len(location) - 1 and isinstance(node, Mapping) and isinstance(part, str) and "[" not in part:
            kept.append(part)
    return tuple(kept)


def _keys_at(model: type[BaseModel], location: Location) -> set[str]:
    """Return the keys that `model` allows at `location`."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        if isinstance(part, int):
            continue
        models = [
            found
            for each in models
            if part in each.model_fields
            for found in _models(each.model_fields[part].annotation)
        ] or models
    return {name for each in models for name in each.model_fields}


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the pydantic models inside a type annotation."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in typing.get_args(annotation) for model in _models(part)]
