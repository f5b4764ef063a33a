"""The student as a conversation partner: the policy that was trained, its words as they come, the base beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from prefdistill.errors import SampleError
from prefdistill.recipe import Recipe
from prefdistill.records import Message, Policy
from prefdistill.traces import part, stray_tag

Say = Callable[[str], None]
"""Called with each piece of text as soon as it is written."""


class Talker:
    """A policy, loaded once, that answers conversations."""

    def __init__(self, recipe: Recipe, policy: Policy, directory: Path) -> None:
        from prefdistill.student import context_length, load_policy, load_tokenizer

        self.policy = policy
        self.most = recipe.sample.max_new_tokens
        self._student = recipe.student
        self._top_p = recipe.evaluate.top_p
        self._tokenizer: Any = load_tokenizer(recipe.student)
        self._context = context_length(recipe.student)
        # 4-bit base and adapter, not merged: the model that was trained, and the base is the same one without adapter.
        self._model: Any = load_policy(recipe.student, policy, directory)

    def answer(
        self, conversation: Sequence[Message], temperature: float, say: Say, base: bool = False
    ) -> tuple[str, str]:
        """Write the next turn, saying it as it comes; return it with what to know about it, such as that it was cut.

        Reasoning is said as well, and is no part of what is returned: a student never reads its own from earlier turns.

        Raises:
            SampleError: the last message alone does not fit into the student's context.
        """
        from contextlib import nullcontext

        messages, left_out = self._fitting(conversation)
        without = base and self.policy.adapter is not None
        ids = self._render(messages, without)
        most = min(self.most, self._context - len(ids))
        with self._model.disable_adapter() if without else nullcontext():
            text, ended = self._generate(ids, most, temperature, say)
        notes = [f"the oldest {left_out} messages no longer fit and were left out"] if left_out else []
        if not ended:
            notes.append(f"cut after {most} tokens")
        if self._student.trace is None:
            return text, "; ".join(notes)
        parted = part(text, self._student.tags)
        if not parted.closed:
            notes.append("it reasoned and gave no answer; /no-trace has it answer at once")
        if stray := stray_tag(parted.completion, self._student.tags):
            notes.append(f"its answer has a stray {stray} in it, so where it begins is not certain")
        return parted.completion, "; ".join(notes)

    @property
    def trace(self) -> str | None:
        """Whether the student reasons before it answers, on or off; None where it never learned to."""
        return self._student.trace

    def switch_trace(self, trace: Literal["on", "off"]) -> None:
        """Switch the student's reasoning on or off."""
        self._student = self._student.with_trace(trace)

    def _render(self, messages: Sequence[Message], base: bool = False) -> list[int]:
        from prefdistill.student import render_prompt

        policy = self.policy.model_copy(update={"adapter": None}) if base else self.policy
        return render_prompt(self._tokenizer, messages, self._student.of(policy))

    def _fitting(self, conversation: Sequence[Message]) -> tuple[list[Message], int]:
        """Leave the oldest turns out until there is room for an answer; the system prompt stays."""
        system = [message for message in conversation if message.role == "system"]
        turns = [message for message in conversation if message.role != "system"]
        room, left_out = self._context - min(self.most, self._context // 2), 0
        while len(self._render([*system, *turns])) > room:
            if len(turns) <= 2:
                raise SampleError(
                    f"this message has {len(self._render([*system, *turns[-1:]]))} tokens with the system prompt, and "
                    f"the student's context leaves room for {room}; shorten it"
                )
            turns, left_out = turns[2:], left_out + 2
        return [*system, *turns], left_out

    def _generate(self, ids: list[int], most: int, temperature: float, say: Say) -> tuple[str, bool]:
        import torch
        from transformers import GenerationConfig, TextStreamer

        from prefdistill.student import end_token_ids

        ends = end_token_ids(self._tokenizer, self._model, self._student)
        said: list[str] = []

        class Speech(TextStreamer):
            """Hands on text instead of printing it, without the token that ends it."""

            def put(self, value: Any) -> None:
                if self.next_tokens_are_prompt or int(value.reshape(-1)[-1]) not in ends:
                    super().put(value)

            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                said.append(text)
                say(text)

        drawn = {"do_sample": True, "temperature": temperature, "top_p": self._top_p, "top_k": 0} if temperature else {}
        config = GenerationConfig(
            max_new_tokens=most, eos_token_id=sorted(ends), pad_token_id=self._tokenizer.pad_token_id, **drawn
        )
        streamer = Speech(
            self._tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        prompt = torch.tensor([ids], device=self._model.device)
        own = self._model.generation_config
        self._model.generation_config = GenerationConfig()  # the model's own would fill in what is not set here
        try:
            with torch.inference_mode():
                written = self._model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    generation_config=config,
                    streamer=streamer,
                )
        finally:
            self._model.generation_config = own
        return "".join(said), int(written[0, -1]) in ends


def printable(text: str) -> str:
    """Return text without control characters: what a model writes must not steer a terminal."""
    return "".join(each if each.isprintable() or each in "\n\t" else "\N{REPLACEMENT CHARACTER}" for each in text)
