"""Notes, oracle and mixture: seeded, readable again, and divided so that no prompt was ever trained on."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from prefdistill.sandbox import world
from prefdistill.sandbox.gold import gold
from prefdistill.sandbox.writer import draw_style, write_mixture, write_oracle

QUICKSTART = Path(__file__).parents[2] / "recipes" / "prompts" / "quickstart.jsonl"


def test_notes_depend_on_the_seed_alone() -> None:
    assert list(world.notes(40, 3)) == list(world.notes(60, 3))[:40]
    assert list(world.notes(40, 3)) != list(world.notes(40, 4))


@pytest.mark.parametrize("part", ["prompts", "training"])
def test_every_note_is_read_back(part: world.Part) -> None:
    for row in world.notes(600, 1, part):
        assert world.parse_note(row["prompt"]) == {name: row[name] for name in world.FACTS}


def test_a_note_is_found_inside_other_text_and_nothing_is_found_elsewhere() -> None:
    row = next(world.notes(1, 5))
    facts = world.parse_note(f"Please help.\n\n{row['prompt']}\n")
    assert facts == {name: row[name] for name in world.FACTS}
    for text in ("", "Write me a poem.", "To: \nFrom: \n", "\x00☃" * 50):
        assert world.parse_note(text) is None


def test_every_value_occurs_in_both_parts() -> None:
    for names in (world.NAMES, world.TOPICS):
        for value in names:
            pairs = (
                [(value, topic) for topic in world.TOPICS]
                if value in world.NAMES
                else [(name, value) for name in world.NAMES]
            )
            assert len({world.is_reserved(*pair) for pair in pairs}) == 2


def test_shipped_prompts_are_the_generators_and_disjoint_from_training() -> None:
    rows = [json.loads(line) for line in QUICKSTART.read_text(encoding="utf-8").splitlines()]
    assert rows == list(world.notes(900, 0))
    assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == 900
    trained = list(world.notes(4_000, 0, part="training"))
    asked = {(row["recipient"], row["topic"]) for row in rows}
    assert asked.isdisjoint((row["recipient"], row["topic"]) for row in trained)
    assert all(world.is_reserved(*pair) for pair in asked)


def test_the_command_writes_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "notes.jsonl"
    world.main(["--count", "5", "--seed", "2", "--out", str(out)])
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == list(world.notes(5, 2))
    assert "5 notes" in capsys.readouterr().out


def test_the_oracle_is_deterministic_and_has_top_gold() -> None:
    for row in world.notes(300, 6):
        text = write_oracle(row)
        facts = {name: row[name] for name in world.FACTS}
        assert text == write_oracle(facts)
        assert gold(text, row) == pytest.approx(1.0)


def test_the_mixture_is_mediocre_varied_and_sometimes_the_oracles_kind() -> None:
    rows = list(world.notes(40, 7))
    rng = random.Random(0)
    scores = [[gold(write_mixture(row, rng), row) for _ in range(64)] for row in rows]
    every = [score for group in scores for score in group]
    assert 0.35 <= sum(every) / len(every) <= 0.60
    assert sum(max(group) >= 0.95 for group in scores) >= 0.9 * len(rows)
    assert min(every) < 0.15
    assert write_mixture(rows[0], random.Random(1)) == write_mixture(rows[0], random.Random(1))
    assert len({draw_style(rng) for _ in range(200)}) > 100
