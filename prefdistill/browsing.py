"""Rows of the report's browser of drafts, read from finished runs.

Place in the flow: after a run and after a comparison, when a report is rendered. The rows are read from the run
folders each time and kept nowhere else, so a prompt that was forgotten is in no report that is rendered afterwards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefdistill.finished import FinishedRun, Written
from prefdistill.injection import addresses_judge
from prefdistill.metrics.rates import outcome_of
from prefdistill.metrics.scores import DraftScore, draft_scores
from prefdistill.records import Answer, Draft, Drop, Failure, Outcome, PreferencePair, Prompt, Verdict
from prefdistill.rubric import COMPLETE
from prefdistill.selection import compare
from prefdistill.stages.report.browsing import (
    BrowserColumn,
    BrowserData,
    BrowserDraft,
    BrowserPair,
    BrowserRow,
    PairRow,
)

BASE, KEPT, TEACHER = "Base", "Kept policy", "Teacher"
STRATEGIES = {
    "best_worst": "the best against the worst",
    "best_random": "the best against one drawn from those below it",
    "mean_minus_2sd": "the best against the one nearest to two standard deviations below the mean",
    "all_above_margin": "two whose margin is large enough",
}
"""What each of `pair.strategy` picks from a prompt's drafts."""
_JUDGES = {"verdicts": "training judge", "held-out": "evaluation judge", "gold": "gold"}


def rows_of_run(run: FinishedRun) -> BrowserData:
    """Return the held-out drafts of base, kept policy and teacher, and the pairs of each round."""
    own = run.test["policy"] is not run.test["base"]
    arms = {KEPT: (run, run.test["policy"])} if own else {}
    pairs = tuple(row for number in range(1, run.trained + 1) for row in _pair_rows(run, number))
    return BrowserData(
        columns=_columns(run, arms),
        rows=tuple(_rows(run, arms)),
        pair_rows=pairs,
        trains_on="answers" if any(_answers_of(run, number) for number in range(1, run.trained + 1)) else "pairs",
        **_judges(run),
    )


def rows_of_comparison(arms: Mapping[str, FinishedRun], links: Mapping[str, str] | None = None) -> BrowserData:
    """Return the held-out drafts of base, each arm and teacher; `arms` are the runs of one seed, by label.

    `links` are the addresses of the arms' own reports, relative to the comparison's, by label: they show the pairs.
    Base and teacher are those of the first run that has them.
    """
    first = next(iter(arms.values()))
    written = {_title(label): (run, run.test["policy"]) for label, run in arms.items()}
    return BrowserData(
        columns=_columns(first, written),
        rows=tuple(_rows(first, written)),
        links=tuple((links or {}).items()),
        **_judges(first),
    )


def _said(title: str) -> str:
    return "the kept policy" if title == KEPT else ""


def _title(label: str) -> str:
    return f"{label} (arm)" if label in (BASE, TEACHER) else label


def _judges(run: FinishedRun) -> dict[str, Any]:
    judge: Any = run.recipe.judge
    evaluation: Any = run.recipe.held_out_judge or run.recipe.judge
    return {"judge": judge._use, "evaluation_judge": evaluation._use, "self_judged": run.self_judged}


def _columns(run: FinishedRun, arms: Mapping[str, tuple[FinishedRun, Written]]) -> tuple[BrowserColumn, ...]:
    teacher = (BrowserColumn(TEACHER, "teacher", said="the teacher"),) if "teacher" in run.test else ()
    middle = (BrowserColumn(title, "arm", _kept(arm), _said(title)) for title, (arm, _) in arms.items())
    return (BrowserColumn(BASE, "base", said="the base"), *middle, *teacher)


def _kept(run: FinishedRun) -> str:
    """Say which policy wrote an arm's drafts, and how they were picked."""
    best_of = run.recipe.evaluate.best_of
    policy = f"round {run.kept}" if run.kept else "the base"
    return f"{policy}, best of {best_of}" if best_of > 1 else policy


def _rows(first: FinishedRun, arms: Mapping[str, tuple[FinishedRun, Written]]) -> Iterator[BrowserRow]:
    """Yield a row for each test prompt that anyone wrote on; base and teacher are those of `first`."""
    base, teacher = first.test["base"], first.test.get("teacher")
    columns = {BASE: (first, base), **arms, **({TEACHER: (first, teacher)} if teacher else {})}
    prompts = {key: prompt for run, _ in columns.values() for key, prompt in run.prompts.items()}
    margin = first.recipe.evaluate.tie_margin
    wanted = {key for _, written in columns.values() for key in written.drafts}
    for key in sorted(wanted & prompts.keys()):
        prompt = prompts[key]
        drafts = {
            title: _draft(written.drafts[key], prompt, _scores(run, written, key), _test_failure(run, written, key))
            for title, (run, written) in columns.items()
            if key in written.drafts
        }
        outcomes = {
            title: _outcome(key, title, columns, drafts, margin) for title in drafts if title != BASE and BASE in drafts
        }
        yield BrowserRow(key, prompt.messages, drafts, outcomes, first.rubrics.kind(prompt), _label(prompt))


def _outcome(
    key: str,
    title: str,
    columns: Mapping[str, tuple[FinishedRun, Written]],
    drafts: Mapping[str, BrowserDraft],
    margin: float,
) -> Outcome:
    """Return what the run says of its draft against its base's, where that is the base's draft shown; else by score."""
    run, _ = columns[title]
    stored = run.comparisons.get("base", {}).get(key)
    theirs = run.test["base"].drafts.get(key)
    if title != TEACHER and stored and theirs and theirs.completion == drafts[BASE].completion:
        return stored.outcome
    ours, base = drafts[title].evaluation, drafts[BASE].evaluation
    return "unknown" if ours is None or base is None else outcome_of(ours, base, margin)


def _scores(run: FinishedRun, written: Written, key: str) -> tuple[DraftScore | None, DraftScore | None, float | None]:
    """Return a test draft's score by the evaluation judge, by the training judge where that is another, and gold."""
    gold = written.by("gold", run.self_judged).get(key)
    judge = None if run.self_judged else written.by("judge", run.self_judged).get(key)
    return written.by("evaluation", run.self_judged).get(key), judge, gold.gated_score if gold else None


def _test_failure(run: FinishedRun, written: Written, key: str) -> str:
    """Return why a judge gave a test draft no score; empty where it did, be it that a member of its panel failed."""
    failure = written.failures.get(key, "")
    evaluation, judge, _ = _scores(run, written, key)
    missing = {"verdicts": evaluation if run.self_judged else judge, "held-out": evaluation}
    return failure if missing.get(failure.partition(":")[0], failure) is None else ""


def _draft(
    draft: Draft,
    prompt: Prompt,
    scores: tuple[DraftScore | None, DraftScore | None, float | None],
    failure: str,
    writer: str = "",
) -> BrowserDraft:
    """Return a draft with what the judges found; criteria and gates are the training judge's where there are two."""
    evaluation, judge, gold = scores
    detail = judge or evaluation
    gates = detail.gates if detail else ()
    other = evaluation.gates if evaluation and judge else ()
    where, kind, message = [*failure.split(": ", 2), "", "", ""][:3] if failure else ("", "", "")
    return BrowserDraft(
        completion=draft.completion,
        writer=writer,
        evaluation=evaluation.gated_score if evaluation else None,
        judge=judge.gated_score if judge else None,
        gold=gold,
        gates=(
            *(name for name in gates if name != COMPLETE),
            *(f"{name} (evaluation judge)" for name in other if name not in (*gates, COMPLETE)),
        ),
        criteria=detail.criteria if detail else (),
        evaluation_criteria=evaluation.criteria if evaluation and judge else (),
        cut=draft.finish_reason == "length",
        failure=f"{_JUDGES.get(where, where)}: {kind}" if failure else "",
        failure_detail=message,
        addresses=addresses_judge(draft.completion, prompt.text) or "",
    )


def _label(prompt: Prompt) -> str:
    return next((tag.removeprefix("id:") for tag in prompt.tags if tag.startswith("id:")), "")


def _answers_of(run: FinishedRun, number: int) -> tuple[Answer, ...]:
    """Return the teacher's answers that a round trained on, where its trainer learns from those."""
    return tuple(run.directory.rows(run.directory.round(number), "4-answers.jsonl", Answer).read().values())


def _pair_rows(run: FinishedRun, number: int) -> Iterator[PairRow]:
    """Yield a row for each training prompt of a round, in the order of prompt ids."""
    pairs: dict[str, list[PreferencePair]] = defaultdict(list)
    for pair in run.pairs(number):
        pairs[pair.prompt_id].append(pair)
    drops = {drop.prompt_id: drop for drop in run.drops(number)}
    answered = {answer.prompt_id for answer in _answers_of(run, number)}
    drafts: dict[str, list[Draft]] = defaultdict(list)
    for draft in run.train_drafts(number).values():
        drafts[draft.prompt_id].append(draft)
    verdicts = run.train_verdicts(number)
    wanted = sorted((pairs.keys() | drops.keys() | answered) & run.prompts.keys())
    prompts = [run.prompts[key] for key in wanted]
    scores = draft_scores(verdicts.values(), (each for key in wanted for each in drafts[key]), prompts, run.rubrics)
    for prompt in prompts:
        verdict = verdicts.get(prompt.id, Verdict(prompt_id=prompt.id))
        yield _pair_row(run, number, prompt, drafts[prompt.id], pairs[prompt.id], drops.get(prompt.id), scores, verdict)


def _pair_row(
    run: FinishedRun,
    number: int,
    prompt: Prompt,
    drafts: Sequence[Draft],
    pairs: Sequence[PreferencePair],
    drop: Drop | None,
    scores: Mapping[str, DraftScore],
    verdict: Verdict,
) -> PairRow:
    shown = [
        _draft(each, prompt, (None, scores.get(each.id), None), _failure(each, verdict, scores), _writer(each))
        for each in drafts
    ]
    place = {each.id: index for index, each in enumerate(drafts)}
    kept = []
    for pair in pairs:
        for draft_id, text in ((pair.chosen_id, pair.chosen), (pair.rejected_id, pair.rejected)):
            if draft_id not in place:  # the drafts' file was removed or is another's
                place[draft_id] = len(shown)
                shown.append(BrowserDraft(text))
        chosen, rejected = place[pair.chosen_id], place[pair.rejected_id]
        why = tuple(_why(run, pair, len(shown), shown[rejected], verdict))
        kept.append(BrowserPair(chosen, rejected, pair.chosen_score, pair.rejected_score, pair.margin, pair.scale, why))
    return PairRow(
        id=prompt.id,
        round=number,
        messages=prompt.messages,
        drafts=tuple(shown),
        pairs=tuple(kept),
        reason="" if kept or drop is None else drop.reason,
        detail="" if kept or drop is None else drop.detail,
        kind=run.rubrics.kind(prompt),
        label=_label(prompt),
    )


def _writer(draft: Draft) -> str:
    return draft.source if draft.source == "teacher" or draft.source.startswith("file:") else ""


def _failure(draft: Draft, verdict: Verdict, scores: Mapping[str, DraftScore]) -> str:
    """Return why a draft has no score, in the shape of `Written.failures`."""
    if draft.id in scores:
        return ""
    wrong: Failure | None = next((each for each in verdict.failures if draft.id in each.key.split("|")), None)
    return f"verdicts: {wrong.kind}: {wrong.message}" if wrong else ""


def _why(
    run: FinishedRun, pair: PreferencePair, drafts: int, rejected: BrowserDraft, verdict: Verdict
) -> Iterator[str]:
    """Yield why a pair was kept, a clause each."""
    options = run.recipe.pair
    if run.recipe.loop.pairs_from is not None:
        yield "made in the run that loop.pairs_from names, whose pairs are shuffled over the rounds"
    yield f"{STRATEGIES.get(options.strategy, options.strategy)} of {drafts} drafts"
    if options.min_margin is not None or pair.scale != "custom":
        yield f"its margin of {pair.margin:.2f} is at least {options.margin_for(pair.scale):g}"
    if options.labels == "random":
        yield "which of the two is chosen was then drawn by lot"
    elif rejected.gates:
        yield f"the rejected draft fails {', '.join(rejected.gates)} and counts 0"
    compared = compare(verdict.preferences, pair.chosen_id, pair.rejected_id)
    if compared is not None and compared.agree:
        preferred = "chosen" if compared.probability > 0.5 else "rejected"
        yield (
            f"the judge prefers the {preferred} one in both orders, with probabilities "
            f"{compared.shown_first:.2f} and {compared.shown_second:.2f} that the chosen one is better"
        )
