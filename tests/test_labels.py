"""Label files: what is read, and what a person is told who wrote one wrongly."""

import json
from pathlib import Path

import pytest

from prefdistill.labels import CriterionLabel, LabelError, PairLabel, RankingLabel, load_labels

PAIR = {"prompt": "p", "first": "a", "second": "b", "winner": "first", "by": "ann"}
RANKING = {"prompt": "p", "drafts": ["a", "b", "c"], "ranking": [[2], [0, 1]], "by": "ann"}
LEVEL = {"prompt": "p", "draft": "a", "criterion": "tone", "level": "fitting", "by": "ann"}


def write(path: Path, *rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_the_three_kinds_in_one_file(tmp_path):
    labels = load_labels(write(tmp_path / "l.jsonl", PAIR, "", RANKING, LEVEL, {**PAIR, "by": "bob", "seconds": 3.5}))
    assert [type(each) for each in labels.all] == [PairLabel, PairLabel, RankingLabel, CriterionLabel]
    assert labels.people == ("ann", "bob")
    assert labels.rankings[0].ranks == (2, 2, 1)
    assert (len(labels), labels.replaced) == (4, 0)


def test_a_row_that_says_nobody_is_someones(tmp_path):
    row = {key: each for key, each in PAIR.items() if key != "by"}
    assert load_labels(write(tmp_path / "l.jsonl", row)).people == ("someone",)


def test_the_later_label_of_one_person_counts_whichever_side_was_first(tmp_path):
    turned = {**PAIR, "first": "b", "second": "a", "winner": "second"}
    other = {**PAIR, "by": "bob", "winner": "second"}
    labels = load_labels(write(tmp_path / "l.jsonl", PAIR, other, turned, {**other, "winner": "tie"}, LEVEL, LEVEL))
    assert [(each.by, each.first, each.winner) for each in labels.pairs] == [
        ("ann", "b", "second"),
        ("bob", "a", "tie"),
    ]
    assert (labels.replaced, labels.confirmed) == (3, 2)


def test_several_files_are_one_set(tmp_path):
    one = write(tmp_path / "ann.jsonl", PAIR)
    two = write(tmp_path / "bob.jsonl", {**PAIR, "by": "bob"}, {**PAIR, "winner": "tie"})
    labels = load_labels(one, two)
    assert labels.people == ("ann", "bob")
    assert {each.by: each.winner for each in labels.pairs} == {"ann": "tie", "bob": "first"}


def test_prompts_are_told_apart_by_id_then_by_text_and_fields(tmp_path):
    rows = [PAIR, {**PAIR, "prompt_id": "x"}, {**PAIR, "fields": {"day": "Friday"}}]
    rows.append({**PAIR, "prompt": [{"role": "user", "content": "p"}]})
    labels = load_labels(write(tmp_path / "l.jsonl", *rows))
    assert len(labels.pairs) == 3, "a text and one user message are the same prompt"
    assert labels.pairs[0].prompt_key == "x"
    assert labels.pairs[1].to_prompt().fields == {"day": "Friday"}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", "not valid JSON"),
        ("[1]", "found a list; expected a JSON object"),
        ({"prompt": "p"}, "expected a pair (with `winner`), a ranking (with `ranking`)"),
        ({**PAIR, **LEVEL}, "expected a pair"),
        ({**PAIR, "winner": "frist"}, "winner: found 'frist'; input should be 'first', 'second' or 'tie'"),
        ({**PAIR, "secnd": "b"}, "secnd: unknown key; did you mean `second`?"),
        ({"prompt": "p", "first": "a", "winner": "tie"}, "second: missing"),
        ({**PAIR, "prompt": " "}, "the last user message has no text"),
        ({**PAIR, "prompt": 3}, "prompt: found 3; expected a text, or a list of messages"),
        ({**PAIR, "prompt": [{"role": "assistant", "content": "x"}]}, "must end with a user message"),
        ({**PAIR, "second": "a "}, "the same text, so winner cannot be `first`"),
        ({**PAIR, "seconds": -1}, "seconds: found -1"),
        ({**PAIR, "by": ""}, "by: found ''"),
        ({**RANKING, "ranking": [[0], [1]]}, "ranking has the places [0, 1]; expected each of 0 to 2 once"),
        ({**RANKING, "ranking": [[0], [1], [1, 2]]}, "expected each of 0 to 2 once"),
        ({**RANKING, "ranking": [[0, 1, 2], []]}, "expected each of 0 to 2 once"),
        ({**RANKING, "drafts": ["a", "b", "a"]}, "two drafts with the same text have different ranks"),
        ({**RANKING, "draft_ids": ["1"]}, "1 draft_ids for 3 drafts"),
        ({**LEVEL, "level": 2}, "level: found 2; input should be a valid string"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, row, told):
    with pytest.raises(LabelError) as problem:
        load_labels(write(tmp_path / "l.jsonl", PAIR, row))
    assert str(problem.value).startswith(f"{tmp_path / 'l.jsonl'}:2: ")
    assert told in str(problem.value)


def test_all_bad_rows_are_named_at_once_but_no_more_than_twenty(tmp_path):
    with pytest.raises(LabelError) as problem:
        load_labels(write(tmp_path / "l.jsonl", *["{"] * 30))
    assert len(str(problem.value).splitlines()) == 21
    assert "and 10 more" in str(problem.value)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_an_error_that_shows_a_row(tmp_path, content):
    path = tmp_path / "l.jsonl"
    path.write_text(content)
    with pytest.raises(LabelError, match=r'no rows; expected a label file in JSONL.*"winner": "first"'):
        load_labels(path)


def test_a_missing_file_and_one_that_is_no_text(tmp_path):
    with pytest.raises(LabelError, match=r"x\.jsonl: no such file"):
        load_labels(tmp_path / "x.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabelError, match="cannot be read"):
        load_labels(tmp_path / "b.jsonl")
