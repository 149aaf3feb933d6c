"""A local server that speaks the Hub's protocol, as far as pushing and fetching a model go."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Hub:
    """What it holds: repository -> file -> content, as of the last commit."""

    def __init__(self):
        self.repos, self.private, self.commits, self.blobs = {}, {}, {}, {}
        self.tokens, self.messages = [], []
        self.refuses = False


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_):
        pass

    def do_POST(self):
        path, hub = self.path.partition("?")[0], self.hub
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        hub.tokens.append(self.headers.get("authorization"))
        if hub.refuses:
            return self._answer(403, {"error": "You have no right to write here"})
        if path == "/api/repos/create":
            told = json.loads(body)
            name = f"{told['organization']}/{told['name']}"
            if name in hub.repos:
                said = {"error": "You already created it", "url": f"{self._base}/{name}"}
                return self._answer(409, said)
            hub.repos[name] = {}
            hub.private[name] = told["visibility"] == "private"
            return self._answer(200, {"url": f"{self._base}/{name}"})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    **each,
                    "authenticated": True,
                    "actions": {"upload": {"href": f"{self._base}/blobs/{each['oid']}"}},
                }
                for each in json.loads(body)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        _, _, _, owner, name, what, _revision = path.split("/")
        if what == "preupload":
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "regular" if each["path"].endswith(".md") else "lfs",
                    "shouldIgnore": False,
                }
                for each in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        assert what == "commit", path
        repository = f"{owner}/{name}"
        for line in body.splitlines():
            each = json.loads(line)
            value = each["value"]
            if each["key"] == "header":
                hub.messages.append(value["summary"])
            elif each["key"] == "file":
                hub.repos[repository][value["path"]] = base64.b64decode(value["content"])
            elif each["key"] == "lfsFile":
                hub.repos[repository][value["path"]] = hub.blobs[value["oid"]]
        commit = hashlib.sha1(body).hexdigest()
        hub.commits.setdefault(repository, []).append(commit)
        place = f"{self._base}/{repository}/commit/{commit}"
        return self._answer(
            200, {"success": True, "commitOid": commit, "commitUrl": place, "hookOutput": ""}
        )

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["content-length"]))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.blobs[oid] = content
        self._answer(200, {})

    def do_HEAD(self):
        self._resolve(body=False)

    def do_GET(self):
        self._resolve(body=True)

    def _resolve(self, *, body):
        self.hub.tokens.append(self.headers.get("authorization"))
        parts = self.path.partition("?")[0].removeprefix("/api/models").split("/", 5)[1:]
        repository = "/".join(parts[:2])
        if len(parts) < 5:  # about a repository
            if repository not in self.hub.repos:
                return self._answer(401, {"error": "?"}, {"X-Error-Code": "RepoNotFound"})
            return self._answer(200, {"id": repository, "siblings": [], "private": False})
        revision, file = parts[3:]
        files, commits = self.hub.repos.get(repository), self.hub.commits.get(repository, [])
        if files is None:
            return self._answer(401, {"error": "?"}, {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", *commits):
            return self._answer(404, {"error": "?"}, {"X-Error-Code": "RevisionNotFound"})
        if file not in files:
            return self._answer(404, {"error": "?"}, {"X-Error-Code": "EntryNotFound"})
        content = files[file]
        digest = hashlib.sha256(content).hexdigest()
        self.send_response(200)
        self.send_header("X-Repo-Commit", commits[-1])
        self.send_header("ETag", f'"{digest}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)
        return None

    @property
    def _base(self):
        return f"http://{self.headers['host']}"

    def _answer(self, code, plain, headers=None):
        content = json.dumps(plain).encode()
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving():
    """A hub, and its address."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that the library asks, with an empty cache."""
    from huggingface_hub import constants

    with serving() as (hub, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub
