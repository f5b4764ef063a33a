"""The smells of a rubric: each is found with its line and a wording that does not smell."""

import json
import re

import pytest
from ruamel.yaml import YAML

from prefdistill.lint import lint_files, lint_rubric
from prefdistill.plugins import build_checks
from prefdistill.rubric import Criterion, Gate, Rubric
from tests.conftest import ROOT
from tests.making import make_prompt, make_rubric

CHECK = {"name": "length", "check": "length", "unit": "words", "between": [20, 110]}
GATE = {"name": "facts", "check": "mentions", "all_of": ["{day}"]}


def asked(question, levels=("no", "partly", "yes"), name="it", **other):
    return {"name": name, "question": question, "levels": list(levels), **other}


def smells(*criteria, gates=(GATE,), tests=None, prompts=()):
    first = next((each for each in criteria if "question" in each), None)
    golden = [{"prompt": "p", "better": "a", "worse": "b", "because": each["name"]} for each in (*gates, *criteria)]
    rubric = make_rubric(*criteria, CHECK, gates=gates, tests=golden if tests is None else tests)
    assert first is not None or gates
    return lint_rubric(rubric, prompts)


def names(findings):
    return [each.smell for each in findings]


@pytest.mark.parametrize(
    ("smell", "question", "levels"),
    [
        ("vague", "Is the answer comprehensive?", ("poor", "fair", "good")),
        ("vague", "How engaging is the opening?", ("not at all", "somewhat", "very")),
        ("vague", "Is it a high-quality e-mail?", ("no", "yes")),
        ("vague", "Is the tone appropriate?", ("no", "partly", "yes")),
        ("vague", "Is it a good summary?", ("no", "yes")),
        ("vague", "Is the e-mail clear?", ("no", "yes")),
        ("rewards-length", "How detailed is the explanation?", ("little", "some", "a lot")),
        ("rewards-length", "Does it explain the offer in depth?", ("no", "yes")),
        ("rewards-length", "What is its length like?", ("short", "medium", "long")),
        ("counting", "How many words does the e-mail have?", ("too many", "fine")),
        ("counting", "Is it at most three sentences long?", ("no", "yes")),
        ("counting", "How often is the name used?", ("often", "once")),
        ("counting", "Does it have fewer than 120 words?", ("no", "yes")),
        ("marks", "How polite is the reply?", ("1", "2", "3", "4", "5")),
        ("marks", "How polite is the reply?", ("2/10", "5/10", "9/10")),
        ("order", "Does the e-mail name the day?", ("yes", "no")),
        ("order", "Does the e-mail contain errors?", ("no", "yes")),
        ("order", "What is the wording like?", ("excellent", "fair", "poor")),
        ("negated", "Is the e-mail not rude?", ("no", "yes")),
        ("leading", "Doesn't the e-mail name the day?", ("no", "yes")),
        ("leading", "The e-mail names the day, right?", ("no", "yes")),
        ("negated", "Does it contain no jargon?", ("no", "yes")),
        ("leading", "Surely the e-mail thanks the reader, doesn't it?", ("no", "yes")),
        ("leading", "Would you agree that the tone is warm?", ("no", "yes")),
        ("compares", "Is it better than the other draft?", ("no", "yes")),
        ("compares", "Is it as warm as the teacher's reply?", ("no", "yes")),
        ("double-barrelled", "Is it polite and firm?", ("no", "yes")),
    ],
)
def test_a_smell_is_found(smell, question, levels):
    assert smell in names(smells(asked(question, levels)))


@pytest.mark.parametrize(
    ("question", "levels"),
    [
        ("Where does the reader learn what the e-mail is about?", ("nowhere", "at the end", "in the opening")),
        ("Is what the reader should do clear within two sentences?", ("no", "partly", "yes")),
        ("Does the tone suit the occasion that the note describes?", ("jarring", "slightly off", "fitting")),
        ("How well is the original's faulty grammar mended?", ("not at all", "in part", "mostly", "fully")),
        ("How much of the original's padding is left?", ("all of it", "most of it", "a little", "none")),
        ("Does the draft say anything that the note does not say?", ("yes", "no")),
        ("Is it free of errors?", ("no", "yes")),
        ("Is there unnecessary detail?", ("yes, much", "some", "none")),
        ("Is it clear who has to act?", ("no", "yes")),
        ("Does the greeting name {recipient}?", ("no", "yes")),
        ("Is the tone appropriate to a first contact?", ("too familiar", "stiff", "as between strangers")),
        ("Does it avoid words that only experts know?", ("no", "mostly", "yes")),
        ("Is the number of guests right?", ("no", "yes")),
        ("Does it end with goodbye?", ("no", "yes")),
        ("What is the tone like: rude, neutral or friendly?", ("rude", "neutral", "friendly")),
        ("Does it explain why, not just what?", ("no", "yes")),
        ("Does the assistant refuse?", ("yes", "no")),
        ("Does the e-mail promise something that cannot be kept?", ("yes", "no")),
        ("Does the response contain any factual errors or hallucinations?", ("yes", "no")),
    ],
)
def test_a_sound_question_is_left_alone(question, levels):
    assert names(smells(asked(question, levels))) == []


def yaml_in(better):
    """The entries of a proposed wording that are YAML."""
    lines = [line for line in better.splitlines() if line.startswith("- {")]
    return [item for line in lines for item in YAML(typ="safe").load(line)]


@pytest.mark.parametrize(
    ("question", "entry"),
    [
        ("Does it have fewer than 120 words?", {"check": "length", "unit": "words", "between": [None, 119]}),
        ("Does it have at least 20 words?", {"check": "length", "unit": "words", "between": [20, None]}),
        ("Is it between 20 and 110 words long?", {"check": "length", "unit": "words", "between": [20, 110]}),
        ("Is it at most three sentences long?", {"check": "length", "unit": "sentences", "between": [None, 3]}),
        ("Has it exactly 2 paragraphs?", {"check": "structure", "paragraphs": [2, 2]}),
        ('How often is the word "synergy" used?', {"check": "phrases", "none_of": ["synergy"]}),
        ("How many exclamation marks are there?", {"check": "structure", "not_regex": "(?s)!.*!"}),
    ],
)
def test_counting_is_replaced_by_a_check_that_can_be_built(question, entry):
    (found,) = [each for each in smells(asked(question, ("bad luck", "as wanted"))) if each.smell == "counting"]
    (proposed,) = yaml_in(found.better)
    assert {key: proposed[key] for key in entry} == entry
    build_checks(make_rubric(proposed))


@pytest.mark.parametrize(
    "question", ["Is it clear and concise?", "Is the answer comprehensive?", "How detailed is it?", "Is it not rude?"]
)
def test_every_proposed_entry_is_a_valid_criterion_that_smells_less(question):
    found = smells(asked(question))
    assert found
    for each in found:
        for item in yaml_in(each.better):
            Criterion.model_validate(item)
            if each.smell in ("vague", "negated", "rewards-length") and "question" in item:
                again = smells({**item, "name": "other"})
                assert each.smell not in names(again), item


@pytest.mark.parametrize(
    ("question", "open_question"),
    [
        ("Doesn't the e-mail name the day?", "Does the e-mail name the day?"),
        ("Surely the e-mail thanks the reader, doesn't it?", "Does it hold that the e-mail thanks the reader?"),
        ("Would you agree that the tone is warm?", "How far does it hold that the tone is warm?"),
    ],
)
def test_a_leading_question_is_asked_openly(question, open_question):
    (found,) = smells(asked(question))
    assert found.better == f"ask it openly: {open_question}"


def test_a_gate_that_passes_on_a_fault_is_turned_and_one_of_two_faults_is_no_barrel():
    wrong = {"name": "errors", "question": "Does it contain errors?", "pass_when": "yes"}
    assert names(smells(asked("Is the day named?"), gates=[wrong])) == ["order"]
    fine = {"name": "rude", "question": "Is the draft rude or insulting?", "pass_when": "no"}
    assert names(smells(asked("Is the day named?"), gates=[fine])) == []
    Gate.model_validate(fine)


@pytest.mark.parametrize(
    ("criteria", "what"),
    [
        ([asked("How polite is it?", name="a"), asked("Is the reply polite to its reader?", name="b")], "politeness"),
        ([asked("Does the text name the day?", name="a"), asked("Does it name the day?", name="b")], "same question"),
        ([asked("Is the day named?", name="tone"), asked("Is noon named?", name="tones")], "same name"),
        ([asked("Is the e-mail concise in every line?", name="short_lines")], "length"),
        ([asked("Does the e-mail mention {day}?", name="day")], "{day}"),
    ],
)
def test_what_is_measured_twice_is_named(criteria, what):
    found = [each for each in smells(*criteria) if each.smell == "overlap"]
    assert len(found) == 1
    assert what in found[0].found


def test_what_a_rubric_lacks_is_said_once():
    many = [asked(f"Is fact number {n} there, the one of {'x' * n}?", name=f"fact_{n}") for n in range(13)]
    found = names(lint_rubric(make_rubric(*many)))
    assert {"no-gate", "no-check", "no-test", "too-many"} <= set(found)
    assert found.count("no-test") == 1


def test_gates_and_criteria_that_no_test_speaks_of():
    gate = {"name": "invents", "question": "Is anything invented?", "pass_when": "no"}
    test = [{"prompt": "p", "better": "a", "worse": "b", "because": "length"}]
    found = smells(asked("Is the day named?"), gates=[gate], tests=test)
    assert [(each.smell, each.severity, each.place) for each in found] == [
        ("no-test", "warning", "gates.invents.name"),
        ("no-test", "hint", "criteria.it.name"),
    ]


def test_a_weight_that_decides_alone():
    found = smells(asked("Is the day named?", weight=9), asked("Is noon said?", name="noon"))
    assert names(found) == ["dominates"]
    assert "82%" in found[0].found


def test_fields_that_no_prompt_has():
    found = smells(asked("Does {recipent} know why?"), prompts=[make_prompt(recipient="Ann", day="Friday")])
    assert names(found) == ["no-field"]
    assert "did you mean `recipient`?" in found[0].found


def test_our_own_rubrics_have_no_smell_but_missing_tests():
    for path in sorted((ROOT / "rubrics").glob("*.yaml")):
        assert set(names(lint_files([path]))) <= {"no-test"}, path


RUBRIC = """\
name: mail
criteria:
  - name: tone
    question: >-
      Is the tone polite
      and firm?
    levels: ["no", "yes"]
  - {name: length, check: length, between: [1, 99]}
gates:
  - {name: clean, check: phrases, none_of: [x]}
tests:
  - {prompt: p, better: a, worse: b, because: tone}
"""


def test_the_command_names_file_and_line_and_exits_as_asked(prefdistill, tmp_path):
    (tmp_path / "mail.yaml").write_text(RUBRIC)
    found = prefdistill("rubric", "check", "mail.yaml")
    assert found.returncode == 0
    assert "mail.yaml:4: warning: double-barrelled: criteria.tone.question" in found.stdout
    assert 'question: "Is the tone firm?"' in found.stdout
    assert "1 warning" in found.stdout
    assert prefdistill("rubric", "check", "mail.yaml", "--strict").returncode == 1
    rows = json.loads(prefdistill("rubric", "check", "mail.yaml", "--json").stdout)
    assert [(row["smell"], row["line"], row["severity"]) for row in rows] == [("double-barrelled", 4, "warning")]
    clean = prefdistill("rubric", "check", ROOT / "rubrics" / "email.yaml", "--strict")
    assert clean.returncode == 0
    assert "no findings" in clean.stdout
    (tmp_path / "broken.yaml").write_text("name: x\ncriteria: []\n")
    broken = prefdistill("rubric", "check", "broken.yaml")
    assert broken.returncode == 2
    assert re.search(r"broken.yaml:2: criteria", broken.stderr)


def test_a_rubric_made_in_code_is_linted_too():
    rubric = Rubric.model_validate({"name": "x", "criteria": [asked("Is it good?")]})
    assert lint_rubric(rubric)[0].where == "rubric x"
