"""Reasoning in front of an answer: how it is asked for, read, parted from the answer, and kept from every judge."""

import json
import re
import shutil
from pathlib import Path

import pytest

from prefdistill.errors import RecipeError
from prefdistill.judges.pairwise import PairwiseJudge
from prefdistill.judges.rubric import RubricJudge
from prefdistill.judges.texts import check_texts
from prefdistill.plugins import Plugin, build_plugin
from prefdistill.protocols import Completion, Reply, RunContext
from prefdistill.recipe import load_recipe
from prefdistill.records import Answer, Draft, Failure, Message, Policy, PreferencePair, Usage
from prefdistill.requests.answers import read_answer
from prefdistill.requests.calls import Answer as ServerAnswer
from prefdistill.requests.layer import RequestLayer
from prefdistill.sandbox.plugins import SandboxTeacher
from prefdistill.stages.judge import judge_group
from prefdistill.stages.sample import sample_drafts, teacher_drafts
from prefdistill.student import check_trace_tags, load_tokenizer, render_prompt
from prefdistill.teachers.openai import OpenAITeacher
from prefdistill.traces import TAGS, AnswerStream, Reasoning, check_tags, empty_block, part, render_trace, stray_tag
from prefdistill.trainers.traces import TracesTrainer
from tests.loopback import Loopback, Served, judging_by
from tests.making import ASKED, CLEAN, LENGTH, make_drafts, make_prompt, make_rubric, opened_teacher
from tests.tiny_student import build_tiny_student, section, with_template

SECRET = "because of the hidden premise"
TRACE = render_trace(SECRET, TAGS)
KEEP = Reasoning(TAGS, words=40, summary_words=None, room=100)
SUMMED = Reasoning(TAGS, words=40, summary_words=9, room=100)
USER = (Message(role="user", content="Write to Anna."),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return build_tiny_student(tmp_path_factory.mktemp("student") / "tiny", layers=2)


def reply(text, reasoning="", finish="stop"):
    return Reply("k", text, finish, Usage(completion_tokens=7), reasoning=reasoning)


@pytest.mark.parametrize(
    ("text", "trace", "completion", "closed"),
    [
        ("Hello Anna", "", "Hello Anna", True),
        ("<think>\nwhy\n</think>\n\nHello", "<think>\nwhy\n</think>\n\n", "Hello", True),
        (" \n<think>why</think> Hello </think>", " \n<think>why</think> ", "Hello </think>", True),
        ("<think>a</think>\n<think>b</think>Hello", "<think>a</think>\n<think>b</think>", "Hello", True),
        ("<think>why, and then it is cut", "<think>why, and then it is cut", "", False),
        ("<think>a</think><think>b", "<think>a</think><think>b", "", False),
        ("<think>why</think>", "<think>why</think>", "", True),
        ("Hello, <think>not at the start</think>", "", "Hello, <think>not at the start</think>", True),
        ("", "", "", True),
    ],
)
def test_a_text_is_parted_where_the_answer_begins(text, trace, completion, closed):
    found = part(text, TAGS)
    assert found == (trace, completion, closed)
    assert found.trace + found.completion == text


@pytest.mark.parametrize(
    ("way", "given", "trace", "answer", "taught"),
    [
        (KEEP, reply("<think>\nwhy\n</think>\n\nHello"), "<think>\nwhy\n</think>\n\n", "Hello", "why"),
        (KEEP, reply("why</think>Hello"), "<think>\nwhy</think>", "Hello", "why"),
        (KEEP, reply("Hello", "why"), "<think>\nwhy\n</think>\n\n", "Hello", "why"),
        (KEEP, reply("<think>mine</think>Hello", "hidden"), "<think>mine</think>", "Hello", "mine"),
        (
            SUMMED,
            reply("<think>long why</think>\n<summary>why</summary>\nHello"),
            "<think>long why</think>\n<summary>why</summary>\n",
            "Hello",
            "why",
        ),
        (
            SUMMED,
            reply("<summary>why</summary>\nHello", "long why"),
            "<think>\nlong why\n</think>\n\n<summary>why</summary>\n",
            "Hello",
            "why",
        ),
    ],
)
def test_a_reply_is_read(way, given, trace, answer, taught):
    found = way.read(given)
    assert found == (trace, answer)
    assert way.taught(found.trace) == taught


@pytest.mark.parametrize(
    ("way", "given", "kind", "message"),
    [
        (KEEP, reply("Hello"), "parse", "no reasoning: expected it between <think> and </think>"),
        (KEEP, reply("<think>why, but never closed"), "parse", "never closed: no </think>"),
        (KEEP, reply("<think>why</think>  \n"), "parse", "no answer after the reasoning"),
        (KEEP, reply("<think> </think>Hello"), "parse", "is empty"),
        (KEEP, reply("<think>why</think>Hello <think>again"), "parse", "the answer has <think> in it"),
        (KEEP, reply("<think>a <think> b</think>Hello"), "parse", "the reasoning itself has"),
        (KEEP, reply("Hello", "a </think> b"), "parse", "the reasoning itself has"),
        (KEEP, reply("<think>why</think>Hel", finish="length"), "truncated", "cut at the token limit after 7 tokens"),
        (SUMMED, reply("<think>why</think>Hello"), "parse", "no summary of the reasoning"),
        (SUMMED, reply("<think>why</think><summary>brief Hello"), "parse", "no summary of the reasoning"),
        (SUMMED, reply("<think>why</think><summary>brief</summary>"), "parse", "no answer"),
    ],
)
def test_what_cannot_be_read_is_a_failure_and_never_an_answer(way, given, kind, message):
    found = way.read(given)
    assert isinstance(found, Failure)
    assert (found.kind, found.stage, found.reply) == (kind, "sample", given.text)
    assert message in found.message
    assert found.usage.completion_tokens == 7


def test_the_request_keeps_prompt_and_system_prompt():
    plain = KEEP.ask(USER)
    assert [each.role for each in plain] == ["system", "user"]
    assert plain[1:] == USER
    own = KEEP.ask((Message(role="system", content="Be kind."), *USER))
    assert own[0].content.startswith("Be kind.\n\n")
    assert "<think>" in own[0].content and "40 words" in own[0].content
    assert "<summary>" not in own[0].content and "<summary>" in SUMMED.ask(USER)[0].content


def test_the_sandbox_teacher_reasons_where_it_is_asked_to(tmp_path):
    note = load_recipe_note(tmp_path)
    for way in (None, KEEP, SUMMED):
        found = list(teacher_drafts(SandboxTeacher(), [note], {}, system=None, round=1, purpose="train", drafts=1,
                                    max_tokens=100, temperature=None, reasoning=way))  # fmt: skip
        (draft,) = found
        assert draft.completion == next(
            each.completion
            for each in teacher_drafts(SandboxTeacher(), [note], {}, system=None, round=1, purpose="train", drafts=1,
                                       max_tokens=100, temperature=None)
        )  # fmt: skip
        assert bool(draft.trace) == (way is not None)
        assert ("<summary>" in draft.trace) == (way is SUMMED)


def load_recipe_note(tmp_path):
    from prefdistill.sandbox.world import notes

    row = next(notes(1, 0))
    return make_prompt("n", row["prompt"])


def test_the_trainer_learns_a_share_of_answers_without_reasoning():
    trainer = TracesTrainer(off_share=0.25)
    drafts = [draft.model_copy(update={"trace": TRACE}) for draft in make_drafts([f"text {i}" for i in range(400)])]
    learned = [trainer.trace_to_learn(draft, TAGS, 7) for draft in drafts]
    assert set(learned) == {"", TRACE}
    assert 0.18 < learned.count("") / 400 < 0.32
    assert learned == [trainer.trace_to_learn(draft, TAGS, 7) for draft in drafts]
    assert all(TracesTrainer(off_share=0.0).trace_to_learn(draft, TAGS, 7) for draft in drafts)
    assert not TracesTrainer(trace="strip").teaches_traces


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="summary_words goes with `trace: summary`"):
        TracesTrainer(summary_words=9)
    assert TracesTrainer(trace="summary").reasoning(TAGS).summary_words == 25


# ---- what is written to disk -------------------------------------------------------------------------------------


def pair(**other):
    return PreferencePair(
        id="r", prompt_id="p", round=1, prompt=USER, chosen="a", rejected="b", chosen_id="c", rejected_id="d",
        chosen_score=1.0, rejected_score=0.0, margin=1.0, scale="custom", **other,
    )  # fmt: skip


def test_rows_without_reasoning_are_the_same_bytes_as_before():
    (draft,) = make_drafts(["hello"])
    assert draft.model_dump_json() == (
        '{"schema":1,"id":"p/file:x/train-01/0","prompt_id":"p","source":"file:x","policy":null,"round":1,'
        '"purpose":"train","index":0,"completion":"hello","finish_reason":"stop","tokens":null,"seed":null,'
        '"log_prob":null}'
    )
    answer = Answer(id="a", prompt_id="p", round=1, prompt=USER, completion="hello")
    assert set(answer.model_dump(mode="json")) == {"schema", "id", "prompt_id", "round", "prompt", "completion"}
    assert not {"chosen_trace", "rejected_trace"} & set(pair().model_dump(mode="json"))


def test_rows_with_reasoning_come_back_as_they_were():
    (draft,) = make_drafts(["hello"])
    answers = [
        Answer(id="a", prompt_id="p", round=1, prompt=USER, completion="hello", **each)
        for each in ({"trace": TRACE}, {"block": empty_block(TAGS)}, {})
    ]
    for row in (draft.model_copy(update={"trace": TRACE}), pair(chosen_trace=TRACE), *answers):
        assert type(row).model_validate_json(row.model_dump_json()) == row
    assert [each.begun for each in answers] == ["", empty_block(TAGS), None]
    assert answers[0].written == TRACE + "hello"
    assert pair(rejected_trace=TRACE).written == ("a", TRACE + "b")


def test_lengths_are_the_answers(folder):
    draft = make_drafts(["x" * 30])[0].model_copy(update={"trace": "y" * 70, "tokens": 20})
    assert draft.answer_tokens == 6
    assert make_drafts(["x"])[0].answer_tokens is None


# ---- no judge sees it --------------------------------------------------------------------------------------------

PROMPT = make_prompt(text="Write to Anna.", day="Friday")
RUBRIC = make_rubric(ASKED, LENGTH, gates=[CLEAN], purpose="A test.")


def traced(texts=("a short one", "a longer draft of it")):
    return [draft.model_copy(update={"trace": TRACE, "tokens": 40}) for draft in make_drafts(texts)]


class Nosy(Plugin):
    """Keeps every draft that it is given."""

    def judge(self, prompt, drafts, rubric):
        SEEN.extend(drafts)
        return [float(len(draft.completion)) for draft in drafts]


SEEN: list[Draft] = []


def test_a_judge_of_ones_own_gets_drafts_without_it():
    SEEN.clear()
    verdict = judge_group(Nosy(), PROMPT, traced(), RUBRIC)
    assert len(verdict.judgements) == 2
    assert [draft.trace for draft in SEEN] == ["", ""]
    assert SECRET not in "".join(draft.model_dump_json() for draft in SEEN)


@pytest.mark.parametrize("kind", [RubricJudge, PairwiseJudge])
def test_teachers_that_judge_are_not_shown_it(kind):
    layer = RequestLayer(cache="off")
    with Loopback(judging_by(lambda text: min(1.0, len(text) / 100))) as server:
        judge = kind(teacher=OpenAITeacher(model="m", base_url=server.url))
        judge.open(RunContext(directory=Path(), seed=0, requests=layer))
        for each in (judge, judge.comparer()) if hasattr(judge, "comparer") else (judge,):
            # handed over straight, without the judge stage that takes the trace out: the judge itself reads the answer
            each.judge(PROMPT, traced(), RUBRIC)
            judge_group(each, PROMPT, traced(), RUBRIC)
        assert hasattr(judge, "preview") is False or SECRET not in judge.preview(PROMPT, traced()[0], RUBRIC)
        judge.close()
        sent = json.dumps(server.requests)
    layer.close()
    assert "a longer draft" in sent
    assert SECRET not in sent and "<think>" not in sent


def test_the_http_judge_is_not_sent_it():
    from tests.judges.test_http import asking, serving

    with serving(lambda body: {"scores": {each["id"]: 1.0 for each in body["drafts"]}}) as server:
        with asking(server.url) as judge:
            judge.judge(PROMPT, traced(), RUBRIC)
        sent = json.dumps(server.asked)
    assert "a longer draft" in sent
    assert SECRET not in sent


def test_local_judges_and_reward_models_judge_the_answer_alone(folder, tmp_path):
    from tests.judges.test_reward_model import decoder

    roomy = tmp_path / "roomy"
    shutil.copytree(folder, roomy)
    for name, key in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        settings = json.loads((roomy / name).read_text())
        (roomy / name).write_text(json.dumps({**settings, key: 4096}))
    local = {"model": str(roomy), "device": "cpu", "min_covered": 0.0}
    reward = {"model": str(decoder(folder, tmp_path / "reward")), "device": "cpu"}
    for use, options in (("local", local), ("reward_model", reward)):
        judge = build_plugin(use, options, "judges", Path())
        judge.open(RunContext(directory=Path(), seed=0))
        plain = judge.judge(PROMPT, make_drafts([each.completion for each in traced()]), RUBRIC)
        assert plain.judgements and not plain.failures
        assert judge.judge(PROMPT, traced(), RUBRIC) == plain
        judge.close()


def test_checks_read_the_answer_alone():
    judge = build_plugin("checks", {}, "judges", Path())
    rubric = make_rubric(LENGTH, gates=[CLEAN])
    bad = [draft.model_copy(update={"trace": render_trace("BAD " * 50, TAGS)}) for draft in make_drafts(["fine", "ok"])]
    found = judge_group(judge, PROMPT, bad, rubric)
    assert found == judge_group(judge, PROMPT, make_drafts(["fine", "ok"]), rubric)


# ---- servers -----------------------------------------------------------------------------------------------------


def completion(**message):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 9}}


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_providers_own_reasoning_is_read_and_kept_in_the_cache(name, tmp_path):
    found = read_answer(completion(content="Hello", **{name: "why"}))
    assert (found.text, found.reasoning) == ("Hello", "why")
    assert ServerAnswer.from_row(json.loads(json.dumps(found.to_row()))) == found
    plain = read_answer(completion(content="Hello", **{name: None}))
    assert plain.reasoning is None
    assert "reasoning" not in plain.to_row()


def test_a_paid_reply_comes_from_the_cache_the_second_time(tmp_path):
    body = completion(content="Hello Anna", reasoning_content="why")
    with Loopback(lambda asked: Served(body=body)) as server:
        for _ in range(2):
            teacher, layer = opened_teacher(server.url, tmp_path)
            (draft,) = teacher_drafts(teacher, [make_prompt()], {}, system="Be kind.", round=1, purpose="train", drafts=1,
                                      max_tokens=50, temperature=None, reasoning=KEEP)  # fmt: skip
            teacher.close()
            layer.close()
            assert (draft.trace, draft.completion) == ("<think>\nwhy\n</think>\n\n", "Hello Anna")
        (sent,) = server.requests
    assert sent["max_completion_tokens"] == 150
    assert sent["messages"][0]["content"].startswith("Be kind.\n\n")
    assert sent["messages"][1:] == [{"role": "user", "content": "Write it."}]


# ---- tokenizers and templates ------------------------------------------------------------------------------------


def test_tags_that_are_plain_text_are_allowed_with_a_note(folder):
    note = check_trace_tags(section(folder, trace="on"))
    assert "plain text" in note and "tokens together" in note


def added(folder, tmp_path, special, tags=TAGS):
    """A student whose tokenizer has a token for each tag."""
    from transformers import AddedToken, AutoTokenizer

    made = tmp_path / "added"
    shutil.copytree(folder, made)
    tokenizer = AutoTokenizer.from_pretrained(made)
    tokenizer.add_tokens([AddedToken(tag, special=special, normalized=False) for tag in tags], special_tokens=special)
    tokenizer.save_pretrained(made)
    return made


def test_tags_with_tokens_of_their_own_need_no_note(folder, tmp_path):
    assert check_trace_tags(section(added(folder, tmp_path, special=False), trace="on")) == ""


def test_tags_that_decoding_takes_out_are_refused_with_those_that_are_known(folder, tmp_path):
    student = section(added(folder, tmp_path, special=True), trace="on")
    with pytest.raises(
        RecipeError, match=r"student\.trace_tags: <think> comes back as ''.*set student\.trace_tags to one"
    ):
        check_trace_tags(student)
    assert check_trace_tags(student.model_copy(update={"trace_tags": ("<thinking>", "</thinking>")}))


def test_tags_that_flow_into_their_neighbours_are_refused():
    class Merging:
        """Reads every run of characters between letters as one token."""

        def encode(self, text, add_special_tokens=False):
            self.words = getattr(self, "words", {})
            return [self.words.setdefault(each, len(self.words)) for each in re.findall(r"\w+|\W+", text)]

        def decode(self, ids, **options):
            names = {number: word for word, number in self.words.items()}
            return "".join(names[each] for each in ids)

    with pytest.raises(ValueError, match=r"<think> flows together with the text beside it.*added_tokens"):
        check_tags(Merging(), TAGS, "it")


@pytest.mark.parametrize("tags", [["<a>", "<a>"], ["", "</a>"], [" <a>", "</a>"]])
def test_tags_that_are_none_are_refused(folder, tags):
    with pytest.raises(ValueError, match="expected two different tags"):
        section(folder, trace_tags=tags)


def test_off_begins_the_turn_with_an_empty_trace(folder):
    on, off = section(folder, trace="on"), section(folder, trace="off")
    tokenizer = load_tokenizer(on)
    plain = tokenizer.decode(render_prompt(tokenizer, USER, section(folder)))
    assert tokenizer.decode(render_prompt(tokenizer, USER, on)) == plain
    assert tokenizer.decode(render_prompt(tokenizer, USER, off)) == plain + "<think>\n\n</think>\n\n"
    assert render_prompt(tokenizer, USER, off, "") == render_prompt(tokenizer, USER, on)


def test_a_base_that_was_never_taught_is_not_begun_with_one(folder):
    base, made = Policy(model="m"), Policy(model="m", adapter="round-01/5-policy", round=1)
    student = section(folder, trace="off")
    assert student.of(base).block == student.of(made).block == empty_block(TAGS)
    student._learns_trace = True
    assert (student.of(base).block, student.of(made).block) == ("", empty_block(TAGS))
    assert student.with_trace("on").of(made).block == ""


THINKING = (
    "{%- for message in messages -%}{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|><think>\\n\\n</think>\\n\\n' + message['content'] + '<|end|>' -}}"
    "{%- else -%}{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
    "{%- endif -%}"
)
"""How templates of models that reason do it: an empty block in finished turns, and in the prompt where it is asked for."""


def test_a_template_that_shows_an_empty_trace_in_finished_turns_is_one_for_a_student_that_reasons(folder, tmp_path):
    from prefdistill.errors import TrainError

    thinking = with_template(folder, tmp_path / "thinking", THINKING)
    with pytest.raises(TrainError, match="between the prompt and the answer"):
        load_tokenizer(section(thinking))
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    assert load_tokenizer(section(thinking, **off))
    tokenizer = load_tokenizer(section(thinking, trace="on"))
    written = tokenizer.decode(render_prompt(tokenizer, USER, section(thinking, trace="off")))
    assert written == tokenizer.decode(render_prompt(tokenizer, USER, section(thinking, **off)))
    with pytest.raises(
        TrainError, match=r"student\.trace is on: reasoning is switched there.*take enable_thinking out"
    ):
        load_tokenizer(section(thinking, trace="on", **off))


# ---- recipes -----------------------------------------------------------------------------------------------------

WARM = ("warm_start.use=traces", "warm_start.prompts=8")


def test_reasoning_is_on_where_it_is_taught_and_the_recipe_says_so(tiny_recipe):
    plain = load_recipe(tiny_recipe)
    assert plain.student.trace is None
    assert not {"trace", "trace_tags"} & set(plain.resolved()["student"])
    for overrides in (WARM, ("train.use=traces",), (*WARM, "warm_start.trace=summary")):
        assert load_recipe(tiny_recipe, overrides).resolved()["student"]["trace"] == "on"
    assert load_recipe(tiny_recipe, [*WARM, "warm_start.trace=strip"]).student.trace is None
    assert load_recipe(tiny_recipe, [*WARM, "student.trace=off"]).student.block


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sample.teacher_drafts=1"], r"sample\.teacher_drafts: such drafts have no reasoning"),
        (
            ["student.trace=off", "sample.use=openai", "sample.model=m", "loop.rounds=1"],
            r"student\.trace is off, and sample\.use `openai` cannot begin the student's turn",
        ),
        (["warm_start.trace=kept"], r"warm_start\.trace"),
        (["student.trace=off", "warm_start.off_share=0"], r"off_share is 0: the student never learns to answer after"),
        (["student.trace=maybe"], r"student\.trace"),
        (["warm_start.summary_words=3"], r"summary_words goes with"),
    ],
)
def test_recipes_that_do_not_fit_together_are_refused(tiny_recipe, overrides, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(tiny_recipe, [*WARM, *overrides])


# ---- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<think>\nwhy\n</think>\n\nHello Anna", "Hello Anna"),
        (" <think>a</think><think>b</think> Hello", "Hello"),
        ("Hello < Anna </thi", "Hello < Anna </thi"),
        ("<thin Anna", "<thin Anna"),
        ("<thi", "<thi"),
        (" Hello", " Hello"),
        ("<think>never closed", ""),
        ("<think>why</think>", ""),
        ("", ""),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_stream_shows_the_answer_alone(text, shown, size):
    stream = AnswerStream(TAGS)
    pieces = [stream.add(text[at : at + size]) for at in range(0, len(text), size)]
    assert "".join([*pieces, stream.end()]) == shown == part(text, TAGS).completion
    assert not stream.stray


@pytest.mark.parametrize(
    ("answer", "stray"),
    [
        ("Hello <think> Anna</think>", "<think>"),
        ("Hello </think> Anna <think>", "</think>"),
        ("why</think>", "</think>"),
        ("</think>\n\nHello", "</think>"),
    ],
)
@pytest.mark.parametrize("trace", ["", "<think>\nwhy\n</think>\n\n"])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_stream_shows_nothing_from_a_stray_tag_on(answer, stray, trace, size):
    assert stray_tag(part(trace + answer, TAGS).completion, TAGS) == stray
    stream = AnswerStream(TAGS)
    shown = "".join(stream.add((trace + answer)[at : at + size]) for at in range(0, len(trace + answer), size))
    assert answer.startswith(shown + stream.end())
    assert "<" not in shown, "no part of the tag either"
    assert stream.stray == stray


def test_no_teacher_is_asked_about_a_draft_with_a_stray_tag():
    drafts = make_drafts(["Hello </think> Anna", "Hello Anna"])
    drafts[0] = drafts[0].model_copy(update={"stray_tag": "</think>"})
    checked = check_texts(make_prompt(), drafts, make_rubric(LENGTH, gates=[CLEAN]))
    assert [each.failed for each in checked.values()] == [("no_stray_tags",), ()]


def test_a_draft_with_a_stray_tag_is_marked_whatever_sampler_wrote_it():
    class Writer:
        def sample(self, policy, requests):
            for each, text in zip(requests, ["Hello", "Hello </think> Anna"], strict=True):
                yield Completion(each.key, text, "stop", 3, -1.0)

    def sampled(tags):
        found = sample_drafts(
            Writer(), Policy(model="m"), [make_prompt()], {}, source="base", round=0, purpose="test", drafts=2,
            temperature=1.0, top_p=1.0, max_new_tokens=9, seed=1, tags=tags,
        )  # fmt: skip
        return list(found)

    assert [draft.stray_tag for draft in sampled(TAGS)] == ["", "</think>"]
    assert [draft.stray_tag for draft in sampled(None)] == ["", ""], "of a student that does not reason it is text"
    kept, marked = sampled(TAGS)
    assert "stray_tag" not in kept.model_dump() and Draft.model_validate_json(marked.model_dump_json()) == marked
