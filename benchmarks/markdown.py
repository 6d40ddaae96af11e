"""Results as Markdown: a table, and the note under it that says by what and where it was measured."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Whose versions a note tells.
_NAMED = "python imagebind-unofficial open_clip_torch torch torchao openvino nncf onnxruntime faiss-cpu".split()
RESULTS = Path(__file__).parent / "results"


def read(name: str) -> dict[str, Any]:
    """The results of a benchmark."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of text cells."""
    lines = [tuple(head)]
    lines += [("---",) * len(lines[0]), *(tuple(row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def note(result: dict[str, Any]) -> str:
    """The command, the machine and the versions behind a result."""
    told = result["environment"]
    machine = f"{told['cores']} cores {told['cpu']}" + (f", {told['threads']} thread(s)" if "threads" in told else "")
    versions = ", ".join(f"{name} {told[name]}" for name in _NAMED if name in told)
    command = result.get("command", f"python benchmarks/{result['benchmark']}.py")
    note = f" {told['note'][:1].upper()}{told['note'][1:]}." if "note" in told else ""
    return f"\n`{command}`; {machine}; {versions}; {told['time'][:10]}.{note}\n"
