"""The second world is a world: its student writes mediocre replies with the right facts, unlike the first one's."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import fmean

from prefdistill.recipe import load_recipe
from prefdistill.sandbox import STUDENT_DIRECTORY
from tests.second_sandbox.world import FACTS, gold, is_reserved, notes, parse, second_opinion, write_mixture, write_well

HERE = Path(__file__).parent


def test_notes_can_be_read_back_and_training_never_shows_a_reserved_pair():
    for training in (False, True):
        for row in notes(100, 3, training):
            assert parse(row["prompt"]) == {name: row[name] for name in FACTS}
            assert is_reserved(row) != training


def test_house_style_is_the_best_and_the_mixture_mediocre():
    rows, rng = list(notes(200, 4)), random.Random(0)
    assert min(gold(write_well(row), row) for row in rows) > 0.99
    assert 0.4 < fmean(gold(write_mixture(row, rng), row) for row in rows) < 0.6
    assert fmean(second_opinion(write_well(row), row) for row in rows) > 0.9
    assert gold("", rows[0]) < 0.3
    assert second_opinion("", rows[0]) < 0.25


def test_the_student_is_small_and_of_another_kind():
    assert sum(file.stat().st_size for file in (HERE / "student").iterdir()) < 2_500_000
    config, first = (
        json.loads((folder / "config.json").read_text()) for folder in (HERE / "student", STUDENT_DIRECTORY)
    )
    for name in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "tie_word_embeddings"):
        assert config[name] != first[name]


def test_the_recipe_holds_nothing_that_was_chosen_for_it():
    recipe = load_recipe(HERE / "recipe.yaml")
    assert recipe.loop.warn == type(recipe.loop.warn)()
    assert recipe.loop.stop == type(recipe.loop.stop)()
