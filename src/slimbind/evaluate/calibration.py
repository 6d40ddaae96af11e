"""Score calibration: from the cosine of two items to the probability that they belong together, fitted on pairs.

The curve is Platt's: a sigmoid of a line ("Probabilistic Outputs for Support Vector Machines", 1999), with his targets
just inside 0 and 1, fitted by Newton's method (Lin, Lin and Weng, "A Note on Platt's Probabilistic Outputs", 2007).
Isotonic regression was measured beside it (``benchmarks/calibration.py``): it needs many more pairs for the same error,
and makes steps, in which items that a search had told apart become equal. Two numbers cannot.

Pairs that match and pairs that do not weigh the same, however many of each there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import JsonValue

from slimbind.artifact import MANIFEST, Artifact
from slimbind.datasets import Dataset
from slimbind.errors import UsageError
from slimbind.evaluate import metrics
from slimbind.evaluate.embedding import Failed, Progress, Vectors, check_classes, embed_labelled, silent
from slimbind.evaluate.record import Estimate, Record, environment
from slimbind.evaluate.retrieval import embed_pairs
from slimbind.evaluate.templates import choose, fill
from slimbind.evaluate.zero_shot import spoken_name
from slimbind.runtime.model import Model
from slimbind.scores import Curve, Measured, ordered, sigmoid, write_whole

CUTS = (0.5, 0.8, 0.9, 0.95, 0.99)
_BINS = 15  # of the calibration error
_OTHERS = 32  # pairs that do not match, for each that does
_LEAST = 20  # matching pairs; half of them are fitted on
_STEPS = 100
_CLOSE = 1e-10

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Cosines:
    """Cosines of pairs that match, and of others with the same first item.

    Args:
        matching: ``[p]``.
        others: ``[p, 32]``; NaN where an item is left out because it matches as well.
        groups: pairs that share an item, directly or by others, are in one group ``[p]``.
    """

    matching: Floats
    others: Floats
    groups: Integers


@dataclass(frozen=True)
class Calibrated:
    """A curve, and what it is worth: the record of the pairs that it was not fitted on."""

    curve: Curve
    record: Record


def calibrate(
    model: Model,
    data: Dataset,
    *,
    name: str = "",
    templates: Sequence[str] = (),
    samples: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress = silent,
) -> Calibrated:
    """Fit the curve of two modalities on half of some pairs, and measure it on the other half.

    Args:
        model: with the modalities of the data.
        data: with pairs; or with classes, whose names in sentences are then the texts that match.
        name: the model's, for the record; by default its id.
        templates: of those sentences, see ``templates.choose``.
        samples: most pairs or items, evenly spread over the data.
        seed: of the halves, of the other pairs, and of the intervals.
        batch_size: most views in a forward pass.
        progress: shows it.

    Returns:
        The curve, which ``store`` keeps; and a record with the Brier score and the expected calibration error of the
        cosine taken for a probability (below 0 as 0), of the curve's probability, and for some cut-offs the share of
        matching and of other pairs that reach it.

    Raises:
        UsageError: there are neither pairs nor classes, too few of them, or matching pairs are no more alike than
            others.
        ArtifactError, EngineError: the model lacks a modality, or a tower cannot be opened.
    """
    modalities = data.modalities if len(data.modalities) == 2 else (data.modalities[0], "text")
    if len(data.modalities) != 2:
        check_classes(data)
    encoders = {one: model.encoder(one).id for one in modalities}
    if len(data.modalities) == 2:
        paired = embed_pairs(model, data, samples=samples, batch_size=batch_size, progress=progress)
        first, second, pairs, failed = paired.first, paired.second, paired.pairs, paired.failed
        kin = _kin(pairs, len(first), len(second))
        groups = kin[0][pairs[:, 0]]
    else:
        first, second, pairs, kin, failed = _labelled(model, data, templates, samples, batch_size, progress)
        groups = pairs[:, 0]  # a class is known to both halves, as it is to whoever searches; an item is not
    random = np.random.default_rng(seed)
    halves = [cosines(first, second, pairs[half], groups[half], kin, random) for half in _halves(groups, random)]
    fitted, held_out = halves
    slope, intercept = fit(fitted.matching, fitted.others[np.isfinite(fitted.others)])
    names = ordered(*modalities)
    about = f"{len(pairs)} pairs of {data.path.absolute().name}"
    curve = Curve(
        modalities=names,
        encoders=(encoders[names[0]], encoders[names[1]]),
        slope=slope,
        intercept=intercept,
        pairs=len(fitted.matching),
        data=about,
        fitted=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    measures = measure(held_out, curve, seed=seed)
    told = {f"{what}_{when}": measures[f"{title} {when}"].value for what, title in _SHORT.items() for when in _WHEN}
    curve = curve.model_copy(update={"measured": Measured(pairs=len(held_out.matching), **told)})
    settings: dict[str, JsonValue] = {
        "data": str(data.path),
        "kind": data.kind,
        "modalities": list(names),
        "fitted on": len(fitted.matching),
        "held out": len(held_out.matching),
        "seed": seed,
    }
    if len(data.modalities) != 2:
        settings["templates"] = list(choose(templates, data.modalities[0]))
    record = Record(
        task="calibrate",
        title=f"{data.path.name}: what scores of {names[0]} and {names[1]} mean",
        model=name or model.id,
        settings=settings,
        measures=measures,
        details={
            "curve": {"slope": slope, "intercept": intercept},
            "cut-offs": [{"probability": cut, "reached at cosine": curve.cosine(cut)} for cut in CUTS],
        },
        failed=failed,
        environment=environment(model),
    )
    return Calibrated(curve, record)


def store(artifact: Artifact, curve: Curve) -> Artifact:
    """Keep a curve in the manifest of a model's folder; the manifest is replaced whole or not at all.

    Curves of encoders that the model does not have (any more) go.

    Raises:
        ArtifactError: the curve was fitted with other encoders, or the manifest cannot be written.
    """
    encoders = {name: artifact.tower(name).encoder_id for name in artifact.modalities}
    scores = artifact.manifest.scores.kept(encoders).adding(curve)
    scores.need(*curve.modalities, encoders)
    manifest = artifact.manifest.model_copy(update={"scores": scores})
    write_whole(artifact.folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    return Artifact(artifact.folder, manifest)


def fit(matching: ArrayLike, others: ArrayLike) -> tuple[float, float]:
    """Slope and intercept of Platt's curve, both kinds of pairs weighing the same.

    Args:
        matching: cosines of pairs that match ``[p]``.
        others: cosines of pairs that do not ``[q]``.

    Raises:
        UsageError: there are too few, or the curve would not rise: matching pairs are no more alike than others.
    """
    yes, no = (np.asarray(one, np.float64).ravel() for one in (matching, others))
    if len(yes) < _LEAST // 2 or not len(no):
        raise UsageError(
            f"{len(yes)} matching and {len(no)} other pairs are too few to fit on",
            hint=f"give at least {_LEAST} pairs (half of them are fitted on), of different items",
        )
    values = np.concatenate([yes, no])
    if not np.isfinite(values).all():
        raise UsageError("some scores are not finite (NaN or infinity)", hint="embed the items again")
    middle, spread = values.mean(), values.std() or 1.0
    x = (values - middle) / spread
    # Platt's targets: as if one more pair of each kind had been seen with the other answer.
    high, low = (len(yes) + 1) / (len(yes) + 2), 1 / (len(yes) + 2)
    target = np.concatenate([np.full(len(yes), high), np.full(len(no), low)])
    weight = np.concatenate([np.full(len(yes), 0.5 / len(yes)), np.full(len(no), 0.5 / len(no))])
    slope, intercept = _newton(x, target, weight)
    if slope <= _CLOSE:
        raise UsageError(
            "matching pairs are no more alike than others, so a score says nothing",
            hint="check that the two columns belong together, and that the model knows such data",
        )
    return float(slope / spread), float(intercept - slope * middle / spread)


def cosines(
    first: Vectors,
    second: Vectors,
    pairs: Integers,
    groups: Integers,
    kin: tuple[Integers, Integers],
    random: np.random.Generator,
) -> Cosines:
    """The cosines of some pairs, and of each first item with other second items of these pairs, drawn at random.

    Args:
        first: unit vectors ``[n, dim]``.
        second: unit vectors ``[m, dim]``.
        pairs: which match ``[p, 2]``.
        groups: of the pairs ``[p]``.
        kin: what each item is ``[n]``, ``[m]``: items of the same kin match, and are no other pair.
        random: draws the others.

    Raises:
        UsageError: every item matches every other.
    """
    there = np.unique(pairs[:, 1])
    drawn = there[random.integers(0, len(there), (len(pairs), _OTHERS))]
    left = first[pairs[:, 0]]
    matching = np.einsum("pd,pd->p", left, second[pairs[:, 1]], dtype=np.float64)
    others = np.stack([np.einsum("pd,pd->p", left, second[column], dtype=np.float64) for column in drawn.T], axis=1)
    others[kin[0][pairs[:, 0]][:, None] == kin[1][drawn]] = np.nan
    if not np.isfinite(others).any():
        raise UsageError("every item matches every other: there is nothing to tell apart", hint="give other data")
    return Cosines(matching, others, groups)


def measure(held_out: Cosines, curve: Curve, *, seed: int = 0) -> dict[str, Estimate]:
    """What a curve is worth on pairs that it was not fitted on; see ``calibrate`` for the measures."""
    said = {
        "before": (np.clip(held_out.matching, 0, 1), np.clip(held_out.others, 0, 1)),
        "after": (curve.probability(held_out.matching), curve.probability(held_out.others)),
    }
    statistics: dict[str, metrics.Statistic] = {}
    for when, (yes, no) in said.items():
        statistics[f"{_SHORT['brier']} {when}"] = brier_score(yes, no)
    for when, (yes, no) in said.items():
        statistics[f"{_SHORT['ece']} {when}"] = calibration_error(yes, no)
    yes, no = said["after"]
    unknown = np.isnan(no)
    for cut in CUTS:
        statistics[f"recall of matching pairs at {cut:g}"] = metrics.mean_of(yes >= cut)
        reach = np.where(unknown, np.nan, no >= cut)
        statistics[f"share of other pairs at {cut:g}"] = _mean_over_known(reach)
    errors = [f"{_SHORT['ece']} {when}" for when in said]
    found = metrics.bootstrap(statistics, len(yes), groups=held_out.groups, centred=errors, seed=seed)
    return found | {name: replace(found[name], low=max(0.0, found[name].low or 0.0)) for name in errors}


def brier_score(yes: Floats, no: Floats) -> metrics.Statistic:
    """The mean squared distance from the truth, 1 or 0, for ``metrics.bootstrap``; see ``calibration_error``."""
    matching, others = metrics.mean_of((1 - yes) ** 2), _mean_over_known(no**2)
    return lambda weights: (matching(weights) + others(weights)) / 2


def calibration_error(yes: Floats, no: Floats) -> metrics.Statistic:
    """The expected calibration error, for ``metrics.bootstrap``.

    It is the mean distance, over 15 bins of equal width, between the mean probability in a bin and the share that
    matches there (Guo et al., "On Calibration of Modern Neural Networks", 2017). Both kinds of pairs weigh the same in
    every draw.

    Args:
        yes: probabilities of pairs that match ``[p]``.
        no: of others ``[p, k]``; NaN where there is none.
    """

    def binned(values: Floats, told: Floats) -> Floats:
        """The sum of ``told`` in each bin, row by row: ``[p, bins]``."""
        known = np.isfinite(values)
        rows = np.broadcast_to(np.arange(len(values))[:, None], values.shape)[known]
        places = np.minimum((values[known] * _BINS).astype(np.int64), _BINS - 1)
        sums: Floats = np.zeros((len(values), _BINS))
        np.add.at(sums, (rows, places), told[known])
        return sums

    matching, counts = yes[:, None], np.isfinite(no).sum(axis=1)
    off_yes = binned(matching, matching - 1)  # told less true
    off_no = binned(no, np.nan_to_num(no))

    def error(weights: Floats) -> Floats:
        of_yes = (weights @ off_yes) / weights.sum(axis=1, keepdims=True)
        of_no = (weights @ off_no) / np.maximum(weights @ counts, 1)[:, None]
        return np.asarray(np.abs(of_yes + of_no).sum(axis=1) / 2)

    return error


_SHORT = {"brier": "Brier score", "ece": "ECE"}
_WHEN = ("before", "after")


def _newton(x: Floats, target: Floats, weight: Floats) -> tuple[float, float]:
    """Minimise the cross-entropy of ``sigmoid(a x + b)``; it is convex, and steps that do not help are halved."""

    def loss(a: float, b: float) -> float:
        z = a * x + b
        return float((weight * (np.logaddexp(0, z) - target * z)).sum())

    a, b = 0.0, 0.0
    now = loss(a, b)
    for _ in range(_STEPS):
        p = sigmoid(a * x + b)
        pull, curvature = weight * (p - target), weight * p * (1 - p)
        gradient = np.array([(pull * x).sum(), pull.sum()])
        hessian = np.array([[(curvature * x * x).sum(), (curvature * x).sum()]] * 2)
        hessian[1] = (curvature * x).sum(), curvature.sum()
        step = np.linalg.solve(hessian + 1e-12 * np.eye(2), gradient)
        if abs(gradient @ step) < _CLOSE:
            break
        size = 1.0
        while (then := loss(a - size * step[0], b - size * step[1])) > now and size > _CLOSE:
            size /= 2
        a, b, now = a - size * step[0], b - size * step[1], then
    return a, b


def _mean_over_known(values: Floats) -> metrics.Statistic:
    """The mean of ``values`` ``[p, k]`` that are no NaN; the weights are of the rows."""
    sums, counts = np.nansum(values, axis=1), np.isfinite(values).sum(axis=1)
    return lambda weights: (weights @ sums) / np.maximum(weights @ counts, 1)


def _halves(groups: Integers, random: np.random.Generator) -> tuple[Integers, Integers]:
    """Pairs to fit on and pairs to measure with; a group is in one of them.

    Raises:
        UsageError: there are too few.
    """
    names = random.permutation(np.unique(groups))
    chosen = np.isin(groups, names[: (len(names) + 1) // 2])
    if min(chosen.sum(), (~chosen).sum()) < _LEAST // 2:
        raise UsageError(
            f"{len(groups)} matching pairs, {len(names)} of them without an item in common, are too few",
            hint=f"give at least {_LEAST}: half of them are fitted on, and half are measured with",
        )
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def _kin(pairs: Integers, first: int, second: int) -> tuple[Integers, Integers]:
    """Which items belong together, directly or by others: a number for each item of both sides.

    Another caption of a picture that shares a caption with this one is not told apart: it may well fit.
    """
    parent = list(range(first + second))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for left, right in pairs.tolist():
        parent[root(left)] = root(first + right)
    found = np.array([root(item) for item in range(first + second)], np.int64)
    return found[:first], found[first:]


def _labelled(
    model: Model,
    data: Dataset,
    templates: Sequence[str],
    samples: int | None,
    batch_size: int | None,
    progress: Progress,
) -> tuple[Vectors, Vectors, Integers, tuple[Integers, Integers], Failed]:
    """Items of classes, and sentences about the classes: both sides, which match, their classes, and what failed."""
    classes = check_classes(data)
    sentences = choose(templates, data.modalities[0])
    items = embed_labelled(model, data, samples=samples, batch_size=batch_size, progress=progress)
    texts = model.embed([fill(one, spoken_name(name)) for name in classes for one in sentences], "text")
    count = len(sentences)
    places = items.labels[:, None] * count + np.arange(count)
    pairs = np.stack([np.repeat(np.arange(len(items.labels)), count), places.ravel()], axis=1)
    return items.vectors, texts, pairs, (items.labels, np.repeat(np.arange(len(classes)), count)), items.failed
