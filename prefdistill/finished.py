"""A finished run, read back from its folder: who wrote what on which test prompt, and every judge's score of it.

Place in the flow: after a run. The report's browser of drafts and `compare` read runs through this module; it only
reads, and nothing is judged or computed that the run did not judge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from prefdistill.errors import RunError
from prefdistill.folders import as_argument
from prefdistill.metrics.scores import DraftScore, draft_scores
from prefdistill.recipe import Recipe
from prefdistill.records import (
    Comparison,
    Draft,
    Drop,
    Forgotten,
    PreferencePair,
    Prompt,
    RoundResult,
    Verdict,
    digest,
)
from prefdistill.rubric import RubricSet
from prefdistill.run import RunDirectory, read_json
from prefdistill.stored import stored_run

Kind = Literal["verdicts", "held-out", "gold"]
KINDS: tuple[Kind, ...] = ("verdicts", "held-out", "gold")
"""Files of verdicts: by the training judge, by the evaluation judge where that is another, exact."""


@dataclass(frozen=True)
class Written:
    """What one of policy, base and teacher wrote on a split: one draft a prompt, and its scores."""

    drafts: Mapping[str, Draft]
    """By prompt id."""
    scores: Mapping[Kind, Mapping[str, DraftScore]]
    """By kind of verdict, by prompt id; a kind that was not asked for is absent, a draft that was not judged too."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """By prompt id: why a judge could not read or give a verdict on its draft."""

    def by(self, judge: Literal["judge", "evaluation", "gold"], self_judged: bool) -> Mapping[str, DraftScore]:
        """Return the scores of the training judge, of the evaluation judge (itself where self-judged), or gold."""
        if judge == "gold":
            return self.scores.get("gold", {})
        return self.scores.get("verdicts" if judge == "judge" or self_judged else "held-out", {})


@dataclass(frozen=True)
class FinishedRun:
    """A run whose result is written."""

    directory: RunDirectory
    recipe: Recipe
    result: Mapping[str, Any]
    """result.json."""
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.directory.path.name

    @property
    def rubrics(self) -> RubricSet:
        """The rubric of each kind of prompt."""
        return self.recipe.rubrics

    @property
    def self_judged(self) -> bool:
        """Whether the evaluation judge is the training judge."""
        return self.recipe.held_out_judge is None

    @property
    def kept(self) -> int:
        """The kept round; 0 is the base."""
        return int(self.result["best_round"])

    @property
    def trained(self) -> int:
        """How many rounds were trained."""
        return len(self.result["rounds"]) - 1

    @cached_property
    def loaded(self) -> dict[str, Prompt]:
        """All prompts by id, with a stand-in for each that was forgotten."""
        return self.directory.rows(self.directory.path, "prompts.jsonl", Prompt).read()

    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        """All prompts by id; forgotten ones are left out."""
        gone = self.directory.rows(self.directory.path, "forgotten.jsonl", Forgotten).read()
        return {key: each for key, each in self.loaded.items() if key not in gone}

    @cached_property
    def rounds(self) -> tuple[RoundResult, ...]:
        """Round 0, the base, first."""
        folders = [self.directory.round(number) for number in range(self.trained + 1)]
        return tuple(RoundResult.model_validate(read_json(folder / "round.json")) for folder in folders)

    def pairs(self, number: int) -> tuple[PreferencePair, ...]:
        """Return the pairs that a round's own drafts gave; past pairs that were mixed in are not among them."""
        return tuple(self.directory.rows(self.directory.round(number), "4-pairs.jsonl", PreferencePair).read().values())

    def drops(self, number: int) -> tuple[Drop, ...]:
        """Return why prompts of a round gave no pair."""
        return tuple(self.directory.rows(self.directory.round(number), "4-drops.jsonl", Drop).read().values())

    def train_drafts(self, number: int) -> dict[str, Draft]:
        """Return a round's training drafts by id."""
        return self.directory.rows(self.directory.round(number), "1-drafts.jsonl", Draft).read()

    def train_verdicts(self, number: int) -> dict[str, Verdict]:
        """Return the verdicts on a round's training drafts, by prompt id."""
        return self.directory.rows(self.directory.round(number), "2-verdicts.jsonl", Verdict).read()

    @cached_property
    def comparisons(self) -> dict[str, dict[str, Comparison]]:
        """The kept policy's test drafts against each baseline's: by baseline, by prompt id."""
        rows = self.directory.rows(self.directory.test(self.kept), "comparisons.jsonl", Comparison).read()
        found: dict[str, dict[str, Comparison]] = {}
        for row in rows.values():
            found.setdefault(row.baseline, {})[row.prompt_id] = row
        return found

    @cached_property
    def test(self) -> dict[str, Written]:
        """What policy, base and (where it is a baseline) teacher wrote on the test prompts."""
        found = self.baselines_test
        folder = self.directory.test(self.kept)
        measured = {row.prompt_id: row.draft_id for row in self.comparisons.get("base", {}).values()}
        own = (folder / "drafts.jsonl").is_file() and (self.kept > 0 or self.recipe.evaluate.best_of > 1)
        lowest = _lowest(found["base"])
        return {"policy": self._written(folder, "", measured, lowest) if own else found["base"], **found}

    @cached_property
    def baselines_test(self) -> dict[str, Written]:
        """What base and (where it is a baseline) teacher wrote on the test prompts."""
        base = self._written(self.directory.baselines, "base-test-", {}, None)
        lowest = _lowest(base)
        if any(score.scale == "custom" and score.gates for scores in base.scores.values() for score in scores.values()):
            base = self._written(
                self.directory.baselines, "base-test-", {}, lowest
            )  # what a cut draft counts is known now
        found = {"base": base}
        if "teacher" in self.recipe.evaluate.baselines:
            found["teacher"] = self._written(self.directory.baselines, "teacher-test-", {}, lowest)
        return found

    @cached_property
    def baselines_mark(self) -> str:
        """Hash of everything that `baselines_test` is read from: runs of one comparison have copies of the same files."""
        mark = hashlib.sha256(digest([self.rubrics.fingerprint(), self.recipe.evaluate.baselines]).encode())
        for path in [self.directory.prompts, *sorted(self.directory.baselines.glob("*-test-*.jsonl"))]:
            mark.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return mark.hexdigest()

    def share_baselines(self, other: FinishedRun) -> None:
        """Take over what another run has read of the same baselines."""
        if other.baselines_mark == self.baselines_mark:
            self.__dict__["baselines_test"] = other.baselines_test

    def release(self) -> None:
        """Let go of the test drafts and verdicts that were read; they are read again where they are asked for."""
        for name in ("test", "baselines_test", "comparisons"):
            self.__dict__.pop(name, None)

    def _written(
        self, folder: Path, prefix: str, measured: Mapping[str, str], lowest: Mapping[Kind, float] | None
    ) -> Written:
        """Read one writer's drafts and scores; `measured` names the draft of each prompt where there are several."""
        rows = self.directory.rows(folder, f"{prefix}drafts.jsonl", Draft).read()
        drafts = {
            draft.prompt_id: draft
            for draft in sorted(rows.values(), key=lambda each: -each.index)
            if draft.prompt_id in self.prompts and measured.get(draft.prompt_id, draft.id) == draft.id
        }
        prompts = [self.prompts[prompt_id] for prompt_id in sorted(drafts)]
        scores: dict[Kind, Mapping[str, DraftScore]] = {}
        failures: dict[str, str] = {}
        for kind in KINDS:
            verdicts = self.directory.rows(folder, f"{prefix}{kind}.jsonl", Verdict).read()
            if not (folder / f"{prefix}{kind}.jsonl").is_file():
                continue
            known = None if lowest is None or kind == "gold" else lowest.get(kind)
            found = draft_scores(verdicts.values(), drafts.values(), prompts, self.rubrics, known)
            scores[kind] = {prompt_id: found[draft.id] for prompt_id, draft in drafts.items() if draft.id in found}
            for verdict in verdicts.values():
                mine = {drafts[verdict.prompt_id].id} if verdict.prompt_id in drafts else set()
                wrong = [each for each in verdict.failures if mine & set(each.key.split("|"))]
                if wrong:
                    failures.setdefault(verdict.prompt_id, f"{kind}: {wrong[0].kind}: {wrong[0].message}")
        return Written(drafts, scores, failures)


def _lowest(base: Written) -> dict[Kind, float]:
    """Return what a cut draft counts on a judge's own scale: the lowest score of the base's drafts."""
    return {kind: min(each.score for each in scores.values()) for kind, scores in base.scores.items() if scores}


def read_finished(folder: Path) -> FinishedRun:
    """Read a finished run.

    Raises:
        RunError: there is no run, or it is not finished.
        RecipeError: its recipe names something that is no longer where it was.
    """
    run, recipe = stored_run(folder)
    if not run.result.is_file():
        raise RunError(
            f"{folder}: the run is not finished (no result.json); `prefdistill status {as_argument(folder)}` says "
            "what is left, and running its recipe again goes on"
        )
    return FinishedRun(run, recipe, read_json(run.result), read_json(run.manifest))
