"""The schemes by name: the settings of each, who makes it, how its settings are stored, and what it has to keep.

A scheme is a frozen dataclass of settings. ``make`` (named by ``maker``, imported when it is used) turns a tower and
its calibration data into a tower and a ``Plan``. Settings are stored with type and version, and read back only as one
of the types listed here.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from slimbind.errors import ArtifactVersionError, UsageError
from slimbind.quantize.calibration import Calibration
from slimbind.quantize.plan import Plan
from slimbind.quantize.report import Progress, Report
from slimbind.towers.layers import Tower

Made = tuple[Tower, Plan, Report]


class Make(Protocol):
    """Decides how a tower is quantized."""

    def __call__(self, tower: Tower, calibration: Calibration, config: Any, progress: Progress, /) -> Made:  # noqa: ANN401
        """The tower (simplified before; a new one where it was rewritten), the plan for it, and what to report."""
        ...


@dataclass(frozen=True)
class Scheme:
    """Settings of a scheme; every field has a default that is right for most."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    maker: ClassVar[str]
    engines: ClassVar[tuple[str, ...]] = ("openvino", "onnx")
    calibrates: ClassVar[bool] = True  # whether it looks at data, not only is judged by it
    bits: ClassVar[float] = 8.0  # of most weights, for an estimate of the size
    multiplies_int8: ClassVar[bool] = False  # which is fast on some CPUs only
    summary: ClassVar[str]

    def make(self, tower: Tower, calibration: Calibration, progress: Progress) -> Made:
        """Call the maker with these settings."""
        module, _, function = self.maker.partition(":")
        make: Make = getattr(import_module(module), function)
        return make(tower, calibration, self, progress)

    @property
    def looks_at_data(self) -> bool:
        """Whether the outcome depends on the calibration data."""
        return self.calibrates

    def to_record(self) -> dict[str, Any]:
        """Type, version and settings, as JSON can hold them."""
        return {"type": self.name, "version": self.version} | dataclasses.asdict(self)


@dataclass(frozen=True)
class Learning(Scheme):
    """A scheme whose outcome can be fine-tuned against the float32 tower (``qat``), for ``qat_steps`` batches."""

    qat_steps: int = dataclasses.field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.qat_steps < 0:
            raise UsageError(f"{self.name}: qat_steps is {self.qat_steps}", hint="give 0, or some hundred batches")

    @property
    def looks_at_data(self) -> bool:
        """See ``Scheme``."""
        return self.calibrates or self.qat_steps > 0


@dataclass(frozen=True)
class Keeping(Learning):
    """A scheme whose most sensitive layers get more bits where the tower would be refused otherwise (``keep``)."""

    keep: bool = dataclasses.field(default=True, kw_only=True)


Smoothing = Literal["searched", "even", "off"]  # alpha searched per layer, 0.5 everywhere, none


@dataclass(frozen=True)
class Int8Dynamic(Keeping):
    """int8 weights per output channel; inputs of linear layers rounded to int8 per token, when the tower runs.

    ``compensate``: weights are rounded so that they make up for each other's errors, which takes as long as all else.
    ``move``: channels are moved to lie around zero. ``loud``: the few channels that no smoothing makes good stay in
    float. ``correct``: biases take up the mean error; that helped about as often as it hurt, and takes three times
    as long (``benchmarks/smoothing.py``).
    """

    name = "int8-dynamic"
    multiplies_int8 = True
    maker = "slimbind.quantize.dynamic:make"
    summary = "8-bit weights, 8-bit inputs decided per token at run time"
    smoothing: Smoothing = "even"
    move: bool = True
    loud: bool = True
    compensate: bool = True
    correct: bool = False


@dataclass(frozen=True)
class Int8Static(Learning):
    """int8 weights, and inputs rounded in ranges calibrated beforehand, except for layers that lose too much so.

    Those are rounded per token when the tower runs (``fallback="dynamic"``; a convolution stays in bf16), or all stay
    in bf16 (``"bf16"``), until the worst cosine is ``least`` or ``most_kept`` of all multiplications would be in bf16.
    ``compensate``: weights are rounded so that they make up for each other's errors. ``plain`` leaves out all help: no
    smoothing, one observer, nothing kept, no compensation.
    """

    name = "int8-static"
    multiplies_int8 = True
    maker = "slimbind.quantize.static:make"
    summary = "8-bit weights and inputs in calibrated ranges"
    plain: bool = False
    smoothing: Smoothing = "searched"
    observer: Literal["best", "minmax", "histogram", "percentile", "mse"] = "best"
    per_channel: bool = True
    least: float = 0.995
    most_kept: float = 0.15
    fallback: Literal["dynamic", "bf16"] = "dynamic"
    compensate: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1 <= self.least <= 1:
            raise UsageError(f"{self.name}: least is {self.least}", hint="give a cosine, for example 0.995")
        if not 0 <= self.most_kept <= 1:
            raise UsageError(f"{self.name}: most_kept is {self.most_kept}", hint="give a share from 0 to 1")


@dataclass(frozen=True)
class Int8Weight(Keeping):
    """int8 weights per output channel; computed in float."""

    name = "int8-weight"
    maker = "slimbind.quantize.weight_only:int8"
    calibrates = False
    summary = "8-bit weights, float arithmetic"


@dataclass(frozen=True)
class Int4Weight(Keeping):
    """4-bit weights of linear layers in groups of inputs, with error compensation; 8 bits for all other layers.

    ``smoothing`` is the alpha that loud inputs are made quieter with, 0 leaves them as they are. A quarter took
    a quarter to two fifths off the loss of towers with outliers, and changed little elsewhere.
    """

    name = "int4-weight"
    maker = "slimbind.quantize.weight_only:int4"
    bits = 4.5
    summary = "4-bit weights in groups, error compensated"
    group: int = 64
    method: Literal["gptq", "importance", "nearest"] = "gptq"
    smoothing: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.smoothing <= 1:
            raise UsageError(f"{self.name}: smoothing is {self.smoothing}", hint="give an alpha, 0 to 1")
        if self.group < 1:
            raise UsageError(f"{self.name}: group is {self.group}", hint="give 1 or more, for example 64")


@dataclass(frozen=True)
class F16(Scheme):
    """Weights stored as f16."""

    name = "f16"
    maker = "slimbind.quantize.weight_only:half"
    calibrates = False
    bits = 16.0
    summary = "16-bit weights (f16)"


@dataclass(frozen=True)
class Bf16(Scheme):
    """Weights stored as bf16, and computed in it where the CPU can."""

    name = "bf16"
    maker = "slimbind.quantize.weight_only:half"
    calibrates = False
    engines = ("openvino",)
    bits = 16.0
    summary = "16-bit weights (bf16)"


@dataclass(frozen=True)
class Mixed(Scheme):
    """A scheme for each layer: from a recipe, or searched for the smallest loss under a budget.

    ``recipe`` is the text of a recipe (see ``recipe``); without one, ``max_size`` (bytes of a tower's files) or
    ``min_fidelity`` (the worst cosine) say what to search for.
    """

    name = "mixed"
    multiplies_int8 = True
    maker = "slimbind.quantize.mixed:make"
    summary = "a scheme per layer, from a recipe or under a budget"
    max_size: int | None = None
    min_fidelity: float | None = None
    recipe: str | None = None


@dataclass(frozen=True)
class EagerDynamic(Scheme):
    """The ImageBind paper's dynamic recipe on PyTorch's eager mode, for comparison."""

    name = "eager-dynamic"
    multiplies_int8 = True
    maker = "slimbind.quantize.eager:make_dynamic"
    engines = ("torch",)
    calibrates = False
    summary = "the paper's dynamic baseline (PyTorch eager mode)"
    linear_only: bool = False


@dataclass(frozen=True)
class EagerStatic(Scheme):
    """The ImageBind paper's static recipe on PyTorch's eager mode, for comparison."""

    name = "eager-static"
    multiplies_int8 = True
    maker = "slimbind.quantize.eager:make_static"
    engines = ("torch",)
    summary = "the paper's static baseline (PyTorch eager mode)"


SCHEMES: dict[str, type[Scheme]] = {
    scheme.name: scheme
    for scheme in (Int8Dynamic, Int8Static, Int8Weight, Int4Weight, F16, Bf16, Mixed, EagerDynamic, EagerStatic)
}

# Scheme -> the smallest cosine to the fp32 reference that the worst held-out item may have, and why it is that. An
# artifact below it is refused unless forced. ``mixed`` is held to its own ``min_fidelity`` where it has one.
LEAST: dict[str, tuple[float, str]] = {
    "f16": (0.999, "16 bits keep 3 digits of every weight; measured is above .9999, so less is a fault"),
    "bf16": (0.999, "as f16, with 2 to 3 digits"),
    "int8-weight": (0.999, "rounding per channel moves a weight by under 1/254 of its row's largest"),
    "int8-dynamic": (0.995, "inputs are rounded too; with smoothing .9995 is usual, .98 is what it is without"),
    "int8-static": (0.98, "ranges come from few items, and others exceed them"),
    "int4-weight": (0.97, "15 levels per weight; with error compensation .99 is usual"),
    "mixed": (0.97, "as its weakest part, 4-bit weights"),
    "eager-dynamic": (-1.0, "a baseline is kept whatever it loses"),
    "eager-static": (-1.0, "a baseline is kept whatever it loses"),
}


def scheme(name: str, settings: Mapping[str, str] | None = None) -> Scheme:
    """The scheme of that name, with ``settings`` (field -> its value as text) in place of its defaults.

    Raises:
        UsageError: there is no such scheme or setting, or the value is not of its type.
    """
    if name not in SCHEMES:
        raise UsageError.unknown("scheme", name, SCHEMES)
    kind = SCHEMES[name]
    hints = _fields(kind)
    values: dict[str, Any] = {}
    for key, text in (settings or {}).items():
        if key not in hints:
            raise UsageError.unknown(f"setting of {name}", key, hints)
        values[key] = _read(f"{name}: {key}", text, hints[key])
    return kind(**values)


def from_record(record: Mapping[str, Any]) -> Scheme:
    """Read what ``to_record`` gave; further entries of a manifest's record (report, calibration) are left aside.

    Raises:
        UsageError: an unknown type, or a setting of another type. ArtifactVersionError: from a newer slimbind.
    """
    name = record.get("type")
    if not isinstance(name, str) or name not in SCHEMES:
        raise UsageError.unknown("scheme", name, SCHEMES)
    kind = SCHEMES[name]
    if not isinstance(record.get("version"), int) or record["version"] > kind.version:
        raise ArtifactVersionError(
            f"{name} has version {record.get('version')!r}; this slimbind knows up to {kind.version}",
            hint="pip install --upgrade slimbind",
        )
    values = {key: record[key] for key in _fields(kind) if key in record}
    for key, value in values.items():
        if not _fits(value, _fields(kind)[key]):
            raise UsageError(f"{name}: {key} is {value!r}", hint="the record was changed by hand")
    return kind(**values)


def _fields(kind: type[Scheme]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _options(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401  (a type, or what stands for several)
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: object, hint: Any) -> bool:  # noqa: ANN401
    for option in _options(hint):
        if get_origin(option) is Literal:
            if value in get_args(option):
                return True
        elif option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return True
        elif isinstance(value, option) and (option is bool or not isinstance(value, bool)):
            return True
    return False


def _read(what: str, text: str, hint: Any) -> Any:  # noqa: ANN401
    allowed = []
    for option in _options(hint):
        if option is types.NoneType:
            continue
        if get_origin(option) is Literal:
            if text in get_args(option):
                return text
            allowed += [str(value) for value in get_args(option)]
            continue
        if option is bool:
            if text.lower() in ("true", "false", "yes", "no", "1", "0"):
                return text.lower() in ("true", "yes", "1")
            allowed += ["true", "false"]
            continue
        try:
            return option(text)
        except ValueError:
            allowed.append(f"a {'whole ' if option is int else ''}number")
    raise UsageError(f"{what} cannot be {text!r}; allowed: {', '.join(allowed)}")
