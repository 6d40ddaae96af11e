"""What smoothing, rotation and bias correction are worth: the same towers, rounded alike, after each of them.

    python benchmarks/smoothing.py                                  # all six towers, cut to a few blocks of full width
    python benchmarks/smoothing.py --modalities imu --depth 6 --items 16

Every variant but bias correction is exact in float; what differs is what 8 bits make of it. ``moved`` channels lie
around zero on average, ``loud`` ones stay in float (``quantize.smooth`` says how). Each is rounded twice, by PyTorch as
the engines do it (``quantize.emulate``): ``dynamic`` (inputs per token) and ``static`` (one calibrated range per input,
from the smallest to the largest value, no layer kept in float). A cosine is that of an embedding to the float tower's
embedding of the same held-out item. ``bf16`` is the tower with nothing but its weights rounded to bf16: where that
already loses much, the tower itself amplifies what is done to it, and no 8-bit scheme can do better.

Results go to ``benchmarks/results/smoothing.json``, a row (tower and weights) at a time; rows that are there are kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from environment import environment
from fullsize import MODALITIES, full_size, inputs
from slimbind.quantize import bias, emulate, rounding
from slimbind.quantize.activations import InputStats, observe
from slimbind.quantize.dynamic import group_of
from slimbind.quantize.plan import LayerPlan, Plan, StaticRange
from slimbind.quantize.rotate import rotate
from slimbind.quantize.sites import sites
from slimbind.quantize.smooth import loud_channels, search, smooth
from slimbind.towers.layers import Tower
from slimbind.towers.simplify import simplify

RESULTS = Path(__file__).parent / "results" / "smoothing.json"
DEPTH = 3
ROWS = 256
Variant = Callable[[Tower, dict[str, InputStats], "Data", str], Tower]


class Data:
    """Items to calibrate with and as many others to judge by; texts without what fills them up, as they are run."""

    def __init__(self, modality: str, items: int) -> None:
        every = inputs(modality, 2 * items)
        self.learn, self.judge = (_batches(part, modality) for part in (every[:items], every[items:]))


def _batches(part: Tensor, modality: str) -> tuple[Tensor, ...]:
    if modality != "text":
        return part.split(4)
    lengths = (part != 0).sum(1)
    part = part[lengths.argsort()]
    return tuple(batch[:, : int((batch != 0).sum(1).max())].contiguous() for batch in part.split(2))


def layer_of(scheme: str) -> Callable[[Tensor, Tensor], Tensor]:
    """What one layer gives under a scheme, for the search."""

    def layer(rows: Tensor, weight: Tensor) -> Tensor:
        coarse = rounding.per_channel(weight).dequantize()
        if scheme == "dynamic":
            return F.linear(emulate.dynamic(rows), coarse)
        ends = StaticRange(min(0.0, float(rows.min())), max(1e-6, float(rows.max())))
        return F.linear(emulate.static(rows, ends), coarse)

    return layer


def plan_of(tower: Tower, scheme: str, stats: dict[str, InputStats]) -> Plan:
    """Every layer in 8 bits."""
    found = sites(tower)
    group, kept = group_of(found)
    layers: dict[str, LayerPlan] = {}
    for name, site in found.items():
        if site.kind in ("linear", "conv") and scheme == "static":
            layers[name] = LayerPlan(rounding.per_channel(site.weight), stats[name].ranges["minmax"])
        elif site.kind == "linear" and name not in kept:
            layers[name] = LayerPlan(rounding.per_channel(site.weight), "dynamic")
        elif site.kind in ("conv", "embedding"):
            layers[name] = LayerPlan(rounding.per_channel(site.weight))
    return Plan(layers, group_size=group if scheme == "dynamic" else None)


def even(*, shift: bool = False, loud: bool = False, correct: bool = False) -> Variant:
    """Alpha .5 everywhere, with channels moved, the loudest left in float, or biases corrected."""

    def variant(tower: Tower, stats: dict[str, InputStats], data: Data, scheme: str) -> Tower:
        apart = loud_channels(tower, stats, shift=shift) if loud else None
        made = smooth(tower, stats, shift=shift, loud=apart)
        return corrected(made, data, scheme) if correct else made

    return variant


def searched(*, loud: bool = False, turn: bool = False) -> Variant:
    """Alpha searched per layer."""

    def variant(tower: Tower, stats: dict[str, InputStats], data: Data, scheme: str) -> Tower:
        if turn:
            tower = rotate(tower)
            stats = observe(tower, data.learn, rows=ROWS)
        apart = loud_channels(tower, stats) if loud else None
        return smooth(tower, stats, alpha=search(tower, stats, layer_of(scheme)), loud=apart)

    return variant


def corrected(tower: Tower, data: Data, scheme: str) -> Tower:
    """With the biases that this scheme's plan asks for."""
    found = observe(tower, data.learn, observers=("minmax",))
    return bias.correct(tower, plan_of(tower, scheme, found), data.learn)


VARIANTS: dict[str, Variant] = {
    "as it is": lambda tower, stats, data, scheme: tower,
    "biases corrected": lambda tower, stats, data, scheme: corrected(tower, data, scheme),
    "alpha .5": even(),
    "alpha .5, moved": even(shift=True),
    "alpha .5, loud in float": even(loud=True),
    "alpha .5, moved, loud in float": even(shift=True, loud=True),
    "alpha .5, loud in float, biases corrected": even(loud=True, correct=True),
    "alpha .5, moved, loud in float, biases corrected": even(shift=True, loud=True, correct=True),
    "alpha searched": searched(),
    "alpha searched, loud in float": searched(loud=True),
    "rotated": lambda tower, stats, data, scheme: rotate(tower),
    "rotated, alpha searched": searched(turn=True),
}


def embed(tower: Tower, batches: tuple[Tensor, ...]) -> Tensor:
    """Unit vectors ``[n, dim]``."""
    with torch.inference_mode():
        return torch.cat([tower(x) for x in batches])


def agreement(tower: Tower, plan: Plan, data: Data, reference: Tensor) -> dict[str, float]:
    """How much of the reference is left."""
    cosine = (embed(emulate.emulate(tower, plan), data.judge) * reference).sum(-1)
    return {"mean": round(float(cosine.mean()), 6), "min": round(float(cosine.min()), 6)}


def measure(modality: str, weights: str, depth: int, items: int) -> dict[str, Any]:
    """All variants of one tower."""
    tower = simplify(full_size(modality, outliers=weights == "outlier", depth=depth))
    data = Data(modality, items)
    reference = embed(tower, data.judge)
    stats = observe(tower, data.learn, rows=ROWS)
    row: dict[str, Any] = {"modality": modality, "weights": weights, "depth": len(tower.blocks), "items": items}
    row["bf16"] = agreement(tower, Plan(rest="bf16"), data, reference)
    row["variants"] = {}
    for name, variant in VARIANTS.items():
        row["variants"][name] = found = {}
        for scheme in ("dynamic", "static"):
            made = variant(tower, stats, data, scheme)
            ends = observe(made, data.learn, observers=("minmax",)) if scheme == "static" else {}
            found[scheme] = agreement(made, plan_of(made, scheme, ends), data, reference)
            del made
        print(f"{modality:8}{weights:9}{name:50}{json.dumps(found)}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modalities", default=",".join(MODALITIES), help="comma-separated; all six by default")
    parser.add_argument("--weights", default="plain,outlier", help="plain, outlier, or both (default)")
    parser.add_argument("--depth", type=int, default=DEPTH, help="blocks of each tower")
    parser.add_argument("--items", type=int, default=8, help="to calibrate with, and as many to judge by")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = json.loads(args.output.read_text(encoding="utf-8")) if args.output.exists() else {"rows": []}
    for modality in args.modalities.split(","):
        for weights in args.weights.split(","):
            key = (modality, weights, args.depth, args.items)
            if any(key == (row["modality"], row["weights"], row["depth"], row["items"]) for row in results["rows"]):
                continue
            start = time.monotonic()
            row = measure(modality, weights, args.depth, args.items)
            row["seconds"] = round(time.monotonic() - start, 1)
            row["environment"] = environment("torch", "slimbind", threads=args.threads)
            results["rows"].append(row)
            args.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
