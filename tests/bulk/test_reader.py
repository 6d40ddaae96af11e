"""The reader finds what is asked for, in order, skips the rest in folders and says so, and never hangs."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbind.bulk import Reader
from slimbind.bulk.reader import paths_of
from slimbind.errors import UsageError

ALL = ("vision", "text", "audio")


def found(folder, items):
    return [(os.path.relpath(item.id, folder), item.modality) for item in items]


def reason(item):
    assert item.error is not None, item
    return str(item.error)


def test_a_folder_is_read_in_order_and_what_is_left_out_is_counted(toy_folder):
    reader = Reader("toy", ("vision", "audio"))
    assert found(toy_folder, reader.paths([str(toy_folder)])) == [
        ("deep/er/blue.png", "vision"),
        ("green.jpg", "vision"),
        ("red.png", "vision"),
        ("sounds/rumble.wav", "audio"),
        ("sounds/whistle.flac", "audio"),
    ]
    assert reader.skipped == {"text, for which toy has no tower": 1, "of no known type": 1}


def test_only_what_is_wanted_is_taken_from_a_folder_but_what_is_named_is_taken(toy_folder):
    reader = Reader("toy", ALL, wanted=("audio",))
    assert [item.modality for item in reader.paths([str(toy_folder)])] == ["audio", "audio"]
    assert reader.skipped["vision, not asked for"] == 3
    (item,) = reader.paths([str(toy_folder / "red.png")])
    assert (item.modality, item.error) == ("vision", None)


def test_size_and_time_are_those_of_the_file(toy_folder):
    path = toy_folder / "red.png"
    os.utime(path, ns=(5, 123_456_789))
    (item,) = Reader("toy", ALL).paths([str(path)])
    assert (item.source, item.size, item.mtime_ns) == (path, path.stat().st_size, 123_456_789)


def test_a_named_modality_overrides_the_type(toy_folder):
    reader = Reader("six", (*ALL, "thermal"), modality="thermal")
    assert found(toy_folder, reader.paths([str(toy_folder)])) == [
        ("deep/er/blue.png", "thermal"),
        ("green.jpg", "thermal"),
        ("red.png", "thermal"),
    ]
    assert reader.skipped == {"not thermal by type": 4}
    (item,) = reader.paths([str(toy_folder / "table.xlsx")])  # named: let the decoder judge
    assert (item.modality, item.error) == ("thermal", None)


@pytest.mark.parametrize("modality", ["depth", "smell"])
def test_a_modality_the_model_lacks_is_refused_at_once(modality):
    with pytest.raises(UsageError, match=f"'{modality}'; allowed"):
        Reader("toy", ALL, modality=modality)
    with pytest.raises(UsageError, match=f"'{modality}'; allowed"):
        Reader("toy", ALL, wanted=[modality])


def test_what_is_named_and_cannot_be_used_is_an_error(toy_folder):
    loop = toy_folder / "loop.png"
    loop.symlink_to(loop)
    dangling = toy_folder / "dangling.png"
    dangling.symlink_to(toy_folder / "nothing.png")
    bare = toy_folder / "README"
    bare.write_text("x")
    reader = Reader("toy", ("vision",))
    names = ["missing.png", "table.xlsx", "notes.txt", "README", "dangling.png", "loop.png"]
    reasons = [reason(item) for item in reader.paths(str(toy_folder / name) for name in names)]
    for text, part in zip(
        reasons,
        [
            "no such file or folder",
            "its type '.xlsx' does not tell a modality (say what it is: --modality vision)",
            "is text, and toy has vision only",
            "its name has no file type",
            "is a link to nothing",
            "symbolic link",
        ],
        strict=True,
    ):
        assert part in text


def test_links_are_followed_to_files_and_not_into_loops(toy_folder):
    (toy_folder / "again").symlink_to(toy_folder, target_is_directory=True)
    (toy_folder / "link.png").symlink_to(toy_folder / "red.png")
    (toy_folder / "lost.png").symlink_to("nothing")
    (toy_folder / "loop.png").symlink_to("loop.png")
    reader = Reader("toy", ("vision",))
    items = list(reader.paths([str(toy_folder)]))
    assert [name for name, _ in found(toy_folder, items)] == [
        "deep/er/blue.png",
        "green.jpg",
        "link.png",
        "loop.png",
        "lost.png",
        "red.png",
    ]
    assert [os.path.basename(item.id) for item in items if item.error] == ["loop.png", "lost.png"]
    assert reader.skipped["links to folders"] == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    reader = Reader("toy", ALL)
    assert list(reader.paths([str(tmp_path)])) == []
    assert reader.skipped == {"not regular files": 1}
    (item,) = reader.paths([str(tmp_path / "pipe.png")])
    assert "is not a regular file" in reason(item)


def test_a_folder_that_looks_like_a_picture_is_a_folder(tmp_path):
    (tmp_path / "album.png").mkdir()
    (tmp_path / "album.png" / "a.png").write_bytes(b"x")
    assert found(tmp_path, Reader("toy", ALL).paths([str(tmp_path)])) == [("album.png/a.png", "vision")]


def test_a_folder_that_cannot_be_listed_is_one_error(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b.png").write_bytes(b"x")
    real = os.scandir

    def refuse(path):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    reader = Reader("toy", ALL)
    first, second = reader.paths([str(tmp_path)])
    assert "Permission denied" in reason(first)
    assert second.error is None
    assert reader.unreadable == [str(tmp_path / "a")]


def test_the_excluded_folder_is_not_entered(toy_folder):
    reader = Reader("toy", ("vision",), exclude=toy_folder / "deep")
    assert len(list(reader.paths([str(toy_folder)]))) == 2


def test_strange_names_are_found(tmp_path):
    names = [b"\xff\xfe.png", b"new\nline.png", b" space .png", "日本.png".encode(), b"-o.png", b"%s.PNG"]
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
            pass
    items = list(Reader("toy", ALL).paths([str(tmp_path)]))
    assert {os.fsencode(os.path.basename(item.id)) for item in items} == set(names)
    assert all(item.error is None for item in items)


def test_a_deep_tree_is_walked(tmp_path):
    deep = tmp_path
    for _ in range(300):
        deep = deep / "d"
    os.makedirs(deep)
    (deep / "x.png").write_bytes(b"x")
    assert len(list(Reader("toy", ALL).paths([str(tmp_path)]))) == 1


def test_lines_of_a_file_are_texts_with_line_numbers(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffred\r\n\n  blue  \nlast".encode())
    reader = Reader("toy", ALL, lines=True)
    items = list(reader.paths([str(path)]))
    assert [(item.id, item.source) for item in items] == [
        (f"{path}:1", "red"),
        (f"{path}:3", "blue"),
        (f"{path}:4", "last"),
    ]
    assert reader.skipped == {"blank lines": 1}
    assert [item.id for item in reader.paths([str(tmp_path)])] == [item.id for item in items]


def test_bad_lines_are_errors_and_the_rest_goes_on():
    stream = io.BytesIO(b"good\n\xff\xfe\n" + b"x" * (3 << 20) + b"\nend\n")
    items = list(Reader("toy", ALL).lines_of(stream, "-"))
    assert [item.id for item in items] == ["-:1", "-:2", "-:3", "-:4"]
    assert [bool(item.error) for item in items] == [False, True, True, False]
    assert "is not UTF-8" in reason(items[1])
    assert "more than 1048576 bytes" in reason(items[2])


def test_texts_need_a_text_tower():
    reader = Reader("toy", ("vision",))
    with pytest.raises(UsageError, match="unknown modality of toy 'text'; allowed: vision"):
        list(reader.texts(["red"]))
    with pytest.raises(UsageError, match="unknown modality of toy 'text'"):
        list(reader.lines_of(io.BytesIO(b"red"), "-"))


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1).filter(lambda name: b"\0" not in name), max_size=20), st.booleans())
def test_listed_paths_come_back_as_they_were(names, ends):
    data = b"\0".join(names) + (b"\0" if ends else b"")
    expected = [os.fsdecode(name) for name in names]
    assert list(paths_of(io.BytesIO(data), null=True)) == expected


def test_listed_paths_may_have_windows_line_ends_and_blank_lines():
    assert list(paths_of(io.BytesIO(b"a.png\r\n\nb c.png\n\r\nlast"))) == ["a.png", "b c.png", "last"]


def test_a_path_across_two_blocks_is_one_path():
    names = [("x" * 1000) + str(n) for n in range(200)]
    assert list(paths_of(io.BytesIO("\n".join(names).encode()))) == names


def test_the_reader_is_lazy(tmp_path):
    """A list of paths without end gives its first items at once."""

    def endless():
        while True:
            yield str(tmp_path / "missing.png")

    items = Reader("toy", ALL).paths(endless())
    assert [next(items).id for _ in range(3)] == [str(tmp_path / "missing.png")] * 3


def test_nothing_is_found_in_an_empty_folder(tmp_path: Path):
    assert list(Reader("toy", ALL).paths([str(tmp_path)])) == []
