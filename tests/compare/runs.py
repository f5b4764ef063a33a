"""Small finished runs, written file by file: what a comparison reads, with numbers that a test chooses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from prefdistill.compare.data import ArmRun
from prefdistill.finished import read_finished
from prefdistill.records import (
    Comparison,
    CriterionScore,
    Draft,
    EvaluationResult,
    Finding,
    Forgotten,
    Judgement,
    Message,
    Policy,
    Prompt,
    RoundResult,
    TrainResult,
    Usage,
    Verdict,
)
from prefdistill.run import write_json

PLUGINS = """
from typing import ClassVar

from prefdistill import Plugin

class Training(Plugin):
    strictness: int = 1
    def judge(self, prompt, drafts, rubric): ...

class HeldOut(Plugin):
    strictness: int = 1
    def judge(self, prompt, drafts, rubric): ...

class Comparing(Plugin):
    scores_alone: ClassVar[bool] = False
    def judge(self, prompt, drafts, rubric): ...
"""
RUBRIC = """
name: letters
gates: [{name: facts, check: phrases, none_of: [WRONG]}]
criteria:
  - {name: clear, check: length, between: [1, 50]}
  - {name: kind, check: length, between: [1, 60]}
"""
RECIPE: dict[str, Any] = {
    "name": "fake",
    "rubric": "rubric.yaml",
    "student": {"model": "org/student"},
    "prompts": {"path": "prompts.jsonl"},
    "judge": {"use": "judges.py:Training"},
    "evaluate": {"baselines": ["base"], "judge": {"use": "judges.py:HeldOut"}},
}
Scores = Sequence[float | None]


@dataclass
class Fake:
    """A run to be written. Scores are one a test prompt; None is a draft that nobody could judge."""

    policy: Scores
    """By the evaluation judge."""
    base: Scores
    teacher: Scores | None = None
    judge: Scores | None = None
    """By the training judge, of both criteria; the evaluation judge's scores by default."""
    base_judge: Scores | None = None
    gold: Scores | None = None
    base_gold: Scores | None = None
    words: Sequence[int] | None = None
    base_words: Sequence[int] | None = None
    failed_gates: Iterable[int] = ()
    """Numbers of the prompts whose policy draft fails the gate, as the training judge sees it."""
    seed: int = 7
    kept: int = 1
    rounds: int = 1
    steps: int = 10
    judged: int = 40
    answers: int = 0
    """Written by the teacher; the recipe then says `train: {use: sft}`."""
    train_prompts: int = 10
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Sections merged into the recipe, by section."""
    held_out: Literal["rubric", "custom"] | None = "rubric"
    """On which scale the evaluation judge scores; None: it has no verdicts of its own."""
    rubric: str = RUBRIC
    texts: Mapping[int, str] = field(default_factory=dict)
    """Texts of test prompts by number."""
    ids: Sequence[str] | None = None
    forgotten: Iterable[int] = ()
    findings: Sequence[Finding] = ()
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    """Of round 0."""
    notes: Sequence[str] = ()
    stopped: str | None = None

    def write(self, folder: Path) -> Path:
        """Write the run folder and return it."""
        folder.mkdir(parents=True)
        recipe = {**RECIPE, "seed": self.seed}
        for section, keys in self.recipe.items():
            recipe[section] = {**recipe.get(section, {}), **keys} if isinstance(keys, Mapping) else keys
        if self.teacher is not None:
            recipe["teacher"] = {"use": "sandbox"}
            recipe["evaluate"] = {**recipe["evaluate"], "baselines": ["base", "teacher"]}
        if self.gold is not None:
            recipe["evaluate"] = {**recipe["evaluate"], "gold": {"use": "sandbox_gold"}}
        (folder / "judges.py").write_text(PLUGINS)
        (folder / "rubric.yaml").write_text(self.rubric)
        write_json(folder / "recipe.yaml", recipe)  # JSON is YAML
        write_json(
            folder / "manifest.json", {"versions": {"prefdistill": "0"}, "notes": list(self.notes), "choices": {}}
        )
        _rows(folder / "prompts.jsonl", [*self._train(), *self._prompts()])
        gone = [self._ids[number] for number in self.forgotten]
        marks = {"split": "test", "messages": "hash", "fields": "hash", "at": "2026-01-01T00:00:00+00:00"}
        _rows(folder / "forgotten.jsonl", [Forgotten.model_validate({"prompt_id": each, **marks}) for each in gone])
        self._writer(
            folder / "baselines", "base-test-", "base", self.base, self.base_judge, self.base_gold, self.base_words
        )
        if self.teacher is not None:
            self._writer(folder / "baselines", "teacher-test-", "teacher", self.teacher, None, None, None)
        test = folder / "test" / f"round-{self.kept:02d}"
        if self.kept:
            self._writer(test, "", "student", self.policy, self.judge, self.gold, self.words)
        _rows(
            test / "comparisons.jsonl", [*self._compared("base", self.base), *self._compared("teacher", self.teacher)]
        )
        for number in range(self.rounds + 1):
            self._round(folder, number)
        write_json(folder / "result.json", self._result())
        return folder

    @cached_property
    def _ids(self) -> list[str]:
        return list(self.ids or [f"test-{number:05d}" for number in range(len(self.base))])

    def _train(self) -> list[Prompt]:
        message = (Message(role="user", content="Train on this."),)
        return [Prompt(id=f"train-{number}", messages=message, split="train") for number in range(3)]

    def _prompts(self) -> list[Prompt]:
        return [
            Prompt(
                id=prompt_id,
                messages=(Message(role="user", content=self.texts.get(number, f"Write letter {number}.")),),
                split="test",
                tags=("forgotten",) if number in set(self.forgotten) else (),
            )
            for number, prompt_id in enumerate(self._ids)
        ]

    def _writer(
        self,
        folder: Path,
        prefix: str,
        source: str,
        held: Scores,
        judge: Scores | None,
        gold: Scores | None,
        words: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        gone = set(self.forgotten)
        there = [number for number in range(len(held)) if number not in gone]
        policy = (
            None if source == "teacher" else Policy(model="org/student", adapter="x" if source == "student" else None)
        )
        drafts = {
            number: Draft(
                id=f"{self._ids[number]}/{source}/test/0",
                prompt_id=self._ids[number],
                source=source,
                policy=policy,
                round=self.kept if source == "student" else 0,
                purpose="test",
                index=0,
                completion=f"{source} {number}" + " word" * ((words[number] if words else 10) - 2),
                finish_reason="stop",
                tokens=12,
                seed=1,
            )
            for number in there
        }
        bad = set(self.failed_gates) if source == "student" else set()
        _rows(folder / f"{prefix}drafts.jsonl", drafts.values())
        scores = held if judge is None else judge
        _rows(folder / f"{prefix}verdicts.jsonl", [_rubric_verdict(drafts[n], scores[n], n in bad) for n in there])
        if self.held_out is not None:
            make = _rubric_verdict if self.held_out == "rubric" else _custom_verdict
            _rows(folder / f"{prefix}held-out.jsonl", [make(drafts[n], held[n], False) for n in there])
        if self.gold is not None and gold is not None:
            _rows(folder / f"{prefix}gold.jsonl", [_rubric_verdict(drafts[n], gold[n], False) for n in there])

    def _compared(self, baseline: str, theirs: Scores | None) -> list[Comparison]:
        found = []
        ours = self.policy if self.kept else self.base
        for number, prompt_id in enumerate(self._ids if theirs is not None else []):
            assert theirs is not None
            if number in set(self.forgotten):
                continue
            score, other = ours[number], theirs[number]
            known = score is not None and other is not None
            outcome = "unknown" if not known else "tie" if score == other else "win" if score > other else "loss"  # type: ignore[operator]
            found.append(
                Comparison(
                    prompt_id=prompt_id,
                    draft_id=f"{prompt_id}/{'student' if self.kept else 'base'}/test/0",
                    baseline=baseline,
                    baseline_draft_id=f"{prompt_id}/{baseline}/test/0",
                    score=score,
                    baseline_score=other,
                    outcome=outcome,  # type: ignore[arg-type]
                )
            )
        return found

    def _round(self, folder: Path, number: int) -> None:
        place = folder / "baselines" if number == 0 else folder / f"round-{number:02d}"
        policy = Policy(model="org/student", adapter=f"round-{number:02d}/5-policy", round=number)
        base = Policy(model="org/student")
        train = TrainResult(
            start=base,
            reference=base,
            policy=policy,
            pairs=9,
            steps=self.steps,
            loss=0.5,
            first_loss=0.69,
            reward_margin=0.1,
            reward_accuracy=0.8,
            adapter_moved=1.0,
            seconds=1.0,
        )
        evaluation = EvaluationResult(
            policy=policy,
            baseline="base",
            split="validation",
            judge="held",
            self_judged=False,
            wins=6,
            losses=4,
            ties=0,
            unknown=0,
            win_rate=0.6,
            interval=(0.3, 0.8),
            score=0.6,
            baseline_score=0.5,
            score_gain=0.1,
            score_gain_interval=(0.0, 0.2),
            gate_pass_rate=1.0,
            length_ratio=1.0,
        )
        result = RoundResult(
            round=number,
            drafts=self.judged + self.answers if number else 0,
            judged=self.judged if number else 0,
            failed=0,
            pairs=9 if number else 0,
            counts={"prompts": float(self.train_prompts)} if number else {},
            train=train if number else None,
            evaluation=(evaluation,) if number else (),
            rubric_score=0.5 + 0.1 * number,
            held_out_score=0.5 + 0.08 * number,
            usage=Usage(calls=5, prompt_tokens=100, completion_tokens=20, usd=0.25) if number else Usage(),
            seconds={"train": 2.0} if number else {},
            diagnostics=dict(self.diagnostics) if number == 0 else {"kl_base": 0.25 * number},
            findings=tuple(self.findings) if number == 1 else (),
        )
        write_json(place / "round.json", result.model_dump(mode="json"))

    def _result(self) -> dict[str, Any]:
        cost = {"calls": 5, "cached": 2, "prompt_tokens": 100, "completion_tokens": 20, "usd": 0.25, "charged_usd": 0.5}
        policy = {"model": "org/student", "revision": None, "adapter": None, "round": self.kept}
        return {
            "best_round": self.kept,
            "rounds": [{}] * (self.rounds + 1),
            "policy": policy,
            "cost": cost,
            "stopped": self.stopped,
        }


def _rubric_verdict(draft: Draft, score: float | None, fails: bool) -> Verdict:
    """A verdict by the rubric: both criteria at `score`, the gate failed or passed; empty where there is no score."""
    if score is None:
        return Verdict(prompt_id=draft.prompt_id)
    scores = tuple(CriterionScore(criterion=name, score=score, path="checked") for name in ("clear", "kind"))
    gate = CriterionScore(criterion="facts", score=0.0 if fails else 1.0, path="checked")
    judgement = Judgement(draft_id=draft.id, judge="fake", scores=(*scores, gate), scale="rubric")
    return Verdict(prompt_id=draft.prompt_id, judgements=(judgement,))


def _custom_verdict(draft: Draft, score: float | None, fails: bool) -> Verdict:
    """A verdict of one number, on a scale of its own."""
    if score is None:
        return Verdict(prompt_id=draft.prompt_id)
    judgement = Judgement(draft_id=draft.id, judge="fake", value=score, scale="custom")
    return Verdict(prompt_id=draft.prompt_id, judgements=(judgement,))


def _rows(path: Path, rows: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row.model_dump(mode="json")) + "\n" for row in rows))


def arm_run(folder: Path, label: str, arm: str = "online", **overrides: Any) -> ArmRun:
    """Read a run folder as one arm's run."""
    run = read_finished(folder)
    return ArmRun(label, arm, run.recipe.seed, overrides, run)


def write_arms(folder: Path, **arms: Sequence[Fake]) -> list[ArmRun]:
    """Write every fake run of every arm, and return them as a comparison takes them."""
    found = []
    for label, fakes in arms.items():
        for fake in fakes:
            fake.write(folder / label / f"seed-{fake.seed}")
            kind = (
                label if label in ("random_labels", "shuffled_online", "best_of_n", "outputs", "offline") else "online"
            )
            found.append(arm_run(folder / label / f"seed-{fake.seed}", label, kind))
    return found
