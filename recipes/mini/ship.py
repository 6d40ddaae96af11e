"""Towers to the finished artifact: OpenVINO models with int8 weights, tokenizer, manifest, and their measured fidelity."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
import torch
from slimbind.artifact import ArtifactWriter, Fidelity, ModelInfo
from slimbind.media.spec import TextSpec
from slimbind.towers.layers import Tower
from tokenizers import Tokenizer
from towers import IMAGE
from vocabulary import CONTEXT


def convert(tower: Tower) -> ov.Model:
    """An OpenVINO model of a tower in float32, with ``input`` and ``embedding`` named and free axes left free."""
    example = tower.example(2)
    shape = [-1 if axis in tower.dynamic_axes else size for axis, size in enumerate(example.shape)]
    kind = np.int32 if example.dtype == torch.int32 else np.float32
    model = ov.convert_model(tower, example_input=example, input=(ov.PartialShape(shape), kind))
    model.inputs[0].set_names({"input"})
    model.outputs[0].set_names({"embedding"})
    return model


def squeeze_weights(model: ov.Model, *, spare: tuple[str, ...] = ()) -> ov.Model:
    """Matrix and kernel weights to int8, one scale per output channel; activations stay in floating point.

    Layers whose name holds one of ``spare`` are left as they are.
    """
    kept = [
        op.get_friendly_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() in ("Convolution", "GroupConvolution", "MatMul")
        and any(part in op.get_friendly_name() for part in spare)
    ]
    ignored = nncf.IgnoredScope(names=kept) if kept else None
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=ignored)


def save(model: ov.Model, path: Path, *, f16: bool) -> None:
    """Write ``path`` (.xml) and its .bin; with ``f16`` the weights that are still floating point take two bytes."""
    ov.save_model(model, path, compress_to_fp16=f16)


def weights_digest(tower: Tower) -> str:
    """The sha256 of a tower's fp32 weights: names and bytes, in order of name."""
    digest = hashlib.sha256()
    for name, value in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def agreement(reference: np.ndarray, found: np.ndarray, data: str) -> Fidelity:
    """Cosines between unit vectors ``[n, dim]``, plain and after both lose the reference's mean."""
    middle = reference.mean(0)
    plain = (reference * found).sum(1)
    left, right = reference - middle, found - middle
    centred = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    return Fidelity(
        samples=len(plain),
        cosine_mean=float(plain.mean()),
        cosine_min=float(plain.min()),
        centred_mean=float(centred.mean()),
        centred_min=float(centred.min()),
        data=data,
    )


INFO = ModelInfo(
    id="mini",
    family="mini",
    license="Apache-2.0",
    source="recipes/mini of slimbind",
    attribution="EfficientNet-Lite0 (Google, Apache-2.0), all-MiniLM-L6-v2 (Apache-2.0); the rest is listed in NOTICE",
)


def write(
    destination: Path,
    *,
    vision: Tower,
    text: Tower,
    tokenizer: Tokenizer,
    calibration: np.ndarray,
    pixels: np.ndarray,
    ids: list[list[int]],
    documents: dict[str, str],
) -> dict[str, Any]:
    """Write the artifact and return its sizes and fidelity.

    Args:
        destination: the folder; an artifact that is there is replaced.
        vision, text: the towers.
        tokenizer: the pruned one.
        calibration: pictures ``[n, 3, 224, 224]`` to find the range of activations with.
        pixels: other pictures ``[n, 3, 224, 224]``, to measure fidelity with.
        ids: token ids of texts, to measure fidelity with.
        documents: file name -> contents (model card, NOTICE); put into the folder beside the manifest.
    """
    picture_model = quantize(convert(vision), calibration)
    text_model = squeeze_weights(convert(text))
    entries: dict[str, Any] = {}
    with ArtifactWriter(destination, model=INFO, embedding_dim=384, overwrite=True) as writer:
        for modality, tower, model in (("vision", vision, picture_model), ("text", text, text_model)):
            save(model, writer.folder(modality) / "tower.xml", f16=True)
        tokenizer.save(str(writer.folder("text") / "tokenizer.json"), pretty=False)
        entries["vision"] = writer.add(
            "vision",
            engine="openvino",
            scheme="int8-static",
            weights=weights_digest(vision),
            parameters=sum(value.numel() for value in vision.state_dict().values()),
            config=vision.config,
            preprocess=IMAGE,
            fidelity=_vision_fidelity(vision, writer.folder("vision") / "tower.xml", pixels),
        )
        entries["text"] = writer.add(
            "text",
            engine="openvino",
            scheme="int8-weight",
            weights=weights_digest(text),
            parameters=sum(value.numel() for value in text.state_dict().values()),
            config=text.config,
            preprocess=TextSpec(kind="wordpiece", context=CONTEXT),
            fidelity=_text_fidelity(text, writer.folder("text") / "tower.xml", ids),
        )
        for name, contents in documents.items():
            (writer.folder("text").parent / name).write_text(contents, encoding="utf-8")
    return {
        modality: {"bytes": entry.bytes, "scheme": entry.scheme, "fidelity": entry.fidelity.model_dump()}
        for modality, entry in entries.items()
    }


def _run(path: Path) -> ov.CompiledModel:
    # As the run plane opens int8 towers, but for the layers that stay in floating point: there bf16 is measured too.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    return ov.Core().compile_model(str(path), "CPU", settings)


@torch.inference_mode()
def _vision_fidelity(tower: Tower, path: Path, pixels: np.ndarray) -> Fidelity:
    compiled = _run(path)
    parts = [pixels[start : start + 16] for start in range(0, len(pixels), 16)]
    reference = np.concatenate([tower(torch.from_numpy(part)).numpy() for part in parts])
    found = np.concatenate([compiled(part)[0].copy() for part in parts])
    return agreement(reference, found, f"{len(pixels)} drawings and photographs that were not calibrated on")


@torch.inference_mode()
def _text_fidelity(tower: Tower, path: Path, ids: list[list[int]]) -> Fidelity:
    compiled = _run(path)
    reference = np.concatenate([tower(torch.tensor([line], dtype=torch.int32)).numpy() for line in ids])
    found = np.concatenate([compiled(np.array([line], np.int32))[0].copy() for line in ids])
    return agreement(reference, found, f"{len(ids)} captions and definitions")
