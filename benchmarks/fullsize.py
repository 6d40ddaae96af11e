"""Full-size ImageBind towers with random weights, and inputs for them made of the shipped samples; for benchmarks.

    from fullsize import full_size, inputs
    tower = full_size("vision", outliers=True, depth=8)    # the first 8 blocks at full width
    x = inputs("vision", 16)                               # [16, 3, 1, 224, 224]

The values are those of ``make_huge.py`` (the same seed gives the same tower), made in memory: nothing is cached.
``python benchmarks/fullsize.py`` shows what each set of weights (``WEIGHTS``) makes of small errors: of noise of one
thousandth on the input, of arithmetic in bf16, and of int8 per token without smoothing; worst cosine of three inputs.

Inputs go through ``slimbind.media`` as a user's would. Photographs, sounds and sentences are real. There are no depth
maps, thermal images and motion recordings among the samples: those are made, with structure (a scene of a floor, a wall
and things cut out of a photograph; warm things of a photograph; gravity, steps and turns), not noise.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from slimbind.artifact import Artifact, ArtifactWriter, ModelInfo
from slimbind.media import preprocessor
from slimbind.media.clip_tokenizer import clip_tokenizer_json
from slimbind.media.spec import TextSpec
from slimbind.towers import registry
from slimbind.towers.layers import Tower
from slimbind.towers.preparation import specs_of

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
STATE_DICT = ROOT / "tests" / "golden" / "imagebind_huge_state_dict.json"
MODALITIES = ("vision", "text", "audio", "depth", "thermal", "imu")
CONTEXT = 77
CLIPS = 3  # views of a sound
_SIDE = 256  # of made scenes
_LOUD = 8.0  # a LayerNorm gain that is no ordinary one


# The sets of weights that benchmarks name, as settings of ``full_size``.
WEIGHTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "outlier": {"outliers": True},
    "balanced": {"outliers": True, "balance": 0.5},
}


def full_size(
    modality: str, *, outliers: bool = False, balance: float = 0.0, depth: int | None = None, seed: int = 0
) -> Tower:
    """A tower of ImageBind-Huge as it is split from a checkpoint of ``make_huge.py``.

    Args:
        modality: one of the six.
        outliers: with outlier channels as trained transformers have them.
        balance: with outliers, what reads a loud channel of a LayerNorm is divided by its gain to this power. 0 leaves
            the values as ``make_huge.py`` writes them, and a network that survives no number format but f32, as no
            network is that was trained in 16 bits; ``python benchmarks/fullsize.py`` shows it.
        depth: only so many of the first blocks; all by default.
        seed: of the weights.
    """
    tensors = state_dict(modality, outliers=outliers, balance=balance, depth=depth, seed=seed)
    checkpoint = registry.detect({key: tuple(value.shape) for key, value in tensors.items()})
    made = dict(registry.convert(checkpoint, modality, tensors.pop))
    return registry.load(registry.build("imagebind", modality, checkpoint.configs[modality]), made)


def state_dict(
    modality: str, *, outliers: bool = False, balance: float = 0.0, depth: int | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """The weights of ``full_size`` with the names and in the shapes of the released checkpoint."""
    values_of = runpy.run_path(str(ROOT / "benchmarks" / "make_huge.py"))["values_of"]
    tensors = {}
    for key, (shape, _) in json.loads(STATE_DICT.read_text(encoding="utf-8")).items():
        if key.split(".")[1] == modality and _is_kept(key, depth):
            rng = np.random.default_rng([seed, *key.encode()])  # a generator per tensor, as in the checkpoint
            values = values_of(key, tuple(shape), rng, outliers=outliers)
            tensors[key] = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    if outliers and balance:
        balance_gains(tensors, balance)
    return tensors


def balance_gains(tensors: dict[str, Tensor], power: float) -> None:
    for name, gain in tensors.items():
        if ".blocks." in name and name.endswith((".norm_1.weight", ".norm_2.weight")):
            reader = name.replace("norm_1.weight", "attn.in_proj_weight").replace("norm_2.weight", "mlp.fc1.weight")
            loud = gain.abs() > _LOUD
            tensors[reader][:, loud] *= gain[loud].abs() ** -power


def _is_kept(key: str, depth: int | None) -> bool:
    parts = key.split(".")
    return depth is None or "blocks" not in parts or int(parts[parts.index("blocks") + 1]) < depth


def write_split(
    folder: Path,
    modality: str,
    *,
    outliers: bool = False,
    balance: float = 0.0,
    depth: int | None = None,
    seed: int = 0,
) -> Artifact:
    """The split folder of one such tower, as ``slimbind split`` writes it."""
    tower = full_size(modality, outliers=outliers, balance=balance, depth=depth, seed=seed)
    told = ModelInfo(id="imagebind-huge-random", family="imagebind", license="CC0-1.0", source="benchmarks/fullsize.py")
    with ArtifactWriter(folder, model=told, embedding_dim=tower.dim) as writer:
        place = writer.folder(modality)
        save_file({name: value.contiguous() for name, value in tower.state_dict().items()}, place / "tower.safetensors")
        if modality == "text":
            (place / "tokenizer.json").write_text(clip_tokenizer_json(), encoding="utf-8")
        writer.add(
            modality,
            engine="torch",
            scheme="f32",
            parameters=sum(value.numel() for value in tower.parameters()),
            config=tower.config,
            preprocess=_spec(modality),
            logit_scale=tower.logit_scale,
        )
    return Artifact.open(folder)


def inputs(modality: str, n: int, *, start: int = 0) -> Tensor:
    """``n`` inputs of one modality as its tower takes them, the first ``start`` left out: always the same ones.

    Returns:
        float32 ``[n, ...]``; for texts int32 ``[n, 77]``, filled up with 0 as the reference model does.
    """
    if modality == "text":
        tokenize = preprocessor(TextSpec())
        ids = torch.zeros((n, CONTEXT), dtype=torch.int32)
        for row, text in enumerate(texts(n, start=start)):
            found = torch.from_numpy(tokenize(text))
            ids[row, : len(found)] = found
        return ids
    prepare = preprocessor(_spec(modality))
    made = [_view(modality, number, prepare) for number in range(start, start + n)]
    return torch.from_numpy(np.stack(made))


def texts(n: int, *, start: int = 0) -> list[str]:
    """``n`` sentences of the samples' questions, names and of what can be said with them."""
    known = list(json.loads((SAMPLES / "queries.json").read_text(encoding="utf-8")))
    named = [path.stem.replace("-", " ") for path in _files("photos") + _files("sounds") + _files("illustrations")]
    joined = [
        f"{first}, {second} and the {third}" for first, second, third in zip(known, named, named[7:], strict=False)
    ]
    every = list(dict.fromkeys([*known, *named, *joined]))
    np.random.default_rng(0).shuffle(every)
    if start + n > len(every):
        raise ValueError(f"there are {len(every)} texts, not {start + n}")
    return every[start : start + n]


def items(modality: str, n: int, *, start: int = 0) -> list[Any]:
    """What the preprocessors take: files, arrays; for texts the sentences."""
    if modality == "text":
        return texts(n, start=start)
    return [_item(modality, number) for number in range(start, start + n)]


def _spec(modality: str) -> Any:  # noqa: ANN401  (one of media's records)
    listed = json.loads(STATE_DICT.read_text(encoding="utf-8"))
    shapes = {key: tuple(shape) for key, (shape, _) in listed.items() if key.split(".")[1] == modality}
    return specs_of(registry.detect(shapes).configs)[modality]


def _view(modality: str, number: int, prepare: Any) -> np.ndarray:  # noqa: ANN401
    views = prepare(_item(modality, number))
    if modality == "audio":  # the clips of a sound in turn
        return views[number // len(_files("sounds")) % len(views)]
    return views[0][:, None] if modality == "vision" else views[0]


def _item(modality: str, number: int) -> Any:  # noqa: ANN401  (each modality takes its own kinds)
    if modality == "audio":
        files = _files("sounds")
        if number >= CLIPS * len(files):
            raise ValueError(f"there are {CLIPS * len(files)} clips, not {number + 1}")
        return files[number % len(files)]
    if modality == "imu":
        return _motion(number)
    files = _files("photos") + _files("illustrations")
    path = files[np.random.default_rng(0).permutation(len(files))[number % len(files)]]
    if modality == "vision":
        if number < len(files):
            return path
        return Image.open(path).convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    grey = np.asarray(Image.open(path).convert("L").resize((_SIDE, _SIDE)), dtype=np.float32) / 255
    return _scene(number, grey) if modality == "depth" else _warmth(number, grey)


def _files(folder: str) -> list[Path]:
    return sorted(path for path in (SAMPLES / folder).iterdir() if path.is_file())


def _scene(number: int, grey: np.ndarray) -> np.ndarray:
    """A depth map in metres: a floor that runs to a wall, and the dark parts of a photograph standing in front."""
    rng = np.random.default_rng([1, number])
    wall, height, horizon = rng.uniform(3, 8), rng.uniform(1, 1.7), rng.uniform(0.3, 0.5)
    slope = np.maximum(np.linspace(0, 1, _SIDE) - horizon, 1e-3)[:, None]
    floor = np.minimum(height / slope, wall) * np.ones((1, _SIDE))
    near = rng.uniform(0.8, 2.5)
    scene = np.where(grey < np.quantile(grey, 0.3), np.minimum(floor, near + grey), floor)
    scene = scene + rng.normal(0, 0.003, scene.shape) * scene**2  # a Kinect's noise grows with the square
    scene[rng.random(scene.shape) < 0.01] = 0  # not measured
    return scene.astype(np.float32)


def _warmth(number: int, grey: np.ndarray) -> np.ndarray:
    """A thermal image in kelvin: the bright parts of a photograph are warm, edges are soft, the sensor drifts."""
    rng = np.random.default_rng([2, number])
    small = (
        Image.fromarray(grey).resize((80, 80), Image.Resampling.BOX).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    )
    warm = 285 + 8 * np.asarray(small) + 15 * (np.asarray(small) > np.quantile(grey, 0.85))
    return (warm + np.linspace(0, rng.uniform(0, 2), _SIDE) + rng.normal(0, 0.05, warm.shape)).astype(np.float32)


def _motion(number: int) -> np.ndarray:
    """Ten seconds at 200 Hz: gravity in some direction, steps with overtones, turns, and a sensor's noise."""
    rng = np.random.default_rng([3, number])
    time = np.arange(2000) / 200
    gravity = rng.normal(size=3)
    gravity *= 9.81 / np.linalg.norm(gravity)
    pace, strength = rng.uniform(0.8, 2.5), rng.uniform(0, 3)
    overtones = [
        rng.uniform(0.2, 1) ** k * np.sin(2 * np.pi * pace * k * time + rng.uniform(0, 6)) for k in (1, 2, 3, 4)
    ]
    envelope = np.clip(np.cumsum(rng.normal(0, 0.05, len(time))) + 1, 0, 2)
    steps = strength * np.sum(overtones, axis=0) * envelope
    acceleration = gravity[:, None] + rng.normal(0, 1, (3, 1)) * steps + rng.normal(0, 0.05, (3, len(time)))
    centre, width = rng.uniform(2, 8), rng.uniform(0.3, 1.5)
    turn = np.exp(-(((time - centre) / width) ** 2)) * rng.uniform(-3, 3, (3, 1))
    rotation = turn + 0.2 * rng.normal(0, 1, (3, 1)) * steps + rng.normal(0, 0.01, (3, len(time)))
    return np.concatenate([acceleration, rotation]).astype(np.float32)


def main() -> None:
    from slimbind.export.openvino import trace
    from slimbind.quantize.emulate import emulate
    from slimbind.quantize.plan import LayerPlan, Plan
    from slimbind.quantize.rounding import per_channel
    from slimbind.quantize.sites import sites
    from slimbind.runtime import quiet
    from slimbind.towers.simplify import simplify

    torch.manual_seed(0)
    x = inputs("vision", 3, start=8)
    for weights, settings in WEIGHTS.items():
        tower = simplify(full_size("vision", depth=6, **settings))
        linear = {name: site.weight for name, site in sites(tower).items() if site.kind == "linear"}
        plan = Plan(
            {name: LayerPlan(per_channel(weight), "dynamic") for name, weight in linear.items()}, group_size=1280
        )
        compiled = quiet.openvino().Core().compile_model(trace(tower), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
        with torch.inference_mode():
            found = {
                "noise": tower(x + 1e-3 * torch.randn_like(x)),
                "bf16": torch.from_numpy(np.array(compiled([x.numpy()])[0])),
                "int8": emulate(tower, plan)(x),
            }
            told = {name: float((y * tower(x)).sum(-1).min()) for name, y in found.items()}
        print(f"vision, 6 blocks, {weights:10}", {name: round(cosine, 5) for name, cosine in told.items()})


if __name__ == "__main__":
    main()
