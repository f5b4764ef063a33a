"""Which pairs a person gets: a mixture, each once, both sides equally often, the same for the same seed."""

from collections import Counter
from pathlib import Path

import pytest

from prefdistill.errors import RunError
from prefdistill.labelling import Choice, PairTask, pick_criteria, pick_pairs
from tests.labelling.runs import make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def asked_once(tasks: list[PairTask]) -> list[PairTask]:
    return [task for task in tasks if not task.again]


def test_a_mixture_of_pairs_each_of_other_texts(run: Path) -> None:
    tasks = asked_once(pick_pairs(Choice(run, count=20)))
    assert Counter(task.group for task in tasks) == {
        "confirmed": 8,
        "near_tie": 4,
        "orders_disagree": 4,
        "base_or_policy": 4,
    }
    assert len({frozenset((task.first.id, task.second.id)) for task in tasks}) == 20
    assert all(task.first.completion != task.second.completion for task in tasks)
    assert len({task.prompt.id for task in tasks}) == 20  # 24 prompts, so none has to come twice


def test_the_groups_hold_what_their_names_say(run: Path) -> None:
    for task in asked_once(pick_pairs(Choice(run, count=24))):
        drafts = {task.first.index, task.second.index}
        if task.group in ("confirmed", "orders_disagree"):
            assert drafts == {0, 3}
        if task.group == "near_tie":
            assert drafts == {1, 2}  # 0.73 and 0.7
        if task.group == "base_or_policy":
            assert {task.first.source, task.second.source} == {"base", "student"}


@pytest.mark.parametrize("seed", range(6))
def test_what_is_ahead_is_shown_first_as_often_as_second(run: Path, seed: int) -> None:
    tasks = asked_once(pick_pairs(Choice(run, count=20, seed=seed)))
    for group in ("confirmed", "near_tie", "orders_disagree"):
        first = [task.first.index < task.second.index for task in tasks if task.group == group]
        assert abs(sum(first) * 2 - len(first)) <= 1
    ours = [task.first.source == "student" for task in tasks if task.group == "base_or_policy"]
    assert abs(sum(ours) * 2 - len(ours)) <= 1


def test_the_seed_draws_order_and_sides_and_nothing_else_does(run: Path) -> None:
    def shown(seed: int) -> list[tuple[str, ...]]:
        return [task.identity for task in pick_pairs(Choice(run, count=20, seed=seed))]

    assert shown(1) == shown(1)
    assert shown(1) != shown(2)


def test_a_larger_count_keeps_what_a_smaller_one_picked(run: Path) -> None:
    few, many = (asked_once(pick_pairs(Choice(run, count=count, repeat=0))) for count in (10, 20))
    kept = {task.identity for task in many}
    assert all(task.identity in kept for task in few)
    order = [task.identity for task in many if task in few]
    assert order == [task.identity for task in few]


def test_a_share_comes_again_later_with_the_sides_exchanged(run: Path) -> None:
    tasks = pick_pairs(Choice(run, count=20, repeat=0.1))
    again = [place for place, task in enumerate(tasks) if task.again]
    assert len(again) == 2 and len(tasks) == 22
    for place in again:
        before = next(n for n, task in enumerate(tasks) if task.identity == tasks[place].exchanged().identity)
        assert place - before > 6
    assert not any(task.again for task in pick_pairs(Choice(run, count=20, repeat=0)))


def test_round_and_split_narrow_the_choice(run: Path) -> None:
    assert {task.first.purpose for task in pick_pairs(Choice(run, round=1, count=40))} == {"train"}
    assert {task.first.purpose for task in pick_pairs(Choice(run, split="test", count=40))} == {"test"}


def test_a_small_run_gives_what_it_has(run: Path) -> None:
    tasks = asked_once(pick_pairs(Choice(run, count=1000)))
    assert len(tasks) == 16 * 6 + 8  # all pairs of four drafts, and base against policy
    assert Counter(task.group for task in tasks)["other"] > 0


def test_a_run_that_stopped_while_sampling_can_be_labelled(run: Path) -> None:
    for name in ("2-verdicts.jsonl", "3-rankings.jsonl", "4-pairs.jsonl"):
        (run / "round-01" / name).unlink()
    assert {task.group for task in pick_pairs(Choice(run, round=1))} == {"other"}


def test_what_is_no_run_or_has_nothing_is_named(tmp_path: Path, run: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere: no such folder; expected a run folder"):
        pick_pairs(Choice(tmp_path / "nowhere"))
    with pytest.raises(RunError, match=r"no drafts of round 7; expected one of its rounds \(1\)"):
        pick_pairs(Choice(run, round=7))
    with pytest.raises(RunError, match="no two different drafts of one prompt in the validation split"):
        pick_pairs(Choice(run, split="validation"))


def test_criteria_are_asked_where_they_apply(run: Path) -> None:
    tasks = pick_criteria(Choice(run, count=10))
    assert len({task.draft.id for task in tasks}) == 10
    assert len({task.prompt.id for task in tasks}) == 10
    for task in tasks:
        assert task.criterion in ("clear", "kind")  # `length` is checked, nobody is asked
        assert (task.criterion == "clear") <= ("day" in task.prompt.fields)
    assert next(task.question for task in tasks if task.criterion == "clear") == "Does Friday come first?"


def test_a_rubric_without_questions_is_named(run: Path) -> None:
    (run / "rubric.yaml").write_text("name: x\ncriteria: [{name: length, check: length, between: [1, 9]}]\n")
    with pytest.raises(RunError, match=r"no asked criterion applies .* label pairs with --kind pair"):
        pick_criteria(Choice(run))
