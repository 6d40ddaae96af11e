""".npy files: no pickles, no surprise allocations, no half arrays."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from slimbind.errors import LimitError, MediaError
from slimbind.media import Limits
from slimbind.media.arrays import read_npy
from slimbind.media.source import open_source


def saved(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def read(data: bytes, most: int = 10_000) -> np.ndarray:
    with open_source(data, Limits()) as source:
        return read_npy(source, max_elements=most, mend="make it smaller")


def with_header(header: str, version: tuple[int, int] = (1, 0), body: bytes = bytes(64)) -> bytes:
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + size + header.encode("latin-1") + body


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(st.sampled_from([np.float32, np.uint16, ">i4", np.float16, np.int64]), hnp.array_shapes(max_dims=3)))
def test_round_trip(array):
    for order in (array, np.asfortranarray(array)):
        out = read(saved(order))
        assert out.dtype == array.dtype
        np.testing.assert_array_equal(out, array)


def test_both_header_versions():
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4)}\n"
    for version in ((1, 0), (2, 0)):
        np.testing.assert_array_equal(read(with_header(header, version)), np.zeros((4, 4)))
    with pytest.raises(MediaError, match="version"):
        read(with_header(header, (3, 0)))


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_pickles_are_never_run():
    with pytest.raises(MediaError, match="type object"):
        read(saved(np.array([Evil()]), allow_pickle=True))


@pytest.mark.parametrize("array", [np.array(["a"]), np.zeros(3, complex), np.zeros(3, bool), np.zeros(3, "M8[s]"),
                                   np.zeros(3, [("a", "f4")])])  # fmt: skip
def test_only_real_numbers(array):
    with pytest.raises(MediaError, match="not real numbers"):
        read(saved(array))


@pytest.mark.parametrize("shape", ["(100000, 100000)", f"({2**62}, {2**62})", "(65536, 65536, 65536, 65536)"])
def test_a_large_promise_is_refused_before_reading(shape):
    data = with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n")
    with pytest.raises(LimitError, match="the limit is 10000"):
        read(data)
    with pytest.raises(MediaError, match="cut short"):
        read(data, most=2**300)


@pytest.mark.parametrize("shape", ["(0, 5)", "(-1, 5)"])
def test_empty_shapes(shape):
    with pytest.raises(MediaError, match="empty array"):
        read(with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n"))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{}",
        "not python",
        "{'descr': '<f4'}",
        "[" * 3000,
        "{" * 900,
        " " * 5000,
        "{'descr': '<f4', 'fortran_order': 3, 'shape': (1,)}",
        "{'descr': 'zz', 'fortran_order': True, 'shape': ()}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 'abc'}",
    ],
)
def test_headers_that_are_none(header):
    with pytest.raises(MediaError) as caught:
        read(with_header(header))
    assert caught.value.hint


def test_a_cut_file():
    data = saved(np.ones((20, 20)))
    for keep in (3, 9, 60, len(data) - 1):
        with pytest.raises(MediaError):
            read(data[:keep])
