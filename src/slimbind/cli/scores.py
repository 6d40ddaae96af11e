"""What scores mean, on the command line: which curves are used, what reaches a cut-off, and what a new model lacks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from slimbind.cli import console
from slimbind.errors import ArtifactError, SlimbindError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from slimbind.artifact import Artifact
    from slimbind.collection import Collection, Hit
    from slimbind.collection.remote import Remote
    from slimbind.runtime.model import Model
    from slimbind.scores import Scores


class Meaning:
    """The probabilities of hits, and the cut-offs that were asked for.

    Args:
        model: the model that searches, with the curves of its manifest; what is searched has its encoders.
        query: the query's modality.
        file: more curves, which come before the model's own.
        least: the smallest probability asked for.
        least_cosine: the smallest cosine asked for.

    Raises:
        ArtifactError: the file is none, or was fitted with other encoders.
    """

    def __init__(
        self,
        model: Model,
        query: str,
        *,
        file: Path | None = None,
        least: float | None = None,
        least_cosine: float | None = None,
    ) -> None:
        self._query = query
        self._least = least
        self._least_cosine = least_cosine
        self._encoders = {name: model.encoder(name).id for name in model.modalities}
        self._scores = model.artifact.manifest.scores.kept(self._encoders)
        if file is not None:
            self._scores = _joined(self._scores, file)

    def check(self, modalities: Iterable[str]) -> None:
        """Refuse a cut-off by probability where one of these modalities has none.

        Raises:
            UsageError: nobody has fitted it, or it was fitted with other encoders.
        """
        for name in modalities if self._least is not None else ():
            if name not in self._encoders:
                raise UsageError(
                    f"items of modality {name!r} have no probability: the model has no such tower",
                    hint="cut off with --min-cosine, or name a --modality",
                )
            try:
                self._scores.need(self._query, name, self._encoders)
            except ArtifactError as error:
                others = f"or cut off with --min-cosine, or leave {name} out with --modality"
                raise UsageError(
                    error.message, hint=f"{error.hint}, --scores FILE takes its --output; {others}"
                ) from error

    def probability(self, hit: Hit) -> float | None:
        """The probability that a hit is what was looked for; None where nobody has fitted it.

        Raises:
            ArtifactError: it was fitted with other encoders.
        """
        if hit.modality not in self._encoders:
            return None
        curve = self._scores.find(self._query, hit.modality, self._encoders)
        return None if curve is None else float(curve.probability(hit.score))

    def search(
        self, shelf: Collection | Remote, vector: NDArray[np.float32], k: int, *, where: str, modality: str | None
    ) -> tuple[list[Hit], list[Hit]]:
        """The ``k`` best hits, and those of them that reach both cut-offs.

        Where a probability is asked for, the best are those with the largest, each modality having been searched by
        itself: otherwise pictures that do not match would keep out sounds that do, whose cosines are all smaller.

        Raises:
            UsageError: a probability was asked for, and one of them has none.
        """
        found = shelf.search(vector, k, where=where, modality=modality)
        if self._least is not None:
            self.check({hit.modality for hit in found})
            if modality is None:
                known = [name for name in self._encoders if self._scores.find(self._query, name, self._encoders)]
                each = [shelf.search(vector, k, where=where, modality=name) for name in known]
                found = sorted((hit for hits in each for hit in hits), key=self._likely, reverse=True)[:k]
        return found, [hit for hit in found if self._is_good(hit)]

    def _likely(self, hit: Hit) -> float:
        return self.probability(hit) or 0.0

    def _is_good(self, hit: Hit) -> bool:
        near = self._least_cosine is None or hit.score >= self._least_cosine
        return near and (self._least is None or self._likely(hit) >= self._least)


def _joined(scores: Scores, file: Path) -> Scores:
    from slimbind.scores import Scores

    for curve in Scores.read(file.expanduser()).curves:
        scores = scores.adding(curve)
    return scores


def say_dropped(source: Path, made: Artifact) -> None:
    """Say which curves of a model were not kept, because a model made from it has other encoders."""
    from slimbind.artifact import Artifact

    try:
        before = Artifact.open(source).manifest.scores.curves
    except SlimbindError:
        return
    kept = {curve.modalities for curve in made.manifest.scores.curves}
    for curve in before:
        if curve.modalities not in kept and set(curve.modalities) <= set(made.modalities):
            names = " and ".join(curve.modalities)
            console.say(
                f"not kept: what scores of {names} mean; it belongs to the encoders of {source}. "
                f"`slimbind eval calibrate DATA --model {made.folder} --write` fits it for these"
            )
