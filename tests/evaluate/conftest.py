"""A model of two linear towers (vision, depth) and a text tower; candidates differ from it by a known error."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from slimbind.artifact import Artifact, ArtifactWriter, ModelInfo
from slimbind.media.spec import DepthSpec, ImageSpec, TextSpec
from slimbind.runtime import quiet

DIM, GRID = 16, 8
WORDS = ["[PAD]", "[UNK]", "a", "red", "dog", "in", "the", "sun"]


def _tower(channels, matrix, offset):
    ov = quiet.openvino()
    from openvino import opset13 as op

    x = op.parameter([-1, channels, 224, 224], np.float32)
    pooled = op.avg_pool(x, [224 // GRID] * 2, [0, 0], [0, 0], [224 // GRID] * 2, False)
    flat = op.reshape(pooled, op.constant(np.array([0, -1], np.int64)), special_zero=True)
    return _finish(ov, op, x, op.matmul(flat, op.constant(matrix), False, False), offset)


def _text(matrix, offset):
    ov = quiet.openvino()
    from openvino import opset13 as op

    ids = op.parameter([-1, -1], np.int32)
    rows = op.gather(op.constant(matrix), ids, op.constant(np.array(0, np.int64)))
    return _finish(ov, op, ids, op.reduce_sum(rows, op.constant(np.array([1], np.int64)), keep_dims=False), offset)


def _finish(ov, op, parameter, raw, offset):
    moved = op.add(raw, op.constant(np.full((1, DIM), offset, np.float32)))
    unit = op.normalize_l2(moved, op.constant(np.array([1], np.int64)), 1e-12, "max")
    parameter.set_friendly_name("input")
    parameter.output(0).set_names({"input"})
    unit.output(0).set_names({"vectors"})
    return ov.Model([unit], [parameter], "linear")


def write(
    folder,
    *,
    noise=0.0,
    offset=0.3,
    modalities=("vision", "text", "depth"),
    name="linear",
    dim=DIM,
    scheme="f32",
    weights="0" * 64,
    words=WORDS,
    size=224,
):
    """``noise`` is the relative error of the matrices, ``offset`` what is added to every embedding before its length
    is made 1."""
    ov = quiet.openvino()
    info = ModelInfo(id=name, family="imagebind", license="CC0-1.0")
    with ArtifactWriter(folder, model=info, embedding_dim=dim) as writer:
        for modality in modalities:
            place = writer.folder(modality)
            channels = {"vision": 3, "depth": 1}.get(modality)
            rows = len(words) if channels is None else channels * GRID * GRID
            draw = np.random.default_rng(channels or 7)
            matrix = draw.normal(size=(rows, DIM)) / (1 if channels is None else np.sqrt(rows))
            matrix = (matrix * (1 + noise * draw.normal(size=matrix.shape))).astype(np.float32)
            spec = {"vision": ImageSpec(resize=size), "depth": DepthSpec()}.get(modality) or TextSpec(
                kind="wordpiece", context=12
            )
            model = _text(matrix, offset) if channels is None else _tower(channels, matrix, offset)
            if channels is None:
                tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
                tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
                tokenizer.save(str(place / "tokenizer.json"))
            ov.save_model(model, place / "tower.xml", compress_to_fp16=False)
            writer.add(
                modality, engine="openvino", scheme=scheme, parameters=rows * DIM, preprocess=spec, weights=weights
            )
    return Artifact.open(folder)


@pytest.fixture(scope="session")
def write_model():
    """``write_model(folder, noise=..., ...)``; see ``write``."""
    return write


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    return write(tmp_path_factory.mktemp("reference") / "reference")


@pytest.fixture(scope="session")
def candidate(tmp_path_factory):
    return write(tmp_path_factory.mktemp("candidate") / "candidate", noise=0.02, scheme="int8-dynamic")
