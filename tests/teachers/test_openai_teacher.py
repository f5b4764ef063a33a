"""The OpenAI-compatible teacher: how it words requests for servers that refuse parts of them."""

from pathlib import Path

import pytest

from prefdistill.errors import PluginError
from prefdistill.plugins import build_plugin
from prefdistill.protocols import Reply, RunContext, TeacherRequest, Token
from prefdistill.records import Failure, Message
from prefdistill.requests import layer as requests_module
from prefdistill.requests.layer import RequestLayer
from prefdistill.teachers.openai import OpenAITeacher
from tests.loopback import Loopback, Served, completion, refused
from tests.making import opened_teacher

SCHEMA = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


def request(key="k", **options):
    return TeacherRequest(key, (Message(role="user", content=key),), **{"max_tokens": 50, **options})


def ask(server, *requests, **options):
    teacher, layer = opened_teacher(server.url, "off", **options)
    try:
        return list(teacher.replies(requests or [request()])), layer
    finally:
        teacher.close()
        layer.close()


def test_the_request_as_it_is_sent(monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-secret")
    with Loopback(lambda body: "hello") as server:
        teacher, layer = opened_teacher(server.url, "off", api_key_env="A_KEY", extra_body={"top_k": 5})
        (reply,) = teacher.replies([request(temperature=0.5, logprobs=3)])
        layer.close()
    assert isinstance(reply, Reply)
    assert (reply.key, reply.text, reply.finish_reason, reply.usage.completion_tokens) == ("k", "hello", "stop", 20)
    assert server.requests == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "k"}],
            "max_completion_tokens": 50,
            "temperature": 0.5,
            "logprobs": True,
            "top_logprobs": 3,
            "top_k": 5,
        }
    ]
    assert server.keys == ["Bearer sk-secret"]


def test_what_is_none_is_left_out():
    with Loopback(lambda body: "x") as server:
        ask(server)
    assert set(server.requests[0]) == {"model", "messages", "max_completion_tokens"}


def test_the_teachers_temperature_stands_in_for_none():
    with Loopback(lambda body: "x") as server:
        ask(server, request("a"), request("b", temperature=0.0), temperature=0.9, concurrency=1)
    assert [body["temperature"] for body in server.requests] == [0.9, 0.0]


def accepting(*kinds):
    """A server that knows only some kinds of response_format."""

    def answer(body):
        kind = body.get("response_format", {}).get("type", "none")
        return f"as {kind}" if kind in kinds else refused(400, f"response_format of type {kind} is not supported")

    return answer


@pytest.mark.parametrize(
    ("accepted", "tried"),
    [
        ("json_schema", ["json_schema"]),
        ("json_object", ["json_schema", "json_object"]),
        ("none", ["json_schema", "json_object", "none"]),
    ],
)
def test_the_ladder_is_climbed_down_once_and_remembered(accepted, tried):
    with Loopback(accepting(accepted)) as server:
        teacher, layer = opened_teacher(server.url, "off", concurrency=1)
        replies = list(teacher.replies([request(str(n), schema=SCHEMA) for n in range(5)]))
        again = OpenAITeacher(model="m", base_url=server.url)
        again.open(RunContext(directory=Path(), seed=0, requests=layer))
        replies += again.replies([request("again", schema=SCHEMA)])
        layer.close()
    assert [reply.text for reply in replies] == [f"as {accepted}"] * 6
    sent = [body.get("response_format", {}).get("type", "none") for body in server.requests]
    assert sent == [*tried, *[accepted] * 5]
    assert len(layer.notes) == len(tried) - 1
    assert replies[0].usage.calls == len(tried)


def test_many_at_once_climb_down_together():
    with Loopback(accepting("none"), latency_seconds=0.02) as server:
        replies, layer = ask(server, *[request(str(n), schema=SCHEMA) for n in range(60)], concurrency=16)
    assert {reply.text for reply in replies} == {"as none"}
    assert len(layer.notes) == 2


def test_a_fixed_structure_is_not_changed():
    with Loopback(accepting("none")) as server:
        teacher, layer = opened_teacher(server.url, "off", structured="json_schema")
        list(teacher.replies([request("warm")]))
        (failure,) = teacher.replies([request("a", schema=SCHEMA)])
        assert isinstance(failure, Failure)
        assert "response_format" in failure.message
        layer.close()
        ask(server, request("b", schema=SCHEMA), structured="none")
    assert "response_format" not in server.requests[-1]


def test_the_old_name_of_the_token_limit():
    def answer(body):
        return refused(400, "Unknown parameter: max_completion_tokens") if "max_completion_tokens" in body else "x"

    with Loopback(answer) as server:
        replies, layer = ask(server, request("a"), request("b"), concurrency=1)
        assert [reply.text for reply in replies] == ["x", "x"]
        ask(server, max_tokens_parameter="max_tokens")
    assert ["max_tokens" in body for body in server.requests] == [False, True, True, True]
    assert "max_tokens" in layer.notes[0]


def test_a_token_limit_refused_under_both_names_is_a_failure():
    def answer(body):
        limit = body.get("max_tokens", body.get("max_completion_tokens"))
        return refused(400, "max_tokens and max_completion_tokens must be below 9") if limit > 9 else "x"

    with Loopback(answer) as server:
        teacher, layer = opened_teacher(server.url, "off")
        list(teacher.replies([TeacherRequest("warm", (Message(role="user", content="warm up"),), 5)]))
        (failure,) = teacher.replies([request("k")])
        layer.close()
    assert isinstance(failure, Failure)
    assert "must be below 9" in failure.message
    assert len(server.requests) == 3


@pytest.mark.parametrize(("name", "option"), [("temperature", {"temperature": 0.0}), ("logprobs", {"logprobs": 5})])
def test_a_refused_parameter_is_left_out_and_noted(name, option):
    def answer(body):
        return refused(400, f"Unsupported value: '{name}' does not support this") if name in body else "x"

    with Loopback(answer) as server:
        replies, layer = ask(server, request("a", **option), request("b", **option), concurrency=1)
    assert [reply.text for reply in replies] == ["x", "x"]
    assert [name in body for body in server.requests] == [True, False, False]
    assert name in layer.notes[0]


@pytest.mark.parametrize(
    ("served", "kind"),
    [
        (Served(""), "empty"),
        (Served("  \n"), "empty"),
        (Served("half a", finish_reason="length"), "truncated"),
        (Served("", finish_reason="length"), "truncated"),
        (Served("", refusal="no"), "refusal"),
        (Served("", finish_reason="content_filter"), "refusal"),
    ],
)
def test_what_is_no_reply(served, kind):
    with Loopback(lambda body: served) as server:
        (failure,), _ = ask(server)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.key, failure.usage.calls) == (kind, "k", 1)


def test_odd_but_readable_replies():
    def odd(body):
        found = completion(body, Served("x"))
        choice = found["choices"][0]
        choice["message"]["content"] = [{"type": "text", "text": "in "}, {"type": "text", "text": "parts \ud800"}]
        choice["finish_reason"] = None
        choice["message"]["reasoning_content"] = "hm"
        del found["usage"]
        tops = [{"token": "x", "logprob": -0.1}, {"token": "y", "logprob": -9999.0}]
        choice["logprobs"] = {"content": [{"token": "x", "logprob": -0.1, "top_logprobs": tops}]}
        return Served(body=found)

    with Loopback(odd) as server:
        (reply,), _ = ask(server)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish_reason) == ("in parts ?", "stop")
    assert reply.tokens == (Token("x", -0.1, (("x", -0.1), ("y", -9999.0))),)
    assert reply.usage.calls == 1


def test_the_key_is_never_in_an_error(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setattr(requests_module, "BACK_OFF_SECONDS", 0.01)
    answer = refused(401, "Incorrect API key provided: sk-very-secret")
    with Loopback(lambda body: answer) as server, pytest.raises(requests_module.EndpointError) as caught:
        ask(server)
    assert "sk-very-secret" not in str(caught.value)


def test_a_missing_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    context = RunContext(directory=Path(), seed=0, requests=RequestLayer(cache="off"))
    with pytest.raises(PluginError, match="environment variable OPENAI_API_KEY is not set"):
        OpenAITeacher(model="m").open(context)
    OpenAITeacher(model="m", base_url="http://localhost:8000/v1").open(context)


def test_options(tmp_path):
    (tmp_path / "system.txt").write_text("Write plainly.\n")
    teacher = build_plugin("openai", {"model": "m", "system": "system.txt"}, "teachers", tmp_path)
    assert isinstance(teacher, OpenAITeacher)
    assert teacher.system_text() == "Write plainly."
    assert OpenAITeacher(model="m").system_text() is None
    before = teacher.identity()
    (tmp_path / "other.txt").write_text("Write plainly.\n")
    other = build_plugin("openai", {"model": "m", "system": "other.txt", "concurrency": 2}, "teachers", tmp_path)
    assert other.identity() == before
    (tmp_path / "system.txt").write_text("Write richly.\n")
    assert teacher.identity() != before


@pytest.mark.parametrize(
    "options",
    [
        {"system": "gone.txt"},
        {"base_url": "localhost:8000"},
        {"base_url": "https://user:secret@host/v1"},
        {"model": ""},
        {"concurrency": 0},
        {"modle": "m"},
        {"usd_per_million": {"in": 1}},
    ],
)
def test_options_that_cannot_be_used(options, tmp_path):
    with pytest.raises(ValueError):
        build_plugin("openai", {"model": "m", **options}, "teachers", tmp_path)


def test_a_teacher_must_be_opened():
    with pytest.raises(PluginError, match="opened"):
        list(OpenAITeacher(model="m").replies([request()]))
