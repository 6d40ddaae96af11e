"""The tables of CLIP ViT-B/32: other tools on the same towers, and the report's tables again; see tables.py."""

from __future__ import annotations

from typing import Any

from markdown import note, read, table

_SETS = {"plain": "plain", "balanced": "with outlier channels"}
_TOWERS = {"vision": "picture tower", "text": "text tower"}
NAMES = {"f32": "f32", "report": "the report's recipe"}
_DIFFERENCE = " difference"


def peers(modality: str) -> str:
    """One tower, every tool: size, speed, and what it keeps on both sets of weights."""
    result = read("clip_peers")
    sets = [weights for weights in _SETS if f"{modality}/{weights}" in result["rows"]]
    each = {weights: result["rows"][f"{modality}/{weights}"] for weights in sets}
    first = each[sets[0]]
    timed = [kind for kind in ("full", "short") if kind in first["reference"]]
    rows = [
        ("open_clip, eager fp32", f"{first['reference']['mib']:.0f}", *(_milliseconds(first, kind) for kind in timed))
    ]
    rows[0] += ("",) * (2 * len(sets))
    for name in first["tools"]:
        told = first["tools"][name]
        size = f"{told['mib']:.0f}" if "mib" in told else "-"
        kept = [cell for weights in sets for cell in _kept(each[weights]["tools"].get(name, {}))]
        rows.append((name, size, *(_ratio(told, kind) for kind in timed), *kept))
    said = {
        "full": "speed" if len(timed) == 1 else "speed, 77 tokens",
        "short": f"as sent, {first['reference'].get('short', {'shape': [1, 0]})['shape'][1]} tokens",
    }
    kinds = [f"{what}, {_SETS[weights]}" for weights in sets for what in ("cosine mean / min", "mean-subtracted")]
    return table((_TOWERS[modality], "MiB", *(said[kind] for kind in timed), *kinds), rows) + note(result)


def _milliseconds(row: dict[str, Any], kind: str) -> str:
    return f"{1000 * row['reference'][kind]['cpu_seconds']:.0f} ms"


def _ratio(told: dict[str, Any], kind: str) -> str:
    if kind not in told:
        return "failed" if "error" in told else "-"
    low, high = told[kind]["ratio_range"]
    return f"{told[kind]['ratio']:.2f}x ({low:.2f}-{high:.2f})"


def _kept(told: dict[str, Any]) -> tuple[str, str]:
    if "error" in told or not told:
        return told.get("error", "-")[:60], ""
    return tuple(f"{told[f'{kind}_mean']:.4f} / {told[f'{kind}_min']:.4f}" for kind in ("cosine", "centred"))  # type: ignore[return-value]


def linear_probe() -> str:
    """Table 1: logistic regression on embeddings, float and quantized."""
    result = read("clip_report")
    rows, items = [], {}
    for weights, told in _of(result, "probe"):
        sizes = {
            record["model"]: record["measures"]["vision bytes"]["value"] for record in told if record["task"] == "size"
        }
        for record in told:
            if record["task"] == "linear-probe":
                found, name, items = record["measures"], record["model"], record["settings"]
                rows.append(
                    (
                        _SETS[weights],
                        NAMES.get(name, f"`{name}`"),
                        f"{sizes[name] / 2**20:.0f}",
                        _percent(found["top-1"]),
                        _points(found, "top-1"),
                    )
                )
    probe = f"linear probe, CIFAR-10 ({items['test_items']:,}, fitted on {items['train_items']:,})"
    head = ("weights", "picture tower", "MiB", probe, "difference to float, points")
    return table(head, rows) + note(result)


def mix() -> str:
    """Table 2: the share of queries with the float model's answer, where one tower or both are quantized."""
    result = read("clip_report")
    rows = []
    for weights, told in _of(result, "mix"):
        found = {record["model"]: record["measures"] for record in told if record["task"] == "retrieval"}
        for name in (name for name in found if "(" not in name and name != "f32"):
            mixes = {"pictures": f"{name} (vision only)", "texts": f"{name} (text only)", "both": name}
            for what, model in mixes.items():
                cells = [
                    _percent(found[model][f"{direction} R@{k}"], interval=k == 1)
                    for direction in ("text to vision", "vision to text")
                    for k in (1, 5)
                ]
                rows.append((_SETS[weights], NAMES.get(name, f"`{name}`"), what, *cells))
    directions = [f"{direction} {k}" for direction in ("text to picture, R@", "picture to text, R@") for k in (1, 5)]
    head = ("weights", "scheme", "quantized", *(one.replace("@ ", "@") for one in directions))
    return table(head, rows) + note(result)


def heatmap() -> str:
    """Figure 3 in numbers: how far cosines of pictures and sentences move."""
    result = read("clip_report")
    rows = []
    for weights, told in _of(result, "heatmap"):
        for record in told:
            if record["task"] == "similarity":
                found = record["measures"]
                keys = ("mean absolute difference", "mean shift", "pattern difference")
                cells = [f"{found[key]['value']:.4f}" for key in keys if key in found]
                name = NAMES.get(record["model"], f"`{record['model']}`")
                rows.append((_SETS[weights], name, *cells, _percent(found["same best column"], interval=False)))
    head = ("weights", "scheme", "mean absolute difference", "mean shift", "pattern difference", "same best sentence")
    return table(head, rows) + note(result)


def _of(result: dict[str, Any], step: str) -> list[tuple[str, list[dict[str, Any]]]]:
    return [
        (weights, result["rows"][f"{step}/{weights}"]) for weights in _SETS if f"{step}/{weights}" in result["rows"]
    ]


def _percent(told: dict[str, Any], *, interval: bool = True) -> str:
    value = f"{100 * told['value']:.1f} %"
    if not interval or told.get("low") is None:
        return value
    return f"{value} ({100 * told['low']:.1f}-{100 * told['high']:.1f})"


def _points(found: dict[str, Any], name: str) -> str:
    told = found.get(name + _DIFFERENCE)
    if told is None:
        return ""
    return f"{100 * told['value']:+.1f} ({100 * told['low']:+.1f} to {100 * told['high']:+.1f})"
