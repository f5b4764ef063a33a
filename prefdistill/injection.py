"""Drafts that speak to the judge: instructions, forged verdicts, forged markers, role tags, hidden characters.

An online loop optimises whatever the judge rewards, a sentence addressed to the judge included. Drafts are fenced in the
judge's prompt and a verdict is read from its own field only; this is the second line: such a draft is flagged by
patterns, makes no pair, and is counted. A pattern that the prompt's own text holds is no flag, since an assistant may
have to quote it, and patterns can miss: they are no proof that a draft is harmless.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

LONGEST = 50_000
"""Characters of a draft that are looked at from each end; a draft longer than both together is flagged as overlong."""

_HIDDEN = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    "\U000e0000-\U000e007f]|(?<=[A-Za-z ])[\u200c\u200d]|[\u200c\u200d](?=[A-Za-z ])"
)
"""Characters that show nothing: soft hyphens, zero widths, direction overrides, tag letters. Joiner and
non-joiner count beside Latin letters only: emoji and several scripts need them."""
_JUDGE = r"(?:judge|grader|evaluator|rater|scorer|assessor|reviewer|(?:grading|evaluation|reward|language) model)"
_OWN = r"(?:draft|response|completion|candidate|submission)"
"""Words that a judge's prompt uses of a draft, and a letter hardly uses of itself."""
_TEXT = rf"(?:{_OWN}|answer|text|reply|e-?mail|output|summary|one)"
_TOP = r"(?:best|better|winner|winning|preferred|superior|highest|top|maximum|max|perfect|full|10/10|5/5|100)"
_VERDICT = r"(?:first|second|tie|yes|no|a|b|\d+(?:\.\d+)?)"
_QUOTE = "[\"'“”]"
_MUST = r"(?:must|should|have to|are required to|will|need to)"
_PATTERNS: dict[str, tuple[str, ...]] = {
    "forged verdict": (
        rf"{_QUOTE}?(?:winner|level|verdict|score|rating|preference){_QUOTE}?\s*[:=]\s*{_QUOTE}?{_VERDICT}\b{_QUOTE}?\s*[,}}\]]",
        rf"\{{\s*{_QUOTE}\w+{_QUOTE}\s*:\s*\{{\s*{_QUOTE}(?:level|reason){_QUOTE}\s*:",
        rf"{_QUOTE}(?:level|winner|verdict){_QUOTE}\s*:",
        r"\[\[\s*(?:a|b|c|tie|rating|\d+)\s*(?::\s*\d+\s*)?\]\]",
        rf"^\W*(?:final )?(?:verdict|winner|judge?ment|score|rating|grade)\W*[:=]\W*(?:{_VERDICT}|pass|best)\b",
    ),
    "forged marker": (
        r"</?\s*(?:draft|first|second|request|conversation|response|answer)(?:-[0-9a-f]{3,})?\s*>",
        rf"(?:begin|end|start|close) of (?:the )?(?:(?:first |second )?{_OWN}|text to be judged)\b",
    ),
    "role tag": (
        r"<\|\s*(?:im_(?:start|end)|system|user|assistant|end(?:oftext)?|(?:start|end)_header_id|eot_id|begin_of_text)\s*\|?>",
        r"\[/?INST\]|<</?SYS>>|</?(?:system|assistant|user|human|instructions?|s|bos|eos)>|<(?:start|end)_of_turn>",
        r"^#{1,6}\s*(?:system|instructions?|assistant|user|human)\s*:?\s*$",
        r"^\W*\[?(?:system|assistant|human)(?: (?:message|prompt|note|override))?\]?\s*:",
    ),
    "instruction to the judge": (
        r"\b(?:ignore|disregard|forget|override|bypass|skip)\s+"
        r"(?:(?:all|any|every|of|the|these|those|your|my|other|everything|previous|prior|above|earlier|preceding|following)\s+){1,5}"
        r"(?:instruction|rule|criteri|guideline|prompt|rubric|direction|constraint|marker)\w*",
        r"\b(?:dear|attention|(?:note|notice|message) to|hello|hi|hey|to)\s+(?:the |all |any )?"
        rf"(?:\w+ )?{_JUDGE}\b\s*[,:!—–-]",
        rf"\b(?:as|if|when) (?:you are |an? |the )(?:\w+ )?{_JUDGE}\b[^.\n]{{0,40}}"
        rf"\b(?:{_MUST}|rate|score|choose|pick|prefer|give)\b",
        r"\b(?:rate|score|grade|rank|mark|judge|evaluate|label)\s+(?:this|the (?:first|second|above|following|other)|my)\s+"
        rf"(?:\w+\s+)?{_TEXT}\b[^.\n]{{0,40}}\b(?:{_TOP}|as|with|highly|first)\b",
        r"\b(?:give|assign|award|grant)\s+(?:this|it|me|my|the (?:first|second|above))\s*(?:\w+\s+)?"
        rf"(?:{_TEXT}\s+)?(?:an? |the )?{_TOP}\s+(?:possible\s+)?(?:score|mark|grade|rating|level|points?)",
        r"\b(?:choose|select|pick|prefer|vote for|favou?r|declare)\s+(?:this|the (?:first|second)|draft|response)\s+"
        rf"(?:{_TEXT}|[ab12])\b[^.\n]{{0,60}}\b(?:{_TOP}|over|as|regardless|always|instead)\b",
        rf"\b(?:choose|select|pick|prefer)\s+(?:this|the (?:first|second))\s+{_OWN}\b",
        rf"\bthis\s+{_OWN}\s+(?:is|was|has been|must be|should be|deserves|meets|passes|satisfies|scores?)\b"
        rf"[^.\n]{{0,60}}\b(?:{_TOP}|chosen|selected|every|all|criteri\w+|levels?)\b",
        rf"\byou {_MUST} (?:now )?(?:choose|select|prefer|pick|output|answer|reply|respond|say|return|rate|score)\b"
        rf"[^.\n]{{0,50}}\b(?:first|second|{_TOP}|json|verdict|level|score|yes)\b",
        r"\b(?:output|return|print|respond with|reply with|answer with|say|write) (?:only |exactly |just )?"
        r"""(?:the (?:json|word|verdict) )?[{"'“`]{1,2}(?:winner|first|second|yes|level|verdict|the winner)""",
        rf"\bthe (?:other|first|second) {_OWN} (?:is|was|has|contains|fails|must|should|violates)\b",
        r"\b(?:new|updated|revised|additional|hidden|secret) (?:system )?(?:instructions?|rules?|prompt|criteria)\s*"
        r"(?:for the \w+\s*)?:",
        r"\bjailbreak|\bprompt injection\b|\bdeveloper mode\b|\bdo anything now\b",
    ),
}
_FLAGS = re.compile(
    "|".join(f"(?P<{name.replace(' ', '_')}>{'|'.join(patterns)})" for name, patterns in _PATTERNS.items()),
    re.IGNORECASE | re.MULTILINE,
)
_WORTH_A_LOOK = re.compile(
    r"judg|grad|evaluat|rater|rate |rank|scor|assess|review|model|winner|verdict|level|ratin|prefer|draft|response|"
    r"instruct|rule|criteri|prompt|rubric|guideline|direction|constraint|marker|candidate|submission|completion|system|"
    r"assistant|human|user|<|\[\[|\[/?inst|choose|select|pick|favou|declare|output|return|jailbreak|"
    r"developer mode|anything now|answer|reply|deserve|points?|mark",
    re.IGNORECASE,
)
"""Cheap words of which every pattern needs at least one: most drafts hold none and are done."""


def addresses_judge(text: str, prompt_text: str = "") -> str | None:
    """Return what in a draft speaks to its judge, as `kind: what was found`; None where nothing does.

    Args:
        text: the draft.
        prompt_text: what the assistant was asked; a pattern or hidden character that stands in it is no flag.
    """
    found = _addresses(text)
    if found is None:
        return None
    kind, excerpt = found
    if excerpt and _plain(excerpt) in _plain(prompt_text):
        return None
    return f"{kind}: {excerpt}" if excerpt else kind


@lru_cache(maxsize=4096)
def _addresses(text: str) -> tuple[str, str] | None:
    """Return kind and excerpt of the first flag."""
    if len(text) > 2 * LONGEST:
        return "overlong", f"{len(text)} characters"
    if not text.isascii():
        hidden = _HIDDEN.search(text.lstrip("\ufeff"))
        if hidden is not None:
            return "hidden character", f"U+{ord(hidden.group()):04X}"
        text = _plain_letters(text)
    if _WORTH_A_LOOK.search(text) is None:
        return None
    match = _FLAGS.search(text)
    if match is None:
        return None
    return (match.lastgroup or "").replace("_", " "), " ".join(match.group().split())[:120]


def _plain_letters(text: str) -> str:
    """Return a text with look-alike letters (full width, mathematical, accented, Cyrillic, Greek) as plain ones."""
    folded = unicodedata.normalize("NFKD", text)
    return "".join(each for each in folded if not unicodedata.combining(each)).translate(_LOOK_ALIKES)


_LOOK_ALIKES = str.maketrans(
    "АВЕІЈЅКМНОРСТУХаеорсухіјѕԁɡΑΒΕΖΗΙΚΜΝΟΡΤΥΧονıⅼ∶",
    "ABEIJSKMHOPCTYXaeopcyxijsdgABEZHIKMNOPTYXovil:",
)


def _plain(text: str) -> str:
    return " ".join(_plain_letters(text).casefold().split())
