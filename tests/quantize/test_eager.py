"""The paper's two recipes: what they quantize, what they leave, and that a saved tower comes back bit for bit."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from slimbind.artifact import ArtifactWriter, ModelInfo
from slimbind.errors import EngineError, UsageError
from slimbind.media.spec import AudioSpec
from slimbind.quantize import eager
from slimbind.runtime.engine import INPUT, Options, engine
from slimbind.towers import registry
from slimbind.towers.simplify import simplify

GOLDEN = Path(__file__).parents[1] / "golden"
MODALITIES = ("vision", "text", "audio", "depth", "thermal", "imu")
BLOCKS = {"width": 32, "heads": 4, "depth": 2, "hidden": 64, "dim": 24, "eps": 1e-5, "bias_kv": False}
CLIP = BLOCKS | {"tokens": 10, "activation": "quick_gelu", "norm_pre": True, "kernel": 8, "size": 24}


@pytest.fixture(scope="module")
def checkpoint():
    weights = torch.load(GOLDEN / "imagebind_tiny.pth", weights_only=True)
    config = json.loads((GOLDEN / "imagebind_tiny_config.json").read_text())
    return weights, registry.detect({key: tuple(value.shape) for key, value in weights.items()}, config)


@pytest.fixture(scope="module")
def towers(checkpoint):
    weights, found = checkpoint
    return {
        name: registry.load(
            registry.build("imagebind", name, found.configs[name]),
            dict(registry.convert(found, name, weights.__getitem__)),
        )
        for name in found.modalities
    }


def skeleton(tower):
    return registry.build(tower.family, tower.modality, tower.config)


def inputs(tower, count=4):
    with torch.random.fork_rng():
        torch.manual_seed(count)
        return tower.example(count)


def quantized(tower, scheme):
    return eager.dynamic(tower) if scheme == eager.DYNAMIC else eager.static(tower, inputs(tower, 24).split(8))


def run(tower, x):
    with torch.inference_mode():
        return tower(x)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize(("scheme", "least"), [(eager.DYNAMIC, 0.998), (eager.STATIC, 0.93)])
def test_a_tower_is_close_and_comes_back_bit_for_bit(towers, tmp_path, modality, scheme, least):
    tower = towers[modality]
    x = inputs(tower)
    before = run(tower, x)
    made = quantized(tower, scheme)
    found = run(made, x)
    assert F.cosine_similarity(found, before).min() > least
    assert not torch.equal(found, before)
    assert torch.equal(run(tower, x), before), "the tower it was made from was changed"
    eager.write(made, tmp_path, scheme)
    again = eager.load(tmp_path / eager.FILE, skeleton(tower))
    assert torch.equal(run(again, x), found)
    assert torch.equal(again.forward_raw(x[:1]), again(x[:1]) * tower.logit_scale)


def test_the_rebuilt_tower_says_the_same_before_it_is_quantized(towers):
    for tower in towers.values():
        x = inputs(tower)
        for scheme in (eager.DYNAMIC, eager.STATIC):
            assert torch.allclose(run(eager._form(tower, scheme), x), run(tower, x), atol=1e-6)


def test_dynamic_leaves_the_projections_of_attention_in_float(towers, tmp_path):
    eager.write(eager.dynamic(towers["text"]), tmp_path, eager.DYNAMIC)
    kinds = {key: value.dtype for key, value in load_file(tmp_path / eager.FILE).items()}
    for name in ("in_proj_weight", "out_proj.weight"):
        assert kinds[f"blocks.0.attn.mha.{name}"] == torch.float32
    for name in ("blocks.0.mlp.fc1", "blocks.2.mlp.fc2", "head.proj"):
        assert kinds[f"{name}.codes"] == torch.int8
    assert kinds["stem.embedding.codes"] == torch.uint8


def test_the_variant_of_linear_layers_alone_leaves_the_embedding_table(towers, tmp_path):
    eager.write(eager.dynamic(towers["text"], linear_only=True), tmp_path, eager.DYNAMIC)
    tensors = load_file(tmp_path / eager.FILE)
    assert torch.equal(tensors["stem.embedding.weight"], towers["text"].stem.embedding.weight)
    assert tensors["head.proj.codes"].dtype == torch.int8
    x = inputs(towers["text"])
    again = eager.load(tmp_path / eager.FILE, skeleton(towers["text"]))
    assert torch.equal(run(again, x), run(eager.dynamic(towers["text"], linear_only=True), x))


def test_static_quantizes_every_matrix_per_output_channel(towers, tmp_path):
    tower = towers["audio"]
    eager.write(quantized(tower, eager.STATIC), tmp_path, eager.STATIC)
    tensors = load_file(tmp_path / eager.FILE)
    large = {key for key, value in tensors.items() if value.dtype == torch.float32 and value.ndim > 1}
    assert large == {"cls_token", "pos_embed"}
    codes, scale = tensors["blocks.1.mlp.fc2.codes"], tensors["blocks.1.mlp.fc2.scale"]
    weight = tower.blocks[1].mlp.fc2.weight
    assert len(scale) == len(weight)
    assert ((codes * scale[:, None] - weight).abs() <= scale[:, None] * 0.51).all()
    assert (tmp_path / eager.FILE).stat().st_size < 0.6 * sum(4 * value.numel() for value in tower.parameters())


def test_the_added_key_and_value_of_attention_are_what_upstream_makes_of_them(towers, monkeypatch):
    tower = towers["thermal"]
    x = inputs(tower)
    ours = run(quantized(tower, eager.STATIC), x)
    monkeypatch.setattr(eager, "_join_ranges", lambda tower: None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All inputs of this cat operator", category=UserWarning)
        assert torch.equal(ours, run(quantized(tower, eager.STATIC), x))


def test_clip_with_its_own_activation(tmp_path):
    tower = registry.build("clip", "vision", CLIP, device="cpu")
    x = inputs(tower)
    for scheme, least in ((eager.DYNAMIC, 0.999), (eager.STATIC, 0.9)):
        made = quantized(tower, scheme)
        eager.write(made, tmp_path, scheme)
        assert F.cosine_similarity(run(made, x), run(tower, x)).min() > least
        assert torch.equal(run(eager.load(tmp_path / eager.FILE, skeleton(tower)), x), run(made, x))


def test_calibration_is_told_and_must_not_be_empty(towers):
    told = []
    eager.static(towers["imu"], inputs(towers["imu"], 5).split(2), report=told.append)
    assert told == [2, 4, 5]
    with pytest.raises(UsageError, match="nothing to calibrate"):
        eager.static(towers["imu"], [])


def test_towers_it_cannot_take_are_refused(towers):
    with pytest.raises(UsageError, match="simplified"):
        eager.dynamic(simplify(towers["vision"]))
    config = {"architecture": "resnet", "width": 8, "layers": [1, 1, 1, 1], "size": 32, "heads": 4, "dim": 24}
    tower = registry.build("clip", "vision", config, device="cpu")
    with pytest.raises(UsageError, match="transformer towers"):
        eager.static(tower, [tower.example(2)])
    assert run(eager.dynamic(tower), tower.example(2)).shape == (2, 24)


def _change(path, *, layers=None, drop=None, tensors=None, metadata=None):
    with safe_open(path, framework="pt") as file:
        told = file.metadata()
    found = load_file(path) | (tensors or {})
    if drop:
        del found[drop]
    if layers:
        record = json.loads(told["layers"])
        record.update(layers)
        told["layers"] = json.dumps(record)
    save_file(found, path, metadata=told | (metadata or {}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"format": "another"}}, "format is 'another'"),
        ({"metadata": {"scheme": "int3"}}, "int3"),
        ({"metadata": {"layers": "[]"}}, "not a quantized audio tower"),
        ({"metadata": {"layers": "{"}}, "not a quantized audio tower"),
        ({"layers": {"blocks.0.mlp.fc1": {"kind": "os.system"}}}, "os.system"),
        ({"layers": {"blocks.9": {"kind": "linear", "scale": 1, "zero": 0}}}, "not a quantized audio tower"),
        ({"drop": "blocks.0.mlp.fc1.codes"}, "codes"),
        ({"drop": "pos_embed"}, "lacks 'pos_embed'"),
        ({"tensors": {"pos_embed": torch.zeros(1, 2, 3)}}, "shape"),
        ({"tensors": {"blocks.0.mlp.fc1.codes": torch.zeros(2, 2, dtype=torch.int8)}}, "shape"),
        ({"tensors": {"surplus": torch.zeros(2)}}, "surplus"),
    ],
)
def test_a_file_that_was_changed_is_refused(towers, tmp_path, change, message):
    eager.write(quantized(towers["audio"], eager.STATIC), tmp_path, eager.STATIC)
    _change(tmp_path / eager.FILE, **change)
    with pytest.raises(EngineError, match=message):
        eager.load(tmp_path / eager.FILE, skeleton(towers["audio"]))


def test_a_file_that_is_cut_or_missing_is_refused(towers, tmp_path):
    eager.write(eager.dynamic(towers["imu"]), tmp_path, eager.DYNAMIC)
    path = tmp_path / eager.FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EngineError, match="safetensors"):
        eager.load(path, skeleton(towers["imu"]))
    path.unlink()
    with pytest.raises(EngineError):
        eager.load(path, skeleton(towers["imu"]))


@pytest.mark.parametrize("scheme", [eager.DYNAMIC, eager.STATIC])
def test_the_torch_engine_opens_it(towers, tmp_path, scheme):
    tower = towers["audio"]
    made = quantized(tower, scheme)
    info = ModelInfo(id="tiny", family="imagebind", license="CC0-1.0")
    with ArtifactWriter(tmp_path / "made", model=info, embedding_dim=tower.dim) as writer:
        eager.write(made, writer.folder("audio"), scheme)
        entry = writer.add(
            "audio", engine="torch", scheme=scheme, weights="0" * 64, parameters=1, config=tower.config,
            preprocess=AudioSpec(),
        )  # fmt: skip
    session = engine("torch").open(tmp_path / "made", entry, Options(1), model=info, modality="audio")
    x = inputs(tower, 3)
    assert torch.equal(torch.from_numpy(session.run({INPUT: x.numpy()})), run(made, x))
    session.close()
