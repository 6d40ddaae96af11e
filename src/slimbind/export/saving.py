"""Says what went wrong when an engine's library could not write a file: they fail in their own, wordless ways."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimbind.errors import ArtifactError, SlimbindError


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
        free = shutil.disk_usage(path.parent).free
        raise ArtifactError(
            f"{path.name} could not be written: {error}",
            hint=f"{free / 2**20:.0f} MiB are free there; nothing was left behind",
        ) from error
