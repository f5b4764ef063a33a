"""Measure the sandbox's judge language model on drafts it has not seen: how right, how biased, how sure it is.

Place in the flow: none at run time; run it after `build_judge`. Its drafts are the student's, on notes that neither of
the two models was trained on. Prints one table and exits 1 if a target is missed. With `--attacks N` it prints
instead how many verdicts N attack drafts change, as they are, without a target.

    python -m prefdistill.sandbox.measure_judge
    python -m prefdistill.sandbox.measure_judge --attacks 1000
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from prefdistill.judges.checks import checked_scores
from prefdistill.judges.replies import UnreadableReplyError, parse_levels, parse_winner
from prefdistill.records import CriterionScore, Prompt
from prefdistill.rubric import Rubric
from prefdistill.sandbox import JUDGE_DIRECTORY
from prefdistill.sandbox.gold import gold
from prefdistill.sandbox.judge_lessons import (
    Email,
    judge_rubric,
    render_comparison,
    render_question,
    to_draft,
    to_email,
)
from prefdistill.sandbox.judge_model import MENU, JudgeModel, drafts_to_judge, expected, named
from prefdistill.sandbox.measure_attacks import measure_attacks


def calibration_error(sure: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """Return the expected calibration error: how far the share that is right lies from the probability given."""
    error = 0.0
    for number in range(bins):
        chosen = [index for index, share in enumerate(sure) if min(int(share * bins), bins - 1) == number]
        if chosen:
            gap = statistics.mean(sure[index] for index in chosen) - statistics.mean(right[index] for index in chosen)
            error += abs(gap) * len(chosen) / len(sure)
    return error


def measure(directory: Path, seed: int, count: int) -> dict[str, float]:
    """Measure the judge on four drafts of each of `count` notes; shares and probabilities are 0 to 1."""
    model, rubric = JudgeModel(directory), judge_rubric()
    drafts = drafts_to_judge(count, seed)
    emails = [to_email(prompt, text, rubric) for prompt, text in drafts]
    began = time.perf_counter()
    levels = model.levels(drafts, rubric)
    seconds = (time.perf_counter() - began) / (len(drafts) * len(rubric.asked))
    result = level_figures(rubric, emails, levels)
    result |= {"milliseconds a question": 1000 * seconds} | total_figures(rubric, drafts, emails, levels)
    result |= comparison_figures(model, rubric, drafts, emails)
    return result | reply_figures(model, rubric, drafts, emails)


def level_figures(
    rubric: Rubric, emails: Sequence[Email], levels: Sequence[dict[str, list[float]]]
) -> dict[str, float]:
    """Compare the likeliest levels with the true ones, per criterion, and the probabilities with both."""
    result, sure, right = {}, [], []
    for each in rubric.asked:
        menu = each.levels or ()
        true = [email.levels[each.name] for email in emails]
        said = [named(menu, found[each.name]) for found in levels]
        hits = [a == b for a, b in zip(said, true, strict=True)]
        result[f"levels right: {each.name}"] = statistics.mean(hits)
        result[f"  commonest level: {each.name}"] = max(true.count(level) for level in menu) / len(true)
        right += hits
        sure += [max(found[each.name]) for found in levels]
    result["levels right: all"] = statistics.mean(right)
    result["mean probability of the level named"] = statistics.mean(sure)
    return result | {"calibration error of levels": calibration_error(sure, right)}


def total_figures(
    rubric: Rubric,
    drafts: Sequence[tuple[Prompt, str]],
    emails: Sequence[Email],
    levels: Sequence[dict[str, list[float]]],
) -> dict[str, float]:
    """Correlate totals with gold: the judge's, with levels as named and as expected, and those of the true levels."""
    from scipy.stats import spearmanr

    truth = [gold(text, prompt.fields) for prompt, text in drafts]
    totals: dict[str, list[float]] = {"expected levels": [], "levels named": [], "true levels": []}
    for (prompt, text), email, found in zip(drafts, emails, levels, strict=True):
        checks = checked_scores(prompt, to_draft(prompt, text), rubric)
        menus = {each.name: each.levels or () for each in rubric.asked}
        answers = {
            "expected levels": {each.name: expected(each, found[each.name]) for each in rubric.asked},
            "levels named": {
                each.name: each.score_of(named(menus[each.name], found[each.name])) for each in rubric.asked
            },
            "true levels": {each.name: each.score_of(email.levels[each.name]) for each in rubric.asked},
        }
        for path, scores in answers.items():
            marks = [CriterionScore(criterion=name, score=score, path="logprob") for name, score in scores.items()]
            total, failed = rubric.total([*checks, *marks])
            totals[path].append(0.0 if failed else total)
    return {f"Spearman with gold: {path}": float(spearmanr(found, truth).statistic) for path, found in totals.items()}


def comparison_figures(
    model: JudgeModel, rubric: Rubric, drafts: Sequence[tuple[Prompt, str]], emails: Sequence[Email]
) -> dict[str, float]:
    """Compare every two drafts of a note in both orders and hold the winners against gold."""
    pairs = [
        (start + a, start + b)
        for start in range(0, len(drafts), 4)
        for a, b in combinations(range(4), 2)
        if drafts[start + a][1] != drafts[start + b][1]
    ]
    truth = [gold(text, prompt.fields) for prompt, text in drafts]
    shown = [two for a, b in pairs for two in ((a, b), (b, a))]
    found = model.winners([(drafts[a][0], emails[a], emails[b]) for a, b in shown], rubric)
    forth, back = found[::2], found[1::2]
    said = [(named(MENU, x), named(MENU, y)) for x, y in zip(forth, back, strict=True)]
    same = [{"first": "second", "second": "first"}.get(x, x) == y for x, y in said]
    flips = [(x, y) for x, y in said if x == y != "tie"]
    better = [_first(x) + 1 - _first(y) for x, y in zip(forth, back, strict=True)]
    judged = [index for index, (a, b) in enumerate(pairs) if abs(truth[a] - truth[b]) > 0.01 and better[index] != 1]
    right = {index: (better[index] > 1) == (truth[pairs[index][0]] > truth[pairs[index][1]]) for index in judged}
    one = [_first(x) > 0.5 for x in forth]
    agreed = [index for index in judged if same[index] and said[index][0] != "tie"]
    far = [index for index in judged if abs(truth[pairs[index][0]] - truth[pairs[index][1]]) > 0.3]
    winners = [named(MENU, x) for x in forth]
    apart = [index for index, (a, b) in enumerate(pairs) if abs(emails[a].total - emails[b].total) > 0.02]
    correct = [(winners[i] == "first") == (emails[pairs[i][0]].total > emails[pairs[i][1]].total) for i in apart]
    return {
        "pairs right by gold, one order": statistics.mean(
            one[index] == (truth[pairs[index][0]] > truth[pairs[index][1]]) for index in judged
        ),
        "pairs right by gold, both orders averaged": statistics.mean(right.values()),
        "pairs right by gold, orders agree": statistics.mean(right[index] for index in agreed),
        "pairs right by gold, gold > 0.3 apart": statistics.mean(right[index] for index in far),
        "same winner in both orders": statistics.mean(x for x in same),
        "flip rate": len(flips) / len(pairs),
        "first-pick share of flips": statistics.mean(x == "first" for x, _ in flips) if flips else 0.0,
        "ties": sum(x == "tie" for two in said for x in two) / (2 * len(said)),
        "calibration error of winners": calibration_error([max(forth[index]) for index in apart], correct),
    }


def _first(shares: Sequence[float]) -> float:
    """Return the probability that the first shown is better."""
    return shares[MENU.index("first")] + shares[MENU.index("tie")] / 2


def reply_figures(
    model: JudgeModel, rubric: Rubric, drafts: Sequence[tuple[Prompt, str]], emails: Sequence[Email], count: int = 100
) -> dict[str, float]:
    """Have the model write its replies, as behind a server, and read them as the toolkit reads any reply."""
    count = min(count, len(drafts))
    readable = {"a criterion a call": 0, "all criteria in a call": 0, "comparison": 0}
    right = 0
    alone = [rubric.asked[index % len(rubric.asked)] for index in range(count)]
    asked = list(zip(drafts[:count], alone, strict=True))
    replies = model.replies([render_question(prompt, text, rubric, (each,)) for (prompt, text), each in asked])
    for reply, each in zip(replies, alone, strict=True):
        readable["a criterion a call"] += _reads(lambda text, each=each: parse_levels(text, (each,)), reply)
    replies = model.replies([render_question(prompt, text, rubric, rubric.asked) for prompt, text in drafts[:count]])
    for reply, email in zip(replies, emails, strict=False):
        if _reads(lambda text: parse_levels(text, rubric.asked), reply):
            readable["all criteria in a call"] += 1
            right += sum(email.levels[name] == level for name, (level, _) in parse_levels(reply, rubric.asked).items())
    pairs = [(drafts[index][0], emails[index], emails[index + 1]) for index in range(0, count, 2)]
    replies = model.replies([render_comparison(*each, rubric) for each in pairs])
    readable["comparison"] = round(sum(_reads(parse_winner, reply) for reply in replies) * count / len(pairs))
    result = {f"readable replies: {kind}": hits / count for kind, hits in readable.items()}
    asked_at_once = readable["all criteria in a call"] * len(rubric.asked)
    return {**result, "levels right: all criteria in a call": right / asked_at_once if asked_at_once else 0.0}


def _reads(parse: Any, text: str) -> bool:
    try:
        parse(text)
    except UnreadableReplyError:
        return False
    return True


def missed(result: dict[str, float]) -> list[str]:
    """Name the targets that a measurement misses."""
    ranges = {
        "levels right: all": (0.8, 0.995),
        "calibration error of levels": (0.0, 0.15),
        "Spearman with gold: expected levels": (0.6, 0.97),
        "pairs right by gold, both orders averaged": (0.7, 0.97),
        "flip rate": (0.03, 0.4),
        "first-pick share of flips": (0.6, 1.0),
        "readable replies: a criterion a call": (0.97, 1.0),
        "readable replies: comparison": (0.97, 1.0),
    }
    return [name for name, (low, high) in ranges.items() if not low <= result[name] <= high]


def main(argv: list[str] | None = None) -> None:
    """Measure the judge language model and print a table."""
    parser = argparse.ArgumentParser(prog="python -m prefdistill.sandbox.measure_judge", description=main.__doc__)
    parser.add_argument("--judge", type=Path, default=JUDGE_DIRECTORY)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--notes", type=int, default=150, help="notes with four drafts each")
    parser.add_argument("--attacks", type=int, help="throw so many attack drafts at it instead")
    options = parser.parse_args(argv)
    if options.attacks:
        figures = measure_attacks(options.judge, options.seed, options.attacks)
        columns = list(figures["all"])
        print(f"{'attack':14}" + "".join(f"{name:>22}" for name in columns))
        for kind, row in figures.items():
            print(
                f"{kind:14}"
                + "".join(f"{row[name]:22.3f}" if name != "attacks" else f"{row[name]:22.0f}" for name in columns)
            )
        return
    result = measure(options.judge, options.seed, options.notes)
    for name, value in result.items():
        print(f"{name:48}{value:8.3f}")
    problems = missed(result)
    print("all targets met" if not problems else "missed: " + "; ".join(problems))
    if problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
