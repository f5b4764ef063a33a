"""A judge as a TRL reward function: by hand as TRL calls it, and inside TRL's own trainers on a tiny student."""

import math
from pathlib import Path
from typing import Any

import pytest

from prefdistill.errors import JudgeError
from prefdistill.judges.checks import ChecksJudge
from prefdistill.judges.pairwise import PairwiseJudge
from prefdistill.plugins import Plugin
from prefdistill.protocols import RunContext
from prefdistill.requests.layer import RequestLayer
from prefdistill.rewards import reward_function
from prefdistill.rubric import RubricSet
from prefdistill.teachers.openai import OpenAITeacher
from tests.loopback import Loopback, judging_by
from tests.making import ASKED, CLEAN, LENGTH, make_rubric
from tests.tiny_student import build_tiny_student, text

RUBRIC = make_rubric(LENGTH, gates=[CLEAN])


class Numbers(Plugin):
    """Gives each text its length less ten; says nothing about texts with a question mark, and remembers its groups."""

    seen: list[Any] = []

    def judge(self, prompt, drafts, rubric):
        self.seen.append((prompt, [draft.completion for draft in drafts]))
        return [None if "?" in draft.completion else len(draft.completion) - 10 for draft in drafts]


def test_a_rubric_judge_gives_its_total_and_a_gate_counts_zero():
    reward = reward_function(ChecksJudge(), RUBRIC)
    assert reward.__name__ == "judge_ChecksJudge"
    found = reward(prompts=["a", "a", "b"], completions=["x" * 50, "x" * 90 + "BAD", "x" * 100])
    assert found == pytest.approx([0.5, 0.0, 1.0])


def test_conversations_columns_and_groups():
    judge = Numbers()
    reward = reward_function(judge, RUBRIC, name="mine")
    asked = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    found = reward(
        prompts=[asked, asked, asked],
        completions=[[{"role": "assistant", "content": each}] for each in ("one", "two, longer", "three")],
        completion_ids=[[1], [2], [3]],
        day=["Monday", "Monday", "Friday"],
        shared=["the same", "for", "all", "of", "them"],  # no column: it is not one value a completion
        trainer_state=object(),
        log_extra=print,
    )
    assert found == [-7, 1, -5]
    assert reward.__name__ == "mine"
    (first, drafts), (second, alone) = judge.seen
    assert (drafts, alone) == (["one", "two, longer"], ["three"])
    assert (first.fields, second.fields) == ({"day": "Monday"}, {"day": "Friday"})
    assert [(each.role, each.content) for each in first.messages] == [("system", "Be kind."), ("user", "Hi")]


def test_a_pairwise_judge_compares_the_completions_of_equal_prompts():
    rubric = make_rubric(ASKED)
    texts = ["a" * 20, "b" * 60, "c" * 40, "d" * 30]
    with Loopback(judging_by(lambda text: min(1.0, len(text) / 100))) as server:
        layer = RequestLayer(cache="off")
        judge = PairwiseJudge(teacher=OpenAITeacher(model="m", base_url=server.url))
        judge.open(RunContext(directory=Path(), seed=0, requests=layer))
        found = reward_function(judge, rubric)(prompts=["p", "q", "p", "p"], completions=texts)
        judge.close()
        layer.close()
    assert found == [0.0, 0.5, 1.0, 0.5]
    assert len(server.requests) == 6


def test_no_verdict_is_no_number_and_its_share_is_logged():
    logged = []
    reward = reward_function(Numbers(), RUBRIC)
    found = reward(["p"] * 4, ["good text", "what?", "x", "why?"], log_metric=lambda *each: logged.append(each))
    assert found == [-1, None, -9, None]
    assert logged == [("judge_Numbers/failed", 0.5)]


def test_a_judge_that_fails_on_everything_stops_the_training():
    with pytest.raises(JudgeError, match="reward function judge_Numbers: the judge failed on all 2 completions; the"):
        reward_function(Numbers(), RUBRIC)(["p", "q"], ["?", "?"])
    reward = reward_function(Numbers(), RUBRIC)
    assert reward(["p"], ["fine"]) == [-6]
    for _ in range(2):  # a hiccup after a good start trains nothing and stops nothing
        assert reward(["p", "q"], ["?", "?"]) == [None, None]
    assert reward(["p"], ["fine"]) == [-6]
    for _ in range(2):
        reward(["p"], ["?"])
    with pytest.raises(JudgeError, match="3 times in a row; the first: empty: judge Numbers abstained"):
        reward(["p"], ["?"])


def test_one_failure_stops_the_training_where_it_would_become_a_label():
    reward = reward_function(Numbers(), RUBRIC, on_failure="raise")
    assert reward(["p", "p"], ["a", "bb"]) == [-9, -8]
    with pytest.raises(JudgeError, match="1 of 2 completions have no verdict"):
        reward(["p", "p"], ["a", "what?"])


def test_a_completion_cut_at_the_limit_fails_the_gate_complete():
    reward = reward_function(Numbers(), RUBRIC, end_token_ids=[1, 2])
    ids = [[5, 6, 1], [5, 6, 7], [5, 2, 0, 0]]  # OnlineDPOTrainer leaves the padding after the end
    assert reward(["p"] * 3, ["a" * 20, "b" * 30, "c" * 8], completion_ids=ids) == [10, -2, -2]
    assert reward(["p"] * 3, ["a" * 20, "b" * 30, "c" * 18], completion_ids=ids) == [10, 0, 8]
    assert reward(["p"], ["a" * 30]) == [20]  # nothing is known about its tokens


def test_one_rubric_a_kind_and_a_rubric_file(tmp_path):
    kinds = RubricSet(column="kind", rubrics={"long": make_rubric(LENGTH), "clean": make_rubric(CLEAN)})
    reward = reward_function(ChecksJudge(), kinds)
    assert reward(["p", "p"], ["x" * 50, "x" * 50], kind=["long", "clean"]) == [0.5, 1.0]
    (tmp_path / "rubric.yaml").write_text(
        "name: r\npurpose: A test.\ncriteria:\n  - {name: length, check: length, unit: words, between: [1, 2]}\n"
    )
    assert reward_function(ChecksJudge(), tmp_path / "rubric.yaml")(["p"], ["two words"]) == [1.0]


def test_a_prompt_that_is_no_question_is_named():
    with pytest.raises(JudgeError, match="a prompt of user, assistant: messages must end with a user message"):
        reward_function(Numbers(), RUBRIC)(
            [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]], ["x"]
        )


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    return build_tiny_student(tmp_path_factory.mktemp("rewards") / "tiny", layers=1)


class Picky(Numbers):
    """Says nothing about the first of a prompt's texts."""

    def judge(self, prompt, drafts, rubric):
        self.seen.append((prompt, [draft.completion for draft in drafts]))
        return [len(draft.completion) if number else None for number, draft in enumerate(drafts)]


@pytest.mark.parametrize("conversational", [True, False])
def test_inside_trls_grpo_trainer(student, tmp_path, conversational):
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    judge = Picky()
    rows = [
        {"prompt": [{"role": "user", "content": text(n)}] if conversational else text(n), "day": f"day {n}"}
        for n in range(2)
    ]
    trainer = GRPOTrainer(
        model=str(student),
        reward_funcs=reward_function(judge, RUBRIC, name="picky"),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(student, padding_side="left"),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=6,
            num_generations=3,
            max_completion_length=8,
            max_steps=2,
            logging_steps=1,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
        ),
    )
    trainer.train()
    logs = [each for each in trainer.state.log_history if "rewards/picky/mean" in each]
    assert len(logs) == 2
    assert logs[0]["picky/failed"] == pytest.approx(1 / 3)
    assert all(math.isfinite(each["loss"]) and math.isfinite(each["reward"]) for each in logs)
    assert [len(texts) for _, texts in judge.seen] == [3] * 4  # a prompt's completions come together
    assert {prompt.fields["day"] for prompt, _ in judge.seen} == {"day 0", "day 1"}
    seen = [len(each) for _, texts in judge.seen[:2] for each in texts[1:]]
    assert logs[0]["rewards/picky/mean"] == pytest.approx(sum(seen) / len(seen))  # the one without a verdict is out


def test_inside_trls_online_dpo_trainer(student, tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    judge = Numbers()
    rows = [{"prompt": [{"role": "user", "content": text(n)}], "day": f"day {n}"} for n in range(2)]

    def trained(reward):
        OnlineDPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(student),
            reward_funcs=reward,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(student, padding_side="left"),
            args=OnlineDPOConfig(
                output_dir=str(tmp_path),
                per_device_train_batch_size=2,
                max_new_tokens=8,
                max_steps=1,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to="none",
                save_strategy="no",
            ),
        ).train()

    trained(reward_function(judge, RUBRIC, on_failure="raise", end_token_ids=[1, 2]))
    assert [len(texts) for _, texts in judge.seen] == [2, 2]
    assert {prompt.fields["day"] for prompt, _ in judge.seen} == {"day 0", "day 1"}
    with pytest.raises(JudgeError, match="2 of 4 completions have no verdict"):
        trained(reward_function(Picky(), RUBRIC, on_failure="raise"))
