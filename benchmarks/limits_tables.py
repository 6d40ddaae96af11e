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
            rows.append(
                (
                    _CASES[name],
                    f"`{scheme}`",
                    _ms(told["ms"]),
                    f"{told['gop_per_s']:.0f}",
                    _ms(told["compute_floor_ms"]),
                    _ms(told["memory_floor_ms"]),
                    f"{100 * told['of_limit']:.0f} %",
                    f"{100 * told['of_limit_in_turns']:.0f} %",
                )
            )
    head = ("tower", "scheme", "CPU ms", "GOP/s", "operations, ms", "reading, ms", "of the limit", "median of turns")
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


# What the engine calls its layers -> what we call them. GELU and the rounding per token are inside of the products.
_PARTS = {
    "products with weights": ("FullyConnected", "FullyConnectedCompressed", "FullyConnectedQuantizedLegacy"),
    "attention, and the patches' kernel": ("MatMul", "Softmax", "Transpose", "VariadicSplit"),
    "LayerNorm": ("MVN", "MulAdd"),
    "sums and scales": ("Add", "Multiply"),
}
_REST = "the rest"


def profile(result: dict[str, Any]) -> Table:
    """Where the time of a pass goes, in milliseconds and shares."""
    found = result["profile"]
    part_of = {node: part for part, nodes in _PARTS.items() for node in nodes}
    spent: dict[str, dict[str, float]] = {part: dict.fromkeys(found, 0.0) for part in (*_PARTS, _REST)}
    for scheme, told in found.items():
        for node, took in told["nodes"].items():
            spent[part_of.get(node.split()[0], _REST)][scheme] += took
    rows = [
        (part, *(f"{took:.1f} ({100 * took / found[scheme]['ms']:.1f} %)" for scheme, took in times.items()))
        for part, times in spent.items()
    ]
    rows.append(("all", *(f"{told['ms']:.1f}" for told in found.values())))
    return ("part, ms", *(f"`{scheme}`" for scheme in found)), rows


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
