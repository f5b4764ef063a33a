"""Change single values in a YAML file that a person wrote, and leave every other character of it as it is.

Place in the flow: how a plan is filled in and updated. A value goes where its key is, with a comment at the end of its
line; a key that is missing gets a line of its own in its section.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

INDENT = "  "


class Pair(NamedTuple):
    """A key of a mapping and what it has, as nodes with their places in the text."""

    key: Any
    value: Any

    @property
    def is_mapping(self) -> bool:
        """Whether it has keys of its own."""
        return bool(self.value.id == "mapping")

    @property
    def is_in_line(self) -> bool:
        """Whether the value begins where it is written, not on lines of its own, and is not empty."""
        block = self.value.id != "scalar" and not self.value.flow_style
        return not block and bool(self.value.start_mark.index < self.value.end_mark.index)


class EditedText:
    """The text of a YAML mapping of sections; keys are `section` or `section.key`."""

    def __init__(self, text: str) -> None:
        self.text = text if text.endswith("\n") or not text else f"{text}\n"

    def set(self, key: str, value: Any, comment: str | None = None) -> None:
        """Write a value, in one line, in place of the old one or as a new key.

        Args:
            key: such as `traffic.tokens_in`.
            value: plain data.
            comment: put in place of the one at the end of the line; None leaves that as it is.
        """
        section, _, inner = key.partition(".")
        pair = _pair(self._root(), section)
        line = f"{inner or section}: {flow(value)}{_remark(comment)}"
        if pair is None:
            self._append(f"{section}:\n{INDENT}{line}" if inner else line)
        elif not inner:
            self._put(pair, flow(value), comment)
        elif not pair.is_mapping:  # `section:` with nothing in it
            end = self._line_end(self._colon(pair))
            self._replace(end, end, f"\n{INDENT}{line}")
        elif (old := _pair(pair.value, inner)) is not None:
            self._put(old, flow(value), comment)
        elif pair.value.flow_style:
            at = pair.value.start_mark.index + 1
            self._replace(at, at, f"{inner}: {flow(value)}{', ' if pair.value.value else ''}")
        else:
            first = pair.value.value[0][0].start_mark
            self._replace(first.index, first.index, f"{line}\n{' ' * first.column}")

    def set_block(self, key: str, values: Mapping[str, Any], comment: str) -> None:
        """Write a whole section, one line a key, in place of the old one or at the end, under a comment of its own."""
        lines = "".join(f"\n{INDENT}{name}: {flow(value)}" for name, value in values.items())
        pair = _pair(self._root(), key)
        if pair is None:
            self._append(f"# {comment}\n{key}:{lines}")
        else:
            self._replace(self._colon(pair), self._line_end(max(self._colon(pair), self._last(pair.value))), lines)

    def add_item(self, key: str, item: Mapping[str, Any], comment: str) -> None:
        """Add an item to a list, in the style that the list has; the comment goes to a list that is begun by it."""
        section, _, inner = key.partition(".")
        parent = _pair(self._root(), section)
        pair = _pair(parent.value, inner) if parent is not None and parent.is_mapping else None
        if pair is None or pair.value.id != "sequence":
            self.set(key, [item], comment)
        elif pair.value.flow_style or not pair.value.value:
            at = pair.value.end_mark.index - 1
            self._replace(at, at, f"{', ' if pair.value.value else ''}{flow(item)}")
        else:
            end = self._line_end(self._last(pair.value))
            before = self.text[: pair.value.value[0].start_mark.index].rsplit("\n", 1)[1]
            self._replace(end, end, f"\n{before[: before.index('-')]}- {flow(item)}")

    def set_in_item(self, key: str, number: int, name: str, value: Any) -> None:
        """Replace what the item `number` (from 0) of the list at `key` has at `name`, a key that it has."""
        section, _, inner = key.partition(".")
        parent = _pair(self._root(), section)
        items = None if parent is None else _pair(parent.value, inner)
        pair = None if items is None else _pair(items.value.value[number], name)
        if pair is None:
            raise KeyError(f"{key}.{number}.{name}")
        self._put(pair, flow(value), None)

    def _put(self, pair: Pair, value: str, comment: str | None) -> None:
        """Replace the value of a key that is there."""
        if pair.is_in_line:
            start, end = pair.value.start_mark.index, self._last(pair.value)
        else:
            start = self._colon(pair)
            end, value = max(start, self._last(pair.value) if pair.value.value else start), f" {value}"
        self._replace(start, end, value)
        stop = self._line_end(start + len(value))
        rest = self.text[start + len(value) : stop].strip()
        if comment is not None and (not rest or rest.startswith("#")):
            self._replace(start + len(value), stop, _remark(comment))

    def _colon(self, pair: Pair) -> int:
        """Return the place right after a key's colon."""
        return self.text.index(":", pair.key.end_mark.index) + 1

    def _last(self, node: Any) -> int:
        """Return the end of a node's last line, without the comments and empty lines that follow a block."""
        if node.id != "scalar" and not node.flow_style and node.value:
            last = node.value[-1]
            if isinstance(last, tuple):
                pair = Pair(*last)
                return max(self._colon(pair), self._last(pair.value) if pair.value.value else 0)
            return self._last(last)
        start, end = node.start_mark.index, node.end_mark.index
        return int(start + len(self.text[start:end].rstrip()))

    def _root(self) -> Any:
        """Return the text as nodes, which know their places in it; the C parser is thirty times as fast."""
        import yaml

        return yaml.compose(self.text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))

    def _line_end(self, at: int) -> int:
        end = self.text.find("\n", at)
        return len(self.text) if end < 0 else end

    def _replace(self, start: int, end: int, new: str) -> None:
        self.text = self.text[:start] + new + self.text[end:]

    def _append(self, lines: str) -> None:
        self.text = f"{self.text.rstrip()}\n\n{lines}\n"


def flow(value: Any) -> str:
    """Return plain data as YAML in one line that every reader understands the same way."""
    import yaml

    text = yaml.dump(
        value, Dumper=_one_line(), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6
    )
    return text.removesuffix("\n").removesuffix("\n...")


@lru_cache(maxsize=1)
def _one_line() -> Any:
    """Return the safe dumper that writes a text of several lines as one, with its line ends escaped."""
    import yaml

    class OneLine(yaml.SafeDumper):
        """Texts of several lines in double quotes."""

    def represent(dumper: Any, text: str) -> Any:
        return dumper.represent_scalar(
            "tag:yaml.org,2002:str", text, style=None if text.splitlines() in ([text], []) else '"'
        )

    OneLine.add_representer(str, represent)
    return OneLine


def _remark(comment: str | None) -> str:
    return f"  # {' '.join(comment.split())}" if comment else ""


def _pair(node: Any, key: str) -> Pair | None:
    """Return a key of a mapping with its value; None where it has no such key."""
    return next((Pair(name, value) for name, value in node.value if name.value == key), None)
