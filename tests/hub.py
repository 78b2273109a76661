"""A small Hub for tests, on 127.0.0.1: data sets and models in a folder, over the calls that pushing makes.

The user is `me`, a member of `team`; `others` belongs to somebody else. The token is `hf_test`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"


@dataclass
class Hub:
    """The data sets of the server, each a folder, and the requests so far."""

    folder: Path
    url: str = ""
    public: set[str] = field(default_factory=set)
    seen: list[str] = field(default_factory=list)
    """Method and path of each request."""
    refusing: int | None = None
    """A status that commits are answered with."""

    def add(self, repo: str, *, public: bool = False) -> Path:
        """Makes a data set; returns its folder."""
        (self.folder / repo).mkdir(parents=True)
        if public:
            self.public.add(repo)
        return self.folder / repo

    def files(self, repo: str) -> dict[str, bytes]:
        """Returns the files of a data set."""
        folder = self.folder / repo
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    @property
    def commits(self) -> list[str]:
        """The paths of the commits so far."""
        return [one for one in self.seen if "/commit/" in one]


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """Runs a hub while the context lasts."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        path = self._note()
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid username or password."}, 401)
        elif path == "/api/whoami-v2":
            self._answer({"type": "user", "name": "me", "orgs": [{"name": "team"}]})
        elif "/tree/" in path:
            self._answer(self._tree(_repo(path).partition("/tree/")[0]))
        else:
            repo = _repo(path).partition("/revision/")[0]
            if (self.hub.folder / repo).is_dir():
                self._answer(
                    {"id": repo, "private": repo not in self.hub.public, "sha": "0" * 40, "siblings": []}
                )
            else:
                self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        path = self._note()
        body = self.rfile.read(int(self.headers["content-length"]))
        repo = _repo(path)
        if path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.hub.add(name, public=wanted.get("visibility") == "public")
            kind = "datasets/" if wanted["type"] == "dataset" else ""
            self._answer({"url": f"{self.hub.url}/{kind}{name}", "id": name})
        elif "/preupload/" in repo:
            self._answer({"files": self._modes(repo.partition("/preupload/")[0], json.loads(body)["files"])})
        elif self.hub.refusing:
            self._answer({"error": "You may not write here."}, self.hub.refusing)
        else:
            self._commit(repo.partition("/commit/")[0], body)

    def _note(self) -> str:
        self.hub.seen.append(f"{self.command} {self.path}")
        return unquote(urlsplit(self.path).path)

    def _answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _tree(self, repo: str) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
            for path, content in sorted(self.hub.files(repo).items())
        ]

    def _modes(self, repo: str, additions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        there = self.hub.files(repo)
        return [
            {
                "path": file["path"],
                "uploadMode": "regular",
                "shouldIgnore": False,
                "oid": _oid(there[file["path"]]) if file["path"] in there else None,
            }
            for file in additions
        ]

    def _commit(self, repo: str, body: bytes) -> None:
        folder, is_request = self.hub.folder / repo, "create_pr=1" in self.path
        if is_request:
            folder = self.hub.folder / "pull requests" / repo
            shutil.copytree(self.hub.folder / repo, folder)
        for line in body.splitlines():
            entry = json.loads(line)
            target = folder / entry["value"].get("path", "")
            if entry["key"] == "file":
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(base64.b64decode(entry["value"]["content"]))
            elif entry["key"] == "deletedFile":
                target.unlink()
        answer = {"commitUrl": f"{self.hub.url}/datasets/{repo}/commit/1", "commitOid": "1" * 40}
        if is_request:
            answer["pullRequestUrl"] = f"{self.hub.url}/datasets/{repo}/discussions/1"
        self._answer(answer)


def _repo(path: str) -> str:
    """Returns what follows the kind of a repository in a path."""
    return re.sub("^/api/(datasets|models)/", "", path)


def _oid(content: bytes) -> str:
    """Returns the git object id of a file, by which the client knows what has not changed."""
    return hashlib.sha1(b"blob %d\x00" % len(content) + content).hexdigest()
