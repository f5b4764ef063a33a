"""Every block of the README does what it says."""

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from prefdistill.loop import run_recipe
from prefdistill.plugins import build_checks
from prefdistill.recipe import load_recipe
from prefdistill.rubric import load_rubric
from tests.commands import run_command
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if language == "bash" for line in block.strip().splitlines()]
YAML = [block for language, block in BLOCKS if language == "yaml"]
PYTHON = [block for language, block in BLOCKS if language == "python"]
ON_A_RUN = ("status", "retrain", "draft", "chat", "export", "report", "drift", "refresh", "serve")
SHORT = "loop.rounds=1 loop.prompts_per_round=16 prompts.validation_limit=6 prompts.test_limit=6 train.epochs=1".split()


def test_every_block_is_covered_here():
    assert {language for language, _ in BLOCKS} == {"bash", "yaml", "python"}
    assert (len(COMMANDS), len(YAML), len(PYTHON)) == (38, 6, 3)
    assert COMMANDS[0] == "pip install -c constraints.txt -e ."
    assert COMMANDS[2] == "pip install -c constraints.txt -e '.[test]' && pytest"


def prefdistill(*arguments, cwd):
    return run_command(arguments, cwd)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder like the checkout, with the run `short` of the README in it."""
    place = tmp_path_factory.mktemp("workplace")
    for name in ("recipes", "rubrics"):
        (place / name).symlink_to(ROOT / name)
    (short,) = (shlex.split(each)[1:] for each in COMMANDS if "--run short" in each)
    done = prefdistill(*short, *SHORT, cwd=place)
    assert done.returncode == 0, done.stderr
    shutil.copytree(place / "runs" / "short", place / "runs" / "quickstart")
    return place


def compare_there(place):
    """Run the README's comparison, shortened."""
    (compare,) = (shlex.split(each)[1:] for each in COMMANDS if "compare" in each and "--arms offline" in each)
    done = prefdistill(*compare, *SHORT, "train.batch_size=4", "--seeds", "1", cwd=place)
    assert done.returncode == 0, done.stderr
    assert (place / done.stdout.split("report  ")[1].split()[0]).is_file()


def needs_a_run(command):
    return shlex.split(command)[1] in ON_A_RUN or "--redo-from" in command


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(
            each, marks=[pytest.mark.slow] if re.search("redo-from|retrain|export|refresh .*rounds", each) else []
        )
        for each in COMMANDS
        if each.startswith("prefdistill") and needs_a_run(each) and "--fallback" not in each
    ],
)
def test_the_readmes_commands_on_a_run_work(command, workplace):
    """So short a run may keep its base, so its round is named where a trained policy is wanted."""
    arguments = shlex.split(command)[1:]
    if "quickstart-compare" in command:
        compare_there(workplace)
    if arguments[0] in ("retrain", "export"):
        arguments += ["--round", "1"]
    if arguments[0] == "run":
        arguments += [*SHORT, "pair.min_margin=0.2"]  # as the run `short` was made
    done = prefdistill(*arguments, cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_guards_levels_are_valid(tmp_path):
    levels, also = YAML[4].replace("prompts/emails", f"{ROOT}/recipes/prompts/emails").split("evaluate:\n")
    text = (ROOT / "recipes" / "quickstart.yaml").read_text().replace("path: ", f"path: {ROOT}/recipes/")
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("loop:"))
    recipe = tmp_path / "levels.yaml"
    text = kept.replace("evaluate:\n", f"evaluate:\n{also}") + "\n" + levels
    recipe.write_text(text.replace("../rubrics", f"{ROOT}/rubrics"))
    loaded = load_recipe(recipe)
    assert (loaded.loop.stop.judge_hacking, loaded.loop.warn.ties, loaded.loop.remedy) == (3, None, "auto")
    assert [task.name for task in loaded.evaluate.also] == ["emails"]


@pytest.mark.parametrize(
    "command",
    [
        each
        for each in COMMANDS
        if each.startswith("prefdistill")
        and not re.search("--run short|--arms|runs/short", each)
        and not needs_a_run(each)
    ],
)
def test_the_readmes_commands_run(command, tmp_path):
    """Runs are shortened by overrides; everything else is typed as the README has it."""
    arguments = shlex.split(command)[1:]
    if "my-assistant" in command and arguments[0] != "new":
        assert prefdistill("new", "my-assistant", cwd=tmp_path).returncode == 0
    if arguments[0] == "run":
        arguments += SHORT
    if "--run warm" in command:
        arguments += ["warm_start.prompts=32"]
    for name in ("recipes", "rubrics"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = prefdistill(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if arguments[0] == "run" and "--dry-run" not in arguments:
        assert (tmp_path / done.stdout.split("report  ")[1].split()[0]).is_file()


def test_the_readmes_labels_are_made_and_measured(workplace):
    """The page is opened and closed; the labels are then written as its answers would be."""
    label, agreement = (shlex.split(each)[1:] for each in COMMANDS if "label" in each)
    page = subprocess.Popen(
        [sys.executable, "-m", "prefdistill", *label, "--no-browser"],
        cwd=workplace,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    lines = iter(page.stdout.readline, "")
    assert any("http://127.0.0.1:" in line for line in lines)
    page.send_signal(signal.SIGINT)
    assert page.wait(30) == 0
    run = workplace / "runs" / "short"
    texts = {row["id"]: row["messages"][-1]["content"] for row in read_lines(run / "prompts.jsonl")}
    drafts = defaultdict(list)
    for row in read_lines(run / "round-01" / "1-drafts.jsonl"):
        drafts[row["prompt_id"]].append(row)
    labels = [
        {
            "prompt": texts[prompt_id],
            "prompt_id": prompt_id,
            "first": first["completion"],
            "first_id": first["id"],
            "second": second["completion"],
            "second_id": second["id"],
            "winner": "first" if len(first["completion"]) < len(second["completion"]) else "second",
            "by": "anna",
        }
        for prompt_id, (first, second, *_) in drafts.items()
    ]
    (workplace / agreement[1]).write_text("".join(json.dumps(label) + "\n" for label in labels))
    done = prefdistill(*agreement, cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert "longest wins" in done.stdout
    assert (run / "agreement.json").is_file()


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_judges_dials_are_valid(folder):
    text = (folder / "recipe.yaml").read_text().replace("judge:    {use: rubric, concurrency: 32}\n", YAML[2])
    (folder / "dials.yaml").write_text(text)
    recipe = load_recipe(folder / "dials.yaml")
    assert (len(recipe.judge.panel), recipe.budget.usd) == (2, 40)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rubric.yaml").write_text(YAML[0])
    (tmp_path / "recipe.yaml").write_text(YAML[1])
    (tmp_path / "house_style.py").write_text(PYTHON[1])
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
        without.replace("../rubrics", f"{ROOT}/rubrics").replace("path: ", f"path: {ROOT}/recipes/") + "\n" + YAML[5]
    )
    outcome = run_recipe(load_recipe(recipe, [*SHORT, "train.batch_size=4"]), folder / "run")
    assert outcome.rounds[1].judged == outcome.rounds[1].drafts > 0
    assert len(PYTHON[1].strip().splitlines()) <= 6


def test_a_typo_in_the_judges_options_is_reported_and_a_judge_that_raises_trains_nothing(folder):
    from prefdistill.errors import PrefdistillError

    (folder / "house_style.py").write_text(PYTHON[2])
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


def test_the_warm_start_is_valid(tmp_path):
    text = (ROOT / "recipes" / "quickstart.yaml").read_text().replace("path: ", f"path: {ROOT}/recipes/")
    recipe = tmp_path / "warm.yaml"
    recipe.write_text(text.replace("../rubrics", f"{ROOT}/rubrics") + "\n" + YAML[3])
    loaded = load_recipe(recipe)
    assert (loaded.warm_start.prompts, loaded.reference, loaded.last_round) == (500, "warm_start", 6)


@pytest.mark.parametrize("dry", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_ways_are_compared(tmp_path, dry):
    (compare,) = (shlex.split(each)[1:] for each in COMMANDS if "--equal" in each)
    for name in ("recipes", "rubrics"):
        (tmp_path / name).symlink_to(ROOT / name)
    short = [*SHORT, "loop.rounds=2", "train.batch_size=4", "--seeds", "1"]
    done = prefdistill(*compare, *short, *(["--dry-run"] if dry else []), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "so many are answered: outputs 4" in done.stdout
    if not dry:
        assert (tmp_path / done.stdout.split("report  ")[1].split()[0]).is_file()


def test_the_server_answers_the_readmes_client(workplace):
    """It is started as the README says, at a port that is free, and ended by Ctrl-C."""
    (serve,) = (shlex.split(each)[1:] for each in COMMANDS if "--fallback" in each)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "prefdistill", *serve, "--port", str(port)],
        cwd=workplace,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        lines = iter(server.stdout.readline, "")
        assert any(f"http://127.0.0.1:{port}/v1" in line for line in lines)
        (client,) = (block for block in PYTHON if "OpenAI(" in block)
        done = subprocess.run(
            [sys.executable, "-c", client.replace(":8000/", f":{port}/")], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(60) in (0, 130)
    assert "hiring plan" in (workplace / "runs" / "quickstart" / "served.jsonl").read_text()


def test_files_named_in_the_readme_exist():
    for name in re.findall(r"`((?:prefdistill|recipes|rubrics|tests)/[\w./-]+)`", README):
        assert Path(ROOT / name).exists(), name


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "tests/benchmarks/STUDY.md", "tests/benchmarks/WAYS.md"])
def test_no_place_is_left_to_fill_in(page):
    assert not re.findall(
        r"\b(?:[A-Z]{4,}_[A-Z_]{3,}|TODO|TBD|FIXME)\b", re.sub("`[^`]*`", "", (ROOT / page).read_text())
    )
