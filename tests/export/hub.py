"""A loopback hub: enough of its HTTP API for `HfApi.create_repo` and `upload_folder`, with what it was sent."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """A server at `url`; use it as a context."""

    def __init__(self) -> None:
        self.repositories: dict[str, bool] = {}
        """Kind and name to whether it is private."""
        self.files: dict[str, dict[str, bytes]] = {}
        """Kind and name to path to content."""
        self.tokens: set[str] = set()
        self.refuse: int | None = None
        """A status with which every commit is refused."""
        self._blobs: dict[str, bytes] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub._get(self)

            def do_POST(self) -> None:
                hub._post(self)

            def do_PUT(self) -> None:
                hub._blobs[self.path.rpartition("/")[2]] = hub._body(self)
                hub._answer(self, 200, {})

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @staticmethod
    def _body(request: BaseHTTPRequestHandler) -> bytes:
        return request.rfile.read(int(request.headers.get("Content-Length", 0)))

    def _answer(self, request: BaseHTTPRequestHandler, status: int, value: Any, **headers: str) -> None:
        content = json.dumps(value).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        for name, each in headers.items():
            request.send_header(name.replace("_", "-"), each)
        request.end_headers()
        request.wfile.write(content)

    def _get(self, request: BaseHTTPRequestHandler) -> None:
        self.tokens.add(str(request.headers.get("Authorization")))
        _, _, kind, *rest = request.path.partition("?")[0].split("/")
        name = f"{kind}/{'/'.join(rest[:2])}"
        if name not in self.repositories:
            self._answer(request, 404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return
        found = {
            "id": "/".join(rest[:2]),
            "private": self.repositories[name],
            "sha": "0" * 40,
            "siblings": [],
            "tags": [],
        }
        self._answer(request, 200, found)

    def _post(self, request: BaseHTTPRequestHandler) -> None:
        body = self._body(request)
        path = request.path.partition("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            owner = f"{asked['organization']}/" if asked.get("organization") else ""
            name = f"{asked.get('type') or 'model'}s/{owner}{asked['name']}"
            private = asked.get("private") or asked.get("visibility") == "private"
            self.repositories[name] = bool(private)
            self._answer(request, 200, {"url": f"{self.url}/{owner}{asked['name']}", "id": name})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = {each["oid"]: {"upload": {"href": f"{self.url}/blob/{each['oid']}"}} for each in objects}
            found = [{"oid": each["oid"], "size": each["size"], "actions": actions[each["oid"]]} for each in objects]
            self._answer(request, 200, {"transfer": "basic", "objects": found})
        elif "/preupload/" in path:
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for each in json.loads(body)["files"]
            ]
            self._answer(request, 200, {"files": files})
        elif "/commit/" in path:
            if self.refuse:
                self._answer(request, self.refuse, {"error": "You may not write here"})
                return
            name = "/".join(path.split("/")[2:5])
            self._commit(name, body)
            self._answer(
                request,
                200,
                {
                    "success": True,
                    "commitOid": "1" * 40,
                    "commitUrl": f"{self.url}/{name.partition('/')[2]}/commit/1",
                    "hookOutput": "",
                },
            )
        else:
            self._answer(request, 200, {"errors": [], "warnings": []})

    def _commit(self, name: str, body: bytes) -> None:
        files = self.files.setdefault(name, {})
        for line in body.splitlines():
            row = json.loads(line)
            if row["key"] == "file":
                files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            elif row["key"] == "lfsFile":
                files[row["value"]["path"]] = self._blobs[row["value"]["oid"]]
