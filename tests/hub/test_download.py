"""Downloads: resumed where they were cut, never mixed from two versions, in place only when whole."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import random

import pytest

from slimbind.errors import HubError, OfflineError, UsageError
from slimbind.hub import download as module
from slimbind.hub.download import check_url, fetch, shown

CONTENT = random.Random(0).randbytes(300_000)
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(module, "CHUNK", 10_000)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "down" / "model.pth"


def names(path):
    return sorted(p.name for p in path.parent.iterdir())


def test_a_file_arrives_whole(shop, path):
    shop.content = CONTENT
    heard = []
    assert fetch(f"{shop.url}/m.pth", path, sha256=SUM.upper(), progress=lambda *told: heard.append(told)) == path
    assert path.read_bytes() == CONTENT
    assert names(path) == ["model.pth", "model.pth.json"]
    assert heard[0] == (0, len(CONTENT))
    assert heard[-1] == (len(CONTENT), len(CONTENT))
    assert len(heard) > 20


def test_a_cut_connection_is_resumed_where_it_was_cut(shop, path):
    shop.content, shop.cut_after = CONTENT, [100_000, 50_000]
    fetch(f"{shop.url}/m.pth", path, sha256=SUM)
    assert path.read_bytes() == CONTENT
    assert [request.get("range") for request in shop.requests] == [None, "bytes=100000-", "bytes=150000-"]
    assert {request.get("if-range") for request in shop.requests[1:]} == {'"v1"'}


def test_what_was_fetched_is_kept_for_the_next_run_and_said(shop, path):
    shop.content, shop.cut_after = CONTENT, [120_000] + [0] * 20
    with pytest.raises(HubError, match="cut") as caught:
        fetch(f"{shop.url}/m.pth", path, sha256=SUM)
    assert "120000 bytes are kept in" in caught.value.hint
    assert not path.exists()
    shop.cut_after = []
    fetch(f"{shop.url}/m.pth", path, sha256=SUM)
    assert path.read_bytes() == CONTENT
    assert shop.requests[-1]["range"] == "bytes=120000-"
    assert names(path) == ["model.pth", "model.pth.json"]


def test_a_file_that_changed_between_two_tries_is_fetched_anew(shop, path):
    shop.content, shop.cut_after = CONTENT, [120_000] + [0] * 20
    with pytest.raises(HubError):
        fetch(f"{shop.url}/m.pth", path)
    shop.content, shop.etag, shop.cut_after = CONTENT[::-1], '"v2"', []
    fetch(f"{shop.url}/m.pth", path)
    assert path.read_bytes() == CONTENT[::-1]


def test_a_file_that_became_shorter_is_fetched_anew(shop, path):
    shop.content, shop.cut_after = CONTENT, [120_000] + [0] * 20
    with pytest.raises(HubError):
        fetch(f"{shop.url}/m.pth", path)
    shop.content, shop.cut_after = CONTENT[:1000], []  # the entity tag stays the same: a server that lies
    fetch(f"{shop.url}/m.pth", path)
    assert path.read_bytes() == CONTENT[:1000]


def test_a_server_without_ranges_sends_all_again(shop, path):
    shop.content, shop.ranges, shop.cut_after = CONTENT, False, [100_000]
    fetch(f"{shop.url}/m.pth", path, sha256=SUM)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("known", [True, False])
def test_without_a_version_only_a_checksum_allows_to_resume(known, shop, path):
    shop.content, shop.etag, shop.cut_after = CONTENT, "", [100_000]
    fetch(f"{shop.url}/m.pth", path, sha256=SUM if known else "")
    assert path.read_bytes() == CONTENT
    assert shop.requests[1].get("range") == ("bytes=100000-" if known else None)


def test_the_date_stands_in_for_a_weak_tag(shop, path):
    shop.content, shop.etag, shop.modified = CONTENT, 'W/"v1"', "Sun, 06 Nov 1994 08:49:37 GMT"
    shop.cut_after = [100_000]
    fetch(f"{shop.url}/m.pth", path)
    assert path.read_bytes() == CONTENT
    assert shop.requests[1]["if-range"] == shop.modified


def test_a_wrong_checksum_deletes_what_was_fetched(shop, path):
    shop.content = CONTENT
    with pytest.raises(HubError, match=SUM) as caught:
        fetch(f"{shop.url}/m.pth", path, sha256="0" * 64)
    assert "deleted" in str(caught.value)
    assert names(path) == []


def test_a_length_is_needed_to_notice_a_cut(shop, path):
    shop.content, shop.length = CONTENT, False
    with pytest.raises(HubError, match="how long"):
        fetch(f"{shop.url}/m.pth", path)
    fetch(f"{shop.url}/m.pth", path, sha256=SUM)
    assert path.read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(shop, path):
    shop.content, shop.statuses = CONTENT, [503, 429, 500]
    fetch(f"{shop.url}/m.pth", path)
    assert path.read_bytes() == CONTENT


def test_a_server_that_stays_busy_is_given_up(shop, path):
    shop.statuses = [503] * 20
    with pytest.raises(HubError, match="503"):
        fetch(f"{shop.url}/m.pth", path)
    assert names(path) == []


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final(status, shop, path):
    shop.statuses = [status] * 20
    with pytest.raises(HubError, match=str(status)):
        fetch(f"{shop.url}/m.pth", path)
    assert len(shop.requests) == 1
    assert names(path) == []


def test_a_full_disk_is_noticed_before(shop, path, monkeypatch):
    shop.content = CONTENT
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    with pytest.raises(HubError, match="are needed"):
        fetch(f"{shop.url}/m.pth", path)
    assert names(path) == []


def test_a_disk_that_fills_up_says_what_is_kept(shop, path, monkeypatch):
    shop.content = CONTENT
    path.parent.mkdir()
    whole = module._Download._receive

    def receive(self, answer, have):
        write = self.file.write
        written = 0

        class Full:
            def __getattr__(_, name):
                return getattr(real, name)

            def write(_, data):
                nonlocal written
                written += len(data)
                if written > 50_000:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(data)

        real, self.file = self.file, Full()
        try:
            whole(self, answer, have)
        finally:
            self.file = real
            real.flush()

    monkeypatch.setattr(module._Download, "_receive", receive)
    with pytest.raises(HubError, match="is full") as caught:
        fetch(f"{shop.url}/m.pth", path, sha256=SUM)
    assert "50000 bytes are kept in" in caught.value.hint
    assert not path.exists()
    monkeypatch.undo()
    fetch(f"{shop.url}/m.pth", path, sha256=SUM)
    assert path.read_bytes() == CONTENT


def test_ctrl_c_keeps_the_partial_file_and_no_more(shop, path):
    shop.content = CONTENT

    def stop(done, total):
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(f"{shop.url}/m.pth", path, progress=stop)
    assert names(path) == ["model.pth.part", "model.pth.part.json"]
    fetch(f"{shop.url}/m.pth", path)
    assert path.read_bytes() == CONTENT
    assert "range" in shop.requests[-1]


def test_a_known_file_is_not_fetched_twice(shop, path):
    shop.content = CONTENT
    fetch(f"{shop.url}/m.pth", path, sha256=SUM)
    fetch(f"{shop.url}/m.pth", path, sha256=SUM)
    assert len(shop.requests) == 1, "with its checksum known, nothing has to be asked"
    fetch(f"{shop.url}/m.pth", path)
    assert shop.requests[-1]["if-none-match"] == '"v1"', "without one the server is asked whether it changed"
    shop.content, shop.etag = CONTENT[::-1], '"v2"'
    fetch(f"{shop.url}/m.pth", path)
    assert path.read_bytes() == CONTENT[::-1]


def test_a_whole_file_serves_when_the_server_is_gone(shop, path):
    shop.content = CONTENT
    fetch(f"{shop.url}/m.pth", path)
    record = path.with_name("model.pth.json")
    told = json.loads(record.read_text())
    record.write_text(json.dumps(told | {"url": "http://127.0.0.1:9/m.pth"}))  # nothing listens there
    assert fetch("http://127.0.0.1:9/m.pth", path) == path


def test_offline_means_no_connection_at_all(shop, path, monkeypatch, no_network):
    shop.content = CONTENT
    fetch(f"{shop.url}/m.pth", path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    no_network()
    assert fetch(f"{shop.url}/m.pth", path) == path
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE"):
        fetch(f"{shop.url}/other.pth", path.with_name("other.pth"))


def test_redirects_are_followed_within_reason(shop, path):
    shop.content, shop.redirects = CONTENT, [f"{shop.url}/elsewhere"]
    fetch(f"{shop.url}/m.pth", path, sha256=SUM)
    shop.redirects = [f"{shop.url}/{number}" for number in range(20)]
    with pytest.raises(HubError):
        fetch(f"{shop.url}/again.pth", path.with_name("again.pth"))


def test_a_redirect_may_not_leave_for_an_open_line(shop, path):
    shop.redirects = ["http://example.com/model.pth"]
    with pytest.raises((HubError, UsageError), match="not encrypted"):
        fetch(f"{shop.url}/m.pth", path)
    assert not path.exists()


def test_https_is_resumed_too(safe_shop, path):
    safe_shop.content, safe_shop.cut_after = CONTENT, [100_000]
    fetch(f"{safe_shop.url}/m.pth", path, sha256=SUM)
    assert path.read_bytes() == CONTENT
    assert safe_shop.requests[-1]["range"] == "bytes=100000-"


def test_a_stranger_with_a_certificate_of_its_own_is_refused_at_once(safe_shop, path, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(HubError, match="self-signed"):
        fetch(f"{safe_shop.url}/m.pth", path)
    assert safe_shop.requests == []


def test_https_does_not_lead_to_http(safe_shop, path):
    safe_shop.redirects = ["http://127.0.0.1:9/m.pth"]
    with pytest.raises(HubError, match="not encrypted"):
        fetch(f"{safe_shop.url}/m.pth", path)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/m.pth",
        "ftp://example.com/m",
        "https:///m",
        "https://me:secret@example.com/m",
        "file:///etc/passwd",
    ],
)
def test_addresses_that_may_not_be_fetched(url):
    with pytest.raises(UsageError) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


def test_what_is_shown_of_an_address_holds_no_secret():
    assert shown("https://me:secret@example.com/m.pth?token=secret#x") == "https://example.com/m.pth"


def _hold(path, ready, done):
    download = module._Download("http://localhost/x", path, "", lambda done, total: None)
    with download:
        ready.set()
        done.wait(20)


def test_two_processes_do_not_write_into_one_file(shop, path):
    shop.content = CONTENT
    path.parent.mkdir()
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(path, ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(HubError, match="another process"):
            fetch(f"{shop.url}/m.pth", path)
    finally:
        done.set()
        other.join()
    fetch(f"{shop.url}/m.pth", path)
    assert path.read_bytes() == CONTENT
