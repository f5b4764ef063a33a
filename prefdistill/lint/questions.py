"""Smells of one question: what it joins, what it leaves vague, what it rewards, and what a program should count."""

from __future__ import annotations

import re
from collections.abc import Iterator

from prefdistill.lint.barrels import find_barrels
from prefdistill.lint.findings import Smell
from prefdistill.lint.levels import are_defined
from prefdistill.lint.words import DETERMINERS, slug
from prefdistill.rubric import Criterion, Gate

VAGUE: dict[str, str] = {
    "comprehensive": "Which of the points that the request names does it leave out?|[several, one, none]",
    "thorough": "Which of the points that the request names does it leave out?|[several, one, none]",
    "complete": "Which of the points that the request names does it leave out?|[several, one, none]",
    "engaging": "What does its first sentence offer the "
    "reader?|[nothing of use, the topic, what it means for the reader]",
    "interesting": "Does it tell its reader something that the reader does not know "
    "yet?|[nothing, a detail, its main point]",
    "compelling": "Does it give the reader a reason to do what it asks?|[none, a general one, one of the reader's own]",
    "persuasive": "Does it give the reader a reason to do what it asks?|[none, a general one, one of the reader's own]",
    "professional": "Would it pass at work as it stands?|[too familiar or careless, one slip, as it stands]",
    "appropriate": "Does its tone suit what has happened between the two people?|[jarring, slightly off, fitting]",
    "suitable": "Does its tone suit what has happened between the two people?|[jarring, slightly off, fitting]",
    "proper": "Does its tone suit what has happened between the two people?|[jarring, slightly off, fitting]",
    "effective": 'Does the reader know after reading what to do next?|["no", partly, "yes"]',
    "helpful": 'Can the person who asked go on without asking again?|["no", with one more question, "yes"]',
    "useful": 'Can the person who asked go on without asking again?|["no", with one more question, "yes"]',
    "insightful": "Does it say something that follows from the request but is not in "
    "it?|[nothing, something obvious, something that helps]",
    "creative": "How many people would have written the same?|[nearly everybody, many, few]",
    "natural": "Would a person say it aloud like this?|[nowhere, in places, throughout]",
    "fluent": "Where does a reader have to read a sentence twice?|[in several places, once, nowhere]",
    "readable": "Where does a reader have to read a sentence twice?|[in several places, once, nowhere]",
    "coherent": "Does each sentence follow from the one before?|[rarely, with gaps, throughout]",
    "polished": "Where would an editor still change a word?|[in most sentences, in one or two, nowhere]",
    "well-written": "Where would an editor still change a word?|[in most sentences, in one or two, nowhere]",
    "well-structured": "Where does the main point stand?|[nowhere, at the end, at the start]",
    "smooth": "Where does a reader have to read a sentence twice?|[in several places, once, nowhere]",
    "strong": "Where does the main point stand?|[nowhere, at the end, at the start]",
    "reasonable": "Is each claim supported by what the request says?|[hardly any, most, all of them]",
    "adequate": "Which of the points that the request names does it leave out?|[several, one, none]",
    "sufficient": "Which of the points that the request names does it leave out?|[several, one, none]",
    "meaningful": "Does it say anything that the reader did not know?|[nothing, a detail, its main point]",
}
"""Vague word to a question that can be answered, with levels."""
OVERALL = "Could it be sent without a change?|[rewrite it, change a sentence, change a word, send it]"
_GENERAL = re.compile(
    r"\b(?:good|great|excellent|nice|best|decent|amazing|outstanding|satisfying|satisfactory|high[- ]quality"
    r"|(?:overall|general|writing|high) quality|quality of (?:the |its |this )?(?:\w+ )?"
    r"(?:text|writing|answer|reply|response|draft|e-?mail|summary|output|content)|how well[- ]written)\b(?!bye)",
    re.IGNORECASE,
)
_VAGUE = re.compile(rf"\b(?:{'|'.join(sorted(VAGUE, key=len, reverse=True))})(?:ly)?\b", re.IGNORECASE)
_CLEAR = re.compile(
    r"\b(?:(?:is|are) (?:the |this )?[\w-]+(?: [\w-]+)? clear|clearly written|how clear(?:ly)?)\b", re.IGNORECASE
)
_CLEAR_OF = re.compile(
    r"\bclear(?:ly)?(?:,)? (?:who|what|when|where|why|how|which|that|within|from|to|about)\b", re.IGNORECASE
)

_LONG = re.compile(
    r"\b(?:(?:more |very |highly |richly )?detailed|in (?:great |full |enough |sufficient )?detail"
    r"|(?:level|amount) of detail|(?:how much|enough|sufficient|rich|as much|plenty of|more) detail"
    r"|(?:long|lengthy) enough|in[- ]depth|in depth|exhaustive(?:ly)?|elaborate(?:s|ly)?|extensive(?:ly)?"
    r"|as (?:long|full) as possible|expansive|verbose enough|how (?:long|lengthy))\b",
    re.IGNORECASE,
)
_SHORT = re.compile(
    r"\b(?:too|overly|unnecessar\w+|needless\w*|superfluous|excessive\w*|irrelevant|without|less|avoid\w*|free of"
    r"|no|not)\b"
    r"[^?]{0,25}\b(?:detail\w*|long|elaborat\w+|extensive\w*|in[- ]depth)",
    re.IGNORECASE,
)

NUMBERS = {
    name: number
    for number, name in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()
    )
} | {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "hundred": 100}
_NUMBER = rf"(?:\d+|{'|'.join(NUMBERS)}|a hundred|one hundred)"
_UNIT = (
    r"(?P<unit>words?|sentences?|characters?|letters|paragraphs?|lines?|bullet points?|bullets?|exclamation marks?"
    r"|emojis?|times|links?|headings?)"
)
_COUNT = re.compile(
    rf"\b(?:how many|number of|count(?:ed|ing)? (?:of )?(?:the )?|word count"
    rf"|sentence count)\b(?:\s+(?:different\s+)?{_UNIT})?",
    re.IGNORECASE,
)
_LIMIT = re.compile(
    rf"\b(?P<bound>at most|no more than|not more than|fewer than|less than|under|below|up to|maximum(?: of)?|within"
    rf"|at least|no fewer than"
    rf"|no less than|more than|over|minimum(?: of)?|exactly|only|in|between|longer than|shorter than|twice)\s+"
    rf"(?P<low>{_NUMBER})(?:\s*(?:-|–|to|and)\s*(?P<high>{_NUMBER}))?\s+{_UNIT}",
    re.IGNORECASE,
)
_POSITION = re.compile(
    r"\b(?:within|in) (?:the )?(?:first |opening |last )?(?:one|two|three|1|2|3) (?:sentences?|lines?|words?)\b", re.I
)
_OFTEN = re.compile(
    r"\bhow (?:often|frequently)\b|\bmore than (?:once|twice)\b|\b(?:once|twice) or more\b", re.IGNORECASE
)
_QUOTED = re.compile(r"[\"“”'‘]([^\"“”'‘’]{2,40})[\"“”'’]")

_NEGATED = re.compile(
    r"^(?:isn|aren|doesn|don|didn|hasn|haven|can|couldn|won|wouldn|shouldn|wasn|weren)['’]?t\b|\bnot\b|\bnever\b"
    r"|n['’]t\b|\bno longer\b"
    r"|\bnothing\b|\bno one\b|\bnobody\b|\b(?:contain|have|has|make|use|include|leave|show)s? no\b|\bthere no\b",
    re.IGNORECASE,
)
_NOT_NEGATED = re.compile(
    r"\b(?:whether or not|if not|not (?:only|just|merely)|(?:no|not) (?:more|fewer|less|later|longer) than)\b",
    re.IGNORECASE,
)
_RELATIVE = re.compile(r",?\s+(?:that|which|who|whose|what|where|when|because|if|although|whether)\s.*$", re.IGNORECASE)
_LEADING = re.compile(
    r"\b(?:surely|obviously|clearly (?:not|the)|of course|undoubtedly|as (?:it )?should(?: be)?"
    r"|wouldn['’]t you (?:say|agree)|don['’]t you"
    r"|would you agree|do you agree|you would agree|isn['’]t it)|,\s*right\?$|^(?:isn['’]t|doesn['’]t|aren['’]t"
    r"|don['’]t)\b",
    re.IGNORECASE,
)
_OTHERS = re.compile(
    r"\b(?:other drafts?|another draft|the (?:first|second|other) (?:draft|answer|response)|both drafts"
    r"|better than (?:the )?(?:other|rest)"
    r"|compared (?:to|with) (?:the )?(?:other|best|teacher|reference|rest)|best of (?:the|all)|teacher(?:'s|’s)?"
    r"|reference (?:answer|draft|text|e-?mail)|gold(?:en)? (?:answer|standard|reference)|ideal (?:answer|response"
    r"|draft)"
    r"|student model|(?:language|large) model|the model(?:'s|’s)? (?:answer|output)|chatgpt|gpt-?\d"
    r"|you would have written)\b",
    re.IGNORECASE,
)


def question_smells(criterion: Criterion) -> Iterator[Smell]:
    """Yield what smells in one asked criterion's question."""
    question = " ".join((criterion.question or "").split())
    yield from _double_barrelled(criterion, question)
    counted = list(_counting(criterion, question))
    yield from counted
    if not counted:
        yield from _rewards_length(criterion, question)
    yield from _vague(criterion, question)
    yield from _negated(criterion, question)
    yield from _leading(question)
    yield from _compares(question)


def entry(name: str, question: str, levels: str, criterion: Criterion) -> str:
    """Return a criterion or gate as one line of YAML."""
    quoted = question.replace('"', '\\"')
    if isinstance(criterion, Gate):
        return f'- {{name: {name}, question: "{quoted}", pass_when: "{criterion.pass_when}"}}'
    return f'- {{name: {name}, question: "{quoted}", levels: {levels}, weight: {criterion.weight:g}}}'


def _menu(levels: tuple[str, ...] | None) -> str:
    shown = [
        f'"{level}"' if level.lower() in ("yes", "no", "on", "off") or ":" in level else level for level in levels or ()
    ]
    return f"[{', '.join(shown)}]"


def _double_barrelled(criterion: Criterion, question: str) -> Iterator[Smell]:
    found = find_barrels(question)
    menu = {level.strip().lower() for level in criterion.levels or ()}
    if found is None or {part.lower() for part in found.parts} <= menu:  # it only reads out its levels
        return
    either = isinstance(criterion, Gate) and re.search(r"\bor\b", question) is not None
    if either:
        return  # a gate that fails on either fault has one answer
    share = criterion.model_copy(update={"weight": criterion.weight / len(found.questions)})
    names = [slug(part) for part in found.parts]
    if len(set(names)) < len(names):
        names = [f"{criterion.name}_{number}" for number in range(1, len(names) + 1)]
    lines = [
        entry(name, text, _menu(criterion.levels), share) for name, text in zip(names, found.questions, strict=True)
    ]
    joined = ", ".join(f"`{part}`" for part in found.parts[:-1]) + f" and `{found.parts[-1]}`"
    yield Smell(
        "double-barrelled",
        "warning",
        "question",
        f"`{question}` asks for {joined} in one answer",
        "a draft that has one and not the other has no right level, so the judge picks one by itself, and another one "
        "next time; you cannot see which of them moved a score",
        "one question each:\n" + "\n".join(lines),
    )


def _vague(criterion: Criterion, question: str) -> Iterator[Smell]:
    if are_defined(criterion.levels):
        return
    match = _GENERAL.search(question) or _VAGUE.search(question)
    word = match.group() if match else None
    proposal = OVERALL
    if match is not None:
        key = match.group().lower()
        proposal = VAGUE.get(key) or VAGUE.get(key.removesuffix("ly")) or OVERALL
    elif (clear := _CLEAR.search(question)) and not _CLEAR_OF.search(question):
        word = re.search(r"clear(?:ly)?", clear.group(), re.IGNORECASE).group()  # type: ignore[union-attr]
        proposal = "Where does a reader have to guess what is meant?|[in several places, once, nowhere]"
    if word is None:
        return
    text, levels = proposal.split("|")
    shown = ", ".join(criterion.levels or ())
    yield Smell(
        "vague",
        "warning",
        "question",
        f"`{word}` can mean many things, and the levels ({shown}) do not say what it means here",
        "judges fill a vague word with length, formality and lists: people agree with the longest text 62 to 75 % of "
        "the time, professional writers 39.5 %",
        "say what a reader would see, or let the levels say it, for example:\n"
        + entry(criterion.name, text, levels if not isinstance(criterion, Gate) else '["no", "yes"]', criterion)
        if not isinstance(criterion, Gate)
        else "say what fails the gate as something that can be pointed at in the draft: a fact, a phrase, a missing part",
    )


def _rewards_length(criterion: Criterion, question: str) -> Iterator[Smell]:
    match = _LONG.search(question)
    if match is None or _SHORT.search(question) or isinstance(criterion, Gate):
        return
    lines = [
        "ask for what the detail is for, and give length a range of its own:",
        entry(criterion.name, "Which fact that the reader needs is missing?", "[several, one, none]", criterion),
        "- {name: length, check: length, unit: words, between: [20, 110], soft: 20}",
    ]
    yield Smell(
        "rewards-length",
        "warning",
        "question",
        f"`{match.group()}`: a longer draft gets the better level",
        "judges prefer the longer text by themselves already, and a student that is trained on them learns to pad: "
        "`longest wins` agrees with crowds 62 to 75 % of the time and with professional writers 39.5 %",
        "\n".join(lines),
    )


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    text = text.lower().removeprefix("a ").removeprefix("one ") if "hundred" in text.lower() else text.lower()
    return int(text) if text.isdigit() else NUMBERS.get(text)


def _counting(criterion: Criterion, question: str) -> Iterator[Smell]:
    limit = _LIMIT.search(question)
    if limit is not None and _POSITION.search(question) and limit["bound"].lower() in ("within", "in"):
        limit = None
    count, often = _COUNT.search(question), _OFTEN.search(question)
    match = limit or count or often
    if match is None or (
        count and not count.groupdict().get("unit") and not limit and not often and not _countable(question)
    ):
        return
    yield Smell(
        "counting",
        "warning",
        "question",
        f"`{match.group()}` asks the judge to count",
        "language models count badly, and a check counts exactly, for nothing, before any call",
        "use a check instead:\n" + _check_for(criterion, question, limit, match),
    )


def _countable(question: str) -> bool:
    return (
        re.search(r"\b(?:words?|sentences?|characters?|paragraphs?|bullets?|times|occurrences|count)\b", question, re.I)
        is not None
    )


def _check_for(criterion: Criterion, question: str, limit: re.Match[str] | None, match: re.Match[str]) -> str:
    unit = (match.groupdict().get("unit") or "").lower()
    if not unit:
        named = re.search(r"\b(word|sentence|character|paragraph|bullet)s?\b", question, re.IGNORECASE)
        unit = named.group(1).lower() if named else ""
    low, high = (_number(limit["low"]), _number(limit["high"])) if limit is not None else (None, None)
    bounds = _bounds(limit["bound"].lower(), low, high) if limit is not None and low is not None else None
    quoted = _QUOTED.search(question)
    weight = "" if isinstance(criterion, Gate) else f", weight: {criterion.weight:g}"
    if unit.startswith("paragraph"):
        return f"- {{name: {criterion.name}, check: structure, paragraphs: {bounds or '[1, 3]'}{weight}}}"
    if unit.startswith(("bullet", "line", "heading")):
        pattern = "'(?m)^ *#+ '" if unit.startswith("heading") else "'(?m)^ *[-*•] '"
        return f"- {{name: {criterion.name}, check: structure, not_regex: {pattern}{weight}}}"
    if unit.startswith(("exclamation", "emoji", "link")):
        pattern = (
            {"e": "'(?s)!.*!'", "l": "'https?://'"}.get(unit[0], "'!'")
            if not unit.startswith("emoji")
            else "'[\\x{1F300}-\\x{1FAFF}]'"
        )
        return f"- {{name: {criterion.name}, check: structure, not_regex: {pattern}{weight}}}"
    if quoted or unit == "times" or not unit:
        phrase = quoted.group(1) if quoted else "the phrase"
        return f'- {{name: {criterion.name}, check: phrases, none_of: ["{phrase}"]{weight}}}'
    name = {"word": "words", "sentence": "sentences"}.get(unit.rstrip("s"), "characters")
    default = {"words": "[20, 110]", "sentences": "[2, 6]", "characters": "[100, 800]"}[name]
    return f"- {{name: {criterion.name}, check: length, unit: {name}, between: {bounds or default}{weight}}}"


def _bounds(bound: str, low: int, high: int | None) -> str:
    if high is not None:
        return f"[{low}, {high}]"
    if bound in ("at least", "no fewer than", "no less than", "more than", "over", "longer than") or bound.startswith(
        "min"
    ):
        return f"[{low + (bound in ('more than', 'over', 'longer than'))}, null]"
    if bound == "exactly":
        return f"[{low}, {low}]"
    return f"[null, {low - (bound in ('fewer than', 'less than', 'under', 'below', 'shorter than'))}]"


def _negated(criterion: Criterion, question: str) -> Iterator[Smell]:
    main = _RELATIVE.sub("", question.rstrip("?"))
    main = _NOT_NEGATED.sub("", main)
    match = _NEGATED.search(main)
    if (
        match is None
        or _LEADING.search(question)
        or find_barrels(question)
        or re.search(r"\b(?:any|a) .*\bnot\b", main)
    ):
        return
    first = (criterion.levels or ("no",))[0].strip().lower()
    if first not in ("no", "yes", "never", "always", "not at all", "none") and not isinstance(criterion, Gate):
        return  # the levels say what they mean
    positive = _without_negation(question)
    flipped = _menu(tuple(reversed(criterion.levels or ())))
    if isinstance(criterion, Gate):
        other = next((level for level in criterion.levels or () if level != criterion.pass_when), "no")
        better = f'- {{name: {criterion.name}, question: "{positive}", pass_when: "{other}"}}'
    else:
        better = entry(criterion.name, positive, flipped, criterion) + "     # worst to best: now the other way round"
    yield Smell(
        "negated",
        "warning",
        "question",
        f"`{question}` is negated, so `yes` and `no` can be read both ways",
        "a judge that answers `no` may mean `no, it does not` or `no, that is wrong`: the label turns round in silence",
        better,
    )


def _without_negation(question: str) -> str:
    text = re.sub(
        r"^(Is|Are|Does|Do|Did|Has|Have|Could|Would|Should|Was|Were)n['’]t\b", r"\1", question, flags=re.IGNORECASE
    )
    text = re.sub(r"^Can['’]t\b", "Can", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(contain|have|has|make|use|include|leave|show)(s?) no\b", r"\1\2 any", text, flags=re.IGNORECASE)
    text = re.sub(r"\bthere no\b", "there any", text, flags=re.IGNORECASE)
    text = re.sub(r"\bnothing\b", "anything", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(?:not|never|no longer)\s+", "", text, count=1, flags=re.IGNORECASE)
    return " ".join(text.split())


def _leading(question: str) -> Iterator[Smell]:
    match = _LEADING.search(question)
    if match is None:
        return
    plain = re.sub(
        r"(?i)^(?:surely|obviously|of course|undoubtedly),?\s*|,?\s*(?:(?:is|does|do|are|has|wo|would)n['’]t (?:it"
        r"|they|he|she|you)(?: think| say| agree)?|right)\?$",
        "",
        question,
    )
    plain = re.sub(
        r"(?i)^(?:would|do) you agree that (?:the |this )?(.*)$",
        r"How far does it hold that the \1",
        _without_negation(plain),
    )
    plain = re.sub(r"(?i)\b(?:surely|obviously|undoubtedly|of course),?\s+", "", plain).rstrip("?., ") + "?"
    if plain.split()[0].lower() in DETERMINERS:  # a statement: make it a question
        plain = f"Does it hold that {plain[:1].lower()}{plain[1:]}"
    plain = _without_negation(plain)
    yield Smell(
        "leading",
        "warning",
        "question",
        f"`{match.group()}` suggests the answer",
        "models agree with what a question suggests, so the level says little about the draft",
        f"ask it openly: {plain[:1].upper()}{plain[1:]}",
    )


def _compares(question: str) -> Iterator[Smell]:
    match = _OTHERS.search(question)
    if match is None:
        return
    yield Smell(
        "compares",
        "warning",
        "question",
        f"`{match.group()}`: the judge sees one draft and the request, and nothing else",
        "it has to imagine what it is to compare with; drafts are compared with each other by `confirm`, in both "
        "orders, "
        "which takes away the position bias (19.5 % of GPT-4's verdicts went to the draft shown first whichever "
        "it was)",
        "ask what would make the other one better, such as: Which fact of the request is missing from the draft?",
    )
