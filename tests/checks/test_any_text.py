"""No check raises, dawdles or leaves 0..1 on any text; every option shows in the schema."""

import random
import time

import pytest

from prefdistill.checks.edit import Edit
from prefdistill.checks.grounded import Grounded
from prefdistill.checks.length import Length
from prefdistill.checks.mentions import Mentions
from prefdistill.checks.phrases import Phrases
from prefdistill.checks.repetition import Repetition
from prefdistill.checks.structure import Structure
from prefdistill.protocols import Check
from prefdistill.records import CheckScore

CHECKS = (
    Length(between=(1, 20), soft=5),
    Length(unit="sentences", between=(1, 3)),
    Length(unit="characters", between=(0, 99)),
    Phrases(none_of=("circling back", "3 pm"), any_of=("please", "{x}")),
    Mentions(all_of=("{x}", "3 pm", "Friday at 15:00", "5 March 2026", "1,000 boxes", "$5", "a@b.co")),
    Grounded(),
    Grounded(ignore=("{x}",)),
    Edit(changed=(0.1, 0.5), soft=0.1, keep=("{x}",), keep_numbers=True, keep_quotes=True),
    Structure(greeting=True, sign_off=True, subject=False, placeholders=False, preamble=False, markdown=False,
              paragraphs=(1, 3), regex="{x}", not_regex=r"\d\s+\d"),
    Repetition(),
)  # fmt: skip
NASTY = (
    "", " ", "\n", "\r\n\r\n", "\0", "\0" * 50, "🙂", "👩‍👩‍👧‍👦 🇩🇪", "\u202eabc\u202c", "مرحبا، كيف حالك؟ ١٢٣",
    "שלום 3 לכם", "e\u0301", "\ufeff", "\ud800", "ﬁ ½ ² Ⅳ",
    "İstanbul ıs nıne ſeven mıdnıght Aprıl 5 thırd frıday", "K 5K 5K", "{x}", "[", "[[[[", "]]", "((((", "<<<<",
    "{{{{", "***", "___", "```", "...", "…", "!?!?", "' \" ' \"", "\"\"", "-", "1.", "1) 2) 3)", "0:00",
    "24:00", "25:99", "99/99/9999", "00/00/0000", "31.02.2026", "13/13", "March 0", "32 March", "$", "$.",
    "€ 5", "5 €€", "1,,2", "1..2", "1.2.3.4.5", "-5", "+", "@", "a@", "@b", "a@b", "http://", "www.", "x.com.",
    "noon midnight", "half past zero", "twelve o'clock", "hundred thousand million", "one one one", "Hi", "Hi,",
    "Dear", "Best", "Best,", "Sure!", "Subject:", "Here is", "Mr.", "A", "I", "I'm", "O'", "'s", "A.B.C.",
    "p.m.", "²³ 5²", "٣:٣٠ pm", "५ मार्च", "１２：３０", "3pm3pm3pm", "X", "XX", "TBD", "%s", "\\", "(?P<", "$1",
    "a\tb\vc\fd\x85e\u2028f",
)  # fmt: skip
LONG = {
    "letters": "a" * 20_000,
    "words": "word " * 4_000,
    "digits": "7" * 20_000,
    "numbers": "123 " * 5_000,
    "grouped": "123," * 5_000,
    "decimals": "1." * 10_000,
    "dots": "." * 20_000,
    "dots then a letter": "." * 20_000 + "x",
    "stars": "*" * 20_000,
    "star words": "*a " * 6_000,
    "underscores": "_ " * 10_000,
    "spaces": " " * 20_000 + "x",
    "newlines": "\n" * 20_000 + "x",
    "blank lines": "a\n \n" * 5_000,
    "brackets": "[" * 10_000 + "]" * 10_000,
    "angles": "<a" * 10_000,
    "curly": "{a" * 10_000,
    "quotes": "\"'" * 10_000,
    "at signs": "a@" * 10_000,
    "addresses": "a.b-c@" * 3_000,
    "domains": "a." * 10_000 + "com",
    "slashes": "http://" * 3_000,
    "hyphens": "a-" * 10_000,
    "apostrophes": "a'" * 10_000,
    "capitals": "Ab " * 6_000,
    "shouting": "AB " * 6_000,
    "capitals without spaces": "Ab" * 10_000,
    "number words": "twenty-" * 3_000,
    "months": "March " * 3_000,
    "dates": "5 March 2026, " * 1_500,
    "times": "3:00 pm to " * 2_000,
    "phones": "+49 030 123-" * 1_800,
    "codes": "A1-" * 6_000,
    "greetings": "Hi Anna, " * 2_000,
    "closings": "Best regards,\n" * 1_500,
    "short lines": "Tom\n" * 5_000,
    "sentences": "It is so. " * 2_000,
    "abbreviations": "Dr. " * 5_000,
    "emoji": "👩‍👩‍👧‍👦" * 2_000,
    "chinese": "我们明天见。" * 3_000,
    "arabic": "مرحبا " * 3_000,
    "marks": "e" + "\u0301" * 20_000,
    "pipes": "|" * 20_000,
    "hashes": "# " * 10_000,
    "backticks": "`" * 19_999,
    "preamble": "Here is the " * 2_000,
    "subject": "Subject: " * 2_000,
}


def assert_sound(check: Check, prompt, text: str) -> None:
    result = check.check(prompt, text)
    assert result is None or (isinstance(result, CheckScore) and 0 <= result.score <= 1)
    assert check.check(prompt, text) == result


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: type(check).__name__)
def test_nasty_texts(make_prompt, check):
    for text in NASTY:
        assert_sound(check, make_prompt(x="3 pm"), text)
        assert_sound(
            check, make_prompt(text if text.strip() else "x", x=text), "Hi Anna, see you at 3 pm.\n\nBest, Tom"
        )


@pytest.mark.parametrize("name", LONG)
def test_long_texts_take_no_time(make_prompt, name):
    text = LONG[name]
    for check in CHECKS:
        start = time.process_time()
        check.check(make_prompt(x="3 pm"), text)
        check.check(make_prompt(text + "x", x=text[:2000] + "x"), "Hi Anna, see you at 3 pm on 5 March.")
        assert time.process_time() - start < 1.5, type(check).__name__


def test_random_texts(make_prompt):
    rng = random.Random(5)
    pieces = [
        *NASTY,
        *" \n.,:;-'\"",
        "Anna",
        "Keller",
        "3",
        "15",
        "pm",
        "March",
        "Friday",
        "two",
        "%",
        "please",
        "the",
        "é",
    ]
    for _ in range(400):
        text = "".join(rng.choice(pieces) + rng.choice(("", " ", " ", "\n")) for _ in range(rng.randrange(1, 25)))
        for check in CHECKS:
            assert_sound(check, make_prompt(x=rng.choice(pieces)), text)


def test_what_a_prompt_says_is_grounded_in_it(make_prompt):
    """Repeating the prompt invents nothing, whatever it says."""
    rng = random.Random(6)
    pieces = ["Anna", "Keller", "3 pm", "15:30", "5 March", "Friday", "two", "$1,000", "10 %", "Q3", "x.com", "please",
              "the", "a@b.co", "in", "Zalando", ".", ",", "\n", "2026", "3rd", "noon"]  # fmt: skip
    for _ in range(400):
        text = " ".join(rng.choice(pieces) for _ in range(rng.randrange(1, 20))) + " ok"
        result = Grounded().check(make_prompt(text), text)
        assert result is not None
        assert result.score == 1, (text, result.reason)


@pytest.mark.parametrize("cls", sorted({type(check) for check in CHECKS}, key=lambda cls: cls.__name__))
def test_options_are_documented(cls):
    assert len(cls.__doc__) > 80
    schema = cls.model_json_schema()
    for name, option in schema["properties"].items():
        assert option.get("description"), name


def test_no_heavy_import():
    import subprocess
    import sys

    code = (
        "import sys; import prefdistill.checks.structure, prefdistill.checks.edit, prefdistill.checks.grounded; "
        "print(sorted({'torch', 'transformers', 'rapidfuzz', 'regex', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
