"""How the weights and inputs of a tower's layers are distributed: why a layer resists 8 bits, and which channels do.

Eight bits are 255 steps for everything that shares a scale. What decides is how much larger the largest value is than
the usual one: where a few channels of an input are a hundred times as loud as the others, as behind the norms of large
transformers (Dettmers et al. 2022, "LLM.int8()"; Xiao et al. 2023, "SmoothQuant"), a scale that reaches them leaves the
others with two steps. Each layer is told by three signal-to-noise ratios, in decibels (6 dB are one bit): of its input
with one scale for all of it (static schemes), of its input with a scale for each row (dynamic schemes), and of its
weight with a scale for each output.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import JsonValue
from torch import Tensor

from slimbind.artifact import Artifact
from slimbind.errors import ArtifactError, UsageError
from slimbind.evaluate.record import Estimate, Record, environment
from slimbind.export.job import load_tower, open_split
from slimbind.modalities import MODALITIES, check_modality
from slimbind.quantize.activations import InputStats, observe
from slimbind.quantize.calibration import Calibration, gather
from slimbind.quantize.emulate import dynamic
from slimbind.quantize.report import Progress, silent
from slimbind.quantize.sites import Site, sites
from slimbind.towers.simplify import simplify

LOUD = 6.0  # times the median channel: an outlier
_BINS = 64
_ROWS = 512  # of an input, by which a scale for each row is judged
_MOST_OUTLIERS = 32
_BEST = 200.0  # dB: nothing is lost


@dataclass(frozen=True)
class Binned:
    """A histogram: ``edges`` ``[bins + 1]`` in rising order, ``counts`` ``[bins]``."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Outlier:
    """An input channel that is much louder than the others: the largest magnitude it reached, in medians ``ratio``."""

    channel: int
    largest: float
    ratio: float


@dataclass(frozen=True)
class Layer:
    """One layer.

    Args:
        name: in the simplified tower, as recipes name it.
        kind: ``linear``, ``conv``, ``embedding`` or ``frames``.
        outputs: rows of its weight.
        inputs: values that each of them is made of.
        weight: distribution of the weight.
        weight_db: of the weight in 8 bits, a scale for each output.
        input: distribution of the input; None (as all below) for layers that are given no numbers, such as embeddings.
        input_db: of the input in 8 bits with one scale, from its smallest to its largest value.
        row_db: of the input in 8 bits with a scale for each row.
        channels: of the largest magnitude of each input channel: the least, the quartiles, the greatest.
        ratio: the greatest of them by the median.
        outliers: channels above ``LOUD`` medians, loudest first.
        loud: how many there are; ``outliers`` names the first 32.
    """

    name: str
    kind: str
    outputs: int
    inputs: int
    weight: Binned
    weight_db: float
    input: Binned | None = None
    input_db: float | None = None
    row_db: float | None = None
    channels: tuple[float, ...] | None = None
    ratio: float | None = None
    outliers: tuple[Outlier, ...] = ()
    loud: int = 0


def activations(
    source: str | os.PathLike[str],
    *,
    modalities: Iterable[str] | None = None,
    data: Sequence[str | os.PathLike[str]] = (),
    samples: int | None = None,
    loud: float = LOUD,
    name: str = "",
    note: Callable[[str], None] = lambda text: None,
    progress: Progress = silent,
) -> list[Record]:
    """Look into the towers of a split folder while real inputs run through: a record for each.

    Args:
        source: a folder written by ``slimbind split``.
        modalities: which; all by default.
        data: as for quantization (see ``calibration.gather``); by default the samples that come with slimbind.
        samples: most items.
        loud: from how many medians on a channel is an outlier.
        name: the model's, for the records.
        note: is told what data are used.
        progress: is told of the stages.

    Raises:
        UsageError: a modality is not there, or data are of no use.
        ArtifactError: the source is no split folder.
        EngineError: an input is not finite.
    """
    if not loud > 1:
        raise UsageError(f"channels of {loud:g} times the median are to be outliers", hint="give more than 1")
    artifact = open_split(source)
    asked = artifact.modalities if modalities is None else tuple(check_modality(one) for one in modalities)
    chosen = [one for one in MODALITIES if one in asked]
    for modality in chosen:
        entry = artifact.tower(modality)
        if entry.engine != "torch" or entry.quantization is not None:
            raise ArtifactError(
                f"the {modality} tower of {artifact.folder} was already made for {entry.engine} ({entry.scheme})",
                hint="look into the folder that `slimbind split` wrote",
            )
    found = gather(artifact, chosen, [os.fspath(path) for path in data], samples=samples)
    records = []
    for modality, given in found.items():
        note(f"{modality}: {given.source}")
        artifact.verify(modality)
        layers = layers_of(artifact, modality, given, loud=loud, progress=progress)
        records.append(_record(name or os.fspath(source), modality, layers, given, loud))
    return records


def layers_of(
    artifact: Artifact, modality: str, data: Calibration, *, loud: float = LOUD, progress: Progress = silent
) -> list[Layer]:
    """The layers of one tower, those whose input is hardest to write in 8 bits with one scale first."""
    tower = simplify(load_tower(artifact, modality)).eval()
    stats = observe(
        tower,
        data.batches(),
        rows=_ROWS,
        histograms=True,
        progress=progress(f"looking into {modality}", len(data)),
    )
    layers = [layer(site, stats.get(site.name), loud=loud) for site in sites(tower).values()]
    return sorted(layers, key=lambda one: (one.input_db is None, one.input_db or 0.0, one.name))


def layer(site: Site, seen: InputStats | None, *, loud: float = LOUD) -> Layer:
    """One layer: its weight and, where it was watched, its input (with ``rows`` and a histogram)."""
    weight = site.weight.float().flatten(1)
    told = Layer(
        name=site.name,
        kind=site.kind,
        outputs=weight.shape[0],
        inputs=weight.shape[1],
        weight=binned(weight),
        weight_db=rounded_by_row(weight),
    )
    if seen is None:
        return told
    assert seen.histogram is not None and seen.rows is not None
    largest = seen.absmax
    used = largest[largest > 0]
    median = float(used.median()) if len(used) else 0.0
    ratios = largest / median if median else torch.zeros_like(largest)
    order = ratios.argsort(descending=True, stable=True)
    named = [int(place) for place in order[:_MOST_OUTLIERS] if ratios[place] > loud]
    low, high = float(seen.low.min()), float(seen.high.max())
    power = float(seen.square.double().sum()) * seen.count
    quartiles = torch.quantile(largest, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])) if len(largest) else largest
    return replace(
        told,
        input=coarse(seen.histogram.edges, seen.histogram.counts, low, high),
        input_db=decibels(power, seen.histogram.loss(low, high)),
        row_db=rounded_by_row(seen.rows),
        channels=tuple(float(one) for one in quartiles),
        ratio=float(ratios.max()),
        outliers=tuple(Outlier(place, float(largest[place]), float(ratios[place])) for place in named),
        loud=int((ratios > loud).sum()),
    )


def rounded_by_row(table: Tensor) -> float:
    """Signal to noise of ``[rows, n]`` rounded to 8 bits, symmetric, with a scale for each row; in dB."""
    error = dynamic(table) - table
    return decibels(float(table.double().square().sum()), float(error.double().square().sum()))


def decibels(signal: float, noise: float) -> float:
    """Ten times the logarithm of the ratio of two sums of squares; 200 where there is no noise."""
    return min(_BEST, 10 * math.log10(signal / noise)) if noise > 0 and signal > 0 else _BEST


def binned(values: Tensor) -> Binned:
    """The histogram of finite values of any shape, from the smallest to the largest."""
    low, high = (float(one) for one in values.aminmax())
    edges = _edges(low, high)
    counts = torch.histc(values.float(), bins=_BINS, min=edges[0], max=edges[-1])
    return Binned(edges, tuple(int(one) for one in counts))


def coarse(edges: Tensor, counts: Tensor, low: float, high: float) -> Binned:
    """A fine histogram in fewer bins, from ``low`` to ``high``: each fine bin counts where its middle lies."""
    ends = _edges(low, high)
    middles = ((edges[:-1] + edges[1:]) / 2 - ends[0]) / (ends[-1] - ends[0])
    place = (middles * _BINS).long().clamp_(0, _BINS - 1)
    found = torch.zeros(_BINS, dtype=torch.float64).index_add_(0, place, counts.double())
    return Binned(ends, tuple(int(one) for one in found))


def _edges(low: float, high: float) -> tuple[float, ...]:
    if not high > low:  # a constant
        low, high = low - 0.5, low + 0.5
    return tuple(low + (high - low) * place / _BINS for place in range(_BINS + 1))


def _record(name: str, modality: str, layers: Sequence[Layer], data: Calibration, loud: float) -> Record:
    decibel = sorted(one.input_db for one in layers if one.input_db is not None)
    rows = sorted(one.row_db for one in layers if one.row_db is not None)
    measures = {"layers": Estimate(float(len(layers)))}
    if decibel:
        ratios = [one.ratio for one in layers if one.ratio is not None]
        measures |= {
            "layers with outlier channels": Estimate(float(sum(one.loud > 0 for one in layers))),
            "greatest ratio": Estimate(max(ratios)),
            "input, one scale, worst dB": Estimate(decibel[0]),
            "input, one scale, median dB": Estimate(decibel[len(decibel) // 2]),
            "input, a scale per row, worst dB": Estimate(rows[0]),
            "input, a scale per row, median dB": Estimate(rows[len(rows) // 2]),
        }
    measures["weight, a scale per output, worst dB"] = Estimate(min(one.weight_db for one in layers))
    return Record(
        task="activations",
        title=f"{modality}: weights and inputs of each layer",
        model=name,
        settings={"data": data.source, "outliers above medians": loud},
        measures=measures,
        details={"layers": [_told(one) for one in layers]},
        failed=tuple(data.skipped.items()),
        environment=environment(),
    )


def _told(one: Layer) -> JsonValue:
    """A layer as the details of a record hold it; numbers that it does not have are left out."""
    numbers: dict[str, JsonValue] = {
        "ratio": one.ratio,
        "one scale dB": one.input_db,
        "scale per row dB": one.row_db,
        "weight dB": one.weight_db,
        "channels": None if one.channels is None else list(one.channels),
        "input": None if one.input is None else _histogram(one.input),
    }
    outliers: list[JsonValue] = [
        {"channel": found.channel, "largest": found.largest, "ratio": found.ratio} for found in one.outliers
    ]
    told: dict[str, JsonValue] = {"name": one.name, "kind": one.kind, "inputs": one.inputs, "outputs": one.outputs}
    told |= {key: value for key, value in numbers.items() if value is not None}
    return told | {"weight": _histogram(one.weight), "outliers": outliers, "loud channels": one.loud}


def _histogram(one: Binned) -> JsonValue:
    return {"edges": list(one.edges), "counts": list(one.counts)}
