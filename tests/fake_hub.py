"""A hub on this machine: as much of its protocol as saving, finding and fetching files takes."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
from huggingface_hub import constants

Files = dict[str, bytes]
HUB = "https://huggingface.co"  # addresses of other hosts are refused


@dataclass
class FakeHub:
    """``repositories``: by id and revision the files; ``asked``: every request, method and path."""

    repositories: dict[str, dict[str, Files]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    claimed: dict[str, int] = field(default_factory=dict)  # sizes that are not those of the files
    private: dict[str, bool] = field(default_factory=dict)

    @property
    def fetched(self) -> set[str]:
        """The files whose contents were sent."""
        return {a.rpartition("/")[2] for a in self.asked if a.startswith("GET") and "resolve" in a}


@contextmanager
def running(monkeypatch, cache) -> Iterator[FakeHub]:
    """The hub of ``huggingface_hub`` for a while; what it gives is kept in the folder ``cache``."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    huggingface_hub.utils.disable_progress_bars()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def commit_of(files: Files) -> str:
    """Forty hexadecimal digits."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._get(body=False)

    def do_GET(self) -> None:
        self._get(body=True)

    def do_POST(self) -> None:
        path = self._noted()
        sent = self._sent()
        if path == "/api/repos/create":
            given = json.loads(sent)
            name = f"{given.get('organization') or 'me'}/{given['name']}"
            self.hub.repositories.setdefault(name, {"main": {}})
            self.hub.private[name] = given.get("visibility") == "private"
            return self._json({"url": f"{HUB}/{name}", "id": name, "name": name})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        name, action, revision = re.fullmatch(
            r"/api/models/([^/]+/[^/]+)/(preupload|commit)/(.+)", path
        ).groups()
        if action == "preupload":
            listed = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                      for f in json.loads(sent)["files"]]
            return self._json({"files": listed})
        branches = self.hub.repositories[name]
        files = dict(branches.get(revision, {}))
        for line in sent.decode().splitlines():
            step = json.loads(line)
            value = step["value"]
            if step["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif step["key"] == "deletedFile":
                del files[value["path"]]
        branches[revision] = files
        commit = commit_of(files)
        self._json({"commitOid": commit, "commitUrl": f"{HUB}/{name}/commit/{commit}"})

    def _get(self, body: bool) -> None:
        path = self._noted()
        asked = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?/?", path)
        resolved = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not (asked or resolved):
            return self._refuse(404, "NotFound")
        name, *rest = (asked or resolved).groups()
        branches = self.hub.repositories.get(name)
        if branches is None:
            return self._refuse(404, "RepoNotFound")
        revision = (rest[1] if asked else rest[0]) or "main"
        by_commit = {commit_of(files): files for files in branches.values()}
        files = branches.get(revision, by_commit.get(revision))
        if files is None:
            return self._refuse(404, "RevisionNotFound")
        if asked and rest[0] == "tree":
            return self._json([
                {"type": "file", "path": p, "size": self._size(p, f), "oid": _etag(f)}
                for p, f in files.items()
            ])
        if asked:
            siblings = [{"rfilename": path} for path in files]
            return self._json({"id": name, "sha": commit_of(files), "siblings": siblings})
        if rest[1] not in files:
            return self._refuse(404, "EntryNotFound")
        content = files[rest[1]]
        self.send_response(200)
        self.send_header("ETag", f'"{_etag(content)}"')
        self.send_header("X-Repo-Commit", commit_of(files))
        self.send_header("Content-Length", str(self._size(rest[1], content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _size(self, path: str, content: bytes) -> int:
        return self.hub.claimed.get(path, len(content))

    def _noted(self) -> str:
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        return path

    def _sent(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def _json(self, values: object) -> None:
        body = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
