"""CodeIndex: keys and compressed vectors in memory, searched by dot product; derived, and rebuilt at any time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimbind.codecs import checks, codefile
from slimbind.codecs.checks import Vectors
from slimbind.codecs.codec import Codec, Codes, open_codec
from slimbind.codecs.flat import Mask, Rows, Scan, open_scan
from slimbind.codecs.growing import Growing
from slimbind.codecs.keys import KeyMap
from slimbind.codecs.lists import ListScan, list_count
from slimbind.codecs.scoring import scored
from slimbind.codecs.sharing import SharedLock
from slimbind.codecs.spec import CodecSpec, parse
from slimbind.codecs.transform import Transform
from slimbind.errors import CollectionError, UsageError

Keys = NDArray[np.int64]
Fetch = Callable[[Keys], ArrayLike]
Kind = Literal["auto", "flat", "ivf"]

EXACT_BELOW = 10_000  # vectors: exact search takes about a millisecond
LISTS_FROM = 1_000_000  # vectors: a flat scan of 4-bit codes takes tens of milliseconds
_MIDDLE = "sq4,refine(original)"
_AT_ONCE = 128  # queries whose candidates are decoded together
_ADDED = 1 << 16  # vectors transformed and encoded together
_COMPACT_FROM = 1024  # dead rows


def choose(expected: int, dim: int) -> tuple[str, Kind]:
    """Codec and kind for so many vectors: exact, 4 bits and the originals, or lists above a million."""
    if expected < EXACT_BELOW:
        return "f32", "flat"
    if expected < LISTS_FROM:
        return _MIDDLE, "flat"
    return (f"pq{dim // 2}x4fs,refine(original)" if dim % 2 == 0 else _MIDDLE), "ivf"


class CodeIndex:
    """Keys and codes; searches run side by side, changes wait for them. Made by ``build`` or ``load``.

    A process that is forked off may go on with its copy, if no other thread was using it at that moment; else it may
    wait for ever, and is better off loading its own.

    A score is the dot product of the normalised query with the normalised vector as far as the codes know it: with the
    decoded vector, or with the original after ``refine(original)``. It does not depend on what else is in a batch.

        index = CodeIndex.build("sq4,refine(original)", 512, transform=fit(vectors, {"text": captions}))
        index.train(vectors)
        index.add(keys, vectors)
        scores, keys = index.search(queries, k=10, fetch=lambda keys: vectors[keys])
    """

    def __init__(self, spec: CodecSpec, transform: Transform | None, kind: Literal["flat", "ivf"], lists: int) -> None:
        if transform is not None and transform.dim != spec.dim:
            raise UsageError(f"a transform of {transform.dim} dimensions for vectors of {spec.dim}", hint="fit it anew")
        self.spec, self.dim, self.transform, self.kind = spec, spec.dim, transform, kind
        self._lists = lists
        self._lock = SharedLock()
        self._keys = KeyMap()
        self._codec = open_codec(spec.coarse, spec.dim)
        self._scan: Scan | None = open_scan(self._codec) if kind == "flat" and self._codec.trained else None
        fine = spec.refine if isinstance(spec.refine, CodecSpec) else None
        self._fine: Codec | None = None if fine is None else open_codec(fine.coarse, spec.dim)
        self._fine_codes = Growing(np.empty((0, 0 if fine is None else fine.coarse_bytes), np.uint8))

    @classmethod
    def build(
        cls,
        spec: CodecSpec | str,
        dim: int,
        *,
        transform: Transform | None = None,
        kind: Kind = "auto",
        expected: int = 0,
    ) -> CodeIndex:
        """An empty index.

        Args:
            spec: the codec (``codecs.spec``); ``choose`` names one by size.
            dim: length of the vectors.
            transform: what ``codecs.transform.fit`` gave, or None.
            kind: ``flat`` looks at every code, ``ivf`` at those near the query; ``auto`` takes lists from a million
                ``expected`` vectors on, where the codec can be kept in lists.
            expected: about how many vectors there will be.

        Raises:
            UsageError: an unknown codec or kind, or a codec that has no lists with ``ivf``.
        """
        found = parse(spec, dim) if isinstance(spec, str) else spec
        if kind not in ("auto", "flat", "ivf"):
            raise UsageError.unknown("kind of index", kind, ["auto", "flat", "ivf"])
        if kind == "auto":
            kind = "ivf" if expected >= LISTS_FROM and found.has_lists else "flat"
        if kind == "ivf" and not found.has_lists:
            raise UsageError(f"{found} has no lists", hint="use kind='flat', or binary with kind='ivf'")
        return cls(found, transform, kind, list_count(expected) if expected else 0)

    @property
    def trained(self) -> bool:
        """Whether vectors can be added."""
        return self._scan is not None and (self._fine is None or self._fine.trained)

    @property
    def codec(self) -> Codec:
        """The codec that search scores are those of: the second one of a hybrid."""
        return self._codec if self._fine is None else self._fine

    @property
    def lists(self) -> int:
        """How many lists there are; 0 in a flat index and before training."""
        return len(self._scan.centres) if isinstance(self._scan, ListScan) else 0

    @property
    def probes(self) -> int:
        """How many lists a query looks into; more find more and take longer."""
        return self._scan.probes if isinstance(self._scan, ListScan) else 0

    @probes.setter
    def probes(self, count: int) -> None:
        if not isinstance(self._scan, ListScan):
            raise UsageError("a flat index, or one that is not trained, has no lists to look into")
        if not 1 <= count <= self.lists:
            raise UsageError(f"{count} lists to look into; allowed: 1 to {self.lists}")
        self._scan.probes = count

    @property
    def bytes(self) -> int:
        """Memory of codes and keys: what grows with the number of vectors."""
        with self._lock.reading():
            per_row = self.spec.bytes_per_vector + (16 if self.kind == "ivf" else 0)  # a row number and a place
            return self._keys.rows * per_row + self._keys.bytes

    def train(self, vectors: ArrayLike, queries: ArrayLike | None = None) -> None:
        """Learn ranges, codebooks and lists from original ``vectors`` ``[n, dim]``, a sample of what will be added.

        Raises:
            UsageError: wrong shape, NaN, infinity, a zero vector, too few, or the index is not empty.
        """
        sample = self._stored(checks.unit(checks.vectors(vectors, self.dim, what="training vectors")))
        asked = None
        if queries is not None:
            asked = self._asked(checks.unit(checks.vectors(queries, self.dim, what="training queries")))
        with self._lock.writing():
            if self._keys.rows:
                raise UsageError("an index that holds vectors cannot be trained again", hint="build a new one")
            self._codec.train(sample, asked)
            if self._fine is not None:
                self._fine.train(sample, asked)
            if self.kind == "ivf":
                self._scan = ListScan(self._codec, ListScan.learn(sample, self._lists or list_count(len(sample))))
            else:
                self._scan = open_scan(self._codec)

    def _stored(self, unit: Vectors) -> Vectors:
        return unit if self.transform is None else self.transform.documents(unit)

    def _asked(self, unit: Vectors) -> Vectors:
        return unit if self.transform is None else self.transform.queries(unit)

    def add(self, keys: ArrayLike, vectors: ArrayLike) -> None:
        """Add original ``vectors`` ``[n, dim]`` under ``keys`` ``[n]``, in the place of what a key had.

        Raises:
            UsageError: wrong shape, NaN, infinity, a zero vector, a negative or repeated key, or not trained.
        """
        checked = checks.vectors(vectors, self.dim)
        names = checks.keys(keys, len(checked))
        if len(np.unique(names)) != len(names):
            raise UsageError("a key is given twice in one call", hint="each key has one vector")
        if not self.trained:
            raise UsageError(f"an index of {self.spec} must be trained first", hint="call train(vectors)")
        with self._lock.writing():
            scan = self._trained_scan()
            self._drop(self._keys.find(names))
            for start in range(0, len(checked), _ADDED):
                part = slice(start, start + _ADDED)
                stored = self._stored(checks.unit(checked[part]))
                scan.add(stored)
                if self._fine is not None:
                    self._fine_codes.append(self._fine.encode(stored))
                self._keys.add(names[part])

    def remove(self, keys: ArrayLike) -> int:
        """Remove ``keys``; those that are not there are passed over. Returns how many were.

        Raises:
            UsageError: they are no keys.
        """
        names = checks.keys(keys)
        with self._lock.writing():
            rows = self._keys.find(names)
            self._drop(rows)
            return len(rows)

    def _drop(self, rows: Rows) -> None:
        self._keys.remove(rows)
        dead = self._keys.rows - len(self._keys)
        if dead >= _COMPACT_FROM and dead * 4 > self._keys.rows:
            stay = self._keys.compact()
            self._trained_scan().keep(stay)
            if self._fine is not None:
                self._fine_codes = Growing(self._fine_codes.rows[stay])

    def _trained_scan(self) -> Scan:
        if self._scan is None:
            raise UsageError(f"an index of {self.spec} must be trained first", hint="call train(vectors)")
        return self._scan

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: int) -> bool:
        with self._lock.reading():
            return bool(len(self._keys.find(np.array([key], np.int64))))

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        oversample: float | None = None,
        allowed: ArrayLike | None = None,
        fetch: Fetch | None = None,
    ) -> tuple[Vectors, Keys]:
        """The ``k`` best for each query.

        Args:
            queries: originals ``[q, dim]``.
            k: how many.
            oversample: how many times ``k`` the first stage gives to the second; a default that suits the codec.
            allowed: keys that may be found ``[any]``; None: all.
            fetch: originals ``[n, dim]`` of keys ``[n]``, for ``refine(original)``.

        Returns:
            Scores ``[q, k]``, best first, and keys ``[q, k]``; -inf and -1 where there are fewer.

        Raises:
            UsageError: wrong shape, NaN, infinity, a zero vector, ``k`` below 1, or ``fetch`` is missing.
        """
        asked = checks.unit(checks.vectors(queries, self.dim, what="queries"))
        if k < 1:
            raise UsageError(f"k is {k}", hint="at least 1")
        if oversample is not None and not oversample >= 1:
            raise UsageError(f"oversample is {oversample}", hint="at least 1")
        if self.spec.needs_originals and fetch is None:
            raise UsageError(f"{self.spec} needs the original vectors", hint="pass fetch=")
        keys = np.full((len(asked), k), -1, np.int64)
        scores = np.full((len(asked), k), -np.inf, np.float32)
        wanted = None if allowed is None else checks.keys(allowed)
        with self._lock.reading():
            mask = self._mask(wanted)
            if self._scan is None or not len(self) or (mask is not None and not mask.any()):
                return scores, keys
            for start in range(0, len(asked), _AT_ONCE):
                part = slice(start, start + _AT_ONCE)
                self._search(asked[part], k, oversample, mask, fetch, scores[part], keys[part])
        return scores, keys

    def _mask(self, allowed: Keys | None) -> Mask | None:
        if allowed is None:
            return self._keys.alive
        mask = np.zeros(self._keys.rows, np.bool_)
        mask[self._keys.find(allowed)] = True
        return mask

    def _search(
        self,
        asked: Vectors,
        k: int,
        oversample: float | None,
        mask: Mask | None,
        fetch: Fetch | None,
        scores: Vectors,
        keys: Keys,
    ) -> None:
        """Fill ``scores`` and ``keys`` ``[q, k]`` for a few queries."""
        scan, inner = self._trained_scan(), self._asked(asked)
        offset = np.zeros(len(asked), np.float32) if self.transform is None else self.transform.offset(asked)
        fine = self.spec.refine if isinstance(self.spec.refine, CodecSpec) else None
        times = 1.0 if self.spec.refine is None else oversample or self.spec.oversample
        # FastScan's scores are rounded: a few more than k are looked at even where nothing is refined.
        count = max(int(np.ceil(k * times)), k + k // 2 + 8)
        rows = scan.nearest(inner, min(count, self._keys.rows), mask)
        if self.spec.refine is None or fine is not None:
            codec, codes = (self._codec, None) if self._fine is None else (self._fine, self._fine_codes.rows)
            found = rows[rows >= 0]
            vectors = scan.decoded(found) if codes is None else codec.decode(codes[found])
            told = scored(codec.asked(inner), rows, vectors) + offset[:, None]
            if fine is not None and fine.refine == "original":
                count = min(rows.shape[1], max(int(np.ceil(k * fine.oversample)), k))
                rows = np.take_along_axis(rows, np.argsort(-told, axis=1, kind="stable")[:, :count], axis=1)
        if self.spec.needs_originals:
            assert fetch is not None
            told = self._compared(asked, rows, fetch)
        names = self._keys.at(rows)
        order = np.lexsort((names, -told), axis=1)[:, :k]
        width = order.shape[1]
        scores[:, :width] = np.take_along_axis(told, order, axis=1)
        keys[:, :width] = np.take_along_axis(names, order, axis=1)

    def _compared(self, asked: Vectors, rows: Rows, fetch: Fetch) -> Vectors:
        """Dot products ``[q, n]`` with the normalised originals of ``rows``, each of which is fetched once."""
        found, back = np.unique(rows[rows >= 0], return_inverse=True)
        names = self._keys.at(found)
        vectors = np.ascontiguousarray(fetch(names), np.float32)
        if vectors.shape != (len(names), self.dim):
            raise UsageError(
                f"{len(vectors)} vectors were fetched for {len(names)} keys, of shape {list(vectors.shape)}",
                hint=f"[{len(names)}, {self.dim}]: one for each, in order",
            )
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        if not (np.isfinite(lengths).all() and lengths.all()):
            checks.vectors(vectors, self.dim, what="fetched vectors")  # says which; else only too long or too short
            vectors = checks.unit(vectors)
            lengths = np.ones(len(vectors), np.float32)
        return scored(asked, rows, vectors, back, lengths)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index as one file, whole or not at all.

        Raises:
            UsageError: it has not been trained.
            CollectionError: the disk is full or not writable.
        """
        with self._lock.reading():
            scan = self._trained_scan()
            arrays: dict[str, NDArray[np.generic]] = {}
            parts: dict[str, Mapping[str, NDArray[np.generic]]] = {
                "transform": {} if self.transform is None else self.transform.state(),
                "codec": self._codec.state(),
                "fine": {} if self._fine is None else {**self._fine.state(), "codes": self._fine_codes.rows},
                "scan": scan.dump(),
                "keys": self._keys.dump(),
            }
            for name, part in parts.items():
                arrays.update({f"{name}/{key}": value for key, value in part.items()})
            meta = {"spec": str(self.spec), "dim": self.dim, "kind": self.kind, "rows": self._keys.rows}
            if isinstance(scan, ListScan):
                arrays["centres"] = scan.centres
                meta["probes"] = scan.probes
            codefile.write(Path(path), meta, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CodeIndex:
        """Read what ``save`` wrote.

        Raises:
            CollectionError: there is no such file, or it is damaged.
        """
        meta, arrays = codefile.read(Path(path))

        def part(name: str) -> dict[str, NDArray[np.generic]]:
            return {key[len(name) + 1 :]: value for key, value in arrays.items() if key.startswith(f"{name}/")}

        try:
            dim, rows, kind = int(meta["dim"]), int(meta["rows"]), meta["kind"]
            transform = Transform.from_state(part("transform")) if part("transform") else None
            index = cls.build(parse(meta["spec"], dim), dim, transform=transform, kind=kind)
            index._codec.restore(part("codec"))
            if index._fine is not None:
                index._fine.restore(part("fine"))
                codes: Codes = np.array(part("fine")["codes"], np.uint8)
                if codes.shape != (rows, index._fine.bytes_per_vector):
                    raise ValueError(f"second codes of shape {list(codes.shape)}")
                index._fine_codes = Growing(codes)
            if kind == "ivf":
                centres = np.asarray(arrays["centres"], np.float32)
                index._scan = ListScan(index._codec, centres, int(meta["probes"]))
            else:
                index._scan = open_scan(index._codec)
            index._scan.fill(part("scan"), rows)
            index._keys.fill(part("keys"), rows)
        except (UsageError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise CollectionError(f"{path} is damaged: {error}", hint="have it built again") from error
        return index
