"""Reads checkpoints a tensor at a time, without running what is in them: PyTorch files (.pth, .bin, .pt), safetensors.

A PyTorch file is a pickle, and a pickle can hold code. It is only ever read by PyTorch's restricted unpickler
(``weights_only=True``), which knows tensors and plain containers; a file that wants more is refused, and the message
names what it wanted. The kind of a file is told from its first bytes, not from its name.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from slimbind.errors import CheckpointError, UnsafeCheckpointError
from slimbind.towers import torchscript
from slimbind.towers.weightfile import TYPES

# Mapped pages count as this process's memory until the file is mapped anew, which is done after this many bytes.
WINDOW_BYTES = 256 << 20

_MAX_PICKLE_BYTES = 64 << 20  # the pickle holds names and shapes; ImageBind-Huge's has 0.2 MB
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_DOWNLOAD_AGAIN = "the file is damaged or was cut short: fetch it again"
_NONSENSE = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    MemoryError,
    ArithmeticError,
    struct.error,
    SafetensorError,  # PyTorch hands a file of that name on, whatever is in it
)
_SAVE_ANEW = "save the state dict alone: torch.save(model.state_dict(), path), or convert it to safetensors"


class Weights(ABC):
    """The tensors of a checkpoint, read one at a time: ``shapes`` and ``dtypes`` by key, ``read(key)`` for the values.

    ``notes`` are remarks for people (a format that costs memory, say).
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    notes: tuple[str, ...] = ()

    @abstractmethod
    def read(self, key: str) -> Tensor:
        """The tensor of one key, on the CPU. It may be a view of the file: do not write to it, do not keep it."""

    def close(self) -> None:  # noqa: B027  (readers that hold nothing have nothing to close)
        """Let go of the file."""

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_weights(files: Sequence[Path]) -> Weights:
    """Open a checkpoint of one file, or of several that each hold a part of it.

    Raises:
        CheckpointError: a file is missing, damaged, of an unknown kind, or two files hold the same key.
        UnsafeCheckpointError: a pickle holds more than tensors.
    """
    parts = [_open_file(Path(file)) for file in files]
    if not parts:
        raise CheckpointError("a checkpoint needs at least one file")
    return parts[0] if len(parts) == 1 else _Joined(parts)


class _Joined(Weights):
    def __init__(self, parts: Sequence[Weights]) -> None:
        self.shapes, self.dtypes = {}, {}
        self._owner: dict[str, Weights] = {}
        self._parts = parts
        self.notes = tuple(note for part in parts for note in part.notes)
        for part in parts:
            for key in part.shapes:
                if key in self._owner:
                    raise CheckpointError(
                        f"two files of the checkpoint hold the key {key!r}", hint="keep the files of one model only"
                    )
                self._owner[key] = part
            self.shapes |= part.shapes
            self.dtypes |= part.dtypes

    def read(self, key: str) -> Tensor:
        return self._owner[key].read(key)

    def close(self) -> None:
        for part in self._parts:
            part.close()


class _Safetensors(Weights):
    def __init__(self, path: Path) -> None:
        self._path = path
        self.shapes, self.dtypes = {}, {}
        self._file = self._open()
        for key in self._file.keys():  # noqa: SIM118  (not a mapping)
            part = self._file.get_slice(key)
            kind = part.get_dtype()
            if kind not in TYPES:
                raise CheckpointError(f"{path}: {key!r} is stored as {kind}, which no tower uses")
            self.shapes[key] = tuple(part.get_shape())
            self.dtypes[key] = TYPES[kind]
        self._read_bytes = 0

    def _open(self) -> Any:  # noqa: ANN401  (the library is not typed)
        try:
            return safe_open(self._path, framework="pt", device="cpu")
        except SafetensorError as error:
            raise CheckpointError(
                f"{self._path} is not a valid safetensors file: {error}", hint=_DOWNLOAD_AGAIN
            ) from error

    def read(self, key: str) -> Tensor:
        if self._read_bytes > WINDOW_BYTES:
            self._file, self._read_bytes = self._open(), 0
        value: Tensor = self._file.get_tensor(key)
        self._read_bytes += value.nbytes
        return value

    def close(self) -> None:
        self._file = None


class _Program(Weights):
    """A TorchScript archive, of which only the tensors are read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stored = torchscript.tensors_in(path)
        self.shapes = {key: value.shape for key, value in self._stored.items()}
        self.dtypes = {key: value.dtype for key, value in self._stored.items()}
        for key, value in self._stored.items():
            _check_extent(path, key, math.prod(value.shape), value.count)

    def read(self, key: str) -> Tensor:
        return torchscript.read(self._path, self._stored[key])


class _Pickled(Weights):
    """A PyTorch file: mapped where it is a zip archive, read whole where it is of the format before PyTorch 1.6."""

    def __init__(self, path: Path, *, mapped: bool) -> None:
        self._path = path
        self._mapped = mapped
        if not mapped:
            size = path.stat().st_size
            self.notes = (
                f"{path.name} is in PyTorch's old format, which cannot be read in parts: "
                f"all of its {size / 2**20:.0f} MiB are held in memory",
            )
        self._tensors = self._load()
        self.shapes = {key: tuple(value.shape) for key, value in self._tensors.items()}
        self.dtypes = {key: value.dtype for key, value in self._tensors.items()}
        self._read_bytes = 0

    def _load(self) -> dict[str, Tensor]:
        return _state_dict(_torch_load(self._path, mapped=self._mapped), self._path)

    def read(self, key: str) -> Tensor:
        if self._mapped and self._read_bytes > WINDOW_BYTES:
            self._tensors = {}  # the old mapping goes before the new one comes
            self._tensors, self._read_bytes = self._load(), 0
        value = self._tensors[key]
        self._read_bytes += value.nbytes
        return value

    def close(self) -> None:
        self._tensors = {}


def _open_file(path: Path) -> Weights:
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not start:
        raise CheckpointError(f"{path} is empty", hint=_DOWNLOAD_AGAIN)
    # First, because a header's length may happen to begin like a pickle (0x80) or a zip archive (0x4b50).
    if start[4:9] == b"\0\0\0\0{":
        return _Safetensors(path)
    if start.startswith(b"PK"):
        return _Program(path) if _check_archive(path) else _Pickled(path, mapped=True)
    if start[0] == 0x80:
        return _Pickled(path, mapped=False)
    raise CheckpointError(*_explain_unknown(path, start))


def _explain_unknown(path: Path, start: bytes) -> tuple[str]:
    text = start.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return (f"{path} is a git-lfs pointer, not the weights themselves (run `git lfs pull` in its repository)",)
    if text.startswith((b"<!doctype", b"<html")):
        return (f"{path} is a web page, not a checkpoint (the download needs another address, or a login)",)
    return (f"{path} is neither a PyTorch file (.pth, .pt, .bin) nor safetensors",)


def _check_archive(path: Path) -> bool:
    """Look at a zip archive's table of contents before PyTorch does, and tell whether it holds a program.

    Raises:
        CheckpointError: it is damaged, or PyTorch did not write it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is not a whole zip archive: {error}", hint=_DOWNLOAD_AGAIN) from error
    names = [member.filename for member in members]
    size = path.stat().st_size
    if not any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        raise CheckpointError(f"{path} is a zip archive, but not one that PyTorch wrote (it has no data.pkl)")
    if len(set(names)) != len(names):
        raise CheckpointError(f"{path} has two members of one name", hint=_DOWNLOAD_AGAIN)
    for member in members:
        # A program's source may be packed; it is not read.
        if member.compress_type != zipfile.ZIP_STORED and "code/" not in member.filename:
            raise CheckpointError(
                f"{path} has a compressed member {member.filename!r}; PyTorch writes none", hint=_SAVE_ANEW
            )
        if member.header_offset + member.file_size > size:
            raise CheckpointError(f"{path}: its member {member.filename!r} ends beyond the file", hint=_DOWNLOAD_AGAIN)
        if member.filename.endswith("data.pkl") and member.file_size > _MAX_PICKLE_BYTES:
            raise CheckpointError(
                f"{path}: its pickle has {member.file_size} bytes; at most {_MAX_PICKLE_BYTES} are read",
                hint=_SAVE_ANEW,
            )

    return torchscript.is_torchscript(names)


def _torch_load(path: Path, *, mapped: bool) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks for PyTorch's own users, about files that are refused below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        wanted = _wanted(str(error))
        if wanted:
            raise UnsafeCheckpointError(
                f"{path} wants to use {wanted}, which is not a tensor: it was not loaded", hint=_SAVE_ANEW
            ) from None
        raise UnsafeCheckpointError(
            f"{path} is not a plain pickle of tensors, and was not loaded: {_first_line(error)}", hint=_SAVE_ANEW
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    # The restricted unpickler answers nonsense with whatever exception the nonsense leads to.
    except _NONSENSE as error:
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch file: {_first_line(error) or type(error).__name__}",
            hint=_DOWNLOAD_AGAIN,
        ) from error


def _wanted(message: str) -> str:
    found = re.search(r"GLOBAL (\S+)", message) or re.search(r"reduce for unrecognized function (.+)", message)
    return found.group(1) if found else ""


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = next((line for line in lines if "WeightsUnpickler error" in line), lines[0] if lines else "")
    return kept.removeprefix("WeightsUnpickler error:").strip()[:200]


def _state_dict(loaded: object, path: Path) -> dict[str, Tensor]:
    """The state dict in what was loaded: itself, or one level down in a training checkpoint."""
    found = _find(loaded)
    if found is None:
        raise CheckpointError(f"{path} holds no state dict but a {type(loaded).__name__}", hint=_SAVE_ANEW)
    tensors: dict[str, Tensor] = {}
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: {key!r} holds a {type(value).__name__}, not a tensor under a name", hint=_SAVE_ANEW
            )
        tensors[key] = _checked(value.detach(), key, path)
    if all(key.startswith("module.") for key in tensors):  # saved from a model that was trained on several devices
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _find(loaded: object) -> Mapping[Any, Any] | None:
    if not isinstance(loaded, Mapping):
        return None
    if any(isinstance(value, Tensor) for value in loaded.values()):
        return loaded
    inner = [loaded[name] for name in _WRAPPERS if isinstance(loaded.get(name), Mapping)]
    return next((part for part in inner if any(isinstance(value, Tensor) for value in part.values())), None)


def _checked(value: Tensor, key: str, path: Path) -> Tensor:
    usable: Callable[[torch.dtype], bool] = set(TYPES.values()).__contains__
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu" or not usable(value.dtype):
        raise CheckpointError(f"{path}: {key!r} is a {value.layout} tensor of {value.dtype}; plain ones are read only")
    _check_extent(path, key, value.numel(), value.untyped_storage().nbytes() // value.dtype.itemsize)
    return value


def _check_extent(path: Path, key: str, claimed: int, there: int) -> None:
    """A view that repeats values takes little room in a file, and any amount once it is read."""
    if claimed > there:
        raise CheckpointError(
            f"{path}: {key!r} claims {claimed} values but has only {there} behind it", hint=_DOWNLOAD_AGAIN
        )
