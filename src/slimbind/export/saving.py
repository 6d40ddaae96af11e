"""Says what went wrong when an engine's library could not convert or write a tower: they fail in their own ways."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimbind.errors import ArtifactError, EngineError, SlimbindError
from slimbind.sizes import binary


@contextmanager
def converting(library: str, modality: str, *, instead: str) -> Iterator[None]:
    """Around the calls that make a library's model of a tower.

    Args:
        library: as people know it.
        modality: of the tower.
        instead: the engine to try instead.

    Raises:
        EngineError: a call failed, with that line of the library's report that tells why; all of it is its cause.
    """
    try:
        yield
    except SlimbindError:
        raise
    except Exception as error:  # each library, and each of its stages, has its own
        if _was_stopped(error):
            raise KeyboardInterrupt from error
        raise EngineError(
            f"{library} cannot convert the {modality} tower: {_reason(error)}",
            hint=f"try --engine {instead}, or leave the {modality} tower as it was split: PyTorch runs it",
        ) from error


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Around the call that writes ``path`` (and files beside it).

    Raises:
        ArtifactError: the call failed. OpenVINO raises a ``RuntimeError`` without the cause when the disk is full, ONNX
            an ``OSError`` without a number, safetensors an error of its own, so the free space is told with it.
    """
    try:
        yield
    except SlimbindError:
        raise
    except Exception as error:  # each library has its own
        if _was_stopped(error):
            raise KeyboardInterrupt from error
        free = shutil.disk_usage(path.parent).free
        raise ArtifactError(
            f"{path.name} could not be written: {error}",
            hint=f"{binary(free)} are free there; nothing was left behind",
        ) from error


def _was_stopped(error: BaseException | None) -> bool:
    """Whether it stands for Ctrl-C: libraries in C++ make an error of their own out of it, others wrap it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or "KeyboardInterrupt" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: BaseException) -> str:
    """The line that tells why: the first one of the innermost cause, or the first that names what is missing."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")]
    telling = [line for line in lines if line.startswith("No ")]
    return (telling or lines or [type(error).__name__])[0]
