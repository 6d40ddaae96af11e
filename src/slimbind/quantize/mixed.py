"""``mixed``: a scheme for each layer, from a recipe or searched for under a budget of bytes or of fidelity.

The search begins with every layer in bf16 and goes down from there: each step gives one layer fewer bits, always the
one with the least loss per byte saved (of those on the lower convex hull of the layer's own options, which makes the
order the best one for every budget at once; Shoham and Gersho 1988). Losses are measured (``sensitivity``), and what is
chosen is measured again as a whole. Options: bf16, int8-dynamic (int8-weight for what is no matrix), int4-weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

from torch import Tensor, nn

from slimbind.errors import UsageError
from slimbind.quantize import gptq
from slimbind.quantize.activations import InputStats, observe
from slimbind.quantize.calibration import Calibration
from slimbind.quantize.dynamic import group_of, precision_of
from slimbind.quantize.emulate import emulate
from slimbind.quantize.options import BYTES, GROUP, can, layer_plan, stored_bytes
from slimbind.quantize.plan import Plan
from slimbind.quantize.recipe import LayerScheme, Recipe, Rule, written
from slimbind.quantize.report import Progress, Report
from slimbind.quantize.schemes import Made, Mixed
from slimbind.quantize.sensitivity import Loss, agreement, embed, twins
from slimbind.quantize.sites import Site, sites
from slimbind.quantize.smooth import smooth
from slimbind.quantize.static import Data
from slimbind.sizes import at_least, decimal
from slimbind.towers.layers import Tower

_OPTIONS: tuple[LayerScheme, ...] = ("bf16", "int8-dynamic", "int8-weight", "int4-weight")
_GRAPH = 40 << 10  # bytes of the graph's text, and for each layer
_GRAPH_LAYER = 14 << 10
_SAFE = 0.8  # of the distance to 1 that is asked for: other data are not quite like those judged by
Choice = dict[str, tuple[LayerScheme, int | None]]


def make(tower: Tower, calibration: Calibration, config: Mixed, progress: Progress, /) -> Made:
    """See ``schemes.Make``.

    Raises:
        UsageError: no budget or an impossible one, a recipe that does not fit the tower.
    """
    check(config)
    found = sites(tower)
    recipe = None if config.recipe is None else Recipe.from_json(config.recipe)
    if recipe is not None:
        recipe = recipe.deciding(tower.modality, found)
    data = Data(calibration)
    reference = embed(tower, data.judge())
    stats = observe(tower, data.learn(), progress=progress("observing", data.learned))
    tower = smooth(tower, stats)
    stats = observe(tower, data.learn(), observers=("minmax",), progress=progress("observing", data.learned))
    mix = _Mix(tower, stats, data, reference, rest="bf16" if recipe is None else recipe.rest)
    if recipe is not None:
        rules = recipe.assign(tower.modality, found)
        choice: Choice = {name: (rule.scheme, rule.group) for name, rule in rules.items()}
    else:
        choice = mix.search(config, progress)
    plan = mix.plan(choice)
    if any(scheme == "int4-weight" for scheme, _ in choice.values()):
        plan = gptq.compensated(tower, calibration.batches(), plan, progress=progress)
    judged = agreement(reference, embed(emulate(tower, plan), data.judge()))
    if recipe is None:
        recipe = written(choice, "bf16")
    report = Report(
        layers=sum(layer.weight is not None for layer in plan.layers.values()),
        recipe=tuple((rule.layers, _told(rule)) for rule in recipe.rules),
        settings={
            "rest": recipe.rest,
            "expected_bytes": mix.bytes(choice),
            "judged": {"cosine_mean": judged.cosine_mean, "cosine_min": judged.cosine_min, "samples": judged.samples},
        },
    )
    return tower, plan, report


def check(config: Mixed) -> None:
    """Refuse settings that say nothing, or too much.

    Raises:
        UsageError: see above.
    """
    budget = config.max_size is not None or config.min_fidelity is not None
    if not budget and config.recipe is None:
        raise UsageError(
            "mixed needs to know what for", hint="give --recipe FILE, --max-size 300MB, or --min-fidelity 0.999"
        )
    if budget and config.recipe is not None:
        raise UsageError("a recipe says all; no budget goes with it", hint="leave --max-size and --min-fidelity out")
    if config.max_size is not None and config.max_size < 1:
        raise UsageError(f"the size is {config.max_size}", hint="give bytes above 0")
    if config.min_fidelity is not None and not 0 < config.min_fidelity < 1:
        raise UsageError(f"the fidelity is {config.min_fidelity}", hint="give a cosine between 0 and 1, like 0.999")


def check_recipe(recipe: Recipe, modality: str, found: Mapping[str, Site], engine: str) -> None:
    """Refuse a recipe that says nothing of a tower, or what the engine cannot do.

    Raises:
        UsageError: see above.
    """
    recipe.deciding(modality, found)
    rules = recipe.assign(modality, found)
    for name, rule in rules.items():
        if reason := can(found[name], rule.scheme, rule.group, None):
            raise UsageError(
                f"{rule.scheme} is not possible in the {modality} tower: {reason}",
                hint=f'put a narrower rule before {rule.layers!r}, like {{"layers": "{name}", "scheme": "bf16"}}',
            )
    schemes = {name: rule.scheme for name, rule in rules.items()}
    if engine == "openvino" and "int8-dynamic" in schemes.values():
        for name, scheme in schemes.items():
            if scheme == "int8-weight" and found[name].kind == "linear":
                raise UsageError(
                    f"the recipe makes {name} of the {modality} tower int8-weight beside int8-dynamic layers, but "
                    "OpenVINO rounds the inputs of all 8-bit matrices of a tower or of none",
                    hint="make it bf16 or int8-dynamic, or use --engine onnx",
                )


def recipe_of(report: Report) -> Recipe:
    """The recipe that gives a mix again, from its report."""
    rules = []
    for layers, told in report.recipe:
        scheme, _, group = told.partition(":")
        rules.append(Rule.model_validate({"layers": layers, "scheme": scheme, "group": int(group) if group else None}))
    return Recipe(rest=report.settings["rest"], rules=tuple(rules))


def _told(rule: Rule) -> str:
    return rule.scheme if rule.group is None else f"{rule.scheme}:{rule.group}"


@dataclass(frozen=True)
class _Step:
    """One layer from one option to a smaller one: what it saves, and what it costs."""

    layer: str
    scheme: LayerScheme
    saved: int
    lost: float


class _Mix:
    """A tower, and what its layers can be."""

    def __init__(
        self, tower: Tower, stats: Mapping[str, InputStats], data: Data, reference: Tensor, *, rest: str
    ) -> None:
        self.tower = tower
        self.stats = stats
        self.data = data
        self.reference = reference
        self.rest = rest
        self.sites = sites(tower)
        self.dynamic, _ = group_of(self.sites)

    def plan(self, choice: Choice, *, rounded: bool = False) -> Plan:
        """The plan of a choice; layers that it does not name are stored as ``rest``.

        Inputs are rounded where a layer of the choice asks for it, or if ``rounded`` says so: OpenVINO rounds those of
        all whole-number matrices of a tower, or of none.
        """
        layers = {}
        rounded = rounded or any(s == "int8-dynamic" for s, _ in choice.values())
        dynamic = self.dynamic if rounded else None
        if dynamic is not None:  # and in groups that divide those of 4-bit weights
            dynamic = gcd(dynamic, *(group or GROUP for scheme, group in choice.values() if scheme == "int4-weight"))
        for name, (scheme, group) in choice.items():
            seen = self.stats.get(name)
            layers[name] = layer_plan(
                self.sites[name],
                scheme,
                group=group,
                dynamic=dynamic,
                range_=None if seen is None else seen.ranges["minmax"],
                importance=None if seen is None else seen.square,
            )
        assert self.rest in ("f32", "f16", "bf16")
        return Plan(layers, self.rest, precision_of(self.tower), dynamic)  # type: ignore[arg-type]

    def bytes(self, choice: Choice) -> int:
        """What the tower's files will take, the graph's text included."""
        told = {id(parameter) for site in self.sites.values() for parameter in (_weight(site),)}
        total = _GRAPH + _GRAPH_LAYER * len(self.sites)
        for parameter in self.tower.parameters():
            if id(parameter) not in told:
                is_matrix = sum(size > 1 for size in parameter.shape) > 1
                total += parameter.numel() * (BYTES[self.rest] if is_matrix else 4)
        for name, site in self.sites.items():
            scheme, group = choice.get(name, (self.rest, None))
            total += stored_bytes(site, scheme, group)  # type: ignore[arg-type]
        return total

    def search(self, config: Mixed, progress: Progress) -> Choice:
        """The choice for a budget."""
        size, wanted = config.max_size, config.min_fidelity
        start: Choice = {name: ("bf16", None) for name in self.sites}
        smallest: Choice = {name: (self._options(site)[-1], None) for name, site in self.sites.items()}
        if size is not None and self.bytes(smallest) > size:
            raise UsageError(
                f"the {self.tower.modality} tower does not fit into {decimal(size)}: with as few bits as possible "
                f"it takes {decimal(self.bytes(smallest))}",
                hint=f"ask for --max-size {at_least(self.bytes(smallest))} or more, or make the tower smaller",
            )
        steps = self._steps(self._measure(progress))
        fitting = len(steps)
        if size is not None:
            fitting = next(count for count in range(len(steps) + 1) if self.bytes(_after(start, steps, count)) <= size)
        if wanted is None:
            return _after(start, steps, fitting)
        progress("judging", 1)
        if size is None:
            return _after(start, steps, self._longest(start, steps, wanted))
        found = self._cosine(_after(start, steps, fitting))
        if found < wanted:
            enough = self.bytes(_after(start, steps, self._longest(start, steps, wanted)))
            raise UsageError(
                f"the {self.tower.modality} tower reaches a cosine of {found:.4f} within {decimal(size)}, not {wanted}",
                hint=f"it would take about --max-size {at_least(enough)}, or --min-fidelity {found - 5e-5:.4f}",
            )
        return _after(start, steps, fitting)

    def _options(self, site: Site) -> list[LayerScheme]:
        """What a layer can be, largest first."""
        possible = [scheme for scheme in _OPTIONS if not can(site, scheme, GROUP, self.dynamic)]
        if site.kind == "linear":  # as large and slower, and not possible beside layers whose inputs are rounded
            possible.remove("int8-weight")
        return sorted(possible, key=lambda scheme: -stored_bytes(site, scheme))

    def _measure(self, progress: Progress) -> Loss:
        options = {name: self._options(site) for name, site in self.sites.items()}
        ways: dict[str, Mapping[str, nn.Module]] = {}
        for scheme in _OPTIONS:
            named: Choice = {name: (scheme, None) for name, possible in options.items() if scheme in possible}
            mixture = self.plan(named, rounded=scheme == "int4-weight")  # as they will be beside int8-dynamic
            ways[scheme] = twins(emulate(self.tower, mixture), named)
        return self.data.sensitivity(self.tower, ways, progress)

    def _steps(self, loss: Loss) -> list[_Step]:
        """All steps on the lower hulls, least loss per byte first."""
        steps = []
        for name, site in self.sites.items():
            points = [(stored_bytes(site, scheme), loss[scheme][name], scheme) for scheme in self._options(site)]
            here = points[0]
            while rest := [point for point in points if point[0] < here[0]]:
                after = min(rest, key=lambda point: (max(0.0, point[1] - here[1]) / (here[0] - point[0]), point[0]))
                steps.append(_Step(name, after[2], here[0] - after[0], max(0.0, after[1] - here[1])))
                here = after
        return sorted(steps, key=lambda step: step.lost / step.saved)

    def _cosine(self, choice: Choice) -> float:
        return agreement(self.reference, embed(emulate(self.tower, self.plan(choice)), self.data.judge())).cosine_min

    def _longest(self, start: Choice, steps: list[_Step], wanted: float) -> int:
        """How many steps can be taken before the worst cosine falls too low, by bisection."""
        needed = 1 - _SAFE * (1 - wanted)
        best = self._cosine(start)
        if best < wanted:
            raise UsageError(
                f"the {self.tower.modality} tower reaches a cosine of {best:.5f} with every layer in bf16, "
                f"not {wanted}",
                hint=f"ask for --min-fidelity {best - 5e-6:.5f} or less, or use --scheme f16",
            )
        low, high = 0, len(steps) + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self._cosine(_after(start, steps, middle)) >= needed:
                low = middle
            else:
                high = middle
        return low


def _after(start: Choice, steps: list[_Step], count: int) -> Choice:
    """The choice when the first ``count`` steps are taken (each layer's own steps come in their order)."""
    choice = dict(start)
    for step in steps[:count]:
        choice[step.layer] = (step.scheme, None)
    return choice


def _weight(site: Site) -> object:
    return site.module.kernels if site.kind == "frames" else site.module.weight
