"""`prefdistill new`: a folder to start from, with a plan that can be shown at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefdistill.errors import RecipeError
from prefdistill.plan.document import load_plan
from prefdistill.recipe import load_recipe
from prefdistill.starting import FILES, copy_start


def test_the_plan_knows_what_the_recipe_beside_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "email-online").mkdir(parents=True)  # somebody else's: a new start reads no run
    (tmp_path / "runs" / "email-online" / "manifest.json").write_text(json.dumps({}))
    said = copy_start(Path("mine"))
    assert "wrote mine/plan.yaml" in said and "  prefdistill plan mine/plan.yaml" in said
    plan, recipe = load_plan(Path("mine/plan.yaml")), load_recipe(Path("mine/recipes/email-online.yaml"))
    assert plan.name == recipe.name and plan.student.model == recipe.student.model
    assert [(plan.directory / file).resolve() for file in plan.rubric.files] == [
        Path("mine/rubrics/email.yaml").resolve()
    ]
    assert plan.data.source == "recipes/prompts/emails.jsonl" and plan.data.train is not None
    assert plan.shown.run is None
    assert plan.task.owner is None and plan.traffic.requests_a_month is None  # what nobody can know stays open


def test_nothing_is_written_into_a_folder_that_has_something(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").write_text("mine")
    with pytest.raises(RecipeError, match="not an empty folder"):
        copy_start(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["note"]


def test_a_new_folder_holds_every_file_and_its_plan_is_shown(prefdistill, tmp_path: Path) -> None:
    assert prefdistill("new", "mine").returncode == 0
    found = {
        path.relative_to(tmp_path / "mine").as_posix() for path in (tmp_path / "mine").rglob("*") if path.is_file()
    }
    assert found == {*FILES.values(), "plan.yaml"}
    shown = prefdistill("plan", "mine/plan.yaml")
    assert shown.returncode == 0, shown.stderr
    assert "UNREVIEWED" in shown.stdout and "Open" in shown.stdout
    assert (tmp_path / "mine" / "plan.md").is_file() and (tmp_path / "mine" / "plan.html").is_file()
