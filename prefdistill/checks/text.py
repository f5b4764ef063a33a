"""Words, sentences, paragraphs and whole-phrase search: how the checks read any text, in any script.

Nothing here raises on any string, and everything takes time linear in its length. Offsets refer to `plain(text)`.
"""

from __future__ import annotations

import re
import unicodedata

from prefdistill.checks.lexicon import MONTHS, NEVER_LAST, SOMETIMES_LAST, WEEKDAYS

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′ʼ＇´", "'"),
        **dict.fromkeys("“”„‟″«»＂", '"'),
        **dict.fromkeys("‐‑‒–−", "-"),
        **dict.fromkeys([*range(0x2000, 0x200B), 0x09, 0xA0, 0x1680, 0x202F, 0x205F, 0x3000], " "),
        **dict.fromkeys("\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", "\n"),
        **dict.fromkeys([0xAD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF], ""),
        **dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], ""),
    }
)  # fmt: skip
_SPACES = re.compile(r"\s+")
_BREAKS = re.compile(r"[—…]+|--+|(?<=[^\W\d_])\.{2,}(?=[^\W\d_])")
_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_SPACELESS = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
)
_BULLET = re.compile(r"[ ]*(?:[-*+•◦▪·>]|#{1,6}|\(?\d{1,3}[.)]|\(?[a-zA-Z][)])[ ]+")
_END = re.compile(r"(?<![.!?…؟।])[.!?…؟।]++[\"')\]}*_]*+(?=\s|$)|[。！？]++[\"'」』)]*+")
_WRAP = 50
"""A line at least this long (characters) that does not end a sentence is wrapped: its sentence goes on."""


def plain(text: str) -> str:
    """Return `text` with one spelling per character: composed, straight quotes, plain spaces, `-`, `\\n` line ends."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    return text.translate(_CHARACTERS)


def fold(text: str) -> str:
    """Return `text` for comparison: `plain`, without case, every run of white space one space."""
    return _SPACES.sub(" ", plain(text).casefold()).strip()


def tokens(text: str) -> list[str]:
    """Return the words of `text` as written, punctuation attached; every Chinese or Japanese character is a word."""
    spaced = _IDEOGRAPH.sub(r" \g<0> ", _BREAKS.sub(" ", plain(text)))
    return [token for token in spaced.split() if any(map(str.isalnum, token))]


def words(text: str) -> list[str]:
    """Return the folded words of `text` without the punctuation around them: `e-mail`, `don't`, `p.m`, `3:30`."""
    return [token for token in (_strip(token) for token in tokens(text.casefold())) if token]


def _strip(token: str) -> str:
    start, end = 0, len(token)
    while start < end and not token[start].isalnum():
        start += 1
    while end > start and not (token[end - 1].isalnum() or unicodedata.category(token[end - 1])[0] == "M"):
        end -= 1
    return token[start:end]


def find_phrase(text: str, phrase: str, start: int = 0) -> int:
    """Return where `phrase` occurs in `text` as whole words, or -1; both must be folded, or otherwise comparable.

    A phrase does not begin or end inside a word or a number: `10` is not in `100`, `1,100`, `10.5` or `10:30`, and
    `Ann` is not in `Anna`, but `Anna` is in `Anna's`. Scripts written without spaces have no such edges.
    """
    if not phrase:
        return -1
    at = text.find(phrase, start)
    while at >= 0:
        if _is_edge(text, at, -1) and _is_edge(text, at + len(phrase), +1):
            return at
        at = text.find(phrase, at + 1)
    return -1


def has_phrase(text: str, phrase: str) -> bool:
    """Tell whether `phrase` occurs in `text` as whole words (see `find_phrase`)."""
    return find_phrase(text, phrase) >= 0


def _is_edge(text: str, at: int, direction: int) -> bool:
    """Tell whether a match that begins (-1) or ends (+1) at offset `at` stands at the edge of a word or number."""
    inner, outer = (at, at - 1) if direction < 0 else (at - 1, at)
    if not 0 <= outer < len(text):
        return True
    if text[inner].isalnum() and text[outer].isalnum():
        return bool(_SPACELESS.match(text[inner]) or _SPACELESS.match(text[outer]))
    beyond = outer + direction
    if text[inner].isdigit() and text[outer] in ".,:" and 0 <= beyond < len(text):
        return not text[beyond].isdigit()
    return True


def paragraphs(text: str) -> list[str]:
    """Return the blocks of `text` that blank lines separate and that hold at least one letter or digit."""
    blocks = re.split(r"\n[ ]*\n\s*", plain(text).strip())
    return [block for block in blocks if any(map(str.isalnum, block))]


def sentences(text: str) -> list[str]:
    """Return the sentences of `text`: see `sentence_spans`."""
    text = plain(text)
    return [text[start:end] for start, end in sentence_spans(text)]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of every sentence of `text`, which must be `plain`.

    Abbreviations, initials, `3 p.m.`, decimals, web addresses and list numbers do not end a sentence. A blank line, a
    list item or a short line does; a long line without a full stop goes on in the next one.
    """
    spans: list[tuple[int, int]] = []
    for start, end in _blocks(text):
        begin = start
        for match in _END.finditer(text, start, end):
            if match.end() < end and not _ends_here(text, begin, match, end):
                continue
            spans.append((begin, match.end()))
            begin = match.end()
        spans.append((begin, end))
    trimmed = []
    for start, end in spans:
        piece = text[start:end]
        start += len(piece) - len(piece.lstrip())
        end -= len(piece) - len(piece.rstrip())
        if any(map(str.isalnum, text[start:end])):
            trimmed.append((start, end))
    return trimmed


def _blocks(text: str) -> list[tuple[int, int]]:
    """Return the spans of lines that belong together: wrapped lines are joined, list items and short lines are not."""
    blocks: list[tuple[int, int]] = []
    offset, begin, previous = 0, -1, ""
    for line in text.split("\n"):
        stripped = line.strip()
        goes_on = (
            begin >= 0
            and bool(stripped)
            and not _BULLET.match(line)
            and (len(previous) >= _WRAP or stripped[0].islower())
            and previous[-1:] not in ",:"
        )
        if begin >= 0 and not goes_on:
            blocks.append((begin, offset - 1))
            begin = -1
        if stripped and begin < 0:
            begin = offset
        previous = stripped
        offset += len(line) + 1
    if begin >= 0:
        blocks.append((begin, len(text)))
    return blocks


def _ends_here(text: str, begin: int, match: re.Match[str], end: int) -> bool:
    """Tell whether the full stop (or the like) that `match` found inside a block ends its sentence."""
    mark = match.group().rstrip("\"')]}*_」』")
    rest = text[match.end() : min(end, match.end() + 40)].lstrip()
    following = rest.lstrip("\"'([{*_-#> ")
    if mark[0] in "。！？":
        return True
    is_lower = following[:1].islower()
    if mark[0] in "!?…؟।" or len(mark) > 1:
        is_quoted = len(mark) < len(match.group())
        return not (is_lower and (is_quoted or mark[0] == "…" or mark.startswith("..")))
    head = text[begin : match.start()]
    token = re.split(r"[\s(\[{\"'*_/]", head[-40:])[-1]
    bare = token.casefold()
    if bare == "no":
        return not following[:1].isdigit()
    if bare in NEVER_LAST:
        return False
    next_word = re.match(r"[^\W_]+", following)
    next_folded = next_word.group().casefold() if next_word else ""
    is_initial = len(token) == 1 and token.isupper() and token != "I" and following[:1].isupper()
    is_dotted = "." in token and all(len(part) <= 2 for part in token.split("."))
    if bare in SOMETIMES_LAST or is_dotted:
        is_continued = next_folded in {
            *WEEKDAYS,
            *MONTHS,
            "cet",
            "cest",
            "est",
            "edt",
            "pst",
            "pdt",
            "gmt",
            "utc",
            "bst",
        }
        return not is_lower and not following[:1].isdigit() and not is_continued
    if is_initial:
        return False
    if token.isdigit() and len(token) <= 3:
        is_marker = not head[: len(head) - len(token)].strip(" -*#>(")
        return not is_marker and next_folded not in MONTHS
    return True
