"""Values are put into a YAML file that a person wrote, and every other character of it stays."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from prefdistill.documents import parse_document
from prefdistill.errors import PrefdistillError
from prefdistill.plan.editing import EditedText, flow

TEXT = """# a plan

task:
  what:            # open
  in_scope: [a, b]   # two
  long: |
    one
    two

  # about the owner
  owner: "me"
traffic: {tokens_in: 3}   # short
empty:
costs:
  one_off:
    - {what: a, usd: 1}
    - what: b
      usd: 2   # two
  # after the list
  months: 6
"""


def data_of(text: str) -> dict[str, Any]:
    return parse_document(text, Path("p.yaml"), PrefdistillError).data


def changed_lines(new: str) -> list[str]:
    old = TEXT.splitlines()
    return [line for line in new.splitlines() if line not in old]


@pytest.mark.parametrize(
    ("key", "value", "comment", "lines"),
    [
        ("task.what", "yes: or no", "from R", ["  what: 'yes: or no'  # from R"]),
        ("task.what", "no", None, ["  what: 'no'            # open"]),
        ("task.in_scope", ["c"], None, ["  in_scope: [c]   # two"]),
        ("task.long", "short", "s", ["  long: short  # s"]),
        ("task.owner", "you", "o", ["  owner: you  # o"]),
        ("task.new", 5, "n", ["  new: 5  # n"]),
        ("traffic.tokens_in", 812.5, "x", ["traffic: {tokens_in: 812.5}   # short"]),
        ("traffic.tokens_out", 40, "x", ["traffic: {tokens_out: 40, tokens_in: 3}   # short"]),
        ("empty.key", {"a": 1}, "e", ["  key: {a: 1}  # e"]),
        ("costs.one_off", [], "none", ["  one_off: []  # none"]),
        ("costs.months", {"low": 1, "central": 2, "high": 3}, None, ["  months: {low: 1, central: 2, high: 3}"]),
        ("name", "p", "n", ["name: p  # n"]),
        ("goal.score", 1, "g", ["goal:", "  score: 1  # g"]),
        ("task.what", date(2026, 1, 31), "d", ["  what: 2026-01-31  # d"]),
    ],
)
def test_a_value_is_set_and_nothing_else_changes(key: str, value: Any, comment: str | None, lines: list[str]) -> None:
    text = EditedText(TEXT)
    text.set(key, value, comment)
    assert changed_lines(text.text) == lines
    section, _, inner = key.partition(".")
    found = data_of(text.text)
    assert (found[section][inner] if inner else found[section]) == value
    before, after = data_of(TEXT), found
    for name, old in before.items():
        if isinstance(old, dict):
            assert {k: v for k, v in after[name].items() if f"{name}.{k}" != key} == {
                k: v for k, v in old.items() if f"{name}.{k}" != key
            }


def test_items_are_added_in_the_style_of_the_list() -> None:
    text = EditedText(TEXT)
    text.add_item("costs.one_off", {"what": "c", "usd": 3}, "begun")
    assert changed_lines(text.text) == ["    - {what: c, usd: 3}"]
    assert [each["what"] for each in data_of(text.text)["costs"]["one_off"]] == ["a", "b", "c"]
    text.set_in_item("costs.one_off", 1, "usd", 2.5)
    text.set_in_item("costs.one_off", 0, "usd", 1.5)
    assert [each["usd"] for each in data_of(text.text)["costs"]["one_off"]] == [1.5, 2.5, 3]
    assert "usd: 2.5   # two" in text.text
    text.add_item("task.in_scope", {"x": 1}, "begun")
    assert data_of(text.text)["task"]["in_scope"] == ["a", "b", {"x": 1}]
    for key in ("empty.list", "far.list"):
        text.add_item(key, {"x": 1}, "begun")
        text.add_item(key, {"x": 2}, "begun")
        assert data_of(text.text)[key.split(".")[0]]["list"] == [{"x": 1}, {"x": 2}]


def test_a_block_is_written_once_and_then_replaced() -> None:
    text = EditedText(TEXT)
    text.set_block("shown", {"a.b": "x = 1", "c": [1, 2]}, "What a run has shown")
    text.set("name", "p", None)
    text.set_block("shown", {"a.b": "x = 2"}, "What a run has shown")
    assert data_of(text.text)["shown"] == {"a.b": "x = 2"}
    assert text.text.count("# What a run has shown") == 1
    assert data_of(text.text)["name"] == "p"


@pytest.mark.parametrize(
    "value", ["yes", "1", "a: b", "# no", "ü → 'x' \"y\"", "a\nb", "", "=1", "{x", "2026-01-31", "~"]
)
def test_any_text_is_read_back_as_it_was(value: str) -> None:
    assert "\n" not in flow(value)
    text = EditedText("a:\n  b:  # open\n")
    text.set("a.b", value, "c\nd")
    assert data_of(text.text) == {"a": {"b": value}}
