"""The chat template: a conversation as the tokens that the student is sampled with, and trained on.

Place in the flow: sampler, trainer and evaluation all render here, so that one prompt has one list of tokens and what
is trained on after it is what the student writes after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefdistill.errors import TrainError
from prefdistill.records import Message
from prefdistill.traces import part

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from prefdistill.sections import StudentSection

PROBE_ANSWER = "Monday at noon."
"""The answer with which a chat template is tried out."""


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], student: StudentSection, answer: str | None = None
) -> str:
    """Render the conversation: up to where the student writes, or with `answer` as the finished last turn."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=answer is None, **student.chat_template_kwargs
        )
    except Exception as problem:  # templates raise whatever they like; jinja's own errors share no public base here
        roles = ", ".join(dict.fromkeys(message.role for message in messages))
        raise TrainError(
            f"student: the chat template of {student.model} cannot render a conversation of {roles}: {problem}; "
            "check student.system, the roles in the prompts file and student.chat_template_kwargs"
        ) from None
    return str(text)


def _writes_trace(text: str, student: StudentSection) -> bool:
    """Whether a template itself writes the tags of a student that reasons."""
    return student.trace is not None and any(tag in text for tag in student.tags)


def turn_end_id(tokenizer: PreTrainedTokenizerBase, student: StudentSection) -> int:
    """Return the token with which the template ends an assistant's turn; the student is trained to write it.

    The template is tried out first: what the student is trained on after a prompt must be what it writes after that
    prompt, its answer and one end token. A template that adds something between (an empty thinking block) or opens
    something in the prompt that a finished turn does not have would train one text and sample another. For a student that
    reasons (`student.trace`) a finished turn may show an empty trace: what it writes there is its own.

    Raises:
        TrainError: the template does that, or its turns end in no end token.
    """
    messages = (Message(role="user", content="When do we meet?"),)
    prompt = _render(tokenizer, messages, student)
    whole = _render(tokenizer, messages, student, PROBE_ANSWER)
    where = f"student: the chat template of {student.model}"
    remedy = (
        "set student.chat_template_kwargs (often {enable_thinking: false}), or use an instruct model without thinking"
    )
    if _writes_trace(prompt.rpartition(messages[0].content)[2], student):
        raise TrainError(
            f"{where} begins the student's turn with {prompt[-40:]!r}, and student.trace is {student.trace}: reasoning is "
            "switched there, not in the template; take enable_thinking out of student.chat_template_kwargs, or use a "
            "model whose template leaves the turn empty"
        )
    if not whole.startswith(prompt):
        shared = next(at for at in range(len(prompt)) if prompt[at : at + 1] != whole[at : at + 1])
        raise TrainError(
            f"{where} renders the prompt differently once the answer is there: it ends the prompt with "
            f"{prompt[shared:]!r}, a finished turn has {whole[shared : shared + 60]!r}; expected the prompt to be "
            f"the beginning of both; {remedy}"
        )
    inserted, found, after = whole[len(prompt) :].partition(PROBE_ANSWER)
    # A space between is how some tokenizers mark the beginning of a word; they put it there by themselves.
    if found and _writes_trace(inserted, student) and not part(inserted, student.tags).completion.strip():
        inserted = ""
    if not found or inserted.strip():
        raise TrainError(
            f"{where} puts {inserted[:60]!r} between the prompt and the answer, which the student would be trained to "
            f"write but is not sampled with; {remedy}"
        )
    following = tokenizer.encode(after, add_special_tokens=False)
    ends = end_token_ids(tokenizer, None)
    first = following[0] if following else None
    # A template may end turns in a special token other than eos (<|im_end|>, <|eot_id|>): that is an end token too.
    if first is None or (first not in ends and first not in tokenizer.all_special_ids):
        raise TrainError(
            f"{where} ends the assistant's turn with {after[:40]!r}, so the student would never learn to stop; "
            f"expected the end token {tokenizer.eos_token!r}; add it to the template after the assistant's content"
        )
    return int(first)


def end_token_ids(tokenizer: PreTrainedTokenizerBase, model: Any, student: StudentSection | None = None) -> set[int]:
    """Return every token that ends a completion: eos, the generation config's list and the template's end of turn."""
    found: set[int] = set()
    for source in (tokenizer, getattr(model, "generation_config", None), getattr(model, "config", None)):
        value = getattr(source, "eos_token_id", None)
        found.update([value] if isinstance(value, int) else value or [])
    if student is not None:
        found.add(turn_end_id(tokenizer, student))
    return found


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], student: StudentSection, block: str | None = None
) -> list[int]:
    """Return the prompt's tokens, up to where the student starts to write.

    `block` is what its turn is begun with; by default an empty trace where `student.trace` is off, else nothing.
    """
    text = _render(tokenizer, messages, student) + (student.block if block is None else block)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def render_completion(tokenizer: PreTrainedTokenizerBase, completion: str, end_id: int) -> list[int]:
    """Return the tokens of a completion with the end token `end_id` (see `turn_end_id`) after them.

    Together with `render_prompt`, the prompt's tokens are a prefix of what is trained on, and the rest is what a
    sampler that writes this completion produces.
    """
    ids: list[int] = tokenizer.encode(completion, add_special_tokens=False)
    return [*ids, end_id]


def prompt_completion_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], completion: str, student: StudentSection
) -> tuple[list[int], list[int]]:
    """Return (prompt tokens, completion tokens with the end token)."""
    end_id = turn_end_id(tokenizer, student)
    return render_prompt(tokenizer, messages, student), render_completion(tokenizer, completion, end_id)
