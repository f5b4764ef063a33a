"""Plug-ins: three spellings of `use`, plain functions, option errors, verdicts, and `Use[...]` in a model."""

from __future__ import annotations

import json
import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

import prefdistill.plugins as plugins
from prefdistill.checks.length import Length
from prefdistill.errors import JudgeError, PluginError, RecipeError
from prefdistill.plugins import (
    FunctionCheck,
    FunctionJudge,
    Plugin,
    Use,
    build_checks,
    build_plugin,
    check_identity,
    dump_plugin,
    installed,
    resolve,
    verdict_of,
)
from prefdistill.protocols import Check, Judge, Teacher
from prefdistill.records import CheckScore, Draft, Judgement, Message, Prompt, Verdict
from prefdistill.rubric import Rubric

PROMPT = Prompt(id="p", messages=(Message(role="user", content="note"),), split="train")
DRAFTS = tuple(
    Draft(id=f"p/{number}", prompt_id="p", source="file:x", policy=None, round=1, purpose="train", index=number,
          completion="word " * number)
    for number in (1, 2, 3)
)  # fmt: skip
HOUSE = '''
"""A house's own plug-ins."""
from prefdistill import CheckScore, JudgeError, Plugin


class HouseStyle(Plugin):
    """Prefers drafts that keep to a word limit."""

    max_words: int = 120
    """Drafts longer than this score 0."""
    patience: float = 1.0
    """Seconds to wait; does not change a score."""
    operational = frozenset({"patience"})

    def judge(self, prompt, drafts, rubric):
        return [float(len(draft.completion.split()) <= self.max_words) for draft in drafts]


class Teach(Plugin):
    model: str = "m"

    def replies(self, requests):
        return iter(())


def shortest(prompt, drafts, rubric):
    return [-len(draft.completion) for draft in drafts]


def polite(prompt, text):
    return 1.0 if "please" in text else None


def scored(prompt, text):
    return CheckScore(score=0.5, reason="half")


class NoPlugin:
    def judge(self, prompt, drafts, rubric):
        return []


number = 3
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "house_style.py").write_text(HOUSE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def rubric() -> Rubric:
    criteria = ({"name": "length", "check": "length", "between": [1, 2]},)
    return Rubric.model_validate({"name": "r", "criteria": criteria})


class FakePackage:
    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch):
    """Replace what is installed by (name, value, package) triples per folder."""

    def install(folder: str, *points: tuple[str, str, str]) -> None:
        found = []
        for name, value, package in points:
            point = EntryPoint(name=name, value=value, group=f"prefdistill.{folder}")
            vars(point)["dist"] = FakePackage(package)
            found.append(point)
        monkeypatch.setattr(plugins, "entry_points", lambda group: found if group == f"prefdistill.{folder}" else [])
        installed.cache_clear()

    yield install
    monkeypatch.undo()
    installed.cache_clear()


# --- three spellings ------------------------------------------------------------------------------------------------


def test_a_built_in_name(folder):
    check = build_plugin("length", {"between": [1, 2]}, "checks", folder)
    assert isinstance(check, Length)
    assert dump_plugin(check) == {"use": "length", "unit": "words", "between": [1, 2], "soft": 0}
    assert check.identity()["version"] == "1"


def test_a_module_path(folder):
    check = build_plugin("prefdistill.checks.length:Length", {"between": [1, 2]}, "checks", folder)
    assert isinstance(check, Length)


def test_a_file_next_to_the_recipe(folder):
    judge = build_plugin("house_style.py:HouseStyle", {"max_words": 2}, "judges", folder)
    assert judge.judge(PROMPT, DRAFTS, None) == [1, 1, 0]
    assert dump_plugin(judge) == {"use": f"{folder}/house_style.py:HouseStyle", "max_words": 2, "patience": 1.0}
    assert judge.identity()["use"] == "house_style.py:HouseStyle", "the same judge wherever its folder is"
    with pytest.raises(ValidationError):
        judge.max_words = 3


def test_files_do_not_touch_the_import_path(folder):
    before = list(sys.path)
    build_plugin("house_style.py:HouseStyle", {}, "judges", folder)
    assert sys.path == before
    assert "house_style" not in sys.modules


def test_two_files_of_one_name_are_two_plugins(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "house_style.py").write_text(HOUSE.replace("max_words: int = 120", "max_words: int = 1"))
    assert build_plugin("house_style.py:HouseStyle", {}, "judges", folder).max_words == 120
    assert build_plugin("house_style.py:HouseStyle", {}, "judges", other).max_words == 1


def test_a_file_is_known_by_its_content(folder):
    before = build_plugin("house_style.py:HouseStyle", {}, "judges", folder).identity()
    (folder / "house_style.py").write_text(f"{HOUSE}\n# changed\n")
    after = build_plugin("house_style.py:HouseStyle", {}, "judges", folder).identity()
    assert {key: value for key, value in before.items() if key != "version"} == {
        key: value for key, value in after.items() if key != "version"
    }
    assert before["version"] != after["version"]
    assert "patience" not in before


@pytest.mark.parametrize(
    ("use", "group", "message"),
    [
        ("lenght", "checks", r"unknown name `lenght`; did you mean `length`\? \(installed checks: .*structure"),
        ("none.py:HouseStyle", "judges", r"no file none\.py in .*; the path is relative to the YAML file"),
        ("house_style.py:HouseStile", "judges", r"has no `HouseStile`; did you mean `HouseStyle`\?"),
        ("no_such_package.module:Name", "judges", r"module no_such_package\.module cannot be imported"),
        ("prefdistill.checks.length:Lenth", "checks", r"has no `Lenth`; did you mean `Length`\?"),
        ("house_style.py:NoPlugin", "judges", r"is no judge: expected a subclass of prefdistill\.Plugin with `judge`"),
        (
            "house_style.py:HouseStyle",
            "checks",
            r"is no check: expected a subclass of prefdistill\.Plugin with `check`",
        ),
        ("house_style.py:shortest", "teachers", r"is no teacher: expected a subclass"),
        ("house_style.py:number", "judges", r"is no judge: expected a subclass"),
    ],
)
def test_a_wrong_use(folder, use, group, message):
    with pytest.raises(PluginError, match=message):
        build_plugin(use, {}, group, folder)


@pytest.mark.parametrize("text", ["1 / 0", "import no_such_package", "def broken(:"])
def test_a_file_that_cannot_be_imported(tmp_path, text):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(
        PluginError, match=r"broken\.py: importing it failed: (ZeroDivision|ModuleNotFound|Syntax)Error"
    ):
        build_plugin("broken.py:X", {}, "judges", tmp_path)


def test_a_module_that_cannot_be_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_installed_module.py").write_text("1 / 0")
    with pytest.raises(PluginError, match=r"module broken_installed_module cannot be imported: .*division by zero"):
        build_plugin("broken_installed_module:X", {}, "judges", tmp_path)


def test_two_packages_that_offer_one_name(entry_points, folder):
    entry_points(
        "judges", ("style", "one.judges:Style", "prefdistill-one"), ("style", "two.judges:Style", "prefdistill-two")
    )
    with pytest.raises(PluginError) as caught:
        resolve("style", "judges", folder)
    assert "`style` is offered by two installed packages, prefdistill-one and prefdistill-two" in str(caught.value)
    assert "use: two.judges:Style" in str(caught.value)


def test_one_package_found_twice_is_no_conflict(entry_points, folder):
    point = ("size", "prefdistill.checks.length:Length", "prefdistill-one")
    entry_points("checks", point, point)
    assert resolve("size", "checks", folder) == (Length, "")


def test_an_entry_point_that_cannot_be_imported(entry_points, folder):
    entry_points("checks", ("gone", "no_such_package:Gone", "prefdistill-gone"))
    with pytest.raises(PluginError, match=r"`gone` \(no_such_package:Gone\) cannot be imported"):
        resolve("gone", "checks", folder)


def test_every_built_in_check_is_installed():
    for name in ("length", "phrases", "mentions", "grounded", "edit", "structure", "repetition"):
        target, _ = resolve(name, "checks", Path.cwd())
        assert isinstance(target, type)
        assert issubclass(target, Plugin)
        assert callable(target.check)


# --- options --------------------------------------------------------------------------------------------------------


def test_a_typo_in_an_option(folder):
    with pytest.raises(ValidationError, match="max_wrods"):
        build_plugin("house_style.py:HouseStyle", {"max_wrods": 3}, "judges", folder)


def test_a_function_takes_no_options(folder):
    with pytest.raises(ValidationError, match="max_words"):
        build_plugin("house_style.py:shortest", {"max_words": 3}, "judges", folder)


# --- plain functions ------------------------------------------------------------------------------------------------


def test_a_function_judge(folder):
    judge = build_plugin("house_style.py:shortest", {}, "judges", folder)
    assert isinstance(judge, FunctionJudge)
    assert isinstance(judge, Judge)
    verdict = verdict_of(judge.judge(PROMPT, DRAFTS, None), PROMPT, DRAFTS, "shortest")
    assert [judgement.value for judgement in verdict.judgements] == [-5, -10, -15]
    assert {judgement.scale for judgement in verdict.judgements} == {"custom"}
    assert judge.identity()["version"]


def test_a_function_check(folder):
    check = build_plugin("house_style.py:polite", {}, "checks", folder)
    assert isinstance(check, FunctionCheck)
    assert check.check(PROMPT, "please") == CheckScore(score=1.0)
    assert check.check(PROMPT, "go") is None
    assert build_plugin("house_style.py:scored", {}, "checks", folder).check(PROMPT, "x") == CheckScore(
        score=0.5, reason="half"
    )


@pytest.mark.parametrize("score", [1.5, -0.1, float("nan"), "high"])
def test_a_function_check_that_gives_no_score_fails_its_group(folder, score):
    (folder / "odd.py").write_text(f"nan = float('nan')\n\n\ndef odd(prompt, text):\n    return {score!r}\n")
    check = build_plugin("odd.py:odd", {}, "checks", folder)
    with pytest.raises(JudgeError, match=r"check odd\.py:odd: .*0 to 1"):
        check.check(PROMPT, "x")


# --- verdict_of -----------------------------------------------------------------------------------------------------


def test_a_verdict_is_taken_as_it_is():
    verdict = Verdict(prompt_id="p", judgements=(Judgement(draft_id="p/1", judge="j", value=1.0, scale="custom"),))
    assert verdict_of(verdict, PROMPT, DRAFTS, "j") is verdict


def test_numbers_become_judgements_and_none_abstains():
    verdict = verdict_of([1, None, 0.25], PROMPT, DRAFTS, "j")
    assert [(each.draft_id, each.value) for each in verdict.judgements] == [("p/1", 1.0), ("p/3", 0.25)]
    assert [(failure.key, failure.kind) for failure in verdict.failures] == [("p/2", "empty")]
    assert not verdict.owed


def test_arrays_and_tuples_are_lists():
    numpy = pytest.importorskip("numpy")
    for result in (
        (1, 2, 3),
        numpy.array([1, 2, 3]),
        numpy.array([1, 2, 3], dtype="float32"),
        [numpy.float64(1), 2, 3],
    ):
        assert [each.value for each in verdict_of(result, PROMPT, DRAFTS, "j").judgements] == [1, 2, 3]


def test_single_numpy_numbers_are_numbers():
    numpy = pytest.importorskip("numpy")
    result = [numpy.float32(1), numpy.int64(2), 3]
    assert [each.value for each in verdict_of(result, PROMPT, DRAFTS, "j").judgements] == [1, 2, 3]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1, 2], "returned 2 numbers for 3 drafts"),
        ([], "returned 0 numbers for 3 drafts"),
        ([1, 2, float("nan")], "gave nan for draft p/3; expected a finite number or None"),
        ([1, 2, float("inf")], "gave inf for draft p/3"),
        ([1, 2, "3"], "gave '3' for draft p/3"),
        ([1, 2, True], "gave True for draft p/3"),
        ([1, 2, [3]], r"gave \[3\] for draft p/3"),
        ("abc", "returned str; expected a Verdict or a list of 3 numbers"),
        (None, "returned NoneType"),
        (0.5, "returned float"),
        ({"p/1": 1, "p/2": 2, "p/3": 3}, "returned dict"),
        ((number for number in (1, 2, 3)), "returned generator"),
    ],
)
def test_anything_else_fails_the_group(result, message):
    with pytest.raises(JudgeError, match=f"judge j: {message}"):
        verdict_of(result, PROMPT, DRAFTS, "j")


# --- Use[...] in a model --------------------------------------------------------------------------------------------


class Section(BaseModel):
    """A recipe's section with plug-ins."""

    model_config = ConfigDict(extra="forbid")

    check: Use[Check]
    panel: list[Use[Check]] = []


class Nested(Plugin):
    """A judge with a check of its own."""

    inner: Use[Check]
    weight: float = 1.0

    def judge(self, prompt: Any, drafts: Any, rubric: Any) -> Any:
        """Judge nothing."""
        return [0.0 for _ in drafts]


def test_use_is_the_plugin_and_keeps_its_name():
    section = Section.model_validate({"check": {"use": "length", "between": [1, 2]}, "panel": ["grounded"]})
    assert isinstance(section.check, Length)
    assert section.model_dump() == {
        "check": {"use": "length", "unit": "words", "between": [1, 2], "soft": 0},
        "panel": [{"use": "grounded", "kinds": list(section.panel[0].kinds), "ignore": []}],
    }
    assert json.loads(section.model_dump_json()) == section.model_dump()
    assert Section.model_validate(section.model_dump()) == section


def test_use_of_files_is_relative_to_the_context(folder):
    class Judges(BaseModel):
        judge: Use[Judge]

    data = {"judge": {"use": "house_style.py:HouseStyle", "max_words": 3}}
    assert Judges.model_validate(data, context={"directory": folder}).judge.max_words == 3
    with pytest.raises(ValidationError, match=r"no file house_style\.py"):
        Judges.model_validate(data, context={"directory": folder / "elsewhere"})


@pytest.fixture
def nested_module(monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the name returned, as an installed package would have it."""
    module = types.ModuleType("installed_nested_judge")
    vars(module)["Nested"] = Nested
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


def test_nested_use(folder, nested_module):
    section = build_plugin(f"{nested_module}:Nested", {"inner": {"use": "length", "between": [1, 2]}}, "judges", folder)
    assert dump_plugin(section)["inner"]["use"] == "length"
    assert section.identity()["inner"]["between"] == [1, 2]
    assert "use" in json.dumps(Nested.model_json_schema())


def test_the_schema_names_what_is_installed():
    schema = Section.model_json_schema()
    text = json.dumps(schema)
    assert "grounded" in text
    assert "prefdistill.checks" in text
    form = schema["properties"]["check"]
    mapping = next(part for part in form["anyOf"] if part.get("type") == "object")
    assert mapping["required"] == ["use"]
    assert schema["properties"]["panel"]["type"] == "array"


def test_the_schema_holds_a_plugins_options(entry_points, nested_module):
    entry_points("judges", ("nested", f"{nested_module}:Nested", "x"))

    class Judges(BaseModel):
        judge: Use[Judge]

    mapping = next(
        part for part in Judges.model_json_schema()["properties"]["judge"]["anyOf"] if part.get("type") == "object"
    )
    assert mapping["properties"]["weight"]["type"] == "number"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"check": {"use": "lenght"}}, r"check\.use\n.*unknown name `lenght`; did you mean `length`"),
        ({"check": {"between": [1, 2]}}, "expected `use: NAME` with the plug-in's options beside it, one of: .*length"),
        ({"check": 3}, "expected `use: NAME`"),
        ({"check": {"use": "length", "betwen": [1, 2]}}, r"check\.betwen\n.*unknown key"),
        ({"check": {"use": "length", "between": [2, 1]}}, r"check\.between\n.*low at most high"),
        ({"check": "length"}, r"check\.between\n.*Field required"),
        ({"check": "grounded", "panel": ["grounded", {"use": "length"}]}, r"panel\.1\.between"),
    ],
)
def test_wrong_use_in_a_section(data, message):
    with pytest.raises(ValidationError, match=message):
        Section.model_validate(data)


def test_a_typo_names_file_line_and_allowed_keys(tmp_path):
    from prefdistill.documents import parse_document, raise_invalid

    text = "panel: []\ncheck:\n  use: length\n  betwen: [1, 2]\n"
    document = parse_document(text, tmp_path / "recipe.yaml", RecipeError)
    with pytest.raises(ValidationError) as invalid:
        Section.model_validate(document.data)
    with pytest.raises(RecipeError) as caught:
        raise_invalid(invalid.value, document, RecipeError, Section)
    lines = str(caught.value).splitlines()
    wanted = "recipe.yaml:4: check.betwen: unknown key; did you mean `between`? (keys: between, soft, unit)"
    assert any(line.endswith(wanted) for line in lines)
    assert any("check.between: missing; add this key" in line for line in lines)


# --- checks of a rubric ---------------------------------------------------------------------------------------------


def test_checks_are_built_once_and_known_by_their_options(rubric):
    assert build_checks(rubric) is build_checks(rubric)
    other = Rubric.model_validate(
        {"name": "r", "criteria": ({"name": "length", "check": "length", "between": [1, 3]},)}
    )
    assert check_identity(rubric) != check_identity(other)


def test_an_own_check_is_known_by_its_source(folder):
    def identity() -> str:
        rubric = Rubric.model_validate(
            {"name": "r", "criteria": ({"name": "polite", "check": "house_style.py:polite"},)}
        )
        rubric._directory = folder
        build_checks.cache_clear()
        return check_identity(rubric)

    before = identity()
    assert identity() == before
    (folder / "house_style.py").write_text(f"{HOUSE}\n# changed\n")
    assert identity() != before


def test_identity_of_nested_plugins_and_teachers(folder):
    class Panel(BaseModel):
        teachers: list[Use[Teacher]]

    panel = Panel.model_validate(
        {"teachers": [{"use": "house_style.py:Teach", "model": "a"}, "house_style.py:Teach"]},
        context={"directory": folder},
    )
    assert [teacher.model for teacher in panel.teachers] == ["a", "m"]
    assert panel.model_dump()["teachers"][1] == {"use": f"{folder}/house_style.py:Teach", "model": "m"}
