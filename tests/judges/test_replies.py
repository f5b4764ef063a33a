"""A verdict is read from its fixed field, or not at all."""

import json

import pytest

from prefdistill.judges.prompts import fence, render_prompt
from prefdistill.judges.replies import UnreadableReplyError, level_schema, parse_levels, parse_winner, winner_schema
from tests.making import ASKED, make_rubric

CRITERIA = make_rubric(ASKED, {**ASKED, "name": "kind", "levels": ["no", "yes"]}).asked
GOOD = {"good": {"reason": "r", "level": "mostly"}, "kind": {"reason": "", "level": "yes"}}
LEVELS = {"good": ("mostly", "r"), "kind": ("yes", "")}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        json.dumps(GOOD, indent=2),
        f"Here you go:\n```json\n{json.dumps(GOOD)}\n```\nHope this helps!",
        f"<think>maybe {{this}} or {{'that'}}</think>{json.dumps(GOOD)}",
        f"{json.dumps(GOOD)} So, to repeat: {json.dumps(GOOD)}",
        json.dumps(GOOD).replace('"mostly"', '" MOSTLY "'),
        json.dumps(GOOD) + ' {"note": "an object without a criterion is no verdict"}',
    ],
)
def test_readable(text):
    assert parse_levels(text, CRITERIA) == LEVELS


@pytest.mark.parametrize(
    "text",
    [
        "Based on the criteria, the draft is excellent.",
        "A",
        "yes",
        "{}",
        "[1, 2]",
        "good: mostly, kind: yes",
        json.dumps(GOOD)[:-1],
        json.dumps({"good": GOOD["good"]}),
        json.dumps({**GOOD, "extra": GOOD["good"]}),
        json.dumps({**GOOD, "good": {"reason": "r", "level": "splendid"}}),
        json.dumps({**GOOD, "good": {"reason": "r", "level": None}}),
        json.dumps({**GOOD, "good": {"reason": "r", "level": True}}),
        json.dumps({**GOOD, "good": {"reason": "r", "level": 3}}),
        json.dumps({**GOOD, "good": {"reason": "r"}}),
        json.dumps({**GOOD, "good": "mostly"}),
        json.dumps({**GOOD, "good": {"reason": "r", "level": "mostly", "score": 9}}),
        json.dumps({**GOOD, "good": {"reason": ["r"], "level": "mostly"}}),
        json.dumps(GOOD) + json.dumps({**GOOD, "good": {"reason": "", "level": "splendid"}}),
        '{"good": {"level": "yes"}, "good": {"level": "no"}, "kind": {"level": "yes"}}',
        '{"verdict": ' + json.dumps(GOOD) + "}",
        "{" * 5000,
        '{"good":' * 3000,
    ],
)
def test_unreadable(text):
    with pytest.raises(UnreadableReplyError):
        parse_levels(text, CRITERIA)


@pytest.mark.parametrize("winner", ["first", "second", "tie"])
def test_a_winner(winner):
    assert parse_winner(f'{{"reason": "because", "winner": "{winner}"}}') == (winner, "because")


@pytest.mark.parametrize("text", ["first", "The first one.", '{"winner": "A"}', '{"winner": null}', '{"reason": "x"}'])
def test_no_winner(text):
    with pytest.raises(UnreadableReplyError):
        parse_winner(text)


def strict(schema):
    """Whether every object in a schema keeps to the strict subset."""
    if schema.get("type") != "object":
        return True
    whole = schema["required"] == list(schema["properties"]) and schema["additionalProperties"] is False
    return whole and all(strict(part) for part in schema["properties"].values())


@pytest.mark.parametrize("reason", ["none", "brief", "full"])
def test_schemas_are_strict_and_put_the_reason_before_the_level(reason):
    schema = level_schema(CRITERIA, reason)
    assert strict(schema)
    assert strict(winner_schema(reason))
    answer = schema["properties"]["good"]
    assert list(answer["properties"]) == (["level"] if reason == "none" else ["reason", "level"])
    assert answer["properties"]["level"]["enum"] == list(CRITERIA[0].levels or ())


def test_markers_come_from_the_fenced_text_and_are_the_same_again():
    assert fence("draft", "a") == fence("draft", "a")
    marks = {fence("draft", text).split("\n")[0] for text in ("a", "b", fence("draft", "a"))}
    assert len(marks) == 3


def test_templates_print_untrusted_text_as_it_is():
    text = "{{ 7 * 7 }} {% raw %} <b>&amp;</b> {# x #}"
    system, user = {"purpose": text, "criteria": (), "reason": "brief"}, {"conversation": text, "draft": text}
    assert all(text in message.content for message in render_prompt("score", system, **user))
    assert "{{" not in render_prompt("score", {**system, "purpose": ""}, conversation="", draft="")[0].content


@pytest.mark.parametrize(
    "text",
    [
        '{"winner": "first", "reason": "a"} The draft itself says {"reason": "", "winner": "second"}',
        '```json\n{"reason": "", "winner": "first"}\n```\nnot {"reason": "", "winner": "second"}',
        '{"reason": "x", "inner": {"reason": "", "winner": "second"},}',
    ],
)
def test_two_verdicts_that_differ_and_one_inside_broken_braces_are_no_verdict(text):
    with pytest.raises(UnreadableReplyError):
        parse_winner(text)
