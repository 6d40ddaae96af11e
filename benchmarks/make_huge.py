"""Writes a full-size ImageBind checkpoint with random weights, in the format of the released ``imagebind_huge.pth``.

    python benchmarks/make_huge.py /tmp/big/imagebind_huge.pth               # 4.8 GB, 1311 tensors
    python benchmarks/make_huge.py /tmp/big/outlier.pth --outliers           # channels as large as trained models have
    python benchmarks/make_huge.py /tmp/big/small.pth --modalities depth,imu # a part of it

Real weights may not be redistributed, and memory, speed and size depend on the shapes alone. Names, shapes and types
are those of ``tests/golden/imagebind_huge_state_dict.json``. The values are such that every layer keeps the
scale of its input and attention is sharp, as in a trained network. ``--outliers`` adds what makes trained transformers
hard to quantize: a few LayerNorm gains of 20 to 60, a few massive channels in the residual stream, and a few hidden
units whose GELU is large.

The file is a zip archive as ``torch.save`` writes it, with one stored member per tensor; it is written a tensor at a
time, so memory stays at the largest tensor (193 MiB) whatever the file's size. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

STATE_DICT = Path(__file__).parents[1] / "tests" / "golden" / "imagebind_huge_state_dict.json"
ROOT = "imagebind_huge"
ALIGNMENT = 64
HEADER_BYTES = 30  # of a member of a zip archive, before its name
LOGIT_SCALES = {"text": 1 / 0.07, "audio": 20.0, "depth": 5.0, "thermal": 10.0, "imu": 5.0}
SHARPNESS = 3.0  # how much larger the query and key weights are than those that keep the scale


class Storage:
    """Stands for the values of one tensor while the pickle is written."""

    def __init__(self, key: str, count: int) -> None:
        self.key, self.count = key, count


class Tensor:
    """Pickles as a contiguous float32 tensor does."""

    def __init__(self, storage: Storage, shape: tuple[int, ...]) -> None:
        self.storage, self.shape = storage, shape

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        strides = tuple(math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))
        return torch._utils._rebuild_tensor_v2, (self.storage, 0, self.shape, strides, False, OrderedDict())


class Pickler(pickle.Pickler):
    """Writes storages as PyTorch does: by reference to a member of the archive."""

    def persistent_id(self, value: object) -> object:
        """See ``pickle.Pickler``."""
        if isinstance(value, Storage):
            return ("storage", torch.FloatStorage, value.key, "cpu", value.count)
        return None


class Archive:
    """A zip archive whose members are stored, aligned and undated, as PyTorch wants them."""

    def __init__(self, path: Path) -> None:
        self.zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True)

    def add(self, name: str, data: bytes | memoryview) -> None:
        """Append a member whose data starts at a multiple of ``ALIGNMENT``."""
        info = zipfile.ZipInfo(f"{ROOT}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
        info.file_size = len(data)
        start = self.zip.fp.tell() + HEADER_BYTES + len(info.filename) + 4
        padding = -start % ALIGNMENT
        info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding  # the field PyTorch pads with
        with self.zip.open(info, "w") as member:
            member.write(data)


def values_of(key: str, shape: tuple[int, ...], rng: np.random.Generator, *, outliers: bool) -> np.ndarray:
    """The values of one tensor, float32 of ``shape``."""
    if key.endswith("text.mask"):
        return np.triu(np.full(shape, -np.inf, np.float32), 1)
    if key.endswith("log_logit_scale"):
        return np.array(math.log(LOGIT_SCALES[key.split(".")[1]]), np.float32)
    noise = rng.standard_normal(shape, np.float32)
    if len(shape) == 1:
        return _vector(key, noise, rng, outliers=outliers)
    if any(name in key for name in ("pos_embed", "cls_token", "token_embedding", "bias_k", "bias_v")):
        scale = 1.0 if "bias_" in key else 0.1
        values = noise * np.float32(scale)
        if outliers and "pos_embed" in key:
            massive = rng.choice(shape[-1], 3, replace=False)
            values[..., massive] += np.float32(8.0) * np.sign(rng.standard_normal(3)).astype(np.float32)
        return values
    noise *= np.float32(1 / math.sqrt(math.prod(shape[1:])))
    if key.endswith("in_proj_weight"):
        noise[: shape[0] // 3 * 2] *= np.float32(math.sqrt(SHARPNESS))
    elif key.endswith(("out_proj.weight", "fc2.weight")):
        noise *= np.float32(0.5)  # the residual stream grows slowly
    elif outliers and key.endswith("fc1.weight"):
        noise[rng.choice(shape[0], 4, replace=False)] *= np.float32(8.0)
    return noise


def _vector(key: str, noise: np.ndarray, rng: np.random.Generator, *, outliers: bool) -> np.ndarray:
    is_gain = key.endswith("weight")  # one-dimensional weights are the gains of LayerNorms
    values = noise * np.float32(0.1 if is_gain else 0.02) + np.float32(is_gain)
    if outliers and is_gain and "blocks" in key:
        loud = rng.choice(len(values), 4, replace=False)
        values[loud] *= rng.uniform(20, 60, 4).astype(np.float32)
    return values


def make(path: Path, *, modalities: list[str] | None, outliers: bool, seed: int) -> int:
    """Write the checkpoint and return its size in bytes."""
    entries = {
        key: tuple(shape)
        for key, (shape, _) in json.loads(STATE_DICT.read_text()).items()
        if modalities is None or key.split(".")[1] in modalities
    }
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    archive = Archive(part)
    try:
        tensors = OrderedDict(
            (key, Tensor(Storage(str(number), math.prod(shape)), shape))
            for number, (key, shape) in enumerate(entries.items())
        )
        pickled = io.BytesIO()
        Pickler(pickled, protocol=2).dump(tensors)
        archive.add("data.pkl", pickled.getvalue())
        archive.add("byteorder", b"little")
        for number, (key, shape) in enumerate(entries.items()):
            # A generator per tensor: a tensor's values do not depend on which others are written.
            rng = np.random.default_rng([seed, *key.encode()])
            values = np.ascontiguousarray(values_of(key, shape, rng, outliers=outliers))
            archive.add(f"data/{number}", memoryview(values.reshape(-1)).cast("B"))
            if sys.stderr.isatty():
                print(f"\r{number + 1}/{len(entries)}", end="", file=sys.stderr)
        archive.add("version", b"3\n")
        archive.zip.close()
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the file to write")
    parser.add_argument("--modalities", help="comma-separated; all six by default")
    parser.add_argument("--outliers", action="store_true", help="outlier channels as trained models have them")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    modalities = args.modalities.split(",") if args.modalities else None
    size = make(args.path, modalities=modalities, outliers=args.outliers, seed=args.seed)
    print(f"{args.path}: {size} bytes ({size / 2**20:.2f} MiB)")


if __name__ == "__main__":
    main()
