"""Smells of levels: marks instead of names, an order that is not worst to best, and words that define nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from prefdistill.lint.findings import Smell
from prefdistill.rubric import Criterion, Gate

GRADES = frozenset(
    """no yes not at all partly in part some somewhat mostly fully completely entirely very hardly barely slightly
    a little moderately quite largely highly extremely poor fair good very excellent great perfect bad terrible awful ok
    okay acceptable average mediocre weak strong low medium high worst worse better best never rarely sometimes often
    usually always none few many most of it them little lot disagree agree strongly neutral true false unsure maybe
    unsatisfactory satisfactory outstanding insufficient sufficient adequate superb exceptional decent""".split()
)
"""Words that grade without saying what is graded."""
WORTH = {
    **dict.fromkeys(
        "terrible awful bad poor worst fail fails failed wrong unacceptable insufficient unsatisfactory".split(), -2
    ),
    **dict.fromkeys("weak worse low jarring mediocre inadequate disagree".split(), -1),
    **dict.fromkeys(
        "good better fine acceptable adequate fitting high right satisfactory strong agree pass passes".split(), 1
    ),
    **dict.fromkeys("excellent best perfect outstanding great superb exceptional flawless".split(), 2),
}
"""How good a word is whatever the question asks."""
AMOUNT = {
    **dict.fromkeys("no never none nothing nowhere false".split(), 0),
    **dict.fromkeys("rarely hardly barely few little".split(), 1),
    **dict.fromkeys("some sometimes partly somewhat".split(), 2),
    **dict.fromkeys("often usually mostly most many".split(), 3),
    **dict.fromkeys("yes always all fully completely entirely everything everywhere throughout true".split(), 4),
}
"""How much of what the question asks for there is."""
_FAULT = re.compile(
    r"\b(?:missing|wrong(?:ly)?|errors?|mistakes?|typos?|padding|filler|invent\w*|hallucinat\w*|unsupported"
    r"|made[- ]up|rude|insult\w*"
    r"|offensive|contradict\w*|omit\w*|lose|loses|lost|lack\w*|repeat\w*|repetit\w+|vague|jargon|confus\w+"
    r"|ambigu\w+|too (?:long|short|formal|much|many)"
    r"|unnecessar\w+|redundan\w*|mislead\w*|leaves? out|left out|clich\w+|fail(?:s|ed)? to|faults?|flaws?"
    r"|problems?|unclear|inaccura\w+"
    r"|incorrect|clumsy|awkward|wordy|spam|placeholder\w*|leaks?|bias\w*|harmful|toxic)\b"
    r"|\b(?:anything|something|facts?|claims?)\b[^?]*(?:\b(?:not|cannot|never)\b|n['’]t\b)|\brefus\w+",
    re.IGNORECASE,
)
_FREE_OF = re.compile(
    r"\b(?:free (?:of|from)|without|avoid\w*|no|not|never|correct(?:s|ed)?|mend\w*|remove[sd]?|fix\w*|clear of"
    r"|empty of|cut)\b",
    re.IGNORECASE,
)
_MARK = re.compile(r"\d+(?:\.\d+)?\s*(?:/\s*\d+|%|stars?|points?)?|[A-F][+-]?|\*+|★+|[ivx]{1,4}", re.IGNORECASE)
_LEADING_MARK = re.compile(r"^\d+\s*(?:[:.)(=–-])\s*\S")


def are_defined(levels: tuple[str, ...] | None) -> bool:
    """Whether the levels themselves say what they mean: at least half of them hold a word that does not just grade."""
    if not levels:
        return False
    telling = [level for level in levels if any(word not in GRADES for word in re.findall(r"[a-z]+", level.lower()))]
    return 2 * len(telling) >= len(levels)


def level_smells(criterion: Criterion) -> Iterator[Smell]:
    """Yield what smells in one asked criterion's levels."""
    levels = tuple(" ".join(level.split()) for level in criterion.levels or ())
    question = criterion.question or ""
    if isinstance(criterion, Gate):
        yield from _passes_on_a_fault(criterion, question)
    if sum(bool(_MARK.fullmatch(level)) for level in levels) > len(levels) / 2:
        yield Smell(
            "marks",
            "warning",
            "levels",
            f"levels are marks: {', '.join(levels)}",
            "nobody knows what a 6 is: teachers bunch at 7 and 8 of ten, so drafts tie, and two judges disagree "
            "on every "
            "step",
            f"levels: [misses it, gets it in part, gets it]     # {len(levels)} marks to 3 or 4 names a person "
            "could point at",
        )
    elif any(_LEADING_MARK.match(level) for level in levels):
        named = [re.sub(r"^\d+\s*[:.)(=–-]\s*", "", level).rstrip(")") for level in levels]
        yield Smell(
            "marks",
            "hint",
            "levels",
            f"levels begin with marks: {', '.join(levels)}",
            "a judge may reply with the number or with the words alone; neither is on the menu, and the draft is lost",
            f"levels: [{', '.join(named)}]",
        )
    if not isinstance(criterion, Gate):
        yield from _order(levels, question)
        yield from _longest_best(levels)


def _worth(level: str) -> int | None:
    words = re.findall(r"[a-z]+", level.lower())
    if not words or "not" in words or len(words) > 2:
        return None
    return next((WORTH[word] for word in words if word in WORTH), None)


def _amount(level: str) -> int | None:
    text = level.lower().strip()
    if text in ("not at all", "in no way"):
        return 0
    first = re.findall(r"[a-z]+", text)[:1]
    return AMOUNT.get(first[0]) if first else None


def asks_for_a_fault(question: str) -> bool:
    """Whether `yes`, or much of it, would be bad."""
    match = _FAULT.search(question)
    return match is not None and not _FREE_OF.search(question[: match.start()])


def _order(levels: tuple[str, ...], question: str) -> Iterator[Smell]:
    """Levels go worst to best; look at words that are good or bad by themselves, then at amounts."""
    first, last = _worth(levels[0]), _worth(levels[-1])
    turned = f"levels: [{', '.join(_quoted(level) for level in reversed(levels))}]"
    why = "levels are scored in the order written, the first 0 and the last 1: pairs would be the wrong way round"
    if first is not None and last is not None:
        if first > last:
            found = f"`{levels[0]}` comes before `{levels[-1]}`; levels go worst to best"
            yield Smell("order", "warning", "levels", found, why, turned)
        return
    less, more = _amount(levels[0]), _amount(levels[-1])
    if less is None or more is None or less == more:
        return
    if asks_for_a_fault(question):
        if less < more:
            found = f"the question asks for a fault, and `{levels[-1]}` gets the best score"
            yield Smell("order", "warning", "levels", found, why, f"{turned}     # or ask for what should be there")
    elif (
        less > more
        and re.search(r"\b(?:how much|how many|how often|left|remain\w*)\b", question, re.IGNORECASE) is None
    ):
        found = f"`{levels[0]}` comes first, so it gets the worst score: right only if it is a fault"
        yield Smell("order", "warning", "levels", found, why, turned)


def _quoted(level: str) -> str:
    return f'"{level}"' if level.lower() in ("yes", "no", "on", "off", "y", "n") or ":" in level else level


def _longest_best(levels: tuple[str, ...]) -> Iterator[Smell]:
    lengths = [re.search(r"\b(short|brief|medium|long|lengthy|detailed)\b", level.lower()) for level in levels]
    names = [match.group(1) if match else "" for match in lengths]
    if (
        names[0] in ("short", "brief")
        and names[-1] in ("long", "lengthy", "detailed")
        and "too" not in levels[-1].lower()
    ):
        yield Smell(
            "rewards-length",
            "warning",
            "levels",
            f"`{levels[-1]}` is the best level",
            "judges prefer the longer text by themselves already: `longest wins` agrees with crowds 62 to 75 % of "
            "the time "
            "and with professional writers 39.5 %",
            "- {name: length, check: length, unit: words, between: [20, 110], soft: 20}     # a range, counted exactly",
        )


def _passes_on_a_fault(gate: Gate, question: str) -> Iterator[Smell]:
    passes = (gate.pass_when or "").strip().lower()
    if passes == "yes" and asks_for_a_fault(question):
        yield Smell(
            "order",
            "warning",
            "pass_when",
            f"the question asks for a fault, and the gate passes when the answer is `{gate.pass_when}`",
            "every draft with the fault would pass, and every draft without it could only be rejected",
            'pass_when: "no"',
        )
