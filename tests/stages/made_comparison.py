"""A made-up but realistic comparison: four arms, five seeds, eight rounds, by a seeded generator."""

import random

from prefdistill.stages.report.comparison import ArmInfo, ComparisonReport, Curve, CurvePoint, Note
from prefdistill.stages.report.tables import Column, Table

ARMS = (
    ArmInfo("offline", "All drafts come from the base, sampled once.", ("loop.mode=offline",), 1),
    ArmInfo("online", "Each round’s drafts come from the policy that the round before it trained.", (), 2),
    ArmInfo("online_prev", "As online, with the round before as the reference.", ("train.reference=previous",), 3),
    ArmInfo("random_labels", "As online, but which draft is chosen is drawn by lot.", ("pair.labels=random",), 4),
)
GAINS = {"offline": 0.20, "online": 0.26, "online_prev": 0.24, "random_labels": -0.04}
CRITERIA = ("request_first", "keeps_the_facts", "no_filler", "length", "addresses_the_reader")


def make_comparison(arms=ARMS, seeds=(7, 8, 9, 10, 11), rounds=8, usd=True, gold=True):
    """Return a comparison with every table and curve that a real one has."""
    chance = random.Random(4)
    curves = tuple(
        Curve(arm.label, seed, _points(chance, arm, seed, rounds, usd, gold), f"{arm.label}/seed-{seed}/report.html")
        for seed in seeds
        for arm in arms
    )
    return ComparisonReport(
        name="email-tone",
        version="0.1.0",
        headline="online beat offline by 0.06 (0.03 to 0.09) in rubric score at equal cost; both beat the base.",
        verdict=(
            "online’s drafts are 12 % longer than offline’s.",
            "The judge’s gain is 0.04 larger than the held-out judge’s: read ten drafts before you believe it.",
            "random_labels shows no difference from the base that 200 prompts could show; you would need about 780.",
        ),
        notes=(
            Note("info", "Five seeds; the intervals cover prompts and seeds."),
            Note("warning", "6.2 % of online_prev’s comparisons are unknown, more than 5 %."),
            Note("refused", "Gap recovered is not given: the teacher is only 0.04 above the base."),
        ),
        arms=arms,
        seeds=seeds,
        tables=_tables(chance, arms, seeds, rounds),
        curves=curves,
        recipe="name: email-tone\nseed: 7\nrubric: ../rubrics/email.yaml\nloop: {rounds: 8}\n",
        facts={
            "Evaluation judge": "held-out (gpt-5-mini), which took no part in training",
            "Training judge": "rubric (teacher-large)",
            "Test prompts": "200",
            "versions": "Python 3.11.9, torch 2.13.0",
        },
    )


def _points(chance, arm, seed, rounds, usd, gold):
    shift = random.Random(seed).uniform(-0.02, 0.02)
    spent, points = 0.0, []
    for number in range(rounds + 1):
        gain = GAINS.get(arm.label, 0.15) * (1 - 0.72**number) + (chance.uniform(-0.015, 0.015) if number else 0.0)
        spent += 2.4 if number else 0.2
        values = {
            "judged_drafts": 1024.0 * number,
            "judge_tokens": 5e6 * number,
            "seconds": 61.0 * (number + 1),
            "judge": 0.5 + shift + gain * 1.2,
            "held_out": 0.46 + shift + gain,
            "sqrt_kl": 0.0 if number == 0 else (0.3 + abs(gain) * 2.1 + 0.05 * number + chance.uniform(0, 0.05)),
            "tokens": 88 - 5.5 * gain * 20 + chance.uniform(-1, 1) if number else 88.0,
            "distinct_2": 0.71 - 0.02 * number + chance.uniform(-0.004, 0.004) if number else 0.71,
        }
        if gold:
            values["gold"] = 0.42 + shift + gain * 0.9
        if usd:
            values["usd"] = spent
        if number:
            rate = min(0.97, max(0.03, 0.5 + gain * 1.3))
            values |= {"win_rate": rate, "win_low": rate - 0.07, "win_high": min(1.0, rate + 0.065)}
            values |= {"pairs": 184.0 - 3 * number, "steps": 12.0}
        points.append(CurvePoint(number, values))
    return tuple(points)


def _tables(chance, arms, seeds, rounds):
    labels = [arm.label for arm in arms]
    return (
        Table(
            "arms",
            "On 200 test prompts",
            (
                Column("Arm"),
                Column("Held-out score", "score"),
                Column("95 % interval", "interval"),
                Column("Gain over the base", "signed"),
                Column("95 % interval", "signed_interval"),
                Column("Win rate over the base", "percent"),
                Column("95 % interval", "interval"),
                Column("At equal length", "percent"),
                Column("Gold", "score"),
                Column("Length", "ratio"),
                Column("Unknown", "count"),
                Column("US dollars", "usd"),
            ),
            (
                ("base", 0.461, (0.44, 0.482), None, None, None, None, None, 0.42, 1.0, 0, None),
                *(_arm_row(label) for label in labels),
                ("teacher", 0.902, (0.88, 0.92), 0.441, (0.42, 0.46), 0.96, (0.93, 0.98), None, 0.97, 1.1, 0, None),
            ),
            "Scores by the held-out judge; intervals over prompts and seeds.",
        ),
        Table(
            "pairs",
            "Arm against arm",
            (
                Column("Arm"),
                Column("Against"),
                Column("Difference", "signed"),
                Column("95 % interval", "signed_interval"),
                Column("Win rate", "percent"),
                Column("95 % interval", "interval"),
                Column("Seeds above", "text"),
                Column("p (Holm)", "score"),
            ),
            tuple(
                (
                    one,
                    other,
                    (gap := GAINS.get(one, 0.15) - GAINS.get(other, 0.15)),
                    (gap - 0.03, gap + 0.032),
                    0.5 + gap,
                    (0.43 + gap, 0.57 + gap),
                    "5 of 5",
                    0.012,
                )
                for index, one in enumerate(labels)
                for other in labels[index + 1 :]
            ),
        ),
        Table(
            "budgets",
            "Budgets",
            (
                Column("Arm"),
                Column("Train prompts", "count"),
                Column("Drafts judged", "count"),
                Column("Pairs", "count"),
                Column("Kept rounds"),
            ),
            tuple((label, 2048, 8192, 1400 - 31 * index, "8, 8, 7") for index, label in enumerate(labels)),
            "Pairs are what the judge left; steps were made equal.",
        ),
        Table(
            "criteria",
            "Criteria against the base",
            (
                Column("Criterion"),
                Column("Arm"),
                Column("base", "score"),
                Column("After", "score"),
                Column("Difference", "signed"),
                Column("Difference interval", "signed_interval"),
                Column("teacher", "score"),
            ),
            tuple(
                (name, label, 0.5, 0.5 + (gain := chance.uniform(-0.1, 0.4)), gain, (gain - 0.05, gain + 0.05), 0.93)
                for name in CRITERIA
                for label in labels
            ),
        ),
        Table(
            "rounds",
            "Every round of every run",
            (
                Column("Arm"),
                Column("Seed", "count"),
                Column("Round", "count"),
                Column("Held-out", "score"),
                Column("Pairs", "count"),
            ),
            tuple((x, seed, number, 0.6, 180) for x in labels for seed in seeds for number in range(1, rounds + 1)),
        ),
        Table(
            "findings",
            "What the rounds’ checks found",
            (Column("Arm"), Column("Seed", "count"), Column("Round", "count"), Column("Finding")),
            (
                (
                    "online",
                    7,
                    5,
                    "chosen is longer in 62 % of pairs (warn above 60 %): use length-matched pairs",
                ),
            ),
        ),
        Table(
            "seeds",
            "Seed by seed",
            (Column("Arm"), *(Column(f"seed {seed}", "score") for seed in seeds), Column("Spread", "score")),
            tuple((x, *[0.6 + chance.uniform(-0.02, 0.02) for _ in seeds], 0.011) for x in labels),
        ),
        Table(
            "power",
            "What this many prompts can show",
            (Column("Comparison"), Column("Smallest difference", "score"), Column("Prompts needed", "count")),
            (("online – offline", 0.031, 126), ("random_labels – base", None, 780)),
        ),
    )


def _arm_row(label):
    gain = GAINS.get(label, 0.15)
    score = 0.461 + gain
    return (
        label,
        score,
        (score - 0.021, score + 0.022),
        gain,
        (gain - 0.03, gain + 0.031),
        0.5 + 1.3 * gain,
        (0.43 + 1.3 * gain, 0.57 + 1.3 * gain),
        0.48 + 1.3 * gain,
        0.42 + 0.9 * gain,
        1.12,
        12,
        19.4,
    )
