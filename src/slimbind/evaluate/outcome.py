"""Where each item's right answer stood: what accuracy, recall and rank are counted from, alone or beside another model.

Two models that were asked the same agree on most items. How sure one can be of the difference between them is therefore
not seen from the interval of each; it is computed item by item (``metrics.paired``), which needs what is kept here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimbind.evaluate import metrics
from slimbind.evaluate.metrics import Integers, Statistic
from slimbind.evaluate.record import Estimate, Record

DEPTHS = (1, 5, 10)  # of R@k
WHOLE = "f32"  # the codec of embeddings that are not compressed
DIFFERENCE = " difference"  # ends the name of a measure that tells how far it lies from the reference's
_FROM_TOP5 = 5  # classes; below, CLIP_benchmark gives no top-5


@dataclass(frozen=True)
class Outcome:
    """What became of the items of one task.

    Args:
        ranks: of the first right answer; 1 is best, infinite where it was not found ``[n]``.
        items: which item of the data each is, rising ``[n]``. Outcomes are compared on those that both have.
        shares: measures, and the rank up to which items count for each.
        median: what the median rank is called; nothing where nobody asks for it.
        labels: the class of each item, for the mean recall of classes ``[n]``.
        groups: items that are drawn together, see ``metrics.bootstrap`` ``[n]``.
    """

    ranks: NDArray[np.float64]
    items: Integers
    shares: Mapping[str, int]
    median: str = ""
    labels: Integers | None = None
    groups: Integers | None = None

    @staticmethod
    def of_classes(ranks: ArrayLike, labels: Integers, classes: int, items: Integers | None = None) -> Outcome:
        """Of items that were put into classes.

        Args:
            ranks: of each item's own class ``[n]``.
            labels: of the items ``[n]``.
            classes: how many there are.
            items: see ``Outcome``; by default all, in their order.
        """
        shares = {"top-1": 1} | ({"top-5": 5} if classes >= _FROM_TOP5 else {})
        known = np.arange(len(labels)) if items is None else items
        return Outcome(np.asarray(ranks, np.float64), known, shares, labels=labels)

    @staticmethod
    def of_queries(direction: str, ranks: ArrayLike, groups: Integers, items: Integers | None = None) -> Outcome:
        """Of queries of one direction, such as "text to vision".

        Args:
            direction: what the names of measures begin with.
            ranks: of the best item that belongs to each ``[q]``.
            groups: see ``Outcome`` ``[q]``.
            items: see ``Outcome``; by default all, in their order.
        """
        shares = {f"{direction} R@{depth}": depth for depth in DEPTHS}
        known = np.arange(len(groups)) if items is None else items
        return Outcome(np.asarray(ranks, np.float64), known, shares, f"{direction} median rank", groups=groups)

    def measures(self, *, seed: int = 0) -> dict[str, Estimate]:
        """The numbers, with their intervals; without the median rank where it is not among what was searched."""
        statistics = self._statistics()
        if self.median and not np.isfinite(np.median(self.ranks)):
            del statistics[self.median]
        found = metrics.bootstrap(statistics, len(self.ranks), groups=self.groups, seed=seed)
        return {name: _finite(estimate) for name, estimate in found.items()}

    def differences(self, reference: Outcome, *, seed: int = 0) -> dict[str, Estimate]:
        """By how much the measures differ from a reference's: ours less its own, on the items that both have.

        Median ranks are compared only where all ranks are known. There is nothing where no item is in both.
        """
        both, ours, theirs = np.intersect1d(self.items, reference.items, assume_unique=True, return_indices=True)
        if not len(both):
            return {}
        own, other = self._of(ours)._statistics(), reference._of(theirs)._statistics()
        if not (np.isfinite(self.ranks).all() and np.isfinite(reference.ranks).all()):
            own.pop(self.median, None)
        groups = None if self.groups is None else self.groups[ours]
        found = metrics.paired(own, other, len(both), groups=groups, seed=seed)
        return {name + DIFFERENCE: estimate for name, estimate in found.items()}

    def _statistics(self) -> dict[str, Statistic]:
        found = {name: metrics.mean_of(self.ranks <= depth) for name, depth in self.shares.items()}
        if self.median:
            found[self.median] = metrics.median_of(self.ranks)
        if self.labels is not None:
            found["mean class recall"] = metrics.class_mean_of(self.ranks <= 1, self.labels)
        return found

    def _of(self, places: Integers) -> Outcome:
        labels, groups = (None if one is None else one[places] for one in (self.labels, self.groups))
        return Outcome(self.ranks[places], self.items[places], self.shares, self.median, labels, groups)


class Beside:
    """Adds to records by how much each differs from the first one that was given, which is the reference.

    Hand the same one to ``zero_shot``, ``linear_probe`` or ``retrieval`` for several models on the same data.
    """

    def __init__(self) -> None:
        self._reference = ""
        self._outcomes: Sequence[Outcome] = ()

    def add(self, record: Record, outcomes: Sequence[Outcome], *, seed: int = 0) -> Record:
        """The record with its differences; as it is, if it is the first.

        Args:
            record: with the measures of these outcomes.
            outcomes: as many as the first record had, of the same tasks in the same order.
            seed: of the draws.
        """
        if not self._outcomes:
            codec = record.settings.get("codec")
            self._reference, self._outcomes = record.model + (f", codec {codec}" if codec else ""), outcomes
            return record
        found: dict[str, Estimate] = {}
        for ours, reference in zip(outcomes, self._outcomes, strict=True):
            found |= ours.differences(reference, seed=seed)
        details = {**record.details, "differences from": self._reference}
        return replace(record, measures={**record.measures, **found}, details=details)


def _finite(estimate: Estimate) -> Estimate:
    """Without an interval that reaches behind what was searched."""
    if estimate.high is None or np.isfinite(estimate.high):
        return estimate
    return Estimate(estimate.value, n=estimate.n)
