"""Whole runs with a judge behind a server on this machine: one that follows a rule, and ones that misbehave."""

import json
import threading
import time
import zlib
from pathlib import Path

import pytest

from prefdistill.errors import JudgeError, PrefdistillError, TrainError
from prefdistill.loop import run_recipe
from prefdistill.recipe import load_recipe
from prefdistill.records import Draft, PreferencePair, Verdict
from prefdistill.requests.layer import EndpointError
from prefdistill.run import RowFile, RunDirectory
from tests.commands import start_command
from tests.conftest import ROOT, TINY
from tests.loopback import Loopback, Served, fenced, judging_by, refused

RUBRIC = """
name: short
purpose: Short e-mails.
criteria:
  - name: brevity
    question: Is the e-mail short?
    levels: [very long, long, medium, short, very short]
"""


def brevity(text: str) -> float:
    """The rule that the server judges by: 1 for an empty text, 0 from 400 characters on."""
    return max(0.0, 1.0 - len(text) / 400)


@pytest.fixture
def recipe_for(tmp_path):
    """Write the tiny recipe with a rubric judge whose teacher is at `url`."""

    def write(url: str, cache: str = "cache", **judge) -> Path:
        (tmp_path / "short.yaml").write_text(RUBRIC)
        text = TINY.format(root=ROOT, cache=cache)
        text = text.replace(
            "judge: {use: checks}", f"judge: {json.dumps({'use': 'rubric', 'concurrency': 4, **judge})}"
        )
        text = text.replace(f"{ROOT}/rubrics/sandbox-email.yaml", "short.yaml")
        teacher = {"use": "openai", "model": "m", "base_url": url, "deadline_seconds": 5}
        text = text.replace("teacher: {use: sandbox}", f"teacher: {json.dumps(teacher)}")
        text = text.replace("baselines: [base, teacher], ", "baselines: [base], ").replace("rounds: 2", "rounds: 1")
        path = tmp_path / "llm.yaml"
        path.write_text(text)
        return path

    return write


def test_pairs_follow_the_rule_in_whatever_order_drafts_were_shown(recipe_for, tmp_path):
    with Loopback(judging_by(brevity)) as server:
        outcome = run_recipe(load_recipe(recipe_for(server.url)), tmp_path / "run")
        shown = [
            body["messages"][-1]["content"] for body in server.served if "<first-" in body["messages"][-1]["content"]
        ]
    pairs = RowFile(tmp_path / "run" / "round-01" / "4-pairs.jsonl", PreferencePair).read()
    assert len(pairs) >= 4
    assert all(brevity(pair.chosen) > brevity(pair.rejected) for pair in pairs.values())
    for pair in pairs.values():
        orders = [text.index(pair.chosen) < text.index(pair.rejected) for text in shown if pair.chosen in text]
        assert sorted(orders) == [False, True], "each pair was confirmed once in each order"
    drafts = RowFile(tmp_path / "run" / "round-01" / "1-drafts.jsonl", Draft).read().values()
    whole = sum(draft.finish_reason == "stop" for draft in drafts)
    assert outcome.rounds[1].usage.calls == whole + len(shown), "cut drafts cost no call, and nothing is asked twice"


@pytest.mark.slow
def test_nothing_that_was_answered_is_asked_again_after_a_kill(recipe_for, tmp_path):
    """On the sandbox student; `tests/test_kills.py` counts requests over kills with every run of the tests."""
    with Loopback(judging_by(brevity), latency_seconds=0.05) as server:
        recipe = recipe_for(server.url)
        process = start_command(["run", recipe, "--run", tmp_path / "run"], tmp_path)
        verdicts = tmp_path / "run" / "round-01" / "2-verdicts.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.is_alive():
            if verdicts.exists() and verdicts.read_bytes().count(b"\n") >= 2:
                break
            time.sleep(0.005)
        process.kill()
        process.join()
        killed_at = len(server.requests)
        in_flight = 4
        run_recipe(load_recipe(recipe), tmp_path / "run")
        bodies = [json.dumps(body, sort_keys=True) for body in server.requests]
        repeated = len(bodies) - len(set(bodies))
        assert killed_at < len(bodies), "it was killed while requests were still owed"
        assert repeated <= in_flight
        asked = len(server.requests)
        run_recipe(load_recipe(recipe, ["loop.rounds=1"]), tmp_path / "again")
        assert len(server.requests) == asked, "another run of the same recipe is answered by the request cache"
    first, second = (RunDirectory(tmp_path / name) for name in ("run", "again"))
    pairs = [(run.round(1) / "4-pairs.jsonl").read_text() for run in (first, second)]
    assert pairs[0] == pairs[1]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda body: "Based on my reading, A is the better one.", "parse"),
        (lambda body: json.dumps({"brevity": {"reason": "x", "level": "splendid"}}), "parse"),
        (lambda body: Served(text="", refusal="I would rather not."), "refusal"),
        (lambda body: Served(text=""), "empty"),
        (lambda body: Served(text='{"brevity": {"rea', finish_reason="length"), "truncated"),
    ],
    ids=["prose", "off-menu", "refusal", "empty", "cut"],
)
def test_a_judge_that_answers_rubbish_to_everything_stops_the_run_loudly(recipe_for, tmp_path, answer, kind):
    with Loopback(answer) as server, pytest.raises(JudgeError) as caught:
        run_recipe(load_recipe(recipe_for(server.url), ["evaluate.compare=scores"]), tmp_path / "run")
    assert "the judge failed on all" in str(caught.value)
    assert kind in str(caught.value)
    assert not list((tmp_path / "run").glob("round-*/5-policy"))
    verdicts = [
        verdict
        for path in (tmp_path / "run").rglob("*verdicts.jsonl")
        for verdict in RowFile(path, Verdict).read().values()
    ]
    assert verdicts
    scores = [score for verdict in verdicts for judgement in verdict.judgements for score in judgement.scores]
    assert not any(score.applies for score in scores), "only drafts that were cut, and so not asked about"
    assert {failure.kind for verdict in verdicts for failure in verdict.failures} == {kind}


def test_some_failed_calls_are_counted_and_train_nothing(recipe_for, tmp_path):
    rule = judging_by(brevity)

    def sometimes(body):
        draft = fenced(body, "draft")  # which fail does not depend on the order in which they are asked
        return "I cannot decide." if draft is not None and zlib.crc32(draft.encode()) % 6 == 0 else rule(body)

    with Loopback(sometimes) as server:
        outcome = run_recipe(load_recipe(recipe_for(server.url)), tmp_path / "run")
    result = outcome.rounds[1]
    assert result.failures["judge.parse"] > 0
    assert any("judge failures (parse)" in warning for warning in result.warnings)
    failed = {
        failure.key
        for verdict in RowFile(tmp_path / "run" / "round-01" / "2-verdicts.jsonl", Verdict).read().values()
        for failure in verdict.failures
    }
    pairs = RowFile(tmp_path / "run" / "round-01" / "4-pairs.jsonl", PreferencePair).read().values()
    assert not failed & {key for pair in pairs for key in (pair.chosen_id, pair.rejected_id)}
    assert all(brevity(pair.chosen) > brevity(pair.rejected) for pair in pairs)


def test_an_unreachable_and_an_unauthorised_teacher_stop_the_run_with_what_to_do(recipe_for, tmp_path):
    with pytest.raises(EndpointError, match="base_url"):
        run_recipe(load_recipe(recipe_for("http://127.0.0.1:9/v1")), tmp_path / "one")
    with (
        Loopback(lambda body: refused(401, "bad key")) as server,
        pytest.raises(EndpointError, match=r"api_key_env|OPENAI_API_KEY"),
    ):
        run_recipe(load_recipe(recipe_for(server.url)), tmp_path / "two")
    for name in ("one", "two"):
        assert (tmp_path / name / "baselines" / "base-validation-drafts.jsonl").stat().st_size > 0, "drafts are kept"


def test_a_missing_key_is_named_before_anything_is_sampled(recipe_for, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(PrefdistillError, match="OPENAI_API_KEY"):
        run_recipe(load_recipe(recipe_for("https://teacher.invalid/v1")), tmp_path / "run")
    assert not (tmp_path / "run" / "baselines").exists()


def test_ties_everywhere_give_no_pair_and_each_prompt_one_reason(recipe_for, tmp_path):
    with Loopback(judging_by(lambda text: 0.5)) as server, pytest.raises(TrainError) as caught:
        run_recipe(load_recipe(recipe_for(server.url)), tmp_path / "run")
    assert "0 pairs, fewer than one batch" in str(caught.value)
    assert "8 tie" in str(caught.value)


@pytest.mark.slow
def test_comparisons_in_both_orders_decide_the_evaluation(recipe_for, tmp_path):
    with Loopback(judging_by(brevity)) as server:
        recipe = recipe_for(server.url)
        recipe.write_text(recipe.read_text().replace("judge: {use: sandbox_held_out}, ", "compare: both_orders, "))
        outcome = run_recipe(load_recipe(recipe), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/round-01/6-comparisons.jsonl").read_text().splitlines()]
    drafts = {
        row["id"]: row["completion"]
        for name in ("round-01/6-drafts.jsonl", "baselines/base-validation-drafts.jsonl")
        for row in map(json.loads, (tmp_path / "run" / name).read_text().splitlines())
    }
    for row in rows:
        ours, theirs = brevity(drafts[row["draft_id"]]), brevity(drafts[row["baseline_draft_id"]])
        assert row["outcome"] == ("win" if ours > theirs else "loss" if ours < theirs else "tie")
    assert outcome.rounds[1].evaluation[0].self_judged


class LoraServer:
    """A loopback server like vLLM's: it loads adapters, and answers chat completions with drafts of various lengths."""

    def __init__(self):
        self.loaded: list[dict] = []
        self.models: list[str] = []
        lock = threading.Lock()
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two writes: without this every reply takes 40 ms

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.path.endswith("/load_lora_adapter"):
                    outer.loaded.append(body)
                    data = b"Success"
                elif self.path.endswith("/unload_lora_adapter"):
                    data = b"Success"
                else:
                    with lock:
                        outer.models.append(body["model"])
                        number = len(outer.models)
                    text = (
                        "Hi Anna, " + "please send the report by Friday at noon. " * (1 + number % 4) + f"No {number}"
                    )
                    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                    usage = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
                    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "s", "choices": [choice]}
                    data = json.dumps({**answer, "usage": usage}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


def test_round_two_asks_the_server_for_round_ones_adapter_by_name(tmp_path):
    server = LoraServer()
    (tmp_path / "judge.py").write_text(
        "def judge(prompt, drafts, rubric):\n    return [-len(d.completion) for d in drafts]\n"
    )
    text = TINY.format(root=ROOT, cache="off")
    text = text.replace("judge: {use: checks}", 'judge: {use: "judge.py:judge"}').replace("0.05", "1")
    text = text.replace(
        "sample: {", f"sample: {{use: openai, model: base-student, base_url: '{server.url}', adapter_sync: vllm, "
    )
    recipe = tmp_path / "served.yaml"
    recipe.write_text(text)
    try:
        run_recipe(load_recipe(recipe), tmp_path / "run")
    finally:
        server.server.shutdown()
    names = [each["lora_name"] for each in server.loaded]
    assert len(set(names)) == 2
    assert server.loaded[0]["lora_path"].endswith("round-01/5-policy")
    assert server.loaded[1]["lora_path"].endswith("round-02/5-policy")
    asked = list(dict.fromkeys(server.models))
    assert asked[0] == "base-student"
    assert asked[1] == names[0]
    assert server.models.count(names[0]) >= 24, "round 2's drafts were asked of round 1's adapter, by its name"
