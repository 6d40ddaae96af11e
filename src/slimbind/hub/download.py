"""One file over https: resumed where it was cut, checked against its sha256, and in place only when it is whole.

While it is fetched the file is called ``NAME.part``, and ``NAME.part.json`` remembers which version of it the server
was sending. After a cut the rest is asked for (RFC 9110, Range and If-Range); a server whose file has changed in the
meantime sends the new one from its beginning, so two versions are never mixed.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any

from slimbind.errors import HubError, OfflineError, UsageError
from slimbind.hub.offline import is_offline
from slimbind.sizes import binary

CHUNK = 1 << 20
TRIES = 5
TIMEOUT_SECONDS = 60
MAX_REDIRECTS = 5
PAUSE_SECONDS = 0.2
USER_AGENT = "slimbind"
_LOCAL = ("localhost", "127.0.0.1", "::1")
_PASSING = (408, 425, 429, 500, 502, 503, 504)

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there so far and the whole size, where it is known."""


@dataclass(frozen=True)
class Version:
    """Which bytes a server was sending: its address, its validators, and the whole size."""

    url: str
    etag: str = ""
    modified: str = ""
    size: int | None = None

    @property
    def validator(self) -> str:
        """What If-Range takes: a strong entity tag, else the date; empty if there is neither."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


class _Cut(Exception):
    """The connection ended too early, or the server is busy: worth another try."""


def check_url(url: str) -> str:
    """Return ``url`` if it may be fetched: https, or http on this machine.

    Raises:
        UsageError: another scheme, no host, or a password in it.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.username or parts.password:
        raise UsageError(f"{shown(url)} carries a user name or password", hint="use an address without one")
    if parts.scheme == "http" and parts.hostname not in _LOCAL:
        raise UsageError(f"{shown(url)} is not encrypted", hint="use https://")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{shown(url)} is no https address", hint="use https://HOST/FILE")
    return url


def shown(url: str) -> str:
    """``url`` for people and manifests: without a password or a query, which may hold a token."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def fetch(url: str, path: Path, *, sha256: str = "", progress: Progress = lambda done, total: None) -> Path:
    """Fetch ``url`` into ``path`` and return it. A file that is there already is kept if it is still the right one.

    Args:
        url: https, or http on this machine.
        path: where the file shall lie; ``PATH.part`` is used while it is incomplete, and is kept for a later resume.
        sha256: what the file must hash to, in hex; without it the file is only checked for its length.
        progress: hears of every chunk.

    Raises:
        HubError: the server refuses, the file does not match ``sha256``, the disk is full; what is kept is said.
        OfflineError: ``HF_HUB_OFFLINE`` is set and the file is not there.
        UsageError: the address may not be fetched.
    """
    check_url(url)
    sha256 = sha256.lower()
    known = _finished(url, path)
    if known is not None and (known["sha256"] == sha256 or (not sha256 and (is_offline() or _unchanged(url, known)))):
        return path
    if is_offline():
        raise OfflineError(
            f"{shown(url)} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it",
            hint="unset HF_HUB_OFFLINE, or fetch the file yourself and name it",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with _Download(url, path, sha256, progress) as download:
        return download.run()


def _finished(url: str, path: Path) -> dict[str, Any] | None:
    """What was written beside a complete file, if it is of this address and still as long."""
    try:
        known = json.loads(_beside(path).read_text(encoding="utf-8"))
        whole = known["url"] == url and path.stat().st_size == known["size"] and isinstance(known["sha256"], str)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if whole else None


def _unchanged(url: str, known: Mapping[str, Any]) -> bool:
    """Whether the server still has what was fetched from it before; yes if it cannot be asked, the file is whole."""
    headers = {"User-Agent": USER_AGENT, "If-None-Match": known.get("etag"), "If-Modified-Since": known.get("modified")}
    request = urllib.request.Request(url, headers={name: value for name, value in headers.items() if value})
    try:
        with _opener().open(request, timeout=TIMEOUT_SECONDS):
            return False
    except urllib.error.HTTPError as error:
        with error:
            return error.code == http.client.NOT_MODIFIED
    except (OSError, http.client.HTTPException):
        return True


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".json")


class _Download:
    def __init__(self, url: str, path: Path, sha256: str, progress: Progress) -> None:
        self.url, self.path, self.sha256, self.progress = url, path, sha256, progress
        self.part = path.with_name(path.name + ".part")
        self.file: IO[bytes] | None = None

    def __enter__(self) -> _Download:
        try:
            self.file = open(self.part, "a+b")  # noqa: SIM115  (closed in __exit__)
        except OSError as error:
            raise HubError(f"cannot write to {self.part}: {error.strerror}") from error
        if not _lock(self.file):
            self.file.close()
            raise HubError(f"another process is fetching {self.path.name} into {self.path.parent}", hint="let it end")
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()

    def run(self) -> Path:
        tries = 0
        while True:
            before = self._length()
            try:
                self._attempt()
                break
            except _Cut as cut:
                tries = 1 if self._length() > before else tries + 1
                if tries >= TRIES:
                    raise HubError(f"{shown(self.url)}: {cut}", hint=self._kept()) from cut
                time.sleep(min(PAUSE_SECONDS * 2**tries, 10.0))
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise HubError(f"{self.part.parent} is full", hint=self._kept()) from error
                raise HubError(f"cannot write {self.part}: {error.strerror}", hint=self._kept()) from error
        return self._finish()

    def _attempt(self) -> None:
        """One request: the rest of the file, or all of it. Raises ``_Cut`` where another one may help."""
        version = self._remembered()
        have = self._length() if version is not None else 0
        if have and version is not None and version.size == have:
            return
        request = urllib.request.Request(check_url(self.url), headers={"User-Agent": USER_AGENT})
        request.add_header("Accept-Encoding", "identity")
        if have and version is not None:
            request.add_header("Range", f"bytes={have}-")
            if version.validator:
                request.add_header("If-Range", version.validator)
        try:
            with _opener().open(request, timeout=TIMEOUT_SECONDS) as answer:
                self._receive(answer, have)
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error, have)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise HubError(f"{shown(self.url)}: {error.reason.verify_message}", hint="check the address") from error
            raise _Cut(f"no connection ({error.reason})") from error
        except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            raise _Cut(f"the connection was cut ({type(error).__name__})") from error

    def _refused(self, error: urllib.error.HTTPError, have: int) -> None:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            self._start_anew(Version(self.url))
            raise _Cut("the server's file is shorter than what was fetched of it") from error
        if error.code in _PASSING:
            raise _Cut(f"the server answers {error.code} {error.reason}") from error
        mend = "check the address" if error.code == http.client.NOT_FOUND else "see whether it needs a login"
        if not self._length():
            self._forget()
        raise HubError(f"{shown(self.url)}: the server answers {error.code} {error.reason}", hint=mend) from error

    def _receive(self, answer: Any, have: int) -> None:  # noqa: ANN401  (urllib's response has no public type)
        assert self.file is not None
        length = int(answer.headers["Content-Length"]) if answer.headers.get("Content-Length", "").isdigit() else None
        if answer.status == http.client.PARTIAL_CONTENT:
            if _range_start(answer.headers.get("Content-Range", "")) != have:
                self._start_anew(Version(self.url))
                raise _Cut("the server sent another part than was asked for")
        else:
            # The whole file: the first request, a server without ranges, or a file that changed since the last try.
            have = 0
            size = length
            headers = answer.headers
            self._start_anew(Version(self.url, headers.get("ETag", ""), headers.get("Last-Modified", ""), size))
        if length is None and not self.sha256 and "chunked" not in answer.headers.get("Transfer-Encoding", ""):
            raise HubError(
                f"{shown(self.url)}: the server does not say how long the file is, so a cut would go unnoticed",
                hint="give --sha256",
            )
        total = have + length if length is not None else None
        self._check_space(length)
        done = have
        self.progress(done, total)
        while chunk := answer.read(CHUNK):
            self.file.write(chunk)  # an OSError from here is the disk's, and ends the download
            done += len(chunk)
            self.progress(done, total)
        self.file.flush()
        if total is not None and done < total:
            raise _Cut(f"the connection was cut after {done} of {total} bytes")

    def _check_space(self, needed: int | None) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if needed is not None and free < needed:
            hint = "free some space, or set SLIMBIND_CACHE to another disk"
            if not self._length():
                self._forget()
            raise HubError(f"{self.part.parent} has {binary(free)} free; {binary(needed)} are needed", hint=hint)

    def _finish(self) -> Path:
        assert self.file is not None
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.seek(0)
        digest = _sha256(self.file)
        if self.sha256 and digest != self.sha256:
            self._forget()
            raise HubError(
                f"{shown(self.url)} has sha256 {digest}, not {self.sha256}: what was fetched is deleted",
                hint="the download was tampered with or the file was replaced; check where the expected sum comes from",
            )
        version = self._remembered() or Version(self.url)
        record = {**asdict(version), "size": self._length(), "sha256": digest}
        _beside(self.path).write_text(json.dumps(record), encoding="utf-8")
        self.file.close()  # before the rename, which Windows refuses for an open file
        os.replace(self.part, self.path)
        _beside(self.part).unlink(missing_ok=True)
        return self.path

    def _length(self) -> int:
        assert self.file is not None
        return os.fstat(self.file.fileno()).st_size

    def _start_anew(self, version: Version) -> None:
        assert self.file is not None
        self.file.truncate(0)
        _beside(self.part).write_text(json.dumps(asdict(version)), encoding="utf-8")

    def _remembered(self) -> Version | None:
        """The version that the partial file is of, if the rest of it can be asked for without mixing two."""
        try:
            version = Version(**json.loads(_beside(self.part).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        # Without a validator only a checksum can tell whether the pieces belong together.
        return version if version.url == self.url and (version.validator or self.sha256) else None

    def _forget(self) -> None:
        """Delete the partial file; the download is over then."""
        if self.file is not None:
            self.file.close()
        self.part.unlink(missing_ok=True)
        _beside(self.part).unlink(missing_ok=True)

    def _kept(self) -> str:
        if not self._length():
            self._forget()
            return "nothing was kept; run the same command again"
        return (
            f"{self._length()} bytes are kept in {self.part}; the same command resumes, deleting the file starts anew"
        )


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _range_start(header: str) -> int | None:
    unit, _, rest = header.partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdigit() else None


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS
    max_repeats = MAX_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """See ``HTTPRedirectHandler``; a redirect may not lead away from encryption."""
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise HubError(f"{shown(req.full_url)} redirects to {shown(newurl)}, which is not encrypted")
        check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects)


def _lock(file: IO[bytes]) -> bool:
    """Take the file for this process; False if another one has it. Without fcntl (Windows) nothing is checked."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
