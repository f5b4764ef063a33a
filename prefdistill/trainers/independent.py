"""What a training is measured against: policies loaded from their files by plain peft, texts tokenised from records.

Place in the flow: before TRL sees anything, on the base that the trainer is then built around. The adapters of start,
reference and previous policy are attached one after the other and taken off again, so there is never a second model.
Nothing here depends on a checkpoint: a training that was killed and goes on measures the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from prefdistill.records import Answer, Message, Policy, PreferencePair
from prefdistill.scoring import log_probs, mean_gap
from prefdistill.student import adapter_path
from prefdistill.template import render_completion, render_prompt, turn_end_id

if TYPE_CHECKING:
    from prefdistill.sections import StudentSection
    from prefdistill.trainers.outcome import Job

OWN_PAIRS = 24
"""Most of the round's own pairs whose log-probabilities are followed."""
PREVIOUS_DRAFTS = 16
"""Drafts that the previous policy is asked about."""

Item = tuple[tuple[int, ...], tuple[int, ...]]
"""Prompt ids and completion ids."""
Items = tuple[Item, ...]
"""The texts of a row that is trained on: chosen and rejected, or an answer alone."""
Scores = Mapping[Item, tuple[float, int]]
"""Sum of log-probabilities in nats and number of tokens, by text."""


@dataclass(frozen=True)
class Texts:
    """What is scored before the first step and after the last one."""

    probes: tuple[Item, ...]
    first: tuple[Items, ...]
    """The first step's rows."""
    own: tuple[Items, ...]
    """Rows of this round that are trained on, at most OWN_PAIRS."""
    own_ids: tuple[str, ...]
    faithful: tuple[Item, ...] = ()
    """Probes whose text has as many tokens as were sampled; another text than the sampled one has another probability."""

    @property
    def tracked(self) -> list[Item]:
        """What is scored before and after, always the same batches so that 16 bit rounds alike."""
        return unique([*self.probes, *(item for row in self.own for item in row)])


@dataclass(frozen=True)
class FirstStep:
    """How the trainer's first step is compared with an independent pass over the same batch."""

    beta: float | None
    """DPO's; None where the loss is the cross-entropy of the completions' tokens."""
    off: Mapping[str, str]
    """Why `first_step`, or its loss alone (`first_loss`), cannot be compared, by name."""
    loss: Callable[[Any, Sequence[Item]], Mapping[str, float]] | None = None
    """Computes a loss with further terms from the start policy and the step's texts: `independent_loss`, and the terms."""


@dataclass(frozen=True)
class Before:
    """What was measured before the first step."""

    texts: Texts
    start: Scores
    """The tracked texts under the start policy."""
    diagnostics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


def to_texts(job: Job, student: StudentSection) -> Texts:
    """Tokenise probes and rows from their records, cut as the trained ones are, and never from the trainer's rows."""
    records = {each.id: each for each in job.records}
    end_id = turn_end_id(job.tokenizer, student)

    @cache
    def prompt_ids(messages: tuple[Message, ...], block: str | None) -> tuple[int, ...]:
        return tuple(render_prompt(job.tokenizer, messages, student, block))

    def item(messages: tuple[Message, ...], block: str | None, text: str, limit: int | None = None) -> Item:
        prompt, completion = prompt_ids(messages, block), render_completion(job.tokenizer, text, end_id)
        return prompt, tuple(completion if limit is None else completion[: max(0, limit - len(prompt))])

    def items(record_id: str) -> Items:
        record = records[record_id]
        block = record.begun if isinstance(record, Answer) else None
        return tuple(item(record.prompt, block, text, job.rows.max_length) for text in texts_of(record))

    probed = {(each.messages, each.completion) for each in job.data.probes}

    def unprobed(record: PreferencePair | Answer) -> int:
        return sum((record.prompt, text) not in probed for text in texts_of(record))

    newest = max(each.round for each in job.records)
    ids = dict.fromkeys(row.id for step in job.steps for row in step)
    own = [record_id for record_id in ids if records[record_id].round == newest]
    own.sort(key=lambda record_id: unprobed(records[record_id]))  # what is a probe already costs nothing
    probes = tuple(item(each.messages, student.of(each.policy).block, each.completion) for each in job.data.probes)
    return Texts(
        probes=probes,
        faithful=tuple(
            item for item, each in zip(probes, job.data.probes, strict=True) if each.tokens in (None, len(item[1]))
        ),
        first=tuple(items(row.id) for row in job.steps[0]),
        own=tuple(items(record_id) for record_id in own[:OWN_PAIRS]),
        own_ids=tuple(own[:OWN_PAIRS]),
    )


def texts_of(record: PreferencePair | Answer) -> tuple[str, ...]:
    """Return the texts of a record that is trained on, reasoning first where there is any."""
    return (record.written,) if isinstance(record, Answer) else record.written


def measure_before(
    base: Any, job: Job, student: StudentSection, directory: Path, first_step: FirstStep, base_known: bool
) -> Before:
    """Score start, reference and previous policy, each loaded from its file; `base` is left as it was.

    Args:
        base: the base model without adapters, as loaded for training.
        job: the training.
        student: the recipe's student.
        directory: the run folder.
        first_step: how the first step is compared.
        base_known: whether the trainer will score every pair under the base anyway (see `fresh_accuracy`).
    """
    texts = to_texts(job, student)
    first = [item for row in texts.first for item in row]
    diagnostics: dict[str, float] = {}
    against = to_name(job.reference) if first_step.beta is not None else "none, the loss measures against no policy"
    facts = {"start": to_name(job.start), "reference": against}
    facts |= {f"off/{name}": reason for name, reason in first_step.off.items()}
    with attached(base, job.start, directory) as model:
        start = score(model, texts.tracked)
        started = {**start, **score(model, [item for item in first if item not in start])}
        terms = first_step.loss(model, first) if first_step.loss and "first_step" not in first_step.off else {}
    if "first_step" not in first_step.off:
        reference: Scores = started
        if first_step.beta is not None and job.start != job.reference:
            with attached(base, job.reference, directory) as model:
                reference = score(model, first)
        diagnostics |= {**_first_step(texts, started, reference, first_step), **terms}
    if job.data.answers:
        facts["off/small_difference"] = facts["off/fresh_accuracy"] = "an answer has no second text beside it"
    elif job.start.adapter is None:
        facts["off/fresh_accuracy"] = "the round starts from the base"
    before = Before(texts, start, diagnostics, facts)
    if job.start.adapter is not None and not base_known and not job.data.answers:
        with attached(base, Policy(model=job.start.model), directory) as model:
            scores = score(model, [item for row in texts.own for item in row])
        sums = [(scores[chosen][0], scores[rejected][0]) for chosen, rejected in texts.own]
        diagnostics["fresh_accuracy"] = fresh_accuracy(before, sums)
    _measure_sampler(base, job, directory, before)
    return before


def fresh_accuracy(before: Before, base: Sequence[tuple[float, float]]) -> float:
    """Return how often the start policy, against the base, already prefers a new pair's chosen text.

    Args:
        before: its own pairs are asked about.
        base: log-probabilities of chosen and rejected under the base, in the order of the own pairs.
    """
    start = before.start
    return fmean(
        start[chosen][0] - of_chosen > start[rejected][0] - of_rejected
        for (chosen, rejected), (of_chosen, of_rejected) in zip(before.texts.own, base, strict=True)
    )


def reference_sums(job: Job, before: Before, dataset: Any) -> list[tuple[float, float]]:
    """Return the own pairs' log-probabilities under the reference from a data set that `fix_reference` filled."""
    places = {row.pair.id: place for place, row in enumerate(row for step in job.steps for row in step)}
    chosen, rejected = dataset["ref_chosen_logps"], dataset["ref_rejected_logps"]
    return [(chosen[places[pair_id]], rejected[places[pair_id]]) for pair_id in before.texts.own_ids]


def _first_step(texts: Texts, start: Scores, reference: Scores, how: FirstStep) -> dict[str, float]:
    """Return what the first step's rewards, margin and sigmoid loss should be; of answers, their cross-entropy."""
    beta = how.beta
    if beta is None:
        scored = [start[item] for row in texts.first for item in row]
        return {"independent_loss": -sum(total for total, _ in scored) / sum(tokens for _, tokens in scored)}
    chosen = [beta * (start[item][0] - reference[item][0]) for item, _ in texts.first]
    rejected = [beta * (start[item][0] - reference[item][0]) for _, item in texts.first]
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)]
    found = {
        "independent_margin": fmean(margins),
        "independent_chosen": fmean(chosen),
        "independent_rejected": fmean(rejected),
    }
    if "first_loss" not in how.off:
        found["independent_loss"] = fmean(max(0.0, -each) + math.log1p(math.exp(-abs(each))) for each in margins)
    return found


def _measure_sampler(base: Any, job: Job, directory: Path, before: Before) -> None:
    """Compare the sampler's log-probabilities of the round's drafts with those of start and previous policy."""
    texts, start, diagnostics, facts = before.texts, before.start, before.diagnostics, before.facts
    reason = off_policy(job)
    # Text that tokenises to other tokens than were sampled has another probability: it tells nothing here.
    known = [
        (item, each)
        for item, each in zip(texts.probes, job.data.probes, strict=True)
        if each.log_prob is not None and each.tokens == len(item[1])
    ]
    if reason is None and not known:
        reason = "the sampler gives no log-probabilities" if job.data.probes else "there are no drafts to compare"
    if reason is not None:
        facts["off/sampler"] = reason
        return
    sampled = [(each.log_prob or 0.0, len(item[1])) for item, each in known]
    items = [item for item, _ in known]
    diagnostics["sampler_gap"] = mean_gap([start[item] for item in items], sampled)
    diagnostics["sampler_drafts"] = float(len(items))
    previous = job.data.previous
    if previous is None or previous == job.start:
        facts["off/previous_gap"] = "no policy before the start policy"
        return
    items = items[:PREVIOUS_DRAFTS]
    with attached(base, previous, directory) as model:
        old = score(model, items)
    diagnostics["previous_gap"] = mean_gap([start[item] for item in items], [old[item] for item in items])


def off_policy(job: Job) -> str | None:
    """Return why the round's drafts are not the start policy's own, None where they are."""
    if job.data.answers:
        return "off-policy: the teacher's answers are trained on, and no draft of the student's"
    writers = {probe.policy for probe in job.data.probes}
    if job.data.probes and writers != {job.start}:
        names = ", ".join(sorted(to_name(each) if each else "an unknown policy" for each in writers))
        return f"off-policy: the drafts were written by {names}, the round starts from {to_name(job.start)}"
    prompts = {pair.prompt for pair in job.data.pairs}
    if job.data.probes and not any(probe.messages in prompts for probe in job.data.probes):
        return f"off-policy: the pairs are not of drafts that {to_name(job.start)} just wrote"
    return None


def to_name(policy: Policy) -> str:
    """Return a policy's name for a reader."""
    return "the base" if policy.adapter is None else f"round {policy.round} ({policy.adapter})"


@contextmanager
def attached(base: Any, policy: Policy, directory: Path) -> Iterator[Any]:
    """Give `base` a policy's adapter, read from its file by peft, for as long as the block lasts; in eval mode."""
    path, training = adapter_path(policy, directory), base.training
    base.eval()
    if path is None:
        yield base
    else:
        from peft import PeftModel

        model = PeftModel.from_pretrained(base, str(path), is_trainable=False)
        model.eval()
        try:
            yield model
        finally:
            model.unload()
    base.train(training)


def score(model: Any, items: Iterable[Item]) -> Scores:
    """Score texts without gradients, in eval mode, each once."""
    wanted = unique(items)
    if not wanted:
        return {}
    training = model.training
    model.eval()
    try:
        return dict(zip(wanted, log_probs(model, wanted), strict=True))
    finally:
        model.train(training)


def unique(items: Iterable[Item]) -> list[Item]:
    """Return each item once, in order."""
    return list(dict.fromkeys(items))


def tokens_differing(texts: Texts, rows: Sequence[Items]) -> float:
    """Return the share of the first step's completions which TRL's rows do not hold as the tokens of their record."""
    pairs = zip(texts.first, rows, strict=True)
    return fmean(item != held for wanted, row in pairs for item, held in zip(wanted, row, strict=True))
