"""What a data set gives is what an encoder takes, of every kind."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

import slimbind
from slimbind import datasets

RED = np.zeros((32, 32, 3), np.uint8) + np.array([220, 10, 10], np.uint8)


@pytest.fixture(scope="module")
def model(toy_artifact: Path) -> Iterator[slimbind.Model]:
    with slimbind.load(toy_artifact, threads=1) as opened:
        yield opened


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RED).save(buffer, "PNG")
    return buffer.getvalue()


def _wave(kind: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.5 * np.sin(2 * np.pi * 6000 * np.arange(16000) / 16000), 16000, format=kind)
    return buffer.getvalue()


def _file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _cifar(folder: Path) -> Path:
    _file(folder / "batches.meta", pickle.dumps({b"label_names": [b"red"]}, 3))
    pixels = RED.transpose(2, 0, 1).reshape(1, -1)
    return _file(folder / "test_batch", pickle.dumps({b"data": pixels, b"labels": [0]}, 3)).parent


def _idx(folder: Path) -> Path:
    _file(folder / "t10k-images-idx3-ubyte", struct.pack(">4I", 0x803, 1, 28, 28) + bytes([200]) * 784)
    return _file(folder / "t10k-labels-idx1-ubyte", struct.pack(">2I", 0x801, 1) + b"\3").parent


def _tar(path: Path, **files: bytes) -> Path:
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w") as tar:
        for kind, content in files.items():
            info = tarfile.TarInfo(f"1.{kind}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def _parquet(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"image": pa.array([{"bytes": _png(), "path": "a.png"}]), "label": pa.array([0])}), path)
    return path


def _esc50(folder: Path) -> Path:
    _file(folder / "audio" / "a.wav", _wave("WAV"))
    return _file(folder / "meta" / "esc50.csv", b"filename,fold,category\na.wav,1,whistle\n").parents[1]


MAKE = {
    "folder": lambda at: _file(at / "red" / "1.png", _png()).parents[1],
    "pairs": lambda at: _file(_file(at / "1.png", _png()).with_name("p.csv"), b"image,caption\n1.png,red\n"),
    "cifar10": _cifar,
    "idx": _idx,
    "esc50": _esc50,
    "webdataset": lambda at: _tar(at / "x.tar", png=_png(), txt=b"red"),
    "webdataset of sounds": lambda at: _tar(at / "x.tar", flac=_wave("FLAC"), txt=b"whistle"),
    "hf-parquet": lambda at: _parquet(at / "x.parquet"),
}


@pytest.mark.parametrize("name", MAKE)
def test_an_encoder_takes_it(model: slimbind.Model, tmp_path: Path, name: str) -> None:
    data = datasets.open(MAKE[name](tmp_path / "data"))
    assert data.kind == name.split(" ")[0]
    samples = list(data)
    vectors = model.embed([one.data for one in samples], data.modalities[0])
    word = "whistle" if data.modalities[0] == "audio" else "red"
    if data.kind != "idx":  # which is grey
        assert vectors @ model.embed([word], "text")[0] > 0.9
    if len(data.modalities) == 2:
        assert [one.other for one in samples] == [word]
        assert model.embed([one.other for one in samples], data.modalities[1]).shape == (1, 8)


def test_two_folders_are_taken_too(model: slimbind.Model, tmp_path: Path) -> None:
    _file(tmp_path / "photos" / "a.png", _png())
    _file(tmp_path / "sounds" / "a.wav", _wave("WAV"))
    data = datasets.open(tmp_path / "photos", tmp_path / "sounds")
    (one,) = data
    assert data.modalities == ("vision", "audio")
    assert model.embed([one.data], "vision").shape == model.embed([one.other], "audio").shape == (1, 8)
