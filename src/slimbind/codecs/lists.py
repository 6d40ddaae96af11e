"""Inverted lists (IVF): codes grouped around learned centres, of which a query looks into the best few.

Codes are those of the codec itself, not of what is left after subtracting a centre: decoding needs no list number, and
moving from a flat scan to lists changes no score. The lists to look into are those whose centres have the highest DOT
PRODUCT with the query. Documents are assigned to the NEAREST centre; choosing lists by distance as well, as is usual,
loses queries that lie outside of the documents' distribution.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.codecs import fastscan
from slimbind.codecs.checks import Vectors
from slimbind.codecs.codec import Codec, Codes
from slimbind.codecs.flat import Mask, Rows, Scan
from slimbind.codecs.product import ProductCodec
from slimbind.codecs.rabitq import QUERY_BITS, RaBitQCodec
from slimbind.codecs.scalar import ScalarCodec, some

_PER_LIST = 64  # training vectors for each centre
_STEPS = 8


def list_count(expected: int) -> int:
    """How many lists for so many vectors: about the square root, a power of two."""
    return 1 << max(2, round(math.log2(max(expected, 1)) / 2))


class ListScan(Scan):
    """Codes in inverted lists; ``probes`` of them are looked into."""

    def __init__(self, codec: Codec, centres: Vectors, probes: int | None = None) -> None:
        import faiss

        self.codec, self.centres = codec, centres
        self.probes = max(1, len(centres) // 6) if probes is None else probes
        books = fastscan.codebooks(codec)
        self._books = np.empty(0, np.float32) if books is None else np.ascontiguousarray(books)
        self._parts = 0 if books is None else len(books)
        width = codec.dim if books is None else books.shape[0] * books.shape[2]
        self._quantizer = faiss.IndexFlatL2(width)
        self._turned_centres = self._assigned(centres)
        self._quantizer.add(self._turned_centres)
        if isinstance(codec, RaBitQCodec):
            # faiss would subtract the centre of a list before it takes signs; these codes are of whole vectors. Which
            # list a vector belongs to is decided here.
            self._origin = faiss.IndexFlatL2(width)
            self._origin.add(np.zeros_like(self._turned_centres))
        self._index = self._empty(books)
        self._index.make_direct_map()

    def _empty(self, books: NDArray[np.float32] | None, parts: int = 0) -> Any:  # noqa: ANN401
        base = self._origin if isinstance(self.codec, RaBitQCodec) else self._quantizer
        return _list_index(self.codec, books, base, len(self.centres), parts)

    @staticmethod
    def learn(vectors: Vectors, count: int) -> Vectors:
        """``count`` centres ``[count, dim]`` of ``vectors`` ``[n, dim]`` by k-means; fewer where those are few."""
        import faiss

        count = max(1, min(count, len(vectors) // 8))
        cluster = faiss.Clustering(vectors.shape[1], count)
        cluster.niter, cluster.min_points_per_centroid, cluster.max_points_per_centroid = _STEPS, 1, _PER_LIST
        centres = faiss.IndexFlatL2(vectors.shape[1])
        cluster.train(some(vectors, count * _PER_LIST), centres)
        found: Vectors = faiss.vector_to_array(cluster.centroids).reshape(count, -1)
        return found

    def _assigned(self, vectors: Vectors) -> Vectors:
        """Vectors in the space of the codebooks: turned by opq and rabitq, filled up with zeros for binary."""
        if isinstance(self.codec, ProductCodec | RaBitQCodec):
            return np.ascontiguousarray(self.codec.turned(vectors))
        missing = self._quantizer.d - vectors.shape[1]
        return np.pad(vectors, ((0, 0), (0, missing))) if missing else np.ascontiguousarray(vectors)

    def add(self, vectors: Vectors) -> None:
        """Encode, assign and append."""
        if isinstance(self.codec, RaBitQCodec):
            import faiss

            places = np.ascontiguousarray(self._quantizer.search(self._assigned(vectors), 1)[1][:, 0])
            centred = self.codec.encoded_from(vectors)
            self._index.add_core(len(vectors), faiss.swig_ptr(centred), None, faiss.swig_ptr(places))
            return
        if isinstance(self.codec, ScalarCodec):
            vectors = self.codec.rounded_from(vectors)
        self._index.add(self._assigned(vectors))

    def nearest(self, queries: Vectors, k: int, mask: Mask | None) -> Rows:
        """Rows from the ``probes`` best lists; from all lists where the mask leaves little, or much is asked for."""
        import faiss

        if isinstance(self.codec, RaBitQCodec):
            params = faiss.IVFRaBitQSearchParameters()
            params.qb = QUERY_BITS
        else:
            params = faiss.SearchParametersIVF()
        probes = self.probes
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")
            params.sel = faiss.IDSelectorBitmap(len(mask), faiss.swig_ptr(bits))
        there = len(self) if mask is None else int(mask.sum())
        if there * self.probes < 16 * k * len(self.centres):
            probes = len(self.centres)
        params.nprobe = probes
        asked = np.ascontiguousarray(self._assigned(self.codec.asked(queries)))
        # One query at a time, as everything that decides about results: a batch finds what each query alone finds.
        close = np.matmul(asked[:, None], self._turned_centres.T)[:, 0]
        lists = np.argpartition(-close, probes - 1, axis=1)[:, :probes] if probes < close.shape[1] else None
        if lists is None:
            lists = np.broadcast_to(np.arange(close.shape[1]), close.shape)
        distances = np.take_along_axis(close, lists, axis=1)
        rows = np.empty((len(asked), k), np.int64)
        scores = np.empty((len(asked), k), np.float32)
        lists, distances = np.ascontiguousarray(lists, np.int64), np.ascontiguousarray(distances)
        # The Python form of this call takes no parameters.
        self._index.search_preassigned_c(
            len(asked),
            faiss.swig_ptr(asked),
            k,
            faiss.swig_ptr(lists),
            faiss.swig_ptr(distances),
            faiss.swig_ptr(scores),
            faiss.swig_ptr(rows),
            False,
            params,
        )
        return rows

    def decoded(self, rows: Rows) -> Vectors:
        """Decoded vectors, from wherever they lie."""
        if isinstance(self.codec, RaBitQCodec):  # which faiss decodes as if it always had one bit and no scale
            return self.codec.decode(self._codes_of(rows))
        found: Vectors = self._index.reconstruct_batch(rows)[:, : self.codec.dim]
        if isinstance(self.codec, ProductCodec) and self.codec.rotation is not None:
            found = np.asarray(found @ self.codec.rotation, np.float32)
        return found

    def _codes_of(self, rows: Rows) -> Codes:
        """The codes of some rows ``[m]``, list by list."""
        import faiss

        found = np.empty((len(rows), self.codec.bytes_per_vector), np.uint8)
        # A list in the upper half of the number, a place in it in the lower one.
        every = self._index.direct_map.array
        homes = faiss.rev_swig_ptr(every.data(), every.size())[rows]
        lists = self._index.invlists
        for number in np.unique(homes >> 32).tolist():
            mine = np.flatnonzero(homes >> 32 == number)
            codes = faiss.rev_swig_ptr(lists.get_codes(number), lists.list_size(number) * found.shape[1])
            found[mine] = codes.reshape(-1, found.shape[1])[homes[mine] & 0xFFFFFFFF]
        return found

    def keep(self, rows: Rows) -> None:
        """Drop all but these."""
        places, codes = self._all()
        self._take(places[rows], codes[rows])

    def dump(self) -> dict[str, NDArray[np.generic]]:
        """The list of each row ``[n]``, and its code ``[n, bytes]``."""
        places, codes = self._all()
        return {"places": places, "codes": codes}

    def fill(self, arrays: dict[str, NDArray[np.generic]], count: int) -> None:
        """Take rows over."""
        places, codes = np.asarray(arrays["places"], np.int32), np.asarray(arrays["codes"], np.uint8)
        if places.shape != (count,) or codes.shape != (count, self.codec.bytes_per_vector):
            raise ValueError(f"lists of shape {list(places.shape)} with codes of shape {list(codes.shape)}")
        if count and not 0 <= int(places.min()) <= int(places.max()) < len(self.centres):
            raise ValueError(f"a list number that is not below {len(self.centres)}")
        self._take(places, codes)

    def _all(self) -> tuple[NDArray[np.int32], Codes]:
        """List and code of every row, in the order of rows."""
        import faiss

        size = self.codec.bytes_per_vector
        places, codes = np.empty(len(self), np.int32), np.empty((len(self), size), np.uint8)
        lists = self._index.invlists
        for number in range(len(self.centres)):
            if not (count := lists.list_size(number)):
                continue
            rows = faiss.rev_swig_ptr(lists.get_ids(number), count)
            places[rows] = number
            if self._parts:
                stride = 16 * (-(-self._parts // 2) * 2)
                blocks = faiss.rev_swig_ptr(lists.get_codes(number), -(-count // fastscan.BLOCK) * stride)
                found = fastscan.unpack(blocks.reshape(-1, stride), np.arange(count), self._parts)
                codes[rows] = found[:, :size]
            else:
                codes[rows] = faiss.rev_swig_ptr(lists.get_codes(number), count * size).reshape(count, size)
        return places, codes

    def _take(self, places: NDArray[np.int32], codes: Codes) -> None:
        """Hold these rows and no others."""
        import faiss

        index = self._empty(None, self._parts)
        order = np.argsort(places, kind="stable")
        cuts = np.searchsorted(places[order], np.arange(len(self.centres) + 1))
        for number, (start, end) in enumerate(zip(cuts[:-1], cuts[1:], strict=True)):
            rows = np.ascontiguousarray(order[start:end], np.int64)
            if len(rows):
                some_codes = np.ascontiguousarray(codes[rows])
                index.invlists.add_entries(number, len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(some_codes))
        index.ntotal = len(places)
        if self._parts:
            faiss.copy_array_to_vector(self._books.ravel(), index.pq.centroids)
            # Packs the codes of each list; the quantizer is shared, not copied.
            index = faiss.IndexIVFPQFastScan(index)
            index.own_fields = False
        index.make_direct_map()
        self._index = index


def _list_index(
    codec: Codec,
    books: NDArray[np.float32] | None,
    quantizer: Any,  # noqa: ANN401  (faiss has no types)
    count: int,
    parts: int = 0,
) -> Any:  # noqa: ANN401
    """Empty lists: FastScan's where there are ``books``, plain ones of 4-bit ``parts`` to be packed later."""
    import faiss

    metric = faiss.METRIC_INNER_PRODUCT
    if books is not None:
        index: Any = faiss.IndexIVFPQFastScan(quantizer, quantizer.d, count, books.shape[0], 4, metric)
        faiss.copy_array_to_vector(np.ascontiguousarray(books).ravel(), index.pq.centroids)
    elif parts:
        index = faiss.IndexIVFPQ(quantizer, quantizer.d, count, parts, 4, metric)
    elif isinstance(codec, ProductCodec):
        index = faiss.IndexIVFPQ(quantizer, codec.dim, count, codec.spec.parts, codec.spec.bits, metric)
        index.pq = codec.quantizer
    elif isinstance(codec, RaBitQCodec):
        make: Any = faiss.IndexIVFRaBitQ  # its stubs know no number of bits
        index = make(quantizer, codec.dim, count, metric, True, codec.spec.bits)
        index.own_fields, index.is_trained = False, True
        return index
    elif codec.spec.family == "f32":
        index = faiss.IndexIVFFlat(quantizer, codec.dim, count, metric)
    else:
        kind = faiss.ScalarQuantizer.QT_8bit if isinstance(codec, ScalarCodec) else faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIVFScalarQuantizer(quantizer, codec.dim, count, kind, metric, False)
        if isinstance(codec, ScalarCodec):
            index.sq = codec.quantizer
    index.by_residual, index.own_fields, index.is_trained = False, False, True
    return index
