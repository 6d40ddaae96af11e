"""Flat scans: every code is looked at. One kind for codes in rows, one for FastScan's blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.codecs import fastscan
from slimbind.codecs.checks import Vectors
from slimbind.codecs.codec import Codec, Codes
from slimbind.codecs.product import ProductCodec
from slimbind.codecs.rabitq import QUERY_BITS, RaBitQCodec
from slimbind.codecs.scalar import ScalarCodec

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Queries from which a product of matrices beats faiss, which leaves it to BLAS only far later unless a setting of the
# whole process is changed.
_PRODUCT_FROM = 8


class Scan(ABC):
    """Codes by row number, and the search over them. Rows are counted from 0 in the order they were added."""

    codec: Codec
    _index: Any  # faiss's, which holds the codes

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @abstractmethod
    def add(self, vectors: Vectors) -> None:
        """Encode and append ``vectors`` ``[n, dim]``."""

    @abstractmethod
    def nearest(self, queries: Vectors, k: int, mask: Mask | None) -> Rows:
        """Rows ``[q, k]`` that score about highest, -1 where there are fewer; only those of ``mask`` ``[rows]``."""

    @abstractmethod
    def decoded(self, rows: Rows) -> Vectors:
        """Decoded vectors ``[m, dim]`` of ``rows`` ``[m]``."""

    @abstractmethod
    def keep(self, rows: Rows) -> None:
        """Drop all rows but these ``[m]``, ascending; they are numbered anew."""

    @abstractmethod
    def dump(self) -> dict[str, NDArray[np.generic]]:
        """The codes, as plain arrays, to be written to a file."""

    @abstractmethod
    def fill(self, arrays: dict[str, NDArray[np.generic]], count: int) -> None:
        """Take ``count`` rows from what ``dump`` gave; ValueError where it does not fit."""

    def _asking_more(self, queries: Vectors, k: int, mask: Mask) -> Rows:
        """``nearest`` for a search that cannot skip rows: it is asked for more until enough are in the mask."""
        inside = np.flatnonzero(mask)
        found = np.full((len(queries), k), -1, np.int64)
        if not len(inside):
            return found
        wanted = min(k, len(inside))
        share = len(inside) / len(mask)
        ask = int(1.5 * wanted / share) + 32
        todo = np.arange(len(queries))
        while len(todo):
            # Beyond some share of all rows it is cheaper to score what is allowed and nothing else.
            if ask > len(mask) // 8 or len(inside) <= 2048:
                found[todo, :wanted] = self._among(queries[todo], wanted, inside)
                break
            rows = self.nearest(queries[todo], ask, None)
            fits = (rows >= 0) & mask[rows]
            done = fits.sum(axis=1) >= wanted
            for at in np.flatnonzero(done):
                found[todo[at], :wanted] = rows[at, fits[at]][:wanted]
            todo, ask = todo[~done], ask * 4
        return found

    def _among(self, queries: Vectors, k: int, rows: Rows) -> Rows:
        """The best ``k`` of ``rows``, by decoding all of them in pieces; ``[q, k]``."""
        asked = self.codec.asked(queries)
        best = np.empty((len(asked), 0), np.float32)
        kept = np.empty((len(asked), 0), np.int64)
        for start in range(0, len(rows), 1 << 14):
            some = rows[start : start + (1 << 14)]
            best = np.concatenate([best, asked @ self.decoded(some).T], axis=1)
            kept = np.concatenate([kept, np.broadcast_to(some, (len(asked), len(some)))], axis=1)
            if best.shape[1] > k:
                order = np.argpartition(-best, k - 1, axis=1)[:, :k]
                best, kept = np.take_along_axis(best, order, axis=1), np.take_along_axis(kept, order, axis=1)
        return kept


class FlatScan(Scan):
    """A scan whose codes lie one after the other in the order of rows, as the codec writes them or in blocks."""

    def add(self, vectors: Vectors) -> None:
        """Encode and append."""
        self._append(self.codec.encode(vectors))

    @abstractmethod
    def _append(self, codes: Codes) -> None: ...


def open_scan(codec: Codec) -> Scan:
    """The flat scan that suits a trained codec."""
    return RowScan(codec) if fastscan.codebooks(codec) is None else BlockScan(codec)


def _resize(vector: Any, size: int) -> Codes:  # noqa: ANN401
    """Resize faiss's vector of bytes, keeping what is there, and look at it without a copy."""
    import faiss

    vector.resize(size)
    view: Codes = faiss.rev_swig_ptr(vector.data(), size) if size else np.empty(0, np.uint8)
    return view


def _view(vector: Any) -> Codes:  # noqa: ANN401
    import faiss

    view: Codes = faiss.rev_swig_ptr(vector.data(), vector.size()) if vector.size() else np.empty(0, np.uint8)
    return view


class RowScan(FlatScan):
    """One code after the other, as they are encoded: f32, f16, sq8, pq, rabitq."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._index = _row_index(codec)

    def _append(self, codes: Codes) -> None:
        start = len(self)
        _resize(self._index.codes, (start + len(codes)) * self.codec.bytes_per_vector)[
            start * self.codec.bytes_per_vector :
        ] = codes.ravel()
        self._index.ntotal = start + len(codes)

    def nearest(self, queries: Vectors, k: int, mask: Mask | None) -> Rows:
        """Rows by faiss, which skips what is not in the mask."""
        import faiss

        if mask is not None and isinstance(self.codec, ProductCodec):
            return self._asking_more(queries, k, mask)
        if self.codec.spec.family == "f32" and len(queries) >= _PRODUCT_FROM:
            rows = np.arange(len(self)) if mask is None else np.flatnonzero(mask)
            found = np.full((len(queries), k), -1, np.int64)
            best = self._among(queries, k, rows)
            found[:, : best.shape[1]] = best
            return found
        chosen = None
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")
            chosen = faiss.IDSelectorBitmap(len(mask), faiss.swig_ptr(bits))
        asked = self.codec.asked(queries)
        if isinstance(self.codec, RaBitQCodec):
            asked = self.codec.turned(asked)
            params = faiss.RaBitQSearchParameters(sel=chosen, qb=QUERY_BITS)
        else:
            asked = self.codec.turned(asked) if isinstance(self.codec, ProductCodec) else asked
            params = None if chosen is None else faiss.SearchParameters(sel=chosen)
        nearest: Rows = self._index.search(np.ascontiguousarray(asked), k, params=params)[1]
        return nearest

    def decoded(self, rows: Rows) -> Vectors:
        """Decoded vectors."""
        return self.codec.decode(self._codes()[rows])

    def _codes(self) -> Codes:
        return _view(self._index.codes).reshape(-1, self.codec.bytes_per_vector)

    def keep(self, rows: Rows) -> None:
        """Drop all but these."""
        codes = self._codes()[rows]
        self._index.reset()
        self._append(codes)

    def dump(self) -> dict[str, NDArray[np.generic]]:
        """Codes ``[n, bytes]``."""
        return {"codes": self._codes()}

    def fill(self, arrays: dict[str, NDArray[np.generic]], count: int) -> None:
        """Take codes over."""
        codes = np.asarray(arrays["codes"], np.uint8)
        if codes.shape != (count, self.codec.bytes_per_vector):
            raise ValueError(f"codes of shape {list(codes.shape)}")
        self._append(codes)


def _row_index(codec: Codec) -> Any:  # noqa: ANN401
    import faiss

    dim, metric = codec.dim, faiss.METRIC_INNER_PRODUCT
    if codec.spec.family == "f32":
        return faiss.IndexFlatIP(dim)
    if codec.spec.family == "f16":
        return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, metric)
    if isinstance(codec, ScalarCodec):
        index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, metric)
        index.sq, index.is_trained = codec.quantizer, True
        return index
    if isinstance(codec, ProductCodec):
        index = faiss.IndexPQ(dim, codec.spec.parts, codec.spec.bits, metric)
        index.pq, index.is_trained = codec.quantizer, True
        return index
    rabitq: Any = faiss.IndexRaBitQ  # its stubs know no number of bits
    index = rabitq(dim, metric, codec.spec.bits)
    # A centre of zero: the mean is subtracted by the codec, so that scores are dot products with decoded vectors.
    faiss.copy_array_to_vector(np.zeros(dim, np.float32), index.center)
    index.is_trained = True
    return index


class BlockScan(FlatScan):
    """FastScan's blocks of 32: sq4, pqMx4fs, binary. Its scores are rounded to 8 bits: only its rows are used."""

    def __init__(self, codec: Codec) -> None:
        import faiss

        self.codec = codec
        books = fastscan.codebooks(codec)
        assert books is not None
        self._parts, _, width = books.shape
        # A last part of nothing where their number is odd: faiss would divide the dimensions by it.
        self._index = faiss.IndexPQFastScan(self._parts * width, self._parts, 4, faiss.METRIC_INNER_PRODUCT, 32)
        faiss.copy_array_to_vector(np.ascontiguousarray(books).ravel(), self._index.pq.centroids)
        self._index.is_trained = True
        self._stride = 16 * (-(-self._parts // 2) * 2)

    def _append(self, codes: Codes) -> None:
        start = len(self)
        whole = start // fastscan.BLOCK
        if start % fastscan.BLOCK:  # the last block is not full: it is written again
            last = np.arange(whole * fastscan.BLOCK, start)
            codes = np.concatenate([fastscan.unpack(self._blocks(), last, self._parts), codes])
        count = whole * fastscan.BLOCK + len(codes)
        blocks = -(-count // fastscan.BLOCK)
        view = _resize(self._index.codes, blocks * self._stride).reshape(-1, self._stride)
        for at in range(0, len(codes), 1 << 16):
            packed = fastscan.pack(codes[at : at + (1 << 16)], self._parts)
            first = whole + at // fastscan.BLOCK
            view[first : first + len(packed)] = packed
        self._index.ntotal, self._index.ntotal2 = count, blocks * fastscan.BLOCK

    def _blocks(self) -> Codes:
        return _view(self._index.codes).reshape(-1, self._stride)

    def nearest(self, queries: Vectors, k: int, mask: Mask | None) -> Rows:
        """Rows by FastScan, which cannot skip any."""
        if mask is not None:
            return self._asking_more(queries, k, mask)
        rows: Rows = self._index.search(fastscan.asked(self.codec, queries), k)[1]
        return rows

    def decoded(self, rows: Rows) -> Vectors:
        """Decoded vectors."""
        return self.codec.decode(fastscan.unpack(self._blocks(), rows, self._parts)[:, : self.codec.bytes_per_vector])

    def keep(self, rows: Rows) -> None:
        """Drop all but these."""
        blocks = self._blocks().copy()
        self._index.reset()
        self._index.ntotal = self._index.ntotal2 = 0
        for start in range(0, len(rows), 1 << 16):
            self._append(fastscan.unpack(blocks, rows[start : start + (1 << 16)], self._parts))

    def dump(self) -> dict[str, NDArray[np.generic]]:
        """Blocks ``[any, stride]``."""
        return {"blocks": self._blocks()}

    def fill(self, arrays: dict[str, NDArray[np.generic]], count: int) -> None:
        """Take blocks over."""
        blocks = np.asarray(arrays["blocks"], np.uint8)
        if blocks.shape != (-(-count // fastscan.BLOCK), self._stride):
            raise ValueError(f"blocks of shape {list(blocks.shape)}")
        _resize(self._index.codes, blocks.size)[:] = blocks.ravel()
        self._index.ntotal, self._index.ntotal2 = count, len(blocks) * fastscan.BLOCK
