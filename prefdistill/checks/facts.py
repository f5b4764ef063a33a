"""Find the facts a text states: numbers, amounts, dates, days, months, times, web and e-mail addresses, names.

Every fact carries a value that is equal however it is written: `3 p.m.` and `15:00`, `1,000` and `one thousand`,
`5 March` and `March 5th`. `grounded` asks whether a draft's facts occur in its prompt, `mentions` and `edit` whether
given facts occur in a draft. Month, day and number words are English; figures are read in every notation.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Literal

from prefdistill.checks.letter import read_letter
from prefdistill.checks.lexicon import (
    CURRENCIES,
    MONTH_SHORT,
    MONTHS,
    ORDINALS,
    ORDINARY,
    PERSON_VERBS,
    RELATIVE_DAYS,
    SCALES,
    TENS,
    UNITS,
    WEEKDAY_SHORT,
    WEEKDAYS,
)
from prefdistill.checks.text import fold, has_phrase, plain, sentence_spans, words

Kind = Literal["numbers", "amounts", "dates", "weekdays", "months", "times", "urls", "addresses", "names"]
KINDS: tuple[Kind, ...] = ("numbers", "amounts", "dates", "weekdays", "months", "times", "urls", "addresses", "names")
_MASK = "\0"


@dataclass(frozen=True)
class Clock:
    """A time of day."""

    minute: int
    """Minutes since twelve, 0 to 719."""
    half: Literal["am", "pm"] | None
    """None where the text does not say."""
    style: Literal["12", "24", "bare"]
    """How it is written; "bare" is a mere "at 3"."""


@dataclass(frozen=True)
class Day:
    """A date; `05/03` has two readings."""

    readings: frozenset[tuple[int, int]]
    """(month, day) each; day 0 where only month and year are given."""
    year: int | None


@dataclass(frozen=True)
class Quantity:
    """A number, with the unit where it is a currency or per cent."""

    values: frozenset[str]
    """Decimal notations; `1.000` has two readings."""
    unit: str | None = None


@dataclass(frozen=True)
class Fact:
    """One fact as it stands in a text."""

    kind: Kind
    text: str
    start: int
    end: int
    """Offsets into the plain text (see `text.plain`)."""
    value: Clock | Day | Quantity | str | tuple[str, ...]
    """A string for a weekday, month, address or code such as `Q3`; the folded words of a name."""


def same_time(given: Clock, written: Clock) -> bool:
    """Tell whether `written` is a fair way to write `given`.

    What is left open is read as business hours: 1 to 6 may be either half, 7 to 11 is morning, 12 is noon.
    """
    if given.minute != written.minute:
        return False
    if given.half and written.half:
        return given.half == written.half
    if given.half is None and written.half is None:
        return True
    hour = given.minute // 60
    if written.half:
        return given.style == "bare" or 1 <= hour <= 6 or written.half == ("pm" if hour == 0 else "am")
    if given.style == "12":
        return True
    return 1 <= hour <= 6 or (given.half == "am") == (hour != 0)


def same(given: Fact, written: Fact) -> bool:
    """Tell whether two facts agree (a year, a currency or a unit that only one of them states is no disagreement)."""
    left, right = given.value, written.value
    if isinstance(left, Clock) and isinstance(right, Clock):
        return same_time(left, right)
    if isinstance(left, Day) and isinstance(right, Day):
        return bool(left.readings & right.readings) and (left.year == right.year or not (left.year and right.year))
    if isinstance(left, Quantity) and isinstance(right, Quantity):
        return bool(left.values & right.values) and (left.unit == right.unit or not (left.unit and right.unit))
    if given.kind == written.kind == "urls" and isinstance(left, str) and isinstance(right, str):
        return left == right or left.startswith((f"{right}/", f"{right}?", f"{right}#"))
    return given.kind == written.kind and left == right


# --- patterns -------------------------------------------------------------------------------------------------------

_MONTH = "|".join((*MONTHS, *MONTH_SHORT))
_HOUR = r"(?:[01]?\d|2[0-4])"
_HALF = r"(?P<half>[ap])\.? ?m\b\.?"
_SPELLED_HOUR = "|".join((*list(UNITS)[1:13],))
_NOT_IN_NUMBER = r"(?<![\w])(?<!\d[.,:/])"
_ADDRESS = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_URL = re.compile(
    r"(?:https?://|www\.)[^\s\0<>\"'\])}]{1,2000}"
    r"|(?<![\w.@/-])(?:[a-z0-9-]{1,63}\.){1,6}"
    r"(?-i:com|org|net|io|edu|gov|info|biz|app|dev|ai|co|eu|uk|de|fr|es|it|nl|ch|at|us|example|test)\b"
    r"(?:[/?#][^\s\0<>\"'\])}]{0,2000})?",
    re.IGNORECASE,
)
_DATES = (
    re.compile(r"(?<![\w./-])(?P<year>\d{4})[-/.](?P<one>\d{1,2})[-/.](?P<two>\d{1,2})(?!\d)"),
    re.compile(r"(?<![\w./-])(?P<one>\d{1,2})(?P<mark>[./-])(?P<two>\d{1,2})(?P=mark)(?P<year>\d{4}|\d{2})(?![\d:])"),
    re.compile(
        rf"{_NOT_IN_NUMBER}(?P<day>\d{{1,2}})(?:st|nd|rd|th|\.)? (?:of )?(?P<month>{_MONTH})\b\.?"
        r"(?:,? (?P<year>\d{4})(?![\d:]))?",
        re.IGNORECASE,
    ),
    re.compile(
        rf"\b(?P<month>{_MONTH})\b\.? (?:the )?(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?![\d:%]|[.,]\d| ?[ap]\.?m\b)"
        r"(?:,? (?P<year>\d{4})(?![\d:]))?",
        re.IGNORECASE,
    ),
    re.compile(rf"\b(?P<month>{_MONTH})\b\.?,? (?:of )?(?P<year>(?:19|20)\d\d)(?!\d)", re.IGNORECASE),
    re.compile(r"(?<![\w./-])(?P<one>\d{1,2})(?P<mark>/)(?P<two>\d{1,2})(?![\w/]|[.,]\d)"),
)
_TIMES = (
    re.compile(
        rf"{_NOT_IN_NUMBER}(?P<hour>{_HOUR})(?:[:.](?P<minute>[0-5]\d))?(?= ?(?:-|to|and|until|till) ?"
        rf"(?P<end>\d{{1,2}})(?:[:.][0-5]\d)? ?{_HALF})",
        re.IGNORECASE,
    ),
    re.compile(rf"{_NOT_IN_NUMBER}(?P<hour>{_HOUR})(?:[:.](?P<minute>[0-5]\d)(?::\d\d)?)? ?{_HALF}", re.IGNORECASE),
    re.compile(
        rf"{_NOT_IN_NUMBER}(?P<hour>{_HOUR})(?::(?P<minute>[0-5]\d)(?::[0-5]\d)?(?![\d:])|h(?P<minute_h>[0-5]\d)\b)",
        re.IGNORECASE,
    ),
    re.compile(rf"{_NOT_IN_NUMBER}(?P<hour>{_HOUR})(?:[:.](?P<minute>[0-5]\d))? ?(?:uhr\b)", re.IGNORECASE),
    re.compile(rf"\b(?P<hour>\d{{1,2}}|{_SPELLED_HOUR}) ?o'clock\b", re.IGNORECASE),
    re.compile(rf"\b(?P<past>half past|quarter past|quarter to) (?P<hour>\d{{1,2}}|{_SPELLED_HOUR})\b", re.IGNORECASE),
    re.compile(rf"\b(?P<hour>{_SPELLED_HOUR}) (?:{_HALF})", re.IGNORECASE),
    re.compile(r"\b(?P<word>noon|midday|midnight)\b", re.IGNORECASE),
)
_BARE_TIME = re.compile(
    rf"\b(?:at|by|until|till|before|after|around|from|to|between|and) (?P<hour>\d{{1,2}}|{_SPELLED_HOUR})\b"
    r"(?![%:/]|[.,]\d)",
    re.IGNORECASE,
)
_PHONE = re.compile(r"(?<![\w.,])(?:\+ ?\d|\(\d|0\d|\d{3}-\d{3}-)[\d ()/.-]{5,18}\d(?!\w)")
_CODE = re.compile(r"(?<![\w])[A-Za-z0-9]++(?:(?:[-_#]|\.(?=\d))[A-Za-z0-9]++)*+(?!\w)")
_CURRENCY_BEFORE = r"us\$|[$€£¥₹]|(?<![^\W_])(?:usd|eur|gbp|chf|jpy|inr|cad|aud|sek|nok|dkk|pln)"
_CURRENCY_AFTER = "|".join(key for key in CURRENCIES if key.isalpha())
_NUMBER = re.compile(
    rf"(?:(?P<before>{_CURRENCY_BEFORE}) ?|(?<!\w))"
    r"(?P<digits>\d{1,3}(?:[ ']\d{3}){1,4}(?!\d)|\d++(?:[.,']\d++)*+)"
    r"(?P<scale> ?(?:hundred|thousand|million|billion|mn|bn)\b|(?:k|m|b)\b)?"
    rf"(?: ?(?P<after>%|per ?cent\b|pct\b|[$€£¥₹]|(?:{_CURRENCY_AFTER})\b))?",
    re.IGNORECASE,
)
_NUMBER_WORDS = "|".join((*UNITS, *TENS, *SCALES))
_SPELLED = re.compile(
    rf"\b(?P<words>(?:{_NUMBER_WORDS})(?:(?:-| and | )(?:{_NUMBER_WORDS}))*)\b"
    rf"(?: (?P<after>per ?cent|{_CURRENCY_AFTER})\b)?",
    re.IGNORECASE,
)
_ORDINAL = re.compile(rf"\b(?P<tens>(?:{'|'.join(TENS)})[- ])?(?P<word>{'|'.join(ORDINALS)})\b", re.IGNORECASE)
_WEEKDAY = re.compile(rf"\b(?P<day>{'|'.join((*WEEKDAYS, *RELATIVE_DAYS))})(?:s|'s)?\b", re.IGNORECASE)
_WEEKDAY_SHORT = re.compile(r"\b(?P<day>Mon|Tues?|Thu(?:rs?)?|Fri|MON|TUE|THU|FRI)\b\.?")
_WEEKDAY_DOUBTFUL = re.compile(
    r"\b(?P<day>Wed|Sat|Sun)\b(?:\.|(?=,? [\d\0])|(?=[,)/-]))|(?<=\b(?:on|by) )(?P<also>Wed|Sat|Sun)\b"
)
_MONTH_NAME = re.compile(rf"\b(?P<month>{'|'.join(name.title() for name in (*MONTHS, *MONTH_SHORT))})(?:'s)?\b\.?")
_LIST_MARK = re.compile(r"^[ ]*(?:[-*+•] )?\(?\d{1,3}[.)](?= )", re.MULTILINE)
_IDIOM = re.compile(r"\b(?:24/7|50/50|9/11|one (?:or|and|by) (?:one|two)|a day or two)\b", re.IGNORECASE)
_BLANK = re.compile(r"\[[^\[\]\n]{1,60}\](?!\()|\{\{?[^{}\n]{1,60}\}\}?|<[^<>\n]{1,60}>")
"""A blank to fill in: what stands in it is no name (`structure` looks for blanks)."""
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*+")
_ALSO_MATCHED = {0x131: "i", 0x307: None}
"""Dotless i, and the dot that casefolding splits off a dotted capital I: `re.IGNORECASE` takes both letters for i."""


class _Scan:
    """A text in which facts found are masked, so that no later pattern finds a part of one."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.left = text
        self.facts: list[Fact] = []

    def take(self, pattern: re.Pattern[str], read: Callable[[re.Match[str]], tuple[Kind, object] | None]) -> None:
        """Note and mask every match that `read` turns into a kind and a value."""
        pieces, end = [], 0
        for match in pattern.finditer(self.left):
            found = read(match)
            if found is None or not match.group():
                continue
            kind, value = found
            text = self.text[match.start() : match.end()].strip()
            if kind in ("urls", "dates", "months", "weekdays") or text[-3:].lower() in ("am.", "pm."):
                text = text.rstrip(".,;:!?*_")
            self.facts.append(Fact(kind, text, match.start(), match.end(), value))  # type: ignore[arg-type]
            pieces += [self.left[end : match.start()], _MASK * (match.end() - match.start())]
            end = match.end()
        self.left = "".join([*pieces, self.left[end:]])

    def mask(self, pattern: re.Pattern[str]) -> None:
        """Mask every match without noting a fact."""
        self.left = pattern.sub(lambda match: _MASK * len(match.group()), self.left)


# --- readers --------------------------------------------------------------------------------------------------------


def _low(text: str) -> str:
    """Return `text` in ASCII lower case where a pattern that ignores case has matched ASCII letters."""
    return text.casefold().translate(_ALSO_MATCHED)


def _month_number(name: str) -> int:
    return next(number for number, month in enumerate(MONTHS, 1) if month.startswith(_low(name)[:3]))


def _is_month(name: str) -> bool:
    """Tell whether a month's name, by its case, can be one: `may`, `march` and abbreviations need a capital."""
    return name[0].isupper() or (len(name) > 3 and _low(name) not in ("march", "sept"))


def _read_date(match: re.Match[str]) -> tuple[Kind, object] | None:
    found = match.groupdict()
    year = int(found["year"]) if found.get("year") else None
    if year is not None and year < 100:
        year += 2000
    if found.get("month"):
        if not _is_month(found["month"]):
            return None
        day = int(found.get("day") or 0)
        if day > 31 or (found.get("day") and day == 0):
            return None
        return "dates", Day(frozenset({(_month_number(found["month"]), day)}), year)
    one, two = int(found["one"]), int(found["two"])
    orders = [(one, two)] if "year" in found and match.start("year") == match.start() else [(one, two), (two, one)]
    readings = frozenset((month, day) for month, day in orders if 1 <= month <= 12 and 1 <= day <= 31)
    return ("dates", Day(readings, year)) if readings else None


def _hour(text: str) -> int:
    return UNITS[_low(text)] if _low(text) in UNITS else int(text)


def _read_time(match: re.Match[str]) -> tuple[Kind, object] | None:
    found = match.groupdict()
    if found.get("word"):
        is_midnight = _low(found["word"]) == "midnight"
        return "times", Clock(0, "am" if is_midnight else "pm", "24" if is_midnight else "12")
    hour, minute = _hour(found["hour"]), int(found.get("minute") or found.get("minute_h") or 0)
    if hour > 24 or not 0 <= minute < 60:
        return None
    if found.get("past"):
        shift = {"half past": 30, "quarter past": 15, "quarter to": -15}[_low(found["past"])]
        return "times", Clock((hour * 60 + shift) % 720, None, "bare")
    half: Literal["am", "pm"] | None = None
    style: Literal["12", "24", "bare"] = "24"
    if found.get("half"):
        style = "12"
        half = "pm" if _low(found["half"]) == "p" or 13 <= hour <= 23 else "am"
        if found.get("end"):
            is_same_half = hour % 12 <= int(found["end"]) % 12
            half = half if is_same_half else "am" if half == "pm" else "pm"
    elif hour >= 13 or hour == 0 or found["hour"].startswith("0"):
        half = "pm" if 12 <= hour < 24 else "am"
    elif "minute" not in found:
        style = "bare"
    return "times", Clock(hour % 12 * 60 + minute, half, style)


def _read_bare_time(match: re.Match[str]) -> tuple[Kind, object] | None:
    hour = _hour(match["hour"])
    return ("times", Clock(hour % 12 * 60, "pm" if hour > 12 else None, "bare")) if 1 <= hour <= 23 else None


def _read_url(match: re.Match[str]) -> tuple[Kind, object] | None:
    address = match.group().lower().rstrip(".,;:!?/-*_")
    for prefix in ("https://", "http://", "www."):
        address = address.removeprefix(prefix)
    return ("urls", address) if address else None


def _read_code(match: re.Match[str]) -> tuple[Kind, object] | None:
    token = match.group()
    if not any(map(str.isdigit, token)) or not any(map(str.isalpha, token)):
        return None
    before = match.string[max(0, match.start() - 2) : match.start()].strip()[-1:]
    is_plain_number = (
        re.fullmatch(r"\d+(?:\.\d+)*(?:st|nd|rd|th|[a-z]{1,5}|k|K|M)(?:-[a-z]+)*", token)
        or re.fullmatch(r"\d+(?:\.\d+)*(?:-[A-Za-z]+)+", token)
        or re.fullmatch(r"(?:[a-z]+-)+\d+(?:\.\d+)*", token)
        or re.fullmatch(r"(?:USD|EUR|GBP|CHF|JPY|INR|CAD|AUD)\d+(?:\.\d+)?[kMB]?", token)
        or (before in set("$€£¥₹") and before)
    )
    if is_plain_number:
        return None
    return "numbers", re.sub(r"[^a-z0-9]+", "", token.lower())


def number_values(digits: str) -> frozenset[str]:
    """Return the decimal notations that a figure such as `1,000`, `1.000,50` or `12.50` can stand for."""
    digits = "".join(str(int(char)) if char.isdigit() and not char.isascii() else char for char in digits)
    digits = re.sub(r"[ ']", "", digits)
    commas, dots = digits.count(","), digits.count(".")
    readings = []
    if commas and dots:
        mark = max(",.", key=digits.rfind)
        whole, _, rest = digits.rpartition(mark)
        if digits.count(mark) == 1:
            readings.append(f"{re.sub('[.,]', '', whole)}.{rest}")
    elif commas + dots == 1:
        whole, rest = re.split("[.,]", digits)
        readings.append(f"{whole}.{rest}")
        if len(rest) == 3 and 1 <= len(whole) <= 3 and whole.strip("0"):
            readings.append(f"{whole}{rest}")
            if commas:
                readings = readings[1:]
    elif commas + dots and all(len(part) in (2, 3) for part in re.split("[.,]", digits)[1:]):
        readings.append(re.sub("[.,]", "", digits))
    elif commas + dots:
        readings.append(f"v{digits}")
    else:
        readings.append(digits)
    return frozenset(_trim(reading) for reading in readings) or frozenset({f"v{digits}"})


def _trim(number: str) -> str:
    if number.startswith("v"):
        return number
    whole, _, rest = number.partition(".")
    whole, rest = whole.lstrip("0") or "0", rest.rstrip("0")
    return f"{whole}.{rest}" if rest else whole


def _scaled(values: Iterable[str], scale: str) -> frozenset[str]:
    zeros = {"h": 2, "k": 3, "t": 3, "m": 6, "b": 9}[_low(scale.strip())[0]]
    result = set()
    for value in values:
        whole, _, rest = value.partition(".")
        moved = (rest + "0" * zeros)[:zeros]
        result.add(_trim(f"{whole}{moved}.{rest[zeros:]}"))
    return frozenset(result)


def _unit(mark: str | None) -> str | None:
    if not mark:
        return None
    return CURRENCIES.get(_low(mark), "%")


def _read_number(match: re.Match[str]) -> tuple[Kind, object] | None:
    values = number_values(match["digits"])
    unit = _unit(match["before"]) or _unit(match["after"])
    scale = match["scale"]
    if scale and (len(scale.strip()) > 1 or scale.lower() == "k" or unit):
        values = _scaled(values, scale)
    return "amounts" if unit and unit != "%" else "numbers", Quantity(values, unit)


def spelled_values(number_words: Iterable[str]) -> list[int]:
    """Return the numbers that number words make: `two hundred five` is 205, `two three` is 2 and 3."""
    values: list[int] = []
    total, group, last = 0, 0, ""
    for word in number_words:
        kind = "unit" if word in UNITS else "tens" if word in TENS else "hundred" if word == "hundred" else "scale"
        joins = (
            not last
            or (kind == "unit" and ((last == "tens" and 0 < UNITS[word] < 10) or last in ("hundred", "scale")))
            or (kind == "tens" and last in ("hundred", "scale"))
            or (kind == "hundred" and last in ("unit", "tens"))
            or (kind == "scale" and last != "scale")
        )  # fmt: skip
        if not joins:
            values.append(total + group)
            total, group = 0, 0
        if kind in ("unit", "tens"):
            group += UNITS.get(word, 0) or TENS.get(word, 0)
        elif kind == "hundred":
            group = (group or 1) * 100
        else:
            total, group = total + (group or 1) * SCALES[word], 0
        last = kind
    return [*values, total + group] if last else values


def _number_words(text: str) -> list[str]:
    return [word for word in re.split(r"[- ]", _low(text)) if word != "and"]


def _read_spelled(match: re.Match[str], generous: bool) -> tuple[Kind, object] | None:
    parts = _number_words(match["words"])
    is_vague = parts == ["one"] or (len(parts) == 1 and parts[0] in SCALES)
    if is_vague and not generous:
        return None
    values = frozenset(map(str, spelled_values(parts)))
    unit = _unit(match["after"])
    return "amounts" if unit and unit != "%" else "numbers", Quantity(values, unit)


def _read_ordinal(match: re.Match[str]) -> tuple[Kind, object] | None:
    tens = TENS[_low(match["tens"]).strip(" -")] if match["tens"] else 0
    return "numbers", Quantity(frozenset({str(tens + ORDINALS[_low(match["word"])])}))


def _read_weekday(match: re.Match[str]) -> tuple[Kind, object] | None:
    day = _low(next(group for group in match.groups() if group))
    return "weekdays", WEEKDAY_SHORT.get(day, day)


@lru_cache(maxsize=512)
def find_facts(text: str, generous: bool = False) -> tuple[Fact, ...]:
    """Return the facts of a text in order.

    With `generous`, for the side that others are measured against, mere hints count too: a bare "at 3", "one",
    ordinal words, months in any position.
    """
    text = plain(text).replace(_MASK, " ")
    scan = _Scan(text)
    scan.take(_ADDRESS, lambda match: ("addresses", match.group().lower().rstrip(".-")))
    scan.take(_URL, _read_url)
    for pattern in _DATES:
        scan.take(pattern, _read_date)
    for pattern in _TIMES:
        scan.take(pattern, _read_time)
    if generous:
        spared = scan.left
        scan.take(_BARE_TIME, _read_bare_time)
        scan.left = spared
    else:
        scan.mask(_LIST_MARK)
        scan.mask(_IDIOM)
    scan.take(_PHONE, lambda match: ("numbers", re.sub(r"\D", "", match.group())))
    scan.take(_CODE, _read_code)
    scan.take(_NUMBER, _read_number)
    scan.take(_SPELLED, lambda match: _read_spelled(match, generous))
    if generous:
        scan.take(_ORDINAL, _read_ordinal)
    scan.take(_WEEKDAY, _read_weekday)
    scan.take(_WEEKDAY_SHORT, _read_weekday)
    scan.take(_WEEKDAY_DOUBTFUL, _read_weekday)
    if not generous:
        scan.mask(_BLANK)
    starts = _sentence_starts(text)
    scan.take(_MONTH_NAME, lambda match: _read_month(match, generous, starts))
    scan.facts.extend(_names(scan, starts))
    return tuple(sorted(scan.facts, key=lambda fact: (fact.start, fact.end)))


def _read_month(match: re.Match[str], generous: bool, starts: frozenset[int]) -> tuple[Kind, object] | None:
    if not generous and match.start() in starts and _low(match["month"]) in ("may", "march", "mar"):
        return None
    return "months", MONTHS[_month_number(match["month"]) - 1]


# --- names ----------------------------------------------------------------------------------------------------------


def _sentence_starts(text: str) -> frozenset[int]:
    """Return the offsets of the first word of every sentence."""
    starts = set()
    for start, end in sentence_spans(text):
        first = _WORD.search(text, start, end)
        if first:
            starts.add(first.start())
    return frozenset(starts)


def _name_lines(text: str) -> tuple[list[int], list[bool]]:
    """Return the offsets of the text's lines, and for each whether it is a heading, whose capitals say nothing."""
    offsets, headings = [], []
    offset = 0
    for line in text.split("\n"):
        long_words = [word for word in _WORD.findall(line) if len(word) > 3]
        is_open = line.rstrip(" *_")[-1:] not in ".!?,;"
        is_heading = (
            is_open and len(line) < 100 and len(long_words) > 1 and all(word[0].isupper() for word in long_words)
        )
        offsets.append(offset)
        headings.append(is_heading)
        offset += len(line) + 1
    return offsets, headings


def _is_ordinary(word: str) -> bool:
    base = word.casefold()
    return base in ORDINARY or (base.partition("'")[0] in ORDINARY and len(base.partition("'")[2]) <= 2)


def _strip_possessive(word: str) -> str:
    return word[:-2] if word[-2:].lower() == "'s" and len(word) > 2 else word


def _names(scan: _Scan, starts: frozenset[int]) -> list[Fact]:
    """Return the capitalised names of a scanned text: runs of capitalised words that are not ordinary ones."""
    letter = read_letter(scan.text)
    greeting_start, greeting_end = letter.greeting_span
    offsets, headings = _name_lines(scan.text)
    facts: list[Fact] = []
    run: list[re.Match[str]] = []

    def is_formula(at: int) -> bool:
        return greeting_start <= at < greeting_end or at >= letter.sign_off_at

    def close() -> None:
        numbers = () if _is_shouted(run) else range(len(run))
        kept = [run[at] for at in numbers if _counts(scan, run, at, starts, is_formula(run[at].start()))]
        if kept:
            shown = [_strip_possessive(word.group()) for word in kept]
            value = tuple(word.casefold() for word in shown)
            facts.append(Fact("names", " ".join(shown), kept[0].start(), kept[-1].end(), value))
        run.clear()

    for word in _WORD.finditer(scan.left):
        text = word.group()
        is_capital = any(map(str.isupper, text)) and not (text[0].islower() and "-" in text)
        gap = scan.left[run[-1].end() : word.start()] if run else ""
        if run and (not is_capital or gap not in (" ", ". " if len(run[-1].group()) == 1 else " ")):
            close()
        if not is_capital:
            continue
        line = bisect_right(offsets, word.start()) - 1
        if headings[line] and not is_formula(word.start()):
            continue
        run.append(word)
    close()
    return facts


def _counts(scan: _Scan, run: list[re.Match[str]], number: int, starts: frozenset[int], is_formula: bool) -> bool:
    """Tell whether one word of a run of capitalised words is (part of) a name."""
    word = run[number]
    text = word.group()
    if len(text) == 1 or _is_ordinary(text):
        return False
    if is_formula:
        return True
    before = scan.text[max(0, word.start() - 12) : word.start()].rstrip(" *_")
    is_opening = word.start() in starts or before[-1:] in set(':"([{#>|•-;')
    if not is_opening:
        return True
    if any(map(str.isupper, text[1:])) and (len(text) <= 6 or not text.isupper()):
        return True
    following = scan.text[word.end() : word.end() + 24].split()
    if text.lower().endswith(("ly", "ing")):
        return False
    is_followed = (
        number + 1 < len(run) and not _is_ordinary(run[number + 1].group()) and len(run[number + 1].group()) > 1
    )
    return is_followed or (following[:1] != [] and following[0].strip(".,").lower() in PERSON_VERBS)


def _is_shouted(run: list[re.Match[str]]) -> bool:
    """Tell whether a run is capitals for emphasis rather than names."""
    letters = "".join(word.group() for word in run)
    return len(run) > 2 and letters.isupper()


# --- what a text knows ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """Everything a text states, ready to be asked."""

    folded: str
    facts: tuple[Fact, ...]
    vocabulary: frozenset[str] = field(repr=False)
    """Folded words, without possessive."""
    figures: frozenset[str] = field(repr=False)
    """Every number that occurs anywhere, also as part of a date, a time or a code."""
    months: frozenset[str] = field(repr=False)
    weekdays: frozenset[str] = field(repr=False)
    """Days of the week that are named, or that a full date falls on."""

    def states(self, fact: Fact) -> bool:
        """Tell whether this text states `fact`, in whatever notation."""
        value = fact.value
        if fact.kind == "names" and isinstance(value, tuple):
            return all(self._knows_word(word) for word in value)
        if isinstance(value, Day):
            return self._states_date(fact, value)
        if has_phrase(self.folded, fold(fact.text)):
            return True
        if fact.kind == "weekdays":
            return value in self.weekdays
        if fact.kind == "months":
            return value in self.months
        if isinstance(value, Quantity):
            units = {
                str(other.value.unit) for other in self.facts if same(other, fact) and isinstance(other.value, Quantity)
            }
            return bool(units) or (not value.unit and bool(value.values & self.figures))
        if fact.kind == "numbers" and isinstance(value, str):
            return self._states_code(value)
        return any(same(other, fact) for other in self.facts)

    def _knows_word(self, word: str) -> bool:
        if word in self.vocabulary or word.removesuffix("s") in self.vocabulary or f"{word}s" in self.vocabulary:
            return True
        parts = re.split(r"[-']", word)
        return len(parts) > 1 and all(part in self.vocabulary for part in parts if len(part) > 1)

    def _states_date(self, fact: Fact, value: Day) -> bool:
        is_year_known = value.year is None or str(value.year) in self.figures
        if not is_year_known:
            return False
        if any(same(other, fact) for other in self.facts if other.kind == "dates"):
            return True
        return any(
            MONTHS[month - 1] in self.months and (day == 0 or str(day) in self.figures) for month, day in value.readings
        )

    def _states_code(self, value: str) -> bool:
        if any(other.value == value for other in self.facts if other.kind == "numbers"):
            return True
        pieces = re.findall(r"[a-z]+|\d+", value)[:20]
        if value.isdigit():
            return len(value) >= 7 and value in re.sub(r"\D", "", self.folded)
        pattern = r"[\s\-_.#/]*".join(map(re.escape, pieces))
        return re.search(rf"(?<![^\W_]){pattern}(?![^\W_])", self.folded) is not None


@lru_cache(maxsize=512)
def known(text: str) -> Known:
    """Return everything `text` states."""
    facts = find_facts(text, generous=True)
    folded = fold(text)
    vocabulary = {_strip_possessive(word) for word in words(text)}
    vocabulary |= {part for word in vocabulary for part in re.split(r"[^\w]|_", word) if part}
    figures: set[str] = set()
    months: set[str] = {month for month in MONTHS if month != "may" and month in vocabulary}
    weekdays: set[str] = set()
    for fact in facts:
        value = fact.value
        if isinstance(value, Quantity):
            figures |= value.values
        elif isinstance(value, Day):
            figures |= {str(part) for reading in value.readings for part in reading if part}
            months |= {MONTHS[month - 1] for month, _ in value.readings}
            if value.year is not None:
                figures.add(str(value.year))
            weekdays |= _weekdays_of(value)
        elif isinstance(value, Clock):
            figures |= {_trim(part) for part in re.findall(r"\d+", fact.text)}
            hour = value.minute // 60 or 12
            figures |= {str(hour), str(hour % 12 + 12) if value.half == "pm" else str(hour)}
        elif fact.kind == "weekdays" and isinstance(value, str):
            weekdays.add(value)
        elif fact.kind == "months" and isinstance(value, str):
            months.add(value)
        elif fact.kind == "numbers":
            figures |= {_trim(part) for part in re.findall(r"\d+", fact.text)}
    return Known(folded, facts, frozenset(vocabulary), frozenset(figures), frozenset(months), frozenset(weekdays))


def _weekdays_of(day: Day) -> set[str]:
    if day.year is None or len(day.readings) != 1:
        return set()
    (month, number), *_ = day.readings
    try:
        return {WEEKDAYS[date(day.year, month, number).weekday()]}
    except ValueError:
        return set()


def with_figures(text: str) -> str:
    """Return the folded text with every number in figures and one notation: `two` is 2, `1,000.00` is 1000."""

    def spell(match: re.Match[str]) -> str:
        values = " ".join(map(str, spelled_values(_number_words(match["words"]))))
        return match.group().replace(match["words"], values, 1)

    def write(match: re.Match[str]) -> str:
        values = number_values(match["digits"])
        if len(values) != 1 or match["scale"]:
            return match.group()
        value = next(iter(values))
        unit = "%" if _unit(match["after"]) == "%" else match["after"] or ""
        return f"{match['before'] or ''}{value}{unit}" if not value.startswith("v") else match.group()

    return _NUMBER.sub(write, _SPELLED.sub(spell, fold(text)))
