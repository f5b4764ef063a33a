"""Training the 4-bit student's adapter on a local teacher's distribution: logit distillation.

Place in the flow: the teacher's answers, or given texts → **policy**. On those texts the loss has two terms
(`logits_loss`); on the student's own texts it is TRL's DistillationTrainer (`logits_own`). The teacher is another model
on this machine with the student's tokenizer (`logits_teacher`), loaded once for a training and freed after it. What it
has in common with other trainers is in `tuning`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from prefdistill.errors import TrainError
from prefdistill.plugins import name_of
from prefdistill.protocols import RunContext, TrainingData
from prefdistill.records import Policy, TrainResult
from prefdistill.sections import StudentSection
from prefdistill.student import context_length, end_token_ids, free, is_out_of_memory, load_base
from prefdistill.trainers.answers import TokenAnswer
from prefdistill.trainers.building import Algorithm
from prefdistill.trainers.independent import Before, FirstStep, Item, Items
from prefdistill.trainers.logits_check import expected_terms
from prefdistill.trainers.logits_loss import Soft
from prefdistill.trainers.logits_own import FIRST, as_saved, read_texts
from prefdistill.trainers.logits_teacher import (
    LogitsTeacher,
    NamedTeacher,
    Vocabulary,
    about,
    compare_here,
    compare_vocabularies,
    identity_of,
)
from prefdistill.trainers.outcome import Job
from prefdistill.trainers.sft import SFTTrainer
from prefdistill.weights import LocalWeights

Divergence = Literal["forward", "reverse", "js"]
MIX, NEW_TOKENS, JS_BETA = 0.5, 256, 0.5
"""Defaults of options whose default depends on another option."""
WORSE = 0.01
"""Nats a token by which a teacher must expect the given texts less than the student before that is told."""


class LogitsTrainer(SFTTrainer):
    """Trains LoRA adapters on a local teacher's token distribution: on given texts, or on the student's own."""

    algorithm: ClassVar[Algorithm] = "logits"
    own_keys: ClassVar[Mapping[str, str]] = {
        **SFTTrainer.own_keys,
        **dict.fromkeys(("loss_type", "label_smoothing_factor"), "train.mix: the loss is its two terms"),
        **dict.fromkeys(
            ("teacher_model_name_or_path", "teacher_model_revision", "teacher_model_init_kwargs"), "train.teacher"
        ),
        **dict.fromkeys(("use_vllm", "shuffle_dataset"), "the trainer: the model that is trained writes, in order"),
        "max_completion_length": "train.max_new_tokens",
    }

    teacher: NamedTeacher = None
    """A model folder, hub id or `package:folder`, or `{model, revision, quantization, dtype, chat_template_kwargs}`.
    The recipe's teacher by default, where that is `use: local`. It must have the student's tokenizer and chat template."""
    on: Literal["texts", "own"] = "texts"
    """texts: the given answers. own: what the student itself writes to their prompts, anew in each step; the answers are
    not trained on."""
    mix: float | None = Field(default=None, ge=0.0, le=1.0)
    """Weight of the teacher's distribution (soft labels); the text itself (hard labels) has the rest. 0 is `sft`, 1 is the
    teacher alone. 0.5 by default, and 1 with `on: own`, where there is no other text."""
    temperature: float = Field(default=1.0, ge=1.0, le=20.0)
    """Both distributions are softened by it in the soft term, which is multiplied by its square; 1 with `on: own`."""
    divergence: Divergence | None = None
    """forward: KL(teacher ‖ student), which covers all that the teacher might say. reverse: KL(student ‖ teacher), which
    avoids what it would not. js: generalised Jensen-Shannon between them. forward by default, reverse with `on: own`."""
    beta: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Share of the teacher in the mixture of `divergence: js`; 0.5 by default."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest text that the student writes with `on: own`; 256 by default."""

    _given: StudentSection | None = PrivateAttr(default=None)
    """The recipe's teacher, where it is local."""
    _vocabulary: Vocabulary | None = PrivateAttr(default=None)
    _soft: Soft | None = PrivateAttr(default=None)
    """The loaded teacher, during a training."""
    _before: Before | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.beta is not None and self.divergence != "js":
            raise ValueError("beta is the mixture of `divergence: js`; set that, or take beta out")
        if self.on == "texts":
            if self.max_new_tokens is not None:
                raise ValueError(
                    "max_new_tokens goes with `on: own`; given texts are as long as they are (max_length cuts)"
                )
        elif self.mix not in (None, 1.0):
            raise ValueError(
                f"mix is {self.mix:g}, and on: own has no given text whose labels could have the rest; set `on: texts`, or "
                "take mix out"
            )
        elif self.temperature != 1.0:
            raise ValueError(
                f"temperature is {self.temperature:g}, and on: own has no softening temperature: TRL's DistillationTrainer "
                "would sample the student's texts at it too; set `on: texts`, or take temperature out"
            )
        elif self.max_length != "auto":
            raise ValueError("max_length cuts given texts; with `on: own` set max_new_tokens")
        if self.launch is not None and self.launch.starts_processes:
            raise ValueError("launch: a training on a teacher's distribution runs in one process; take launch out")
        return self

    @property
    def trl(self) -> Algorithm:
        """Which of TRL's trainers."""
        return "logits" if self.on == "texts" else "distillation"

    @property
    def soft_share(self) -> float:
        """Weight of the teacher's distribution."""
        return self.mix if self.mix is not None else MIX if self.on == "texts" else 1.0

    @property
    def interpolation(self) -> float:
        """The divergence as a number: 0 forward, 1 reverse, Jensen-Shannon between them."""
        kind = self.divergence or ("forward" if self.on == "texts" else "reverse")
        return {"forward": 0.0, "reverse": 1.0, "js": self.beta or JS_BETA}[kind]

    @property
    def source(self) -> StudentSection | None:
        """The teacher's model: the trainer's own, else the recipe's; None where there is none."""
        return self.teacher.section if isinstance(self.teacher, LogitsTeacher) else self._given

    @property
    def method(self) -> str:
        """What a model card says of a policy that it trained."""
        if not self.soft_share:
            return super().method
        if self.on == "own":
            return "knowledge distillation (of a teacher's token distribution, on texts that the student wrote itself)"
        both = "" if self.soft_share == 1.0 else ", and of these answers themselves"
        return f"knowledge distillation (of a teacher's token distribution on given answers{both})"

    def take_teacher(self, teacher: Any) -> str | None:
        """Take the recipe's teacher where this trainer names none; return what is wrong with it, None if nothing is.

        Called when the recipe is read.
        """
        if self.teacher is None and isinstance(teacher, LocalWeights):
            self._given = teacher.section
        if self.source is None:
            found = "there is none" if teacher is None else f"the recipe's teacher is `{name_of(teacher)}`"
            return (
                f"`{name_of(self)}` compares probabilities with those of a model on this machine, and {found}; name one "
                "in the key `teacher` here (a model folder or hub id with the student's tokenizer), set the recipe's "
                "`teacher: {use: local, model: …}`, or learn from what the teacher writes: `use: outputs`, "
                "`use: traces` or preference rounds"
            )
        return None

    def identity(self) -> dict[str, Any]:
        """Return what results depend on: the content of the teacher's files rather than where they are."""
        identity = super().identity()
        identity.pop("teacher", None)
        return identity if self.source is None else {**identity, "teacher": identity_of(self.source)}

    def open(self, context: RunContext) -> None:
        """Compare the teacher's tokenizer with the student's, before anything is sampled; weights are loaded to train.

        Raises:
            TrainError: there is no teacher, its tokenizer is another one, or TRL knows no such `extra` option.
        """
        super().open(context)
        if context.student is None:
            return
        if self.source is None and (fault := self.take_teacher(context.teacher)):
            raise TrainError(f"logits.teacher: {fault}")
        self.check_student(context.student)

    def check_student(self, student: StudentSection, fetch: bool = True) -> str | None:
        """Compare teacher and student without any weights; return what was not, because it would have to be fetched.

        Raises:
            TrainError: their tokenizers, templates or output layers do not agree, or one is not there.
        """
        teacher = self.source
        assert teacher is not None
        if isinstance(self.teacher, LogitsTeacher) and self.teacher.chat_template_kwargs is None:
            teacher = teacher.model_copy(update={"chat_template_kwargs": student.chat_template_kwargs})
        if not fetch:
            return compare_here(student, teacher)
        self._vocabulary = compare_vocabularies(student, teacher)
        return None

    def train(self, data: TrainingData, start: Policy, reference: Policy, directory: Path, seed: int) -> TrainResult:
        """Train the adapter of a new policy in `directory` from `start`, with the teacher loaded for as long.

        Raises:
            TrainError: the teacher does not fit into memory, and whatever else `AdapterTrainer.train` may raise.
        """
        try:
            if self.soft_share:
                self._soft = self._load_teacher()
            return super().train(data, start, reference, directory, seed)
        finally:
            self._soft = self._before = None
            free()

    def _load_teacher(self) -> Soft:
        run = self._run
        assert run.student is not None and self.source is not None and self._vocabulary is not None
        if isinstance(run.teacher, LocalWeights):
            run.teacher.close()  # it loads its weights again when it is asked again: they need not be there twice
        section = self.source.model_copy(update={"device": run.student.device})
        run.progress("train", 0, 1, f"loading the teacher {section.model}")
        try:
            with about(section):
                model = load_base(section)
        except RuntimeError as problem:
            if not is_out_of_memory(problem):
                raise
            raise TrainError(
                f"logits: the teacher {section.model} does not fit into memory; give it `quantization: nf4`, or take a "
                "smaller one"
            ) from None
        return Soft(model, self._vocabulary.common, self.soft_share, self.temperature, self.interpolation)

    def further(self) -> dict[str, Any]:
        """Return what TRL's trainer is built with beside the usual."""
        return {"soft": self._soft}

    def columns(self, steps: Sequence[Sequence[TokenAnswer]]) -> dict[str, list[list[int]]]:
        """Return sequences and labels; prompts alone where the student writes (TRL leaves the answers out)."""
        if self.on == "texts":
            return super().columns(steps)
        rows = [row for step in steps for row in step]
        return {"prompt": [row.prompt_ids for row in rows], "completion": [row.completion_ids for row in rows]}

    def items(self, columns: Mapping[str, Sequence[Sequence[int]]]) -> list[Items]:
        """Return each row's prompt and answer."""
        if self.on == "texts":
            return super().items(columns)
        rows = zip(columns["prompt"], columns["completion"], strict=True)
        return [((tuple(prompt), tuple(completion)),) for prompt, completion in rows]

    def first_step(self) -> FirstStep:
        """Return how the first step is compared: each term of its loss is computed once more."""
        off = {"first_step": "dropout is on"} if self.lora.dropout else {}
        if self.on == "own" and not off:
            off["first_step"] = "TRL has not measured a first step"  # replaced once its texts are written
        return FirstStep(None, off, self._expected if self._soft and self.on == "texts" else None)

    def own_options(self, job: Job) -> dict[str, Any]:
        """Return the options of TRL's config that would change what is trained on, or written."""
        if self.on == "texts":
            return super().own_options(job)
        return {
            "beta": self.interpolation,
            "temperature": 1.0,
            "max_completion_length": self._room(job),
            "shuffle_dataset": False,
        }

    def _options(self, job: Job, micro: int, checkpoints: Path) -> dict[str, Any]:
        options = super()._options(job, micro, checkpoints)
        if self.on == "own":
            del options["max_length"]  # the longest text is max_completion_length there
        return options

    def prepare(self, trainer: Any, job: Job) -> None:
        """Switch the base's dropout off; where the student writes, have it write as the sampler does."""
        super().prepare(trainer, job)
        if self.on == "own":
            trainer.write_like_the_sampler(end_token_ids(job.tokenizer, trainer.model, self._run.student))

    def start_values(self, trainer: Any, job: Job, start: Before) -> dict[str, float]:
        """Return how many rows of the output layers are not compared, and note who the teacher is."""
        assert self.source is not None and self._vocabulary is not None
        self._before = start
        seen = self._vocabulary
        if self.on == "own":
            start.facts["off/sampler"] = "the student writes anew in each step, and its drafts are not trained on"
        start.facts["teacher"] = (
            f"{self.source.model}, {seen.common:,} tokens compared ({seen.student_only:,} padding rows of the student's "
            f"output layer and {seen.teacher_only:,} of the teacher's left out)"
        )
        return {"student_rows_left_out": float(seen.student_only), "teacher_rows_left_out": float(seen.teacher_only)}

    def cautions(self, start: Before) -> tuple[str, ...]:
        """Return a warning where the teacher expects the given texts less than the student already does."""
        teacher, student = (start.diagnostics.get(name) for name in ("teacher_loss", "independent_hard"))
        if teacher is None or student is None or teacher <= student + WORSE:
            return ()
        return (
            f"the teacher predicts the given texts worse than the student already does ({teacher:.3f} and {student:.3f} "
            "nats a token), so its soft labels pull away from them; lower train.mix, have the texts written by this "
            "teacher, or take a better one",
        )

    def _room(self, job: Job) -> int:
        """Return how long the student's own texts may be."""
        student = self._run.student
        assert student is not None
        context, longest = context_length(student), max(len(row.prompt_ids) for row in job.trained.values())
        if longest >= context:
            raise TrainError(
                f"logits: a prompt of {longest} tokens fills the student's context of {context}; leave such prompts out"
            )
        return min(self.max_new_tokens or NEW_TOKENS, context - longest)

    def _expected(self, model: Any, items: Sequence[Item]) -> Mapping[str, float]:
        """Return the terms of a step's loss under the start policy `model`."""
        assert self._soft is not None
        return expected_terms(model, self._soft, items)

    def _optimise(self, trainer: Any, job: Job, resume: Path | None) -> None:
        """Train; then compute the first step's loss once more where its texts were written in the training."""
        if self.on == "own":
            from transformers import set_seed

            set_seed(job.seed)  # the texts do not depend on what was measured before
        super()._optimise(trainer, job, resume)
        if self.on == "own":
            self._compare_own(trainer, job, Path(trainer.args.output_dir) / FIRST)

    def _compare_own(self, trainer: Any, job: Job, path: Path) -> None:
        """Compute the first step's loss from the texts that were written in it, and look whether its prompts are ours."""
        before = self._before
        if self.lora.dropout or before is None or not path.is_file():
            return
        texts = read_texts(path)
        with as_saved(trainer.model, job.start, self._run.directory) as model:
            before.diagnostics["independent_loss"] = self._expected(model, texts)["independent_loss"]
        ours = {prompt for ((prompt, _),) in before.texts.first}
        before.diagnostics["first_tokens_differing"] = fmean(prompt not in ours for prompt, _ in texts)
        del before.facts["off/first_step"]

    def _report(self, step: int, steps: int, logged: Mapping[str, float]) -> None:
        if self.on == "texts":
            return super()._report(step, steps, logged)
        length = logged.get("completions/mean_length", math.nan)
        self._run.progress("train", step, steps, f"loss {logged['loss']:.4f} on texts of {length:.0f} tokens")
