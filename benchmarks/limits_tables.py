"""The tables of ``limits.py``: what one core can do, and what the towers' passes reach of it."""

from __future__ import annotations

from typing import Any

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
_CASES = {
    "vision": "vision, 4 blocks",
    "text-77": "text, 6 blocks, 77 tokens",
    "text-10": "text, 6 blocks, 10 tokens",
    "audio": "audio, 4 blocks, 3 clips",
    "depth": "depth, whole",
    "imu": "imu, whole",
}


def limits(result: dict[str, Any]) -> Table:
    """Every pass beside its floors."""
    rows = []
    for name, case in result["cases"].items():
        for scheme, told in case["schemes"].items():
            bound = "operations" if told["compute_floor_ms"] >= told["memory_floor_ms"] else "reading"
            rows.append(
                (
                    _CASES[name],
                    f"`{scheme}`",
                    _ms(told["ms"]),
                    f"{told['gop_per_s']:.0f}",
                    _ms(told["compute_floor_ms"]),
                    _ms(told["memory_floor_ms"]),
                    bound,
                    f"{100 * told['of_limit']:.0f} %",
                    f"{100 * told['of_limit_in_turns']:.0f} %",
                )
            )
    head = ("tower", "scheme", "CPU ms", "GOP/s", "operations, ms", "reading, ms", "bound by", "of the limit")
    head = (*head, "median of turns")
    return head, rows


def peaks(result: dict[str, Any]) -> Table:
    """GOP/s of products, by kind and engine; the fastest of each kind is bold."""
    products = result["limits"]["products"]
    best = {kind: max(_rates(products, kind=kind)) for kind in ("f32", "bf16", "int8")}
    columns = list(dict.fromkeys((row["kind"], row["engine"]) for row in products))
    rows = []
    for shape in dict.fromkeys(tuple(row["shape"]) for row in products):
        cells = []
        for kind, engine in columns:
            (rate,) = _rates(products, kind=kind, engine=engine, shape=list(shape))
            cells.append(f"**{rate:.0f}**" if rate == best[kind] else f"{rate:.0f}")
        rows.append((" x ".join(map(str, shape)), *cells))
    names = {"openvino": "OpenVINO", "torch": "PyTorch", "openvino per token": "OpenVINO, rounded per token"}
    return ("rows x inputs x outputs", *(f"{kind}, {names[engine]}" for kind, engine in columns)), rows


def _rates(products: list[dict[str, Any]], **wanted: object) -> list[float]:
    return [row["gop_per_s"] for row in products if all(row[name] == value for name, value in wanted.items())]


def memory(result: dict[str, Any]) -> Table:
    """GB/s of going through memory."""
    told = result["limits"]["bandwidth"]
    rows = [(f"read, {name}", f"{rate:.1f}") for name, rate in told["read"].items()]
    rows += [("copy, numpy", f"{told['copy']:.1f}"), ("`a = b + 3 c`, torch", f"{told['triad']:.1f}")]
    return ("512 MiB, one thread", "GB/s"), rows


def profile(result: dict[str, Any]) -> Table:
    """Where the time of a pass goes, in milliseconds and shares."""
    found = result["profile"]
    parts = list(dict.fromkeys(part for told in found.values() for part in told["parts"]))
    parts.sort(key=lambda part: -sum(told["parts"].get(part, 0.0) for told in found.values()))
    rows = []
    for part in parts:
        cells = []
        for told in found.values():
            took = told["parts"].get(part)
            cells.append("-" if took is None else f"{took:.1f} ({100 * took / told['ms']:.1f} %)")
        rows.append((part, *cells))
    rows.append(("all, ms", *(f"{told['ms']:.1f}" for told in found.values())))
    return ("part", *(f"`{scheme}`" for scheme in found)), rows


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
