"""Any prefdistill judge as a TRL reward function: what `reward_funcs` of GRPOTrainer, RLOOTrainer and others take.

    recipe = load_recipe(Path("recipe.yaml"))
    with opened_judge(recipe) as (judge, _):
        trainer = GRPOTrainer(model=…, reward_funcs=reward_function(judge, recipe.rubrics), train_dataset=…)
        trainer.train()

Place in the flow: outside of it; the loop of rounds needs none of this. The judge sees the completions of equal
prompts together, so one that compares drafts works too, and what it cannot judge is no number.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from prefdistill.errors import JudgeError
from prefdistill.protocols import Judge
from prefdistill.records import Draft, Failure, Message, Prompt, RankedDraft, Role, Verdict, digest
from prefdistill.rubric import Rubric, RubricSet, load_rubric
from prefdistill.selection import rank_drafts
from prefdistill.stages.judge import judge_prompts

NOT_COLUMNS = frozenset({"completion_ids", "prompt_ids", "trainer_state", "log_extra", "log_metric", "environments"})
"""What TRL hands to a reward function beside the dataset's columns."""
SOURCE = "file:trl"
PATIENCE = 3
"""Calls in a row in which the judge failed on everything, after a first success, before that stops the training."""

Completion = str | Sequence[Mapping[str, Any]]


def reward_function(
    judge: Judge,
    rubric: Rubric | RubricSet | Path,
    *,
    name: str | None = None,
    end_token_ids: Collection[int] = (),
    on_failure: Literal["none", "raise"] = "none",
    threads: int | None = None,
) -> RewardFunction:
    """Return a judge as a TRL reward function.

    A rubric judge gives its total from 0 to 1, a pairwise judge the mean probability of winning against the prompt's
    other completions, any other judge its own number. A completion that fails a gate counts 0, and no more than the
    worst that passes. The dataset's columns are the prompt's fields.

    A completion without a verdict gets None. Read in TRL 1.16: GRPOTrainer and RLOOTrainer leave it out of its group's
    baseline and give it no advantage, so it trains nothing. **OnlineDPOTrainer adds it up as 0 and takes the first of
    two equal completions as the better one**, so there a failure would become a label: use `on_failure="raise"`.

    Args:
        judge: a judge that is open (`prefdistill.assembly.opened_judge` opens a recipe's).
        rubric: the rubric, several by a column, or a rubric file.
        name: what TRL calls it in its logs; by default `judge_` and the judge's name.
        end_token_ids: the tokens that end a completion. Where they are given, a completion that holds none of them was
            cut at the limit and fails the built-in gate `complete`.
        on_failure: none gives a completion without a verdict None; raise stops the training there.
        threads: prompts judged at the same time; by default what the judge asks for.
    """
    rubrics = load_rubric(rubric) if isinstance(rubric, Path) else rubric
    if isinstance(rubrics, Rubric):
        rubrics = RubricSet(rubrics={"": rubrics})
    called = name or f"judge_{getattr(judge, '_use', '').rpartition(':')[2] or type(judge).__name__}"
    return RewardFunction(judge, rubrics, called, frozenset(end_token_ids), on_failure, threads)


class RewardFunction:
    """A judge that is called as TRL calls its reward functions; see `reward_function`."""

    def __init__(
        self,
        judge: Judge,
        rubrics: RubricSet,
        name: str,
        end_token_ids: frozenset[int],
        on_failure: Literal["none", "raise"],
        threads: int | None,
    ) -> None:
        self.judge = judge
        self.rubrics = rubrics
        self.end_token_ids = end_token_ids
        self.on_failure = on_failure
        self.threads = threads
        self.__name__ = name
        self._worked = False
        self._lost = 0

    def __call__(
        self, prompts: Sequence[Completion], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        """Return one reward a completion, None where the judge gave no verdict.

        Args:
            prompts: one a completion, texts or conversations; completions of equal prompts are judged together.
            completions: texts, or conversations that hold the assistant's message.
            columns: the dataset's other columns, one value a completion, and what TRL adds.

        Raises:
            JudgeError: the judge failed on all completions: of the first call, or of several in a row; or on one, with
                `on_failure="raise"`.
            PrefdistillError: the judge cannot judge at all, such as an unreachable server.
        """
        groups, places = self._groups(prompts, completions, columns)
        rewards: list[float | None] = [None] * len(prompts)
        failures: list[Failure] = []
        for verdict in judge_prompts(self.judge, groups.values(), self.rubrics, self.threads):
            prompt, drafts = groups[verdict.prompt_id]
            failures += verdict.failures
            for draft_id, reward in self._rewards(prompt, drafts, verdict).items():
                rewards[places[draft_id]] = reward
        self._report(rewards, failures, columns.get("log_metric"))
        return rewards

    def _groups(
        self, prompts: Sequence[Completion], completions: Sequence[Completion], columns: Mapping[str, Any]
    ) -> tuple[dict[str, tuple[Prompt, list[Draft]]], dict[str, int]]:
        """Return prompts with their drafts, and each draft's place in the call."""
        groups: dict[str, tuple[Prompt, list[Draft]]] = {}
        places: dict[str, int] = {}
        ids = columns.get("completion_ids")
        for place, (asked, completion) in enumerate(zip(prompts, completions, strict=True)):
            fields = {
                key: values[place]
                for key, values in columns.items()
                if key not in NOT_COLUMNS and isinstance(values, (list, tuple)) and len(values) == len(prompts)
            }
            messages = _messages(asked)
            prompt_id = digest([[[each.role, each.content] for each in messages], fields])
            if prompt_id not in groups:
                groups[prompt_id] = (self._prompt(prompt_id, messages, fields), [])
            prompt, drafts = groups[prompt_id]
            cut = bool(self.end_token_ids) and ids is not None and self.end_token_ids.isdisjoint(ids[place])
            draft = Draft(
                id=Draft.make_id(prompt.id, SOURCE, 0, "train", len(drafts)),
                prompt_id=prompt.id,
                source=SOURCE,
                policy=None,
                round=0,
                purpose="train",
                index=len(drafts),
                completion=_text(completion),
                finish_reason="length" if cut else "stop",
            )
            drafts.append(draft)
            places[draft.id] = place
        return groups, places

    def _prompt(self, prompt_id: str, messages: tuple[Message, ...], fields: dict[str, Any]) -> Prompt:
        try:
            return Prompt(id=prompt_id, messages=messages, split="train", fields=fields)
        except ValidationError as problem:
            found = ", ".join(each.role for each in messages) or "nothing"
            reason = problem.errors()[0]["msg"].removeprefix("Value error, ")
            raise JudgeError(f"reward function {self.__name__}: a prompt of {found}: {reason}") from None

    def _rewards(self, prompt: Prompt, drafts: Sequence[Draft], verdict: Verdict) -> dict[str, float]:
        """Return the reward of each draft that the verdict ranks."""
        ranking = rank_drafts(prompt, drafts, verdict, self.rubrics.of(prompt), round=0)
        passing = [each.score for each in ranking.entries if not each.gates]
        return {each.draft_id: _reward(each, passing) for each in ranking.entries}

    def _report(
        self, rewards: Sequence[float | None], failures: Sequence[Failure], log: Callable[[str, float], None] | None
    ) -> None:
        """Log the share without a reward; stop where the judge fails on everything."""
        missing = sum(reward is None for reward in rewards)
        if log is not None and rewards:
            log(f"{self.__name__}/failed", missing / len(rewards))
        first = failures[0] if failures else None
        found = f"{first.kind}: {first.message}" if first else "no verdict"
        where = f"reward function {self.__name__}"
        if missing and self.on_failure == "raise":
            raise JudgeError(f"{where}: {missing} of {len(rewards)} completions have no verdict; the first: {found}")
        lost = bool(rewards) and missing == len(rewards)
        self._lost = self._lost + 1 if lost else 0
        self._worked = self._worked or not lost
        if lost and (not self._worked or self._lost >= PATIENCE):
            raise JudgeError(
                f"{where}: the judge failed on all {len(rewards)} completions"
                f"{f', {self._lost} times in a row' if self._worked else ''}; the first: {found}; expected verdicts: "
                "try the judge on a few prompts with `prefdistill run RECIPE --preview 3`"
            )


def _reward(entry: RankedDraft, passing: Sequence[float]) -> float:
    """Return a draft's score; one that fails a gate counts 0, and no more than the worst that passes."""
    return min([0.0, *passing]) if entry.gates else entry.score


def _messages(prompt: Completion) -> tuple[Message, ...]:
    """Return a prompt as messages: a text is one question; what is neither said nor answered is the system's."""
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    roles: dict[Any, Role] = {"user": "user", "assistant": "assistant"}
    return tuple(Message(role=roles.get(each.get("role"), "system"), content=_content(each)) for each in prompt)


def _content(message: Mapping[str, Any]) -> str:
    """Return a message's text; content blocks are joined, those without text left out."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)


def _text(completion: Completion) -> str:
    """Return a completion's text: of a conversation, what the assistant says last."""
    if isinstance(completion, str):
        return completion
    said = [_content(each) for each in completion if each.get("role") == "assistant"]
    return said[-1] if said else ""
