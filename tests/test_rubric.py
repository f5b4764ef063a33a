"""Rubrics: strict loading with file and line, applicability, totals and fingerprints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from prefdistill.errors import RubricError
from prefdistill.plugins import build_checks
from prefdistill.records import CriterionScore, Message, Prompt
from prefdistill.rubric import Rubric, fields_in, fill, load_rubric

GOOD = """\
name: email
purpose: Business e-mail a busy colleague can act on.
gates:
  - {name: keeps_the_facts, check: mentions, all_of: ["{day}", "{time}"]}
  - name: invents_nothing
    question: Does the e-mail state anything that the note does not say?
    pass_when: "no"
criteria:
  - name: request_first
    question: Is what the reader should do clear within two sentences?
    levels: ["no", partly, "yes"]
    weight: 2
  - {name: length, check: length, unit: words, between: [15, 60], weight: 1}
  - {name: no_filler, check: phrases, none_of: ["hope this email finds you"], weight: 1}
tests:
  - {prompt: "x", fields: {day: Friday, time: noon}, better: "a", worse: "b", because: request_first}
"""


@pytest.fixture
def load(tmp_path: Path):
    def load_text(text: str = GOOD) -> Rubric:
        path = tmp_path / "email.yaml"
        path.write_text(text, encoding="utf-8")
        return load_rubric(path)

    return load_text


def prompt(**fields: Any) -> Prompt:
    return Prompt(id="p", messages=(Message(role="user", content="note"),), split="train", fields=fields)


def scored(**values: float | None) -> list[CriterionScore]:
    return [
        CriterionScore(criterion=name, score=score, applies=score is not None, path="checked")
        for name, score in values.items()
    ]


# --- loading --------------------------------------------------------------------------------------------------------


def test_a_good_rubric(load):
    rubric = load()
    assert [each.name for each in rubric.asked] == ["invents_nothing", "request_first"]
    assert [each.name for each in rubric.checked] == ["keeps_the_facts", "length", "no_filler"]
    assert rubric.gates[1].levels == ("no", "yes")
    assert rubric.criteria[1].options == {"unit": "words", "between": [15, 60]}
    assert set(build_checks(rubric)) == {"keeps_the_facts", "length", "no_filler"}


def test_a_dumped_rubric_is_the_same_rubric(load):
    rubric = load()
    for options in ({"exclude_defaults": True}, {"exclude_none": True}):
        again = Rubric.model_validate(rubric.model_dump(mode="json", **options))
        assert again.fingerprint() == rubric.fingerprint()
        assert again.asked_fingerprint() == rubric.asked_fingerprint()


ERRORS = {
    "unknown key at the top": (
        ("purpose:", "purpos:"),
        r"email\.yaml:2: purpos: unknown key; did you mean `purpose`\? \(keys: .*criteria.*\)",
    ),
    "unknown key of an asked criterion": (
        ("    weight: 2", "    wieght: 2"),
        r"email\.yaml:12: criteria\.0\.wieght: unknown key; did you mean `weight`\? \(keys: .*levels.*\)",
    ),
    "unknown key of an asked gate": (
        ("    pass_when:", "    pas_when:"),
        r"email\.yaml:7: gates\.1\.pas_when: unknown key; did you mean `pass_when`\?",
    ),
    "unknown key of a test": (
        ("better:", "bettr:"),
        r"email\.yaml:16: tests\.0\.bettr: unknown key; did you mean `better`\?",
    ),
    "duplicate key": (
        ("    weight: 2", "    weight: 2\n    weight: 3"),
        r"email\.yaml:13: weight: duplicate key; write each key once",
    ),
    "duplicate name": (
        ("name: no_filler", "name: length"),
        r"email\.yaml:\d+: .*the name `length` is used twice",
    ),
    "duplicate name of a gate and a criterion": (
        ("name: no_filler", "name: keeps_the_facts"),
        r"email\.yaml:\d+: .*the name `keeps_the_facts` is used twice",
    ),
    "a built-in name": (("name: no_filler", "name: complete"), r"email\.yaml:\d+: .*the name `complete` is built in"),
    "another": (("name: no_filler", "name: no_stray_tags"), r"email\.yaml:\d+: .*the name `no_stray_tags` is built in"),
    "a name with capitals": (
        ("name: no_filler", "name: No-Filler"),
        r"email\.yaml:14: criteria\.2\.name: found 'No-Filler'",
    ),
    "one level": (
        ('["no", partly, "yes"]', '["yes"]'),
        r"email\.yaml:11: criteria\.0\.levels: found 1 levels; expected 2 to 6",
    ),
    "seven levels": (
        ('["no", partly, "yes"]', "[a, b, c, d, e, f, g]"),
        r"email\.yaml:11: criteria\.0\.levels: found 7 levels",
    ),
    "equal levels": (
        ('["no", partly, "yes"]', '["no", "No "]'),
        r"email\.yaml:11: criteria\.0\.levels: levels must be different",
    ),
    "no levels": (
        ('    levels: ["no", partly, "yes"]\n', ""),
        r"email\.yaml:9: criteria\.0: an asked criterion needs `levels`",
    ),
    "unquoted no": (
        ('["no", partly, "yes"]', '[no, partly, "yes"]'),
        r'email\.yaml:11: unquoted no; write "no"',
    ),
    "unquoted no in pass_when": (('pass_when: "no"', "pass_when: no"), r'email\.yaml:7: unquoted no; write "no"'),
    "true as a level": (
        ('["no", partly, "yes"]', "[false, true]"),
        r"email\.yaml:11: criteria\.0\.levels\.0: found False; it should be a valid string",
    ),
    "zero weight in all": (
        ("    weight: 2", "    weight: 0"),
        r"email\.yaml:\d+: .*the weights of all criteria sum to zero",
    ),
    "negative weight": (
        ("    weight: 2", "    weight: -1"),
        r"email\.yaml:12: criteria\.0\.weight: found -1; it should be greater",
    ),
    "infinite weight": (("    weight: 2", "    weight: .inf"), r"email\.yaml:12: criteria\.0\.weight: found inf; "),
    "asked and checked": (
        ("    weight: 2", "    check: length"),
        r"email\.yaml:9: criteria\.0: a criterion is either asked",
    ),
    "neither asked nor checked": (
        ("check: length, ", ""),
        r"email\.yaml:13: criteria\.1: a criterion is either asked",
    ),
    "levels on a check": (
        ("unit: words", "levels: [a, b]"),
        r"email\.yaml:13: criteria\.1: a checked criterion has no `levels`",
    ),
    "asked gate without pass_when": (
        ('    pass_when: "no"\n', ""),
        r"email\.yaml:5: gates\.1: an asked gate needs `pass_when`",
    ),
    "pass_when is no level": (
        ('pass_when: "no"', "pass_when: never"),
        r"email\.yaml:5: gates\.1: pass_when is `never`; expected one of no, yes",
    ),
    "pass_when on a criterion": (
        ("    weight: 2", '    pass_when: "no"'),
        r"email\.yaml:12: criteria\.0\.pass_when: unknown key",
    ),
    "at_least too large": (
        ("all_of:", "at_least: 2, all_of:"),
        r"email\.yaml:4: gates\.0\.at_least: found 2; it should be less than or equal to 1",
    ),
    "because names nothing": (
        ("because: request_first", "because: request_frist"),
        r"email\.yaml:\d+: .*`request_frist`; did you mean `request_first`\?",
    ),
    "no criteria": ((GOOD[GOOD.index("criteria:") :], ""), r"email\.yaml(:\d+)?: criteria: missing; add this key"),
    "no name": (("name: email\n", ""), r"email\.yaml(:\d+)?: name: missing; add this key"),
    "empty question": (
        ("question: Is what the reader should do clear within two sentences?", 'question: " "'),
        r"email\.yaml:9: criteria\.0: the question has no text",
    ),
    "not YAML": (("criteria:", "criteria: ["), r"email\.yaml:\d+: not valid YAML"),
    "a tag": (("weight: 2", "weight: !!python/name:os.system 2"), r"email\.yaml:12: YAML tag .* is not allowed"),
    "a list": ((GOOD, "- a\n- b\n"), r"email\.yaml:1: found a .*; expected a YAML mapping"),
    "nothing": ((GOOD, "# nothing\n"), r"email\.yaml: the file is empty"),
    "a criterion that is a word": (
        ("  - {name: length, check: length, unit: words, between: [15, 60], weight: 1}", "  - length"),
        r"email\.yaml:13: criteria\.1: found 'length'; ",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_file_and_line(load, case):
    (old, new), message = ERRORS[case]
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if case == "zero weight in all":
        text = text.replace("weight: 1", "weight: 0")
    with pytest.raises(RubricError) as caught:
        load(text)
    first = str(caught.value)
    assert re.search(message, first), first
    assert "pydantic" not in first


def test_missing_file(tmp_path):
    with pytest.raises(RubricError, match=r"none\.yaml: no such file"):
        load_rubric(tmp_path / "none.yaml")


def test_every_problem_is_reported_at_once(load):
    with pytest.raises(RubricError) as caught:
        load(GOOD.replace("purpose:", "purpos:").replace("    weight: 2", "    weight: -2"))
    assert len(str(caught.value).splitlines()) == 2


CHECK_ERRORS = {
    "unknown check": (
        ("check: length", "check: lenght"),
        r"email\.yaml:13: criteria\.length\.check: unknown name `lenght`; did you mean `length`\?",
    ),
    "unknown option": (
        ("unit: words", "units: words"),
        r"email\.yaml:13: criteria\.length\.units: unknown key; did you mean `unit`\? \(keys of `length`: .*unit\)",
    ),
    "wrong value": (("[15, 60]", "[60, 15]"), r"email\.yaml:13: criteria\.length\.between: found .*low at most high"),
    "missing option": (
        ("between: [15, 60], ", ""),
        r"email\.yaml:13: criteria\.length\.between: missing; add this key",
    ),
    "nothing asked": (
        ('none_of: ["hope this email finds you"], ', ""),
        r"email\.yaml:14: criteria\.no_filler: .*neither `none",
    ),
    "in a gate": (("all_of:", "all_off:"), r"email\.yaml:4: gates\.keeps_the_facts\."),
    "at_least on a criterion": (
        ("unit: words", "at_least: 0.5"),
        r"email\.yaml:13: criteria\.length\.at_least: unknown",
    ),
}


@pytest.mark.parametrize("case", CHECK_ERRORS)
def test_errors_of_a_check_name_file_line_and_criterion(load, case):
    (old, new), message = CHECK_ERRORS[case]
    assert old in GOOD
    with pytest.raises(RubricError) as caught:
        build_checks(load(GOOD.replace(old, new, 1)))
    assert re.search(message, str(caught.value)), str(caught.value)


def test_every_wrong_option_of_a_check_is_reported(load):
    with pytest.raises(RubricError) as caught:
        build_checks(load(GOOD.replace("unit: words, between: [15, 60]", "unit: tokens, between: [60, 15], sofft: 1")))
    text = str(caught.value)
    assert [name for name in ("length.unit", "length.between", "length.sofft") if name not in text] == []


def test_own_check_next_to_the_rubric(load, tmp_path):
    (tmp_path / "house.py").write_text("def polite(prompt, text):\n    return 1.0 if 'please' in text else None\n")
    rubric = load(GOOD.replace("check: length, unit: words, between: [15, 60]", "check: 'house.py:polite'"))
    check = build_checks(rubric)["length"]
    assert check.check(prompt(), "please").score == 1  # type: ignore[union-attr]
    assert check.check(prompt(), "go") is None


# --- applicability --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "fields", "applies"),
    [
        ("day", {"day": "Friday"}, True),
        ("day", {}, False),
        ("day", {"day": ""}, False),
        ("day", {"day": None}, False),
        ("count", {"count": 0}, True),
        ("{kind: reply}", {"kind": "reply"}, True),
        ("{kind: reply}", {"kind": "note"}, False),
        ("{kind: reply}", {}, False),
        ("{kind: [reply, note]}", {"kind": "note"}, True),
        ("{count: 3}", {"count": "3"}, True),
        ("{count: 3}", {"count": 3}, True),
        ("{count: 3}", {"count": 4}, False),
        ("{kind: reply, count: 3}", {"kind": "reply"}, False),
    ],
)
def test_applies_if(load, condition, fields, applies):
    rubric = load(GOOD.replace("    weight: 2", f"    applies_if: {condition}"))
    assert rubric.criteria[0].applies_to(prompt(**fields)) is applies


@pytest.mark.parametrize(("value", "applies"), [(True, True), (False, False)])
def test_applies_if_truth_values(load, value, applies):
    rubric = load(GOOD.replace("    weight: 2", "    applies_if: {urgent: true}"))
    assert rubric.criteria[0].applies_to(prompt(urgent=value)) is applies


def test_a_question_with_a_missing_field_does_not_apply(load):
    rubric = load(GOOD.replace("within two sentences", "to {reader}"))
    assert rubric.criteria[0].fields == {"reader"}
    assert rubric.criteria[0].applies_to(prompt(reader="Anna"))
    assert not rubric.criteria[0].applies_to(prompt())


def test_templates():
    assert fields_in({"a": ["{x} and {y_1}", ("{z}",)], "b": "{2} {} {a b}", "c": 3}) == {"x", "y_1", "z"}
    assert fill("by {day}, {count}", prompt(day="Friday", count=0)) == "by Friday, 0"
    assert fill("by {day}", prompt(day="")) is None
    assert fill("by {day}", prompt(day="{time}", time="3")) == "by {time}"
    assert fill("nothing", prompt()) == "nothing"


# --- totals ---------------------------------------------------------------------------------------------------------

SCORES = {"keeps_the_facts": 1.0, "invents_nothing": 1.0, "request_first": 0.5, "length": 1.0, "no_filler": 0.0}


def test_total_is_the_weighted_mean_of_the_criteria(load):
    assert load().total(scored(**SCORES)) == (pytest.approx((2 * 0.5 + 1 + 0) / 4), ())


def test_what_does_not_apply_leaves_the_mean(load):
    total, failed = load().total(scored(**{**SCORES, "request_first": None, "keeps_the_facts": None}))
    assert total == pytest.approx(0.5)
    assert failed == ()


def test_failed_gates_are_named_and_do_not_change_the_score(load):
    total, failed = load().total(scored(**{**SCORES, "keeps_the_facts": 0.99, "invents_nothing": 0.0}))
    assert total == pytest.approx(0.5)
    assert failed == ("keeps_the_facts", "invents_nothing")


def test_at_least_lowers_a_checked_gate(load):
    rubric = load(GOOD.replace("all_of:", "at_least: 0.5, all_of:"))
    assert rubric.total(scored(**{**SCORES, "keeps_the_facts": 0.5}))[1] == ()
    assert rubric.total(scored(**{**SCORES, "keeps_the_facts": 0.49}))[1] == ("keeps_the_facts",)


def test_a_missing_score_is_an_error(load):
    with pytest.raises(RubricError, match="no score for length"):
        load().total(scored(**{name: score for name, score in SCORES.items() if name != "length"}))


def test_nothing_with_a_weight_applies(load):
    rubric = load(GOOD.replace("weight: 1", "weight: 0"))
    with pytest.raises(RubricError, match="no criterion with a weight applies"):
        rubric.total(scored(**{**SCORES, "request_first": None}))


def test_scores_of_levels(load):
    rubric = load()
    assert [rubric.criteria[0].score_of(level) for level in ("no", " Partly", "YES")] == [0, 0.5, 1]
    assert [rubric.gates[1].score_of(level) for level in ("No", "yes")] == [1, 0]


# --- fingerprints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    weight: 2", "    weight: 3"),
        ("[15, 60]", "[15, 70]"),
        ("none_of:", "any_of:"),
        ("because: request_first", "because: length"),
    ],
)
def test_the_asked_half_does_not_depend_on_weights_checks_or_tests(load, old, new):
    before, after = load(), load(GOOD.replace(old, new))
    assert before.asked_fingerprint() == after.asked_fingerprint()
    assert before.fingerprint() != after.fingerprint()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("purpose: Business", "purpose: Private"),
        ("within two sentences", "within three sentences"),
        ("partly", "half"),
        ('pass_when: "no"', 'pass_when: "yes"'),
        ("name: request_first", "name: request_soon"),
    ],
)
def test_the_asked_half_depends_on_what_is_asked(load, old, new):
    text = GOOD.replace(old, new)
    text = text.replace("because: request_first", "because: request_soon") if "request_soon" in new else text
    assert load().asked_fingerprint() != load(text).asked_fingerprint()


def test_comments_and_layout_do_not_matter(load):
    block = GOOD.replace("{name: length, check: length, unit: words,", "{check: length, name: length, unit: words,")
    assert load().fingerprint() == load(f"# a comment\n\n{block}").fingerprint()
    assert hash(load()) == hash(load())
