"""A file is there whole, or the old one is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slimbind.whole import Whole


@pytest.fixture
def rights():
    """The rights of new files in this process are those of ``umask(0o027)``."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_it_takes_the_place_of_the_old_one_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with Whole(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old" and len(os.listdir(tmp_path)) == 2
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_leaves_the_old_one_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(error), Whole(path) as file:
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_what_cannot_be_published_is_dropped(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "f"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"), Whole(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]


def test_it_has_the_rights_of_any_new_file_or_of_the_one_before(tmp_path: Path, rights: None) -> None:
    path = tmp_path / "f"
    for wanted in (0o640, 0o604):
        with Whole(path) as file:
            file.write(b"x")
        assert path.stat().st_mode & 0o777 == wanted
        path.chmod(0o604)


def test_names_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    for name in ("x" * 255, "\N{SMILING FACE WITH OPEN MOUTH}" * 63):
        with Whole(tmp_path / name) as file:
            file.write(b"x")
        assert (tmp_path / name).read_bytes() == b"x"


def test_where_nothing_can_be_written_is_known_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Whole(tmp_path / "no" / "f")
