"""Every block of the README does what it says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from prefdistill.loop import run_recipe
from prefdistill.plugins import build_checks
from prefdistill.recipe import load_recipe
from prefdistill.rubric import load_rubric
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if language == "bash" for line in block.strip().splitlines()]
YAML = [block for language, block in BLOCKS if language == "yaml"]
PYTHON = [block for language, block in BLOCKS if language == "python"]
SHORT = "loop.rounds=1 loop.prompts_per_round=16 prompts.validation_limit=6 prompts.test_limit=6 train.epochs=1".split()


def test_every_block_is_covered_here():
    assert {language for language, _ in BLOCKS} == {"bash", "yaml", "python"}
    assert (len(COMMANDS), len(YAML), len(PYTHON)) == (11, 3, 2)
    assert COMMANDS[0] == "pip install -c constraints.txt -e ."
    assert COMMANDS[2] == "pip install -c constraints.txt -e '.[test]' && pytest"


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("prefdistill")])
def test_the_readmes_commands_run(command, tmp_path):
    """Runs are shortened by overrides; everything else is typed as the README has it."""
    arguments = shlex.split(command)[1:]
    if "my-assistant" in command and arguments[0] != "new":
        subprocess.run([sys.executable, "-m", "prefdistill", "new", "my-assistant"], cwd=tmp_path, check=True)
    if arguments[0] == "run":
        arguments += SHORT
    for name in ("recipes", "rubrics"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, "-m", "prefdistill", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if arguments[0] == "run":
        assert (tmp_path / done.stdout.split("report  ")[1].split()[0]).is_file()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rubric.yaml").write_text(YAML[0])
    (tmp_path / "recipe.yaml").write_text(YAML[1])
    (tmp_path / "house_style.py").write_text(PYTHON[0])
    rows = "".join(f'{{"prompt": "Mail {n}", "day": "Friday", "time": "noon"}}\n' for n in range(40))
    (tmp_path / "prompts.jsonl").write_text(rows)
    return tmp_path


def test_the_rubric_and_the_recipe_are_valid(folder):
    assert len(build_checks(load_rubric(folder / "rubric.yaml"))) == 3
    assert load_recipe(folder / "recipe.yaml").loop.prompts_per_round == 256


def test_the_five_line_judge_judges_a_run(folder):
    quickstart = (ROOT / "recipes" / "quickstart.yaml").read_text()
    without = "\n".join(line for line in quickstart.splitlines() if not line.startswith(("judge:", "pair:")))
    recipe = folder / "mine.yaml"
    recipe.write_text(
        without.replace("../rubrics", f"{ROOT}/rubrics").replace("path: ", f"path: {ROOT}/recipes/") + "\n" + YAML[2]
    )
    outcome = run_recipe(load_recipe(recipe, [*SHORT, "train.batch_size=4"]), folder / "run")
    assert outcome.rounds[1].judged == outcome.rounds[1].drafts > 0
    assert len(PYTHON[0].strip().splitlines()) <= 6


def test_a_typo_in_the_judges_options_is_reported_and_a_judge_that_raises_trains_nothing(folder):
    from prefdistill.errors import PrefdistillError

    (folder / "house_style.py").write_text(PYTHON[1])
    recipe = folder / "mine.yaml"
    text = (ROOT / "recipes" / "quickstart.yaml").read_text()
    text = text.replace("../rubrics", f"{ROOT}/rubrics").replace("path: ", f"path: {ROOT}/recipes/")
    recipe.write_text(
        re.sub(r"judge: \{use: checks\}.*", 'judge: {use: "house_style.py:HouseStyle", max_word: 90}', text)
    )
    with pytest.raises(PrefdistillError, match=r"mine.yaml:\d+: judge.max_word: unknown key; did you mean `max_words`"):
        load_recipe(recipe)
    (folder / "house_style.py").write_text("def judge(prompt, drafts, rubric):\n    raise ValueError('out of ink')\n")
    recipe.write_text(recipe.read_text().replace(':HouseStyle", max_word: 90', ':judge"'))
    with pytest.raises(PrefdistillError, match="ValueError: out of ink"):
        run_recipe(load_recipe(recipe, [*SHORT, "pair.min_margin=1"]), folder / "run")
    assert not list((folder / "run").glob("round-*/5-policy"))


def test_files_named_in_the_readme_exist():
    for name in re.findall(r"`((?:prefdistill|recipes|rubrics)/[\w./-]+)`", README):
        assert Path(ROOT / name).exists(), name
