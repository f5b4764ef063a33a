"""Judging through the Batch API: the same verdicts as live, each request paid once, whatever becomes of a batch."""

import json
import logging
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from prefdistill.batches import api, desk, door
from prefdistill.batches.notes import BatchNote
from prefdistill.errors import BudgetError, PluginError
from prefdistill.judges.rubric import RubricJudge
from prefdistill.passes import judge_in_passes
from prefdistill.protocols import RunContext, TeacherRequest
from prefdistill.records import Failure, Message, Usage, Verdict
from prefdistill.requests.calls import Answer
from prefdistill.requests.layer import EndpointError, RequestLayer
from prefdistill.requests.spending import Budget
from prefdistill.run import RowFile
from prefdistill.teachers.openai import OpenAITeacher
from tests.batch_server import BatchServer, Turn
from tests.loopback import Served, judging_by, refused
from tests.making import ASKED, failed, make_drafts, make_prompt, make_rubric, one_rubric, valued

PRICE = {"input": 1.0, "output": 10.0}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(desk, "FIRST_POLL_SECONDS", 0.01)
    monkeypatch.setattr(desk, "LONGEST_POLL_SECONDS", 0.02)
    monkeypatch.setattr(api, "FIRST_WAIT_SECONDS", 0.05)


class TwoSteps:
    """A judge that asks about each draft, and then whether it was sure."""

    def __init__(self, *teachers):
        self.teachers = teachers

    def judge(self, prompt, drafts, rubric):
        judgements, failures = [], []
        found = [self._values(teacher, drafts) for teacher in self.teachers]
        for draft in drafts:
            replies = [each[draft.id] for each in found]
            lost = [reply for reply in replies if isinstance(reply, Failure)]
            if lost:
                failures.append(failed(draft.id).model_copy(update={"kind": lost[0].kind, "message": lost[0].message}))
            else:
                usage = sum((usage for _, usage in replies), Usage())
                value = sum(value for value, _ in replies) / len(replies)
                judgements.append(valued(draft, value).model_copy(update={"usage": usage}))
        return Verdict(prompt_id=prompt.id, judgements=tuple(judgements), failures=tuple(failures))

    def _values(self, teacher, drafts):
        first = self._ask(teacher, {draft.id: f"How long is {draft.completion}?" for draft in drafts})
        sure = {
            draft.id: f"Sure that {draft.completion} has {first[draft.id].text}?"
            for draft in drafts
            if not isinstance(first[draft.id], Failure)
        }
        second = self._ask(teacher, sure)
        lost = {key: reply for key, reply in {**first, **second}.items() if isinstance(reply, Failure)}
        known = {key: (float(first[key].text), first[key].usage + second[key].usage) for key in sure if key not in lost}
        return {**known, **lost}

    def _ask(self, teacher, texts):
        requests = [TeacherRequest(key, (Message(role="user", content=text),), 10) for key, text in texts.items()]
        return {reply.key: reply for reply in teacher.replies(requests)}


def measure(body):
    """A rule: how many characters the draft has; to the second question, yes."""
    text = body["messages"][-1]["content"]
    return "yes" if text.startswith("Sure") else str(len(text.split()[-1]) - 1)


class Room:
    """A run folder with a teacher in it, and groups to judge."""

    def __init__(self, folder: Path, url: str, groups=3, ledger=None, **options):
        self.folder = folder
        self.layer = RequestLayer(cache=folder / "cache", ledger=ledger)
        self.context = RunContext(directory=folder, seed=0, requests=self.layer, progress=self.progress)
        self.teacher = self.open(url, **options)
        self.seen = []
        self.groups = [
            (make_prompt(f"p{n}"), make_drafts([f"{'a' * (n + 1)}", f"{'b' * (n + 5)}"], f"p{n}"))
            for n in range(groups)
        ]

    def open(self, url, **options):
        options = {"model": "m", "batch": True, "usd_per_million": PRICE, "deadline_seconds": 1, **options}
        teacher = OpenAITeacher(base_url=url, **options)
        teacher.open(self.context)
        return teacher

    def progress(self, *call):
        self.seen.append(call)

    def judge(self, judge=None, batches=True):
        shop = SimpleNamespace(context=self.context, rubrics=one_rubric(make_rubric(ASKED)), batches=batches)
        found = judge_in_passes(shop, judge or TwoSteps(self.teacher), iter(self.groups))
        return {verdict.prompt_id: verdict for verdict in found}

    def notes(self):
        return list(RowFile(self.folder / "batches.jsonl", BatchNote).read().values())

    def close(self):
        self.teacher.close()
        self.layer.close()


def values(verdicts):
    return {each.draft_id: each.value for verdict in verdicts.values() for each in verdict.judgements}


def test_two_batches_give_what_live_calls_give_at_half_the_price(tmp_path):
    with BatchServer(measure) as server:
        live = Room(tmp_path / "live", server.url, batch=False).judge()
        assert len(server.live) == 12
        assert not server.batches
        room = Room(tmp_path / "batch", server.url)
        found = room.judge()
        assert len(server.live) == 12
        assert [len(server.lines(number)) for number in (0, 1)] == [6, 6]
        assert list(server.batches) == ["batch_0", "batch_1"]
        first = server.lines(0)[0]
    assert first["method"] == "POST"
    assert first["url"] == "/v1/chat/completions"
    assert first["body"]["model"] == "m"
    assert first["body"]["messages"][0]["content"].startswith("How long")
    assert values(found) == values(live)
    spent = sum((verdict.usage.usd for verdict in live.values()), 0.0)
    assert sum(verdict.usage.usd for verdict in found.values()) == pytest.approx(spent / 2)
    assert {verdict.usage.calls for verdict in found.values()} == {4}
    assert room.layer.usage.usd == pytest.approx(spent / 2)
    assert (room.layer.usage.calls, room.layer.usage.prompt_tokens) == (12, 1200)
    assert server.files == {}, "what is in the request cache is deleted at the server"
    stages = [note.state for note in room.notes()]
    assert stages == ["sending", "uploaded", "created", "settled"] * 2


def test_another_run_and_a_second_stage_are_answered_by_the_request_cache(tmp_path):
    with BatchServer(measure) as server:
        room = Room(tmp_path, server.url)
        first = room.judge()
        again = room.judge()
        assert len(server.batches) == 2
    assert values(again) == values(first)
    assert {(verdict.usage.calls, verdict.usage.cached) for verdict in again.values()} == {(0, 4)}


def test_equal_calls_of_two_groups_are_sent_and_paid_once(tmp_path):
    with BatchServer(measure) as server:
        room = Room(tmp_path, server.url, groups=1)
        (_, drafts), other = room.groups[0], make_prompt("q")
        room.groups.append(
            (other, [draft.model_copy(update={"prompt_id": "q", "id": f"q/{n}"}) for n, draft in enumerate(drafts)])
        )
        found = room.judge()
        assert len(server.served) == 4
    assert sum(verdict.usage.calls for verdict in found.values()) == 4
    assert sum(verdict.usage.cached for verdict in found.values()) == 4


def test_results_may_come_in_any_order_and_with_broken_lines(tmp_path):
    def spoil(lines):
        return ["", '{"custom_id": ', json.dumps({"custom_id": "nobody's", "response": None}), *lines[1:], "[]"]

    with BatchServer(measure, lambda number: Turn(spoil=spoil) if number == 0 else Turn()) as server:
        found = Room(tmp_path, server.url).judge()
        sizes = [len(server.lines(number)) for number in range(len(server.batches))]
    assert sizes == [6, 5, 2], "the lost line is asked again beside the other prompts' second questions"
    assert values(found) == {draft: value for draft, value in values(found).items() if value}
    assert len(values(found)) == 6


def test_an_expired_batch_keeps_what_was_answered_and_the_rest_is_sent_again(tmp_path):
    turns = {0: Turn(status="expired", answered=0.5)}
    with BatchServer(measure, lambda number: turns.get(number, Turn())) as server:
        found = Room(tmp_path, server.url).judge()
        asked = [line["custom_id"] for number in range(len(server.batches)) for line in server.lines(number)]
    assert len(values(found)) == 6
    assert len(server.served) == 12, "nothing that was answered is paid twice"
    assert len(asked) == 15


def test_what_expires_again_and_again_becomes_a_failure_that_is_owed(tmp_path):
    with BatchServer(measure, lambda number: Turn(status="expired", answered=0.5 if number == 0 else 0.0)) as server:
        room = Room(tmp_path, server.url)
        found = room.judge()
        assert len(server.batches) <= 2 * door.ATTEMPTS
    failures = [failure for verdict in found.values() for failure in verdict.failures]
    assert len(failures) == 6
    assert {failure.kind for failure in failures} == {"provider"}
    assert "batch_expired" in failures[0].message
    assert "3 attempts" in failures[0].message
    assert all(verdict.owed for verdict in found.values() if verdict.failures)
    assert not values(found)


def test_a_request_refused_in_its_batch_fails_alone_and_at_once(tmp_path):
    def answer(body):
        return (
            refused(400, "maximum context length exceeded")
            if "aaa" in body["messages"][0]["content"]
            else measure(body)
        )

    with BatchServer(answer) as server:
        found = Room(tmp_path, server.url).judge()
        assert len(server.batches) == 2
    (failure,) = [failure for verdict in found.values() for failure in verdict.failures]
    assert "maximum context length" in failure.message
    assert len(values(found)) == 5


def test_a_parameter_refused_in_a_batch_is_left_out_of_the_next(tmp_path):
    def answer(body):
        if "temperature" in body:
            return refused(400, "Unsupported value: 'temperature' does not support 0.5 with this model.")
        if "max_completion_tokens" in body:
            return refused(400, "Unrecognized request argument supplied: max_completion_tokens")
        return measure(body)

    with BatchServer(answer) as server:
        room = Room(tmp_path, server.url, temperature=0.5)
        found = room.judge()
        sizes = [len(server.lines(number)) for number in range(len(server.batches))]
    assert len(values(found)) == 6
    assert sizes == [6, 6, 6, 6], "temperature, max_completion_tokens, first questions, second questions"
    assert any("refused temperature" in note for note in room.layer.notes)


def test_nothing_but_refusals_stops_the_stage_with_what_to_do(tmp_path):
    with (
        BatchServer(lambda body: refused(401, "Incorrect API key provided")) as server,
        pytest.raises(EndpointError, match="api_key_env"),
    ):
        Room(tmp_path, server.url).judge()


def test_a_batch_that_fails_as_a_whole_says_why(tmp_path):
    errors = [{"code": "billing_hard_limit_reached", "message": "Billing hard limit has been reached.", "line": None}]
    with BatchServer(measure, lambda number: Turn(status="failed", errors=errors)) as server:
        room = Room(tmp_path, server.url)
        with pytest.raises(EndpointError, match="Billing hard limit") as caught:
            room.judge()
        assert "batch_0" in str(caught.value)
        assert len(server.batches) == 1
        room.close()
        server.turn = lambda number: Turn()
        assert len(values(Room(tmp_path, server.url).judge())) == 6, "a failed batch is not waited for again"


def test_a_batch_refused_for_one_line_is_sent_again_without_it(tmp_path):
    errors = [{"code": "invalid", "message": "this line is invalid", "line": 2, "param": None}]
    turns = {0: Turn(status="failed", errors=errors)}
    with BatchServer(measure, lambda number: turns.get(number, Turn())) as server:
        found = Room(tmp_path, server.url).judge()
        sizes = [len(server.lines(number)) for number in range(len(server.batches))]
    assert sizes == [6, 5, 5]
    assert len(values(found)) == 5
    (failure,) = [failure for verdict in found.values() for failure in verdict.failures]
    assert "this line is invalid" in failure.message


def test_an_account_with_a_small_queue_gets_smaller_batches_one_after_the_other(tmp_path):
    with BatchServer(measure) as server:
        errors = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached for m.", "line": None}]

        def turn(number):
            waiting = sum(batch["status"] in ("validating", "in_progress") for batch in server.batches.values())
            full = len(server.lines(number)) > 3 or waiting > 1 if number < len(server.batches) else False
            return Turn(status="failed", errors=errors) if full else Turn()

        server.turn = turn
        found = Room(tmp_path, server.url).judge()
        sizes = [len(server.lines(number)) for number in range(len(server.batches))]
    assert len(values(found)) == 6
    assert len(server.served) == 12
    assert max(sizes[1:]) <= 3


def test_more_requests_than_a_file_may_hold_make_several_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(door, "MOST_REQUESTS", 4)
    with BatchServer(measure) as server:
        found = Room(tmp_path / "a", server.url, groups=5).judge()
        assert [len(server.lines(number)) for number in range(len(server.batches))] == [4, 4, 2, 4, 4, 2]
    monkeypatch.setattr(door, "MOST_BYTES", 500)
    with BatchServer(measure) as server:
        by_size = Room(tmp_path / "b", server.url, groups=5).judge()
        sizes = [len(content.encode()) for content in server._inputs.values()]
    assert max(sizes) <= 500
    assert values(found) == values(by_size)
    assert len(values(found)) == 10


def test_a_cancelled_batch_keeps_its_replies_and_stops_the_stage(tmp_path):
    with BatchServer(measure, lambda number: Turn(status="cancelled", answered=0.5)) as server:
        room = Room(tmp_path, server.url)
        with pytest.raises(EndpointError, match="cancelled at the server; its 3 replies are kept"):
            room.judge()
        room.close()
        server.turn = lambda number: Turn()
        assert len(values(Room(tmp_path, server.url).judge())) == 6
        assert len(server.lines(1)) == 3 + 2, "the lost requests, and the second questions of the prompt that was done"
        assert len(server.served) == 12


class Killed(BaseException):
    """Stands for a SIGKILL: nothing after it runs."""


def dies(*_):
    raise Killed


@pytest.mark.parametrize("moment", ["upload", "create", "created", "batch", "lines", "settled"])
def test_a_killed_process_finds_its_batch_again_and_pays_nothing_twice(tmp_path, monkeypatch, moment):
    with BatchServer(measure, lambda number: Turn(polls=2)) as server:
        with monkeypatch.context() as patch:
            if moment in ("created", "settled"):
                note = door.BatchDoor._note

                def before(self, state, name, **given):
                    if state == moment:
                        raise Killed
                    note(self, state, name, **given)

                patch.setattr(door.BatchDoor, "_note", before)
            else:
                patch.setattr(api.BatchApi, moment, dies)
            killed = Room(tmp_path, server.url)
            with pytest.raises(Killed):
                killed.judge()
            killed.close()
        room = Room(tmp_path, server.url)
        found = room.judge()
        assert len(server.served) == 12
        assert len(server.batches) == 2
    assert len(values(found)) == 6
    assert server.files == {} or moment == "upload"
    assert not room.layer.memory["batches"].notes.outstanding(server.url, "m")


def test_a_batch_whose_creation_was_not_heard_of_is_made_once(tmp_path):
    with BatchServer(measure, lambda number: Turn(lose_reply=number == 0)) as server:
        found = Room(tmp_path, server.url).judge()
        assert len(server.batches) == 2
    assert len(values(found)) == 6


def test_a_server_in_trouble_is_asked_again_and_one_without_batches_named(tmp_path):
    with BatchServer(measure) as server:
        troubles = iter([(500, "oops"), (429, "slow down"), (503, "later")] + [None] * 100)
        server.refuse = lambda method, path: next(troubles)
        assert len(values(Room(tmp_path / "a", server.url, deadline_seconds=30).judge())) == 6
        server.refuse = lambda method, path: (404, "no such route") if path == "/v1/files" else None
        with pytest.raises(EndpointError, match=r"teacher\.batch: false"):
            Room(tmp_path / "b", server.url).judge()


def test_a_server_that_stays_away_loses_nothing(tmp_path):
    with BatchServer(measure, lambda number: Turn(polls=3)) as server:
        room = Room(tmp_path, server.url)
        server.refuse = lambda method, path: (503, "down") if path.startswith("/v1/batches/") else None
        with pytest.raises(EndpointError, match="picked up by the next run"):
            room.judge()
        room.close()
        server.refuse = lambda method, path: None
        assert len(values(Room(tmp_path, server.url).judge())) == 6
        assert len(server.batches) == 2


def test_interrupting_says_that_the_batch_goes_on(tmp_path, monkeypatch, caplog):
    def interrupt(seconds):
        raise KeyboardInterrupt

    with BatchServer(measure, lambda number: Turn(polls=2)) as server:
        room = Room(tmp_path, server.url)
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(desk, "time", SimpleNamespace(sleep=interrupt))
            with pytest.raises(KeyboardInterrupt):
                room.judge()
        room.close()
        assert "batch batch_0 goes on at the server; run the same command again" in caplog.text
        found = Room(tmp_path, server.url).judge()
        assert len(server.batches) == 2
    assert len(values(found)) == 6


def test_progress_names_the_batch_and_how_far_it_is(tmp_path):
    with BatchServer(measure, lambda number: Turn(polls=3)) as server:
        room = Room(tmp_path, server.url)
        room.judge()
    assert ("batch", 0, 6, "batch batch_0: 0 of 6 done") in room.seen
    assert room.seen[-1][:3] == ("batch", 1, 1)


def test_a_panel_may_have_one_member_in_batches_and_one_live(tmp_path):
    with BatchServer(measure) as server:
        room = Room(tmp_path, server.url)
        other = room.open(server.url, model="live", batch=False)
        found = room.judge(TwoSteps(room.teacher, other))
        assert len(server.live) == 12
        assert len(server.served) == 12
        assert {body["model"] for body in server.live} == {"live"}
    assert len(values(found)) == 6


def test_writing_and_previews_are_live(tmp_path):
    with BatchServer(measure) as server:
        room = Room(tmp_path, server.url)
        room.judge(batches=False)
        assert len(server.live) == 12
        request = TeacherRequest("k", (Message(role="user", content="How long is it?"),), 10)
        ((_),) = room.teacher.replies([request])
        assert len(server.live) == 13
        assert not server.batches


def test_a_sampler_behind_the_groups_calls_the_same_teacher_live(tmp_path):
    with BatchServer(measure) as server:
        room = Room(tmp_path, server.url)
        groups = room.groups

        def writing():
            for number, group in enumerate(groups):
                request = TeacherRequest("w", (Message(role="user", content=f"How long is draft{number}?"),), 10)
                list(room.teacher.replies([request]))
                yield group

        room.groups = writing()
        room.judge()
        assert len(server.live) == 3
        assert len(server.batches) == 2


def test_batches_need_the_request_cache(tmp_path):
    layer = RequestLayer(cache="off")
    teacher = OpenAITeacher(model="m", base_url="http://127.0.0.1:9/v1", batch=True)
    with pytest.raises(PluginError, match="request cache, which is off"):
        teacher.open(RunContext(directory=tmp_path, seed=0, requests=layer))


def test_batch_changes_no_verdict_so_it_is_operational():
    one, other = (OpenAITeacher(model="m", batch=batch) for batch in (True, False))
    assert one.identity() == other.identity()


def test_a_judge_that_catches_everything_is_still_set_aside(tmp_path):
    class Careful(TwoSteps):
        def judge(self, prompt, drafts, rubric):
            try:
                return super().judge(prompt, drafts, rubric)
            except Exception as problem:
                return (
                    Verdict(prompt_id=prompt.id, failures=tuple(failed(draft.id) for draft in drafts))
                    if problem
                    else None
                )

    with BatchServer(measure) as server:
        room = Room(tmp_path, server.url)
        assert len(values(room.judge(Careful(room.teacher)))) == 6


def test_refusals_empty_and_cut_replies_of_a_batch_are_failures_of_their_kind(tmp_path):
    def answer(body):
        text = body["messages"][0]["content"]
        if "aaa" in text:
            return Served(refusal="I would rather not.")
        return Served(text="", finish_reason="length") if "bbbbbbb" in text else measure(body)

    with BatchServer(answer) as server:
        found = Room(tmp_path, server.url).judge()
    kinds = sorted(failure.kind for verdict in found.values() for failure in verdict.failures)
    assert kinds == ["refusal", "truncated"]


def test_the_budget_splits_a_batch_rather_than_refusing_it_and_is_never_exceeded(tmp_path):
    with BatchServer(lambda body: Served(measure(body), prompt_tokens=20, completion_tokens=2)) as server:
        room = Room(tmp_path, server.url, groups=4)
        bound = room.teacher._endpoint.most(call_of(room), 0.5).usd
        layer = RequestLayer(
            cache=tmp_path / "other", budget=Budget(usd=4.5 * bound), ledger=tmp_path / "spending.jsonl"
        )
        room.layer, room.context = layer, replace(room.context, requests=layer)
        room.teacher = room.open(server.url)
        found = room.judge()
        first = [len(server.lines(number)) for number in range(len(server.batches))]
        server_usd = (server.tokens[0] * PRICE["input"] + server.tokens[1] * PRICE["output"]) * 0.5 / 1e6
    assert len(values(found)) == 8
    assert first[0] == 4
    assert sum(first) == 16, "no request twice"
    assert layer.ledger.charged.usd == pytest.approx(server_usd)
    assert server_usd < 4.5 * bound
    assert not layer.ledger.held.usd


def call_of(room):
    request = TeacherRequest("k", (Message(role="user", content="Sure that aaaaaaaaa has 9?"),), 10)
    return room.teacher._chat.call(request)


def test_a_budget_that_does_not_fit_one_request_stops_before_anything_is_sent(tmp_path):
    with BatchServer(measure) as server:
        room = Room(tmp_path, server.url)
        room.layer.ledger.budget = Budget(usd=1e-9)
        with pytest.raises(BudgetError, match=r"budget\.usd"):
            room.judge()
        assert not server.files
        assert not server.batches


def test_a_batch_found_again_is_not_charged_twice(tmp_path):
    ledger = tmp_path / "spending.jsonl"
    with BatchServer(measure, lambda number: Turn(polls=2)) as server:
        killed = Room(tmp_path, server.url, ledger=ledger)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(api.BatchApi, "lines", dies)
            with pytest.raises(Killed):
                killed.judge()
        bound = killed.layer.ledger.held
        assert bound.calls == 6
        killed.close()
        room = Room(tmp_path, server.url, ledger=ledger)
        assert room.layer.ledger.held.calls == 6
        room.judge()
    assert room.layer.ledger.held.calls == 0
    assert room.layer.ledger.charged.calls == 12
    assert room.layer.ledger.charged.usd == pytest.approx(12 * (100 * 1 + 20 * 10) * 0.5 / 1e6)


def test_what_another_process_is_making_is_waited_for(tmp_path):
    with BatchServer(measure) as server:
        room = Room(tmp_path, server.url, groups=1)
        other = RequestLayer(cache=tmp_path / "cache")
        call = room.teacher._chat.call(TeacherRequest("x", (Message(role="user", content="How long is a?"),), 10))
        assert other.cache.claim(call.cache_key)
        timer = threading.Timer(0.2, lambda: other.store(call, Answer(text="1", finish_reason="stop")))
        timer.start()
        found = room.judge()
        timer.join()
        asked = [body["messages"][0]["content"] for body in server.served]
    assert "How long is a?" not in asked
    assert len(values(found)) == 2


def test_what_another_process_left_undone_is_sent(tmp_path):
    with BatchServer(measure) as server:
        room = Room(tmp_path, server.url, groups=1)
        other = RequestLayer(cache=tmp_path / "cache")
        call = room.teacher._chat.call(TeacherRequest("x", (Message(role="user", content="How long is a?"),), 10))
        assert other.cache.claim(call.cache_key)
        timer = threading.Timer(0.2, other.close)
        timer.start()
        assert len(values(room.judge())) == 2
        timer.join()
        assert len(server.served) == 4


def test_a_finished_batch_that_nobody_asks_for_any_more_is_fetched_all_the_same(tmp_path):
    with BatchServer(measure, lambda number: Turn(polls=2)) as server:
        killed = Room(tmp_path, server.url)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(api.BatchApi, "batch", dies)
            with pytest.raises(Killed):
                killed.judge()
        killed.close()
        server.turn = lambda number: Turn(polls=1)
        room = Room(tmp_path, server.url)
        old, room.groups = room.groups, [(make_prompt("new"), make_drafts(["other"], "new"))]
        room.judge()
        assert len(server.served) == 6 + 2
        room.groups = old
        room.judge()
        assert len(server.served) == 6 + 2 + 6, "its replies were in the request cache"


def test_a_server_that_forgets_metadata_is_searched_by_file(tmp_path):
    with BatchServer(measure, lambda number: Turn(lose_reply=number == 0)) as server:
        create = server.create
        server.create = lambda body: create({**body, "metadata": None})
        assert len(values(Room(tmp_path, server.url).judge())) == 6
        assert len(server.batches) == 2


def test_a_file_that_cannot_be_deleted_is_said_and_harms_nothing(tmp_path):
    with BatchServer(measure) as server:
        server.refuse = lambda method, path: (403, "no") if method == "DELETE" else None
        room = Room(tmp_path, server.url)
        assert len(values(room.judge())) == 6
    assert any("could not delete file-0" in note for note in room.layer.notes)


def panel_judge(room, url, *batched, **options):
    members = [
        {"use": "openai", "model": f"m{number}", "base_url": url, "batch": batch, "usd_per_million": PRICE}
        for number, batch in enumerate(batched)
    ]
    judge = RubricJudge.model_validate({"panel": members, "reason": "none", **options})
    judge.open(room.context)
    return judge


@pytest.mark.parametrize("batched", [(True, True), (False, True), (True, False)])
def test_the_whole_panel_is_asked_in_one_pass(tmp_path, batched):
    with BatchServer(judging_by(lambda text: len(text) / 10)) as server:
        room = Room(tmp_path / "batch", server.url, batch=False)
        found = room.judge(panel_judge(room, server.url, *batched))
        models = [{line["body"]["model"] for line in server.lines(number)} for number in range(len(server.batches))]
        plain = Room(tmp_path / "live", server.url, batch=False)
        live = plain.judge(panel_judge(plain, server.url, False, False))
    wanted = [f"m{number}" for number, batch in enumerate(batched) if batch]
    assert models == [{name} for name in wanted] * 2, "scores, then the confirming comparisons"
    calls = [sum(verdict.usage.calls for verdict in each.values()) for each in (found, live)]
    assert calls[0] == calls[1] == 3 * (2 + 2) * 2
    usd = [sum(verdict.usage.usd for verdict in each.values()) for each in (found, live)]
    assert usd[0] == pytest.approx(usd[1] * (0.5 if all(batched) else 0.75))
    assert [without_cost(verdict) for verdict in found.values()] == [without_cost(live[key]) for key in found]


def without_cost(verdict):
    rows = [*verdict.judgements, *verdict.preferences]
    return [row.model_copy(update={"usage": Usage()}) for row in rows]


def test_a_server_that_was_never_reached_is_given_up_soon(tmp_path):
    with pytest.raises(EndpointError, match="start it, or check base_url"):
        Room(tmp_path, "http://127.0.0.1:9/v1", deadline_seconds=600).judge()


def killed_after_sending(folder, server):
    """Leave a batch at the server that the next process finds in its notes."""
    killed = Room(folder, server.url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api.BatchApi, "batch", dies)
        with pytest.raises(Killed):
            killed.judge()
    killed.close()


def test_a_batch_that_the_server_knows_no_more_is_sent_again(tmp_path, caplog):
    with BatchServer(measure) as server:
        killed_after_sending(tmp_path, server)
        gone = "/v1/batches/batch_0"
        server.refuse = lambda method, path: (404, "No batch found with id 'batch_0'.") if path == gone else None
        room = Room(tmp_path, server.url)
        assert len(values(room.judge())) == 6
        assert len(server.batches) == 3
    assert "knows of no such batch; its requests are sent again" in caplog.text
    assert not room.layer.memory["batches"].notes.outstanding(server.url, "m")


def test_results_that_the_server_has_removed_are_asked_for_again(tmp_path):
    with BatchServer(measure) as server:
        killed_after_sending(tmp_path, server)
        server.poll("batch_0")
        del server.files[server.batches["batch_0"]["output_file_id"]]
        room = Room(tmp_path, server.url)
        assert len(values(room.judge())) == 6
        assert len(server.batches) == 3


def test_an_old_batch_that_was_cancelled_stops_nobody_who_does_not_ask_for_it(tmp_path):
    with BatchServer(
        measure, lambda number: Turn(status="cancelled", answered=0.0) if number == 0 else Turn()
    ) as server:
        killed_after_sending(tmp_path, server)
        room = Room(tmp_path, server.url)
        room.groups = [(make_prompt("new"), make_drafts(["other"], "new"))]
        assert len(values(room.judge())) == 1
