"""`prefdistill retrain RUN`: the run's trainings once more from its own pairs (or answers), and how far the policies differ.

Pairs are read, not made: no draft is written and no judge is asked. Each round starts from the retrained policy of the
round before, so differences add up as they would if the run were repeated elsewhere.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prefdistill.assembly import Workshop
from prefdistill.diagnostics.judging import flip_rate
from prefdistill.errors import RunError
from prefdistill.plugins import Plugin
from prefdistill.protocols import LearnsFrom, Progress, RunContext, TrainingData, learns_from
from prefdistill.recipe import Recipe
from prefdistill.records import Answer, Draft, Forgotten, Policy, PreferencePair, Prompt, TrainResult, Verdict, seed_of
from prefdistill.remedies import trainer_for
from prefdistill.round import TrainingRow, mixed_past
from prefdistill.run import RunDirectory, read_json, write_json
from prefdistill.stages.load import Loaded
from prefdistill.stored import WEIGHTS, choices_of, stored_policy, stored_run

CLOSE = 0.01
"""Mean log-probability gap, nats a token, up to which two policies count as the same by default."""


@dataclass(frozen=True)
class Difference:
    """How far a retrained policy is from the stored one."""

    round: int
    folder: str
    """Of the retrained policy, in the run folder."""
    equal_bytes: bool
    """Whether the adapter files are the same byte for byte."""
    relative_norm: float
    """Norm of the difference of all adapter weights over the norm of the stored ones."""
    of_change: float | None
    """The same over what the training changed; None where the stored start is the base."""
    gap: float
    """Mean absolute difference of log-probabilities on the round's validation drafts, nats a token."""
    kl: float
    """KL of the retrained to the stored policy on them, nats a completion."""
    kl_standard_error: float
    drafts: int
    """Validation drafts compared on."""


@dataclass(frozen=True)
class Retrained:
    """What came out of training again."""

    differences: tuple[Difference, ...]
    reasons: tuple[str, ...]
    """What is not as it was when the run was made, and can be behind a difference."""
    missing: int
    """Pairs, or answers, that were trained on then and are gone."""

    @property
    def last(self) -> Difference:
        """The round that was asked for."""
        return self.differences[-1]


def retrain(folder: Path, number: int | None, progress: Progress) -> Retrained:
    """Train again up to the kept round, or round `number` alone from its stored start; write it to `retrained/`.

    Raises:
        RunError: the base is kept, a round has no pairs or no policy, or another process works in the run.
        TrainError: the trainer cannot train on these pairs any more.
    """
    run, recipe = stored_run(folder)
    with run.locked():
        kept = stored_policy(run, recipe, number)
        if kept.round == 0 or kept.adapter is None:
            raise RunError(
                f"{run.path}: {'the base is kept' if number is None else 'round 0 is the base'}, and nothing trained it; "
                "name a round with --round"
            )
        target = run.path / "retrained" / datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
        again = _Again(run, recipe, target, progress)
        rounds = [kept.round] if number is not None else range(1, kept.round + 1)
        try:
            for each in rounds:
                again.train(each, chained=number is None)
        finally:
            again.close()
        found = Retrained(tuple(again.differences()), tuple(reasons(run)), again.missing)
        write_json(target / "retrained.json", {**asdict(found), "schema": 1})
        return found


class _Again:
    """Trains rounds of a run once more, each in a folder of its own."""

    def __init__(self, run: RunDirectory, recipe: Recipe, target: Path, progress: Progress) -> None:
        self.run, self.recipe, self.target = run, recipe, target
        context = RunContext(
            directory=run.path.resolve(),
            seed=recipe.seed,
            student=recipe.student,
            choices=choices_of(run),
            progress=progress,
        )
        forgotten = run.rows(run.path, "forgotten.jsonl", Forgotten).read()
        prompts = tuple(run.rows(run.path, "prompts.jsonl", Prompt).read().values())
        self.shop = Workshop(recipe, run, context, Loaded(prompts, 0, ()), "", forgotten=forgotten)
        self.made: dict[int, TrainResult] = {}
        self.missing = 0
        self._opened: list[Plugin] = []

    def train(self, number: int, chained: bool) -> None:
        """Train a round from the retrained policy of the round before, or from its stored start."""
        stored = self.stored(number)
        start, reference = stored.start, stored.reference
        if chained:
            start, reference = (self._counterpart(policy) for policy in (start, reference))
        trainer: Any = trainer_for(self.shop, number)
        if isinstance(trainer, Plugin):
            trainer.open(self.shop.context)
            self._opened.append(trainer)
        rows = self._rows(number, learns_from(trainer))
        verdicts = self.run.rows(self.run.round(number), "2-verdicts.jsonl", Verdict).read().values()
        now = flip_rate(verdicts)
        steps = self.recipe.steps_of(number)
        data = TrainingData(
            tuple(row for row in rows if isinstance(row, PreferencePair)),
            flip_rate=self.shop.trained_flip_rate(number, now),
            steps=steps,
            answers=tuple(row for row in rows if isinstance(row, Answer)),
        )
        seed = seed_of(self.recipe.seed, "train", number) % 2**31
        self.made[number] = trainer.train(data, start, reference, self.target / f"round-{number:02d}", seed)

    def stored(self, number: int) -> TrainResult:
        """Return what the run's own training of a round did."""
        path = self.run.round(number) / "5-policy" / "train.json"
        if not path.is_file():
            raise RunError(f"{path}: no finished training of round {number}; finish the run first")
        return TrainResult.model_validate(read_json(path))

    def _counterpart(self, policy: Policy) -> Policy:
        return policy if policy.adapter is None else self.made[policy.round].policy

    def _rows(self, number: int, what: LearnsFrom) -> tuple[TrainingRow, ...]:
        """Return the pairs, or answers, that a round was given, its own first, and count those that are gone."""
        first = min(number, self.recipe.first_round)  # a warm start's rows are not mixed into later rounds
        past = {each: self._own_rows(each, what) for each in range(first, number + 1)}
        mixed = mixed_past(self.shop, number, past[number], past)
        rows = (*past[number], *mixed.pairs)
        listed = self.run.round(number) / "5-policy" / f"{what[:-1]}_ids.txt"
        trained = set(listed.read_text(encoding="utf-8").split("\n")) - {""} if listed.is_file() else set()
        gone = trained - {row.id for row in rows}
        self.missing += len(gone)
        if gone and not self.shop.forgotten:
            raise RunError(
                f"{listed}: {len(gone)} {what} that were trained on, such as {min(gone)}, are in no 4-{what}.jsonl; "
                f"expected the run's own {what}: restore the files"
            )
        return rows

    def _own_rows(self, number: int, what: LearnsFrom) -> tuple[TrainingRow, ...]:
        path = self.run.round(number) / f"4-{what}.jsonl"
        if not path.is_file():
            raise RunError(f"{path}: no {what} of round {number}; expected the {what} that the run trained on")
        kind: type[Any] = Answer if what == "answers" else PreferencePair
        return tuple(row for _, row in sorted(self.run.rows(path.parent, path.name, kind).read().items()))

    def differences(self) -> Iterator[Difference]:
        """Compare every retrained policy with the stored one."""
        for number, made in self.made.items():
            yield compare(
                self.run, self.recipe, stored_policy(self.run, self.recipe, number), made, self.stored(number)
            )

    def close(self) -> None:
        """Close the trainers."""
        for plugin in self._opened:
            plugin.close()


def compare(run: RunDirectory, recipe: Recipe, old: Policy, made: TrainResult, stored: TrainResult) -> Difference:
    """Return how far a retrained policy is from the stored one."""
    from prefdistill.scoring import kl_estimate, mean_gap

    assert old.adapter is not None and made.policy.adapter is not None
    ours, theirs = run.path / made.policy.adapter, run.path / old.adapter
    equal = (ours / WEIGHTS).read_bytes() == (theirs / WEIGHTS).read_bytes()
    start = None if stored.start.adapter is None else run.path / stored.start.adapter
    norm, of_change = (0.0, 0.0) if equal else _norms(ours, theirs, start)
    items = _items(run, recipe, old.round)
    gap, kl, error = 0.0, 0.0, 0.0
    if items and not equal:
        new, before = (_scores(run, recipe, policy, items) for policy in (made.policy, old))
        gap, (kl, error) = mean_gap(new, before), kl_estimate(new, before)
    return Difference(
        round=old.round,
        folder=made.policy.adapter,
        equal_bytes=equal,
        relative_norm=norm,
        of_change=of_change,
        gap=gap,
        kl=kl,
        kl_standard_error=error,
        drafts=len(items),
    )


def _norms(ours: Path, theirs: Path, start: Path | None) -> tuple[float, float | None]:
    """Return the norm of the difference over that of the stored weights, and over that of their change."""
    from prefdistill.student import adapter_state

    new, old = adapter_state(ours), adapter_state(theirs)

    def norm(first: Any, second: Any | None) -> float:
        squares = (((first[name] - second[name]) if second else first[name]).double().square().sum() for name in first)
        return float(sum(squares)) ** 0.5

    apart = norm(old, new)
    before = None if start is None else adapter_state(start)
    return apart / norm(old, None), None if before is None else apart / max(norm(old, before), 1e-30)


def _items(run: RunDirectory, recipe: Recipe, number: int) -> list[tuple[list[int], list[int]]]:
    from prefdistill.student import load_tokenizer, prompt_completion_ids

    tokenizer = load_tokenizer(recipe.student)
    prompts = run.rows(run.path, "prompts.jsonl", Prompt).read()
    drafts = run.rows(run.round(number), "6-drafts.jsonl", Draft).read()
    return [
        prompt_completion_ids(tokenizer, prompts[each.prompt_id].messages, each.written, recipe.student)
        for _, each in sorted(drafts.items())
        if each.finish_reason == "stop" and each.prompt_id in prompts
    ]


def _scores(
    run: RunDirectory, recipe: Recipe, policy: Policy, items: Sequence[tuple[list[int], list[int]]]
) -> list[tuple[float, int]]:
    from prefdistill.scoring import log_probs
    from prefdistill.student import free, load_policy

    model = load_policy(recipe.student, policy, run.path.resolve())
    found = log_probs(model, items)
    del model
    free()
    return found


def reasons(run: RunDirectory) -> Iterator[str]:
    """Yield what is not as it was when the run was started: threads, device, machine, versions."""
    import torch

    then = read_json(run.manifest)
    machine = then.get("machine") or {}
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    pairs = [
        ("torch threads (OMP_NUM_THREADS)", then.get("torch_threads"), torch.get_num_threads()),
        ("device", then.get("cuda") or "cpu", cuda or "cpu"),
        ("processor", machine.get("processor"), platform.machine()),
        ("system", machine.get("system"), platform.platform(terse=True)),
        ("cores", machine.get("cores"), os.cpu_count()),
        ("python", then.get("python"), platform.python_version()),
    ]
    for name, old in (then.get("versions") or {}).items():
        try:
            now: str | None = version(name)
        except PackageNotFoundError:
            now = None
        pairs.append((name, old, now))
    for name, before, now_ in pairs:
        if before is not None and before != now_:
            yield f"{name}: {before} then, {now_} now"


def lines_of(found: Retrained, limit: float) -> Iterator[str]:
    """Yield what to tell: each round's difference, the reasons, and whether the policies are the same."""
    for each in found.differences:
        if each.equal_bytes:
            yield f"round {each.round}: the adapters are equal byte for byte ({each.folder})"
            continue
        change = "" if each.of_change is None else f", {each.of_change:.2%} of what the round changed"
        compared = "no validation drafts to compare on"
        if each.drafts:
            compared = (
                f"mean log-probability gap {each.gap:.2g} nats a token, KL {each.kl:.2g} ± {each.kl_standard_error:.2g} "
                f"nats a completion on {each.drafts} validation drafts"
            )
        norm = f"by {each.relative_norm:.2e} of their norm{change}"
        yield f"round {each.round}: the adapters differ {norm}; {compared} ({each.folder})"
    if found.missing:
        yield f"{found.missing} rows were trained on then and are forgotten by now; without them no training is the same"
    different = not found.last.equal_bytes
    for reason in found.reasons if different else ():
        yield f"not as it was: {reason}"
    if different and not found.reasons:
        yield "threads, device, machine and versions are as they were: look for changed code, drivers or student files"
    if not different:
        yield "equal: the same policy"
    elif is_within(found, limit):
        yield f"within {limit:g} nats a token: the same policy for all that its drafts show"
    else:
        yield f"beyond {limit:g} nats a token: another policy"


def is_within(found: Retrained, limit: float) -> bool:
    """Whether the round that was asked for is equal, or within the limit on drafts that were compared."""
    last = found.last
    return last.equal_bytes or (last.drafts > 0 and last.gap <= limit)
