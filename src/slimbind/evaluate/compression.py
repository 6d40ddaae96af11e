"""Embeddings as codecs keep them, beside whole ones: what is lost where what is searched is compressed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from slimbind.codecs.codec import open_codec
from slimbind.codecs.index import CodeIndex
from slimbind.codecs.spec import CodecSpec, parse
from slimbind.codecs.transform import Transform, fit
from slimbind.errors import UsageError
from slimbind.evaluate import metrics
from slimbind.evaluate.embedding import Vectors
from slimbind.evaluate.metrics import Positives
from slimbind.evaluate.outcome import DEPTHS, WHOLE

_AT_ONCE = 1024  # queries


def wanted(codecs: Sequence[str], dim: int) -> dict[str, CodecSpec]:
    """The codecs by their names, each once, f32 first.

    Raises:
        UsageError: there is no such codec.
    """
    return {str(spec): spec for spec in (parse(text, dim) for text in (WHOLE, *codecs))}


def compressed(
    spec: CodecSpec, gallery: Vectors, queries: Vectors, known: Mapping[str, Vectors]
) -> tuple[Vectors, Vectors]:
    """The gallery as a codec gives it back ``[n, d]``, and queries ``[q, d]``: their dot products are the scores.

    Args:
        spec: the codec, without a second look. Its ranges and codebooks are learned from the gallery, as those of a
            collection are.
        gallery: ``[n, dim]``.
        queries: ``[q, dim]``; they stay whole, but for codecs that round them.
        known: queries of the same kind that the codes are fitted to, by modality; may be empty. One more dimension then
            holds what is the same for all items of a query.

    Raises:
        UsageError: the gallery is too small for the codec to learn from, or the codec has a second look.
    """
    check_plain(spec)
    if str(spec) == WHOLE:
        return gallery, queries
    examples = np.concatenate(list(known.values())) if known else None
    transform = fit(gallery, known) if known else None
    codec = open_codec(spec, spec.dim)
    if transform is None:
        codec.train(gallery, examples)
        return codec.decode(codec.encode(gallery)), codec.asked(queries)
    stored = transform.documents(gallery)
    codec.train(stored, None if examples is None else transform.queries(examples))
    decoded = codec.decode(codec.encode(stored))
    asked = codec.asked(transform.queries(queries))
    constant = np.ones((len(decoded), 1), np.float32)
    return np.hstack([decoded, constant]), np.hstack([asked, transform.offset(queries)[:, None]])


def check_plain(spec: CodecSpec) -> None:
    """Refuse a codec with a second look, which has no score for every item.

    Raises:
        UsageError: it has one.
    """
    if spec.refine is not None:
        raise UsageError(f"{spec} is for searches: its second look is at the best only", hint=f"use {spec.coarse}")


def ranks_through(
    spec: CodecSpec,
    queries: Vectors,
    gallery: Vectors,
    positives: Positives,
    known: Mapping[str, Vectors],
    on_done: Callable[[int], object] = lambda queries: None,
) -> NDArray[np.float64]:
    """The rank of each query's best right item ``[q]`` where the gallery is compressed; infinite where not found.

    Args:
        spec: the codec; with a second look, the ten best are searched for as ``slimbind search`` does.
        queries: ``[q, dim]``, not compressed.
        gallery: ``[n, dim]``.
        positives: the right items of each query.
        known: queries of the same kind that the codes are fitted to, by modality; may be empty.
        on_done: told how many queries are done.

    Raises:
        UsageError: the gallery is too small for the codec to learn from.
    """
    if spec.refine is not None:
        transform = fit(gallery, known) if known else None
        return _ranks_of_the_best(spec, queries, gallery, positives, transform, known, on_done)
    stored, asked = compressed(spec, gallery, queries, known)
    return metrics.rank(asked, stored, positives, on_done=on_done).ranks.astype(np.float64)


def _ranks_of_the_best(
    spec: CodecSpec,
    queries: Vectors,
    gallery: Vectors,
    positives: Positives,
    transform: Transform | None,
    known: Mapping[str, Vectors],
    on_done: Callable[[int], object],
) -> NDArray[np.float64]:
    index = CodeIndex.build(spec, spec.dim, transform=transform, kind="flat")
    index.train(gallery, np.concatenate(list(known.values())) if known else None)
    index.add(np.arange(len(gallery)), gallery)
    depth = min(max(DEPTHS), len(gallery))  # what lies behind is asked for by no measure but the median
    right = np.repeat(np.arange(len(queries)), np.diff(positives.starts)) * len(gallery) + positives.items
    ranks = np.full(len(queries), np.inf)
    for start in range(0, len(queries), _AT_ONCE):
        part = np.arange(start, min(start + _AT_ONCE, len(queries)))
        _, keys = index.search(queries[part], depth, fetch=lambda these: gallery[these])
        hits = np.isin(part[:, None] * len(gallery) + keys, right) & (keys >= 0)
        ranks[part] = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.inf)
        on_done(len(part))
    return ranks
