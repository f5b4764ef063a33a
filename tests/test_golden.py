"""The rubric's own tests: green, red, flaky or not judged, and never shown to the judge that they test."""

import itertools
import json
import xml.etree.ElementTree as ElementTree

import pytest

from prefdistill.errors import RubricError
from prefdistill.golden import render_junit, run_tests, without_test
from prefdistill.judges.checks import ChecksJudge
from prefdistill.judges.rubric import RubricJudge
from prefdistill.protocols import RunContext
from prefdistill.rubric import load_rubric
from tests.conftest import ROOT, TINY
from tests.loopback import Loopback, Served, fenced, judging_by
from tests.making import CLEAN, LENGTH, make_rubric, opened_teacher

BREVITY = {"name": "brevity", "question": "Is the e-mail short?", "levels": ["no", "partly", "yes"]}
SHORT, LONG = "Short.", "A very long text. " * 30


def golden(better=SHORT, worse=LONG, because="brevity", prompt="Write it."):
    return {"prompt": prompt, "better": better, "worse": worse, "because": because}


def by_length(text):
    return max(0.0, 1.0 - len(text) / 400)


@pytest.fixture
def judge_at(tmp_path):
    layers = []

    def open_judge(url, **options):
        teacher, layer = opened_teacher(url, tmp_path / "cache", deadline_seconds=3)
        layers.append(layer)
        judge = RubricJudge(**options)
        judge.open(RunContext(directory=tmp_path, seed=0, teacher=teacher, requests=layer))
        return judge, layer

    yield open_judge
    for layer in layers:
        layer.close()


def test_a_judge_that_reads_the_rubric_as_meant_is_green_in_both_orders(judge_at):
    rubric = make_rubric(BREVITY, tests=[golden()])
    with Loopback(judging_by(by_length)) as server:
        judge, layer = judge_at(server.url)
        (tested,) = run_tests(judge, rubric)
    assert tested.green
    assert tested.result == "green"
    shown = [fenced(body, "first") for body in server.served if fenced(body, "first")]
    assert {text.strip() for text in shown} == {SHORT, LONG.strip()}, "compared with each of them shown first"
    assert layer.usage.calls == 4


def test_a_judge_that_prefers_the_longer_one_is_red_and_says_on_what(judge_at):
    rubric = make_rubric(BREVITY, tests=[golden()])
    with Loopback(judging_by(lambda text: 1 - by_length(text))) as server:
        (tested,) = run_tests(judge_at(server.url)[0], rubric)
    assert tested.result == "red"
    assert "worse" in tested.first_bad.note


def test_higher_on_the_named_criterion_is_asked_for_even_where_the_total_is_right(judge_at):
    rubric = make_rubric(BREVITY, {**LENGTH, "weight": 9}, tests=[golden(better=LONG, worse="Meh.")])
    with Loopback(judging_by(by_length)) as server:
        (tested,) = run_tests(judge_at(server.url, confirm="none")[0], rubric)
    assert tested.result == "red"
    assert "on brevity `worse` scores higher" in tested.first_bad.note


def test_a_judge_that_says_first_is_red_with_the_reason(judge_at):
    def first(body):
        return json.dumps({"reason": "x", "winner": "first"}) if fenced(body, "first") else judging_by(by_length)(body)

    with Loopback(first) as server:
        (tested,) = run_tests(judge_at(server.url)[0], make_rubric(BREVITY, tests=[golden()]))
    assert tested.result == "red"
    assert "the winner changes with the order shown" in tested.first_bad.note


def test_a_failed_gate_of_the_worse_one_is_green_and_of_the_better_one_red():
    rubric = make_rubric(
        LENGTH,
        gates=[CLEAN],
        tests=[golden("fine", "BAD and longer than fine", "clean"), golden("BAD, but long", "short", "clean")],
    )
    good, bad = run_tests(ChecksJudge(), rubric)
    assert good.result == "green"
    assert bad.result == "red"


def test_repeats_are_new_requests_and_a_judge_that_wavers_is_flaky(judge_at):
    turns = itertools.count()

    def wavering(body):
        rule = by_length if next(turns) < 4 else lambda text: 1 - by_length(text)
        return judging_by(rule)(body)

    rubric = make_rubric(BREVITY, tests=[golden()])
    with Loopback(wavering) as server:
        judge, layer = judge_at(server.url, concurrency=1)
        (once,) = run_tests(judge, rubric)
        assert once.green
        (tested,) = run_tests(judge, rubric, repeat=3)
        assert len(tested.trials) == 3
        assert tested.flaky
        assert tested.result == "flaky, 1 of 3 green"
        assert layer.usage.calls == 12, "the first trial came from the cache, the other two were asked"


def test_checks_alone_are_judged_once_without_a_call():
    rubric = load_rubric(ROOT / "rubrics" / "sandbox-email.yaml")
    tested = run_tests(ChecksJudge(), rubric, repeat=3)
    assert [len(each.trials) for each in tested] == [1, 1]
    assert all(each.green for each in tested)
    assert tested[0].where.endswith("sandbox-email.yaml:22")


def test_the_test_under_judgement_is_not_shown_as_an_example(judge_at):
    others = [golden(better=f"Tiny {n}.", worse=f"{n} and much longer. " * 30, prompt=f"P{n}") for n in range(2)]
    rubric = make_rubric(BREVITY, tests=[golden(), *others])
    with Loopback(judging_by(by_length)) as server:
        judge, _ = judge_at(server.url, golden_examples=3, confirm="none")
        run_tests(judge, rubric)
    for body in server.served:
        draft = fenced(body, "draft")
        system = body["messages"][0]["content"]
        assert draft.strip() not in system, "it would know the answer"
        assert "Tiny" in system or SHORT in system, "the others are shown"
    assert len(without_test(rubric, rubric.tests[0]).tests) == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda body: "no JSON", "parse"),
        (lambda body: Served(text="", refusal="no"), "refusal"),
        (lambda body: Served(text="{", finish_reason="length"), "truncated"),
    ],
)
def test_what_could_not_be_judged_is_an_error_not_a_colour(judge_at, answer, kind):
    with Loopback(answer) as server:
        (tested,) = run_tests(judge_at(server.url)[0], make_rubric(BREVITY, tests=[golden()]))
    assert tested.result == "error"
    assert kind in tested.first_bad.note


def test_a_rubric_without_tests_is_an_error_that_says_how_to_add_one():
    with pytest.raises(RubricError, match=r"(?s)no tests.*better: …"):
        run_tests(ChecksJudge(), make_rubric(LENGTH))


def test_junit_is_well_formed_whatever_the_texts_are():
    nasty = 'a "quote" <b>&amp; ]]> \x00\x1b[31m \ud800 ￾ end'
    rubric = make_rubric(
        LENGTH, tests=[golden("x", "much longer", "length", nasty), golden("longer yet", "x", "length")]
    )
    tested = run_tests(ChecksJudge(), rubric)
    root = ElementTree.fromstring(render_junit(tested, rubric, 1.5).encode())
    assert root.attrib == {"tests": "2", "failures": "1", "errors": "0"}
    cases = root.findall("testsuite/testcase")
    assert [case.find("failure") is None for case in cases] == [False, True]
    assert '"quote" <b>&amp; ]]>' in cases[0].attrib["name"]


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "short.yaml").write_text(
        "name: short\ncriteria:\n  - {name: brevity, question: Is it short?, levels: [long, medium, short]}\n"
        f"tests:\n  - {{prompt: Write it., better: {SHORT}, worse: {LONG.strip()!r}, because: brevity}}\n"
    )

    def write(url):
        text = TINY.format(root=ROOT, cache=tmp_path / "cache").replace("judge: {use: checks}", "judge: {use: rubric}")
        teacher = {"use": "openai", "model": "m", "base_url": url, "usd_per_million": {"input": 1000, "output": 1000}}
        (tmp_path / "r.yaml").write_text(text.replace("teacher: {use: sandbox}", f"teacher: {json.dumps(teacher)}"))
        return tmp_path / "r.yaml"

    return write


def test_the_command_is_red_or_green_and_prints_what_it_cost(prefdistill, recipe, tmp_path):
    with Loopback(judging_by(by_length)) as server:
        path = recipe(server.url)
        nothing = prefdistill("rubric", "test", "short.yaml", "--recipe", path, "--cached-only")
        assert nothing.returncode == 1
        assert "not in the request cache" in nothing.stdout
        assert not server.requests
        green = prefdistill("rubric", "test", "short.yaml", "--recipe", path, "--junit", "out.xml")
        assert green.returncode == 0, green.stdout + green.stderr
        assert "1 of 1 tests green" in green.stdout
        assert "4 calls" in green.stdout
        assert "$0.48" in green.stdout
        again = prefdistill("rubric", "test", "short.yaml", "--recipe", path, "--cached-only")
        assert again.returncode == 0
        assert "0 calls, 4 replies from the request cache" in again.stdout
        assert ElementTree.parse(tmp_path / "out.xml").getroot().attrib["failures"] == "0"
    with Loopback(lambda body: judging_by(lambda text: 1 - by_length(text))(body)) as server:
        red = prefdistill("rubric", "test", "short.yaml", "--recipe", recipe(server.url), "--repeat", "2")
    assert red.returncode == 1
    assert "short.yaml:5: test 1" in red.stdout or "short.yaml:4: test 1" in red.stdout
    no_tests = tmp_path / "no.yaml"
    no_tests.write_text("name: n\ncriteria: [{name: length, check: length, between: [1, 9]}]\n")
    missing = prefdistill("rubric", "test", "no.yaml", "--recipe", tmp_path / "r.yaml")
    assert missing.returncode == 2
    assert "no tests" in missing.stderr
