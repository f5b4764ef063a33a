"""`prefdistill report`: pages, Markdown and CSV again from what a finished run or comparison stored."""

import csv
import shutil

import pytest

from prefdistill.compare.writing import write_comparison
from prefdistill.errors import RunError
from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.reporting import read_stored, write_report
from prefdistill.run import RunDirectory, read_json
from tests.browser_data import rows_in
from tests.conftest import ROOT, TINY
from tests.stages.made_comparison import make_comparison

SMALL = ("loop.rounds=1", "loop.prompts_per_round=4", "prompts.validation_limit=4", "prompts.test_limit=4")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """A finished run of one small round, and a comparison whose runs are gone."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "tiny.yaml").write_text(TINY.format(root=ROOT, cache=folder / "cache"))
    run_recipe(load_recipe(folder / "tiny.yaml", SMALL), folder / "runs" / "tiny")
    write_comparison(make_comparison(), {"arms": []}, [], folder / "runs" / "tiny-compare", True)
    return folder


@pytest.fixture
def folder(made_once, tmp_path):
    """A copy of both, as ./runs of the folder in which commands run."""
    shutil.copytree(made_once / "runs", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.mark.slow
def test_a_runs_page_is_written_over_with_what_was_there(folder, prefdistill):
    run = RunDirectory(folder / "tiny")
    before = run.report.read_text()
    run.report.write_text("lost")
    done = prefdistill("report", "tiny")
    assert (done.returncode, done.stdout) == (0, "runs/tiny/report.html\n"), done.stderr
    assert run.report.read_text() == before


def test_without_texts_is_kept_until_texts_are_asked_for(folder):
    run = RunDirectory(folder / "tiny")
    assert all(row["messages"] and "text" in str(row["drafts"]) for row in shown_rows(run))
    write_report(run.path, "html", None, False)
    assert read_json(run.report_data)["texts"] is False
    assert not any(row["messages"] or "text" in str(row["drafts"]) for row in shown_rows(run))
    write_report(run.path, "html", None, None)
    assert not any(row["messages"] for row in shown_rows(run))
    write_report(run.path, "html", None, True)
    assert all(row["messages"] for row in shown_rows(run))


def shown_rows(run):
    """Return what the page's browser of drafts holds."""
    _, rows, pairs = rows_in(run.report.read_text())
    assert rows and pairs
    return [*rows, *pairs]


def test_a_page_elsewhere_leaves_the_run_as_it_is(folder, tmp_path):
    run = RunDirectory(folder / "tiny")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert write_report(run.path, "html", tmp_path / "share.html", False) == str(tmp_path / "share.html")
    assert write_report(run.path, "md", tmp_path / "share.md", None) == str(tmp_path / "share.md")
    assert before == {
        path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"
    }
    assert (tmp_path / "share.html").stat().st_size < run.report.stat().st_size
    assert (tmp_path / "share.md").read_text().startswith("### ")


def test_markdown_goes_to_standard_output_and_csv_into_tables(folder, prefdistill):
    done = prefdistill("report", "tiny", "--format", "md")
    assert done.returncode == 0 and done.stdout.startswith("### ") and "#### Rounds" in done.stdout
    assert done.stdout.endswith(".\n") and not done.stdout.endswith("\n\n")
    done = prefdistill("report", "tiny", "--format", "csv")
    assert done.stdout.startswith("runs/tiny/tables: ")
    rows = list(csv.DictReader((folder / "tiny" / "tables" / "rounds.csv").open()))
    assert [row["Round"] for row in rows] == ["0", "1"]
    assert float(rows[1]["Judge"]) == pytest.approx(
        read_json(folder / "tiny" / "result.json")["rounds"][1]["rubric_score"]
    )


def test_a_comparison_is_rendered_from_its_file(folder, prefdistill):
    comparison = folder / "tiny-compare"
    before = {name: (comparison / name).read_text() for name in ("report.html", "report.md", "tables/arms.csv")}
    for name in before:
        (comparison / name).unlink()
    (comparison / "tables" / "old.csv").write_text("of an earlier writing")
    done = prefdistill("report", "tiny-compare")
    assert (done.returncode, done.stdout) == (0, "runs/tiny-compare/report.html\n"), done.stderr
    assert before == {name: (comparison / name).read_text() for name in before}
    assert not (comparison / "tables" / "old.csv").exists()
    done = prefdistill("report", "tiny-compare", "--format", "md")
    assert done.stdout == before["report.md"]
    assert "online beat offline by 0.06" in done.stdout
    write_report(comparison, "html", None, False)
    assert read_json(comparison / "comparison.json")["texts"] is False


def test_a_comparison_read_back_is_the_one_that_was_written(folder):
    stored = read_stored(folder / "tiny-compare").report
    made = make_comparison()
    assert (stored.headline, stored.verdict, stored.notes, stored.arms) == (
        made.headline,
        made.verdict,
        made.notes,
        made.arms,
    )
    assert [table.name for table in stored.tables] == [table.name for table in made.tables]
    assert [curve.points for curve in stored.curves] == [curve.points for curve in made.curves]
    assert {curve.report for curve in stored.curves} == {""}  # the runs are gone, so nothing is linked


@pytest.mark.parametrize("form", ["html", "md"])
def test_nothing_is_overwritten_elsewhere(folder, tmp_path, form):
    (tmp_path / "there").write_text("mine")
    with pytest.raises(RunError, match=r"there: is there already, and nothing is overwritten; choose another name"):
        write_report(folder / "tiny", form, tmp_path / "there", None)
    with pytest.raises(RunError, match=r"is a folder; expected the name of a file"):
        write_report(folder / "tiny", form, tmp_path, None)
    assert (tmp_path / "there").read_text() == "mine"


def test_tables_are_written_into_an_empty_folder_only(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.csv").write_text("mine")
    with pytest.raises(RunError, match=r"out: the folder is not empty"):
        write_report(folder / "tiny", "csv", tmp_path / "out", None)
    with pytest.raises(RunError, match=r"mine\.csv: is a file; tables are written into a folder"):
        write_report(folder / "tiny", "csv", tmp_path / "out" / "mine.csv", None)
    assert (tmp_path / "out" / "mine.csv").read_text() == "mine"
    write_report(folder / "tiny", "csv", tmp_path / "new" / "tables", None)
    assert (tmp_path / "new" / "tables" / "rounds.csv").is_file()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gone", None, "runs/gone: no such folder; expected a run or a comparison: a path, or a name under ./runs"),
        ("tinny", None, "expected a run or a comparison: a path, or a name under ./runs; did you mean `tiny`?"),
        ("./tiny", None, "tiny: no such folder; expected a run or a comparison: a path, or a name under ./runs; did you"),
        ("empty", "mkdir", "runs/empty: it holds no run (no manifest.json and recipe.yaml)"),
        ("tiny", "result.json", "runs/tiny: the run is not finished (no result.json), so it has no report yet"),
        ("tiny", "report.json", "runs/tiny: no report.json, which a report is rendered from; run its recipe again"),
        ("tiny", {"report.json": "{"}, "runs/tiny/report.json:1: not valid JSON"),
        ("tiny", {"report.json": '{"texts": true, "report": {"name": 1}}'}, "report.json: not what this prefdistill wrote"),
        ("tiny", {"report.json": "[]"}, "report.json: not what this prefdistill wrote"),
        ("tiny-compare", {"comparison.json": '{"schema": 1}'}, "runs/tiny-compare: the comparison is not finished"),
        ("tiny-compare", {"comparison.json": "["}, "runs/tiny-compare/comparison.json:1: not valid JSON"),
        ("tiny-compare", {"comparison.json": '{"report": {"name": 1}, "runs": []}'}, "comparison.json: not what this"),
        ("tiny-compare", {"comparison.json": "[1]"}, "runs/tiny-compare: the comparison is not finished"),
    ],
)  # fmt: skip
def test_what_cannot_be_rendered_is_one_message(folder, prefdistill, name, change, message):
    if change == "mkdir":
        (folder / name).mkdir()
    elif isinstance(change, str):
        (folder / name / change).unlink()
    elif change is not None:
        for file, text in change.items():
            (folder / name / file).write_text(text)
    done = prefdistill("report", name)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_while_another_process_works_in_the_run_its_page_is_left_alone(folder, prefdistill):
    with RunDirectory(folder / "tiny").locked():
        done = prefdistill("report", "tiny")
        assert done.returncode == 2 and "another prefdistill process is working in this run" in done.stderr
        assert prefdistill("report", "tiny", "--format", "md").returncode == 0


def test_the_help_says_what_for(prefdistill):
    shown = " ".join(prefdistill("report", "--help", COLUMNS="200").stdout.split())
    for words in ("RUN_OR_COMPARISON", "Markdown for a pull request", "--no-text", "it must not be there yet"):
        assert words in shown, words
