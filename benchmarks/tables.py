"""Writes the tables of README.md and docs from the JSON results: `make tables`. The tests fail when they drift.

A page asks for a table with a pair of comments, `<!-- table: NAME -->` and `<!-- end -->`; what stands between them is
written by this script and by nobody else.
"""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import evaluate_tables
import search_tables

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
    """What open towers cost in memory: each alone, the pair that most people open, all of them; the rest in a line."""
    result = _read("memory-openvino-f32")
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
    return _table(head, rows) + _every_subset(result) + _note(result)


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


def collection() -> str:
    """What a collection takes its time for."""
    result = _read("collection")
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
        ("... 1000 at once", f"{told['search_batch_of_1000_queries_per_second']:.0f} per second", ""),
        ("verify", f"{told['verify_seconds']:.1f} s", ""),
        ("delete a tenth of the items", f"{told['delete_a_tenth_seconds']:.1f} s", ""),
        ("compact", f"{told['compact_seconds']:.1f} s", ""),
        (f"`slimbind index`, {folder['files']:,} unchanged files", f"{folder['unchanged_seconds']:.1f} s", "5 s"),
        ("... all of them touched, and so hashed", f"{folder['touched_seconds']:.1f} s", ""),
    ]
    return _table(("what", "takes", "goal"), rows) + _note(result)


def crash() -> str:
    """How often a collection was killed, and what it lost."""
    result = _read("crash")
    row = (result["kills"], result["lost"], result["most_items"])
    return _table(("kills", "acknowledged changes lost", "most items"), [tuple(map(str, row))]) + _note(result)


def mini() -> str:
    """What the packaged model finds; the rows are those of its card."""
    card = runpy.run_path(str(ROOT / "recipes" / "mini" / "card.py"))
    record = json.loads((ROOT / "recipes" / "mini" / "results.json").read_text(encoding="utf-8"))
    return f"{card['table'](record)}\n"


def quantize() -> str:
    """What each scheme saves and keeps, tower by tower, on both sets of weights."""
    result = _read("quantize")
    rows = []
    sets = [weights for weights in _WEIGHTS if any(name.endswith(f"/{weights}") for name in result["rows"])]
    for modality in _modalities(result):
        three = [result["rows"].get(f"{modality}/{weights}", {}) for weights in sets]
        before = next(row["split"]["file_mib"] for row in three if row)
        for scheme in dict.fromkeys(scheme for row in three for scheme in row.get("schemes", {})):
            each = [row.get("schemes", {}).get(scheme, {}) for row in three]
            told = next(one for one in each if one)
            rows.append(
                (
                    modality,
                    f"`{scheme}`",
                    f"{_number(before, 0)} -> {_number(told.get('file_mib'), 0)}",
                    _times(told),
                    *map(_cosines, each),
                )
            )
    head = ("tower", "scheme", "MiB", "speed", *(_WEIGHTS[weights] for weights in sets))
    return _table(head, rows) + _depth(result) + _note(result)


def quantize_text() -> str:
    """A batch of sentences of different lengths."""
    result = _read("quantize")
    rows = []
    for name, row in result["rows"].items():
        for scheme, told in row["schemes"].items():
            if "mixed" in told:
                mixed = told["mixed"]
                seconds = f"{mixed['reference_cpu_seconds']:.2f} -> {mixed['cpu_seconds']:.2f}"
                rows.append((name, f"`{scheme}`", seconds, f"{mixed['ratio']:.1f}x"))
    head = ("tower / weights", "scheme", "CPU seconds for 32 sentences of mixed length", "speed")
    return _table(head, rows) + _depth(result) + _note(result)


def quantize_memory() -> str:
    """Memory while quantizing (beside the largest fp32 tower), and while running without PyTorch; two threads."""
    result = _read("quantize")
    rows = []
    largest = max(row["split"]["file_mib"] for row in result["rows"].values())
    for name, row in result["rows"].items():
        for scheme, told in row["schemes"].items():
            if "memory" in told and "error" not in told["memory"]:
                memory, peak = told["memory"], told["quantize_peak_mib"]
                rows.append(
                    (
                        name,
                        f"`{scheme}`",
                        f"{peak:.0f} ({peak / largest:.2f}x)",
                        f"{memory['weights_mib']:.0f}",
                        f"{memory['steady_mib']:.0f} ({memory['ratio']:.2f}x)",
                        f"{told['threads']['ratio']:.2f}x" if "threads" in told else "-",
                    )
                )
    head = (
        "tower / weights",
        "scheme",
        "peak while quantizing, MiB (of the largest tower)",
        "file, MiB",
        "running, MiB",
        "two threads",
    )
    return _table(head, rows) + _depth(result) + _note(result)


def peers() -> str:
    """Other tools that make a model int8, in the same run."""
    result = _read("peers")
    tables = []
    for modality in dict.fromkeys(name.split("/")[0] for name in result["rows"]):
        three = [result["rows"].get(f"{modality}/{weights}", {"tools": {}}) for weights in _WEIGHTS]
        rows = []
        for name in dict.fromkeys(name for row in three for name in row["tools"]):
            each = [row["tools"].get(name, {}) for row in three]
            told = next((one for one in each if one and "error" not in one), {"error": ""})
            rows.append((name, _number(told.get("mib"), 0), _times(told), *map(_cosines, each)))
        depth = next(row["depth"] for row in three if "depth" in row)
        head = (f"{modality}, {depth} blocks", "MiB", "speed", *_WEIGHTS.values())
        tables.append(_table(head, rows))
    return "\n".join(tables) + _note(result)


def paper(number: str) -> str:
    """One of the paper's Tables I to VII."""
    result = _read("paper_tables")
    table = result["tables"][number]
    rows: list[tuple[str, ...]] = []
    for name, row in table["rows"].items():
        if number == "I":
            rows.append((name, _number(row["here"], 2), _number(row["published"], 2)))
        elif number in ("IV", "VII"):
            pairs = [" / ".join(_number(value, 4) for value in row[key]) for key in _COLUMNS]
            rows.append((name, *pairs, _number(row["published"], 3)))
        else:
            digits = 3 if number in ("III", "VI") else 1
            ours = [f"{_number(row[key], digits)}{_saved(row['fp32'], row[key])}" for key in ("paper", "ours")]
            rows.append((name, _number(row["fp32"], digits), *ours))
    kind = "dynamic" if number in ("II", "III", "IV") else "static"
    told = result["published"].get(kind, {})
    if number == "I":
        head: tuple[str, ...] = ("tower", "here", "published")
        after = ""
    elif number in ("IV", "VII"):
        head = ("tower", *_COLUMNS.values(), "published")
        known = told["cosine"]
        after = f"\nPublished, over the towers: {known}.\n" if isinstance(known, str) else ""
    else:
        head = ("tower", "fp32", "the paper's recipe", f"int8-{kind}")
        what = "faster" if number in ("III", "VI") else "smaller"
        after = f"\nPublished, all towers together: {told[what]:.0%} {what}.\n"
    return f"Table {number}: {table['title']}\n\n{_table(head, rows)}{after}{_depth(result)}{_note(result)}"


_WEIGHTS = {
    "plain": "cosine mean / min, plain",
    "balanced": "with outlier channels",
    "outlier": "with outlier channels that bf16 does not survive",
}
_COLUMNS = {
    "paper_plain": "the paper's recipe, mean / min",
    "ours_plain": "ours",
    "paper_balanced": "the paper's recipe, outlier channels",
    "ours_balanced": "ours, outlier channels",
}


def _modalities(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(name.split("/")[0] for name in result["rows"]))


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _saved(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f" ({1 - after / before:.0%} less)"


def _times(told: dict[str, Any]) -> str:
    if "error" in told:
        return "failed"
    return f"{told['ratio']:.2f}x" if "ratio" in told else "-"


def _cosines(told: dict[str, Any]) -> str:
    if "error" in told:
        return f"failed: {told['error'][:80]}"
    return f"{told['cosine_mean']:.5f} / {told['cosine_min']:.5f}" if "cosine_mean" in told else "-"


def _depth(result: dict[str, Any]) -> str:
    return f"\nTowers of {result['depth']} blocks only.\n" if result.get("depth") else ""


def qat() -> str:
    """What fine-tuning gives back on mini's picture tower."""
    result = _read("qat")
    rows = [
        (row["row"], f"{row['bytes'] / 2**20:.1f}", f"{row['cosine_mean']:.4f} / {row['cosine_min']:.4f}",
         f"{row['centred_mean']:.4f} / {row['centred_min']:.4f}", str(row["kept"]), str(row.get("pictures", "")))
        for row in result["rows"]
    ]  # fmt: skip
    head = ("scheme", "MiB", "cosine, mean / least", "mean-subtracted", "layers kept in float", "pictures learned from")
    return _table(head, rows) + _note(result)


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
    return _table(head, rows) + _note(result)


def search(kind: str, result: str = "search") -> str:
    """Codecs, the transform and other libraries, of ``search.py`` and ``real_gap.py``."""
    found = _read(result)
    makers: dict[str, Callable[[dict[str, Any]], search_tables.Table]] = {
        "small": partial(search_tables.searched, documents=100_000),
        "large": partial(search_tables.searched, documents=1_000_000),
        "gains": search_tables.gains,
        "ablation": search_tables.ablation,
        "real": search_tables.real,
    }
    return _table(*makers[kind](found)) + _note(found)


def evaluate() -> str:
    """What evaluating embeddings costs."""
    result = _read("evaluate")
    return _table(*evaluate_tables.cost(result)) + _note(result)


TABLES: dict[str, Callable[[], str]] = {
    "collection": collection,
    "crash": crash,
    "evaluate": evaluate,
    "exact": exact,
    "media": media,
    "memory": memory,
    "mini": mini,
    "mini_schemes": mini_schemes,
    "peers": peers,
    "qat": qat,
    "quantize": quantize,
    "quantize_memory": quantize_memory,
    "quantize_text": quantize_text,
    "search_ablation": partial(search, "ablation"),
    "search_gains": partial(search, "gains"),
    "search_large": partial(search, "large"),
    "search_real": partial(search, "real", "real-gap"),
    "search_small": partial(search, "small"),
    "startup": startup,
} | {f"paper_{number}": partial(paper, number) for number in ("I", "II", "III", "IV", "V", "VI", "VII")}


def render(page: str) -> str:
    """A page with all its tables written anew."""
    return _BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", page)


def pages() -> list[Path]:
    """The pages that have tables."""
    found = (ROOT / "README.md", ROOT / "recipes" / "mini" / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    return [page for page in found if _BLOCK.search(page.read_text())]


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
    known = ("python", "torch", "torchao", "openvino", "nncf", "onnxruntime", "faiss-cpu")
    versions = ", ".join(f"{name} {told[name]}" for name in known if name in told)
    command = result.get("command", f"python benchmarks/{result['benchmark']}.py")
    return f"\n`{command}`; {machine}; {versions}; {told['time'][:10]}.\n"


if __name__ == "__main__":
    for path in pages():
        path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
