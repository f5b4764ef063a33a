"""What cannot be compared is refused, and what is not equal is said."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prefdistill.compare.analysis import analyse
from prefdistill.errors import RunError
from prefdistill.records import Finding
from tests.compare.runs import RUBRIC, Fake, write_arms
from tests.compare.test_analysis import fakes


def refusal(folder: Path, **arms: Sequence[Fake]) -> str:
    with pytest.raises(RunError) as caught:
        analyse(write_arms(folder, **arms), "t", "")
    return str(caught.value)


def notes(folder: Path, **arms: Sequence[Fake]) -> list[tuple[str, str]]:
    report, _ = analyse(write_arms(folder, **arms), "t", "")
    return [(note.level, note.text) for note in report.notes]


def test_other_test_prompts(tmp_path: Path) -> None:
    short = [Fake(each.policy[:40], each.base[:40], seed=each.seed) for each in fakes(0.1, 1)]
    text = refusal(tmp_path, offline=short, online=fakes(0.2, 2))
    assert "the test prompts differ: 0 are only in the first, 20 only in the second" in text
    assert "offline/seed-7" in text and "online/seed-7" in text and "prompts.test_limit" in text


def test_the_same_ids_with_other_texts(tmp_path: Path) -> None:
    text = refusal(tmp_path, offline=fakes(0.1, 1), online=fakes(0.2, 2, texts={3: "Another letter."}))
    assert "1 test prompts have the same id and another text" in text and "test-00003" in text


def test_another_rubric(tmp_path: Path) -> None:
    text = refusal(tmp_path, offline=fakes(0.1, 1), online=fakes(0.2, 2, rubric=RUBRIC.replace("50]", "40]")))
    assert "judged with different rubrics (rubric.criteria.clear.between" in text


def test_another_evaluation_judge(tmp_path: Path) -> None:
    strict = {"evaluate": {"judge": {"use": "judges.py:HeldOut", "strictness": 2}}}
    text = refusal(tmp_path, offline=fakes(0.1, 1), online=fakes(0.2, 2, recipe=strict))
    assert "evaluated by different judges (strictness: 1 → 2)" in text


def test_another_training_judge_is_another_arm(tmp_path: Path) -> None:
    strict = {"judge": {"use": "judges.py:Training", "strictness": 2}}
    report, _ = analyse(write_arms(tmp_path, honest=fakes(0.1, 1), strict=fakes(0.2, 2, recipe=strict)), "t", "")
    assert report.headline.startswith("strict beat honest")


def test_self_judged_in_one_arm_only(tmp_path: Path) -> None:
    """One arm trains on the judge that evaluates all of them."""
    trains_on_it = {"judge": {"use": "judges.py:HeldOut"}}
    arms = {"online": fakes(0.1, 1), "pleaser": fakes(0.2, 2, recipe=trains_on_it, held_out=None)}
    report, result = analyse(write_arms(tmp_path, **arms), "t", "")
    assert result["self_judged"] == ["pleaser"] and "self-judged" in report.headline
    assert any(each.startswith("Self-judged (pleaser): ") for each in report.verdict)


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("evaluate", "temperature", 1.0, "not equal: evaluate.temperature: offline 0.7; online 1.0"),
        ("evaluate", "top_p", 0.9, "not equal: evaluate.top_p: offline 1.0; online 0.9"),
        ("evaluate", "tie_margin", 0.1, "not equal: evaluate.tie_margin: offline 0.0; online 0.1"),
        ("sample", "max_new_tokens", 99, "not equal: sample.max_new_tokens: offline 256; online 99"),
        (
            "student",
            "quantization",
            "none",
            "not equal: student: offline org/student, nf4, auto; online org/student, none",
        ),
    ],
)
def test_unequal_decoding_is_said(tmp_path: Path, section: str, key: str, value: Any, expected: str) -> None:
    found = notes(tmp_path, offline=fakes(0.1, 1, [7]), online=fakes(0.2, 2, [7], recipe={section: {key: value}}))
    assert any(level == "warning" and text.startswith(expected) for level, text in found), found


def test_one_seed_is_said(tmp_path: Path) -> None:
    found = notes(tmp_path, offline=fakes(0.1, 1, [7]), online=fakes(0.2, 2, [7]))
    assert any(text.startswith("one seed (7): the intervals are over prompts only") for _, text in found)


def test_equal_arms_say_nothing(tmp_path: Path) -> None:
    assert notes(tmp_path, offline=fakes(0.1, 1), online=fakes(0.2, 2)) == []


ON_ANSWERS = {"train": {"use": "sft"}, "teacher": {"use": "sandbox"}}


def test_arms_with_equal_work_of_the_teacher(tmp_path: Path) -> None:
    """Prompts differ on purpose; steps still should not, and the table shows the work."""
    answers = fakes(0.3, 2, judged=0, answers=40, train_prompts=40, recipe=ON_ANSWERS)
    runs = write_arms(tmp_path, online=fakes(0.1, 1), outputs=answers)
    by_prompts, _ = analyse(runs, "t", "")
    by_work, _ = analyse(runs, "t", "", equal="teacher")
    assert any(note.text.startswith("not equal: train prompts") for note in by_prompts.notes)
    assert not any(note.text.startswith("not equal") for note in by_work.notes)
    assert "at equal work of the teacher" in by_work.headline and "at unequal cost" in by_prompts.headline
    arms = by_work.tables[0]
    place = [column.title for column in arms.columns].index("Judged and answered")
    assert [row[place] for row in arms.rows] == [None, 40, 40]
    budgets = next(table for table in by_work.tables if table.name == "budgets")
    written = [column.title for column in budgets.columns].index("Answers written")
    assert [row[written] for row in budgets.rows] == [None, 40]


def test_unequal_work_of_the_teacher_is_said(tmp_path: Path) -> None:
    answers = fakes(0.3, 2, judged=0, answers=20, steps=7, train_prompts=20, recipe=ON_ANSWERS)
    report, _ = analyse(write_arms(tmp_path, online=fakes(0.1, 1), outputs=answers), "t", "", equal="teacher")
    assert "at unequal work of the teacher" in report.headline
    assert any(note.text == "not equal: optimiser steps: online 10, outputs 7" for note in report.notes)
    assert any(note.text.startswith("outputs: 20 answers were written and at most") for note in report.notes)


def test_a_stop_is_said_with_its_arm(tmp_path: Path) -> None:
    stop = Finding(check="chosen_longer", level="stop", message="drafts grow")
    warn = Finding(check="ties", level="warn", message="many ties")
    found = notes(
        tmp_path, offline=fakes(0.1, 1), online=fakes(0.2, 2, findings=[stop, warn], stopped="stopped after round 1: …")
    )
    assert ("warning", "online, seed 7, round 1: chosen_longer: drafts grow") in found
    assert any("online, seed 8, ended early" in text for _, text in found)
    assert not any("many ties" in text for _, text in found)


def test_findings_are_a_table(tmp_path: Path) -> None:
    warn = Finding(check="ties", level="warn", message="many ties")
    report, _ = analyse(write_arms(tmp_path, offline=fakes(0.1, 1), online=fakes(0.2, 2, findings=[warn])), "t", "")
    [table] = [each for each in report.tables if each.name == "findings"]
    assert table.rows == (("online", "warn", "ties", "seed 7 round 1, seed 8 round 1, seed 9 round 1", "many ties"),)


def test_the_same_seed_twice(tmp_path: Path) -> None:
    runs = write_arms(tmp_path, online=fakes(0.1, 1))
    with pytest.raises(RunError, match="online: two runs with seed 7"):
        analyse([*runs, runs[0]], "t", "")


def test_no_seed_in_common(tmp_path: Path) -> None:
    found = notes(tmp_path, offline=fakes(0.1, 1, [1, 2, 3]), online=fakes(0.2, 2, [4, 5]))
    assert any("paired in the order given (seeds 1 with 4; 2 with 5)" in text for _, text in found)


def test_nothing_finished(tmp_path: Path) -> None:
    from dataclasses import replace

    runs = [replace(each, run=None, failed="no memory") for each in write_arms(tmp_path, online=fakes(0.1, 1, [7]))]
    with pytest.raises(RunError, match="nothing to compare: online, seed 7: no memory"):
        analyse(runs, "t", "")


def test_wins_by_preference_and_by_score_are_told_apart(tmp_path: Path) -> None:
    asked = {"evaluate": {"compare": "both_orders"}}
    found = notes(tmp_path, offline=fakes(0.1, 1, recipe=asked), online=fakes(0.2, 2, recipe=asked))
    assert [level for level, text in found if "wins between them are by scores" in text] == ["info"]
