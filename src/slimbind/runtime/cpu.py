"""What this CPU can do with 8-bit and 16-bit numbers, and therefore whether a quantized tower will be faster on it.

8-bit weights always save space. They save time only where the CPU multiplies 8-bit numbers and sums the products in one
instruction (x86: VNNI or AMX; ARM: dot product or i8mm). Elsewhere engines unpack the weights and compute in floating
point, at best as fast as before.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

# Instruction set -> the names that systems have for it: Linux's /proc/cpuinfo, macOS's sysctl, numpy's own detection.
_INT8: dict[str, tuple[str, ...]] = {
    "AMX": ("amx_int8",),
    "AVX512-VNNI": ("avx512_vnni", "avx512vnni"),
    "AVX-VNNI": ("avx_vnni", "avx_vnni_int8"),
    "i8mm": ("i8mm", "feat_i8mm"),
    "dot product": ("asimddp", "feat_dotprod"),
}
_BF16: dict[str, tuple[str, ...]] = {
    "AMX": ("amx_bf16",),
    "AVX512-BF16": ("avx512_bf16", "avx512bf16"),
    "bf16": ("bf16", "feat_bf16"),
}
_MACOS = ("machdep.cpu.brand_string", "machdep.cpu.features", "machdep.cpu.leaf7_features", "hw.optional.arm")
_WINDOWS_ARM_DOT_PRODUCT = 43  # PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE


@dataclass(frozen=True)
class Cpu:
    """What is known of the CPU.

    Args:
        name: as its maker calls it, or its architecture.
        int8: the instruction sets that sum products of 8-bit numbers, fastest first.
        bf16: those that multiply bf16 numbers.
        known: whether the system tells at all; if not, empty means nothing.
    """

    name: str
    int8: tuple[str, ...] = ()
    bf16: tuple[str, ...] = ()
    known: bool = True


def int8_note(cpu: Cpu | None = None) -> str:
    """A sentence for whoever is about to quantize, where int8 will not be faster here; empty where it will be.

    Args:
        cpu: by default this one.
    """
    cpu = this_cpu() if cpu is None else cpu
    if cpu.int8:
        return ""
    wanted = "VNNI or AMX on x86, the dot product on ARM"
    if not cpu.known:
        return f"whether int8 is faster on this CPU ({cpu.name}) cannot be told; it takes {wanted}"
    return f"int8 will be smaller but not faster on this CPU ({cpu.name}): it has no int8 instructions ({wanted})"


@cache
def this_cpu() -> Cpu:
    """The CPU this process runs on."""
    if sys.platform == "linux":
        return from_cpuinfo(_read("/proc/cpuinfo"))
    if sys.platform == "darwin":
        return from_sysctl(_sysctl())
    return from_numpy(_numpy_features(), dot_product=_windows_has(_WINDOWS_ARM_DOT_PRODUCT))


def from_cpuinfo(text: str) -> Cpu:
    """Linux. Where cores differ (big and little ones), only what all of them have counts: threads move about."""
    name, common = "", None
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in ("flags", "Features"):
            found = frozenset(value.lower().split())
            common = found if common is None else common & found
        elif key == "model name" and not name:
            name = value
    return _cpu(name, common)


def from_sysctl(text: str) -> Cpu:
    """macOS: lines ``name: value``. On ARM a feature is a line of its own with the value 1; on Intel, a word."""
    name, features = "", set()
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "machdep.cpu.brand_string":
            name = value
        elif key.startswith("machdep.cpu"):
            features |= set(value.lower().split())
        elif key.startswith("hw.optional.arm") and value == "1":
            features.add(key.rsplit(".", 1)[-1].lower())
    return _cpu(name, frozenset(features) or None)


def from_numpy(features: Mapping[str, bool], *, dot_product: bool = False) -> Cpu:
    """Anything else: what numpy found out when it was imported.

    numpy does not look for AVX-VNNI and AMX, so that a CPU without a hit is not known to have nothing.
    """
    words = {name.lower() for name, present in features.items() if present}
    if dot_product:
        words.add("asimddp")
    found = _cpu(platform.processor(), frozenset(words))
    return found if found.int8 else Cpu(found.name, bf16=found.bf16, known=False)


def _cpu(name: str, features: frozenset[str] | None) -> Cpu:
    told = features or frozenset()

    def present(sets: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        return tuple(known for known, names in sets.items() if told & set(names))

    return Cpu(name or platform.machine() or "unknown", present(_INT8), present(_BF16), known=features is not None)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _sysctl() -> str:
    """What macOS tells; names that a machine lacks make sysctl fail, after it has told the rest."""
    try:
        done = subprocess.run(["/usr/sbin/sysctl", *_MACOS], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _numpy_features() -> dict[str, bool]:
    for place in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):  # numpy 2, numpy 1
        try:
            module: Any = import_module(place)
        except ImportError:
            continue
        return dict(getattr(module, "__cpu_features__", {}))
    return {}


def _windows_has(feature: int) -> bool:
    import ctypes

    kernel: Any = getattr(getattr(ctypes, "windll", None), "kernel32", None)
    return bool(kernel is not None and kernel.IsProcessorFeaturePresent(feature))
