"""`prefdistill agreement` as a user runs it: a live judge over a loopback server, and verdicts on record."""

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from prefdistill.agreement.command import measure_and_show
from prefdistill.errors import PrefdistillError
from prefdistill.records import CriterionScore, Draft, Judgement, Prompt, Usage, Verdict
from prefdistill.run import RunDirectory
from tests.conftest import ROOT
from tests.loopback import Loopback, judging_by
from tests.making import both_orders, make_drafts, make_prompt

LABELS = Path(__file__).parent / "labels.jsonl"
RUBRIC = """
name: clear
criteria:
  - {{name: clear, question: Is it clear what to do?, levels: ["no", partly, "yes"]}}
  - {{name: kind, question: Is it kind?, levels: ["no", "yes"]}}
  {more}
"""
RECIPE = """
name: meter
rubric: r.yaml
student: {{model: "prefdistill.sandbox:student"}}
teacher: {{use: openai, model: m, base_url: "{url}", api_key_env: NO_KEY}}
prompts: {{path: {root}/recipes/prompts/quickstart.jsonl}}
judge: {judge}
train: {{batch_size: 8}}
cache: {cache}
"""


def short_is_good(text):
    return 1.0 if len(text) < 60 else 0.0


def write_recipe(folder: Path, url: str, judge: str, more: str = "", cache: str = "cache") -> Path:
    (folder / "r.yaml").write_text(RUBRIC.format(more=more))
    (folder / "meter.yaml").write_text(RECIPE.format(url=url, judge=judge, root=ROOT, cache=cache))
    return folder / "meter.yaml"


def agreement(folder: Path, labels: Path, **options) -> tuple[dict, str]:
    """Run the command in this process; return what it wrote as JSON and what it printed."""
    told = io.StringIO()
    given = {"judge": None, "verdicts": None, "rubric": None, "only_judge": None, "repeat": 1, "cached_only": False}
    given |= {"json": folder / "out.json", "html": folder / "out.html", **options}
    measure_and_show([labels], **given, console=Console(file=told, width=140))
    return json.loads((folder / "out.json").read_text()), told.getvalue()


def value(result, name):
    return result["figures"][name]["value"]


def test_a_live_judge_that_says_what_people_say(tmp_path):
    with Loopback(judging_by(short_is_good)) as server:
        recipe = write_recipe(tmp_path, server.url, "{use: rubric}")
        result, told = agreement(tmp_path, LABELS, judge=recipe)
        page, asked = (tmp_path / "out.html").read_text(), len(server.requests)
        again, _ = agreement(tmp_path, LABELS, judge=recipe, cached_only=True)
        assert len(server.requests) == asked, "replies come from the request cache"
    assert (result["pairs"], result["people"]) == (14, ["ann", "bob", "cem"])
    assert value(result, "accuracy") == pytest.approx(12 / 13), "8 pairs, and 5 of a ranking; two end in a tie"
    assert value(result, "consistent") == 1.0
    assert value(result, "people_agreement") == pytest.approx(28 / 36), "others who are even count half"
    assert 0.5 < value(result, "people_alpha") < value(result, "kappa_decided") + 0.1
    assert result["criteria"]["clear.clear"]["counts"] == {"no": 10, "partly": 0, "yes": 10}
    assert result["criteria"]["clear.clear"]["labels"] == 24
    assert result["usage"]["calls"] == asked
    assert (again["usage"]["calls"], again["figures"]) == (0, result["figures"])
    assert "The judge against people" in page and "Levels of clear" in page
    assert "The judge against people" in told and "longest wins" in told


def test_what_is_not_in_the_cache_fails_with_cached_only(tmp_path):
    with Loopback(judging_by(short_is_good)) as server:
        recipe = write_recipe(tmp_path, server.url, "{use: rubric}")
        result, told = agreement(tmp_path, LABELS, judge=recipe, cached_only=True)
        assert not server.requests
    assert value(result, "judged") == 0.0
    assert "none of the labelled pairs could be judged" in told


def test_repeats_are_new_questions_and_their_flips_are_counted(tmp_path):
    seen = []

    def moody(body):
        """Levels by length, the other way round each second time that a text is asked about."""
        seen.append(body["messages"][-1]["content"])
        turned = seen.count(seen[-1]) % 2 == 0
        return judging_by(lambda text: 1 - short_is_good(text) if turned else short_is_good(text))(body)

    with Loopback(moody) as server:
        recipe = write_recipe(tmp_path, server.url, "{use: rubric, confirm: none, concurrency: 1}")
        result, told = agreement(tmp_path, LABELS, judge=recipe, repeat=2)
    assert value(result, "repeat_flips") == 1.0
    assert "warning: changes its mind: 100% of 40 answers differ" in told


@pytest.mark.parametrize("place", ["first", "second"])
def test_a_judge_that_always_answers_one_place_is_named(tmp_path, place):
    with Loopback(lambda body: json.dumps({"reason": "", "winner": place})) as server:
        recipe = write_recipe(tmp_path, server.url, "{use: pairwise}")
        pairs = tmp_path / "pairs.jsonl"
        pairs.write_text("".join(line for line in LABELS.open() if "criterion" not in line))
        result, told = agreement(tmp_path, pairs, judge=recipe)
    assert f"warning: position-biased: in 14 of the 14 pairs whose winner changes with the order, the judge picks the draft shown {place}" in told  # fmt: skip  # noqa: E501
    assert (value(result, "first_pick"), value(result, "trained")) == (float(place == "first"), 0.0)
    assert (value(result, "consistent"), value(result, "accuracy")) == (0.0, 0.5)


def test_a_criterion_that_never_varies_is_named(tmp_path):
    with Loopback(judging_by(lambda text: 1.0)) as server:
        recipe = write_recipe(tmp_path, server.url, "{use: rubric}")
        _, told = agreement(tmp_path, LABELS, judge=recipe)
    assert "never varies: kind is `yes` for all 20 drafts" in told


def test_a_judge_that_fails_abstains(tmp_path):
    with Loopback(lambda body: "no idea") as server:
        recipe = write_recipe(tmp_path, server.url, "{use: rubric}")
        result, told = agreement(tmp_path, LABELS, judge=recipe)
    assert value(result, "judged") == 0.0 and value(result, "accuracy") is None
    assert "none of the labelled pairs could be judged (20 parse)" in told


def test_a_judge_that_fails_now_and_then_abstains_there(tmp_path):
    answer = judging_by(short_is_good)
    with Loopback(lambda body: "no idea" if "the lease" in body["messages"][-1]["content"] else answer(body)) as server:
        result, told = agreement(tmp_path, LABELS, judge=write_recipe(tmp_path, server.url, "{use: rubric}"))
    assert value(result, "judged") == pytest.approx(13 / 14)
    assert "abstains often: 6% of 36 answers could not be obtained or read (2 parse)" in told


def write_run(folder: Path) -> Path:
    """A run folder with two drafts each of six prompts, the first of which its judge prefers."""
    folder.mkdir()
    write_recipe(folder, "http://127.0.0.1:9/v1", "{use: rubric}").rename(folder / "recipe.yaml")
    prompts = [make_prompt(f"id{number}", f"prompt {number}") for number in range(6)]
    drafts, verdicts = [], []
    for prompt in prompts:
        best, worst = make_drafts([f"good {prompt.id}", f"bad {prompt.id}"], prompt.id)
        drafts += [best, worst]
        judgements = tuple(levels(draft, level) for draft, level in ((best, "yes"), (worst, "no")))
        preferences = tuple(both_orders(best, worst))
        verdicts.append(Verdict(prompt_id=prompt.id, judgements=judgements, preferences=preferences))
    run = RunDirectory(folder)
    run.rows(folder, "prompts.jsonl", Prompt).rewrite(prompts)
    run.rows(run.round(1), "1-drafts.jsonl", Draft).rewrite(drafts)
    run.rows(run.round(1), "2-verdicts.jsonl", Verdict).rewrite(verdicts)
    return folder


def levels(draft: Draft, level: str) -> Judgement:
    scores = tuple(
        CriterionScore(criterion=name, level=level, score=float(level == "yes"), path="parsed")
        for name in ("clear", "kind")
    )
    return Judgement(draft_id=draft.id, judge="rubric", scores=scores, scale="rubric", usage=Usage(calls=1, usd=0.5))


def test_a_run_is_compared_by_ids_and_by_texts_and_keeps_the_result(tmp_path):
    run = write_run(tmp_path / "run")
    rows = []
    for number in range(6):
        row = {"prompt": f"prompt {number}", "winner": "second" if number == 5 else "first", "by": "ann"}
        row |= {"first": f"good id{number}", "second": f"bad id{number} "}
        first, second = (f"id{number}/file:x/train-01/{index}" for index in (0, 1))
        rows += [row, {**row, "by": "bob", "prompt_id": f"id{number}", "first_id": first, "second_id": second}]
    labels = write_rows(tmp_path / "labels.jsonl", rows)
    result, told = agreement(tmp_path, labels, verdicts=run)
    assert (value(result, "judged"), value(result, "trained")) == (1.0, 1.0)
    assert value(result, "accuracy") == pytest.approx(5 / 6)
    assert (result["pairs"], value(result, "people_pairwise")) == (6, 1.0), (
        "ann's and bob's labels are on the same pairs"
    )
    assert (result["usage"]["calls"], result["usage"]["usd"]) == (12, 6.0)
    assert "nothing was asked now" in told
    kept = json.loads((run / "agreement.json").read_text())
    assert kept["figures"] == result["figures"]
    assert all({"title", "columns", "rows", "note"} == set(table) for table in kept["tables"])
    assert "The judge against people" in (run / "agreement.html").read_text()


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def both(prompt, better, worse):
    return [
        {"prompt": prompt, "first": better, "second": worse, "winner": "first"},
        {"prompt": prompt, "first": worse, "second": better, "winner": "second"},
    ]


def test_people_who_do_not_agree_grade_no_judge(tmp_path):
    rows = [
        {"prompt": f"p{number}", "first": f"a{number}", "second": f"b{number}", "by": by, "winner": winner}
        for number in range(12)
        for by, winner in (("ann", "first"), ("bob", "second" if number % 2 else "first"))
    ]
    labels = write_rows(tmp_path / "labels.jsonl", rows)
    recorded = [row for number in range(12) for row in both(f"p{number}", f"a{number}", f"b{number}")]
    result, told = agreement(tmp_path, labels, verdicts=write_rows(tmp_path / "v.jsonl", recorded))
    assert "people do not agree with one another" in told and "not graded" in told
    assert result["people_agree"] is False and "accuracy" not in result["figures"]
    assert value(result, "consistent") == 1.0, "what needs no people is still told"


def test_one_persons_labels_grade_without_a_ceiling(tmp_path):
    labels = write_rows(
        tmp_path / "labels.jsonl",
        [{"prompt": f"p{n}", "first": f"a{n}", "second": f"b{n}", "winner": "first"} for n in range(6)],
    )
    recorded = [row for number in range(6) for row in both(f"p{number}", f"a{number}", f"b{number}")]
    result, told = agreement(tmp_path, labels, verdicts=write_rows(tmp_path / "v.jsonl", recorded))
    assert result["people_agree"] is None and value(result, "people_alpha") is None
    assert (value(result, "accuracy"), value(result, "kappa_decided")) == (1.0, 1.0)
    assert "by 1 person" in told and "no warnings" in told and "People with one another" not in told


def test_texts_are_escaped_and_markup_is_not_read(tmp_path):
    nasty = "<script>alert(1)</script>[bold red]x[/bold]"
    row = {"prompt": "p", "first": "a", "second": "b", "winner": "first"}
    labels = write_rows(tmp_path / "labels.jsonl", [{**row, "by": nasty}, {**row, "by": "bob"}])
    _, told = agreement(tmp_path, labels, verdicts=write_rows(tmp_path / "v.jsonl", both("p", "a", "b")))
    page = (tmp_path / "out.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "[bold red]x[/bold]" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "expected one of `--judge RECIPE`"),
        ({"judge": Path("r.yaml"), "verdicts": Path("v.jsonl")}, "expected one of `--judge RECIPE`"),
        ({"verdicts": Path("v.jsonl"), "repeat": 2}, "they go with --judge"),
        ({"verdicts": Path("v.jsonl"), "cached_only": True}, "they go with --judge"),
        ({"judge": Path("r.yaml"), "only_judge": "x"}, "go with --verdicts"),
        ({"verdicts": Path("nowhere")}, "nowhere does not exist; expected a JSONL file of recorded verdicts, or a run"),
        ({"judge": Path("nowhere.yaml")}, "nowhere.yaml: no such file"),
        ({"verdicts": Path("v.jsonl")}, "`clear` is no criterion; expected an asked criterion of rubric none (better)"),
    ],
)
def test_what_does_not_fit_is_one_message(tmp_path, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "v.jsonl", both("p", "a", "b"))
    with pytest.raises(PrefdistillError) as problem:
        agreement(tmp_path, LABELS, **options)
    assert told in str(problem.value)


def test_a_criterion_on_which_people_do_not_agree_is_not_graded(tmp_path):
    levels = {"ann": ["yes", "no"] * 4, "bob": ["yes", "yes", "no", "no"] * 2}
    labels = write_rows(
        tmp_path / "labels.jsonl",
        [
            {"prompt": f"p{number}", "draft": f"d{number}", "criterion": "kind", "level": level, "by": by}
            for by, given in levels.items()
            for number, level in enumerate(given)
        ],
    )
    with Loopback(judging_by(short_is_good)) as server:
        result, told = agreement(tmp_path, labels, judge=write_recipe(tmp_path, server.url, "{use: rubric}"))
    assert "people do not agree on kind (Krippendorff's alpha" in told and "not graded: people do not agree" in told
    assert result["criteria"]["clear.kind"]["agreement"] is None


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ({"criterion": "clear", "level": "very"}, "clear has no level `very`; expected one of no, partly, yes"),
        ({"criterion": "klear", "level": "yes"}, "`klear` is no criterion; did you mean `clear`?"),
        ({"criterion": "length", "level": "yes"}, "`length` is checked, not asked"),
    ],
)
def test_labels_that_do_not_fit_the_rubric(tmp_path, label, told):
    labels = write_rows(tmp_path / "labels.jsonl", [{"prompt": "p", "draft": "a", "by": "ann", **label}])
    with Loopback(judging_by(short_is_good)) as server:
        recipe = write_recipe(
            tmp_path, server.url, "{use: rubric}", more="- {name: length, check: length, between: [1, 9]}"
        )
        with pytest.raises(PrefdistillError) as problem:
            agreement(tmp_path, labels, judge=recipe)
    assert told in str(problem.value)


def test_a_judge_that_only_compares_needs_pairs(tmp_path):
    labels = write_rows(
        tmp_path / "labels.jsonl", [{"prompt": "p", "draft": "a", "criterion": "clear", "level": "yes"}]
    )
    with Loopback(judging_by(short_is_good)) as server:
        recipe = write_recipe(tmp_path, server.url, "{use: pairwise}")
        with pytest.raises(PrefdistillError, match="only compares drafts, and no label compares two"):
            agreement(tmp_path, labels, judge=recipe)
        assert not server.requests


def test_the_command_line_prints_and_exits(tmp_path, prefdistill):
    shutil.copy(LABELS, tmp_path / "labels.jsonl")
    done = prefdistill("agreement", "labels.jsonl", "--verdicts", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nowhere does not exist" in done.stderr and "Traceback" not in done.stderr
