"""Local servers: one that misbehaves as the network does, and one that answers as the Hugging Face hub does."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


class QuietServer(ThreadingHTTPServer):
    """Clients go away in the middle here, on purpose."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


def serve(handler: type[BaseHTTPRequestHandler], *, certificate: Path | None = None) -> Iterator[QuietServer]:
    server = QuietServer(("127.0.0.1", 0), handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class Shop:
    """A file server's state: what it serves, how it fails, and what it was asked."""

    content: bytes = b""
    etag: str = '"v1"'
    modified: str = ""
    ranges: bool = True
    length: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes sent by the coming answers before the line breaks
    statuses: list[int] = field(default_factory=list)  # answered instead, one per request
    redirects: list[str] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


CERTIFICATE = Path(__file__).with_name("localhost.pem")


@pytest.fixture
def shop() -> Iterator[Shop]:
    """Over http, which is allowed on this machine."""
    state = Shop()
    for server in serve(_handler(state)):
        state.url = f"http://127.0.0.1:{server.server_port}"
        yield state


@pytest.fixture
def safe_shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """Over https, with a certificate that is trusted in this test."""
    state = Shop()
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    for server in serve(_handler(state), certificate=CERTIFICATE):
        state.url = f"https://localhost:{server.server_port}"
        yield state


def _handler(state: Shop) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            state.requests.append({name.lower(): value for name, value in self.headers.items()})
            if state.redirects:
                self.send_response(302)
                self.send_header("Location", state.redirects.pop(0))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if state.statuses:
                self.send_response(state.statuses.pop(0))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._send()

        def _send(self):
            if state.etag and self.headers.get("If-None-Match") == state.etag:
                self.send_response(304)
                self.end_headers()
                return
            start, asked = 0, self.headers.get("Range")
            fresh = self.headers.get("If-Range") in (None, state.etag, state.modified or None)
            if asked and state.ranges and fresh:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(state.content):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            else:
                self.send_response(200)
            body = state.content[start:]
            if state.etag:
                self.send_header("ETag", state.etag)
            if state.modified:
                self.send_header("Last-Modified", state.modified)
            if state.length:
                self.send_header("Content-Length", str(len(body)))
            else:
                self.send_header("Connection", "close")
            self.end_headers()
            if state.cut_after:
                self.wfile.write(body[: state.cut_after.pop(0)])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.wfile.write(body)
            if not state.length:
                self.close_connection = True

    return Handler


@dataclass
class Hub:
    """A stand-in for the hub: ``repositories[name][path] = bytes``, and a record of what was asked for."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)  # repository -> status and X-Error-Code
    broken: bool = False
    endpoint: str = ""
    commit: str = "0123456789abcdef0123456789abcdef01234567"

    def fetched(self, name: str) -> list[str]:
        """The paths whose contents were sent for a repository."""
        prefix = f"/{name}/resolve/"
        return sorted(
            path.removeprefix(prefix).partition("/")[2]
            for verb, path in self.requests
            if verb == "GET" and path.startswith(prefix)
        )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub's few endpoints that are used: list a repository's files, ask about a file, send it."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self._answer(body=False)

        def do_GET(self):
            self._answer(body=True)

        def _answer(self, *, body):
            path = unquote(urlsplit(self.path).path)
            state.requests.append((self.command, path))
            state.agents.add(self.headers.get("User-Agent", ""))
            if state.broken:
                return self._send(503, b"{}")
            parts = path.strip("/").split("/")
            name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
            if name in state.answers:
                status, code = state.answers[name]
                return self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "no"})
            files = state.repositories.get(name)
            if files is None:
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no"})
            revision = parts[5] if parts[0] == "api" and len(parts) > 5 else parts[3] if len(parts) > 3 else "main"
            if revision not in ("main", "v1", state.commit):
                return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no"})
            if parts[0] == "api":
                return self._list(name, files, parts[4] if len(parts) > 4 else "")
            wanted = "/".join(parts[4:])
            if wanted not in files:
                return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "no"})
            etag = f'"{hashlib.sha1(files[wanted], usedforsecurity=False).hexdigest()}"'
            return self._send(200, files[wanted], {"ETag": etag, "X-Repo-Commit": state.commit}, body=body)

        def _list(self, name, files, what):
            if what == "tree":
                listing = [
                    {
                        "type": "file",
                        "path": path,
                        "size": len(data),
                        "oid": hashlib.sha1(data, usedforsecurity=False).hexdigest(),
                    }
                    for path, data in files.items()
                ]
            else:
                listing = {
                    "id": name,
                    "modelId": name,
                    "sha": state.commit,
                    "siblings": [{"rfilename": p} for p in files],
                    "private": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                }
            return self._send(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

        def _send(self, status, data, headers=None, *, body=True):
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body and self.command != "HEAD":
                self.wfile.write(data)

    for server in serve(Handler):
        state.endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("HF_ENDPOINT", state.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        yield state


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and every attempt to open a connection or to look up a name fails the test."""

    def forbid() -> None:
        def refuse(*args, **kwargs):
            pytest.fail(f"a connection was attempted: {args}")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket.socket, "connect_ex", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        monkeypatch.setattr(socket, "create_connection", refuse)

    return forbid


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's cache."""
    monkeypatch.setenv("SLIMBIND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    return tmp_path / "cache"
