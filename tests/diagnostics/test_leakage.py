"""Leaks: what must be found, and the templates that must not."""

import functools
import random
import time

import pytest

from prefdistill.diagnostics.leakage import leakage, leaked
from prefdistill.records import Message, Prompt
from prefdistill.stages.load import load_prompts, read_rows
from tests.conftest import ROOT
from tests.diagnostics.rounds import VOCABULARY, found, prose

FILES = ["recipes/prompts/quickstart.jsonl", "recipes/prompts/emails.jsonl", "recipes/prompts/paragraphs.jsonl"]
SLOTS = ["tests/second_sandbox/prompts.jsonl"]
"""Another world's prompts, made from templates with many gaps."""


def prompt(text, id, split="train", before=()):
    messages = tuple(Message(role=role, content=content) for role, content in (*before, ("user", text)))
    return Prompt(id=id, messages=messages, split=split)


def prompts(texts, split="train"):
    return [prompt(text, f"{split}-{number}", split) for number, text in enumerate(texts)]


@functools.cache
def splits_of(file):
    loaded = load_prompts(
        read_rows(ROOT / file),
        columns={},
        split_by=None,
        split_column=None,
        validation_fraction=0.15,
        test_fraction=0.2,
    )
    return loaded.of("train"), [*loaded.of("validation"), *loaded.of("test")]


@pytest.mark.parametrize("file", FILES + SLOTS)
def test_prompts_from_templates_are_no_leak(file):
    train, held = splits_of(file)
    assert leaked(train, held).examples == ()


@pytest.mark.parametrize("file", FILES)
def test_copies_with_words_around_them_are_found(file):
    train, held = splits_of(file)
    copies = [prompt(f"Please do this: {each.text.upper()}  Thank you!", f"copy-of-{each.id}") for each in held[:20]]
    result = leaked([*train, *copies], held)
    assert dict(result.examples) == {each.id: f"copy-of-{each.id}" for each in held[:20]}
    assert result.share == 20 / len(held)


def test_short_prompts_must_be_equal():
    train = prompts(["Summarise chapter five.", "Greet Ada warmly", "Name a river in Peru"])
    held = prompts(["summarise   Chapter FIVE", "Greet Ada", "Name a river in Peru, please"], "test")
    assert leaked(train, held).examples == (("test-0", "train-0"),)


def test_a_short_prompt_that_everyone_uses_tells_nothing():
    assert leaked(prompts(["Continue."] * 4), prompts(["Continue."], "test")).examples == ()


def test_boilerplate_of_a_template_tells_nothing():
    frame = "Read the following customer message with care and answer it in the voice of our support team: "
    texts = prose(60, 40)
    train, held = [frame + text for text in texts[:50]], [frame + text for text in texts[50:]]
    assert leaked(prompts(train), prompts(held, "test")).examples == ()
    assert leaked(prompts([*train, held[0] + " Thanks."]), prompts(held, "test")).examples == (("test-0", "train-50"),)


def test_values_that_coincide_in_a_template_tell_nothing():
    made = "Complaint about a {}: it is missing a part. From Mr {}. Solution: a {}, by {}. {} signs."
    things, people, remedies = VOCABULARY[20:30], VOCABULARY[30:38], ["discount", "refund"]
    days = [f"{day} {month}" for day in range(1, 20) for month in ("April", "July", "March")]
    rng = random.Random(3)
    texts = sorted(
        {
            made.format(*(rng.choice(each) for each in (things, people, remedies, days, VOCABULARY[:20])))
            for _ in range(80)
        }
    )
    rng.shuffle(texts)
    found = leaked(prompts(texts[:50]), prompts(texts[50:], "test"))
    copied = leaked(prompts([*texts[:50], f"{texts[60]} Please."]), prompts(texts[50:], "test"))
    assert found.examples == ()
    assert copied.examples == (("test-10", "train-50"),)


def test_a_thread_quoted_on_both_sides_is_a_leak_where_it_is_no_single_case():
    rest, quoted = prose(50, 60), [" ".join(each.split()[:30]) for each in prose(3, 60, seed=77)]
    train = prompts([f"{quote} {text}" for quote, text in zip(quoted, rest[:3], strict=True)] + rest[3:40])
    held = [f"{text} {quote}" for quote, text in zip(quoted, rest[41:44], strict=True)]
    found = leaked(train, prompts([*held, *rest[44:]], "validation"))
    assert {one for one, _ in found.examples} == {"validation-0", "validation-1", "validation-2"}
    assert leaked(train, prompts([held[0], *rest[44:]], "validation")).examples == ()


def test_only_user_messages_count():
    system = [("system", prose(1, 40)[0])]
    train = [prompt(text, f"a{number}", before=system) for number, text in enumerate(prose(3, 30, seed=1))]
    held = [prompt(text, f"b{number}", "test", system) for number, text in enumerate(prose(3, 30, seed=2))]
    assert leaked(train, held).examples == ()
    earlier = prose(1, 40, seed=3)[0]
    turn = [("user", earlier), ("assistant", "Yes.")]
    shared = [prompt("And now?", "a", before=turn)], [prompt("Why is that so?", "b", "test", turn)]
    assert leaked(*shared).examples == (("b", "a"),)


def test_a_script_without_spaces_is_read_by_the_character():
    text = "来週の月曜日の会議は午後三時からに変更になりましたのでご確認ください"
    assert leaked(prompts([text + "。"]), prompts([f"「{text}」"], "test")).share == 1.0


def test_nothing_to_look_at_is_no_leak():
    assert leaked([], []).share == 0.0
    assert leaked(prompts(["a b"]), []).share == 0.0
    assert leaked([], prompts(["a b"], "test")).examples == ()
    assert leaked(prompts(["…", "?"]), prompts(["…", "!"], "test")).examples == ()


def test_many_prompts_take_seconds():
    rng = random.Random(0)
    words = [f"w{number}" for number in range(20_000)]
    texts = [" ".join(words[int(len(words) * rng.random() ** 3)] for _ in range(50)) for _ in range(5_500)]
    train, held = prompts(texts[:5_000]), prompts([*texts[5_000:], texts[7]], "test")
    started = time.process_time()
    assert leaked(train, held).examples == (("test-500", "train-7"),)
    assert time.process_time() - started < 5


def test_the_rule_speaks_where_it_was_measured():
    assert not found(leakage, {"leaked_share": 0.0})
    finding = found(leakage, {"leaked_share": 0.02})[0]
    assert (finding.check, finding.level) == ("leakage", "warn") and "prompts.split_by" in finding.message
    assert not found(leakage, {"leaked_share": 0.02}, {})
