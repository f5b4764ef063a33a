"""`run --preview N`: load to pair on a few prompts, with everything shown and nothing trained.

What a person sees is what the judge saw: the rendered judge prompt, its raw reply, the levels read from it, the
ranking and the pair, and what it cost. The request cache is the run's own, so nothing is paid for twice.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule

from prefdistill.answers import write_answers
from prefdistill.assembly import Workshop, opened
from prefdistill.drafting import drafts_and_verdicts
from prefdistill.loop import train_drafts
from prefdistill.protocols import LearnsFrom, learns_from
from prefdistill.recipe import Recipe
from prefdistill.records import Answer, Draft, Drop, PreferencePair, Prompt, Ranking, Usage, Verdict
from prefdistill.round import TrainingRow, rank_and_pair
from prefdistill.run import RunDirectory
from prefdistill.stages.load import round_slices


def show_preview(recipe: Recipe, count: int, console: Console) -> None:
    """Sample, judge, rank and pair `count` train prompts and print every step; nothing is trained or kept."""
    with tempfile.TemporaryDirectory(prefix="prefdistill-preview-") as folder:
        run = RunDirectory(Path(folder) / "run")
        with opened(recipe, run, trains=False) as shop:
            shop.batches = False
            for note in shop.notes:
                _print(console, note)
            prompts = round_slices(shop.prompts.of("train"), 1, count, recipe.seed)[0]
            first = recipe.first_round
            for number in range(1, first + min(recipe.loop.rounds, 1)):
                if recipe.pairs_from(number) is not None:
                    _print(
                        console, f"round {number} trains on the pairs of {recipe.pairs_from(number)}; nothing is asked"
                    )
                    continue
                if first > 1:
                    console.print(
                        Rule("the warm start" if number < first else "the first round, sampled from the base")
                    )
                _preview(console, shop, number, prompts)


def _preview(console: Console, shop: Workshop, number: int, prompts: tuple[Prompt, ...]) -> None:
    """Make a round's drafts, verdicts and pairs, or answers, and print them."""
    what = learns_from(shop.trainer_of(number))
    if what == "answers":
        judged, paired = write_answers(shop, number, prompts)
    else:
        judged = drafts_and_verdicts(shop, train_drafts(shop, number, prompts, shop.base), {"verdicts": shop.judge})
        paired = rank_and_pair(shop, number, judged)
    verdicts, groups = judged.verdicts["verdicts"], judged.groups()
    for prompt in prompts:
        ranking = next((each for each in paired.rankings if each.prompt_id == prompt.id), None)
        outcome: list[TrainingRow | Drop] = [row for row in paired.rows if row.prompt_id == prompt.id]
        outcome += [drop for drop in paired.drops if drop.prompt_id == prompt.id]
        _show_prompt(console, shop, prompt, groups[prompt.id], verdicts.get(prompt.id), ranking, outcome, what)
    usage = sum((verdict.usage for verdict in verdicts.values()), Usage())
    console.print(Rule())
    _print(
        console,
        f"{len(prompts)} prompts, {len(judged.drafts)} drafts, {len(paired.rows)} {what}; "
        f"{usage.calls} calls, {usage.cached} from the request cache, {usage.prompt_tokens} + "
        f"{usage.completion_tokens} tokens, {usage.usd:.4f} USD (0 where the recipe gives no prices)",
    )


def _print(console: Console, text: str, style: str | None = None) -> None:
    """Print text as it is: model text is never read as markup."""
    console.print(text, markup=False, highlight=False, style=style, soft_wrap=True)


def _show_prompt(
    console: Console,
    shop: Workshop,
    prompt: Prompt,
    drafts: list[Draft],
    verdict: Verdict | None,
    ranking: Ranking | None,
    outcome: list[TrainingRow | Drop],
    what: LearnsFrom,
) -> None:
    console.print(Rule(f"prompt {prompt.id}"))
    for message in prompt.messages:
        _print(console, f"[{message.role}] {message.content}")
    judge: Any = shop.judge
    shown = [draft.model_copy(update={"trace": ""}) for draft in drafts]  # as any judge gets them
    if drafts and verdict is not None and hasattr(judge, "preview"):
        _print(console, "\nwhat the judge is sent about the first draft:", "bold")
        _print(console, judge.preview(prompt, shown[0], shop.rubrics.of(prompt)), "dim")
        if hasattr(judge, "raw_reply") and shop.recipe.cache != "off":
            _print(console, "\nwhat it replied:", "bold")
            _print(console, judge.raw_reply(prompt, shown[0], shop.rubrics.of(prompt)), "dim")
    for draft in drafts:
        _print(console, f"\ndraft {draft.index} ({draft.source}, {draft.finish_reason}, {draft.tokens} tokens)", "bold")
        if draft.trace:
            _print(console, draft.trace.rstrip(), "dim")
        _print(console, draft.completion)
        if verdict is not None:
            _show_judgement(console, draft, verdict)
    if verdict is not None:
        for preference in verdict.preferences:
            _print(
                console,
                f"compared: {_index(preference.first_id)} shown first, {_index(preference.second_id)} second: "
                f"the first is better with probability {preference.probability:.2f} {preference.reason}",
            )
    if ranking is not None:
        places = ", ".join(
            f"{entry.rank}. draft {_index(entry.draft_id)} {entry.score:.3f}"
            f"{' fails ' + ' and '.join(entry.gates) if entry.gates else ''}"
            for entry in ranking.entries
        )
        _print(console, f"\nranking: {places or 'nobody'}")
    for row in outcome:
        if isinstance(row, PreferencePair):
            chosen, rejected = _index(row.chosen_id), _index(row.rejected_id)
            _print(console, f"pair: draft {chosen} chosen, draft {rejected} rejected, margin {row.margin:.3f}")
        elif isinstance(row, Answer):
            _print(
                console, "answer: trained on as it is" if not (row.trace or row.block) else "answer: trained on after"
            )
            if row.trace or row.block:
                _print(console, (row.trace or row.block).rstrip(), "dim")
        else:
            _print(console, f"no {what[:-1]}: {row.reason} {row.detail}")


def _show_judgement(console: Console, draft: Draft, verdict: Verdict) -> None:
    for judgement in verdict.judgements:
        if judgement.draft_id != draft.id:
            continue
        if judgement.value is not None:
            _print(console, f"  value {judgement.value:.3f} ({judgement.judge})")
        for score in judgement.scores:
            shown = "does not apply" if score.score is None else f"{score.score:.2f}"
            level = f" `{score.level}`" if score.level is not None else ""
            _print(console, f"  {score.criterion}: {shown}{level} ({score.path}) {score.reason}")
    for failure in verdict.failures:
        if draft.id in failure.key.split("|"):
            _print(console, f"  failure ({failure.kind}): {failure.message}")
            if failure.reply:
                _print(console, f"  the reply was: {failure.reply}", "dim")


def _index(draft_id: str) -> str:
    return draft_id.rsplit("/", 1)[-1]
