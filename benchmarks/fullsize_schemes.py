"""Full-size towers as artifacts of several schemes, made once and kept in a folder; for benchmarks of speed and memory.

    made = artifact(folder, "vision", 4, "int8-dynamic")      # the first 4 blocks of ImageBind-Huge's picture tower

Weights are random ones (``fullsize.py``, ``plain``). They are rounded quickly: calibrated with a few items, and without
error compensation and the search for the best smoothing. That changes numbers in the file, not what is computed with
them; but the towers keep less than they could, which is measured elsewhere (``quantize.py``).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from fullsize import inputs, write_split
from slimbind.artifact import Artifact
from slimbind.export.job import export
from slimbind.quantize.job import quantize
from slimbind.quantize.schemes import Bf16, Int4Weight, Int8Dynamic, Int8Static, Scheme
from slimbind.runtime.engine import Options, Session, engine

ROUNDED: dict[str, Scheme] = {
    "bf16": Bf16(),
    "int8-dynamic": Int8Dynamic(compensate=False),
    "int8-static": Int8Static(compensate=False, smoothing="even"),
    "int4-weight": Int4Weight(method="nearest"),
}
SCHEMES = ("f32", *ROUNDED)
ITEMS = 4  # to calibrate with, and as many to compare on


def artifact(folder: Path, modality: str, depth: int | None, scheme: str) -> Artifact:
    """The tower in this scheme: the one that is in ``folder``, or made now. ``depth``: so many of the first blocks."""
    home = folder / f"{modality}-{depth or 'whole'}"
    if (home / scheme / "manifest.json").exists():
        return Artifact.open(home / scheme)
    split = home / "split"
    if not (split / "manifest.json").exists():
        shutil.rmtree(split, ignore_errors=True)
        write_split(split, modality, depth=depth)
        np.savez(home / "data.npz", **{modality: inputs(modality, 2 * ITEMS).numpy()})
    if scheme == "f32":
        return export(split, home / scheme, threads=1)
    data = [str(home / "data.npz")]
    return quantize(
        split, home / scheme, scheme=ROUNDED[scheme], calibrate=data, samples=ITEMS, threads=1, force=True, note=print
    )


def opened(made: Artifact, modality: str) -> Session:
    """The tower, on one thread."""
    entry = made.tower(modality)
    return engine(entry.engine).open(
        made.folder, entry, Options(threads=1), model=made.manifest.model, modality=modality
    )


def example(modality: str, batch: int, *, tokens: int = 77) -> np.ndarray:
    """Inputs ``[batch, ...]`` of one shape; texts are of ``tokens`` random words."""
    if modality != "text":
        return np.ascontiguousarray(np.resize(inputs(modality, min(batch, 8)).numpy(), (batch, *_shape(modality))))
    ids = np.random.default_rng(0).integers(1, 49406, (batch, tokens)).astype(np.int32)
    ids[:, 0], ids[:, -1] = 49406, 49407
    return ids


def _shape(modality: str) -> tuple[Any, ...]:
    return tuple(inputs(modality, 1).shape[1:])
