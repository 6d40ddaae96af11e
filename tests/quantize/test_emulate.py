"""The twin of a plan: exact integer arithmetic, what engines make of the same plan, sharing, and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimbind.artifact import Artifact
from slimbind.errors import UsageError
from slimbind.export import openvino
from slimbind.export.job import load_tower
from slimbind.quantize.activations import observe
from slimbind.quantize.emulate import dynamic, emulate, static
from slimbind.quantize.plan import LayerPlan, Plan, StaticRange
from slimbind.quantize.rounding import grouped, per_channel
from slimbind.quantize.sites import replace, sites
from slimbind.runtime import quiet
from slimbind.towers import registry
from slimbind.towers.layers import Tower
from slimbind.towers.simplify import simplify

seeds = st.integers(0, 2**31)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class One(Tower):
    """A single layer."""

    def __init__(self, layer):
        super().__init__("toy", "vision", {"dim": 4}, logit_scale=False)
        self.layer = layer

    def features(self, x):
        return self.layer(x)


@pytest.fixture(scope="module")
def towers(split_folder):
    artifact = Artifact.open(split_folder)
    return {name: simplify(load_tower(artifact, name)) for name in ("vision", "text", "imu")}


def whole_plan(tower, activation="float", *, group_size=None, rest="f32"):
    layers = {
        name: LayerPlan(grouped(site.weight, site.group_of, 8), activation if site.kind == "linear" else "float")
        for name, site in sites(tower).items()
    }
    return Plan(layers, rest=rest, group_size=group_size)


def test_a_dynamic_input_by_hand():
    x = torch.tensor([[1.27, -0.5, 0.004, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.allclose(dynamic(x), torch.tensor([[1.27, -0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    grouped_ = dynamic(torch.tensor([[127.0, 0.4, 1.27, 0.004]]), 2)
    assert torch.allclose(grouped_, torch.tensor([[127.0, 0.0, 1.27, 0.0]]))


def test_a_static_input_by_hand():
    range_ = StaticRange(-1.0, 1.55)  # steps of .01, zero at 100
    x = torch.tensor([-3.0, -1.0, -0.004, 0.006, 1.55, 9.0])
    assert torch.allclose(static(x, range_), torch.tensor([-1.0, -1.0, 0.0, 0.01, 1.55, 1.55]))


@given(seeds, st.sampled_from([None, 8, 4]))
def test_dynamic_rounding_is_bounded_keeps_zero_and_rows_apart(seed, group):
    x = drawn(seed, 5, 16) * 10 ** drawn(seed + 1, 5, 1)
    x[2] = 0
    rounded = dynamic(x, group)
    largest = x.reshape(5, -1, group or 16).abs().amax(-1, keepdim=True).expand(-1, -1, group or 16).reshape(5, 16)
    assert ((rounded - x).abs() <= largest / 127 * 0.501).all()
    assert (rounded[x == 0] == 0).all()
    assert torch.equal(dynamic(x[1:2], group), rounded[1:2])
    assert torch.equal(dynamic(-x, group), -rounded)


@given(seeds, st.floats(-5, 0), st.floats(0.1, 5))
def test_static_rounding_is_bounded_and_settles(seed, low, high):
    range_ = StaticRange(low, high)
    bottom, top = range_.nudged
    x = drawn(seed, 50) * 3
    rounded = static(x, range_)
    assert ((rounded - x.clamp(bottom, top)).abs() <= range_.scale * 0.501).all()
    assert torch.allclose(static(rounded, range_), rounded)
    assert ((rounded / range_.scale).round().unique() + range_.zero_point).ge(0).all()


@settings(max_examples=20)
@given(seeds, st.sampled_from(["dynamic", "grouped", "static"]))
def test_a_linear_layer_is_an_exact_product_of_integers(seed, how):
    """What the integer kernels compute, in 64-bit whole numbers, scaled at the end."""
    layer, x = nn.Linear(32, 6), drawn(seed, 7, 32)
    layer.weight.data, layer.bias.data = drawn(seed + 1, 6, 32), drawn(seed + 2, 6)
    codes = per_channel(layer.weight)
    activation = StaticRange(-2.0, 3.1) if how == "static" else "dynamic"
    group = 8 if how == "grouped" else None
    twin = emulate(One(layer), Plan({"layer": LayerPlan(codes, activation)}, group_size=group)).layer
    weight = codes.codes.numpy().astype(np.int64)
    rows = x.numpy()
    if how == "static":
        step = np.float32(activation.scale)
        level = np.clip(np.rint(rows / step) + activation.zero_point, 0, 255).astype(np.int64)
        product = (level @ weight.T - activation.zero_point * weight.sum(1)) * float(step)
    else:
        parts = rows.reshape(7, -1, group or 32)
        step = np.abs(parts).max(-1, keepdims=True) / np.float32(127)
        level = np.rint(parts / step).astype(np.int64)
        product = (np.einsum("ngk,ogk->nog", level, weight.reshape(6, -1, group or 32)) * step[:, None, :, 0]).sum(-1)
    expected = product * codes.scale[:, 0].numpy() + layer.bias.detach().numpy()
    assert np.abs(twin(x).detach().numpy() - expected).max() < 2e-5


def test_every_kind_of_layer_computes_with_its_rounded_weight():
    torch.manual_seed(0)
    cases = [
        (nn.Linear(8, 4), torch.randn(3, 8)),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), torch.randn(2, 4, 6, 6)),
        (nn.Conv3d(3, 4, (2, 2, 2), bias=False), torch.randn(2, 3, 2, 4, 4)),
        (nn.Embedding(9, 4), torch.randint(0, 9, (2, 5), dtype=torch.int32)),
    ]
    for layer, x in cases:
        codes = per_channel(layer.weight)
        twin = emulate(One(layer), Plan({"layer": LayerPlan(codes)})).layer
        before = layer.weight.data.clone()
        found = twin(x)
        layer.weight.data = codes.dequantize()
        assert torch.allclose(found, layer(x), atol=1e-6), layer
        assert not torch.equal(before, layer.weight.data)


def test_the_frame_stem_takes_stills_and_video(towers):
    tower = towers["vision"]
    x = tower.example(2)
    film = torch.cat([x, x + 0.3 * torch.randn_like(x)], dim=2)
    site = sites(tower)["stem"]
    codes = grouped(site.weight, site.group_of, 8)
    assert codes.scale.shape == (site.weight.shape[0], 3)
    twin = emulate(tower, Plan({"stem": LayerPlan(codes)})).stem
    for given_ in (x, film):
        off = (twin(given_) - tower.stem(given_)).abs().max() / tower.stem(given_).abs().max()
        assert 0 < off < 0.02


def test_what_is_not_planned_is_shared_and_nothing_is_changed(towers):
    tower = towers["imu"]
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    plan = Plan({"blocks.0.mlp.fc1": LayerPlan(per_channel(tower.blocks[0].mlp.fc1.weight), "dynamic")})
    twin = emulate(tower, plan)
    assert twin.blocks[0].mlp.fc2 is tower.blocks[0].mlp.fc2 and twin.blocks[1] is tower.blocks[1]
    assert twin.blocks[0].mlp is not tower.blocks[0].mlp
    x = tower.example(2)
    assert not torch.equal(twin(x), tower(x))
    for name, value in tower.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(emulate(tower, Plan())(x), tower(x))


def test_a_twin_holds_codes_not_floats(towers):
    tower = towers["imu"]
    twin = emulate(tower, whole_plan(tower))
    held = {id(t): t.numel() * t.element_size() for t in [*twin.parameters(), *twin.buffers()]}
    matrices = sum(site.weight.numel() for site in sites(tower).values())
    others = sum(p.numel() for p in tower.parameters()) - matrices
    assert sum(held.values()) < 1.3 * matrices + 4 * others


@pytest.mark.parametrize("stored", ["bf16", "f16"])
def test_matrices_are_stored_in_16_bits_and_vectors_are_not(towers, stored):
    tower = towers["vision"]
    twin = emulate(tower, Plan(rest=stored))
    kind = {"bf16": torch.bfloat16, "f16": torch.float16}[stored]
    layer = twin.get_submodule("blocks.0.attn.qkv")
    assert torch.equal(layer.weight, tower.blocks[0].attn.qkv.weight.to(kind).float())
    assert torch.equal(twin.pos_embed, tower.pos_embed.to(kind).float())
    assert torch.equal(twin.blocks[0].norm_1.weight, tower.blocks[0].norm_1.weight)
    assert torch.equal(twin.stem.weight, tower.stem.kernels.t().to(kind).float())
    x = tower.example(2)
    assert 1 - (twin(x) * tower(x)).sum(1).min() < 1e-3


def test_replacing_nothing_known_is_an_error(towers):
    with pytest.raises(AttributeError):
        replace(towers["imu"], {"blocks.9.attn": nn.Identity()})


@pytest.mark.parametrize(
    "plan, said",
    [
        (lambda t: Plan({"blocks.7.fc": LayerPlan()}), "blocks.7.fc"),
        (lambda t: Plan({"head.proj": LayerPlan(per_channel(torch.ones(3, 3)))}), r"head.proj is \[3, 3\]"),
        (
            lambda t: Plan({"head.proj": LayerPlan(per_channel(t.head.proj.weight), "dynamic")}, group_size=7),
            "groups of 7",
        ),
    ],
)
def test_plans_that_do_not_fit_are_refused(towers, plan, said):
    with pytest.raises(UsageError, match=said):
        emulate(towers["imu"], plan(towers["imu"]))


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 2), nn.Embedding(5, 4)])
def test_only_linear_inputs_are_rounded_per_token(layer):
    with pytest.raises(UsageError, match="layer"):
        emulate(One(layer), Plan({"layer": LayerPlan(per_channel(layer.weight), "dynamic")}))


def test_an_input_is_not_rounded_without_its_weight():
    with pytest.raises(ValueError, match="together with its weight"):
        LayerPlan(activation="dynamic")


# --- against the engine -------------------------------------------------------------------------------------------


def openvino_vectors(tower, plan, folder, inputs):
    openvino.write(tower, folder, plan)
    ov = quiet.openvino()
    settings_ = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": plan.group_size or 0}
    settings_ |= {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = ov.Core().compile_model(folder / openvino.FILE, "CPU", settings_).create_infer_request()
    return [torch.from_numpy(np.array(request.infer([x.numpy()])[0])) for x in inputs]


def onnx_vectors(tower, plan, folder, inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    from slimbind.export import onnx

    onnx.write(tower, folder, plan)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Left to itself it joins DequantizeLinear and MatMul, and rounds the float inputs of those layers too.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(folder / onnx.FILE, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [torch.from_numpy(session.run(None, {name: x.numpy()})[0]) for x in inputs]


@pytest.fixture(scope="module")
def wide():
    """An IMU tower wide enough for the kernels that a real one gets, and what its layers are given."""
    torch.manual_seed(0)
    config = {"width": 64, "heads": 2, "depth": 2, "hidden": 256, "dim": 32, "tokens": 9, "length": 64, "kernel": 8}
    config |= {"activation": "gelu", "eps": 1e-6, "norm_pre": False, "bias_kv": True}
    tower = simplify(registry.build("imagebind", "imu", config, device="cpu").eval())
    x = tower.example(6)
    return tower, x, observe(tower, [x], observers=["minmax"])


def engine_plan(tower, stats, how, group_size):
    layers = {}
    for name, site in sites(tower).items():
        inputs = site.weight.shape[1]
        if how == "int4":
            layers[name] = LayerPlan(grouped(site.weight, 16, 4))
        elif how == "static":
            layers[name] = LayerPlan(per_channel(site.weight), stats[name].ranges["minmax"])
        else:
            layers[name] = LayerPlan(per_channel(site.weight), how if inputs % 16 == 0 else "float")
    return Plan(layers, group_size=group_size if how == "dynamic" else None)


@pytest.mark.parametrize("how", ["float", "int4", "dynamic", "static"])
@pytest.mark.parametrize("run, group", [(openvino_vectors, 16), (onnx_vectors, None)], ids=["openvino", "onnx"])
def test_engines_say_what_the_twin_says(wide, tmp_path, run, group, how):
    """They differ by less than a tenth of what the plan itself changes; ONNX rounds a token's values together."""
    tower, x, stats = wide
    plan = engine_plan(tower, stats, how, group)
    with torch.no_grad():
        real, twin = tower(x), emulate(tower, plan)(x)
    (found,) = run(tower, plan, tmp_path, [x])
    changed = 1 - (real * twin).sum(1)
    apart = 1 - (found * twin).sum(1)
    assert changed.max() > 1e-6
    assert apart.max() < 0.1 * changed.max() + 1e-6, (apart.max(), changed.max())


# --- gradients ----------------------------------------------------------------------------------------------------


def test_gradients_pass_rounding_and_stop_at_clipping():
    x = torch.tensor([1.003, 0.4, 9.0, 0.2, -1.0], requires_grad=True)
    static(x, StaticRange(0.0, 2.55)).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 0.0, 1.0, 0.0]
    x.grad = None
    (dynamic(x) * torch.arange(5.0)).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
