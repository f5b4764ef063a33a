"""`prefdistill chat RUN`: a conversation with a run's policy, at the terminal or through a pipe."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from prefdistill.errors import PrefdistillError
from prefdistill.records import Message
from prefdistill.stored import stored_policy, stored_run_traced
from prefdistill.using.talking import Talker, printable

HELP = (
    "/reset forgets the conversation, /base shows the base's answer beside or no longer, /temperature T, /quit leaves"
)
HELP_TRACE = "/no-trace has it answer without reasoning, or reason again"


@dataclass
class Conversation:
    """What was said so far, and how the student answers."""

    talker: Talker
    system: str | None
    temperature: float
    beside: bool = False
    """Whether the base's answer is shown too."""
    turns: list[Message] = field(default_factory=list)

    def heard(self, line: str) -> bool:
        """Answer a line or follow a command; False where it ends the conversation."""
        word, _, rest = line.strip().partition(" ")
        if not word:
            return True
        if not word.startswith("/"):
            self._answer(line.strip())
        elif word in ("/quit", "/exit"):
            return False
        elif word == "/reset":
            self.turns.clear()
            print("the conversation begins anew")
        elif word == "/base":
            self._show_base()
        elif word == "/temperature":
            self._set_temperature(rest.strip())
        elif word == "/no-trace":
            self._switch_trace()
        else:
            print(f"{printable(word)}: no such command; {HELP}" if word != "/help" else HELP)
        return True

    def _answer(self, text: str) -> None:
        asked = [*self.turns, Message(role="user", content=text)]
        system = [] if self.system is None else [Message(role="system", content=self.system)]
        both = self.beside and self.talker.policy.adapter is not None
        name = "base" if self.talker.policy.adapter is None else f"round {self.talker.policy.round}"
        try:
            said = self._say(name, [*system, *asked], base=False)
            if both:
                self._say("base", [*system, *asked], base=True)
        except PrefdistillError as problem:
            print(f"error: {problem}")
            return
        self.turns = [*asked, Message(role="assistant", content=said)]

    def _say(self, name: str, messages: list[Message], base: bool) -> str:
        print(f"{name}> ", end="", flush=True)
        said, note = self.talker.answer(
            messages, self.temperature, lambda text: print(printable(text), end="", flush=True), base
        )
        print(f" [{note}]" if note else "", flush=True)
        return said

    def _show_base(self) -> None:
        if self.talker.policy.adapter is None:
            print("this is the base; name another round with --round to compare")
            return
        self.beside = not self.beside
        print("the base's answer is shown beside" if self.beside else "the base's answer is no longer shown")

    def _switch_trace(self) -> None:
        if self.talker.trace is None:
            print("this student was not trained to reason, so there is nothing to switch")
            return
        self.talker.switch_trace("on" if self.talker.trace == "off" else "off")
        print(f"reasoning {self.talker.trace}")

    def _set_temperature(self, text: str) -> None:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0.0 <= value <= 10.0:
            print(f"temperature is {self.temperature:g}; expected `/temperature T` with a number from 0 (greedy) to 10")
            return
        self.temperature = value
        print(f"temperature {value:g}")


def chat(folder: Path, number: int | None, temperature: float | None, beside: bool, no_trace: bool = False) -> None:
    """Talk until the input ends, or the person leaves with /quit, Ctrl-C or Ctrl-D."""
    run, recipe = stored_run_traced(folder, no_trace)
    policy = stored_policy(run, recipe, number)
    talker = Talker(recipe, policy, run.path.resolve())
    warmth = recipe.evaluate.temperature if temperature is None else temperature
    conversation = Conversation(talker, recipe.student.system_text(), warmth, beside)
    who = "the base" if policy.adapter is None else f"round {policy.round}"
    reasons = "" if talker.trace is None else f", reasoning {talker.trace}"
    commands = HELP if talker.trace is None else f"{HELP}, {HELP_TRACE}"
    print(f"{folder}: {who} of {recipe.student.model}, temperature {warmth:g}{reasons}. {commands}", flush=True)
    person = sys.stdin.isatty()
    if person:
        with suppress(ImportError):  # not there on Windows, where the terminal edits lines itself
            import readline  # noqa: F401  (line editing in `input`)
    try:
        while conversation.heard(input("you> " if person else "")):
            pass
    except (EOFError, KeyboardInterrupt):
        print()
