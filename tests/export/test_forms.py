"""Every form of an export, loaded as its card says; the adapter's in a process of its own."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prefdistill.errors import PrefdistillError
from prefdistill.export import fresh, verifying
from prefdistill.recipe import load_recipe
from prefdistill.records import Draft
from prefdistill.run import RowFile
from prefdistill.student import load_tokenizer

pytestmark = pytest.mark.xdist_group("export")
TOO_MUCH = "Nothing was exported"


def facts(folder: Path) -> dict:
    return json.loads((folder / "export.json").read_text())


def code_of(card: Path) -> str:
    found = re.search(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


SAME_DRAFTS = """
import json, sys
equal = 0
for messages, text in json.load(open(sys.argv[1])):
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    ).to(model.device)
    written = model.generate(**inputs, max_new_tokens=104)
    equal += tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True) == text
assert "prefdistill" not in sys.modules
print(equal)
"""


def greedy_drafts(run: Path, number: int = 1) -> dict[str, str]:
    """The run's validation drafts: it evaluates at temperature 0."""
    rows = RowFile(run / f"round-{number:02d}" / "6-drafts.jsonl", Draft).read()
    return {draft.prompt_id: draft.completion for draft in rows.values()}


def prompts_of(run: Path) -> dict[str, list[dict]]:
    rows = map(json.loads, (run / "prompts.jsonl").read_text().splitlines())
    return {row["id"]: row["messages"] for row in rows}


@pytest.fixture
def answers(monkeypatch) -> list[dict]:
    """What the fresh processes answered."""
    found: list[dict] = []
    real = verifying.run_fresh

    def keep(folder, job, cpu):
        found.append({**real(folder, job, cpu), "conversations": job["conversations"]})
        return found[-1]

    monkeypatch.setattr(verifying, "run_fresh", keep)
    return found


def same_as_in_the_run(answer: dict, run: Path) -> int:
    """How many greedy drafts of the fresh process are the run's own validation drafts."""
    tokenizer = load_tokenizer(load_recipe(run / "recipe.yaml").student)
    prompts, drafts = prompts_of(run), greedy_drafts(run)
    of_prompt = {json.dumps(prompts[key]): text for key, text in drafts.items()}
    written = [tokenizer.decode(ids, skip_special_tokens=True) for ids in answer["greedy"]]
    return sum(
        of_prompt[json.dumps(messages)] == text for messages, text in zip(answer["conversations"], written, strict=True)
    )


@pytest.mark.slow
def test_adapter_in_a_process_of_its_own(finished_run, export, tmp_path, answers, monkeypatch, capsys):
    lines = export(finished_run, probes=12)
    found = facts(tmp_path / "out")
    assert found["check"]["loss"] == 0
    assert found["check"]["greedy_same"] == found["check"]["drafts"] == 12
    assert found["check"]["update"] > 0.001
    assert found["check"]["scores"]["before"] == found["check"]["scores"]["after"]
    assert "prefdistill" not in answers[0]["modules"]
    assert same_as_in_the_run(answers[0], finished_run) == 12
    assert any("vllm serve" in line and "--enable-lora" in line for line in lines)
    monkeypatch.chdir(tmp_path / "out")
    exec(code_of(tmp_path / "out" / "README.md"), {})  # and the card's code runs as it stands
    assert capsys.readouterr().out.strip()


def test_dequantised_merge_is_the_policy(finished_run, export, tmp_path, same_process, answers):
    export(finished_run, format="merged", probes=12)
    found = facts(tmp_path / "out")["check"]
    assert found["loss"] < 1e-5
    assert found["greedy_same"] == 12
    assert same_as_in_the_run(answers[0], finished_run) == 12
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "float32"
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "generation_config.json"} <= {
        each.name for each in (tmp_path / "out").iterdir()
    }


def test_a_4_bit_export_keeps_the_change_only_on_the_original_weights(finished_run, export, tmp_path, same_process):
    export(finished_run, to="original", format="nf4")
    export(finished_run, to="grid", format="nf4", base="dequantized", max_loss=9)
    kept, lost = (facts(tmp_path / name)["check"] for name in ("original", "grid"))
    assert kept["loss"] < 0.5 * kept["update"]
    assert lost["loss"] > 2 * kept["loss"]
    config = json.loads((tmp_path / "original" / "config.json").read_text())["quantization_config"]
    assert config["bnb_4bit_quant_type"] == "nf4"
    assert "lm_head" in config["llm_int8_skip_modules"]


def test_original_base_in_16_bit(finished_run, export, tmp_path, same_process):
    export(finished_run, format="merged", base="original", dtype="bfloat16")
    found = facts(tmp_path / "out")
    assert 0 < found["check"]["loss"] < 0.1
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert found["merged_into"] == "original"


def test_above_the_limit_nothing_is_exported(finished_run, export, tmp_path, same_process):
    with pytest.raises(PrefdistillError, match=TOO_MUCH) as caught:
        export(finished_run, format="merged", base="original", max_loss=1e-6)
    assert "--max-loss" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_another_base_is_noticed(finished_run, export, tmp_path, same_process):
    """The adapter on weights that it was not trained on: its own drafts get other log-probabilities."""
    import torch
    from safetensors.torch import load_file, save_file

    moved = tmp_path / "run"
    shutil.copytree(finished_run, moved)
    other = tmp_path / "student"
    shutil.copytree(load_recipe(moved / "recipe.yaml").student.source, other)
    weights = load_file(other / "model.safetensors")
    torch.manual_seed(0)
    changed = {name: each + each.float().std().nan_to_num() * torch.randn_like(each) for name, each in weights.items()}
    save_file({name: each.half() for name, each in changed.items()}, other / "model.safetensors", {"format": "pt"})
    recipe = (moved / "recipe.yaml").read_text()
    (moved / "recipe.yaml").write_text(re.sub(r"model: .*student", f"model: {other}", recipe))
    with pytest.raises(PrefdistillError, match="not the one of the run"):
        export(moved)


@pytest.mark.parametrize(
    ("format", "base", "quantized", "update", "given", "limit"),
    [
        ("adapter", None, True, 1.0, None, 0.01),
        ("adapter", None, True, 0.004, None, 0.002),
        ("merged", "original", True, 0.004, None, 0.1),
        ("merged", "original", False, 0.004, None, 0.002),
        ("nf4", "original", True, 0.004, None, 0.002),
        ("nf4", "original", True, 0.004, 0.3, 0.3),
    ],
)
def test_limits(format, base, quantized, update, given, limit):
    assert verifying.limit_for(format, base, quantized, update, given) == pytest.approx(limit)


def test_what_cannot_be_loaded_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(verifying.fresh, "__file__", str(tmp_path / "broken.py"))
    (tmp_path / "broken.py").write_text("raise OSError('no such weights')")
    with pytest.raises(PrefdistillError, match=r"plain transformers and peft cannot load the export.*no such weights"):
        verifying.run_fresh(tmp_path, {}, cpu=True)


@pytest.mark.slow
def test_quickstart_in_all_forms(prefdistill, tmp_path):
    """Two rounds of the quickstart, every form from the command line, each loaded in a fresh process."""
    from tests.conftest import ROOT

    run = tmp_path / "q"
    made = prefdistill("run", ROOT / "recipes/quickstart.yaml", "loop.rounds=2", "evaluate.temperature=0", "--run", run)
    assert made.returncode == 0, made.stderr
    for to, options, loss, same in (
        ("adapter", ["--format", "adapter"], 1e-5, 32),
        ("merged", ["--format", "merged"], 1e-5, 32),
        ("original", ["--format", "merged", "--base", "original"], 0.01, 1),  # how many stay is said, the loss bounded
        ("nf4", ["--format", "nf4"], 0.02, 1),
    ):
        done = prefdistill("export", run, "--to", tmp_path / to, *options)
        assert done.returncode == 0, done.stderr
        check = facts(tmp_path / to)["check"]
        print(to, check)
        assert check["loss"] < loss
        assert check["greedy_same"] >= same
        script = tmp_path / f"{to}.py"
        script.write_text(code_of(tmp_path / to / "README.md") + SAME_DRAFTS)
        asked = tmp_path / "asked.json"
        number = facts(tmp_path / to)["round"]
        asked.write_text(json.dumps([(prompts_of(run)[key], text) for key, text in greedy_drafts(run, number).items()]))
        fresh = subprocess.run(
            [sys.executable, "-P", script, asked], cwd=tmp_path / to, capture_output=True, text=True, check=False
        )
        assert fresh.returncode == 0, fresh.stderr[-2000:]
        equal = int(fresh.stdout.splitlines()[-1])
        assert equal == 100 if loss < 1e-4 else equal > 20
    refused = prefdistill("export", run, "--to", tmp_path / "grid", "--format", "nf4", "--base", "dequantized")
    assert refused.returncode == 2
    assert TOO_MUCH in refused.stderr
    assert not (tmp_path / "grid").exists()


def test_scores_are_log_probabilities():
    """Against a model whose distribution is known."""
    import torch

    class Fixed(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, input_ids, use_cache, logits_to_keep):
            logits = torch.zeros(1, input_ids.shape[1], 4)
            logits[..., 3] = torch.log(torch.tensor(3.0))
            return type("Out", (), {"logits": logits[:, -logits_to_keep:]})

    (found,) = fresh.score(Fixed(), [([0, 1], [3, 2])])
    assert found == pytest.approx([-0.6931, -1.7918], abs=1e-3)
