"""The rows of ``results/search.json`` and ``results/real-gap.json`` as the documentation shows them."""

from __future__ import annotations

from typing import Any

from search_peers import PEERS
from slimbind.codecs import parse

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
_PARTS = {"none": "no", "full": "yes"}


def searched(result: dict[str, Any], documents: int) -> Table:
    """Bytes, recall and times of every index of one size, the smallest first; ablations are left out."""
    rows = [row for row in result["rows"] if row["documents"] == documents and row["part"] in _PARTS]
    rows.sort(key=lambda row: (row["bytes_per_vector"], row["library"] != "slimbind", row["name"], row["part"]))
    best = frontier(rows)
    head = (
        "codec or library",
        "transform",
        "bytes",
        "grown by",
        "recall@10",
        "recall@100",
        "one query, ms",
        f"floor at {result['bandwidth_gb_s']:.0f} GB/s, ms",
        "queries/s",
        "build, s",
    )
    return head, [
        (
            f"**{_named(row)}**" if id(row) in best else _named(row),
            _PARTS[row["part"]] if row["library"] == "slimbind" else "",
            f"{row['bytes_per_vector']:.0f}",
            "" if row.get("grown_per_vector") is None else f"{row['grown_per_vector']:.0f}",
            f"{row['recall10']:.3f}",
            f"{row['recall100']:.3f}",
            f"{row['single_ms']:.2f}",
            "" if (least := floor(row, result["bandwidth_gb_s"])) is None else f"{least:.2f}",
            f"{row['batch_per_s']:.0f}",
            f"{row['build_s']:.0f}",
        )
        for row in rows
    ]


def floor(row: dict[str, Any], bandwidth: float) -> float | None:
    """Milliseconds in which one thread reads the codes that a query looks at, at ``bandwidth`` GB/s; None: a graph."""
    if row["library"] == "slimbind":
        read = float(parse(row["name"].split(" ")[0].rstrip(","), row["dim"]).coarse_bytes)
        if row.get("lists"):
            read *= row["probes"] / row["lists"]
    else:
        (share,) = (peer.scanned for peer in PEERS if (peer.package, peer.name) == (row["library"], row["name"]))
        if share is None:
            return None
        read = share * row["bytes_per_vector"]
    return float(read * row["documents"] / bandwidth / 1e6)


def frontier(rows: list[dict[str, Any]]) -> set[int]:
    """Which rows no other beats in bytes, recall and time of one query at once."""

    def beats(a: dict[str, Any], b: dict[str, Any]) -> bool:
        better = (
            a["bytes_per_vector"] <= b["bytes_per_vector"],
            a["recall10"] >= b["recall10"],
            a["single_ms"] <= b["single_ms"],
        )
        return all(better) and (a["bytes_per_vector"], a["recall10"], a["single_ms"]) != (
            b["bytes_per_vector"],
            b["recall10"],
            b["single_ms"],
        )

    return {id(row) for row in rows if not any(beats(other, row) for other in rows)}


def _named(row: dict[str, Any]) -> str:
    if row["library"] != "slimbind":
        return f"{row['library']}: {row['name']}"
    name, _, more = row["name"].partition(" ")
    lists = f" ({row['probes']} of {row['lists']})" if row.get("lists") else ""
    return f"`{name.rstrip(',')}`" + ("," if name.endswith(",") else "") + (f" {more}" if more else "") + lists


def gains(result: dict[str, Any]) -> Table:
    """Recall with and without the transform at equal bytes, and how many times it could be at most."""
    found: dict[tuple[int, str], dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        if row["library"] == "slimbind" and row["asked_probes"] is None:
            found.setdefault((row["documents"], row["name"]), {})[row["part"]] = row
    head = ("documents", "codec", "bytes", "without", "with", "ratio", "of at most")
    rows = []
    for (documents, name), parts in sorted(found.items(), key=lambda item: item[0]):
        if "none" in parts and "full" in parts:
            before, after = parts["none"]["recall10"], parts["full"]["recall10"]
            size = f"{parts['full']['bytes_per_vector']:.0f}"
            rows.append(
                (
                    f"{documents:,}",
                    f"`{name}`",
                    size,
                    f"{before:.3f}",
                    f"{after:.3f}",
                    f"{after / before:.2f}x",
                    f"{1 / before:.2f}x",
                )
            )
    return head, rows


def ablation(result: dict[str, Any]) -> Table:
    """Recall of parts of the transform."""
    names = {"none": "nothing", "rotation": "rotation", "centring": "rotation, centring", "full": "the whole"}
    names |= {"no-mean": "rotation, centring, mean term left out"}
    codecs = [name for name in ("rabitq1", "sq4") if any(row["name"] == name for row in result["rows"])]
    rows = []
    for part, told in names.items():
        cells = [told]
        for codec in codecs:
            hit = [
                row for row in result["rows"] if (row["name"], row["part"], row["documents"]) == (codec, part, 100_000)
            ]
            cells.append(f"{hit[0]['recall10']:.3f}" if hit else "")
        if any(cells[1:]):
            rows.append(tuple(cells))
    return ("transform", *(f"`{codec}`" for codec in codecs)), rows


def real(result: dict[str, Any]) -> Table:
    """Error and agreement of one-bit codes of real embeddings."""
    head = ("queries", "fitted on", "predicted gain", "error: raw", "centred", "transformed")
    head += ("agreement: raw", "centred", "transformed")
    rows = []
    for row in result["rows"]:
        pictures, queries = row["fitted_on"]
        steps = ("raw", "centred", "transformed")
        cells = [f"{row[step]['error']:.3f}" for step in steps] + [f"{row[step]['agreement']:.3f}" for step in steps]
        rows.append((row["queries"], f"{pictures} + {queries}", f"{row['predicted_gain']:.2f}", *cells))
    return head, rows
