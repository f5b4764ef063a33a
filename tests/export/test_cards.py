"""What the model card and the pairs' card say, and that no text of a user is markup in them."""

import json
import re
import shutil

import pytest
import yaml

from prefdistill.export.card import markdown
from prefdistill.export.data import to_row, trained_pairs, write_pairs
from prefdistill.export.loading import Loadable, loading_code, server_name, serving_command, writing_code
from prefdistill.export.source import read_source

pytestmark = pytest.mark.xdist_group("export")


@pytest.fixture
def card(finished_run, export, tmp_path, same_process) -> str:
    (tmp_path / "out").mkdir()  # an empty folder is filled
    export(finished_run, with_pairs=True)
    return (tmp_path / "out" / "README.md").read_text()


def test_the_card_says_what_it_must(card, finished_run, tmp_path):
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "peft"
    assert "base_model" not in front  # a folder is no model on the hub
    assert "datasets" not in front
    for text in (
        "**Self-judged**",
        "trained by preference distillation (DPO on pairs that a judge ranked against a rubric) with prefdistill",
        "in the last one 96 drafts were judged and ",
        "unknown: look it up",
        "terms of use: not reviewed",
        "What it was not tested for",
        "vllm serve",
        "was **not run**",
        "whether people agree with the judge",
        "| score |",
        "keeps\\_the\\_facts",
    ):
        assert text in card, text
    assert re.search(r"\d+ train, \d+ validation, \d+ test", card)
    assert (tmp_path / "out" / "pairs" / "train.jsonl").is_file()
    prompts = [json.loads(line) for line in (finished_run / "prompts.jsonl").read_text().splitlines()]
    assert not any(prompt["messages"][-1]["content"] in card for prompt in prompts)


def test_pairs_load_as_a_data_set_and_train(finished_run, tmp_path):
    from datasets import load_dataset

    write_pairs(read_source(finished_run), tmp_path / "pairs", None)
    loaded = load_dataset(str(tmp_path / "pairs"), split="train", cache_dir=str(tmp_path / "cache"))
    assert {"prompt", "chosen", "rejected"} <= set(loaded.column_names)
    row = loaded[0]
    assert row["prompt"][-1]["role"] == "user"
    assert [message["role"] for message in row["chosen"]] == ["assistant"]
    assert row["margin"] == pytest.approx(row["chosen_score"] - row["rejected_score"])
    ids = set((finished_run / "round-01" / "5-policy" / "pair_ids.txt").read_text().split())
    assert set(loaded["id"]) == ids
    _train_one_step(loaded, finished_run, tmp_path)


def _train_one_step(pairs, run, tmp_path):
    """TRL's own trainer takes the data set as it is."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    source = read_source(run).recipe.student.source
    config = DPOConfig(
        output_dir=str(tmp_path / "dpo"), max_steps=1, per_device_train_batch_size=2, bf16=False, use_cpu=True,
        gradient_checkpointing=False, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(source),
        args=config,
        train_dataset=pairs,
        processing_class=AutoTokenizer.from_pretrained(source),
    )
    assert trainer.train().training_loss == pytest.approx(0.6931, abs=1e-3)


def test_forgotten_prompts_are_in_no_data_set(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    before = trained_pairs(read_source(run))
    lines = (run / "prompts.jsonl").read_text().splitlines()
    gone = before[0].prompt_id
    rows = [json.loads(line) for line in lines]
    rows = [{**row, "tags": ["forgotten"]} if row["id"] == gone else row for row in rows]
    (run / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    after = trained_pairs(read_source(run))
    assert [pair.id for pair in after] == [pair.id for pair in before if pair.prompt_id != gone]
    assert len(after) < len(before)


def test_conversational_row(finished_run):
    pair = trained_pairs(read_source(finished_run))[0]
    row = to_row(pair)
    assert row["chosen"] == [{"role": "assistant", "content": pair.chosen}]
    assert row["prompt"] == [{"role": message.role, "content": message.content} for message in pair.prompt]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, text: 5 > 3", "plain, text: 5 &gt; 3"),
        ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
        ("a | b\n# c", "a \\| b \\# c"),
        ("[x](http://evil)", "\\[x\\](http:&#47;&#47;evil)"),
        ("- item", "\\- item"),
        ("1. item", "1\\. item"),
        ("`code` *b* __c__ $d$", "\\`code\\` \\*b\\* \\_\\_c\\_\\_ \\$d\\$"),
    ],
)
def test_text_is_no_markup(text, shown):
    assert markdown(text) == shown


def loadable(**changes) -> Loadable:
    given = {"format": "adapter", "name": "mail", "base": "org/b", "revision": None, "quantized_base": True}
    return Loadable(**{**given, "dtype": "float32", "rank": 16, **changes})


def test_loading_code_is_python_whatever_the_names_are():
    for folder in ('a "b" c', "a'b", "a\\b", "ü/x"):
        for format in ("adapter", "merged", "nf4"):
            what = loadable(format=format, base=folder, revision="v'1", chat_template_kwargs={"enable_thinking": False})
            compile(loading_code(what, folder) + writing_code(what), "card", "exec")
            assert "enable_thinking=False" in writing_code(what)


def test_serving_commands():
    assert serving_command(loadable(rank=24, revision="abc"), "out dir") == (
        "vllm serve org/b --revision abc --quantization bitsandbytes --enable-lora --max-lora-rank 32 "
        "--lora-modules 'mail=out dir' --generation-config 'out dir'"
    )
    assert serving_command(loadable(format="merged"), "out") == "vllm serve out --served-model-name mail"
    command = serving_command(loadable(format="nf4", chat_template_kwargs={"enable_thinking": False}), "out")
    assert command == (
        "vllm serve out --served-model-name mail --quantization bitsandbytes "
        "--default-chat-template-kwargs '{\"enable_thinking\": false}'"
    )
    assert re.fullmatch(r"[\w.-]+", server_name("my run: ünï/…"))
