"""Writes the tables of README.md and docs from the JSON results: `make tables`. The tests fail when they drift.

A page asks for a table with a pair of comments, `<!-- table: NAME -->` and `<!-- end -->`; what stands between them is
written by this script and by nobody else.
"""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import accuracy_tables
import clip_tables
import evaluate_tables
import limits_tables
import pipeline_tables
import quantize_tables
import scaling_tables
import search_tables
import thread_tables
from markdown import note, read, table

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def exact() -> str:
    """What the exact rewrites save."""
    result = read("exact")
    rows = [
        (row["row"], f"{row['gain']:.2f}x", f"{row['gain_range'][0]:.2f}-{row['gain_range'][1]:.2f}", _tiny(row))
        for row in result["rows"]
    ]
    return table(("rewrite (reference: the plain tower)", "gain", "range", "greatest difference"), rows) + note(result)


def _tiny(row: dict[str, Any]) -> str:
    return f"{row['difference']:.0e}" + (f" ({row['difference_of']})" if "difference_of" in row else "")


def memory() -> str:
    """What open towers cost in memory: each alone, the pair that most people open, all of them; the rest in a line."""
    result = read("memory-openvino-f32")
    shown = [
        row for row in result["rows"] if len(row["modalities"]) in (1, 6) or row["modalities"] == ["vision", "text"]
    ]
    rows = [
        (
            " + ".join(row["modalities"]) if len(row["modalities"]) < 6 else "all six",
            f"{row['weights_mib']:.0f}",
            f"{row['steady_mib']:.0f}",
            f"{row['ratio']:.2f}",
            f"{row['closed_mib']:.0f}",
            f"{row['paper_mib']:.0f}",
        )
        for row in shown
    ]
    head = ("open towers (f32)", "weights, MiB", "in memory, MiB", "ratio", "after unload, MiB", "paper, MiB")
    return table(head, rows) + _every_subset(result) + note(result)


def _every_subset(result: dict[str, Any]) -> str:
    """What the subsets that have no row of their own came to, and by how much the worst of them miss the goal."""
    rows, goal = result["rows"], result["goal_ratio"]
    missed = sorted((row for row in rows if row["ratio"] > goal), key=lambda row: -row["ratio"])
    named = ", ".join(f"{' + '.join(row['modalities'])} {row['ratio']:.2f}" for row in missed)
    most = max(row["steady_mib"] - row["weights_mib"] for row in rows)
    return (
        f"\nOf all {len(rows)} subsets {len(rows) - len(missed)} stay within {goal} times their weights; "
        f"above are {named}. "
        f"None costs more than {most:.0f} MiB beside its weights.\n"
    )


def startup() -> str:
    """How long starting takes."""
    result = read("startup")
    rows = [
        (f"`{row['command']}`", f"{row['median_ms']:.0f} ms", f"{row['goal_ms']:.0f} ms" if "goal_ms" in row else "")
        for row in result["rows"]
    ]
    return table(("command", "median", "goal"), rows) + note(result)


def media() -> str:
    """How fast files become arrays."""
    result = read("media")
    rows = [(row["case"], f"{row['cpu_ms']:.1f}", f"{row['per_second']:.0f}") for row in result["rows"]]
    return table(("item", "CPU ms", "items per second, one thread"), rows) + note(result)


def collection() -> str:
    """What a collection takes its time for."""
    result = read("collection")
    told, folder = result["collection"], result["folder"]
    count = f"{told['items']:,} items"
    rows = [
        (f"add {count} of {told['dim']} dimensions at once", f"{told['add_seconds']:.1f} s", "10 s"),
        ("... in steps of 1000", f"{told['add_in_steps_of_1000_seconds']:.1f} s", ""),
        ("open", f"{told['open_ms']:.1f} ms", "50 ms"),
        ("make codes", f"{told['build_codes_seconds']:.1f} s", ""),
        ("first search of a process", f"{told['first_search_ms']:.0f} ms", ""),
        (f"search ({told['stats']['method']}; recall@10 {told['recall_at_10']})", f"{told['search_ms']:.1f} ms", ""),
        ("... where a fifth of the items count", f"{told['search_where_a_fifth_ms']:.0f} ms", ""),
        ("... the same filter again", f"{told['search_where_again_ms']:.1f} ms", ""),
        ("... 1000 at once", f"{told['search_batch_of_1000_queries_per_second']:.0f} per second", ""),
        ("verify", f"{told['verify_seconds']:.1f} s", ""),
        ("delete a tenth of the items", f"{told['delete_a_tenth_seconds']:.1f} s", ""),
        ("compact", f"{told['compact_seconds']:.1f} s", ""),
        (f"`slimbind index`, {folder['files']:,} unchanged files", f"{folder['unchanged_seconds']:.1f} s", "5 s"),
        ("... all of them touched, and so hashed", f"{folder['touched_seconds']:.1f} s", ""),
    ]
    return table(("what", "takes", "goal"), rows) + note(result)


def crash() -> str:
    """How often a collection was killed, and what it lost."""
    result = read("crash")
    row = (result["kills"], result["lost"], result["most_items"])
    return table(("kills", "acknowledged changes lost", "most items"), [tuple(map(str, row))]) + note(result)


def mini() -> str:
    """What the packaged model finds; the rows are those of its card."""
    card = runpy.run_path(str(ROOT / "recipes" / "mini" / "card.py"))
    record = json.loads((ROOT / "recipes" / "mini" / "results.json").read_text(encoding="utf-8"))
    return f"{card['table'](record)}\n"


def qat() -> str:
    """What fine-tuning gives back on mini's picture tower."""
    result = read("qat")
    rows = [
        (row["row"], f"{row['bytes'] / 2**20:.1f}", f"{row['cosine_mean']:.4f} / {row['cosine_min']:.4f}",
         f"{row['centred_mean']:.4f} / {row['centred_min']:.4f}", str(row["kept"]), str(row.get("pictures", "")))
        for row in result["rows"]
    ]  # fmt: skip
    head = ("scheme", "MiB", "cosine, mean / least", "mean-subtracted", "layers kept in float", "pictures learned from")
    return table(head, rows) + note(result)


def mini_schemes() -> str:
    """Every scheme on both of mini's towers."""
    result = json.loads((ROOT / "recipes" / "mini" / "schemes.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        found.setdefault(row["row"], {})[row["modality"]] = row
    rows = []
    for name, towers in found.items():
        cells = [name]
        for modality in ("vision", "text"):
            row = towers.get(modality)
            cells += ["", "", ""] if row is None else [
                f"{row['bytes'] / 2**20:.1f}", f"{row['ms']:.2f}", f"{row['cosine_mean']:.4f} / {row['cosine_min']:.4f}"
            ]  # fmt: skip
        rows.append(cells)
    head = ("scheme", "pictures: MiB", "CPU ms", "cosine, mean / least", "texts: MiB", "CPU ms", "cosine, mean / least")
    return table(head, rows) + note(result)


def search(kind: str, result: str = "search") -> str:
    """Codecs, the transform and other libraries, of ``search.py`` and ``real_gap.py``."""
    found = read(result)
    makers: dict[str, Callable[[dict[str, Any]], search_tables.Table]] = {
        "small": partial(search_tables.searched, documents=100_000),
        "large": partial(search_tables.searched, documents=1_000_000),
        "gains": search_tables.gains,
        "ablation": search_tables.ablation,
        "real": search_tables.real,
    }
    return table(*makers[kind](found)) + note(found)


def limits(kind: str) -> str:
    """What one core can do, and what passes reach of it."""
    result = read("limits")
    return table(*getattr(limits_tables, kind)(result)) + note(result)


def pipeline(kind: str) -> str:
    """The pipeline around a model, beside others."""
    found: str = getattr(pipeline_tables, kind)(read("pipeline"))
    return found


def scaling(kind: str) -> str:
    """Towers by batch, collections by size."""
    result = read("scaling")
    return table(*getattr(scaling_tables, kind)(result)) + note(result)


def threads() -> str:
    """Threads, forward passes side by side, concurrent callers."""
    result = read("threads")
    return table(*thread_tables.threads(result)) + note(result)


def evaluate() -> str:
    """What evaluating embeddings costs."""
    result = read("evaluate")
    return table(*evaluate_tables.cost(result)) + note(result)


def scores(kind: str) -> str:
    """What a score of mini means, of ``recipes/mini/scores.py``."""
    result = json.loads((ROOT / "recipes" / "mini" / "scores.json").read_text(encoding="utf-8"))
    return table(*getattr(evaluate_tables, f"scores_{kind}")(result)) + note(result)


TABLES: dict[str, Callable[[], str]] = {
    "accuracy_codecs": accuracy_tables.codecs,
    "accuracy_crossed": accuracy_tables.crossed,
    "accuracy_mix": accuracy_tables.mix,
    "accuracy_probe": accuracy_tables.probe,
    "accuracy_schemes": accuracy_tables.schemes,
    "clip_heatmap": clip_tables.heatmap,
    "clip_linear_probe": clip_tables.linear_probe,
    "clip_mix": clip_tables.mix,
    "clip_peers_text": partial(clip_tables.peers, "text"),
    "clip_peers_vision": partial(clip_tables.peers, "vision"),
    "cold_start": quantize_tables.cold_start,
    "cold_start_short": quantize_tables.cold_start_short,
    "collection": collection,
    "crash": crash,
    "evaluate": evaluate,
    "exact": exact,
    "limits": partial(limits, "limits"),
    "limits_memory": partial(limits, "memory"),
    "limits_peaks": partial(limits, "peaks"),
    "limits_profile": partial(limits, "profile"),
    "media": media,
    "memory": memory,
    "mini": mini,
    "mini_schemes": mini_schemes,
    "peers": quantize_tables.peers,
    "pipeline_cold": partial(pipeline, "cold"),
    "pipeline_install": partial(pipeline, "install"),
    "pipeline_vectors": partial(pipeline, "vectors"),
    "pipeline_warm": partial(pipeline, "warm"),
    "qat": qat,
    "quantize": quantize_tables.quantize,
    "quantize_memory": quantize_tables.quantize_memory,
    "quantize_short": quantize_tables.quantize_short,
    "quantize_text": quantize_tables.quantize_text,
    "scaling_batch": partial(scaling, "batch"),
    "scaling_collection": partial(scaling, "collection"),
    "scores_methods": partial(scores, "methods"),
    "scores_shipped": partial(scores, "shipped"),
    "search_ablation": partial(search, "ablation"),
    "search_gains": partial(search, "gains"),
    "search_large": partial(search, "large"),
    "search_real": partial(search, "real", "real-gap"),
    "search_small": partial(search, "small"),
    "split": quantize_tables.split,
    "startup": startup,
    "threads": threads,
} | {f"paper_{number}": partial(quantize_tables.paper, number) for number in ("I", "II", "III", "IV", "V", "VI", "VII")}


def render(page: str) -> str:
    """A page with all its tables written anew."""
    return _BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", page)


def pages() -> list[Path]:
    """The pages that have tables."""
    found = (ROOT / "README.md", ROOT / "recipes" / "mini" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    return [page for page in found if _BLOCK.search(page.read_text())]


if __name__ == "__main__":
    for path in pages():
        path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
