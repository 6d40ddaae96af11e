"""How much recall compressed embeddings keep, in how many bytes, and how fast they are searched: text to image.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 LANCE_CPU_THREADS=1 taskset -c 1 python benchmarks/search.py
    ... python benchmarks/search.py --documents 1000000 --only "lists"      # rows whose name contains this

Documents and queries are made up as CLIP makes them (``clip_like.py``), a million at most; the transform is fitted on
captions of pictures that are not searched. Recall is that of the exact ten (or hundred) best. A time is CPU time of
one thread: of a single query (median of 25) and of all queries in one call. Originals that are looked at again lie in a
float16 file that is mapped into memory and was just written, so it is in the system's page cache. They are not counted
as memory of the index; bytes are those of codes, keys and lists. Beside them stands what the system says: by how much
the memory of a process of its own grew while it built the index and asked it (anonymous pages; libraries were loaded
and used on a few documents before, and documents are mapped from a file).

Results go to ``benchmarks/results/search.json``, a row at a time; rows that are there are kept, and what they lack is
added.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_like import Generator, describe
from environment import environment
from search_peers import PEERS, Ask, Peer, one_thread
from slimbind.codecs import CodeIndex, Transform, fit, parse

RESULTS = Path(__file__).parent / "results" / "search.json"
QUERIES, FITTED, TRAINED = 300, 20_000, 50_000
Vectors = NDArray[np.float32]
Key = tuple[str, str, str, int | None]  # library, name, part of the transform, probes asked for


@dataclass(frozen=True)
class Setting:
    """One way to use slimbind."""

    codec: str
    part: str = "full"  # of the transform; "none": no transform
    oversample: int | None = None
    kind: str = "flat"
    probes: int | None = None

    @property
    def name(self) -> str:
        """Of the row."""
        return (
            self.codec + (f" x{self.oversample}" if self.oversample else "") + (", lists" if self.kind == "ivf" else "")
        )


CODECS = ["sq8", "sq4", "pq64x8", "pq256x4fs", "rabitq1", "rabitq4", "binary", "binary(hamming)"]
REFINED = [("rabitq1", 4), ("rabitq1", 16), ("binary", 16), ("pq128x4fs", 16), ("pq256x4fs", 8), ("sq4", 4), ("sq8", 2)]
SMALL = (
    [Setting("f32", "none"), Setting("f16", "none")]
    + [Setting(codec, part) for codec in ("rabitq1", "sq4", "pq128x4fs") for part in ("none", "full")]
    + [Setting(f"{codec},refine(original)", part, times) for codec, times in REFINED for part in ("none", "full")]
    + [Setting(codec, part) for codec in CODECS for part in ("none", "full") if codec not in ("rabitq1", "sq4")]
    + [Setting(codec, part) for codec in ("rabitq1", "sq4") for part in ("rotation", "centring", "no-mean")]
    + [Setting("rabitq1,refine(sq8)", "full", 16), Setting("pq128x4fs,refine(sq8)", "full", 16)]
    + [Setting(codec) for codec in ("rabitq2", "rabitq3", "binary(int4)")]
    + [Setting(codec, part) for codec in ("pq64x4fs", "opq64x4fs", "opq128x4fs") for part in ("none", "full")]
    + [Setting("opq128x4fs,refine(original)", part, 16) for part in ("none", "full")]
)
PLAIN = ("rabitq1", "sq4", "pq256x4fs", "pq128x4fs", "sq8")
LARGE = [
    Setting("pq256x4fs,refine(original)", "full", 16, "ivf"),
    Setting("pq256x4fs,refine(original)", "full", 32, "ivf"),
    Setting("pq256x4fs,refine(original)", "full", 32, "ivf", 192),
    Setting("pq256x4fs,refine(original)", "none", 16, "ivf"),
    Setting("sq4,refine(original)", "full", 4),
    Setting("sq4,refine(original)", "none", 4),
    Setting("rabitq1,refine(original)", "full", 16, "ivf"),
    Setting("rabitq1,refine(original)", "none", 16, "ivf"),
    Setting("rabitq1,refine(original)", "full", 16),
    Setting("pq256x4fs,refine(original)", "full", 16),
    Setting("pq256x4fs,refine(original)", "none", 16),
    *[Setting(codec, part) for codec in PLAIN for part in ("none", "full")],
    Setting("f32", "none"),
]


class Data:
    """Documents, queries, what is fitted on, and the exact answers."""

    def __init__(self, count: int, dim: int, folder: Path, *, mapped: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        made = Generator(dim)
        names = ("documents", "queries", "sample", "truth", "halves")
        files = {name: folder / f"{name}-{count}-{dim}.npy" for name in names}
        # One after the other, so that a run that was stopped goes on where it was.
        if not files["documents"].exists():
            _save(files["documents"], made.documents(count))
        documents = np.load(files["documents"], mmap_mode="r" if mapped else None)
        if not files["queries"].exists():
            _save(files["queries"], made.captions(QUERIES))
        if not files["sample"].exists():
            _save(files["sample"], made.sample(FITTED))
        self.queries, self.sample = np.load(files["queries"]), np.load(files["sample"])
        if not files["truth"].exists():
            _save(files["truth"], exact(documents, self.queries, 100))
        if not files["halves"].exists():
            _save(files["halves"], documents.astype(np.float16))
        self.documents, self.truth = documents, np.load(files["truth"])
        self.kept = np.load(files["halves"], mmap_mode="r")
        self.kept.max()  # reads it all: from here on it is in the page cache

    def like(self) -> dict[str, float]:
        """What the vectors are like."""
        captions = Generator(self.documents.shape[1]).captions(5000)
        return {name: round(value, 3) for name, value in describe(self.documents, captions).items()}

    def fetch(self, keys: NDArray[np.int64]) -> Vectors:
        """Originals, from the file."""
        return np.asarray(self.kept[keys], np.float32)


def _save(path: Path, array: NDArray[Any]) -> None:
    part = path.with_suffix(".part.npy")
    np.save(part, array)
    part.replace(path)


def exact(documents: Vectors, queries: Vectors, k: int) -> NDArray[np.int64]:
    """Numbers ``[q, k]`` of the highest dot products."""
    best = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(documents), 50_000):
        here = queries @ documents[start : start + 50_000].T
        best = np.concatenate([best, here], axis=1)
        numbers = np.arange(start, start + here.shape[1])
        rows = np.concatenate([rows, np.broadcast_to(numbers, here.shape)], axis=1)
        order = np.argpartition(-best, k - 1, axis=1)[:, :k]
        best, rows = np.take_along_axis(best, order, 1), np.take_along_axis(rows, order, 1)
    return np.take_along_axis(rows, np.argsort(-best, axis=1), 1)


def recall(found: NDArray[np.int64], truth: NDArray[np.int64], k: int) -> float:
    """The share of the exact ``k`` best that were found."""
    hits = [len(np.intersect1d(a[:k], b[:k])) for a, b in zip(found, truth, strict=True)]
    return round(float(np.mean(hits)) / k, 4)


def asked(data: Data, ask: Ask, queries: int = QUERIES) -> dict[str, float]:
    """Recall and times of one index."""
    few = data.queries[:25]
    ask(few[:1], 10)  # warm-up
    times = []
    for query in few:
        start = time.process_time()
        ask(query[None], 10)
        times.append(time.process_time() - start)
    some = data.queries[:queries]
    start = time.process_time()
    ten = ask(some, 10)
    seconds = time.process_time() - start
    found = {"single_ms": round(1000 * float(np.median(times)), 3), "batch_per_s": round(len(some) / seconds, 1)}
    hundred = ask(some, 100)
    truth = data.truth[: len(some)]
    return {**found, "recall10": recall(ten, truth, 10), "recall100": recall(hundred, truth, 100)}


def built(setting: Setting, documents: Vectors, transform: Transform | None) -> CodeIndex:
    """An index of all documents."""
    dim, count = documents.shape[1], len(documents)
    spec = parse(setting.codec, dim)
    index = CodeIndex.build(spec, dim, transform=transform, kind=setting.kind, expected=count)
    index.train(documents[np.linspace(0, count - 1, min(count, TRAINED)).astype(np.int64)])
    for at in range(0, count, 100_000):
        index.add(np.arange(at, min(count, at + 100_000)), documents[at : at + 100_000])
    if setting.probes:
        index.probes = min(setting.probes, index.lists)
    return index


def asks(setting: Setting, index: CodeIndex, data: Data) -> Ask:
    """What asks it."""
    return lambda queries, k: index.search(queries, k, oversample=setting.oversample, fetch=data.fetch)[1]


def fitted(data: Data, setting: Setting, transforms: dict[str, Any]) -> Transform | None:
    """The transform of a setting, which is fitted once."""
    if setting.part != "none" and setting.part not in transforms:
        transforms[setting.part] = fit(data.documents[:100_000], {"text": data.sample}, part=setting.part)
    found: Transform | None = transforms.get(setting.part)
    return found


def ours(data: Data, setting: Setting, transforms: dict[str, Any]) -> dict[str, Any]:
    """One setting of slimbind: build and ask."""
    count = len(data.documents)
    start = time.process_time()
    transform = fitted(data, setting, transforms)
    took = time.process_time() - start
    start = time.process_time()
    index = built(setting, data.documents, transform)
    row = {"build_s": round(time.process_time() - start, 1), "fit_s": round(took, 1)}
    row |= {"transform": setting.part, "kind": setting.kind, "bytes_per_vector": round(index.bytes / count, 2)}
    if setting.kind == "ivf":
        row |= {"lists": index.lists, "probes": index.probes}
    return {**row, **asked(data, asks(setting, index, data))}


def theirs(data: Data, peer: Peer) -> dict[str, Any]:
    """One peer: build and ask."""
    start = time.process_time()
    ask = peer.build(data.documents)
    built = time.process_time() - start
    size = peer.bytes_per_vector(data.documents.shape[1])
    return {"bytes_per_vector": round(size, 2), "build_s": round(built, 1), **asked(data, ask, peer.queries)}


def grown(data: Data, one: Setting | Peer) -> float:
    """Bytes for each vector by which this process grows when it builds an index and asks it."""
    transform = fitted(data, one, {}) if isinstance(one, Setting) else None

    def make(documents: Vectors) -> Ask:
        ask = asks(one, built(one, documents, transform), data) if isinstance(one, Setting) else one.build(documents)
        for query in data.queries[:5]:
            ask(query[None], 10)
        return ask

    def anonymous() -> int:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is given back
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        (kilobytes,) = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
        return 1024 * int(kilobytes)

    make(data.documents[:5000])
    data.documents[:70_000] @ np.eye(data.documents.shape[1], dtype=np.float32)  # BLAS keeps the buffers it has used
    before = anonymous()
    ask = make(data.documents)
    found = (anonymous() - before) / len(data.documents)
    ask(data.queries[:1], 10)  # it is there until here
    return round(found, 1)


def grown_apart(args: argparse.Namespace, folder: Path, key: Key) -> float | None:
    """``grown`` in a process of its own, whose large blocks go back to the system as soon as they are freed."""
    command = [sys.executable, __file__, "--documents", str(args.documents), "--dim", str(args.dim)]
    command += ["--cache", str(folder), "--memory-of", json.dumps(key)]
    environ = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{key}: no memory measured: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return float(done.stdout.strip().splitlines()[-1])


def bandwidth() -> float:
    """GB/s at which one thread reads memory: the floor of every flat scan."""
    block = np.ones(1 << 28, np.uint8).view(np.float32)
    times = []
    for _ in range(5):
        start = time.process_time()
        block.max()
        times.append(time.process_time() - start)
    return round(block.nbytes / min(times) / 1e9, 1)


def missing(package: str) -> str | None:
    """Why a peer cannot be measured."""
    try:
        version(package)
    except PackageNotFoundError:
        return "not installed"
    return None


def candidates(documents: int) -> dict[Key, Setting | Peer]:
    """All that is measured at this size, by library, name, part of the transform and probes."""
    found: dict[Key, Setting | Peer] = {}
    for setting in SMALL if documents < 500_000 else LARGE:
        found["slimbind", setting.name, setting.part, setting.probes] = setting
    for peer in PEERS:
        if documents <= peer.largest and not missing(peer.package):
            found[peer.package, peer.name, "none", None] = peer
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no further row after so long")
    parser.add_argument("--cache", type=Path, help="keep the made-up vectors in this folder, for the next run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--note", default="", help="what else to say about the machine")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    every = candidates(args.documents)
    if args.memory_of:
        with one_thread():
            print(
                grown(Data(args.documents, args.dim, args.cache, mapped=True), every[tuple(json.loads(args.memory_of))])
            )
        return
    folder = args.cache or Path(tempfile.mkdtemp(prefix="search-"))
    try:
        fill(args, folder, {key: one for key, one in every.items() if args.only in f"{key[0]} {key[1]}"})
    finally:
        if not args.cache:
            shutil.rmtree(folder, ignore_errors=True)


def fill(args: argparse.Namespace, folder: Path, wanted: dict[Key, Setting | Peer]) -> None:
    """Measure what is wanted and not there, and write the results after each row."""
    began = time.monotonic()
    results = json.loads(args.output.read_text(encoding="utf-8")) if args.output.exists() else {"rows": []}
    transforms: dict[str, Any] = {}

    def write() -> None:
        results["benchmark"] = "search"
        if "full" in transforms:
            gain = round(transforms["full"].predicted_gain, 3)
            results.setdefault("predicted_gain", {})[str(args.documents)] = gain
        results["bandwidth_gb_s"] = results.get("bandwidth_gb_s") or bandwidth()
        results["environment"] = environment("slimbind", *sorted({peer.package for peer in PEERS}), threads=1)
        if args.note:
            results["environment"]["note"] = args.note
        args.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    have = {_key(row): row for row in results["rows"] if row["documents"] == args.documents}
    with one_thread():
        if todo := [key for key in wanted if key not in have]:
            data = Data(args.documents, args.dim, folder)
            results.setdefault("like", {})[str(args.documents)] = data.like()
        for key in todo:
            if time.monotonic() - began > args.seconds:
                return
            one = wanted[key]
            row = {"documents": args.documents, "dim": args.dim, "library": key[0], "name": key[1], "part": key[2]}
            row |= {"asked_probes": key[3]}
            row |= ours(data, one, transforms) if isinstance(one, Setting) else theirs(data, one)
            print(json.dumps(row), flush=True)
            results["rows"].append(row)
            have[key] = row
            write()
        for key in wanted:
            if "grown_per_vector" in have[key] or time.monotonic() - began > args.seconds:
                continue
            Data(args.documents, args.dim, folder, mapped=True)  # makes what is not there
            have[key]["grown_per_vector"] = grown_apart(args, folder, key)
            print(key, have[key]["grown_per_vector"], flush=True)
            write()


def _key(row: dict[str, Any]) -> Key:
    return row["library"], row["name"], row["part"], row["asked_probes"]


if __name__ == "__main__":
    main()
