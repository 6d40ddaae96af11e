"""How near does a forward pass come to what one core of this machine can do?

    python benchmarks/limits.py --cache FOLDER --make      # only make the towers: minutes
    python benchmarks/limits.py --cache FOLDER             # measure; --cases for some of it, what was measured stays
    python benchmarks/limits.py --cache FOLDER --profile   # only where the time goes, by the engine's own counters

**The limits** are measured, not read from a data sheet. Products of large matrices, and of the towers' shapes, in f32,
bf16 and int8, by OpenVINO and by PyTorch: the fastest product of each kind is the peak. A program that multiplies
faster than both would raise it. Reading: the fastest of several ways to go through half a gibibyte.

**A pass** is held to the larger of two floors: its operations (``operations.py``), each at the peak of the kind it is
computed in, and the bytes of its weights at the speed of reading. ``of_limit`` is that floor over the time it took.
Operations of layers with rounded weights count at the peak of their scheme, those of attention and of the patches'
kernel at that of bf16 (f32 in the f32 tower). int4-weight is held to bf16: its weights are unpacked and multiplied so.

Towers are full-size ones with random weights (``fullsize_schemes.py``); times are CPU seconds of one thread. A tower's
passes, the three fastest products of each kind and ways to read take turns in one process, so no pass finds its weights
in a cache that the one before it filled. ``of_limit`` holds the fastest pass to the fastest product of all turns: what
else the machine does can only make either slower. ``of_limit_in_turns`` is the median over the turns, each held to the
fastest of its own; where it differs much, the machine was not quiet.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from environment import environment, rounded
from fullsize_schemes import SCHEMES, artifact, example, opened
from operations import Work, count
from peers import Run, turns
from slimbind.runtime import quiet
from slimbind.runtime.engine import INPUT, Session

OUTPUT = Path(__file__).parent / "results" / "limits.json"
KINDS = ("f32", "bf16", "int8")
SQUARE = tuple((size, size, size) for size in (1024, 2048))
# Rows, inputs and outputs of the towers' layers: vision, text of 77 and of 10 tokens, imu. The first is what vision
# would be without its class token.
LAYERS = (
    (256, 1280, 5120),
    (257, 1280, 3840),
    (257, 1280, 5120),
    (257, 5120, 1280),
    (77, 1024, 4096),
    (10, 1024, 4096),
    (251, 512, 2048),
)
READ = 1 << 29  # bytes
TRIED = 3  # of the fastest products of a kind, and ways to read
# In what the layers of a scheme are multiplied, and how many bytes each of their weights has: 4-bit ones come with a
# scale of 2 bytes for 64 of them.
LAYERS_IN = {"f32": "f32", "bf16": "bf16", "int8-dynamic": "int8", "int8-static": "int8", "int4-weight": "bf16"}
WEIGHT_BYTES = {"f32": 4.0, "bf16": 2.0, "int8-dynamic": 1.0, "int8-static": 1.0, "int4-weight": 0.5 + 2 / 64}
Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A tower, so many of its blocks (None: all), and what goes in."""

    modality: str
    depth: int | None = None
    batch: int = 1
    tokens: int = 77


CASES = {
    "vision": Case("vision", 4),
    "text-77": Case("text", 6),
    "text-10": Case("text", 6, tokens=10),
    "audio": Case("audio", 4, batch=3),
    "depth": Case("depth"),
    "imu": Case("imu"),
}


def openvino_product(kind: str, rows: int, inner: int, columns: int, *, per_token: bool = False) -> Call:
    """A product with constant weights, as the towers' layers are.

    int8 rounds its inputs first, which is counted: in a fixed range, or ``per_token`` by what the row holds.
    """
    ov = quiet.openvino()
    op = ov.opset15
    rng = np.random.default_rng(0)
    given = left = op.parameter([rows, inner], np.float32)
    settings: dict[str, Any] = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
    settings["INFERENCE_PRECISION_HINT"] = "bf16" if kind == "bf16" else "f32"
    if kind == "int8":
        codes = op.constant(rng.integers(-127, 128, (columns, inner)).astype(np.int8))
        right = op.multiply(op.convert(codes, "f32"), op.constant(np.full((columns, 1), 1e-3, np.float32)))
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = inner if per_token else 0
        if not per_token:
            low, high = op.constant(np.float32(-4 * 128 / 127)), op.constant(np.float32(4))
            left = op.fake_quantize(given, low, high, low, high, 256)
    else:
        right = op.constant(rng.standard_normal((columns, inner)).astype(np.float32))
    x = rng.standard_normal((rows, inner)).astype(np.float32)
    model = ov.Model([op.matmul(left, right, False, True)], [given])
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer({0: x}, share_inputs=True, share_outputs=True)


def torch_product(kind: str, rows: int, inner: int, columns: int) -> Call:
    """The same by PyTorch, weights in the order of a linear layer's."""
    if kind == "int8":
        left = torch.randint(-127, 128, (rows, inner), dtype=torch.int8)
        right = torch.randint(-127, 128, (columns, inner), dtype=torch.int8).t()
        return lambda: torch._int_mm(left, right)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
    return lambda: torch.nn.functional.linear(a, b)


ENGINES: dict[str, Callable[..., Call]] = {
    "openvino": openvino_product,
    "torch": torch_product,
    "openvino per token": partial(openvino_product, per_token=True),  # int8 alone
}


def products() -> list[dict[str, Any]]:
    """GOP/s of every product: the median of some runs."""
    rows = []
    for shape in [*SQUARE, *LAYERS]:
        for kind in KINDS:
            for engine, make in list(ENGINES.items())[: 3 if kind == "int8" else 2]:
                call = make(kind, *shape)
                took = statistics.median(seconds(call, runs=5 if shape in SQUARE else 15))
                gops = 2 * np.prod(shape, dtype=np.int64) / took / 1e9
                rows.append({"kind": kind, "engine": engine, "shape": list(shape), "gop_per_s": round(float(gops), 1)})
                print(rows[-1], flush=True)
    return rows


def seconds(call: Call, runs: int) -> list[float]:
    """CPU seconds of each run, after one that is not counted."""
    call()
    found = []
    for _ in range(runs):
        started = time.process_time()
        call()
        found.append(time.process_time() - started)
    return found


def reading() -> dict[str, Call]:
    """Ways to read ``READ`` bytes."""
    import faiss

    block = np.ones(READ // 4, np.float32)
    matrix = block.reshape(-1, 512)
    tensor, query = torch.from_numpy(block), np.ones((1, 512), np.float32)
    index = faiss.IndexFlatIP(512)
    index.add(matrix)
    return {
        "numpy max": block.max,
        "numpy sum": block.sum,
        "numpy matrix by vector": lambda: matrix @ query[0],
        "torch max": tensor.max,
        "torch sum": tensor.sum,
        "faiss flat": lambda: index.search(query, 1),
    }


def bandwidth() -> dict[str, Any]:
    """GB/s of reading, by each way; of copying and of ``a = b + s * c``, bytes read and written together."""
    ways = {name: READ / statistics.median(seconds(call, 7)) / 1e9 for name, call in reading().items()}
    b, c = torch.ones(READ // 4), torch.ones(READ // 4)
    a = torch.empty_like(b)
    copy = 2 * READ / statistics.median(seconds(lambda: np.copyto(a.numpy(), b.numpy()), 7)) / 1e9
    triad = 3 * READ / statistics.median(seconds(lambda: torch.add(b, c, alpha=3.0, out=a), 7)) / 1e9
    found = {"read": {name: round(value, 2) for name, value in ways.items()}}
    return found | {"copy": round(copy, 2), "triad": round(triad, 2)}


def fastest(limits: dict[str, Any]) -> dict[str, list[tuple[int, Call]]]:
    """Of each kind the fastest products, with their operations; the fastest ways to read, with the bytes."""
    found: dict[str, list[tuple[int, Call]]] = {}
    for kind in KINDS:
        rows = sorted((row for row in limits["products"] if row["kind"] == kind), key=lambda row: -row["gop_per_s"])
        found[kind] = [
            (2 * int(np.prod(row["shape"], dtype=np.int64)), ENGINES[row["engine"]](kind, *row["shape"]))
            for row in rows[:TRIED]
        ]
    ways, read = reading(), limits["bandwidth"]["read"]
    return found | {"read": [(READ, ways[name]) for name in sorted(read, key=lambda name: -read[name])[:TRIED]]}


def passes(case: Case, limits: dict[str, Any], cache: Path, rounds: int) -> dict[str, Any]:
    """Every scheme's passes of one tower, and what they reach of the limit."""
    made = {scheme: artifact(cache, case.modality, case.depth, scheme) for scheme in SCHEMES}
    sessions = {scheme: opened(one, case.modality) for scheme, one in made.items()}
    x = example(case.modality, case.batch, tokens=case.tokens)
    work = count(case.modality, made["f32"].tower(case.modality).config, x.shape)
    tried = fastest(limits)
    runs: dict[str, Run] = {scheme: partial(_pass, session) for scheme, session in sessions.items()}
    runs |= {f"limit {kind} {n}": _plain(call) for kind, some in tried.items() for n, (_, call) in enumerate(some)}
    times = turns(runs, x, rounds)
    # Kind -> what the fastest of those that were tried did in each turn.
    rates = {
        kind: [
            max(amount / times[f"limit {kind} {n}"][turn] for n, (amount, _) in enumerate(some))
            for turn in range(rounds)
        ]
        for kind, some in tried.items()
    }
    best = {kind: max(found) for kind, found in rates.items()}
    schemes = {}
    for scheme, session in sessions.items():
        in_turns = [
            max(floors(work, scheme, {kind: found[turn] for kind, found in rates.items()})) / took
            for turn, took in enumerate(times[scheme])
        ]
        took, (compute, memory) = min(times[scheme]), floors(work, scheme, best)
        schemes[scheme] = {
            "ms": 1e3 * took,
            "median_ms": 1e3 * statistics.median(times[scheme]),
            "gop_per_s": work.total / took / 1e9,
            "weights_gb_per_s": work.weights * WEIGHT_BYTES[scheme] / took / 1e9,
            "compute_floor_ms": 1e3 * compute,
            "memory_floor_ms": 1e3 * memory,
            "of_limit": max(compute, memory) / took,
            "of_limit_in_turns": statistics.median(in_turns),
            "of_limit_in_turns_range": [min(in_turns), max(in_turns)],
        }
        session.close()
        print(f"{case.modality:8} {scheme:13} {json.dumps(rounded(schemes[scheme]))}", flush=True)
    return {
        "case": asdict(case),
        "shape": list(x.shape),
        "operations": asdict(work),
        "limits": {kind: {"best": best[kind] / 1e9, "median": statistics.median(rates[kind]) / 1e9} for kind in rates},
        "schemes": schemes,
    }


def _pass(session: Session, x: np.ndarray) -> np.ndarray:
    return session.run({INPUT: x})


def _plain(call: Call) -> Run:
    return lambda _: call()  # type: ignore[return-value]


def floors(work: Work, scheme: str, rates: dict[str, float]) -> tuple[float, float]:
    """Seconds that the operations of a pass take at the peak, and that reading its weights takes."""
    rest = "f32" if scheme == "f32" else "bf16"
    compute = work.linear / rates[LAYERS_IN[scheme]] + (work.attention + work.stem) / rates[rest]
    return compute, work.weights * WEIGHT_BYTES[scheme] / rates["read"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="where the towers are kept")
    parser.add_argument("--make", action="store_true", help="only make the towers")
    parser.add_argument("--profile", action="store_true", help="only say where the time goes")
    parser.add_argument("--cases", default=",".join(CASES), help="some of %(default)s")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--again", action="store_true", help="measure the limits again, too")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    names = args.cases.split(",")
    if unknown := set(names) - set(CASES):
        parser.error(f"no such cases: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    if args.make:
        for case in (CASES[name] for name in names):
            for scheme in SCHEMES:
                artifact(args.cache, case.modality, case.depth, scheme)
        return 0
    record: dict[str, Any] = json.loads(args.output.read_text()) if args.output.exists() else {}

    def keep() -> None:
        told = {"benchmark": "limits", "command": "python benchmarks/limits.py --cache FOLDER"}
        told["environment"] = environment("torch", "openvino", "numpy", "faiss-cpu", threads=1)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(rounded(record | told), indent=1) + "\n")

    if args.profile:
        from limits_profile import profile

        record["profile"] = profile(args.cache, CASES["vision"])
        keep()
        return 0
    if args.again or "limits" not in record:
        record["limits"] = {"products": products(), "bandwidth": bandwidth()}
        keep()
    for name in names:
        record.setdefault("cases", {})[name] = passes(CASES[name], record["limits"], args.cache, args.rounds)
        keep()
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
