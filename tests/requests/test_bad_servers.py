"""Every way in which a server misbehaves, through teacher and rubric judge: a counted failure or a right verdict."""

import dataclasses
import json
import random
import re
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from prefdistill.judges.rubric import RubricJudge
from prefdistill.protocols import RunContext
from prefdistill.records import PreferencePair
from prefdistill.requests import layer as requests_module
from prefdistill.requests.layer import EndpointError, RequestLayer
from prefdistill.selection import PairOptions
from prefdistill.stages.judge import judge_group, judge_prompts
from prefdistill.stages.pair import pair_prompts
from prefdistill.stages.rank import rank_prompts
from prefdistill.teachers.openai import OpenAITeacher
from tests.loopback import Loopback, Served, fenced, judging_by, refused
from tests.making import ASKED, make_draft, make_drafts, make_prompt, make_rubric, one_rubric

RUBRIC = make_rubric(ASKED, {**ASKED, "name": "kind"})
LEVELS = ASKED["levels"]


def quality(text: str) -> float:
    """The rule: the longer the better, up to 100 characters."""
    return min(1.0, len(text) / 100)


by_rule = judging_by(quality)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(requests_module, "BACK_OFF_SECONDS", 0.01)


@contextmanager
def opened_judge(url, cache="off", scoring="parsed", **options):
    layer = RequestLayer(cache=cache)
    teacher = OpenAITeacher(
        model="m", base_url=url, **{"timeout_seconds": 0.4, "deadline_seconds": 1.5, "concurrency": 8, **options}
    )
    judge = RubricJudge(teacher=teacher, scoring=scoring)
    judge.open(RunContext(directory=Path(), seed=0, requests=layer))
    yield judge, layer
    judge.close()
    layer.close()


def assert_no_wrong_label(verdict, drafts):
    """Every score is the rule's, every comparison has the rule's winner, and what failed has no score at all."""
    texts = {draft.id: draft.completion for draft in drafts}
    for judgement in verdict.judgements:
        for score in judgement.scores:
            right = LEVELS[round(quality(texts[judgement.draft_id]) * 4)]
            assert score.level == right, judgement.draft_id
            assert score.score == pytest.approx(LEVELS.index(right) / 4, abs=0.02)
    for each in verdict.preferences:
        first, second = (quality(texts[key]) for key in (each.first_id, each.second_id))
        assert first != second
        assert (each.probability > 0.5) == (first > second)
    failed = {failure.key for failure in verdict.failures}
    assert not failed & {judgement.draft_id for judgement in verdict.judgements}
    covered = failed | {judgement.draft_id for judgement in verdict.judgements}
    assert {draft.id for draft in drafts} <= covered | {part for key in failed for part in key.split("|")}


def reply_about(body) -> dict:
    return json.loads(by_rule(body))


def changed(body, change) -> str:
    """The right verdict with one thing changed: a score's criterion `good`, or a comparison."""
    verdict = reply_about(body)
    change(verdict.get("good", verdict))
    return json.dumps(verdict)


def off_menu(body):
    return changed(body, lambda answer: answer.update({("level" if "level" in answer else "winner"): "splendid"}))


def missing(body):
    verdict = reply_about(body)
    verdict.pop("good" if "good" in verdict else "winner")
    return json.dumps(verdict)


def logprobs_of(text, log_prob=-0.001):
    """Token log-probabilities of a text, each token beyond doubt."""
    tokens = re.findall(r"\w+|\W", text)
    content = [
        {"token": each, "logprob": log_prob, "top_logprobs": [{"token": each, "logprob": log_prob}]} for each in tokens
    ]
    return {"content": content}


def with_logprobs(body, log_prob=-0.001):
    text = by_rule(body)
    return Served(text, logprobs=logprobs_of(text, log_prob) if body.get("logprobs") else None)


def refusing(name, status, message=None):
    """Refuse a parameter, and answer rightly without it."""

    def answer(body):
        return refused(status, message or f"{name} is not supported") if name in body else by_rule(body)

    return answer


PASSING = {
    "429": lambda body: refused(429, "slow down"),
    "429 retry-after": lambda body: refused(429, "slow down", retry_after="0.2"),
    "429 retry-after date": lambda body: refused(429, "slow", retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
    "500": lambda body: refused(500, "oops"),
    "503": lambda body: refused(503, "busy"),
    "529": lambda body: refused(529, "overloaded"),
    "hang": lambda body: Served(by_rule(body), delay_seconds=3),
    "cut http": lambda body: Served(by_rule(body), broken="cut"),
    "reset": lambda body: Served(by_rule(body), broken="reset"),
    "slow drip": lambda body: Served(by_rule(body), broken="drip"),
    "half a response": lambda body: Served(body='{"choices": [{"message": {"content": "{'),
    "html": lambda body: Served(body="<html>bad gateway</html>"),
    "no choices": lambda body: Served(body={"error": {"message": "overloaded"}}),
    "wrong types": lambda body: Served(body={"choices": [{"message": {"content": 7}}]}),
}
"""What passes: it is tried again."""
FINAL = {
    "cut json": ("parse", lambda body: by_rule(body)[:-3]),
    "cut at the limit": ("truncated", lambda body: Served(by_rule(body)[:9], finish_reason="length")),
    "off-menu level": ("parse", off_menu),
    "missing criterion": ("parse", missing),
    "extra criterion": ("parse", lambda body: json.dumps({**reply_about(body), "style": {"level": "yes"}})),
    "two verdicts": ("parse", lambda body: by_rule(body) + off_menu(body)),
    "prose alone": ("parse", lambda body: "The level is yes; the first is better."),
    "refusal field": ("refusal", lambda body: Served("", refusal="I would rather not.")),
    "content filter": ("refusal", lambda body: Served("", finish_reason="content_filter")),
    "empty content": ("empty", lambda body: Served("")),
    "null verdict": ("parse", lambda body: "null"),
}
"""What is settled: it is a failure, of its kind."""
HARMLESS = {
    "prose around the JSON": lambda body: f"Sure! Here it is:\n```json\n{by_rule(body)}\n```\nAnything else?",
    "ignored schema, reasons left out": lambda body: json.dumps(
        {key: {"level": each["level"]} if isinstance(each, dict) else each for key, each in reply_about(body).items()}
    ),
    "reasoning before the JSON": lambda body: f"<think>first or second? level: no</think>\n{by_rule(body)}",
    "another model's name": lambda body: Served(by_rule(body), model="quite-another"),
    "usage missing": lambda body: Served(
        body={"choices": [{"message": {"content": by_rule(body)}, "finish_reason": "stop"}]}
    ),
    "usage nonsense": lambda body: Served(by_rule(body), prompt_tokens=-5, completion_tokens=float("nan")),
    "400 on response_format": refusing("response_format", 400),
    "422 on response_format": refusing("response_format", 422),
    "400 on temperature": refusing("temperature", 400),
    "400 on max_completion_tokens": refusing("max_completion_tokens", 400),
    "400 on logprobs": refusing("logprobs", 400),
    "403 on logprobs": refusing("logprobs", 403, "You are not allowed to request logprobs from this model"),
    "403 on logprobs, unnamed": refusing("logprobs", 403, "not allowed"),
    "logprobs": with_logprobs,
    "missing logprobs": by_rule,
    "-9999 logprobs": lambda body: with_logprobs(body, -9999.0),
    "null logprobs": lambda body: with_logprobs(body, None),
    "broken logprobs": lambda body: Served(by_rule(body), logprobs={"content": [7]}),
    "other logprobs": lambda body: Served(by_rule(body), logprobs=logprobs_of("quite another text")),
}
"""What is odd, but can be read or mended: the verdict is right."""


def once_each(spoil):
    """Misbehave the first time that a text is asked, then answer."""
    seen, lock = set(), threading.Lock()

    def answer(body):
        text = body["messages"][-1]["content"]
        with lock:
            first = text not in seen
            seen.add(text)
        return spoil(body) if first else by_rule(body)

    return answer


def for_one_draft(spoil):
    """Misbehave whenever one of the drafts is asked about."""
    return lambda body: spoil(body) if fenced(body, "draft") == DRAFTS[1].completion else by_rule(body)


DRAFTS = make_drafts(["a" * 25, "b" * 100, "c" * 50, "d" * 75])
PROMPT = make_prompt()


def judged(answer, **options):
    with Loopback(answer) as server, opened_judge(server.url, **options) as (judge, layer):
        verdict = judge_group(judge, PROMPT, DRAFTS, RUBRIC)
    assert_no_wrong_label(verdict, DRAFTS)
    return verdict, layer


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again_and_the_verdict_is_right(name):
    verdict, _ = judged(once_each(PASSING[name]))
    assert (len(verdict.judgements), len(verdict.preferences), verdict.failures) == (4, 2, ())


@pytest.mark.parametrize("name", [name for name in PASSING if name not in ("429 retry-after", "hang", "slow drip")])
def test_what_never_passes_is_a_failure_of_its_call_alone(name):
    verdict, _ = judged(for_one_draft(PASSING[name]))
    assert [(failure.key, failure.kind) for failure in verdict.failures] == [(DRAFTS[1].id, "provider")]
    assert len(verdict.judgements) == 3
    assert len(verdict.preferences) == 2, "the others still make a pair"


@pytest.mark.parametrize("name", FINAL)
def test_what_cannot_be_read_is_a_failure_of_its_kind(name):
    kind, spoil = FINAL[name]
    verdict, _ = judged(for_one_draft(spoil))
    assert [(failure.key, failure.kind) for failure in verdict.failures] == [(DRAFTS[1].id, kind)]
    assert len(verdict.judgements) == 3
    everywhere, _ = judged(spoil)
    assert not everywhere.judgements
    assert not everywhere.preferences
    assert {failure.kind for failure in everywhere.failures} == {kind}


@pytest.mark.parametrize("scoring", ["parsed", "auto"])
@pytest.mark.parametrize("name", HARMLESS)
def test_what_can_be_read_or_mended_is_right(name, scoring):
    verdict, _ = judged(HARMLESS[name], scoring=scoring)
    assert (len(verdict.judgements), verdict.failures) == (4, ())
    paths = {score.path for judgement in verdict.judgements for score in judgement.scores}
    assert paths == ({"logprob"} if scoring == "auto" and name == "logprobs" else {"parsed"})


@pytest.mark.parametrize("name", ["400 on logprobs", "403 on logprobs", "403 on logprobs, unnamed", "missing logprobs"])
def test_log_probabilities_are_never_missing_in_silence(name):
    _, layer = judged(HARMLESS[name], scoring="auto")
    assert any("logprobs" in note or "log-probabilities" in note for note in layer.notes)


def test_another_models_name_is_noted():
    _, layer = judged(HARMLESS["another model's name"])
    assert any("answers as the model quite-another" in note for note in layer.notes)


def test_a_model_that_is_not_there_stops_loudly_or_fails_its_calls():
    unknown = refused(404, "The model `m` does not exist")
    with pytest.raises(EndpointError, match="check model"):
        judged(lambda body: unknown)
    later = dataclasses.replace(unknown, delay_seconds=0.3)  # when the server has answered others
    verdict, _ = judged(for_one_draft(lambda body: later))
    assert [failure.kind for failure in verdict.failures] == ["provider"]


@pytest.mark.parametrize("seconds", [130, 86_400])
def test_a_long_retry_after_is_kept_or_stops_loudly(seconds):
    limited = refused(429, "come back", retry_after=str(seconds))
    with pytest.raises(EndpointError, match=f"left alone for {seconds} s"):
        judged(lambda body: limited)
    with (
        Loopback(lambda body: limited) as server,
        opened_judge(server.url, deadline_seconds=1e6, concurrency=2) as (judge, layer),
    ):
        threading.Thread(target=quietly, args=(judge,), daemon=True).start()
        time.sleep(0.5)
        (host,) = layer._hosts.values()
        assert host.quiet_seconds > seconds - 1
        assert len(server.requests) <= 2, "no worker comes back early"


def quietly(judge):
    """Judge until the layer is closed."""
    with suppress(CancelledError):
        judge_group(judge, PROMPT, DRAFTS, RUBRIC)


class RandomFailures:
    """Fail in a random way for a share of all requests, and remember what each text got."""

    def __init__(self, seed, share=0.3):
        self.draw, self.lock, self.share = random.Random(seed), threading.Lock(), share
        self.ways = [*PASSING.items(), *((name, spoil) for name, (_, spoil) in FINAL.items())]
        self.arrived = Counter()
        """How often each text got a whole chat completion, right or wrong: a reply that is paid for."""

    def __call__(self, body):
        with self.lock:
            name, spoil = self.draw.choice(self.ways) if self.draw.random() < self.share else ("", by_rule)
            if name not in PASSING:
                self.arrived[body["messages"][-1]["content"]] += 1
        return spoil(body)


def test_with_a_third_of_all_calls_failing_no_label_is_wrong_and_nothing_is_paid_twice(tmp_path):
    groups = []
    for number in range(40):
        prompt = make_prompt(f"p{number}", f"Write about {number}.")
        texts = [f"{number} ".ljust(25 * (index + 1), "x") for index in range(4)]
        groups.append((prompt, [make_draft(text, index, prompt.id) for index, text in enumerate(texts)]))
    by_id = {prompt.id: group for prompt, group in groups}
    prompts, drafts = [prompt for prompt, _ in groups], [draft for _, group in groups for draft in group]
    options = {"deadline_seconds": 20, "timeout_seconds": 1.5, "concurrency": 16}
    answer = RandomFailures(11)
    with Loopback(answer) as server:
        for _ in range(2):  # the second time only what has no reply is asked again
            with opened_judge(server.url, tmp_path, **options) as (judge, layer):
                before = len(server.requests)
                verdicts = list(judge_prompts(judge, iter(groups), one_rubric(RUBRIC)))
                assert len(server.requests) - before == layer.usage.calls
            for verdict in verdicts:
                assert_no_wrong_label(verdict, by_id[verdict.prompt_id])
            kinds = Counter(failure.kind for verdict in verdicts for failure in verdict.failures)
            assert set(kinds) >= {"parse", "refusal", "empty", "truncated"}
            assert 10 <= kinds.total() <= 120
        assert len(answer.arrived) > 200
        assert set(answer.arrived.values()) == {1}
    rankings = list(rank_prompts(prompts, drafts, verdicts, one_rubric(RUBRIC), 1))
    rows = pair_prompts(prompts, drafts, verdicts, rankings, PairOptions(near_duplicate=None), 1)
    pairs = [row for row in rows if isinstance(row, PreferencePair)]
    assert len(pairs) >= 15
    assert all(quality(pair.chosen) > quality(pair.rejected) for pair in pairs)
