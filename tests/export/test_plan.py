"""Plans written for both engines: they compute what the twin does, whatever the batch, and refuse what they cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from slimbind.artifact import ArtifactWriter, ModelInfo
from slimbind.errors import EngineError
from slimbind.export import onnx, openvino
from slimbind.export.openvino_plan import pack
from slimbind.media.spec import ImageSpec
from slimbind.quantize import rounding
from slimbind.quantize.emulate import emulate
from slimbind.quantize.plan import LayerPlan, Plan, StaticRange
from slimbind.quantize.sites import sites
from slimbind.runtime import quiet
from slimbind.runtime.engine import INPUT, Options, engine
from slimbind.towers import registry
from slimbind.towers.simplify import simplify

ENGINES = ("openvino", "onnx")
WRITE = {"openvino": openvino.write, "onnx": onnx.write}
BLOCKS = {"width": 64, "heads": 4, "depth": 2, "hidden": 128, "dim": 32, "eps": 1e-5, "norm_pre": False}
IMAGEBIND = BLOCKS | {"activation": "gelu", "bias_kv": True}
TOWERS = {
    "vision": ("imagebind", "vision", IMAGEBIND | {"tokens": 10, "bias_kv": False, "kernel": 8, "size": 24}),
    "text": ("imagebind", "text", IMAGEBIND | {"tokens": 16, "bias_kv": False, "vocabulary": 99}),
    "depth": (
        "imagebind",
        "depth",
        IMAGEBIND | {"tokens": 17, "channels": 1, "kernel": 16, "stride": 16, "size": [64, 64]},
    ),
    "imu": ("imagebind", "imu", IMAGEBIND | {"tokens": 11, "kernel": 8, "length": 80}),
    "clip": (
        "clip",
        "vision",
        BLOCKS | {"bias_kv": False, "activation": "quick_gelu", "tokens": 10, "kernel": 8, "size": 24},
    ),
    "resnet": (
        "clip",
        "vision",
        {"architecture": "resnet", "width": 16, "layers": [1, 2, 1, 1], "heads": 4, "dim": 32, "size": 64},
    ),
    "mini text": (
        "mini",
        "text",
        {"width": 384, "heads": 12, "depth": 1, "hidden": 64, "dim": 384, "tokens": 16, "vocabulary": 50},
    ),
    "mini vision": ("mini", "vision", {"size": 64, "hidden": 32, "temperature": 1.5, "dim": 384}),
}
GROUP = 32


def make(name, **changes):
    """A tower whose layers keep the scale of what goes through them, and seven inputs."""
    family, modality, config = TOWERS[name]
    torch.manual_seed(0)
    tower = registry.build(family, modality, config | changes, device="cpu").eval().requires_grad_(False)
    for module in tower.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            module.weight.normal_(0, (1.5 / module.weight[0].numel()) ** 0.5)
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0, 1)
    return simplify(tower), tower.example(7)


def ranges(tower, x):
    """The range of the input of every layer that can be given one."""
    found: dict[str, StaticRange] = {}
    hooks = []
    for name, site in sites(tower).items():
        if site.kind in ("linear", "conv"):

            def watch(module, inputs, name=name):
                found[name] = StaticRange(min(0.0, float(inputs[0].min())), max(0.0, float(inputs[0].max())))

            hooks.append(site.module.register_forward_pre_hook(watch))
    tower(x)
    for hook in hooks:
        hook.remove()
    return found


def plan(kind, tower, x, **options):
    """Every layer that ``kind`` can take."""
    found = sites(tower)
    linear = {name: site for name, site in found.items() if site.kind == "linear"}
    tables = {name: LayerPlan(rounding.per_channel(site.weight)) for name, site in found.items() if name not in linear}
    for name, site in found.items():
        if site.kind == "frames":
            tables[name] = LayerPlan(rounding.grouped(site.weight, site.group_of, bits=8))
    if kind == "dynamic":
        fits = {name: site for name, site in linear.items() if site.weight.shape[1] % GROUP == 0}
        layers = {name: LayerPlan(rounding.per_channel(site.weight), "dynamic") for name, site in fits.items()}
        return Plan(tables | layers, rest="bf16", group_size=GROUP, **options)
    if kind == "static":
        calibrated = ranges(tower, x).items()
        return Plan({name: LayerPlan(rounding.per_channel(found[name].weight), low) for name, low in calibrated})
    if kind == "8 bits":
        return Plan(tables | {name: LayerPlan(rounding.per_channel(site.weight)) for name, site in linear.items()})
    assert kind == "4 bits"
    fits = {name: site for name, site in linear.items() if site.weight.shape[1] % GROUP == 0}
    return Plan(tables | {name: LayerPlan(rounding.grouped(site.weight, GROUP)) for name, site in fits.items()})


def run(tower, plan, folder, engine_name, batches):
    """Write a tower, open it as an artifact's is, and run every batch."""
    info = ModelInfo(id="random", family=tower.family, license="CC0-1.0")
    config = {"precision": plan.precision, "group_size": plan.group_size or 0}
    with ArtifactWriter(folder, model=info, embedding_dim=tower.dim) as writer:
        WRITE[engine_name](tower, writer.folder(tower.modality), plan)
        entry = writer.add(
            tower.modality, engine=engine_name, scheme="int8", parameters=0, config=config, preprocess=ImageSpec()
        )
    session = engine(engine_name).open(folder, entry, Options(1), model=info, modality=tower.modality)
    try:
        return [session.run({INPUT: batch.numpy()}) for batch in batches]
    finally:
        session.close()


def cosines(found, expected):
    return (found.astype(np.float64) * expected.numpy()).sum(axis=1)


@pytest.mark.parametrize("engine_name", ENGINES)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vision", "dynamic"),
        ("text", "8 bits"),
        ("depth", "4 bits"),
        ("clip", "static"),
        ("resnet", "static"),
        ("resnet", "8 bits"),
        ("mini text", "dynamic"),
    ],
)
def test_an_engine_computes_what_the_twin_computes(tmp_path, name, kind, engine_name):
    """Rounding carries the last bit of a float sum on from layer to layer, so that whole towers agree to a cosine."""
    tower, x = make(name)
    made = plan(kind, tower, x)
    [found] = run(tower, made, tmp_path / "out", engine_name, [x])
    # ONNX Runtime rounds the inputs of 8-bit weights as well, in small blocks.
    least = 0.9995 if kind == "8 bits" and engine_name == "onnx" else 0.9999 if "bits" in kind else 0.998
    assert cosines(found, emulate(tower, made)(x)).min() > least
    assert cosines(found, tower(x)).min() > (0.9 if kind == "4 bits" else 0.98 if name == "resnet" else 0.995)


@pytest.mark.parametrize("engine_name", ENGINES)
@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [("depth", "blocks.0.attn.qkv", kind) for kind in ("dynamic", "static", "8 bits", "4 bits")]
    + [("resnet", "stem.2", kind) for kind in ("static", "8 bits")]
    + [("mini vision", "backbone.blocks.0.depthwise.conv", "8 bits"), ("depth", "head.proj", "dynamic")],
)
def test_a_single_layer_is_exact(tmp_path, name, layer, kind, engine_name):
    tower, x = make(name)
    whole = plan(kind, tower, x)
    made = Plan({layer: whole.layers[layer]}, group_size=whole.group_size)
    [found] = run(tower, made, tmp_path / "out", engine_name, [x])
    expected = emulate(tower, made)(x)
    # ONNX Runtime rounds the inputs of 8-bit weights as well; a value between two levels may fall to either side.
    tolerance = {"static": 1e-3, "dynamic": 1e-3, "8 bits": 2e-5 if engine_name == "openvino" else 2e-2}.get(kind, 2e-5)
    if engine_name == "onnx" and kind == "dynamic":
        expected = emulate(tower, Plan(made.layers))(x)  # one step per token
    np.testing.assert_allclose(found, expected.numpy(), atol=tolerance)


@pytest.mark.parametrize(
    ("name", "engine_name"), [(name, "openvino") for name in TOWERS] + [(name, "onnx") for name in ("depth", "text")]
)
def test_a_dynamic_tower_gives_the_same_vector_in_every_batch(tmp_path, name, engine_name):
    tower, x = make(name)
    precision = "f32" if name in ("resnet", "mini vision") else "bf16"
    alone = [x[row : row + 1] for row in range(7)]
    made = plan("dynamic", tower, x, precision=precision)
    together, pair, rest, *single = run(tower, made, tmp_path / "out", engine_name, [x, x[[4, 1]], x[2:], *alone])
    singles = np.concatenate(single)
    np.testing.assert_allclose(together, singles, atol=1e-6)
    np.testing.assert_allclose(pair, singles[[4, 1]], atol=1e-6)
    np.testing.assert_allclose(rest, singles[2:], atol=1e-6)


def test_a_wide_patch_stem_keeps_the_vectors_apart_from_the_batch_in_bf16(tmp_path):
    """In bf16 OpenVINO takes another convolution for another batch at this very size."""
    tower, x = make("depth", width=384, heads=8, hidden=384, tokens=197, size=[224, 224])
    made = plan("dynamic", tower, x, precision="bf16")
    together, *single = run(tower, made, tmp_path / "out", "openvino", [x, *(x[row : row + 1] for row in range(7))])
    np.testing.assert_array_equal(together, np.concatenate(single))


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("static", "depth", {"FullyConnected": {"u8"}, "Convolution": {"u8"}}),
        ("static", "resnet", {"FullyConnected": {"u8"}, "Convolution": {"u8"}}),
        ("dynamic", "depth", {"FullyConnected": {"i8"}}),
        ("4 bits", "depth", {"FullyConnected": {"i4"}}),
    ],
)
def test_openvino_really_takes_whole_numbers(tmp_path, kind, name, expected):
    tower, x = make(name)
    made = plan(kind, tower, x)
    if kind == "4 bits":
        made = Plan({layer: one for layer, one in made.layers.items() if one.weight.bits == 4})
    openvino.write(tower, tmp_path, made)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": made.group_size or 0}
    compiled = quiet.openvino().Core().compile_model(tmp_path / "tower.xml", "CPU", settings)
    taken: dict[str, set[str]] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        told = node.get_rt_info()
        taken.setdefault(str(told["layerType"].astype(str)), set()).add(str(told["runtimePrecision"].astype(str)))
    for layer, precisions in expected.items():
        assert taken[layer] == precisions - {""} or (layer == "FullyConnected" and precisions <= taken[layer])


@pytest.mark.parametrize("engine_name", ENGINES)
def test_files_are_as_small_as_the_plan_says(tmp_path, engine_name):
    tower, x = make("text", width=256, hidden=1024)
    parameters = sum(site.weight.numel() for site in sites(tower).values())
    sizes = {}
    for kind in ("8 bits", "4 bits"):
        (tmp_path / kind).mkdir()
        WRITE[engine_name](tower, tmp_path / kind, plan(kind, tower, x))
        sizes[kind] = max(path.stat().st_size for path in (tmp_path / kind).iterdir())
    assert sizes["8 bits"] < 1.1 * parameters
    assert sizes["4 bits"] < 0.75 * parameters  # a scale of 4 bytes for 32 codes, tables of 8 bits


@pytest.mark.parametrize("engine_name", ENGINES)
def test_layers_that_stay_are_stored_as_they_are_told(tmp_path, engine_name):
    tower, x = make("imu")
    sizes = {}
    for dtype in ("f32", "bf16", "f16"):
        made = Plan(dict.fromkeys(plan("8 bits", tower, x).layers, LayerPlan(stored=dtype)))
        (tmp_path / dtype).mkdir()
        WRITE[engine_name](tower, tmp_path / dtype, made)
        sizes[dtype] = max(path.stat().st_size for path in (tmp_path / dtype).iterdir())
    weights = sum(site.weight.numel() for site in sites(tower).values())
    for dtype in ("bf16", "f16"):
        assert sizes["f32"] - sizes[dtype] == pytest.approx(2 * weights, rel=0.02)


def one(tower, name, activation, bits=8, group=None):
    weight = sites(tower)[name].weight
    codes = rounding.grouped(weight, group, bits=bits) if group else rounding.per_channel(weight, bits)
    return Plan({name: LayerPlan(codes, activation)}, group_size=48)


@pytest.mark.parametrize("engine_name", ENGINES)
@pytest.mark.parametrize(
    ("name", "layer", "settings", "message"),
    [
        ("text", "stem.embedding", {"activation": "dynamic"}, "the table stem.embedding can be stored in 8 bits"),
        ("resnet", "stem.2", {"activation": "dynamic"}, "convolution stem.2 .* not dynamic"),
        ("vision", "stem", {"activation": "float"}, "kernels of stem can be stored in 8 bits"),
        ("vision", "stem", {"activation": "dynamic"}, "kernels of stem can be stored in 8 bits"),
    ],
)
def test_what_no_engine_can_do_is_refused(tmp_path, name, layer, settings, message, engine_name):
    tower, _ = make(name)
    with pytest.raises(EngineError, match=message):
        WRITE[engine_name](tower, tmp_path, one(tower, layer, **settings))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("engine_name", "settings", "message"),
    [
        ("openvino", {"activation": "dynamic"}, r"input of head.proj has 64 values; .* not of 48"),
        ("openvino", {"activation": "float"}, "input of head.proj is to stay float"),
        ("onnx", {"activation": "float", "bits": 4, "group": 8}, "groups of 8 inputs; .* powers of two from 16"),
        ("onnx", {"activation": StaticRange(-1, 1), "bits": 4, "group": 16}, "one scale per output only"),
    ],
)
def test_what_an_engine_would_do_in_another_way_is_refused(tmp_path, engine_name, settings, message):
    tower, _ = make("depth")
    with pytest.raises(EngineError, match=message):
        WRITE[engine_name](tower, tmp_path, one(tower, "head.proj", **settings))


def test_groups_of_a_dynamic_input_divide_those_of_the_weight(tmp_path):
    tower, _ = make("depth")
    codes = rounding.grouped(sites(tower)["head.proj"].weight, 16)
    with pytest.raises(EngineError, match="groups of 16 inputs; the groups of 32"):
        openvino.write(tower, tmp_path, Plan({"head.proj": LayerPlan(codes, "dynamic")}, group_size=32))


@pytest.mark.parametrize("engine_name", ENGINES)
def test_a_layer_that_is_not_there_is_named(tmp_path, engine_name):
    tower, _ = make("depth")
    with pytest.raises(EngineError, match=r"layer blocks\.7\.attn\.qkv of the plan has no weight"):
        WRITE[engine_name](tower, tmp_path, Plan({"blocks.7.attn.qkv": LayerPlan(stored="bf16")}))


def test_four_bit_codes_lie_two_to_a_byte_the_first_one_low():
    np.testing.assert_array_equal(pack(np.array([1, -1, 7, -7], np.int8)), np.array([0xF1, 0x97], np.uint8))
