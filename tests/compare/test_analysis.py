"""The numbers of a comparison, from small run folders, against figures worked out here in another way."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from prefdistill.compare.analysis import analyse
from prefdistill.compare.data import ArmRun
from prefdistill.stages.report.comparison import ComparisonReport
from tests.compare.runs import Fake, write_arms

PROMPTS = 60


def fakes(lift: float, arm: int, seeds: Sequence[int] = (7, 8, 9), **other: Any) -> list[Fake]:
    """One run a seed, whose drafts score `lift` above the base's on average."""
    found = []
    for seed in seeds:
        base = np.random.default_rng(seed).uniform(0.2, 0.6, PROMPTS).round(3)
        noise = np.random.default_rng([arm, seed]).normal(lift, 0.05, PROMPTS)
        policy = np.clip(base + noise, 0, 1).round(3)
        found.append(Fake(policy.tolist(), base.tolist(), seed=seed, **other))
    return found


def compared(folder: Path, **arms: Sequence[Fake]) -> tuple[ComparisonReport, dict[str, Any], list[ArmRun]]:
    runs = write_arms(folder, **arms)
    return *analyse(runs, "test", "name: fake"), runs


def frame(runs: Sequence[ArmRun]) -> pd.DataFrame:
    """The comparisons with the base as one long table, read by pandas alone."""
    rows = []
    for each in runs:
        assert each.run is not None
        [path] = each.run.directory.path.glob("test/*/comparisons.jsonl")
        for line in path.read_text().splitlines():
            rows.append({"arm": each.label, "seed": each.seed, **json.loads(line)})
    found = pd.DataFrame(rows)
    return found[found["baseline"] == "base"]


def test_figures_by_hand(tmp_path: Path) -> None:
    _, result, runs = compared(tmp_path, offline=fakes(0.10, 1), online=fakes(0.16, 2))
    table = frame(runs)
    means = table.groupby("arm")["score"].mean()
    arms = {each["label"]: each for each in result["arms"]}
    for label in ("offline", "online"):
        assert arms[label]["means"]["score"]["value"] == pytest.approx(means[label])
        mine = table[table["arm"] == label]
        credit = mine["outcome"].map({"win": 1.0, "tie": 0.5, "loss": 0.0})
        assert arms[label]["base"]["win_rate"]["value"] == pytest.approx(credit.mean())
    [pair] = result["pairs"]
    assert (pair["arm"], pair["other"]) == ("online", "offline")
    wide = table.pivot_table(index=["seed", "prompt_id"], columns="arm", values="score")
    difference = (wide["online"] - wide["offline"]).unstack("prompt_id")
    assert pair["difference"]["value"] == pytest.approx(difference.to_numpy().mean())
    assert pair["difference"]["by_seed"] == pytest.approx(difference.mean(axis=1).tolist())
    assert pair["seeds_above"] == int((difference.mean(axis=1) > 0).sum()) == 3
    assert pair["sign_up"] == int((difference.mean(axis=0) > 1e-9).sum())
    assert pair["win_rate"]["value"] == pytest.approx(
        ((difference > 1e-9).to_numpy() + 0.5 * (difference.abs() <= 1e-9).to_numpy()).mean()
    )
    low, high = pair["difference"]["interval"]
    assert low < pair["difference"]["value"] < high
    assert pair["difference"]["p"] < 0.05


def test_one_seed_is_the_paired_t_test(tmp_path: Path) -> None:
    _, result, runs = compared(tmp_path, offline=fakes(0.10, 1, [7]), online=fakes(0.12, 2, [7]))
    wide = frame(runs).pivot(index="prompt_id", columns="arm", values="score")
    found = stats.ttest_rel(wide["online"], wide["offline"])
    [pair] = result["pairs"]
    interval = found.confidence_interval()
    assert pair["difference"]["interval"] == pytest.approx([interval.low, interval.high])
    assert pair["difference"]["p"] == pytest.approx(found.pvalue)
    sign = stats.binomtest(int((wide["online"] > wide["offline"]).sum()), PROMPTS).pvalue
    assert pair["sign_p"] == pytest.approx(sign)


def test_identical_arms(tmp_path: Path) -> None:
    report, result, _ = compared(tmp_path, offline=fakes(0.10, 1), online=fakes(0.10, 1))
    [pair] = result["pairs"]
    assert pair["identical"] and pair["difference"]["value"] == 0.0 and pair["win_rate"]["value"] == 0.5
    assert pair["permutation_p"] == pair["sign_p"] == 1.0
    assert "the same on every test prompt: no difference" in report.headline
    assert not [each for each in result["claims"] if {each["better"], each["worse"]} == {"online", "offline"}]


def test_unknown_is_never_zero(tmp_path: Path) -> None:
    runs = fakes(0.1, 1, [7])
    with_holes = Fake([None, *list(runs[0].policy)[1:]], runs[0].base, seed=7)
    _, result, _ = compared(tmp_path, online=[with_holes], offline=fakes(0.1, 2, [7]))
    online = next(each for each in result["arms"] if each["label"] == "online")
    assert online["unknown"] == 1
    assert online["base"]["difference"]["prompts"] == PROMPTS - 1
    assert online["means"]["score"]["value"] == pytest.approx(np.mean(list(runs[0].policy)[1:]))


def test_kept_base_counts_as_no_gain(tmp_path: Path) -> None:
    kept_base = fakes(0.0, 1)
    report, result, _ = compared(
        tmp_path,
        offline=[Fake(each.base, each.base, seed=each.seed, kept=0) for each in kept_base],
        online=fakes(0.1, 2),
    )
    offline = next(each for each in result["arms"] if each["label"] == "offline")
    assert offline["base"]["difference"]["value"] == 0.0 and offline["base"]["win_rate"]["value"] == 0.5
    assert any("offline kept the base with seeds 7, 8, 9" in each for each in report.verdict)
    assert report.headline.startswith("online beat offline")


def test_forgotten_prompts_are_left_out_for_all(tmp_path: Path) -> None:
    online = fakes(0.1, 2, [7])
    online[0].forgotten = (0, 1)
    report, result, _ = compared(tmp_path, offline=fakes(0.1, 1, [7]), online=online)
    assert result["prompts"] == PROMPTS - 2
    assert all(each["unknown"] == 0 for each in result["arms"])
    assert any("2 test prompts were forgotten" in note.text for note in report.notes)


def test_gap_recovered_and_its_refusal(tmp_path: Path) -> None:
    far = [1.0] * PROMPTS
    report, result, _ = compared(tmp_path / "far", online=[_taught(each, far) for each in fakes(0.1, 1)])
    base = np.mean([each.base for each in fakes(0.1, 1)])
    policy = np.mean([each.policy for each in fakes(0.1, 1)])
    assert result["arms"][0]["pgr"]["value"] == pytest.approx((policy - base) / (1 - base))
    assert any("distance to the teacher" in each for each in report.verdict)
    report, result, _ = compared(tmp_path / "near", online=[_taught(each, list(each.base)) for each in fakes(0.1, 1)])
    assert result["arms"][0]["pgr"]["value"] is None
    assert any(note.level == "refused" and "gap to the teacher" in note.text for note in report.notes)


def _taught(fake: Fake, teacher: Sequence[Any]) -> Fake:
    return Fake(fake.policy, fake.base, teacher=teacher, seed=fake.seed)


def test_judge_that_never_scores(tmp_path: Path) -> None:
    comparing = {"evaluate": {"judge": {"use": "judges.py:Comparing"}, "compare": "both_orders"}}
    lifts = {"offline": 0.0, "online": 0.2}
    arms = {
        name: fakes(lift, number, recipe=comparing, held_out=None) for number, (name, lift) in enumerate(lifts.items())
    }
    report, result, _ = compared(tmp_path, **arms)
    assert not result["scored"]
    assert result["base"]["score"]["value"] == 0.5
    credit = {each["label"]: each["base"]["win_rate"]["value"] for each in result["arms"]}
    [pair] = result["pairs"]
    assert pair["difference"]["value"] == pytest.approx(credit["online"] - credit["offline"])
    assert any("gives no scores to single drafts" in note.text for note in report.notes)


def test_everything_is_json(tmp_path: Path) -> None:
    report, result, _ = compared(tmp_path, online=fakes(0.0, 1, [7]), offline=fakes(0.0, 2, [7]))
    assert json.loads(json.dumps(result, allow_nan=False))["headline"] == report.headline


def test_gates_criteria_and_length(tmp_path: Path) -> None:
    online = [
        replace(each, words=[20] * PROMPTS, base_words=[10] * PROMPTS, failed_gates=range(6), held_out="custom")
        for each in fakes(0.2, 1)
    ]
    _, result, _ = compared(tmp_path, online=online)
    [arm] = result["arms"]
    assert arm["means"]["passed"] == pytest.approx(0.9)
    assert arm["base"]["length_ratio"] == pytest.approx(2.0)
    assert {each["criterion"] for each in arm["base"]["criteria"]} == {"clear", "kind", "facts"}
    facts = next(each for each in arm["base"]["criteria"] if each["criterion"] == "facts")
    assert facts["difference"] == pytest.approx(-0.1)


def test_tables_and_curves(tmp_path: Path) -> None:
    report, _, _ = compared(tmp_path, offline=fakes(0.1, 1, rounds=2), online=fakes(0.1, 2, rounds=2))
    names = [table.name for table in report.tables]
    assert names[0] == "arms" and {"pairs", "seeds", "criteria", "budgets", "rounds", "cost"} <= set(names)
    assert all(len(row) == len(table.columns) for table in report.tables for row in table.rows)
    assert [row[0] for row in report.tables[0].rows] == ["base", "offline", "online"]
    curve = report.curves[0]
    assert (curve.arm, curve.seed, [point.round for point in curve.points]) == ("offline", 7, [0, 1, 2])
    assert curve.points[2].values["judged_drafts"] == 80 and curve.points[2].values["usd"] == pytest.approx(0.5)
    assert curve.points[0].values["sqrt_kl"] == 0.0 and curve.points[1].values["sqrt_kl"] == 0.5
    budgets = next(table for table in report.tables if table.name == "budgets")
    assert budgets.rows[0][:6] == ("offline", 2, 20, 80, 20, 18)
