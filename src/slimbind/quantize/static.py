"""``int8-static``: int8 weights, and inputs in ranges that were calibrated beforehand.

What helps, in this order: smoothing (searched per link for inputs that share one range), a range per layer from the
observer that costs the embedding least, asymmetric uint8 (the range of a GELU's output is nearly one-sided), biases
that take up the mean error, layers that get more than a calibrated range: inputs rounded per token when the
tower runs (``int8-dynamic``, a little slower), or, where the engine cannot do that (convolutions), bf16. Those are
chosen by measured sensitivity, most gained per time lost first, and only until a part of the data that calibration does
not look at agrees well enough. Last, weights are rounded once more, making up for each other's errors (``gptq``).

``plain`` leaves all of that out, for comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from slimbind.quantize import bias, gptq, ranges, rounding
from slimbind.quantize.activations import InputStats, observe, watchable
from slimbind.quantize.calibration import Calibration
from slimbind.quantize.dynamic import group_of, precision_of
from slimbind.quantize.emulate import emulate
from slimbind.quantize.links import links, structure_copy
from slimbind.quantize.plan import LARGEST, LayerPlan, Plan, StaticRange, WeightCodes
from slimbind.quantize.report import Progress, Report
from slimbind.quantize.schemes import Int8Static, Made
from slimbind.quantize.sensitivity import Agreement, Loss, agreement, embed, measure, restore, twins
from slimbind.quantize.sites import Site, sites
from slimbind.quantize.smooth import loud_channels, smooth
from slimbind.towers.layers import Tower

_BATCH = 4
_JUDGED = 4  # one batch in so many is kept for judging
_PROBED = 8  # items that sensitivity is measured on
_PROBES = 4
_LARGE = 100_000_000  # parameters; from here on one item at a time is probed, for the memory of its activations
_ROUNDS = 6
_MARGIN = 0.8  # of the loss that may remain: predictions are held to less than what is asked for
_TRIED = ("minmax", "percentile", "mse")  # "histogram" looks for what "mse" finds
_WIDER = 1.25
# What a layer takes more time for if it is rounded per token, as part of what it takes more in bf16: 8 % against 90 %
# (three blocks of the vision tower).
_PER_TOKEN = 0.09
_BETTER = 0.9  # another observer than the first has to cost less than this part, or chance would choose


def make(tower: Tower, calibration: Calibration, config: Int8Static, progress: Progress, /) -> Made:
    """See ``schemes.Make``."""
    if config.plain:
        return _plain(tower, calibration, config, progress)
    data = Data(calibration)
    reference = embed(tower, data.judge())
    loud: dict[str, list[int]] = {}
    alphas: dict[str, float] = {}
    if config.smoothing != "off":
        stats = observe(tower, data.learn(), progress=progress("observing", data.learned))
        loud = loud_channels(tower, stats)
        if config.smoothing == "even":
            alphas = dict.fromkeys(links(tower), 0.5)
        else:
            few = partial(data.few, probe_size(tower))
            told = progress("smoothing", len(ranges.ALPHAS) + 1)
            alphas = ranges.search(tower, stats, few, loud=loud, progress=told)
        tower = smooth(tower, stats, alpha=alphas, loud=loud)
    observers = _TRIED if config.observer == "best" else (config.observer,)
    observing = progress("calibrating", data.learned)
    stats = observe(tower, data.learn(), observers=observers, progress=observing)
    if config.observer == "best":
        observers = (*observers, _add_wide(stats))
    made = _Static(tower, stats, config, data)
    if made.convolves():
        made.correct(reference, made.plan(observers[0]), progress)
    loss = made.measure(observers, progress)
    made.choose(loss, observers)
    found = made.keep(reference, progress)
    plan = made.plan()
    tower = made.corrected(plan)
    if config.compensate:
        plan = gptq.compensated(tower, data.learn(), plan, progress=progress)
    report = Report(
        layers=len(plan.layers) - len(made.kept),
        kept=made.reasons(),
        smoothing=alphas,
        observers={name: made.observer[name] for name in made.static if name not in made.kept},
        settings={
            "judged": {"cosine_mean": found.cosine_mean, "cosine_min": found.cosine_min, "samples": found.samples},
            "predicted_loss": made.left,
            "biases_corrected": bool(made.biases),
            "bf16_multiplications": made.share([name for name in made.kept if name not in made.per_token]),
            "per_token_multiplications": made.share([name for name in made.kept if name in made.per_token]),
            "loud_channels": {name: len(channels) for name, channels in loud.items()},
        },
    )
    return tower, plan, report


def _plain(tower: Tower, calibration: Calibration, config: Int8Static, progress: Progress) -> Made:
    observer = "minmax" if config.observer == "best" else config.observer
    stats = observe(
        tower, calibration.batches(_BATCH), observers=(observer,), progress=progress("calibrating", len(calibration))
    )
    layers = {}
    for name, site in sites(tower).items():
        if name in stats:
            layers[name] = LayerPlan(codes(site, config), stats[name].ranges[observer])
        elif site.kind == "embedding":
            layers[name] = LayerPlan(codes(site, config))
    plan = Plan(layers, rest="bf16", precision=precision_of(tower))
    return tower, plan, Report(layers=len(layers), observers=dict.fromkeys(stats, observer), settings={"plain": True})


def _add_wide(stats: Mapping[str, InputStats]) -> str:
    """A range for layers whose inputs vary more than a few items show: wider than all that was seen."""
    name = f"minmax x {_WIDER}"
    for seen in stats.values():
        whole = seen.ranges["minmax"]
        seen.ranges[name] = StaticRange(whole.low * _WIDER, whole.high * _WIDER)
    return name


def codes(site: Site, config: Int8Static) -> WeightCodes:
    """A layer's weight in 8 bits, with a scale per output channel or (``per_channel=False``) one for all."""
    if config.per_channel:
        return rounding.per_channel(site.weight)
    scale = rounding.scales(site.weight.flatten().float()).expand(len(site.weight))
    whole = rounding.encode(site.weight.float().flatten(1), scale)
    assert int(whole.abs().max()) <= LARGEST[8]
    return WeightCodes(whole.reshape(site.weight.shape), scale[:, None].clone())


class Data:
    """Calibration data cut in two: to learn from, and (one batch in four) to judge by; up to three are for both."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        # Few items go in small batches, so that some are kept for judging too: ranges look perfect on what made them.
        self.size = min(_BATCH, max(1, len(calibration) // _JUDGED))
        sizes = [len(batch) for batch in calibration.batches(self.size)]
        self.parted = len(sizes) >= _JUDGED
        self.learned = sum(size for number, size in enumerate(sizes) if not self._judges(number))

    def _judges(self, number: int) -> bool:
        return self.parted and number % _JUDGED == _JUDGED - 1

    def learn(self) -> Iterator[Tensor]:
        """Batches to take statistics of."""
        return (b for number, b in enumerate(self.calibration.batches(self.size)) if not self._judges(number))

    def judge(self) -> Iterator[Tensor]:
        """Batches to judge a choice by."""
        batches = enumerate(self.calibration.batches(self.size))
        return (b for number, b in batches if not self.parted or self._judges(number))

    def sensitivity(self, tower: Tower, ways: Mapping[str, Mapping[str, nn.Module]], progress: Progress) -> Loss:
        """What each way costs the embedding, layer by layer, on a few items (``sensitivity.measure``)."""
        size = probe_size(tower)
        told = progress("measuring sensitivity", self._probed(size))
        return measure(tower, self.few(size), ways, probes=_PROBES, progress=told)

    def _probed(self, size: int) -> int:
        """How many items ``few`` gives."""
        most = _PROBED if size > 1 else _PROBED // 2  # a large tower takes the mean over many more outputs
        return min(most, len(self.calibration) - (self.learned if self.parted else 0))

    def few(self, size: int) -> Iterator[Tensor]:
        """At most ``_PROBED`` items (half as many if they go one by one) to measure sensitivity on, in batches.

        They are of those to judge by: on items that made the ranges no value ever lies outside of one, and the ranges
        that look best there are too narrow for others.
        """
        left = self._probed(size)
        for batch in self.judge():
            for start in range(0, min(left, len(batch)), size):
                yield batch[start : min(start + size, left)]
            left -= len(batch[:left])


def probe_size(tower: nn.Module) -> int:
    """How many items are probed at once."""
    return 1 if sum(parameter.numel() for parameter in tower.parameters()) > _LARGE else _BATCH


@dataclass
class _Static:
    """The choice while it is made."""

    tower: Tower
    stats: Mapping[str, InputStats]
    config: Int8Static
    data: Data
    kept: list[str] = field(default_factory=list)
    observer: dict[str, str] = field(default_factory=dict)
    loss: dict[str, float] = field(default_factory=dict)  # of each layer in its range
    floor: dict[str, float] = field(default_factory=dict)  # ... and of what it would be kept as

    def __post_init__(self) -> None:
        self.sites = sites(self.tower)
        self.static = [name for name, site in self.sites.items() if watchable(site) and name in self.stats]
        whole = {name: site for name, site in self.sites.items() if name in self.static or site.kind == "embedding"}
        self.codes = {name: codes(site, self.config) for name, site in whole.items()}
        self.biases: dict[str, nn.Parameter | None] = {}
        self.work = multiplications({name: self.sites[name] for name in self.static}, self.stats)
        self.group, unfit = group_of(self.sites) if self.config.fallback == "dynamic" else (None, {})
        fits = [name for name in self.static if self.sites[name].kind == "linear" and name not in unfit]
        self.per_token = fits if self.group is not None else []
        self.price = {name: work * (_PER_TOKEN if name in self.per_token else 1) for name, work in self.work.items()}

    def measure(self, observers: tuple[str, ...], progress: Progress) -> Loss:
        """What each layer costs under each observer's range."""
        plans = {name: self.plan(name) for name in observers}
        ways = {name: twins(emulate(self.corrected(plan), plan), self.static) for name, plan in plans.items()}
        if self.per_token:
            layers = {name: LayerPlan(self.codes[name], "dynamic") for name in self.per_token}
            ways["dynamic"] = twins(emulate(self.tower, Plan(layers, group_size=self.group)), layers)
        return self.data.sensitivity(self.tower, ways, progress)

    def choose(self, loss: Loss, observers: tuple[str, ...]) -> None:
        """The cheapest range of every layer."""
        for name in self.static:
            best = observers[0]
            for other in observers[1:]:
                if loss[other][name] < _BETTER * loss[best][name]:
                    best = other
            self.observer[name], self.loss[name] = best, loss[best][name]
            self.floor[name] = min(loss["dynamic"][name], self.loss[name]) if name in self.per_token else 0.0

    def keep(self, reference: Tensor, progress: Progress) -> Agreement:
        """Take layers out of their ranges until the judged data agree with the reference; says how well they do."""
        done = progress("judging", _ROUNDS)
        wanted = 1 - self.config.least
        gains = {name: self.loss[name] - self.floor[name] for name in self.static}
        most = self.config.most_kept * sum(self.work.values())
        for turn in range(_ROUNDS):
            plan = self.plan()
            found = agreement(reference, embed(emulate(self.corrected(plan), plan), self.data.judge()))
            done(turn + 1)
            off = 1 - found.cosine_min
            if off <= wanted or turn == _ROUNDS - 1:
                break
            allowed = _MARGIN * self.left * wanted / off - sum(self.floor.values())
            before = len(self.kept)
            self.kept = restore(gains, self.price, allowed=allowed, first=self.kept, most=most)
            if len(self.kept) == before:
                break
        return found

    def plan(self, observer: str | None = None) -> Plan:
        """As chosen so far, or with one observer's ranges and nothing kept."""
        layers = {}
        for name, weight in self.codes.items():
            if name not in self.work:
                layers[name] = LayerPlan(weight)
            elif observer is not None:
                layers[name] = LayerPlan(weight, self.stats[name].ranges[observer])
            elif name in self.kept:
                kept = name in self.per_token
                layers[name] = LayerPlan(weight, "dynamic") if kept else LayerPlan(stored="bf16")
            else:
                layers[name] = LayerPlan(weight, self.stats[name].ranges[self.observer[name]])
        group = self.group if any(layer.activation == "dynamic" for layer in layers.values()) else None
        return Plan(layers, rest="bf16", precision=precision_of(self.tower), group_size=group)

    def convolves(self) -> bool:
        """Whether most of the work is convolutions."""
        return self.share([name for name in self.static if self.sites[name].kind == "conv"]) > 0.5

    def correct(self, reference: Tensor, plan: Plan, progress: Progress) -> None:
        """Find the biases that take up the mean errors of a plan, and use them where that helps.

        It does for convolutions, whose outputs all shift alike. In a transformer, where norms take most of a shift
        away, it was within chance (imu, three blocks: .99879 without, .99878 with), and costs two passes over the data.
        """
        done = progress("correcting biases", self.data.learned)
        fixed = bias.correct(self.tower, plan, self.data.learn(), progress=done)
        before, after = (
            agreement(reference, embed(emulate(tower, plan), self.data.judge())) for tower in (self.tower, fixed)
        )
        if 1 - after.cosine_mean < _BETTER * (1 - before.cosine_mean):
            self.biases = {name: fixed.get_submodule(name)._parameters["bias"] for name in self.static}

    def corrected(self, plan: Plan) -> Tower:
        """The tower with the biases found, except for layers that a plan gives no range."""
        new = structure_copy(self.tower) if self.biases else self.tower
        for name in self.biases:
            if isinstance(plan.layers[name].activation, StaticRange):
                new.get_submodule(name)._parameters["bias"] = self.biases[name]
        return new

    @property
    def left(self) -> float:
        """The predicted fall of the cosine."""
        return sum((self.floor if name in self.kept else self.loss)[name] for name in self.loss)

    def share(self, names: list[str]) -> float:
        """The part of all multiplications that these layers have."""
        return sum(self.work[name] for name in names) / sum(self.work.values())

    def reasons(self) -> dict[str, str]:
        """Why each kept layer was kept."""
        total = sum(self.loss.values())
        return {
            name: f"in a calibrated range it takes {self.loss[name]:.1e} off the cosine, {self.loss[name] / total:.0%} "
            f"of what all layers do, for {self.share([name]):.1%} of the multiplications; it is "
            + (f"rounded per token ({self.floor[name]:.1e})" if name in self.per_token else "bf16")
            for name in self.kept
        }


def multiplications(found: Mapping[str, Site], stats: Mapping[str, InputStats]) -> dict[str, float]:
    """What every layer had to multiply while it was watched, up to a factor that all share."""
    work = {}
    for name, site in found.items():
        stride = getattr(site.module, "stride", (1,))
        shrink = torch.tensor(stride).prod().item() if isinstance(stride, tuple) else 1
        work[name] = stats[name].count * site.weight.numel() / shrink
    return work
