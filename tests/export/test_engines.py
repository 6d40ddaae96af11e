"""Engines that are missing, and files that are not what they claim to be."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest

import slimbind
from slimbind.errors import ArtifactError, EngineError, MissingExtraError
from slimbind.runtime.engine import Options, engine

SIGNAL = [np.zeros((6, 2000), np.float32)]


@pytest.mark.parametrize(
    ("name", "missing", "extra"), [("onnx", "onnxruntime", "onnx"), ("torch", "safetensors.torch", "build")]
)
def test_a_missing_engine_says_how_to_get_it(artifacts, monkeypatch, name, missing, extra):
    monkeypatch.setitem(sys.modules, missing, None)
    with slimbind.load(artifacts[name]) as model, pytest.raises(MissingExtraError, match=rf"slimbind\[{extra}\]"):
        model.embed(SIGNAL, "imu")


@pytest.mark.parametrize("name", ["openvino", "onnx", "torch"])
def test_damaged_files_are_an_engine_error(artifacts, tmp_path, name):
    copy = shutil.copytree(artifacts[name], tmp_path / "copy")
    for path in (copy / "imu").iterdir():
        path.write_bytes(b"not a model")
    with slimbind.load(copy, verify=False) as model, pytest.raises(EngineError, match="imu"):
        model.embed(SIGNAL, "imu")


@pytest.mark.parametrize("name", ["openvino", "onnx", "torch"])
def test_a_tower_of_another_engine_is_refused(artifacts, name):
    other = slimbind.Artifact.open(artifacts["torch" if name != "torch" else "onnx"])
    with pytest.raises(ArtifactError, match="needs one"):
        engine(name).open(other.folder, other.tower("imu"), Options(1), model=other.manifest.model, modality="imu")


def test_the_onnx_artifact_opens_without_torch_and_without_the_network(artifacts):
    import subprocess

    code = f"""
import sys
sys.modules["torch"] = None
tried = []
def watch(event, arguments):
    if event.startswith("socket."):
        tried.append(event)
sys.addaudithook(watch)
import numpy as np, slimbind
slimbind.load({str(artifacts["onnx"])!r}).embed([np.zeros((6, 2000), np.float32)], "imu")
assert not tried, tried
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_converting_sends_nothing(split_folder, tmp_path):
    import subprocess

    code = f"""
import sys
tried = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        tried.append((event, arguments[1:]))
        raise OSError("no network here")
sys.addaudithook(watch)
from slimbind.export import job
job.export({str(split_folder)!r}, {str(tmp_path / "out")!r}, modalities=["imu"])
import time
time.sleep(0.5)
assert not tried, tried
assert sys.modules["openvino_telemetry"] is None
"""
    import os

    env = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
    assert not (tmp_path / "home").exists() or not list((tmp_path / "home").rglob("*intel*"))
