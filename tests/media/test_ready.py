"""Inputs from a .npz are what a preprocessor would have given, or refused with the place of the mistake."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from slimbind.errors import UsageError
from slimbind.media.ready import names_in, read_npz
from slimbind.media.spec import AudioSpec, DepthSpec, ImageSpec, ImuSpec, TextSpec, ThermalSpec

SHAPES = {
    "vision": (ImageSpec(size=32), [(3, 32, 32), (3, 1, 32, 32), (3, 2, 32, 32)]),
    "audio": (AudioSpec(), [(1, 128, 204)]),
    "depth": (DepthSpec(size=16), [(1, 16, 16)]),
    "thermal": (ThermalSpec(size=16), [(1, 16, 16)]),
    "imu": (ImuSpec(samples=50), [(6, 50)]),
}


@pytest.mark.parametrize("modality", SHAPES)
def test_each_item_is_one_view(tmp_path, modality):
    spec, shapes = SHAPES[modality]
    for shape in shapes:
        array = np.random.default_rng(0).normal(size=(3, *shape))
        np.savez(tmp_path / "x.npz", **{modality: array, "other": np.zeros(2)})
        items = read_npz(tmp_path / "x.npz", modality, spec)
        assert [item.shape for item in items] == [(1, *shape)] * 3
        assert all(item.dtype == np.float32 for item in items)
        np.testing.assert_array_equal(items[1][0], array[1].astype(np.float32))


def test_texts_lose_their_padding_but_not_what_looks_like_it_inside(tmp_path):
    rows = [[7, 0, 5, 0, 0], [9, 0, 0, 0, 0], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]]
    np.savez(tmp_path / "x.npz", text=np.array(rows, np.int64))
    items = read_npz(tmp_path / "x.npz", "text", TextSpec())
    assert [item.tolist() for item in items] == [[7, 0, 5], [9], [1, 2, 3, 4, 5], [0]]
    assert all(item.dtype == np.int32 for item in items)


def test_the_names_are_told(tmp_path):
    np.savez(tmp_path / "x.npz", vision=np.zeros(1), audio=np.zeros(1))
    assert names_in(tmp_path / "x.npz") == ("audio", "vision")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 1, 16, 17)), r"depth is float64 \[2, 1, 16, 17\]; wanted: floats \[n, 1, 16, 16\]"),
        (np.zeros((2, 16, 16)), "wanted: floats"),
        (np.zeros((0, 1, 16, 16)), "depth holds an empty array"),
        (np.zeros((2, 1, 16, 16), np.uint8), "depth is uint8"),
        (np.zeros((2, 1, 16, 16), bool), "depth holds values of type bool"),
        (np.zeros((2, 1, 16, 16), complex), "depth holds values of type complex"),
        (np.full((2, 1, 16, 16), np.nan), "NaN or infinite"),
        (np.array(1.0), "wanted: floats"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, message):
    np.savez(tmp_path / "x.npz", depth=array)
    with pytest.raises(UsageError, match=message):
        read_npz(tmp_path / "x.npz", "depth", DepthSpec(size=16))


def test_texts_are_whole_numbers(tmp_path):
    np.savez(tmp_path / "x.npz", text=np.zeros((2, 3)))
    with pytest.raises(UsageError, match=r"text is float64 \[2, 3\]; wanted: whole numbers \[n, length\]"):
        read_npz(tmp_path / "x.npz", "text", TextSpec())


def test_a_missing_array_names_those_that_are_there(tmp_path):
    np.savez(tmp_path / "x.npz", vision=np.zeros(1), audio=np.zeros(1))
    with pytest.raises(UsageError, match="has no array 'depth'; it has audio, vision"):
        read_npz(tmp_path / "x.npz", "depth", DepthSpec())
    with pytest.raises(UsageError, match="no such file"):
        read_npz(tmp_path / "y.npz", "depth", DepthSpec())


def test_an_array_that_promises_more_than_anybody_has_is_not_believed(tmp_path):
    """Some kilobytes of zeros, deflated, that would be terabytes in memory."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 1, 16, 16)}
    )
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", header.getvalue() + bytes(1 << 20))
    with pytest.raises(UsageError, match="depth holds 281474976710656 numbers; the limit is"):
        read_npz(tmp_path / "x.npz", "depth", DepthSpec(size=16))


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", depth=np.array([{}], object))
    np.savez_compressed(tmp_path / "good.npz", depth=np.random.default_rng(0).normal(size=(4, 1, 16, 16)))
    good = (tmp_path / "good.npz").read_bytes()
    for content in (
        b"",
        b"PK\x03\x04 no archive",
        (tmp_path / "one.npy").read_bytes(),
        (tmp_path / "objects.npz").read_bytes(),
        good[: len(good) // 2],
        good[:2000] + b"\xff" * 200 + good[2200:],
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"x\.npz is not a \.npz of plain arrays"):
            read_npz(path, "depth", DepthSpec(size=16))
