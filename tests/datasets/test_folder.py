"""Class by subfolder, and two folders with matching names."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimbind import datasets
from slimbind.errors import DatasetError, UsageError


def test_subfolders_are_classes_in_the_order_of_their_names(tmp_path: Path, picture) -> None:
    for name in ("truck/b.png", "truck/deep/a.jpg", "bird/z.webp", "bird/.hidden.png", ".cache/x.png"):
        picture(tmp_path / name)
    (tmp_path / "README.txt").write_text("what this is")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("label more")
    found = datasets.open(tmp_path)
    assert (found.kind, found.classes, found.modalities, len(found)) == ("folder", ["bird", "truck"], ("vision",), 3)
    assert [(one.id, one.label) for one in found] == [("bird/z.webp", 0), ("truck/b.png", 1), ("truck/deep/a.jpg", 1)]
    assert [one.data for one in found] == [tmp_path / one.id for one in found]  # and a second pass gives the same


def test_the_folder_one_is_in_has_a_name(tmp_path: Path, picture, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "cat" / "a.png")
    monkeypatch.chdir(tmp_path / "cat")
    assert datasets.open("..").path.name == tmp_path.name
    monkeypatch.chdir(tmp_path)
    found = datasets.open(".")
    assert found.path.name == tmp_path.name and [one.id for one in found] == ["cat/a.png"]


def test_a_split_is_a_subfolder_and_must_be_named(tmp_path: Path, picture) -> None:
    picture(tmp_path / "train" / "cat" / "a.png")
    picture(tmp_path / "test" / "cat" / "b.png")
    with pytest.raises(UsageError, match="holds splits: test, train"):
        datasets.open(tmp_path)
    assert [one.id for one in datasets.open(tmp_path, split="test")] == ["cat/b.png"]
    with pytest.raises(UsageError, match="unknown split .*'val'; allowed: test, train"):
        datasets.open(tmp_path, split="val")


def test_files_of_several_modalities_need_a_word(tmp_path: Path, picture) -> None:
    picture(tmp_path / "dog" / "a.jpg")
    picture(tmp_path / "dog" / "depth.png")
    (tmp_path / "dog" / "bark.wav").write_bytes(b"RIFF")
    with pytest.raises(UsageError, match="several modalities: 2 vision, 1 audio"):
        datasets.open(tmp_path)
    assert [one.id for one in datasets.open(tmp_path, modalities="audio")] == ["dog/bark.wav"]
    assert [one.id for one in datasets.open(tmp_path, modalities="depth")] == ["dog/depth.png"]
    with pytest.raises(UsageError, match="has no files of imu"):
        datasets.open(tmp_path, modalities="imu")


def test_what_is_no_data_set_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no data set of a known kind") as caught:
        datasets.open(tmp_path)
    assert all(kind in caught.value.hint for kind in datasets.KINDS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no files of a known type"):
        datasets.open(tmp_path)


def test_a_folder_that_may_not_be_listed_is_an_error_of_the_data(
    tmp_path: Path, picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    picture(tmp_path / "cat" / "1.png")
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DatasetError, match=f"{tmp_path} cannot be read: Permission denied"):
        datasets.open(tmp_path)
    with pytest.raises(DatasetError, match="cannot be read: File name too long"):
        datasets.open("x" * 5000)


def test_arguments_that_do_not_fit_are_refused(tmp_path: Path, picture) -> None:
    picture(tmp_path / "cat" / "a.png")
    for wrong, message in (
        ({"kind": "imagenet"}, "unknown kind of data set 'imagenet'; allowed: auto, "),
        ({"columns": ["a", "b"]}, "columns was given, but .* of kind folder"),
        ({"modalities": "smell"}, "unknown modality 'smell'"),
        ({"kind": "matching"}, "1 paths were named"),
    ):
        with pytest.raises(UsageError, match=message):
            datasets.open(tmp_path, **wrong)
    with pytest.raises(UsageError, match="no such file or folder"):
        datasets.open(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no data was named"):
        datasets.open()


def test_files_of_one_name_are_a_pair(tmp_path: Path, picture) -> None:
    left, right = tmp_path / "photos", tmp_path / "captions"
    for name in ("a.jpg", "sea/b.png", "c.png", "d.png", "d.jpg", "e.png", "f.png"):
        picture(left / name)
    (right / "sea").mkdir(parents=True)
    for name, text in (("a.txt", " A cat \n"), ("sea/b.txt", "waves"), ("d.txt", "two"), ("e.txt", ""), ("g.txt", "x")):
        (right / name).write_text(text)
    (right / "f.txt").write_bytes(b"\xff\xfe\xfd")
    found = datasets.open(left, right)
    assert (found.kind, found.modalities) == ("matching", ("vision", "text"))
    assert [(one.id, one.data, one.text, one.other) for one in found] == [
        ("a", left / "a.jpg", "A cat", "A cat"),
        ("sea/b", left / "sea" / "b.png", "waves", "waves"),
    ]
    reasons = dict(found.skipped)
    assert "several files" in reasons["d"] and "empty" in reasons["e"] and "not UTF-8" in reasons["f"]
    assert f"is not in {right}" in reasons["c"] and f"is not in {left}" in reasons["g"]
    turned = next(iter(datasets.open(right, left)))
    assert (turned.data, turned.text, turned.other) == ("A cat", "A cat", left / "a.jpg")


def test_folders_without_a_common_name_are_refused(tmp_path: Path, picture) -> None:
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "b" / "2.png")
    with pytest.raises(UsageError, match="no names in common: 1; 2"):
        datasets.open(tmp_path / "a", tmp_path / "b")


def test_a_data_set_of_nothing_but_bad_samples_is_an_error(tmp_path: Path, picture) -> None:
    picture(tmp_path / "a" / "1.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.txt").write_text("  \n")
    with pytest.raises(DatasetError, match="no sample that can be used; the first of 1: 1: the text is empty"):
        list(datasets.open(tmp_path / "a", tmp_path / "b"))
