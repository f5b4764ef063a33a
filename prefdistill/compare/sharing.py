"""What the runs of a comparison have in common: steps whose requests are the same ones, so that they are paid for once.

Place in the flow: before the first draft, for the price. Two steps are alike where the same judge is asked about the same
drafts, or the same writer for the same ones. Drafts that do not exist yet are known by what they will be made from: seed,
sampler, round and the policy that writes them, and that policy by all that it is trained on.
"""

from __future__ import annotations

from typing import Any

from prefdistill.costs.steps import Step
from prefdistill.protocols import learns_from
from prefdistill.recipe import Recipe
from prefdistill.records import digest
from prefdistill.run import RunDirectory


class Origins:
    """What the drafts of one run will be made from."""

    def __init__(self, recipe: Recipe, run: RunDirectory) -> None:
        self.recipe = recipe
        self.run = run
        self._plain = recipe.resolved()
        self._policies = ["base"]
        teacher: Any = recipe.teacher
        self._teacher = None if teacher is None else teacher.identity()

    def key(self, step: Step) -> str:
        """Return what identifies a step's requests about one prompt; equal ones are answered once."""
        about: list[Any] = [step.split, step.drafts, *self._writer(step)]
        if step.judge is None:
            return digest(["write", *about])
        rubrics = step.rubrics or self.recipe.rubrics
        compared = step.file.name if step.compares else ""
        judge = [step.judge.identity(), self._teacher, rubrics.asked_fingerprint(), step.apart, compared]
        return digest(["judge", *judge, *about])

    def by_base(self, step: Step) -> bool:
        """Whether the drafts are the base's own on test prompts, of which the baseline wrote the first already."""
        return step.split == "test" and step.file.parent == self.run.test(0)

    def _writer(self, step: Step) -> list[Any]:
        """Return who writes the step's drafts, or wrote those that it is about, and how."""
        name, train = step.file.name, step.split == "train"
        answers = train and learns_from(self.recipe.section_of(step.round).trainer) == "answers"
        section = self._plain["sample" if train and not answers else "evaluate"]
        how = [self._plain["sample"]["max_new_tokens"], section["temperature"], section["top_p"]]
        task = name.partition("also-")[2].rpartition("-")[0]
        if answers or step.source == "teacher" or name.startswith("teacher-"):
            # The run's seed is not part of the requests; without a request cache each run asks for itself.
            alone = [self.recipe.seed, step.file.parent.name] if self.recipe.cache == "off" else []
            reasoning = [] if step.reasoning is None else [repr(step.reasoning)]
            return ["teacher", self._teacher, task, *how, *alone, *reasoning]
        sampler: Any = self.recipe.sample.sampler
        how += [self.recipe.seed, self._plain["student"], sampler.identity(), task]
        if train:
            return [self._drafts(step.round), self._plain["sample"], *how]
        if self.run.baselines in step.file.parents:
            return ["base", *how]
        return [self._policy(int(step.file.parent.name.removeprefix("round-"))), *how]

    def _drafts(self, number: int) -> list[Any]:
        """Return what a round's training drafts are made from, beside the student and how it writes."""
        loop = self.recipe.loop
        first = self.recipe.begins_with(self.recipe.first_round)
        given, offline = self.recipe.sample.drafts_from is not None, loop.mode == "offline"
        writer = "base" if given or number <= first else self._policy(first if offline else number - 1)
        return ["drafts", number, loop.prompts_per_round, self._plain["prompts"], writer]

    def _policy(self, number: int) -> str:
        """Return what identifies a round's policy: everything that it is trained on, and how."""
        judge: Any = self.recipe.judge
        fixed = [
            *(self._plain[name] for name in ("student", "sample", "rubric", "pair", "train", "seed")),
            self._plain.get("warm_start"),
            judge.identity(),
            self._teacher,
            self.recipe.loop.start_from,
            str(self.recipe.loop.pairs_from),
        ]
        while len(self._policies) <= number:
            self._policies.append(digest([self._policies, self._drafts(len(self._policies)), *fixed]))
        return self._policies[number]
