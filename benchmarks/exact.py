"""How much does each exact rewrite save, on full-size ImageBind towers?

    python benchmarks/exact.py                        # every row, about ten minutes, 12 GB
    python benchmarks/exact.py --rows text,clips      # some
    python benchmarks/exact.py --scale 8              # towers of an eighth of the depth: a quick look

Weights are random: time depends on shapes alone. The reference is the plain tower as it is trained (PyTorch, eager,
fp32; texts padded to 77 tokens, stills doubled into films, three clips per sound). Reference and rewrite take turns, so
that a change in the machine's speed hits both, and the ratio of each turn is formed before the median is taken. Time is
processor time of this process with one thread. ``difference`` is the largest difference between the two embeddings in
any coordinate of any unit vector.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from environment import environment
from slimbind.export.openvino import trace
from slimbind.media import preprocessor
from slimbind.media.spec import TextSpec
from slimbind.runtime import quiet
from slimbind.runtime.batches import batches
from slimbind.towers import registry, simplify
from slimbind.towers.layers import Tower

ROOT = Path(__file__).parents[1]
STATE_DICT = ROOT / "tests" / "golden" / "imagebind_huge_state_dict.json"
Run = Callable[[], np.ndarray]

SENTENCES = [
    "a dog",
    "sunset over the sea",
    "a photo of a cat sleeping on a sofa",
    "two children playing football in the park",
    "thunder",
    "an old man with a grey beard is reading a newspaper on a bench",
    "birds singing in the early morning",
    "red sports car",
    "a plate of spaghetti with tomato sauce and basil",
    "the sound of an engine starting",
    "a group of people standing around a table with a birthday cake",
    "mountains",
    "a bowl of fruit",
    "a woman in a yellow raincoat walks her bicycle across a wet street",
    "keyboard typing",
    "a close-up of a bee on a purple flower",
    "an airplane taking off from a runway at night",
    "screenshot of an invoice",
    "a black and white photograph of a train station",
    "waves crashing against rocks",
    "my birthday 2019",
    "a small wooden house in a snowy forest with smoke rising from its chimney",
    "whiteboard with diagrams",
    "a tennis player hits the ball",
    "a crowded market with colourful stalls selling vegetables and spices",
    "baby laughing",
    "the eiffel tower seen from below",
    "a kitchen with white cabinets and a large window",
    "a man playing the guitar on stage",
    "horse",
    "a receipt from a restaurant",
    "several boats are moored in a small harbour under a cloudy sky",
]
LONG = (
    "the photograph shows a long wooden pier that reaches far out into a calm lake, with three fishermen sitting on "
    "folding chairs, a sleeping dog beside them and snow covered mountains in the distance"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help=f"some of {', '.join(ROWS)}")
    parser.add_argument("--scale", type=int, default=1, help="divide the depth of every tower by this")
    parser.add_argument("--rounds", type=int, default=3, help="turns of reference and rewrite")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "exact.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name in args.rows.split(","):
        for row in ROWS[name](args.scale, args.rounds):
            rows.append(row)
            print(
                f"{row['row']:58} {row['reference_seconds']:8.3f} -> {row['rewrite_seconds']:8.3f} CPU-s  "
                f"{row['gain']:5.2f}x  difference {row['difference']:.1e}",
                flush=True,
            )
            gc.collect()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "benchmark": "exact",
        "command": command(args),
        "environment": environment("torch", "numpy", "openvino", threads=1),
        "rows": rows,
    }
    args.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {args.output}")


def command(args: argparse.Namespace) -> str:
    return f"python benchmarks/exact.py --rows {args.rows} --scale {args.scale} --rounds {args.rounds}"


def full_size(modality: str, scale: int) -> Tower:
    """A tower of ImageBind-Huge with random weights."""
    entries = json.loads(STATE_DICT.read_text())
    checkpoint = registry.detect({key: tuple(shape) for key, (shape, _) in entries.items()})
    config = checkpoint.configs[modality]
    tower = registry.build("imagebind", modality, config | {"depth": max(1, config["depth"] // scale)}, device="cpu")
    with torch.no_grad():
        for name, value in tower.named_parameters():
            if "norm" in name:  # gains and biases of a trained network are not 1 and 0
                value.add_(torch.randn_like(value) * 0.1)
    return tower


def row(name: str, reference: Run, rewrite: Run, rounds: int, **more: object) -> dict[str, Any]:
    """Time two ways to the same vectors, in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    first = (reference(), rewrite())  # warm-up
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            start = time.process_time()
            (reference, rewrite)[which]()
            times[which].append(time.process_time() - start)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    return {
        "row": name,
        "reference_seconds": statistics.median(times[0]),
        "rewrite_seconds": statistics.median(times[1]),
        "gain": statistics.median(ratios),
        "gain_range": [min(ratios), max(ratios)],
        "difference": float(np.abs(first[0] - first[1]).max()),
        **more,
    }


def eager(module: torch.nn.Module, x: Tensor) -> Run:
    def run() -> np.ndarray:
        with torch.no_grad():
            return module(x).numpy()

    return run


def flops(module: torch.nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return int(counter.get_total_flops())


def compiled(tower: Tower) -> Callable[[np.ndarray], np.ndarray]:
    """The tower on OpenVINO, fp32, one thread."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = quiet.openvino().Core().compile_model(trace(tower), "CPU", settings).create_infer_request()
    return lambda array: np.array(request.infer([array])[0])


def still(scale: int, rounds: int) -> Iterator[dict[str, Any]]:
    tower = full_size("vision", scale)
    x = tower.example(4)
    old, new = tower.stem, simplify.stack_frames(tower).stem
    shared = {"flops_saved": 1 - flops(new, x) / flops(old, x), "batch": 4, "difference_of": "tokens, not unit vectors"}
    yield row("still image: stem, torch", eager(old, x), eager(new, x), 5 * rounds, **shared)
    whole = simplify.stack_frames(tower)
    shared = {"flops_saved": 1 - flops(whole, x[:1]) / flops(tower, x[:1]), "batch": 1}
    yield row("still image: whole tower, torch", eager(tower, x[:1]), eager(whole, x[:1]), rounds, **shared)


def text(scale: int, rounds: int) -> Iterator[dict[str, Any]]:
    tower = full_size("text", scale)
    tokenize = preprocessor(TextSpec())
    for name, sentences in (
        ("32 mixed sentences", SENTENCES),
        ("32, a quarter of them long", [LONG] * 8 + SENTENCES[8:]),
    ):
        ids = [(place, tokenize(sentence)[None]) for place, sentence in enumerate(sentences)]
        full = np.zeros((len(ids), tower.config["tokens"]), dtype=np.int32)
        for place, one in ids:
            full[place, : one.shape[1]] = one[0]

        def cut(run: Callable[[np.ndarray], np.ndarray], ids: list[tuple[int, np.ndarray]] = ids) -> np.ndarray:
            out = np.empty((len(ids), tower.dim), dtype=np.float32)
            for batch in batches(ids, size=32, pad_id=0, context=tower.config["tokens"]):
                out[list(batch.owners)] = run(batch.array)
            return out

        def torch_run(array: np.ndarray, module: Tower = tower) -> np.ndarray:
            return eager(module, torch.from_numpy(array))()

        shared = {
            "tokens_mean": float(np.mean([one.shape[1] for _, one in ids])),
            "tokens_max": max(one.shape[1] for _, one in ids),
            "batch": len(ids),
        }
        reference = eager(tower, torch.from_numpy(full))
        yield row(f"text cut and bucketed: {name}, torch", reference, lambda c=cut, r=torch_run: c(r), rounds, **shared)
        if sentences is SENTENCES:
            small = simplify.simplify(tower)
            both = lambda array, s=small: torch_run(array, s)  # noqa: E731
            yield row(f"text, all rewrites: {name}, torch", reference, lambda c=cut, r=both: c(r), rounds, **shared)
            engine = compiled(small)
            yield row(
                f"text, all rewrites: {name}, openvino f32", reference, lambda c=cut, e=engine: c(e), rounds, **shared
            )
            del engine


def last(scale: int, rounds: int) -> Iterator[dict[str, Any]]:
    for modality in ("vision", "text", "audio", "depth", "thermal", "imu"):
        tower = full_size(modality, scale)
        new = simplify.pool_last_block(tower)
        x = tower.example(1)
        if modality == "text":
            x = torch.randint(1, 49406, (1, tower.config["tokens"]), dtype=torch.int32)
            x[:, -1] = 49407
        shared = {"flops_saved": 1 - flops(new, x) / flops(tower, x), "batch": 1}
        yield row(
            f"last block on the pooled token: {modality}, torch", eager(tower, x), eager(new, x), 2 * rounds, **shared
        )
        del tower, new
        gc.collect()


def clips(scale: int, rounds: int) -> Iterator[dict[str, Any]]:
    tower = full_size("audio", scale)
    one = tower.example(1)
    three = one.repeat(3, 1, 1, 1)

    def reference() -> np.ndarray:
        mean = eager(tower, three)().mean(axis=0, keepdims=True)
        return mean / np.linalg.norm(mean)

    yield row("equal audio clips embedded once, torch", reference, eager(tower, one), 2 * rounds, batch=1)


def norms(scale: int, rounds: int) -> Iterator[dict[str, Any]]:
    for modality in ("audio", "imu"):
        tower = simplify.simplify(full_size(modality, scale))
        folded = simplify.fold_norms(tower)
        x = tower.example(1)
        yield row(f"norms folded: {modality}, torch", eager(tower, x), eager(folded, x), 3 * rounds, batch=1)
        before, after = compiled(tower), compiled(folded)
        array = x.numpy()
        name = f"norms folded: {modality}, openvino f32"
        yield row(name, lambda b=before, a=array: b(a), lambda b=after, a=array: b(a), 3 * rounds, batch=1)
        del before, after, tower, folded
        gc.collect()


ROWS: dict[str, Callable[[int, int], Iterator[dict[str, Any]]]] = {
    "still": still,
    "text": text,
    "last": last,
    "clips": clips,
    "norms": norms,
}

if __name__ == "__main__":
    main()
