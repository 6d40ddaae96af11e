"""Verification: every byte that is the truth, the code file, and how much of what exact search finds a search finds."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slimbind.collection import codes, exact, header, items, vectors
from slimbind.collection.database import Database
from slimbind.collection.header import Header
from slimbind.collection.searching import Searcher
from slimbind.errors import SlimbindError

_K = 10
_SHOWN = 20  # problems that are told one by one
_NEAR = 1e-5  # scores that differ by less are ties


@dataclass(slots=True)
class Report:
    """What ``verify`` found.

    Args:
        items: how many were looked at.
        problems: what is wrong with the truth; empty is good.
        codes: what is wrong with the code file, which is made again at the next search; empty is good.
        queries: how many searches were compared with exact ones.
        recall: the share of the ten best that they found; None where none was compared.
    """

    items: int = 0
    problems: list[str] = field(default_factory=list)
    codes: str = ""
    queries: int = 0
    recall: float | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing was lost or changed."""
        return not self.problems


def verify(db: Database, searcher: Searcher, folder: Path, samples: int) -> Report:
    """As ``Collection.verify``."""
    report = Report()
    with db.reading() as connection:
        known = header.read(connection, folder)
        _structure(connection, known, report)
        if not report.problems:
            _rows(connection, known, report)
            report.codes = _code_file(connection, known, folder)
    if not report.problems and known.dim is not None:
        _recall(db, searcher, folder, samples, report)
    return report


def _structure(connection: sqlite3.Connection, known: Header, report: Report) -> None:
    found = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({_SHOWN})")]
    report.problems += [f"the database: {line}" for line in found if line != "ok"]
    if report.problems:
        return
    for what, sql in (
        ("items without a vector", "items LEFT JOIN vectors USING (key) WHERE vector IS NULL"),
        ("vectors without an item", "vectors LEFT JOIN items USING (key) WHERE id IS NULL"),
        ("removed items that are there", "removed JOIN items USING (key)"),
        ("items whose number is still to be given", f"items WHERE key >= {known.next_key}"),
    ):
        (count,) = connection.execute(f"SELECT count(*) FROM {sql}").fetchone()
        if count:
            report.problems.append(f"{count} {what}")


def _rows(connection: sqlite3.Connection, known: Header, report: Report) -> None:
    columns = "id, modality, source, metadata, hash, size, mtime_ns, checksum, vector"
    dtype = vectors.TYPES[known.dtype]
    for row in connection.execute(f"SELECT {columns} FROM items JOIN vectors USING (key)"):
        report.items += 1
        *told, checksum, blob = row
        why = _wrong(told, checksum, blob, known, dtype)
        if why:
            report.problems.append(f"{row[0]!r}: {why}")
            if len(report.problems) >= _SHOWN:
                report.problems.append("and perhaps more")
                return


def _wrong(columns: list[object], checksum: int, blob: bytes, known: Header, dtype: np.dtype[np.generic]) -> str:
    if vectors.checksum_of(columns, blob) != checksum:
        return "it is not what was written (its checksum differs)"
    if len(blob) != dtype.itemsize * (known.dim or 0):
        return f"its vector has {len(blob)} bytes"
    vector = np.frombuffer(blob, dtype).astype(np.float32)
    norm = float(np.linalg.norm(vector))
    if not abs(norm - 1) < 1e-2:  # written so that NaN is caught as well
        return f"its vector has length {norm:.4g}, not 1"
    try:
        fine = isinstance(json.loads(str(columns[3])), dict)
    except (ValueError, RecursionError):
        fine = False
    return "" if fine else "its metadata are no JSON object"


def _code_file(connection: sqlite3.Connection, known: Header, folder: Path) -> str:
    record = codes.record_of(known)
    if record is None or known.dim is None:
        return ""
    try:
        codes.load(folder, record, known.dim)
    except SlimbindError as error:
        return str(error)
    (alive,) = connection.execute("SELECT count(*) FROM items WHERE key <= ?", (record.until,)).fetchone()
    (gone,) = connection.execute("SELECT count(*) FROM removed WHERE key <= ?", (record.until,)).fetchone()
    if alive + gone != record.count:
        return f"it holds {record.count} vectors, and {alive + gone} were there when it was made"
    return ""


def _recall(db: Database, searcher: Searcher, folder: Path, samples: int, report: Report) -> None:
    with db.reading() as connection:
        known, view = searcher.view(connection)
        if view is None or view.coded is None:
            return
        keys = np.fromiter((row[0] for row in connection.execute("SELECT key FROM vectors")), np.int64)
        chosen = np.random.default_rng(0).choice(keys, min(samples, len(keys)), replace=False)
        asked = [items.originals(connection, known, chosen.tolist())]
        asked += [rows[:samples] for rows in codes.queries_of(connection, known).values()]
        queries = np.concatenate(asked)
        if not len(queries):
            return
        _, found = view.search(queries, _K, None, searcher.fetch(connection, known))
        worst = _tenth(connection, known, queries)
        hits = total = 0
        for query, names, border in zip(queries, found, worst, strict=True):
            rows = items.originals(connection, known, names[names >= 0].tolist())
            hits += int((rows @ query >= border - _NEAR).sum())
            total += min(_K, len(keys))
        report.queries, report.recall = len(queries), hits / total


def _tenth(connection: sqlite3.Connection, known: Header, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """The score of the tenth best, or of the last where there are fewer, by looking at all."""
    best = np.full((len(queries), 0), -np.inf, np.float32)
    for keys, rows in items.read_vectors(connection, known):
        scores, _ = exact.best(queries, rows, keys, None, _K)
        best = -np.sort(-np.hstack([best, scores]), axis=1)[:, :_K]
    worst: NDArray[np.float32] = np.where(np.isneginf(best), np.inf, best).min(axis=1)
    return worst
