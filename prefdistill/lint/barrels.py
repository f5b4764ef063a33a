"""Double-barrelled questions: two properties under one answer, and the two questions that they should be.

Not every "and" joins two questions: "between noon and one", "names and numbers that the note does not have" and
"states or promises anything" ask one thing. What counts is what stands on both sides: two adjectives of the thing
asked about, two verbs of the same subject, two clauses, or two properties.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from prefdistill.lint.words import (
    AUXILIARIES,
    DETERMINERS,
    FIXED_PAIRS,
    PREPOSITIONS,
    PROPERTIES,
    SUBORDINATORS,
    VERBS,
    is_adjective,
    with_article,
    words_of,
)

_JOINT = re.compile(
    r"(?P<comma>,?)\s+(?P<word>and/or|and also|and at the same time|as well as|while also|but also|and|or|but|yet)\s+"
    r"(?:also\s+|then\s+|not only\s+)?(?P<negation>not\s+)?|\s*(?P<sign>[&/])\s*",
    re.IGNORECASE,
)
_INVERTED = re.compile(
    r"(?:(?:is|are|was|were|do|does|did|has|have|can|could|will|would|should)\s+(?P<subject>[\w{}'’-]+)"
    r"|how\s+\w+\s+(?:is|are|does|do|can)\b|(?:what|where|why|when|who)\s+(?:is|are|does|do)\b)",
    re.IGNORECASE,
)
_EXISTS = re.compile(r"\b(?:any|anything|anyone|anybody|anywhere|either)\b", re.IGNORECASE)
_RIGHT_ONLY = PREPOSITIONS | {"to", "enough"}
_ALONE = frozenset("apologise apologize act reply respond agree comply conclude close end begin start".split())
"""Verbs that need no object, so that what follows a second verb belongs to that one."""
_NOUNS = frozenset("use end point note list name link sign flow answer offer act".split())
"""Verbs that are as often nouns."""
_DEGREES = frozenset("very really fully quite rather too so more most completely entirely reasonably both".split())


@dataclass(frozen=True)
class Barrels:
    """The properties that one question joins, and a question for each."""

    parts: tuple[str, ...]
    """The joined words, as short as they can be named."""
    questions: tuple[str, ...]


@dataclass(frozen=True)
class _Joint:
    """A conjunction in a question, with the words around it."""

    question: str
    start: int
    end: int
    word: str
    before: tuple[str, ...]
    """Words to its left, in lower case."""
    after: tuple[str, ...]
    negation: str = ""
    """`not ` where what follows is negated."""

    @property
    def left(self) -> str:
        return self.question[: self.start].rstrip(" ,;")

    @property
    def right(self) -> str:
        return self.question[self.end :]


def find_barrels(question: str) -> Barrels | None:
    """Return what a question joins and how it splits, None where it asks one thing."""
    question = " ".join(question.split())
    for match in _JOINT.finditer(question):
        word = (match["word"] or match["sign"]).lower()
        before = tuple(each.group().lower() for each in words_of(question[: match.start()]))
        after = tuple(each.group().lower() for each in words_of(question[match.end() :]))
        if not before or not after or frozenset((before[-1], after[0])) in FIXED_PAIRS:
            continue
        negation = match["negation"] or ""
        joint = _Joint(question, match.start(), match.end(), word, before, after, negation)
        for rule in (_verbs,) if negation else (_clauses, _adjectives, _verbs, _properties):
            found = rule(joint)
            if found is not None:
                return found
    return None


def _clauses(joint: _Joint) -> Barrels | None:
    """Two whole questions: "Is it short, and does it name the day?"."""
    match = _INVERTED.match(joint.right)
    if match is None or joint.word in ("/", "&"):
        return None
    subject = match["subject"]
    if subject is not None and subject.lower() not in DETERMINERS and not subject.startswith("{"):
        return None  # "… the person who wrote it and is named": no question of its own
    if subject is None and joint.before[0] not in AUXILIARIES | {"how", "what", "where", "why", "when", "who"}:
        return None
    left, right = f"{joint.left}?", joint.right[:1].upper() + joint.right[1:]
    return Barrels((_short(left), _short(right)), (left, right))


def _adjectives(joint: _Joint) -> Barrels | None:
    """Two or more adjectives of one thing: "Is the reply clear and polite?"."""
    degree = len(joint.after) > 1 and (joint.after[0] in _DEGREES or joint.after[0].endswith("ly"))
    degree = degree and is_adjective(joint.after[1])
    first = joint.after[1] if degree else joint.after[0]
    if not (is_adjective(joint.before[-1]) and is_adjective(first)):
        return None
    if joint.word in ("or", "and/or", "/") and _EXISTS.search(joint.question):
        return None
    if _in_clause(joint):
        return None
    if is_adjective(joint.before[-1]) and joint.before[-1] in PROPERTIES:
        return None
    listed = words_of(joint.left)
    parts = [listed[-1]]
    for earlier, later in zip(listed[-2::-1], listed[:0:-1], strict=False):
        if joint.question[earlier.end() : later.start()].strip() != "," or not is_adjective(earlier.group()):
            break
        parts.insert(0, earlier)
    prefix = joint.question[: parts[0].start()]
    prefix = re.sub(r"\b(?:both|either) $", "", prefix)
    right = re.match(r"(?:\w+\s+)?[\w'’-]+" if degree else r"[\w'’-]+", joint.right)
    assert right is not None
    suffix = joint.right[right.end() :].rstrip("?").rstrip()
    following = words_of(suffix)
    shared = bool(following) and following[0].group().lower() not in _RIGHT_ONLY | SUBORDINATORS
    names = [part.group() for part in parts]
    questions = [f"{prefix}{name}{suffix if shared else ''}?" for name in names]
    questions.append(f"{prefix}{right.group()}{suffix}?")
    return Barrels((*names, right.group()), tuple(map(with_article, questions)))


def _verbs(joint: _Joint) -> Barrels | None:
    """Two things that one subject does: "Does the reply name the day and give a reason?"."""
    first = joint.after[0]
    if first not in VERBS or joint.before[-1] in DETERMINERS or (joint.word == "or" and _EXISTS.search(joint.question)):
        return None
    if not (set(joint.before[:4]) & AUXILIARIES) or _in_clause(joint):
        return None
    listed = words_of(joint.left)
    auxiliary = next(n for n, each in enumerate(listed) if each.group().lower() in AUXILIARIES)
    verbs = [
        each
        for previous, each in zip(listed[auxiliary:], listed[auxiliary + 1 :], strict=False)
        if each.group().lower() in VERBS and previous.group().lower() not in DETERMINERS
    ]
    if not verbs:
        return None
    verb = verbs[0]
    shared = verb.end() == len(joint.left) and len(joint.after) > 1 and verb.group().lower() not in _ALONE
    second = joint.after[1] if len(joint.after) > 1 else ""
    follows = second in DETERMINERS | PREPOSITIONS | SUBORDINATORS | {""} or second.startswith("{")
    if not shared and first in _NOUNS and not follows:
        return None  # "the question and answer format"
    prefix = joint.question[: verb.start()]
    rest = re.sub(r"^[\w'’-]+", "", joint.right)
    right = f"{prefix}{joint.negation}{joint.right}"
    if shared:
        return Barrels((verb.group(), first), (f"{joint.left}{rest}", right))
    listed_parts = re.split(rf",\s+(?=(?:{'|'.join(sorted(VERBS))})\b)", joint.left[verb.start() :])
    names = [part.split()[0] for part in listed_parts]
    return Barrels((*names, first), (*(f"{prefix}{part}?" for part in listed_parts), right))


def _properties(joint: _Joint) -> Barrels | None:
    """Two properties as nouns: "Are grammar and spelling right?"."""
    after = [word for word in joint.after[:3] if word not in DETERMINERS]
    lead = after[:2] if after and is_adjective(after[0]) else after[:1]
    noun = next((word for word in lead if word in PROPERTIES), None)
    if noun is None or joint.before[-1] not in PROPERTIES or joint.word == "or":
        return None
    if _in_clause(joint):
        return None
    left_match = re.search(
        rf"(?:(?:the|its|a|an)\s+)?(?:(?P<kind>[\w-]+)\s+)?{re.escape(joint.before[-1])}$", joint.left, re.I
    )
    right_match = re.match(rf"(?:(?:the|its|a|an)\s+)?(?:[\w-]+\s+)?{re.escape(noun)}\b", joint.right, re.I)
    if left_match is None or right_match is None:
        return None
    start = left_match.start()
    if left_match["kind"] and not is_adjective(left_match["kind"]):
        start = left_match.start("kind") + len(left_match["kind"]) + 1
    prefix, suffix = joint.question[:start], joint.right[right_match.end() :]
    bare = re.match(r"(?:the|its|a|an)\s", right_match.group(), re.I) is None
    article = "the " if bare and re.match(r"the\s", joint.left[start:], re.I) else ""
    one = f"{prefix}{joint.left[start:]}{suffix}"
    two = f"{prefix}{article}{right_match.group()}{suffix}"
    return Barrels((joint.before[-1], noun), (_singular(one), _singular(two)))


def _singular(question: str) -> str:
    """Mend the verb of a question that now asks about one thing."""
    for many, one in (("Are ", "Is "), ("Do ", "Does "), ("Have ", "Has "), ("Were ", "Was ")):
        if question.startswith(many):
            return one + question[len(many) :]
    return re.sub(
        r"^(How\s+\w+\s+)(are|do|have)\b", lambda m: m[1] + {"are": "is", "do": "does", "have": "has"}[m[2]], question
    )


def _in_clause(joint: _Joint) -> bool:
    """Whether the conjunction stands inside "between … and …" or a clause that says which thing is meant."""
    if "between" in joint.before:
        return True
    inner = joint.before[1:]
    return any(word in SUBORDINATORS for word in inner)


def _short(question: str) -> str:
    words = question.rstrip("?").split()
    return " ".join(words[-3:])
