"""The teacher and the second student that ship with the package: sizes, tokenizers, and what they write."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from prefdistill.protocols import Reply, RunContext, TeacherRequest
from prefdistill.records import Message
from prefdistill.sandbox import STUDENT_B_DIRECTORY, STUDENT_DIRECTORY, TEACHER_DIRECTORY
from prefdistill.sandbox.build_student import (
    BLUEPRINTS,
    SECOND_TEMPLATE,
    TOKENIZER_FILES,
    build_student,
    build_tokenizer,
    encode,
    examples,
)
from prefdistill.sandbox.gold import gold
from prefdistill.sandbox.measure_student import COPIED, copies, load, write_drafts
from prefdistill.sandbox.measure_writers import TARGETS, expectations, gold_at, house_texts, main, missed
from prefdistill.sandbox.tiny_model import build_model
from prefdistill.sandbox.world import is_reserved, notes, parse_note
from prefdistill.sandbox.writer import write_house
from prefdistill.sections import StudentSection
from prefdistill.student import guard_cpu_gradients
from prefdistill.teachers.local import LocalTeacher

FOLDERS = {"student": STUDENT_DIRECTORY, "teacher": TEACHER_DIRECTORY, "student_b": STUDENT_B_DIRECTORY}
NEW = ("teacher", "student_b")


@pytest.fixture(scope="module")
def loaded() -> dict[str, tuple[Any, Any]]:
    return {name: load(folder, "none") for name, folder in FOLDERS.items()}


def config(name: str) -> dict[str, Any]:
    return dict(json.loads((FOLDERS[name] / "config.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", NEW)
def test_a_recipe_finds_the_folder_in_the_package(name: str) -> None:
    section = StudentSection(model=f"prefdistill.sandbox:{name}")
    assert Path(section.source) == FOLDERS[name].resolve()


@pytest.mark.parametrize(("name", "most"), [("teacher", 12_000_000), ("student_b", 3_000_000)])
def test_the_folder_is_small_and_holds_half_precision_weights(name: str, most: int) -> None:
    files = [file for file in FOLDERS[name].rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= most
    assert {file.name for file in files} == {
        *TOKENIZER_FILES,
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    found = config(name)
    assert found["dtype"] == "float16"
    assert found["max_position_embeddings"] >= 2048
    head = found["hidden_size"] // found["num_attention_heads"]
    for width in (found["hidden_size"], found["intermediate_size"], found["num_key_value_heads"] * head):
        assert width % 64 == 0  # NF4 quantises 64 weights at a time


@pytest.mark.parametrize("name", NEW)
def test_its_card_names_the_licence(name: str) -> None:
    card = (FOLDERS[name] / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert f"build_student --model {name} " in card


@pytest.mark.parametrize("file", TOKENIZER_FILES)
def test_the_teacher_has_the_students_tokenizer_to_the_byte(file: str) -> None:
    assert (TEACHER_DIRECTORY / file).read_bytes() == (STUDENT_DIRECTORY / file).read_bytes()


def test_the_teacher_is_the_larger_model(loaded: dict[str, tuple[Any, Any]]) -> None:
    sizes = {name: sum(each.numel() for each in model.parameters()) for name, (model, _) in loaded.items()}
    assert sizes["teacher"] > 1.8 * sizes["student"]
    assert sizes["student_b"] < 0.7 * sizes["student"]


def test_the_second_student_differs_in_every_way_that_a_new_base_may(loaded: dict[str, tuple[Any, Any]]) -> None:
    first, second = config("student"), config("student_b")
    for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_key_value_heads"):
        assert first[key] != second[key], key
    tokenizer, other = loaded["student_b"][1], loaded["student"][1]
    assert tokenizer.get_vocab() != other.get_vocab()
    assert tokenizer.eos_token != other.eos_token
    assert tokenizer.chat_template == SECOND_TEMPLATE != other.chat_template


@pytest.mark.parametrize("name", NEW)
def test_the_sizes_are_the_blueprints(name: str, loaded: dict[str, tuple[Any, Any]]) -> None:
    model, tokenizer = loaded[name]
    planned = build_model(tokenizer, 0, BLUEPRINTS[name].shape)
    assert {key: each.shape for key, each in planned.state_dict().items()} == {
        key: each.shape for key, each in model.state_dict().items()
    }
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert len(tokenizer) == model.config.vocab_size


@pytest.mark.slow
@pytest.mark.parametrize("name", NEW)
def test_the_tokenizer_is_rebuilt_from_the_seed(name: str, loaded: dict[str, tuple[Any, Any]]) -> None:
    tokenizer = loaded[name][1]
    pairs = list(examples(20_000, 0, name))
    rebuilt = build_tokenizer(pairs, name)
    assert rebuilt.get_vocab() == tokenizer.get_vocab()
    assert encode(rebuilt, pairs[:50]) == encode(tokenizer, pairs[:50])
    for ids, head in encode(tokenizer, pairs[:50]):
        assert ids.index(tokenizer.eos_token_id, head) == len(ids) - 1
    for note, _ in pairs[:500]:
        facts = parse_note(note)
        assert facts is not None
        assert not is_reserved(facts["recipient"], facts["topic"])


def test_any_text_survives_the_second_tokenizer_and_facts_are_single_tokens(loaded: dict[str, tuple[Any, Any]]) -> None:
    tokenizer = loaded["student_b"][1]
    for text in (
        "",
        " a\n\n\n b ",
        "naïve ☃ 汉字 \t\r\n",
        "at 9:00, not 12:345",
        "It's Tom’s — 1,000.50 €",
        "\x00\x7f",
    ):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    for row in notes(100, 21):
        for name in ("recipient", "sender", "day", "time", "ask"):
            assert len(tokenizer.encode(" " + row[name])) == 1


def test_house_authors_write_well_in_many_ways_with_a_slip_now_and_then() -> None:
    rows = list(notes(300, 31))
    rng = random.Random(1)
    scores = [gold(write_house(row, rng), row) for row in rows]
    assert 0.88 <= sum(scores) / len(scores) <= 0.97
    assert 0.3 <= sum(score < 0.999 for score in scores) / len(scores) <= 0.7
    assert len({write_house(rows[0], rng) for _ in range(200)}) > 100
    assert write_house(rows[0], random.Random(2)) == write_house(rows[0], random.Random(2))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "low", "high"), [("teacher", 0.88, 1.0), ("student_b", 0.33, 0.55)])
def test_what_it_writes_is_as_good_as_it_should_be(
    name: str, low: float, high: float, loaded: dict[str, tuple[Any, Any]]
) -> None:
    rows = list(notes(60, 22))
    texts = write_drafts(*loaded[name], [row["prompt"] for row in rows], 0.7, 0)
    assert low <= sum(map(gold, texts, rows)) / len(rows) <= high
    found = [copies(text, row) for text, row in zip(texts, rows, strict=True)]
    for fact in COPIED:
        assert sum(each[fact][1] for each in found) / len(found) >= 0.75


@pytest.mark.parametrize("name", NEW)
def test_it_loads_in_four_bits_with_a_whole_head_and_still_writes(name: str) -> None:
    pytest.importorskip("bitsandbytes")
    model, tokenizer = load(FOLDERS[name], "nf4")
    guard_cpu_gradients(model)
    kinds = {key: type(module).__name__ for key, module in model.named_modules()}
    assert kinds["lm_head"] == "Linear"
    linear = [kind for key, kind in kinds.items() if key.endswith("_proj")]
    assert linear and set(linear) == {"Linear4bit"}
    low, high = TARGETS[name]["gold nf4"]
    assert low - 0.08 <= gold_at(model, tokenizer, 40, 23) <= high + 0.08


def test_the_teacher_expects_the_house_style_and_is_not_certain_of_every_word(
    loaded: dict[str, tuple[Any, Any]],
) -> None:
    texts = house_texts(60, 3)
    found = {name: expectations(*loaded[name], texts) for name in ("teacher", "student")}
    ours, theirs = (found[name]["cross-entropy, nats an e-mail"] for name in ("teacher", "student"))
    assert theirs - ours > 0.7
    # The teacher is as sure as it is right: its entropy is close to its cross-entropy.
    entropy = found["teacher"]["entropy, nats a token"]
    assert entropy > 0.1
    assert entropy == pytest.approx(found["teacher"]["cross-entropy, nats a token"], rel=0.15)


def test_expectations_are_the_models_own_whatever_else_is_in_the_batch(loaded: dict[str, tuple[Any, Any]]) -> None:
    import torch

    model, tokenizer = loaded["teacher"]
    texts = house_texts(5, 4)
    total = 0.0
    for ids, head in encode(tokenizer, texts):
        with torch.inference_mode():
            log_probs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        total -= sum(float(log_probs[place - 1, ids[place]]) for place in range(head, len(ids)))
    found = expectations(model, tokenizer, texts)
    assert found["cross-entropy, nats an e-mail"] == pytest.approx(total / 5, rel=1e-4)


def test_the_teacher_writes_through_the_local_plug_in() -> None:
    teacher = LocalTeacher(model="prefdistill.sandbox:teacher", device="cpu")
    teacher.open(RunContext(directory=Path(), seed=5))
    rows = list(notes(24, 41))
    requests = [TeacherRequest(row["id"], (Message(role="user", content=row["prompt"]),), 104, 0.7) for row in rows]
    replies = {reply.key: reply for reply in teacher.replies(requests)}
    teacher.close()
    assert set(replies) == {row["id"] for row in rows}
    texts = []
    for row in rows:
        reply = replies[row["id"]]
        assert isinstance(reply, Reply)
        assert reply.finish_reason == "stop"
        assert reply.usage.usd == 0
        texts.append(reply.text)
    assert sum(map(gold, texts, rows)) / len(rows) >= 0.85


def test_a_model_that_misses_its_figures_is_named() -> None:
    surprise = "cross-entropy, nats an e-mail"
    results = {"student": {"gold float": 0.45, surprise: 11.2}, "teacher": {"gold float": 0.97, surprise: 9.8}}
    assert missed(results) == []
    assert missed({**results, "teacher": {"gold float": 0.4, surprise: 10.9}}) == [
        "teacher: gold float",
        "teacher: cross-entropy not 1 nats lower",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", NEW)
def test_a_short_build_writes_a_folder_that_loads(name: str, tmp_path: Path) -> None:
    build_student(tmp_path / name, 0, steps=2, count=20_000, model=name)
    model, tokenizer = load(tmp_path / name, "none")
    assert len(tokenizer) == model.config.vocab_size
    for file in TOKENIZER_FILES:
        assert (tmp_path / name / file).read_bytes() == (FOLDERS[name] / file).read_bytes()


@pytest.mark.slow
def test_the_table_of_all_three_meets_its_targets(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    assert capsys.readouterr().out.endswith("all targets met\n")
