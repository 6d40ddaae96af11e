"""What pipeline.py needs on disk: an environment for each peer, the model in the layout that each reads, photographs.

Nothing is made twice: what is there stays. Each function is given the folder that all of it lies in.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import torchvision_cpu
from clip import split_of, write_huggingface, write_open_clip

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
CONSTRAINTS = ROOT / "constraints.txt"
# What a user types to get each of them, able to read pictures and texts.
PACKAGES = {
    "open_clip": "open_clip_torch",
    "sentence-transformers": "sentence-transformers[image]",
    "fastembed": "fastembed",
    "slimbind": "slimbind",
}
SIZES = {"1 MP": (1_000_000, 20), "12 MP": (12_000_000, 5)}  # pixels, how many photographs
TEXTS = 96
PNG_EVERY = 10
_GRAIN = 6


def environments(work: Path) -> dict[str, dict[str, Any]]:
    """An environment for each peer that holds what its installation brings and nothing else; what that comes to."""
    told = {}
    for name, package in PACKAGES.items():
        place = work / "environments" / name
        if not (place / "installed").exists():
            shutil.rmtree(place, ignore_errors=True)
            venv.create(place, with_pip=False, symlinks=True)
            source = str(ROOT) if package == "slimbind" else package
            pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install", "--quiet"]
            subprocess.run([*pip, "--constraint", str(CONSTRAINTS), source], check=True)
            (place / "installed").touch()
        found = installed(place)
        told[name] = {
            "command": f"pip install {package}",
            "version": found["distributions"][package.split("[")[0]],
        } | found
    return told


def installed(place: Path) -> dict[str, Any]:
    """Distributions, and bytes on disk, compiled Python files included."""
    site = next((place / "lib").glob("python3*/site-packages"))
    files = {path: path.stat().st_size for path in site.rglob("*") if path.is_file()}
    found = {each.metadata["Name"]: each for each in metadata.distributions(path=[str(site)])}
    sizes = {
        name: sum(files.get(Path(str(file.locate())), 0) for file in each.files or ()) for name, each in found.items()
    }
    return {
        "bytes": sum(files.values()),
        "distributions": {name: each.version for name, each in sorted(found.items())},
        "largest": dict(sorted(sizes.items(), key=lambda item: -item[1])[:4]),
    }


def models(work: Path) -> Path:
    """The same random weights for every pipeline: open_clip's, transformers' and fastembed's folders, and ours."""
    folder = work / "models"
    if (folder / "made").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    published = write_open_clip(folder / "open_clip")
    split = folder / "split"
    split_of(published, split)
    write_fastembed(folder / "fastembed", write_huggingface(folder / "huggingface"))
    from slimbind.export.job import export
    from slimbind.quantize.job import quantize

    export(split, folder / "slimbind-f32")
    export(split, folder / "slimbind-bf16", dtype="bf16")
    quantize(split, folder / "slimbind-int8-dynamic", scheme="int8-dynamic")
    (folder / "made").touch()
    return folder


def write_fastembed(folder: Path, huggingface: Path) -> None:
    """Each half of transformers' model as an ONNX file beside its preprocessing, as those that fastembed fetches."""
    import torch

    torchvision_cpu.name_operators()
    from transformers import CLIPModel

    class Half(torch.nn.Module):
        """One half, projected."""

        def __init__(self, tower: torch.nn.Module, projection: torch.nn.Module) -> None:
            super().__init__()
            self.tower, self.projection = tower, projection

        def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
            masked = {} if attention_mask is None else {"attention_mask": attention_mask}
            return self.projection(self.tower(x, **masked).pooler_output)

    model = CLIPModel.from_pretrained(huggingface).eval()
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=77)
    ids = torch.tensor([[49406, 320, 1929, 49407], [49406, 320, 49407, 49407]])
    halves: dict[str, tuple[Any, ...]] = {
        "vision": (
            Half(model.vision_model, model.visual_projection),
            (torch.zeros(2, 3, 224, 224),),
            ["pixel_values"],
            [{0: batch}],
        ),
        "text": (
            Half(model.text_model, model.text_projection),
            (ids, torch.ones_like(ids)),
            ["input_ids", "attention_mask"],
            [{0: batch, 1: length}] * 2,
        ),
    }
    for name, (half, example, inputs, axes) in halves.items():
        place = folder / name
        place.mkdir(parents=True)
        torch.onnx.export(
            half,
            example,
            place / "model.onnx",
            input_names=inputs,
            output_names=["embeds"],
            dynamic_shapes=tuple(axes),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        for file in huggingface.glob("*.json"):
            shutil.copy(file, place)


def photographs(work: Path) -> dict[str, list[str]]:
    """Name of a size -> files: the samples' photographs enlarged, with a sensor's grain; every tenth of 1 MP a PNG."""
    made = {}
    for name, (pixels, count) in SIZES.items():
        folder = work / "photographs" / name.replace(" ", "-")
        if not (folder / "made").exists():
            folder.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(itertools.islice(_enlarged(pixels), count)):
                if name == "1 MP" and number % PNG_EVERY == PNG_EVERY - 1:
                    image.save(folder / f"{number:03}.png")
                else:
                    image.save(folder / f"{number:03}.jpg", quality=90)
            (folder / "made").touch()
        made[name] = sorted(str(path) for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
    return made


def _enlarged(pixels: int) -> Iterator[Image.Image]:
    """The samples' photographs, then mirrored, then upside down."""
    rng = np.random.default_rng(0)
    for turn in (None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM):
        for path in sorted((SAMPLES / "photos").glob("*.jpg")):
            image = Image.open(path).convert("RGB")
            image = image if turn is None else image.transpose(turn)
            factor = (pixels / (image.width * image.height)) ** 0.5
            image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
            grain = rng.integers(-_GRAIN, _GRAIN + 1, (image.height, image.width, 1), dtype=np.int16)
            yield Image.fromarray(np.clip(np.asarray(image, np.int16) + grain, 0, 255).astype(np.uint8))


def damaged(work: Path, good: str) -> dict[str, str]:
    """Kind of damage -> a file of it."""
    folder = work / "damaged"
    folder.mkdir(parents=True, exist_ok=True)
    cut, text = folder / "cut.jpg", folder / "text.jpg"
    data = Path(good).read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    text.write_text("Not found\n", encoding="utf-8")
    return {"a JPEG that ends in the middle": str(cut), "a page of text named .jpg": str(text)}


def texts() -> list[str]:
    """Sentences of 1 to about 50 words: half of them the samples' questions, half made of the samples' names."""
    found = list(json.loads((SAMPLES / "queries.json").read_text(encoding="utf-8")))[: TEXTS // 2]
    names = [path.stem.replace("-", " ") for path in sorted((SAMPLES / "photos").glob("*.jpg"))]
    rng = np.random.default_rng(0)
    while len(found) < TEXTS:
        chosen = [names[at] for at in rng.choice(len(names), rng.integers(1, 13), replace=False)]
        opening = ("a photograph of", "a picture that shows", "a small drawing of")[rng.integers(3)]
        found.append(f"{opening} {', then '.join(chosen)}")
    return [found[at] for at in rng.permutation(TEXTS)]
