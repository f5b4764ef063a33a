"""The shipped prompt files: enough prompts, no near duplicates, and every named fact to be found in its prompt."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

PROMPTS = Path(__file__).resolve().parents[2] / "recipes" / "prompts"
FILES = {"emails.jsonl": 300, "paragraphs.jsonl": 100}
"""File name and the least number of prompts in it."""

Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    """Return a file's rows; fail where the file is missing or empty."""
    path = PROMPTS / name
    assert path.is_file(), f"{path} is not there"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows, f"{path} is empty"
    return rows


def shingles(text: str, length: int = 5) -> set[tuple[str, ...]]:
    """Return the runs of `length` words in `text`."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def paragraph_of(row: Row) -> str:
    """Return what differs from row to row: the paragraph where there is one, else the prompt."""
    return str(row.get("source", row["prompt"]))


@pytest.mark.parametrize(("name", "least"), FILES.items())
def test_enough_rows_with_unique_ids(name: str, least: int) -> None:
    rows = rows_of(name)
    assert len(rows) >= least
    assert len({row["id"] for row in rows}) == len(rows)


@pytest.mark.parametrize("name", FILES)
def test_every_value_is_text(name: str) -> None:
    """An absent fact is an absent key; an empty string would look like a fact."""
    for row in rows_of(name):
        for key, value in row.items():
            assert isinstance(value, str), f"{row['id']}: {key} is {value!r}"
            assert value, f"{row['id']}: {key} is empty"
            assert value == value.strip(), f"{row['id']}: {key} is {value!r}"


@pytest.mark.parametrize("name", FILES)
def test_no_near_duplicates(name: str) -> None:
    sets = [(row["id"], shingles(paragraph_of(row))) for row in rows_of(name)]
    assert all(runs for _, runs in sets), "a prompt is too short to compare"
    near = [(a, b) for (a, one), (b, two) in combinations(sets, 2) if len(one & two) > 0.7 * len(one | two)]
    assert near == []


def test_the_near_duplicate_measure_sees_one() -> None:
    row = rows_of("emails.jsonl")[0]["prompt"]
    one, two = shingles(row), shingles(row + " Thanks!")
    assert len(one & two) > 0.7 * len(one | two)


def test_email_fields_occur_verbatim() -> None:
    rows = rows_of("emails.jsonl")
    known = {"id", "prompt", "recipient", "sender", "topic", "day", "time", "reason", "ask"}
    for row in rows:
        assert {"id", "prompt", "recipient", "sender", "topic"} <= set(row) <= known, row["id"]
        for key in ("recipient", "sender", "day", "time"):
            value = row.get(key)
            found = value is None or re.search(rf"(?<!\w){re.escape(value)}(?!\w)", row["prompt"])
            assert found, f"{row['id']}: {key} {value!r} is not in the prompt"
    lacking = sum("day" not in row or "time" not in row for row in rows)
    assert 0.05 <= lacking / len(rows) <= 0.2


def test_email_notes_have_the_length_of_a_note() -> None:
    for row in rows_of("emails.jsonl"):
        assert 15 <= len(row["prompt"].split()) <= 60, row["id"]


def test_paragraphs_carry_their_source() -> None:
    rows = rows_of("paragraphs.jsonl")
    for row in rows:
        assert set(row) == {"id", "prompt", "source", "genre"}, row["id"]
        instruction, _, source = row["prompt"].partition("\n\n")
        assert instruction, row["id"]
        assert source == row["source"], row["id"]
        assert 40 <= len(source.split()) <= 110, row["id"]
    assert len({row["prompt"].partition("\n\n")[0] for row in rows}) >= 5
    assert len({row["genre"] for row in rows}) >= 6
