"""Takes the weights out of a TorchScript archive without loading the program in it (OpenAI publishes CLIP so).

Such an archive holds code, and a pickle of the module tree whose leaves point at members ``data/N``. The pickle is read
here by an unpickler that knows six names: it builds plain records in place of modules and tensors, and refuses every
other name. The code is never looked at.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimbind.errors import CheckpointError, UnsafeCheckpointError

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
# What an unpickler answers to nonsense depends on the nonsense.
_NONSENSE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    struct.error,
)
_DAMAGED = "the file is damaged or was cut short: fetch it again"


class _Sealed:
    def __setstate__(self, state: object) -> None:
        raise ValueError("a tensor's record is not to be changed")  # a pickle may try to, after it was checked


@dataclass(frozen=True)
class Stored(_Sealed):
    """Where the values of a tensor lie: a member of the archive, and the tensor's view of it."""

    member: str
    dtype: torch.dtype
    count: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Storage(_Sealed):
    member: str
    dtype: torch.dtype
    count: int


class _Module:
    """Stands for a module: its attributes."""

    def __init__(self, *_: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.attributes = dict(state) if isinstance(state, dict) else {}


def is_torchscript(names: list[str]) -> bool:
    """Whether an archive with these members holds a program."""
    return any(name == "constants.pkl" or name.endswith("/constants.pkl") for name in names)


def tensors_in(path: Path) -> dict[str, Stored]:
    """State dict key -> where its values lie.

    Raises:
        UnsafeCheckpointError: the pickle names something else than modules and tensors.
        CheckpointError: the archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl"))
        raw = archive.read(name)
    try:
        module = _Reader(raw, path, name.removesuffix("data.pkl")).load()
    except (pickle.UnpicklingError, TypeError, ValueError, *_NONSENSE) as error:
        raise CheckpointError(f"{path}: its module tree cannot be read: {error}", hint=_DAMAGED) from error
    if not isinstance(module, _Module):
        raise CheckpointError(f"{path} holds a {type(module).__name__}, not a module")
    return _flat(module, path)


def read(path: Path, stored: Stored) -> Tensor:
    """The tensor of one entry.

    Raises:
        CheckpointError: the member is missing, too short, or the view leaves it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            raw = bytearray(archive.read(stored.member))  # writable, as PyTorch wants its memory
        values = torch.frombuffer(raw, dtype=stored.dtype, count=stored.count) if stored.count else torch.empty(0)
        return values.to(stored.dtype).as_strided(stored.shape, stored.strides, stored.offset)
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise CheckpointError(f"{path}: {stored.member} cannot be read: {error}", hint=_DAMAGED) from error


# The Python implementation keeps its memo in a dict. The C one keeps it in an array that a hostile file can make huge.
class _Reader(pickle._Unpickler):
    def __init__(self, raw: bytes, path: Path, root: str) -> None:
        super().__init__(io.BytesIO(raw))
        self._path = path
        self._root = root

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401  (one of the records and functions below)
        """The record for a name; every call and every class of the pickle comes from here."""
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        found = _NAMES.get((module, name))
        if found is None and module == "torch" and name in _DTYPES:
            return name
        if found is None:
            raise UnsafeCheckpointError(
                f"{self._path} wants to use {module}.{name}, which is neither a module nor a tensor: it was not loaded",
                hint="on a machine where you trust the file: torch.save(torch.jit.load(path).state_dict(), new_path)",
            )
        return found

    def persistent_load(self, pid: object) -> _Storage:
        """A reference to a member of the archive."""
        kind, storage, key, _, count = pid if isinstance(pid, tuple) and len(pid) == 5 else (None,) * 5
        if kind != "storage" or storage not in _DTYPES or not isinstance(key, str) or not isinstance(count, int):
            raise ValueError("a reference to something else than a storage")
        return _Storage(f"{self._root}data/{key}", _DTYPES[storage], count)


def _tensor(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> Stored:
    return Stored(storage.member, storage.dtype, storage.count, int(offset), _sizes(shape), _sizes(strides))


def _parameter(data: Stored, *_: object) -> Stored:
    return data


def _nothing(*_: object) -> None:
    return None


def _sizes(values: tuple[int, ...]) -> tuple[int, ...]:
    sizes = tuple(int(value) for value in values)
    if any(size < 0 for size in sizes):
        raise ValueError(f"negative size in {sizes}")
    return sizes


_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch.jit._pickle", "restore_type_tag"): _nothing,
    ("torch", "device"): _nothing,
    **{("torch.jit._pickle", name): _nothing for name in _LISTS},
}


def _flat(root: _Module, path: Path) -> dict[str, Stored]:
    """The tensors of a module tree by their dotted names. A module met twice is walked once."""
    found: dict[str, Stored] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, _Module]] = [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        for name, value in module.attributes.items():
            if isinstance(value, Stored):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, _Module):
                waiting.append((f"{prefix}{name}.", value))
    if not found:
        raise CheckpointError(f"{path} is a TorchScript archive without weights")
    return found
