"""`prefdistill plan` as a user runs it."""

import shutil
from pathlib import Path

from tests.conftest import ROOT


def copy_example(folder: Path) -> Path:
    (folder / "recipes").mkdir()
    shutil.copytree(ROOT / "rubrics", folder / "rubrics")
    return Path(shutil.copy(ROOT / "recipes" / "plan.yaml", folder / "recipes" / "plan.yaml"))


def test_the_example_is_written_beside_the_plan_and_summed_up(prefdistill, tmp_path):
    path = copy_example(tmp_path)
    done = prefdistill("plan", path)
    assert done.returncode == 0, done.stderr
    assert "Breaks even at 145,503 requests a month against large-model" in done.stdout
    assert "79,365" in done.stdout and "call tiny-model" in done.stdout
    assert "stand between this plan and its sign-off" in done.stdout
    assert "goal.student_score" in done.stdout
    for name in ("plan.md", "plan.html"):
        assert f"wrote {path.with_name(name)}" in done.stdout
        assert "145,503" in path.with_name(name).read_text(encoding="utf-8")
    assert prefdistill("plan", path).returncode == 0, "an earlier plan of ours is replaced"


def test_out_is_another_folder_and_a_strangers_file_is_not_replaced(prefdistill, tmp_path):
    path = copy_example(tmp_path)
    path.with_name("plan.md").write_text("my own notes")
    refused = prefdistill("plan", path)
    assert refused.returncode == 2 and "was not written by `prefdistill plan`" in refused.stderr
    assert path.with_name("plan.md").read_text() == "my own notes"
    assert not path.with_name("plan.html").exists()
    done = prefdistill("plan", path, "--out", tmp_path / "deep" / "er")
    assert done.returncode == 0, done.stderr
    assert sorted(each.name for each in (tmp_path / "deep" / "er").iterdir()) == ["plan.html", "plan.md"]
    into_a_file = prefdistill("plan", path, "--out", path)
    assert into_a_file.returncode == 2 and "is a file; expected a folder" in into_a_file.stderr


def test_a_broken_plan_is_one_line_a_mistake_and_exit_code_2(prefdistill, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("name: p\nfallback: {share: 10}\ncosts: {hosting_usd_a_month: -600}\ntraffik: {}\n")
    found = prefdistill("plan", path)
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert f"{path}:2: fallback.share: found 10; expected a share from 0 to 1" in found.stderr
    assert f"{path}:3: costs.hosting_usd_a_month: found -600" in found.stderr
    assert f"{path}:4: traffik: unknown key; did you mean `traffic`?" in found.stderr
    assert not path.with_suffix(".md").exists()
    gone = prefdistill("plan", tmp_path / "gone.yaml")
    assert gone.returncode == 2 and "no such file" in gone.stderr


def test_a_broken_rubric_is_told_with_its_own_place(prefdistill, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("name: p\nrubric: {files: [r.yaml]}\n")
    (tmp_path / "r.yaml").write_text("name: r\ncriteria: [{name: a, check: length, weigt: 1}]\n")
    found = prefdistill("plan", path)
    assert found.returncode == 2 and "r.yaml:2" in found.stderr and "weigt" in found.stderr


def test_no_break_even_on_the_terminal(prefdistill, tmp_path):
    path = copy_example(tmp_path)
    path.write_text(path.read_text().replace("student_usd_a_request: 0 ", "student_usd_a_request: 0.01 "))
    shown = prefdistill("plan", path).stdout
    assert "No break-even against large-model: each request costs more than it saves." in shown
    assert "With the student a request costs $0.01084" in shown


def test_from_a_recipe_the_plan_is_made_and_shown_at_once(prefdistill, tmp_path):
    done = prefdistill("plan", "--from", ROOT / "recipes" / "email-online.yaml")
    assert done.returncode == 0, done.stderr
    assert "wrote plan.yaml" in done.stdout and "wrote plan.html" in done.stdout
    assert "teacher-large" in (tmp_path / "plan.md").read_text(encoding="utf-8")
    assert prefdistill("plan").returncode == 0, "./plan.yaml is the default"


def test_a_run_without_a_recipe_and_a_plan_that_is_not_there_say_what_to_do(prefdistill):
    alone = prefdistill("plan", "--run", "x")
    assert alone.returncode == 2 and "expected --from RECIPE beside it" in alone.stderr
    gone = prefdistill("plan")
    assert gone.returncode == 2 and "`prefdistill plan plan.yaml --from RECIPE` makes one" in gone.stderr
