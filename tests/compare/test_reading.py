"""Finished runs given by hand become arms."""

from pathlib import Path

import pytest

from prefdistill.compare.reading import read_runs
from prefdistill.errors import RunError
from tests.compare.test_analysis import fakes

OFFLINE = {"loop": {"mode": "offline"}}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """./runs with two seeds of two arms."""
    monkeypatch.chdir(tmp_path)
    for seed in (7, 8):
        fakes(0.1, 1, [seed], recipe=OFFLINE)[0].write(tmp_path / f"runs/offline-{seed}")
        fakes(0.2, 2, [seed])[0].write(tmp_path / f"runs/online-{seed}")
    return tmp_path / "runs"


def arms(arguments: list[str]) -> list[tuple[str, str, int]]:
    return [(each.label, each.arm, each.seed) for each in read_runs(arguments)]


def test_labels(runs: Path) -> None:
    found = read_runs(["fresh=online-7,online-8", f"stale={runs / 'offline-7'},{runs / 'offline-8'}"])
    assert [(each.label, each.arm, each.seed) for each in found] == [
        ("fresh", "online", 7),
        ("fresh", "online", 8),
        ("stale", "offline", 7),
        ("stale", "offline", 8),
    ]
    assert found[0].overrides == {"loop.mode": "online"} and found[2].overrides == {"loop.mode": "offline"}


def test_runs_of_one_recipe_are_seeds_of_one_arm(runs: Path) -> None:
    assert arms(["offline-7", "online-7", "online-8", "offline-8"]) == [
        ("offline", "offline", 7),
        ("offline", "offline", 8),
        ("online", "online", 7),
        ("online", "online", 8),
    ]


def test_single_runs_are_called_after_their_folders(runs: Path) -> None:
    assert arms(["online-7", "offline-7"]) == [("online-7", "online", 7), ("offline-7", "offline", 7)]


def test_a_copy_is_an_arm_of_its_own(runs: Path) -> None:
    fakes(0.2, 2, [7])[0].write(runs / "again")
    assert arms(["online-7", "again"]) == [("online-7", "online", 7), ("again", "online", 7)]


def test_the_folder_of_an_arm(runs: Path) -> None:
    for seed in (7, 10):
        fakes(0.2, 2, [seed])[0].write(runs / f"first-compare/online/seed-{seed}")
    found = arms(["runs/first-compare/online", "old=offline-7"])
    assert found == [("online", "online", 7), ("online", "online", 10), ("old", "offline", 7)]
    (runs / "first-compare/comparison.json").write_text("{}")
    with pytest.raises(RunError, match="this is a whole comparison; expected runs: name its arms"):
        read_runs(["first-compare", "offline-7"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere", "online-7"], "runs/nowhere: no such folder"),
        (["online-7"], "compare: 1 run; expected two or more"),
        (["online-7", "online-7"], "runs/online-7: named twice"),
        (["a=online-7", "b=online-7"], "runs/online-7: named twice"),
        (["base=online-7", "offline-7"], "`base` in `base=online-7` is no label"),
        (["a b=online-7", "offline-7"], "`a b` in `a b=online-7` is no label"),
        (["a=", "offline-7"], "`a=` names no run"),
        (["", "offline-7"], "an empty argument"),
    ],
)
def test_mistakes(runs: Path, arguments: list[str], expected: str) -> None:
    with pytest.raises(RunError) as caught:
        read_runs(arguments)
    assert expected in str(caught.value)


def test_an_unfinished_run(runs: Path) -> None:
    (runs / "online-7/result.json").unlink()
    with pytest.raises(RunError, match="the run is not finished"):
        read_runs(["online-7", "offline-7"])
