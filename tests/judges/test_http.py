"""The http judge against a tiny server of its own: a rule that judges well, and everything a server can get wrong."""

import json
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from prefdistill.errors import PluginError
from prefdistill.judges import http
from prefdistill.plugins import build_plugin
from prefdistill.protocols import RunContext
from prefdistill.records import PreferencePair
from prefdistill.requests import layer as requests
from prefdistill.requests.layer import EndpointError, RequestLayer
from prefdistill.selection import PairOptions
from prefdistill.stages.judge import judge_group, judge_prompts
from prefdistill.stages.pair import pair_prompts
from prefdistill.stages.rank import rank_prompts
from tests.making import ASKED, CLEAN, LENGTH, make_drafts, make_prompt, make_rubric, one_rubric

PROMPT = make_prompt(text="Write to Anna.", day="Friday")
GATE = {"name": "honest", "question": "Does it lie?", "pass_when": "no"}
RUBRIC = make_rubric(ASKED, LENGTH, gates=[GATE, CLEAN], purpose="A test.")
TEXTS = ["short", "a longer draft", "a draft that is the longest"]


@contextmanager
def serving(answer):
    """A judge in a few lines: `answer` gets the request's JSON and returns a response, or (status, headers, text)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            server.asked.append(body)
            server.keys.append(self.headers.get("authorization"))
            found = answer(body)
            status, headers, text = found if isinstance(found, tuple) else (200, {}, found)
            data = (text if isinstance(text, str) else json.dumps(text)).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", "content-length": len(data), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.keys = [], []
    server.url = f"http://127.0.0.1:{server.server_port}/judge"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def asking(url, cache="off", **options):
    judge = build_plugin("http", {"url": url, **options}, "judges", Path())
    layer = RequestLayer(cache=cache)
    judge.open(RunContext(directory=Path(), seed=0, requests=layer))
    yield judge
    judge.close()
    layer.close()


def judged(answer, drafts=None, rubric=RUBRIC, **options):
    with serving(answer) as server, asking(server.url, **options) as judge:
        return judge_group(judge, PROMPT, drafts or make_drafts(TEXTS), rubric), server


def by_length(body):
    return {"scores": {draft["id"]: len(draft["text"]) for draft in body["drafts"]}}


def pair_of(verdict, drafts, rubric=RUBRIC, **options):
    rankings = rank_prompts([PROMPT], drafts, [verdict], one_rubric(rubric), 1)
    options = PairOptions(near_duplicate=None, **options)
    (row,) = pair_prompts([PROMPT], drafts, [verdict], rankings, options, 1)
    return (row.chosen, row.rejected) if isinstance(row, PreferencePair) else row.reason


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(requests, "BACK_OFF_SECONDS", 0.01)


def test_what_is_sent():
    drafts = make_drafts([*TEXTS[:2], TEXTS[0], "cut off he"], cut=[3])
    verdict, server = judged(by_length, drafts)
    assert server.asked == [
        {
            "prefdistill": 1,
            "prompt": {
                "id": "p",
                "messages": [{"role": "user", "content": "Write to Anna."}],
                "fields": {"day": "Friday"},
            },
            "drafts": [
                {"id": "d1", "text": "short", "finish_reason": "stop"},
                {"id": "d2", "text": "a longer draft", "finish_reason": "stop"},
                {"id": "d3", "text": "cut off he", "finish_reason": "length"},
            ],
            "rubric": {
                "name": "test",
                "purpose": "A test.",
                "criteria": [{"name": "good", "question": "Is it good?", "levels": ASKED["levels"], "weight": 1.0}],
                "gates": [
                    {"name": "honest", "question": "Does it lie?", "levels": ["no", "yes"], "pass_when": "no"},
                ],
            },
        }
    ]
    assert server.keys == [None]
    assert [each.value for each in verdict.judgements] == [5, 5, 14, 10]  # equal texts are sent once
    assert verdict.usage.calls == 1


def test_scores_make_a_pair_on_a_scale_of_their_own_and_checked_gates_hold():
    drafts = make_drafts([*TEXTS, "not bad, BAD"])
    verdict, _ = judged(by_length, drafts)
    assert pair_of(verdict, drafts, min_margin=1.0) == (TEXTS[2], "not bad, BAD")


def test_criteria_are_the_rubrics():
    def answer(body):
        assert [each["id"] for each in body["drafts"]] == ["d1", "d2", "d3"]
        return {
            "criteria": {
                "d1": {"good": "Hardly", "honest": "no"},
                "d2": {"good": {"score": 0.9, "reason": "It is."}, "honest": {"level": "no"}},
                "d3": {"good": "yes", "honest": {"level": "yes", "reason": "The day is wrong."}},
            }
        }

    drafts = make_drafts(TEXTS)
    verdict, _ = judged(answer, drafts)
    assert [[score.criterion for score in each.scores] for each in verdict.judgements] == [
        ["honest", "clean", "good", "length"]
    ] * 3
    found = {score.criterion: score for score in verdict.judgements[1].scores}
    assert (found["good"].score, found["good"].level, found["good"].reason) == (0.9, None, "It is.")
    assert (found["honest"].level, found["honest"].score, found["length"].path) == ("no", 1.0, "checked")
    assert verdict.judgements[0].scores[2].level == "hardly"
    assert pair_of(verdict, drafts, min_margin=0.01) == (TEXTS[1], TEXTS[2])


def test_preferences_alone_rank_and_need_both_orders():
    def both(body):
        texts = {draft["id"]: draft["text"] for draft in body["drafts"]}
        return {
            "preferences": [
                {"first": a, "second": b, "probability": float(len(texts[a]) > len(texts[b])), "reason": "longer"}
                for a in texts
                for b in texts
                if a != b
            ]
        }

    drafts = make_drafts([*TEXTS, TEXTS[0]])
    verdict, _ = judged(both, drafts)
    assert len(verdict.preferences) == 6 + 4  # for both drafts that say "short"
    assert pair_of(verdict, drafts) == (TEXTS[2], TEXTS[0])
    one, _ = judged(lambda body: {"preferences": both(body)["preferences"][:1], "abstentions": {"d3": "?"}}, drafts)
    assert isinstance(pair_of(one, drafts), str)


def test_preferences_confirm_scores():
    def answer(body):
        shown = [("d3", "d1", 1.0), ("d1", "d3", 1.0)]  # whichever is first: the two orders disagree
        return {
            **by_length(body),
            "preferences": [{"first": a, "second": b, "probability": p} for a, b, p in shown],
        }

    drafts = make_drafts(TEXTS)
    verdict, _ = judged(answer, drafts)
    assert len(verdict.preferences) == 2
    assert isinstance(pair_of(verdict, drafts, min_margin=1.0), str)


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ({}, "no verdict; expected at least one of scores, criteria"),
        ({"scores": {}, "criteria": {}}, "both scores and criteria"),
        ({"score": {"d1": 1}}, 'unknown key "score"'),
        ({"scores": [1, 2, 3]}, "expected an object with draft ids as keys"),
        ({"scores": {"d1": 1, "d2": 2, "d4": 3}}, 'draft "d4", which was not sent; expected d1, d2, d3'),
        ({"scores": {"d1": 1, "d2": 2, "d3": 3}, "abstentions": {"x": ""}}, 'draft "x", which was not sent'),
        ({"preferences": {"d1": "d2"}}, "expected a list of objects"),
        ({"preferences": [{"first": "d1", "probability": 1}]}, "draft null, which was not sent"),
        ({"preferences": [{"first": ["d1"], "second": "d2", "probability": 1}]}, "which was not sent"),
        ('{"scores": {"d1": 1, "d1": 2, "d2": 1, "d3": 1}}', "a key stands twice"),
    ],
)
def test_a_response_that_cannot_be_trusted_fails_every_draft(response, message):
    verdict, server = judged(lambda _: response)
    assert not verdict.judgements
    assert not verdict.preferences
    assert [each.kind for each in verdict.failures] == ["parse"] * 3
    assert message in verdict.failures[0].message
    assert verdict.failures[0].reply
    assert verdict.usage.calls == len(server.asked) == 1


@pytest.mark.parametrize(
    ("scores", "kind", "message"),
    [
        ('"NaN"', "parse", 'found "NaN"; expected a finite number'),
        ("NaN", "parse", "found NaN"),
        ("-Infinity", "parse", "found -Infinity"),
        ("1e999", "parse", "found Infinity"),
        ("9" * 400, "parse", "expected a finite number"),
        ("true", "parse", "found true"),
        ("[1]", "parse", "found [1]"),
        ("null", "empty", "abstained"),
        (None, "empty", "says nothing about this draft"),
    ],
)
def test_one_bad_score_fails_one_draft(scores, kind, message):
    text = '{"scores": {"d1": 1, %s "d3": 3}}' % ("" if scores is None else f'"d2": {scores},')
    verdict, _ = judged(lambda _: text)
    assert [each.value for each in verdict.judgements] == [1, 3]
    (failure,) = verdict.failures
    assert failure.kind == kind
    assert message in failure.message
    assert failure.key == make_drafts(TEXTS)[1].id


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"good": "excellent", "honest": "no"}, 'criteria.d2.good: found "excellent"; expected one of no, hardly'),
        ({"good": 1.2, "honest": "no"}, "criteria.d2.good: found 1.2; expected a number from 0 to 1"),
        ({"good": None, "honest": "no"}, "criteria.d2.good: found null"),
        ({"good": "yes"}, "criteria.d2: no honest; expected honest, good"),
        ({"good": "yes", "honest": "no", "length": 1}, 'criteria.d2: unexpected "length"'),
        ({"good": {"level": "yes", "score": 1}, "honest": "no"}, "expected `level` or `score`"),
        ({"good": {"level": "yes", "reason": 3}, "honest": "no"}, "good.reason: found 3; expected text"),
        ("yes", 'criteria.d2: found "yes"; expected an object with criteria as keys'),
    ],
)
def test_one_bad_criterion_fails_one_draft(answer, message):
    good = {"good": "yes", "honest": "no"}
    verdict, _ = judged(lambda _: {"criteria": {"d1": good, "d2": answer, "d3": good}})
    assert len(verdict.judgements) == 2
    (failure,) = verdict.failures
    assert failure.kind == "parse"
    assert message in failure.message


@pytest.mark.parametrize(
    "bad",
    [
        {"probability": 1.1},
        {"probability": None},
        {},
        {"probability": 1, "winner": "d1"},
        {"probability": 1, "reason": 1},
    ],
)
def test_one_bad_preference_fails_one_comparison(bad):
    good = [{"first": a, "second": b, "probability": 0.5} for a, b in (("d1", "d3"), ("d3", "d1"), ("d2", "d3"))]
    verdict, _ = judged(lambda _: {"preferences": [*good, {"first": "d3", "second": "d2", **bad}]})
    assert len(verdict.preferences) == 3
    drafts = make_drafts(TEXTS)
    assert [each.key for each in verdict.failures] == [f"{drafts[2].id}|{drafts[1].id}"]


def test_a_draft_against_itself_and_an_answer_with_an_abstention_say_nothing():
    shown = [{"first": "d1", "second": "d1", "probability": 1}]
    verdict, _ = judged(lambda body: {**by_length(body), "preferences": shown, "abstentions": {"d2": "unsure"}})
    assert not verdict.preferences
    assert sorted(each.message.split(";")[0] for each in verdict.failures) == [
        "d2: an answer and an abstention",
        "preferences.0: d1 compared with itself",
    ]


@pytest.mark.parametrize(
    ("reply", "message", "calls"),
    [
        ((200, {}, "<html>It works!</html>"), "the response is no JSON object: <html>It works!", 6),
        ((200, {}, "[1, 2, 3]"), "the response is no JSON object", 6),
        ((200, {}, ""), "the response is no JSON object", 6),
        ((200, {}, "[" * 100_000), "the response is no JSON object", 6),
        ((200, {}, '{"a": "' + "x" * (5 << 20)), "longer than 4 MiB", 1),
        ((500, {}, "oh no"), "HTTP 500: oh no", 6),
        ((400, {}, {"error": "bad"}), 'HTTP 400: {"error": "bad"}', 1),
        ((307, {"location": "http://elsewhere/"}, ""), "a redirect to http://elsewhere/", 1),
    ],
)
def test_a_reply_that_is_no_verdict_is_a_failure_of_the_provider(reply, message, calls):
    # One good reply first: a server that never answers anything stops the run instead.
    answers = iter([{"scores": {"d1": 1, "d2": 2, "d3": 3}}])
    with serving(lambda _: next(answers, reply)) as server, asking(server.url) as judge:
        judge_group(judge, make_prompt("other"), make_drafts(TEXTS, "other"), RUBRIC)
        verdict = judge_group(judge, PROMPT, make_drafts(TEXTS), RUBRIC)
    assert [each.kind for each in verdict.failures] == ["provider"] * 3
    assert message in verdict.failures[0].message
    assert len(server.asked) == calls + 1
    assert not verdict.judgements


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((307, {"location": "http://elsewhere/"}, ""), "redirects are not followed: put the final URL into judge.url"),
        ((401, {}, "who are you, secret-key-1"), r"HTTP 401: who are you, …; the key is refused"),
        ((404, {}, ""), "there is no such path: check judge.url"),
        ((405, {}, ""), "HTTP 405"),
    ],
)
def test_a_url_that_can_never_work_stops_the_run(monkeypatch, reply, message):
    monkeypatch.setenv("JUDGE_KEY", "secret-key-1")
    with serving(lambda _: reply) as server, asking(server.url, api_key_env="JUDGE_KEY") as judge:
        groups = [(make_prompt(f"p{n}"), make_drafts(TEXTS, f"p{n}")) for n in range(12)]
        with pytest.raises(EndpointError, match=message):
            list(judge_prompts(judge, groups, one_rubric(RUBRIC)))
    assert set(server.keys) == {"Bearer secret-key-1"}


def test_nobody_at_the_url():
    with asking("http://127.0.0.1:9/judge") as judge, pytest.raises(EndpointError, match="cannot be reached: start it"):
        judge.judge(PROMPT, make_drafts(TEXTS), RUBRIC)


def test_a_slow_drip_is_broken_off():
    class Endless:
        def __iter__(self):
            while True:
                yield b" "
                threading.Event().wait(0.01)

    import httpx2

    judge = build_plugin("http", {"url": "http://x/", "timeout_seconds": 0.1}, "judges", Path())
    with pytest.raises(httpx2.ReadTimeout):
        judge._text(iter(Endless()), time.monotonic() + 0.1)


def test_a_busy_server_is_waited_for():
    answers = iter([(429, {"retry-after": "0"}, "slow down"), (503, {}, "not yet")])
    verdict, server = judged(lambda body: next(answers, None) or by_length(body))
    assert len(verdict.judgements) == 3
    assert len(server.asked) == 3


def test_replies_are_kept_and_known_by_name_and_revision(tmp_path):
    drafts = make_drafts(TEXTS)
    with serving(by_length) as first, serving(by_length) as second:
        for server, options, asked in (
            (first, {}, 1),
            (first, {}, 1),
            (second, {}, 1),
            (first, {"name": "mine"}, 2),
            (second, {"name": "mine"}, 1),
            (second, {"name": "mine", "revision": "2"}, 2),
        ):
            with asking(server.url, tmp_path / "cache", **options) as judge:
                verdict = judge_group(judge, PROMPT, drafts, RUBRIC)
            assert len(verdict.judgements) == 3
            assert len(server.asked) == asked, options
    plain, named, other = (
        build_plugin("http", options, "judges", Path()).identity()
        for options in (
            {"url": first.url},
            {"url": first.url, "name": "mine", "concurrency": 2},
            {"url": second.url, "name": "mine", "timeout_seconds": 3},
        )
    )
    assert plain != named == other


def test_prices_and_budgets(tmp_path):
    from prefdistill.requests.spending import Budget

    verdict, _ = judged(by_length, usd_per_call=0.25)
    assert verdict.usage.usd == pytest.approx(0.25)
    assert verdict.usage.prompt_tokens == 0
    judge = build_plugin("http", {"url": "http://localhost:1/"}, "judges", Path())
    layer = RequestLayer(cache="off", budget=Budget(usd=1.0), ledger=tmp_path / "spending.jsonl")
    with pytest.raises(PluginError, match=r"set judge.usd_per_call \(0 if it is free\)"):
        judge.open(RunContext(directory=tmp_path, seed=0, requests=layer))
    layer.close()
    with serving(by_length) as server:
        layer = RequestLayer(cache="off", budget=Budget(usd=1.0), ledger=tmp_path / "spending.jsonl")
        judge = build_plugin("http", {"url": server.url, "usd_per_call": 0.4}, "judges", Path())
        judge.open(RunContext(directory=tmp_path, seed=0, requests=layer))
        groups = [(make_prompt(f"p{n}"), make_drafts(TEXTS, f"p{n}")) for n in range(5)]
        with pytest.raises(Exception, match="budget"):
            list(judge_prompts(judge, groups, one_rubric(RUBRIC), threads=1))
        assert len(server.asked) == 2
        judge.close()
        layer.close()


def test_what_a_run_will_cost_can_be_reckoned_in_advance():
    drafts = make_drafts(TEXTS)
    for options, model, price in (
        ({"usd_per_call": 0.25, "name": "mine"}, "mine", {"input": 0.25e6, "output": 0.0}),
        ({}, "http://localhost:1/ (set judge.usd_per_call)", None),
    ):
        judge = build_plugin("http", {"url": "http://localhost:1/", **options}, "judges", Path())
        ((first, request),) = judge.expected_requests(PROMPT, drafts, RUBRIC)
        ((second, _),) = judge.expected_requests(make_prompt("q"), drafts, RUBRIC)
        assert first is second  # one model, whatever the prompt
        assert (first.model, first.usd_per_million) == (model, price)
        assert (sum(len(each.content) for each in request.messages), request.max_tokens) == (4, 0)  # one token


def test_bad_options_are_named(monkeypatch):
    for url, message in (
        ("localhost:9000", "expected a URL such as"),
        ("http://me:pass@host/", "put the key in the environment"),
        ("http://host/judge?key=1", "put the key in the environment"),
    ):
        with pytest.raises(ValueError, match=message):
            build_plugin("http", {"url": url}, "judges", Path())
    monkeypatch.delenv("NO_KEY", raising=False)
    judge = build_plugin("http", {"url": "http://host/", "api_key_env": "NO_KEY"}, "judges", Path())
    with pytest.raises(PluginError, match="the environment variable NO_KEY is not set"):
        judge.open(RunContext(directory=Path(), seed=0, requests=RequestLayer(cache="off")))
    with pytest.raises(PluginError, match="asked before it was opened"):
        judge.judge(PROMPT, make_drafts(TEXTS), RUBRIC)


def test_the_documented_json_is_what_is_read():
    decoder, text = json.JSONDecoder(), http.__doc__
    request, *responses = [decoder.raw_decode(text, at.end())[0] for at in re.finditer(r"\n    (?=\{)", text)]
    tone = {"name": "tone", "question": "…", "levels": ["rude", "kind"], "weight": 2}
    rubric = make_rubric(tone, gates=[{**GATE, "question": "…"}], name="email", purpose="…")
    drafts = make_drafts(["…", "… …"], "p1", cut=[1])
    verdicts = []
    for response in responses:
        with serving(lambda _, response=response: response) as server, asking(server.url) as judge:
            verdicts.append(judge_group(judge, make_prompt("p1", "…", day="Friday"), drafts, rubric))
    assert [draft.pop("text") for draft in server.asked[0]["drafts"]] == ["…", "… …"]
    assert {draft.pop("text") for draft in request["drafts"]} == {"…"}
    assert server.asked[0] == request
    counts = [(len(each.judgements), len(each.preferences), len(each.failures)) for each in verdicts]
    assert counts == [(1, 0, 1), (2, 0, 0), (0, 2, 0), (0, 0, 2)]
    assert {failure.kind for each in verdicts for failure in each.failures} == {"empty"}


@pytest.mark.parametrize("broken", ["not json", "[1, 2]", (502, {}, "bad gateway")])
def test_an_answer_that_cannot_be_read_may_have_been_paid_for(tmp_path, broken):
    from prefdistill.errors import BudgetError
    from prefdistill.requests.spending import Budget

    with serving(lambda body: broken) as server:
        layer = RequestLayer(cache="off", budget=Budget(calls=3), ledger=tmp_path / "spending.jsonl")
        judge = build_plugin("http", {"url": server.url}, "judges", Path())
        judge.open(RunContext(directory=tmp_path, seed=0, requests=layer))
        with pytest.raises(BudgetError):
            list(judge_prompts(judge, [(PROMPT, make_drafts(TEXTS))], one_rubric(RUBRIC), threads=1))
        assert len(server.asked) == 3
        judge.close()
        layer.close()
