"""The words that the lint knows: they stand in questions about texts, in lower case."""

from __future__ import annotations

import re

_WORD = re.compile(r"\{[^{}\s]+\}|[A-Za-z]+(?:[-'’][A-Za-z]+)*|\d+(?:[.,]\d+)*")

AUXILIARIES = frozenset(
    "is are was were do does did has have had can could will would should may might must isn't aren't doesn't don't".split()
)
DETERMINERS = frozenset(
    "a an the its their his her our your my this that these those each every any some no all it they he she you we "
    "there one".split()
)
PREPOSITIONS = frozenset(
    "of in on at by for from to with without within about between into onto over under after before during against "
    "through than as per like across behind beyond despite near toward towards upon via until among enough".split()
)
SUBORDINATORS = frozenset("that which who whom whose what where when why how if whether because while so".split())

ADJECTIVES = frozenset(
    """clear concise polite short brief correct complete accurate fluent formal informal kind warm precise honest true
    right natural plain simple easy good great nice relevant consistent coherent friendly professional firm direct
    specific vague thorough comprehensive detailed engaging interesting compelling readable legible tidy neat clean
    crisp tight smart calm gentle sincere humble modest neutral objective fair balanced safe sound logical rich deep
    broad timely current up-to-date well-written well-structured well-organised well-organized easy-to-read factual
    faithful rude cold curt long wordy dull boring sloppy empathetic empathic exact sharp lively fresh strong weak
    effective efficient appropriate adequate proper suitable useful helpful truthful harmless grounded original novel
    creative
    insightful persuasive convincing confident courteous respectful tactful positive negative inviting
    structured organised organized readable understandable intelligible idiomatic grammatical error-free free actionable
    cohesive succinct elegant smooth fluid varied rude offensive insulting aggressive
    unclear inaccurate incomplete""".split()
)
_ADJECTIVE_ENDINGS = ("ful", "less", "ous", "ive", "able", "ible", "ical", "istic", "ic", "ent", "ant", "ary")
NOT_ADJECTIVES = frozenset(
    """content document argument statement comment recipient client agent moment event accent present percent
    department appointment agreement payment topic logic public traffic rhetoric music archive directive objective-c
    alternative adjective narrative executive motive summary glossary salary vocabulary commentary library table
    variable deliverable consonant assistant consultant applicant tenant accountant participant patient student
    critic basic's intent extent incident accident vegetable""".split()
)

VERBS = frozenset(
    """address answer avoid state mention give name explain list keep include contain provide use follow resolve cover
    cite describe say tell ask offer thank greet close end begin start open propose suggest summarise summarize capture
    convey sound read flow respect match fit suit acknowledge apologise apologize show demonstrate support make sign
    confirm invite request remind warn point identify define compare quote justify argue solve express reflect fulfil
    fulfill meet satisfy preserve maintain retain remove fix mend correct improve add omit repeat refer link introduce
    conclude present outline highlight clarify specify note announce promise assure reassure encourage motivate
    persuade engage inform understand act reply respond leave get put set stay remain stick adhere comply""".split()
)

PROPERTIES = frozenset(
    """tone wording style grammar spelling structure layout length format formatting clarity accuracy content register
    vocabulary punctuation logic flow depth breadth coverage completeness conciseness brevity correctness relevance
    coherence consistency quality politeness fluency readability helpfulness creativity originality usefulness
    truthfulness factuality empathy professionalism persuasiveness organisation organization greeting sign-off closing
    opening salutation subject introduction conclusion attitude voice rhythm pacing detail""".split()
)

FIXED_PAIRS = frozenset(
    frozenset(pair.split("/"))
    for pair in (
        "terms/conditions pros/cons question/answer questions/answers read/understand read/understood black/white "
        "back/forth supply/demand research/development first/foremost safe/sound more/less yes/no true/false dos/don'ts "
        "one/two two/three three/four names/numbers names/dates dates/times day/time date/time spelling/punctuation "
        "facts/figures names/figures clear/plain plain/simple here/there now/then each/every if/when"
    ).split()
)
"""Two words that make one thing; splitting them would not help."""


def words_of(text: str) -> list[re.Match[str]]:
    """Return the words of a text with their places; a `{field}` is one word."""
    return list(_WORD.finditer(text))


def is_adjective(word: str) -> bool:
    """Whether a word is very likely an adjective, or an adverb made from one."""
    word = word.lower()
    if word in ADJECTIVES:
        return True
    if word in NOT_ADJECTIVES or word in PROPERTIES or word in VERBS or len(word) < 5:
        return False
    stem = word.removesuffix("ly")
    return stem in ADJECTIVES or stem.endswith(_ADJECTIVE_ENDINGS)


def slug(text: str) -> str:
    """Return text as a criterion's name."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return name if name[:1].isalpha() else f"q_{name}"


def with_article(text: str) -> str:
    """Mend `a` and `an` before the words that now follow them."""

    def mend(match: re.Match[str]) -> str:
        article, space, word = match.groups()
        right = "an" if word[0].lower() in "aeiou" and not word.lower().startswith(("uni", "use", "one", "eu")) else "a"
        right = "an" if word.lower().startswith(("honest", "hour")) else right
        return f"{right.capitalize() if article[0].isupper() else right}{space}{word}"

    return re.sub(r"\b([Aa]n?)(\s+)(\w+)", mend, text)
