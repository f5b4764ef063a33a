"""`prefdistill drift` on run folders and logs as people have them, broken ones too."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefdistill.drift.command import check_drift, write_report
from prefdistill.drift.report import DriftReport
from prefdistill.errors import RunError
from prefdistill.records import Forgotten, Message, Prompt
from prefdistill.sandbox.world import FACTS
from prefdistill.served import Served
from tests.drift.drifted_logs import log_rows

Run = Callable[..., subprocess.CompletedProcess[str]]
HOSTILE = "<script>alert(1)</script> \u202e | `x` [a](javascript:alert(1)) @everyone \x07 ＜b＞"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of 300 training prompts, as far as a check of its logs reads it."""
    folder = tmp_path / "runs" / "mails"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: email-tone\n")
    (folder / "manifest.json").write_text("{}")
    write_prompts(folder, log_rows(300, 1))
    return folder


def write_prompts(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    prompts = [
        Prompt(
            id=row["id"],
            messages=(Message(role="user", content=row["prompt"]),),
            split="train",
            fields={name: row[name] for name in FACTS},
        )
        for row in rows
    ]
    (folder / "prompts.jsonl").write_text("".join(f"{each.model_dump_json()}\n" for each in prompts))


def write_log(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def served_rows(count: int, late: float = 0.1, score: float = 0.8, redacted: bool = False) -> list[dict[str, Any]]:
    """A served log of twelve days in whose last third fallback share and mean score are other ones."""
    rng, found = random.Random(3), []
    for index, row in enumerate(log_rows(count, 5)):
        last = index > count * 2 / 3
        fallback = rng.random() < (late if last else 0.1)
        at = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=12 * index / count)
        judged = not fallback and rng.random() < 0.3
        row = Served(
            id=row["id"],
            time=at.isoformat(),
            model="email-tone",
            route="teacher" if fallback else "student",
            reason="gate" if fallback else "kept",
            messages=() if redacted else (Message(role="user", content=row["prompt"]),),
            fields={} if redacted else {name: row[name] for name in FACTS},
            prompt_characters=len(row["prompt"]),
            redacted=redacted,
            seconds=0.4,
            score=min(1.0, max(0.0, rng.gauss(score if last else 0.8, 0.1))) if judged else None,
            score_judge="checks" if judged else None,
        )
        found.append(row.model_dump(mode="json"))
    return found


def names(report: DriftReport) -> set[str]:
    return {each.name for each in report.findings}


def test_it_says_so_and_exits_0_or_4(run: Path, tmp_path: Path, prefdistill: Run) -> None:
    same = prefdistill("drift", "mails", "--log", write_log(tmp_path / "same.jsonl", log_rows(400, 5)))
    assert same.returncode == 0, same.stderr
    assert same.stdout.startswith("No drift: 400 distinct requests look like the 300 training prompts")
    other = prefdistill("drift", "mails", "--log", write_log(tmp_path / "de.jsonl", log_rows(250, 5, "language", 0.2)))
    assert other.returncode == 4, other.stderr
    assert other.stdout.startswith("Drift: new language")
    assert "German" in other.stdout and "next:" in other.stdout
    assert {each.name for each in (run / "drift").iterdir()} == {"drift.html", "drift.md", "drift.json"}


def test_json_is_for_machines(run: Path, tmp_path: Path, prefdistill: Run) -> None:
    log = write_log(tmp_path / "log.jsonl", log_rows(200, 5, "longer", 0.5))
    done = prefdistill("drift", "mails", "--log", log, "--json", "--out", tmp_path / "out")
    told = json.loads(done.stdout)
    assert done.returncode == 4 and told["drift"] is True
    assert "longer prompts" in {each["name"] for each in told["findings"]}
    assert told == json.loads((tmp_path / "out" / "drift.json").read_text())
    assert not (run / "drift").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "--log", "log"], "no such folder"),
        (["mails", "--log", "none"], "no such file"),
        (["mails", "--log", "empty"], "the log is empty"),
        (["mails", "--log", "log", "--since", "tomorrow"], "--since: found `tomorrow`"),
        (["mails", "--log", "log", "--since", "2026-11-01"], "no request has a time"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    arguments: list[str], said: str, run: Path, tmp_path: Path, prefdistill: Run
) -> None:
    write_log(tmp_path / "log", log_rows(30, 5))
    (tmp_path / "empty").touch()
    done = prefdistill("drift", *arguments)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr


def test_a_run_without_prompts_or_with_hardly_any_is_refused(run: Path, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", log_rows(30, 5))
    write_prompts(run, log_rows(10, 1))
    with pytest.raises(RunError, match="10 training prompts; expected at least 20"):
        check_drift(run, [log])
    (run / "prompts.jsonl").unlink()
    with pytest.raises(RunError, match=r"prompts\.jsonl: no such file"):
        check_drift(run, [log])


def test_forgotten_prompts_are_not_compared_with(run: Path, tmp_path: Path) -> None:
    first = log_rows(300, 1)[0]["id"]
    gone = Forgotten(prompt_id=first, split="train", messages="", fields="", at="2026-11-01")
    (run / "forgotten.jsonl").write_text(f"{gone.model_dump_json()}\n")
    report = check_drift(run, [write_log(tmp_path / "log", log_rows(50, 5))])
    assert report.training == 299
    assert any("forgotten" in note for note in report.notes)


def test_a_fallback_share_that_rises_is_found_with_and_without_a_calibration(run: Path, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", served_rows(900, late=0.3))
    report = check_drift(run, [log])
    assert names(report) == {"fallback share"}
    assert "the log’s own first part" in report.findings[0].text
    (run / "calibration.json").write_text(json.dumps({"share": 0.1, "prompts": 100}))
    again = check_drift(run, [log])
    assert names(again) == {"fallback share"}
    assert "the calibrated share" in again.findings[0].text
    assert again.measured.batches[0].name == "2026-11-01"
    assert not names(check_drift(run, [write_log(tmp_path / "same", served_rows(900))]))


def test_a_calibration_that_no_longer_holds_is_found(run: Path, tmp_path: Path) -> None:
    (run / "calibration.json").write_text(json.dumps({"share": 0.3, "prompts": 200}))
    assert names(check_drift(run, [write_log(tmp_path / "log", served_rows(900))])) == {"fallback share"}
    (run / "calibration.json").write_text(json.dumps({"share": "much"}))
    with pytest.raises(RunError, match="`share` is 'much'; expected 0 to 1"):
        check_drift(run, [tmp_path / "log"])


def test_answers_that_get_worse_are_found(run: Path, tmp_path: Path) -> None:
    report = check_drift(run, [write_log(tmp_path / "log", served_rows(900, score=0.6))])
    assert names(report) == {"judged sample"}
    assert any("refresh" in step for step in report.next_steps)
    better = check_drift(run, [write_log(tmp_path / "better", served_rows(900, score=0.95))])
    assert not better.drifted


def test_a_redacted_log_is_used_for_what_it_holds(run: Path, tmp_path: Path) -> None:
    report = check_drift(run, [write_log(tmp_path / "log", served_rows(900, late=0.4, redacted=True))])
    assert names(report) == {"fallback share"}
    assert any(note.startswith("All requests are redacted") for note in report.notes)
    assert report.distinct == 900


def test_since_and_last_choose_the_newest(run: Path, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", served_rows(240))
    assert check_drift(run, [log], since="2026-11-11").asked == 40
    assert check_drift(run, [log], last=25).measured.batches[0].name.startswith("2026-11-11")
    with pytest.raises(RunError, match="0 of 240 requests since 2027-01-01; the newest is of 2026-11-12"):
        check_drift(run, [log], since="2027-01-01")


def test_a_small_log_is_not_called_free_of_drift(run: Path, tmp_path: Path) -> None:
    report = check_drift(run, [write_log(tmp_path / "log", log_rows(20, 5))])
    assert not report.enough
    assert report.headline.startswith("No drift found, but the log is too small to rule it out")


def test_hostile_prompts_are_shown_and_do_nothing(run: Path, tmp_path: Path) -> None:
    rows = log_rows(100, 5)
    rows += [{"id": f"h{n}", "prompt": f"{HOSTILE} {n}", "topic": HOSTILE, "day": HOSTILE} for n in range(30)]
    report = check_drift(run, [write_log(tmp_path / "log", rows)])
    written = write_report(report, tmp_path / "out")
    page, markdown = written["page"].read_text(), written["markdown"].read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert "\u202e" not in page + markdown and "\x07" not in page + markdown
    assert "[U+202E]" in page
    assert "[a](" not in markdown and "@everyone" not in markdown and "<script>" not in markdown
    assert "script-src" not in page and "default-src 'none'" in page


def test_nothing_of_a_log_steers_the_terminal(run: Path, tmp_path: Path, prefdistill: Run) -> None:
    evil = "\x1b[31mEVIL\x1b[0m \x9b31m \u202e \x07 [bold]x[/bold]"
    rows = served_rows(300)
    rows = [{**row, "score_judge": evil} if row.get("score") is not None else row for row in rows]
    new = [{**row, "id": f"n{n}", "messages": [{"role": "user", "content": f"{evil} zebra {n} " * (n % 7 + 1)}]}
           for n, row in enumerate(rows[:60])]  # fmt: skip
    new = [{**row, "fields": {**row["fields"], "topic": evil}} for row in new]
    rows += [*new, {**rows[0], "id": "other", "model": evil}]
    done = prefdistill("drift", run, "--log", write_log(tmp_path / "log", rows))
    assert done.returncode == 4, done.stderr
    assert done.stdout.count("EVIL") >= 3 and "[bold]x" in done.stdout
    written = [(run / "drift" / f"drift.{kind}").read_text() for kind in ("html", "md")]
    assert all("EVIL" in each for each in written)
    for told in (done.stdout, done.stderr, *written):
        assert not set("\x1b\x9b\u202e\x07") & set(told)


def test_a_number_too_large_for_a_float_is_no_number(run: Path, tmp_path: Path) -> None:
    write_prompts(run, [{**row, "day": str(n)} for n, row in enumerate(log_rows(300, 1))])
    rows = [{**row, "day": 10**400, "seconds": 10**400} for row in log_rows(60, 5)]
    rows += [{**row, "prompt_characters": 1e308, "seconds": 1e308} for row in served_rows(60, redacted=True)]
    report = check_drift(run, [write_log(tmp_path / "log", rows)])
    assert all(path.stat().st_size for path in write_report(report, tmp_path / "out").values())


def test_without_texts_nothing_of_a_request_is_told(run: Path, tmp_path: Path) -> None:
    rows = [{**row, "prompt": f"Zanzibar {row['prompt']}", "topic": "Zanzibar"} for row in log_rows(150, 5)]
    report = check_drift(run, [write_log(tmp_path / "log", rows)], texts=False)
    written = write_report(report, tmp_path / "out")
    assert report.drifted
    for path in written.values():
        assert "zanzibar" not in path.read_text().lower(), path
    told = write_report(check_drift(run, [tmp_path / "log"]), tmp_path / "told")
    assert all("zanzibar" in path.read_text().lower() for path in told.values())
