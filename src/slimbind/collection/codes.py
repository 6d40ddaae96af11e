"""The code file: compressed vectors beside the database, made from it, checked when read, and made again at any time.

Few items are compared one by one and have no code file. Of more, 4-bit codes find candidates and their vectors decide;
of very many, the codes lie in cells of which a search visits some (``codecs.index.choose``). Vectors that came since
the file was made are compared exactly, until there are so many of them that they are encoded as well. Codes are trained
again when the collection is four times what they were trained on, or holds another mixture of modalities.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from slimbind.collection import items, location, vectors
from slimbind.collection.header import Header
from slimbind.errors import SlimbindError

if TYPE_CHECKING:
    from slimbind.codecs import CodeIndex

CODES_FROM = 1_000  # items from which on a codec asked for by name is used; fewer teach it nothing and cost nothing

_SAMPLE = 50_000  # vectors that codes are trained on
_TAIL = 5_000  # vectors that may wait to be encoded
_SHARE = 5  # ... or a fifth of those that are
_GROWTH = 4  # times as many items as at the last training make another one worth it
_YOUNG = 60.0  # seconds
_DRIFT = 0.2  # as does a modality whose share of the items changed by this much


@dataclass(frozen=True, slots=True)
class Record:
    """What the header says about the code file.

    Args:
        file: its name in the folder.
        asked: the codec as the header named it, perhaps ``auto``.
        spec: the codec it is.
        kind: ``flat``, every code is looked at, or ``ivf``, those of some cells.
        count: how many vectors are in it.
        until: the highest key it was made of.
        trained_on: how many items there were when it was trained.
        mix: the share of each modality then.
        gain: what the gap-aware transform was predicted to gain; 0 without transform.
    """

    file: str
    asked: str
    spec: str
    kind: Literal["flat", "ivf"]
    count: int
    until: int
    trained_on: int
    mix: Mapping[str, float]
    gain: float


def check(codec: str, dim: int | None) -> str:
    """The name of a codec, or ``auto``, as it is kept.

    Raises:
        UsageError: there is no such codec, or not for this length.
    """
    if codec == "auto":
        return codec
    from slimbind.codecs import parse

    # A length that everything divides, as long as the real one is not known.
    return str(parse(codec, math.lcm(*range(1, 1025)) if dim is None else dim))


def choose(codec: str, count: int, dim: int | None) -> tuple[str, Literal["flat", "ivf"]] | None:
    """Codec and kind for so many items of this dimension; None: compare every vector."""
    if codec == "f32" or dim is None:
        return None
    from slimbind.codecs import index, parse

    if codec == "auto":
        spec, kind = index.choose(count, dim)
        return None if spec == "f32" else (spec, "ivf" if kind == "ivf" else "flat")
    if count < CODES_FROM:
        return None
    return codec, "ivf" if count >= index.LISTS_FROM and parse(codec, dim).has_lists else "flat"


def record_of(known: Header) -> Record | None:
    """What the header says about the code file; None where there is none."""
    return None if known.codes is None else Record(**known.codes)


def as_dict(record: Record) -> dict[str, Any]:
    """A record as the header keeps it."""
    return asdict(record)


def load(folder: Path, record: Record, dim: int) -> CodeIndex:
    """Read the code file.

    Raises:
        SlimbindError: it is missing, damaged, or not the one that the header means.
    """
    from slimbind.codecs import CodeIndex

    index = CodeIndex.load(folder / record.file)
    if (len(index), index.dim, str(index.spec)) != (record.count, dim, record.spec):
        raise SlimbindError(f"{record.file} is not the code file of this collection")
    return index


def worth_extending(record: Record, *, waiting: int, dead: int) -> bool:
    """Whether enough changed since the code file was made.

    Args:
        record: of the file.
        waiting: vectors that are not in it.
        dead: vectors in it that were removed.
    """
    return waiting > max(_TAIL, record.count // _SHARE) or dead > max(_TAIL, record.count // _SHARE)


def build(connection: sqlite3.Connection, known: Header) -> Made | None:
    """Train on a sample and encode all vectors that this transaction sees; None where they are too few for codes."""
    from slimbind.codecs import CodeIndex, fit

    assert known.dim is not None
    keys = np.fromiter((row[0] for row in connection.execute("SELECT key FROM vectors ORDER BY key")), np.int64)
    choice = choose(known.codec, len(keys), known.dim)
    if choice is None:
        return None
    spec, kind = choice
    chosen = np.random.default_rng(0).choice(keys, min(_SAMPLE, len(keys)), replace=False)
    sample = items.originals(connection, known, np.sort(chosen).tolist())
    asked = queries_of(connection, known)
    transform = fit(sample, asked) if asked else None
    index = CodeIndex.build(spec, known.dim, transform=transform, kind=kind, expected=len(keys))
    index.train(sample, np.concatenate(list(asked.values())) if asked else None)
    for some, rows in items.read_vectors(connection, known):
        index.add(some, rows)
    return Made(
        index,
        Record(
            file=_name(known),
            asked=known.codec,
            spec=str(index.spec),
            kind=kind,
            count=len(index),
            until=known.next_key - 1,
            trained_on=len(keys),
            mix=mix(connection),
            gain=transform.predicted_gain if transform else 0.0,
        ),
    )


def extend(connection: sqlite3.Connection, known: Header, folder: Path, record: Record) -> Made | None:
    """Encode what came since, with what was learned; None where it is time to train again or the file is damaged."""
    assert known.dim is not None
    (count,) = connection.execute("SELECT count(*) FROM vectors").fetchone()
    choice, now = choose(known.codec, count, known.dim), mix(connection)
    drift = max(abs(now.get(name, 0) - record.mix.get(name, 0)) for name in now.keys() | record.mix.keys())
    if record.asked != known.codec or choice is None or choice[1] != record.kind:
        return None
    if count > _GROWTH * record.trained_on or drift > _DRIFT:
        return None
    try:
        index = load(folder, record, known.dim)  # a copy of its own: others search the one in memory
    except SlimbindError:
        return None
    removed = connection.execute("SELECT key FROM removed WHERE key <= ?", (record.until,))
    index.remove(np.fromiter((row[0] for row in removed), np.int64))
    for some, rows in items.read_vectors(connection, known, after=record.until):
        index.add(some, rows)
    # A name of its own, so that a reader never takes one file for another.
    return Made(index, replace(record, file=_name(known), count=len(index), until=known.next_key - 1))


def _name(known: Header) -> str:
    return f"codes-{known.revision}-{secrets.token_hex(4)}.bin"


@dataclass(frozen=True, slots=True)
class Made:
    """An index in memory, and what the header is to say about it once it is saved."""

    index: CodeIndex
    record: Record


def mix(connection: sqlite3.Connection) -> dict[str, float]:
    """The share of each modality."""
    counts = dict(connection.execute("SELECT modality, count(*) FROM items GROUP BY modality").fetchall())
    return {name: count / sum(counts.values()) for name, count in counts.items()}


def queries_of(connection: sqlite3.Connection, known: Header) -> dict[str, NDArray[np.float32]]:
    """Sample queries ``[m, dim]`` by modality."""
    assert known.dim is not None
    blobs: dict[str, list[bytes]] = {}
    for modality, blob in connection.execute("SELECT modality, vector FROM queries ORDER BY rowid"):
        blobs.setdefault(modality, []).append(blob)
    return {name: vectors.unpack(some, "f32", known.dim) for name, some in blobs.items()}


def sweep(folder: Path, keep: str | None) -> None:
    """Remove code files that are not the current one and were not written just now.

    A process that read the header a moment ago may be about to open the last one, and another may have written one
    that the header does not name yet.
    """
    for path in location.code_files(folder):
        with contextlib.suppress(OSError):  # Windows keeps a file that is open; the next sweep takes it
            if path.name != keep and path.stat().st_mtime < time.time() - _YOUNG:
                path.unlink()
