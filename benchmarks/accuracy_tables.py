"""The tables of what mini is worth on real pictures in every scheme and codec, of recipes/mini/accuracy.json."""

from __future__ import annotations

import json
from typing import Any

from environment import ROOT
from markdown import note, table

WAYS = ("text to picture", "picture to text")
SETS = ("unseen", "photographs", "emoji")
DEPTHS = ("R@1", "R@5", "R@10")
Measured = dict[str, Any]


def result() -> Measured:
    """What `recipes/mini/accuracy.py` wrote."""
    found: Measured = json.loads((ROOT / "recipes" / "mini" / "accuracy.json").read_text(encoding="utf-8"))
    return found


def schemes() -> str:
    """Zero-shot accuracy of every scheme."""
    found = result()
    head = ["scheme", "MiB"]
    rows = [[row["scheme"], f"{sum(row['bytes'].values()) / 2**20:.1f}"] for row in found["schemes"]]
    for step, data in _run(found, ("schemes", "CIFAR-10"), ("fashion", "Fashion-MNIST")):
        many = f"{found[step][0]['photo']['items']:,}"
        head += [f"{data} ({many}), one sentence", "to f32", "80 sentences", "to f32"]
        for cells, row in zip(rows, found[step], strict=True):
            for sentences in ("photo", "imagenet80"):
                cells += [share(row[sentences], "top-1"), difference(row[sentences], "top-1")]
    return table(head, rows) + _note(found, "schemes", "fashion")


def probe() -> str:
    """Linear probes on every scheme."""
    found = result()
    head = ["scheme", "pictures: MiB"]
    rows = [[row["scheme"], f"{row['bytes']['vision'] / 2**20:.1f}"] for row in found["schemes"]]
    for step, data in _run(found, ("probe", "CIFAR-10"), ("fashion_probe", "Fashion-MNIST")):
        first = found[step][0]
        head += [f"{data} ({first['items']:,}, fitted on {first['trained on']:,})", "to f32"]
        for cells, row in zip(rows, found[step], strict=True):
            cells += [share(row, "top-1"), difference(row, "top-1")]
    return table(head, rows) + _note(found, "probe", "fashion_probe")


def mix() -> str:
    """The picture tower, the text tower, or both in a scheme."""
    found = result()
    head = ["scheme", "of", "CIFAR-10"]
    for told in ("drawings", "photographs", "emoji"):
        head += [f"{told}: {WAYS[0]}", WAYS[1]]
    rows = []
    for row in found["mix"]:
        cells = [row["scheme"], "" if row["towers"] == "none" else row["towers"], marked(row["cifar"], "top-1")]
        for data in SETS:
            cells += [" / ".join(marked(row[f"{data}, {way}"], depth) for depth in DEPTHS) for way in WAYS]
        rows.append(cells)
    return table(head, rows) + _note(found, "mix")


def codecs() -> str:
    """Codes of float32's vectors."""
    found = result()
    head = ["codec", "fitted", "bytes"]
    for told in (*WAYS, "CIFAR-10"):
        head += [told, "R@10 to f32" if told in WAYS else "to f32"]
    rows = []
    for row in _by_size(found, "f32"):
        cells = [f"`{row['codec']}`", "yes" if row["fitted"] else "no", str(row["bytes"])]
        for each in (row[f"all, {way}"] for way in WAYS):
            cells += [" / ".join(marked(each, depth) for depth in DEPTHS), difference(each, "R@10")]
        cells += [share(row["cifar"], "top-1"), difference(row["cifar"], "top-1")] if "cifar" in row else ["", ""]
        rows.append(cells)
    return table(head, rows) + _note(found, "codecs")


def crossed() -> str:
    """Schemes and codecs at once."""
    found = result()
    names = list(dict.fromkeys(row["scheme"] for row in found["codecs"] + found["crossed"]))
    by_name = {name: _by_size(found, name) for name in names}
    head = ["codec", "fitted", "bytes"]
    for name in names:
        head += [f"{name}: CIFAR-10", "text to picture, R@10"]
    rows = []
    for together in zip(*by_name.values(), strict=True):
        row = together[0]
        cells = [f"`{row['codec']}`", "yes" if row["fitted"] else "no", str(row["bytes"])]
        for each in together:
            cells += [both(each["cifar"], "top-1") if "cifar" in each else "", both(each[f"all, {WAYS[0]}"], "R@10")]
        rows.append(cells)
    return table(head, rows) + _note(found, "codecs", "crossed")


def _run(found: Measured, *steps: tuple[str, str]) -> list[tuple[str, str]]:
    """Those of the steps that were run."""
    return [step for step in steps if step[0] in found]


def _note(found: Measured, *steps: str) -> str:
    """What measured these steps, and where."""
    commands = dict.fromkeys(found["commands"][step] for step in steps if step in found)
    return note(found | {"command": "`, `".join(commands)})


def _by_size(found: Measured, scheme: str) -> list[Measured]:
    rows = [row for row in found["codecs"] + found["crossed"] if row["scheme"] == scheme]
    return sorted(rows, key=lambda row: (-row["bytes"], row["codec"], row["fitted"]))


def share(measured: Measured, name: str) -> str:
    """Per cent, and half of the interval's width."""
    value, low, high = measured[name]
    return f"{_percent(value)} ± {_percent((high - low) / 2)}"


def difference(measured: Measured, name: str) -> str:
    """Points more than float32, bold where the interval says worse."""
    told: list[float] | None = measured.get(f"{name} difference")
    if told is None:
        return ""
    value, low, high = told
    text = f"{round(100 * value, 1) + 0.0:+.1f} ± {_percent((high - low) / 2)}"  # + 0.0: never -0.0
    return f"**{text}**" if high < 0 else text


def both(measured: Measured, name: str) -> str:
    """Per cent, and in brackets points more than float32."""
    told = difference(measured, name)
    return _percent(measured[name][0]) + (f" ({told})" if told else "")


def marked(measured: Measured, name: str) -> str:
    """Per cent, bold where the interval of the difference says worse."""
    low_high: list[float] | None = measured.get(f"{name} difference")
    text = _percent(measured[name][0])
    return f"**{text}**" if low_high is not None and low_high[2] < 0 else text


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
