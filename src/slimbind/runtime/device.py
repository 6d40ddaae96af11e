"""Where towers run and in which numbers, as a short text: ``cpu``, ``cuda``, ``cuda:1,f16,compile``.

The parts, in any order after the first, separated by commas:

    cpu | cuda | cuda:N       the device; N counts graphics cards from 0
    f32 | bf16 | f16          what is computed in; left out: f32 on the CPU, on a GPU bf16 where it has it, else f16
    compile                   compile the tower (slow to begin, faster after)
    int8-weight | fp8-weight      linear layers of the blocks keep 8 bits, and are computed in the type above
    int8-dynamic | fp8-dynamic    ... and their inputs get 8 bits per token too: the fastest, and the least faithful

All but plain ``cpu`` is for towers that PyTorch runs (folders written by ``slimbind split``); 8 bits need torchao.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from slimbind.artifact import Artifact, TowerEntry
from slimbind.errors import UsageError

DTYPES = ("f32", "bf16", "f16")
WEIGHTS = ("int8-weight", "int8-dynamic", "fp8-weight", "fp8-dynamic")
_COMPILE = "compile"


@dataclass(frozen=True)
class Device:
    """See the top of this module; ``dtype`` and ``weights`` are None where nothing was said."""

    name: str = "cpu"
    dtype: str | None = None
    weights: str | None = None
    compile: bool = False

    @classmethod
    def parse(cls, text: str | Device) -> Device:
        """Read a text like ``cuda,bf16``.

        Raises:
            UsageError: a part is unknown, or there are two of a kind.
        """
        if isinstance(text, Device):
            return text
        name, *parts = (part.strip() for part in str(text).split(","))
        if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", name):
            raise UsageError(
                f"device {text!r} begins with {name!r}; allowed: cpu, cuda, cuda:0, cuda:1, ...",
                hint='for example "cuda" or "cuda:1,f16,compile"',
            )
        found: dict[str, str] = {}
        for part in parts:
            kind = "dtype" if part in DTYPES else "weights" if part in WEIGHTS else part
            if kind not in ("dtype", "weights", _COMPILE):
                raise UsageError.unknown("part of a device", part, [*DTYPES, *WEIGHTS, _COMPILE])
            if kind in found:
                raise UsageError(f"device {text!r} says both {found[kind]} and {part}", hint="leave one of them out")
            found[kind] = part
        return cls(name, found.get("dtype"), found.get("weights"), _COMPILE in found)

    def __str__(self) -> str:
        parts = [self.name, self.dtype, self.weights, _COMPILE if self.compile else None]
        return ",".join(part for part in parts if part)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is asked for that an engine would have to know of."""
        return self == Device()

    @property
    def is_cuda(self) -> bool:
        """Whether it is a graphics card."""
        return self.name.startswith("cuda")

    def record(self, entry: TowerEntry) -> TowerEntry:
        """A tower's record as it is on this device: other numbers are another scheme, and another encoder id.

        A tower computed in bf16 has the id that an export of it to bf16 has: their vectors go together.
        """
        if self.weights is not None:
            return entry.model_copy(update={"scheme": f"torchao-{self.weights}"})
        if self.dtype in (None, "f32"):
            return entry
        return entry.model_copy(update={"scheme": self.dtype})


def resolve(device: Device, artifact: Artifact, modalities: Iterable[str] | None = None) -> Device:
    """The device with all that was left open filled in, once it is sure that it is there and can do it.

    Args:
        device: what was asked for.
        artifact: whose towers are to run there.
        modalities: which of them; all by default.

    Raises:
        UsageError: the towers are not for PyTorch, or the machine has no such device or cannot do what is asked.
        MissingExtraError: PyTorch, or torchao, is not installed.
    """
    if device.is_plain:
        return device
    for name in artifact.modalities if modalities is None else modalities:
        entry = artifact.tower(name)
        if entry.engine != "torch" or entry.scheme.startswith("eager-"):
            raise UsageError(
                f"device {str(device)!r} is for towers that PyTorch runs as they were split; the {name} tower of "
                f"{artifact.manifest.model.id} is {entry.scheme} for {entry.engine}",
                hint="load the folder that `slimbind split` wrote, or leave the device out",
            )
    from slimbind.runtime import torch

    return torch.resolve(device)
