"""The tables of the pipeline around a model: installation, cold start, throughput, likeness; see tables.py."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from markdown import note, table

MB = 1e6
LOADS = {"1 MP": "photographs of 1 MP", "12 MP": "photographs of 12 MP", "texts": "sentences"}
Result = dict[str, Any]


def install(result: Result) -> str:
    """What an installation brings."""
    rows = []
    for told in result["install"]["rows"].values():
        most = ", ".join(f"{package} {size / MB:.0f}" for package, size in list(told["largest"].items())[:3])
        count = len(told["distributions"])
        rows.append((f"`{told['command']}`", told["version"], str(count), f"{told['bytes'] / MB:.0f}", most))
    head = ("installation", "version", "distributions", "MB on disk", "largest, MB")
    return table(head, rows) + noted(result, "install")


def cold(result: Result) -> str:
    """From the start of a process to the first vector."""
    rows = []
    for name, told in result["one"]["rows"].items():
        imports = [each for what in ("vision", "text") for each in told[f"import, {what}"]["cpu_seconds"]]
        cells = [name, middle(imports)]
        for what in ("vision", "text"):
            first = told[f"first, {what}"]
            cells += [middle(first["cpu_seconds"]), f"{statistics.median(first['peak_mib']):.0f}"]
        rows.append(cells)
    head = ("processor seconds (range) since the start", "import", "first photograph", "peak MiB", "first sentence")
    return table((*head, "peak MiB"), rows) + noted(result, "one")


def warm(result: Result) -> str:
    """From files to vectors: items per processor second on one core and, where it was measured, by the clock on two."""
    one, two = result["one"], result.get("two", {"rows": {}})
    loads = list(one["items"])
    head = ["items per second (range)", *(f"{one['items'][load]} {LOADS[load]}, per CPU-second" for load in loads)]
    head += [f"{LOADS[load]}, two cores" for load in loads] if two["rows"] else []
    rows = []
    for name in dict.fromkeys([*two["rows"], *one["rows"]]):
        cells = [name, *(rate(one, name, load, "cpu_seconds") for load in loads)]
        cells += [rate(two, name, load, "seconds") for load in loads] if two["rows"] else []
        rows.append(cells)
    return table(head, rows) + noted(result, "one") + (noted(result, "two") if two["rows"] else "")


def vectors(result: Result) -> str:
    """How near the vectors are to those of the first pipeline, and whether they change with the batch."""
    found = result["one"]["vectors"]
    loads = list(result["one"]["items"])
    rows = []
    for name, told in found.items():
        cells = [name, *(f"{told[load]['cosine_mean']:.4f} / {told[load]['cosine_min']:.4f}" for load in loads)]
        differ = [each for each in told.values() if "same_bits" in each]
        worst = max(each["batches_differ_by"] for each in differ)
        rows.append((*cells, "nothing" if all(each["same_bits"] for each in differ) else f"{worst:.0e}"))
    head = (f"cosine to {next(iter(found))}, mean / least", *(LOADS[load] for load in loads), "batches change")
    return table(head, rows) + noted(result, "one")


def middle(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def rate(found: Result, name: str, load: str, per: str) -> str:
    """Items per second: median and range; nothing where nothing was measured."""
    if name not in found["rows"]:
        return ""
    rates = [found["items"][load] / seconds for seconds in found["rows"][name][load][per]]
    return f"{statistics.median(rates):.1f} ({min(rates):.1f}-{max(rates):.1f})"


def noted(result: Result, step: str) -> str:
    """The note under a table, with the environment of its own step."""
    command = f"{result['command']} --steps {step}"
    return note({**result, "environment": result[step]["environment"], "command": command})
