"""Mini as a split folder: both towers in float32, which `slimbind quantize` and `slimbind export` start from.

    python recipes/mini/split.py mini-split          (ten seconds and 95 MB, by pip alone)

Both networks come from their pinned packages as published. What was trained here (the picture tower's head, the text
tower's centre and matrix) is read from the packaged artifact, where it lies in 8 bits per output channel, and so is
a little coarser than what the training gave. `build.py --split FOLDER` writes the folder from the training itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from ship import INFO, SETTINGS, weights_digest
from tokenizers import Tokenizer
from vocabulary import full_tokenizer

import slimbind
import towers
from slimbind.artifact import Artifact, ArtifactWriter
from slimbind.runtime import quiet
from slimbind.towers.layers import Tower
from slimbind.towers.mini import DIM, MiniText, MiniVision

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "src" / "slimbind" / "models" / "mini"
SAMPLES = ROOT / "samples"


def write(destination: Path, *, made: dict[str, Tower], tokenizer: Tokenizer, overwrite: bool = False) -> Artifact:
    """Write both towers with float32 weights; ``made`` is modality -> tower."""
    with ArtifactWriter(destination, model=INFO, embedding_dim=DIM, overwrite=overwrite) as writer:
        tokenizer.save(str(writer.folder("text") / "tokenizer.json"), pretty=False)
        for modality, tower in made.items():
            weights = {name: value.contiguous() for name, value in tower.state_dict().items()}
            save_file(weights, writer.folder(modality) / "tower.safetensors")
            writer.add(
                modality,
                engine="torch",
                scheme="f32",
                weights=weights_digest(tower),
                parameters=sum(value.numel() for value in weights.values()),
                config=tower.config,
                preprocess=SETTINGS[modality]["preprocess"],
            )
    return Artifact.open(destination)


def shipped_tokenizer() -> Tokenizer:
    """The pruned tokenizer of the packaged artifact."""
    return Tokenizer.from_file(str(SHIPPED / "text" / "tokenizer.json"))


def rebuild(cache: Path) -> dict[str, Tower]:
    """Modality -> tower: published networks, and the packaged artifact's trained parts."""
    return {"vision": _vision(cache), "text": _text(cache)}


def _vision(cache: Path) -> MiniVision:
    tower, graph = towers.vision(cache), _Graph("vision")
    head = tower.head
    head.labels.data.copy_(graph.operand("__module.head/aten::matmul/MatMul").T)
    head.gain.data.copy_(graph.operand("__module.head/aten::mul/Multiply").reshape(()))
    for name in ("up", "down", "skip"):
        layer = getattr(head, name)
        layer.weight.data.copy_(graph.operand(f"__module.head.{name}/aten::linear/MatMul"))
        if layer.bias is not None:
            layer.bias.data.copy_(graph.operand(f"__module.head.{name}/aten::linear/Add").reshape(-1))
    return tower


def _text(cache: Path) -> MiniText:
    published = full_tokenizer(cache).get_vocab()
    kept = shipped_tokenizer().get_vocab()
    rows = torch.tensor([published[token] for token in sorted(kept, key=kept.__getitem__)])
    tower, graph = towers.text(cache, rows), _Graph("text")
    tower.centre.data.copy_(-graph.operand("aten::sub/Subtract").reshape(-1))  # the engine adds what is subtracted
    tower.adapt.weight.data.copy_(graph.operand("__module.adapt/aten::linear/MatMul"))
    return tower


class _Graph:
    """The packaged tower's graph, of which single weights are read."""

    def __init__(self, modality: str) -> None:
        model = quiet.openvino().Core().read_model(SHIPPED / modality / "tower.xml")
        self._model = model
        self._ops = {op.get_friendly_name(): op for op in model.get_ordered_ops()}

    def operand(self, name: str) -> torch.Tensor:
        """The second, constant input of the operation of that name, unpacked to float32."""
        return torch.from_numpy(self._value(self._ops[name].input_value(1).get_node()).astype(np.float32))

    def _value(self, op: Any) -> np.ndarray:  # noqa: ANN401  (openvino has no types)
        kind = op.get_type_name()
        if kind == "Constant":
            return np.array(op.data, dtype=np.float32)
        inputs = [self._value(value.get_node()) for value in op.input_values()]
        if kind == "Convert":
            return inputs[0]
        if kind == "Multiply":
            return inputs[0] * inputs[1]
        raise ValueError(f"{op.get_friendly_name()} is a {kind}, not a stored weight")


def check(made: dict[str, Tower]) -> None:
    """Hold the towers to the packaged artifact; raises ``ValueError`` where they say something else."""
    lines = ["a photo of a dog", "an orchestra", "snow-covered mountains", "strawberry"]
    photos = sorted((SAMPLES / "photos").glob("*.jpg"))[:8]
    ids = towers.encode(shipped_tokenizer(), lines)
    padded = torch.tensor([row + [0] * (max(map(len, ids)) - len(row)) for row in ids])
    drawn = torch.from_numpy(np.stack([towers.pixels(Image.open(photo)) for photo in photos]))
    with slimbind.load(SHIPPED, threads=1) as model, torch.inference_mode():
        pairs = {
            "vision": (made["vision"](drawn).numpy(), model.embed(photos, modality="vision")),
            "text": (made["text"](padded).numpy(), model.embed(lines, modality="text")),
        }
    for modality, (ours, theirs) in pairs.items():
        worst = float((ours * theirs).sum(1).min())
        print(f"{modality}: cosine to the packaged tower at least {worst:.4f}")
        if worst < 0.98:
            raise ValueError(f"the {modality} tower and the packaged one agree by {worst:.4f} only")


def main() -> None:
    """Write the split folder."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("destination", type=Path)
    arguments.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "slimbind-mini")
    options = arguments.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    made = rebuild(options.cache)
    check(made)
    write(options.destination, made=made, tokenizer=shipped_tokenizer())
    print(f"written: {options.destination}")


if __name__ == "__main__":
    main()
