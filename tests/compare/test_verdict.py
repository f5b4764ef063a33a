"""What is claimed, and what is not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefdistill.compare.analysis import analyse
from prefdistill.compare.data import ArmRun
from prefdistill.stages.report.comparison import ComparisonReport
from tests.compare.runs import Fake, write_arms
from tests.compare.test_analysis import PROMPTS, compared, fakes


def said(report: ComparisonReport) -> str:
    return "\n".join([report.headline, *report.verdict])


def test_a_clear_difference(tmp_path: Path) -> None:
    report, result, _ = compared(tmp_path, offline=fakes(0.10, 1), online=fakes(0.20, 2))
    assert report.headline.startswith("online beat offline by 0.09 (0.05 to 0.14) ")
    assert (
        "in rubric score at equal cost, by the held-out judge judges.py:HeldOut; both beat the base." in report.headline
    )
    assert {"better": "online", "worse": "offline"}.items() <= result["claims"][0].items()
    assert "it is ahead in 3 of 3 seeds" in said(report)


def test_no_difference_says_how_many_prompts_it_takes(tmp_path: Path) -> None:
    report, result, _ = compared(tmp_path, offline=fakes(0.100, 1, [7]), online=fakes(0.105, 2, [7]))
    assert report.headline.startswith("No clear difference between ")
    assert "that 60 prompts could show" in report.headline and "you would need about " in report.headline
    assert not [each for each in result["claims"] if "base" not in (each["better"], each["worse"])]
    assert "The smallest difference that 60 prompts show four times in five" in said(report)


def test_seeds_that_disagree_make_no_claim(tmp_path: Path) -> None:
    """Large differences that change their sign with the seed: an interval over prompts alone would claim one."""
    online = [fakes(lift, 2, [seed])[0] for lift, seed in ((0.3, 7), (0.0, 8), (0.25, 9))]
    report, result, _ = compared(tmp_path, offline=fakes(0.1, 1), online=online)
    assert report.headline.startswith("No clear difference between online and offline")
    assert "more seeds, not more prompts" in report.headline
    assert result["pairs"][0]["permutation_p"] < 0.05


def test_no_claim_without_prompts_enough(tmp_path: Path) -> None:
    runs = {
        name: [Fake([lift + 0.3] * 12, [0.3] * 12, seed=7)] for name, lift in {"offline": 0.1, "online": 0.5}.items()
    }
    report, result, _ = compared(tmp_path, **runs)
    assert report.headline.startswith("No claim: 12 test prompts are too few")
    assert "beat" not in said(report) and result["claims"] == []


def test_one_prompt(tmp_path: Path) -> None:
    report, result, _ = compared(tmp_path, offline=[Fake([0.2], [0.1])], online=[Fake([0.9], [0.1])])
    assert report.headline.startswith("No claim: 1 test prompt is too few")
    assert result["pairs"][0]["difference"]["interval"] is None


def test_too_many_unknown(tmp_path: Path) -> None:
    online = fakes(0.2, 2)
    online[0].policy = [None] * 20 + list(online[0].policy)[20:]
    report, result, _ = compared(tmp_path, offline=fakes(0.1, 1), online=online)
    assert report.headline.startswith("No verdict: 20 of 180 comparisons of online with the base (11.1%)")
    assert "beat" not in said(report) and result["claims"] == []
    assert [note.level for note in report.notes].count("refused") == 1


def test_all_unknown(tmp_path: Path) -> None:
    online = [replace(each, policy=[None] * PROMPTS) for each in fakes(0.2, 2)]
    report, result, _ = compared(tmp_path, offline=fakes(0.1, 1), online=online)
    assert report.headline.startswith("No verdict: 180 of 180 comparisons of online")
    assert result["pairs"][0]["difference"] is None and result["arms"][1]["means"]["score"] is None


def failing(arm_runs: list[ArmRun], label: str, seeds: tuple[int, ...]) -> list[ArmRun]:
    return [
        replace(each, run=None, failed="out of memory") if each.label == label and each.seed in seeds else each
        for each in arm_runs
    ]


def test_a_failed_seed_is_left_out_for_all(tmp_path: Path) -> None:
    runs = write_arms(tmp_path, offline=fakes(0.1, 1), online=fakes(0.3, 2))
    report, result = analyse(failing(runs, "online", (8,)), "t", "")
    assert result["seeds"] == [7, 9] and report.seeds == (7, 9)
    texts = [note.text for note in report.notes]
    assert "online failed with seed 8: out of memory" in texts
    assert any("left out for all arms" in text and "seed 8 (no finished run of online)" in text for text in texts)
    assert report.headline.startswith("online beat offline")


def test_fewer_than_half_the_seeds(tmp_path: Path) -> None:
    runs = write_arms(tmp_path, offline=fakes(0.1, 1), online=fakes(0.2, 2))
    report, result = analyse(failing(runs, "online", (7, 9)), "t", "")
    assert report.headline.startswith("No verdict: 1 of 3 seeds")
    assert result["claims"] == []


def test_an_arm_that_failed_altogether(tmp_path: Path) -> None:
    runs = write_arms(tmp_path, offline=fakes(0.1, 1), online=fakes(0.2, 2), outputs=fakes(0.3, 3))
    report, _ = analyse(failing(runs, "outputs", (7, 8, 9)), "t", "")
    assert [arm.label for arm in report.arms] == ["offline", "online"]
    assert any(note.level == "refused" and note.text.startswith("outputs is left out") for note in report.notes)


def test_self_judged_is_in_the_headline(tmp_path: Path) -> None:
    own: dict[str, Any] = {"recipe": {"evaluate": {"judge": None}}, "held_out": None}
    report, result, _ = compared(tmp_path, offline=fakes(0.1, 1, **own), online=fakes(0.2, 2, **own))
    assert ", self-judged; both beat the base." in report.headline
    assert result["self_judged"] == ["offline", "online"]
    assert any(each.startswith("Self-judged: ") for each in report.verdict)


def test_leaks_stand_in_the_verdict(tmp_path: Path) -> None:
    note = "prompts: 4 near duplicates across splits (a~b); scores on validation and test may be too high"
    leaky: dict[str, Any] = {"diagnostics": {"leaked_share": 0.05}, "notes": [note]}
    report, _, _ = compared(tmp_path, offline=fakes(0.1, 1, **leaky), online=fakes(0.2, 2, **leaky))
    assert report.verdict[0].startswith("5.0% of the validation and test prompts share telling text")
    assert report.verdict[1].startswith("4 near duplicates across splits")
    assert [each.level for each in report.notes].count("warning") >= 2


def test_longer_drafts_and_a_flattered_judge(tmp_path: Path) -> None:
    online = [
        Fake(
            each.policy,
            each.base,
            judge=[min(1.0, float(score or 0) + 0.1) for score in each.policy],
            base_judge=each.base,
            words=[28] * PROMPTS,
            base_words=[25] * PROMPTS,
            seed=each.seed,
        )
        for each in fakes(0.2, 2)
    ]
    offline = [replace(each, words=[25] * PROMPTS, base_words=[25] * PROMPTS) for each in fakes(0.1, 1)]
    report, _, _ = compared(tmp_path, offline=offline, online=online)
    assert "online's drafts are 12\u00a0% longer than offline's." in report.verdict
    flattered = [each for each in report.verdict if "read ten of" in each]
    assert len(flattered) == 1 and flattered[0].startswith("The training judge's gain for online is 0.")


def test_controls(tmp_path: Path) -> None:
    report, _, _ = compared(
        tmp_path,
        offline=fakes(0.1, 1),
        online=fakes(0.2, 2),
        random_labels=fakes(0.0, 3),
        shuffled_online=fakes(0.12, 4),
    )
    text = said(report)
    assert "Control: random_labels did not rise above the base" in text
    assert "Control: online beat shuffled_online, the same pairs shuffled" in text
    assert report.headline.startswith("online beat offline")  # controls are no candidates


def test_random_labels_that_rise_are_said(tmp_path: Path) -> None:
    report, _, _ = compared(tmp_path, online=fakes(0.2, 2), random_labels=fakes(0.1, 3))
    assert "Control failed: random_labels rose above the base by 0.1" in said(report)


def test_three_arms_and_holm(tmp_path: Path) -> None:
    report, result, _ = compared(tmp_path, a=fakes(0.20, 1), b=fakes(0.201, 2), c=fakes(0.05, 3))
    assert report.headline.startswith("No clear leader: ") and "c " not in report.headline.split("are not")[0]
    raw = [each["difference"]["p"] for each in result["pairs"]]
    assert all(each["holm"] >= each["difference"]["p"] for each in result["pairs"])
    assert max(each["holm"] for each in result["pairs"]) == pytest.approx(max(raw))
    assert any(" beat c by 0.1" in each for each in report.verdict)


def test_gold_is_the_truth(tmp_path: Path) -> None:
    """The judge prefers online, the exact score does not."""
    arms = {}
    for number, (name, lift, true) in enumerate((("offline", 0.1, 0.15), ("online", 0.2, 0.05))):
        arms[name] = [
            replace(each, gold=(np.asarray(each.base) + true).tolist(), base_gold=each.base)
            for each in fakes(lift, number)
        ]
    report, _, _ = compared(tmp_path, **arms)
    assert "By gold, the sandbox's truth: online fell below offline by 0.10" in said(report)
    assert "so the judge is wrong here" in said(report)


def test_unequal_budgets_are_listed(tmp_path: Path) -> None:
    report, _, _ = compared(tmp_path, offline=fakes(0.1, 1, steps=20, judged=80), online=fakes(0.2, 2))
    assert ", at unequal cost, " in report.headline
    texts = [note.text for note in report.notes]
    assert "not equal: optimiser steps: offline 20, online 10" in texts
    assert "not equal: drafts judged: offline 80, online 40" in texts


def test_one_arm_alone(tmp_path: Path) -> None:
    """One arm alone is compared with the base."""
    report, _, _ = compared(tmp_path, online=fakes(0.2, 2))
    assert report.headline.startswith("online beat the base by 0.19 (0.16 to 0.22) in rubric score, ")
    report, _, _ = compared(tmp_path / "worse", online=fakes(-0.1, 2))
    assert report.headline.startswith("online fell below the base by 0.")
    assert "−" not in report.headline


def test_several_flattered_arms_are_one_sentence(tmp_path: Path) -> None:
    def flattered(lift: float, arm: int) -> list[Fake]:
        return [
            replace(each, judge=[min(1.0, float(score or 0) + 0.1) for score in each.policy], base_judge=each.base)
            for each in fakes(lift, arm)
        ]

    report, _, _ = compared(tmp_path, offline=flattered(0.1, 1), online=flattered(0.2, 2))
    [text] = [each for each in report.verdict if "read ten drafts of each" in each]
    assert "offline's by 0.10" in text and "online's by 0." in text


def test_another_scale_cries_no_wolf(tmp_path: Path) -> None:
    """The held-out judge's scores are on a scale of its own, ten times as wide, and rise as the judge's do."""

    def scaled(lift: float, arm: int, share: float) -> list[Fake]:
        found = []
        for each in fakes(lift, arm):
            policy, base = np.asarray(each.policy, dtype=float), np.asarray(each.base, dtype=float)
            held = base + share * (policy - base)
            own = {"judge": policy.tolist(), "base_judge": base.tolist(), "held_out": "custom"}
            found.append(replace(each, policy=(10 * held).tolist(), base=(10 * base).tolist(), **own))
        return found

    report, _, _ = compared(tmp_path / "honest", offline=scaled(0.1, 1, 1.0), online=scaled(0.2, 2, 1.0))
    assert not any("read ten" in each for each in report.verdict)
    assert "in held-out score" in report.headline
    report, _, _ = compared(tmp_path / "hacked", offline=scaled(0.1, 1, 1.0), online=scaled(0.2, 2, 0.2))
    assert [each for each in report.verdict if "read ten of online's drafts" in each]
