"""Judge `reward_model`: any sequence-classification model through transformers, on CPU or GPU.

Place in the flow: drafts → **verdict**. The model reads the conversation and one draft and gives one number, on a
scale of its own, so `pair.min_margin` must be set. It reads no rubric; the rubric's checked gates hold all the same.

What the model reads is `template` where one is given; else the conversation with the draft as the assistant's turn by
the tokenizer's chat template; else the pair of texts (conversation, draft) as the tokenizer joins pairs, which is how
reward models without a chat template are used: one message as it is, several as `role: content` with empty lines
between.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator

from prefdistill.errors import PluginError
from prefdistill.judges.checks import checked_scores
from prefdistill.protocols import RunContext
from prefdistill.records import Draft, Failure, FailureKind, Judgement, Prompt, Usage, Verdict
from prefdistill.rubric import Rubric
from prefdistill.weights import LocalWeights, Turns

NO_LIMIT = 1 << 30
OTHER_HEADS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration")


class RewardModelJudge(LocalWeights):
    """Scores each draft with a reward model or any other sequence classifier on this machine, without a rubric."""

    label: int | str | None = None
    """Which output is the score where the model has several, by number or name: its log-odds, or the number itself
    where the model was trained for regression. A model with one output needs none."""
    template: str | None = None
    """What the model reads, with {prompt} and {completion}; by default its chat template, else a pair of texts."""
    max_length: int | Literal["auto"] = Field(default="auto")
    """Most tokens of conversation and draft; a longer text is a failure, never cut. auto is what the model can hold."""

    _tokenizer: Any = PrivateAttr(default=None)
    _model: Any = PrivateAttr(default=None)
    _turns: Turns | None = PrivateAttr(default=None)
    _column: int = PrivateAttr(default=0)
    _log_odds: bool = PrivateAttr(default=False)
    _limit: int = PrivateAttr(default=NO_LIMIT)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @field_validator("template")
    @classmethod
    def _has_both(cls, template: str | None) -> str | None:
        if template is not None and not ("{prompt}" in template and "{completion}" in template):
            raise ValueError("expected a text with {prompt} and {completion} in it")
        return template

    @field_validator("max_length")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("expected at least 1 token, or auto")
        return value

    def open(self, context: RunContext) -> None:
        """Read the model's configuration and tokenizer; the weights are loaded at the first draft.

        Raises:
            PluginError: there is no such model, it is no classifier, or `label` does not name one of its outputs.
        """
        from transformers import AutoConfig, AutoTokenizer

        from prefdistill.student import quiet_libraries

        quiet_libraries()
        section = self.section
        try:
            config = AutoConfig.from_pretrained(section.source, revision=self.revision)
            tokenizer: Any = AutoTokenizer.from_pretrained(section.source, revision=self.revision)
        except (OSError, ValueError) as problem:
            raise self._cannot_load(problem) from None
        heads = tuple(getattr(config, "architectures", None) or ())
        if heads and all(head.endswith(OTHER_HEADS) for head in heads):
            raise self._no_classifier(heads[0])
        self._column = self._column_of(config)
        self._log_odds = config.num_labels > 1 and config.problem_type in (None, "single_label_classification")
        own = getattr(config.get_text_config(), "max_position_embeddings", None) or NO_LIMIT
        known = min(int(own), int(tokenizer.model_max_length or NO_LIMIT))
        self._limit = known if self.max_length == "auto" else int(self.max_length)
        self._turns = Turns(tokenizer, self.chat_template_kwargs)
        self._tokenizer = tokenizer

    def close(self) -> None:
        """Free the model's memory."""
        from prefdistill.student import free

        self._model = None  # without the lock: a thread that still runs it after Ctrl-C lets go of it by itself
        free()

    def judge(self, prompt: Prompt, drafts: Sequence[Draft], rubric: Rubric) -> Verdict:
        """Return each draft's number, identical texts read once; a text that is too long is a failure.

        Raises:
            PluginError: it was not opened, the weights cannot be loaded, or one text does not fit into memory.
        """
        if self._tokenizer is None:
            raise PluginError(f"{self.place}: asked before it was opened; call open(context) first")
        encoded = {draft.completion: self._encode(prompt, draft.completion) for draft in drafts}
        lengths = {text: len(each["input_ids"]) for text, each in encoded.items()}
        fitting = [text for text, length in lengths.items() if length <= self._limit]
        values: dict[str, float] = {}
        with self._lock:
            for batch in self.batches(fitting, lengths.__getitem__):
                found = self.in_memory(lambda some: self._read([encoded[text] for text in some]), batch)
                values.update(zip(batch, found, strict=True))
        judgements: list[Judgement] = []
        failures: list[Failure] = []
        gates = [gate for gate in rubric.gates if not gate.asked]
        counted: set[str] = set()
        for draft in drafts:
            text = draft.completion
            usage = Usage(prompt_tokens=0 if text in counted or text not in values else lengths[text])
            counted.add(text)
            value = values.get(text)
            if value is None:
                found_length = f"{lengths[text]} tokens of conversation and draft exceed the {self._limit}"
                expected = "judge shorter drafts, or set judge.max_length if the model can hold more"
                failures.append(self._failure(draft, "truncated", f"{found_length} of {self.model}: {expected}", usage))
            elif not math.isfinite(value):
                remedy = "try `dtype: float32` or bfloat16"
                failures.append(self._failure(draft, "parse", f"{self.model} gave {value}: {remedy}", usage))
            else:
                scores = checked_scores(prompt, draft, rubric, gates)
                judgements.append(
                    Judgement(
                        draft_id=draft.id, judge=self.place, scores=scores, value=value, scale="custom", usage=usage
                    )
                )
        return Verdict(prompt_id=prompt.id, judgements=tuple(judgements), failures=tuple(failures))

    def _failure(self, draft: Draft, kind: FailureKind, message: str, usage: Usage) -> Failure:
        return Failure(stage="judge", key=draft.id, kind=kind, message=message, usage=usage)

    def _encode(self, prompt: Prompt, completion: str) -> Mapping[str, list[int]]:
        """Return what the model reads, as tokens; texts that act as control tokens are broken."""
        assert self._turns is not None
        answer = self._turns.harmless(completion)
        if self.template is None and self._tokenizer.chat_template:
            conversation = [{"role": each.role, "content": each.content} for each in self._turns.of(prompt.messages)]
            text = self._tokenizer.apply_chat_template(
                [*conversation, {"role": "assistant", "content": answer}], tokenize=False, **self.chat_template_kwargs
            )
            found: Mapping[str, list[int]] = self._tokenizer(text, add_special_tokens=False)
            return found
        asked = self._turns.harmless(prompt.text)
        if len(prompt.messages) > 1:
            asked = "\n\n".join(f"{each.role}: {self._turns.harmless(each.content)}" for each in prompt.messages)
        if self.template is None:
            return dict(self._tokenizer(asked, answer))
        parts = {"{prompt}": asked, "{completion}": answer}
        return dict(self._tokenizer(re.sub(r"\{(prompt|completion)\}", lambda found: parts[found[0]], self.template)))

    def _read(self, batch: Sequence[Mapping[str, list[int]]]) -> list[float]:
        """Return the number of each row of a batch, padded on the right."""
        import torch

        model = self._loaded()
        longest = max(len(each["input_ids"]) for each in batch)
        config = model.config.get_text_config()
        pad_id = self._pad_id(batch) if config.pad_token_id is None else config.pad_token_id
        fill = {"input_ids": pad_id, "attention_mask": 0, "token_type_ids": 0}
        inputs = {
            name: torch.tensor(
                [list(each[name]) + [fill[name]] * (longest - len(each[name])) for each in batch], device=model.device
            )
            for name in fill
            if name in batch[0]
        }
        chosen, config.pad_token_id = config.pad_token_id, pad_id
        try:
            with torch.inference_mode():
                logits = model(**inputs).logits.double()
        finally:
            config.pad_token_id = chosen
        if self._log_odds:
            others = torch.cat([logits[:, : self._column], logits[:, self._column + 1 :]], dim=-1)
            logits = logits[:, self._column] - others.logsumexp(-1)
        else:
            logits = logits[:, self._column]
        return [float(value) for value in logits]

    def _pad_id(self, batch: Sequence[Mapping[str, list[int]]]) -> int:
        """Return a token that stands in no row: decoders take the last token that is not padding as the end."""
        used = {token for each in batch for token in each["input_ids"]}
        return next(token for token in range(len(used) + 1) if token not in used)

    def _loaded(self) -> Any:
        """Return the model, loaded at first use; to be called under the lock."""
        if self._model is None:
            from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

            from prefdistill.student import device_of, dtype_of

            with self.named():
                dtype, device = dtype_of(self.section), device_of(self.section)
            options: dict[str, Any] = {"revision": self.revision, "dtype": dtype, "device_map": {"": device}}
            if self.quantization == "nf4":
                options["quantization_config"] = BitsAndBytesConfig(
                    load_in_4bit=True,
                    bnb_4bit_quant_type="nf4",
                    bnb_4bit_compute_dtype=dtype,
                    llm_int8_skip_modules=["score", "classifier", "classification_head", "lm_head"],
                )
            try:
                model, found = AutoModelForSequenceClassification.from_pretrained(
                    self.section.source, output_loading_info=True, **options
                )
            except (OSError, ValueError) as problem:
                raise self._cannot_load(problem) from None
            if missing := sorted(found["missing_keys"]):
                raise self._no_classifier(f"no weights for {missing[0]}")
            model.eval().requires_grad_(False)
            self._model = model
        return self._model

    def _column_of(self, config: Any) -> int:
        """Return the place of the wanted output."""
        names: dict[int, str] = {int(number): str(name) for number, name in config.id2label.items()}
        count = int(config.num_labels)
        listed = ", ".join(f"{number} ({names.get(number, '?')})" for number in range(count))
        if self.label is None:
            if count == 1:
                return 0
            raise PluginError(
                f"{self.place}: {self.model} has {count} outputs: {listed}; set judge.label to the one that is the score"
            )
        matches = [number for number in range(count) if self.label in (number, names.get(number))]
        if len(matches) != 1:
            raise PluginError(f"{self.place}: judge.label: found {self.label!r}; expected one of {listed}")
        return matches[0]

    def _no_classifier(self, found: str) -> PluginError:
        return PluginError(
            f"{self.place}: {self.model} is no sequence classifier ({found}); its scores would be random numbers: "
            "expected a model such as LlamaForSequenceClassification, or judge with `use: local`"
        )

    def _cannot_load(self, problem: Exception) -> PluginError:
        reason = (str(problem).strip().splitlines() or [""])[0]
        return PluginError(
            f"{self.place}: {self.model} cannot be loaded: {reason}; expected a folder with config.json, weights and "
            "tokenizer, or the id of a model on the hub that this machine can reach or has in its cache"
        )
