"""Towers to the finished artifact: OpenVINO models with int8 weights, tokenizer, manifest, measured fidelity."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from vocabulary import CONTEXT

from slimbind.artifact import ArtifactWriter, Fidelity, ModelInfo
from slimbind.export import openvino
from slimbind.media.spec import TextSpec
from slimbind.runtime import quiet
from slimbind.runtime.engine import INPUT, Options, engine
from slimbind.towers.layers import Tower
from towers import IMAGE


def squeeze_weights(model: Any, *, spare: tuple[str, ...] = ()) -> Any:  # noqa: ANN401  (openvino has no types)
    """Matrix and kernel weights to int8, one scale per output channel; activations stay in floating point.

    Layers whose name holds one of ``spare`` are left as they are.
    """
    quiet.mute()  # nncf would report that it is used
    import nncf

    kept = [
        op.get_friendly_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() in ("Convolution", "GroupConvolution", "MatMul")
        and any(part in op.get_friendly_name() for part in spare)
    ]
    ignored = nncf.IgnoredScope(names=kept) if kept else None
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=ignored)


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
# Small layers that lose most by 8 bits keep 16: together they are a tenth of the weights.
SPARED = ("stem", "blocks.0.", "blocks.1.", "blocks.2.", "blocks.3.", "depthwise") + tuple(
    f"blocks.{index}.project" for index in range(4, 12)
)
SETTINGS: dict[str, dict[str, Any]] = {
    # Convolutions in bf16 are twice as fast, where the CPU has it, at a cosine of .998.
    "vision": {"preprocess": IMAGE, "extra": {"precision": "bf16"}, "spare": SPARED},
    # Activations that are quantized on the fly halve the time, but round differently alone and in a batch (by 2e-3).
    "text": {"preprocess": TextSpec(kind="wordpiece", context=CONTEXT), "extra": {"group_size": 0}, "spare": ()},
}


def write(
    destination: Path,
    *,
    towers: dict[str, Tower],
    tokenizer: Tokenizer,
    inputs: dict[str, list[np.ndarray]],
    data: dict[str, str],
    documents: dict[str, str],
) -> dict[str, Any]:
    """Write the artifact and return each tower's size, scheme and fidelity.

    Args:
        destination: the folder; an artifact that is there is replaced.
        towers: ``vision`` and ``text``.
        tokenizer: the pruned one.
        inputs: per modality single inputs ``[1, ...]`` to compare the finished tower with its fp32 original on.
        data: per modality what those inputs are, in words.
        documents: file name -> contents (model card, NOTICE), put beside the manifest.
    """
    report: dict[str, Any] = {}
    with ArtifactWriter(destination, model=INFO, embedding_dim=384, overwrite=True) as writer:
        tokenizer.save(str(writer.folder("text") / "tokenizer.json"), pretty=False)
        for modality, tower in towers.items():
            settings, folder = SETTINGS[modality], writer.folder(modality)
            model = squeeze_weights(openvino.trace(tower), spare=settings["spare"])
            quiet.openvino().save_model(model, folder / openvino.FILE, compress_to_fp16=True)
            fields = {
                "engine": "openvino",
                "scheme": "int8-weight",
                "weights": weights_digest(tower),
                "parameters": sum(value.numel() for value in tower.state_dict().values()),
                "config": tower.config | settings["extra"],
                "preprocess": settings["preprocess"],
            }
            entry = writer.add(modality, **fields)
            session = engine("openvino").open(folder.parent, entry, Options(threads=2), model=INFO, modality=modality)
            with torch.inference_mode():
                reference = np.concatenate([tower(torch.from_numpy(x)).numpy() for x in inputs[modality]])
            found = np.concatenate([session.run({INPUT: x}) for x in inputs[modality]])
            session.close()
            entry = writer.add(modality, **fields, fidelity=agreement(reference, found, data[modality]))
            assert entry.fidelity is not None
            report[modality] = {"bytes": entry.bytes, "parameters": entry.parameters, "scheme": entry.scheme}
            report[modality]["fidelity"] = entry.fidelity.model_dump()
        for name, contents in documents.items():
            (writer.folder("text").parent / name).write_text(contents, encoding="utf-8")
    return report
