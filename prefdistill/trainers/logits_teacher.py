"""The teacher whose distribution a student learns: which weights it is, and whether both mean the same by every token.

Place in the flow: the recipe names it, `LogitsTrainer.open` compares it with the student before anything is written,
and it is loaded for as long as one training lasts. Probabilities can only be compared token by token, so the two must
cut texts into the same tokens and render a conversation alike. Only the rows that pad an output layer may differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_serializer,
    model_validator,
)

from prefdistill.errors import PrefdistillError, TrainError
from prefdistill.records import Message
from prefdistill.sections import StudentSection
from prefdistill.template import render_prompt, turn_end_id
from prefdistill.weights import located, reworded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ALTERNATIVES = (
    "take a teacher of the student's own family, or learn from what this one writes: `use: outputs` (its answers), "
    "`use: traces` (its reasoning and answers) or preference rounds (`use: dpo`)"
)
TEXTS = (
    "Could we meet on Friday at 15:30 instead? Thanks, Anna",
    "It's 3.14159 or 1,000,000 — naïve café, Straße, 東京, Привет 🙂",
    "  two spaces\n\n\tand a tab; camelCase HTTPServer don't e-mail@example.org\r\n",
)
"""Texts that both tokenizers must cut alike."""
ASKED = Message(role="user", content="When do we meet?")
CONVERSATIONS = (
    (ASKED,),
    (Message(role="system", content="Be brief."), ASKED),
    (ASKED, Message(role="assistant", content="Monday at noon."), Message(role="user", content="And where?")),
)
"""Conversations that both chat templates must render alike, where they render them at all."""


class LogitsTeacher(BaseModel):
    """A model on this machine with the student's tokenizer; it runs on the student's device."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str = Field(min_length=1)
    """Hub id, a folder relative to the recipe, or `package:folder` for one inside an installed package."""
    revision: str | None = None
    """Commit or tag on the hub."""
    quantization: Literal["none", "nf4"] = "none"
    """4-bit NormalFloat weights where it does not fit beside the student; they blur its distribution a little."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of computation; auto is float32 on CPU and bfloat16 on CUDA."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Handed to its chat template, which must then render as the student's does; the student's own by default."""

    _section: StudentSection | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _locate(self, info: ValidationInfo) -> Self:
        options = {name: getattr(self, name) for name in type(self).model_fields}
        options["chat_template_kwargs"] = self.chat_template_kwargs or {}
        self._section = located(options, info)
        return self

    @field_serializer("model")
    def _from_anywhere(self, model: str) -> str:
        return model if self._section is None else self._section.source

    @property
    def section(self) -> StudentSection:
        """The model as the student's loading functions know it."""
        assert self._section is not None
        return self._section


def _by_name(value: Any) -> Any:
    if value is not None and not isinstance(value, (str, Mapping, LogitsTeacher)):
        raise ValueError(f"found {value!r}; expected a model folder or hub id, or `{{model: …}}` with its options")
    return {"model": value} if isinstance(value, str) else value


NamedTeacher = Annotated[
    LogitsTeacher | None, BeforeValidator(_by_name, json_schema_input_type=str | LogitsTeacher | None)
]
"""A teacher given by its options, or by its name alone; None where another place names it."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that both output layers have."""

    common: int
    """Both layers' first rows; every token of the tokenizer is among them."""
    student_only: int
    """Padding rows that only the student has; they take no part in the comparison."""
    teacher_only: int
    """Padding rows that only the teacher has; likewise."""


def identity_of(teacher: StudentSection) -> dict[str, Any]:
    """Return what the teacher's distribution depends on: its files' content, and how they are run."""
    from prefdistill.student import weights_fingerprint

    with about(teacher):
        return {"model": weights_fingerprint(teacher), "quantization": teacher.quantization, "dtype": teacher.dtype}


@contextmanager
def about(teacher: StudentSection) -> Iterator[None]:
    """Word errors of the student's loading functions as errors about the teacher."""
    try:
        yield
    except PrefdistillError as problem:
        raise TrainError(f"logits: teacher {teacher.model}: {reworded(problem)}") from None


def compare_vocabularies(student: StudentSection, teacher: StudentSection) -> Vocabulary:
    """Compare the tokenizers, the chat templates and the output layers' sizes of student and teacher.

    Loads tokenizers and configurations only.

    Raises:
        TrainError: a model is not there, or they differ in more than the output layers' padding.
    """
    from prefdistill.student import load_tokenizer

    ours = load_tokenizer(student)
    with about(teacher):
        theirs = load_tokenizer(teacher)
        ends = turn_end_id(theirs, teacher)
    difference = (
        _vocabulary_difference(ours, theirs)
        or _special_difference(ours, theirs, (turn_end_id(ours, student), ends))
        or _cutting_difference(ours, theirs)
    )
    who = f"logits: the teacher {teacher.model} and the student {student.model}"
    if difference:
        raise TrainError(
            f"{who} have different tokenizers ({difference}), so their probabilities cannot be compared token by "
            f"token; expected one and the same tokenizer: {ALTERNATIVES}"
        )
    difference = _template_difference((ours, student), (theirs, teacher))
    if difference:
        raise TrainError(
            f"{who} render a conversation differently ({difference}), so the teacher would be asked about texts that it "
            "was not made for; expected the same chat template: set chat_template_kwargs of both, copy the student's "
            f"chat_template.jinja into a copy of the teacher's folder, or {ALTERNATIVES}"
        )
    sizes = [head_rows(student), head_rows(teacher)]
    common, needed = min(sizes), max(ours.get_vocab().values()) + 1
    if common < needed:
        raise TrainError(
            f"{who}: their output layers have {sizes[1]:,} and {sizes[0]:,} rows for a tokenizer of {needed:,} tokens; "
            f"expected a row for each token: {ALTERNATIVES}"
        )
    return Vocabulary(common, sizes[0] - common, sizes[1] - common)


def compare_here(student: StudentSection, teacher: StudentSection) -> str | None:
    """Compare as `compare_vocabularies` does, where that fetches nothing; return what was left out, None if nothing was.

    Raises:
        TrainError: as there.
    """
    from prefdistill.student import on_this_machine

    ours, theirs = on_this_machine(student), on_this_machine(teacher)
    if ours and theirs:
        compare_vocabularies(ours, theirs)
        return None
    absent = [f"the student {student.model}"] if ours is None else []
    absent += [f"the teacher {teacher.model}"] if theirs is None else []
    return (
        f"not checked: whether the teacher has the student's tokenizer, because {' and '.join(absent)} would have to be "
        "fetched (no such folder, and not in the hub's cache on this machine); a run fetches and compares before it samples"
    )


def head_rows(student: StudentSection) -> int:
    """Return how many rows a model's output layer has, from its configuration."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(student.source, revision=student.revision)
    return int(config.get_text_config().vocab_size)


def _vocabulary_difference(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> str:
    """Return how many tokens differ, and the first of them; nothing where none does."""
    by_id: list[Mapping[int, str]] = [
        {number: text for text, number in each.get_vocab().items()} for each in (ours, theirs)
    ]
    differing = sorted(number for number in {*by_id[0], *by_id[1]} if by_id[0].get(number) != by_id[1].get(number))
    if not differing:
        return ""
    first = differing[0]
    a, b = (repr(each[first]) if first in each else "no token" for each in by_id)
    counted = f"{len(differing):,} of {len(by_id[0]):,} tokens differ"
    return f"{counted}: number {first} is {a} to the student and {b} to the teacher"


def _special_difference(
    ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, turn_ends: tuple[int, int]
) -> str:
    """Return which special token differs. The padding token may: padding is masked."""
    for name in ("bos", "eos"):
        a, b = (getattr(each, f"{name}_token") for each in (ours, theirs))
        if a != b:
            return f"{name}_token is {a!r} to the student and {b!r} to the teacher"
    if turn_ends[0] != turn_ends[1]:
        a, b = (ours.convert_ids_to_tokens(each) for each in turn_ends)
        return f"the student ends its turn with {a!r} and the teacher with {b!r}"
    return ""


def _cutting_difference(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> str:
    """Return a text that the tokenizers cut differently, though they have the same tokens."""
    for text in TEXTS:
        a, b = (each.encode(text, add_special_tokens=False) for each in (ours, theirs))
        if a != b:
            at = next((place for place, two in enumerate(zip(a, b, strict=False)) if two[0] != two[1]), 0)
            return (
                f"they cut {text[:24]!r}… into {len(a)} and {len(b)} tokens, from "
                f"{ours.convert_ids_to_tokens(a[at])!r} and {theirs.convert_ids_to_tokens(b[at])!r} on"
            )
    return ""


def _template_difference(
    ours: tuple[PreTrainedTokenizerBase, StudentSection], theirs: tuple[PreTrainedTokenizerBase, StudentSection]
) -> str:
    """Return where the chat templates differ; nothing where they render alike."""
    for messages in CONVERSATIONS:
        a, b = (_rendered(*each, messages) for each in (ours, theirs))
        if a != b:
            roles = ", ".join(message.role for message in messages)
            if a is None or b is None:
                return f"only the {'teacher' if a is None else 'student'}'s template takes {roles}"
            at = next(
                (place for place, two in enumerate(zip(a, b, strict=False)) if two[0] != two[1]), min(len(a), len(b))
            )
            return f"for {roles} the student's template has {a[at : at + 40]!r} where the teacher's has {b[at : at + 40]!r}"
    return ""


def _rendered(tokenizer: PreTrainedTokenizerBase, section: StudentSection, messages: tuple[Message, ...]) -> str | None:
    try:
        return str(tokenizer.decode(render_prompt(tokenizer, messages, section, block="")))
    except TrainError:  # some templates take no system message
        return None
