"""`prefdistill draft RUN`: drafts by a run's policy for prompts of one's own, through the run's own sampler."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefdistill.errors import PrefdistillError, RecipeError
from prefdistill.judges.checks import checked_scores
from prefdistill.plugins import Plugin
from prefdistill.protocols import RunContext
from prefdistill.recipe import Recipe
from prefdistill.records import CriterionScore, Draft, Failure, Policy, Prompt
from prefdistill.run import RunDirectory
from prefdistill.stages.load import load_unsplit, read_rows
from prefdistill.stages.sample import sample_drafts
from prefdistill.stored import choices_of, stored_policy, stored_run_traced
from prefdistill.using.talking import printable


@dataclass(frozen=True)
class Written:
    """A draft with what costs nothing to know about it."""

    prompt: Prompt
    draft: Draft
    scores: tuple[CriterionScore, ...] = ()
    """By the rubric's checks that apply."""
    note: str = ""
    """Why it has no scores."""

    def row(self) -> dict[str, Any]:
        """Return it as JSON values."""
        kept = ("prompt_id", "index", "completion", "finish_reason", "tokens", "seed")
        found = {key: getattr(self.draft, key) for key in kept}
        scores = {each.criterion: each.score for each in self.scores}
        return {
            **found,
            **({"trace": self.draft.trace} if self.draft.trace else {}),
            **({"stray_tag": self.draft.stray_tag} if self.draft.stray_tag else {}),
            "model": _who(self.draft.policy),
            "scores": scores,
            **({"note": self.note} if self.note else {}),
        }


def read_prompts(recipe: Recipe, text: str | None, file: str | None) -> list[Prompt]:
    """Return the prompts of a text or of a file of rows, in their order; `-` is standard input.

    Raises:
        RecipeError: there is none, or a row cannot be used.
    """
    if (text is None) == (file is None):
        raise RecipeError(
            "give the prompt with --prompt TEXT, or prompts with --file rows.jsonl (`-` is standard input)"
        )
    if text is not None:
        said = sys.stdin.read() if text == "-" else text
        if not said.strip():
            raise RecipeError("--prompt: the text is empty; expected what the student should write about")
        rows: Iterator[tuple[str, Mapping[str, Any]]] = iter([("--prompt", {"prompt": said.strip()})])
        columns: Mapping[str, str] = {}
    else:
        rows = _rows_of_input() if file == "-" else read_rows(Path(str(file)))
        columns = recipe.prompts.columns
    prompts: dict[str, Prompt] = {}
    for where, row in rows:
        loaded = load_unsplit([(where, row)], columns, recipe.student.system_text())
        prompts |= {prompt.id: prompt for prompt in loaded.prompts}
    return list(prompts.values())


def _rows_of_input() -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(sys.stdin, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as problem:
            raise RecipeError(
                f"standard input:{number}: not valid JSON ({problem.msg}); expected a row a line"
            ) from None
        if not isinstance(row, dict):
            raise RecipeError(f'standard input:{number}: expected an object such as {{"prompt": …}}')
        yield f"standard input:{number}", row


def write_drafts(
    run: RunDirectory,
    recipe: Recipe,
    policy: Policy,
    prompts: Sequence[Prompt],
    drafts: int,
    temperature: float | None,
    seed: int | None,
) -> Iterator[Written | Failure]:
    """Yield each draft as it is written, by the sampler of the run and with the weights that the run chose.

    Seed and settings are those of the run's evaluation, so that a prompt of the test split gets, at index 0, the draft
    by which the policy was measured. Nothing is written into the run folder.
    """
    from prefdistill.requests.layer import RequestLayer

    sampler: Any = recipe.sample.sampler
    layer = RequestLayer(cache="off")
    context = RunContext(
        directory=run.path.resolve(), seed=recipe.seed, student=recipe.student, requests=layer, choices=choices_of(run)
    )
    by_id = {prompt.id: prompt for prompt in prompts}
    try:
        if isinstance(sampler, Plugin):
            sampler.open(context)
        for each in sample_drafts(
            sampler,
            policy,
            prompts,
            {},
            source="base" if policy.adapter is None else "student",
            round=policy.round,
            purpose="test",
            drafts=drafts,
            temperature=recipe.evaluate.temperature if temperature is None else temperature,
            top_p=recipe.evaluate.top_p,
            max_new_tokens=recipe.sample.max_new_tokens,
            seed=recipe.seed if seed is None else seed,
            tags=None if recipe.student.trace is None else recipe.student.tags,
        ):
            yield each if isinstance(each, Failure) else _checked(recipe, by_id[each.prompt_id], each)
    finally:
        if isinstance(sampler, Plugin):
            sampler.close()
        layer.close()


def _checked(recipe: Recipe, prompt: Prompt, draft: Draft) -> Written:
    try:
        scores = checked_scores(prompt, draft, recipe.rubrics.of(prompt))
    except PrefdistillError as problem:  # the row lacks the column that chooses a rubric, or a check cannot read it
        return Written(prompt, draft, note=f"not checked: {problem}")
    return Written(prompt, draft, tuple(score for score in scores if score.applies))


def draft(
    folder: Path,
    text: str | None,
    file: str | None,
    drafts: int,
    number: int | None,
    temperature: float | None,
    seed: int | None,
    as_json: bool,
    no_trace: bool = False,
) -> int:
    """Print drafts as they are written; return how many could not be."""
    run, recipe = stored_run_traced(folder, no_trace)
    policy, prompts, failed = stored_policy(run, recipe, number), read_prompts(recipe, text, file), 0
    for each in write_drafts(run, recipe, policy, prompts, drafts, temperature, seed):
        if isinstance(each, Failure):
            failed += 1
            print(f"{each.key}: no draft ({each.kind}): {each.message}", file=sys.stderr, flush=True)
        elif as_json:
            print(json.dumps(each.row(), ensure_ascii=False), flush=True)
        else:
            print("\n".join(_lines(each, len(prompts) > 1)), flush=True)
    return failed


def _lines(written: Written, named: bool) -> Iterator[str]:
    draft = written.draft
    cut = f", cut at {draft.tokens} tokens" if draft.finish_reason == "length" else ""
    stray = f", a stray {printable(draft.stray_tag)} in its answer" if draft.stray_tag else ""
    of = f"{written.prompt.id} " if named else ""
    yield f"--- {of}draft {draft.index + 1} by {_who(draft.policy)}{cut}{stray}"
    if draft.trace:
        yield printable(draft.trace.rstrip())
        yield ""
    yield printable(draft.completion)
    if written.scores:
        yield "checks: " + ", ".join(f"{each.criterion} {each.score:.2f}" for each in written.scores)
    if written.note:
        yield written.note
    yield ""


def _who(policy: Policy | None) -> str:
    return "the base" if policy is None or policy.adapter is None else f"round {policy.round}"
