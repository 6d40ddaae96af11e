"""CIFAR, MNIST's format and ESC-50, as their authors publish them."""

from __future__ import annotations

import gzip
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from slimbind import datasets
from slimbind.errors import DatasetError, UsageError


def _pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def _cifar10(folder: Path, **test: object) -> Path:
    place = folder / "cifar-10-batches-py"
    place.mkdir(parents=True)
    for seed, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        batch = {b"batch_label": name.encode(), b"data": _pixels(4, seed), b"labels": [seed, 0, 1, 2]}
        batch |= {key.encode(): value for key, value in test.items()} if name == "test_batch" else {}
        (place / name).write_bytes(pickle.dumps(batch, 3))
    names = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
    (place / "batches.meta").write_bytes(pickle.dumps({b"label_names": names, b"num_vis": 3072}, 3))
    (place / "readme.html").write_text("<html>")
    return place


def _packed(folder: Path) -> Path:
    path = folder.parent / "data.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_cifar_10(tmp_path: Path, packed: bool) -> None:
    place = _cifar10(tmp_path / "downloads")
    found = datasets.open(_packed(place) if packed else place.parent)
    assert (found.kind, found.modalities, found.classes[:2]) == ("cifar10", ("vision",), ["airplane", "automobile"])
    samples = list(found)
    assert [(one.id, one.label) for one in samples] == [
        (f"test_batch {n}", label) for n, label in enumerate([5, 0, 1, 2])
    ]
    red, green, blue = _pixels(4, 5)[3].reshape(3, 32, 32)
    assert samples[3].data.dtype == np.uint8 and np.array_equal(samples[3].data, np.stack([red, green, blue], -1))
    train = list(datasets.open(place, split="train"))
    assert [one.id for one in train[::4]] == [f"data_batch_{n} 0" for n in range(1, 6)]
    assert [one.label for one in train[::4]] == [0, 1, 2, 3, 4]
    assert len(list(datasets.open(place, split="all"))) == 24
    with pytest.raises(UsageError, match="unknown split of cifar10 'val'; allowed: all, test, train"):
        datasets.open(place, split="val")
    with pytest.raises(UsageError, match="audio was asked for, but .* has vision"):
        datasets.open(place, modalities="audio")


def test_cifar_100_has_its_fine_labels(tmp_path: Path) -> None:
    place = tmp_path / "cifar-100-python"
    place.mkdir()
    for name in ("train", "test"):
        told = {b"data": _pixels(2, 0), b"fine_labels": [1, 0], b"coarse_labels": [0, 0]}
        (place / name).write_bytes(pickle.dumps(told, 3))
    (place / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"apple", b"aquarium_fish"]}, 3))
    for path in (place, _packed(place)):
        found = datasets.open(path)
        assert (found.kind, found.classes) == ("cifar100", ["apple", "aquarium_fish"])
        assert [one.label for one in found] == [1, 0]


class _Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('owned')",)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"data": np.zeros((4, 3071), np.uint8)}, "no pictures of 3072 bytes"),
        ({"data": [1, 2]}, "no pictures"),
        ({"labels": [1]}, "one label for each of 4"),
        ({"labels": {"a": 1}}, "one label for each"),
        ({"extra": _Evil()}, "wants to run builtins.exec"),
        ({"data": np.zeros((4, 3072))}, "something else than uint8"),
    ],
)
def test_a_batch_that_is_not_what_it_should_be_is_refused(tmp_path: Path, broken, message: str) -> None:
    found = datasets.open(_cifar10(tmp_path, **broken))
    with pytest.raises(DatasetError, match=message):
        list(found)


def test_labels_without_a_class_are_left_out(tmp_path: Path) -> None:
    found = datasets.open(_cifar10(tmp_path, labels=[10, -1, True, 9]))
    assert [one.label for one in found] == [9]
    assert [why for _, why in found.skipped] == ["has the label 10", "has the label -1", "has the label True"]


def test_a_label_that_is_a_tree_is_left_out_by_its_type(tmp_path: Path) -> None:
    label: tuple[object, ...] = ()
    for _ in range(60):  # as text it would have 2^60 parts
        label = (label, label)
    found = datasets.open(_cifar10(tmp_path, labels=[label, 1, None, 9]))
    assert [one.label for one in found] == [1, 9]
    assert [why for _, why in found.skipped] == ["has the label of type tuple", "has the label of type NoneType"]


def test_cifar_with_missing_files_says_which(tmp_path: Path) -> None:
    place = _cifar10(tmp_path)
    (place / "data_batch_3").unlink()
    with pytest.raises(DatasetError, match="data_batch_3 cannot be read"):
        list(datasets.open(place, split="train"))
    with pytest.raises(DatasetError, match="data_batch_3 is missing"):
        list(datasets.open(_packed(place), split="train"))
    (place / "batches.meta").unlink()
    with pytest.raises(DatasetError, match="has no batches.meta of cifar10"):
        datasets.open(place, kind="cifar10")


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def _mnist(folder: Path, *, packed: bool = True) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", 5), ("t10k", 3)):
        for what, array in (
            ("images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)),
            ("labels-idx1-ubyte", np.arange(count, dtype=np.uint8) + 7),
        ):
            data = _idx(array)
            path = folder / f"{name}-{what}{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data) if packed else data)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist(tmp_path: Path, packed: bool) -> None:
    folder = _mnist(tmp_path / "FashionMNIST" / "raw", packed=packed)
    found = datasets.open(folder.parent)
    assert (found.kind, len(found), found.classes[7]) == ("fashion-mnist", 3, "Sneaker")
    samples = list(found)
    assert [one.label for one in samples] == [7, 8, 9]
    assert samples[0].data.shape == (28, 28) and samples[0].data.dtype == np.uint8
    train = datasets.open(folder, split="train")
    assert [one.label for one in train] == [7, 8, 9] and len(train) == 5  # 10 and 11 are no classes
    assert [why for _, why in train.skipped] == ["has the label 10", "has the label 11"]
    assert len(datasets.open(folder, split="all")) == 8
    with pytest.raises(UsageError, match="unknown split"):
        datasets.open(folder, split="fold1")


def test_class_names_of_idx_files_are_numbers_or_lie_beside_them(tmp_path: Path) -> None:
    folder = _mnist(tmp_path / "digits")
    name = "t10k-images-idx3-ubyte.gz"
    assert datasets.open(folder / name).classes == [str(number) for number in range(10)]
    (folder / "classes.txt").write_text("\n".join("abcdefghij"))
    assert datasets.open(folder).classes == list("abcdefghij")
    assert datasets.open(folder, kind="fashion-mnist").classes[0] == "T-shirt/top"
    with pytest.raises(DatasetError, match="has no t10k-images"):
        datasets.open(tmp_path, kind="idx")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (struct.pack(">4I", 0x803, 1 << 31, 28, 28), "claims 2147483648 x 28 x 28"),
        (struct.pack(">4I", 0x803, 3, 1 << 20, 1 << 20), "claims 3 x 1048576"),
        (struct.pack(">4I", 0x803, 0, 28, 28), "claims 0"),
        (struct.pack(">4I", 0xD03, 3, 28, 28), "no idx file of 3 dimensions of uint8"),
        (struct.pack(">4I", 0x803, 90_000_000, 28, 28), "90000000 pictures, and .* 3 labels"),
        (struct.pack(">4I", 0x803, 3, 4000, 4000), "cut short"),
        (struct.pack(">4I", 0x803, 3, 28, 27), "holds more than its header says"),
    ],
)
def test_a_header_is_believed_only_as_far_as_there_are_bytes(tmp_path: Path, header: bytes, message: str) -> None:
    folder = _mnist(tmp_path / "m", packed=False)
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(header + path.read_bytes()[16:])
    with pytest.raises(DatasetError, match=message):
        list(datasets.open(folder))


def test_a_compressed_file_that_was_cut_or_changed_is_refused(tmp_path: Path) -> None:
    folder = _mnist(tmp_path / "m")
    path = folder / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for broken in (whole[:-200], whole[:100] + bytes(100) + whole[200:], whole[:5], b""):
        path.write_bytes(broken)
        with pytest.raises(DatasetError):
            list(datasets.open(folder))


def _esc50(folder: Path, rows: str, header: str = "filename,fold,target,category,esc10,src_file,take") -> Path:
    (folder / "meta").mkdir(parents=True)
    (folder / "audio").mkdir()
    (folder / "meta" / "esc50.csv").write_text(f"{header}\n{rows}")
    return folder


def test_esc_50_has_folds(tmp_path: Path) -> None:
    rows = "".join(
        f"{fold}-1-A-{n}.wav,{fold},{n},{name},True,1,A\n"
        for fold in range(1, 6)
        for n, name in enumerate(("dog", "chirping_birds"))
    )
    folder = _esc50(tmp_path, rows)
    found = datasets.open(folder)
    assert (found.kind, found.classes, len(found)) == ("esc50", ["chirping_birds", "dog"], 10)
    first = next(iter(found))
    assert (first.data, first.label, first.id) == (folder / "audio" / "1-1-A-0.wav", 1, "1-1-A-0.wav")
    assert [one.id[0] for one in datasets.open(folder, split="train")] == list("11223344")
    assert [one.id[0] for one in datasets.open(folder, split="test")] == ["5", "5"]
    assert [one.id[0] for one in datasets.open(folder, split="fold2")] == ["2", "2"]
    with pytest.raises(UsageError, match="unknown split of esc50 'fold6'"):
        datasets.open(folder, split="fold6")


def test_a_list_of_esc_50_names_only_what_lies_in_audio(tmp_path: Path) -> None:
    found = datasets.open(_esc50(tmp_path, "../../x.wav,1,0,dog,,,\n/etc/x.wav,1,0,dog,,,\na.wav,1,0,dog,,,\n"))
    assert [one.id for one in found] == ["a.wav"]
    assert all("lies outside" in why for _, why in found.skipped) and len(found.skipped) == 2


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ("a.wav,1,dog\n", "filename,fold,class", "has no column category"),
        ("a.wav,6,dog\n", "filename,fold,category", "no fold from 1 to 5"),
        ("a.wav\n", "filename,fold,category", "no fold"),
        ("", "filename,fold,category", "has no rows"),
        ("", "", "has no column"),
    ],
)
def test_a_list_of_esc_50_that_is_none_is_refused(tmp_path: Path, rows: str, header: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        datasets.open(_esc50(tmp_path, rows, header))
