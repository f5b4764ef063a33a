"""Options that hold `{field}` templates: filling them from a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from prefdistill.records import Prompt
from prefdistill.rubric import fields_in, fill

_ONE_FIELD = re.compile(r"\s*\{([A-Za-z_][A-Za-z0-9_]*)\}\s*")


def fill_all(templates: Iterable[str], prompt: Prompt) -> list[str] | None:
    """Fill every template from the prompt's fields; None where a field is missing or empty.

    A template that is nothing but one `{field}` whose value is a list gives one text per entry.
    """
    filled: list[str] = []
    for template in templates:
        one = _ONE_FIELD.fullmatch(template)
        value = prompt.fields.get(one.group(1)) if one else None
        if isinstance(value, (list, tuple)):
            texts = [str(item) for item in value if item is not None]
        else:
            text = fill(template, prompt)
            texts = [] if text is None else [text]
        if not texts or not all(text.strip() for text in texts):
            return None
        if any(not _has_text(prompt.fields.get(name)) for name in fields_in(template)):
            return None
        filled += texts
    return filled


def _has_text(value: Any) -> bool:
    return value is not None and (not isinstance(value, str) or bool(value.strip()))


def require_text(templates: tuple[str, ...]) -> tuple[str, ...]:
    """Return `templates` if every one has a letter, a digit or another visible mark (a pydantic validator)."""
    for template in templates:
        if not template.strip():
            raise ValueError("found an empty phrase; write the words to look for or remove the entry")
    return templates


def all_text(prompt: Prompt) -> str:
    """Return everything the prompt says: its messages and the values of its fields, one a line."""
    parts = [message.content for message in prompt.messages]
    parts.extend(_flatten(prompt.fields))
    return "\n\n".join(parts)


def _flatten(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in _flatten(item)]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [text for item in value for text in _flatten(item)]
    return [] if value is None else [str(value)]
