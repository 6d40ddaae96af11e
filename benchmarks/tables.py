"""Writes the tables of README.md and docs from the JSON results: `make tables`. The tests fail when they drift.

A page asks for a table with a pair of comments, `<!-- table: NAME -->` and `<!-- end -->`; what stands between them is
written by this script and by nobody else.
"""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def exact() -> str:
    """What the exact rewrites save."""
    result = _read("exact")
    rows = [
        (row["row"], f"{row['gain']:.2f}x", f"{row['gain_range'][0]:.2f}-{row['gain_range'][1]:.2f}", _tiny(row))
        for row in result["rows"]
    ]
    return _table(("rewrite (reference: the plain tower)", "gain", "range", "greatest difference"), rows) + _note(
        result
    )


def _tiny(row: dict[str, Any]) -> str:
    return f"{row['difference']:.0e}" + (f" ({row['difference_of']})" if "difference_of" in row else "")


def memory() -> str:
    """What open towers cost in memory."""
    result = _read("memory-openvino-f32")
    rows = [
        (
            " + ".join(row["modalities"]) if len(row["modalities"]) < 6 else "all six",
            f"{row['weights_mib']:.0f}",
            f"{row['steady_mib']:.0f}",
            f"{row['ratio']:.2f}",
            f"{row['closed_mib']:.0f}",
            f"{row['paper_mib']:.0f}",
        )
        for row in result["rows"]
    ]
    head = ("open towers (f32)", "weights, MiB", "in memory, MiB", "ratio", "after unload, MiB", "paper, MiB")
    return _table(head, rows) + _note(result)


def startup() -> str:
    """How long starting takes."""
    result = _read("startup")
    rows = [
        (f"`{row['command']}`", f"{row['median_ms']:.0f} ms", f"{row['goal_ms']:.0f} ms" if "goal_ms" in row else "")
        for row in result["rows"]
    ]
    return _table(("command", "median", "goal"), rows) + _note(result)


def media() -> str:
    """How fast files become arrays."""
    result = _read("media")
    rows = [(row["case"], f"{row['cpu_ms']:.1f}", f"{row['per_second']:.0f}") for row in result["rows"]]
    return _table(("item", "CPU ms", "items per second, one thread"), rows) + _note(result)


def mini() -> str:
    """What the packaged model finds; the rows are those of its card."""
    card = runpy.run_path(str(ROOT / "recipes" / "mini" / "card.py"))
    record = json.loads((ROOT / "recipes" / "mini" / "results.json").read_text(encoding="utf-8"))
    return f"{card['table'](record)}\n"


TABLES: dict[str, Callable[[], str]] = {
    "exact": exact,
    "media": media,
    "memory": memory,
    "mini": mini,
    "startup": startup,
}


def render(page: str) -> str:
    """A page with all its tables written anew."""
    return _BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", page)


def pages() -> list[Path]:
    """The pages that have tables."""
    return [
        page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if _BLOCK.search(page.read_text())
    ]


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [tuple(head)]
    lines += [("---",) * len(lines[0]), *(tuple(row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _note(result: dict[str, Any]) -> str:
    told = result["environment"]
    machine = f"{told['cores']} cores {told['cpu']}" + (f", {told['threads']} thread(s)" if "threads" in told else "")
    known = ("python", "torch", "openvino", "onnxruntime")
    versions = ", ".join(f"{name} {told[name]}" for name in known if name in told)
    command = result.get("command", f"python benchmarks/{result['benchmark']}.py")
    return f"\n`{command}`; {machine}; {versions}; {told['time'][:10]}.\n"


if __name__ == "__main__":
    for path in pages():
        path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
