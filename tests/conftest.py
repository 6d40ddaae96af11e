"""What all tests share: a tiny but real artifact, which knows three colours, two pitches, and the words for them.

Its towers are OpenVINO graphs made here. Embeddings have 8 dimensions: red, green, blue, low, high, other, (unused),
something. A picture is its mean colour, a sound whether its energy lies low or high, a text the sum of its words. So
"red" finds what is red, and by how much can be said in advance.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimbind.artifact import ArtifactWriter, ModelInfo
from slimbind.media.spec import AudioSpec, ImageSpec, TextSpec

DIM = 8
WORDS = {"red": 0, "green": 1, "blue": 2, "low": 3, "rumble": 3, "high": 4, "whistle": 4}
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_BIAS = 0.05


def write_toy(folder: Path, *, modalities: tuple[str, ...] = ("vision", "text", "audio"), scheme: str = "f32") -> Path:
    """Write the artifact; another ``scheme`` gives the same vectors under other encoder ids."""
    from slimbind.runtime import quiet

    ov = quiet.openvino()
    info = ModelInfo(id="toy", family="mini", license="CC0-1.0", source="tests/conftest.py")
    make = {"vision": _vision, "text": _text, "audio": _audio}
    spec = {
        "vision": ImageSpec(),
        "text": TextSpec(kind="wordpiece", context=16),
        "audio": AudioSpec(),
    }
    with ArtifactWriter(folder, model=info, embedding_dim=DIM) as writer:
        for modality in modalities:
            place = writer.folder(modality)
            ov.save_model(make[modality](), place / "tower.xml", compress_to_fp16=False)
            if modality == "text":
                _tokenizer().save(str(place / "tokenizer.json"))
            writer.add(modality, engine="openvino", scheme=scheme, parameters=3 * DIM, preprocess=spec[modality])
    return folder


def _finish(raw: Any, parameter: Any) -> Any:
    import openvino as ov
    from openvino import opset13 as op

    bias = np.zeros((1, DIM), np.float32)
    bias[0, 7] = _BIAS
    added = op.add(raw, op.constant(bias))
    unit = op.normalize_l2(added, op.constant(np.array([1], np.int64)), 1e-12, "max")
    parameter.set_friendly_name("input")
    parameter.output(0).set_names({"input"})
    unit.output(0).set_names({"embedding"})
    return ov.Model([unit], [parameter], "toy")


def _vision() -> Any:
    from openvino import opset13 as op

    spec = ImageSpec()
    pixels = op.parameter([-1, 3, spec.size, spec.size], np.float32)
    mean = op.reduce_mean(pixels, op.constant(np.array([2, 3], np.int64)), keep_dims=False)
    colour = op.add(
        op.multiply(mean, op.constant(np.array([spec.std], np.float32))), op.constant(np.array([spec.mean], np.float32))
    )
    return _finish(op.matmul(colour, op.constant(np.eye(3, DIM, dtype=np.float32)), False, False), pixels)


def _audio() -> Any:
    from openvino import opset13 as op

    spec = AudioSpec()
    mel = op.parameter([-1, 1, spec.mel_bins, spec.frames], np.float32)
    energy = op.reduce_mean(mel, op.constant(np.array([1, 3], np.int64)), keep_dims=False)
    weights = np.zeros((spec.mel_bins, DIM), np.float32)
    half = spec.mel_bins // 2
    weights[:half, 3] = weights[half:, 4] = 1 / half
    weights[:half, 4] = weights[half:, 3] = -1 / half
    return _finish(op.relu(op.matmul(energy, op.constant(weights), False, False)), mel)


def _text() -> Any:
    from openvino import opset13 as op

    table = np.zeros((len(_vocabulary()), DIM), np.float32)
    table[1, 5] = 0.5
    for word, position in WORDS.items():
        table[_vocabulary()[word], position] = 1
    ids = op.parameter([-1, -1], np.int32)
    found = op.gather(op.constant(table), ids, op.constant(np.array(0, np.int64)))
    return _finish(op.reduce_sum(found, op.constant(np.array([1], np.int64)), keep_dims=False), ids)


def _vocabulary() -> dict[str, int]:
    return {word: number for number, word in enumerate([*_SPECIAL, *WORDS])}


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel(_vocabulary(), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


@pytest.fixture(scope="session")
def toy_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an artifact with vision, text and audio; see the top of this file."""
    return write_toy(tmp_path_factory.mktemp("toy") / "toy")


@pytest.fixture(scope="session")
def make_toy() -> Callable[..., Path]:
    """``make_toy(folder, modalities=..., scheme=...)`` writes another one."""
    return write_toy


def write_picture(path: Path, colour: tuple[int, int, int]) -> Path:
    """A picture of one colour; the suffix tells the format."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), colour).save(path)
    return path


def write_tone(path: Path, hertz: float) -> Path:
    """A second of a sine."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hertz * np.arange(16000) / 16000), 16000)
    return path


@pytest.fixture
def toy_folder(tmp_path: Path) -> Path:
    """What the toy artifact understands, and some of what it does not."""
    folder = tmp_path / "things"
    write_picture(folder / "red.png", (220, 10, 10))
    write_picture(folder / "green.jpg", (10, 200, 10))
    write_picture(folder / "deep" / "er" / "blue.png", (10, 10, 230))
    write_tone(folder / "sounds" / "rumble.wav", 80)
    write_tone(folder / "sounds" / "whistle.flac", 6000)
    (folder / "notes.txt").write_text("red whistle", encoding="utf-8")
    (folder / "table.xlsx").write_bytes(b"PK")
    write_picture(folder / ".hidden.png", (0, 0, 0))
    write_picture(folder / ".cache" / "thumb.png", (0, 0, 0))
    return folder


@pytest.fixture(scope="session")
def converted_once():
    """A tower that was converted for an engine before is not converted again: each test gets a copy of the graph.

    Converting is most of the time of many tests, and gives the same graph for the same weights.
    """
    import copy
    import hashlib

    import torch

    from slimbind.export import onnx
    from slimbind.runtime import quiet

    def digest(tower: Any, options: object) -> str:
        told = hashlib.sha256(f"{type(tower)} {tower} {tower.config} {options}".encode())
        for name, value in tower.state_dict().items():
            told.update(f"{name} {value.dtype} {value.shape}".encode())
            told.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().data)
        return told.hexdigest()

    def once(convert: Callable[..., Any], copied: Callable[[Any], Any]) -> Callable[..., Any]:
        made: dict[str, Any] = {}  # the towers too, whose weights the graphs share

        def call(tower: Any, **options: Any) -> Any:
            key = digest(tower, options.get("input"))
            if key not in made:
                made[key] = (tower, convert(tower, **options))
            return copied(made[key][1])

        return call

    def copied_program(program: Any) -> Any:
        new = copy.copy(program)
        new.model = program.model.clone()
        return new

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quiet, "convert_model", once(quiet.convert_model, lambda model: model.clone()))
        patch.setattr(onnx, "_export", once(onnx._export, copied_program))
        yield
