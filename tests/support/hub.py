"""A Hugging Face Hub on the loopback interface: the parts of its HTTP interface that huggingface_hub uses.

It can misbehave in every way the real one (or something between) does; what it was asked is kept for inspection.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?")


@dataclass
class Repo:
    """A model. `parameters` is what the Hub has counted in its safetensors files; None when it has not.

    `status` answers every request for a file (the first `failures` of them), `get_status` only downloads,
    `api_status` those to the API. `cut` sends only so many bytes of a file, `lie` more than announced; `wait_s` is
    how long any answer takes, `drip_s` the pause after each byte. `moved` redirects on this Hub, `stored` to another
    origin, as for large files.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    parameters: dict[str, int] | None = None
    gated: bool = False
    private: bool = False
    status: int | None = None
    get_status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    failures: int | None = None
    cut: int | None = None
    lie: int = 0
    wait_s: float = 0.0
    drip_s: float = 0.0
    moved: str | None = None
    stored: str | None = None
    api_status: int | None = None

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and the files of a branch or commit."""
        everything = {"main": self.files, **self.revisions}
        for name, files in everything.items():
            commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
            if revision in (name, commit):
                return commit, files
        return None


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    authorization: str | None


class Hub:
    """Models by name, and everything that was asked."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.asked: list[Asked] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def add(self, name: str, config: Any = None, **repo: Any) -> Repo:
        """A model with a config.json: an object, or its very bytes."""
        made = self.repos[name] = Repo(**repo)
        if config is not None:
            made.files["config.json"] = as_file(config)
        return made

    def environment(self, home: Path, *, token: str | None = None, **more: str) -> dict[str, str]:
        """Environment variables of a program that uses this Hub, and nothing of the developer's own."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GPUSCOUT_"))}
        ours = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
        return {**inherited, **ours, **({"HF_TOKEN": token} if token else {}), **more}


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub without models, for the length of a block."""
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()


def as_file(content: Any) -> bytes:
    return content if isinstance(content, bytes) else json.dumps(content).encode()


def safetensors(tensors: Mapping[str, tuple[str, list[int]]]) -> bytes:
    """The beginning of a safetensors file: its header says what the (absent) rest holds."""
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]} for name, (dtype, shape) in tensors.items()
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            with hub.lock:
                hub.asked.append(Asked(self.command, path, self.headers.get("authorization")))
                hub.at_once += 1
                hub.most_at_once = max(hub.most_at_once, hub.at_once)
            try:
                if (asked := _RESOLVE.fullmatch(path)) is not None:
                    self._file(asked["repo"], asked["revision"], asked["file"])
                elif (asked := _INFO.fullmatch(path)) is not None:
                    self._info(asked["repo"], asked["revision"] or "main")
                else:
                    self._say(404)
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                with hub.lock:
                    hub.at_once -= 1

        def _repo(self, name: str) -> Repo | None:
            """The model, or the Hub's answer that there is none to see."""
            repo = hub.repos.get(name)
            known = self.headers.get("authorization") == f"Bearer {TOKEN}"
            if self.headers.get("authorization") and not known:
                self._say(401, message="Invalid credentials in Authorization header")
            elif repo is None or (repo.private and not known):
                self._say(404 if known else 401, "RepoNotFound", "Invalid username or password.")
            else:
                time.sleep(repo.wait_s)
                return repo
            return None

        def _info(self, name: str, revision: str) -> None:
            repo = self._repo(name)
            if repo is None:
                return
            found = repo.at(revision)
            if repo.api_status or found is None:
                self._say(repo.api_status or 404)
                return
            commit, files = found
            document: dict[str, Any] = {
                "id": name,
                "sha": commit,
                "siblings": [{"rfilename": file} for file in files],
            }
            if repo.parameters is not None:
                document["safetensors"] = {"parameters": repo.parameters, "total": 0}
            self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

        def _file(self, name: str, revision: str, file: str) -> None:
            repo = self._repo(name)
            if repo is None:
                return
            if repo.moved:
                self._send(307, b"", {"Location": f"/{repo.moved}/resolve/{revision}/{file}"})
                return
            status = repo.status or (repo.get_status if self.command == "GET" else None)
            if status is not None and (repo.failures is None or repo.failures > 0):
                repo.failures = None if repo.failures is None else repo.failures - 1
                # A server may say anything, what it was just sent included.
                self._say(status, None, f"you sent {self.headers.get('authorization')}", repo.headers)
                return
            if repo.gated and self.headers.get("authorization") != f"Bearer {TOKEN}":
                self._say(401, "GatedRepo", "Access to this model is restricted.")
                return
            if repo.gated:
                self._say(403, "GatedRepo", "Access to this model is restricted and you are not in the list.")
                return
            found = repo.at(revision)
            if found is None:
                self._say(404, "RevisionNotFound", f"Invalid rev id: {revision}")
                return
            commit, files = found
            if file not in files:
                self._say(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
                return
            content = files[file]
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit, **repo.headers}
            if repo.stored and file != "hf_quant_config.json":
                headers |= {
                    "X-Linked-Size": str(len(content)),
                    "X-Linked-ETag": headers["ETag"],
                    "Location": f"{repo.stored}/{name}/resolve/{commit}/{file}?X-Signature=secret",
                }
                self._send(302, b"", headers)
                return
            self._content(content, headers, repo)

        def _content(self, content: bytes, headers: dict[str, str], repo: Repo) -> None:
            status = 200
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range") or "")
            if asked is not None:
                status, last = 206, int(asked[2] or len(content) - 1)
                headers["Content-Range"] = f"bytes {asked[1]}-{min(last, len(content) - 1)}/{len(content)}"
                content = content[int(asked[1]) : last + 1]
            if self.command == "GET" and repo.lie:
                content += b" " * repo.lie
            self._send(status, content, headers, cut=repo.cut, drip_s=repo.drip_s)

        def _say(self, status: int, code: str | None = None, message: str = "", headers: Any = None) -> None:
            told = {"X-Error-Message": message, **(headers or {}), **({"X-Error-Code": code} if code else {})}
            self._send(status, json.dumps({"error": message}).encode(), told)

        def _send(
            self, status: int, body: bytes, headers: dict[str, str], *, cut: int | None = None, drip_s: float = 0.0
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if drip_s:
                for position in range(len(body)):
                    self.wfile.write(body[position : position + 1])
                    self.wfile.flush()
                    time.sleep(drip_s)
            else:
                self.wfile.write(body if cut is None else body[:cut])
            if cut is not None:
                self.close_connection = True

    return Handler
