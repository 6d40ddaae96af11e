"""The tables of what quantization saves and keeps, of other tools, and of the ImageBind paper; see tables.py."""

from __future__ import annotations

from typing import Any

from markdown import note, read, table
from slimbind.modalities import MODALITIES

_MIB = 1 << 20
_WEIGHTS = {
    "plain": "cosine mean / min, plain",
    "balanced": "with outlier channels",
    "outlier": "with outlier channels that bf16 does not survive",
}
_REFERENCE = "imagebind-unofficial, PyTorch eager, fp32"
PLAIN = "slimbind's plain tower, PyTorch eager"
_COLUMNS = {
    "paper_plain": "the paper's recipe, mean / min",
    "ours_plain": "ours",
    "paper_balanced": "the paper's recipe, outlier channels",
    "ours_balanced": "ours, outlier channels",
}


def quantize() -> str:
    """What each scheme saves and keeps, tower by tower, on both sets of weights."""
    result = read("quantize")
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
    return table(head, rows) + _depth(result) + note(result)


def quantize_short() -> str:
    """Each tower with 8-bit weights in one row."""
    result = read("quantize")
    rows = []
    for modality in _modalities(result):
        each = [result["rows"].get(f"{modality}/{weights}", {}) for weights in ("plain", "balanced")]
        told = [row.get("schemes", {}).get("int8-dynamic", {}) for row in each]
        before, after = each[0]["split"]["file_mib"], told[0]["file_mib"]
        rows.append((modality, f"{before:.0f} -> {after:.0f}", _times(told[0]), *map(_cosines, told)))
    head = ("tower, `int8-dynamic`", "MiB", "speed", _WEIGHTS["plain"], _WEIGHTS["balanced"])
    return table(head, rows) + _depth(result) + note(result)


def quantize_text() -> str:
    """A batch of sentences of different lengths."""
    result = read("quantize")
    rows = []
    for name, row in result["rows"].items():
        for scheme, told in row["schemes"].items():
            if "mixed" in told:
                mixed = told["mixed"]
                seconds = f"{mixed['reference_cpu_seconds']:.2f} -> {mixed['cpu_seconds']:.2f}"
                rows.append((name, f"`{scheme}`", seconds, f"{mixed['ratio']:.1f}x"))
    head = ("tower / weights", "scheme", "CPU seconds for 32 sentences of mixed length", "speed")
    return table(head, rows) + _depth(result) + note(result)


def quantize_memory() -> str:
    """Memory while quantizing (beside the largest fp32 tower), and while running without PyTorch; two threads."""
    result = read("quantize")
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
    return table(head, rows) + _depth(result) + note(result)


def peers() -> str:
    """Other tools that run a model on a CPU, in float and with 8 bits, in the same run."""
    result = read("peers")
    tables = []
    for modality in sorted({name.split("/")[0] for name in result["rows"]}, key=list(MODALITIES).index):
        sets = [weights for weights in _WEIGHTS if f"{modality}/{weights}" in result["rows"]]
        three = [result["rows"][f"{modality}/{weights}"] for weights in sets]
        rows: list[tuple[str, ...]] = [
            (_REFERENCE, f"{three[0]['reference']['mib']:.0f}", "1", *["1 / 1"] * len(three))
        ]
        for name in dict.fromkeys(name for row in three for name in row["tools"]):
            each = [row["tools"].get(name, {}) for row in three]
            told = next((one for one in each if one and "error" not in one), {"error": ""})
            rows.append((name, _number(told.get("mib"), 0), _times(told), *map(_cosines, each)))
        depth = three[0]["depth"]
        head = (f"{modality}, {depth} blocks", "MiB", "speed", *(_WEIGHTS[weights] for weights in sets))
        tables.append(table(head, rows) + _same(three))
    return "\n".join(tables) + note(result)


def _same(rows: list[dict[str, Any]]) -> str:
    """How far slimbind's plain tower is from the reference of the same weights."""
    most = max(row["tools"][PLAIN]["difference"] for row in rows)
    return f"\nThe greatest difference of {PLAIN}, from the reference, in any number of any vector: {most:.0e}.\n"


def cold_start() -> str:
    """From nothing to the first embedding of a picture: the whole model, and one tower of it."""
    result = read("cold_start")
    rows = [
        (
            row["row"],
            f"{row['disk_mib']:.0f}",
            f"{row['cached_seconds']:.1f}",
            f"{row['from_disk_seconds']:.1f}" if "from_disk_seconds" in row else "-",
            f"{row['cached_cpu_seconds']:.1f}",
            f"{row['peak_mib']:.0f}",
            f"{row['steady_mib']:.0f}",
            _cosines(row),
        )
        for row in result["rows"]
    ]
    head = (
        "opened",
        "files, MiB",
        "first vector after, s",
        "... files not cached",
        "CPU-s",
        "most memory, MiB",
        "memory after some more, MiB",
        "cosine mean / min",
    )
    return table(head, rows) + f"\nMedians of {result['rounds']} rounds.\n" + note(result)


def cold_start_short() -> str:
    """The same for the front page: what people wait for, and what it takes."""
    result = read("cold_start")
    rows = [
        (row["row"], f"{row['disk_mib']:.0f}", f"{row['cached_seconds']:.1f}", f"{row['peak_mib']:.0f}", _cosines(row))
        for row in result["rows"]
    ]
    head = ("opened", "files, MiB", "first vector after, s", "most memory, MiB", "cosine mean / min")
    return table(head, rows) + note(result)


def split() -> str:
    """What taking a checkpoint apart costs."""
    result = read("split")
    rows = [
        (
            f"{row['checkpoint_bytes'] / _MIB:.0f}",
            f"{row['largest_tower_bytes'] / _MIB:.0f}",
            f"{row['peak_bytes'] / _MIB:.0f}",
            f"{row['peak_of_imports_bytes'] / _MIB:.0f}",
            f"{row['seconds']:.0f}",
        )
        for row in sorted(result["rows"], key=lambda row: row["seconds"])[len(result["rows"]) // 2 :][:1]
    ]
    head = ("checkpoint, MiB", "largest tower", "most memory, MiB", "of that, Python and imports", "seconds")
    return table(head, rows) + note(result)


def paper(number: str) -> str:
    """One of the paper's Tables I to VII."""
    result = read("paper_tables")
    found = result["tables"][number]
    rows: list[tuple[str, ...]] = []
    for name, row in found["rows"].items():
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
    return f"Table {number}: {found['title']}\n\n{table(head, rows)}{after}{_depth(result)}{note(result)}"


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
        return f"failed: {told['error'][:80].removesuffix(' with a message:')}"
    return f"{told['cosine_mean']:.5f} / {told['cosine_min']:.5f}" if "cosine_mean" in told else "-"


def _depth(result: dict[str, Any]) -> str:
    return f"\nTowers of {result['depth']} blocks only.\n" if result.get("depth") else ""
