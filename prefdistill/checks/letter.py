"""The parts of an e-mail: preamble, subject, greeting, body, sign-off. Any text can be read; what is absent is empty.

Shared by the checks that must know which lines are formulas: `length` (sentences), `structure` and `grounded`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from prefdistill.checks.lexicon import CLOSINGS, GREETINGS, ORDINARY, SUBJECTS
from prefdistill.checks.text import plain

_TEXT_NAMES = (
    r"e-?mail|mail|draft|message|version|summary|paragraph|text|rewrite|revision|edit|reply|response|letter|note"
    r"|translation|answer|suggestion|example|template|memo"
)
_PREAMBLE = re.compile(
    rf"""
    (?: (?:sure(?:\ thing)?|certainly|of\ course|absolutely|okay|ok|got\ it|great|understood|no\ problem|with\ pleasure
        |happy\ to\ help|great\ question|definitely)\ ?
        (?: ! | [.:]?\ *$ | [,.\-]?\ *(?=(?:here(?:'s|\ is|\ are|\ you)|below|the\ following
            |(?:i\ can|i'll|i\ will|i'd\ be|i\ would\ be|i\ have|i've|let\ me)
              \ (?:help|happy|glad|write|draft|rewrite|revise|edit|written|drafted|rewritten|revised|edited))\b) )
      | as\ an?\ (?:ai|language\ model|large\ language)\b
      | (?:as\ (?:you\ )?requested[,:]?\ *)?
        (?: (?:here(?:'s|\ is|\ are|\ you\ go)?|below(?:\ is|\ are)?|(?:the\ )?following\ is|this\ is
              |i(?:'ve|\ have)?\ (?:written|drafted|revised|edited|rewritten|prepared|summari[sz]ed)|i\ hope\ this)
            \b [^\n]{{0,80}}? \b(?:{_TEXT_NAMES})s?\b [^\n.!?]{{0,80}} (?: : | [.!]?\ *$ )
          | here\ you\ go\b [^\n]{{0,20}}$ )
      | (?:(?:the|your|my|a)\ )?(?:(?:revised|edited|rewritten|updated|improved|final|short|possible|suggested)\ )+
        (?:{_TEXT_NAMES})\ ?:
      | (?:draft|output|response|answer|rewrite|result)\ ?: )
    """,
    re.VERBOSE,
)
_SUBJECT = re.compile(rf"(?:{SUBJECTS}|re|fwd?|aw|wg) ?: ?\S?")
_GREETING = re.compile(rf"(?:{GREETINGS})(?![^\W_])")
_GREETING_STOP = re.compile(
    r"[,:!;\n。！，：]|\s-+\s|(?<!\bmr)(?<!\bmrs)(?<!\bms)(?<!\bdr)(?<!\bprof)[.?](?=\s|$)", re.IGNORECASE
)
_CLOSING = re.compile(rf"(?:{CLOSINGS})(?![^\W_])")
_CAPITAL_WORD = r"[^\W\d_a-zß-öø-ÿ][^\s,;:!?]{0,30}"
_NAME = re.compile(
    rf"(?:the )?{_CAPITAL_WORD}(?: (?:(?:van|von|de|der|den|da|di|del|la|and|&) )*{_CAPITAL_WORD}){{0,4}}"
)
_INLINE_CLOSING = re.compile(rf"(?:^|(?<=[.!?] ))((?:{CLOSINGS}) ?[,!-] ?)(.{{1,40}})$")
_EMPHASIS = "*_# >"
_SIGNATURE_LINES = 6


@dataclass(frozen=True)
class Letter:
    """The parts of a text, as offsets into `text`."""

    text: str
    """The plain text (see `text.plain`)."""
    preamble: str
    """The line in which a chat assistant announces its text ("Here is your e-mail:"), else empty."""
    subject: str
    """The subject line, else empty."""
    greeting_span: tuple[int, int]
    """Where the greeting is, such as "Hi Anna,"; empty span where there is none."""
    sign_off_at: int
    """Where the closing formula or the signature begins; the text's end where there is none."""

    @property
    def greeting(self) -> str:
        """The greeting, else empty."""
        return self.text[slice(*self.greeting_span)].strip()

    @property
    def sign_off(self) -> str:
        """The closing formula and the signature, else empty."""
        return self.text[self.sign_off_at :].strip()

    @property
    def body(self) -> str:
        """What is between greeting and sign-off."""
        return self.text[self.greeting_span[1] : max(self.sign_off_at, self.greeting_span[1])].strip()


def read_letter(text: str) -> Letter:
    """Find the parts of a text."""
    text = plain(text)
    lines = []
    offset = 0
    for line in text.split("\n"):
        if line.strip():
            lines.append((offset, line))
        offset += len(line) + 1
    preamble = subject = ""
    at = 0
    for start, line in lines[:4]:
        bare = _bare(line)
        if not preamble and not subject and _PREAMBLE.match(bare):
            opening = re.match(r"[^!:]{0,30}!\s*", line)
            rest_of_line = line[opening.end() :] if opening else ""
            if opening and rest_of_line and not _PREAMBLE.match(_bare(rest_of_line)):
                preamble = opening.group().strip()
                at = start + opening.end()
                lines.insert(lines.index((start, line)) + 1, (at, rest_of_line))
                break
            preamble = line.strip()
        elif not subject and _SUBJECT.match(bare):
            subject = line.strip()
        elif set(bare) <= set("-=*`"):
            pass
        else:
            break
        at = start + len(line)
    rest = [(start, line) for start, line in lines if start >= at]
    span = _greeting_span(*rest[0], is_alone=len(rest) == 1) if rest else None
    greeting_span = span or (at, at)
    body_lines = [(start, line) for start, line in rest if not (span and start + len(line) <= span[1])]
    return Letter(text, preamble, subject, greeting_span, _sign_off_at(body_lines, text))


def _bare(line: str) -> str:
    """Return a line folded (same length not kept) and without markdown around it."""
    return re.sub(r"[*_]{2}", "", line).strip(_EMPHASIS).casefold()[:300]


def _greeting_span(start: int, line: str, is_alone: bool) -> tuple[int, int] | None:
    """Return the span of the greeting with which a line begins."""
    head = line[:120]
    lead = len(head) - len(head.lstrip(_EMPHASIS))
    opened = _GREETING.match(head[lead:].lower())
    if opened:
        stop = _GREETING_STOP.search(head, lead + opened.end())
        called = head[lead + opened.end() : stop.start() if stop else len(head)].split()
        if stop is None and (len(line) > len(head) or len(line.split()) > 6):
            is_called = opened.group() in ("hi", "hello", "hey") and called[:1] and called[0][0].isupper()
            return (start, start + lead + opened.end() + 1 + len(called[0])) if is_called else None
        is_sentence = stop is None or stop.group() in ".?"
        if len(called) > 8 or (is_sentence and not all(_can_be_called(word) for word in called)):
            return None
        end = stop.end() if stop else len(line)
        return start, start + (end if line[end:].strip(" *_,!") else len(line))
    bare = head.strip().strip("*_")
    names = bare[:-1].split()
    is_name = bare.endswith(",") and 0 < len(names) <= 4 and all(name[:1].isupper() or len(name) <= 3 for name in names)
    if is_name and not is_alone and len(line) < 60 and not _CLOSING.fullmatch(bare[:-1].lower()):
        return start, start + len(line)
    return None


def _can_be_called(word: str) -> bool:
    """Tell whether a word can belong to the person greeted: a name, or a word such as "all" or "team"."""
    return not word[0].islower() or word.strip("*_.").casefold() in ORDINARY


def _sign_off_at(lines: list[tuple[int, str]], text: str) -> int:
    """Return where the closing formula or signature begins; the text's length where there is neither."""
    tail = lines[-_SIGNATURE_LINES:]
    for number, (start, line) in enumerate(tail):
        bare = line.strip().strip(_EMPHASIS).strip()
        closing = _CLOSING.match(bare.casefold())
        if closing and _closes(bare, closing.end(), is_last=number == len(tail) - 1) and _are_short(tail[number + 1 :]):
            return start
    if not lines:
        return len(text)
    start, line = lines[-1]
    stripped = line.rstrip(" *_")
    inline = _INLINE_CLOSING.search(stripped[-120:].lower())
    if inline and _NAME.fullmatch(stripped[len(stripped) - len(inline.group(2)) :].rstrip(".")):
        return start + len(stripped) - len(inline.group())
    name = line.strip().strip(_EMPHASIS).strip()
    dashed = re.match(r"[-~]+ ?(?=\S)", name)
    is_signature = (
        len(lines) > 1
        and len(name) <= 60
        and _NAME.fullmatch(name[dashed.end() :] if dashed else name) is not None
        and not all(word.casefold() in ORDINARY for word in name.split())
        and ((dashed is not None and len(name.split()) <= 4) or (len(name.split()) <= 3 and _stands_alone(text, start)))
    )
    return start if is_signature else len(text)


def _closes(bare: str, end: int, is_last: bool) -> bool:
    """Tell whether a line that begins with a closing formula holds nothing else but marks and a name."""
    rest = bare[end:].lstrip(" ,.!;-~:)(")
    emoji_free = "".join(char for char in rest if char.isalnum() or char in " '.-&,")
    if not emoji_free.strip(" .,-"):
        return not (is_last and bare[end : end + 1] == ":")
    return _NAME.fullmatch(emoji_free.strip(" .,")) is not None


def _are_short(lines: list[tuple[int, str]]) -> bool:
    """Tell whether all lines could be a signature: short, and no sentences."""
    return all(
        len(line.strip()) <= 80 and (len(line.split()) <= 4 or line.rstrip()[-1:] not in ".!?") for _, line in lines
    )


def _stands_alone(text: str, start: int) -> bool:
    """Tell whether the line at `start` follows a blank line or a finished sentence."""
    before = text[max(0, start - 200) : start]
    stripped = before.rstrip(" ")
    if re.search(r"\n\s*\n\s*$", before):
        return True
    return stripped.rstrip("\n ")[-1:] in ".!?,"
