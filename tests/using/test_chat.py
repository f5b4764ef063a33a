"""`prefdistill chat`: several turns, the base beside, commands, and words as they come."""

import io

import pytest

from prefdistill.records import Message
from prefdistill.stored import stored_policy, stored_run
from prefdistill.using import chat as chatting
from prefdistill.using.talking import Talker, printable


@pytest.fixture(scope="module")
def talker(used):
    run, recipe = stored_run(used[0])
    return Talker(recipe, stored_policy(run, recipe, 2), run.path)


def ask(talker, text="When do we meet?", **options):
    pieces = []
    said, note = talker.answer((Message(role="user", content=text),), say=pieces.append, **options)
    assert "".join(pieces) == said
    return said, note


def test_greedy_answers_are_those_of_the_policy_and_of_the_base(used, talker):
    """Against the run's own sampler: the same weights, without the sampling options of the student's own config."""
    from prefdistill.using.drafts import read_prompts, write_drafts

    run, recipe = stored_run(used[0])
    prompts = read_prompts(recipe, "When do we meet?", None)
    for number in (0, 2):
        policy = stored_policy(run, recipe, number)
        wanted = next(iter(write_drafts(run, recipe, policy, prompts, 1, 0.0, None))).draft
        said, note = talker.answer(prompts[0].messages, 0.0, lambda text: None, base=number == 0)
        assert said == wanted.completion
        assert ("cut" in note) == (wanted.finish_reason == "length")


def test_a_conversation_has_turns_and_forgets_them_on_reset(used, talker, monkeypatch, capsys):
    heard = []
    answer = talker.answer
    monkeypatch.setattr(
        talker, "answer", lambda messages, *rest: heard.append(list(messages)) or answer(messages, *rest)
    )
    conversation = chatting.Conversation(talker, "Be brief.", 0.7)
    for line in ("one", "two", "/reset", "three", ""):
        assert conversation.heard(line)
    assert [[message.role for message in each] for each in heard] == [
        ["system", "user"],
        ["system", "user", "assistant", "user"],
        ["system", "user"],
    ]
    assert capsys.readouterr().out.count("round 2> ") == 3


def test_the_base_is_shown_beside_and_does_not_enter_the_conversation(talker, capsys):
    conversation = chatting.Conversation(talker, None, 0.0)
    conversation.heard("/base")
    conversation.heard("When do we meet?")
    shown = capsys.readouterr().out
    assert shown.index("round 2> ") < shown.index("base> ")
    assert conversation.turns[-1].content == ask(talker, temperature=0.0)[0]
    conversation.heard("/base")
    assert not conversation.beside


def test_commands_that_are_none_and_numbers_that_are_none_are_answered(talker, capsys):
    conversation = chatting.Conversation(talker, None, 0.7)
    for line in ("/bas", "/temperature warm", "/temperature -1", "/temperature nan"):
        assert conversation.heard(line)
    shown = capsys.readouterr().out
    assert "/bas: no such command" in shown
    assert shown.count("temperature is 0.7; expected") == 3
    assert conversation.heard("/temperature 0.2")
    assert conversation.temperature == 0.2
    assert not conversation.heard("/quit")


def test_a_long_conversation_leaves_its_oldest_turns_out_and_says_so(talker, capsys):
    long = [Message(role="user" if number % 2 == 0 else "assistant", content="meet " * 20) for number in range(11)]
    _, note = talker.answer([Message(role="system", content="Be brief."), *long], 0.0, lambda text: None)
    assert "messages no longer fit and were left out" in note
    conversation = chatting.Conversation(talker, None, 0.0)
    conversation.heard("meet " * 400)
    assert "shorten it" in capsys.readouterr().out
    assert conversation.turns == []


@pytest.mark.parametrize("ending", [EOFError, KeyboardInterrupt])
def test_it_ends_with_the_input_and_with_ctrl_c(used, monkeypatch, capsys, ending):
    lines = iter(["one"])

    def said(prompt=""):
        try:
            return next(lines)
        except StopIteration:
            raise ending from None

    monkeypatch.setattr("builtins.input", said)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    chatting.chat(used[0], 0, 0.0, beside=False)
    shown = capsys.readouterr().out
    assert "run: the base of" in shown.splitlines()[0]
    assert "base> " in shown


def test_control_characters_do_not_reach_the_terminal():
    assert printable("a\x1b[2Jb\nc\t\x07") == "a\ufffd[2Jb\nc\t\ufffd"
