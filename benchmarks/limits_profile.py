"""Where the time of a pass goes, by OpenVINO's own counters; the part ``--profile`` of ``limits.py``."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fullsize_schemes import SCHEMES, artifact, example, opened
from slimbind.runtime import quiet
from slimbind.runtime.engine import single_file

if TYPE_CHECKING:
    from limits import Case

RUNS = 15
# Settings of an opened tower that are given to the copy that counts.
_SETTINGS = (
    "NUM_STREAMS",
    "PERFORMANCE_HINT",
    "ENABLE_CPU_PINNING",
    "INFERENCE_NUM_THREADS",
    "INFERENCE_PRECISION_HINT",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE",
)
_COUNTING = {"PERF_COUNT": True, "CPU_RUNTIME_CACHE_CAPACITY": 0}


def profile(cache: Path, case: Case) -> dict[str, Any]:
    """Scheme -> milliseconds of all, and by the engine's names: wall time of one thread, the median of some runs."""
    found: dict[str, Any] = {}
    for scheme in SCHEMES:
        made = artifact(cache, case.modality, case.depth, scheme)
        session = opened(made, case.modality)
        settings = {name: session._compiled.get_property(name) for name in _SETTINGS}  # type: ignore[attr-defined]
        session.close()
        core = quiet.openvino().Core()
        model = core.read_model(single_file(made.folder, made.tower(case.modality), ".xml"))
        request = core.compile_model(model, "CPU", settings | _COUNTING).create_infer_request()
        x = example(case.modality, case.batch, tokens=case.tokens)
        runs = []
        for _ in range(RUNS + 1):
            request.infer({0: x})
            runs.append({item.node_name: item for item in request.profiling_info})
        nodes: dict[str, float] = {}
        for name, item in runs[-1].items():
            took = statistics.median(run[name].real_time.total_seconds() for run in runs[1:])
            label = f"{item.node_type} {item.exec_type}"
            nodes[label] = nodes.get(label, 0.0) + 1e3 * took
        total = sum(nodes.values())
        nodes = {name: took for name, took in sorted(nodes.items(), key=lambda pair: -pair[1]) if took >= 0.01}
        found[scheme] = {"ms": total, "nodes": nodes}
        print(f"{scheme:13} {total:7.1f} ms")
        for name, took in nodes.items():
            print(f"      {took:8.2f} {name}")
    return found
