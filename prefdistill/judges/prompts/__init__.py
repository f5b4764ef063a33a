"""What judges ask: one readable template a file, with a `system` and a `user` block, versioned by its hash.

Everything untrusted (the conversation, the drafts) stands between markers made from the hash of the fenced text:
a text cannot contain its own hash, so it cannot forge its closing marker, and on a re-run the marker is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

from prefdistill.records import Message, Prompt, digest


def prompt_hash(name: str) -> str:
    """Return the hash of a prompt file: part of a judge's identity."""
    return digest(_source(name))


def render_prompt(name: str, system: Mapping[str, Any], **user: Any) -> tuple[Message, ...]:
    """Render a prompt file as its system message, from what is the same for many drafts, and its user message."""
    first = _render_system(name, tuple(sorted(system.items())))
    return first, Message(role="user", content=_render(name, "user", user))


@lru_cache(maxsize=256)
def _render_system(name: str, fields: tuple[tuple[str, Any], ...]) -> Message:
    return Message(role="system", content=_render(name, "system", dict(fields)))


def _render(name: str, block: str, fields: dict[str, Any]) -> str:
    template = load_prompt(name)
    return "".join(template.blocks[block](template.new_context(fields, shared=True))).strip()


def fence(kind: str, text: str) -> str:
    """Put `text` between markers that it cannot contain."""
    mark = f"{kind}-{digest(text, 12)}"
    return f"<{mark}>\n{text}\n</{mark}>"


def fence_conversation(prompt: Prompt) -> str:
    """Return the conversation as one fenced text."""
    if len(prompt.messages) == 1:
        return fence("request", prompt.text)
    return fence("conversation", "\n\n".join(f"[{each.role}]\n{each.content}" for each in prompt.messages))


@lru_cache
def _source(name: str) -> str:
    return resources.files(__package__).joinpath(f"{name}.jinja").read_text(encoding="utf-8")


@lru_cache
def load_prompt(name: str) -> Any:
    """Compile a prompt file; its blocks print text as it is, and a misspelt variable is an error."""
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=False)
    return environment.from_string(_source(name))
