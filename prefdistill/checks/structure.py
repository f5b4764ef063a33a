"""The check `structure`: does the text have the parts it should, and none of what a chat assistant adds?"""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from prefdistill.checks.letter import Letter, read_letter
from prefdistill.checks.ranges import Range, range_score, render_range
from prefdistill.checks.templates import all_text
from prefdistill.checks.text import fold, paragraphs, plain
from prefdistill.plugins import Plugin
from prefdistill.records import CheckScore, Prompt
from prefdistill.rubric import fields_in

_TIMEOUT = 1.0
"""Seconds that one pattern may take on one text."""
_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SQUARE = re.compile(r"\[([^\[\]\n]{1,60})\](?!\()")
_CURLY = re.compile(r"\{\{? ?[^\W\d][\w .'-]{0,40} ?\}\}?|\$\{\w{1,40}\}|%\w{2,30}%")
_ANGLED = re.compile(r"<([^\W\d_][^<>\n@:/=\"]{0,60})>")
_MARKED = re.compile(
    r"(?<![\w-])(?:XX+(?![\w-])|X{1,4}(?:/X{1,4})+|(?i:xx:xx|x{3,})(?!\w)|T\.?B\.?D(?!\w)|TBA(?!\w)|TODO(?!\w)"
    r"|(?i:lorem ipsum|(?:insert|add|enter) (?:your )?(?:name|date|time|title|position|company|link|details) here))"
    r"|(?<=\S )_{3,}|_{3,}(?= ?\w)|(?m:^ *(?i:your (?:full )?(?:name|title|position|company)|name here) *$)"
)
_HTML = re.compile(
    r"(?:a|abbr|b|blockquote|br|code|div|em|font|h[1-6]|hr|i|img|li|ol|p|pre|s|small|span|strong|su[bp]|table|t[dhr]|ul?)(?![^\W_])",
    re.IGNORECASE,
)
_NO_PLACEHOLDER = re.compile(r"(?i:sic|x|✓|\d+|\W+|ext(?:ernal)?|note \d+|\^?\d+[a-z]?)")
_MARKDOWN = re.compile(
    r"(?m:^ {0,3}#{1,6} +\S)|\*\*[^*\s][^*\n]{0,400}\*\*|(?<!\w)__[^_\s][^_\n]{0,400}__(?!\w)"
    r"|(?<![\w*])\*[^*\s][^*\n]{0,400}(?<=\S)\*(?![\w*])|(?m:^ *\* +\S)|```|(?<!`)`[^`\n]{1,400}`"
    r"|\[[^\[\]\n]{1,200}\]\([^()\s]{1,400}\)|(?m:^ {0,3}\|.*\|)|(?m:^ {0,3}> \S)"
)
_LIST = re.compile(r"(?m:^ *(?:[-+•]|\d{1,2}[.)]) +\S)")


def _checked_pattern(pattern: str | None) -> str | None:
    import regex

    if pattern is not None:
        try:
            regex.compile(_FIELD.sub("x", pattern))
        except regex.error as problem:
            raise ValueError(
                f"`{pattern[:80]}` is no regular expression: {problem}; quote it in single quotes"
            ) from None
        except Exception as problem:  # the library lets a few others through, such as OverflowError
            raise ValueError(
                f"`{pattern[:80]}` is no regular expression: {type(problem).__name__}: {problem}"
            ) from None
        if not pattern:
            raise ValueError("the regular expression is empty; write one or remove the key")
    return pattern


Pattern = Annotated[str, AfterValidator(_checked_pattern)]


class Structure(Plugin):
    """Scores the share of the asked aspects that hold, and names those that do not.

    Every yes/no aspect reads alike: `true` means the text must have it, `false` that it must not, and an aspect that
    is left out is not looked at. `{check: structure, greeting: true, sign_off: true, placeholders: false, preamble:
    false}` asks four things of an e-mail, each worth a quarter.
    """

    greeting: bool | None = None
    """A greeting at the start, such as "Hi Anna,"."""
    sign_off: bool | None = None
    """A closing formula or a signature at the end, such as "Best regards, Tom"."""
    subject: bool | None = None
    """A subject line."""
    placeholders: bool | None = None
    """Blanks to fill in: [Name], {name}, <insert date>, XX, TBD, Lorem ipsum. One that the prompt has is no fault."""
    preamble: bool | None = None
    """A line in which an assistant announces its text: "Here is your e-mail:", "Sure!", "Certainly"."""
    markdown: bool | None = None
    """Markdown marks. Lists with `-` or numbers are plain text to `false`, and markdown enough for `true`."""
    paragraphs: Range | None = None
    """How many paragraphs, [low, high]; blank lines separate them, greeting and sign-off are none."""
    regex: Pattern | None = None
    """A regular expression that must be found somewhere (`(?i)` ignores case, `(?m)` lets ^ and $ match at lines)."""
    not_regex: Pattern | None = None
    """A regular expression that must not be found; `{field}` in either stands for the field's literal text."""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError(f"nothing is asked for; give at least one of {', '.join(type(self).model_fields)}")
        return self

    def check(self, prompt: Prompt, completion: str) -> CheckScore | None:
        """Look at every asked aspect."""
        patterns = {name: _literal(getattr(self, name), prompt) for name in ("regex", "not_regex")}
        if any(pattern is None and getattr(self, name) is not None for name, pattern in patterns.items()):
            return None
        letter = read_letter(completion)
        faults: list[str] = []
        asked = 0
        for name, wanted in self._yes_no().items():
            asked += 1
            found = _find(name, letter, prompt)
            if name == "markdown" and wanted:
                found = found or ("list" if _LIST.search(letter.text) else "")
            if wanted and not found:
                faults.append(f"no {name.replace('_', '-')}")
            elif not wanted and found:
                faults.append(f"{name.replace('_', '-')}: {found[:60]}")
        if self.paragraphs is not None:
            asked += 1
            count = len(paragraphs(letter.body))
            if range_score(count, self.paragraphs, 0.0) < 1:
                faults.append(f"{count} paragraphs, wanted {render_range(self.paragraphs)}")
        for name, pattern in patterns.items():
            if pattern is not None:
                asked += 1
                fault = _search_fault(name, pattern, letter.text)
                faults += [fault] if fault else []
        return CheckScore(score=1 - len(faults) / asked, reason="; ".join(faults))

    def _yes_no(self) -> dict[str, bool]:
        names = ("greeting", "sign_off", "subject", "placeholders", "preamble", "markdown")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def _find(aspect: str, letter: Letter, prompt: Prompt) -> str:
    """Return where an aspect shows in the text, else an empty string."""
    if aspect == "placeholders":
        return find_placeholder(letter.text, all_text(prompt))
    if aspect == "markdown":
        match = _MARKDOWN.search(letter.text)
        return match.group().strip() if match else ""
    return str(getattr(letter, aspect))


def find_placeholder(text: str, known_text: str = "") -> str:
    """Return the first blank left to fill in that `known_text` does not have too, else an empty string."""
    known_text = fold(known_text)
    found: list[tuple[int, str]] = []
    for match in _SQUARE.finditer(text):
        if any(map(str.isalpha, match.group(1))) and not _NO_PLACEHOLDER.fullmatch(match.group(1).strip()):
            found.append((match.start(), match.group()))
    for match in _ANGLED.finditer(text):
        if not _HTML.match(match.group(1)):
            found.append((match.start(), match.group()))
    for pattern in (_CURLY, _MARKED):
        found += [(match.start(), match.group()) for match in pattern.finditer(text)]
    return next((mark.strip() for _, mark in sorted(found) if fold(mark) not in known_text), "")


def _literal(pattern: str | None, prompt: Prompt) -> str | None:
    """Return the pattern with `{field}` replaced by the field's text, escaped; None where a field is missing."""
    if pattern is None:
        return None
    if any(str(prompt.fields.get(name) or "").strip() == "" for name in fields_in(pattern)):
        return None
    return _FIELD.sub(lambda match: re.escape(plain(str(prompt.fields[match.group(1)]))), pattern)


def _search_fault(name: str, pattern: str, text: str) -> str:
    """Return what is wrong with a text in the light of a pattern, else an empty string."""
    import regex

    try:
        match = regex.search(pattern, text, timeout=_TIMEOUT)
    except TimeoutError:
        return f"{name} took more than {_TIMEOUT:g} s and was given up"
    except regex.error as problem:
        return f"{name} cannot be used here: {problem}"
    if name == "regex":
        return "" if match else f"regex not found: {pattern[:60]}"
    return f"not_regex found: {match.group()[:60]}" if match else ""
