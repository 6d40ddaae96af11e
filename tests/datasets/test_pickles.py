"""Pickles of plain data, and those that want something else."""

from __future__ import annotations

import pickle
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbind.datasets.plain_pickle import Bytes, loads

_SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False) | st.text() | st.binary()
)
_PLAIN = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.binary() | st.integers(0, 9), inner) | st.tuples(inner)
    ),
)


@settings(deadline=None)
@given(_PLAIN, st.sampled_from([3, 4, 5]))
def test_plain_data_come_back_as_they_were(value: object, protocol: int) -> None:
    found = loads(pickle.dumps(value, protocol))
    assert found == value and type(found) is type(value)


@settings(deadline=None)
@given(
    st.recursive(st.none() | st.integers(-9, 9) | st.text(), lambda inner: st.lists(inner) | st.tuples(inner, inner))
)
def test_the_oldest_protocols_are_read_too(value: object) -> None:
    for protocol in (0, 1, 2):
        assert loads(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_bytes_are_read(protocol: int, order: str) -> None:
    array = np.asarray(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), order=order)
    found = loads(pickle.dumps({"data": array, "again": [array]}, protocol))
    assert isinstance(found["data"], Bytes) and found["again"][0] is found["data"]
    assert np.array_equal(found["data"].array, array)


def test_python_2_wrote_strings_that_are_bytes() -> None:
    # {'labels': [3, 'caf\xe9']} by Python 2's cPickle, protocol 2.
    data = b"\x80\x02}q\x01U\x06labelsq\x02]q\x03(K\x03U\x04caf\xe9q\x04es."
    assert loads(data) == {b"labels": [3, b"caf\xe9"]}


def test_python_2_wrote_arrays_of_strings() -> None:
    # As in the published files: the array's bytes are a string.
    content = bytes(range(12))
    data = (
        b"\x80\x02}q\x01U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87R"
        b"q\x05(K\x01J\x02\x00\x00\x00M\x06\x00\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89T\x0c\x00\x00\x00" + content + b"tbs."
    )
    assert np.array_equal(loads(data)[b"data"].array, np.frombuffer(content, np.uint8).reshape(2, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of numpy have other names for themselves
        real = pickle.loads(data, encoding="bytes")
    assert np.array_equal(real[b"data"], loads(data)[b"data"].array)


class _Evil:
    def __reduce__(self):
        return print, ("owned",)


def _function(module: str, name: str) -> bytes:
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(X\x04\x00\x00\x00echot R.".replace(b" ", b"")


HOSTILE = {
    "os.system": (_function("os", "system"), "wants to run os.system"),
    "eval": (_function("builtins", "eval"), "wants to run builtins.eval"),
    "an object that runs code": (pickle.dumps(_Evil()), "wants to run"),
    "numpy's loader": (_function("numpy", "load"), "wants to run numpy.load"),
    "a dotted name": (pickle.dumps(print, 4).replace(b"print", b"a.b.c"), "wants to run builtins.a.b.c"),
    "an array of objects": (pickle.dumps(np.array([{}, []], dtype=object), 3), "something else than uint8"),
    "an array of floats": (pickle.dumps(np.ones(3), 3), "something else than uint8"),
    "dtype called with nothing": (b"\x80\x02cnumpy\ndtype\n)R.", "something else than uint8"),
    "dtype called with a list": (b"\x80\x02cnumpy\ndtype\n]R.", "something else than uint8"),
    "a subclass of arrays": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85C\x01b\x87R.",
        "something else than uint8",
    ),
    "an extension": (b"\x80\x02\x82\x01.", "instruction EXT1"),
    "a persistent id": (b"\x80\x02Psomething\n.", "instruction PERSID"),
    "a set": (pickle.dumps({1, 2}, 4), "instruction EMPTY_SET"),
    "an instance": (b"(i__main__\nThing\n.", "instruction INST"),
    "state for a list": (b"\x80\x02](K\x01tb.", "list where Bytes should be"),
    "a deep key": (b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"K\x01s.", "a key that is a tuple"),
    "a number without end": (b"\x80\x02\x8a\xff" + b"\x01" * 255 + b".", "no label"),
    "bytes it does not have": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.", "."),
    "a memory of four billion places": (b"\x80\x02Nr\xff\xff\xff\xff(h\xff.", "damaged"),
    "nothing on the stack": (b"\x80\x02.", "damaged"),
    "a mark at the end": (b"\x80\x02(.", "a mark"),
    "a value without a key": (b"\x80\x02}(K\x01u.", "a key without a value"),
    "no end": (pickle.dumps([1, 2])[:-1], "."),
    "nothing": (b"", "."),
    "text": (b"hello", "."),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_else_a_pickle_wants_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    data, message = HOSTILE[name]
    with pytest.raises(ValueError, match=message):
        loads(data)
    assert capsys.readouterr().out == ""


# The empty tuple, twice in a tuple that is twice in a tuple, and so on: as text, or for a hash, it has 2^60 parts.
_BUSHY = b")" + b"".join(b"q%ch%c\x86" % (place, place) for place in range(60))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x04" + _BUSHY + b"X\x01\x00\x00\x00x\x93.", "a name that is no text"),
        (b"\x80\x04" + _BUSHY + b")R.", "something else than uint8"),
        (b"\x80\x04" + b"]" * 2_500_000 + b".", "more than 2000000 instructions"),
    ],
    ids=["name", "function", "lists"],
)
def test_a_small_pickle_does_not_take_time_or_memory_without_end(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loads(data)


@pytest.mark.parametrize("shape", [(1 << 40,), (3, 5), (-1, 4), ("2", 2)])
def test_an_array_has_the_bytes_it_claims(shape: tuple[object, ...]) -> None:
    whole = np.zeros((2, 2), np.uint8)
    function, arguments, state = whole.__reduce__()

    class Lying:
        def __reduce__(self):
            return function, arguments, (state[0], shape, *state[2:])

    with pytest.raises(ValueError, match="."):
        loads(pickle.dumps(Lying(), 3))


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 150))
def test_a_damaged_pickle_is_a_value_error(noise: bytes, place: int) -> None:
    whole = pickle.dumps({"data": np.zeros((2, 8), np.uint8), "labels": [0, 1], "names": ["a", "b"] * 4}, 4)
    try:
        loads(whole[:place] + noise + whole[place + len(noise) :])
    except ValueError:
        pass
