"""Load: a prompts file or data set to prompts with ids, fields and splits.

Nothing is cut or dropped in silence: equal prompts are merged and counted, near duplicates across splits are
reported, and a row that cannot be used is an error with its line.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_args

from prefdistill.errors import RecipeError, RubricError, did_you_mean
from prefdistill.records import Draft, Message, Prompt, Split, digest, seed_of
from prefdistill.rubric import RubricSet

SPLITS: tuple[Split, ...] = get_args(Split)
NEAR_DUPLICATE_JACCARD = 0.8
"""Share of common 5-word shingles above which two prompts are near duplicates."""


@dataclass(frozen=True)
class Loaded:
    """The prompts, and what a user should know about them."""

    prompts: tuple[Prompt, ...]
    merged: int
    """Rows merged into an equal one."""
    near_duplicates: tuple[tuple[str, str], ...]
    """Pairs of prompt ids in different splits that nearly repeat each other."""

    def of(self, split: Split) -> tuple[Prompt, ...]:
        """Return one split's prompts, sorted by id."""
        return tuple(sorted((p for p in self.prompts if p.split == split), key=lambda p: p.id))


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) from a .jsonl, .json or .csv file.

    Raises:
        RecipeError: the file is empty, has another ending, or a line cannot be read.
    """
    ending = path.suffix.lower()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise RecipeError(f"{path}: cannot be read ({problem}); expected UTF-8 text") from None
    if not text.strip():
        raise RecipeError(f"{path}: the file is empty; expected rows with a `prompt` or `messages` column")
    if ending == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield f"{path}:{number}", _object(line, f"{path}:{number}")
    elif ending == ".json":
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as problem:
            raise RecipeError(f"{path}:{problem.lineno}: not valid JSON ({problem.msg})") from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise RecipeError(f"{path}: expected a JSON list of objects")
        for number, row in enumerate(rows, start=1):
            yield f"{path}: row {number}", row
    elif ending == ".csv":
        reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
        repeated = [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1]
        if repeated:
            raise RecipeError(f"{path}:1: the column `{repeated[0]}` is there twice; give each a name of its own")
        for record in _csv_records(path, reader):
            if None in record or None in record.values():
                raise RecipeError(f"{path}:{reader.line_num}: the row has another number of cells than the header")
            yield f"{path}:{reader.line_num}", {key: value for key, value in record.items() if value != ""}
    else:
        raise RecipeError(f"{path}: found the ending `{ending}`; expected .jsonl, .json or .csv")


def _csv_records(path: Path, reader: csv.DictReader[str]) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as problem:
        raise RecipeError(f"{path}:{reader.line_num}: not valid CSV ({problem}); close every quote") from None


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as problem:
        raise RecipeError(f"{where}: not valid JSON ({problem.msg}); expected one object a line") from None
    if not isinstance(row, dict):
        raise RecipeError(f"{where}: found a {type(row).__name__}; expected a JSON object")
    return row


def read_dataset(
    source: str, name: str | None = None, revision: str | None = None, split: str = "train"
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) from a `datasets` id or a folder written by `save_to_disk`.

    Raises:
        RecipeError: the data set, its configuration or its split cannot be loaded.
    """
    import datasets

    try:
        if Path(source).is_dir():
            data = datasets.load_from_disk(source)
            if isinstance(data, datasets.DatasetDict):
                if split not in data:
                    known = ", ".join(data)
                    raise RecipeError(f"{source}: no split `{split}`{did_you_mean(split, data)} (splits: {known})")
                data = data[split]
        else:
            data = datasets.load_dataset(source, name, revision=revision, split=split)
    except RecipeError:
        raise
    except Exception as problem:  # the hub, pyarrow and fsspec each raise their own kinds
        raise RecipeError(
            f"prompts: data set {source} cannot be loaded: {type(problem).__name__}: {problem}; "
            "expected a data set id that you can reach, or a folder written by datasets.save_to_disk"
        ) from problem
    for number, row in enumerate(data):
        yield f"{source}: row {number}", {key: value for key, value in dict(row).items() if value is not None}


def load_prompts(
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    *,
    columns: Mapping[str, str],
    split_by: str | None,
    split_column: str | None,
    validation_fraction: float,
    test_fraction: float,
    system: str | None = None,
    needed: Sequence[Split] = SPLITS,
) -> Loaded:
    """Turn rows into prompts: ids, fields, splits; equal prompts merged.

    Args:
        rows: (where, row) pairs; a row has `prompt` (text) or `messages`, an optional `id`; the rest become fields.
        columns: which column stands for prompt, messages and id.
        split_by: the column whose rows stay together; None splits by the prompt's id.
        split_column: the column that holds the split itself.
        validation_fraction: share of the split keys that go to validation, by hash of the key.
        test_fraction: likewise for test.
        system: system prompt put before messages that have none of their own.
        needed: the splits that may not be empty.

    Raises:
        RecipeError: with the row's place, what was found and what was expected.
    """
    found: dict[str, Prompt] = {}
    copies: dict[str, int] = {}
    places: dict[str, str] = {}
    for where, row in rows:
        prompt = _prompt(where, row, columns, split_by, split_column, validation_fraction, test_fraction, system)
        if prompt.id in found:
            if found[prompt.id].messages != prompt.messages:
                raise RecipeError(
                    f"{where}: the id is used for another text in {places[prompt.id]}; give each prompt an id of its own"
                )
            copies[prompt.id] += 1
            continue
        found[prompt.id], copies[prompt.id], places[prompt.id] = prompt, 1, where
    by_text: dict[tuple[Message, ...], Prompt] = {}
    merged = sum(copies.values()) - len(copies)
    for prompt in sorted(found.values(), key=lambda prompt: prompt.id):
        same = by_text.get(prompt.messages)
        if same is not None and same.fields == prompt.fields:
            copies[same.id] += copies[prompt.id]
            merged += 1
        else:
            by_text.setdefault(prompt.messages, prompt)
            if same is not None:
                by_text[(*prompt.messages, Message(role="user", content=prompt.id))] = prompt
    prompts = tuple(
        prompt.model_copy(update={"tags": (*prompt.tags, f"copies:{copies[prompt.id]}")})
        if copies[prompt.id] > 1
        else prompt
        for prompt in sorted(by_text.values(), key=lambda prompt: prompt.id)
    )
    for split in needed:
        if prompts and not any(prompt.split == split for prompt in prompts):
            raise RecipeError(
                f"prompts: {len(prompts)} prompts, none of them in the {split} split; expected at least one: "
                f"add prompts, or {'lower' if split == 'train' else 'raise'} validation_fraction or test_fraction"
            )
    if not prompts:
        raise RecipeError("prompts: no rows; expected rows with a `prompt` or `messages` column")
    return Loaded(prompts, merged, near_duplicates(prompts))


def load_unsplit(
    rows: Iterable[tuple[str, Mapping[str, Any]]], columns: Mapping[str, str], system: str | None
) -> Loaded:
    """Turn rows into prompts whose splits do not matter, as `load_prompts` does."""
    return load_prompts(
        rows,
        columns=columns,
        split_by=None,
        split_column=None,
        validation_fraction=0.1,
        test_fraction=0.1,
        system=system,
        needed=(),
    )


def _prompt(
    where: str,
    row: Mapping[str, Any],
    columns: Mapping[str, str],
    split_by: str | None,
    split_column: str | None,
    validation_fraction: float,
    test_fraction: float,
    system: str | None,
) -> Prompt:
    names = {name: columns.get(name, name) for name in ("prompt", "messages", "id")}
    messages = _messages(where, row, names)
    own_id = row.get(names["id"])
    prompt_id = digest({"id": str(own_id)} if own_id is not None else [m.model_dump() for m in messages], 12)
    used = {names["id"], names["messages"] if names["messages"] in row else names["prompt"], split_column}
    fields = {key: value for key, value in row.items() if key not in used}
    if split_column is not None:
        split = row.get(split_column)
        if split not in SPLITS:
            raise RecipeError(f"{where}: {split_column} is {split!r}; expected train, validation or test")
    else:
        if split_by is not None and row.get(split_by) in (None, ""):
            raise RecipeError(f"{where}: no value in the column `{split_by}` that prompts.split_by names")
        key = prompt_id if split_by is None else str(row[split_by])
        point = seed_of("split", key) / 2**63
        split = "test" if point < test_fraction else "train"
        if test_fraction <= point < test_fraction + validation_fraction:
            split = "validation"
    if system and messages[0].role != "system":
        messages = (Message(role="system", content=system), *messages)
    tags = () if own_id is None else (f"id:{own_id}",)
    return Prompt(id=prompt_id, messages=messages, split=split, fields=fields, tags=tags)


def _messages(where: str, row: Mapping[str, Any], names: Mapping[str, str]) -> tuple[Message, ...]:
    if names["messages"] in row:
        value = row[names["messages"]]
        if isinstance(value, str):
            value = _messages_from_text(where, value)
        try:
            messages = tuple(Message(role=each["role"], content=each["content"]) for each in value)
        except (TypeError, KeyError, ValueError):
            raise RecipeError(
                f"{where}: `{names['messages']}` is no list of {{role, content}} turns with role system, user or assistant"
            ) from None
    elif names["prompt"] in row:
        if not isinstance(row[names["prompt"]], str):
            found = type(row[names["prompt"]]).__name__
            raise RecipeError(f"{where}: `{names['prompt']}` is a {found}; expected text (use `messages` for turns)")
        messages = (Message(role="user", content=row[names["prompt"]]),)
    else:
        near = did_you_mean(names["prompt"], row)
        raise RecipeError(
            f"{where}: no column `{names['prompt']}` and no `{names['messages']}`{near} (columns: {', '.join(row)}); "
            "map yours with prompts.columns"
        )
    if not messages or messages[-1].role != "user":
        raise RecipeError(f"{where}: the last message is not the user's; expected messages that end with a user turn")
    if not messages[-1].content.strip():
        raise RecipeError(f"{where}: the prompt has no text; write one or remove the row")
    return messages


def _messages_from_text(where: str, text: str) -> Any:
    """Read messages that a CSV cell holds as JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        raise RecipeError(f"{where}: messages are not valid JSON ({problem.msg})") from None


def near_duplicates(prompts: Sequence[Prompt]) -> tuple[tuple[str, str], ...]:
    """Return pairs of ids from different splits whose 5-word shingles overlap by at least 0.8 (MinHash, then exact)."""
    from datasketch import MinHash, MinHashLSH

    shingles = {prompt.id: _shingles(prompt.text) for prompt in prompts}
    index = MinHashLSH(threshold=NEAR_DUPLICATE_JACCARD, num_perm=64)
    splits = {prompt.id: prompt.split for prompt in prompts}
    pairs: set[tuple[str, str]] = set()
    for prompt in prompts:
        sketch = MinHash(num_perm=64, seed=1)
        sketch.update_batch([shingle.encode() for shingle in shingles[prompt.id]])
        for other in index.query(sketch):
            mine, theirs = shingles[prompt.id], shingles[other]
            if splits[other] != prompt.split and len(mine & theirs) >= NEAR_DUPLICATE_JACCARD * len(mine | theirs):
                pairs.add((min(other, prompt.id), max(other, prompt.id)))
        index.insert(prompt.id, sketch)
    return tuple(sorted(pairs))


def _shingles(text: str, words: int = 5) -> set[str]:
    tokens = text.lower().split()
    return {" ".join(tokens[i : i + words]) for i in range(max(1, len(tokens) - words + 1))}


def check_fields(prompts: Sequence[Prompt], rubrics: RubricSet) -> dict[str, int]:
    """Return, per rubric field that some prompts lack, how many lack it; there its criterion does not apply.

    Raises:
        RubricError: no prompt of a kind has the field, or a prompt's kind has no rubric.
    """
    groups: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        rubrics.of(prompt)
        groups.setdefault(rubrics.kind(prompt), []).append(prompt)
    lacking: dict[str, int] = {}
    for kind, group in groups.items():
        for criterion in rubrics.rubrics[kind].all_criteria:
            for name in sorted(criterion.fields):
                missing = sum(prompt.fields.get(name) in (None, "") for prompt in group)
                if missing == len(group):
                    known = sorted({key for prompt in group for key in prompt.fields})
                    raise RubricError(
                        f"{rubrics.rubrics[kind].where(criterion.name)}: no prompt has the field `{name}`"
                        f"{did_you_mean(name, known)} (columns: {', '.join(known) or 'none'})"
                    )
                if missing:
                    lacking[name] = max(missing, lacking.get(name, 0))
    return lacking


class Identified(Protocol):
    """Something with an id, such as a prompt."""

    @property
    def id(self) -> str:
        """Its id."""


Each = TypeVar("Each", bound=Identified)


def round_slices(
    prompts: Sequence[Each], rounds: int, size: int, seed: int, warm_start: int | None = None
) -> list[tuple[Each, ...]]:
    """Return each round's train prompts: consecutive slices of one seeded shuffle, wrapping around.

    A slice never holds a prompt twice; with fewer prompts than `size` every round has them all.

    Args:
        warm_start: at most so many prompts, from the head of the shuffle, are a slice before all others; None for none.
    """
    order = sorted(prompts, key=lambda prompt: seed_of(seed, "shuffle", prompt.id))
    first = [] if warm_start is None else [tuple(order[:warm_start])]
    size = min(size, len(order))
    return [
        *first,
        *(tuple(order[(number * size + i) % len(order)] for i in range(size)) for number in range(rounds)),
    ]


def load_drafts(path: Path, prompts: Sequence[Prompt], round: int) -> list[Draft]:
    """Read existing drafts, rows `{prompt_id | prompt, completion, model}`, for the given prompts.

    `prompt_id` is the user's own id or ours; rows of other prompts are left out.

    Raises:
        RecipeError: a row has no completion or no prompt, or no row belongs to any prompt.
    """
    by_key: dict[str, Prompt] = {}
    for prompt in prompts:
        by_key[prompt.id] = by_key[prompt.text] = prompt
        by_key.update({tag.removeprefix("id:"): prompt for tag in prompt.tags if tag.startswith("id:")})
    drafts: list[Draft] = []
    counts: dict[tuple[str, str], int] = {}
    for where, row in read_rows(path):
        unknown = set(row) - {"prompt_id", "prompt", "completion", "model", "finish_reason"}
        if unknown or not isinstance(row.get("completion"), str) or not ({"prompt_id", "prompt"} & set(row)):
            extra = f"; unknown {', '.join(sorted(unknown))}" if unknown else ""
            raise RecipeError(f"{where}: expected {{prompt_id or prompt, completion, model}} with text{extra}")
        found = by_key.get(str(row.get("prompt_id", row.get("prompt"))))
        if found is None:
            continue
        source = f"file:{row.get('model', path.stem)}"
        index = counts.get((found.id, source), 0)
        counts[found.id, source] = index + 1
        drafts.append(
            Draft(
                id=Draft.make_id(found.id, source, round, found.split, index),
                prompt_id=found.id,
                source=source,
                policy=None,
                round=round,
                purpose=found.split,
                index=index,
                completion=row["completion"],
                finish_reason=row.get("finish_reason"),
            )
        )
    if not drafts:
        raise RecipeError(
            f"{path}: no row belongs to any of the {len(prompts)} prompts; expected `prompt_id` equal to the prompts' "
            "`id` column, or `prompt` equal to their text"
        )
    return drafts
