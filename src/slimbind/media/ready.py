"""Inputs that were preprocessed elsewhere, in a ``.npz``: one array per modality, the first axis its items."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slimbind.errors import MediaError, UsageError
from slimbind.media import arrays
from slimbind.media.source import Source
from slimbind.media.spec import AudioSpec, DepthSpec, ImageSpec, ImuSpec, PreprocessSpec, TextSpec, ThermalSpec

_MOST = 1 << 29  # numbers in an array: 2 GiB, three thousand photographs


def read_npz(path: Path, modality: str, spec: PreprocessSpec) -> list[NDArray[np.generic]]:
    """The items of ``modality``, each as a preprocessor for ``spec`` would give it.

    Args:
        path: a ``.npz`` with an array named like the modality: floats ``[n, ...]`` with one view per item, or token
            ids ``[n, length]``, rows filled up with ``spec.pad_id``.
        modality: which array.
        spec: says the shape of a view.

    Returns:
        float32 ``[1, ...]`` per item, or int32 ``[length]`` without the padding.

    Raises:
        UsageError: no such file or array, not numbers, another shape, or values that are NaN or infinite.
    """
    mend = f"save it with numpy.savez(path, {modality}=array), the first axis being the items"
    with _opened(path) as archive:
        names = _names(archive)
        if modality not in names:
            raise UsageError(f"{path} has no array {modality!r}; it has {', '.join(names) or 'none'}", hint=mend)
        info = archive.getinfo(f"{modality}.npy")
        with archive.open(info) as file:
            array = arrays.read_npy(Source(modality, file, info.file_size), max_elements=_MOST, mend="give fewer items")
    is_text = isinstance(spec, TextSpec)
    shapes = _views(spec)
    fits = array.ndim == 2 if is_text else array.shape[1:] in shapes
    if array.dtype.kind not in ("iu" if is_text else "f") or not fits or array.size == 0:
        wanted = "whole numbers [n, length]" if is_text else f"floats {' or '.join(map(_shape, shapes))}"
        raise UsageError(f"{path}: {modality} is {array.dtype} {list(array.shape)}; wanted: {wanted}", hint=mend)
    if isinstance(spec, TextSpec):
        return [_unpadded(row, spec) for row in np.ascontiguousarray(array, np.int32)]
    if not np.isfinite(array).all():
        raise UsageError(f"{path}: {modality} has values that are NaN or infinite", hint="leave those items out")
    return list(np.ascontiguousarray(array, np.float32)[:, None])


def names_in(path: Path) -> tuple[str, ...]:
    """The names of the arrays in a ``.npz``.

    Raises:
        UsageError: it is none.
    """
    with _opened(path) as archive:
        return _names(archive)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; whatever is wrong with it, also while its arrays are read, is one kind of error.

    Not numpy's own reader: that one believes an array's header, and a few bytes can promise any amount of zeros.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file", hint="check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        # RuntimeError: it wants a password. NotImplementedError: packed in a way that Python does not know.
        raise _not_plain(path, str(error)) from error
    except MediaError as error:
        raise _not_plain(path, f"{error.item} {error.reason}") from error


def _not_plain(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"{path} is not a .npz of plain arrays: {reason}", hint="save it with numpy.savez(path, vision=array, ...)"
    )


def _names(archive: zipfile.ZipFile) -> tuple[str, ...]:
    return tuple(sorted(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")))


def _views(spec: PreprocessSpec) -> tuple[tuple[int, ...], ...]:
    """The shapes that one view may have."""
    if isinstance(spec, ImageSpec):  # without time, a still image, a film
        image = (spec.size, spec.size)
        return tuple(dict.fromkeys([(3, *image), (3, 1, *image), (3, spec.video.frames, *image)]))
    if isinstance(spec, AudioSpec):
        return ((1, spec.mel_bins, spec.frames),)
    if isinstance(spec, DepthSpec | ThermalSpec):
        return ((1, spec.size, spec.size),)
    return ((6, spec.samples),) if isinstance(spec, ImuSpec) else ()


def _shape(view: tuple[int, ...]) -> str:
    return f"[n, {', '.join(map(str, view))}]"


def _unpadded(row: NDArray[np.int32], spec: TextSpec) -> NDArray[np.int32]:
    """Without the padding at the end; an id equal to the padding's that stands before others is a token."""
    told = np.flatnonzero(row != spec.pad_id)
    return row[: max(1, int(told[-1]) + 1)] if len(told) else row[:1]
