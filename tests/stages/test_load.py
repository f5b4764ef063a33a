import json
from pathlib import Path

import pytest

from prefdistill.documents import parse_document
from prefdistill.errors import RecipeError, RubricError
from prefdistill.records import Prompt
from prefdistill.rubric import RubricSet, parse_rubric
from prefdistill.stages.load import (
    check_fields,
    load_drafts,
    load_prompts,
    near_duplicates,
    read_dataset,
    read_rows,
    round_slices,
)


def load(rows, **options):
    defaults = {
        "columns": {},
        "split_by": None,
        "split_column": None,
        "validation_fraction": 0.2,
        "test_fraction": 0.2,
    }
    return load_prompts([(f"row {n}", row) for n, row in enumerate(rows, 1)], **{**defaults, **options})


def many(count=60):
    return [
        {"id": n, "prompt": f"Write to person {n} about thing number {n * 7}", "day": "Friday"} for n in range(count)
    ]


def test_every_prompt_has_a_split_and_its_other_columns_as_fields():
    loaded = load(many())
    assert {prompt.split for prompt in loaded.prompts} == {"train", "validation", "test"}
    assert all(prompt.fields == {"day": "Friday"} for prompt in loaded.prompts)
    assert len(loaded.prompts) == 60


def test_a_prompts_split_does_not_change_when_others_are_added():
    before = {prompt.id: prompt.split for prompt in load(many(60)).prompts}
    after = {prompt.id: prompt.split for prompt in load(many(90)).prompts}
    assert all(after[key] == split for key, split in before.items())


def test_split_by_keeps_a_thread_together():
    rows = [{"prompt": f"Turn {n} of thread {n % 20}", "thread": n % 20} for n in range(100)]
    loaded = load(rows, split_by="thread")
    splits = {}
    for prompt in loaded.prompts:
        splits.setdefault(prompt.fields["thread"], set()).add(prompt.split)
    assert all(len(found) == 1 for found in splits.values())


def test_split_column_is_taken_as_it_is():
    rows = [{"prompt": f"p{n}", "part": part} for n, part in enumerate(["train", "validation", "test"])]
    assert [load(rows, split_column="part").of(split)[0].text for split in ("train", "validation", "test")] == [
        "p0",
        "p1",
        "p2",
    ]
    with pytest.raises(RecipeError, match="row 1: part is 'dev'; expected train, validation or test"):
        load([{"prompt": "x", "part": "dev"}], split_column="part")


def test_equal_prompts_are_merged_and_counted():
    rows = many()
    del rows[0]["id"]
    loaded = load([*rows, dict(rows[0]), {**rows[5], "id": "again"}])
    assert loaded.merged == 2
    assert sum("copies:2" in prompt.tags for prompt in loaded.prompts) == 2


def test_one_id_for_two_texts_is_an_error():
    with pytest.raises(RecipeError, match=r"row 2: the id is used for another text in row 1"):
        load([{"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}])


def test_near_duplicates_across_splits_are_found_and_within_one_split_are_not():
    text = "please write a short note to the whole team about the new parking rules that start on monday " * 2
    rows = [{"prompt": text + "thanks", "part": "train"}, {"prompt": text + "bye", "part": "test"}]
    rows += [{"prompt": "Something else entirely, about fish", "part": "validation"}]
    loaded = load(rows, split_column="part")
    assert len(loaded.near_duplicates) == 1
    assert near_duplicates([prompt.model_copy(update={"split": "train"}) for prompt in loaded.prompts]) == ()


def test_messages_columns_and_system_prompt():
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "go"},
    ]
    own = [{"role": "system", "content": "mine"}, *turns]
    rows = [
        *({"prompt": f"p{n}"} for n in range(40)),
        {"messages": turns},
        {"messages": own},
        {"messages": json.dumps(own)},
    ]
    loaded = load(rows, system="be brief")
    threads = {prompt.text: prompt for prompt in loaded.prompts if len(prompt.messages) > 2}
    systems = sorted(p.messages[0].content for p in loaded.prompts if p.text == "go")
    assert systems == ["be brief", "mine"]
    assert threads["go"].messages[-1].role == "user"
    assert {p.id for p in load(rows).prompts} == {p.id for p in loaded.prompts}, "the system prompt is not in the id"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "  "}, "row 1: the prompt has no text"),
        ({"promt": "x"}, "did you mean `promt`"),
        ({"prompt": 3}, "is a int; expected text"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "expected messages that end with a user turn"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "no list of {role, content} turns"),
        ({"messages": "nonsense"}, "not valid JSON"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row, message):
    with pytest.raises(RecipeError) as caught:
        load([row])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "the file is empty"),
        ("a.jsonl", '{"prompt": "x"}\n{broken\n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: found a list; expected a JSON object"),
        ("a.json", '{"prompt": "x"}', "expected a JSON list of objects"),
        ("a.csv", "prompt,day\nx,Friday,extra\n", "another number of cells"),
        ("a.txt", "hello", "found the ending `.txt`"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(RecipeError) as caught:
        list(read_rows(path))
    assert message in str(caught.value)


def test_jsonl_json_csv_and_a_saved_data_set_hold_the_same_rows(tmp_path):
    import datasets

    rows = [{"prompt": "Write to Anna, please", "day": "Friday"}, {"prompt": 'Say "no"\nkindly', "day": "Monday"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_text('prompt,day\n"Write to Anna, please",Friday\n"Say ""no""\nkindly",Monday\n')
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    for name in ("a.jsonl", "a.json", "a.csv"):
        assert [row for _, row in read_rows(tmp_path / name)] == rows, name
    assert [row for _, row in read_dataset(str(tmp_path / "saved"))] == rows


def test_no_validation_prompt_is_an_error_that_says_what_to_do():
    with pytest.raises(RecipeError, match=r"raise validation_fraction or test_fraction"):
        load([{"prompt": "only one"}])


def rubrics(text):
    rubric = parse_rubric(parse_document(text, Path("r.yaml"), RubricError), Path())
    return RubricSet(rubrics={"": rubric})


RUBRIC = """
name: r
criteria:
  - {name: facts, check: mentions, all_of: ["{day}", "{hour}"]}
"""


def test_a_field_that_no_prompt_has_is_an_error_and_one_that_some_lack_is_counted():
    prompts = load(many()).prompts
    with pytest.raises(RubricError, match=r"r.yaml:4: criteria.facts: no prompt has the field `hour`"):
        check_fields(prompts, rubrics(RUBRIC))
    first = prompts[0].model_copy(update={"fields": {"day": "Friday", "hour": "noon"}})
    assert check_fields([first, *prompts[1:]], rubrics(RUBRIC)) == {"hour": 59}


def test_slices_are_consecutive_disjoint_and_wrap_around():
    prompts = load(many()).prompts
    slices = round_slices(prompts, 5, 20, seed=3)
    ids = [[prompt.id for prompt in part] for part in slices]
    assert not set(ids[0]) & set(ids[1])
    assert ids[3] == ids[0]
    assert [[p.id for p in part] for part in round_slices(prompts, 2, 20, seed=3)] == ids[:2]
    assert ids != [[p.id for p in part] for part in round_slices(prompts, 5, 20, seed=4)]
    assert len(round_slices(prompts, 1, 500, seed=3)[0]) == 60


def prompt_of(text, own_id):
    loaded = load([*many(), {"id": own_id, "prompt": text}])
    return next(prompt for prompt in loaded.prompts if prompt.text == text)


def test_existing_drafts_find_their_prompts_by_id_or_text(tmp_path):
    prompt: Prompt = prompt_of("Write to Bo", "bo-1")
    path = tmp_path / "drafts.jsonl"
    rows = [
        {"prompt_id": "bo-1", "completion": "Dear Bo", "model": "large"},
        {"prompt": "Write to Bo", "completion": "Hi Bo", "model": "large"},
        {"prompt": "of another", "completion": "x"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    drafts = load_drafts(path, [prompt], 1)
    assert [(d.source, d.index, d.completion) for d in drafts] == [
        ("file:large", 0, "Dear Bo"),
        ("file:large", 1, "Hi Bo"),
    ]
    with pytest.raises(RecipeError, match="no row belongs to any of the 1 prompts"):
        load_drafts(path, [prompt.model_copy(update={"id": "zz", "tags": (), "messages": many_messages()})], 1)
    path.write_text('{"prompt_id": "bo-1", "text": "x"}\n')
    with pytest.raises(RecipeError, match=r"drafts.jsonl:1: expected"):
        load_drafts(path, [prompt], 1)


def many_messages():
    return load([*many()]).prompts[0].messages
