"""Accuracy, recall and rank from embeddings, and how sure one can be of them. numpy only, in blocks of bounded memory.

Definitions are those of CLIP_benchmark (https://github.com/LAION-AI/CLIP_benchmark), so that numbers can be compared:

    top-k       share of items whose class is among the k best scores (``acc1``, ``acc5``)
    mean recall of classes      mean over classes of the share found; scikit-learn's ``balanced_accuracy_score``
    R@k         share of queries with at least one right item among the k best: 1 or 0 for each query, however many
                right items there are. (Recall in the sense of information retrieval would be the share of them found.)

Equal scores are put in the order of the items, as a stable sort would: a model that says the same of everything does
not come out on top, and compressed vectors, which are often equal, are not flattered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimbind.errors import UsageError
from slimbind.evaluate.record import Estimate

Vectors = NDArray[np.float32]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
# From weights of items [b, n] (how often each was drawn) to a number for each of the b draws.
Statistic = Callable[[Floats], Floats]

RESAMPLES = 1000
_BLOCK = 1 << 22  # scores, or weights, held at once: 16 or 32 MB


@dataclass(frozen=True)
class Positives:
    """Which items of a gallery are right for each query; at least one for each.

    Args:
        items: the right items of all queries, one query after the other ``[any]``.
        starts: where each query's begin, and the end ``[q + 1]``.
    """

    items: Integers
    starts: Integers

    def __len__(self) -> int:
        return len(self.starts) - 1

    @staticmethod
    def one_each(items: ArrayLike) -> Positives:
        """One right item for each query: ``items`` ``[q]``, for example class numbers."""
        found = np.asarray(items, np.int64)
        return Positives(found, np.arange(len(found) + 1, dtype=np.int64))

    @staticmethod
    def of_pairs(queries: ArrayLike, items: ArrayLike, count: int) -> Positives:
        """From pairs that belong together, ``queries`` ``[p]`` and ``items`` ``[p]``, of ``count`` queries.

        Raises:
            UsageError: a query has no item.
        """
        pairs = np.unique(np.stack([np.asarray(queries, np.int64), np.asarray(items, np.int64)], axis=1), axis=0)
        numbers = np.bincount(pairs[:, 0], minlength=count)
        if len(numbers) != count or not numbers.all():
            raise UsageError("a query has no right item", hint="every query needs at least one")
        return Positives(pairs[:, 1], np.concatenate([[0], np.cumsum(numbers)]).astype(np.int64))


@dataclass(frozen=True)
class Ranking:
    """Where each query's best right item stands.

    Args:
        ranks: 1 is first ``[q]``.
        first: the gallery's item with the best score ``[q]``.
    """

    ranks: Integers
    first: Integers


def rank(
    queries: Vectors,
    gallery: Vectors,
    positives: Positives,
    *,
    on_done: Callable[[int], object] = lambda queries: None,
) -> Ranking:
    """Rank all items of a gallery for each query by dot product, without holding all scores at once.

    Args:
        queries: ``[q, dim]``.
        gallery: ``[n, dim]``.
        positives: the right items of each query.
        on_done: told after each block how many queries it had.

    Raises:
        UsageError: the shapes do not fit, there is nothing, a number is not finite, or a right item is not there.
    """
    _check(queries, gallery, positives)
    count, rows = len(gallery), max(1, _BLOCK // len(gallery))
    ranks, first = np.empty(len(queries), np.int64), np.empty(len(queries), np.int64)
    for start in range(0, len(queries), rows):
        stop = min(start + rows, len(queries))
        scores = queries[start:stop] @ gallery.T
        starts = positives.starts[start : stop + 1]
        items = positives.items[starts[0] : starts[-1]]
        owner = np.repeat(np.arange(stop - start), np.diff(starts))
        own, begins = scores[owner, items], starts[:-1] - starts[0]
        best = np.maximum.reduceat(own, begins)
        place = np.minimum.reduceat(np.where(own == best[owner], items, count), begins)
        above = np.count_nonzero(scores > best[:, None], axis=1)
        equal = np.count_nonzero(scores == best[:, None], axis=1)
        for row in np.flatnonzero(equal > 1):
            above[row] += np.count_nonzero(scores[row, : place[row]] == best[row])
        ranks[start:stop] = above + 1
        first[start:stop] = scores.argmax(axis=1)
        on_done(stop - start)
    return Ranking(ranks, first)


def _check(queries: Vectors, gallery: Vectors, positives: Positives) -> None:
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise UsageError(f"queries {list(queries.shape)} and gallery {list(gallery.shape)}; needed: [q, dim], [n, dim]")
    if not len(queries) or not len(gallery):
        raise UsageError(f"{len(queries)} queries and {len(gallery)} items", hint="at least one of each")
    if len(positives) != len(queries):
        raise UsageError(f"right items of {len(positives)} queries, and {len(queries)} queries")
    if positives.items.min() < 0 or positives.items.max() >= len(gallery):
        raise UsageError(f"a right item is not among the {len(gallery)} of the gallery")
    for what, vectors in (("queries", queries), ("gallery", gallery)):
        if not np.isfinite(vectors).all():
            raise UsageError(f"the {what} hold NaN or infinity")


def confusion(labels: Integers, predicted: Integers, classes: int) -> Integers:
    """How many items of each class (rows) were taken for each class (columns): ``[classes, classes]``."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def bootstrap(
    statistics: Mapping[str, Statistic],
    n: int,
    *,
    groups: Integers | None = None,
    centred: Collection[str] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Estimate]:
    """Each statistic of ``n`` items with its 95 % interval, by the percentile bootstrap.

    All statistics see the same draws. The method is Efron's (An Introduction to the Bootstrap, 1993, chapter 13). It
    knows nothing of what the sample does not show: where every item is right, the interval is one point.

    Args:
        statistics: by name; see ``mean_of``, ``median_of``, ``class_mean_of``.
        n: how many items.
        groups: which group each item belongs to ``[n]``; whole groups are drawn. Captions of one picture say less than
            as many captions of different ones.
        centred: statistics that grow with the noise of drawing, as sums of absolute values do: of these, the mean of
            the draws is brought to the value, so that the interval lies around it.
        seed: of the draws.
        resamples: how many.

    Raises:
        UsageError: there are no items, or no draws.
    """
    if n < 1 or resamples < 1:
        raise UsageError(f"{resamples} resamples of {n} items", hint="at least one of each")
    if groups is not None:
        groups = np.unique(groups, return_inverse=True)[1]
    drawn = n if groups is None else int(groups.max()) + 1
    random = np.random.default_rng(seed)
    at_once = max(1, _BLOCK // max(n, drawn))
    found: dict[str, list[Floats]] = {name: [] for name in statistics}
    for start in range(0, resamples, at_once):
        weights = np.stack(
            [
                np.bincount(random.integers(0, drawn, drawn), minlength=drawn).astype(np.float64)
                for _ in range(min(at_once, resamples - start))
            ]
        )
        if groups is not None:
            weights = weights[:, groups]
        for name, statistic in statistics.items():
            found[name].append(statistic(weights))
    whole = np.ones((1, n))
    estimates = {}
    for name, statistic in statistics.items():
        value, draws = float(statistic(whole)[0]), np.concatenate(found[name])
        if name in centred:
            draws = draws + (value - draws.mean())
        with np.errstate(invalid="ignore"):  # between a finite number and an infinite one there is none
            low, high = np.percentile(draws, (2.5, 97.5))
        estimates[name] = Estimate(value, float(low), float(high), n)
    return estimates


def paired(
    ours: Mapping[str, Statistic],
    reference: Mapping[str, Statistic],
    n: int,
    *,
    groups: Integers | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Estimate]:
    """By how much each statistic of a model differs from its reference's, with the 95 % interval of the difference.

    Both are computed on the same draws of the same items (paired bootstrap: Koehn, "Statistical Significance Tests for
    Machine Translation Evaluation", 2004). What is hard or easy for both cancels out, so the interval is much narrower
    than those of the two numbers let one think; where 0 lies outside, the models differ on items of this kind. It is
    of the items alone: nothing is said of another fit, or of other data.

        paired({"top-1": mean_of(ranks <= 1)}, {"top-1": mean_of(reference_ranks <= 1)}, len(ranks))

    Args:
        ours: the model's, by name.
        reference: the reference's; names that only one of the two has are left out.
        n: how many items, the same for both and in the same order.
        groups: see ``bootstrap``.
        seed: of the draws.
        resamples: how many.

    Returns:
        Ours less the reference's: below 0 is lost, where more is better.

    Raises:
        UsageError: there are no items, or no draws.
    """
    shared = {name: _difference(ours[name], reference[name]) for name in ours if name in reference}
    return bootstrap(shared, n, groups=groups, seed=seed, resamples=resamples)


def _difference(ours: Statistic, reference: Statistic) -> Statistic:
    return lambda weights: ours(weights) - reference(weights)


def mean_of(values: ArrayLike) -> Statistic:
    """The mean of ``values`` ``[n]``; of ``ranks <= k``, for example."""
    numbers = np.asarray(values, np.float64)
    return lambda weights: (weights @ numbers) / weights.sum(axis=1)


def median_of(values: ArrayLike) -> Statistic:
    """The median of ``values`` ``[n]``: of an even number, the mean of the two in the middle."""
    numbers = np.asarray(values, np.float64)
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]

    def median(weights: Floats) -> Floats:
        reached = np.cumsum(weights[:, order], axis=1)
        total = reached[:, -1]
        lower = (reached <= ((total - 1) // 2)[:, None]).sum(axis=1)
        upper = (reached <= (total // 2)[:, None]).sum(axis=1)
        return np.asarray((ordered[lower] + ordered[upper]) / 2)

    return median


def class_mean_of(values: ArrayLike, labels: Integers) -> Statistic:
    """The mean over classes of each class's mean of ``values`` ``[n]``; classes that were not drawn do not count."""
    order = np.argsort(labels, kind="stable")
    numbers = np.asarray(values, np.float64)[order]
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))

    def mean(weights: Floats) -> Floats:
        ordered = weights[:, order]
        sizes = np.add.reduceat(ordered, starts, axis=1)
        sums = np.add.reduceat(ordered * numbers, starts, axis=1)
        shares = np.divide(sums, sizes, out=np.zeros_like(sums), where=sizes > 0)
        return np.asarray(shares.sum(axis=1) / np.count_nonzero(sizes, axis=1))

    return mean
