"""Words, sentences and phrases in real and in odd texts."""

import pytest

from prefdistill.checks.text import fold, has_phrase, paragraphs, plain, sentence_spans, sentences, tokens, words


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("— … !!! 🙂", 0),
        ("Please reply.", 2),
        ("I don’t use e-mail at 3 p.m.", 7),
        ("wait—what", 2),
        ("wait...what", 2),
        ("see https://example.com/a-b?c=d now", 3),
        ("1,000.50 €", 1),
        ("我们明天见", 5),
        ("Meet 李雷 now", 4),
        ("א ב ג", 3),
        ("금요일에 봅시다", 2),
        ("soft\u00adhyphen zero\u200bwidth", 2),
    ],
)
def test_words_are_counted_as_a_word_processor_does(text: str, count: int) -> None:
    assert len(tokens(text)) == count


def test_words_are_folded_and_bare() -> None:
    assert words('"Don’t," said ANNA; (see p.m.)!') == ["don't", "said", "anna", "see", "p.m"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("🙂 !!! …", []),
        ("One", ["One"]),
        ("Meet at 3 p.m. on Friday. Bring it.", ["Meet at 3 p.m. on Friday.", "Bring it."]),
        ("We meet at 3 p.m. Please reply.", ["We meet at 3 p.m.", "Please reply."]),
        ("We close at 5 p.m. Friday at the latest.", ["We close at 5 p.m. Friday at the latest."]),
        ("Dr. Smith, e.g. approx. 3.5 kg. Fine.", ["Dr. Smith, e.g. approx. 3.5 kg.", "Fine."]),
        ("Ask J. Smith. So do I. Yes.", ["Ask J. Smith.", "So do I.", "Yes."]),
        ("See www.example.com/a.b. Then go.", ["See www.example.com/a.b.", "Then go."]),
        ("It costs $1.2M. Good.", ["It costs $1.2M.", "Good."]),
        ("No. 5 is due. No. It is not.", ["No. 5 is due.", "No.", "It is not."]),
        ('"Really?" she asked. "Yes." Good!', ['"Really?" she asked.', '"Yes."', "Good!"]),
        ("Wait... what? Yes.", ["Wait... what?", "Yes."]),
        ("What?! No!!", ["What?!", "No!!"]),
        ("thanks. see you. ok", ["thanks.", "see you.", "ok"]),
        ("Paper, pens etc. are here. Good.", ["Paper, pens etc. are here.", "Good."]),
        ("Acme Inc. is here.", ["Acme Inc. is here."]),
        ("1. Do this.\n2. Do that", ["1. Do this.", "2. Do that"]),
        ("- one\n- two", ["- one", "- two"]),
        ("这是第一句。这是第二句！好", ["这是第一句。", "这是第二句！", "好"]),
        ("هل وصلت؟ نعم.", ["هل وصلت؟", "نعم."]),
        ("On 3. May we start. Good.", ["On 3. May we start.", "Good."]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_a_wrapped_line_goes_on_and_a_short_one_does_not() -> None:
    wrapped = "This is a long line that an editor has wrapped at about\nSeventy characters."
    assert len(sentences(wrapped)) == 1
    assert len(sentences("Agenda\nBudget\nHiring")) == 3
    assert len(sentences("Good\nnews for all.")) == 1


def test_spans_are_offsets_into_the_plain_text() -> None:
    text = plain("Hi.\r\n\r\n  It’s late.  Go!\t")
    assert [text[start:end] for start, end in sentence_spans(text)] == ["Hi.", "It's late.", "Go!"]


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("Don’t   Worry", "don't worry", True),
        ("measure", "sure", False),
        ("Sure!", "sure", True),
        ("100", "10", False),
        ("1,100", "100", False),
        ("10.5", "10", False),
        ("10:30", "10", False),
        ("at 10.", "10", True),
        ("the 10, the 20", "10", True),
        ("Annabel", "Anna", False),
        ("Anna's", "Anna", True),
        ("Anna-Lena", "Anna", True),
        ("costs $500.", "$500", True),
        ("costs $5000.", "$500", False),
        ("明天会议开始", "会议", True),
        ("금요일에", "금요일", True),
        ("Straße", "STRASSE", True),
        ("cafe\u0301", "café", True),
        ("a\u00a0b", "a b", True),
        ("anything", "", False),
    ],
)
def test_whole_phrases(text: str, phrase: str, found: bool) -> None:
    assert has_phrase(fold(text), fold(phrase)) is found


def test_paragraphs() -> None:
    assert paragraphs("a\nb\n \n\nc\n\n---\n\n") == ["a\nb", "c"]
    assert paragraphs("") == []
