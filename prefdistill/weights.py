"""Weights on this machine: what every plug-in that runs a model itself has in common.

Place in the flow: the teacher and judge `local` and the judge `reward_model` are told here which model to load, and
load it as the student is loaded, with the same guards; nothing but the files' content is part of their identity.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_serializer, model_validator

from prefdistill.errors import PluginError, PrefdistillError
from prefdistill.plugins import Plugin, name_of
from prefdistill.records import Message
from prefdistill.sections import StudentSection

SECTION_KEYS = ("model", "revision", "quantization", "dtype", "device", "chat_template_kwargs")
BATCH_TOKENS = {"cpu": 16_384, "cuda": 65_536}
"""Padded tokens that one forward pass may hold, whatever `batch_size` says."""
PROBE = "The system prompt that is looked for."
CLOSEST_REMEDY = "quit other programs, use a smaller model, `quantization: nf4` or `device: cpu`"

Item = TypeVar("Item")
Result = TypeVar("Result")


def located(options: Mapping[str, Any], info: ValidationInfo) -> StudentSection:
    """Return a model as the student's loading functions know it, found from the recipe's folder.

    Raises:
        ValueError: it is not there, or an option does not hold; it is called `model`, as its own section does.
    """
    try:
        return StudentSection.model_validate(dict(options), context=info.context)
    except ValidationError as problem:
        text = problem.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(re.sub(r"\bstudent\.model\b", "model", text)) from None


class LocalWeights(Plugin):
    """Which model to run on this machine, and how."""

    operational: ClassVar[frozenset[str]] = frozenset({"device", "batch_size"})
    max_concurrency: ClassVar[int | None] = 1  # one model: threads would only take turns

    model: str = Field(min_length=1)
    """Hub id, a folder relative to the YAML file, or `package:folder` for one inside an installed package."""
    revision: str | None = None
    """Commit or tag on the hub."""
    quantization: Literal["none", "nf4"] = "none"
    """4-bit NormalFloat weights save memory, not time; none keeps the model's own."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of computation; auto is float32 on CPU and bfloat16 on CUDA."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """It shares the device with the student; give it `cpu` where both do not fit."""
    batch_size: int = Field(default=16, ge=1, le=1024)
    """Most rows in one forward pass; halved by itself where memory runs out."""
    chat_template_kwargs: dict[str, Any] = {}
    """Handed to the model's chat template, such as `{enable_thinking: false}`."""

    _section: StudentSection | None = PrivateAttr(default=None)
    _rows: int = PrivateAttr(default=0)

    @model_validator(mode="after")
    def _locate(self, info: ValidationInfo) -> Self:
        self._section = located({key: getattr(self, key) for key in SECTION_KEYS}, info)
        return self

    @field_serializer("model")
    def _from_anywhere(self, model: str) -> str:
        return model if self._section is None else self._section.source

    @property
    def section(self) -> StudentSection:
        """The model as the student's loading functions know it."""
        assert self._section is not None
        return self._section

    def identity(self) -> dict[str, Any]:
        """Return what results depend on: the content of the model's files rather than where they are."""
        from prefdistill.student import weights_fingerprint

        identity = super().identity()
        identity.pop("revision", None)
        with self.named():
            return {**identity, "model": weights_fingerprint(self.section)}

    def named(self) -> _Named:
        """Word errors of the student's loading functions as errors of this plug-in."""
        return _Named(self)

    def batches(self, items: Sequence[Item], length: Callable[[Item], int]) -> Iterator[list[Item]]:
        """Cut items into batches of similar length, the longest first; within `batch_size` and the device's tokens.

        The limit in force is read anew for each batch, so a batch that did not fit makes all later ones smaller.
        """
        from prefdistill.student import device_of

        with self.named():
            most = BATCH_TOKENS[device_of(self.section).type]
        left = sorted(items, key=length)
        while left:
            rows = min(self._rows or self.batch_size, max(1, most // max(1, length(left[-1]))))
            yield [left.pop() for _ in range(min(rows, len(left)))]

    def in_memory(self, work: Callable[[list[Item]], list[Result]], batch: list[Item]) -> list[Result]:
        """Return `work(batch)`; where memory runs out, of its halves, and all later batches are as small.

        Raises:
            PluginError: one row alone does not fit.
        """
        from prefdistill.student import free, is_out_of_memory

        try:
            return work(batch)
        except (RuntimeError, MemoryError) as problem:
            if not is_out_of_memory(problem) and not isinstance(problem, MemoryError):
                raise
            if len(batch) == 1:
                raise PluginError(
                    f"{self.place}: one row of {self.model} does not fit into the device's memory ({problem}); "
                    f"expected room beside the student: {CLOSEST_REMEDY}"
                ) from None
        self._rows = len(batch) // 2
        free()
        first, second = batch[: self._rows], batch[self._rows :]
        return self.in_memory(work, first) + self.in_memory(work, second)

    @property
    def place(self) -> str:
        """What an error calls this plug-in."""
        return name_of(self)


class _Named:
    """Turns the loader's errors about the student into the plug-in's own."""

    def __init__(self, plugin: LocalWeights) -> None:
        self.plugin = plugin

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, problem: BaseException | None, trace: Any) -> None:
        if isinstance(problem, PrefdistillError):
            raise PluginError(f"{self.plugin.place}: {reworded(problem)}") from None


def reworded(problem: PrefdistillError) -> str:
    """Return a message of the student's loading functions without the word student."""
    text = re.sub(r"^student: ", "", str(problem))
    text = re.sub(r"\bstudent\.", "", text)
    return re.sub(r"\bthe student\b", "the model", text)


class Turns:
    """A conversation as one model's template takes it, with nothing in it that acts as a control token.

    The text of a special token inside a message (a draft that ends its own turn, say) is broken by a space: the model
    reads it, and it is no longer a token. Some templates refuse a system message, some leave it out without a word:
    there it stands before the first question.
    """

    def __init__(self, tokenizer: Any, chat_template_kwargs: Mapping[str, Any]) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        names = {str(each) for each in added if each.special or (str(each)[0] in "<[" and str(each)[-1] in ">]")}
        # Longest first; added words and spaces steer nothing.
        self.control = tuple(sorted((name for name in names if len(name) > 1), key=lambda name: (-len(name), name)))
        self.has_system = _takes_system(tokenizer, chat_template_kwargs)

    def of(self, messages: Sequence[Message]) -> list[Message]:
        """Return the conversation to render."""
        turns = [each.model_copy(update={"content": self.harmless(each.content)}) for each in messages]
        if self.has_system or len(turns) < 2 or turns[0].role != "system":
            return turns
        first = turns[1].model_copy(update={"content": f"{turns[0].content}\n\n{turns[1].content}"})
        return [first, *turns[2:]]

    def harmless(self, text: str) -> str:
        """Return a text without control tokens."""
        for token in self.control:
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text


def _takes_system(tokenizer: Any, chat_template_kwargs: Mapping[str, Any]) -> bool:
    probe = [{"role": "system", "content": PROBE}, {"role": "user", "content": "?"}]
    options = {"tokenize": False, "add_generation_prompt": True, **chat_template_kwargs}
    try:
        return PROBE in str(tokenizer.apply_chat_template(probe, **options))
    except Exception:  # templates raise whatever they like; one that refuses every conversation is found out later
        return False
