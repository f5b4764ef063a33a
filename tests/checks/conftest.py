"""Prompts for the checks' tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from prefdistill.records import Message, Prompt

NOTE = "Ask Anna Keller to send the Q3 budget report by Friday at 3 pm. Two people are on leave. Sign as Tom."


@pytest.fixture
def make_prompt() -> Callable[..., Prompt]:
    def make(text: str = NOTE, *earlier: tuple[str, str], **fields: Any) -> Prompt:
        messages = [Message(role=role, content=content) for role, content in earlier]  # type: ignore[arg-type]
        return Prompt(id="p", messages=(*messages, Message(role="user", content=text)), split="train", fields=fields)

    return make
