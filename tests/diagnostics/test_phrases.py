"""The phrase that spreads and that the judge rewards."""

from prefdistill.diagnostics.findings import Levels
from prefdistill.diagnostics.phrases import phrase, spreading_phrase
from tests.diagnostics.rounds import pair_of, prose, written

LOOPHOLE = "Please do not hesitate to contact me."


def drafts(texts):
    return [written(text, f"p{number}") for number, text in enumerate(texts)]


def with_phrase(count, phrase, seed):
    return [f"{text}. {phrase} {text}." for text in prose(count, 20, seed=seed)]


def pairs(count, chosen, rejected):
    return [
        pair_of(written(f"{text}. {chosen}", f"p{number}"), written(f"{text}. {rejected}", f"p{number}", 1))
        for number, text in enumerate(prose(count, 20, seed=9))
    ]


def test_a_stock_phrase_that_spreads_and_is_rewarded_is_named():
    found = spreading_phrase(
        drafts([*with_phrase(40, LOOPHOLE, 1), *prose(10, 20, seed=2)]),
        drafts([*with_phrase(5, LOOPHOLE, 3), *prose(45, 20, seed=4)]),
        pairs(20, LOOPHOLE, "Thanks."),
    )
    assert found is not None
    assert found.phrase in ("please do not hesitate to contact", "do not hesitate to contact me")
    assert (found.share, found.base_share) == (0.8, 0.1)


def test_a_phrase_that_both_texts_have_counts_by_how_often():
    twice = pairs(20, f"{LOOPHOLE} {LOOPHOLE}", LOOPHOLE)
    new, base = drafts(with_phrase(40, LOOPHOLE, 1)), drafts(prose(40, 20, seed=2))
    assert spreading_phrase(new, base, twice) is not None
    assert spreading_phrase(new, base, pairs(20, LOOPHOLE, f"{LOOPHOLE} Bye.")) is None


def test_what_spreads_without_reward_or_is_rewarded_without_spreading_is_not_named():
    new, base = drafts(with_phrase(40, LOOPHOLE, 1)), drafts(prose(40, 20, seed=2))
    assert spreading_phrase(new, base, pairs(20, "Thanks.", LOOPHOLE)) is None
    assert spreading_phrase(base, base, pairs(20, LOOPHOLE, "Thanks.")) is None
    assert spreading_phrase(new, new, pairs(20, LOOPHOLE, "Thanks.")) is None


def test_a_phrase_stands_within_a_sentence():
    crossing = "and thanks. Best wishes from"
    found = spreading_phrase(
        drafts(with_phrase(40, crossing, 1)), drafts(prose(40, 20, seed=2)), pairs(20, crossing, "None.")
    )
    assert found is None or "thanks best" not in found.phrase


def test_with_too_little_text_nothing_is_named():
    assert spreading_phrase([], [], []) is None
    few = drafts(with_phrase(3, LOOPHOLE, 1))
    assert spreading_phrase(few, drafts(prose(3, 20, seed=2)), pairs(3, LOOPHOLE, "Thanks.")) is None


def said(share, before, teacher=None):
    values = {"phrase_share": share, "base_phrase_share": before}
    seen = [{}, values if teacher is None else {**values, "teacher_phrase_share": teacher}]
    return [each.check for each in phrase(seen, Levels())]


def test_a_phrase_that_spreads_and_that_the_teacher_does_not_use_is_named():
    assert said(0.9, 0.15, 0.0) == ["phrase"]
    assert said(0.9, 0.15, 0.35) == []  # the teacher's own habit
    assert said(0.9, 0.15) == []  # no teacher to compare with
    assert said(0.3, 0.15, 0.0) == []


def test_the_teachers_share_of_a_phrase_is_counted():
    new, base = drafts([LOOPHOLE] * 20), drafts(prose(20, 20, seed=1))
    found = spreading_phrase(
        new, base, pairs(20, LOOPHOLE, "Thanks."), drafts([LOOPHOLE, "Thanks.", "Thanks.", "Bye."])
    )
    assert found is not None and (found.share, found.teacher_share) == (1.0, 0.25)
