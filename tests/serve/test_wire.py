"""Requests in OpenAI's format: understood, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prefdistill.serve.wire import Asked, Tokens, WireError, completion_body, last_chunks, parse_request

ASK = {"model": "run", "messages": [{"role": "user", "content": "Write it."}]}


def parse(**changes: Any) -> Asked:
    return parse_request(json.dumps({**ASK, **changes}).encode(), "run")


def refused(body: bytes | dict[str, Any]) -> WireError:
    with pytest.raises(WireError) as caught:
        parse_request(body if isinstance(body, bytes) else json.dumps({**ASK, **body}).encode(), "run")
    error = caught.value.body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return caught.value


def test_what_the_sdk_sends_is_understood() -> None:
    asked = parse(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Hello", "name": "ann"},
            {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": None},
            {"role": "user", "content": [{"type": "text", "text": "Write "}, {"type": "text", "text": "it."}]},
        ],
        stream=True,
        stream_options={"include_usage": True},
        max_completion_tokens=7,
        temperature=0,
        seed=3,
        user="u",
        n=1,
        tools=None,
        response_format={"type": "text"},
    )
    assert [each.role for each in asked.messages] == ["system", "user", "assistant", "user"]
    assert asked.messages[-1].content == "Write it."
    assert (asked.stream, asked.stream_usage, asked.max_tokens, asked.temperature, asked.seed) == (True, True, 7, 0, 3)


@pytest.mark.parametrize("name", ["temperature", "top_p", "max_tokens", "max_completion_tokens", "seed"])
def test_true_is_no_number(name: str) -> None:
    problem = refused({name: True})
    assert (problem.status, problem.body["error"]["param"]) == (400, name)
    assert str(problem) == f"{name}: expected a number, found true or false."


@pytest.mark.parametrize("name", ["temperature", "max_tokens", "seed"])
def test_a_number_in_quotes_is_none(name: str) -> None:
    assert str(refused({name: "1"})) == f"{name}: expected a number, found a text."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", True),
        ("top_logprobs", False),
        ("logprobs", 0),
        ("presence_penalty", False),
        ("frequency_penalty", False),
        ("parallel_tool_calls", 1),
        ("parallel_tool_calls", 0),
        ("n", "1"),
        ("logit_bias", []),
    ],
)
def test_true_is_not_one_where_a_parameter_is_not_supported_either(name: str, value: Any) -> None:
    assert (refused({name: value}).status, refused({name: value}).body["error"]["param"]) == (400, name)


@pytest.mark.parametrize("value", [1, 0, "true", []])
def test_a_number_is_no_switch(value: Any) -> None:
    for body, param in (
        ({"stream": value}, "stream"),
        ({"stream_options": {"include_usage": value}}, "stream_options"),
    ):
        assert str(refused(body)).endswith(": expected true or false.")
        assert refused(body).body["error"]["param"] == param
    assert not parse(stream=None, stream_options={"include_usage": None, "include_obfuscation": False}).stream_usage


def test_what_asks_for_nothing_is_let_through() -> None:
    parse(n=1.0, presence_penalty=0.0, frequency_penalty=0, logprobs=False, top_logprobs=0, parallel_tool_calls=True)
    parse(n=None, logit_bias={}, tools=[], stop="", tool_choice="none", modalities=["text"], functions=[])


def test_facts_come_as_fields_or_metadata() -> None:
    assert parse(metadata={"day": "Monday", "time": "noon"}, fields={"day": "Friday"}).fields == {
        "day": "Friday",
        "time": "noon",
    }
    assert refused({"fields": {"x": "y" * 70_000}}).status == 400


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", 2), ("tools", [{}]), ("logprobs", True), ("stop", ["x"]), ("response_format", {"type": "json_object"})],
)
def test_what_is_not_supported_is_refused_by_name(name: str, value: Any) -> None:
    problem = refused({name: value})
    assert (problem.status, problem.body["error"]["param"]) == (400, name)
    assert "not supported" in str(problem)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "not valid JSON"),
        (b"[]", 400, "no JSON object"),
        (b'"x"', 400, "no JSON object"),
        (b"[" * 100_000, 400, "not valid JSON"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "not valid JSON"),
        ({"model": "gpt"}, 404, "does not exist"),
        ({"bogus": 1}, 400, "not known"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "last message"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "last message"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "tools are not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "expected text"),
        ({"messages": [{"role": "user"}]}, 400, "missing"),
        ({"temperature": 3}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 10**400}, 400, "max_tokens"),
        ({"max_completion_tokens": 2_000_000}, 400, "max_completion_tokens"),
        ({"messages": [{"role": "x", "content": "x"}]}, 400, "the role `x` is unknown"),
        ({"top_p": 0}, 400, "top_p"),
    ],
)
def test_what_cannot_be_read_is_refused(body: bytes | dict[str, Any], status: int, words: str) -> None:
    problem = refused(body)
    assert problem.status == status
    assert words in str(problem)


def test_an_answer_without_known_tokens_says_nothing_of_them() -> None:
    asked = parse()
    body = json.loads(completion_body(asked, "run", "Grüße", "stop", Tokens()))
    assert body["usage"] is None
    assert body["choices"][0]["message"]["content"] == "Grüße"
    ending = last_chunks(asked, "run", "stop", Tokens(1, 2))
    assert ending.count(b"data:") == 2 and b"usage" not in ending, "no tokens where they were not asked for"
