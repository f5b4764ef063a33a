"""An OpenAI-compatible server with files and batches on this machine, which can go wrong in every way a batch can.

    with BatchServer(judging_by(len)) as server:
        … base_url=server.url, batch=True …
    assert len(server.batches) == 2

`answer` decides what a request gets, as in `tests.loopback`; `turn` decides what becomes of a whole batch.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.loopback import Answer, Served, completion


@dataclass
class Turn:
    """What becomes of one batch."""

    polls: int = 1
    """How often it is asked after until it ends."""
    status: str = "completed"
    answered: float = 1.0
    """Share of its requests that are answered before it ends."""
    errors: list[dict[str, Any]] = field(default_factory=list)
    """Of a batch that fails as a whole."""
    spoil: Callable[[list[str]], list[str]] = lambda lines: lines
    """What happens to the lines of the output file."""
    lose_reply: bool = False
    """Make the batch and break the connection instead of saying so."""


class BatchServer:
    """The server, running while the `with` block does; what it made survives a client that is killed."""

    def __init__(self, answer: Answer, turn: Callable[[int], Turn] = lambda number: Turn()) -> None:
        self.answer, self.turn = answer, turn
        self.files: dict[str, bytes] = {}
        self.uploads = 0
        self.deleted: list[str] = []
        self.batches: dict[str, dict[str, Any]] = {}
        self.polls: dict[str, int] = {}
        self.served: list[dict[str, Any]] = []
        """Bodies that were answered inside a batch."""
        self.live: list[dict[str, Any]] = []
        """Bodies of live calls."""
        self.requests: list[str] = []
        """Method and path of everything."""
        self.tokens = [0, 0]
        self.refuse: Callable[[str, str], tuple[int, str] | None] = lambda method, path: None
        """Status and message for a request that should fail as such."""
        self._lock = threading.RLock()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> BatchServer:
        handler = type("Handler", (_Handler,), {"ours": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def lines(self, number: int) -> list[dict[str, Any]]:
        """The requests of the batch made as number `number`, from 0."""
        batch = list(self.batches.values())[number]
        return [json.loads(line) for line in self._inputs[batch["id"]].splitlines()]

    _inputs: dict[str, str]

    def upload(self, data: bytes) -> dict[str, Any]:
        file_id = f"file-{self.uploads}"
        self.uploads += 1
        self.files[file_id] = data
        return {
            "id": file_id,
            "object": "file",
            "bytes": len(data),
            "created_at": 0,
            "filename": "x",
            "purpose": "batch",
        }

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        number = len(self.batches)
        batch_id = f"batch_{number}"
        self.batches[batch_id] = {
            "id": batch_id,
            "object": "batch",
            "endpoint": body["endpoint"],
            "completion_window": body["completion_window"],
            "input_file_id": body["input_file_id"],
            "metadata": body.get("metadata"),
            "created_at": number,
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }
        self._inputs = {**getattr(self, "_inputs", {}), batch_id: self.files[body["input_file_id"]].decode()}
        return self.batches[batch_id]

    def poll(self, batch_id: str) -> dict[str, Any]:
        batch, number = self.batches[batch_id], int(batch_id.split("_")[1])
        turn = self.turn(number)
        self.polls[batch_id] = self.polls.get(batch_id, 0) + 1
        if batch["status"] in ("validating", "in_progress"):
            if self.polls[batch_id] >= turn.polls:
                self._end(batch, turn)
            else:
                batch["status"] = "in_progress"
        return batch

    def _end(self, batch: dict[str, Any], turn: Turn) -> None:
        rows = [json.loads(line) for line in self._inputs[batch["id"]].splitlines()]
        batch["status"] = turn.status
        if turn.errors:
            batch["errors"] = {"object": "list", "data": turn.errors}
            return
        output, errors = [], []
        for number, row in enumerate(rows):
            if number >= turn.answered * len(rows):
                said = {"code": "batch_expired", "message": "This request could not be executed in time."}
                errors.append({"id": "r", "custom_id": row["custom_id"], "response": None, "error": said})
                continue
            given = self.answer(row["body"])
            served = Served(given) if isinstance(given, str) else given
            content = served.body if served.body is not None else completion(row["body"], served)
            response = {"status_code": served.status, "request_id": "q", "body": content}
            line = {"id": "r", "custom_id": row["custom_id"], "response": response, "error": None}
            (output if served.status == 200 else errors).append(line)
            if served.status == 200:
                self.served.append(row["body"])
                self.tokens[0] += served.prompt_tokens
                self.tokens[1] += served.completion_tokens
        counts = {"total": len(rows), "completed": len(output), "failed": len(errors)}
        batch["request_counts"] = counts
        lines = turn.spoil([json.dumps(line) for line in reversed(output)])  # in another order than they came
        for name, found in (("output_file_id", lines), ("error_file_id", [json.dumps(line) for line in errors])):
            if found:
                batch[name] = f"file-{name}-{batch['id']}"
                self.files[batch[name]] = ("\n".join(found) + "\n").encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: without this every reply takes 40 ms
    ours: BatchServer

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("content-length", 0)))
        with self.ours._lock:
            if self._refused():
                return
            if self.path == "/v1/files":
                self._send(self.ours.upload(_uploaded(data, self.headers["content-type"])))
            elif self.path == "/v1/batches":
                turn = self.ours.turn(len(self.ours.batches))
                made = self.ours.create(json.loads(data))
                if turn.lose_reply:
                    self.close_connection = True
                    self.connection.close()
                    return
                self._send(made)
            else:
                body = json.loads(data)
                given = self.ours.answer(body)
                served = Served(given) if isinstance(given, str) else given
                self.ours.live.append(body)
                self._send(served.body if served.body is not None else completion(body, served), served.status)

    def do_GET(self) -> None:
        with self.ours._lock:
            if self._refused():
                return
            path = self.path.split("?")[0]
            if path == "/v1/batches":
                newest = list(self.ours.batches.values())[::-1]
                self._send({"object": "list", "data": newest, "has_more": False})
            elif path.startswith("/v1/batches/"):
                self._send(self.ours.poll(path.rsplit("/", 1)[1]))
            elif (content := self.ours.files.get(path.split("/")[3])) is not None:
                self._send(content)
            else:
                self._send({"error": {"message": "No such File object"}}, 404)

    def do_DELETE(self) -> None:
        with self.ours._lock:
            if self._refused():
                return
            file_id = self.path.rsplit("/", 1)[1]
            self.ours.files.pop(file_id, None)
            self.ours.deleted.append(file_id)
            self._send({"id": file_id, "object": "file", "deleted": True})

    def _refused(self) -> bool:
        self.ours.requests.append(f"{self.command} {self.path}")
        refusal = self.ours.refuse(self.command, self.path)
        if refusal is not None:
            self._send({"error": {"message": refusal[1]}}, refusal[0])
        return refusal is not None

    def _send(self, content: Any, status: int = 200) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def _uploaded(data: bytes, content_type: str) -> bytes:
    """The file of a multipart form."""
    boundary = re.search(r"boundary=(.+)", content_type).group(1).strip('"').encode()
    for part in data.split(b"--" + boundary):
        head, _, body = part.partition(b"\r\n\r\n")
        if b'name="file"' in head:
            return body.removesuffix(b"\r\n")
    raise ValueError("no file in the form")
