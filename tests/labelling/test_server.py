"""The server answers this machine's own page and nobody else, and no request can break the labels."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefdistill.errors import RunError
from prefdistill.labelling import Choice, LabelServer, Session, pick_pairs
from tests.labelling.runs import SECRETS, make_run


class Client:
    """Requests to one server."""

    def __init__(self, server: LabelServer) -> None:
        self.server = server
        self.home = f"/{server.token}/"

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
            is_json = response.headers.get_content_type() == "application/json"
            return response.status, json.loads(content) if is_json else content.decode(), dict(response.headers)
        finally:
            connection.close()

    def state(self) -> Any:
        return self.send("GET", self.home + "state")[1]

    def post(self, name: str, body: Any, **headers: str) -> tuple[int, Any]:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"Content-Type": "application/json"} | {key.replace("_", "-"): each for key, each in headers.items()}
        return self.send("POST", self.home + name, sent, named)[:2]

    def answer(self, winner: str = "first", **headers: str) -> tuple[int, Any]:
        return self.post("answer", {"task": self.state()["task"]["id"], "answer": winner, "seconds": 1.0}, **headers)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    tasks = pick_pairs(Choice(make_run(tmp_path / "run"), count=20))
    with Session(tasks, tmp_path / "labels.jsonl", "ada") as session, LabelServer(session, "pair") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield Client(server)
        server.shutdown()
        thread.join(5)


def labels(tmp_path: Path) -> list[Any]:
    return [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]


def test_answers_skips_and_undo_over_http(client: Client, tmp_path: Path) -> None:
    status, state = client.answer("second")
    assert status == 200 and state["done"] == 1 and labels(tmp_path)[0]["winner"] == "second"
    assert client.post("skip", {"task": state["task"]["id"]})[1]["skipped"] == 1
    state = client.post("undo", {"task": client.state()["undo"]})[1]
    state = client.post("undo", {"task": state["undo"]})[1]
    assert state["done"] == 0 and labels(tmp_path) == []


def test_nothing_tells_where_a_text_comes_from_or_what_the_judge_thought(client: Client) -> None:
    names = ("", "page.css", "page.js")
    page = "".join(client.send("GET", client.home + name)[1] for name in names)
    for _ in range(client.state()["total"]):
        task = client.state()["task"]
        assert set(task) == {"id", "messages", "first", "second"}
        shown = json.dumps(task)
        assert not [word for word in SECRETS if word in shown]
        client.answer()
    assert not [word for word in ("near_tie", "confirmed", "margin:0.7", "draft_id", "prompt_id") if word in page]


def test_only_this_machine_is_listened_to(client: Client) -> None:
    assert client.server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "path", ["/", "/state", "/wrong/state", "//state", "/%2e%2e/state", "/" + "a" * 5000 + "/state"]
)
def test_without_the_token_there_is_nothing(client: Client, path: str) -> None:
    status, body, _ = client.send("GET", path)
    assert status == 404 and "Ada" not in json.dumps(body)
    assert client.send("POST", path, b"{}", {"Content-Type": "application/json"})[0] == 404


def test_paths_that_are_not_there_and_other_methods(client: Client, tmp_path: Path) -> None:
    for name in ("labels.jsonl", "../labels.jsonl", "page.html", "page.js/", "answer"):
        assert client.send("GET", client.home + name)[0] == 404
    assert client.post("nothing", {})[0] == 404
    assert client.send("PUT", client.home + "answer", b"{}")[0] == 501
    assert client.send("OPTIONS", client.home + "answer")[0] == 501  # no preflight is ever granted


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:{port}", ""]
)
def test_a_name_that_was_rebound_to_this_machine_is_refused(client: Client, host: str) -> None:
    named = {"Host": host.format(port=client.server.port)}
    for path in (client.home, client.home + "state"):
        status, body, _ = client.send("GET", path, headers=named)
        assert status == 421 and "this server answers as 127.0.0.1" in body["error"]
    assert client.answer(Host=named["Host"])[0] == 421
    assert client.state()["done"] == 0


def test_localhost_is_this_machine_too(client: Client) -> None:
    assert client.send("GET", client.home, headers={"Host": f"localhost:{client.server.port}"})[0] == 200


def test_what_another_page_sends_is_refused(client: Client) -> None:
    own = f"http://127.0.0.1:{client.server.port}"
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": own.replace("http", "https")},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # a page of another port of this machine
    ):
        assert client.answer(**headers)[0] == 403
        assert client.send("GET", client.home + "state", headers=headers)[0] == 403
    assert client.post("answer", b"task=1", Content_Type="text/plain")[0] == 415
    assert client.post("answer", b"task=1", Content_Type="application/x-www-form-urlencoded")[0] == 415
    assert client.state()["done"] == 0
    assert client.answer(Origin=own, **{"Sec-Fetch-Site": "same-origin"})[0] == 200


def test_every_reply_forbids_storing_framing_and_loading(client: Client) -> None:
    for path in (client.home, client.home + "page.js", client.home + "state", "/nothing"):
        headers = client.send("GET", path)[2]
        assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer" and headers["X-Frame-Options"] == "DENY"
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 9000,
        b'{"task": 1, "answer": "first"}',
        b'{"task": "x"}',
        b'{"answer": "first"}',
        b'{"task": "TASK", "answer": "best"}',
        b'{"task": "TASK", "answer": ["first"]}',
        b'{"task": "TASK", "answer": "first", "seconds": "1"}',
        b'{"task": "TASK", "answer": "first", "seconds": NaN}',
        b'{"task": "TASK", "answer": "first", "seconds": true}',
        b'{"task": "TASK", "answer": "first", "seconds": 1' + b"0" * 400 + b"}",
    ],
)
def test_malformed_bodies_label_nothing(client: Client, tmp_path: Path, body: bytes) -> None:
    status, reply = client.post("answer", body.replace(b"TASK", client.state()["task"]["id"].encode()))
    assert status == 400 and reply["error"]
    assert labels(tmp_path) == [] and client.state()["done"] == 0


def test_bodies_without_a_length_or_too_long_are_not_read(client: Client) -> None:
    named = {"Content-Type": "application/json"}
    for length, status in (("99999999", 413), ("-1", 411), ("x", 411), ("0000000000000000001", 413)):
        assert client.send("POST", client.home + "answer", b"{}", {**named, "Content-Length": length})[0] == status
    assert client.send("POST", client.home + "answer", None, {**named, "Transfer-Encoding": "chunked"})[0] == 411


def test_a_question_that_is_not_open_conflicts_and_says_what_is(client: Client, tmp_path: Path) -> None:
    seen = client.state()["task"]["id"]
    client.answer("first")
    for name, body in (("answer", {"answer": "second"}), ("skip", {}), ("undo", {"task": "nobody"})):
        status, state = client.post(name, {"task": seen, **body})
        assert status == 409 and state["notice"] and state["task"]["id"] == client.state()["task"]["id"]
    assert client.post("answer", {"task": "unknown", "answer": "first"})[0] == 409
    assert len(labels(tmp_path)) == 1


def test_many_presses_at_once_are_one_label(client: Client, tmp_path: Path) -> None:
    body = {"task": client.state()["task"]["id"], "answer": "first", "seconds": 1.0}
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(client.post("answer", body)[0])) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 24
    assert len(labels(tmp_path)) == 1


def test_two_tabs_that_race_label_every_pair_once(client: Client, tmp_path: Path) -> None:
    def label(winner: str) -> None:
        while client.state()["task"]:
            if task := client.state()["task"]:
                client.post("answer", {"task": task["id"], "answer": winner, "seconds": 0.1})

    threads = [threading.Thread(target=label, args=(winner,)) for winner in ("first", "second", "tie")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shown = [(row["first_id"], row["second_id"]) for row in labels(tmp_path)]
    assert len(shown) == len(set(shown)) == 22


def test_the_address_that_a_browser_is_started_with_works_once(client: Client) -> None:
    path = client.server.opening_url.removeprefix(f"http://127.0.0.1:{client.server.port}")
    assert client.server.token not in path
    status, _, headers = client.send("GET", path)
    assert status == 303 and headers["Location"] == client.home
    assert client.send("GET", path)[0] == 404


def test_a_file_that_cannot_be_written_is_told_to_the_page(client: Client, tmp_path: Path) -> None:
    with (tmp_path / "labels.jsonl").open("a") as file:
        file.write("\n")
    status, reply = client.answer()
    assert status == 500 and "changed by another program" in reply["error"]


def test_a_port_in_use_is_named(client: Client) -> None:
    with pytest.raises(RunError, match=r"cannot listen on 127\.0\.0\.1"):
        LabelServer(client.server.session, "pair", client.server.port)
