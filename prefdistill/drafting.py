"""Drafts written and judged at the same time, resumable by draft and by prompt.

The first judge starts on a prompt as soon as its drafts are all there, while later prompts are still being sampled.
Stages compute; this module writes what they yield.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefdistill.artefacts import adopt, claim, stale
from prefdistill.assembly import Workshop
from prefdistill.errors import JudgeError, RunError, SampleError
from prefdistill.passes import ApartJudge, judge_in_passes
from prefdistill.records import NOT_ASKED, Draft, Failure, Policy, Prompt, Split, Verdict, digest
from prefdistill.run import Fingerprints, RowFile
from prefdistill.stages.load import load_drafts
from prefdistill.stages.sample import draft_ids, sample_drafts, teacher_drafts
from prefdistill.traces import Reasoning


@dataclass
class Judged:
    """A set of prompts with their drafts, and each judge's verdicts on them."""

    prompts: tuple[Prompt, ...]
    drafts: dict[str, Draft] = field(default_factory=dict)
    """By draft id."""
    verdicts: dict[str, dict[str, Verdict]] = field(default_factory=dict)
    """Artefact name (verdicts, held-out, gold) to prompt id to verdict."""
    failures: list[Failure] = field(default_factory=list)
    """Drafts that could not be written."""
    fingerprint: str = ""

    def groups(self) -> dict[str, list[Draft]]:
        """Return each prompt's drafts, in the order of their ids."""
        grouped: dict[str, list[Draft]] = {prompt.id: [] for prompt in self.prompts}
        for _, draft in sorted(self.drafts.items()):
            grouped[draft.prompt_id].append(draft)
        return grouped


@dataclass(frozen=True)
class Wanted:
    """What drafts a step wants, and where it keeps them."""

    folder: Path
    prefix: str
    """Put before file and artefact names, such as `6-` or `base-validation-`."""
    prompts: tuple[Prompt, ...]
    policy: Policy | None
    """None for the teacher's own drafts."""
    source: str
    round: int
    purpose: Split
    drafts: int
    temperature: float
    top_p: float
    policy_fingerprint: str
    stage: str = "evaluate"
    given: tuple[Draft, ...] = ()
    """Of the wanted drafts, those that are written already, in another file."""
    reasoning: Reasoning | None = None
    """How the teacher is asked to reason before it answers; None where it just answers."""

    @property
    def apart(self) -> bool:
        """Whether a prompt's drafts are judged one by one: several of an evaluation are, training drafts together."""
        return self.purpose != "train" and self.drafts > 1

    def file(self, kind: str) -> str:
        """Return the file name of drafts, verdicts, held-out or gold."""
        if self.purpose == "train":
            return {"drafts": "1-drafts.jsonl", "verdicts": "2-verdicts.jsonl"}[kind]
        return f"{self.prefix}{kind}.jsonl"


def drafts_and_verdicts(shop: Workshop, wanted: Wanted, judges: Mapping[str, Any]) -> Judged:
    """Write the wanted drafts and have them judged, the first judge while later prompts are still being sampled."""
    judged = Judged(wanted.prompts)
    judged.fingerprint = drafts_fingerprint(shop, wanted)
    file = shop.run.rows(wanted.folder, wanted.file("drafts"), Draft)
    stage = "sample" if wanted.purpose == "train" else wanted.stage
    adopt(shop, wanted.folder, f"{wanted.prefix}drafts", judged.fingerprint, [file.path])
    claim(shop, wanted.folder, f"{wanted.prefix}drafts", stage, judged.fingerprint, [file.path])
    judged.drafts = file.read()
    for draft in wanted.given:
        if draft.id not in judged.drafts:
            file.append(draft)
            judged.drafts[draft.id] = draft
    source = _Source(shop, wanted, judged, file)
    for number, (kind, judge) in enumerate(judges.items()):
        ready = source if number == 0 else iter(())
        judged.verdicts[kind] = _verdicts(shop, wanted, judged, kind, judge, ready)
    for _ in source:  # without a judge, or with all verdicts there, owed drafts are still written
        pass
    judged.drafts = file.finish()
    rows = len(judged.drafts) if not judged.failures else None
    seconds = source.seconds if source.written else 0.0
    Fingerprints(wanted.folder).note(f"{wanted.prefix}drafts", judged.fingerprint, rows, seconds)
    shop.save_choices()
    return judged


def judged_also(shop: Workshop, wanted: Wanted, judged: Judged, kind: str, judge: Any) -> dict[str, Verdict]:
    """Return a further judge's verdicts on drafts that are there, such as on those that were chosen among `wanted`."""
    return _verdicts(shop, wanted, judged, kind, judge, iter(()))


def drafts_fingerprint(shop: Workshop, wanted: Wanted) -> str:
    """Return the hash of what the wanted drafts are made from."""
    recipe = shop.recipe
    teacher: Any = recipe.teacher
    sampler: Any = recipe.sample.sampler
    parts: list[Any] = [
        [prompt.id for prompt in wanted.prompts],
        digest([shop.messages_digest(prompt) for prompt in wanted.prompts]),
        [wanted.source, wanted.round if wanted.purpose == "train" else 0, wanted.purpose, wanted.drafts],
        [wanted.temperature, wanted.top_p, recipe.sample.max_new_tokens, recipe.seed],
    ]
    if wanted.policy is None:
        parts.append(teacher.identity())
        if wanted.reasoning is not None:
            parts.append(wanted.reasoning.identity())
    elif wanted.purpose == "train" and recipe.sample.drafts_from is not None:
        parts.append(_given(shop, wanted, recipe.sample.drafts_from))
    else:
        parts += [sampler.identity(), shop.student_fingerprint, wanted.policy_fingerprint]
        if recipe.student.trace is not None:
            parts.append([recipe.student.tags, recipe.student.of(wanted.policy).block])
    if _adds_teacher(shop, wanted):
        parts += [recipe.sample.teacher_drafts, teacher.identity()]
    return digest(parts)


def verdicts_fingerprint(shop: Workshop, drafts: str, prompts: Iterable[Prompt], judge: Any) -> str:
    """Return the hash of what a judge's verdicts on these prompts' drafts, known by their hash, are made from."""
    fields = digest([shop.fields_digest(prompt) for prompt in prompts])
    return digest([drafts, fields, shop.judge_fingerprint(judge)])


def _adds_teacher(shop: Workshop, wanted: Wanted) -> bool:
    """Whether the teacher's drafts go into the pool of the student's."""
    first = wanted.purpose == "train" and wanted.round == shop.recipe.first_round and wanted.policy is not None
    return first and bool(shop.recipe.sample.teacher_drafts)


def _given(shop: Workshop, wanted: Wanted, path: Path) -> str:
    """Return the hash of the drafts that a file gives for the wanted prompts, and of nothing else in it."""
    present = tuple(prompt for prompt in wanted.prompts if prompt.id not in shop.forgotten)
    given: dict[str, list[Draft]] = {}
    for draft in load_drafts(path, present, wanted.round) if present else ():
        given.setdefault(draft.prompt_id, []).append(draft)
    hashes = {prompt_id: given_digest(drafts) for prompt_id, drafts in given.items()}
    gone = {prompt.id: shop.forgotten[prompt.id].given for prompt in wanted.prompts if prompt.id in shop.forgotten}
    return digest(hashes | {prompt_id: mark for prompt_id, mark in gone.items() if mark is not None})


def given_digest(drafts: Iterable[Draft]) -> str:
    """Return the hash of one prompt's drafts that come from a file."""
    return digest(sorted([draft.source, draft.index, draft.completion, draft.finish_reason] for draft in drafts))


class _Source:
    """Writes owed drafts as it is iterated, yielding each prompt whose drafts are all there: (prompt, drafts)."""

    def __init__(self, shop: Workshop, wanted: Wanted, judged: Judged, file: RowFile[Draft]) -> None:
        self.shop, self.wanted, self.judged, self.file = shop, wanted, judged, file
        self.seconds = 0.0
        self.written = 0
        """Drafts written by this process."""
        self._iterator = self._groups()

    def __iter__(self) -> Iterator[tuple[Prompt, list[Draft]]]:
        return self._iterator

    def _groups(self) -> Iterator[tuple[Prompt, list[Draft]]]:
        owed = {prompt.id: self._owed(prompt) for prompt in self.wanted.prompts}
        prompts = {prompt.id: prompt for prompt in self.wanted.prompts}
        drafts, given = self.judged.groups(), {draft.id for draft in self.wanted.given}
        for prompt_id, keys in owed.items():
            if not keys:
                yield prompts[prompt_id], drafts[prompt_id]
        if not any(owed.values()):
            return
        started = time.monotonic()
        try:
            for item in self._write():
                key = item.key if isinstance(item, Failure) else item.id
                prompt_id = key.split("/")[0]
                if isinstance(item, Failure):
                    self.judged.failures.append(item)
                elif key not in given:
                    self.file.append(item)
                    self.written += 1
                    self.judged.drafts[item.id] = item
                    drafts[prompt_id].append(item)
                was_owed = key in owed[prompt_id]
                owed[prompt_id].discard(key)
                if was_owed and not owed[prompt_id]:
                    self.seconds += time.monotonic() - started
                    yield prompts[prompt_id], sorted(drafts[prompt_id], key=lambda draft: draft.id)
                    started = time.monotonic()
        finally:
            self.seconds += time.monotonic() - started
            self.file.close()
        if len(self.judged.failures) and not self.judged.drafts:
            failure = self.judged.failures[0]
            raise SampleError(
                f"{self.file.path}: all {len(self.judged.failures)} drafts failed; the first: {failure.message}"
            )

    def _owed(self, prompt: Prompt) -> set[str]:
        wanted = self.wanted
        if prompt.id in self.shop.forgotten or (self.judged.drafts and is_settled(wanted)):
            return set()
        if wanted.policy is not None and wanted.purpose == "train" and self.shop.recipe.sample.drafts_from is not None:
            return set() if any(d.prompt_id == prompt.id for d in self.judged.drafts.values()) else {prompt.id}
        keys = set(draft_ids(prompt, wanted.source, wanted.round, wanted.purpose, wanted.drafts))
        if self._with_teacher:
            keys |= set(draft_ids(prompt, "teacher", 1, "train", self.shop.recipe.sample.teacher_drafts))
        return keys - set(self.judged.drafts)

    @property
    def _with_teacher(self) -> bool:
        return _adds_teacher(self.shop, self.wanted)

    def _write(self) -> Iterator[Draft | Failure]:
        wanted, recipe = self.wanted, self.shop.recipe
        prompts = tuple(prompt for prompt in wanted.prompts if prompt.id not in self.shop.forgotten)
        if wanted.policy is not None and wanted.purpose == "train" and recipe.sample.drafts_from is not None:
            for draft in load_drafts(recipe.sample.drafts_from, prompts, wanted.round):
                if draft.id not in self.judged.drafts:
                    self.file.append(draft)
                    self.judged.drafts[draft.id] = draft
            return
        if wanted.policy is None or self._with_teacher:
            assert self.shop.teacher is not None
            yield from teacher_drafts(
                self.shop.teacher,
                prompts,
                self.judged.drafts,
                system=getattr(self.shop.teacher, "system_text", lambda: None)(),
                drafts=recipe.sample.teacher_drafts if self._with_teacher else wanted.drafts,
                max_tokens=recipe.sample.max_new_tokens,
                temperature=wanted.temperature,
                round=wanted.round,
                purpose=wanted.purpose,
                reasoning=wanted.reasoning,
            )
        if wanted.policy is not None:
            yield from sample_drafts(
                self.shop.sampler,
                wanted.policy,
                prompts,
                self.judged.drafts,
                source=wanted.source,
                drafts=wanted.drafts,
                temperature=wanted.temperature,
                top_p=wanted.top_p,
                max_new_tokens=recipe.sample.max_new_tokens,
                seed=recipe.seed,
                round=wanted.round,
                purpose=wanted.purpose,
                tags=None if recipe.student.trace is None else recipe.student.tags,
            )


def _verdicts(
    shop: Workshop, wanted: Wanted, judged: Judged, kind: str, judge: Any, source: Iterable[tuple[Prompt, list[Draft]]]
) -> dict[str, Verdict]:
    """Return one judge's verdicts, asking only for those that are owed."""
    name = f"{wanted.prefix}{kind}"
    file = shop.run.rows(wanted.folder, wanted.file(kind), Verdict)
    stage = "judge" if wanted.purpose == "train" else wanted.stage
    fingerprint = verdicts_fingerprint(shop, judged.fingerprint, judged.prompts, judge)
    if adopt(shop, wanted.folder, f"{name}-checks", shop.checks_fingerprint(), ()):
        adopt(shop, wanted.folder, name, fingerprint, [file.path])
    _drop_old_checks(shop, wanted.folder, name, file)
    claim(shop, wanted.folder, name, stage, fingerprint, [file.path])
    started, sampled = time.monotonic(), getattr(source, "seconds", 0.0)
    verdicts = file.read()
    settled, done = is_settled(wanted), 0

    def owes(prompt: Prompt, drafts: Sequence[Draft]) -> bool:
        known = verdicts.get(prompt.id)
        return bool(drafts) and known is None if settled else _owes_verdict(known, drafts)

    def owed() -> Iterator[tuple[Prompt, list[Draft]]]:
        seen = set()
        for prompt, drafts in source:
            seen.add(prompt.id)
            if owes(prompt, drafts):
                yield prompt, drafts
        groups = judged.groups()
        for prompt in judged.prompts:
            if prompt.id not in seen and owes(prompt, groups[prompt.id]):
                yield prompt, groups[prompt.id]

    try:
        for verdict in judge_in_passes(shop, ApartJudge(judge) if wanted.apart else judge, owed()):
            file.append(verdict)
            verdicts[verdict.prompt_id] = verdict
            done += 1
            shop.context.progress("judge", len(verdicts), len(judged.prompts), kind)
    finally:
        file.close()
    verdicts = file.finish()
    seconds = time.monotonic() - started - (getattr(source, "seconds", 0.0) - sampled)
    rows = None if any(verdict.owed for verdict in verdicts.values()) else len(verdicts)
    Fingerprints(wanted.folder).note(name, fingerprint, rows, max(0.0, seconds) if done else 0.0)
    Fingerprints(wanted.folder).note(f"{name}-checks", shop.checks_fingerprint(), rows)
    _refuse_all_failed(file.path, verdicts, judged, kind)
    return verdicts


def is_settled(wanted: Wanted) -> bool:
    """Whether a policy was trained on these drafts: what failed then stays failed, for its labels are in the policy."""
    return wanted.purpose == "train" and Fingerprints(wanted.folder).entries.get("policy", {}).get("rows") is not None


def _owes_verdict(verdict: Verdict | None, drafts: Sequence[Draft]) -> bool:
    """Whether a prompt must be judged: never done, failed in a way that may pass, or drafts have come since."""
    if not drafts:
        return False
    if verdict is None or verdict.owed:
        return True
    known = {judgement.draft_id for judgement in verdict.judgements}
    known |= {key for failure in verdict.failures for key in failure.key.split("|")}
    known |= {key for preference in verdict.preferences for key in (preference.first_id, preference.second_id)}
    return not {draft.id for draft in drafts} <= known


def _drop_old_checks(shop: Workshop, folder: Path, name: str, file: RowFile[Verdict]) -> None:
    """Set verdicts aside whose checks changed: checks are free, and paid replies are in the request cache.

    Raises:
        RunError: the request cache is off, so that asking again would be paid again.
    """
    marks = Fingerprints(folder)
    stored = marks.of(f"{name}-checks")
    if stored is None or stored == shop.checks_fingerprint():
        return
    paid = any(verdict.usage.calls + verdict.usage.cached for verdict in file.read().values())
    if paid and shop.recipe.cache == "off" and shop.redo_from is None:
        raise RunError(stale(shop, folder, name, "judge"))
    shop.run.set_aside([file.path])
    marks.forget([name, f"{name}-checks"])


def _says_something(verdict: Verdict) -> bool:
    """Whether a verdict holds a preference, a value or a score; drafts that failed a gate unasked hold no answer."""
    return bool(verdict.preferences) or any(
        judgement.value is not None or not any(score.reason.startswith(NOT_ASKED) for score in judgement.scores)
        for judgement in verdict.judgements
    )


def _refuse_all_failed(path: Path, verdicts: Mapping[str, Verdict], judged: Judged, kind: str) -> None:
    """Stop loudly when a judge gave nothing that can be used."""
    failures = [failure for verdict in verdicts.values() for failure in verdict.failures]
    if not judged.drafts or (verdicts and not failures) or any(map(_says_something, verdicts.values())):
        return
    counts = Counter(failure.kind for failure in failures)
    shown = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    first = failures[0] if failures else None
    reply = f"; the reply began {first.reply[:100]!r}" if first is not None and first.reply else ""
    raise JudgeError(
        f"{path}: the judge failed on all {len(judged.drafts)} drafts ({shown or 'no verdict at all'}), so there is no "
        f"label and nothing was trained; the first: {first.message if first else 'nothing was judged'}{reply}; "
        f"expected verdicts: try `prefdistill run RECIPE --preview 3` to see prompt and reply ({kind})"
    )
