"""PyTorch as an engine: other numbers, 8-bit weights, and a graphics card where there is one.

What a card does can only be tested on one; that everything goes there, and that nothing is made elsewhere on the way,
is tested on PyTorch's device ``meta``, which has shapes and no numbers.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import slimbind
from slimbind.artifact import Artifact, ModelInfo
from slimbind.errors import EngineError, MissingExtraError, UsageError
from slimbind.runtime import torch as engine
from slimbind.runtime.device import Device
from slimbind.runtime.engine import INPUT, Options
from slimbind.towers import registry, split
from slimbind.towers.checkpoint import open_weights
from slimbind.towers.simplify import simplify

from ..small_towers import CONFIGS

GOLDEN = Path(__file__).parents[1] / "golden"
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
MODALITIES = ("vision", "text", "audio", "depth", "thermal", "imu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny ImageBind, split."""
    folder = tmp_path_factory.mktemp("tiny") / "split"
    config = json.loads((GOLDEN / "imagebind_tiny_config.json").read_text())
    with open_weights([GOLDEN / "imagebind_tiny.pth"]) as weights:
        info = ModelInfo(id="tiny", family="imagebind", license="CC0-1.0")
        split.run(split.plan(weights, config=config), folder, model=info)
    return Artifact.open(folder)


def tower_of(tiny, modality):
    from safetensors.torch import load_file

    entry = tiny.tower(modality)
    weights = load_file(tiny.folder / modality / "tower.safetensors")
    return simplify(registry.load(registry.build("imagebind", modality, entry.config), weights))


def session_on(tiny, modality, device, threads=1):
    options = Options(threads, device=device)
    entry, info = tiny.tower(modality), tiny.manifest.model
    return engine.ENGINE.open(tiny.folder, entry, options, model=info, modality=modality)


def example(tiny, modality, batch=3):
    torch.manual_seed(5)
    return tower_of(tiny, modality).example(batch).numpy()


def cosines(tiny, modality, device):
    x = example(tiny, modality)
    plain, other = session_on(tiny, modality, Device()), session_on(tiny, modality, device)
    left, right = plain.run({INPUT: x}), other.run({INPUT: x})
    plain.close()
    other.close()
    assert right.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(right, axis=1), 1, atol=1e-6)
    return (left * right).sum(1)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize(("dtype", "least"), [("bf16", 0.999), ("f16", 0.99999)])
def test_16_bits_say_nearly_the_same(tiny, modality, dtype, least):
    found = cosines(tiny, modality, Device("cpu", dtype))
    assert least < found.min() and found.min() < 1 - 1e-9, "and it is not the same, so it really is in 16 bits"


@pytest.mark.parametrize("weights", ["int8-weight", "int8-dynamic"])
@pytest.mark.parametrize("modality", ["vision", "text"])
def test_8_bit_weights_say_nearly_the_same(tiny, modality, weights):
    pytest.importorskip("torchao", reason="torchao is not installed")
    found = cosines(tiny, modality, Device("cpu", "f32", weights))
    assert 0.99 < found.min() < 1 - 1e-7


def test_8_bit_weights_are_kept_by_the_layers_of_the_blocks(tiny):
    pytest.importorskip("torchao", reason="torchao is not installed")
    tower = tower_of(tiny, "vision")
    kept = {name for name, module in tower.named_modules() if engine.squeezable(name, module)}
    assert {"blocks.0.attn.qkv", "blocks.1.mlp.fc2", "blocks.2.attn.kv"} <= kept
    assert all(name.startswith("blocks.") for name in kept)
    before = {name: module.weight for name, module in tower.named_modules() if hasattr(module, "weight")}
    engine.prepare(tower, Device("cpu", "bf16", "int8-weight"))
    for name, module in tower.named_modules():
        if name in before:
            assert (type(module.weight) is torch.nn.Parameter) == (name not in kept), name


def test_layers_of_odd_widths_keep_their_type():
    odd, even = torch.nn.Linear(24, 32), torch.nn.Linear(32, 48)
    assert engine.squeezable("blocks.0.mlp.fc1", even) and engine.squeezable("layers.3.up", even)
    assert not engine.squeezable("blocks.0.mlp.fc1", odd)
    assert not engine.squeezable("head.proj", even) and not engine.squeezable("blocks.0.norm_1", torch.nn.LayerNorm(32))


def test_a_model_on_another_device_is_another_encoder(tiny):
    signal = [np.random.default_rng(0).normal(size=(2000, 6)).astype(np.float32)]
    with slimbind.load(tiny.folder, threads=1) as plain, slimbind.load(tiny.folder, device="cpu,bf16") as other:
        assert other.device == Device("cpu", "bf16")
        assert plain.encoder("imu").id != other.encoder("imu").id
        left, right = plain.embed(signal, "imu"), other.embed(signal, "imu")
        assert 0.999 < float((left * right).sum()) < 1 - 1e-9


@pytest.mark.parametrize("name", [*MODALITIES, *CONFIGS])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_every_tower_runs_whole_on_another_device(tiny, name, dtype):
    """A tensor that a forward pass made on the CPU would not go together with those of ``meta``, as of ``cuda``."""
    if name in CONFIGS:
        tower = simplify(registry.build(*CONFIGS[name], device="cpu"))
    else:
        tower = tower_of(tiny, name)
    kind = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    x = tower.example(2)
    x = x.to("meta", kind if x.is_floating_point() else None)
    with torch.inference_mode():
        found = tower.to("meta", kind)(x)
    assert found.device.type == "meta" and found.shape == (2, tower.dim)
    assert found.dtype == kind, "nothing falls back to another type on the way"


@pytest.fixture
def pretend(monkeypatch):
    """``pretend(capability)``: PyTorch says it has two graphics cards, and what is sent there stays on the CPU."""

    def start(capability=(9, 0), *, available=True):
        freed = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=0: capability)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(1))
        monkeypatch.setattr(engine, "_place", lambda device: torch.device("cpu"))
        return freed

    return start


@pytest.mark.parametrize(
    ("text", "capability", "expected"),
    [
        ("cuda", (8, 0), "cuda,bf16"),
        ("cuda", (9, 0), "cuda,bf16"),
        ("cuda:1,compile", (7, 5), "cuda:1,f16,compile"),
        ("cuda,f32", (7, 0), "cuda,f32"),
        ("cuda,int8-weight", (7, 5), "cuda,f16,int8-weight"),
        ("cuda,fp8-dynamic", (8, 9), "cuda,bf16,fp8-dynamic"),
    ],
)
def test_what_was_left_open_follows_from_the_card(pretend, text, capability, expected):
    if "8-" in text:
        pytest.importorskip("torchao", reason="torchao is not installed")
    pretend(capability)
    assert str(engine.resolve(Device.parse(text))) == expected


@pytest.mark.parametrize(
    ("text", "capability", "message"),
    [
        ("cuda,bf16", (7, 5), r"compute capability 7\.5, and bf16 needs 8\.0 \(use f16\)"),
        ("cuda,fp8-weight", (8, 6), r"compute capability 8\.6, and fp8 needs 8\.9 \(use int8-weight\)"),
        ("cuda:2", (9, 0), "there are 2, counted from 0"),
    ],
)
def test_what_a_card_cannot_do_is_refused(pretend, tiny, text, capability, message):
    pretend(capability)
    with pytest.raises(UsageError, match=message):
        slimbind.load(tiny.folder, device=text)


def test_a_machine_without_a_card_says_why(pretend, tiny, monkeypatch):
    pretend(available=False)
    for version, why in ((None, "was built without CUDA"), ("12.8", "finds no graphics card")):
        monkeypatch.setattr(torch.version, "cuda", version)
        with pytest.raises(UsageError, match=f"device 'cuda': PyTorch .* {why}"):
            slimbind.load(tiny.folder, device="cuda")


def test_fp8_is_for_cards():
    pytest.importorskip("torchao", reason="torchao is not installed")
    with pytest.raises(UsageError, match="fp8 needs a graphics card"):
        engine.resolve(Device("cpu", None, "fp8-weight"))
    assert engine.resolve(Device("cpu", None, "int8-weight")).dtype == "f32"


def test_without_torchao_it_says_how_to_get_it(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(MissingExtraError, match=r"slimbind\[gpu\]"):
        slimbind.load(tiny.folder, device="cpu,int8-weight")


def test_the_way_to_the_card_and_back(pretend, tiny):
    """All of the path but the card: 16 bits by default, the process's threads left alone, memory given back."""
    freed = pretend()
    before = torch.get_num_threads()
    device = engine.resolve(Device("cuda"))
    session = session_on(tiny, "imu", device, threads=before + 1)
    seen = []
    real = session._tower
    session._tower = lambda x: seen.append((x.dtype, torch.get_num_threads())) or real(x)
    assert session.run({INPUT: example(tiny, "imu")}).shape == (3, 48)
    assert seen == [(torch.bfloat16, before)]
    session.settle()
    assert not freed
    session.close()
    assert len(freed) == 1
    with pytest.raises(EngineError, match="the tower was closed"):
        session.run({INPUT: example(tiny, "imu")})


def test_a_full_card_is_an_engine_error_that_says_what_helps(pretend, tiny):
    freed = pretend()
    session = session_on(tiny, "imu", Device("cuda", "bf16"))

    def fail(x):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    session._tower = fail
    with pytest.raises(
        EngineError, match=r"does not suffice for an input of shape \[3, 6, 2000\] \(use a smaller batch"
    ):
        session.run({INPUT: example(tiny, "imu")})
    assert freed, "what the failed attempt holds is given back before the next one"

    class Large(torch.nn.Module):
        modality = "imu"

        def to(self, *_):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(EngineError, match="the imu tower does not fit into the memory of cuda"):
        engine.prepare(Large(), Device("cuda", "bf16"))


def test_it_is_compiled_when_that_is_asked_for(tiny, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda tower: compiled.append(tower) or tower)
    tower = tower_of(tiny, "imu")
    engine.prepare(copy.deepcopy(tower), Device("cpu", "bf16"))
    assert not compiled
    engine.prepare(copy.deepcopy(tower), Device("cpu", "bf16", compile=True))
    assert [next(one.parameters()).dtype for one in compiled] == [torch.bfloat16], "in the numbers it will run in"


@CUDA
@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize(("text", "least"), [("cuda", 0.999), ("cuda,f16", 0.9999), ("cuda,f32", 0.99999)])
def test_on_the_card_the_same_is_said(tiny, modality, text, least):
    assert cosines(tiny, modality, engine.resolve(Device.parse(text))).min() > least


@CUDA
@pytest.mark.parametrize("text", ["cuda,int8-weight", "cuda,int8-dynamic", "cuda,fp8-weight", "cuda,fp8-dynamic"])
@pytest.mark.parametrize("modality", ["vision", "text"])
def test_8_bits_on_the_card(tiny, modality, text):
    pytest.importorskip("torchao", reason="torchao is not installed")
    try:
        device = engine.resolve(Device.parse(text))
    except UsageError as error:
        pytest.skip(error.message)
    assert cosines(tiny, modality, device).min() > 0.98


@CUDA
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_on_the_card(tiny):
    assert cosines(tiny, "imu", engine.resolve(Device.parse("cuda,compile"))).min() > 0.999


@CUDA
def test_a_closed_tower_leaves_the_card(tiny):
    session = session_on(tiny, "vision", engine.resolve(Device("cuda")))
    session.run({INPUT: example(tiny, "vision")})
    held = torch.cuda.memory_allocated()
    session.close()
    assert torch.cuda.memory_allocated() < held
