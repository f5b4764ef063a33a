"""The budget: never exceeded by the server's own count, whatever is lost on the way; and it survives kills."""

import random
import threading
import time
from pathlib import Path

import pytest

from prefdistill.errors import BudgetError, PluginError, RunError
from prefdistill.protocols import Reply, RunContext, TeacherRequest
from prefdistill.records import Message, Usage
from prefdistill.requests import layer as requests_module
from prefdistill.requests.layer import RequestLayer
from prefdistill.requests.spending import Budget, Ledger
from prefdistill.teachers.openai import OpenAITeacher
from tests.loopback import Loopback, Served, refused

PRICE = {"input": 2.0, "output": 10.0}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(requests_module, "BACK_OFF_SECONDS", 0.01)


def opened(url, budget, tmp_path, **options):
    layer = RequestLayer(tmp_path / "cache", budget=budget, ledger=tmp_path / "spending.jsonl")
    options = {"usd_per_million": PRICE, "timeout_seconds": 0.5, **options}
    teacher = OpenAITeacher(model="m", base_url=url, **options)
    teacher.open(RunContext(directory=tmp_path, seed=0, requests=layer))
    return teacher, layer


def requests(count, tokens=200):
    return [TeacherRequest(str(n), (Message(role="user", content=f"number {n}"),), tokens) for n in range(count)]


def ask_all(teacher, layer, asked):
    """Return the replies that came before the budget was reached, and the error if it was."""
    found = []
    try:
        for reply in teacher.replies(asked):
            found.append(reply)
    except BudgetError as problem:
        return found, problem
    finally:
        teacher.close()
        layer.close()
    return found, None


def billed(server):
    """What the server's own count comes to: calls, tokens, US dollars."""
    prompt, completion = sum(each[1] for each in server.worked), sum(each[2] for each in server.worked)
    usd = (prompt * PRICE["input"] + completion * PRICE["output"]) / 1e6
    return {"calls": len(server.worked), "tokens": prompt + completion, "usd": usd}


def careless(seed):
    """Use as many tokens as a request allows, and lose many replies on the way."""
    draw, lock = random.Random(seed), threading.Lock()

    def answer(body):
        with lock:
            luck, completion = draw.random(), draw.randint(1, body["max_completion_tokens"])
        prompt = sum(len(each["content"].encode()) for each in body["messages"]) + 20
        used = {"prompt_tokens": prompt, "completion_tokens": completion}
        if luck < 0.1:
            return Served("x" * 300, broken="cut", **used)
        if luck < 0.2:
            return Served("x", broken="reset", **used)
        if luck < 0.23:
            return Served("x", delay_seconds=2, **used)
        if luck < 0.3:
            return refused(429, "slow down", retry_after_ms="20")
        if luck < 0.35:
            return refused(500, "oops")
        return Served("fine", **used)

    return answer


@pytest.mark.parametrize("concurrency", [1, 8, 64])
@pytest.mark.parametrize("budget", [{"usd": 0.06}, {"calls": 90}, {"tokens": 20_000}], ids=["usd", "calls", "tokens"])
def test_the_servers_own_count_never_exceeds_the_budget(tmp_path, concurrency, budget):
    ((unit, limit),) = budget.items()
    with Loopback(careless(concurrency), latency_seconds=0.002) as server:
        teacher, layer = opened(server.url, Budget(**budget), tmp_path, concurrency=concurrency)
        found, problem = ask_all(teacher, layer, requests(400))
        time.sleep(0.05)
        count = billed(server)
    assert problem is not None
    assert problem.exit_code == 3
    assert f"budget.{unit}" in str(problem)
    assert count[unit] <= limit
    assert count[unit] >= 0.2 * limit, "and it is used, not only reserved"
    assert sum(isinstance(reply, Reply) for reply in found) <= len(server.served)
    charged = Ledger(path=tmp_path / "spending.jsonl").charged
    assert {"calls": charged.calls, "tokens": charged.prompt_tokens, "usd": charged.usd}[unit] >= count[unit] - 1e-12


def test_a_raised_budget_goes_on_and_pays_nothing_twice(tmp_path):
    with Loopback(lambda body: "x", latency_seconds=0.002) as server:
        for limit in (10, 25, 40):
            teacher, layer = opened(server.url, Budget(calls=limit), tmp_path, concurrency=8)
            found, problem = ask_all(teacher, layer, requests(40))
            assert len(server.worked) == limit
            assert (problem is None) == (limit == 40)
        assert len(found) == 40
        assert len({each[0] for each in server.worked}) == 40


def test_cached_replies_cost_nothing(tmp_path):
    with Loopback(lambda body: "x") as server:
        ask_all(*opened(server.url, None, tmp_path), requests(5))
        found, problem = ask_all(*opened(server.url, Budget(calls=5), tmp_path), requests(5))
    assert problem is None
    assert len(found) == len(server.worked) == 5


def test_what_an_earlier_process_had_in_flight_stays_charged(tmp_path):
    path = tmp_path / "spending.jsonl"
    first = Ledger(Budget(tokens=100), path)
    settled = first.reserve(Usage(calls=1, prompt_tokens=40))
    first.settle(settled, Usage(calls=1, prompt_tokens=10))
    first.reserve(Usage(calls=1, prompt_tokens=50, completion_tokens=20))
    with path.open("a") as file:
        file.write('{"id": "torn')
    again = Ledger(Budget(tokens=100), path)  # the first process was killed
    assert (again.charged.calls, again.charged.prompt_tokens) == (2, 80)
    assert (again.held.calls, again.held.prompt_tokens) == (1, 70)
    with pytest.raises(BudgetError, match=r"100 tokens: 10 tokens spent, 70 tokens reserved .* up to 30 tokens"):
        again.reserve(Usage(calls=1, prompt_tokens=30))
    assert Ledger(Budget(tokens=110), path).reserve(Usage(calls=1, prompt_tokens=30))
    assert Ledger(path=path).charged.prompt_tokens == 110


def test_a_named_reservation_is_charged_once_and_settled_by_a_later_process(tmp_path):
    path = tmp_path / "spending.jsonl"
    first = Ledger(Budget(calls=1), path)
    first.leave(first.reserve(Usage(calls=1, prompt_tokens=9), "batch-1/a"))
    again = Ledger(Budget(calls=1), path)
    assert again.reserve(Usage(calls=1, prompt_tokens=9), "batch-1/a") == "batch-1/a"
    again.settle("batch-1/a", Usage(calls=1, prompt_tokens=4))
    assert (Ledger(path=path).charged, Ledger(path=path).held) == (Usage(calls=1, prompt_tokens=4), Usage())


def test_a_call_waits_for_others_in_flight_before_it_gives_up(tmp_path):
    ledger = Ledger(Budget(calls=1))
    name = ledger.reserve(Usage(calls=1))
    got = []
    thread = threading.Thread(target=lambda: got.append(ledger.reserve(Usage(calls=1))))
    thread.start()
    time.sleep(0.05)
    assert not got
    ledger.settle(name, Usage())  # refused: it cost nothing
    thread.join(2)
    assert got
    ledger.leave(got[0])
    with pytest.raises(BudgetError):
        ledger.reserve(Usage(calls=1))


def test_many_small_prices_add_up_without_rounding():
    ledger = Ledger(Budget(usd=0.02))
    for _ in range(100):
        ledger.settle(ledger.reserve(Usage(calls=1, usd=0.0002)), Usage(calls=1, usd=0.0002))
    with pytest.raises(BudgetError, match=r"budget.usd is \$0.02: \$0.02 spent, and the next call"):
        ledger.reserve(Usage(calls=1, usd=1e-9))


def test_a_broken_ledger_is_one_message(tmp_path):
    (tmp_path / "spending.jsonl").write_text('nonsense\n{"id": "a", "state": "settled", "usage": {}}\n')
    with pytest.raises(RunError, match=r"spending.jsonl:1: not a line of the ledger"):
        Ledger(path=tmp_path / "spending.jsonl")


def test_dollars_need_a_price(tmp_path):
    with pytest.raises(PluginError, match=r"budget.usd: the model `m` has no price.*`m: \{input"):
        opened("http://127.0.0.1:9/v1", Budget(usd=1), tmp_path, usd_per_million=None)
    with pytest.raises(PluginError, match="has a price for input alone"):
        opened("http://127.0.0.1:9/v1", Budget(usd=1), tmp_path, usd_per_million={"input": 1.0})
    opened("http://127.0.0.1:9/v1", Budget(tokens=1), tmp_path, usd_per_million=None)


def test_a_model_of_the_price_table_has_its_price(tmp_path, monkeypatch):
    (tmp_path / "prefdistill").mkdir()
    (tmp_path / "prefdistill" / "prices.yaml").write_text("m: {input: 3, output: 5}\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with Loopback(lambda body: "x") as server:
        teacher, layer = opened(server.url, Budget(usd=1), tmp_path, usd_per_million=None)
        ask_all(teacher, layer, requests(1))
    assert layer.usage.usd == pytest.approx((100 * 3 + 20 * 5) / 1e6)


def test_replies_without_usage_stay_charged_at_their_bound(tmp_path):
    def silent(body):
        text = Served("x")
        return Served(body={"choices": [{"message": {"content": text.text}, "finish_reason": "stop"}]})

    with Loopback(silent) as server:
        teacher, layer = opened(server.url, Budget(tokens=2000), tmp_path, concurrency=1)
        _, problem = ask_all(teacher, layer, requests(50))
    assert problem is not None
    assert 2 <= len(server.worked) <= 4
    assert any("gives no usage" in note for note in layer.notes)


def test_a_server_that_counts_more_than_a_bound_is_given_more_room(tmp_path):
    with Loopback(lambda body: Served("x", prompt_tokens=3000)) as server:
        teacher, layer = opened(server.url, Budget(tokens=10_000), tmp_path, concurrency=1)
        _, problem = ask_all(teacher, layer, requests(50))
    assert problem is not None
    assert billed(server)["tokens"] <= 10_000
    assert any("counted 3000 prompt" in note for note in layer.notes)


def test_an_empty_budget_is_refused():
    with pytest.raises(ValueError, match="at least one of usd, calls and tokens"):
        Budget()
    with pytest.raises(ValueError):
        Budget(usd=float("inf"))


def test_the_ledger_holds_no_text(tmp_path):
    with Loopback(lambda body: "a secret reply") as server:
        ask_all(*opened(server.url, None, tmp_path), requests(2))
    text = Path(tmp_path / "spending.jsonl").read_text()
    assert "secret" not in text
    assert "number" not in text
    assert text.count('"reserved"') == text.count('"settled"') == 2
