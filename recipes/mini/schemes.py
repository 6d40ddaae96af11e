"""Which scheme suits mini? Every one on both towers: size, time and agreement with float32, into `schemes.json`.

    python recipes/mini/split.py mini-split && python recipes/mini/schemes.py mini-split       (some minutes)

Each scheme is made as `slimbind quantize` makes it, from pictures and texts that nothing is judged by. Times are CPU
milliseconds for one picture and one sentence on one thread, all engines asked in turns; agreement is with the float32
towers (OpenVINO, f32) on the pictures of ``sets.judge`` and on names and glosses. Of every input the embedding alone is
compared with the one in a batch of eight, too. ``python benchmarks/tables.py`` writes the table into README.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import sets
import wordnet

import towers
from slimbind.artifact import Artifact
from slimbind.evaluate import fidelity
from slimbind.export.job import export
from slimbind.quantize.job import quantize
from slimbind.quantize.schemes import Int4Weight, Int8Dynamic, Int8Static, Int8Weight, Mixed, Scheme
from slimbind.runtime.engine import INPUT, Options, Session
from slimbind.runtime.engine import engine as runtime_engine
from split import SHIPPED, shipped_tokenizer

HERE = Path(__file__).parent
CALIBRATED, QAT_ITEMS, QAT_STEPS = 48, 320, 60
ROUNDS = 40
SENTENCES = 300  # to calibrate with, and as many to judge by
SCHEMES: dict[str, Scheme] = {
    "int8-weight": Int8Weight(),
    "int8-dynamic": Int8Dynamic(),
    "int8-static plain": Int8Static(plain=True),
    "int8-static": Int8Static(),
    "int8-static plain, fine-tuned": Int8Static(plain=True, qat_steps=QAT_STEPS),
    "int8-weight, fine-tuned": Int8Weight(qat_steps=QAT_STEPS),
    "int4-weight": Int4Weight(),
    "mixed, least .995": Mixed(min_fidelity=0.995),
}


def main() -> None:
    """Make, run and compare them all."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("split", type=Path, help="what split.py wrote")
    arguments.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "slimbind-mini")
    arguments.add_argument("--work", type=Path, help="keep artifacts here, and take those that are there")
    arguments.add_argument("--output", type=Path, default=HERE / "schemes.json")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        made = dict(make(options.split, options.cache, work))
        rows = compare(made, judged(options.cache))
    sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))
    from environment import environment

    record = {
        "benchmark": "mini_schemes",
        "command": "python recipes/mini/schemes.py mini-split",
        "environment": environment("torch", "openvino", threads=1),
        "rows": rows,
    }
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.output}")


def make(split: Path, cache: Path, work: Path) -> Iterator[tuple[str, Artifact]]:
    """Every row's name and artifact: float32 first."""
    pictures, sentences = work / "vision.npz", work / "text.txt"
    if not pictures.exists():
        np.savez(pictures, vision=sets.tensor(sets.learn(cache)[: 2 * QAT_ITEMS]).numpy())
        sentences.write_text("\n".join(_sentences(cache)[0]), encoding="utf-8")
    for dtype in ("f32", "bf16"):
        folder = work / dtype
        yield dtype, Artifact.open(folder) if folder.exists() else export(split, folder, dtype=dtype)
    yield "as shipped", Artifact.open(SHIPPED)
    for name, scheme in SCHEMES.items():
        folder = work / re.sub(r"\W+", "-", name)
        if not folder.exists():
            started = time.process_time()
            data = {"vision": pictures, "text": sentences}
            quantize(
                split,
                folder,
                scheme=scheme,
                modalities=data,
                calibrate=[f"{modality}={path}" for modality, path in data.items()],
                samples=QAT_ITEMS if getattr(scheme, "qat_steps", 0) else CALIBRATED,
                force=True,
                threads=2,
                note=print,
            )
            print(f"{name}: {time.process_time() - started:.0f} CPU-s", flush=True)
        yield name, Artifact.open(folder)


def judged(cache: Path) -> dict[str, list[np.ndarray]]:
    """Modality -> single inputs ``[1, ...]``."""
    ids = towers.encode(shipped_tokenizer(), _sentences(cache)[1])
    images = np.concatenate(list(sets.judge(cache).values()))
    return {
        "vision": [np.ascontiguousarray(sets.tensor(image[None]).numpy()) for image in images],
        "text": [np.array([row], np.int32) for row in ids],
    }


def _sentences(cache: Path) -> tuple[list[str], list[str]]:
    """Sentences to calibrate with, and others to judge by: words and definitions of WordNet."""
    lines = wordnet.texts(cache)
    chosen = np.random.default_rng(0).permutation(len(lines))[: 2 * SENTENCES]
    found = [lines[place] for place in chosen]
    return found[:SENTENCES], found[SENTENCES:]


def compare(made: dict[str, Artifact], inputs: dict[str, list[np.ndarray]]) -> list[dict[str, Any]]:
    """A row for each tower of each artifact; the first artifact is what all are compared with."""
    rows: list[dict[str, Any]] = []
    for modality, items in inputs.items():
        with ExitStack() as stack:
            sessions = {
                name: stack.enter_context(closing(_open(artifact, modality)))
                for name, artifact in made.items()
                if modality in artifact.modalities
            }
            reference = _embed(sessions["f32"], items)
            spent = _times(sessions, items)
            for name, session in sessions.items():
                entry = made[name].tower(modality)
                found = _embed(session, items)
                told = fidelity.measure(reference, found, data="judged")
                row = {"row": name, "modality": modality, "scheme": entry.scheme, "ms": spent[name]}
                row |= {"bytes": sum(file.bytes for file in entry.files if "tokenizer" not in file.path)}
                row |= told.model_dump(include={"samples", "cosine_mean", "cosine_min", "centred_mean", "centred_min"})
                row["batch_difference"] = _batch_difference(session, items, found)
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


def _open(artifact: Artifact, modality: str) -> Session:
    entry = artifact.tower(modality)
    return runtime_engine(entry.engine).open(
        artifact.folder, entry, Options(threads=1), model=artifact.manifest.model, modality=modality
    )


def _embed(session: Session, items: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([session.run({INPUT: item}) for item in items])


def _times(sessions: dict[str, Session], items: list[np.ndarray]) -> dict[str, float]:
    """CPU milliseconds for one item, the median over rounds in which every session is asked once."""
    spent: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(ROUNDS + 3):
        item = items[number * 7 % len(items)]
        for name, session in sessions.items():
            session.run({INPUT: item})  # a shape that is new to it makes it prepare
            started = time.process_time()
            session.run({INPUT: item})
            if number >= 3:
                spent[name].append(time.process_time() - started)
    return {name: round(1000 * float(np.median(times)), 3) for name, times in spent.items()}


def _batch_difference(session: Session, items: list[np.ndarray], alone: np.ndarray) -> float:
    """The greatest difference of a value between an item alone and in a batch of up to eight of its own shape."""
    worst = 0.0
    places: dict[tuple[int, ...], list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(item.shape, []).append(place)
    for same in places.values():
        for start in range(0, min(len(same), 64), 8):
            some = same[start : start + 8]
            together = session.run({INPUT: np.concatenate([items[place] for place in some])})
            worst = max(worst, float(np.abs(together - alone[some]).max()))
    return worst


if __name__ == "__main__":
    main()
