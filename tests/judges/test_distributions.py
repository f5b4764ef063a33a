"""Where a level stands in a reply, and how sure the teacher was of it."""

import json
import math
from collections.abc import Sequence

import pytest

from prefdistill.judges.distributions import distribution, mean, spans
from prefdistill.protocols import Token

LEVELS = ("no", "partly", "yes")


def tokens_of(*parts: str | tuple[str, dict[str, float]]) -> tuple[Token, ...]:
    """Tokens; one given with alternatives has their probabilities."""
    made = []
    for part in parts:
        if isinstance(part, str):
            made.append(Token(part, 0.0))
        else:
            text, shares = part
            alternatives = tuple((each, math.log(share) if share else -9999.0) for each, share in shares.items())
            made.append(Token(text, math.log(shares[text]) if shares.get(text) else -9999.0, alternatives))
    return tuple(made)


def read(tokens: Sequence[Token], menu: Sequence[str] = LEVELS) -> tuple[float, ...] | None:
    text = "".join(token.text for token in tokens)
    return distribution(text, tokens, spans(text, "level", ("tone",))[-1], menu)


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ('{"tone": {"level": "yes"}}', ("tone",), ["yes"]),
        ('{"tone": {"reason": "it says \\"level\\": \\"no\\"", "level": "yes"}}', ("tone",), ["yes"]),
        ('{"a": {"level": "no"}, "tone": {"reason": "x", "level": "yes"}}', ("tone",), ["yes"]),
        ('Sure: {"tone": {"level" : "yes"}} and {"level": "no"}', ("tone",), ["yes"]),
        ('{"winner": "first"}', (), []),
        ('{"x": {"level": "no"}}', ("tone",), []),
        ('{"tone": {"level": 3}}', ("tone",), []),
    ],
)
def test_the_level_is_found_at_its_own_place(text: str, path: tuple[str, ...], expected: list[str]) -> None:
    assert [text[a:b] for a, b in spans(text, "level", path)] == expected


def test_a_level_that_is_one_token() -> None:
    shares = read(tokens_of('{"tone": {"level": "', ("yes", {"yes": 0.7, "no": 0.1, "partly": 0.2}), '"}}'))
    assert shares == pytest.approx((0.1, 0.2, 0.7))
    assert mean(shares, {"no": 0.0, "partly": 0.5, "yes": 1.0}, LEVELS) == pytest.approx(0.8)


def test_tokens_need_not_begin_where_the_word_does() -> None:
    joined = tokens_of('{"tone": {"level":', (' "yes', {' "yes': 0.6, ' "no': 0.3, ' "par': 0.1}), '"}}')
    assert read(joined) == pytest.approx((0.3, 0.1, 0.6))
    with_end = tokens_of('{"tone":{"level":"', ('yes"}}', {'yes"}}': 0.9, 'no"}}': 0.1}))
    assert read(with_end) == pytest.approx((0.1, 0.0, 0.9))


def test_levels_that_begin_alike_are_told_apart_by_the_next_token() -> None:
    menu = ("mostly not", "mostly", "yes")
    tokens = tokens_of(
        '{"tone": {"level": "', ("mostly", {"mostly": 0.8, "yes": 0.2}), (" not", {" not": 0.25, '"': 0.75}), '"}}'
    )
    assert read(tokens, menu) == pytest.approx((0.2, 0.6, 0.2))


def test_what_lies_off_the_menu_is_normalised_away_up_to_a_tenth() -> None:
    good = tokens_of('{"tone": {"level": "', ("yes", {"yes": 0.72, "no": 0.2, "maybe": 0.08}), '"}}')
    assert read(good) == pytest.approx((0.2 / 0.92, 0.0, 0.72 / 0.92))
    assert read(tokens_of('{"tone": {"level": "', ("yes", {"yes": 0.5, "maybe": 0.5}), '"}}')) is None


def test_a_token_that_the_schema_forced_says_nothing() -> None:
    forced = tokens_of('{"tone": {"level": "', ("yes", {"yes": 0.0, "Well": 0.9, "no": 0.1}), '"}}')
    assert forced[1].log_prob == -9999.0
    assert read(forced) is None
    covered = tokens_of('{"tone": {"level": "', ("yes", {"yes": 0.0, "no": 0.95, "partly": 0.05}), '"}}')
    assert read(covered) == pytest.approx((0.95, 0.05, 0.0))


def test_no_tokens_other_text_or_no_alternatives() -> None:
    text = json.dumps({"tone": {"level": "yes"}})
    span = spans(text, "level", ("tone",))[0]
    assert distribution(text, None, span, LEVELS) is None
    assert distribution(text, (), span, LEVELS) is None
    assert distribution(text, tokens_of("something else"), span, LEVELS) is None
    assert distribution(text, tuple(Token(each, -5.0) for each in text), span, LEVELS) is None
    sure = tuple(Token(each, 0.0) for each in text)
    assert distribution(text, sure, span, LEVELS) == pytest.approx((0.0, 0.0, 1.0))


def test_an_end_token_after_the_reply_does_no_harm() -> None:
    tokens = (*tokens_of('{"tone": {"level": "', ("no", {"no": 1.0}), '"}}'), Token("<|im_end|>", 0.0))
    text = '{"tone": {"level": "no"}}'
    assert distribution(text, tokens, spans(text, "level", ("tone",))[0], LEVELS) == pytest.approx((1.0, 0.0, 0.0))
