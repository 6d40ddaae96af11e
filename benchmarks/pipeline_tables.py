"""The tables of the pipeline around a model: installation, cold start, throughput; see tables.py."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from markdown import note, table

MB, MIB = 1e6, 1 << 20
Result = dict[str, Any]


def install(result: Result) -> str:
    """What an installation brings."""
    rows = []
    for name, told in result["install"]["rows"].items():
        most = ", ".join(f"{package} {size / MB:.0f}" for package, size in list(told["largest"].items())[:3])
        version = told["distributions"][DISTRIBUTIONS[name]]
        count = len(told["distributions"])
        rows.append((f"`{told['command']}`", version, str(count), f"{told['bytes'] / MB:.0f}", most))
    head = ("installation", "version", "distributions", "MB on disk", "largest, MB")
    return table(head, rows) + noted(result, "install")


def cold(result: Result) -> str:
    """From the start of a process to the first vector."""
    rows = []
    for name, told in result["cold"]["rows"].items():
        cells = [name, middle(told.get("import"), "cpu_seconds")]
        for what in ("vision", "text"):
            cells += [middle(told[what], "cpu_seconds"), f"{statistics.median(told[what]['peak_mib']):.0f}"]
        rows.append(cells)
    head = ("processor seconds (range)", "import", "first photograph", "most MiB", "first sentence", "most MiB")
    return table(head, rows) + noted(result, "cold")


def warm(result: Result) -> str:
    """From files on disk to vectors: items per processor second on one core, and by the clock on two."""
    one, two = result["warm"], result.get("two", {"rows": {}, "items": {}})
    loads = list(one["items"])
    head = ["items per second (range)", *(f"{LOADS.get(load, load)}, per CPU-second" for load in loads)]
    head += [f"{LOADS.get(load, load)}, two cores" for load in loads] if two["rows"] else []
    rows = []
    for name in dict.fromkeys([*two["rows"], *one["rows"]]):
        cells = [name, *(rate(one, name, load, "cpu_seconds") for load in loads)]
        cells += [rate(two, name, load, "seconds") for load in loads] if two["rows"] else []
        rows.append(cells)
    return table(head, rows) + noted(result, "warm")


def vectors(result: Result) -> str:
    """How near the vectors are to open_clip's, and how they change with the batch."""
    found = result["vectors"]["rows"]
    loads = list(next(iter(found.values())))
    rows = []
    for name, told in found.items():
        cells = [name, *(f"{told[load]['cosine_mean']:.5f} / {told[load]['cosine_min']:.5f}" for load in loads)]
        worst = max(told[load]["batch_1_or_32"] for load in loads)
        same = all(told[load]["same_bits"] for load in loads)
        rows.append((*cells, "same bits" if same else f"{worst:.0e}"))
    head = (
        "cosine to open_clip, mean / least",
        *(LOADS.get(load, load) for load in loads),
        "batch of 1 or 32: differs by",
    )
    return table(head, rows) + noted(result, "vectors")


DISTRIBUTIONS = {
    "sentence-transformers": "sentence-transformers",
    "fastembed": "fastembed",
    "open_clip": "open_clip_torch",
    "slimbind": "slimbind",
}
LOADS = {"1 MP": "photographs of 1 MP", "12 MP": "of 12 MP", "texts": "sentences"}


def middle(told: dict[str, Sequence[float]] | None, what: str) -> str:
    """Median and range; nothing where nothing was measured."""
    if told is None:
        return ""
    values = told[what]
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def rate(found: Result, name: str, load: str, per: str) -> str:
    """Items per second: median and range."""
    if name not in found["rows"]:
        return ""
    rates = [found["items"][load] / seconds for seconds in found["rows"][name][load][per]]
    return f"{statistics.median(rates):.1f} ({min(rates):.1f}-{max(rates):.1f})"


def noted(result: Result, step: str) -> str:
    """The note under a table, with the environment of its own step."""
    command = f"{result['command']} --steps {step}"
    return note({"environment": result[step]["environment"], "command": command})
