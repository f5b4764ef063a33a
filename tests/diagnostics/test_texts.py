"""Words, runs of words and how much of them differs."""

import pytest

from prefdistill.diagnostics.texts import CHUNK, distinct_2, repeated_share, sentences, words
from tests.diagnostics.rounds import prose


def test_words_are_case_folded_and_keep_times_and_apostrophes():
    assert words("At 13:00, it's STRAßE — 1,000.50!") == ["at", "13:00", "it's", "strasse", "1,000.50"]


def test_scripts_without_spaces_have_a_word_a_character():
    assert words("日本語 ok") == ["日", "本", "語", "ok"]


def test_sentences_end_at_lines_and_marks_but_not_within_a_time():
    assert sentences("Hi Ada,\n\nbe there at 13:00. Thanks a lot!") == [
        ["hi", "ada"],
        ["be", "there", "at", "13:00"],
        ["thanks", "a", "lot"],
    ]


def test_repeated_share_counts_runs_that_stood_before():
    assert repeated_share("a b c d".split()) == 0.0
    assert repeated_share("a b c d a b c d".split()) == pytest.approx(1 / 5)
    assert repeated_share("a b c".split()) is None


def test_distinct_2_does_not_depend_on_how_many_drafts_there_are():
    texts = [text.split() for text in prose(400, 60)]
    small, large = distinct_2(texts[:40]), distinct_2(texts)
    assert small is not None and large is not None
    assert small.value == pytest.approx(large.value, abs=3 * small.standard_error)
    assert large.standard_error < small.standard_error


def test_distinct_2_falls_where_texts_are_alike():
    varied = distinct_2([text.split() for text in prose(100, 60, vocabulary=100)])
    alike = distinct_2([text.split() for text in prose(100, 60, vocabulary=10)])
    assert varied is not None and alike is not None
    assert alike.value < 0.5 * varied.value


def test_distinct_2_needs_two_samples():
    assert distinct_2([]) is None
    assert distinct_2([text.split() for text in prose(1, 2 * CHUNK)]) is None, "one text alone fills no sample"
    assert distinct_2([["a"]] * 5000) is None


def test_a_long_draft_fills_no_sample_alone():
    long = [prose(1, 10_000, vocabulary=5)[0].split(), *(text.split() for text in prose(100, 60))]
    without = distinct_2(long[1:])
    found = distinct_2(long)
    assert found is not None and without is not None
    assert found.value == pytest.approx(without.value, abs=0.05)
