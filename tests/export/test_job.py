"""The export: what is written says what the tower said, or nothing is written at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from slimbind.artifact import Artifact, Fidelity
from slimbind.errors import (
    ArtifactCorruptError,
    ArtifactError,
    DriftError,
    EngineError,
    MissingExtraError,
    UsageError,
)
from slimbind.export import compare, job, onnx, openvino, openvino_plan
from slimbind.export.saving import converting, saving
from slimbind.quantize.plan import Plan
from slimbind.towers.layers import Tower
from slimbind.towers.simplify import simplify


def test_the_manifest_tells_where_a_tower_comes_from_and_how_true_it_is(few_artifacts):
    source = Artifact.open(few_artifacts["torch"])
    for engine in ("openvino", "onnx"):
        artifact = Artifact.open(few_artifacts[engine])
        assert artifact.modalities == ("text", "imu")
        assert artifact.manifest.model == source.manifest.model
        assert artifact.manifest.embedding_dim == source.manifest.embedding_dim
        for modality, entry in artifact.manifest.towers.items():
            artifact.verify(modality)
            before = source.tower(modality)
            assert (entry.engine, entry.scheme) == (engine, "f32")
            assert (entry.weights, entry.preprocess, entry.logit_scale, entry.config, entry.parameters) == (
                before.weights,
                before.preprocess,
                before.logit_scale,
                before.config,
                before.parameters,
            )
            assert entry.encoder_id == before.encoder_id, "the same weights in the same precision: one index fits all"
            assert entry.fidelity is not None and entry.fidelity.samples >= 4
            assert 1 - entry.fidelity.cosine_min < 1e-6


def test_the_tokenizer_comes_along(few_artifacts):
    tokenizers = {(few_artifacts[engine] / "text" / "tokenizer.json").read_bytes() for engine in few_artifacts}
    assert len(tokenizers) == 1


@pytest.mark.parametrize(
    ("engine", "dtype", "drift"), [("openvino", "f16", 1e-3), ("openvino", "bf16", 1e-3), ("onnx", "f16", 1e-6)]
)
def test_half_precision_halves_the_weights(split_folder, tmp_path, engine, dtype, drift):
    artifact = job.export(split_folder, tmp_path / "out", engine=engine, dtype=dtype, modalities=["imu", "depth"])
    assert artifact.modalities == ("depth", "imu")
    full = Artifact.open(split_folder)
    for modality in artifact.modalities:
        entry = artifact.tower(modality)
        (weights,) = [file.bytes for file in entry.files if file.path.endswith((".bin", ".data"))]
        assert weights < 0.62 * full.tower(modality).bytes
        assert entry.scheme == dtype
        assert entry.encoder_id != full.tower(modality).encoder_id
        assert entry.fidelity is not None
        assert 1 - entry.fidelity.cosine_min < drift


def test_a_tower_that_drifts_is_refused_and_nothing_is_written(split_folder, tmp_path, monkeypatch):
    def wrong(tower, folder, plan):
        with torch.no_grad():
            tower = simplify(tower)
            tower.head.proj.weight.add_(0.01 * torch.randn_like(tower.head.proj.weight))
        openvino.write(tower, folder, plan)

    monkeypatch.setitem(job.WRITERS, "openvino", (wrong, ("f32",)))
    with pytest.raises(DriftError, match=r"imu tower is off by .*f32 may be off by 1e-05"):
        job.export(split_folder, tmp_path / "out", modalities=["imu"])
    assert list(tmp_path.iterdir()) == []


def test_not_a_number_is_drift(split_folder):
    fidelity = Fidelity(samples=3, cosine_mean=float("nan"), cosine_min=float("nan"), data="x")
    with pytest.raises(DriftError):
        compare.check(fidelity, "imu", "f32")


def test_the_worst_sample_decides():
    class Session:
        rank = 2

        def run(self, inputs):
            return np.array([[1, 0], [0.6, 0.8]], np.float32)

    fidelity = compare.compare([np.array([[1, 0], [1, 0]], np.float32)], [torch.zeros(2, 3)], Session())
    assert fidelity.cosine_min == pytest.approx(0.6)
    assert fidelity.cosine_mean == pytest.approx(0.8)
    assert fidelity.samples == 2


def test_samples_cover_what_may_change(split_folder):
    artifact = Artifact.open(split_folder)
    shapes = {m: {tuple(x.shape) for x in compare.samples(job.load_tower(artifact, m))} for m in ("vision", "text")}
    assert {(n, frames) for n, _, frames, *_ in shapes["vision"]} == {(1, 1), (1, 2), (3, 1), (3, 2)}
    assert {length for _, length in shapes["text"]} >= {3, 77}
    assert {n for n, _ in shapes["text"]} == {1, 3}
    texts = [x for x in compare.samples(job.load_tower(artifact, "text")) if len(x) == 3]
    assert all(len(set(ids.argmax(dim=1).tolist())) > 1 for ids in texts if ids.shape[1] > 3), "ends differ"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "abacus"}, "unknown engine to export to 'abacus'; allowed: onnx, openvino"),
        ({"dtype": "f8"}, "unknown dtype for openvino 'f8'; allowed: bf16, f16, f32"),
        ({"engine": "onnx", "dtype": "bf16"}, "unknown dtype for onnx 'bf16'; allowed: f16, f32"),
        ({"modalities": ["smell"]}, "unknown modality 'smell'"),
        ({"modalities": []}, "no modality was asked for"),
    ],
)
def test_senseless_wishes_are_told_before_anything_is_done(split_folder, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        job.export(split_folder, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_only_split_folders_can_be_exported(few_artifacts, tmp_path):
    with pytest.raises(ArtifactError, match="was already exported"):
        job.export(few_artifacts["openvino"], tmp_path / "out")
    with pytest.raises(ArtifactError, match="not a slimbind artifact"):
        job.export(tmp_path, tmp_path / "out")


def test_an_artifact_is_replaced_only_when_told_to(split_folder, tmp_path):
    job.export(split_folder, tmp_path / "out", modalities=["imu"])
    with pytest.raises(ArtifactError, match="not empty"):
        job.export(split_folder, tmp_path / "out", modalities=["depth"])
    assert Artifact.open(tmp_path / "out").modalities == ("imu",)
    job.export(split_folder, tmp_path / "out", modalities=["depth"], overwrite=True)
    assert Artifact.open(tmp_path / "out").modalities == ("depth",)


def test_damaged_weights_are_not_exported(split_folder, tmp_path):
    copy = shutil.copytree(split_folder, tmp_path / "copy")
    path = copy / "imu" / "tower.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactCorruptError, match="was changed"):
        job.export(copy, tmp_path / "out", modalities=["imu"])
    assert not (tmp_path / "out").exists()


def test_too_small_a_disk_is_noticed_before_anything_is_written(split_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("slimbind.artifact.shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    with pytest.raises(ArtifactError, match=r"needs [\d.]+ [KM]iB, but only 1000 bytes are free there"):
        job.export(split_folder, tmp_path / "deep" / "out", modalities=["imu"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize(("engine", "dtype"), [("openvino", "f32"), ("openvino", "bf16"), ("onnx", "f32")])
def test_a_disk_that_fills_up_is_said_and_leaves_nothing(split_folder, tmp_path, monkeypatch, capsys, engine, dtype):
    from slimbind.cli.app import run

    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        monkeypatch.setattr(job, "check_space", lambda destination, needed: None)
        out = str(disk / "out")
        options = ["--engine", engine, "--dtype", dtype, "--modalities", "imu", "--threads", "1"]
        assert run(["export", str(split_folder), "-o", out, *options]) == 1
        told = capsys.readouterr().err
        assert "tower." in told and "could not be written" in told and "are free there" in told
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("module", [openvino, onnx])
def test_what_cannot_be_converted_is_an_engine_error(module, tmp_path):
    class Odd(Tower):
        def example(self, batch=2):
            return torch.zeros(batch, 4)

        def features(self, x):
            return torch.linalg.eigvals(x @ x.T).real[None]

    tower = Odd("none", "imu", {"dim": 4}, logit_scale=False)
    with pytest.raises(EngineError, match=r"cannot convert the imu tower: No .*eig") as refused:
        module.write(tower, tmp_path, Plan())
    assert "\n" not in refused.value.message
    assert ("--engine onnx" if module is openvino else "--engine openvino") in refused.value.hint


@pytest.mark.parametrize("around", [saving(Path("x")), converting("it", "imu", instead="onnx")])
def test_ctrl_c_inside_of_a_library_is_ctrl_c_whatever_it_was_made_into(around):
    with pytest.raises(KeyboardInterrupt), around:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stopped:
            raise RuntimeError("the stage failed") from stopped


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("mini", "mini is the name of a model; what is wanted is a folder that `slimbind split`", "recipes/mini/split"),
        ("imagebind-huge", "is the name of a model", "slimbind split imagebind-huge -o imagebind-huge-split/"),
        ("nowhere", "nowhere is not there; what is wanted is a folder", "slimbind split CHECKPOINT -o nowhere-split/"),
        ("model.pth", "is not a slimbind artifact; what is", "slimbind split model.pth -o model-split/"),
    ],
)
def test_what_is_no_split_folder_is_told_how_to_become_one(tmp_path, monkeypatch, name, message, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pth").write_bytes(b"PK")
    with pytest.raises(ArtifactError, match=message) as refused:
        job.export(name, tmp_path / "out")
    assert hint in refused.value.hint


def test_without_the_onnx_exporter_the_mend_is_told(split_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"slimbind\[onnx\]"):
        job.export(split_folder, tmp_path / "out", engine="onnx", modalities=["imu"])


def test_bf16_is_rounded_to_nearest_even():
    values = torch.cat([torch.randn(1000), torch.tensor([1.0, 1.00390625, 1.01171875, -0.0, 65504.0, 1e-30])])
    expected = values.bfloat16().view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(openvino_plan.round_bf16(values.numpy()), expected)


def test_bf16_weights_are_not_unpacked_when_opened(split_folder, tmp_path):
    artifact = job.export(split_folder, tmp_path / "out", dtype="bf16", modalities=["imu"])
    text = (artifact.folder / "imu" / "tower.xml").read_text()
    assert text.count('name="decompression"') == text.count("/stored_in_16_bits") > 10


def test_the_command_reports_and_prints_where(split_folder, tmp_path, capsys):
    from slimbind.cli.app import run

    out = tmp_path / "out"
    assert run(["export", str(split_folder), "-o", str(out), "--modalities", "imu", "--threads", "1"]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(out)
    assert "imu: " in told.err and "f32, off by at most" in told.err
    assert run(["export", str(split_folder), "-o", str(out), "--modalities", "imu", "--overwrite", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["engine"] == "openvino" and data["towers"]["imu"]["fidelity"]["samples"] == 4


def test_the_command_exits_with_3_when_a_tower_drifts(split_folder, tmp_path, capsys, monkeypatch):
    from slimbind.cli.app import run

    monkeypatch.setitem(compare.MOST_DRIFT, "f32", -1.0)
    assert run(["export", str(split_folder), "-o", str(tmp_path / "out"), "--modalities", "imu"]) == 3
    assert "is off by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_is_not_overwritten(few_artifacts, tmp_path):
    source = tmp_path / "split"
    shutil.copytree(few_artifacts["torch"], source)
    link = tmp_path / "link"
    link.symlink_to(source)
    for place in (source, link):
        with pytest.raises(ArtifactError, match="is what .* is read from") as refused:
            job.export(source, place, modalities=["imu"], overwrite=True)
        assert refused.value.hint
    assert Artifact.open(source).modalities == Artifact.open(few_artifacts["torch"]).modalities


def test_ctrl_c_while_converting_is_ctrl_c(few_artifacts, monkeypatch):
    def stopped(*args, **options):
        raise RuntimeError("Check 'false' failed at frontend.cpp:53:\nKeyboardInterrupt: <EMPTY MESSAGE>\n\nAt:\n")

    monkeypatch.setattr(openvino.quiet, "convert_model", stopped)
    with pytest.raises(KeyboardInterrupt):
        openvino.trace(simplify(job.load_tower(Artifact.open(few_artifacts["torch"]), "imu")))
