import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def test_help_is_fast_because_it_imports_nothing_heavy():
    code = (
        "import sys, prefdistill, prefdistill.cli\n"
        "from typer.testing import CliRunner\n"
        "result = CliRunner().invoke(prefdistill.cli.app, ['--help'])\n"
        "assert 'Preference distillation' in result.output, result.output\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'datasets', 'evaluate', 'openai', 'numpy', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_validating_a_recipe_loads_no_model_library():
    code = (
        "import sys\nfrom pathlib import Path\nfrom prefdistill.recipe import load_recipe\n"
        f"load_recipe(Path({str(ROOT / 'recipes' / 'quickstart.yaml')!r}))\n"
        "print(sorted({'torch', 'transformers', 'trl', 'openai'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_command_has_a_help_page(prefdistill):
    listed = prefdistill("--help").stdout
    for command in ("run", "validate", "schema", "plugins", "new"):
        assert command in listed
        page = prefdistill(command, "--help")
        assert page.returncode == 0
        assert "Usage" in page.stdout


def test_version(prefdistill):
    assert prefdistill("--version").stdout.startswith("prefdistill 0.")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "gone.yaml"], 2, "gone.yaml: no such file"),
        (["validate", "gone.yaml"], 2, "gone.yaml: no such file"),
        (["nonsense"], 2, "No such command"),
        (["schema", "nonsense"], 2, "nonsense"),
        (["run", str(ROOT / "recipes/quickstart.yaml"), "loop.rouns=1"], 2, "did you mean `rounds`?"),
        (
            ["run", str(ROOT / "recipes/quickstart.yaml"), "student.model=./gone"],
            2,
            "expected a model folder or a hub id",
        ),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(prefdistill, arguments, code, message):
    found = prefdistill(*arguments)
    assert found.returncode == code
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_new_copies_a_start_that_is_valid_and_never_overwrites(prefdistill, tmp_path):
    made = prefdistill("new", "mine")
    assert made.returncode == 0, made.stderr
    checked = prefdistill("validate", "mine/recipes/quickstart.yaml")
    assert checked.returncode == 0, checked.stderr
    assert "592 train" in checked.stdout
    (tmp_path / "mine" / "recipes" / "quickstart.yaml").write_text("changed")
    again = prefdistill("new", "mine")
    assert again.returncode == 2
    assert (tmp_path / "mine" / "recipes" / "quickstart.yaml").read_text() == "changed"


def test_schema_is_json_that_knows_the_keys(prefdistill):
    assert "criteria" in json.loads(prefdistill("schema", "rubric").stdout)["properties"]
    assert "loop" in json.loads(prefdistill("schema", "recipe").stdout)["properties"]


def test_plugins_are_listed_with_their_options(prefdistill):
    shown = prefdistill("plugins").stdout
    for name in ("samplers", "teachers", "judges", "trainers", "checks", "grounded", "pairwise", "learning_rate=1e-05"):
        assert name in shown


def test_the_hub_ping_is_off_before_any_library_is_imported():
    code = "import prefdistill, os; print(os.environ['HF_HUB_DISABLE_TELEMETRY'])"
    environment = {"PATH": "/usr/bin:/bin"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == "1"
