"""Fine-tuning: it helps, it never harms, it goes on where it stopped, and what it learns is what engines compute."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from slimbind.artifact import Artifact
from slimbind.errors import ArtifactError, UsageError
from slimbind.quantize import activations, qat, rounding, sites
from slimbind.quantize.calibration import Calibration
from slimbind.quantize.emulate import emulate
from slimbind.quantize.job import quantize
from slimbind.quantize.plan import LEVELS, LayerPlan, Plan, StaticRange
from slimbind.quantize.qat import QatConfig, anchors, finish, refine
from slimbind.quantize.qat_layers import LearnedLayer, _Levels, straight
from slimbind.quantize.report import Report
from slimbind.quantize.schemes import Int8Static
from slimbind.towers import registry
from slimbind.towers.simplify import simplify

CLIP = {"dim": 16, "depth": 2, "hidden": 64, "bias_kv": False, "activation": "gelu", "width": 32, "heads": 2,
        "tokens": 10, "kernel": 16, "size": 48, "norm_pre": True, "eps": 1e-5, "logit_scale": False}  # fmt: skip
RESNET = {"architecture": "resnet", "width": 16, "layers": [1, 1, 1, 1], "heads": 8, "dim": 16, "size": 64}
TEXT = {"dim": 384, "vocabulary": 90, "tokens": 12, "depth": 1, "heads": 4, "width": 384, "hidden": 64}


def tower_of(family, modality, config):
    torch.manual_seed(0)
    return simplify(registry.build(family, modality, config, device="cpu"))


def inputs(tower, count, seed):
    torch.manual_seed(seed)
    x = tower.example(count)
    return x if x.dtype == torch.int32 else x + torch.randn_like(x[:, :, :1, :1])


def static_plan(tower, x, bits=4):
    """Coarse weights and ranges that clip a little: something to mend."""
    seen = activations.observe(tower, [x], observers=("minmax",))
    layers = {}
    for name, site in sites.sites(tower).items():
        if site.kind in ("linear", "conv"):
            found = seen[name].ranges["minmax"]
            layers[name] = LayerPlan(
                rounding.per_channel(site.weight, bits), StaticRange(found.low * 0.8, found.high * 0.8)
            )
    return Plan(layers)


@pytest.fixture(scope="module")
def clip():
    tower = tower_of("clip", "vision", CLIP)
    return tower, static_plan(tower, inputs(tower, 16, 1))


def batches(tower, count=4):
    return lambda epoch: [inputs(tower, 8, 100 * epoch + number) for number in range(count)]


def cosines(tower, other, x):
    with torch.inference_mode():
        return F.cosine_similarity(tower(x), other(x))


@pytest.mark.parametrize("made", [("clip", "vision", CLIP), ("clip", "vision", RESNET)], ids=["vit", "resnet"])
def test_it_recovers_what_was_lost_also_on_inputs_it_never_saw(made):
    tower = tower_of(*made)
    plan = static_plan(tower, inputs(tower, 16, 1))
    held = inputs(tower, 16, 2)
    done = refine(tower, plan, batches(tower), [held], QatConfig(steps=24, every=8, rate=0.01, range_rate=0.01))
    fresh = inputs(tower, 32, 3)
    before = 1 - cosines(tower, emulate(tower, plan), fresh).mean()
    after = 1 - cosines(tower, emulate(done.tower, done.plan), fresh).mean()
    assert after < 0.6 * before
    assert done.after.cosine_mean > done.before.cosine_mean


def test_the_refined_plan_computes_what_was_measured(clip):
    tower, plan = clip
    held = inputs(tower, 16, 2)
    done = refine(tower, plan, batches(tower), [held], QatConfig(steps=10, every=5))
    found = cosines(tower, emulate(done.tower, done.plan), held)
    assert float(found.mean()) == pytest.approx(done.after.cosine_mean, abs=1e-5)
    assert float(found.min()) == pytest.approx(done.after.cosine_min, abs=1e-5)
    # The tower's own weights are what the codes stand for, so that any writer finds them in agreement.
    name = "blocks.0.mlp.fc1"
    assert torch.equal(done.tower.get_submodule(name).weight, done.plan.layers[name].weight.dequantize())
    assert not torch.equal(tower.get_submodule(name).weight, done.tower.get_submodule(name).weight)


def test_a_rate_that_ruins_the_tower_leaves_it_as_it_was(clip):
    tower, plan = clip
    done = refine(tower, plan, batches(tower), [inputs(tower, 8, 2)], QatConfig(steps=20, every=2, rate=50, patience=2))
    assert done.after == done.before
    assert done.steps == 4  # two looks in vain
    for name, layer in plan.layers.items():
        assert torch.equal(done.plan.layers[name].weight.codes, layer.weight.codes), name
        assert done.plan.layers[name].activation == layer.activation, name


def test_it_goes_on_where_it_was_interrupted(clip, tmp_path):
    tower, plan = clip
    held, config = [inputs(tower, 8, 2)], QatConfig(steps=12, every=3)
    whole = refine(tower, plan, batches(tower, 5), held, config)

    def interrupt(told):
        if told.step == 8:
            raise KeyboardInterrupt

    path, seen = tmp_path / "qat.safetensors", []
    with pytest.raises(KeyboardInterrupt):
        refine(tower, plan, batches(tower, 5), held, config, checkpoint=path, progress=interrupt)
    done = refine(tower, plan, batches(tower, 5), held, config, checkpoint=path, progress=seen.append)
    assert [told.step for told in seen] == list(range(7, 13))
    assert done.scores == whole.scores
    for name, layer in whole.plan.layers.items():
        assert torch.equal(done.plan.layers[name].weight.codes, layer.weight.codes), name
        assert done.plan.layers[name].activation == layer.activation
    again = refine(tower, plan, batches(tower, 5), held, config, checkpoint=path)
    assert again.scores == whole.scores and again.steps == 12
    assert [found.name for found in tmp_path.iterdir()] == ["qat.safetensors"]


def test_a_checkpoint_of_something_else_is_refused(clip, tmp_path):
    tower, plan = clip
    path = tmp_path / "qat.safetensors"
    held = [inputs(tower, 4, 2)]
    refine(tower, plan, batches(tower), held, QatConfig(steps=1), checkpoint=path)
    with pytest.raises(UsageError, match="another tower, plan or setting"):
        refine(tower, plan, batches(tower), held, QatConfig(steps=2), checkpoint=path)
    layer = sites.shallow(tower.get_submodule("blocks.0.mlp.fc1"))
    layer.bias = torch.nn.Parameter(layer.bias + 1, requires_grad=False)
    other_bias = sites.replace(tower, {"blocks.0.mlp.fc1": layer})
    for other, changed in ((other_bias, plan), (tower, replace(plan, rest="f16"))):
        with pytest.raises(UsageError, match="another tower, plan or setting"):
            refine(other, changed, batches(tower), held, QatConfig(steps=1), checkpoint=path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UsageError, match="no checkpoint"):
        refine(tower, plan, batches(tower), held, QatConfig(steps=1), checkpoint=path)
    save_file({"a": torch.zeros(1)}, path, metadata={"qat": json.dumps({"digest": "?"})})
    with pytest.raises(UsageError, match="another tower"):
        refine(tower, plan, batches(tower), held, QatConfig(steps=1), checkpoint=path)


def test_layers_that_cannot_learn_stay_as_planned():
    tower = tower_of("mini", "text", TEXT)
    layers = {
        name: LayerPlan(rounding.per_channel(site.weight, 8 if site.kind == "embedding" else 4))
        for name, site in sites.sites(tower).items()
    }
    del layers["adapt"]
    plan = Plan(layers, rest="bf16")
    done = refine(
        tower, plan, batches(tower), [inputs(tower, 8, 2)], QatConfig(steps=24, every=8, rate=0.01, range_rate=0.01)
    )
    assert done.after.cosine_mean > done.before.cosine_mean
    assert done.plan.layers["tokens"] is plan.layers["tokens"]
    assert done.tower.tokens is tower.tokens and done.tower.adapt is tower.adapt
    assert done.plan.rest == "bf16" and done.plan.layers.keys() == plan.layers.keys()


def test_what_cannot_be_done_is_said_before_work(clip):
    tower, plan = clip
    held = [inputs(tower, 4, 2)]
    with pytest.raises(UsageError, match="no quantized linear"):
        refine(tower, Plan(), batches(tower), held)
    with pytest.raises(UsageError, match="no held-out"):
        refine(tower, plan, batches(tower), [])
    with pytest.raises(UsageError, match="no inputs to fine-tune on"):
        refine(tower, plan, lambda epoch: [], held)
    for wrong in ({"steps": 0}, {"rate": 0.0}, {"range_rate": -1.0}, {"warmup": 1.0}, {"every": 0}, {"patience": 0}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            QatConfig(**wrong)


@given(
    st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=20),
    st.floats(0.001, 0.1),
    st.integers(0, 255),
)
def test_the_slopes_are_those_of_the_arithmetic_written_out(values, width, zero):
    x = torch.tensor(values, requires_grad=True)
    step, level = torch.tensor(width, requires_grad=True), torch.tensor(float(zero), requires_grad=True)
    weights = torch.linspace(-1, 1, len(values))
    ours = torch.autograd.grad((_Levels.apply(x, step, level) * weights).sum(), (x, step, level))
    # The range's edge itself may be counted to either side: keep away from it.
    scaled = x.detach() / step.detach()
    inside = (scaled + level >= -0.5) & (scaled + level <= LEVELS - 0.5)
    rounded = torch.where(inside, straight(x / step), torch.where(scaled < 0, -level, LEVELS - 1 - level))
    theirs = torch.autograd.grad((rounded * step * weights).sum(), (x, step, level), allow_unused=True)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, torch.zeros_like(left) if right is None else right, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("activation", ["float", "dynamic", StaticRange(-1.5, 2.5)], ids=["float", "dynamic", "static"])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_layer_begins_as_the_plan_has_it(activation, bits):
    torch.manual_seed(0)
    tower = tower_of("clip", "vision", CLIP)
    name = "blocks.0.mlp.fc1"
    site = sites.sites(tower)[name]
    plan = LayerPlan(rounding.grouped(site.weight, 16, bits), activation)
    learned = LearnedLayer(site.module, plan, 16)
    x = torch.randn(3, 5, 32)
    twin = emulate(tower, Plan({name: plan}, group_size=16)).get_submodule(name)
    torch.testing.assert_close(learned(x), twin(x), atol=1e-6, rtol=1e-5)
    module, finished = learned.finish()
    assert torch.equal(finished.weight.codes, plan.weight.codes)
    assert torch.equal(module.bias, site.module.bias)


def test_codes_moved_by_error_compensation_are_where_it_begins():
    torch.manual_seed(0)
    layer = nn.Linear(8, 4)
    codes = rounding.per_channel(layer.weight)
    codes.codes[0, 0] += 3
    learned = LearnedLayer(layer, LayerPlan(codes), None)
    assert torch.equal(learned.finish()[1].weight.codes, codes.codes)


def test_a_layer_that_stays_float_has_nothing_to_learn():
    with pytest.raises(ValueError, match="stays float"):
        LearnedLayer(nn.Linear(2, 2), LayerPlan(), None)


def test_an_end_at_zero_stays_there(clip):
    tower, plan = clip
    name = "blocks.0.mlp.fc2"
    ranges = {**plan.layers, name: LayerPlan(plan.layers[name].weight, StaticRange(0.0, 1.0))}
    done = refine(tower, Plan(ranges), batches(tower), [inputs(tower, 8, 2)], QatConfig(steps=6, every=3))
    assert done.plan.layers[name].activation.low == 0.0
    assert done.plan.layers[name].activation.high != 1.0


def test_blocks_are_those_of_the_outermost_lists():
    assert anchors(tower_of("clip", "vision", CLIP)) == ("blocks.0", "blocks.1")
    assert anchors(tower_of("mini", "text", TEXT)) == ("layers.0",)
    assert anchors(tower_of("clip", "vision", RESNET)) == ("stages.0", "stages.1", "stages.2", "stages.3")


def test_what_blocks_give_comes_nearer_where_it_is_learned(clip):
    tower, plan = clip
    x, found = inputs(tower, 16, 3), {}
    for blocks in (True, False):
        config = QatConfig(steps=16, every=16, rate=0.01, range_rate=0.01, blocks=blocks)
        done = refine(tower, plan, batches(tower), [inputs(tower, 8, 2)], config)
        outputs = []
        for one in (tower, emulate(done.tower, done.plan)):
            handle = one.get_submodule("blocks.0").register_forward_hook(lambda *args, o=outputs: o.append(args[-1]))
            with torch.inference_mode():
                one(x)
            handle.remove()
        found[blocks] = F.mse_loss(outputs[1], outputs[0])
    assert found[True] < found[False]


def test_a_scheme_is_finished_on_its_calibration_data(clip):
    tower, plan = clip
    calibration = Calibration(items=[inputs(tower, 1, seed).numpy() for seed in range(40)], held=[], source="made up")
    told = []
    made = finish(
        (tower, plan, Report(layers=len(plan.layers), settings={"a": 1})),
        tower,
        calibration,
        30,
        lambda stage, total: told.append((stage, total)) or told.append,
    )
    assert told[0] == ("fine-tuning", 30) and told[-1] == made[2].settings["qat"]["steps"]
    assert made[2].settings["a"] == 1
    assert made[2].settings["qat"]["after"]["cosine_mean"] > made[2].settings["qat"]["before"]["cosine_mean"]
    assert made[1].layers.keys() == plan.layers.keys()


def test_a_job_fine_tunes_and_goes_on_where_it_was_stopped(split_folder, tmp_path, monkeypatch):
    """The whole job, on the tower whose inputs are cheapest to make."""
    rng = np.random.default_rng(0)
    config = Artifact.open(split_folder).tower("imu").config
    shape = tuple(registry.build("imagebind", "imu", config).example(1).shape)
    np.savez(tmp_path / "imu.npz", imu=rng.standard_normal((24, *shape[1:]), np.float32))
    settings = {"modalities": ["imu"], "calibrate": [tmp_path / "imu.npz"], "samples": 20, "force": True, "threads": 1}
    scheme = Int8Static(plain=True, qat_steps=30)
    original, stopped = qat._Run._learn, []

    def learn(self, batch):
        if not stopped and self.state.step == 26:
            stopped.append(True)
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(qat._Run, "_learn", learn)
    notes, steps = [], []
    with pytest.raises(KeyboardInterrupt):
        quantize(split_folder, tmp_path / "out", scheme=scheme, note=notes.append, **settings)
    assert "goes on from there" in notes[-1] and not (tmp_path / "out").exists()

    def progress(stage, total):
        return (lambda done: steps.append(done)) if "fine-tuning" in stage else (lambda done: None)

    made = quantize(split_folder, tmp_path / "out", scheme=scheme, progress=progress, **settings)
    assert steps[0] == 26 and steps[-1] == 30
    record = made.tower("imu").quantization
    assert record["qat_steps"] == 30 and record["report"]["settings"]["qat"]["steps"] == 30
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(UsageError, match="qat_steps"):
        Int8Static(qat_steps=-1)


def test_a_checkpoint_that_was_judged_by_other_items_is_refused(clip, tmp_path):
    (tower, plan), path = clip, tmp_path / "state.safetensors"
    held = [inputs(tower, 4, 2), inputs(tower, 4, 3)]
    refine(tower, plan, batches(tower), held, QatConfig(steps=1), checkpoint=path)
    with pytest.raises(UsageError, match="belongs to the fine-tuning of another"):
        refine(tower, plan, batches(tower), held[:1], QatConfig(steps=1), checkpoint=path)


def test_a_checkpoint_that_cannot_be_written_is_said(clip, tmp_path, monkeypatch):
    tower, plan = clip
    held = [inputs(tower, 4, 2)]

    def full(*args, **options):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("slimbind.quantize.qat_checkpoint.save_file", full)
    with pytest.raises(ArtifactError, match="No space left"):
        refine(tower, plan, batches(tower), held, QatConfig(steps=1), checkpoint=tmp_path / "state.safetensors")
