"""Pickles of plain data, read without unpickling: dictionaries, lists, numbers, strings, and arrays of bytes.

A pickle is a program, and ``pickle`` runs it. This reads the same format with a machine of its own that knows only the
instructions such data need. It calls nothing: where a pickle asks for a function, the name has to be one of the three
that numpy's arrays ask for, and those are acted out here for arrays of uint8. Whatever else a pickle wants is an error.
Nothing here takes a size from a pickle without having the bytes, and no pickle may have more than two million
instructions (CIFAR-100 has a tenth of that): an empty list is one byte in it, and fifty-six in memory.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LONGEST_NUMBER = 20  # digits, or bytes; more is no label
_MOST_STEPS = 2_000_000
_MARK = object()


@dataclass
class Bytes:
    """An array as it stands in a pickle; ``array`` is there when the pickle is read to its end."""

    array: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class _Name:
    """A function that a pickle asks for. It is not looked up."""

    module: str
    name: str


@dataclass(frozen=True)
class _Uint8:
    """numpy's ``dtype("u1")``."""


_RECONSTRUCT = {_Name("numpy.core.multiarray", "_reconstruct"), _Name("numpy._core.multiarray", "_reconstruct")}
_NDARRAY = _Name("numpy", "ndarray")
_DTYPE = _Name("numpy", "dtype")
_ALLOWED = {*_RECONSTRUCT, _NDARRAY, _DTYPE}


def loads(data: bytes) -> Any:  # noqa: ANN401  (whatever plain thing was pickled)
    """The object in a pickle. Strings of Python 2 come back as bytes, arrays as ``Bytes``.

    Raises:
        ValueError: it is no pickle, was cut, or holds anything but plain data; the message says what.
    """
    machine = _Machine()
    try:
        for code, value, _ in islice(pickletools.genops(data), _MOST_STEPS):
            if code.name == "STOP":
                return machine.pop()
            machine.step(code.name, value)
    except ValueError:
        raise
    except Exception as error:  # a damaged pickle can go wrong anywhere
        raise ValueError(f"is damaged: {type(error).__name__}: {error}") from error
    raise ValueError(f"has more than {_MOST_STEPS} instructions")


@dataclass
class _Machine:
    """The stack and the memory of a pickle that is being read."""

    stack: list[Any] = field(default_factory=list)
    memory: dict[int, Any] = field(default_factory=dict)

    def step(self, name: str, value: Any) -> None:  # noqa: ANN401
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _VALUES:
            self.stack.append(_checked(value))
        elif name in _STRINGS:  # of Python 2, which are bytes
            self.stack.append(value.encode("latin-1"))
        elif name in _IGNORED:
            pass
        elif name in _STEPS:
            _STEPS[name](self, value)
        else:
            raise ValueError(f"has the instruction {name}, which plain data do not need")

    def pop(self) -> Any:  # noqa: ANN401
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("is damaged: a mark where a value should be")
        return value

    def top(self, kind: type) -> Any:  # noqa: ANN401
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"is damaged: {type(self.stack[-1]).__name__} where {kind.__name__} should be")
        return self.stack[-1]

    def since_mark(self) -> list[Any]:
        place = len(self.stack) - 1 - next(n for n, one in enumerate(reversed(self.stack)) if one is _MARK)
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def put(self, place: int | None) -> None:
        self.memory[len(self.memory) if place is None else place] = self.stack[-1]

    def get(self, place: int) -> None:
        self.stack.append(self.memory[place])

    def pair(self, count: int) -> None:
        values = tuple(self.pop() for _ in range(count))
        self.stack.append(values[::-1])

    def append(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def set_items(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise ValueError("is damaged: a key without a value")
        target = self.top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str | bytes | int):  # the hash of a tuple in a tuple in ... has no limit
                raise ValueError(f"has a key that is a {type(key).__name__}")
            target[key] = value

    def name(self, module: object, name: object) -> None:
        # Not of anything else: the text of a tuple that has another twice, and so on, has no limit either.
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("is damaged: a name that is no text")
        found = _Name(module, name)
        if found not in _ALLOWED:
            raise ValueError(f"wants to run {found.module}.{found.name}")
        self.stack.append(found)

    def call(self) -> None:
        values, function = self.pop(), self.pop()
        if isinstance(values, tuple) and isinstance(function, _Name):
            if function in _RECONSTRUCT and values[:1] == (_NDARRAY,):
                self.stack.append(Bytes())
                return
            if function == _DTYPE and values[:1] in (("u1",), (b"u1",)):
                self.stack.append(_Uint8())
                return
        raise ValueError("has an array of something else than uint8")

    def build(self) -> None:
        state = self.pop()
        if isinstance(self.stack[-1], _Uint8):
            return  # byte order, which one byte does not have
        target = self.top(Bytes)
        match state:
            case (1, (*shape,), _Uint8(), bool(), bytes(content)) if all(type(n) is int and n >= 0 for n in shape):
                target.array = np.frombuffer(content, np.uint8).reshape(shape, order="F" if state[3] else "C")
            case _:
                raise ValueError("has an array of something else than uint8")


def _checked(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, int) and value.bit_length() > 8 * _LONGEST_NUMBER:
        raise ValueError("has a number that is no label")
    return value


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG", "BINFLOAT", "FLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
_IGNORED = {"PROTO", "FRAME"}
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "DICT": lambda machine, _: _begin(machine, dict),
    "LIST": lambda machine, _: _begin(machine, list),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.pair(1),
    "TUPLE2": lambda machine, _: machine.pair(2),
    "TUPLE3": lambda machine, _: machine.pair(3),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "GLOBAL": lambda machine, value: machine.name(*str(value).split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*[machine.pop(), machine.pop()][::-1]),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}


def _begin(machine: _Machine, kind: type) -> None:
    """The older protocols make a list or dictionary out of everything since the mark."""
    values = machine.since_mark()
    machine.stack.append(kind())
    if kind is dict:
        machine.set_items(values)
    else:
        machine.append(values)
