"""Engines that are missing, and files that are not what they claim to be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import slimbind
from slimbind.errors import ArtifactError, EngineError, MissingExtraError
from slimbind.runtime.engine import Options, engine

SIGNAL = [np.zeros((6, 2000), np.float32)]


@pytest.mark.parametrize(
    ("name", "missing", "extra"), [("onnx", "onnxruntime", "onnx"), ("torch", "safetensors.torch", "build")]
)
def test_a_missing_engine_says_how_to_get_it(few_artifacts, monkeypatch, name, missing, extra):
    monkeypatch.setitem(sys.modules, missing, None)
    with slimbind.load(few_artifacts[name]) as model, pytest.raises(MissingExtraError, match=rf"slimbind\[{extra}\]"):
        model.embed(SIGNAL, "imu")


@pytest.mark.parametrize("name", ["openvino", "onnx", "torch"])
def test_damaged_files_are_an_engine_error(few_artifacts, tmp_path, name):
    copy = shutil.copytree(few_artifacts[name], tmp_path / "copy")
    for path in (copy / "imu").iterdir():
        path.write_bytes(b"not a model")
    with slimbind.load(copy, verify=False) as model, pytest.raises(EngineError, match="imu"):
        model.embed(SIGNAL, "imu")


@pytest.mark.parametrize("name", ["openvino", "onnx", "torch"])
def test_a_tower_of_another_engine_is_refused(few_artifacts, name):
    other = slimbind.Artifact.open(few_artifacts["torch" if name != "torch" else "onnx"])
    with pytest.raises(ArtifactError, match="needs one"):
        engine(name).open(other.folder, other.tower("imu"), Options(1), model=other.manifest.model, modality="imu")


GUARD = """
import sys
tried = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        tried.append((event, repr(arguments[1:])))
        raise OSError("no network here")
sys.addaudithook(watch)
"""


def run_in_a_new_home(code, home):
    """Run ``code`` in a process of its own that thinks it is a person's, and return what it left in the home folder.

    The guard sees Python's connections only. ONNX Runtime sends from native code, and gives itself away by the
    identifier and the queue of events that it keeps in the home folder.
    """
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    for place in ("CI", "TF_BUILD", "GITHUB_ACTIONS", "JENKINS_URL"):  # libraries are quiet there by themselves
        kept.pop(place, None)
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):  # what does send gets nowhere: nobody listens there
        kept[proxy] = kept[proxy.lower()] = "http://127.0.0.1:9"
    program = f"{GUARD}\n{code}\nimport time\ntime.sleep(0.5)\nassert not tried, tried"
    done = subprocess.run(
        [sys.executable, "-c", program], env=kept | {"HOME": str(home)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())


def test_the_onnx_artifact_opens_without_torch_and_without_a_trace(few_artifacts, tmp_path):
    code = f"""
sys.modules["torch"] = None
import numpy as np, slimbind
slimbind.load({str(few_artifacts["onnx"])!r}).embed([np.zeros((6, 2000), np.float32)], "imu")
assert "onnxruntime" in sys.modules
"""
    assert run_in_a_new_home(code, tmp_path / "home") == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="where the traces lie is known for Linux only")
def test_a_plain_import_of_onnx_runtime_would_leave_a_trace(tmp_path):
    """If this fails, ONNX Runtime has changed, and the tests around it prove nothing any more."""
    version = tuple(int(part) for part in metadata.version("onnxruntime").split(".")[:2])
    if version < (1, 29):
        pytest.skip("this ONNX Runtime has no telemetry on Linux")
    assert any("onnxruntime" in name for name in run_in_a_new_home("import onnxruntime", tmp_path / "home"))


@pytest.mark.parametrize("name", ["openvino", "onnx"])
def test_splitting_and_converting_send_nothing_and_leave_no_trace(tmp_path, name):
    golden = Path(__file__).parent.parent / "golden"
    code = f"""
from slimbind.cli.app import run
split = ["split", {str(golden / "imagebind_tiny.pth")!r}, "-o", {str(tmp_path / "split")!r}, "--modalities", "imu"]
assert run([*split, "--config", {str(golden / "imagebind_tiny_config.json")!r}]) == 0
assert run(["export", {str(tmp_path / "split")!r}, "-o", {str(tmp_path / "out")!r}, "--engine", {name!r}]) == 0
if {name!r} == "openvino":
    assert sys.modules["openvino_telemetry"] is None
"""
    assert run_in_a_new_home(code, tmp_path / "home") == []
