"""The reward model judge on tiny random classifiers: what it gives is the model's own number for that text alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from prefdistill.errors import PluginError, PrefdistillError
from prefdistill.judges.reward_model import RewardModelJudge
from prefdistill.plugins import build_plugin
from prefdistill.protocols import RunContext
from prefdistill.recipe import load_recipe
from prefdistill.records import Message, PreferencePair, Prompt
from prefdistill.selection import PairOptions
from prefdistill.stages.judge import judge_group
from prefdistill.stages.pair import pair_prompts
from prefdistill.stages.rank import rank_prompts
from tests.making import ASKED, CLEAN, make_drafts, make_prompt, make_rubric, one_rubric
from tests.tiny_student import build_tiny_student, text, with_template

PROMPT = make_prompt(text="Write to Anna.")
RUBRIC = make_rubric(ASKED)
TEXTS = ["hi", text(3, 40), text(4, 9), "dear anna"]


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    return build_tiny_student(tmp_path_factory.mktemp("reward") / "student", layers=2)


@pytest.fixture(scope="module")
def reward(student, tmp_path_factory) -> Path:
    """A decoder with one output and the student's chat template."""
    return decoder(student, tmp_path_factory.mktemp("reward") / "one")


def decoder(student: Path, folder: Path, **config) -> Path:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(1)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    options = {"vocab_size": 320, "max_position_embeddings": 256, "initializer_range": 0.5, "num_labels": 1}
    model = LlamaForSequenceClassification(LlamaConfig(**{**sizes, **options, "pad_token_id": None, **config}))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(student).save_pretrained(folder)
    return folder


def encoder(student: Path, folder: Path, **config) -> Path:
    """A BERT without a chat template: it reads pairs of texts."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(2)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    options = {"vocab_size": 320, "max_position_embeddings": 128, "initializer_range": 0.5, "num_labels": 1}
    BertForSequenceClassification(BertConfig(**{**sizes, **options, **config})).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(with_template(student, folder / "tokenizer", None))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|stop|> $A <|end|>",
        pair="<|stop|> $A <|end|> $B:1 <|end|>:1",
        special_tokens=[("<|stop|>", 2), ("<|end|>", 1)],
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    shutil.rmtree(folder / "tokenizer")
    return folder


def opened(folder, **options) -> RewardModelJudge:
    judge = build_plugin("reward_model", {"model": str(folder), "device": "cpu", **options}, "judges", Path())
    judge.open(RunContext(directory=Path(), seed=0))
    return judge


def values(judge, texts=TEXTS, prompt=PROMPT):
    verdict = judge_group(judge, prompt, make_drafts(texts), RUBRIC)
    assert not verdict.failures
    assert all(each.scale == "custom" for each in verdict.judgements)
    return [each.value for each in verdict.judgements]


def alone(folder, **inputs) -> torch.Tensor:
    """The model's own outputs for one row."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(**{name: torch.tensor([each]) for name, each in inputs.items()}).logits[0].double()


def test_a_decoder_reads_the_chat_template(student, reward):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(student)
    expected = []
    for each in TEXTS:
        turns = [{"role": "user", "content": PROMPT.text}, {"role": "assistant", "content": each}]
        ids = tokenizer.encode(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)
        expected.append(float(alone(reward, input_ids=ids)[0]))
    assert values(opened(reward)) == pytest.approx(expected, abs=1e-4)
    assert len(set(expected)) == 4


def test_an_encoder_reads_a_pair_of_texts(student, tmp_path):
    from transformers import AutoTokenizer

    folder = encoder(student, tmp_path / "bert")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = [float(alone(folder, **tokenizer(PROMPT.text, each))[0]) for each in TEXTS]
    assert values(opened(folder)) == pytest.approx(expected, abs=1e-4)
    turns = (Message(role="system", content="Be kind."), Message(role="user", content="Write."))
    several = Prompt(id="p", messages=turns, split="train")
    pair = tokenizer("system: Be kind.\n\nuser: Write.", "hi")
    assert values(opened(folder), ["hi"], several) == pytest.approx([float(alone(folder, **pair)[0])], abs=1e-4)
    judge = opened(folder, template="Q: {prompt} A: {completion}")
    asked = make_prompt(text="Say {completion} and {prompt}")  # braces in a prompt are text
    whole = tokenizer("Q: Say {completion} and {prompt} A: hi")
    assert values(judge, ["hi"], asked) == pytest.approx([float(alone(folder, **whole)[0])], abs=1e-4)


@pytest.mark.parametrize("pad_token_id", [None, 0])
def test_nothing_depends_on_the_batch(student, tmp_path, pad_token_id):
    folder = decoder(student, tmp_path / "m", pad_token_id=pad_token_id)
    together = values(opened(folder))
    assert values(opened(folder, batch_size=1)) == pytest.approx(together, abs=1e-4)
    assert values(opened(folder, batch_size=3), TEXTS[::-1]) == pytest.approx(together[::-1], abs=1e-4)


def test_several_outputs_need_a_label(student, tmp_path):
    names = {"id2label": {0: "curt", 1: "kind"}, "label2id": {"curt": 0, "kind": 1}, "num_labels": 2}
    folder = decoder(student, tmp_path / "two", **names)
    with pytest.raises(PluginError, match=r"has 2 outputs: 0 \(curt\), 1 \(kind\); set judge.label"):
        opened(folder)
    with pytest.raises(PluginError, match=r"judge.label: found 'nice'; expected one of 0 \(curt\), 1 \(kind\)"):
        opened(folder, label="nice")
    with pytest.raises(PluginError, match=r"found 2; expected one of"):
        opened(folder, label=2)
    kind = values(opened(folder, label="kind"))
    assert values(opened(folder, label=1)) == kind
    assert values(opened(folder, label="curt")) == pytest.approx([-each for each in kind])  # log-odds
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "problem_type": "regression"}))
    numbers = values(opened(folder, label="kind"))
    assert [a - b for a, b in zip(numbers, values(opened(folder, label=0)), strict=True)] == pytest.approx(kind)


def test_a_causal_model_is_refused_before_its_random_head_scores_anything(student, tmp_path):
    with pytest.raises(PluginError, match=r"no sequence classifier \(LlamaForCausalLM\); its scores would be random"):
        opened(student)
    folder = shutil.copytree(student, tmp_path / "unnamed")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": None}))
    judge = opened(folder, label=0)
    with pytest.raises(PluginError, match=r"no sequence classifier \(no weights for score.weight\)"):
        judge.judge(PROMPT, make_drafts(TEXTS), RUBRIC)


def test_a_text_that_is_too_long_fails_alone_and_is_never_cut(reward):
    drafts = make_drafts(["hi", text(1, 400), "anna"])
    verdict = judge_group(opened(reward), PROMPT, drafts, RUBRIC)
    assert [each.draft_id[-1] for each in verdict.judgements] == ["0", "2"]
    (failure,) = verdict.failures
    assert (failure.kind, failure.key) == ("truncated", drafts[1].id)
    assert "tokens of conversation and draft exceed the 256 of" in failure.message
    assert len(judge_group(opened(reward, max_length=3), PROMPT, drafts, RUBRIC).failures) == 3


def test_a_number_that_is_none_is_a_failure(reward):
    judge = opened(reward)
    judge._loaded().score.weight.data.fill_(float("inf"))
    verdict = judge_group(judge, PROMPT, make_drafts(TEXTS), RUBRIC)
    assert not verdict.judgements
    assert {each.kind for each in verdict.failures} == {"parse"}
    assert "try `dtype: float32`" in verdict.failures[0].message


def test_identical_drafts_are_read_once(reward, monkeypatch):
    judge = opened(reward)
    rows = []
    original = RewardModelJudge._read
    monkeypatch.setattr(RewardModelJudge, "_read", lambda self, batch: rows.append(len(batch)) or original(self, batch))
    verdict = judge_group(judge, PROMPT, make_drafts(["a", "b", "a"]), RUBRIC)
    assert rows == [2]
    assert verdict.judgements[0].value == verdict.judgements[2].value
    assert verdict.judgements[2].usage.prompt_tokens == 0 < verdict.judgements[0].usage.prompt_tokens


def test_the_rubrics_checked_gates_hold(reward):
    rubric = make_rubric(ASKED, gates=[CLEAN])
    texts = ["hi BAD", "anna", text(4, 9)]
    judge = opened(reward)
    drafts = make_drafts(sorted(texts, key=lambda each: values(judge, [each])[0], reverse=True))
    verdict = judge_group(judge, PROMPT, drafts, rubric)
    (ranking,) = rank_prompts([PROMPT], drafts, [verdict], one_rubric(rubric), 1)
    bad = next(draft.id for draft in drafts if "BAD" in draft.completion)
    assert ranking.entries[-1].draft_id == bad
    options = PairOptions(near_duplicate=None, min_margin=0.0001)
    (row,) = pair_prompts([PROMPT], drafts, [verdict], [ranking], options, 1)
    assert isinstance(row, PreferencePair)
    assert "BAD" not in row.chosen


def test_a_draft_cannot_end_its_turn_with_a_control_token(reward):
    judge = opened(reward)
    end = judge._tokenizer.convert_tokens_to_ids("<|end|>")
    assert list(judge._encode(PROMPT, "fine<|end|><|user|>thanks<|end|>")["input_ids"]).count(end) == 2


def test_out_of_memory_halves_the_batch(reward, monkeypatch):
    expected = values(opened(reward))
    original = RewardModelJudge._read

    def scarce(self, batch):
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, batch)

    monkeypatch.setattr(RewardModelJudge, "_read", scarce)
    assert values(opened(reward)) == pytest.approx(expected, abs=1e-4)


def test_four_bit_weights_keep_the_score_head(reward):
    judge = opened(reward, quantization="nf4")
    assert len(set(values(judge))) == 4
    assert type(judge._model.score).__name__ == "Linear"


def test_bad_options_are_named(student, tmp_path):
    for options, message in (
        ({"template": "only {prompt}"}, "expected a text with {prompt} and {completion} in it"),
        ({"max_length": 0}, "expected at least 1 token, or auto"),
        ({"model": "./none"}, "expected a model folder or a hub id"),
    ):
        with pytest.raises(ValueError, match=message):
            build_plugin("reward_model", {"model": str(student), **options}, "judges", Path())
    (tmp_path / "empty").mkdir()
    with pytest.raises(PluginError, match=r"^reward_model: .*empty cannot be loaded: .*expected a folder with config"):
        opened(tmp_path / "empty")


def test_a_recipe_must_give_the_scale_a_margin(reward, tiny_recipe):
    words = tiny_recipe.read_text().replace("judge: {use: checks}", f"judge: {{use: reward_model, model: {reward}}}")
    tiny_recipe.write_text(words)
    recipe = load_recipe(tiny_recipe)
    assert recipe.resolved()["judge"]["model"] == str(reward)
    drafts = make_drafts(TEXTS)
    verdict = judge_group(opened(reward), PROMPT, drafts, RUBRIC)
    rankings = rank_prompts([PROMPT], drafts, [verdict], one_rubric(RUBRIC), 1)
    with pytest.raises(PrefdistillError, match="min_margin"):
        list(pair_prompts([PROMPT], drafts, [verdict], rankings, PairOptions(), 1))
