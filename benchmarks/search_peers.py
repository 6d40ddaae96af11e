"""The libraries that ``search.py`` measures beside slimbind: each builds an index of the raw vectors and is asked.

Each is set up as its own documentation does it, on the same vectors and with the same single thread. One that is not
installed is left out, and the results say so.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Keys = NDArray[np.int64]
Ask = Callable[[Vectors, int], Keys]


@dataclass(frozen=True)
class Peer:
    """A library set up in one way: ``build(documents)`` gives a function from queries and k to keys."""

    package: str
    name: str
    bytes_per_vector: Callable[[int], float]
    build: Callable[[Vectors], Ask]
    largest: int = 10_000_000  # documents beyond which building takes too long for a benchmark on one core
    queries: int = 300  # asked in one go; fewer where each takes long
    scanned: float | None = 1.0  # share of the bytes that a query reads; None: a graph is walked


def _faiss(make: Callable[[Any, int], Any], sample: int = 50_000) -> Callable[[Vectors], Ask]:
    def build(documents: Vectors) -> Ask:
        import faiss

        index = make(faiss, documents.shape[1])
        index.train(documents[:sample])
        index.add(documents)
        return lambda queries, k: index.search(queries, k)[1]

    return build


def _usearch(dtype: str) -> Callable[[Vectors], Ask]:
    def build(documents: Vectors) -> Ask:
        from usearch.index import Index

        index = Index(ndim=documents.shape[1], metric="ip", dtype=dtype)
        index.add(np.arange(len(documents)), documents, threads=1)

        def ask(queries: Vectors, k: int) -> Keys:
            found = index.search(queries, k, threads=1).keys
            return np.asarray(found, np.int64).reshape(len(queries), -1)

        return ask

    return build


def _sentence_transformers(precision: str, times: int) -> Callable[[Vectors], Ask]:
    """Its quantization functions alone: importing the package whole asks for transformers, which is not used here."""

    def build(documents: Vectors) -> Ask:
        if "sentence_transformers" not in sys.modules:
            found = importlib.util.find_spec("sentence_transformers")
            assert found is not None and found.submodule_search_locations is not None
            root = found.submodule_search_locations[0]
            for name, path in (("sentence_transformers", root), ("sentence_transformers.util", f"{root}/util")):
                sys.modules[name] = shell = types.ModuleType(name)
                shell.__path__ = [path]
        module = importlib.import_module("sentence_transformers.util.quantization")
        corpus = module.quantize_embeddings(documents, precision=precision)
        index = module.semantic_search_faiss(
            documents[:1],
            corpus_embeddings=corpus,
            corpus_precision=precision,
            top_k=1,
            output_index=True,
            calibration_embeddings=documents[:10_000],
        )[2]

        def ask(queries: Vectors, k: int) -> Keys:
            hits = module.semantic_search_faiss(
                queries,
                corpus_index=index,
                corpus_precision=precision,
                top_k=k,
                rescore_multiplier=times,
                calibration_embeddings=documents[:10_000],
            )[0]
            return np.array([[hit["corpus_id"] for hit in row] for row in hits], np.int64)

        return ask

    return build


def _lancedb(kind: str, **options: int) -> Callable[[Vectors], Ask]:
    def build(documents: Vectors) -> Ask:
        os.environ.setdefault("LANCE_LOG", "error")  # it warns at every search
        import lancedb
        import pyarrow as pa
        from lancedb.index import IvfPq

        folder = tempfile.mkdtemp(prefix="lancedb-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        dim = documents.shape[1]
        flat = pa.FixedSizeListArray.from_arrays(pa.array(documents.ravel()), dim)
        rows = pa.table({"id": pa.array(np.arange(len(documents))), "vector": flat})
        table = lancedb.connect(folder).create_table("t", rows)
        if kind == "pq":
            table.create_index(
                "vector", config=IvfPq(distance_type="dot", num_partitions=256, num_sub_vectors=dim // 8, num_bits=8)
            )

        def ask(queries: Vectors, k: int) -> Keys:
            out = np.full((len(queries), k), -1, np.int64)
            for at, query in enumerate(queries):
                question = table.search(query).distance_type("dot").limit(k).select(["id"])
                if kind == "pq":
                    question = question.nprobes(options["probes"]).refine_factor(options["times"])
                found = question.to_arrow()["id"].to_numpy()
                out[at, : len(found)] = found
            return out

        return ask

    return build


def _sqlite_vec(kind: str) -> Callable[[Vectors], Ask]:
    def build(documents: Vectors) -> Ask:
        import apsw
        import sqlite_vec

        base = apsw.Connection(":memory:")
        base.enable_load_extension(True)
        base.load_extension(sqlite_vec.loadable_path())
        dim = documents.shape[1]
        column = f"v float[{dim}] distance_metric=cosine" if kind == "float" else f"v bit[{dim}]"
        base.execute(f"create virtual table t using vec0({column})")
        place = "?" if kind == "float" else "vec_quantize_binary(?)"
        with base:
            base.executemany(
                f"insert into t(rowid, v) values (?, {place})", ((i, row.tobytes()) for i, row in enumerate(documents))
            )

        def ask(queries: Vectors, k: int) -> Keys:
            text = f"select rowid from t where v match {place} and k = ?"
            return np.array([[row[0] for row in base.execute(text, (q.tobytes(), k))] for q in queries], np.int64)

        return ask

    return build


PEERS = (
    Peer("faiss-cpu", "IndexFlatIP", lambda d: 4 * d, _faiss(lambda f, d: f.IndexFlatIP(d))),
    Peer(
        "faiss-cpu",
        "SQ8",
        lambda d: d,
        _faiss(lambda f, d: f.IndexScalarQuantizer(d, f.ScalarQuantizer.QT_8bit, f.METRIC_INNER_PRODUCT)),
    ),
    Peer(
        "faiss-cpu",
        "PQ, d/4 x 4 bits, FastScan",
        lambda d: d / 8,
        _faiss(lambda f, d: f.IndexPQFastScan(d, d // 4, 4, f.METRIC_INNER_PRODUCT)),
    ),
    Peer(
        "faiss-cpu",
        "RaBitQ, 1 bit, FastScan",
        lambda d: d / 8 + 8,
        _faiss(lambda f, d: f.IndexRaBitQFastScan(d, f.METRIC_INNER_PRODUCT, 32, 1)),
    ),
    Peer(
        "faiss-cpu",
        "HNSW32",
        lambda d: 4 * d + 64 * 4,
        _faiss(lambda f, d: f.IndexHNSWFlat(d, 32, f.METRIC_INNER_PRODUCT)),
        largest=100_000,
        scanned=None,
    ),
    Peer("usearch", "HNSW, f16", lambda d: 2 * d + 128, _usearch("f16"), largest=100_000, scanned=None),
    Peer("usearch", "HNSW, i8", lambda d: d + 128, _usearch("i8"), largest=100_000, scanned=None),
    Peer("sentence-transformers", "ubinary, rescored x4", lambda d: d / 8, _sentence_transformers("ubinary", 4)),
    Peer("sentence-transformers", "ubinary, rescored x16", lambda d: d / 8, _sentence_transformers("ubinary", 16)),
    Peer(
        "lancedb",
        "IVF-PQ, d/8 bytes, 20 of 256 lists, refined x10 from disk",
        lambda d: d / 8,
        _lancedb("pq", probes=20, times=10),
        largest=100_000,
        queries=25,
        scanned=20 / 256,
    ),
    Peer("lancedb", "float, brute force, from disk", lambda d: 4 * d, _lancedb("flat"), largest=100_000, queries=25),
    Peer("sqlite-vec", "float, brute force", lambda d: 4 * d, _sqlite_vec("float"), largest=100_000, queries=100),
    Peer("sqlite-vec", "bit, Hamming", lambda d: d / 8, _sqlite_vec("bit"), largest=100_000, queries=100),
)


@contextmanager
def one_thread() -> Iterator[None]:
    """faiss and OpenBLAS with one thread; the others are told in their calls or by the environment."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
